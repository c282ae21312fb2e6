//! The socket: where it lies, who may have made what lies there, and its removal.

use crate::run_dir::SocketFile;
use rustix::io::Errno;
use rustix::net::{connect, socket_with, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::fs::{self, DirBuilder, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why the control socket was not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// The directory is a link or no directory.
    #[error("control socket: {} is {what}; it must be a directory and no link", .path.display())]
    NotDirectory {
        /// The directory.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The directory belongs to somebody else.
    #[error("control socket: {} belongs to uid {owner}, this process runs as uid {own}; name another directory by RON_RUN_DIR", .path.display())]
    Owner {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// This process's.
        own: u32,
    },
    /// Others may enter the directory.
    #[error("control socket: {} has mode {mode:04o}, which lets others in; make it 0700 (RuntimeDirectoryMode=0700 under systemd)", .path.display())]
    Mode {
        /// The directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The name of the service cannot be part of a file name.
    #[error("control socket: `{service}` cannot be a file name; a service is named by letters, digits, `-` and `_`")]
    Service {
        /// The name.
        service: String,
    },
    /// The path does not fit the system's 107 bytes.
    #[error("control socket: {} has {} bytes, a socket's path at most {PATH_MAX}; name a shorter directory by RON_RUN_DIR", .path.display(), .path.as_os_str().len())]
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// The system refused.
    #[error("control socket: {}: {what}: {source}", .path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// Bytes of a path that fit `sun_path` with its final NUL.
const PATH_MAX: usize = 107;

/// A bound socket; its file goes with it.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) listener: UnixListener,
    pub(crate) file: SocketFile,
}

/// Makes the directory if need be, checks it, removes dead sockets of the service, and listens.
pub(crate) fn open(dir: &Path, service: &str, instance: &str) -> Result<Socket, SocketError> {
    if !is_file_name(service) || !is_file_name(instance) {
        return Err(SocketError::Service {
            service: service.to_owned(),
        });
    }
    let own = rustix::process::geteuid().as_raw();
    prepare(dir, own)?;
    remove_dead(dir, service);
    let path = dir.join(format!("{service}.{instance}.sock"));
    // Bound under a name nobody looks for: it gets its mode, and listens, before it can be found.
    let hidden = dir.join(format!(".{service}.{instance}"));
    if path.as_os_str().len() > PATH_MAX {
        return Err(SocketError::TooLong { path });
    }
    let failed = |what| {
        let path = path.clone();
        move |source| SocketError::Io { path, what, source }
    };
    let listener = UnixListener::bind(&hidden).map_err(failed("cannot listen"))?;
    let placed = fs::set_permissions(&hidden, Permissions::from_mode(0o600))
        .and_then(|()| fs::hard_link(&hidden, &path))
        .and_then(|()| SocketFile::at(&path));
    let _ = fs::remove_file(&hidden);
    let file = placed.map_err(failed("cannot put it in place"))?;
    listener
        .set_nonblocking(true)
        .map_err(failed("cannot listen"))?;
    Ok(Socket { listener, file })
}

/// Neither hidden nor a path, and without the dot that parts service from instance.
fn is_file_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    !name.is_empty() && name.chars().all(allowed)
}

fn prepare(dir: &Path, own: u32) -> Result<(), SocketError> {
    let failed = |what| {
        let path = dir.to_path_buf();
        move |source| SocketError::Io { path, what, source }
    };
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed("cannot make the directory")(error)),
    }
    let meta = fs::symlink_metadata(dir).map_err(failed("cannot look at it"))?;
    check(dir, &meta, own)
}

fn check(dir: &Path, meta: &Metadata, own: u32) -> Result<(), SocketError> {
    let path = dir.to_path_buf();
    if !meta.is_dir() {
        let what = if meta.is_symlink() {
            "a symbolic link"
        } else {
            "no directory"
        };
        return Err(SocketError::NotDirectory { path, what });
    }
    if meta.uid() != own {
        let owner = meta.uid();
        return Err(SocketError::Owner { path, owner, own });
    }
    let mode = meta.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(SocketError::Mode { path, mode });
    }
    Ok(())
}

/// A name not yet final is left alone for so long: its socket may be about to listen.
const HIDDEN_FOR: Duration = Duration::from_secs(60);

