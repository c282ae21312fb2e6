//! Publishing to readers that do not wait, and receiving what waits, 64-byte events, one thread.

use crate::harness::{Goal, Group};
use ron_bus::{Bus, BusConfig};
use std::hint::black_box;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::broadcast;

pub const NAMES: &[&str] = &["bus-publish", "bus-receive"];

type Event = [u64; 8];

const CAPACITY: usize = 1024;
/// Events between two drains: no ring is ever full.
const BURST: usize = 512;
const BURSTS: usize = 100;
const BATCH: usize = 64;
const EVENT: Event = [7; 8];

pub fn groups() -> Vec<Group> {
    vec![publish(), receive()]
}

fn publish() -> Group {
    let readers = [("0 readers", 0), ("1 reader", 1), ("16 readers", 16)];
    let mut group = Group::new(
        "bus-publish",
        "one event, readers not waiting",
        "tokio broadcast send",
    );
    for (measure, _) in readers {
        group = group
            .measure(measure, "ns")
            .goal(measure, "ron-bus publish", Goal::Ratio(0.75))
            .goal(measure, "ron-bus publish_many(64)", Goal::Ratio(0.25));
    }
    group
        .case("ron-bus publish", move || {
            readers.map(|(_, readers)| ron_publish(readers, false)).to_vec()
        })
        .case("ron-bus publish_many(64)", move || {
            readers.map(|(_, readers)| ron_publish(readers, true)).to_vec()
        })
        .case("tokio broadcast send", move || {
            readers.map(|(_, readers)| tokio_publish(readers)).to_vec()
        })
        .note("512 events at a time into a ring of 1,024; the readers drain it between the timed parts.")
}

fn receive() -> Group {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = Rc::new(runtime.expect("a runtime"));
    let ron = |how: How| {
        let runtime = Rc::clone(&runtime);
        move || vec![ron_receive(&runtime, how)]
    };
    let tokio = |how: How| {
        let runtime = Rc::clone(&runtime);
        move || vec![tokio_receive(&runtime, how)]
    };
    Group::new(
        "bus-receive",
        "one event that waits",
        "tokio broadcast try_recv",
    )
    .measure("an event", "ns")
    .case("ron-bus try_recv", ron(How::Try))
    .case("ron-bus recv", ron(How::Await))
    .case("ron-bus recv_many(64)", ron(How::Many))
    .case("tokio broadcast try_recv", tokio(How::Try))
    .case("tokio broadcast recv", tokio(How::Await))
    .goal("an event", "ron-bus recv_many(64)", Goal::Ratio(0.25))
}

fn per_event(elapsed: Duration) -> f64 {
    elapsed.as_nanos() as f64 / (BURSTS * BURST) as f64
}

fn topic() -> (Bus, ron_bus::Topic<Event>) {
    let bus = Bus::new(BusConfig::default()).expect("defaults");
    let topic = bus.topic_spec("bench").capacity(CAPACITY).open();
    (bus, topic.expect("a topic"))
}

fn ron_publish(readers: usize, batched: bool) -> f64 {
    let (_bus, topic) = topic();
    let mut readers: Vec<_> = (0..readers)
        .map(|_| topic.subscribe().expect("few readers"))
        .collect();
    let mut elapsed = Duration::ZERO;
    for _ in 0..BURSTS {
        let began = Instant::now();
        if batched {
            for _ in 0..BURST / BATCH {
                let events = std::iter::repeat_n(black_box(EVENT), BATCH);
                topic.publish_many(events).expect("the topic is open");
            }
        } else {
            for _ in 0..BURST {
                let published = topic.publish(black_box(EVENT));
                black_box(published.expect("the topic is open"));
            }
        }
        elapsed += began.elapsed();
        for reader in &mut readers {
            while let Ok(Some(event)) = reader.try_recv() {
                black_box(event);
            }
        }
    }
    per_event(elapsed)
}

fn tokio_publish(readers: usize) -> f64 {
    let (sender, first) = broadcast::channel::<Event>(CAPACITY);
    let mut readers: Vec<_> = (0..readers).map(|_| sender.subscribe()).collect();
    drop(first);
    let mut elapsed = Duration::ZERO;
    for _ in 0..BURSTS {
        let began = Instant::now();
        for _ in 0..BURST {
            // To nobody is an error here.
            let _ = black_box(sender.send(black_box(EVENT)));
        }
        elapsed += began.elapsed();
        for reader in &mut readers {
            while let Ok(event) = reader.try_recv() {
                black_box(event);
            }
        }
    }
    per_event(elapsed)
}

#[derive(Clone, Copy, Debug)]
enum How {
    Try,
    Await,
    Many,
}

fn ron_receive(runtime: &Runtime, how: How) -> f64 {
    let (_bus, topic) = topic();
    let mut reader = topic.subscribe().expect("few readers");
    let mut batch = Vec::with_capacity(BATCH);
    let mut elapsed = Duration::ZERO;
    for _ in 0..BURSTS {
        for _ in 0..BURST {
            topic.publish(EVENT).expect("the topic is open");
        }
        let began = Instant::now();
        runtime.block_on(async {
            let mut left = BURST;
            while left > 0 {
                left -= match how {
                    How::Try => {
                        let event = reader.try_recv().expect("no gap");
                        black_box(event.expect("an event waits"));
                        1
                    }
                    How::Await => {
                        black_box(reader.recv().await.expect("no gap"));
                        1
                    }
                    How::Many => {
                        batch.clear();
                        let taken = reader.recv_many(&mut batch, BATCH).await;
                        black_box(&batch);
                        taken.expect("no gap")
                    }
                };
            }
        });
        elapsed += began.elapsed();
    }
    per_event(elapsed)
}

fn tokio_receive(runtime: &Runtime, how: How) -> f64 {
    let (sender, mut reader) = broadcast::channel::<Event>(CAPACITY);
    let mut elapsed = Duration::ZERO;
    for _ in 0..BURSTS {
        for _ in 0..BURST {
            sender.send(EVENT).expect("a reader");
        }
        let began = Instant::now();
        runtime.block_on(async {
            for _ in 0..BURST {
                let event = match how {
                    How::Try => reader.try_recv().expect("an event waits"),
                    How::Await | How::Many => reader.recv().await.expect("no gap"),
                };
                black_box(event);
            }
        });
        elapsed += began.elapsed();
    }
    per_event(elapsed)
}
