//! The control plane: every question of an operator over a Unix socket, and what the answers are made from.

mod diagnosis;
mod record;

pub use diagnosis::{Diagnosis, Finding, Gravity};
pub use record::{Entry, EntryKind};

pub(crate) use record::{News, Record};
