//! Publishers and readers in threads of their own. Which of them is faster is the machine's choice, so the laws are
//! checked and not the exact outcome. Small enough for an interpreter that explores schedules.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use ron_bus::{
    Account, Bus, BusConfig, Class, Delivery, Lane, Overflow, Policy, RecvError, Start, Subscriber,
    Topic,
};

use crate::event::{Event, Traits};
use crate::input::Input;

/// Rings of blocks of one slot, of two and of four; within a block, readers take no lock.
const CAPACITIES: [usize; 6] = [2, 3, 7, 16, 20, 32];
const PUBLISHERS: usize = 2;
const READERS_MAX: usize = 3;

/// Interprets `bytes` as options and operations of a few threads.
pub fn bus_threads(bytes: &[u8]) {
    let mut input = Input(bytes);
    let bus = Bus::new(BusConfig::default()).expect("the defaults are valid");
    let capacity = CAPACITIES[input.index(CAPACITIES.len())];
    let topic = bus.topic_spec("t").capacity(capacity).open();
    let topic = topic.expect("the capacity is valid");
    let readers: Vec<_> = (0..1 + input.index(READERS_MAX))
        .map(|_| Script::new(&topic, &mut input))
        .collect();
    // Every byte that is left is one operation of the publishers in turn.
    let operations = input.0;

    let accounts: Vec<_> = thread::scope(|scope| {
        let readers: Vec<_> = readers
            .into_iter()
            .map(|script| scope.spawn(|| script.run()))
            .collect();
        let publishers: Vec<_> = (0..PUBLISHERS)
            .map(|publisher| {
                let topic = &topic;
                let mine = operations.iter().skip(publisher).step_by(PUBLISHERS);
                scope.spawn(move || publish(topic, publisher as u64, mine.copied()))
            })
            .collect();
        watch(&topic);
        let published: Vec<_> = publishers.into_iter().map(|p| p.join()).collect();
        // Ends the readers also when a publisher has panicked.
        let last = topic.publish_last(Event::new(u64::MAX, Traits(0)));
        assert!(last.is_ok(), "the topic was open");
        assert!(published.iter().all(Result::is_ok), "a publisher panicked");
        readers
            .into_iter()
            .map(|reader| reader.join().expect("a reader panicked"))
            .collect()
    });

    let stats = topic.stats();
    for (account, stayed) in accounts {
        assert!(!stayed || account.offered == stats.published());
    }
    watch(&topic);
    assert_eq!(stats.total.pending, 0);
}

/// What is seen from outside adds up at any instant.
fn watch(topic: &Topic<Event>) {
    let stats = topic.stats();
    let mut total = 0;
    for reader in &stats.readers {
        assert!(reader.account.is_balanced(), "{:?}", reader.account);
        total = reader.account.pending.max(total);
    }
    assert_eq!(stats.queue_depth(), total);
    assert!(stats.total.is_balanced(), "{:?}", stats.total);
    std::hint::black_box(topic.queue_depth());
}

fn publish(topic: &Topic<Event>, publisher: u64, operations: impl Iterator<Item = u8>) {
    let mut made = publisher << 32;
    let mut event = |traits: u8| {
        made += 1;
        // Without the bits that panic.
        Event::new(made, Traits(traits & 31))
    };
    let mut runtime = None;
    for operation in operations {
        match operation >> 5 {
            0..=2 => drop(topic.publish(event(operation)).expect("the topic is open")),
            3 => {
                let batch: Vec<_> = (0..3).map(|n| event(operation ^ n)).collect();
                let done = topic.publish_many(batch).expect("the topic is open");
                assert_eq!(done.count, 3);
            }
            4 => drop(topic.publish_control(event(operation)).expect("open")),
            5 => {
                let key = u64::from(operation & 1);
                let done = topic.publish_control_keyed(key, event(operation));
                assert!(done.is_ok(), "the topic is open");
            }
            6 => {
                let runtime = runtime.get_or_insert_with(|| {
                    let built = tokio::runtime::Builder::new_current_thread()
                        .enable_time()
                        .build();
                    built.expect("a runtime without io needs nothing")
                });
                let done = runtime.block_on(topic.publish_wait(event(operation)));
                assert!(done.is_ok(), "the topic is open");
            }
            _ => watch(topic),
        }
    }
}

/// A reader and how it reads.
struct Script {
    subscriber: Subscriber<Event>,
    policy: Policy,
    /// It skips events by closure or interest.
    picks: bool,
    /// Most events to take at once; 0 to take them one by one.
    batch: usize,
    /// Receives before it leaves; none to read to the end.
    leaves_after: Option<usize>,
}

