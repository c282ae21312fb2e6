//! Actors against their peers: what they do, where they run, and the groups, one per file.

mod ask;
mod flood;
mod peers;
mod restart;
mod spawn;
mod tell;

pub use spawn::{alone, ALONE};

use crate::harness::Group;
use std::future::Future;
use tokio::runtime::{Builder, Runtime};

pub const NAMES: &[&str] = &[
    "actor-tell",
    "actor-ask",
    "actor-spawn",
    "actor-restart",
    "flood",
];

pub fn groups() -> Vec<Group> {
    vec![
        tell::group(),
        ask::group(),
        spawn::group(),
        restart::group(),
        flood::group(),
    ]
}

/// What an actor does, whatever framework it lives in.
pub trait Job: Clone + Send + Sync + 'static {
    type Message: Send + 'static;
    type Reply: Send + 'static;

    fn handle(&mut self, message: Self::Message) -> Self::Reply;
}

/// Where actors and those who send to them run.
#[derive(Clone, Copy, Debug)]
enum Host {
    CurrentThread,
    Workers(usize),
    /// Actix's own: the senders on one thread, what is started on another arbiter there.
    System,
}

impl Host {
    fn block_on<F: Future>(self, future: F) -> F::Output {
        match self {
            Host::CurrentThread => built(Builder::new_current_thread()).block_on(future),
            Host::Workers(workers) => Host::workers(workers).block_on(future),
            Host::System => {
                let system = actix::System::new();
                let output = system.block_on(future);
                actix::System::current().stop();
                system.run().expect("a stop in good order");
                output
            }
        }
    }

    fn workers(workers: usize) -> Runtime {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(workers);
        built(builder)
    }
}

fn built(mut builder: Builder) -> Runtime {
    builder.enable_all().build().expect("a runtime")
}
