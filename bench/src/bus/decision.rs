//! Locks against atomics: the ring as it is, beside the [`designs`](super::designs) that it could have.

use super::designs::{BlockLocks, Design, OneMutex, Pinned, Raw, Stamped};
use super::peers::topic;
use super::{Event, Payload, Spin, BATCH, CAPACITY};
use crate::harness::{median, ns_per_op, Group};
use ron_bus::{Delivery, RecvError, Subscriber, Topic};
use std::future::Future;
use std::hint::black_box;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;
use tokio::sync::broadcast::{self, error::TryRecvError};

const BURST: u64 = 512;
const BURSTS: u64 = 60;
/// Events of each publisher when two of them contend.
const CONTENDED: u64 = 200_000;
/// Events that go from one thread to another, and how many times: a thread that loses its core once costs more than
/// all of them.
const ACROSS: u64 = 50_000;
const CROSSINGS: usize = 7;

const MEASURES: [&str; 9] = [
    "publish",
    "publish_many(64)",
    "publish, 2 publishers",
    "receive one",
    "receive 64",
    "1 -> 1 on 2 threads, one by one",
    "1 -> 1 on 2 threads, by 64",
    "publish, Arc",
    "receive 64, Arc",
];

pub fn group() -> Group {
    let mut group = Group::new(
        "bus-design",
        "one event, designs of the ring",
        "tokio broadcast",
    );
    for measure in MEASURES {
        group = group.measure(measure, "ns");
    }
    type Shared = Arc<Event>;
    group
        .case("ron-bus", all::<Ron<Event>, Ron<Shared>>)
        .case("tokio broadcast", all::<Tokio<Event>, Tokio<Shared>>)
        .case("(a) one mutex, slots of Arc", all::<OneMutex<Event>, OneMutex<Shared>>)
        .case("(b) RwLock per slot", all::<BlockLocks<Event, 1>, BlockLocks<Shared, 1>>)
        .case("(c) RwLock per 32 slots", all::<BlockLocks<Event, 32>, BlockLocks<Shared, 32>>)
        .case("(c) RwLock per 64 slots", all::<BlockLocks<Event, 64>, BlockLocks<Shared, 64>>)
        .case("(d) pinned blocks of OnceLock", all::<Pinned<OnceLock<Event>>, Pinned<OnceLock<Shared>>>)
        .case("(d) pinned blocks, unsafe", all::<Pinned<Raw<Event>>, Pinned<Raw<Shared>>>)
        .case("(e) claimed and stamped slots, plain data", || {
            let mut row = plain::<Stamped>();
            row.resize(MEASURES.len(), f64::NAN);
            row
        })
        .note(
            "Rings of 1,024. The designs have no accounts, lanes or closing; ron-bus has. 2 publishers: both at once, \
             the ring full. 1 -> 1: the publisher keeps within the ring by the reader's position; the reader checks \
             every number.",
        )
}

fn all<P: Design<Event>, A: Design<Arc<Event>>>() -> Vec<f64> {
    let mut row = plain::<P>();
    row.push(in_turn::<A, _>(singly, one_by_one).0);
    row.push(in_turn::<A, _>(in_batches, by_batch).1);
    row
}

fn plain<D: Design<Event>>() -> Vec<f64> {
    let (publish, receive) = in_turn::<D, Event>(singly, one_by_one);
    let (publish_many, receive_many) = in_turn::<D, Event>(in_batches, by_batch);
    vec![
        publish,
        publish_many,
        contended::<D>(),
        receive,
        receive_many,
        crossings::<D>(singly, one_by_one),
        crossings::<D>(in_batches, by_batch),
    ]
}

fn singly<D: Design<E>, E: Payload>(ring: &D, numbers: Range<u64>) {
    for number in numbers {
        ring.publish(E::new(black_box(number)));
    }
}

fn in_batches<D: Design<E>, E: Payload>(ring: &D, mut numbers: Range<u64>) {
    while !numbers.is_empty() {
        let events = numbers.by_ref().take(BATCH);
        ring.publish_many(events.map(|number| E::new(black_box(number))));
    }
}

