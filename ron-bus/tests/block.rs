//! Readers that block: a buffer of their own, and publishers that may wait for it.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use ron_bus::{
    Account, Bus, BusConfig, Gap, Lane, Overflow, Policy, PublishError, Published, RecvError,
    Refusal, Start, Subscriber, Topic,
};
use tokio::time::Instant;

fn topic(capacity: usize) -> (Bus, Topic<u32>) {
    let bus = Bus::new(BusConfig::default()).unwrap();
    let topic = bus.topic_spec("t").capacity(capacity).open().unwrap();
    (bus, topic)
}

fn blocking(topic: &Topic<u32>, deadline: Duration) -> Subscriber<u32> {
    let builder = topic.subscriber().overflow(Overflow::Block { deadline });
    builder.build().unwrap()
}

const SECOND: Duration = Duration::from_secs(1);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// What a receive returned: an event, a gap as (first, last, missed), or nothing.
#[derive(Debug, PartialEq, Eq)]
enum Item {
    Event(u64, u32),
    Gap(u64, u64, u64),
    Nothing,
}

fn gap(gap: Gap) -> Item {
    assert_eq!(gap.lane, Lane::Data);
    Item::Gap(gap.first_missed, gap.last_missed, gap.missed())
}

fn next(reader: &mut Subscriber<u32>) -> Item {
    match reader.try_recv() {
        Ok(Some(delivery)) => Item::Event(delivery.seq, delivery.event),
        Ok(None) | Err(RecvError::Closed) => Item::Nothing,
        Err(RecvError::Lagged(missed)) => gap(missed),
        Err(other) => panic!("{other:?}"),
    }
}

fn drain(reader: &mut Subscriber<u32>) -> Vec<Item> {
    std::iter::from_fn(|| match next(reader) {
        Item::Nothing => None,
        item => Some(item),
    })
    .collect()
}

fn events(range: std::ops::RangeInclusive<u32>) -> Vec<Item> {
    range.map(|n| Item::Event(u64::from(n), n)).collect()
}

fn balanced(account: Account) -> Account {
    assert!(account.is_balanced(), "{account:?}");
    account
}

type WaitResult = Result<Published, PublishError<u32>>;

/// A `publish_wait` polled by hand, whose wake-ups go into a list shared with others.
struct Waiter {
    name: &'static str,
    woken: Arc<Mutex<VecDeque<&'static str>>>,
    future: Pin<Box<dyn Future<Output = WaitResult> + Send>>,
}

struct Named(&'static str, Arc<Mutex<VecDeque<&'static str>>>);

impl Wake for Named {
    fn wake(self: Arc<Self>) {
        self.1.lock().unwrap().push_back(self.0);
    }
}

/// A waker for polls that are ready.
fn quiet() -> Waker {
    Waker::from(Arc::new(Named("", Arc::default())))
}

#[derive(Default)]
struct Waiters(Arc<Mutex<VecDeque<&'static str>>>);

impl Waiters {
    fn begin(&self, topic: &Topic<u32>, name: &'static str, event: u32) -> Waiter {
        let topic = topic.clone();
        let mut waiter = Waiter {
            name,
            woken: Arc::clone(&self.0),
            future: Box::pin(async move { topic.publish_wait(event).await }),
        };
        assert!(waiter.poll().is_pending(), "{name} must wait");
        waiter
    }

    fn woken(&self) -> Vec<&'static str> {
        self.0.lock().unwrap().drain(..).collect()
    }
}

impl Waiter {
    fn poll(&mut self) -> Poll<WaitResult> {
        let waker = Waker::from(Arc::new(Named(self.name, Arc::clone(&self.woken))));
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }

    fn published(&mut self) -> u64 {
        match self.poll() {
            Poll::Ready(Ok(published)) => published.seq,
            other => panic!("{}: {other:?}", self.name),
        }
    }

    fn refused(&mut self) -> (u32, Refusal) {
        match self.poll() {
            Poll::Ready(Err(error)) => (error.event, error.refusal),
            other => panic!("{}: {other:?}", self.name),
        }
    }
}

