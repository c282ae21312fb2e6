//! Who explains whom: a forest over everything that is wrong, whose roots are the root causes.
//!
//! Each trouble has at most one other that explains it. Where that would go round in a circle, the link of the one
//! that most looks like a root is cut, so every trouble has exactly one root.

use super::history::{past, History, BY_OPERATOR, SLACK};
use super::{Gravity, Injected, Situation, Subject};
use crate::supervisor::{Exit, Kind};
use std::collections::HashMap;
use std::time::SystemTime;

/// One thing that is wrong; the numbers are places in the lists of the [`Situation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    Child(usize),
    Fault(usize),
    Draining,
    Rejected,
    Pending,
    Reader(usize),
    /// A cause of readiness, or a missing key, of which nothing else tells.
    Key(Seen),
}

/// Where readiness shows a trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Cause(usize),
    Missing(usize),
}

/// What ties a symptom to what explains it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// Waits for a dependency.
    Waits,
    /// Is held by its group.
    Held,
    /// Is a group, and a member is not well.
    Member,
    /// Is a group whose budget a member spent.
    Spent,
    /// Stopped because another member of its group failed.
    Joint,
    /// Stopped with its group.
    With,
    /// Starts after what failed earlier.
    After,
    /// Was too slow while a worker was held.
    Stall,
    /// A fault was injected.
    Fault,
    /// The kernel shuts down.
    Drain,
}

pub(super) struct Blame<'a> {
    pub(super) situation: &'a Situation,
    pub(super) history: &'a History<'a>,
    pub(super) troubles: Vec<Trouble>,
    /// Since when, by trouble.
    pub(super) onset: Vec<SystemTime>,
    /// The worst place in readiness that shows it, by trouble.
    pub(super) seen: Vec<Option<Seen>>,
    /// What explains it, by trouble.
    pub(super) parent: Vec<Option<(usize, Link)>>,
    pub(super) root: Vec<usize>,
    pub(super) depth: Vec<u32>,
    /// The trouble of each child; `None` for those that are well.
    pub(super) of_child: Vec<Option<usize>>,
    by_id: HashMap<&'a str, usize>,
    fault_on: HashMap<&'a str, usize>,
    draining: Option<usize>,
    /// By group: the member whose failure brought it down.
    culprit: HashMap<usize, usize>,
    /// By name of the group: unwell members.
    members: HashMap<&'a str, Vec<usize>>,
    /// By name of the group: the member that failed first.
    failing: HashMap<&'a str, usize>,
    /// Children that hold a worker, the first one.
    stall: Option<usize>,
    /// By child: the unwell one it starts after that was unwell first, found through those that are well.
    upstream: Vec<Option<usize>>,
}

/// Nested groups are followed this far up; the tree allows 32.
const DEPTH_MAX: usize = 33;

impl<'a> Blame<'a> {
    pub(super) fn new(situation: &'a Situation, history: &'a History<'a>) -> Blame<'a> {
        let mut blame = Blame {
            situation,
            history,
            troubles: Vec::new(),
            onset: Vec::new(),
            seen: Vec::new(),
            parent: Vec::new(),
            root: Vec::new(),
            depth: Vec::new(),
            of_child: vec![None; situation.children.len()],
            by_id: HashMap::new(),
            fault_on: HashMap::new(),
            draining: None,
            culprit: HashMap::new(),
            members: HashMap::new(),
            failing: HashMap::new(),
            stall: None,
            upstream: Vec::new(),
        };
        blame.collect();
        blame.index_groups();
        blame.index_upstream();
        for trouble in 0..blame.troubles.len() {
            blame.parent[trouble] = blame.explained_by(trouble);
        }
        blame.cut_circles();
        blame.find_roots();
        blame
    }

    fn push(&mut self, trouble: Trouble, onset: SystemTime) -> usize {
        self.troubles.push(trouble);
        self.onset.push(onset);
        self.seen.push(None);
        self.parent.push(None);
        self.troubles.len() - 1
    }

    pub(super) fn child(&self, trouble: usize) -> Option<&'a Subject> {
        match self.troubles[trouble] {
            Trouble::Child(place) => Some(&self.situation.children[place]),
            _ => None,
        }
    }

