//! The shapes of the answers. Golden files in `tests/control` hold them; a change is a breaking change.

use super::diagnosis::{Diagnosis, Finding};
use super::record::Entry;
use crate::snapshot::TreeNode;
use crate::usage::Usage;
use ron_bus::{Account, Policy, TopicState, TopicStats};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::time::SystemTime;

/// RFC 3339, UTC, milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Time(pub(crate) SystemTime);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&ron_bus::rfc3339(self.0))
    }
}

/// What every answer about the service begins with.
#[derive(Debug, Serialize)]
pub(crate) struct Head {
    pub(crate) service: String,
    pub(crate) instance: String,
    pub(crate) now: Time,
}

#[derive(Debug, Serialize)]
pub(crate) struct State {
    pub(crate) state: String,
    pub(crate) ready: bool,
    pub(crate) degraded: bool,
}

#[derive(Debug, Serialize)]
pub(crate) struct About {
    #[serde(flatten)]
    pub(crate) head: Head,
    pub(crate) pid: u32,
    pub(crate) version: String,
    pub(crate) build: String,
    pub(crate) rustc: String,
    pub(crate) since: Time,
    pub(crate) uptime_ms: u64,
    #[serde(flatten)]
    pub(crate) state: State,
    pub(crate) chaos_armed: bool,
    pub(crate) amnesia: bool,
    pub(crate) config_version: Option<u64>,
    pub(crate) config_sha: Option<String>,
    /// Leaves by state.
    pub(crate) children: BTreeMap<&'static str, usize>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Tree {
    #[serde(flatten)]
    pub(crate) head: Head,
    pub(crate) state: String,
    pub(crate) ready: bool,
    pub(crate) children: Vec<TreeNode>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Diagnosed {
    #[serde(flatten)]
    pub(crate) head: Head,
    #[serde(flatten)]
    pub(crate) state: State,
    pub(crate) verdict: String,
    pub(crate) findings: Vec<Finding>,
    pub(crate) omitted: usize,
}

impl Diagnosed {
    pub(crate) fn new(head: Head, state: State, diagnosis: Diagnosis) -> Diagnosed {
        Diagnosed {
            head,
            state,
            verdict: diagnosis.verdict,
            findings: diagnosis.findings,
            omitted: diagnosis.omitted,
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct Changes {
    #[serde(flatten)]
    pub(crate) head: Head,
    pub(crate) since: Time,
    /// Whether nothing of the span was overwritten.
    pub(crate) complete: bool,
    /// The oldest entry there is.
    pub(crate) record_from: Option<Time>,
    pub(crate) dropped: u64,
    pub(crate) changes: Vec<Entry>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Topics {
    #[serde(flatten)]
    pub(crate) head: Head,
    pub(crate) topics: Vec<Topic>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Topic {
    name: String,
    state: &'static str,
    capacity: usize,
    published: u64,
    queue_depth: u64,
    subscribers: usize,
    readers: Vec<Reader>,
    /// By name, what readers that have left were offered and what became of it.
    gone: Vec<Reader>,
}

#[derive(Debug, Serialize)]
struct Reader {
    name: String,
    policy: Option<&'static str>,
    pending: u64,
    offered: u64,
    delivered: u64,
    filtered: u64,
    conflated: u64,
    lost: Lost,
}

#[derive(Debug, Serialize)]
struct Lost {
    lagged: u64,
    disconnected: u64,
    block_full: u64,
    block_deadline: u64,
    conflate_full: u64,
    panicked: u64,
    abandoned: u64,
    total: u64,
}

impl Topic {
    pub(crate) fn new(stats: &TopicStats) -> Topic {
        let mut readers: Vec<Reader> = stats
            .readers
            .iter()
            .map(|reader| {
                let policy = Some(policy_name(reader.overflow));
                Reader::new(&reader.name, policy, &reader.account)
            })
            .collect();
        readers.sort_by(|a, b| a.name.cmp(&b.name));
        // The names' sums hold the live readers too; what is beyond those is of the ones that left.
        let gone = stats.by_name.iter().filter_map(|name| {
            let mut live = Account::default();
            for reader in stats.readers.iter().filter(|one| one.name == name.name) {
                live += reader.account;
            }
            let left = difference(&name.account, &live);
            (left.offered > 0).then(|| Reader::new(&name.name, None, &left))
        });
        let mut gone: Vec<Reader> = gone.collect();
        gone.sort_by(|a, b| a.name.cmp(&b.name));
        Topic {
            name: stats.name.to_string(),
            state: match stats.state {
                TopicState::Open => "open",
                TopicState::Sealed => "sealed",
                _ => "closed",
            },
            capacity: stats.capacity,
            published: stats.published(),
            queue_depth: stats.queue_depth(),
            subscribers: stats.subscribers,
            readers,
            gone,
        }
    }
}

impl Topic {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

/// Saturating, for a name that readers share with the catch-all entry.
fn difference(sum: &Account, part: &Account) -> Account {
    let mut left = *sum;
    left.offered = sum.offered.saturating_sub(part.offered);
    left.delivered = sum.delivered.saturating_sub(part.delivered);
    left.filtered = sum.filtered.saturating_sub(part.filtered);
    left.conflated = sum.conflated.saturating_sub(part.conflated);
    left.pending = sum.pending.saturating_sub(part.pending);
    let (lost, of) = (&mut left.lost, &part.lost);
    lost.lagged = lost.lagged.saturating_sub(of.lagged);
    lost.disconnected = lost.disconnected.saturating_sub(of.disconnected);
    lost.block_full = lost.block_full.saturating_sub(of.block_full);
    lost.block_deadline = lost.block_deadline.saturating_sub(of.block_deadline);
    lost.conflate_full = lost.conflate_full.saturating_sub(of.conflate_full);
    lost.panicked = lost.panicked.saturating_sub(of.panicked);
    lost.abandoned = lost.abandoned.saturating_sub(of.abandoned);
    left
}

impl Reader {
    fn new(name: &str, policy: Option<&'static str>, account: &Account) -> Reader {
        let lost = &account.lost;
        Reader {
            name: name.to_owned(),
            policy,
            pending: account.pending,
            offered: account.offered,
            delivered: account.delivered,
            filtered: account.filtered,
            conflated: account.conflated,
            lost: Lost {
                lagged: lost.lagged,
                disconnected: lost.disconnected,
                block_full: lost.block_full,
                block_deadline: lost.block_deadline,
                conflate_full: lost.conflate_full,
                panicked: lost.panicked,
                abandoned: lost.abandoned,
                total: lost.total(),
            },
        }
    }
}

pub(crate) fn policy_name(policy: Policy) -> &'static str {
    match policy {
        Policy::Disconnect => "disconnect",
        Policy::Block => "block",
        Policy::Conflate => "conflate",
        _ => "drop_oldest",
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct Top {
    #[serde(flatten)]
    pub(crate) head: Head,
    pub(crate) pid: u32,
    pub(crate) version: String,
    pub(crate) uptime_ms: u64,
    #[serde(flatten)]
    pub(crate) state: State,
    pub(crate) missing: Vec<String>,
    pub(crate) causes: Vec<Cause>,
    pub(crate) children: Vec<TreeNode>,
    pub(crate) topics: Vec<Topic>,
    pub(crate) process: Usage,
}

/// As in `/readyz`.
#[derive(Debug, Serialize)]
pub(crate) struct Cause {
    pub(crate) key: String,
    pub(crate) status: &'static str,
    pub(crate) reason: String,
    pub(crate) since: Time,
}

#[derive(Debug, Serialize)]
pub(crate) struct Plan {
    pub(crate) linger_ms: u64,
    pub(crate) deadline_ms: u64,
    /// In stopping order; the children of a stage stop side by side.
    pub(crate) stages: Vec<Stage>,
    pub(crate) at_stake: Vec<Stake>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Stage {
    pub(crate) children: Vec<Staged>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Staged {
    pub(crate) id: String,
    pub(crate) kind: &'static str,
    pub(crate) state: &'static str,
    pub(crate) stop_timeout_ms: u64,
}

/// Something a drain would lose or cut short.
#[derive(Debug, Serialize)]
pub(crate) struct Stake {
    pub(crate) what: String,
    pub(crate) count: u64,
    pub(crate) r#where: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct Draining {
    pub(crate) draining: bool,
    pub(crate) reason: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct Accepted {
    pub(crate) id: String,
    pub(crate) accepted: &'static str,
    pub(crate) state: &'static str,
    pub(crate) generation: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Chaos {
    pub(crate) armed: bool,
    pub(crate) default_child: Option<String>,
    pub(crate) faults: Vec<Fault>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Fault {
    pub(crate) id: u64,
    pub(crate) fault: &'static str,
    pub(crate) child: Option<String>,
    pub(crate) since: Time,
    /// `None` for the configuration's.
    pub(crate) until: Option<Time>,
    pub(crate) count: Option<u32>,
    pub(crate) left: Option<u32>,
    pub(crate) injected: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Cleared {
    pub(crate) cleared: usize,
}

#[derive(Debug, Serialize)]
pub(crate) struct Failure<'a> {
    pub(crate) error: Problem<'a>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Problem<'a> {
    pub(crate) code: &'a str,
    pub(crate) message: &'a str,
    pub(crate) retryable: bool,
    pub(crate) details: BTreeMap<&'a str, Option<&'a str>>,
}

/// Text that is JSON already.
pub(crate) fn raw(json: String) -> Option<Box<RawValue>> {
    RawValue::from_string(json).ok()
}
