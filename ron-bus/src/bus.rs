//! `Bus`: the registry of topics, and how they are opened.

use std::any::{type_name, Any};
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use serde::Serialize;

use crate::account::TopicStats;
use crate::channel::{resume_unless_panicking, Channel, Encode, Fixed};
use crate::config::{capacity_in_range, checked_name, BusConfig, BusError, Identity, TAILS_MAX};
use crate::subscriber::Start;
use crate::tail::{Inbox, Lines, Pattern, Tail, TailError};
use crate::topic::{Owner, Topic, TopicError};

/// A set of named topics within one process. Cheap to clone; all clones are the same bus.
///
/// ```
/// use ron_bus::{Bus, BusConfig, RecvError};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let bus = Bus::new(BusConfig::default())?;
/// let orders = bus.topic::<&'static str>("orders")?;
/// let mut audit = orders.subscriber().name("audit").build()?;
///
/// orders.publish("bolts")?;
/// orders.publish_control("audit now")?;
/// bus.close();
///
/// assert_eq!(audit.recv().await?.event, "audit now");
/// assert_eq!(audit.recv().await?.event, "bolts");
/// assert_eq!(audit.recv().await.map(|d| d.event), Err(RecvError::Closed));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Bus {
    shared: Arc<Shared>,
}

struct Shared {
    config: BusConfig,
    identity: Arc<Identity>,
    registry: Mutex<Registry>,
}

#[derive(Default)]
struct Registry {
    topics: BTreeMap<Arc<str>, Entry>,
    /// Inboxes of tails, for topics that are opened later. Those of dropped tails are swept when the list is used.
    tails: Vec<(Pattern, Weak<Inbox>)>,
    closed: bool,
}

/// An open topic: as what it really is, and as what all topics are.
struct Entry {
    owner: Arc<dyn Any + Send + Sync>,
    topic: Arc<dyn AnyTopic>,
}

/// A topic without its event type.
trait AnyTopic: Send + Sync {
    fn type_name(&self) -> &'static str;
    fn capacity(&self) -> usize;
    fn is_json(&self) -> bool;
    fn stats(&self) -> TopicStats;
    fn close(&self);
    /// A reader that renders lines; `None` without encoder or when the topic is closed.
    fn lines(&self, start: Start) -> Option<Box<dyn Lines>>;
}

impl<E: Send + Sync + 'static> AnyTopic for Owner<E> {
    fn type_name(&self) -> &'static str {
        type_name::<E>()
    }

    fn capacity(&self) -> usize {
        self.channel.fixed.capacity
    }

    fn is_json(&self) -> bool {
        self.channel.fixed.encode.is_some()
    }

    fn stats(&self) -> TopicStats {
        self.channel.stats()
    }

    fn close(&self) {
        self.channel.close();
    }

    fn lines(&self, start: Start) -> Option<Box<dyn Lines>> {
        crate::tail::lines(&self.channel, start)
    }
}

impl Bus {
    /// Makes a bus without topics.
    ///
    /// # Errors
    ///
    /// A setting is out of its range.
    pub fn new(config: BusConfig) -> Result<Self, BusError> {
        let identity = Arc::new(config.identity()?);
        let registry = Mutex::default();
        Ok(Self {
            shared: Arc::new(Shared {
                config,
                identity,
                registry,
            }),
        })
    }

    /// The topic of this name as it was opened, or a new one with the capacity of the bus and no encoder.
    ///
    /// # Errors
    ///
    /// The name is invalid, the topic carries another type, there are too many topics, or the bus is closed.
    pub fn topic<E>(&self, name: &str) -> Result<Topic<E>, TopicError>
    where
        E: Clone + Send + Sync + 'static,
    {
        self.topic_spec(name).open()
    }

    /// Starts a topic with options. What the spec states must hold for a topic that exists already; what it does not
    /// state is taken as it is.
    pub fn topic_spec<'a>(&'a self, name: &'a str) -> TopicSpec<'a> {
        TopicSpec {
            bus: self,
            name,
            capacity: None,
            encoding: PhantomData,
        }
    }

    /// Every topic at this instant, by name. Each is consistent in itself; they are not read at the same instant.
    ///
    /// Meant for scrapes and `bus` commands: it allocates, and it locks each topic while it adds up its readers.
    #[must_use]
    pub fn topics(&self) -> Vec<TopicStats> {
        self.all_topics()
            .iter()
            .map(|topic| topic.stats())
            .collect()
    }

