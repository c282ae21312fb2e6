//! Telling the service manager how the process is: the client side of sd_notify(3).
//!
//! `READY=1` when the service is ready for the first time, `STATUS=` with the causes whenever readiness changes,
//! `RELOADING=1` and `READY=1` around a reload by SIGHUP (`Type=notify-reload`), `STOPPING=1` when the drain begins, and
//! `WATCHDOG=1` twice in every `WATCHDOG_USEC`, as long as supervision runs and some worker has polled within 10 s.

use crate::telemetry::{blame, one_line};
use ron_metrics::{HealthState, Liveness, Snapshot, State};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Bytes of a status text; managers show one line.
const STATUS_MAX: usize = 256;

/// How soon a service without a sign of life is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// A service manager that wants to hear.
#[derive(Debug)]
pub(crate) struct Manager {
    socket: UnixDatagram,
    address: SocketAddr,
    /// How long it waits for a sign of life.
    watchdog: Option<Duration>,
    /// It has been told that the service is ready: before that no reload may say so.
    was_ready: AtomicBool,
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
    let state = snapshot.state();
    let text = match (state, blame(snapshot)) {
        (State::Draining, _) => state.to_string(),
        (_, blame) if blame.is_empty() => state.to_string(),
        (_, blame) => format!("{state}: {blame}"),
    };
    one_line(text, STATUS_MAX)
}

impl Manager {
    /// The one the environment names.
    pub(crate) fn from_environment() -> Result<Option<Manager>, String> {
        let Some(asked) = asked(|name| std::env::var_os(name), std::process::id())? else {
            return Ok(None);
        };
        let socket = asked.socket.to_string_lossy().into_owned();
        Manager::of(asked)
            .map(Some)
            .map_err(|error| format!("NOTIFY_SOCKET={socket}: {error}"))
    }

    fn of(asked: Asked) -> io::Result<Manager> {
        let socket = UnixDatagram::unbound()?;
        // A manager that does not read must not hold up a shutdown.
        socket.set_nonblocking(true)?;
        Ok(Manager {
            socket,
            address: address(&asked.socket)?,
            watchdog: asked.watchdog,
            was_ready: AtomicBool::new(false),
        })
    }

    fn send(&self, message: &str) {
        // Nobody else could be told; the manager's own timeouts say it then.
        let _ = self.socket.send_to_addr(message.as_bytes(), &self.address);
    }

    /// A reload began.
    pub(crate) fn reloading(&self) {
        if !self.was_ready() {
            return;
        }
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}\n"));
    }

    /// It is over, well or not.
    pub(crate) fn reloaded(&self) {
        if self.was_ready() {
            self.send("READY=1\n");
        }
    }

    /// Both sides run on one thread: Relaxed.
    fn was_ready(&self) -> bool {
        self.was_ready.load(Ordering::Relaxed)
    }

    /// Tells of readiness and life until it is dropped.
    pub(crate) async fn inform(self: Arc<Self>, health: HealthState) {
        let changed = Arc::new(Notify::new());
        let wake = changed.clone();
        let _watch = health.watch(move || wake.notify_one());
        let mut told = String::new();
        loop {
            let snapshot = health.snapshot();
            let status = status(&snapshot);
            if status != told {
                let mut message = String::new();
                if snapshot.ready() && !self.was_ready.swap(true, Ordering::Relaxed) {
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
                    let mut pause = limit / 2;
                    if health.liveness() == Liveness::Ok {
                        self.send("WATCHDOG=1\n");
                    } else {
                        // Life that comes back is told before the manager's patience ends.
                        pause = pause.min(LOOK_AGAIN);
                    }
                    let _ = tokio::time::timeout(pause, changed.notified()).await;
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

    /// A manager that hears, and what it was told in the meantime.
    fn hearing(watchdog: Option<Duration>) -> (Arc<Manager>, impl Fn() -> Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let heard = UnixDatagram::bind(&path).unwrap();
        heard.set_nonblocking(true).unwrap();
        let socket = path.into_os_string();
        let manager = Manager::of(Asked { socket, watchdog }).unwrap();
        let messages = move || {
            let _dir = &dir;
            let mut bytes = [0; 4096];
            let mut messages = Vec::new();
            while let Ok(length) = heard.recv(&mut bytes) {
                messages.push(String::from_utf8(bytes[..length].to_vec()).unwrap());
            }
            messages
        };
        (Arc::new(manager), messages)
    }

    #[tokio::test(start_paused = true)]
    async fn a_reload_does_not_make_ready_what_never_was() {
        let (manager, messages) = hearing(None);
        let health = HealthState::new();
        health.require("db");
        let informing = tokio::spawn(manager.clone().inform(health.clone()));
        tokio::task::yield_now().await;
        manager.reloading();
        manager.reloaded();
        assert_eq!(messages(), ["STATUS=not_ready: db: not ready yet\n"]);
        health.satisfy("db");
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(messages(), ["READY=1\nSTATUS=ready\n"]);
        manager.reloading();
        manager.reloaded();
        let told = messages();
        assert!(
            told[0].starts_with("RELOADING=1\nMONOTONIC_USEC="),
            "{told:?}"
        );
        assert_eq!(told[1], "READY=1\n");
        informing.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn the_signs_of_life_end_when_no_worker_polls() {
        let (manager, messages) = hearing(Some(Duration::from_secs(2)));
        let clock = crate::telemetry::TokioClock(tokio::time::Instant::now());
        let health = HealthState::with_clock(clock);
        health.beat();
        let informing = tokio::spawn(manager.inform(health.clone()));
        let lives = || {
            messages()
                .iter()
                .filter(|text| *text == "WATCHDOG=1\n")
                .count()
        };
        tokio::time::sleep(Duration::from_millis(4_500)).await;
        assert_eq!(lives(), 5, "at once, then twice in every two seconds");
        tokio::time::sleep(Duration::from_secs(7)).await;
        let _ = lives();
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(lives(), 0, "the last beat is more than 10 s ago");
        health.beat();
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(lives() > 0);
        informing.abort();
    }
}
