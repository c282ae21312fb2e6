//! Children that are too slow: gated starts, promised heartbeats, stops.

use ron_kernel::supervisor::{Backoff, Child, Exit, Timeout};
use ron_kernel::{Change, ChildEvent, Kernel, KernelEvent, Running, KERNEL_TOPIC, LIFECYCLE_TOPIC};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

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

fn crashes(running: &Running) -> ron_kernel::bus::Subscriber<KernelEvent> {
    running
        .handle()
        .bus()
        .topic::<KernelEvent>(KERNEL_TOPIC)
        .unwrap()
        .subscribe()
        .unwrap()
}

async fn next_crash(events: &mut ron_kernel::bus::Subscriber<KernelEvent>) -> String {
    loop {
        if let KernelEvent::ServiceCrashed { reason, .. } = events.recv().await.unwrap().event {
            return reason;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_gated_child_that_is_not_ready_in_time_has_failed() {
    let begun = Instant::now();
    let child = Child::task("c", |cx| async move {
        if cx.generation() == 3 {
            tokio::time::sleep(Duration::from_millis(900)).await;
            cx.ready();
        }
        cx.stopping().await;
    });
    let running = start(child.gated(Duration::from_secs(1)).backoff(Backoff::NONE)).await;
    let mut events = crashes(&running);
    let reason = next_crash(&mut events).await;
    assert!(reason.contains("not ready within 1s"), "{reason}");
    let took = begun.elapsed().as_millis();
    assert!((1000..1100).contains(&took), "{took} ms");
    let exit = running.handle().explain("c").unwrap().last_exit;
    assert_eq!(
        exit,
        Some(Exit::TimedOut(Timeout::Start(Duration::from_secs(1))))
    );
    next_crash(&mut events).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(running.handle().tree()[0].state, "starting");
    // Ready in time: the start timeout is over and done with.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let node = running.handle().tree()[0].clone();
    assert_eq!(
        (node.state, node.generation, node.restarts),
        ("ready", 3, 2)
    );
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_late_starter_is_gone_before_its_replacement_starts() {
    let log: Arc<Mutex<Vec<String>>> = Arc::default();
    struct Gone(Arc<Mutex<Vec<String>>>, u64);
    impl Drop for Gone {
        fn drop(&mut self) {
            self.0.lock().unwrap().push(format!("gone {}", self.1));
        }
    }
    let bodies = log.clone();
    let child = Child::task("c", move |cx| {
        let log = bodies.clone();
        async move {
            log.lock()
                .unwrap()
                .push(format!("start {}", cx.generation()));
            let _gone = Gone(log, cx.generation());
            std::future::pending::<()>().await;
        }
    });
    let child = child.gated(Duration::from_secs(1)).backoff(Backoff::NONE);
    let running = start(child.stop_timeout(Duration::from_secs(1))).await;
    tokio::time::sleep(Duration::from_millis(4_500)).await;
    let seen = log.lock().unwrap().clone();
    assert!(seen.len() >= 4, "{seen:?}");
    for (index, line) in seen.iter().enumerate() {
        let generation = index / 2 + 1;
        let wanted = if index % 2 == 0 { "start" } else { "gone" };
        assert_eq!(*line, format!("{wanted} {generation}"), "{seen:?}");
    }
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn ready_from_an_ungated_child_or_twice_changes_nothing() {
    let child = Child::task("c", |cx| async move {
        cx.ready();
        cx.ready();
        cx.stopping().await;
    });
    let running = start(child).await;
    let topic = running
        .handle()
        .bus()
        .topic::<ChildEvent>(LIFECYCLE_TOPIC)
        .unwrap();
    let start = ron_kernel::bus::Start::Retained(100);
    let mut changes = topic.subscriber().start(start).build().unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut ready = 0;
    while let Ok(Some(delivery)) = changes.try_recv() {
        ready += u32::from(delivery.event.change == Change::Ready);
    }
    assert_eq!(ready, 1);
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn an_ungated_child_is_ready_when_its_first_poll_has_returned() {
    let child = Child::task("c", |cx| async move {
        let kernel = cx.kernel().unwrap();
        assert_eq!(kernel.tree()[0].state, "starting", "inside the first poll");
        tokio::task::yield_now().await;
        assert_eq!(kernel.tree()[0].state, "ready", "inside the second");
        cx.stopping().await;
    });
    let running = start(child).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let node = running.handle().tree()[0].clone();
    assert_eq!((node.state, node.generation), ("ready", 1), "{node:?}");
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_child_that_misses_its_heartbeats_ends_as_timed_out() {
    let beats = Arc::new(AtomicU32::new(20));
    let left = beats.clone();
    let begun = Instant::now();
    let child = Child::task("c", move |cx| {
        let left = left.clone();
        async move {
            while left.load(Ordering::Relaxed) > 0 {
                left.fetch_sub(1, Ordering::Relaxed);
                cx.heartbeat();
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            std::future::pending::<()>().await;
        }
    });
    let running = start(child.watchdog(Duration::from_secs(1))).await;
    let mut events = crashes(&running);
    let reason = next_crash(&mut events).await;
    let took = begun.elapsed().as_millis();
    assert!(
        (10_400..13_500).contains(&took),
        "10 s of beats and then one interval, not {took} ms"
    );
    assert!(reason.contains("no heartbeat"), "{reason}");
    let exit = running.handle().explain("c").unwrap().last_exit;
    assert_eq!(
        exit,
        Some(Exit::TimedOut(Timeout::Heartbeat(Duration::from_secs(1))))
    );
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn regular_heartbeats_keep_a_child_alive_for_a_day() {
    let child = Child::task("c", |cx| async move {
        while !cx.is_stopping() {
            cx.heartbeat();
            tokio::time::sleep(Duration::from_secs(9)).await;
        }
    });
    let running = start(child.watchdog(Duration::from_secs(10))).await;
    tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
    assert_eq!(running.handle().tree()[0].generation, 1);
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_stopping_child_owes_no_heartbeats() {
    let child = Child::task("c", |cx| async move {
        while !cx.is_stopping() {
            cx.heartbeat();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
    })
    .watchdog(Duration::from_millis(300))
    .stop_timeout(Duration::from_secs(10));
    let running = start(child).await;
    let mut events = crashes(&running);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let report = running.shutdown().await;
    assert_eq!((report.stopped, report.aborted), (1, 0), "{report:?}");
    while let Ok(delivery) = events.recv().await {
        assert!(
            !matches!(delivery.event, KernelEvent::ServiceCrashed { .. }),
            "{delivery:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_child_sees_its_deadline_and_is_aborted_at_it() {
    let seen: Arc<Mutex<Option<Duration>>> = Arc::default();
    let told = seen.clone();
    let child = Child::task("c", move |cx| {
        let told = told.clone();
        async move {
            assert_eq!(cx.deadline(), None);
            cx.stopping_owned().await;
            *told.lock().unwrap() = Some(cx.deadline().unwrap() - Instant::now());
            std::future::pending::<()>().await;
        }
    });
    let running = start(child.stop_timeout(Duration::from_millis(1500))).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let begun = Instant::now();
    running.handle().stop("c").await.unwrap();
    let took = begun.elapsed().as_millis();
    assert!((1500..1700).contains(&took), "{took} ms");
    assert_eq!(*seen.lock().unwrap(), Some(Duration::from_millis(1500)));
    assert_eq!(running.handle().tree()[0].state, "stopped");
    running.shutdown().await;
}
