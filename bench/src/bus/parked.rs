//! Publishing to readers that are all parked, on a current_thread runtime.

use super::peers::{topic, AsyncBroadcast, AsyncChannel, Flume, Ron, Tokio};
use super::{Event, Payload};
use crate::harness::{median, Goal, Group};
use ron_bus::{Class, Topic};
use std::future::{poll_fn, Future};
use std::hint::black_box;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Instant;
use tokio::task::{yield_now, JoinHandle};

/// Publishes to one channel, each to readers that are parked again.
const TIMES: u64 = 100;

/// How many are parked, how many channels have that many, and the measures. The channels are published to one after
/// the other between two looks at the clock, so that its cost does not count.
const PARKED: [(usize, usize, &str, &str); 4] = [
    (1, 16, "1 parked", "1 parked, until all have it"),
    (16, 16, "16 parked", "16 parked, until all have it"),
    (64, 8, "64 parked", "64 parked, until all have it"),
    (1000, 2, "1,000 parked", "1,000 parked, until all have it"),
];

const ONE_WANTS_IT: &str = "ron-bus publish, 1 of 1,000 wants it";

pub fn group() -> Group {
    let mut group = Group::new(
        "bus-parked",
        "one event to parked readers, current_thread runtime",
        "tokio broadcast send",
    );
    for (_, _, publish, deliver) in PARKED {
        group = group.measure(publish, "ns").measure(deliver, "ns").goal(
            publish,
            "ron-bus publish",
            Goal::Ratio(1.0),
        );
    }
    group
        .case("ron-bus publish", all::<Ron>)
        .case(ONE_WANTS_IT, one_of_a_thousand)
        .goal("1,000 parked", ONE_WANTS_IT, Goal::Ratio(1.0 / 50.0))
        .case("tokio broadcast send", all::<Tokio>)
        .case("async-broadcast try_broadcast", all::<AsyncBroadcast>)
        .case("flume try_send, one each", all::<Flume>)
        .note("Every reader must have every event once, in order, and wait again before the next is published.")
}

fn all<C: AsyncChannel<Event>>() -> Vec<f64> {
    let mut row = Vec::new();
    for (readers, channels, _, _) in PARKED {
        let channels = (0..channels)
            .map(|_| C::primed(CAPACITY, readers))
            .collect();
        row.extend(publish::<C>(channels, Vec::new()));
    }
    row
}

/// The other 999 want events of one of 63 other classes each.
fn one_of_a_thousand() -> Vec<f64> {
    let (mut channels, mut bystanders) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let topic: Topic<Event> = topic(CAPACITY);
        let reader = |class: u8| {
            let class = Class::new(class).expect("less than 64");
            topic
                .subscriber()
                .interest(class)
                .build()
                .expect("few readers")
        };
        bystanders.extend((0..999).map(|number| reader(1 + number as u8 % 63)));
        let interested = vec![reader(0)];
        channels.push((topic, interested));
    }
    let mut row = vec![f64::NAN; 2 * (PARKED.len() - 1)];
    row.extend(publish::<Ron>(channels, bystanders));
    row
}

/// Nothing waits in these rings but one event.
const CAPACITY: usize = 4;

/// ns of a publish, and until all readers have it. The bystanders must not even be woken.
fn publish<C: AsyncChannel<Event>>(
    channels: Vec<(C::Sender, Vec<C::Reader>)>,
    bystanders: Vec<C::Reader>,
) -> [f64; 2] {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime").block_on(async {
        let (polls, bystanders) = park::<C>(bystanders);
        while polls.load(Ordering::Relaxed) < bystanders.len() as u64 {
            yield_now().await;
        }
        let received = Arc::new(AtomicU64::new(0));
        let (mut senders, mut tasks) = (Vec::new(), Vec::new());
        for (sender, readers) in channels {
            senders.push(sender);
            for mut reader in readers {
                let received = Arc::clone(&received);
                tasks.push(tokio::spawn(async move {
                    for number in 0..=TIMES {
                        let event = black_box(C::recv(&mut reader).await);
                        assert_eq!(event.number(), number);
                        received.fetch_add(1, Ordering::Relaxed);
                    }
                }));
            }
        }
        let per_time = tasks.len() as u64;
        let (mut publishing, mut delivering) = (Vec::new(), Vec::new());
        // The first one is not counted: it finds readers that have never run.
        for number in 0..=TIMES {
            // Class 0.
            let event = Event([number, 0, 0, 0, 0, 0, 0, 0]);
            let began = Instant::now();
            for sender in &mut senders {
                C::publish(sender, black_box(event));
            }
            let published = began.elapsed();
            // A reader counts and waits again in one poll.
            while received.load(Ordering::Relaxed) < (number + 1) * per_time {
                yield_now().await;
            }
            if number > 0 {
                delivering.push(began.elapsed().as_nanos() as f64);
                publishing.push(published.as_nanos() as f64);
            }
        }
        for task in tasks {
            task.await.expect("a reader");
        }
        let polls = polls.load(Ordering::Relaxed);
        assert_eq!(polls, bystanders.len() as u64, "a bystander was woken");
        let per_publish = |times: &[f64]| median(times) / senders.len() as f64;
        [per_publish(&publishing), per_publish(&delivering)]
    })
}

/// Lets the readers wait for good; returns how often they were polled, and their tasks.
fn park<C: AsyncChannel<Event>>(readers: Vec<C::Reader>) -> (Arc<AtomicU64>, Vec<JoinHandle<()>>) {
    let polls = Arc::new(AtomicU64::new(0));
    let task = |mut reader: C::Reader| {
        let polls = Arc::clone(&polls);
        tokio::spawn(async move {
            let mut receiving = pin!(C::recv(&mut reader));
            poll_fn(|context| {
                polls.fetch_add(1, Ordering::Relaxed);
                receiving.as_mut().poll(context).map(drop)
            })
            .await;
        })
    };
    let tasks = readers.into_iter().map(task).collect();
    (polls, tasks)
}
