//! What the runbook tells an operator to run and to look for, on a node at work.

use std::io::Write;
use std::net::TcpStream;
use std::num::NonZeroU32;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use ron_host::capability::{mint, system_random, Caveat, Keyring};
use serde_json::Value;

use crate::disk::on_disk;
use crate::rig::{bytes, dial, put, Answer, Node, PATIENCE};

/// From the root of the repository, as the runbook's commands are.
const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/micronode.toml");
const MANY: [&str; 2] = ["--http.rps", "1000000"];

fn metrics(node: &Node) -> String {
    String::from_utf8(node.get("/metrics").body).unwrap()
}

/// The sum over a family, or over those of its series that begin so.
fn sum(node: &Node, series: &str) -> f64 {
    let metrics = metrics(node);
    let lines = metrics.lines().filter(|line| line.starts_with(series));
    lines
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum()
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The reason of the cause of this key in `/readyz`, once there is one and the node is in this state.
fn cause(node: &Node, state: &str, key: &str) -> String {
    let began = Instant::now();
    loop {
        let ready = node.get("/readyz");
        let told = ready.json();
        let mut causes = told["causes"].as_array().unwrap().iter();
        let cause = causes.find(|cause| cause["key"] == key);
        if let (Some(cause), true) = (cause, told["state"] == state) {
            let status = if state == "degraded" { 200 } else { 503 };
            assert_eq!(
                (ready.status, &told["degraded"]),
                (status, &(status == 200).into())
            );
            return cause["reason"].as_str().unwrap().to_owned();
        }
        assert!(
            began.elapsed() < PATIENCE,
            "no {key}, or not {state}: {told}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// That many puts of which all but the last byte has come.
fn held(node: &Node, count: usize) -> Vec<TcpStream> {
    let begun = |_| {
        let mut stream = node.connect();
        let request = put(b"abc");
        stream.write_all(&request[..request.len() - 1]).unwrap();
        stream
    };
    (0..count).map(begun).collect()
}

#[test]
fn a_start_from_the_shipped_file_logs_that_it_is_ready_when_readyz_says_so() {
    let node = Node::listening(&["--config", SHIPPED]);
    let line = node.logged("readiness");
    assert_eq!(
        (&line["from"], &line["to"], &line["message"]),
        (&"not_ready".into(), &"ready".into(), &"ready=1".into())
    );
    let ready = node.get("/readyz");
    assert_eq!((ready.status, &ready.json()["ready"]), (200, &true.into()));
    assert_eq!(node.get("/healthz").status, 200);
    for (path, media_type) in [
        ("/healthz", "application/json"),
        ("/readyz", "application/json"),
        ("/version", "application/json"),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
    ] {
        assert_eq!(node.get(path).header("content-type"), Some(media_type));
    }
}

/// "If not ready after 10s"
#[test]
fn a_node_that_has_never_been_ready_says_why_after_ten_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let open_to_all = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(dir.path(), open_to_all).unwrap();
    let began = Instant::now();
    let args = [&on_disk(dir.path())[..], &["--auth.dev_allow", "true"]].concat();
    let node = Node::listening(&args);
    let line = node.logged("readiness");
    assert_eq!(
        (&line["from"], &line["to"], &line["message"]),
        (&"not_ready".into(), &"not_ready".into(), &"ready=0".into())
    );
    assert!(line["reason"].as_str().unwrap().contains("store"), "{line}");
    assert!(began.elapsed() >= Duration::from_secs(10));
    assert_eq!(node.get("/readyz").status, 503);
    assert_eq!(node.get("/healthz").status, 200);
}

#[test]
fn ctrl_c_tells_of_the_shutdown_and_ends_what_does_not_end_at_the_deadline() {
    let mut node = Node::start(&["--config", SHIPPED]);
    let _unfinished = held(&node, 1);
    until("it is not under way", || {
        sum(&node, "inflight_requests{route=\"/put\"}") == 1.0
    });
    let began = Instant::now();
    node.interrupt();
    assert_eq!(node.logged("shutdown")["message"], "KernelEvent::Shutdown");
    // While balancers are told, it is alive and serves.
    assert_eq!(node.get("/readyz").status, 503);
    assert_eq!(node.get("/healthz").status, 200);
    assert_eq!(node.logged("connections_aborted")["stragglers"], 1);
    let report = node.logged("shutdown_report");
    assert_eq!(report["started"], report["stopped"], "{report}");
    assert_eq!(node.wait(), 0);
    // Half a second of linger, and the file's 3 s but for the half second in which the aborted end.
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(2_900), "{took:?}");
}

#[test]
fn without_a_file_the_hardened_limits_are_in_force() {
    let printed = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_micronode"));
        command.args(["config", "print", "--json"]).args(args);
        let output = command.env_clear().output().unwrap();
        let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
        printed["values"].as_array().unwrap().clone()
    };
    let hardened: &[(&str, Value)] = &[
        ("http.addr", "127.0.0.1:8080".into()),
        ("http.read_timeout", "5s".into()),
        ("http.body_timeout", "5s".into()),
        ("http.write_timeout", "5s".into()),
        ("http.inflight", 512.into()),
        ("http.rps", 500.into()),
        ("http.max_body_bytes", "1MiB".into()),
        ("http.max_conns", 1024.into()),
        ("amnesia.enabled", true.into()),
    ];
    for (args, drain) in [(&[][..], "5s"), (&["--config", SHIPPED], "3s")] {
        let values = printed(args);
        let drain = &[("drain.deadline", Value::from(drain))];
        for (key, expected) in hardened.iter().chain(drain) {
            let found = values.iter().find(|value| value["key"] == *key).unwrap();
            assert_eq!(found["value"], *expected, "{key} {args:?}");
        }
    }
}

/// `journalctl -u micronode -f | grep -E "corr_id|reason|ServiceCrashed"`
#[test]
fn a_refusal_is_in_the_log_with_the_id_and_the_reason_that_its_client_was_told() {
    let node = Node::start(&["--store.max_bytes", "1MiB"]);
    assert_eq!(node.put(&vec![1; 600_000]).status, 201);
    let full = node.put(&vec![2; 600_000]);
    let line = node.logged("refused");
    assert_eq!(
        (line["corr_id"].as_str(), &line["reason"], &line["status"]),
        (full.header("x-corr-id"), &"store_full".into(), &507.into())
    );
}

/// `RUST_LOG=debug ./target/release/micronode`
#[test]
fn rust_log_shows_every_refusal_and_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keyring.toml");
    let keyring = Keyring::generate(&mut system_random, SystemTime::now()).unwrap();
    keyring.create(&path).unwrap();
    let path = path.to_str().unwrap();
    let mut node = Node::listening_in(
        &[("RUST_LOG", "trace"), ("RON_LOG", "error")],
        &["--auth.keyring", path, "--drain.linger", "0ms"],
    );
    until("it is not ready", || node.get("/readyz").status == 200);
    let expires = Caveat::Expires(SystemTime::now() + Duration::from_secs(60));
    let caveats = [expires, Caveat::Rps(NonZeroU32::new(1000).unwrap())];
    let token = mint(&keyring, &caveats, &mut system_random, SystemTime::now()).unwrap();
    let token = token.as_str();
    let send = |path: &str, token: &str, body: &[u8]| {
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\nidempotency-key: k\r\ncontent-length: {length}\r\n\r\n"
        );
        node.send([head.as_bytes(), body].concat())
    };
    assert_eq!(send("/put", token, b"canary-of-a-payload").status, 201);
    assert_eq!(
        send("/mbox/send", token, b"canary-of-a-message").status,
        201
    );
    assert_eq!(send("/mbox/recv", token, b"").status, 200);
    let tampered = format!("{}AAAA", &token[..token.len() - 4]);
    assert_eq!(send("/put", &tampered, b"x").status, 403);
    assert_eq!(send(&format!("/put?token={token}"), "x", b"x").status, 401);
    let large = send("/put", token, &vec![1; 2 << 20]);
    assert_eq!(large.status, 413);
    node.terminate();
    assert_eq!(node.wait(), 0);
    let lines = node.rest_of_log();
    let refused = lines.iter().find(|line| {
        line["event"] == "refused" && line["corr_id"].as_str() == large.header("x-corr-id")
    });
    let refused = refused.expect("the refusal");
    assert_eq!(
        (&refused["level"], &refused["status"], &refused["reason"]),
        (&"debug".into(), &413.into(), &"body_cap".into())
    );
    let secret = std::fs::read_to_string(path).unwrap();
    let mut secrets: Vec<&str> = secret
        .split(|c: char| !c.is_ascii_alphanumeric() && !"-_+/".contains(c))
        .filter(|word| word.len() >= 32)
        .collect();
    assert!(!secrets.is_empty());
    secrets.extend([&token[20..60], &token[token.len() - 20..token.len() - 4]]);
    secrets.extend(["canary-of-a-payload", "canary-of-a-message"]);
    for line in lines {
        let line = line.to_string();
        let found = secrets.iter().find(|secret| line.contains(**secret));
        assert!(found.is_none(), "{found:?} in {line}");
    }
}

