//! A broken reload shows everywhere and changes nothing; a mended one says what it did.

use crate::process::{Demo, FAST};

#[test]
fn a_broken_reload_is_located_and_unready_and_a_mended_one_clears_it() {
    let demo = Demo::start(FAST);
    demo.get_until("/readyz", |answer| answer.status == 200);
    let sha = demo.get("/version").json()["config_sha"].clone();

    let broken = format!("{FAST}\n[bus]\ncapacity = 1\n");
    let line = broken
        .lines()
        .position(|line| line == "capacity = 1")
        .unwrap()
        + 1;
    demo.configure(&broken);
    demo.signal("HUP");
    let rejected = demo.line_where("SIGHUP", |line| {
        line["event"] == "config_rejected" && line["trigger"] == "SIGHUP"
    });
    assert_eq!(rejected["message"], "ConfigUpdated{error}");
    assert_eq!(rejected["level"], "error");
    assert_eq!(rejected["key"], "bus.capacity");
    let place = rejected["where"].as_str().unwrap();
    assert!(
        place.ends_with(&format!("ron-kernel.toml:{line}:12")),
        "{place}"
    );
    assert!(
        rejected["expected"]
            .as_str()
            .unwrap()
            .contains("from 2 to 1048576"),
        "{rejected}"
    );
    let unready = demo.get_until("/readyz", |answer| answer.status == 503);
    assert!(
        unready.head.contains("\r\nretry-after: "),
        "{}",
        unready.head
    );
    let causes = unready.json()["causes"].clone();
    assert_eq!(causes[0]["key"], "config_reload", "{causes}");
    assert!(
        causes[0]["reason"]
            .as_str()
            .unwrap()
            .contains("bus.capacity"),
        "{causes}"
    );
    assert_eq!(demo.get("/healthz").status, 200);
    assert_eq!(demo.get("/version").json()["config_sha"], sha);
    assert!(demo.sample("config_reload_errors_total") >= 1.0);
    assert_eq!(demo.sample("config_last_reload_successful"), 0.0);
    assert!(demo
        .lines()
        .iter()
        .all(|line| line["event"] != "config_updated"));

    demo.configure(&format!(
        "{FAST}\n[bus]\ncapacity = 8192\n[drain]\ndeadline = \"3s\"\n"
    ));
    demo.signal("HUP");
    let updated = demo.line("config_updated");
    assert_eq!(updated["message"], "ConfigUpdated");
    assert_eq!(updated["version"], 2);
    assert_eq!(updated["applied"], "drain.deadline");
    assert_eq!(updated["needs_restart"], "bus.capacity");
    assert!(
        updated["diff"].as_str().unwrap().contains("8192"),
        "{updated}"
    );
    demo.get_until("/readyz", |answer| answer.status == 200);
    assert_eq!(demo.sample("config_last_reload_successful"), 1.0);
    assert_ne!(demo.get("/version").json()["config_sha"], sha);
    demo.signal("TERM");
    assert_eq!(demo.end().0, Some(0));
}

#[test]
fn a_reload_is_told_once() {
    let demo = Demo::start(FAST);
    demo.line("readiness");
    demo.configure(&format!("{FAST}\n[drain]\ndeadline = \"3s\"\n"));
    demo.line("config_updated");
    demo.configure(&format!("{FAST}\n[drain]\ndeadline = 3\n"));
    demo.line("config_rejected");
    demo.signal("TERM");
    let (_, lines) = demo.end();
    let told = |m: &str| lines.iter().filter(|l| l["message"] == m).count();
    assert_eq!(
        (told("ConfigUpdated"), told("ConfigUpdated{error}")),
        (1, 1)
    );
}
