//! Actors with bounded mailboxes, one deadline per message and exact accounts.
#![forbid(unsafe_code)]

mod account;
mod actor;
mod clock;
pub mod config;
mod core;
mod deadlines;
mod error;
mod fate;
mod mailbox;
mod observer;
mod reply;
mod runner;
mod runtime;
mod scope;
mod stats;
mod supervision;
mod sync;
mod timer;
mod units;

pub use account::{Accounts, Refusals};
pub use actor::{Actor, ActorExit, ActorRef, Context, DeadlineExceeded, OnDeadline};
pub use config::RykerConfig;
pub use error::{AskError, BuildError, ErrorKind, SendError, TryRecvError};
pub use mailbox::{Delivery, Mailbox, MailboxBuilder, MessageSize, Receiver, Sender};
pub use observer::{DropReason, Observer, Outcome};
pub use reply::{Ask, Reply};
pub use runner::Runner;
pub use runtime::{ActorBuilder, DrainReport, Reloaded, Runtime};
