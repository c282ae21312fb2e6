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

/// What nearly every message adds to is at hand; histograms are made for the first message that is slow or fails.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    /// Handled well, and within the first bucket: how many, and in how many milliseconds.
    fast: [AtomicU64; 2],
    /// Waited no longer than the first bucket.
    brief: [AtomicU64; 2],
    slow: OnceLock<Box<Slow>>,
    restarts: AtomicU64,
}

#[derive(Debug, Default)]
struct Slow {
    ok: Histogram,
    waited: Histogram,
    timeout: OnceLock<Box<Histogram>>,
    error: OnceLock<Box<Histogram>>,
    shutdown: AtomicU64,
    closed: AtomicU64,
}

impl Stats {
    /// `count` messages waited no longer than the first bucket, together `sum_ms`.
    #[inline(always)]
    pub(crate) fn waited_briefly(&self, count: u64, sum_ms: u64) {
        add(&self.brief[0], count);
        add(&self.brief[1], sum_ms);
    }

    #[inline(always)]
    pub(crate) fn waited(&self, ms: u64) {
        if ms > BOUNDS_MS[0] {
            return self.slow().waited.observe(ms);
        }
        observe(&self.brief, ms);
    }

    #[inline(always)]
    pub(crate) fn handled(&self, outcome: Outcome, ms: u64) {
        if outcome == Outcome::Ok && ms <= BOUNDS_MS[0] {
            return observe(&self.fast, ms);
        }
        let slow = self.slow();
        match outcome {
            Outcome::Ok => &slow.ok,
            Outcome::Timeout => slow.timeout.get_or_init(Box::default),
            Outcome::Error => slow.error.get_or_init(Box::default),
        }
        .observe(ms);
    }

    #[cold]
    fn slow(&self) -> &Slow {
        self.slow.get_or_init(Box::default)
    }

    /// Accepted messages were dropped or aborted.
    pub(crate) fn dropped(&self, reason: DropReason, count: u64) {
        match reason {
            DropReason::Shutdown => add(&self.slow().shutdown, count),
            DropReason::Closed => add(&self.slow().closed, count),
            // Those are in the accounts.
            _ => {}
        }
    }

    pub(crate) fn restarted(&self) {
        add(&self.restarts, 1);
    }

    pub(crate) fn read(&self) -> Read {
        let slow = self.slow.get();
        let rare = |histogram: &OnceLock<Box<Histogram>>| histogram.get().map(|h| h.read());
        let sum = |first: &[AtomicU64; 2], rest: Option<Observed>| {
            let mut sum = rest.unwrap_or_default();
            sum.buckets[0] += first[0].load(Ordering::Relaxed);
            sum.sum_ms += first[1].load(Ordering::Relaxed);
            (sum.buckets != [0; BOUNDS_MS.len() + 1]).then_some(sum)
        };
        Read {
            handled: [
                sum(&self.fast, slow.map(|slow| slow.ok.read())),
                slow.and_then(|slow| rare(&slow.timeout)),
                slow.and_then(|slow| rare(&slow.error)),
            ],
            waited: sum(&self.brief, slow.map(|slow| slow.waited.read())),
            shutdown: slow.map_or(0, |slow| slow.shutdown.load(Ordering::Relaxed)),
            closed: slow.map_or(0, |slow| slow.closed.load(Ordering::Relaxed)),
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

#[inline(always)]
fn observe([count, sum_ms]: &[AtomicU64; 2], ms: u64) {
    add(count, 1);
    if ms > 0 {
        add(sum_ms, ms);
    }
}

/// Adds to a counter that only the calling thread writes.
#[inline(always)]
fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Ordering::Relaxed) + count, Ordering::Relaxed);
}
