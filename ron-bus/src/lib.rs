//! Bounded in-process broadcast with typed topics that counts every loss.
#![forbid(unsafe_code)]

mod account;
mod bus;
mod channel;
mod config;
mod readers;
mod ring;
mod subscriber;
mod tail;
mod timestamp;
mod topic;

pub use account::{Account, Lost, NameStats, ReaderStats, TopicState, TopicStats};
pub use bus::{Bus, Json, Plain, TopicSpec};
pub use config::{BusConfig, BusError, NameError};
pub use subscriber::{
    Delivery, Gap, Lane, Overflow, RecvError, Start, SubscribeError, Subscriber, SubscriberBuilder,
    SubscriberStream,
};
pub use tail::{Tail, TailError, TailLine};
pub use topic::{
    PublishError, PublishManyError, Published, PublishedMany, Refusal, Topic, TopicError,
};
