//! Threads against each other: the accounts are exact at the end, order holds, and nobody sleeps through an event.
//!
//! `RON_TEST_FULL=1 cargo test -p ron-bus --release --test stress` publishes a hundred million events instead of some
//! hundred thousand. `RON_TEST_SEED` repeats the choices of a run, though not what its threads made of them.

use std::future::Future;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ron_bus::{
    Account, Bus, BusConfig, Class, Classify, Delivery, Interest, Lane, Overflow, Policy,
    RecvError, Start, Subscriber, Topic,
};

const PUBLISHERS: usize = 3;
const CLASSES: u64 = 4;

fn full() -> bool {
    std::env::var("RON_TEST_FULL").is_ok_and(|value| value == "1")
}

/// xorshift64*, good enough to choose what a thread does next.
struct Dice(u64);

impl Dice {
    fn new(stream: u64) -> Self {
        let asked = std::env::var("RON_TEST_SEED").ok();
        let seed = asked.and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            u64::from(now.subsec_nanos())
        });
        eprintln!("stream {stream}: RON_TEST_SEED={seed}");
        Self((seed ^ stream.wrapping_mul(0x9E37_79B9_7F4A_7C15)) | 1)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % n
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// An executor of its own: parks the thread, so a lost wake-up hangs the test.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

#[derive(Debug)]
struct Event {
    publisher: usize,
    number: u64,
    /// Panics when it is cloned.
    bomb: bool,
    check: u64,
}

fn check(publisher: usize, number: u64) -> u64 {
    !number.rotate_left(publisher as u32 + 7)
}

impl Event {
    fn new(publisher: usize, number: u64, bomb: bool) -> Self {
        Self {
            publisher,
            number,
            bomb,
            check: check(publisher, number),
        }
    }
}

impl Clone for Event {
    fn clone(&self) -> Self {
        if self.bomb {
            std::panic::resume_unwind(Box::new("bomb"));
        }
        Self { ..*self }
    }
}

impl Classify for Event {
    fn class(&self) -> Class {
        Class::new((self.number % CLASSES) as u8).unwrap()
    }
}

/// What a reader saw, checked for order as it comes.
#[derive(Default)]
struct Seen {
    events: [u64; 2],
    missed: [u64; 2],
    conflated: u64,
    panics: u64,
    /// Numbers that neither came nor were told missed.
    skipped: [u64; 2],
    /// The next number of each lane.
    next: [u64; 2],
    newest: [[Option<u64>; PUBLISHERS]; 2],
    ended: Option<RecvError>,
}

impl Seen {
    fn event(&mut self, delivery: &Delivery<Event>) {
        let (row, event) = (delivery.lane as usize, &delivery.event);
        assert_eq!(event.check, check(event.publisher, event.number));
        let place = self.next[row].max(1);
        assert!(delivery.seq >= place, "numbers only rise, none comes twice");
        self.skipped[row] += delivery.seq - place;
        self.next[row] = delivery.seq + 1;
        let newest = &mut self.newest[row][event.publisher];
        assert!(
            newest.map_or(true, |newest| event.number > newest),
            "first in, first out per publisher"
        );
        *newest = Some(event.number);
        self.events[row] += 1;
        self.conflated += delivery.conflated;
    }

    /// Whether there is more to come.
    fn error(&mut self, error: RecvError, policy: Policy) -> bool {
        let RecvError::Lagged(gap) = error else {
            self.ended = Some(error);
            return false;
        };
        let row = gap.lane as usize;
        self.missed[row] += gap.missed();
        assert!(gap.missed() <= gap.last_missed - gap.first_missed + 1);
        // A reader that conflates learns of a loss before it reads older events.
        if policy != Policy::Conflate || gap.lane == Lane::Control {
            let place = self.next[row].max(1);
            assert!(gap.first_missed >= place, "a gap never goes back");
            self.skipped[row] += gap.last_missed + 1 - place - gap.missed();
            self.next[row] = gap.last_missed + 1;
        }
        true
    }
}

#[derive(Clone, Copy)]
enum Way {
    Single,
    Batches,
    Polling,
}

