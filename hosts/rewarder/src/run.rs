//! One run: sealed inputs and a policy in, a manifest out. The same in, the same bytes out, whatever machine, build,
//! thread or order of events.

use std::fmt;

use super::address::Address;
use super::book::Book;
use super::calculus::{pay, score};
use super::check::{check, Violation};
use super::inputs::Sealed;
use super::json::{Defect, Hex};
use super::manifest::{Counts, Intent, Manifest, PolicyRef, Totals};
use super::name::{EpochId, Name};
use super::policy::{Policy, KINDS_MAX};
use super::progress::{tick, Phase, Progress};

/// Of the key derivation; a change is another key for every run, and pays again.
const CONTEXT: &str = "ron svc-rewarder 2026-11-22 run_key v1";

/// What a run is called, and what it must have only one effect for; as text 64 lower-case hexadecimal digits.
///
/// BLAKE3 in its key derivation mode over tenant, epoch, policy hash and inputs, each behind its length as eight bytes,
/// the lowest first: so no two runs have texts that only together are the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunKey([u8; 32]);

impl RunKey {
    /// Of the run of this policy over these inputs.
    pub fn of(
        tenant: &Name,
        epoch_id: &EpochId,
        policy_hash: &Address,
        inputs_cid: &Address,
    ) -> Self {
        let fields: [&[u8]; 4] = [
            tenant.as_str().as_bytes(),
            epoch_id.as_str().as_bytes(),
            policy_hash.as_bytes(),
            inputs_cid.as_bytes(),
        ];
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        for field in fields {
            hasher.update(&(field.len() as u64).to_le_bytes());
            hasher.update(field);
        }
        RunKey(hasher.finalize().into())
    }

    /// The key itself.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for RunKey {
    fn from(bytes: [u8; 32]) -> Self {
        RunKey(bytes)
    }
}

impl fmt::Display for RunKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Hex(&self.0), f)
    }
}

impl fmt::Debug for RunKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why there is no manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// Whoever watches it broke it off.
    #[error("the run was cancelled")]
    Cancelled,
    /// The bytes are not inputs.
    #[error(transparent)]
    Inputs(#[from] Defect),
    /// They are those of another tenant or epoch than was asked for.
    #[error("the inputs are for {field} {found}, not {expected}")]
    Misdirected {
        /// `tenant` or `epoch_id`.
        field: &'static str,
        /// What was asked for.
        expected: String,
        /// What the inputs say.
        found: String,
    },
    /// There are more kinds of work than a policy can price.
    #[error("the inputs have more than {KINDS_MAX} kinds of work")]
    Kinds,
    /// A kind of work without a price.
    #[error("actor {actor} did work of kind {kind}, for which the policy has no price")]
    Unpriced {
        /// Who did it.
        actor: Name,
        /// What it is called.
        kind: Name,
    },
    /// Work of the account that pays.
    #[error("actor {actor} is the funding account")]
    Funding {
        /// Both.
        actor: Name,
    },
    /// Conflict: a tariff owes more than there is.
    #[error("conservation: the tariff owes {} and the pool has {pool}", beyond(.owed))]
    Overspend {
        /// What there is.
        pool: u128,
        /// What would have to be paid; `None` is more than 128 bits hold.
        owed: Option<u128>,
    },
    /// A sum beyond 128 bits. The limits of inputs and policies exclude it.
    #[error("a sum is beyond 128 bits")]
    Overflow,
    /// Our own fault: the second way came to another end than the first. Nothing must be emitted any more.
    #[error("invariant=fail {0}")]
    Invariant(#[from] Violation),
}

fn beyond(owed: &Option<u128>) -> String {
    owed.map_or_else(|| "more than 2^128".to_owned(), |owed| owed.to_string())
}

impl RunError {
    #[cold]
    pub(crate) fn unpriced(actor: &str, kind: Option<&&str>) -> Self {
        RunError::Unpriced {
            actor: Name::checked(actor),
            kind: Name::checked(kind.copied().unwrap_or_default()),
        }
    }

    #[cold]
    pub(crate) fn funding(actor: &str) -> Self {
        let actor = Name::checked(actor);
        RunError::Funding { actor }
    }
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Run {
    /// Whom is paid how much, and by what.
    pub manifest: Manifest,
    /// The manifest's canonical text.
    pub bytes: Vec<u8>,
    /// The address of that text.
    pub commitment: Address,
}

impl Run {
    /// What the ledger is asked to do.
    pub fn intent(&self) -> Intent {
        Intent::new(&self.manifest, self.commitment)
    }
}

/// Computes the epoch `epoch_id` of `tenant`, on one thread.
///
/// The policy has to be one that [was verified](super::signature::SignedPolicy::verify) and
/// [is the one the caller counts on](Policy::is).
///
/// # Errors
///
/// The inputs, the policy and the request do not go together; or the run is cancelled; or
/// [the invariant is violated](RunError::Invariant), whereupon nothing may be emitted before somebody has looked.
pub fn compute(
    tenant: &Name,
    epoch_id: &EpochId,
    sealed: &Sealed<'_>,
    policy: &Policy,
    progress: &mut dyn Progress,
) -> Result<Run, RunError> {
    let book = Book::read(sealed, progress)?;
    let header = book.header();
    let misdirected = |field, expected: &str, found: &str| RunError::Misdirected {
        field,
        expected: expected.to_owned(),
        found: found.to_owned(),
    };
    if header.tenant != *tenant {
        let (expected, found) = (tenant.as_str(), header.tenant.as_str());
        return Err(misdirected("tenant", expected, found));
    }
    if header.epoch_id != *epoch_id {
        let (expected, found) = (epoch_id.as_str(), header.epoch_id.as_str());
        return Err(misdirected("epoch_id", expected, found));
    }
    let scores = score(&book, policy, progress)?;
    let settlement = pay(&book, &scores, policy, progress)?;
    check(sealed, policy, &settlement, progress)?;
    tick(progress, Phase::Manifest, 0)?;
    let manifest = Manifest {
        tenant: tenant.clone(),
        epoch_id: epoch_id.clone(),
        run_key: RunKey::of(tenant, epoch_id, policy.hash(), sealed.cid()),
        inputs_cid: *sealed.cid(),
        policy: PolicyRef {
            id: policy.id().clone(),
            version: policy.version(),
            hash: *policy.hash(),
        },
        funding_account: policy.funding_account().clone(),
        totals: Totals {
            offered: header.pool,
            pool: settlement.pool,
            payout: settlement.payout,
            residual: settlement.residual,
        },
        counts: Counts {
            actors: book.actors().len(),
            events: book.events(),
            paid: settlement.payouts.len(),
            capped: settlement.capped,
            below_min: settlement.below_min,
        },
        payouts: settlement
            .payouts
            .iter()
            .map(|(actor, amount)| (Name::checked(actor), *amount))
            .collect(),
    };
    let bytes = manifest.to_bytes();
    let commitment = Address::of(&bytes);
    Ok(Run {
        manifest,
        bytes,
        commitment,
    })
}
