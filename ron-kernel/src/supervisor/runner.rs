//! Runs incarnations: polls them under a mark, catches what they throw, restarts them in place.
//!
//! The unwind is caught inside the child's own task and the replacement starts in that same task, so
//! that a restart without delay costs no scheduling. The supervisor hears of the exit first, under its
//! lock; the world hears of it after the replacement's first poll.

use super::context::{self, ChildContext, Incarnation};
use super::engine::Engine;
use super::exit::{error_chain, Exit, Outcome};
use super::spec::{ChildFuture, Kind};
use super::stall;
use std::any::Any;
use std::future::Future;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::task::JoinSet;

pub(crate) type TaskBody = Arc<dyn Fn(ChildContext) -> ChildFuture + Send + Sync>;
pub(crate) type ThreadBody =
    Arc<dyn Fn(ChildContext) -> Result<(), super::exit::BoxError> + Send + Sync>;

/// How long an injected `block` fault holds its worker.
const FAULT_BLOCK_FOR: Duration = Duration::from_secs(2);

/// The task of a child: one incarnation after the other, as long as they replace each other in place.
///
/// A runtime that shuts down may drop the task before its first poll; that is an exit like any other.
pub(crate) fn run_task(
    engine: Arc<Engine>,
    incarnation: Arc<Incarnation>,
    body: TaskBody,
) -> impl Future<Output = ()> + Send {
    let mut unpolled = Unpolled {
        engine: engine.clone(),
        incarnation: Some(incarnation),
    };
    async move {
        let Some(mut incarnation) = unpolled.incarnation.take() else {
            return;
        };
        loop {
            let exit = Drive::new(&engine, incarnation.clone(), &body).await;
            match engine.exited(&incarnation, exit) {
                Some(next) => incarnation = next,
                None => return,
            }
        }
    }
}

struct Unpolled {
    engine: Arc<Engine>,
    incarnation: Option<Arc<Incarnation>>,
}

impl Drop for Unpolled {
    fn drop(&mut self) {
        if let Some(incarnation) = self.incarnation.take() {
            self.engine.dropped(&incarnation, Exit::Cancelled);
        }
    }
}

pub(crate) fn run_thread(
    engine: &Arc<Engine>,
    mut incarnation: Arc<Incarnation>,
    body: &ThreadBody,
) {
    // The clock of the runtime, which tests may have paused.
    let _entered = engine.runtime().enter();
    loop {
        if !incarnation.gated {
            engine.ready(&incarnation);
        }
        let span = span(&incarnation);
        let exit = {
            let _entered = span.enter();
            let _mark = stall::enter_unwatched(engine.current(&incarnation));
            let cx = ChildContext {
                incarnation: incarnation.clone(),
                engine: Arc::downgrade(engine),
            };
            match catch_unwind(AssertUnwindSafe(|| body(cx))) {
                Ok(Ok(())) => Exit::Done,
                Ok(Err(error)) => Exit::Failed(error_chain(error.as_ref())),
                Err(payload) => panicked(payload),
            }
        };
        let mut panicked_late = None;
        if let Some(mut owned) = incarnation.close_owned() {
            engine.ending(&incarnation);
            engine.runtime().block_on(async {
                while let Some(joined) = owned.join_next().await {
                    panicked_late = panicked_late.take().or(owned_panic(joined));
                }
            });
        }
        let exit = worst(exit, [incarnation.take_owned_failure(), panicked_late]);
        match engine.exited(&incarnation, exit) {
            Some(next) => {
                engine.publish();
                incarnation = next;
            }
            None => return,
        }
    }
}

fn span(incarnation: &Incarnation) -> tracing::Span {
    tracing::info_span!(
        "child",
        id = &*incarnation.id,
        generation = incarnation.generation,
        kind = incarnation.kind.name()
    )
}

