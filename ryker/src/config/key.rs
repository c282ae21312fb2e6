//! The keys: their names, what each may hold, what it is by default, and when a change of it takes effect.

use std::time::Duration;

use super::change::ReloadClass;
use super::error::ErrorKind;
use super::SpanLevel;
use crate::units::{self, format_millis, format_size};

/// One value each, in the order in which everything lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    MailboxCapacity,
    MaxMsgBytes,
    Deadline,
    BackoffBase,
    BackoffCap,
    DecorrelatedJitter,
    RapidFailThreshold,
    RapidFailWindow,
    BatchMessages,
    YieldEveryNMsgs,
    EnableMetrics,
    QueueDepthSampling,
    SpanLevel,
    Amnesia,
    ZeroizeOnDrop,
}

pub(super) const KEYS: [Key; 15] = [
    Key::MailboxCapacity,
    Key::MaxMsgBytes,
    Key::Deadline,
    Key::BackoffBase,
    Key::BackoffCap,
    Key::DecorrelatedJitter,
    Key::RapidFailThreshold,
    Key::RapidFailWindow,
    Key::BatchMessages,
    Key::YieldEveryNMsgs,
    Key::EnableMetrics,
    Key::QueueDepthSampling,
    Key::SpanLevel,
    Key::Amnesia,
    Key::ZeroizeOnDrop,
];

/// What a key holds. Inside, every value is a `u64`: a number, bytes, milliseconds, a flag or a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A whole number.
    Count {
        min: u64,
        max: u64,
    },
    /// Bytes, written with a unit.
    Size {
        min: u64,
        max: u64,
    },
    /// Milliseconds, written as a whole number.
    Millis {
        min: u64,
        max: u64,
    },
    /// Milliseconds, written with a unit.
    Time {
        min: u64,
        max: u64,
    },
    Flag,
    Level,
}

/// Everything there is to know of a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spec {
    /// `section.key`.
    pub(super) name: &'static str,
    pub(super) env: &'static str,
    pub(super) form: Form,
    pub(super) default: u64,
    pub(super) reload: ReloadClass,
}

/// The largest mailbox. A slot is memory that is really taken, so a larger number is more likely a number of bytes.
const SLOTS: u64 = 1 << 20;
const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600 * SECOND;

impl Key {
    pub(super) const fn spec(self) -> Spec {
        use Form::{Count, Flag, Level, Millis, Size, Time};
        use ReloadClass::{Cold, Hot, NextRestart};
        let (name, env, form, default, reload) = match self {
            // With 64 KiB messages a full mailbox is 16 MiB, and at 100,000 messages a second 2.6 ms of queue.
            Self::MailboxCapacity => (
                "defaults.mailbox_capacity",
                "RYKER_DEFAULT_MAILBOX_CAPACITY",
                Count { min: 1, max: SLOTS },
                256,
                Cold,
            ),
            // A frame of the node's wire is 1 MiB at most, so a larger message came over none.
            Self::MaxMsgBytes => (
                "defaults.max_msg_bytes",
                "RYKER_DEFAULT_MAX_MSG_BYTES",
                Size {
                    min: 1 << 10,
                    max: 1 << 20,
                },
                64 << 10,
                Cold,
            ),
            // The clock errs by 2 ms, so below 10 ms it would be a fifth of the deadline; above a minute nobody waits.
            Self::Deadline => (
                "defaults.deadline",
                "RYKER_DEFAULT_DEADLINE",
                Time {
                    min: 10,
                    max: 60 * SECOND,
                },
                SECOND,
                Hot,
            ),
            // 100 ms outlasts a burst of failures of one peer; 5 s is what an operator waits for. An actor that rests
            // for more than an hour is stopped, whatever its state says.
            Self::BackoffBase => (
                "supervisor.backoff_base_ms",
                "RYKER_BACKOFF_BASE_MS",
                Millis { min: 1, max: HOUR },
                100,
                NextRestart,
            ),
            Self::BackoffCap => (
                "supervisor.backoff_cap_ms",
                "RYKER_BACKOFF_CAP_MS",
                Millis { min: 1, max: HOUR },
                5 * SECOND,
                NextRestart,
            ),
            Self::DecorrelatedJitter => (
                "supervisor.decorrelated_jitter",
                "RYKER_DECORRELATED_JITTER",
                Flag,
                1,
                NextRestart,
            ),
            // The times of that many failures are kept per actor, hence the limit.
            Self::RapidFailThreshold => (
                "supervisor.rapid_fail_threshold",
                "RYKER_RAPID_FAIL_THRESHOLD",
                Count { min: 1, max: 1_000 },
                5,
                NextRestart,
            ),
            Self::RapidFailWindow => (
                "supervisor.rapid_fail_window",
                "RYKER_RAPID_FAIL_WINDOW",
                Time {
                    min: SECOND,
                    max: 24 * HOUR,
                },
                10 * SECOND,
                NextRestart,
            ),
            // A wake-up is dear beside a message of a microsecond and cheap beside 32 of them. No batch is longer than
            // the largest mailbox.
            Self::BatchMessages => (
                "fairness.batch_messages",
                "RYKER_BATCH_MESSAGES",
                Count { min: 1, max: SLOTS },
                32,
                Hot,
            ),
            // Two batches: half of tokio's own budget of 128 operations, so that a neighbour's turn comes before it.
            Self::YieldEveryNMsgs => (
                "fairness.yield_every_n_msgs",
                "RYKER_YIELD_EVERY_N",
                Count { min: 1, max: SLOTS },
                64,
                Hot,
            ),
            Self::EnableMetrics => (
                "observability.enable_metrics",
                "RYKER_ENABLE_METRICS",
                Flag,
                1,
                Hot,
            ),
            Self::QueueDepthSampling => (
                "observability.queue_depth_sampling",
                "RYKER_QUEUE_DEPTH_SAMPLING",
                Flag,
                1,
                Hot,
            ),
            Self::SpanLevel => (
                "observability.span_level",
                "RYKER_SPAN_LEVEL",
                Level,
                SpanLevel::Info as u64,
                Hot,
            ),
            Self::Amnesia => ("amnesia.enabled", "RYKER_AMNESIA", Flag, 0, Cold),
            Self::ZeroizeOnDrop => ("amnesia.zeroize_on_drop", "RYKER_ZEROIZE", Flag, 1, Cold),
        };
        Spec {
            name,
            env,
            form,
            default,
            reload,
        }
    }

