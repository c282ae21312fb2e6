//! Runs the incarnations of an actor, one after the other, over one mailbox.

use std::any::Any;
use std::fmt;
use std::future::{pending, poll_fn, Future};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::pin::{pin, Pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{self, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use tracing::{span, Span};

use crate::account::End;
use crate::actor::{Actor, ActorExit, Context, DeadlineExceeded, Letter, OnDeadline};
use crate::clock::Tick;
use crate::config::SpanLevel;
use crate::contain::{contain, text_of};
use crate::error::ErrorKind;
use crate::mailbox::{Envelope, Inbox, Phase, Shared, Stamp, Vacant};
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
        let seat = Arc::new(Seat {
            place: Mutex::new(Some(place)),
            shared,
        });
        if let Some(extras) = &seat.shared.spec.extras {
            let vacant: Weak<Seat<A>> = Arc::downgrade(&seat);
            // There is one runner per mailbox.
            let _ = extras.vacant.set(vacant as Weak<dyn Vacant>);
        }
        Self { seat }
    }

    /// Runs one incarnation until the actor ends: it was stopped or drained and has worked off its mailbox, or nobody
    /// is left to send to it. When `stopping` ends it takes nothing more in and works off its mailbox.
    ///
    /// A panic of the actor's passes through, after it has been counted, so that the supervisor sees it as its own
    /// child's.
    ///
    /// # Errors
    /// [`ActorExit::Failed`] when the actor returned an error, and [`ActorExit::Cancelled`] when it was aborted, when a
    /// drain ran out of time, or when another incarnation is running. Of an actor that has ended for good: how it ended,
    /// at once.
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
            let mut taken = match Taken::take(&seat) {
                Some(taken) => taken,
                None => return seat.ended(),
            };
            let Some(place) = taken.place.as_mut() else {
                return seat.ended();
            };
            let ended = place.incarnate(stopping).await;
            if ended.is_ok() || seat.shared.is_cut() {
                // There is no next one.
                let exit = ended.as_ref().err().cloned();
                place.end(exit.unwrap_or(ActorExit::Normal));
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

impl<A: Actor> Seat<A> {
    fn place(&self) -> MutexGuard<'_, Option<Place<A>>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the actor ended, or that it runs.
    fn ended(&self) -> Result<(), ActorExit> {
        match self.shared.fate().exit() {
            Some(ActorExit::Normal) => Ok(()),
            Some(exit) => Err(exit),
            None => Err(ActorExit::Cancelled),
        }
    }
}

impl<A: Actor> Vacant for Seat<A> {
    fn sweep(&self) {
        // Its end is in its destructor.
        let place = self.place().take();
        drop(place);
    }
}

/// The place of the incarnation that runs, given back when it is dropped.
struct Taken<'a, A: Actor> {
    seat: &'a Seat<A>,
    place: Option<Place<A>>,
}

impl<'a, A: Actor> Taken<'a, A> {
    fn take(seat: &'a Seat<A>) -> Option<Self> {
        let place = Some(seat.place().take()?);
        Some(Self { seat, place })
    }
}

impl<A: Actor> Drop for Taken<'_, A> {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            *self.seat.place() = Some(place);
        }
        if self.seat.shared.is_cut() {
            // It was cut while nobody could see the place.
            self.seat.sweep();
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
        if self.generation > 1 {
            self.inbox.shared.stats.restarted();
        }
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
        self.inbox.retire();
        let shared = &self.inbox.shared;
        if !shared.fate().is_sealed() {
            shared.tell(|observer, name| observer.on_exit(name, &exit));
            shared.fate().seal(exit);
        }
        shared.core.changed();
    }
}

impl<A: Actor> Drop for Place<A> {
    fn drop(&mut self) {
        self.end(ActorExit::Cancelled);
    }
}

/// How a part of an actor's life ended.
pub(crate) enum Handled<T> {
    Done(T),
    /// Cancelled at its deadline.
    Late,
    /// Cancelled by the end of a drain, or by an abort.
    Cut,
}

