//! Random operations against a model that gives every reader plain queues of its own.
//!
//! `PROPTEST_CASES=20000 cargo test -p ron-bus --release --test model` is the long run.

mod naive;
mod reader;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use proptest::prelude::*;
use ron_bus::{
    Account, Bus, BusConfig, Class, Classify, Interest, Overflow, Policy, PublishError, Published,
    Refusal, Start, Topic, TopicState,
};

use naive::{Kind, Model, Options, Seqs, Waiting};
use reader::Reader;

/// Values from here on panic when cloned.
const BOMB: u8 = 240;
const CONTROL_SLOTS: usize = 16;
/// The clock moves in steps of this many milliseconds, and deadlines are never multiples of it: none falls on a step.
const STEP: u64 = 10;

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

impl Classify for Event {
    fn class(&self) -> Class {
        Class::new(class(self.0)).unwrap()
    }
}

fn is_even(event: &Event) -> bool {
    event.0 % 2 == 0
}

fn class(value: u8) -> u8 {
    value / 2 % 3
}

fn key(event: &Event) -> u64 {
    u64::from(event.0 / 6 % 5)
}

#[derive(Debug, Clone)]
enum Op {
    Publish(u8),
    PublishMany(Vec<u8>),
    Control(Vec<(Option<u64>, u8)>),
    Last(u8),
    Close,
    /// Begins a `publish_wait`.
    Wait(u8),
    /// Drops one; `early` before those woken by the operation before have been polled.
    Cancel {
        which: usize,
        early: bool,
    },
    /// One step of the clock.
    Advance,
    Subscribe(Options),
    TryRecv(usize),
    /// Polls the receive that waits, or a new one.
    Recv(usize),
    RecvMany(usize, usize),
    Leave(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let many = |max| prop::collection::vec(any::<u8>(), 0..max);
    let kind = prop_oneof![
        Just(Kind::DropOldest),
        Just(Kind::Disconnect),
        prop::sample::select(vec![0, 5, 25, 45]).prop_map(|deadline| Kind::Block { deadline }),
        (1..5_usize).prop_map(|max_keys| Kind::Conflate { max_keys }),
    ];
    let options = (
        kind,
        prop::option::of(0..8_u8),
        prop::option::of(prop_oneof![4 => 0..9_usize, 1 => 9..200_usize]),
        prop::bool::weighted(0.3),
    )
        .prop_map(|(kind, mask, retained, even)| Options {
            kind,
            mask,
            retained,
            even,
        });
    prop_oneof![
        24 => any::<u8>().prop_map(Op::Publish),
        10 => many(30).prop_map(Op::PublishMany),
        2 => many(300).prop_map(Op::PublishMany),
        12 => prop::collection::vec((prop::option::of(0..3_u64), any::<u8>()), 0..20)
            .prop_map(Op::Control),
        1 => any::<u8>().prop_map(Op::Last),
        1 => Just(Op::Close),
        16 => any::<u8>().prop_map(Op::Wait),
        6 => (any::<usize>(), any::<bool>()).prop_map(|(which, early)| Op::Cancel { which, early }),
        6 => Just(Op::Advance),
        12 => options.prop_map(Op::Subscribe),
        24 => any::<usize>().prop_map(Op::TryRecv),
        24 => any::<usize>().prop_map(Op::Recv),
        20 => (any::<usize>(), 1..12_usize).prop_map(|(reader, max)| Op::RecvMany(reader, max)),
        4 => (any::<usize>(), 1..400_usize).prop_map(|(reader, max)| Op::RecvMany(reader, max)),
        4 => any::<usize>().prop_map(Op::Leave),
    ]
}

/// Puts the number of the waiter into the queue when it is woken.
struct Ticket {
    number: usize,
    woken: Arc<Mutex<VecDeque<usize>>>,
}

impl Wake for Ticket {
    fn wake(self: Arc<Self>) {
        self.woken.lock().unwrap().push_back(self.number);
    }
}

type WaitResult = Result<Published, PublishError<Event>>;

/// A `publish_wait` that has not returned.
struct Waiter {
    number: usize,
    value: u8,
    since: u64,
    future: Pin<Box<dyn Future<Output = WaitResult>>>,
}

impl Waiter {
    fn poll(&mut self, woken: &Arc<Mutex<VecDeque<usize>>>) -> Poll<WaitResult> {
        let waker = Waker::from(Arc::new(Ticket {
            number: self.number,
            woken: Arc::clone(woken),
        }));
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }
}

/// The topic as the model knows it: everything ever published.
#[derive(Default)]
struct World {
    capacity: usize,
    now: u64,
    data: Vec<u8>,
    control_seq: u64,
    last: Option<Waiting>,
    refusal: Option<Refusal>,
    readers: Vec<Reader>,
    joined: usize,
    /// In the order in which they began to wait.
    waiters: Vec<Waiter>,
    calls: usize,
    woken: Arc<Mutex<VecDeque<usize>>>,
    departed: Account,
}

impl World {
    fn publish(&mut self, value: u8, waited: bool) -> u64 {
        self.data.push(value);
        let (seq, capacity) = (self.data.len() as u64, self.capacity);
        for reader in &mut self.readers {
            reader.model.offer_data(seq, value, capacity, waited);
        }
        seq
    }

