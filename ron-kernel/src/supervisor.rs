//! Children and groups, their restart policies, and what a running child sees of its supervisor.
//!
//! Erlang/OTP's supervisor is the reference: restart types, strategies, intensity in a sliding window and
//! escalation have its names and meaning. What differs, and why:
//!
//! * A restart waits ([`Backoff`]); OTP restarts at once and burns through its intensity in microseconds.
//! * Children of the root have a budget each and end in [quarantine](Exhausted::HalfOpen); one crash loop
//!   does not take its siblings with it. Inside a [`Group`] the budget and its escalation are OTP's.
//! * Starting is asynchronous. A slow starter holds back only what comes [`after`](Child::after) it.
//! * Stopping goes by ranks of the start order, in parallel inside a rank; OTP stops one by one.
//! * A joint restart leaves alone what an operator stopped and what is in quarantine; OTP starts the former
//!   again and does not know the latter.
//! * A Temporary member is never started again, not even with its group as a whole.
//! * A Done member starts again in a joint restart, as in OTP.
//! * A child that does not end is never duplicated: tasks are aborted at their next await, and what runs
//!   on after that is [`Stuck`](crate::Change::Stuck), then [`Leaked`](crate::Change::Leaked).

pub(crate) mod backoff;
pub(crate) mod context;
pub(crate) mod engine;
mod exit;
pub(crate) mod faults;
mod intensity;
pub(crate) mod machine;
mod runner;
mod simulate;
mod spec;
pub(crate) mod stall;
mod stop;

pub use backoff::{Backoff, PolicyError};
pub use context::ChildContext;
pub use exit::{BoxError, Exit, Outcome, Timeout};
pub use intensity::Intensity;
pub use machine::GraphError as TreeError;
pub use simulate::{RestartPolicy, Step, Verdict};
pub use spec::{Child, Exhausted, Group, Kind, Restart, Spec, Strategy};
pub use stop::StopToken;

pub(crate) use exit::error_chain;
#[cfg(feature = "process")]
pub(crate) use exit::ProcessEnded;
pub(crate) use runner::panic_text;
