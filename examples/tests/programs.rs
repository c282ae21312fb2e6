//! Runs every program and looks for what its reader should see.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{symlink, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use ron_kernel::process::{Probe, ProbeError};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

/// The slowest takes 4 s on an idle machine.
const LIMIT: Duration = Duration::from_secs(60);

/// How the program ended; one that takes too long is killed. It prints less than a pipe holds, so nobody has to read
/// meanwhile.
fn ended(command: &mut Command) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = command.env("RUST_BACKTRACE", "0").spawn().unwrap();
    let begun = Instant::now();
    while begun.elapsed() < LIMIT && running.try_wait().unwrap().is_none() {
        sleep(Duration::from_millis(10));
    }
    // Does nothing to one that has ended.
    running.kill().unwrap();
    running.wait_with_output().unwrap()
}

/// What the program printed; it must have ended well.
fn run(program: &str) -> String {
    let output = ended(&mut Command::new(program));
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
fn kept_listener_refuses_nobody() {
    let output = run(env!("CARGO_BIN_EXE_kept_listener"));
    assert_tells(&output, &["the server listens on", "answered, 0 refused, "]);
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

#[test]
fn supervised_actor_keeps_its_mailbox_while_the_kernel_restarts_it() {
    let output = run(env!("CARGO_BIN_EXE_supervised_actor"));
    assert_tells(
        &output,
        &[
            "/readyz answers 503",
            "thumbs: incarnation 1 has its codecs",
            "/readyz answers 200",
            "first.png by incarnation 1",
            "thumbs: incarnation 2 has its codecs",
            "cat.png by incarnation 1",
            "cat.avif: the actor did not answer the message it handled",
            "dog.png by incarnation 2",
            "ServiceCrashed: panicked: no codec for cat.avif",
            "the kernel restarted it 1 time",
            "thumbs: 6 made since the start; nothing is left",
            "a.png by incarnation 2",
            "e.png by incarnation 2",
            "late.png: the mailbox is closed",
            "kernel: 1 started, 1 stopped",
            "9 accepted = 8 ok + 1 panicked, 1 refused after the end, balanced: true",
        ],
    );
}

#[test]
fn actor_signals_shows_actors_on_the_page_of_the_kernel_and_reloads_on_its_bus() {
    let output = run(env!("CARGO_BIN_EXE_actor_signals"));
    assert_tells(
        &output,
        &[
            "job 4: the mailbox is full",
            "{\"source\":\"file\",\"diff\":[\"defaults.deadline: 1s -> 2s (hot)\"],\
             \"needs_restart\":[\"defaults.mailbox_capacity: 256 -> 512 (cold)\"]}",
            "  ron_kernel_ready 1",
            "  ryker_mailbox_depth{actor=\"jobs\"} 0",
            "  ryker_mailbox_dropped_total{actor=\"jobs\",reason=\"capacity\"} 3",
            "  ryker_busy_rejections_total{actor=\"jobs\"} 3",
            "  ryker_handler_latency_seconds_count{actor=\"jobs\",outcome=\"ok\"} 2",
            "  ryker_config_reload_total{source=\"file\"} 1",
            "  # EOF",
        ],
    );
    assert_eq!(output.matches("# EOF").count(), 1);
}

#[test]
fn overload_is_429_lateness_504_and_a_drain_503_and_nobody_waits_beyond_the_deadline() {
    let output = run(env!("CARGO_BIN_EXE_overload"));
    let row = |what: &str| -> Vec<u64> {
        let line = output.lines().find(|line| line.starts_with(what)).unwrap();
        let numbers = line[what.len()..].split_whitespace();
        numbers.filter_map(|word| word.parse().ok()).collect()
    };
    let [requests, ok, busy, late, draining, told, slowest] = row("100 pages at once")[..] else {
        panic!("{output}");
    };
    assert_eq!(ok + busy + late + draining, requests, "{output}");
    assert!(ok > 0 && busy > 0 && late > 0 && draining == 0, "{output}");
    assert_eq!(told, busy, "a 429 says when to come back:\n{output}");
    // The deadline is 400 ms; the rest is for a machine with other work.
    assert!((400..2_000).contains(&slowest), "{output}");
    assert_eq!(row("one page beyond the deadline")[..5], [1, 0, 0, 1, 0]);
    assert_eq!(row("10 pages while it drains")[..6], [10, 0, 0, 0, 10, 10]);
    assert_tells(
        &output,
        &[
            "the page in hand: 200",
            "drain: 1 pending = 1 handled, clean: true",
            "10 refused while draining; balanced: true",
        ],
    );
}

/// A service that `v1_health` plays. One that a test leaves behind is killed.
struct Service(Child);

impl Service {
    /// Runs it until it listens at `socket`; from then on nobody reads what it prints.
    fn start(command: &mut Command, socket: &Path) -> Service {
        let mut service = Service(command.stdout(Stdio::piped()).spawn().unwrap());
        let mut line = String::new();
        let mut stdout = BufReader::new(service.0.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let expected = format!(" listens at {}\n", socket.display());
        assert!(line.ends_with(&expected), "{line:?}");
        service
    }

    /// Asks it to end; whether it did so cleanly.
    fn ends_at(mut self, signal: &str) -> bool {
        let pid = self.0.id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &pid]).status();
        assert!(sent.unwrap().success());
        self.0.wait().unwrap().success()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Neither does anything to one that has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn v1_health() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_v1_health"));
    for variable in ["RON_INDEX_SOCK", "RON_OVERLAY_SOCK", "RON_STORAGE_SOCK"] {
        command.env_remove(variable);
    }
    command
}

/// What the kernel's probe says of it.
async fn probed(socket: &Path) -> Result<(), String> {
    let checked = timeout(LIMIT, Probe::v1_health(socket).check("svc-index")).await;
    checked.unwrap().map_err(|error| match error {
        ProbeError::NotWell { reason, .. } => reason,
        other => panic!("{other}"),
    })
}

/// The messages of the services: structs, as rmp-serde writes them.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Envelope {
    service: String,
    method: String,
    corr_id: u64,
    token: Vec<u8>,
    payload: Vec<u8>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Answer {
    HealthOk,
    Err { err: String },
}

/// Calls `method` as a program built on rmp-serde does.
fn called(stream: &mut UnixStream, method: &str) -> (Envelope, Answer) {
    let request = Envelope {
        service: "svc.index".to_owned(),
        method: method.to_owned(),
        corr_id: 300,
        token: Vec::new(),
        payload: rmp_serde::to_vec("Health").unwrap(),
    };
    let request = rmp_serde::to_vec(&request).unwrap();
    let len = (request.len() as u32).to_be_bytes();
    stream.write_all(&[&len[..], &request].concat()).unwrap();
    let mut len = [0; 4];
    stream.read_exact(&mut len).unwrap();
    let mut answer = vec![0; u32::from_be_bytes(len) as usize];
    stream.read_exact(&mut answer).unwrap();
    let envelope: Envelope = rmp_serde::from_slice(&answer).unwrap();
    let answer = rmp_serde::from_slice(&envelope.payload).unwrap();
    (envelope, answer)
}

#[tokio::test]
async fn v1_health_answers_the_probe_and_older_clients_and_removes_its_socket() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("ron/svc.sock");
    let mut command = v1_health();
    command.args(["--service", "svc-index", "--socket"]);
    let service = Service::start(command.arg(&socket), &socket);
    let mode = fs::metadata(dir.path().join("ron")).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o700);

    assert_eq!(probed(&socket).await, Ok(()));

    let mut stream = UnixStream::connect(&socket).unwrap();
    let (envelope, answer) = called(&mut stream, "v1.health");
    assert_eq!(answer, Answer::HealthOk);
    assert_eq!(
        (envelope.service.as_str(), envelope.corr_id),
        ("svc-index", 300)
    );
    let (envelope, answer) = called(&mut stream, "v1.resolve");
    let err = "unknown method v1.resolve; only v1.health is answered".to_owned();
    assert_eq!(answer, Answer::Err { err });
    assert_eq!(envelope.corr_id, 300);

    // Nonsense ends a connection, and no other.
    for nonsense in [&b"\0\0\0\x03foo"[..], b"\xff\xff\xff\xff"] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(nonsense).unwrap();
        assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
    }
    assert_eq!(probed(&socket).await, Ok(()));

    assert!(service.ends_at("TERM"));
    assert!(!socket.exists());
}

