//! 100,000 actors, each of which handles one message; a process of its own for every case.

use super::peers::{ActixHere, Kameo, Ractor, Raw, Ryker, Tell, Xtra};
use super::{Host, Job};
use crate::harness::{Goal, Group};
use crate::memory;
use std::future::Future;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// The argument that has this program do one case alone; the case follows.
pub const ALONE: &str = "actor-spawn-alone";

const ACTORS: usize = 100_000;
const CAPACITY: usize = 64;

type Case = (&'static str, fn() -> [f64; 3]);

const CASES: &[Case] = &[
    ("ryker", || measure(WORKERS, actors::<Ryker>)),
    (BASELINE, || measure(WORKERS, actors::<Raw>)),
    ("bare tokio task", || measure(WORKERS, tasks)),
    ("kameo", || measure(WORKERS, actors::<Kameo>)),
    ("ractor", || measure(WORKERS, actors::<Ractor>)),
    ("xtra", || measure(WORKERS, actors::<Xtra>)),
    ("actix, one arbiter", || {
        measure(Host::System, actors::<ActixHere>)
    }),
];
const BASELINE: &str = "raw tokio mpsc";
const WORKERS: Host = Host::Workers(2);

pub fn group() -> Group {
    let group = Group::new(
        "actor-spawn",
        "100,000 actors until each handled a message, 2 workers",
        BASELINE,
    );
    let group = group
        .measure("all", "ms")
        .measure("one, resident", "B")
        .measure("one, live", "B");
    CASES
        .iter()
        .fold(group, |group, &(name, _)| group.case(name, move || elsewhere(name)))
        .goal("all", "ryker", Goal::AtMost(120.0))
        .goal("one, resident", "ryker", Goal::AtMost(900.0))
        .note(
            "A process for each case and round; resident is what VmRSS grew by, live what the allocator was \
             asked for, both with the reference that is kept of each. Capacity 64 where there is a bound.",
        )
}

/// Runs one case in a process of its own.
fn elsewhere(name: &str) -> Vec<f64> {
    let program = std::env::current_exe().expect("this program");
    let output = Command::new(program).args([ALONE, name]).output();
    let text = output.expect("this program ran before").stdout;
    let values = String::from_utf8_lossy(&text);
    let values: Vec<f64> = values
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect();
    assert_eq!(values.len(), 3, "{name}");
    values
}

/// Runs the case `name` and prints its values.
pub fn alone(name: &str) {
    let (_, run) = CASES
        .iter()
        .find(|(known, _)| *known == name)
        .expect("a case");
    for value in run() {
        println!("{value}");
    }
}

/// Counts itself.
#[derive(Clone)]
struct Recruit {
    missing: Arc<AtomicUsize>,
    all: Arc<Notify>,
}

impl Recruit {
    fn new() -> Recruit {
        Recruit {
            missing: Arc::new(AtomicUsize::new(ACTORS)),
            all: Arc::new(Notify::new()),
        }
    }
}

impl Job for Recruit {
    type Message = u64;
    type Reply = ();

    fn handle(&mut self, _: u64) {
        if self.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.all.notify_one();
        }
    }
}

/// All of them, and the reference that is kept of each.
async fn actors<P: Tell<Recruit>>() -> Vec<P::Ref> {
    let recruit = Recruit::new();
    let mut actors = Vec::with_capacity(ACTORS);
    for _ in 0..ACTORS {
        let actor = P::spawn(recruit.clone(), CAPACITY).await;
        P::tell(&actor, 1).await;
        actors.push(actor);
    }
    recruit.all.notified().await;
    actors
}

/// The least it can cost: a task that waits for ever.
async fn tasks() -> Vec<JoinHandle<()>> {
    let recruit = Recruit::new();
    let mut tasks = Vec::with_capacity(ACTORS);
    for _ in 0..ACTORS {
        let mut recruit = recruit.clone();
        tasks.push(tokio::spawn(async move {
            recruit.handle(1);
            std::future::pending::<()>().await;
        }));
    }
    recruit.all.notified().await;
    tasks
}

/// Makes them twice, as counting takes time.
fn measure<F: Future>(host: Host, make: fn() -> F) -> [f64; 3] {
    let [ms, resident] = host.block_on(async {
        let (before, began) = (resident(), Instant::now());
        let _kept = make().await;
        let ms = began.elapsed().as_secs_f64() * 1e3;
        [ms, resident() - before]
    });
    let live = host.block_on(async {
        memory::start_counting();
        let _kept = make().await;
        memory::stop_counting()
    });
    [ms, resident / ACTORS as f64, live / ACTORS as f64]
}

/// Bytes of this process in memory.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let kilobytes = status.lines().find_map(|line| {
        let text = line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?;
        text.parse::<f64>().ok()
    });
    kilobytes.expect("a size") * 1024.0
}
