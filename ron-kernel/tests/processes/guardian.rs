//! Who ends the processes when this one is killed: the guardian, and what happens to it.

use crate::rig::{
    alive, alone, log, node, parent, pids, program, run_alone, sh, signal, start, tireless, until,
    until_node, until_state, zombies, Mark, PATIENCE,
};
use ron_kernel::process::{Containment, Ready};
use ron_kernel::supervisor::Child;
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// Children of this process that show themselves as guardians and run.
fn guardians() -> Vec<u32> {
    let me = std::process::id();
    let guards = |pid: &u32| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let text = String::from_utf8_lossy(&command);
        parent(*pid) == Some(me) && alive(*pid) && text.contains("ron-kernel-guardian")
    };
    pids().into_iter().filter(guards).collect()
}

async fn another_than(old: u32) -> u32 {
    until("another guardian", || {
        guardians().into_iter().find(|pid| *pid != old)
    })
    .await
}

#[test]
fn a_killed_guardian_is_replaced_and_the_children_run_on() {
    alone(
        "guardian::a_killed_guardian_is_replaced_and_the_children_run_on",
        || async {
            let running = start([
                Child::process("before", sh("exec sleep 1000")),
                tireless(Child::process("crashes", sh("sleep 0.02; exit 3"))),
            ])
            .await;
            let handle = running.handle().clone();
            let pid = until_state(&handle, "before", "ready").await.pid.unwrap();
            let level = handle.containment().unwrap();
            let mut guardian = until("a guardian", || guardians().first().copied()).await;
            for round in 0..3 {
                let lines = log().lines(|_| true).len();
                signal(guardian, Signal::KILL);
                guardian = another_than(guardian).await;
                until(&format!("a word of it in round {round}"), || {
                    let said = &log().lines(|_| true)[lines..];
                    let told = said.iter().any(|line| line.all.contains("guardian"));
                    told.then_some(())
                })
                .await;
            }
            let generation = node(&handle, "crashes").unwrap().generation;
            until_node(&handle, "crashes", "more crashes", |node| {
                node.generation > generation + 5
            })
            .await;
            let before = node(&handle, "before").unwrap();
            assert_eq!((before.pid, before.generation), (Some(pid), 1));
            assert_eq!(handle.containment(), Some(level));
            assert_eq!(guardians(), [guardian]);
            running.shutdown().await;
            until("no guardian is left", || {
                guardians().is_empty().then_some(())
            })
            .await;
            until("all are waited for", || zombies().is_empty().then_some(())).await;
        },
    );
}

