//! What was accepted: entries, each bound to all before it, and how an intent is answered.

use std::collections::HashMap;

use blake3::Hasher;
use serde::Serialize;

use crate::amount::Amount;
use crate::digest::Digest;
use crate::intent::Intent;
use crate::name::Name;

const CONTEXT: &str = "svc-ledger 2026-11-22 journal v1";

/// Where a journal ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Head {
    /// How many entries there are; the number of the last.
    pub seq: u64,
    /// The hash of all of them.
    pub root: Digest,
    /// What they paid together.
    pub paid: Amount,
}

impl Head {
    /// Of a journal without entries.
    pub fn empty() -> Head {
        Head {
            seq: 0,
            root: Hasher::new_derive_key(CONTEXT).finalize().into(),
            paid: Amount::ZERO,
        }
    }
}

/// An intent that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// 1 for the first, and no number is left out.
    pub seq: u64,
    /// What was asked for.
    pub intent: Intent,
    /// What was paid up to it, itself included: no account was ever credited or debited with more.
    pub paid: Amount,
    /// The root before it.
    pub prev: Digest,
    /// The hash of `prev`, `seq`, `paid` and the intent's hash: BLAKE3 in its mode for derived keys, numbers with their
    /// lowest byte first.
    pub root: Digest,
}

impl Entry {
    /// The one after `head`; `None` if all amounts together would be beyond the range.
    fn after(head: &Head, intent: Intent) -> Option<Entry> {
        let mut entry = Entry {
            seq: head.seq + 1,
            paid: head.paid.checked_add(intent.total())?,
            intent,
            prev: head.root,
            root: head.root,
        };
        entry.root = entry.hashed();
        Some(entry)
    }

    fn hashed(&self) -> Digest {
        let mut hasher = Hasher::new_derive_key(CONTEXT);
        hasher.update(self.prev.as_bytes());
        hasher.update(&self.seq.to_le_bytes());
        hasher.update(&self.paid.units().to_le_bytes());
        hasher.update(self.intent.digest().as_bytes());
        hasher.finalize().into()
    }

    /// It is what was accepted: nothing of it was changed since.
    pub fn is_whole(&self) -> bool {
        self.root == self.hashed()
    }

    /// It comes after `head` and is what was accepted.
    pub fn follows(&self, head: &Head) -> bool {
        self.seq == head.seq + 1
            && self.prev == head.root
            && head.paid.checked_add(self.intent.total()) == Some(self.paid)
            && self.is_whole()
    }

    /// Where the journal ended when it was accepted.
    pub fn head(&self) -> Head {
        Head {
            seq: self.seq,
            root: self.root,
            paid: self.paid,
        }
    }

    /// What its sender has in hand.
    pub fn receipt(&self) -> Receipt {
        Receipt {
            seq: self.seq,
            root: self.root,
        }
    }
}

/// Proof that an intent was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Receipt {
    /// The entry's number.
    pub seq: u64,
    /// The hash of the journal up to it.
    pub root: Digest,
}

/// What becomes of an intent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is in the journal now.
    Accepted(Receipt),
    /// It was before: the receipt of then.
    Dup(Receipt),
    /// Its key is that of another intent.
    KeyReused,
    /// Another run settled the epoch.
    EpochSettled {
        /// Which.
        by: Digest,
    },
    /// All amounts of the journal together would be beyond 2^128 - 1.
    Exhausted,
}

/// What a batch of intents comes to.
#[derive(Debug, Default)]
pub struct Settled {
    /// One for each of the intents, in their order.
    pub verdicts: Vec<Verdict>,
    /// To be appended, all or none.
    pub entries: Vec<Entry>,
}

/// Decides about `intents`, one after the other. `known` are the entries of their keys and epochs, as far as there are any.
pub fn settle(mut head: Head, known: Vec<Entry>, intents: Vec<Intent>) -> Settled {
    let mut runs = HashMap::new();
    let mut epochs = HashMap::new();
    for (at, entry) in known.iter().enumerate() {
        runs.insert(*entry.intent.run_key(), at);
        epochs.insert(epoch(&entry.intent), at);
    }
    let before = known.len();
    let mut all = known;
    let mut verdicts = Vec::with_capacity(intents.len());
    for intent in intents {
        let verdict = if let Some(&at) = runs.get(intent.run_key()) {
            if all[at].intent == intent {
                Verdict::Dup(all[at].receipt())
            } else {
                Verdict::KeyReused
            }
        } else if let Some(&at) = epochs.get(&epoch(&intent)) {
            let before = &all[at];
            if before.intent.is_same_payment(&intent) {
                Verdict::Dup(before.receipt())
            } else {
                let by = *before.intent.run_key();
                Verdict::EpochSettled { by }
            }
        } else if let Some(entry) = Entry::after(&head, intent) {
            head = entry.head();
            runs.insert(*entry.intent.run_key(), all.len());
            epochs.insert(epoch(&entry.intent), all.len());
            let receipt = entry.receipt();
            all.push(entry);
            Verdict::Accepted(receipt)
        } else {
            Verdict::Exhausted
        };
        verdicts.push(verdict);
    }
    let entries = all.split_off(before);
    Settled { verdicts, entries }
}

