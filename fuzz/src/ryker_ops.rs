//! Bytes as operations on a mailbox, with the model of ryker's own tests as oracle.

#[path = "../../ryker/tests/model/naive.rs"]
mod naive;
#[path = "../../ryker/tests/model/world.rs"]
mod world;

use naive::Shape;
use world::{Op, World};

use crate::input::Input;

/// Interprets `bytes` as a mailbox and what happens to it, and panics when the mailbox and the model disagree.
pub fn ryker_ops(bytes: &[u8]) {
    let mut input = Input(bytes);
    let shape = shape(&mut input);
    let talks = cfg!(not(fuzzing)) && std::env::var_os("RON_FUZZ_TRACE").is_some();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without drivers needs nothing of the system");
    runtime.block_on(tokio::task::unconstrained(async {
        let mut world = World::new(shape);
        while !input.0.is_empty() {
            let op = op(&mut input);
            if talks {
                eprintln!("{op:?}");
            }
            world.apply(&op).await;
        }
        world.finish().await;
    }));
}

fn shape(input: &mut Input<'_>) -> Shape {
    let capacity = [1, 2, 3, 4, 5, 8, 33, 64][input.index(8)];
    let budget = input.index(6) as u64;
    let deadline_ms = [15, 25, 45, 95][input.index(4)];
    let batch = 1 + input.index(4) as u32;
    Shape {
        capacity,
        // 0 and 1: not measured.
        bytes: (budget > 1).then(|| 1_024 * (budget - 1).min(capacity as u64)),
        deadline_ms,
        batch,
        yield_every: batch + input.index(5) as u32,
    }
}

fn size(input: &mut Input<'_>) -> usize {
    usize::from(input.byte()) * 5
}

/// One operation. Its first byte says which; endings are rare, so that inputs get far.
fn op(input: &mut Input<'_>) -> Op {
    let choice = input.byte();
    match choice % 32 {
        0 => Op::Fill {
            sender: input.index(8),
            messages: 1 + input.index(100),
        },
        1..=5 => Op::TrySend {
            sender: input.index(8),
            size: size(input),
        },
        6..=11 => Op::Send {
            sender: input.index(8),
            size: size(input),
            own: [None, Some(0), Some(5), Some(15), Some(35)][input.index(5)],
        },
        12 => Op::Look(input.index(16)),
        13..=16 => Op::LookAtWoken,
        17..=18 => Op::Cancel(input.index(16)),
        19 => Op::Clone(input.index(8)),
        20 => Op::DropSender(input.index(8)),
        21..=22 => Op::TryRecv,
        23 => Op::Take(1 + input.index(60)),
        24..=26 => Op::Recv,
        27..=28 => Op::RecvMany(1 + input.index(6)),
        29..=30 => Op::Advance(1 + input.index(3) as u64),
        _ => match choice {
            255 => Op::DropReceiver,
            223 => Op::CloseReceiver,
            191 => Op::Cut,
            159 => Op::Drain,
            _ => Op::LookAtWoken,
        },
    }
}
