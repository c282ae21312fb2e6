//! The golden set: the families every service has, registered before anything else.

use crate::collector::{CounterCollector, GaugeCollector, SecondsCollector};
use crate::counter::Counter;
use crate::descriptor::MetricsError;
use crate::family::{CounterFamily, GaugeFamily, HistogramFamily};
use crate::gauge::Gauge;
use crate::histogram::LATENCY_BUCKETS;
use crate::registry::Registry;

crate::labels! {
    /// Label `service`: the child's name, as in `ServiceCrashed`.
    pub struct ServiceLabel { service }

    /// Labels `route` (the template, never the raw path) and `method`.
    pub struct RouteLabels { route, method }

    /// Labels `route`, `method` and `status` (three digits).
    pub struct RequestLabels { route, method, status }

    /// Label `route`: the template, never the raw path.
    pub struct RouteLabel { route }

    /// Label `reason`: why a request was refused.
    pub struct ReasonLabel { reason }

    /// Label `queue`.
    pub struct QueueLabel { queue }

    /// Label `kind`: what sort of task.
    pub struct KindLabel { kind }

    /// Label `family`: the name of a metric family.
    pub struct FamilyLabel { family }
}

/// Handles to the golden set. Names, labels and meaning are a contract: see `docs/metrics.md` for the full table.
///
/// Every family is exposed, with `# HELP` and `# TYPE`, from the first scrape on. Families whose values live in the
/// kernel or the bus are collectors; whoever owns the values feeds them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Golden {
    /// `bus_published_total{topic}`
    pub bus_published_total: CounterCollector<1>,
    /// `bus_lagged_total{topic,subscriber}`
    pub bus_lagged_total: CounterCollector<2>,
    /// `bus_overflow_dropped_total`
    pub bus_overflow_dropped_total: CounterCollector<0>,
    /// `bus_queue_depth{topic}`
    pub bus_queue_depth: GaugeCollector<1>,
    /// `bus_subscribers{topic}`
    pub bus_subscribers: GaugeCollector<1>,
    /// `service_restarts_total{service}`
    pub service_restarts_total: CounterFamily<ServiceLabel>,
    /// `request_latency_seconds{route,method}`
    pub request_latency_seconds: HistogramFamily<RouteLabels>,
    /// `http_requests_total{route,method,status}`
    pub http_requests_total: CounterFamily<RequestLabels>,
    /// `inflight_requests{route}`
    pub inflight_requests: GaugeFamily<RouteLabel>,
    /// `rejected_total{reason}`
    pub rejected_total: CounterFamily<ReasonLabel>,
    /// `queue_depth{queue}`
    pub queue_depth: GaugeFamily<QueueLabel>,
    /// `tasks_spawned_total{kind}`
    pub tasks_spawned_total: CounterFamily<KindLabel>,
    /// `tasks_aborted_total{kind}`
    pub tasks_aborted_total: CounterFamily<KindLabel>,
    /// `config_reload_total`
    pub config_reload_total: Counter,
    /// `config_reload_errors_total`
    pub config_reload_errors_total: Counter,
    /// `config_last_reload_successful`
    pub config_last_reload_successful: Gauge,
    /// `ron_kernel_ready`
    pub ron_kernel_ready: Gauge,
    /// `ron_kernel_children{state}`
    pub ron_kernel_children: GaugeCollector<1>,
    /// `ron_kernel_crashes_total{service}`
    pub ron_kernel_crashes_total: CounterFamily<ServiceLabel>,
    /// `ron_kernel_faults_total{kind}`
    pub ron_kernel_faults_total: CounterFamily<KindLabel>,
    /// `ron_kernel_process_cpu_seconds_total{service}`
    pub ron_kernel_process_cpu_seconds_total: SecondsCollector<1>,
    /// `ron_kernel_process_resident_memory_bytes{service}`
    pub ron_kernel_process_resident_memory_bytes: GaugeCollector<1>,
    /// `ron_kernel_process_open_fds{service}`
    pub ron_kernel_process_open_fds: GaugeCollector<1>,
    /// `ron_kernel_process_output_dropped_total{service}`
    pub ron_kernel_process_output_dropped_total: CounterFamily<ServiceLabel>,
}

