//! Where a journal is kept.

use std::fmt;

use crate::digest::Digest;
use crate::intent::Intent;
use crate::journal::{Entry, Head, Verdict};
use crate::name::Name;

mod accounts;
mod memory;
mod postgres;

mod rows;
mod sqlite;
mod witness;

pub use accounts::Balance;
pub use memory::Memory;
pub use postgres::Postgres;

pub use sqlite::Sqlite;

/// A journal that is kept. After an error but [`Damaged`](StoreError::Damaged) it has to be opened again: what was being
/// written may be there or not.
pub trait Store: Send + fmt::Debug {
    /// Decides about `intents`, and returns when what was accepted outlives whatever the store promises. All of it is
    /// appended, or none.
    ///
    /// # Errors
    /// Nothing can be said of any of them: they may have been accepted.
    fn settle(&mut self, intents: Vec<Intent>) -> Result<Vec<Verdict>, StoreError>;

    /// The entry of a run.
    ///
    /// # Errors
    /// The store fails, or what it gave is not what was accepted.
    fn run(&mut self, run_key: &Digest) -> Result<Option<Entry>, StoreError>;

    /// The entry of an epoch.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    fn epoch(&mut self, tenant: &Name, epoch_id: &Name) -> Result<Option<Entry>, StoreError>;

    /// What an account was credited and debited with.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    fn balance(&mut self, account: &Name) -> Result<Balance, StoreError>;

    /// Where the journal ends.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    fn head(&mut self) -> Result<Head, StoreError>;

    /// Reads the journal after `from`, each entry once, in order, and checks that each follows the one before; gives where
    /// it ends. From [`Head::empty`] on that is all of it.
    ///
    /// # Errors
    /// As [`run`](Self::run), or entries are missing.
    fn audit(&mut self, from: Head, each: &mut dyn FnMut(&Entry)) -> Result<Head, StoreError>;

    /// Makes sure that what it promises holds; called when nothing was asked for a while.
    ///
    /// # Errors
    /// The store fails.
    fn rest(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Why a store does not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// What is kept is not what was accepted. Nothing of the journal is to be believed until somebody has looked at it.
    #[error("the journal is damaged: {0}")]
    Damaged(String),
    /// There is no room for more.
    #[error("there is no room for the journal: {0}")]
    Full(String),
    /// Somebody else writes it.
    #[error("{0} is used by another process")]
    InUse(String),
    /// It is another's journal, or of another version.
    #[error("{what}: expected {expected}")]
    Other {
        /// What was found.
        what: String,
        /// What would be right.
        expected: String,
    },
    /// The disk, or the service, fails.
    #[error("{0}")]
    Failed(String),
}

impl StoreError {
    pub(crate) fn damaged(seq: u64, what: &str) -> StoreError {
        StoreError::Damaged(format!("entry {seq}: {what}"))
    }
}

/// An entry as it was read, if it is whole.
fn whole(entry: Entry) -> Result<Entry, StoreError> {
    if entry.is_whole() {
        Ok(entry)
    } else {
        Err(StoreError::damaged(
            entry.seq,
            "it is not what was accepted",
        ))
    }
}
