//! A journal that ends with the process.

use std::collections::HashMap;

use super::{next, whole, Balance, Store, StoreError};
use crate::amount::Amount;
use crate::digest::Digest;
use crate::intent::{Intent, Posting};
use crate::journal::{settle, Entry, Head, Settled, Verdict};
use crate::name::Name;

/// A journal in memory: for tests, and where its loss costs nothing.
#[derive(Debug, Default)]
pub struct Memory {
    entries: Vec<Entry>,
    runs: HashMap<Digest, usize>,
    epochs: HashMap<(Name, Name), usize>,
    balances: HashMap<Name, Balance>,
}

impl Memory {
    /// An empty one.
    pub fn new() -> Memory {
        Memory::default()
    }

    fn at(&self, at: Option<&usize>) -> Result<Option<Entry>, StoreError> {
        let entry = at.and_then(|at| self.entries.get(*at));
        entry.cloned().map(whole).transpose()
    }

    fn append(&mut self, entry: Entry) {
        let at = self.entries.len();
        let intent = &entry.intent;
        self.runs.insert(*intent.run_key(), at);
        let epoch = (intent.tenant().clone(), intent.epoch_id().clone());
        self.epochs.insert(epoch, at);
        // No sum is beyond the range: see `Entry::paid`.
        let more = |to: &mut Amount, amount| *to = to.checked_add(amount).unwrap_or(*to);
        let funding = self.balances.entry(intent.funding_account().clone());
        more(&mut funding.or_default().debits, intent.total());
        for Posting(account, amount) in intent.postings() {
            let balance = self.balances.entry(account.clone()).or_default();
            more(&mut balance.credits, *amount);
        }
        self.entries.push(entry);
    }
}

impl Store for Memory {
    fn settle(&mut self, intents: Vec<Intent>) -> Result<Vec<Verdict>, StoreError> {
        let mut known = Vec::new();
        for intent in &intents {
            let epoch = (intent.tenant().clone(), intent.epoch_id().clone());
            known.extend(self.at(self.runs.get(intent.run_key()))?);
            known.extend(self.at(self.epochs.get(&epoch))?);
        }
        let Settled { verdicts, entries } = settle(self.head()?, known, intents);
        for entry in entries {
            self.append(entry);
        }
        Ok(verdicts)
    }

    fn run(&mut self, run_key: &Digest) -> Result<Option<Entry>, StoreError> {
        self.at(self.runs.get(run_key))
    }

    fn epoch(&mut self, tenant: &Name, epoch_id: &Name) -> Result<Option<Entry>, StoreError> {
        self.at(self.epochs.get(&(tenant.clone(), epoch_id.clone())))
    }

    fn balance(&mut self, account: &Name) -> Result<Balance, StoreError> {
        Ok(self.balances.get(account).copied().unwrap_or_default())
    }

    fn head(&mut self) -> Result<Head, StoreError> {
        Ok(self.entries.last().map_or_else(Head::empty, Entry::head))
    }

    fn audit(&mut self, each: &mut dyn FnMut(&Entry)) -> Result<Head, StoreError> {
        let mut head = Head::empty();
        for entry in &self.entries {
            next(&mut head, entry)?;
            each(entry);
        }
        Ok(head)
    }
}
