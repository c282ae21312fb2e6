//! Who is woken: readers that wait, once, by the waker of their last poll, and never too late.

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Wake, Waker};

use ron_bus::{Bus, BusConfig, Topic};

fn topic(capacity: usize) -> Topic<u32> {
    let bus = Bus::new(BusConfig::default()).unwrap();
    bus.topic_spec("t").capacity(capacity).open().unwrap()
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Wakes {
    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

#[test]
fn only_parked_readers_are_woken_and_only_once_each() {
    let topic = topic(4);
    let mut parked: Vec<_> = (0..100).map(|_| topic.subscribe().unwrap()).collect();
    let _busy = topic.subscribe().unwrap();
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let mut cx = Context::from_waker(&waker);
    for reader in &mut parked {
        assert!(pin!(reader.recv()).poll(&mut cx).is_pending());
        assert!(
            pin!(reader.recv()).poll(&mut cx).is_pending(),
            "polled again while parked"
        );
    }
    parked.truncate(70);
    topic.publish(1).unwrap();
    assert_eq!(wakes.count(), 70);
    topic.publish(2).unwrap();
    assert_eq!(wakes.count(), 70);
}

#[test]
fn the_waker_of_the_last_poll_is_the_one_that_is_woken() {
    let topic = topic(4);
    let mut reader = topic.subscribe().unwrap();
    let (first, second) = (Arc::new(Wakes::default()), Arc::new(Wakes::default()));
    for wakes in [&first, &second] {
        let waker = Waker::from(Arc::clone(wakes));
        assert!(pin!(reader.recv())
            .poll(&mut Context::from_waker(&waker))
            .is_pending());
    }
    topic.publish(1).unwrap();
    assert_eq!((first.count(), second.count()), (0, 1));
}

thread_local! {
    static ON_CLONE: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

/// A waker that does nothing but run `ON_CLONE` when it is cloned.
#[allow(unsafe_code)] // no safe waker has a hook in its clone
fn waker_with_hook() -> Waker {
    fn clone(_: *const ()) -> RawWaker {
        let armed = ON_CLONE.with(|hook| hook.borrow_mut().take());
        if let Some(run) = armed {
            run();
        }
        RawWaker::new(std::ptr::null(), &VTABLE)
    }
    static VTABLE: RawWakerVTable = RawWakerVTable::new(clone, |_| {}, |_| {}, |_| {});
    // SAFETY: the functions of the table ignore the pointer and keep no state, so every contract of theirs holds.
    unsafe { Waker::from_raw(RawWaker::new(std::ptr::null(), &VTABLE)) }
}

#[test]
fn an_event_published_while_the_reader_is_about_to_park_is_not_slept_through() {
    let topic = topic(4);
    let mut reader = topic.subscribe().unwrap();
    let publisher = topic.clone();
    ON_CLONE.with(|hook| {
        hook.replace(Some(Box::new(move || {
            assert_eq!(publisher.publish(7).unwrap().seq, 1)
        })));
    });
    let waker = waker_with_hook();
    let polled = pin!(reader.recv()).poll(&mut Context::from_waker(&waker));
    assert!(matches!(polled, Poll::Ready(Ok(delivery)) if delivery.event == 7));
}