impl Script {
    fn new(topic: &Topic<Event>, input: &mut Input<'_>) -> Self {
        let (kind, how) = (input.byte(), input.byte());
        let (policy, overflow) = match kind % 4 {
            0 => (Policy::DropOldest, Overflow::DropOldest),
            1 => (Policy::Disconnect, Overflow::Disconnect),
            // No reader is stuck, so nobody waits that long.
            2 => {
                let deadline = Duration::from_secs(3600);
                (Policy::Block, Overflow::Block { deadline })
            }
            _ => {
                let key: fn(&Event) -> u64 = Event::key;
                let max_keys = 1 + usize::from(kind >> 6);
                (Policy::Conflate, Overflow::Conflate { key, max_keys })
            }
        };
        let mut builder = topic.subscriber().overflow(overflow);
        if kind & 4 != 0 {
            builder = builder.filter(Event::is_even);
        }
        if kind & 8 != 0 {
            builder = builder.interest(Class::at::<1>() | Class::at::<2>());
        }
        if kind & 16 != 0 {
            builder = builder.start(Start::Retained(2));
        }
        Self {
            subscriber: builder.build().expect("the topic is open"),
            policy,
            picks: kind & 12 != 0,
            batch: usize::from(how & 7),
            leaves_after: (how & 64 != 0).then_some(usize::from(how >> 3 & 7)),
        }
    }

    /// Reads to the end, or leaves; returns the account and whether it was there to the end.
    fn run(mut self) -> (Account, bool) {
        let mut seen = Seen::default();
        let mut batch = Vec::new();
        let mut receives = 0;
        let end = loop {
            if self.leaves_after == Some(receives) {
                break None;
            }
            receives += 1;
            let received = match self.batch {
                0 => block_on(self.subscriber.recv()).map(|delivery| batch.push(delivery)),
                max => block_on(self.subscriber.recv_many(&mut batch, max)).map(|count| {
                    assert!(count == batch.len() && count > 0 && count <= max);
                }),
            };
            match received {
                Ok(()) => batch.drain(..).for_each(|delivery| seen.event(&delivery)),
                Err(RecvError::Lagged(gap)) => {
                    assert!(gap.missed() > 0);
                    seen.missed += gap.missed();
                    let newest = &mut seen.newest[gap.lane as usize];
                    if self.policy != Policy::Conflate {
                        assert!(gap.first_missed > *newest, "{gap:?} goes back");
                        *newest = gap.last_missed;
                    }
                }
                Err(end) => break Some(end),
            }
        };
        let account = self.subscriber.account();
        assert!(account.is_balanced(), "{account:?}");
        assert_eq!(account.delivered, seen.events);
        let lost = account.lost;
        match (&end, self.policy) {
            (Some(RecvError::Closed), _) => {
                assert_eq!(account.pending, 0);
                assert_eq!(lost.total(), seen.missed, "{account:?}");
                // An event that stands for others may itself be refused or lost.
                let all = !self.picks && lost.total() == 0;
                assert!(seen.conflated <= account.conflated);
                assert!(!all || seen.conflated == account.conflated);
                assert!(self.picks || account.filtered == 0);
                assert!(seen.last, "everyone gets the last event");
            }
            (Some(RecvError::Disconnected(gap)), Policy::Disconnect) => {
                assert!(lost.disconnected >= gap.missed() && gap.missed() > 0);
                assert_eq!(account.pending, 0);
            }
            (Some(end), policy) => panic!("{policy:?} ended with {end:?}"),
            (None, _) => {}
        }
        let own = match self.policy {
            Policy::DropOldest => lost.lagged,
            Policy::Disconnect => lost.disconnected,
            Policy::Block => lost.lagged + lost.block_full,
            _ => lost.lagged + lost.conflate_full,
        };
        assert_eq!(own, lost.total(), "{:?}: {lost:?}", self.policy);
        (account, matches!(end, Some(RecvError::Closed)))
    }
}

/// What a reader was given.
#[derive(Default)]
struct Seen {
    events: u64,
    missed: u64,
    conflated: u64,
    last: bool,
    /// Newest sequence numbers, per lane.
    newest: [u64; 2],
    /// Newest number of each publisher, per lane.
    of_publisher: [[u64; PUBLISHERS]; 2],
}

impl Seen {
    fn event(&mut self, delivery: &Delivery<Event>) {
        let lane = delivery.lane as usize;
        assert!(
            delivery.seq > self.newest[lane],
            "{delivery:?} behind {}",
            self.newest[lane]
        );
        self.newest[lane] = delivery.seq;
        self.events += 1;
        self.conflated += delivery.conflated;
        let number = delivery.event.number();
        if number == u64::MAX {
            assert_eq!(delivery.lane, Lane::Control);
            self.last = true;
            return;
        }
        let newest = &mut self.of_publisher[lane][(number >> 32) as usize];
        assert!(number > *newest, "first in, first out per publisher");
        *newest = number;
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Parks the thread, so that a lost wake-up hangs it.
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
