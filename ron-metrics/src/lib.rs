//! Golden metrics, honest health and readiness, Prometheus exposition.
//!
//! [`Metrics`] holds the metric families of one process, the [`Golden`] set among them, and its [`HealthState`].
//! Nothing here is global, nothing spawns a task, and nothing opens a port unless the feature `serve` is on and it is
//! asked to.
//!
//! - Counting: [`Counter`], [`Gauge`], [`FloatGauge`], [`Histogram`], resolved once and then counted on without a lock.
//! - Labels: a [`Family`] by [`Labels`], bounded, with exact totals; a [`Collector`] for values owned elsewhere.
//! - Health: [`HealthState`] with a [`Condition`] per key.
//! - Exposure: [`Metrics::render`] and [`Metrics::admin`], which any HTTP server can mount.
//!
//! Features, all off by default: `serve` adds `Metrics::serve`, `server` and `serve_unix`; `tls` adds TLS to the first
//! two.
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic)
)]

// The README is compiled and run with the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod admin;
mod collector;
mod counter;
mod descriptor;
mod exposition;
mod family;
mod gauge;
mod golden;
mod health;
mod histogram;
mod identity;
mod labels;
mod metrics;
mod registry;
#[cfg(feature = "serve")]
mod serve;
mod shard;

pub use admin::{AdminRequest, AdminResponse};
pub use collector::{
    Collector, CounterCollector, Feed, GaugeCollector, HistogramCollector, Observations, Sample,
    Samples, SecondsCollector,
};
pub use counter::Counter;
pub use descriptor::{Kind, MetricsError, Rejected};
pub use exposition::Format;
pub use family::{
    CounterFamily, Family, FloatGaugeFamily, GaugeFamily, HistogramFamily, Instrument, Owned,
    DEFAULT_CAP,
};
pub use gauge::{FloatGauge, Gauge};
pub use golden::{
    FamilyLabel, Golden, KindLabel, QueueLabel, ReasonLabel, RequestLabels, RouteLabel,
    RouteLabels, ServiceLabel,
};
pub use health::{
    Cause, Clock, Condition, HealthState, Latch, Liveness, Snapshot, State, Status, Transition,
    Watch, STALLED_AFTER,
};
pub use histogram::{Histogram, LATENCY_BUCKETS};
pub use identity::{Identity, Pq};
pub use labels::{LabelSink, Labels};
pub use metrics::Metrics;
#[cfg(all(feature = "serve", unix))]
pub use serve::UnixServerHandle;
#[cfg(feature = "serve")]
pub use serve::{BindError, ServeOptions, ServerHandle};
#[cfg(feature = "tls")]
pub use serve::{Tls, TlsError, TlsFiles};
