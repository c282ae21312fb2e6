//! `BusConfig`: the limits and the identity of one bus, and the grammar of names.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use thiserror::Error;

/// Smallest capacity of a data ring: with one slot a reader would lose an event to every second publish.
pub(crate) const CAPACITY_MIN: usize = 2;
/// Largest capacity of a data ring: 2^20 pointers are 8 MiB; a longer backlog belongs into a queue on disk.
pub(crate) const CAPACITY_MAX: usize = 1 << 20;
/// Slots of a control lane: start, stop and crash notices come in tens, and only a reader that sleeps misses some.
pub(crate) const CONTROL_SLOTS: usize = 16;
/// Tails per bus: each is an operator or an audit log, and each reads every topic it matches.
pub(crate) const TAILS_MAX: usize = 64;
/// Keys a conflating reader may hold: as many as a ring holds events.
pub(crate) const KEYS_MAX: usize = 1 << 20;
const TOPICS_MAX: usize = 1 << 16;
const READERS_MAX: usize = 1 << 20;
const NAME_BYTES_MAX: usize = 128;

/// What a [`Bus`](crate::Bus) is allowed to hold and how its events are identified.
///
/// | setting | default | range | why |
/// |---|---|---|---|
/// | [`capacity`](Self::capacity) | 256 | 2 to 1,048,576 | events per topic; rides out a burst while a reader waits for one disk write |
/// | [`max_topics`](Self::max_topics) | 256 | 1 to 65,536 | topics are named in source code, not per request |
/// | [`max_readers`](Self::max_readers) | 4,096 | 1 to 1,048,576 | readers per topic; each costs about 300 bytes |
/// | [`instance`](Self::instance) | `local` | 1 to 128 printable ASCII characters | who published, across processes |
/// | [`epoch`](Self::epoch) | microseconds since 1970 at `Bus::new` | any | which life of that instance |
///
/// Values out of range are refused by [`Bus::new`](crate::Bus::new), never repaired.
///
/// ```
/// use ron_bus::{Bus, BusConfig};
///
/// let bus = Bus::new(BusConfig::default().capacity(1024).instance("edge-7"))?;
/// assert_eq!(bus.instance(), "edge-7");
/// assert!(Bus::new(BusConfig::default().capacity(1)).is_err());
/// # Ok::<(), ron_bus::BusError>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BusConfig {
    pub(crate) capacity: usize,
    pub(crate) max_topics: usize,
    pub(crate) max_readers: usize,
    instance: String,
    epoch: Option<u64>,
    pub(crate) wall_clock: fn() -> SystemTime,
}

impl Default for BusConfig {
    fn default() -> Self {
        Self {
            capacity: 256,
            max_topics: 256,
            max_readers: 4096,
            instance: "local".to_owned(),
            epoch: None,
            wall_clock: SystemTime::now,
        }
    }
}

impl BusConfig {
    /// Sets how many events a topic keeps when its spec names no capacity of its own (2 to 1,048,576).
    #[must_use]
    pub fn capacity(mut self, events: usize) -> Self {
        self.capacity = events;
        self
    }

    /// Sets how many topics may be opened in the life of the bus (1 to 65,536).
    #[must_use]
    pub fn max_topics(mut self, topics: usize) -> Self {
        self.max_topics = topics;
        self
    }

    /// Sets how many subscribers one topic may have at a time (1 to 1,048,576). Tails do not count.
    #[must_use]
    pub fn max_readers(mut self, readers: usize) -> Self {
        self.max_readers = readers;
        self
    }

    /// Names this process in event identities: 1 to 128 printable ASCII characters.
    #[must_use]
    pub fn instance(mut self, instance: impl Into<String>) -> Self {
        self.instance = instance.into();
        self
    }

    /// Fixes the epoch, for hosts that count their restarts themselves.
    ///
    /// The default, the wall clock in microseconds, tells lives of one instance apart; it does not order them when
    /// the clock was set back. It stays below 2^53, so that JSON readers keep every digit.
    #[must_use]
    pub fn epoch(mut self, epoch: u64) -> Self {
        self.epoch = Some(epoch);
        self
    }

    /// Replaces the wall clock that stamps events of JSON topics and derives the default epoch.
    ///
    /// The bus calls it without holding a lock, once per publish on a JSON topic.
    #[must_use]
    pub fn wall_clock(mut self, clock: fn() -> SystemTime) -> Self {
        self.wall_clock = clock;
        self
    }

    /// Checks every setting and derives the identity.
    pub(crate) fn identity(&self) -> Result<Identity, BusError> {
        capacity_in_range(self.capacity)?;
        if !(1..=TOPICS_MAX).contains(&self.max_topics) {
            return Err(BusError::MaxTopics {
                got: self.max_topics,
            });
        }
        if !(1..=READERS_MAX).contains(&self.max_readers) {
            return Err(BusError::MaxReaders {
                got: self.max_readers,
            });
        }
        let printable = self.instance.bytes().all(|b| matches!(b, b' '..=b'~'));
        if self.instance.is_empty() || self.instance.len() > NAME_BYTES_MAX || !printable {
            return Err(BusError::Instance {
                got: self.instance.clone(),
            });
        }
        let epoch = self.epoch.unwrap_or_else(|| {
            let since_1970 = (self.wall_clock)()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            u64::try_from(since_1970.as_micros()).unwrap_or(u64::MAX)
        });
        Ok(Identity {
            instance: self.instance.as_str().into(),
            epoch,
        })
    }
}

