//! Tails: the lines tools depend on, and which topics they come from.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_core::Stream;
use ron_bus::{Bus, BusConfig, Lane, Start, Tail, TailError};
use serde::ser::Error;
use serde::{Serialize, Serializer};

const GOLDEN: &str = include_str!("golden/tail.jsonl");

#[derive(Clone, Serialize)]
#[serde(tag = "type")]
enum Event {
    ServiceCrashed { service: String, reason: String },
    Shutdown,
}

fn crash(service: &str) -> Event {
    Event::ServiceCrashed {
        service: service.to_owned(),
        reason: "said \"no\"\n".to_owned(),
    }
}

fn bus() -> Bus {
    fn clock() -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(1_763_683_199_007)
    }
    Bus::new(
        BusConfig::default()
            .instance("edge \"7\"")
            .epoch(1_763_683_000_000_001)
            .wall_clock(clock),
    )
    .unwrap()
}

fn lines(tail: &mut Tail) -> Vec<String> {
    std::iter::from_fn(|| tail.try_next())
        .map(|line| line.into_string())
        .collect()
}

#[test]
fn event_and_lag_lines_have_their_golden_shape() {
    let bus = bus();
    let topic = bus.topic_spec("kernel").capacity(2).json().open().unwrap();
    let mut tail = bus.tail("kernel").unwrap();
    topic.publish(crash("a")).unwrap();
    let mut text = lines(&mut tail);
    for service in ["b", "c", "d", "e"] {
        topic.publish(crash(service)).unwrap();
    }
    topic.publish_last(Event::Shutdown).unwrap();
    text.extend(lines(&mut tail));
    assert_eq!(text.join("\n") + "\n", GOLDEN);
}

#[test]
fn every_line_is_json_and_says_which_lane_it_counts() {
    let bus = bus();
    let topic = bus.topic_spec("kernel").capacity(2).json().open().unwrap();
    let mut tail = bus.tail("kernel").unwrap();
    topic.publish_control(Event::Shutdown).unwrap();
    for _ in 0..3 {
        topic.publish(crash("a")).unwrap();
    }
    let seen: Vec<_> = std::iter::from_fn(|| tail.try_next()).collect();
    for line in &seen {
        serde_json::from_str::<serde_json::Value>(line.as_str()).unwrap();
        assert_eq!(&*line.topic, "kernel");
    }
    let kinds: Vec<_> = seen.iter().map(|line| (line.lane, line.lagged)).collect();
    assert_eq!(
        kinds,
        [
            (Lane::Control, false),
            (Lane::Data, true),
            (Lane::Data, false),
            (Lane::Data, false)
        ]
    );
}

#[test]
fn a_tail_follows_its_topic_those_below_and_those_opened_later() {
    let bus = bus();
    let open = |name: &str| bus.topic_spec(name).json().open::<u8>().unwrap();
    let (before, other) = (open("kernel"), open("kernels"));
    let mut tail = bus.tail("kernel").unwrap();
    let later = open("kernel.lifecycle");
    bus.topic::<u8>("kernel.plain").unwrap().publish(9).unwrap();
    for topic in [&before, &other, &later] {
        topic.publish(1).unwrap();
    }
    let mut topics: Vec<_> = std::iter::from_fn(|| tail.try_next())
        .map(|line| line.topic.to_string())
        .collect();
    topics.sort();
    assert_eq!(topics, ["kernel", "kernel.lifecycle"]);
}

#[test]
fn topics_take_turns() {
    let bus = bus();
    let topics = ["t.a", "t.b"].map(|name| bus.topic_spec(name).json().open::<u8>().unwrap());
    let mut tail = bus.tail("t").unwrap();
    for topic in &topics {
        topic.publish_many(0..2).unwrap();
    }
    let order: Vec<_> = std::iter::from_fn(|| tail.try_next())
        .map(|line| line.topic.to_string())
        .collect();
    assert_eq!(order, ["t.a", "t.b", "t.a", "t.b"]);
}

#[test]
fn a_tail_can_begin_with_what_is_retained() {
    let bus = bus();
    let topic = bus.topic_spec("t").json().open::<u8>().unwrap();
    topic.publish_many(0..5).unwrap();
    assert_eq!(lines(&mut bus.tail("t").unwrap()).len(), 0);
    assert_eq!(
        lines(&mut bus.tail_from("t", Start::Retained(2)).unwrap()).len(),
        2
    );
}