    /// Follows every JSON topic named `pattern` or `pattern.*`, from the next event on, also those opened later.
    ///
    /// # Errors
    ///
    /// The pattern is no valid name, it names a topic without encoder, 64 tails are open, or the bus is closed.
    pub fn tail(&self, pattern: &str) -> Result<Tail, TailError> {
        self.tail_from(pattern, Start::Live)
    }

    /// Like [`tail`](Self::tail), beginning on each topic that exists where `start` says.
    ///
    /// # Errors
    ///
    /// As [`tail`](Self::tail).
    pub fn tail_from(&self, pattern: &str, start: Start) -> Result<Tail, TailError> {
        let wanted = Pattern::new(pattern)?;
        let mut registry = self.registry();
        if registry.closed {
            return Err(TailError::Closed);
        }
        registry.tails.retain(|(_, inbox)| inbox.strong_count() > 0);
        if registry.tails.len() >= TAILS_MAX {
            return Err(TailError::TooMany { limit: TAILS_MAX });
        }
        if registry
            .topics
            .get(pattern)
            .is_some_and(|entry| !entry.topic.is_json())
        {
            return Err(TailError::NoEncoder {
                topic: pattern.to_owned(),
            });
        }
        let matching = registry
            .topics
            .iter()
            .filter(|(name, _)| wanted.matches(name));
        let lines = matching
            .filter_map(|(_, entry)| entry.topic.lines(start))
            .collect();
        let (tail, inbox) = Tail::new(lines);
        registry.tails.push((wanted, inbox));
        Ok(tail)
    }

    /// Closes every topic and opens no more. Readers and tails read to the end. Does nothing the second time.
    pub fn close(&self) {
        let tails = {
            let mut registry = self.registry();
            registry.closed = true;
            std::mem::take(&mut registry.tails)
        };
        let mut panic = None;
        for topic in self.all_topics() {
            let closed = catch_unwind(AssertUnwindSafe(|| topic.close()));
            panic = closed.err().or(panic);
        }
        finish(tails);
        resume_unless_panicking(panic);
    }

    /// The process's name in event identities.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.shared.identity.instance
    }

    /// Which life of the instance this is; with the instance, a lane and a sequence number it names one event.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.shared.identity.epoch
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.shared
            .registry
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn all_topics(&self) -> Vec<Arc<dyn AnyTopic>> {
        self.registry()
            .topics
            .values()
            .map(|entry| Arc::clone(&entry.topic))
            .collect()
    }

    fn open<E>(
        &self,
        name: &str,
        capacity: Option<usize>,
        encode: Option<Encode<E>>,
    ) -> Result<Topic<E>, TopicError>
    where
        E: Clone + Send + Sync + 'static,
    {
        checked_name(name)?;
        let topic = || name.to_owned();
        if let Some(capacity) = capacity {
            capacity_in_range(capacity).map_err(|source| TopicError::Capacity {
                topic: topic(),
                source,
            })?;
        }
        let mut registry = self.registry();
        if registry.closed {
            return Err(TopicError::Closed { topic: topic() });
        }
        if let Some(entry) = registry.topics.get(name) {
            return entry.reopened(name, capacity, encode.is_some());
        }
        let limit = self.shared.config.max_topics;
        if registry.topics.len() >= limit {
            return Err(TopicError::TooMany {
                topic: topic(),
                limit,
            });
        }
        let name: Arc<str> = name.into();
        let channel = Channel::new(Fixed {
            name: Arc::clone(&name),
            identity: Arc::clone(&self.shared.identity),
            capacity: capacity.unwrap_or(self.shared.config.capacity),
            max_readers: self.shared.config.max_readers,
            encode,
            wall_clock: self.shared.config.wall_clock,
        });
        let owner = Arc::new(Owner {
            channel: Arc::new(channel),
        });
        // Tails are attached before anyone can publish, so that they miss nothing.
        registry.tails.retain(|(_, inbox)| inbox.strong_count() > 0);
        let mut told = Vec::new();
        for (pattern, inbox) in &registry.tails {
            if let (true, Some(inbox)) = (pattern.matches(&name), inbox.upgrade()) {
                if let Some(lines) = AnyTopic::lines(&*owner, Start::Live) {
                    inbox.put(lines);
                }
                // Also if there is nothing to tell: the last of an inbox must not go under the lock.
                told.push(inbox);
            }
        }
        let entry = Entry {
            owner: Arc::clone(&owner) as _,
            topic: Arc::clone(&owner) as _,
        };
        registry.topics.insert(name, entry);
        drop(registry);
        told.iter().for_each(|inbox| inbox.wake());
        Ok(Topic::new(owner))
    }
}

