//! The health state machine: pure, driven by inputs that carry the time.
//!
//! | from | to | when |
//! |---|---|---|
//! | not_ready (start-up) | ready, degraded | something was registered, nothing is missing, nothing says not ready: at once |
//! | ready | degraded | something has been wrong for 1 s without a break |
//! | ready, degraded | not_ready | something has said not ready, or been missing, for 1 s; fail-secure: at once |
//! | not_ready | degraded, ready | nothing has said so for 5 s |
//! | degraded | ready | nothing has been wrong for 5 s |
//! | any | draining | at once, for ever |
//!
//! Each level (degraded, not ready, fail-secure) has a [`Hysteresis`] of its own; the state is the worst level that is
//! on. Deadlines are applied at their own time when the clock passes them, so it does not matter how often or how late
//! somebody looks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use super::{Cause, Condition, Snapshot, State, Status, Transition};

/// How long something must be wrong before it shows: a probe interval's worth of blips stays invisible.
pub(super) const HOLD_IN: Duration = Duration::from_secs(1);
/// How long everything must be right before it shows.
pub(super) const HOLD_OUT: Duration = Duration::from_secs(5);

/// A point in time on both clocks: the first decides, the second is shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) monotonic: Duration,
    pub(super) wall: SystemTime,
}

impl Moment {
    fn back_to(self, monotonic: Duration) -> Moment {
        let ago = self.monotonic.saturating_sub(monotonic);
        Moment {
            monotonic,
            wall: self.wall.checked_sub(ago).unwrap_or(self.wall),
        }
    }
}

#[derive(Debug)]
pub(super) struct Machine {
    /// Never goes back.
    now: Duration,
    /// Something is known of: a key was set, cleared or satisfied. Being required, or forgotten, is not knowledge.
    registered: bool,
    /// The start is over: from now on levels take their time.
    started: bool,
    draining: bool,
    missing: BTreeSet<String>,
    active: BTreeMap<String, Active>,
    /// Conditions that were cleared while their level was still on: they are why it still is.
    cleared: BTreeMap<String, Active>,
    degraded: Hysteresis,
    not_ready: Hysteresis,
    fail_secure: Hysteresis,
    state: State,
    since: SystemTime,
    changes: u64,
}

#[derive(Clone, Debug)]
struct Active {
    condition: Condition,
    since: SystemTime,
}

/// A level that turns on or off once its input has asked for it long enough without a break.
#[derive(Debug, Default)]
struct Hysteresis {
    on: bool,
    due: Option<Duration>,
}

impl Hysteresis {
    fn ask(&mut self, on: bool, now: Duration, hold_in: Duration) {
        if on == self.on {
            self.due = None;
        } else if self.due.is_none() {
            self.due = Some(now + if on { hold_in } else { HOLD_OUT });
        }
    }

    fn force(&mut self, on: bool) {
        *self = Hysteresis { on, due: None };
    }

    /// Turns if it is due. True if it turned.
    fn turn(&mut self, now: Duration) -> bool {
        let due = self.due.is_some_and(|due| due <= now);
        if due {
            self.force(!self.on);
        }
        due
    }
}

impl Machine {
    pub(super) fn new(at: Moment) -> Machine {
        Machine {
            now: at.monotonic,
            registered: false,
            started: false,
            draining: false,
            missing: BTreeSet::new(),
            active: BTreeMap::new(),
            cleared: BTreeMap::new(),
            degraded: Hysteresis::default(),
            not_ready: Hysteresis {
                on: true,
                due: None,
            },
            fail_secure: Hysteresis::default(),
            state: State::NotReady,
            since: at.wall,
            changes: 0,
        }
    }

    pub(super) fn set(&mut self, key: &str, condition: Condition, at: Moment) -> Vec<Transition> {
        self.input(at, |machine, at| {
            let since = match machine.active.get(key) {
                Some(held) if held.condition.status == condition.status => held.since,
                _ => at.wall,
            };
            machine.registered = true;
            machine.cleared.remove(key);
            let active = Active { condition, since };
            machine.active.insert(key.to_string(), active);
        })
    }

    pub(super) fn clear(&mut self, key: &str, at: Moment) -> Vec<Transition> {
        self.input(at, |machine, _| {
            machine.registered = true;
            machine.take(key);
        })
    }

    pub(super) fn require(&mut self, key: &str, at: Moment) -> Vec<Transition> {
        self.input(at, |machine, _| {
            machine.missing.insert(key.to_string());
        })
    }

    pub(super) fn satisfy(&mut self, key: &str, at: Moment) -> Vec<Transition> {
        self.input(at, |machine, _| {
            machine.registered = true;
            machine.missing.remove(key);
        })
    }

    pub(super) fn forget(&mut self, key: &str, at: Moment) -> Vec<Transition> {
        self.input(at, |machine, _| {
            machine.missing.remove(key);
            machine.take(key);
        })
    }

