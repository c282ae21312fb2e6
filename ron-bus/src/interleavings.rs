//! Every interleaving, within loom's bounds, of the production code: ring, claims, parking, closing, waiting.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p ron-bus --release --lib interleavings`; `LOOM_MAX_PREEMPTIONS` bounds the
//! number of times a thread is preempted (default 2).

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, SystemTime};

use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use crate::account::Account;
use crate::channel::{Channel, Fixed};
use crate::config::Identity;
use crate::offering::Offering;
use crate::receiver::{Connect, Receiver};
use crate::subscriber::{Lane, Overflow, RecvError, Start};

/// The event of sequence number n is n; a box, so that a torn or early read is found.
type Event = Box<u64>;

fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(2));
    builder.check(model);
}

fn channel(capacity: usize) -> Arc<Channel<Event>> {
    Arc::new(Channel::new(Fixed {
        name: "topic".into(),
        identity: Arc::new(Identity {
            instance: "local".into(),
            epoch: 0,
        }),
        capacity,
        max_readers: 8,
        encode: None,
        wall_clock: SystemTime::now,
    }))
}

fn reader(
    channel: &Arc<Channel<Event>>,
    overflow: Overflow<Event>,
    start: Start,
) -> Receiver<Event> {
    Receiver::connect(channel, spec(overflow, start)).expect("the topic is open")
}

