//! A failing child through the public API: backoff, budget, quarantine, trial, release, events, metrics.

use ron_kernel::supervisor::{Backoff, Child};
use ron_kernel::{Change, ChildEvent, Kernel, KernelEvent, Running, KERNEL_TOPIC, LIFECYCLE_TOPIC};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

async fn start(children: Vec<Child>) -> Running {
    let kernel = children
        .into_iter()
        .fold(Kernel::builder().seed(1), |kernel, child| {
            kernel.child(child)
        });
    kernel.build().unwrap().start().await.unwrap()
}

fn state(running: &Running, id: &str) -> &'static str {
    running
        .handle()
        .tree()
        .iter()
        .find(|node| node.id == id)
        .map(|node| node.state)
        .unwrap_or("absent")
}

async fn until(running: &Running, id: &str, wanted: &str) {
    for _ in 0..100_000 {
        if state(running, id) == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{id} is {} and never became {wanted}", state(running, id));
}

fn counter(running: &Running, line: &str) -> u64 {
    let text = running
        .handle()
        .metrics()
        .render(ron_kernel::metrics::Format::Prometheus);
    text.lines()
        .find_map(|found| found.strip_prefix(line))
        .map_or(0, |value| value.trim().parse().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_crash_loop_ends_in_quarantine_and_the_trial_or_a_release_brings_it_back() {
    let broken = Arc::new(AtomicBool::new(true));
    let flag = broken.clone();
    let sick = Child::task("sick", move |cx| {
        let broken = flag.clone();
        async move {
            tokio::task::yield_now().await;
            if broken.load(Ordering::Relaxed) {
                panic!("no disk");
            }
            cx.stopping().await;
        }
    });
    let runs = Arc::new(AtomicU64::new(0));
    let counted = runs.clone();
    let sibling = Child::task("sibling", move |cx| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move { cx.stopping().await }
    });
    let running = start(vec![sick, sibling]).await;
    let mut events = running
        .handle()
        .bus()
        .topic::<KernelEvent>(KERNEL_TOPIC)
        .unwrap()
        .subscribe()
        .unwrap();
    let mut changes = running
        .handle()
        .bus()
        .topic::<ChildEvent>(LIFECYCLE_TOPIC)
        .unwrap()
        .subscribe()
        .unwrap();

    until(&running, "sick", "quarantined").await;
    let node = running
        .handle()
        .tree()
        .into_iter()
        .find(|node| node.id == "sick")
        .unwrap();
    assert_eq!(
        (node.generation, node.restarts, node.restarts_in_window),
        (6, 5, 5)
    );
    assert_eq!(node.cause.as_deref(), Some("panicked: no disk"));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let snapshot = running.handle().health().snapshot();
    assert!(!snapshot.ready());
    let cause = snapshot
        .causes()
        .find(|cause| cause.key == "child:sick")
        .unwrap();
    assert!(
        cause.reason.contains("quarantined") && cause.reason.contains("no disk"),
        "{cause:?}"
    );

    // Crashes and restarts agree with the events, exactly.
    let crashes = || counter(&running, "ron_kernel_crashes_total{service=\"sick\"}");
    let restarts = || counter(&running, "service_restarts_total{service=\"sick\"}");
    let mut told = 0;
    while let Ok(Some(delivery)) = events.try_recv() {
        if let KernelEvent::ServiceCrashed { service, reason } = delivery.event {
            assert_eq!(
                (service.as_str(), reason.as_str()),
                ("sick", "panicked: no disk")
            );
            told += 1;
        }
    }
    assert_eq!((told, crashes(), restarts()), (6, 6, 5));

    // Delays inside a growing envelope.
    let mut delays = Vec::new();
    while let Ok(Some(delivery)) = changes.try_recv() {
        if let Change::Backoff { attempt, delay, .. } = delivery.event.change {
            delays.push((attempt, delay));
        }
    }
    let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30)).unwrap();
    assert_eq!(delays.len(), 5);
    for (n, (attempt, delay)) in delays.into_iter().enumerate() {
        assert_eq!(attempt as usize, n);
        assert!(
            delay >= backoff.min() && delay <= backoff.ceiling(attempt),
            "{attempt}: {delay:?}"
        );
    }

    // Mended: the trial comes by itself.
    broken.store(false, Ordering::Relaxed);
    until(&running, "sick", "ready").await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(running.handle().health().snapshot().ready());
    assert_eq!((crashes(), restarts()), (6, 6));
    assert_eq!(
        runs.load(Ordering::Relaxed),
        1,
        "one_for_one: the sibling never noticed"
    );

    let report = running.shutdown().await;
    assert!(report.is_balanced());
    assert_eq!((report.started, report.stopped), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_human_releases_a_quarantined_child_at_once() {
    let broken = Arc::new(AtomicBool::new(true));
    let flag = broken.clone();
    let running = start(vec![Child::task("sick", move |cx| {
        let broken = flag.clone();
        async move {
            if broken.load(Ordering::Relaxed) {
                return Err(std::io::Error::other("refused"));
            }
            cx.stopping().await;
            Ok(())
        }
    })])
    .await;
    assert!(running
        .handle()
        .release("sick")
        .unwrap_err()
        .to_string()
        .contains("nothing to release"));
    until(&running, "sick", "quarantined").await;
    broken.store(false, Ordering::Relaxed);
    running.handle().release("sick").unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(state(&running, "sick"), "ready");
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_without_delay_happens_in_place_and_loses_no_news() {
    let running = start(vec![Child::task("flaky", |cx| async move {
        if cx.generation() < 4 {
            return Err("again");
        }
        cx.stopping().await;
        Ok(())
    })
    .backoff(Backoff::NONE)])
    .await;
    until(&running, "flaky", "ready").await;
    assert_eq!(
        counter(&running, "service_restarts_total{service=\"flaky\"}"),
        3
    );
    assert_eq!(
        counter(&running, "ron_kernel_crashes_total{service=\"flaky\"}"),
        3
    );
    running.shutdown().await;
}
