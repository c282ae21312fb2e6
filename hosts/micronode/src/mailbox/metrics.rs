//! What the mailbox tells of itself, read when it is asked for.

use ron_metrics::{Metrics, MetricsError};

use super::actor::Mailbox;
use super::letterbox::{Counts, Totals};
use crate::actors::expose;

type Gauge = (&'static str, &'static str, fn(&Counts) -> f64);
type Counter = (&'static str, &'static str, fn(&Totals) -> u64);

const GAUGES: [Gauge; 5] = [
    (
        "mailbox_depth",
        "Messages that wait to be received.",
        |counts| counts.waiting as f64,
    ),
    (
        "mailbox_leased",
        "Messages that were received and neither acked nor expired.",
        |counts| counts.leased as f64,
    ),
    (
        "mailbox_dead_letters",
        "Dead letters there are.",
        |counts| counts.dead as f64,
    ),
    (
        "mailbox_bytes",
        "What messages, dead letters and keys take in memory.",
        |counts| counts.bytes as f64,
    ),
    (
        "mailbox_oldest_age_seconds",
        "Time since the oldest message that waits was sent; 0 when none does.",
        |counts| counts.oldest.unwrap_or_default().as_secs_f64(),
    ),
];

const COUNTERS: [Counter; 7] = [
    ("mailbox_sent_total", "Messages accepted.", |totals| {
        totals.sent
    }),
    (
        "mailbox_received_total",
        "Deliveries, of dead letters too.",
        |totals| totals.received,
    ),
    (
        "mailbox_acked_total",
        "Messages acked, dead letters too.",
        |totals| totals.acked,
    ),
    (
        "mailbox_expired_total",
        "Leases that expired before an ack.",
        |totals| totals.expired,
    ),
    (
        "mailbox_deduplicated_total",
        "Sends refused as the same was accepted under their key before.",
        |totals| totals.deduplicated,
    ),
    (
        "mailbox_dead_total",
        "Messages that became dead letters.",
        |totals| totals.dead,
    ),
    (
        "mailbox_dead_dropped_total",
        "Dead letters dropped for newer ones or for messages.",
        |totals| totals.dropped,
    ),
];

impl Mailbox {
    /// Has `metrics` tell of this mailbox, for as long as they live.
    pub(super) fn register(&self, metrics: &Metrics) -> Result<(), MetricsError> {
        for (name, help, value) in GAUGES {
            let mailbox = self.clone();
            let gauge = metrics.gauge_collector(name, help, [])?;
            let read = gauge.feed(move |samples| samples.push([], value(&mailbox.counts())));
            read.keep();
        }
        for (name, help, value) in COUNTERS {
            let mailbox = self.clone();
            let counter = metrics.counter_collector(name, help, [])?;
            let read =
                counter.feed(move |samples| samples.push([], value(&mailbox.counts().totals)));
            read.keep();
        }
        expose(metrics, self.runtime())
    }
}
