//! Publishing into a ring that is full, while its readers lag, and what each of them then lost.

use super::peers::{topic, Channel, Tokio};
use super::{Event, Payload, BATCH, CAPACITY};
use crate::harness::{median, Goal, Group};
use ron_bus::{RecvError, Subscriber, Topic};
use std::hint::black_box;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::broadcast;

/// Times that the whole ring is displaced.
const LAPS: u64 = 50;
const EVENTS: u64 = LAPS * CAPACITY as u64;

pub fn group() -> Group {
    let mut group = Group::new(
        "bus-full",
        "one event that displaces the oldest",
        "tokio broadcast send",
    );
    let measures = [
        "1 lagging",
        "16 lagging",
        "1 lagging, Arc",
        "16 lagging, Arc",
    ];
    for measure in measures {
        group = group
            .measure(measure, "ns")
            .goal(measure, "ron-bus publish", Goal::Ratio(1.0))
            .goal(measure, "ron-bus publish_many(64)", Goal::Ratio(1.0));
    }
    group
        .case("ron-bus publish", || {
            all(ron::<Event>(1), ron::<Arc<Event>>(1))
        })
        .case("ron-bus publish_many(64)", || {
            all(ron::<Event>(BATCH), ron::<Arc<Event>>(BATCH))
        })
        .case("tokio broadcast send", || {
            all(tokio::<Event>, tokio::<Arc<Event>>)
        })
        .case("async-broadcast, overflow", || {
            all(async_broadcast::<Event>, async_broadcast::<Arc<Event>>)
        })
        .note(
            "A ring of 1,024, filled, then 51,200 events. Then every reader reads to the end: it must find the newest \
             1,024 and be told that it missed exactly 51,200. The other peers refuse an event or wait for room.",
        )
}

fn all(plain: impl Fn(usize) -> f64, arc: impl Fn(usize) -> f64) -> Vec<f64> {
    vec![plain(1), plain(16), arc(1), arc(16)]
}

/// Fills the ring, then times the events that displace one each, lap by lap.
fn timed(mut publish: impl FnMut(Range<u64>)) -> f64 {
    let capacity = CAPACITY as u64;
    publish(0..capacity);
    let lap = |lap: u64| {
        let began = Instant::now();
        publish(lap * capacity..(lap + 1) * capacity);
        began.elapsed().as_nanos() as f64 / capacity as f64
    };
    let laps: Vec<f64> = (1..=LAPS).map(lap).collect();
    median(&laps)
}

/// What one reader found.
#[derive(Default)]
struct Found {
    events: u64,
    missed: u64,
}

impl Found {
    fn event<E: Payload>(&mut self, event: &E) {
        assert_eq!(event.number(), EVENTS + self.events, "not the newest");
        self.events += 1;
    }

    fn check(self) {
        assert_eq!((self.events, self.missed), (CAPACITY as u64, EVENTS));
    }
}

fn ron<E: Payload>(batch: usize) -> impl Fn(usize) -> f64 {
    move |readers| {
        let topic: Topic<E> = topic(CAPACITY);
        let subscribe = |_| topic.subscribe().expect("few readers");
        let readers: Vec<Subscriber<E>> = (0..readers).map(subscribe).collect();
        let time = timed(|mut numbers| {
            while batch > 1 && !numbers.is_empty() {
                let events = numbers.by_ref().take(batch);
                let events = events.map(|number| E::new(black_box(number)));
                let _ = black_box(topic.publish_many(events));
            }
            for number in numbers {
                let _ = black_box(topic.publish(E::new(black_box(number))));
            }
        });
        for mut reader in readers {
            // Before the reader knows of it.
            assert_eq!(reader.account().lost.lagged, EVENTS);
            let mut found = Found::default();
            loop {
                match reader.try_recv() {
                    Ok(Some(delivery)) => found.event(&delivery.event),
                    Ok(None) => break,
                    Err(RecvError::Lagged(gap)) => found.missed += gap.missed(),
                    Err(error) => panic!("ron-bus: {error}"),
                }
            }
            found.check();
        }
        time
    }
}

fn tokio<E: Payload>(readers: usize) -> f64 {
    let (sender, readers) = <Tokio as Channel<E>>::open(CAPACITY, readers);
    let time = timed(|numbers| {
        for number in numbers {
            let _ = black_box(sender.send(E::new(black_box(number))));
        }
    });
    for mut reader in readers {
        let mut found = Found::default();
        loop {
            match reader.try_recv() {
                Ok(event) => found.event(&event),
                Err(broadcast::error::TryRecvError::Lagged(missed)) => found.missed += missed,
                Err(_) => break,
            }
        }
        found.check();
    }
    time
}

fn async_broadcast<E: Payload>(readers: usize) -> f64 {
    use async_broadcast::TryRecvError;
    let (mut sender, first) = async_broadcast::broadcast(CAPACITY);
    sender.set_overflow(true);
    let readers: Vec<_> = (0..readers).map(|_| sender.new_receiver()).collect();
    drop(first);
    let time = timed(|numbers| {
        for number in numbers {
            let _ = black_box(sender.try_broadcast(E::new(black_box(number))));
        }
    });
    for mut reader in readers {
        let mut found = Found::default();
        loop {
            match reader.try_recv() {
                Ok(event) => found.event(&event),
                Err(TryRecvError::Overflowed(missed)) => found.missed += missed,
                Err(_) => break,
            }
        }
        found.check();
    }
    time
}
