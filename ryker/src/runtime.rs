//! One configuration, one clock and one drain for any number of mailboxes and actors.

use std::fmt;
use std::future::{poll_fn, Future};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;
use zeroize::Zeroize;

use crate::account::Accounts;
use crate::actor::{Actor, ActorRef, Letter};
use crate::clock::tick_from;
use crate::config::{self, Change, ReloadClass, RykerConfig};
use crate::core::{Core, Resident};
use crate::error::BuildError;
use crate::mailbox::{open, MailboxBuilder, MessageSize, Options, Sender, Shared};
use crate::observer::Observer;
use crate::runner::{supervise, Place, Runner};
use crate::timer::Timer;

/// Makes mailboxes and actors; cheap to clone, and clones are the same runtime.
///
/// It is no executor: actors run on the tokio runtime in which they are spawned, and it opens no socket and no file.
/// Dropping it changes nothing for what it has made.
#[derive(Clone, Debug)]
pub struct Runtime {
    pub(crate) core: Arc<Core>,
}

/// What a reload did.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Reloaded {
    /// Changes in force: hot ones for every mailbox at once, those of supervision from the next restart on.
    pub applied: Vec<Change>,
    /// Changes that need a new runtime, and are not in force.
    pub cold: Vec<Change>,
}

/// What became of the messages that were in the mailboxes when a drain began.
///
/// `pending_before = handled + timed_out + expired + abandoned + dropped + aborted + pending`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DrainReport {
    /// Queued or in hand when the drain began.
    pub pending_before: u64,
    /// Handled, whether well, with an error or with a panic.
    pub handled: u64,
    /// Handled too late, or cancelled at their deadline.
    pub timed_out: u64,
    /// Expired in the queue.
    pub expired: u64,
    /// Asks that nobody waited for any more.
    pub abandoned: u64,
    /// Never handled: time ran out, or an ask of another actor's could not be served.
    pub dropped: u64,
    /// In hand when time ran out.
    pub aborted: u64,
    /// Still queued or in hand: of receivers that take no message, and of handlers that do not return to an await.
    pub pending: u64,
    /// Who has those, and which actors have not ended.
    pub stuck: Vec<String>,
}

impl DrainReport {
    /// Whether every message is accounted for.
    pub fn balances(&self) -> bool {
        let gone = self.handled + self.timed_out + self.expired + self.abandoned;
        self.pending_before == gone + self.dropped + self.aborted + self.pending
    }

    /// Whether nothing was lost: no message dropped, aborted or left.
    pub fn is_clean(&self) -> bool {
        self.dropped + self.aborted + self.pending == 0 && self.stuck.is_empty()
    }
}

/// How often a drain looks at mailboxes that do not tell when they are empty.
const LOOK: Duration = Duration::from_millis(5);
/// How long actors have to end once their time has run out: a handler that awaits is dropped at once.
const CUT: Duration = Duration::from_millis(100);

impl Runtime {
    /// A runtime with this configuration, which is logged and counted as applied.
    pub fn new(config: RykerConfig) -> Self {
        tracing::info!(
            "crate" = "ryker",
            event = "config_applied",
            source = %config::Source::Startup,
            diff = %listed(&RykerConfig::default().diff(&config)),
            "configuration of actors in force"
        );
        config::count_reload(config::Source::Startup);
        Self {
            core: Arc::new(Core::new(config)),
        }
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<RykerConfig> {
        self.core.config()
    }

    /// A mailbox for a loop of one's own. `name` is a label of metrics and logs.
    ///
    /// ```
    /// # use ryker::{Runtime, RykerConfig, SendError};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let rt = Runtime::new(RykerConfig::default());
    /// let (jobs, mut queue) = rt.mailbox("jobs").capacity(1).build()?.split();
    /// jobs.try_send("first")?;
    /// let Err(SendError::Busy(second)) = jobs.try_send("second") else {
    ///     panic!("it holds one message");
    /// };
    /// assert_eq!(queue.recv().await, Some("first"));
    /// jobs.try_send(second)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn mailbox<T: Send + 'static>(&self, name: impl Into<Arc<str>>) -> MailboxBuilder<T> {
        MailboxBuilder::new(Arc::clone(&self.core), name.into())
    }

