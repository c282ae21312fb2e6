//! Exact payouts from sealed inputs: the core of svc-rewarder, without I/O, clock, floats or threads.
//!
//! [`SignedPolicy::verify`] gives a [`Policy`], [`Sealed::open`] inputs, [`compute`] a [`Run`] of both: a [`Manifest`]
//! with its commitment, and the [`Intent`] that a ledger is asked to carry out. docs/rewarder.md has the formats.
//!
//! ```
//! use svc_rewarder::{compute, Draft, Header, Policy, Sealed, Unwatched};
//!
//! let (tenant, epoch_id) = ("acme".parse()?, "2026-11-21".parse()?);
//! let mut draft = Draft::new(Header::new("acme".parse()?, "2026-11-21".parse()?, 1000));
//! draft.add("b".parse()?, "e2".parse()?, "relay".parse()?, 220)?;
//! draft.add("a".parse()?, "e1".parse()?, "relay".parse()?, 122)?;
//! let bytes = draft.seal();
//!
//! let policy = Policy::read(concat!(
//!     r#"{"actor_cap":null,"epoch_cap":null,"format":"rewarder-policy/1","funding_account":"treasury","#,
//!     r#""id":"relays","min_payout":"0","mode":"pro_rata","rounding":"floor","version":1,"#,
//!     r#""weights_ppm":{"relay":1000000}}"#,
//! ).as_bytes())?;
//! let run = compute(&tenant, &epoch_id, &Sealed::of(&bytes)?, &policy, &mut Unwatched)?;
//! assert_eq!(run.manifest.payouts, [("a".parse()?, 356), ("b".parse()?, 643)]);
//! assert_eq!(run.manifest.totals.residual, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod address;
mod book;
mod calculus;
mod check;
mod draft;
pub mod generate;
pub mod golden;
mod inputs;
mod json;
mod manifest;
mod name;
mod policy;
mod progress;
pub mod quarantine;
mod run;
pub mod service;
mod signature;
mod tidy;
mod wide;

pub use address::{Address, AddressError};
pub use book::Book;
pub use calculus::{pay, score, Scores, Settlement};
pub use check::{check, Violation};
pub use draft::{Draft, DraftError};
pub use inputs::{Header, Piece, Reader, SealError, Sealed, ACTORS_MAX, BYTES_MAX, EVENTS_MAX};
pub use json::{Defect, Problem};
pub use manifest::{Counts, Difference, Intent, Manifest, PolicyRef, Totals, MANIFEST_BYTES_MAX};
pub use name::{EpochId, Name, NameError};
pub use policy::{Mode, Policy, StaleHash, KINDS_MAX, POLICY_BYTES_MAX};
pub use progress::{Phase, Progress, Unwatched};
pub use run::{compute, Run, RunError, RunKey};
pub use signature::{
    PublicKey, PublicKeyError, SignatureError, SignedPolicy, SigningKey, TrustedKeys,
};
pub use tidy::{tidy, TidyError};
