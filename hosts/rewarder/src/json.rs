//! Canonical JSON, of which a document of given content has exactly one: no whitespace, the fields of an object in the
//! order of their bytes, each once and none unknown, names without escapes, integers without leading zeros. It is the
//! subset of RFC 8785 in which no number is beyond 2^53: amounts and quantities are decimal strings.
//!
//! [`Cursor`] reads this form and no other, without building a tree; what it refuses it can locate.

use std::fmt;

use super::address::{Address, AddressError};
use super::name::{EpochId, Name, NameError, Rule, DIGITS, EPOCH, NAME};

/// What is wrong at one place of a document. Of the document's text it carries names only.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The document ends early.
    #[error("the text ends where {expected} is expected")]
    Ends {
        /// What should follow.
        expected: &'static str,
    },
    /// Blanks or line breaks, which the canonical form has not.
    #[error("whitespace where {expected} is expected; canonical JSON has none")]
    Whitespace {
        /// What should stand there.
        expected: &'static str,
    },
    /// Something else stands there.
    #[error("expected {expected}")]
    Expected {
        /// What should stand there.
        expected: &'static str,
    },
    /// Another field stands there.
    #[error("field `{found}` where `{expected}` is expected; fields are sorted, each stands once, none is unknown")]
    Field {
        /// The field that stands there.
        found: Name,
        /// The field that should.
        expected: &'static str,
    },
    /// Not a name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Not an address.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// An integer with a sign, leading zeros, a fraction or an exponent, or none at all.
    #[error(
        "expected an integer in decimal digits, without sign, leading zeros, fraction or exponent"
    )]
    Integer,
    /// An integer out of its range.
    #[error("expected an integer from {min} to {max}")]
    Range {
        /// The least.
        min: u128,
        /// The most.
        max: u128,
    },
    /// Not so many hexadecimal digits.
    #[error("expected {digits} of 0-9 and a-f")]
    Hex {
        /// How many.
        digits: usize,
    },
    /// A list that is not sorted, or has something twice.
    #[error("`{found}` after `{before}`; {what} ascend by their bytes, each stands once")]
    Order {
        /// What is listed.
        what: &'static str,
        /// The entry that does not belong there.
        found: Name,
        /// The entry before it.
        before: Name,
    },
    /// Too many of something.
    #[error("more than {max} {what}")]
    Many {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        max: usize,
    },
    /// Two values that contradict each other.
    #[error("{rule}")]
    Contradiction {
        /// What has to hold.
        rule: &'static str,
    },
}

/// Why a document is refused: what is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defect {
    document: &'static str,
    path: String,
    byte: usize,
    problem: Problem,
}

impl Defect {
    /// The element, as in `work[3].events[0].qty`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The byte of the text, from 0.
    pub fn byte(&self) -> usize {
        self.byte
    }

    /// What is wrong there.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.document)?;
        if !self.path.is_empty() {
            write!(f, ", {}", self.path)?;
        }
        write!(f, ", byte {}: {}", self.byte, self.problem)
    }
}

impl std::error::Error for Defect {}

/// A defect whose element the reader of the document still has to name.
#[derive(Debug)]
pub(crate) struct Slip {
    pub(crate) byte: usize,
    pub(crate) problem: Problem,
}

impl Slip {
    #[cold]
    pub(crate) fn at(self, document: &'static str, path: impl Into<String>) -> Defect {
        Defect {
            document,
            path: path.into(),
            byte: self.byte,
            problem: self.problem,
        }
    }
}

/// Longest decimal integer below 2^128.
const DIGITS_MAX: usize = 39;

