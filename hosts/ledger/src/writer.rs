//! The one thread that writes: whoever asks meanwhile is in its next commit.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{bounded, Receiver, RecvTimeoutError, Sender, TrySendError};
use tokio::sync::oneshot;

use crate::digest::Digest;
use crate::intent::Intent;
use crate::journal::{Entry, Head, Verdict};
use crate::name::Name;
use crate::store::{Balance, Store, StoreError};

/// Postings of one commit: a batch is full when it has as many.
const BATCH_POSTINGS: usize = 65_536;
/// Without anything to do for so long, it looks whether it should stop.
const IDLE: Duration = Duration::from_millis(50);

/// Asks the thread that writes. Clones ask the same one.
#[derive(Clone, Debug)]
pub struct Ledger {
    asks: Sender<Ask>,
}

/// What that thread runs. It can be run again after it failed, with a store that was opened again: those that wait then are
/// answered by the next.
#[derive(Clone, Debug)]
pub struct Writer {
    asks: Receiver<Ask>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// More wait than may. Nothing was done.
    #[error("more wait for the ledger than it takes")]
    Busy,
    /// The store failed. An intent may have been accepted or not: the same one again will tell.
    #[error("the ledger does not answer: {0}")]
    Unknown(Arc<str>),
}

#[derive(Debug)]
enum Ask {
    Settle(Intent, Reply<Verdict>),
    Run(Digest, Reply<Option<Entry>>),
    Epoch(Name, Name, Reply<Option<Entry>>),
    Balance(Name, Reply<Balance>),
    Head(Reply<Head>),
}

type Reply<T> = oneshot::Sender<Result<T, Unanswered>>;

/// A ledger and its writer, between which `queue` asks may wait.
pub fn ledger(queue: usize) -> (Ledger, Writer) {
    let (sender, receiver) = bounded(queue);
    (Ledger { asks: sender }, Writer { asks: receiver })
}

impl Ledger {
    /// Settles an intent. What is told as accepted is in the journal.
    ///
    /// # Errors
    /// Too many wait; or the store fails, and it is unknown whether it was accepted.
    ///
    /// # Cancel safety
    /// Once it was polled, dropping it may or may not keep the intent from being accepted.
    pub async fn settle(&self, intent: Intent) -> Result<Verdict, Unanswered> {
        self.ask(|reply| Ask::Settle(intent, reply)).await
    }

    /// The entry of a run.
    ///
    /// # Errors
    /// Too many wait, or the store fails.
    pub async fn run(&self, run_key: Digest) -> Result<Option<Entry>, Unanswered> {
        self.ask(|reply| Ask::Run(run_key, reply)).await
    }

    /// The entry of an epoch.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn epoch(&self, tenant: Name, epoch_id: Name) -> Result<Option<Entry>, Unanswered> {
        self.ask(|reply| Ask::Epoch(tenant, epoch_id, reply)).await
    }

    /// What an account was credited and debited with.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn balance(&self, account: Name) -> Result<Balance, Unanswered> {
        self.ask(|reply| Ask::Balance(account, reply)).await
    }

    /// Where the journal ends.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn head(&self) -> Result<Head, Unanswered> {
        self.ask(Ask::Head).await
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.asks.len()
    }

    /// How many may wait.
    pub fn capacity(&self) -> usize {
        self.asks.capacity().unwrap_or(usize::MAX)
    }

    async fn ask<T>(&self, make: impl FnOnce(Reply<T>) -> Ask) -> Result<T, Unanswered> {
        let (reply, answer) = oneshot::channel();
        let gone = || Unanswered::Unknown("it has stopped".into());
        self.asks
            .try_send(make(reply))
            .map_err(|error| match error {
                TrySendError::Full(_) => Unanswered::Busy,
                TrySendError::Disconnected(_) => gone(),
            })?;
        answer.await.map_err(|_| gone())?
    }
}

impl Writer {
    /// Answers until `stop` says so and nobody waits any more, or no [`Ledger`] is left. Blocks its thread.
    ///
    /// # Errors
    /// The store failed. Whoever was asking was told so; what still waits is left to the next run.
    pub fn run(&self, store: &mut dyn Store, stop: impl Fn() -> bool) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        loop {
            match self.asks.recv_timeout(IDLE) {
                Ok(Ask::Settle(intent, reply)) => {
                    batch.take(intent, reply);
                    self.fill(&mut batch, store)?;
                }
                Ok(other) => answer(store, other)?,
                Err(RecvTimeoutError::Timeout) if !stop() => store.rest()?,
                Err(_) => return store.rest(),
            }
        }
    }

    /// Takes what waits along, as far as it goes into one commit, and commits.
    fn fill(&self, batch: &mut Batch, store: &mut dyn Store) -> Result<(), StoreError> {
        while batch.postings < BATCH_POSTINGS {
            match self.asks.try_recv() {
                Ok(Ask::Settle(intent, reply)) => batch.take(intent, reply),
                Ok(other) => {
                    batch.commit(store)?;
                    return answer(store, other);
                }
                Err(_) => break,
            }
        }
        batch.commit(store)
    }
}

#[derive(Debug, Default)]
struct Batch {
    intents: Vec<Intent>,
    replies: Vec<Reply<Verdict>>,
    postings: usize,
}

impl Batch {
    fn take(&mut self, intent: Intent, reply: Reply<Verdict>) {
        // Whoever asked does not wait any more: the same one again will tell.
        if reply.is_closed() {
            return;
        }
        self.postings += intent.postings().len();
        self.intents.push(intent);
        self.replies.push(reply);
    }

    fn commit(&mut self, store: &mut dyn Store) -> Result<(), StoreError> {
        self.postings = 0;
        if self.intents.is_empty() {
            return Ok(());
        }
        let settled = store.settle(std::mem::take(&mut self.intents));
        let replies = self.replies.drain(..);
        match settled {
            Ok(verdicts) => {
                for (reply, verdict) in replies.zip(verdicts) {
                    let _ = reply.send(Ok(verdict));
                }
                Ok(())
            }
            Err(error) => {
                let told: Arc<str> = error.to_string().into();
                for reply in replies {
                    let _ = reply.send(Err(Unanswered::Unknown(told.clone())));
                }
                Err(error)
            }
        }
    }
}

fn answer(store: &mut dyn Store, ask: Ask) -> Result<(), StoreError> {
    fn send<T>(reply: Reply<T>, found: Result<T, StoreError>) -> Result<(), StoreError> {
        let (told, result) = match found {
            Ok(found) => (Ok(found), Ok(())),
            Err(error) => (
                Err(Unanswered::Unknown(error.to_string().into())),
                Err(error),
            ),
        };
        // Whoever does not wait any more needs no answer.
        let _ = reply.send(told);
        result
    }
    match ask {
        Ask::Settle(intent, reply) => {
            let mut batch = Batch::default();
            batch.take(intent, reply);
            batch.commit(store)
        }
        Ask::Run(key, reply) => send(reply, store.run(&key)),
        Ask::Epoch(tenant, epoch, reply) => send(reply, store.epoch(&tenant, &epoch)),
        Ask::Balance(account, reply) => send(reply, store.balance(&account)),
        Ask::Head(reply) => send(reply, store.head()),
    }
}
