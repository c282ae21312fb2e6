//! Who was stopped, held or given up stays down, whatever else happens around it.

use ron_kernel::supervisor::{
    Backoff, Child, ChildContext, Exhausted, Group, Intensity, Restart, Strategy,
};
use ron_kernel::{Change, ChildEvent, Config, ControlError, Fault, Kernel};
use ron_kernel::{KernelBuilder, KernelHandle, Running, LIFECYCLE_TOPIC};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

const LONG: Duration = Duration::from_secs(1000);

async fn idle(cx: ChildContext) {
    cx.stopping().await;
}

async fn slow(cx: ChildContext) {
    cx.stopping().await;
    pass(Duration::from_secs(1)).await;
}

/// Fails whenever it is told to.
fn fragile(name: &str, crash: &Arc<Notify>) -> Child {
    let crash = crash.clone();
    Child::task(name, move |cx| {
        let crash = crash.clone();
        async move {
            tokio::select! {
                () = cx.stopping() => Ok(()),
                () = crash.notified() => Err("boom"),
            }
        }
    })
}

async fn start(kernel: KernelBuilder) -> Running {
    kernel.seed(1).build().unwrap().start().await.unwrap()
}

async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

fn state(handle: &KernelHandle, id: &str) -> &'static str {
    handle.explain(id).map_or("absent", |found| found.state)
}

fn generation(handle: &KernelHandle, id: &str) -> u64 {
    let tree = handle.tree();
    let mut nodes = tree.iter().flat_map(|node| {
        let members = node.children.iter();
        std::iter::once(node).chain(members)
    });
    nodes.find(|node| node.id == id).unwrap().generation
}

async fn stop(handle: &KernelHandle, id: &str) {
    let stopped = tokio::time::timeout(LONG, handle.stop(id)).await;
    stopped
        .expect("the stop resolves")
        .expect("the stop is accepted");
}