#[test]
fn a_full_reader_loses_the_new_events_and_is_told_where_they_would_have_been() {
    let (_bus, topic) = topic(4);
    let mut reader = blocking(&topic, SECOND);
    let mut other = topic.subscribe().unwrap();
    topic.publish_many(1..=4).unwrap();
    assert_eq!(reader.account().lost.total(), 0, "exactly full");
    assert_eq!(topic.publish(5).unwrap().readers, 2);
    topic.publish_many(6..=7).unwrap();
    let account = balanced(reader.account());
    assert_eq!((account.lost.block_full, account.pending), (3, 4));
    assert_eq!(account.lost.overflowed(), 3);
    assert_eq!(next(&mut reader), Item::Event(1, 1));
    topic.publish(8).unwrap();
    topic.publish(9).unwrap();
    let mut expected = events(2..=4);
    expected.extend([Item::Gap(5, 7, 3), Item::Event(8, 8), Item::Gap(9, 9, 1)]);
    assert_eq!(drain(&mut reader), expected);
    let account = balanced(reader.account());
    assert_eq!(
        (account.offered, account.delivered, account.lost.block_full),
        (9, 5, 4)
    );
    assert_eq!(next(&mut other), Item::Gap(1, 5, 5), "others lag as ever");
    assert_eq!(topic.stats().readers[0].overflow, Policy::Block);
}

#[tokio::test]
async fn a_batch_ends_before_a_gap_and_goes_on_after_it() {
    let (_bus, topic) = topic(3);
    let mut reader = blocking(&topic, SECOND);
    topic.publish_many(1..=5).unwrap();
    topic.publish_control(90).unwrap();
    let mut out = Vec::new();
    assert_eq!(reader.recv_many(&mut out, 10).await, Ok(4));
    topic.publish_many(6..=9).unwrap();
    let Err(RecvError::Lagged(first)) = reader.recv_many(&mut out, 10).await else {
        panic!("must have lagged")
    };
    assert_eq!(gap(first), Item::Gap(4, 5, 2));
    assert_eq!(reader.recv_many(&mut out, 2).await, Ok(2));
    assert_eq!(reader.recv_many(&mut out, 10).await, Ok(1));
    let order: Vec<_> = out.iter().map(|d| d.event).collect();
    assert_eq!(order, [90, 1, 2, 3, 6, 7, 8]);
    assert_eq!(next(&mut reader), Item::Gap(9, 9, 1));
}

#[tokio::test]
async fn a_waiting_reader_is_woken_by_the_first_event_and_by_close() {
    let (_bus, topic) = topic(4);
    let mut reader = blocking(&topic, SECOND);
    let received = tokio::spawn(async move {
        let first = reader.recv().await.map(|d| d.event);
        (first, reader.recv().await)
    });
    tokio::task::yield_now().await;
    topic.publish(1).unwrap();
    tokio::task::yield_now().await;
    topic.close();
    assert_eq!(received.await.unwrap(), (Ok(1), Err(RecvError::Closed)));
}

#[test]
fn with_room_publish_wait_returns_at_once_and_needs_no_runtime() {
    let (_bus, topic) = topic(2);
    let mut reader = blocking(&topic, SECOND);
    let waker = quiet();
    let mut cx = Context::from_waker(&waker);
    for event in 1..=2 {
        let mut call = Box::pin(topic.publish_wait(event));
        let Poll::Ready(Ok(published)) = call.as_mut().poll(&mut cx) else {
            panic!("there is room")
        };
        assert_eq!((published.seq, published.readers), (u64::from(event), 1));
    }
    assert_eq!(drain(&mut reader), events(1..=2));
}

#[test]
fn publish_wait_waits_for_no_reader_of_another_policy() {
    let (_bus, topic) = topic(2);
    let _slow = topic.subscribe().unwrap();
    let conflate = Overflow::Conflate {
        key: |event: &u32| u64::from(*event),
        max_keys: 1,
    };
    let _full = topic.subscriber().overflow(conflate).build().unwrap();
    let waker = quiet();
    let mut cx = Context::from_waker(&waker);
    for event in 0..5 {
        let mut call = Box::pin(topic.publish_wait(event));
        assert!(matches!(call.as_mut().poll(&mut cx), Poll::Ready(Ok(_))));
    }
}

