//! A service that does nothing but answer `v1.health`: it stands in for svc-index, svc-overlay and svc-storage.
//!
//! It shares no code with the kernel that asks it. Its messages are structs that rmp-serde reads and writes, as those of the
//! services are; `Probe::v1_health` documents the shapes.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{signal, SignalKind};
use tokio::task::JoinSet;
use tokio::time::{timeout, Instant};

const HELP: &str = "\
Answers v1.health calls on a Unix socket, in place of a service.

usage: v1_health [--service NAME] [--socket PATH] [--not-ready-for SECONDS]
                 [--unhealthy-after SECONDS] [--silent]

  --service NAME             what to be (default: the name it is run by, if that
                             is one of those below)
  --socket PATH              where to listen; its directory is made if missing
  --not-ready-for SECONDS    answer that it is not ready for so long
  --unhealthy-after SECONDS  answer that it is not well from then on
  --silent                   take calls and never answer
  --help                     print this and exit

Without --socket a service listens where the supervisor says, else at its default:

  svc-index    RON_INDEX_SOCK    /tmp/ron/svc-index.sock
  svc-overlay  RON_OVERLAY_SOCK  /tmp/ron/svc-overlay.sock
  svc-storage  RON_STORAGE_SOCK  /tmp/ron/svc-storage.sock

SIGTERM and SIGINT end it. Exit codes: 0 ended as asked, 2 usage,
98 another process listens there, 1 otherwise.
";

/// Name, variable, default.
const SERVICES: [(&str, &str, &str); 3] = [
    ("svc-index", "RON_INDEX_SOCK", "/tmp/ron/svc-index.sock"),
    (
        "svc-overlay",
        "RON_OVERLAY_SOCK",
        "/tmp/ron/svc-overlay.sock",
    ),
    (
        "svc-storage",
        "RON_STORAGE_SOCK",
        "/tmp/ron/svc-storage.sock",
    ),
];

/// Bytes of a request; a health call takes about seventy.
const FRAME_MAX: u32 = 64 * 1024;
/// Connections at once; a supervisor has one.
const CLIENTS_MAX: usize = 64;
/// How long a client may take for a call.
const PATIENCE: Duration = Duration::from_secs(30);
/// Eleven days: longer than anybody waits for an example.
const SECONDS_MAX: f64 = 1e6;

#[derive(Debug, Serialize, Deserialize)]
struct Envelope {
    service: String,
    method: String,
    corr_id: u64,
    token: Vec<u8>,
    payload: Vec<u8>,
}

#[derive(Debug, Serialize)]
enum Answer {
    HealthOk,
    Err { err: String },
}

#[derive(Debug)]
struct Behaviour {
    service: String,
    ready_at: Instant,
    unwell_at: Option<Instant>,
    silent: bool,
}

impl Behaviour {
    fn answer(&self, method: &str, now: Instant) -> Answer {
        let err = match method {
            "v1.health" if now < self.ready_at => {
                let left = self.ready_at - now;
                format!("not ready, {} s to go", left.as_secs_f64().ceil())
            }
            "v1.health" if self.unwell_at.is_some_and(|at| at <= now) => {
                "unwell, as --unhealthy-after asked".to_owned()
            }
            "v1.health" => return Answer::HealthOk,
            _ => format!("unknown method {method}; only v1.health is answered"),
        };
        Answer::Err { err }
    }
}

/// Answers the calls of one client, one after another, until it leaves, takes too long or talks nonsense.
async fn serve(mut client: UnixStream, behaviour: Arc<Behaviour>) {
    while let Ok(Ok(true)) = timeout(PATIENCE, call(&mut client, &behaviour)).await {}
}

/// One call; false when there is none any more.
async fn call(client: &mut UnixStream, behaviour: &Behaviour) -> io::Result<bool> {
    let len = match client.read_u32().await {
        Ok(len) if len <= FRAME_MAX => len,
        Ok(_) => return Ok(false),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(false),
        Err(error) => return Err(error),
    };
    let mut request = vec![0; len as usize];
    client.read_exact(&mut request).await?;
    if behaviour.silent {
        return Ok(true);
    }
    let call: Envelope = rmp_serde::from_slice(&request).map_err(io::Error::other)?;
    let answer = behaviour.answer(&call.method, Instant::now());
    let reply = Envelope {
        service: behaviour.service.clone(),
        method: match answer {
            Answer::HealthOk => "v1.ok".to_owned(),
            Answer::Err { .. } => "v1.err".to_owned(),
        },
        corr_id: call.corr_id,
        token: Vec::new(),
        payload: rmp_serde::to_vec(&answer).map_err(io::Error::other)?,
    };
    let reply = rmp_serde::to_vec(&reply).map_err(io::Error::other)?;
    client.write_u32(reply.len() as u32).await?;
    client.write_all(&reply).await?;
    Ok(true)
}

/// What the command line asks for.
#[derive(Debug, Default)]
struct Arguments {
    service: Option<String>,
    socket: Option<PathBuf>,
    not_ready_for: Option<Duration>,
    unhealthy_after: Option<Duration>,
    silent: bool,
    help: bool,
}

