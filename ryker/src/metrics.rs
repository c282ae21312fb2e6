//! What a runtime counts, for `prometheus-client` and for any other exporter. Feature `metrics`.
//!
//! [`Collector`] goes into a `prometheus-client` registry. Its type is of a 0.x crate, so this feature, unlike the rest
//! of ryker, follows that crate's breaking releases and is outside semver. [`Snapshot`] has the same values as plain
//! data, for exporters of another make.
//!
//! | metric | type | unit | labels | meaning |
//! |---|---|---|---|---|
//! | `ryker_mailbox_depth` | gauge | messages | `actor` | Messages in the mailbox, as of the scrape. Absent while `observability.queue_depth_sampling` is off, and for mailboxes that are gone. |
//! | `ryker_mailbox_dropped_total` | counter | messages | `actor`, `reason` | Messages refused, and accepted ones that were not handled to an end; see below. |
//! | `ryker_busy_rejections_total` | counter | messages | `actor` | Messages refused as the mailbox was full; the same number as `reason="capacity"`. |
//! | `ryker_handler_latency_seconds` | histogram | seconds | `actor`, `outcome` | Time from taking a message in hand to the end of its handler. |
//! | `ryker_queue_wait_seconds` | histogram | seconds | `actor` | Time from accepting a message to taking it in hand. |
//! | `ryker_actor_restarts_total` | counter | restarts | `actor` | Restarts by ryker's own supervision; a supervisor of one's own counts its own. |
//! | `ryker_yields_total` | counter | yields | `actor` | Times the reader gave way to other tasks although there was more to read. |
//! | `ryker_config_reload_total` | counter | configurations | `source` | Configurations put in force, `startup` the first of each runtime; over all runtimes of the process. |
//! | `ryker_config_reload_errors_total` | counter | configurations | `source`, `error` | Configurations refused, over the whole process. |
//!
//! Label `actor` is the name of an actor or mailbox. Those of one name add up. What those that are gone had counted
//! stays, so that counters never fall; beyond 1,024 names of mailboxes that are all gone, the sums of further ones go to
//! `actor="(others)"`, and the series of such a name ends with its last mailbox. While `observability.enable_metrics` is
//! off, there is nothing with label `actor`, and histograms take nothing in.
//!
//! | `reason` | counts |
//! |---|---|
//! | `capacity` | Refused: full, by count or by bytes. |
//! | `too_large` | Refused: larger than a message may be. |
//! | `closed` | Refused by a mailbox that is closed or draining. Accepted, and dropped as the mailbox ended without a drain, or in hand when the handler was aborted. |
//! | `deadline` | Refused: the deadline had passed. Accepted, and expired in the queue. Asks that were dropped unhandled because their caller had gone. |
//! | `shutdown` | Accepted, and dropped or cut off by a drain: what a longer deadline would have saved. |
//!
//! | `outcome` | the handler |
//! |---|---|
//! | `ok` | succeeded in time |
//! | `timeout` | was cancelled at the deadline of its message, or succeeded after it |
//! | `error` | returned an error, or panicked |
//!
//! A histogram appears with its first observation, and plain mailboxes, whose handling ryker does not see, have none of
//! handlers. Upper bounds are 5, 10, 20, 50, 100, 200 and 500 ms, 1, 2, 5 and 10 s. Times are differences of
//! [coarse](crate#one-deadline) milliseconds: a single one is wrong by up to 1 ms, so is the bucket of one that close to
//! a bound; sums over many are unbiased.
//!
//! Counting costs the receiver plain stores and senders nothing; all else is done by the scrape.
//!
//! ```
//! use prometheus_client::{encoding::text::encode, registry::Registry};
//! use ryker::{metrics::Collector, Runtime, RykerConfig};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let rt = Runtime::new(RykerConfig::default());
//! let mut registry = Registry::default();
//! registry.register_collector(Box::new(Collector::new(&rt)));
//!
//! let (jobs, _queue) = rt.mailbox("jobs").capacity(1).build()?.split();
//! jobs.try_send(1)?;
//! let refused = jobs.try_send(2).unwrap_err();
//! assert_eq!(refused.into_inner(), 2);
//!
//! let mut page = String::new();
//! encode(&mut page, &registry)?;
//! assert!(page.contains("\nryker_mailbox_depth{actor=\"jobs\"} 1\n"));
//! assert!(page.contains("\nryker_busy_rejections_total{actor=\"jobs\"} 1\n"));
//! # Ok(())
//! # }
//! ```

mod exposition;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub use exposition::Collector;

use crate::config::{self, ErrorKind, Source};
use crate::core::{Core, Totals};
use crate::observer::{DropReason, Outcome};
use crate::runtime::Runtime;
use crate::stats::{Observed, BOUNDS_MS};

/// All values of one runtime, each read once.
///
/// Other threads count meanwhile: values of one mailbox may be some messages apart.
#[derive(Clone, Debug)]
pub struct Snapshot {
    actors: Vec<ActorMetrics>,
    reloads: Vec<(Source, u64)>,
    reload_errors: Vec<(Source, ErrorKind, u64)>,
}

