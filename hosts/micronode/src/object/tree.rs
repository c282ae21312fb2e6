//! What proves single groups of an object: their chaining values, which the address vouches for.

use super::{Address, Groups};
use blake3::hazmat::{merge_subtrees_non_root, merge_subtrees_root, HasherExt, Mode};

pub(super) type ChainingValue = [u8; blake3::OUT_LEN];

const MAGIC: [u8; 7] = *b"b3-tree";
const VERSION: u8 = 1;
/// Magic, version and, little-endian, the length of the object. The chaining values follow.
const HEADER_LEN: usize = MAGIC.len() + 1 + size_of::<u64>();

/// One chaining value per group of an object: verifies each group by itself.
///
/// Whoever has a tree has one that belongs to its address: it comes from a [`Hasher`](super::Hasher), from the whole
/// object ([`of`](Self::of)), or from storage through [`decode`](Self::decode), which checks. An object of one group
/// needs no chaining value: its group is verified against the address.
///
/// # What it proves about the length
///
/// That the number of bytes is right is proved by the last group only, as BLAKE3 puts the length nowhere else. Whoever
/// is told a wrong length by storage finds the last group damaged, and no group in wrong places or of wrong bytes is
/// ever accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    address: Address,
    len: u64,
    /// One per group if there are two or more, else none.
    chaining_values: Box<[ChainingValue]>,
}

/// Why stored bytes are not the tree of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// Other bytes than a tree's come first, or not enough of them.
    #[error("these bytes do not begin as a tree does")]
    NotATree,
    /// Written by another version of this program.
    #[error("trees of version {found} are unknown, the only version is {VERSION}")]
    Version {
        /// The version it claims.
        found: u8,
    },
    /// It says that it was made for an object of another length.
    #[error("the tree is for an object of {found} bytes, the object has {expected}")]
    ObjectLen {
        /// How long the object is.
        expected: u64,
        /// How long the tree says that it is.
        found: u64,
    },
    /// Cut short, or something follows.
    #[error("the tree takes {found} bytes and should take {expected}")]
    Len {
        /// What an object of that length needs.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// Its chaining values do not hash to the address.
    #[error("the tree is not that of the address")]
    Address,
}

/// Why a group is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// The object ends before.
    #[error("there is no group {index}, the object has {count}")]
    NoSuchGroup {
        /// The group asked about, from 0.
        index: u64,
        /// How many there are.
        count: u64,
    },
    /// Not as many bytes as the group has.
    #[error("group {index} has {expected} bytes, these are {found}")]
    Len {
        /// The group, from 0.
        index: u64,
        /// Bytes that it has.
        expected: u64,
        /// Bytes that were given.
        found: u64,
    },
    /// The bytes are not those of the address.
    #[error("group {index} is damaged")]
    Damaged {
        /// The group, from 0.
        index: u64,
    },
}

impl Tree {
    pub(super) fn of_one_group(address: Address, len: u64) -> Self {
        Self {
            address,
            len,
            chaining_values: Box::default(),
        }
    }

    /// `chaining_values` are two or more, one for each group of `len` bytes.
    pub(super) fn of_groups(chaining_values: Vec<ChainingValue>, len: u64) -> Self {
        Self {
            address: root(&chaining_values),
            len,
            chaining_values: chaining_values.into(),
        }
    }

    /// The address of the object.
    pub const fn address(&self) -> Address {
        self.address
    }

    /// Bytes in the object.
    pub const fn object_len(&self) -> u64 {
        self.len
    }

    /// Where the object's groups lie.
    pub const fn groups(&self) -> Groups {
        Groups::of(self.len)
    }

