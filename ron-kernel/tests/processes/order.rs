//! One tree of tasks, threads and processes: the order of starts and stops, and who restarts with whom.

use crate::rig::{alive, node, sh, signal, start, tireless, until, until_state, Desk};
use ron_kernel::process::{Command, Ready};
use ron_kernel::supervisor::{Backoff, Child, Group, Intensity, Strategy};
use ron_kernel::{Kernel, KernelHandle, Running};
use rustix::process::Signal;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

fn journal(path: &PathBuf, line: &str) {
    let file = std::fs::File::options()
        .append(true)
        .create(true)
        .open(path);
    file.unwrap()
        .write_all(format!("{line}\n").as_bytes())
        .unwrap();
}

/// Writes when it starts and, a moment after it was told to, when it ends.
fn task(desk: &Desk, name: &'static str) -> Child {
    let path = desk.file("journal");
    Child::task(name, move |cx| {
        let path = path.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(30)).await;
            journal(&path, &format!("{name} {} up", cx.generation()));
            cx.ready();
            cx.stopping().await;
            tokio::time::sleep(Duration::from_millis(30)).await;
            journal(&path, &format!("{name} {} down", cx.generation()));
        }
    })
    .gated(Duration::from_secs(20))
}

fn thread(desk: &Desk, name: &'static str) -> Child {
    let path = desk.file("journal");
    Child::thread(name, move |cx| {
        std::thread::sleep(Duration::from_millis(30));
        journal(&path, &format!("{name} {} up", cx.generation()));
        cx.ready();
        while !cx.wait_stopping(Duration::from_secs(1)) {}
        std::thread::sleep(Duration::from_millis(30));
        journal(&path, &format!("{name} {} down", cx.generation()));
    })
    .gated(Duration::from_secs(20))
}

/// Counts its incarnations in a file, since it is not told.
fn program(desk: &Desk, name: &str) -> Command {
    let script = format!(
        "sleep 0.03; echo x >> $DESK/{name}; n=$(wc -l < $DESK/{name}); \
         trap \"sleep 0.03; echo {name} $n down >> $DESK/journal; exit 0\" TERM; \
         echo {name} $n up >> $DESK/journal; say READY=1; while :; do sleep 1000 & wait; done"
    );
    desk.sh(&script)
}

fn process(desk: &Desk, name: &str) -> Child {
    Child::process(name, program(desk, name).ready(Ready::Notified))
        .gated(Duration::from_secs(20))
        .stop_timeout(Duration::from_secs(20))
}

async fn run(
    groups: impl IntoIterator<Item = Group>,
    children: impl IntoIterator<Item = Child>,
) -> Running {
    crate::rig::log();
    let mut config = ron_kernel::Config::default();
    config.drain.deadline = Duration::from_secs(30);
    let builder = Kernel::builder().config(config);
    let builder = children
        .into_iter()
        .fold(builder, |builder, child| builder.child(child));
    let builder = groups
        .into_iter()
        .fold(builder, |builder, group| builder.group(group));
    builder.build().unwrap().start().await.unwrap()
}

/// Lines in this order, others between them or not.
fn in_order(lines: &[String], wanted: &[&str]) {
    let mut at = 0;
    for line in wanted {
        let found = lines[at..].iter().position(|seen| seen == line);
        at +=
            1 + found.unwrap_or_else(|| panic!("{line:?} is not where it should be in {lines:#?}"));
    }
}

#[tokio::test]
async fn a_tree_of_tasks_threads_and_processes_starts_and_stops_in_order() {
    let desk = Desk::new();
    let group = Group::new("group")
        .child(process(&desk, "inner").after("thread"))
        .child(task(&desk, "beside"))
        .child(process(&desk, "last-inner").after("beside").after("inner"));
    let running = run(
        [group],
        [
            process(&desk, "end").after("group").after("process"),
            process(&desk, "process").after("task"),
            task(&desk, "task"),
            thread(&desk, "thread").after("process"),
        ],
    )
    .await;
    tokio::time::timeout(crate::rig::PATIENCE, running.handle().ready())
        .await
        .unwrap();
    let lines = desk.lines("journal");
    in_order(
        &lines,
        &[
            "task 1 up",
            "process 1 up",
            "thread 1 up",
            "inner 1 up",
            "last-inner 1 up",
            "end 1 up",
        ],
    );
    in_order(&lines, &["beside 1 up", "last-inner 1 up"]);
    let report = running.shutdown().await;
    assert_eq!((report.started, report.stopped), (7, 7), "{report:?}");
    let lines = desk.lines("journal");
    in_order(
        &lines,
        &[
            "end 1 up",
            "end 1 down",
            "last-inner 1 down",
            "inner 1 down",
            "thread 1 down",
            "process 1 down",
            "task 1 down",
        ],
    );
    in_order(&lines, &["last-inner 1 down", "beside 1 down"]);
    assert_eq!(lines.len(), 14, "{lines:#?}");
}

