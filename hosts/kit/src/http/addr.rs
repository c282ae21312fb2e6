//! Where a host listens: a port, or a Unix socket.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use ron_config::{Input, Mismatch, Value};
use ron_kernel::ListenAddr;
use serde_json::{json, Value as Json};

/// `127.0.0.1:8080` or `unix:/run/micronode/http.sock`. Complete: what HTTP/1.1 is served over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpAddr {
    /// Address and port.
    Tcp(SocketAddr),
    /// An absolute path.
    Unix(PathBuf),
}

impl HttpAddr {
    /// Whether only this machine reaches it.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(addr) => addr.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }

    pub(crate) fn is_unix(&self) -> bool {
        matches!(self, Self::Unix(_))
    }
}

impl fmt::Display for HttpAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Value for HttpAddr {
    fn read(input: Input<'_>) -> Result<Self, Mismatch> {
        if let Ok(addr) = input.text()?.parse() {
            return Ok(Self::Tcp(addr));
        }
        match ListenAddr::read(input)? {
            ListenAddr::Unix(path) => Ok(Self::Unix(path)),
            _ => Err(input.mismatch()),
        }
    }

    fn show(&self) -> Json {
        self.to_string().into()
    }

    fn expected() -> String {
        "an address with a port such as \"127.0.0.1:8080\", or unix:/PATH".to_owned()
    }

    fn schema() -> Json {
        json!({"type": "string", "pattern": "^(.+:[0-9]{1,5}|unix:/.+)$"})
    }
}
