//! The configuration: from the environment, a file or code, validated as a whole.
//!
//! | key | variable | default | range | a change takes effect |
//! |---|---|---|---|---|
//! | `defaults.mailbox_capacity` | `RYKER_DEFAULT_MAILBOX_CAPACITY` | 256 | 1 to 1,048,576 messages | cold |
//! | `defaults.max_msg_bytes` | `RYKER_DEFAULT_MAX_MSG_BYTES` | 64KiB | 1KiB to 1MiB | cold |
//! | `defaults.deadline` | `RYKER_DEFAULT_DEADLINE` | 1s | 10ms to 60s | hot |
//! | `supervisor.backoff_base_ms` | `RYKER_BACKOFF_BASE_MS` | 100 | 1 to `backoff_cap_ms` | next restart |
//! | `supervisor.backoff_cap_ms` | `RYKER_BACKOFF_CAP_MS` | 5000 | `backoff_base_ms` to 3,600,000 | next restart |
//! | `supervisor.decorrelated_jitter` | `RYKER_DECORRELATED_JITTER` | true | | next restart |
//! | `supervisor.rapid_fail_threshold` | `RYKER_RAPID_FAIL_THRESHOLD` | 5 | 1 to 1,000 failures | next restart |
//! | `supervisor.rapid_fail_window` | `RYKER_RAPID_FAIL_WINDOW` | 10s | 1s to 24h | next restart |
//! | `fairness.batch_messages` | `RYKER_BATCH_MESSAGES` | 32 | 1 to `yield_every_n_msgs` | hot |
//! | `fairness.yield_every_n_msgs` | `RYKER_YIELD_EVERY_N` | 64 | `batch_messages` to 1,048,576 | hot |
//! | `observability.enable_metrics` | `RYKER_ENABLE_METRICS` | true | | hot |
//! | `observability.queue_depth_sampling` | `RYKER_QUEUE_DEPTH_SAMPLING` | true | | hot |
//! | `observability.span_level` | `RYKER_SPAN_LEVEL` | info | off, error, warn, info, debug, trace | hot |
//! | `amnesia.enabled` | `RYKER_AMNESIA` | false | true needs `zeroize_on_drop` | cold |
//! | `amnesia.zeroize_on_drop` | `RYKER_ZEROIZE` | true | | cold |
//!
//! # Values
//! Durations and sizes are whole numbers with a unit and nothing in between: `250ms`, `1s`, `5m`, `24h`, `512B`,
//! `64KiB`, `1MiB`. Units are case-sensitive. Keys whose name ends in `_ms` are bare numbers of milliseconds. Booleans
//! are `true` and `false`, in variables also `1` and `0`. Values of variables are taken exactly as they are: a space
//! before or after is an error, and so is an empty value. A value that is not understood is never replaced by another.
//!
//! # Layers
//! Code wins over variables, variables over the file, the file over the defaults:
//!
//! ```
//! use ryker::config::RykerConfig;
//! use std::time::Duration;
//!
//! let env = [("RYKER_DEFAULT_DEADLINE", "2s"), ("RYKER_BATCH_MESSAGES", "16")]
//!     .map(|(name, value)| (name.into(), value.into()));
//! let (cfg, warnings) = RykerConfig::from_env(env, |path| std::fs::read(path));
//! let cfg = cfg?.with_overrides(|builder| builder.batch_messages(8))?;
//! assert_eq!(cfg.deadline(), Duration::from_secs(2));
//! assert_eq!(cfg.batch_messages(), 8);
//! assert!(warnings.is_empty());
//! # Ok::<(), ryker::config::ConfigError>(())
//! ```
//!
//! # Files
//! TOML or JSON by extension, at most 1 MiB, regular files only. Unknown keys are errors.
//!
//! ```toml
//! [defaults]
//! mailbox_capacity = 1024
//! deadline = "500ms"
//!
//! [supervisor]
//! backoff_base_ms = 50
//! ```
//!
//! # Other variables
//! - `RYKER_CONFIG_PATH` names a file, relative to the working directory, for development: it needs
//!   `RYKER_ALLOW_CONFIG_PATH=1` and is refused where `APP_ENV` or `RUST_ENV` is `production`.
//! - `RYKER_JITTER` is the former name of `RYKER_DECORRELATED_JITTER`: it works, with a warning. If both are set, the
//!   new one wins.
//! - Any other name with the prefix `RYKER_` is an error if it is at most two letters off one of ours or spells out a key
//!   (`RYKER_MAILBOX_CAPACITY`, `RYKER_DEFAULT_DEADLINE_MS`), so that a slip does not leave a default in force; otherwise it may be the host's own and
//!   is a warning.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

