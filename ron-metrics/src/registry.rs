//! The registry: every family of one [`Metrics`](crate::Metrics), by name, and nothing twice.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::collector::{Collector, HistogramCollector, Sample};
use crate::counter::Counter;
use crate::descriptor::{Descriptor, Kind, MetricsError};
use crate::exposition::{Entry, Number, SeriesWriter, Source};
use crate::family::{CounterFamily, Family, HistogramFamily, Instrument};
use crate::gauge::{FloatGauge, Gauge};
use crate::golden::{FamilyLabel, OVERFLOW_HELP, OVERFLOW_NAME};
use crate::histogram::{check_bounds, Bounds, Histogram};
use crate::labels::Labels;

#[derive(Debug)]
pub(crate) struct Registry {
    held: RwLock<Held>,
    overflow: CounterFamily<FamilyLabel>,
}

#[derive(Debug, Default)]
struct Held {
    /// Ordered by name, so that expositions are.
    entries: BTreeMap<String, Entry>,
    /// Every sample name in use, and whose it is.
    names: HashMap<String, String>,
}

/// An instrument that can stand alone or in a family, other than histograms, which need buckets.
pub(crate) trait Plain: Instrument + Default {
    const KIND: Kind;
    fn write_single(&self, out: &mut SeriesWriter<'_>) -> std::fmt::Result;
}

/// Value types of collectors, with the kind they make.
pub(crate) trait Collected: Sample {
    const KIND: Kind;
}

impl Registry {
    pub(crate) fn new() -> Result<Registry, MetricsError> {
        let labels = FamilyLabel::names();
        let descriptor = Descriptor::new(
            Kind::Counter,
            OVERFLOW_NAME,
            OVERFLOW_HELP,
            labels,
            no_bounds(),
        )?;
        // Its own refusals have nowhere to be counted. They need more than 1,000 families that overflow.
        let overflow = CounterFamily::new(Arc::new(descriptor.clone()), Refusals { to: None });
        let registry = Registry {
            held: RwLock::default(),
            overflow: overflow.clone(),
        };
        registry.add(Arc::new(descriptor), overflow.source())?;
        Ok(registry)
    }

    pub(crate) fn single<M: Plain>(&self, name: &str, help: &str) -> Result<M, MetricsError> {
        let instrument = M::default();
        let descriptor = Descriptor::new(M::KIND, name, help, &[], no_bounds())?;
        self.add(Arc::new(descriptor), Arc::new(Single(instrument.clone())))?;
        Ok(instrument)
    }

    pub(crate) fn single_histogram(
        &self,
        name: &str,
        help: &str,
        bounds: &[f64],
    ) -> Result<Histogram, MetricsError> {
        let bounds =
            check_bounds(bounds).map_err(|problem| MetricsError::invalid(name, problem))?;
        let histogram = Histogram::from_bounds(bounds.clone());
        let descriptor = Descriptor::new(Kind::Histogram, name, help, &[], bounds)?;
        self.add(Arc::new(descriptor), Arc::new(histogram.clone()))?;
        Ok(histogram)
    }

    pub(crate) fn family<M: Plain, L: Labels>(
        &self,
        name: &str,
        help: &str,
    ) -> Result<Family<M, L>, MetricsError> {
        let descriptor = Descriptor::new(M::KIND, name, help, L::names(), no_bounds())?;
        self.add_family(descriptor)
    }

    pub(crate) fn histogram_family<L: Labels>(
        &self,
        name: &str,
        help: &str,
        bounds: &[f64],
    ) -> Result<HistogramFamily<L>, MetricsError> {
        let bounds =
            check_bounds(bounds).map_err(|problem| MetricsError::invalid(name, problem))?;
        let descriptor = Descriptor::new(Kind::Histogram, name, help, L::names(), bounds)?;
        self.add_family(descriptor)
    }

    fn add_family<M: Instrument, L: Labels>(
        &self,
        descriptor: Descriptor,
    ) -> Result<Family<M, L>, MetricsError> {
        if L::names().is_empty() {
            let problem = crate::descriptor::Rejected::NoLabels;
            return Err(MetricsError::invalid(&descriptor.name, problem));
        }
        let descriptor = Arc::new(descriptor);
        let family = Family::new(descriptor.clone(), self.refusals(&descriptor.name));
        self.add(descriptor, family.source())?;
        Ok(family)
    }