    pub(super) fn of_name(name: &str) -> Option<Self> {
        KEYS.into_iter().find(|key| key.spec().name == name)
    }

    pub(super) fn of_env(name: &str) -> Option<Self> {
        KEYS.into_iter().find(|key| key.spec().env == name)
    }
}

/// `defaults` and `mailbox_capacity` of `defaults.mailbox_capacity`.
pub(super) fn split(name: &str) -> (&str, &str) {
    name.split_once('.').unwrap_or(("", name))
}

/// The tables of a file, in order.
pub(super) fn sections() -> impl Iterator<Item = &'static str> {
    let mut last = "";
    KEYS.into_iter().filter_map(move |key| {
        let (section, _) = split(key.spec().name);
        let is_new = section != last;
        last = section;
        is_new.then_some(section)
    })
}

/// A value of a file that is not a table, whatever its syntax.
#[derive(Debug)]
pub(super) enum Scalar {
    Text(String),
    Integer(i128),
    Flag(bool),
    /// Nothing that a key could hold: what it is.
    Other(&'static str),
}

/// Why a value does not fit, and whose metric label that is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Misfit {
    pub(super) kind: ErrorKind,
    pub(super) what: String,
}

fn unreadable(what: impl ToString) -> Misfit {
    Misfit {
        kind: ErrorKind::Parse,
        what: what.to_string(),
    }
}

impl Form {
    /// Reads the text of an environment variable, exactly as it is: spaces are not cut off.
    pub(super) fn of_variable(self, text: &str) -> Result<u64, Misfit> {
        match self {
            _ if text.is_empty() => Err(unreadable("is empty; unset the variable for the default")),
            Self::Count { .. } | Self::Millis { .. } => {
                if text.bytes().all(|byte| byte.is_ascii_digit()) {
                    let number = text.parse().map_err(|_| self.too_large())?;
                    self.in_range(number)
                } else {
                    Err(unreadable("is not a whole number"))
                }
            }
            Self::Flag => match text {
                "true" | "1" => Ok(1),
                "false" | "0" => Ok(0),
                _ => Err(unreadable("is neither true nor false")),
            },
            Self::Size { .. } | Self::Time { .. } | Self::Level => self.of_text(text),
        }
    }

    /// Reads a value of a file, which has a type.
    pub(super) fn of_scalar(self, value: &Scalar) -> Result<u64, Misfit> {
        match (self, value) {
            (Self::Count { .. } | Self::Millis { .. }, Scalar::Integer(number)) => {
                match u64::try_from(*number) {
                    Ok(number) => self.in_range(number),
                    Err(_) if *number < 0 => Err(Misfit {
                        kind: ErrorKind::Invalid,
                        what: "is negative".to_owned(),
                    }),
                    Err(_) => Err(self.too_large()),
                }
            }
            (Self::Size { .. } | Self::Time { .. }, Scalar::Integer(_)) => {
                Err(unreadable(units::UnitError::BareNumber))
            }
            (Self::Size { .. } | Self::Time { .. } | Self::Level, Scalar::Text(text)) => {
                self.of_text(text)
            }
            (Self::Flag, Scalar::Flag(flag)) => Ok(u64::from(*flag)),
            (_, Scalar::Text(_)) => Err(unreadable("is a text")),
            (_, Scalar::Integer(_)) => Err(unreadable("is a number")),
            (_, Scalar::Flag(_)) => Err(unreadable("is a boolean")),
            (_, Scalar::Other(what)) => Err(unreadable(format_args!("is {what}"))),
        }
    }