    /// Whether `bytes` are group `index` of the object, all of it and nothing else.
    ///
    /// # Errors
    ///
    /// [`GroupError`]: there is no such group, or the bytes are not it.
    pub fn verify_group(&self, index: u64, bytes: &[u8]) -> Result<(), GroupError> {
        let groups = self.groups();
        let Some(span) = groups.span(index) else {
            return Err(GroupError::NoSuchGroup {
                index,
                count: groups.count(),
            });
        };
        let (expected, found) = (span.end - span.start, bytes.len() as u64);
        if found != expected {
            return Err(GroupError::Len {
                index,
                expected,
                found,
            });
        }
        let intact = if self.chaining_values.is_empty() {
            Address::of(bytes) == self.address
        } else {
            let mut group = blake3::Hasher::new();
            group.set_input_offset(span.start).update(bytes);
            // An index that does not fit is no index of a slice.
            usize::try_from(index)
                .ok()
                .and_then(|at| self.chaining_values.get(at))
                == Some(&group.finalize_non_root())
        };
        if intact {
            Ok(())
        } else {
            Err(GroupError::Damaged { index })
        }
    }

    /// The form in which a tree is stored: 16 bytes, and 32 for each group if there are two or more.
    pub fn encode(&self) -> Vec<u8> {
        let chaining_values = self.chaining_values.as_flattened();
        let mut bytes = Vec::with_capacity(HEADER_LEN + chaining_values.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.len.to_le_bytes());
        bytes.extend_from_slice(chaining_values);
        bytes
    }

    /// Takes a tree back from storage, for the object that is stored under `address` and has `len` bytes there.
    ///
    /// Nothing of the object is read. Allocates no more than `bytes` takes.
    ///
    /// # Errors
    ///
    /// [`TreeError`] if `bytes` are not exactly what [`encode`](Self::encode) gave for that object.
    pub fn decode(bytes: &[u8], address: &Address, len: u64) -> Result<Self, TreeError> {
        let (magic, rest) = bytes.split_first_chunk().ok_or(TreeError::NotATree)?;
        let (&[version], rest) = rest.split_first_chunk().ok_or(TreeError::NotATree)?;
        if *magic != MAGIC {
            return Err(TreeError::NotATree);
        }
        if version != VERSION {
            return Err(TreeError::Version { found: version });
        }
        let (claimed, rest) = rest.split_first_chunk().ok_or(TreeError::NotATree)?;
        let claimed = u64::from_le_bytes(*claimed);
        if claimed != len {
            return Err(TreeError::ObjectLen {
                expected: len,
                found: claimed,
            });
        }
        let expected = encoded_len(len);
        if bytes.len() as u64 != expected {
            return Err(TreeError::Len {
                expected,
                found: bytes.len() as u64,
            });
        }
        let chaining_values = chaining_values(rest);
        let whole = match (&*chaining_values, len) {
            // No group of it is ever asked for: there is no later moment to find out.
            ([], 0) => *address == Address::of(&[]),
            ([], _) => true,
            (several, _) => *address == root(several),
        };
        if !whole {
            return Err(TreeError::Address);
        }
        Ok(Self {
            address: *address,
            len,
            chaining_values,
        })
    }
}

/// Bytes that the tree of an object takes.
pub(crate) fn encoded_len(object_len: u64) -> u64 {
    let values = match Groups::of(object_len).count() {
        1 => 0,
        count => count,
    };
    HEADER_LEN as u64 + values * blake3::OUT_LEN as u64
}

/// `bytes` is a multiple of their size.
fn chaining_values(bytes: &[u8]) -> Box<[ChainingValue]> {
    bytes
        .chunks_exact(blake3::OUT_LEN)
        .map(|chunk| {
            let mut value = ChainingValue::default();
            value.copy_from_slice(chunk);
            value
        })
        .collect()
}

/// What two or more groups hash to.
fn root(groups: &[ChainingValue]) -> Address {
    let (left, right) = children(groups);
    merge_subtrees_root(&subtree(left), &subtree(right), Mode::Hash).into()
}

/// The chaining value of one or more groups. As deep as the tree is: 48 levels for 2^64 bytes.
fn subtree(groups: &[ChainingValue]) -> ChainingValue {
    if let [group] = groups {
        return *group;
    }
    let (left, right) = children(groups);
    merge_subtrees_non_root(&subtree(left), &subtree(right), Mode::Hash)
}

/// Two or more groups parted as BLAKE3 does: left is the largest complete tree that leaves something to the right.
fn children(groups: &[ChainingValue]) -> (&[ChainingValue], &[ChainingValue]) {
    groups.split_at(groups.len().div_ceil(2).next_power_of_two())
}
