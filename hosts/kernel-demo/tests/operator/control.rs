//! What an operator asks of a running demo and tells it, through its control socket.

use crate::process::{Demo, FAST};
use serde_json::Value as Json;
use std::time::{Duration, Instant};

const ARMED: &str = "\n[chaos]\narmed = true\ndefault_child = \"heartbeat\"\n";

fn count(changes: &Json, kind: &str) -> usize {
    let changes = changes["changes"].as_array().unwrap();
    changes.iter().filter(|one| one["kind"] == kind).count()
}

/// The runbook's drill, word for word, and everything it says to expect.
#[test]
fn the_panic_drill_shows_backoff_cap_quarantine_and_recovery_everywhere_an_operator_looks() {
    let demo = Demo::start(&format!("{FAST}{ARMED}"));
    demo.get_until("/readyz", |answer| answer.status == 200);
    let injected = demo.asked("chaos inject --target ron-kernel --fault=panic");
    assert!(injected.contains("heartbeat"), "{injected}");
    demo.line("child_quarantined");
    let unready = demo
        .get_until("/readyz", |answer| answer.status == 503)
        .json();
    assert_eq!(unready["causes"][0]["key"], "child:heartbeat", "{unready}");

    let explained = demo.asked("explain");
    let head: Vec<&str> = explained.lines().take(24).collect();
    let head = head.join("\n");
    assert!(head.contains("not ready"), "{head}");
    assert!(head.contains("heartbeat is quarantined"), "{head}");
    assert!(head.contains("injected fault: panic"), "{head}");
    assert!(head.contains("release heartbeat"), "{head}");
    let tree = demo.asked("tree");
    let row = tree
        .lines()
        .find(|line| line.contains("heartbeat"))
        .unwrap();
    assert!(row.contains("quarantined"), "{tree}");
    let changes = demo.asked_json("changes --since 1m");
    assert_eq!(count(&changes, "crash"), 6);
    assert_eq!(count(&changes, "restart"), 5);
    assert_eq!(count(&changes, "quarantine"), 1);
    assert_eq!(count(&changes, "command"), 1);

    let published = |topic: &str| {
        let bus = demo.asked_json("bus");
        let topics = bus["topics"].as_array().unwrap();
        let topic = topics.iter().find(|one| one["name"] == topic).unwrap();
        topic["published"].as_u64().unwrap()
    };
    let all = published("kernel") + published("kernel.lifecycle");
    let tail = demo.asked(&format!(
        "tail --topic kernel --since 1m --count {all} --json"
    ));
    let events: Vec<Json> = tail
        .lines()
        .map(|line| serde_json::from_str::<Json>(line).unwrap()["event"].clone())
        .collect();
    let of = |kind: &str| {
        events
            .iter()
            .filter(|event| event["type"] == kind)
            .collect::<Vec<_>>()
    };
    assert_eq!(of("ServiceCrashed").len(), 6);
    assert_eq!(of("Fault").len(), 6);
    assert_eq!(of("Quarantined").len(), 1);
    let delays: Vec<u64> = of("Backoff")
        .iter()
        .map(|event| event["delay_ms"].as_u64().unwrap())
        .collect();
    assert_eq!(delays.len(), 5);
    for (attempt, delay) in delays.iter().enumerate() {
        let ceiling = 20.min(1 << (attempt + 1));
        assert!((1..=ceiling).contains(delay), "{delays:?}");
    }
    for (sample, value) in [
        ("service_restarts_total{service=\"heartbeat\"}", 5.0),
        ("ron_kernel_crashes_total{service=\"heartbeat\"}", 6.0),
        ("ron_kernel_faults_total{kind=\"panic\"}", 6.0),
    ] {
        assert_eq!(demo.sample(sample), value, "{sample}");
    }

    demo.asked("release heartbeat");
    demo.get_until("/readyz", |answer| answer.status == 200);
    assert!(demo.asked("explain").contains("ready, nothing is wrong"));
    let by = demo.asked_json("changes");
    let command = by["changes"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["text"] == "release")
        .unwrap();
    assert_eq!(command["subject"], "heartbeat");
    assert!(
        command["by"].as_str().unwrap().starts_with("uid "),
        "{command}"
    );
}

