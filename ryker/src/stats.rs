//! Histograms and counts of one mailbox that metrics are made of. Written by its receiver alone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::OnceLock;

use crate::observer::{DropReason, Outcome};

/// Upper bounds of the buckets, in milliseconds.
pub(crate) const BOUNDS_MS: [u64; 11] = [5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000];

/// Counts per bucket and their sum. Times are differences of coarse milliseconds: a single one is wrong by up to one
/// millisecond, a sum of many is not.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    buckets: [AtomicU64; BOUNDS_MS.len() + 1],
    sum_ms: AtomicU64,
}

impl Histogram {
    #[inline(always)]
    pub(crate) fn observe(&self, ms: u64) {
        let bucket = BOUNDS_MS
            .iter()
            .position(|bound| ms <= *bound)
            .unwrap_or(BOUNDS_MS.len());
        add(&self.buckets[bucket], 1);
        if ms > 0 {
            add(&self.sum_ms, ms);
        }
    }

    /// What it holds now: counts per bucket, not cumulated, the last one without a bound; and the sum.
    pub(crate) fn read(&self) -> Observed {
        Observed {
            buckets: std::array::from_fn(|i| self.buckets[i].load(Ordering::Relaxed)),
            sum_ms: self.sum_ms.load(Ordering::Relaxed),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Observed {
    pub(crate) buckets: [u64; BOUNDS_MS.len() + 1],
    pub(crate) sum_ms: u64,
}

impl Observed {
    pub(crate) fn add(&mut self, other: &Self) {
        for (sum, more) in self.buckets.iter_mut().zip(other.buckets) {
            *sum += more;
        }
        self.sum_ms += other.sum_ms;
    }
}

/// Histograms are made when they are first needed: most actors never time out, and many never handle anything.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    handled: [OnceLock<Box<Histogram>>; 3],
    waited: OnceLock<Box<Histogram>>,
    shutdown: AtomicU64,
    closed: AtomicU64,
    restarts: AtomicU64,
}

impl Stats {
    #[inline(always)]
    pub(crate) fn waited(&self, ms: u64) {
        self.waited.get_or_init(Box::default).observe(ms);
    }

    #[inline(always)]
    pub(crate) fn handled(&self, outcome: Outcome, ms: u64) {
        let histogram = match outcome {
            Outcome::Ok => &self.handled[0],
            Outcome::Timeout => &self.handled[1],
            Outcome::Error => &self.handled[2],
        };
        histogram.get_or_init(Box::default).observe(ms);
    }

    /// Accepted messages were dropped or aborted.
    pub(crate) fn dropped(&self, reason: DropReason, count: u64) {
        match reason {
            DropReason::Shutdown => add(&self.shutdown, count),
            DropReason::Closed => add(&self.closed, count),
            // Those are in the accounts.
            _ => {}
        }
    }

    pub(crate) fn restarted(&self) {
        add(&self.restarts, 1);
    }

    pub(crate) fn read(&self) -> Read {
        let of = |histogram: &OnceLock<Box<Histogram>>| histogram.get().map(|h| h.read());
        Read {
            handled: std::array::from_fn(|i| of(&self.handled[i])),
            waited: of(&self.waited),
            shutdown: self.shutdown.load(Ordering::Relaxed),
            closed: self.closed.load(Ordering::Relaxed),
            restarts: self.restarts.load(Ordering::Relaxed),
        }
    }
}

/// What the statistics of one or more mailboxes hold.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Read {
    /// By [`Outcome`]: ok, timeout, error.
    pub(crate) handled: [Option<Observed>; 3],
    pub(crate) waited: Option<Observed>,
    /// Accepted messages dropped or aborted by a drain.
    pub(crate) shutdown: u64,
    /// Accepted messages dropped or aborted otherwise.
    pub(crate) closed: u64,
    pub(crate) restarts: u64,
}

impl Read {
    pub(crate) fn add(&mut self, other: &Self) {
        let merge = |sum: &mut Option<Observed>, more: &Option<Observed>| {
            if let Some(more) = more {
                sum.get_or_insert_with(Observed::default).add(more);
            }
        };
        for (sum, more) in self.handled.iter_mut().zip(&other.handled) {
            merge(sum, more);
        }
        merge(&mut self.waited, &other.waited);
        self.shutdown += other.shutdown;
        self.closed += other.closed;
        self.restarts += other.restarts;
    }
}

/// Adds to a counter that only the calling thread writes.
#[inline(always)]
fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Ordering::Relaxed) + count, Ordering::Relaxed);
}
