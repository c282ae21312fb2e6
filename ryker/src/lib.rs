//! Actors with bounded mailboxes, one deadline per message and exact accounts.
//!
//! An actor is state that is changed by messages, one at a time. A [`Runtime`] starts it, restarts it when it fails, and
//! [drains](Runtime::drain) it when the service ends; an [`ActorRef`] sends to it.
//!
//! ```
//! use ryker::{Actor, Context, Reply, Runtime, RykerConfig};
//! use std::convert::Infallible;
//! use std::time::Duration;
//!
//! struct Sum(u64);
//!
//! enum Msg {
//!     Add(u64),
//!     Total(Reply<u64>),
//! }
//!
//! impl Actor for Sum {
//!     type Msg = Msg;
//!     type Error = Infallible;
//!
//!     async fn handle(&mut self, message: Msg, _: &mut Context<Self>) -> Result<(), Infallible> {
//!         match message {
//!             Msg::Add(n) => self.0 += n,
//!             Msg::Total(reply) => drop(reply.send(self.0)),
//!         }
//!         Ok(())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let rt = Runtime::new(RykerConfig::default());
//! let sum = rt.spawn("sum", || Sum(0))?;
//!
//! sum.try_send(Msg::Add(40))?; // never waits: full is an error that hands the message back
//! sum.send(Msg::Add(2)).await?; // waits for room, until the deadline
//! assert_eq!(sum.ask(Msg::Total).await?, 42);
//!
//! let report = rt.drain(Duration::from_secs(5)).await;
//! assert!(report.balances() && report.is_clean());
//! # Ok(())
//! # }
//! ```
//!
//! Below actors lies the [`Mailbox`], for loops written by hand: a queue between any number of [`Sender`]s and one
//! [`Receiver`], with the same bounds, deadlines, accounts and drain.
//!
//! # Bounds
//!
//! A mailbox holds so many messages and no more, and, where messages tell their [size](MessageSize), so many bytes.
//! When one of the two is reached `try_send` fails with [`SendError::Busy`]; nothing is displaced. A message counts until it is
//! taken out of the mailbox; those in a handler's hand do not.
//!
//! # One deadline
//!
//! A message has one deadline, from its sending to its answer: the mailbox's (1 s by default), or an earlier one of the
//! sender's. An ask made by a handler inherits what the message in hand has left. A message that expires in the queue is
//! dropped unhandled and counted. A handler that is still at work at the deadline is cancelled where the actor is
//! [`CANCEL_SAFE`](Actor::CANCEL_SAFE) and otherwise left to finish; whoever asked gets [`AskError::Timeout`] either way.
//!
//! Deadlines and the times in metrics are in coarse milliseconds: a deadline is up to 2 ms late, 3 ms under a paused clock,
//! whose own timers round up once more, and early only by what the
//! thread that writes the time is late itself, on a machine that has too much to do. Where tokio's clock is paused from the
//! start, as in `#[tokio::test(start_paused = true)]`, they follow that clock.
//!
//! # Accounts
//!
//! At any instant, for every mailbox,
//!
//! ```text
//! accepted = ok + error + panicked + timed_out + expired + abandoned + dropped + aborted + pending
//! ```
//!
//! and every refused message is counted by reason: [`Accounts`].
//!
//! # Failure
//!
//! A handler that returns an error or panics ends its incarnation. The message in hand is not delivered again; everything else
//! stays in the mailbox, which is open all the while. The next incarnation has fresh state from the factory and starts after a
//! delay with decorrelated jitter. Failures that come too fast end the actor with [`ActorExit::RapidFail`]. Under another
//! supervisor, such as ron-kernel, a [`Runner`] takes the place of that loop: exactly one layer restarts.
//!
//! # Ordering
//!
//! First in, first out, per sender; across senders in the order in which the mailbox accepted.
//!
//! # Fairness
//!
//! An actor or receiver that always finds a message gives way to the other tasks of its worker after
//! `fairness.yield_every_n_msgs` messages that [took some time](guide::fairness), and that is counted. Senders that wait for room get it in the order in which
//! they came; a `try_send` finds the mailbox full while somebody waits.
//!
//! # Cost
//!
//! Senders and the receiver share one spin lock, held for some instructions. The receiver swaps the whole queue out
//! under it, so that it takes the lock once per batch. In steady state neither sending nor receiving allocates; the queue
//! grows with the most that it ever held, twice over, as there are two to swap. An ask allocates once; a wait for room allocates too. Metrics are plain
//! stores of the receiver's. A thread named `ryker-clock`, one per runtime, writes the time once per millisecond while messages
//! move; when none do, it sleeps until the next deadline.
//!
//! # What it is not
//!
//! No executor: actors are tokio tasks. No remoting, no persistence, no broadcast, no registry of names. Messages in mailboxes
//! die with the process.
#![forbid(unsafe_code)]

// The README is compiled and run with the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod account;
mod actor;
mod clock;
pub mod config;
mod contain;
mod core;
mod deadlines;
mod error;
mod fate;
pub mod guide;
#[cfg(all(loom, test))]
mod interleavings;
mod mailbox;
#[cfg(feature = "metrics")]
pub mod metrics;
mod observer;
mod reply;
mod runner;
mod runtime;
mod scope;
mod stats;
mod supervision;
mod sync;
#[cfg(feature = "test-kit")]
pub mod test_kit;
mod timer;
mod units;

pub use account::{Accounts, Refusals};
pub use actor::{Actor, ActorExit, ActorRef, Context, DeadlineExceeded, OnDeadline, WeakActorRef};
pub use config::RykerConfig;
pub use error::{AskError, BuildError, ErrorKind, SendError, TryRecvError};
pub use mailbox::{Delivery, Mailbox, MailboxBuilder, MessageSize, Receiver, Sender};
pub use observer::{DropReason, Observer, Outcome};
pub use reply::{Ask, Reply};
pub use runner::Runner;
pub use runtime::{ActorBuilder, DrainReport, Reloaded, Runtime};
