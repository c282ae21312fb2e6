//! The bearer's side of a capability: what is in a token, and tokens made from tokens.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::time::SystemTime;

use libmacaroon::{Caveat as Link, Format, Macaroon};
use zeroize::Zeroizing;

use super::caveat::{Caveat, CaveatError};
use super::keyring::Keyring;

/// Longest token that is looked at, in bytes of its text. The largest of use is a tenth of it, and a header of 8 KiB
/// holds it.
pub const TOKEN_MAX: usize = 4096;
/// Most caveats of a token. There are nine kinds; the rest is room for those who attenuate further.
pub const CAVEATS_MAX: usize = 32;

/// Where a token is from, as macaroons say it. It is not signed, so it says the same in all of them: no byte of a token
/// can be changed without its being refused.
const LOCATION: &str = "ron";
const VERSION: &str = "v1";

/// Fills a buffer with random bytes.
pub type Random<'a> = &'a mut dyn FnMut(&mut [u8]) -> io::Result<()>;

/// A capability as it travels: one word of base64url. Whoever has it may do what it allows.
///
/// Its text is wiped when it is dropped, and shown by [`as_str`](Token::as_str) only.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Zeroizing<String>);

impl Token {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// What a capability, and all that is made from it, is revoked by: 128 random bits, written as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CapId(u128);

impl CapId {
    /// A new one.
    ///
    /// # Errors
    ///
    /// What `random` fails with.
    pub fn random(random: Random<'_>) -> io::Result<CapId> {
        let mut bytes = [0; 16];
        random(&mut bytes)?;
        Ok(CapId(u128::from_be_bytes(bytes)))
    }
}

impl fmt::Display for CapId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for CapId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<CapId, IdError> {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() != 32 || !text.bytes().all(digit) {
            return Err(IdError::CapId);
        }
        u128::from_str_radix(text, 16)
            .map(CapId)
            .map_err(|_| IdError::CapId)
    }
}

/// The name of a key: 1 to 32 letters, digits, `-` or `_`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kid(String);

impl Kid {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Kid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Kid {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Kid, IdError> {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        match (1..=32).contains(&text.len()) && text.bytes().all(known) {
            true => Ok(Kid(text.to_owned())),
            false => Err(IdError::Kid),
        }
    }
}

/// A text that is no id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not the id of a capability.
    #[error("the id of a capability is 32 digits of 0-9 a-f")]
    CapId,
    /// Not the name of a key.
    #[error("the name of a key is 1 to 32 letters, digits, - or _")]
    Kid,
}

/// A token that is none. The bearer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Longer than [`TOKEN_MAX`].
    #[error("the token is longer than {TOKEN_MAX} bytes")]
    TooLong,
    /// Not a macaroon in V2 binary and base64url, as this library and others write it.
    #[error("the token is not a macaroon in V2 binary and base64url")]
    Unreadable,
    /// More than [`CAVEATS_MAX`].
    #[error("the token has more than {CAVEATS_MAX} caveats")]
    TooManyCaveats,
    /// A macaroon, but its location is not `ron`, or its identifier not `v1.<kid>.<cap_id>`.
    #[error("the token is a macaroon, but not one for these services")]
    Foreign,
}

/// A token that could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MintError {
    /// The token to start from is none.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// One of the caveats cannot be written. The caller's fault.
    #[error(transparent)]
    Caveat(#[from] CaveatError),
    /// The keyring's first key is past its `not_after`.
    #[error("the newest key has expired; rotate the keyring")]
    KeyExpired,
    /// No randomness.
    #[error("no random bytes")]
    Random(#[source] io::Error),
}

/// A token, read but not verified: nothing in it is known to be true.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Inspection {
    /// The key that it names.
    pub kid: Kid,
    /// What it would be revoked by.
    pub cap_id: CapId,
    /// Its caveats in order.
    pub caveats: Vec<Inspected>,
}

/// A caveat of a token that was read but not verified.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Inspected {
    /// One that is understood.
    Known(Caveat),
    /// One for which the token is refused everywhere: its text, which may hold anything, and why.
    Refused(String, CaveatError),
    /// One that somebody else would have to discharge: refused everywhere. Its location, which may hold anything.
    ThirdParty(String),
}

