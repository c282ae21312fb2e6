//! What a reload changes, and when each change takes effect.

use std::fmt;

/// When a changed value takes effect in a running [`Runtime`](crate::Runtime).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReloadClass {
    /// At once, in actors that are running.
    Hot,
    /// When an actor is next restarted; a delay that has begun is not changed.
    NextRestart,
    /// Only in a new runtime: a reload reports the change and keeps the old value.
    Cold,
}

impl fmt::Display for ReloadClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hot => "hot",
            Self::NextRestart => "next restart",
            Self::Cold => "cold",
        })
    }
}

/// One key whose value differs between two configurations.
///
/// `Display` is `defaults.deadline: 1s -> 2s (hot)`. No value of these keys is a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// The key as files have it, `defaults.deadline`.
    pub key: &'static str,
    /// The value before, as files have it.
    pub old: String,
    /// The value after, as files have it.
    pub new: String,
    /// When the new value takes effect.
    pub reload: ReloadClass,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            key,
            old,
            new,
            reload,
        } = self;
        write!(f, "{key}: {old} -> {new} ({reload})")
    }
}
