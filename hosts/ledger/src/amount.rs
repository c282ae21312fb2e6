//! Money in minor units.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An amount of money in minor units, 0 to 2^128 - 1; a decimal string on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(u128);

/// No amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a decimal number from 0 to 2^128 - 1, without sign or leading zeros, as a string"
)]
pub struct NoAmount;

impl Amount {
    /// Nothing.
    pub const ZERO: Amount = Amount(0);

    /// So many minor units.
    pub const fn new(units: u128) -> Amount {
        Amount(units)
    }

    /// In minor units.
    pub const fn units(self) -> u128 {
        self.0
    }

    /// Both together, unless that is beyond the range.
    pub fn checked_add(self, other: Amount) -> Option<Amount> {
        self.0.checked_add(other.0).map(Amount)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Amount {
    type Err = NoAmount;

    fn from_str(text: &str) -> Result<Amount, NoAmount> {
        let is_canonical = text == "0" || !text.starts_with(['0', '+']);
        let units = text.parse().ok().filter(|_| is_canonical);
        units.map(Amount).ok_or(NoAmount)
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Amount, D::Error> {
        crate::name::from_text(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_has_one_text() {
        for text in ["0", "1", "10", "340282366920938463463374607431768211455"] {
            assert_eq!(text.parse::<Amount>().unwrap().to_string(), text);
        }
        let others = ["", "+1", "-1", "01", "00", "1.0", "1e3", " 1", "0x1", "٣"];
        let beyond = "340282366920938463463374607431768211456";
        for text in others.into_iter().chain([beyond]) {
            assert_eq!(text.parse::<Amount>(), Err(NoAmount), "{text}");
        }
    }
}