/// Removes what killed processes of this service left. A socket that refuses is dead for good: it was listening
/// before it got its final name.
fn remove_dead(dir: &Path, service: &str) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let of_service = |name: &str| {
            let rest = name
                .strip_prefix(service)
                .and_then(|rest| rest.strip_prefix('.'));
            rest.map(str::to_owned)
        };
        let is_ours = of_service(name).is_some_and(|rest| rest.ends_with(".sock"));
        let is_old = || {
            let modified = entry.metadata().and_then(|meta| meta.modified());
            let age = modified.ok().and_then(|modified| modified.elapsed().ok());
            age.is_some_and(|age| age > HIDDEN_FOR)
        };
        let is_left = name.strip_prefix('.').and_then(of_service).is_some() && is_old();
        let is_socket = entry.file_type().is_ok_and(|kind| kind.is_socket());
        if (is_ours || is_left) && is_socket && is_dead(&entry.path()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Nobody listens. One that does not accept is alive: it is not waited for.
fn is_dead(path: &Path) -> bool {
    let (Ok(socket), Ok(address)) = (
        socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
            None,
        ),
        SocketAddrUnix::new(path),
    ) else {
        return false;
    };
    connect(&socket, &address) == Err(Errno::CONNREFUSED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn the_socket_is_private_and_goes_with_its_owner() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("run");
        let socket = open(&dir, "svc", "1-2").unwrap();
        let path = dir.join("svc.1-2.sock");
        assert_eq!((mode(&dir), mode(&path)), (0o700, 0o600));
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        UnixStream::connect(&path).unwrap();
        let other = open(&dir, "svc", "1-3").unwrap();
        drop(socket);
        assert!(!path.exists() && other.file.path.exists());
    }

    #[test]
    fn a_file_that_took_its_place_is_left_alone() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("run");
        let socket = open(&dir, "svc", "1-2").unwrap();
        let path = socket.file.path.clone();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "mine").unwrap();
        drop(socket);
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }

    #[test]
    fn dead_sockets_of_the_service_are_removed_and_nothing_else() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("run");
        let live = open(&dir, "svc", "1-1").unwrap();
        for name in ["svc.0-0.sock", "svc-b.0-0.sock"] {
            drop(UnixListener::bind(dir.join(name)).unwrap());
        }
        fs::write(dir.join("svc.0-1.sock"), "no socket").unwrap();
        let _second = open(&dir, "svc", "1-2").unwrap();
        let mut left: Vec<_> = fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        let expected = [
            "svc-b.0-0.sock",
            "svc.0-1.sock",
            "svc.1-1.sock",
            "svc.1-2.sock",
        ];
        assert_eq!(left, expected);
        UnixStream::connect(&live.file.path).unwrap();
    }

    #[test]
    fn a_directory_that_others_made_or_may_enter_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| base.path().join(name);
        let refused = |dir: &Path| open(dir, "svc", "1-2").unwrap_err().to_string();

        DirBuilder::new().mode(0o700).create(at("real")).unwrap();
        std::os::unix::fs::symlink(at("real"), at("link")).unwrap();
        assert!(refused(&at("link")).contains("is a symbolic link"));
        fs::write(at("file"), "").unwrap();
        assert!(refused(&at("file")).contains("is no directory"));
        fs::create_dir(at("open")).unwrap();
        fs::set_permissions(at("open"), Permissions::from_mode(0o750)).unwrap();
        assert!(refused(&at("open")).contains("has mode 0750, which lets others in; make it 0700"));
        assert!(refused(&at("none/below")).contains("cannot make the directory"));
        assert!(refused(&at(&"x".repeat(120))).contains("a socket's path at most 107"));
        let own = fs::metadata(base.path()).unwrap();
        let foreign = check(base.path(), &own, own.uid() + 1).unwrap_err();
        assert!(foreign.to_string().contains("belongs to uid"), "{foreign}");
        assert!(open(&at("real"), "a/b", "1").is_err());
        assert!(open(&at("real"), "a.b", "1").is_err());
    }

    /// Nobody waits for one that does not accept.
    #[test]
    fn a_socket_whose_queue_is_full_is_alive() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("hung.sock");
        let _hung = UnixListener::bind(&path).unwrap();
        let address = SocketAddrUnix::new(&path).unwrap();
        let mut queued = Vec::new();
        loop {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
            if connect(&socket, &address).is_err() {
                break;
            }
            queued.push(socket);
        }
        assert!(!is_dead(&path));
    }
}