/// Which life of which process published.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) instance: Arc<str>,
    pub(crate) epoch: u64,
}

/// A [`BusConfig`] that no bus can be built from. The caller's mistake.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BusError {
    /// The capacity is outside its range.
    #[error("bus capacity is {got} events, must be {CAPACITY_MIN} to {CAPACITY_MAX}")]
    Capacity {
        /// What the configuration says.
        got: usize,
    },
    /// The limit on topics is outside its range.
    #[error("bus max_topics is {got}, must be 1 to {TOPICS_MAX}")]
    MaxTopics {
        /// What the configuration says.
        got: usize,
    },
    /// The limit on readers is outside its range.
    #[error("bus max_readers is {got}, must be 1 to {READERS_MAX}")]
    MaxReaders {
        /// What the configuration says.
        got: usize,
    },
    /// The instance is empty, too long or not printable.
    #[error("bus instance is {got:?}, must be 1 to {NAME_BYTES_MAX} printable ascii characters")]
    Instance {
        /// What the configuration says.
        got: String,
    },
}

pub(crate) fn capacity_in_range(got: usize) -> Result<(), BusError> {
    if (CAPACITY_MIN..=CAPACITY_MAX).contains(&got) {
        Ok(())
    } else {
        Err(BusError::Capacity { got })
    }
}

/// The name of a topic, a tail pattern or a reader breaks the grammar. The caller's mistake.
///
/// A name has 1 to 128 bytes: segments of ASCII letters, digits, `_` and `-`, joined by single dots.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("name {name:?} is invalid: use 1 to {NAME_BYTES_MAX} bytes, segments of ascii letters, digits, '_' or '-' joined by single dots")]
#[non_exhaustive]
pub struct NameError {
    /// The name as it was given, cut to 256 characters.
    pub name: String,
}

/// Accepts a name that follows the grammar of [`NameError`].
pub(crate) fn checked_name(name: &str) -> Result<(), NameError> {
    let segment = |s: &str| {
        !s.is_empty()
            && s.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    };
    if name.len() <= NAME_BYTES_MAX && name.split('.').all(segment) {
        Ok(())
    } else {
        Err(NameError {
            name: name.chars().take(256).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dotted_segments_of_word_characters() {
        for good in ["kernel", "kernel.lifecycle", "a", "A_b-9.c"] {
            assert_eq!(checked_name(good), Ok(()), "{good}");
        }
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        for bad in [
            "", ".", "a.", ".a", "a..b", "a b", "a/b", "a*", "\u{e9}", "a\n", &long,
        ] {
            assert!(checked_name(bad).is_err(), "{bad:?}");
        }
        assert_eq!(checked_name(&long[1..]), Ok(()));
    }

    #[test]
    fn every_limit_is_checked_at_both_ends() {
        let ok = |c: BusConfig| c.identity().is_ok();
        let base = BusConfig::default;
        assert!(ok(base().capacity(CAPACITY_MIN)) && ok(base().capacity(CAPACITY_MAX)));
        assert!(!ok(base().capacity(CAPACITY_MIN - 1)) && !ok(base().capacity(CAPACITY_MAX + 1)));
        assert!(ok(base().max_topics(1)) && ok(base().max_topics(TOPICS_MAX)));
        assert!(!ok(base().max_topics(0)) && !ok(base().max_topics(TOPICS_MAX + 1)));
        assert!(ok(base().max_readers(1)) && ok(base().max_readers(READERS_MAX)));
        assert!(!ok(base().max_readers(0)) && !ok(base().max_readers(READERS_MAX + 1)));
        assert!(ok(base().instance("a b \"c\"")) && ok(base().instance("x".repeat(128))));
        assert!(
            !ok(base().instance(""))
                && !ok(base().instance("x".repeat(129)))
                && !ok(base().instance("a\tb"))
        );
    }

    #[test]
    fn the_default_epoch_is_the_clock_in_microseconds() {
        let clock = || UNIX_EPOCH + std::time::Duration::from_micros(1_234_567);
        let epoch = |c: BusConfig| c.identity().map(|i| i.epoch).ok();
        assert_eq!(
            epoch(BusConfig::default().wall_clock(clock)),
            Some(1_234_567)
        );
        assert_eq!(
            epoch(BusConfig::default().wall_clock(clock).epoch(7)),
            Some(7)
        );
        assert_eq!(
            epoch(
                BusConfig::default().wall_clock(|| UNIX_EPOCH - std::time::Duration::from_secs(1))
            ),
            Some(0)
        );
    }
}
