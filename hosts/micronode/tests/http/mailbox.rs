//! The mailbox over a real socket.

use std::collections::HashSet;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use ron_host::capability::{mint, system_random, Caveat, Keyring};
use serde_json::{json, Value};

use crate::rig::{put, Answer, Node, PATIENCE};

fn post(node: &Node, path: &str, headers: &str, body: &[u8]) -> Answer {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\n{headers}content-length: {length}\r\n\r\n"
    );
    node.send([head.as_bytes(), body].concat())
}

fn send(node: &Node, key: &str, body: &[u8]) -> Answer {
    post(
        node,
        "/mbox/send",
        &format!("idempotency-key: {key}\r\n"),
        body,
    )
}

fn receive(node: &Node) -> Answer {
    post(node, "/mbox/recv", "", b"")
}

fn ack(node: &Node, received: &Answer) -> Answer {
    let received = received.json();
    let body = json!({"id": received["id"], "lease": received["lease"]}).to_string();
    post(node, "/mbox/ack", "", body.as_bytes())
}

/// Asks until there is something.
fn wait_for(node: &Node, path: &str) -> Answer {
    let began = Instant::now();
    loop {
        let answer = post(node, path, "", b"");
        if answer.status == 200 {
            return answer;
        }
        assert_eq!(answer.status, 204, "{answer:?}");
        assert!(began.elapsed() < PATIENCE, "nothing at {path}");
    }
}

fn metric(node: &Node, name: &str) -> f64 {
    let text = String::from_utf8(node.get("/metrics").body).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
}

#[test]
fn what_is_sent_is_received_in_order_and_acked_once() {
    let node = Node::start(&[]);
    assert_eq!(receive(&node).status, 204);
    let first = send(&node, "a", b"first");
    assert_eq!(first.status, 201);
    assert_eq!(first.header("content-type"), Some("application/json"));
    let all: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    let second = send(&node, "b", &all);
    assert_eq!(send(&node, "c", b"").status, 201);

    let now: String = ron_kernel::bus::rfc3339(SystemTime::now());
    let received = receive(&node);
    assert_eq!(received.status, 200);
    assert_eq!(received.header("content-type"), Some("application/json"));
    let got = received.json();
    let members: Vec<&String> = got.as_object().unwrap().keys().collect();
    assert_eq!(members.len(), 5, "{members:?}");
    assert_eq!(
        (&got["id"], &got["body_b64"]),
        (&first.json()["id"], &json!("Zmlyc3Q="))
    );
    assert_eq!(got["attempt"], 1);
    let expires_at = got["expires_at"].as_str().unwrap();
    assert!(
        expires_at.len() == now.len() && expires_at > &*now,
        "{expires_at} {now}"
    );
    let text = String::from_utf8(received.body.clone()).unwrap();
    let places = [
        "{\"id\"",
        "\"lease\"",
        "\"body_b64\"",
        "\"attempt\"",
        "\"expires_at\"",
    ];
    let places = places.map(|member| text.find(member).unwrap());
    assert!(places.is_sorted());

    let large = receive(&node);
    assert_eq!(large.json()["id"], second.json()["id"]);
    let decoded = base64(large.json()["body_b64"].as_str().unwrap());
    assert!(decoded == all, "another body");
    let empty = receive(&node);
    assert_eq!(empty.json()["body_b64"], "");
    assert_eq!(receive(&node).status, 204);

    for received in [&received, &large, &empty] {
        let acked = ack(&node, received);
        assert_eq!((acked.status, acked.body.len()), (204, 0));
        let again = ack(&node, received);
        assert_eq!((again.status, &*again.reason()), (404, "lease"));
    }
    for (name, value) in [
        ("sent", 3.0),
        ("received", 3.0),
        ("acked", 3.0),
        ("expired", 0.0),
    ] {
        assert_eq!(
            metric(&node, &format!("mailbox_{name}_total")),
            value,
            "{name}"
        );
    }
    assert_eq!(
        metric(&node, "mailbox_depth") + metric(&node, "mailbox_leased"),
        0.0
    );
    assert_eq!(metric(&node, "mailbox_oldest_age_seconds"), 0.0);
}

fn base64(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let padding = text.bytes().rev().take_while(|byte| *byte == b'=').count();
    let mut bytes: Vec<u8> = text
        .as_bytes()
        .chunks(4)
        .flat_map(|four| {
            let value = four
                .iter()
                .fold(0, |sum, byte| sum << 6 | u32::from(digit(*byte)));
            value.to_be_bytes()[1..].to_vec()
        })
        .collect();
    bytes.truncate(bytes.len() - padding);
    bytes
}

