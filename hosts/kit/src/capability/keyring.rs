//! Keys and revocations, as a text that people can read.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::time::{Duration, SystemTime};

use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{alphabet, Engine as _};
use libmacaroon::MacaroonKey;
use ron_kernel::bus::rfc3339;
use toml::{Table, Value};
use zeroize::Zeroizing;

use super::time::{parse_utc, writable};
use super::token::{CapId, Kid, Random};

/// Most keys: a rotation per week keeps two.
pub const KEYS_MAX: usize = 16;
/// Most revocations at a time. Each takes about a hundred bytes of a file that is read on every change.
pub const REVOKED_MAX: usize = 8192;
/// The least that nobody can guess, and what the hash takes in without loss.
const SECRET_MIN: usize = 32;
const SECRET_MAX: usize = 256;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The keys that verify tokens, and what was revoked. Secrets are wiped when it is dropped.
///
/// ```toml
/// [[key]]                                   # the first one mints
/// kid = "20261121-5f1d0c2b9a8e7f60"
/// secret = "base64url of at least 32 random bytes"
///
/// [[key]]                                   # the others verify until then
/// kid = "20261114-0011223344556677"
/// secret = "..."
/// not_after = "2026-11-23T00:00:00.000Z"
///
/// [[revoked]]
/// cap_id = "00112233445566778899aabbccddeeff"
/// until = "2026-12-01T00:00:00.000Z"
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Keyring {
    newest: Key,
    previous: Vec<Key>,
    revoked: BTreeMap<CapId, SystemTime>,
}

/// One key.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    kid: Kid,
    secret: Zeroizing<Vec<u8>>,
    root: MacaroonKey,
    not_after: Option<SystemTime>,
}

/// A text that is no keyring. The fault of whoever wrote it; nothing of the text is in it but names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// Not UTF-8, or not TOML.
    #[error("line {line}: {problem}")]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// Something that a keyring does not have.
    #[error("{place}: expected {expected}")]
    Entry {
        /// Which entry, and which field of it.
        place: String,
        /// What would be right.
        expected: &'static str,
    },
}

/// A change that the keyring does not take.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// [`KEYS_MAX`] keys are still valid.
    #[error("{KEYS_MAX} keys are still valid; wait until the oldest expires")]
    TooManyKeys,
    /// [`REVOKED_MAX`] revocations are in force.
    #[error("{REVOKED_MAX} revocations are in force; rotate the keyring instead")]
    TooManyRevoked,
    /// A revocation that would end before it begins.
    #[error("the revocation would already have ended; expected a later instant")]
    Past,
    /// No randomness.
    #[error("no random bytes")]
    Random(#[source] io::Error),
}

impl Keyring {
    /// A keyring with one key.
    ///
    /// # Errors
    ///
    /// What `random` fails with.
    pub fn generate(random: Random<'_>, now: SystemTime) -> io::Result<Keyring> {
        Ok(Keyring {
            newest: Key::generate(random, now)?,
            previous: Vec::new(),
            revoked: BTreeMap::new(),
        })
    }

