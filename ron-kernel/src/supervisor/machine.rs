//! The supervisor's transition function: what happened goes in, what to do comes out.
//!
//! No I/O, no clock, no task: time and randomness are arguments, effects are values. The engine runs it
//! behind a lock in production; the tests and [`simulate`](super::simulate) run the same code on a
//! virtual clock.
//!
//! A *leaf* is a child; a *group* holds members. Leaves carry incarnations, each identified by a `run`
//! that is never reused, so that whatever arrives late from an older incarnation is ignored.

mod graph;
mod joint;
mod message;
mod node;
#[cfg(test)]
mod tests;

use super::backoff::{Backoff, Rng};
use super::exit::{Exit, Timeout};
use super::intensity::{Intensity, Window};
use super::spec::{Exhausted, Kind, Policy, Restart, Strategy};
use joint::Rest;
use node::Owed;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

pub(crate) use graph::Blueprint;
pub use graph::GraphError;
pub(crate) use message::{Effect, Input, Note, Refused};
pub(crate) use node::{Node, Severity, State, Why};

/// Time since the kernel started.
pub(crate) type Time = Duration;
pub(crate) type Key = u32;

pub(crate) const ROOT: Key = 0;

/// An aborted child that has not ended after this long is Stuck: its poll or its thread does not return.
pub(crate) const ABORT_GRACE: Duration = Duration::from_millis(500);
/// A Stuck child that has not ended after this long is given up as Leaked.
pub(crate) const LEAK_AFTER: Duration = Duration::from_secs(5);
/// First half-open trial after a quarantine; doubles with each failed trial.
pub(crate) const TRIAL_MIN: Duration = Duration::from_secs(30);
/// Longest wait between two trials.
pub(crate) const TRIAL_MAX: Duration = Duration::from_secs(300);
/// Entries a buffer keeps room for between steps.
pub(crate) const BUFFER_KEPT: usize = 256;
/// No deadline lies further ahead than this, whatever durations are asked for: 30 years.
pub(crate) const HORIZON: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
/// A tree holds at most this many nodes; 100,000 dynamic children are the design load.
pub(crate) const NODES_MAX: usize = 200_000;

/// What applies where a child or group sets nothing of its own; the live part of `Config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Defaults {
    pub(crate) backoff: Backoff,
    pub(crate) intensity: Intensity,
    pub(crate) healthy_after: Duration,
    pub(crate) give_up_after: Option<Duration>,
}

