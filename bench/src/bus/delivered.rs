//! Events that reach every reader, none lost, from one publisher to 1, 4 and 16 readers.
//!
//! A channel that waits for room is used as it is. One that overwrites is kept from it by its publisher, which asks
//! how far the slowest reader is behind, and only when the ring could be full by what it was told before.

use super::peers::{
    topic, AsyncBroadcast, BusCrate, Channel, Crossbeam, Disruptor, Flume, Ron, Tokio,
};
use super::{Payload, BATCH, CAPACITY};
use crate::harness::Group;
use disruptor::{Polling, Producer};
use ron_bus::{Overflow, Subscriber, Topic};
use std::future::Future;
use std::hint::black_box;
use std::time::{Duration, Instant};
use tokio::sync::broadcast;
use tokio::task::yield_now;

/// Readers, and events that each of them gets.
const FAN_OUT: [(&str, usize, u64); 3] = [
    ("1 -> 1", 1, 300_000),
    ("1 -> 4", 4, 150_000),
    ("1 -> 16", 16, 50_000),
];

const BASELINE: &str = "tokio broadcast recv, then try_recv";
const PLAIN: &str = "ron-bus publish, recv";
const BATCHED: &str = "ron-bus publish_many(64), recv_many(64)";

pub fn group<E: Payload>(name: &'static str, title: &'static str) -> Group {
    let mut group = Group::new(name, title, BASELINE);
    for (measure, readers, _) in FAN_OUT {
        let batched = if readers > 1 { 1.0 / 3.0 } else { 1.0 };
        group = group
            .measure(measure, "ns")
            .goal(measure, PLAIN, E::goal(1.0))
            .goal(measure, BATCHED, E::goal(batched));
    }
    group
        .case(PLAIN, || {
            FAN_OUT.map(|to| ron::<E, _>(to, false, read_singly)).to_vec()
        })
        .case("ron-bus publish, recv_many(64)", || {
            FAN_OUT.map(|to| ron::<E, _>(to, false, read_batches)).to_vec()
        })
        .case(BATCHED, || {
            FAN_OUT.map(|to| ron::<E, _>(to, true, read_batches)).to_vec()
        })
        .case("ron-bus Block, publish_wait, recv", || {
            FAN_OUT.map(|to| ron_block::<E, _>(to, read_singly)).to_vec()
        })
        .case("ron-bus Block, publish_wait, recv_many(64)", || {
            FAN_OUT.map(|to| ron_block::<E, _>(to, read_batches)).to_vec()
        })
        .case("tokio broadcast recv", || {
            FAN_OUT.map(|fan_out| tokio::<E>(fan_out, false)).to_vec()
        })
        .case(BASELINE, || {
            FAN_OUT.map(|fan_out| tokio::<E>(fan_out, true)).to_vec()
        })
        .case("async-broadcast broadcast_direct", || {
            FAN_OUT.map(async_broadcast::<E>).to_vec()
        })
        .case("flume send_async, one each, drain", || {
            FAN_OUT.map(flume::<E>).to_vec()
        })
        .case("bus broadcast, threads", || FAN_OUT.map(bus_crate::<E>).to_vec())
        .case("crossbeam send, one each, threads", || {
            FAN_OUT.map(crossbeam::<E>).to_vec()
        })
        .case("disruptor poll, threads", || {
            FAN_OUT.map(disruptor::<E>).to_vec()
        })
        .rates()
        .note(
            "ns per event and reader, until all have all. Rings of 1,024; tasks on 2 workers unless it says threads. \
             Every reader checks the number of every event. The publishers of ron-bus and tokio let nothing be \
             overwritten: they ask for the slowest reader's backlog whenever the ring could be full by the last \
             answer, and go on once a batch fits.",
        )
}

/// What a reader has got so far.
struct Tape {
    next: u64,
    end: u64,
}

impl Tape {
    fn until(end: u64) -> Tape {
        Tape { next: 0, end }
    }

    fn take<E: Payload>(&mut self, event: &E) {
        assert_eq!(event.number(), self.next, "lost or out of order");
        black_box(event);
        self.next += 1;
    }

    fn is_full(&self) -> bool {
        self.next >= self.end
    }
}

/// Keeps a publisher from overwriting what some reader has not read.
struct Gate {
    /// Events that certainly fit.
    room: u64,
}

