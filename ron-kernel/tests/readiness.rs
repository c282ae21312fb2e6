//! What the state of each child means for the readiness of the service, and which Health events say so.

use ron_kernel::bus::{Start, Subscriber};
use ron_kernel::metrics::{Snapshot, State};
use ron_kernel::supervisor::{Backoff, Child, Exhausted, Group, Intensity};
use ron_kernel::{Kernel, KernelEvent, Running, KERNEL_TOPIC};
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

fn idle(name: &str) -> Child {
    Child::task(name, |cx| async move { cx.stopping().await })
}

/// Runs, and fails in its first `failures` incarnations after 10 ms.
fn failing(name: &str, failures: u64) -> Child {
    Child::task(name, move |cx| async move {
        if cx.generation() <= failures {
            tokio::time::sleep(Duration::from_millis(10)).await;
            return Err("no disk");
        }
        cx.stopping().await;
        Ok(())
    })
}

async fn start(children: impl IntoIterator<Item = Child>) -> Running {
    let kernel = children
        .into_iter()
        .fold(Kernel::builder().seed(1), |kernel, child| {
            kernel.child(child)
        });
    kernel.build().unwrap().start().await.unwrap()
}

async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

fn look(running: &Running) -> Snapshot {
    running.handle().health().snapshot()
}

fn cause(snapshot: &Snapshot, key: &str) -> String {
    let found = snapshot.causes().find(|cause| cause.key == key);
    found
        .unwrap_or_else(|| panic!("no {key} in {snapshot:?}"))
        .reason
        .clone()
}

fn events(running: &Running) -> Subscriber<KernelEvent> {
    let topic = running
        .handle()
        .bus()
        .topic::<KernelEvent>(KERNEL_TOPIC)
        .unwrap();
    topic
        .subscriber()
        .start(Start::Retained(4096))
        .build()
        .unwrap()
}

/// The Health events of one service since the last call.
fn health_events(events: &mut Subscriber<KernelEvent>, of: &str) -> Vec<bool> {
    let mut found = Vec::new();
    while let Ok(Some(delivery)) = events.try_recv() {
        if let KernelEvent::Health { service, ok } = delivery.event {
            if service == of {
                found.push(ok);
            }
        }
    }
    found
}

