//! A double-entry ledger that takes intents: each credits the accounts of one epoch of one tenant, once.
//!
//! | module | what it is |
//! |---|---|
//! | [`amount`], [`name`], [`digest`] | the values on the wire |
//! | [`intent`] | what is asked for: read, checked, hashed; no I/O |
//! | [`journal`] | what was accepted, each entry bound to all before it; the laws; no I/O |
//! | [`store`] | where a journal is kept: in memory, in SQLite, in PostgreSQL |
//! | [`writer`] | the one thread that writes, many intents in one commit |
//! | [`service`] | all of it over HTTP |
//!
//! The laws: a run key is settled once; an epoch of a tenant is settled once; what an intent takes from its funding account
//! is what it credits to others; an entry never changes. A journal whose bytes were changed says so, and nothing of it is
//! answered.

pub mod amount;
pub mod digest;
pub mod intent;
pub mod journal;
pub mod name;
pub mod service;
pub mod store;
pub mod writer;
