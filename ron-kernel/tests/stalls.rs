//! Stall detection on real workers: who holds a worker is named while it holds it, its victims are not
//! charged, and a quiet program raises no alarm.
//!
//! The clock is real here. `RON_TEST_FULL=1` watches a quiet program for 60 s instead of 3 s.

use ron_kernel::bus::{Start, Subscriber};
use ron_kernel::supervisor::Child;
use ron_kernel::{Change, ChildEvent, Kernel, KernelEvent, Running, KERNEL_TOPIC, LIFECYCLE_TOPIC};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

fn workers(count: usize) -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(count)
        .enable_all()
        .build()
        .unwrap()
}

/// A child that beats, and holds its worker for `hold` once `trigger` is set.
fn beating(name: String, trigger: &Arc<AtomicBool>, hold: Duration, interval: Duration) -> Child {
    let trigger = trigger.clone();
    Child::task(name, move |cx| {
        let trigger = trigger.clone();
        async move {
            while !cx.is_stopping() {
                cx.heartbeat();
                if trigger.swap(false, Ordering::SeqCst) {
                    std::thread::sleep(hold);
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    })
    .watchdog(interval)
}

fn start(
    runtime: &Runtime,
    children: Vec<Child>,
) -> (Running, Subscriber<ChildEvent>, Subscriber<KernelEvent>) {
    let kernel = children
        .into_iter()
        .fold(Kernel::builder(), |kernel, child| kernel.child(child));
    let running = runtime.block_on(async {
        let running = kernel.build().unwrap().start().await.unwrap();
        running.handle().ready().await;
        running
    });
    let bus = running.handle().bus().clone();
    let changes = bus
        .topic::<ChildEvent>(LIFECYCLE_TOPIC)
        .unwrap()
        .subscribe()
        .unwrap();
    let events = bus.topic::<KernelEvent>(KERNEL_TOPIC).unwrap();
    let events = events
        .subscriber()
        .start(Start::Retained(4096))
        .build()
        .unwrap();
    (running, changes, events)
}

/// The next change that `wanted` likes, from this plain thread: the runtime may be blocked.
fn next<T>(
    changes: &mut Subscriber<ChildEvent>,
    limit: Duration,
    wanted: impl Fn(&ChildEvent) -> Option<T>,
) -> Option<T> {
    let begun = Instant::now();
    while begun.elapsed() < limit {
        match changes.try_recv().unwrap() {
            Some(delivery) => {
                if let Some(found) = wanted(&delivery.event) {
                    return Some(found);
                }
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    }
    None
}

fn stalled(event: &ChildEvent) -> Option<(String, Duration)> {
    match event.change {
        Change::Stalled { held } => Some((event.child.to_string(), held)),
        _ => None,
    }
}

fn unstalled(event: &ChildEvent) -> Option<(String, Duration)> {
    match event.change {
        Change::Unstalled { held } => Some((event.child.to_string(), held)),
        _ => None,
    }
}

#[test]
fn the_child_that_holds_the_only_worker_is_named_within_half_a_second_and_nobody_else_is_charged() {
    let runtime = workers(1);
    let quiet = Arc::new(AtomicBool::new(false));
    let trigger = Arc::new(AtomicBool::new(false));
    let hold = Duration::from_secs(2);
    // The victims promise a beat every second and cannot keep it for two.
    let mut children: Vec<_> = (0..99)
        .map(|n| beating(format!("victim-{n}"), &quiet, hold, Duration::from_secs(1)))
        .collect();
    children.push(beating(
        "staller".to_owned(),
        &trigger,
        hold,
        Duration::from_secs(60),
    ));
    let (running, mut changes, mut events) = start(&runtime, children);

    trigger.store(true, Ordering::SeqCst);
    while trigger.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let begun = Instant::now();
    let (child, held) =
        next(&mut changes, Duration::from_millis(1_500), stalled).expect("told while it stalls");
    let took = begun.elapsed();
    assert_eq!(child, "staller");
    assert!(took < Duration::from_millis(500), "named after {took:?}");
    assert!(
        held >= Duration::from_millis(250) && held <= took + Duration::from_millis(50),
        "{held:?}"
    );

    // The tree shows it, from outside of the blocked runtime.
    let tree = running.handle().tree();
    let node = tree.iter().find(|node| node.id == "staller").unwrap();
    assert!(
        node.cause.as_deref().unwrap_or_default().contains("worker"),
        "{node:?}"
    );
    let explained = running.handle().explain("staller").unwrap();
    assert!(
        explained
            .because
            .iter()
            .any(|reason| reason.what.contains("worker")),
        "{explained:?}"
    );

    let (child, held) =
        next(&mut changes, Duration::from_secs(5), unstalled).expect("told when it is over");
    assert_eq!(child, "staller");
    assert!(
        held >= Duration::from_millis(1_900) && held < Duration::from_millis(3_000),
        "{held:?}"
    );

    // The victims get their second from now on, not from before the stall.
    std::thread::sleep(Duration::from_millis(1_500));
    let tree = running.handle().tree();
    for node in &tree {
        assert_eq!(
            (node.state, node.generation, node.cause.as_deref()),
            ("ready", 1, None),
            "{node:?}"
        );
    }
    assert_eq!(
        next(&mut changes, Duration::ZERO, stalled),
        None,
        "once, and nobody else"
    );
    while let Ok(Some(delivery)) = events.try_recv() {
        assert!(
            !matches!(delivery.event, KernelEvent::ServiceCrashed { .. }),
            "{delivery:?}"
        );
    }
    runtime.block_on(running.shutdown());
}

#[test]
fn a_staller_that_promised_heartbeats_is_charged_for_its_own_stall() {
    let runtime = workers(1);
    let (quiet, trigger) = (Arc::default(), Arc::new(AtomicBool::new(false)));
    let hold = Duration::from_millis(1_500);
    let set = trigger.clone();
    let staller = Child::task("staller", move |cx| {
        let trigger = set.clone();
        async move {
            while !trigger.swap(false, Ordering::SeqCst) {
                cx.heartbeat();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            std::thread::sleep(hold);
            // Not a beat from here on: uncharged it would still have its second.
            cx.stopping().await;
        }
    });
    let (running, mut changes, _) = start(
        &runtime,
        vec![
            beating("victim".to_owned(), &quiet, hold, Duration::from_secs(1)),
            staller.watchdog(Duration::from_secs(1)),
        ],
    );
    trigger.store(true, Ordering::SeqCst);
    while trigger.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let failed = next(
        &mut changes,
        hold + Duration::from_millis(700),
        |event| match &event.change {
            Change::Failed { reason } => Some((event.child.to_string(), reason.clone())),
            _ => None,
        },
    );
    let (child, reason) = failed.expect("the staller fails");
    assert_eq!(child, "staller");
    assert!(reason.contains("no heartbeat"), "{reason}");
    std::thread::sleep(Duration::from_millis(800));
    let tree = running.handle().tree();
    assert_eq!(
        tree.iter()
            .find(|node| node.id == "victim")
            .unwrap()
            .generation,
        1
    );
    runtime.block_on(running.shutdown());
}

#[test]
fn a_stall_in_an_owned_task_names_the_child_that_owns_it() {
    let runtime = workers(2);
    let trigger = Arc::new(AtomicBool::new(false));
    let set = trigger.clone();
    let child = Child::task("owner", move |cx| {
        let trigger = set.clone();
        async move {
            cx.spawn(async move {
                loop {
                    if trigger.swap(false, Ordering::SeqCst) {
                        std::thread::sleep(Duration::from_millis(700));
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                #[allow(unreachable_code)] // Gives the block its type.
                ()
            });
            cx.stopping().await;
        }
    });
    let (running, mut changes, _) = start(&runtime, vec![child]);
    trigger.store(true, Ordering::SeqCst);
    let (child, _) =
        next(&mut changes, Duration::from_millis(600), stalled).expect("told while it stalls");
    assert_eq!(child, "owner");
    let (child, _) =
        next(&mut changes, Duration::from_secs(3), unstalled).expect("told when it is over");
    assert_eq!(child, "owner");
    runtime.block_on(running.shutdown());
}

#[test]
fn a_stall_is_seen_on_a_current_thread_runtime_too() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let program = std::thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let child = Child::task("staller", |cx| async move {
                tokio::time::sleep(Duration::from_millis(100)).await;
                std::thread::sleep(Duration::from_millis(700));
                cx.stopping().await;
            });
            let running = Kernel::builder()
                .child(child)
                .build()
                .unwrap()
                .start()
                .await
                .unwrap();
            let topic = running
                .handle()
                .bus()
                .topic::<ChildEvent>(LIFECYCLE_TOPIC)
                .unwrap();
            sender.send(topic.subscribe().unwrap()).unwrap();
            tokio::time::sleep(Duration::from_millis(900)).await;
            running.shutdown().await
        })
    });
    let mut changes = receiver.recv().unwrap();
    let begun = Instant::now();
    let (child, _) = next(&mut changes, Duration::from_secs(2), stalled).expect("told");
    assert_eq!(child, "staller");
    assert!(
        begun.elapsed() < Duration::from_millis(650),
        "while it stalls"
    );
    next(&mut changes, Duration::from_secs(2), unstalled).expect("told when it is over");
    program.join().unwrap();
}

#[test]
fn a_thread_child_may_block_as_long_as_it_likes() {
    let runtime = workers(1);
    let child = Child::thread(
        "t",
        |cx| while !cx.wait_stopping(Duration::from_secs(60)) {},
    );
    let (running, mut changes, _) = start(&runtime, vec![child]);
    assert_eq!(
        next(&mut changes, Duration::from_millis(800), stalled),
        None
    );
    runtime.block_on(running.shutdown());
}

#[test]
fn a_quiet_program_raises_no_alarm() {
    let full = std::env::var("RON_TEST_FULL").is_ok_and(|value| value == "1");
    let watch = Duration::from_secs(if full { 60 } else { 3 });
    let runtime = workers(1);
    let quiet = Arc::new(AtomicBool::new(false));
    let children = (0..100)
        .map(|n| {
            beating(
                format!("c{n}"),
                &quiet,
                Duration::ZERO,
                Duration::from_secs(1),
            )
        })
        .collect();
    let (running, mut changes, mut events) = start(&runtime, children);
    let alarm = next(&mut changes, watch, |event| match event.change {
        Change::Stalled { .. } | Change::Failed { .. } => Some(event.clone()),
        _ => None,
    });
    assert_eq!(alarm, None);
    while let Ok(Some(delivery)) = events.try_recv() {
        assert!(
            !matches!(delivery.event, KernelEvent::ServiceCrashed { .. }),
            "{delivery:?}"
        );
    }
    runtime.block_on(running.shutdown());
}
