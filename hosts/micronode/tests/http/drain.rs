//! How the node ends, and that it says who it is.

use std::io::Write;
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use crate::rig::{put, Answer, Node};

#[test]
fn a_put_under_way_is_answered_when_the_node_is_stopped() {
    let mut node = Node::start(&["--drain.linger", "600ms"]);
    let request = put(&[9; 1000]);
    let mut stream = node.connect();
    stream.write_all(&request[..500]).unwrap();
    let mut idle = node.connect();
    while !String::from_utf8(node.get("/metrics").body)
        .unwrap()
        .contains("inflight_requests{route=\"/put\"} 1")
    {}
    node.terminate();
    // It tells before it closes, and serves who has not heard it.
    while node.get("/readyz").status != 503 {}
    let last = node.put(b"last");
    assert_eq!(
        (last.status, last.header("connection")),
        (201, Some("close"))
    );
    std::thread::sleep(Duration::from_millis(1_000));
    assert!(TcpStream::connect(node.addr).is_err(), "it listens no more");
    stream.write_all(&request[500..]).unwrap();
    let answer = Answer::read(&mut stream, false).unwrap();
    assert_eq!(
        (answer.status, answer.header("connection")),
        (201, Some("close"))
    );
    assert!(Answer::read(&mut idle, false).is_none());
    assert_eq!(node.wait(), 0);
}

#[test]
fn a_request_that_does_not_end_is_aborted_and_counted() {
    let mut node = Node::start(&["--drain.deadline", "700ms", "--drain.linger", "0ms"]);
    let mut stream = node.connect();
    stream.write_all(&put(&[9; 1000])[..500]).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    node.terminate();
    let line = node.logged("connections_aborted");
    assert_eq!(line["stragglers"], 1);
    assert_eq!(node.wait(), 0);
}

#[test]
fn an_address_in_use_ends_it_with_98() {
    let node = Node::start(&[]);
    let addr = node.addr.to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_micronode"))
        .args(["--http-addr", &addr, "--auth.dev_allow", "true"])
        .env_clear()
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(98));
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        told,
        format!("micronode: cannot listen on {addr}: address in use\n")
    );
}

#[test]
fn the_shipped_configuration_is_valid_and_shows() {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/micronode.toml");
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_micronode"));
        command.args(args).env_clear().output().unwrap()
    };
    let valid = run(&["config", "validate", shipped]);
    assert!(valid.status.success(), "{valid:?}");
    let shown = run(&[
        "config",
        "print",
        "--config",
        shipped,
        "--http-addr",
        "127.0.0.1:1",
    ]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("http.addr"), "{shown}");
    assert!(shown.contains("127.0.0.1:1"), "{shown}");
    let help = String::from_utf8(run(&["--help"]).stdout).unwrap();
    for name in [
        "--http-addr",
        "--metrics-addr",
        "--amnesia",
        "--pq-mode",
        "RON_HTTP_ADDR",
    ] {
        assert!(help.contains(name), "{name}");
    }
}

#[test]
fn the_version_tells_that_nothing_is_kept() {
    let node = Node::start(&[]);
    let version = node.get("/version").json();
    assert_eq!(version["name"], "micronode");
    assert_eq!(version["features"]["amnesia"], true);
    let corr_id = "a-client's".replace('\'', "_");
    let answer = node.get_with("/healthz", &format!("x-corr-id: {corr_id}\r\n"));
    assert_eq!(answer.header("x-corr-id"), Some(&*corr_id));
    let answer = node.get_with("/healthz", "x-corr-id: a b\r\n");
    assert_eq!(answer.header("x-corr-id").map(str::len), Some(26));
}

#[test]
fn a_restarted_listener_serves_what_was_there() {
    let node = Node::start(&[]);
    let addr = node.put(b"content").json()["addr"]
        .as_str()
        .unwrap()
        .to_owned();
    for generation in 2..4 {
        node.ctl(&["restart", "http"]);
        let line = node.logged("listening");
        assert_eq!(line["generation"], generation);
        let began = std::time::Instant::now();
        loop {
            let mut stream = node.connect();
            let request = format!("GET /o/{addr} HTTP/1.1\r\nhost: localhost\r\n\r\n");
            let sent = stream.write_all(request.as_bytes());
            match sent.ok().and_then(|()| Answer::read(&mut stream, false)) {
                Some(answer) if answer.status == 200 => break,
                _ => assert!(began.elapsed() < crate::rig::PATIENCE, "it does not serve"),
            }
        }
    }
    assert!(node.ctl(&["tree"]).contains("http"));
}
