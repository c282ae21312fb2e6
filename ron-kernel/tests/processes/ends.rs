//! How processes end, and how each end is told.

use crate::rig::{
    alive, fragile, log, node, quarantined, sh, signal, start, until, until_state, Desk,
};
use ron_kernel::process::Command;
use ron_kernel::supervisor::{Child, Exit, Restart};
use rustix::process::Signal;
use std::time::Duration;

#[tokio::test]
async fn a_process_runs_is_shown_with_its_pid_and_stops_when_asked() {
    let running = start([Child::process("sleeper", sh("exec sleep 1000"))]).await;
    let handle = running.handle().clone();
    let node = until_state(&handle, "sleeper", "ready").await;
    let pid = node.pid.unwrap();
    assert!(alive(pid));
    assert_eq!(node.kind.name(), "process");
    let report = running.shutdown().await;
    assert_eq!((report.started, report.stopped), (1, 1), "{report:?}");
    assert!(!alive(pid));
}

#[tokio::test]
async fn how_a_process_ended_is_told() {
    let table = [
        ("done", "exit 0", Exit::Exited(0), ""),
        (
            "three",
            "echo why >&2; exit 3",
            Exit::Exited(3),
            "exited with code 3",
        ),
        (
            "highest",
            "exit 255",
            Exit::Exited(255),
            "exited with code 255",
        ),
        (
            "not-there",
            "exec /no/such/program",
            Exit::Exited(127),
            "exited with code 127",
        ),
        (
            "killed",
            "kill -KILL $$",
            Exit::Killed(9),
            "killed by signal 9 (SIGKILL)",
        ),
        (
            "asked",
            "kill -TERM $$",
            Exit::Killed(15),
            "killed by signal 15 (SIGTERM)",
        ),
        (
            "broken",
            "kill -SEGV $$",
            Exit::Killed(11),
            "killed by signal 11 (SIGSEGV)",
        ),
        (
            "aborted",
            "kill -ABRT $$",
            Exit::Killed(6),
            "killed by signal 6 (SIGABRT)",
        ),
        (
            "piped",
            "kill -PIPE $$",
            Exit::Killed(13),
            "killed by signal 13 (SIGPIPE)",
        ),
    ];
    let children = table
        .iter()
        .map(|(name, script, _, _)| fragile(Child::process(*name, sh(script))).optional());
    let running = start(children).await;
    let handle = running.handle().clone();
    for (name, _, exit, wanted) in table {
        if exit == Exit::Exited(0) {
            let node = until_state(&handle, name, "done").await;
            assert_eq!((node.pid, node.cause), (None, None));
        } else {
            let words = quarantined(&handle, name).await;
            assert!(words.contains(wanted), "{words}");
        }
        assert_eq!(
            handle.explain(name).unwrap().last_exit,
            Some(exit),
            "{name}"
        );
    }
    running.shutdown().await;
}

#[tokio::test]
async fn a_permanent_process_that_returns_has_failed() {
    let child = Child::process("returns", sh("exit 0")).restart(Restart::Permanent);
    let running = start([fragile(child)]).await;
    let words = quarantined(running.handle(), "returns").await;
    assert!(words.contains("although it is Permanent"), "{words}");
    running.shutdown().await;
}

#[tokio::test]
async fn one_that_ignores_the_stop_is_killed_at_its_timeout() {
    let desk = Desk::new();
    let script = "trap '' TERM; touch $DESK/up; while :; do sleep 1; done";
    let child =
        Child::process("stubborn", desk.sh(script)).stop_timeout(Duration::from_millis(300));
    let running = start([child]).await;
    let handle = running.handle().clone();
    let pid = until_state(&handle, "stubborn", "ready").await.pid.unwrap();
    until("it ignores the signal", || desk.exists("up").then_some(())).await;
    let begun = std::time::Instant::now();
    let report = running.shutdown().await;
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!((report.started, report.aborted), (1, 1), "{report:?}");
    assert_eq!(report.stragglers, ["stubborn"]);
    assert!(!alive(pid));
}

