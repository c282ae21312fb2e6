//! A process that is asked for its health: misses, recovery, restart.

use crate::rig::{
    alive, fragile, log, node, quarantined, sh, signal, start, tireless, until, until_node,
    until_state,
};
use ron_kernel::process::Probe;
use ron_kernel::supervisor::{Child, Exit};
use rustix::process::Signal;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// What the next questions are answered with; the last for ever. 0: not at all.
#[derive(Clone)]
struct Answers(Arc<Mutex<(VecDeque<u16>, usize)>>);

impl Answers {
    async fn serve(answers: impl IntoIterator<Item = u16>) -> (Answers, SocketAddr) {
        let answers = Answers(Arc::new(Mutex::new((answers.into_iter().collect(), 0))));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let own = answers.clone();
        tokio::spawn(async move {
            let mut held = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 1024];
                let _ = stream.read(&mut head).await;
                match own.next() {
                    0 => held.push(stream),
                    status => {
                        let text = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
                        let _ = stream.write_all(text.as_bytes()).await;
                    }
                }
            }
        });
        (answers, addr)
    }

    fn next(&self) -> u16 {
        let mut state = self.0.lock().unwrap();
        state.1 += 1;
        if state.0.len() > 1 {
            state.0.pop_front().unwrap()
        } else {
            state.0[0]
        }
    }

    fn asked(&self) -> usize {
        self.0.lock().unwrap().1
    }

    fn now(&self, status: u16) {
        self.0.lock().unwrap().0 = VecDeque::from([status]);
    }
}

fn asked(name: &str, addr: SocketAddr, every: u64, misses: u32) -> Child {
    let probe = Probe::http(addr.to_string(), "/healthz");
    let command = sh("exec sleep 1000").health(probe);
    Child::process(
        name,
        command.health_every(Duration::from_millis(every), misses),
    )
}

#[tokio::test]
async fn so_many_misses_in_a_row_are_a_failure_and_fewer_are_not() {
    let (answers, addr) = Answers::serve([200, 503, 503, 200, 404, 500, 204, 503, 503, 200]).await;
    let running = start([tireless(asked("wavers", addr, 150, 3))]).await;
    let handle = running.handle().clone();
    let missed = until_node(&handle, "wavers", "a miss is shown", |node| {
        node.status
            .as_deref()
            .is_some_and(|status| status.contains("503"))
            || node.cause.is_some()
    })
    .await;
    assert_eq!(
        (missed.state, missed.generation),
        ("ready", 1),
        "{missed:?}"
    );
    until("all are asked", || (answers.asked() > 10).then_some(())).await;
    let well = until_node(&handle, "wavers", "well again", |node| node.cause.is_none()).await;
    assert_eq!((well.state, well.generation), ("ready", 1), "{well:?}");
    let status = well.status.unwrap_or_default();
    assert!(!status.contains("missed"), "a miss of long ago: {status}");

    answers.now(503);
    until_node(&handle, "wavers", "its replacement", |node| {
        node.generation > 1
    })
    .await;
    answers.now(200);
    let exit = handle.explain("wavers").unwrap().last_exit.unwrap();
    let Exit::Failed(reason) = exit else {
        panic!("{exit:?}");
    };
    assert!(
        reason.contains("3 probes") && reason.contains("503") && reason.contains(&addr.to_string()),
        "{reason}"
    );
    until_state(&handle, "wavers", "ready").await;
    running.shutdown().await;
}

#[tokio::test]
async fn exactly_so_many_are_asked_and_the_hung_one_is_killed() {
    let (answers, addr) = Answers::serve([503]).await;
    let probe = Probe::http(addr.to_string(), "/");
    let script = "trap '' TERM; while :; do sleep 1; done";
    let command = sh(script)
        .health(probe)
        .health_every(Duration::from_millis(100), 4);
    let child = fragile(Child::process("sick", command))
        .stop_timeout(Duration::from_millis(100))
        .optional();
    let running = start([child]).await;
    let handle = running.handle().clone();
    let pid = until_state(&handle, "sick", "ready").await.pid.unwrap();
    let words = quarantined(&handle, "sick").await;
    assert!(
        words.contains("4 probes in a row failed") && words.contains("503"),
        "{words}"
    );
    assert_eq!(answers.asked(), 4);
    assert!(!alive(pid));
    running.shutdown().await;
}

#[tokio::test]
async fn a_probe_that_is_not_answered_is_a_miss_like_any_other() {
    let (_answers, addr) = Answers::serve([0]).await;
    let running = start([fragile(asked("mute", addr, 100, 2)).optional()]).await;
    let words = quarantined(running.handle(), "mute").await;
    assert!(
        words.contains("2 probes in a row failed") && words.contains(&addr.to_string()),
        "{words}"
    );
    assert!(words.contains("100ms"), "how long it waited: {words}");
    running.shutdown().await;
}

#[tokio::test]
async fn a_process_that_dies_while_it_is_asked_is_told_as_dead() {
    let (answers, addr) = Answers::serve([0]).await;
    let running = start([tireless(asked("dies", addr, 600_000, 1))]).await;
    let handle = running.handle().clone();
    let pid = until_state(&handle, "dies", "ready").await.pid.unwrap();
    // Before the first answer could be late.
    signal(pid, Signal::KILL);
    until_node(&handle, "dies", "its replacement", |node| {
        node.generation == 2 && node.state == "ready"
    })
    .await;
    assert_eq!(
        handle.explain("dies").unwrap().last_exit,
        Some(Exit::Killed(9))
    );
    drop(answers);
    running.shutdown().await;
}

#[tokio::test]
async fn a_replacement_begins_without_the_misses_of_its_predecessor() {
    let (answers, addr) = Answers::serve([503, 503, 503, 200]).await;
    let running = start([tireless(asked("again", addr, 100, 3))]).await;
    let handle = running.handle().clone();
    until_node(&handle, "again", "its replacement", |node| {
        node.generation == 2 && node.state == "ready"
    })
    .await;
    until("the replacement is asked", || {
        (answers.asked() > 6).then_some(())
    })
    .await;
    let seen = node(&handle, "again").unwrap();
    assert_eq!(
        (seen.generation, seen.state, seen.cause),
        (2, "ready", None)
    );
    let crashes = log().lines(|line| line.child == "again" && line.event == "service_crashed");
    assert_eq!(crashes.len(), 1, "{crashes:?}");
    running.shutdown().await;
}

#[tokio::test]
async fn nobody_is_asked_before_it_is_ready() {
    let (answers, addr) = Answers::serve([503]).await;
    let probe = Probe::http(addr.to_string(), "/");
    let command = sh("exec sleep 1000")
        .ready(ron_kernel::process::Ready::After(Duration::from_millis(
            500,
        )))
        .health(probe)
        .health_every(Duration::from_millis(10), 1);
    let running = start([fragile(Child::process("late", command)).optional()]).await;
    let handle = running.handle().clone();
    until("it is ready", || {
        match node(&handle, "late").unwrap().state {
            "starting" => {
                assert_eq!(answers.asked(), 0);
                None
            }
            _ => Some(()),
        }
    })
    .await;
    quarantined(&handle, "late").await;
    running.shutdown().await;
}
