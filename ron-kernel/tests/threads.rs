//! Thread children: stopped by their token, restarted after a panic, never duplicated when they ignore it.
//!
//! A thread that ignores its stop is gated by a channel here, so no test depends on how fast it runs. The
//! supervisor's own deadlines pass in paused time.

use ron_kernel::bus::Start;
use ron_kernel::supervisor::{Backoff, Child};
use ron_kernel::{Change, ChildEvent, Config, ControlError, Kernel, Running, LIFECYCLE_TOPIC};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use tokio::runtime::Builder;

/// Holds threads until opened.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn wait(&self) {
        let open = self.0 .0.lock().unwrap();
        drop(self.0 .1.wait_while(open, |open| !*open).unwrap());
    }

    fn open(&self) {
        *self.0 .0.lock().unwrap() = true;
        self.0 .1.notify_all();
    }
}

#[derive(Default)]
struct Census {
    live: AtomicU32,
    most: AtomicU32,
    ever: AtomicU32,
}

/// A thread that ignores its stop until the gate opens; from the second incarnation on it obeys.
fn deaf(name: &str, gate: &Gate, census: &Arc<Census>) -> Child {
    let (gate, census) = (gate.clone(), census.clone());
    Child::thread(name, move |cx| {
        let live = census.live.fetch_add(1, Ordering::SeqCst) + 1;
        census.most.fetch_max(live, Ordering::SeqCst);
        census.ever.fetch_add(1, Ordering::SeqCst);
        if cx.generation() == 1 {
            gate.wait();
        } else {
            while !cx.wait_stopping(Duration::from_secs(60)) {}
        }
        census.live.fetch_sub(1, Ordering::SeqCst);
    })
    .stop_timeout(Duration::from_millis(200))
    .backoff(Backoff::NONE)
}

async fn start(child: Child) -> Running {
    Kernel::builder()
        .seed(1)
        .child(child)
        .build()
        .unwrap()
        .start()
        .await
        .unwrap()
}

/// Waits for what a real thread does: in real time, whatever the clock of the runtime says.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(10) {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        std::thread::yield_now();
    }
    panic!("never: {what}");
}

fn state(running: &Running) -> &'static str {
    running.handle().tree()[0].state
}

fn changes(running: &Running) -> ron_kernel::bus::Subscriber<ChildEvent> {
    let topic = running
        .handle()
        .bus()
        .topic::<ChildEvent>(LIFECYCLE_TOPIC)
        .unwrap();
    topic
        .subscriber()
        .start(Start::Retained(4096))
        .build()
        .unwrap()
}

fn names(changes: &mut ron_kernel::bus::Subscriber<ChildEvent>) -> Vec<&'static str> {
    let mut names = Vec::new();
    while let Ok(Some(delivery)) = changes.try_recv() {
        names.push(delivery.event.change.name());
    }
    names
}

#[test]
fn a_thread_is_woken_by_its_stop_token() {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let child = Child::thread("t", |cx| {
            assert!(!cx.is_stopping());
            while !cx.wait_stopping(Duration::from_secs(3600)) {}
            assert!(cx.is_stopping() && cx.deadline().is_some());
        });
        let running = start(child).await;
        running.handle().ready().await;
        let begun = std::time::Instant::now();
        running.handle().stop("t").await.unwrap();
        assert!(
            begun.elapsed() < Duration::from_millis(1500),
            "before its stop timeout"
        );
        assert_eq!(state(&running), "stopped");
        let report = running.shutdown().await;
        assert_eq!((report.started, report.stopped), (1, 1));
    });
}

#[test]
fn a_thread_that_panics_or_fails_is_restarted_and_one_that_returns_is_done() {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let child = Child::thread("t", |cx| match cx.generation() {
            1 => panic!("in a thread"),
            2 => Err("an error of a thread"),
            _ => Ok(()),
        });
        let running = start(child.backoff(Backoff::NONE)).await;
        let mut events = changes(&running);
        until("done", || state(&running) == "done").await;
        let node = running.handle().tree()[0].clone();
        assert_eq!((node.generation, node.restarts), (3, 2));
        let mut reasons = Vec::new();
        until("told", || {
            while let Ok(Some(delivery)) = events.try_recv() {
                if let Change::Failed { reason } = delivery.event.change {
                    reasons.push(reason);
                }
            }
            reasons.len() == 2
        })
        .await;
        assert_eq!(reasons, ["panicked: in a thread", "an error of a thread"]);
        running.shutdown().await;
    });
}

