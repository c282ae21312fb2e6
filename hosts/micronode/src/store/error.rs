//! Why the store does not do what it should: what everybody may read of it, and what only the log has.

use std::error::Error;
use std::io::{self, ErrorKind};

use ron_host::PoolError;

use super::budget::Full;

/// Why an object could not be stored or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The budget does not allow it.
    #[error(transparent)]
    Full(#[from] Full),
    /// The disk, or the quota on it, does not allow it.
    #[error("the disk has no room")]
    NoSpace(#[source] io::Error),
    /// As much is under way as may be.
    #[error("as much is under way as this store takes")]
    Busy(Busy),
    /// What is stored is not the object of its address.
    #[error("the stored bytes are not those of this address")]
    Damaged,
    /// The store does not do what it should.
    #[error("{what}")]
    Unavailable {
        /// What could not be done and why. It is told to everybody, so it has no paths, names or addresses.
        what: String,
        /// All that is known of it, for the log.
        #[source]
        cause: Box<dyn Error + Send + Sync>,
    },
}

/// Of what there may be no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Busy {
    /// Bytes in memory of objects that are read.
    Reads,
    /// Work on the disk, in line.
    Work,
}

impl Busy {
    /// As a word.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Reads => "reads",
            Self::Work => "work",
        }
    }
}

impl StoreError {
    /// `what` is told to everybody, `cause` is for the log.
    pub(super) fn unavailable(
        what: impl Into<String>,
        cause: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::Unavailable {
            what: what.into(),
            cause: cause.into(),
        }
    }

    /// What the system said to it is told too.
    pub(super) fn system(what: &str, error: io::Error) -> Self {
        Self::unavailable(format!("{what}: {}", text_of(&error)), error)
    }

    pub(super) fn writing(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                Self::NoSpace(error)
            }
            _ => Self::system("the disk cannot be written", error),
        }
    }

    pub(super) fn reading(error: io::Error) -> Self {
        Self::system("the disk cannot be read", error)
    }

    /// Whether nothing was answered in time.
    pub(super) fn is_hang(&self) -> bool {
        matches!(self, Self::Unavailable { cause, .. } if cause.is::<PoolError>())
    }

    /// For the log: with its causes.
    pub(super) fn text(&self) -> String {
        let (mut text, mut source) = (self.to_string(), self.source());
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.ends_with(&cause_text) {
                text = format!("{text}: {cause_text}");
            }
            source = cause.source();
        }
        text
    }
}

impl From<PoolError> for StoreError {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Full { .. } => Self::Busy(Busy::Work),
            PoolError::Waited { .. } | PoolError::Late { .. } => {
                Self::unavailable(format!("the disk hangs: {error}"), error)
            }
            _ => Self::unavailable("work on the disk failed", error),
        }
    }
}

/// What the system says of an error that it has a number for; other errors may name what is nobody's business.
fn text_of(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => io::Error::from_raw_os_error(number).to_string(),
        None => error.kind().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_in_the_log_and_nowhere_else() {
        let named = io::Error::new(ErrorKind::NotFound, "/srv/objects/17 is not there");
        let error = StoreError::reading(named);
        assert_eq!(
            error.to_string(),
            "the disk cannot be read: entity not found"
        );
        assert!(error.text().contains("/srv/objects/17"));
        let numbered = StoreError::reading(io::Error::from_raw_os_error(5));
        let expected = "the disk cannot be read: Input/output error (os error 5)";
        assert_eq!(
            (&*numbered.to_string(), &*numbered.text()),
            (expected, expected)
        );
    }
}
