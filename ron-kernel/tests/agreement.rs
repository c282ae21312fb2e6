//! Those who tell of one thing tell the same: `ready()` and `/readyz`, events and counters, report and drain.

use ron_kernel::bus::Subscriber;
use ron_kernel::supervisor::{Backoff, Child, ChildContext, Exhausted, Group, Intensity, Restart};
use ron_kernel::{Config, Kernel, KernelBuilder, KernelEvent, Running, KERNEL_TOPIC};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

const LONG: Duration = Duration::from_secs(1000);

async fn idle(cx: ChildContext) {
    cx.stopping().await;
}

/// Starts and never says that it is ready.
fn never_ready(name: &str) -> Child {
    Child::task(name, |_| std::future::pending::<()>()).gated(100 * LONG)
}

/// Fails the first time.
fn failing_once(name: &str) -> Child {
    Child::task(name, |cx: ChildContext| async move {
        if cx.generation() == 1 {
            return Err("x");
        }
        cx.stopping().await;
        Ok(())
    })
}

async fn start(kernel: KernelBuilder) -> Running {
    kernel.seed(1).build().unwrap().start().await.unwrap()
}

async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

async fn ready_resolves(running: &Running) -> bool {
    let ready = running.handle().ready();
    tokio::time::timeout(LONG, ready).await.is_ok()
}

fn events(running: &Running) -> Subscriber<KernelEvent> {
    let bus = running.handle().bus();
    let topic = bus.topic::<KernelEvent>(KERNEL_TOPIC).unwrap();
    topic.subscribe().unwrap()
}

/// The services of whose crashes the events up to now tell, sorted.
fn crashes_told(events: &mut Subscriber<KernelEvent>) -> Vec<String> {
    let mut told = Vec::new();
    while let Ok(Some(delivery)) = events.try_recv() {
        if let KernelEvent::ServiceCrashed { service, .. } = &delivery.event {
            told.push(service.clone());
        }
    }
    told.sort();
    told
}

/// The series of a counter by the value of its label `service`.
fn series(running: &Running, counter: &str) -> Vec<(String, u64)> {
    let format = ron_kernel::metrics::Format::Prometheus;
    let text = running.handle().metrics().render(format);
    let start = format!("{counter}{{service=\"");
    let lines = text.lines().filter_map(|line| line.strip_prefix(&start));
    let parsed = lines.map(|line| {
        let (service, value) = line.split_once("\"} ").unwrap();
        (service.to_owned(), value.parse().unwrap())
    });
    parsed.collect()
}

fn count(running: &Running, counter: &str, service: &str) -> u64 {
    let series = series(running, counter);
    let found = series.iter().find(|(found, _)| found == service);
    found.map_or(0, |(_, count)| *count)
}

fn crashes(running: &Running, service: &str) -> u64 {
    count(running, "ron_kernel_crashes_total", service)
}

fn restarts(running: &Running, service: &str) -> u64 {
    count(running, "service_restarts_total", service)
}

