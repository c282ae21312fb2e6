//! Actors: state, and messages that change it one at a time.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::account::Accounts;
use crate::clock::{instant_of, tick_from, Clock, Tick};
use crate::error::{ErrorKind, SendError};
use crate::mailbox::{Phase, Sender, Shared, Unsent};
use crate::reply::{Ask, Caller, Reply};

/// State that is changed by messages, one at a time.
///
/// ```
/// use ryker::{Actor, Context, Reply, Runtime, RykerConfig};
/// use std::convert::Infallible;
///
/// struct Sum(u64);
///
/// enum Msg {
///     Add(u64),
///     Total(Reply<u64>),
/// }
///
/// impl Actor for Sum {
///     type Msg = Msg;
///     type Error = Infallible;
///
///     async fn handle(&mut self, message: Msg, _: &mut Context<Self>) -> Result<(), Infallible> {
///         match message {
///             Msg::Add(n) => self.0 += n,
///             // An error means that nobody waits any more, which is no failure of this actor's.
///             Msg::Total(reply) => drop(reply.send(self.0)),
///         }
///         Ok(())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let rt = Runtime::new(RykerConfig::default());
/// let sum = rt.spawn("sum", || Sum(0))?;
/// sum.try_send(Msg::Add(40))?;
/// sum.send(Msg::Add(2)).await?;
/// assert_eq!(sum.ask(Msg::Total).await?, 42);
/// # Ok(())
/// # }
/// ```
pub trait Actor: Sized + Send + 'static {
    /// What it is sent. Asks are variants with a [`Reply`].
    type Msg: Send + 'static;

    /// How it fails. An error ends this incarnation; the next one has fresh state and the same mailbox.
    type Error: Into<Box<dyn Error + Send + Sync>> + Send;

    /// Whether [`handle`](Self::handle) may be dropped at any of its awaits without harm to the state. Then it is
    /// cancelled when the deadline of its message passes; otherwise it is left to finish, and that it was late is
    /// counted.
    const CANCEL_SAFE: bool = false;

    /// Runs before the first message of each incarnation. What is sent meanwhile is queued, and stays queued if this
    /// fails.
    fn on_start(
        &mut self,
        cx: &mut Context<Self>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send {
        let _ = cx;
        async { Ok(()) }
    }

    /// Handles one message.
    fn handle(
        &mut self,
        message: Self::Msg,
        cx: &mut Context<Self>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// A handler was cancelled at its deadline, which only happens where [`CANCEL_SAFE`](Self::CANCEL_SAFE) is true.
    fn on_deadline(&mut self, cx: &mut Context<Self>) -> OnDeadline {
        let _ = cx;
        OnDeadline::Keep
    }

    /// Runs after the last message of an actor that ends in peace: it was stopped or drained, or nobody is left to
    /// send to it. It does not run after a failure, nor when a drain has run out of time.
    fn on_stop(&mut self, cx: &mut Context<Self>) -> impl Future<Output = ()> + Send {
        let _ = cx;
        async {}
    }
}

/// What becomes of an actor whose handler was cancelled at the deadline.
///
/// Complete: there is no third way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDeadline {
    /// It goes on with the next message.
    Keep,
    /// Its state may be damaged: it fails with [`DeadlineExceeded`] and is restarted.
    Restart,
}

/// The cause of a failure that [`OnDeadline::Restart`] asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message was not handled before its deadline")]
#[non_exhaustive]
pub struct DeadlineExceeded;

/// How an actor, or one incarnation of it, ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ActorExit {
    /// It was stopped or drained and has worked off its mailbox, or nobody was left to send to it.
    Normal,
    /// It was dropped before it was done: its runtime or its supervisor ended it, or a drain ran out of time.
    Cancelled,
    /// It returned an error.
    Failed {
        /// The error.
        cause: Arc<dyn Error + Send + Sync>,
    },
    /// It panicked.
    Panicked {
        /// What it said.
        text: String,
    },
    /// It failed too often in too short a time, and is not restarted.
    RapidFail {
        /// Failures inside the window, the last one included.
        failures: u32,
        /// `supervisor.rapid_fail_window`.
        window: Duration,
        /// The last failure.
        last: Arc<ActorExit>,
    },
}

impl ActorExit {
    pub(crate) fn failed(cause: Box<dyn Error + Send + Sync>) -> Self {
        Self::Failed {
            cause: Arc::from(cause),
        }
    }

    /// Whether it ended by a fault of its own.
    pub fn is_failure(&self) -> bool {
        !matches!(self, Self::Normal | Self::Cancelled)
    }
}

impl fmt::Display for ActorExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Normal => f.write_str("ended normally"),
            Self::Cancelled => f.write_str("was cancelled"),
            Self::Failed { cause } => write!(f, "failed: {cause}"),
            Self::Panicked { text } => write!(f, "panicked: {text}"),
            Self::RapidFail {
                failures,
                window,
                last,
            } => write!(
                f,
                "failed {failures} times within {window:?} and is not restarted; at last it {last}"
            ),
        }
    }
}

impl Error for ActorExit {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Failed { cause } => cause.source(),
            Self::RapidFail { last, .. } => last.source(),
            _ => None,
        }
    }
}

