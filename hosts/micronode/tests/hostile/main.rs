//! The node against peers that mean it harm, over real sockets.
//!
//! `cargo test -p micronode --test hostile` sends the smuggling corpus in `tests/corpus` in three ways of delivery, 3,000
//! fuzzed requests, 300 slow connections of three kinds and abused tokens. The full run sends 100,000 fuzzed requests:
//!
//! ```sh
//! RON_TEST_FULL=1 cargo test -p micronode --test hostile -- --nocapture
//! ```
//!
//! `RON_TEST_SEED=n` draws others; a failure names the seed, the connection and the bytes sent. What is ignored as a
//! `fault` is known to fail: `cargo test -p micronode --test hostile -- --ignored`.

mod corpus;
mod fuzz;
mod grammar;
mod model;
#[path = "../http/rig.rs"]
#[allow(dead_code, reason = "the rig serves the tests in tests/http too")]
mod rig;
mod slow;
mod strict;
mod tokens;
mod wire;
