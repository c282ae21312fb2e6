//! The child that keeps the journal: opens it, writes, and says how it is.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use ron_kernel::supervisor::ChildContext;
use ron_metrics::{Condition, Metrics, MetricsError};

use super::config::{LedgerSettings, StoreKind};
use super::metrics::Instruments;
use crate::store::{Memory, Postgres, Sqlite, Store, StoreError};
use crate::writer::{Ledger, Writer};

/// The most a file may say about where PostgreSQL is.
const CONNECTION_MAX: u64 = 4096;
const CAUSE: &str = "ledger";

/// What the child runs: it opens the journal anew in each incarnation, and whoever waits meanwhile is answered by the next.
#[derive(Clone, Debug)]
pub struct Keeper {
    settings: LedgerSettings,
    ledger: Ledger,
    writer: Writer,
    /// Made by the first incarnation, as a page has each of its families once.
    instruments: Arc<OnceLock<Arc<Instruments>>>,
}

impl Keeper {
    /// Of the journal that `settings` name, answering what `ledger` asks `writer`.
    pub fn new(settings: LedgerSettings, ledger: Ledger, writer: Writer) -> Keeper {
        Keeper {
            settings,
            ledger,
            writer,
            instruments: Arc::default(),
        }
    }

    fn instruments(&self, metrics: &Metrics) -> Result<Arc<Instruments>, MetricsError> {
        if let Some(instruments) = self.instruments.get() {
            return Ok(Arc::clone(instruments));
        }
        let instruments = Instruments::new(metrics, &self.ledger)?;
        Ok(Arc::clone(self.instruments.get_or_init(|| instruments)))
    }

    /// The body of the child. Blocks its thread until the child is stopped.
    ///
    /// # Errors
    /// The journal cannot be opened, or fails.
    pub fn run(&self, cx: &ChildContext) -> Result<(), KeeperError> {
        let Some(kernel) = cx.kernel() else {
            return Ok(());
        };
        let instruments = self.instruments(kernel.metrics())?;
        let health = kernel.metrics().health();
        let failed = |error: &StoreError| {
            health.set(CAUSE, condition(error));
            tracing::error!(event = "ledger_failed", %error, "the ledger does not answer: {error}");
        };
        let begun = Instant::now();
        let mut store = open(&self.settings).inspect_err(failed)?;
        let head = store.head().inspect_err(failed)?;
        let (seq, root, took_ms) = (head.seq, head.root, begun.elapsed().as_millis() as u64);
        tracing::info!(event = "ledger_open", seq, %root, took_ms, "the journal has {seq} entries, each checked");
        if self.settings.store == StoreKind::Memory {
            let reason = "the journal ends with the process: ledger.ephemeral";
            health.set("ledger_ephemeral", Condition::degraded(reason));
        }
        health.clear(CAUSE);
        cx.ready();
        let mut store = instruments.watch(store);
        let stopped = self.writer.run(&mut *store, || cx.is_stopping());
        Ok(stopped.inspect_err(failed)?)
    }
}

/// Why the child fails.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The journal.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The page of metrics.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}

/// What /readyz says, which is nothing of where the journal is.
fn condition(error: &StoreError) -> Condition {
    match error {
        StoreError::Damaged(what) => {
            Condition::fail_secure(format!("the journal is damaged: {what}"))
        }
        StoreError::Full(_) => Condition::not_ready("there is no room for the journal"),
        StoreError::InUse(_) => Condition::not_ready("another process uses the journal"),
        StoreError::Other { .. } => Condition::not_ready("it is no journal of this version"),
        StoreError::Failed(_) => Condition::not_ready("the store of the journal fails"),
    }
}

fn open(settings: &LedgerSettings) -> Result<Box<dyn Store>, StoreError> {
    Ok(match settings.store {
        StoreKind::Memory => Box::new(Memory::new()),
        StoreKind::Sqlite => Box::new(Sqlite::open(&settings.dir)?),
        StoreKind::Postgres => {
            let file = settings.postgres_file.as_deref().unwrap_or(Path::new(""));
            let other = |what: String| StoreError::Other {
                what: format!("ledger.postgres_file: {what}"),
                expected: "a file of mode 600 with `host=... user=... dbname=...`".to_owned(),
            };
            let text = secret(file).map_err(|error| other(error.to_string()))?;
            // What is wrong in it may be the password.
            let config = text
                .trim()
                .parse()
                .map_err(|_| other("no connection".to_owned()))?;
            Box::new(Postgres::open(&config, settings.patience)?)
        }
    })
}

/// A file that nobody else may read.
fn secret(path: &Path) -> std::io::Result<String> {
    let file = File::open(path)?;
    if file.metadata()?.mode() & 0o077 != 0 {
        return Err(std::io::Error::new(
            std::io::ErrorKind::PermissionDenied,
            "others may read it",
        ));
    }
    let mut text = String::new();
    file.take(CONNECTION_MAX).read_to_string(&mut text)?;
    Ok(text)
}
