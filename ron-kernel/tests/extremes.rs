//! Values at the edge of what can be said: the longest durations, the longest chains, the deepest trees.

use ron_kernel::supervisor::{Backoff, Child, ChildContext, Group, Strategy, TreeError};
use ron_kernel::{Config, Kernel, KernelBuilder, KernelError, Running};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(1000);

async fn idle(cx: ChildContext) {
    cx.stopping().await;
}

async fn start(kernel: KernelBuilder) -> Running {
    kernel.seed(1).build().unwrap().start().await.unwrap()
}

fn state(running: &Running, id: &str) -> &'static str {
    running.handle().explain(id).unwrap().state
}

async fn ends(running: Running) {
    let report = tokio::time::timeout(LONG, running.shutdown()).await;
    let report = report.expect("the shutdown ends");
    assert!(report.is_balanced(), "{report:?}");
    assert_eq!((report.started, report.stopped), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_child_may_wait_for_ever_for_its_start() {
    let child = Child::task("a", idle).gated(Duration::MAX);
    let running = start(Kernel::builder().child(child)).await;
    tokio::time::sleep(LONG).await;
    assert_eq!(state(&running, "a"), "starting");
    ends(running).await;
}

#[tokio::test(start_paused = true)]
async fn a_watchdog_may_wait_for_ever() {
    let child = Child::task("a", idle).watchdog(Duration::MAX);
    let running = start(Kernel::builder().child(child)).await;
    tokio::time::sleep(LONG).await;
    assert_eq!(state(&running, "a"), "ready");
    ends(running).await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_may_take_for_ever_and_the_drain_still_ends() {
    let deaf = |_| std::future::pending::<()>();
    let child = Child::task("a", deaf).stop_timeout(Duration::MAX);
    let running = start(Kernel::builder().child(child)).await;
    let handle = running.handle().clone();
    handle.ready().await;
    let stopping = tokio::time::timeout(LONG, handle.stop("a")).await;
    assert!(stopping.is_err(), "{stopping:?}");
    assert_eq!(state(&running, "a"), "stopping");
    let report = tokio::time::timeout(LONG, running.shutdown()).await;
    assert_eq!(report.expect("the shutdown ends").aborted, 1);
}

#[tokio::test(start_paused = true)]
async fn a_backoff_may_last_for_ever() {
    let child = Child::task("a", |_| async { Err::<(), _>("x") })
        .backoff(Backoff::new(Duration::MAX, Duration::MAX).unwrap());
    let running = start(Kernel::builder().child(child)).await;
    tokio::time::sleep(LONG).await;
    assert_eq!(state(&running, "a"), "backoff");
    let node = &running.handle().tree()[0];
    assert!(node.retry_at.is_some(), "{node:?}");
    ends(running).await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_without_a_deadline_ends_when_its_children_do() {
    let mut config = Config::default();
    config.drain.deadline = Duration::MAX;
    let child = Child::task("a", |cx: ChildContext| async move {
        cx.stopping().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    });
    let running = start(Kernel::builder().config(config).child(child)).await;
    running.handle().ready().await;
    ends(running).await;
}

#[tokio::test(start_paused = true)]
async fn a_linger_without_an_end_keeps_serving() {
    let mut config = Config::default();
    config.drain.linger = Duration::MAX;
    let running = start(
        Kernel::builder()
            .config(config)
            .child(Child::task("a", idle)),
    )
    .await;
    running.handle().ready().await;
    running.handle().shutdown();
    let ended = tokio::time::timeout(LONG, running.handle().ended()).await;
    assert!(ended.is_err(), "{ended:?}");
    assert_eq!(state(&running, "a"), "ready");
    assert!(!running.handle().health().snapshot().ready());
}

#[tokio::test(start_paused = true)]
async fn the_root_cause_stands_at_the_end_of_a_chain_of_thousands() {
    const MEMBERS: usize = 5_000;
    // A stack that holds no walk of one call per link.
    const STACK: usize = 128 * 1024;
    let mut group = Group::new("g").strategy(Strategy::RestForOne);
    for member in 0..MEMBERS {
        let child = Child::task(format!("m{member}"), idle);
        group = group.child(if member == 0 {
            child.gated(LONG)
        } else {
            child
        });
    }
    let running = start(Kernel::builder().group(group)).await;
    let handle = running.handle().clone();
    let last = format!("g/m{}", MEMBERS - 1);
    let explaining = thread::Builder::new()
        .stack_size(STACK)
        .spawn(move || handle.explain(&last).unwrap())
        .unwrap();
    let explained = explaining.join().unwrap();
    assert_eq!(explained.state, "waiting");
    let first = &explained.because.first().unwrap().what;
    assert!(
        first.contains("g/m4999 waits for g/m4998"),
        "nearest first: {first}"
    );
    let root = &explained.because.last().unwrap().what;
    assert!(
        root.contains("g/m0 has started and has not called ready()"),
        "{root}"
    );
    assert!(
        explained.because.len() < 100,
        "nobody reads {} links",
        explained.because.len()
    );
    ends(running).await;
}

#[test]
fn a_watchdog_interval_of_zero_is_refused() {
    let child = Child::task("a", idle).watchdog(Duration::ZERO);
    let refused = Kernel::builder().child(child).build().unwrap_err();
    assert!(
        matches!(&refused, KernelError::Tree(TreeError::ZeroWatchdog { child }) if child == "a"),
        "{refused:?}"
    );
    assert_eq!(refused.exit_code(), 2);
}

#[test]
fn groups_nest_32_deep_and_no_deeper() {
    let nest = |groups: usize| {
        let innermost = Group::new("g").child(Child::task("leaf", idle));
        let nested = (1..groups).fold(innermost, |inner, _| Group::new("g").group(inner));
        Kernel::builder().group(nested).build()
    };
    nest(31).unwrap();
    let refused = nest(32).unwrap_err();
    assert!(
        matches!(&refused, KernelError::Tree(TreeError::TooDeep { id, limit: 32 }) if id.ends_with("g/leaf")),
        "{refused:?}"
    );
    // So deep that a recursive look at it must not come first.
    assert!(nest(200).is_err());
}

#[tokio::test]
async fn run_inside_a_runtime_is_an_error_and_starts_nobody() {
    let started = Arc::new(AtomicBool::new(false));
    let seen = started.clone();
    let child = Child::task("a", move |_| {
        seen.store(true, Ordering::SeqCst);
        async {}
    });
    let code = Kernel::builder().child(child).run();
    // `ExitCode` has no equality.
    assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(1)));
    assert!(!started.load(Ordering::SeqCst));
}
