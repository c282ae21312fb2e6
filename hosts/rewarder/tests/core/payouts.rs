//! Who is paid how much.

use std::ops::ControlFlow;

use proptest::prelude::*;
use svc_rewarder::{compute, Address, Phase, RunError, RunKey, Sealed, Unwatched, EVENTS_MAX};

use crate::support::*;

fn paid(work: &Work, terms: &Terms) -> Vec<(String, u128)> {
    let manifest = run(work, terms).unwrap().manifest;
    let payouts = manifest.payouts.into_iter();
    payouts
        .map(|(actor, amount)| (actor.to_string(), amount))
        .collect()
}

fn pairs(pairs: &[(&str, u128)]) -> Vec<(String, u128)> {
    let pairs = pairs.iter();
    pairs
        .map(|(actor, amount)| (actor.to_string(), *amount))
        .collect()
}

#[test]
fn a_pool_of_1000_for_scores_of_122_and_220_is_356_and_643_and_one_is_left() {
    let work = Work::relays(1000, &[("b", 220), ("a", 122)]);
    let run = run(&work, &PRO_RATA).unwrap();
    let amounts: Vec<u128> = run
        .manifest
        .payouts
        .iter()
        .map(|(_, amount)| *amount)
        .collect();
    assert_eq!(amounts, [356, 643]);
    let totals = run.manifest.totals;
    assert_eq!(
        (totals.pool, totals.payout, totals.residual),
        (1000, 999, 1)
    );
}

#[test]
fn caps_and_minimum_cut_and_what_is_cut_is_left_over() {
    let work = Work::relays(1000, &[("a", 1), ("b", 9), ("c", 90), ("idle", 0)]);
    let cases = [
        (
            PRO_RATA,
            pairs(&[("a", 10), ("b", 90), ("c", 900)]),
            0,
            (0, 0),
        ),
        (
            Terms {
                actor_cap: Some(90),
                ..PRO_RATA
            },
            pairs(&[("a", 10), ("b", 90), ("c", 90)]),
            810,
            (1, 0),
        ),
        (
            Terms {
                min_payout: 11,
                ..PRO_RATA
            },
            pairs(&[("b", 90), ("c", 900)]),
            10,
            (0, 1),
        ),
        (
            Terms {
                min_payout: 10,
                actor_cap: Some(10),
                ..PRO_RATA
            },
            pairs(&[("a", 10), ("b", 10), ("c", 10)]),
            970,
            (2, 0),
        ),
        (
            Terms {
                epoch_cap: Some(500),
                ..PRO_RATA
            },
            pairs(&[("a", 5), ("b", 45), ("c", 450)]),
            0,
            (0, 0),
        ),
        // The cap of an epoch is no promise.
        (
            Terms {
                epoch_cap: Some(5000),
                ..PRO_RATA
            },
            pairs(&[("a", 10), ("b", 90), ("c", 900)]),
            0,
            (0, 0),
        ),
        (
            Terms {
                prices: [5, 0, 0],
                ..TARIFF
            },
            pairs(&[("a", 5), ("b", 45), ("c", 450)]),
            500,
            (0, 0),
        ),
        (
            Terms {
                prices: [100, 0, 0],
                actor_cap: Some(450),
                ..TARIFF
            },
            pairs(&[("a", 100), ("b", 450), ("c", 450)]),
            0,
            (2, 0),
        ),
        (
            Terms {
                prices: [0; 3],
                ..PRO_RATA
            },
            vec![],
            1000,
            (0, 0),
        ),
        (
            Terms {
                prices: [0; 3],
                ..TARIFF
            },
            vec![],
            1000,
            (0, 0),
        ),
    ];
    for (terms, expected, residual, counts) in cases {
        assert_eq!(paid(&work, &terms), expected, "{terms:?}");
        let manifest = run(&work, &terms).unwrap().manifest;
        assert_eq!(manifest.totals.residual, residual, "{terms:?}");
        let found = (manifest.counts.capped, manifest.counts.below_min);
        assert_eq!(found, counts, "{terms:?}");
        assert_eq!(manifest.totals.offered, 1000);
    }
}

