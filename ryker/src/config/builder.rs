//! Configurations from code, and the layering of all sources.

use std::borrow::Cow;
use std::time::Duration;

use super::error::{ConfigError, ErrorKind, Problem};
use super::key::{Key, Misfit, KEYS};
use super::{RykerConfig, Source, SpanLevel};

/// Sets the keys of a configuration from code.
///
/// Begins with the defaults ([`RykerConfig::builder`]) or with a configuration ([`RykerConfig::to_builder`]). A setter
/// never fails: [`build`](Self::build) reports all bad values together. A key that is set again has its last value.
///
/// ```
/// use ryker::config::RykerConfig;
/// use std::time::Duration;
///
/// let cfg = RykerConfig::builder()
///     .mailbox_capacity(1_024)
///     .deadline(Duration::from_millis(250))
///     .build()?;
/// assert_eq!(cfg.mailbox_capacity(), 1_024);
///
/// let error = RykerConfig::builder()
///     .mailbox_capacity(0)
///     .deadline(Duration::from_secs(61))
///     .build()
///     .unwrap_err();
/// assert_eq!(error.problems().len(), 2);
/// # Ok::<(), ryker::config::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct RykerConfigBuilder {
    values: [u64; KEYS.len()],
    /// Where each value came from, for messages.
    places: [Cow<'static, str>; KEYS.len()],
    /// At most one per key, in no order.
    problems: Vec<(Key, Problem)>,
    source: Source,
}

const CODE: &str = "builder";

impl RykerConfigBuilder {
    pub(super) fn from_defaults(source: Source) -> Self {
        Self {
            values: KEYS.map(|key| key.spec().default),
            places: KEYS.map(|_| Cow::Borrowed("default")),
            problems: Vec::new(),
            source,
        }
    }

    pub(super) fn from_config(cfg: &RykerConfig) -> Self {
        Self {
            values: cfg.values,
            places: KEYS.map(|_| Cow::Borrowed("unchanged")),
            problems: Vec::new(),
            source: cfg.source,
        }
    }

    /// Slots of a mailbox that does not say otherwise, 1 to 1,048,576.
    pub fn mailbox_capacity(self, messages: usize) -> Self {
        self.number(Key::MailboxCapacity, messages as u64)
    }

    /// The largest message of a mailbox that does not say otherwise, 1,024 to 1,048,576 bytes.
    pub fn max_msg_bytes(self, bytes: usize) -> Self {
        self.number(Key::MaxMsgBytes, bytes as u64)
    }

    /// From enqueue to reply, 10 ms to 60 s in whole milliseconds.
    pub fn deadline(self, deadline: Duration) -> Self {
        self.duration(Key::Deadline, deadline)
    }

    /// The shortest delay before a restart, 1 ms to the cap in whole milliseconds.
    pub fn backoff_base(self, delay: Duration) -> Self {
        self.duration(Key::BackoffBase, delay)
    }

    /// The longest delay before a restart, the base to 1 h in whole milliseconds.
    pub fn backoff_cap(self, delay: Duration) -> Self {
        self.duration(Key::BackoffCap, delay)
    }

    /// Whether delays are drawn at random.
    pub fn decorrelated_jitter(self, on: bool) -> Self {
        self.flag(Key::DecorrelatedJitter, on)
    }

    /// The failure that ends an actor, counted inside the window, 1 to 1,000.
    pub fn rapid_fail_threshold(self, failures: u32) -> Self {
        self.number(Key::RapidFailThreshold, failures.into())
    }

    /// The window, 1 s to 24 h in whole milliseconds.
    pub fn rapid_fail_window(self, window: Duration) -> Self {
        self.duration(Key::RapidFailWindow, window)
    }

    /// Messages between two looks at whether to stop and the most taken at a time, 1 to the number after which it
    /// yields.
    pub fn batch_messages(self, messages: u32) -> Self {
        self.number(Key::BatchMessages, messages.into())
    }

    /// Messages after which an actor yields, if they took more than some microseconds; the batch to 1,048,576.
    pub fn yield_every_n_msgs(self, messages: u32) -> Self {
        self.number(Key::YieldEveryNMsgs, messages.into())
    }

    /// Whether metrics are recorded.
    pub fn enable_metrics(self, on: bool) -> Self {
        self.flag(Key::EnableMetrics, on)
    }

    /// Whether depths of mailboxes are sampled.
    pub fn queue_depth_sampling(self, on: bool) -> Self {
        self.flag(Key::QueueDepthSampling, on)
    }

    /// The level of spans.
    pub fn span_level(self, level: SpanLevel) -> Self {
        self.number(Key::SpanLevel, level as u64)
    }

    /// Whether nothing outlives its use. Needs [`zeroize_on_drop`](Self::zeroize_on_drop).
    pub fn amnesia(self, on: bool) -> Self {
        self.flag(Key::Amnesia, on)
    }

