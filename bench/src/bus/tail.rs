//! What publishing costs while someone follows the topic as JSON lines.

use crate::harness::{percentile, Goal, Group};
use ron_bus::{Bus, BusConfig, Topic};
use std::hint::black_box;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

const EVENTS: u64 = 10_000;
/// 100,000 events/s.
const PERIOD: Duration = Duration::from_micros(10);
/// Larger than all that is published: nothing depends on how fast the follower is.
const CAPACITY: usize = 16_384;

/// What is rendered: a few fields of the usual kinds.
pub type Event = (u64, &'static str, bool);

const BASELINE: &str = "one subscriber";
const TAIL: &str = "one tail";

pub fn group() -> Group {
    Group::new(
        "bus-tail",
        "one publish at 100,000 events/s on a JSON topic",
        BASELINE,
    )
    .measure("p50", "ns")
    .measure("p99", "ns")
    .measure("mean", "ns")
    .case("nobody", nobody)
    .case(BASELINE, subscriber)
    .case(TAIL, tail)
    .goal("p50", TAIL, Goal::Ratio(1.10))
    .goal("mean", TAIL, Goal::Ratio(1.10))
    .note(
        "10,000 events, one every 10 us by the clock, from a thread outside the runtime; two looks at the clock are in \
         every figure. The follower is a task on 2 workers which parks between events, so the publisher pays for \
         waking it. The tail renders every event: it must have made a line of each.",
    )
}

fn open() -> (Bus, Topic<Event>, Runtime) {
    let bus = Bus::new(BusConfig::default()).expect("defaults");
    let spec = bus.topic_spec("bench").capacity(CAPACITY).json();
    let topic = spec.open().expect("a topic");
    // The first lap allocates.
    let lap = (0..CAPACITY as u64).map(|number| (number, "bolts", true));
    topic.publish_many(lap).expect("the topic is open");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build();
    (bus, topic, runtime.expect("a runtime"))
}

fn nobody() -> Vec<f64> {
    let (_bus, topic, _runtime) = open();
    publish(&topic, EVENTS)
}

fn subscriber() -> Vec<f64> {
    let (bus, topic, runtime) = open();
    let mut reader = topic.subscribe().expect("a reader");
    let following = runtime.spawn(async move {
        let mut received = 0;
        while let Ok(delivery) = reader.recv().await {
            black_box(delivery);
            received += 1;
        }
        received
    });
    let row = publish(&topic, EVENTS);
    bus.close();
    assert_eq!(runtime.block_on(following).expect("the reader"), EVENTS);
    row
}

fn tail() -> Vec<f64> {
    let (bus, topic, runtime) = open();
    let mut tail = bus.tail("bench").expect("a tail");
    let following = runtime.spawn(async move {
        let mut lines = 0;
        while let Some(line) = tail.next().await {
            assert!(!line.lagged);
            black_box(line.as_str());
            lines += 1;
        }
        lines
    });
    let row = publish(&topic, EVENTS);
    bus.close();
    assert_eq!(runtime.block_on(following).expect("the tail"), EVENTS);
    row
}

/// Publishes so many events by the clock: p50, p99 and mean.
pub fn publish(topic: &Topic<Event>, events: u64) -> Vec<f64> {
    let mut each = Vec::with_capacity(events as usize);
    let mut due = Instant::now();
    for number in 0..events {
        due += PERIOD;
        while Instant::now() < due {
            std::hint::spin_loop();
        }
        let event = black_box((number, "bolts", true));
        let began = Instant::now();
        black_box(topic.publish(event)).expect("the topic is open");
        each.push(began.elapsed().as_nanos() as f64);
    }
    let mean = each.iter().sum::<f64>() / each.len() as f64;
    vec![percentile(&each, 50), percentile(&each, 99), mean]
}
