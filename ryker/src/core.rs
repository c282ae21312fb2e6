//! What all mailboxes of a runtime share.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::futures::Notified;
use tokio::sync::Notify;

use crate::account::Accounts;
use crate::clock::Clock;
use crate::config::{RykerConfig, SpanLevel};
use crate::stats::Read;
#[cfg(feature = "metrics")]
use crate::stats::Stats;

/// A mailbox as its runtime sees it.
pub(crate) trait Resident: Send + Sync {
    fn name(&self) -> &Arc<str>;
    fn accounts(&self) -> Accounts;
    #[cfg(feature = "metrics")]
    fn stats(&self) -> &Stats;
    /// Messages in the mailbox, those in hand not counted.
    #[cfg(feature = "metrics")]
    fn depth(&self) -> u64;
    /// Takes nothing more in.
    fn drain(&self);
    /// Has what is left dropped.
    fn cut(&self);
    /// Whether nothing is queued or in hand any more; of an actor, whether it has ended.
    fn is_over(&self) -> bool;
}

pub(crate) struct Core {
    pub(crate) clock: Clock,
    pub(crate) hot: Hot,
    config: Mutex<Arc<RykerConfig>>,
    draining: AtomicBool,
    residents: Mutex<Residents>,
    changed: Notify,
}

/// Settings that a reload changes for mailboxes that exist.
pub(crate) struct Hot {
    deadline_ms: AtomicU64,
    batch: AtomicU32,
    yield_every: AtomicU32,
    metrics: AtomicBool,
    spans: AtomicU32,
}

impl Hot {
    #[inline(always)]
    pub(crate) fn deadline_ms(&self) -> u64 {
        self.deadline_ms.load(Ordering::Relaxed)
    }

    #[inline(always)]
    pub(crate) fn batch(&self) -> u32 {
        self.batch.load(Ordering::Relaxed)
    }

    #[inline(always)]
    pub(crate) fn yield_every(&self) -> u32 {
        self.yield_every.load(Ordering::Relaxed)
    }

    #[inline(always)]
    pub(crate) fn metrics(&self) -> bool {
        self.metrics.load(Ordering::Relaxed)
    }

    #[inline(always)]
    pub(crate) fn spans(&self) -> SpanLevel {
        match self.spans.load(Ordering::Relaxed) {
            0 => SpanLevel::Off,
            1 => SpanLevel::Error,
            2 => SpanLevel::Warn,
            3 => SpanLevel::Info,
            4 => SpanLevel::Debug,
            _ => SpanLevel::Trace,
        }
    }

    /// Whether single messages have spans.
    #[inline(always)]
    pub(crate) fn traces_messages(&self) -> bool {
        self.spans.load(Ordering::Relaxed) >= 4
    }

    fn set(&self, config: &RykerConfig) {
        let deadline_ms = config.deadline().as_millis() as u64;
        let spans = match config.span_level() {
            SpanLevel::Off => 0,
            SpanLevel::Error => 1,
            SpanLevel::Warn => 2,
            SpanLevel::Info => 3,
            SpanLevel::Debug => 4,
            SpanLevel::Trace => 5,
        };
        self.deadline_ms.store(deadline_ms, Ordering::Relaxed);
        self.batch.store(config.batch_messages(), Ordering::Relaxed);
        self.yield_every
            .store(config.yield_every_n_msgs(), Ordering::Relaxed);
        self.metrics
            .store(config.enable_metrics(), Ordering::Relaxed);
        self.spans.store(spans, Ordering::Relaxed);
    }
}

/// The mailboxes that exist, and the sums of those that existed, by name.
#[derive(Default)]
pub(crate) struct Residents {
    present: Vec<Option<Weak<dyn Resident>>>,
    free: Vec<usize>,
    departed: Departed,
}

/// Sums by name, in the order of names.
pub(crate) type Departed = Vec<(Arc<str>, Totals)>;

/// What mailboxes of one name add up to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) accounts: Accounts,
    pub(crate) stats: Read,
}

/// Names of mailboxes that are gone whose sums are kept apart; those of more are added to [`OTHERS`]. Metrics keep
/// their series, so a program that makes up names without end must not make series without end.
const DEPARTED_MAX: usize = 1_024;
/// The name under which sums beyond [`DEPARTED_MAX`] stand. No mailbox can have it.
pub(crate) const OTHERS: &str = "(others)";

