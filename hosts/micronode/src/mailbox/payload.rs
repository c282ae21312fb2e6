//! Bodies of messages, which leave nothing behind.

use std::fmt;

use bytes::Bytes;

use crate::wiped::Wiped;

/// A body; clones are the same bytes, overwritten when the last of them is dropped.
#[derive(Clone)]
pub struct Payload(Bytes);

impl Payload {
    /// All of it.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// How many bytes it has.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payload")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

/// Puts a body together from its pieces. What it grows out of is overwritten.
pub struct Collector {
    body: Wiped,
    len: usize,
}

impl Collector {
    /// With room for so many bytes, beyond which it grows.
    pub fn with_capacity(bytes: usize) -> Self {
        Self {
            body: Wiped::with_capacity(bytes),
            len: 0,
        }
    }

    /// Appends a piece.
    pub fn push(&mut self, piece: &[u8]) {
        self.len += piece.len();
        // Twice what there is, so that many pieces are not moved many times.
        self.body.extend(piece, 2 * self.len);
    }

    /// The body, in as much memory as it has bytes.
    pub fn finish(self) -> Payload {
        Payload(self.body.freeze())
    }
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}
