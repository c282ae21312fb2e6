//! Who restarts a failed actor, when, and when no more.
//!
//! A handler or [`on_start`](crate::Actor::on_start) that panics or returns an error ends this incarnation. The message
//! in hand is gone (at most once, counted as `panicked` or `error`); all others stay where they are, senders notice
//! nothing, and the factory makes fresh state for the next incarnation.
//!
//! **Exactly one layer restarts.** Either ryker does, or another supervisor:
//!
//! | | [`Runtime::spawn`](crate::Runtime::spawn) | [`ActorBuilder::runner`](crate::ActorBuilder::runner) |
//! |---|---|---|
//! | restarts | ryker's loop | whoever calls [`Runner::run`](crate::Runner::run) again, such as a child of ron-kernel |
//! | delay | `supervisor.backoff_*`, decorrelated jitter | the supervisor's |
//! | gives up | the Nth failure inside `supervisor.rapid_fail_window` | the supervisor's policy |
//! | a panic | is caught, and shows as [`ActorExit::Panicked`](crate::ActorExit::Panicked) | passes through `run` to the supervisor |
//! | `ryker_actor_restarts_total` | counts | stays 0: the supervisor counts |
//!
//! # Delays
//!
//! The delay before a restart is drawn from `[backoff_base_ms, min(backoff_cap_ms, 3 x the delay before)]`, for each
//! actor by itself, so that actors that failed together do not come back together. An incarnation that ran for the
//! length of the window was healthy, and the next delay begins at the base again.
//!
//! # The window, and which way to turn it
//!
//! The failure that is the `rapid_fail_threshold`th (5) within `rapid_fail_window` (10 s) ends the actor with
//! [`ActorExit::RapidFail`](crate::ActorExit::RapidFail).
//!
//! - **Widen** it to stop a storm: failures that lie further apart count together, so an actor that keeps failing ends
//!   sooner.
//! - **Narrow** it, or raise the threshold, to tolerate failures: fewer count together, and the actor keeps being
//!   restarted.
//!
//! With the defaults an actor that fails at once always ends: four delays are 8.9 s at most. One that runs for 2.5 s
//! before each failure never does, as its fifth failure lies more than 10 s after its first.
//!
//! ```
//! use ryker::{Actor, ActorExit, Context, Runtime, RykerConfig};
//! use std::time::Duration;
//!
//! struct Fragile;
//!
//! impl Actor for Fragile {
//!     type Msg = ();
//!     type Error = &'static str;
//!
//!     async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), &'static str> {
//!         Err("broken")
//!     }
//! }
//!
//! /// Fails every 4 s, ten times; which failure was the last, if one was?
//! async fn ends_after(window: Duration) -> Result<Option<u32>, Box<dyn std::error::Error>> {
//!     let rt = Runtime::new(RykerConfig::builder().rapid_fail_window(window).build()?);
//!     let fragile = rt.spawn("fragile", || Fragile)?;
//!     for failure in 1..=10 {
//!         fragile.try_send(())?;
//!         tokio::time::sleep(Duration::from_secs(4)).await;
//!         if let Some(ActorExit::RapidFail { failures, .. }) = fragile.exit() {
//!             assert_eq!(failures, 5);
//!             return Ok(Some(failure));
//!         }
//!     }
//!     Ok(None)
//! }
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! assert_eq!(ends_after(Duration::from_secs(10)).await?, None); // three within any 10 s
//! assert_eq!(ends_after(Duration::from_secs(30)).await?, Some(5)); // widened: the fifth ends it
//! # Ok(())
//! # }
//! ```
//!
//! [`ActorRef::stop`](crate::ActorRef::stop) ends an actor after what is queued,
//! [`ActorRef::abort`](crate::ActorRef::abort) at once; neither is a failure. An actor to which nobody can send any
//! more ends by itself; one that keeps a reference to itself should keep it [downgraded](crate::ActorRef::downgrade).
//!
//! An actor that has ended for good is seen by [`ActorRef::stopped`](crate::ActorRef::stopped); what is queued in it is
//! dropped and counted, and asks fail with `Closed`.