/// The bytes that the kernel sends and takes, as its own tests have them.
#[test]
fn the_golden_bytes_of_a_health_call_are_what_rmp_serde_reads_and_writes() {
    let request = b"\x85\xa7service\xa9svc.index\xa6method\xa9v1.health\xa7corr_id\xcd\x01\x2c\
        \xa5token\x90\xa7payload\x97\xcc\xa6Health";
    let read: Envelope = rmp_serde::from_slice(request).unwrap();
    let expected = Envelope {
        service: "svc.index".to_owned(),
        method: "v1.health".to_owned(),
        corr_id: 300,
        token: Vec::new(),
        payload: rmp_serde::to_vec("Health").unwrap(),
    };
    assert_eq!(read, expected);
    assert_eq!(rmp_serde::to_vec_named(&expected).unwrap(), request);

    let answer = Envelope {
        method: "v1.ok".to_owned(),
        payload: rmp_serde::to_vec(&Answer::HealthOk).unwrap(),
        ..expected
    };
    let written = b"\x95\xa9svc.index\xa5v1.ok\xcd\x01\x2c\x90\x99\xcc\xa8HealthOk";
    assert_eq!(rmp_serde::to_vec(&answer).unwrap(), written);
}

#[tokio::test]
async fn v1_health_can_be_late_unwell_and_silent() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("svc.sock");
    let started = |arguments: &[&str]| {
        let mut command = v1_health();
        Service::start(
            command.args(arguments).arg("--socket").arg(&socket),
            &socket,
        )
    };

    let late = started(&["--not-ready-for", "1000.5"]);
    let reason = probed(&socket).await.unwrap_err();
    let left = reason.strip_prefix("not ready, ").unwrap();
    let left: u32 = left.strip_suffix(" s to go").unwrap().parse().unwrap();
    assert!((900..=1001).contains(&left), "{reason}");
    assert!(late.ends_at("TERM"));

    let soon = started(&["--not-ready-for", "0.2", "--unhealthy-after", "1000"]);
    let begun = Instant::now();
    while probed(&socket).await.is_err() {
        assert!(begun.elapsed() < LIMIT);
        sleep(Duration::from_millis(10));
    }
    assert!(soon.ends_at("INT"));

    let unwell = started(&["--unhealthy-after", "0"]);
    let reason = "unwell, as --unhealthy-after asked".to_owned();
    assert_eq!(probed(&socket).await, Err(reason));
    assert!(unwell.ends_at("TERM"));

    let silent = started(&["--silent"]);
    let probe = Probe::v1_health(&socket);
    let asked = timeout(Duration::from_millis(300), probe.check("a")).await;
    assert!(asked.is_err(), "{asked:?}");
    assert!(silent.ends_at("TERM"));
}