    fn seqs(&self) -> Seqs {
        [self.data.len() as u64, self.control_seq]
    }

    fn connected(&self) -> usize {
        let connected = self.readers.iter().filter(|r| r.model.cut.is_none());
        connected.count()
    }

    fn is_held_up(&self, value: u8, since: u64) -> bool {
        self.readers
            .iter()
            .any(|r| r.model.holds_up(value, since, self.now, self.capacity))
    }

    /// What a `publish_wait` does next, and has done when it is polled.
    fn wait(&mut self, value: u8, since: u64) -> Poll<Result<(u64, usize), Refusal>> {
        if let Some(refusal) = self.refusal {
            return Poll::Ready(Err(refusal));
        }
        if self.is_held_up(value, since) {
            return Poll::Pending;
        }
        let seq = self.publish(value, true);
        Poll::Ready(Ok((seq, self.connected())))
    }

    fn begin_wait(&mut self, topic: &Topic<Event>, value: u8) {
        let topic = topic.clone();
        let mut waiter = Waiter {
            number: self.calls,
            value,
            since: self.now,
            future: Box::pin(async move { topic.publish_wait(Event(value)).await }),
        };
        self.calls += 1;
        let polled = waiter.poll(&self.woken);
        let expected = self.wait(value, self.now);
        compare_wait(value, &polled, &expected);
        if polled.is_pending() {
            self.waiters.push(waiter);
        }
    }

    /// Polls whoever was woken, in the order of the wake-ups, or after a step of the clock in the order of the calls,
    /// since timers of one instant fire in any order.
    fn settle(&mut self, by_clock: bool) {
        let mut done = Vec::new();
        let woken = Arc::clone(&self.woken);
        if by_clock {
            let mut order = woken.lock().unwrap();
            order.make_contiguous().sort_unstable();
        }
        // Not locked while a waiter is polled, which may wake another.
        let next = || woken.lock().unwrap().pop_front();
        while let Some(number) = next() {
            let Some(waiter) = self.waiters.iter_mut().find(|w| w.number == number) else {
                continue;
            };
            if done.iter().any(|(n, _)| *n == number) {
                continue;
            }
            if let Poll::Ready(result) = waiter.poll(&woken) {
                done.push((number, result));
            }
        }
        let calls: Vec<_> = self
            .waiters
            .iter()
            .map(|w| (w.number, w.value, w.since))
            .collect();
        for (number, value, since) in calls {
            let polled = match done.iter().position(|(n, _)| *n == number) {
                Some(index) => Poll::Ready(done.swap_remove(index).1),
                None => Poll::Pending,
            };
            compare_wait(value, &polled, &self.wait(value, since));
            if polled.is_ready() {
                self.waiters.retain(|w| w.number != number);
            }
        }
    }

    /// Whoever waits and has something to read has been woken once, and nobody else.
    fn check_wakes(&mut self) {
        let ended = self.refusal.is_some();
        for reader in &mut self.readers {
            if let Some(parked) = &reader.parked {
                let wakes = parked.wakes.0.load(Ordering::SeqCst) - parked.woken;
                let expected = usize::from(reader.model.is_ready(ended));
                assert_eq!(wakes, expected, "wake-ups of {}", reader.name);
            }
        }
    }

