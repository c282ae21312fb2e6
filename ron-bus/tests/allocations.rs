//! In steady state the bus allocates nothing per publish and per receive.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use ron_bus::{Bus, BusConfig, Class, Classify, Overflow, Subscriber, Topic};
use serde::Serialize;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<usize> = const { Cell::new(0) };
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
        BYTES.with(|bytes| bytes.set(bytes.get().wrapping_sub(layout.size())));
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
    ALLOCATIONS.with(|count| count.set(count.get() + 1));
    BYTES.with(|bytes| bytes.set(bytes.get().wrapping_add(more).wrapping_sub(less)));
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of this thread while `run` runs for the third time; the others warm up, twice because a buffer that is
/// filled while another is read takes its turn.
fn steady(mut run: impl FnMut()) -> u64 {
    run();
    run();
    let before = ALLOCATIONS.with(Cell::get);
    run();
    ALLOCATIONS.with(Cell::get) - before
}

/// As large as an event of the benchmarks.
#[derive(Debug, Clone, Copy, Serialize, PartialEq, Eq)]
struct Event([u64; 8]);

impl Classify for Event {
    fn class(&self) -> Class {
        Class::new((self.0[0] % 64) as u8).unwrap()
    }
}

fn event(n: u64) -> Event {
    Event([n; 8])
}

fn topic() -> Topic<Event> {
    let bus = Bus::new(BusConfig::default()).unwrap();
    bus.topic_spec("t").capacity(64).json().open().unwrap()
}

fn reader(topic: &Topic<Event>, overflow: Overflow<Event>) -> Subscriber<Event> {
    topic.subscriber().overflow(overflow).build().unwrap()
}

fn block() -> Overflow<Event> {
    Overflow::Block {
        deadline: Duration::from_secs(1),
    }
}

fn conflate() -> Overflow<Event> {
    Overflow::Conflate {
        key: |event| event.0[0] % 16,
        max_keys: 16,
    }
}

fn every_policy() -> [Overflow<Event>; 4] {
    [
        Overflow::DropOldest,
        Overflow::Disconnect,
        block(),
        conflate(),
    ]
}

struct Quiet;

impl Wake for Quiet {
    fn wake(self: Arc<Self>) {}
}

fn quiet() -> Waker {
    Waker::from(Arc::new(Quiet))
}

fn is_pending<F: Future>(future: F, waker: &Waker) -> bool {
    let mut cx = Context::from_waker(waker);
    pin!(future).poll(&mut cx).is_pending()
}

#[test]
fn the_counter_counts() {
    assert_eq!(steady(|| drop(Box::new(1_u8))), 1);
}

#[test]
fn publish_and_try_recv_allocate_nothing_whatever_the_policy() {
    for overflow in every_policy() {
        let topic = topic();
        let mut reader = reader(&topic, overflow);
        let allocated = steady(|| {
            for n in 0..1000 {
                topic.publish(event(n)).unwrap();
                topic.publish_control(event(n)).unwrap();
                let received = std::iter::from_fn(|| reader.try_recv().unwrap());
                assert_eq!(received.count(), 2);
            }
        });
        assert_eq!(allocated, 0);
    }
}

#[test]
fn filters_and_interest_allocate_nothing() {
    let topic = topic();
    let mut readers = [
        topic.subscriber().filter(|event| event.0[0] % 2 == 0),
        topic.subscriber().interest(Class::at::<7>()),
        topic
            .subscriber()
            .interest(Class::at::<8>())
            .overflow(block()),
        topic
            .subscriber()
            .interest(Class::at::<9>())
            .overflow(conflate()),
    ]
    .map(|builder| builder.build().unwrap());
    let waker = quiet();
    let allocated = steady(|| {
        for n in 0..1000 {
            for reader in &mut readers {
                while let Some(_event) = reader.try_recv().unwrap() {}
                assert!(is_pending(reader.recv(), &waker));
            }
            topic.publish(event(n)).unwrap();
            topic.publish_control(event(n + 1)).unwrap();
        }
    });
    assert_eq!(allocated, 0);
}

