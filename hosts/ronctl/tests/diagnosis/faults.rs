//! The seeded faults: what is set up, what has to happen before the operator looks, and what the answer must name.

use ron_kernel::configuration::{Loaded, Loader};
use ron_kernel::supervisor::{Backoff, Child, ChildContext, Group, Intensity, Strategy};
use ron_kernel::{Config, Kernel, KernelBuilder, KernelHandle};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a fault is set up in.
pub(crate) struct Bed {
    pub(crate) dir: PathBuf,
}

impl Bed {
    /// The configuration file of scenarios that reload.
    fn file(&self) -> PathBuf {
        self.dir.join("service.toml")
    }

    fn load(&self, text: &str) -> Loaded<Config> {
        write_old(&self.file(), text);
        Loader::new("shop").file(self.file()).load().unwrap()
    }
}

/// A file that looks as if written long ago, so that it is read at once.
fn write_old(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    let file = std::fs::File::options().write(true).open(path).unwrap();
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(60);
    file.set_modified(long_ago).unwrap();
}

/// Runs `ronctl` with words.
pub(crate) type Ronctl<'a> = &'a dyn Fn(&[&str]);

/// One fault.
pub(crate) struct Fault {
    /// For the table.
    pub(crate) what: &'static str,
    pub(crate) build: fn(&Bed, KernelBuilder) -> KernelBuilder,
    /// What happens once it runs; `ronctl` with words, as an operator would.
    pub(crate) then: fn(&Bed, &KernelHandle, Ronctl<'_>),
    /// When the operator looks.
    pub(crate) settled: fn(&KernelHandle) -> bool,
    /// The subject of the first finding.
    pub(crate) subject: &'static str,
    /// What the first screen must say.
    pub(crate) says: &'static [&'static str],
}

fn nothing(_: &Bed, _: &KernelHandle, _: Ronctl<'_>) {}

fn idle(name: &str) -> Child {
    Child::task(name, |cx| async move { cx.stopping().await })
}

fn no_space() -> std::io::Error {
    std::io::Error::from_raw_os_error(28)
}

fn slow_backoff() -> Backoff {
    Backoff::new(Duration::from_secs(20), Duration::from_secs(30)).unwrap()
}

fn quick_backoff() -> Backoff {
    Backoff::new(Duration::from_millis(1), Duration::from_millis(5)).unwrap()
}

fn state(handle: &KernelHandle, id: &str) -> &'static str {
    handle
        .explain(id)
        .map_or("", |explanation| explanation.state)
}