fn read(mut reader: Subscriber<Event>, policy: Policy, way: Way) -> (Seen, Account) {
    let mut seen = Seen::default();
    let mut out = Vec::new();
    loop {
        let result = catch_unwind(AssertUnwindSafe(|| match way {
            Way::Single => block_on(reader.recv()).map(|d| out.push(d)),
            Way::Batches => block_on(reader.recv_many(&mut out, 64)).map(|_| ()),
            Way::Polling => match reader.try_recv() {
                Ok(None) => {
                    thread::yield_now();
                    Ok(())
                }
                other => other.map(|d| out.extend(d)),
            },
        }));
        out.drain(..).for_each(|delivery| seen.event(&delivery));
        match result {
            Err(_) => seen.panics += 1,
            Ok(Err(error)) if !seen.error(error, policy) => return (seen, reader.account()),
            Ok(_) => {}
        }
    }
}

/// What all publishers have published, by class.
#[derive(Default)]
struct Tally([AtomicU64; CLASSES as usize]);

impl Tally {
    fn count(&self, event: &Event) {
        let class = (event.number % CLASSES) as usize;
        self.0[class].fetch_add(1, Ordering::Relaxed);
    }

    fn outside(&self, classes: &[u64]) -> u64 {
        let others = (0..CLASSES).filter(|class| !classes.contains(class));
        others
            .map(|class| self.0[class as usize].load(Ordering::Relaxed))
            .sum()
    }
}

fn publish(topic: &Topic<Event>, publisher: usize, events: u64, tally: &Tally) {
    let mut dice = Dice::new(publisher as u64);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let mut number = 0;
    let mut next = |bomb| {
        number += 1;
        let event = Event::new(publisher, number, bomb);
        tally.count(&event);
        event
    };
    let mut sent = 0;
    while sent < events {
        let bomb = dice.below(1000) == 0;
        match dice.below(256) {
            0 => drop(runtime.block_on(topic.publish_wait(next(bomb))).unwrap()),
            1..=2 => drop(topic.publish_control(next(false)).unwrap()),
            3..=5 => {
                let key = dice.below(3);
                topic.publish_control_keyed(key, next(false)).unwrap();
            }
            6..=99 => {
                let count = 1 + dice.below(40);
                let batch = (0..count).map(|n| next(bomb && n == count / 2));
                assert_eq!(topic.publish_many(batch).unwrap().count, count);
                sent += count - 1;
            }
            100 => {
                thread::yield_now();
                continue;
            }
            _ => drop(topic.publish(next(bomb)).unwrap()),
        }
        sent += 1;
    }
}

fn block(deadline: Duration) -> Overflow<Event> {
    Overflow::Block { deadline }
}

fn conflate(max_keys: usize) -> Overflow<Event> {
    Overflow::Conflate {
        key: |event| event.number % 24,
        max_keys,
    }
}

fn policy(overflow: &Overflow<Event>) -> Policy {
    match overflow {
        Overflow::DropOldest => Policy::DropOldest,
        Overflow::Disconnect => Policy::Disconnect,
        Overflow::Block { .. } => Policy::Block,
        _ => Policy::Conflate,
    }
}

fn interest(classes: &[u64]) -> Interest {
    let classes = classes.iter().map(|class| *class as u8);
    classes.filter_map(Class::new).collect()
}

/// Readers that join, read a little and leave, until they are told to stop.
fn churn(topic: &Topic<Event>, stop: &AtomicBool) -> u64 {
    let mut dice = Dice::new(99);
    let mut joined = 0;
    while !stop.load(Ordering::Relaxed) {
        let overflow = match dice.below(4) {
            0 => Overflow::DropOldest,
            1 => Overflow::Disconnect,
            2 => block(Duration::from_micros(dice.below(500))),
            _ => conflate(1 + dice.below(30) as usize),
        };
        let mut builder = topic.subscriber().name("passing").overflow(overflow);
        if dice.below(2) == 0 {
            builder = builder.start(Start::Retained(dice.below(80) as usize));
        }
        if dice.below(2) == 0 {
            builder = builder.interest(interest(&[dice.below(CLASSES)]));
        }
        if dice.below(4) == 0 {
            builder = builder.filter(|event| event.number % 2 == 0);
        }
        let mut reader = builder.build().unwrap();
        joined += 1;
        let mut out = Vec::new();
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        for _ in 0..dice.below(20) {
            let max = 1 + dice.below(16) as usize;
            let _ = catch_unwind(AssertUnwindSafe(|| {
                let mut receive = pin!(reader.recv_many(&mut out, max));
                receive.as_mut().poll(&mut Context::from_waker(&waker))
            }));
            assert!(reader.account().is_balanced());
        }
        drop(reader);
        let stats = topic.stats();
        assert!(stats.readers.iter().all(|r| r.account.is_balanced()));
        assert!(stats.total.is_balanced());
        thread::yield_now();
    }
    joined
}

