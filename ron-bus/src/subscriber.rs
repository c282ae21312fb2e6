//! `Subscriber`: one reader of one topic.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use thiserror::Error;

use crate::account::Account;
use crate::channel::Channel;
use crate::config::{checked_name, NameError, KEYS_MAX};
use crate::interest::{Classify, Interest, Selection};
use crate::receiver::{Connect, Item, Receiver};

/// Which of a topic's two sequences an event belongs to. Complete: a topic has two lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// [`publish`](crate::Topic::publish): as many slots as the topic's capacity.
    Data,
    /// [`publish_control`](crate::Topic::publish_control) and [`publish_last`](crate::Topic::publish_last): 16 slots
    /// of its own, read first.
    Control,
}

/// What happens to a reader that is too slow for the data lane. [`publish`](crate::Topic::publish) waits for nobody.
///
/// *Cursor* readers, the first two, read the topic's ring and cost the publisher nothing. *Queued* readers, the last
/// two, have a buffer of their own, into which the publisher puts a copy of each event: that costs it one
/// `Clone` and about as much as a publish once more for each such reader, and batches are published event by event.
/// Where queued readers come all the time, faster than copies can be made, one may lose its first event as if it had
/// no room.
#[derive(Default)]
#[non_exhaustive]
pub enum Overflow<E> {
    /// The oldest unread events are lost; the reader is told which ones and goes on with the oldest retained.
    #[default]
    DropOldest,
    /// The reader is cut off: all its unread events are lost, and from then on every receive returns
    /// [`RecvError::Disconnected`]. For readers to which a stream with a hole is useless.
    Disconnect,
    /// The newest events are lost while the reader's buffer, as long as the topic's capacity, is full;
    /// [`publish_wait`](crate::Topic::publish_wait) gives it time to make room.
    Block {
        /// How long `publish_wait` waits for this reader, from its call on; zero to [`Duration::MAX`], which is for
        /// ever.
        deadline: Duration,
    },
    /// A new event replaces the unread one of the same key; the reader sees in
    /// [`conflated`](Delivery::conflated) how many it stands for.
    ///
    /// The reader takes the newest event of every key as one sweep, reads that in order, and then takes the next
    /// sweep. So sequence numbers never go back and a key that changes all the time is not starved by others; in
    /// return an event may be read while its successor already waits for the next sweep.
    Conflate {
        /// The key of an event. The publisher calls it, outside all locks.
        key: fn(&E) -> u64,
        /// Keys that may wait for the next sweep, 1 to 1,048,576; events of more keys are lost until it is taken.
        max_keys: usize,
    },
}

impl<E> Overflow<E> {
    pub(crate) fn policy(&self) -> Policy {
        match self {
            Self::DropOldest => Policy::DropOldest,
            Self::Disconnect => Policy::Disconnect,
            Self::Block { .. } => Policy::Block,
            Self::Conflate { .. } => Policy::Conflate,
        }
    }
}

impl<E> Clone for Overflow<E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E> Copy for Overflow<E> {}

impl<E> fmt::Debug for Overflow<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DropOldest => f.write_str("DropOldest"),
            Self::Disconnect => f.write_str("Disconnect"),
            Self::Block { deadline } => {
                f.debug_struct("Block").field("deadline", deadline).finish()
            }
            Self::Conflate { key: _, max_keys } => f
                .debug_struct("Conflate")
                .field("max_keys", max_keys)
                .finish_non_exhaustive(),
        }
    }
}

/// Which [`Overflow`] a reader was built with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Policy {
    /// [`Overflow::DropOldest`].
    DropOldest,
    /// [`Overflow::Disconnect`].
    Disconnect,
    /// [`Overflow::Block`].
    Block,
    /// [`Overflow::Conflate`].
    Conflate,
}

/// Where in the data lane a new reader begins. In the control lane every reader begins with the next event, and the
/// last event of a sealed topic is always among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Start {
    /// With the next event published.
    #[default]
    Live,
    /// With the newest `n` events that the ring still holds, or all of them if there are fewer.
    Retained(usize),
}

/// An event as a reader receives it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivery<E> {
    /// Sequence number within the lane, from 1.
    pub seq: u64,
    /// The lane.
    pub lane: Lane,
    /// How many earlier events of the same key, which the reader had not read, this one stands for. Not 0 only with
    /// [`Overflow::Conflate`] and [`publish_control_keyed`](crate::Topic::publish_control_keyed).
    pub conflated: u64,
    /// The event.
    pub event: E,
}