/// `curl -s http://127.0.0.1:8080/metrics | grep -E "request_latency_seconds|rejected_total|bus_lagged_total"`
#[test]
fn the_metrics_that_are_looked_for_are_there_before_anything_happens_and_count_what_does() {
    let node = Node::start(&["--chaos.armed", "true"]);
    let first = metrics(&node);
    for family in [
        "request_latency_seconds",
        "rejected_total",
        "bus_lagged_total",
        "http_requests_total",
        "service_restarts_total",
        "inflight_requests",
        "queue_depth",
        "integrity_fail_total",
        "tls_handshake_failures_total",
    ] {
        assert!(first.contains(&format!("# TYPE {family} ")), "{family}");
    }
    assert_eq!(node.put(b"content").status, 201);
    assert_eq!(node.put(&vec![1; 2 << 20]).status, 413);
    assert_eq!(sum(&node, "rejected_total{reason=\"413\"}"), 1.0);
    let latency = "request_latency_seconds_bucket{le=\"0.1\",route=\"/put\",method=\"PUT\"}";
    assert!(metrics(&node).contains(latency));
    let puts = "request_latency_seconds_count{route=\"/put\",method=\"PUT\"}";
    assert_eq!(sum(&node, puts), 2.0);
    let message = "POST /mbox/send HTTP/1.1\r\nhost: localhost\r\nidempotency-key: k\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(node.send(message).status, 201);
    until("its depth is not told", || {
        sum(&node, "mailbox_depth ") == 1.0
    });
    node.ctl(&["chaos", "inject", "--fault", "bus_lag", "--for", "60s"]);
    let reason = cause(&node, "degraded", "bus_lag");
    assert!(reason.contains("events lost"), "{reason}");
    assert!(sum(&node, "bus_lagged_total{") > 0.0);
    assert!(sum(&node, "bus_queue_depth{") > 0.0);
}

