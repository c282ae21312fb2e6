//! What is wrong with a service, root causes first.
//!
//! [`diagnose`] is a pure function over a [`Situation`]: the unwell part of the tree, readiness, the accounts of
//! the bus, configuration, injected faults, and the record of what changed.

mod blame;
mod history;
#[cfg(test)]
mod tests;
mod words;

use super::record::{Entry, EntryKind};
use crate::snapshot::Reason;
use crate::supervisor::{Exit, Kind};
use blame::Blame;
use history::History;
use serde::ser::{Serialize, SerializeMap, Serializer};
use std::borrow::Cow;
use std::cmp::Reverse;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// What is wrong with a service.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Diagnosis {
    /// The whole in one line.
    pub verdict: String,
    /// What was found, root causes first; what a root cause explains is listed there and not again.
    pub findings: Vec<Finding>,
    /// Findings beyond those shown.
    pub omitted: usize,
}

/// One root cause with what it explains.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// How much it hurts.
    pub gravity: Gravity,
    /// What it is about: `child:ID`, `config`, `bus:TOPIC/READER`, `health:KEY`, `kernel`, `chaos:FAULT/CHILD`.
    pub subject: String,
    /// The headline.
    pub what: String,
    /// Since when.
    pub since: SystemTime,
    /// From what is seen to what caused it.
    pub because: Vec<Reason>,
    /// Subjects that are unwell because of it.
    pub affects: Vec<String>,
    /// What the supervisor will do.
    pub next: String,
    /// When.
    pub retry_at: Option<SystemTime>,
    /// Commands that help.
    pub advice: Vec<String>,
}

/// How much a [`Finding`] hurts. Complete: as health conditions are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gravity {
    /// Worth knowing.
    Notice,
    /// The service is degraded, or will be.
    Warning,
    /// The service is not ready.
    Critical,
}

impl Gravity {
    /// The word for it in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Gravity::Notice => "notice",
            Gravity::Warning => "warning",
            Gravity::Critical => "critical",
        }
    }
}

/// All that a diagnosis is made from.
#[derive(Clone, Debug)]
pub(crate) struct Situation {
    pub(crate) now: SystemTime,
    pub(crate) service: String,
    /// When the kernel started.
    pub(crate) started: SystemTime,
    /// Who asked for the shutdown, once it has begun.
    pub(crate) draining: Option<String>,
    pub(crate) readiness: Readiness,
    /// Nodes that are not well, and those they wait for or belong to, in the order of the tree.
    pub(crate) children: Vec<Subject>,
    /// Unwell nodes beyond those listed.
    pub(crate) children_omitted: usize,
    /// Readers that have lost events or are far behind.
    pub(crate) readers: Vec<Reading>,
    pub(crate) faults: Vec<Injected>,
    /// The last reload was rejected: when and why.
    pub(crate) rejected: Option<(SystemTime, String)>,
    /// Keys whose new value needs a restart of the process.
    pub(crate) pending_keys: Vec<String>,
    /// Oldest first.
    pub(crate) record: Vec<Entry>,
}

#[derive(Clone, Debug)]
pub(crate) struct Readiness {
    /// `not_ready`, `ready`, `degraded` or `draining`.
    pub(crate) state: String,
    pub(crate) ready: bool,
    pub(crate) degraded: bool,
    pub(crate) since: SystemTime,
    /// Keys that have never been satisfied, as `child:db` or `kernel`.
    pub(crate) missing: Vec<String>,
    pub(crate) causes: Vec<Cause>,
}

#[derive(Clone, Debug)]
pub(crate) struct Cause {
    /// `child:ID` for children, else a key of the kernel's (`bus_lag`, `config_reload`, `chaos:..`) or of the host.
    pub(crate) key: String,
    /// `degraded`, `not_ready` or `fail_secure`.
    pub(crate) status: &'static str,
    pub(crate) reason: String,
    pub(crate) since: SystemTime,
}

/// One node of the tree as diagnosis sees it.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) id: Arc<str>,
    pub(crate) kind: Kind,
    /// As in [`TreeNode`](crate::TreeNode).
    pub(crate) state: &'static str,
    pub(crate) generation: u64,
    pub(crate) since: SystemTime,
    pub(crate) restarts: u64,
    pub(crate) restarts_in_window: u32,
    /// Restarts allowed in how long; `None` where the budget is the group's.
    pub(crate) budget: Option<(u32, Duration)>,
    pub(crate) retry_at: Option<SystemTime>,
    pub(crate) attempts_left: Option<u32>,
    /// Must call `ready()` within this long of its start.
    pub(crate) start_timeout: Option<Duration>,
    pub(crate) stop_timeout: Duration,
    pub(crate) optional: bool,
    pub(crate) group: Option<Arc<str>>,
    /// What it starts after.
    pub(crate) after: Vec<Arc<str>>,
    /// The unmet dependency, or the group that holds it.
    pub(crate) waits_for: Option<Arc<str>>,
    /// Since when its poll has held the worker.
    pub(crate) stalled: Option<SystemTime>,
    /// What it said of itself by `health(false, ..)`.
    pub(crate) unhealthy: Option<Arc<str>>,
    pub(crate) status: Option<Arc<str>>,
    /// Why it is not ready, in the supervisor's words.
    pub(crate) cause: Option<Arc<str>>,
    pub(crate) last_exit: Option<Exit>,
    /// What the supervisor will do, in its words.
    pub(crate) next: String,
}

