//! Where the groups of an object lie, and which of them a range of bytes touches.

use std::ops::Range;

/// Bytes in a group; the last group of an object has what is left.
///
/// A range read hashes the groups that it touches: 64 KiB is where BLAKE3 reaches its full speed, and costs an object
/// 0.05 % of its size in chaining values.
pub const GROUP_LEN: usize = 64 * 1024;

const LEN: u64 = GROUP_LEN as u64;

/// The groups of an object of a given length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups {
    len: u64,
}

/// A range that is not inside the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bytes {start} to {end} are not inside an object of {len} bytes")]
#[non_exhaustive]
pub struct RangeError {
    /// First byte asked for.
    pub start: u64,
    /// One past the last byte asked for.
    pub end: u64,
    /// Bytes in the object.
    pub len: u64,
}

/// The groups that a range of bytes touches, in order; an iterator of [`Part`]s.
#[derive(Clone, Debug)]
pub struct Cover {
    groups: Groups,
    range: Range<u64>,
    index: Range<u64>,
}

/// One group, and what of it a range asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Part {
    /// Which group, from 0.
    pub index: u64,
    /// Where the whole group lies in the object. All of it is needed to verify any of it.
    pub span: Range<u64>,
    /// What was asked for, counted from the start of the group. Never empty.
    pub wanted: Range<usize>,
}

impl Groups {
    /// The groups of an object of `len` bytes.
    pub const fn of(len: u64) -> Self {
        Self { len }
    }

    /// How many there are: at least one, for the empty object has an empty group.
    pub const fn count(&self) -> u64 {
        if self.len == 0 {
            1
        } else {
            self.len.div_ceil(LEN)
        }
    }

    /// Where group `index` lies in the object; `None` if there is no such group.
    pub fn span(&self, index: u64) -> Option<Range<u64>> {
        (index < self.count()).then(|| self.clip(index))
    }

    /// The groups that `range` touches; none if it is empty.
    ///
    /// # Errors
    ///
    /// [`RangeError`] if the range ends before it starts or after the object.
    pub fn cover(&self, range: Range<u64>) -> Result<Cover, RangeError> {
        let Range { start, end } = range;
        if start > end || end > self.len {
            return Err(RangeError {
                start,
                end,
                len: self.len,
            });
        }
        let first = start / LEN;
        let index = if start == end {
            first..first
        } else {
            first..end.div_ceil(LEN)
        };
        Ok(Cover {
            groups: *self,
            range,
            index,
        })
    }

    /// The span of a group that exists.
    fn clip(&self, index: u64) -> Range<u64> {
        let start = index * LEN;
        start..start + LEN.min(self.len - start)
    }
}

impl Cover {
    /// The bytes of the groups still to come, from the start of the first to the end of the last: what has to be
    /// fetched. Empty when none is to come.
    pub fn span(&self) -> Range<u64> {
        match self.index.clone().next_back() {
            Some(last) => self.index.start * LEN..self.groups.clip(last).end,
            None => self.range.end..self.range.end,
        }
    }
}

impl Iterator for Cover {
    type Item = Part;

    fn next(&mut self) -> Option<Part> {
        let index = self.index.next()?;
        let span = self.groups.clip(index);
        // Both lie within the group, so that they fit.
        let from = self.range.start.max(span.start) - span.start;
        let to = self.range.end.min(span.end) - span.start;
        Some(Part {
            index,
            span,
            wanted: from as usize..to as usize,
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.index.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::{Groups, Part, RangeError, GROUP_LEN, LEN};

    #[test]
    fn the_last_group_has_what_is_left() {
        // Length of the object, groups, length of the last.
        let cases = [
            (0, 1, 0),
            (1, 1, 1),
            (LEN - 1, 1, LEN - 1),
            (LEN, 1, LEN),
            (LEN + 1, 2, 1),
            (2 * LEN, 2, LEN),
            (7 * LEN - 5, 7, LEN - 5),
            (u64::MAX, 1 << 48, LEN - 1),
        ];
        for (len, count, last) in cases {
            let groups = Groups::of(len);
            assert_eq!(groups.count(), count, "{len}");
            assert_eq!(groups.span(count - 1), Some(len - last..len), "{len}");
            assert_eq!(groups.span(count), None, "{len}");
            assert_eq!(groups.span(u64::MAX), None, "{len}");
        }
    }

    #[test]
    fn a_cover_is_the_groups_that_a_range_touches() {
        let groups = Groups::of(3 * LEN + 10);
        let part = |index: u64, len: u64, wanted| Part {
            index,
            span: index * LEN..index * LEN + len,
            wanted,
        };
        let cases = [
            (0..0, vec![]),
            (LEN..LEN, vec![]),
            (3 * LEN + 10..3 * LEN + 10, vec![]),
            (0..1, vec![part(0, LEN, 0..1)]),
            (LEN - 1..LEN, vec![part(0, LEN, GROUP_LEN - 1..GROUP_LEN)]),
            (LEN..LEN + 1, vec![part(1, LEN, 0..1)]),
            (
                LEN - 1..LEN + 1,
                vec![part(0, LEN, GROUP_LEN - 1..GROUP_LEN), part(1, LEN, 0..1)],
            ),
            (LEN..2 * LEN, vec![part(1, LEN, 0..GROUP_LEN)]),
            (3 * LEN + 9..3 * LEN + 10, vec![part(3, 10, 9..10)]),
            (
                5..3 * LEN + 7,
                vec![
                    part(0, LEN, 5..GROUP_LEN),
                    part(1, LEN, 0..GROUP_LEN),
                    part(2, LEN, 0..GROUP_LEN),
                    part(3, 10, 0..7),
                ],
            ),
        ];
        for (range, parts) in cases {
            let mut cover = groups.cover(range.clone()).unwrap();
            let fetched = match (parts.first(), parts.last()) {
                (Some(first), Some(last)) => first.span.start..last.span.end,
                _ => range.end..range.end,
            };
            assert_eq!(cover.span(), fetched, "{range:?}");
            assert_eq!(
                cover.size_hint(),
                (parts.len(), Some(parts.len())),
                "{range:?}"
            );
            assert_eq!(cover.by_ref().collect::<Vec<_>>(), parts, "{range:?}");
            assert!(cover.span().is_empty(), "{range:?}");
        }
        let mut end = Groups::of(u64::MAX).cover(u64::MAX - 1..u64::MAX).unwrap();
        assert_eq!(end.next().unwrap().wanted, GROUP_LEN - 2..GROUP_LEN - 1);
        assert_eq!(end.next(), None);
    }

    #[test]
    fn a_range_that_is_not_inside_is_refused() {
        let groups = Groups::of(100);
        #[allow(clippy::reversed_empty_ranges, reason = "what callers may get wrong")]
        for range in [0..101, 100..101, 101..101, 5..4, u64::MAX..0, 0..u64::MAX] {
            let error = RangeError {
                start: range.start,
                end: range.end,
                len: 100,
            };
            assert_eq!(groups.cover(range).unwrap_err(), error);
        }
    }
}
