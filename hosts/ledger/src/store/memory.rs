//! A journal that ends with the process.

use std::collections::HashMap;

use super::accounts::{follow, Accounts};
use super::{whole, Balance, Store, StoreError};
use crate::digest::Digest;
use crate::intent::Intent;
use crate::journal::{settle, Entry, Head, Settled, Verdict};
use crate::name::Name;

/// A journal in memory: for tests, and where its loss costs nothing.
#[derive(Debug)]
pub struct Memory {
    entries: Vec<Entry>,
    runs: HashMap<Digest, usize>,
    epochs: HashMap<(Name, Name), usize>,
    accounts: Accounts,
}

impl Memory {
    /// An empty one.
    pub fn new() -> Memory {
        Memory {
            entries: Vec::new(),
            runs: HashMap::new(),
            epochs: HashMap::new(),
            accounts: Accounts::new(),
        }
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
        self.accounts.add(&entry);
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
        Ok(self.accounts.balance(account))
    }

    fn head(&mut self) -> Result<Head, StoreError> {
        Ok(self.accounts.head)
    }

    fn audit(&mut self, from: Head, each: &mut dyn FnMut(&Entry)) -> Result<Head, StoreError> {
        let mut head = from;
        for entry in self.entries.iter().skip(from.seq as usize) {
            follow(&mut head, entry)?;
            each(entry);
        }
        Ok(head)
    }
}

impl Default for Memory {
    fn default() -> Memory {
        Memory::new()
    }
}