/// One incarnation of a task from its first poll until it and everything it owns has ended.
struct Drive<'a> {
    engine: &'a Arc<Engine>,
    incarnation: Arc<Incarnation>,
    body: &'a TaskBody,
    span: tracing::Span,
    future: Option<ChildFuture>,
    polled: bool,
    exit: Option<Exit>,
    owned: Option<JoinSet<()>>,
    /// The body has ended and nobody has been told that it has.
    body_ended: bool,
    owned_panic: Option<Exit>,
    finished: bool,
    /// Injected latency under way.
    delay: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl<'a> Drive<'a> {
    fn new(engine: &'a Arc<Engine>, incarnation: Arc<Incarnation>, body: &'a TaskBody) -> Self {
        let span = span(&incarnation);
        Drive {
            engine,
            incarnation,
            body,
            span,
            future: None,
            polled: false,
            exit: None,
            owned: None,
            body_ended: false,
            owned_panic: None,
            finished: false,
            delay: None,
        }
    }

    /// What the flags that others raised make of this poll; `None` polls as usual.
    fn flagged(&mut self, flags: u8, cx: &mut Context<'_>) -> Option<Poll<Exit>> {
        if flags & context::ABORT != 0 {
            return Some(Poll::Ready(Exit::Cancelled));
        }
        if flags & context::OWNED_FAILED != 0 {
            if let Some(exit) = self.incarnation.take_owned_failure() {
                return Some(Poll::Ready(exit));
            }
        }
        if flags & context::FAULT_EXIT != 0 {
            return Some(Poll::Ready(Exit::Failed("injected fault: exit".to_owned())));
        }
        if flags & context::FAULT_PANIC != 0 {
            let caught = catch_unwind(|| std::panic::panic_any("injected fault: panic".to_owned()));
            return Some(Poll::Ready(caught.map_or_else(panicked, |()| Exit::Done)));
        }
        if flags & context::FAULT_BLOCK != 0 {
            self.incarnation.clear_flags(context::FAULT_BLOCK);
            std::thread::sleep(FAULT_BLOCK_FOR);
        }
        if flags & context::FAULT_HANG != 0 {
            return Some(Poll::Pending);
        }
        if flags & context::FAULT_LATENCY != 0 {
            return self.put_off(cx);
        }
        None
    }

    /// Lets the fault's delay pass before the poll goes through.
    fn put_off(&mut self, cx: &mut Context<'_>) -> Option<Poll<Exit>> {
        let now = self.engine.now();
        let Some(delay) = self.engine.faults().delay(&self.incarnation.id, now) else {
            self.delay = None;
            return None;
        };
        let sleep = self
            .delay
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(delay)));
        if sleep.as_mut().poll(cx).is_pending() {
            return Some(Poll::Pending);
        }
        self.delay = None;
        None
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Exit> {
        let _entered = (!self.span.is_disabled()).then(|| self.span.clone().entered());
        let _mark = stall::enter(self.engine.marks(), self.engine.current(&self.incarnation));
        let flags = self.incarnation.flags.load(Ordering::Acquire);
        // A process is signalled by its body, which goes on until it has been reaped.
        if flags != 0 && self.incarnation.kind != Kind::Process {
            if let Some(outcome) = self.flagged(flags, cx) {
                return outcome;
            }
        }
        let polled = catch_unwind(AssertUnwindSafe(|| {
            let future = self.future.get_or_insert_with(|| {
                (self.body)(ChildContext {
                    incarnation: self.incarnation.clone(),
                    engine: Arc::downgrade(self.engine),
                })
            });
            future.as_mut().poll_outcome(cx)
        }));
        polled.map_or_else(
            |payload| Poll::Ready(panicked(payload)),
            |poll| poll.map(from_result),
        )
    }

    /// Drops the future; its destructor may panic like any other code of the child.
    fn drop_body(&mut self) -> Option<Exit> {
        let future = self.future.take()?;
        let _mark = stall::enter(self.engine.marks(), self.engine.current(&self.incarnation));
        catch_unwind(AssertUnwindSafe(|| drop(future)))
            .err()
            .map(panicked)
    }
}

impl Future for Drive<'_> {
    type Output = Exit;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Exit> {
        let this = self.get_mut();
        if this.exit.is_none() {
            let first = !this.polled;
            if first {
                this.polled = true;
                // Before the flags are read: whoever raises one later finds the waker.
                this.incarnation.set_waker(cx.waker());
            }
            let poll = this.poll_body(cx);
            if first && this.delay.is_some() {
                // Put off before its first poll: it is not ready yet.
                this.polled = false;
                this.engine.publish();
            } else if first {
                if poll.is_pending() && !this.incarnation.gated {
                    this.engine.ready(&this.incarnation);
                } else {
                    this.engine.publish();
                }
            }
            let Poll::Ready(exit) = poll else {
                return Poll::Pending;
            };
            // A panicking destructor is reported only when there is nothing worse to report.
            let exit = match this.drop_body() {
                Some(panic) if !exit.is_failure() => panic,
                _ => exit,
            };
            this.exit = Some(exit);
            this.owned = this.incarnation.close_owned();
            this.body_ended = true;
        }
        if let Some(owned) = &mut this.owned {
            loop {
                match owned.poll_join_next(cx) {
                    Poll::Pending => {
                        // Shown as stopping from here on, with the timers of a stop.
                        if std::mem::take(&mut this.body_ended) {
                            this.engine.ending(&this.incarnation);
                        }
                        return Poll::Pending;
                    }
                    Poll::Ready(Some(joined)) => {
                        this.owned_panic = this.owned_panic.take().or(owned_panic(joined));
                    }
                    Poll::Ready(None) => break,
                }
            }
        }
        this.finished = true;
        let exit = this.exit.take().unwrap_or(Exit::Cancelled);
        let late = [
            this.incarnation.take_owned_failure(),
            this.owned_panic.take(),
        ];
        Poll::Ready(worst(exit, late))
    }
}

