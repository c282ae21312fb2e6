//! A socket that is bound before the kernel starts, so that an address in use ends the program with 98, and kept when the
//! child that accepts on it fails and starts again.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

/// A listening socket; clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listener(Option<Arc<Bound>>);

#[derive(Debug)]
struct Bound {
    addr: SocketAddr,
    /// `None` while nobody is to connect.
    socket: Mutex<Option<TcpListener>>,
}

/// An address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {addr}: {}", why(.source))]
pub struct ListenError {
    addr: SocketAddr,
    source: std::io::Error,
}

fn why(source: &std::io::Error) -> String {
    match source.kind() {
        std::io::ErrorKind::AddrInUse => "address in use".to_owned(),
        _ => source.to_string(),
    }
}

impl ListenError {
    /// Whether somebody else has the address.
    pub fn is_addr_in_use(&self) -> bool {
        self.source.kind() == std::io::ErrorKind::AddrInUse
    }
}

impl Listener {
    /// Binds to `addr`.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub(crate) fn bind(addr: SocketAddr) -> Result<Self, ListenError> {
        let socket = bind(addr).map_err(|source| ListenError { addr, source })?;
        let addr = socket.local_addr().unwrap_or(addr);
        Ok(Self(Some(Arc::new(Bound {
            addr,
            socket: Mutex::new(Some(socket)),
        }))))
    }

    /// Another handle to the socket, for one who accepts; bound again if it was closed. `None` if there is none, as where a
    /// configuration is only checked.
    pub(crate) fn accepting(&self) -> Option<std::io::Result<TcpListener>> {
        let bound = self.0.as_deref()?;
        let mut socket = bound.socket.lock().unwrap_or_else(PoisonError::into_inner);
        if socket.is_none() {
            match bind(bound.addr) {
                Ok(again) => *socket = Some(again),
                Err(error) => return Some(Err(error)),
            }
        }
        socket.as_ref().map(TcpListener::try_clone)
    }

    /// Nobody can connect any more, once those who accept have dropped their handles.
    pub(crate) fn close(&self) {
        if let Some(bound) = self.0.as_deref() {
            let socket = bound
                .socket
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            drop(socket);
        }
    }

    /// Where it listens, the port included that the system has chosen for 0.
    pub(crate) fn addr(&self) -> Option<SocketAddr> {
        self.0.as_deref().map(|bound| bound.addr)
    }
}

fn bind(addr: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = TcpListener::bind(addr)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    #[test]
    fn a_closed_listener_refuses_until_somebody_accepts_again() {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = listener.addr().unwrap();
        let accepting = listener.accepting().unwrap().unwrap();
        assert!(TcpStream::connect(addr).is_ok());
        drop(accepting);
        // The one that failed left its socket to the next.
        assert!(TcpStream::connect(addr).is_ok());
        listener.close();
        assert!(TcpStream::connect(addr).is_err());
        let _accepting = listener.accepting().unwrap().unwrap();
        assert!(TcpStream::connect(addr).is_ok());
    }

    #[test]
    fn an_address_in_use_is_told_apart() {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = listener.addr().unwrap();
        let error = Listener::bind(addr).unwrap_err();
        assert!(error.is_addr_in_use());
        assert_eq!(
            error.to_string(),
            format!("cannot listen on {addr}: address in use")
        );
        let elsewhere = Listener::bind("192.0.2.1:1".parse().unwrap()).unwrap_err();
        assert!(!elsewhere.is_addr_in_use(), "{elsewhere}");
    }
}