    pub(crate) fn collector<V: Collected, const N: usize>(
        &self,
        name: &str,
        help: &str,
        labels: [&'static str; N],
    ) -> Result<Collector<V, N>, MetricsError> {
        self.add_collector(
            Descriptor::new(V::KIND, name, help, &labels, no_bounds())?,
            labels,
        )
    }

    pub(crate) fn histogram_collector<const N: usize>(
        &self,
        name: &str,
        help: &str,
        labels: [&'static str; N],
        bounds: &[f64],
    ) -> Result<HistogramCollector<N>, MetricsError> {
        let bounds =
            check_bounds(bounds).map_err(|problem| MetricsError::invalid(name, problem))?;
        let descriptor = Descriptor::new(Kind::Histogram, name, help, &labels, bounds)?;
        self.add_collector(descriptor, labels)
    }

    fn add_collector<V: Sample, const N: usize>(
        &self,
        descriptor: Descriptor,
        labels: [&'static str; N],
    ) -> Result<Collector<V, N>, MetricsError> {
        let descriptor = Arc::new(descriptor);
        let name = &descriptor.name;
        let collector = Collector::new(descriptor.clone(), labels, self.refusals(name));
        self.add(descriptor, collector.source())?;
        Ok(collector)
    }

    /// Adds a family that is read through `source`.
    pub(crate) fn add(
        &self,
        descriptor: Arc<Descriptor>,
        source: Arc<dyn Source>,
    ) -> Result<(), MetricsError> {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        let names = descriptor.sample_names();
        if let Some(existing) = names.iter().find_map(|name| held.names.get(name)) {
            return Err(MetricsError::Duplicate {
                name: descriptor.name.clone(),
                existing: existing.clone(),
            });
        }
        for name in names {
            let family = format!("{} `{}`", descriptor.kind, descriptor.name);
            held.names.insert(name, family);
        }
        let name = descriptor.name.clone();
        held.entries.insert(name, Entry { descriptor, source });
        Ok(())
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.entries.values().cloned().collect()
    }

    fn refusals(&self, name: &str) -> Refusals {
        Refusals {
            to: Some((self.overflow.clone(), name.to_string())),
        }
    }
}

/// Counts the refused label sets of one family. The series appears with the first refusal.
#[derive(Clone, Debug)]
pub(crate) struct Refusals {
    to: Option<(CounterFamily<FamilyLabel>, String)>,
}

impl Refusals {
    pub(crate) fn add(&self, n: u64) {
        if let (1.., Some((family, name))) = (n, &self.to) {
            family.get(&FamilyLabel::new(name.clone())).add(n);
        }
    }
}

/// An instrument without labels.
struct Single<M>(M);

impl<M: Plain> Source for Single<M> {
    fn write(&self, out: &mut SeriesWriter<'_>) -> std::fmt::Result {
        self.0.write_single(out)
    }
}

impl Source for Histogram {
    fn write(&self, out: &mut SeriesWriter<'_>) -> std::fmt::Result {
        out.histogram(None, self.core.bounds(), &self.core.read())
    }
}

impl Plain for Counter {
    const KIND: Kind = Kind::Counter;
    fn write_single(&self, out: &mut SeriesWriter<'_>) -> std::fmt::Result {
        out.counter(None, self.value())
    }
}

impl Plain for Gauge {
    const KIND: Kind = Kind::Gauge;
    fn write_single(&self, out: &mut SeriesWriter<'_>) -> std::fmt::Result {
        out.gauge(None, Number::Int(self.value()))
    }
}

impl Plain for FloatGauge {
    const KIND: Kind = Kind::Gauge;
    fn write_single(&self, out: &mut SeriesWriter<'_>) -> std::fmt::Result {
        out.gauge(None, self.value().into())
    }
}

impl Collected for u64 {
    const KIND: Kind = Kind::Counter;
}

impl Collected for Duration {
    const KIND: Kind = Kind::Counter;
}

impl Collected for f64 {
    const KIND: Kind = Kind::Gauge;
}

pub(crate) fn no_bounds() -> Bounds {
    Arc::new([])
}
