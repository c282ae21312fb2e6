//! Runs the incarnations of an actor, one after the other, over one mailbox.

use std::any::Any;
use std::fmt;
use std::future::{pending, poll_fn, Future};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::pin::{pin, Pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{self, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use tracing::Span;

use crate::account::End;
use crate::actor::{Actor, ActorExit, Context, DeadlineExceeded, Letter, OnDeadline};
use crate::clock::Tick;
use crate::config::SpanLevel;
use crate::error::ErrorKind;
use crate::mailbox::{Envelope, Inbox, Phase, Shared};
use crate::observer::Outcome;
use crate::reply::Caller;
use crate::scope::Scope;
use crate::supervision::{Failures, Policy, Verdict};
use crate::timer::Timer;

/// Runs an actor that somebody else supervises; see [`ActorBuilder::runner`](crate::ActorBuilder::runner).
///
/// Each [`run`](Self::run) is one incarnation: it makes the actor's state anew and goes on with the mailbox where the
/// one before ended. Nothing is lost between two of them but the message in hand. Clones are the same actor; when the
/// last one is dropped the mailbox closes, and what is queued is dropped and counted.
pub struct Runner<A: Actor> {
    seat: Arc<Seat<A>>,
}

/// What one incarnation leaves to the next.
struct Seat<A: Actor> {
    /// Taken by the incarnation that runs.
    place: Mutex<Option<Place<A>>>,
    shared: Arc<Shared<Letter<A::Msg>>>,
}

pub(crate) struct Place<A: Actor> {
    inbox: Inbox<Letter<A::Msg>>,
    factory: Box<dyn FnMut() -> A + Send>,
    generation: u64,
}

impl<A: Actor> Runner<A> {
    pub(crate) fn new(
        shared: Arc<Shared<Letter<A::Msg>>>,
        factory: impl FnMut() -> A + Send + 'static,
    ) -> Self {
        let place = Place::new(Arc::clone(&shared), factory);
        Self {
            seat: Arc::new(Seat {
                place: Mutex::new(Some(place)),
                shared,
            }),
        }
    }

    /// Runs one incarnation until the actor ends: it was stopped or drained and has worked off its mailbox, or nobody
    /// is left to send to it. When `stopping` ends it takes nothing more in and works off its mailbox.
    ///
    /// A panic of the actor's passes through, after it has been counted, so that the supervisor sees it as its own
    /// child's.
    ///
    /// # Errors
    /// [`ActorExit::Failed`] when the actor returned an error, [`ActorExit::Cancelled`] when a drain ran out of time or
    /// when another incarnation runs.
    ///
    /// # Cancel safety
    /// Dropping it aborts the handler under way, whose message is counted as aborted; the mailbox stays for the next
    /// incarnation.
    pub fn run<S>(&self, stopping: S) -> impl Future<Output = Result<(), ActorExit>> + Send
    where
        S: Future + Send,
    {
        let seat = Arc::clone(&self.seat);
        async move {
            let mut taken = Taken::take(&seat).ok_or(ActorExit::Cancelled)?;
            let Some(place) = taken.place.as_mut() else {
                return Err(ActorExit::Cancelled);
            };
            let ended = place.incarnate(stopping).await;
            if ended.is_ok() {
                // There is no next one.
                place.end(ActorExit::Normal);
                drop(taken.place.take());
            }
            ended
        }
    }

    /// The actor's name.
    pub fn name(&self) -> &str {
        &self.seat.shared.spec.name
    }
}

impl<A: Actor> Clone for Runner<A> {
    fn clone(&self) -> Self {
        Self {
            seat: Arc::clone(&self.seat),
        }
    }
}

impl<A: Actor> fmt::Debug for Runner<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Runner").field(&self.seat.shared).finish()
    }
}

/// The place of the incarnation that runs, given back when it is dropped.
struct Taken<'a, A: Actor> {
    seat: &'a Seat<A>,
    place: Option<Place<A>>,
}

impl<'a, A: Actor> Taken<'a, A> {
    fn take(seat: &'a Seat<A>) -> Option<Self> {
        let mut place = seat.place.lock().unwrap_or_else(PoisonError::into_inner);
        let place = Some(place.take()?);
        Some(Self { seat, place })
    }
}

impl<A: Actor> Drop for Taken<'_, A> {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            *self
                .seat
                .place
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = Some(place);
        }
    }
}

