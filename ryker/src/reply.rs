//! The answer to one message, and the wait for it.

use std::fmt;
use std::future::{poll_fn, Future};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use zeroize::Zeroize;

use crate::actor::ActorRef;
use crate::clock::{Clock, Tick};
use crate::contain::wake;
use crate::deadlines::{Key, Waits};
use crate::error::{AskError, ErrorKind};
use crate::sync::{AtomicBool, Lock, Ordering};
use crate::timer::Timer;

/// Answers one ask; the payload of those message variants that want an answer.
///
/// Dropping it without an answer tells the caller [`AskError::NoReply`] at once.
pub struct Reply<R> {
    /// Until it is answered.
    slot: Option<Arc<Slot<R>>>,
}

impl<R> Reply<R> {
    /// Answers.
    ///
    /// # Errors
    /// Hands the answer back if nobody waits for it any more.
    pub fn send(mut self, answer: R) -> Result<(), R> {
        match self.slot.take() {
            Some(slot) => slot.answer(answer),
            None => Err(answer),
        }
    }

    /// Whether the caller has gone: it was dropped, or its deadline has passed. Whoever is about to do expensive work
    /// should ask.
    pub fn is_gone(&self) -> bool {
        self.slot.as_ref().map_or(true, |slot| slot.is_gone())
    }

    /// Ends when the caller has gone; for a `select!` beside long work.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn gone(&mut self) {
        if let Some(slot) = &self.slot {
            poll_fn(|cx| slot.poll_gone(cx)).await;
        }
    }
}

impl<R> Drop for Reply<R> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            slot.fail(ErrorKind::NoReply);
        }
    }
}

/// So that a message that holds a reply can derive `Zeroize`: there is nothing to overwrite.
impl<R> Zeroize for Reply<R> {
    fn zeroize(&mut self) {}
}

impl<R> fmt::Debug for Reply<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("is_gone", &self.is_gone())
            .finish()
    }
}

/// Between the two sides of an ask.
pub(crate) struct Slot<R> {
    state: Lock<State<R>>,
    /// Whether the state has ceased to be `Open`. Written under the lock.
    is_over: AtomicBool,
    /// Whether the caller is an actor's handler.
    is_inner: bool,
}

/// `Open` is left once; whoever leaves it wakes the other side.
enum State<R> {
    /// The caller waits with the first waker; the handler may wait with the second for the caller to go.
    Open(Waker, Option<Waker>),
    Answered(R),
    Failed(ErrorKind),
    /// The caller has what it got, or has gone.
    Over,
}

impl<R> Slot<R> {
    fn new(caller: Waker, is_inner: bool) -> Self {
        Self {
            state: Lock::new(State::Open(caller, None)),
            is_over: AtomicBool::new(false),
            is_inner,
        }
    }

    /// Leaves `Open` for `end`, and returns what was; hands `end` back if it was left already.
    fn leave(&self, end: State<R>) -> Result<State<R>, State<R>> {
        let mut state = self.state.lock();
        if !matches!(*state, State::Open(..)) {
            return Err(end);
        }
        let open = std::mem::replace(&mut *state, end);
        self.is_over.store(true, Ordering::Relaxed);
        drop(state);
        Ok(open)
    }

    fn answer(&self, answer: R) -> Result<(), R> {
        match self.leave(State::Answered(answer)) {
            Ok(State::Open(caller, _)) => {
                wake(caller);
                Ok(())
            }
            Err(State::Answered(answer)) => Err(answer),
            _ => Ok(()),
        }
    }

    fn fail(&self, kind: ErrorKind) {
        if let Ok(State::Open(caller, handler)) = self.leave(State::Failed(kind)) {
            wake(caller);
            if let Some(handler) = handler {
                wake(handler);
            }
        }
    }

    /// The caller waits no more.
    fn abandon(&self) {
        match self.leave(State::Over) {
            Ok(State::Open(_, Some(handler))) => wake(handler),
            Ok(_) => {}
            Err(_) => {
                let left = std::mem::replace(&mut *self.state.lock(), State::Over);
                drop(left);
            }
        }
    }

    #[inline(always)]
    fn is_gone(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    fn poll_answer(&self, cx: &mut Context<'_>) -> Poll<Result<R, ErrorKind>> {
        let mut state = self.state.lock();
        match &mut *state {
            State::Open(caller, _) if caller.will_wake(cx.waker()) => return Poll::Pending,
            State::Open(..) => {}
            _ => return Poll::Ready(take(&mut state)),
        }
        drop(state);
        let mut waker = cx.waker().clone();
        let mut state = self.state.lock();
        let polled = match &mut *state {
            State::Open(caller, _) => {
                std::mem::swap(caller, &mut waker);
                Poll::Pending
            }
            _ => Poll::Ready(take(&mut state)),
        };
        drop(state);
        drop(waker);
        polled
    }

    fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        let waker = cx.waker().clone();
        let mut state = self.state.lock();
        let State::Open(_, handler) = &mut *state else {
            drop(state);
            drop(waker);
            return Poll::Ready(());
        };
        let old = handler.replace(waker);
        drop(state);
        drop(old);
        Poll::Pending
    }
}

