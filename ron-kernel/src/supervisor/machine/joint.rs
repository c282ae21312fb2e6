//! What concerns several children at once: stopping in reverse start order, joint restarts, the drain.

use super::{Drain, Duration, Exit, Restart, Strategy, ABORT_GRACE};
use super::{Effect, Key, Kind, Machine, Note, Owed, State, Time, TimerKind, Why, Window, ROOT};
use std::sync::Arc;

/// An operation on the leaves of a group: stop them rank by rank from the highest, then go on.
#[derive(Clone, Debug)]
pub(super) struct Op {
    pub(super) serial: u64,
    /// Live leaves by falling rank, with the incarnation that is to end.
    targets: Vec<(u32, Key, u64)>,
    next: usize,
    /// Leaves of the present rank that have not ended.
    waiting: usize,
    then: Then,
}

impl Op {
    pub(super) fn removes(&self) -> bool {
        matches!(self.then, Then::Rest(Rest::Removed))
    }
}

/// What follows when everything has ended.
#[derive(Clone, Debug)]
pub(super) enum Then {
    /// Start these members again, not before this time.
    Restart { members: Vec<Key>, not_before: Time },
    /// The group failed; its parent decides.
    Fail { exit: Exit },
    /// Stay down.
    Rest(Rest),
    /// The kernel ends.
    Drained,
}

/// What a leaf is when a joint operation has ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    Held,
    Stopped,
    Removed,
}

impl Machine {
    /// The leaves at or below `nodes`, in declaration order.
    pub(super) fn leaves(&self, nodes: &[Key]) -> Vec<Key> {
        let mut found = Vec::new();
        let mut todo: Vec<Key> = nodes.iter().rev().copied().collect();
        while let Some(key) = todo.pop() {
            let node = self.node(key);
            if node.kind == Kind::Group {
                todo.extend(node.members.iter().rev());
            } else {
                found.push(key);
            }
        }
        found
    }

    /// The groups at or below `nodes`.
    pub(super) fn groups(&self, nodes: &[Key]) -> Vec<Key> {
        let mut found = Vec::new();
        let mut todo: Vec<Key> = nodes.to_vec();
        while let Some(key) = todo.pop() {
            let node = self.node(key);
            if node.kind == Kind::Group {
                found.push(key);
                todo.extend(&node.members);
            }
        }
        found
    }

    pub(super) fn begin_group(&mut self, group: Key) {
        // Its members wait for themselves; one without members waits here.
        if self.node(group).members.is_empty() && self.unmet(group).is_some() {
            return self.set_state(group, State::Waiting);
        }
        let restart = self.charge(group);
        let node = self.node_mut(group);
        // A restarted supervisor starts with a fresh intensity, as in OTP; its own restart was charged above.
        node.member_window = Window::default();
        node.generation += 1;
        node.ready_at = None;
        node.op = None;
        let members = node.members.clone();
        self.set_state(group, State::Starting);
        self.note(group, Note::Started { restart });
        self.begin_members(group, &members);
        self.refresh_group(group);
    }

    fn begin_members(&mut self, group: Key, members: &[Key]) {
        for &member in members {
            // Removed since the operation began; the slot may be somebody else's.
            if self.node(member).parent != Some(group) {
                continue;
            }
            match self.node(member).state {
                // The failure that led here is what its restart is charged for.
                State::Backoff { .. } => self.begin_node(member),
                State::Held | State::Waiting | State::Done => {
                    self.settle(member);
                    self.begin_node(member);
                }
                // Quarantined, stopped by an operator, or still running as a leak: not ours to start.
                _ => {}
            }
        }
    }

    /// Brings the state of a group that is up in line with its members.
    pub(super) fn refresh_group(&mut self, group: Key) {
        let node = self.node(group);
        if !matches!(node.state, State::Starting | State::Ready | State::Done) {
            return;
        }
        let all_done = !node.members.is_empty() && node.done as usize == node.members.len();
        let next = match (node.unsatisfied, all_done) {
            (0, true) => State::Done,
            (0, false) => State::Ready,
            _ => State::Starting,
        };
        if next != node.state {
            if next != State::Starting {
                self.became_ready(group);
            }
            self.set_state(group, next);
        }
    }