#[tokio::test]
async fn one_that_is_frozen_is_killed_at_its_timeout() {
    let desk = Desk::new();
    let script =
        "trap '' TERM; trap 'kill -STOP $$' CONT; touch $DESK/up; while :; do sleep 0.02; done";
    let child = Child::process("frozen", desk.sh(script)).stop_timeout(Duration::from_millis(300));
    let running = start([child]).await;
    let handle = running.handle().clone();
    let pid = until_state(&handle, "frozen", "ready").await.pid.unwrap();
    until("it has its traps", || desk.exists("up").then_some(())).await;
    signal(pid, Signal::STOP);
    until("it is stopped", || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        status.contains("State:\tT").then_some(())
    })
    .await;
    handle.stop("frozen").await.unwrap();
    assert!(!alive(pid));
    running.shutdown().await;
}

#[tokio::test]
async fn what_cannot_be_executed_says_what_and_why() {
    let desk = Desk::new();
    let file = |name: &str, text: &[u8], mode| desk.write(name, text, mode);
    let long = Command::new("/bin/true").args((0..30_000).map(|n| format!("{n:0200}")));
    let no_dir = desk.file("no-such-directory");
    let table = [
        (
            "missing",
            Command::new("/no/such/program"),
            "/no/such/program",
            "No such file",
        ),
        (
            "not-executable",
            Command::new(file("not-executable", b"#!/bin/sh\n", 0o644)),
            "not-executable",
            "denied",
        ),
        (
            "directory",
            Command::new(desk.path()),
            desk.path().to_str().unwrap(),
            "denied",
        ),
        (
            "no-interpreter",
            Command::new(file("no-interpreter", b"#!/no/such/sh\n", 0o755)),
            "no-interpreter",
            "No such file",
        ),
        (
            "empty",
            Command::new(file("empty", b"", 0o755)),
            "empty",
            "format",
        ),
        (
            "no-shebang",
            Command::new(file("no-shebang", b"exit 0\n", 0o755)),
            "no-shebang",
            "format",
        ),
        (
            "not-a-program",
            Command::new(file("not-a-program", b"\x7fELF\0\0\0\0", 0o755)),
            "not-a-program",
            "format",
        ),
        (
            "part-of-a-file",
            Command::new(file("file", b"", 0o644).join("x")),
            "file/x",
            "ot a directory",
        ),
        (
            "nowhere",
            sh("exit 0").current_dir(&no_dir),
            no_dir.to_str().unwrap(),
            "No such file",
        ),
        ("too-long", long, "/bin/true", "too long"),
        (
            "in-no-path",
            Command::new("no-such-program-anywhere"),
            "no-such-program-anywhere",
            "PATH",
        ),
        ("nameless", Command::new(""), "", ""),
        ("nul", sh("exit 0").arg("a\0b"), "/bin/sh", "NUL"),
    ];
    let children = table
        .clone()
        .map(|(name, command, _, _)| fragile(Child::process(name, command)).optional());
    let running = start(children).await;
    let handle = running.handle().clone();
    for (name, _, what, why) in table {
        let words = quarantined(&handle, name).await;
        assert!(
            words.contains(what) && words.contains(why),
            "{name}: {words}"
        );
        // A program that ends with 127 of its own is another matter.
        let exit = handle.explain(name).unwrap().last_exit.unwrap();
        assert!(matches!(exit, Exit::Failed(_)), "{name}: {exit:?}");
        let told = log().lines(|line| line.child == name && line.event == "service_crashed");
        assert!(told[0].all.contains(why), "{told:?}");
    }
    running.shutdown().await;
}

#[tokio::test]
async fn a_temporary_process_is_not_started_again() {
    let desk = Desk::new();
    let child =
        Child::process("once", desk.sh("echo x >> $DESK/runs; exit 3")).restart(Restart::Temporary);
    let running = start([child.optional()]).await;
    let handle = running.handle().clone();
    let exit = until("its end", || handle.explain("once").unwrap().last_exit).await;
    assert_eq!(exit, Exit::Exited(3));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let node = node(&handle, "once").unwrap();
    assert_eq!((node.generation, node.pid), (1, None));
    assert_eq!(desk.lines("runs").len(), 1);
    running.shutdown().await;
}
