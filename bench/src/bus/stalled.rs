//! What publishing costs while one of the readers never reads.

use super::peers::{Channel, Ron, Tokio};
use super::{Event, Payload, Spin, CAPACITY};
use crate::harness::{percentile, Goal, Group};
use std::hint::black_box;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Events between two looks at the clock.
const TOGETHER: usize = 8;
/// Events between two waits for the reader that reads.
const BURST: u64 = 512;
const BURSTS: u64 = 200;
const EVENTS: usize = (BURST * BURSTS) as usize;

const BASELINE: &str = "ron-bus, all read";
const STALLED: &str = "ron-bus, one more that never reads";

pub fn group() -> Group {
    let mut group = Group::new(
        "bus-stalled",
        "one publish beside a stalled reader",
        BASELINE,
    );
    for measure in [
        "p50",
        "p99",
        "p50, reading elsewhere",
        "p99, reading elsewhere",
    ] {
        group = group
            .measure(measure, "ns")
            .goal(measure, STALLED, Goal::Ratio(1.10));
    }
    group
        .case(BASELINE, || all::<Ron>(0))
        .case(STALLED, || all::<Ron>(1))
        .case("tokio broadcast, all read", || all::<Tokio>(0))
        .case("tokio broadcast, one more that never reads", || {
            all::<Tokio>(1)
        })
        .note(
            "Percentiles of 8 publishes in a row, as the clock is too coarse for one. One reader reads all; the stalled \
             one was overrun before the clock starts. Reading elsewhere: at the same time, on another thread, which \
             takes what comes without parking.",
        )
}

fn all<C: Channel<Event>>(stalled: usize) -> Vec<f64> {
    let mut between = Vec::with_capacity(EVENTS / TOGETHER);
    in_turn::<C>(stalled, |sender, numbers| {
        publish::<C>(sender, numbers, &mut between)
    });
    let elsewhere = elsewhere::<C>(stalled);
    vec![
        percentile(&between, 50),
        percentile(&between, 99),
        percentile(&elsewhere, 50),
        percentile(&elsewhere, 99),
    ]
}

/// Adds the ns of each publish, several at a time.
fn publish<C: Channel<Event>>(
    sender: &mut C::Sender,
    mut numbers: Range<u64>,
    times: &mut Vec<f64>,
) {
    while !numbers.is_empty() {
        let began = Instant::now();
        for number in numbers.by_ref().take(TOGETHER) {
            C::publish(sender, Event::new(black_box(number)));
        }
        times.push(began.elapsed().as_nanos() as f64 / TOGETHER as f64);
    }
}

/// The first reader reads; as many as `stalled` never do, and have been overrun.
fn open<C: Channel<Event>>(stalled: usize) -> (C::Sender, C::Reader, Vec<C::Reader>) {
    let (mut sender, mut readers) = C::primed(CAPACITY, 1 + stalled);
    let mut reader = readers.remove(0);
    for number in 0..2 * CAPACITY as u64 {
        C::publish(&mut sender, Event::new(number));
        C::try_recv(&mut reader).expect("an event");
    }
    (sender, reader, readers)
}

/// Publishes bursts, between which the reader reads.
fn in_turn<C: Channel<Event>>(stalled: usize, mut publish: impl FnMut(&mut C::Sender, Range<u64>)) {
    let (mut sender, mut reader, _stalled) = open::<C>(stalled);
    for burst in 0..BURSTS {
        let numbers = burst * BURST..(burst + 1) * BURST;
        publish(&mut sender, numbers.clone());
        for number in numbers {
            let event = C::try_recv(&mut reader).expect("all of the burst");
            assert_eq!(event.number(), number);
        }
    }
}

/// ns of each publish while the reader reads on a thread of its own.
fn elsewhere<C: Channel<Event>>(stalled: usize) -> Vec<f64> {
    let (mut sender, mut reader, _stalled) = open::<C>(stalled);
    let received = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut next, mut spin) = (0, Spin::default());
            while next < EVENTS as u64 {
                let Some(event) = C::try_recv(&mut reader) else {
                    spin.once();
                    continue;
                };
                assert_eq!(event.number(), next);
                next += 1;
                received.store(next, Ordering::Release);
            }
        });
        let mut times = Vec::with_capacity(EVENTS / TOGETHER);
        let mut spin = Spin::default();
        for burst in 0..BURSTS {
            let numbers = burst * BURST..(burst + 1) * BURST;
            while received.load(Ordering::Acquire) < numbers.start {
                spin.once();
            }
            publish::<C>(&mut sender, numbers, &mut times);
        }
        times
    })
}
