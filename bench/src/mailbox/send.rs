//! Sending and receiving on one thread, with nobody in the way.

use super::peers::{
    AsyncChannel, Crossbeam, Flume, Kanal, Locked, Mailbox, Ryker, Thingbuf, Tokio,
};
use super::{Message, Tape, BATCH, CAPACITY};
use crate::harness::{median, Goal, Group};
use std::hint::black_box;
use std::time::Instant;

const BURST: u64 = 512;
const BURSTS: u64 = 200;

pub fn group() -> Group {
    Group::new("mailbox-send", "one 64-byte message, one thread", "tokio mpsc")
        .measure("try_send", "ns")
        .measure("try_recv", "ns")
        .measure("drain of 512", "ns")
        .case("ryker", on_one_thread::<Ryker>)
    .case("tokio mpsc", on_one_thread::<Tokio>)
        .case("flume", on_one_thread::<Flume>)
        .case("kanal", on_one_thread::<Kanal>)
        .case("crossbeam", on_one_thread::<Crossbeam>)
        .case("thingbuf", on_one_thread::<Thingbuf>)
        .case("async-channel", on_one_thread::<AsyncChannel>)
        .case("Mutex<VecDeque>", on_one_thread::<Locked>)
        .goal("try_send", "ryker", Goal::AtMost(10.0))
        .goal("try_recv", "ryker", Goal::AtMost(8.0))
        .goal("drain of 512", "ryker", Goal::AtMost(1.7))
        .note(
            "Capacity 1,024, bursts of 512. drain: ryker and tokio recv_many(32), flume drain, kanal drain_into, Mutex<VecDeque> \
             swapped whole; the others have no way to take many at once.",
        )
}

pub fn on_one_thread<M: Mailbox>() -> Vec<f64> {
    let (sender, mut receiver) = M::open(CAPACITY);
    let mut tape = Tape::new(1, 2 * BURST * BURSTS);
    let mut buffer = Vec::with_capacity(BATCH.max(CAPACITY));
    let mut numbers = 0..;
    let mut send = || {
        let began = Instant::now();
        for number in numbers.by_ref().take(BURST as usize) {
            assert!(M::try_send(&sender, Message::new(0, black_box(number))));
        }
        began.elapsed()
    };
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..BURSTS {
        times[0].push(send());
        let began = Instant::now();
        for _ in 0..BURST {
            M::try_recv(&mut receiver, |message| tape.take(message)).expect("a message");
        }
        times[1].push(began.elapsed());
        send();
        let began = Instant::now();
        let mut left = BURST as usize;
        while left > 0 {
            left -= M::drain(&mut receiver, &mut buffer, |message| tape.take(message));
        }
        times[2].push(began.elapsed());
    }
    assert!(tape.is_full());
    times
        .iter()
        .map(|times| {
            let ns: Vec<f64> = times.iter().map(|time| time.as_nanos() as f64).collect();
            median(&ns) / BURST as f64
        })
        .collect()
}
