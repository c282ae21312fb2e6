//! When intents are sent to the ledger, and when they are kept until it is well: a state machine without clock and I/O.
//!
//! | from | to | when |
//! |---|---|---|
//! | emitting, draining | brownout | over a whole window the p99 of the ledger's answers was above [`Rules::slow`]; or so many failures in a row; or most of the recent ones |
//! | brownout | draining | over a whole window their p95 was below [`Rules::fast`], and the queue is below its soft limit |
//! | draining | emitting | nothing is pending any more |
//! | any | frozen | we failed ourselves: [`freeze`](Quarantine::freeze) |
//! | frozen | draining | somebody says that it is right again: [`clear`](Quarantine::clear) |
//!
//! Each state measures for itself: what was before it does not count. In a brownout the ledger is probed, and nothing is
//! emitted; while it drains, what was kept is emitted, the oldest first, and what is new is kept behind it.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

/// What a machine may be told of as its time: the time since whatever moment, as long as it is the same for all calls.
pub type Moment = Duration;

/// What it is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Intents are sent as they come.
    Emitting,
    /// The ledger is slow or fails: intents are kept.
    Brownout,
    /// It is well again: what was kept is sent.
    Draining,
    /// We were wrong ourselves: nothing is sent before somebody has looked.
    Frozen,
}

impl State {
    /// All of them.
    pub const ALL: [State; 4] = [
        State::Emitting,
        State::Brownout,
        State::Draining,
        State::Frozen,
    ];

    /// Its name in one lower-case word.
    pub fn name(self) -> &'static str {
        match self {
            State::Emitting => "emitting",
            State::Brownout => "brownout",
            State::Draining => "draining",
            State::Frozen => "frozen",
        }
    }
}

/// When it changes. [`Rules::default`] is what the runbook says; a drill shortens the slices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rules {
    /// What the window is counted in. 10 s.
    pub slice: Duration,
    /// Slices of the window, of which the newest has not ended. 60.
    pub slices: u32,
    /// Slices that are recent. 3.
    pub recent: u32,
    /// A p99 above it is a brownout. 250 ms.
    pub slow: Duration,
    /// A p95 below it is the end of one. 100 ms.
    pub fast: Duration,
    /// Fewer answers say nothing. 20.
    pub samples: u32,
    /// Failures in a row that are a brownout. 5.
    pub failures: u32,
    /// Between two probes, and until what failed is sent again. 5 s.
    pub probe: Duration,
    /// Runs that may be under way or kept. As the queue of work: 4,096.
    pub pending: usize,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            slice: Duration::from_secs(10),
            slices: 60,
            recent: 3,
            slow: Duration::from_millis(250),
            fast: Duration::from_millis(100),
            samples: 20,
            failures: 5,
            probe: Duration::from_secs(5),
            pending: 4096,
        }
    }
}

/// Rules by which a brownout would never end, or never begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RulesError {
    /// A number is 0.
    #[error("expected every number and time above 0")]
    Zero,
    /// What is recent is no part of the window.
    #[error("expected at most as many recent slices as slices")]
    Recent,
    /// A ledger could be slow and fast at once.
    #[error("expected the time that is fast to be at most the one that is slow")]
    Times,
    /// The probes of a window are too few to end a brownout.
    #[error("expected a window of slice times slices in which probes, one after the other, are as many as samples")]
    Probes,
}

impl Rules {
    /// How long the window is.
    pub fn window(&self) -> Duration {
        self.slice.saturating_mul(self.slices)
    }

    /// Whether they can be followed.
    ///
    /// # Errors
    /// They contradict each other.
    pub fn check(&self) -> Result<(), RulesError> {
        let times = [self.slice, self.slow, self.fast, self.probe];
        let numbers = [self.slices, self.recent, self.samples, self.failures];
        if times.contains(&Duration::ZERO) || numbers.contains(&0) || self.pending == 0 {
            return Err(RulesError::Zero);
        }
        if self.recent > self.slices {
            return Err(RulesError::Recent);
        }
        if self.fast > self.slow {
            return Err(RulesError::Times);
        }
        // The newest slice has not ended, so what is counted may be one slice less.
        let counted = self.slice.saturating_mul(self.slices - 1);
        if self.probe.saturating_mul(self.samples) > counted {
            return Err(RulesError::Probes);
        }
        Ok(())
    }
}

/// How the ledger answered, to an intent or to a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// After so long.
    After(Duration),
    /// Not, or that it fails.
    Not,
}

/// What becomes of a run that was computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Its intent is to be sent now.
    Emit,
    /// It was kept, and is sent later.
    Kept,
    /// There is no room for it: nothing was done.
    Full,
    /// Frozen: nothing was done.
    Frozen,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next<K> {
    /// Send the intent of this run, which was kept.
    Emit(K),
    /// Ask the ledger anything.
    Probe,
}

/// Why it changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// The p99 of a window.
    Slow,
    /// Failures in a row.
    Failures,
    /// Most of the recent ones failed.
    FailureRate,
    /// The p95 of a window.
    Recovered,
    /// Nothing is pending.
    Drained,
    /// What was wrong with ourselves.
    Invariant(String),
    /// What somebody said who looked.
    Cleared(String),
}

