//! One report holds every defect, each in its place.

#[path = "fixture/service.rs"]
mod service;

use ron_config::Loader;
use service::Service;
use tempfile::TempDir;

/// 21 defects; the line numbers below count from 1.
const FILE: &str = r#"capicity = 3
max_conns = 0
tags = ["x", 7, "y", true]
labels = { region = 4 }
[bus]
capacity = 1000
max_lag = -1
max_lag = 12
[supervisor]
min_backoff = 250
max_backoff = "5 s"
restart_cap = 300
give_up_after = 0
[pq]
mode = "hybird"
[observability]
expose_http = "yes"
addr = "localhost"
[limits]
body = "64KB"
[auth]
tokn = "canary"
keys = "canary"
[[child]]
name = "one"
[[child]]
name = "two"
command = "run"
retries = 3
[[child]]
name = 7
command = "run"
"#;

/// Four more defects, and two pairs that are none.
const ENV: [(&str, &str); 6] = [
    ("RON_BUS_CAPACTY", "64"),
    ("RON_STORAGE_FOO_BAR_BAZ", "x"),
    ("RON_AUTH_PIN", "canary"),
    ("LEDGER_DEADLINE_MS", "soon"),
    ("RON_SVC_INDEX_BIN", "a sibling's"),
    ("PATH", "/bin"),
];

/// Place, key, a part of the problem, suggestion; in the order of the report.
const EXPECTED: [(&str, &str, &str, Option<&str>); 25] = [
    ("FILE:1:1", "capicity", "unknown key", Some("bus.capacity")),
    ("FILE:2:13", "max_conns", "0 is out of range", None),
    ("FILE:3:14", "tags", "found 7", None),
    ("FILE:3:22", "tags", "found true", None),
    ("FILE:4:21", "labels", "found 4", None),
    (
        "FILE:6:12",
        "bus.capacity",
        "1000 is not a power of two",
        None,
    ),
    (
        "FILE:7:11",
        "bus.max_lag",
        "-1 is outside 0 to 4294967295",
        None,
    ),
    ("FILE:8:1", "bus.max_lag", "stands in the file twice", None),
    (
        "FILE:10:15",
        "supervisor.min_backoff",
        "250 is a bare number and needs a unit",
        None,
    ),
    (
        "FILE:11:15",
        "supervisor.max_backoff",
        "unknown unit",
        Some("5s"),
    ),
    (
        "FILE:12:15",
        "supervisor.restart_cap",
        "300 is outside 0 to 255",
        None,
    ),
    (
        "FILE:13:17",
        "supervisor.give_up_after",
        "0 is out of range",
        None,
    ),
    (
        "FILE:15:8",
        "pq.mode",
        "found the text \"hybird\"",
        Some("hybrid"),
    ),
    (
        "FILE:17:15",
        "observability.expose_http",
        "found the text \"yes\"",
        None,
    ),
    (
        "FILE:18:8",
        "observability.addr",
        "found the text \"localhost\"",
        None,
    ),
    ("FILE:20:8", "limits.body", "unknown unit", Some("64KiB")),
    ("FILE:22:1", "auth.tokn", "unknown key", Some("auth.token")),
    ("FILE:23:8", "auth.keys", "a secret, does not fit", None),
    ("FILE:24:1", "child[0].command", "missing", None),
    (
        "FILE:29:11",
        "child[1].retries",
        "retries need a grace period",
        None,
    ),
    ("FILE:31:8", "child[2].name", "found 7", None),
    (
        "RON_BUS_CAPACTY",
        "",
        "unknown variable",
        Some("RON_BUS_CAPACITY"),
    ),
    ("RON_AUTH_PIN", "auth.pin", "a secret, does not fit", None),
    ("RON_STORAGE_FOO_BAR_BAZ", "", "unknown variable", None),
    (
        "LEDGER_DEADLINE_MS",
        "ledger.deadline",
        "does not begin with a whole number",
        None,
    ),
];

#[test]
fn twenty_five_defects_give_twenty_five_located_diagnostics() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("svc.toml");
    std::fs::write(&path, FILE).unwrap();
    let errors = Loader::<Service>::new("svc")
        .file(&path)
        .env(ENV)
        .siblings(["RON_SVC_"])
        .load()
        .unwrap_err();
    assert_eq!(errors.len(), EXPECTED.len(), "{errors}");
    let shown = path.display().to_string();
    for (found, (place, key, problem, suggestion)) in errors.iter().zip(EXPECTED) {
        assert_eq!(found.place(), place.replace("FILE", &shown), "{errors}");
        assert_eq!(found.key(), key, "{found}");
        assert!(found.what().contains(problem), "{found}");
        assert_eq!(found.did_you_mean(), suggestion, "{found}");
    }
    assert!(!errors.to_string().contains("canary"), "{errors}");
    assert!(!errors.to_json().to_string().contains("canary"), "{errors}");
}

#[test]
fn a_report_lists_a_hundred_defects_and_counts_the_rest() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("svc.toml");
    let lines: Vec<String> = (0..150).map(|n| format!("unknown{n} = 1\n")).collect();
    std::fs::write(&path, lines.concat()).unwrap();
    let errors = Loader::<Service>::new("svc")
        .file(&path)
        .load()
        .unwrap_err();
    assert_eq!((errors.len(), errors.omitted()), (100, 50));
    assert!(errors.to_string().starts_with("150 defects"));
    assert!(errors.to_string().ends_with("50 more not shown"));
}

#[test]
fn a_default_outside_its_own_range_is_the_programs_defect() {
    let defaults = Service {
        restart_cap: 0,
        ..Service::default()
    };
    let errors = Loader::new("svc").defaults(defaults).load().unwrap_err();
    let error = errors.iter().next().unwrap();
    assert_eq!(
        (error.place(), error.key()),
        ("default", "supervisor.restart_cap")
    );
    assert!(error.what().contains("program's own default"), "{error}");
}

#[test]
fn a_check_across_keys_stands_at_the_strongest_layer_it_concerns() {
    let errors = Loader::<Service>::new("svc")
        .env([("RON_SUPERVISOR_MIN_BACKOFF", "5s")])
        .flags([("--supervisor.max_backoff", "1s")])
        .load()
        .unwrap_err();
    assert_eq!(errors.len(), 1, "{errors}");
    let error = errors.iter().next().unwrap();
    assert_eq!(error.key(), "supervisor.max_backoff");
    assert_eq!(error.place(), "--supervisor.max_backoff");
}
