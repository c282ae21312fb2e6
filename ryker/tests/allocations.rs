//! In steady state a mailbox allocates nothing per message, and an ask a fixed number of times.
#![cfg(not(loom))]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use ryker::{
    Actor, ActorRef, Context, MailboxBuilder, MessageSize, Receiver, Reply, Runtime, RykerConfig,
    SendError, Sender,
};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

#[allow(unsafe_code)] // a counting allocator has no safe interface; every call is passed on unchanged
                      // SAFETY: `System` upholds the contract, and counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of this thread while `run` runs for the third time; the others warm up, twice because the queue that is
/// filled while another is read takes its turn.
fn steady(mut run: impl FnMut()) -> u64 {
    run();
    run();
    let before = ALLOCATIONS.with(Cell::get);
    run();
    ALLOCATIONS.with(Cell::get) - before
}

const CAPACITY: usize = 64;
/// Longer than the first bucket of histograms, however late the coarse clock is.
const SLOW: Duration = Duration::from_millis(30);

/// As large as a message of the benchmarks.
#[derive(Debug, Clone, Copy)]
struct Message([u64; 8]);

impl MessageSize for Message {
    fn message_size(&self) -> usize {
        self.0[0] as usize
    }
}

fn message(n: usize) -> Message {
    Message([n as u64; 8])
}

type Ends = (Sender<Message>, Receiver<Message>);

fn open(set: impl FnOnce(MailboxBuilder<Message>) -> MailboxBuilder<Message>) -> Ends {
    let runtime = Runtime::new(RykerConfig::default());
    let builder = runtime.mailbox("m").capacity(CAPACITY);
    let (sender, mut receiver) = set(builder).build().unwrap().split();
    // The first message that was not quick has a histogram made.
    sender.try_send(message(1)).unwrap();
    thread::sleep(SLOW);
    receiver.try_recv().unwrap();
    (sender, receiver)
}

fn both() -> [Ends; 2] {
    [open(|builder| builder), open(MailboxBuilder::measured)]
}

struct Quiet;

impl Wake for Quiet {
    fn wake(self: Arc<Self>) {}
}

fn quiet() -> Waker {
    Waker::from(Arc::new(Quiet))
}

fn poll<F: Future>(future: F, waker: &Waker) -> Poll<F::Output> {
    pin!(future).poll(&mut Task::from_waker(waker))
}

#[test]
fn the_counter_counts() {
    assert_eq!(steady(|| drop(Box::new(1_u8))), 1);
}

#[test]
fn sending_and_receiving_allocate_nothing() {
    for (sender, mut receiver) in both() {
        let waker = quiet();
        let allocated = steady(|| {
            for n in 0..1_000 {
                sender.try_send(message(n)).unwrap();
                assert!(poll(sender.send(message(n)), &waker).is_ready());
                assert_eq!(receiver.try_recv().unwrap().0[0], n as u64);
                // Pending where it gives way.
                while poll(receiver.recv(), &waker).is_pending() {}
            }
        });
        assert_eq!(allocated, 0);
    }
}

#[test]
fn a_mailbox_that_is_filled_and_emptied_allocates_nothing() {
    for (sender, mut receiver) in both() {
        let allocated = steady(|| {
            for _ in 0..20 {
                (0..CAPACITY).for_each(|n| sender.try_send(message(n)).unwrap());
                (0..CAPACITY).for_each(|_| assert!(receiver.try_recv().is_ok()));
            }
        });
        assert_eq!(allocated, 0);
    }
}

#[test]
fn batches_allocate_nothing_once_the_buffer_has_its_size() {
    for (sender, mut receiver) in both() {
        let waker = quiet();
        let mut batch = Vec::new();
        let allocated = steady(|| {
            for _ in 0..50 {
                (0..CAPACITY).for_each(|n| sender.try_send(message(n)).unwrap());
                let mut left = CAPACITY;
                while left > 0 {
                    // Pending where it gives way.
                    if let Poll::Ready(count) = poll(receiver.recv_many(&mut batch, 32), &waker) {
                        left -= count;
                    }
                    batch.clear();
                }
            }
        });
        assert_eq!(allocated, 0);
    }
}

