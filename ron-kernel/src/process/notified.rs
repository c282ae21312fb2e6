//! The server side of sd_notify(3): what a child says of itself on a socket of its own.

use std::io;
use std::path::{Path, PathBuf};
use tokio::net::UnixDatagram;

/// What one datagram says. What systemd knows beside this has no meaning here and is ignored.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) ready: bool,
    pub(crate) alive: bool,
    /// It asks to be treated as hung.
    pub(crate) hung: bool,
    pub(crate) status: Option<String>,
}

/// More than any client sends; what is longer is cut.
const DATAGRAM_MAX: usize = 4096;
/// Bytes of a status; the tree shows one line.
const STATUS_MAX: usize = 256;

impl Told {
    fn parse(datagram: &[u8]) -> Told {
        let mut told = Told::default();
        for line in datagram.split(|byte| *byte == b'\n') {
            match line {
                b"READY=1" => told.ready = true,
                b"WATCHDOG=1" => told.alive = true,
                b"WATCHDOG=trigger" => told.hung = true,
                _ => {
                    if let Some(status) = line.strip_prefix(b"STATUS=") {
                        let status = String::from_utf8_lossy(status).into_owned();
                        told.status = Some(crate::telemetry::one_line(status, STATUS_MAX));
                    }
                }
            }
        }
        told
    }
}

/// A bound socket; its file goes with it.
#[derive(Debug)]
pub(crate) struct NotifySocket {
    socket: UnixDatagram,
    path: PathBuf,
}

impl NotifySocket {
    /// Binds it.
    pub(crate) fn bind(path: PathBuf) -> io::Result<NotifySocket> {
        let socket = UnixDatagram::bind(&path)?;
        Ok(NotifySocket { socket, path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The next datagram. Cancel safe.
    pub(crate) async fn told(&self) -> Told {
        let mut datagram = [0; DATAGRAM_MAX];
        loop {
            if let Ok(length) = self.socket.recv(&mut datagram).await {
                return Told::parse(datagram.get(..length).unwrap_or_default());
            }
            // No error of a bound datagram socket lasts; none may spin.
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for NotifySocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_says_several_things_and_what_is_unknown_is_ignored() {
        let told = Told::parse(b"READY=1\nSTATUS=accepting\nMAINPID=7\nWATCHDOG=1\n");
        assert!(told.ready && told.alive && !told.hung);
        assert_eq!(told.status.as_deref(), Some("accepting"));
        assert!(Told::parse(b"WATCHDOG=trigger").hung);
        for none in [
            &b""[..],
            b"\n\n",
            b"READY=0",
            b"ready=1",
            b"XREADY=1",
            b"\xff\xfe",
        ] {
            assert_eq!(Told::parse(none), Told::default(), "{none:?}");
        }
        assert_eq!(Told::parse(b"STATUS=").status.as_deref(), Some(""));
        let long = [&b"STATUS="[..], &[b'x'; 1000]].concat();
        assert!(Told::parse(&long).status.unwrap().len() <= STATUS_MAX);
    }
}