#[test]
fn what_is_not_acked_in_time_is_received_again_under_another_lease() {
    let node = Node::start(&["--mailbox.visibility", "300ms", "--http.rps", "1000000"]);
    let id = send(&node, "a", b"x").json()["id"].clone();
    let first = receive(&node);
    assert_eq!(send(&node, "b", b"y").status, 201);
    assert_eq!(receive(&node).json()["body_b64"], "eQ==");
    // It goes before what was sent after it.
    let second = wait_for(&node, "/mbox/recv");
    assert_eq!(
        (&second.json()["id"], &second.json()["attempt"]),
        (&id, &json!(2))
    );
    assert_ne!(first.json()["lease"], second.json()["lease"]);
    let late = ack(&node, &first);
    assert_eq!((late.status, &*late.reason()), (404, "lease"));
    assert!(metric(&node, "mailbox_expired_total") >= 1.0);
    // Somebody else's lease ends nothing either.
    let mut other = wait_for(&node, "/mbox/recv").json();
    other["id"] = json!("0".repeat(32));
    let body = json!({"id": other["id"], "lease": other["lease"]}).to_string();
    assert_eq!(post(&node, "/mbox/ack", "", body.as_bytes()).status, 404);
}

#[test]
fn what_nobody_acks_is_a_dead_letter_that_is_received_apart() {
    let limits = [
        "--mailbox.visibility",
        "300ms",
        "--mailbox.max_attempts",
        "2",
        "--http.rps",
        "1000000",
    ];
    let node = Node::start(&limits);
    assert_eq!(post(&node, "/mbox/dead", "", b"").status, 204);
    let id = send(&node, "a", b"poison").json()["id"].clone();
    for attempt in 1..=2 {
        let received = wait_for(&node, "/mbox/recv").json();
        assert_eq!(
            (&received["id"], &received["attempt"]),
            (&id, &json!(attempt))
        );
    }
    // Nobody asks, and it is told all the same.
    let began = Instant::now();
    while metric(&node, "mailbox_dead_letters") != 1.0 {
        assert!(began.elapsed() < PATIENCE, "it does not die");
    }
    assert_eq!(receive(&node).status, 204);
    loop {
        let dead = wait_for(&node, "/mbox/dead");
        assert_eq!(
            (&dead.json()["id"], &dead.json()["attempt"]),
            (&id, &json!(2))
        );
        assert_eq!(dead.json()["body_b64"], "cG9pc29u");
        if ack(&node, &dead).status == 204 {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "its lease is always over");
    }
    assert_eq!(post(&node, "/mbox/dead", "", b"").status, 204);
    for (name, value) in [
        ("dead_total", 1.0),
        ("acked_total", 1.0),
        ("dead_letters", 0.0),
    ] {
        assert_eq!(metric(&node, &format!("mailbox_{name}")), value, "{name}");
    }
}

#[test]
fn a_key_is_taken_once_and_says_by_whom_if_it_was_the_same() {
    let node = Node::start(&[]);
    let id = send(&node, "a", b"x").json()["id"].clone();
    let same = send(&node, "a", b"x");
    assert_eq!((same.status, &*same.reason()), (409, "duplicate"));
    let error = &same.json()["error"];
    assert_eq!(
        (&error["details"]["id"], &error["retryable"]),
        (&id, &json!(false))
    );
    let other = send(&node, "a", b"y");
    assert_eq!((other.status, &*other.reason()), (409, "key_reused"));
    assert_eq!(other.json()["error"]["details"].get("id"), None);
    // Not even an ack frees it.
    let received = receive(&node);
    assert_eq!(ack(&node, &received).status, 204);
    let same = send(&node, "a", b"x");
    assert_eq!(
        (same.status, &same.json()["error"]["details"]["id"]),
        (409, &id)
    );
    assert_eq!(receive(&node).status, 204);
    assert_eq!(metric(&node, "mailbox_deduplicated_total"), 2.0);
}

