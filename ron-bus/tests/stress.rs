//! Threads against each other: the accounts are exact at the end and nobody sleeps through an event.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use ron_bus::{Account, Bus, BusConfig, Lane, Overflow, RecvError, Start, Subscriber, Topic};

const PUBLISHERS: u64 = 3;
const EVENTS: u64 = 20_000;
const CONTROL_EVERY: u64 = 500;

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

/// What a reader saw: events and gaps per lane, checked for order per publisher as they come.
#[derive(Default)]
struct Seen {
    /// A filter leaves holes that are no gaps.
    filtered: bool,
    events: u64,
    missed: u64,
    next_seq: [u64; 2],
    newest: [[Option<u64>; PUBLISHERS as usize]; 2],
    ended: Option<RecvError>,
}

impl Seen {
    fn event(&mut self, lane: Lane, seq: u64, (publisher, number): (u64, u64)) {
        let row = lane as usize;
        assert!(seq >= self.next_seq[row], "sequence numbers only rise");
        self.next_seq[row] = seq + 1;
        if let Some(newest) = self.newest[row].get_mut(publisher as usize) {
            assert!(
                newest.map_or(true, |newest| number > newest),
                "first in, first out per publisher"
            );
            *newest = Some(number);
        }
        self.events += 1;
    }

    fn error(&mut self, error: RecvError) -> bool {
        match error {
            RecvError::Lagged(gap) => {
                let row = gap.lane as usize;
                let place = self.next_seq[row].max(1);
                assert!(gap.first_missed >= place, "a gap never goes back");
                assert!(
                    self.filtered || gap.first_missed == place,
                    "a gap starts where we were"
                );
                self.next_seq[row] = gap.last_missed + 1;
                self.missed += gap.missed();
                true
            }
            end => {
                self.ended = Some(end);
                false
            }
        }
    }
}

fn read_single(mut reader: Subscriber<(u64, u64)>) -> (Seen, Account) {
    let mut seen = Seen::default();
    loop {
        match block_on(reader.recv()) {
            Ok(delivery) => seen.event(delivery.lane, delivery.seq, delivery.event),
            Err(error) if seen.error(error) => {}
            Err(_) => return (seen, reader.account()),
        }
    }
}

fn read_batches(mut reader: Subscriber<(u64, u64)>, filtered: bool) -> (Seen, Account) {
    let mut seen = Seen {
        filtered,
        ..Seen::default()
    };
    let mut batch = Vec::new();
    loop {
        match block_on(reader.recv_many(&mut batch, 64)) {
            Ok(_) => batch
                .drain(..)
                .for_each(|d| seen.event(d.lane, d.seq, d.event)),
            Err(error) if seen.error(error) => {}
            Err(_) => return (seen, reader.account()),
        }
    }
}

fn publish(topic: &Topic<(u64, u64)>, publisher: u64) {
    let mut number = 0;
    while number < EVENTS {
        if number % CONTROL_EVERY == 0 {
            topic.publish_control((publisher, number)).unwrap();
        }
        if number % 3 == 0 {
            let end = EVENTS.min(number + 20);
            topic
                .publish_many((number..end).map(|n| (publisher, n)))
                .unwrap();
            number = end;
        } else {
            topic.publish((publisher, number)).unwrap();
            number += 1;
        }
    }
}

#[test]
fn the_accounts_are_exact_after_threads_have_raced() {
    let bus = Bus::new(BusConfig::default()).unwrap();
    let topic = bus
        .topic_spec("t")
        .capacity(64)
        .open::<(u64, u64)>()
        .unwrap();
    let open = |name: &str| topic.subscriber().name(name);
    let readers = [
        thread::spawn({
            let reader = open("single").build().unwrap();
            move || read_single(reader)
        }),
        thread::spawn({
            let reader = open("batch").build().unwrap();
            move || read_batches(reader, false)
        }),
        thread::spawn({
            let reader = open("filter")
                .filter(|(_, number)| number % 2 == 0)
                .build()
                .unwrap();
            move || read_batches(reader, true)
        }),
        thread::spawn({
            let reader = open("strict")
                .overflow(Overflow::Disconnect)
                .build()
                .unwrap();
            move || read_single(reader)
        }),
    ];
    let churn = thread::spawn({
        let topic = topic.clone();
        move || {
            for _ in 0..300 {
                let mut passing = topic
                    .subscriber()
                    .name("passing")
                    .start(Start::Retained(10))
                    .build()
                    .unwrap();
                let _ = passing.try_recv();
                assert!(topic
                    .stats()
                    .readers
                    .iter()
                    .all(|r| r.account.is_balanced()));
            }
        }
    });
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| {
            let topic = topic.clone();
            thread::spawn(move || publish(&topic, publisher))
        })
        .collect();
    publishers.into_iter().for_each(|p| p.join().unwrap());
    churn.join().unwrap();
    topic.publish_last((PUBLISHERS, 0)).unwrap();

    let stats = topic.stats();
    assert_eq!(stats.seq, PUBLISHERS * EVENTS);
    let published = stats.published();
    for (reader, name) in readers
        .into_iter()
        .zip(["single", "batch", "filter", "strict"])
    {
        let (seen, account) = reader.join().unwrap();
        assert!(account.is_balanced(), "{name}: {account:?}");
        assert_eq!(account.delivered, seen.events, "{name}");
        assert_eq!(account.lost.lagged, seen.missed, "{name}");
        match seen.ended {
            Some(RecvError::Disconnected(_)) => {
                assert!(name == "strict" && account.lost.disconnected > 0)
            }
            end => {
                assert_eq!(end, Some(RecvError::Closed), "{name}");
                assert_eq!((account.offered, account.pending), (published, 0), "{name}");
            }
        }
    }
    let total = topic.stats().total;
    assert!(total.is_balanced() && total.pending == 0, "{total:?}");
    assert_eq!(bus.topics()[0].by_name.len(), 5);
}

#[test]
fn two_threads_that_answer_each_other_never_sleep_through_an_event() {
    let bus = Bus::new(BusConfig::default()).unwrap();
    let (ping, pong) = (
        bus.topic::<u32>("ping").unwrap(),
        bus.topic::<u32>("pong").unwrap(),
    );
    let (mut pings, mut pongs) = (ping.subscribe().unwrap(), pong.subscribe().unwrap());
    let answering = thread::spawn(move || {
        while let Ok(delivery) = block_on(pings.recv()) {
            pong.publish(delivery.event).unwrap();
        }
    });
    for round in 0..20_000 {
        ping.publish(round).unwrap();
        assert_eq!(block_on(pongs.recv()).unwrap().event, round);
    }
    ping.close();
    answering.join().unwrap();
}