impl<A: Actor> Place<A> {
    pub(crate) fn new(
        shared: Arc<Shared<Letter<A::Msg>>>,
        factory: impl FnMut() -> A + Send + 'static,
    ) -> Self {
        Self {
            inbox: Inbox::new(shared),
            factory: Box::new(factory),
            generation: 0,
        }
    }

    /// One incarnation, in its span.
    async fn incarnate<S: Future + Send>(&mut self, stopping: S) -> Result<(), ActorExit> {
        self.generation += 1;
        let span = self.span();
        let actor = match &span {
            Some(span) => span.in_scope(|| (self.factory)()),
            None => (self.factory)(),
        };
        let mut life = pin!(live(&mut self.inbox, actor, self.generation, stopping));
        poll_fn(|task| {
            let _inside = span.as_deref().map(Span::enter);
            life.as_mut().poll(task)
        })
        .await
    }

    /// The incarnation's span, if anybody records it.
    fn span(&self) -> Option<Box<Span>> {
        let shared = &self.inbox.shared;
        if shared.core.hot.spans() < SpanLevel::Info {
            return None;
        }
        let generation = self.generation;
        let actor = &*shared.spec.name;
        let span = tracing::info_span!("ryker.actor", actor, generation);
        (!span.is_disabled()).then(|| Box::new(span))
    }

    /// Ends the actor for good: whoever sees that it has ended sees what became of its messages, too.
    fn end(&mut self, exit: ActorExit) {
        // A message may panic in its destructor.
        let _ = catch_unwind(AssertUnwindSafe(|| self.inbox.retire()));
        self.inbox.shared.fate.seal(exit);
        self.inbox.shared.core.changed();
    }
}

impl<A: Actor> Drop for Place<A> {
    fn drop(&mut self) {
        self.end(ActorExit::Cancelled);
    }
}

/// How the handling of one message ended.
pub(crate) enum Handled<E> {
    Done(Result<(), E>),
    /// Cancelled at its deadline.
    Late,
    /// Cancelled by the end of a drain.
    Cut,
}

/// The life of one incarnation. Not an `async fn`, which would keep its arguments twice.
fn live<'a, A: Actor, S: Future + Send + 'a>(
    inbox: &'a mut Inbox<Letter<A::Msg>>,
    mut actor: A,
    generation: u64,
    stopping: S,
) -> impl Future<Output = Result<(), ActorExit>> + Send + 'a {
    async move {
        let shared = Arc::clone(&inbox.shared);
        let mut cx = Context::new(Arc::clone(&shared), generation);
        let mut stopping = pin!(Some(stopping));

        let started = {
            let mut start = pin!(actor.on_start(&mut cx));
            poll_fn(|task| {
                poll_stop(&mut stopping, &shared, task);
                if let Poll::Ready(started) = start.as_mut().poll(task) {
                    return Poll::Ready(Some(started));
                }
                shared.attend(task.waker());
                match shared.is_cut() {
                    true => Poll::Ready(None),
                    false => Poll::Pending,
                }
            })
            .await
        };
        match started {
            Some(Ok(())) => {}
            Some(Err(error)) => return Err(ActorExit::failed(error.into())),
            None => {
                inbox.drop_rest();
                return Err(ActorExit::Cancelled);
            }
        }

        let mut timer: Option<Pin<Box<Timer>>> = None;
        // Messages since the last look at whether the supervisor wants it to stop.
        let mut run = u32::MAX;
        loop {
            let next = poll_fn(|task| loop {
                run = run.saturating_add(1);
                if run >= shared.core.hot.batch() {
                    run = 0;
                    poll_stop(&mut stopping, &shared, task);
                }
                match inbox.poll_take(task) {
                    Poll::Ready(Some(letter)) if letter.message.is_abandoned() => {
                        inbox.end_unhandled(letter, End::Abandoned, ErrorKind::Timeout);
                    }
                    Poll::Ready(taken) => {
                        let taken = taken.map(|letter| take_in_hand(&shared, inbox.now, letter));
                        return Poll::Ready(taken);
                    }
                    Poll::Pending => {
                        if run > 0 {
                            // Whatever comes next is to wake this task.
                            run = u32::MAX;
                            poll_stop(&mut stopping, &shared, task);
                        }
                        return Poll::Pending;
                    }
                }
            });
            let Some((message, deadline, hand, span)) = next.await else {
                break;
            };
            cx.deadline = deadline;
            let handled = Serve::<A, _, _> {
                handler: actor.handle(message, &mut cx),
                deadline,
                span,
                hand: &hand,
                inbox,
                stopping: &mut stopping,
                timer: &mut timer,
                timed: false,
                rejected: false,
            }
            .await;
            conclude(handled, hand, &mut actor, &mut cx, inbox)?;
        }

        if shared.is_cut() {
            return Err(ActorExit::Cancelled);
        }
        let mut stop = pin!(actor.on_stop(&mut cx));
        poll_fn(|task| {
            if stop.as_mut().poll(task).is_ready() {
                return Poll::Ready(Ok(()));
            }
            shared.attend(task.waker());
            match shared.is_cut() {
                true => Poll::Ready(Err(ActorExit::Cancelled)),
                false => Poll::Pending,
            }
        })
        .await
    }
}