/// The result of a slot that is not open.
fn take<R>(state: &mut State<R>) -> Result<R, ErrorKind> {
    match std::mem::replace(state, State::Over) {
        State::Answered(answer) => Ok(answer),
        State::Failed(kind) => Err(kind),
        State::Open(..) | State::Over => Err(ErrorKind::NoReply),
    }
}

/// Whoever waits for an answer, as the mailbox sees it.
pub(crate) trait Caller: Send + Sync {
    fn is_gone(&self) -> bool;
    /// Tells it that there will be no answer, unless it has one.
    fn fail(&self, kind: ErrorKind);
    /// Whether it is an actor's handler.
    fn is_inner(&self) -> bool;
}

impl<R: Send> Caller for Slot<R> {
    fn is_gone(&self) -> bool {
        Slot::is_gone(self)
    }

    fn fail(&self, kind: ErrorKind) {
        Slot::fail(self, kind);
    }

    fn is_inner(&self) -> bool {
        self.is_inner
    }
}

impl<R: Send> Waits for Slot<R> {
    fn expire(&self) {
        self.fail(ErrorKind::Timeout);
    }
}

/// The wait for an answer; made by [`ActorRef::ask`].
///
/// Nothing is sent before it is first polled. Dropping it gives up: the message is then dropped unhandled if it is
/// still queued, and the handler can see it if not.
#[must_use = "nothing is sent before it is polled"]
pub struct Ask<'a, M, R, F>
where
    M: 'static,
    R: Send,
{
    actor: &'a ActorRef<M>,
    make: Option<F>,
    own: Option<Tick>,
    wait: Option<Wait<'a, R>>,
}

// Nothing in it is ever pinned.
impl<M, R: Send, F> Unpin for Ask<'_, M, R, F> {}

/// The caller's side of a slot, let go when dropped.
struct Wait<'a, R> {
    slot: Arc<Slot<R>>,
    alarm: Alarm<'a>,
    is_over: bool,
}

/// What ends the wait at the deadline.
enum Alarm<'a> {
    Call(&'a Clock, Key),
    /// Where tokio's clock is paused.
    Timer(Pin<Box<Timer>>),
}

impl<R> Drop for Wait<'_, R> {
    fn drop(&mut self) {
        if let Alarm::Call(clock, key) = self.alarm {
            clock.cancel(key);
        }
        if !self.is_over {
            self.slot.abandon();
        }
    }
}

impl<'a, M, R: Send, F> Ask<'a, M, R, F> {
    pub(crate) fn new(actor: &'a ActorRef<M>, make: F, own: Option<Tick>) -> Self {
        Self {
            actor,
            make: Some(make),
            own,
            wait: None,
        }
    }
}

impl<M, R, F> Future for Ask<'_, M, R, F>
where
    M: Send + 'static,
    R: Send + 'static,
    F: FnOnce(Reply<R>) -> M,
{
    type Output = Result<R, AskError<M>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let Some(make) = this.make.take() {
            let (own, is_inner) = crate::scope::inherit(this.own);
            let slot = Arc::new(Slot::new(cx.waker().clone(), is_inner));
            let caller: Arc<dyn Caller> = Arc::clone(&slot) as Arc<dyn Caller>;
            let reply = Reply {
                slot: Some(Arc::clone(&slot)),
            };
            let deadline = match this.actor.deliver(make(reply), Some(caller), own) {
                Ok(deadline) => deadline,
                Err(error) => {
                    slot.abandon();
                    return Poll::Ready(Err(AskError::NotSent(error)));
                }
            };
            let clock = this.actor.clock();
            let call = clock.call_at(deadline, Arc::clone(&slot) as Arc<dyn Waits>);
            this.wait = Some(Wait {
                slot,
                alarm: match call {
                    Some(key) => Alarm::Call(clock, key),
                    None => Alarm::Timer(Box::pin(Timer::at(deadline))),
                },
                is_over: false,
            });
            if call.is_some() {
                // Whatever has happened meanwhile has woken this task.
                return Poll::Pending;
            }
        }
        let Some(wait) = this.wait.as_mut() else {
            return Poll::Ready(Err(AskError::NoReply));
        };
        let ended = match wait.slot.poll_answer(cx) {
            Poll::Ready(ended) => ended,
            Poll::Pending => {
                let is_late = match &mut wait.alarm {
                    Alarm::Timer(timer) => timer.as_mut().poll(cx).is_ready(),
                    Alarm::Call(..) => false,
                };
                if !is_late {
                    return Poll::Pending;
                }
                this.wait = None;
                return Poll::Ready(Err(AskError::Timeout));
            }
        };
        wait.is_over = true;
        this.wait = None;
        Poll::Ready(ended.map_err(|kind| match kind {
            ErrorKind::Timeout => AskError::Timeout,
            ErrorKind::Draining => AskError::Draining,
            ErrorKind::Closed => AskError::Closed,
            _ => AskError::NoReply,
        }))
    }
}

impl<M, R: Send, F> fmt::Debug for Ask<'_, M, R, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ask")
            .field("actor", self.actor)
            .finish_non_exhaustive()
    }
}
