//! One actor whose mailbox is never empty beside 999 that seldom get a message, on one worker.

use super::peers::{ryker_actor, Kanal, KanalDrain, Raw, RawMany, Ryker, Spawn, TryTell};
use super::{Host, Job};
use crate::harness::{percentile, Group};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

const QUIET: usize = 999;
/// Messages to the quiet ones, to one after the other.
const SAMPLES: usize = 1_000;
const PERIOD: Duration = Duration::from_micros(200);
/// What the flooded one takes for a message.
const WORK: Duration = Duration::from_micros(1);
const CAPACITY: usize = 256;

pub fn group() -> Group {
    Group::new(
        "flood",
        "one flooded actor beside 999 quiet ones on one worker",
        "tokio mpsc, recv",
    )
    .measure("quiet, p50", "us")
    .measure("quiet, p99", "us")
    .measure("flooded, a message", "us")
    .case("ryker", || flood::<Ryker>(true))
    .case("ryker, fairness off", || flood::<Unfair>(true))
    .case("tokio mpsc, no flood", || flood::<Raw>(false))
    .case("tokio mpsc, recv", || flood::<Raw>(true))
    .case("tokio mpsc, recv_many(32)", || flood::<RawMany>(true))
    .case("kanal, recv", || flood::<Kanal>(true))
    .case("kanal, recv and drain_into", || flood::<KanalDrain>(true))
    .note(
        "A thread keeps the mailbox of one actor full, 256 messages of 1 us, and sends one message every 200 us to a \
         quiet one; 1,000 of these, from when it was due until it was handled. The flood ends with the last of them.",
    )
}

/// Ryker with a turn as long as it may be.
struct Unfair;

impl Spawn<Post> for Unfair {
    type Ref = <Ryker as Spawn<Post>>::Ref;

    async fn spawn(post: Post, capacity: usize) -> Self::Ref {
        static RUNTIME: LazyLock<ryker::Runtime> = LazyLock::new(|| {
            let turn = ryker::RykerConfig::builder().yield_every_n_msgs(1 << 20);
            ryker::Runtime::new(turn.build().expect("in its range"))
        });
        let actor = ryker_actor(&RUNTIME, post, capacity).spawn();
        actor.expect("it starts")
    }
}

impl TryTell<Post> for Unfair {
    fn try_tell(actor: &Self::Ref, due: Instant) -> bool {
        Ryker::try_tell(actor, due)
    }
}

#[derive(Clone)]
enum Post {
    Flooded(Arc<AtomicU64>),
    Quiet(Arc<Mutex<Vec<f64>>>),
}

impl Job for Post {
    /// When it was due.
    type Message = Instant;
    type Reply = ();

    fn handle(&mut self, due: Instant) {
        match self {
            Post::Flooded(handled) => {
                let began = Instant::now();
                while began.elapsed() < WORK {
                    std::hint::spin_loop();
                }
                handled.fetch_add(1, Ordering::Relaxed);
            }
            Post::Quiet(latencies) => {
                let us = due.elapsed().as_nanos() as f64 / 1e3;
                latencies.lock().expect("nobody panics with it").push(us);
            }
        }
    }
}

fn flood<P: TryTell<Post>>(flooding: bool) -> Vec<f64> {
    let runtime = Host::workers(1);
    let handled = Arc::new(AtomicU64::new(0));
    let latencies = Arc::new(Mutex::new(Vec::with_capacity(SAMPLES)));
    let spawn = |post: Post| runtime.block_on(P::spawn(post, CAPACITY));
    let flooded = spawn(Post::Flooded(Arc::clone(&handled)));
    let quiet: Vec<_> = (0..QUIET)
        .map(|_| spawn(Post::Quiet(Arc::clone(&latencies))))
        .collect();
    let began = Instant::now();
    let mut due = began;
    for actor in quiet.iter().cycle().take(SAMPLES) {
        due += PERIOD;
        while Instant::now() < due {
            if !flooding || !P::try_tell(&flooded, due) {
                std::hint::spin_loop();
            }
        }
        assert!(P::try_tell(actor, due), "a quiet one is full");
    }
    let elapsed = began.elapsed();
    let handled = handled.load(Ordering::Relaxed);
    loop {
        std::thread::yield_now();
        let latencies = latencies.lock().expect("nobody panics with it");
        if latencies.len() == SAMPLES {
            let a_message = elapsed.as_nanos() as f64 / 1e3 / handled as f64;
            return vec![
                percentile(&latencies, 50),
                percentile(&latencies, 99),
                if flooding { a_message } else { f64::NAN },
            ];
        }
    }
}
