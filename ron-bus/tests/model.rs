//! Random operations against a model that gives every reader a queue of its own.

use std::collections::VecDeque;
use std::future::Future;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use proptest::prelude::*;
use ron_bus::{
    Bus, BusConfig, Delivery, Gap, Lane, Overflow, RecvError, Refusal, Start, Subscriber,
};

/// Values from here on panic when cloned.
const BOMB: u8 = 240;
const CONTROL_SLOTS: usize = 16;

#[derive(Debug, PartialEq, Eq)]
struct Event(u8);

impl Clone for Event {
    fn clone(&self) -> Self {
        // No panic hook runs, so that ten thousand bombs are quiet.
        if self.0 >= BOMB {
            std::panic::resume_unwind(Box::new("bomb"));
        }
        Self(self.0)
    }
}

fn is_even(event: &Event) -> bool {
    event.0 % 2 == 0
}

#[derive(Debug, Clone)]
enum Op {
    Publish(u8),
    PublishMany(Vec<u8>),
    Control(Vec<u8>),
    Last(u8),
    Close,
    Subscribe {
        strict: bool,
        retained: Option<usize>,
        even: bool,
    },
    TryRecv(usize),
    RecvMany(usize, usize),
    Leave(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let many = |max| prop::collection::vec(any::<u8>(), 0..max);
    prop_oneof![
        24 => any::<u8>().prop_map(Op::Publish),
        12 => many(40).prop_map(Op::PublishMany),
        12 => many(20).prop_map(Op::Control),
        1 => any::<u8>().prop_map(Op::Last),
        1 => Just(Op::Close),
        12 => (any::<bool>(), prop::option::of(0..9_usize), any::<bool>())
            .prop_map(|(strict, retained, even)| Op::Subscribe { strict, retained, even }),
        42 => any::<usize>().prop_map(Op::TryRecv),
        24 => (any::<usize>(), 1..12_usize).prop_map(|(reader, max)| Op::RecvMany(reader, max)),
        4 => any::<usize>().prop_map(Op::Leave),
    ]
}

/// One lane of one reader: what waits, and what it has to be told first.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<(u64, u8)>,
    missed: Option<(u64, u64)>,
}

#[derive(Default)]
struct Model {
    strict: bool,
    even: bool,
    data: Queue,
    control: Queue,
    last: Option<(u64, u8)>,
    cut: Option<(Lane, u64, u64)>,
    offered: u64,
    delivered: u64,
    filtered: u64,
    lagged: u64,
    disconnected: u64,
    panicked: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Events(Vec<(Lane, u64, u8)>),
    Lagged(Lane, u64, u64),
    Disconnected(Lane, u64, u64),
    Closed,
    Empty,
    Panicked,
}

impl Model {
    fn offer(&mut self, lane: Lane, seq: u64, value: u8, capacity: usize) {
        if self.cut.is_some() {
            return;
        }
        self.offered += 1;
        let queue = match lane {
            Lane::Data => &mut self.data,
            Lane::Control => &mut self.control,
        };
        queue.waiting.push_back((seq, value));
        if queue.waiting.len() <= capacity {
            return;
        }
        let oldest = queue.waiting[0].0;
        if self.strict {
            self.cut = Some((lane, oldest, seq));
            self.disconnected += (self.data.waiting.len() + self.control.waiting.len()) as u64;
            self.data.waiting.clear();
            self.control.waiting.clear();
        } else {
            queue.waiting.pop_front();
            queue.missed = Some((queue.missed.map_or(oldest, |(first, _)| first), oldest));
            self.lagged += 1;
        }
    }

    fn pending(&self) -> u64 {
        (self.data.waiting.len() + self.control.waiting.len()) as u64
            + u64::from(self.last.is_some())
    }

    /// What one locking hands out: at most `max`, up to a gap.
    fn claim(&mut self, max: usize, ended: bool) -> Result<Vec<(Lane, u64, u8, bool)>, Outcome> {
        if let Some((lane, first, last)) = self.cut {
            return Err(Outcome::Disconnected(lane, first, last));
        }
        if let Some((first, last)) = self.control.missed.take() {
            return Err(Outcome::Lagged(Lane::Control, first, last));
        }
        let mut batch: Vec<_> = self
            .control
            .waiting
            .iter()
            .map(|(seq, value)| (Lane::Control, *seq, *value, false))
            .collect();
        batch.extend(
            self.last
                .iter()
                .map(|(seq, value)| (Lane::Control, *seq, *value, true)),
        );
        if self.data.missed.is_none() {
            batch.extend(
                self.data
                    .waiting
                    .iter()
                    .map(|(seq, value)| (Lane::Data, *seq, *value, false)),
            );
        } else if batch.is_empty() {
            let missed = self.data.missed.take();
            return Err(missed.map_or(Outcome::Empty, |(first, last)| {
                Outcome::Lagged(Lane::Data, first, last)
            }));
        }
        batch.truncate(max);
        match (batch.is_empty(), ended) {
            (false, _) => Ok(batch),
            (true, true) => Err(Outcome::Closed),
            (true, false) => Err(Outcome::Empty),
        }
    }

