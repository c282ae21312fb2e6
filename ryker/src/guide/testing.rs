//! How to test an actor without waiting.
//!
//! Under tokio's paused clock (`#[tokio::test(start_paused = true)]`, feature `test-util`) time is tokio's for ryker
//! too: deadlines, delays of restarts and drains pass at once and in order, and the same test gives the same result. On
//! the current-thread flavour nothing else runs between two awaits of the test.
//!
//! The clock must stand still from the start of the runtime on; one that is paused in the middle is not followed.
//!
//! Accounts are what to assert on: they tell that the message was handled, expired or refused, without a hook in the
//! actor.
//!
//! ```
//! use ryker::{Actor, Context, Reply, Runtime, RykerConfig};
//! use std::time::Duration;
//!
//! /// Fails at odd numbers.
//! struct Even {
//!     seen: Vec<u32>,
//! }
//!
//! enum Msg {
//!     Number(u32),
//!     Seen(Reply<Vec<u32>>),
//! }
//!
//! impl Actor for Even {
//!     type Msg = Msg;
//!     type Error = String;
//!
//!     async fn handle(&mut self, message: Msg, _: &mut Context<Self>) -> Result<(), String> {
//!         match message {
//!             Msg::Number(n) if n % 2 == 1 => return Err(format!("{n} is odd")),
//!             Msg::Number(n) => self.seen.push(n),
//!             Msg::Seen(reply) => drop(reply.send(self.seen.clone())),
//!         }
//!         Ok(())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let rt = Runtime::new(RykerConfig::default());
//! let even = rt.spawn("even", || Even { seen: Vec::new() })?;
//! for n in [2, 3, 4] {
//!     even.try_send(Msg::Number(n))?;
//! }
//!
//! // The second incarnation begins after at most 300 ms, and knows nothing of the first.
//! tokio::time::sleep(Duration::from_millis(301)).await;
//! assert_eq!(even.ask(Msg::Seen).await?, [4]);
//! let accounts = even.accounts();
//! assert_eq!((accounts.ok, accounts.error), (3, 1));
//! assert!(accounts.balances());
//! # Ok(())
//! # }
//! ```
//!
//! What sends to an actor is tested against a mailbox: build one of capacity 1 to see how it takes `Busy`, drop the
//! receiver to see how it takes `Closed`.
//!
//! Feature `test-kit` has more, in `ryker::test_kit`: `paused` runs a test as above without an attribute, a `Probe`
//! takes the place of an actor and hands out what it is sent, a `Stepper` handles one message per call and shows the
//! state in between.
