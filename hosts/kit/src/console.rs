//! What tokio-console asks: tasks, what they wait for, how long their polls take. For builds with feature `console` and
//! `--cfg tokio_unstable`; such a build listens on `RON_CONSOLE_ADDR`, a loopback address, as it asks nobody for a capability.

use std::env;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use console_subscriber::ConsoleLayer;
use tracing::metadata::Metadata;
use tracing::Subscriber;
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::LookupSpan;

/// The variable that names the address.
pub(crate) const VARIABLE: &str = "RON_CONSOLE_ADDR";

/// Where `tokio-console` looks without arguments.
const DEFAULT: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 6669);

/// Why it cannot be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConsoleError {
    #[error("{VARIABLE}: `{0}`: expected a loopback address and a port, as in 127.0.0.1:6669")]
    Address(String),
    #[error("{VARIABLE}: cannot listen on {0}: {1}")]
    Listen(SocketAddr, io::Error),
}

impl ConsoleError {
    /// 98 for an address in use, 2 for one that cannot be used, 1 otherwise.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            ConsoleError::Address(_) => 2,
            ConsoleError::Listen(_, error) if error.kind() == io::ErrorKind::AddrInUse => 98,
            ConsoleError::Listen(..) => 1,
        }
    }
}

/// Where to listen, which nobody else does at the moment.
pub(crate) fn address() -> Result<SocketAddr, ConsoleError> {
    let addr = match env::var_os(VARIABLE) {
        None => DEFAULT.into(),
        Some(text) => parse(&text.to_string_lossy())?,
    };
    TcpListener::bind(addr).map_err(|error| ConsoleError::Listen(addr, error))?;
    Ok(addr)
}

fn parse(text: &str) -> Result<SocketAddr, ConsoleError> {
    let addr = text.parse().ok();
    let loopback = addr.filter(|addr: &SocketAddr| addr.ip().is_loopback());
    loopback.ok_or_else(|| ConsoleError::Address(text.to_owned()))
}

/// Watches tasks, and answers on a thread of its own.
pub(crate) fn layer<S>(addr: SocketAddr) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    ConsoleLayer::builder().server_addr(addr).spawn()
}

/// Whether this is what the runtime tells the console, and no log line.
pub(crate) fn watches(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    target.starts_with("runtime")
        || target.starts_with("tokio::")
        || metadata.name().starts_with("runtime.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_loopback_address_is_taken() {
        for text in ["127.0.0.1:1", "127.1.2.3:6669", "[::1]:6669"] {
            assert!(parse(text).is_ok(), "{text}");
        }
        for text in [
            "0.0.0.0:6669",
            "192.0.2.1:6669",
            "[::]:1",
            "localhost:1",
            "6669",
            "",
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{text}");
            assert!(error.to_string().contains("expected a loopback address"));
        }
    }
}