/// `ronctl tail --topic micronode`
#[test]
fn the_name_of_the_service_is_a_topic_that_has_its_events() {
    let node = Node::start(&["--chaos.armed", "true"]);
    let mailbox = ["--child", "mailbox", "--fault", "panic", "--count", "1"];
    node.ctl(&[&["chaos", "inject"], &mailbox[..]].concat());
    until("it is not restarted", || {
        sum(&node, "service_restarts_total{service=\"mailbox\"}") == 1.0
    });
    // As many as there are in the two topics of the kernel.
    let bus: Value = serde_json::from_str(&node.ctl(&["bus", "--json"])).unwrap();
    let topics = bus["topics"].as_array().unwrap().iter();
    let all: u64 = topics
        .map(|topic| topic["published"].as_u64().unwrap())
        .sum();
    let tail = ["tail", "--topic", "micronode", "--since", "1m", "--json"];
    let told = node.ctl(&[&tail[..], &["--count", &all.to_string()]].concat());
    let crashed = told
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .find(|line| line["event"]["type"] == "ServiceCrashed");
    let crashed = crashed.unwrap_or_else(|| panic!("{told}"));
    assert_eq!(crashed["event"]["service"], "mailbox");
    let reason = crashed["event"]["reason"].as_str().unwrap();
    assert!(reason.contains("injected fault: panic"), "{reason}");
}