#[test]
fn the_accounts_are_exact_and_order_holds_after_threads_have_raced() {
    let events = if full() { 100_000_000 } else { 200_000 };
    let bus = Bus::new(BusConfig::default()).unwrap();
    let topic = bus.topic_spec("t").capacity(64).open::<Event>().unwrap();
    let every: &[u64] = &[0, 1, 2, 3];
    let ms = Duration::from_millis(1);
    let plan: Vec<(&str, Overflow<Event>, &[u64], Way)> = vec![
        ("single", Overflow::DropOldest, every, Way::Single),
        ("batches", Overflow::DropOldest, every, Way::Batches),
        ("narrow", Overflow::DropOldest, &[1], Way::Batches),
        ("nothing", Overflow::DropOldest, &[], Way::Single),
        ("strict", Overflow::Disconnect, every, Way::Batches),
        ("narrow strict", Overflow::Disconnect, &[2], Way::Single),
        ("block", block(ms), every, Way::Batches),
        ("narrow block", block(ms), &[0, 3], Way::Single),
        ("impatient", block(Duration::ZERO), every, Way::Polling),
        ("conflate", conflate(24), every, Way::Single),
        ("few keys", conflate(7), every, Way::Batches),
        ("narrow conflate", conflate(7), &[1, 2], Way::Polling),
    ];
    let readers: Vec<_> = plan
        .into_iter()
        .map(|(name, overflow, classes, way)| {
            let policy = policy(&overflow);
            let builder = topic.subscriber().name(name.replace(' ', "-"));
            let mut builder = builder.overflow(overflow);
            if classes != every {
                builder = builder.interest(interest(classes));
            }
            let reader = builder.build().unwrap();
            let reading = thread::spawn(move || read(reader, policy, way));
            (name, policy, classes, reading)
        })
        .collect();
    let stop = Arc::new(AtomicBool::new(false));
    let churning = thread::spawn({
        let (topic, stop) = (topic.clone(), Arc::clone(&stop));
        move || churn(&topic, &stop)
    });
    let tally = Arc::new(Tally::default());
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| {
            let (topic, tally) = (topic.clone(), Arc::clone(&tally));
            let share = events / PUBLISHERS as u64;
            thread::spawn(move || publish(&topic, publisher, share, &tally))
        })
        .collect();
    publishers.into_iter().for_each(|p| p.join().unwrap());
    stop.store(true, Ordering::Relaxed);
    assert!(churning.join().unwrap() > 0);
    topic.publish_last(Event::new(0, u64::MAX, false)).unwrap();

    let stats = topic.stats();
    assert_eq!(stats.published(), tally.outside(&[]) + 1);
    assert!(stats.published() >= events - PUBLISHERS as u64);
    for (name, policy, classes, reading) in readers {
        let (seen, account) = reading.join().unwrap();
        assert!(account.is_balanced(), "{name}: {account:?}");
        assert_eq!(account.delivered, seen.events[0] + seen.events[1], "{name}");
        // What stands for others can itself be lost, in the control lane of a slow reader.
        assert!(seen.conflated <= account.conflated, "{name}: {account:?}");
        if let Some(RecvError::Disconnected(_)) = seen.ended {
            assert_eq!(policy, Policy::Disconnect, "{name}");
            assert!(account.lost.disconnected > 0);
            continue;
        }
        assert_eq!(seen.ended, Some(RecvError::Closed), "{name}");
        assert_eq!(
            (account.offered, account.pending),
            (stats.published(), 0),
            "{name}"
        );
        assert_eq!(account.filtered, tally.outside(classes), "{name}");
        let told = seen.missed[0] + seen.missed[1] + seen.panics;
        assert_eq!(account.lost.total(), told, "{name}: {account:?}");
        if classes == every && policy != Policy::Conflate {
            let known = seen.events[0] + seen.missed[0] + seen.panics;
            assert_eq!(known, stats.seq, "{name}: no number is left out");
            assert!(seen.skipped[0] <= seen.panics, "{name}");
        }
    }
    let total = topic.stats().total;
    assert!(total.is_balanced() && total.pending == 0, "{total:?}");
}