impl Entry {
    fn reopened<E>(
        &self,
        name: &str,
        capacity: Option<usize>,
        json: bool,
    ) -> Result<Topic<E>, TopicError>
    where
        E: Clone + Send + Sync + 'static,
    {
        let topic = name.to_owned();
        let Ok(owner) = Arc::clone(&self.owner).downcast::<Owner<E>>() else {
            let (existing, requested) = (self.topic.type_name(), type_name::<E>());
            return Err(TopicError::TypeMismatch {
                topic,
                existing,
                requested,
            });
        };
        let existing = self.topic.capacity();
        match capacity {
            Some(requested) if requested != existing => Err(TopicError::CapacityMismatch {
                topic,
                existing,
                requested,
            }),
            _ if json && !self.topic.is_json() => Err(TopicError::EncoderMismatch { topic }),
            _ => Ok(Topic::new(owner)),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let registry = self
            .registry
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        finish(std::mem::take(&mut registry.tails));
    }
}

/// Tells tails that no topic will be added.
fn finish(tails: Vec<(Pattern, Weak<Inbox>)>) {
    for inbox in tails.iter().filter_map(|(_, inbox)| inbox.upgrade()) {
        inbox.finish();
        inbox.wake();
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus")
            .field("instance", &self.instance())
            .field("epoch", &self.epoch())
            .finish_non_exhaustive()
    }
}

/// Marks a [`TopicSpec`] without encoder.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Plain;

/// Marks a [`TopicSpec`] whose events are encoded as JSON for tails.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Json;

/// Options of a topic; from [`Bus::topic_spec`].
///
/// ```
/// # use ron_bus::{Bus, BusConfig, TopicError};
/// # let bus = Bus::new(BusConfig::default())?;
/// let ticks = bus.topic_spec("ticks").capacity(1000).json().open::<u64>()?;
/// assert_eq!(ticks.capacity(), 1000);
/// assert!(bus.topic::<u64>("ticks").is_ok());
/// assert!(matches!(bus.topic::<i8>("ticks"), Err(TopicError::TypeMismatch { .. })));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "a spec does nothing until `open` is called"]
pub struct TopicSpec<'a, Encoding = Plain> {
    bus: &'a Bus,
    name: &'a str,
    capacity: Option<usize>,
    encoding: PhantomData<Encoding>,
}

impl<'a, Encoding> TopicSpec<'a, Encoding> {
    /// Sets how many events the data lane keeps: 2 to 1,048,576; default
    /// [`BusConfig::capacity`](crate::BusConfig::capacity). Exactly this many; nothing is rounded.
    ///
    /// A slot is allocated when the lane first reaches it and reused from then on.
    pub fn capacity(mut self, events: usize) -> Self {
        self.capacity = Some(events);
        self
    }
}

impl<'a> TopicSpec<'a, Plain> {
    /// Makes the topic tailable: stamps every event with the wall clock and encodes it, in the tail, as JSON.
    pub fn json(self) -> TopicSpec<'a, Json> {
        TopicSpec {
            bus: self.bus,
            name: self.name,
            capacity: self.capacity,
            encoding: PhantomData,
        }
    }

    /// Opens the topic.
    ///
    /// # Errors
    ///
    /// The name or capacity is invalid, the topic exists with another type or capacity, there are too many topics, or
    /// the bus is closed.
    pub fn open<E>(self) -> Result<Topic<E>, TopicError>
    where
        E: Clone + Send + Sync + 'static,
    {
        self.bus.open(self.name, self.capacity, None)
    }
}

impl TopicSpec<'_, Json> {
    /// Opens the topic.
    ///
    /// # Errors
    ///
    /// As [`TopicSpec::open`] without encoder, or the topic exists without one.
    pub fn open<E>(self) -> Result<Topic<E>, TopicError>
    where
        E: Clone + Serialize + Send + Sync + 'static,
    {
        self.bus.open(
            self.name,
            self.capacity,
            Some(|event: &E, out: &mut Vec<u8>| serde_json::to_writer(out, event)),
        )
    }
}