/// The body's own failure, else that of a task it owned.
fn worst(exit: Exit, owned: [Option<Exit>; 2]) -> Exit {
    if exit.is_failure() {
        return exit;
    }
    owned.into_iter().flatten().next().unwrap_or(exit)
}

/// A task that was aborted may still panic in a destructor.
fn owned_panic(joined: Result<(), tokio::task::JoinError>) -> Option<Exit> {
    let error = joined.err().filter(tokio::task::JoinError::is_panic)?;
    Some(panicked(error.into_panic()))
}

impl Drop for Drive<'_> {
    fn drop(&mut self) {
        if !self.finished {
            let _ = self.drop_body();
            let exit = if std::thread::panicking() {
                Exit::Failed("its supervision panicked; this is a defect of the kernel".to_owned())
            } else {
                // The runtime is going away under us.
                Exit::Cancelled
            };
            self.engine.dropped(&self.incarnation, exit);
        }
    }
}

/// A task a child spawned: its failure is the child's.
pub(crate) struct OwnedTask {
    engine: Weak<Engine>,
    incarnation: Arc<Incarnation>,
    future: Option<ChildFuture>,
}

impl OwnedTask {
    pub(crate) fn new<F>(engine: &Arc<Engine>, incarnation: Arc<Incarnation>, future: F) -> Self
    where
        F: Future + Send + 'static,
        F::Output: Outcome,
    {
        let future: ChildFuture = Box::pin(future);
        OwnedTask {
            engine: Arc::downgrade(engine),
            incarnation,
            future: Some(future),
        }
    }

    fn with_mark<R>(&self, act: impl FnOnce() -> R) -> R {
        match self.engine.upgrade() {
            Some(engine) => {
                let _mark = stall::enter(engine.marks(), engine.current(&self.incarnation));
                act()
            }
            None => act(),
        }
    }
}

impl Future for OwnedTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(mut future) = self.future.take() else {
            return Poll::Ready(());
        };
        let polled =
            self.with_mark(|| catch_unwind(AssertUnwindSafe(|| future.as_mut().poll_outcome(cx))));
        let exit = match polled {
            Ok(Poll::Pending) => {
                self.future = Some(future);
                return Poll::Pending;
            }
            Ok(Poll::Ready(result)) => from_result(result),
            Err(payload) => panicked(payload),
        };
        let dropped = self.with_mark(|| catch_unwind(AssertUnwindSafe(|| drop(future))));
        let exit = match dropped {
            Err(payload) if !exit.is_failure() => panicked(payload),
            _ => exit,
        };
        if exit.is_failure() {
            self.incarnation.owned_failed(exit);
            // A thread sees no flags; its token tells it.
            if let Some(engine) = self
                .engine
                .upgrade()
                .filter(|_| self.incarnation.kind == Kind::Thread)
            {
                engine.ending(&self.incarnation);
            }
        }
        Poll::Ready(())
    }
}

fn from_result(result: Result<(), super::exit::BoxError>) -> Exit {
    let Err(error) = result else {
        return Exit::Done;
    };
    #[cfg(feature = "process")]
    if let Some(ended) = error.downcast_ref::<super::exit::ProcessEnded>() {
        return ended.0.clone();
    }
    Exit::Failed(error_chain(error.as_ref()))
}

/// Text and place of a panic: from the hook when it is installed, else the text of the payload.
fn panicked(payload: Box<dyn Any + Send>) -> Exit {
    let text = panic_text(payload.as_ref());
    // The payload is the child's: its destructor may panic too.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(payload)));
    match stall::take_panic() {
        Some((seen, location)) if seen == text => Exit::Panicked {
            text,
            location: Some(location),
        },
        _ => Exit::Panicked {
            text,
            location: None,
        },
    }
}

/// The message of a panic payload.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&'static str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic payload that is not a string".to_owned()
    }
}
