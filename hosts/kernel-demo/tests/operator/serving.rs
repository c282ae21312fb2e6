//! A healthy demo answers everything its runbook asks for.

use std::time::{Duration, Instant};

use crate::process::{run, Demo, FAST};

#[test]
fn it_is_ready_within_a_second_and_serves_the_admin_routes() {
    let begun = Instant::now();
    let demo = Demo::start(FAST);
    let ready = demo.get_until("/readyz", |answer| answer.status == 200);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(1), "ready after {took:?}");
    assert_eq!(ready.json()["state"], "ready");
    for path in ["/healthz", "/livez"] {
        let answer = demo.get(path);
        assert_eq!(
            (answer.status, &*answer.body),
            (200, r#"{"status":"ok"}"#),
            "{path}"
        );
    }
    assert_eq!(demo.get("/nonsense").status, 404);
    let metrics = demo.get("/metrics").body;
    let ours = metrics
        .lines()
        .filter(|line| line.starts_with("ron_kernel"))
        .count();
    assert!(ours > 10, "{metrics}");
    assert_eq!(demo.sample("ron_kernel_ready"), 1.0);
    demo.line_where("ready=1", |line| line["message"] == "ready=1");
    demo.line_where("health", |line| {
        line["message"] == "KernelEvent::Health{ok=true}"
    });
    demo.signal("TERM");
    assert_eq!(demo.end().0, Some(0));
}

#[test]
fn version_shows_build_posture_and_the_hash_of_the_configuration() {
    let demo = Demo::start_with(FAST, &["--amnesia.enabled", "--pq.mode", "hybrid"]);
    let version = demo.get("/version").json();
    assert_eq!(version["name"], "ron-kernel");
    assert_eq!(version["features"]["amnesia"], true);
    assert_eq!(version["features"]["pq"], "hybrid");
    for key in ["version", "build", "rustc", "instance"] {
        assert!(
            version[key].as_str().is_some_and(|text| !text.is_empty()),
            "{key} in {version}"
        );
    }
    let path = demo.config_path();
    let validated = run(&["config", "validate", path.to_str().unwrap()], &[]);
    let sha = version["config_sha"].as_str().unwrap();
    assert_eq!(sha.len(), 64);
    assert!(String::from_utf8(validated.stdout).unwrap().contains(sha));
    let info = demo.get("/metrics").body;
    let info = info
        .lines()
        .find(|line| line.starts_with("ron_kernel_info{"))
        .unwrap();
    assert!(
        info.contains(r#"amnesia="on""#) && info.contains(r#"pq="hybrid""#),
        "{info}"
    );
}

#[test]
fn every_service_gets_a_status_line_each_interval() {
    let demo = Demo::start_with(FAST, &["--demo.status-interval", "100ms"]);
    for child in ["heartbeat", "status", "log-level"] {
        let line = demo.line_where(child, |line| {
            line["event"] == "service_status" && line["child"] == child
        });
        assert_eq!(
            (&line["state"], &line["kind"]),
            (&"ready".into(), &"task".into()),
            "{line}"
        );
    }
    // Again, with the text that the heartbeat moves on.
    let beats = |line: &serde_json::Value| {
        Some(
            line["status"]
                .as_str()?
                .strip_prefix("beat ")?
                .parse::<u64>()
                .unwrap(),
        )
    };
    let first = demo.line_where("beats", |line| beats(line).is_some());
    demo.line_where("later beats", |line| beats(line) > beats(&first));
}

#[test]
fn the_filter_of_the_log_changes_while_it_runs() {
    let demo = Demo::start(FAST);
    demo.line("readiness");
    assert!(demo.lines().iter().all(|line| line["level"] != "debug"));
    demo.configure(&format!(
        "{FAST}\n[log]\nlevel = \"warn,ron_kernel_demo=debug\"\n"
    ));
    demo.signal("HUP");
    let beat = demo.line("heartbeat");
    assert_eq!(
        (&beat["level"], &beat["child"], &beat["generation"]),
        (&"debug".into(), &"heartbeat".into(), &1.into())
    );
    demo.configure(&format!("{FAST}\n[log]\nlevel = \"inof\"\n"));
    demo.signal("HUP");
    let rejected = demo.line("config_rejected");
    assert_eq!(rejected["key"], "log.level");
    assert!(
        rejected["problem"]
            .as_str()
            .unwrap()
            .contains("did you mean `info`?"),
        "{rejected}"
    );
}