    /// Receives in one go up to `max` events; events before a panic go to `out`.
    fn receive(&mut self, max: usize, ended: bool, out: &mut Vec<(Lane, u64, u8)>) -> Outcome {
        loop {
            let batch = match self.claim(max, ended) {
                Ok(batch) => batch,
                Err(outcome) => return outcome,
            };
            let before = out.len();
            for (lane, seq, value, is_last) in batch {
                match (lane, is_last) {
                    (Lane::Data, _) => drop(self.data.waiting.pop_front()),
                    (Lane::Control, false) => drop(self.control.waiting.pop_front()),
                    (Lane::Control, true) => self.last = None,
                }
                if self.even && value % 2 == 1 && !is_last {
                    self.filtered += 1;
                } else if value >= BOMB {
                    self.panicked += 1;
                    return Outcome::Panicked;
                } else {
                    self.delivered += 1;
                    out.push((lane, seq, value));
                }
            }
            if out.len() > before {
                return Outcome::Events(out[before..].to_vec());
            }
        }
    }
}

/// The topic as the model knows it: everything ever published.
#[derive(Default)]
struct World {
    capacity: usize,
    data: Vec<u8>,
    control_seq: u64,
    last: Option<(u64, u8)>,
    refusal: Option<Refusal>,
    readers: Vec<(Subscriber<Event>, Model)>,
    /// Sums of the readers that left: offered, delivered, filtered, lost.
    departed: [u64; 4],
}

impl World {
    fn publish(&mut self, lane: Lane, value: u8) -> u64 {
        let (seq, capacity) = match lane {
            Lane::Data => {
                self.data.push(value);
                (self.data.len() as u64, self.capacity)
            }
            Lane::Control => {
                self.control_seq += 1;
                (self.control_seq, CONTROL_SLOTS)
            }
        };
        self.readers
            .iter_mut()
            .for_each(|(_, model)| model.offer(lane, seq, value, capacity));
        seq
    }

    fn connected(&self) -> usize {
        self.readers
            .iter()
            .filter(|(_, model)| model.cut.is_none())
            .count()
    }
}

struct Quiet;

impl Wake for Quiet {
    fn wake(self: Arc<Self>) {}
}

fn parts(delivery: Delivery<Event>) -> (Lane, u64, u8) {
    (delivery.lane, delivery.seq, delivery.event.0)
}

fn outcome(error: RecvError) -> Outcome {
    let span = |gap: Gap| (gap.lane, gap.first_missed, gap.last_missed);
    match error {
        RecvError::Lagged(gap) => {
            let (lane, first, last) = span(gap);
            Outcome::Lagged(lane, first, last)
        }
        RecvError::Disconnected(gap) => {
            let (lane, first, last) = span(gap);
            Outcome::Disconnected(lane, first, last)
        }
        RecvError::Closed => Outcome::Closed,
        other => panic!("unknown outcome {other:?}"),
    }
}

fn try_recv(reader: &mut Subscriber<Event>) -> Outcome {
    match catch_unwind(AssertUnwindSafe(|| reader.try_recv())) {
        Err(_) => Outcome::Panicked,
        Ok(Ok(Some(delivery))) => Outcome::Events(vec![parts(delivery)]),
        Ok(Ok(None)) => Outcome::Empty,
        Ok(Err(error)) => outcome(error),
    }
}

fn recv_many(
    reader: &mut Subscriber<Event>,
    max: usize,
    out: &mut Vec<(Lane, u64, u8)>,
) -> Outcome {
    let mut received = Vec::new();
    let waker = Waker::from(Arc::new(Quiet));
    let polled = catch_unwind(AssertUnwindSafe(|| {
        pin!(reader.recv_many(&mut received, max)).poll(&mut Context::from_waker(&waker))
    }));
    out.extend(received.into_iter().map(parts));
    match polled {
        Err(_) => Outcome::Panicked,
        Ok(Poll::Pending) => Outcome::Empty,
        Ok(Poll::Ready(Err(error))) => outcome(error),
        Ok(Poll::Ready(Ok(count))) => {
            assert_eq!(count, out.len());
            Outcome::Events(out.clone())
        }
    }
}