#[test]
fn a_tariff_that_owes_more_than_the_pool_is_a_conflict_and_one_that_owes_it_all_is_not() {
    let work = |pool| Work::relays(pool, &[("a", 10), ("b", 10)]);
    assert_eq!(
        run(&work(240), &TARIFF).unwrap().manifest.totals.residual,
        0
    );
    let conflict = run(&work(239), &TARIFF).unwrap_err();
    let (pool, owed) = (239, Some(240));
    assert_eq!(conflict, RunError::Overspend { pool, owed });
    assert_eq!(
        conflict.to_string(),
        "conservation: the tariff owes 240 and the pool has 239"
    );
    let terms = Terms {
        epoch_cap: Some(239),
        ..TARIFF
    };
    assert_eq!(run(&work(9999), &terms).unwrap_err(), conflict);
    // Beyond 128 bits: 32 times (2^64 - 1)^2.
    let huge: Vec<(String, String, &str, u64)> = (0..32)
        .map(|at| (format!("a{at}"), "e".to_owned(), KINDS[0], u64::MAX))
        .collect();
    let huge = Work {
        pool: u128::MAX,
        rows: huge,
    };
    let terms = Terms {
        prices: [u64::MAX, 0, 0],
        ..TARIFF
    };
    let (pool, owed) = (u128::MAX, None);
    assert_eq!(
        run(&huge, &terms).unwrap_err(),
        RunError::Overspend { pool, owed }
    );
    // One actor alone beyond 128 bits, and the same with a cap.
    let rows = (0..2).map(|at| ("a".to_owned(), format!("e{at}"), KINDS[0], u64::MAX));
    let one = Work {
        pool: u128::MAX,
        rows: rows.collect(),
    };
    assert_eq!(
        run(&one, &terms).unwrap_err(),
        RunError::Overspend { pool, owed }
    );
    for cap in [1, u128::MAX] {
        let terms = Terms {
            actor_cap: Some(cap),
            ..terms.clone()
        };
        assert_eq!(paid(&one, &terms), pairs(&[("a", cap)]));
    }
}

#[test]
fn extremes_of_128_bits_are_shared_exactly() {
    const MAX: u128 = u128::MAX;
    let full = Terms {
        prices: [u32::MAX.into(), 0, 0],
        ..PRO_RATA
    };
    let most = u64::MAX;
    for (work, expected) in [
        (vec![("a", most)], vec![("a", MAX)]),
        (
            vec![("a", most), ("b", most), ("c", most)],
            vec![("a", MAX / 3), ("b", MAX / 3), ("c", MAX / 3)],
        ),
        (
            vec![("a", 1), ("b", most - 1)],
            vec![
                ("a", MAX / u128::from(most)),
                ("b", MAX - MAX / u128::from(most)),
            ],
        ),
    ] {
        assert_eq!(paid(&Work::relays(MAX, &work), &full), pairs(&expected));
    }
    assert_eq!(paid(&Work::relays(0, &[("a", 1)]), &PRO_RATA), []);
}

#[test]
fn more_work_of_one_actor_can_lower_what_all_get_together() {
    let both = |one| run(&Work::relays(10, &[("a", one), ("b", 1)]), &PRO_RATA).unwrap();
    assert_eq!(both(1).manifest.totals.payout, 10);
    assert_eq!(both(2).manifest.totals.payout, 9);
}

#[test]
fn what_does_not_go_together_is_refused_by_name() {
    let work = Work::relays(10, &[("a", 1)]);
    let bytes = work.sealed();
    let sealed = Sealed::of(&bytes).unwrap();
    let policy = PRO_RATA.policy();
    let of = |tenant: &str, id: &str| {
        compute(&name(tenant), &epoch(id), &sealed, &policy, &mut Unwatched)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        of("other", "2026-11-21"),
        "the inputs are for tenant acme, not other"
    );
    assert_eq!(
        of("acme", "2026-11-22"),
        "the inputs are for epoch_id 2026-11-21, not 2026-11-22"
    );
    let refused = |work: &Work| run(work, &PRO_RATA).unwrap_err().to_string();
    assert_eq!(
        refused(&Work::relays(10, &[("treasury", 1)])),
        "actor treasury is the funding account"
    );
    let mut unknown = work.clone();
    unknown
        .rows
        .push(("a".to_owned(), "e9".to_owned(), "mining", 5));
    assert_eq!(
        refused(&unknown),
        "actor a did work of kind mining, for which the policy has no price"
    );
    let mut many = work;
    for at in 0..64 {
        let kind: &'static str = Box::leak(format!("kind{at}").into_boxed_str());
        many.rows.push(("a".to_owned(), format!("k{at}"), kind, 1));
    }
    assert_eq!(refused(&many), "the inputs have more than 64 kinds of work");
}

