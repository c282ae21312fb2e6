//! Runs over HTTP: computed by a pool of threads, settled by the ledger, kept while that is not well.

mod config;
mod emitter;
mod library;
mod metrics;
mod registry;
mod routes;
mod tenants;
mod worker;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use ron_config::Watch;
use ron_metrics::{Metrics, MetricsError};
use svc_ledger::writer::Ledger;
use tokio::sync::mpsc;

use crate::quarantine::{Moment, Quarantine, RulesError};

use library::Library;
use registry::{Key, Registry};
use tenants::Tenants;
use worker::Job;

pub use config::{Config, RewarderSettings};
pub use metrics::Instruments;
pub use routes::routes;

/// Jobs that the channel holds at most; [`RewarderSettings::queue`] says how many there may be.
const QUEUE_MAX: usize = 1 << 16;

/// All that routes, workers and the emitter share.
#[derive(Debug)]
pub struct Service {
    settings: Watch<RewarderSettings>,
    ledger: Ledger,
    library: Library,
    state: Mutex<State>,
    tenants: Mutex<Tenants>,
    jobs: (Sender<Job>, Receiver<Job>),
    /// Runs to be sent: as many as the machine admits.
    emits: mpsc::Sender<Key>,
    to_emit: tokio::sync::Mutex<mpsc::Receiver<Key>>,
    began: Instant,
    instruments: std::sync::OnceLock<Arc<Instruments>>,
}

/// What is known of runs. They are one, as an admission decides about both.
#[derive(Debug)]
struct State {
    runs: Registry,
    machine: Quarantine<Key>,
}

impl Service {
    /// With the settings' files and rules, and this ledger.
    ///
    /// # Errors
    /// The rules contradict each other.
    pub fn new(settings: Watch<RewarderSettings>, ledger: Ledger) -> Result<Arc<Self>, RulesError> {
        let now = settings.clone().get().clone();
        let (emits, to_emit) = mpsc::channel(now.rules.pending.max(1));
        Ok(Arc::new(Service {
            library: Library::new(&now),
            state: Mutex::new(State {
                runs: Registry::new(now.runs, now.runs_bytes.bytes()),
                machine: Quarantine::new(now.rules, Duration::ZERO)?,
            }),
            tenants: Mutex::default(),
            jobs: crossbeam_channel::bounded(QUEUE_MAX),
            emits,
            to_emit: tokio::sync::Mutex::new(to_emit),
            began: Instant::now(),
            instruments: std::sync::OnceLock::new(),
            settings,
            ledger,
        }))
    }

    fn now(&self) -> Moment {
        self.began.elapsed()
    }

    fn settings(&self) -> Arc<RewarderSettings> {
        self.settings.clone().get().clone()
    }

    /// Nothing that is done under the lock panics half way.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// On this page; the same ones whoever asks first.
    fn instruments(&self, metrics: &Metrics) -> Result<Arc<Instruments>, MetricsError> {
        if let Some(instruments) = self.instruments.get() {
            return Ok(Arc::clone(instruments));
        }
        let instruments = Instruments::new(metrics)?;
        Ok(Arc::clone(self.instruments.get_or_init(|| instruments)))
    }

    /// Work that waits is below four fifths of what may.
    fn queue_is_low(&self) -> bool {
        self.jobs.0.len() * 5 < self.settings().queue * 4
    }
}
