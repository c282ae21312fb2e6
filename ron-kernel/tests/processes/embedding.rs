//! A kernel inside a program that has processes, runtimes and kernels of its own.

use crate::rig::{
    alone, alone_blocking, alone_under, log, node, open_descriptors, program, sh, signal, start,
    tireless, until, until_node, until_state, words, zombies, Mark, PATIENCE,
};
use ron_kernel::process::Ready;
use ron_kernel::supervisor::{Backoff, Child, Exit, Restart};
use ron_kernel::{Kernel, Running};
use rustix::process::Signal;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

fn runtimes() -> [(&'static str, Runtime); 2] {
    [
        (
            "current_thread",
            Builder::new_current_thread().enable_all().build().unwrap(),
        ),
        (
            "multi_thread",
            Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap(),
        ),
    ]
}

fn family(name: &str, mark: &Mark) -> Child {
    let script = "trap '' TERM; sleep 1000 & (sleep 1000 & wait) & while :; do sleep 1; done";
    tireless(Child::process(name, mark.on(sh(script)))).stop_timeout(Duration::from_millis(300))
}

/// Blocks this thread, as a program without a runtime does.
fn until_blocking(what: &str, mut look: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !look() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_dropped_kernel_leaves_no_process() {
    alone("embedding::a_dropped_kernel_leaves_no_process", || async {
        let mark = Mark::new();
        let running = start([
            family("family", &mark),
            tireless(Child::process("crashes", mark.on(sh("exit 3")))),
            Child::process(
                "starts",
                mark.on(sh("exec sleep 1000").ready(Ready::Notified)),
            ),
        ])
        .await;
        until_state(running.handle(), "family", "ready").await;
        until("the family", || (mark.alive().len() > 4).then_some(())).await;
        let handle = running.handle().clone();
        drop(running);
        handle.ended().await;
        assert_eq!(mark.alive(), [] as [u32; 0]);
        until("all are waited for", || zombies().is_empty().then_some(())).await;
    });
}

#[test]
fn a_runtime_that_goes_takes_the_processes_along() {
    alone_blocking(
        "embedding::a_runtime_that_goes_takes_the_processes_along",
        || {
            for (name, runtime) in runtimes() {
                let mark = Mark::new();
                let running = runtime.block_on(async {
                    let running = start([
                        family("family", &mark),
                        tireless(Child::process("crashes", mark.on(sh("exit 3")))),
                        Child::process(
                            "starts",
                            mark.on(sh("exec sleep 1000").ready(Ready::Notified)),
                        ),
                    ])
                    .await;
                    until_state(running.handle(), "family", "ready").await;
                    until("the family", || (mark.alive().len() > 4).then_some(())).await;
                    running
                });
                runtime.shutdown_background();
                until_blocking(&format!("{name}: no process is left"), || {
                    mark.alive().is_empty()
                });
                until_blocking(&format!("{name}: all are waited for"), || {
                    zombies().is_empty()
                });
                let left = node(running.handle(), "family").unwrap();
                assert_ne!(left.state, "ready", "{left:?}");
                assert_eq!(left.pid, None, "{left:?}");
            }
        },
    );
}

#[test]
fn a_runtime_that_goes_at_any_instant_of_the_start_takes_the_processes_along() {
    alone_blocking(
        "embedding::a_runtime_that_goes_at_any_instant_of_the_start_takes_the_processes_along",
        || {
            let mark = Mark::new();
            for round in 0..12_u64 {
                let runtime = if round % 2 == 0 {
                    Builder::new_current_thread().enable_all().build().unwrap()
                } else {
                    Builder::new_multi_thread()
                        .worker_threads(2)
                        .enable_all()
                        .build()
                        .unwrap()
                };
                let running = runtime.block_on(async {
                    let many = (0..10)
                        .map(|n| Child::process(format!("child-{n}"), mark.on(sh("sleep 1000"))));
                    let running = start(many).await;
                    tokio::time::sleep(Duration::from_millis(round)).await;
                    running
                });
                drop(runtime);
                drop(running);
            }
            until_blocking("no process is left", || mark.alive().is_empty());
            until_blocking("all are waited for", || zombies().is_empty());
        },
    );
}

#[test]
fn hundreds_of_crashes_leave_no_zombie_and_no_descriptor() {
    alone_blocking(
        "embedding::hundreds_of_crashes_leave_no_zombie_and_no_descriptor",
        || {
            for (name, runtime) in runtimes() {
                runtime.block_on(async {
                    let mark = Mark::new();
                    let running = start([
                        tireless(Child::process("exits", mark.on(sh("echo x; exit 3")))),
                        tireless(Child::process(
                            "leaves-others",
                            mark.on(sh("sleep 1000 & sleep 1000 & exit 3")),
                        )),
                        tireless(Child::process(
                            "notified",
                            mark.on(sh("exit 3").ready(Ready::Notified)),
                        )),
                        tireless(Child::process(
                            "missing",
                            ron_kernel::process::Command::new("/no/such/program"),
                        )),
                    ])
                    .await;
                    let handle = running.handle().clone();
                    let ids = ["exits", "leaves-others", "notified", "missing"];
                    let reach = |generation: u64| {
                        let handle = handle.clone();
                        async move {
                            for id in ids {
                                until_node(&handle, id, "its crashes", |node| {
                                    node.generation > generation
                                })
                                .await;
                            }
                        }
                    };
                    reach(20).await;
                    let most = |count: usize| async move {
                        let mut most = 0;
                        for _ in 0..count {
                            most = most.max(open_descriptors());
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                        most
                    };
                    let before = most(40).await;
                    reach(120).await;
                    let after = most(40).await;
                    assert!(
                        after <= before + 12,
                        "{name}: {before} descriptors became {after}"
                    );
                    running.shutdown().await;
                    until(name, || zombies().is_empty().then_some(())).await;
                    mark.until_gone().await;
                });
            }
        },
    );
}

#[test]
fn all_descriptors_are_given_back_at_the_end() {
    alone(
        "embedding::all_descriptors_are_given_back_at_the_end",
        || async {
            let round = || async {
                let running = start([
                    Child::process("notified", program(&["say READY=1"]).ready(Ready::Notified)),
                    Child::process("plain", sh("exec sleep 1000")),
                ])
                .await;
                running.handle().ready().await;
                running.shutdown().await;
            };
            round().await;
            let before = open_descriptors();
            for _ in 0..5 {
                round().await;
            }
            let after = open_descriptors();
            assert!(after <= before, "{before} descriptors became {after}");
            assert_eq!(zombies(), [] as [u32; 0]);
        },
    );
}

#[test]
fn processes_of_the_program_itself_are_left_alone() {
    alone(
        "embedding::processes_of_the_program_itself_are_left_alone",
        || async {
            let crashing =
                (0..3).map(|n| tireless(Child::process(format!("crashes-{n}"), sh("exit 3"))));
            let running = start(crashing).await;
            let mut sleeper = std::process::Command::new("/bin/sleep")
                .arg("1000")
                .spawn()
                .unwrap();
            let mut held = tokio::process::Command::new("/bin/sleep")
                .arg("1000")
                .spawn()
                .unwrap();
            let tokio_children = tokio::spawn(async {
                for round in 0..120 {
                    let script = format!("exit {}", round % 100);
                    let child = tokio::process::Command::new("/bin/sh")
                        .arg("-c")
                        .arg(script)
                        .status();
                    assert_eq!(child.await.unwrap().code(), Some(round % 100));
                }
            });
            let std_children = tokio::task::spawn_blocking(|| {
                for round in 0..120 {
                    let script = format!("exit {}", round % 100);
                    let child = std::process::Command::new("/bin/sh")
                        .arg("-c")
                        .arg(script)
                        .spawn();
                    let mut child = child.unwrap();
                    if round % 3 == 0 {
                        std::thread::sleep(Duration::from_millis(10));
                    }
                    assert_eq!(child.wait().unwrap().code(), Some(round % 100));
                }
            });
            tokio_children.await.unwrap();
            std_children.await.unwrap();
            let handle = running.handle().clone();
            for n in 0..3 {
                let id = format!("crashes-{n}");
                until_node(&handle, &id, "its crashes", |node| node.generation > 20).await;
                assert_eq!(
                    handle.explain(&id).unwrap().last_exit,
                    Some(Exit::Exited(3))
                );
            }
            running.shutdown().await;
            assert!(sleeper.try_wait().unwrap().is_none());
            assert!(held.try_wait().unwrap().is_none());
            sleeper.kill().unwrap();
            sleeper.wait().unwrap();
            held.kill().await.unwrap();
        },
    );
}

#[test]
fn a_program_that_ignores_sigchld_learns_how_its_children_ended() {
    alone_under(
        &["env", "--ignore-signal=CHLD"],
        "embedding::a_program_that_ignores_sigchld_learns_how_its_children_ended",
        || async {
            let once = |name: &str, script: &str| {
                Child::process(name, sh(script))
                    .restart(Restart::Temporary)
                    .optional()
            };
            let running = start([
                once("three", "exit 3"),
                once("killed", "kill -9 $$"),
                once("lives", "exec sleep 1000"),
            ])
            .await;
            let handle = running.handle().clone();
            for (id, exit) in [("three", Exit::Exited(3)), ("killed", Exit::Killed(9))] {
                until("it has ended", || handle.explain(id).unwrap().last_exit).await;
                let explained = handle.explain(id).unwrap();
                assert_eq!(explained.last_exit, Some(exit), "{}", words(&explained));
            }
            until_state(&handle, "lives", "ready").await;
            running.shutdown().await;
        },
    );
}

#[test]
fn two_kernels_do_not_touch_each_others_processes() {
    alone(
        "embedding::two_kernels_do_not_touch_each_others_processes",
        || async {
            let (one_mark, two_mark) = (Mark::new(), Mark::new());
            async fn kernel(mark: &Mark) -> Running {
                log();
                let notified =
                    mark.on(program(&["say READY=1\\nSTATUS=up"]).ready(Ready::Notified));
                let builder = Kernel::builder()
                    .child(tireless(Child::process("same", notified)))
                    .child(tireless(Child::process(
                        "crashes",
                        mark.on(sh("sleep 0.01; exit 3")),
                    )));
                builder.build().unwrap().start().await.unwrap()
            }
            let one = kernel(&one_mark).await;
            let two = kernel(&two_mark).await;
            for running in [&one, &two] {
                until_node(running.handle(), "same", "its own word", |node| {
                    node.state == "ready" && node.status.as_deref() == Some("up")
                })
                .await;
                until_node(running.handle(), "crashes", "its crashes", |node| {
                    node.generation > 10
                })
                .await;
            }
            let kept = node(two.handle(), "same").unwrap().pid.unwrap();
            one.shutdown().await;
            assert_eq!(one_mark.alive(), [] as [u32; 0]);
            let generation = node(two.handle(), "crashes").unwrap().generation;
            until_node(two.handle(), "crashes", "more crashes", |node| {
                node.generation > generation + 10
            })
            .await;
            let same = node(two.handle(), "same").unwrap();
            assert_eq!((same.pid, same.generation), (Some(kept), 1));
            signal(kept, Signal::KILL);
            until_node(two.handle(), "same", "its replacement", |node| {
                node.generation == 2 && node.state == "ready"
            })
            .await;
            two.shutdown().await;
            assert_eq!(two_mark.alive(), [] as [u32; 0]);
            until("all are waited for", || zombies().is_empty().then_some(())).await;
        },
    );
}

#[test]
fn a_program_without_descriptors_says_so_and_recovers() {
    alone_under(
        &["sh", "-c", "ulimit -n 100; exec \"$@\"", "sh"],
        "embedding::a_program_without_descriptors_says_so_and_recovers",
        || async {
            let child = Child::process("needs-files", sh("exec sleep 1000"));
            let backoff =
                Backoff::new(Duration::from_millis(20), Duration::from_millis(50)).unwrap();
            let running = start([tireless(child).backoff(backoff)]).await;
            let handle = running.handle().clone();
            let pid = until_state(&handle, "needs-files", "ready")
                .await
                .pid
                .unwrap();
            let mut files = Vec::new();
            while let Ok(file) = std::fs::File::open("/dev/null") {
                files.push(file);
            }
            signal(pid, Signal::KILL);
            until_node(&handle, "needs-files", "several attempts", |node| {
                node.generation > 4
            })
            .await;
            let explained = handle.explain("needs-files").unwrap();
            let told = words(&explained);
            assert!(told.contains("open files"), "{told}");
            drop(files);
            until_state(&handle, "needs-files", "ready").await;
            running.shutdown().await;
            assert_eq!(zombies(), [] as [u32; 0]);
        },
    );
}

#[test]
fn a_program_that_waits_for_all_children_hides_their_status_but_not_their_end() {
    alone(
        "embedding::a_program_that_waits_for_all_children_hides_their_status_but_not_their_end",
        || async {
            let running =
                start([tireless(Child::process("stolen", sh("sleep 0.02; exit 3")))]).await;
            let handle = running.handle().clone();
            let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
            let until = stop.clone();
            let thief = std::thread::spawn(move || {
                let mut stolen = 0;
                while !until.load(std::sync::atomic::Ordering::Relaxed) {
                    let options = rustix::process::WaitOptions::NOHANG;
                    if let Ok(Some(_)) = rustix::process::wait(options) {
                        stolen += 1;
                    }
                }
                stolen
            });
            until_node(&handle, "stolen", "its restarts", |node| {
                node.generation > 30
            })
            .await;
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(thief.join().unwrap() > 0);
            let exit = handle.explain("stolen").unwrap().last_exit.unwrap();
            let told = exit.to_string();
            assert!(
                told.contains("somebody else") || exit == Exit::Exited(3),
                "{told}"
            );
            let generation = node(&handle, "stolen").unwrap().generation;
            until_node(&handle, "stolen", "a restart seen by the kernel", |node| {
                node.generation > generation + 3
            })
            .await;
            assert_eq!(
                handle.explain("stolen").unwrap().last_exit,
                Some(Exit::Exited(3))
            );
            running.shutdown().await;
        },
    );
}

#[tokio::test]
async fn the_end_of_the_drain_is_the_end_of_every_process() {
    let mark = Mark::new();
    let mut config = ron_kernel::Config::default();
    config.drain.deadline = Duration::from_millis(400);
    log();
    let builder = (0..10).fold(Kernel::builder().config(config), |builder, n| {
        builder
            .child(family(&format!("stubborn-{n}"), &mark).stop_timeout(Duration::from_secs(1000)))
    });
    let running = builder.build().unwrap().start().await.unwrap();
    running.handle().ready().await;
    until("the families", || (mark.alive().len() >= 40).then_some(())).await;
    let report = running.shutdown().await;
    assert_eq!((report.started, report.aborted), (10, 10), "{report:?}");
    assert_eq!(mark.alive(), [] as [u32; 0]);
}

#[test]
fn a_runtime_that_goes_during_a_restart_lets_its_program_go_on() {
    for (name, runtime) in runtimes() {
        let (done, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let running = runtime.block_on(async {
                let script = "trap '' TERM; while :; do sleep 1; done";
                let stubborn = tireless(Child::process("stubborn", sh(script)));
                let running = start([
                    stubborn.stop_timeout(Duration::from_secs(100)),
                    Child::task("task", |_| std::future::pending::<()>()),
                ])
                .await;
                until_state(running.handle(), "stubborn", "ready").await;
                running.handle().restart("stubborn").unwrap();
                running.handle().restart("task").unwrap();
                until_state(running.handle(), "stubborn", "stopping").await;
                running
            });
            drop(runtime);
            drop(running);
            let _ = done.send(());
        });
        let dropped = ended.recv_timeout(PATIENCE);
        assert!(dropped.is_ok(), "{name}: it hangs: {dropped:?}");
    }
}