/// The life of one incarnation. An `async fn` would keep its arguments twice.
#[allow(clippy::manual_async_fn)]
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

        let mut timer: Option<Pin<Box<Timer>>> = None;

        let started = {
            let start = pin!(actor.on_start(&mut cx));
            Serve::new::<A>(start, None, inbox, &mut stopping, &mut timer).await
        };
        match started {
            Handled::Done(Ok(())) => {}
            Handled::Done(Err(error)) => return Err(ActorExit::failed(error.into())),
            Handled::Late | Handled::Cut => {
                inbox.drop_rest();
                return Err(ActorExit::Cancelled);
            }
        }

        // Messages since the last look at whether the supervisor wants it to stop.
        let mut run = u32::MAX;
        loop {
            let is_ready = poll_fn(|task| {
                run = run.saturating_add(1);
                if run >= shared.core.hot.batch() {
                    run = 0;
                    poll_stop(&mut stopping, &shared, task);
                }
                match inbox.poll_ready(task) {
                    Poll::Ready(ready) => Poll::Ready(ready),
                    Poll::Pending => {
                        if run > 0 {
                            // Whatever comes next is to wake this task.
                            run = u32::MAX;
                            poll_stop(&mut stopping, &shared, task);
                        }
                        Poll::Pending
                    }
                }
            });
            if !is_ready.await {
                break;
            }
            let message;
            let mut hand;
            {
                // Kept in a scope of its own, so that no part of it is kept while the handler runs.
                let Some(Envelope {
                    known,
                    message: letter,
                }) = next(inbox)
                else {
                    continue;
                };
                message = letter.message;
                hand = Hand::new(&shared, inbox.now, known, letter.caller, letter.origin);
                cx.deadline = known.deadline;
            }
            let handled = {
                let handler = pin!(actor.handle(message, &mut cx));
                Serve::new::<A>(handler, Some(&hand), inbox, &mut stopping, &mut timer).await
            };
            conclude(handled, &mut hand, &mut actor, &mut cx, inbox)?;
        }

        if shared.is_cut() {
            return Err(ActorExit::Cancelled);
        }
        inbox.is_done = true;
        let stop = pin!(actor.on_stop(&mut cx));
        match Serve::new::<A>(stop, None, inbox, &mut stopping, &mut timer).await {
            Handled::Done(()) => Ok(()),
            Handled::Late | Handled::Cut => Err(ActorExit::Cancelled),
        }
    }
}

/// The message that is ready, unless nobody waits for its answer any more.
#[inline(always)]
fn next<M>(inbox: &mut Inbox<Letter<M>>) -> Option<Envelope<Letter<M>>> {
    if inbox.first().is_some_and(Letter::is_abandoned) {
        let letter = inbox.take()?;
        inbox.end_unhandled(letter, End::Abandoned, ErrorKind::Timeout);
        return None;
    }
    inbox.take()
}

/// A handler, or the start or stop of an actor, beside everything that may end it early.
pub(crate) struct Serve<'a, 's, M, S, F> {
    work: Pin<&'a mut F>,
    /// The message that is handled.
    hand: Option<&'a Hand<'a, M>>,
    inbox: &'a mut Inbox<Letter<M>>,
    stopping: &'a mut Pin<&'s mut Option<S>>,
    /// Made by the first handler that has to be timed.
    timer: &'a mut Option<Pin<Box<Timer>>>,
    is_cancel_safe: bool,
    is_timed: bool,
    has_rejected: bool,
}

impl<'a, 's, M, S, F> Serve<'a, 's, M, S, F> {
    pub(crate) fn new<A: Actor>(
        work: Pin<&'a mut F>,
        hand: Option<&'a Hand<'a, M>>,
        inbox: &'a mut Inbox<Letter<M>>,
        stopping: &'a mut Pin<&'s mut Option<S>>,
        timer: &'a mut Option<Pin<Box<Timer>>>,
    ) -> Self {
        Self {
            work,
            hand,
            inbox,
            stopping,
            timer,
            is_cancel_safe: A::CANCEL_SAFE,
            is_timed: false,
            has_rejected: false,
        }
    }
}

impl<M, S: Future, F: Future> Future for Serve<'_, '_, M, S, F> {
    type Output = Handled<F::Output>;

