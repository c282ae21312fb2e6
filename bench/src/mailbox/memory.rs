//! What a mailbox holds: when it is new, and after its first message.

use super::peers::{AsyncChannel, Crossbeam, Flume, Kanal, Mailbox, Ryker, Thingbuf, Tokio};
use super::Message;
use crate::harness::Group;
use crate::memory;

const MAILBOXES: usize = 1000;
const CAPACITIES: [usize; 2] = [64, 1024];

pub fn group() -> Group {
    Group::new("mailbox-memory", "live bytes of one mailbox", "tokio mpsc")
        .measure("capacity 64, new", "B")
        .measure("capacity 64, used", "B")
        .measure("capacity 1,024, new", "B")
        .measure("capacity 1,024, used", "B")
        .case("ryker", all::<Ryker>)
    .case("tokio mpsc", all::<Tokio>)
        .case("flume", all::<Flume>)
        .case("kanal", all::<Kanal>)
        .case("crossbeam", all::<Crossbeam>)
        .case("thingbuf", all::<Thingbuf>)
        .case("async-channel", all::<AsyncChannel>)
        .note("Of 1,000 mailboxes; used: one message of 64 bytes was sent and received. Counted by the allocator.")
}

fn all<M: Mailbox>() -> Vec<f64> {
    CAPACITIES.map(bytes::<M>).concat()
}

fn bytes<M: Mailbox>(capacity: usize) -> Vec<f64> {
    [false, true]
        .map(|used| {
            let mut mailboxes = Vec::with_capacity(MAILBOXES);
            memory::start_counting();
            for _ in 0..MAILBOXES {
                let (sender, mut receiver) = M::open(capacity);
                if used {
                    assert!(M::try_send(&sender, Message::new(0, 0)));
                    M::try_recv(&mut receiver, |_| ()).expect("a message");
                }
                mailboxes.push((sender, receiver));
            }
            memory::stop_counting() / MAILBOXES as f64
        })
        .to_vec()
}
