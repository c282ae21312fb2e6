//! The actor that owns a letterbox, and how it is asked.

use std::convert::Infallible;
use std::fmt;
use std::future::pending;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ron_config::Watch;
use ron_kernel::metrics::{Condition, HealthState, State};
use ron_kernel::supervisor::ChildContext;
use ryker::{
    Actor, ActorExit, ActorRef, BuildError, Context, ErrorKind, Reply, Runner, Runtime, RykerConfig,
};
use tokio::time::{interval, MissedTickBehavior};

use super::id::{LeaseId, MessageId};
use super::letterbox::{Counts, Delivery, Draft, Letterbox, NoLease, Shelf, Unsent};
use super::settings::MailboxSettings;

/// Requests that wait for their turn, which takes microseconds: half of those that the node has under way by default.
const CAPACITY: usize = 256;
/// What a request waits for its turn at most; less if its own deadline is earlier.
const DEADLINE: Duration = Duration::from_secs(5);
/// Between two looks at what is due while nobody asks for anything.
const SWEEP: Duration = Duration::from_millis(500);

/// A mailbox: what its child runs, and what asks it. Clones are the same.
///
/// The letterbox is not the actor's own, so that it outlives one that fails: a restart loses no message, lease or key. No
/// request is ever half done, as the actor awaits nothing while it works on one.
#[derive(Clone, Debug)]
pub struct Mailbox {
    actor: ActorRef<Request>,
    runner: Runner<Clerk>,
    runtime: Runtime,
    shared: Arc<Shared>,
    settings: Watch<MailboxSettings>,
}

struct Shared {
    letterbox: Mutex<Letterbox>,
    began: Instant,
}

impl Shared {
    fn letterbox(&self) -> MutexGuard<'_, Letterbox> {
        self.letterbox
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

enum Request {
    Send(Draft, Reply<Result<MessageId, Unsent>>),
    Receive(Shelf, LeaseId, Reply<Option<Delivery>>),
    Ack(MessageId, LeaseId, Reply<Result<(), NoLease>>),
    Sweep,
}

struct Clerk {
    shared: Arc<Shared>,
    settings: Watch<MailboxSettings>,
}

impl Actor for Clerk {
    type Msg = Request;
    type Error = Infallible;

    async fn handle(&mut self, request: Request, _: &mut Context<Self>) -> Result<(), Infallible> {
        let limits = self.settings.get();
        let mut letterbox = self.shared.letterbox();
        let now = self.shared.began.elapsed();
        // An answer that nobody waits for any more is no failure of the mailbox's.
        match request {
            Request::Send(draft, reply) => {
                let _ = reply.send(letterbox.send(now, limits, draft));
            }
            // Nobody would have the lease.
            Request::Receive(_, _, reply) if reply.is_gone() => {}
            Request::Receive(shelf, lease, reply) => {
                let _ = reply.send(letterbox.receive(now, limits, shelf, lease));
            }
            Request::Ack(id, lease, reply) => {
                let _ = reply.send(letterbox.ack(now, limits, id, lease));
            }
            Request::Sweep => letterbox.advance(now, limits),
        }
        Ok(())
    }
}

impl Mailbox {
    /// An empty one, under `settings` as they are at each request. It answers as soon as [`run`](Self::run) does.
    ///
    /// # Errors
    /// The actor cannot be made.
    pub fn new(settings: Watch<MailboxSettings>) -> Result<Self, BuildError> {
        // Seeded by the system, and no secret: an id alone allows nothing.
        let epoch = RandomState::new().hash_one(());
        let shared = Arc::new(Shared {
            letterbox: Mutex::new(Letterbox::new(epoch)),
            began: Instant::now(),
        });
        let (kept, watched) = (Arc::clone(&shared), settings.clone());
        let clerk = move || Clerk {
            shared: Arc::clone(&kept),
            settings: watched.clone(),
        };
        let runtime = Runtime::new(RykerConfig::default());
        let (actor, runner) = runtime
            .actor("mailbox", clerk)
            .capacity(CAPACITY)
            .deadline(DEADLINE)
            .runner()?;
        Ok(Self {
            actor,
            runner,
            runtime,
            shared,
            settings,
        })
    }

