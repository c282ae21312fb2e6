//! Events whose own code panics or calls back into the bus: nobody else is harmed.

use std::future::Future;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};

use ron_bus::{Bus, BusConfig, Delivery, Overflow, RecvError, Subscriber, Topic};

type Hook = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

/// An event that runs its hooks, once each, when it is cloned and when it is dropped.
struct Bomb {
    id: u32,
    on_clone: Hook,
    on_drop: Hook,
}

fn fire(hook: &Hook) {
    let armed = hook.lock().unwrap().take();
    if let Some(run) = armed {
        run();
    }
}

impl Clone for Bomb {
    fn clone(&self) -> Self {
        fire(&self.on_clone);
        Self::quiet(self.id)
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        fire(&self.on_drop);
    }
}

impl Bomb {
    fn quiet(id: u32) -> Self {
        Self {
            id,
            on_clone: Hook::default(),
            on_drop: Hook::default(),
        }
    }

    fn on_clone(id: u32, run: impl FnOnce() + Send + 'static) -> Self {
        let bomb = Self::quiet(id);
        *bomb.on_clone.lock().unwrap() = Some(Box::new(run));
        bomb
    }

    fn on_drop(id: u32, run: impl FnOnce() + Send + 'static) -> Self {
        let bomb = Self::quiet(id);
        *bomb.on_drop.lock().unwrap() = Some(Box::new(run));
        bomb
    }
}

/// Counts how often it wakes; the second field makes it panic then.
struct Loud(AtomicUsize, bool);

impl Wake for Loud {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
        assert!(!self.1, "waker");
    }
}

fn topic(capacity: usize) -> Topic<Bomb> {
    let bus = Bus::new(BusConfig::default()).unwrap();
    bus.topic_spec("t").capacity(capacity).open().unwrap()
}

fn next(reader: &mut Subscriber<Bomb>) -> Option<u32> {
    reader.try_recv().unwrap().map(|d| d.event.id)
}

fn panics<R>(run: impl FnOnce() -> R) -> bool {
    catch_unwind(AssertUnwindSafe(run)).is_err()
}

#[test]
fn a_panicking_clone_costs_one_reader_one_event() {
    let topic = topic(4);
    let (mut hit, mut other) = (topic.subscribe().unwrap(), topic.subscribe().unwrap());
    topic
        .publish(Bomb::on_clone(1, || panic!("clone")))
        .unwrap();
    topic.publish(Bomb::quiet(2)).unwrap();
    assert!(panics(|| hit.try_recv()));
    assert_eq!(next(&mut hit), Some(2));
    assert_eq!((next(&mut other), next(&mut other)), (Some(1), Some(2)));
    let account = hit.account();
    assert_eq!(
        (account.delivered, account.lost.panicked, account.pending),
        (1, 1, 0)
    );
    assert!(account.is_balanced());
    topic.publish(Bomb::quiet(3)).unwrap();
    assert_eq!((next(&mut hit), next(&mut other)), (Some(3), Some(3)));
}

#[tokio::test]
async fn a_panic_within_a_batch_keeps_what_came_before_and_what_comes_after() {
    let topic = topic(8);
    let reader = Arc::new(tokio::sync::Mutex::new((
        topic.subscribe().unwrap(),
        Vec::<Delivery<Bomb>>::new(),
    )));
    topic
        .publish_many([
            Bomb::quiet(1),
            Bomb::on_clone(2, || panic!("clone")),
            Bomb::quiet(3),
        ])
        .unwrap();
    let shared = Arc::clone(&reader);
    let batch = tokio::spawn(async move {
        let (reader, out) = &mut *shared.lock().await;
        reader.recv_many(out, 10).await
    });
    assert!(batch.await.unwrap_err().is_panic());
    let (reader, out) = &mut *reader.lock().await;
    assert_eq!(out.iter().map(|d| d.event.id).collect::<Vec<_>>(), [1]);
    assert_eq!(next(reader), Some(3));
    let account = reader.account();
    assert_eq!(
        (account.delivered, account.lost.panicked, account.pending),
        (2, 1, 0)
    );
}

