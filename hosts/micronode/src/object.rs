//! Immutable objects, addressed by the BLAKE3 of their bytes.
//!
//! Beside an object stands its [`Tree`]: one chaining value per group of 64 KiB, 0.05 % of the object. A [`Hasher`]
//! makes it while a put is received. A read takes from [`Groups`] which groups its range touches and sends nothing of a
//! group before [`Tree::verify_group`] has seen the whole of it.

mod address;
mod groups;
mod hasher;
mod tree;

pub use address::{Address, AddressError};
pub use groups::{Cover, Groups, Part, RangeError, GROUP_LEN};
pub use hasher::Hasher;
pub(crate) use tree::encoded_len;
pub use tree::{GroupError, Tree, TreeError};