/// Everything of an account that may only grow.
fn counters(account: &Account) -> [u64; 11] {
    let lost = account.lost;
    [
        account.offered,
        account.delivered,
        account.filtered,
        account.conflated,
        lost.lagged,
        lost.disconnected,
        lost.block_full,
        lost.block_deadline,
        lost.conflate_full,
        lost.panicked,
        lost.abandoned,
    ]
}

#[test]
fn no_counter_ever_falls_while_readers_are_overrun() {
    let span = Duration::from_millis(if full() { 60_000 } else { 700 });
    let bus = Bus::new(BusConfig::default()).unwrap();
    let topic = bus.topic_spec("t").capacity(64).open::<Event>().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let policies: [fn() -> Overflow<Event>; 3] = [
        || Overflow::DropOldest,
        || Overflow::Disconnect,
        || conflate(2),
    ];
    let readers: Vec<_> = policies
        .into_iter()
        .enumerate()
        .map(|(n, overflow)| {
            let (topic, stop) = (topic.clone(), Arc::clone(&stop));
            thread::spawn(move || {
                let name = format!("r{n}");
                let build = || topic.subscriber().name(&name).overflow(overflow()).build();
                let mut reader = build().unwrap();
                let mut delivered = 0;
                let mut out = Vec::new();
                let waker = Waker::from(Arc::new(Unpark(thread::current())));
                while !stop.load(Ordering::Relaxed) {
                    let polled =
                        pin!(reader.recv_many(&mut out, 64)).poll(&mut Context::from_waker(&waker));
                    delivered += out.drain(..).count() as u64;
                    if let Poll::Ready(Err(RecvError::Disconnected(_))) = polled {
                        assert_eq!(reader.account().delivered, delivered);
                        (reader, delivered) = (build().unwrap(), 0);
                    }
                }
                assert_eq!(reader.account().delivered, delivered);
            })
        })
        .collect();
    let publisher = thread::spawn({
        let (topic, stop) = (topic.clone(), Arc::clone(&stop));
        move || {
            let mut dice = Dice::new(0);
            for number in 1.. {
                topic.publish(Event::new(0, number, false)).unwrap();
                // Slow enough for a look at the accounts between two events.
                for _ in 0..dice.below(2000) {
                    std::hint::spin_loop();
                }
                if stop.load(Ordering::Relaxed) {
                    return;
                }
            }
        }
    });
    let began = Instant::now();
    let mut before = [[0; 11]; 3];
    while began.elapsed() < span {
        let stats = topic.stats();
        for row in &stats.by_name {
            assert!(row.account.is_balanced(), "{row:?}");
            let index: usize = row.name[1..].parse().unwrap();
            let now = counters(&row.account);
            let fell = before[index].iter().zip(&now).any(|(old, new)| new < old);
            assert!(!fell, "{:?} became {now:?}", before[index]);
            before[index] = now;
        }
    }
    stop.store(true, Ordering::Relaxed);
    publisher.join().unwrap();
    readers.into_iter().for_each(|r| r.join().unwrap());
    assert!(before[0][4] > 0 && before[0][1] > 0, "{:?}", before[0]);
}

