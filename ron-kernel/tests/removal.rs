//! What is on its way out of the tree: nobody builds on it, and two who remove it hurt nobody else.

use ron_kernel::supervisor::{Child, ChildContext, TreeError};
use ron_kernel::{ControlError, Kernel, KernelHandle, Running};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

/// How long two threads try to get into each other's way.
const RACE_FOR: Duration = Duration::from_millis(400);

async fn idle(cx: ChildContext) {
    cx.stopping().await;
}

/// Takes a second to end.
async fn slow(cx: ChildContext) {
    cx.stopping().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
}

async fn start(child: Child) -> Running {
    let kernel = Kernel::builder().seed(1).child(child).build().unwrap();
    let running = kernel.start().await.unwrap();
    running.handle().ready().await;
    running
}

fn state(handle: &KernelHandle, id: &str) -> &'static str {
    handle.explain(id).map_or("absent", |found| found.state)
}

fn ids(handle: &KernelHandle) -> Vec<String> {
    let mut ids: Vec<_> = handle.tree().into_iter().map(|node| node.id).collect();
    ids.sort();
    ids
}

/// Adds a child that is done and stays in the tree, so that a removal takes effect at once.
fn add_done(handle: &KernelHandle, id: &str) {
    handle.start(Child::task(id, |_| async {})).unwrap();
    let begun = Instant::now();
    while state(handle, id) != "done" {
        assert!(begun.elapsed() < Duration::from_secs(30), "{id} never done");
        thread::yield_now();
    }
}

fn on_two_workers() -> (Runtime, Running) {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let running = runtime.block_on(start(Child::task("witness", idle)));
    (runtime, running)
}

#[test]
fn of_two_threads_that_remove_one_child_one_succeeds_and_the_tree_stays_whole() {
    let (runtime, running) = on_two_workers();
    let handle = running.handle().clone();
    let begun = Instant::now();
    for round in 0.. {
        let id = format!("d{round}");
        add_done(&handle, &id);
        let barrier = Arc::new(Barrier::new(2));
        let other = {
            let (handle, id, barrier) = (handle.clone(), id.clone(), barrier.clone());
            thread::spawn(move || {
                barrier.wait();
                handle.remove(&id)
            })
        };
        barrier.wait();
        let both = [handle.remove(&id), other.join().unwrap()];
        let accepted = both.iter().filter(|removed| removed.is_ok()).count();
        assert_eq!(accepted, 1, "round {round}: {both:?}");
        let unknown = ControlError::Unknown { id };
        assert!(both.contains(&Err(unknown)), "round {round}: {both:?}");
        if begun.elapsed() > RACE_FOR {
            break;
        }
    }
    // A place that was freed twice would be given to both.
    handle.start(Child::task("p", idle)).unwrap();
    handle.start(Child::task("q", idle)).unwrap();
    assert_eq!(ids(&handle), ["p", "q", "witness"]);
    for id in ["p", "q"] {
        assert_eq!(handle.explain(id).unwrap().id, id);
    }
    let report = runtime.block_on(running.shutdown());
    assert!(report.is_balanced(), "{report:?}");
    assert_eq!(report.leaked, 0);
}

#[test]
fn a_removal_that_comes_second_never_hits_the_child_that_took_the_place() {
    let (runtime, running) = on_two_workers();
    let handle = running.handle().clone();
    let begun = Instant::now();
    for round in 0.. {
        let (old, new) = (format!("old{round}"), format!("new{round}"));
        add_done(&handle, &old);
        let barrier = Arc::new(Barrier::new(2));
        let other = {
            let (handle, old, new) = (handle.clone(), old.clone(), new.clone());
            let barrier = barrier.clone();
            thread::spawn(move || {
                barrier.wait();
                let _ = handle.remove(&old);
                handle.start(Child::task(new, idle)).unwrap();
            })
        };
        barrier.wait();
        let _ = handle.remove(&old);
        other.join().unwrap();
        let found = state(&handle, &new);
        assert!(
            matches!(found, "starting" | "ready"),
            "round {round}: {new} is {found}"
        );
        assert_eq!(state(&handle, &old), "absent", "round {round}");
        runtime.block_on(handle.stop(&new)).unwrap();
        handle.remove(&new).unwrap();
        if begun.elapsed() > RACE_FOR {
            break;
        }
    }
    assert_eq!(ids(&handle), ["witness"]);
    assert_eq!(state(&handle, "witness"), "ready");
    assert!(runtime.block_on(running.shutdown()).is_balanced());
}

#[tokio::test(start_paused = true)]
async fn nothing_starts_after_a_child_that_is_being_removed() {
    let running = start(Child::task("a", slow)).await;
    let handle = running.handle();
    handle.remove("a").unwrap();
    assert_eq!(state(handle, "a"), "stopping");
    let refused = handle.start(Child::task("b", idle).after("a")).unwrap_err();
    assert!(
        matches!(&refused, TreeError::UnknownDependency { child, after, .. } if child == "b" && after == "a"),
        "{refused:?}"
    );
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(ids(handle), Vec::<String>::new());
    // Whoever takes the place later is no dependency of anybody.
    handle.start(Child::task("stranger", idle)).unwrap();
    handle.start(Child::task("b", idle)).unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(state(handle, "b"), "ready");
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_of_a_child_that_is_being_removed_is_refused() {
    let running = start(Child::task("a", slow)).await;
    let handle = running.handle();
    handle.remove("a").unwrap();
    let id = "a".to_owned();
    assert_eq!(handle.restart("a"), Err(ControlError::Removing { id }));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(state(handle, "a"), "absent");
    running.shutdown().await;
}
