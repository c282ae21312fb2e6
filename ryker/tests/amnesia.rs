//! Amnesia: messages that opted in are overwritten when they are dropped unhandled, and nothing crosses a restart.
#![cfg(not(loom))]

use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ryker::{Actor, Context, Mailbox, Reply, Runtime, RykerConfig, SendError};
use tokio::time::{advance, sleep, Instant};
use zeroize::Zeroize;

/// What the secrets held when their memory was given back.
#[derive(Clone, Default)]
struct Morgue(Arc<Mutex<Vec<String>>>);

impl Morgue {
    fn found(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

struct Secret {
    text: String,
    morgue: Morgue,
}

impl Zeroize for Secret {
    fn zeroize(&mut self) {
        self.text.zeroize();
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        let text = std::mem::take(&mut self.text);
        self.morgue.0.lock().unwrap().push(text);
    }
}

fn secret(morgue: &Morgue) -> Secret {
    Secret {
        text: String::from("hunter2"),
        morgue: morgue.clone(),
    }
}

fn forgetful(enabled: bool) -> Runtime {
    Runtime::new(RykerConfig::builder().amnesia(enabled).build().unwrap())
}

fn opted_in(rt: &Runtime) -> Mailbox<Secret> {
    rt.mailbox("m").capacity(4).zeroize().build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn whatever_is_dropped_unhandled_is_overwritten_first() {
    let (rt, morgue) = (forgetful(true), Morgue::default());
    let (sender, mut receiver) = opted_in(&rt).split();
    let fill = || {
        for _ in 0..3 {
            assert!(sender.try_send(secret(&morgue)).is_ok());
        }
    };
    // Expired, by every way to receive.
    for way in 0..3 {
        fill();
        advance(Duration::from_secs(2)).await;
        let waker = std::task::Waker::from(Arc::new(Deaf));
        let mut cx = std::task::Context::from_waker(&waker);
        match way {
            0 => assert!(receiver.try_recv().is_err()),
            1 => {
                let mut batch = Vec::new();
                let receiving = pin!(receiver.recv_many(&mut batch, 9));
                assert!(std::future::Future::poll(receiving, &mut cx).is_pending());
            }
            _ => {
                let receiving = pin!(receiver.recv());
                assert!(std::future::Future::poll(receiving, &mut cx).is_pending());
            }
        }
        assert_eq!(morgue.found(), ["", "", ""], "{way}");
    }
    // Drained away.
    fill();
    drop(rt.drain(Duration::ZERO).await);
    drop(receiver);
    assert_eq!(morgue.found(), ["", "", ""]);
    assert!(sender.accounts().balances());

    // Left behind by the receiver, some of them read ahead.
    let rt = forgetful(true);
    let (sender, mut receiver) = opted_in(&rt).split();
    for _ in 0..4 {
        assert!(sender.try_send(secret(&morgue)).is_ok());
    }
    drop(receiver.try_recv());
    assert_eq!(morgue.found(), ["hunter2"], "that one was handed out");
    drop(receiver);
    assert_eq!(morgue.found(), ["", "", ""]);

    // Never sent: it is the sender's.
    let refused = sender.try_send(secret(&morgue)).unwrap_err();
    assert!(matches!(refused, SendError::Closed(_)));
    assert_eq!(refused.into_inner().text, "hunter2");
    assert_eq!(morgue.found(), ["hunter2"]);
}

struct Deaf;

impl std::task::Wake for Deaf {
    fn wake(self: Arc<Self>) {}
}

/// A send that waits holds its message: given up, it is dropped unhandled.
#[tokio::test(start_paused = true)]
async fn a_message_dropped_with_its_send_is_dropped_by_who_dropped_it() {
    let (rt, morgue) = (forgetful(true), Morgue::default());
    let (sender, receiver) = opted_in(&rt).split();
    for _ in 0..4 {
        assert!(sender.try_send(secret(&morgue)).is_ok());
    }
    {
        let sending = sender.send(secret(&morgue));
        assert!(tokio::time::timeout(Duration::from_millis(10), sending)
            .await
            .is_err());
    }
    assert_eq!(morgue.found().len(), 1);
    drop(receiver);
    assert_eq!(morgue.found(), [""; 4]);
    assert!(sender.accounts().balances());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_overwritten_without_both_the_option_and_the_configuration() {
    let morgue = Morgue::default();
    for (enabled, opts_in) in [(false, true), (true, false), (false, false)] {
        let rt = forgetful(enabled);
        let builder = rt.mailbox("m");
        let builder = if opts_in { builder.zeroize() } else { builder };
        let (sender, receiver) = builder.build().unwrap().split();
        assert!(sender.try_send(secret(&morgue)).is_ok());
        drop(receiver);
        assert_eq!(morgue.found(), ["hunter2"], "{enabled} {opts_in}");
        assert!(sender.accounts().balances());
    }
}

#[test]
fn amnesia_without_overwriting_is_refused() {
    let config = RykerConfig::builder().amnesia(true).zeroize_on_drop(false);
    assert!(config.build().is_err());
}

struct Vault {
    seen: u32,
}

enum Order {
    Store(#[allow(dead_code)] Secret), // there to be dropped
    Nap,
    Fail,
    Seen(Reply<u32>),
}

impl Zeroize for Order {
    fn zeroize(&mut self) {
        if let Order::Store(secret) = self {
            secret.zeroize();
        }
    }
}

impl Actor for Vault {
    type Msg = Order;
    type Error = std::fmt::Error;

    async fn handle(&mut self, order: Order, _: &mut Context<Self>) -> Result<(), std::fmt::Error> {
        match order {
            Order::Store(_) => self.seen += 1,
            Order::Nap => sleep(Duration::from_millis(500)).await,
            Order::Fail => return Err(std::fmt::Error),
            Order::Seen(reply) => drop(reply.send(self.seen)),
        }
        Ok(())
    }
}

fn vault(config: ryker::config::RykerConfigBuilder) -> (Runtime, ryker::ActorRef<Order>) {
    let rt = Runtime::new(config.amnesia(true).build().unwrap());
    let vault = rt.actor("vault", || Vault { seen: 0 }).zeroize();
    let vault = vault.spawn().unwrap();
    (rt, vault)
}

#[tokio::test(start_paused = true)]
async fn messages_of_actors_are_overwritten_as_well() {
    let morgue = Morgue::default();
    // Expired behind a nap, then dropped by a drain.
    let (rt, actor) = vault(RykerConfig::builder());
    assert!(actor.try_send(Order::Nap).is_ok());
    let soon = (Instant::now() + Duration::from_millis(100)).into_std();
    let sent = actor.send_with_deadline(Order::Store(secret(&morgue)), soon);
    assert!(sent.await.is_ok());
    sleep(Duration::from_millis(600)).await;
    assert_eq!(morgue.found(), [""]);
    assert!(actor.try_send(Order::Nap).is_ok());
    assert!(actor.try_send(Order::Store(secret(&morgue))).is_ok());
    let report = rt.drain(Duration::from_millis(50)).await;
    assert_eq!((report.dropped, report.aborted), (1, 1));
    assert_eq!(morgue.found(), [""]);

    // Given up, and left behind by one that failed for good.
    let (_rt, actor) = vault(RykerConfig::builder().rapid_fail_threshold(1));
    assert!(actor.try_send(Order::Fail).is_ok());
    assert!(actor.try_send(Order::Store(secret(&morgue))).is_ok());
    assert!(actor.stopped().await.is_failure());
    assert_eq!(morgue.found(), [""]);
    assert!(actor.accounts().balances());
}

#[tokio::test(start_paused = true)]
async fn nothing_but_the_queue_crosses_a_restart() {
    let morgue = Morgue::default();
    let (_rt, actor) = vault(RykerConfig::builder());
    for order in [
        Order::Store(secret(&morgue)),
        Order::Fail,
        Order::Store(secret(&morgue)),
    ] {
        assert!(actor.try_send(order).is_ok());
    }
    assert_eq!(actor.ask(Order::Seen).await.unwrap(), 1);
    assert_eq!(
        morgue.found(),
        ["hunter2", "hunter2"],
        "handled, not dropped"
    );
    assert!(actor.accounts().balances());
}

/// An ask that was given up: its message is dropped unhandled.
#[tokio::test(start_paused = true)]
async fn an_abandoned_ask_is_overwritten() {
    struct Slow;
    struct Question(Secret, #[allow(dead_code)] Reply<()>); // there to be dropped
    impl Zeroize for Question {
        fn zeroize(&mut self) {
            self.0.zeroize();
            self.1.zeroize();
        }
    }
    impl Actor for Slow {
        type Msg = Option<Question>;
        type Error = Infallible;
        async fn handle(&mut self, _: Self::Msg, _: &mut Context<Self>) -> Result<(), Infallible> {
            sleep(Duration::from_millis(100)).await;
            Ok(())
        }
    }
    let (rt, morgue) = (forgetful(true), Morgue::default());
    let actor = rt.actor("slow", || Slow).zeroize().spawn().unwrap();
    assert!(actor.try_send(None).is_ok());
    let asking = actor.ask(|reply| Some(Question(secret(&morgue), reply)));
    assert!(tokio::time::timeout(Duration::from_millis(10), asking)
        .await
        .is_err());
    sleep(Duration::from_millis(200)).await;
    assert_eq!(morgue.found(), [""]);
    let accounts = actor.accounts();
    assert!(
        accounts.balances() && accounts.abandoned == 1,
        "{accounts:?}"
    );
}
