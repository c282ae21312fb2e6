//! What a failure is reported as: never empty, with its causes, whatever was thrown.

use ron_kernel::supervisor::{Backoff, Child, Exhausted, Exit, Intensity, Restart};
use ron_kernel::{Kernel, KernelEvent, Running, KERNEL_TOPIC};
use std::fmt;
use std::time::Duration;

/// Builds a kernel with the one child, lets it fail once for good, and returns the kernel.
async fn failed(child: Child) -> (Running, Vec<String>) {
    let once = Intensity::new(0, Duration::from_secs(1)).unwrap();
    let child = child.intensity(once).on_exhausted(Exhausted::Hold);
    let bystander = Child::task("bystander", |cx| async move { cx.stopping().await });
    let kernel = Kernel::builder().seed(1).child(child).child(bystander);
    let running = kernel.build().unwrap().start().await.unwrap();
    let topic = running
        .handle()
        .bus()
        .topic::<KernelEvent>(KERNEL_TOPIC)
        .unwrap();
    let mut events = topic.subscribe().unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut reasons = Vec::new();
    while let Ok(Some(delivery)) = events.try_recv() {
        if let KernelEvent::ServiceCrashed { service, reason } = delivery.event {
            assert_eq!(service, "c");
            reasons.push(reason);
        }
    }
    assert_eq!(
        running.handle().tree()[1].generation,
        1,
        "harms nobody else"
    );
    assert_eq!(running.handle().tree()[1].state, "ready");
    (running, reasons)
}

/// A body that runs `act` in its first poll.
async fn unit(act: fn()) {
    act();
}

async fn reason_of(child: Child) -> (String, Exit) {
    let (running, reasons) = failed(child).await;
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    let node = running.handle().tree()[0].clone();
    assert_eq!(node.state, "quarantined");
    let exit = running.handle().explain("c").unwrap().last_exit.unwrap();
    assert_eq!(exit.to_string(), reasons[0], "one text everywhere");
    assert!(node.cause.unwrap().contains(&reasons[0]));
    let report = running.shutdown().await;
    assert!(report.is_balanced(), "{report:?}");
    (reasons[0].clone(), exit)
}