#[test]
fn a_log_filter_lasts_as_long_as_it_was_asked_for() {
    let demo = Demo::start(FAST);
    let beats = || {
        demo.lines()
            .iter()
            .filter(|line| line["event"] == "heartbeat")
            .count()
    };
    demo.line("admin_listening");
    assert_eq!(beats(), 0);
    let filter = demo.asked_json("log info,ron_kernel_demo=debug --for 500ms");
    assert_eq!(filter["standing"], "info");
    demo.line("heartbeat");
    let ended = demo.line("log_filter");
    assert_eq!(ended["filter"], "info");
    let (lines, then) = (demo.lines().len(), beats());
    // Two beats' time on an idle machine; on a busy one there is even less to see.
    std::thread::sleep(Duration::from_millis(60));
    assert_eq!(beats(), then, "{:#?}", &demo.lines()[lines..]);
    assert_eq!(demo.asked_json("log")["until"], Json::Null);
    let refused = demo.ctl("log inof");
    assert_eq!(refused.status.code(), Some(1));
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(text.contains("did you mean `info`?"), "{text}");
}

#[test]
fn the_configuration_is_explained_checked_and_reloaded() {
    let demo = Demo::start(FAST);
    let explained = demo.asked_json("config explain supervisor.max_backoff");
    assert_eq!(explained["origin"]["layer"], "file", "{explained}");
    assert!(demo.asked("config print").contains("max_backoff"));
    demo.configure(&format!("{FAST}status_interval = \"never\"\n"));
    let check = demo.ctl("config check");
    assert_eq!(check.status.code(), Some(1));
    let text = String::from_utf8_lossy(&check.stdout).into_owned()
        + &String::from_utf8_lossy(&check.stderr);
    assert!(text.contains("demo.status_interval"), "{text}");
    demo.configure(&format!(
        "{FAST}status_interval = \"1s\"\n[bus]\ncapacity = 64\n"
    ));
    let plan = demo.asked("config check");
    assert!(
        plan.contains("demo.status_interval") && plan.contains("bus.capacity"),
        "{plan}"
    );
    let done = demo.asked_json("config reload");
    let listed = |list: &str| {
        done[list]
            .as_array()
            .unwrap()
            .iter()
            .any(|key| key == "bus.capacity")
    };
    assert!(listed("needs_restart") && !listed("applied"), "{done}");
}

#[test]
fn a_drain_can_be_looked_at_first_and_waited_for() {
    let demo = Demo::start(FAST);
    demo.get_until("/readyz", |answer| answer.status == 200);
    let plan = demo.asked("drain --dry-run");
    assert!(
        plan.contains("heartbeat") && plan.contains("status"),
        "{plan}"
    );
    assert_eq!(demo.get("/readyz").status, 200);
    assert_eq!(demo.sockets().len(), 1);
    let report = demo.asked_json("drain --wait");
    assert_eq!(
        (&report["started"], &report["stopped"]),
        (&3.into(), &3.into()),
        "{report}"
    );
    let gone = Instant::now() + Duration::from_secs(10);
    while !demo.sockets().is_empty() {
        assert!(Instant::now() < gone, "{:?}", demo.sockets());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(demo.ctl("tree").status.code(), Some(3));
    let (code, lines) = demo.end();
    assert_eq!(code, Some(0));
    let shutdown = lines
        .iter()
        .find(|line| line["event"] == "shutdown")
        .unwrap();
    assert!(
        shutdown["reason"]
            .as_str()
            .unwrap()
            .starts_with("drain asked by uid "),
        "{shutdown}"
    );
}
