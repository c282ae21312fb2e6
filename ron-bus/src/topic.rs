//! `Topic`: the publishing end, shared by everyone who publishes.

use std::fmt;
use std::mem::needs_drop;
use std::sync::Arc;

use thiserror::Error;

use crate::account::TopicStats;
use crate::channel::{drop_each, Channel, BATCH};
use crate::config::{BusError, NameError};
use crate::offering::Offering;
use crate::subscriber::{SubscribeError, Subscriber, SubscriberBuilder};

/// A named broadcast of events of one type. Cheap to clone; from [`Bus::topic`](crate::Bus::topic).
///
/// The topic closes by itself once no `Topic` and no [`Bus`](crate::Bus) is left that could publish to it.
pub struct Topic<E> {
    owner: Arc<Owner<E>>,
}

/// What publishers share; the last one to go closes the channel.
pub(crate) struct Owner<E> {
    pub(crate) channel: Arc<Channel<E>>,
}

impl<E> Drop for Owner<E> {
    fn drop(&mut self) {
        self.channel.close();
    }
}

impl<E: Clone + Send + Sync + 'static> Topic<E> {
    pub(crate) fn new(owner: Arc<Owner<E>>) -> Self {
        Self { owner }
    }

    /// Publishes on the data lane. Never waits, also with slow readers or none.
    ///
    /// # Errors
    ///
    /// The topic is sealed or closed; the event comes back.
    ///
    /// # Ordering
    ///
    /// Every reader sees the events of a lane in the order of their sequence numbers, so those of one publisher in
    /// the order in which it published them.
    ///
    /// # Panics
    ///
    /// If the `Drop` of the event that this one displaces panics; this one is published all the same.
    ///
    /// # Examples
    ///
    /// ```
    /// # use ron_bus::{Bus, BusConfig};
    /// # let bus = Bus::new(BusConfig::default())?;
    /// let orders = bus.topic::<String>("orders")?;
    /// let mut reader = orders.subscribe()?;
    /// let published = orders.publish("42 bolts".to_owned())?;
    /// assert_eq!((published.seq, published.readers), (1, 1));
    /// assert_eq!(reader.try_recv()?.map(|d| d.event), Some("42 bolts".to_owned()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn publish(&self, event: E) -> Result<Published, PublishError<E>> {
        let published = self.owner.channel.publish(event);
        published.map_err(|(event, refusal)| self.refused(event, refusal))
    }

    /// Publishes on the control lane, which readers look at first and which data cannot displace.
    ///
    /// A reader holds 16 unread control events: of more it loses the oldest, or is cut off if that is its policy.
    ///
    /// # Errors
    ///
    /// As [`publish`](Self::publish).
    ///
    /// # Panics
    ///
    /// As [`publish`](Self::publish).
    pub fn publish_control(&self, event: E) -> Result<Published, PublishError<E>> {
        let published = self.owner.channel.publish_control(None, event);
        published.map_err(|(event, refusal)| self.refused(event, refusal))
    }

    /// Publishes on the control lane an event that may stand for earlier ones of its key.
    ///
    /// A reader that has 16 unread control events loses none to it if one of them has the same key: the oldest such
    /// event goes, and [`Delivery::conflated`](crate::Delivery::conflated) of this one counts it. So a thing that
    /// repeats itself, such as one service's crashes, does not push out what others have to say.
    ///
    /// # Errors
    ///
    /// As [`publish`](Self::publish).
    ///
    /// # Panics
    ///
    /// As [`publish`](Self::publish).
    pub fn publish_control_keyed(&self, key: u64, event: E) -> Result<Published, PublishError<E>> {
        let published = self.owner.channel.publish_control(Some(key), event);
        published.map_err(|(event, refusal)| self.refused(event, refusal))
    }

    /// Publishes the last event of the topic on the control lane and seals the topic.
    ///
    /// The event has a slot to itself, so every reader that is connected receives it, however slow, and so does
    /// everyone who subscribes before the topic is closed. It is the last thing published on either lane; data that
    /// already lies there stays readable, and a reader that has read everything gets
    /// [`Closed`](crate::RecvError::Closed).
    ///
    /// # Errors
    ///
    /// The topic is already sealed or closed; the event comes back.
    pub fn publish_last(&self, event: E) -> Result<Published, PublishError<E>> {
        let published = self.owner.channel.publish_last(event);
        published.map_err(|(event, refusal)| self.refused(event, refusal))
    }

    /// Publishes events on the data lane, locking the topic once per 16 of them.
    ///
    /// The iterator runs outside the lock. Events of other publishers may come between two groups of 16.
    ///
    /// # Errors
    ///
    /// The topic is sealed or closed. The error has the events that were taken from the iterator and not published
    /// (at most 16); pass `&mut iterator` to keep the rest.
    ///
    /// # Panics
    ///
    /// If the `Drop` of displaced events panics, once per 16 events; and if the iterator does. Events it gave before may
    /// then be unpublished, at most 15.
    pub fn publish_many(
        &self,
        events: impl IntoIterator<Item = E>,
    ) -> Result<PublishedMany, PublishManyError<E>> {
        let channel = &*self.owner.channel;
        let mut events = events.into_iter().fuse();
        let mut parcels = [const { None }; BATCH];
        let mut done = PublishedMany {
            count: 0,
            last_seq: None,
            readers: 0,
        };
        loop {
            let mut filled = 0;
            for (parcel, event) in parcels.iter_mut().zip(&mut events) {
                *parcel = Some(event);
                filled += 1;
            }
            if filled == 0 {
                return Ok(done);
            }
            let batch = channel.publish_all(&mut parcels[..filled], channel.stamp_ms());
            done.count += batch.count;
            if let Some(published) = batch.last {
                done.last_seq = Some(published.seq);
                done.readers = published.readers;
            }
            let rest = parcels[..filled].iter_mut().filter_map(Option::take);
            if let Some(refusal) = batch.refusal {
                return Err(PublishManyError {
                    unsent: rest.collect(),
                    published: done,
                    topic: Arc::clone(&channel.fixed.name),
                    refusal,
                });
            }
            if needs_drop::<E>() {
                drop_each(rest);
            }
            if filled < BATCH {
                return Ok(done);
            }
        }
    }

    /// Publishes on the data lane once every [`Block`](crate::Overflow::Block) reader that wants the event has room
    /// for it or has used up its deadline. Without such readers it does not wait.
    ///
    /// The event is published to all readers at the end of the wait. Publishers that wait are woken in the order in
    /// which they began to; others who publish, or begin to wait when there is room, may come between. It returns within a tick of the runtime's
    /// timer, 1 ms, of the last deadline.
    ///
    /// # Errors
    ///
    /// The topic is sealed or closed, now or while it waits; the event comes back.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future before it is ready publishes nothing, and the event is dropped with it.
    ///
    /// # Panics
    ///
    /// As [`publish`](Self::publish), and if it has to wait outside a tokio runtime with its timer enabled.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use ron_bus::{Bus, BusConfig, Overflow, RecvError};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let bus = Bus::new(BusConfig::default())?;
    /// let topic = bus.topic_spec("jobs").capacity(2).open::<u32>()?;
    /// let deadline = Duration::from_millis(50);
    /// let mut worker = topic.subscriber().overflow(Overflow::Block { deadline }).build()?;
    ///
    /// topic.publish_many([1, 2])?;
    /// topic.publish_wait(3).await?; // 50 ms later, and without the worker
    /// assert_eq!(worker.account().lost.block_deadline, 1);
    /// assert_eq!(worker.recv().await?.event, 1);
    /// topic.publish_wait(4).await?; // at once
    /// assert_eq!(worker.recv().await?.event, 2);
    /// assert!(matches!(worker.recv().await, Err(RecvError::Lagged(gap)) if gap.first_missed == 3));
    /// assert_eq!(worker.recv().await?.event, 4);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn publish_wait(&self, event: E) -> Result<Published, PublishError<E>> {
        let channel = &*self.owner.channel;
        let class = channel.class_of(&event);
        let offering = Offering::new(channel, event, class);
        let published = offering.publish_when_allowed().await;
        published.map_err(|(event, refusal)| self.refused(event, refusal))
    }

    /// Connects a reader with the default options: live, dropping the oldest when it is too slow, unfiltered.
    ///
    /// # Errors
    ///
    /// As [`SubscriberBuilder::build`].
    pub fn subscribe(&self) -> Result<Subscriber<E>, SubscribeError> {
        self.subscriber().build()
    }

    /// Starts a reader with options.
    pub fn subscriber(&self) -> SubscriberBuilder<'_, E> {
        SubscriberBuilder::new(&self.owner.channel)
    }

    /// Lets nothing more be published. Readers read what lies there, then get
    /// [`Closed`](crate::RecvError::Closed). Does nothing the second time.
    pub fn close(&self) {
        self.owner.channel.close();
    }

    /// How far the slowest reader is behind, in events it wants of both lanes; 0 without readers.
    ///
    /// Looks at every reader, under the topic's lock, and allocates nothing.
    #[must_use]
    pub fn queue_depth(&self) -> u64 {
        self.owner.channel.queue_depth()
    }

    /// The topic at this instant.
    #[must_use]
    pub fn stats(&self) -> TopicStats {
        self.owner.channel.stats()
    }

    fn refused(&self, event: E, refusal: Refusal) -> PublishError<E> {
        PublishError {
            event,
            topic: Arc::clone(&self.owner.channel.fixed.name),
            refusal,
        }
    }
}