/// A message on its way to an actor.
pub(crate) struct Letter<M> {
    pub(crate) message: M,
    /// Whoever waits for the answer.
    pub(crate) caller: Option<Arc<dyn Caller>>,
    /// Where it was sent, while spans are recorded.
    pub(crate) origin: Option<Box<tracing::Span>>,
}

impl<M> Letter<M> {
    /// Whether it is an ask that nobody waits for any more.
    #[inline(always)]
    pub(crate) fn is_abandoned(&self) -> bool {
        self.caller.as_ref().is_some_and(|caller| caller.is_gone())
    }

    /// Whether it is an ask of an actor's handler.
    pub(crate) fn is_inner_ask(&self) -> bool {
        self.caller.as_ref().is_some_and(|caller| caller.is_inner())
    }

    /// For [`Spec::discard`](crate::mailbox::Spec::discard).
    pub(crate) fn discard(&self, kind: ErrorKind) {
        if let Some(caller) = &self.caller {
            caller.fail(kind);
        }
    }
}

/// Sends messages to an actor; cheap to clone, and may be shared.
///
/// When the last one is dropped the actor works off its mailbox and ends. References that its
/// [`Context`] hands out count too.
///
/// # Ordering
/// Messages of one reference whose sends follow each other are handled in that order.
pub struct ActorRef<M> {
    sender: Sender<Letter<M>>,
}

impl<M: Send + 'static> ActorRef<M> {
    pub(crate) fn new(sender: Sender<Letter<M>>) -> Self {
        Self { sender }
    }

    /// Sends `message` if there is room now, and does not wait for it to be handled.
    ///
    /// # Errors
    /// As [`Sender::try_send`]; the message comes back.
    #[inline]
    pub fn try_send(&self, message: M) -> Result<(), SendError<M>> {
        let letter = self.letter(message, None);
        self.sender.try_send(letter).map_err(opened)
    }

    /// Sends `message`, waiting for room if there is none, until its deadline.
    ///
    /// # Errors
    /// As [`Sender::send`]; the message comes back.
    ///
    /// # Cancel safety
    /// Dropped before it returned, it has sent nothing.
    pub async fn send(&self, message: M) -> Result<(), SendError<M>> {
        let letter = self.letter(message, None);
        let sent = match self.sender.begin(letter, None) {
            Ok(()) => return Ok(()),
            Err(Unsent::Refused(error)) => Err(error),
            Err(Unsent::Full(envelope)) => Box::pin(self.sender.wait(envelope)).await,
        };
        sent.map_err(opened)
    }

    /// [`send`](Self::send) with a deadline of the caller's, which wins if it is earlier than the actor's.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    ///
    /// # Cancel safety
    /// As [`send`](Self::send).
    pub async fn send_with_deadline(
        &self,
        message: M,
        deadline: Instant,
    ) -> Result<(), SendError<M>> {
        let letter = self.letter(message, None);
        let sent = match self.sender.begin(letter, Some(tick_from(deadline))) {
            Ok(()) => return Ok(()),
            Err(Unsent::Refused(error)) => Err(error),
            Err(Unsent::Full(envelope)) => Box::pin(self.sender.wait(envelope)).await,
        };
        sent.map_err(opened)
    }

    /// Sends the message that `make` makes of a [`Reply`], such as `Msg::Total`, and waits for the answer until the
    /// deadline: the actor's, counted from now, or that of the message whose handler asks, if that is earlier.
    ///
    /// It does not wait for room: an actor that is full, draining or gone fails an ask at once, with the message.
    ///
    /// # Errors
    /// See [`AskError`](crate::AskError).
    ///
    /// # Cancel safety
    /// Dropping it gives up: if the message is still queued it is dropped unhandled and counted as abandoned, otherwise
    /// its handler finds [`Reply::is_gone`].
    pub fn ask<R, F>(&self, make: F) -> Ask<'_, M, R, F>
    where
        R: Send + 'static,
        F: FnOnce(Reply<R>) -> M,
    {
        Ask::new(self, make, None)
    }

    /// [`ask`](Self::ask) with a deadline of the caller's, which wins if it is the earliest.
    ///
    /// # Errors
    /// As [`ask`](Self::ask); a deadline that has passed is [`SendError::Deadline`] at once.
    pub fn ask_with_deadline<R, F>(&self, make: F, deadline: Instant) -> Ask<'_, M, R, F>
    where
        R: Send + 'static,
        F: FnOnce(Reply<R>) -> M,
    {
        Ask::new(self, make, Some(tick_from(deadline)))
    }

    /// Sends for an ask; returns the deadline.
    #[inline(always)]
    pub(crate) fn deliver(
        &self,
        message: M,
        caller: Option<Arc<dyn Caller>>,
        own: Option<Tick>,
    ) -> Result<Tick, SendError<M>> {
        let letter = self.letter(message, caller);
        self.sender.try_send_until(letter, own).map_err(opened)
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.sender.shared.core.clock
    }

    #[inline(always)]
    fn letter(&self, message: M, caller: Option<Arc<dyn Caller>>) -> Letter<M> {
        let origin = if self.sender.shared.core.hot.traces_messages() {
            let span = tracing::Span::current();
            (!span.is_none()).then(|| Box::new(span))
        } else {
            None
        };
        Letter {
            message,
            caller,
            origin,
        }
    }

    /// Takes nothing more in. The actor handles what is queued, runs [`on_stop`](Actor::on_stop) and ends. One that
    /// waits for its next start after a failure is started for that at once.
    pub fn stop(&self) {
        self.sender.shared.close(Phase::Draining);
    }

    /// Waits until the actor has ended for good.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn stopped(&self) -> ActorExit {
        self.sender.shared.fate().wait().await
    }

    /// Ends the actor at once: the handler under way is dropped at its next await and its message counted as aborted,
    /// what is queued is dropped, and whoever asked is told. There is no restart and no
    /// [`on_stop`](Actor::on_stop); the exit is [`ActorExit::Cancelled`].
    pub fn abort(&self) {
        self.sender.shared.cut(Phase::Closed);
    }

    /// A reference that does not keep the actor alive.
    pub fn downgrade(&self) -> WeakActorRef<M> {
        WeakActorRef {
            shared: Arc::downgrade(&self.sender.shared),
        }
    }

    /// Whether both send to the same actor.
    pub fn same_actor(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.sender.shared, &other.sender.shared)
    }

    /// How it ended, if it has.
    pub fn exit(&self) -> Option<ActorExit> {
        self.sender.shared.fate().exit()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.sender.shared.spec.name
    }

    /// Messages in its mailbox now.
    pub fn depth(&self) -> usize {
        self.sender.depth()
    }

    /// The most messages its mailbox holds, not how many more fit now.
    pub fn capacity(&self) -> usize {
        self.sender.capacity()
    }

    /// Whether it takes nothing more in.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// What became of every message.
    pub fn accounts(&self) -> Accounts {
        self.sender.accounts()
    }
}