pub(crate) const FAULTS: [Fault; 14] = [
    Fault {
        what: "a crash loop whose reason is three links away: web starts after cache, cache after index, index after store, and the store's disk is full",
        build: |_, kernel| {
            kernel
                .child(Child::task("store", |_| async { Err::<(), _>(no_space()) }).backoff(slow_backoff()).gated(Duration::from_secs(60)))
                .child(idle("index").after("store"))
                .child(idle("cache").after("index"))
                .child(idle("web").after("cache"))
        },
        then: nothing,
        settled: |kernel| state(kernel, "store") == "backoff",
        subject: "child:store",
        says: &["store", "No space left on device"],
    },
    Fault {
        what: "a child that waits for one that never becomes ready",
        build: |_, kernel| {
            let feed = |cx: ChildContext| async move {
                cx.status("connecting to 127.0.0.1:7000");
                cx.stopping().await;
            };
            kernel
                .child(Child::task("feed", feed).gated(Duration::from_secs(600)))
                .child(idle("api").after("feed"))
        },
        then: nothing,
        settled: |kernel| state(kernel, "feed") == "starting" && state(kernel, "api") == "waiting",
        subject: "child:feed",
        says: &["feed", "connecting to 127.0.0.1:7000"],
    },
    Fault {
        what: "a task that blocks its worker thread",
        build: |_, kernel| {
            let cruncher = |cx: ChildContext| async move {
                tokio::time::sleep(Duration::from_millis(50)).await;
                std::thread::sleep(Duration::from_secs(4));
                cx.stopping().await;
            };
            kernel.child(idle("web")).child(Child::task("cruncher", cruncher))
        },
        then: nothing,
        settled: |kernel| {
            let tree = kernel.tree();
            tree.iter().any(|node| node.cause.as_deref() == Some("holds its worker thread"))
        },
        subject: "child:cruncher",
        says: &["cruncher", "holds its worker"],
    },
    Fault {
        what: "readiness lost by a reload of a bad file",
        build: |bed, kernel| {
            let loaded = bed.load("[log]\nlevel = \"info\"\n");
            kernel.loaded(&loaded).rejected_reload_unready(true).child(idle("web"))
        },
        then: |bed, _, ronctl| {
            write_old(&bed.file(), "[drain]\ndeadline = \"5 parsecs\"\n");
            ronctl(&["config", "reload"]);
        },
        settled: |kernel| !kernel.health().ready(),
        subject: "config",
        says: &["drain.deadline", "service.toml:2"],
    },
    Fault {
        what: "a full disk in the error of a child that has given up",
        build: |_, kernel| {
            let journal = Child::task("journal", |_| async { Err::<(), _>(no_space()) })
                .backoff(quick_backoff())
                .intensity(Intensity::new(2, Duration::from_secs(60)).unwrap());
            kernel.child(idle("web")).child(journal)
        },
        then: nothing,
        settled: |kernel| state(kernel, "journal") == "quarantined" && !kernel.health().ready(),
        subject: "child:journal",
        says: &["journal is quarantined", "No space left on device"],
    },
    Fault {
        what: "a reader that cannot keep up",
        build: |_, kernel| {
            let orders = |cx: ChildContext| async move {
                let kernel = cx.kernel().unwrap();
                let topic = kernel.bus().topic_spec("orders").capacity(64).json().open::<u64>().unwrap();
                let _billing = topic.subscriber().name("billing").build().unwrap();
                while !cx.is_stopping() {
                    for order in 0..200 {
                        let _ = topic.publish(order);
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            kernel.child(Child::task("orders", orders))
        },
        then: nothing,
        settled: |kernel| kernel.health().ready() && kernel.health().snapshot().degraded(),
        subject: "bus:orders/billing",
        says: &["billing", "orders", "events"],
    },
    Fault {
        what: "a thread that never ended and was given up",
        build: |_, kernel| {
            let legacy = Child::thread("legacy", |_| std::thread::sleep(Duration::from_secs(20)))
                .stop_timeout(Duration::from_millis(50));
            kernel.child(idle("web")).child(legacy)
        },
        then: |_, _, ronctl| ronctl(&["restart", "legacy"]),
        settled: |kernel| state(kernel, "legacy") == "leaked" && !kernel.health().ready(),
        subject: "child:legacy",
        says: &["legacy", "leaked", "restart the process"],
    },
    Fault {
        what: "a panic on every start",
        build: |_, kernel| {
            let parser = |_: ChildContext| async {
                let empty: Vec<u8> = Vec::new();
                assert!(!empty.is_empty(), "frame of 0 bytes");
            };
            kernel.child(idle("web")).child(Child::task("parser", parser).backoff(quick_backoff()))
        },
        then: nothing,
        settled: |kernel| state(kernel, "parser") == "quarantined" && !kernel.health().ready(),
        subject: "child:parser",
        says: &["parser", "frame of 0 bytes"],
    },
    Fault {
        what: "a child that an operator stopped and forgot",
        build: |_, kernel| kernel.child(idle("mailer")).child(idle("web").after("mailer")),
        then: |_, _, ronctl| ronctl(&["stop", "mailer"]),
        settled: |kernel| state(kernel, "mailer") == "stopped",
        subject: "child:mailer",
        says: &["mailer", "uid", "start mailer"],
    },
    Fault {
        what: "a group that one member keeps pulling down",
        build: |_, kernel| {
            let parser = |cx: ChildContext| async move {
                tokio::time::sleep(Duration::from_millis(5)).await;
                drop(cx);
                Err::<(), _>("bad magic 0x00")
            };
            let pipeline = Group::new("pipeline")
                .strategy(Strategy::OneForAll)
                .backoff(quick_backoff())
                .child(idle("reader"))
                .child(Child::task("parser", parser).backoff(quick_backoff()))
                .child(idle("writer"));
            kernel.child(idle("web")).group(pipeline)
        },
        then: nothing,
        settled: |kernel| state(kernel, "pipeline") == "quarantined" && !kernel.health().ready(),
        subject: "child:pipeline/parser",
        says: &["pipeline/parser", "bad magic 0x00"],
    },
    Fault {
        what: "a child that says it is unwell",
        build: |_, kernel| {
            let api = |cx: ChildContext| async move {
                cx.health(false, "upstream 10.0.0.5:443 refuses connections");
                cx.stopping().await;
            };
            kernel.child(idle("web")).child(Child::task("api", api))
        },
        then: nothing,
        settled: |kernel| !kernel.health().ready() || kernel.health().snapshot().degraded(),
        subject: "child:api",
        says: &["api", "upstream 10.0.0.5:443 refuses connections"],
    },
    Fault {
        what: "a drill that somebody left running",
        build: |bed, kernel| {
            let loaded = bed.load("[chaos]\narmed = true\n");
            let feed = |cx: ChildContext| async move {
                loop {
                    cx.heartbeat();
                    tokio::select! {
                        () = cx.stopping() => return,
                        () = tokio::time::sleep(Duration::from_millis(20)) => {}
                    }
                }
            };
            let feed = Child::task("feed", feed)
                .watchdog(Duration::from_millis(200))
                .backoff(quick_backoff());
            kernel.loaded(&loaded).child(idle("web")).child(feed)
        },
        then: |_, _, ronctl| ronctl(&["chaos", "inject", "--fault", "hang", "--child", "feed"]),
        settled: |kernel| kernel.explain("feed").is_some_and(|feed| feed.last_exit.is_some()),
        subject: "chaos:hang/feed",
        says: &["hang", "feed", "chaos clear"],
    },
    Fault {
        what: "a child whose heartbeat stays out",
        build: |_, kernel| {
            let pump = |cx: ChildContext| async move {
                cx.heartbeat();
                cx.stopping().await;
            };
            let pump = Child::task("pump", pump)
                .watchdog(Duration::from_millis(100))
                .backoff(slow_backoff());
            kernel.child(idle("web")).child(pump)
        },
        then: nothing,
        settled: |kernel| state(kernel, "pump") == "backoff",
        subject: "child:pump",
        says: &["pump", "heartbeat"],
    },
    Fault {
        what: "a shutdown that one child holds up",
        build: |_, kernel| {
            let sync = |cx: ChildContext| async move {
                cx.stopping().await;
                tokio::time::sleep(Duration::from_secs(4)).await;
            };
            let sync = Child::task("sync", sync).stop_timeout(Duration::from_secs(4));
            kernel.child(idle("web")).child(sync)
        },
        then: |_, _, ronctl| ronctl(&["drain"]),
        settled: |kernel| state(kernel, "sync") == "stopping" && state(kernel, "web") == "stopped",
        subject: "kernel",
        says: &["sync", "drain", "uid"],
    },
];

/// The kernel of a fault.
pub(crate) fn kernel(fault: &Fault, bed: &Bed) -> Kernel {
    let control = ron_kernel::control::Control::new().dir(bed.dir.join("run"));
    let kernel = Kernel::builder().name("shop").seed(7);
    (fault.build)(bed, kernel).control(control).build().unwrap()
}
