//! Process children: how fast an end is noticed, and a thousand of them.

use crate::harness::{Goal, Group};
use ron_kernel::bus::Topic;
use ron_kernel::process::Command;
use ron_kernel::supervisor::{Backoff, Child, Exhausted, Intensity};
use ron_kernel::{Change, ChildEvent, Kernel, Running, LIFECYCLE_TOPIC};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

pub const NAMES: &[&str] = &["process-exit", "process-thousand"];

/// Kills in a round.
const KILLS: usize = 300;
const OTHERS: usize = 100;
const CROWD: usize = 1_000;

const RAW: &str = "tokio::process, kill to wait";
const KERNEL: &str = "ron-kernel, kill to restart decided";

pub fn groups() -> Vec<Group> {
    vec![
        Group::new(
            "process-exit",
            "from SIGKILL of a process until its end is noticed, 100 other processes alive",
            RAW,
        )
        .measure("p50", "us")
        .measure("p99", "us")
        .case(RAW, raw)
        .case(KERNEL, supervised)
        .goal("p99", KERNEL, Goal::AtMost(5_000.0))
        .note(
            "300 kills. tokio::process has noticed when `wait` returns in the task that awaits it; ron-kernel when the \
             backoff is published on `kernel.lifecycle`: group and cgroup cleared, process reaped, restart decided.",
        ),
        Group::new(
            "process-thousand",
            "1,000 processes (`sleep`) started at once, killed one by one, drained",
            RAW_CROWD,
        )
        .measure("start", "ms")
        .measure("restart", "ms")
        .measure("drain", "ms")
        .case(RAW_CROWD, raw_crowd)
        .case(KERNEL_CROWD, supervised_crowd)
        .note(
            "start: until all have executed their program (ron-kernel: ready, each in a cgroup of its own where that can be); \
             restart: all get SIGKILL at once, until all run again; drain: SIGTERM to all until all are reaped.",
        ),
    ]
}

const RAW_CROWD: &str = "tokio::process";
const KERNEL_CROWD: &str = "ron-kernel";

fn sleeper() -> Command {
    Command::new("sleep").arg("1000")
}

fn child(name: String) -> Child {
    let often = Intensity::new(1_000_000, Duration::from_secs(1)).expect("an intensity");
    let soon = Backoff::new(Duration::from_millis(1), Duration::from_millis(1)).expect("a backoff");
    Child::process(name, sleeper())
        .gated(Duration::from_secs(60))
        .stop_timeout(Duration::from_secs(60))
        .intensity(often)
        .backoff(soon)
        .on_exhausted(Exhausted::Hold)
}

async fn start(count: usize) -> Running {
    let builder = (0..count).fold(Kernel::builder(), |builder, number| {
        builder.child(child(format!("p{number}")))
    });
    let kernel = builder.build().expect("a kernel");
    kernel.start().await.expect("to start")
}

fn percentiles(mut micros: Vec<f64>) -> Vec<f64> {
    micros.sort_by(f64::total_cmp);
    let at = |share: f64| micros[((micros.len() - 1) as f64 * share) as usize];
    vec![at(0.50), at(0.99)]
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid as i32).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("to kill");
}

fn raw_child() -> tokio::process::Child {
    tokio::process::Command::new("sleep")
        .arg("1000")
        .kill_on_drop(true)
        .spawn()
        .expect("a process")
}

fn raw() -> Vec<f64> {
    Runtime::new().expect("a runtime").block_on(async {
        let _others: Vec<_> = (0..OTHERS).map(|_| raw_child()).collect();
        let mut micros = Vec::new();
        for _ in 0..KILLS {
            let mut child = raw_child();
            let pid = child.id().expect("a pid");
            let waiting = tokio::spawn(async move {
                child.wait().await.expect("to wait");
                Instant::now()
            });
            tokio::time::sleep(Duration::from_millis(3)).await;
            let begun = Instant::now();
            kill(pid);
            let noticed = waiting.await.expect("noticed");
            micros.push(noticed.duration_since(begun).as_secs_f64() * 1e6);
        }
        percentiles(micros)
    })
}

fn supervised() -> Vec<f64> {
    Runtime::new().expect("a runtime").block_on(async {
        let running = start(OTHERS + 1).await;
        let handle = running.handle().clone();
        handle.ready().await;
        let topic: Topic<ChildEvent> = handle.bus().topic(LIFECYCLE_TOPIC).expect("the topic");
        let mut events = topic.subscribe().expect("a subscriber");
        let mut micros = Vec::new();
        for _ in 0..KILLS {
            let pid = handle.tree()[0].pid.expect("a pid");
            let begun = Instant::now();
            kill(pid);
            let mut noticed = None;
            loop {
                let Ok(event) = events.recv().await else {
                    continue;
                };
                if &*event.event.child != "p0" {
                    continue;
                }
                match event.event.change {
                    Change::Backoff { .. } => noticed = Some(begun.elapsed()),
                    Change::Ready => break,
                    _ => {}
                }
            }
            micros.push(noticed.expect("a backoff").as_secs_f64() * 1e6);
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        running.shutdown().await;
        percentiles(micros)
    })
}

fn raw_crowd() -> Vec<f64> {
    Runtime::new().expect("a runtime").block_on(async {
        let begun = Instant::now();
        let mut crowd: Vec<_> = (0..CROWD).map(|_| raw_child()).collect();
        let started = begun.elapsed();
        let begun = Instant::now();
        for child in &crowd {
            kill(child.id().expect("a pid"));
        }
        for child in &mut crowd {
            child.wait().await.expect("to wait");
            *child = raw_child();
        }
        let restarted = begun.elapsed();
        let begun = Instant::now();
        for child in &crowd {
            let pid = rustix::process::Pid::from_raw(child.id().expect("a pid") as i32);
            rustix::process::kill_process(pid.expect("a pid"), rustix::process::Signal::TERM)
                .expect("to kill");
        }
        for child in &mut crowd {
            child.wait().await.expect("to wait");
        }
        [started, restarted, begun.elapsed()]
            .map(|took| took.as_secs_f64() * 1e3)
            .to_vec()
    })
}

fn supervised_crowd() -> Vec<f64> {
    Runtime::new().expect("a runtime").block_on(async {
        let begun = Instant::now();
        let running = start(CROWD).await;
        let handle = running.handle().clone();
        handle.ready().await;
        let started = begun.elapsed();
        let topic: Topic<ChildEvent> = handle.bus().topic(LIFECYCLE_TOPIC).expect("the topic");
        let mut events = topic.subscribe().expect("a subscriber");
        let pids: Vec<u32> = handle
            .tree()
            .iter()
            .map(|node| node.pid.expect("a pid"))
            .collect();
        let begun = Instant::now();
        pids.into_iter().for_each(kill);
        let mut again = 0;
        while again < CROWD {
            if let Ok(event) = events.recv().await {
                again += usize::from(matches!(event.event.change, Change::Ready));
            }
        }
        let restarted = begun.elapsed();
        let begun = Instant::now();
        let report = running.shutdown().await;
        assert_eq!(report.stopped, CROWD as u64, "{report:?}");
        [started, restarted, begun.elapsed()]
            .map(|took| took.as_secs_f64() * 1e3)
            .to_vec()
    })
}
