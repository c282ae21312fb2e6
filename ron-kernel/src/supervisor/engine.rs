//! Runs the transition function: one lock around it, effects performed in order, news told outside.
//!
//! Whoever brings an input (a child's task, a thread, the driver, an operator) steps the machine itself.
//! What must be atomic with the step (tokens, who is the present incarnation) happens under the lock and runs no foreign
//! code; spawns follow it, and what may call foreign code (events, logs, destructors) goes through an ordered outbox.

use super::backoff::PolicyError;
use super::context::{nanos, Incarnation, ABORT};
use super::exit::Exit;
use super::faults::{Campaign, Faults, STANDING};
use super::machine::GraphError;
use super::machine::BUFFER_KEPT;
use super::machine::{Effect, Input, Key, Machine, Note, Refused, Severity, State, Time, HORIZON};
use super::runner;
use super::spec::{Body, Kind, Spec};
use super::stall::{Current, Marks};
use crate::config::Config;
use crate::event::{Change, ChildEvent, KernelEvent};
use crate::handle::fault_flag;
use crate::reload::Reloader;
use crate::report::ShutdownReport;
use crate::telemetry::{shielded, Telemetry};
use std::collections::{HashSet, VecDeque};
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};
use tokio::runtime::Handle;
use tokio::sync::{watch, Notify};
use tokio::time::Instant;

/// Identity of engines in thread-local marks; a count, not state.
static ENGINES: AtomicU64 = AtomicU64::new(0);

/// News waiting to be told. A log writer that hangs for longer costs news, counted, and no memory: half a
/// million notes are the crash storm of a full tree.
const OUTBOX_MAX: usize = 500_000;

pub(crate) struct Engine {
    id: u64,
    inner: Mutex<Inner>,
    outbox: Mutex<VecDeque<Effect>>,
    /// Held by whoever is telling; the others leave their news in the outbox.
    telling: Mutex<()>,
    epoch: Instant,
    wall_epoch: SystemTime,
    runtime: Handle,
    marks: Marks,
    stall_threshold: AtomicU64,
    config: Mutex<Arc<Config>>,
    /// Faults in force, of the configuration and of operators.
    faults: Mutex<Faults>,
    reloader: Mutex<Weak<Reloader>>,
    /// Wakes the driver: an earlier deadline, a shutdown request.
    alarm: Arc<Notify>,
    /// Wakes those who wait for a state.
    changed: Notify,
    pub(crate) telemetry: Telemetry,
    /// Required children of the initial tree that have not been ready yet.
    missing: Mutex<HashSet<Arc<str>>>,
    missing_count: AtomicUsize,
    shutdown: AtomicBool,
    /// The last news of the drain has been told.
    told_end: AtomicBool,
    /// News dropped because nobody took them; see [`OUTBOX_MAX`].
    dropped_news: AtomicU64,
    shutdown_reason: Mutex<Option<String>>,
    report: watch::Sender<Option<ShutdownReport>>,
    /// The same, from the moment the last child has ended: what is left then is to close up.
    drained: watch::Sender<Option<ShutdownReport>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    #[cfg(feature = "process")]
    spawner: crate::process::spawner::Spawner,
}

struct Inner {
    machine: Machine,
    cells: Vec<Cell>,
    effects: Vec<Effect>,
    /// What is to be told of the step under way.
    news: Vec<Effect>,
    /// Incarnations to be woken once the lock is released: wakers are foreign code.
    wakes: Vec<Arc<Incarnation>>,
    /// Tasks to be spawned once the lock is released: a runtime that is shutting down drops them on the spot, which is
    /// an exit.
    tasks: Vec<(Arc<Incarnation>, runner::TaskBody)>,
    /// Thread children to be started once the lock is released.
    threads: Vec<(Arc<Incarnation>, runner::ThreadBody)>,
    /// Bodies of removed children, dropped once the lock is released.
    graveyard: Vec<Body>,
    /// The deadline the driver sleeps until.
    armed: Option<Time>,
}