impl Why {
    /// In a word.
    pub fn word(&self) -> &'static str {
        match self {
            Why::Slow => "slow",
            Why::Failures => "failures",
            Why::FailureRate => "failure_rate",
            Why::Recovered => "recovered",
            Why::Drained => "drained",
            Why::Invariant(_) => "invariant",
            Why::Cleared(_) => "cleared",
        }
    }
}

/// One state after another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What it was doing.
    pub from: State,
    /// What it is doing now.
    pub to: State,
    /// What for.
    pub why: Why,
}

/// It cannot be cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotCleared {
    /// It is not frozen.
    #[error("nothing is frozen")]
    NotFrozen,
    /// Nobody said why.
    #[error("expected a reason")]
    NoReason,
}

/// The machine. `K` is what a run is called.
#[derive(Clone, Debug)]
pub struct Quarantine<K> {
    rules: Rules,
    state: State,
    /// When this state began.
    since: Moment,
    window: Window,
    /// Failures in a row.
    failed: u32,
    /// To be sent as they came: their requests wait for the answer.
    emitting: BTreeSet<K>,
    /// To be sent later, the oldest first; `redoing` is still in it.
    pending: VecDeque<K>,
    /// Which of `pending` is being sent.
    redoing: Option<K>,
    /// Not before then is probed, or sent again what failed.
    not_before: Moment,
}

impl<K: Clone + Ord> Quarantine<K> {
    /// Emitting, with nothing pending.
    ///
    /// # Errors
    /// The rules contradict each other.
    pub fn new(rules: Rules, now: Moment) -> Result<Self, RulesError> {
        rules.check()?;
        Ok(Quarantine {
            rules,
            state: State::Emitting,
            since: now,
            window: Window::default(),
            failed: 0,
            emitting: BTreeSet::new(),
            pending: VecDeque::new(),
            redoing: None,
            not_before: now,
        })
    }

    /// What it is doing.
    pub fn state(&self) -> State {
        self.state
    }

    /// The runs that are kept, the oldest first.
    pub fn pending(&self) -> impl ExactSizeIterator<Item = &K> {
        self.pending.iter()
    }

    /// A run was computed that was not admitted yet.
    pub fn admit(&mut self, run: K) -> Admission {
        if self.state == State::Frozen {
            return Admission::Frozen;
        }
        // What is being sent may have to be kept, so that it has its place already.
        if self.emitting.len() + self.pending.len() >= self.rules.pending {
            return Admission::Full;
        }
        match self.state {
            State::Emitting => {
                self.emitting.insert(run);
                Admission::Emit
            }
            _ => {
                self.pending.push_back(run);
                Admission::Kept
            }
        }
    }

    /// Whether the intent of this run may be sent now: to be asked before every attempt.
    pub fn may_emit(&self, run: &K) -> bool {
        match self.state {
            State::Emitting => self.emitting.contains(run) || self.redoing.as_ref() == Some(run),
            State::Draining => self.redoing.as_ref() == Some(run),
            State::Brownout | State::Frozen => false,
        }
    }

    /// The ledger has decided about this run: it is not this machine's any more.
    pub fn settled(&mut self, run: &K) {
        self.emitting.remove(run);
        self.pending.retain(|kept| kept != run);
        if self.redoing.as_ref() == Some(run) {
            self.redoing = None;
        }
    }

    /// It is unknown whether the ledger has decided about this run, or it was not asked: the run is kept.
    pub fn unsettled(&mut self, now: Moment, run: &K) {
        if let Some(run) = self.emitting.take(run) {
            self.pending.push_back(run);
        }
        if self.redoing.as_ref() == Some(run) {
            self.redoing = None;
        }
        self.not_before = self.not_before.max(now + self.rules.probe);
    }

    /// Whoever was sending has gone: all that was being sent is kept.
    pub fn interrupted(&mut self, now: Moment) {
        self.pending.extend(std::mem::take(&mut self.emitting));
        self.redoing = None;
        self.not_before = now;
    }

    /// The ledger has answered, or not.
    pub fn observe(&mut self, now: Moment, answered: Answered) -> Option<Change> {
        self.window.add(&self.rules, now, answered);
        self.failed = match answered {
            Answered::After(_) => 0,
            Answered::Not => self.failed.saturating_add(1),
        };
        let why = match self.state {
            State::Emitting | State::Draining => self.trouble(now)?,
            State::Brownout | State::Frozen => return None,
        };
        Some(self.enter(now, State::Brownout, why))
    }

    /// Time has passed. `queue_is_low`: work that waits is below its soft limit.
    pub fn tick(&mut self, now: Moment, queue_is_low: bool) -> Option<Change> {
        match self.state {
            State::Brownout if queue_is_low && self.has_recovered(now) => {
                Some(self.enter(now, State::Draining, Why::Recovered))
            }
            State::Draining if self.pending.is_empty() => {
                Some(self.enter(now, State::Emitting, Why::Drained))
            }
            _ => None,
        }
    }

