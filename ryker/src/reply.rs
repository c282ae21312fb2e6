//! The answer to one message, and the wait for it.

use std::fmt;
use std::future::{poll_fn, Future};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use zeroize::Zeroize;

use crate::actor::ActorRef;
use crate::clock::Tick;
use crate::error::{AskError, ErrorKind};
use crate::sync::Lock;
use crate::timer::Timer;

/// Answers one ask; the payload of those message variants that want an answer.
///
/// Dropping it without an answer tells the caller [`AskError::NoReply`] at once.
pub struct Reply<R> {
    slot: Arc<Slot<R>>,
}

impl<R> Reply<R> {
    /// Answers.
    ///
    /// # Errors
    /// Hands the answer back if nobody waits for it any more.
    pub fn send(self, answer: R) -> Result<(), R> {
        self.slot.answer(answer)
    }

    /// Whether the caller has gone: it was dropped, or its deadline has passed. Whoever is about to do expensive work
    /// should ask.
    pub fn is_gone(&self) -> bool {
        self.slot.is_gone()
    }

    /// Ends when the caller has gone; for a `select!` beside long work.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn gone(&mut self) {
        poll_fn(|cx| self.slot.poll_gone(cx)).await;
    }
}

impl<R> Drop for Reply<R> {
    fn drop(&mut self) {
        self.slot.fail(ErrorKind::NoReply);
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
    /// Whether the caller is an actor's handler.
    is_inner: bool,
}

enum State<R> {
    /// The caller waits, or has not looked yet; the other waker is the handler's, which waits for the caller to go.
    Open(Option<Waker>, Option<Waker>),
    Answered(R),
    Failed(ErrorKind),
    /// The caller has what it got, or has gone.
    Over,
}

impl<R> Slot<R> {
    fn new(is_inner: bool) -> Self {
        Self {
            state: Lock::new(State::Open(None, None)),
            is_inner,
        }
    }

    fn answer(&self, answer: R) -> Result<(), R> {
        let mut state = self.state.lock();
        match &mut *state {
            State::Open(caller, handler) => {
                let wakers = (caller.take(), handler.take());
                *state = State::Answered(answer);
                drop(state);
                if let (Some(caller), _) = wakers {
                    caller.wake();
                }
                Ok(())
            }
            _ => Err(answer),
        }
    }

    fn poll_answer(&self, cx: &mut Context<'_>) -> Poll<Result<R, ErrorKind>> {
        let mut state = self.state.lock();
        match &mut *state {
            State::Open(Some(caller), _) if caller.will_wake(cx.waker()) => Poll::Pending,
            State::Open(..) => {
                drop(state);
                let waker = cx.waker().clone();
                let mut state = self.state.lock();
                if let State::Open(caller, _) = &mut *state {
                    let old = caller.replace(waker);
                    drop(state);
                    drop(old);
                    return Poll::Pending;
                }
                let ended = end(&mut state);
                drop(state);
                drop(waker);
                ended
            }
            _ => end(&mut state),
        }
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

    /// The caller waits no more.
    fn leave(&self) {
        let left = std::mem::replace(&mut *self.state.lock(), State::Over);
        if let State::Open(_, Some(handler)) = left {
            handler.wake();
        }
    }
}

/// Takes the result out of a slot that is not open.
fn end<R>(state: &mut State<R>) -> Poll<Result<R, ErrorKind>> {
    Poll::Ready(match std::mem::replace(state, State::Over) {
        State::Answered(answer) => Ok(answer),
        State::Failed(kind) => Err(kind),
        // It is left open only by mistake of the caller's, who polls on after the end.
        State::Open(..) | State::Over => Err(ErrorKind::NoReply),
    })
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

impl<R> Slot<R> {
    fn is_gone(&self) -> bool {
        matches!(*self.state.lock(), State::Over)
    }

    fn fail(&self, kind: ErrorKind) {
        let mut state = self.state.lock();
        if let State::Open(caller, handler) = &mut *state {
            let wakers = (caller.take(), handler.take());
            *state = State::Failed(kind);
            drop(state);
            if let (Some(caller), _) = wakers {
                caller.wake();
            }
        }
    }
}

pin_project_lite::pin_project! {
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
        slot: Option<Waits<R>>,
        #[pin]
        timer: Timer,
    }
}

/// The caller's hold on a slot, let go when dropped.
struct Waits<R>(Arc<Slot<R>>);

impl<R> Drop for Waits<R> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl<'a, M, R: Send, F> Ask<'a, M, R, F> {
    pub(crate) fn new(actor: &'a ActorRef<M>, make: F, own: Option<Tick>) -> Self {
        Self {
            actor,
            make: Some(make),
            own,
            slot: None,
            timer: Timer::at(0),
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
        let mut this = self.project();
        if let Some(make) = this.make.take() {
            let (own, is_inner) = crate::scope::inherit(*this.own);
            let slot = Arc::new(Slot::new(is_inner));
            let waits = Waits(Arc::clone(&slot));
            let caller: Arc<dyn Caller> = Arc::clone(&slot) as Arc<dyn Caller>;
            let message = make(Reply { slot });
            match this.actor.deliver(message, Some(caller), own) {
                Ok(deadline) => this.timer.set(Timer::at(deadline)),
                Err(error) => return Poll::Ready(Err(AskError::NotSent(error))),
            }
            *this.slot = Some(waits);
        }
        let Some(waits) = this.slot.as_ref() else {
            return Poll::Ready(Err(AskError::NoReply));
        };
        match waits.0.poll_answer(cx) {
            Poll::Ready(Ok(answer)) => {
                *this.slot = None;
                Poll::Ready(Ok(answer))
            }
            Poll::Ready(Err(kind)) => {
                *this.slot = None;
                Poll::Ready(Err(match kind {
                    ErrorKind::Timeout => AskError::Timeout,
                    ErrorKind::Draining => AskError::Draining,
                    ErrorKind::Closed => AskError::Closed,
                    _ => AskError::NoReply,
                }))
            }
            Poll::Pending => this.timer.poll(cx).map(|()| {
                *this.slot = None;
                Err(AskError::Timeout)
            }),
        }
    }
}

impl<M, R: Send, F> fmt::Debug for Ask<'_, M, R, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ask").field("actor", self.actor).finish_non_exhaustive()
    }
}