    fn poll(self: Pin<&mut Self>, task: &mut task::Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let hand = this.hand;
        let polled = {
            let _scope = Scope::enter(hand.map_or(Tick::MAX, |hand| hand.deadline));
            let _inside = hand.map(Hand::enter);
            this.work.as_mut().poll(task)
        };
        let result = match polled {
            Poll::Ready(result) => return Poll::Ready(Handled::Done(result)),
            Poll::Pending => Poll::Pending,
        };
        let shared = Arc::clone(&this.inbox.shared);
        if let Some(hand) = hand {
            hand.in_handler.store(false, Ordering::Relaxed);
        }
        this.inbox.rested();
        poll_stop(this.stopping, &shared, task);
        let phase = shared.attend(task.waker());
        if shared.is_cut() {
            // What it has done by now, nobody knows.
            hand.into_iter()
                .for_each(|hand| hand.fail(ErrorKind::NoReply));
            return Poll::Ready(Handled::Cut);
        }
        // Where more than this actor comes to an end, whoever asks from an actor may be what this one waits for. Nothing
        // is accepted after this.
        let all_end = shared.core.is_draining() || this.stopping.is_none();
        if all_end && phase != Phase::Open && !this.has_rejected {
            this.has_rejected = true;
            this.inbox
                .reject(End::Dropped, ErrorKind::Draining, Letter::is_inner_ask);
        }
        if let (Some(hand), true) = (hand, this.is_cancel_safe) {
            let timer = match &mut *this.timer {
                Some(timer) if this.is_timed => timer,
                Some(timer) => {
                    timer.set(Timer::on(&shared.core.clock, hand.deadline));
                    timer
                }
                none => none.insert(Box::pin(Timer::on(&shared.core.clock, hand.deadline))),
            };
            this.is_timed = true;
            if timer.as_mut().poll(task).is_ready() {
                hand.fail(ErrorKind::Timeout);
                return Poll::Ready(Handled::Late);
            }
        }
        result
    }
}

/// Books how a message ended, and tells whether the incarnation goes on.
pub(crate) fn conclude<A: Actor>(
    handled: Handled<Result<(), A::Error>>,
    hand: &mut Hand<'_, A::Msg>,
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

/// Whether the actor is to come to an end, other than by nobody being left to send to it. Its intake has ended then.
fn is_ending<M>(shared: &Shared<Letter<M>>, phase: Phase) -> bool {
    match phase {
        Phase::Open => false,
        Phase::Draining => true,
        Phase::Closed => shared.core.is_draining(),
    }
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

#[cold]
fn handle_span<M>(shared: &Shared<Letter<M>>, deadline: Tick, origin: Option<&Span>) -> Box<Span> {
    let span = tracing::debug_span!(
        "ryker.actor.handle",
        actor = &*shared.spec.name,
        deadline_ms = deadline.saturating_sub(shared.core.clock.now()),
        queue_depth = shared.depth(),
    );
    if let Some(origin) = origin {
        span.follows_from(origin);
    }
    Box::new(span)
}

/// The message in hand. Dropped without an end it was aborted, or its handler panicked.
pub(crate) struct Hand<'a, M> {
    shared: &'a Shared<Letter<M>>,
    pub(crate) deadline: Tick,
    caller: Option<Arc<dyn Caller>>,
    /// Where single messages have one.
    span: Option<Box<Span>>,
    taken: Tick,
    waited: u32,
    /// Whether the handler is being called: if it is dropped now, it has panicked.
    in_handler: AtomicBool,
    booked: bool,
}

impl<'a, M> Hand<'a, M> {
    /// Of a message that has just been taken.
    #[inline(always)]
    pub(crate) fn new(
        shared: &'a Shared<Letter<M>>,
        now: Tick,
        known: Stamp,
        caller: Option<Arc<dyn Caller>>,
        origin: Option<Box<Span>>,
    ) -> Self {
        shared.make_room();
        let mut hand = Self {
            shared,
            deadline: known.deadline,
            caller,
            span: None,
            taken: now,
            waited: now.saturating_sub(known.enqueued()) as u32,
            in_handler: AtomicBool::new(true),
            booked: false,
        };
        if shared.core.hot.traces_messages() {
            // In hand by now: a subscriber that panics costs the message its end, but not the account of it.
            hand.span = Some(handle_span(shared, hand.deadline, origin.as_deref()));
        }
        hand
    }

    /// While what it returns lives, the handler is being polled.
    fn enter(&self) -> Option<span::Entered<'_>> {
        self.in_handler.store(true, Ordering::Relaxed);
        self.span.as_deref().map(Span::enter)
    }

    fn fail(&self, kind: ErrorKind) {
        if let Some(caller) = &self.caller {
            caller.fail(kind);
        }
    }

    /// Books its end.
    #[inline(always)]
    fn end(&mut self, end: End) {
        self.booked = true;
        if end == End::Aborted {
            self.shared.book_unhandled(1, end);
            return;
        }
        self.shared.progress().end(1, end);
        if end != End::Ok {
            self.shared.make_room();
        }
        let outcome = match end {
            End::Ok => Outcome::Ok,
            End::TimedOut => Outcome::Timeout,
            _ => Outcome::Error,
        };
        let took = self.shared.core.clock.now().saturating_sub(self.taken);
        if self.shared.core.hot.metrics() {
            self.shared.stats.handled(outcome, took);
        }
        let waited = Duration::from_millis(u64::from(self.waited));
        let took = Duration::from_millis(took);
        self.shared
            .tell(|observer, name| observer.on_handled(name, outcome, waited, took));
    }
}

