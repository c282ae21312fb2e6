//! An actor that handles a message when the test says so.

use std::fmt;
use std::future::{Future, Pending};
use std::pin::{pin, Pin};
use std::sync::Arc;

use super::probe::built;
use crate::account::{Accounts, End};
use crate::actor::{Actor, ActorExit, ActorRef, Context, Letter};
use crate::contain::text_of;
use crate::error::{ErrorKind, TryRecvError};
use crate::mailbox::{Inbox, Sender};
use crate::runner::{conclude, Contained, Hand, Serve};
use crate::runtime::ActorBuilder;
use crate::timer::Timer;

/// Runs an actor one message at a time, and shows its state in between.
///
/// Messages are handled by the code that handles them elsewhere, with their deadlines, cancellation and accounts. Only
/// when is up to the test: whatever is not stepped stays queued.
///
/// ```
/// use ryker::{test_kit::{paused, Step, Stepper}, Actor, ActorExit, Context, RykerConfig};
/// use std::num::ParseIntError;
///
/// #[derive(Debug, PartialEq)]
/// struct Sum(i64);
///
/// impl Actor for Sum {
///     type Msg = &'static str;
///     type Error = ParseIntError;
///
///     async fn handle(&mut self, n: &'static str, _: &mut Context<Self>) -> Result<(), ParseIntError> {
///         self.0 += n.parse::<i64>()?;
///         Ok(())
///     }
/// }
///
/// paused(RykerConfig::default(), |rt| async move {
///     let (sum, mut steps) = Stepper::of(rt.actor("sum", || Sum(0)));
///     for text in ["40", "2", "two", "1"] {
///         sum.try_send(text).unwrap();
///     }
///     steps.start().await.unwrap();
///     assert!(matches!(steps.step().await, Step::Handled));
///     assert!(matches!(steps.step().await, Step::Handled));
///     assert_eq!(*steps.state(), Sum(42));
///
///     // An error ends the incarnation; the queue stays.
///     assert!(matches!(steps.step().await, Step::Exited(ActorExit::Failed { .. })));
///     steps.start().await.unwrap();
///     assert_eq!(*steps.state(), Sum(0));
///     assert!(matches!(steps.step().await, Step::Handled));
///     assert!(matches!(steps.step().await, Step::Idle));
///
///     assert_eq!((steps.accounts().ok, steps.accounts().error), (3, 1));
/// });
/// ```
pub struct Stepper<A: Actor> {
    inbox: Inbox<Letter<A::Msg>>,
    factory: Box<dyn FnMut() -> A + Send>,
    generation: u64,
    /// While an incarnation runs and no step is under way.
    running: Option<Running<A>>,
}

struct Running<A: Actor> {
    actor: A,
    cx: Context<A>,
    timer: Option<Pin<Box<Timer>>>,
}

/// What one step did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Step {
    /// A message was handled, in time.
    Handled,
    /// A message was handled too late, or its handler was cancelled at the deadline; the actor goes on.
    TimedOut,
    /// A message had expired in the queue, and was dropped.
    Expired,
    /// A message was an ask that nobody waits for any more, and was dropped.
    Abandoned,
    /// Nothing is queued.
    Idle,
    /// The incarnation has ended: its handler failed, panicked or was cancelled; or the mailbox was closed and empty,
    /// [`on_stop`](Actor::on_stop) has run, and the actor has ended for good.
    Exited(ActorExit),
}

impl<A: Actor> Stepper<A> {
    /// The actor with the options of `builder`, not yet started, and the reference to send to.
    ///
    /// # Panics
    /// An option is out of its range, or the runtime drains.
    #[track_caller]
    pub fn of<F>(builder: ActorBuilder<A, F>) -> (ActorRef<A::Msg>, Self)
    where
        F: FnMut() -> A + Send + 'static,
    {
        let (shared, factory) = built(builder.open(false));
        let actor = ActorRef::new(Sender::new(Arc::clone(&shared)));
        let stepper = Self {
            inbox: Inbox::new(shared),
            factory: Box::new(factory),
            generation: 0,
            running: None,
        };
        (actor, stepper)
    }

    /// Begins an incarnation, the first or the one after a failure: makes the state and runs
    /// [`on_start`](Actor::on_start). There is no delay, and no limit to how often.
    ///
    /// # Errors
    /// [`ActorExit::Failed`] or [`ActorExit::Panicked`] of the factory or of `on_start`; it may be called again.
    ///
    /// # Panics
    /// One is running, or the actor has ended for good.
    ///
    /// # Cancel safety
    /// Dropped, there is no incarnation; it may be called again.
    pub async fn start(&mut self) -> Result<(), ActorExit> {
        let name = &self.inbox.shared.spec.name;
        assert!(self.running.is_none(), "`{name}` is running");
        if let Some(exit) = self.inbox.shared.fate().exit() {
            panic!("`{name}` has ended for good: {exit}");
        }
        self.generation += 1;
        let cx = Context::new(Arc::clone(&self.inbox.shared), self.generation);
        let factory = &mut self.factory;
        let running = contained(async move {
            let mut running = Running {
                actor: factory(),
                cx,
                timer: None,
            };
            match running.actor.on_start(&mut running.cx).await {
                Ok(()) => Ok(running),
                Err(error) => Err(ActorExit::failed(error.into())),
            }
        });
        self.running = Some(running.await?);
        Ok(())
    }

