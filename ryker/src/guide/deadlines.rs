//! How long a message may take, and who pays when it takes longer.
//!
//! A message has one deadline: the mailbox's (`defaults.deadline`, 1 s) after its sending began, or an earlier one of
//! the sender's. Waiting for room, waiting in the queue and handling all use it up. There is no second timeout to add
//! to it. An ask made by a handler inherits what the message in hand has left, and a `send` of its waits no longer than
//! that, so that a chain of actors never works longer than its first caller waits.
//!
//! | at the deadline the message is | what happens | account | whoever asked gets |
//! |---|---|---|---|
//! | not sent yet | it is handed back | `refused.deadline` | `NotSent(Deadline)` |
//! | in the queue | it is dropped when its turn comes, unhandled | `expired` | `Timeout`, at the deadline |
//! | in hand, [`CANCEL_SAFE`](crate::Actor::CANCEL_SAFE) | the handler is dropped, [`on_deadline`](crate::Actor::on_deadline) says keep or restart | `timed_out` | `Timeout`, at the deadline |
//! | in hand, otherwise | the handler goes on to its end | `timed_out` | `Timeout`, at the deadline |
//!
//! ```
//! use ryker::{Actor, Context, ErrorKind, Reply, Runtime, RykerConfig};
//! use std::convert::Infallible;
//! use std::time::Duration;
//! use tokio::time::{sleep, Instant};
//!
//! struct Render(Reply<&'static str>);
//!
//! /// Needs 600 ms per page.
//! struct Renderer;
//!
//! impl Actor for Renderer {
//!     type Msg = Render;
//!     type Error = Infallible;
//!
//!     async fn handle(&mut self, Render(reply): Render, _: &mut Context<Self>) -> Result<(), Infallible> {
//!         sleep(Duration::from_millis(600)).await;
//!         drop(reply.send("page"));
//!         Ok(())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let rt = Runtime::new(RykerConfig::default());
//! let renderer = rt.spawn("renderer", || Renderer)?;
//!
//! let begun = Instant::now();
//! let (first, second, third) = tokio::join!(
//!     renderer.ask(Render),
//!     renderer.ask(Render),
//!     renderer.ask(Render),
//! );
//! assert_eq!(first?, "page");
//! for late in [second, third] {
//!     assert_eq!(late.unwrap_err().kind(), ErrorKind::Timeout);
//! }
//! assert!(begun.elapsed() <= Duration::from_millis(1_002)); // nobody waited longer
//!
//! // The second was under way and came too late; the third was never begun.
//! sleep(Duration::from_secs(1)).await;
//! let accounts = renderer.accounts();
//! assert_eq!((accounts.ok, accounts.timed_out, accounts.expired), (1, 1, 1));
//!
//! // A caller that has less time says so.
//! let soon = Instant::now() + Duration::from_millis(50);
//! let asked = renderer.ask_with_deadline(Render, soon.into_std());
//! assert_eq!(asked.await.unwrap_err().kind(), ErrorKind::Timeout);
//! # Ok(())
//! # }
//! ```
//!
//! `CANCEL_SAFE` is a promise about state: the handler may be dropped at any of its awaits and leaves nothing half
//! done. Handlers that write in two steps with an await in between do not have it. What blocks its thread cannot be
//! cancelled either way: [`Context::deadline`](crate::Context::deadline) and [`Reply::is_gone`](crate::Reply::is_gone)
//! let it look for itself.
//!
//! A deadline is up to 2 ms late, more where the machine has too much to do.
