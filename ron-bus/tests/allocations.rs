//! In steady state the bus allocates nothing per publish and per receive.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use ron_bus::{Bus, BusConfig, Topic};

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

/// Allocations of this thread while `run` runs for the second time; the first warms up.
fn steady(mut run: impl FnMut()) -> u64 {
    run();
    let before = ALLOCATIONS.with(Cell::get);
    run();
    ALLOCATIONS.with(Cell::get) - before
}

fn topic(bus: &Bus, name: &str) -> Topic<[u64; 8]> {
    bus.topic_spec(name).capacity(64).json().open().unwrap()
}

struct Quiet;

impl Wake for Quiet {
    fn wake(self: Arc<Self>) {}
}

fn bus() -> Bus {
    Bus::new(BusConfig::default()).unwrap()
}

#[test]
fn the_counter_counts() {
    assert_eq!(steady(|| drop(Box::new(1_u8))), 1);
}

#[test]
fn publish_and_try_recv_allocate_nothing() {
    let topic = topic(&bus(), "t");
    let mut reader = topic.subscribe().unwrap();
    let mut filtering = topic
        .subscriber()
        .filter(|event| event[0] % 2 == 0)
        .build()
        .unwrap();
    let allocated = steady(|| {
        for n in 0..1000 {
            topic.publish([n; 8]).unwrap();
            topic.publish_control([n; 8]).unwrap();
            while let Some(_event) = reader.try_recv().unwrap() {}
            while let Some(_event) = filtering.try_recv().unwrap() {}
        }
    });
    assert_eq!(allocated, 0);
}

#[test]
fn overrunning_a_slow_reader_allocates_nothing() {
    let topic = topic(&bus(), "t");
    let mut slow = topic.subscribe().unwrap();
    let allocated = steady(|| {
        for n in 0..1000 {
            topic.publish([n; 8]).unwrap();
        }
        assert!(slow.try_recv().is_err());
        assert!(slow.try_recv().unwrap().is_some());
    });
    assert_eq!(allocated, 0);
}

#[test]
fn batches_allocate_nothing_once_the_buffer_has_its_size() {
    let topic = topic(&bus(), "t");
    let mut reader = topic.subscribe().unwrap();
    let waker = Waker::from(Arc::new(Quiet));
    let mut out = Vec::new();
    let allocated = steady(|| {
        for n in 0..100 {
            topic.publish_many((0..50).map(|m| [n * m; 8])).unwrap();
            let received =
                pin!(reader.recv_many(&mut out, 64)).poll(&mut Context::from_waker(&waker));
            assert_eq!(received, Poll::Ready(Ok(50)));
            out.clear();
        }
    });
    assert_eq!(allocated, 0);
}

#[test]
fn parking_and_waking_allocate_nothing() {
    let topic = topic(&bus(), "t");
    let mut readers: Vec<_> = (0..50).map(|_| topic.subscribe().unwrap()).collect();
    let waker = Waker::from(Arc::new(Quiet));
    let allocated = steady(|| {
        for n in 0..100 {
            for reader in &mut readers {
                assert!(pin!(reader.recv())
                    .poll(&mut Context::from_waker(&waker))
                    .is_pending());
            }
            topic.publish([n; 8]).unwrap();
            for reader in &mut readers {
                assert!(pin!(reader.recv())
                    .poll(&mut Context::from_waker(&waker))
                    .is_ready());
            }
        }
    });
    assert_eq!(allocated, 0);
}

#[test]
fn readers_that_come_wait_and_go_leave_nothing_behind() {
    let topic = topic(&bus(), "t");
    let waker = Waker::from(Arc::new(Quiet));
    let mut bytes = Vec::with_capacity(2);
    for _ in 0..2 {
        for _ in 0..1000 {
            let mut reader = topic.subscribe().unwrap();
            assert!(pin!(reader.recv())
                .poll(&mut Context::from_waker(&waker))
                .is_pending());
        }
        bytes.push(BYTES.with(Cell::get));
    }
    assert_eq!(bytes[0], bytes[1]);
}