#[test]
fn a_crash_loop_is_told_by_name_in_log_metric_and_readyz_and_healthz_stays_200() {
    let node = Node::start(
        &[
            &MANY[..],
            &["--chaos.armed", "true", "--supervisor.min_backoff", "1ms"],
            &["--supervisor.max_backoff", "20ms"],
        ]
        .concat(),
    );
    node.ctl(&["chaos", "inject", "--fault", "panic", "--child", "mailbox"]);
    let crash = node.logged("service_crashed");
    assert_eq!(
        (&crash["message"], &crash["child"]),
        (&"ServiceCrashed".into(), &"mailbox".into())
    );
    let reason = crash["reason"].as_str().unwrap();
    assert!(reason.contains("injected fault: panic"), "{reason}");
    let reason = cause(&node, "not_ready", "child:mailbox");
    assert!(reason.contains("panic"), "{reason}");
    let unready = node.logged("readiness");
    assert!(unready["reason"].as_str().unwrap().contains("mailbox"));
    assert_eq!(
        sum(&node, "service_restarts_total{service=\"mailbox\"}"),
        5.0
    );
    assert_eq!(node.get("/healthz").status, 200);
    // Writes are refused first.
    let refused = node.put(b"x");
    assert_eq!((refused.status, &*refused.reason()), (503, "not_ready"));
    assert_eq!(sum(&node, "rejected_total{reason=\"503\"}"), 1.0);
    let absent = format!("/o/b3:{}", "0".repeat(64));
    assert_eq!(node.get(&absent).status, 404);
}

#[test]
fn above_three_fifths_of_its_places_it_is_degraded_and_above_four_fifths_not_ready() {
    let node = Node::start(
        &[
            &MANY[..],
            &["--http.inflight", "10"],
            &["--http.body_timeout", "60s", "--http.read_timeout", "60s"],
        ]
        .concat(),
    );
    let mut under_way = held(&node, 7);
    let reason = cause(&node, "degraded", "saturation");
    assert_eq!(reason, "7 of 10 requests under way");
    assert_eq!(node.put(b"x").status, 201);
    under_way.extend(held(&node, 2));
    let reason = cause(&node, "not_ready", "saturation");
    assert_eq!(reason, "9 of 10 requests under way");
    assert_eq!(sum(&node, "inflight_requests{route=\"/put\"}"), 9.0);
    // Others are to take the requests. What comes has its place all the same, as long as there is one.
    assert_eq!(node.put(b"x").status, 201);
    assert_eq!(node.get("/healthz").status, 200);
    for stream in &mut under_way {
        stream.write_all(b"c").unwrap();
        assert_eq!(Answer::read(stream, false).unwrap().status, 201);
    }
    until("it stays busy", || node.get("/readyz").status == 200);
}

