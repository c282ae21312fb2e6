//! The child that sends intents to the ledger, probes it, and says how all of it is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::StatusCode;
use ron_host::http::Refusal;
use ron_kernel::supervisor::ChildContext;
use ron_metrics::{Condition, HealthState, MetricsError};
use svc_ledger::intent::Intent;
use svc_ledger::journal::Verdict;
use svc_ledger::writer::Unanswered;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout, MissedTickBehavior};

use super::metrics::Instruments;
use super::registry::{Computed, Key};
use super::worker::{announce, tell};
use super::Service;
use crate::quarantine::{Answered, Next, State};
use crate::{Address, Manifest};

/// Intents that are sent at a time: as many as share a commit of the ledger.
const AT_ONCE: usize = 256;
/// How often it is looked whether there is something to do.
const TICK: Duration = Duration::from_millis(50);
/// Of the pause before a further attempt, which is drawn from 0 to it, and twice it, and so on.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

impl Service {
    /// The body of the child.
    ///
    /// # Errors
    /// The page of metrics has a family of ours already.
    pub async fn emit(self: Arc<Self>, cx: ChildContext) -> Result<(), MetricsError> {
        let Some(kernel) = cx.kernel() else {
            return Ok(());
        };
        let instruments = self.instruments(kernel.metrics())?;
        let health = kernel.metrics().health().clone();
        let mut to_emit = self.to_emit.lock().await;
        // Of an incarnation before, which sends nothing any more.
        self.state().machine.interrupted(self.now());
        loop {
            if self.probe(&instruments).await {
                break;
            }
            tokio::select! {
                () = cx.stopping() => return Ok(()),
                () = sleep(TICK) => {}
            }
        }
        cx.ready();
        let workers = self.settings().workers;
        tracing::info!(event = "computing", workers, "{workers} threads compute");
        let mut shown = Shown::default();
        let mut sent = JoinSet::new();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(key) = to_emit.recv(), if sent.len() < AT_ONCE => {
                    sent.spawn(Arc::clone(&self).send(key, Arc::clone(&instruments)));
                }
                Some(ended) = sent.join_next(), if !sent.is_empty() => {
                    if let Err(error) = ended {
                        std::panic::resume_unwind(error.into_panic());
                    }
                }
                _ = ticks.tick() => shown.show(&self, &instruments, &health),
                () = cx.stopping() => break,
            }
            self.advance(&mut sent, &instruments);
        }
        // The ledger stops after this child: what was sent is answered.
        while let Some(ended) = sent.join_next().await {
            drop(ended);
        }
        Ok(())
    }

    /// What the machine wants done.
    fn advance(self: &Arc<Self>, sent: &mut JoinSet<()>, instruments: &Arc<Instruments>) {
        let (now, queue_is_low) = (self.now(), self.queue_is_low());
        let mut state = self.state();
        let change = state.machine.tick(now, queue_is_low);
        let next = match sent.len() < AT_ONCE {
            true => state.machine.next(now),
            false => None,
        };
        drop(state);
        announce(change.as_ref(), instruments);
        let (service, instruments) = (Arc::clone(self), Arc::clone(instruments));
        match next {
            Some(Next::Emit(key)) => drop(sent.spawn(service.send(key, instruments))),
            Some(Next::Probe) => drop(sent.spawn(async move {
                service.probe(&instruments).await;
            })),
            None => {}
        }
    }

    /// Asks the ledger where it ends.
    async fn probe(&self, instruments: &Instruments) -> bool {
        self.asked(self.ledger.head(), instruments).await.is_some()
    }

    /// What the ledger answers in time.
    async fn asked<T>(
        &self,
        asked: impl std::future::Future<Output = Result<T, Unanswered>>,
        instruments: &Instruments,
    ) -> Option<T> {
        let begun = Instant::now();
        let answer = timeout(self.settings().deadline, asked).await;
        let took = begun.elapsed();
        let (answered, answer) = match answer {
            Ok(Ok(answer)) => {
                instruments.emit.observe_duration(took);
                (Answered::After(took), Some(answer))
            }
            Ok(Err(_)) | Err(_) => {
                instruments.egress_errors.inc();
                (Answered::Not, None)
            }
        };
        let now = self.now();
        let change = self.state().machine.observe(now, answered);
        announce(change.as_ref(), instruments);
        answer
    }

    /// Sends the intent of a run until the ledger has decided, as often as may be.
    async fn send(self: Arc<Self>, key: Key, instruments: Arc<Instruments>) {
        let run = self.state().runs.run(&key);
        let Some((run, intent)) = run.and_then(|run| Some((Arc::clone(&run), intent(&run)?)))
        else {
            // What is kept is not what was computed.
            let now = self.now();
            instruments.invariant_fail.inc();
            tracing::error!(event = "invariant", epoch_id = %key.1, "invariant=fail a manifest is not what was computed");
            let mut state = self.state();
            let change = state
                .machine
                .freeze(now, "a manifest is not what was computed");
            state.machine.unsettled(now, &key);
            let waiters = state.runs.keep(&key);
            drop(state);
            announce(change.as_ref(), &instruments);
            return tell(waiters, &Err(Refusal::internal("invariant")));
        };
        for attempt in 0..=self.settings().retries {
            if attempt > 0 {
                sleep(pause(attempt)).await;
            }
            if !self.state().machine.may_emit(&key) {
                break;
            }
            let settled = self.ledger.settle(intent.clone());
            match self.asked(settled, &instruments).await {
                Some(verdict) => return self.settled(&key, &run, verdict, &instruments),
                None => instruments.intent("error").inc(),
            }
        }
        let now = self.now();
        let mut state = self.state();
        state.machine.unsettled(now, &key);
        self.kept(state, &key, &run, &instruments);
    }

    fn settled(&self, key: &Key, run: &Computed, verdict: Verdict, instruments: &Instruments) {
        let conflict = |reason, message: &str| {
            instruments.conflicts.inc();
            Refusal::new(StatusCode::CONFLICT, "Conflict", reason, message)
        };
        let (result, outcome) = match verdict {
            Verdict::Accepted(receipt) => ("accepted", Ok(run.settled("accepted", receipt))),
            Verdict::Dup(receipt) => ("dup", Ok(run.settled("dup", receipt))),
            Verdict::KeyReused => {
                let message = "the ledger has another intent under this run_key";
                ("conflict", Err(conflict("key_reused", message)))
            }
            Verdict::EpochSettled { by } => {
                let message = "the ledger has another run of this epoch";
                let refusal = conflict("epoch_settled", message).detail("run_key", by.to_string());
                ("conflict", Err(refusal))
            }
            Verdict::Exhausted => {
                let message = "all amounts of the ledger together would be beyond 2^128 - 1";
                ("refused", Err(conflict("exhausted", message)))
            }
        };
        instruments.intent(result).inc();
        instruments.run(if outcome.is_ok() { "ok" } else { "fail" });
        let run_key = run.run_key.to_string();
        tracing::info!(
            event = "settled",
            tenant = %key.0,
            epoch_id = %key.1,
            run_key = run_key.get(..16),
            result,
            "the ledger has decided: {result}"
        );
        let mut state = self.state();
        state.machine.settled(key);
        let waiters = match &outcome {
            Ok(reply) => state.runs.done(key, reply.body.clone()),
            Err(_) => state.runs.forget(key),
        };
        drop(state);
        tell(waiters, &outcome);
    }
}

