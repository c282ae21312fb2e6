//! Hooks for what a host wants to hear of at once.

use std::fmt::Debug;
use std::time::Duration;

use crate::actor::ActorExit;

/// Is told what happens to one mailbox or actor.
///
/// Every method has an empty body to begin with. They are called on the thread on which it happens, outside all locks;
/// a slow one slows that thread. A panic of theirs is contained and changes nothing else.
///
/// The counts behind [`Accounts`](crate::Accounts) and behind the metrics do not need an observer.
// The names document the arguments.
#[allow(unused_variables)]
pub trait Observer: Debug + Send + Sync + 'static {
    /// A message was refused and handed back.
    fn on_refused(&self, actor: &str, reason: DropReason) {}

    /// `count` accepted messages were dropped unhandled.
    fn on_dropped(&self, actor: &str, reason: DropReason, count: u64) {}

    /// A message was handled: how long it had waited in the queue, and how long the handler took, both in coarse
    /// milliseconds.
    fn on_handled(&self, actor: &str, outcome: Outcome, waited: Duration, took: Duration) {}

    /// An incarnation failed; `delay` is how long until the next one starts. `failures` counts those inside the
    /// rapid-fail window, this one included. Not told of a [`Runner`](crate::Runner)'s, whose supervisor decides.
    fn on_restart(&self, actor: &str, cause: &ActorExit, failures: u32, delay: Duration) {}

    /// The actor has ended for good, and what was left in its mailbox has been dropped.
    fn on_exit(&self, actor: &str, exit: &ActorExit) {}
}

/// Why a message was refused or dropped: the values of label `reason` of `ryker_mailbox_dropped_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DropReason {
    /// Refused: the mailbox was full.
    Capacity,
    /// Refused: larger than a message may be.
    TooLarge,
    /// Refused as the mailbox was closed or draining, or dropped as it ended.
    Closed,
    /// Refused or dropped: the deadline had passed. Asks that nobody waits for any more count here.
    Deadline,
    /// Accepted, and dropped or aborted by a drain: what more time might have saved.
    Shutdown,
}

impl DropReason {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Capacity => "capacity",
            Self::TooLarge => "too_large",
            Self::Closed => "closed",
            Self::Deadline => "deadline",
            Self::Shutdown => "shutdown",
        }
    }
}

/// How a handler ended: the values of label `outcome` of `ryker_handler_latency_seconds`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// In time and without an error.
    Ok,
    /// Cancelled at its deadline, or done after it.
    Timeout,
    /// Returned an error, or panicked.
    Error,
}

impl Outcome {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Timeout => "timeout",
            Self::Error => "error",
        }
    }
}
