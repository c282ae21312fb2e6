//! Durations and sizes with a unit: one grammar, shared with ryker through `tests/vectors/units.json`.
//!
//! A quantity is decimal digits immediately followed by one unit: `250ms`, `64KiB`. No sign, fraction, space,
//! separator or concatenation (`1h30m`): whoever wants finer steps writes the smaller unit (`90m`). The result must
//! fit in 64 bits of nanoseconds (about 584 years) or bytes.

use std::fmt;
use std::time::Duration;

use thiserror::Error;

/// A number of bytes, written with a unit: `512B`, `64KiB`, `16MiB`, `2GiB`.
///
/// ```
/// use ron_config::ByteSize;
/// assert_eq!(ByteSize::parse("64KiB")?.bytes(), 65_536);
/// assert_eq!(ByteSize::new(1 << 20).to_string(), "1MiB");
/// # Ok::<(), ron_config::UnitError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

impl ByteSize {
    /// A size of `bytes` bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The size as a length in memory, saturating where `usize` is narrower than 64 bits.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// Reads `64KiB`.
    ///
    /// # Errors
    /// See [`UnitError`]; a bare number is one of them.
    pub fn parse(text: &str) -> Result<Self, UnitError> {
        quantity(text, SIZES).map(Self)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = largest(self.0, SIZES);
        write!(f, "{}{unit}", self.0 / factor)
    }
}

/// The unit of a bare number, for environment names that carry their unit (`LEDGER_DEADLINE_MS`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unit {
    /// Milliseconds, for a `Duration`.
    Millis,
    /// Seconds, for a `Duration`.
    Seconds,
    /// Bytes, for a [`ByteSize`].
    Bytes,
}

impl Unit {
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Millis => "ms",
            Self::Seconds => "s",
            Self::Bytes => "B",
        }
    }
}

/// Why a text is no quantity. Always the writer's fault; the message says what would be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UnitError {
    /// Digits without a unit.
    #[error("is a bare number and needs a unit")]
    BareNumber,
    /// The text does not begin with a digit: empty, signed, or a word.
    #[error("does not begin with a whole number")]
    NoNumber,
    /// A decimal point: the grammar has whole numbers only.
    #[error("has a fraction; write a whole number of a smaller unit")]
    Fraction,
    /// What follows the digits is not one of the units.
    #[error("has an unknown unit")]
    UnknownUnit,
    /// More than 64 bits of nanoseconds or bytes.
    #[error("is too large")]
    TooLarge,
}

/// Reads `250ms`, `30s`, `5m` or `1h`.
///
/// # Errors
/// See [`UnitError`]; a bare number is one of them.
///
/// ```
/// use std::time::Duration;
/// assert_eq!(ron_config::parse_duration("250ms"), Ok(Duration::from_millis(250)));
/// assert_eq!(ron_config::parse_duration("250"), Err(ron_config::UnitError::BareNumber));
/// ```
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    quantity(text, DURATIONS).map(Duration::from_nanos)
}

/// Writes a duration in the largest unit that divides it: `90s`, `2h`, `1500ms`.
///
/// A duration with a part below one millisecond, which no file can hold, is written in nanoseconds (`1500000ns`), so
/// that it is not shown as something it is not.
pub fn format_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    match u64::try_from(nanos) {
        Ok(nanos) if nanos % MILLI == 0 => {
            let (unit, factor) = largest(nanos, DURATIONS);
            format!("{}{unit}", nanos / factor)
        }
        _ => format!("{nanos}ns"),
    }
}

pub(crate) const DURATION_EXPECTED: &str = "a duration with a unit (ms, s, m, h) such as \"250ms\"";
pub(crate) const SIZE_EXPECTED: &str = "a size with a unit (B, KiB, MiB, GiB) such as \"64KiB\"";

const MILLI: u64 = 1_000_000;

/// Smallest first; every factor divides the next, so the last one that divides a number is the largest.
const DURATIONS: &[(&str, u64)] = &[
    ("ms", MILLI),
    ("s", 1_000 * MILLI),
    ("m", 60_000 * MILLI),
    ("h", 3_600_000 * MILLI),
];
const SIZES: &[(&str, u64)] = &[
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

fn largest(amount: u64, units: &'static [(&'static str, u64)]) -> (&'static str, u64) {
    let smallest = units[0];
    if amount == 0 {
        return smallest;
    }
    units
        .iter()
        .rev()
        .find(|(_, factor)| amount % factor == 0)
        .copied()
        .unwrap_or(smallest)
}

fn quantity(text: &str, units: &[(&str, u64)]) -> Result<u64, UnitError> {
    let end = text
        .bytes()
        .position(|b| !b.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, suffix) = text.split_at(end);
    if digits.is_empty() {
        return Err(UnitError::NoNumber);
    }
    if suffix.is_empty() {
        return Err(UnitError::BareNumber);
    }
    if suffix.starts_with('.') {
        return Err(UnitError::Fraction);
    }
    let factor = units
        .iter()
        .find(|(unit, _)| *unit == suffix)
        .map(|(_, factor)| *factor)
        .ok_or(UnitError::UnknownUnit)?;
    digits
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(factor))
        .ok_or(UnitError::TooLarge)
}
