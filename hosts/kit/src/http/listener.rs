//! A socket that is bound before the kernel starts, so that an address in use ends the program with 98, and kept when the
//! child that accepts on it fails and starts again.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ron_kernel::UnixSocket;
use rustix::process::geteuid;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::addr::HttpAddr;

/// A listening socket; clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listener(Option<Arc<Bound>>);

#[derive(Debug)]
struct Bound {
    addr: HttpAddr,
    users: Users,
    /// `None` while nobody is to connect.
    socket: Mutex<Option<Socket>>,
}

#[derive(Debug)]
enum Socket {
    Tcp(std::net::TcpListener),
    Unix(UnixSocket),
}

/// Whose processes may connect to a Unix socket.
#[derive(Clone, Debug)]
pub(crate) struct Users {
    own: u32,
    others: Arc<[u32]>,
}

/// An address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The system refuses.
    #[error("cannot listen on {addr}: {}", why(.source))]
    Bind {
        /// Where.
        addr: HttpAddr,
        /// What it said.
        source: io::Error,
    },
    /// Others could put a socket of theirs in the place of this one.
    #[error("cannot listen on unix:{}: {} has mode {mode:04o}, so others may replace what is in it; expected a directory that only its owner may write to", path.display(), dir.display())]
    Writable {
        /// The socket.
        path: PathBuf,
        /// Its directory.
        dir: PathBuf,
        /// Permissions of that.
        mode: u32,
    },
    /// Somebody else could.
    #[error("cannot listen on unix:{}: {} belongs to uid {owner}; expected a directory of uid {own}, which this process runs as, or of root", path.display(), dir.display())]
    Owner {
        /// The socket.
        path: PathBuf,
        /// Its directory.
        dir: PathBuf,
        /// Whose that is.
        owner: u32,
        /// Who this process is.
        own: u32,
    },
}

fn why(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::AddrInUse => "address in use".to_owned(),
        _ => source.to_string(),
    }
}

impl ListenError {
    /// Whether somebody else has the address.
    pub fn is_addr_in_use(&self) -> bool {
        matches!(self, Self::Bind { source, .. } if source.kind() == io::ErrorKind::AddrInUse)
    }

    /// Whether another configuration, or another directory, is what would help.
    pub(crate) fn is_configuration(&self) -> bool {
        !matches!(self, Self::Bind { .. })
    }
}

impl Listener {
    /// Binds to `addr`; a Unix socket is for processes of this one's user, of root and of `others`.
    ///
    /// # Errors
    /// The address cannot be bound, or others could replace the socket.
    pub(crate) fn bind(addr: &HttpAddr, others: &[u32]) -> Result<Self, ListenError> {
        let users = Users {
            own: geteuid().as_raw(),
            others: others.into(),
        };
        if let HttpAddr::Unix(path) = addr {
            is_ours(path, users.own)?;
        }
        let socket = bind(addr, &users).map_err(|source| ListenError::Bind {
            addr: addr.clone(),
            source,
        })?;
        let addr = match &socket {
            Socket::Tcp(socket) => socket.local_addr().map_or(addr.clone(), HttpAddr::Tcp),
            Socket::Unix(_) => addr.clone(),
        };
        Ok(Self(Some(Arc::new(Bound {
            addr,
            users,
            socket: Mutex::new(Some(socket)),
        }))))
    }

    /// Another handle to the socket, for one who accepts in this runtime; bound again if it was closed. `None` if there is
    /// none, as where a configuration is only checked.
    pub(crate) fn accepting(&self) -> Option<io::Result<Accepting>> {
        let bound = self.0.as_deref()?;
        let mut socket = bound.socket.lock().unwrap_or_else(PoisonError::into_inner);
        if socket.is_none() {
            match bind(&bound.addr, &bound.users) {
                Ok(again) => *socket = Some(again),
                Err(error) => return Some(Err(error)),
            }
        }
        Some(match socket.as_ref()? {
            Socket::Tcp(socket) => socket
                .try_clone()
                .and_then(TcpListener::from_std)
                .map(Accepting::Tcp),
            Socket::Unix(socket) => socket
                .listener()
                .try_clone()
                .and_then(UnixListener::from_std)
                .map(|listener| Accepting::Unix(listener, bound.users.clone())),
        })
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
    pub(crate) fn addr(&self) -> Option<&HttpAddr> {
        self.0.as_deref().map(|bound| &bound.addr)
    }

    /// The directory of a Unix socket, where it has to be removed at the end, and made again at a restart.
    pub(crate) fn dir(&self) -> Option<PathBuf> {
        match self.addr()? {
            HttpAddr::Tcp(_) => None,
            HttpAddr::Unix(path) => fs::canonicalize(dir_of(path)).ok(),
        }
    }
}

fn bind(addr: &HttpAddr, users: &Users) -> io::Result<Socket> {
    match addr {
        HttpAddr::Tcp(addr) => {
            let socket = std::net::TcpListener::bind(addr)?;
            socket.set_nonblocking(true)?;
            Ok(Socket::Tcp(socket))
        }
        HttpAddr::Unix(path) => {
            let socket = UnixSocket::bind_with_mode(path, users.mode())?;
            socket.listener().set_nonblocking(true)?;
            Ok(Socket::Unix(socket))
        }
    }
}

fn dir_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// Whether nobody but this user and root can put another socket in the place of this one.
fn is_ours(path: &Path, own: u32) -> Result<(), ListenError> {
    let dir = dir_of(path);
    let found = fs::metadata(dir).map_err(|source| ListenError::Bind {
        addr: HttpAddr::Unix(path.to_owned()),
        source,
    })?;
    let (path, dir) = (path.to_owned(), dir.to_owned());
    let (owner, mode) = (found.uid(), found.mode() & 0o7777);
    if owner != own && owner != 0 {
        return Err(ListenError::Owner {
            path,
            dir,
            owner,
            own,
        });
    }
    match mode & 0o022 {
        0 => Ok(()),
        _ => Err(ListenError::Writable { path, dir, mode }),
    }
}

impl Users {
    fn may_connect(&self, uid: u32) -> bool {
        uid == self.own || uid == 0 || self.others.contains(&uid)
    }

