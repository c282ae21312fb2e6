//! Immutable objects, addressed by the BLAKE3 of their bytes.
