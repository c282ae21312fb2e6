//! [`Metrics`]: the registry, the golden set, health, and what is exposed of them.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::admin::{self, AdminRequest, AdminResponse};
use crate::collector::{CounterCollector, GaugeCollector, HistogramCollector};
use crate::counter::Counter;
use crate::descriptor::{Descriptor, Kind, MetricsError, Rejected};
use crate::exposition::{self, Format, Number, SeriesWriter, Source};
use crate::family::{CounterFamily, FloatGaugeFamily, GaugeFamily, HistogramFamily};
use crate::gauge::{FloatGauge, Gauge};
use crate::golden::{Golden, HEALTH_HELP, HEALTH_NAME, INFO_HELP, INFO_LABELS, INFO_NAME};
use crate::health::HealthState;
use crate::histogram::Histogram;
use crate::identity::Identity;
use crate::labels::{Labels, Rendered};
use crate::registry::{no_bounds, Registry};

/// The metrics and the health of one process. Cloning gives another handle.
///
/// Register at start, resolve handles once, count on the handles:
///
/// ```
/// use ron_metrics::{Format, Metrics};
///
/// let metrics = Metrics::new("thumbs")?;
/// let made = metrics.counter("thumbs_made_total", "Thumbnails made.")?;
/// made.inc();
///
/// assert!(metrics.render(Format::Prometheus).contains("\nthumbs_made_total 1\n"));
/// assert!(metrics.counter("thumbs_made_total", "Again.").is_err());
/// # Ok::<(), ron_metrics::MetricsError>(())
/// ```
///
/// # Guards
///
/// A family holds at most 1,000 label sets, or what [`with_cap`](crate::Family::with_cap) says. A label set beyond
/// that shares one *overflow* series, all of whose label values are `__overflow__`; every such resolution counts in
/// `metrics_overflow_total{family}`. Series already there are never pushed out by new ones.
///
/// A removed counter or histogram leaves the exposition, and in the same instant what it had counted moves to the
/// family's *retired* series, label values `__retired__`; a handle that outlives the removal goes on counting there.
/// The sum over all series of a family is therefore exact at any time and never falls. The retired series jumps when
/// a series leaves: rates and alerts by label exclude it. A removed gauge is gone with its value: the state of a thing
/// that ended is not the state of anything else.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    service: String,
    registry: Registry,
    golden: Golden,
    health: HealthState,
    identity: Arc<RwLock<Identity>>,
    /// Bytes of the last exposition.
    rendered: AtomicUsize,
}

impl Metrics {
    /// The golden set and an empty [`HealthState`] for the program named `service`.
    ///
    /// # Errors
    ///
    /// `service` must be 1 to 200 bytes without control characters.
    pub fn new(service: &str) -> Result<Metrics, MetricsError> {
        Metrics::with_health(service, HealthState::new())
    }

    /// As [`new`](Metrics::new), with a health state made elsewhere, as with a clock of its own.
    ///
    /// # Errors
    ///
    /// As [`new`](Metrics::new).
    pub fn with_health(service: &str, health: HealthState) -> Result<Metrics, MetricsError> {
        if service.is_empty() || service.len() > 200 || service.chars().any(char::is_control) {
            return Err(MetricsError::invalid(service, Rejected::Service));
        }
        let registry = Registry::new()?;
        let golden = Golden::register(&registry)?;
        let identity = Arc::new(RwLock::new(Identity::default()));

        let ready = Descriptor::new(Kind::Gauge, HEALTH_NAME, HEALTH_HELP, &[], no_bounds())?;
        registry.add(Arc::new(ready), Arc::new(ReadySource(health.clone())))?;
        let info = Descriptor::new(Kind::Info, INFO_NAME, INFO_HELP, INFO_LABELS, no_bounds())?;
        let source = InfoSource {
            service: service.to_string(),
            identity: identity.clone(),
        };
        registry.add(Arc::new(info), Arc::new(source))?;

        Ok(Metrics {
            inner: Arc::new(Inner {
                service: service.to_string(),
                registry,
                golden,
                health,
                identity,
                rendered: AtomicUsize::new(0),
            }),
        })
    }

    /// The program's name.
    pub fn service(&self) -> &str {
        &self.inner.service
    }

    /// Health and readiness of the process.
    pub fn health(&self) -> &HealthState {
        &self.inner.health
    }

    /// Handles to the golden set.
    pub fn golden(&self) -> &Golden {
        &self.inner.golden
    }