    pub(super) fn place(&self, id: &str) -> Option<usize> {
        self.by_id.get(id).copied()
    }

    // ----- what is wrong -----------------------------------------------------------------------

    fn collect(&mut self) {
        let situation = self.situation;
        let mut by_key: HashMap<String, usize> = HashMap::new();
        for (place, subject) in situation.children.iter().enumerate() {
            // The first of a name counts; the tree has no second.
            if self.by_id.contains_key(&*subject.id) {
                continue;
            }
            self.by_id.insert(&subject.id, place);
            if subject.is_unwell() {
                let onset = self.onset_of(subject);
                let trouble = self.push(Trouble::Child(place), onset);
                self.of_child[place] = Some(trouble);
                by_key.insert(format!("child:{}", subject.id), trouble);
            }
        }
        for (place, fault) in situation.faults.iter().enumerate() {
            let trouble = self.push(Trouble::Fault(place), fault.since);
            by_key.entry(fault.key()).or_insert(trouble);
            if let Some(child) = &fault.child {
                let first = self.fault_on.entry(child).or_insert(place);
                if fault.since < situation.faults[*first].since {
                    *first = place;
                }
            }
        }
        if situation.draining.is_some() {
            let shutdown = self.history.shutdown().map(|entry| entry.at);
            let since = shutdown.unwrap_or(situation.readiness.since);
            let trouble = self.push(Trouble::Draining, since);
            self.draining = Some(trouble);
            by_key.insert("kernel".to_owned(), trouble);
        }
        if let Some((at, _)) = &situation.rejected {
            let trouble = self.push(Trouble::Rejected, *at);
            by_key.insert("config_reload".to_owned(), trouble);
        }
        if !situation.pending_keys.is_empty() {
            let config = self.history.last_config();
            self.push(
                Trouble::Pending,
                config.map_or(situation.started, |entry| entry.at),
            );
        }
        let lagging = |cause: &&super::Cause| cause.key == "bus_lag";
        let lag_since = situation.readiness.causes.iter().find(lagging);
        let mut worst: Option<u64> = None;
        for (place, reader) in situation.readers.iter().enumerate() {
            if !reader.is_worth_a_word() {
                continue;
            }
            let lately = reader.lost_lately > 0;
            let since = match lag_since {
                Some(cause) if lately => cause.since,
                _ if reader.lost > 0 && !lately => situation.started,
                _ => situation.now,
            };
            let trouble = self.push(Trouble::Reader(place), since);
            if lately && worst < Some(reader.lost_lately) {
                worst = Some(reader.lost_lately);
                by_key.insert("bus_lag".to_owned(), trouble);
            }
        }
        let readiness = &situation.readiness;
        for (place, key) in readiness.missing.iter().enumerate() {
            self.see(&mut by_key, key, Seen::Missing(place), readiness.since);
        }
        for (place, cause) in readiness.causes.iter().enumerate() {
            self.see(&mut by_key, &cause.key, Seen::Cause(place), cause.since);
        }
        for trouble in 0..self.troubles.len() {
            if let (Trouble::Child(_), Some(Seen::Cause(cause))) =
                (self.troubles[trouble], self.seen[trouble])
            {
                let shown = readiness.causes[cause].since;
                self.onset[trouble] = self.onset[trouble].min(shown);
            }
        }
        let mut stalled: Vec<usize> = Vec::new();
        for (trouble, what) in self.troubles.iter().enumerate() {
            if let Trouble::Child(place) = what {
                if situation.children[*place].stalled.is_some() {
                    stalled.push(trouble);
                }
            }
        }
        self.stall = stalled
            .into_iter()
            .min_by_key(|trouble| self.child(*trouble).and_then(|child| child.stalled));
    }

