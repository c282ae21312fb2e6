//! [`HealthState`]: whether the process can do its work, and if not, why.

mod latch;
mod machine;

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use crate::admin::{self, AdminResponse};
use machine::{Machine, Moment};

pub use latch::Latch;

/// `/livez` fails when no runtime worker has reported for this long.
pub const STALLED_AFTER: Duration = Duration::from_secs(10);

/// `Retry-After` of an answer that is not ready.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Transitions kept for a watcher that does not look. States last at least a second, so this is over a minute.
const WATCH_BACKLOG: usize = 64;

/// Keyed conditions, and the readiness that follows from them. Cloning gives another handle.
///
/// Whoever knows of a trouble sets a [`Condition`] under a key of its own and clears it when it is over. Whoever has
/// to come up first is [required](HealthState::require). Nothing registered is not ready.
///
/// States: `not_ready -> ready <-> degraded -> draining`. A worse state shows after 1 s of trouble without a break, a
/// better one after 5 s without trouble; start-up, draining and fail-secure show at once. Reads work the deadlines off
/// themselves, so no task is needed; [`next_deadline`](HealthState::next_deadline) and [`watch`](HealthState::watch)
/// serve those who want to report a change when it happens.
///
/// ```
/// use ron_metrics::{Condition, HealthState, State};
///
/// let health = HealthState::new();
/// assert_eq!(health.snapshot().state(), State::NotReady);
///
/// health.require("store");
/// assert_eq!(health.snapshot().missing().collect::<Vec<_>>(), ["store"]);
/// health.satisfy("store");
/// assert_eq!(health.snapshot().state(), State::Ready);
///
/// health.set("keyring", Condition::fail_secure("keyring unreadable"));
/// assert_eq!(health.response().status, 503);
/// ```
#[derive(Clone)]
pub struct HealthState {
    shared: Arc<Shared>,
}

/// Something wrong, how bad, and why. Complete: there is nothing else to say about a condition.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Condition {
    /// What it means for readiness.
    pub status: Status,
    /// For the operator: what is wrong, in one line.
    pub reason: String,
}

/// What a condition means for readiness, from bad to worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Status {
    /// Works with limits: 200, and `degraded` is true.
    Degraded,
    /// Cannot take work: 503. Reads may stay open.
    NotReady,
    /// Must not serve anything, reads included: 503, at once.
    FailSecure,
}

/// Readiness of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// 503: starting, or something says not ready.
    NotReady,
    /// 200.
    Ready,
    /// 200 with limits.
    Degraded,
    /// 503 until the process ends.
    Draining,
}

/// A change of state.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transition {
    /// Counts the changes of this [`HealthState`] from 1; a gap means that the watcher missed some.
    pub seq: u64,
    /// State before.
    pub from: State,
    /// State after.
    pub to: State,
    /// When, for people.
    pub at: SystemTime,
    /// When, on the clock of the [`HealthState`].
    pub elapsed: Duration,
}

/// One entry of `causes` in `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cause {
    /// The condition's key.
    pub key: String,
    /// Its status.
    pub status: Status,
    /// Its reason; says so if it was cleared and its effect is held for the 5 s.
    pub reason: String,
    /// Since when it has had this status.
    pub since: SystemTime,
}

/// Whether the runtime's workers still poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Liveness {
    /// Within 10 s, or nobody ever reported: then nothing is known, and a probe must not kill for that.
    Ok,
    /// No worker has polled since then.
    Stalled {
        /// Time of the last report.
        since: SystemTime,
    },
}

/// Where a [`HealthState`] takes its time from.
pub trait Clock: Send + Sync {
    /// Time since a fixed point. Decides.
    fn monotonic(&self) -> Duration;
    /// Time of day. Only shown.
    fn wall(&self) -> SystemTime;
}

/// All that `/readyz` says, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    state: State,
    fail_secure: bool,
    missing: Vec<String>,
    causes: Vec<Cause>,
    since: SystemTime,
}

struct Shared {
    clock: Box<dyn Clock>,
    machine: Mutex<Machine>,
    watchers: Mutex<Vec<Weak<Watcher>>>,
    /// Milliseconds of the last beat on the clock, plus one; 0 before the first.
    beat: AtomicU64,
}

struct Watcher {
    wake: Box<dyn Fn() + Send + Sync>,
    backlog: Mutex<VecDeque<Transition>>,
}

