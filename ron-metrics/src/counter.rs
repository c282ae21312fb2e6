//! [`Counter`]: how often something happened.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::shard::{Lanes, HOT_AFTER};

/// A number that only grows. Cloning gives another handle to the same number.
///
/// [`inc`](Counter::inc) takes no lock. Once two threads have met on a counter, or it was counted 65,536 times, every
/// thread adds to a cell of its own, so threads on different cores do not slow each other down. Wraps at 2^64.
///
/// # Ordering
///
/// Adds are relaxed: they order nothing else in the program. A [`value`](Counter::value) or a scrape contains every
/// add that happened before it.
#[derive(Clone, Debug, Default)]
pub struct Counter {
    pub(crate) core: Arc<CounterCore>,
}

#[derive(Debug, Default)]
pub struct CounterCore {
    /// Adds from before the counter got its lanes.
    cold: AtomicU64,
    hot: OnceLock<Lanes>,
}

impl Counter {
    /// A counter that belongs to no [`Metrics`](crate::Metrics): for code that counts whether or not anybody exposes
    /// it.
    pub fn detached() -> Counter {
        Counter::default()
    }

    /// Adds one.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    #[inline]
    pub fn add(&self, n: u64) {
        match self.core.hot.get() {
            Some(lanes) => lanes.row().add(0, n),
            None => self.core.add_cold(n),
        }
    }

    /// The sum so far.
    pub fn value(&self) -> u64 {
        self.core.value()
    }
}

impl CounterCore {
    /// One cell until two threads meet on it, or until it has proved hot.
    pub(crate) fn add_cold(&self, n: u64) {
        let cold = self.cold.load(Ordering::Relaxed);
        let new = cold.wrapping_add(n);
        let added = self
            .cold
            .compare_exchange(cold, new, Ordering::Relaxed, Ordering::Relaxed);
        if added.is_err() || new >= HOT_AFTER {
            let lanes = self.hot.get_or_init(|| Lanes::new(1));
            if added.is_err() {
                lanes.row().add(0, n);
            }
        }
    }

    pub(crate) fn value(&self) -> u64 {
        let cold = self.cold.load(Ordering::Relaxed);
        let hot = self.hot.get().map_or(0, |lanes| lanes.sum(0));
        cold.wrapping_add(hot)
    }
}