mod builder;
mod change;
mod counts;
mod document;
mod env;
mod error;
mod key;
mod spelling;

pub use builder::RykerConfigBuilder;
pub use change::{Change, ReloadClass};
#[cfg(any(test, feature = "metrics"))]
pub(crate) use counts::errors;
pub(crate) use counts::{count_error, count_reload, reloads};
pub use env::Warning;
pub use error::{ConfigError, ErrorKind, Problem};

use document::{Findings, Syntax};
use key::{level, Key, KEYS};

/// A valid configuration: no value outside its range, no two keys that contradict each other.
///
/// Immutable and small: clone it freely. Two are equal if all their values are, wherever they came from.
#[derive(Clone, Debug)]
pub struct RykerConfig {
    /// By key; see [`key::Form`] for what the numbers are.
    values: [u64; KEYS.len()],
    source: Source,
}

impl RykerConfig {
    /// Reads the environment of this process, and the file that it names.
    ///
    /// A failure is also logged at ERROR and counted in `ryker_config_reload_errors_total`, with `source="startup"`
    /// until the process has its first [`Runtime`](crate::Runtime). Warnings are logged at WARN. Reads a file on the
    /// calling thread.
    ///
    /// # Errors
    /// Everything that is wrong with the variables and the file, see [`ConfigError`].
    pub fn from_env_validated() -> Result<Self, ConfigError> {
        Self::from_env_logged(std::env::vars_os())
    }

    fn from_env_logged(
        pairs: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let (result, warnings) = Self::from_env(pairs, document::read);
        for warning in &warnings {
            tracing::warn!(
                "crate" = "ryker",
                event = "config_warning",
                variable = warning.variable(),
                "{warning}"
            );
        }
        let has_started = reloads().any(|(source, count)| source == Source::Startup && count > 0);
        result.map_err(|error| {
            reject(if has_started {
                error
            } else {
                error.with_origin(Source::Startup)
            })
        })
    }

    /// Takes variables as given, and reads the file that they name through `read`. Logs and counts nothing.
    ///
    /// Names without the prefix `RYKER_` are ignored, but for `APP_ENV` and `RUST_ENV`. The warnings are there whether
    /// the variables are right or not, in the order of the names.
    ///
    /// # Errors
    /// Everything that is wrong with the variables and the file, see [`ConfigError`].
    ///
    /// ```
    /// use ryker::config::{RykerConfig, Warning};
    ///
    /// let env = [("RYKER_JITTER".into(), "maybe".into())];
    /// let (result, warnings) = RykerConfig::from_env(env, |path| std::fs::read(path));
    /// assert_eq!(
    ///     result.unwrap_err().to_string(),
    ///     "1 problem in the configuration of ryker\n\
    ///      RYKER_JITTER: supervisor.decorrelated_jitter: \"maybe\" is neither true nor false; expected true or false"
    /// );
    /// assert!(matches!(warnings[0], Warning::Deprecated { overridden: false, .. }));
    /// ```
    pub fn from_env(
        pairs: impl IntoIterator<Item = (OsString, OsString)>,
        read: impl FnOnce(&Path) -> io::Result<Vec<u8>>,
    ) -> (Result<Self, ConfigError>, Vec<Warning>) {
        env::load(pairs, read)
    }