impl Gate {
    /// Waits until `events` fit; asks for the depth as seldom as that allows.
    async fn pass(&mut self, events: u64, depth: impl Fn() -> u64) {
        if self.room < events {
            loop {
                self.room = CAPACITY as u64 - depth();
                if self.room >= BATCH as u64 {
                    break;
                }
                yield_now().await;
            }
        }
        self.room -= events;
    }
}

type FanOut = (&'static str, usize, u64);

/// Runs a publisher and its readers as tasks.
fn on_tasks<C, E, P, R>(
    (_, readers, events): FanOut,
    (sender, all): (C::Sender, Vec<C::Reader>),
    publish: impl FnOnce(C::Sender) -> P,
    receive: impl Fn(C::Reader, Tape) -> R,
) -> f64
where
    C: Channel<E>,
    E: Payload,
    P: Future<Output = ()> + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut tasks: Vec<_> = all
            .into_iter()
            .map(|reader| tokio::spawn(receive(reader, Tape::until(events))))
            .collect();
        let began = Instant::now();
        tasks.push(tokio::spawn(publish(sender)));
        for task in tasks {
            task.await.expect("all events");
        }
        began.elapsed().as_nanos() as f64 / (events * readers as u64) as f64
    })
}

/// Runs a publisher and its readers as threads.
fn on_threads<C: Channel<E>, E: Payload>(
    (_, readers, events): FanOut,
    publish: impl FnOnce(C::Sender) + Send,
    receive: impl Fn(C::Reader, Tape) + Sync,
) -> f64 {
    let (sender, all) = C::primed(CAPACITY, readers);
    std::thread::scope(|scope| {
        let receive = &receive;
        let threads: Vec<_> = all
            .into_iter()
            .map(|reader| scope.spawn(move || receive(reader, Tape::until(events))))
            .collect();
        let began = Instant::now();
        scope.spawn(move || publish(sender));
        for thread in threads {
            thread.join().expect("all events");
        }
        began.elapsed().as_nanos() as f64 / (events * readers as u64) as f64
    })
}

async fn read_singly<E: Payload>(mut reader: Subscriber<E>, mut tape: Tape) {
    while !tape.is_full() {
        let received = reader.recv().await;
        tape.take(&received.as_ref().expect("no gap").event);
    }
}

async fn read_batches<E: Payload>(mut reader: Subscriber<E>, mut tape: Tape) {
    let mut batch = Vec::with_capacity(BATCH);
    while !tape.is_full() {
        let received = reader.recv_many(&mut batch, BATCH).await;
        received.expect("no gap");
        batch.iter().for_each(|d| tape.take(&d.event));
        batch.clear();
    }
}

/// Readers that share the ring, and a publisher that leaves them time.
fn ron<E: Payload, R>(
    fan_out: FanOut,
    batched: bool,
    read: impl Fn(Subscriber<E>, Tape) -> R,
) -> f64
where
    R: Future<Output = ()> + Send + 'static,
{
    let (_, readers, events) = fan_out;
    on_tasks::<Ron, E, _, _>(
        fan_out,
        Ron::primed(CAPACITY, readers),
        move |topic: Topic<E>| async move {
            let mut gate = Gate { room: 0 };
            let mut numbers = 0..events;
            while batched && !numbers.is_empty() {
                gate.pass(BATCH as u64, || topic.queue_depth()).await;
                let events = numbers.by_ref().take(BATCH);
                let events = events.map(|number| E::new(black_box(number)));
                let _ = black_box(topic.publish_many(events));
            }
            for number in numbers {
                gate.pass(1, || topic.queue_depth()).await;
                let _ = black_box(topic.publish(E::new(black_box(number))));
            }
        },
        read,
    )
}

/// Readers with a buffer each, for which the publisher waits.
fn ron_block<E: Payload, R>(fan_out: FanOut, read: impl Fn(Subscriber<E>, Tape) -> R) -> f64
where
    R: Future<Output = ()> + Send + 'static,
{
    let (_, readers, events) = fan_out;
    let topic = topic::<E>(CAPACITY);
    let deadline = Duration::from_secs(60);
    let subscribe = |_| {
        let reader = topic.subscriber().overflow(Overflow::Block { deadline });
        reader.build().expect("few readers")
    };
    let readers = (0..readers).map(subscribe).collect();
    on_tasks::<Ron, E, _, _>(
        fan_out,
        (topic, readers),
        move |topic: Topic<E>| async move {
            for number in 0..events {
                let published = topic.publish_wait(E::new(black_box(number))).await;
                let _ = black_box(published);
            }
        },
        read,
    )
}

