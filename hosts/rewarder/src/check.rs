//! The second way to the same payouts, without the first one's code: what a defect there would have to get past.
//!
//! The inputs are read again, and event by event, not summed by kind. Nothing is divided: a payout `p` of a score `s`
//! is right if `p * total <= pool * s < (p + 1) * total`, which is what rounding down means. The arithmetic is its own,
//! in limbs of 32 bits. That the same reader reads and that the same policy prices are what both ways have in common.

use super::calculus::Settlement;
use super::inputs::{Piece, Reader, Sealed};
use super::name::Name;
use super::policy::{Mode, Policy};
use super::progress::{tick, Phase, Progress};
use super::run::RunError;

/// What is wrong with payouts that were computed. It is a defect of the program, or of the machine: never of inputs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// What is paid and what is left is not what there was.
    #[error("payouts and residual are not the pool of {pool}")]
    Conservation {
        /// What there was.
        pool: u128,
    },
    /// The pool is not that of inputs and policy.
    #[error("the pool is {found}, not {expected}")]
    Pool {
        /// By inputs and policy.
        expected: u128,
        /// As computed.
        found: u128,
    },
    /// An actor would be paid more or less than its work is worth.
    #[error("actor {actor} is not entitled to {amount}")]
    Payout {
        /// Who.
        actor: Name,
        /// How much it would be paid.
        amount: u128,
    },
    /// A payout is above the actor's cap, or below the minimum.
    #[error("the payout of {amount} to {actor} is not between minimum and cap")]
    Limit {
        /// Who.
        actor: Name,
        /// How much it would be paid.
        amount: u128,
    },
    /// Somebody is paid who did nothing, twice, or out of order.
    #[error("the payout to {actor} is not that of an actor of the inputs")]
    Stranger {
        /// Who.
        actor: Name,
    },
    /// Scores beyond what inputs can have.
    #[error("scores are beyond what inputs can have")]
    Overflow,
}

/// Proves every payout, and that nothing is created or lost.
///
/// # Errors
///
/// [`RunError::Invariant`] with what is wrong, or [`RunError::Cancelled`].
pub fn check(
    sealed: &Sealed<'_>,
    policy: &Policy,
    settlement: &Settlement<'_>,
    progress: &mut dyn Progress,
) -> Result<(), RunError> {
    tick(progress, Phase::Check, 0)?;
    let mut reader = Reader::new(sealed.bytes())?;
    let offered = reader.header().pool;
    let expected = match policy.epoch_cap() {
        Some(cap) if cap < offered => cap,
        _ => offered,
    };
    let pool = settlement.pool;
    if pool != expected {
        let found = pool;
        return Err(Violation::Pool { expected, found }.into());
    }
    let mut worth: Vec<(&str, Wide)> = Vec::new();
    while let Some(piece) = reader.piece()? {
        match (piece, worth.last_mut()) {
            (Piece::Actor(actor), _) => worth.push((actor, Wide::ZERO)),
            (Piece::Event { kind, qty, .. }, Some((actor, sum))) => {
                let price = policy.price(kind);
                let price = price.ok_or_else(|| RunError::unpriced(actor, Some(&kind)))?;
                // Two numbers of 64 bits have a product of 128.
                *sum = sum.plus(&Wide::from(u128::from(qty) * u128::from(price)))?;
                tick(progress, Phase::Check, reader.events())?;
            }
            (Piece::Event { .. }, None) => {}
        }
    }
    let mut total = Wide::ZERO;
    let mut sum = Wide::from(settlement.residual);
    if policy.mode() == Mode::ProRata {
        for (_, score) in &worth {
            total = total.plus(score)?;
        }
    }
    let mut payouts = settlement.payouts.iter().peekable();
    for (actor, score) in &worth {
        let paid = payouts.next_if(|(payee, _)| payee == actor);
        let amount = paid.map_or(0, |(_, amount)| *amount);
        sum = sum.plus(&Wide::from(amount))?;
        let due = match policy.mode() {
            Mode::Tariff => Due::exactly(score),
            Mode::ProRata => Due::share(pool, score, &total)?,
        };
        prove(actor, paid.is_some(), amount, &due, policy)?;
    }
    if let Some((payee, _)) = payouts.next() {
        let actor = Name::checked(payee);
        return Err(Violation::Stranger { actor }.into());
    }
    let stated = Wide::from(settlement.payout).plus(&Wide::from(settlement.residual))?;
    if sum != Wide::from(pool) || stated != sum {
        return Err(Violation::Conservation { pool }.into());
    }
    Ok(())
}