    /// Starts an actor with the options of the configuration. `factory` makes its state, now and after each failure.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn spawn<A: Actor>(
        &self,
        name: impl Into<Arc<str>>,
        factory: impl FnMut() -> A + Send + 'static,
    ) -> Result<ActorRef<A::Msg>, BuildError> {
        self.actor(name, factory).spawn()
    }

    /// An actor with options of its own.
    pub fn actor<A, F>(&self, name: impl Into<Arc<str>>, factory: F) -> ActorBuilder<A, F>
    where
        A: Actor,
        F: FnMut() -> A + Send + 'static,
    {
        ActorBuilder {
            core: Arc::clone(&self.core),
            options: Options::new(name.into()),
            factory,
        }
    }

    /// Replaces the configuration. Hot keys are in force for every mailbox from its next message on, keys of
    /// supervision from the next failure on; cold keys are reported and not applied.
    ///
    /// Options that a mailbox was built with beat both the old and the new configuration.
    pub fn reload(&self, config: RykerConfig) -> Reloaded {
        let source = config.source();
        let reloaded = self.core.reconfigure(|running| {
            let (cold, applied) = running
                .diff(&config)
                .into_iter()
                .partition(|change| change.reload == ReloadClass::Cold);
            (running.reloaded(&config), Reloaded { applied, cold })
        });
        config::count_reload(source);
        tracing::info!(
            "crate" = "ryker",
            event = "config_applied",
            source = %source,
            diff = %listed(&reloaded.applied),
            needs_restart = %listed(&reloaded.cold),
            "configuration of actors reloaded"
        );
        reloaded
    }

    /// What became of all messages of this runtime's mailboxes, those that are gone included.
    pub fn accounts(&self) -> Accounts {
        let (present, departed) = self.core.census();
        let mut sum = Accounts::default();
        for resident in present {
            sum.add(&resident.accounts());
        }
        for (_, totals) in &departed {
            sum.add(&totals.accounts);
        }
        sum
    }

    /// Takes nothing more in, has what is queued handled for at most `deadline`, then drops the rest, and tells what
    /// became of every message.
    ///
    /// From its beginning on every send and ask fails with `Draining`, and nothing can be spawned. An actor that has
    /// worked off its mailbox runs [`on_stop`](Actor::on_stop) and ends; one that waits for its next start after a
    /// failure is started at once. A handler that is under way and waits may be waiting for another actor that waits
    /// for this one: asks of other actors' handlers that are queued behind it fail with `Draining` too, so that no two
    /// wait for each other.
    ///
    /// Receivers of plain mailboxes get what is queued, then `None`.
    ///
    /// It ends as soon as all is done, and within 100 ms after `deadline` in any case. Time that a handler or receiver
    /// does not give back to its executor cannot be taken from it: it is reported as `stuck`. So is a handler that awaits
    /// the drain of its own runtime. Nothing happens before it is first polled.
    ///
    /// A plain mailbox is done when its last message has been handed out; whether the loop that got it is done, only that
    /// loop can tell.
    ///
    /// # Cancel safety
    /// Dropped, it leaves the runtime draining without a deadline; it may be called again.
    pub async fn drain(&self, deadline: Duration) -> DrainReport {
        let began = Instant::now();
        let residents = self.core.drain();
        let before: Vec<Accounts> = residents
            .iter()
            .map(|resident| {
                resident.drain();
                resident.accounts()
            })
            .collect();
        if !self.wait(&residents, began.checked_add(deadline)).await {
            for resident in &residents {
                resident.cut();
            }
            self.wait(&residents, Some(Instant::now() + CUT)).await;
        }
        let mut report = DrainReport::default();
        for (resident, before) in residents.iter().zip(before) {
            report.add(&**resident, &before);
        }
        tracing::info!(
            "crate" = "ryker",
            event = "drained",
            elapsed_ms = began.elapsed().as_millis() as u64,
            handled = report.handled,
            expired = report.expired,
            dropped = report.dropped,
            aborted = report.aborted,
            pending = report.pending,
            "actors drained"
        );
        report
    }

    /// Whether all are over before `until`; without one, as long as it takes.
    async fn wait(&self, residents: &[Arc<dyn Resident>], until: Option<Instant>) -> bool {
        // Who is over is over for good, so that nobody is asked again and again.
        let mut left: Vec<&Arc<dyn Resident>> = residents.iter().collect();
        loop {
            let mut changed = pin!(self.core.next_change());
            changed.as_mut().enable();
            while left.last().is_some_and(|resident| resident.is_over()) {
                left.pop();
            }
            if left.is_empty() {
                return true;
            }
            let now = Instant::now();
            if until.is_some_and(|until| now >= until) {
                return false;
            }
            let look = until.map_or(now + LOOK, |until| until.min(now + LOOK));
            let mut look = pin!(Timer::on(&self.core.clock, tick_from(look.into_std())));
            poll_fn(|cx| match changed.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(()),
                Poll::Pending => look.as_mut().poll(cx),
            })
            .await;
        }
    }
}

impl DrainReport {
    fn add(&mut self, resident: &dyn Resident, before: &Accounts) {
        let after = resident.accounts();
        // Read after the intake had ended, so that it holds whatever was accepted.
        self.pending_before += before.pending;
        self.handled += after.handled() - before.handled();
        self.timed_out += after.timed_out - before.timed_out;
        self.expired += after.expired - before.expired;
        self.abandoned += after.abandoned - before.abandoned;
        self.dropped += after.dropped - before.dropped;
        self.aborted += after.aborted - before.aborted;
        self.pending += after.pending;
        if !resident.is_over() {
            self.stuck.push(resident.name().to_string());
        }
    }
}

