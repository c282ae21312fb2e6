//! From the call of publish on a thread outside the runtime until the last reader, which was parked, has the event.

use super::peers::{AsyncBroadcast, AsyncChannel, BlockingChannel, BusCrate, Channel, Crossbeam};
use super::peers::{Disruptor, Flume, Ron, Tokio};
use super::{Event, Spin, CAPACITY};
use crate::harness::{percentile, Goal, Group};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Instant;

const SAMPLES: u64 = 1000;
/// Not counted: the readers' first polls.
const WARM_UP: u64 = 50;

#[derive(Clone, Copy)]
enum Pace {
    /// 150 us after everyone had the one before.
    Idle,
    /// Every 100 us by the clock, whether the one before has arrived or not; late calls count from when they were due.
    Steady,
}

const PACES: [(Pace, usize, [&str; 2]); 4] = [
    (
        Pace::Idle,
        1,
        ["idle, 1 reader, p50", "idle, 1 reader, p99"],
    ),
    (
        Pace::Idle,
        16,
        ["idle, 16 readers, p50", "idle, 16 readers, p99"],
    ),
    (
        Pace::Steady,
        1,
        ["10 k/s, 1 reader, p50", "10 k/s, 1 reader, p99"],
    ),
    (
        Pace::Steady,
        16,
        ["10 k/s, 16 readers, p50", "10 k/s, 16 readers, p99"],
    ),
];

pub fn group() -> Group {
    let mut group = Group::new(
        "bus-latency",
        "publish -> received by the last reader, 2 workers",
        "tokio broadcast",
    );
    for measure in PACES.iter().flat_map(|(_, _, measures)| measures) {
        group = group
            .measure(measure, "us")
            .goal(measure, "ron-bus", Goal::Ratio(1.0));
    }
    group
        .case("ron-bus", on_tasks::<Ron>)
        .case("tokio broadcast", on_tasks::<Tokio>)
        .case("async-broadcast", on_tasks::<AsyncBroadcast>)
        .case("flume, one each", on_tasks::<Flume>)
        .case("bus, threads", || on_threads::<BusCrate>(16))
        .case("crossbeam, one each, threads", || on_threads::<Crossbeam>(16))
        .case("disruptor, a thread that spins", || on_threads::<Disruptor>(1))
        .note(
            "1,000 events a round. Idle: 150 us after all readers had the one before. 10 k/s: by the clock, counted \
             from when the event was due. The publisher is a thread that spins meanwhile.",
        )
}

/// When each event was published, and who has it.
struct Line {
    began: Instant,
    received: AtomicU64,
}

impl Line {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Publishes all events at their times, from this thread.
    fn publish<C: Channel<Event>>(&self, sender: &mut C::Sender, readers: usize, pace: Pace) {
        let mut due = self.now() + 1_000_000;
        for number in 0..WARM_UP + SAMPLES {
            while self.now() < due {
                std::hint::spin_loop();
            }
            let stamp = match pace {
                Pace::Idle => self.now(),
                Pace::Steady => due,
            };
            C::publish(sender, Event([number, stamp, 0, 0, 0, 0, 0, 0]));
            due = match pace {
                Pace::Idle => {
                    let mut spin = Spin::default();
                    while self.received.load(Ordering::Relaxed) < (number + 1) * readers as u64 {
                        spin.once();
                    }
                    self.now() + 150_000
                }
                Pace::Steady => due + 100_000,
            };
        }
    }

    /// Books one event; returns its latency, ns.
    fn receive(&self, event: Event, number: u64) -> u64 {
        let Event([got, stamp, ..]) = event;
        let latency = self.now().saturating_sub(stamp);
        assert_eq!(got, number, "lost or out of order");
        self.received.fetch_add(1, Ordering::Relaxed);
        latency
    }
}

/// us of the last reader of each event, in two percentiles.
fn percentiles(readers: &[Vec<u64>]) -> [f64; 2] {
    let last = |number: usize| readers.iter().map(|latencies| latencies[number]).max();
    let numbers = WARM_UP as usize..(WARM_UP + SAMPLES) as usize;
    let us: Vec<f64> = numbers.filter_map(last).map(|ns| ns as f64 / 1e3).collect();
    [percentile(&us, 50), percentile(&us, 99)]
}

fn line() -> Arc<Line> {
    Arc::new(Line {
        began: Instant::now(),
        received: AtomicU64::new(0),
    })
}

fn on_tasks<C: AsyncChannel<Event>>() -> Vec<f64> {
    let mut row = Vec::new();
    for (pace, readers, _) in PACES {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .build()
            .expect("a runtime");
        let (mut sender, all) = C::primed(CAPACITY, readers);
        let line = line();
        let tasks: Vec<_> = all
            .into_iter()
            .map(|mut reader| {
                let line = Arc::clone(&line);
                runtime.spawn(async move {
                    let mut latencies = Vec::with_capacity((WARM_UP + SAMPLES) as usize);
                    for number in 0..WARM_UP + SAMPLES {
                        let event = C::recv(&mut reader).await;
                        latencies.push(line.receive(event, number));
                    }
                    latencies
                })
            })
            .collect();
        line.publish::<C>(&mut sender, readers, pace);
        let latencies: Vec<_> = tasks
            .into_iter()
            .map(|task| runtime.block_on(task).expect("all events"))
            .collect();
        row.extend(percentiles(&latencies));
    }
    row
}

fn on_threads<C: BlockingChannel<Event>>(readers_max: usize) -> Vec<f64> {
    let mut row = Vec::new();
    for (pace, readers, _) in PACES {
        if readers > readers_max {
            row.extend([f64::NAN; 2]);
            continue;
        }
        let (mut sender, all) = C::primed(CAPACITY, readers);
        let line = line();
        let latencies: Vec<Vec<u64>> = std::thread::scope(|scope| {
            let line = &line;
            let threads: Vec<_> = all
                .into_iter()
                .map(|mut reader| {
                    scope.spawn(move || {
                        let receive = |number| line.receive(C::recv(&mut reader), number);
                        (0..WARM_UP + SAMPLES).map(receive).collect()
                    })
                })
                .collect();
            line.publish::<C>(&mut sender, readers, pace);
            let join = |thread: std::thread::ScopedJoinHandle<'_, _>| thread.join();
            let joined = threads.into_iter().map(join);
            joined
                .map(|latencies| latencies.expect("all events"))
                .collect()
        });
        row.extend(percentiles(&latencies));
    }
    row
}
