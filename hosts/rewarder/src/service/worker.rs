//! The threads that compute.

use std::ops::ControlFlow;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;
use hyper::StatusCode;
use ron_host::http::Refusal;
use ron_kernel::supervisor::ChildContext;
use ron_metrics::MetricsError;

use super::metrics::Instruments;
use super::registry::{Computed, Key, Outcome, Waiter};
use super::{Service, State};
use crate::quarantine::{Admission, Change};
use crate::{compute, Address, Name, Phase, Reader, RunError, SealError, Sealed};

/// Without anything to do for so long, a thread looks whether it should stop.
const IDLE: Duration = Duration::from_millis(50);
/// Until another try can help.
const MOMENT: Duration = Duration::from_secs(1);

/// A run to be computed.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) key: Key,
    pub(super) inputs_cid: Address,
    pub(super) policy_id: Name,
    pub(super) policy_hash: Address,
    /// Who asked what would come of it; of others the registry knows who asked.
    pub(super) dry: Option<Waiter>,
    /// What its request is called, if its sender has said so.
    pub(super) corr_id: String,
}

/// A job in hand: whatever happens to it, whoever waits is told.
struct InHand<'a> {
    service: &'a Service,
    key: Key,
    dry: Option<Waiter>,
    is_over: bool,
}

impl InHand<'_> {
    fn over(mut self, outcome: Outcome) {
        self.tell(outcome);
    }

    fn tell(&mut self, outcome: Outcome) {
        self.is_over = true;
        match self.dry.take() {
            Some(waiter) => drop(waiter.send(outcome)),
            None => {
                let waiters = self.service.state().runs.forget(&self.key);
                tell(waiters, &outcome);
            }
        }
    }
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.tell(Err(Refusal::internal("worker")));
        }
    }
}

/// Whoever has gone needs no answer.
pub(super) fn tell(waiters: Vec<Waiter>, outcome: &Outcome) {
    for waiter in waiters {
        let _ = waiter.send(outcome.clone());
    }
}

impl Service {
    /// The body of each of the threads that compute. Blocks it until it is stopped.
    ///
    /// # Errors
    /// The page of metrics has a family of ours already.
    pub fn work(&self, cx: &ChildContext) -> Result<(), MetricsError> {
        let Some(kernel) = cx.kernel() else {
            return Ok(());
        };
        let instruments = self.instruments(kernel.metrics())?;
        loop {
            match self.jobs.1.recv_timeout(IDLE) {
                Ok(job) => {
                    instruments.queue.set(self.jobs.1.len() as i64);
                    self.run(job, &instruments, cx);
                }
                Err(RecvTimeoutError::Timeout) if !cx.is_stopping() => {}
                Err(_) => return Ok(()),
            }
        }
    }

    fn run(&self, mut job: Job, instruments: &Instruments, cx: &ChildContext) {
        let is_dry = job.dry.is_some();
        let in_hand = InHand {
            service: self,
            key: job.key.clone(),
            dry: job.dry.take(),
            is_over: false,
        };
        let begun = Instant::now();
        let computed = self.compute(&job, begun, instruments, cx);
        instruments.compute.observe_duration(begun.elapsed());
        let run = match computed {
            Ok(run) => Arc::new(run),
            Err(refusal) => {
                instruments.run("fail");
                let (corr_id, reason) = (&*job.corr_id, refusal.reason());
                tracing::info!(
                    event = "run_refused",
                    corr_id,
                    reason,
                    tenant = %job.key.0,
                    epoch_id = %job.key.1,
                    "nothing comes of this run corr_id={corr_id}"
                );
                return in_hand.over(Err(refusal));
            }
        };
        let (corr_id, run_key) = (&*job.corr_id, run.run_key.to_string());
        tracing::info!(
            event = "run_computed",
            corr_id,
            tenant = %job.key.0,
            epoch_id = %job.key.1,
            run_key = run_key.get(..16),
            commitment = %run.commitment,
            latency_ms = begun.elapsed().as_millis() as u64,
            dry_run = is_dry,
            "computed corr_id={corr_id}"
        );
        if is_dry {
            instruments.run("dry");
            return in_hand.over(Ok(run.dry()));
        }
        self.admit(in_hand, &run, instruments);
    }

