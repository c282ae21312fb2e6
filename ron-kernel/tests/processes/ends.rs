use crate::rig::{alive, sh, start, until, until_state};
use ron_kernel::supervisor::{Child, Exit, Restart};
use std::time::Duration;

#[tokio::test]
async fn a_process_runs_is_shown_with_its_pid_and_stops_when_asked() {
    let running = start([Child::process("sleeper", sh("exec sleep 1000"))]).await;
    let handle = running.handle().clone();
    let node = until_state(&handle, "sleeper", "ready").await;
    let pid = node.pid.unwrap();
    assert!(alive(pid));
    let report = running.shutdown().await;
    assert_eq!((report.started, report.stopped), (1, 1), "{report:?}");
    assert!(!alive(pid));
}

#[tokio::test]
async fn how_a_process_ended_is_told() {
    let once = |name: &str, script: &str| {
        Child::process(name, sh(script))
            .restart(Restart::Temporary)
            .optional()
    };
    let running = start([
        once("done", "exit 0"),
        once("three", "echo why >&2; exit 3"),
        once("killed", "kill -9 $$"),
        once("missing", "exec /no/such/program"),
    ])
    .await;
    let handle = running.handle().clone();
    let last = |id: &'static str| {
        let handle = handle.clone();
        async move { until(id, move || handle.explain(id).unwrap().last_exit).await }
    };
    assert_eq!(last("done").await, Exit::Done);
    assert_eq!(last("three").await, Exit::Exited(3));
    assert_eq!(last("killed").await, Exit::Killed(9));
    assert_eq!(last("missing").await, Exit::Exited(127));
    running.shutdown().await;
}

#[tokio::test]
async fn one_that_ignores_the_stop_is_killed_at_its_timeout() {
    let stubborn = sh("trap '' TERM; echo on; while :; do sleep 1; done");
    let child = Child::process("stubborn", stubborn).stop_timeout(Duration::from_millis(300));
    let running = start([child]).await;
    let handle = running.handle().clone();
    let pid = until_state(&handle, "stubborn", "ready").await.pid.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let begun = std::time::Instant::now();
    let report = running.shutdown().await;
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!((report.started, report.aborted), (1, 1), "{report:?}");
    assert!(!alive(pid));
}
