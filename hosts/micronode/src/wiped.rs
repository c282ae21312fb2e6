//! Memory that held bytes of objects, and holds none of them when it is given back.

use std::hint::black_box;

use bytes::Bytes;

/// Bytes in a buffer that is wiped when it is dropped, and never reallocated: what grows moves.
///
/// The crate `zeroize` writes byte by byte, which for 16 KiB takes as long as hashing 32.
#[derive(Default)]
pub(crate) struct Wiped(Vec<u8>);

impl Wiped {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    /// Of `len` zeros, to be read into.
    pub(crate) fn zeroed(len: usize) -> Self {
        Self(vec![0; len])
    }

    /// Appends `bytes`; a buffer that they do not fit in becomes one of `room`, which is enough for all that it will take.
    pub(crate) fn extend(&mut self, bytes: &[u8], room: usize) {
        if bytes.len() > self.0.capacity() - self.0.len() {
            // A small object often comes in one piece: room for that, and only then for all that there may be.
            let first = self.0.capacity() == 0;
            let mut larger = Self::with_capacity(if first { bytes.len() } else { room });
            larger.0.extend_from_slice(&self.0);
            *self = larger;
        }
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn as_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    /// To be shared; the last owner wipes. It takes as much memory as there are bytes, and no more.
    pub(crate) fn freeze(mut self) -> Bytes {
        if self.0.capacity() > self.0.len() {
            let mut exact = Self::with_capacity(self.0.len());
            exact.0.extend_from_slice(&self.0);
            self = exact;
        }
        match self.0.len() {
            0 => Bytes::new(),
            _ => Bytes::from_owner(self),
        }
    }
}

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Wiped {
    fn drop(&mut self) {
        self.0.clear();
        self.0.resize(self.0.capacity(), 0);
        // As if somebody read it: otherwise the zeros need not be written.
        black_box(&mut self.0);
    }
}