/// A reader of the bus.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    pub(crate) topic: Arc<str>,
    pub(crate) name: Arc<str>,
    /// As in [`Policy`](ron_bus::Policy), in snake case; `None` for the sum of readers that have left.
    pub(crate) policy: Option<&'static str>,
    pub(crate) capacity: usize,
    pub(crate) pending: u64,
    /// Lost because it was too slow, ever.
    pub(crate) lost: u64,
    /// The same within the last second or so.
    pub(crate) lost_lately: u64,
}

/// A fault that was injected and is still in force.
#[derive(Clone, Debug)]
pub(crate) struct Injected {
    pub(crate) id: u64,
    pub(crate) fault: &'static str,
    pub(crate) child: Option<Arc<str>>,
    pub(crate) since: SystemTime,
    pub(crate) until: SystemTime,
    pub(crate) by: Arc<str>,
}

/// Findings shown: what fits on a screen; the rest is counted.
const FINDINGS_MAX: usize = 20;

/// A root cause before it is put into words.
struct Root {
    trouble: usize,
    gravity: Gravity,
    /// In the order of the tree.
    affected: Vec<usize>,
}

/// What is wrong, root causes first; the same for the same situation. A thousand children and a full record take a
/// millisecond.
pub(crate) fn diagnose(situation: &Situation) -> Diagnosis {
    let history = History::new(&situation.record);
    let blame = Blame::new(situation, &history);
    let roots = rank(&blame);
    let findings: Vec<Finding> = roots
        .iter()
        .take(FINDINGS_MAX)
        .map(|root| blame.finding(root))
        .collect();
    Diagnosis {
        verdict: words::verdict(situation, &findings, roots.len()),
        omitted: roots.len() - findings.len(),
        findings,
    }
}

/// The roots with all they explain: worst first, then by how many they affect, by age, by place in the tree.
fn rank(blame: &Blame<'_>) -> Vec<Root> {
    let mut place = vec![0; blame.troubles.len()];
    let mut roots: Vec<Root> = Vec::new();
    for (trouble, root) in blame.root.iter().enumerate() {
        if *root == trouble {
            place[trouble] = roots.len();
            roots.push(Root {
                trouble,
                gravity: blame.gravity(trouble),
                affected: Vec::new(),
            });
        }
    }
    for (trouble, root) in blame.root.iter().enumerate() {
        if *root != trouble {
            let root = &mut roots[place[*root]];
            root.gravity = root.gravity.max(blame.gravity(trouble));
            root.affected.push(trouble);
        }
    }
    roots.sort_by_key(|root| {
        (
            Reverse(root.gravity),
            Reverse(root.affected.len()),
            blame.onset[root.trouble],
            root.trouble,
        )
    });
    roots
}

impl Subject {
    /// Why it failed, while that is what is wrong with it.
    fn failure(&self) -> Option<Cow<'_, str>> {
        const NO_FAILURES: [&str; 3] = [
            history::BY_OPERATOR,
            "its runtime shut down",
            "did not end after it was aborted; its thread or poll is still running",
        ];
        let cause = self.cause.as_deref();
        match self.state {
            "backoff" | "quarantined" => Some(match (cause, &self.last_exit) {
                (Some(cause), _) => Cow::Borrowed(cause),
                (None, Some(exit)) => Cow::Owned(exit.to_string()),
                (None, None) => Cow::Borrowed("no reason is known"),
            }),
            "waiting" | "starting" | "stopping" | "stopped" => cause
                .filter(|cause| !NO_FAILURES.contains(cause))
                .map(Cow::Borrowed),
            _ => None,
        }
    }
}

impl Injected {
    /// Its key in readiness, and its subject here.
    fn key(&self) -> String {
        match &self.child {
            Some(child) => format!("chaos:{}/{child}", self.fault),
            None => format!("chaos:{}", self.fault),
        }
    }
}

impl Reading {
    /// More than four fifths of what it may have pending.
    fn is_behind(&self) -> bool {
        let capacity = u64::try_from(self.capacity).unwrap_or(u64::MAX);
        capacity > 0 && self.policy.is_some() && self.pending > capacity - capacity / 5
    }

    fn is_worth_a_word(&self) -> bool {
        self.lost > 0 || self.lost_lately > 0 || self.is_behind()
    }

    fn gravity(&self) -> Gravity {
        // These two hurt others, or for good, as soon as they are full.
        let hurts = matches!(self.policy, Some("block" | "disconnect"));
        if self.lost_lately > 0 || (hurts && self.is_behind()) {
            Gravity::Warning
        } else {
            Gravity::Notice
        }
    }
}

impl Serialize for Finding {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("severity", self.gravity.name())?;
        map.serialize_entry("subject", &self.subject)?;
        map.serialize_entry("what", &self.what)?;
        map.serialize_entry("since", &ron_bus::rfc3339(self.since))?;
        map.serialize_entry("because", &self.because)?;
        map.serialize_entry("affects", &self.affects)?;
        map.serialize_entry("next", &self.next)?;
        map.serialize_entry("retry_at", &self.retry_at.map(ron_bus::rfc3339))?;
        map.serialize_entry("try", &self.advice)?;
        map.end()
    }
}
