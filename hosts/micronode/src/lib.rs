//! A single-tenant node for content-addressed objects and mailboxes.
#![forbid(unsafe_code)]

pub mod object;
