//! Messages that want no answer, from 1 and 4 tasks to one actor.

use super::peers::{Actix, ActixHere, Kameo, KanalDrain, Ractor, Raw, RawMany, Ryker, Tell, Xtra};
use super::{Host, Job};
use crate::harness::{Goal, Group};
use crate::mailbox::{Message, Tape};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Notify;

const FAN_IN: [(&str, usize); 2] = [("1 -> 1", 1), ("4 -> 1", 4)];
/// Of all producers together.
const MESSAGES: u64 = 300_000;
const CAPACITY: usize = 1024;

pub fn group() -> Group {
    let group = Group::new(
        "actor-tell",
        "64-byte messages from tasks to an actor, 2 workers",
        "raw tokio mpsc, recv",
    );
    let measured = |group: Group, (measure, _)| group.measure(measure, "ns");
    FAN_IN
        .into_iter()
        .fold(group, measured)
        .goal("1 -> 1", "ryker", Goal::Ratio(0.5))
        .goal("4 -> 1", "ryker", Goal::Ratio(0.5))
        .case("ryker", || all::<Ryker>(WORKERS, true))
        .case("raw tokio mpsc, recv", || all::<Raw>(WORKERS, true))
        .case("raw tokio mpsc, recv_many(32)", || all::<RawMany>(WORKERS, true))
        .case("raw kanal, recv and drain_into", || all::<KanalDrain>(WORKERS, true))
        .case("kameo", || all::<Kameo>(WORKERS, true))
        .case("ractor", || all::<Ractor>(WORKERS, true))
        .case("xtra, out of order", || all::<Xtra>(WORKERS, false))
        .case("actix, other arbiter", || all::<Actix>(Host::System, true))
        .case("actix, same arbiter", || all::<ActixHere>(Host::System, true))
        .rates()
        .note(
            "ns per message, from the first until the last was handled. Capacity 1,024, for whose room the producers \
             wait; ractor and actix (do_send) have no bound. The actor checks that each message came once and in the \
             order of its producer; xtra's do not.",
        )
}

const WORKERS: Host = Host::Workers(2);

/// Takes messages down until all are there.
#[derive(Clone)]
struct Clerk {
    tape: Tape,
    done: Arc<Notify>,
    ordered: bool,
}

impl Job for Clerk {
    type Message = Message;
    type Reply = ();

    fn handle(&mut self, message: Message) {
        if self.ordered {
            self.tape.take(&message);
        } else {
            self.tape.count(&message);
        }
        if self.tape.is_full() {
            self.done.notify_one();
        }
    }
}

fn all<P: Tell<Clerk>>(host: Host, ordered: bool) -> Vec<f64> {
    FAN_IN
        .map(|(_, producers)| tell::<P>(host, producers, ordered))
        .to_vec()
}

fn tell<P: Tell<Clerk>>(host: Host, producers: usize, ordered: bool) -> f64 {
    let each = MESSAGES / producers as u64;
    let done = Arc::new(Notify::new());
    let clerk = Clerk {
        tape: Tape::new(producers, each),
        done: Arc::clone(&done),
        ordered,
    };
    host.block_on(async {
        let actor = P::spawn(clerk, CAPACITY).await;
        let began = Instant::now();
        for producer in 0..producers {
            let actor = actor.clone();
            tokio::spawn(async move {
                for number in 0..each {
                    P::tell(&actor, Message::new(producer, black_box(number))).await;
                }
            });
        }
        done.notified().await;
        began.elapsed().as_nanos() as f64 / MESSAGES as f64
    })
}