#[derive(Debug)]
struct Layer(&'static str, Option<Box<Layer>>);

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Layer {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.1.as_deref().map(|layer| layer as _)
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_is_told_with_all_its_sources() {
    let child = Child::task("c", |_| async {
        let disk = Layer("no space left", None);
        let log = Layer("writing the journal", Some(Box::new(disk)));
        Err::<(), _>(Layer("commit failed", Some(Box::new(log))))
    });
    let (reason, exit) = reason_of(child).await;
    assert_eq!(reason, "commit failed: writing the journal: no space left");
    assert_eq!(exit, Exit::Failed(reason));
}

#[tokio::test(start_paused = true)]
async fn an_empty_error_or_panic_has_a_reason_all_the_same() {
    for child in [
        Child::task("c", |_| async { Err::<(), _>("") }),
        Child::task("c", |_| async { Err::<(), _>(Layer("", None)) }),
        Child::task("c", |_| unit(|| panic!(""))),
        Child::task("c", |_| unit(|| std::panic::panic_any(String::new()))),
    ] {
        let (reason, _) = reason_of(child).await;
        assert!(!reason.trim().is_empty(), "{reason:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_told_with_its_text_whatever_its_type() {
    let (reason, exit) = reason_of(Child::task("c", |_| unit(|| panic!("static text")))).await;
    assert_eq!(reason, "panicked: static text");
    assert_eq!(
        exit,
        Exit::Panicked {
            text: "static text".into(),
            location: None
        }
    );

    let (reason, _) = reason_of(Child::task("c", |_| unit(|| panic!("code {}", 7)))).await;
    assert_eq!(reason, "panicked: code 7");

    let (reason, exit) =
        reason_of(Child::task("c", |_| unit(|| std::panic::panic_any(7_u64)))).await;
    assert!(reason.len() > "panicked: ".len(), "{reason:?}");
    assert_eq!(exit.kind(), "panicked");
}

/// A payload whose own destructor panics.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("payload went off");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_payload_that_panics_when_dropped_is_a_crash_like_any_other() {
    let (_, exit) = reason_of(Child::task("c", |_| unit(|| std::panic::panic_any(Bomb)))).await;
    assert_eq!(exit.kind(), "panicked");
}

#[tokio::test(start_paused = true)]
async fn a_closure_that_panics_before_there_is_a_future_is_a_crash_like_any_other() {
    fn body(_: ron_kernel::supervisor::ChildContext) -> std::future::Ready<()> {
        panic!("in the closure")
    }
    let (reason, _) = reason_of(Child::task("c", body)).await;
    assert_eq!(reason, "panicked: in the closure");
}

struct Trap;

impl Drop for Trap {
    fn drop(&mut self) {
        panic!("in the destructor");
    }
}

#[tokio::test(start_paused = true)]
async fn a_destructor_that_panics_while_an_incarnation_is_aborted_harms_nobody() {
    let child = Child::task("c", |_| async {
        let _trap = Trap;
        std::future::pending::<()>().await;
    })
    .stop_timeout(Duration::from_millis(100));
    let (running, reasons) = failed(child).await;
    assert_eq!(reasons, Vec::<String>::new());
    let stopped = tokio::time::timeout(Duration::from_secs(30), running.handle().stop("c")).await;
    stopped.expect("the stop ends").unwrap();
    assert_eq!(running.handle().tree()[1].state, "ready");
    running.handle().restart("c").unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(running.handle().tree()[0].generation, 2);
    let report = running.shutdown().await;
    assert!(report.is_balanced(), "{report:?}");
    assert_eq!((report.started, report.leaked), (2, 0), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn a_destructor_that_panics_at_the_end_of_an_incarnation_is_a_crash() {
    let child = Child::task("c", |_| async {
        let _trap = Trap;
        tokio::task::yield_now().await;
    });
    let (reason, _) = reason_of(child).await;
    assert_eq!(reason, "panicked: in the destructor");
}

/// A future that panics in its own destructor after it has returned.
struct Late;

impl std::future::Future for Late {
    type Output = ();
    fn poll(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        std::task::Poll::Ready(())
    }
}

impl Drop for Late {
    fn drop(&mut self) {
        panic!("after the end");
    }
}

#[tokio::test(start_paused = true)]
async fn a_future_that_panics_when_dropped_after_its_end_harms_nobody() {
    let (running, _) = failed(Child::task("c", |_| Late)).await;
    let report = tokio::time::timeout(Duration::from_secs(30), running.shutdown()).await;
    let report = report.expect("the shutdown ends");
    assert!(report.is_balanced() && report.started == 2, "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn a_permanent_child_that_returns_ok_has_failed_and_a_transient_one_is_done() {
    let (reason, exit) =
        reason_of(Child::task("c", |_| async {}).restart(Restart::Permanent)).await;
    assert!(!reason.is_empty());
    assert_eq!(exit, Exit::Done);

    let (running, reasons) = failed(Child::task("c", |_| async {})).await;
    assert_eq!(reasons, Vec::<String>::new());
    assert_eq!(running.handle().tree()[0].state, "done");
    assert!(running.handle().health().snapshot().ready());
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_failing_temporary_child_is_told_and_not_restarted() {
    let child = Child::task("c", |_| async { Err::<(), _>("once") })
        .restart(Restart::Temporary)
        .backoff(Backoff::NONE);
    let kernel = Kernel::builder().child(child).build().unwrap();
    let running = kernel.start().await.unwrap();
    let topic = running
        .handle()
        .bus()
        .topic::<KernelEvent>(KERNEL_TOPIC)
        .unwrap();
    let mut events = topic.subscribe().unwrap();
    tokio::time::sleep(Duration::from_secs(600)).await;
    let mut crashes = 0;
    while let Ok(Some(delivery)) = events.try_recv() {
        crashes += u32::from(matches!(delivery.event, KernelEvent::ServiceCrashed { .. }));
    }
    assert_eq!(crashes, 1);
    let report = running.shutdown().await;
    assert_eq!((report.started, report.stopped), (1, 1), "{report:?}");
}
