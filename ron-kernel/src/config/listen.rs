//! Where a service listens: an address in the configuration, a socket that outlives the restarts of its child, and the
//! file of a Unix socket.

use ron_config::{Input, Mismatch, Value};
use serde_json::{json, Value as Json};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Where to listen: `tcp:127.0.0.1:8080` or `unix:/run/thumbs.sock`, as a value of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ListenAddr {
    /// Address and port.
    Tcp(SocketAddr),
    /// An absolute path that fits a socket's address.
    Unix(PathBuf),
}

/// What the address of a Unix socket can hold, less the NUL that ends it.
const PATH_MAX: usize = 107;

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddr::Tcp(addr) => write!(f, "tcp:{addr}"),
            ListenAddr::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Value for ListenAddr {
    fn read(input: Input<'_>) -> Result<Self, Mismatch> {
        let text = input.text()?;
        if let Some(Ok(addr)) = text.strip_prefix("tcp:").map(str::parse) {
            return Ok(ListenAddr::Tcp(addr));
        }
        match text.strip_prefix("unix:") {
            Some(path) if path.len() > PATH_MAX => Err(Mismatch::new(format!(
                "the path has {} bytes; that of a socket has at most {PATH_MAX}",
                path.len()
            ))
            .at(input)),
            Some(path) if path.starts_with('/') && !path.contains('\0') => {
                Ok(ListenAddr::Unix(path.into()))
            }
            _ => Err(input.mismatch()),
        }
    }

    fn show(&self) -> Json {
        self.to_string().into()
    }

    fn expected() -> String {
        "tcp:IP:PORT or unix:/PATH".to_owned()
    }

    fn schema() -> Json {
        json!({"type": "string", "pattern": "^(tcp:.+:[0-9]{1,5}|unix:/.+)$"})
    }
}

/// A service cannot listen where it should.
#[cfg(feature = "process")]
#[derive(Debug, thiserror::Error)]
#[error("bind error: {addr} of service `{service}`: {}", why(.source))]
pub struct ListenError {
    service: String,
    addr: String,
    source: std::io::Error,
}

#[cfg(feature = "process")]
fn why(source: &std::io::Error) -> String {
    match source.kind() {
        std::io::ErrorKind::AddrInUse => "address in use".to_owned(),
        _ => source.to_string(),
    }
}

#[cfg(feature = "process")]
impl ListenError {
    pub(super) fn new(service: &str, addr: &ListenAddr, source: std::io::Error) -> Self {
        ListenError {
            service: service.to_owned(),
            addr: addr.to_string(),
            source,
        }
    }

    /// Whether somebody else has the address.
    pub fn is_addr_in_use(&self) -> bool {
        self.source.kind() == std::io::ErrorKind::AddrInUse
    }
}

#[cfg(feature = "process")]
pub(super) use bind::bind;
#[cfg(feature = "process")]
pub use bind::UnixSocket;

#[cfg(feature = "process")]
mod bind {
    use super::ListenAddr;
    use crate::run_dir::SocketFile;
    use rustix::fs::{flock, FlockOperation};
    use rustix::io::Errno;
    use rustix::net::{
        connect, socket_with, AddressFamily, SocketAddrUnix, SocketFlags, SocketType,
    };
    use std::fs::Permissions;
    use std::io;
    use std::net::TcpListener;
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    use std::os::unix::net::UnixListener;
    use std::path::Path;

    /// A listening Unix socket whose file goes with it, unless another has taken its place.
    #[derive(Debug)]
    pub struct UnixSocket {
        listener: UnixListener,
        file: SocketFile,
    }

    impl UnixSocket {
        /// Listens at `path`, in place of a socket there that nobody listens on any more, with the mode that the umask gives.
        ///
        /// # Errors
        /// What the system says; `AddrInUse` for a socket in use, one that somebody takes over, and what is no socket.
        pub fn bind(path: &Path) -> io::Result<UnixSocket> {
            let listener = match UnixListener::bind(path) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => take_over(path)?,
                bound => bound?,
            };
            let file = SocketFile::at(path)?;
            Ok(UnixSocket { listener, file })
        }

        /// [`bind`](Self::bind) with this mode of the file. Between the two steps it has that of the umask: what must not
        /// be lives in a directory that others cannot enter, or looks at credentials.
        ///
        /// # Errors
        /// As there.
        pub fn bind_with_mode(path: &Path, mode: u32) -> io::Result<UnixSocket> {
            let socket = UnixSocket::bind(path)?;
            std::fs::set_permissions(path, Permissions::from_mode(mode))?;
            Ok(socket)
        }

