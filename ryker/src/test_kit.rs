//! For tests of actors: paused time, stand-ins for their collaborators, and actors run step by step. Feature
//! `test-kit`.
//!
//! - [`paused`] runs a test in which time passes only while nothing else happens: deadlines, delays and drains of
//!   minutes take no time, and come out the same each time.
//! - A [`Probe`] takes the place of an actor that the one under test sends to.
//! - A [`Stepper`] handles one message per call and shows the actor's state in between.
//!
//! The feature switches tokio's `test-util` on, with which its clock is slower to read: enable it in
//! `[dev-dependencies]` only. What is here panics with a text when a test ought to fail.

mod probe;
mod stepper;

use std::future::Future;
use std::time::Duration;

pub use probe::Probe;
pub use stepper::{Step, Stepper};

use crate::config::RykerConfig;
use crate::runtime::Runtime;

/// Runs `test` on one thread, on which tokio's clock is paused, with a runtime of this configuration.
///
/// Whenever all tasks wait, the clock jumps to the next timer. Times that ryker reports are exact to the millisecond.
///
/// ```
/// use ryker::{test_kit::{paused, settle}, Actor, AskError, Context, Reply, RykerConfig};
/// use std::{convert::Infallible, time::Duration};
///
/// struct Slow;
///
/// impl Actor for Slow {
///     type Msg = Reply<()>;
///     type Error = Infallible;
///     const CANCEL_SAFE: bool = true;
///
///     async fn handle(&mut self, reply: Reply<()>, _: &mut Context<Self>) -> Result<(), Infallible> {
///         tokio::time::sleep(Duration::from_secs(3_600)).await;
///         let _ = reply.send(());
///         Ok(())
///     }
/// }
///
/// paused(RykerConfig::default(), |rt| async move {
///     let slow = rt.spawn("slow", || Slow).unwrap();
///     let answer = slow.ask(|reply| reply).await;
///     assert!(matches!(answer, Err(AskError::Timeout)));
///     settle().await; // the handler is cancelled in the same millisecond
///     assert_eq!(slow.accounts().timed_out, 1);
/// });
/// ```
///
/// # Panics
/// Inside another tokio runtime: the test itself is then to be no `async fn`. A panic of `test` passes through.
pub fn paused<F: Future>(config: RykerConfig, test: impl FnOnce(Runtime) -> F) -> F::Output {
    let executor = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build();
    match executor {
        Ok(executor) => executor.block_on(async { test(Runtime::new(config)).await }),
        Err(error) => panic!("no tokio runtime for the test: {error}"),
    }
}

/// Lets every task go on until all wait, and one millisecond pass. Only under a paused clock does it wait for them.
///
/// ```
/// # use ryker::{test_kit::{paused, settle}, Actor, Context, RykerConfig};
/// # use std::convert::Infallible;
/// # struct Log;
/// # impl Actor for Log {
/// #     type Msg = &'static str;
/// #     type Error = Infallible;
/// #     async fn handle(&mut self, _: &'static str, _: &mut Context<Self>) -> Result<(), Infallible> { Ok(()) }
/// # }
/// paused(RykerConfig::default(), |rt| async move {
///     let log = rt.spawn("log", || Log).unwrap();
///     log.try_send("line").unwrap();
///     settle().await;
///     assert_eq!(log.accounts().ok, 1);
/// });
/// ```
pub async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}