/// Configuration drift: `config validate PATH`, `config print`, a reload.
#[test]
fn a_limit_that_is_wrong_is_shown_with_its_origin_and_mended_by_a_reload() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.toml");
    let file = path.to_str().unwrap();
    std::fs::write(&path, "[http]\nmax_body_bytes = \"1KiB\"\n").unwrap();
    let node = Node::start(&["--config", file]);
    let drifted = node.put(&[1; 2048]);
    assert_eq!((drifted.status, &*drifted.reason()), (413, "body_cap"));
    let explained = node.ctl(&["config", "explain", "http.max_body_bytes"]);
    assert!(explained.contains("1KiB"), "{explained}");
    assert!(explained.contains(file), "{explained}");
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_micronode"));
        command.args(args).env_clear().output().unwrap()
    };
    let other = dir.path().join("other.toml");
    std::fs::write(
        &other,
        "[auth]\ndev_allow = true\n[http]\nmax_body_byte = 1\nrps = \"many\"\n",
    )
    .unwrap();
    let validated = run(&["config", "validate", other.to_str().unwrap()]);
    let told = String::from_utf8(validated.stderr).unwrap();
    assert_eq!(validated.status.code(), Some(2), "{told}");
    for defect in ["max_body_byte", "http.rps"] {
        assert!(told.contains(defect), "{told}");
    }
    std::fs::write(&path, "[http]\nmax_body_bytes = \"4KiB\"\n").unwrap();
    node.hang_up();
    let line = node.logged("config_updated");
    assert_eq!(line["message"], "ConfigUpdated", "{line}");
    until("it is not in force", || node.put(&[1; 2048]).status == 201);
}

#[test]
fn beyond_its_rate_it_is_degraded_and_ready() {
    let node = Node::start(&["--http.rps", "20"]);
    let absent = format!("/o/b3:{}", "0".repeat(64));
    let began = Instant::now();
    let mut refused = None;
    loop {
        let ready = node.get("/readyz");
        assert_eq!(ready.status, 200);
        if ready.json()["state"] == "degraded" {
            assert!(ready.json()["causes"].to_string().contains("http.rps"));
            break;
        }
        let answers = (0..10).map(|_| node.get(&absent));
        refused = answers.filter(|answer| answer.status == 429).last();
        assert!(began.elapsed() < PATIENCE, "{}", ready.json());
    }
    assert_eq!(refused.unwrap().header("retry-after"), Some("1"));
    until("it stays degraded", || {
        node.get("/readyz").json()["state"] == "ready"
    });
}

#[test]
fn requests_that_wait_for_a_place_are_counted_by_what_came_of_that() {
    let times = ["--http.body_timeout", "60s", "--http.read_timeout", "60s"];
    let node = Node::start(&[&MANY[..], &["--http.inflight", "1"], &times].concat());
    let mut under_way = held(&node, 1);
    until("it is not under way", || {
        sum(&node, "inflight_requests{route=\"/put\"}") == 1.0
    });
    let absent = format!("/o/b3:{}", "0".repeat(64));
    let late = node.get(&absent);
    assert_eq!((late.status, &*late.reason()), (503, "inflight"));
    assert_eq!(sum(&node, "inflight_waits_total{outcome=\"late\"}"), 1.0);
    // One waits whenever the gauge is set.
    let (addr, request) = (
        node.addr,
        format!("GET {absent} HTTP/1.1\r\nhost: localhost\r\n\r\n"),
    );
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let mut stream = dial(addr);
                    let _ = stream.write_all(request.as_bytes());
                    let _ = Answer::read(&mut stream, false);
                }
            });
        }
        let began = Instant::now();
        let mut seen = false;
        while !seen && began.elapsed() < PATIENCE {
            seen = sum(&node, "queue_depth{queue=\"inflight\"}") > 0.0;
        }
        over.store(true, Ordering::Relaxed);
        assert!(seen, "nobody is seen to wait");
    });
    under_way[0].write_all(b"c").unwrap();
    assert_eq!(Answer::read(&mut under_way[0], false).unwrap().status, 201);
}