    /// Notes where readiness shows a trouble; what nothing else tells of is one of its own.
    fn see(
        &mut self,
        by_key: &mut HashMap<String, usize>,
        key: &str,
        seen: Seen,
        since: SystemTime,
    ) {
        let trouble = match by_key.get(key) {
            Some(trouble) => *trouble,
            // A fault that has ended: readiness holds what it showed for a while.
            None if key.starts_with("chaos:") => return,
            // One of those that are not listed is counted with them.
            None if key.starts_with("child:") && self.situation.children_omitted > 0 => return,
            None => {
                let trouble = self.push(Trouble::Key(seen), since);
                by_key.insert(key.to_owned(), trouble);
                trouble
            }
        };
        let worse = self.seen[trouble].map_or(true, |before| {
            self.gravity_shown(before) < self.gravity_shown(seen)
        });
        if worse {
            self.seen[trouble] = Some(seen);
        }
    }

    fn onset_of(&self, subject: &Subject) -> SystemTime {
        let failed = self.history.failures(subject).map(|failed| failed.first.at);
        let stuck = match subject.state {
            "stuck" | "leaked" => self.history.stuck(&subject.id).map(|entry| entry.at),
            _ => None,
        };
        let since = match (subject.state, subject.stalled) {
            // Since when it is unhealthy only readiness knows.
            ("ready", stalled) => stalled.unwrap_or(self.situation.now),
            (_, Some(stalled)) => stalled.min(subject.since),
            (_, None) => subject.since,
        };
        [failed, stuck]
            .into_iter()
            .flatten()
            .fold(since, SystemTime::min)
    }

    // ----- how much it hurts -------------------------------------------------------------------

    pub(super) fn gravity_shown(&self, seen: Seen) -> Gravity {
        let readiness = &self.situation.readiness;
        let degraded = match seen {
            Seen::Missing(_) => false,
            Seen::Cause(cause) => readiness.causes[cause].status == "degraded",
        };
        if degraded || readiness.ready {
            Gravity::Warning
        } else {
            Gravity::Critical
        }
    }

    /// How much a trouble hurts by itself.
    pub(super) fn gravity(&self, trouble: usize) -> Gravity {
        let shown = self.seen[trouble].map(|seen| self.gravity_shown(seen));
        let own = match self.troubles[trouble] {
            Trouble::Child(place) => {
                let child = &self.situation.children[place];
                match child.state {
                    "starting" if self.is_late(child) => Gravity::Warning,
                    "waiting" | "starting" | "stopping" | "stopped" if child.stalled.is_none() => {
                        Gravity::Notice
                    }
                    _ => Gravity::Warning,
                }
            }
            Trouble::Draining => Gravity::Critical,
            Trouble::Fault(_) | Trouble::Rejected => Gravity::Warning,
            Trouble::Reader(place) => self.situation.readers[place].gravity(),
            Trouble::Pending | Trouble::Key(_) => Gravity::Notice,
        };
        shown.map_or(own, |shown| shown.max(own))
    }

    /// More than half of its time to start is gone.
    fn is_late(&self, child: &Subject) -> bool {
        let lasts = past(self.situation.now, child.since);
        child.start_timeout.is_some_and(|limit| lasts > limit / 2)
    }

    // ----- what explains it --------------------------------------------------------------------

    fn index_groups(&mut self) {
        let mut culprits = Vec::new();
        for place in 0..self.situation.children.len() {
            if self.of_child[place].is_none() {
                continue;
            }
            let subject = &self.situation.children[place];
            if let Some(group) = &subject.group {
                self.members.entry(group).or_default().push(place);
                if subject.failure().is_some() {
                    let first = *self.failing.entry(group).or_insert(place);
                    if self.began(place) < self.began(first) {
                        self.failing.insert(group, place);
                    }
                }
            }
            if subject.kind == Kind::Group {
                if let Some(culprit) = self.culprit_of(place) {
                    culprits.push((place, culprit));
                }
            }
        }
        self.culprit.extend(culprits);
    }

    /// The member that spent the budget of a group, as its cause or the record names it.
    fn culprit_of(&self, group: usize) -> Option<usize> {
        let subject = &self.situation.children[group];
        let named = |text: &str| -> Option<usize> {
            let (_, rest) = text.split_once("restart budget spent by ")?;
            let (id, _) = rest.split_once(": ")?;
            id.strip_prefix(&*subject.id)?.strip_prefix('/')?;
            let place = self.place(id)?;
            self.of_child[place].map(|_| place)
        };
        if subject.state == "stopping" {
            let escalation = self.history.escalation(subject)?;
            return named(&escalation.text);
        }
        named(&subject.failure()?)
    }