#[test]
fn a_panicking_filter_costs_one_reader_one_event() {
    let topic = topic(4);
    let mut reader = topic
        .subscriber()
        .filter(|bomb| bomb.id != 1 || panic!("filter"))
        .build()
        .unwrap();
    topic
        .publish_many([Bomb::quiet(1), Bomb::quiet(2)])
        .unwrap();
    assert!(panics(|| reader.try_recv()));
    assert_eq!(next(&mut reader), Some(2));
    assert_eq!(reader.account().lost.panicked, 1);
}

#[test]
fn a_panicking_drop_hits_the_publisher_that_displaces_it_after_its_own_event_is_out() {
    let topic = topic(2);
    let mut reader = topic.subscribe().unwrap();
    topic.publish(Bomb::on_drop(1, || panic!("drop"))).unwrap();
    topic.publish(Bomb::quiet(2)).unwrap();
    let woken = Arc::new(Loud(AtomicUsize::new(0), false));
    let mut parked = topic.subscribe().unwrap();
    let waker = Waker::from(Arc::clone(&woken));
    assert!(pin!(parked.recv())
        .poll(&mut Context::from_waker(&waker))
        .is_pending());
    assert!(panics(|| topic.publish(Bomb::quiet(3))));
    assert_eq!(woken.0.load(Ordering::SeqCst), 1);
    assert!(matches!(reader.try_recv(), Err(RecvError::Lagged(gap)) if gap.missed() == 1));
    assert_eq!(
        (next(&mut reader), next(&mut reader), next(&mut reader)),
        (Some(2), Some(3), None)
    );
    topic.publish(Bomb::quiet(4)).unwrap();
    assert_eq!(next(&mut reader), Some(4));
}

#[test]
fn a_panicking_waker_keeps_nobody_else_asleep() {
    let topic = topic(2);
    let mut readers: Vec<_> = (0..40).map(|_| topic.subscribe().unwrap()).collect();
    let loud: Vec<_> = (0..40)
        .map(|n| Arc::new(Loud(AtomicUsize::new(0), n % 20 == 0)))
        .collect();
    for (reader, loud) in readers.iter_mut().zip(&loud) {
        let waker = Waker::from(Arc::clone(loud));
        assert!(pin!(reader.recv())
            .poll(&mut Context::from_waker(&waker))
            .is_pending());
    }
    assert!(panics(|| topic.publish(Bomb::quiet(1))));
    assert!(loud.iter().all(|loud| loud.0.load(Ordering::SeqCst) == 1));
    assert!(readers.iter_mut().all(|reader| next(reader) == Some(1)));
}

#[test]
fn displaced_events_are_dropped_exactly_once_and_outside_the_lock() {
    let topic = topic(2);
    let dropped = Arc::new(AtomicUsize::new(0));
    let counted = |id| {
        let (dropped, topic) = (Arc::clone(&dropped), topic.clone());
        Bomb::on_drop(id, move || {
            // Would deadlock if the topic were locked.
            assert!(topic.stats().seq > 0);
            dropped.fetch_add(1, Ordering::SeqCst);
        })
    };
    topic.publish_many((0..10).map(counted)).unwrap();
    assert_eq!(dropped.load(Ordering::SeqCst), 8);
}

#[test]
fn an_event_may_use_its_topic_while_it_is_cloned() {
    let topic = topic(2);
    let mut reader = topic.subscribe().unwrap();
    let inner = topic.clone();
    // The very slot that is being cloned is overwritten, twice.
    let event = Bomb::on_clone(1, move || {
        let done = inner.publish_many((10..14).map(Bomb::quiet)).unwrap();
        assert_eq!(done.count, 4);
        assert_eq!(
            inner.stats().total.pending,
            3,
            "the one being cloned and the two retained"
        );
    });
    topic.publish(event).unwrap();
    assert_eq!(next(&mut reader), Some(1));
    let Err(RecvError::Lagged(gap)) = reader.try_recv() else {
        panic!("must have lagged")
    };
    assert_eq!((gap.first_missed, gap.last_missed), (2, 3));
    assert_eq!((next(&mut reader), next(&mut reader)), (Some(12), Some(13)));
    assert!(reader.account().is_balanced());
}