/// The intent of a run, whose manifest is read and hashed again for it.
fn intent(run: &Computed) -> Option<Intent> {
    if Address::of(&run.bytes) != run.commitment {
        return None;
    }
    let manifest = Manifest::read(&run.bytes).ok()?;
    let asked = crate::Intent::new(&manifest, run.commitment);
    Intent::from_json(&asked.to_bytes()).ok()
}

/// From 0 to a time that doubles with each attempt, any as likely as any other.
fn pause(attempt: u32) -> Duration {
    let most = PAUSE
        .saturating_mul(1 << (attempt - 1).min(16))
        .min(PAUSE_MAX);
    // Without random numbers it is the whole time.
    let share = getrandom::u32().unwrap_or(u32::MAX);
    most.mul_f64(f64::from(share) / f64::from(u32::MAX))
}

/// What was told of readiness.
#[derive(Debug, Default)]
struct Shown {
    causes: [bool; 3],
}

impl Shown {
    fn show(&mut self, service: &Service, instruments: &Instruments, health: &HealthState) {
        let (state, pending) = {
            let state = service.state();
            let pending = state.machine.pending().len();
            (state.machine.state(), pending)
        };
        instruments.pending.set(pending as i64);
        instruments.queue.set(service.jobs.1.len() as i64);
        let slow = "the ledger is slow or fails: runs are kept, and sent when it is well";
        let frozen = "a run failed its own check: nothing is settled before somebody has looked";
        let full = "four fifths of the runs that may wait for a thread do";
        let causes = [
            (
                "ledger_degraded",
                matches!(state, State::Brownout | State::Draining),
                Condition::degraded(slow),
            ),
            (
                "invariant",
                state == State::Frozen,
                Condition::degraded(frozen),
            ),
            (
                "backpressure",
                !service.queue_is_low(),
                Condition::not_ready(full),
            ),
        ];
        for ((cause, is_so, condition), shown) in causes.into_iter().zip(&mut self.causes) {
            if is_so == *shown {
                continue;
            }
            *shown = is_so;
            instruments.degraded(cause, is_so);
            match is_so {
                true => health.set(cause, condition),
                false => health.clear(cause),
            }
        }
    }
}
