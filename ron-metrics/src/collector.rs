//! [`Collector`]: a family whose values live elsewhere and are asked for at each scrape.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::descriptor::Descriptor;
use crate::exposition::{SeriesWriter, Source};
use crate::family::{DEFAULT_CAP, OVERFLOW};
use crate::histogram::{Reading, BOUNDS_MAX};
use crate::labels::Rendered;
use crate::registry::Refusals;

/// Counters with `N` labels, read at scrape. Values must never fall.
pub type CounterCollector<const N: usize> = Collector<u64, N>;
/// Counters of time with `N` labels, in seconds, read at scrape. Values must never fall.
pub type SecondsCollector<const N: usize> = Collector<Duration, N>;
/// Gauges with `N` labels, read at scrape.
pub type GaugeCollector<const N: usize> = Collector<f64, N>;
/// Histograms with `N` labels, read at scrape. Counts and sums must never fall.
pub type HistogramCollector<const N: usize> = Collector<Observations, N>;

/// A family with `N` labels that closures fill at each scrape. Cloning gives another handle to the same family.
///
/// Without labels (`N = 0`) the family is exposed as 0 while nobody feeds it.
pub struct Collector<V: Sample, const N: usize> {
    inner: Arc<Inner<V, N>>,
}

/// A value a collector can take: `u64` for counters, `Duration` for counters of time, `f64` for gauges,
/// [`Observations`] for histograms. Sealed.
pub trait Sample: sealed::Value {}

impl Sample for u64 {}
impl Sample for Duration {}
impl Sample for f64 {}
impl Sample for Observations {}

/// What a histogram that is kept elsewhere holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observations {
    counts: [u64; BOUNDS_MAX + 1],
    sum: f64,
}

impl Observations {
    /// `counts` per bucket in the order of the bounds, not cumulated, then those above the last bound; more are added
    /// to these. `sum` of all observations.
    pub fn new(counts: impl IntoIterator<Item = u64>, sum: f64) -> Observations {
        let mut observations = Observations {
            sum,
            ..Observations::default()
        };
        for (n, count) in counts.into_iter().enumerate() {
            observations.counts[n.min(BOUNDS_MAX)] += count;
        }
        observations
    }

    /// As the histogram with so many bounds would have read it.
    fn reading(&self, bounds: usize) -> Reading {
        let (within, above) = self.counts.split_at(bounds.min(BOUNDS_MAX));
        let mut buckets = within.to_vec();
        buckets.push(above.iter().sum());
        Reading {
            sum: self.sum,
            buckets,
        }
    }
}

impl Default for Observations {
    /// None.
    fn default() -> Observations {
        Observations {
            counts: [0; BOUNDS_MAX + 1],
            sum: 0.0,
        }
    }
}

impl<V: Sample, const N: usize> Collector<V, N> {
    pub(crate) fn new(
        descriptor: Arc<Descriptor>,
        labels: [&'static str; N],
        refused: Refusals,
    ) -> Collector<V, N> {
        Collector {
            inner: Arc::new(Inner {
                descriptor,
                labels,
                refused,
                feeds: Mutex::new(Vec::new()),
            }),
        }
    }

    pub(crate) fn source(&self) -> Arc<dyn Source> {
        self.inner.clone()
    }

    /// Adds a closure that is called once per scrape, until the returned guard drops.
    ///
    /// Samples with the same labels, from one closure or from several, are added up. Label sets beyond 1,000 are added
    /// to the overflow series and counted in `metrics_overflow_total{family}`, again at each scrape. A closure that
    /// panics contributes nothing to that scrape. It runs on the thread that renders, which serves the probes too: it
    /// must not block, and it must not render the metrics it feeds, which would wait for itself.
    pub fn feed(&self, read: impl FnMut(&mut Samples<V, N>) + Send + 'static) -> Feed {
        let read: SharedRead<V, N> = Arc::new(Mutex::new(read));
        self.inner.lock().push(read.clone());
        let family: Weak<dyn Remove<V, N>> =
            Arc::downgrade(&(self.inner.clone() as Arc<dyn Remove<V, N>>));
        Feed {
            remove: Some(Box::new(move || {
                if let Some(family) = family.upgrade() {
                    family.remove(&read);
                }
            })),
        }
    }
}

impl<V: Sample, const N: usize> Clone for Collector<V, N> {
    fn clone(&self) -> Self {
        Collector {
            inner: self.inner.clone(),
        }
    }
}

impl<V: Sample, const N: usize> fmt::Debug for Collector<V, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector")
            .field("name", &self.inner.descriptor.name)
            .field("feeds", &self.inner.lock().len())
            .finish()
    }
}

