//! Names of actors, events, kinds, accounts, tenants and epochs: restricted ASCII, so that no two of them look alike,
//! none needs an escape in JSON, and all readers agree on their order, which is that of their bytes.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

/// Why a text is no name. It never carries the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// It is empty or too long.
    #[error("{what} has 1 to {max} characters")]
    Length {
        /// What it should have been.
        what: &'static str,
        /// The most there may be.
        max: usize,
    },
    /// One of its characters is not allowed.
    #[error("character {at} of {what} is not one of A-Z a-z 0-9 {marks}")]
    Character {
        /// What it should have been.
        what: &'static str,
        /// Which of the characters, from 1.
        at: usize,
        /// What is allowed beside letters and digits.
        marks: &'static str,
    },
}

/// What makes a name of one sort.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    what: &'static str,
    max: usize,
    /// With blanks between them, for people.
    marks: &'static str,
    /// By byte.
    allowed: [bool; 256],
}

/// As the tenant of a capability.
pub(crate) const NAME: Rule = Rule::new("a name", 64, ". _ : / @ -");
/// Goes into the path of a URL.
pub(crate) const EPOCH: Rule = Rule::new("an epoch", 128, ". _ : -");
/// Longer than any name, for what is checked otherwise.
pub(crate) const DIGITS: Rule = Rule::new("a string", 128, ". _ : -");

impl Rule {
    const fn new(what: &'static str, max: usize, marks: &'static str) -> Self {
        let mut allowed = [false; 256];
        let (mut byte, bytes) = (0, marks.as_bytes());
        while byte < 128 {
            allowed[byte] = (byte as u8).is_ascii_alphanumeric();
            byte += 1;
        }
        let mut at = 0;
        while at < bytes.len() {
            allowed[bytes[at] as usize] |= bytes[at] != b' ';
            at += 1;
        }
        Rule {
            what,
            max,
            marks,
            allowed,
        }
    }

    fn allows(&self, byte: u8) -> bool {
        self.allowed
            .get(usize::from(byte))
            .is_some_and(|allowed| *allowed)
    }

    /// How many bytes `text` begins with that are a name, if what follows them is a quotation mark.
    pub(crate) fn quoted(&self, text: &[u8]) -> Option<usize> {
        let len = text.iter().position(|&byte| !self.allows(byte))?;
        ((1..=self.max).contains(&len) && text.get(len) == Some(&b'"')).then_some(len)
    }

    /// Why there is no name before a quotation mark at the start of `text`; `None` if it only ends too early.
    pub(crate) fn refusal(&self, text: &[u8]) -> Option<NameError> {
        let window = text.get(..text.len().min(self.max + 1)).unwrap_or_default();
        match window.iter().position(|&byte| byte == b'"') {
            Some(len) => self.check(window.get(..len).unwrap_or_default()).err(),
            None if window.is_empty() => None,
            None => self.check(window).err(),
        }
    }

    pub(crate) fn check(&self, text: &[u8]) -> Result<(), NameError> {
        let Rule {
            what, max, marks, ..
        } = *self;
        if text.is_empty() || text.len() > max {
            return Err(NameError::Length { what, max });
        }
        match text.iter().position(|&byte| !self.allows(byte)) {
            Some(at) => Err(NameError::Character {
                what,
                at: at + 1,
                marks,
            }),
            None => Ok(()),
        }
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $rule:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Box<str>);

        impl $name {
            /// Its text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Of a text that the rule has been applied to.
            pub(crate) fn checked(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                $rule.check(text.as_bytes()).map(|()| Self(text.into()))
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// A tenant, actor, event, kind, account or policy: 1 to 64 of `A-Z a-z 0-9 . _ : / @ -`.
    Name, NAME
}
name! {
    /// An epoch: 1 to 128 of `A-Z a-z 0-9 . _ : -`.
    EpochId, EPOCH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_the_rule_says_and_an_epoch_longer_and_without_slash() {
        let long = "x".repeat(64);
        for text in ["a", "Az09._:/@-", long.as_str()] {
            assert_eq!(text.parse::<Name>().unwrap().as_str(), text);
        }
        let what = "a name";
        let length = NameError::Length { what, max: 64 };
        let marks = NAME.marks;
        let character = |at| NameError::Character { what, at, marks };
        let cases = [
            ("".to_owned(), length),
            (format!("{long}x"), length),
            ("a b".into(), character(2)),
            ("a\"".into(), character(2)),
            ("\\".into(), character(1)),
            ("abé".into(), character(3)),
            ("a\n".into(), character(2)),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<Name>(), Err(error), "{text:?}");
        }
        assert!("x".repeat(128).parse::<EpochId>().is_ok());
        assert!("x".repeat(129).parse::<EpochId>().is_err());
        assert_eq!(
            "a/b".parse::<EpochId>().unwrap_err().to_string(),
            "character 2 of an epoch is not one of A-Z a-z 0-9 . _ : -"
        );
    }
}