/// The children of a machine that has not started: keys and bodies, in the same order.
pub(crate) struct Parts {
    pub(crate) keys: Vec<Key>,
    pub(crate) bodies: Vec<Body>,
}

fn place(cells: &mut Vec<Cell>, keys: &[Key], bodies: Vec<Body>) {
    for (key, body) in keys.iter().zip(bodies) {
        let index = *key as usize;
        if cells.len() <= index {
            cells.resize_with(index + 1, || Cell {
                body: Body::Group,
                live: None,
            });
        }
        cells[index].body = body;
    }
}

/// An incarnation that has ended.
#[derive(Clone, Copy)]
struct Ended {
    key: Key,
    run: u64,
    /// Whoever reports it can run a replacement right there.
    in_place: bool,
}

struct Cell {
    body: Body,
    live: Option<Arc<Incarnation>>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Engine {
    pub(crate) fn new(
        machine: Machine,
        parts: Parts,
        config: Arc<Config>,
        runtime: Handle,
        telemetry: Telemetry,
    ) -> Arc<Engine> {
        let mut cells = vec![Cell {
            body: Body::Group,
            live: None,
        }];
        place(&mut cells, &parts.keys, parts.bodies);
        let mut missing = HashSet::new();
        for node in parts.keys.iter().map(|key| machine.node(*key)) {
            if node.kind != Kind::Group && !node.policy.optional {
                telemetry.require(&node.id);
                missing.insert(node.id.clone());
            }
        }
        Arc::new(Engine {
            id: ENGINES.fetch_add(1, Ordering::Relaxed) + 1,
            inner: Mutex::new(Inner {
                machine,
                cells,
                effects: Vec::new(),
                news: Vec::new(),
                wakes: Vec::new(),
                tasks: Vec::new(),
                threads: Vec::new(),
                graveyard: Vec::new(),
                armed: None,
            }),
            outbox: Mutex::new(VecDeque::new()),
            telling: Mutex::new(()),
            epoch: Instant::now(),
            wall_epoch: SystemTime::now(),
            runtime,
            marks: Marks::default(),
            stall_threshold: AtomicU64::new(nanos(config.stall.threshold)),
            config: Mutex::new(config),
            faults: Mutex::new(Faults::default()),
            reloader: Mutex::new(Weak::new()),
            alarm: telemetry.alarm.clone(),
            changed: Notify::new(),
            telemetry,
            missing_count: AtomicUsize::new(missing.len()),
            missing: Mutex::new(missing),
            shutdown: AtomicBool::new(false),
            told_end: AtomicBool::new(false),
            dropped_news: AtomicU64::new(0),
            shutdown_reason: Mutex::new(None),
            report: watch::Sender::new(None),
            drained: watch::Sender::new(None),
            threads: Mutex::new(Vec::new()),
            #[cfg(feature = "process")]
            spawner: crate::process::spawner::Spawner::default(),
        })
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn now(&self) -> Time {
        Instant::now().saturating_duration_since(self.epoch)
    }

    pub(crate) fn instant(&self, at: Time) -> Instant {
        self.epoch + at.min(2 * HORIZON)
    }

    /// Wall time of a moment of the machine, for people; policy never reads it.
    pub(crate) fn wall(&self, at: Time) -> SystemTime {
        self.wall_epoch + at.min(2 * HORIZON)
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    pub(crate) fn marks(&self) -> &Marks {
        &self.marks
    }

    pub(crate) fn stall_threshold(&self) -> Duration {
        Duration::from_nanos(self.stall_threshold.load(Ordering::Relaxed))
    }

    pub(crate) fn config(&self) -> Arc<Config> {
        self.config
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn set_reloader(&self, reloader: Weak<Reloader>) {
        *self.reloader.lock().unwrap_or_else(PoisonError::into_inner) = reloader;
    }

    pub(crate) fn reloader(&self) -> Option<Arc<Reloader>> {
        self.reloader
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .upgrade()
    }

    /// Puts the live part of a configuration in force.
    pub(crate) fn apply_config(self: &Arc<Self>, config: Arc<Config>) -> Result<(), PolicyError> {
        let defaults = config.defaults()?;
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = config.clone();
        self.stall_threshold
            .store(nanos(config.stall.threshold), Ordering::Relaxed);
        self.step(Input::Defaults(defaults));
        let flag = fault_flag(config.chaos.fault).filter(|_| config.chaos.armed);
        let standing = flag
            .zip(config.chaos.default_child.as_deref())
            .map(|(flag, child)| Campaign {
                id: STANDING,
                name: config.chaos.fault.name(),
                child: Some(Arc::from(child)),
                flag,
                delay: Duration::ZERO,
                since: self.now(),
                until: None,
                left: None,
                count: None,
                injected: 0,
                by: Arc::from("chaos.fault"),
            });
        let in_vain = |standing: &Campaign| {
            let kind = self.read(|machine| {
                let key = machine.find(standing.child.as_deref()?)?;
                Some(machine.node(key).kind)
            });
            kind.is_some_and(|kind| !kind.suffers(standing.flag))
        };
        let standing = standing.filter(|standing| {
            let in_vain = in_vain(standing);
            if in_vain {
                let (child, fault) = (standing.child.as_deref(), standing.name);
                tracing::warn!(
                    event = "fault",
                    child,
                    fault,
                    "chaos.fault does nothing to chaos.default_child: {}",
                    Kind::SUFFERERS
                );
            }
            !in_vain
        });
        let child = standing
            .as_ref()
            .and_then(|standing| standing.child.clone());
        let (changed, before) = {
            let mut faults = self.faults();
            if !config.chaos.armed {
                faults.disarm(self.now());
            }
            faults.set_standing(standing)
        };
        if let Some(before) = before.filter(|_| changed) {
            self.relieve(&before);
        }
        if let Some(child) = child.filter(|_| changed) {
            if self.read(|machine| machine.find(&child)).is_none() {
                let child = &*child;
                tracing::warn!(
                    event = "fault",
                    child,
                    "chaos.default_child names no child; nothing is injected"
                );
            } else {
                self.strike(&child);
            }
        }
        Ok(())
    }

    pub(crate) fn current(&self, incarnation: &Incarnation) -> Current {
        Current {
            engine: self.id,
            key: incarnation.key,
            run: incarnation.run,
        }
    }

    // ----- stepping --------------------------------------------------------------------------

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the tree.
    pub(crate) fn read<R>(&self, look: impl FnOnce(&Machine) -> R) -> R {
        look(&self.lock().machine)
    }

    /// Steps the machine and tells the news.
    pub(crate) fn step(self: &Arc<Self>, input: Input) {
        self.act(None, |machine, now| machine.step(now, input));
        self.publish();
    }

    /// Runs `change` on the machine and performs what it decided. A replacement for the incarnation that
    /// has `ended` is handed back instead of spawned. The news waits in the outbox for [`publish`](Self::publish).
    fn act<R>(
        self: &Arc<Self>,
        ended: Option<Ended>,
        change: impl FnOnce(&mut Machine, Time) -> R,
    ) -> (R, Option<Arc<Incarnation>>) {
        let now = self.now();
        let mut guard = self.lock();
        let inner = &mut *guard;
        let result = change(&mut inner.machine, now);
        if let Some(Ended { key, run, .. }) = ended {
            if inner.live(key, run).is_some() {
                inner.cells[key as usize].live = None;
            }
        }
        let in_place = ended.filter(|ended| ended.in_place).map(|ended| ended.key);
        let replacement = self.perform(inner, now, in_place);
        let deadline = inner.machine.next_deadline();
        let sooner = match (deadline, inner.armed) {
            (Some(new), Some(armed)) => new < armed,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if sooner {
            inner.armed = deadline;
        }
        let wakes = std::mem::take(&mut inner.wakes);
        let tasks = std::mem::take(&mut inner.tasks);
        let threads = std::mem::take(&mut inner.threads);
        let graveyard = std::mem::take(&mut inner.graveyard);
        drop(guard);
        drop(graveyard);
        for incarnation in wakes {
            incarnation.wake();
        }
        if sooner {
            self.alarm.notify_one();
        }
        self.changed.notify_waiters();
        for (incarnation, body) in tasks {
            let id = incarnation.id.clone();
            self.spawn_named(&id, runner::run_task(self.clone(), incarnation, body));
        }
        for (incarnation, body) in threads {
            self.start_thread(incarnation, body);
        }
        (result, replacement)
    }

    fn perform(
        self: &Arc<Self>,
        inner: &mut Inner,
        now: Time,
        in_place: Option<Key>,
    ) -> Option<Arc<Incarnation>> {
        let mut replacement = None;
        let mut effects = std::mem::take(&mut inner.effects);
        loop {
            inner.machine.take_effects(&mut effects);
            if effects.is_empty() {
                break;
            }
            let mut beats = Vec::new();
            for effect in effects.drain(..) {
                match effect {
                    Effect::Spawn {
                        key,
                        run,
                        generation,
                    } => {
                        let started = self.spawn(inner, key, run, generation, in_place);
                        replacement = replacement.or(started);
                    }
                    Effect::Stop { key, run, abort_at } => {
                        if let Some(live) = inner.live(key, run) {
                            live.stop.set(self.instant(abort_at));
                            let live = live.clone();
                            inner.wakes.push(live);
                        }
                    }
                    Effect::Abort { key, run } => {
                        if let Some(live) = inner.live(key, run) {
                            live.set_flags(ABORT);
                            let live = live.clone();
                            inner.wakes.push(live);
                        }
                        self.telemetry.aborted(inner.machine.node(key).kind);
                    }
                    Effect::AskBeat { key, run } => {
                        if let Some(live) = inner.live(key, run) {
                            beats.push(Input::Beat {
                                key,
                                run,
                                last: live.last_beat(),
                            });
                        }
                    }
                    Effect::Removed { key, id } => {
                        inner.news.push(Effect::Removed { key, id });
                        if let Some(cell) = inner.cells.get_mut(key as usize) {
                            cell.live = None;
                            inner
                                .graveyard
                                .push(std::mem::replace(&mut cell.body, Body::Group));
                        }
                    }
                    // Not by way of the news: the log writer may be what hangs.
                    Effect::WantsShutdown => {
                        let failure = inner.machine.failure().cloned();
                        self.request_shutdown(failure.as_deref().unwrap_or("a child gave up"));
                    }
                    told => inner.news.push(told),
                }
            }
            for beat in beats {
                inner.machine.step(now, beat);
            }
        }
        effects.shrink_to(BUFFER_KEPT);
        inner.effects = effects;
        if !inner.news.is_empty() {
            let mut outbox = self.outbox.lock().unwrap_or_else(PoisonError::into_inner);
            let room = OUTBOX_MAX.saturating_sub(outbox.len());
            let dropped = inner.news.len().saturating_sub(room) as u64;
            if dropped > 0 {
                self.dropped_news.fetch_add(dropped, Ordering::Relaxed);
            }
            outbox.extend(inner.news.drain(..).take(room));
            inner.news.shrink_to(BUFFER_KEPT);
        }
        replacement
    }

    fn spawn(
        self: &Arc<Self>,
        inner: &mut Inner,
        key: Key,
        run: u64,
        generation: u64,
        in_place: Option<Key>,
    ) -> Option<Arc<Incarnation>> {
        let node = inner.machine.node(key);
        let gated = node.policy.start_timeout.is_some();
        let incarnation = Incarnation::new(
            node.id.clone(),
            key,
            run,
            generation,
            gated,
            node.kind,
            inner.machine.now(),
        );
        let incarnation = Arc::new(incarnation);
        let now = inner.machine.now();
        if let Some((flag, name)) = self.faults().strike(&incarnation.id, now) {
            incarnation.set_flags(flag);
            let id = incarnation.id.clone();
            let what = Note::Fault { name };
            inner.news.push(Effect::Note {
                key,
                id,
                generation,
                what,
            });
        }
        let cell = inner.cells.get_mut(key as usize)?;
        cell.live = Some(incarnation.clone());
        let body = match &cell.body {
            Body::Task(body) => {
                self.telemetry.spawned(incarnation.kind);
                if in_place != Some(key) {
                    inner.tasks.push((incarnation, body.clone()));
                    return None;
                }
                return Some(incarnation);
            }
            Body::Thread(body) => body.clone(),
            Body::Group => return None,
        };
        self.telemetry.spawned(Kind::Thread);
        if in_place == Some(key) {
            return Some(incarnation);
        }
        inner.threads.push((incarnation, body));
        None
    }

    /// Under `tokio_unstable` the task carries the child's name, for tokio-console.
    #[cfg(tokio_unstable)]
    fn spawn_named(&self, id: &str, task: impl Future<Output = ()> + Send + 'static) {
        // Fails only where the runtime is shut down, which drops the task and so reports its exit.
        let _ = tokio::task::Builder::new()
            .name(id)
            .spawn_on(task, &self.runtime);
    }

    #[cfg(not(tokio_unstable))]
    fn spawn_named(&self, _: &str, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    fn start_thread(self: &Arc<Self>, incarnation: Arc<Incarnation>, body: runner::ThreadBody) {
        let engine = self.clone();
        let running = incarnation.clone();
        let spawned = std::thread::Builder::new()
            .name(incarnation.id.to_string())
            .spawn(move || runner::run_thread(&engine, running, &body));
        match spawned {
            Ok(thread) => {
                let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
                threads.retain(|thread| !thread.is_finished());
                threads.push(thread);
            }
            Err(error) => {
                let exit = Exit::Failed(format!("thread not started: {error}"));
                let (key, run) = (incarnation.key, incarnation.run);
                self.step(Input::Exited { key, run, exit });
            }
        }
    }

    /// Joins thread children that have ended; never waits for one that has not.
    pub(crate) fn join_ended_threads(&self) {
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.is_finished() {
                let _ = thread.join();
            }
        }
    }

    // ----- what runners and the watchdog report ------------------------------------------------

    pub(crate) fn ready(self: &Arc<Self>, incarnation: &Incarnation) {
        self.step(Input::Ready {
            key: incarnation.key,
            run: incarnation.run,
        });
    }

    /// The incarnation has ended, with everything it owned. Hands back a replacement that is to run in
    /// its place right now; then the news has not been told yet.
    pub(crate) fn exited(
        self: &Arc<Self>,
        incarnation: &Incarnation,
        exit: Exit,
    ) -> Option<Arc<Incarnation>> {
        let (key, run) = (incarnation.key, incarnation.run);
        let ((), replacement) = self.act(
            Some(Ended {
                key,
                run,
                in_place: true,
            }),
            |machine, now| {
                machine.step(now, Input::Exited { key, run, exit });
            },
        );
        if replacement.is_none() {
            self.publish();
        }
        replacement
    }

    /// The task of an incarnation was dropped instead of polled to its end.
    pub(crate) fn dropped(self: &Arc<Self>, incarnation: &Incarnation, exit: Exit) {
        let (key, run) = (incarnation.key, incarnation.run);
        let ended = Ended {
            key,
            run,
            in_place: false,
        };
        self.act(Some(ended), |machine, now| {
            machine.step(now, Input::Exited { key, run, exit });
        });
        self.publish();
    }

    pub(crate) fn stall_began(self: &Arc<Self>, current: Current, held: Duration) {
        self.step(Input::Stalled {
            key: current.key,
            run: current.run,
            held,
        });
    }

    pub(crate) fn stall_ended(self: &Arc<Self>, current: Current, held: Duration) {
        self.step(Input::Unstalled {
            key: current.key,
            run: current.run,
            held,
        });
    }

    #[cfg(feature = "process")]
    pub(crate) fn spawner(&self) -> &crate::process::spawner::Spawner {
        &self.spawner
    }

    /// Logs what happened to the containment of processes.
    #[cfg(feature = "process")]
    pub(crate) fn tell_containment(&self) {
        self.telemetry.contained(self.spawner.level());
        self.telemetry.tell_containment(self.spawner.news());
    }

    pub(crate) fn count_owned(&self) {
        self.telemetry.spawned_owned();
    }

    // ----- operators ---------------------------------------------------------------------------

    /// Starts the initial tree.
    pub(crate) fn launch(self: &Arc<Self>) {
        // A standing fault of the first configuration is there from the first incarnation on.
        let _ = self.apply_config(self.config());
        self.act(None, Machine::launch);
        self.publish();
    }

    pub(crate) fn add(self: &Arc<Self>, specs: Vec<Spec>) -> Result<(), GraphError> {
        let mut bodies = Vec::new();
        let blueprints: Vec<_> = specs
            .into_iter()
            .map(|spec| spec.split(&mut bodies))
            .collect();
        let now = self.now();
        {
            let mut guard = self.lock();
            let inner = &mut *guard;
            let keys = inner.machine.add(now, blueprints)?;
            place(&mut inner.cells, &keys, bodies);
        }
        // The bodies are in place: perform the spawns the machine decided.
        self.act(None, |_, _| ());
        self.publish();
        Ok(())
    }

    pub(crate) fn control<R>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Machine, Time) -> Result<R, Refused>,
    ) -> Result<R, Refused> {
        let (result, _) = self.act(None, change);
        self.publish();
        result
    }

    /// Raises a fault flag on the running incarnation of a task; `false` when there is none.
    pub(crate) fn inject(self: &Arc<Self>, id: &str, flag: u8, name: &str) -> bool {
        let Some(live) = self.running(id) else {
            return false;
        };
        self.raise_fault(&live, flag, name);
        true
    }

    fn raise_fault(&self, live: &Incarnation, flag: u8, name: &str) {
        let event = ChildEvent {
            child: live.id.clone(),
            generation: live.generation,
            change: Change::Fault {
                fault: name.to_owned(),
            },
        };
        self.telemetry.tell_change(&event);
        live.raise(flag);
    }

    /// The present incarnation of a child in any state.
    fn live(&self, id: &str) -> Option<Arc<Incarnation>> {
        let inner = self.lock();
        let key = inner.machine.find(id)?;
        inner.cells.get(key as usize)?.live.clone()
    }

    fn running(&self, id: &str) -> Option<Arc<Incarnation>> {
        let inner = self.lock();
        let key = inner.machine.find(id)?;
        if !matches!(
            inner.machine.node(key).state,
            State::Starting | State::Ready
        ) {
            return None;
        }
        inner.cells.get(key as usize)?.live.clone()
    }

    pub(crate) fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the faults in force strike the running incarnation of a child, if there is one.
    pub(crate) fn strike(&self, id: &str) {
        let Some(live) = self.running(id) else { return };
        let struck = self.faults().strike(id, self.now());
        if let Some((flag, name)) = struck {
            self.raise_fault(&live, flag, name);
        }
    }

    /// Takes back what a fault that has ended raised, unless another one in force raises it too: the incarnation goes
    /// on as if nothing had been, also one that is stopping.
    pub(crate) fn relieve(&self, ended: &Campaign) {
        const LASTING: u8 = super::context::FAULT_HANG | super::context::FAULT_LATENCY;
        let Some(live) = ended.child.as_deref().and_then(|child| self.live(child)) else {
            return;
        };
        let others = self.faults().raised_on(&live.id);
        live.clear_flags(ended.flag & LASTING & !others);
        live.wake();
    }

    /// Waits until `done` holds for the tree.
    pub(crate) async fn until(&self, mut done: impl FnMut(&Machine) -> bool) {
        loop {
            let notified = self.changed.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if self.read(&mut done) {
                return;
            }
            notified.await;
        }
    }

    // ----- shutdown ----------------------------------------------------------------------------

    pub(crate) fn request_shutdown(&self, reason: &str) {
        self.shutdown_reason
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert_with(|| reason.to_owned());
        self.shutdown.store(true, Ordering::Release);
        self.alarm.notify_one();
    }

    /// Every required child of the initial tree has been ready once, or no longer matters.
    pub(crate) fn is_complete(&self) -> bool {
        self.missing_count.load(Ordering::Acquire) == 0
    }

    pub(crate) fn told_end(&self) -> bool {
        self.told_end.load(Ordering::Acquire)
    }

    pub(crate) fn ending(self: &Arc<Self>, incarnation: &Incarnation) {
        self.step(Input::Ending {
            key: incarnation.key,
            run: incarnation.run,
        });
    }

    pub(crate) fn shutdown_requested(&self) -> bool {
        self.shutdown.load(Ordering::Acquire)
    }

    pub(crate) fn shutdown_reason(&self) -> String {
        let reason = self
            .shutdown_reason
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        reason.unwrap_or_else(|| "asked".to_owned())
    }

    /// The driver is gone: tell everybody to stop, book what is left, and end.
    pub(crate) fn abandon(self: &Arc<Self>, reason: &str) {
        self.request_shutdown(reason);
        self.step(Input::Abandon);
        #[cfg(feature = "process")]
        drop(self.spawner.close());
        let accounts = self.read(Machine::accounts);
        self.telemetry.close();
        self.finish(ShutdownReport::new(
            accounts,
            Duration::ZERO,
            Some(reason.to_owned()),
        ));
    }

    pub(crate) fn finish(&self, report: ShutdownReport) {
        let bodies: Vec<Body> = {
            let mut inner = self.lock();
            inner
                .cells
                .iter_mut()
                .map(|cell| std::mem::replace(&mut cell.body, Body::Group))
                .collect()
        };
        // Bodies may hold handles to this engine: without this it would keep itself alive.
        drop(bodies);
        self.drained(report.clone());
        self.report.send_replace(Some(report));
    }

    /// The last child has ended.
    pub(crate) fn drained(&self, report: ShutdownReport) {
        self.drained.send_replace(Some(report));
    }

    pub(crate) async fn ended(&self) -> ShutdownReport {
        first(self.report.subscribe()).await
    }

    /// As [`ended`](Self::ended), before the admin and control sockets close.
    #[cfg(feature = "control")]
    pub(crate) async fn until_drained(&self) -> ShutdownReport {
        first(self.drained.subscribe()).await
    }

    /// Fires timers and steps health until `done`, or until `limit`.
    pub(crate) async fn drive_until(
        self: &Arc<Self>,
        limit: Option<Instant>,
        mut done: impl FnMut(&Self) -> bool,
    ) {
        loop {
            self.act(None, |machine, now| machine.step(now, Input::Tick));
            self.publish();
            let health_at = shielded(|| self.telemetry.step_health());
            if done(self) {
                return;
            }
            let now = Instant::now();
            if limit.is_some_and(|limit| now >= limit) {
                return;
            }
            let machine_at = {
                let mut inner = self.lock();
                inner.armed = inner.machine.next_deadline();
                inner.armed.map(|at| self.instant(at))
            };
            let health_at = health_at.map(|wait| now + wait);
            let wake = [machine_at, health_at, limit].into_iter().flatten().min();
            match wake {
                Some(at) => drop(tokio::time::timeout_at(at, self.alarm.notified()).await),
                None => self.alarm.notified().await,
            }
        }
    }

    // ----- telling -----------------------------------------------------------------------------

    /// Tells the news in the order it was decided. Only one thread tells at a time; the others return at
    /// once, and the teller looks again before it leaves.
    pub(crate) fn publish(self: &Arc<Self>) {
        loop {
            let telling = match self.telling.try_lock() {
                Ok(guard) => guard,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return,
            };
            while let Some(effect) = self.next_news() {
                // Subscribers and log layers are foreign code; their panic is not a child's.
                let told = shielded(|| {
                    self.tell(effect);
                    true
                });
                if !told {
                    self.dropped_news.fetch_add(1, Ordering::Relaxed);
                }
            }
            let dropped = self.dropped_news.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                shielded(|| {
                    tracing::error!(
                        event = "news_lost",
                        dropped,
                        "news of children lost: the log writer hung or panicked"
                    );
                });
            }
            drop(telling);
            self.changed.notify_waiters();
            if self
                .outbox
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .is_empty()
            {
                return;
            }
        }
    }

    fn next_news(&self) -> Option<Effect> {
        let mut outbox = self.outbox.lock().unwrap_or_else(PoisonError::into_inner);
        let next = outbox.pop_front();
        if next.is_none() && outbox.capacity() > BUFFER_KEPT {
            outbox.shrink_to(BUFFER_KEPT);
        }
        next
    }

    fn tell(&self, effect: Effect) {
        match effect {
            Effect::Note {
                id,
                generation,
                what,
                ..
            } => self.tell_note(id, generation, what),
            Effect::Condition { id, condition } => {
                let condition =
                    condition.map(|(severity, reason)| (severity == Severity::NotReady, reason));
                self.telemetry.condition(&id, condition);
            }
            Effect::Satisfied { id } => self.satisfied(&id),
            Effect::Removed { id, .. } => {
                self.satisfied(&id);
                self.telemetry.forget(&id);
            }
            Effect::Ended => {
                self.told_end.store(true, Ordering::Release);
                self.alarm.notify_one();
            }
            // Performed under the lock, never told.
            Effect::Spawn { .. }
            | Effect::Stop { .. }
            | Effect::Abort { .. }
            | Effect::AskBeat { .. }
            | Effect::WantsShutdown => {}
        }
    }

    fn tell_note(&self, id: Arc<str>, generation: u64, note: Note) {
        let wall = |delay: Duration| SystemTime::now() + delay.min(HORIZON);
        let change = match note {
            Note::Health { ok } => {
                return self.telemetry.kernel_event(KernelEvent::Health {
                    service: id.to_string(),
                    ok,
                });
            }
            Note::Crashed { exit } => {
                self.telemetry.crashed(&id, generation, &exit);
                Change::Failed {
                    reason: exit.to_string(),
                }
            }
            Note::Started { restart } => {
                if restart {
                    self.telemetry.restarted(&id);
                }
                Change::Started { restart }
            }
            Note::Ready => Change::Ready,
            Note::Done => Change::Done,
            Note::Backoff { attempt, delay } => Change::Backoff {
                attempt,
                delay,
                until: wall(delay),
            },
            Note::Quarantined { delay, reason } => Change::Quarantined {
                reason: reason.to_string(),
                until: delay.map(wall),
            },
            Note::Released { trial } => Change::Released { by_timer: trial },
            Note::Stopping => Change::Stopping,
            Note::Aborted => Change::Aborted,
            Note::Stuck => Change::Stuck,
            Note::Leaked => Change::Leaked,
            Note::Recovered => Change::Recovered,
            Note::Stopped { exit } => Change::Stopped {
                exit: exit.to_string(),
            },
            Note::Stalled { held } => Change::Stalled { held },
            Note::Unstalled { held } => Change::Unstalled { held },
            Note::Fault { name } => Change::Fault {
                fault: name.to_owned(),
            },
            Note::Escalated { reason } => Change::Escalated {
                reason: reason.to_string(),
            },
        };
        self.telemetry.tell_change(&ChildEvent {
            child: id,
            generation,
            change,
        });
    }

    fn satisfied(&self, id: &Arc<str>) {
        if self.missing_count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        if missing.remove(id) {
            let left = missing.len();
            drop(missing);
            // Health first: who waited for the count must find it ready.
            self.telemetry.satisfy(id);
            self.missing_count.store(left, Ordering::Release);
            self.changed.notify_waiters();
        }
    }
}

async fn first(mut report: watch::Receiver<Option<ShutdownReport>>) -> ShutdownReport {
    loop {
        if let Some(report) = report.borrow_and_update().clone() {
            return report;
        }
        if report.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Inner {
    fn live(&self, key: Key, run: u64) -> Option<&Arc<Incarnation>> {
        self.cells
            .get(key as usize)?
            .live
            .as_ref()
            .filter(|live| live.run == run)
    }
}