    /// The body of its child: answers until the child is stopped. Requests that are queued then are answered by the next
    /// incarnation, which goes on with the same letterbox.
    ///
    /// # Errors
    /// The actor has ended for good.
    pub async fn run(&self, cx: ChildContext) -> Result<(), ActorExit> {
        let Some(kernel) = cx.kernel() else {
            return Ok(());
        };
        let health = kernel.metrics().health();
        tokio::select! {
            biased;
            () = cx.stopping() => {}
            // Told to stop, it would take nothing more in, in any incarnation.
            ended = self.runner.run(pending::<()>()) => return ended,
            never = self.sweep(health) => match never {},
        }
        let Counts {
            waiting,
            leased,
            dead,
            ..
        } = self.counts();
        if health.snapshot().state() == State::Draining && waiting + leased + dead > 0 {
            tracing::warn!(
                event = "mailbox_lost",
                waiting,
                leased,
                dead,
                "{waiting} messages that wait, {leased} leased and {dead} dead letters end with the process"
            );
        }
        Ok(())
    }

    /// Has done what is due, and tells when there is little room.
    async fn sweep(&self, health: &HealthState) -> Infallible {
        let mut settings = self.settings.clone();
        let mut ticks = interval(SWEEP);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // Where there is no room for it, others are there that do the same.
            let _ = self.actor.try_send(Request::Sweep);
            match scarcity(&self.counts(), settings.get()) {
                Some(reason) => health.set("mailbox", Condition::degraded(reason)),
                None => health.clear("mailbox"),
            }
        }
    }

    /// Sends a message.
    ///
    /// # Errors
    /// The mailbox did not answer by `deadline`: it may have been sent.
    pub async fn send(
        &self,
        draft: Draft,
        deadline: Instant,
    ) -> Result<Result<MessageId, Unsent>, ErrorKind> {
        let make = |reply| Request::Send(draft, reply);
        let asked = self.actor.ask_with_deadline(make, deadline).await;
        asked.map_err(|error| error.kind())
    }

    /// Receives the next message of `shelf` under `lease`, if there is one.
    ///
    /// # Errors
    /// The mailbox did not answer by `deadline`: a message may be leased that nobody has.
    pub async fn receive(
        &self,
        shelf: Shelf,
        lease: LeaseId,
        deadline: Instant,
    ) -> Result<Option<Delivery>, ErrorKind> {
        let make = |reply| Request::Receive(shelf, lease, reply);
        let asked = self.actor.ask_with_deadline(make, deadline).await;
        asked.map_err(|error| error.kind())
    }

    /// Ends a message that was received.
    ///
    /// # Errors
    /// The mailbox did not answer by `deadline`: it may have ended.
    pub async fn ack(
        &self,
        id: MessageId,
        lease: LeaseId,
        deadline: Instant,
    ) -> Result<Result<(), NoLease>, ErrorKind> {
        let make = |reply| Request::Ack(id, lease, reply);
        let asked = self.actor.ask_with_deadline(make, deadline).await;
        asked.map_err(|error| error.kind())
    }

    /// What there is now.
    pub fn counts(&self) -> Counts {
        let letterbox = self.shared.letterbox();
        letterbox.counts(self.shared.began.elapsed())
    }

    /// Whose actor this is.
    pub(super) fn runtime(&self) -> &Runtime {
        &self.runtime
    }
}

/// What there is little room for, above 80 % of a limit.
fn scarcity(counts: &Counts, limits: &MailboxSettings) -> Option<String> {
    let (messages, most) = (counts.waiting + counts.leased, limits.max_messages);
    if messages * 5 > most * 4 {
        return Some(format!("{messages} of {most} messages"));
    }
    // Dead letters yield.
    let bytes = counts.bytes - counts.dead_bytes;
    let most = limits.max_bytes.bytes();
    (bytes > most / 5 * 4).then(|| format!("{bytes} of {most} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_tells_when_a_fifth_is_left_of_messages_or_of_bytes_that_no_dead_letter_has() {
        let mut limits = MailboxSettings::default();
        (limits.max_messages, limits.max_bytes) = (10, ron_config::ByteSize::new(1_000));
        let cases = [
            ((4, 4, 800, 0), None),
            ((4, 5, 0, 0), Some("9 of 10 messages")),
            ((0, 0, 801, 0), Some("801 of 1000 bytes")),
            ((0, 0, 1_000, 200), None),
        ];
        for ((waiting, leased, bytes, dead_bytes), told) in cases {
            let mut counts = Counts::default();
            (counts.waiting, counts.leased) = (waiting, leased);
            (counts.bytes, counts.dead_bytes) = (bytes, dead_bytes);
            assert_eq!(scarcity(&counts, &limits).as_deref(), told);
        }
    }
}