    /// Whether messages that opted in are overwritten when they are dropped.
    pub fn zeroize_on_drop(self, on: bool) -> Self {
        self.flag(Key::ZeroizeOnDrop, on)
    }

    /// Whether [`build`](Self::build) would succeed.
    ///
    /// # Errors
    /// Every value outside its range and every contradiction between two keys.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut problems = self.problems.clone();
        problems.sort_by_key(|(key, _)| *key as usize);
        let bad: Vec<Key> = problems.iter().map(|(key, _)| *key).collect();
        let mut problems: Vec<Problem> = problems.into_iter().map(|(_, found)| found).collect();
        problems.extend(self.contradictions(&bad));
        ConfigError::check(self.source, problems)
    }

    /// The configuration.
    ///
    /// # Errors
    /// Every value outside its range and every contradiction between two keys.
    pub fn build(self) -> Result<RykerConfig, ConfigError> {
        self.validate()?;
        Ok(RykerConfig {
            values: self.values,
            source: self.source,
        })
    }

    fn number(self, key: Key, value: u64) -> Self {
        let checked = key.spec().form.in_range(value);
        self.take(key, checked, || key.spec().form.show(value))
    }

    fn flag(self, key: Key, on: bool) -> Self {
        self.take(key, Ok(on.into()), String::new)
    }

    fn duration(self, key: Key, duration: Duration) -> Self {
        let checked = key.spec().form.of_duration(duration);
        self.take(key, checked, || format!("{duration:?}"))
    }

    fn take(
        mut self,
        key: Key,
        checked: Result<u64, Misfit>,
        shown: impl FnOnce() -> String,
    ) -> Self {
        self.source = Source::Api;
        self.problems.retain(|(other, _)| *other != key);
        match checked {
            Ok(value) => self.put(key, value, Cow::Borrowed(CODE)),
            Err(misfit) => {
                let found = problem(key, misfit, CODE, shown());
                self.problems.push((key, found));
            }
        }
        self
    }

    /// Takes a checked value.
    pub(super) fn put(&mut self, key: Key, value: u64, place: Cow<'static, str>) {
        self.values[key as usize] = value;
        self.places[key as usize] = place;
    }

    pub(super) fn come_from(&mut self, source: Source) {
        self.source = source;
    }

    pub(super) fn source(&self) -> Source {
        self.source
    }

    /// What pairs of keys say against each other, but for the `bad` ones, whose value is not known.
    pub(super) fn contradictions(&self, bad: &[Key]) -> Vec<Problem> {
        // The first of each pair must not be above the second; flags are 0 and 1.
        let pairs = [
            (Key::BackoffBase, Key::BackoffCap, ["is above", "is below"]),
            (
                Key::BatchMessages,
                Key::YieldEveryNMsgs,
                ["is above", "is below"],
            ),
            (Key::Amnesia, Key::ZeroizeOnDrop, ["needs", "contradicts"]),
        ];
        let is_wrong = |low: Key, high: Key| {
            self.value(low) > self.value(high) && !bad.contains(&low) && !bad.contains(&high)
        };
        pairs
            .into_iter()
            .filter(|(low, high, _)| is_wrong(*low, *high))
            .map(|(low, high, [above, below])| {
                // Blamed is the one that was set; of two, the first.
                if self.is_set(low) || !self.is_set(high) {
                    self.against(low, above, high)
                } else {
                    self.against(high, below, low)
                }
            })
            .collect()
    }

    fn against(&self, key: Key, relation: &str, other: Key) -> Problem {
        let shown = |key: Key| key.spec().form.show(self.value(key));
        let place = &self.places[other as usize];
        let name = other.spec().name;
        let what = format!("{relation} {name}, which is {} ({place})", shown(other));
        Problem::new(ErrorKind::Invalid, self.places[key as usize].clone(), what)
            .of_key(key.spec().name)
            .of_value(shown(key))
    }

    fn value(&self, key: Key) -> u64 {
        self.values[key as usize]
    }

    fn is_set(&self, key: Key) -> bool {
        !matches!(&*self.places[key as usize], "default" | "unchanged")
    }
}

/// A value that a key cannot hold.
pub(super) fn problem(
    key: Key,
    misfit: Misfit,
    place: impl Into<String>,
    shown: String,
) -> Problem {
    let spec = key.spec();
    Problem::new(misfit.kind, place, misfit.what)
        .of_key(spec.name)
        .of_value(shown)
        .expecting(spec.form.expected(spec.default))
}

/// A text in quotes, short enough for a log line.
pub(super) fn quoted(text: &str) -> String {
    const WIDTH: usize = 60;
    match text.char_indices().nth(WIDTH) {
        Some((at, _)) => format!("{:?}...", text.get(..at).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}
