//! Events whose own code panics or calls back into the bus: nobody else is harmed.

use std::future::Future;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use ron_bus::{Account, Bus, BusConfig, Delivery, Overflow, RecvError, Subscriber, Topic};

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

fn gap(reader: &mut Subscriber<Bomb>) -> (u64, u64, u64) {
    match reader.try_recv() {
        Err(RecvError::Lagged(gap)) => (gap.first_missed, gap.last_missed, gap.missed()),
        other => panic!("expected a gap, got {:?}", other.map(|d| d.map(|d| d.seq))),
    }
}

fn block() -> Overflow<Bomb> {
    Overflow::Block {
        deadline: Duration::from_secs(1),
    }
}

fn conflate() -> Overflow<Bomb> {
    Overflow::Conflate {
        key: |bomb| u64::from(bomb.id),
        max_keys: 8,
    }
}

fn queued(topic: &Topic<Bomb>, overflow: Overflow<Bomb>) -> Subscriber<Bomb> {
    topic.subscriber().overflow(overflow).build().unwrap()
}

fn balanced(account: Account) -> Account {
    assert!(account.is_balanced(), "{account:?}");
    account
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
    for id in 10..20 {
        topic.publish(counted(id)).unwrap();
    }
    assert_eq!(dropped.load(Ordering::SeqCst), 18);
    for id in 20..40 {
        topic.publish_control(counted(id)).unwrap();
    }
    drop(topic.subscribe().unwrap());
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
fn overrun_batch(overflow: Overflow<Bomb>, meanwhile: u32) -> (Topic<Bomb>, Subscriber<Bomb>) {
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
fn a_disconnect_reader_is_cut_off_when_events_in_its_hands_are_overwritten() {
    // The batch counts as unread until the receive returns, so event 6 takes the slot of event 2 and cuts the reader
    // off, whatever comes after.
    for meanwhile in [2, 5] {
        let (topic, mut reader) = overrun_batch(Overflow::Disconnect, meanwhile);
        assert_eq!(topic.stats().subscribers, 0);
        assert_eq!(topic.publish(Bomb::quiet(20)).unwrap().readers, 0);
        topic.publish_last(Bomb::quiet(21)).unwrap();
        let Err(RecvError::Disconnected(gap)) = reader.try_recv() else {
            panic!("must be cut off")
        };
        assert_eq!((gap.first_missed, gap.last_missed), (2, 6));
        let account = balanced(reader.account());
        assert_eq!(
            (
                account.offered,
                account.lost.panicked,
                account.lost.disconnected
            ),
            (6, 1, 5)
        );
    }
}

#[test]
fn a_disconnect_reader_that_gives_back_events_nobody_overwrote_goes_on() {
    let (_topic, mut reader) = overrun_batch(Overflow::Disconnect, 1);
    let ids: Vec<_> = std::iter::from_fn(|| next(&mut reader)).collect();
    assert_eq!(ids, [2, 3, 4, 5]);
    let account = balanced(reader.account());
    assert_eq!((account.delivered, account.lost.panicked), (4, 1));
}

/// An event that publishes five more while it is cloned, the first of a batch of four that takes the whole ring.
fn overrun_while_cloning(overflow: Overflow<Bomb>) -> (Vec<u32>, Subscriber<Bomb>) {
    let topic = topic(4);
    let mut reader = topic.subscriber().overflow(overflow).build().unwrap();
    let inner = topic.clone();
    let event = Bomb::on_clone(1, move || {
        inner.publish_many((5..10).map(Bomb::quiet)).unwrap();
        assert!(inner.stats().total.is_balanced());
    });
    topic
        .publish_many([event].into_iter().chain((2..5).map(Bomb::quiet)))
        .unwrap();
    let mut out = Vec::new();
    let waker = Waker::from(Arc::new(Loud(AtomicUsize::new(0), false)));
    let mut cx = Context::from_waker(&waker);
    assert!(pin!(reader.recv_many(&mut out, 4)).poll(&mut cx).is_ready());
    balanced(reader.account());
    (out.iter().map(|d| d.event.id).collect(), reader)
}

#[test]
fn a_batch_that_is_overrun_while_it_is_cloned_is_delivered_or_told_but_never_both() {
    let (mut ids, mut reader) = overrun_while_cloning(Overflow::DropOldest);
    let mut missed = 0;
    for _ in 0..9 {
        match reader.try_recv() {
            Ok(Some(delivery)) => ids.push(delivery.event.id),
            Ok(None) | Err(RecvError::Closed) => break,
            Err(RecvError::Lagged(gap)) => missed += gap.missed(),
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "{ids:?}");
    let account = balanced(reader.account());
    assert_eq!(
        (account.offered, account.delivered, account.lost.lagged),
        (9, ids.len() as u64, missed)
    );
    assert_eq!(account.pending, 0);

    let (ids, mut reader) = overrun_while_cloning(Overflow::Disconnect);
    let Err(RecvError::Disconnected(gap)) = reader.try_recv() else {
        panic!("must be cut off")
    };
    assert_eq!(gap.first_missed, ids.len() as u64 + 1, "{ids:?}");
    let account = balanced(reader.account());
    assert_eq!(
        (account.delivered, account.lost.disconnected),
        (ids.len() as u64, gap.missed())
    );
}

#[test]
fn a_clone_that_panics_for_a_queued_reader_costs_it_that_event_and_the_publisher_goes_on() {
    for overflow in [block(), conflate()] {
        let topic = topic(4);
        let mut hit = queued(&topic, overflow);
        let mut other = topic.subscribe().unwrap();
        topic.publish(Bomb::quiet(1)).unwrap();
        let published = topic.publish(Bomb::on_clone(2, || panic!("clone")));
        assert_eq!(published.map(|p| (p.seq, p.readers)).ok(), Some((2, 2)));
        let done = topic.publish_many([Bomb::on_clone(3, || panic!("clone")), Bomb::quiet(4)]);
        assert_eq!(done.map(|d| d.count).ok(), Some(2));
        let account = balanced(hit.account());
        assert_eq!((account.lost.panicked, account.pending), (2, 2));
        assert_eq!(account.lost.overflowed(), 0);
        // The hooks are spent, so the reader of the ring gets every event.
        let ids: Vec<_> = std::iter::from_fn(|| next(&mut other)).collect();
        assert_eq!(ids, [1, 2, 3, 4]);
        let mut seen = Vec::new();
        for _ in 0..3 {
            match hit.try_recv() {
                Ok(delivery) => seen.push(delivery.map(|d| d.event.id)),
                Err(RecvError::Lagged(gap)) => {
                    assert_eq!((gap.first_missed, gap.last_missed, gap.missed()), (2, 3, 2));
                    seen.push(None);
                }
                Err(other) => panic!("{other:?}"),
            }
        }
        seen.sort();
        assert_eq!(seen, [None, Some(1), Some(4)]);
        assert_eq!(next(&mut hit), None);
    }
}

#[test]
fn a_panicking_clone_is_one_readers_loss_among_several_queued_ones() {
    let topic = topic(4);
    let mut readers = [block(), conflate(), block(), conflate()].map(|o| queued(&topic, o));
    topic
        .publish(Bomb::on_clone(1, || panic!("clone")))
        .unwrap();
    let hit = readers.iter().filter(|r| r.account().lost.panicked == 1);
    assert_eq!(hit.count(), 1);
    for reader in &mut readers {
        if reader.account().lost.panicked == 1 {
            assert_eq!(gap(reader), (1, 1, 1));
        } else {
            assert_eq!(next(reader), Some(1));
        }
        assert_eq!(next(reader), None);
        balanced(reader.account());
    }
}

#[test]
fn a_parked_queued_reader_is_woken_to_be_told_of_a_panic() {
    for overflow in [block(), conflate()] {
        let topic = topic(4);
        let mut reader = queued(&topic, overflow);
        let woken = Arc::new(Loud(AtomicUsize::new(0), false));
        let waker = Waker::from(Arc::clone(&woken));
        assert!(pin!(reader.recv())
            .poll(&mut Context::from_waker(&waker))
            .is_pending());
        topic
            .publish(Bomb::on_clone(1, || panic!("clone")))
            .unwrap();
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
        assert_eq!(gap(&mut reader), (1, 1, 1));
    }
}

#[test]
fn a_panicking_key_costs_the_reader_that_conflates_one_event() {
    let topic = topic(4);
    let mut hit = queued(
        &topic,
        Overflow::Conflate {
            key: |bomb| {
                assert_ne!(bomb.id, 2, "key");
                u64::from(bomb.id)
            },
            max_keys: 8,
        },
    );
    let mut others = [topic.subscribe().unwrap(), queued(&topic, conflate())];
    for id in 1..=3 {
        assert_eq!(topic.publish(Bomb::quiet(id)).unwrap().readers, 3);
    }
    assert_eq!(balanced(hit.account()).lost.panicked, 1);
    assert_eq!(gap(&mut hit), (2, 2, 1));
    assert_eq!((next(&mut hit), next(&mut hit)), (Some(1), Some(3)));
    for reader in &mut others {
        let ids: Vec<_> = std::iter::from_fn(|| next(reader)).collect();
        assert_eq!(ids, [1, 2, 3]);
    }
}

#[test]
fn a_panicking_filter_costs_one_event_whatever_the_policy() {
    for overflow in [
        Overflow::DropOldest,
        Overflow::Disconnect,
        block(),
        conflate(),
    ] {
        let topic = topic(4);
        let mut other = topic.subscribe().unwrap();
        let mut reader = topic
            .subscriber()
            .overflow(overflow)
            .filter(|bomb| bomb.id != 2 || panic!("filter"))
            .build()
            .unwrap();
        topic.publish_many([1, 2, 3, 4].map(Bomb::quiet)).unwrap();
        let mut out = Vec::new();
        let waker = Waker::from(Arc::new(Loud(AtomicUsize::new(0), false)));
        let mut cx = Context::from_waker(&waker);
        assert!(panics(|| pin!(reader.recv_many(&mut out, 10)).poll(&mut cx)));
        assert_eq!(out.iter().map(|d| d.event.id).collect::<Vec<_>>(), [1]);
        let account = balanced(reader.account());
        assert_eq!(
            (account.delivered, account.lost.panicked, account.pending),
            (1, 1, 2)
        );
        assert_eq!((next(&mut reader), next(&mut reader)), (Some(3), Some(4)));
        assert_eq!(next(&mut reader), None);
        let ids: Vec<_> = std::iter::from_fn(|| next(&mut other)).collect();
        assert_eq!(ids, [1, 2, 3, 4]);
    }
}

#[test]
fn what_a_panic_gives_back_to_a_buffer_still_takes_its_room() {
    let topic = topic(3);
    let mut reader = topic
        .subscriber()
        .overflow(block())
        .filter(|bomb| bomb.id != 1 || panic!("filter"))
        .build()
        .unwrap();
    topic.publish_many([1, 2, 3].map(Bomb::quiet)).unwrap();
    let mut out = Vec::new();
    let waker = Waker::from(Arc::new(Loud(AtomicUsize::new(0), false)));
    let mut cx = Context::from_waker(&waker);
    assert!(panics(|| pin!(reader.recv_many(&mut out, 10)).poll(&mut cx)));
    topic.publish_many([4, 5].map(Bomb::quiet)).unwrap();
    let account = balanced(reader.account());
    assert_eq!((account.lost.panicked, account.lost.block_full), (1, 1));
    let ids: Vec<_> = (0..3).filter_map(|_| next(&mut reader)).collect();
    assert_eq!(ids, [2, 3, 4]);
    assert_eq!(gap(&mut reader), (5, 5, 1));
}

#[test]
fn a_clone_for_a_queued_reader_may_use_the_topic() {
    for overflow in [block(), conflate()] {
        let topic = topic(8);
        let mut reader = queued(&topic, overflow);
        let inner = topic.clone();
        let event = Bomb::on_clone(1, move || {
            inner.publish(Bomb::quiet(2)).unwrap();
            inner.publish_control(Bomb::quiet(3)).unwrap();
            assert!(inner.stats().total.is_balanced());
        });
        topic.publish(event).unwrap();
        topic.publish(Bomb::quiet(4)).unwrap();
        let mut seen = Vec::new();
        while let Some(delivery) = reader.try_recv().unwrap() {
            seen.push((delivery.lane as usize, delivery.seq, delivery.event.id));
        }
        assert_eq!(seen[0].2, 3, "control first");
        let data: Vec<_> = seen[1..].iter().map(|(_, seq, _)| *seq).collect();
        assert_eq!(data, [1, 2, 3], "in the order of their numbers");
        assert_eq!(balanced(reader.account()).delivered, 4);
    }
}

/// Its clones may panic when they are dropped.
struct Touchy {
    id: u32,
    armed: bool,
    is_clone: bool,
}

impl Touchy {
    fn new(id: u32, armed: bool) -> Self {
        Self {
            id,
            armed,
            is_clone: false,
        }
    }
}

impl Clone for Touchy {
    fn clone(&self) -> Self {
        Self {
            is_clone: true,
            ..*self
        }
    }
}

impl Drop for Touchy {
    fn drop(&mut self) {
        assert!(!self.armed || !self.is_clone || std::thread::panicking());
    }
}

#[test]
fn a_conflated_event_whose_drop_panics_harms_nobody_but_its_publisher() {
    let bus = Bus::new(BusConfig::default()).unwrap();
    let topic = bus.topic_spec("t").capacity(8).open::<Touchy>().unwrap();
    let by_key = |key: fn(&Touchy) -> u64| Overflow::Conflate { key, max_keys: 4 };
    let builder = || topic.subscriber();
    let mut hit = builder().overflow(by_key(|_| 0)).build().unwrap();
    let mut others = [
        builder().build().unwrap(),
        builder()
            .overflow(by_key(|touchy| u64::from(touchy.id)))
            .build()
            .unwrap(),
    ];
    topic.publish(Touchy::new(1, true)).unwrap();
    // Displaces the armed clone. The event is out in any case.
    let _ = panics(|| topic.publish(Touchy::new(2, false)));
    topic.publish(Touchy::new(3, false)).unwrap();
    let account = balanced(hit.account());
    assert_eq!((account.conflated, account.pending), (2, 1));
    let left = hit.try_recv().unwrap().unwrap();
    assert_eq!((left.event.id, left.conflated), (3, 2));
    for reader in &mut others {
        for expected in 1..=3 {
            let mut delivery = reader.try_recv().unwrap().unwrap();
            assert_eq!(delivery.event.id, expected);
            delivery.event.armed = false;
        }
        assert_eq!(balanced(reader.account()).delivered, 3);
    }
}

#[test]
fn a_reader_that_leaves_events_whose_drop_panics_harms_only_itself() {
    for overflow in [
        Overflow::Block {
            deadline: Duration::ZERO,
        },
        Overflow::Conflate {
            key: |touchy: &Touchy| u64::from(touchy.id),
            max_keys: 4,
        },
    ] {
        let bus = Bus::new(BusConfig::default()).unwrap();
        let topic = bus.topic_spec("t").capacity(4).open::<Touchy>().unwrap();
        let leaving = topic.subscriber().overflow(overflow).build().unwrap();
        let mut other = topic.subscribe().unwrap();
        topic.publish(Touchy::new(1, true)).unwrap();
        assert!(panics(|| drop(leaving)), "it drops what it had not read");
        let total = balanced(topic.stats().total);
        assert_eq!((total.lost.abandoned, total.pending), (1, 1));
        assert_eq!(topic.stats().readers.len(), 1);
        topic.publish(Touchy::new(2, false)).unwrap();
        for expected in 1..=2 {
            let mut delivery = other.try_recv().unwrap().unwrap();
            assert_eq!(delivery.event.id, expected);
            delivery.event.armed = false;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_panicking_waker_of_one_publisher_that_waits_keeps_no_other_asleep() {
    let topic = topic(2);
    let mut reader = queued(&topic, block());
    topic.publish_many([1, 2].map(Bomb::quiet)).unwrap();
    let loud: Vec<_> = (0..5)
        .map(|n| Arc::new(Loud(AtomicUsize::new(0), n == 0 || n == 3)))
        .collect();
    let mut waiting: Vec<_> = loud
        .iter()
        .map(|loud| {
            let mut call = Box::pin(topic.publish_wait(Bomb::quiet(7)));
            let waker = Waker::from(Arc::clone(loud));
            assert!(call
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_pending());
            call
        })
        .collect();
    assert!(panics(|| topic.close()));
    assert!(loud.iter().all(|loud| loud.0.load(Ordering::SeqCst) == 1));
    let quiet = Waker::from(Arc::new(Loud(AtomicUsize::new(0), false)));
    for call in &mut waiting {
        let polled = call.as_mut().poll(&mut Context::from_waker(&quiet));
        assert!(matches!(polled, Poll::Ready(Err(refused)) if refused.event.id == 7));
    }
    assert_eq!((next(&mut reader), next(&mut reader)), (Some(1), Some(2)));
    assert!(matches!(reader.try_recv(), Err(RecvError::Closed)));
}
