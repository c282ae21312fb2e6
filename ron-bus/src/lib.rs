//! Bounded in-process broadcast with typed topics that counts every loss.
#![forbid(unsafe_code)]
