//! A question and its answer.

use super::peers::{Actix, ActixHere, Ask, Kameo, Ractor, RawAsk, Ryker, Xtra};
use super::{Host, Job};
use crate::harness::{Goal, Group};
use std::hint::black_box;
use std::time::Instant;

const TRIPS: u64 = 50_000;
const CAPACITY: usize = 64;

pub fn group() -> Group {
    Group::new(
        "actor-ask",
        "a round trip from a task to an actor",
        "raw tokio mpsc and oneshot",
    )
    .measure("current_thread", "ns")
    .measure("2 workers", "ns")
    .goal("current_thread", "ryker", Goal::Ratio(1.15))
    .goal("2 workers", "ryker", Goal::Ratio(1.15))
    .case("ryker", all::<Ryker>)
    .case("raw tokio mpsc and oneshot", all::<RawAsk>)
    .case("kameo", all::<Kameo>)
    .case("ractor", all::<Ractor>)
    .case("xtra", all::<Xtra>)
    .case("actix, same and other arbiter", || {
        vec![ask::<ActixHere>(Host::System), ask::<Actix>(Host::System)]
    })
    .note("50,000 round trips, one under way. None of the peers has a deadline set.")
}

/// Adds up what it is asked to.
#[derive(Clone, Default)]
struct Sum(u64);

impl Job for Sum {
    type Message = u64;
    type Reply = u64;

    fn handle(&mut self, more: u64) -> u64 {
        self.0 += more;
        self.0
    }
}

fn all<P: Ask<Sum>>() -> Vec<f64> {
    [Host::CurrentThread, Host::Workers(2)]
        .map(ask::<P>)
        .to_vec()
}

fn ask<P: Ask<Sum>>(host: Host) -> f64 {
    host.block_on(async {
        let actor = P::spawn(Sum::default(), CAPACITY).await;
        let asking = tokio::spawn(async move {
            let began = Instant::now();
            for number in 1..=TRIPS {
                assert_eq!(P::ask(&actor, black_box(1)).await, number);
            }
            began.elapsed().as_nanos() as f64 / TRIPS as f64
        });
        asking.await.expect("all replies")
    })
}
