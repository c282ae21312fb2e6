//! A message there and one back, between two tasks.

use super::peers::{AsyncChannel, AsyncMailbox, Flume, Kanal, Ryker, Thingbuf, Tokio};
use super::{Message, Tape, CAPACITY};
use crate::harness::Group;
use std::time::Instant;
use tokio::runtime::{Builder, Runtime};

const TRIPS: u64 = 50_000;

pub fn group() -> Group {
    Group::new(
        "mailbox-pingpong",
        "a round trip between two tasks",
        "tokio mpsc",
    )
    .measure("current_thread", "ns")
    .measure("2 workers", "ns")
    .case("ryker", all::<Ryker>)
    .case("tokio mpsc", all::<Tokio>)
    .case("flume", all::<Flume>)
    .case("kanal", all::<Kanal>)
    .case("thingbuf", all::<Thingbuf>)
    .case("async-channel", all::<AsyncChannel>)
    .note("50,000 round trips, one message of 64 bytes under way. Both tasks are spawned.")
}

fn all<M: AsyncMailbox>() -> Vec<f64> {
    let builders = [Builder::new_current_thread(), {
        let mut workers = Builder::new_multi_thread();
        workers.worker_threads(2);
        workers
    }];
    let trip = |mut builder: Builder| {
        let runtime = builder.enable_time().build().expect("a runtime");
        trips::<M>(&runtime)
    };
    builders.map(trip).to_vec()
}

fn trips<M: AsyncMailbox>(runtime: &Runtime) -> f64 {
    let (there, mut arriving) = M::open(CAPACITY);
    let (back, mut returning) = M::open(CAPACITY);
    runtime.block_on(async {
        let far = tokio::spawn(async move {
            for _ in 0..TRIPS {
                let message = M::recv(&mut arriving, |message| *message).await;
                M::send(&back, message).await;
            }
        });
        let near = tokio::spawn(async move {
            let mut tape = Tape::new(1, TRIPS);
            let began = Instant::now();
            for number in 0..TRIPS {
                M::send(&there, Message::new(0, number)).await;
                M::recv(&mut returning, |message| tape.take(message)).await;
            }
            assert!(tape.is_full());
            began.elapsed().as_nanos() as f64 / TRIPS as f64
        });
        far.await.expect("all messages");
        near.await.expect("all messages")
    })
}
