//! A kameo actor as a child. Outside the semver and Rust 1.80 promises: it moves with kameo.
//!
//! ```
//! use kameo::actor::{Actor, ActorRef};
//! use kameo::message::{Context, Message};
//! use ron_kernel::Kernel;
//! use std::convert::Infallible;
//!
//! struct Counter(u64);
//!
//! impl Actor for Counter {
//!     type Args = u64;
//!     type Error = Infallible;
//!     async fn on_start(from: u64, _: ActorRef<Self>) -> Result<Self, Infallible> {
//!         Ok(Counter(from))
//!     }
//! }
//!
//! impl Message<u64> for Counter {
//!     type Reply = u64;
//!     async fn handle(&mut self, by: u64, _: &mut Context<Self, Self::Reply>) -> u64 {
//!         self.0 += by;
//!         self.0
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (child, counter) = ron_kernel::kameo::actor::<Counter, _>("counter", 64, || 40);
//! let running = Kernel::builder().child(child).build()?.start().await?;
//! running.handle().ready().await;
//! let actor = counter.current().expect("ready, so it is there");
//! assert_eq!(actor.ask(2u64).await?, 42);
//! running.shutdown().await;
//! # Ok(())
//! # }
//! ```

use crate::supervisor::{BoxError, Child, ChildContext};
use kameo::actor::{Actor, ActorRef, PreparedActor};
use kameo::mailbox;
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::watch;

/// How long an actor's `on_start` may take before that is a failure.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// The address of a supervised actor across its incarnations.
pub struct Supervised<A: Actor> {
    current: watch::Receiver<Option<ActorRef<A>>>,
}

impl<A: Actor> Supervised<A> {
    /// The running incarnation; `None` before the first and between two. A kept [`ActorRef`] belongs to
    /// one incarnation and fails after its end; messages still in its mailbox are gone.
    pub fn current(&self) -> Option<ActorRef<A>> {
        self.current.borrow().clone()
    }
}

impl<A: Actor> Clone for Supervised<A> {
    fn clone(&self) -> Self {
        Supervised {
            current: self.current.clone(),
        }
    }
}

impl<A: Actor> fmt::Debug for Supervised<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let running = self.current.borrow().is_some();
        f.debug_struct("Supervised")
            .field("running", &running)
            .finish_non_exhaustive()
    }
}

/// A child that runs one actor with a mailbox of `capacity` messages, made anew from `args` for each
/// incarnation. It is ready once `on_start` has returned.
///
/// The actor runs inside the child's own task: aborting the child drops the actor, and a panic or error
/// of a hook or handler is the child's failure. When told to stop it works off its mailbox.
pub fn actor<A, F>(name: impl Into<String>, capacity: usize, args: F) -> (Child, Supervised<A>)
where
    A: Actor,
    F: Fn() -> A::Args + Send + Sync + 'static,
{
    let (publish, current) = watch::channel(None);
    let child = Child::task(name, move |cx| {
        run::<A>(cx, capacity, args(), publish.clone())
    })
    .gated(START_TIMEOUT);
    (child, Supervised { current })
}

/// Takes the address back however the incarnation ends.
struct Published<A: Actor>(watch::Sender<Option<ActorRef<A>>>);

impl<A: Actor> Drop for Published<A> {
    fn drop(&mut self) {
        self.0.send_replace(None);
    }
}

async fn run<A: Actor>(
    cx: ChildContext,
    capacity: usize,
    args: A::Args,
    publish: watch::Sender<Option<ActorRef<A>>>,
) -> Result<(), BoxError> {
    let prepared = PreparedActor::<A>::new(mailbox::bounded(capacity));
    let actor = prepared.actor_ref().clone();
    let published = Published(publish);
    let address = actor.clone();
    let started = async {
        if address
            .wait_for_startup_with_result(|result| result.is_ok())
            .await
        {
            published.0.send_replace(Some(address.clone()));
            cx.ready();
        }
    };
    let stop = async {
        cx.stopping().await;
        // Fails only when the actor has ended already.
        let _ = actor.stop_gracefully().await;
    };
    let mut running = pin!(prepared.run(args));
    let mut started = pin!(started);
    let mut stop = pin!(stop);
    let (mut is_started, mut is_stopped) = (false, false);
    let ended = std::future::poll_fn(|context| {
        if let Poll::Ready(ended) = running.as_mut().poll(context) {
            return Poll::Ready(ended);
        }
        is_started = is_started || started.as_mut().poll(context).is_ready();
        is_stopped = is_stopped || stop.as_mut().poll(context).is_ready();
        Poll::Pending
    })
    .await;
    match ended {
        Ok((_, reason)) if reason.is_normal() => Ok(()),
        Ok((_, reason)) => Err(reason.to_string().into()),
        Err(panic) => Err(panic.to_string().into()),
    }
}
