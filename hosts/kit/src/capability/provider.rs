//! The keyring of a running service.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::file::{read, KeyringError, Stamp};
use super::keyring::Keyring;
use super::verify::{verify, Denied, Grant, Request};

/// The keyring as its file is, for all requests of a service.
///
/// Whoever owns it calls [`changed`](KeyProvider::changed) at least twice a second, which is one `stat`, and
/// [`reload`](KeyProvider::reload) if it says so: revocations and new keys are then in force within a second. While the
/// file is gone, opened to others, or holds no keyring, everything is refused: an old keyring could allow what has been
/// revoked meanwhile.
#[derive(Debug)]
pub struct KeyProvider {
    path: PathBuf,
    loaded: RwLock<Loaded>,
    /// Held by a reload, so that what was read first never replaces what was read last.
    reloading: Mutex<()>,
}

/// Transitions: a reload replaces both; they are `None` together.
#[derive(Debug)]
struct Loaded {
    keyring: Option<Arc<Keyring>>,
    stamp: Option<Stamp>,
}

impl KeyProvider {
    /// Reads the file at `path`.
    ///
    /// # Errors
    ///
    /// Those of [`Keyring::load`].
    pub fn open(path: impl Into<PathBuf>) -> Result<KeyProvider, KeyringError> {
        let path = path.into();
        let (keyring, stamp) = read(&path)?;
        let loaded = RwLock::new(Loaded {
            keyring: Some(Arc::new(keyring)),
            stamp: Some(stamp),
        });
        Ok(KeyProvider {
            path,
            loaded,
            reloading: Mutex::new(()),
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a reload could make a difference. A file that could not be used is worth another look as long as it is
    /// there.
    pub fn changed(&self) -> bool {
        let stamp = Stamp::of(&self.path).ok();
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        stamp != loaded.stamp
    }

    /// Reads the file again and says whether it holds another keyring than before.
    ///
    /// # Errors
    ///
    /// Those of [`Keyring::load`]; from then on every request is refused with [`Denied::KeysUnavailable`], until a
    /// reload succeeds.
    pub fn reload(&self) -> Result<bool, KeyringError> {
        let _turn = self
            .reloading
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (keyring, stamp, result) = match read(&self.path) {
            Ok((keyring, stamp)) => (Some(Arc::new(keyring)), Some(stamp), Ok(())),
            Err(error) => (None, None, Err(error)),
        };
        let mut loaded = self.loaded.write().unwrap_or_else(PoisonError::into_inner);
        let differs = loaded.keyring != keyring;
        *loaded = Loaded { keyring, stamp };
        result.map(|()| differs)
    }

    /// The keyring.
    ///
    /// # Errors
    ///
    /// [`Denied::KeysUnavailable`] after a reload that failed.
    pub fn keyring(&self) -> Result<Arc<Keyring>, Denied> {
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        loaded.keyring.clone().ok_or(Denied::KeysUnavailable)
    }

    /// [`verify`] with the keyring as it is now.
    ///
    /// # Errors
    ///
    /// [`Denied`], with the first rule that refused.
    pub fn verify(&self, token: &str, request: &Request<'_>) -> Result<Grant, Denied> {
        let keyring = self.keyring()?;
        verify(token, &keyring, request)
    }
}
