//! [`Histogram`]: how a measured quantity is distributed over fixed buckets.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::descriptor::{MetricsError, Rejected};
use crate::shard::{add_f64, Lanes, HOT_AFTER};

/// Buckets for the latency of a request, in seconds: 500 us to 10 s.
///
/// Every threshold the runbooks alert on is a bucket of its own (100, 250, 500 ms and 1 s), so that the share of
/// requests slower than the objective is read off without interpolation. Fourteen, because with `+Inf` and the sum a
/// thread's cells then fill exactly 128 bytes.
pub const LATENCY_BUCKETS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// At most this many finite bounds. Each bound is one series per label set; 64 is four times the largest default.
pub(crate) const BOUNDS_MAX: usize = 64;

/// Counts observations by upper bound, and sums them. Cloning gives another handle to the same histogram.
///
/// [`observe`](Histogram::observe) takes no lock; a hot histogram has a row of cells per thread. In every scrape
/// `_count` equals the `+Inf` bucket and every bucket includes those below it. `_sum` may differ from the counted
/// observations by those made while the scrape was reading.
#[derive(Clone, Debug)]
pub struct Histogram {
    pub(crate) core: Arc<HistogramCore>,
}

#[derive(Debug)]
pub struct HistogramCore {
    /// Finite upper bounds, inclusive, strictly increasing. Column i counts (bounds\[i-1\], bounds\[i\]]; the column
    /// after the last counts the rest.
    bounds: Bounds,
    cold: Box<[AtomicU64]>,
    cold_sum: AtomicU64,
    hot: OnceLock<Lanes>,
}

pub(crate) type Bounds = Arc<[f64]>;

/// What a scrape reads from one histogram.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Reading {
    pub(crate) sum: f64,
    /// Per bucket, not cumulative; the last one is `+Inf`.
    pub(crate) buckets: Vec<u64>,
}

impl Histogram {
    /// A histogram that belongs to no [`Metrics`](crate::Metrics).
    ///
    /// # Errors
    ///
    /// Bounds must be 1 to 64 finite numbers, strictly increasing.
    pub fn detached(bounds: &[f64]) -> Result<Histogram, MetricsError> {
        let bounds =
            check_bounds(bounds).map_err(|problem| MetricsError::invalid("histogram", problem))?;
        Ok(Histogram::from_bounds(bounds))
    }

    pub(crate) fn from_bounds(bounds: Bounds) -> Histogram {
        Histogram {
            core: Arc::new(HistogramCore::new(bounds)),
        }
    }

    /// Counts one observation. Bounds are inclusive. NaN is counted in the `+Inf` bucket and left out of the sum,
    /// which it would poison for ever.
    #[inline]
    pub fn observe(&self, value: f64) {
        self.core.observe(value);
    }

    /// Counts a duration, in seconds.
    #[inline]
    pub fn observe_duration(&self, value: Duration) {
        self.observe(value.as_secs_f64());
    }

    /// Observations so far.
    pub fn count(&self) -> u64 {
        self.core.read().buckets.iter().sum()
    }

    /// Sum of the observations so far.
    pub fn sum(&self) -> f64 {
        self.core.read().sum
    }
}

impl HistogramCore {
    pub(crate) fn new(bounds: Bounds) -> HistogramCore {
        HistogramCore {
            cold: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            cold_sum: AtomicU64::new(0),
            hot: OnceLock::new(),
            bounds,
        }
    }

    #[inline]
    fn observe(&self, value: f64) {
        // Linear: a dozen compares on one or two lines beat a binary search's mispredicted branches.
        let bucket = self
            .bounds
            .iter()
            .position(|bound| value <= *bound)
            .unwrap_or(self.bounds.len());
        let addend = if value.is_nan() { 0.0 } else { value };
        match self.hot.get() {
            Some(lanes) => {
                let row = lanes.row();
                row.add(bucket, 1);
                row.add_f64(self.bounds.len() + 1, addend);
            }
            None => self.observe_cold(bucket, addend),
        }
    }

    /// One row of cells until two threads meet on it, or until a bucket has proved hot.
    fn observe_cold(&self, bucket: usize, addend: f64) {
        let count = match self.cold.get(bucket) {
            Some(cell) => cell.fetch_add(1, Ordering::Relaxed),
            None => return,
        };
        let alone = add_f64(&self.cold_sum, addend);
        if !alone || count >= HOT_AFTER {
            self.hot.get_or_init(|| Lanes::new(self.bounds.len() + 2));
        }
    }

    pub(crate) fn read(&self) -> Reading {
        let hot = self.hot.get();
        let buckets = self
            .cold
            .iter()
            .enumerate()
            .map(|(column, cold)| {
                cold.load(Ordering::Relaxed) + hot.map_or(0, |lanes| lanes.sum(column))
            })
            .collect();
        let sum = f64::from_bits(self.cold_sum.load(Ordering::Relaxed))
            + hot.map_or(0.0, |lanes| lanes.sum_f64(self.bounds.len() + 1));
        Reading { sum, buckets }
    }

    pub(crate) fn bounds(&self) -> &[f64] {
        &self.bounds
    }

    /// Adds what another histogram with the same bounds had counted.
    pub(crate) fn absorb(&self, other: &Reading) {
        for (cell, n) in self.cold.iter().zip(&other.buckets) {
            cell.fetch_add(*n, Ordering::Relaxed);
        }
        add_f64(&self.cold_sum, other.sum);
    }
}

pub(crate) fn check_bounds(bounds: &[f64]) -> Result<Bounds, Rejected> {
    if bounds.is_empty() || bounds.len() > BOUNDS_MAX {
        return Err(Rejected::BucketCount {
            count: bounds.len(),
        });
    }
    let increasing = bounds
        .windows(2)
        .all(|pair| matches!(pair, [a, b] if a < b));
    if !increasing || bounds.iter().any(|bound| !bound.is_finite()) {
        return Err(Rejected::BucketOrder);
    }
    Ok(bounds.into())
}