fn spec(overflow: Overflow<Event>, start: Start) -> Connect<Event> {
    Connect {
        name: "reader".into(),
        overflow,
        start,
        interest: None,
        filters: false,
        unlimited: false,
    }
}

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut cx = Context::from_waker(&waker);
    loop {
        match poll(&mut cx) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

/// What a reader got: data events and losses, in order, each as a range of sequence numbers.
#[derive(Default)]
struct Seen {
    delivered: u64,
    missed: u64,
    next: u64,
    control: u64,
    cut: bool,
}

impl Seen {
    fn event(&mut self, lane: Lane, seq: u64, event: &Event) {
        if lane == Lane::Control {
            self.control += 1;
            return;
        }
        assert_eq!(
            **event, seq,
            "an event is what was published under its number"
        );
        assert!(seq >= self.next, "numbers go up");
        assert!(self.next == 0 || seq == self.next, "what is missed is told");
        self.next = seq + 1;
        self.delivered += 1;
    }

    /// `false` when that was the end.
    fn error(&mut self, error: RecvError) -> bool {
        match error {
            RecvError::Lagged(gap) => {
                assert_eq!(gap.missed(), gap.last_missed - gap.first_missed + 1);
                assert!(self.next == 0 || self.next == gap.first_missed);
                self.next = gap.last_missed + 1;
                self.missed += gap.missed();
                true
            }
            RecvError::Disconnected(gap) => {
                self.missed += gap.missed();
                self.cut = true;
                false
            }
            RecvError::Closed => false,
        }
    }

    fn read_to_the_end(&mut self, reader: &mut Receiver<Event>) {
        loop {
            let received = block_on(|cx| {
                reader.poll_next(cx, |item| {
                    Some((item.lane, item.seq, item.event.into_owned()))
                })
            });
            match received {
                Ok((lane, seq, event)) => self.event(lane, seq, &event),
                Err(error) if self.error(error) => {}
                Err(_) => return,
            }
        }
    }

    fn agrees_with(&self, account: &Account) {
        assert!(account.is_balanced(), "{account:?}");
        assert_eq!(account.pending, 0, "{account:?}");
        assert_eq!(
            account.delivered,
            self.delivered + self.control,
            "{account:?}"
        );
        assert_eq!(account.lost.overflowed(), self.missed, "{account:?}");
    }
}

/// Publishes the next number under the next number, whoever else publishes.
fn publish(channel: &Channel<Event>, number: u64) {
    let published = channel.publish(Box::new(number));
    assert!(published.is_ok_and(|published| published.seq == number));
}

#[test]
fn a_reader_sees_whole_events_in_order_and_is_told_of_every_loss() {
    explore(|| {
        let channel = channel(2);
        let mut reader = reader(&channel, Overflow::DropOldest, Start::Live);
        let publisher = thread::spawn({
            let channel = Arc::clone(&channel);
            move || {
                (1..=4).for_each(|n| publish(&channel, n));
                channel.close();
            }
        });
        let mut seen = Seen::default();
        seen.read_to_the_end(&mut reader);
        publisher.join().expect("the publisher ends");
        assert_eq!(seen.delivered + seen.missed, 4);
        seen.agrees_with(&reader.account());
    });
}

/// What one reader got, in order, as far as it came.
type Order = Vec<(u64, u64)>;

/// Reads until the end, or until it has looked `patience` times.
fn read(reader: &mut Receiver<Event>, patience: usize) -> Order {
    let mut order = Order::new();
    for _ in 0..patience {
        let received =
            block_on(|cx| reader.poll_next(cx, |item| Some((item.seq, *item.event.into_owned()))));
        match received {
            Ok(event) => order.push(event),
            Err(RecvError::Lagged(_)) => {}
            Err(_) => break,
        }
    }
    order
}

#[test]
fn two_publishers_and_two_readers_that_come_and_go_agree_on_one_order() {
    explore(|| {
        let channel = channel(2);
        let mut reader = reader(&channel, Overflow::DropOldest, Start::Live);
        let ended = Arc::new(AtomicBool::new(false));
        let publishers = [11..=12, 21..=21].map(|numbers| {
            let (channel, ended) = (Arc::clone(&channel), Arc::clone(&ended));
            thread::spawn(move || {
                for n in numbers {
                    assert!(channel.publish(Box::new(n)).is_ok());
                }
                if ended.swap(true, Ordering::AcqRel) {
                    channel.close();
                }
            })
        });
        let late = thread::spawn({
            let channel = Arc::clone(&channel);
            move || {
                let spec = spec(Overflow::DropOldest, Start::Retained(2));
                let late = Receiver::connect(&channel, spec);
                late.map_or_else(|_closed| Order::new(), |mut late| read(&mut late, 2))
            }
        });
        let all = read(&mut reader, usize::MAX);
        publishers
            .into_iter()
            .for_each(|p| p.join().expect("publishers end"));
        let some = late.join().expect("the late reader ends");
        for order in [&all, &some] {
            assert!(
                order.windows(2).all(|w| w[0].0 < w[1].0),
                "numbers go up: {order:?}"
            );
            for base in [10, 20] {
                let numbers = order.iter().map(|(_, n)| *n);
                let of: Vec<u64> = numbers.filter(|n| n / 10 * 10 == base).collect();
                assert!(
                    of.windows(2).all(|w| w[0] < w[1]),
                    "one publisher's order: {order:?}"
                );
            }
        }
        for (seq, event) in &some {
            let same = all.iter().find(|(other, _)| other == seq);
            assert!(
                same.map_or(true, |(_, other)| other == event),
                "{all:?} {some:?}"
            );
        }
        let total = channel.stats().total;
        assert!(total.is_balanced(), "{total:?}");
        assert_eq!(total.delivered, (all.len() + some.len()) as u64);
    });
}

#[test]
fn every_event_wakes_a_parked_reader() {
    explore(|| {
        let channel = channel(2);
        let mut reader = reader(&channel, Overflow::DropOldest, Start::Live);
        let publisher = thread::spawn({
            let channel = Arc::clone(&channel);
            move || (1..=2).for_each(|n| publish(&channel, n))
        });
        // Nothing follows that would wake it instead.
        assert_eq!(read(&mut reader, 2), [(1, 1), (2, 2)]);
        publisher.join().expect("the publisher ends");
    });
}

#[test]
fn a_batch_wakes_a_parked_reader() {
    explore(|| {
        let channel = channel(2);
        let mut reader = reader(&channel, Overflow::DropOldest, Start::Live);
        let publisher = thread::spawn({
            let channel = Arc::clone(&channel);
            move || {
                let mut parcels = [1, 2, 3].map(|n| Some(Box::new(n)));
                let batch = channel.publish_all(&mut parcels, 0);
                assert!(batch.count == 3 && batch.last.is_some_and(|p| p.seq == 3));
            }
        });
        let mut seen = Seen::default();
        while seen.delivered + seen.missed < 3 {
            let mut items = Vec::new();
            let received = block_on(|cx| {
                reader.poll_many(cx, 8, |item| {
                    items.push((item.lane, item.seq, item.event.into_owned()));
                    true
                })
            });
            items
                .iter()
                .for_each(|(lane, seq, event)| seen.event(*lane, *seq, event));
            assert!(received.map_or_else(|error| seen.error(error), |count| count == items.len()));
        }
        publisher.join().expect("the publisher ends");
        seen.agrees_with(&reader.account());
    });
}

/// What waits now, without parking.
fn drain(reader: &mut Receiver<Event>) -> Vec<u64> {
    let mut events = Vec::new();
    let mut last = 0;
    for _ in 0..3 {
        match reader.try_next(|item| Some((item.seq, *item.event.into_owned()))) {
            Ok(Some((seq, event))) => {
                assert!(seq > last);
                last = seq;
                events.push(event);
            }
            Ok(None) => break,
            Err(RecvError::Lagged(gap)) => {
                assert!(gap.first_missed > last);
                last = gap.last_missed;
            }
            Err(error) => panic!("{error}"),
        }
    }
    events
}

/// Reads the accounts twice: they are balanced, and nothing but `pending` falls.
fn judge(channel: &Arc<Channel<Event>>) -> thread::JoinHandle<()> {
    let channel = Arc::clone(channel);
    thread::spawn(move || {
        let mut before = Account::default();
        for _ in 0..2 {
            let account = channel.stats().total;
            assert!(account.is_balanced(), "{account:?}");
            let counters =
                |a: Account| [a.offered, a.delivered, a.lost.lagged, a.lost.disconnected];
            let rises = counters(before)
                .iter()
                .zip(counters(account))
                .all(|(b, a)| *b <= a);
            assert!(rises, "{before:?} {account:?}");
            before = account;
        }
    })
}

#[test]
fn an_account_is_balanced_and_no_counter_falls_while_a_reader_races_the_ring() {
    explore(|| {
        let channel = channel(2);
        let mut reader = reader(&channel, Overflow::DropOldest, Start::Live);
        publish(&channel, 1);
        let publisher = thread::spawn({
            let channel = Arc::clone(&channel);
            move || (2..=4).for_each(|n| publish(&channel, n))
        });
        let judge = judge(&channel);
        let mut seen = Seen::default();
        for _ in 0..3 {
            match reader.try_next(|item| Some((item.lane, item.seq, item.event.into_owned()))) {
                Ok(Some((lane, seq, event))) => seen.event(lane, seq, &event),
                Ok(None) => {}
                Err(error) => assert!(seen.error(error)),
            }
        }
        publisher.join().expect("the publisher ends");
        judge.join().expect("the judge ends");
        channel.close();
        seen.read_to_the_end(&mut reader);
        assert_eq!(seen.delivered + seen.missed, 4);
        seen.agrees_with(&reader.account());
    });
}

#[test]
fn a_disconnect_reader_gets_everything_or_is_cut_off() {
    explore(|| {
        let channel = channel(2);
        let mut reader = reader(&channel, Overflow::Disconnect, Start::Live);
        let publisher = thread::spawn({
            let channel = Arc::clone(&channel);
            move || {
                (1..=3).for_each(|n| publish(&channel, n));
                channel.close();
            }
        });
        let judge = judge(&channel);
        let mut seen = Seen::default();
        seen.read_to_the_end(&mut reader);
        publisher.join().expect("the publisher ends");
        judge.join().expect("the judge ends");
        let account = reader.account();
        assert_eq!(account.lost.lagged, 0);
        assert!(seen.cut || seen.delivered == 3);
        seen.agrees_with(&account);
    });
}

#[test]
fn a_retained_start_leaves_no_hole_and_no_double_at_the_hand_over() {
    explore(|| {
        let channel = channel(4);
        publish(&channel, 1);
        let publisher = thread::spawn({
            let channel = Arc::clone(&channel);
            move || {
                publish(&channel, 2);
                publish(&channel, 3);
                channel.close();
            }
        });
        let late = Receiver::connect(&channel, spec(Overflow::DropOldest, Start::Retained(4)));
        if let Ok(mut late) = late {
            let mut seen = Seen {
                next: 1,
                ..Seen::default()
            };
            seen.read_to_the_end(&mut late);
            assert_eq!(seen.delivered, 3);
            seen.agrees_with(&late.account());
        }
        publisher.join().expect("the publisher ends");
    });
}

#[test]
fn a_reader_may_leave_and_another_come_while_the_ring_wraps() {
    explore(|| {
        let channel = channel(2);
        let mut first = reader(&channel, Overflow::DropOldest, Start::Live);
        publish(&channel, 1);
        let publisher = thread::spawn({
            let channel = Arc::clone(&channel);
            move || (2..=4).for_each(|n| publish(&channel, n))
        });
        drain(&mut first);
        drop(first);
        let mut second = reader(&channel, Overflow::DropOldest, Start::Retained(2));
        drain(&mut second);
        publisher.join().expect("the publisher ends");
        drop(second);
        let stats = channel.stats();
        assert!(
            stats.total.is_balanced() && stats.total.pending == 0,
            "{stats:?}"
        );
    });
}

#[test]
fn a_control_event_wakes_a_parked_reader_and_the_last_one_is_the_end() {
    explore(|| {
        let channel = channel(2);
        let mut reader = reader(&channel, Overflow::DropOldest, Start::Live);
        let publisher = thread::spawn({
            let channel = Arc::clone(&channel);
            move || {
                assert!(channel.publish_control(None, Box::new(7)).is_ok());
                publish(&channel, 1);
                assert!(channel.publish_last(Box::new(9)).is_ok());
            }
        });
        let mut seen = Seen::default();
        seen.read_to_the_end(&mut reader);
        publisher.join().expect("the publisher ends");
        assert_eq!((seen.control, seen.delivered, seen.missed), (2, 1, 0));
        seen.agrees_with(&reader.account());
    });
}

const DEADLINE: Duration = Duration::from_secs(1);

/// Waits for room, or until `expired` is set and it is woken.
fn publish_wait(channel: &Channel<Event>, number: u64, expired: &AtomicBool) {
    let mut offering = Offering::new(channel, Box::new(number), None);
    let published = block_on(|cx| {
        let waited = match expired.load(Ordering::Acquire) {
            true => DEADLINE,
            false => Duration::ZERO,
        };
        match offering.poll_publish(cx, waited) {
            Ok(result) => Poll::Ready(result),
            Err(_) => Poll::Pending,
        }
    });
    assert!(published.is_ok());
}

#[test]
fn room_in_a_full_buffer_wakes_the_publisher_that_waits_and_nothing_is_lost() {
    explore(|| {
        let channel = channel(2);
        let block = Overflow::Block { deadline: DEADLINE };
        let mut reader = reader(&channel, block, Start::Live);
        publish(&channel, 1);
        publish(&channel, 2);
        let publishers = [3, 4].map(|number| {
            let channel = Arc::clone(&channel);
            thread::spawn(move || publish_wait(&channel, number, &AtomicBool::new(false)))
        });
        let mut received = 0;
        while received < 4 {
            let item = block_on(|cx| reader.poll_next(cx, |item| Some(item.seq)));
            received += 1;
            assert_eq!(item, Ok(received));
        }
        publishers
            .into_iter()
            .for_each(|p| p.join().expect("publishers end"));
        let account = reader.account();
        assert!(
            account.is_balanced() && account.delivered == 4,
            "{account:?}"
        );
    });
}

#[test]
fn a_publisher_that_waits_ends_at_its_deadline_and_the_loss_is_counted() {
    explore(|| {
        let channel = channel(2);
        let block = Overflow::Block { deadline: DEADLINE };
        let mut reader = reader(&channel, block, Start::Live);
        publish(&channel, 1);
        publish(&channel, 2);
        let expired = Arc::new(AtomicBool::new(false));
        let publisher = thread::spawn({
            let (channel, expired) = (Arc::clone(&channel), Arc::clone(&expired));
            move || publish_wait(&channel, 3, &expired)
        });
        let alarm = thread::spawn({
            let publisher = publisher.thread().clone();
            move || {
                expired.store(true, Ordering::Release);
                publisher.unpark();
            }
        });
        let first = reader.try_next(|item| Some(item.seq));
        assert_eq!(first, Ok(Some(1)));
        publisher.join().expect("the publisher ends");
        alarm.join().expect("the alarm ends");
        let account = reader.account();
        assert!(account.is_balanced(), "{account:?}");
        assert_eq!(account.offered, 3);
        assert_eq!(
            account.pending + account.lost.block_deadline,
            2,
            "{account:?}"
        );
    });
}

#[test]
fn a_publisher_that_gives_up_passes_its_wake_up_on() {
    explore(|| {
        let channel = channel(2);
        let block = Overflow::Block { deadline: DEADLINE };
        let mut reader = reader(&channel, block, Start::Live);
        publish(&channel, 1);
        publish(&channel, 2);
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut first = Offering::new(&channel, Box::new(9), None);
        let waits = first.poll_publish(&Context::from_waker(&waker), Duration::ZERO);
        assert!(waits.is_err());
        let second = thread::spawn({
            let channel = Arc::clone(&channel);
            move || publish_wait(&channel, 3, &AtomicBool::new(false))
        });
        assert_eq!(reader.try_next(|item| Some(item.seq)), Ok(Some(1)));
        drop(first);
        second.join().expect("the second publisher ends");
        assert_eq!(reader.account().offered, 3);
    });
}

#[test]
fn closing_wakes_whoever_waits_on_either_side() {
    explore(|| {
        let channel = channel(2);
        let block = Overflow::Block { deadline: DEADLINE };
        let full = reader(&channel, block, Start::Live);
        publish(&channel, 1);
        publish(&channel, 2);
        let mut idle = reader(&channel, Overflow::DropOldest, Start::Live);
        let publisher = thread::spawn({
            let channel = Arc::clone(&channel);
            move || {
                let mut offering = Offering::new(&channel, Box::new(3), None);
                block_on(|cx| match offering.poll_publish(cx, Duration::ZERO) {
                    Ok(result) => Poll::Ready(result.is_err()),
                    Err(_) => Poll::Pending,
                })
            }
        });
        let closer = thread::spawn({
            let channel = Arc::clone(&channel);
            move || channel.close()
        });
        let end = block_on(|cx| idle.poll_next(cx, |item| Some(item.seq)));
        assert_eq!(end, Err(RecvError::Closed));
        assert!(
            publisher.join().expect("the publisher ends"),
            "the event comes back"
        );
        closer.join().expect("the closer ends");
        drop(full);
    });
}

/// Reads one event, is overrun by `publish` meanwhile, and is told of everything else in the end.
fn overrun(capacity: usize, publish_more: fn(&Channel<Event>)) {
    explore(move || {
        let channel = channel(capacity);
        let mut reader = reader(&channel, Overflow::Disconnect, Start::Live);
        publish(&channel, 1);
        publish(&channel, 2);
        let mut seen = Seen::default();
        let first = reader.try_next(|item| Some((item.lane, item.seq, item.event.into_owned())));
        assert!(matches!(&first, Ok(Some((lane, seq, event))) if {
            seen.event(*lane, *seq, event);
            true
        }));
        let publisher = thread::spawn({
            let channel = Arc::clone(&channel);
            move || publish_more(&channel)
        });
        let second = reader.try_next(|item| Some(item.lane));
        publisher.join().expect("the publisher ends");
        assert!(
            reader.account().is_balanced(),
            "{second:?} {:?}",
            reader.account()
        );
        let third = reader.try_next(|item| Some(item.lane));
        let account = reader.account();
        assert!(account.is_balanced(), "{account:?}");
        if matches!(third, Err(RecvError::Disconnected(_))) {
            assert_eq!(account.pending, 0, "{account:?}");
        }
    });
}

#[test]
fn a_reader_that_the_control_lane_cuts_off_while_it_claims_delivers_nothing_twice() {
    overrun(4, |channel| {
        for n in 0..17 {
            assert!(channel.publish_control(None, Box::new(n)).is_ok());
        }
    });
}

#[test]
fn a_reader_that_is_cut_off_and_gives_its_claim_back_has_nothing_pending() {
    overrun(2, |channel| (3..=5).for_each(|n| publish(channel, n)));
}