#[tokio::test]
async fn v1_health_is_the_service_by_whose_name_it_is_run() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    symlink(env!("CARGO_BIN_EXE_v1_health"), at("svc-overlay")).unwrap();
    let sockets = [
        ("RON_INDEX_SOCK", "index"),
        ("RON_OVERLAY_SOCK", "overlay"),
        ("RON_STORAGE_SOCK", "storage"),
    ]
    .map(|(variable, name)| (variable, at(name)));
    let mut by_name = Command::new(at("svc-overlay"));
    let overlay = Service::start(by_name.envs(sockets.clone()), &at("overlay"));
    let mut by_flag = v1_health();
    by_flag.args(["--service", "svc-storage"]).envs(sockets);
    let storage = Service::start(&mut by_flag, &at("storage"));

    for socket in ["overlay", "storage"] {
        assert_eq!(probed(&at(socket)).await, Ok(()), "{socket}");
    }
    assert!(!at("index").exists());
    assert!(overlay.ends_at("TERM") && storage.ends_at("TERM"));
}

#[test]
fn v1_health_takes_over_dead_sockets_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("svc.sock");
    let output = |socket: &Path| -> Output {
        let mut command = v1_health();
        ended(command.arg("--socket").arg(socket))
    };

    drop(UnixListener::bind(&socket).unwrap());
    let mut command = v1_health();
    let service = Service::start(command.arg("--socket").arg(&socket), &socket);

    let second = output(&socket);
    assert_eq!(second.status.code(), Some(98));
    let expected = "bind error: another process listens there";
    assert_tells(&String::from_utf8(second.stderr).unwrap(), &[expected]);
    assert!(service.ends_at("TERM"));

    fs::write(&socket, "precious").unwrap();
    let refused = output(&socket);
    assert_eq!(refused.status.code(), Some(1));
    let expected = "bind error: it is there and no socket";
    assert_tells(&String::from_utf8(refused.stderr).unwrap(), &[expected]);
    assert_eq!(fs::read(&socket).unwrap(), b"precious");
}

#[test]
fn v1_health_says_what_is_wrong_with_its_command_line() {
    let cases: [(&[&str], &str); 9] = [
        (&[], "which service?"),
        (&["--service", "svc-x"], "svc-x has no socket that is known"),
        (&["--service"], "--service needs a value"),
        (&["--sock", "/x"], "unknown argument --sock; see --help"),
        (&["x"], "unknown argument x; see --help"),
        (&["--silent", "--silent"], "--silent is given twice"),
        (
            &["--not-ready-for", "-1"],
            "--not-ready-for -1: expected seconds",
        ),
        (
            &["--not-ready-for", "5s"],
            "--not-ready-for 5s: expected seconds",
        ),
        (
            &["--unhealthy-after", "1e9"],
            "--unhealthy-after 1e9: expected seconds",
        ),
    ];
    for (arguments, problem) in cases {
        let output = ended(v1_health().args(arguments));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(problem), "{arguments:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
    let help = ended(v1_health().arg("--help"));
    assert!(help.status.success());
    assert_tells(
        &String::from_utf8(help.stdout).unwrap(),
        &["usage: v1_health", "RON_INDEX_SOCK"],
    );
}