impl Snapshot {
    /// The values now.
    ///
    /// ```
    /// # use ryker::{metrics::Snapshot, DropReason, Runtime, RykerConfig};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let rt = Runtime::new(RykerConfig::default());
    /// let (jobs, _) = rt.mailbox("jobs").build()?.split();
    /// let refused = jobs.try_send(1);
    ///
    /// let snapshot = Snapshot::of(&rt);
    /// let [jobs] = snapshot.actors() else { panic!("there is one") };
    /// assert_eq!((jobs.name(), jobs.dropped(DropReason::Closed)), ("jobs", 1));
    /// # Ok(())
    /// # }
    /// ```
    pub fn of(runtime: &Runtime) -> Self {
        Self::read(&runtime.core)
    }

    fn read(core: &Core) -> Self {
        let config = core.config();
        Self {
            actors: if config.enable_metrics() {
                actors(core, config.queue_depth_sampling())
            } else {
                Vec::new()
            },
            reloads: config::reloads().collect(),
            reload_errors: config::errors().collect(),
        }
    }

    /// By name; none while `observability.enable_metrics` is off.
    pub fn actors(&self) -> &[ActorMetrics] {
        &self.actors
    }

    /// `ryker_config_reload_total`: every source, over all runtimes of the process.
    pub fn reloads(&self) -> &[(Source, u64)] {
        &self.reloads
    }

    /// `ryker_config_reload_errors_total`: every source and kind, over the whole process.
    pub fn reload_errors(&self) -> &[(Source, ErrorKind, u64)] {
        &self.reload_errors
    }
}

/// The values of the actors and mailboxes of one name.
#[derive(Clone, Debug)]
pub struct ActorMetrics {
    name: Arc<str>,
    depth: Option<u64>,
    totals: Totals,
}

impl ActorMetrics {
    /// The name; `(others)` for names beyond the limit.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `ryker_mailbox_depth`, if it is sampled and a mailbox of the name exists.
    pub fn depth(&self) -> Option<u64> {
        self.depth
    }

    /// `ryker_mailbox_dropped_total`. All reasons together are what was refused and what was accepted and expired,
    /// abandoned, dropped or aborted: see [`Accounts`](crate::Accounts).
    pub fn dropped(&self, reason: DropReason) -> u64 {
        let Totals { accounts, stats } = &self.totals;
        let refused = &accounts.refused;
        match reason {
            DropReason::Capacity => refused.busy,
            DropReason::TooLarge => refused.too_large,
            DropReason::Closed => refused.closed + refused.draining + stats.closed,
            DropReason::Deadline => refused.deadline + accounts.expired + accounts.abandoned,
            DropReason::Shutdown => stats.shutdown,
        }
    }

    /// `ryker_handler_latency_seconds`, if there was such an outcome.
    pub fn handler_latency(&self, outcome: Outcome) -> Option<Histogram> {
        let [ok, timeout, error] = self.totals.stats.handled;
        let observed = match outcome {
            Outcome::Ok => ok,
            Outcome::Timeout => timeout,
            Outcome::Error => error,
        };
        observed.map(Histogram)
    }

    /// `ryker_queue_wait_seconds`, if a message was taken.
    pub fn queue_wait(&self) -> Option<Histogram> {
        self.totals.stats.waited.map(Histogram)
    }

    /// `ryker_actor_restarts_total`.
    pub fn restarts(&self) -> u64 {
        self.totals.stats.restarts
    }

    /// `ryker_yields_total`.
    pub fn yields(&self) -> u64 {
        self.totals.accounts.yields
    }
}

/// Times observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Histogram(Observed);

impl Histogram {
    /// Buckets in rising order: inclusive upper bound and how many times fell between the bound before and this one.
    /// The last has no bound.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> {
        let bounds = BOUNDS_MS.into_iter().map(Duration::from_millis).map(Some);
        bounds.chain([None]).zip(self.0.buckets)
    }

    /// How many times were observed.
    pub fn count(&self) -> u64 {
        self.0.buckets.iter().sum()
    }

    /// All of them added up.
    pub fn sum(&self) -> Duration {
        Duration::from_millis(self.0.sum_ms)
    }
}

/// Adds up the mailboxes there are and those that are gone, by name.
fn actors(core: &Core, sampling: bool) -> Vec<ActorMetrics> {
    let (present, departed) = core.census();
    let mut by_name: BTreeMap<Arc<str>, (Option<u64>, Totals)> = departed
        .into_iter()
        .map(|(name, totals)| (name, (None, totals)))
        .collect();
    for resident in present {
        let (depth, totals) = by_name.entry(Arc::clone(resident.name())).or_default();
        if sampling {
            *depth = Some(depth.unwrap_or(0) + resident.depth());
        }
        totals.add(&Totals::of(&*resident));
    }
    by_name
        .into_iter()
        .map(|(name, (depth, totals))| ActorMetrics {
            name,
            depth,
            totals,
        })
        .collect()
}
