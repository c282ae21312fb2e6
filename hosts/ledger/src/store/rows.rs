//! Entries as rows of text, which both databases have.

use std::str::FromStr;

use super::StoreError;
use crate::intent::{postings_from_json, Intent, Run};
use crate::journal::Entry;

/// A row of `intents`.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) seq: i64,
    pub(super) run_key: String,
    pub(super) tenant: String,
    pub(super) epoch_id: String,
    pub(super) commitment: String,
    pub(super) funding_account: String,
    pub(super) total: String,
    /// As JSON.
    pub(super) postings: String,
    pub(super) paid: String,
    pub(super) prev: String,
    pub(super) root: String,
}

/// A value that was written as text, and is none any more where the bytes were changed.
fn read<T: FromStr>(seq: u64, column: &str, text: &str) -> Result<T, StoreError> {
    let damaged = |_| StoreError::damaged(seq, &format!("its {column} is none"));
    text.parse().map_err(damaged)
}

/// The entry of a row. It may still not be whole.
pub(super) fn entry(row: &Row) -> Result<Entry, StoreError> {
    let seq = row.seq as u64;
    let run = Run {
        run_key: read(seq, "run_key", &row.run_key)?,
        tenant: read(seq, "tenant", &row.tenant)?,
        epoch_id: read(seq, "epoch_id", &row.epoch_id)?,
        commitment: read(seq, "commitment", &row.commitment)?,
    };
    let funding = read(seq, "funding_account", &row.funding_account)?;
    let total = read(seq, "total", &row.total)?;
    let postings = postings_from_json(&row.postings);
    let postings = postings.ok_or_else(|| StoreError::damaged(seq, "its postings are none"))?;
    let intent = Intent::new(run, funding, total, postings)
        .map_err(|error| StoreError::damaged(seq, &error.to_string()))?;
    Ok(Entry {
        seq,
        intent,
        paid: read(seq, "paid", &row.paid)?,
        prev: read(seq, "prev", &row.prev)?,
        root: read(seq, "root", &row.root)?,
    })
}
