//! Corners where the supervisor, its accounts and its clock once disagreed.

use ron_kernel::supervisor::{Backoff, Child, Group, Restart, Strategy};
use ron_kernel::Kernel;
use std::time::Duration;

fn idle(name: &str) -> Child {
    Child::task(name, |cx| async move { cx.stopping().await })
}

#[tokio::test(start_paused = true)]
async fn an_empty_group_still_waits_for_what_it_comes_after() {
    let slow = Child::task("slow", |cx| async move {
        tokio::time::sleep(Duration::from_secs(5)).await;
        cx.ready();
        cx.stopping().await;
    })
    .gated(Duration::from_secs(30));
    let kernel = Kernel::builder()
        .child(slow)
        .group(Group::new("g").after("slow"))
        .child(idle("web").after("g"));
    let running = kernel.build().unwrap().start().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(running.handle().tree()[2].state, "waiting");
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_temporary_member_is_stopped_by_a_joint_restart_and_not_started_again() {
    let crash = Child::task("a", |cx| async move {
        if cx.generation() == 1 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            return Err("crash");
        }
        cx.stopping().await;
        Ok(())
    })
    .backoff(Backoff::NONE);
    let runs = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counted = runs.clone();
    let temporary = Child::task("t", move |cx| {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        async move { cx.stopping().await }
    })
    .restart(Restart::Temporary);
    let group = Group::new("g")
        .strategy(Strategy::OneForAll)
        .child(crash)
        .child(temporary);
    let running = Kernel::builder()
        .group(group)
        .build()
        .unwrap()
        .start()
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(runs.load(std::sync::atomic::Ordering::Relaxed), 1);
    running.shutdown().await;
}

#[test]
fn the_failure_of_an_owned_task_fails_a_thread_child_too() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let child = Child::thread("t", |cx| {
            cx.spawn(async { Err::<(), _>("from the task") });
            while !cx.wait_stopping(Duration::from_millis(5)) {}
        });
        let running = Kernel::builder()
            .child(child)
            .build()
            .unwrap()
            .start()
            .await
            .unwrap();
        for _ in 0..500 {
            tokio::time::sleep(Duration::from_millis(4)).await;
            if let Some(exit) = running.handle().explain("t").unwrap().last_exit {
                assert!(exit.to_string().contains("from the task"));
                return;
            }
        }
        panic!("after 2 s: {:?}", running.handle().tree());
    });
}

#[tokio::test(start_paused = true)]
async fn removing_a_child_that_never_was_ready_takes_its_requirement_away() {
    let sick = Child::task("sick", |_| async { Err::<(), _>("no disk") });
    let running = Kernel::builder()
        .child(sick)
        .child(idle("web"))
        .build()
        .unwrap()
        .start()
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    running.handle().remove("sick").unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let health = running.handle().health().snapshot();
    assert!(health.ready(), "{health:?}");
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_child_leaves_no_series_behind() {
    let running = Kernel::builder().build().unwrap().start().await.unwrap();
    for n in 0..200 {
        let child = Child::task(format!("conn-{n}"), |_| async { Err::<(), _>("reset") })
            .restart(Restart::Temporary);
        running.handle().start(child).unwrap();
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(running.handle().tree().is_empty());
    let text = running
        .handle()
        .metrics()
        .render(ron_kernel::metrics::Format::Prometheus);
    let left: Vec<_> = text
        .lines()
        .filter(|line| line.contains("conn-"))
        .take(3)
        .collect();
    assert!(left.is_empty(), "{left:?} and so on");
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn an_abort_at_the_end_of_the_drain_is_told_once() {
    let child =
        Child::task("c", |_| std::future::pending::<()>()).stop_timeout(Duration::from_secs(60));
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
        .topic::<ron_kernel::ChildEvent>(ron_kernel::LIFECYCLE_TOPIC)
        .unwrap();
    let mut changes = topic.subscribe().unwrap();
    running.handle().ready().await;
    let metrics = running.handle().metrics().clone();
    running.shutdown().await;
    let mut told = 0;
    while let Ok(delivery) = changes.recv().await {
        told += u32::from(delivery.event.change == ron_kernel::Change::Aborted);
    }
    let text = metrics.render(ron_kernel::metrics::Format::Prometheus);
    let counted: Vec<_> = text
        .lines()
        .filter(|line| line.contains("aborted_total"))
        .collect();
    assert_eq!(told, 1, "{counted:?}");
}

#[test]
fn health_agrees_once_ready_has_returned() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    for round in 0..2_000 {
        runtime.block_on(async {
            let running = Kernel::builder()
                .child(idle("a"))
                .child(idle("b"))
                .build()
                .unwrap()
                .start()
                .await
                .unwrap();
            running.handle().ready().await;
            let snapshot = running.handle().health().snapshot();
            assert!(snapshot.ready(), "round {round}: {snapshot:?}");
            running.shutdown().await;
        });
    }
}

#[tokio::test(start_paused = true)]
async fn a_stopped_child_cannot_get_a_fault_injected() {
    let mut config = ron_kernel::Config::default();
    config.chaos.armed = true;
    let running = Kernel::builder()
        .config(config)
        .child(idle("c"))
        .build()
        .unwrap()
        .start()
        .await
        .unwrap();
    running.handle().ready().await;
    running.handle().stop("c").await.unwrap();
    let told = running.handle().inject("c", ron_kernel::Fault::Panic);
    assert!(
        matches!(told, Err(ron_kernel::ControlError::NoTarget { .. })),
        "{told:?}"
    );
    running.shutdown().await;
}

#[test]
fn a_stall_that_ends_with_its_incarnation_is_told_to_be_over() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let child = Child::task("staller", |_| async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            std::thread::sleep(Duration::from_millis(700));
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
            .topic::<ron_kernel::ChildEvent>(ron_kernel::LIFECYCLE_TOPIC)
            .unwrap();
        let mut changes = topic.subscribe().unwrap();
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        running.shutdown().await;
        let mut told = Vec::new();
        while let Ok(delivery) = changes.recv().await {
            told.push(delivery.event.change.name());
        }
        assert!(
            told.contains(&"Stalled") && told.contains(&"Unstalled"),
            "{told:?}"
        );
    });
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_thread_is_stamped_with_the_clock_of_the_runtime() {
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let child = Child::thread("t", move |_| {
        let _ = gate.lock().unwrap().recv();
    });
    let running = Kernel::builder()
        .child(child)
        .build()
        .unwrap()
        .start()
        .await
        .unwrap();
    running.handle().ready().await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let before = running.handle().tree()[0].since;
    drop(open);
    while running.handle().tree()[0].state != "done" {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let took = running.handle().tree()[0]
        .since
        .duration_since(before)
        .unwrap();
    assert!(took >= Duration::from_secs(3600), "{took:?}");
    running.shutdown().await;
}