impl HealthState {
    /// On the clock of the system.
    pub fn new() -> HealthState {
        HealthState::with_clock(SystemClock {
            start: Instant::now(),
        })
    }

    /// On a clock of the caller's, as a simulation or a paused runtime needs.
    pub fn with_clock(clock: impl Clock + 'static) -> HealthState {
        let at = Moment {
            monotonic: clock.monotonic(),
            wall: clock.wall(),
        };
        HealthState {
            shared: Arc::new(Shared {
                clock: Box::new(clock),
                machine: Mutex::new(Machine::new(at)),
                watchers: Mutex::new(Vec::new()),
                beat: AtomicU64::new(0),
            }),
        }
    }

    /// States a condition. The same key again replaces it; its `since` stays if the status does.
    pub fn set(&self, key: &str, condition: Condition) {
        self.input(|machine, at| machine.set(key, condition, at));
    }

    /// Takes a condition back. A key that had none is now known to be fine.
    pub fn clear(&self, key: &str) {
        self.input(|machine, at| machine.clear(key, at));
    }

    /// Makes readiness wait for [`satisfy`](HealthState::satisfy) of this key, which is listed as missing until then.
    /// Requiring a satisfied key demands it again.
    pub fn require(&self, key: &str) {
        self.input(|machine, at| machine.require(key, at));
    }

    /// The key is there.
    pub fn satisfy(&self, key: &str) {
        self.input(|machine, at| machine.satisfy(key, at));
    }

    /// The key no longer matters: neither required nor in trouble. For what was removed on purpose. A process that has
    /// only forgotten still knows of nothing, and is not ready.
    pub fn forget(&self, key: &str) {
        self.input(|machine, at| machine.forget(key, at));
    }

    /// Requires a key and returns the only way to satisfy it. See [`Latch`].
    pub fn latch(&self, key: &str) -> Latch {
        self.require(key);
        Latch::new(self.clone(), key)
    }

    /// The process is on its way out: 503 at once and for ever.
    pub fn draining(&self) {
        self.input(Machine::drain);
    }

    /// Works off the deadlines up to `now`, a time on this state's clock. Reads do so themselves. Time that goes back
    /// is taken as time that stands still.
    pub fn step(&self, now: Duration) {
        let at = Moment {
            monotonic: now,
            wall: self.shared.clock.wall(),
        };
        self.apply(|machine| machine.step(at));
    }

    /// When the state may change by itself if nothing else happens, on this state's clock.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.apply(|machine| machine.step(self.now()));
        self.machine().next_deadline()
    }

    /// Time on this state's clock.
    pub fn elapsed(&self) -> Duration {
        self.shared.clock.monotonic()
    }

    /// Everything at once.
    pub fn snapshot(&self) -> Snapshot {
        let at = self.now();
        self.apply(|machine| machine.step(at));
        self.machine().snapshot()
    }

    /// Whether `/readyz` answers 200 now: ready or degraded.
    pub fn ready(&self) -> bool {
        let at = self.now();
        self.apply(|machine| machine.step(at));
        self.machine().ready()
    }

    /// The answer of `/readyz`, for a route of the caller's.
    pub fn response(&self) -> AdminResponse {
        admin::readyz(&self.snapshot())
    }

    /// A runtime worker polled. Call it from tasks of the runtime every second or so.
    pub fn beat(&self) {
        let now = self.shared.clock.monotonic().as_millis() as u64;
        self.shared.beat.fetch_max(now + 1, Ordering::Relaxed);
    }

    /// Whether the last [`beat`](HealthState::beat) is at most 10 s old.
    pub fn liveness(&self) -> Liveness {
        let Some(beat) = self.shared.beat.load(Ordering::Relaxed).checked_sub(1) else {
            return Liveness::Ok;
        };
        let at = self.now();
        let age = at.monotonic.saturating_sub(Duration::from_millis(beat));
        if age <= STALLED_AFTER {
            return Liveness::Ok;
        }
        Liveness::Stalled {
            since: at.wall.checked_sub(age).unwrap_or(at.wall),
        }
    }

    /// Calls `wake` whenever the state or the next deadline may have changed, until the returned [`Watch`] drops. No
    /// lock is held then; `wake` should notify a task and return.
    pub fn watch(&self, wake: impl Fn() + Send + Sync + 'static) -> Watch {
        let watcher = Arc::new(Watcher {
            wake: Box::new(wake),
            backlog: Mutex::new(VecDeque::new()),
        });
        let mut watchers = lock(&self.shared.watchers);
        watchers.retain(|watcher| watcher.strong_count() > 0);
        watchers.push(Arc::downgrade(&watcher));
        Watch {
            health: self.clone(),
            watcher,
        }
    }

    fn now(&self) -> Moment {
        Moment {
            monotonic: self.shared.clock.monotonic(),
            wall: self.shared.clock.wall(),
        }
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        lock(&self.shared.machine)
    }

    fn input(&self, change: impl FnOnce(&mut Machine, Moment) -> Vec<Transition>) {
        let at = self.now();
        self.apply(|machine| change(machine, at));
    }

    /// Runs a change, hands its transitions to the watchers in order, and wakes them.
    fn apply(&self, change: impl FnOnce(&mut Machine) -> Vec<Transition>) {
        let mut machine = self.machine();
        let before = machine.next_deadline();
        let transitions = change(&mut machine);
        if transitions.is_empty() && machine.next_deadline() == before {
            return;
        }
        let watchers: Vec<_> = lock(&self.shared.watchers)
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        for watcher in &watchers {
            watcher.push(&transitions);
        }
        drop(machine);
        for watcher in &watchers {
            (watcher.wake)();
        }
    }
}

