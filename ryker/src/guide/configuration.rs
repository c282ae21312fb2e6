//! Where values come from, and what a reload changes.
//!
//! [`RykerConfig`](crate::RykerConfig) is valid or does not exist: from the environment, a file or code, everything
//! that is wrong is told in one error, and no bad value is replaced by another. The [module](crate::config) has the
//! table of keys.
//!
//! A service reads it once and makes its runtime with it; [`reload`](crate::Runtime::reload) replaces it later:
//!
//! - **hot** keys (deadline, fairness, observability) are in force for every mailbox from its next message on;
//! - keys of **supervision** from the next failure on, and a delay that has begun is not changed;
//! - **cold** keys (capacity, size, amnesia) need a new runtime: they are reported and not applied.
//!
//! What a mailbox or actor was built with wins over both configurations.
//!
//! ```
//! use ryker::{Runtime, RykerConfig};
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let rt = Runtime::new(RykerConfig::from_env_validated()?);
//! let by_default = rt.mailbox::<u32>("by-default").build()?;
//! let by_hand = rt.mailbox::<u32>("by-hand").deadline(Duration::from_secs(5)).build()?;
//!
//! let edited = RykerConfig::from_toml("[defaults]\ndeadline = \"2s\"\nmailbox_capacity = 1024")?;
//! let reloaded = rt.reload(edited);
//! assert_eq!(reloaded.applied[0].to_string(), "defaults.deadline: 1s -> 2s (hot)");
//! assert_eq!(reloaded.cold[0].to_string(), "defaults.mailbox_capacity: 256 -> 1024 (cold)");
//! assert_eq!(by_default.deadline(), Duration::from_secs(2));
//! assert_eq!(by_hand.deadline(), Duration::from_secs(5));
//!
//! // A bad edit changes nothing, as it never becomes a configuration.
//! let error = RykerConfig::from_toml("[fairness]\nbatch_messages = 0\nyield = 1").unwrap_err();
//! assert_eq!(error.problems().len(), 2);
//! assert_eq!(rt.config().deadline(), Duration::from_secs(2));
//! # Ok(())
//! # }
//! ```
//!
//! ryker watches no file and no signal: the host does, and calls `reload`. To see what would be read, run
//! `RykerConfig::from_env_validated` with the same environment: the error is the list of what is wrong.
