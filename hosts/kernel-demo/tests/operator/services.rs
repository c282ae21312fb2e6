//! Processes as children: the services of the preset that RON_SVC_*_BIN and RON_*_SOCK bring, and `[[service]]` tables.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use crate::process::{run, Demo, FAST};

const PATH: (&str, &str) = ("PATH", "/usr/bin:/bin");

fn script(dir: &Path, name: &str, mode: u32, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    path
}

/// The cause of `/readyz` for a child; null without one.
fn cause(readyz: &Json, child: &str) -> Json {
    let causes = readyz["causes"].as_array().unwrap();
    let found = causes
        .iter()
        .find(|cause| cause["key"] == format!("child:{child}"));
    found.cloned().unwrap_or_default()
}

fn reason(readyz: &Json, child: &str) -> String {
    cause(readyz, child)["reason"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// Waits for a crash of the child with these words in its reason.
fn crash(demo: &Demo, child: &str, words: &str) {
    demo.line_where(&format!("{child}: {words}"), |line| {
        line["event"] == "service_crashed"
            && line["child"] == child
            && line["reason"]
                .as_str()
                .is_some_and(|reason| reason.contains(words))
    });
}

/// The position in the log of the first line of this event and child.
fn at(lines: &[Json], event: &str, child: &str) -> usize {
    let found = lines
        .iter()
        .position(|line| line["event"] == event && line["child"] == child);
    found.unwrap_or_else(|| panic!("no {event} of {child} in {lines:#?}"))
}

fn is_alive(pid: u64) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn programs_that_cannot_run_are_quarantined_and_named_and_the_exit_code_stays_0() {
    let dir = tempfile::tempdir().unwrap();
    let plain = script(dir.path(), "plain", 0o644, "exit 0");
    let plain = plain.to_str().unwrap();
    let fails = script(dir.path(), "fails", 0o755, "exit 3");
    let fails = fails.to_str().unwrap();
    let unset = None;
    for [index, overlay, storage] in [
        [
            (Some("/nonexistent/svc"), "cannot start `/nonexistent/svc`"),
            (Some("/"), "cannot start `/`"),
            (Some(plain), "cannot start `"),
        ],
        [
            (Some(""), "cannot start ``"),
            (Some(fails), "exited with code 3"),
            // The default, which is not in PATH here.
            (unset, "cannot start `svc-storage`"),
        ],
    ] {
        let names = ["svc-index", "svc-overlay", "svc-storage"];
        let variables = [
            "RON_SVC_INDEX_BIN",
            "RON_SVC_OVERLAY_BIN",
            "RON_SVC_STORAGE_BIN",
        ];
        let given = [index, overlay, storage];
        let mut env = vec![PATH];
        env.extend(
            variables
                .iter()
                .zip(given)
                .filter_map(|(name, (value, _))| Some((*name, value?))),
        );
        let demo = Demo::start_in(FAST, &[], &env);
        for ((child, variable), (value, words)) in names.iter().zip(variables).zip(given) {
            crash(&demo, child, words);
            let told = demo.line_where("preset_service", |line| {
                line["event"] == "preset_service" && line["child"] == *child
            });
            let origin = value.map_or("default".to_owned(), |_| format!("env {variable}"));
            let program = format!("{child} is {:?} ({origin})", value.unwrap_or(child));
            assert!(
                told["message"].as_str().unwrap().contains(&program),
                "{told}"
            );
        }
        let readyz = demo.get_until("/readyz", |answer| {
            let readyz = answer.json();
            names
                .iter()
                .all(|child| reason(&readyz, child).starts_with("quarantined: "))
        });
        assert_eq!(readyz.status, 503);
        demo.signal("TERM");
        let (code, _) = demo.end();
        assert_eq!(code, Some(0));
    }
}

#[test]
fn without_the_variables_there_are_no_services() {
    let demo = Demo::start_in(FAST, &[], &[PATH]);
    demo.get_until("/readyz", |answer| answer.status == 200);
    let tree = demo.asked("tree");
    assert!(
        tree.contains("heartbeat") && !tree.contains("svc-"),
        "{tree}"
    );
    demo.signal("TERM");
    let (code, lines) = demo.end();
    assert_eq!(code, Some(0));
    assert!(lines.iter().all(|line| line["event"] != "preset_service"));
}

/// Answers every `v1.health` call with the payload of a good answer, as a service of the preset would.
fn answer_health(socket: &Path) {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = [0; 4];
            stream.read_exact(&mut head).unwrap();
            let mut call = vec![0; u32::from_be_bytes(head) as usize];
            stream.read_exact(&mut call).unwrap();
            let answer = b"\xa8HealthOk";
            stream
                .write_all(&(answer.len() as u32).to_be_bytes())
                .unwrap();
            stream.write_all(answer).unwrap();
        }
    });
}

