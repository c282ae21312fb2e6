//! What accounts were credited and debited with.

use std::collections::HashMap;

use super::StoreError;
use crate::amount::Amount;
use crate::intent::Posting;
use crate::journal::{Entry, Head};
use crate::name::Name;

/// What became of an account: no amount is beyond the range, as all amounts of the journal together are not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// What it received.
    pub credits: Amount,
    /// What it paid.
    pub debits: Amount,
}

/// The sums over a journal as far as it was read.
#[derive(Debug)]
pub(super) struct Accounts {
    /// How far.
    pub(super) head: Head,
    balances: HashMap<Name, Balance>,
}

impl Accounts {
    pub(super) fn new() -> Accounts {
        Accounts {
            head: Head::empty(),
            balances: HashMap::new(),
        }
    }

    /// The entry after the last.
    pub(super) fn add(&mut self, entry: &Entry) {
        let intent = &entry.intent;
        // No sum is beyond the range: see `Entry::paid`.
        let more = |to: &mut Amount, amount| *to = to.checked_add(amount).unwrap_or(*to);
        let funding = self.balances.entry(intent.funding_account().clone());
        more(&mut funding.or_default().debits, intent.total());
        for Posting(account, amount) in intent.postings() {
            let balance = self.balances.entry(account.clone()).or_default();
            more(&mut balance.credits, *amount);
        }
        self.head = entry.head();
    }

    pub(super) fn balance(&self, account: &Name) -> Balance {
        self.balances.get(account).copied().unwrap_or_default()
    }
}

/// The next entry of an audit.
pub(super) fn follow(head: &mut Head, entry: &Entry) -> Result<(), StoreError> {
    let (seq, last) = (entry.seq, head.seq);
    if !entry.is_whole() {
        return Err(StoreError::damaged(seq, "it is not what was accepted"));
    }
    if !entry.follows(head) {
        let told = format!("it does not follow entry {last}");
        return Err(StoreError::damaged(seq, &told));
    }
    *head = entry.head();
    Ok(())
}
