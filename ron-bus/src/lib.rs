//! Bounded in-process broadcast with typed topics that counts every loss.
//!
//! A [`Bus`] holds named [`Topic`]s. Every event published on a topic is offered to every [`Subscriber`] connected at
//! that moment. [`publish`](Topic::publish) never waits, memory is bounded at all times, and what a reader is too slow
//! for is lost to that reader alone, told to it and counted.
//!
//! ```
//! use ron_bus::{Bus, BusConfig, RecvError};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let bus = Bus::new(BusConfig::default())?;
//! let temperatures = bus.topic_spec("sensor.temperature").capacity(1024).open::<f32>()?;
//! let mut display = temperatures.subscriber().name("display").build()?;
//!
//! temperatures.publish(21.5)?;
//! temperatures.close();
//!
//! loop {
//!     match display.recv().await {
//!         Ok(delivery) => assert_eq!((delivery.seq, delivery.event), (1, 21.5)),
//!         Err(RecvError::Lagged(gap)) => eprintln!("skipped {} readings", gap.missed()),
//!         Err(_closed) => break,
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! It is not a broker: events live in this process and die with it. What must not be lost belongs into an outbox in a
//! database before it is announced here. It is not a work queue either: every reader gets every event.
//!
//! # Events
//!
//! An event is any `Clone + Send + Sync + 'static` value. The ring keeps one copy, every reader receives a clone, so
//! large payloads go as `Arc<T>`. Nothing of the user's runs under a lock: readers clone, filter and encode on their
//! own time, publishers drop what they displace and make the copies that queued readers get. An event whose `Clone` or
//! `Drop` is slow, panics or calls the bus slows or hits its own caller and nobody else.
//!
//! # Lanes
//!
//! A topic has two lanes. [`publish`](Topic::publish) uses the *data lane*, a ring of exactly the topic's capacity.
//! [`publish_control`](Topic::publish_control) uses the *control lane*, of which every reader holds 16 unread events
//! that data cannot displace and that every receive looks at first, so that a "stop" does not queue behind a full ring.
//! Events published with a [key](Topic::publish_control_keyed) conflate there before any other is lost.
//! [`publish_last`](Topic::publish_last) is the end of both: its event has a place of its own, reaches every connected
//! reader however slow, cannot be filtered out, waits for late subscribers too, and nothing can be published after it.
//!
//! # Ordering
//!
//! Each lane numbers its events from 1; the numbers never repeat or go back. All readers see a lane in the order of its
//! numbers, and the events of one publisher on one lane keep their order. Across lanes and across topics no order is
//! promised. (instance, epoch, topic, lane, sequence number) names an event for good; see [`Bus::epoch`].
//!
//! # Lagging
//!
//! A lane keeps its newest events. A reader that has not come to an event when its slot is needed has lost it. Its next
//! receive on that lane returns [`RecvError::Lagged`] with the first and last sequence number missed, once, in place of
//! those events, and the one after that goes on behind them. This also holds for batches, which end before a gap, and
//! for the stream, whose items are results.
//!
//! How a reader lags is its own choice:
//!
//! | policy | when it is too slow | for | cost to the publisher |
//! |---|---|---|---|
//! | [`DropOldest`](Overflow::DropOldest) | loses the oldest events, is told, goes on | displays, metrics, caches that refetch after a gap | none |
//! | [`Disconnect`](Overflow::Disconnect) | is cut off and gets [`RecvError::Disconnected`] for good | state machines, replication: whoever must start over after a hole | none |
//! | [`Block`](Overflow::Block) | loses the newest events, unless publishers wait for it with [`publish_wait`](Topic::publish_wait) | work that should rather slow its source, within a deadline | a copy per event |
//! | [`Conflate`](Overflow::Conflate) | gets the newest event of each key | prices, positions, states: whoever wants to know how things are, not how they came about | a copy and a look-up per event |
//!
//! A reader that lags now and then wants more [`capacity`](TopicSpec::capacity) or
//! [`recv_many`](Subscriber::recv_many); one that always lags wants a faster consumer, no capacity helps it. One that
//! needs few of a topic's events should say so with an [`interest`](SubscriberBuilder::interest): it is then woken for
//! those alone, and loses nothing when others are overwritten.
//!
//! # Accounts
//!
//! For every reader and at any instant, both lanes together:
//!
//! ```text
//! offered = delivered + filtered + conflated + pending
//!         + lost (lagged + disconnected + block_full + block_deadline + conflate_full + panicked + abandoned)
//! ```
//!
//! A loss is in the account the moment it happens, not when the reader notices. [`Topic::stats`] and [`Bus::topics`]
//! show the accounts of readers and, by name, of those that have left, so counters built on them never fall.
//!
//! ```
//! # use ron_bus::{Bus, BusConfig};
//! # let bus = Bus::new(BusConfig::default())?;
//! let topic = bus.topic_spec("t").capacity(2).open::<u8>()?;
//! let reader = topic.subscriber().name("slow").build()?;
//! topic.publish_many(0..10)?;
//! drop(reader);
//! let stats = topic.stats();
//! assert_eq!((stats.published(), stats.total.offered), (10, 10));
//! assert_eq!((stats.total.lost.lagged, stats.total.lost.abandoned), (8, 2));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Closing
//!
//! [`Topic::close`], [`Bus::close`], and the drop of the last handle that could publish close a topic. Publishing then
//! returns the event in [`PublishError`]. Readers read what is left, in both lanes, and then get
//! [`RecvError::Closed`] from every receive. A sealed topic ends the same way for each reader that has read it all.
//!
//! # Cancel safety
//!
//! [`recv`](Subscriber::recv), [`recv_many`](Subscriber::recv_many), [`recv_timeout`](Subscriber::recv_timeout),
//! [`Tail::next`] and the streams may be dropped at any await and lose nothing: an event is taken in the very poll that
//! returns it. A [`publish_wait`](Topic::publish_wait) that is dropped has published nothing. They register a waker and
//! need no particular executor, except that `recv_timeout`, and `publish_wait` when it has to wait, use tokio's timer.
//! They do not take part in tokio's cooperative budget: a loop over a reader that never runs dry should yield.
//!
//! # Cost
//!
//! Publishers of a topic share one mutex, held for a few instructions per event; batches
//! ([`publish_many`](Topic::publish_many)) take it once per 16 events. Readers with a cursor read without it: the ring
//! is made of blocks of up to 64 slots, a reader holds the one it reads from, and takes the mutex once per block, when
//! it has nothing to read and parks, and when there is news on the control lane. A receive costs one memory barrier,
//! which [`recv_many`](Subscriber::recv_many) shares among its events. Readers with an interest or a filter, and queued
//! ones, take the mutex per receive.
//!
//! Publishing costs nothing per cursor reader, except for one wake-up per reader that is parked and interested, and for
//! a look at every reader when the slowest [`Disconnect`](Overflow::Disconnect) reader is about to be overrun. A control
//! event costs a few instructions per reader.
//!
//! A block is allocated when the ring first reaches it and reused from then on; if some reader stalls while holding the
//! block whose turn it is, that one is set aside and another takes its place, at most one per reader. In steady state
//! neither publishing nor receiving allocates, also with readers that always lag, unless the event's own `Clone` does.
//! A slot's event is dropped when the slot is written again: less than a quarter of the capacity, at most 126 events, later
//! than it ceased to be readable, and at once in rings of fewer than 16; a block set aside keeps up to 64 until it is used
//! again.
//!
//! Topics, readers per topic, tails and names with counters of their own are bounded; see [`BusConfig`],
//! [`Bus::tail`] and [`TopicStats::by_name`].
#![deny(unsafe_code)]

// The README is compiled and run with the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod account;
mod bus;
mod channel;
mod config;
mod interest;
#[cfg(all(loom, test))]
mod interleavings;
mod offering;
mod queue;
mod readers;
mod receiver;
mod ring;
mod subscriber;
mod sync;
mod tail;
mod timestamp;
mod topic;
mod waiters;

pub use account::{Account, Lost, NameStats, ReaderStats, TopicState, TopicStats};
pub use bus::{Bus, Json, Plain, TopicSpec};
pub use config::{BusConfig, BusError, NameError};
pub use interest::{Class, Classify, Interest};
pub use subscriber::{
    Delivery, Gap, Lane, Overflow, Policy, RecvError, Start, SubscribeError, Subscriber,
    SubscriberBuilder, SubscriberStream,
};
pub use tail::{Tail, TailError, TailLine};
pub use timestamp::rfc3339;
pub use topic::{
    PublishError, PublishManyError, Published, PublishedMany, Refusal, Topic, TopicError,
};