/// Has the body run in a process that kills itself in the end, and counts what it leaves behind.
fn killed(
    test: &str,
    mark: &str,
    body: impl FnOnce(Mark) -> std::pin::Pin<Box<dyn std::future::Future<Output = ()>>>,
) {
    let mark = Mark::named(mark);
    let own = mark.clone();
    let run = run_alone(&[], test, || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(body(own));
        signal(std::process::id(), Signal::KILL);
    });
    let Some(run) = run else {
        unreachable!("it has killed itself");
    };
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(
        run.status.signal(),
        Some(9),
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );
    let out = String::from_utf8_lossy(&run.stdout).into_owned();
    assert!(out.contains("all are there"), "{out}");
    let deadline = Instant::now() + PATIENCE;
    while !mark.alive().is_empty() {
        assert!(Instant::now() < deadline, "{:?} are left", mark.alive());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Ends by SIGKILL of its group or cgroup only.
fn family(mark: &Mark) -> ron_kernel::process::Command {
    mark.on(sh(
        "trap '' TERM; sleep 1000 & (sleep 1000 & wait) & while :; do sleep 1; done",
    ))
}

#[test]
fn the_second_guardian_covers_children_from_before_and_after_it() {
    killed(
        "guardian::the_second_guardian_covers_children_from_before_and_after_it",
        "second-guardian",
        |mark| {
            Box::pin(async move {
                let running = start([Child::process("before", family(&mark))]).await;
                let handle = running.handle().clone();
                until_state(&handle, "before", "ready").await;
                let first = until("a guardian", || guardians().first().copied()).await;
                signal(first, Signal::KILL);
                handle
                    .start(Child::process("meanwhile", family(&mark)))
                    .unwrap();
                until_state(&handle, "meanwhile", "ready").await;
                another_than(first).await;
                handle
                    .start(Child::process("after", family(&mark)))
                    .unwrap();
                until_state(&handle, "after", "ready").await;
                until("three families", || {
                    (mark.alive().len() >= 12).then_some(())
                })
                .await;
                println!("all are there");
            })
        },
    );
}

#[test]
fn a_guardian_that_is_stopped_holds_nobody_up() {
    alone(
        "guardian::a_guardian_that_is_stopped_holds_nobody_up",
        || async {
            let mark = Mark::new();
            let running = start([tireless(Child::process(
                "crashes",
                mark.on(sh("sleep 0.02; exit 3")),
            ))])
            .await;
            let handle = running.handle().clone();
            until_node(&handle, "crashes", "it runs", |node| node.generation > 2).await;
            let guardian = until("a guardian", || guardians().first().copied()).await;
            signal(guardian, Signal::STOP);
            // More starts and ends than any pipe to it holds.
            let generation = node(&handle, "crashes").unwrap().generation;
            until_node(&handle, "crashes", "more crashes", |node| {
                node.generation > generation + 30
            })
            .await;
            handle
                .start(Child::process(
                    "new",
                    mark.on(program(&["say READY=1"]).ready(Ready::Notified)),
                ))
                .unwrap();
            until_state(&handle, "new", "ready").await;
            let begun = Instant::now();
            let report = running.shutdown().await;
            assert!(report.is_balanced() && report.leaked == 0, "{report:?}");
            assert!(
                begun.elapsed() < Duration::from_secs(8),
                "{:?}",
                begun.elapsed()
            );
            assert_eq!(mark.alive(), [] as [u32; 0]);
            until("no guardian is left", || {
                guardians().is_empty().then_some(())
            })
            .await;
        },
    );
}

#[test]
fn a_service_without_processes_has_no_guardian() {
    alone(
        "guardian::a_service_without_processes_has_no_guardian",
        || async {
            let running =
                start([Child::task("task", |cx| async move { cx.stopping().await })]).await;
            running.handle().ready().await;
            assert_eq!(guardians(), [] as [u32; 0]);
            assert_eq!(running.handle().containment(), None);
            running.shutdown().await;
        },
    );
}

#[test]
fn nothing_is_left_of_the_kernels_cgroup_and_sockets_after_the_end() {
    alone(
        "guardian::nothing_is_left_of_the_kernels_cgroup_and_sockets_after_the_end",
        || async {
            let child = Child::process("child", program(&["say READY=1"]).ready(Ready::Notified));
            let running = start([child, tireless(Child::process("crashes", sh("exit 3")))]).await;
            let handle = running.handle().clone();
            until_state(&handle, "child", "ready").await;
            until_node(&handle, "crashes", "it crashes", |node| {
                node.generation > 10
            })
            .await;
            let pid = node(&handle, "child").unwrap().pid.unwrap();
            let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
            let cgroup = cgroup
                .lines()
                .find_map(|line| line.strip_prefix("0::"))
                .map(str::to_owned);
            let environ = std::fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
            let socket = environ
                .split('\0')
                .find_map(|pair| pair.strip_prefix("NOTIFY_SOCKET="))
                .unwrap()
                .to_owned();
            assert!(std::path::Path::new(&socket).exists());
            let level = handle.containment().unwrap();
            running.shutdown().await;
            assert!(!std::path::Path::new(&socket).exists());
            if level == Containment::Cgroup {
                let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
                let mount = mounts
                    .lines()
                    .find(|line| line.contains(" cgroup2 "))
                    .unwrap();
                let mount = mount.split(' ').nth(1).unwrap();
                let leaf = format!("{mount}{}", cgroup.unwrap());
                let leaf = std::path::Path::new(&leaf);
                assert!(!leaf.exists(), "{}", leaf.display());
                let own = leaf.parent().unwrap();
                let id = std::process::id();
                let left = own
                    .file_name()
                    .is_some_and(|name| name.to_string_lossy().contains(&format!("{id:x}")))
                    && own.exists();
                assert!(!left, "{} is left", own.display());
            }
        },
    );
}
