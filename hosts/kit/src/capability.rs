//! Capabilities: what a caller may do, in a token that proves itself.
//!
//! A token is a macaroon: an identifier and caveats under a chain of HMAC-SHA256, wire-compatible with other
//! implementations. Whoever has a key mints; whoever has a token can restrict it further, without a key and without
//! asking; nobody can widen one. What is not understood is refused: a caveat that is unknown or somebody else's to
//! discharge, a value of another form, a token that is spelled in another way.
//!
//! ```
//! use std::time::{Duration, SystemTime};
//! use ron_host::capability::{attenuate, mint, verify, Caveat, Denied, Keyring, Request, system_random};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let now = SystemTime::now();
//! let keyring = Keyring::generate(&mut system_random, now)?;
//! let hour = Caveat::Expires(now + Duration::from_secs(3600));
//! let token = mint(&keyring, &[hour, Caveat::Path("/o".into())], &mut system_random, now)?;
//! let for_reading = attenuate(token.as_str(), &[Caveat::Methods(vec!["GET".into()])])?;
//!
//! let mut request = Request {
//!     method: "GET",
//!     path: "/o/b3:00",
//!     length: None,
//!     tenant: None,
//!     scope: None,
//!     audience: "micronode",
//!     now,
//! };
//! assert!(verify(for_reading.as_str(), &keyring, &request).is_ok());
//! request.method = "PUT";
//! assert_eq!(verify(for_reading.as_str(), &keyring, &request), Err(Denied::Method));
//! # Ok(())
//! # }
//! ```
//!
//! # Minted elsewhere
//!
//! With a key's secret as the macaroon's key, the location `ron`, the identifier `v1.<kid>.<32 hexadecimal digits>`, and
//! V2 binary in base64url, with or without padding. The digits are what it is revoked by: random, and never used twice.

mod caveat;
mod file;
mod header;
mod keyring;
mod provider;
mod time;
mod token;
mod verify;

use std::io;

pub use caveat::{Caveat, CaveatError};
pub use file::{KeyringError, Stamp};
pub use header::bearer;
pub use keyring::{ChangeError, Key, Keyring, ParseError, KEYS_MAX, REVOKED_MAX};
pub use provider::KeyProvider;
pub(crate) use time::last;
pub use time::parse_utc;
pub use token::{
    attenuate, inspect, mint, CapId, IdError, Inspected, Inspection, Kid, MintError, Random, Token,
    TokenError, CAVEATS_MAX, TOKEN_MAX,
};
pub use verify::{verify, Denied, Grant, Request};

/// Random bytes of the operating system.
///
/// # Errors
///
/// What the system says; there is nothing to fall back on.
pub fn system_random(bytes: &mut [u8]) -> io::Result<()> {
    getrandom::fill(bytes).map_err(io::Error::from)
}
