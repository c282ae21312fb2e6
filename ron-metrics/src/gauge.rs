//! [`Gauge`] and [`FloatGauge`]: how much there is right now.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::Arc;

use crate::shard::add_f64;

/// A whole number that goes up and down. Cloning gives another handle to the same number.
///
/// One atomic cell: `set` has to be seen by every thread at once, so a gauge cannot be spread over threads as a
/// [`Counter`](crate::Counter) is. All operations are relaxed and wrap at the ends of `i64`.
#[derive(Clone, Debug, Default)]
pub struct Gauge {
    pub(crate) core: Arc<AtomicI64>,
}

impl Gauge {
    /// A gauge that belongs to no [`Metrics`](crate::Metrics).
    pub fn detached() -> Gauge {
        Gauge::default()
    }

    /// Replaces the value.
    #[inline]
    pub fn set(&self, value: i64) {
        self.core.store(value, Ordering::Relaxed);
    }

    /// Adds one.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// Takes one away.
    #[inline]
    pub fn dec(&self) {
        self.add(-1);
    }

    /// Adds `n`, which may be negative.
    #[inline]
    pub fn add(&self, n: i64) {
        self.core.fetch_add(n, Ordering::Relaxed);
    }

    /// The value now.
    pub fn value(&self) -> i64 {
        self.core.load(Ordering::Relaxed)
    }
}

/// A gauge for fractions: seconds, ratios, temperatures. Prefer [`Gauge`] for what can be counted.
#[derive(Clone, Debug, Default)]
pub struct FloatGauge {
    pub(crate) core: Arc<FloatCore>,
}

/// Bits of an `f64`; zero bits are 0.0.
#[derive(Debug, Default)]
pub struct FloatCore(AtomicU64);

impl FloatGauge {
    /// A gauge that belongs to no [`Metrics`](crate::Metrics).
    pub fn detached() -> FloatGauge {
        FloatGauge::default()
    }

    /// Replaces the value. NaN and infinities are exposed as such.
    #[inline]
    pub fn set(&self, value: f64) {
        self.core.0.store(value.to_bits(), Ordering::Relaxed);
    }

    /// Adds `n`, which may be negative. A retry loop under contention.
    #[inline]
    pub fn add(&self, n: f64) {
        self.core.add(n);
    }

    /// The value now.
    pub fn value(&self) -> f64 {
        self.core.value()
    }
}

impl FloatCore {
    pub(crate) fn add(&self, n: f64) {
        add_f64(&self.0, n);
    }

    pub(crate) fn value(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}