/// Events of one lane that a reader missed. Both ends belong to the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Gap {
    /// The lane.
    pub lane: Lane,
    /// Sequence number of the oldest event missed.
    pub first_missed: u64,
    /// Sequence number of the newest event missed.
    pub last_missed: u64,
    pub(crate) missed: u64,
}

impl Gap {
    /// How many events were missed, at least 1.
    ///
    /// Less than the length of the run if some in it were no loss: not of the reader's interest, or conflated.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lane = match self.lane {
            Lane::Data => "data",
            Lane::Control => "control",
        };
        write!(
            f,
            "{} events, {lane} lane {}..={}",
            self.missed(),
            self.first_missed,
            self.last_missed
        )
    }
}

/// Why a receive handed over no event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RecvError {
    /// The reader was too slow and lost these events. The next receive goes on behind them.
    #[error("reader lagged and missed {0}; read faster or give the topic more capacity")]
    Lagged(Gap),
    /// The reader was too slow and its policy is [`Overflow::Disconnect`]. Final.
    ///
    /// The gap is that of the lane that overflowed, as far as it was unread then; unread events of the other lane are
    /// lost too and are in the reader's [`account`](Subscriber::account).
    #[error("reader was disconnected because it missed {0}; subscribe again to go on")]
    Disconnected(Gap),
    /// Everything was read and nothing will follow: the topic is closed or sealed. Final.
    #[error("topic is closed and has been read to its end")]
    Closed,
}

/// Why a reader was not connected.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The reader's name breaks the grammar. The caller's mistake.
    #[error("reader not connected")]
    Name(#[from] NameError),
    /// The topic has as many readers as [`BusConfig::max_readers`](crate::BusConfig::max_readers) allows.
    #[error("topic {topic} already has {limit} readers; drop one or raise max_readers")]
    TooMany {
        /// The topic.
        topic: Arc<str>,
        /// The limit in force.
        limit: usize,
    },
    /// [`Overflow::Conflate`] with too few or too many keys. The caller's mistake.
    #[error("reader may hold {got} keys, must be 1 to {KEYS_MAX}")]
    MaxKeys {
        /// What was asked for.
        got: usize,
    },
    /// The topic is closed. A sealed topic still takes readers, who find its last event.
    #[error("topic {topic} is closed and takes no readers")]
    Closed {
        /// The topic.
        topic: Arc<str>,
    },
}

type Filter<E> = Box<dyn Fn(&E) -> bool + Send + Sync>;

/// Options of a reader; from [`Topic::subscriber`](crate::Topic::subscriber).
#[must_use = "a builder does nothing until `build` is called"]
pub struct SubscriberBuilder<'a, E> {
    channel: &'a Arc<Channel<E>>,
    name: String,
    overflow: Overflow<E>,
    start: Start,
    interest: Option<Selection<E>>,
    filter: Option<Filter<E>>,
}

