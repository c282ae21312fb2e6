//! [`Family`]: one instrument per label set, bounded, with totals that survive removal.
//!
//! What is promised about the cap and about removal stands at [`Metrics`](crate::Metrics#guards). How it is kept: one lock
//! per family guards which series there are, and a series that leaves moves to `retiring` under it, where its handles
//! go on counting. Once no handle is left (`Arc::get_mut` says so, with the ordering that makes every add visible) its
//! value is folded into `retired`. A scrape holds the lock and sums all three, so no count is ever seen twice or not at
//! all.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::counter::{Counter, CounterCore};
use crate::descriptor::Descriptor;
use crate::exposition::{Number, SeriesWriter, Source};
use crate::gauge::{FloatCore, FloatGauge, Gauge};
use crate::histogram::{Bounds, Histogram, HistogramCore};
use crate::labels::{Labels, Rendered};
use crate::registry::Refusals;

/// Label sets of a family unless it was given another cap. Prometheus guides call ten label sets per metric normal
/// and hundreds an exception; a thousand series of a 14-bucket histogram are 17,000 lines of every scrape.
pub const DEFAULT_CAP: usize = 1_000;

pub(crate) const OVERFLOW: &str = "__overflow__";
pub(crate) const RETIRED: &str = "__retired__";

/// Counters by label set.
pub type CounterFamily<L> = Family<Counter, L>;
/// Gauges by label set.
pub type GaugeFamily<L> = Family<Gauge, L>;
/// Fractional gauges by label set.
pub type FloatGaugeFamily<L> = Family<FloatGauge, L>;
/// Histograms by label set.
pub type HistogramFamily<L> = Family<Histogram, L>;

/// One instrument per label set. Cloning gives another handle to the same family.
///
/// [`get`](Family::get) renders the labels and looks the series up; do it once and keep the handle, which costs the
/// same as an instrument without labels. For the cap and for what removal does see [`Metrics`](crate::Metrics#guards).
pub struct Family<M: Instrument, L: Labels> {
    inner: Arc<FamilyInner<M>>,
    labels: PhantomData<fn(&L)>,
}

/// What a [`Family`] can hold: [`Counter`], [`Gauge`], [`FloatGauge`], [`Histogram`]. Sealed.
pub trait Instrument: sealed::Core {}

impl Instrument for Counter {}
impl Instrument for Gauge {}
impl Instrument for FloatGauge {}
impl Instrument for Histogram {}

impl<M: Instrument, L: Labels> Family<M, L> {
    pub(crate) fn new(descriptor: Arc<Descriptor>, refused: Refusals) -> Family<M, L> {
        Family {
            inner: Arc::new(FamilyInner::new(descriptor, L::names(), refused)),
            labels: PhantomData,
        }
    }

    pub(crate) fn source(&self) -> Arc<dyn Source>
    where
        M: Send + Sync + 'static,
    {
        self.inner.clone()
    }

    /// Sets how many label sets the family may hold, for all its handles. Series beyond a lowered cap stay. At 0
    /// everything goes to the overflow series.
    #[must_use]
    pub fn with_cap(self, cap: usize) -> Self {
        self.inner.cap.store(cap, Ordering::Relaxed);
        self
    }

    /// The instrument of this label set, made at zero when the set is new, or the overflow series when the family is
    /// full.
    pub fn get(&self, labels: &L) -> M {
        self.inner.resolve(Rendered::of(labels), false).0
    }

    /// As [`get`](Family::get), and the series leaves the family when the last owner of the label set drops. For
    /// series that describe something with a life of its own: a supervised child, a connection.
    pub fn owned(&self, labels: &L) -> Owned<M> {
        let key = Rendered::of(labels);
        let (instrument, own) = self.inner.resolve(key.clone(), true);
        Owned {
            instrument,
            series: own.then(|| (self.inner.clone(), key)),
        }
    }

    /// Removes a series, owned or not. False if there was none.
    pub fn remove(&self, labels: &L) -> bool {
        let key = Rendered::of(labels);
        let mut table = self.inner.write_table();
        let removed = table.series.remove(&key);
        let found = removed.is_some();
        if let Some(series) = removed {
            table.retire(series.core, &self.inner.bounds);
        }
        found
    }

    /// Label sets held now, without the overflow and the retired series.
    pub fn len(&self) -> usize {
        self.inner.read_table().series.len()
    }

    /// Whether no label set is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<M: Instrument, L: Labels> Clone for Family<M, L> {
    fn clone(&self) -> Self {
        Family {
            inner: self.inner.clone(),
            labels: PhantomData,
        }
    }
}

impl<M: Instrument, L: Labels> fmt::Debug for Family<M, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Family")
            .field("name", &self.inner.descriptor.name)
            .field("len", &self.len())
            .finish()
    }
}