    /// Registers a counter. Its name ends in `_total`.
    ///
    /// # Errors
    ///
    /// The name, or a sample name it produces, is taken; or the name or help breaks a rule ([`Rejected`]). The same
    /// holds for every registration below.
    pub fn counter(&self, name: &str, help: &str) -> Result<Counter, MetricsError> {
        self.inner.registry.single(name, help)
    }

    /// Registers a gauge of whole numbers.
    ///
    /// # Errors
    ///
    /// As [`counter`](Metrics::counter).
    pub fn gauge(&self, name: &str, help: &str) -> Result<Gauge, MetricsError> {
        self.inner.registry.single(name, help)
    }

    /// Registers a gauge of fractions.
    ///
    /// # Errors
    ///
    /// As [`counter`](Metrics::counter).
    pub fn float_gauge(&self, name: &str, help: &str) -> Result<FloatGauge, MetricsError> {
        self.inner.registry.single(name, help)
    }

    /// Registers a histogram with these upper bounds; `+Inf` is added.
    ///
    /// # Errors
    ///
    /// As [`counter`](Metrics::counter), and bounds must be 1 to 64 finite numbers, strictly increasing.
    pub fn histogram(
        &self,
        name: &str,
        help: &str,
        bounds: &[f64],
    ) -> Result<Histogram, MetricsError> {
        self.inner.registry.single_histogram(name, help, bounds)
    }

    /// Registers counters by label set.
    ///
    /// # Errors
    ///
    /// As [`counter`](Metrics::counter), and `L` must name at least one label, each valid and different.
    pub fn counter_family<L: Labels>(
        &self,
        name: &str,
        help: &str,
    ) -> Result<CounterFamily<L>, MetricsError> {
        self.inner.registry.family(name, help)
    }

    /// Registers gauges by label set.
    ///
    /// # Errors
    ///
    /// As [`counter_family`](Metrics::counter_family).
    pub fn gauge_family<L: Labels>(
        &self,
        name: &str,
        help: &str,
    ) -> Result<GaugeFamily<L>, MetricsError> {
        self.inner.registry.family(name, help)
    }

    /// Registers gauges of fractions by label set.
    ///
    /// # Errors
    ///
    /// As [`counter_family`](Metrics::counter_family).
    pub fn float_gauge_family<L: Labels>(
        &self,
        name: &str,
        help: &str,
    ) -> Result<FloatGaugeFamily<L>, MetricsError> {
        self.inner.registry.family(name, help)
    }

    /// Registers histograms by label set.
    ///
    /// # Errors
    ///
    /// As [`counter_family`](Metrics::counter_family) and [`histogram`](Metrics::histogram).
    pub fn histogram_family<L: Labels>(
        &self,
        name: &str,
        help: &str,
        bounds: &[f64],
    ) -> Result<HistogramFamily<L>, MetricsError> {
        self.inner.registry.histogram_family(name, help, bounds)
    }

