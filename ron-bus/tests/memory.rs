//! Memory is bounded: however much is published, readers that stall hold what they may hold and no more.
//!
//! `RON_TEST_FULL=1` publishes ten million events instead of one.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use ron_bus::{Bus, BusConfig, Class, Classify, Overflow, RecvError, Start, Subscriber, Topic};

struct Counting;

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
}

#[allow(unsafe_code)] // a counting allocator has no safe interface; every call is passed on unchanged
                      // SAFETY: `System` upholds the contract, and counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

fn count(more: usize, less: usize) {
    LIVE.with(|live| live.set(live.get().wrapping_add(more).wrapping_sub(less)));
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn live() -> usize {
    LIVE.with(Cell::get)
}

fn rounds() -> u64 {
    let full = std::env::var("RON_TEST_FULL").is_ok_and(|value| value == "1");
    if full {
        1000
    } else {
        100
    }
}

/// Events of each round.
const ROUND: u64 = 10_000;

/// Owns memory, and is counted while it lives.
struct Event(Box<u64>, Arc<AtomicI64>);

impl Event {
    fn new(n: u64, alive: &Arc<AtomicI64>) -> Self {
        alive.fetch_add(1, Ordering::Relaxed);
        Self(Box::new(n), Arc::clone(alive))
    }
}

impl Clone for Event {
    fn clone(&self) -> Self {
        Self::new(*self.0, &self.1)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        self.1.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Classify for Event {
    fn class(&self) -> Class {
        Class::new((*self.0 % 64) as u8).unwrap()
    }
}

const CAPACITY: usize = 128;
const MAX_KEYS: usize = 32;

fn topic() -> Topic<Event> {
    let bus = Bus::new(BusConfig::default()).unwrap();
    bus.topic_spec("t").capacity(CAPACITY).open().unwrap()
}

fn policies() -> [Overflow<Event>; 4] {
    [
        Overflow::DropOldest,
        Overflow::Disconnect,
        Overflow::Block {
            deadline: Duration::from_secs(1),
        },
        Overflow::Conflate {
            key: |event| *event.0 % 40,
            max_keys: MAX_KEYS,
        },
    ]
}

/// Publishes a round in every way there is.
fn publish(topic: &Topic<Event>, alive: &Arc<AtomicI64>) {
    let event = |n| Event::new(n, alive);
    for n in 0..ROUND / 2 {
        topic.publish(event(n)).unwrap();
        if n % 50 == 0 {
            topic.publish_control(event(n)).unwrap();
            topic.publish_control_keyed(n % 20, event(n)).unwrap();
        }
    }
    topic.publish_many((0..ROUND / 2).map(event)).unwrap();
}

#[test]
fn stalled_readers_of_every_policy_hold_no_more_after_millions_of_events() {
    let topic = topic();
    let alive = Arc::new(AtomicI64::new(0));
    let mut stalled: Vec<Subscriber<Event>> = Vec::new();
    for start in [Start::Live, Start::Retained(50)] {
        for overflow in policies() {
            let builder = topic.subscriber().overflow(overflow).start(start);
            stalled.push(builder.build().unwrap());
        }
        topic
            .publish_many((0..64).map(|n| Event::new(n, &alive)))
            .unwrap();
    }
    let narrow = topic.subscriber().interest(Class::at::<9>());
    stalled.push(narrow.build().unwrap());
    publish(&topic, &alive);
    let (bytes, events) = (live(), alive.load(Ordering::Relaxed));
    // The ring, its control slots and the few that are still on their way out; per reader a buffer, or two rounds of
    // keys, the control events, and what it began with.
    let ring = CAPACITY + 16 + 64;
    let queued = 2 * (CAPACITY + 2 * MAX_KEYS) + 9 * 16 + 2 * 50;
    assert!(events as usize <= ring + queued, "{events} alive");
    let mut highest = (bytes, events);
    for _ in 0..rounds() {
        publish(&topic, &alive);
        highest = (
            highest.0.max(live()),
            highest.1.max(alive.load(Ordering::Relaxed)),
        );
    }
    assert!(
        highest.0 <= bytes + bytes / 50,
        "{bytes} grew to {}",
        highest.0
    );
    assert!(highest.1 <= events + 64, "{events} grew to {}", highest.1);
    let stats = topic.stats();
    assert!(stats.readers.iter().all(|r| r.account.is_balanced()));
    assert!(stats.seq >= rounds() * ROUND);
    drop((stalled, topic));
    assert_eq!(alive.load(Ordering::Relaxed), 0, "nothing is forgotten");
}

struct Quiet;

impl Wake for Quiet {
    fn wake(self: Arc<Self>) {}
}

#[test]
fn a_parked_reader_nobody_publishes_for_holds_nothing() {
    let topic = topic();
    let alive = Arc::new(AtomicI64::new(0));
    publish(&topic, &alive);
    let mut readers = policies().map(|overflow| {
        let builder = topic.subscriber().overflow(overflow);
        builder.interest(Class::at::<63>()).build().unwrap()
    });
    let waker = Waker::from(Arc::new(Quiet));
    for reader in &mut readers {
        let mut receive = pin!(reader.recv());
        assert!(receive
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending());
    }
    let (bytes, events) = (live(), alive.load(Ordering::Relaxed));
    for _ in 0..20 {
        topic
            .publish_many((0..ROUND).map(|n| Event::new(n % 63, &alive)))
            .unwrap();
    }
    assert!(live() <= bytes + bytes / 50);
    assert!(alive.load(Ordering::Relaxed) <= events + 64);
    assert_eq!(topic.queue_depth(), 0);
}

#[test]
fn conflated_and_refused_events_are_dropped_at_once() {
    let topic = topic();
    let alive = Arc::new(AtomicI64::new(0));
    let [_, _, block, conflate] = policies();
    let block = topic.subscriber().overflow(block).build().unwrap();
    let conflate = topic.subscriber().overflow(conflate).build().unwrap();
    topic
        .publish_many((0..10_000).map(|n| Event::new(n, &alive)))
        .unwrap();
    let (in_block, in_conflate) = (block.account().pending, conflate.account().pending);
    assert_eq!((in_block, in_conflate), (CAPACITY as u64, MAX_KEYS as u64));
    let held = alive.load(Ordering::Relaxed);
    drop(block);
    assert_eq!(held - alive.load(Ordering::Relaxed), CAPACITY as i64);
    drop(conflate);
    assert_eq!(
        held - alive.load(Ordering::Relaxed),
        (CAPACITY + MAX_KEYS) as i64
    );
}

#[test]
fn what_readers_held_on_to_goes_when_they_do() {
    for start in [Start::Live, Start::Retained(CAPACITY)] {
        for overflow in 0..4 {
            let topic = topic();
            let alive = Arc::new(AtomicI64::new(0));
            publish(&topic, &alive);
            let events = alive.load(Ordering::Relaxed);
            let mut readers = Vec::new();
            // Each stalls at another time, holding other parts of the ring.
            for _ in 0..50 {
                let overflow = policies().into_iter().nth(overflow).unwrap();
                let builder = topic.subscriber().overflow(overflow).start(start);
                let mut reader = builder.build().unwrap();
                topic
                    .publish_many((0..3).map(|n| Event::new(n, &alive)))
                    .unwrap();
                // The first may be a gap, and a strict reader may be cut off.
                drop((reader.try_recv(), reader.try_recv()));
                readers.push(reader);
                topic
                    .publish_many((0..300).map(|n| Event::new(n, &alive)))
                    .unwrap();
            }
            drop(readers);
            publish(&topic, &alive);
            let now = alive.load(Ordering::Relaxed);
            assert!(
                now <= events + 64,
                "{events} events became {now}: policy {overflow}, {start:?}"
            );
        }
    }
}

#[test]
fn what_a_reader_held_on_to_goes_when_it_catches_up() {
    for overflow in 0..4 {
        let topic = topic();
        let alive = Arc::new(AtomicI64::new(0));
        publish(&topic, &alive);
        let events = alive.load(Ordering::Relaxed);
        let policy = policies().into_iter().nth(overflow).unwrap();
        let builder = topic.subscriber().overflow(policy);
        let mut reader = builder.start(Start::Retained(CAPACITY)).build().unwrap();
        for _ in 0..20 {
            publish(&topic, &alive);
            while !matches!(
                reader.try_recv(),
                Ok(None) | Err(RecvError::Disconnected(_))
            ) {}
        }
        publish(&topic, &alive);
        while !matches!(
            reader.try_recv(),
            Ok(None) | Err(RecvError::Disconnected(_))
        ) {}
        let now = alive.load(Ordering::Relaxed);
        assert!(
            now <= events + 64,
            "{events} events became {now}: policy {overflow}"
        );
    }
}