#[derive(Clone, Debug)]
pub(crate) struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Cursor { text, at: 0 }
    }

    /// How many bytes are read.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// What was read since `from`.
    pub(crate) fn since(&self, from: usize) -> &'a [u8] {
        self.text.get(from..self.at).unwrap_or_default()
    }

    pub(crate) fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn rest(&self) -> &'a [u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    pub(crate) fn slip(&self, problem: Problem) -> Slip {
        Slip {
            byte: self.at,
            problem,
        }
    }

    #[cold]
    fn expected(&self, expected: &'static str) -> Slip {
        self.slip(match self.peek() {
            None => Problem::Ends { expected },
            Some(b' ' | b'\t' | b'\r' | b'\n') => Problem::Whitespace { expected },
            Some(_) => Problem::Expected { expected },
        })
    }

    /// Exactly this.
    pub(crate) fn token(&mut self, token: &'static str) -> Result<(), Slip> {
        if !self.rest().starts_with(token.as_bytes()) {
            return Err(self.expected(token));
        }
        self.at += token.len();
        Ok(())
    }

    /// The opening brace or the comma `lead`, and the field `name` with its colon.
    pub(crate) fn field(&mut self, lead: &'static str, name: &'static str) -> Result<(), Slip> {
        self.token(lead)?;
        let found = self.rest().strip_prefix(b"\"");
        let found = found.and_then(|rest| rest.strip_prefix(name.as_bytes()));
        if !found.is_some_and(|rest| rest.starts_with(b"\":")) {
            return Err(self.other_field(name));
        }
        self.at += name.len() + 3;
        Ok(())
    }

    #[cold]
    fn other_field(&self, expected: &'static str) -> Slip {
        match self.clone().name(&NAME) {
            Ok(found) if found != expected => self.slip(Problem::Field {
                found: Name::checked(found),
                expected,
            }),
            _ => self.expected(expected),
        }
    }

    /// A string that is a name of this sort.
    pub(crate) fn name(&mut self, rule: &Rule) -> Result<&'a str, Slip> {
        if self.peek() != Some(b'"') {
            return Err(self.expected("a string"));
        }
        let body = self.text.get(self.at + 1..).unwrap_or_default();
        let Some(len) = rule.quoted(body) else {
            return Err(match rule.refusal(body) {
                Some(error) => self.slip(error.into()),
                None => Slip {
                    byte: self.text.len(),
                    problem: Problem::Ends {
                        expected: "the end of a string",
                    },
                },
            });
        };
        self.at += len + 2;
        // Names are ASCII, so this does not fail.
        let name = std::str::from_utf8(body.get(..len).unwrap_or_default());
        name.map_err(|_| self.expected("ASCII"))
    }

    /// A string that is a name.
    pub(crate) fn owned(&mut self) -> Result<Name, Slip> {
        self.name(&NAME).map(Name::checked)
    }

    /// A string that is an epoch.
    pub(crate) fn epoch(&mut self) -> Result<EpochId, Slip> {
        self.name(&EPOCH).map(EpochId::checked)
    }

    /// A string that is an address.
    pub(crate) fn address(&mut self) -> Result<Address, Slip> {
        let mut ahead = self.clone();
        let address = match ahead.name(&DIGITS) {
            Ok(text) => text.parse(),
            Err(Slip {
                problem: Problem::Name(_),
                ..
            }) => Err(AddressError::Prefix),
            Err(slip) => return Err(slip),
        };
        let address = address.map_err(|error: AddressError| self.slip(error.into()))?;
        *self = ahead;
        Ok(address)
    }

    /// A string of `2 * N` lower-case hexadecimal digits.
    pub(crate) fn hex<const N: usize>(&mut self) -> Result<[u8; N], Slip> {
        let mut ahead = self.clone();
        let bytes = match ahead.name(&DIGITS) {
            Ok(text) => hex(text),
            Err(Slip {
                problem: Problem::Name(_),
                ..
            }) => None,
            Err(slip) => return Err(slip),
        };
        let bytes = bytes.ok_or_else(|| self.slip(Problem::Hex { digits: 2 * N }))?;
        *self = ahead;
        Ok(bytes)
    }

    /// A number in digits, from `min` to `max`.
    fn digits(&mut self, min: u128, max: u128) -> Result<u128, Slip> {
        let rest = self.rest();
        let len = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let digits = rest.get(..len).unwrap_or_default();
        if len == 0 || len > 1 && digits.first() == Some(&b'0') {
            return Err(self.slip(Problem::Integer));
        }
        let value = if len < 20 {
            let value = digits
                .iter()
                .fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
            Some(u128::from(value))
        } else if len <= DIGITS_MAX {
            digits.iter().try_fold(0_u128, |sum, digit| {
                sum.checked_mul(10)?.checked_add(u128::from(digit - b'0'))
            })
        } else {
            None
        };
        match value.filter(|value| (min..=max).contains(value)) {
            Some(value) => {
                self.at += len;
                Ok(value)
            }
            None => Err(self.slip(Problem::Range { min, max })),
        }
    }

    /// A string that is an integer, from `min` to `max`.
    pub(crate) fn amount(&mut self, min: u128, max: u128) -> Result<u128, Slip> {
        if self.peek() != Some(b'"') {
            return Err(self.expected("a string of decimal digits"));
        }
        self.at += 1;
        let value = self.digits(min, max)?;
        if self.peek() != Some(b'"') {
            return Err(match self.peek() {
                None => self.expected("the end of a string"),
                Some(_) => self.slip(Problem::Integer),
            });
        }
        self.at += 1;
        Ok(value)
    }

    /// Nothing, or a string that is an integer of at least 1.
    pub(crate) fn limit(&mut self) -> Result<Option<u128>, Slip> {
        match self.peek() {
            Some(b'n') => self.token("null").map(|()| None),
            Some(b'"') => self.amount(1, u128::MAX).map(Some),
            _ => Err(self.expected("null or a string of decimal digits")),
        }
    }

    /// A number, from `min` to `max`.
    pub(crate) fn number(&mut self, min: u32, max: u32) -> Result<u32, Slip> {
        if matches!(self.peek(), None | Some(b' ' | b'\t' | b'\r' | b'\n')) {
            return Err(self.expected("a number"));
        }
        let before = self.at;
        let value = self.digits(min.into(), max.into())?;
        if matches!(self.peek(), Some(b'.' | b'e' | b'E')) {
            self.at = before;
            return Err(self.slip(Problem::Integer));
        }
        u32::try_from(value).map_err(|_| self.slip(Problem::Integer))
    }

    /// Nothing more.
    pub(crate) fn end(&self) -> Result<(), Slip> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.expected("the end of the text")),
        }
    }
}

/// `2 * N` lower-case hexadecimal digits.
pub(crate) fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (at, digit) in text.bytes().enumerate() {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        if let Some(byte) = bytes.get_mut(at / 2) {
            *byte = *byte << 4 | value;
        }
    }
    Some(bytes)
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) struct Hex<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
