//! A ryker runtime on the metrics page of ron-metrics: each family is read at the scrape, from the same counts that
//! `ryker::metrics::Collector` gives to a prometheus-client registry.

use ron_metrics::{Collector, Metrics, MetricsError, Observations, Sample, Samples};
use ryker::metrics::{ActorMetrics, Histogram, Snapshot};
use ryker::{DropReason, Outcome, Runtime};

/// Of both histograms, in seconds.
const BOUNDS: [f64; 11] = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];
const REASONS: [DropReason; 5] = [
    DropReason::Capacity,
    DropReason::TooLarge,
    DropReason::Closed,
    DropReason::Deadline,
    DropReason::Shutdown,
];

/// Registers the families of `rt`. A family holds 1,000 series, so 200 actors have every reason of their own.
pub(crate) fn expose(metrics: &Metrics, rt: &Runtime) -> Result<(), MetricsError> {
    let depth = metrics.gauge_collector(
        "ryker_mailbox_depth",
        "Messages in the mailbox now.",
        ["actor"],
    )?;
    per_actor(rt, &depth, |actor, samples| {
        if let Some(depth) = actor.depth() {
            samples.push([actor.name()], depth as f64);
        }
    });
    let dropped = metrics.counter_collector(
        "ryker_mailbox_dropped_total",
        "Messages refused, and accepted ones that were not handled to an end.",
        ["actor", "reason"],
    )?;
    per_actor(rt, &dropped, |actor, samples| {
        for reason in REASONS {
            samples.push([actor.name(), reason.as_str()], actor.dropped(reason));
        }
    });
    let busy = metrics.counter_collector(
        "ryker_busy_rejections_total",
        "Messages refused as the mailbox was full.",
        ["actor"],
    )?;
    per_actor(rt, &busy, |actor, samples| {
        samples.push([actor.name()], actor.dropped(DropReason::Capacity));
    });
    let latency = metrics.histogram_collector(
        "ryker_handler_latency_seconds",
        "Time from taking a message in hand to the end of its handler.",
        ["actor", "outcome"],
        &BOUNDS,
    )?;
    per_actor(rt, &latency, |actor, samples| {
        for outcome in [Outcome::Ok, Outcome::Timeout, Outcome::Error] {
            if let Some(histogram) = actor.handler_latency(outcome) {
                samples.push([actor.name(), outcome.as_str()], observations(&histogram));
            }
        }
    });
    let waits = metrics.histogram_collector(
        "ryker_queue_wait_seconds",
        "Time from accepting a message to taking it in hand.",
        ["actor"],
        &BOUNDS,
    )?;
    per_actor(rt, &waits, |actor, samples| {
        if let Some(histogram) = actor.queue_wait() {
            samples.push([actor.name()], observations(&histogram));
        }
    });
    let restarts = metrics.counter_collector(
        "ryker_actor_restarts_total",
        "Restarts by ryker's own supervision.",
        ["actor"],
    )?;
    per_actor(rt, &restarts, |actor, samples| {
        samples.push([actor.name()], actor.restarts());
    });
    let yields = metrics.counter_collector(
        "ryker_yields_total",
        "Times the reader gave way to other tasks although there was more to read.",
        ["actor"],
    )?;
    per_actor(rt, &yields, |actor, samples| {
        samples.push([actor.name()], actor.yields());
    });
    let reloads = metrics.counter_collector(
        "ryker_config_reload_total",
        "Configurations put in force, the first of each runtime included.",
        ["source"],
    )?;
    per_scrape(rt, &reloads, |snapshot, samples| {
        for (source, count) in snapshot.reloads() {
            samples.push([source.as_str()], *count);
        }
    });
    let refused = metrics.counter_collector(
        "ryker_config_reload_errors_total",
        "Configurations refused.",
        ["source", "error"],
    )?;
    per_scrape(rt, &refused, |snapshot, samples| {
        for (source, kind, count) in snapshot.reload_errors() {
            samples.push([source.as_str(), kind.as_str()], *count);
        }
    });
    Ok(())
}

fn per_actor<V: Sample, const N: usize>(
    rt: &Runtime,
    family: &Collector<V, N>,
    read: impl Fn(&ActorMetrics, &mut Samples<V, N>) + Send + 'static,
) {
    per_scrape(rt, family, move |snapshot, samples| {
        for actor in snapshot.actors() {
            read(actor, samples);
        }
    });
}

fn per_scrape<V: Sample, const N: usize>(
    rt: &Runtime,
    family: &Collector<V, N>,
    read: impl Fn(&Snapshot, &mut Samples<V, N>) + Send + 'static,
) {
    let rt = rt.clone();
    family
        .feed(move |samples| read(&Snapshot::of(&rt), samples))
        .keep();
}

fn observations(histogram: &Histogram) -> Observations {
    let counts = histogram.buckets().map(|(_, count)| count);
    Observations::new(counts, histogram.sum().as_secs_f64())
}
