//! What a document is called: the BLAKE3-256 of its bytes.

use std::fmt;
use std::str::FromStr;

const PREFIX: &str = "b3:";
const DIGITS: usize = 2 * blake3::OUT_LEN;

/// The address of an object; as text `b3:` and 64 lower-case hexadecimal digits.
///
/// `{:x}` gives the digits alone, for names where a colon is in the way.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address([u8; blake3::OUT_LEN]);

/// Why a text is no [`Address`]. It never carries the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// Something other than the prefix comes first.
    #[error("an address begins with \"{PREFIX}\"")]
    Prefix,
    /// Too few or too many bytes after the prefix.
    #[error("an address has {DIGITS} digits after \"{PREFIX}\", this one has {found}")]
    Length {
        /// How many there are.
        found: usize,
    },
    /// Not a lower-case hexadecimal digit.
    #[error("digit {at} of the address is not one of 0-9 and a-f")]
    Digit {
        /// Which of the digits, from 1.
        at: usize,
    },
}

impl Address {
    /// The address of the object that consists of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        blake3::hash(bytes).into()
    }

    /// The hash itself.
    pub const fn as_bytes(&self) -> &[u8; blake3::OUT_LEN] {
        &self.0
    }
}

impl From<[u8; blake3::OUT_LEN]> for Address {
    fn from(hash: [u8; blake3::OUT_LEN]) -> Self {
        Self(hash)
    }
}

impl From<blake3::Hash> for Address {
    fn from(hash: blake3::Hash) -> Self {
        Self(hash.into())
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let digits = text
            .strip_prefix(PREFIX)
            .ok_or(AddressError::Prefix)?
            .as_bytes();
        if digits.len() != DIGITS {
            return Err(AddressError::Length {
                found: digits.len(),
            });
        }
        let mut hash = [0; blake3::OUT_LEN];
        for (at, &digit) in digits.iter().enumerate() {
            let value = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return Err(AddressError::Digit { at: at + 1 }),
            };
            hash[at / 2] = hash[at / 2] << 4 | value;
        }
        Ok(Self(hash))
    }
}

impl fmt::LowerHex for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{self:x}")
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::{Address, AddressError};

    const EMPTY: &str = "b3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";

    #[test]
    fn text_that_is_no_address_is_refused_by_what_is_wrong_with_it() {
        let digits = &EMPTY[3..];
        let length = |found| AddressError::Length { found };
        let digit = |at| AddressError::Digit { at };
        let cases = [
            (String::new(), AddressError::Prefix),
            (digits.to_owned(), AddressError::Prefix),
            (format!("B3:{digits}"), AddressError::Prefix),
            (format!(" {EMPTY}"), AddressError::Prefix),
            (format!("\"{EMPTY}\""), AddressError::Prefix),
            ("b3:".to_owned(), length(0)),
            (EMPTY[..66].to_owned(), length(63)),
            (format!("{EMPTY}0"), length(65)),
            (format!("{EMPTY}\n"), length(65)),
            (format!("b3:A{}", &digits[1..]), digit(1)),
            (format!("b3:+{}", &digits[1..]), digit(1)),
            (format!("b3:é{}", &digits[2..]), digit(1)),
            (format!("b3:a/{}", &digits[2..]), digit(2)),
            (format!("b3:a:{}", &digits[2..]), digit(2)),
            (format!("b3:a`{}", &digits[2..]), digit(2)),
            (format!("b3:{}g", &digits[1..]), digit(64)),
            (format!("b3:{}\0", &digits[1..]), digit(64)),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<Address>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn an_error_says_what_would_be_right() {
        assert_eq!(
            AddressError::Prefix.to_string(),
            "an address begins with \"b3:\""
        );
        assert_eq!(
            AddressError::Length { found: 63 }.to_string(),
            "an address has 64 digits after \"b3:\", this one has 63"
        );
        assert_eq!(
            AddressError::Digit { at: 7 }.to_string(),
            "digit 7 of the address is not one of 0-9 and a-f"
        );
    }

    #[test]
    fn text_and_bytes_are_the_same_address() {
        let address: Address = EMPTY.parse().unwrap();
        assert_eq!(address, Address::of(b""));
        assert_eq!(address.as_bytes()[..2], [0xaf, 0x13]);
        assert_eq!(address.to_string(), EMPTY);
        assert_eq!(format!("{address:?}"), EMPTY);
        assert_eq!(format!("{address:x}"), EMPTY[3..]);
        assert!(Address::from([0; 32]) < address && address < Address::from([0xff; 32]));
    }
}