/// An instrument whose series lives as long as its owners. Dereferences to the instrument.
///
/// If the family was full when it was resolved, this is the overflow series, and dropping removes nothing. A label set
/// owned twice, as by two overlapping incarnations of a child, goes with the second drop.
pub struct Owned<M: Instrument> {
    instrument: M,
    /// What to remove; none for the overflow series.
    series: Option<(Arc<FamilyInner<M>>, Rendered)>,
}

impl<M: Instrument> Deref for Owned<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.instrument
    }
}

impl<M: Instrument> Drop for Owned<M> {
    fn drop(&mut self) {
        if let Some((family, key)) = self.series.take() {
            family.disown(&key, self.instrument.core());
        }
    }
}

impl<M: Instrument> fmt::Debug for Owned<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Owned")
            .field("series", &self.series.as_ref().map(|(_, key)| key))
            .finish()
    }
}

struct FamilyInner<M: Instrument> {
    descriptor: Arc<Descriptor>,
    bounds: Bounds,
    cap: AtomicUsize,
    /// Label sets refused, in `metrics_overflow_total`.
    refused: Refusals,
    overflow_key: Rendered,
    retired_key: Rendered,
    table: RwLock<Table<M>>,
}

/// Ordered, so that scrapes are, and so that growing never rehashes under the lock.
struct Table<M: Instrument> {
    series: BTreeMap<Rendered, Series<M>>,
    overflow: Option<Arc<M::Core>>,
    /// Sum of all removed series that nobody can count on any more.
    retired: Option<Arc<M::Core>>,
    /// Removed series that some handle still counts on.
    retiring: Vec<Arc<M::Core>>,
    /// Length of `retiring` at which the next removal looks for series to fold.
    sweep_at: usize,
}

struct Series<M: Instrument> {
    core: Arc<M::Core>,
    owners: u32,
}

/// Removed series tolerated before the first sweep. Each is a few hundred bytes.
const SWEEP_MIN: usize = 16;

impl<M: Instrument> FamilyInner<M> {
    fn new(descriptor: Arc<Descriptor>, names: &[&str], refused: Refusals) -> FamilyInner<M> {
        FamilyInner {
            bounds: descriptor.bounds.clone(),
            descriptor,
            cap: AtomicUsize::new(DEFAULT_CAP),
            refused,
            overflow_key: Rendered::all(names, OVERFLOW),
            retired_key: Rendered::all(names, RETIRED),
            table: RwLock::new(Table {
                series: BTreeMap::new(),
                overflow: None,
                retired: None,
                retiring: Vec::new(),
                sweep_at: SWEEP_MIN,
            }),
        }
    }

    /// The instrument of a label set, and whether it is a series of its own.
    fn resolve(&self, key: Rendered, own: bool) -> (M, bool) {
        if !own {
            if let Some(series) = self.read_table().series.get(&key) {
                return (M::from_core(series.core.clone()), true);
            }
        }
        let mut table = self.write_table();
        let full = table.series.len() >= self.cap.load(Ordering::Relaxed);
        if let Some(series) = table.series.get_mut(&key) {
            series.owners = series.owners.saturating_add(u32::from(own));
            return (M::from_core(series.core.clone()), true);
        }
        let reserved = key == self.overflow_key || key == self.retired_key;
        if full || reserved {
            self.refused.add(u64::from(!reserved));
            let core = table
                .overflow
                .get_or_insert_with(|| Arc::new(M::new_core(&self.bounds)));
            return (M::from_core(core.clone()), false);
        }
        let core = Arc::new(M::new_core(&self.bounds));
        let series = Series {
            core: core.clone(),
            owners: u32::from(own),
        };
        table.series.insert(key, series);
        (M::from_core(core), true)
    }

    fn disown(&self, key: &Rendered, core: &Arc<M::Core>) {
        let mut table = self.write_table();
        let last = match table.series.get_mut(key) {
            // Another series may have taken the labels after a `remove`.
            Some(series) if Arc::ptr_eq(&series.core, core) => {
                series.owners = series.owners.saturating_sub(1);
                series.owners == 0
            }
            _ => false,
        };
        if last {
            if let Some(series) = table.series.remove(key) {
                table.retire(series.core, &self.bounds);
            }
        }
    }