#[tokio::test]
async fn a_process_that_dies_takes_its_group_along() {
    let desk = Desk::new();
    let group = Group::new("all")
        .strategy(Strategy::OneForAll)
        .child(task(&desk, "first"))
        .child(
            process(&desk, "second")
                .after("first")
                .backoff(Backoff::NONE),
        )
        .child(thread(&desk, "third").after("second"))
        .child(process(&desk, "fourth").after("third"));
    let running = run([group], [process(&desk, "outside").after("all")]).await;
    let handle = running.handle().clone();
    tokio::time::timeout(crate::rig::PATIENCE, handle.ready())
        .await
        .unwrap();
    let outside = node(&handle, "outside").unwrap().pid.unwrap();
    let old = node(&handle, "all/fourth").unwrap().pid.unwrap();
    signal(
        node(&handle, "all/second").unwrap().pid.unwrap(),
        Signal::KILL,
    );
    second_generation(
        &handle,
        &["all/first", "all/second", "all/third", "all/fourth"],
    )
    .await;
    in_order(
        &desk.lines("journal"),
        &[
            "outside 1 up",
            "fourth 1 down",
            "third 1 down",
            "first 1 down",
            "first 2 up",
            "second 2 up",
            "third 2 up",
            "fourth 2 up",
        ],
    );
    assert!(!alive(old));
    // What comes after the group is not part of it.
    let beside = node(&handle, "outside").unwrap();
    assert_eq!((beside.generation, beside.pid), (1, Some(outside)));
    let report = running.shutdown().await;
    assert_eq!((report.started, report.stopped), (5, 5), "{report:?}");
}

async fn second_generation(handle: &KernelHandle, ids: &[&str]) {
    for id in ids {
        crate::rig::until_node(handle, id, "its second generation is ready", |node| {
            node.generation == 2 && node.state == "ready"
        })
        .await;
    }
}

#[tokio::test]
async fn those_declared_after_a_dead_process_restart_with_it() {
    let desk = Desk::new();
    let group = Group::new("rest")
        .strategy(Strategy::RestForOne)
        .child(process(&desk, "before"))
        .child(process(&desk, "dies").backoff(Backoff::NONE))
        .child(task(&desk, "task"))
        .child(process(&desk, "after"));
    let running = run([group], []).await;
    let handle = running.handle().clone();
    tokio::time::timeout(crate::rig::PATIENCE, handle.ready())
        .await
        .unwrap();
    let before = node(&handle, "rest/before").unwrap().pid;
    signal(
        node(&handle, "rest/dies").unwrap().pid.unwrap(),
        Signal::KILL,
    );
    second_generation(&handle, &["rest/dies", "rest/task", "rest/after"]).await;
    in_order(
        &desk.lines("journal"),
        &[
            "before 1 up",
            "dies 1 up",
            "task 1 up",
            "after 1 up",
            "after 1 down",
            "task 1 down",
            "dies 2 up",
            "task 2 up",
            "after 2 up",
        ],
    );
    let first = node(&handle, "rest/before").unwrap();
    assert_eq!((first.generation, first.pid), (1, before));
    running.shutdown().await;
}

#[tokio::test]
async fn a_task_that_fails_restarts_the_processes_of_its_group() {
    let desk = Desk::new();
    let failing = Child::task("failing", |cx| async move {
        if cx.generation() == 1 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            return Err("no luck");
        }
        cx.stopping().await;
        Ok(())
    });
    let group = Group::new("joint")
        .strategy(Strategy::OneForAll)
        .child(process(&desk, "program"))
        .child(failing.after("program").backoff(Backoff::NONE));
    let running = run([group], []).await;
    second_generation(running.handle(), &["joint/program", "joint/failing"]).await;
    in_order(
        &desk.lines("journal"),
        &["program 1 up", "program 1 down", "program 2 up"],
    );
    running.shutdown().await;
}

#[tokio::test]
async fn a_crash_loop_in_a_group_is_the_groups_and_says_so() {
    let group = Group::new("doomed")
        .intensity(Intensity::new(2, Duration::from_secs(60)).unwrap())
        .child(Child::process("healthy", sh("exec sleep 1000")))
        .child(Child::process("crashing", sh("exit 3")).backoff(Backoff::NONE));
    let mut config = ron_kernel::Config::default();
    config.supervisor.restart_cap = 0;
    let kernel = Kernel::builder()
        .config(config)
        .group(group)
        .build()
        .unwrap();
    let running = kernel.start().await.unwrap();
    let handle = running.handle().clone();
    until_state(&handle, "doomed", "quarantined").await;
    let words = crate::rig::words(&handle.explain("doomed").unwrap());
    assert!(
        words.contains("crashing") && words.contains("exited with code 3"),
        "{words}"
    );
    for id in ["doomed/healthy", "doomed/crashing"] {
        assert_eq!(node(&handle, id).unwrap().pid, None, "{id}");
    }
    running.shutdown().await;
}

#[tokio::test]
async fn a_dependant_keeps_running_when_the_process_before_it_dies_and_waits_when_it_starts_itself()
{
    let desk = Desk::new();
    let first = desk.sh("[ -e $DESK/once ] && while [ ! -e $DESK/go ]; do sleep 0.01; done; touch $DESK/once; say READY=1; exec sleep 1000");
    let first = tireless(
        Child::process("first", first.ready(Ready::Notified)).gated(Duration::from_secs(60)),
    );
    let then = tireless(Child::process("then", sh("exec sleep 1000")).after("first"));
    let running = start([first, then]).await;
    let handle = running.handle().clone();
    let pid = until_state(&handle, "then", "ready").await.pid.unwrap();
    signal(node(&handle, "first").unwrap().pid.unwrap(), Signal::KILL);
    until_state(&handle, "first", "starting").await;
    assert_eq!(node(&handle, "then").unwrap().pid, Some(pid));
    assert!(alive(pid));
    signal(pid, Signal::KILL);
    let waiting = until_state(&handle, "then", "waiting").await;
    assert_eq!(waiting.pid, None);
    let words = crate::rig::words(&handle.explain("then").unwrap());
    assert!(
        words.contains("then waits for first, which is starting"),
        "{words}"
    );
    std::fs::write(desk.file("go"), "").unwrap();
    until("the dependant runs", || {
        node(&handle, "then").filter(|node| node.state == "ready" && node.generation == 2)
    })
    .await;
    running.shutdown().await;
}