/// Takes what waits, but no more than a batch, and checks it; returns how many events that was.
type Take<D, E> = fn(&D, &mut <D as Design<E>>::Reader, &mut Vec<E>, u64) -> u64;

fn one_by_one<D: Design<E>, E: Payload>(
    ring: &D,
    reader: &mut D::Reader,
    _: &mut Vec<E>,
    next: u64,
) -> u64 {
    match &ring.try_recv(reader) {
        None => 0,
        Some(Ok(event)) => {
            assert_eq!(black_box(event).number(), next);
            1
        }
        Some(Err(missed)) => panic!("missed {missed}"),
    }
}

fn by_batch<D: Design<E>, E: Payload>(
    ring: &D,
    reader: &mut D::Reader,
    batch: &mut Vec<E>,
    next: u64,
) -> u64 {
    let taken = ring.recv_many(reader, batch, BATCH).expect("no gap");
    for (number, event) in (next..).zip(&*batch) {
        assert_eq!(black_box(event).number(), number);
    }
    batch.clear();
    taken as u64
}

/// ns of a publish and of a receive, by turns on one thread.
fn in_turn<D: Design<E>, E: Payload>(publish: fn(&D, Range<u64>), take: Take<D, E>) -> (f64, f64) {
    let ring = D::new(CAPACITY);
    let (mut reader, _) = ring.reader();
    let mut batch = Vec::with_capacity(BATCH);
    let (mut publishing, mut receiving) = (Vec::new(), Vec::new());
    // The first lap allocates and is not counted.
    const LAP: u64 = 2;
    for burst in 0..LAP + BURSTS {
        let numbers = burst * BURST..(burst + 1) * BURST;
        let began = Instant::now();
        publish(&ring, numbers.clone());
        let published = Instant::now();
        let mut next = numbers.start;
        while next < numbers.end {
            next += take(&ring, &mut reader, &mut batch, next);
        }
        if burst >= LAP {
            receiving.push(published.elapsed().as_nanos() as f64);
            publishing.push((published - began).as_nanos() as f64);
        }
    }
    let per_event = |times: &[f64]| median(times) / BURST as f64;
    (per_event(&publishing), per_event(&receiving))
}

/// ns of a publish while another thread publishes too.
fn contended<D: Design<Event>>() -> f64 {
    let ring = D::new(CAPACITY);
    singly(&ring, 0..CAPACITY as u64);
    let (mut reader, _) = ring.reader();
    let time = ns_per_op(2, CONTENDED, |events| singly(&ring, 0..events));
    let missed = match ring.try_recv(&mut reader) {
        Some(Err(missed)) => missed,
        _ => 0,
    };
    assert_eq!(missed, 2 * CONTENDED - CAPACITY as u64);
    time
}

/// ns of an event that goes from one thread to another: the median of several crossings.
fn crossings<D: Design<Event>>(publish: fn(&D, Range<u64>), take: Take<D, Event>) -> f64 {
    let times: Vec<f64> = (0..CROSSINGS).map(|_| across(publish, take)).collect();
    median(&times)
}

fn across<D: Design<Event>>(publish: fn(&D, Range<u64>), take: Take<D, Event>) -> f64 {
    let ring = D::new(CAPACITY);
    let (mut reader, seen) = ring.reader();
    std::thread::scope(|scope| {
        let began = Instant::now();
        let ring = &ring;
        let reading = scope.spawn(move || {
            let mut batch = Vec::with_capacity(BATCH);
            let (mut next, mut spin) = (0, Spin::default());
            while next < ACROSS {
                match take(ring, &mut reader, &mut batch, next) {
                    0 => spin.once(),
                    taken => next += taken,
                }
            }
        });
        let (mut published, mut spin) = (0, Spin::default());
        while published < ACROSS {
            let end = ACROSS.min(published + BATCH as u64);
            while end > seen.load(Ordering::Acquire) + CAPACITY as u64 {
                spin.once();
            }
            publish(ring, published..end);
            published = end;
        }
        reading.join().expect("all events");
        began.elapsed().as_nanos() as f64 / ACROSS as f64
    })
}