    /// Drops the state, as a failure would, and [starts](Self::start) the next incarnation.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    ///
    /// # Panics
    /// The actor has ended for good.
    ///
    /// # Cancel safety
    /// As [`start`](Self::start).
    pub async fn restart(&mut self) -> Result<(), ActorExit> {
        self.running = None;
        self.start().await
    }

    /// Handles the first message queued, and waits until its handler has ended. If there is none it does not wait for
    /// one.
    ///
    /// # Panics
    /// No incarnation runs.
    ///
    /// # Cancel safety
    /// Dropped, it aborts the handler, whose message is counted as aborted, and ends the incarnation.
    pub async fn step(&mut self) -> Step {
        let shared = Arc::clone(&self.inbox.shared);
        let Some(running) = self.running.take() else {
            panic!("`{}` is not running: start it first", shared.spec.name);
        };
        let envelope = match self.inbox.try_take_one() {
            Ok(Some(envelope)) if envelope.message.is_abandoned() => {
                self.running = Some(running);
                self.inbox
                    .end_unhandled(envelope, End::Abandoned, ErrorKind::Timeout);
                return Step::Abandoned;
            }
            Ok(Some(envelope)) => envelope,
            Ok(None) => {
                self.running = Some(running);
                return Step::Expired;
            }
            Err(TryRecvError::Empty) => {
                self.running = Some(running);
                return Step::Idle;
            }
            Err(_) => return self.finish(running).await,
        };
        let late = shared.accounts().timed_out;
        let inbox = &mut self.inbox;
        let handled = contained(async {
            let Running {
                mut actor,
                mut cx,
                mut timer,
            } = running;
            let Letter {
                message,
                caller,
                origin,
            } = envelope.message;
            let mut hand = Hand::new(&shared, inbox.now, envelope.known, caller, origin);
            cx.deadline = envelope.known.deadline;
            let mut stopping = pin!(None::<Pending<()>>);
            let handled = {
                let handler = pin!(actor.handle(message, &mut cx));
                Serve::new::<A>(handler, Some(&hand), inbox, &mut stopping, &mut timer).await
            };
            conclude(handled, &mut hand, &mut actor, &mut cx, inbox)?;
            Ok(Running { actor, cx, timer })
        });
        match handled.await {
            Ok(running) => {
                self.running = Some(running);
                match shared.accounts().timed_out > late {
                    true => Step::TimedOut,
                    false => Step::Handled,
                }
            }
            Err(exit) => {
                if !exit.is_failure() {
                    self.end(exit.clone());
                }
                Step::Exited(exit)
            }
        }
    }

    /// The mailbox is closed and empty, or what was left of it is to be dropped.
    async fn finish(&mut self, mut running: Running<A>) -> Step {
        let exit = if self.inbox.shared.is_cut() {
            ActorExit::Cancelled
        } else {
            let stopped = contained(async {
                running.actor.on_stop(&mut running.cx).await;
                Ok(())
            });
            match stopped.await {
                Ok(()) => ActorExit::Normal,
                Err(panic) => return Step::Exited(panic),
            }
        };
        self.end(exit.clone());
        Step::Exited(exit)
    }

    fn end(&mut self, exit: ActorExit) {
        self.inbox.retire();
        self.inbox.shared.fate().seal(exit);
        self.inbox.shared.core.changed();
    }

    /// The state that the last step left.
    ///
    /// # Panics
    /// No incarnation runs.
    #[track_caller]
    pub fn state(&self) -> &A {
        match &self.running {
            Some(running) => &running.actor,
            None => panic!("`{}` is not running", self.inbox.shared.spec.name),
        }
    }

    /// Whether an incarnation runs.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Messages queued.
    pub fn depth(&self) -> usize {
        self.inbox.shared.depth() as usize
    }

    /// What became of every message.
    pub fn accounts(&self) -> Accounts {
        self.inbox.shared.accounts()
    }
}

/// What `future` makes, or how it failed.
async fn contained<T>(future: impl Future<Output = Result<T, ActorExit>>) -> Result<T, ActorExit> {
    match Contained::new(future).await {
        Ok(ended) => ended,
        Err(panic) => Err(ActorExit::Panicked {
            text: text_of(panic),
        }),
    }
}

impl<A: Actor> Drop for Stepper<A> {
    fn drop(&mut self) {
        self.end(ActorExit::Cancelled);
    }
}

impl<A: Actor> fmt::Debug for Stepper<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stepper")
            .field("mailbox", &self.inbox.shared)
            .field("generation", &self.generation)
            .field("is_running", &self.is_running())
            .finish_non_exhaustive()
    }
}
