//! Mailboxes against their peers: what is sent, and the groups, one per file.

mod contention;
mod decision;
mod designs;
mod memory;
mod peers;
mod pingpong;
mod send;
mod throughput;

use crate::harness::Group;
use std::hint::black_box;

pub const NAMES: &[&str] = &[
    "mailbox-send",
    "mailbox-throughput",
    "mailbox-contention",
    "mailbox-pingpong",
    "mailbox-memory",
    "mailbox-design",
];

/// Messages that fit, unless a group says otherwise.
const CAPACITY: usize = 1024;
/// Messages asked for at once, of those who take a number.
const BATCH: usize = 32;

pub fn groups() -> Vec<Group> {
    vec![
        send::group(),
        throughput::group(),
        contention::group(),
        pingpong::group(),
        memory::group(),
        decision::group(),
    ]
}

/// 64 bytes, plain.
#[derive(Clone, Copy, Debug, Default)]
pub struct Message([u64; 8]);

impl Message {
    /// The `number`th of the producer `producer`.
    pub fn new(producer: usize, number: u64) -> Message {
        Message([(producer as u64) << 32 | number; 8])
    }
}

/// What the receiver has got so far: every message once, in the order of its producer.
#[derive(Clone, Debug)]
pub struct Tape {
    next: Vec<u64>,
    missing: u64,
}

impl Tape {
    /// Of `producers` that send `each`.
    pub fn new(producers: usize, each: u64) -> Tape {
        Tape {
            next: vec![0; producers],
            missing: producers as u64 * each,
        }
    }

    pub fn take(&mut self, message: &Message) {
        let Message([word, ..]) = black_box(message);
        let next = &mut self.next[(word >> 32) as usize];
        assert_eq!(word & 0xffff_ffff, *next, "lost or out of order");
        *next += 1;
        self.missing -= 1;
    }

    /// Takes one for which the order does not matter.
    pub fn count(&mut self, message: &Message) {
        black_box(message);
        self.missing -= 1;
    }

    pub fn is_full(&self) -> bool {
        self.missing == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tape_is_full_when_every_producer_sent_all_of_its_messages() {
        let mut tape = Tape::new(2, 2);
        for (producer, number) in [(1, 0), (0, 0), (0, 1)] {
            tape.take(&Message::new(producer, number));
            assert!(!tape.is_full());
        }
        tape.take(&Message::new(1, 1));
        assert!(tape.is_full());
    }

    #[test]
    #[should_panic(expected = "lost or out of order")]
    fn a_tape_refuses_a_message_before_its_turn() {
        Tape::new(2, 2).take(&Message::new(1, 1));
    }

    #[test]
    #[should_panic(expected = "lost or out of order")]
    fn a_tape_refuses_a_message_twice() {
        let mut tape = Tape::new(2, 2);
        tape.take(&Message::new(1, 0));
        tape.take(&Message::new(1, 0));
    }
}
