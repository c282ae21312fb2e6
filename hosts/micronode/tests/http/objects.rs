//! Puts and gets.

use crate::rig::Node;

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * 7 + n / 251) as u8).collect()
}

fn put(node: &Node, body: &[u8]) -> String {
    let answer = node.put(body);
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()["addr"].as_str().unwrap().to_owned()
}

#[test]
fn what_is_put_can_be_got_under_its_blake3() {
    let node = Node::start(&[]);
    for length in [0, 1, 65_536, 65_537, 1 << 20] {
        let body = bytes(length);
        let addr = format!("b3:{}", blake3::hash(&body).to_hex());
        let stored = node.put(&body);
        let expected = format!(r#"{{"addr":"{addr}","size":{length},"existed":false}}"#);
        assert_eq!(String::from_utf8_lossy(&stored.body), expected);
        let path = format!("/o/{addr}");
        assert_eq!(stored.header("location"), Some(&*path));
        assert_eq!(stored.header("etag"), Some(&*format!("\"{addr}\"")));
        let got = node.get(&path);
        assert_eq!((got.status, got.is_whole), (200, true), "{length}");
        assert!(got.body == body, "{length}");
        let again = node.put(&body);
        assert_eq!(
            (again.status, again.json()["existed"].as_bool()),
            (201, Some(true))
        );
    }
}

#[test]
fn a_post_and_a_chunked_body_put_the_same_object() {
    let node = Node::start(&[]);
    let posted = node.send("POST /put HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\n\r\nabc");
    let chunked = node.send(
        "PUT /put HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n",
    );
    assert_eq!((posted.status, chunked.status), (201, 201));
    assert_eq!(posted.json()["addr"], chunked.json()["addr"]);
    assert_eq!(chunked.json()["existed"], true);
}

#[test]
fn ranges_are_served_across_groups() {
    let node = Node::start(&[]);
    let body = bytes(200_000);
    let path = format!("/o/{}", put(&node, &body));
    let cases = [
        ("bytes=0-0", 0..1),
        ("bytes=65535-65536", 65_535..65_537),
        ("bytes=60000-140000", 60_000..140_001),
        ("bytes=-1", 199_999..200_000),
        ("bytes=199999-500000", 199_999..200_000),
        ("bytes=131072-", 131_072..200_000),
    ];
    for (range, span) in cases {
        let got = node.get_with(&path, &format!("range: {range}\r\n"));
        assert_eq!((got.status, got.is_whole), (206, true), "{range}");
        assert!(got.body == body[span.clone()], "{range}");
        let told = format!("bytes {}-{}/200000", span.start, span.end - 1);
        assert_eq!(got.header("content-range"), Some(&*told));
    }
    for range in ["bytes=0-1,5-6", "lines=1-2", "bytes=9-1"] {
        let got = node.get_with(&path, &format!("range: {range}\r\n"));
        assert_eq!((got.status, got.body.len()), (200, 200_000), "{range}");
    }
    let beyond = node.get_with(&path, "range: bytes=200000-\r\n");
    assert_eq!((beyond.status, &*beyond.reason()), (416, "range"));
    assert_eq!(beyond.header("content-range"), Some("bytes */200000"));
}

#[test]
fn conditions_are_kept() {
    let node = Node::start(&[]);
    let addr = put(&node, b"content");
    let path = format!("/o/{addr}");
    let cases = [
        (format!("if-none-match: \"{addr}\"\r\n"), 304),
        ("if-none-match: *\r\n".to_owned(), 304),
        ("if-none-match: \"other\"\r\n".to_owned(), 200),
        (format!("if-match: \"{addr}\"\r\n"), 200),
        ("if-match: \"other\"\r\n".to_owned(), 412),
        (format!("range: bytes=0-1\r\nif-range: \"{addr}\"\r\n"), 206),
        (
            "range: bytes=0-1\r\nif-range: \"other\"\r\n".to_owned(),
            200,
        ),
    ];
    for (headers, status) in cases {
        let got = node.get_with(&path, &headers);
        assert_eq!(got.status, status, "{headers}");
        if status < 400 {
            assert_eq!(got.header("etag"), Some(&*format!("\"{addr}\"")));
        }
    }
    let head = node.send(format!("HEAD {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"));
    assert_eq!(
        (head.status, head.header("content-length")),
        (200, Some("7"))
    );
    let ranged = format!("HEAD {path} HTTP/1.1\r\nhost: localhost\r\nrange: bytes=9-\r\n\r\n");
    let head = node.send(ranged);
    assert_eq!((head.status, head.header("content-range")), (200, None));
}

#[test]
fn what_is_no_address_or_no_object_is_told_apart() {
    let node = Node::start(&[]);
    let absent = format!("/o/b3:{}", "0".repeat(64));
    let upper = format!("/o/b3:{}", "A".repeat(64));
    let cases = [
        (absent.as_str(), 404, "object"),
        ("/o/b3:00", 400, "address"),
        ("/o/", 400, "address"),
        ("/o/x", 400, "address"),
        (upper.as_str(), 400, "address"),
        ("/nothing", 404, "route"),
        ("/put/", 404, "route"),
    ];
    for (path, status, reason) in cases {
        let got = node.get(path);
        assert_eq!((got.status, &*got.reason()), (status, reason), "{path}");
    }
    let wrong = node.send("DELETE /put HTTP/1.1\r\nhost: localhost\r\n\r\n");
    assert_eq!(
        (wrong.status, wrong.header("allow")),
        (405, Some("POST, PUT"))
    );
}