pub(crate) const OVERFLOW_NAME: &str = "metrics_overflow_total";
pub(crate) const OVERFLOW_HELP: &str =
    "Label sets refused because their family was full; they were counted in its overflow series.";
pub(crate) const HEALTH_NAME: &str = "health_ready";
pub(crate) const HEALTH_HELP: &str = "1 while /readyz answers 200, else 0.";
pub(crate) const INFO_NAME: &str = "ron_kernel_info";
pub(crate) const INFO_HELP: &str = "Identity of this process; always 1.";
pub(crate) const INFO_LABELS: &[&str] = &["service", "instance", "version", "amnesia", "pq"];

impl Golden {
    pub(crate) fn register(to: &Registry) -> Result<Golden, MetricsError> {
        let golden = Golden {
            bus_published_total: to.collector(
                "bus_published_total",
                "Events accepted by the topic.",
                ["topic"],
            )?,
            bus_lagged_total: to.collector(
                "bus_lagged_total",
                "Events lost to a subscriber that was too slow.",
                ["topic", "subscriber"],
            )?,
            bus_overflow_dropped_total: to.collector(
                "bus_overflow_dropped_total",
                "Events lost to subscribers, over all topics: the sum of bus_lagged_total.",
                [],
            )?,
            bus_queue_depth: to.collector(
                "bus_queue_depth",
                "Events waiting for the slowest subscriber of the topic.",
                ["topic"],
            )?,
            bus_subscribers: to.collector(
                "bus_subscribers",
                "Subscribers of the topic now.",
                ["topic"],
            )?,
            service_restarts_total: to.family(
                "service_restarts_total",
                "Restarts of the supervised child.",
            )?,
            request_latency_seconds: to.histogram_family(
                "request_latency_seconds",
                "Time from the request's first byte to the response's last.",
                LATENCY_BUCKETS,
            )?,
            http_requests_total: to
                .family("http_requests_total", "Requests answered, by status.")?,
            inflight_requests: to.family("inflight_requests", "Requests being worked on now.")?,
            rejected_total: to.family(
                "rejected_total",
                "Requests refused before any work was done, by reason.",
            )?,
            queue_depth: to.family("queue_depth", "Entries waiting in the queue.")?,
            tasks_spawned_total: to.family("tasks_spawned_total", "Supervised tasks started.")?,
            tasks_aborted_total: to.family(
                "tasks_aborted_total",
                "Supervised tasks aborted because they did not stop in time.",
            )?,
            config_reload_total: to
                .single("config_reload_total", "Configuration reloads attempted.")?,
            config_reload_errors_total: to.single(
                "config_reload_errors_total",
                "Configuration reloads rejected; the previous configuration stayed in force.",
            )?,
            config_last_reload_successful: to.single(
                "config_last_reload_successful",
                "1 if the last load or reload of the configuration was accepted, else 0.",
            )?,
            ron_kernel_ready: to.single(
                "ron_kernel_ready",
                "1 while the kernel itself is up: configuration loaded, bus open, tree started.",
            )?,
            ron_kernel_children: to.collector(
                "ron_kernel_children",
                "Supervised children by state.",
                ["state"],
            )?,
            ron_kernel_crashes_total: to.family(
                "ron_kernel_crashes_total",
                "Crashes of the supervised child, restarted or not.",
            )?,
            ron_kernel_faults_total: to.family(
                "ron_kernel_faults_total",
                "Faults injected on purpose, by kind.",
            )?,
            ron_kernel_process_cpu_seconds_total: to.collector(
                "ron_kernel_process_cpu_seconds_total",
                "Processor time of the child's process, from 0 with each incarnation.",
                ["service"],
            )?,
            ron_kernel_process_resident_memory_bytes: to.collector(
                "ron_kernel_process_resident_memory_bytes",
                "Resident memory of the child's process.",
                ["service"],
            )?,
            ron_kernel_process_open_fds: to.collector(
                "ron_kernel_process_open_fds",
                "Open descriptors of the child's process.",
                ["service"],
            )?,
            ron_kernel_process_output_dropped_total: to.family(
                "ron_kernel_process_output_dropped_total",
                "Lines of the child's output that were more than the log takes.",
            )?,
        };
        // A process that could not load its configuration does not get here.
        golden.config_last_reload_successful.set(1);
        Ok(golden)
    }
}