    pub(super) fn is_missing(&self, key: &str) -> bool {
        self.missing.contains(key)
    }

    pub(super) fn drain(&mut self, at: Moment) -> Vec<Transition> {
        self.input(at, |machine, _| machine.draining = true)
    }

    /// Applies every deadline that has passed, each at its own time.
    pub(super) fn step(&mut self, at: Moment) -> Vec<Transition> {
        let mut changes = Vec::new();
        while let Some(due) = self.next_deadline().filter(|due| *due <= at.monotonic) {
            self.now = self.now.max(due);
            for status in [Status::FailSecure, Status::NotReady, Status::Degraded] {
                if self.level_mut(status).turn(due) && !self.level(status).on {
                    self.cleared
                        .retain(|_, held| held.condition.status < status);
                }
            }
            changes.extend(self.settle(at.back_to(due)));
        }
        self.now = self.now.max(at.monotonic);
        changes
    }

    pub(super) fn next_deadline(&self) -> Option<Duration> {
        if self.draining {
            return None;
        }
        let levels = [&self.degraded, &self.not_ready, &self.fail_secure];
        levels.iter().filter_map(|level| level.due).min()
    }

    pub(super) fn ready(&self) -> bool {
        matches!(self.state, State::Ready | State::Degraded)
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let cause = |key: &String, held: &Active, note: &str| Cause {
            key: key.clone(),
            status: held.condition.status,
            reason: format!("{}{note}", held.condition.reason),
            since: held.since,
        };
        let active = self.active.iter().map(|(key, held)| cause(key, held, ""));
        let cleared = self.cleared.iter();
        let mut causes: Vec<Cause> = active
            .chain(cleared.map(|(key, held)| cause(key, held, " (cleared; held for 5 s)")))
            .collect();
        causes.sort_by(|a, b| b.status.cmp(&a.status).then_with(|| a.key.cmp(&b.key)));
        Snapshot {
            state: self.state,
            fail_secure: self.fail_secure.on || self.active_at(Status::FailSecure),
            missing: self.missing.iter().cloned().collect(),
            causes,
            since: self.since,
        }
    }

    fn input(&mut self, at: Moment, change: impl FnOnce(&mut Machine, Moment)) -> Vec<Transition> {
        let at = Moment {
            monotonic: at.monotonic.max(self.now),
            wall: at.wall,
        };
        let mut changes = self.step(at);
        change(self, at);
        self.ask(at.monotonic);
        changes.extend(self.settle(at));
        changes
    }

    /// Takes a condition back, and remembers it if it has had its effect.
    fn take(&mut self, key: &str) {
        if let Some(active) = self.active.remove(key) {
            if self.started && self.level(active.condition.status).on {
                self.cleared.insert(key.to_string(), active);
            }
        }
    }

    fn active_at(&self, least: Status) -> bool {
        self.active
            .values()
            .any(|held| held.condition.status >= least)
    }

    /// Tells every level what its input is now.
    fn ask(&mut self, now: Duration) {
        let missing = !self.missing.is_empty();
        let fail_secure = self.active_at(Status::FailSecure);
        let not_ready = missing || self.active_at(Status::NotReady);
        let degraded = not_ready || self.active_at(Status::Degraded);
        if !self.started {
            self.started = self.registered && !not_ready;
            self.fail_secure.force(fail_secure);
            self.not_ready.force(!self.started);
            self.degraded.force(degraded);
            return;
        }
        self.fail_secure.ask(fail_secure, now, Duration::ZERO);
        self.not_ready.ask(not_ready, now, HOLD_IN);
        self.degraded.ask(degraded, now, HOLD_IN);
        self.fail_secure.turn(now);
    }

    fn settle(&mut self, at: Moment) -> Option<Transition> {
        let to = if self.draining {
            State::Draining
        } else if self.fail_secure.on || self.not_ready.on {
            State::NotReady
        } else if self.degraded.on {
            State::Degraded
        } else {
            State::Ready
        };
        if to == self.state {
            return None;
        }
        let from = std::mem::replace(&mut self.state, to);
        self.since = at.wall;
        self.changes += 1;
        Some(Transition {
            seq: self.changes,
            from,
            to,
            at: at.wall,
            elapsed: at.monotonic,
        })
    }

    fn level(&self, status: Status) -> &Hysteresis {
        match status {
            Status::Degraded => &self.degraded,
            Status::NotReady => &self.not_ready,
            Status::FailSecure => &self.fail_secure,
        }
    }

    fn level_mut(&mut self, status: Status) -> &mut Hysteresis {
        match status {
            Status::Degraded => &mut self.degraded,
            Status::NotReady => &mut self.not_ready,
            Status::FailSecure => &mut self.fail_secure,
        }
    }
}