/// What an actor is entitled to, before cap and minimum, without dividing: the largest `p` with `p * unit <= whole`.
struct Due {
    whole: Wide,
    unit: Wide,
}

impl Due {
    fn exactly(amount: &Wide) -> Self {
        Due {
            whole: *amount,
            unit: Wide::from(1),
        }
    }

    fn share(pool: u128, score: &Wide, total: &Wide) -> Result<Self, Violation> {
        if *total == Wide::ZERO {
            return Ok(Due::exactly(&Wide::ZERO));
        }
        Ok(Due {
            whole: Wide::product(pool, score.narrow()?),
            unit: *total,
        })
    }

    /// Whether it is at least `amount`. Both are numbers of 128 bits wherever units are not 1.
    fn is_at_least(&self, amount: u128) -> Result<bool, Violation> {
        let product = Wide::product(amount, self.unit.narrow()?);
        Ok(product <= self.whole)
    }
}

fn prove(
    actor: &str,
    paid: bool,
    amount: u128,
    due: &Due,
    policy: &Policy,
) -> Result<(), Violation> {
    let name = || Name::checked(actor);
    let wrong = || Violation::Payout {
        actor: name(),
        amount,
    };
    let cap = policy.actor_cap().unwrap_or(u128::MAX);
    let least = policy.min_payout().max(1);
    if paid && (amount > cap || amount < least) {
        return Err(Violation::Limit {
            actor: name(),
            amount,
        });
    }
    let more_than = |amount: u128| match amount.checked_add(1) {
        Some(next) => due.is_at_least(next),
        None => due.is_above(),
    };
    let right = if paid {
        // Not too much; and not too little, unless the cap says so.
        due.is_at_least(amount)? && (Some(amount) == policy.actor_cap() || !more_than(amount)?)
    } else {
        // Too little to be paid.
        !due.is_at_least(least)?
    };
    match right {
        true => Ok(()),
        false => Err(wrong()),
    }
}

impl Due {
    /// Whether it is beyond 128 bits.
    fn is_above(&self) -> Result<bool, Violation> {
        let most = Wide::product(u128::MAX, self.unit.narrow()?);
        Ok(most.plus(&self.unit)? <= self.whole)
    }
}

/// An integer of 256 bits in limbs of 32, the highest first, so that their order is that of the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Wide([u32; 8]);

impl From<u128> for Wide {
    fn from(value: u128) -> Self {
        let mut limbs = [0; 8];
        for (at, limb) in limbs.iter_mut().rev().take(4).enumerate() {
            *limb = (value >> (32 * at)) as u32;
        }
        Wide(limbs)
    }
}

impl Wide {
    const ZERO: Wide = Wide([0; 8]);

    fn plus(&self, other: &Wide) -> Result<Wide, Violation> {
        let mut limbs = [0; 8];
        let mut carry = 0;
        for ((limb, a), b) in limbs.iter_mut().zip(self.0).zip(other.0).rev() {
            let sum = u64::from(a) + u64::from(b) + carry;
            *limb = sum as u32;
            carry = sum >> 32;
        }
        match carry {
            0 => Ok(Wide(limbs)),
            _ => Err(Violation::Overflow),
        }
    }

    /// Limb by limb, as on paper; two numbers of four limbs have a product of at most eight.
    fn product(a: u128, b: u128) -> Wide {
        let limb = |value: u128, at: usize| u64::from((value >> (32 * at)) as u32);
        let mut columns = [0_u32; 8];
        for i in 0..4 {
            let mut carry = 0;
            for (j, column) in columns.iter_mut().skip(i).enumerate() {
                let digit = if j < 4 { limb(b, j) } else { 0 };
                // At most (2^32 - 1)^2 + 2 (2^32 - 1), which is 2^64 - 1.
                let sum = limb(a, i) * digit + u64::from(*column) + carry;
                *column = sum as u32;
                carry = sum >> 32;
            }
        }
        columns.reverse();
        Wide(columns)
    }

    fn narrow(&self) -> Result<u128, Violation> {
        let (high, low) = self.0.split_at(4);
        if high.iter().any(|limb| *limb != 0) {
            return Err(Violation::Overflow);
        }
        Ok(low
            .iter()
            .fold(0, |value, limb| value << 32 | u128::from(*limb)))
    }
}