#[tokio::test(start_paused = true)]
async fn a_member_that_is_stopped_during_a_joint_restart_ends_and_stays_stopped() {
    let crash = Arc::new(Notify::new());
    let group = Group::new("g")
        .strategy(Strategy::OneForAll)
        .child(Child::task("a", idle))
        .child(Child::task("slow", slow).after("a"))
        .child(fragile("b", &crash).after("a"));
    let running = start(Kernel::builder().group(group)).await;
    let handle = running.handle();
    handle.ready().await;

    crash.notify_one();
    pass(Duration::from_millis(500)).await;
    assert_eq!(
        state(handle, "g/slow"),
        "stopping",
        "the restart is under way"
    );
    stop(handle, "g/a").await;
    assert_eq!(state(handle, "g/a"), "stopped");
    pass(Duration::from_secs(60)).await;
    assert_eq!(
        (state(handle, "g/a"), generation(handle, "g/a")),
        ("stopped", 1)
    );
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_joint_restart_leaves_temporary_and_held_members_alone() {
    let crash = Arc::new(Notify::new());
    let temporary = Arc::new(AtomicU32::new(0));
    let starts = temporary.clone();
    let held = Child::task("held", |_| async { Err::<(), _>("bad") })
        .intensity(Intensity::new(0, Duration::from_secs(60)).unwrap())
        .on_exhausted(Exhausted::Hold)
        .optional();
    let temporary_child = Child::task("temporary", move |cx| {
        starts.fetch_add(1, Ordering::Relaxed);
        idle(cx)
    });
    let group = Group::new("g")
        .strategy(Strategy::OneForAll)
        .child(temporary_child.restart(Restart::Temporary))
        .child(held)
        .child(fragile("b", &crash));
    let running = start(Kernel::builder().group(group)).await;
    let handle = running.handle();
    pass(Duration::from_secs(1)).await;
    assert_eq!(state(handle, "g/held"), "quarantined");

    crash.notify_one();
    pass(Duration::from_secs(5)).await;
    assert_eq!(
        (state(handle, "g/b"), generation(handle, "g/b")),
        ("ready", 2)
    );
    let held = (state(handle, "g/held"), generation(handle, "g/held"));
    assert_eq!(held, ("quarantined", 1), "a human releases it");
    assert_eq!(temporary.load(Ordering::Relaxed), 1, "never started again");
    assert!(!matches!(
        state(handle, "g/temporary"),
        "starting" | "ready" | "waiting"
    ));
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_resolves_although_somebody_restarts_the_child_as_soon_as_it_is_down() {
    let running = start(Kernel::builder().child(Child::task("a", idle))).await;
    let handle = running.handle();
    handle.ready().await;
    let topic = handle.bus().topic::<ChildEvent>(LIFECYCLE_TOPIC).unwrap();
    let mut changes = topic.subscribe().unwrap();
    let eager = handle.clone();
    let restarted = tokio::spawn(async move {
        while let Ok(delivery) = changes.recv().await {
            if matches!(delivery.event.change, Change::Stopped { .. }) {
                return eager.restart("a");
            }
        }
        panic!("never stopped");
    });
    tokio::task::yield_now().await;
    stop(handle, "a").await;
    restarted.await.unwrap().unwrap();
    pass(Duration::from_secs(1)).await;
    assert_eq!((state(handle, "a"), generation(handle, "a")), ("ready", 2));
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_resolves_although_somebody_restarts_the_child_before_it_has_ended() {
    let running = start(Kernel::builder().child(Child::task("a", slow))).await;
    let handle = running.handle();
    handle.ready().await;
    let stopping = handle.clone();
    let stopped = tokio::spawn(async move { stop(&stopping, "a").await });
    pass(Duration::from_millis(100)).await;
    assert_eq!(state(handle, "a"), "stopping");
    handle.restart("a").unwrap();
    stopped.await.unwrap();
    pass(Duration::from_secs(1)).await;
    assert_eq!((state(handle, "a"), generation(handle, "a")), ("ready", 2));
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn stopping_a_group_starts_nobody() {
    let runs = Arc::new(AtomicU32::new(0));
    let counted = runs.clone();
    let failing = Child::task("a", |_| async { Err::<(), _>("x") })
        .optional()
        .backoff(Backoff::new(Duration::from_secs(100), Duration::from_secs(100)).unwrap())
        .intensity(Intensity::new(3, LONG).unwrap());
    let dependant = Child::task("b", move |cx| {
        counted.fetch_add(1, Ordering::Relaxed);
        idle(cx)
    });
    let group = Group::new("g").child(failing).child(dependant.after("a"));
    let running = start(Kernel::builder().group(group)).await;
    let handle = running.handle();
    pass(Duration::from_secs(1)).await;
    assert_eq!(state(handle, "g/a"), "backoff");
    let before = runs.load(Ordering::Relaxed);
    stop(handle, "g").await;
    pass(LONG).await;
    assert_eq!(runs.load(Ordering::Relaxed), before);
    assert_eq!(
        (state(handle, "g/a"), state(handle, "g/b")),
        ("stopped", "stopped")
    );
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn no_fault_is_injected_into_a_child_that_is_down() {
    let mut config = Config::default();
    config.chaos.armed = true;
    let kernel = Kernel::builder()
        .config(config)
        .child(Child::task("job", |_| async {}))
        .child(Child::task("x", idle));
    let running = start(kernel).await;
    let handle = running.handle();
    handle.ready().await;
    stop(handle, "x").await;
    for (id, down) in [("job", "done"), ("x", "stopped")] {
        assert_eq!(state(handle, id), down);
        let refused = handle.inject(id, Fault::Panic).unwrap_err();
        assert!(
            matches!(&refused, ControlError::NoTarget { id: named, .. } if named == id),
            "{refused:?}"
        );
    }
    running.shutdown().await;
}
