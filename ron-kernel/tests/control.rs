//! Starting, stopping, restarting and removing children of a running kernel, and what is refused.

use ron_kernel::supervisor::{Backoff, Child, Exhausted, Group, Intensity, TreeError};
use ron_kernel::{ControlError, Kernel, KernelHandle, Running, TreeNode};
use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Builder;

/// Runs a test on one thread with paused time, and on two workers with real time.
fn on_both_flavours<F: Future>(test: impl Fn() -> F) {
    Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(test());
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(test());
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..5_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("never: {what}");
}

fn idle(name: &str) -> Child {
    Child::task(name, |cx| async move { cx.stopping().await })
}

fn sick(name: &str) -> Child {
    Child::task(name, |_| async { Err::<(), _>("no disk") })
}

/// Ready first, then broken for good.
fn once(name: &str) -> Child {
    Child::task(name, |cx| async move {
        tokio::time::sleep(Duration::from_millis(1)).await;
        Err::<(), _>(format!("incarnation {} broke", cx.generation()))
    })
}

async fn start(children: impl IntoIterator<Item = Child>) -> Running {
    let kernel = children
        .into_iter()
        .fold(Kernel::builder().seed(1), |kernel, child| {
            kernel.child(child)
        });
    let running = kernel.build().unwrap().start().await.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    running
}

fn find(nodes: &[TreeNode], id: &str) -> Option<TreeNode> {
    nodes.iter().find_map(|node| {
        if node.id == id {
            Some(node.clone())
        } else {
            find(&node.children, id)
        }
    })
}

fn state(handle: &KernelHandle, id: &str) -> &'static str {
    find(&handle.tree(), id).map_or("absent", |node| node.state)
}

#[test]
fn a_stopped_child_stays_in_the_tree_and_a_restart_starts_it() {
    on_both_flavours(|| async {
        let running = start([idle("a"), idle("b").after("a")]).await;
        let handle = running.handle();
        handle.ready().await;
        handle.stop("a").await.unwrap();
        assert_eq!(
            (state(handle, "a"), state(handle, "b")),
            ("stopped", "ready")
        );
        handle.stop("a").await.unwrap();
        handle.restart("a").unwrap();
        until("started again", || state(handle, "a") == "ready").await;
        let node = find(&handle.tree(), "a").unwrap();
        assert_eq!(
            (node.generation, node.restarts, node.restarts_in_window),
            (2, 0, 0),
            "no failure"
        );
        running.shutdown().await;
    });
}