    /// Onset by child; those that are well have none.
    fn began(&self, place: usize) -> Option<SystemTime> {
        self.of_child[place].map(|trouble| self.onset[trouble])
    }

    /// One walk over `after`, each node once.
    fn index_upstream(&mut self) {
        let children = &self.situation.children;
        let mut found: Vec<Option<usize>> = vec![None; children.len()];
        let mut entered = vec![false; children.len()];
        for start in 0..children.len() {
            let mut path: Vec<(usize, Vec<usize>)> = Vec::new();
            if !std::mem::replace(&mut entered[start], true) {
                path.push((start, self.dependencies(start)));
            }
            while let Some((place, todo)) = path.last_mut() {
                let place = *place;
                let Some(next) = todo.pop() else {
                    path.pop();
                    if let Some((above, _)) = path.last() {
                        let through = self.upstream_through(place, found[place]);
                        found[*above] = self.earlier(found[*above], through);
                    }
                    continue;
                };
                if std::mem::replace(&mut entered[next], true) {
                    let through = self.upstream_through(next, found[next]);
                    found[place] = self.earlier(found[place], through);
                } else {
                    path.push((next, self.dependencies(next)));
                }
            }
        }
        self.upstream = found;
    }

    /// What whoever starts after `place` may blame: itself if unwell, else what it may blame.
    fn upstream_through(&self, place: usize, found: Option<usize>) -> Option<usize> {
        match self.of_child[place] {
            Some(_) => Some(place),
            None => found,
        }
    }

    fn earlier(&self, one: Option<usize>, other: Option<usize>) -> Option<usize> {
        match (one, other) {
            (Some(a), Some(b)) if (self.began(b), b) < (self.began(a), a) => Some(b),
            (None, other) => other,
            (one, _) => one,
        }
    }

    /// What a child or a group around it starts after, listed ones only.
    fn dependencies(&self, place: usize) -> Vec<usize> {
        let subject = &self.situation.children[place];
        let groups = self.groups_around(subject);
        let named = groups
            .filter_map(|group| self.place(group))
            .chain([place])
            .flat_map(|node| &self.situation.children[node].after);
        let mut found: Vec<usize> = named.filter_map(|id| self.place(id)).collect();
        found.retain(|dependency| *dependency != place);
        found
    }

    /// The groups around a child, innermost first.
    fn groups_around(&self, subject: &'a Subject) -> impl Iterator<Item = &'a str> + '_ {
        let mut at = subject.group.as_deref();
        std::iter::from_fn(move || {
            let group = at?;
            let listed = self
                .place(group)
                .map(|place| &self.situation.children[place]);
            at = listed.and_then(|listed| listed.group.as_deref());
            Some(group)
        })
        .take(DEPTH_MAX)
    }

    fn explained_by(&self, trouble: usize) -> Option<(usize, Link)> {
        match self.troubles[trouble] {
            Trouble::Child(place) => {
                let (by, link) = self.child_explained_by(place, trouble)?;
                (by != trouble).then_some((by, link))
            }
            Trouble::Reader(place) if self.situation.readers[place].lost_lately > 0 => {
                self.service_fault("bus_lag", self.onset[trouble])
            }
            Trouble::Rejected => self.service_fault("config", self.onset[trouble]),
            Trouble::Key(seen) => {
                let child = self.key(seen).starts_with("child:");
                self.draining.filter(|_| child).map(|by| (by, Link::Drain))
            }
            _ => None,
        }
    }