fn opened<M>(error: SendError<Letter<M>>) -> SendError<M> {
    error.map(|letter| letter.message)
}

impl<M> Clone for ActorRef<M> {
    fn clone(&self) -> Self {
        Self {
            sender: self.sender.clone(),
        }
    }
}

impl<M> fmt::Debug for ActorRef<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ActorRef")
            .field(&self.sender.shared)
            .finish()
    }
}

/// A reference to an actor that does not keep it alive; see [`ActorRef::downgrade`].
pub struct WeakActorRef<M> {
    shared: Weak<Shared<Letter<M>>>,
}

impl<M: Send + 'static> WeakActorRef<M> {
    /// A reference that does, unless the last one has been dropped.
    pub fn upgrade(&self) -> Option<ActorRef<M>> {
        let shared = self.shared.upgrade()?;
        let revived = shared.revive_sender();
        revived.then(|| ActorRef::new(Sender::new(shared)))
    }
}

impl<M> Clone for WeakActorRef<M> {
    fn clone(&self) -> Self {
        Self {
            shared: Weak::clone(&self.shared),
        }
    }
}

impl<M> fmt::Debug for WeakActorRef<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WeakActorRef")
    }
}

/// What an actor knows of itself while it handles a message.
pub struct Context<A: Actor> {
    pub(crate) shared: Arc<Shared<Letter<A::Msg>>>,
    pub(crate) deadline: Tick,
    pub(crate) generation: u64,
    actor: PhantomData<fn() -> A>,
}

impl<A: Actor> Context<A> {
    pub(crate) fn new(shared: Arc<Shared<Letter<A::Msg>>>, generation: u64) -> Self {
        Self {
            shared,
            deadline: Tick::MAX,
            generation,
            actor: PhantomData,
        }
    }

    /// The actor's name.
    pub fn name(&self) -> &str {
        &self.shared.spec.name
    }

    /// Which incarnation this is: 1, and one more after each restart.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// When whoever sent the message in hand stops waiting; `None` in [`on_start`](Actor::on_start) and
    /// [`on_stop`](Actor::on_stop). Asks made by the handler inherit it.
    pub fn deadline(&self) -> Option<Instant> {
        (self.deadline != Tick::MAX).then(|| instant_of(self.deadline))
    }

    /// A reference to this actor; `None` once the last one outside has been dropped. An actor that keeps one does not
    /// end by itself: keep it [downgraded](ActorRef::downgrade).
    pub fn actor_ref(&self) -> Option<ActorRef<A::Msg>> {
        let revived = self.shared.revive_sender();
        revived.then(|| ActorRef::new(Sender::new(Arc::clone(&self.shared))))
    }

    /// As [`ActorRef::stop`].
    pub fn stop(&self) {
        self.shared.close(Phase::Draining);
    }

    /// Whether it takes nothing more in: it was stopped, or its runtime drains. A long handler should come to an end.
    pub fn is_stopping(&self) -> bool {
        self.shared.is_closed()
    }

    /// Messages that wait behind the one in hand.
    pub fn depth(&self) -> usize {
        self.shared.depth() as usize
    }
}

impl<A: Actor> fmt::Debug for Context<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("name", &self.name())
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}