    /// Reads what [`render`](Keyring::render) writes.
    ///
    /// # Errors
    ///
    /// [`ParseError`] with the place. Unknown fields are refused.
    pub fn parse(text: &str) -> Result<Keyring, ParseError> {
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            let before = error.span().and_then(|span| text.get(..span.start));
            ParseError::Syntax {
                line: before.map_or(1, |before| before.matches('\n').count() + 1),
                problem: error.message().lines().collect::<Vec<_>>().join(", "),
            }
        })?;
        Entries::new(table)?.keyring()
    }

    /// As TOML. Comments of a text that was parsed are not kept.
    pub fn render(&self) -> Zeroizing<String> {
        // All of it from the start: what grows leaves copies behind.
        let size = 256 + 512 * (self.previous.len() + 1) + 128 * self.revoked.len();
        let mut text = Zeroizing::new(String::with_capacity(size));
        text.push_str("# The first key mints; the others verify until their not_after. Changed by `ronctl cap`.\n");
        for key in self.keys() {
            text.push_str(&format!("\n[[key]]\nkid = \"{}\"\nsecret = \"", key.kid));
            BASE64.encode_string(key.secret.as_slice(), &mut text);
            text.push_str("\"\n");
            if let Some(not_after) = key.not_after {
                text.push_str(&format!("not_after = \"{}\"\n", rfc3339(not_after)));
            }
        }
        for (cap_id, until) in &self.revoked {
            let until = rfc3339(*until);
            text.push_str(&format!(
                "\n[[revoked]]\ncap_id = \"{cap_id}\"\nuntil = \"{until}\"\n"
            ));
        }
        text
    }

    /// The key that mints.
    pub fn newest(&self) -> &Key {
        &self.newest
    }

    /// All keys, the newest first.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        std::iter::once(&self.newest).chain(&self.previous)
    }

    /// The key of this name.
    pub fn find(&self, kid: &Kid) -> Option<&Key> {
        self.keys().find(|key| key.kid == *kid)
    }

    /// Whether a capability is revoked at `now`.
    pub fn is_revoked(&self, cap_id: CapId, now: SystemTime) -> bool {
        self.revoked.get(&cap_id).is_some_and(|until| now < *until)
    }

    /// What is revoked, and until when.
    pub fn revoked(&self) -> impl Iterator<Item = (CapId, SystemTime)> + '_ {
        self.revoked.iter().map(|(cap_id, until)| (*cap_id, *until))
    }

    /// Revokes a capability and all that is made from it, until its tokens have expired by themselves. Revoked twice, it
    /// is revoked until the later instant. Forgets revocations that have ended.
    ///
    /// # Errors
    ///
    /// [`ChangeError::Past`], [`ChangeError::TooManyRevoked`].
    pub fn revoke(
        &mut self,
        cap_id: CapId,
        until: SystemTime,
        now: SystemTime,
    ) -> Result<(), ChangeError> {
        let until = writable(until);
        if until <= now {
            return Err(ChangeError::Past);
        }
        self.revoked.retain(|_, until| now < *until);
        if self.revoked.len() >= REVOKED_MAX && !self.revoked.contains_key(&cap_id) {
            return Err(ChangeError::TooManyRevoked);
        }
        let entry = self.revoked.entry(cap_id).or_insert(until);
        *entry = until.max(*entry);
        Ok(())
    }

    /// Makes a new key, which mints from now on. The one before it verifies for `grace` longer, never longer than it
    /// would have. What is revoked was minted by a key that is previous now, so its revocation ends with the last of
    /// those. Forgets keys and revocations that have ended. Returns the new key's name.
    ///
    /// # Errors
    ///
    /// [`ChangeError::TooManyKeys`], [`ChangeError::Random`].
    pub fn rotate(
        &mut self,
        random: Random<'_>,
        now: SystemTime,
        grace: Duration,
    ) -> Result<Kid, ChangeError> {
        let new = Key::generate(random, now).map_err(ChangeError::Random)?;
        if self.find(&new.kid).is_some() {
            let error = io::Error::other("the random source repeats itself");
            return Err(ChangeError::Random(error));
        }
        let mut last = self.newest.clone();
        let end = writable(now.checked_add(grace).unwrap_or(now));
        last.not_after = Some(last.not_after.map_or(end, |before| before.min(end)));
        let previous = std::iter::once(&last).chain(&self.previous);
        let previous: Vec<Key> = previous
            .filter(|key| !key.is_expired(now))
            .cloned()
            .collect();
        if previous.len() >= KEYS_MAX {
            return Err(ChangeError::TooManyKeys);
        }
        let last = previous.iter().filter_map(Key::not_after).max();
        for until in self.revoked.values_mut() {
            *until = (*until).min(last.unwrap_or(now));
        }
        self.revoked.retain(|_, until| now < *until);
        self.previous = previous;
        self.newest = new;
        Ok(self.newest.kid.clone())
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring")
            .field("keys", &self.keys().collect::<Vec<_>>())
            .field("revoked", &self.revoked.len())
            .finish()
    }
}

impl Key {
    fn new(kid: Kid, secret: Zeroizing<Vec<u8>>, not_after: Option<SystemTime>) -> Key {
        Key {
            kid,
            // As macaroons derive it everywhere, so that others can mint with the same secret.
            root: MacaroonKey::generate(&secret),
            secret,
            not_after,
        }
    }

    fn generate(random: Random<'_>, now: SystemTime) -> io::Result<Key> {
        let mut secret = Zeroizing::new(vec![0; SECRET_MIN]);
        random(&mut secret)?;
        let mut suffix = [0; 8];
        random(&mut suffix)?;
        let date: String = rfc3339(writable(now))
            .chars()
            .take(10)
            .filter(|c| *c != '-')
            .collect();
        let name = format!("{date}-{:016x}", u64::from_be_bytes(suffix));
        let kid = name.parse().map_err(io::Error::other)?;
        Ok(Key::new(kid, secret, None))
    }

    /// Its name.
    pub fn kid(&self) -> &Kid {
        &self.kid
    }

    /// From when on it verifies no more.
    pub fn not_after(&self) -> Option<SystemTime> {
        self.not_after
    }

    /// Whether it verifies no more at `now`.
    pub fn is_expired(&self, now: SystemTime) -> bool {
        self.not_after.is_some_and(|not_after| now >= not_after)
    }