    /// Lets the machine decide what becomes of the intent.
    fn admit(&self, mut in_hand: InHand<'_>, run: &Arc<Computed>, instruments: &Instruments) {
        let mut state = self.state();
        let has_room = state.runs.computed(&in_hand.key, Arc::clone(run));
        let admission = match has_room {
            true => state.machine.admit(in_hand.key.clone()),
            false => Admission::Full,
        };
        match admission {
            Admission::Emit => {
                in_hand.is_over = true;
                drop(state);
                // Full of those that an emitter before has left: it is sent after them.
                if self.emits.try_send(in_hand.key.clone()).is_err() {
                    let now = self.now();
                    let mut state = self.state();
                    state.machine.unsettled(now, &in_hand.key);
                    self.kept(state, &in_hand.key, run, instruments);
                }
            }
            Admission::Kept => {
                in_hand.is_over = true;
                self.kept(state, &in_hand.key, run, instruments);
            }
            Admission::Full => {
                drop(state);
                let message = "more runs wait for the ledger than this node keeps";
                let refusal = Refusal::unavailable("queue_full", message, MOMENT);
                in_hand.over(Err(refusal));
            }
            Admission::Frozen => {
                drop(state);
                in_hand.over(Err(frozen()));
            }
        }
    }

    /// Tells whoever waits that it is for later.
    pub(super) fn kept(
        &self,
        mut state: MutexGuard<'_, State>,
        key: &Key,
        run: &Computed,
        instruments: &Instruments,
    ) {
        let waiters = state.runs.keep(key);
        drop(state);
        // Of one that is kept once more nobody waits.
        if !waiters.is_empty() {
            instruments.run("quarantined");
        }
        tell(waiters, &Ok(run.kept()));
    }

    fn compute(
        &self,
        job: &Job,
        begun: Instant,
        instruments: &Instruments,
        cx: &ChildContext,
    ) -> Result<Computed, Refusal> {
        let (tenant, epoch_id) = &job.key;
        let unknown = || Refusal::bad_request("policy_unknown", "there is no policy of this id");
        let (policy, _) = self.library.policy(&job.policy_id)?.ok_or_else(unknown)?;
        policy.is(&job.policy_hash).map_err(|stale| {
            let message = "policy_hash is not that of the policy as it is now";
            Refusal::bad_request("stale", message).detail("policy_hash", stale.found.to_string())
        })?;
        let bytes = self.library.inputs(&job.inputs_cid)?;
        let sealed = Sealed::open(&bytes, &job.inputs_cid).map_err(|error| {
            if let SealError::Address { .. } = error {
                tracing::error!(event = "inputs_damaged", %error, "inputs are not what they are called: {error}");
                return Refusal::internal("inputs_damaged");
            }
            Refusal::bad_request("inputs", error.to_string())
        })?;
        let defect =
            |error: &dyn std::fmt::Display| Refusal::bad_request("inputs", error.to_string());
        // Before anything of them is told.
        let reader = Reader::new(&bytes).map_err(|error| defect(&error))?;
        if reader.header().tenant != *tenant {
            let message = "the inputs are not of the token's tenant";
            return Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "InvalidCapability",
                "tenant",
                message,
            ));
        }
        let stopping = |_: Phase, _: usize| match cx.is_stopping() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        let conflict = |reason, message: String| {
            Refusal::new(StatusCode::CONFLICT, "Conflict", reason, message)
        };
        let run = compute(tenant, epoch_id, &sealed, &policy, &mut { stopping });
        let run = run.map_err(|error| match &error {
            RunError::Cancelled => Refusal::unavailable("draining", "shutting down", MOMENT),
            RunError::Overspend { .. } => conflict("conservation", error.to_string()),
            RunError::Overflow => conflict("overflow", error.to_string()),
            RunError::Invariant(violation) => {
                instruments.invariant_fail.inc();
                let (corr_id, reason) = (&*job.corr_id, violation.to_string());
                tracing::error!(
                    event = "invariant",
                    corr_id,
                    reason,
                    inputs_cid = %job.inputs_cid,
                    policy_hash = %job.policy_hash,
                    "invariant=fail corr_id={corr_id} {reason}"
                );
                let now = self.now();
                let change = self.state().machine.freeze(now, reason);
                announce(change.as_ref(), instruments);
                Refusal::internal("invariant")
            }
            _ => defect(&error),
        })?;
        Ok(Computed::new(run, begun.elapsed().as_millis() as u64))
    }
}

/// Nothing is settled before somebody has looked.
pub(super) fn frozen() -> Refusal {
    let message = "a run failed its own check, and nothing is settled before somebody has looked; dry_run works";
    Refusal::unavailable("invariant", message, Duration::from_secs(60))
}

/// Tells of another state.
pub(super) fn announce(change: Option<&Change>, instruments: &Instruments) {
    let Some(Change { from, to, why }) = change else {
        return;
    };
    instruments.state(*to);
    let (from, to) = (from.name(), to.name());
    tracing::warn!(
        event = "quarantine",
        from,
        to,
        reason = why.word(),
        why = ?why,
        "from {from} to {to}: {}",
        why.word()
    );
}
