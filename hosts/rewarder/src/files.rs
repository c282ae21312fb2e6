//! Reading and writing files, with their names in what goes wrong.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use svc_rewarder::SigningKey;
use zeroize::Zeroizing;

/// What went wrong with a file.
#[derive(Debug)]
pub(crate) struct Failure {
    path: PathBuf,
    what: String,
}

impl Failure {
    pub(crate) fn new(path: &Path, what: impl fmt::Display) -> Self {
        Failure {
            path: path.to_owned(),
            what: what.to_string(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.what)
    }
}

impl std::error::Error for Failure {}

/// All of a file of up to `max` bytes.
pub(crate) fn read(path: &Path, max: usize) -> Result<Vec<u8>, Failure> {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = File::open(path)?;
        file.take(max as u64 + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| Failure::new(path, error))?;
    if bytes.len() > max {
        return Err(Failure::new(path, format_args!("more than {max} bytes")));
    }
    Ok(bytes)
}

/// Writes a file, whatever was there.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    std::fs::write(path, bytes).map_err(|error| Failure::new(path, error))
}

/// Writes a signing key into a file of its owner's alone, which must not be there yet.
pub(crate) fn write_key(path: &Path, digits: &str) -> Result<(), Failure> {
    let options = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    let written = options.and_then(|mut file| {
        file.write_all(digits.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| Failure::new(path, error))
}

/// Reads a signing key from a file that nobody else may read.
pub(crate) fn read_key(path: &Path) -> Result<SigningKey, Failure> {
    let read = || -> io::Result<(u32, Zeroizing<String>)> {
        let file = File::open(path)?;
        let mode = file.metadata()?.mode();
        // So that it is not moved as it grows.
        let mut text = Zeroizing::new(String::with_capacity(128));
        file.take(66).read_to_string(&mut text)?;
        Ok((mode, text))
    };
    let (mode, text) = read().map_err(|error| Failure::new(path, error))?;
    if mode & 0o077 != 0 {
        let wrong = format_args!("others may read this key; chmod 600 it, and sign with a new one");
        return Err(Failure::new(path, wrong));
    }
    let key = SigningKey::from_hex(text.strip_suffix('\n').unwrap_or(&text));
    key.ok_or_else(|| Failure::new(path, "a signing key is 64 of 0-9 and a-f"))
}
