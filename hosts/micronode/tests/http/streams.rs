//! Puts beyond what any body may be.

use std::io::{Read, Write};
use std::time::Instant;

use crate::rig::{bytes, put_to, Answer, Node, PATIENCE};

fn chunked(path: &str, body: &[u8], piece: usize) -> Vec<u8> {
    let head =
        format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n");
    let mut request = head.into_bytes();
    for piece in body.chunks(piece) {
        request.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        request.extend_from_slice(piece);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    request
}

#[test]
fn a_stream_may_be_as_large_as_its_own_limit_and_no_larger() {
    let node = Node::start(&["--store.stream_max_bytes", "3MiB"]);
    let limit = 3 << 20;
    let object = bytes(1, limit);
    let stored = node.send(put_to("/put?mode=stream", &object));
    let addr = format!("b3:{}", blake3::hash(&object).to_hex());
    let expected = format!(r#"{{"addr":"{addr}","size":{limit},"existed":false}}"#);
    assert_eq!(String::from_utf8_lossy(&stored.body), expected);
    for piece in [1000, 100_000] {
        let again = node.send(chunked("/put?mode=stream", &object, piece));
        assert_eq!(again.json()["existed"], true);
    }
    assert!(node.get(&format!("/o/{addr}")).body == object);
    let larger = bytes(2, limit + 1);
    for request in [
        put_to("/put?mode=stream", &larger),
        chunked("/put?mode=stream", &larger, 65_536),
        put_to("/put", &object),
    ] {
        let refused = node.send(request);
        assert_eq!((refused.status, &*refused.reason()), (413, "body_cap"));
    }
    assert_eq!(node.metric("store_objects"), 1);
}

#[test]
fn any_other_query_is_refused() {
    let node = Node::start(&[]);
    for query in [
        "mode=plain",
        "mode=",
        "mode",
        "mode=STREAM",
        "mode=stream&mode=stream",
        "mode=stream&x=1",
        "x=1",
        "&",
    ] {
        let refused = node.send(put_to(&format!("/put?{query}"), b"abc"));
        assert_eq!(
            (refused.status, &*refused.reason()),
            (400, "query"),
            "{query}"
        );
    }
    assert_eq!(node.send(put_to("/put?", b"abc")).status, 201);
}

/// A stream of `length` bytes of which `sent` are sent.
fn begun(node: &Node, length: usize, sent: usize) -> std::net::TcpStream {
    let mut stream = node.connect();
    let head = format!(
        "PUT /put?mode=stream HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    // The node may refuse before it has read all.
    let _ = stream.write_all(&vec![7; sent]);
    stream
}

fn until_used_is(node: &Node, expected: impl Fn(u64) -> bool) {
    let began = Instant::now();
    loop {
        let used = node.metric("store_used_bytes");
        if expected(used) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{used} bytes are in use");
    }
}

#[test]
fn streams_together_take_no_more_than_the_budget_and_leave_nothing_when_they_break_off() {
    let budget = 4 << 20;
    let node = Node::start(&["--store.max_bytes", "4MiB"]);
    // What is declared takes nothing, what has come does.
    let streams: Vec<_> = (0..3).map(|_| begun(&node, 4_000_000, 1_200_000)).collect();
    until_used_is(&node, |used| used == 3_600_000);
    let mut beyond = begun(&node, 4_000_000, 1_200_000);
    let refused = Answer::read(&mut beyond, false).unwrap();
    assert_eq!((refused.status, &*refused.reason()), (507, "store_full"));
    assert_eq!(refused.header("connection"), Some("close"));
    assert!(node.metric("store_used_bytes") <= budget);
    drop(streams);
    until_used_is(&node, |used| used == 0);
    assert_eq!(node.metric("store_objects"), 0);
    assert_eq!(
        node.send(put_to("/put?mode=stream", &bytes(1, 3_500_000)))
            .status,
        201
    );
    // Beyond nine tenths it says so, and goes on.
    assert_eq!(node.put(&bytes(1, 300_000)).status, 201);
    let began = Instant::now();
    while node.get("/readyz").json()["state"] != "degraded" {
        assert!(began.elapsed() < PATIENCE);
    }
    assert_eq!(node.get("/readyz").status, 200);
    let full = node.put(&bytes(2, 500_000));
    assert_eq!((full.status, &*full.reason()), (507, "store_full"));
}

#[test]
fn a_stream_has_its_own_time_and_there_are_only_so_many() {
    let node = Node::start(&[
        "--store.stream_timeout",
        "1500ms",
        "--http.body_timeout",
        "100ms",
        "--store.streams",
        "1",
    ]);
    let began = Instant::now();
    let mut slow = begun(&node, 2_000_000, 100_000);
    until_used_is(&node, |used| used == 100_000);
    let refused = node.send(put_to("/put?mode=stream", b"abc"));
    assert_eq!((refused.status, &*refused.reason()), (503, "streams"));
    assert!(refused.header("retry-after").is_some());
    let late = Answer::read(&mut slow, false).unwrap();
    assert_eq!((late.status, &*late.reason()), (408, "body_timeout"));
    assert!(
        began.elapsed().as_millis() >= 1_400,
        "{:?}",
        began.elapsed()
    );
    let mut rest = Vec::new();
    let _ = slow.read_to_end(&mut rest);
    until_used_is(&node, |used| used == 0);
    assert_eq!(node.send(put_to("/put?mode=stream", b"abc")).status, 201);
}
