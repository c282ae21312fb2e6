//! What one enqueue takes while other threads enqueue and the receiver drains.

use super::peers::{
    AsyncChannel, Crossbeam, Flume, Kanal, Locked, Mailbox, Ryker, Thingbuf, Tokio,
};
use super::{Message, Tape, BATCH, CAPACITY};
use crate::harness::Group;
use rustix::thread::{sched_setaffinity, CpuSet};
use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

const PRODUCERS: [usize; 2] = [2, 4];
/// Of each producer.
const MESSAGES: u64 = 200_000;

pub fn group() -> Group {
    Group::new(
        "mailbox-contention",
        "one try_send that found room, while others send and the receiver drains",
        "tokio mpsc",
    )
    .measure("2 threads, p50", "ns")
    .measure("2 threads, p99", "ns")
    .measure("2 threads, p99.9", "ns")
    .measure("4 threads, p50", "ns")
    .measure("4 threads, p99", "ns")
    .measure("4 threads, p99.9", "ns")
    .case("the clock alone", || PRODUCERS.map(clock).concat())
    .case("ryker", all::<Ryker>)
    .case("tokio mpsc", all::<Tokio>)
    .case("flume", all::<Flume>)
    .case("kanal", all::<Kanal>)
    .case("crossbeam", all::<Crossbeam>)
    .case("thingbuf", all::<Thingbuf>)
    .case("async-channel", all::<AsyncChannel>)
    .case("Mutex<VecDeque>", all::<Locked>)
    .note(
        "200,000 messages of each thread, capacity 1,024; the receiver is one more thread, which takes what comes \
         without parking. Who finds no room yields and tries again; only the try that found room counts. Two looks at \
         the clock are in every figure.",
    )
}

fn all<M: Mailbox>() -> Vec<f64> {
    PRODUCERS.map(enqueue::<M>).concat()
}

pub fn enqueue<M: Mailbox>(producers: usize) -> Vec<f64> {
    let (sender, mut receiver) = M::open(CAPACITY);
    let mut tape = Tape::new(producers, MESSAGES);
    timed(
        producers,
        |producer| {
            let sender = sender.clone();
            move |number| {
                let message = Message::new(producer, black_box(number));
                loop {
                    let began = Instant::now();
                    let sent = M::try_send(&sender, message);
                    let took = began.elapsed();
                    if sent {
                        return took.as_nanos() as f64;
                    }
                    std::thread::yield_now();
                }
            }
        },
        || {
            let mut buffer = Vec::with_capacity(BATCH.max(CAPACITY));
            while !tape.is_full() {
                if M::drain(&mut receiver, &mut buffer, |message| tape.take(message)) == 0 {
                    std::thread::yield_now();
                }
            }
        },
    )
}

fn clock(producers: usize) -> Vec<f64> {
    let look = |_| |_| Instant::now().elapsed().as_nanos() as f64;
    timed(producers, look, || ())
}

/// Three percentiles of what the makings of `producer` return, each on a thread of its own,
/// while this one does `receive`.
fn timed<S: FnMut(u64) -> f64 + Send>(
    producers: usize,
    producer: impl Fn(usize) -> S,
    receive: impl FnOnce(),
) -> Vec<f64> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let barrier = Barrier::new(producers + 1);
    let mut samples: Vec<f64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..producers)
            .map(|index| {
                let (barrier, send) = (&barrier, producer(index));
                scope.spawn(move || {
                    pin_to(index % cores);
                    barrier.wait();
                    (0..MESSAGES).map(send).collect::<Vec<f64>>()
                })
            })
            .collect();
        barrier.wait();
        receive();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined
            .flat_map(|samples| samples.expect("all sent"))
            .collect()
    });
    samples.sort_by(f64::total_cmp);
    let rank = |per_mille: usize| samples[(samples.len() * per_mille).div_ceil(1000) - 1];
    [500, 990, 999].map(rank).to_vec()
}

/// Keeps this thread on one core: two producers on the same one would not contend.
fn pin_to(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).expect("a core");
}
