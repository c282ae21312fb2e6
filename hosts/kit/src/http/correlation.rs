//! What ties the log lines, the answer and the client's own records of one request together.

use std::fmt;
use std::time::SystemTime;

use hyper::header::HeaderValue;

/// The header it comes and goes in.
pub(crate) const HEADER: &str = "x-corr-id";
const LENGTH_MAX: usize = 64;

/// The client's `X-Corr-ID`, or one of ours: a ULID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorrelationId(String);

impl CorrelationId {
    /// The client's if it is 1 to 64 of `A-Z a-z 0-9 _ -`, as it ends up in logs; otherwise a ULID of `now` and `random`.
    pub(crate) fn of(
        header: Option<&HeaderValue>,
        now: SystemTime,
        random: impl FnOnce() -> u128,
    ) -> Self {
        let theirs = header.and_then(|value| value.to_str().ok());
        match theirs.filter(|text| is_allowed(text)) {
            Some(text) => Self(text.to_owned()),
            None => Self(ulid(now, random())),
        }
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn header(&self) -> HeaderValue {
        // Of characters that every header may have.
        HeaderValue::from_str(&self.0).unwrap_or(HeaderValue::from_static("-"))
    }
}

impl fmt::Display for CorrelationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_allowed(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    (1..=LENGTH_MAX).contains(&text.len()) && text.bytes().all(allowed)
}

/// 48 bits of milliseconds and 80 random ones in Crockford's base 32, which sorts by time.
fn ulid(now: SystemTime, random: u128) -> String {
    const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let since = now.duration_since(SystemTime::UNIX_EPOCH);
    let ms = since.map_or(0, |since| since.as_millis()) & ((1 << 48) - 1);
    let value = (ms << 80) | (random & ((1 << 80) - 1));
    let digit = |place: u32| char::from(DIGITS[((value >> (5 * place)) & 31) as usize]);
    (0..26).rev().map(digit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
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
        assert_eq!(ulid(at(0), 0), "0".repeat(26));
    }
}