    /// Registers counters whose values are owned elsewhere and read at each scrape.
    ///
    /// ```
    /// let metrics = ron_metrics::Metrics::new("store")?;
    /// let reads = metrics.counter_collector("disk_reads_total", "Reads by disk.", ["disk"])?;
    /// let feed = reads.feed(|samples| samples.push(["sda"], 17));
    /// assert!(metrics.render(Default::default()).contains("disk_reads_total{disk=\"sda\"} 17\n"));
    ///
    /// drop(feed); // whoever owned the values is gone
    /// assert!(!metrics.render(Default::default()).contains("sda"));
    /// # Ok::<(), ron_metrics::MetricsError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`counter`](Metrics::counter), and labels must be valid and different.
    pub fn counter_collector<const N: usize>(
        &self,
        name: &str,
        help: &str,
        labels: [&'static str; N],
    ) -> Result<CounterCollector<N>, MetricsError> {
        self.inner.registry.collector(name, help, labels)
    }

    /// Registers gauges whose values are owned elsewhere and read at each scrape.
    ///
    /// # Errors
    ///
    /// As [`counter_collector`](Metrics::counter_collector).
    pub fn gauge_collector<const N: usize>(
        &self,
        name: &str,
        help: &str,
        labels: [&'static str; N],
    ) -> Result<GaugeCollector<N>, MetricsError> {
        self.inner.registry.collector(name, help, labels)
    }

    /// Registers histograms with these upper bounds whose values are owned elsewhere and read at each scrape.
    ///
    /// ```
    /// use ron_metrics::{Metrics, Observations};
    ///
    /// let metrics = Metrics::new("store")?;
    /// let bounds = [0.1, 1.0];
    /// let waits = metrics.histogram_collector("disk_wait_seconds", "Waits by disk.", ["disk"], &bounds)?;
    /// waits.feed(|samples| samples.push(["sda"], Observations::new([3, 2, 1], 4.5))).keep();
    /// let text = metrics.render(Default::default());
    /// assert!(text.contains("disk_wait_seconds_bucket{le=\"1.0\",disk=\"sda\"} 5\n"));
    /// assert!(text.contains("disk_wait_seconds_count{disk=\"sda\"} 6\n"));
    /// # Ok::<(), ron_metrics::MetricsError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`counter_collector`](Metrics::counter_collector) and [`histogram`](Metrics::histogram).
    pub fn histogram_collector<const N: usize>(
        &self,
        name: &str,
        help: &str,
        labels: [&'static str; N],
        bounds: &[f64],
    ) -> Result<HistogramCollector<N>, MetricsError> {
        self.inner
            .registry
            .histogram_collector(name, help, labels, bounds)
    }

    /// States who the process is. Replaces what was stated before, from the next scrape on.
    pub fn set_identity(&self, identity: Identity) {
        *self
            .inner
            .identity
            .write()
            .unwrap_or_else(PoisonError::into_inner) = identity;
    }

    /// The identity last stated; empty until then.
    pub fn identity(&self) -> Identity {
        let identity = self.inner.identity.read();
        identity.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The exposition of all families, ordered by name.
    ///
    /// Instruments are read while others count: each value is one that the instrument had during the call.
    pub fn render(&self, format: Format) -> String {
        // As long as the last one and a little more: most scrapes then never move what they wrote.
        let expected = self.inner.rendered.load(Ordering::Relaxed);
        let mut out = String::with_capacity(expected + expected / 8 + 1024);
        // Writing to a String cannot fail, and the sources fail only if it does.
        let _ = exposition::encode(self.inner.registry.entries(), format, &mut out);
        self.inner.rendered.store(out.len(), Ordering::Relaxed);
        out
    }

    /// Answers an admin request: `/metrics`, `/healthz`, `/livez`, `/readyz`, `/version`. Pure apart from the clock:
    /// no I/O, so it can be mounted on any route of any server.
    ///
    /// ```
    /// use ron_metrics::{AdminRequest, Metrics};
    ///
    /// let metrics = Metrics::new("thumbs")?;
    /// let answer = metrics.admin(&AdminRequest::new("GET", "/healthz"));
    /// assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"status":"ok"}"#));
    /// assert_eq!(metrics.admin(&AdminRequest::new("POST", "/healthz")).status, 405);
    /// assert_eq!(metrics.admin(&AdminRequest::new("GET", "/")).status, 404);
    /// # Ok::<(), ron_metrics::MetricsError>(())
    /// ```
    pub fn admin(&self, request: &AdminRequest<'_>) -> AdminResponse {
        admin::answer(self, request)
    }

    /// What is registered, one line per family, ordered by name: name, kind, unit, labels, buckets. Kept in a file and
    /// compared in CI, it makes a renamed metric or a changed label as visible as a changed function.
    ///
    /// ```
    /// let metrics = ron_metrics::Metrics::new("thumbs")?;
    /// let line = "queue_depth\tgauge\tunit=-\tlabels=queue\tbuckets=-\n";
    /// assert!(metrics.contract().contains(line));
    /// # Ok::<(), ron_metrics::MetricsError>(())
    /// ```
    pub fn contract(&self) -> String {
        let entries = self.inner.registry.entries();
        entries
            .iter()
            .map(|entry| entry.descriptor.contract())
            .collect()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics")
            .field("service", &self.inner.service)
            .finish_non_exhaustive()
    }
}

struct ReadySource(HealthState);

impl Source for ReadySource {
    fn write(&self, out: &mut SeriesWriter<'_>) -> fmt::Result {
        out.gauge(None, Number::Int(i64::from(self.0.snapshot().ready())))
    }
}

struct InfoSource {
    service: String,
    identity: Arc<RwLock<Identity>>,
}

impl Source for InfoSource {
    fn write(&self, out: &mut SeriesWriter<'_>) -> fmt::Result {
        let labels = {
            let identity = self.identity.read().unwrap_or_else(PoisonError::into_inner);
            let pq = identity.pq.to_string();
            let amnesia = if identity.amnesia { "on" } else { "off" };
            let values = [
                self.service.as_str(),
                &identity.instance,
                &identity.version,
                amnesia,
                &pq,
            ];
            Rendered::pairs(INFO_LABELS, values)
        };
        out.info(&labels)
    }
}