#[test]
fn a_restart_of_a_running_child_stops_it_first_and_is_outside_its_budget() {
    on_both_flavours(|| async {
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let bodies = log.clone();
        let child = Child::task("c", move |cx| {
            let log = bodies.clone();
            async move {
                log.lock()
                    .unwrap()
                    .push(format!("start {}", cx.generation()));
                cx.stopping().await;
                log.lock()
                    .unwrap()
                    .push(format!("stop {}", cx.generation()));
            }
        });
        let running =
            start([child.intensity(Intensity::new(0, Duration::from_secs(60)).unwrap())]).await;
        for generation in 2..8 {
            running.handle().restart("c").unwrap();
            until("restarted", || {
                let node = &running.handle().tree()[0];
                node.generation == generation && node.state == "ready"
            })
            .await;
        }
        let seen = log.lock().unwrap().clone();
        let wanted: Vec<_> = (1..7)
            .flat_map(|n| [format!("start {n}"), format!("stop {n}")])
            .chain(["start 7".into()])
            .collect();
        assert_eq!(seen, wanted);
        running.shutdown().await;
    });
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_a_backoff_a_quarantine_and_a_wait() {
    let hour = Duration::from_secs(3600);
    let slow = Child::task("slow", |_| std::future::pending::<()>()).gated(hour * 24 * 100);
    let running = start([
        sick("backoff").backoff(Backoff::new(hour, hour).unwrap()),
        sick("quarantined").intensity(Intensity::new(0, hour).unwrap()),
        idle("waiting").after("slow"),
        slow,
    ])
    .await;
    let handle = running.handle();
    for id in ["backoff", "quarantined", "waiting"] {
        assert_eq!(state(handle, id), id);
        handle.stop(id).await.unwrap();
        assert_eq!(state(handle, id), "stopped");
    }
    tokio::time::sleep(hour * 24).await;
    for id in ["backoff", "quarantined", "waiting"] {
        let node = find(&handle.tree(), id).unwrap();
        assert_eq!((node.state, node.retry_at), ("stopped", None));
        assert!(node.generation <= 1, "no timer started it: {node:?}");
    }
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_goes_on_when_nobody_waits_for_it() {
    let child = Child::task("c", |cx| async move {
        cx.stopping().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    });
    let running = start([child]).await;
    let stop = tokio::time::timeout(Duration::from_millis(10), running.handle().stop("c"));
    assert!(stop.await.is_err(), "still stopping");
    assert_eq!(state(running.handle(), "c"), "stopping");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(state(running.handle(), "c"), "stopped");
    running.shutdown().await;
}

/// Who asked, and what the kernel said.
type Answer = (&'static str, Result<(), ControlError>);

#[test]
fn who_would_wait_for_its_own_end_is_told_so() {
    on_both_flavours(|| async {
        let told: Arc<Mutex<Vec<Answer>>> = Arc::default();
        let seen = told.clone();
        let body = Child::task("body", move |cx| {
            let told = seen.clone();
            async move {
                let kernel = cx.kernel().unwrap();
                let own = kernel.stop(cx.id()).await;
                told.lock().unwrap().push(("own", own));
                let group = kernel.stop("outer").await;
                told.lock().unwrap().push(("group", group));
                let (kernel, told) = (kernel.clone(), told.clone());
                cx.spawn(async move {
                    let owned = kernel.stop("outer/inner/body").await;
                    told.lock().unwrap().push(("owned", owned));
                    let other = kernel.stop("other").await;
                    told.lock().unwrap().push(("other", other));
                });
                cx.stopping().await;
            }
        });
        let group = Group::new("outer").group(Group::new("inner").child(body));
        let running = Kernel::builder()
            .group(group)
            .child(idle("other"))
            .build()
            .unwrap();
        let running = running.start().await.unwrap();
        until("all asked", || told.lock().unwrap().len() == 4).await;
        let deadlock = |id: &str| Err(ControlError::WouldDeadlock { id: id.to_owned() });
        let told = told.lock().unwrap().clone();
        assert_eq!(told[0], ("own", deadlock("outer/inner/body")));
        assert_eq!(told[1], ("group", deadlock("outer")));
        assert_eq!(told[2], ("owned", deadlock("outer/inner/body")));
        assert_eq!(told[3], ("other", Ok(())));
        assert_eq!(
            state(running.handle(), "outer/inner/body"),
            "ready",
            "a refused stop stops nothing"
        );
        assert_eq!(state(running.handle(), "other"), "stopped");
        running.shutdown().await;
    });
}

#[test]
fn a_thread_that_awaits_its_own_stop_is_told_so() {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let (sender, told) = std::sync::mpsc::channel();
    let sender = Mutex::new(sender);
    let workers = runtime.handle().clone();
    let child = Child::thread("t", move |cx| {
        let kernel = cx.kernel().unwrap();
        let stop = async { tokio::time::timeout(Duration::from_secs(5), kernel.stop("t")).await };
        let _ = sender.lock().unwrap().send(workers.block_on(stop));
        cx.wait_stopping(Duration::from_secs(60));
    });
    let running = runtime.block_on(async {
        Kernel::builder()
            .child(child)
            .build()
            .unwrap()
            .start()
            .await
            .unwrap()
    });
    let told = told.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(
        told.expect("answered at once"),
        Err(ControlError::WouldDeadlock { id: "t".to_owned() })
    );
    runtime.block_on(running.shutdown());
}

#[tokio::test(start_paused = true)]
async fn a_child_may_restart_itself_since_nobody_waits() {
    let child = Child::task("c", |cx| async move {
        if cx.generation() == 1 {
            cx.kernel().unwrap().restart(cx.id()).unwrap();
        }
        cx.stopping().await;
    });
    let running = start([child]).await;
    until("restarted", || running.handle().tree()[0].generation == 2).await;
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn start_returns_on_acceptance_and_obeys_the_rules_of_the_tree() {
    let running = start([idle("db")]).await;
    let handle = running.handle();
    let never =
        Child::task("never", |_| std::future::pending::<()>()).gated(Duration::from_secs(3600));
    handle.start(never).unwrap();
    assert_ne!(state(handle, "never"), "ready");
    handle.start(idle("waits").after("never")).unwrap();
    handle
        .start(Group::new("g").child(idle("m")).after("db"))
        .unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        (state(handle, "never"), state(handle, "waits")),
        ("starting", "waiting")
    );
    assert_eq!(state(handle, "g/m"), "ready");

    let before = handle.tree();
    assert_eq!(
        handle.start(idle("db")),
        Err(TreeError::Duplicate { id: "db".into() })
    );
    assert_eq!(
        handle.start(Group::new("g")),
        Err(TreeError::Duplicate { id: "g".into() })
    );
    assert!(matches!(
        handle.start(idle("x").after("y")),
        Err(TreeError::UnknownDependency { .. })
    ));
    assert_eq!(
        handle.start(idle("a/b")),
        Err(TreeError::BadName { name: "a/b".into() })
    );
    let ring = Group::new("ring")
        .child(idle("a").after("b"))
        .child(idle("b").after("a"));
    assert!(matches!(handle.start(ring), Err(TreeError::Cycle { .. })));
    assert_eq!(handle.tree(), before, "what is refused leaves no trace");
    handle.start(idle("x")).expect("nor a taken name");
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_removed_child_is_gone_with_its_name_its_causes_and_its_order() {
    let running = start([idle("db"), idle("web").after("db"), once("sick")]).await;
    let handle = running.handle();
    let refused = handle.remove("db").unwrap_err();
    assert_eq!(
        refused,
        ControlError::HasDependants {
            id: "db".into(),
            dependant: "web".into()
        }
    );
    handle.remove("web").unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    handle.remove("db").unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(state(handle, "sick"), "quarantined");
    assert!(!handle.health().ready());
    handle.remove("sick").unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(handle.tree(), []);
    assert!(handle.explain("sick").is_none());
    let health = handle.health().snapshot();
    assert!(health.ready() && health.causes().count() == 0, "{health:?}");
    handle.start(idle("sick")).unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(state(handle, "sick"), "ready");
    let report = running.shutdown().await;
    assert!(report.is_balanced(), "{report:?}");
    assert_eq!(
        (report.started, report.stopped),
        (4, 4),
        "removed ones count too: {report:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_group_is_stopped_restarted_and_removed_as_one() {
    let group = Group::new("g")
        .child(idle("a"))
        .group(Group::new("h").child(idle("b").after("a")));
    let running = Kernel::builder()
        .group(group)
        .build()
        .unwrap()
        .start()
        .await
        .unwrap();
    let handle = running.handle();
    tokio::time::sleep(Duration::from_millis(10)).await;
    handle.stop("g").await.unwrap();
    for id in ["g", "g/a", "g/h", "g/h/b"] {
        assert!(
            matches!(state(handle, id), "stopped" | "waiting"),
            "{id} is {}",
            state(handle, id)
        );
    }
    let refused = handle.restart("g/a").unwrap_err();
    assert!(
        matches!(&refused, ControlError::GroupDown { group, .. } if group == "g"),
        "{refused}"
    );
    handle.restart("g").unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    for id in ["g", "g/a", "g/h", "g/h/b"] {
        assert_eq!(state(handle, id), "ready", "{id}");
    }
    handle.remove("g").unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(handle.tree(), []);
    let report = running.shutdown().await;
    assert_eq!((report.started, report.stopped), (2, 2), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn unknown_ids_and_releases_without_a_quarantine_are_refused() {
    let running = start([idle("c")]).await;
    let handle = running.handle();
    let unknown = Err(ControlError::Unknown { id: "x".into() });
    assert_eq!(handle.stop("x").await, unknown);
    assert_eq!(handle.restart("x"), unknown);
    assert_eq!(handle.release("x"), unknown);
    assert_eq!(handle.remove("x"), unknown);
    assert!(handle.explain("x").is_none());
    let refused = handle.release("c").unwrap_err();
    assert_eq!(
        refused,
        ControlError::NotQuarantined {
            id: "c".into(),
            state: "ready"
        }
    );
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_started_restarted_or_released_once_the_kernel_shuts_down() {
    let hold = Intensity::new(0, Duration::from_secs(1)).unwrap();
    let stubborn = Child::task("stubborn", |_| std::future::pending::<()>());
    let sick = sick("sick").intensity(hold).on_exhausted(Exhausted::Hold);
    let running = start([stubborn, sick]).await;
    let handle = running.handle().clone();
    handle.shutdown();
    handle.shutdown();
    tokio::time::sleep(Duration::from_millis(10)).await;
    let started = Arc::new(AtomicU32::new(0));
    let count = started.clone();
    let late = Child::task("late", move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        async {}
    });
    assert_eq!(handle.start(late.clone()), Err(TreeError::ShuttingDown));
    assert_eq!(handle.restart("stubborn"), Err(ControlError::ShuttingDown));
    assert_eq!(handle.release("sick"), Err(ControlError::ShuttingDown));
    let report = handle.ended().await;
    assert_eq!(
        handle.start(late),
        Err(TreeError::ShuttingDown),
        "nor after the end"
    );
    assert_eq!(started.load(Ordering::SeqCst), 0);
    assert_eq!(
        (report.started, report.aborted, report.quarantined),
        (2, 1, 1),
        "{report:?}"
    );
}
