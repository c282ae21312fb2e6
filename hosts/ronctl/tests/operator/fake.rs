//! A directory of sockets with whatever a test wants behind them, and the program that asks them.

use std::ffi::OsStr;
use std::fs::Permissions;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use rustix::process::{kill_process, Pid, Signal};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_ronctl");
/// Pid 6699.
pub(crate) const INSTANCE: &str = "1a2b-19aabbccdde";
/// What an operator waits at most before the program says that nobody answers.
pub(crate) const SOON: Duration = Duration::from_secs(2);

/// Far above what anything here takes on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// How a service treats a connection once its request has been read.
pub(crate) enum Manner {
    /// This response, then the connection ends.
    Says(Vec<u8>),
    /// Never a byte.
    Hangs,
    /// A head, then a byte now and then.
    Trickles,
    /// More than anybody wants.
    Floods,
}

pub(crate) fn json(status: u16, body: &str) -> Manner {
    Manner::Says(response(status, body))
}

pub(crate) fn response(status: u16, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
}

/// A golden answer of the library that shows it.
pub(crate) fn golden(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../kit/tests/golden")
        .join(name);
    std::fs::read_to_string(path).unwrap()
}

/// What a service was asked: its first line, and the body.
pub(crate) type Asked = (String, String);

pub(crate) struct Run {
    dir: tempfile::TempDir,
}

impl Run {
    pub(crate) fn new() -> Run {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("run")).unwrap();
        let run = Run { dir };
        run.mode(0o700);
        run
    }

    pub(crate) fn base(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.base().join("run")
    }

    pub(crate) fn mode(&self, mode: u32) {
        std::fs::set_permissions(self.path(), Permissions::from_mode(mode)).unwrap();
    }

    pub(crate) fn sock(&self, service: &str, instance: &str) -> PathBuf {
        self.path().join(format!("{service}.{instance}.sock"))
    }

    /// A socket that nobody listens on any more.
    pub(crate) fn dead(&self, service: &str, instance: &str) -> PathBuf {
        let path = self.sock(service, instance);
        drop(UnixListener::bind(&path).unwrap());
        path
    }

    /// A service that treats every connection as `manner` says of its request; the receiver tells what it was asked.
    pub(crate) fn serve(
        &self,
        service: &str,
        instance: &str,
        manner: impl Fn(&str) -> Manner + Send + 'static,
    ) -> Receiver<Asked> {
        let listener = UnixListener::bind(self.sock(service, instance)).unwrap();
        let (asked, told) = mpsc::channel();
        std::thread::spawn(move || {
            // Those that get no answer are kept open until the test ends.
            let mut silent = Vec::new();
            for stream in listener.incoming().map_while(Result::ok) {
                silent.extend(treat(stream, &manner, &asked));
            }
        });
        told
    }

    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("RON_RUN_DIR", self.path())
            .env("PATH", "/usr/bin:/bin");
        command
    }

    pub(crate) fn ronctl(&self, line: &str) -> Ended {
        let mut command = self.command(BINARY);
        command.args(line.split_whitespace());
        ended(&mut command)
    }
}

/// Runs a command to its end, or to that of everybody's patience.
pub(crate) fn ended(command: &mut Command) -> Ended {
    let begun = Instant::now();
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let pid = Pid::from_child(&child);
    let (done, over) = mpsc::channel::<()>();
    let guard = std::thread::spawn(move || {
        if over.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            kill_process(pid, Signal::KILL).unwrap();
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(done);
    guard.join().unwrap();
    Ended::of(&output, begun.elapsed())
}

/// The connection, if it was left without an answer.
fn treat(
    mut stream: UnixStream,
    manner: &impl Fn(&str) -> Manner,
    asked: &Sender<Asked>,
) -> Option<UnixStream> {
    let (head, body) = request(&mut stream)?;
    let first = head.lines().next().unwrap_or_default().to_owned();
    let treatment = manner(&first);
    let _ = asked.send((first, body));
    match treatment {
        Manner::Says(bytes) => {
            let _ = stream.write_all(&bytes);
            None
        }
        Manner::Hangs => Some(stream),
        Manner::Trickles => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n");
            std::thread::spawn(move || {
                while stream.write_all(b" ").is_ok() {
                    std::thread::sleep(Duration::from_millis(100));
                }
            });
            None
        }
        Manner::Floods => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n[");
            std::thread::spawn(move || {
                let zeros = vec![b'0'; 1 << 20];
                while stream.write_all(&zeros).is_ok() {}
            });
            None
        }
    }
}

fn request(stream: &mut UnixStream) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return Some((head.to_owned(), body.to_owned()));
            }
        }
        match stream.read(&mut part) {
            Ok(0) | Err(_) => return None,
            Ok(read) => bytes.extend_from_slice(&part[..read]),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) took: Duration,
}

impl Ended {
    pub(crate) fn of(output: &Output, took: Duration) -> Ended {
        Ended {
            code: output.status.code(),
            out: String::from_utf8(output.stdout.clone()).unwrap(),
            err: String::from_utf8(output.stderr.clone()).unwrap(),
            took,
        }
    }

    /// Succeeded, with nothing to complain of.
    #[track_caller]
    pub(crate) fn good(self) -> String {
        assert_eq!((self.code, &*self.err), (Some(0), ""), "{self:?}");
        self.out
    }

    /// Failed at once, with one line on stderr and nothing on stdout.
    #[track_caller]
    pub(crate) fn failed(self, code: i32) -> String {
        assert_eq!((self.code, &*self.out), (Some(code), ""), "{self:?}");
        assert_eq!(self.err.matches('\n').count(), 1, "one line: {self:?}");
        assert!(self.took < SOON, "took {:?}", self.took);
        self.err
    }
}
