//! The form in which an object is stored outside of memory: its bytes, and after them its tree.
//!
//! One file or one remote object holds all of it, so that it is there or it is not. The tree comes last, as it is known last.
//! How long the object is follows from how long the whole is, and is stated in the tree again.

use crate::object::{encoded_len, GROUP_LEN};

/// Bytes that an object of `len` bytes takes.
pub(super) fn stored_len(len: u64) -> u64 {
    len + encoded_len(len)
}

/// What no object exceeds, whatever a file or a service says: a tree is read before anything of it is verified.
const OBJECT_MAX: u64 = 4 << 30;

/// Bytes of the object that takes `stored` bytes; `None` if there is no such object.
pub(super) fn object_len(stored: u64) -> Option<u64> {
    let rest = stored.checked_sub(encoded_len(0))?;
    let (group, value) = (GROUP_LEN as u64, blake3::OUT_LEN as u64);
    // One of two or more groups comes with its chaining value.
    let len = match rest.div_ceil(group + value) {
        0 | 1 => rest,
        groups => rest.checked_sub(groups * value)?,
    };
    (len <= OBJECT_MAX && stored_len(len) == stored).then_some(len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_length_of_the_object_follows_from_that_of_the_whole(len in 0..=OBJECT_MAX) {
            prop_assert_eq!(object_len(stored_len(len)), Some(len));
        }
    }

    #[test]
    fn lengths_at_the_edges_of_groups_are_told_apart_and_others_are_none() {
        let group = GROUP_LEN as u64;
        let mut known = std::collections::HashMap::new();
        for len in (0..=3 * group).filter(|len| len % group < 40 || len % group > group - 40) {
            assert_eq!(known.insert(stored_len(len), len), None);
        }
        for stored in 0..=stored_len(3 * group) {
            let len = object_len(stored);
            match known.get(&stored) {
                Some(expected) => assert_eq!(len, Some(*expected), "{stored}"),
                None => assert!(len.is_none_or(|len| stored_len(len) == stored), "{stored}"),
            }
        }
        // Between an object of one group and one of two there is room for two chaining values.
        let one = stored_len(group);
        for stored in one + 1..=one + 64 {
            assert_eq!(object_len(stored), None);
        }
        assert_eq!(object_len(one + 65), Some(group + 1));
        assert_eq!(object_len(stored_len(OBJECT_MAX + 1)), None);
        for short in 0..16 {
            assert_eq!(object_len(short), None);
        }
    }
}
