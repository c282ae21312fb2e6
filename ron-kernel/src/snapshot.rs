//! The tree as it stands, and why a child is in the state it is in.

use crate::supervisor::engine::Engine;
use crate::supervisor::machine::{Key, Machine, State, ROOT};
use crate::supervisor::{Exit, Kind};
use serde::ser::{Serialize, SerializeMap, Serializer};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

/// One node of the tree at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TreeNode {
    /// Id of the child: its name, behind those of the groups around it, joined by `/`.
    pub id: String,
    /// What it is.
    pub kind: Kind,
    /// `waiting`, `starting`, `ready`, `backoff`, `quarantined`, `stopping`, `stuck`, `leaked`, `stopped`
    /// or `done`.
    pub state: &'static str,
    /// The present or last incarnation, counted from 1; 0 before the first.
    pub generation: u64,
    /// When it entered this state.
    pub since: SystemTime,
    /// Restarts after failures, ever.
    pub restarts: u64,
    /// Those that count against its budget now.
    pub restarts_in_window: u32,
    /// When it will be started again, if a timer will do so.
    pub retry_at: Option<SystemTime>,
    /// The text its [`status`](crate::supervisor::ChildContext::status) set.
    pub status: Option<String>,
    /// Why it is not well.
    pub cause: Option<String>,
    /// Process id, for process children.
    pub pid: Option<u32>,
    /// Members of a group.
    pub children: Vec<TreeNode>,
}

/// Why a child is in the state it is in: nearest reason first, root cause last.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explanation {
    /// Id of the child.
    pub id: String,
    /// Its state.
    pub state: &'static str,
    /// The chain of reasons.
    pub because: Vec<Reason>,
    /// What the supervisor will do next.
    pub next: String,
    /// When.
    pub retry_at: Option<SystemTime>,
    /// Restarts left before quarantine; `None` where the budget is the group's.
    pub attempts_left: Option<u32>,
    /// How the last incarnation ended.
    pub last_exit: Option<Exit>,
}

/// One link of an [`Explanation`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reason {
    /// What is the case.
    pub what: String,
    /// Since when.
    pub since: SystemTime,
    /// Where that can be seen.
    pub evidence: String,
}

pub(crate) fn tree(engine: &Engine) -> Vec<TreeNode> {
    engine.read(|machine| {
        machine
            .node(ROOT)
            .members
            .iter()
            .map(|key| node(engine, machine, *key))
            .collect()
    })
}

pub(crate) fn explain(engine: &Engine, id: &str) -> Option<Explanation> {
    engine.read(|machine| {
        machine
            .find(id)
            .map(|key| explanation(engine, machine, key))
    })
}

fn node(engine: &Engine, machine: &Machine, key: Key) -> TreeNode {
    let node = machine.node(key);
    let text = |text: &Option<Arc<str>>| text.as_ref().map(|text| text.to_string());
    let stalled = node.stalled.then(|| "holds its worker thread".to_owned());
    TreeNode {
        id: node.id.to_string(),
        kind: node.kind,
        state: node.state.name(),
        generation: node.generation,
        since: engine.wall(node.since),
        restarts: node.restarts,
        restarts_in_window: machine.restarts_in_window(key),
        retry_at: machine.retry_at(key).map(|at| engine.wall(at)),
        status: text(&node.status),
        cause: stalled
            .or_else(|| text(&node.unhealthy))
            .or_else(|| text(&node.cause)),
        pid: node.pid,
        children: node
            .members
            .iter()
            .map(|member| self::node(engine, machine, *member))
            .collect(),
    }
}

fn explanation(engine: &Engine, machine: &Machine, key: Key) -> Explanation {
    let node = machine.node(key);
    let mut because = Vec::new();
    reasons(engine, machine, key, &mut because);
    Explanation {
        id: node.id.to_string(),
        state: node.state.name(),
        because,
        next: next(machine, key),
        retry_at: machine.retry_at(key).map(|at| engine.wall(at)),
        attempts_left: machine.attempts_left(key),
        last_exit: node.last_exit.clone(),
    }
}

/// Links shown before the chain is cut; the root cause always stands at its end.
const CHAIN_MAX: usize = 16;

/// Walks from what is seen to what caused it. A chain does not come back, because start order has no
/// cycles; a group and its members are visited once each.
fn reasons(engine: &Engine, machine: &Machine, key: Key, because: &mut Vec<Reason>) {
    let mut at = Some(key);
    let mut seen = BTreeSet::new();
    while let Some(key) = at.filter(|key| seen.insert(*key)) {
        let links = because.len();
        at = reason(engine, machine, key, because);
        // Of a long chain the beginning and the end matter.
        if at.is_some() && links > CHAIN_MAX && because.len() > links {
            because.truncate(links);
        }
    }
}

