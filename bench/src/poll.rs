//! What supervision adds to a poll: the mark that lets the watchdog name who holds a worker, the look at
//! the flags, the guard against panics.

use crate::harness::{Goal, Group};
use ron_kernel::supervisor::Child;
use ron_kernel::Kernel;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;
use tokio::runtime::Runtime;
use tokio::sync::Notify;

pub const NAMES: &[&str] = &["poll"];

const POLLS: u32 = 1_000_000;

pub fn groups() -> Vec<Group> {
    let group = Group::new(
        "poll",
        "a task that wakes itself 10^6 times, current_thread runtime",
        "tokio::spawn, boxed",
    )
    .measure("a poll", "ns")
    .case("ron-kernel child", ron)
    .case("tokio::spawn, boxed", || bare(true))
    .case("tokio::spawn", || bare(false))
    .difference(
        "ron-kernel child, less boxed",
        "ron-kernel child",
        "tokio::spawn, boxed",
    )
    .difference(
        "ron-kernel child, less bare",
        "ron-kernel child",
        "tokio::spawn",
    )
    .goal("a poll", "ron-kernel child, less bare", Goal::AtMost(25.0))
    .note("The scheduler's share is in both terms. No tracing subscriber.");
    vec![group]
}

struct Meter {
    ns: AtomicU64,
    done: Notify,
}

impl Meter {
    fn new() -> Arc<Meter> {
        Arc::new(Meter {
            ns: AtomicU64::new(0),
            done: Notify::new(),
        })
    }

    async fn run(self: Arc<Self>) {
        let mut began = None;
        let mut left = POLLS;
        poll_fn(|cx| {
            began.get_or_insert_with(Instant::now);
            if left == 0 {
                return Poll::Ready(());
            }
            left -= 1;
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
        let ns = began.map_or(0, |began| began.elapsed().as_nanos());
        self.ns.store(ns as u64, Ordering::Release);
        self.done.notify_one();
    }

    fn ns_per_poll(&self) -> f64 {
        self.ns.load(Ordering::Acquire) as f64 / f64::from(POLLS)
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        // The scheduler looks for timers every so many polls; seldom, so that this is about the polls.
        .event_interval(1000)
        .build()
        .expect("a runtime")
}

fn ron() -> Vec<f64> {
    let meter = Meter::new();
    let child = Child::task_with("busy", Arc::clone(&meter), |_, meter| meter.run());
    let kernel = Kernel::builder().child(child).build().expect("a tree");
    runtime().block_on(async {
        let running = kernel.start().await.expect("a runtime");
        meter.done.notified().await;
        assert!(running.shutdown().await.is_balanced());
    });
    vec![meter.ns_per_poll()]
}

fn bare(boxed: bool) -> Vec<f64> {
    let meter = Meter::new();
    runtime().block_on(async {
        let future = Arc::clone(&meter).run();
        let task = if boxed {
            tokio::spawn(Box::pin(future))
        } else {
            tokio::spawn(future)
        };
        task.await.expect("it does not panic");
    });
    vec![meter.ns_per_poll()]
}