#[test]
fn a_gated_thread_is_ready_when_it_says_so() {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let gate = Gate::default();
        let held = gate.clone();
        let child = Child::thread("t", move |cx| {
            held.wait();
            cx.ready();
            while !cx.wait_stopping(Duration::from_secs(60)) {}
        });
        let running = start(child.gated(Duration::from_secs(60))).await;
        assert_eq!(state(&running), "starting");
        gate.open();
        until("ready", || state(&running) == "ready").await;
        running.shutdown().await;
    });
}

#[tokio::test(start_paused = true)]
async fn a_thread_that_ignores_its_stop_is_stuck_then_leaked_and_never_duplicated() {
    let (gate, census) = (Gate::default(), Arc::new(Census::default()));
    let running = start(deaf("t", &gate, &census)).await;
    until("runs", || census.ever.load(Ordering::SeqCst) == 1).await;
    let mut events = changes(&running);
    running.handle().restart("t").unwrap();
    until("stuck", || state(&running) == "stuck").await;
    until("leaked", || state(&running) == "leaked").await;
    let mut told = Vec::new();
    until("told", || {
        told.extend(names(&mut events));
        told.contains(&"Leaked")
    })
    .await;
    let at = |name| {
        told.iter()
            .position(|found| *found == name)
            .unwrap_or_else(|| panic!("{name}: {told:?}"))
    };
    assert!(
        at("Stopping") < at("Stuck") && at("Stuck") < at("Leaked"),
        "{told:?}"
    );

    // Refused, for ever, and said why.
    let leaked = ControlError::Leaked { id: "t".into() };
    assert_eq!(running.handle().restart("t"), Err(leaked.clone()));
    assert!(running.handle().release("t").is_err());
    let stop = tokio::time::timeout(Duration::from_secs(60), running.handle().stop("t")).await;
    assert_eq!(stop.expect("answers at once"), Err(leaked));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(census.ever.load(Ordering::SeqCst), 1, "no second beside it");
    let health = running.handle().health().snapshot();
    assert!(
        !health.ready() && health.causes().any(|cause| cause.key == "child:t"),
        "{health:?}"
    );
    assert!(running
        .handle()
        .explain("t")
        .unwrap()
        .next
        .contains("old incarnation"));

    // It ends after all: quarantined, and a human may release it. From here on the thread is waited for.
    tokio::time::resume();
    gate.open();
    until("quarantined", || state(&running) == "quarantined").await;
    until("told", || names(&mut events).contains(&"Recovered")).await;
    running.handle().release("t").unwrap();
    until("ready", || state(&running) == "ready").await;
    assert_eq!(census.most.load(Ordering::SeqCst), 1);
    assert_eq!(running.handle().tree()[0].generation, 2);
    // The new one must have begun, or it would be told to stop before it runs.
    until("runs again", || census.ever.load(Ordering::SeqCst) == 2).await;
    let report = running.shutdown().await;
    assert_eq!(
        (report.started, report.stopped, report.leaked),
        (1, 1, 0),
        "{report:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_stuck_thread_that_ends_in_time_is_restarted_as_asked() {
    let (gate, census) = (Gate::default(), Arc::new(Census::default()));
    let running = start(deaf("t", &gate, &census)).await;
    until("runs", || census.ever.load(Ordering::SeqCst) == 1).await;
    running.handle().restart("t").unwrap();
    until("stuck", || state(&running) == "stuck").await;
    gate.open();
    // Paused time may reach the leak deadline before the thread has run; both ends are legal.
    until("over", || {
        matches!(state(&running), "ready" | "quarantined")
    })
    .await;
    assert_eq!(census.most.load(Ordering::SeqCst), 1);
    running.shutdown().await;
}

#[test]
fn the_drain_reports_a_deaf_thread_as_leaked_within_its_deadline() {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (gate, census) = (Gate::default(), Arc::new(Census::default()));
    runtime.block_on(async {
        let mut config = Config::default();
        config.drain.deadline = Duration::from_millis(600);
        let well = Child::task("well", |cx| async move { cx.stopping().await });
        let deaf = deaf("t", &gate, &census).stop_timeout(Duration::from_secs(60));
        let kernel = Kernel::builder().config(config).child(deaf).child(well);
        let running = kernel.build().unwrap().start().await.unwrap();
        until("runs", || census.ever.load(Ordering::SeqCst) == 1).await;
        let begun = std::time::Instant::now();
        let report = running.shutdown().await;
        let took = begun.elapsed();
        assert!(took < Duration::from_millis(1_100), "{took:?}");
        assert_eq!(
            (report.started, report.stopped, report.leaked),
            (2, 1, 1),
            "{report:?}"
        );
        assert_eq!(report.stragglers, ["t"]);
        assert!(report.is_balanced());
    });
    gate.open();
}
