//! Never two processes of one child, whatever restarts, stops and kills; and the pid that is shown.

use crate::rig::{
    alive, fragile, log, node, program, quarantined, sh, signal, start, tireless, until,
    until_node, until_state, Desk, Mark,
};
use ron_kernel::bus::Start;
use ron_kernel::process::{Ready, StopSignal};
use ron_kernel::supervisor::{Child, Exit, Restart};
use ron_kernel::{Change, ChildEvent, KernelHandle, LIFECYCLE_TOPIC};
use rustix::process::Signal;
use std::time::Duration;

/// Notes when it meets another incarnation that still holds the lock, and its pid.
const GUARDED: &str =
    "exec 9> $DESK/lock; flock -n 9 || echo clash >> $DESK/clashes; echo $$ >> $DESK/pids; ";

fn consistent(handle: &KernelHandle, id: &str) {
    let Some(node) = node(handle, id) else {
        return;
    };
    // A live one has none for the moment between its reaping and its end.
    let down = ["waiting", "backoff", "quarantined", "stopped", "done"];
    if down.contains(&node.state) {
        assert_eq!(node.pid, None, "{node:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_one_process_at_a_time_in_a_crash_loop() {
    let desk = Desk::new();
    let table = [
        ("exits", "exit 3"),
        ("kills-itself", "kill -KILL $$"),
        ("lives-a-little", "sleep 0.01; exit 1"),
        ("leaves-others", "sleep 1000 & sleep 1000 & exit 4"),
        ("returns", "exit 0"),
    ];
    let desks: Vec<Desk> = table.iter().map(|_| Desk::new()).collect();
    let children = table.iter().zip(&desks).map(|((name, script), desk)| {
        let command = desk.sh(&format!("{GUARDED}{script}"));
        tireless(Child::process(*name, command)).restart(Restart::Permanent)
    });
    let running = start(children).await;
    let handle = running.handle().clone();
    for ((name, _), desk) in table.iter().zip(&desks) {
        until("sixty incarnations", || {
            consistent(&handle, name);
            (desk.lines("pids").len() > 60).then_some(())
        })
        .await;
    }
    let generations: Vec<u64> = table
        .iter()
        .map(|(name, _)| node(&handle, name).unwrap().generation)
        .collect();
    running.shutdown().await;
    for (((name, _), desk), generation) in table.iter().zip(&desks).zip(generations) {
        assert_eq!(desk.read("clashes"), "", "{name}");
        assert!(
            desk.lines("pids").len() as u64 + 1 >= generation,
            "{name}: one process for each generation"
        );
    }
    drop(desk);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_one_process_at_a_time_whatever_an_operator_does() {
    let desk = Desk::new();
    let mark = Mark::new();
    let script =
        format!("{GUARDED}trap '' TERM; sleep 1000 & wait; wait; while :; do sleep 1; done");
    let command = mark.on(desk.sh(&script));
    let stubborn =
        tireless(Child::process("stubborn", command)).stop_timeout(Duration::from_millis(20));
    let running = start([stubborn]).await;
    let handle = running.handle().clone();
    for round in 0..60_u64 {
        match round % 5 {
            0 | 1 => handle.restart("stubborn").unwrap(),
            2 => {
                handle.stop("stubborn").await.unwrap();
                let stopped = node(&handle, "stubborn").unwrap();
                assert_eq!((stopped.state, stopped.pid), ("stopped", None));
                assert_eq!(mark.alive(), [] as [u32; 0]);
                handle.restart("stubborn").unwrap();
            }
            3 => {
                if let Some(pid) = node(&handle, "stubborn").unwrap().pid {
                    signal(pid, Signal::KILL);
                }
            }
            _ => {
                // Begun and not waited for.
                let stop = handle.clone();
                let waits = tokio::spawn(async move { stop.stop("stubborn").await });
                tokio::time::sleep(Duration::from_millis(round % 7)).await;
                handle.restart("stubborn").unwrap();
                let _ = waits.await;
            }
        }
        consistent(&handle, "stubborn");
        tokio::time::sleep(Duration::from_millis(round * 7 % 30)).await;
    }
    let pid = until_state(&handle, "stubborn", "ready").await.pid.unwrap();
    until("it has said its pid", || {
        (desk.lines("pids").last() == Some(&pid.to_string())).then_some(())
    })
    .await;
    assert!(alive(pid));
    running.shutdown().await;
    mark.until_gone().await;
    assert_eq!(desk.read("clashes"), "");
}

#[tokio::test]
async fn the_pid_shown_is_that_of_the_process_that_runs() {
    let desk = Desk::new();
    let running = start([tireless(Child::process(
        "shown",
        desk.sh("echo $$ >> $DESK/pids; exec sleep 1000"),
    ))])
    .await;
    let handle = running.handle().clone();
    for generation in 1..=5 {
        let seen = until_node(&handle, "shown", "it runs", |node| {
            node.generation == generation && node.pid.is_some()
        })
        .await;
        let pid = seen.pid.unwrap();
        until("it has said its pid", || {
            (desk.lines("pids").len() as u64 == generation).then_some(())
        })
        .await;
        assert_eq!(desk.lines("pids").last(), Some(&pid.to_string()));
        signal(pid, Signal::KILL);
    }
    handle.stop("shown").await.unwrap();
    assert_eq!(node(&handle, "shown").unwrap().pid, None);
    handle.remove("shown").unwrap();
    until("it is gone", || {
        node(&handle, "shown").is_none().then_some(())
    })
    .await;
    running.shutdown().await;
}

#[tokio::test]
async fn a_stop_during_the_start_ends_it() {
    let mark = Mark::new();
    let command = mark.on(sh("exec sleep 1000").ready(Ready::Notified));
    let running = start([Child::process("starts", command).gated(Duration::from_secs(1000))]).await;
    let handle = running.handle().clone();
    for pause in [0, 1, 3, 10, 50] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        handle.stop("starts").await.unwrap();
        let stopped = node(&handle, "starts").unwrap();
        assert_eq!(
            (stopped.state, stopped.pid),
            ("stopped", None),
            "{stopped:?}"
        );
        assert_eq!(mark.alive(), [] as [u32; 0], "after {pause} ms");
        handle.restart("starts").unwrap();
    }
    let report = running.shutdown().await;
    assert_eq!((report.started, report.stopped), (1, 1), "{report:?}");
    assert_eq!(mark.alive(), [] as [u32; 0]);
}

#[tokio::test]
async fn one_that_is_killed_at_its_stop_timeout_is_told_as_aborted() {
    let desk = Desk::new();
    let mark = Mark::new();
    let script = "trap '' TERM; touch $DESK/up; while :; do sleep 1; done";
    let child = Child::process("stubborn", mark.on(desk.sh(script)))
        .stop_timeout(Duration::from_millis(200));
    let running = start([child]).await;
    let handle = running.handle().clone();
    let topic = handle.bus().topic::<ChildEvent>(LIFECYCLE_TOPIC).unwrap();
    let mut events = topic
        .subscriber()
        .start(Start::Retained(4096))
        .build()
        .unwrap();
    until("it ignores the signal", || desk.exists("up").then_some(())).await;
    handle.stop("stubborn").await.unwrap();
    assert_eq!(mark.alive(), [] as [u32; 0]);
    let explained = handle.explain("stubborn").unwrap();
    assert_eq!(explained.state, "stopped");
    let mut seen = Vec::new();
    while let Ok(Some(delivery)) = events.try_recv() {
        seen.push(delivery.event.change.clone());
    }
    let at = |change: &Change| seen.iter().position(|seen| seen == change);
    assert!(
        at(&Change::Stopping) < at(&Change::Aborted) && at(&Change::Aborted).is_some(),
        "{seen:?}"
    );
    running.shutdown().await;
}

#[tokio::test]
async fn a_stopped_process_is_continued_and_obeys() {
    let running = start([
        Child::process("frozen", sh("exec sleep 1000")).stop_timeout(Duration::from_secs(4))
    ])
    .await;
    let handle = running.handle().clone();
    let pid = until_state(&handle, "frozen", "ready").await.pid.unwrap();
    signal(pid, Signal::STOP);
    // A signal that is pending beside it would come first.
    until("it is stopped", || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        status.contains("State:\tT").then_some(())
    })
    .await;
    let report = running.shutdown().await;
    assert_eq!((report.stopped, report.aborted), (1, 0), "{report:?}");
    assert!(!alive(pid));
}

#[tokio::test]
async fn each_stop_signal_reaches_the_whole_group() {
    let table = [
        (StopSignal::Term, "TERM"),
        (StopSignal::Int, "INT"),
        (StopSignal::Quit, "QUIT"),
        (StopSignal::Hup, "HUP"),
        (StopSignal::Usr1, "USR1"),
        (StopSignal::Usr2, "USR2"),
    ];
    let desks: Vec<Desk> = table.iter().map(|_| Desk::new()).collect();
    // A shell has its children in the background ignore INT and QUIT, so the second one is no child of it.
    let children = table.iter().zip(&desks).map(|((signal, name), desk)| {
        let script = format!(
            "trap 'echo {name} > $DESK/second; exit 0' {name}; \
             sh -c 'trap \"echo {name} > $DESK/first; exit 0\" {name}; touch $DESK/up; while :; do sleep 0.02; done'; \
             while :; do sleep 0.02; done"
        );
        let command = desk.sh(&script).stop_signal(*signal);
        Child::process(*name, command).stop_timeout(Duration::from_secs(20))
    });
    let running = start(children).await;
    for desk in &desks {
        until("the trap is set", || desk.exists("up").then_some(())).await;
    }
    let handle = running.handle().clone();
    for (_, name) in table {
        handle.stop(name).await.unwrap();
    }
    let report = running.shutdown().await;
    assert_eq!((report.stopped, report.aborted), (6, 0), "{report:?}");
    for ((_, name), desk) in table.iter().zip(&desks) {
        assert_eq!(
            (
                desk.line("first").await.as_str(),
                desk.line("second").await.as_str()
            ),
            (*name, *name)
        );
    }
}

#[tokio::test]
async fn a_release_starts_a_new_process() {
    let desk = Desk::new();
    let script = "[ -e $DESK/mended ] || { echo broken >&2; exit 3; }; exec sleep 1000";
    let running = start([fragile(Child::process("broken", desk.sh(script)))]).await;
    let handle = running.handle().clone();
    quarantined(&handle, "broken").await;
    handle.release("broken").unwrap();
    until_node(&handle, "broken", "the trial failed", |node| {
        node.generation == 2 && node.state == "quarantined"
    })
    .await;
    std::fs::write(desk.file("mended"), "").unwrap();
    handle.release("broken").unwrap();
    let node = until_state(&handle, "broken", "ready").await;
    assert_eq!(node.generation, 3);
    assert!(alive(node.pid.unwrap()));
    assert_eq!(
        handle.explain("broken").unwrap().last_exit,
        Some(Exit::Exited(3))
    );
    running.shutdown().await;
}

#[tokio::test]
async fn a_shutdown_during_the_start_of_many_leaves_none() {
    for pause in [0, 2, 10, 40] {
        let mark = Mark::new();
        let many = (0..30).map(|n| {
            let command = match n % 3 {
                0 => sh("exec sleep 1000"),
                1 => sh("exec sleep 1000").ready(Ready::Notified),
                _ => program(&["ms 20", "say READY=1"]).ready(Ready::Notified),
            };
            Child::process(format!("child-{n}"), mark.on(command))
        });
        let running = start(many).await;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let report = running.shutdown().await;
        // All of them obey, however early they are asked.
        assert!(
            report.is_balanced() && report.stopped == report.started,
            "{report:?}"
        );
        assert_eq!(mark.alive(), [] as [u32; 0], "after {pause} ms");
    }
}

#[tokio::test]
async fn how_it_ends_when_it_was_asked_to_is_no_crash() {
    let table = [
        (
            "with-a-code",
            "trap 'exit 7' TERM; touch $DESK/with-a-code; while :; do sleep 0.02; done",
            Exit::Exited(7),
        ),
        (
            "by-the-signal",
            "touch $DESK/by-the-signal; exec sleep 1000",
            Exit::Killed(15),
        ),
        (
            "by-another",
            "trap 'kill -KILL $$' TERM; touch $DESK/by-another; while :; do sleep 0.02; done",
            Exit::Killed(9),
        ),
        (
            "well",
            "trap 'exit 0' TERM; touch $DESK/well; while :; do sleep 0.02; done",
            Exit::Exited(0),
        ),
    ];
    let desk = Desk::new();
    let running = start(table.clone().map(|(name, script, _)| {
        Child::process(name, desk.sh(script)).stop_timeout(Duration::from_secs(20))
    }))
    .await;
    let handle = running.handle().clone();
    for (name, _, exit) in table {
        until("it is up", || desk.exists(name).then_some(())).await;
        handle.stop(name).await.unwrap();
        let node = node(&handle, name).unwrap();
        assert_eq!((node.state, node.restarts), ("stopped", 0), "{node:?}");
        assert_eq!(
            handle.explain(name).unwrap().last_exit,
            Some(exit),
            "{name}"
        );
        let crashes = log().lines(|line| line.child == name && line.event == "service_crashed");
        assert!(crashes.is_empty(), "{crashes:?}");
    }
    let report = running.shutdown().await;
    assert_eq!((report.stopped, report.aborted), (4, 0), "{report:?}");
}
