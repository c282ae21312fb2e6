//! What keeps the demo from starting: one clear line and the documented exit code.

use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use serde_json::Value as Json;

use crate::process::{run, BINARY};

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Exit code 2, nothing on stdout, and exactly these words on one line of stderr.
fn refused(args: &[&str], env: &[(&str, &str)], words: &[&str]) {
    let output = run(args, env);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{args:?} {env:?}: {text}");
    assert!(output.stdout.is_empty(), "{args:?} {env:?}");
    assert_eq!(text.lines().count(), 1, "{args:?} {env:?}: {text}");
    for word in words {
        assert!(text.contains(word), "{args:?} {env:?}: no {word} in {text}");
    }
}

#[test]
fn a_taken_port_is_one_bind_error_and_exit_98() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let output = run(&[], &[("RON_KERNEL_METRICS_ADDR", &addr)]);
    assert_eq!(output.status.code(), Some(98));
    assert_eq!(stderr(&output), "");
    let lines = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Json> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let errors: Vec<&Json> = lines
        .iter()
        .filter(|line| line["level"] == "error")
        .collect();
    assert_eq!(errors.len(), 1, "{lines:#?}");
    let message = errors[0]["message"].as_str().unwrap();
    assert!(
        message.contains("bind error") && message.contains(&addr),
        "{message}"
    );
}

#[test]
fn an_unknown_flag_is_one_line_with_a_suggestion() {
    refused(
        &["--bus.capcity", "64"],
        &[],
        &["unknown flag", "--bus.capacity"],
    );
    refused(
        &["--confg", "x"],
        &[],
        &["unknown flag --confg", "`--config`"],
    );
    refused(&["--frobnicate"], &[], &["--frobnicate", "unknown flag"]);
    refused(
        &["conifg", "print"],
        &[],
        &["unknown command `conifg print`", "`config print`"],
    );
}

#[test]
fn a_bad_value_is_one_line_with_its_place_and_the_range() {
    refused(
        &["--bus.capacity", "1"],
        &[],
        &["--bus.capacity", "out of range", "from 2 to 1048576"],
    );
    refused(
        &[],
        &[("RON_BUS_CAPACITY", "1")],
        &["RON_BUS_CAPACITY", "out of range"],
    );
    refused(
        &[],
        &[("RON_BUS_CAPCITY", "64")],
        &["RON_BUS_CAPCITY", "`RON_BUS_CAPACITY`"],
    );
    refused(
        &[],
        &[("RUST_LOG", "inof")],
        &["RUST_LOG", "log.level", "did you mean `info`?"],
    );
    refused(
        &[],
        &[("RON_AMNESIA", "perhaps")],
        &["RON_AMNESIA", "amnesia.enabled"],
    );
    refused(
        &["--config", "/nonexistent/x.toml"],
        &[],
        &["/nonexistent/x.toml", "no such file"],
    );
}

#[test]
fn all_defects_of_a_file_are_told_at_once_one_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.toml");
    std::fs::write(
        &path,
        "[bus]\ncapacity = 1\n[drain]\ndeadline = 5\nlingr = \"1s\"\n",
    )
    .unwrap();
    let path = path.to_str().unwrap();
    let output = run(&["--config", path], &[]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(text.lines().count(), 3, "{text}");
    for (line, place) in text.lines().zip([
        ":2:12: bus.capacity",
        ":4:12: drain.deadline",
        ":5:1: drain.lingr",
    ]) {
        assert!(line.contains(&format!("{path}{place}")), "{line}");
    }
    // For a person at a terminal, with the pieces of source.
    let output = run(&["config", "validate", path], &[]);
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    assert!(
        text.contains("3 defects") && text.contains("  2 | capacity = 1"),
        "{text}"
    );
}

#[test]
fn a_file_that_may_not_be_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret.toml");
    std::fs::write(&path, "").unwrap();
    let mode = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap()
    };
    mode(&path, 0o000);
    // Root reads anything: run as nobody, from a copy that nobody may execute.
    let mut command = if std::fs::metadata(dir.path()).unwrap().uid() == 0 {
        let copy = dir.path().join("demo");
        std::fs::copy(BINARY, &copy).unwrap();
        mode(dir.path(), 0o755);
        let mut command = Command::new(copy);
        command.uid(65534).gid(65534);
        command
    } else {
        Command::new(BINARY)
    };
    let output = command
        .arg("--config")
        .arg(&path)
        .env_clear()
        .current_dir("/")
        .output()
        .unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(
        text.contains(path.to_str().unwrap()) && text.contains("permission denied"),
        "{text}"
    );
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.toml");
    std::fs::write(
        &path,
        "max_conns = 3\n[bus]\ncapacity = 3\n[drain]\ndeadline = \"3s\"\n",
    )
    .unwrap();
    let env = [
        ("RON_CONFIG", path.to_str().unwrap()),
        ("RON_BUS_CAPACITY", "4"),
        ("RON_DRAIN_DEADLINE", "4s"),
        ("RUST_LOG", ""),
    ];
    let output = run(&["config", "print", "--json", "--drain.deadline=5s"], &env);
    let printed: Json = serde_json::from_slice(&output.stdout).unwrap();
    let value = |key: &str| {
        let values = printed["values"].as_array().unwrap();
        let found = values.iter().find(|value| value["key"] == key).unwrap();
        (found["value"].clone(), found["origin"]["layer"].clone())
    };
    assert_eq!(value("max_conns"), (3.into(), "file".into()));
    assert_eq!(value("bus.capacity"), (4.into(), "env".into()));
    assert_eq!(value("drain.deadline"), ("5s".into(), "flag".into()));
    assert_eq!(
        value("observability.addr"),
        ("127.0.0.1:9909".into(), "default".into())
    );
    assert_eq!(
        value("observability.expose_http"),
        (true.into(), "default".into())
    );
    assert_eq!(value("log.level"), ("info".into(), "default".into()));
}

#[test]
fn the_shipped_configuration_is_valid_and_arms_chaos_without_a_fault() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/ron-kernel.toml");
    let output = run(&["config", "validate", path], &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let printed = run(&["config", "print", path], &[]);
    let text = String::from_utf8(printed.stdout).unwrap();
    assert!(
        text.contains("armed = true") && text.contains("fault = \"none\""),
        "{text}"
    );
}

#[test]
fn help_names_every_key_variable_and_exit_code() {
    let text = String::from_utf8(run(&["--help"], &[]).stdout).unwrap();
    for word in [
        "--config PATH",
        "config validate PATH",
        "RON_BUS_CAPACITY",
        "RON_KERNEL_METRICS_ADDR",
        "RON_AMNESIA\n",
        "demo.status_interval",
        "98",
        "130",
    ] {
        assert!(text.contains(word), "no {word} in {text}");
    }
    let version = String::from_utf8(run(&["--version"], &[]).stdout).unwrap();
    assert!(
        version.starts_with("ron-kernel-demo 0.") && version.lines().count() == 1,
        "{version}"
    );
}