impl<E> Topic<E> {
    /// The topic's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.owner.channel.fixed.name
    }

    /// How many events the data lane keeps: exactly the number asked for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.owner.channel.fixed.capacity
    }
}

impl<E> Clone for Topic<E> {
    fn clone(&self) -> Self {
        Self {
            owner: Arc::clone(&self.owner),
        }
    }
}

impl<E> fmt::Debug for Topic<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topic")
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}

/// Where an event went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// Its sequence number in its lane, from 1.
    pub seq: u64,
    /// How many readers it was offered to, tails included. 0 is not an error: retained events can be read later.
    pub readers: usize,
}

/// Where the events of a batch went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PublishedMany {
    /// How many were published.
    pub count: u64,
    /// Sequence number of the last one; `None` if there was none.
    pub last_seq: Option<u64>,
    /// How many readers the last one was offered to.
    pub readers: usize,
}

/// Why a topic took no event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// [`Topic::publish_last`] was called.
    Sealed,
    /// The topic or its bus was closed.
    Closed,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sealed => "sealed by its last event",
            Self::Closed => "closed",
        })
    }
}

/// An event that was not published, given back.
#[non_exhaustive]
pub struct PublishError<E> {
    /// The event.
    pub event: E,
    /// The topic that refused it.
    pub topic: Arc<str>,
    /// Why.
    pub refusal: Refusal,
}

