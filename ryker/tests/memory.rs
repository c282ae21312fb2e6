//! Memory is bounded: however much is sent, a mailbox holds its capacity and no more, and nothing outlives its use.
#![cfg(not(loom))]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context as Task, Wake, Waker};

use ryker::{Actor, Context, Receiver, Reply, Runtime, RykerConfig, Sender};

struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
}

#[allow(unsafe_code)] // a counting allocator has no safe interface; every call is passed on unchanged
                      // SAFETY: `System` upholds the contract, and counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

fn count(more: isize) {
    LIVE.with(|live| live.set(live.get() + more));
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that this thread has allocated and not given back.
fn live() -> isize {
    LIVE.with(Cell::get)
}

const CAPACITY: usize = 256;
/// What a slot takes at most: the message and what the mailbox knows of it.
const SLOT: isize = 128;

/// 64 bytes and as many on the heap.
struct Message([u64; 7], Box<[u64; 8]>);

impl Message {
    fn new(n: u64) -> Self {
        Self([n; 7], Box::new([n; 8]))
    }
}

fn open(runtime: &Runtime, name: &str) -> (Sender<Message>, Receiver<Message>) {
    let builder = runtime.mailbox(name.to_owned()).capacity(CAPACITY);
    builder.build().unwrap().split()
}

struct Quiet;

impl Wake for Quiet {
    fn wake(self: Arc<Self>) {}
}

fn is_pending<F: Future>(future: F) -> bool {
    let waker = Waker::from(Arc::new(Quiet));
    pin!(future)
        .poll(&mut Task::from_waker(&waker))
        .is_pending()
}

#[test]
fn a_mailbox_holds_its_capacity_however_much_is_sent() {
    let runtime = Runtime::new(RykerConfig::default());
    let (sender, mut receiver) = open(&runtime, "m");
    let empty = live();
    for n in 0..100_000 {
        let _busy_or_not = sender.try_send(Message::new(n));
    }
    let full = live() - empty;
    let messages = CAPACITY as isize * (SLOT + 64);
    assert!(full <= 2 * messages, "{full} bytes for {CAPACITY} messages");
    for n in 0..100_000 {
        let message = receiver.try_recv().unwrap();
        assert_eq!(message.0[0], message.1[0]);
        sender.try_send(Message::new(n)).unwrap();
    }
    // One queue is filled while the other is read.
    assert!(live() - empty <= full + 2 * messages);
}

#[test]
fn sends_that_wait_and_are_given_up_leave_nothing_behind() {
    let runtime = Runtime::new(RykerConfig::default());
    let (sender, _receiver) = open(&runtime, "m");
    (0..CAPACITY as u64).for_each(|n| assert!(sender.try_send(Message::new(n)).is_ok()));
    let mut after = Vec::with_capacity(2);
    for _ in 0..2 {
        for n in 0..1_000 {
            assert!(is_pending(sender.send(Message::new(n))));
        }
        after.push(live());
    }
    assert_eq!(after[0], after[1]);
}

#[test]
fn mailboxes_that_come_and_go_leave_nothing_behind() {
    let runtime = Runtime::new(RykerConfig::default());
    let mut after = Vec::with_capacity(3);
    for round in 0..3 {
        for n in 0..1_000 {
            let (sender, mut receiver) = open(&runtime, "m");
            assert!(is_pending(receiver.recv()));
            (0..n % 9).for_each(|n| assert!(sender.try_send(Message::new(n)).is_ok()));
            if n % 2 == 0 {
                drop(receiver);
                assert!(sender.try_send(Message::new(n)).is_err());
            }
        }
        after.push(live());
        assert_eq!(runtime.accounts().pending, 0, "{round}");
    }
    assert_eq!(after[1], after[2]);
}

#[test]
fn names_without_end_do_not_take_room_without_end() {
    let runtime = Runtime::new(RykerConfig::default());
    let open_and_go = |range: std::ops::Range<u32>| {
        range.for_each(|n| drop(open(&runtime, &format!("name-{n:08}"))));
        live()
    };
    let after_some = open_and_go(0..5_000);
    assert_eq!(open_and_go(5_000..20_000), after_some);
}

struct Sum(u64);

enum Msg {
    Add(Message),
    Total(Reply<u64>),
}

impl Actor for Sum {
    type Msg = Msg;
    type Error = Infallible;

    async fn handle(&mut self, message: Msg, _: &mut Context<Self>) -> Result<(), Infallible> {
        match message {
            Msg::Add(message) => self.0 += message.1[0],
            Msg::Total(reply) => drop(reply.send(self.0)),
        }
        Ok(())
    }
}

#[test]
fn actors_and_asks_leave_nothing_behind() {
    let executor = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let runtime = Runtime::new(RykerConfig::default());
    let mut after = Vec::with_capacity(3);
    for _ in 0..3 {
        for n in 0..300 {
            executor.block_on(async {
                let sum = runtime.spawn("sum", || Sum(0)).unwrap();
                assert!(sum.try_send(Msg::Add(Message::new(n))).is_ok());
                assert_eq!(sum.ask(Msg::Total).await.unwrap(), n);
                // Given up before it was answered.
                assert!(is_pending(sum.ask(Msg::Total)));
                sum.stop();
                sum.stopped().await;
            });
        }
        after.push(live());
    }
    assert_eq!(after[1], after[2]);
}
