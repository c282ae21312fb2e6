//! Owned tasks that outlive the body, fail behind a thread's back, or panic while they are dropped.

use ron_kernel::bus::Subscriber;
use ron_kernel::supervisor::{Backoff, Child, ChildContext, Exit, Intensity, Restart};
use ron_kernel::{Change, ChildEvent, Kernel, KernelBuilder, Running, LIFECYCLE_TOPIC};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// Longer than any of this takes; what fails, fails by waiting this long.
const PATIENCE: Duration = Duration::from_secs(20);

fn workers() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(3)
        .enable_all()
        .build()
        .unwrap()
}

async fn start(kernel: KernelBuilder) -> Running {
    kernel.seed(1).build().unwrap().start().await.unwrap()
}

fn changes(running: &Running) -> Subscriber<ChildEvent> {
    let bus = running.handle().bus();
    let topic = bus.topic::<ChildEvent>(LIFECYCLE_TOPIC).unwrap();
    topic.subscribe().unwrap()
}

/// Reads on until the change of that name.
async fn until(changes: &mut Subscriber<ChildEvent>, name: &str) -> ChildEvent {
    let reading = async {
        loop {
            let event = changes.recv().await.unwrap().event;
            if event.change.name() == name {
                return ChildEvent::clone(&event);
            }
        }
    };
    let found = tokio::time::timeout(PATIENCE / 2, reading).await;
    found.unwrap_or_else(|_| panic!("never {name}"))
}

/// Its owned task holds a worker until the gate opens; the body fails as soon as it does.
fn outlived(gates: &Arc<Mutex<Vec<mpsc::Sender<()>>>>) -> Child {
    let gates = gates.clone();
    let child = Child::task("c", move |cx: ChildContext| {
        let gates = gates.clone();
        async move {
            if cx.generation() > 1 {
                cx.stopping().await;
                return Ok(());
            }
            let (open, gate) = mpsc::channel();
            let holds = Arc::new(AtomicBool::new(false));
            let holding = holds.clone();
            cx.spawn(async move {
                holding.store(true, Ordering::SeqCst);
                let _ = gate.recv_timeout(PATIENCE);
            });
            gates.lock().unwrap().push(open);
            // By a timer: whom a task wakes before it blocks may wait for its worker.
            while !holds.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Err("the body failed")
        }
    });
    child
        .stop_timeout(Duration::from_millis(20))
        .backoff(Backoff::NONE)
}

/// Follows the child through its stop until it is stuck, then opens the gate.
async fn stuck_then_released(running: &Running, gates: &Mutex<Vec<mpsc::Sender<()>>>) {
    let mut changes = changes(running);
    // Subscribed late, it may have missed the beginning; the tree says the same.
    let state = || running.handle().explain("c").unwrap().state;
    if state() != "stopping" && state() != "stuck" {
        until(&mut changes, Change::Stopping.name()).await;
        assert!(matches!(state(), "stopping" | "stuck"), "{}", state());
    }
    if state() != "stuck" {
        until(&mut changes, Change::Stuck.name()).await;
        assert_eq!(state(), "stuck");
    }
    gates.lock().unwrap().clear();
}

#[test]
fn a_body_that_ended_while_its_owned_task_blocks_is_stuck_and_restarted_when_that_ends() {
    workers().block_on(async {
        let gates = Arc::default();
        let running = start(Kernel::builder().child(outlived(&gates))).await;
        let mut later = changes(&running);
        stuck_then_released(&running, &gates).await;
        let restarted = loop {
            let event = until(&mut later, "Started").await;
            if event.generation == 2 {
                break event;
            }
        };
        assert_eq!(restarted.change, Change::Started { restart: true });
        let last_exit = running.handle().explain("c").unwrap().last_exit;
        assert_eq!(last_exit, Some(Exit::Failed("the body failed".to_owned())));
        let report = running.shutdown().await;
        assert_eq!((report.started, report.leaked), (1, 0));
    });
}

#[test]
fn a_body_that_ended_while_its_owned_task_blocks_is_quarantined_when_its_budget_is_spent() {
    workers().block_on(async {
        let gates = Arc::default();
        let none = Intensity::new(0, Duration::from_secs(60)).unwrap();
        let child = outlived(&gates).intensity(none);
        let running = start(Kernel::builder().child(child)).await;
        let mut later = changes(&running);
        stuck_then_released(&running, &gates).await;
        let quarantined = until(&mut later, "Quarantined").await;
        assert!(
            matches!(&quarantined.change, Change::Quarantined { reason, .. } if reason.contains("the body failed")),
            "{quarantined:?}"
        );
        let report = running.shutdown().await;
        assert_eq!((report.quarantined, report.leaked), (1, 0));
    });
}

#[test]
fn the_failure_of_an_owned_task_ends_a_thread_child_with_its_reason() {
    workers().block_on(async {
        let child = Child::thread("t", |cx: ChildContext| {
            cx.spawn(async { Err::<(), _>("owned failed") });
            while !cx.wait_stopping(PATIENCE) {}
        });
        let kernel = Kernel::builder().child(child.restart(Restart::Temporary));
        let running = start(kernel).await;
        let handle = running.handle();
        let ended = async {
            while handle.explain("t").unwrap().last_exit.is_none() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let ended = tokio::time::timeout(PATIENCE / 2, ended).await;
        ended.expect("the thread is told");
        let explained = handle.explain("t").unwrap();
        let exit = Exit::Failed("owned failed".to_owned());
        assert_eq!(
            (explained.state, explained.last_exit),
            ("stopped", Some(exit))
        );
        running.shutdown().await;
    });
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_destructor_of_an_owned_task_is_a_crash() {
    struct Fragile;
    impl Drop for Fragile {
        fn drop(&mut self) {
            panic!("destructor of an owned task");
        }
    }
    let child = Child::task("a", |cx: ChildContext| async move {
        if cx.generation() > 1 {
            return cx.stopping().await;
        }
        let fragile = Fragile;
        cx.spawn(async move {
            let _fragile = fragile;
            std::future::pending::<()>().await;
        });
        tokio::time::sleep(Duration::from_millis(10)).await;
    });
    let running = start(Kernel::builder().child(child)).await;
    let mut changes = changes(&running);
    let failed = until(&mut changes, "Failed").await;
    assert!(
        matches!(&failed.change, Change::Failed { reason } if reason.contains("destructor of an owned task")),
        "{failed:?}"
    );
    let restarted = until(&mut changes, "Started").await;
    assert_eq!(
        (restarted.generation, restarted.change),
        (2, Change::Started { restart: true })
    );
    running.shutdown().await;
}
