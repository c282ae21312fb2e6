//! The second way finds what the first one could do wrong.

use proptest::prelude::*;
use svc_rewarder::{check, pay, score, Book, RunError, Sealed, Settlement, Unwatched, Violation};

use crate::support::*;

/// What the check says of a settlement after something was done to it.
fn judged(
    work: &Work,
    terms: &Terms,
    spoil: impl FnOnce(&mut Settlement<'_>),
) -> Result<(), RunError> {
    let (bytes, policy) = (work.sealed(), terms.policy());
    let sealed = Sealed::of(&bytes).unwrap();
    let book = Book::read(&sealed, &mut Unwatched)?;
    let scores = score(&book, &policy, &mut Unwatched)?;
    let mut settlement = pay(&book, &scores, &policy, &mut Unwatched)?;
    spoil(&mut settlement);
    check(&sealed, &policy, &settlement, &mut Unwatched)
}

fn violation(spoil: impl FnOnce(&mut Settlement<'_>)) -> Violation {
    let work = Work::relays(1000, &[("a", 122), ("b", 220), ("c", 5)]);
    let terms = Terms {
        min_payout: 20,
        actor_cap: Some(640),
        ..PRO_RATA
    };
    match judged(&work, &terms, spoil) {
        Err(RunError::Invariant(violation)) => violation,
        other => panic!("{other:?}"),
    }
}

#[test]
fn whatever_is_wrong_with_a_settlement_is_found_and_named() {
    let (a, z) = (name("a"), name("zoe"));
    let payout = |amount| Violation::Payout {
        actor: name("a"),
        amount,
    };
    let limit = |actor, amount| Violation::Limit {
        actor: name(actor),
        amount,
    };
    let shift = |settlement: &mut Settlement<'_>, up: u128, down: u128| {
        let amount = &mut settlement.payouts[0].1;
        *amount = *amount + up - down;
        settlement.payout = settlement.payout + up - down;
        settlement.residual = settlement.residual + down - up;
    };
    assert_eq!(violation(|s| shift(s, 1, 0)), payout(352));
    assert_eq!(violation(|s| shift(s, 0, 1)), payout(350));
    assert_eq!(violation(|s| s.payouts[1].1 = 641), limit("b", 641));
    assert_eq!(violation(|s| s.payouts[0].1 = 19), limit("a", 19));
    assert_eq!(
        violation(|s| s.payouts.insert(2, ("c", 14))),
        limit("c", 14)
    );
    assert_eq!(
        violation(|s| s.payouts.retain(|(who, _)| *who != "a")),
        payout(0)
    );
    assert_eq!(
        violation(|s| s.payouts.push(("zoe", 1))),
        Violation::Stranger { actor: z }
    );
    assert_eq!(violation(|s| s.payouts.swap(0, 1)), payout(0));
    let twice = violation(|s| s.payouts.insert(1, ("a", 351)));
    assert!(
        matches!(twice, Violation::Payout { .. } | Violation::Stranger { .. }),
        "{twice}"
    );
    let lost = Violation::Conservation { pool: 1000 };
    assert_eq!(violation(|s| s.residual += 1), lost);
    assert_eq!(violation(|s| s.residual -= 1), lost);
    assert_eq!(violation(|s| s.payout += 1), lost);
    let (expected, found) = (1000, 1001);
    assert_eq!(
        violation(|s| (s.pool, s.residual) = (1001, s.residual + 1)),
        Violation::Pool { expected, found }
    );
    assert_eq!(
        RunError::from(Violation::Payout {
            actor: a,
            amount: 5
        })
        .to_string(),
        "invariant=fail actor a is not entitled to 5"
    );
}

#[test]
fn a_tariff_is_proved_to_the_unit_and_beyond_128_bits() {
    let work = Work::relays(1000, &[("a", 10)]);
    let wrong = |amount: u128| {
        judged(&work, &TARIFF, |s| {
            (s.payouts[0].1, s.payout, s.residual) = (amount, amount, 1000 - amount);
        })
    };
    assert_eq!(wrong(120), Ok(()));
    for amount in [119, 121] {
        let actor = name("a");
        assert_eq!(
            wrong(amount),
            Err(Violation::Payout { actor, amount }.into())
        );
    }
    let rows = (0..2).map(|at| ("a".to_owned(), format!("e{at}"), KINDS[0], u64::MAX));
    let huge = Work {
        pool: u128::MAX,
        rows: rows.collect(),
    };
    let terms = Terms {
        prices: [u64::MAX, 0, 0],
        actor_cap: Some(u128::MAX),
        ..TARIFF
    };
    assert_eq!(judged(&huge, &terms, |_| ()), Ok(()));
    let less = judged(&huge, &terms, |s| {
        (s.payouts[0].1, s.payout, s.residual) = (u128::MAX - 1, u128::MAX - 1, 1);
    });
    assert!(matches!(less, Err(RunError::Invariant(_))), "{less:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// One unit from the residual to somebody, or back.
    #[test]
    fn no_unit_can_be_moved(work in work(), terms in terms(), who in any::<prop::sample::Index>(), up in any::<bool>()) {
        let mut moved = false;
        let judged = judged(&work, &terms, |settlement| {
            if settlement.payouts.is_empty() || up && settlement.residual == 0 {
                return;
            }
            let at = who.index(settlement.payouts.len());
            let amount = &mut settlement.payouts[at].1;
            match up {
                true => (*amount, settlement.payout, settlement.residual) =
                    (*amount + 1, settlement.payout + 1, settlement.residual - 1),
                false => (*amount, settlement.payout, settlement.residual) =
                    (*amount - 1, settlement.payout - 1, settlement.residual + 1),
            }
            moved = true;
        });
        match judged {
            Ok(()) => prop_assert!(!moved),
            Err(RunError::Invariant(violation)) => prop_assert!(moved, "{violation}"),
            Err(error) => prop_assert!(matches!(error, RunError::Overspend { .. }), "{error}"),
        }
    }
}
