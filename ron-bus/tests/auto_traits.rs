//! Send, Sync and Unpin of what users hold and await.

use std::future::Future;

use ron_bus::{
    Bus, BusConfig, BusError, Class, Delivery, Interest, Overflow, Policy, PublishError, RecvError,
    SubscribeError, Subscriber, SubscriberStream, Tail, TailError, Topic, TopicError, TopicStats,
};

fn is_open<T: Send + Sync + Unpin + 'static>() {}
fn is_error<T: std::error::Error + Send + Sync + 'static>() {}
fn is_send<F: Future + Send>(_: &F) {}

/// An event that is neither `Unpin` nor comparable: the bounds of the bus ask for neither.
#[derive(Clone)]
#[allow(dead_code)] // the field is there for its type alone
struct Pinned(std::marker::PhantomPinned);

#[test]
fn handles_move_between_threads_and_can_be_shared() {
    is_open::<Bus>();
    is_open::<BusConfig>();
    is_open::<Topic<Pinned>>();
    is_open::<Subscriber<Pinned>>();
    is_open::<SubscriberStream<Pinned>>();
    is_open::<Delivery<u8>>();
    is_open::<Tail>();
    is_open::<TopicStats>();
    is_open::<(Class, Interest, Policy, Overflow<Pinned>)>();
}

#[test]
fn errors_are_errors_for_every_event_type() {
    is_error::<BusError>();
    is_error::<TopicError>();
    is_error::<SubscribeError>();
    is_error::<RecvError>();
    is_error::<TailError>();
    is_error::<PublishError<Pinned>>();
}

#[test]
fn receives_and_waits_can_be_spawned_on_any_executor() {
    let bus = Bus::new(BusConfig::default()).unwrap();
    let topic = bus.topic::<Pinned>("t").unwrap();
    let mut reader = topic.subscribe().unwrap();
    is_send(&reader.recv());
    is_send(&topic.publish_wait(Pinned(std::marker::PhantomPinned)));
    let mut out = Vec::new();
    is_send(&reader.recv_many(&mut out, 1));
    is_send(&reader.recv_timeout(std::time::Duration::ZERO));
    is_send(&bus.tail("t.x").unwrap().next());
}