#[test]
fn parking_and_waking_allocate_nothing() {
    for (sender, mut receiver) in both() {
        let waker = quiet();
        let allocated = steady(|| {
            for n in 0..1_000 {
                assert!(poll(receiver.recv(), &waker).is_pending());
                sender.try_send(message(n)).unwrap();
                assert!(poll(receiver.recv(), &waker).is_ready());
            }
        });
        assert_eq!(allocated, 0);
    }
}

#[test]
fn refusals_allocate_nothing() {
    for (sender, _receiver) in both() {
        (0..CAPACITY).for_each(|n| sender.try_send(message(n)).unwrap());
        let allocated = steady(|| {
            for n in 0..1_000 {
                let refused = sender.try_send(message(n));
                assert!(matches!(refused, Err(SendError::Busy(_))));
            }
        });
        assert_eq!(allocated, 0);
        assert_eq!(sender.accounts().refused.busy, 3_000);
    }
}

#[test]
fn the_depth_and_the_accounts_are_told_without_an_allocation() {
    for (sender, receiver) in both() {
        sender.try_send(message(1)).unwrap();
        let allocated = steady(|| {
            assert_eq!((sender.depth(), receiver.depth()), (1, 1));
            assert!(sender.accounts().balances());
        });
        assert_eq!(allocated, 0);
    }
}

struct Sum(u64);

enum Msg {
    Add(u64),
    Nap,
    Total(Reply<u64>),
}

impl Actor for Sum {
    type Msg = Msg;
    type Error = Infallible;

    async fn handle(&mut self, message: Msg, _: &mut Context<Self>) -> Result<(), Infallible> {
        match message {
            Msg::Add(n) => self.0 += n,
            Msg::Nap => thread::sleep(SLOW),
            Msg::Total(reply) => drop(reply.send(self.0)),
        }
        Ok(())
    }
}

/// Allocations of `count` turns of `work` with an actor, on the one thread that both share, after twice as many.
fn of_an_actor<F: Future<Output = ()>>(count: u64, work: impl Fn(ActorRef<Msg>) -> F) -> u64 {
    let executor = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let runtime = Runtime::new(RykerConfig::default());
    let sum = executor.block_on(async { runtime.spawn("sum", || Sum(0)).unwrap() });
    let allocated = executor.block_on(async {
        // One that is slow, and one that waits for it.
        sum.try_send(Msg::Nap).unwrap();
        sum.try_send(Msg::Nap).unwrap();
        let mut before = 0;
        for turn in 0..3 * count {
            if turn == 2 * count {
                before = ALLOCATIONS.with(Cell::get);
            }
            work(sum.clone()).await;
        }
        ALLOCATIONS.with(Cell::get) - before
    });
    assert!(sum.accounts().ok >= 3 * count - 64);
    allocated
}

#[test]
fn telling_an_actor_and_its_handling_allocate_nothing() {
    let allocated = of_an_actor(1_000, |sum| async move {
        sum.try_send(Msg::Add(1)).unwrap();
        tokio::task::yield_now().await;
    });
    assert_eq!(allocated, 0);
}

#[test]
fn a_send_to_an_actor_that_has_room_allocates_nothing() {
    let allocated = of_an_actor(1_000, |sum| async move {
        sum.send(Msg::Add(1)).await.unwrap();
        tokio::task::yield_now().await;
    });
    assert_eq!(allocated, 0);
}

#[test]
fn an_ask_allocates_what_caller_and_handler_share_and_nothing_else() {
    let allocated = of_an_actor(1_000, |sum| async move {
        sum.ask(Msg::Total).await.unwrap();
    });
    assert_eq!(allocated, 1_000, "one per ask");
}

#[test]
fn a_deadline_of_ones_own_costs_an_ask_nothing_more() {
    let allocated = of_an_actor(1_000, |sum| async move {
        let deadline = std::time::Instant::now() + Duration::from_millis(500);
        sum.ask_with_deadline(Msg::Total, deadline).await.unwrap();
    });
    assert_eq!(allocated, 1_000, "one per ask");
}
