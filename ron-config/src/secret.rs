//! A value that no output shows.

use std::fmt;

use serde::{Serialize, Serializer};
use zeroize::Zeroize;

/// What every output prints in place of a secret.
pub(crate) const REDACTED: &str = "***";

/// A value that is read from the configuration and never written anywhere.
///
/// `Debug` and `Serialize` print `***`, and so do diffs, errors, `explain`, `print` and source snippets; there is no
/// `Display`. The value is overwritten with zeroes when it is dropped, and so are the text of the file and the
/// environment pairs it was read from. Copies made by the caller from [`expose`](Self::expose) are the caller's.
///
/// Equality is not constant-time; it exists so that a reload can tell whether the secret changed.
///
/// ```
/// let token = ron_config::Secret::new("hunter2".to_string());
/// assert_eq!(format!("{token:?}"), "***");
/// assert_eq!(token.expose(), "hunter2");
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret<V: Zeroize>(V);

impl<V: Zeroize> Secret<V> {
    /// Wraps a value.
    pub fn new(value: V) -> Self {
        Self(value)
    }

    /// The value itself. Keep the borrow short, and put it in no log line.
    pub fn expose(&self) -> &V {
        &self.0
    }
}

impl<V: Zeroize> Drop for Secret<V> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl<V: Zeroize> fmt::Debug for Secret<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl<V: Zeroize> Serialize for Secret<V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(REDACTED)
    }
}