#[tokio::test(start_paused = true)]
async fn ready_does_not_wait_for_an_optional_child_as_readyz_does_not() {
    let kernel = Kernel::builder().child(never_ready("optional").optional());
    let running = start(kernel).await;
    assert!(ready_resolves(&running).await);
    assert!(running.handle().health().snapshot().ready());
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn ready_waits_for_a_required_child_as_readyz_does() {
    let running = start(Kernel::builder().child(never_ready("required"))).await;
    assert!(!ready_resolves(&running).await);
    assert!(!running.handle().health().snapshot().ready());
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn ready_ends_when_the_kernel_does() {
    let child = Child::task("bad", |_| async { Err::<(), _>("x") })
        .intensity(Intensity::new(0, LONG).unwrap())
        .on_exhausted(Exhausted::Shutdown);
    let running = start(Kernel::builder().child(child)).await;
    let handle = running.handle().clone();
    let failure = running.ended().await.failure.unwrap();
    assert!(failure.contains("bad"), "{failure}");
    tokio::time::timeout(LONG, handle.ready()).await.unwrap();
    assert!(!handle.health().snapshot().ready());
}

#[tokio::test(start_paused = true)]
async fn a_removed_child_is_neither_waited_for_nor_missing() {
    let kernel = Kernel::builder()
        .child(never_ready("slow"))
        .child(Child::task("x", idle));
    let running = start(kernel).await;
    running.handle().remove("slow").unwrap();
    pass(Duration::from_secs(100)).await;
    assert!(ready_resolves(&running).await);
    let snapshot = running.handle().health().snapshot();
    assert!(snapshot.ready());
    assert_eq!(snapshot.missing().count(), 0);
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_temporary_child_that_crashed_is_neither_waited_for_nor_missing() {
    let temporary = Child::task("temporary", |_| async { Err::<(), _>("no") });
    let kernel = Kernel::builder()
        .child(temporary.restart(Restart::Temporary))
        .child(Child::task("x", idle));
    let running = start(kernel).await;
    pass(Duration::from_secs(100)).await;
    assert!(ready_resolves(&running).await);
    let snapshot = running.handle().health().snapshot();
    assert!(snapshot.ready());
    assert_eq!(snapshot.missing().count(), 0);
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_stopped_child_is_told_to_be_unhealthy() {
    let kernel = Kernel::builder()
        .child(Child::task("a", idle))
        .child(Child::task("x", idle));
    let running = start(kernel).await;
    running.handle().ready().await;
    pass(Duration::from_secs(1)).await;
    let mut events = events(&running);
    running.handle().stop("a").await.unwrap();
    pass(Duration::from_secs(100)).await;
    let mut told = Vec::new();
    while let Ok(Some(delivery)) = events.try_recv() {
        if let KernelEvent::Health { service, ok } = &delivery.event {
            if service == "a" {
                told.push(*ok);
            }
        }
    }
    assert_eq!(told, [false]);
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_by_hand_during_a_backoff_counts_as_the_restart_after_the_crash() {
    let backoff = Backoff::new(LONG, LONG).unwrap();
    let kernel = Kernel::builder().child(failing_once("c").backoff(backoff));
    let running = start(kernel).await;
    let mut events = events(&running);
    pass(Duration::from_secs(1)).await;
    assert_eq!((crashes(&running, "c"), restarts(&running, "c")), (1, 0));
    running.handle().restart("c").unwrap();
    pass(Duration::from_secs(1)).await;
    assert_eq!(running.handle().explain("c").unwrap().state, "ready");
    assert_eq!((crashes(&running, "c"), restarts(&running, "c")), (1, 1));
    assert_eq!(crashes_told(&mut events), ["c"]);
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn the_restart_of_a_group_is_counted() {
    let group = Group::new("g")
        .intensity(Intensity::new(0, Duration::from_secs(1)).unwrap())
        .child(failing_once("c"));
    let running = start(Kernel::builder().group(group)).await;
    let mut events = events(&running);
    pass(Duration::from_secs(5)).await;
    assert_eq!(running.handle().explain("g/c").unwrap().state, "ready");
    assert_eq!((crashes(&running, "g"), restarts(&running, "g")), (1, 1));
    assert_eq!(crashes(&running, "g/c"), 1);
    assert_eq!(crashes_told(&mut events), ["g", "g/c"]);
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_while_it_lingers_is_neither_told_nor_counted() {
    let mut config = Config::default();
    config.drain.linger = Duration::from_secs(3);
    let crash = Arc::new(Notify::new());
    let trigger = crash.clone();
    let child = Child::task("c", move |_| {
        let trigger = trigger.clone();
        async move {
            trigger.notified().await;
            Err::<(), _>("late")
        }
    });
    let running = start(Kernel::builder().config(config).child(child)).await;
    let handle = running.handle().clone();
    handle.ready().await;
    let mut events = events(&running);
    handle.shutdown();
    pass(Duration::from_millis(500)).await;
    crash.notify_one();
    pass(Duration::from_millis(500)).await;
    let last_exit = handle.explain("c").unwrap().last_exit.unwrap();
    assert_eq!(last_exit.to_string(), "late", "it did crash");
    assert_eq!(crashes(&running, "c"), 0);
    assert_eq!(crashes_told(&mut events), [] as [&str; 0]);
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn the_report_counts_only_what_this_drain_aborted() {
    let deaf = Child::task("deaf", |_| std::future::pending::<()>());
    let kernel = Kernel::builder().child(deaf).child(Child::task("x", idle));
    let running = start(kernel).await;
    running.handle().ready().await;
    running.handle().stop("deaf").await.unwrap();
    pass(Duration::from_secs(3600)).await;
    let report = running.shutdown().await;
    assert_eq!((report.started, report.stopped, report.aborted), (2, 2, 0));
    assert_eq!(report.stragglers, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn forgotten_children_leave_no_series_behind_and_no_crash_is_lost() {
    const CHILDREN: u64 = 50;
    let running = start(Kernel::builder().child(Child::task("x", idle))).await;
    running.handle().ready().await;
    for child in 0..CHILDREN {
        let name = format!("dynamic{child}");
        let child = Child::task(name, |_| async { Err::<(), _>("x") });
        let child = child.restart(Restart::Temporary);
        running.handle().start(child).unwrap();
        pass(Duration::from_millis(20)).await;
    }
    assert_eq!(running.handle().tree().len(), 1);
    let series = series(&running, "ron_kernel_crashes_total");
    let dynamic = |(service, _): &&(String, u64)| service.starts_with("dynamic");
    assert_eq!(series.iter().filter(dynamic).count(), 0, "{series:?}");
    let total: u64 = series.iter().map(|(_, count)| count).sum();
    assert_eq!(total, CHILDREN, "{series:?}");
    running.shutdown().await;
}
