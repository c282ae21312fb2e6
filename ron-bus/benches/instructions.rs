//! The work whose instructions `.ci/check-bus-instructions.sh` counts: `instructions CASE` under callgrind, which
//! collects within [`measured`] only. Without a case it lists them, each with the number of events it works on.
#![allow(clippy::print_stdout)] // a program that answers on its standard output

use std::future::Future;
use std::hint::black_box;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use ron_bus::{
    Bus, BusConfig, Class, Classify, Delivery, Overflow, Subscriber, SubscriberBuilder, Topic,
};

/// 64 bytes, as in the benchmarks. The first word is the key and the class.
#[derive(Debug, Clone, Copy)]
struct Event([u64; 8]);

impl Classify for Event {
    fn class(&self) -> Class {
        match self.0[0] {
            0 => Class::at::<0>(),
            _ => Class::at::<1>(),
        }
    }
}

const EVENT: Event = Event([0; 8]);
/// A round of the cases that do not wake: a quarter of the ring, so that nobody lags unless the case is about that.
const ROUND: usize = 64;
const CAPACITY: usize = 256;

/// How often a case repeats its round, measured and before that to warm up.
const ROUNDS: usize = 128;

type Case = (&'static str, usize, fn());

const CASES: &[Case] = &[
    ("publish", ROUND, || publish(0)),
    ("publish-16-readers", ROUND, || publish(16)),
    ("publish-many", ROUND, publish_many),
    ("publish-control-and-receive", 16, control),
    ("publish-wakes-1", 1, || publish_wakes(1)),
    ("publish-wakes-64", 1, || publish_wakes(64)),
    (
        "publish-wakes-1-of-1000",
        1,
        publish_wakes_who_is_interested,
    ),
    ("publish-wait", ROUND, publish_wait),
    ("try-recv", ROUND, try_recv),
    ("recv", ROUND, recv),
    ("recv-many", ROUND, recv_many),
    ("recv-many-filtered", ROUND, recv_many_filtered),
    ("recv-many-interested", ROUND, recv_many_interested),
    ("recv-many-block", ROUND, recv_many_block),
    ("recv-many-conflate", ROUND, recv_many_conflate),
    ("publish-block", ROUND, || publish_queued(block)),
    ("publish-conflate", ROUND, || publish_queued(conflate)),
    ("try-recv-lagging", 1, try_recv_lagging),
];

fn main() -> ExitCode {
    let name = std::env::args().nth(1).unwrap_or_default();
    match CASES.iter().find(|case| case.0 == name) {
        Some((_, _, run)) => run(),
        None => CASES
            .iter()
            .for_each(|(name, events, _)| println!("{name} {}", events * ROUNDS)),
    }
    ExitCode::SUCCESS
}

/// All that is counted.
#[inline(never)]
fn measured<S>(state: &mut S, work: impl Fn(&mut S)) {
    work(black_box(state));
}

/// `before` makes a round ready, `work` is counted.
fn rounds<S>(mut state: S, before: impl Fn(&mut S), work: impl Fn(&mut S)) {
    for _ in 0..ROUNDS {
        before(&mut state);
        work(&mut state);
    }
    for _ in 0..ROUNDS {
        before(&mut state);
        measured(&mut state, &work);
    }
}

struct World {
    topic: Topic<Event>,
    readers: Vec<Subscriber<Event>>,
    batch: Vec<Delivery<Event>>,
    waker: Waker,
}

struct Silent;

impl Wake for Silent {
    fn wake(self: Arc<Self>) {}
}

impl World {
    fn new(readers: usize) -> Self {
        Self::with(readers, |builder| builder)
    }

    fn with(
        readers: usize,
        options: impl Fn(SubscriberBuilder<'_, Event>) -> SubscriberBuilder<'_, Event>,
    ) -> Self {
        let bus = Bus::new(BusConfig::default().capacity(CAPACITY)).expect("the capacity is valid");
        let topic = bus.topic("t").expect("the name is valid");
        let subscribe = || options(topic.subscriber()).build();
        Self {
            readers: (0..readers)
                .map(|_| subscribe().expect("the topic is open"))
                .collect(),
            topic,
            batch: Vec::with_capacity(CAPACITY),
            waker: Waker::from(Arc::new(Silent)),
        }
    }

    fn publish_round(&mut self) {
        let events = std::iter::repeat(EVENT).take(ROUND);
        let done = self.topic.publish_many(events);
        assert!(done.is_ok(), "the topic is open");
    }

    /// Lets every reader wait that does not.
    fn park(&mut self) {
        let mut cx = Context::from_waker(&self.waker);
        for reader in &mut self.readers {
            while pin!(reader.recv()).poll(&mut cx).is_ready() {}
        }
    }

    fn drain(&mut self) {
        for reader in &mut self.readers {
            while let Ok(Some(_)) = reader.try_recv() {}
        }
    }

    fn recv_many(&mut self, expected: usize) {
        let mut cx = Context::from_waker(&self.waker);
        let batch = &mut self.batch;
        for reader in &mut self.readers {
            batch.clear();
            let polled = pin!(reader.recv_many(batch, CAPACITY)).poll(&mut cx);
            assert!(matches!(polled, Poll::Ready(Ok(count)) if count == expected));
        }
    }
}

fn publish(readers: usize) {
    rounds(
        World::new(readers),
        |_| {},
        |world| {
            for _ in 0..ROUND {
                let done = world.topic.publish(black_box(EVENT));
                assert!(done.is_ok());
            }
        },
    );
}

fn publish_many() {
    rounds(World::new(1), |_| {}, World::publish_round);
}

fn control() {
    rounds(
        World::new(1),
        |_| {},
        |world| {
            for _ in 0..16 {
                let done = world.topic.publish_control(black_box(EVENT));
                assert!(done.is_ok());
            }
            for _ in 0..16 {
                let got = world.readers[0].try_recv();
                assert!(matches!(got, Ok(Some(_))));
            }
        },
    );
}

fn publish_wakes(readers: usize) {
    rounds(World::new(readers), World::park, |world| {
        let done = world.topic.publish(black_box(EVENT));
        assert!(done.is_ok());
    });
}

/// One reader wants the class that is published, the others another.
fn publish_wakes_who_is_interested() {
    let mut world = World::with(999, |builder| builder.interest(Class::at::<1>()));
    world.park();
    let interested = world.topic.subscriber().interest(Class::at::<0>()).build();
    world
        .readers
        .insert(0, interested.expect("the topic is open"));
    rounds(
        world,
        |world| {
            let mut cx = Context::from_waker(&world.waker);
            while pin!(world.readers[0].recv()).poll(&mut cx).is_ready() {}
        },
        |world| {
            let done = world.topic.publish(black_box(EVENT));
            assert!(done.is_ok());
        },
    );
}

/// Nobody has to be waited for.
fn publish_wait() {
    rounds(
        World::with(1, |builder| builder.overflow(block())),
        World::drain,
        |world| {
            let mut cx = Context::from_waker(&world.waker);
            for _ in 0..ROUND {
                let polled = pin!(world.topic.publish_wait(black_box(EVENT))).poll(&mut cx);
                assert!(matches!(polled, Poll::Ready(Ok(_))));
            }
        },
    );
}

fn block() -> Overflow<Event> {
    let deadline = Duration::from_secs(1);
    Overflow::Block { deadline }
}

fn conflate() -> Overflow<Event> {
    Overflow::Conflate {
        key: |event| event.0[0],
        max_keys: CAPACITY,
    }
}

fn publish_queued(overflow: fn() -> Overflow<Event>) {
    let world = World::with(1, |builder| builder.overflow(overflow()));
    rounds(world, World::drain, |world| {
        for key in 0..ROUND as u64 {
            let done = world.topic.publish(black_box(Event([key; 8])));
            assert!(done.is_ok());
        }
    });
}

fn recv_many_block() {
    rounds(
        World::with(1, |builder| builder.overflow(block())),
        World::publish_round,
        |world| world.recv_many(ROUND),
    );
}

fn recv_many_conflate() {
    rounds(
        World::with(1, |builder| builder.overflow(conflate())),
        |world| {
            let keys = (0..ROUND as u64).map(|key| Event([key; 8]));
            let done = world.topic.publish_many(keys);
            assert!(done.is_ok());
        },
        |world| world.recv_many(ROUND),
    );
}

fn try_recv() {
    rounds(World::new(1), World::publish_round, |world| {
        for _ in 0..ROUND {
            let got = world.readers[0].try_recv();
            assert!(matches!(black_box(got), Ok(Some(_))));
        }
    });
}

fn recv() {
    rounds(World::new(1), World::publish_round, |world| {
        let mut cx = Context::from_waker(&world.waker);
        for _ in 0..ROUND {
            let polled = pin!(world.readers[0].recv()).poll(&mut cx);
            assert!(matches!(black_box(polled), Poll::Ready(Ok(_))));
        }
    });
}

fn recv_many() {
    rounds(World::new(1), World::publish_round, |world| {
        world.recv_many(ROUND)
    });
}

fn recv_many_filtered() {
    let world = World::with(1, |builder| builder.filter(|event| event.0[0] != 0));
    rounds(world, World::publish_round, |world| {
        let mut cx = Context::from_waker(&world.waker);
        let reader = &mut world.readers[0];
        let polled = pin!(reader.recv_many(&mut world.batch, CAPACITY)).poll(&mut cx);
        assert!(polled.is_pending(), "all are refused");
    });
}

/// Every second event is of interest.
fn recv_many_interested() {
    rounds(
        World::with(1, |builder| builder.interest(Class::at::<0>())),
        |world| {
            let events = (0..ROUND as u64).map(|n| Event([n % 2; 8]));
            let done = world.topic.publish_many(events);
            assert!(done.is_ok());
        },
        |world| world.recv_many(ROUND / 2),
    );
}

/// Receives the gap, not the events around it.
fn try_recv_lagging() {
    rounds(
        World::new(1),
        |world| {
            for _ in 0..2 * CAPACITY / ROUND {
                world.publish_round();
            }
        },
        |world| {
            let got = world.readers[0].try_recv();
            assert!(black_box(got).is_err());
        },
    );
}