    /// The failed member and those that share its fate stop in reverse order and start again together.
    pub(super) fn joint_restart(&mut self, group: Key, failed: Key, not_before: Time) {
        let members = &self.node(group).members;
        let mut from = match self.node(group).policy.strategy {
            Strategy::RestForOne => members.iter().position(|m| *m == failed).unwrap_or(0),
            Strategy::OneForAll | Strategy::OneForOne => 0,
        };
        let mut not_before = not_before;
        if let Some(Then::Restart {
            members: already,
            not_before: earlier,
        }) = self.node(group).op.as_ref().map(|op| &op.then)
        {
            let first = members
                .iter()
                .position(|m| already.contains(m))
                .unwrap_or(from);
            from = from.min(first);
            not_before = not_before.max(*earlier);
        }
        let members = self.node(group).members[from..].to_vec();
        self.begin_op(
            group,
            &members.clone(),
            Rest::Held,
            Some(failed),
            Then::Restart {
                members,
                not_before,
            },
        );
    }

    /// An operator restarts a whole group.
    pub(super) fn restart_members(&mut self, group: Key) {
        let members = self.node(group).members.clone();
        // Whoever restarts a group wants all of it, what was stopped one by one included.
        for node in self
            .groups(&members)
            .into_iter()
            .chain(self.leaves(&members))
        {
            let ended_for_good = self.node(node).policy.restart == Restart::Temporary
                && self.node(node).generation > 0;
            let down = matches!(
                self.node(node).state,
                State::Stopped | State::Quarantined { .. }
            );
            if down && !ended_for_good {
                self.set_state(node, State::Held);
            }
        }
        self.set_state(group, State::Starting);
        let then = Then::Restart {
            members: members.clone(),
            not_before: self.now,
        };
        self.begin_op(group, &members, Rest::Held, None, then);
    }

    /// The budget of a group is spent: everything in it stops and the group fails at its parent.
    pub(super) fn group_failed(&mut self, group: Key, culprit: Key) {
        if matches!(
            self.node(group).op.as_ref().map(|op| &op.then),
            Some(Then::Fail { .. })
        ) {
            return;
        }
        let node = self.node(culprit);
        let why = node.cause.as_deref().unwrap_or("crashed too often");
        let reason = format!("restart budget spent by {}: {why}", node.id);
        self.note(
            group,
            Note::Escalated {
                reason: Arc::from(reason.as_str()),
            },
        );
        let members = self.node(group).members.clone();
        self.set_state(group, State::Stopping { why: Why::Joint });
        // Its incarnation has ended; only its state has not said so yet.
        self.settle(culprit);
        self.set_state(culprit, State::Held);
        self.begin_op(
            group,
            &members,
            Rest::Held,
            None,
            Then::Fail {
                exit: Exit::Failed(reason),
            },
        );
    }

    pub(super) fn stop_group(&mut self, group: Key, rest: Rest) {
        self.settle(group);
        let members = self.node(group).members.clone();
        self.set_state(group, State::Stopping { why: Why::Operator });
        self.begin_op(group, &members, rest, None, Then::Rest(rest));
    }

    pub(super) fn begin_drain(&mut self, within: Duration) {
        if self.drain.is_some() {
            return;
        }
        // The aborted get a moment to end before they count as leaked.
        let grace = ABORT_GRACE.min(within / 5);
        let end_at = self.later(within);
        let abort_at = end_at.saturating_sub(grace);
        self.drain = Some(Drain { abort_at, end_at });
        self.arm(ROOT, abort_at, TimerKind::LastCall);
        self.arm(ROOT, end_at, TimerKind::DrainEnd);
        let members = self.node(ROOT).members.clone();
        self.begin_op(ROOT, &members, Rest::Stopped, None, Then::Drained);
    }

    /// Time is nearly up: the deadline goes before the order. Who is stopping is aborted; who has not had
    /// its turn is told now, with half of what is left.
    pub(super) fn last_call(&mut self) {
        let Some(drain) = &mut self.drain else { return };
        let left = drain.end_at.saturating_sub(self.now);
        drain.abort_at = self.now + left / 2;
        let members = self.node(ROOT).members.clone();
        for leaf in self.leaves(&members) {
            match self.node(leaf).state {
                State::Starting | State::Ready => self.begin_stop(leaf, Why::Joint),
                State::Stopping { .. } if !self.node(leaf).aborted => self.abort(leaf),
                _ => {}
            }
        }
    }

