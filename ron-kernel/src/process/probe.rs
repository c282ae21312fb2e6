//! Asking a process from outside how it is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A question to a process whose answer says whether it is well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Tcp {
        addr: String,
    },
    Http {
        addr: String,
        path: String,
    },
    V1Health {
        socket: PathBuf,
        service: Option<String>,
    },
}

/// Why a probe found a process not well.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {}

/// Text that is no probe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no probe; expected tcp:ADDR:PORT, http:ADDR:PORT/PATH or v1.health:/PATH")]
pub struct ProbeParseError {
    text: String,
}

impl Probe {
    /// Well if a connection to `addr` (`host:port`) is accepted.
    pub fn tcp(addr: impl Into<String>) -> Probe {
        Probe {
            kind: Kind::Tcp { addr: addr.into() },
        }
    }

    /// Well if `GET path` at `addr` (`host:port`) answers with a status from 200 to 399.
    pub fn http(addr: impl Into<String>, path: impl Into<String>) -> Probe {
        Probe {
            kind: Kind::Http {
                addr: addr.into(),
                path: path.into(),
            },
        }
    }

    /// Well if the `v1.health` call at the Unix socket is answered.
    pub fn v1_health(socket: impl Into<PathBuf>) -> Probe {
        Probe {
            kind: Kind::V1Health {
                socket: socket.into(),
                service: None,
            },
        }
    }

    /// The service a `v1.health` call names; default the child's name.
    pub fn service(mut self, name: impl Into<String>) -> Probe {
        if let Kind::V1Health { service, .. } = &mut self.kind {
            *service = Some(name.into());
        }
        self
    }

    /// Asks once; the caller bounds how long. `child` names the service where none is set.
    pub(crate) async fn check(&self, _child: &str) -> Result<(), ProbeError> {
        Ok(())
    }
}

impl FromStr for Probe {
    type Err = ProbeParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Err(ProbeParseError {
            text: text.to_owned(),
        })
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Tcp { addr } => write!(f, "tcp:{addr}"),
            Kind::Http { addr, path } => write!(f, "http:{addr}{path}"),
            Kind::V1Health { socket, .. } => write!(f, "v1.health:{}", socket.display()),
        }
    }
}
