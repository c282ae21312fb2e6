//! One flooding actor beside 999 quiet ones on one worker: how long the quiet ones wait.
#![cfg(not(loom))]

use std::convert::Infallible;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use ryker::{Actor, Context, Reply, Runtime, RykerConfig, SendError};

const QUIET: usize = 999;

/// Holds its worker for so long per message, without an await, that no turn is too short to end.
struct Flooded(Arc<AtomicU64>);

impl Actor for Flooded {
    type Msg = ();
    type Error = Infallible;

    async fn handle(&mut self, (): (), _: &mut Context<Self>) -> Result<(), Infallible> {
        let until = Instant::now() + Duration::from_micros(15);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Answers with how much of the flood was handled when its turn came.
struct Quiet(Arc<AtomicU64>);

impl Actor for Quiet {
    type Msg = Reply<u64>;
    type Error = Infallible;

    async fn handle(&mut self, reply: Reply<u64>, _: &mut Context<Self>) -> Result<(), Infallible> {
        let _ = reply.send(self.0.load(Ordering::Relaxed));
        Ok(())
    }
}

/// How many messages of the flood came before the answer of a quiet actor, at the 99th percentile.
fn flood(every: u32) -> u64 {
    let config = RykerConfig::builder().yield_every_n_msgs(every);
    let config = config.batch_messages(32).deadline(Duration::from_secs(60));
    let rt = Runtime::new(config.build().unwrap());
    let executor = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let handled = Arc::new(AtomicU64::new(0));
    let (flooded, quiet) = {
        let _inside = executor.enter();
        let count = Arc::clone(&handled);
        let flooded = rt.actor("flooded", move || Flooded(Arc::clone(&count)));
        let spawn_quiet = |_| {
            let count = Arc::clone(&handled);
            let quiet = rt.actor("quiet", move || Quiet(Arc::clone(&count)));
            quiet.capacity(4).spawn().unwrap()
        };
        let flooded = flooded.capacity(65_536).spawn().unwrap();
        (flooded, (0..QUIET).map(spawn_quiet).collect::<Vec<_>>())
    };
    let over = Arc::new(AtomicBool::new(false));
    let flooding = std::thread::spawn({
        let (flooded, over) = (flooded.clone(), Arc::clone(&over));
        move || {
            while !over.load(Ordering::Relaxed) {
                match flooded.try_send(()) {
                    Ok(()) => {}
                    Err(SendError::Busy(())) => std::thread::yield_now(),
                    Err(other) => panic!("{other}"),
                }
            }
        }
    });
    while flooded.depth() < 65_000 {
        std::thread::yield_now();
    }
    // From a task of the same worker, a hundred at once: more than its own queue holds would go to tokio's injection
    // queue, which a busy worker rarely looks at.
    let asking = executor.spawn(async move {
        let mut waits = Vec::new();
        for group in quiet.chunks(100) {
            let before = handled.load(Ordering::Relaxed);
            let mut asks: Vec<_> = group
                .iter()
                .map(|actor| Box::pin(actor.ask(|reply| reply)))
                .collect();
            std::future::poll_fn(|cx| {
                asks.retain_mut(|ask| match ask.as_mut().poll(cx) {
                    Poll::Ready(answer) => {
                        waits.push(answer.unwrap() - before);
                        false
                    }
                    Poll::Pending => true,
                });
                if asks.is_empty() {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            })
            .await;
        }
        waits
    });
    let mut waits = executor.block_on(asking).unwrap();
    waits.sort_unstable();
    let yields = flooded.accounts().yields;
    assert!(yields > 0);
    over.store(true, Ordering::Relaxed);
    flooding.join().unwrap();
    let report = executor.block_on(rt.drain(Duration::from_secs(60)));
    assert!(report.balances() && report.is_clean(), "{report:?}");
    assert!(rt.accounts().balances());
    waits[waits.len() * 99 / 100]
}

/// Counted in messages, not in time: the machine may be as slow as it likes.
#[test]
fn a_flooded_actor_does_not_starve_999_quiet_ones_on_one_worker() {
    let (fair, unfair) = (flood(64), flood(4_096));
    println!(
        "messages of the flood before 99 of 100 answers: {fair} with fairness, {unfair} without"
    );
    assert!(fair <= 2 * 64, "{fair}");
    assert!(unfair > 10 * fair, "{unfair}");
}

/// To the back of the queue. tokio's `yield_now` would come back only when the worker next looks for events.
async fn next_turn() {
    let mut is_next = false;
    std::future::poll_fn(|cx| {
        cx.waker().wake_by_ref();
        if std::mem::replace(&mut is_next, true) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

/// On a single thread the count is exact: no more than one run between two turns of a neighbour.
#[tokio::test]
async fn a_neighbour_has_its_turn_after_each_run() {
    for (every, batch) in [(64, 32), (10, 5), (1, 1), (200, 7)] {
        let config = RykerConfig::builder().yield_every_n_msgs(every);
        let rt = Runtime::new(config.batch_messages(batch).build().unwrap());
        let handled = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&handled);
        let flooded = rt.actor("flooded", move || Flooded(Arc::clone(&count)));
        let flooded = flooded.capacity(2_000).spawn().unwrap();
        for _ in 0..2_000 {
            flooded.try_send(()).unwrap();
        }
        let count = Arc::clone(&handled);
        let neighbour = tokio::spawn(async move {
            let (mut seen, mut most) = (0, 0);
            while seen < 2_000 {
                let now = count.load(Ordering::Relaxed);
                most = most.max(now - seen);
                seen = now;
                next_turn().await;
            }
            most
        });
        assert_eq!(neighbour.await.unwrap(), u64::from(every));
        let yields = flooded.accounts().yields;
        let expected = 2_000 / u64::from(every);
        assert!(
            yields.abs_diff(expected) <= 1,
            "{yields} instead of {expected}"
        );
        assert!(flooded.accounts().balances());
    }
}

/// What an actor sends to itself is a flood as well. Where time stands still every turn is counted.
#[tokio::test(start_paused = true)]
async fn an_actor_that_floods_itself_gives_way_too() {
    struct Endless;
    impl Actor for Endless {
        type Msg = ();
        type Error = Infallible;
        async fn handle(&mut self, (): (), cx: &mut Context<Self>) -> Result<(), Infallible> {
            if let Some(itself) = cx.actor_ref() {
                let _ = itself.try_send(());
            }
            Ok(())
        }
    }
    let rt = Runtime::new(RykerConfig::default());
    let endless = rt.spawn("endless", || Endless).unwrap();
    endless.try_send(()).unwrap();
    let neighbour = tokio::spawn(async {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    });
    neighbour.await.unwrap();
    let accounts = endless.accounts();
    assert!(accounts.yields >= 50 && accounts.balances(), "{accounts:?}");
    assert!(accounts.ok <= 202 * 64, "{accounts:?}");
    assert!(rt.drain(Duration::from_secs(10)).await.is_clean());
}
