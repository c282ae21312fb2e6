//! A kameo actor under supervision: ready, failing, restarted, stopped.
#![cfg(feature = "kameo")]

use kameo::actor::{Actor, ActorRef};
use kameo::message::{Context, Message};
use ron_kernel::supervisor::Backoff;
use ron_kernel::Kernel;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

struct Adder {
    sum: u64,
    handled: Arc<AtomicU64>,
}

impl Actor for Adder {
    type Args = Arc<AtomicU64>;
    type Error = Infallible;

    async fn on_start(handled: Self::Args, _: ActorRef<Self>) -> Result<Self, Infallible> {
        Ok(Adder { sum: 0, handled })
    }
}

impl Message<u64> for Adder {
    type Reply = u64;

    async fn handle(&mut self, by: u64, _: &mut Context<Self, Self::Reply>) -> u64 {
        assert_ne!(by, 13, "thirteen");
        self.handled.fetch_add(1, Ordering::Relaxed);
        self.sum += by;
        self.sum
    }
}

#[tokio::test]
async fn a_panicking_actor_is_restarted_under_a_new_address_and_works_off_its_mailbox_when_stopped()
{
    let handled = Arc::new(AtomicU64::new(0));
    let args = handled.clone();
    let (child, adder) = ron_kernel::kameo::actor::<Adder, _>("adder", 16, move || args.clone());
    let kernel = Kernel::builder()
        .child(child.backoff(Backoff::NONE))
        .build()
        .unwrap();
    let running = kernel.start().await.unwrap();
    running.handle().ready().await;
    let first = adder.current().unwrap();
    assert_eq!(first.ask(1u64).await.unwrap(), 1);

    assert!(first.ask(13u64).await.is_err());
    first.wait_for_shutdown().await;
    while adder.current().is_none_or(|actor| actor.id() == first.id()) {
        tokio::task::yield_now().await;
    }
    let second = adder.current().unwrap();
    assert_eq!(second.ask(2u64).await.unwrap(), 2, "a fresh state");
    let node = &running.handle().tree()[0];
    assert_eq!((node.generation, node.restarts), (2, 1));
    let exit = running
        .handle()
        .explain("adder")
        .unwrap()
        .last_exit
        .unwrap();
    assert!(exit.to_string().contains("thirteen"), "{exit}");

    for _ in 0..5 {
        second.tell(1u64).await.unwrap();
    }
    let report = running.shutdown().await;
    assert_eq!((report.started, report.stopped), (1, 1));
    assert_eq!(
        handled.load(Ordering::Relaxed),
        7,
        "what was accepted was handled"
    );
    assert!(adder.current().is_none());
}