fn tokio<E: Payload>(fan_out: FanOut, drain: bool) -> f64 {
    let (_, readers, events) = fan_out;
    on_tasks::<Tokio, E, _, _>(
        fan_out,
        <Tokio as Channel<E>>::primed(CAPACITY, readers),
        move |mut sender: broadcast::Sender<E>| async move {
            let mut gate = Gate { room: 0 };
            for number in 0..events {
                gate.pass(1, || sender.len() as u64).await;
                Tokio::publish(&mut sender, E::new(black_box(number)));
            }
        },
        move |mut reader, mut tape| async move {
            while !tape.is_full() {
                tape.take(reader.recv().await.as_ref().expect("no gap"));
                while drain && !tape.is_full() {
                    match &reader.try_recv() {
                        Ok(event) => tape.take(event),
                        Err(broadcast::error::TryRecvError::Empty) => break,
                        Err(error) => panic!("tokio: {error}"),
                    }
                }
            }
        },
    )
}

fn async_broadcast<E: Payload>(fan_out: FanOut) -> f64 {
    let (_, readers, events) = fan_out;
    on_tasks::<AsyncBroadcast, E, _, _>(
        fan_out,
        <AsyncBroadcast as Channel<E>>::primed(CAPACITY, readers),
        move |(sender, _inactive)| async move {
            for number in 0..events {
                let sent = sender.broadcast_direct(E::new(black_box(number)));
                black_box(sent.await.expect("readers"));
            }
        },
        |mut reader, mut tape| async move {
            while !tape.is_full() {
                tape.take(reader.recv_direct().await.as_ref().expect("no gap"));
                while !tape.is_full() {
                    match &reader.try_recv() {
                        Ok(event) => tape.take(event),
                        Err(async_broadcast::TryRecvError::Empty) => break,
                        Err(error) => panic!("async-broadcast: {error}"),
                    }
                }
            }
        },
    )
}

fn flume<E: Payload>(fan_out: FanOut) -> f64 {
    let (_, readers, events) = fan_out;
    on_tasks::<Flume, E, _, _>(
        fan_out,
        <Flume as Channel<E>>::primed(CAPACITY, readers),
        move |senders: Vec<flume::Sender<E>>| async move {
            for number in 0..events {
                let event = E::new(black_box(number));
                for sender in &senders {
                    let sent = sender.send_async(event.clone()).await;
                    sent.expect("a reader");
                }
            }
        },
        |reader: flume::Receiver<E>, mut tape| async move {
            while !tape.is_full() {
                tape.take(reader.recv_async().await.as_ref().expect("a sender"));
                for event in reader.drain() {
                    tape.take(&event);
                }
            }
        },
    )
}

fn bus_crate<E: Payload>(fan_out: FanOut) -> f64 {
    let (_, _, events) = fan_out;
    on_threads::<BusCrate, E>(
        fan_out,
        |mut sender| {
            for number in 0..events {
                sender.broadcast(E::new(black_box(number)));
            }
        },
        |mut reader, mut tape| {
            while !tape.is_full() {
                tape.take(reader.recv().as_ref().expect("a sender"));
            }
        },
    )
}

fn crossbeam<E: Payload>(fan_out: FanOut) -> f64 {
    let (_, _, events) = fan_out;
    on_threads::<Crossbeam, E>(
        fan_out,
        |senders| {
            for number in 0..events {
                let event = E::new(black_box(number));
                for sender in &senders {
                    sender.send(event.clone()).expect("a reader");
                }
            }
        },
        |reader, mut tape| {
            while !tape.is_full() {
                tape.take(reader.recv().as_ref().expect("a sender"));
            }
        },
    )
}

/// With `yield_now`, as there are more threads than cores.
fn disruptor<E: Payload>(fan_out: FanOut) -> f64 {
    let (_, _, events) = fan_out;
    on_threads::<Disruptor, E>(
        fan_out,
        |mut sender| {
            for number in 0..events {
                let event = E::new(black_box(number));
                while sender.try_publish(|slot| slot.clone_from(&event)).is_err() {
                    std::thread::yield_now();
                }
            }
        },
        |mut reader, mut tape| {
            while !tape.is_full() {
                match reader.poll() {
                    Ok(mut events) => {
                        for event in &mut events {
                            tape.take(&event.clone());
                        }
                    }
                    Err(Polling::NoEvents) => std::thread::yield_now(),
                    Err(Polling::Shutdown) => panic!("the publisher has gone too early"),
                }
            }
        },
    )
}
