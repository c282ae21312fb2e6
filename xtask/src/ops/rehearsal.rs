//! One life of the program as a service manager, a container runtime and a kubelet see it.

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use serde_json::Value;

use super::program;
use crate::workspace::output;

/// For everything that has no limit of its own.
const PATIENCE: Duration = Duration::from_secs(30);
/// Stands in for the manifest's, which nobody needs to wait for.
const LINGER: Duration = Duration::from_millis(500);

pub(super) struct Play<'a> {
    pub(super) dir: &'a Path,
    pub(super) binary: &'a Path,
    pub(super) config: &'a Path,
    pub(super) watchdog: Duration,
    /// Paths that the probes ask.
    pub(super) probes: [&'a str; 3],
    pub(super) health_check: Vec<String>,
    pub(super) pre_stop: Vec<&'a str>,
    /// What a stop may take.
    pub(super) patience: Duration,
}

/// The program, killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn signal(&self, name: &str) -> Result<()> {
        output(Command::new("kill").args([format!("-{name}"), self.0.id().to_string()])).map(drop)
    }

    fn ended(&mut self, within: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + within;
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > end {
                bail!("the program runs {within:?} after it was told to end");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A service manager's end of the notify protocol.
struct Manager(UnixDatagram);

impl Manager {
    fn listen(path: &Path) -> Result<Manager> {
        let socket = UnixDatagram::bind(path).with_context(|| path.display().to_string())?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Manager(socket))
    }

    /// Waits for a message that assigns `wanted`; the message.
    fn hears(&self, wanted: &str) -> Result<String> {
        let end = Instant::now() + PATIENCE;
        let mut bytes = [0; 4096];
        while Instant::now() < end {
            let Ok(length) = self.0.recv(&mut bytes) else {
                break;
            };
            let message = String::from_utf8_lossy(&bytes[..length]).into_owned();
            if message.lines().any(|line| line == wanted) {
                return Ok(message);
            }
        }
        bail!("the service manager was never told {wanted}")
    }
}

/// The status of an answer to GET.
fn status(addr: &str, path: &str) -> Result<u16> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok());
    status.with_context(|| format!("GET {path} is answered `{answer}`"))
}

/// The address that the admin listener says in the log.
fn address(log: &Path) -> Result<String> {
    let text = fs::read_to_string(log)?;
    let lines = text.lines().map(serde_json::from_str::<Value>);
    for line in lines {
        let line = line.context("a line of the log is not JSON")?;
        if line["event"] == "admin_listening" {
            return Ok(line["addr"].as_str().unwrap_or_default().to_string());
        }
    }
    bail!("the log tells of no admin listener: {text}")
}

impl Play<'_> {
    pub(super) fn perform(&self) -> Result<Vec<String>> {
        let mut faults = Vec::new();
        let mut expect = |what: &str, holds: bool| {
            if !holds {
                faults.push(format!("rehearsal: {what}"));
            }
        };
        // A volume as a kubelet makes it, with the directory of the image's RON_RUN_DIR to be made in it.
        let volume = self.dir.join("volume");
        fs::create_dir(&volume)?;
        fs::set_permissions(&volume, Permissions::from_mode(0o777))?;
        let sockets = volume.join("own");
        let notify = self.dir.join("notify");
        let manager = Manager::listen(&notify)?;
        let log = self.dir.join("log");
        let child = program(self.binary)
            .args(["--observability.addr", "127.0.0.1:0"])
            .arg(format!("--drain.linger={}ms", LINGER.as_millis()))
            .env("RON_CONFIG", self.config)
            .env("RON_RUN_DIR", &sockets)
            .env("NOTIFY_SOCKET", &notify)
            .env("WATCHDOG_USEC", self.watchdog.as_micros().to_string())
            .stdout(File::create(&log)?)
            .spawn()?;
        let mut running = Running(child);

        manager.hears("READY=1")?;
        manager.hears("WATCHDOG=1")?;
        let addr = address(&log)?;
        for path in self.probes {
            let found = status(&addr, path)?;
            expect(&format!("{path} is {found} when ready"), found == 200);
        }
        expect(
            "a path that no probe should ask is answered",
            status(&addr, "/alive")? == 404,
        );
        let mode = fs::metadata(&sockets)?.permissions().mode() & 0o7777;
        expect(
            &format!("the socket's directory has {mode:o}"),
            mode == 0o700,
        );
        expect(
            "the HEALTHCHECK fails while the program runs",
            self.health_check(&sockets)?,
        );
        let said = self.pre_stop(&sockets)?;
        expect(
            &format!("preStop leaves `{said}`"),
            said.contains("ready, nothing is wrong"),
        );

        running.signal("HUP")?;
        let message = manager.hears("RELOADING=1")?;
        expect(
            &format!("a reload is told without its time: {message}"),
            message.contains("\nMONOTONIC_USEC="),
        );
        manager.hears("READY=1")?;

        running.signal("TERM")?;
        manager.hears("STOPPING=1")?;
        let found = status(&addr, "/readyz")?;
        expect(&format!("/readyz is {found} while draining"), found == 503);
        let found = status(&addr, "/livez")?;
        expect(&format!("/livez is {found} while draining"), found == 200);
        let ended = running.ended(self.patience)?;
        expect(&format!("after SIGTERM: {ended}"), ended.success());
        expect(
            "the HEALTHCHECK succeeds with nobody there",
            !self.health_check(&sockets)?,
        );

        let refused = program(self.binary)
            .env("RON_CONFIG", self.dir.join("missing.toml"))
            .stderr(Stdio::null())
            .status()?;
        expect(
            &format!("without its configuration: {refused}"),
            refused.code() == Some(2),
        );
        Ok(faults)
    }

    fn health_check(&self, sockets: &Path) -> Result<bool> {
        let words = self.health_check.iter().skip(1);
        let done = program(self.binary)
            .args(words)
            .env("RON_RUN_DIR", sockets)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        Ok(done.success())
    }

    /// What the hook leaves as termination message.
    fn pre_stop(&self, sockets: &Path) -> Result<String> {
        let message = self.dir.join("termination-log");
        let place = message.to_string_lossy();
        let words: Vec<String> = self
            .pre_stop
            .iter()
            .map(|word| word.replace("/dev/termination-log", &place))
            .collect();
        let (shell, rest) = words.split_first().context("an empty preStop")?;
        let path = std::env::var_os("PATH").unwrap_or_default();
        let beside = self.binary.parent().map(PathBuf::from);
        let path = std::env::join_paths(beside.into_iter().chain(std::env::split_paths(&path)))?;
        output(
            program(Path::new(shell))
                .args(rest)
                .env("RON_RUN_DIR", sockets)
                .env("PATH", path),
        )?;
        fs::read_to_string(&message).context("preStop writes no termination message")
    }
}
