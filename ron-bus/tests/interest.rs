//! Interest: readers that ask for some classes are neither woken nor held back by the others.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use ron_bus::{
    Account, Bus, BusConfig, Class, Classify, Interest, Lane, Overflow, RecvError, Start,
    Subscriber, Topic,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Event {
    class: u8,
    value: u32,
}

impl Classify for Event {
    fn class(&self) -> Class {
        Class::new(self.class).unwrap()
    }
}

const COMMON: Class = Class::at::<0>();
const RARE: Class = Class::at::<63>();

fn common(value: u32) -> Event {
    Event { class: 0, value }
}

fn rare(value: u32) -> Event {
    Event { class: 63, value }
}

fn topic(capacity: usize) -> Topic<Event> {
    let bus = Bus::new(BusConfig::default()).unwrap();
    bus.topic_spec("t").capacity(capacity).open().unwrap()
}

fn interested(topic: &Topic<Event>, interest: impl Into<Interest>) -> Subscriber<Event> {
    topic.subscriber().interest(interest).build().unwrap()
}

fn drain(reader: &mut Subscriber<Event>) -> Vec<u32> {
    std::iter::from_fn(|| reader.try_recv().unwrap())
        .map(|d| d.event.value)
        .collect()
}

fn balanced(account: Account) -> Account {
    assert!(account.is_balanced(), "{account:?}");
    account
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

fn park(reader: &mut Subscriber<Event>, wakes: &Arc<Wakes>) {
    let waker = Waker::from(Arc::clone(wakes));
    assert!(pin!(reader.recv())
        .poll(&mut Context::from_waker(&waker))
        .is_pending());
}

#[test]
fn a_class_is_one_of_sixty_four() {
    assert_eq!((COMMON.index(), RARE.index()), (0, 63));
    for index in 0..64 {
        let class = Class::new(index).unwrap();
        assert_eq!(u64::from(class.index()), u64::from(index));
        assert!(Interest::ALL.contains(class) && !Interest::NONE.contains(class));
    }
    assert_eq!(Class::new(64), None);
    assert_eq!(Class::new(u8::MAX), None);
    assert_eq!(Class::new(63), Some(RARE));
}

#[test]
fn interests_are_sums_of_classes() {
    let third = Class::at::<3>();
    let both = COMMON | RARE;
    let forms = [
        both,
        Interest::from(COMMON) | RARE,
        Interest::from(RARE) | Interest::from(COMMON),
        [RARE, COMMON, RARE].into_iter().collect(),
    ];
    for interest in forms {
        assert!(interest.contains(COMMON) && interest.contains(RARE));
        assert!(!interest.contains(third));
        assert_eq!(interest, both);
    }
    assert_eq!([].into_iter().collect::<Interest>(), Interest::NONE);
    let every: Interest = (0..64).filter_map(Class::new).collect();
    assert_eq!(every, Interest::ALL);
    assert_eq!(Interest::NONE | Interest::ALL, Interest::ALL);
}

#[test]
fn events_of_other_classes_are_filtered_the_moment_they_are_published() {
    let topic = topic(8);
    let mut reader = interested(&topic, RARE);
    assert_eq!(topic.publish(common(1)).unwrap().readers, 1);
    topic.publish_many([common(2), rare(3), common(4)]).unwrap();
    topic.publish_control(common(5)).unwrap();
    topic.publish_control_keyed(1, rare(6)).unwrap();
    let account = balanced(reader.account());
    assert_eq!(
        (account.offered, account.filtered, account.pending),
        (6, 4, 2)
    );
    assert_eq!(topic.queue_depth(), 2);
    let seen: Vec<_> = std::iter::from_fn(|| reader.try_recv().unwrap())
        .map(|d| (d.lane, d.seq, d.event))
        .collect();
    assert_eq!(
        seen,
        [(Lane::Control, 2, rare(6)), (Lane::Data, 3, rare(3))]
    );
    let account = balanced(reader.account());
    assert_eq!((account.delivered, account.filtered), (2, 4));
}

#[tokio::test]
async fn a_batch_takes_what_is_of_interest_and_no_more() {
    let topic = topic(64);
    let mut reader = interested(&topic, RARE);
    let events = (0..60).map(|n| if n % 10 == 0 { rare(n) } else { common(n) });
    topic.publish_many(events).unwrap();
    let mut out = Vec::new();
    assert_eq!(reader.recv_many(&mut out, 4).await, Ok(4));
    assert_eq!(reader.recv_many(&mut out, 10).await, Ok(2));
    let values: Vec<_> = out.iter().map(|d| d.event.value).collect();
    assert_eq!(values, [0, 10, 20, 30, 40, 50]);
}

#[tokio::test]
async fn a_batch_passes_over_overwritten_events_that_nobody_asked_for() {
    let topic = topic(2);
    let mut reader = interested(&topic, RARE);
    topic.publish_control(rare(1)).unwrap();
    topic.publish_many([common(2), rare(3), rare(4)]).unwrap();
    let mut out = Vec::new();
    assert_eq!(reader.recv_many(&mut out, 10).await, Ok(3));
    let values: Vec<_> = out.iter().map(|d| d.event.value).collect();
    assert_eq!(values, [1, 3, 4]);
}

#[test]
fn of_a_thousand_parked_readers_only_the_one_that_matches_is_woken() {
    let topic = topic(4);
    let mut readers: Vec<_> = (0..1000_usize)
        .map(|n| match n {
            500 => interested(&topic, RARE),
            _ => interested(&topic, Class::new((n % 63) as u8).unwrap()),
        })
        .collect();
    let wakes: Vec<_> = (0..1000).map(|_| Arc::new(Wakes::default())).collect();
    for (reader, wakes) in readers.iter_mut().zip(&wakes) {
        park(reader, wakes);
    }
    let woken = || -> Vec<usize> { wakes.iter().map(|w| w.count()).collect() };
    let only = |n: usize| (0..1000).map(|i| usize::from(i == n)).collect::<Vec<_>>();
    assert_eq!(topic.publish(rare(1)).unwrap().readers, 1000);
    assert_eq!(woken(), only(500));
    topic.publish_many([rare(2), rare(3)]).unwrap();
    assert_eq!(woken(), only(500), "once");
    assert_eq!(drain(&mut readers[500]), [1, 2, 3]);
    park(&mut readers[500], &wakes[500]);
    topic.publish_control(rare(4)).unwrap();
    assert_eq!(wakes[500].count(), 2);
    topic.publish(common(5)).unwrap();
    let of_class_zero = (0..1000).filter(|n| n % 63 == 0 && *n != 500).count();
    assert_eq!(woken().iter().sum::<usize>(), 2 + of_class_zero);
    topic.close();
    assert!(wakes.iter().all(|w| w.count() >= 1));
}

#[test]
fn readers_of_every_policy_sleep_through_what_does_not_concern_them() {
    let topic = topic(2);
    let policies: [fn() -> Overflow<Event>; 4] = [
        || Overflow::DropOldest,
        || Overflow::Disconnect,
        || Overflow::Block {
            deadline: Duration::from_secs(1),
        },
        || Overflow::Conflate {
            key: |event| u64::from(event.value),
            max_keys: 1,
        },
    ];
    for overflow in policies {
        let mut reader = topic
            .subscriber()
            .overflow(overflow())
            .interest(RARE)
            .build()
            .unwrap();
        let wakes = Arc::new(Wakes::default());
        park(&mut reader, &wakes);
        topic.publish_many((0..100).map(common)).unwrap();
        for n in 0..100 {
            topic.publish_control(common(n)).unwrap();
        }
        assert_eq!(wakes.count(), 0);
        topic.publish(rare(7)).unwrap();
        assert_eq!(wakes.count(), 1);
        assert_eq!(drain(&mut reader), [7]);
        let account = balanced(reader.account());
        assert_eq!(
            (account.filtered, account.lost.total(), account.delivered),
            (200, 0, 1)
        );
    }
}

#[test]
fn a_reader_of_a_rare_class_never_lags_however_much_else_is_published() {
    let topic = topic(4);
    for overflow in [Overflow::DropOldest, Overflow::Disconnect] {
        let mut reader = topic
            .subscriber()
            .overflow(overflow)
            .interest(RARE)
            .build()
            .unwrap();
        for round in 0..50 {
            topic.publish_many((0..round * 7).map(common)).unwrap();
            topic.publish(rare(round)).unwrap();
            topic.publish_many((0..3).map(common)).unwrap();
            assert_eq!(drain(&mut reader), [round]);
        }
        let account = balanced(reader.account());
        assert_eq!((account.delivered, account.lost.total()), (50, 0));
    }
}

#[test]
fn a_gap_counts_only_what_was_of_interest() {
    let topic = topic(4);
    let mut reader = interested(&topic, RARE);
    topic
        .publish_many([common(1), rare(2), common(3), rare(4), common(5)])
        .unwrap();
    assert_eq!(reader.account().lost.total(), 0, "only event 1 is gone");
    topic
        .publish_many([common(6), common(7), common(8), rare(9)])
        .unwrap();
    let account = balanced(reader.account());
    assert_eq!((account.lost.lagged, account.pending), (2, 1));
    let Err(RecvError::Lagged(gap)) = reader.try_recv() else {
        panic!("must have lagged")
    };
    assert_eq!((gap.lane, gap.missed()), (Lane::Data, 2));
    assert!((1..=2).contains(&gap.first_missed), "{gap:?}");
    assert!((4..=8).contains(&gap.last_missed), "{gap:?}");
    assert_eq!(drain(&mut reader), [9]);
}

#[test]
fn overwriting_what_nobody_asked_for_makes_no_gap() {
    let topic = topic(4);
    let mut reader = interested(&topic, RARE);
    topic.publish_many((0..10).map(common)).unwrap();
    assert_eq!(reader.try_recv(), Ok(None));
    topic.publish_many([rare(1), common(2), common(3)]).unwrap();
    assert_eq!(drain(&mut reader), [1]);
    topic.publish_many((0..10).map(common)).unwrap();
    topic.close();
    assert_eq!(reader.try_recv(), Err(RecvError::Closed));
}

#[test]
fn a_disconnect_reader_is_cut_off_when_an_event_of_interest_would_be_missed() {
    let topic = topic(4);
    let mut reader = topic
        .subscriber()
        .overflow(Overflow::Disconnect)
        .interest(RARE)
        .build()
        .unwrap();
    topic.publish_many((0..10).map(common)).unwrap();
    topic.publish_many([rare(1), rare(2)]).unwrap();
    topic.publish_many([common(3), common(4)]).unwrap();
    assert_eq!(topic.stats().subscribers, 1);
    assert_eq!(topic.publish(common(5)).unwrap().readers, 0);
    let Err(RecvError::Disconnected(gap)) = reader.try_recv() else {
        panic!("must be cut off")
    };
    assert_eq!((gap.lane, gap.missed()), (Lane::Data, 2));
    assert!(gap.first_missed <= 11 && gap.last_missed >= 12, "{gap:?}");
    assert_eq!(balanced(reader.account()).lost.disconnected, 2);
}

#[test]
fn other_classes_take_no_place_on_the_control_lane() {
    let topic = topic(4);
    let mut reader = interested(&topic, RARE);
    topic.publish_control(rare(1)).unwrap();
    for n in 0..100 {
        topic.publish_control(common(n)).unwrap();
    }
    for n in 2..=16 {
        topic.publish_control(rare(n)).unwrap();
    }
    assert_eq!(balanced(reader.account()).lost.total(), 0);
    assert_eq!(drain(&mut reader), (1..=16).collect::<Vec<_>>());
}

#[test]
fn the_last_event_concerns_everybody() {
    let topic = topic(4);
    let mut reader = topic
        .subscriber()
        .interest(Interest::NONE)
        .filter(|_| false)
        .build()
        .unwrap();
    let wakes = Arc::new(Wakes::default());
    park(&mut reader, &wakes);
    topic.publish_many([common(1), rare(2)]).unwrap();
    assert_eq!(wakes.count(), 0);
    topic.publish_last(common(3)).unwrap();
    assert_eq!(wakes.count(), 1);
    assert_eq!(drain_to_end(&mut reader), [3]);
    let account = balanced(reader.account());
    assert_eq!((account.delivered, account.filtered), (1, 2));
}

fn drain_to_end(reader: &mut Subscriber<Event>) -> Vec<u32> {
    let mut values = Vec::new();
    loop {
        match reader.try_recv() {
            Ok(Some(delivery)) => values.push(delivery.event.value),
            end => {
                assert_eq!(end, Err(RecvError::Closed));
                return values;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn publish_wait_waits_only_for_readers_the_event_concerns() {
    let topic = topic(2);
    let deadline = Duration::from_secs(1);
    let mut full = topic
        .subscriber()
        .overflow(Overflow::Block { deadline })
        .interest(RARE)
        .build()
        .unwrap();
    topic.publish_many((0..100).map(common)).unwrap();
    topic.publish_many([rare(1), rare(2)]).unwrap();
    assert_eq!(full.account().lost.total(), 0, "others took no room");
    let waker = Waker::from(Arc::new(Wakes::default()));
    let mut cx = Context::from_waker(&waker);
    let others = pin!(topic.publish_wait(common(3))).poll(&mut cx);
    assert!(matches!(others, Poll::Ready(Ok(_))));
    let mut own = pin!(topic.publish_wait(rare(4)));
    assert!(own.as_mut().poll(&mut cx).is_pending());
    // One that need not wait is not held up by one that must.
    let others = pin!(topic.publish_wait(common(5))).poll(&mut cx);
    assert!(matches!(others, Poll::Ready(Ok(_))));
    assert!(full.try_recv().unwrap().is_some());
    assert!(own.as_mut().poll(&mut cx).is_ready());
    assert_eq!(drain(&mut full), [2, 4]);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_whose_readers_have_room_goes_before_one_whose_have_none() {
    let topic = topic(2);
    let deadline = Duration::from_secs(1);
    let builder = || topic.subscriber().overflow(Overflow::Block { deadline });
    let _slow = builder().interest(COMMON).build().unwrap();
    let mut quick = builder().interest(COMMON | RARE).build().unwrap();
    topic.publish_many([common(1), common(2)]).unwrap();
    let wakes = [Arc::new(Wakes::default()), Arc::new(Wakes::default())];
    let wakers = [
        Waker::from(Arc::clone(&wakes[0])),
        Waker::from(Arc::clone(&wakes[1])),
    ];
    let mut cx = wakers.each_ref().map(Context::from_waker);
    let mut first = pin!(topic.publish_wait(common(3)));
    let mut second = pin!(topic.publish_wait(rare(4)));
    assert!(first.as_mut().poll(&mut cx[0]).is_pending());
    assert!(second.as_mut().poll(&mut cx[1]).is_pending());
    assert!(quick.try_recv().unwrap().is_some());
    if wakes[0].count() > 0 {
        assert!(first.as_mut().poll(&mut cx[0]).is_pending(), "still full");
    }
    assert_eq!(wakes[1].count(), 1, "nothing holds the second up");
    assert!(second.as_mut().poll(&mut cx[1]).is_ready());
}

#[test]
fn a_conflating_reader_keeps_its_keys_for_what_concerns_it() {
    let topic = topic(4);
    let mut reader = topic
        .subscriber()
        .overflow(Overflow::Conflate {
            key: |event| u64::from(event.value),
            max_keys: 2,
        })
        .interest(RARE)
        .build()
        .unwrap();
    topic.publish_many((0..50).map(common)).unwrap();
    topic.publish_many([rare(1), rare(2), rare(1)]).unwrap();
    assert_eq!(drain(&mut reader), [2, 1]);
    let account = balanced(reader.account());
    assert_eq!((account.filtered, account.conflated), (50, 1));
}

#[test]
fn interest_and_filter_both_apply() {
    let topic = topic(8);
    let mut reader = topic
        .subscriber()
        .interest(RARE)
        .filter(|event| event.value % 2 == 0)
        .build()
        .unwrap();
    topic
        .publish_many([rare(1), common(2), rare(4), rare(5)])
        .unwrap();
    assert_eq!(reader.account().filtered, 1, "the filter runs later");
    assert_eq!(drain(&mut reader), [4]);
    assert_eq!(balanced(reader.account()).filtered, 3);
}

#[test]
fn a_retained_start_hands_out_what_is_of_interest() {
    let topic = topic(4);
    topic
        .publish_many([rare(1), common(2), rare(3), common(4), rare(5)])
        .unwrap();
    let policies: [fn() -> Overflow<Event>; 2] = [
        || Overflow::DropOldest,
        || Overflow::Block {
            deadline: Duration::ZERO,
        },
    ];
    for overflow in policies {
        let mut reader = topic
            .subscriber()
            .overflow(overflow())
            .interest(RARE)
            .start(Start::Retained(4))
            .build()
            .unwrap();
        assert_eq!(balanced(reader.account()).pending, 2);
        assert_eq!(drain(&mut reader), [3, 5]);
        assert_eq!(balanced(reader.account()).pending, 0);
    }
}
