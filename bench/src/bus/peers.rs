//! The channels compared, behind one face that groups are generic over.

use super::Payload;
use async_broadcast::{InactiveReceiver, TrySendError};
use disruptor::{BusySpin, EventPoller, MultiConsumerBarrier, Producer};
use disruptor::{SingleProducer, SingleProducerBarrier};
use ron_bus::{Bus, BusConfig, Subscriber, Topic};
use std::future::Future;
use std::hint::black_box;
use tokio::sync::broadcast;

/// A channel of which every reader gets every event.
pub trait Channel<E: Payload>: 'static {
    type Sender: Send + 'static;
    type Reader: Send + 'static;
    fn open(capacity: usize, readers: usize) -> (Self::Sender, Vec<Self::Reader>);
    /// What does not arrive is found by the readers' counts, not here.
    fn publish(sender: &mut Self::Sender, event: E);
    /// The next event; panics at a gap.
    fn try_recv(reader: &mut Self::Reader) -> Option<E>;

    /// As after a first lap, that has touched and allocated what it has to.
    fn primed(capacity: usize, readers: usize) -> (Self::Sender, Vec<Self::Reader>) {
        let (mut sender, mut readers) = Self::open(capacity, readers);
        for number in 0..capacity as u64 {
            Self::publish(&mut sender, E::new(number));
            for reader in &mut readers {
                let event = Self::try_recv(reader).expect("an event");
                assert_eq!(event.number(), number);
            }
        }
        (sender, readers)
    }
}

/// One whose readers are tasks.
pub trait AsyncChannel<E: Payload>: Channel<E> {
    fn recv(reader: &mut Self::Reader) -> impl Future<Output = E> + Send;
}

/// One whose readers are threads.
pub trait BlockingChannel<E: Payload>: Channel<E> {
    fn recv(reader: &mut Self::Reader) -> E;
}

pub struct Ron;
pub struct Tokio;
pub struct AsyncBroadcast;
/// The crate `bus`: one publisher, threads.
pub struct BusCrate;
/// One channel per reader.
pub struct Crossbeam;
/// One channel per reader.
pub struct Flume;
/// One publisher; readers poll.
pub struct Disruptor;

/// A topic on a bus of its own.
pub fn topic<E: Clone + Send + Sync + 'static>(capacity: usize) -> Topic<E> {
    let bus = Bus::new(BusConfig::default()).expect("defaults");
    let topic = bus.topic_spec("bench").capacity(capacity).open();
    topic.expect("a topic")
}

impl<E: Payload> Channel<E> for Ron {
    type Sender = Topic<E>;
    type Reader = Subscriber<E>;

    fn open(capacity: usize, readers: usize) -> (Topic<E>, Vec<Subscriber<E>>) {
        let topic = topic(capacity);
        let readers = (0..readers).map(|_| topic.subscribe());
        let readers = readers.map(|reader| reader.expect("few readers")).collect();
        (topic, readers)
    }

    fn publish(topic: &mut Topic<E>, event: E) {
        let _ = black_box(topic.publish(event));
    }

    fn try_recv(reader: &mut Subscriber<E>) -> Option<E> {
        let received = reader.try_recv().expect("no gap");
        received.map(|delivery| delivery.event)
    }
}

impl<E: Payload> AsyncChannel<E> for Ron {
    async fn recv(reader: &mut Subscriber<E>) -> E {
        reader.recv().await.expect("no gap").event
    }
}

impl<E: Payload> Channel<E> for Tokio {
    type Sender = broadcast::Sender<E>;
    type Reader = broadcast::Receiver<E>;

    fn open(capacity: usize, readers: usize) -> (Self::Sender, Vec<Self::Reader>) {
        let (sender, first) = broadcast::channel(capacity);
        let readers = (0..readers).map(|_| sender.subscribe()).collect();
        drop(first);
        (sender, readers)
    }

    fn publish(sender: &mut Self::Sender, event: E) {
        // To nobody is an error here.
        let _ = black_box(sender.send(event));
    }

    fn try_recv(reader: &mut Self::Reader) -> Option<E> {
        match reader.try_recv() {
            Ok(event) => Some(event),
            Err(broadcast::error::TryRecvError::Empty) => None,
            Err(error) => panic!("tokio: {error}"),
        }
    }
}

impl<E: Payload> AsyncChannel<E> for Tokio {
    async fn recv(reader: &mut Self::Reader) -> E {
        reader.recv().await.expect("no gap")
    }
}

impl<E: Payload> Channel<E> for AsyncBroadcast {
    /// The inactive receiver keeps a channel without readers open.
    type Sender = (async_broadcast::Sender<E>, InactiveReceiver<E>);
    type Reader = async_broadcast::Receiver<E>;

    fn open(capacity: usize, readers: usize) -> (Self::Sender, Vec<Self::Reader>) {
        let (sender, first) = async_broadcast::broadcast(capacity);
        let readers = (0..readers).map(|_| sender.new_receiver()).collect();
        ((sender, first.deactivate()), readers)
    }

