//! What a process leaves behind: descendants in its group and out of it, and who holds its output open.

use crate::rig::{
    alive, alone_under, fragile, log, process_group, quarantined, sh, signal, start, tireless,
    until, until_node, until_state, Desk, Mark,
};
use ron_kernel::process::Containment;
use ron_kernel::supervisor::{Child, Exit};
use ron_kernel::KernelHandle;
use rustix::process::Signal;
use std::time::Duration;

/// Whether descendants that left their group are found, too.
fn finds_all(handle: &KernelHandle) -> bool {
    handle.containment() == Some(Containment::Cgroup)
}

#[tokio::test]
async fn all_of_its_group_ends_with_it() {
    let (asked, crashed, left) = (Mark::new(), Mark::new(), Mark::new());
    let many =
        "n=0; while [ $n -lt 100 ]; do (trap '' TERM; sleep 1000; sleep 1000) & n=$((n+1)); done";
    let running = start([
        Child::process("asked", asked.on(sh(&format!("{many}; wait")))),
        fragile(Child::process(
            "crashed",
            crashed.on(sh(&format!("{many}; sleep 0.3; exit 3"))),
        ))
        .optional(),
        Child::process("left", left.on(sh(&format!("{many}; exit 0")))),
    ])
    .await;
    let handle = running.handle().clone();
    until("the family", || (asked.alive().len() > 150).then_some(())).await;
    let words = quarantined(&handle, "crashed").await;
    assert!(words.contains("exited with code 3"), "{words}");
    crashed.until_gone().await;
    until_state(&handle, "left", "done").await;
    assert_eq!(
        handle.explain("left").unwrap().last_exit,
        Some(Exit::Exited(0))
    );
    left.until_gone().await;
    let report = running.shutdown().await;
    assert!(report.is_balanced(), "{report:?}");
    asked.until_gone().await;
}

#[tokio::test]
async fn nothing_of_its_group_is_alive_when_the_next_one_starts() {
    let desk = Desk::new();
    // Each holds the lock as long as one of its group lives.
    let script = "exec 9> $DESK/lock; flock -n 9 || echo clash >> $DESK/clashes; echo up >> $DESK/ups; \
                  n=0; while [ $n -lt 20 ]; do (trap '' TERM; sleep 1000; sleep 1000) & n=$((n+1)); done; exit 3";
    let running = start([tireless(Child::process("loops", desk.sh(script)))]).await;
    until("some incarnations", || {
        (desk.lines("ups").len() > 40).then_some(())
    })
    .await;
    running.shutdown().await;
    assert_eq!(desk.read("clashes"), "");
}

#[tokio::test]
async fn a_descendant_with_a_session_of_its_own_ends_as_the_level_says() {
    let desk = Desk::new();
    let mark = Mark::new();
    let script =
        "setsid sh -c 'echo $$ > $DESK/escaped; trap \"\" TERM; sleep 1000; sleep 1000' & \
                  while [ ! -s $DESK/escaped ]; do sleep 0.01; done; echo $$ > $DESK/leader; wait";
    let running = start([Child::process("escape", mark.on(desk.sh(script)))]).await;
    let handle = running.handle().clone();
    desk.pid("leader").await;
    let escaped = desk.pid("escaped").await;
    assert_eq!(process_group(escaped), Some(escaped));
    let all = finds_all(&handle);
    handle.stop("escape").await.unwrap();
    if all {
        mark.until_gone().await;
    } else {
        assert!(alive(escaped), "{:?}", handle.containment());
        for pid in mark.alive() {
            signal(pid, Signal::KILL);
        }
    }
    running.shutdown().await;
}

#[tokio::test]
async fn a_daemon_is_not_kept_by_who_made_it() {
    let desk = Desk::new();
    let mark = Mark::new();
    // Forks twice, as daemons did, and the first process returns at once.
    let script = "(setsid sh -c '(echo $PPID > $DESK/middle; exec sleep 1000) & sleep 0.2; exit 0' &) ; sleep 0.5; exit 0";
    let running = start([Child::process("daemon", mark.on(desk.sh(script)))]).await;
    let handle = running.handle().clone();
    let node = until_state(&handle, "daemon", "done").await;
    assert_eq!((node.pid, node.generation), (None, 1));
    assert_eq!(
        handle.explain("daemon").unwrap().last_exit,
        Some(Exit::Exited(0))
    );
    if finds_all(&handle) {
        mark.until_gone().await;
    } else {
        for pid in mark.alive() {
            signal(pid, Signal::KILL);
        }
    }
    running.shutdown().await;
}

/// Without root there is no cgroup to find them by, on most systems.
fn weaker<F: std::future::Future<Output = ()>>(test: &str, body: impl FnOnce() -> F) {
    let root = rustix::process::geteuid().is_root();
    let nobody = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    alone_under(if root { &nobody } else { &[] }, test, body);
}

#[test]
fn an_output_that_stays_open_does_not_hold_up_the_end() {
    weaker(
        "descendants::an_output_that_stays_open_does_not_hold_up_the_end",
        || async {
            let desk = Desk::new();
            let mark = Mark::new();
            // Out of the group, both pipes in hand.
            let script = "echo before; setsid sh -c 'echo $$ >> $DESK/held; exec sleep 1000' & \
                          while [ ! -s $DESK/held ]; do sleep 0.01; done; echo last; exit 3";
            let child = Child::process("holds", mark.on(desk.sh(script)));
            let running = start([tireless(child)]).await;
            let handle = running.handle().clone();
            until_node(&handle, "holds", "several incarnations", |node| {
                node.generation > 5
            })
            .await;
            assert_eq!(
                handle.explain("holds").unwrap().last_exit,
                Some(Exit::Exited(3))
            );
            let report = running.shutdown().await;
            assert_eq!((report.started, report.stopped), (1, 1), "{report:?}");
            let first: Vec<String> = log()
                .lines(|line| {
                    line.child == "holds" && line.generation == "1" && line.stream == "stdout"
                })
                .into_iter()
                .map(|line| line.message)
                .collect();
            assert_eq!(first, ["before", "last"]);
            for pid in mark.alive() {
                signal(pid, Signal::KILL);
            }
        },
    );
}

#[test]
fn the_weaker_level_ends_groups_and_says_what_it_is() {
    weaker(
        "descendants::the_weaker_level_ends_groups_and_says_what_it_is",
        || async {
            let desk = Desk::new();
            let mark = Mark::new();
            let script = "setsid sh -c 'echo $$ > $DESK/escaped; exec sleep 1000' & sleep 1000 & \
                          while [ ! -s $DESK/escaped ]; do sleep 0.01; done; trap '' TERM; touch $DESK/up; wait; wait; sleep 1000";
            let child = Child::process("family", mark.on(desk.sh(script)))
                .stop_timeout(Duration::from_millis(300));
            let running = start([child]).await;
            let handle = running.handle().clone();
            until("all are there", || desk.exists("up").then_some(())).await;
            let escaped = desk.pid("escaped").await;
            let level = handle.containment().unwrap();
            until("the level is said", || {
                let said = log().lines(|line| line.event == "containment");
                let told = said.iter().any(|line| line.all.contains(level.name()));
                told.then_some(())
            })
            .await;
            handle.stop("family").await.unwrap();
            if level == Containment::Cgroup {
                mark.until_gone().await;
            } else {
                until("only the escaped is left", || {
                    (mark.alive() == [escaped]).then_some(())
                })
                .await;
                signal(escaped, Signal::KILL);
            }
            running.shutdown().await;
        },
    );
}
