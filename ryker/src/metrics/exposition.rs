//! The families as `prometheus-client` writes them.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::{ActorMetrics, Histogram, Snapshot};
use crate::core::Core;
use crate::observer::{DropReason, Outcome};
use crate::runtime::Runtime;

/// The metrics of one runtime as a collector of `prometheus-client`: see the [module](crate::metrics).
///
/// It reads when it is scraped, and keeps no mailbox alive. Its families have fixed names, so a registry takes one.
#[derive(Clone, Debug)]
pub struct Collector {
    core: Arc<Core>,
}

impl Collector {
    /// Collects of `runtime`.
    pub fn new(runtime: &Runtime) -> Self {
        Self {
            core: Arc::clone(&runtime.core),
        }
    }
}

impl prometheus_client::collector::Collector for Collector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let snapshot = Snapshot::read(&self.core);
        let mut page = Page { encoder };
        page.actors(snapshot.actors())?;
        page.counter(
            "ryker_config_reload",
            "Configurations put in force, the first of each runtime included.",
            snapshot
                .reloads()
                .iter()
                .map(|(source, count)| ([("source", source.as_str())], *count)),
        )?;
        page.counter(
            "ryker_config_reload_errors",
            "Configurations refused.",
            snapshot
                .reload_errors()
                .iter()
                .map(|(source, kind, count)| {
                    let labels = [("source", source.as_str()), ("error", kind.as_str())];
                    (labels, *count)
                }),
        )
    }
}

const REASONS: [DropReason; 5] = [
    DropReason::Capacity,
    DropReason::TooLarge,
    DropReason::Closed,
    DropReason::Deadline,
    DropReason::Shutdown,
];
const OUTCOMES: [Outcome; 3] = [Outcome::Ok, Outcome::Timeout, Outcome::Error];

type Pairs<'a, const N: usize> = [(&'static str, &'a str); N];

fn named(actor: &ActorMetrics) -> (&'static str, &str) {
    ("actor", actor.name())
}

struct Page<'a> {
    encoder: DescriptorEncoder<'a>,
}

impl Page<'_> {
    fn actors(&mut self, actors: &[ActorMetrics]) -> fmt::Result {
        self.gauge(
            "ryker_mailbox_depth",
            "Messages in the mailbox now.",
            actors
                .iter()
                .filter_map(|actor| Some(([named(actor)], actor.depth()?))),
        )?;
        self.counter(
            "ryker_mailbox_dropped",
            "Messages refused, and accepted ones that were not handled to an end.",
            actors.iter().flat_map(|actor| {
                REASONS.map(|reason| {
                    let labels = [named(actor), ("reason", reason.as_str())];
                    (labels, actor.dropped(reason))
                })
            }),
        )?;
        self.counter(
            "ryker_busy_rejections",
            "Messages refused as the mailbox was full.",
            actors
                .iter()
                .map(|actor| ([named(actor)], actor.dropped(DropReason::Capacity))),
        )?;
        self.histogram(
            "ryker_handler_latency",
            "Time from taking a message in hand to the end of its handler.",
            actors.iter().flat_map(|actor| {
                OUTCOMES.into_iter().filter_map(move |outcome| {
                    let labels = [named(actor), ("outcome", outcome.as_str())];
                    Some((labels, actor.handler_latency(outcome)?))
                })
            }),
        )?;
        self.histogram(
            "ryker_queue_wait",
            "Time from accepting a message to taking it in hand.",
            actors
                .iter()
                .filter_map(|actor| Some(([named(actor)], actor.queue_wait()?))),
        )?;
        self.counter(
            "ryker_actor_restarts",
            "Restarts by ryker's own supervision.",
            actors
                .iter()
                .map(|actor| ([named(actor)], actor.restarts())),
        )?;
        self.counter(
            "ryker_yields",
            "Times the reader gave way to other tasks although there was more to read.",
            actors.iter().map(|actor| ([named(actor)], actor.yields())),
        )
    }

    fn gauge<'a, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        series: impl Iterator<Item = (Pairs<'a, N>, u64)>,
    ) -> fmt::Result {
        self.family(
            name,
            help,
            None,
            MetricType::Gauge,
            series,
            |metric, value| metric.encode_gauge(&value),
        )
    }

    fn counter<'a, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        series: impl Iterator<Item = (Pairs<'a, N>, u64)>,
    ) -> fmt::Result {
        self.family(
            name,
            help,
            None,
            MetricType::Counter,
            series,
            |metric, value| metric.encode_counter(&value, None::<&Exemplar<Pairs<'_, 0>, u64>>),
        )
    }

    fn histogram<'a, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        series: impl Iterator<Item = (Pairs<'a, N>, Histogram)>,
    ) -> fmt::Result {
        let (unit, kind) = (Some(Unit::Seconds), MetricType::Histogram);
        self.family(name, help, unit, kind, series, |metric, histogram| {
            let seconds = |bound: Option<std::time::Duration>| {
                bound.map_or(f64::INFINITY, |bound| bound.as_secs_f64())
            };
            let buckets: Vec<(f64, u64)> = histogram
                .buckets()
                .map(|(bound, count)| (seconds(bound), count))
                .collect();
            metric.encode_histogram(
                histogram.sum().as_secs_f64(),
                histogram.count(),
                &buckets,
                None::<&HashMap<usize, Exemplar<Pairs<'_, 0>, f64>>>,
            )
        })
    }

    /// A family without series is left out.
    fn family<'a, const N: usize, V>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        kind: MetricType,
        series: impl Iterator<Item = (Pairs<'a, N>, V)>,
        write: impl Fn(&mut MetricEncoder<'_>, V) -> fmt::Result,
    ) -> fmt::Result {
        let mut series = series.peekable();
        if series.peek().is_none() {
            return Ok(());
        }
        let mut metric = self
            .encoder
            .encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (labels, value) in series {
            write(&mut metric.encode_family(&labels)?, value)?;
        }
        Ok(())
    }
}