/// States why one node is not well and names the node to ask next.
fn reason(engine: &Engine, machine: &Machine, key: Key, because: &mut Vec<Reason>) -> Option<Key> {
    let node = machine.node(key);
    let id = &node.id;
    let evidence = format!("tree: {id} generation {}", node.generation);
    let mut push = |what: String| {
        because.push(Reason {
            what,
            since: engine.wall(node.since),
            evidence: evidence.clone(),
        });
    };
    match (node.state, machine.waits_for(key)) {
        (State::Waiting, Some(dependency)) => {
            let on = machine.node(dependency);
            push(format!(
                "{id} waits for {}, which is {}",
                on.id,
                on.state.name()
            ));
            return Some(dependency);
        }
        (State::Held, Some(group)) if group != ROOT => {
            let held_by = machine.node(group);
            push(format!(
                "{id} is held by its group {}, which is {}",
                held_by.id,
                held_by.state.name()
            ));
            return Some(group);
        }
        _ => {}
    }
    if node.stalled {
        push(format!(
            "{id} holds its worker thread: its poll does not return"
        ));
    }
    if let Some(unhealthy) = &node.unhealthy {
        push(format!("{id} reports itself unhealthy: {unhealthy}"));
    }
    if matches!(node.state, State::Quarantined { .. }) {
        if let Some((used, intensity)) = machine.budget(key) {
            push(format!(
                "{id} failed after {used} restarts in {:?}; {} are allowed",
                intensity.window(),
                intensity.restarts()
            ));
        }
    }
    match (node.state, node.cause.as_deref()) {
        (State::Starting, None) if node.policy.start_timeout.is_some() => {
            push(match node.kind {
                Kind::Process => format!("{id} has started and is not ready yet"),
                _ => format!("{id} has started and has not called ready() yet"),
            });
        }
        (_, Some(cause)) => push(format!("{id}: {cause}")),
        _ => {}
    }
    // Of a process nobody knows more than what was last seen of it.
    if let Some(status) = node.status.as_deref() {
        let unwell = !matches!(node.state, State::Ready | State::Done | State::Stopped);
        if node.kind == Kind::Process && unwell {
            push(format!("{id}: {status}"));
        }
    }
    let unwell = |member: &&Key| {
        let state = machine.node(**member).state;
        // A held member would lead straight back here.
        !matches!(state, State::Ready | State::Done | State::Held)
    };
    if node.kind == Kind::Group && node.state != State::Ready {
        return node.members.iter().find(unwell).copied();
    }
    None
}

pub(crate) fn next(machine: &Machine, key: Key) -> String {
    let node = machine.node(key);
    match node.state {
        State::Held => "starts when its group does".to_owned(),
        State::Waiting => match machine.waits_for(key) {
            Some(dependency) => format!("starts when {} is ready", machine.node(dependency).id),
            None => "starts at once".to_owned(),
        },
        State::Starting => match node.policy.start_timeout {
            Some(limit) if node.kind == Kind::Process => {
                format!("must be ready within {limit:?} of its start")
            }
            Some(limit) => format!("must call ready() within {limit:?} of its start"),
            None => "is ready after its first poll".to_owned(),
        },
        State::Ready => "nothing".to_owned(),
        State::Backoff { .. } => "restarts after its backoff".to_owned(),
        State::Quarantined { until: Some(_) } => {
            "one trial when the quarantine ends, or at once by release".to_owned()
        }
        State::Quarantined { until: None } => "waits for a human to release it".to_owned(),
        State::Stopping { .. } => "is aborted when its stop timeout passes".to_owned(),
        State::Stuck { .. } => "is given up as leaked if it does not end".to_owned(),
        State::Leaked { .. } => {
            "stays down until its old incarnation ends; restart the process".to_owned()
        }
        State::Stopped | State::Done | State::Gone => {
            "stays down until somebody restarts it".to_owned()
        }
    }
}

impl Serialize for TreeNode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &self.id)?;
        map.serialize_entry("kind", self.kind.name())?;
        map.serialize_entry("state", self.state)?;
        map.serialize_entry("generation", &self.generation)?;
        map.serialize_entry("since", &ron_bus::rfc3339(self.since))?;
        map.serialize_entry("restarts", &self.restarts)?;
        map.serialize_entry("restarts_in_window", &self.restarts_in_window)?;
        map.serialize_entry("retry_at", &self.retry_at.map(ron_bus::rfc3339))?;
        map.serialize_entry("status", &self.status)?;
        map.serialize_entry("cause", &self.cause)?;
        map.serialize_entry("pid", &self.pid)?;
        map.serialize_entry("children", &self.children)?;
        map.end()
    }
}

impl Serialize for Explanation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &self.id)?;
        map.serialize_entry("state", self.state)?;
        map.serialize_entry("because", &self.because)?;
        map.serialize_entry("next", &self.next)?;
        map.serialize_entry("retry_at", &self.retry_at.map(ron_bus::rfc3339))?;
        map.serialize_entry("attempts_left", &self.attempts_left)?;
        map.serialize_entry("last_exit", &self.last_exit.as_ref().map(LastExit))?;
        map.end()
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("what", &self.what)?;
        map.serialize_entry("since", &ron_bus::rfc3339(self.since))?;
        map.serialize_entry("evidence", &self.evidence)?;
        map.end()
    }
}

struct LastExit<'a>(&'a Exit);

impl Serialize for LastExit<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let location = match self.0 {
            Exit::Panicked { location, .. } => location.as_deref(),
            _ => None,
        };
        let text = match self.0 {
            Exit::Panicked { text, .. } => text.clone(),
            exit => exit.to_string(),
        };
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("kind", self.0.kind())?;
        map.serialize_entry("text", &text)?;
        map.serialize_entry("location", &location)?;
        map.end()
    }
}