impl<E> fmt::Debug for PublishError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishError")
            .field("topic", &self.topic)
            .field("refusal", &self.refusal)
            .finish_non_exhaustive()
    }
}

impl<E> fmt::Display for PublishError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "event not published: topic {} is {}",
            self.topic, self.refusal
        )
    }
}

impl<E> std::error::Error for PublishError<E> {}

/// A batch that was published in part or not at all.
#[non_exhaustive]
pub struct PublishManyError<E> {
    /// Events taken from the iterator and not published, in order; at most 16.
    pub unsent: Vec<E>,
    /// What was published before.
    pub published: PublishedMany,
    /// The topic that refused the rest.
    pub topic: Arc<str>,
    /// Why.
    pub refusal: Refusal,
}

impl<E> fmt::Debug for PublishManyError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishManyError")
            .field("unsent", &self.unsent.len())
            .field("published", &self.published)
            .field("topic", &self.topic)
            .field("refusal", &self.refusal)
            .finish()
    }
}

impl<E> fmt::Display for PublishManyError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (done, topic, refusal) = (self.published.count, &self.topic, self.refusal);
        write!(
            f,
            "batch not published beyond its first {done} events: topic {topic} is {refusal}"
        )
    }
}

impl<E> std::error::Error for PublishManyError<E> {}

/// Why a topic was not opened.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TopicError {
    /// The name breaks the grammar. The caller's mistake.
    #[error("topic not opened")]
    Name(#[from] NameError),
    /// The capacity asked for is out of range. The caller's mistake.
    #[error("topic {topic} not opened")]
    Capacity {
        /// The topic.
        topic: String,
        /// The range.
        #[source]
        source: BusError,
    },
    /// The topic exists with events of another type.
    #[error("topic {topic} carries {existing}, was opened for {requested}")]
    TypeMismatch {
        /// The topic.
        topic: String,
        /// The type it carries.
        existing: &'static str,
        /// The type asked for.
        requested: &'static str,
    },
    /// The topic exists with another capacity.
    #[error("topic {topic} holds {existing} events, was opened for {requested}; open it with its capacity first")]
    CapacityMismatch {
        /// The topic.
        topic: String,
        /// Its capacity.
        existing: usize,
        /// The capacity asked for.
        requested: usize,
    },
    /// The topic exists without the encoder asked for.
    #[error("topic {topic} has no encoder, was opened for json; open it with `.json()` first")]
    EncoderMismatch {
        /// The topic.
        topic: String,
    },
    /// The bus has as many topics as [`BusConfig::max_topics`](crate::BusConfig::max_topics) allows.
    #[error("topic {topic} not opened: the bus already has {limit} topics; raise max_topics")]
    TooMany {
        /// The topic.
        topic: String,
        /// The limit in force.
        limit: usize,
    },
    /// The bus is closed.
    #[error("topic {topic} not opened: the bus is closed")]
    Closed {
        /// The topic.
        topic: String,
    },
}