impl<M> Drop for Hand<'_, M> {
    fn drop(&mut self) {
        if !self.booked {
            let end = match *self.in_handler.get_mut() {
                true => End::Panicked,
                false => End::Aborted,
            };
            self.end(end);
        }
    }
}

/// Runs incarnations until one ends in peace, or too many fail: what [`Runtime::spawn`](crate::Runtime::spawn) does
/// where there is no other supervisor. An `async fn` would keep its arguments twice.
#[allow(clippy::manual_async_fn)]
pub(crate) fn supervise<A: Actor>(mut place: Place<A>) -> impl Future<Output = ()> + Send {
    async move {
        let mut failures: Option<Box<Failures>> = None;
        let mut hurried = false;
        loop {
            let taken = place.inbox.shared.progress().taken().0;
            let began = place.inbox.shared.core.clock.now();
            let exit = match Contained::new(place.incarnate(pending::<()>())).await {
                Ok(Ok(())) => ActorExit::Normal,
                Ok(Err(exit)) => exit,
                Err(panic) => ActorExit::Panicked {
                    text: text_of(panic),
                },
            };
            let shared = &*place.inbox.shared;
            if shared.progress().taken().0 > taken {
                hurried = false;
            }
            let judged = if place.inbox.is_done {
                // After the last message there is nothing to start again for.
                Err(exit)
            } else {
                judge(shared, exit, began, &mut failures)
            };
            let exit = match judged {
                Ok(until) => {
                    rest(shared, until, &mut hurried).await;
                    if !shared.is_cut() {
                        continue;
                    }
                    ActorExit::Cancelled
                }
                Err(exit) => exit,
            };
            if exit.is_failure() {
                tracing::error!(
                    "crate" = "ryker",
                    event = "actor_gave_up",
                    actor = &*shared.spec.name,
                    reason = shown(&exit),
                    "actor has ended for good"
                );
            }
            place.end(exit);
            return;
        }
    }
}

/// When the next incarnation is to start, or how the actor ends.
fn judge<M>(
    shared: &Shared<Letter<M>>,
    exit: ActorExit,
    began: Tick,
    failures: &mut Option<Box<Failures>>,
) -> Result<Tick, ActorExit> {
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
        Verdict::Restart(delay, count) => {
            tracing::warn!(
                "crate" = "ryker",
                event = "actor_restart",
                actor = &*shared.spec.name,
                reason = shown(&exit),
                failures = count,
                delay_ms = delay.as_millis() as u64,
                "actor restarts after a delay"
            );
            shared.tell(|observer, name| observer.on_restart(name, &exit, count, delay));
            // No earlier: the tick that runs has begun, and nothing is cut off.
            Ok(now + delay.as_nanos().div_ceil(1_000_000) as u64 + 1)
        }
    }
}

/// An exit as a text, whatever the user's error does when it is shown.
fn shown(exit: &ActorExit) -> String {
    let text = contain(|| exit.to_string());
    text.unwrap_or_else(|| "failed with an error that panics when it is shown".to_owned())
}

/// The time before the next start. It ends early when the actor is to come to an end, as what is queued wants to be
/// handled; but not again for one that failed since without having taken a message.
async fn rest<M>(shared: &Shared<Letter<M>>, until: Tick, hurried: &mut bool) {
    let mut timer = pin!(Timer::on(&shared.core.clock, until));
    poll_fn(|task| {
        let phase = shared.attend(task.waker());
        if shared.is_cut() {
            return Poll::Ready(());
        }
        if is_ending(shared, phase) && !*hurried {
            *hurried = true;
            return Poll::Ready(());
        }
        timer.as_mut().poll(task)
    })
    .await;
    tokio::task::yield_now().await;
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