    pub(super) fn key(&self, seen: Seen) -> &'a str {
        let readiness = &self.situation.readiness;
        match seen {
            Seen::Cause(place) => &readiness.causes[place].key,
            Seen::Missing(place) => &readiness.missing[place],
        }
    }

    fn fault(&self, fault: usize) -> Option<(usize, Link)> {
        let is = |trouble: &Trouble| *trouble == Trouble::Fault(fault);
        let trouble = self.troubles.iter().position(is)?;
        Some((trouble, Link::Fault))
    }

    /// A fault in force that is none of a child's and came first.
    fn service_fault(&self, name: &str, onset: SystemTime) -> Option<(usize, Link)> {
        let before = |fault: &Injected| fault.fault == name && past(fault.since, onset) <= SLACK;
        self.fault(self.situation.faults.iter().position(before)?)
    }

    fn child_explained_by(&self, place: usize, trouble: usize) -> Option<(usize, Link)> {
        let subject = &self.situation.children[place];
        let onset = self.onset[trouble];
        let fault = self
            .fault_on
            .get(&*subject.id)
            .filter(|fault| past(self.situation.faults[**fault].since, onset) <= SLACK);
        if subject.is_own_trouble() {
            return fault.and_then(|fault| self.fault(*fault));
        }
        if let Some(draining) = self.draining {
            if !matches!(subject.state, "ready" | "quarantined" | "backoff") {
                return Some((draining, Link::Drain));
            }
        }
        if self.stopped_by_operator(subject) {
            return None;
        }
        let waits = self.waits(place, subject);
        if let Some(fault) = fault {
            // What it failed of before it had to wait is the fault's.
            let older = waits.map_or(true, |(by, _)| {
                subject.failure().is_some() && past(self.onset[by], onset) > SLACK
            });
            if older {
                return self.fault(*fault);
            }
        }
        waits
            .or_else(|| self.by_member(place, subject))
            .or_else(|| self.by_group(place, subject))
            .or_else(|| self.by_dependency(place, subject, onset))
            .or_else(|| self.by_stall(subject, onset))
    }

    pub(super) fn stopped_by_operator(&self, subject: &Subject) -> bool {
        match subject.state {
            "stopped" if subject.cause.as_deref() == Some(BY_OPERATOR) => true,
            "stopped" | "stopping" => self.history.command(subject).is_some(),
            _ => false,
        }
    }

    /// The group that holds the member whose failure brought it down.
    pub(super) fn held_as_culprit(&self, place: usize) -> Option<usize> {
        let subject = &self.situation.children[place];
        let group = self.place(subject.waits_for.as_deref()?)?;
        (subject.state == "waiting" && self.culprit.get(&group) == Some(&place)).then_some(group)
    }

    fn waits(&self, place: usize, subject: &Subject) -> Option<(usize, Link)> {
        let by = self.place(subject.waits_for.as_deref()?)?;
        // Who brought its group down is not explained by being held in it.
        if subject.state != "waiting" || self.held_as_culprit(place).is_some() {
            return None;
        }
        let on = &self.situation.children[by];
        let inside = subject.id.strip_prefix(&*on.id);
        let held = on.kind == Kind::Group && inside.is_some_and(|rest| rest.starts_with('/'));
        let link = if held { Link::Held } else { Link::Waits };
        self.of_child[by].map(|by| (by, link))
    }

    /// A group is not well because a member is not.
    fn by_member(&self, place: usize, subject: &Subject) -> Option<(usize, Link)> {
        if subject.kind != Kind::Group {
            return None;
        }
        if let Some(culprit) = self.culprit.get(&place) {
            return self.of_child[*culprit].map(|by| (by, Link::Spent));
        }
        let members = self.members.get(&*subject.id)?;
        let blamed = members.iter().filter_map(|member| {
            let child = &self.situation.children[*member];
            let own = child.failure().is_some()
                || child.is_own_trouble()
                || self.stopped_by_operator(child);
            let satisfied = child.state == "ready"
                || (child.optional
                    && matches!(child.state, "quarantined" | "stopped" | "leaked" | "stuck"));
            let back = child.waits_for.as_ref() == Some(&subject.id);
            let counts = match subject.state {
                "starting" => !satisfied && !back,
                "stopping" => own,
                _ => false,
            };
            counts.then_some((!own, self.began(*member), *member))
        });
        let (.., member) = blamed.min()?;
        self.of_child[member].map(|by| (by, Link::Member))
    }

    /// A member stopped, or starts again, because its group or another member of it was brought down.
    fn by_group(&self, place: usize, subject: &'a Subject) -> Option<(usize, Link)> {
        if subject.failure().is_some() {
            return None;
        }
        let passive = matches!(subject.state, "stopping" | "starting" | "stopped");
        for group in self.groups_around(subject).filter(|_| passive) {
            let down = self.place(group).filter(|group| {
                let state = self.situation.children[*group].state;
                matches!(state, "stopping" | "stopped")
            });
            if let Some(by) = down.and_then(|group| self.of_child[group]) {
                if subject.state != "starting" {
                    return Some((by, Link::With));
                }
            }
            let Some(failed) = self.failing.get(group).filter(|failed| **failed != place) else {
                continue;
            };
            let (Some(by), Some(began)) = (self.of_child[*failed], self.began(*failed)) else {
                continue;
            };
            let later = past(began, subject.since) <= SLACK;
            let joint = match subject.state {
                "stopping" => later,
                // A slow start is the failed one's fault only if it was stopped for it.
                "starting" => {
                    let stopped = self.history.stopped(&subject.id);
                    later && stopped.is_some_and(|at| past(began, at) <= SLACK)
                }
                _ => false,
            };
            if joint {
                return Some((by, Link::Joint));
            }
        }
        None
    }

    /// It starts after something whose trouble began earlier.
    fn by_dependency(
        &self,
        place: usize,
        subject: &Subject,
        onset: SystemTime,
    ) -> Option<(usize, Link)> {
        let active = subject.failure().is_some()
            || subject.unhealthy.is_some()
            || matches!(subject.state, "starting" | "waiting");
        let by = self.of_child[self.upstream[place]?]?;
        (active && past(self.onset[by], onset) <= SLACK).then_some((by, Link::After))
    }

    /// It was too slow while another held a worker: that alone is reason enough.
    fn by_stall(&self, subject: &Subject, onset: SystemTime) -> Option<(usize, Link)> {
        let by = self.stall?;
        let began = self.child(by)?.stalled?;
        let slow = matches!(subject.last_exit, Some(Exit::TimedOut(_)));
        (slow && subject.failure().is_some() && began <= onset).then_some((by, Link::Stall))
    }

    // ----- the forest --------------------------------------------------------------------------

    /// A circle has no root; the one that looks most like one becomes it.
    fn cut_circles(&mut self) {
        const NEW: usize = usize::MAX;
        let mut walk = vec![NEW; self.troubles.len()];
        for start in 0..self.troubles.len() {
            let mut at = start;
            while walk[at] == NEW {
                walk[at] = start;
                match self.parent[at] {
                    Some((by, _)) => at = by,
                    None => break,
                }
            }
            if walk[at] != start || self.parent[at].is_none() {
                continue;
            }
            let mut circle = vec![at];
            let mut next = at;
            while let Some((by, _)) = self.parent[next].filter(|(by, _)| *by != at) {
                circle.push(by);
                next = by;
            }
            let passive = |trouble: &usize| {
                let child = self.child(*trouble);
                child.is_some_and(|child| child.failure().is_none() && !child.is_own_trouble())
            };
            let root = circle
                .into_iter()
                .min_by_key(|trouble| (passive(trouble), self.onset[*trouble], *trouble));
            if let Some(root) = root {
                self.parent[root] = None;
            }
        }
    }

    fn find_roots(&mut self) {
        const NEW: usize = usize::MAX;
        let count = self.troubles.len();
        self.root = vec![NEW; count];
        self.depth = vec![0; count];
        for start in 0..count {
            let mut path = Vec::new();
            let mut at = start;
            while self.root[at] == NEW {
                match self.parent[at] {
                    Some((by, _)) => {
                        path.push(at);
                        at = by;
                    }
                    None => self.root[at] = at,
                }
            }
            for below in path.into_iter().rev() {
                self.root[below] = self.root[at];
                self.depth[below] = self.depth[at] + 1;
                at = below;
            }
        }
    }
}

impl Subject {
    pub(super) fn is_unwell(&self) -> bool {
        match self.state {
            "ready" => self.stalled.is_some() || self.unhealthy.is_some(),
            "done" => false,
            _ => true,
        }
    }

    /// A trouble that nobody else made, faults apart.
    fn is_own_trouble(&self) -> bool {
        matches!(self.state, "stuck" | "leaked") || self.stalled.is_some()
    }
}
