//! What ties the log lines, the answer and the client's own records of one request together.

use std::cell::Cell;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::time::SystemTime;

use hyper::header::{HeaderName, HeaderValue};

/// The header it comes and goes in.
pub(crate) const HEADER: HeaderName = HeaderName::from_static("x-corr-id");
const LENGTH_MAX: usize = 64;

/// The client's `X-Corr-ID`, or one of ours: a ULID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorrelationId(HeaderValue);

impl CorrelationId {
    /// The client's if it is 1 to 64 of `A-Z a-z 0-9 _ -`, as it ends up in logs; otherwise a ULID of `now` and `random`.
    pub(crate) fn of(
        header: Option<&HeaderValue>,
        now: SystemTime,
        random: impl FnOnce() -> u128,
    ) -> Self {
        match header.filter(|value| is_allowed(value.as_bytes())) {
            Some(theirs) => Self(theirs.clone()),
            // Of characters that every header may have.
            None => Self(
                HeaderValue::from_bytes(&ulid(now, random()))
                    .unwrap_or(HeaderValue::from_static("-")),
            ),
        }
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or("-")
    }

    pub(crate) fn into_header(self) -> HeaderValue {
        self.0
    }
}

impl fmt::Display for CorrelationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn is_allowed(text: &[u8]) -> bool {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_' || *byte == b'-';
    (1..=LENGTH_MAX).contains(&text.len()) && text.iter().all(allowed)
}

/// 128 bits for ids, which need to differ, among processes too, and not to be secret: a keyed hash of a count, under a key
/// that the system has given this thread.
pub(crate) fn random() -> u128 {
    thread_local! {
        static OF_THREAD: (RandomState, Cell<u64>) = (RandomState::new(), Cell::new(0));
    }
    OF_THREAD.with(|(key, count)| {
        let half = || {
            let next = count.get().wrapping_add(1);
            count.set(next);
            u128::from(key.hash_one(next))
        };
        half() << 64 | half()
    })
}

const ULID_LENGTH: usize = 26;

/// 48 bits of milliseconds and 80 random ones in Crockford's base 32, which sorts by time.
fn ulid(now: SystemTime, random: u128) -> [u8; ULID_LENGTH] {
    const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let since = now.duration_since(SystemTime::UNIX_EPOCH);
    let ms = since.map_or(0, |since| since.as_millis() as u64) & ((1 << 48) - 1);
    let mut text = [0; ULID_LENGTH];
    // Ten digits of time, and twice eight of 40 random bits.
    let parts = [
        (0..10, ms),
        (10..18, (random >> 40) as u64),
        (18..26, random as u64),
    ];
    for (digits, mut value) in parts {
        for digit in text[digits].iter_mut().rev() {
            *digit = DIGITS[(value & 31) as usize];
            value >>= 5;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::time::Duration;

    #[test]
    fn what_the_client_sends_is_taken_if_it_can_do_no_harm_in_a_log() {
        let longest = "x".repeat(64);
        let too_long = "x".repeat(65);
        let cases = [
            ("abc-DEF_123", true),
            ("a", true),
            (longest.as_str(), true),
            (too_long.as_str(), false),
            ("", false),
            ("a b", false),
            ("a\tb", false),
            ("a\"b", false),
            ("ä", false),
        ];
        for (text, taken) in cases {
            let value = HeaderValue::from_bytes(text.as_bytes()).unwrap();
            let id = CorrelationId::of(Some(&value), SystemTime::UNIX_EPOCH, || 0);
            assert_eq!(id.as_str() == text, taken, "{text:?}");
        }
    }

    #[test]
    fn ours_is_a_ulid_that_sorts_by_time() {
        // The example of the ULID specification: 1469918176385 ms.
        let at = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        let id = CorrelationId::of(None, at(1_469_918_176_385), || u128::MAX);
        assert_eq!(id.as_str(), "01ARYZ6S41ZZZZZZZZZZZZZZZZ");
        assert!(ulid(at(1), u128::MAX) < ulid(at(2), 0));
        assert_eq!(ulid(at(0), 0), [b'0'; 26]);
    }
    #[test]
    fn ids_of_one_moment_differ_on_every_thread() {
        let ids = || -> Vec<String> {
            let id = |_| CorrelationId::of(None, SystemTime::UNIX_EPOCH, random).to_string();
            (0..10_000).map(id).collect()
        };
        let other = std::thread::spawn(ids);
        let mut all = ids();
        all.extend(other.join().unwrap());
        // Each of the 80 bits is drawn.
        for digit in 10..26 {
            let seen: HashSet<u8> = all.iter().map(|id| id.as_bytes()[digit]).collect();
            assert_eq!(seen.len(), 32, "digit {digit}");
        }
        let distinct: HashSet<&String> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }
}