impl Default for HealthState {
    fn default() -> Self {
        HealthState::new()
    }
}

impl fmt::Debug for HealthState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HealthState")
            .field(&self.snapshot())
            .finish()
    }
}

impl Condition {
    /// Works with limits.
    pub fn degraded(reason: impl Into<String>) -> Condition {
        Condition {
            status: Status::Degraded,
            reason: reason.into(),
        }
    }

    /// Cannot take work.
    pub fn not_ready(reason: impl Into<String>) -> Condition {
        Condition {
            status: Status::NotReady,
            reason: reason.into(),
        }
    }

    /// Must not serve anything.
    pub fn fail_secure(reason: impl Into<String>) -> Condition {
        Condition {
            status: Status::FailSecure,
            reason: reason.into(),
        }
    }
}

impl Snapshot {
    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether `/readyz` answers 200.
    pub fn ready(&self) -> bool {
        matches!(self.state, State::Ready | State::Degraded)
    }

    /// Whether the process works with limits.
    pub fn degraded(&self) -> bool {
        self.state == State::Degraded
    }

    /// Whether reads must be closed too.
    pub fn fail_secure(&self) -> bool {
        self.fail_secure
    }

    /// Required keys that are not satisfied, in order.
    pub fn missing(&self) -> impl Iterator<Item = &str> {
        self.missing.iter().map(String::as_str)
    }

    /// What is wrong, worst first, then by key.
    pub fn causes(&self) -> impl Iterator<Item = &Cause> {
        self.causes.iter()
    }

    /// When the state last changed.
    pub fn since(&self) -> SystemTime {
        self.since
    }

    /// When to ask again: 0 when ready, else 5 s.
    pub fn retry_after(&self) -> Duration {
        if self.ready() {
            Duration::ZERO
        } else {
            RETRY_AFTER
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Status::Degraded => "degraded",
            Status::NotReady => "not_ready",
            Status::FailSecure => "fail_secure",
        })
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::NotReady => "not_ready",
            State::Ready => "ready",
            State::Degraded => "degraded",
            State::Draining => "draining",
        })
    }
}

/// Sees the changes of a [`HealthState`] while it lives.
pub struct Watch {
    health: HealthState,
    watcher: Arc<Watcher>,
}

impl Watch {
    /// The changes since the last call, oldest first. Of more than 64 the oldest are dropped, which their `seq` shows.
    pub fn transitions(&self) -> Vec<Transition> {
        self.health.step(self.health.elapsed());
        lock(&self.watcher.backlog).drain(..).collect()
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl Watcher {
    fn push(&self, transitions: &[Transition]) {
        let mut backlog = lock(&self.backlog);
        backlog.extend(transitions.iter().cloned());
        let excess = backlog.len().saturating_sub(WATCH_BACKLOG);
        backlog.drain(..excess);
    }
}

struct SystemClock {
    start: Instant,
}

impl Clock for SystemClock {
    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
