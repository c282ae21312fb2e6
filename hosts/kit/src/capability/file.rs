//! The keyring's file: who may have seen it, how it is replaced, whether it has changed.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use zeroize::Zeroizing;

use super::keyring::{Keyring, ParseError};

/// Largest file: as many keys and revocations as a keyring takes, and room for comments.
const FILE_MAX: u64 = 2 * 1024 * 1024;

/// A keyring that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyringError {
    /// The system refused.
    #[error("{path}: cannot {action}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A directory, a pipe, a device.
    #[error("{path}: expected a file")]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// Others than its owner may read or change it.
    #[error("{path}: mode {mode:04o} opens it to others; run `chmod 0600 {path}`, and rotate if anybody may have read it")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It belongs to somebody else.
    #[error(
        "{path}: belongs to uid {owner}, and this is uid {uid}; run as its owner, or chown it"
    )]
    Owner {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who asks.
        uid: u32,
    },
    /// Larger than any keyring is.
    #[error("{path}: larger than {FILE_MAX} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It holds no keyring.
    #[error("{path}: not a keyring")]
    Content {
        /// The file.
        path: PathBuf,
        /// Where, and what would be right.
        source: ParseError,
    },
    /// Another process is changing it.
    #[error("{path}: another process is changing it; try again")]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// It is there already.
    #[error("{path}: exists; rotate it, or name another file")]
    Exists {
        /// The file.
        path: PathBuf,
    },
}

/// What a file looks like from outside. Another one means another content, permission or owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// That of the file at `path`: one `stat`.
    ///
    /// # Errors
    ///
    /// What the system says, as when there is no file.
    pub fn of(path: &Path) -> io::Result<Stamp> {
        fs::metadata(path).map(|metadata| Stamp::from(&metadata))
    }
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Stamp {
        Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl Keyring {
    /// Reads a file that belongs to the effective user and that nobody else may read or write.
    ///
    /// # Errors
    ///
    /// [`KeyringError`], with the file and what would be right.
    pub fn load(path: &Path) -> Result<Keyring, KeyringError> {
        read(path).map(|(keyring, _)| keyring)
    }

    /// Writes a new file of mode 0600.
    ///
    /// # Errors
    ///
    /// [`KeyringError::Exists`], [`KeyringError::Busy`], [`KeyringError::Io`].
    pub fn create(&self, path: &Path) -> Result<(), KeyringError> {
        let dir = lock(path)?;
        match path.symlink_metadata() {
            Ok(_) => Err(KeyringError::Exists {
                path: path.to_owned(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => replace(path, &dir, self),
            Err(error) => Err(failed(path, "look for it")(error)),
        }
    }

    /// Changes a file: reads it, lets `change` do its work, and puts a new one in its place, so that whoever reads it
    /// sees all of the change or nothing, after a crash too. Two processes never undo each other's change.
    ///
    /// # Errors
    ///
    /// Those of [`load`](Keyring::load), [`KeyringError::Busy`], and those of `change`, which leave the file as it was.
    pub fn update<T, E: From<KeyringError>>(
        path: &Path,
        change: impl FnOnce(&mut Keyring) -> Result<T, E>,
    ) -> Result<T, E> {
        // Through a link to the file: the link stays.
        let path = fs::canonicalize(path).map_err(failed(path, "find it"))?;
        let dir = lock(&path)?;
        let (mut keyring, _) = read(&path)?;
        let done = change(&mut keyring)?;
        replace(&path, &dir, &keyring)?;
        Ok(done)
    }
}

/// A keyring, and what its file looked like before it was read.
pub(super) fn read(path: &Path) -> Result<(Keyring, Stamp), KeyringError> {
    // A pipe would wait for a writer.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = file.map_err(failed(path, "open it"))?;
    let metadata = file.metadata().map_err(failed(path, "look at it"))?;
    if !metadata.is_file() {
        return Err(KeyringError::NotAFile {
            path: path.to_owned(),
        });
    }
    let uid = rustix::process::geteuid().as_raw();
    admit(path, metadata.mode(), metadata.uid(), uid)?;
    let large = || KeyringError::TooLarge {
        path: path.to_owned(),
    };
    if metadata.len() > FILE_MAX {
        return Err(large());
    }
    let room = usize::try_from(metadata.len()).unwrap_or_default() + 64;
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    file.take(FILE_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(failed(path, "read it"))?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(large());
    }
    let content = |source| KeyringError::Content {
        path: path.to_owned(),
        source,
    };
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        content(ParseError::Syntax {
            line: before.iter().filter(|byte| **byte == b'\n').count() + 1,
            problem: "not UTF-8".to_owned(),
        })
    })?;
    let keyring = Keyring::parse(text).map_err(content)?;
    Ok((keyring, Stamp::from(&metadata)))
}

/// Whether secrets may be taken from a file of this mode and owner.
fn admit(path: &Path, mode: u32, owner: u32, uid: u32) -> Result<(), KeyringError> {
    let (path, mode) = (path.to_owned(), mode & 0o7777);
    if mode & 0o077 != 0 {
        return Err(KeyringError::Exposed { path, mode });
    }
    if owner != uid {
        return Err(KeyringError::Owner { path, owner, uid });
    }
    Ok(())
}

fn failed<'a>(path: &'a Path, action: &'static str) -> impl FnOnce(io::Error) -> KeyringError + 'a {
    move |source| KeyringError::Io {
        path: path.to_owned(),
        action,
        source,
    }
}

/// The file's directory, which is locked as long as it is open.
fn lock(path: &Path) -> Result<File, KeyringError> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let dir = File::open(dir).map_err(failed(path, "open its directory"))?;
    match dir.try_lock() {
        Ok(()) => Ok(dir),
        Err(TryLockError::WouldBlock) => Err(KeyringError::Busy {
            path: path.to_owned(),
        }),
        Err(TryLockError::Error(error)) => Err(failed(path, "lock its directory")(error)),
    }
}

/// Puts a new file in place of the one at `path`, durably. The directory is locked, so the name beside it is ours.
fn replace(path: &Path, dir: &File, keyring: &Keyring) -> Result<(), KeyringError> {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    let beside = path.with_file_name(name);
    // Of a process that was killed.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed(&beside, "remove it")(error));
        }
        _ => {}
    }
    let written = (|| {
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(keyring.render().as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        dir.sync_all()
    })();
    written.map_err(|error| {
        // Where it was renamed already there is none.
        let _ = fs::remove_file(&beside);
        failed(path, "write it")(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_come_from_files_that_their_owner_alone_may_read() {
        let path = Path::new("keys.toml");
        for mode in [0o100_600, 0o100_400, 0o100_700, 0o600] {
            assert!(admit(path, mode, 7, 7).is_ok(), "{mode:o}");
        }
        for mode in [
            0o100_640, 0o604, 0o660, 0o602, 0o601, 0o610, 0o100_644, 0o777,
        ] {
            let error = admit(path, mode, 7, 7).unwrap_err();
            assert!(matches!(error, KeyringError::Exposed { .. }), "{mode:o}");
            let text = error.to_string();
            assert!(text.contains("`chmod 0600 keys.toml`"), "{text}");
            assert!(
                text.contains(&format!("mode {:04o}", mode & 0o7777)),
                "{text}"
            );
        }
        for (owner, uid) in [(0, 7), (7, 0)] {
            let error = admit(path, 0o600, owner, uid).unwrap_err();
            assert!(matches!(error, KeyringError::Owner { .. }), "{error}");
        }
    }
}