fn parse(mut args: impl Iterator<Item = OsString>) -> Result<Arguments, String> {
    let mut parsed = Arguments::default();
    while let Some(arg) = args.next() {
        let arg = arg.to_string_lossy().into_owned();
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        let repeated = match arg.as_str() {
            "--service" => {
                let name = value()?.into_string();
                let name = name.map_err(|_| "--service: not UTF-8 text".to_owned())?;
                parsed.service.replace(name).is_some()
            }
            "--socket" => parsed.socket.replace(value()?.into()).is_some(),
            "--not-ready-for" => parsed
                .not_ready_for
                .replace(seconds(&arg, &value()?)?)
                .is_some(),
            "--unhealthy-after" => parsed
                .unhealthy_after
                .replace(seconds(&arg, &value()?)?)
                .is_some(),
            "--silent" => std::mem::replace(&mut parsed.silent, true),
            "--help" | "-h" => std::mem::replace(&mut parsed.help, true),
            _ => return Err(format!("unknown argument {arg}; see --help")),
        };
        if repeated {
            return Err(format!("{arg} is given twice"));
        }
    }
    Ok(parsed)
}

fn seconds(flag: &str, text: &OsStr) -> Result<Duration, String> {
    let number = text.to_str().and_then(|text| text.parse::<f64>().ok());
    let number = number.filter(|number| (0.0..=SECONDS_MAX).contains(number));
    number.map(Duration::from_secs_f64).ok_or(format!(
        "{flag} {}: expected seconds from 0 to {SECONDS_MAX}",
        text.to_string_lossy()
    ))
}

/// What to be and where to listen. `run_as` is the name of the program.
fn place(
    arguments: &Arguments,
    run_as: &str,
    env: impl Fn(&str) -> Option<OsString>,
) -> Result<(String, PathBuf), String> {
    let known = |name: &str| SERVICES.iter().find(|(known, ..)| *known == name);
    let name = match (&arguments.service, &arguments.socket) {
        (Some(name), _) => name.as_str(),
        (None, None) if known(run_as).is_none() => return Err(
            "which service? give --service or --socket, or run it under the name of one by a link"
                .to_owned(),
        ),
        (None, _) => run_as,
    };
    let socket = match (&arguments.socket, known(name)) {
        (Some(socket), _) => socket.clone(),
        (None, Some((_, variable, default))) => env(variable)
            .filter(|path| !path.is_empty())
            .map_or_else(|| PathBuf::from(default), PathBuf::from),
        (None, None) => {
            return Err(format!(
                "{name} has no socket that is known: give --socket PATH"
            ));
        }
    };
    Ok((name.to_owned(), socket))
}

/// Listens at `path`; a socket that nobody answers at is replaced, anything else is left alone.
fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(
                ErrorKind::AlreadyExists,
                "it is there and no socket",
            ));
        }
        Ok(_) => match BlockingStream::connect(path) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path)?,
            Err(error) => return Err(error),
            Ok(_) => {
                return Err(io::Error::new(
                    ErrorKind::AddrInUse,
                    "another process listens there",
                ));
            }
        },
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    UnixListener::bind(path)
}

/// The reader may be gone, a supervisor that was killed for example: no reason to panic.
fn say(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// Serves until a signal or an error; the socket is gone then.
async fn run(socket: &Path, behaviour: Arc<Behaviour>) -> io::Result<()> {
    // Before there is a socket that could be left behind.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listener = listen(socket)
        .map_err(|error| io::Error::new(error.kind(), format!("bind error: {error}")))?;
    say(&format!(
        "{} listens at {}",
        behaviour.service,
        socket.display()
    ));
    let mut clients = JoinSet::new();
    let ended = loop {
        tokio::select! {
            accepted = listener.accept(), if clients.len() < CLIENTS_MAX => match accepted {
                Ok((client, _)) => drop(clients.spawn(serve(client, behaviour.clone()))),
                Err(error) => break Err(error),
            },
            Some(_) = clients.join_next() => {}
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
        }
    };
    let removed = fs::remove_file(socket);
    ended.and(removed)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let program = PathBuf::from(args.next().unwrap_or_default());
    let run_as = program.file_name().unwrap_or_default().to_string_lossy();
    let arguments = match parse(args) {
        Ok(arguments) if arguments.help => {
            say(HELP.trim_end());
            return ExitCode::SUCCESS;
        }
        Ok(arguments) => arguments,
        Err(problem) => {
            eprintln!("{run_as}: {problem}");
            return ExitCode::from(2);
        }
    };
    let (service, socket) = match place(&arguments, &run_as, |name| std::env::var_os(name)) {
        Ok(place) => place,
        Err(problem) => {
            eprintln!("{run_as}: {problem}");
            return ExitCode::from(2);
        }
    };
    let now = Instant::now();
    let behaviour = Arc::new(Behaviour {
        service: service.clone(),
        ready_at: now + arguments.not_ready_for.unwrap_or_default(),
        unwell_at: arguments.unhealthy_after.map(|after| now + after),
        silent: arguments.silent,
    });
    match run(&socket, behaviour).await {
        Ok(()) => {
            say(&format!("{service} ended"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{service}: {}: {error}", socket.display());
            let in_use = error.kind() == ErrorKind::AddrInUse;
            ExitCode::from(if in_use { 98 } else { 1 })
        }
    }
}