impl<'a, E: Clone + Send + Sync + 'static> SubscriberBuilder<'a, E> {
    pub(crate) fn new(channel: &'a Arc<Channel<E>>) -> Self {
        Self {
            channel,
            name: "anonymous".to_owned(),
            overflow: Overflow::default(),
            start: Start::default(),
            interest: None,
            filter: None,
        }
    }

    /// Names the reader in accounts and metrics; default `anonymous`. Readers of one name share a row of
    /// [`by_name`](crate::TopicStats::by_name), so a name should outlive restarts and not carry a counter.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets what happens when the reader is too slow; default [`Overflow::DropOldest`].
    pub fn overflow(mut self, overflow: Overflow<E>) -> Self {
        self.overflow = overflow;
        self
    }

    /// Sets where the reader begins; default [`Start::Live`].
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// Offers the reader only events of these classes, on both lanes; default all. A second call replaces the first.
    ///
    /// Others count as `filtered` when they are published, do not wake the reader, take no room in its buffer, and are
    /// no loss when they are overwritten. The last event of a sealed topic is always offered.
    ///
    /// ```
    /// use ron_bus::{Bus, BusConfig, Class, Classify};
    ///
    /// #[derive(Clone)]
    /// enum Order { Placed(u32), Cancelled(u32) }
    /// const CANCELLED: Class = Class::at::<1>();
    /// impl Classify for Order {
    ///     fn class(&self) -> Class {
    ///         match self {
    ///             Self::Placed(_) => Class::at::<0>(),
    ///             Self::Cancelled(_) => CANCELLED,
    ///         }
    ///     }
    /// }
    /// # let bus = Bus::new(BusConfig::default())?;
    /// let orders = bus.topic::<Order>("orders")?;
    /// let mut refunds = orders.subscriber().interest(CANCELLED).build()?;
    /// orders.publish_many([Order::Placed(1), Order::Placed(2), Order::Cancelled(1)])?;
    /// assert_eq!(refunds.try_recv()?.map(|d| d.seq), Some(3));
    /// assert_eq!(refunds.account().filtered, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn interest(mut self, classes: impl Into<Interest>) -> Self
    where
        E: Classify,
    {
        self.interest = Some((classes.into(), E::class));
        self
    }

    /// Skips events for which `wanted` returns `false`; default none. A second call replaces the first.
    ///
    /// It runs in the reader, before the clone, on both lanes, except for the last event of a sealed topic, which
    /// nobody can filter out. Skipped events count as `filtered`; they still wake the reader, and one that is
    /// overwritten unread counts as lost. Where a class will do, [`interest`](Self::interest) is cheaper and exact.
    pub fn filter(mut self, wanted: impl Fn(&E) -> bool + Send + Sync + 'static) -> Self {
        self.filter = Some(Box::new(wanted));
        self
    }

    /// Connects the reader. From here on every event is offered to it.
    ///
    /// # Errors
    ///
    /// The name or the number of keys is invalid, the topic has too many readers, or it is closed.
    pub fn build(self) -> Result<Subscriber<E>, SubscribeError> {
        checked_name(&self.name)?;
        if let Overflow::Conflate { max_keys: got, .. } = self.overflow {
            if !(1..=KEYS_MAX).contains(&got) {
                return Err(SubscribeError::MaxKeys { got });
            }
        }
        let spec = Connect {
            name: self.name.as_str().into(),
            overflow: self.overflow,
            start: self.start,
            interest: self.interest,
            filters: self.filter.is_some(),
            unlimited: false,
        };
        let receiver = Receiver::connect(self.channel, spec)?;
        Ok(Subscriber {
            receiver,
            filter: self.filter,
        })
    }
}

impl<E> fmt::Debug for SubscriberBuilder<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubscriberBuilder")
            .field("topic", &self.channel.fixed.name)
            .field("name", &self.name)
            .field("overflow", &self.overflow)
            .field("start", &self.start)
            .field("interest", &self.interest.map(|(interest, _)| interest))
            .field("filter", &self.filter.is_some())
            .finish()
    }
}

/// One reader of one topic. Not `Clone`: every task that reads subscribes for itself.
///
/// Every receive looks at the control lane first, then at the last event of a sealed topic, then at the data lane. The
/// receives work on any executor; only [`recv_timeout`](Self::recv_timeout) needs tokio.
///
/// Dropping it takes it off the topic; what it had not read counts as `abandoned`.
pub struct Subscriber<E> {
    receiver: Receiver<E>,
    filter: Option<Filter<E>>,
}