#[test]
fn what_is_no_request_of_the_mailbox_is_refused_by_what_is_wrong() {
    let node = Node::start(&[]);
    let received = {
        assert_eq!(send(&node, "a", b"x").status, 201);
        receive(&node).json()
    };
    let (id, lease) = (&received["id"], &received["lease"]);
    let more = json!({"id": id, "lease": lease, "more": 1}).to_string();
    let list = json!([id, lease]).to_string();
    let number = json!({"id": 1, "lease": lease}).to_string();
    let unknown = json!({"id": "x", "lease": lease}).to_string();
    let upper = json!({"id": id, "lease": "A".repeat(32)}).to_string();
    let (long, longest) = ("k".repeat(129), "k".repeat(128));
    let key = |key: &str| format!("idempotency-key: {key}\r\n");
    let keyed = key("b");
    let twice = format!("{keyed}{keyed}");
    let large = vec![b' '; 1025];
    let cases: &[(&str, &str, &[u8], u16, &str)] = &[
        ("/mbox/send", "", b"x", 400, "idempotency_key"),
        ("/mbox/send", &key(""), b"x", 400, "idempotency_key"),
        ("/mbox/send", &key("a b"), b"x", 400, "idempotency_key"),
        ("/mbox/send", &key("\u{e9}"), b"x", 400, "idempotency_key"),
        ("/mbox/send", &key(&long), b"x", 400, "idempotency_key"),
        ("/mbox/send", &twice, b"x", 400, "idempotency_key"),
        ("/mbox/send?key=1", &keyed, b"x", 400, "query"),
        ("/mbox/recv?dead=true", "", b"", 400, "query"),
        ("/mbox/recv", "", b"x", 400, "body"),
        ("/mbox/recv", "", b"[]", 400, "body"),
        ("/mbox/recv", "", br#"{"visibility":1}"#, 400, "body"),
        ("/mbox/recv", "", &large, 413, "body_cap"),
        ("/mbox/dead", "", b"null", 400, "body"),
        ("/mbox/ack", "", b"", 400, "body"),
        ("/mbox/ack", "", b"{}", 400, "body"),
        ("/mbox/ack", "", more.as_bytes(), 400, "body"),
        ("/mbox/ack", "", list.as_bytes(), 400, "body"),
        ("/mbox/ack", "", number.as_bytes(), 400, "body"),
        ("/mbox/ack", "", &large, 413, "body_cap"),
        ("/mbox/ack", "", unknown.as_bytes(), 404, "lease"),
        ("/mbox/ack", "", upper.as_bytes(), 404, "lease"),
    ];
    for (path, headers, body, status, reason) in cases {
        let answer = post(&node, path, headers, body);
        let seen = (answer.status, &*answer.reason());
        assert_eq!(seen, (*status, *reason), "{path} {headers} {body:?}");
    }
    assert_eq!(post(&node, "/mbox/send", &key(&longest), b"x").status, 201);
    assert_eq!(post(&node, "/mbox/recv", "", b" {} ").status, 200);
    let large = post(&node, "/mbox/send", &keyed, &vec![1; (1 << 20) + 1]);
    assert_eq!((large.status, &*large.reason()), (413, "body_cap"));
    let other = node.get("/mbox/recv");
    assert_eq!((other.status, other.header("allow")), (405, Some("POST")));
    // A body that nobody will read is not waited for.
    let head = "POST /mbox/send HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n";
    let early = node.send(head);
    assert_eq!(
        (early.status, early.header("connection")),
        (400, Some("close"))
    );
    // The lease that all of these had is still good.
    let exact = json!({"id": id, "lease": lease}).to_string();
    assert_eq!(post(&node, "/mbox/ack", "", exact.as_bytes()).status, 204);
}

#[test]
fn a_full_mailbox_refuses_sends_and_nothing_else() {
    let node = Node::start(&["--mailbox.max_messages", "2"]);
    assert_eq!(
        (send(&node, "a", b"x").status, send(&node, "b", b"y").status),
        (201, 201)
    );
    let full = send(&node, "c", b"z");
    assert_eq!((full.status, &*full.reason()), (503, "mailbox_full"));
    assert_eq!(full.header("retry-after"), Some("5"));
    assert_eq!(full.json()["error"]["retryable"], true);
    assert_eq!(send(&node, "a", b"x").reason(), "duplicate");
    let began = Instant::now();
    loop {
        let ready = node.get("/readyz");
        assert_eq!(ready.status, 200);
        if ready.json()["degraded"] == true {
            assert!(ready.json()["causes"]
                .to_string()
                .contains("2 of 2 messages"));
            break;
        }
        assert!(began.elapsed() < PATIENCE, "it does not tell");
    }
    // One that is leased still has its place.
    let received = receive(&node);
    assert_eq!(send(&node, "c", b"z").status, 503);
    assert_eq!(ack(&node, &received).status, 204);
    assert_eq!(send(&node, "c", b"z").status, 201);
}

#[test]
fn who_fills_the_places_does_not_close_the_node_to_others() {
    let limits = [
        "--http.inflight",
        "10",
        "--http.body_timeout",
        "30s",
        "--http.read_timeout",
        "30s",
        "--http.rps",
        "1000000",
    ];
    let node = Node::start(&limits);
    assert_eq!(send(&node, "a", b"x").status, 201);
    let _held: Vec<_> = (0..9)
        .map(|_| {
            let mut stream = node.connect();
            stream.write_all(&put(&[9; 1000])[..500]).unwrap();
            stream
        })
        .collect();
    let began = Instant::now();
    while node.get("/readyz").status != 503 {
        assert!(began.elapsed() < PATIENCE, "it stays ready");
    }
    assert_eq!(send(&node, "b", b"y").status, 201);
    let received = receive(&node);
    assert_eq!(received.status, 200);
    assert_eq!(ack(&node, &received).status, 204);
}

#[test]
fn a_mailbox_that_starts_again_has_its_messages_leases_and_keys() {
    let node = Node::start(&["--chaos.armed", "true"]);
    let sent = send(&node, "a", b"x");
    assert_eq!(send(&node, "b", b"y").status, 201);
    let received = receive(&node);
    node.ctl(&[
        "chaos", "inject", "--fault", "panic", "--child", "mailbox", "--count", "1",
    ]);
    let began = Instant::now();
    let restarted = |count| {
        let text = String::from_utf8(node.get("/metrics").body).unwrap();
        text.contains(&format!(
            "service_restarts_total{{service=\"mailbox\"}} {count}\n"
        ))
    };
    while !restarted(1) {
        assert!(began.elapsed() < PATIENCE, "it does not start again");
    }
    assert_eq!(
        send(&node, "a", b"x").json()["error"]["details"]["id"],
        sent.json()["id"]
    );
    assert_eq!(receive(&node).json()["body_b64"], "eQ==");
    // Nor does an operator end it.
    node.ctl(&["restart", "mailbox"]);
    assert_eq!(ack(&node, &received).status, 204);
    assert_eq!(send(&node, "c", b"z").status, 201);
    assert_eq!(receive(&node).json()["body_b64"], "eg==");
}

#[test]
fn a_mailbox_that_does_not_answer_holds_nobody_up_but_those_who_ask_it_and_these_not_for_long() {
    let limits = [
        "--http.body_timeout",
        "500ms",
        "--http.rps",
        "1000000",
        "--chaos.armed",
        "true",
    ];
    let node = Node::start(&limits);
    let inject = ["chaos", "inject", "--fault", "hang", "--child", "mailbox"];
    node.ctl(&[&inject[..], &["--for", "60s"]].concat());
    let began = Instant::now();
    let late = send(&node, "a", b"x");
    assert_eq!((late.status, &*late.reason()), (503, "mailbox_timeout"));
    // Its own deadline, and not the 5 s that the mailbox would give it.
    assert!(began.elapsed() < Duration::from_secs(4));
    assert_eq!(late.header("retry-after"), Some("1"));
    // As many as may wait do.
    let request = b"POST /mbox/recv HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n";
    let began = Instant::now();
    let refused = loop {
        let mut waiting: Vec<_> = (0..300).map(|_| node.connect()).collect();
        waiting
            .iter_mut()
            .for_each(|s| s.write_all(request).unwrap());
        let mut answers = waiting.iter_mut().map(|s| Answer::read(s, false).unwrap());
        if let Some(refused) = answers.find(|answer| answer.reason() == "mailbox_busy") {
            break refused;
        }
        assert!(began.elapsed() < PATIENCE, "all of them wait");
    };
    assert_eq!(
        (refused.status, refused.header("retry-after")),
        (503, Some("1"))
    );
    assert!(metric(&node, "ryker_busy_rejections_total{actor=\"mailbox\"}") >= 1.0);
    assert_eq!(node.put(b"content").status, 201);
    node.ctl(&["chaos", "clear"]);
    while receive(&node).status != 204 {
        assert!(began.elapsed() < PATIENCE, "it does not answer again");
    }
}

#[test]
fn who_shuts_down_is_told_what_ends_with_the_process() {
    let mut node = Node::start(&["--drain.linger", "0ms"]);
    for key in ["a", "b", "c"] {
        assert_eq!(send(&node, key, b"x").status, 201);
    }
    assert_eq!(receive(&node).status, 200);
    node.terminate();
    let line = node.logged("mailbox_lost");
    assert_eq!(
        (&line["waiting"], &line["leased"], &line["dead"]),
        (&json!(2), &json!(1), &json!(0))
    );
    assert_eq!(line["level"], "warn");
    assert_eq!(node.wait(), 0);
}

#[test]
fn a_send_under_way_is_answered_when_the_node_is_stopped() {
    let mut node = Node::start(&["--drain.linger", "0ms"]);
    let mut stream = node.connect();
    let head =
        "POST /mbox/send HTTP/1.1\r\nhost: localhost\r\nidempotency-key: a\r\ncontent-length: 2\r\n\r\nx";
    stream.write_all(head.as_bytes()).unwrap();
    let began = Instant::now();
    while !String::from_utf8(node.get("/metrics").body)
        .unwrap()
        .contains("inflight_requests{route=\"/mbox/send\"} 1")
    {
        assert!(began.elapsed() < PATIENCE, "it is not under way");
    }
    node.terminate();
    // It has stopped listening, and so begun to stop what is left.
    while std::net::TcpStream::connect(node.addr).is_ok() {
        assert!(began.elapsed() < PATIENCE, "it listens");
    }
    stream.write_all(b"y").unwrap();
    assert_eq!(Answer::read(&mut stream, false).unwrap().status, 201);
    assert_eq!(node.logged("mailbox_lost")["waiting"], 1);
    assert_eq!(node.wait(), 0);
}

#[test]
fn many_senders_and_receivers_at_once_lose_nothing_and_share_no_message() {
    const SENDERS: usize = 4;
    const EACH: usize = 40;
    let node = Node::start(&["--http.rps", "1000000"]);
    let acked = AtomicUsize::new(0);
    let began = Instant::now();
    let seen: Vec<Value> = std::thread::scope(|scope| {
        for sender in 0..SENDERS {
            let node = &node;
            scope.spawn(move || {
                for n in 0..EACH {
                    let key = format!("{sender}-{n}");
                    assert_eq!(send(node, &key, key.as_bytes()).status, 201);
                    // Whoever had no answer sends again.
                    assert_eq!(send(node, &key, key.as_bytes()).status, 409);
                }
            });
        }
        let receivers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut seen = Vec::new();
                    while acked.load(Ordering::Relaxed) < SENDERS * EACH {
                        assert!(began.elapsed() < PATIENCE, "something is lost");
                        let received = receive(&node);
                        if received.status == 200 {
                            seen.push(received.json()["id"].clone());
                            assert_eq!(ack(&node, &received).status, 204);
                            acked.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    seen
                })
            })
            .collect();
        receivers
            .into_iter()
            .flat_map(|r| r.join().unwrap())
            .collect()
    });
    let ids: HashSet<&str> = seen.iter().map(|id| id.as_str().unwrap()).collect();
    assert_eq!((seen.len(), ids.len()), (SENDERS * EACH, SENDERS * EACH));
}

