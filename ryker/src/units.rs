//! Durations and sizes with a unit: the grammar of ron-config, held to it by the same vectors.
//!
//! Decimal digits and one unit, nothing before, between or after: `250ms`, `64KiB`. Units are case-sensitive. The
//! amount fits in 64 bits of nanoseconds or bytes.

use std::time::Duration;

use thiserror::Error;

/// Why a text is no quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum UnitError {
    #[error("is a bare number and needs a unit")]
    BareNumber,
    #[error("does not begin with a whole number")]
    NoNumber,
    #[error("has a fraction; write a whole number of a smaller unit")]
    Fraction,
    #[error("has an unknown unit")]
    UnknownUnit,
    #[error("is too large")]
    TooLarge,
}

const NANOS_PER_MILLI: u64 = 1_000_000;

/// Units and what one of them is worth, the largest first.
type Units = [(&'static str, u64); 4];

const TIMES: Units = [
    ("h", 3_600_000 * NANOS_PER_MILLI),
    ("m", 60_000 * NANOS_PER_MILLI),
    ("s", 1_000 * NANOS_PER_MILLI),
    ("ms", NANOS_PER_MILLI),
];
const SIZES: Units = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

pub(crate) fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    parse(text, &TIMES).map(Duration::from_nanos)
}

/// Bytes.
pub(crate) fn parse_size(text: &str) -> Result<u64, UnitError> {
    parse(text, &SIZES)
}

/// `1s`, `1500ms`: in the largest unit that divides it.
pub(crate) fn format_millis(millis: u64) -> String {
    format(millis, &TIMES, NANOS_PER_MILLI)
}

/// `64KiB`, `1025B`: in the largest unit that divides it.
pub(crate) fn format_size(bytes: u64) -> String {
    format(bytes, &SIZES, 1)
}

fn parse(text: &str, units: &Units) -> Result<u64, UnitError> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = &text[..text.len() - unit.len()];
    if digits.is_empty() {
        return Err(UnitError::NoNumber);
    }
    if unit.is_empty() {
        return Err(UnitError::BareNumber);
    }
    if unit.starts_with('.') {
        return Err(UnitError::Fraction);
    }
    let Some((_, worth)) = units.iter().find(|(name, _)| *name == unit) else {
        return Err(UnitError::UnknownUnit);
    };
    let amount: u64 = digits.parse().map_err(|_| UnitError::TooLarge)?;
    amount.checked_mul(*worth).ok_or(UnitError::TooLarge)
}

/// `amount` is counted in `base`, which every unit is a multiple of.
fn format(amount: u64, units: &Units, base: u64) -> String {
    let fits = |worth: u64| worth == base || (amount != 0 && amount % (worth / base) == 0);
    units
        .iter()
        .find(|(_, worth)| fits(*worth))
        .map(|(unit, worth)| format!("{}{unit}", amount / (worth / base)))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(error: UnitError) -> &'static str {
        match error {
            UnitError::BareNumber => "bare_number",
            UnitError::NoNumber => "no_number",
            UnitError::Fraction => "fraction",
            UnitError::UnknownUnit => "unknown_unit",
            UnitError::TooLarge => "too_large",
        }
    }

    #[test]
    fn every_vector_of_the_shared_grammar_holds() {
        let text = include_str!("../../ron-config/tests/vectors/units.json");
        let file: serde_json::Value = serde_json::from_str(text).unwrap();
        let vectors = file["vectors"].as_array().unwrap();
        assert!(vectors.len() > 90, "{} vectors", vectors.len());
        for vector in vectors {
            let input = vector["input"].as_str().unwrap();
            let result = match vector["kind"].as_str().unwrap() {
                "duration" => parse_duration(input).map(|d| d.as_nanos().to_string()),
                "size" => parse_size(input).map(|bytes| bytes.to_string()),
                kind => panic!("{kind}"),
            };
            match (vector["ok"].as_str(), vector["error"].as_str()) {
                (Some(ok), None) => assert_eq!(result.as_deref(), Ok(ok), "{vector}"),
                (None, Some(error)) => assert_eq!(result.map_err(name), Err(error), "{vector}"),
                _ => panic!("{vector}"),
            }
        }
    }

    #[test]
    fn quantities_are_written_in_the_largest_unit_that_divides_them() {
        for (millis, text) in [
            (0, "0ms"),
            (1, "1ms"),
            (1_500, "1500ms"),
            (90_000, "90s"),
            (60_000, "1m"),
            (7_200_000, "2h"),
        ] {
            assert_eq!(format_millis(millis), text);
        }
        for (bytes, text) in [
            (0, "0B"),
            (1_025, "1025B"),
            (65_536, "64KiB"),
            (1 << 20, "1MiB"),
            (3 << 30, "3GiB"),
        ] {
            assert_eq!(format_size(bytes), text);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(millis in 0..=u64::MAX / NANOS_PER_MILLI, bytes: u64) {
            prop_assert_eq!(parse_duration(&format_millis(millis)), Ok(Duration::from_millis(millis)));
            prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text: String) {
            let _ = (parse_duration(&text), parse_size(&text));
        }
    }
}