/// ron-bus as it is, accounts and all.
struct Ron<E>(Topic<E>);

type Watched<R> = (R, Arc<AtomicU64>);

impl<E: Payload> Design<E> for Ron<E> {
    type Reader = (Watched<Subscriber<E>>, Vec<Delivery<E>>);

    fn new(capacity: usize) -> Self {
        Ron(topic(capacity))
    }

    fn publish(&self, event: E) {
        let _ = black_box(self.0.publish(event));
    }

    fn publish_many(&self, events: impl Iterator<Item = E>) {
        let _ = black_box(self.0.publish_many(events));
    }

    fn reader(&self) -> (Self::Reader, Arc<AtomicU64>) {
        let seen = Arc::new(AtomicU64::new(0));
        let reader = self.0.subscribe().expect("few readers");
        let deliveries = Vec::with_capacity(BATCH);
        (((reader, Arc::clone(&seen)), deliveries), seen)
    }

    fn try_recv(&self, ((reader, seen), _): &mut Self::Reader) -> Option<Result<E, u64>> {
        match reader.try_recv() {
            Ok(None) => None,
            Ok(Some(delivery)) => {
                seen.store(delivery.seq, Ordering::Release);
                Some(Ok(delivery.event))
            }
            Err(RecvError::Lagged(gap)) => Some(Err(gap.missed())),
            Err(error) => panic!("ron-bus: {error}"),
        }
    }

    fn recv_many(
        &self,
        ((reader, seen), deliveries): &mut Self::Reader,
        out: &mut Vec<E>,
        max: usize,
    ) -> Result<usize, u64> {
        let received = {
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            let receiving = std::pin::pin!(reader.recv_many(deliveries, max));
            receiving.poll(&mut context)
        };
        match received {
            std::task::Poll::Pending => return Ok(0),
            std::task::Poll::Ready(Err(RecvError::Lagged(gap))) => return Err(gap.missed()),
            std::task::Poll::Ready(result) => result.expect("an open topic"),
        };
        if let Some(last) = deliveries.last() {
            seen.store(last.seq, Ordering::Release);
        }
        let taken = deliveries.len();
        out.extend(deliveries.drain(..).map(|delivery| delivery.event));
        Ok(taken)
    }
}

struct Tokio<E>(broadcast::Sender<E>);

impl<E: Payload> Design<E> for Tokio<E> {
    type Reader = Watched<broadcast::Receiver<E>>;

    fn new(capacity: usize) -> Self {
        Tokio(broadcast::channel(capacity).0)
    }

    fn publish(&self, event: E) {
        let _ = black_box(self.0.send(event));
    }

    /// It has none.
    fn publish_many(&self, events: impl Iterator<Item = E>) {
        events.for_each(|event| self.publish(event));
    }

    fn reader(&self) -> (Self::Reader, Arc<AtomicU64>) {
        let seen = Arc::new(AtomicU64::new(0));
        ((self.0.subscribe(), Arc::clone(&seen)), seen)
    }

    fn try_recv(&self, (reader, seen): &mut Self::Reader) -> Option<Result<E, u64>> {
        match reader.try_recv() {
            Ok(event) => {
                // Its only writer.
                seen.store(seen.load(Ordering::Relaxed) + 1, Ordering::Release);
                Some(Ok(event))
            }
            Err(TryRecvError::Lagged(missed)) => Some(Err(missed)),
            Err(_) => None,
        }
    }

    /// It has none.
    fn recv_many(
        &self,
        reader: &mut Self::Reader,
        out: &mut Vec<E>,
        max: usize,
    ) -> Result<usize, u64> {
        let before = out.len();
        while out.len() - before < max {
            match self.try_recv(reader) {
                Some(event) => out.push(event?),
                None => break,
            }
        }
        Ok(out.len() - before)
    }
}
