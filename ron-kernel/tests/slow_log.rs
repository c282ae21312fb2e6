//! A log that hangs or panics harms nobody but the log.

use ron_kernel::supervisor::{Backoff, Child, ChildContext, Restart};
use ron_kernel::{Config, Kernel};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::field::Field;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Set for the run whose log hangs.
const ROLE: &str = "SLOW_LOG_TEST_ROLE";
/// What the hanging run says once its log hangs.
const HANGS: &str = "the log hangs";
/// `drain.deadline` of the hanging run.
const DEADLINE: Duration = Duration::from_millis(200);

async fn idle(cx: ChildContext) {
    cx.stopping().await;
}

/// Does something to each line of the kernel.
struct Log<F>(F);

impl<F: Fn(&Event<'_>) + 'static> Subscriber for Log<F> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target().starts_with("ron_kernel")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        (self.0)(event);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Whether a line tells of a step in the life of a child.
struct OfAChild(bool);

impl tracing::field::Visit for OfAChild {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0 |=
            field.name() == "event" && (value.starts_with("child_") || value == "service_crashed");
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

/// The program: late heartbeats give its driver something to tell, and it hangs telling it.
#[test]
fn the_program_whose_log_hangs() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    static ARMED: AtomicBool = AtomicBool::new(false);
    let log = Log(|_: &Event<'_>| {
        // Workers get their lines out, so that it is the driver that hangs.
        let worker = std::thread::current().name() == Some("ron-worker");
        if ARMED.load(Ordering::SeqCst) && !worker {
            let _ = writeln!(std::io::stderr(), "{HANGS}");
            loop {
                std::thread::park();
            }
        }
    });
    let hung = |cx: ChildContext| async move {
        // The first replacement shows that the driver drives; its next line hangs.
        if cx.generation() > 1 {
            ARMED.store(true, Ordering::SeqCst);
        }
        std::future::pending::<()>().await;
    };
    tracing::subscriber::set_global_default(log).unwrap();
    let mut config = Config::default();
    config.drain.deadline = DEADLINE;
    let hung = Child::task("hung", hung).watchdog(Duration::from_millis(50));
    let code = Kernel::builder()
        .config(config)
        .child(Child::task("x", idle))
        .child(hung)
        .run();
    unreachable!("ended in order although nobody could tell it: {code:?}");
}

#[test]
fn sigterm_ends_the_process_within_its_deadline_although_the_log_hangs() {
    let mut program = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_program_whose_log_hangs", "--nocapture"])
        .env(ROLE, "hang")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(program.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == HANGS), "it never hung");
    let killed = Command::new("kill")
        .args(["-TERM", &program.id().to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    let asked = Instant::now();
    let status = loop {
        if let Some(status) = program.try_wait().unwrap() {
            break status;
        }
        if asked.elapsed() > Duration::from_secs(20) {
            program.kill().unwrap();
            program.wait().unwrap();
            panic!("still there 20 s after SIGTERM");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let took = asked.elapsed();
    assert_eq!(status.code(), Some(1), "ended by force");
    assert!(
        took < DEADLINE + Duration::from_secs(5),
        "took {took:?} with a deadline of {DEADLINE:?}"
    );
}

#[test]
fn a_log_that_panics_at_every_line_of_a_child_stops_no_child() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    let panics = Arc::new(AtomicU32::new(0));
    let counted = panics.clone();
    let log = Log(move |event: &Event<'_>| {
        let mut of_a_child = OfAChild(false);
        event.record(&mut of_a_child);
        if !of_a_child.0 {
            return;
        }
        counted.fetch_add(1, Ordering::Relaxed);
        panic!("the log panics");
    });
    let _log = tracing::subscriber::set_default(log);
    runtime.block_on(async {
        let flaky = Child::task("flaky", |cx: ChildContext| async move {
            if cx.generation() > 1 {
                cx.stopping().await;
            }
        });
        let steady = Child::task("steady", idle);
        let kernel = Kernel::builder()
            .seed(1)
            .child(steady.restart(Restart::Permanent))
            .child(flaky.restart(Restart::Permanent).backoff(Backoff::NONE));
        let running = kernel.build().unwrap().start().await.unwrap();
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(panics.load(Ordering::Relaxed) > 0, "there was a log");
        let tree = running.handle().tree();
        let seen: Vec<_> = tree
            .iter()
            .map(|node| (node.id.as_str(), node.state, node.generation))
            .collect();
        assert_eq!(seen, [("steady", "ready", 1), ("flaky", "ready", 2)]);
        let ended = tokio::time::timeout(Duration::from_secs(60), running.shutdown()).await;
        let report = ended.expect("the shutdown ends");
        assert_eq!((report.started, report.stopped), (2, 2));
        assert_eq!(report.failure, None);
    });
}
