//! What the ledger tells of itself.

use std::sync::Arc;
use std::time::Instant;

use ron_metrics::{Counter, Gauge, Histogram, Metrics, MetricsError};

use crate::digest::Digest;
use crate::intent::Intent;
use crate::journal::{Entry, Head, Verdict};
use crate::name::Name;
use crate::store::{Balance, Store, StoreError};
use crate::writer::Ledger;

/// Counters and times of the thread that writes.
#[derive(Debug)]
pub struct Instruments {
    accepted: Counter,
    dup: Counter,
    conflict: Counter,
    refused: Counter,
    errors: Counter,
    seq: Gauge,
    commits: Histogram,
    batch: Histogram,
}

impl Instruments {
    /// On this page.
    ///
    /// # Errors
    /// It has a family of one of their names.
    pub fn new(metrics: &Metrics, ledger: &Ledger) -> Result<Arc<Instruments>, MetricsError> {
        let settled = metrics.counter_family::<Settled>(
            "ledger_settled_total",
            "Intents, by what became of them.",
        )?;
        let waiting = ledger.clone();
        let queue = metrics.gauge_collector(
            "ledger_queue_depth",
            "Requests that wait for the journal.",
            [],
        )?;
        queue
            .feed(move |samples| samples.push([], waiting.waiting() as f64))
            .keep();
        let of = |result: &'static str| settled.get(&Settled::new(result));
        Ok(Arc::new(Instruments {
            accepted: of("accepted"),
            dup: of("dup"),
            conflict: of("conflict"),
            refused: of("refused"),
            errors: metrics.counter(
                "ledger_store_errors_total",
                "Answers that the store of the journal did not give.",
            )?,
            seq: metrics.gauge("ledger_entries", "Entries of the journal.")?,
            commits: metrics.histogram(
                "ledger_commit_seconds",
                "From the first of a batch to its being kept.",
                &[
                    0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0,
                ],
            )?,
            batch: metrics.histogram(
                "ledger_batch_intents",
                "Intents in one commit.",
                &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1024.0],
            )?,
        }))
    }

    /// `store`, with what it does counted.
    pub(super) fn watch(self: &Arc<Self>, mut store: Box<dyn Store>) -> Box<dyn Store> {
        if let Ok(head) = store.head() {
            self.seq.set(head.seq as i64);
        }
        Box::new(Watched {
            store,
            instruments: Arc::clone(self),
        })
    }

    fn settled(&self, verdict: &Verdict) {
        match verdict {
            Verdict::Accepted(receipt) => {
                self.accepted.inc();
                self.seq.set(receipt.seq as i64);
            }
            Verdict::Dup(_) => self.dup.inc(),
            Verdict::KeyReused | Verdict::EpochSettled { .. } => self.conflict.inc(),
            Verdict::Exhausted => self.refused.inc(),
        }
    }
}

ron_metrics::labels! {
    struct Settled { result }
}

/// A store whose work is counted.
#[derive(Debug)]
struct Watched {
    store: Box<dyn Store>,
    instruments: Arc<Instruments>,
}

impl Watched {
    fn tell<T>(&self, found: Result<T, StoreError>) -> Result<T, StoreError> {
        found.inspect_err(|_| self.instruments.errors.inc())
    }
}

impl Store for Watched {
    fn settle(&mut self, intents: Vec<Intent>) -> Result<Vec<Verdict>, StoreError> {
        self.instruments.batch.observe(intents.len() as f64);
        let begun = Instant::now();
        let verdicts = self.store.settle(intents);
        let verdicts = self.tell(verdicts)?;
        self.instruments.commits.observe_duration(begun.elapsed());
        for verdict in &verdicts {
            self.instruments.settled(verdict);
        }
        Ok(verdicts)
    }

    fn run(&mut self, run_key: &Digest) -> Result<Option<Entry>, StoreError> {
        let found = self.store.run(run_key);
        self.tell(found)
    }

    fn epoch(&mut self, tenant: &Name, epoch_id: &Name) -> Result<Option<Entry>, StoreError> {
        let found = self.store.epoch(tenant, epoch_id);
        self.tell(found)
    }

    fn balance(&mut self, account: &Name) -> Result<Balance, StoreError> {
        let found = self.store.balance(account);
        self.tell(found)
    }

    fn head(&mut self) -> Result<Head, StoreError> {
        let found = self.store.head();
        self.tell(found)
    }

    fn audit(&mut self, from: Head, each: &mut dyn FnMut(&Entry)) -> Result<Head, StoreError> {
        let found = self.store.audit(from, each);
        self.tell(found)
    }

    fn rest(&mut self) -> Result<(), StoreError> {
        let rested = self.store.rest();
        self.tell(rested)
    }
}
