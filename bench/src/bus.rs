//! The bus against its peers: what is published, and the groups, one per file.

mod decision;
mod delivered;
mod designs;
mod full;
mod latency;
mod parked;
mod peers;
mod publish;
mod receive;
mod stalled;
pub mod tail;

use crate::harness::{Goal, Group};
use ron_bus::{Class, Classify};
use std::fmt::Debug;
use std::sync::Arc;

pub const NAMES: &[&str] = &[
    "bus-publish",
    "bus-publish-arc",
    "bus-receive",
    "bus-full",
    "bus-parked",
    "bus-delivered",
    "bus-delivered-arc",
    "bus-latency",
    "bus-stalled",
    "bus-tail",
    "bus-design",
];

/// Slots of every ring and of every queue.
const CAPACITY: usize = 1024;
/// Events per `publish_many` and `recv_many`.
const BATCH: usize = 64;

pub fn groups() -> Vec<Group> {
    vec![
        publish::group::<Event>("bus-publish", "one 64-byte event, readers not waiting"),
        publish::group::<Arc<Event>>("bus-publish-arc", "one fresh Arc, readers not waiting"),
        receive::group(),
        full::group(),
        parked::group(),
        delivered::group::<Event>("bus-delivered", "lossless, 64-byte events"),
        delivered::group::<Arc<Event>>("bus-delivered-arc", "lossless, a fresh Arc per event"),
        latency::group(),
        stalled::group(),
        tail::group(),
        decision::group(),
    ]
}

/// Waits for another thread without sleeping; on a core that others want too, gives it away now and then.
#[derive(Default)]
struct Spin(u32);

impl Spin {
    fn once(&mut self) {
        self.0 += 1;
        if self.0.is_multiple_of(10_000) {
            std::thread::yield_now();
        }
        std::hint::spin_loop();
    }
}

/// 64 bytes, plain.
#[derive(Clone, Copy, Debug)]
pub struct Event(pub [u64; 8]);

/// The second word, for readers that want one class of events only.
impl Classify for Event {
    fn class(&self) -> Class {
        Class::new((self.0[1] % 64) as u8).expect("less than 64")
    }
}

/// What the channels carry. The number lets every reader check that it got each event once and in order.
pub trait Payload: Clone + Debug + Send + Sync + 'static {
    /// What is asked of a ratio to the best async peer: as much as ANCHORS asks, which is about 64-byte events; with an
    /// `Arc`, whose allocation and counting everyone pays for, not to be slower.
    fn goal(ratio: f64) -> Goal;
    /// As a user would make one: an `Arc` is allocated here.
    fn new(number: u64) -> Self;
    fn number(&self) -> u64;
}

impl Payload for Event {
    fn goal(ratio: f64) -> Goal {
        Goal::Ratio(ratio)
    }

    fn new(number: u64) -> Event {
        Event([number; 8])
    }

    fn number(&self) -> u64 {
        self.0[0]
    }
}

impl Payload for Arc<Event> {
    fn goal(_: f64) -> Goal {
        Goal::Ratio(1.0)
    }

    fn new(number: u64) -> Arc<Event> {
        Arc::new(Event::new(number))
    }

    fn number(&self) -> u64 {
        self.0[0]
    }
}