fn later(from: Time, wait: Duration) -> Time {
    from.saturating_add(wait.min(HORIZON))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Timer {
    at: Time,
    order: u64,
    key: Key,
    stamp: u64,
    kind: TimerKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum TimerKind {
    Start,
    Backoff,
    Trial,
    Abort,
    Stuck,
    Leak,
    Heartbeat,
    Joint,
    GiveUp,
    LastCall,
    DrainEnd,
}

#[derive(Clone, Copy, Debug)]
struct Drain {
    /// Whoever is stopping then is aborted.
    abort_at: Time,
    end_at: Time,
}

/// Final accounts; `started = stopped + aborted + leaked + quarantined`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Accounts {
    pub(crate) started: u64,
    pub(crate) stopped: u64,
    pub(crate) aborted: u64,
    pub(crate) leaked: u64,
    pub(crate) quarantined: u64,
    pub(crate) stragglers: Vec<Arc<str>>,
}

pub(crate) struct Machine {
    nodes: Vec<Node>,
    free: Vec<Key>,
    ids: HashMap<Arc<str>, Key>,
    timers: BinaryHeap<Reverse<Timer>>,
    defaults: Defaults,
    rng: Rng,
    now: Time,
    serial: u64,
    drain: Option<Drain>,
    ended: bool,
    failure: Option<Arc<str>>,
    /// Removed children that had been started: they ended, the report still counts them.
    removed: u64,
    stalls: u32,
    stall_end: Time,
    counts: [usize; State::COUNT],
    effects: Vec<Effect>,
    /// The policy of the node inserted last.
    policy: Arc<Policy>,
}

impl Machine {
    pub(crate) fn new(defaults: Defaults, seed: u64) -> Self {
        let mut machine = Machine {
            nodes: Vec::new(),
            free: Vec::new(),
            ids: HashMap::new(),
            timers: BinaryHeap::new(),
            defaults,
            rng: Rng::new(seed),
            now: Time::ZERO,
            serial: 0,
            drain: None,
            ended: false,
            failure: None,
            removed: 0,
            stalls: 0,
            stall_end: Time::ZERO,
            counts: [0; State::COUNT],
            effects: Vec::new(),
            policy: Arc::new(Policy::default()),
        };
        let root = Node::new(
            Arc::from(""),
            Kind::Group,
            None,
            Arc::new(Policy::default()),
            true,
        );
        machine.nodes.push(root);
        machine.nodes[ROOT as usize].state = State::Starting;
        machine
    }

    pub(crate) fn node(&self, key: Key) -> &Node {
        &self.nodes[key as usize]
    }

    fn node_mut(&mut self, key: Key) -> &mut Node {
        &mut self.nodes[key as usize]
    }

    pub(crate) fn find(&self, id: &str) -> Option<Key> {
        self.ids.get(id).copied()
    }

    pub(crate) fn now(&self) -> Time {
        self.now
    }

    pub(crate) fn failure(&self) -> Option<&Arc<str>> {
        self.failure.as_ref()
    }

    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    /// How many leaves are in each state, by [`State::index`].
    pub(crate) fn counts(&self) -> &[usize; State::COUNT] {
        &self.counts
    }

    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.timers.peek().map(|timer| timer.0.at)
    }

    /// Moves the effects decided so far into `into`, oldest first.
    pub(crate) fn take_effects(&mut self, into: &mut Vec<Effect>) {
        into.append(&mut self.effects);
        // A burst such as the start of ten thousand children leaves no buffer behind.
        if self.effects.capacity() > BUFFER_KEPT {
            self.effects = Vec::new();
        }
    }

    pub(crate) fn step(&mut self, now: Time, input: Input) {
        self.advance(now);
        match input {
            Input::Tick => self.fire_timers(),
            Input::Ready { key, run } => self.ready(key, run),
            Input::Exited { key, run, exit } => self.exited(key, run, exit),
            Input::Ending { key, run } => {
                let live = matches!(self.node(key).state, State::Starting | State::Ready);
                if self.is_current(key, run) && live {
                    self.begin_stop(key, Why::Ending);
                }
            }
            Input::Stalled { key, run, held } => self.stalled(key, run, held),
            Input::Unstalled { key, run, held } => self.unstalled(key, run, held),
            Input::Health {
                key,
                run,
                unhealthy,
            } => {
                if self.is_current(key, run) && self.node(key).unhealthy != unhealthy {
                    self.node_mut(key).unhealthy = unhealthy;
                    self.health_changed(key);
                    self.condition_changed(key);
                }
            }
            Input::Status { key, run, text } => {
                if self.is_current(key, run) {
                    self.node_mut(key).status = Some(text).filter(|text| !text.is_empty());
                }
            }
            #[cfg(feature = "process")]
            Input::Pid { key, run, pid } => {
                if self.is_current(key, run) {
                    self.node_mut(key).pid = pid;
                }
            }
            Input::Beat { key, run, last } => self.beat(key, run, last),
            Input::Defaults(defaults) => self.defaults = defaults,
            Input::Drain { within } => self.begin_drain(within),
            Input::Abandon => {
                self.begin_drain(Duration::ZERO);
                self.drain_end();
            }
        }
    }

    /// Puts children and groups below the root without starting them. Returns the new keys in the order of
    /// the blueprints, each group before its members.
    pub(crate) fn insert(
        &mut self,
        blueprints: Vec<Blueprint>,
        initial: bool,
    ) -> Result<Vec<Key>, GraphError> {
        if self.drain.is_some() || self.failure.is_some() {
            return Err(GraphError::ShuttingDown);
        }
        self.insert_graph(blueprints, initial)
    }

    /// Starts whatever was inserted and may start.
    pub(crate) fn launch(&mut self, now: Time) {
        self.advance(now);
        for key in self.node(ROOT).members.clone() {
            if self.node(key).state == State::Held {
                self.begin_node(key);
            }
        }
    }

    /// Adds to a running tree and starts what was added.
    pub(crate) fn add(
        &mut self,
        now: Time,
        blueprints: Vec<Blueprint>,
    ) -> Result<Vec<Key>, GraphError> {
        self.advance(now);
        let keys = self.insert(blueprints, false)?;
        for &key in &keys {
            if self.node(key).parent == Some(ROOT) {
                self.begin_node(key);
            }
        }
        Ok(keys)
    }

    pub(crate) fn stop(&mut self, now: Time, key: Key) -> Result<(), Refused> {
        self.advance(now);
        self.refuse_while_draining()?;
        if self.node(key).kind == Kind::Group {
            self.stop_group(key, Rest::Stopped);
            return Ok(());
        }
        match self.node(key).state {
            // A joint operation is about to stop it anyway; it will not start it again.
            State::Starting | State::Ready if self.node(key).doom.is_some() => {
                self.doom(key, Rest::Stopped)
            }
            State::Starting | State::Ready => self.begin_stop(key, Why::Operator),
            State::Stopping { why } | State::Stuck { why } => {
                if self.node(key).doom.is_some() {
                    self.doom(key, Rest::Stopped);
                } else if why != Why::Remove {
                    self.change_why(key, Why::Operator);
                }
            }
            State::Leaked { .. } => return Err(Refused::Leaked),
            State::Stopped | State::Done | State::Gone => {}
            State::Held | State::Waiting | State::Backoff { .. } | State::Quarantined { .. } => {
                self.settle(key);
                self.set_cause(key, "stopped by an operator");
                self.set_state(key, State::Stopped);
            }
        }
        Ok(())
    }

    /// Stops what runs and starts it anew, outside any budget.
    pub(crate) fn restart(&mut self, now: Time, key: Key) -> Result<(), Refused> {
        self.advance(now);
        self.refuse_while_draining()?;
        self.refuse_below_group_down(key)?;
        if self.is_being_removed(key) {
            return Err(Refused::Removing);
        }
        if self.node(key).doom.is_some() {
            return Ok(());
        }
        // The restart that was due after a failure comes early; no budget pays for it.
        let due = self.node(key).owed != Owed::Nothing;
        self.node_mut(key).on_trial = false;
        self.node_mut(key).trials = 0;
        self.node_mut(key).attempt = 0;
        if self.node(key).kind == Kind::Group {
            self.settle(key);
            self.restart_members(key);
            return Ok(());
        }
        match self.node(key).state {
            State::Starting | State::Ready => self.begin_stop(key, Why::OperatorRestart),
            State::Stopping { why } | State::Stuck { why } => {
                if why != Why::Remove {
                    self.change_why(key, Why::OperatorRestart);
                }
            }
            State::Leaked { .. } => return Err(Refused::Leaked),
            _ => {
                self.settle(key);
                if due {
                    self.node_mut(key).owed = Owed::Trial;
                }
                self.begin(key);
            }
        }
        Ok(())
    }

    /// Ends a quarantine now; the next incarnation is a trial.
    pub(crate) fn release(&mut self, now: Time, key: Key) -> Result<(), Refused> {
        self.advance(now);
        self.refuse_while_draining()?;
        self.refuse_below_group_down(key)?;
        match self.node(key).state {
            State::Quarantined { .. } => {
                self.node_mut(key).trials = 0;
                self.trial(key, false);
                Ok(())
            }
            state => Err(Refused::NotQuarantined(state.name())),
        }
    }

    /// Stops a child and forgets it.
    pub(crate) fn remove(&mut self, now: Time, key: Key) -> Result<(), Refused> {
        self.advance(now);
        self.refuse_while_draining()?;
        let outside = |dependant: &&Key| !self.is_within(**dependant, key);
        let within = self.groups(&[key]).into_iter().chain(self.leaves(&[key]));
        let first = within
            .flat_map(|node| &self.node(node).dependants)
            .find(outside);
        if let Some(first) = first {
            return Err(Refused::HasDependants(self.node(*first).id.clone()));
        }
        if self.node(key).kind == Kind::Group {
            self.stop_group(key, Rest::Removed);
            return Ok(());
        }
        match self.node(key).state {
            State::Starting | State::Ready if self.node(key).doom.is_some() => {
                self.doom(key, Rest::Removed)
            }
            State::Starting | State::Ready => self.begin_stop(key, Why::Remove),
            State::Stopping { .. } | State::Stuck { .. } => {
                if self.node(key).doom.is_some() {
                    self.doom(key, Rest::Removed);
                } else {
                    self.change_why(key, Why::Remove);
                }
            }
            State::Leaked { .. } => return Err(Refused::Leaked),
            _ => {
                self.settle(key);
                self.forget(key);
            }
        }
        Ok(())
    }

    /// What a doomed child becomes, unless it is to be removed already.
    fn doom(&mut self, key: Key, rest: Rest) {
        if self.node(key).doom != Some(Rest::Removed) {
            self.node_mut(key).doom = Some(rest);
        }
    }

    /// On its way out of the tree.
    fn is_being_removed(&self, key: Key) -> bool {
        let node = self.node(key);
        node.doom == Some(Rest::Removed)
            || node.state.why() == Some(Why::Remove)
            || node.op.as_ref().is_some_and(|op| op.removes())
    }

    /// Restarts left before the budget of a child is exhausted, if it has one.
    pub(crate) fn attempts_left(&self, key: Key) -> Option<u32> {
        let intensity = self.intensity_of(key)?;
        let used = self.node(key).window.peek(self.now, &intensity);
        Some(intensity.restarts().saturating_sub(used))
    }

    /// Restarts that count against a child's own budget, and the budget.
    pub(crate) fn budget(&self, key: Key) -> Option<(u32, Intensity)> {
        let intensity = self.intensity_of(key)?;
        Some((self.node(key).window.peek(self.now, &intensity), intensity))
    }

    pub(crate) fn restarts_in_window(&self, key: Key) -> u32 {
        let intensity = self
            .node(key)
            .policy
            .intensity
            .unwrap_or(self.defaults.intensity);
        self.node(key).window.peek(self.now, &intensity)
    }

    pub(crate) fn retry_at(&self, key: Key) -> Option<Time> {
        match self.node(key).state {
            State::Backoff { until } => Some(until),
            State::Quarantined { until } => until,
            _ => None,
        }
    }

    /// What a waiting node waits for: the first unmet dependency, or the group that holds it.
    pub(crate) fn waits_for(&self, key: Key) -> Option<Key> {
        match self.node(key).state {
            State::Waiting => self.unmet(key),
            State::Held => self.node(key).parent,
            _ => None,
        }
    }

    /// All ids, in no particular order.
    #[cfg(feature = "control")]
    pub(crate) fn ids(&self) -> Vec<Arc<str>> {
        self.ids.keys().cloned().collect()
    }

    /// What a node starts after.
    #[cfg(feature = "control")]
    pub(crate) fn comes_after(&self, key: Key) -> &[Key] {
        &self.node(key).after
    }

    /// Since when its poll has held the worker.
    #[cfg(feature = "control")]
    pub(crate) fn stalled_since(&self, key: Key) -> Option<Time> {
        let node = self.node(key);
        node.stalled.then_some(node.stalled_since)
    }

    /// What a drain would stop now, in the order it would: the leaves of each rank stop side by side.
    #[cfg(feature = "control")]
    pub(crate) fn stopping_order(&self) -> Vec<Vec<Key>> {
        let mut live: Vec<(u32, Key)> = self
            .leaves(&self.node(ROOT).members)
            .into_iter()
            .filter(|leaf| self.node(*leaf).state.is_live())
            .map(|leaf| (self.node(leaf).rank, leaf))
            .collect();
        live.sort_by_key(|(rank, _)| Reverse(*rank));
        let stages = live.chunk_by(|(rank, _), (next, _)| rank == next);
        stages
            .map(|stage| stage.iter().map(|(_, leaf)| *leaf).collect())
            .collect()
    }

    /// Whether `key` is `ancestor` or lies below it.
    pub(crate) fn is_within(&self, key: Key, ancestor: Key) -> bool {
        let mut at = Some(key);
        while let Some(current) = at {
            if current == ancestor {
                return true;
            }
            at = self.node(current).parent;
        }
        false
    }

    pub(crate) fn is_current(&self, key: Key, run: u64) -> bool {
        self.nodes.get(key as usize).is_some_and(|node| {
            node.run == run && (node.state.is_live() || matches!(node.state, State::Leaked { .. }))
        })
    }

    /// The incarnations at or below `key` that have not ended.
    pub(crate) fn running_below(&self, key: Key) -> Vec<(Key, u64)> {
        let leaves = self.leaves(&[key]).into_iter();
        leaves
            .map(|leaf| (leaf, self.node(leaf).run))
            .filter(|(leaf, run)| self.is_current(*leaf, *run))
            .collect()
    }

    pub(crate) fn is_leaked(&self, key: Key, run: u64) -> bool {
        self.is_current(key, run) && matches!(self.node(key).state, State::Leaked { .. })
    }

    pub(crate) fn accounts(&self) -> Accounts {
        let mut accounts = Accounts {
            started: self.removed,
            stopped: self.removed,
            ..Accounts::default()
        };
        for node in self
            .nodes
            .iter()
            .filter(|n| n.kind != Kind::Group && n.generation > 0 && n.state != State::Gone)
        {
            accounts.started += 1;
            match node.state {
                State::Leaked { .. } | State::Stuck { .. } => {
                    accounts.leaked += 1;
                    accounts.stragglers.push(node.id.clone());
                }
                _ if node.aborted_in_drain => {
                    accounts.aborted += 1;
                    accounts.stragglers.push(node.id.clone());
                }
                State::Quarantined { .. } => accounts.quarantined += 1,
                _ => accounts.stopped += 1,
            }
        }
        accounts
    }

    fn advance(&mut self, now: Time) {
        self.now = self.now.max(now);
    }

    /// A time that far ahead, cut off at the horizon.
    fn later(&self, wait: Duration) -> Time {
        later(self.now, wait)
    }

    fn refuse_while_draining(&self) -> Result<(), Refused> {
        if self.drain.is_some() {
            return Err(Refused::ShuttingDown);
        }
        Ok(())
    }

    /// The nearest enclosing group that is not up.
    fn group_down(&self, key: Key) -> Option<Key> {
        let mut at = self.node(key).parent;
        while let Some(group) = at.filter(|group| *group != ROOT) {
            let node = self.node(group);
            if !matches!(node.state, State::Starting | State::Ready | State::Done) {
                return Some(group);
            }
            at = node.parent;
        }
        None
    }

    fn refuse_below_group_down(&self, key: Key) -> Result<(), Refused> {
        let Some(group) = self.group_down(key) else {
            return Ok(());
        };
        let group = self.node(group);
        Err(Refused::GroupDown {
            group: group.id.clone(),
            state: group.state.name(),
        })
    }

    fn serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    fn arm(&mut self, key: Key, at: Time, kind: TimerKind) {
        let node = self.node(key);
        let stamp = match kind {
            TimerKind::Heartbeat => node.run,
            TimerKind::Joint => node.op.as_ref().map_or(0, |op| op.serial),
            TimerKind::GiveUp => node.give_up,
            _ => node.stamp,
        };
        // Void timers stay until their time; under churn they would outgrow the tree.
        if self.timers.len() > 4 * self.nodes.len() + 1024 {
            let mut timers = std::mem::take(&mut self.timers).into_vec();
            timers.retain(|timer| !self.is_void(&timer.0));
            self.timers = timers.into();
        }
        let order = self.serial();
        self.timers.push(Reverse(Timer {
            at,
            order,
            key,
            stamp,
            kind,
        }));
    }

    /// Whether what the timer was armed for has passed without it.
    fn is_void(&self, timer: &Timer) -> bool {
        let node = self.node(timer.key);
        match timer.kind {
            TimerKind::Heartbeat => node.run != timer.stamp,
            TimerKind::Joint => node.op.as_ref().map(|op| op.serial) != Some(timer.stamp),
            TimerKind::GiveUp => node.give_up != timer.stamp,
            TimerKind::LastCall | TimerKind::DrainEnd => false,
            _ => node.stamp != timer.stamp,
        }
    }

    fn fire_timers(&mut self) {
        while let Some(Reverse(timer)) = self.timers.peek().copied() {
            if timer.at > self.now {
                return;
            }
            self.timers.pop();
            self.fire(timer);
        }
    }

    fn fire(&mut self, timer: Timer) {
        let key = timer.key;
        let node = self.node(key);
        let same_state = node.stamp == timer.stamp;
        match (timer.kind, node.state) {
            // A drain has its own deadline and its own order; it ends what hangs in its turn.
            (TimerKind::Start | TimerKind::Heartbeat, _) if self.drain.is_some() => {}
            (TimerKind::Start, State::Starting) if same_state => {
                let limit = node.policy.start_timeout.unwrap_or_default();
                self.begin_stop(key, Why::Timeout(Timeout::Start(limit)));
            }
            (TimerKind::Backoff, State::Backoff { .. }) if same_state => self.begin_node(key),
            (TimerKind::Trial, State::Quarantined { .. }) if same_state => {
                let node = self.node_mut(key);
                node.trials = node.trials.saturating_add(1);
                self.trial(key, true);
            }
            (TimerKind::Abort, State::Stopping { .. }) if same_state && !node.aborted => {
                self.abort(key);
            }
            (TimerKind::Stuck, State::Stopping { why }) if same_state => {
                self.note(key, Note::Stuck);
                self.set_state(key, State::Stuck { why });
                self.arm(key, self.later(LEAK_AFTER), TimerKind::Leak);
                if self.drain.is_some() {
                    self.release_waiter(key);
                }
            }
            (TimerKind::Leak, State::Stuck { .. }) if same_state => self.leak(key),
            (TimerKind::Heartbeat, State::Ready) if node.run == timer.stamp => {
                let run = timer.stamp;
                self.effects.push(Effect::AskBeat { key, run });
            }
            (TimerKind::Joint, _) => {
                let op = node.op.as_ref().map(|op| op.serial);
                if op == Some(timer.stamp) {
                    self.advance_op(key);
                }
            }
            (TimerKind::GiveUp, _) if node.give_up == timer.stamp => self.maybe_give_up(key),
            (TimerKind::LastCall, _) => self.last_call(),
            (TimerKind::DrainEnd, _) => self.drain_end(),
            _ => {}
        }
    }

    // ----- one incarnation -------------------------------------------------------------------

    /// Starts a node when its turn has come: a leaf, or all members of a group.
    fn begin_node(&mut self, key: Key) {
        if self.node(key).kind == Kind::Group {
            self.begin_group(key);
        } else {
            self.begin(key);
        }
    }

    fn begin(&mut self, key: Key) {
        self.node_mut(key).doom = None;
        if self.drain.is_some() {
            self.settle(key);
            self.set_state(key, State::Stopped);
        } else if self.unmet(key).is_some() {
            self.set_state(key, State::Waiting);
        } else {
            self.spawn(key);
        }
    }

    fn spawn(&mut self, key: Key) {
        let run = self.serial();
        let restart = self.charge(key);
        let node = self.node_mut(key);
        node.run = run;
        node.generation += 1;
        node.ready_at = None;
        node.aborted = false;
        node.unhealthy = None;
        node.status = None;
        let generation = node.generation;
        let start_timeout = node.policy.start_timeout;
        self.set_state(key, State::Starting);
        self.effects.push(Effect::Spawn {
            key,
            run,
            generation,
        });
        self.note(key, Note::Started { restart });
        if let Some(limit) = start_timeout {
            self.arm(key, self.later(limit), TimerKind::Start);
        }
    }

    /// Books a decided restart at the moment it starts. Returns whether there was one.
    fn charge(&mut self, key: Key) -> bool {
        let owed = self.node(key).owed;
        self.settle(key);
        let now = self.now;
        let node = self.node_mut(key);
        match owed {
            Owed::Nothing => return false,
            Owed::Trial => node.restarts += 1,
            Owed::Restart => {
                node.restarts += 1;
                let parent = node.parent;
                // A window that no budget reads would only grow.
                if self.intensity_of(key).is_some() {
                    self.node_mut(key).window.record(now);
                }
                if let Some(parent) = parent.filter(|p| *p != ROOT) {
                    self.node_mut(parent).member_window.record(now);
                }
            }
        }
        true
    }

    /// Gives back the reservation of a restart that will not happen, or happens now.
    fn settle(&mut self, key: Key) {
        if std::mem::take(&mut self.node_mut(key).owed) == Owed::Restart {
            if let Some(parent) = self.node(key).parent {
                let group = self.node_mut(parent);
                group.pending = group.pending.saturating_sub(1);
            }
        }
    }

    fn ready(&mut self, key: Key, run: u64) {
        if !self.is_current(key, run) || self.node(key).state != State::Starting {
            return;
        }
        self.became_ready(key);
        self.set_state(key, State::Ready);
        self.note(key, Note::Ready);
        self.health_changed(key);
        // Nobody beats while starting; the start timeout watches over that.
        if let Some(interval) = self.node(key).policy.heartbeat {
            self.arm(key, self.later(interval), TimerKind::Heartbeat);
        }
    }

    fn became_ready(&mut self, key: Key) {
        let now = self.now;
        let node = self.node_mut(key);
        node.ready_at = Some(now);
        node.quarantined_since = None;
        node.cause = None;
    }

    fn begin_stop(&mut self, key: Key, why: Why) {
        // A child that misses its heartbeats is presumed hung: it is not asked politely first.
        let own = match why {
            Why::Timeout(Timeout::Heartbeat(_)) => Duration::ZERO,
            _ => self.node(key).policy.stop_timeout,
        };
        let mut abort_at = self.later(own);
        if let Some(drain) = self.drain {
            abort_at = abort_at.min(drain.abort_at).max(self.now);
        }
        let run = self.node(key).run;
        self.set_state(key, State::Stopping { why });
        self.effects.push(Effect::Stop { key, run, abort_at });
        self.note(key, Note::Stopping);
        if abort_at <= self.now {
            self.abort(key);
        } else {
            self.arm(key, abort_at, TimerKind::Abort);
        }
    }

    fn abort(&mut self, key: Key) {
        let drain = self.drain.is_some();
        let node = self.node_mut(key);
        node.aborted = true;
        node.aborted_in_drain = drain;
        let run = node.run;
        self.effects.push(Effect::Abort { key, run });
        self.note(key, Note::Aborted);
        self.arm(key, self.later(ABORT_GRACE), TimerKind::Stuck);
    }

    /// Changes what follows the end of a stopping child without restarting its timers.
    fn change_why(&mut self, key: Key, new: Why) {
        let node = self.node_mut(key);
        if let State::Stopping { why } | State::Stuck { why } = &mut node.state {
            *why = new;
        }
    }

    fn leak(&mut self, key: Key) {
        let why = self.node(key).state.why().unwrap_or(Why::Joint);
        self.set_cause(
            key,
            "did not end after it was aborted; its thread or poll is still running",
        );
        // The others of a joint restart go on without it; if it ends one day, it is quarantined.
        if self.node(key).doom == Some(Rest::Held) {
            self.node_mut(key).doom = None;
        }
        // A leaked child must not keep the heartbeats of all others frozen.
        self.close_stall(key);
        self.note(key, Note::Leaked);
        self.set_state(key, State::Leaked { why });
        self.health_changed(key);
        self.release_waiter(key);
    }

    fn exited(&mut self, key: Key, run: u64, exit: Exit) {
        if !self.is_current(key, run) {
            return;
        }
        let state = self.node(key).state;
        let why = state.why();
        let exit = match why {
            Some(Why::Timeout(timeout)) => Exit::TimedOut(timeout),
            _ => exit,
        };
        if self.node(key).stalled {
            let held = self.now.saturating_sub(self.node(key).stalled_since);
            self.note(key, Note::Unstalled { held });
        }
        self.close_stall(key);
        if matches!(state, State::Stuck { .. } | State::Leaked { .. }) {
            self.note(key, Note::Recovered);
        }
        let node = self.node_mut(key);
        node.pid = None;
        node.last_exit = Some(exit.clone());
        let asked = !matches!(why, None | Some(Why::Timeout(_) | Why::Ending));
        if let Some(rest) = self.node(key).doom {
            if !asked && exit.is_failure() {
                self.crashed(key, &exit);
            }
            self.come_to_rest(key, rest, exit);
        } else {
            match (why, state) {
                (Some(Why::Remove), _) => self.forget(key),
                (Some(Why::Operator), _) => {
                    self.set_cause(key, "stopped by an operator");
                    self.note(key, Note::Stopped { exit });
                    self.set_state(key, State::Stopped);
                }
                // Its group starts it when it comes up again.
                (Some(_), State::Leaked { .. }) if self.group_down(key).is_some() => {
                    self.set_state(key, State::Held);
                }
                (Some(_), State::Leaked { .. }) => self.quarantine(key),
                (Some(Why::OperatorRestart | Why::Joint), _) => {
                    self.note(key, Note::Stopped { exit });
                    self.set_state(key, State::Held);
                    self.begin(key);
                }
                (Some(Why::Timeout(_)), _) => self.failed(key, exit),
                (None | Some(Why::Ending), _) => self.ended_by_itself(key, exit),
            }
        }
        self.release_waiter(key);
    }

    fn ended_by_itself(&mut self, key: Key, exit: Exit) {
        let restart = self.node(key).policy.restart;
        match exit {
            Exit::Cancelled => {
                self.note(key, Note::Stopped { exit });
                self.set_cause(key, "its runtime shut down");
                self.set_state(key, State::Stopped);
            }
            Exit::Done | Exit::Exited(0) if restart != Restart::Permanent => {
                self.settle(key);
                self.note(key, Note::Done);
                let node = self.node_mut(key);
                node.cause = None;
                node.quarantined_since = None;
                self.set_state(key, State::Done);
                self.forget_if_temporary(key);
            }
            exit => self.failed(key, exit),
        }
    }

    fn forget_if_temporary(&mut self, key: Key) {
        let node = self.node(key);
        let root_child = node.parent == Some(ROOT);
        if node.policy.restart == Restart::Temporary
            && root_child
            && !node.initial
            && node.dependants.is_empty()
        {
            self.forget(key);
        }
    }

    // ----- failure and its consequences ------------------------------------------------------

    fn crashed(&mut self, key: Key, exit: &Exit) {
        let reason: Arc<str> = if exit.is_failure() {
            Arc::from(exit.to_string())
        } else {
            Arc::from(format!("{exit} although it is Permanent"))
        };
        self.node_mut(key).cause = Some(reason);
        self.note(key, Note::Crashed { exit: exit.clone() });
        if self.node(key).healthy == Some(true) {
            self.node_mut(key).healthy = Some(false);
            self.note(key, Note::Health { ok: false });
        }
    }

    /// A leaf crashed, or a group used up its budget: restart, quarantine or escalate.
    fn failed(&mut self, key: Key, exit: Exit) {
        self.crashed(key, &exit);
        let now = self.now;
        let node = self.node(key);
        let Some(parent) = node.parent else {
            return self.want_shutdown(key);
        };
        if node.policy.restart == Restart::Temporary {
            self.note(key, Note::Stopped { exit });
            self.set_state(key, State::Stopped);
            return self.forget_if_temporary(key);
        }
        let healthy = node
            .ready_at
            .is_some_and(|at| now.saturating_sub(at) >= self.defaults.healthy_after);
        if healthy {
            let node = self.node_mut(key);
            node.attempt = 0;
            node.on_trial = false;
            node.trials = 0;
        } else if node.on_trial {
            return self.quarantine(key);
        }
        if let Some(intensity) = self.intensity_of(key) {
            if self.node_mut(key).window.count(now, &intensity) >= intensity.restarts() {
                return self.exhausted(key);
            }
        }
        if parent != ROOT && self.group_budget_spent(parent) {
            return self.group_failed(parent, key);
        }
        let backoff = self
            .node(key)
            .policy
            .backoff
            .unwrap_or(self.defaults.backoff);
        let attempt = self.node(key).attempt;
        let delay = backoff.delay(attempt, &mut self.rng);
        let node = self.node_mut(key);
        node.attempt = attempt.saturating_add(1);
        node.owed = Owed::Restart;
        self.node_mut(parent).pending += 1;
        let joint = match self.node(parent).policy.strategy {
            Strategy::OneForOne => false,
            Strategy::OneForAll | Strategy::RestForOne => true,
        };
        self.node_mut(key).brief = !joint && delay.is_zero();
        if self.node(key).brief {
            return self.begin_node(key);
        }
        self.note(key, Note::Backoff { attempt, delay });
        self.set_state(
            key,
            State::Backoff {
                until: later(now, delay),
            },
        );
        if joint {
            self.joint_restart(parent, key, later(now, delay));
        } else {
            self.arm(key, later(now, delay), TimerKind::Backoff);
        }
    }

    /// The budget of a node's own: every child of the root has one, a member of a group only its own.
    fn intensity_of(&self, key: Key) -> Option<Intensity> {
        let node = self.node(key);
        match (node.parent, node.kind) {
            // The intensity a group was given is the budget of its members.
            (Some(ROOT), Kind::Group) => Some(self.defaults.intensity),
            (_, Kind::Group) => None,
            (Some(ROOT), _) => Some(node.policy.intensity.unwrap_or(self.defaults.intensity)),
            _ => node.policy.intensity,
        }
    }

    fn group_budget_spent(&mut self, group: Key) -> bool {
        let now = self.now;
        let intensity = self
            .node(group)
            .policy
            .intensity
            .unwrap_or(self.defaults.intensity);
        let node = self.node_mut(group);
        node.member_window
            .count(now, &intensity)
            .saturating_add(node.pending)
            >= intensity.restarts()
    }

    fn exhausted(&mut self, key: Key) {
        let parent = self.node(key).parent.unwrap_or(ROOT);
        let default = if parent == ROOT {
            Exhausted::HalfOpen
        } else {
            Exhausted::Escalate
        };
        match self.node(key).policy.exhausted.unwrap_or(default) {
            Exhausted::HalfOpen | Exhausted::Hold => self.quarantine(key),
            Exhausted::Escalate if parent != ROOT => self.group_failed(parent, key),
            Exhausted::Escalate | Exhausted::Shutdown => {
                self.settle(key);
                self.set_state(key, State::Quarantined { until: None });
                self.want_shutdown(key);
            }
        }
    }

    fn quarantine(&mut self, key: Key) {
        let now = self.now;
        self.settle(key);
        let node = self.node_mut(key);
        let factor = 1u32.checked_shl(node.trials).unwrap_or(u32::MAX);
        let delay = match node.policy.exhausted {
            Some(Exhausted::Hold) => None,
            _ => Some(TRIAL_MIN.saturating_mul(factor).min(TRIAL_MAX)),
        };
        node.on_trial = false;
        let first = node.quarantined_since.is_none();
        node.quarantined_since.get_or_insert(now);
        let reason = node
            .cause
            .clone()
            .unwrap_or_else(|| Arc::from("crashed too often"));
        self.note(key, Note::Quarantined { delay, reason });
        self.set_state(
            key,
            State::Quarantined {
                until: delay.map(|d| later(now, d)),
            },
        );
        if let Some(delay) = delay {
            self.arm(key, later(now, delay), TimerKind::Trial);
        }
        if let (true, Some(limit), false) = (
            first,
            self.defaults.give_up_after,
            self.node(key).policy.optional,
        ) {
            self.arm_give_up(key, later(now, limit));
        }
    }

    fn trial(&mut self, key: Key, by_timer: bool) {
        let node = self.node_mut(key);
        node.on_trial = true;
        node.owed = Owed::Trial;
        self.note(key, Note::Released { trial: by_timer });
        self.begin_node(key);
    }

    fn arm_give_up(&mut self, key: Key, at: Time) {
        self.node_mut(key).give_up = self.serial();
        self.arm(key, at, TimerKind::GiveUp);
    }

    fn maybe_give_up(&mut self, key: Key) {
        let node = self.node(key);
        let Some(limit) = self.defaults.give_up_after else {
            return;
        };
        let Some(since) = node.quarantined_since else {
            return;
        };
        if node.state == State::Gone || node.policy.optional {
            return;
        }
        if self.now.saturating_sub(since) >= limit {
            self.want_shutdown(key);
        } else {
            self.arm_give_up(key, later(since, limit));
        }
    }

    fn want_shutdown(&mut self, key: Key) {
        let node = self.node(key);
        let cause = node.cause.as_deref().unwrap_or("gave up").to_owned();
        let reason: Arc<str> = Arc::from(format!("{}: {cause}", node.id));
        if self.failure.is_none() {
            self.note(
                key,
                Note::Escalated {
                    reason: reason.clone(),
                },
            );
            self.failure = Some(reason);
            self.effects.push(Effect::WantsShutdown);
        }
    }

    // ----- stalls and heartbeats -------------------------------------------------------------

    fn stalled(&mut self, key: Key, run: u64, held: Duration) {
        if self.is_current(key, run) && !self.node(key).stalled {
            let since = self.now.saturating_sub(held);
            let node = self.node_mut(key);
            node.stalled = true;
            node.stalled_since = since;
            self.stalls += 1;
            self.note(key, Note::Stalled { held });
            self.health_changed(key);
            self.condition_changed(key);
        }
    }

    fn unstalled(&mut self, key: Key, run: u64, held: Duration) {
        if self.is_current(key, run) && self.node(key).stalled {
            self.note(key, Note::Unstalled { held });
            self.close_stall(key);
            self.health_changed(key);
            self.condition_changed(key);
        }
    }

    fn close_stall(&mut self, key: Key) {
        if std::mem::take(&mut self.node_mut(key).stalled) {
            self.stalls = self.stalls.saturating_sub(1);
            self.stall_end = self.now;
        }
    }

    fn beat(&mut self, key: Key, run: u64, last: Time) {
        let node = self.node(key);
        let (Some(interval), State::Ready) = (node.policy.heartbeat, node.state) else {
            return;
        };
        if node.run != run || self.drain.is_some() {
            return;
        }
        let charged = node.stalled;
        // While somebody holds a worker nobody else is late: the clock of the others stands still.
        let frozen = !charged && self.stalls > 0;
        let last = last.max(node.ready_at.unwrap_or_default());
        let from = if charged {
            last
        } else {
            last.max(self.stall_end)
        };
        if frozen {
            self.arm(key, self.later(interval), TimerKind::Heartbeat);
        } else if self.now >= later(from, interval) {
            self.begin_stop(key, Why::Timeout(Timeout::Heartbeat(interval)));
        } else {
            self.arm(key, later(from, interval), TimerKind::Heartbeat);
        }
    }

    // ----- state, readiness of dependants, health ----------------------------------------------

    fn note(&mut self, key: Key, what: Note) {
        let node = self.node(key);
        let (id, generation) = (node.id.clone(), node.generation);
        self.effects.push(Effect::Note {
            key,
            id,
            generation,
            what,
        });
    }

    fn set_cause(&mut self, key: Key, cause: &str) {
        self.node_mut(key).cause = Some(Arc::from(cause));
    }

    fn set_state(&mut self, key: Key, state: State) {
        let stamp = self.serial();
        let now = self.now;
        let node = self.node_mut(key);
        let old = std::mem::replace(&mut node.state, state);
        node.stamp = stamp;
        node.since = now;
        let was = node.satisfied;
        let down = matches!(
            state,
            State::Quarantined { .. } | State::Stopped | State::Leaked { .. } | State::Stuck { .. }
        );
        let given_up = node.policy.optional || node.policy.restart == Restart::Temporary;
        node.satisfied = matches!(state, State::Ready | State::Done) || (given_up && down);
        let (is, parent, leaf) = (node.satisfied, node.parent, node.kind != Kind::Group);
        if leaf {
            self.counts[old.index()] = self.counts[old.index()].saturating_sub(1);
            self.counts[state.index()] += 1;
        }
        if let Some(parent) = parent {
            let group = self.node_mut(parent);
            match (was, is) {
                (false, true) => group.unsatisfied -= 1,
                (true, false) => group.unsatisfied += 1,
                _ => {}
            }
            match (old == State::Done, state == State::Done) {
                (false, true) => group.done += 1,
                (true, false) => group.done -= 1,
                _ => {}
            }
            self.refresh_group(parent);
        }
        self.condition_changed(key);
        if is && !was {
            if self.node(key).initial {
                let id = self.node(key).id.clone();
                self.effects.push(Effect::Satisfied { id });
            }
            self.wake_dependants(key);
        }
        if leaf && state != State::Done {
            self.health_changed(key);
        }
    }

    fn wake_dependants(&mut self, key: Key) {
        let dependants: Vec<Key> = self.node(key).dependants.iter().copied().collect();
        for dependant in dependants {
            let waiting = self.leaves(&[dependant]).into_iter();
            for node in waiting.chain(self.groups(&[dependant])) {
                if self.node(node).state == State::Waiting && self.unmet(node).is_none() {
                    self.begin_node(node);
                }
            }
        }
    }

    /// The first thing this node or a group around it must come after that is not ready.
    fn unmet(&self, key: Key) -> Option<Key> {
        let mut at = Some(key);
        while let Some(current) = at {
            let node = self.node(current);
            if let Some(dep) = node.after.iter().find(|dep| !self.node(**dep).satisfied) {
                return Some(*dep);
            }
            at = node.parent;
        }
        None
    }

    fn health_changed(&mut self, key: Key) {
        let node = self.node(key);
        let ok = node.state == State::Ready && !node.stalled && node.unhealthy.is_none();
        if node.healthy == Some(ok) || (!ok && node.healthy.is_none()) {
            return;
        }
        self.node_mut(key).healthy = Some(ok);
        self.note(key, Note::Health { ok });
    }

    fn condition_changed(&mut self, key: Key) {
        let condition = self.condition_of(key);
        let node = self.node_mut(key);
        if node.condition != condition {
            node.condition = condition.clone();
            let id = node.id.clone();
            self.effects.push(Effect::Condition { id, condition });
        }
    }

    fn condition_of(&self, key: Key) -> Option<(Severity, Arc<str>)> {
        let node = self.node(key);
        if key == ROOT || self.drain.is_some() {
            return None;
        }
        let because = |what: &str| -> Arc<str> {
            Arc::from(match &node.cause {
                Some(cause) => format!("{what}: {cause}"),
                None => what.to_owned(),
            })
        };
        let (severity, reason) = match node.state {
            State::Quarantined { .. } => (Severity::NotReady, because("quarantined")),
            State::Stuck { .. } => (Severity::NotReady, because("stuck")),
            State::Leaked { .. } => (Severity::NotReady, because("leaked")),
            State::Stopped if node.cause.is_some() => (Severity::Degraded, because("stopped")),
            State::Held | State::Waiting | State::Starting | State::Backoff { .. }
                if node.cause.is_some() =>
            {
                // More than half of the budget gone: no longer a hiccup.
                let budget = node.policy.intensity.unwrap_or(self.defaults.intensity);
                let storm = 2 * self.restarts_in_window(key) > budget.restarts();
                if node.brief && !storm {
                    return None;
                }
                if storm {
                    (Severity::NotReady, because("restart_storm"))
                } else {
                    (Severity::Degraded, because("restarting"))
                }
            }
            State::Starting | State::Ready if node.stalled => (
                Severity::Degraded,
                Arc::from("stalled: holds its worker thread"),
            ),
            State::Ready if node.unhealthy.is_some() => (
                Severity::NotReady,
                node.unhealthy
                    .clone()
                    .unwrap_or_else(|| Arc::from("unhealthy")),
            ),
            _ => return None,
        };
        let severity = if node.policy.optional {
            Severity::Degraded
        } else {
            severity
        };
        Some((severity, reason))
    }
}
