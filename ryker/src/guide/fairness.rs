//! What an actor that is flooded leaves to the others.
//!
//! A tokio worker runs a task until it waits. An actor whose mailbox is never empty and whose handler never waits would
//! hold its worker for ever, and every other task on it. So after `fairness.yield_every_n_msgs` messages (64) without a
//! wait, an actor or receiver gives way to the tasks behind it and goes on when its turn comes; `yields` counts how
//! often. A handler that waits has given way already, and its run is counted anew. Messages that take next to nothing
//! are no reason to switch: unless the second half of them took 50 microseconds, the turn goes on until that has passed.
//! They are only counted where tokio's clock is paused, and where there is no second half, as with a number of 1 or with
//! batches of as many.
//!
//! `fairness.batch_messages` (32) is the most that one [`recv_many`](crate::Receiver::recv_many) hands out, and after
//! as many a busy actor looks whether its supervisor wants it to stop.
//!
//! ```
//! use ryker::{Actor, Context, Reply, Runtime, RykerConfig};
//! use std::convert::Infallible;
//!
//! struct Count(u64);
//!
//! enum Msg {
//!     One,
//!     Total(Reply<u64>),
//! }
//!
//! impl Actor for Count {
//!     type Msg = Msg;
//!     type Error = Infallible;
//!
//!     async fn handle(&mut self, message: Msg, _: &mut Context<Self>) -> Result<(), Infallible> {
//!         match message {
//!             Msg::One => self.0 += 1,
//!             Msg::Total(reply) => drop(reply.send(self.0)),
//!         }
//!         Ok(())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] // one worker
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let rt = Runtime::new(RykerConfig::default());
//! let flooded = rt.actor("flooded", || Count(0)).capacity(10_000).spawn()?;
//! let quiet = rt.spawn("quiet", || Count(0))?;
//!
//! for _ in 0..10_000 {
//!     flooded.try_send(Msg::One)?;
//! }
//! // On one worker the quiet one answers before the flood is worked off.
//! let left = tokio::spawn({
//!     let flooded = flooded.clone();
//!     async move { quiet.ask(Msg::Total).await.map(|_| flooded.depth()) }
//! });
//! assert!(left.await?? > 0);
//!
//! while flooded.depth() > 0 {
//!     tokio::task::yield_now().await;
//! }
//! assert!(flooded.accounts().yields > 0);
//! # Ok(())
//! # }
//! ```
//!
//! Smaller numbers mean shorter waits for the others and more switching; both keys are hot, so they can be tried in a
//! running service. Neither helps against a handler that computes or blocks for long between two awaits: that belongs
//! on `spawn_blocking`.
//!
//! Among senders fairness is a queue: those who wait in `send` get room in the order in which they came, and no
//! `try_send` takes it from them. A large message at its head waits until there is room for all of its bytes, and those
//! behind it wait too.