    /// Reads a file, TOML or JSON by its extension, over the defaults.
    ///
    /// A failure is also logged at ERROR and counted in `ryker_config_reload_errors_total{source="file"}`. Reads on the
    /// calling thread.
    ///
    /// # Errors
    /// The file cannot be read, is neither TOML nor JSON, or everything that is wrong with it, see [`ConfigError`].
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        Self::from_document(|builder| document::apply_file(builder, path.as_ref(), document::read))
            .map_err(reject)
    }

    /// Reads TOML over the defaults. An empty text is the defaults.
    ///
    /// # Errors
    /// Everything that is wrong with it, see [`ConfigError`].
    ///
    /// ```
    /// use ryker::config::RykerConfig;
    ///
    /// let cfg = RykerConfig::from_toml("[fairness]\nbatch_messages = 8")?;
    /// assert_eq!(cfg.batch_messages(), 8);
    ///
    /// let error = RykerConfig::from_toml("[fairness]\nbatch_mesages = 8").unwrap_err();
    /// assert_eq!(error.problems()[0].suggestion(), Some("fairness.batch_messages"));
    /// # Ok::<(), ryker::config::ConfigError>(())
    /// ```
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        Self::from_document(|builder| document::apply_text(builder, Syntax::Toml, text, None))
    }

    /// Reads JSON over the defaults. `{}` is the defaults.
    ///
    /// # Errors
    /// Everything that is wrong with it, see [`ConfigError`].
    ///
    /// ```
    /// use ryker::config::RykerConfig;
    ///
    /// let cfg = RykerConfig::from_json(r#"{"defaults": {"max_msg_bytes": "128KiB"}}"#)?;
    /// assert_eq!(cfg.max_msg_bytes(), 131_072);
    /// # Ok::<(), ryker::config::ConfigError>(())
    /// ```
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        Self::from_document(|builder| document::apply_text(builder, Syntax::Json, text, None))
    }

    fn from_document(
        apply: impl FnOnce(&mut RykerConfigBuilder) -> Findings,
    ) -> Result<Self, ConfigError> {
        let mut builder = RykerConfigBuilder::from_defaults(Source::File);
        let Findings { mut problems, bad } = apply(&mut builder);
        problems.extend(builder.contradictions(&bad));
        ConfigError::check(Source::File, problems)?;
        builder.build()
    }

    /// Sets keys from code, beginning with the defaults.
    pub fn builder() -> RykerConfigBuilder {
        RykerConfigBuilder::from_defaults(Source::Api)
    }

    /// Sets keys from code, beginning with this configuration.
    pub fn to_builder(&self) -> RykerConfigBuilder {
        RykerConfigBuilder::from_config(self)
    }

    /// Sets keys from code, in the middle of an expression: see the module's example.
    ///
    /// # Errors
    /// Everything that is wrong with what was set, see [`ConfigError`].
    pub fn with_overrides(
        self,
        set: impl FnOnce(RykerConfigBuilder) -> RykerConfigBuilder,
    ) -> Result<Self, ConfigError> {
        set(self.to_builder()).build()
    }

    /// Slots of a mailbox that does not say otherwise, 1 to 1,048,576.
    pub fn mailbox_capacity(&self) -> usize {
        self.size(Key::MailboxCapacity)
    }

    /// The largest message of a mailbox that does not say otherwise, in bytes, 1,024 to 1,048,576.
    pub fn max_msg_bytes(&self) -> usize {
        self.size(Key::MaxMsgBytes)
    }

    /// From enqueue to reply, for a mailbox that does not say otherwise; 10 ms to 60 s.
    pub fn deadline(&self) -> Duration {
        self.duration(Key::Deadline)
    }

    /// The shortest delay before a restart; 1 ms to [`backoff_cap`](Self::backoff_cap).
    pub fn backoff_base(&self) -> Duration {
        self.duration(Key::BackoffBase)
    }

    /// The longest delay before a restart; [`backoff_base`](Self::backoff_base) to 1 h.
    pub fn backoff_cap(&self) -> Duration {
        self.duration(Key::BackoffCap)
    }

    /// Whether delays are drawn at random, each independent of every other actor's.
    pub fn decorrelated_jitter(&self) -> bool {
        self.flag(Key::DecorrelatedJitter)
    }

    /// The failure inside [`rapid_fail_window`](Self::rapid_fail_window) that ends an actor; 1 to 1,000.
    pub fn rapid_fail_threshold(&self) -> u32 {
        self.count(Key::RapidFailThreshold)
    }

    /// The window in which failures are counted, 1 s to 24 h. A wider one ends an actor that keeps failing sooner; a
    /// narrower one tolerates more.
    pub fn rapid_fail_window(&self) -> Duration {
        self.duration(Key::RapidFailWindow)
    }

    /// Messages between two looks of a busy actor at whether its supervisor wants it to stop, and the most that
    /// [`recv_many`](crate::Receiver::recv_many) takes at a time; 1 to
    /// [`yield_every_n_msgs`](Self::yield_every_n_msgs).
    pub fn batch_messages(&self) -> u32 {
        self.count(Key::BatchMessages)
    }

    /// Messages after which an actor yields to its neighbours, if they [took some time](crate::guide::fairness);
    /// [`batch_messages`](Self::batch_messages) to 1,048,576.
    pub fn yield_every_n_msgs(&self) -> u32 {
        self.count(Key::YieldEveryNMsgs)
    }

    /// Whether metrics are recorded.
    pub fn enable_metrics(&self) -> bool {
        self.flag(Key::EnableMetrics)
    }

    /// Whether depths of mailboxes are sampled.
    pub fn queue_depth_sampling(&self) -> bool {
        self.flag(Key::QueueDepthSampling)
    }

    /// The level of spans.
    pub fn span_level(&self) -> SpanLevel {
        level(self.value(Key::SpanLevel))
    }

    /// Whether nothing outlives its use; then [`zeroize_on_drop`](Self::zeroize_on_drop) is true too.
    pub fn amnesia(&self) -> bool {
        self.flag(Key::Amnesia)
    }

    /// Whether messages that opted in are overwritten when they are dropped.
    pub fn zeroize_on_drop(&self) -> bool {
        self.flag(Key::ZeroizeOnDrop)
    }

    /// The highest layer that had a say: [`Api`](Source::Api) if a key was set from code, else [`Env`](Source::Env) if a
    /// variable set one, else [`File`](Source::File) if there was a file. Never [`Startup`](Source::Startup).
    pub fn source(&self) -> Source {
        self.source
    }

    /// The keys whose values differ, in the order of the module's table.
    ///
    /// ```
    /// use ryker::config::RykerConfig;
    ///
    /// let old = RykerConfig::default();
    /// let new = RykerConfig::from_toml("[defaults]\ndeadline = \"2s\"")?;
    /// assert_eq!(old.diff(&new)[0].to_string(), "defaults.deadline: 1s -> 2s (hot)");
    /// # Ok::<(), ryker::config::ConfigError>(())
    /// ```
    pub fn diff(&self, new: &Self) -> Vec<Change> {
        KEYS.into_iter()
            .filter(|key| self.value(*key) != new.value(*key))
            .map(|key| {
                let spec = key.spec();
                Change {
                    key: spec.name,
                    old: spec.form.show(self.value(key)),
                    new: spec.form.show(new.value(key)),
                    reload: spec.reload,
                }
            })
            .collect()
    }

    /// What is in force after a reload to `new`: its values, but for cold keys, which keep theirs.
    ///
    /// Valid, because keys that could contradict each other are of the same class.
    pub(crate) fn reloaded(&self, new: &Self) -> Self {
        let mut merged = new.clone();
        for key in KEYS {
            if key.spec().reload == ReloadClass::Cold {
                merged.values[key as usize] = self.value(key);
            }
        }
        merged
    }

    /// All values as TOML, which [`from_toml`](Self::from_toml) reads back.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut last = "";
        for key in KEYS {
            let spec = key.spec();
            let (section, leaf) = key::split(spec.name);
            if section != last {
                let gap = if last.is_empty() { "" } else { "\n" };
                text.push_str(&format!("{gap}[{section}]\n"));
                last = section;
            }
            let value = spec.form.show(self.value(key));
            let quote = if spec.form.is_text() { "\"" } else { "" };
            text.push_str(&format!("{leaf} = {quote}{value}{quote}\n"));
        }
        text
    }

    fn value(&self, key: Key) -> u64 {
        self.values[key as usize]
    }

    fn flag(&self, key: Key) -> bool {
        self.value(key) != 0
    }

    /// No key's range goes beyond 32 bits.
    fn count(&self, key: Key) -> u32 {
        self.value(key) as u32
    }

    fn size(&self, key: Key) -> usize {
        self.value(key) as usize
    }

    fn duration(&self, key: Key) -> Duration {
        Duration::from_millis(self.value(key))
    }
}