/// Makes a token of the keyring's newest key.
///
/// # Errors
///
/// [`MintError`] if a caveat cannot be written, the token would be longer or have more caveats than is accepted, the
/// key has expired, or `random` fails.
pub fn mint(
    keyring: &Keyring,
    caveats: &[Caveat],
    random: Random<'_>,
    now: SystemTime,
) -> Result<Token, MintError> {
    let key = keyring.newest();
    if key.is_expired(now) {
        return Err(MintError::KeyExpired);
    }
    let cap_id = CapId::random(random).map_err(MintError::Random)?;
    let identifier = format!("{VERSION}.{}.{cap_id}", key.kid());
    let macaroon = Macaroon::create(Some(LOCATION), key.root(), identifier);
    restrict(macaroon.map_err(|_| TokenError::TooLong)?, caveats)
}

/// Makes a token that allows less. It needs no key, and what was allowed less cannot be allowed again.
///
/// # Errors
///
/// [`MintError`] if `token` is none, a caveat cannot be written, or the new token would be longer or have more caveats
/// than is accepted.
pub fn attenuate(token: &str, caveats: &[Caveat]) -> Result<Token, MintError> {
    restrict(read(token)?.macaroon, caveats)
}

/// Reads a token without verifying it.
///
/// # Errors
///
/// [`TokenError`] if it is none.
pub fn inspect(token: &str) -> Result<Inspection, TokenError> {
    let read = read(token)?;
    let caveats = read.macaroon.caveats().iter().map(|link| match link {
        Link::ThirdParty(link) => Inspected::ThirdParty(link.location().to_owned()),
        Link::FirstParty(link) => match parse(link.predicate()) {
            Ok(caveat) => Inspected::Known(caveat),
            Err(error) => {
                let text = String::from_utf8_lossy(link.predicate()).into_owned();
                Inspected::Refused(text, error)
            }
        },
    });
    Ok(Inspection {
        caveats: caveats.collect(),
        kid: read.kid,
        cap_id: read.cap_id,
    })
}

/// What a token says it is.
pub(super) struct Read {
    pub(super) macaroon: Macaroon,
    pub(super) kid: Kid,
    pub(super) cap_id: CapId,
}

pub(super) fn read(token: &str) -> Result<Read, TokenError> {
    if token.len() > TOKEN_MAX {
        return Err(TokenError::TooLong);
    }
    // The version byte 2, so that no reader but that of V2 binary sees it.
    if !token.starts_with('A') {
        return Err(TokenError::Unreadable);
    }
    let macaroon = Macaroon::deserialize(token).map_err(|_| TokenError::Unreadable)?;
    if macaroon.caveats().len() > CAVEATS_MAX {
        return Err(TokenError::TooManyCaveats);
    }
    // One spelling: no longer lengths, other alphabets, bytes behind the end.
    let written = macaroon
        .serialize(Format::V2)
        .map_err(|_| TokenError::Unreadable)?;
    if written.trim_end_matches('=') != token.trim_end_matches('=') {
        return Err(TokenError::Unreadable);
    }
    let (kid, cap_id) = identity(&macaroon).ok_or(TokenError::Foreign)?;
    Ok(Read {
        macaroon,
        kid,
        cap_id,
    })
}

fn identity(macaroon: &Macaroon) -> Option<(Kid, CapId)> {
    let identifier = std::str::from_utf8(macaroon.identifier()).ok()?;
    let (kid, cap_id) = identifier
        .strip_prefix(VERSION)?
        .strip_prefix('.')?
        .split_once('.')?;
    let ours = macaroon.location() == Some(LOCATION);
    ours.then_some((kid.parse().ok()?, cap_id.parse().ok()?))
}

pub(super) fn parse(predicate: &[u8]) -> Result<Caveat, CaveatError> {
    std::str::from_utf8(predicate)
        .map_err(|_| CaveatError::Unknown)?
        .parse()
}

fn restrict(mut macaroon: Macaroon, caveats: &[Caveat]) -> Result<Token, MintError> {
    if macaroon.caveats().len() + caveats.len() > CAVEATS_MAX {
        return Err(TokenError::TooManyCaveats.into());
    }
    for caveat in caveats {
        macaroon
            .add_first_party_caveat(caveat.predicate()?)
            .map_err(|_| TokenError::TooLong)?;
    }
    let text = macaroon
        .serialize(Format::V2)
        .map_err(|_| TokenError::TooLong)?;
    let mut text = Zeroizing::new(text);
    let length = text.trim_end_matches('=').len();
    text.truncate(length);
    match text.len() <= TOKEN_MAX {
        true => Ok(Token(text)),
        false => Err(TokenError::TooLong.into()),
    }
}