    fn publish((sender, _): &mut Self::Sender, event: E) {
        let sent = black_box(sender.try_broadcast(event));
        debug_assert!(!matches!(sent, Err(TrySendError::Full(_))));
    }

    fn try_recv(reader: &mut Self::Reader) -> Option<E> {
        match reader.try_recv() {
            Ok(event) => Some(event),
            Err(async_broadcast::TryRecvError::Empty) => None,
            Err(error) => panic!("async-broadcast: {error}"),
        }
    }
}

impl<E: Payload> AsyncChannel<E> for AsyncBroadcast {
    /// Without the allocation of `recv`.
    async fn recv(reader: &mut Self::Reader) -> E {
        reader.recv_direct().await.expect("no gap")
    }
}

impl<E: Payload> Channel<E> for BusCrate {
    type Sender = bus_peer::Bus<E>;
    type Reader = bus_peer::BusReader<E>;

    fn open(capacity: usize, readers: usize) -> (Self::Sender, Vec<Self::Reader>) {
        let mut sender = bus_peer::Bus::new(capacity);
        let readers = (0..readers).map(|_| sender.add_rx()).collect();
        (sender, readers)
    }

    fn publish(sender: &mut Self::Sender, event: E) {
        let _ = black_box(sender.try_broadcast(event));
    }

    fn try_recv(reader: &mut Self::Reader) -> Option<E> {
        reader.try_recv().ok()
    }
}

impl<E: Payload> BlockingChannel<E> for BusCrate {
    fn recv(reader: &mut Self::Reader) -> E {
        reader.recv().expect("a sender")
    }
}

impl<E: Payload> Channel<E> for Crossbeam {
    type Sender = Vec<crossbeam_channel::Sender<E>>;
    type Reader = crossbeam_channel::Receiver<E>;

    fn open(capacity: usize, readers: usize) -> (Self::Sender, Vec<Self::Reader>) {
        (0..readers)
            .map(|_| crossbeam_channel::bounded(capacity))
            .unzip()
    }

    fn publish(senders: &mut Self::Sender, event: E) {
        let Some((last, others)) = senders.split_last() else {
            return;
        };
        for sender in others {
            let _ = black_box(sender.try_send(event.clone()));
        }
        let _ = black_box(last.try_send(event));
    }

    fn try_recv(reader: &mut Self::Reader) -> Option<E> {
        reader.try_recv().ok()
    }
}

impl<E: Payload> BlockingChannel<E> for Crossbeam {
    fn recv(reader: &mut Self::Reader) -> E {
        reader.recv().expect("a sender")
    }
}

impl<E: Payload> Channel<E> for Flume {
    type Sender = Vec<flume::Sender<E>>;
    type Reader = flume::Receiver<E>;

    fn open(capacity: usize, readers: usize) -> (Self::Sender, Vec<Self::Reader>) {
        (0..readers).map(|_| flume::bounded(capacity)).unzip()
    }

    fn publish(senders: &mut Self::Sender, event: E) {
        let Some((last, others)) = senders.split_last() else {
            return;
        };
        for sender in others {
            let _ = black_box(sender.try_send(event.clone()));
        }
        let _ = black_box(last.try_send(event));
    }

    fn try_recv(reader: &mut Self::Reader) -> Option<E> {
        reader.try_recv().ok()
    }
}

impl<E: Payload> AsyncChannel<E> for Flume {
    async fn recv(reader: &mut Self::Reader) -> E {
        reader.recv_async().await.expect("a sender")
    }
}

impl<E: Payload> Channel<E> for Disruptor {
    type Sender = SingleProducer<E, MultiConsumerBarrier>;
    type Reader = EventPoller<E, SingleProducerBarrier>;

    /// At least one reader.
    fn open(capacity: usize, readers: usize) -> (Self::Sender, Vec<Self::Reader>) {
        let builder = disruptor::build_single_producer(capacity, || E::new(0), BusySpin);
        let mut builder = builder.with_multi_consumer();
        let mut pollers = Vec::new();
        for _ in 0..readers {
            let (poller, rest) = builder.new_event_poller();
            pollers.push(poller);
            builder = rest;
        }
        (builder.build(), pollers)
    }

    fn publish(sender: &mut Self::Sender, event: E) {
        let _ = black_box(sender.try_publish(|slot| *slot = event));
    }

    fn try_recv(reader: &mut Self::Reader) -> Option<E> {
        let mut events = reader.take(1).ok()?;
        (&mut events).next().cloned()
    }
}

impl<E: Payload> BlockingChannel<E> for Disruptor {
    fn recv(reader: &mut Self::Reader) -> E {
        loop {
            if let Some(event) = Self::try_recv(reader) {
                return event;
            }
            std::hint::spin_loop();
        }
    }
}