#[test]
fn a_run_ends_wherever_its_watcher_breaks_it_off() {
    let (tenant, epoch_id) = (name("acme"), epoch("e"));
    let bytes =
        svc_rewarder::generate::inputs(svc_rewarder::generate::Size::S, 3, &tenant, &epoch_id);
    let sealed = Sealed::of(&bytes).unwrap();
    let policy = svc_rewarder::golden::VECTORS[0].policy().unwrap();
    let watched = |stop: usize| {
        let mut calls = Vec::new();
        let mut watch = |phase: Phase, done: usize| {
            calls.push((phase, done));
            match calls.len() > stop {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        let result = compute(&tenant, &epoch_id, &sealed, &policy, &mut watch);
        (result, calls)
    };
    let (result, calls) = watched(usize::MAX);
    result.unwrap();
    // Each begins once, in order, and events are told of in between.
    let begun: Vec<Phase> = calls
        .iter()
        .filter(|(_, done)| *done == 0)
        .map(|(phase, _)| *phase)
        .collect();
    assert_eq!(begun, Phase::ALL);
    assert!(calls.contains(&(Phase::Parse, 8192)) && calls.contains(&(Phase::Check, 4096)));
    for stop in 0..calls.len() {
        assert_eq!(
            watched(stop),
            (Err(RunError::Cancelled), calls[..=stop].to_vec())
        );
    }
}

#[test]
fn the_limits_keep_every_score_below_2_to_the_116() {
    let most = u128::from(u64::MAX) * u128::from(u32::MAX);
    assert!(most.checked_mul(EVENTS_MAX as u128).unwrap() < 1 << 116);
}

#[test]
fn the_intent_is_the_manifest_in_the_ledgers_words() {
    let run = run(&Work::relays(1000, &[("a", 122), ("b", 220)]), &PRO_RATA).unwrap();
    let intent = run.intent();
    assert_eq!((intent.total, intent.postings.len()), (999, 2));
    let (commitment, key) = (run.commitment, run.manifest.run_key);
    let expected = format!(
        r#"{{"commitment":"{commitment}","epoch_id":"2026-11-21","funding_account":"treasury","postings":[["a","356"],["b","643"]],"run_key":"{key}","tenant":"acme","total":"999","v":1}}"#
    );
    assert_eq!(String::from_utf8(intent.to_bytes()).unwrap(), expected);
    assert_eq!(commitment, Address::of(&run.bytes));
}

#[test]
fn a_run_key_is_the_key_derived_from_its_fields_behind_their_lengths() {
    let (policy, inputs) = (Address::of(b"policy"), Address::of(b"inputs"));
    let mut material = Vec::new();
    for field in [
        b"acme".as_slice(),
        b"e1",
        policy.as_bytes(),
        inputs.as_bytes(),
    ] {
        material.extend_from_slice(&(field.len() as u64).to_le_bytes());
        material.extend_from_slice(field);
    }
    let key = blake3::derive_key("ron svc-rewarder 2026-11-22 run_key v1", &material);
    assert_eq!(
        RunKey::of(&name("acme"), &epoch("e1"), &policy, &inputs).as_bytes(),
        &key
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// Against integers without bounds; and nothing is created or lost.
    #[test]
    fn payouts_are_those_of_a_naive_model(work in work(), terms in terms()) {
        match (run(&work, &terms), naive(&work, &terms)) {
            (Ok(run), Some(expected)) => {
                let manifest = run.manifest;
                prop_assert_eq!(&manifest.payouts, &expected);
                let sum: u128 = expected.iter().map(|(_, amount)| amount).sum();
                let totals = manifest.totals;
                prop_assert_eq!(totals.payout, sum);
                prop_assert_eq!(totals.payout.checked_add(totals.residual), Some(totals.pool));
                prop_assert!(totals.pool <= totals.offered);
                prop_assert!(manifest.payouts.iter().all(|(_, amount)| *amount > 0));
            }
            (Err(RunError::Overspend { .. }), None) => prop_assert!(terms.tariff),
            (run, naive) => prop_assert!(false, "{run:?} {naive:?}"),
        }
    }

    /// A run's bytes, not only its payouts.
    #[test]
    fn the_order_of_events_changes_nothing(
        (work, other) in work().prop_flat_map(|work| {
            let shuffled = Just(work.rows.clone()).prop_shuffle();
            (Just(work), shuffled)
        }),
        terms in terms(),
    ) {
        let other = Work { rows: other, ..work };
        prop_assert_eq!(run(&work, &terms), run(&other, &terms));
    }

    #[test]
    fn an_actor_that_works_more_is_never_paid_less(
        work in work(),
        terms in terms(),
        who in any::<prop::sample::Index>(),
        more in 1_u64..,
    ) {
        prop_assume!(!work.rows.is_empty());
        let mut harder = work.clone();
        let row = who.get(&work.rows).clone();
        let at = who.index(work.rows.len());
        harder.rows[at].3 = row.3.saturating_add(more);
        if let (Ok(before), Ok(after)) = (run(&work, &terms), run(&harder, &terms)) {
            let paid = |run: &svc_rewarder::Run| {
                let payouts = run.manifest.payouts.iter();
                payouts.filter(|(actor, _)| actor.as_str() == row.0).map(|(_, amount)| *amount).sum::<u128>()
            };
            prop_assert!(paid(&before) <= paid(&after));
        }
    }

    /// A text of both names does not tell where one ends: the key does.
    #[test]
    fn run_keys_differ_wherever_a_field_does(text in "[a-z]{4,12}", cut in 1_usize..11, other in 1_usize..11) {
        let (cut, other) = (cut.min(text.len() - 1), other.min(text.len() - 1));
        let (policy, inputs) = (Address::of(b"policy"), Address::of(b"inputs"));
        let key = |cut: usize, policy, inputs| {
            let (tenant, epoch_id) = text.split_at(cut);
            RunKey::of(&name(tenant), &epoch(epoch_id), policy, inputs)
        };
        let one = key(cut, &policy, &inputs);
        prop_assert_eq!(one == key(other, &policy, &inputs), cut == other);
        prop_assert_ne!(one, key(cut, &inputs, &policy));
        prop_assert_ne!(one, key(cut, &policy, &policy));
        prop_assert_ne!(one, key(cut, &inputs, &inputs));
    }
}
