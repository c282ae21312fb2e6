//! The operator's client of the control plane: the program `ronctl`, and `HOST ctl ..` with the same code.
//!
//! It finds a service's socket, asks one thing, and shows the answer to a person or passes it on as JSON. Exit codes:
//! 0 done, 1 failed, 2 usage, 3 unreachable, 4 refused.

mod args;
mod cap;
mod client;
mod commands;
mod discovery;
mod failure;
mod live;
mod manual;
mod moment;
mod offline;
mod screen;
mod session;
mod wire;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::FromArgMatches as _;

use failure::{Failure, Fault};
use session::{Session, Stopped};

/// Does what `args`, without the program's name, say. `host` is the service of a host that was called as
/// `HOST ctl`: it is asked unless another one is named.
pub fn main(args: impl IntoIterator<Item = OsString>, host: Option<&'static str>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let json = args.iter().any(|arg| arg == "--json");
    ExitCode::from(match run(args, host) {
        Ok(code) => code,
        Err(Stopped::Closed) => 0,
        Err(Stopped::Failed(failure)) => {
            let text = match json {
                true => failure.json(),
                false => format!("{}: {failure}", manual::name(host)),
            };
            let _ = writeln!(std::io::stderr(), "{text}");
            failure.fault().exit_code()
        }
    })
}

fn run(args: Vec<OsString>, host: Option<&'static str>) -> Result<u8, Stopped> {
    let json = args.iter().any(|arg| arg == "--json");
    let mut command = manual::command(host);
    let parsed = command
        .try_get_matches_from_mut(args)
        .and_then(|matches| args::Invocation::from_arg_matches(&matches));
    let invocation = match parsed {
        Ok(invocation) => invocation,
        Err(error) if !error.use_stderr() => {
            session::print(&error.to_string())?;
            return Ok(0);
        }
        Err(error) if json => {
            return Err(Failure::new(Fault::Usage, error.to_string().trim()).into());
        }
        Err(error) => {
            let _ = write!(std::io::stderr(), "{error}");
            return Ok(Fault::Usage.exit_code());
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Fault::Failed, error.to_string()))?;
    let session = Session::new(invocation.whom, host);
    runtime.block_on(commands::run(session, invocation.command))
}