#[test]
fn worker_threads_are_as_many_as_the_environment_says() {
    let workers = |env: &[(&str, &str)], args: &[&str]| {
        let node = Node::listening_in(env, &[&["--auth.dev_allow", "true"], args].concat());
        until("it is not ready", || node.get("/readyz").status == 200);
        let top: Value = serde_json::from_str(&node.ctl(&["top", "--json"])).unwrap();
        top["process"]["threads"].as_u64().unwrap()
    };
    let one = workers(&[("TOKIO_WORKER_THREADS", "1")], &[]);
    // A thread or two look at files, one time or another.
    for (env, args) in [
        (&[("TOKIO_WORKER_THREADS", "21")][..], &[][..]),
        (&[("RON_RUNTIME_WORKERS", "21")], &[]),
        (&[], &["--runtime.workers", "21"]),
    ] {
        let more = workers(env, args) - one;
        assert!((18..=22).contains(&more), "{env:?} {args:?}: {more}");
    }
}

#[test]
fn the_numbers_of_threads_are_keys_like_others() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.toml");
    let file = path.to_str().unwrap();
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_micronode"));
        let output = command.args(args).env_clear().output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    for (key, value, expected) in [
        ("workers", "0", "from 1 to 1024"),
        ("workers", "10_000", "from 1 to 1024"),
        ("workers", "\"many\"", "from 1 to 1024"),
        ("blocking", "0", "from 1 to 4096"),
        ("blocking", "10_000", "from 1 to 4096"),
    ] {
        std::fs::write(&path, format!("[runtime]\n{key} = {value}\n")).unwrap();
        let (code, told) = run(&["config", "validate", file]);
        assert_eq!(code, Some(2), "{told}");
        assert!(told.contains(&format!("runtime.{key}")), "{told}");
        assert!(told.contains(expected) && told.contains(":2:"), "{told}");
    }
    std::fs::write(&path, "[runtime]\nworkers = 3\nblocking = 7\n").unwrap();
    let node = Node::listening(&["--auth.dev_allow", "true", "--config", file]);
    let explained = node.ctl(&["config", "explain", "runtime.workers"]);
    assert!(explained.contains(file), "{explained}");
    let (_, schema) = run(&["config", "schema"]);
    assert!(schema.contains("\"blocking\""), "{schema}");
    std::fs::write(&path, "[runtime]\nworkers = 4\nblocking = 7\n").unwrap();
    node.hang_up();
    let line = node.logged("config_unchanged");
    assert_eq!(line["needs_restart"], "runtime.workers", "{line}");
}

#[test]
fn a_deployment_is_told_by_the_hash_of_its_configuration() {
    let node = Node::start_with(&["--config", SHIPPED]);
    let version = node.get("/version").json();
    let mut validate = Command::new(env!("CARGO_BIN_EXE_micronode"));
    let validated = validate.args(["config", "validate", SHIPPED]).env_clear();
    let told = String::from_utf8(validated.output().unwrap().stdout).unwrap();
    let sha = version["config_sha"].as_str().unwrap();
    assert!(sha.len() == 64 && told.contains(sha), "{sha}: {told}");
}

/// "Snapshot/restore the data dir with service stopped"
#[test]
fn a_copy_of_the_directory_of_a_stopped_node_has_its_objects() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, copy) = (parent.path().join("dir"), parent.path().join("copy"));
    let mut node = Node::start(&on_disk(&dir));
    let body = bytes(7, 200_000);
    let path = format!("/o/{}", node.put(&body).json()["addr"].as_str().unwrap());
    node.terminate();
    assert_eq!(node.wait(), 0);
    let mut copying = Command::new("cp");
    let copied = copying.arg("-a").args([&dir, &copy]).status();
    assert!(copied.unwrap().success());
    std::fs::remove_dir_all(&dir).unwrap();
    let node = Node::start(&on_disk(&copy));
    let got = node.get(&path);
    assert!(got.status == 200 && got.body == body, "{}", got.status);
}
