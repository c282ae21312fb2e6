//! What the server listens on: a TCP listener, or a Unix socket that it owns the file of.

use std::fmt;
use std::io;
use std::net::TcpListener;
use std::task::{Context, Poll};

#[cfg(unix)]
use std::fs::{self, Permissions};
#[cfg(unix)]
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
#[cfg(unix)]
use std::os::unix::net::{UnixListener, UnixStream};
#[cfg(unix)]
use std::path::{Path, PathBuf};

/// A bound listener, not yet part of a runtime.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixListener, SocketFile),
}

impl Listener {
    pub(super) fn tcp(listener: TcpListener) -> io::Result<Listener> {
        listener.set_nonblocking(true)?;
        Ok(Listener::Tcp(listener))
    }

    /// Binds under a name of its own, narrows the mode, then links the final name: nobody can connect in between, and
    /// linking fails where renaming would replace.
    #[cfg(unix)]
    pub(super) fn unix(path: &Path) -> io::Result<Listener> {
        let mut name = path.as_os_str().to_os_string();
        name.push(format!(".{}", std::process::id()));
        let private = PathBuf::from(name);

        clear_dead_socket(path)?;
        // Left behind only by a process that had this id and died on this spot.
        clear_dead_socket(&private)?;
        let listener = UnixListener::bind(&private)?;
        let linked = fs::set_permissions(&private, Permissions::from_mode(0o600))
            .and_then(|()| fs::hard_link(&private, path))
            .and_then(|()| SocketFile::of(path));
        fs::remove_file(&private)?;
        let file = linked.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => io::ErrorKind::AddrInUse.into(),
            _ => error,
        })?;
        listener.set_nonblocking(true)?;
        Ok(Listener::Unix(listener, file))
    }

    /// Makes it part of the current runtime.
    pub(super) fn register(self) -> io::Result<Registered> {
        Ok(match self {
            Listener::Tcp(listener) => {
                Registered::Tcp(tokio::net::TcpListener::from_std(listener)?)
            }
            #[cfg(unix)]
            Listener::Unix(listener, file) => {
                Registered::Unix(tokio::net::UnixListener::from_std(listener)?, file)
            }
        })
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listener::Tcp(listener) => match listener.local_addr() {
                Ok(addr) => addr.fmt(f),
                Err(_) => f.write_str("a listener without an address"),
            },
            #[cfg(unix)]
            Listener::Unix(_, file) => file.path.display().fmt(f),
        }
    }
}

/// A listener that accepts.
pub(super) enum Registered {
    Tcp(tokio::net::TcpListener),
    #[cfg(unix)]
    Unix(tokio::net::UnixListener, #[allow(dead_code)] SocketFile), // held for its drop
}

/// A connection just accepted.
pub(super) enum Stream {
    Tcp(tokio::net::TcpStream),
    #[cfg(unix)]
    Unix(tokio::net::UnixStream),
}

impl Registered {
    pub(super) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        match self {
            Registered::Tcp(listener) => listener
                .poll_accept(cx)
                .map_ok(|(stream, _)| Stream::Tcp(stream)),
            #[cfg(unix)]
            Registered::Unix(listener, _) => listener
                .poll_accept(cx)
                .map_ok(|(stream, _)| Stream::Unix(stream)),
        }
    }
}

/// A socket file that is removed when its server ends, unless another socket has taken the name.
#[cfg(unix)]
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    id: (u64, u64),
}

#[cfg(unix)]
impl SocketFile {
    fn of(path: &Path) -> io::Result<SocketFile> {
        Ok(SocketFile {
            path: path.to_path_buf(),
            id: inode(path)?,
        })
    }
}

#[cfg(unix)]
impl Drop for SocketFile {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|id| id == self.id) {
            // Nobody is left to report a failure to; a dead socket is replaced at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(unix)]
fn inode(path: &Path) -> io::Result<(u64, u64)> {
    let meta = fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

/// Removes a socket that nobody answers on. Anything else that has the name is an error.
#[cfg(unix)]
fn clear_dead_socket(path: &Path) -> io::Result<()> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !meta.file_type().is_socket() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // It answers, or it is alive and its queue is full.
        Ok(_) | Err(_) => Err(io::ErrorKind::AddrInUse.into()),
    }
}