#[test]
fn a_capability_for_receiving_takes_no_dead_letters_and_sends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keyring.toml");
    let keyring = Keyring::generate(&mut system_random, SystemTime::now()).unwrap();
    keyring.create(&path).unwrap();
    let node = Node::start_with(&["--auth.keyring", path.to_str().unwrap()]);
    let mint = |below: &str| {
        let expires = Caveat::Expires(SystemTime::now() + Duration::from_secs(60));
        let caveats = [expires, Caveat::Path(below.to_owned())];
        let token = mint(&keyring, &caveats, &mut system_random, SystemTime::now()).unwrap();
        format!(
            "authorization: Bearer {}\r\nidempotency-key: a\r\n",
            token.as_str()
        )
    };
    let (all, receiving) = (mint("/mbox"), mint("/mbox/recv"));
    for path in ["send", "recv", "ack", "dead"] {
        let path = format!("/mbox/{path}");
        let missing = post(&node, &path, "idempotency-key: a\r\n", b"");
        assert_eq!((missing.status, &*missing.reason()), (401, "token_missing"));
        let answer = post(&node, &path, &receiving, b"");
        match &*path {
            "/mbox/recv" => assert_eq!(answer.status, 200),
            _ => assert_eq!((answer.status, &*answer.reason()), (403, "path"), "{path}"),
        }
        let allowed = [201, 200, 400, 204];
        assert!(
            allowed.contains(&post(&node, &path, &all, b"").status),
            "{path}"
        );
    }
}

#[test]
fn a_limit_that_is_raised_while_it_runs_is_in_force_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.toml");
    let write = |messages: u32| {
        std::fs::write(&path, format!("[mailbox]\nmax_messages = {messages}\n")).unwrap();
    };
    write(1);
    let node = Node::start(&["--config", path.to_str().unwrap()]);
    assert_eq!(
        (send(&node, "a", b"x").status, send(&node, "b", b"y").status),
        (201, 503)
    );
    write(2);
    node.ctl(&["config", "reload"]);
    assert_eq!(send(&node, "b", b"y").status, 201);
}
