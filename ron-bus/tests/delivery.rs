//! What readers receive: everything offered, in order, each for itself.

use std::future::Future;
use std::pin::{pin, Pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_core::Stream;
use ron_bus::{Bus, BusConfig, Lane, Overflow, RecvError, Start, Subscriber, Topic};

fn topic(capacity: usize) -> Topic<u32> {
    let bus = Bus::new(BusConfig::default()).unwrap();
    bus.topic_spec("t").capacity(capacity).open().unwrap()
}

fn drain(reader: &mut Subscriber<u32>) -> Vec<(u64, u32)> {
    std::iter::from_fn(|| reader.try_recv().unwrap())
        .map(|d| (d.seq, d.event))
        .collect()
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
fn every_reader_receives_every_event_in_order() {
    let topic = topic(8);
    let mut readers: Vec<_> = (0..3).map(|_| topic.subscribe().unwrap()).collect();
    for event in [10, 20, 30] {
        let published = topic.publish(event).unwrap();
        assert_eq!(
            (published.seq, published.readers),
            (u64::from(event) / 10, 3)
        );
    }
    for reader in &mut readers {
        assert_eq!(drain(reader), [(1, 10), (2, 20), (3, 30)]);
    }
}

#[test]
fn a_live_reader_sees_only_what_follows() {
    let topic = topic(8);
    topic.publish(1).unwrap();
    let mut reader = topic.subscribe().unwrap();
    topic.publish(2).unwrap();
    assert_eq!(drain(&mut reader), [(2, 2)]);
}

#[test]
fn a_retained_start_is_cut_to_what_the_ring_holds() {
    let topic = topic(4);
    topic.publish_many(1..=6).unwrap();
    for (n, expected) in [
        (0, vec![]),
        (2, vec![5, 6]),
        (4, vec![3, 4, 5, 6]),
        (usize::MAX, vec![3, 4, 5, 6]),
    ] {
        let mut reader = topic
            .subscriber()
            .start(Start::Retained(n))
            .build()
            .unwrap();
        assert_eq!(reader.account().offered, expected.len() as u64);
        assert_eq!(
            drain(&mut reader)
                .into_iter()
                .map(|(_, e)| e)
                .collect::<Vec<_>>(),
            expected
        );
    }
    let young = Bus::new(BusConfig::default())
        .unwrap()
        .topic::<u32>("young")
        .unwrap();
    young.publish(1).unwrap();
    let mut reader = young
        .subscriber()
        .start(Start::Retained(100))
        .build()
        .unwrap();
    assert_eq!(drain(&mut reader), [(1, 1)]);
}

#[test]
fn publish_many_numbers_its_events_and_reports_the_last() {
    let topic = topic(64);
    let mut reader = topic.subscribe().unwrap();
    let none = topic.publish_many([]).unwrap();
    assert_eq!((none.count, none.last_seq), (0, None));
    for n in [1, 16, 17, 30] {
        let done = topic.publish_many(0..n).unwrap();
        assert_eq!((done.count, done.readers), (u64::from(n), 1));
    }
    assert_eq!(topic.stats().seq, 64);
    assert_eq!(
        drain(&mut reader)
            .iter()
            .map(|(seq, _)| *seq)
            .collect::<Vec<_>>(),
        (1..=64).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn recv_many_appends_what_waits_up_to_the_limit() {
    let topic = topic(16);
    let mut reader = topic.subscribe().unwrap();
    topic.publish_many(0..5).unwrap();
    let mut out = Vec::new();
    assert_eq!(reader.recv_many(&mut out, 0).await, Ok(0));
    assert_eq!(reader.recv_many(&mut out, 3).await, Ok(3));
    assert_eq!(reader.recv_many(&mut out, 3).await, Ok(2));
    assert_eq!(
        out.iter().map(|d| d.event).collect::<Vec<_>>(),
        [0, 1, 2, 3, 4]
    );
}

#[tokio::test]
async fn recv_many_takes_any_limit_whatever_the_policy_and_the_start() {
    let policies: [fn() -> Overflow<u32>; 4] = [
        || Overflow::DropOldest,
        || Overflow::Disconnect,
        || Overflow::Block {
            deadline: Duration::ZERO,
        },
        || Overflow::Conflate {
            key: |n| u64::from(*n),
            max_keys: 64,
        },
    ];
    for overflow in policies {
        let topic = topic(16);
        topic.publish_many(90..=100).unwrap();
        topic.publish_many(1..=5).unwrap();
        let start = Start::Retained(5);
        let builder = topic.subscriber().overflow(overflow()).start(start);
        let mut reader = builder.build().unwrap();
        topic.publish_many(6..=10).unwrap();
        topic.publish_control(0).unwrap();
        let mut out = Vec::new();
        assert_eq!(reader.recv_many(&mut out, usize::MAX).await, Ok(11));
        let events: Vec<_> = out.iter().map(|d| d.event).collect();
        assert_eq!(events, (0..=10).collect::<Vec<_>>());
        topic.publish_many(11..=12).unwrap();
        assert_eq!(reader.recv_many(&mut out, usize::MAX).await, Ok(2));
    }
}

#[tokio::test(start_paused = true)]
async fn recv_timeout_gives_up_at_its_deadline_and_not_before() {
    let topic = topic(4);
    let mut reader = topic.subscribe().unwrap();
    let began = tokio::time::Instant::now();
    assert_eq!(
        reader.recv_timeout(Duration::from_millis(250)).await,
        Ok(None)
    );
    assert_eq!(began.elapsed(), Duration::from_millis(250));
    topic.publish(7).unwrap();
    let ready = reader.recv_timeout(Duration::ZERO).await.unwrap();
    assert_eq!(ready.map(|d| d.event), Some(7));
    topic.close();
    assert_eq!(
        reader.recv_timeout(Duration::from_secs(1)).await,
        Err(RecvError::Closed)
    );
}

#[tokio::test]
async fn a_waiting_reader_is_woken_by_each_kind_of_publish_and_by_close() {
    let topic = topic(4);
    let mut reader = topic.subscribe().unwrap();
    let received = tokio::spawn(async move {
        let mut seen = Vec::new();
        loop {
            match reader.recv().await {
                Ok(delivery) => seen.push((delivery.lane, delivery.event)),
                Err(end) => return (seen, end),
            }
        }
    });
    let settle = || async { tokio::task::yield_now().await };
    settle().await;
    topic.publish(1).unwrap();
    settle().await;
    topic.publish_control(2).unwrap();
    settle().await;
    topic.publish_many([3]).unwrap();
    settle().await;
    topic.close();
    let expected = vec![(Lane::Data, 1), (Lane::Control, 2), (Lane::Data, 3)];
    assert_eq!(received.await.unwrap(), (expected, RecvError::Closed));
}

#[test]
fn a_dropped_receive_loses_nothing() {
    let topic = topic(4);
    let mut reader = topic.subscribe().unwrap();
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let mut cx = Context::from_waker(&waker);
    {
        let mut receive = pin!(reader.recv());
        assert!(receive.as_mut().poll(&mut cx).is_pending());
        topic.publish(1).unwrap();
        assert_eq!(wakes.count(), 1);
    }
    {
        let mut out = Vec::new();
        let mut receive = pin!(reader.recv_many(&mut out, 0));
        assert_eq!(receive.as_mut().poll(&mut cx), Poll::Ready(Ok(0)));
    }
    assert_eq!(drain(&mut reader), [(1, 1)]);
}

#[tokio::test]
async fn the_stream_yields_gaps_as_items_and_ends_when_the_topic_is_read() {
    let topic = topic(2);
    let mut stream = topic.subscribe().unwrap().into_stream();
    topic.publish_many(1..=3).unwrap();
    topic.close();
    let mut items = Vec::new();
    while let Some(item) = std::future::poll_fn(|cx| Pin::new(&mut stream).poll_next(cx)).await {
        items.push(item.map(|d| d.event));
    }
    assert!(
        matches!(items[0], Err(RecvError::Lagged(gap)) if (gap.first_missed, gap.last_missed) == (1, 1))
    );
    assert_eq!(items[1..], [Ok(2), Ok(3)]);
    assert!(
        std::future::poll_fn(|cx| Pin::new(&mut stream).poll_next(cx))
            .await
            .is_none(),
        "stays ended"
    );
}

#[test]
fn a_filter_that_refuses_everything_lets_other_tasks_run() {
    let topic = topic(1000);
    let mut reader = topic.subscriber().filter(|_| false).build().unwrap();
    topic.publish_many(0..1000).unwrap();
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    assert!(pin!(reader.recv())
        .poll(&mut Context::from_waker(&waker))
        .is_pending());
    assert_eq!(wakes.count(), 1, "it asks to be polled again");
    let account = reader.account();
    assert!(account.filtered > 0 && account.pending > 0, "{account:?}");
}