        /// What to accept on.
        pub fn listener(&self) -> &UnixListener {
            &self.listener
        }
    }

    /// A listening socket, its file, and the address that it has in fact.
    pub(in crate::config) fn bind(
        addr: &ListenAddr,
    ) -> io::Result<(OwnedFd, Option<SocketFile>, ListenAddr)> {
        match addr {
            ListenAddr::Tcp(addr) => {
                let listener = TcpListener::bind(addr)?;
                let addr = listener.local_addr()?;
                Ok((listener.into(), None, ListenAddr::Tcp(addr)))
            }
            ListenAddr::Unix(path) => {
                let UnixSocket { listener, file } = UnixSocket::bind(path)?;
                Ok((listener.into(), Some(file), addr.clone()))
            }
        }
    }

    /// Replaces a socket that a predecessor left. The directory is locked meanwhile, so that of two that find it
    /// dead the second does not remove what the first has bound.
    fn take_over(path: &Path) -> io::Result<UnixListener> {
        let dir = path.parent().unwrap_or(Path::new("/"));
        let dir = std::fs::File::open(dir)?;
        flock(&dir, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            Errno::WOULDBLOCK => io::ErrorKind::AddrInUse.into(),
            error => io::Error::from(error),
        })?;
        let is_socket = std::fs::symlink_metadata(path)?.file_type().is_socket();
        if !is_socket || !is_dead(path) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        std::fs::remove_file(path)?;
        UnixListener::bind(path)
    }

    /// Nobody listens. One that does not accept is alive: it is not waited for.
    fn is_dead(path: &Path) -> bool {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
        let (Ok(socket), Ok(address)) = (socket, SocketAddrUnix::new(path)) else {
            return false;
        };
        connect(&socket, &address) == Err(Errno::CONNREFUSED)
    }
}

#[cfg(all(test, feature = "process"))]
mod tests {
    use super::*;
    use std::io::ErrorKind;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_socket_that_a_predecessor_left_is_taken_over_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| ListenAddr::Unix(dir.path().join(name));
        let (left, file, _) = bind(&at("s")).unwrap();
        let in_use = |name: &str| bind(&at(name)).unwrap_err().kind();
        assert_eq!(in_use("s"), ErrorKind::AddrInUse, "it listens");
        drop(left);
        // Killed, it would not have removed it.
        std::mem::forget(file);
        let lock = std::fs::File::open(dir.path()).unwrap();
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
        assert_eq!(in_use("s"), ErrorKind::AddrInUse, "somebody takes it over");
        drop(lock);
        let bound = bind(&at("s")).unwrap();
        UnixStream::connect(dir.path().join("s")).unwrap();
        drop(bound);
        assert!(!dir.path().join("s").exists(), "its file goes with it");
        let socket = UnixSocket::bind_with_mode(&dir.path().join("m"), 0o600).unwrap();
        let mode = std::fs::metadata(dir.path().join("m")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&mode.permissions());
        assert_eq!(mode & 0o777, 0o600);
        UnixStream::connect(dir.path().join("m")).unwrap();
        assert!(socket.listener().accept().is_ok());
        std::fs::write(dir.path().join("f"), "mine").unwrap();
        assert_eq!(in_use("f"), ErrorKind::AddrInUse, "a file");
        assert_eq!(
            std::fs::read_to_string(dir.path().join("f")).unwrap(),
            "mine"
        );
        std::os::unix::fs::symlink(dir.path().join("gone"), dir.path().join("l")).unwrap();
        assert_eq!(in_use("l"), ErrorKind::AddrInUse, "a link");
        assert_eq!(in_use("none/s"), ErrorKind::NotFound);
    }

    #[test]
    fn a_port_of_0_is_told_as_the_one_it_became() {
        let any = ListenAddr::Tcp("127.0.0.1:0".parse().unwrap());
        let (_socket, _, bound) = bind(&any).unwrap();
        assert!(bound != any, "{bound}");
        let error = ListenError::new("a", &bound, bind(&bound).unwrap_err());
        assert!(error.is_addr_in_use());
        assert_eq!(
            error.to_string(),
            format!("bind error: {bound} of service `a`: address in use")
        );
    }
}