    fn check(&mut self, topic: &Topic<Event>) {
        self.check_wakes();
        let stats = topic.stats();
        let state = match self.refusal {
            None => TopicState::Open,
            Some(Refusal::Sealed) => TopicState::Sealed,
            Some(_) => TopicState::Closed,
        };
        assert_eq!(
            ([stats.seq, stats.control_seq], stats.state),
            (self.seqs(), state)
        );
        assert_eq!(
            (stats.subscribers, stats.readers.len()),
            (self.connected(), self.readers.len())
        );
        let mut total = self.departed;
        let mut depth = 0;
        for reader in &self.readers {
            let row = stats.readers.iter().find(|r| *r.name == *reader.name);
            let row = row.unwrap();
            let expected = reader.model.account();
            assert!(expected.is_balanced());
            assert_eq!(row.account, expected, "{}", reader.name);
            assert!(row.account.is_balanced());
            assert_eq!(row.connected, reader.model.cut.is_none());
            let policy = match reader.model.options.kind {
                Kind::DropOldest => Policy::DropOldest,
                Kind::Disconnect => Policy::Disconnect,
                Kind::Block { .. } => Policy::Block,
                Kind::Conflate { .. } => Policy::Conflate,
            };
            assert_eq!(row.overflow, policy);
            if let Ok(subscriber) = reader.subscriber.try_lock() {
                assert_eq!(subscriber.account(), expected);
            }
            depth = depth.max(expected.pending);
            total += expected;
        }
        assert_eq!(stats.total, total);
        assert!(total.is_balanced());
        assert_eq!((stats.queue_depth(), topic.queue_depth()), (depth, depth));
    }

