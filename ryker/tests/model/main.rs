//! Random operations on a mailbox against a model of plain queues: outcomes, wake-ups, depth, accounts, what the observer
//! is told and the end of every message are compared after each.
//!
//! `PROPTEST_CASES=20000 cargo test -p ryker --release --test model` is the long run.
#![cfg(not(loom))]

mod naive;
mod world;

use naive::Shape;
use proptest::prelude::*;
use world::{Op, World};

fn shape() -> impl Strategy<Value = Shape> {
    (
        prop_oneof![6 => 1..5_usize, 1 => 5..40_usize, 2 => 64..80_usize],
        prop::option::of(1..4_u64),
        prop::sample::select(vec![15, 25, 45, 95_u64]),
        1..5_u32,
        0..5_u32,
    )
        .prop_map(|(capacity, messages, deadline_ms, batch, more)| Shape {
            capacity,
            // As much as so many of the largest, or as all that there may be.
            bytes: messages.map(|n| 1_024 * n.min(capacity as u64)),
            deadline_ms,
            batch,
            yield_every: batch + more,
        })
}

fn op() -> impl Strategy<Value = Op> {
    let size = || prop_oneof![3 => 0..400_usize, 2 => 400..1_025_usize, 1 => 1_020..2_000_usize];
    let own = prop::option::of(prop::sample::select(vec![0, 5, 15, 35_u64]));
    prop_oneof![
        24 => (any::<usize>(), size()).prop_map(|(sender, size)| Op::TrySend { sender, size }),
        8 => (any::<usize>(), 1..100_usize)
            .prop_map(|(sender, messages)| Op::Fill { sender, messages }),
        24 => (any::<usize>(), size(), own)
            .prop_map(|(sender, size, own)| Op::Send { sender, size, own }),
        6 => any::<usize>().prop_map(Op::Look),
        20 => Just(Op::LookAtWoken),
        8 => any::<usize>().prop_map(Op::Cancel),
        4 => any::<usize>().prop_map(Op::Clone),
        3 => any::<usize>().prop_map(Op::DropSender),
        16 => Just(Op::TryRecv),
        8 => (1..60_usize).prop_map(Op::Take),
        20 => Just(Op::Recv),
        12 => (1..6_usize).prop_map(Op::RecvMany),
        1 => Just(Op::CloseReceiver),
        1 => Just(Op::DropReceiver),
        1 => Just(Op::Drain),
        1 => Just(Op::Cut),
        8 => (1..4_u64).prop_map(Op::Advance),
    ]
}

fn cases() -> u32 {
    let asked = std::env::var("PROPTEST_CASES").ok();
    asked.and_then(|cases| cases.parse().ok()).unwrap_or(400)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_mailbox_does_what_the_model_does_and_every_message_ends_once(
        shape in shape(),
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        // Polled by hand, hundreds of times in one turn: no budget.
        runtime.block_on(tokio::task::unconstrained(async {
            let mut world = World::new(shape);
            for op in &ops {
                world.apply(op).await;
            }
            world.finish().await;
        }));
    }
}
