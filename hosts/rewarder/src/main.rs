//! Payouts computed, verified and proved offline: `svc-rewarder --help`.

mod commands;
mod files;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use commands::Invocation;

fn main() -> ExitCode {
    // Wrong usage ends here, with exit code 2.
    let invocation = Invocation::parse();
    match commands::run(invocation.command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "svc-rewarder: {failure}");
            ExitCode::FAILURE
        }
    }
}
