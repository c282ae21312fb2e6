//! Why a message was not taken, or not answered.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use thiserror::Error;

/// A message that was not taken, and why. The message comes back in it.
///
/// `Error` and `Display` need nothing of `T`.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError<T> {
    /// The mailbox is full, by count or by bytes. The caller's load is too high: try again later, or shed.
    Busy(T),
    /// The receiver or the actor is gone for good.
    Closed(T),
    /// The message alone is larger than a message may be; it never fits.
    TooLarge(T),
    /// The deadline passed before there was room, or before sending began.
    Deadline(T),
    /// The actor or the runtime is shutting down and takes nothing more.
    Draining(T),
}

impl<T> SendError<T> {
    /// The message.
    pub fn into_inner(self) -> T {
        match self {
            Self::Busy(message)
            | Self::Closed(message)
            | Self::TooLarge(message)
            | Self::Deadline(message)
            | Self::Draining(message) => message,
        }
    }

    /// Why, without the message.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Busy(_) => ErrorKind::Busy,
            Self::Closed(_) => ErrorKind::Closed,
            Self::TooLarge(_) => ErrorKind::TooLarge,
            Self::Deadline(_) => ErrorKind::Timeout,
            Self::Draining(_) => ErrorKind::Draining,
        }
    }

    pub(crate) fn map<U>(self, f: impl FnOnce(T) -> U) -> SendError<U> {
        match self {
            Self::Busy(message) => SendError::Busy(f(message)),
            Self::Closed(message) => SendError::Closed(f(message)),
            Self::TooLarge(message) => SendError::TooLarge(f(message)),
            Self::Deadline(message) => SendError::Deadline(f(message)),
            Self::Draining(message) => SendError::Draining(f(message)),
        }
    }
}

impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Busy(_) => "Busy",
            Self::Closed(_) => "Closed",
            Self::TooLarge(_) => "TooLarge",
            Self::Deadline(_) => "Deadline",
            Self::Draining(_) => "Draining",
        };
        write!(f, "{name}(..)")
    }
}

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Busy(_) => "the mailbox is full",
            Self::Closed(_) => "the mailbox is closed",
            Self::TooLarge(_) => "the message is larger than the mailbox allows",
            Self::Deadline(_) => "the deadline passed before the mailbox had room",
            Self::Draining(_) => "the mailbox is draining and takes nothing more",
        })
    }
}

impl<T> Error for SendError<T> {}

/// Why an ask has no answer.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AskError<M> {
    /// The message was not taken, and is handed back. Its [`Reply`](crate::Reply) leads nowhere any more.
    NotSent(SendError<M>),
    /// The deadline passed. The message may have been handled, may be in hand, or was dropped unhandled.
    Timeout,
    /// The message was taken, and dropped unhandled as the actor drains.
    Draining,
    /// The message was taken, and dropped unhandled as the actor ended or its mailbox was closed.
    Closed,
    /// The handler panicked or failed, or dropped the [`Reply`](crate::Reply) without an answer.
    NoReply,
}

impl<M> AskError<M> {
    /// Why, without the message.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotSent(error) => error.kind(),
            Self::Timeout => ErrorKind::Timeout,
            Self::Draining => ErrorKind::Draining,
            Self::Closed => ErrorKind::Closed,
            Self::NoReply => ErrorKind::NoReply,
        }
    }

    /// The message, if it was not taken.
    pub fn into_inner(self) -> Option<M> {
        match self {
            Self::NotSent(error) => Some(error.into_inner()),
            _ => None,
        }
    }
}

impl<M> fmt::Debug for AskError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSent(error) => f.debug_tuple("NotSent").field(error).finish(),
            Self::Timeout => f.write_str("Timeout"),
            Self::Draining => f.write_str("Draining"),
            Self::Closed => f.write_str("Closed"),
            Self::NoReply => f.write_str("NoReply"),
        }
    }
}