    /// Takes a duration from code. Whole milliseconds only: a file could not hold anything finer.
    pub(super) fn of_duration(self, duration: Duration) -> Result<u64, Misfit> {
        let millis = u64::try_from(duration.as_millis()).map_err(|_| self.too_large())?;
        if duration != Duration::from_millis(millis) {
            return Err(Misfit {
                kind: ErrorKind::Invalid,
                what: "is not a whole number of milliseconds".to_owned(),
            });
        }
        self.in_range(millis)
    }

    fn of_text(self, text: &str) -> Result<u64, Misfit> {
        match self {
            Self::Size { .. } => {
                let bytes = units::parse_size(text).map_err(unreadable)?;
                self.in_range(bytes)
            }
            Self::Level => match text.parse::<SpanLevel>() {
                Ok(level) => Ok(level as u64),
                Err(_) => Err(unreadable("is no level")),
            },
            _ => {
                let duration = units::parse_duration(text).map_err(unreadable)?;
                self.of_duration(duration)
            }
        }
    }

    pub(super) fn in_range(self, value: u64) -> Result<u64, Misfit> {
        let (min, max) = self.range();
        let what = if value < min {
            format!("is below {}", self.show(min))
        } else if value > max {
            format!("is above {}", self.show(max))
        } else {
            return Ok(value);
        };
        Err(Misfit {
            kind: ErrorKind::Invalid,
            what,
        })
    }

    fn too_large(self) -> Misfit {
        Misfit {
            kind: ErrorKind::Invalid,
            what: format!("is above {}", self.show(self.range().1)),
        }
    }

    const fn range(self) -> (u64, u64) {
        match self {
            Self::Count { min, max }
            | Self::Size { min, max }
            | Self::Millis { min, max }
            | Self::Time { min, max } => (min, max),
            Self::Flag => (0, 1),
            Self::Level => (0, SpanLevel::ALL.len() as u64 - 1),
        }
    }

    /// The value as a file has it, but without the quotes of a text.
    pub(super) fn show(self, value: u64) -> String {
        match self {
            Self::Count { .. } | Self::Millis { .. } => value.to_string(),
            Self::Size { .. } => format_size(value),
            Self::Time { .. } => format_millis(value),
            Self::Flag => (value != 0).to_string(),
            Self::Level => level(value).to_string(),
        }
    }

    pub(super) const fn is_text(self) -> bool {
        matches!(self, Self::Size { .. } | Self::Time { .. } | Self::Level)
    }

    /// What would be right; the example is the default.
    pub(super) fn expected(self, default: u64) -> String {
        let (min, max) = self.range();
        let (low, high, example) = (self.show(min), self.show(max), self.show(default));
        match self {
            Self::Count { .. } => format!("a whole number from {low} to {high}"),
            Self::Millis { .. } => format!("whole milliseconds from {low} to {high}, no unit"),
            Self::Size { .. } => {
                format!("a size from {low} to {high} (units B, KiB, MiB), such as \"{example}\"")
            }
            Self::Time { .. } => {
                format!(
                    "a duration from {low} to {high} (units ms, s, m, h), such as \"{example}\""
                )
            }
            Self::Flag => "true or false".to_owned(),
            Self::Level => {
                let names: Vec<&str> = SpanLevel::ALL.iter().map(|level| level.name()).collect();
                format!("one of {}", names.join(", "))
            }
        }
    }
}

/// The level that is stored as its number.
pub(super) fn level(value: u64) -> SpanLevel {
    SpanLevel::ALL
        .into_iter()
        .find(|level| *level as u64 == value)
        .unwrap_or(SpanLevel::Off)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_lies_where_its_number_says() {
        for (at, key) in KEYS.into_iter().enumerate() {
            assert_eq!(key as usize, at, "{key:?}");
        }
    }

    #[test]
    fn every_default_is_in_its_range() {
        for spec in KEYS.map(Key::spec) {
            let checked = spec.form.in_range(spec.default);
            assert_eq!(checked, Ok(spec.default), "{}", spec.name);
        }
    }

    #[test]
    fn the_documented_table_has_the_names_the_defaults_and_the_classes() {
        let rows: Vec<Vec<&str>> = include_str!("../config.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("//! | `"))
            .map(|row| {
                row.split('|')
                    .map(|cell| cell.trim().trim_matches('`'))
                    .collect()
            })
            .collect();
        let documented: Vec<[String; 4]> = rows
            .iter()
            .map(|row| [row[0], row[1], row[2], row[4]].map(str::to_owned))
            .collect();
        let real = KEYS.map(Key::spec).map(|spec| {
            let default = spec.form.show(spec.default);
            let class = spec.reload.to_string();
            [spec.name.to_owned(), spec.env.to_owned(), default, class]
        });
        assert_eq!(documented, real);
    }
}