#[tokio::test(start_paused = true)]
async fn publish_wait_goes_on_as_soon_as_there_is_room_and_nothing_is_lost() {
    let (_bus, topic) = topic(2);
    let mut reader = blocking(&topic, SECOND);
    let mut other = topic.subscribe().unwrap();
    topic.publish_many(1..=2).unwrap();
    let waiters = Waiters::default();
    let mut call = waiters.begin(&topic, "a", 3);
    assert_eq!(topic.stats().seq, 2, "it reaches nobody before");
    assert_eq!(drain(&mut other), events(1..=2));
    assert_eq!(next(&mut reader), Item::Event(1, 1));
    assert_eq!(waiters.woken(), ["a"]);
    assert_eq!(call.published(), 3);
    assert_eq!(drain(&mut other), events(3..=3));
    assert_eq!(drain(&mut reader), events(2..=3));
    assert_eq!(balanced(reader.account()).lost.total(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_batch_makes_room_for_as_many_publishers() {
    let (_bus, topic) = topic(4);
    let mut reader = blocking(&topic, SECOND);
    topic.publish_many(1..=4).unwrap();
    let waiters = Waiters::default();
    let mut calls = ["a", "b", "c", "d"].map(|name| waiters.begin(&topic, name, 5));
    let mut out = Vec::new();
    assert_eq!(reader.recv_many(&mut out, 3).await, Ok(3));
    let mut done = Vec::new();
    // Each may wake the next, as long as nobody is forgotten.
    loop {
        let woken = waiters.woken();
        if woken.is_empty() {
            break;
        }
        for name in woken {
            let call = calls.iter_mut().find(|call| call.name == name).unwrap();
            if !done.contains(&name) && call.poll().is_ready() {
                done.push(name);
            }
        }
    }
    assert_eq!(done, ["a", "b", "c"]);
    assert_eq!(balanced(reader.account()).pending, 4);
}

#[tokio::test(start_paused = true)]
async fn at_its_deadline_the_event_is_published_without_the_full_reader() {
    let (_bus, topic) = topic(2);
    let mut reader = blocking(&topic, ms(250));
    let mut other = topic.subscribe().unwrap();
    topic.publish_many(1..=2).unwrap();
    let began = Instant::now();
    assert_eq!(topic.publish_wait(3).await.unwrap().seq, 3);
    assert_eq!(began.elapsed(), ms(250));
    let account = balanced(reader.account());
    assert_eq!(
        (account.lost.block_deadline, account.lost.block_full),
        (1, 0)
    );
    assert_eq!(account.lost.overflowed(), 1);
    let mut expected = events(1..=2);
    expected.push(Item::Gap(3, 3, 1));
    assert_eq!(drain(&mut reader), expected);
    assert_eq!(drain(&mut other).last(), Some(&Item::Event(3, 3)));
}

#[tokio::test(start_paused = true)]
async fn losses_of_both_kinds_in_a_row_are_one_gap() {
    let (_bus, topic) = topic(2);
    let mut reader = blocking(&topic, ms(10));
    topic.publish_many(1..=3).unwrap();
    topic.publish_wait(4).await.unwrap();
    topic.publish(5).unwrap();
    let lost = reader.account().lost;
    assert_eq!((lost.block_full, lost.block_deadline), (2, 1));
    assert_eq!(drain(&mut reader)[2..], [Item::Gap(3, 5, 3)]);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_of_zero_never_waits_and_still_counts_as_a_deadline() {
    let (_bus, topic) = topic(2);
    let reader = blocking(&topic, Duration::ZERO);
    topic.publish_many(1..=2).unwrap();
    let began = Instant::now();
    topic.publish_wait(3).await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
    topic.publish(4).unwrap();
    let lost = balanced(reader.account()).lost;
    assert_eq!((lost.block_deadline, lost.block_full), (1, 1));
}

#[test]
fn a_deadline_of_zero_needs_no_runtime() {
    let (_bus, topic) = topic(2);
    let reader = blocking(&topic, Duration::ZERO);
    topic.publish_many(1..=2).unwrap();
    let mut call = Box::pin(topic.publish_wait(3));
    let polled = call.as_mut().poll(&mut Context::from_waker(&quiet()));
    assert!(matches!(polled, Poll::Ready(Ok(_))));
    assert_eq!(reader.account().lost.block_deadline, 1);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_without_end_waits_until_there_is_room() {
    let (_bus, topic) = topic(2);
    let mut reader = blocking(&topic, Duration::MAX);
    topic.publish_many(1..=2).unwrap();
    let waiters = Waiters::default();
    let mut call = waiters.begin(&topic, "a", 3);
    tokio::time::advance(Duration::from_secs(365 * 24 * 3600)).await;
    assert!(call.poll().is_pending());
    assert_eq!(next(&mut reader), Item::Event(1, 1));
    assert_eq!(call.published(), 3);
}

#[tokio::test(start_paused = true)]
async fn each_reader_is_waited_for_until_its_own_deadline() {
    let (_bus, topic) = topic(2);
    let (short, long) = (blocking(&topic, ms(10)), blocking(&topic, ms(30)));
    topic.publish_many(1..=2).unwrap();
    let began = Instant::now();
    topic.publish_wait(3).await.unwrap();
    assert_eq!(began.elapsed(), ms(30));
    for reader in [short, long] {
        assert_eq!(balanced(reader.account()).lost.block_deadline, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_whose_deadline_has_passed_is_not_waited_for_any_longer() {
    let (_bus, topic) = topic(2);
    let (short, mut long) = (blocking(&topic, ms(10)), blocking(&topic, ms(1000)));
    topic.publish_many(1..=2).unwrap();
    let waiters = Waiters::default();
    let mut call = waiters.begin(&topic, "a", 3);
    tokio::time::advance(ms(20)).await;
    assert!(call.poll().is_pending(), "the other is still full");
    waiters.woken();
    next(&mut long);
    assert_eq!(waiters.woken(), ["a"]);
    assert_eq!(call.published(), 3);
    assert_eq!(short.account().lost.block_deadline, 1);
    assert_eq!(long.account().lost.total(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_makes_room_after_its_deadline_gets_the_event_that_still_waits() {
    let (_bus, topic) = topic(2);
    let (mut short, long) = (blocking(&topic, ms(10)), blocking(&topic, ms(30)));
    topic.publish_many(1..=2).unwrap();
    let waiters = Waiters::default();
    let mut call = waiters.begin(&topic, "a", 3);
    tokio::time::advance(ms(20)).await;
    assert!(call.poll().is_pending());
    next(&mut short);
    assert!(call.poll().is_pending());
    tokio::time::advance(ms(11)).await;
    assert_eq!(call.published(), 3);
    assert_eq!(short.account().lost.total(), 0);
    assert_eq!(drain(&mut short), events(2..=3));
    assert_eq!(long.account().lost.block_deadline, 1);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_counts_from_the_call_whoever_takes_the_room_meanwhile() {
    let (_bus, topic) = topic(2);
    let mut reader = blocking(&topic, ms(30));
    topic.publish_many(1..=2).unwrap();
    let waiters = Waiters::default();
    let mut call = waiters.begin(&topic, "a", 3);
    tokio::time::advance(ms(20)).await;
    next(&mut reader);
    topic.publish(4).unwrap();
    assert!(call.poll().is_pending(), "the room is taken again");
    tokio::time::advance(ms(11)).await;
    assert_eq!(call.published(), 4);
    assert_eq!(balanced(reader.account()).lost.block_deadline, 1);
    assert_eq!(drain(&mut reader)[2..], [Item::Gap(4, 4, 1)]);
}

#[tokio::test(start_paused = true)]
async fn waiters_are_woken_in_the_order_they_began_to_wait() {
    let (_bus, topic) = topic(2);
    let mut reader = blocking(&topic, SECOND);
    topic.publish_many(1..=2).unwrap();
    let waiters = Waiters::default();
    let mut calls = ["a", "b", "c"].map(|name| waiters.begin(&topic, name, 0));
    // A poll in between, with another waker, takes nobody's place.
    assert!(calls[0].poll().is_pending());
    for expected in ["a", "b", "c"] {
        next(&mut reader);
        let mut done = Vec::new();
        for name in waiters.woken() {
            let call = calls.iter_mut().find(|call| call.name == name).unwrap();
            if done.is_empty() {
                call.published();
                done.push(name);
            } else {
                assert!(call.poll().is_pending());
            }
        }
        assert_eq!(done, [expected]);
    }
    assert_eq!(topic.stats().seq, 5);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_publish_wait_publishes_nothing() {
    let (_bus, topic) = topic(2);
    let mut reader = blocking(&topic, SECOND);
    topic.publish_many(1..=2).unwrap();
    let waiters = Waiters::default();
    drop(waiters.begin(&topic, "a", 3));
    assert_eq!(drain(&mut reader), events(1..=2));
    assert_eq!(waiters.woken(), [""; 0], "nobody waits");
    tokio::time::advance(SECOND * 2).await;
    assert_eq!(topic.stats().seq, 2);
    assert_eq!(topic.publish(3).unwrap().seq, 3);
    assert_eq!(drain(&mut reader), events(3..=3));
}

#[tokio::test(start_paused = true)]
async fn a_waiter_dropped_after_its_wake_up_does_not_take_it_along() {
    let (_bus, topic) = topic(2);
    let mut reader = blocking(&topic, SECOND);
    topic.publish_many(1..=2).unwrap();
    let waiters = Waiters::default();
    let first = waiters.begin(&topic, "a", 3);
    let mut second = waiters.begin(&topic, "b", 4);
    next(&mut reader);
    drop(first);
    assert!(waiters.woken().contains(&"b"));
    assert_eq!(second.published(), 3);
    assert_eq!(drain(&mut reader), [Item::Event(2, 2), Item::Event(3, 4)]);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_leaves_is_not_waited_for() {
    let (_bus, topic) = topic(2);
    let reader = blocking(&topic, SECOND);
    topic.publish_many(1..=2).unwrap();
    let waiters = Waiters::default();
    let mut call = waiters.begin(&topic, "a", 3);
    drop(reader);
    assert_eq!(waiters.woken(), ["a"]);
    let Poll::Ready(Ok(published)) = call.poll() else {
        panic!("nobody is full")
    };
    assert_eq!((published.seq, published.readers), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn closing_gives_the_waiting_event_back() {
    type End = fn(&Bus, &Topic<u32>);
    let ends: [(End, Refusal); 3] = [
        (|_, topic| topic.close(), Refusal::Closed),
        (|bus, _| bus.close(), Refusal::Closed),
        (|_, topic| drop(topic.publish_last(9)), Refusal::Sealed),
    ];
    for (end, refusal) in ends {
        let (bus, topic) = topic(2);
        let mut reader = blocking(&topic, SECOND);
        topic.publish_many(1..=2).unwrap();
        let waiters = Waiters::default();
        let mut calls = ["a", "b"].map(|name| waiters.begin(&topic, name, 3));
        end(&bus, &topic);
        assert_eq!(waiters.woken(), ["a", "b"]);
        for call in &mut calls {
            assert_eq!(call.refused(), (3, refusal));
        }
        let late = topic.publish_wait(4).await.unwrap_err();
        assert_eq!((late.event, late.refusal), (4, refusal));
        assert!(drain(&mut reader).ends_with(&events(1..=2)));
        assert_eq!(balanced(reader.account()).lost.total(), 0);
    }
}

#[test]
fn what_was_retained_takes_no_room_and_is_never_lost() {
    let (_bus, topic) = topic(4);
    topic.publish_many(1..=6).unwrap();
    let mut reader = topic
        .subscriber()
        .overflow(Overflow::Block { deadline: SECOND })
        .start(Start::Retained(9))
        .build()
        .unwrap();
    assert_eq!(balanced(reader.account()).pending, 4);
    topic.publish_many(7..=11).unwrap();
    let account = balanced(reader.account());
    assert_eq!((account.lost.block_full, account.pending), (1, 8));
    let mut expected = events(3..=10);
    expected.push(Item::Gap(11, 11, 1));
    assert_eq!(drain(&mut reader), expected);
}

#[test]
fn a_filter_runs_when_the_event_is_received_so_refused_events_take_room() {
    let (_bus, topic) = topic(2);
    let mut reader = topic
        .subscriber()
        .overflow(Overflow::Block { deadline: SECOND })
        .filter(|n| n % 2 == 0)
        .build()
        .unwrap();
    topic.publish_many([1, 3, 4]).unwrap();
    assert_eq!(reader.account().lost.block_full, 1);
    assert_eq!(drain(&mut reader), [Item::Gap(3, 3, 1)]);
    assert_eq!(balanced(reader.account()).filtered, 2);
}

#[test]
fn a_reader_that_leaves_abandons_its_buffer() {
    let (_bus, topic) = topic(2);
    let reader = blocking(&topic, SECOND);
    topic.publish_many(1..=3).unwrap();
    drop(reader);
    let total = balanced(topic.stats().total);
    assert_eq!((total.lost.block_full, total.lost.abandoned), (1, 2));
}

#[test]
fn publish_wait_keeps_to_its_deadline_on_the_real_clock() {
    let (_bus, topic) = topic(2);
    let _full = blocking(&topic, ms(40));
    topic.publish_many(1..=2).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let began = std::time::Instant::now();
    runtime.block_on(topic.publish_wait(3)).unwrap();
    let took = began.elapsed();
    // The upper bound only tells a deadline that works from one that does not, on a machine of any load.
    assert!(took >= ms(40) && took < Duration::from_secs(10), "{took:?}");
}

/// On a quiet machine: `cargo test -p ron-bus --release --test block -- --ignored`.
#[test]
#[ignore = "measures time: cargo test -p ron-bus --release --test block -- --ignored"]
fn publish_wait_returns_at_most_two_milliseconds_after_its_deadline() {
    let (_bus, topic) = topic(2);
    let _full = blocking(&topic, ms(10));
    topic.publish_many(1..=2).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let mut late: Vec<_> = (0..200)
        .map(|n| {
            let began = std::time::Instant::now();
            runtime.block_on(topic.publish_wait(n)).unwrap();
            began.elapsed().checked_sub(ms(10)).unwrap()
        })
        .collect();
    late.sort();
    assert!(late[197] <= ms(2), "99 of 100 within {:?}", late[197]);
}