/// Claims events 1 to 4 of a ring of four, publishes `meanwhile` more while the first is cloned, then panics, so that
/// the other three come back to a ring that has moved on.
fn overrun_batch(overflow: Overflow, meanwhile: u32) -> (Topic<Bomb>, Subscriber<Bomb>) {
    let topic = topic(4);
    let mut reader = topic.subscriber().overflow(overflow).build().unwrap();
    let inner = topic.clone();
    let event = Bomb::on_clone(1, move || {
        inner
            .publish_many((5..5 + meanwhile).map(Bomb::quiet))
            .unwrap();
        assert!(inner.stats().total.is_balanced());
        panic!("clone");
    });
    topic
        .publish_many([event].into_iter().chain((2..5).map(Bomb::quiet)))
        .unwrap();
    let mut out = Vec::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    assert!(panics(|| runtime.block_on(reader.recv_many(&mut out, 10))));
    assert!(out.is_empty() && reader.account().is_balanced());
    (topic, reader)
}

#[test]
fn events_given_back_by_a_panic_are_lagged_if_they_were_overwritten_meanwhile() {
    let (_topic, mut reader) = overrun_batch(Overflow::DropOldest, 2);
    let Err(RecvError::Lagged(gap)) = reader.try_recv() else {
        panic!("must have lagged")
    };
    assert_eq!((gap.first_missed, gap.last_missed), (2, 2));
    assert_eq!(
        std::iter::from_fn(|| next(&mut reader)).collect::<Vec<_>>(),
        [3, 4, 5, 6]
    );
    let account = reader.account();
    assert_eq!(
        (
            account.offered,
            account.delivered,
            account.lost.panicked,
            account.lost.lagged
        ),
        (6, 4, 1, 1)
    );
}

#[test]
fn a_disconnect_reader_that_gives_back_overwritten_events_is_cut_off_but_sees_the_last_event() {
    let (topic, mut reader) = overrun_batch(Overflow::Disconnect, 2);
    topic.publish_last(Bomb::quiet(9)).unwrap();
    assert_eq!(next(&mut reader), Some(9));
    let Err(RecvError::Disconnected(gap)) = reader.try_recv() else {
        panic!("must be cut off")
    };
    assert_eq!((gap.first_missed, gap.last_missed), (2, 6));
    let account = reader.account();
    assert_eq!(
        (
            account.offered,
            account.delivered,
            account.lost.disconnected
        ),
        (7, 1, 5)
    );
    assert!(account.is_balanced());
    assert_eq!(topic.stats().subscribers, 0);
}

#[test]
fn a_disconnect_reader_that_gives_back_overwritten_events_is_cut_off_by_the_next_publish() {
    let (topic, mut reader) = overrun_batch(Overflow::Disconnect, 2);
    assert_eq!(topic.publish(Bomb::quiet(7)).unwrap().readers, 0);
    assert!(matches!(reader.try_recv(), Err(RecvError::Disconnected(gap)) if gap.missed() == 6));
    assert!(reader.account().is_balanced());
}

#[test]
fn a_disconnect_reader_that_is_cut_off_with_events_in_hand_loses_those_it_gives_back() {
    let (_topic, mut reader) = overrun_batch(Overflow::Disconnect, 5);
    let Err(RecvError::Disconnected(gap)) = reader.try_recv() else {
        panic!("must be cut off")
    };
    assert_eq!(
        (gap.first_missed, gap.last_missed),
        (5, 9),
        "what was unread and not in hand"
    );
    let account = reader.account();
    assert_eq!(
        (
            account.offered,
            account.lost.panicked,
            account.lost.disconnected
        ),
        (9, 1, 8)
    );
    assert!(account.is_balanced());
}
