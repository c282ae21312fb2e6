//! The `Range` header of RFC 9110, section 14: one range of bytes, or the whole.

/// Bytes from `first` to `last`, both included, within a representation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// The first byte.
    pub first: u64,
    /// The last byte, `first` or after it.
    pub last: u64,
}

impl ByteRange {
    /// How many bytes; never 0.
    pub fn length(self) -> u64 {
        self.last - self.first + 1
    }

    /// The value of `Content-Range` for a representation of `length` bytes.
    pub fn content_range(self, length: u64) -> String {
        format!("bytes {}-{}/{length}", self.first, self.last)
    }
}

/// What is to be sent of a representation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeRequest {
    /// All of it (200): no range was asked for, or one that we do not serve or understand.
    Whole,
    /// A part of it (206).
    Part(ByteRange),
    /// No byte of it is in the range (416, with `Content-Range: bytes */LENGTH`).
    Unsatisfiable,
}

impl RangeRequest {
    /// Reads the value of `Range` for a representation of `length` bytes. Several ranges get the whole, as RFC 9110 allows.
    pub fn of(header: Option<&str>, length: u64) -> Self {
        let Some(set) = header.and_then(ranges) else {
            return Self::Whole;
        };
        let Some(spec) = single(set) else {
            return Self::Whole;
        };
        let (first, last) = match spec {
            Spec::From(first) => (first, length.saturating_sub(1)),
            Spec::Between(first, last) => (first, last.min(length.saturating_sub(1))),
            Spec::Last(0) => return Self::Unsatisfiable,
            Spec::Last(count) => (length.saturating_sub(count), length.saturating_sub(1)),
        };
        if first >= length {
            return Self::Unsatisfiable;
        }
        Self::Part(ByteRange { first, last })
    }
}

enum Spec {
    From(u64),
    Between(u64, u64),
    Last(u64),
}

/// What follows `bytes=`; units are case-insensitive.
fn ranges(header: &str) -> Option<&str> {
    let (unit, set) = header.split_once('=')?;
    unit.eq_ignore_ascii_case("bytes").then_some(set)
}

fn single(set: &str) -> Option<Spec> {
    // Empty elements of a list are no elements.
    let mut specs = set.split(',').map(|spec| spec.trim_matches([' ', '\t']));
    let mut specs = specs.by_ref().filter(|spec| !spec.is_empty());
    let spec = specs.next()?;
    if specs.next().is_some() {
        return None;
    }
    let (first, last) = spec.split_once('-')?;
    match (first.is_empty(), last.is_empty()) {
        (true, true) => None,
        (true, false) => Some(Spec::Last(number(last)?)),
        (false, true) => Some(Spec::From(number(first)?)),
        (false, false) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Spec::Between(first, last))
        }
    }
}

/// A number of digits only; one that is too large to count is as good as the largest.
fn number(text: &str) -> Option<u64> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(first: u64, last: u64) -> RangeRequest {
        RangeRequest::Part(ByteRange { first, last })
    }

    #[test]
    fn ranges_are_read_as_rfc_9110_has_them() {
        use RangeRequest::{Unsatisfiable, Whole};
        let huge = "bytes=0-99999999999999999999999999";
        let cases = [
            // The examples of section 14.1.2, of 10,000 bytes.
            ("bytes=0-499", 10_000, part(0, 499)),
            ("bytes=500-999", 10_000, part(500, 999)),
            ("bytes=-500", 10_000, part(9_500, 9_999)),
            ("bytes=9500-", 10_000, part(9_500, 9_999)),
            ("bytes=0-0,-1", 10_000, Whole),
            ("bytes= 0-999, 4500-5499, -1000", 10_000, Whole),
            // Ends beyond the last byte.
            ("bytes=0-10000", 10_000, part(0, 9_999)),
            (huge, 10, part(0, 9)),
            ("bytes=-20000", 10_000, part(0, 9_999)),
            ("bytes=10000-", 10_000, Unsatisfiable),
            ("bytes=10000-10001", 10_000, Unsatisfiable),
            ("bytes=-0", 10_000, Unsatisfiable),
            ("bytes=99999999999999999999999999-", 10, Unsatisfiable),
            // Nothing has no byte.
            ("bytes=0-", 0, Unsatisfiable),
            ("bytes=0-0", 0, Unsatisfiable),
            ("bytes=-1", 0, Unsatisfiable),
            // Spelling.
            ("BYTES=1-2", 10, part(1, 2)),
            ("bytes=,1-2,", 10, part(1, 2)),
            ("bytes=\t1-2 ", 10, part(1, 2)),
            // What is no range is ignored.
            ("bytes=2-1", 10, Whole),
            ("bytes=", 10, Whole),
            ("bytes=-", 10, Whole),
            ("bytes=a-b", 10, Whole),
            ("bytes=+1-2", 10, Whole),
            ("bytes=1-2-3", 10, Whole),
            ("bytes 1-2", 10, Whole),
            ("bytes =1-2", 10, Whole),
            ("lines=1-2", 10, Whole),
            ("", 10, Whole),
        ];
        for (header, length, expected) in cases {
            assert_eq!(RangeRequest::of(Some(header), length), expected, "{header}");
        }
        assert_eq!(RangeRequest::of(None, 10), Whole);
    }

    #[test]
    fn a_part_tells_its_place() {
        let range = ByteRange { first: 3, last: 7 };
        assert_eq!(range.length(), 5);
        assert_eq!(range.content_range(10), "bytes 3-7/10");
    }
}