/// Keeps a closure in its [`Collector`]. Dropping it removes the closure; a scrape under way may still call it once.
#[must_use = "dropping it stops the feed; see `keep`"]
pub struct Feed {
    remove: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl Feed {
    /// Leaves the closure in place for as long as the metrics live.
    pub fn keep(mut self) {
        self.remove = None;
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        if let Some(remove) = self.remove.take() {
            remove();
        }
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").finish_non_exhaustive()
    }
}

/// Takes the samples of one scrape.
pub struct Samples<V: Sample, const N: usize> {
    labels: [&'static str; N],
    sums: BTreeMap<Rendered, V>,
    overflow: Option<V>,
    refused: u64,
}

impl<V: Sample, const N: usize> Samples<V, N> {
    fn new(labels: [&'static str; N]) -> Samples<V, N> {
        Samples {
            labels,
            sums: BTreeMap::new(),
            overflow: None,
            refused: 0,
        }
    }

    /// Adds a value to the series with these label values.
    pub fn push(&mut self, labels: [&str; N], value: V) {
        let key = Rendered::pairs(&self.labels, labels);
        let reserved = N > 0 && labels.iter().all(|value| *value == OVERFLOW);
        let full = self.sums.len() >= DEFAULT_CAP && !self.sums.contains_key(&key);
        if full || reserved {
            self.refused += u64::from(!reserved);
            self.overflow = Some(V::plus(self.overflow.unwrap_or_default(), value));
        } else {
            let sum = self.sums.entry(key).or_default();
            *sum = V::plus(*sum, value);
        }
    }

    fn absorb(&mut self, other: Samples<V, N>) {
        for (key, value) in other.sums {
            if self.sums.len() >= DEFAULT_CAP && !self.sums.contains_key(&key) {
                self.refused += 1;
                self.overflow = Some(V::plus(self.overflow.unwrap_or_default(), value));
            } else {
                let sum = self.sums.entry(key).or_default();
                *sum = V::plus(*sum, value);
            }
        }
        self.refused += other.refused;
        if let Some(value) = other.overflow {
            self.overflow = Some(V::plus(self.overflow.unwrap_or_default(), value));
        }
    }
}

impl<V: Sample, const N: usize> fmt::Debug for Samples<V, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Samples")
            .field("labels", &self.labels)
            .field("len", &self.sums.len())
            .finish()
    }
}

type SharedRead<V, const N: usize> = Arc<Mutex<dyn FnMut(&mut Samples<V, N>) + Send>>;

struct Inner<V: Sample, const N: usize> {
    descriptor: Arc<Descriptor>,
    labels: [&'static str; N],
    refused: Refusals,
    feeds: Mutex<Vec<SharedRead<V, N>>>,
}

impl<V: Sample, const N: usize> Inner<V, N> {
    fn lock(&self) -> MutexGuard<'_, Vec<SharedRead<V, N>>> {
        self.feeds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

trait Remove<V: Sample, const N: usize>: Send + Sync {
    fn remove(&self, read: &SharedRead<V, N>);
}

impl<V: Sample, const N: usize> Remove<V, N> for Inner<V, N> {
    fn remove(&self, read: &SharedRead<V, N>) {
        self.lock().retain(|held| !Arc::ptr_eq(held, read));
    }
}

impl<V: Sample, const N: usize> Source for Inner<V, N> {
    fn write(&self, out: &mut SeriesWriter<'_>) -> fmt::Result {
        // Called without the list's lock, so that a closure may start and stop feeds.
        let feeds = self.lock().clone();
        let mut all = Samples::new(self.labels);
        for feed in feeds {
            let mut read = feed.lock().unwrap_or_else(PoisonError::into_inner);
            let mut samples = Samples::new(self.labels);
            if catch_unwind(AssertUnwindSafe(|| read(&mut samples))).is_ok() {
                all.absorb(samples);
            }
        }
        self.refused.add(all.refused);
        if N == 0 {
            let value = all.sums.into_values().next().unwrap_or_default();
            return V::write(value, None, out);
        }
        for (labels, value) in &all.sums {
            V::write(*value, Some(labels), out)?;
        }
        match all.overflow {
            Some(value) => V::write(value, Some(&Rendered::all(&self.labels, OVERFLOW)), out),
            None => Ok(()),
        }
    }
}

mod sealed {
    use super::{fmt, Rendered, SeriesWriter};

    /// How a collected value adds up and is written.
    pub trait Value: Copy + Default + Send + Sync + 'static {
        fn plus(self, other: Self) -> Self;
        fn write(self, labels: Option<&Rendered>, out: &mut SeriesWriter<'_>) -> fmt::Result;
    }
}

impl sealed::Value for u64 {
    fn plus(self, other: u64) -> u64 {
        self.wrapping_add(other)
    }
    fn write(self, labels: Option<&Rendered>, out: &mut SeriesWriter<'_>) -> fmt::Result {
        out.counter(labels, self)
    }
}

impl sealed::Value for Duration {
    fn plus(self, other: Duration) -> Duration {
        self.saturating_add(other)
    }
    fn write(self, labels: Option<&Rendered>, out: &mut SeriesWriter<'_>) -> fmt::Result {
        out.counter(labels, self.as_secs_f64())
    }
}

impl sealed::Value for Observations {
    fn plus(mut self, other: Observations) -> Observations {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count = count.wrapping_add(more);
        }
        self.sum += other.sum;
        self
    }
    fn write(self, labels: Option<&Rendered>, out: &mut SeriesWriter<'_>) -> fmt::Result {
        let bounds = out.bounds();
        out.histogram(labels, &bounds, &self.reading(bounds.len()))
    }
}

impl sealed::Value for f64 {
    fn plus(self, other: f64) -> f64 {
        self + other
    }
    fn write(self, labels: Option<&Rendered>, out: &mut SeriesWriter<'_>) -> fmt::Result {
        out.gauge(labels, self.into())
    }
}