    /// What to do now beside what [`admit`](Self::admit) said, if anything. A run that is given out has to be given back by
    /// [`settled`](Self::settled) or [`unsettled`](Self::unsettled) before there is another.
    pub fn next(&mut self, now: Moment) -> Option<Next<K>> {
        if now < self.not_before {
            return None;
        }
        match self.state {
            State::Frozen => None,
            State::Brownout => {
                self.not_before = now + self.rules.probe;
                Some(Next::Probe)
            }
            State::Emitting | State::Draining if self.redoing.is_some() => None,
            State::Emitting | State::Draining => {
                let run = self.pending.front()?.clone();
                self.redoing = Some(run.clone());
                Some(Next::Emit(run))
            }
        }
    }

    /// Something that we computed is wrong: nothing is sent any more.
    pub fn freeze(&mut self, now: Moment, reason: impl Into<String>) -> Option<Change> {
        let why = Why::Invariant(reason.into());
        (self.state != State::Frozen).then(|| self.enter(now, State::Frozen, why))
    }

    /// Somebody has looked, and says what for it goes on.
    ///
    /// # Errors
    /// It is not frozen, or the reason is empty.
    pub fn clear(&mut self, now: Moment, reason: &str) -> Result<Change, NotCleared> {
        if self.state != State::Frozen {
            return Err(NotCleared::NotFrozen);
        }
        if reason.trim().is_empty() {
            return Err(NotCleared::NoReason);
        }
        Ok(self.enter(now, State::Draining, Why::Cleared(reason.to_owned())))
    }

    fn enter(&mut self, now: Moment, to: State, why: Why) -> Change {
        let from = std::mem::replace(&mut self.state, to);
        self.since = now;
        self.window = Window::default();
        self.failed = 0;
        self.not_before = now;
        Change { from, to, why }
    }

    fn trouble(&self, now: Moment) -> Option<Why> {
        let Rules {
            recent,
            slices,
            samples,
            failures,
            ..
        } = self.rules;
        if self.failed >= failures {
            return Some(Why::Failures);
        }
        let lately = self.window.last(&self.rules, now, recent);
        if lately.all >= u64::from(samples) && lately.failed * 2 > lately.all {
            return Some(Why::FailureRate);
        }
        let all = self.window.last(&self.rules, now, slices);
        let is_slow = all.all - all.slow < rank(all.all, 99);
        (self.is_measured(now, &all) && is_slow).then_some(Why::Slow)
    }

    fn has_recovered(&self, now: Moment) -> bool {
        let all = self.window.last(&self.rules, now, self.rules.slices);
        self.is_measured(now, &all) && all.fast >= rank(all.all, 95)
    }

    /// This state has lasted for a window, in which there were enough answers.
    fn is_measured(&self, now: Moment, all: &Slice) -> bool {
        let lasted = now.saturating_sub(self.since);
        lasted >= self.rules.window() && all.all >= u64::from(self.rules.samples)
    }
}

/// Which of `n` numbers, the least first and from 1, is their percentile.
fn rank(n: u64, percent: u64) -> u64 {
    (n * percent).div_ceil(100)
}

/// The newest slices, the oldest of them first.
#[derive(Clone, Debug, Default)]
struct Window(VecDeque<Slice>);

/// A histogram with the two bounds that rules are about. What failed is slower than any.
#[derive(Clone, Copy, Debug, Default)]
struct Slice {
    /// Which, from 0.
    number: u128,
    all: u64,
    failed: u64,
    /// Above [`Rules::slow`].
    slow: u64,
    /// Below [`Rules::fast`].
    fast: u64,
}

impl Window {
    fn number(rules: &Rules, now: Moment) -> u128 {
        now.as_nanos() / rules.slice.as_nanos().max(1)
    }

    fn add(&mut self, rules: &Rules, now: Moment, answered: Answered) {
        let number = Self::number(rules, now);
        let oldest = (number + 1).saturating_sub(rules.slices.into());
        while self.0.front().is_some_and(|slice| slice.number < oldest) {
            self.0.pop_front();
        }
        // Two threads may tell of their times in another order than they took them.
        if self.0.back().is_none_or(|slice| slice.number < number) {
            self.0.push_back(Slice {
                number,
                ..Slice::default()
            });
        }
        let Some(slice) = self.0.back_mut() else {
            return;
        };
        slice.all += 1;
        match answered {
            Answered::Not => {
                slice.failed += 1;
                slice.slow += 1;
            }
            Answered::After(time) => {
                slice.slow += u64::from(time > rules.slow);
                slice.fast += u64::from(time < rules.fast);
            }
        }
    }

    /// The sum of the newest `count`.
    fn last(&self, rules: &Rules, now: Moment, count: u32) -> Slice {
        let oldest = (Self::number(rules, now) + 1).saturating_sub(count.into());
        let slices = self.0.iter().filter(|slice| slice.number >= oldest);
        slices.fold(Slice::default(), |sum, slice| Slice {
            number: oldest,
            all: sum.all + slice.all,
            failed: sum.failed + slice.failed,
            slow: sum.slow + slice.slow,
            fast: sum.fast + slice.fast,
        })
    }
}
