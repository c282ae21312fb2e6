//! Names of messages and of leases.

use std::fmt;
use std::str::FromStr;

/// Which message: the same in every delivery of it, and in the answer to a repeated send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MessageId(u128);

/// The right to ack one delivery of one message. Whoever has it may end the message, so it is in no log.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseId(u128);

/// A text that is no id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id is 32 of the digits 0-9 and a-f")]
pub struct ParseIdError;

impl MessageId {
    /// The `number`th message of a letterbox, which `epoch` tells from those of other processes.
    pub(crate) fn new(epoch: u64, number: u64) -> Self {
        Self(u128::from(epoch) << 64 | u128::from(number))
    }

    /// Its number, if it is of this epoch.
    pub(crate) fn number(self, epoch: u64) -> Option<u64> {
        (self.0 >> 64 == u128::from(epoch)).then_some(self.0 as u64)
    }
}

impl LeaseId {
    /// Of bits that nobody can guess.
    pub fn new(random: u128) -> Self {
        Self(random)
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeaseId(..)")
    }
}

impl FromStr for MessageId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        digits(text).map(Self)
    }
}

impl FromStr for LeaseId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        digits(text).map(Self)
    }
}

/// In one spelling only.
fn digits(text: &str) -> Result<u128, ParseIdError> {
    let allowed = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() != 32 || !text.bytes().all(allowed) {
        return Err(ParseIdError);
    }
    u128::from_str_radix(text, 16).map_err(|_| ParseIdError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written_and_in_no_other_spelling() {
        let id = MessageId::new(0xfedc, 7);
        assert_eq!(id.to_string(), "000000000000fedc0000000000000007");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!((id.number(0xfedc), id.number(0xfedd)), (Some(7), None));
        let lease = LeaseId::new(u128::MAX);
        assert_eq!(lease.to_string().parse(), Ok(lease));
        assert_eq!(format!("{lease:?}"), "LeaseId(..)");
        let long = "0".repeat(33);
        for text in [
            "",
            "7",
            &long,
            &long[2..],
            "+0000000000000000000000000000007",
            "000000000000FEDC0000000000000007",
            "000000000000fedc00000000000000é",
        ] {
            assert_eq!(text.parse::<MessageId>(), Err(ParseIdError), "{text:?}");
        }
    }
}
