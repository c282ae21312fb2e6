//! The mailbox as it is, beside the [`designs`](super::designs) that it could have.

use super::contention::enqueue;
use super::designs::{Parks, Ring, Spins, SpinsThenParks, Swapped};
use super::peers::{AsyncMailbox, Kanal, Ryker, Tokio};
use super::send::on_one_thread;
use super::throughput::{tasks, Receive};
use crate::harness::Group;

const MESSAGES: u64 = 400_000;

pub fn group() -> Group {
    Group::new("mailbox-design", "one message, designs of the queue", "tokio mpsc")
        .measure("try_send", "ns")
        .measure("try_recv", "ns")
        .measure("1 -> 1", "ns")
        .measure("4 -> 1", "ns")
        .measure("16 -> 1", "ns")
        .measure("try_send p99, 2 threads", "ns")
        .case("ryker", all::<Ryker>)
        .case("tokio mpsc", all::<Tokio>)
        .case("kanal", all::<Kanal>)
        .case("(a) std mutex, swapped", all::<Swapped<Parks>>)
        .case("(b) std mutex, tried first, swapped", all::<Swapped<SpinsThenParks>>)
        .case("(c) spin lock, swapped", all::<Swapped<Spins>>)
        .case("(d) crossbeam ArrayQueue and Notify", all::<Ring>)
        .rates()
        .note(
            "Capacity 1,024, messages of 64 bytes in envelopes of 96. The designs are bare; ryker, tokio and kanal are \
             what they are. n -> 1: tasks on 2 workers that yield when there is no room, received one by one.",
        )
}

fn all<M: AsyncMailbox>() -> Vec<f64> {
    let alone = on_one_thread::<M>();
    let mut row = vec![alone[0], alone[1]];
    row.extend([1, 4, 16].map(|producers| tasks::<M>(Receive::Singly, producers, MESSAGES)));
    row.push(enqueue::<M>(2)[1]);
    row
}
