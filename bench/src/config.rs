//! Reading one field of the configuration in force, alone and while it is replaced every millisecond.

use crate::harness::{ns_per_op, Goal, Group};
use arc_swap::{ArcSwap, Cache};
use ron_config::{Loaded, Loader, Reload, Schema, Settings, Watch};
use std::hint::black_box;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

pub const NAMES: &[&str] = &["config"];

const READS: u64 = 1_000_000;
/// Between two writes.
const EVERY: Duration = Duration::from_millis(1);
/// Reads beside a writer go on for about so long, to be written to many times.
const LONG_NS: f64 = 40e6;
const QUIET: [&str; 2] = ["1 thread", "2 threads"];
const WRITTEN: [&str; 2] = ["1 thread + writer", "2 threads + writer"];
const RON: &str = "ron-config Watch::get";

pub fn groups() -> Vec<Group> {
    let file = Rc::new(File::new());
    let loaded = Loader::<Config>::new("bench").file(&file.0).load();
    let loaded = loaded.expect("the file is valid");
    let swap = Arc::new(ArcSwap::from_pointee(Config::default()));
    let cached = Arc::clone(&swap);
    let sender = tokio::sync::watch::Sender::new(Config::default());
    let lock = RwLock::new(Arc::new(Config::default()));

    let mut group = Group::new(
        "config",
        "reading one field of the snapshot",
        "arc-swap load",
    );
    for measure in QUIET.into_iter().chain(WRITTEN) {
        group = group
            .measure(measure, "ns")
            .goal(measure, RON, Goal::AtMost(1.0));
    }
    let group = group
        .case(RON, move || ron(&loaded, &file))
        .case("arc-swap load", move || {
            let write = |limit| swap.store(Arc::new(Config { limit }));
            measure(write, || {
                let swap = &swap;
                move || swap.load().limit
            })
        })
        .case("arc-swap Cache", move || {
            let write = |limit| cached.store(Arc::new(Config { limit }));
            measure(write, || {
                let mut cache = Cache::new(Arc::clone(&cached));
                move || cache.load().limit
            })
        })
        .case("tokio watch borrow", move || {
            let write = |limit| {
                sender.send_replace(Config { limit });
            };
            measure(write, || {
                let receiver = sender.subscribe();
                move || receiver.borrow().limit
            })
        })
        .case("std RwLock<Arc>", move || {
            let write = |limit| *lock.write().expect("no panics") = Arc::new(Config { limit });
            measure(write, || || lock.read().expect("no panics").limit)
        })
        .note(
            "With a writer: ron reloads a file that has changed, all the way from parsing it; the others store a value. \
             On 2 cores the writer takes its time from 2 readers.",
        );
    vec![group]
}

#[derive(Clone)]
struct Config {
    limit: u64,
}

impl Default for Config {
    fn default() -> Self {
        Config { limit: 1 }
    }
}

impl Settings for Config {
    fn schema(schema: &mut Schema<Self>) {
        schema
            .key("limit", |config| &mut config.limit)
            .doc("what is read")
            .range(1..=1_000_000)
            .reload(Reload::Live);
    }
}

/// A configuration file that goes with its owner.
struct File(PathBuf);

impl File {
    fn new() -> File {
        let name = format!("ron-bench-{}.toml", std::process::id());
        let file = File(std::env::temp_dir().join(name));
        file.write(1);
        file
    }

    fn write(&self, limit: u64) {
        std::fs::write(&self.0, format!("limit = {limit}\n")).expect("a temporary directory");
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn ron(loaded: &Loaded<Config>, file: &File) -> Vec<f64> {
    let write = |limit| {
        file.write(limit);
        loaded.reload().expect("the file is valid");
    };
    measure(write, || {
        let mut watch: Watch<Config> = loaded.watch();
        move || watch.get().limit
    })
}

/// Each measure in turn; every thread reads through a reader of its own.
fn measure<R: FnMut() -> u64>(
    write: impl Fn(u64) + Sync,
    reader: impl Fn() -> R + Sync,
) -> Vec<f64> {
    let read = |reads| {
        let mut read = reader();
        for _ in 0..reads {
            black_box(read());
        }
    };
    let quiet = [1, 2].map(|threads| ns_per_op(threads, READS, read));
    let written = [(1, quiet[0]), (2, quiet[1])].map(|(threads, ns)| {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut limit = 1;
                while !done.load(Ordering::Acquire) {
                    limit = limit % 1_000_000 + 1;
                    write(limit);
                    std::thread::sleep(EVERY);
                }
            });
            let ns = ns_per_op(threads, (LONG_NS / ns) as u64, read);
            done.store(true, Ordering::Release);
            ns
        })
    });
    quiet.into_iter().chain(written).collect()
}
