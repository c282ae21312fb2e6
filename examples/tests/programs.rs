//! Runs every program and looks for what its reader should see.

use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The slowest takes 4 s on an idle machine.
const LIMIT: Duration = Duration::from_secs(60);

/// What the program printed; it must have ended well. It prints less than a pipe holds, so nobody has to read meanwhile.
fn run(program: &str) -> String {
    let mut command = Command::new(program);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = command.env("RUST_BACKTRACE", "0").spawn().unwrap();
    let begun = Instant::now();
    while begun.elapsed() < LIMIT && running.try_wait().unwrap().is_none() {
        sleep(Duration::from_millis(10));
    }
    // Does nothing to one that has ended.
    running.kill().unwrap();
    let output = running.wait_with_output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let status = output.status;
    assert!(status.success(), "{program}: {status}\n{stdout}\n{stderr}");
    stdout
}

/// Each of `expected` is part of a line of its own, in this order; other lines may stand between them.
fn assert_tells(output: &str, expected: &[&str]) {
    let mut lines = output.lines();
    for part in expected {
        let found = lines.any(|line| line.contains(part));
        assert!(
            found,
            "no line with {part:?} after the ones before it in\n{output}"
        );
    }
}

#[test]
fn hello_supervisor_starts_in_order_and_stops_in_reverse() {
    let output = run(env!("CARGO_BIN_EXE_hello_supervisor"));
    assert_tells(
        &output,
        &[
            "cache: started",
            "the tree now:",
            "api    waiting",
            "cache  starting  warming up",
            "cache: ready",
            "api: started",
            "the tree now that all are ready:",
            "api    ready",
            "cache  ready     1200 entries",
            "api: stopped",
            "cache: stopped",
            "report: 2 started, 2 stopped",
        ],
    );
}

#[test]
fn crash_and_quarantine_shows_three_restarts_a_quarantine_and_the_way_out() {
    let output = run(env!("CARGO_BIN_EXE_crash_and_quarantine"));
    assert_tells(
        &output,
        &[
            "#1 failed: panicked: no codec for image/avif",
            "drawn from 50ms..=100ms",
            "#2 restarted",
            "drawn from 50ms..=200ms",
            "#3 restarted",
            "drawn from 50ms..=300ms",
            "#4 restarted",
            "#4 failed",
            "     quarantined",
            "why is thumbs quarantined?",
            "because thumbs: panicked: no codec for image/avif",
            "/readyz answers 503",
            "because child:thumbs: ",
            "     released",
            "#5 restarted",
            "     ready",
            "thumbs: ready, generation 5, 4 restarts",
            "api: ready, generation 1, 0 restarts",
            "report: 2 started, 2 stopped",
        ],
    );
}

#[test]
fn hot_reload_applies_refuses_and_asks_for_a_restart() {
    let output = run(env!("CARGO_BIN_EXE_hot_reload"));
    assert_tells(
        &output,
        &[
            "greeter (generation 1): good morning",
            "version 2 is in force",
            "greeter.greeting = \"good evening\"",
            "3 defects in the configuration of greeter",
            "greeter.toml:2:1: greeter.greting: unknown key; did you mean `greeter.greeting`?",
            "greeter.toml:3:11: greeter.workers: 0 is out of range; expected an integer from 1 to 64",
            "greeter.toml:5:12: drain.deadline: 5 is a bare number and needs a unit",
            "version 2 stays in force",
            "/readyz names config_reload: greeter.greting at",
            "needs a restart: greeter.workers",
            "greeter.workers = 2",
            "pending   8 from",
        ],
    );
    assert_tells(&output, &["greeter (generation 1): good evening"]);
}

#[test]
fn slow_subscriber_learns_its_gap_and_every_account_balances() {
    let output = run(env!("CARGO_BIN_EXE_slow_subscriber"));
    assert_tells(
        &output,
        &[
            "slow got [1]",
            "fast got [7, 8, 9]",
            "slow missed 4 events: 2 to 5",
            "slow got [6, 7]",
            "fast: 9 = 9 + 0 + 0, balanced",
            "slow: 9 = 3 + 4 + 2, balanced",
            "slow got [8, 9]; topic is closed",
        ],
    );
}

#[test]
fn graceful_shutdown_finishes_work_in_hand_and_names_who_would_not_stop() {
    let output = run(env!("CARGO_BIN_EXE_graceful_shutdown"));
    assert_tells(
        &output,
        &[
            "uploads: upload 1 half done",
            "/readyz answers 200",
            "shutdown begins",
            "/readyz answers 503",
            "uploads: upload 1 complete",
            "uploads: told to stop",
            "database: last one out",
            "3 started = 2 stopped + 1 aborted + 0 leaked + 0 quarantined",
            "aborted: stubborn",
            "balanced: true",
        ],
    );
    assert_tells(
        &output,
        &["/readyz answers 503", "stubborn: told to stop", "database"],
    );
    assert!(!output.contains("never printed"), "{output}");
}

#[test]
fn the_axum_service_survives_its_packer_only_inside_a_kernel() {
    let before = run(env!("CARGO_BIN_EXE_inside_axum_before"));
    assert_tells(
        &before,
        &["/readyz -> 404", "/packed -> 200 0", "/metrics -> 404"],
    );

    let after = run(env!("CARGO_BIN_EXE_inside_axum"));
    assert_tells(
        &after,
        &[
            "/readyz -> 503 {\"ready\":false",
            "/readyz -> 200 {\"ready\":true",
            "POST /order/teapot -> 202",
            "/packed -> 200 1",
            "/metrics -> 200",
            "service_restarts_total{service=\"packer\"} 1",
            "stop",
            "no answer any more",
        ],
    );
}
