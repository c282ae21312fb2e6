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
use crate::channel::{Channel, Receiver, Verdict};
use crate::config::{checked_name, NameError};
use crate::readers::ReaderSpec;

/// Which of a topic's two sequences an event belongs to. Complete: a topic has two lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// [`publish`](crate::Topic::publish): as many slots as the topic's capacity.
    Data,
    /// [`publish_control`](crate::Topic::publish_control) and [`publish_last`](crate::Topic::publish_last): 16 slots
    /// of its own, read first.
    Control,
}

/// What happens to a reader that has not read an event when its slot is needed. The publisher never waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Overflow {
    /// The oldest unread events are lost; the reader is told which ones and goes on with the oldest retained.
    #[default]
    DropOldest,
    /// The reader is cut off: all its unread events are lost, and from then on every receive returns
    /// [`RecvError::Disconnected`]. For readers to which a stream with a hole is useless.
    Disconnect,
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
    /// The event.
    pub event: E,
}

/// A run of events of one lane that a reader missed. Both ends belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Gap {
    /// The lane.
    pub lane: Lane,
    /// Sequence number of the oldest event missed.
    pub first_missed: u64,
    /// Sequence number of the newest event missed.
    pub last_missed: u64,
}

impl Gap {
    /// How many events were missed, at least 1.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.last_missed - self.first_missed + 1
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
    overflow: Overflow,
    start: Start,
    filter: Option<Filter<E>>,
}

impl<'a, E: Clone + Send + Sync + 'static> SubscriberBuilder<'a, E> {
    pub(crate) fn new(channel: &'a Arc<Channel<E>>) -> Self {
        Self {
            channel,
            name: "anonymous".to_owned(),
            overflow: Overflow::default(),
            start: Start::default(),
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
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = overflow;
        self
    }

    /// Sets where the reader begins; default [`Start::Live`].
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// Skips events for which `wanted` returns `false`; default none. A second call replaces the first.
    ///
    /// It runs in the reader, before the clone, on both lanes, except for the last event of a sealed topic, which
    /// nobody can filter out. Skipped events count as `filtered`, and they still wake the reader.
    pub fn filter(mut self, wanted: impl Fn(&E) -> bool + Send + Sync + 'static) -> Self {
        self.filter = Some(Box::new(wanted));
        self
    }

    /// Connects the reader. From here on every event is offered to it.
    ///
    /// # Errors
    ///
    /// The name is invalid, the topic has too many readers, or it is closed.
    pub fn build(self) -> Result<Subscriber<E>, SubscribeError> {
        checked_name(&self.name)?;
        let spec = ReaderSpec {
            name: self.name.as_str().into(),
            overflow: self.overflow,
            start: self.start,
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
        self.receiver.try_next(|lane, node, is_last| {
            let wanted = is_last || filter.map_or(true, |f| f(&node.event));
            wanted.then(|| Delivery {
                seq: node.seq,
                lane,
                event: node.event.clone(),
            })
        })
    }

    /// Waits for at least one event, then appends all that wait, at most `max`, to `out`; returns how many.
    ///
    /// A batch ends before a gap and after 256 events, so it may be smaller than what waits. `max` = 0 returns 0 at
    /// once. Far cheaper per event than [`recv`](Self::recv), as the topic is locked per batch.
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
            receiver.poll_many(cx, max, |lane, node, is_last| {
                if !is_last && !filter.map_or(true, |f| f(&node.event)) {
                    drop(node);
                    return Verdict::Filtered;
                }
                let delivery = Delivery {
                    seq: node.seq,
                    lane,
                    event: node.event.clone(),
                };
                drop(node);
                out.push(delivery);
                Verdict::Delivered
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
        self.receiver.poll_next(cx, |lane, node, is_last| {
            let wanted = is_last || filter.map_or(true, |f| f(&node.event));
            wanted.then(|| Delivery {
                seq: node.seq,
                lane,
                event: node.event.clone(),
            })
        })
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
