//! 1, 4 and 16 producers to one receiver, on two workers; whoever finds no room waits.

use super::peers::{
    AsyncChannel, AsyncMailbox, Crossbeam, Flume, Kanal, Mailbox, Ryker, Thingbuf, Tokio,
};
use super::{Message, Tape, BATCH, CAPACITY};
use crate::harness::{Goal, Group};
use std::hint::black_box;
use std::time::Instant;

/// Producers, and the messages of all of them.
const FAN_IN: [(&str, usize, u64); 3] = [
    ("1 -> 1", 1, 400_000),
    ("4 -> 1", 4, 400_000),
    ("16 -> 1", 16, 400_000),
];

pub fn group() -> Group {
    let group = FAN_IN.iter().fold(
        Group::new(
            "mailbox-throughput",
            "64-byte messages from tasks to a task, 2 workers",
            "tokio mpsc, recv",
        ),
        |group, (measure, ..)| group.measure(measure, "ns"),
    );
    group
        .case("ryker, recv", on_tasks::<Ryker>(Receive::Singly))
        .case("ryker, recv_many(32)", on_tasks::<Ryker>(Receive::Many))
        .case("tokio mpsc, recv", on_tasks::<Tokio>(Receive::Singly))
        .case("tokio mpsc, recv_many(32)", on_tasks::<Tokio>(Receive::Many))
        .case("flume, recv", on_tasks::<Flume>(Receive::Singly))
        .case("flume, recv and drain", on_tasks::<Flume>(Receive::Many))
        .case("kanal, recv", on_tasks::<Kanal>(Receive::Singly))
        .case("kanal, recv and drain_into", on_tasks::<Kanal>(Receive::Many))
        .case("thingbuf, recv_ref", on_tasks::<Thingbuf>(Receive::Singly))
        .case("thingbuf, recv_ref and try_recv_ref", on_tasks::<Thingbuf>(Receive::Many))
        .case("async-channel, recv", on_tasks::<AsyncChannel>(Receive::Singly))
        .case("crossbeam, recv, threads", on_threads)
        .goal("1 -> 1", "ryker, recv_many(32)", Goal::Ratio(0.25))
        .goal("4 -> 1", "ryker, recv_many(32)", Goal::Ratio(0.25))
        .rates()
        .note(
            "ns per message, from the first until the last was received. Capacity 1,024. The receiver checks that each \
             message came once and in the order of its producer.",
        )
}

#[derive(Clone, Copy, Debug)]
pub enum Receive {
    Singly,
    Many,
}

fn on_tasks<M: AsyncMailbox>(how: Receive) -> impl FnMut() -> Vec<f64> {
    move || {
        let run = |(_, producers, messages)| tasks::<M>(how, producers, messages);
        FAN_IN.map(run).to_vec()
    }
}

pub fn tasks<M: AsyncMailbox>(how: Receive, producers: usize, messages: u64) -> f64 {
    let each = messages / producers as u64;
    let (sender, receiver) = M::open(CAPACITY);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let tape = Tape::new(producers, each);
        let receiver = tokio::spawn(receive::<M>(how, receiver, tape));
        let began = Instant::now();
        for producer in 0..producers {
            tokio::spawn(produce::<M>(sender.clone(), producer, each));
        }
        receiver.await.expect("all messages");
        began.elapsed().as_nanos() as f64 / messages as f64
    })
}

async fn produce<M: AsyncMailbox>(sender: M::Sender, producer: usize, messages: u64) {
    for number in 0..messages {
        M::send(&sender, Message::new(producer, black_box(number))).await;
    }
}

async fn receive<M: AsyncMailbox>(how: Receive, mut receiver: M::Receiver, mut tape: Tape) {
    let mut buffer = Vec::with_capacity(BATCH.max(CAPACITY));
    while !tape.is_full() {
        match how {
            Receive::Singly => M::recv(&mut receiver, |message| tape.take(message)).await,
            Receive::Many => {
                M::recv_many(&mut receiver, &mut buffer, |message| tape.take(message)).await;
            }
        }
    }
}

fn on_threads() -> Vec<f64> {
    let run = |(_, producers, messages): (_, usize, u64)| {
        let each = messages / producers as u64;
        let (sender, receiver) = Crossbeam::open(CAPACITY);
        let mut tape = Tape::new(producers, each);
        let began = Instant::now();
        std::thread::scope(|scope| {
            for producer in 0..producers {
                let sender = sender.clone();
                scope.spawn(move || {
                    for number in 0..each {
                        let message = Message::new(producer, black_box(number));
                        sender.send(message).expect("a receiver");
                    }
                });
            }
            while !tape.is_full() {
                tape.take(receiver.recv().as_ref().expect("a sender"));
            }
        });
        began.elapsed().as_nanos() as f64 / messages as f64
    };
    FAN_IN.map(run).to_vec()
}
