//! What the service tells of itself, by the names of its runbook.

use std::sync::Arc;

use ron_metrics::{
    Counter, CounterFamily, Gauge, GaugeFamily, Histogram, Metrics, MetricsError, QueueLabel,
};

use crate::quarantine::State;

/// Bounds that the runbook's thresholds are among.
const SECONDS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0];

ron_metrics::labels! {
    pub(super) struct ByResult { result }
    pub(super) struct ByStatus { status }
    pub(super) struct ByCause { cause }
    pub(super) struct ByState { state }
}

/// Counters and times of runs.
#[derive(Debug)]
pub struct Instruments {
    pub(super) compute: Histogram,
    pub(super) emit: Histogram,
    intents: CounterFamily<ByResult>,
    pub(super) egress_errors: Counter,
    pub(super) invariant_fail: Counter,
    runs: CounterFamily<ByStatus>,
    pub(super) idempotent: Counter,
    pub(super) conflicts: Counter,
    degraded: GaugeFamily<ByCause>,
    state: GaugeFamily<ByState>,
    pub(super) pending: Gauge,
    pub(super) queue: Gauge,
}

impl Instruments {
    /// On this page.
    ///
    /// # Errors
    /// It has a family of one of their names.
    pub fn new(metrics: &Metrics) -> Result<Arc<Instruments>, MetricsError> {
        let all = Instruments {
            compute: metrics.histogram(
                "reward_compute_latency_seconds",
                "From taking a run in hand to its manifest.",
                &SECONDS,
            )?,
            emit: metrics.histogram(
                "ledger_emit_latency_seconds",
                "What the ledger takes to answer an intent or a probe.",
                &SECONDS,
            )?,
            intents: metrics.counter_family(
                "ledger_intents_total",
                "Intents sent to the ledger, by its answer; each attempt that has none is an error.",
            )?,
            egress_errors: metrics.counter(
                "ledger_egress_errors_total",
                "Intents and probes that the ledger did not answer in time, or answered that it fails.",
            )?,
            invariant_fail: metrics.counter(
                "reward_invariant_fail_total",
                "Runs whose payouts did not pass the check before they leave.",
            )?,
            runs: metrics.counter_family(
                "reward_runs_total",
                "Runs that were computed, by what became of them.",
            )?,
            idempotent: metrics.counter(
                "reward_runs_idempotent_total",
                "Requests answered with what their run came to before.",
            )?,
            conflicts: metrics.counter(
                "reward_runs_conflict_total",
                "Requests for an epoch that another run is of.",
            )?,
            degraded: metrics.gauge_family(
                "readyz_degraded",
                "1 while this keeps the service from being all it should be, else 0.",
            )?,
            state: metrics.gauge_family(
                "quarantine_state",
                "1 for what becomes of intents now, 0 for the others.",
            )?,
            pending: metrics.gauge(
                "quarantine_pending",
                "Runs that are kept until the ledger is well.",
            )?,
            queue: metrics.golden().queue_depth.get(&QueueLabel::new("work")),
        };
        all.state(State::Emitting);
        for cause in ["backpressure", "ledger_degraded", "invariant"] {
            all.degraded(cause, false);
        }
        for result in ["accepted", "dup", "conflict", "refused", "error"] {
            all.intent(result).add(0);
        }
        Ok(Arc::new(all))
    }

    pub(super) fn intent(&self, result: &'static str) -> Counter {
        self.intents.get(&ByResult::new(result))
    }

    pub(super) fn run(&self, status: &'static str) {
        self.runs.get(&ByStatus::new(status)).inc();
    }

    pub(super) fn degraded(&self, cause: &'static str, is_so: bool) {
        self.degraded.get(&ByCause::new(cause)).set(is_so.into());
    }

    pub(super) fn state(&self, now: State) {
        for state in State::ALL {
            let gauge = self.state.get(&ByState::new(state.name()));
            gauge.set((state == now).into());
        }
    }
}
