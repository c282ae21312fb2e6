//! A panic is one line of the log, whoever panics: this test runs itself as a program that does.

use std::process::{Command, Output};

use ron_host::Log;
use ron_kernel::LogConfig;
use serde_json::Value as Json;

/// Set for the run that panics; says where.
const ROLE: &str = "PANICS_TEST_ROLE";

/// The program: installs the log and panics on a thread, inside of a child's span if so told.
#[test]
fn the_program_that_panics() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    Log::install("thumbs", &LogConfig::default()).unwrap();
    let thread = std::thread::Builder::new().name("writer".to_owned());
    let panicking = thread.spawn(move || {
        let span = tracing::info_span!("child", id = "feed", generation = 2u64, kind = "task");
        let _entered = (role == "child").then(|| span.enter());
        panic!("no {} left", "ink");
    });
    assert!(panicking.unwrap().join().is_err());
}

fn program(role: &str, backtrace: &str) -> (Output, Vec<Json>) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_program_that_panics", "--nocapture"])
        .env(ROLE, role)
        .env("RUST_BACKTRACE", backtrace)
        .output()
        .unwrap();
    // Around the line stands what the test runner says.
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let lines = text.lines().filter(|line| line.starts_with('{'));
    let lines = lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    (output, lines)
}

#[test]
fn a_panic_outside_of_children_is_one_line_with_its_place() {
    let (output, lines) = program("thread", "0");
    assert_eq!(lines.len(), 1, "{lines:?}");
    let line = &lines[0];
    for (key, value) in [
        ("level", "error"),
        ("service", "thumbs"),
        ("event", "panic"),
        ("message", "panic"),
        ("reason", "no ink left"),
        ("thread", "writer"),
    ] {
        assert_eq!(line[key], value, "{line}");
    }
    assert!(
        line["location"]
            .as_str()
            .unwrap()
            .starts_with("hosts/kit/tests/panics.rs:"),
        "{line}"
    );
    assert!(line.get("backtrace").is_none(), "{line}");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn the_backtrace_is_a_field_when_asked_for() {
    let (_, lines) = program("thread", "1");
    assert!(
        lines[0]["backtrace"]
            .as_str()
            .unwrap()
            .contains("the_program_that_panics"),
        "{}",
        lines[0]
    );
}

#[test]
fn the_panic_of_a_child_is_left_to_its_supervisor_but_for_the_backtrace() {
    assert!(program("child", "0").1.is_empty());
    let (_, lines) = program("child", "1");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(
        (&lines[0]["child"], &lines[0]["generation"]),
        (&"feed".into(), &2.into())
    );
}