/// Parts a message from what is known of it.
pub(crate) fn take_in_hand<M>(
    shared: &Shared<Letter<M>>,
    now: Tick,
    envelope: Envelope<Letter<M>>,
) -> (M, Tick, Hand<'_, M>, Option<Box<Span>>) {
    let deadline = envelope.deadline;
    let span = handle_span(shared, deadline, &envelope.message);
    let waited = now.saturating_sub(envelope.enqueued());
    let (message, caller) = envelope.message.open();
    let hand = Hand {
        shared,
        caller,
        taken: now,
        waited: waited as u32,
        booked: false,
    };
    (message, deadline, hand, span)
}

pin_project! {
    /// The handling of one message, beside everything that may end it early.
    pub(crate) struct Serve<'a, 's, A: Actor, S, F> {
        #[pin]
        pub(crate) handler: F,
        pub(crate) deadline: Tick,
        pub(crate) span: Option<Box<Span>>,
        pub(crate) hand: &'a Hand<'a, A::Msg>,
        pub(crate) inbox: &'a mut Inbox<Letter<A::Msg>>,
        pub(crate) stopping: &'a mut Pin<&'s mut Option<S>>,
        // Made by the first handler that has to be timed.
        pub(crate) timer: &'a mut Option<Pin<Box<Timer>>>,
        pub(crate) timed: bool,
        pub(crate) rejected: bool,
    }
}

impl<A, S, F> Future for Serve<'_, '_, A, S, F>
where
    A: Actor,
    S: Future,
    F: Future<Output = Result<(), A::Error>>,
{
    type Output = Handled<A::Error>;

    fn poll(self: Pin<&mut Self>, task: &mut task::Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let polled = {
            let _scope = Scope::enter(*this.deadline);
            let _inside = this.span.as_deref().map(Span::enter);
            this.handler.poll(task)
        };
        if let Poll::Ready(result) = polled {
            return Poll::Ready(Handled::Done(result));
        }
        let shared = this.hand.shared;
        this.inbox.rested();
        poll_stop(this.stopping, shared, task);
        let phase = shared.attend(task.waker());
        if shared.is_cut() {
            this.hand.fail(ErrorKind::Draining);
            return Poll::Ready(Handled::Cut);
        }
        if is_ending(shared, phase) && !*this.rejected {
            // Whoever asks from a handler may be what this handler waits for.
            *this.rejected = true;
            this.inbox
                .reject(End::Dropped, ErrorKind::Draining, Letter::is_inner_ask);
        }
        if A::CANCEL_SAFE {
            let deadline = Timer::on(&shared.core.clock, *this.deadline);
            let timer = match this.timer {
                Some(timer) if *this.timed => timer,
                Some(timer) => {
                    timer.set(deadline);
                    timer
                }
                none => none.insert(Box::pin(deadline)),
            };
            *this.timed = true;
            if timer.as_mut().poll(task).is_ready() {
                this.hand.fail(ErrorKind::Timeout);
                return Poll::Ready(Handled::Late);
            }
        }
        Poll::Pending
    }
}

