//! The control plane from outside: bytes over its socket, written from the contract alone.
//!
//! Its clock is the real one: it is served by a thread of its own, whatever the runtime's clock does.
#![cfg(feature = "control")]

mod answers;
mod bed;
mod chaos;
mod client;
mod commands;
mod golden;
mod hostile;
mod processes;
mod random;
mod socket;
mod tail;