/// Where a mailbox is registered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Residence(pub(crate) usize);

impl Core {
    pub(crate) fn new(config: RykerConfig) -> Self {
        let hot = Hot {
            deadline_ms: AtomicU64::new(0),
            batch: AtomicU32::new(0),
            yield_every: AtomicU32::new(0),
            metrics: AtomicBool::new(false),
            spans: AtomicU32::new(0),
        };
        hot.set(&config);
        Self {
            clock: Clock::new(),
            hot,
            config: Mutex::new(Arc::new(config)),
            draining: AtomicBool::new(false),
            residents: Mutex::default(),
            changed: Notify::new(),
        }
    }

    pub(crate) fn config(&self) -> Arc<RykerConfig> {
        Arc::clone(&locked(&self.config))
    }

    /// Replaces the configuration by what `change` makes of it.
    pub(crate) fn reconfigure<R>(
        &self,
        change: impl FnOnce(&RykerConfig) -> (RykerConfig, R),
    ) -> R {
        let mut config = locked(&self.config);
        let (new, result) = change(&config);
        self.hot.set(&new);
        *config = Arc::new(new);
        result
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Registers a mailbox, unless the runtime drains.
    pub(crate) fn register(&self, resident: Weak<dyn Resident>) -> Option<Residence> {
        let mut residents = locked(&self.residents);
        // Under the lock that `drain` takes, so that no mailbox slips by.
        if self.is_draining() {
            return None;
        }
        let place = match residents.free.pop() {
            Some(place) => {
                residents.present[place] = Some(resident);
                place
            }
            None => {
                residents.present.push(Some(resident));
                residents.present.len() - 1
            }
        };
        Some(Residence(place))
    }

    /// Keeps the sums of a mailbox that ends.
    pub(crate) fn deregister(&self, residence: Residence, name: &Arc<str>, last: Totals) {
        let mut residents = locked(&self.residents);
        residents.present[residence.0] = None;
        residents.free.push(residence.0);
        let departed = &mut residents.departed;
        let at = match departed.binary_search_by(|(known, _)| known.cmp(name)) {
            Ok(at) => at,
            Err(at) if departed.len() < DEPARTED_MAX => {
                departed.insert(at, (Arc::clone(name), Totals::default()));
                at
            }
            Err(_) => match departed.binary_search_by(|(known, _)| (**known).cmp(OTHERS)) {
                Ok(at) => at,
                Err(at) => {
                    departed.insert(at, (Arc::from(OTHERS), Totals::default()));
                    at
                }
            },
        };
        departed[at].1.add(&last);
    }

    /// Refuses whatever is new, and returns the mailboxes there are.
    pub(crate) fn drain(&self) -> Vec<Arc<dyn Resident>> {
        let residents = locked(&self.residents);
        self.draining.store(true, Ordering::Release);
        residents.present()
    }

    /// Mailboxes that exist, and the sums of those that are gone; each mailbox is in one of them.
    pub(crate) fn census(&self) -> (Vec<Arc<dyn Resident>>, Departed) {
        loop {
            let residents = locked(&self.residents);
            let registered = residents.present.iter().flatten().count();
            let present = residents.present();
            if present.len() == registered {
                return (present, residents.departed.clone());
            }
            // One is on its way out: it is dropped already and has not left its sums yet.
            // The lock first: whoever is last to let go of a mailbox takes it.
            drop(residents);
            drop(present);
            std::thread::yield_now();
        }
    }

    /// Something ended; whoever drains looks again.
    pub(crate) fn changed(&self) {
        if self.is_draining() {
            self.changed.notify_waiters();
        }
    }

    pub(crate) fn next_change(&self) -> Notified<'_> {
        self.changed.notified()
    }
}

impl Residents {
    fn present(&self) -> Vec<Arc<dyn Resident>> {
        let present = self.present.iter().flatten();
        present.filter_map(Weak::upgrade).collect()
    }
}

impl Totals {
    #[cfg(feature = "metrics")]
    pub(crate) fn of(resident: &dyn Resident) -> Self {
        Self {
            accounts: resident.accounts(),
            stats: resident.stats().read(),
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.accounts.add(&other.accounts);
        self.stats.add(&other.stats);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime")
            .field("config", &self.config())
            .field("draining", &self.is_draining())
            .finish_non_exhaustive()
    }
}