impl<M> fmt::Display for AskError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSent(error) => error.fmt(f),
            Self::Timeout => f.write_str("the deadline passed before the actor answered"),
            Self::Draining => f.write_str("the actor is draining and did not handle the message"),
            Self::Closed => f.write_str("the actor ended before it handled the message"),
            Self::NoReply => f.write_str("the actor did not answer the message it handled"),
        }
    }
}

impl<M> Error for AskError<M> {}

/// Why a message was not taken or not answered, without the message: what a host maps to its own protocol.
///
/// | kind | HTTP | gRPC | whose fault |
/// |---|---|---|---|
/// | `Busy` | 429, with `Retry-After` | `RESOURCE_EXHAUSTED` | the callers' load |
/// | `TooLarge` | 413 | `INVALID_ARGUMENT` | the caller's |
/// | `Timeout` | 504 | `DEADLINE_EXCEEDED` | the actor's, or the deadline's |
/// | `Draining` | 503, with `Retry-After` | `UNAVAILABLE` | nobody's: another replica answers |
/// | `Closed` | 503 | `UNAVAILABLE` | the actor's, which ended for good |
/// | `NoReply` | 500 | `INTERNAL` | the handler's |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Full.
    Busy,
    /// Too large ever to fit.
    TooLarge,
    /// Past the deadline.
    Timeout,
    /// Shutting down.
    Draining,
    /// Gone.
    Closed,
    /// Handled without an answer.
    NoReply,
}

impl ErrorKind {
    /// The HTTP status of the table.
    ///
    /// ```
    /// use ryker::ErrorKind;
    /// assert_eq!(ErrorKind::Busy.http_status(), 429);
    /// ```
    pub fn http_status(self) -> u16 {
        match self {
            Self::Busy => 429,
            Self::TooLarge => 413,
            Self::Timeout => 504,
            Self::Draining | Self::Closed => 503,
            Self::NoReply => 500,
        }
    }

    /// The numeric gRPC status code of the table.
    pub fn grpc_code(self) -> u32 {
        match self {
            Self::Busy => 8,
            Self::TooLarge => 3,
            Self::Timeout => 4,
            Self::Draining | Self::Closed => 14,
            Self::NoReply => 13,
        }
    }

    /// How long a caller should wait before it tries again, where that makes sense: one second, the granularity of
    /// `Retry-After` and the default deadline, in which a full mailbox is either worked off or has expired.
    pub fn retry_after(self) -> Option<Duration> {
        match self {
            Self::Busy | Self::Draining => Some(Duration::from_secs(1)),
            _ => None,
        }
    }

    /// The word used in logs: `busy`, `too_large`, `timeout`, `draining`, `closed`, `no_reply`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::TooLarge => "too_large",
            Self::Timeout => "timeout",
            Self::Draining => "draining",
            Self::Closed => "closed",
            Self::NoReply => "no_reply",
        }
    }
}

impl Error for ErrorKind {}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why there is nothing to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TryRecvError {
    /// Nothing is queued now.
    #[error("the mailbox is empty")]
    Empty,
    /// Nothing is queued and nothing will come.
    #[error("the mailbox is closed and empty")]
    Closed,
}

/// Why a mailbox or an actor cannot be made. Nothing was started.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A name is a label of metrics and logs: 1 to 64 of `a-z A-Z 0-9 . _ - : /`.
    #[error("`{name}` is no name: a name has 1 to 64 of the characters a-z A-Z 0-9 . _ - : /")]
    Name {
        /// The name.
        name: String,
    },
    /// An option is out of its range.
    #[error("{name}: {option} is {value}, and must be {expected}")]
    Invalid {
        /// The mailbox.
        name: String,
        /// The builder's method.
        option: &'static str,
        /// What was given.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// Actors are tokio tasks, and the calling thread is in no tokio runtime.
    #[error("{name}: no tokio runtime here to run the actor on; call it inside one, or enter its handle")]
    NoExecutor {
        /// The actor.
        name: String,
    },
    /// The runtime is draining or has drained.
    #[error("{name}: the runtime is draining and starts nothing more")]
    Draining {
        /// The mailbox or actor.
        name: String,
    },
}
