//! Cases: events, a policy, and what they come to.

use num_bigint::BigUint;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use svc_rewarder::{
    compute, Draft, EpochId, Header, Name, Policy, Run, RunError, Sealed, Unwatched,
};

pub(crate) const KINDS: [&str; 3] = ["relay", "seed", "store"];

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) fn epoch(text: &str) -> EpochId {
    text.parse().unwrap()
}

/// Actor, id, kind, quantity.
pub(crate) type Row = (String, String, &'static str, u64);

/// Events in some order, and the pool.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    pub(crate) pool: u128,
    pub(crate) rows: Vec<Row>,
}

impl Work {
    /// One event of kind relay for each actor.
    pub(crate) fn relays(pool: u128, work: &[(&str, u64)]) -> Work {
        let row = |(at, (actor, qty)): (usize, &(&str, u64))| {
            (actor.to_string(), format!("e{at}"), KINDS[0], *qty)
        };
        let rows = work.iter().enumerate().map(row).collect();
        Work { pool, rows }
    }

    pub(crate) fn draft(&self) -> Draft {
        let mut draft = Draft::new(Header::new(name("acme"), epoch("2026-11-21"), self.pool));
        for (actor, id, kind, qty) in &self.rows {
            let added = draft.add(name(actor), name(id), name(kind), *qty);
            added.unwrap();
        }
        draft
    }

    pub(crate) fn sealed(&self) -> Vec<u8> {
        self.draft().seal()
    }
}

/// A policy's content, by field.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) tariff: bool,
    pub(crate) prices: [u64; 3],
    pub(crate) min_payout: u128,
    pub(crate) actor_cap: Option<u128>,
    pub(crate) epoch_cap: Option<u128>,
}

pub(crate) const PRO_RATA: Terms = Terms {
    tariff: false,
    prices: [1_000_000, 250_000, 0],
    min_payout: 0,
    actor_cap: None,
    epoch_cap: None,
};

pub(crate) const TARIFF: Terms = Terms {
    tariff: true,
    prices: [12, 5, 0],
    ..PRO_RATA
};

impl Terms {
    pub(crate) fn text(&self) -> String {
        let limit = |limit: Option<u128>| match limit {
            Some(limit) => format!("\"{limit}\""),
            None => "null".to_owned(),
        };
        let quote = if self.tariff { "\"" } else { "" };
        let prices = KINDS.iter().zip(self.prices);
        let prices: Vec<String> = prices
            .map(|(kind, price)| format!("\"{kind}\":{quote}{price}{quote}"))
            .collect();
        let prices = prices.join(",");
        let (mode, rates, weights) = match self.tariff {
            true => ("tariff", format!("\"rates\":{{{prices}}},"), String::new()),
            false => (
                "pro_rata",
                String::new(),
                format!(",\"weights_ppm\":{{{prices}}}"),
            ),
        };
        format!(
            r#"{{"actor_cap":{},"epoch_cap":{},"format":"rewarder-policy/1","funding_account":"treasury","id":"relays","min_payout":"{}","mode":"{mode}",{rates}"rounding":"floor","version":3{weights}}}"#,
            limit(self.actor_cap),
            limit(self.epoch_cap),
            self.min_payout
        )
    }

    pub(crate) fn policy(&self) -> Policy {
        Policy::read(self.text().as_bytes()).unwrap()
    }
}

pub(crate) fn run(work: &Work, terms: &Terms) -> Result<Run, RunError> {
    run_of(&work.sealed(), &terms.policy())
}

pub(crate) fn run_of(inputs: &[u8], policy: &Policy) -> Result<Run, RunError> {
    let sealed = Sealed::of(inputs).unwrap();
    let (tenant, epoch_id) = (name("acme"), epoch("2026-11-21"));
    compute(&tenant, &epoch_id, &sealed, policy, &mut Unwatched)
}

/// What each actor that did anything is due, by integers without bounds; `None` where the pool does not suffice.
pub(crate) fn naive(work: &Work, terms: &Terms) -> Option<Vec<(Name, u128)>> {
    let pool = terms.epoch_cap.map_or(work.pool, |cap| cap.min(work.pool));
    let mut worth = std::collections::BTreeMap::<Name, BigUint>::new();
    for (actor, _, kind, qty) in &work.rows {
        let price = KINDS.iter().position(|known| known == kind).unwrap();
        *worth.entry(name(actor)).or_default() += BigUint::from(*qty) * terms.prices[price];
    }
    let total: BigUint = worth.values().sum();
    let mut payouts = Vec::new();
    let mut sum = BigUint::ZERO;
    for (actor, worth) in worth {
        let mut due = match (terms.tariff, total == BigUint::ZERO) {
            (true, _) => worth,
            (false, true) => BigUint::ZERO,
            (false, false) => worth * pool / &total,
        };
        if let Some(cap) = terms.actor_cap {
            due = due.min(cap.into());
        }
        if due >= terms.min_payout.max(1).into() {
            sum += &due;
            // What does not fit is more than any pool.
            payouts.push((actor, u128::try_from(due).unwrap_or_default()));
        }
    }
    (sum <= pool.into()).then_some(payouts)
}

/// Of any width, and often an extreme.
pub(crate) fn wide() -> impl Strategy<Value = u128> {
    prop_oneof![
        4 => (any::<u128>(), 0_u32..128).prop_map(|(value, shift)| value >> shift),
        1 => Just(u128::MAX),
        1 => 0_u128..4,
    ]
}

fn quantity() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => (any::<u64>(), 0_u32..64).prop_map(|(value, shift)| value >> shift),
        1 => Just(u64::MAX),
        1 => 0_u64..4,
    ]
}

pub(crate) fn work() -> impl Strategy<Value = Work> {
    let event = ("[a-e][./@]?", "[a-z0-9]{1,3}");
    let events = btree_map(event, (0_usize..3, quantity()), 0..24);
    let rows = events.prop_map(|events| {
        let row = |((actor, id), (kind, qty))| (actor, id, KINDS[kind], qty);
        events.into_iter().map(row).collect::<Vec<Row>>()
    });
    (wide(), rows.prop_shuffle()).prop_map(|(pool, rows)| Work { pool, rows })
}

pub(crate) fn terms() -> impl Strategy<Value = Terms> {
    let limit = || option::of(wide().prop_map(|limit| limit.max(1)));
    let prices = vec(quantity(), 3);
    (
        any::<bool>(),
        prices,
        wide(),
        limit(),
        limit(),
        any::<bool>(),
    )
        .prop_map(|(tariff, prices, min_payout, actor_cap, epoch_cap, free)| {
            let price = |at: usize| match tariff {
                true => prices[at],
                false => prices[at] & u64::from(u32::MAX),
            };
            let min_payout = if free { 0 } else { min_payout };
            Terms {
                tariff,
                prices: [price(0), price(1), price(2)],
                min_payout: actor_cap.map_or(min_payout, |cap| cap.min(min_payout)),
                actor_cap,
                epoch_cap,
            }
        })
}