#[tokio::test(start_paused = true)]
async fn what_has_not_been_ready_yet_is_missing_by_name() {
    let slow = Child::task("slow", |cx| async move {
        pass(Duration::from_secs(3)).await;
        cx.ready();
        cx.stopping().await;
    });
    let running = start([slow.gated(HOUR), idle("web").after("slow"), idle("free")]).await;
    pass(Duration::from_secs(1)).await;
    let snapshot = look(&running);
    assert_eq!(snapshot.state(), State::NotReady);
    assert_eq!(
        snapshot.missing().collect::<Vec<_>>(),
        ["child:slow", "child:web"]
    );
    assert_eq!(running.handle().health().response().status, 503);
    pass(Duration::from_secs(3)).await;
    let snapshot = look(&running);
    assert_eq!(
        (snapshot.state(), snapshot.missing().count()),
        (State::Ready, 0)
    );
    assert_eq!(running.handle().health().response().status, 200);
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_kernel_without_children_is_ready_once_it_has_started() {
    let kernel = Kernel::builder().build().unwrap();
    let running = kernel.start().await.unwrap();
    assert_eq!(look(&running).state(), State::Ready);
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_backoff_degrades_and_a_storm_is_not_ready() {
    let long = Backoff::new(Duration::from_secs(10), Duration::from_secs(10)).unwrap();
    let running = start([failing("c", 3).backoff(long), idle("web")]).await;
    pass(Duration::from_secs(5)).await;
    let snapshot = look(&running);
    assert_eq!(
        (snapshot.state(), snapshot.ready(), snapshot.degraded()),
        (State::Degraded, true, true)
    );
    assert!(cause(&snapshot, "child:c").contains("no disk"));
    // The third restart inside the window: more than half of the budget of five is gone.
    pass(Duration::from_secs(10)).await;
    assert!(look(&running).ready(), "the second");
    pass(Duration::from_secs(25)).await;
    let snapshot = look(&running);
    assert_eq!(running.handle().tree()[0].restarts, 3);
    assert!(snapshot.ready(), "it runs by now: {snapshot:?}");
    running.shutdown().await;

    let running = start([failing("c", 9).backoff(long)]).await;
    pass(Duration::from_secs(35)).await;
    let snapshot = look(&running);
    assert_eq!(running.handle().tree()[0].state, "backoff");
    assert!(!snapshot.ready(), "{snapshot:?}");
    assert!(cause(&snapshot, "child:c").contains("storm"));
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_quarantine_is_not_ready_for_a_required_child_and_degraded_for_an_optional_one() {
    let never = Intensity::new(0, Duration::from_secs(1)).unwrap();
    for optional in [false, true] {
        let sick = failing("sick", 99)
            .intensity(never)
            .on_exhausted(Exhausted::Hold);
        let sick = if optional { sick.optional() } else { sick };
        let running = start([sick, idle("web")]).await;
        pass(Duration::from_secs(10)).await;
        let snapshot = look(&running);
        assert_eq!(snapshot.ready(), optional, "{snapshot:?}");
        assert_eq!(snapshot.degraded(), optional, "{snapshot:?}");
        let reason = cause(&snapshot, "child:sick");
        assert!(
            reason.contains("quarantined") && reason.contains("no disk"),
            "{reason}"
        );
        running.shutdown().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_child_that_calls_itself_unhealthy_makes_the_service_not_ready_with_its_words() {
    let child = Child::task("db", |cx| async move {
        pass(Duration::from_secs(1)).await;
        for _ in 0..10 {
            cx.health(false, "replica lost");
            pass(Duration::from_secs(1)).await;
        }
        cx.health(true, "");
        cx.stopping().await;
    });
    let running = start([child]).await;
    let mut events = events(&running);
    pass(Duration::from_millis(1_500)).await;
    assert!(
        look(&running).ready(),
        "a trouble of half a second does not count yet"
    );
    pass(Duration::from_millis(1_500)).await;
    let snapshot = look(&running);
    assert_eq!(snapshot.state(), State::NotReady);
    assert!(
        cause(&snapshot, "child:db").contains("replica lost"),
        "{snapshot:?}"
    );
    assert_eq!(
        running.handle().tree()[0].cause.as_deref(),
        Some("replica lost")
    );
    assert_eq!(
        running.handle().tree()[0].state,
        "ready",
        "it runs; it is not well"
    );
    assert_eq!(
        health_events(&mut events, "db"),
        [true, false],
        "ten times said, told once"
    );
    pass(Duration::from_secs(20)).await;
    assert_eq!(look(&running).state(), State::Ready);
    assert_eq!(health_events(&mut events, "db"), [true]);
    assert_eq!(running.handle().tree()[0].cause, None);
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn health_events_come_only_on_change_for_children_and_for_the_service() {
    let kernel = Kernel::builder().name("orders").seed(1);
    let long = Backoff::new(Duration::from_secs(10), Duration::from_secs(10)).unwrap();
    let running = kernel
        .child(idle("web"))
        .child(failing("c", 2).backoff(long));
    let running = running.build().unwrap().start().await.unwrap();
    let mut events = events(&running);
    pass(Duration::from_secs(300)).await;
    let mut by_service: Vec<(String, bool)> = Vec::new();
    while let Ok(Some(delivery)) = events.try_recv() {
        if let KernelEvent::Health { service, ok } = delivery.event {
            by_service.push((service, ok));
        }
    }
    let of = |name: &str| -> Vec<bool> {
        by_service
            .iter()
            .filter(|(service, _)| service == name)
            .map(|(_, ok)| *ok)
            .collect()
    };
    assert_eq!(of("web"), [true]);
    assert_eq!(of("c"), [true, false, true, false, true]);
    // Degraded is ready: the service as a whole never was unhealthy.
    assert_eq!(of("orders"), [true]);
    assert_eq!(by_service.len(), 7, "and nobody else: {by_service:?}");
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn the_service_as_a_whole_is_told_to_be_unhealthy_and_healthy_again() {
    let never = Intensity::new(0, Duration::from_secs(1)).unwrap();
    let running = start([failing("c", 1).intensity(never)]).await;
    let mut events = events(&running);
    pass(Duration::from_secs(20)).await;
    assert_eq!(health_events(&mut events, "ron-kernel"), [true, false]);
    // The trial after 30 s brings it back.
    pass(Duration::from_secs(40)).await;
    assert_eq!(health_events(&mut events, "ron-kernel"), [true]);
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_failing_group_is_a_cause_under_its_own_name() {
    let never = Intensity::new(0, Duration::from_secs(60)).unwrap();
    let group = Group::new("g")
        .intensity(never)
        .backoff(Backoff::NONE)
        .on_exhausted(Exhausted::Hold)
        .child(failing("sick", 99))
        .child(idle("mate"));
    let kernel = Kernel::builder().seed(1).group(group).child(idle("web"));
    let running = kernel.build().unwrap().start().await.unwrap();
    pass(Duration::from_secs(60)).await;
    let snapshot = look(&running);
    assert!(!snapshot.ready());
    let reason = cause(&snapshot, "child:g");
    assert!(
        reason.contains("quarantined") && reason.contains("no disk"),
        "{reason}"
    );
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_child_that_is_done_satisfies_readiness() {
    let migrate = Child::task("migrate", |cx| async move {
        pass(Duration::from_secs(2)).await;
        cx.ready();
    });
    let running = start([migrate.gated(HOUR), idle("web").after("migrate")]).await;
    running.handle().ready().await;
    pass(Duration::from_secs(60)).await;
    assert_eq!(running.handle().tree()[0].state, "done");
    assert_eq!(look(&running).state(), State::Ready);
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_child_started_at_run_time_does_not_take_readiness_away_by_starting() {
    let running = start([idle("web")]).await;
    pass(Duration::from_secs(1)).await;
    let slow = Child::task("slow", |cx| async move { cx.stopping().await }).gated(HOUR);
    running.handle().start(slow).unwrap();
    pass(Duration::from_secs(10)).await;
    assert!(look(&running).ready(), "{:?}", look(&running));
    running.shutdown().await;
}