#[test]
fn publishers_that_wait_lose_nothing_to_readers_that_block() {
    let share = if full() { 2_000_000 } else { 10_000 };
    let bus = Bus::new(BusConfig::default()).unwrap();
    let topic = bus.topic_spec("t").capacity(32).open::<Event>().unwrap();
    let readers: Vec<_> = [Way::Single, Way::Batches, Way::Polling]
        .into_iter()
        .map(|way| {
            let builder = topic.subscriber();
            let builder = builder.overflow(block(Duration::from_secs(600)));
            let reader = builder.build().unwrap();
            thread::spawn(move || read(reader, Policy::Block, way))
        })
        .collect();
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| {
            let topic = topic.clone();
            thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_time()
                    .build()
                    .unwrap();
                let mut dice = Dice::new(publisher as u64);
                let mut number = 1;
                while number <= share {
                    let event = Event::new(publisher, number, false);
                    let given_up = dice.below(8) == 0;
                    number += u64::from(runtime.block_on(async {
                        let mut call = pin!(topic.publish_wait(event));
                        if !given_up {
                            call.await.unwrap();
                            return true;
                        }
                        // Polled once and dropped: it has published, or it never will.
                        let first = |cx: &mut Context<'_>| Poll::Ready(call.as_mut().poll(cx));
                        std::future::poll_fn(first).await.is_ready()
                    }));
                }
            })
        })
        .collect();
    publishers.into_iter().for_each(|p| p.join().unwrap());
    let published = topic.stats().seq;
    assert_eq!(published, share * PUBLISHERS as u64);
    topic.close();
    for reading in readers {
        let (seen, account) = reading.join().unwrap();
        assert_eq!((account.delivered, account.lost.total()), (published, 0));
        assert_eq!((seen.events[0], seen.skipped[0]), (published, 0));
    }
}

#[test]
fn two_threads_that_answer_each_other_never_sleep_through_an_event() {
    let rounds = if full() { 500_000 } else { 5_000 };
    let policies: [fn() -> Overflow<u32>; 4] = [
        || Overflow::DropOldest,
        || Overflow::Disconnect,
        || Overflow::Block {
            deadline: Duration::from_secs(600),
        },
        || Overflow::Conflate {
            key: |n| u64::from(*n),
            max_keys: 2,
        },
    ];
    for overflow in policies {
        let bus = Bus::new(BusConfig::default()).unwrap();
        let (ping, pong) = (
            bus.topic::<u32>("ping").unwrap(),
            bus.topic::<u32>("pong").unwrap(),
        );
        let build = |topic: &Topic<u32>| topic.subscriber().overflow(overflow()).build().unwrap();
        let (mut pings, mut pongs) = (build(&ping), build(&pong));
        let answering = thread::spawn(move || {
            while let Ok(delivery) = block_on(pings.recv()) {
                let published = match delivery.event % 3 {
                    0 => pong.publish(delivery.event),
                    1 => pong.publish_control(delivery.event),
                    _ => block_on(pong.publish_wait(delivery.event)),
                };
                published.unwrap();
            }
        });
        for round in 0..rounds {
            ping.publish(round).unwrap();
            assert_eq!(block_on(pongs.recv()).unwrap().event, round);
        }
        ping.close();
        answering.join().unwrap();
    }
}

#[test]
fn an_event_is_either_published_or_given_back_when_the_topic_closes_under_its_publishers() {
    for round in 0..if full() { 5_000 } else { 150 } {
        let bus = Bus::new(BusConfig::default()).unwrap();
        let topic = bus.topic_spec("t").capacity(4).open::<Event>().unwrap();
        let builder = topic.subscriber();
        let builder = builder.overflow(block(Duration::from_secs(600)));
        let mut reader = builder.build().unwrap();
        let publishers: Vec<_> = (0..2)
            .map(|publisher| {
                let topic = topic.clone();
                thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_time()
                        .build()
                        .unwrap();
                    for number in 1.. {
                        let event = Event::new(publisher, number, false);
                        match runtime.block_on(topic.publish_wait(event)) {
                            Ok(_) => {}
                            Err(refused) => {
                                assert_eq!(refused.event.number, number);
                                return number - 1;
                            }
                        }
                    }
                    0
                })
            })
            .collect();
        let mut read = 0;
        while read < round % 23 {
            read += u64::from(reader.try_recv().unwrap().is_some());
        }
        bus.close();
        let published: u64 = publishers.into_iter().map(|p| p.join().unwrap()).sum();
        while let Ok(Some(_event)) = reader.try_recv() {
            read += 1;
        }
        assert_eq!((published, topic.stats().seq), (read, read));
    }
}
