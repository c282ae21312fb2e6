//! Telling the service manager how the process is: the client side of sd_notify(3).
//!
//! `READY=1` when the service is ready for the first time, `STATUS=` with the causes whenever readiness changes,
//! `RELOADING=1` and `READY=1` around a reload by SIGHUP (`Type=notify-reload`), `STOPPING=1` when the drain begins, and
//! `WATCHDOG=1` twice in every `WATCHDOG_USEC`, as long as supervision runs and some worker has polled within 10 s.

use ron_metrics::{HealthState, Liveness, Snapshot, State};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Bytes of a status text; managers show one line.
const STATUS_MAX: usize = 256;

/// A service manager that wants to hear.
#[derive(Debug)]
pub(crate) struct Manager {
    socket: UnixDatagram,
    address: SocketAddr,
    /// How long it waits for a sign of life.
    watchdog: Option<Duration>,
}

/// What the environment says of a service manager.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    socket: OsString,
    watchdog: Option<Duration>,
}

/// `None` where nobody wants to hear; an error where the variables make no sense.
fn asked(env: impl Fn(&str) -> Option<OsString>, pid: u32) -> Result<Option<Asked>, String> {
    let Some(socket) = env("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else {
        return Ok(None);
    };
    if !matches!(socket.as_bytes()[0], b'/' | b'@') {
        let socket = socket.to_string_lossy();
        return Err(format!(
            "NOTIFY_SOCKET={socket}: expected an absolute path, or @ and an abstract name"
        ));
    }
    let number = |name: &str| match env(name) {
        None => Ok(None),
        Some(text) => {
            let number = text.to_str().and_then(|text| text.parse::<u64>().ok());
            let text = text.to_string_lossy();
            number
                .map(Some)
                .ok_or(format!("{name}={text}: expected a number"))
        }
    };
    // Meant for another process of the same environment, a shell's child for example.
    let is_ours = number("WATCHDOG_PID")?.map_or(true, |meant| meant == u64::from(pid));
    let micros = number("WATCHDOG_USEC")?.filter(|micros| is_ours && *micros > 0);
    Ok(Some(Asked {
        socket,
        watchdog: micros.map(Duration::from_micros),
    }))
}

fn address(socket: &OsStr) -> io::Result<SocketAddr> {
    #[cfg(target_os = "linux")]
    if let [b'@', name @ ..] = socket.as_bytes() {
        use std::os::linux::net::SocketAddrExt;
        return SocketAddr::from_abstract_name(name);
    }
    SocketAddr::from_pathname(socket)
}

/// The status line for a moment: the state and what is to blame for it.
fn status(snapshot: &Snapshot) -> String {
    let missing = snapshot
        .missing()
        .map(|key| format!("{key}: not ready yet"));
    let causes = snapshot
        .causes()
        .map(|cause| format!("{}: {}", cause.key, cause.reason));
    let blame: Vec<String> = missing.chain(causes).collect();
    let mut text = snapshot.state().to_string();
    if !blame.is_empty() && snapshot.state() != State::Draining {
        text = format!("{text}: {}", blame.join("; "));
    }
    let mut text = text.replace(['\n', '\r'], " ");
    if text.len() > STATUS_MAX {
        let mut end = STATUS_MAX;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
}

impl Manager {
    /// The one the environment names.
    pub(crate) fn from_environment() -> Result<Option<Manager>, String> {
        let Some(asked) = asked(|name| std::env::var_os(name), std::process::id())? else {
            return Ok(None);
        };
        let failed = |error: io::Error| {
            let socket = asked.socket.to_string_lossy();
            format!("NOTIFY_SOCKET={socket}: {error}")
        };
        let socket = UnixDatagram::unbound().map_err(failed)?;
        // A manager that does not read must not hold up a shutdown.
        socket.set_nonblocking(true).map_err(failed)?;
        Ok(Some(Manager {
            socket,
            address: address(&asked.socket).map_err(failed)?,
            watchdog: asked.watchdog,
        }))
    }

    fn send(&self, message: &str) {
        // Nobody else could be told; the manager's own timeouts say it then.
        let _ = self.socket.send_to_addr(message.as_bytes(), &self.address);
    }

    /// A reload began.
    pub(crate) fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}\n"));
    }

    /// It is over, well or not.
    pub(crate) fn reloaded(&self) {
        self.send("READY=1\n");
    }

    /// Tells of readiness and life until it is dropped.
    pub(crate) async fn inform(self: Arc<Self>, health: HealthState) {
        let changed = Arc::new(Notify::new());
        let wake = changed.clone();
        let _watch = health.watch(move || wake.notify_one());
        let (mut told, mut was_ready) = (String::new(), false);
        loop {
            let snapshot = health.snapshot();
            let status = status(&snapshot);
            if status != told {
                let mut message = String::new();
                if snapshot.ready() && !was_ready {
                    was_ready = true;
                    message.push_str("READY=1\n");
                }
                if snapshot.state() == State::Draining {
                    message.push_str("STOPPING=1\n");
                }
                message.push_str(&format!("STATUS={status}\n"));
                self.send(&message);
                told = status;
            }
            match self.watchdog {
                None => changed.notified().await,
                Some(limit) => {
                    if health.liveness() == Liveness::Ok {
                        self.send("WATCHDOG=1\n");
                    }
                    let _ = tokio::time::timeout(limit / 2, changed.notified()).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ron_metrics::Condition;

    fn of(set: &[(&str, &str)]) -> Result<Option<Asked>, String> {
        let env = |name: &str| {
            let found = set.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| OsString::from(value))
        };
        asked(env, 7)
    }

    #[test]
    fn the_environment_says_whom_to_tell_and_how_often() {
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&[("NOTIFY_SOCKET", "")]), Ok(None));
        let socket = ("NOTIFY_SOCKET", "/run/n");
        let watchdog = |set: &[(&str, &str)]| of(set).unwrap().unwrap().watchdog;
        assert_eq!(watchdog(&[socket]), None);
        let usec = ("WATCHDOG_USEC", "3000000");
        assert_eq!(watchdog(&[socket, usec]), Some(Duration::from_secs(3)));
        let ours = ("WATCHDOG_PID", "7");
        assert_eq!(
            watchdog(&[socket, usec, ours]),
            Some(Duration::from_secs(3))
        );
        assert_eq!(watchdog(&[socket, usec, ("WATCHDOG_PID", "8")]), None);
        for (set, expected) in [
            (
                &[("NOTIFY_SOCKET", "n")][..],
                "NOTIFY_SOCKET=n: expected an absolute path",
            ),
            (
                &[socket, ("WATCHDOG_USEC", "soon")],
                "WATCHDOG_USEC=soon: expected a number",
            ),
        ] {
            assert!(of(set).unwrap_err().starts_with(expected), "{set:?}");
        }
    }

    #[test]
    fn the_status_is_one_line_with_the_causes() {
        let health = HealthState::new();
        health.require("db");
        health.set("disk", Condition::degraded("90 %\nfull"));
        let text = status(&health.snapshot());
        assert!(
            text.starts_with("not_ready: db: not ready yet; disk: 90 % full"),
            "{text}"
        );
        health.set("long", Condition::degraded("ä".repeat(STATUS_MAX)));
        assert!(status(&health.snapshot()).len() <= STATUS_MAX);
    }
}