#[tokio::test]
async fn a_waiting_tail_is_woken_by_a_new_topic_and_ends_with_the_bus() {
    let bus = bus();
    let mut tail = bus.tail("t").unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let read = tokio::spawn(async move {
        while let Some(_line) = std::future::poll_fn(|cx| Pin::new(&mut tail).poll_next(cx)).await {
            counter.fetch_add(1, Ordering::SeqCst);
        }
        tail.next().await
    });
    tokio::task::yield_now().await;
    let topic = bus.topic_spec("t.new").json().open::<u8>().unwrap();
    for expected in 1..3 {
        topic.publish(1).unwrap();
        tokio::task::yield_now().await;
        assert_eq!(count.load(Ordering::SeqCst), expected);
    }
    bus.close();
    assert_eq!(read.await.unwrap(), None);
}

#[tokio::test]
async fn a_tail_ends_when_nobody_is_left_who_could_publish() {
    let bus = bus();
    let topic = bus.topic_spec("t").json().open::<u8>().unwrap();
    let mut tail = bus.tail("t").unwrap();
    drop(bus);
    let waits =
        std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut tail).poll_next(cx).is_pending()));
    assert!(waits.await, "the topic can still be published to");
    topic.publish(1).unwrap();
    assert!(tail.next().await.is_some());
    drop(topic);
    assert_eq!(tail.next().await, None);
}

#[test]
fn a_tail_is_a_reader_with_an_account() {
    let bus = bus();
    let topic = bus.topic_spec("t").capacity(2).json().open::<u8>().unwrap();
    let mut tail = bus.tail("t").unwrap();
    assert_eq!(topic.publish(0).unwrap().readers, 1);
    topic.publish_many(1..5).unwrap();
    lines(&mut tail);
    let stats = topic.stats();
    assert_eq!(&*stats.readers[0].name, "tail");
    assert_eq!((stats.total.delivered, stats.total.lost.lagged), (2, 3));
    drop(tail);
    assert_eq!(topic.stats().subscribers, 0);
}

#[test]
fn tails_do_not_take_the_places_of_subscribers_and_are_bounded_themselves() {
    let bus = Bus::new(BusConfig::default().max_readers(1)).unwrap();
    let topic = bus.topic_spec("t").json().open::<u8>().unwrap();
    let mut tails: Vec<_> = (0..64).map(|_| bus.tail("t").unwrap()).collect();
    assert_eq!(bus.tail("t").unwrap_err(), TailError::TooMany { limit: 64 });
    topic.subscribe().unwrap();
    tails.pop();
    bus.tail("t").unwrap();
}

#[test]
fn a_tail_refuses_what_it_could_not_show() {
    let bus = bus();
    bus.topic::<u8>("plain").unwrap();
    assert_eq!(
        bus.tail("plain").unwrap_err(),
        TailError::NoEncoder {
            topic: "plain".to_owned()
        }
    );
    assert!(matches!(bus.tail("a.*"), Err(TailError::Pattern(_))));
    bus.close();
    assert_eq!(bus.tail("t").unwrap_err(), TailError::Closed);
}

#[derive(Clone)]
struct Odd(u8);

impl Serialize for Odd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            0 => Err(S::Error::custom("zero is \"odd\"")),
            1 => panic!("one"),
            n => serializer.serialize_u8(n),
        }
    }
}

#[test]
fn an_event_that_cannot_be_encoded_is_shown_as_such() {
    let bus = bus();
    let topic = bus.topic_spec("t").json().open().unwrap();
    let mut tail = bus.tail("t").unwrap();
    topic.publish_many([Odd(0), Odd(2)]).unwrap();
    let text = lines(&mut tail);
    assert!(
        text[0].ends_with(r#""event":{"type":"Unencodable","error":"zero is \"odd\""}}"#),
        "{}",
        text[0]
    );
    assert!(text[1].ends_with(r#""event":2}"#));
}

#[test]
fn a_panic_in_serialize_costs_the_tail_one_event() {
    let bus = bus();
    let topic = bus.topic_spec("t").json().open().unwrap();
    let mut tail = bus.tail("t").unwrap();
    topic.publish_many([Odd(1), Odd(2)]).unwrap();
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| tail.try_next())).is_err());
    assert_eq!(lines(&mut tail).len(), 1);
    let total = topic.stats().total;
    assert_eq!((total.delivered, total.lost.panicked), (1, 1));
}
