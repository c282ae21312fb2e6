//! What a process uses and loses is in the metrics; a fault is a signal to it.

use crate::rig::{fragile, node, sh, start, tireless, until, until_node, until_state};
use ron_kernel::process::Ready;
use ron_kernel::supervisor::{Child, Exit};
use ron_kernel::{Config, Fault, Kernel, KernelHandle, Running};
use std::time::Duration;

/// The value of a series of `child`; `None` where there is none.
fn value(handle: &KernelHandle, family: &str, child: &str) -> Option<f64> {
    let text = handle
        .metrics()
        .render(ron_kernel::metrics::Format::Prometheus);
    let start = format!("{family}{{service=\"{child}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&start))?;
    Some(line.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_memory_and_descriptors_of_a_process_are_its_childs() {
    let script = "exec 7</dev/null 8</dev/null; while :; do :; done";
    let running = start([
        Child::process("busy", sh(script)),
        Child::process("idle", sh("exec sleep 1000")),
    ])
    .await;
    let handle = running.handle().clone();
    until_state(&handle, "idle", "ready").await;
    until("half a second of processor time", || {
        let seconds = value(&handle, "ron_kernel_process_cpu_seconds_total", "busy")?;
        (seconds >= 0.5).then_some(())
    })
    .await;
    let of = |family: &str, child: &str| value(&handle, family, child).unwrap();
    assert!(of("ron_kernel_process_cpu_seconds_total", "idle") < 0.2);
    assert_eq!(of("ron_kernel_process_open_fds", "idle"), 3.0);
    assert!(of("ron_kernel_process_open_fds", "busy") >= 5.0);
    assert!(of("ron_kernel_process_resident_memory_bytes", "idle") > 100_000.0);
    handle.stop("busy").await.unwrap();
    until("no series of what does not run", || {
        let gone = value(&handle, "ron_kernel_process_open_fds", "busy").is_none();
        gone.then_some(())
    })
    .await;
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_that_are_dropped_are_counted_while_the_flood_lasts() {
    let running = start([Child::process("loud", sh("exec yes"))]).await;
    let handle = running.handle().clone();
    until("dropped lines", || {
        let family = "ron_kernel_process_output_dropped_total";
        (value(&handle, family, "loud")? > 10_000.0).then_some(())
    })
    .await;
    assert_eq!(node(&handle, "loud").unwrap().state, "ready");
    running.shutdown().await;
}

async fn armed(child: Child) -> Running {
    let mut config = Config::default();
    config.chaos.armed = true;
    let kernel = Kernel::builder().config(config).child(child);
    let running = kernel.build().unwrap().start().await.unwrap();
    running.handle().ready().await;
    running
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_is_a_signal_to_the_process() {
    for (fault, signal) in [(Fault::Panic, 6), (Fault::Exit, 9)] {
        let running = armed(tireless(Child::process("victim", sh("exec sleep 1000")))).await;
        let handle = running.handle().clone();
        handle.inject("victim", fault).unwrap();
        until_node(&handle, "victim", "another incarnation", |node| {
            node.generation == 2 && node.state == "ready"
        })
        .await;
        let exit = handle.explain("victim").unwrap().last_exit;
        assert_eq!(exit, Some(Exit::Killed(signal)));
        running.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hang_stops_the_process_and_a_stop_still_ends_it() {
    let running = armed(Child::process("victim", sh("exec sleep 1000"))).await;
    let handle = running.handle().clone();
    let pid = node(&handle, "victim").unwrap().pid.unwrap();
    handle.inject("victim", Fault::Hang).unwrap();
    until("it is stopped", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.contains(") T ").then_some(())
    })
    .await;
    let refused = handle.inject("victim", Fault::Block).unwrap_err();
    assert!(refused.to_string().contains("SIGSTOP"), "{refused}");
    let report = running.shutdown().await;
    assert_eq!((report.stopped, report.aborted), (1, 0), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watchdog_is_heard_whatever_makes_the_process_ready() {
    let script =
        "[ -S \"$NOTIFY_SOCKET\" ] && [ \"$WATCHDOG_USEC\" = 300000 ] || exit 9; exec sleep 1000";
    let child = Child::process("silent", sh(script).ready(Ready::Started));
    let child = fragile(child.watchdog(Duration::from_millis(300)));
    let running = start([child]).await;
    let handle = running.handle().clone();
    until_state(&handle, "silent", "quarantined").await;
    let explained = handle.explain("silent").unwrap();
    let exit = explained.last_exit.unwrap().to_string();
    assert_eq!(exit, "no heartbeat for 300ms");
    running.shutdown().await;
}
