//! What a running child sees of its supervisor.

use super::engine::Engine;
use super::exit::{Exit, Outcome};
use super::machine::{Input, Key};
use super::runner::OwnedTask;
use super::spec::Kind;
use super::stop::StopToken;
use crate::handle::KernelHandle;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::Waker;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// One incarnation: what its runner, its context and the engine share.
#[derive(Debug)]
pub(crate) struct Incarnation {
    pub(crate) id: Arc<str>,
    pub(crate) key: Key,
    pub(crate) run: u64,
    pub(crate) generation: u64,
    pub(crate) gated: bool,
    pub(crate) kind: Kind,
    pub(crate) stop: StopToken,
    /// Bits [`ABORT`], [`OWNED_FAILED`] and the injected faults; set by others, read on each poll.
    pub(crate) flags: AtomicU8,
    /// Nanoseconds since the engine's epoch of the last heartbeat.
    pub(crate) beat: AtomicU64,
    waker: Mutex<Option<Waker>>,
    owned: Mutex<Owned>,
}

#[derive(Debug, Default)]
struct Owned {
    /// Made by the first spawn; most children own nothing.
    tasks: Option<JoinSet<()>>,
    failure: Option<Exit>,
    closed: bool,
}

/// Drop the future at the next poll.
pub(crate) const ABORT: u8 = 1;
/// A task spawned by the child failed.
pub(crate) const OWNED_FAILED: u8 = 2;
/// Injected: panic, fail, never return, hold the worker, put off each poll.
pub(crate) const FAULT_PANIC: u8 = 4;
pub(crate) const FAULT_EXIT: u8 = 8;
pub(crate) const FAULT_HANG: u8 = 16;
pub(crate) const FAULT_BLOCK: u8 = 32;
pub(crate) const FAULT_LATENCY: u8 = 64;

impl Kind {
    /// Whether the fault that raises `flag` does anything to a child of this kind.
    pub(crate) fn suffers(self, flag: u8) -> bool {
        match self {
            Kind::Task => true,
            Kind::Process => flag & (FAULT_PANIC | FAULT_EXIT | FAULT_HANG) != 0,
            Kind::Thread | Kind::Group => false,
        }
    }

    /// Who suffers what, for whoever asked in vain.
    pub(crate) const SUFFERERS: &'static str =
        "tasks suffer every fault, processes panic (SIGABRT), exit (SIGKILL) and hang (SIGSTOP), others none";
}

impl Incarnation {
    pub(crate) fn new(
        id: Arc<str>,
        key: Key,
        run: u64,
        generation: u64,
        gated: bool,
        kind: Kind,
        beat: Duration,
    ) -> Self {
        Incarnation {
            id,
            key,
            run,
            generation,
            gated,
            kind,
            stop: StopToken::default(),
            flags: AtomicU8::new(0),
            beat: AtomicU64::new(nanos(beat)),
            waker: Mutex::new(None),
            owned: Mutex::new(Owned::default()),
        }
    }

    /// Sets flags without waking the runner. AcqRel pairs with the runner's Acquire load.
    pub(crate) fn set_flags(&self, flags: u8) {
        self.flags.fetch_or(flags, Ordering::AcqRel);
    }

    /// Takes flags back.
    pub(crate) fn clear_flags(&self, flags: u8) {
        self.flags.fetch_and(!flags, Ordering::AcqRel);
    }

    /// Has the runner look at its flags, and whoever waits for the stop at its token.
    pub(crate) fn wake(&self) {
        if self.stop.is_stopping() {
            self.stop.wake();
        }
        let waker = self
            .waker
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) fn raise(&self, flags: u8) {
        self.set_flags(flags);
        self.wake();
    }

    pub(crate) fn set_waker(&self, waker: &Waker) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker.clone());
    }

    pub(crate) fn last_beat(&self) -> Duration {
        Duration::from_nanos(self.beat.load(Ordering::Relaxed))
    }

    fn owned(&self) -> std::sync::MutexGuard<'_, Owned> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn owned_failed(&self, exit: Exit) {
        self.owned().failure.get_or_insert(exit);
        self.raise(OWNED_FAILED);
    }

    pub(crate) fn take_owned_failure(&self) -> Option<Exit> {
        self.owned().failure.take()
    }

    /// Aborts the owned tasks and hands them over to be joined; no more can be added.
    pub(crate) fn close_owned(&self) -> Option<JoinSet<()>> {
        let mut owned = self.owned();
        owned.closed = true;
        let mut tasks = std::mem::take(&mut owned.tasks);
        drop(owned);
        if let Some(tasks) = &mut tasks {
            tasks.abort_all();
        }
        tasks
    }
}

pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A child's view of its supervisor; one per incarnation, cheap to clone.
///
/// A context that outlives its incarnation is inert: what it reports is ignored.
#[derive(Clone)]
pub struct ChildContext {
    pub(crate) incarnation: Arc<Incarnation>,
    pub(crate) engine: Weak<Engine>,
}

impl ChildContext {
    /// Declares the child ready: what comes after it may start. Only [gated](super::Child::gated)
    /// children need it; calling it again does nothing.
    pub fn ready(&self) {
        let (key, run) = self.identity();
        self.send(Input::Ready { key, run });
    }

    /// Completes once this incarnation should end.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe; made for `tokio::select!`.
    pub async fn stopping(&self) {
        self.incarnation.stop.stopping().await;
    }

    /// As [`stopping`](Self::stopping), borrowing nothing.
    pub fn stopping_owned(&self) -> impl Future<Output = ()> + Send + 'static {
        let token = self.incarnation.stop.clone();
        async move { token.stopping().await }
    }

    /// Whether this incarnation should end.
    pub fn is_stopping(&self) -> bool {
        self.incarnation.stop.is_stopping()
    }

    /// For threads: blocks until the stop is requested or `timeout` has passed; whether it was requested.
    pub fn wait_stopping(&self, timeout: Duration) -> bool {
        self.incarnation.stop.wait_stopping(timeout)
    }

    /// The token behind [`stopping`](Self::stopping), to pass on.
    pub fn stop_token(&self) -> StopToken {
        self.incarnation.stop.clone()
    }

    /// When this incarnation will be aborted; `None` until it is told to stop.
    pub fn deadline(&self) -> Option<Instant> {
        self.incarnation.stop.deadline()
    }

    /// Shows that the child makes progress; see [`Child::watchdog`](super::Child::watchdog). Costs a
    /// clock read and a store.
    pub fn heartbeat(&self) {
        if let Some(engine) = self.engine.upgrade() {
            self.incarnation
                .beat
                .store(nanos(engine.now()), Ordering::Relaxed);
        }
    }

    /// Reports the child's own opinion of its health. Unhealthy makes the service not ready, with
    /// `cause` as the reason; only changes are published.
    pub fn health(&self, ok: bool, cause: impl Into<String>) {
        let unhealthy = (!ok).then(|| {
            let cause = cause.into();
            Arc::from(if cause.is_empty() {
                "unhealthy".to_owned()
            } else {
                cause
            })
        });
        let (key, run) = self.identity();
        self.send(Input::Health {
            key,
            run,
            unhealthy,
        });
    }

    /// A short text shown beside the child in the tree, such as `replay 30 %`; an empty one takes it back.
    pub fn status(&self, text: impl Into<String>) {
        let (key, run) = self.identity();
        self.send(Input::Status {
            key,
            run,
            text: Arc::from(text.into()),
        });
    }

    /// Spawns a task that belongs to this incarnation: it is aborted and joined when the incarnation
    /// ends, and if it fails or panics, the incarnation fails with its reason. After the end of the
    /// incarnation nothing is spawned any more. Works from thread children too: the task runs on the
    /// kernel's runtime.
    pub fn spawn<F>(&self, future: F)
    where
        F: Future + Send + 'static,
        F::Output: Outcome,
    {
        let Some(engine) = self.engine.upgrade() else {
            return;
        };
        let mut owned = self.incarnation.owned();
        if owned.closed {
            return;
        }
        let tasks = owned.tasks.get_or_insert_with(JoinSet::new);
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(
            OwnedTask::new(&engine, self.incarnation.clone(), future),
            engine.runtime(),
        );
        drop(owned);
        engine.count_owned();
    }

    /// The id of the child.
    pub fn id(&self) -> &str {
        &self.incarnation.id
    }

    /// Which incarnation this is, counted from 1.
    pub fn generation(&self) -> u64 {
        self.incarnation.generation
    }

    /// A handle to the kernel, for children that start others. `None` once the kernel is gone.
    pub fn kernel(&self) -> Option<KernelHandle> {
        self.engine.upgrade().map(KernelHandle::new)
    }

    fn identity(&self) -> (Key, u64) {
        (self.incarnation.key, self.incarnation.run)
    }

    fn send(&self, input: Input) {
        if let Some(engine) = self.engine.upgrade() {
            engine.step(input);
        }
    }
}

impl fmt::Debug for ChildContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChildContext")
            .field("id", &self.incarnation.id)
            .field("generation", &self.incarnation.generation)
            .finish_non_exhaustive()
    }
}