    pub(super) fn root(&self) -> &MacaroonKey {
        &self.root
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("kid", &self.kid)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// A text that was TOML, its secrets taken out before anything can fail.
struct Entries {
    keys: Vec<(Table, Option<Zeroizing<String>>)>,
    revoked: Vec<Table>,
}

const KEY: &str = "[[key]]";
const REVOKED: &str = "[[revoked]]";

fn entry(place: String, expected: &'static str) -> ParseError {
    ParseError::Entry { place, expected }
}

impl Entries {
    fn new(mut table: Table) -> Result<Entries, ParseError> {
        let keys = tables(table.remove("key"), KEY).map(|keys| {
            let taken = keys.into_iter().map(|mut key| {
                let secret = match key.remove("secret") {
                    Some(Value::String(secret)) => Some(Zeroizing::new(secret)),
                    _ => None,
                };
                (key, secret)
            });
            taken.collect()
        })?;
        let revoked = tables(table.remove("revoked"), REVOKED)?;
        match table.keys().next() {
            Some(unknown) => Err(entry(
                format!("`{}`", shown(unknown)),
                "only [[key]] and [[revoked]]",
            )),
            None => Ok(Entries { keys, revoked }),
        }
    }

    fn keyring(self) -> Result<Keyring, ParseError> {
        if self.keys.len() > KEYS_MAX {
            return Err(entry(KEY.to_owned(), "at most 16"));
        }
        if self.revoked.len() > REVOKED_MAX {
            return Err(entry(REVOKED.to_owned(), "at most 8192"));
        }
        let mut keys: Vec<Key> = Vec::with_capacity(self.keys.len());
        for (index, (table, secret)) in self.keys.into_iter().enumerate() {
            let mut fields = Fields::new(KEY, index, table);
            let kid = fields.text("kid", "a name: 1 to 32 letters, digits, - or _", |text| {
                text.parse::<Kid>().ok()
            })?;
            if keys.iter().any(|key| key.kid == kid) {
                return Err(fields.wrong("kid", "a name that no key before it has"));
            }
            let decoded = secret.and_then(|text| BASE64.decode(text.as_bytes()).ok());
            let decoded = decoded.map(Zeroizing::new);
            let long =
                |secret: &Zeroizing<Vec<u8>>| (SECRET_MIN..=SECRET_MAX).contains(&secret.len());
            let Some(secret) = decoded.filter(long) else {
                return Err(fields.wrong("secret", "base64url of 32 to 256 random bytes"));
            };
            // Only a key that mints may have no end.
            let not_after = match keys.is_empty() && !fields.has("not_after") {
                true => None,
                false => Some(fields.instant("not_after")?),
            };
            fields.end("only kid, secret and not_after")?;
            keys.push(Key::new(kid, secret, not_after));
        }
        let mut revoked = BTreeMap::new();
        for (index, table) in self.revoked.into_iter().enumerate() {
            let mut fields = Fields::new(REVOKED, index, table);
            let cap_id = fields.text("cap_id", "32 digits of 0-9 a-f", |text| {
                text.parse::<CapId>().ok()
            })?;
            let until = fields.instant("until")?;
            fields.end("only cap_id and until")?;
            let entry = revoked.entry(cap_id).or_insert(until);
            *entry = until.max(*entry);
        }
        let mut keys = keys.into_iter();
        match keys.next() {
            Some(newest) => Ok(Keyring {
                newest,
                previous: keys.collect(),
                revoked,
            }),
            None => Err(entry(KEY.to_owned(), "at least one")),
        }
    }
}

/// The name of a field, unless it could be something else that was pasted into the wrong place.
fn shown(name: &str) -> &str {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    match name.len() <= 16 && name.bytes().all(known) {
        true => name,
        false => "(a name that is not shown)",
    }
}

fn tables(value: Option<Value>, name: &'static str) -> Result<Vec<Table>, ParseError> {
    let entries = match value {
        None => return Ok(Vec::new()),
        Some(Value::Array(entries)) => entries,
        Some(_) => return Err(entry(name.to_owned(), "tables in double brackets")),
    };
    let tables = entries.into_iter().map(|value| match value {
        Value::Table(table) => Ok(table),
        _ => Err(entry(name.to_owned(), "tables in double brackets")),
    });
    tables.collect()
}

/// The fields of one entry, taken out one after the other.
struct Fields {
    name: &'static str,
    index: usize,
    table: Table,
}

impl Fields {
    fn new(name: &'static str, index: usize, table: Table) -> Fields {
        Fields { name, index, table }
    }

    fn wrong(&self, field: &str, expected: &'static str) -> ParseError {
        let field = shown(field);
        entry(
            format!("{} {}: {field}", self.name, self.index + 1),
            expected,
        )
    }

    fn has(&self, field: &str) -> bool {
        self.table.contains_key(field)
    }

    fn text<T>(
        &mut self,
        field: &str,
        expected: &'static str,
        read: fn(&str) -> Option<T>,
    ) -> Result<T, ParseError> {
        let value = self.table.remove(field);
        let read = value.as_ref().and_then(Value::as_str).and_then(read);
        read.ok_or_else(|| self.wrong(field, expected))
    }

    fn instant(&mut self, field: &str) -> Result<SystemTime, ParseError> {
        self.text(
            field,
            "an instant in quotes such as \"2026-01-31T12:00:00Z\"",
            parse_utc,
        )
    }

    fn end(&self, expected: &'static str) -> Result<(), ParseError> {
        match self.table.keys().next() {
            Some(unknown) => Err(self.wrong(unknown, expected)),
            None => Ok(()),
        }
    }
}