impl Default for RykerConfig {
    /// The defaults of the module's table; their source is [`Source::Api`].
    fn default() -> Self {
        Self {
            values: KEYS.map(|key| key.spec().default),
            source: Source::Api,
        }
    }
}

impl PartialEq for RykerConfig {
    fn eq(&self, other: &Self) -> bool {
        self.values == other.values
    }
}

impl Eq for RykerConfig {}

/// Logs and counts, though the caller also gets the error: the runbook looks for both, and no caller could count.
fn reject(error: ConfigError) -> ConfigError {
    count_error(error.origin(), error.kind());
    tracing::error!(
        "crate" = "ryker",
        event = "config_rejected",
        source = error.origin().as_str(),
        error = error.kind().as_str(),
        "{error}"
    );
    error
}

/// Where a configuration came from: label `source` of the metrics of reloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Source {
    /// The first one of a process, wherever it came from. No configuration has this source; it is the label under which
    /// a runtime counts the one it starts with.
    Startup,
    /// A file.
    File,
    /// Variables, perhaps over a file; or an environment that sets nothing.
    Env,
    /// Code, perhaps over the others.
    Api,
}

impl Source {
    pub(crate) const ALL: [Self; 4] = [Self::Startup, Self::File, Self::Env, Self::Api];

    /// The label's value: `startup`, `file`, `env` or `api`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::File => "file",
            Self::Env => "env",
            Self::Api => "api",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The level of ryker's spans. Exhaustive: these are the levels there are, so a host may match on all of them.
///
/// ```
/// use ryker::config::SpanLevel;
/// assert_eq!("debug".parse(), Ok(SpanLevel::Debug));
/// assert_eq!(SpanLevel::Off.to_string(), "off");
/// assert!("DEBUG".parse::<SpanLevel>().is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SpanLevel {
    /// No spans.
    Off,
    /// `error`.
    Error,
    /// `warn`.
    Warn,
    /// `info`.
    Info,
    /// `debug`.
    Debug,
    /// `trace`.
    Trace,
}