    pub(super) fn drain_end(&mut self) {
        if self.ended || self.drain.is_none() {
            return;
        }
        let members = self.node(ROOT).members.clone();
        for leaf in self.leaves(&members) {
            let state = self.node(leaf).state;
            if state.is_live() {
                if matches!(state, State::Starting | State::Ready) {
                    self.begin_stop(leaf, Why::Joint);
                }
                if !self.node(leaf).aborted {
                    self.abort(leaf);
                }
                self.leak(leaf);
            }
        }
        self.end();
    }

    fn end(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            self.effects.push(Effect::Ended);
        }
    }

    /// Dooms the leaves below `members` and starts stopping those that run.
    ///
    /// An operation on an enclosing group supersedes those inside it. `failed` is the member whose
    /// failure began it: it keeps its backoff and its charge.
    fn begin_op(
        &mut self,
        owner: Key,
        members: &[Key],
        rest: Rest,
        failed: Option<Key>,
        then: Then,
    ) {
        for group in self.groups(members) {
            self.node_mut(group).op = None;
            if group == owner || Some(group) == failed {
                continue;
            }
            // A quarantined group has its own way out, too.
            if rest == Rest::Held && matches!(self.node(group).state, State::Quarantined { .. }) {
                continue;
            }
            self.settle(group);
            let state = match rest {
                Rest::Held => State::Held,
                Rest::Stopped | Rest::Removed => State::Stopped,
            };
            if !matches!(self.node(group).state, State::Stopped) {
                self.set_state(group, state);
            }
        }
        let leaves = self.leaves(members);
        // Nobody may start while the others come to rest: an optional one that is down lets others start.
        for &leaf in &leaves {
            if self.node(leaf).state == State::Waiting && Some(leaf) != failed {
                self.set_state(leaf, State::Held);
            }
        }
        let mut targets = Vec::new();
        for leaf in leaves {
            self.node_mut(leaf).awaited_by = None;
            let state = self.node(leaf).state;
            if state.is_live() {
                let operator = state.why() == Some(Why::Operator);
                self.node_mut(leaf).doom = Some(if operator && rest == Rest::Held {
                    Rest::Stopped
                } else {
                    rest
                });
                targets.push((self.node(leaf).rank, leaf, self.node(leaf).run));
                continue;
            }
            self.node_mut(leaf).doom = None;
            if Some(leaf) == failed {
                continue;
            }
            match (state, rest) {
                (State::Leaked { .. } | State::Gone, _) => {}
                (State::Stopped, Rest::Held | Rest::Stopped) => {}
                // A quarantine has its own way out; a Temporary child is never started again.
                (State::Quarantined { .. }, Rest::Held) => {}
                (State::Done, Rest::Held)
                    if self.node(leaf).policy.restart == Restart::Temporary => {}
                (State::Done | State::Quarantined { .. }, Rest::Stopped) if owner == ROOT => {}
                (_, Rest::Held) => {
                    self.settle(leaf);
                    self.set_state(leaf, State::Held);
                }
                (_, Rest::Stopped) => {
                    self.settle(leaf);
                    self.set_state(leaf, State::Stopped);
                }
                (_, Rest::Removed) => {
                    self.settle(leaf);
                    self.forget(leaf);
                }
            }
        }
        targets.sort_by_key(|(rank, ..)| std::cmp::Reverse(*rank));
        let serial = self.serial();
        self.node_mut(owner).op = Some(Box::new(Op {
            serial,
            targets,
            next: 0,
            waiting: 0,
            then,
        }));
        self.advance_op(owner);
    }

    /// Stops the next rank once the present one has ended; completes after the last.
    pub(super) fn advance_op(&mut self, owner: Key) {
        loop {
            let Some(op) = self.node_mut(owner).op.as_mut() else {
                return;
            };
            if op.waiting > 0 {
                return;
            }
            let from = op.next;
            let Some((rank, ..)) = op.targets.get(from).copied() else {
                return self.complete_op(owner);
            };
            let batch: Vec<(u32, Key, u64)> = op.targets[from..]
                .iter()
                .take_while(|(r, ..)| *r == rank)
                .copied()
                .collect();
            op.next = from + batch.len();
            let live: Vec<Key> = batch
                .into_iter()
                .filter(|(_, key, run)| {
                    self.node(*key).run == *run && self.node(*key).state.is_live()
                })
                .map(|(_, key, _)| key)
                .collect();
            if let Some(op) = self.node_mut(owner).op.as_mut() {
                op.waiting = live.len();
            }
            for key in live {
                self.node_mut(key).awaited_by = Some(owner);
                match self.node(key).state {
                    State::Starting | State::Ready => self.begin_stop(key, Why::Joint),
                    // Already given up for this drain: nothing to wait for.
                    State::Stuck { .. } if self.drain.is_some() => self.release_waiter(key),
                    _ => self.hasten(key),
                }
            }
        }
    }

    /// A child that was stopping already gets no more time than the drain has left.
    fn hasten(&mut self, key: Key) {
        if let Some(drain) = self.drain {
            self.arm(key, drain.abort_at, TimerKind::Abort);
        }
    }

    /// Tells the operation that waits for this leaf, if one does, that it need not wait any more.
    pub(super) fn release_waiter(&mut self, key: Key) {
        let Some(owner) = self.node_mut(key).awaited_by.take() else {
            return;
        };
        if let Some(op) = self.node_mut(owner).op.as_mut() {
            op.waiting = op.waiting.saturating_sub(1);
        }
        self.advance_op(owner);
    }

    fn complete_op(&mut self, owner: Key) {
        let now = self.now;
        let Some(op) = self.node(owner).op.as_ref() else {
            return;
        };
        if let Then::Restart { not_before, .. } = op.then {
            if now < not_before {
                return self.arm(owner, not_before, TimerKind::Joint);
            }
        }
        let Some(op) = self.node_mut(owner).op.take() else {
            return;
        };
        match op.then {
            Then::Restart { members, .. } => self.begin_members(owner, &members),
            Then::Fail { exit } => {
                self.node_mut(owner).last_exit = Some(exit.clone());
                self.failed(owner, exit);
            }
            Then::Rest(rest) => {
                let leaked = |leaf: &Key| matches!(self.node(*leaf).state, State::Leaked { .. });
                if rest == Rest::Removed && !self.leaves(&[owner]).iter().any(leaked) {
                    return self.forget_group(owner);
                }
                // A group with a leaked member stays, or its name could be given to a second incarnation.
                self.set_cause(owner, "stopped by an operator");
                self.set_state(owner, State::Stopped);
            }
            Then::Drained => self.drained(),
        }
    }

    /// All ranks are through: what is still Stuck had its time and is leaked.
    fn drained(&mut self) {
        let members = self.node(ROOT).members.clone();
        for leaf in self.leaves(&members) {
            if self.node(leaf).state.is_live() {
                self.leak(leaf);
            }
        }
        self.end();
    }

    fn forget_group(&mut self, group: Key) {
        let members = self.node(group).members.clone();
        for member in members {
            if self.node(member).kind == Kind::Group {
                self.forget_group(member);
            } else if self.node(member).state != State::Gone {
                self.forget(member);
            }
        }
        self.forget(group);
    }

    /// A doomed leaf has ended: it becomes what the operation wants it to be.
    pub(super) fn come_to_rest(&mut self, key: Key, rest: Rest, exit: Exit) {
        self.node_mut(key).doom = None;
        let owed = self.node(key).owed;
        if owed != Owed::Nothing {
            self.settle(key);
        }
        let node = self.node(key);
        let finished = matches!(exit, Exit::Done | Exit::Exited(0))
            && node.policy.restart != Restart::Permanent;
        match rest {
            Rest::Removed => self.forget(key),
            Rest::Stopped => {
                self.note(key, Note::Stopped { exit });
                self.set_state(key, State::Stopped);
            }
            // Never started again, not even together with others.
            Rest::Held if self.node(key).policy.restart == Restart::Temporary => {
                self.note(key, Note::Stopped { exit });
                self.set_state(key, State::Stopped);
            }
            Rest::Held => {
                self.note(
                    key,
                    if finished {
                        Note::Done
                    } else {
                        Note::Stopped { exit }
                    },
                );
                self.set_state(key, State::Held);
            }
        }
    }
}
