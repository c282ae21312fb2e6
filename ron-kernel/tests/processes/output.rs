//! Lines of a process's output become log lines.

use crate::rig::{
    fragile, log, node, quarantined, sh, start, tireless, until, until_node, until_state, Desk,
};
use ron_kernel::process::Command;
use ron_kernel::supervisor::{Child, Exit};
use std::time::{Duration, Instant};

#[tokio::test]
async fn each_line_carries_who_wrote_it() {
    let script = "echo out; echo err >&2; echo; echo '  two  words\t'; exit 3";
    let running = start([tireless(Child::process("writes", sh(script)))]).await;
    let handle = running.handle().clone();
    until_node(&handle, "writes", "its third incarnation", |node| {
        node.generation > 3
    })
    .await;
    running.shutdown().await;
    for generation in ["1", "2", "3"] {
        let of = |stream: &str| -> Vec<String> {
            let lines = log().of("writes").into_iter();
            let lines = lines.filter(|line| line.generation == generation && line.stream == stream);
            lines.map(|line| line.message).collect()
        };
        let out = of("stdout");
        assert_eq!(out.first().map(String::as_str), Some("out"), "{out:?}");
        assert_eq!(out.last().unwrap().trim(), "two  words", "{out:?}");
        assert_eq!(of("stderr"), ["err"]);
    }
}

#[tokio::test]
async fn the_last_lines_before_an_end_are_not_lost() {
    // More than a pipe holds, and ended in the middle of a line.
    let script = "seq 1 5000; echo end >&2; printf 'no newline'; kill -KILL $$";
    let running = start([fragile(Child::process("hasty", sh(script))).optional()]).await;
    let words = quarantined(running.handle(), "hasty").await;
    assert!(words.contains("SIGKILL"), "{words}");
    running.shutdown().await;
    let out = log().texts("hasty", "stdout");
    let wanted = (1..=5000)
        .map(|n| n.to_string())
        .chain(["no newline".to_owned()]);
    assert!(
        out.iter().eq(wanted.collect::<Vec<_>>().iter()),
        "{} lines, the last {:?}",
        out.len(),
        out.last()
    );
    assert_eq!(log().texts("hasty", "stderr"), ["end"]);
}

#[tokio::test]
async fn odd_output_is_shown_as_what_it_is() {
    let script =
        r"printf 'crlf\r\nmid\rdle\n\377\376bytes\n\000nul\n\033[31mred\033[0m\nnot ended'; exit 0";
    let running = start([Child::process("odd", sh(script))]).await;
    until_state(running.handle(), "odd", "done").await;
    running.shutdown().await;
    let out = log().texts("odd", "stdout");
    assert_eq!(out[0], "crlf");
    assert!(out.iter().any(|line| line.contains("bytes")), "{out:?}");
    assert!(out.iter().any(|line| line.contains("red")), "{out:?}");
    assert!(out.iter().any(|line| line.contains("nul")), "{out:?}");
    assert_eq!(out.last().unwrap(), "not ended");
}

#[tokio::test]
async fn a_line_without_end_is_bounded_and_loses_nothing_of_what_follows() {
    let script = "head -c 3000000 /dev/zero | tr '\\0' x; echo; echo after; exit 3";
    let running = start([fragile(Child::process("long", sh(script))).optional()]).await;
    quarantined(running.handle(), "long").await;
    let cause = node(running.handle(), "long").unwrap();
    running.shutdown().await;
    let out = log().texts("long", "stdout");
    assert_eq!(out.last().unwrap(), "after");
    let longest = out.iter().map(String::len).max().unwrap();
    assert!(longest < 1_000_000, "{longest} bytes in a line");
    assert!(out[0].starts_with("xxxx"));
    assert!(cause.status.unwrap_or_default().len() < 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_harms_nobody_and_ends_when_asked() {
    let floods = Child::process("floods", Command::new("yes"));
    let both = Child::process(
        "floods-twice",
        sh("yes >&2 & yes flood & sleep 0.5; exit 3"),
    );
    let quiet = Child::process("quiet", sh("exec sleep 1000"));
    let running = start([floods, fragile(both).optional(), tireless(quiet)]).await;
    let handle = running.handle().clone();
    let pid = until_state(&handle, "quiet", "ready").await.pid.unwrap();
    let begun = Instant::now();
    let words = quarantined(&handle, "floods-twice").await;
    assert!(words.contains("exited with code 3"), "{words}");
    crate::rig::signal(pid, rustix::process::Signal::KILL);
    until_node(&handle, "quiet", "its replacement", |node| {
        node.generation == 2 && node.state == "ready"
    })
    .await;
    tokio::time::sleep(Duration::from_millis(700).saturating_sub(begun.elapsed())).await;
    let before = resident();
    tokio::time::sleep(Duration::from_millis(700)).await;
    let grown = resident().saturating_sub(before);
    assert!(grown < 50_000, "{grown} KiB more in memory");
    assert_eq!(node(&handle, "floods").unwrap().state, "ready");
    let report = running.shutdown().await;
    assert_eq!(report.aborted + report.leaked, 0, "{report:?}");
}

/// KiB of this process in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

#[tokio::test]
async fn one_that_closes_its_output_runs_on() {
    let desk = Desk::new();
    let script = "echo once; exec >&- 2>&-; touch $DESK/closed; exec sleep 1000";
    let running = start([Child::process("silent", desk.sh(script))]).await;
    until("it has closed them", || desk.exists("closed").then_some(())).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let node = node(running.handle(), "silent").unwrap();
    assert_eq!((node.state, node.generation), ("ready", 1));
    assert_eq!(log().texts("silent", "stdout"), ["once"]);
    running.shutdown().await;
    assert_eq!(handle_exit(&["true"]).await, Exit::Exited(0));
}

async fn handle_exit(words: &[&str]) -> Exit {
    let running = start([Child::process(
        "exit",
        Command::new(words[0]).args(&words[1..]),
    )])
    .await;
    let handle = running.handle().clone();
    until_state(&handle, "exit", "done").await;
    let exit = handle.explain("exit").unwrap().last_exit.unwrap();
    running.shutdown().await;
    exit
}

#[tokio::test]
async fn the_last_words_stand_beside_the_cause() {
    let script = "echo fine; echo 'cannot open the store: no space left' >&2; exit 3";
    let running = start([fragile(Child::process("broken", sh(script))).optional()]).await;
    let words = quarantined(running.handle(), "broken").await;
    let node = node(running.handle(), "broken").unwrap();
    let shown = format!("{words} {}", node.status.unwrap_or_default());
    assert!(
        shown.contains("exited with code 3") && shown.contains("no space left"),
        "{shown}"
    );
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_log_loses_no_last_words() {
    let script = "seq 1 800; exit 3";
    let running = start([fragile(Child::process("slow-log", sh(script))).optional()]).await;
    quarantined(running.handle(), "slow-log").await;
    running.shutdown().await;
    let out = log().texts("slow-log", "stdout");
    assert_eq!((out.len(), out.last().unwrap().as_str()), (800, "800"));
}