impl<E: Clone + Send + Sync + 'static> Subscriber<E> {
    /// Waits for the next event.
    ///
    /// # Errors
    ///
    /// [`RecvError::Lagged`] in place of the events that were lost, then it goes on; [`RecvError::Disconnected`] and
    /// [`RecvError::Closed`] for good.
    ///
    /// # Cancel safety
    ///
    /// An event is taken only when the future returns it, so dropping the future loses nothing.
    ///
    /// # Panics
    ///
    /// If `E::clone` or the filter panics. That event counts as `panicked`, the reader stays usable.
    ///
    /// # Examples
    ///
    /// ```
    /// # use ron_bus::{Bus, BusConfig, RecvError};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let bus = Bus::new(BusConfig::default())?;
    /// let topic = bus.topic_spec("ticks").capacity(2).open::<u32>()?;
    /// let mut reader = topic.subscribe()?;
    /// topic.publish_many([1, 2, 3])?;
    ///
    /// let Err(RecvError::Lagged(gap)) = reader.recv().await else { panic!("the ring holds only two") };
    /// assert_eq!((gap.first_missed, gap.last_missed), (1, 1));
    /// assert_eq!(reader.recv().await?.event, 2);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn recv(&mut self) -> Result<Delivery<E>, RecvError> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Takes the next event if there is one; `Ok(None)` when the reader is up to date.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    ///
    /// # Panics
    ///
    /// As [`recv`](Self::recv).
    pub fn try_recv(&mut self) -> Result<Option<Delivery<E>>, RecvError> {
        let filter = self.filter.as_deref();
        self.receiver.try_next(|item| delivery(filter, item))
    }

    /// Waits for at least one event, then appends all that wait, at most `max`, to `out`; returns how many.
    ///
    /// A batch ends before a gap, so it may be smaller than what waits. `max` = 0 returns 0 at once. Cheaper per event
    /// than [`recv`](Self::recv), as positions are stored and memory barriers issued per batch.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv); then nothing was appended.
    ///
    /// # Cancel safety
    ///
    /// Events are taken and appended in the same poll, so dropping the future loses nothing.
    ///
    /// # Panics
    ///
    /// As [`recv`](Self::recv). Events before the one that panicked stay in `out`, those behind it wait.
    pub async fn recv_many(
        &mut self,
        out: &mut Vec<Delivery<E>>,
        max: usize,
    ) -> Result<usize, RecvError> {
        if max == 0 {
            return Ok(0);
        }
        let filter = self.filter.as_deref();
        let receiver = &mut self.receiver;
        poll_fn(|cx| {
            receiver.poll_many(cx, max, |item| match delivery(filter, item) {
                Some(delivery) => {
                    out.push(delivery);
                    true
                }
                None => false,
            })
        })
        .await
    }

    /// Waits for the next event, but no longer than `timeout`; `Ok(None)` when the time is up.
    ///
    /// An event that already waits is returned even if `timeout` is zero.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    ///
    /// # Cancel safety
    ///
    /// As [`recv`](Self::recv).
    ///
    /// # Panics
    ///
    /// As [`recv`](Self::recv), and outside a tokio runtime with its timer enabled.
    pub async fn recv_timeout(
        &mut self,
        timeout: Duration,
    ) -> Result<Option<Delivery<E>>, RecvError> {
        match tokio::time::timeout(timeout, self.recv()).await {
            Ok(received) => received.map(Some),
            Err(_elapsed) => Ok(None),
        }
    }

    /// Turns the reader into a stream of the same results.
    ///
    /// Gaps are items of the stream: `Err(Lagged(..))`. After `Err(Disconnected(..))`, and when the topic is closed
    /// and read, the stream ends.
    pub fn into_stream(self) -> SubscriberStream<E> {
        SubscriberStream {
            subscriber: Some(self),
        }
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Delivery<E>, RecvError>> {
        let filter = self.filter.as_deref();
        self.receiver.poll_next(cx, |item| delivery(filter, item))
    }
}

impl<E> Subscriber<E> {
    /// The topic's name.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.receiver.channel.fixed.name
    }

    /// What this reader was offered so far and what became of it.
    #[must_use]
    pub fn account(&self) -> Account {
        self.receiver.account()
    }
}

impl<E> fmt::Debug for Subscriber<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber")
            .field("topic", &self.topic())
            .finish_non_exhaustive()
    }
}

#[inline]
fn delivery<E: Clone>(
    filter: Option<&(dyn Fn(&E) -> bool + Send + Sync)>,
    item: Item<'_, E>,
) -> Option<Delivery<E>> {
    match filter {
        Some(wanted) if !item.is_last && !wanted(item.event.get()) => None,
        _ => Some(Delivery {
            seq: item.seq,
            lane: item.lane,
            conflated: item.conflated,
            event: item.event.into_owned(),
        }),
    }
}

/// A [`Subscriber`] as a stream; from [`Subscriber::into_stream`].
#[must_use = "streams do nothing unless polled"]
pub struct SubscriberStream<E> {
    /// Gone once the stream has ended.
    subscriber: Option<Subscriber<E>>,
}

impl<E: Clone + Send + Sync + 'static> Stream for SubscriberStream<E> {
    type Item = Result<Delivery<E>, RecvError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(subscriber) = self.subscriber.as_mut() else {
            return Poll::Ready(None);
        };
        match subscriber.poll_recv(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(RecvError::Closed)) => {
                self.subscriber = None;
                Poll::Ready(None)
            }
            Poll::Ready(Err(end @ RecvError::Disconnected(_))) => {
                self.subscriber = None;
                Poll::Ready(Some(Err(end)))
            }
            Poll::Ready(item) => Poll::Ready(Some(item)),
        }
    }
}

impl<E> Unpin for SubscriberStream<E> {}

impl<E> fmt::Debug for SubscriberStream<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubscriberStream")
            .field("subscriber", &self.subscriber)
            .finish()
    }
}