#[test]
fn the_preset_is_ready_when_every_service_answers_at_its_socket_and_each_knows_all_sockets() {
    let dir = tempfile::tempdir().unwrap();
    let text = "echo sockets $RON_INDEX_SOCK $RON_OVERLAY_SOCK $RON_STORAGE_SOCK bin $RON_SVC_INDEX_BIN\nexec sleep 1000";
    let program = script(dir.path(), "svc", 0o755, text);
    let program = program.to_str().unwrap();
    let sockets = ["i", "o", "s"].map(|name| dir.path().join(name));
    let [index, overlay, storage] = sockets.each_ref().map(|path| path.to_str().unwrap());
    let env = [
        PATH,
        ("RON_SVC_INDEX_BIN", program),
        ("RON_SVC_OVERLAY_BIN", program),
        ("RON_SVC_STORAGE_BIN", program),
        ("RON_INDEX_SOCK", index),
        ("RON_OVERLAY_SOCK", overlay),
        ("RON_STORAGE_SOCK", storage),
    ];
    let demo = Demo::start_in(FAST, &[], &env);
    answer_health(&sockets[0]);
    answer_health(&sockets[2]);
    demo.get_until("/readyz", |answer| {
        let missing = answer.json()["missing"].clone();
        missing == serde_json::json!(["child:svc-overlay"])
    });
    answer_health(&sockets[1]);
    demo.get_until("/readyz", |answer| answer.status == 200);
    for child in ["svc-index", "svc-overlay", "svc-storage"] {
        // What the kernel alone is told stays with the kernel.
        let said = format!("sockets {index} {overlay} {storage} bin");
        let line = demo.line_where("output", |line| {
            line["child"] == child && line.to_string().contains(&said)
        });
        assert!(!line.to_string().contains(program), "{line}");
    }
    demo.signal("TERM");
    let (code, lines) = demo.end();
    assert_eq!(code, Some(0));
    let pids = lines
        .iter()
        .filter(|line| line["event"] == "process_started");
    let pids: Vec<u64> = pids.filter_map(|line| line["pid"].as_u64()).collect();
    assert_eq!(pids.len(), 3);
    assert!(!pids.into_iter().any(is_alive));
}

#[test]
fn a_service_that_never_answers_is_a_start_timeout_that_readiness_names() {
    let config = format!(
        r#"{FAST}
[[service]]
name = "silent"
command = "sleep"
args = ["1000"]
ready = "v1.health:/nonexistent/silent.sock"
start_timeout = "200ms"
"#
    );
    let demo = Demo::start_in(&config, &[], &[PATH]);
    assert_eq!(demo.get("/readyz").status, 503);
    let readyz = demo.get_until("/readyz", |answer| {
        reason(&answer.json(), "silent").contains("not ready within 200ms")
    });
    assert_eq!(readyz.status, 503);
    crash(&demo, "silent", "not ready within 200ms");
    demo.signal("TERM");
    let (code, lines) = demo.end();
    assert_eq!(code, Some(0));
    let started = lines
        .iter()
        .filter(|line| line["event"] == "process_started");
    let pids: Vec<u64> = started.filter_map(|line| line["pid"].as_u64()).collect();
    assert!(!pids.is_empty() && !pids.into_iter().any(is_alive));
}

/// The preset's own limit of 10 s, once.
#[test]
fn a_service_of_the_preset_that_never_answers_is_given_ten_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let program = script(dir.path(), "svc", 0o755, "exec sleep 1000");
    let socket = dir.path().join("nobody");
    let env = [
        PATH,
        ("RON_SVC_OVERLAY_BIN", program.to_str().unwrap()),
        ("RON_OVERLAY_SOCK", socket.to_str().unwrap()),
    ];
    let demo = Demo::start_in(FAST, &[], &env);
    crash(&demo, "svc-overlay", "not ready within 10s");
    let readyz = demo.get("/readyz");
    assert_eq!(readyz.status, 503);
    assert!(readyz.body.contains("child:svc-overlay"), "{}", readyz.body);
    demo.signal("TERM");
    assert_eq!(demo.end().0, Some(0));
}