impl SpanLevel {
    const ALL: [Self; 6] = [
        Self::Off,
        Self::Error,
        Self::Warn,
        Self::Info,
        Self::Debug,
        Self::Trace,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl fmt::Display for SpanLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that is no level, in lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("no level; expected off, error, warn, info, debug or trace")]
#[non_exhaustive]
pub struct ParseSpanLevelError {}

impl FromStr for SpanLevel {
    type Err = ParseSpanLevelError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|level| level.name() == text)
            .ok_or(ParseSpanLevelError {})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reload_keeps_the_values_of_cold_keys_and_takes_the_others() {
        let running = RykerConfig::default();
        let new = RykerConfig::builder()
            .mailbox_capacity(1)
            .max_msg_bytes(2_048)
            .deadline(Duration::from_secs(3))
            .backoff_base(Duration::from_millis(4))
            .amnesia(true)
            .build()
            .unwrap();
        let merged = running.reloaded(&new);
        let expected = running
            .to_builder()
            .deadline(Duration::from_secs(3))
            .backoff_base(Duration::from_millis(4));
        assert_eq!(merged, expected.build().unwrap());
        let kept: Vec<ReloadClass> = merged.diff(&new).iter().map(|c| c.reload).collect();
        assert_eq!(kept, [ReloadClass::Cold; 3]);
    }

    #[test]
    fn no_reload_of_some_keys_can_make_two_keys_contradict_each_other() {
        for (one, other) in [
            (Key::BackoffBase, Key::BackoffCap),
            (Key::BatchMessages, Key::YieldEveryNMsgs),
            (Key::Amnesia, Key::ZeroizeOnDrop),
        ] {
            assert_eq!(one.spec().reload, other.spec().reload);
        }
    }

    #[test]
    fn a_file_that_is_refused_is_counted_under_its_source_and_kind() {
        let dir = tempfile::tempdir().unwrap();
        let (missing, broken) = (dir.path().join("none.toml"), dir.path().join("a.json"));
        std::fs::write(&broken, "[]").unwrap();
        for (path, kind) in [(missing, ErrorKind::Io), (broken, ErrorKind::Parse)] {
            let count = || {
                errors()
                    .find(|(source, of, _)| (*source, *of) == (Source::File, kind))
                    .map(|(.., count)| count)
            };
            let before = count().unwrap();
            RykerConfig::from_file(path).unwrap_err();
            assert_eq!(count(), Some(before + 1), "{kind}");
        }
    }

    #[test]
    fn an_environment_that_is_refused_after_the_start_is_no_start() {
        count_reload(Source::Startup);
        let bad = [("RYKER_AMNESIA".into(), "perhaps".into())];
        let error = RykerConfig::from_env_logged(bad).unwrap_err();
        assert_eq!(error.origin(), Source::Env);
    }

    #[test]
    fn every_label_is_counted_once() {
        let labels: std::collections::HashSet<_> = errors()
            .map(|(source, kind, _)| (source.as_str(), kind.as_str()))
            .collect();
        assert_eq!(labels.len(), 12);
        let sources: Vec<&str> = reloads().map(|(source, _)| source.as_str()).collect();
        assert_eq!(sources, ["startup", "file", "env", "api"]);
    }
}
