//! From work to payouts, in integers.
//!
//! - `pro_rata`: an actor's score is the sum of its quantities times their weights; it is entitled to
//!   `floor(pool * score / total)`, the total being that of all scores. Nobody is paid where it is 0.
//! - `tariff`: an actor is entitled to the sum of its quantities times their rates. Where that is more than the pool
//!   for all together, nobody is paid: the epoch is in conflict with its policy.
//!
//! The pool is that of the inputs, at most the policy's `epoch_cap`. An entitlement above `actor_cap` is cut to it, one
//! below `min_payout` is paid not at all, and nothing that is cut is given to others: it is the residual. So what one
//! actor gets depends on others through the total only, and never falls when it works more.

use super::book::Book;
use super::policy::{Mode, Policy};
use super::progress::{tick, Phase, Progress};
use super::run::RunError;
use super::wide::multiply_divide;

/// What the work of each actor is worth under a policy.
#[derive(Debug)]
pub struct Scores {
    /// In the order of the actors. `None` is more than 128 bits hold, which only rates can bring about.
    each: Vec<Option<u128>>,
}

/// What is paid to whom, and what is not.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settlement<'a> {
    /// What there was to share.
    pub pool: u128,
    /// Whom is paid how much, ascending, nobody nothing.
    pub payouts: Vec<(&'a str, u128)>,
    /// The sum of all payouts.
    pub payout: u128,
    /// The rest of the pool.
    pub residual: u128,
    /// How many actors were entitled to more than the cap.
    pub capped: usize,
    /// How many actors did work that was worth something, but less than the minimum.
    pub below_min: usize,
}

/// Weighs what each actor did.
///
/// # Errors
///
/// The policy has no price for a kind of work, or the run is cancelled.
pub fn score(
    book: &Book<'_>,
    policy: &Policy,
    progress: &mut dyn Progress,
) -> Result<Scores, RunError> {
    tick(progress, Phase::Score, 0)?;
    let kinds = book.kinds().iter();
    let prices: Vec<Option<u128>> = kinds
        .map(|kind| policy.price(kind).map(u128::from))
        .collect();
    let mut each = Vec::with_capacity(book.work().len());
    for (at, (actor, sums)) in book.work().enumerate() {
        let mut score = Some(0_u128);
        for &(kind, qty) in sums {
            let price = prices.get(kind).copied().flatten();
            let price = price.ok_or_else(|| RunError::unpriced(actor, book.kinds().get(kind)))?;
            score = score.and_then(|score| score.checked_add(qty.checked_mul(price)?));
        }
        each.push(score);
        tick(progress, Phase::Score, at + 1)?;
    }
    Ok(Scores { each })
}

/// Makes payouts of scores.
///
/// # Errors
///
/// A tariff owes more than the pool has, an actor is the funding account, or the run is cancelled.
pub fn pay<'a>(
    book: &Book<'a>,
    scores: &Scores,
    policy: &Policy,
    progress: &mut dyn Progress,
) -> Result<Settlement<'a>, RunError> {
    tick(progress, Phase::Pay, 0)?;
    let offered = book.header().pool;
    let pool = policy.epoch_cap().map_or(offered, |cap| cap.min(offered));
    let total = match policy.mode() {
        Mode::Tariff => None,
        Mode::ProRata => {
            let sum = scores.each.iter().try_fold(0_u128, |sum, score| {
                score.and_then(|score| sum.checked_add(score))
            });
            Some(sum.ok_or(RunError::Overflow)?)
        }
    };
    let mut payouts = Vec::with_capacity(book.work().len());
    let (mut payout, mut capped, mut below_min) = (Some(0_u128), 0, 0);
    for (at, (actor, score)) in book.actors().zip(&scores.each).enumerate() {
        if actor == policy.funding_account().as_str() {
            return Err(RunError::funding(actor));
        }
        let entitled = match (*score, total) {
            (Some(_), Some(0)) => Some(0),
            (Some(score), Some(total)) => {
                Some(multiply_divide(pool, score, total).ok_or(RunError::Overflow)?)
            }
            (owed, None) => owed,
            (None, Some(_)) => return Err(RunError::Overflow),
        };
        let amount = match (entitled, policy.actor_cap()) {
            (Some(amount), None) => Some(amount),
            (Some(amount), Some(cap)) if amount <= cap => Some(amount),
            (_, Some(cap)) => {
                capped += 1;
                Some(cap)
            }
            (None, None) => None,
        };
        match amount {
            None => payout = None,
            Some(amount) if amount >= policy.min_payout().max(1) => {
                payouts.push((actor, amount));
                payout = payout.and_then(|sum| sum.checked_add(amount));
            }
            Some(_) => below_min += usize::from(*score != Some(0)),
        }
        tick(progress, Phase::Pay, at + 1)?;
    }
    let rest = payout.and_then(|payout| Some((payout, pool.checked_sub(payout)?)));
    let Some((payout, residual)) = rest else {
        return Err(match policy.mode() {
            Mode::Tariff => RunError::Overspend { pool, owed: payout },
            Mode::ProRata => RunError::Overflow,
        });
    };
    Ok(Settlement {
        pool,
        payouts,
        payout,
        residual,
        capped,
        below_min,
    })
}
