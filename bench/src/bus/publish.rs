//! Publishing to readers that do not wait, on one thread.

use super::peers::{AsyncBroadcast, BusCrate, Channel, Crossbeam, Disruptor, Flume, Ron, Tokio};
use super::{Payload, BATCH, CAPACITY};
use crate::harness::{median, Group};
use ron_bus::Topic;
use std::hint::black_box;
use std::ops::Range;
use std::time::Instant;

/// Events between two drains: no ring is ever full.
const BURST: u64 = 512;

/// Readers, and bursts a round: draining 64 readers takes its time.
const READERS: [(&str, usize, u64); 4] = [
    ("0 readers", 0, 100),
    ("1 reader", 1, 100),
    ("16 readers", 16, 50),
    ("64 readers", 64, 20),
];

pub fn group<E: Payload>(name: &'static str, title: &'static str) -> Group {
    let mut group = Group::new(name, title, "tokio broadcast send");
    for (measure, _, _) in READERS {
        group = group
            .measure(measure, "ns")
            .goal(measure, "ron-bus publish", E::goal(0.75))
            .goal(measure, "ron-bus publish_many(64)", E::goal(0.25));
    }
    group
        .case("ron-bus publish", || all::<Ron, E>(0, singly::<Ron, E>))
        .case("ron-bus publish_many(64)", || all::<Ron, E>(0, many))
        .case("tokio broadcast send", || all::<Tokio, E>(0, singly::<Tokio, E>))
        .case("async-broadcast try_broadcast", || {
            all::<AsyncBroadcast, E>(0, singly::<AsyncBroadcast, E>)
        })
        .case("bus try_broadcast", || all::<BusCrate, E>(0, singly::<BusCrate, E>))
        .case("crossbeam try_send, one each", || {
            all::<Crossbeam, E>(1, singly::<Crossbeam, E>)
        })
        .case("flume try_send, one each", || all::<Flume, E>(1, singly::<Flume, E>))
        .case("disruptor try_publish", || all::<Disruptor, E>(1, singly::<Disruptor, E>))
        .note(
            "512 events at a time into a ring of 1,024; the readers drain it between the timed parts, and each must \
             have got them all. bus and disruptor have one publisher and no readers that are tasks.",
        )
}

/// NaN where the channel has no business with so few readers.
fn all<C: Channel<E>, E: Payload>(
    readers_min: usize,
    publish: fn(&mut C::Sender, Range<u64>),
) -> Vec<f64> {
    let of = |(_, readers, bursts)| match readers >= readers_min {
        true => burst::<C, E>(readers, bursts, publish),
        false => f64::NAN,
    };
    READERS.map(of).to_vec()
}

fn burst<C: Channel<E>, E: Payload>(
    readers: usize,
    bursts: u64,
    publish: fn(&mut C::Sender, Range<u64>),
) -> f64 {
    let (mut sender, mut readers) = C::primed(CAPACITY, readers);
    let mut times = Vec::with_capacity(bursts as usize);
    for burst in 0..bursts {
        let numbers = burst * BURST..(burst + 1) * BURST;
        let began = Instant::now();
        publish(&mut sender, numbers.clone());
        times.push(began.elapsed().as_nanos() as f64);
        for reader in &mut readers {
            for number in numbers.clone() {
                let event = C::try_recv(reader).expect("all of the burst");
                assert_eq!(event.number(), number);
            }
            assert!(C::try_recv(reader).is_none(), "more than was published");
        }
    }
    median(&times) / BURST as f64
}

fn singly<C: Channel<E>, E: Payload>(sender: &mut C::Sender, numbers: Range<u64>) {
    for number in numbers {
        C::publish(sender, E::new(black_box(number)));
    }
}

fn many<E: Payload>(topic: &mut Topic<E>, mut numbers: Range<u64>) {
    while !numbers.is_empty() {
        let events = numbers.by_ref().take(BATCH);
        let events = events.map(|number| E::new(black_box(number)));
        let _ = black_box(topic.publish_many(events));
    }
}