/// Books how a message ended, and tells whether the incarnation goes on.
pub(crate) fn conclude<A: Actor>(
    handled: Handled<A::Error>,
    hand: Hand<'_, A::Msg>,
    actor: &mut A,
    cx: &mut Context<A>,
    inbox: &mut Inbox<Letter<A::Msg>>,
) -> Result<(), ActorExit> {
    let late = hand.shared.core.clock.now() > cx.deadline;
    cx.deadline = Tick::MAX;
    match handled {
        Handled::Done(Ok(())) => {
            hand.end(if late { End::TimedOut } else { End::Ok });
            Ok(())
        }
        Handled::Done(Err(error)) => {
            hand.end(End::Error);
            Err(ActorExit::failed(error.into()))
        }
        Handled::Late => {
            hand.end(End::TimedOut);
            match actor.on_deadline(cx) {
                OnDeadline::Keep => Ok(()),
                OnDeadline::Restart => Err(ActorExit::failed(Box::new(DeadlineExceeded))),
            }
        }
        Handled::Cut => {
            hand.end(End::Aborted);
            inbox.drop_rest();
            Err(ActorExit::Cancelled)
        }
    }
}

/// Whether the actor is to come to an end, other than by nobody being left to send to it.
fn is_ending<M>(shared: &Shared<Letter<M>>, phase: Phase) -> bool {
    phase == Phase::Draining || shared.core.is_draining()
}

/// Ends the intake when whoever supervises says so.
fn poll_stop<S: Future, M>(
    stopping: &mut Pin<&mut Option<S>>,
    shared: &Shared<Letter<M>>,
    task: &mut task::Context<'_>,
) {
    let Some(stop) = stopping.as_mut().as_pin_mut() else {
        return;
    };
    if stop.poll(task).is_ready() {
        stopping.set(None);
        shared.close(Phase::Draining);
    }
}

/// The span of one message, where those are wanted.
#[inline(always)]
fn handle_span<M>(
    shared: &Shared<Letter<M>>,
    deadline: Tick,
    letter: &Letter<M>,
) -> Option<Box<Span>> {
    if !shared.core.hot.traces_messages() {
        return None;
    }
    let span = tracing::debug_span!(
        "ryker.actor.handle",
        actor = &*shared.spec.name,
        deadline_ms = deadline.saturating_sub(shared.core.clock.now()),
        queue_depth = shared.depth(),
    );
    if let Some(origin) = &letter.origin {
        span.follows_from(&**origin);
    }
    Some(Box::new(span))
}

/// The message in hand. Dropped without an end it was aborted, or its handler panicked.
pub(crate) struct Hand<'a, M> {
    shared: &'a Shared<Letter<M>>,
    caller: Option<Arc<dyn Caller>>,
    taken: Tick,
    waited: u32,
    booked: bool,
}

impl<M> Hand<'_, M> {
    fn fail(&self, kind: ErrorKind) {
        if let Some(caller) = &self.caller {
            caller.fail(kind);
        }
    }

    #[inline(always)]
    fn end(mut self, end: End) {
        self.book(end);
    }

    #[inline(always)]
    fn book(&mut self, end: End) {
        self.booked = true;
        if end == End::Aborted {
            self.shared.book_unhandled(1, end);
            return;
        }
        self.shared.progress.0.end(1, end);
        self.shared.make_room(false);
        let outcome = match end {
            End::Ok => Outcome::Ok,
            End::TimedOut => Outcome::Timeout,
            _ => Outcome::Error,
        };
        let took = self.shared.core.clock.now().saturating_sub(self.taken);
        if self.shared.core.hot.metrics() {
            self.shared.stats.handled(outcome, took);
        }
        if let Some(observer) = self.shared.spec.observer() {
            let waited = Duration::from_millis(u64::from(self.waited));
            let took = Duration::from_millis(took);
            observer.on_handled(&self.shared.spec.name, outcome, waited, took);
        }
    }
}

impl<M> Drop for Hand<'_, M> {
    fn drop(&mut self) {
        if !self.booked {
            self.book(if std::thread::panicking() {
                End::Panicked
            } else {
                End::Aborted
            });
        }
    }
}

