//! A node of the tree: where it stands and what is remembered of it.

use super::joint::{Op, Rest};
use super::{Key, Time};
use crate::supervisor::exit::{Exit, Timeout};
use crate::supervisor::intensity::Window;
use crate::supervisor::spec::{Kind, Policy};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Where a node stands. `Held` and `Waiting` are both shown as `waiting`.
///
/// ```text
/// Held -> Waiting -> Starting -> Ready -> Stopping -> Stopped
///                       |          |         |
///                       +--crash---+         +-> Stuck -> Leaked
///                       v
///                    Backoff -> Starting ... or Quarantined -> (trial) Starting
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Not to be started before its group says so.
    Held,
    /// Wants to start; something it comes after is not ready.
    Waiting,
    Starting,
    Ready,
    Backoff {
        until: Time,
    },
    Quarantined {
        until: Option<Time>,
    },
    Stopping {
        why: Why,
    },
    /// Aborted and still running.
    Stuck {
        why: Why,
    },
    /// Given up; still counted as the one incarnation until it ends.
    Leaked {
        why: Why,
    },
    Stopped,
    Done,
    /// Removed; the slot may be reused.
    Gone,
}

/// Why a running incarnation was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    Operator,
    OperatorRestart,
    Remove,
    /// With its group: joint restart, escalation, group stop or drain.
    Joint,
    Timeout(Timeout),
    /// Its body has ended or a task of its own failed; what it owns has not ended yet.
    Ending,
}

impl State {
    pub(crate) const COUNT: usize = 12;

    /// One of each, for those who count by state.
    #[cfg(feature = "control")]
    pub(crate) const ALL: [State; State::COUNT] = [
        State::Held,
        State::Waiting,
        State::Starting,
        State::Ready,
        State::Backoff { until: Time::ZERO },
        State::Quarantined { until: None },
        State::Stopping { why: Why::Joint },
        State::Stuck { why: Why::Joint },
        State::Leaked { why: Why::Joint },
        State::Stopped,
        State::Done,
        State::Gone,
    ];

    pub(crate) fn index(self) -> usize {
        match self {
            State::Held => 0,
            State::Waiting => 1,
            State::Starting => 2,
            State::Ready => 3,
            State::Backoff { .. } => 4,
            State::Quarantined { .. } => 5,
            State::Stopping { .. } => 6,
            State::Stuck { .. } => 7,
            State::Leaked { .. } => 8,
            State::Stopped => 9,
            State::Done => 10,
            State::Gone => 11,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            State::Held | State::Waiting => "waiting",
            State::Starting => "starting",
            State::Ready => "ready",
            State::Backoff { .. } => "backoff",
            State::Quarantined { .. } => "quarantined",
            State::Stopping { .. } => "stopping",
            State::Stuck { .. } => "stuck",
            State::Leaked { .. } => "leaked",
            State::Stopped => "stopped",
            State::Done => "done",
            State::Gone => "gone",
        }
    }

    /// An incarnation exists and has not been given up.
    pub(crate) fn is_live(self) -> bool {
        matches!(
            self,
            State::Starting | State::Ready | State::Stopping { .. } | State::Stuck { .. }
        )
    }

    pub(super) fn why(self) -> Option<Why> {
        match self {
            State::Stopping { why } | State::Stuck { why } | State::Leaked { why } => Some(why),
            _ => None,
        }
    }
}

pub(crate) struct Node {
    pub(crate) id: Arc<str>,
    pub(crate) kind: Kind,
    pub(crate) parent: Option<Key>,
    pub(crate) members: Vec<Key>,
    /// Children of the root: the index among its members.
    pub(super) place: usize,
    pub(crate) policy: Arc<Policy>,
    /// Present from the start, so that the first readiness of the kernel waits for it.
    pub(crate) initial: bool,
    pub(super) after: Vec<Key>,
    pub(super) dependants: BTreeSet<Key>,
    pub(super) rank: u32,

    pub(crate) state: State,
    pub(crate) since: Time,
    /// Changes with the state; timers that carry an older stamp are void.
    pub(super) stamp: u64,
    pub(crate) run: u64,
    pub(crate) generation: u64,
    pub(super) ready_at: Option<Time>,

    pub(super) attempt: u32,
    pub(super) window: Window,
    /// Groups: the restarts of members, against the budget of the group.
    pub(super) member_window: Window,
    /// A start that was decided and has not happened yet.
    pub(super) owed: Owed,
    /// Restarting without delay: not worth a word on readiness unless it goes on.
    pub(super) brief: bool,
    /// Groups: restarts of members that are decided and not started.
    pub(super) pending: u32,
    pub(super) on_trial: bool,
    pub(super) trials: u32,
    pub(super) quarantined_since: Option<Time>,
    /// The give-up timer that counts.
    pub(super) give_up: u64,
    pub(super) aborted: bool,
    /// By the drain, so that the report counts it.
    pub(super) aborted_in_drain: bool,

    /// Others may start after it: ready, done, or optional and down.
    pub(super) satisfied: bool,
    /// Groups: members that are not satisfied.
    pub(super) unsatisfied: u32,
    /// Groups: members that are done.
    pub(super) done: u32,
    /// Groups: the stop or joint restart under way.
    pub(super) op: Option<Box<Op>>,
    /// Leaves: part of such an operation, and what to be when ended.
    pub(super) doom: Option<Rest>,
    /// Leaves: the group whose operation waits for this one.
    pub(super) awaited_by: Option<Key>,

    pub(crate) restarts: u64,
    pub(crate) last_exit: Option<Exit>,
    /// Why it is not ready, in words; kept until it is.
    pub(crate) cause: Option<Arc<str>>,
    pub(crate) status: Option<Arc<str>>,
    /// Of a process child that runs.
    pub(crate) pid: Option<u32>,
    pub(crate) unhealthy: Option<Arc<str>>,
    pub(crate) stalled: bool,
    pub(super) stalled_since: Time,
    pub(super) healthy: Option<bool>,
    pub(super) condition: Option<(Severity, Arc<str>)>,
}

/// What a decided start will be booked as when it happens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Owed {
    #[default]
    Nothing,
    /// A restart inside the budgets.
    Restart,
    /// The trial after a quarantine: a restart in the accounts that no budget pays for.
    Trial,
}

/// How much a condition of a child hurts readiness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    /// Answered 200 with `degraded: true`.
    Degraded,
    /// Answered 503.
    NotReady,
}

impl Node {
    pub(super) fn new(
        id: Arc<str>,
        kind: Kind,
        parent: Option<Key>,
        policy: Arc<Policy>,
        initial: bool,
    ) -> Self {
        Node {
            id,
            kind,
            parent,
            members: Vec::new(),
            place: 0,
            policy,
            initial,
            after: Vec::new(),
            dependants: BTreeSet::new(),
            rank: 0,
            state: State::Held,
            since: Time::ZERO,
            stamp: 0,
            run: 0,
            generation: 0,
            ready_at: None,
            attempt: 0,
            window: Window::default(),
            member_window: Window::default(),
            owed: Owed::Nothing,
            brief: false,
            pending: 0,
            on_trial: false,
            trials: 0,
            quarantined_since: None,
            give_up: 0,
            aborted: false,
            aborted_in_drain: false,
            satisfied: false,
            unsatisfied: 0,
            done: 0,
            op: None,
            doom: None,
            awaited_by: None,
            restarts: 0,
            last_exit: None,
            cause: None,
            status: None,
            pid: None,
            unhealthy: None,
            stalled: false,
            stalled_since: Time::ZERO,
            healthy: None,
            condition: None,
        }
    }
}
