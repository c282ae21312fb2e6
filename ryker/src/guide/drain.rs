//! How everything ends, and the law that says that nothing was lost unseen.
//!
//! [`Runtime::drain`](crate::Runtime::drain) stops the intake at once: every send and ask fails with `Draining`. What
//! is queued is handled for as long as the deadline allows; an actor that has worked off its mailbox runs
//! [`on_stop`](crate::Actor::on_stop) and ends. Then what is left is dropped, and handlers under way are dropped at
//! their await.
//!
//! # The law
//!
//! For every mailbox, at any instant and not only at rest,
//!
//! ```text
//! accepted = ok + error + panicked + timed_out + expired + abandoned + dropped + aborted + pending
//! ```
//!
//! [`Accounts`](crate::Accounts) has the terms. `pending` is counted, not computed from the others, so
//! [`balances`](crate::Accounts::balances) can be false, and never is. [`DrainReport`](crate::DrainReport) is the law
//! for what was pending when the drain began.
//!
//! ```
//! use ryker::{Actor, Context, Runtime, RykerConfig};
//! use std::convert::Infallible;
//! use std::time::Duration;
//!
//! struct Writer;
//!
//! impl Actor for Writer {
//!     type Msg = u32;
//!     type Error = Infallible;
//!
//!     async fn handle(&mut self, _: u32, _: &mut Context<Self>) -> Result<(), Infallible> {
//!         tokio::time::sleep(Duration::from_millis(100)).await;
//!         Ok(())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let rt = Runtime::new(RykerConfig::default());
//! let writer = rt.spawn("writer", || Writer)?;
//! for page in 0..6 {
//!     writer.try_send(page)?;
//! }
//!
//! // Time for three and a half.
//! let report = rt.drain(Duration::from_millis(350)).await;
//! assert_eq!(report.pending_before, 6);
//! assert_eq!((report.handled, report.aborted, report.dropped), (3, 1, 2));
//! assert!(report.balances() && !report.is_clean());
//!
//! assert!(writer.try_send(6).is_err());
//! assert!(rt.accounts().balances());
//! # Ok(())
//! # }
//! ```
//!
//! # Parents and children
//!
//! A handler that asks another actor while both drain could wait for an actor that waits for it. So asks of other
//! actors' handlers that are queued behind a handler under way fail with `Draining` at once; asks from elsewhere are
//! served.
//!
//! # What a drain does not wait for
//!
//! A message of a plain mailbox is over when its receiver has it: join your loop before the process ends. A handler
//! that drains its own runtime would wait for itself; let the host do it.
//!
//! # Deadlines of drains
//!
//! Choose it as long as the slowest handler takes, times what may be queued, or shed load before: a host that turns
//! `/readyz` to 503 first has empty mailboxes when it drains. `dropped` and `aborted` above 0 say that it was too
//! short; `stuck` names those that do not give their thread back, for which no deadline is long enough. Under
//! ron-kernel an actor's child drains when the kernel tells it to stop, and what its `stop_timeout` cuts off is counted
//! as aborted and dropped.