#[test]
fn tables_start_and_stop_in_order_and_show_in_tree_and_status() {
    let config = format!(
        r#"{FAST}status_interval = "100ms"
[[service]]
name = "web"
command = "sleep"
args = ["1000"]
after = ["db", "heartbeat"]
[[service]]
name = "db"
command = "sleep"
args = ["1000"]
ready = "200ms"
"#
    );
    let demo = Demo::start_in(&config, &[], &[PATH]);
    demo.get_until("/readyz", |answer| answer.status == 200);
    let status = demo.line_where("status of web", |line| {
        line["event"] == "service_status" && line["child"] == "web" && line["state"] == "ready"
    });
    assert_eq!(status["kind"], "process");
    let tree = demo.asked("tree");
    for child in ["web", "db"] {
        let row = tree
            .lines()
            .find(|row| row.contains(&format!("─ {child} ")))
            .unwrap_or_default();
        assert!(row.contains("pid ") && row.contains("ready"), "{tree}");
    }
    demo.signal("TERM");
    let (code, lines) = demo.end();
    assert_eq!(code, Some(0));
    let health = |child| at(&lines, "health", child);
    assert!(health("db") < at(&lines, "process_started", "web"));
    assert!(health("heartbeat") < at(&lines, "process_started", "web"));
    let stopped = |child| at(&lines, "child_stopped", child);
    assert!(stopped("web") < stopped("db") && stopped("web") < stopped("heartbeat"));
}

#[test]
fn a_reload_that_changes_tables_says_that_they_need_a_restart() {
    let table = "[[service]]\nname = \"a\"\ncommand = \"sleep\"\nargs = [\"1000\"]\n";
    let demo = Demo::start_in(&format!("{FAST}{table}"), &[], &[PATH]);
    demo.get_until("/readyz", |answer| answer.status == 200);
    demo.configure(&format!("{FAST}{table}optional = true\n"));
    let line = demo.line_where("needs_restart", |line| line["needs_restart"] == "service");
    assert_eq!(line["event"], "config_unchanged");
    assert_eq!(demo.get("/readyz").status, 200);
}

#[test]
fn what_a_start_would_do_is_printed_with_its_origins() {
    let env = [PATH, ("RON_SVC_STORAGE_BIN", "/opt/svc-storage")];
    let output = run(&["config", "print"], &env);
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    for line in [
        "preset = \"rustyonions\"  # env RON_SVC_STORAGE_BIN",
        "storage.bin = \"/opt/svc-storage\"  # env RON_SVC_STORAGE_BIN",
        "index.bin = \"svc-index\"  # default",
    ] {
        assert!(printed.contains(line), "{line} in {printed}");
    }
}

#[test]
fn a_socket_stays_open_while_its_service_is_down_and_is_one_bind_error_where_it_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("web.sock");
    let config = format!(
        r#"{FAST}
[[service]]
name = "web"
command = "sh"
args = ["-c", "echo given $LISTEN_FDS $LISTEN_FDNAMES; exit 1"]
listen = ["tcp:127.0.0.1:0", "unix:{}"]
"#,
        path.display()
    );
    let demo = Demo::start_in(&config, &[], &[PATH]);
    demo.line_where("output", |line| {
        line.to_string().contains("given 2 web:web")
    });
    demo.line("child_quarantined");
    let told = demo.line("service_listening");
    let addr = told["addr"]
        .as_str()
        .unwrap()
        .strip_prefix("tcp:")
        .unwrap()
        .to_owned();
    TcpStream::connect(&addr).unwrap();
    UnixStream::connect(&path).unwrap();

    for taken in [format!("tcp:{addr}"), format!("unix:{}", path.display())] {
        let file = dir.path().join("second.toml");
        let table =
            format!("{FAST}[[service]]\nname = \"b\"\ncommand = \"b\"\nlisten = [\"{taken}\"]\n");
        std::fs::write(&file, table).unwrap();
        let file = file.to_str().unwrap();
        // Checking a file takes no address.
        assert!(run(&["config", "validate", file], &[]).status.success());
        let output = run(
            &["--config", file],
            &[("RON_RUN_DIR", dir.path().to_str().unwrap())],
        );
        assert_eq!(output.status.code(), Some(98));
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert!(
            stdout.contains(&format!(
                "bind error: {taken} of service `b`: address in use"
            )),
            "{stdout}"
        );
    }
    demo.signal("TERM");
    assert_eq!(demo.end().0, Some(0));
    assert!(TcpStream::connect(&addr).is_err());
}
