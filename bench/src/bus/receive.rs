//! Receiving what waits, on one thread.

use super::peers::{AsyncBroadcast, BusCrate, Channel, Crossbeam, Disruptor, Flume, Ron, Tokio};
use super::{Event, Payload, BATCH, CAPACITY};
use crate::harness::{median, Goal, Group};
use ron_bus::Subscriber;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::broadcast;

const BURST: u64 = 512;
const BURSTS: u64 = 100;

pub fn group() -> Group {
    let group = Group::new(
        "bus-receive",
        "one event that waits",
        "tokio broadcast try_recv",
    );
    group
        .measure("64 bytes", "ns")
        .measure("Arc", "ns")
        .case("ron-bus try_recv", both::<Ron>(ron_try_recv, ron_try_recv))
        .case("ron-bus recv", both::<Ron>(ron_recv, ron_recv))
        .case("ron-bus recv_many(64)", both::<Ron>(ron_recv_many, ron_recv_many))
        .case(
            "tokio broadcast try_recv",
            both::<Tokio>(tokio_try_recv, tokio_try_recv),
        )
        .case("tokio broadcast recv", both::<Tokio>(tokio_recv, tokio_recv))
        .case(
            "async-broadcast try_recv",
            both::<AsyncBroadcast>(async_broadcast_try_recv, async_broadcast_try_recv),
        )
        .case("bus try_recv", both::<BusCrate>(bus_try_recv, bus_try_recv))
        .case(
            "crossbeam try_recv",
            both::<Crossbeam>(crossbeam_try_recv, crossbeam_try_recv),
        )
        .case("flume try_recv", both::<Flume>(flume_try_recv, flume_try_recv))
        .case("flume drain", both::<Flume>(flume_drain, flume_drain))
        .case("disruptor poll", both::<Disruptor>(disruptor_poll, disruptor_poll))
        .goal("64 bytes", "ron-bus recv_many(64)", Goal::Ratio(0.25))
        .note(
            "512 events in a ring of 1,024, taken out by one reader, number by number; every event is cloned or moved \
             out and dropped.",
        )
}

/// Takes the events of one burst and returns the sum of their numbers.
type Drain<C, E> = fn(&Runtime, &mut <C as Channel<E>>::Reader) -> u64;

fn both<C: Channel<Event> + Channel<Arc<Event>>>(
    plain: Drain<C, Event>,
    arc: Drain<C, Arc<Event>>,
) -> impl FnMut() -> Vec<f64> {
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    move || {
        vec![
            receive::<C, Event>(&runtime, plain),
            receive::<C, Arc<Event>>(&runtime, arc),
        ]
    }
}

fn receive<C: Channel<E>, E: Payload>(runtime: &Runtime, drain: Drain<C, E>) -> f64 {
    let (mut sender, mut readers) = C::primed(CAPACITY, 1);
    let reader = &mut readers[0];
    let mut times = Vec::with_capacity(BURSTS as usize);
    for burst in 0..BURSTS {
        let numbers = burst * BURST..(burst + 1) * BURST;
        for number in numbers.clone() {
            C::publish(&mut sender, E::new(number));
        }
        let began = Instant::now();
        let sum = drain(runtime, reader);
        times.push(began.elapsed().as_nanos() as f64);
        assert_eq!(sum, numbers.sum::<u64>(), "not the events of the burst");
        assert!(C::try_recv(reader).is_none());
    }
    median(&times) / BURST as f64
}

/// The event must be there, whole; a batch is read where it lies.
fn number<E: Payload>(event: &E) -> u64 {
    black_box(event).number()
}

/// The sum over one burst. `next` looks at what a receive returned where it lies: moving 64 bytes out of it once more
/// would cost some compilations as much as the receive.
fn each(next: impl FnMut(u64) -> u64) -> u64 {
    (0..BURST).map(next).sum()
}

fn ron_try_recv<E: Payload>(_: &Runtime, reader: &mut Subscriber<E>) -> u64 {
    each(|_| match &reader.try_recv() {
        Ok(Some(delivery)) => number(&delivery.event),
        other => panic!("{other:?}"),
    })
}

fn tokio_try_recv<E: Payload>(_: &Runtime, reader: &mut broadcast::Receiver<E>) -> u64 {
    each(|_| number(reader.try_recv().as_ref().expect("an event")))
}

fn async_broadcast_try_recv<E: Payload>(
    _: &Runtime,
    reader: &mut async_broadcast::Receiver<E>,
) -> u64 {
    each(|_| number(reader.try_recv().as_ref().expect("an event")))
}

fn bus_try_recv<E: Payload>(_: &Runtime, reader: &mut bus_peer::BusReader<E>) -> u64 {
    each(|_| number(reader.try_recv().as_ref().expect("an event")))
}

fn crossbeam_try_recv<E: Payload>(_: &Runtime, reader: &mut crossbeam_channel::Receiver<E>) -> u64 {
    each(|_| number(reader.try_recv().as_ref().expect("an event")))
}

fn flume_try_recv<E: Payload>(_: &Runtime, reader: &mut flume::Receiver<E>) -> u64 {
    each(|_| number(reader.try_recv().as_ref().expect("an event")))
}

fn ron_recv<E: Payload>(runtime: &Runtime, reader: &mut Subscriber<E>) -> u64 {
    runtime.block_on(async {
        let mut sum = 0;
        for _ in 0..BURST {
            let received = reader.recv().await;
            sum += number(&received.as_ref().expect("no gap").event);
        }
        sum
    })
}

fn ron_recv_many<E: Payload>(runtime: &Runtime, reader: &mut Subscriber<E>) -> u64 {
    let mut batch = Vec::with_capacity(BATCH);
    runtime.block_on(async {
        let (mut sum, mut left) = (0, BURST as usize);
        while left > 0 {
            left -= reader.recv_many(&mut batch, BATCH).await.expect("no gap");
            sum += batch.iter().map(|d| number(&d.event)).sum::<u64>();
            batch.clear();
        }
        sum
    })
}

fn tokio_recv<E: Payload>(runtime: &Runtime, reader: &mut broadcast::Receiver<E>) -> u64 {
    runtime.block_on(async {
        let mut sum = 0;
        for _ in 0..BURST {
            let received = reader.recv().await;
            sum += number(received.as_ref().expect("no gap"));
        }
        sum
    })
}

fn flume_drain<E: Payload>(_: &Runtime, reader: &mut flume::Receiver<E>) -> u64 {
    reader.drain().map(|event| number(&event)).sum()
}

fn disruptor_poll<E: Payload>(_: &Runtime, reader: &mut <Disruptor as Channel<E>>::Reader) -> u64 {
    let mut events = reader.poll().expect("events wait");
    (&mut events).map(|event| number(&event.clone())).sum()
}