#[test]
fn readers_that_always_lag_cost_no_allocation() {
    let few_keys = Overflow::Conflate {
        key: |event: &Event| event.0[0] % 16,
        max_keys: 8,
    };
    for overflow in [Overflow::DropOldest, block(), conflate(), few_keys] {
        let topic = topic();
        let name = format!("{overflow:?}");
        let mut slow = reader(&topic, overflow);
        let mut missed = 0;
        let allocated = steady(|| {
            for n in 0..5000 {
                topic.publish(event(n * 7)).unwrap();
                topic.publish_many((0..10).map(|m| event(n + m))).unwrap();
                if n % 50 == 0 {
                    missed += u64::from(slow.try_recv().is_err());
                }
            }
            while !matches!(slow.try_recv(), Ok(None)) {}
        });
        assert_eq!(allocated, 0, "{name}");
        let account = slow.account();
        assert!(account.is_balanced());
        assert!(account.lost.overflowed() + account.conflated > 100_000);
        assert_eq!(missed > 0, account.lost.overflowed() > 0);
    }
}

#[test]
fn batches_allocate_nothing_once_the_buffer_has_its_size() {
    for overflow in every_policy() {
        let topic = topic();
        let mut reader = reader(&topic, overflow);
        let waker = quiet();
        let mut out = Vec::new();
        let allocated = steady(|| {
            for n in 0..100 {
                topic.publish_many((0..50).map(|m| event(n * m))).unwrap();
                let received =
                    pin!(reader.recv_many(&mut out, 64)).poll(&mut Context::from_waker(&waker));
                assert!(matches!(received, Poll::Ready(Ok(1..=50))));
                out.clear();
            }
        });
        assert_eq!(allocated, 0);
    }
}

#[test]
fn parking_and_waking_allocate_nothing() {
    for overflow in [0, 1, 2, 3] {
        let topic = topic();
        let mut readers: Vec<_> = (0..50)
            .map(|_| {
                let [a, b, c, d] = every_policy();
                let chosen = [Some(a), Some(b), Some(c), Some(d)][overflow].take();
                reader(&topic, chosen.unwrap())
            })
            .collect();
        let waker = quiet();
        let allocated = steady(|| {
            for n in 0..100 {
                for reader in &mut readers {
                    assert!(is_pending(reader.recv(), &waker));
                }
                topic.publish(event(n)).unwrap();
                for reader in &mut readers {
                    assert!(!is_pending(reader.recv(), &waker));
                }
            }
        });
        assert_eq!(allocated, 0);
    }
}

#[test]
fn publish_wait_with_room_allocates_nothing() {
    let topic = topic();
    let mut reader = reader(&topic, block());
    let waker = quiet();
    let allocated = steady(|| {
        for n in 0..1000 {
            assert!(!is_pending(topic.publish_wait(event(n)), &waker));
            assert!(reader.try_recv().unwrap().is_some());
        }
    });
    assert_eq!(allocated, 0);
}

#[test]
fn keyed_control_events_that_conflate_allocate_nothing() {
    let topic = topic();
    let mut readers = every_policy().map(|overflow| reader(&topic, overflow));
    let allocated = steady(|| {
        for n in 0..1000 {
            topic.publish_control_keyed(n % 16, event(n)).unwrap();
            if n % 200 == 199 {
                for reader in &mut readers {
                    let received = std::iter::from_fn(|| reader.try_recv().unwrap());
                    assert_eq!(received.count(), 16);
                }
            }
        }
    });
    assert_eq!(allocated, 0);
    assert!(readers.iter().all(|reader| reader.account().conflated > 0));
}

#[test]
fn overwriting_unread_control_events_allocates_nothing() {
    let topic = topic();
    let slow = reader(&topic, Overflow::DropOldest);
    let allocated = steady(|| {
        for n in 0..1000 {
            topic.publish_control(event(n)).unwrap();
        }
    });
    assert_eq!(allocated, 0);
    assert_eq!(slow.account().lost.lagged, 3000 - 16);
}

#[test]
fn the_depth_of_the_queues_is_told_without_an_allocation() {
    let topic = topic();
    let _readers = every_policy().map(|overflow| reader(&topic, overflow));
    topic.publish_many((0..10).map(event)).unwrap();
    let allocated = steady(|| assert_eq!(topic.queue_depth(), 10));
    assert_eq!(allocated, 0);
}

#[test]
fn readers_that_come_wait_and_go_leave_nothing_behind() {
    let topic = topic();
    let waker = quiet();
    let mut bytes = Vec::with_capacity(2);
    for _ in 0..2 {
        for _ in 0..1000 {
            for overflow in every_policy() {
                let mut reader = reader(&topic, overflow);
                assert!(is_pending(reader.recv(), &waker));
                topic.publish_many((0..5).map(event)).unwrap();
                topic.publish_control_keyed(1, event(1)).unwrap();
            }
        }
        bytes.push(BYTES.with(Cell::get));
    }
    assert_eq!(bytes[0], bytes[1]);
}