/// Options of an actor; what is not set comes from the runtime's configuration.
#[must_use = "a builder does nothing until it is spawned"]
pub struct ActorBuilder<A: Actor, F> {
    core: Arc<Core>,
    options: Options<Letter<A::Msg>>,
    factory: F,
}

impl<A, F> ActorBuilder<A, F>
where
    A: Actor,
    F: FnMut() -> A + Send + 'static,
{
    /// The most messages its mailbox holds, 1 to 1,048,576; default: `defaults.mailbox_capacity`.
    pub fn capacity(mut self, messages: usize) -> Self {
        self.options.capacity = Some(messages);
        self
    }

    /// The deadline of every message, 10 ms to 60 s, from enqueueing to the answer; default: `defaults.deadline`,
    /// whose reloads it then follows.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.options.deadline = Some(deadline);
        self
    }

    /// Tells `observer` what happens.
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.options.observer = Some(observer);
        self
    }

    /// Starts the actor on the current tokio runtime, restarted by ryker when it fails.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn spawn(self) -> Result<ActorRef<A::Msg>, BuildError> {
        let Ok(executor) = tokio::runtime::Handle::try_current() else {
            return Err(BuildError::NoExecutor {
                name: self.options.name.to_string(),
            });
        };
        let (shared, factory) = self.open(false)?;
        let actor = ActorRef::new(Sender::new(Arc::clone(&shared)));
        drop(executor.spawn(supervise(Place::new(shared, factory))));
        Ok(actor)
    }

    /// The actor and what runs it, for a supervisor of one's own, such as a child of ron-kernel: exactly one layer
    /// restarts, so ryker's own loop, its delays and its rapid-fail window are not in play.
    ///
    /// ```
    /// # use ryker::{Actor, Context, Runtime, RykerConfig};
    /// # struct Greeter;
    /// # impl Actor for Greeter {
    /// #     type Msg = String;
    /// #     type Error = std::io::Error;
    /// #     async fn handle(&mut self, _: String, _: &mut Context<Self>) -> Result<(), Self::Error> { Ok(()) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let rt = Runtime::new(RykerConfig::default());
    /// let (greeter, runner) = rt.actor("greeter", || Greeter).runner()?;
    /// greeter.try_send("hello".to_owned())?;
    /// greeter.stop();
    /// // One incarnation; a supervisor calls this again after a failure.
    /// runner.run(std::future::pending::<()>()).await?;
    /// assert_eq!(greeter.accounts().ok, 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn runner(self) -> Result<(ActorRef<A::Msg>, Runner<A>), BuildError> {
        let (shared, factory) = self.open(true)?;
        let actor = ActorRef::new(Sender::new(Arc::clone(&shared)));
        Ok((actor, Runner::new(shared, factory)))
    }

    /// What the actor and its runner share, and the factory. `is_run_elsewhere` if the runner may lie idle.
    #[allow(clippy::type_complexity)]
    pub(crate) fn open(
        self,
        is_run_elsewhere: bool,
    ) -> Result<(Arc<Shared<Letter<A::Msg>>>, F), BuildError> {
        let mut spec = self.options.spec(&self.core)?;
        spec.discard = Some(Letter::discard);
        if is_run_elsewhere {
            spec.extras.get_or_insert_with(Box::default);
        }
        let shared = open(spec, &self.core)?;
        Ok((shared, self.factory))
    }
}

impl<A, F> ActorBuilder<A, F>
where
    A: Actor,
    A::Msg: MessageSize,
{
    /// Bounds the mailbox by bytes too, as [`MessageSize`] tells them, with the limits of the configuration: a larger
    /// message than `defaults.max_msg_bytes` is refused as [`TooLarge`](crate::SendError::TooLarge).
    pub fn measured(mut self) -> Self {
        self.options.measure = Some(|letter| letter.message.message_size());
        self
    }

    /// [`measured`](Self::measured), and a message may have `bytes`, 1 KiB to 1 MiB; default:
    /// `defaults.max_msg_bytes`.
    pub fn max_msg_bytes(mut self, bytes: usize) -> Self {
        self.options.max_msg_bytes = Some(bytes);
        self.measured()
    }

    /// [`measured`](Self::measured), and all messages together may have `bytes`: at least one of the largest, at most
    /// `capacity` of them, which is the default. When they have, the mailbox is full.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.options.max_bytes = Some(bytes);
        self.measured()
    }
}

impl<A, F> ActorBuilder<A, F>
where
    A: Actor,
    A::Msg: Zeroize,
{
    /// With `amnesia.enabled`, overwrites messages that are dropped unhandled; see
    /// [`MailboxBuilder::zeroize`](crate::MailboxBuilder::zeroize).
    pub fn zeroize(mut self) -> Self {
        self.options.scrub = Some(|letter| letter.message.zeroize());
        self
    }
}

impl<A: Actor, F> fmt::Debug for ActorBuilder<A, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActorBuilder")
            .field("name", &self.options.name)
            .finish_non_exhaustive()
    }
}

fn listed(changes: &[Change]) -> String {
    let changes: Vec<String> = changes.iter().map(Change::to_string).collect();
    changes.join(", ")
}