    fn reader(&mut self, which: usize) -> Option<&mut Reader> {
        let count = self.readers.len().max(1);
        self.readers.get_mut(which % count)
    }
}

fn compare_wait(
    value: u8,
    polled: &Poll<WaitResult>,
    expected: &Poll<Result<(u64, usize), Refusal>>,
) {
    let same = match (polled, expected) {
        (Poll::Ready(Ok(published)), Poll::Ready(Ok(expected))) => {
            (published.seq, published.readers) == *expected
        }
        (Poll::Ready(Err(refused)), Poll::Ready(Err(refusal))) => {
            (&refused.event, refused.refusal) == (&Event(value), *refusal)
        }
        (Poll::Pending, Poll::Pending) => true,
        _ => false,
    };
    assert!(same, "publish_wait: {polled:?} instead of {expected:?}");
}

fn subscribe(topic: &Topic<Event>, world: &mut World, options: Options) {
    let name = format!("r{}", world.joined);
    let mut builder = topic.subscriber().name(&name).overflow(match options.kind {
        Kind::DropOldest => Overflow::DropOldest,
        Kind::Disconnect => Overflow::Disconnect,
        Kind::Block { deadline } => Overflow::Block {
            deadline: Duration::from_millis(deadline),
        },
        Kind::Conflate { max_keys } => Overflow::Conflate { key, max_keys },
    });
    if let Some(mask) = options.mask {
        let classes = (0..3).filter(|class| mask >> class & 1 == 1);
        builder = builder.interest(classes.filter_map(Class::new).collect::<Interest>());
    }
    if let Some(n) = options.retained {
        builder = builder.start(Start::Retained(n));
    }
    if options.even {
        builder = builder.filter(is_even);
    }
    let built = builder.build();
    if world.refusal == Some(Refusal::Closed) {
        assert!(built.is_err());
        return;
    }
    world.joined += 1;
    let reader = Reader {
        name,
        subscriber: Rc::new(tokio::sync::Mutex::new(built.unwrap())),
        parked: None,
        model: Model::new(options, world),
    };
    world.readers.push(reader);
}

fn compare_publish(result: WaitResult, value: u8, expected: Result<(u64, usize), Refusal>) {
    compare_wait(value, &Poll::Ready(result), &Poll::Ready(expected));
}

fn control(topic: &Topic<Event>, world: &mut World, key: Option<u64>, value: u8) {
    let result = match key {
        Some(key) => topic.publish_control_keyed(key, Event(value)),
        None => topic.publish_control(Event(value)),
    };
    let expected = match world.refusal {
        Some(refusal) => Err(refusal),
        None => {
            world.control_seq += 1;
            for reader in &mut world.readers {
                reader.model.offer_control(world.control_seq, value, key);
            }
            Ok((world.control_seq, world.connected()))
        }
    };
    compare_publish(result, value, expected);
}

fn apply(topic: &Topic<Event>, world: &mut World, op: Op) {
    let (ended, seqs) = (world.refusal.is_some(), world.seqs());
    match op {
        Op::Publish(value) => {
            let result = topic.publish(Event(value));
            let expected = match world.refusal {
                Some(refusal) => Err(refusal),
                None => Ok((world.publish(value, false), world.connected())),
            };
            compare_publish(result, value, expected);
        }
        Op::PublishMany(values) => {
            let result = topic.publish_many(values.iter().copied().map(Event));
            if ended {
                assert_eq!(result.is_err(), !values.is_empty());
                return;
            }
            for value in &values {
                world.publish(*value, false);
            }
            let done = result.unwrap();
            let last = (!values.is_empty()).then_some(world.data.len() as u64);
            assert_eq!((done.count, done.last_seq), (values.len() as u64, last));
        }
        Op::Control(events) => {
            for (key, value) in events {
                control(topic, world, key, value);
            }
        }
        Op::Last(value) => {
            let result = topic.publish_last(Event(value));
            let expected = match world.refusal {
                Some(refusal) => Err(refusal),
                None => {
                    world.control_seq += 1;
                    let last = Waiting::new(world.control_seq, value);
                    (world.last, world.refusal) = (Some(last), Some(Refusal::Sealed));
                    for reader in &mut world.readers {
                        reader.model.offer_last(last);
                    }
                    Ok((world.control_seq, world.connected()))
                }
            };
            compare_publish(result, value, expected);
        }
        Op::Close => {
            topic.close();
            world.refusal = Some(Refusal::Closed);
        }
        Op::Wait(value) => world.begin_wait(topic, value),
        Op::Cancel { which, .. } => {
            if !world.waiters.is_empty() {
                let index = which % world.waiters.len();
                drop(world.waiters.remove(index));
            }
        }
        Op::Advance => world.now += STEP,
        Op::Subscribe(options) => subscribe(topic, world, options),
        Op::TryRecv(which) => {
            if let Some(reader) = world.reader(which) {
                reader.try_recv(ended, seqs);
            }
        }
        Op::Recv(which) => {
            if let Some(reader) = world.reader(which) {
                reader.poll(None, ended, seqs);
            }
        }
        Op::RecvMany(which, max) => {
            if let Some(reader) = world.reader(which) {
                reader.poll(Some(max), ended, seqs);
            }
        }
        Op::Leave(which) => {
            if !world.readers.is_empty() {
                let index = which % world.readers.len();
                let reader = world.readers.swap_remove(index);
                let mut account = reader.model.account();
                account.lost.abandoned += account.pending;
                account.pending = 0;
                world.departed += account;
            }
        }
    }
}

async fn run(capacity: usize, ops: Vec<Op>) {
    let bus = Bus::new(BusConfig::default()).unwrap();
    let spec = bus.topic_spec("t").capacity(capacity);
    let topic = spec.open::<Event>().unwrap();
    let mut world = World {
        capacity,
        ..World::default()
    };
    let mut by_clock = false;
    for op in ops {
        if !matches!(op, Op::Cancel { early: true, .. }) {
            world.settle(by_clock);
            world.check(&topic);
            by_clock = false;
        }
        let advance = matches!(op, Op::Advance);
        by_clock |= advance;
        apply(&topic, &mut world, op);
        if advance {
            tokio::time::advance(Duration::from_millis(STEP)).await;
        }
        world.check(&topic);
    }
    world.settle(by_clock);
    world.check(&topic);
}

fn cases() -> u32 {
    let asked = std::env::var("PROPTEST_CASES").ok();
    asked.and_then(|cases| cases.parse().ok()).unwrap_or(400)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_reader_sees_what_the_model_sees_and_every_account_balances_after_every_step(
        capacity in prop_oneof![4 => 2..9_usize, 1 => 9..200_usize],
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        // Polled by hand, hundreds of times in one turn: no budget.
        runtime.block_on(tokio::task::unconstrained(run(capacity, ops)));
    }
}
