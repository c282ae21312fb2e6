//! What goes into the transition function and what comes out of it.

use super::node::Severity;
use super::{Defaults, Key, Time};
use crate::supervisor::exit::Exit;
use std::sync::Arc;
use std::time::Duration;

/// What the engine must do, in order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Effect {
    Spawn {
        key: Key,
        run: u64,
        generation: u64,
    },
    /// Set the stop token; the child is aborted at `abort_at`.
    Stop {
        key: Key,
        run: u64,
        abort_at: Time,
    },
    Abort {
        key: Key,
        run: u64,
    },
    /// Report the time of the last heartbeat as [`Input::Beat`].
    AskBeat {
        key: Key,
        run: u64,
    },
    Note {
        key: Key,
        id: Arc<str>,
        generation: u64,
        what: Note,
    },
    Condition {
        id: Arc<str>,
        condition: Option<(Severity, Arc<str>)>,
    },
    Removed {
        key: Key,
        id: Arc<str>,
    },
    /// A node of the initial tree holds nobody back any more.
    Satisfied {
        id: Arc<str>,
    },
    /// A child's policy ends the kernel: begin the orderly shutdown.
    WantsShutdown,
    /// The drain is over; nothing runs but what leaked.
    Ended,
}

/// What the world should hear about.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Note {
    Started {
        restart: bool,
    },
    Ready,
    Health {
        ok: bool,
    },
    Crashed {
        exit: Exit,
    },
    Backoff {
        attempt: u32,
        delay: Duration,
    },
    Quarantined {
        delay: Option<Duration>,
        reason: Arc<str>,
    },
    Released {
        trial: bool,
    },
    Stopping,
    Aborted,
    Stuck,
    Leaked,
    /// A leaked or stuck incarnation ended after all.
    Recovered,
    Stopped {
        exit: Exit,
    },
    Done,
    Stalled {
        held: Duration,
    },
    Unstalled {
        held: Duration,
    },
    Escalated {
        reason: Arc<str>,
    },
    /// A standing fault applies to the incarnation that just started.
    Fault {
        name: &'static str,
    },
}

/// What happened.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    /// Time passed.
    Tick,
    Ready {
        key: Key,
        run: u64,
    },
    Exited {
        key: Key,
        run: u64,
        exit: Exit,
    },
    /// The body returned or a task it owns failed; the exit follows when all it owns has ended.
    Ending {
        key: Key,
        run: u64,
    },
    Stalled {
        key: Key,
        run: u64,
        held: Duration,
    },
    Unstalled {
        key: Key,
        run: u64,
        held: Duration,
    },
    Health {
        key: Key,
        run: u64,
        unhealthy: Option<Arc<str>>,
    },
    Status {
        key: Key,
        run: u64,
        text: Arc<str>,
    },
    /// The process of an incarnation; none any more.
    #[cfg(feature = "process")]
    Pid {
        key: Key,
        run: u64,
        pid: Option<u32>,
    },
    /// The last heartbeat of an incarnation, answering [`Effect::AskBeat`].
    Beat {
        key: Key,
        run: u64,
        last: Time,
    },
    Defaults(Defaults),
    /// Stop everything within `within`.
    Drain {
        within: Duration,
    },
    /// Nobody will fire timers any more: end the drain now.
    Abandon,
}

/// An operator's request that the state of the child does not allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    NotQuarantined(&'static str),
    GroupDown {
        group: Arc<str>,
        state: &'static str,
    },
    HasDependants(Arc<str>),
    ShuttingDown,
    Leaked,
    Removing,
    Unknown,
}
