//! Address and tree of an object while its bytes come in.

use super::tree::ChainingValue;
use super::{Tree, GROUP_LEN};
use crate::wiped::Wiped;
use blake3::hazmat::HasherExt;
use std::fmt;
use zeroize::Zeroize;

/// What is hashed at once at least, so that SIMD lanes are full: sixteen chunks of BLAKE3, the width of AVX-512. In
/// pieces of this size a group is hashed at nine tenths of the full speed, in pieces of 1 KiB at a thirteenth.
const UNIT: usize = 16 * 1024;

/// Hashes an object that comes in pieces of any size, and ends in its [`Tree`].
///
/// Each byte is hashed once; nothing is copied while all pieces are multiples of 16 KiB. Beside the chaining values it
/// holds less than 16 KiB of the object, in memory that is wiped before it is given back.
///
/// ```
/// # use micronode::object::{Address, Hasher};
/// let mut hasher = Hasher::new();
/// hasher.update(b"con");
/// hasher.update(b"tent");
/// assert_eq!(hasher.finish().address(), Address::of(b"content"));
/// ```
#[derive(Default)]
pub struct Hasher {
    lanes: Lanes,
    /// Less than a [`UNIT`] that waits for its rest.
    gathered: Wiped,
}

/// Groups in the making.
#[derive(Default)]
struct Lanes {
    /// Of the groups before the current one.
    chaining_values: Vec<ChainingValue>,
    group: blake3::Hasher,
    /// Bytes in the current group. A full one stays open until another byte comes: whether it is the root is not known
    /// before.
    filled: usize,
}

impl Hasher {
    /// A hasher that has seen nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the object.
    pub fn update(&mut self, mut piece: &[u8]) {
        let gathered = self.gathered.len();
        if gathered > 0 {
            let (rest, more) = piece.split_at(piece.len().min(UNIT - gathered));
            self.gathered.extend(rest, UNIT);
            if self.gathered.len() < UNIT {
                return;
            }
            self.lanes.absorb(self.gathered.as_ref());
            self.gathered.clear();
            piece = more;
        }
        let (units, rest) = piece.split_at(piece.len() - piece.len() % UNIT);
        self.lanes.absorb(units);
        self.gathered.extend(rest, UNIT);
    }

    /// The tree, and in it the address, of all bytes taken.
    pub fn finish(mut self) -> Tree {
        self.lanes.absorb(self.gathered.as_ref());
        self.lanes.finish()
    }
}

impl Tree {
    /// The tree of an object whose bytes are all there; nothing is copied.
    pub fn of(bytes: &[u8]) -> Self {
        let mut lanes = Lanes::default();
        lanes.absorb(bytes);
        lanes.finish()
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.group.zeroize();
    }
}

impl Lanes {
    fn absorb(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.filled == GROUP_LEN {
                self.close();
            }
            let (now, later) = bytes.split_at(bytes.len().min(GROUP_LEN - self.filled));
            self.group.update(now);
            self.filled += now.len();
            bytes = later;
        }
    }

    fn len(&self) -> u64 {
        self.chaining_values.len() as u64 * GROUP_LEN as u64 + self.filled as u64
    }

    /// Keeps the chaining value of the current group and opens the next.
    fn close(&mut self) {
        self.chaining_values.push(self.group.finalize_non_root());
        self.filled = 0;
        let offset = self.len();
        // What it replaces keeps its last block.
        self.group.zeroize();
        self.group = blake3::Hasher::new();
        self.group.set_input_offset(offset);
    }

    fn finish(mut self) -> Tree {
        let len = self.len();
        if self.chaining_values.is_empty() {
            return Tree::of_one_group(self.group.finalize().into(), len);
        }
        self.chaining_values.push(self.group.finalize_non_root());
        Tree::of_groups(std::mem::take(&mut self.chaining_values), len)
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let len = self.lanes.len() + self.gathered.len() as u64;
        f.debug_struct("Hasher")
            .field("len", &len)
            .finish_non_exhaustive()
    }
}
