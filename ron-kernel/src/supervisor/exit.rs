//! How an incarnation of a child ended.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// Why one incarnation of a child is no longer running.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exit {
    /// Returned `()` or `Ok(())`.
    Done,
    /// Returned an error; the text is the error and its sources, joined by `: `.
    Failed(String),
    /// Panicked.
    Panicked {
        /// The panic message.
        text: String,
        /// `file:line:column`; known when [`run`](crate::KernelBuilder::run) installed its panic hook.
        location: Option<String>,
    },
    /// Dropped before it finished: aborted past its stop timeout, or its runtime shut down.
    Cancelled,
    /// Was too slow; what it missed is named.
    TimedOut(Timeout),
    /// A process ended by a signal.
    Killed(i32),
    /// A process ended with this exit code.
    Exited(i32),
}

/// The deadline a child missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Timeout {
    /// A gated child did not call `ready()` within this time.
    Start(Duration),
    /// No heartbeat for this long.
    Heartbeat(Duration),
}

impl Exit {
    /// Whether this exit counts as a crash of a Transient child.
    pub fn is_failure(&self) -> bool {
        !matches!(self, Exit::Done | Exit::Cancelled | Exit::Exited(0))
    }

    /// One word for the kind of exit, as it stands in the JSON of the control plane.
    pub fn kind(&self) -> &'static str {
        match self {
            Exit::Done => "done",
            Exit::Failed(_) => "failed",
            Exit::Panicked { .. } => "panicked",
            Exit::Cancelled => "cancelled",
            Exit::TimedOut(_) => "timed_out",
            Exit::Killed(_) => "killed",
            Exit::Exited(_) => "exited",
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Done => f.write_str("returned Ok"),
            Exit::Failed(reason) if reason.is_empty() => f.write_str("failed without a reason"),
            Exit::Failed(reason) => f.write_str(reason),
            Exit::Panicked {
                text,
                location: Some(at),
            } => write!(f, "panicked at {at}: {text}"),
            Exit::Panicked {
                text,
                location: None,
            } => write!(f, "panicked: {text}"),
            Exit::Cancelled => f.write_str("cancelled"),
            Exit::TimedOut(Timeout::Start(after)) => write!(f, "not ready within {after:?}"),
            Exit::TimedOut(Timeout::Heartbeat(after)) => write!(f, "no heartbeat for {after:?}"),
            Exit::Killed(signal) => match signal_name(*signal) {
                Some(name) => write!(f, "killed by signal {signal} ({name})"),
                None => write!(f, "killed by signal {signal}"),
            },
            Exit::Exited(code) => write!(f, "exited with code {code}"),
        }
    }
}

/// Signals that have the same number on every system.
fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        _ => return None,
    })
}

/// The error a child may return: anything that converts into it restarts the child.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// A process child returns how its process ended.
#[cfg(feature = "process")]
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ProcessEnded(pub(crate) Exit);

/// What a child may return: `()`, or `Result<(), E>` with any error type.
///
/// Sealed: these two cover what a supervisor can act on.
pub trait Outcome: sealed::Sealed + Send + 'static {
    #[doc(hidden)]
    fn into_result(self) -> Result<(), BoxError>;
}

impl Outcome for () {
    fn into_result(self) -> Result<(), BoxError> {
        Ok(())
    }
}

impl<E: Into<BoxError> + Send + 'static> Outcome for Result<(), E> {
    fn into_result(self) -> Result<(), BoxError> {
        self.map_err(Into::into)
    }
}

/// A future with an [`Outcome`], as an object. Polls the future itself: an adapter around it would store
/// it twice and add frames to every unwind.
pub(crate) trait OutcomeFuture: Send {
    fn poll_outcome(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>>;
}

impl<F> OutcomeFuture for F
where
    F: Future + Send,
    F::Output: Outcome,
{
    fn poll_outcome(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.poll(cx).map(Outcome::into_result)
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for () {}
    impl<E> Sealed for Result<(), E> {}
}

/// An error with all its sources, as one line.
pub(crate) fn error_chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
