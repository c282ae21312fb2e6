//! When the restart budget of a child of the root is spent: half-open, hold, escalate, shutdown, giving
//! up after a while, and children that may stay down.

use ron_kernel::supervisor::{Backoff, Child, Exhausted, Intensity};
use ron_kernel::{Config, Kernel, KernelBuilder, ShutdownReport};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// Fails at once in every incarnation and notes when it started.
fn sick(name: &str, starts: &Arc<Mutex<Vec<Instant>>>) -> Child {
    let starts = starts.clone();
    Child::task(name, move |_| {
        starts.lock().unwrap().push(Instant::now());
        async { Err::<(), _>("no disk") }
    })
    .backoff(Backoff::NONE)
    .intensity(Intensity::new(2, Duration::from_secs(60)).unwrap())
}

fn idle(name: &str) -> Child {
    Child::task(name, |cx| async move { cx.stopping().await })
}

async fn ends_by_itself(builder: KernelBuilder) -> ShutdownReport {
    let kernel = builder.seed(1).build().unwrap();
    let run = kernel.run_until(std::future::pending::<()>());
    tokio::time::timeout(Duration::from_secs(3600), run)
        .await
        .expect("ends by itself")
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn trials_come_after_30_s_and_then_twice_as_late_up_to_5_min() {
    let starts = Arc::new(Mutex::new(Vec::new()));
    let kernel = Kernel::builder()
        .seed(1)
        .child(sick("sick", &starts))
        .build()
        .unwrap();
    let running = kernel.start().await.unwrap();
    tokio::time::sleep(Duration::from_secs(30 + 60 + 120 + 240 + 300 + 300 + 10)).await;
    let starts = starts.lock().unwrap().clone();
    let gaps: Vec<u64> = starts
        .windows(2)
        .map(|pair| (pair[1] - pair[0]).as_secs_f64().round() as u64)
        .collect();
    assert_eq!(gaps, [0, 0, 30, 60, 120, 240, 300, 300]);
    let report = running.shutdown().await;
    assert_eq!(
        (report.started, report.quarantined, report.stopped),
        (1, 1, 0)
    );
    assert!(report.is_balanced() && report.failure.is_none());
}

#[tokio::test(start_paused = true)]
async fn hold_waits_for_a_human() {
    let starts = Arc::new(Mutex::new(Vec::new()));
    let child = sick("sick", &starts).on_exhausted(Exhausted::Hold);
    let running = Kernel::builder()
        .seed(1)
        .child(child)
        .build()
        .unwrap()
        .start()
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
    assert_eq!(starts.lock().unwrap().len(), 3);
    let node = &running.handle().tree()[0];
    assert_eq!((node.state, node.retry_at), ("quarantined", None));
    // A release is one trial, not a new budget.
    running.handle().release("sick").unwrap();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(starts.lock().unwrap().len(), 4);
    assert_eq!(running.handle().tree()[0].state, "quarantined");
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn shutdown_and_escalate_end_the_kernel_with_the_failure_named() {
    for policy in [Exhausted::Shutdown, Exhausted::Escalate] {
        let starts = Arc::new(Mutex::new(Vec::new()));
        let child = sick("sick", &starts).on_exhausted(policy);
        let report = ends_by_itself(Kernel::builder().child(child).child(idle("well"))).await;
        assert_eq!(starts.lock().unwrap().len(), 3, "the whole budget was used");
        let failure = report.failure.clone().expect("failure is set");
        assert!(
            failure.contains("sick") && failure.contains("no disk"),
            "{failure}"
        );
        assert!(report.is_balanced(), "{report:?}");
        assert_eq!(report.started, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn an_intensity_of_zero_lets_the_first_failure_exhaust_the_budget() {
    let starts = Arc::new(Mutex::new(Vec::new()));
    let never = Intensity::new(0, Duration::from_secs(1)).unwrap();
    let child = sick("sick", &starts)
        .intensity(never)
        .on_exhausted(Exhausted::Shutdown);
    let report = ends_by_itself(Kernel::builder().child(child)).await;
    assert!(report.failure.is_some());
    assert_eq!(starts.lock().unwrap().len(), 1);
}

fn giving_up(after: Duration) -> Config {
    let mut config = Config::default();
    config.supervisor.give_up_after = Some(after);
    config
}

#[tokio::test(start_paused = true)]
async fn give_up_after_ends_the_kernel_when_a_required_child_stays_quarantined() {
    let starts = Arc::new(Mutex::new(Vec::new()));
    let child = sick("sick", &starts).on_exhausted(Exhausted::Hold);
    let begun = Instant::now();
    let config = giving_up(Duration::from_secs(90));
    let report = ends_by_itself(Kernel::builder().config(config).child(child)).await;
    let took = begun.elapsed().as_secs_f64();
    assert!((89.0..92.0).contains(&took), "{took}");
    let failure = report.failure.clone().expect("failure is set");
    assert!(failure.contains("sick"), "{failure}");
    assert!(report.is_balanced());
}

#[tokio::test(start_paused = true)]
async fn failed_trials_do_not_postpone_giving_up() {
    let starts = Arc::new(Mutex::new(Vec::new()));
    let begun = Instant::now();
    let config = giving_up(Duration::from_secs(100));
    let report = ends_by_itself(
        Kernel::builder()
            .config(config)
            .child(sick("sick", &starts)),
    )
    .await;
    let took = begun.elapsed().as_secs_f64();
    assert!(report.failure.is_some());
    assert!(
        (99.0..102.0).contains(&took),
        "two trials lie inside the 100 s; took {took}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_optional_child_may_stay_down_for_ever() {
    let starts = Arc::new(Mutex::new(Vec::new()));
    let child = sick("extra", &starts)
        .on_exhausted(Exhausted::Hold)
        .optional();
    let config = giving_up(Duration::from_secs(60));
    let after = idle("web").after("extra");
    let kernel = Kernel::builder()
        .seed(1)
        .config(config)
        .child(child)
        .child(after);
    let running = kernel.build().unwrap().start().await.unwrap();
    tokio::time::timeout(Duration::from_secs(1), running.handle().ready())
        .await
        .expect("ready without its optional child");
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let tree = running.handle().tree();
    assert_eq!((tree[0].state, tree[1].state), ("quarantined", "ready"));
    let health = running.handle().health().snapshot();
    assert!(health.ready() && health.degraded(), "{health:?}");
    let report = running.shutdown().await;
    assert!(report.failure.is_none() && report.is_balanced());
}

#[tokio::test(start_paused = true)]
async fn an_optional_child_that_is_slow_to_be_ready_holds_back_nothing_once_it_failed() {
    let hanging = Child::task("extra", |_| std::future::pending::<()>())
        .gated(Duration::from_secs(1))
        .intensity(Intensity::new(0, Duration::from_secs(60)).unwrap())
        .optional();
    let kernel = Kernel::builder()
        .seed(1)
        .child(hanging)
        .child(idle("web").after("extra"));
    let running = kernel.build().unwrap().start().await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(running.handle().tree()[1].state, "ready");
    running.shutdown().await;
}