fn run(capacity: usize, ops: Vec<Op>) {
    let bus = Bus::new(BusConfig::default()).unwrap();
    let topic = bus
        .topic_spec("t")
        .capacity(capacity)
        .open::<Event>()
        .unwrap();
    let mut world = World {
        capacity,
        ..World::default()
    };
    for op in ops {
        match op {
            Op::Publish(value) => match (topic.publish(Event(value)), world.refusal) {
                (Ok(published), None) => {
                    assert_eq!(published.seq, world.publish(Lane::Data, value));
                    assert_eq!(published.readers, world.connected());
                }
                (Err(refused), Some(refusal)) => {
                    assert_eq!((refused.event, refused.refusal), (Event(value), refusal));
                }
                (result, refusal) => panic!("{result:?} while {refusal:?}"),
            },
            Op::PublishMany(values) => {
                let result = topic.publish_many(values.iter().copied().map(Event));
                if world.refusal.is_none() {
                    assert_eq!(result.unwrap().count, values.len() as u64);
                    for value in &values {
                        world.publish(Lane::Data, *value);
                    }
                } else {
                    assert_eq!(result.is_err(), !values.is_empty());
                }
            }
            Op::Control(values) => {
                for value in values {
                    match (topic.publish_control(Event(value)), world.refusal) {
                        (Ok(published), None) => {
                            assert_eq!(published.seq, world.publish(Lane::Control, value))
                        }
                        (Err(_), Some(_)) => {}
                        (result, refusal) => panic!("{result:?} while {refusal:?}"),
                    }
                }
            }
            Op::Last(value) => match (topic.publish_last(Event(value)), world.refusal) {
                (Ok(published), None) => {
                    world.control_seq += 1;
                    assert_eq!(published.seq, world.control_seq);
                    world.last = Some((world.control_seq, value));
                    world.refusal = Some(Refusal::Sealed);
                    for (_, model) in world
                        .readers
                        .iter_mut()
                        .filter(|(_, model)| model.cut.is_none())
                    {
                        model.offered += 1;
                        model.last = world.last;
                    }
                }
                (Err(_), Some(_)) => {}
                (result, refusal) => panic!("{result:?} while {refusal:?}"),
            },
            Op::Close => {
                topic.close();
                world.refusal = Some(Refusal::Closed);
            }
            Op::Subscribe {
                strict,
                retained,
                even,
            } => {
                let mut builder = topic.subscriber();
                if strict {
                    builder = builder.overflow(Overflow::Disconnect);
                }
                if let Some(n) = retained {
                    builder = builder.start(Start::Retained(n));
                }
                if even {
                    builder = builder.filter(is_even);
                }
                let built = builder.build();
                if world.refusal == Some(Refusal::Closed) {
                    assert!(built.is_err());
                    continue;
                }
                let mut model = Model {
                    strict,
                    even,
                    last: world.last,
                    ..Model::default()
                };
                let kept = retained.unwrap_or(0).min(capacity).min(world.data.len());
                for (index, value) in world.data.iter().enumerate().skip(world.data.len() - kept) {
                    model.data.waiting.push_back((index as u64 + 1, *value));
                }
                model.offered = model.pending();
                world.readers.push((built.unwrap(), model));
            }
            Op::TryRecv(which) => {
                let ended = world.refusal.is_some();
                let count = world.readers.len().max(1);
                if let Some((reader, model)) = world.readers.get_mut(which % count) {
                    assert_eq!(try_recv(reader), model.receive(1, ended, &mut Vec::new()));
                }
            }
            Op::RecvMany(which, max) => {
                let ended = world.refusal.is_some();
                let count = world.readers.len().max(1);
                if let Some((reader, model)) = world.readers.get_mut(which % count) {
                    let (mut real, mut expected) = (Vec::new(), Vec::new());
                    let outcome = recv_many(reader, max, &mut real);
                    assert_eq!(outcome, model.receive(max, ended, &mut expected));
                    assert_eq!(real, expected);
                }
            }
            Op::Leave(which) => {
                if !world.readers.is_empty() {
                    let (_, model) = world.readers.swap_remove(which % world.readers.len());
                    let lost = model.lagged + model.disconnected + model.panicked + model.pending();
                    let account = [model.offered, model.delivered, model.filtered, lost];
                    world
                        .departed
                        .iter_mut()
                        .zip(account)
                        .for_each(|(sum, part)| *sum += part);
                }
            }
        }
        check(&topic.stats(), &world);
    }
}

fn check(stats: &ron_bus::TopicStats, world: &World) {
    assert_eq!(
        (stats.seq, stats.control_seq),
        (world.data.len() as u64, world.control_seq)
    );
    assert_eq!(
        (stats.subscribers, stats.readers.len()),
        (world.connected(), world.readers.len())
    );
    let mut sums = world.departed;
    let mut depth = 0;
    for (reader, model) in &world.readers {
        let account = reader.account();
        assert!(account.is_balanced(), "{account:?}");
        assert_eq!(account.offered, model.offered, "{account:?}");
        assert_eq!(
            (account.delivered, account.filtered),
            (model.delivered, model.filtered)
        );
        let lost = (
            account.lost.lagged,
            account.lost.disconnected,
            account.lost.panicked,
            account.lost.abandoned,
        );
        assert_eq!(lost, (model.lagged, model.disconnected, model.panicked, 0));
        assert_eq!(account.pending, model.pending());
        depth = depth.max(account.pending);
        let parts = [
            account.offered,
            account.delivered,
            account.filtered,
            account.lost.total(),
        ];
        sums.iter_mut()
            .zip(parts)
            .for_each(|(sum, part)| *sum += part);
    }
    let total = stats.total;
    assert_eq!(
        [
            total.offered,
            total.delivered,
            total.filtered,
            total.lost.total()
        ],
        sums
    );
    assert!(total.is_balanced());
    assert_eq!(stats.queue_depth(), depth);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_reader_sees_what_the_model_sees_and_every_account_balances_after_every_step(
        capacity in 2..9_usize,
        ops in prop::collection::vec(op(), 1..120),
    ) {
        run(capacity, ops);
    }
}