    /// Its owner's alone; where others are named, credentials alone tell who may, as modes know groups only.
    fn mode(&self) -> u32 {
        let mut others = self.others.iter();
        match others.any(|uid| *uid != self.own && *uid != 0) {
            true => 0o666,
            false => 0o600,
        }
    }
}

/// What connections come from.
#[derive(Debug)]
pub(crate) enum Accepting {
    Tcp(TcpListener),
    Unix(UnixListener, Users),
}

/// Who has come.
#[derive(Debug)]
pub(crate) enum Caller {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// A process of somebody who may not connect; nothing of it was read.
    Foreign {
        uid: u32,
        pid: Option<i32>,
    },
}

impl Accepting {
    /// The next to come.
    ///
    /// # Cancel safety
    /// Nobody is lost.
    pub(crate) async fn accept(&self) -> io::Result<Caller> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Caller::Tcp(stream))
            }
            Self::Unix(listener, users) => {
                let (stream, _) = listener.accept().await?;
                // As they were when it connected.
                let peer = stream.peer_cred()?;
                let (uid, pid) = (peer.uid(), peer.pid());
                match users.may_connect(uid) {
                    true => Ok(Caller::Unix(stream)),
                    false => Ok(Caller::Foreign { uid, pid }),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn any() -> HttpAddr {
        HttpAddr::Tcp("127.0.0.1:0".parse().unwrap())
    }

    fn connects(addr: &HttpAddr) -> bool {
        match addr {
            HttpAddr::Tcp(addr) => std::net::TcpStream::connect(addr).is_ok(),
            HttpAddr::Unix(path) => std::os::unix::net::UnixStream::connect(path).is_ok(),
        }
    }

    fn private() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o700)).unwrap();
        dir
    }

    #[tokio::test]
    async fn a_closed_listener_refuses_until_somebody_accepts_again() {
        let dir = private();
        for addr in [any(), HttpAddr::Unix(dir.path().join("s"))] {
            let listener = Listener::bind(&addr, &[]).unwrap();
            let addr = listener.addr().unwrap().clone();
            let accepting = listener.accepting().unwrap().unwrap();
            assert!(connects(&addr));
            drop(accepting);
            // The one that failed left its socket to the next.
            assert!(connects(&addr));
            listener.close();
            assert!(!connects(&addr));
            assert!(!dir.path().join("s").exists());
            let accepting = listener.accepting().unwrap().unwrap();
            assert!(connects(&addr));
            let caller = accepting.accept().await.unwrap();
            assert!(matches!(caller, Caller::Tcp(_) | Caller::Unix(_)));
        }
    }

    #[test]
    fn an_address_in_use_is_told_apart() {
        let dir = private();
        for addr in [any(), HttpAddr::Unix(dir.path().join("s"))] {
            let listener = Listener::bind(&addr, &[]).unwrap();
            let addr = listener.addr().unwrap();
            let error = Listener::bind(addr, &[]).unwrap_err();
            assert!(error.is_addr_in_use());
            assert_eq!(
                error.to_string(),
                format!("cannot listen on {addr}: address in use")
            );
        }
        for elsewhere in [
            HttpAddr::Tcp("192.0.2.1:1".parse().unwrap()),
            HttpAddr::Unix(dir.path().join("none/s")),
        ] {
            let error = Listener::bind(&elsewhere, &[]).unwrap_err();
            assert!(
                !error.is_addr_in_use() && !error.is_configuration(),
                "{error}"
            );
        }
    }

    #[test]
    fn a_socket_is_its_owners_and_its_directory_nobody_elses_to_write() {
        let dir = private();
        let path = dir.path().join("s");
        let addr = HttpAddr::Unix(path.clone());
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        let own = geteuid().as_raw();
        for (others, expected) in [(&[][..], 0o600), (&[0, own], 0o600), (&[65_534], 0o666)] {
            let listener = Listener::bind(&addr, others).unwrap();
            assert_eq!(mode(&path), expected, "{others:?}");
            drop(listener);
            assert!(!path.exists());
        }
        for (mode, expected) in [
            (0o700, true),
            (0o755, true),
            (0o770, false),
            (0o702, false),
            (0o1777, false),
        ] {
            fs::set_permissions(dir.path(), PermissionsExt::from_mode(mode)).unwrap();
            let tried = Listener::bind(&addr, &[]);
            assert_eq!(tried.is_ok(), expected, "{mode:o}");
            if let Err(error) = tried {
                assert!(error.is_configuration(), "{error}");
                assert!(
                    error.to_string().contains(&format!("mode {mode:04o}")),
                    "{error}"
                );
            }
        }
        fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o700)).unwrap();
        let theirs = is_ours(&path, own + 1);
        assert_eq!(theirs.is_ok(), own == 0, "of root or of the user");
    }

    #[test]
    fn the_own_user_root_and_who_is_named_may_connect() {
        let users = Users {
            own: 7,
            others: [9].into(),
        };
        for (uid, expected) in [(7, true), (0, true), (9, true), (8, false), (65_534, false)] {
            assert_eq!(users.may_connect(uid), expected, "{uid}");
        }
    }
}