fn epoch(intent: &Intent) -> (Name, Name) {
    (intent.tenant().clone(), intent.epoch_id().clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Address;
    use crate::intent::{Posting, Run};

    fn intent(key: u8, epoch: &str, commitment: u8, amount: u128) -> Intent {
        let run = Run {
            run_key: Digest::new([key; 32]),
            tenant: "t".parse().unwrap(),
            epoch_id: epoch.parse().unwrap(),
            commitment: Address::new(Digest::new([commitment; 32])),
        };
        let amount = Amount::new(amount);
        let postings = vec![Posting("a".parse().unwrap(), amount)];
        Intent::new(run, "pool".parse().unwrap(), amount, postings).unwrap()
    }

    #[test]
    fn a_key_and_an_epoch_are_settled_once_and_the_same_again_is_told_its_receipt() {
        let first = settle(Head::empty(), Vec::new(), vec![intent(1, "e1", 1, 5)]);
        let [entry] = &*first.entries else {
            panic!("{first:?}")
        };
        assert!(entry.follows(&Head::empty()));
        assert_eq!(first.verdicts, [Verdict::Accepted(entry.receipt())]);
        let again = [
            (intent(1, "e1", 1, 5), Verdict::Dup(entry.receipt())),
            (intent(1, "e1", 1, 6), Verdict::KeyReused),
            (intent(1, "e1", 2, 5), Verdict::KeyReused),
            (intent(1, "e2", 1, 5), Verdict::KeyReused),
            (intent(2, "e1", 1, 5), Verdict::Dup(entry.receipt())),
            (
                intent(2, "e1", 2, 5),
                Verdict::EpochSettled {
                    by: Digest::new([1; 32]),
                },
            ),
            (
                intent(2, "e1", 1, 6),
                Verdict::EpochSettled {
                    by: Digest::new([1; 32]),
                },
            ),
        ];
        for (intent, verdict) in again {
            let told = format!("{intent:?}");
            // Known from before, or from the same batch.
            let later = settle(entry.head(), vec![entry.clone()], vec![intent.clone()]);
            assert_eq!(later.verdicts, std::slice::from_ref(&verdict), "{told}");
            assert!(later.entries.is_empty());
            let batch = vec![entry.intent.clone(), intent];
            let together = settle(Head::empty(), Vec::new(), batch);
            assert_eq!(together.verdicts[1], verdict, "{told}");
            assert_eq!(together.entries.len(), 1);
        }
    }

    #[test]
    fn what_all_amounts_come_to_has_a_limit() {
        let most = intent(1, "e1", 1, u128::MAX - 1);
        let batch = vec![most, intent(2, "e2", 1, 2), intent(3, "e3", 1, 1)];
        let settled = settle(Head::empty(), Vec::new(), batch);
        assert_eq!(settled.verdicts[1], Verdict::Exhausted);
        let paid: Vec<Amount> = settled.entries.iter().map(|entry| entry.paid).collect();
        assert_eq!(paid, [Amount::new(u128::MAX - 1), Amount::new(u128::MAX)]);
    }

    #[test]
    fn an_entry_that_was_changed_is_not_whole() {
        let batch = vec![intent(1, "e1", 1, 5), intent(2, "e2", 1, 7)];
        let entries = settle(Head::empty(), Vec::new(), batch).entries;
        assert!(entries[1].follows(&entries[0].head()));
        assert!(!entries[1].follows(&Head::empty()));
        let changes: [fn(&mut Entry); 5] = [
            |entry| entry.seq += 1,
            |entry| entry.paid = Amount::new(13),
            |entry| entry.prev = entry.root,
            |entry| entry.root = entry.prev,
            |entry| entry.intent = intent(2, "e2", 1, 8),
        ];
        for change in changes {
            let mut entry = entries[1].clone();
            change(&mut entry);
            assert!(!entry.is_whole(), "{entry:?}");
        }
        // Whole, and of other journals: after other entries, and as another number.
        let other = vec![intent(9, "e9", 1, 5), intent(2, "e2", 1, 7)];
        let other = settle(Head::empty(), Vec::new(), other).entries;
        assert_eq!(
            (other[1].seq, other[1].paid),
            (entries[1].seq, entries[1].paid)
        );
        assert!(other[1].is_whole() && !other[1].follows(&entries[0].head()));
        let alone = settle(Head::empty(), Vec::new(), vec![intent(2, "e2", 1, 7)]).entries;
        assert!(alone[0].is_whole() && !alone[0].follows(&entries[0].head()));
    }
}