/// Runs incarnations until one ends in peace, or too many fail: what [`Runtime::spawn`](crate::Runtime::spawn) does
/// where there is no other supervisor.
pub(crate) fn supervise<A: Actor>(mut place: Place<A>) -> impl Future<Output = ()> + Send {
    async move {
        let mut failures: Option<Box<Failures>> = None;
        loop {
            let began = place.inbox.shared.core.clock.now();
            let ended = Contained::new(place.incarnate(pending::<()>())).await;
            let exit = match ended {
                Ok(Ok(())) => ActorExit::Normal,
                Ok(Err(exit)) => exit,
                Err(panic) => ActorExit::Panicked {
                    text: text_of(&*panic),
                },
            };
            let shared = &*place.inbox.shared;
            match judge(shared, exit, began, &mut failures) {
                Ok((now, delay)) => rest(shared, now, delay).await,
                Err(exit) => {
                    tell_exit(shared, &exit);
                    place.end(exit);
                    return;
                }
            }
        }
    }
}

/// When the next incarnation is to start, from now on, or how the actor ends.
fn judge<M>(
    shared: &Shared<Letter<M>>,
    exit: ActorExit,
    began: Tick,
    failures: &mut Option<Box<Failures>>,
) -> Result<(Tick, Duration), ActorExit> {
    if !exit.is_failure() {
        return Err(exit);
    }
    let now = shared.core.clock.now();
    let policy = Policy::of(&shared.core.config());
    let ran = Duration::from_millis(now.saturating_sub(began));
    let failures = failures.get_or_insert_with(Box::default);
    match failures.judge(policy, now, ran) {
        Verdict::GiveUp(failures) => Err(ActorExit::RapidFail {
            failures,
            window: policy.window,
            last: Arc::new(exit),
        }),
        Verdict::Restart(delay, failures) => {
            tell_restart(shared, &exit, failures, delay);
            Ok((now, delay))
        }
    }
}

/// Waits for `delay`, unless the actor is to come to an end: then what is queued wants to be handled at once.
async fn rest<M>(shared: &Shared<Letter<M>>, now: Tick, delay: Duration) {
    let mut timer = pin!(Timer::at(now + delay.as_millis() as u64));
    poll_fn(|task| {
        let phase = shared.attend(task.waker());
        if is_ending(shared, phase) {
            return Poll::Ready(());
        }
        timer.as_mut().poll(task)
    })
    .await;
}

pin_project! {
    /// A future whose panics are its result, those of its destructor too.
    pub(crate) struct Contained<F> {
        #[pin]
        future: Option<F>,
    }
}

impl<F> Contained<F> {
    pub(crate) fn new(future: F) -> Self {
        Self {
            future: Some(future),
        }
    }
}

impl<F: Future> Future for Contained<F> {
    type Output = Result<F::Output, Box<dyn Any + Send>>;

    fn poll(self: Pin<&mut Self>, task: &mut task::Context<'_>) -> Poll<Self::Output> {
        let mut slot = self.project().future;
        let Some(future) = slot.as_mut().as_pin_mut() else {
            return Poll::Pending;
        };
        let ended = match catch_unwind(AssertUnwindSafe(|| future.poll(task))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(output)) => Ok(output),
            Err(panic) => Err(panic),
        };
        let dropped = catch_unwind(AssertUnwindSafe(|| slot.set(None)));
        Poll::Ready(match (ended, dropped) {
            (Ok(_), Err(panic)) => Err(panic),
            (ended, _) => ended,
        })
    }
}

pub(crate) fn text_of(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&'static str>() {
        return (*text).to_owned();
    }
    match panic.downcast_ref::<String>() {
        Some(text) => text.clone(),
        None => "a panic without a text".to_owned(),
    }
}

#[cold]
fn tell_restart<M>(shared: &Shared<Letter<M>>, exit: &ActorExit, failures: u32, delay: Duration) {
    shared.stats.restarted();
    tracing::warn!(
        "crate" = "ryker",
        event = "actor_restart",
        actor = &*shared.spec.name,
        reason = %exit,
        failures,
        delay_ms = delay.as_millis() as u64,
    );
    if let Some(observer) = shared.spec.observer() {
        let tell = || observer.on_restart(&shared.spec.name, exit, failures, delay);
        let _ = catch_unwind(AssertUnwindSafe(tell));
    }
}

fn tell_exit<M>(shared: &Shared<Letter<M>>, exit: &ActorExit) {
    if exit.is_failure() {
        tracing::error!(
            "crate" = "ryker",
            event = "actor_gave_up",
            actor = &*shared.spec.name,
            reason = %exit,
        );
    }
    if let Some(observer) = shared.spec.observer() {
        let tell = || observer.on_exit(&shared.spec.name, exit);
        let _ = catch_unwind(AssertUnwindSafe(tell));
    }
}