    fn read_table(&self) -> RwLockReadGuard<'_, Table<M>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_table(&self) -> RwLockWriteGuard<'_, Table<M>> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: Instrument> Table<M> {
    fn retire(&mut self, core: Arc<M::Core>, bounds: &Bounds) {
        if !M::KEEPS_TOTAL {
            return;
        }
        self.retiring.push(core);
        if self.retiring.len() >= self.sweep_at {
            self.sweep(bounds);
        }
    }

    /// Folds the removed series that have no handle left. Amortised: a sweep that frees little puts the next one off.
    fn sweep(&mut self, bounds: &Bounds) {
        let retired = self
            .retired
            .get_or_insert_with(|| Arc::new(M::new_core(bounds)));
        self.retiring.retain_mut(|core| match Arc::get_mut(core) {
            Some(core) => {
                M::fold(retired, core);
                false
            }
            None => true,
        });
        self.sweep_at = (self.retiring.len() * 2).max(SWEEP_MIN);
    }
}

impl<M: Instrument + Send + Sync> Source for FamilyInner<M> {
    fn write(&self, out: &mut SeriesWriter<'_>) -> fmt::Result {
        if !self.read_table().retiring.is_empty() {
            self.write_table().sweep(&self.bounds);
        }
        // Held while the text is built in memory, not while it is sent: a new label set waits for at most one family.
        let table = self.read_table();
        for (labels, series) in &table.series {
            M::write(&series.core, labels, out)?;
        }
        if let Some(overflow) = &table.overflow {
            M::write(overflow, &self.overflow_key, out)?;
        }
        if table.retired.is_some() || !table.retiring.is_empty() {
            let total = M::new_core(&self.bounds);
            for core in table.retired.iter().chain(&table.retiring) {
                M::fold(&total, core);
            }
            M::write(&total, &self.retired_key, out)?;
        }
        Ok(())
    }
}

mod sealed {
    use super::{fmt, Arc, Bounds, Rendered, SeriesWriter};

    /// How a family makes, exposes and retires an instrument.
    pub trait Core: Clone + Send + Sync + 'static {
        type Core: Send + Sync + 'static;
        /// Whether removal moves the value to the retired series.
        const KEEPS_TOTAL: bool;
        fn new_core(bounds: &Bounds) -> Self::Core;
        fn from_core(core: Arc<Self::Core>) -> Self;
        fn core(&self) -> &Arc<Self::Core>;
        fn fold(into: &Self::Core, from: &Self::Core);
        fn write(core: &Self::Core, labels: &Rendered, out: &mut SeriesWriter<'_>) -> fmt::Result;
    }
}

impl sealed::Core for Counter {
    type Core = CounterCore;
    const KEEPS_TOTAL: bool = true;

    fn new_core(_: &Bounds) -> CounterCore {
        CounterCore::default()
    }
    fn from_core(core: Arc<CounterCore>) -> Counter {
        Counter { core }
    }
    fn core(&self) -> &Arc<CounterCore> {
        &self.core
    }
    fn fold(into: &CounterCore, from: &CounterCore) {
        into.add_cold(from.value());
    }
    fn write(core: &CounterCore, labels: &Rendered, out: &mut SeriesWriter<'_>) -> fmt::Result {
        out.counter(Some(labels), core.value())
    }
}

impl sealed::Core for Histogram {
    type Core = HistogramCore;
    const KEEPS_TOTAL: bool = true;

    fn new_core(bounds: &Bounds) -> HistogramCore {
        HistogramCore::new(bounds.clone())
    }
    fn from_core(core: Arc<HistogramCore>) -> Histogram {
        Histogram { core }
    }
    fn core(&self) -> &Arc<HistogramCore> {
        &self.core
    }
    fn fold(into: &HistogramCore, from: &HistogramCore) {
        into.absorb(&from.read());
    }
    fn write(core: &HistogramCore, labels: &Rendered, out: &mut SeriesWriter<'_>) -> fmt::Result {
        out.histogram(Some(labels), core.bounds(), &core.read())
    }
}

impl sealed::Core for Gauge {
    type Core = AtomicI64;
    const KEEPS_TOTAL: bool = false;

    fn new_core(_: &Bounds) -> AtomicI64 {
        AtomicI64::new(0)
    }
    fn from_core(core: Arc<AtomicI64>) -> Gauge {
        Gauge { core }
    }
    fn core(&self) -> &Arc<AtomicI64> {
        &self.core
    }
    fn fold(into: &AtomicI64, from: &AtomicI64) {
        into.fetch_add(from.load(Ordering::Relaxed), Ordering::Relaxed);
    }
    fn write(core: &AtomicI64, labels: &Rendered, out: &mut SeriesWriter<'_>) -> fmt::Result {
        out.gauge(Some(labels), Number::Int(core.load(Ordering::Relaxed)))
    }
}

impl sealed::Core for FloatGauge {
    type Core = FloatCore;
    const KEEPS_TOTAL: bool = false;

    fn new_core(_: &Bounds) -> FloatCore {
        FloatCore::default()
    }
    fn from_core(core: Arc<FloatCore>) -> FloatGauge {
        FloatGauge { core }
    }
    fn core(&self) -> &Arc<FloatCore> {
        &self.core
    }
    fn fold(into: &FloatCore, from: &FloatCore) {
        into.add(from.value());
    }
    fn write(core: &FloatCore, labels: &Rendered, out: &mut SeriesWriter<'_>) -> fmt::Result {
        out.gauge(Some(labels), core.value().into())
    }
}
