//! What RFC 9110 asks of a server, section by section, of the node over a real socket.

use std::io::{Read, Write};

use rig::{Answer, Node};

#[path = "../http/rig.rs"]
#[allow(dead_code, reason = "the rig serves the tests in tests/http too")]
mod rig;

const LENGTH: usize = 1_000;

/// A node that all of these tests ask, with an object of [`LENGTH`] bytes and an empty one.
struct Asked {
    addr: std::net::SocketAddr,
    path: String,
    tag: String,
    empty: String,
}

fn content() -> Vec<u8> {
    (0..LENGTH).map(|n| (n % 251) as u8).collect()
}

fn start() -> (Node, Asked) {
    let node = Node::start(&["--http.rps", "1000000"]);
    let put = |body: &[u8]| node.put(body).json()["addr"].as_str().unwrap().to_owned();
    let (addr, empty) = (put(&content()), put(b""));
    let asked = Asked {
        addr: node.addr,
        path: format!("/o/{addr}"),
        tag: format!("\"{addr}\""),
        empty: format!("/o/{empty}"),
    };
    (node, asked)
}

impl Asked {
    fn send(&self, method: &str, path: &str, headers: &str) -> Answer {
        let mut stream = rig::dial(self.addr);
        let request = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        Answer::read(&mut stream, method == "HEAD").expect("an answer")
    }

    fn get(&self, headers: &str) -> Answer {
        self.send("GET", &self.path, headers)
    }
}

/// The cases of which `status` is wrong: headers, expected, seen.
fn wrong(cases: &[(String, &[u16])], ask: impl Fn(&str) -> u16) -> Vec<String> {
    let seen = cases
        .iter()
        .map(|(headers, expected)| (headers, expected, ask(headers)));
    seen.filter(|(_, expected, status)| !expected.contains(status))
        .map(|(headers, expected, status)| format!("{headers:?}: {status}, not {expected:?}"))
        .collect()
}

fn assert_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

const PAST: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const FUTURE: &str = "Fri, 01 Jan 2100 00:00:00 GMT";

#[test]
fn if_match_compares_strongly_section_13_1_1() {
    let (_node, asked) = start();
    let tag = &asked.tag;
    let bare = tag.trim_matches('"');
    let cases: Vec<(String, &[u16])> = vec![
        (format!("if-match: {tag}\r\n"), &[200]),
        ("if-match: *\r\n".into(), &[200]),
        ("if-match: \"x\"\r\n".into(), &[412]),
        (format!("if-match: W/{tag}\r\n"), &[412]),
        (format!("if-match: \"x\", {tag}\r\n"), &[200]),
        (format!("if-match: \"x\" ,\t{tag} , \"y\"\r\n"), &[200]),
        (format!("if-match: , ,{tag},,\r\n"), &[200]),
        (format!("if-match: \"x\"\r\nif-match: {tag}\r\n"), &[200]),
        ("if-match: \"x\"\r\nif-match: \"y\"\r\n".into(), &[412]),
        // A comma within a tag is no separator.
        (format!("if-match: \"x, {bare}\"\r\n"), &[412]),
        (format!("if-match: \"x,\", {tag}\r\n"), &[200]),
        (format!("if-match: \"{}\"\r\n", bare.to_uppercase()), &[412]),
        (format!("if-match: {bare}\r\n"), &[412, 400]),
        ("if-match: \"\"\r\n".into(), &[412]),
        ("if-match: \r\n".into(), &[412, 400, 200]),
    ];
    for method in ["GET", "HEAD"] {
        assert_none(&wrong(&cases, |h| {
            asked.send(method, &asked.path, h).status
        }));
    }
}

#[test]
fn if_none_match_compares_weakly_section_13_1_2() {
    let (_node, asked) = start();
    let tag = &asked.tag;
    let bare = tag.trim_matches('"');
    let cases: Vec<(String, &[u16])> = vec![
        (format!("if-none-match: {tag}\r\n"), &[304]),
        (format!("if-none-match: W/{tag}\r\n"), &[304]),
        ("if-none-match: *\r\n".into(), &[304]),
        ("if-none-match: \"x\"\r\n".into(), &[200]),
        ("if-none-match: W/\"x\"\r\n".into(), &[200]),
        (format!("if-none-match: \"x\", W/\"y\", {tag}\r\n"), &[304]),
        (format!("if-none-match: ,{tag},\r\n"), &[304]),
        (
            format!("if-none-match: \"x\"\r\nif-none-match: {tag}\r\n"),
            &[304],
        ),
        (
            format!("if-none-match: {tag}\r\nif-none-match: \"x\"\r\n"),
            &[304],
        ),
        (format!("if-none-match: \"x, {bare}\"\r\n"), &[200]),
        (format!("if-none-match: \"x,\", {tag}\r\n"), &[304]),
        (format!("if-none-match: w/{tag}\r\n"), &[200, 400, 304]),
        (format!("if-none-match: {bare}\r\n"), &[200, 400]),
        ("if-none-match: \"**\"\r\n".into(), &[200]),
        ("if-none-match: \"*\"\r\n".into(), &[200]),
    ];
    for method in ["GET", "HEAD"] {
        assert_none(&wrong(&cases, |h| {
            asked.send(method, &asked.path, h).status
        }));
    }
}

#[test]
fn dates_are_ignored_where_there_is_none_sections_13_1_3_and_13_1_4() {
    let (_node, asked) = start();
    assert_eq!(asked.get("").header("last-modified"), None);
    for name in ["if-modified-since", "if-unmodified-since"] {
        for date in [
            PAST,
            FUTURE,
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "0",
            "x",
            "",
        ] {
            let status = asked.get(&format!("{name}: {date}\r\n")).status;
            assert_eq!(status, 200, "{name}: {date}");
        }
    }
}

#[test]
fn if_range_takes_a_strong_tag_and_nothing_else_section_13_1_5() {
    let (_node, asked) = start();
    let tag = &asked.tag;
    let cases: Vec<(String, &[u16])> = vec![
        (format!("range: bytes=0-1\r\nif-range: {tag}\r\n"), &[206]),
        (format!("if-range: {tag}\r\nrange: bytes=0-1\r\n"), &[206]),
        (format!("range: bytes=0-1\r\nif-range: W/{tag}\r\n"), &[200]),
        ("range: bytes=0-1\r\nif-range: \"x\"\r\n".into(), &[200]),
        ("range: bytes=0-1\r\nif-range: *\r\n".into(), &[200, 400]),
        (format!("range: bytes=0-1\r\nif-range: {PAST}\r\n"), &[200]),
        (
            format!("range: bytes=0-1\r\nif-range: {FUTURE}\r\n"),
            &[200],
        ),
        ("range: bytes=0-1\r\nif-range: x\r\n".into(), &[200, 400]),
        ("range: bytes=0-1\r\nif-range: \r\n".into(), &[200, 400]),
        // It is one tag, not a list.
        (
            format!("range: bytes=0-1\r\nif-range: \"x\", {tag}\r\n"),
            &[200, 400],
        ),
        (
            format!("range: bytes=0-1\r\nif-range: {tag}\r\nif-range: \"x\"\r\n"),
            &[200, 400],
        ),
        (
            format!("range: bytes=0-1\r\nif-range: \"x\"\r\nif-range: {tag}\r\n"),
            &[200, 400],
        ),
        // What does not match makes a range that cannot be satisfied one that is not asked for.
        ("range: bytes=5000-\r\nif-range: \"x\"\r\n".into(), &[200]),
        (format!("range: bytes=5000-\r\nif-range: {tag}\r\n"), &[416]),
        (format!("if-range: {tag}\r\n"), &[200]),
        ("if-range: \"x\"\r\n".into(), &[200]),
    ];
    assert_none(&wrong(&cases, |h| asked.get(h).status));
}

#[test]
fn preconditions_are_judged_in_their_order_section_13_2_2() {
    let (_node, asked) = start();
    let tag = &asked.tag;
    let cases: Vec<(String, &[u16])> = vec![
        (
            format!("if-match: {tag}\r\nif-none-match: {tag}\r\n"),
            &[304],
        ),
        (
            format!("if-none-match: {tag}\r\nif-match: \"x\"\r\n"),
            &[412],
        ),
        (
            format!("if-match: {tag}\r\nif-none-match: \"x\"\r\n"),
            &[200],
        ),
        ("if-match: \"x\"\r\nif-none-match: \"x\"\r\n".into(), &[412]),
        (
            format!("if-match: {tag}\r\nif-unmodified-since: {PAST}\r\n"),
            &[200],
        ),
        (
            format!("if-none-match: \"x\"\r\nif-modified-since: {FUTURE}\r\n"),
            &[200],
        ),
        (
            format!("if-none-match: {tag}\r\nif-modified-since: {PAST}\r\n"),
            &[304],
        ),
        (
            format!("if-none-match: {tag}\r\nrange: bytes=0-1\r\n"),
            &[304],
        ),
        (
            format!("if-none-match: {tag}\r\nrange: bytes=5000-\r\n"),
            &[304],
        ),
        ("if-match: \"x\"\r\nrange: bytes=5000-\r\n".into(), &[412]),
        (format!("if-match: {tag}\r\nrange: bytes=0-1\r\n"), &[206]),
        (
            format!("if-match: {tag}\r\nrange: bytes=0-1\r\nif-range: \"x\"\r\n"),
            &[200],
        ),
        (
            format!("if-none-match: {tag}\r\nrange: bytes=0-1\r\nif-range: {tag}\r\n"),
            &[304],
        ),
    ];
    assert_none(&wrong(&cases, |h| asked.get(h).status));
}

#[test]
fn preconditions_of_what_is_not_there_are_ignored_section_13_2_1() {
    let (_node, asked) = start();
    let absent = format!("/o/b3:{}", "0".repeat(64));
    for headers in [
        "if-match: *\r\n",
        "if-none-match: *\r\n",
        "if-match: \"x\"\r\n",
        "range: bytes=5-\r\n",
    ] {
        for (path, status) in [(absent.as_str(), 404), ("/o/x", 400), ("/nothing", 404)] {
            assert_eq!(
                asked.send("GET", path, headers).status,
                status,
                "{path} {headers}"
            );
        }
    }
}

#[test]
fn one_range_of_every_form_is_served_section_14_1_2() {
    let (_node, asked) = start();
    let cases = [
        ("bytes=0-0", 0, 1),
        ("bytes=0-999", 0, 1_000),
        ("bytes=0-1000", 0, 1_000),
        ("bytes=500-", 500, 1_000),
        ("bytes=999-", 999, 1_000),
        ("bytes=999-999", 999, 1_000),
        ("bytes=0-", 0, 1_000),
        ("bytes=-1", 999, 1_000),
        ("bytes=-1000", 0, 1_000),
        ("bytes=-1001", 0, 1_000),
        ("bytes=00005-00009", 5, 10),
        ("bytes=0-18446744073709551615", 0, 1_000),
        ("bytes=1-18446744073709551616", 1, 1_000),
        ("bytes=-18446744073709551615", 0, 1_000),
        ("bytes=-18446744073709551616", 0, 1_000),
        (
            "bytes=0-99999999999999999999999999999999999999999999",
            0,
            1_000,
        ),
        (
            "bytes=-99999999999999999999999999999999999999999999",
            0,
            1_000,
        ),
    ];
    for (range, start, end) in cases {
        let got = asked.get(&format!("range: {range}\r\n"));
        assert_eq!((got.status, got.is_whole), (206, true), "{range}");
        assert!(got.body == content()[start..end], "{range}");
        let told = format!("bytes {start}-{}/1000", end - 1);
        assert_eq!(got.header("content-range"), Some(&*told), "{range}");
        assert_eq!(
            got.header("content-length"),
            Some(&*(end - start).to_string())
        );
        assert_eq!(got.header("etag"), Some(&*asked.tag));
        assert!(got.header("date").is_some());
    }
}

#[test]
fn a_unit_is_read_in_any_case_section_14_1() {
    let (_node, asked) = start();
    for unit in ["Bytes", "BYTES"] {
        let got = asked.get(&format!("range: {unit}=0-1\r\n"));
        assert_eq!(got.status, 206, "{unit}");
    }
}

#[test]
fn what_no_byte_satisfies_is_416_section_15_5_17() {
    let (_node, asked) = start();
    let ranges = [
        "bytes=1000-",
        "bytes=1000-1000",
        "bytes=1001-2000",
        "bytes=-0",
        "bytes=-000",
        "bytes=18446744073709551615-",
        "bytes=18446744073709551615-18446744073709551615",
        "bytes=18446744073709551616-",
        "bytes=99999999999999999999999999999999999999999999-",
        "bytes=99999999999999999999999999999999999999999998-99999999999999999999999999999999999999999999",
    ];
    for range in ranges {
        let got = asked.get(&format!("range: {range}\r\n"));
        assert_eq!(got.status, 416, "{range}");
        assert_eq!(got.header("content-range"), Some("bytes */1000"), "{range}");
        assert_eq!(
            (got.header("content-encoding"), &*got.reason()),
            (None, "range")
        );
    }
    for range in ["bytes=0-", "bytes=0-0", "bytes=5-"] {
        let got = asked.send("GET", &asked.empty, &format!("range: {range}\r\n"));
        assert_eq!(got.status, 416, "{range}");
        assert_eq!(got.header("content-range"), Some("bytes */0"), "{range}");
    }
    let suffix = asked.send("GET", &asked.empty, "range: bytes=-5\r\n");
    assert!([200, 416].contains(&suffix.status), "{suffix:?}");
}

#[test]
fn what_is_no_range_is_ignored_or_refused_and_never_partial_section_14_2() {
    let (_node, asked) = start();
    let ranges = [
        "bytes=9-1",
        "bytes=",
        "bytes",
        "bytes=-",
        "bytes=x-y",
        "bytes=1",
        "bytes=1-2-3",
        "bytes=--1",
        "bytes=+1-2",
        "bytes=1-+2",
        "bytes=0x1-2",
        "bytes=1.0-2",
        "bytes:0-1",
        "lines=1-2",
        "=0-1",
        "0-1",
        "bytes=0 - 1",
        "bytes=0- 1",
        "bytes=0 -1",
        "bytes=\"0-1\"",
        "bytes=0-1;x",
        "bytes=0-1 x",
        "none=0-1",
        "",
        "bytes=\u{661}-\u{662}",
        "bytes=18446744073709551617-1",
        "bytes=1_0-20",
    ];
    let mut partial = Vec::new();
    for range in ranges {
        let got = asked.get(&format!("range: {range}\r\n"));
        if ![200, 400, 416].contains(&got.status) {
            partial.push(format!("{range:?}: {}", got.status));
        }
        if got.status == 200 {
            assert_eq!(
                (got.body.len(), got.header("content-range")),
                (LENGTH, None),
                "{range}"
            );
        }
    }
    assert_none(&partial);
}

#[test]
fn blanks_around_the_equals_sign_make_no_range_section_14_1_1() {
    let (_node, asked) = start();
    let cases: Vec<(String, &[u16])> = ["bytes = 0-1", "bytes =0-1"]
        .map(|range| (format!("range: {range}\r\n"), &[200, 400, 416][..]))
        .to_vec();
    assert_none(&wrong(&cases, |h| asked.get(h).status));
}

#[test]
fn many_ranges_cost_no_more_than_the_object_section_17_15() {
    let (_node, asked) = start();
    let overlapping = format!("bytes=0-{}", ",0-".repeat(2_000));
    let ranges = [
        "bytes=0-1,5-6",
        "bytes=0-1, 0-1",
        "bytes=-1,0-",
        "bytes=0-1,5000-6000",
        "bytes=5000-,6000-",
        &overlapping,
    ];
    for range in ranges {
        let got = asked.get(&format!("range: {range}\r\n"));
        assert!([200, 206, 416].contains(&got.status), "{}", got.status);
        let limit = LENGTH + 500;
        assert!(got.body.len() <= limit, "{} bytes", got.body.len());
        let partial = got
            .header("content-type")
            .is_some_and(|t| t.starts_with("multipart/byteranges"));
        assert_eq!(got.status == 206, partial, "{range}");
    }
    // Two lines are a list.
    let got = asked.get("range: bytes=0-1\r\nrange: bytes=5-6\r\n");
    assert!([200, 400].contains(&got.status), "{}", got.status);
    // Empty elements of a list are nothing.
    for range in ["bytes=0-1,", "bytes=,0-1", "bytes=0-1 , ,"] {
        let got = asked.get(&format!("range: {range}\r\n"));
        assert!([200, 206].contains(&got.status), "{range}: {}", got.status);
        assert_eq!(
            got.body.len(),
            if got.status == 206 { 2 } else { LENGTH },
            "{range}"
        );
    }
}

#[test]
fn range_is_ignored_by_every_other_method_section_14_2() {
    let (_node, asked) = start();
    for range in ["bytes=0-1", "bytes=5000-", "x"] {
        let head = asked.send("HEAD", &asked.path, &format!("range: {range}\r\n"));
        assert_eq!(
            (head.status, head.header("content-length")),
            (200, Some("1000")),
            "{range}"
        );
        assert_eq!(head.header("content-range"), None);
    }
    let put = asked.send("PUT", "/put", "range: bytes=0-0\r\ncontent-length: 0\r\n");
    assert_eq!(put.status, 201);
}

#[test]
fn a_body_with_content_range_is_no_whole_object_section_14_5() {
    let (_node, asked) = start();
    let mut stream = rig::dial(asked.addr);
    stream
        .write_all(b"PUT /put HTTP/1.1\r\nhost: localhost\r\ncontent-range: bytes 0-2/10\r\ncontent-length: 3\r\n\r\nabc")
        .unwrap();
    let answer = Answer::read(&mut stream, false).unwrap();
    assert_eq!(answer.status, 400, "{answer:?}");
}

#[test]
fn ranges_are_offered_section_14_3() {
    let (_node, asked) = start();
    for method in ["GET", "HEAD"] {
        let got = asked.send(method, &asked.path, "");
        assert_eq!(got.header("accept-ranges"), Some("bytes"), "{method}");
    }
}

fn names(answer: &Answer, without: &[&str]) -> Vec<(String, String)> {
    let known = [
        "accept-ranges",
        "allow",
        "cache-control",
        "connection",
        "content-encoding",
        "content-language",
        "content-length",
        "content-location",
        "content-range",
        "content-type",
        "etag",
        "expires",
        "last-modified",
        "location",
        "retry-after",
        "server",
        "vary",
        "www-authenticate",
        "x-content-type-options",
    ];
    let sent = known
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), answer.header(name)?.to_owned())));
    sent.filter(|(name, _)| !without.contains(&&**name))
        .collect()
}

#[test]
fn head_is_get_without_the_body_section_9_3_2() {
    let (_node, asked) = start();
    let tag = &asked.tag;
    let absent = format!("/o/b3:{}", "0".repeat(64));
    let paths = [
        &*asked.path,
        &*asked.empty,
        &*absent,
        "/o/x",
        "/nothing",
        "/healthz",
        "/readyz",
        "/version",
        "/put",
    ];
    for path in paths {
        for headers in [
            "",
            &format!("if-none-match: {tag}\r\n"),
            "if-match: \"x\"\r\n",
        ] {
            let (get, head) = (
                asked.send("GET", path, headers),
                asked.send("HEAD", path, headers),
            );
            assert_eq!(get.status, head.status, "{path} {headers}");
            // The length may be left out, but not be another.
            let without: &[&str] = match head.header("content-length") {
                None => &["content-length"],
                Some(_) => &[],
            };
            assert_eq!(names(&get, without), names(&head, &[]), "{path} {headers}");
            assert!(head.body.is_empty());
        }
    }
}

#[test]
fn nothing_follows_the_head_of_an_answer_to_head_or_a_304() {
    let (_node, asked) = start();
    let (path, tag) = (&asked.path, &asked.tag);
    for (method, condition, status) in [
        ("HEAD", String::new(), "200"),
        ("HEAD", "range: bytes=0-1\r\n".into(), "200"),
        ("GET", format!("if-none-match: {tag}\r\n"), "304"),
        ("HEAD", "if-match: \"x\"\r\n".into(), "412"),
    ] {
        let mut stream = rig::dial(asked.addr);
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{condition}\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut all = String::new();
        stream.read_to_string(&mut all).unwrap();
        assert!(all.starts_with(&format!("HTTP/1.1 {status}")), "{all}");
        assert!(
            all.ends_with("\r\n\r\n") && all.matches("\r\n\r\n").count() == 1,
            "{all}"
        );
    }
}

#[test]
fn a_304_has_what_a_200_would_have_told_caches_section_15_4_5() {
    let (_node, asked) = start();
    let whole = asked.get("");
    let not_modified = asked.get(&format!("if-none-match: {}\r\n", asked.tag));
    assert_eq!(not_modified.status, 304);
    for name in [
        "content-location",
        "etag",
        "vary",
        "cache-control",
        "expires",
    ] {
        assert_eq!(whole.header(name), not_modified.header(name), "{name}");
    }
    assert!(not_modified.header("date").is_some());
    assert_eq!(not_modified.header("etag"), Some(&*asked.tag));
    assert_eq!(not_modified.header("content-range"), None);
    assert_eq!(not_modified.header("transfer-encoding"), None);
}

#[test]
fn a_206_has_what_a_200_would_have_told_caches_section_15_3_7() {
    let (_node, asked) = start();
    let (whole, part) = (asked.get(""), asked.get("range: bytes=0-1\r\n"));
    for name in [
        "content-location",
        "etag",
        "vary",
        "cache-control",
        "expires",
        "content-type",
    ] {
        assert_eq!(whole.header(name), part.header(name), "{name}");
    }
}

#[test]
fn a_method_that_is_not_allowed_is_told_what_is_section_15_5_6() {
    let (_node, asked) = start();
    for method in ["DELETE", "PATCH", "OPTIONS", "TRACE"] {
        for (path, allowed) in [
            (&*asked.path, "GET"),
            ("/put", "PUT"),
            ("/healthz", "GET"),
            ("/metrics", "GET"),
            ("/version", "GET"),
        ] {
            let answer = asked.send(method, path, "");
            let is_answered = method == "OPTIONS" && [200, 204].contains(&answer.status);
            assert!(
                answer.status == 405 || is_answered,
                "{method} {path}: {}",
                answer.status
            );
            let allow = answer.header("allow").expect("Allow");
            assert!(
                allow.split(", ").any(|m| m == allowed),
                "{method} {path}: {allow}"
            );
            assert!(!allow.contains(method), "{method} {path}: {allow}");
        }
    }
    assert_eq!(
        asked.send("GET", "/put", "").header("allow"),
        Some("POST, PUT")
    );
    let allow = asked.send("PUT", &asked.path, "content-length: 0\r\n");
    assert_eq!(
        (allow.status, allow.header("allow")),
        (405, Some("GET, HEAD"))
    );
}

#[test]
fn a_refused_method_has_the_envelope_everywhere() {
    let (_node, asked) = start();
    for path in [
        &*asked.path,
        "/put",
        "/healthz",
        "/readyz",
        "/metrics",
        "/version",
    ] {
        let answer = asked.send("DELETE", path, "");
        assert_eq!(
            (answer.status, &*answer.reason()),
            (405, "method"),
            "{path}"
        );
    }
}

#[test]
fn trace_does_not_show_what_was_sent_section_9_3_8() {
    let (_node, asked) = start();
    for path in [&*asked.path, "/put", "/healthz", "/nothing"] {
        let answer = asked.send(
            "TRACE",
            path,
            "cookie: secret\r\nauthorization: Bearer secret\r\n",
        );
        assert!(
            [404, 405, 501].contains(&answer.status),
            "{path}: {}",
            answer.status
        );
        assert!(
            !String::from_utf8_lossy(&answer.body).contains("secret"),
            "{path}"
        );
        assert_ne!(answer.header("content-type"), Some("message/http"));
    }
}

#[test]
fn an_answer_is_of_the_coding_that_was_accepted_section_12_5_3() {
    let (_node, asked) = start();
    for accepted in [
        "",
        "accept-encoding: identity\r\n",
        "accept-encoding: gzip, zstd, br\r\n",
        "accept-encoding: *\r\n",
        "accept-encoding: \r\n",
        "accept-encoding: gzip;q=0\r\n",
    ] {
        let got = asked.get(accepted);
        // It has one form of an object, so that its tag is strong.
        assert_eq!(
            (got.status, got.header("content-encoding")),
            (200, None),
            "{accepted}"
        );
        assert!(
            got.body == content() && got.header("etag") == Some(&asked.tag),
            "{accepted}"
        );
    }
    // Nothing but identity is there: 406 or the object all the same.
    let refused = asked.get("accept-encoding: identity;q=0\r\n");
    assert!([200, 406].contains(&refused.status), "{}", refused.status);
}

/// Reads until the empty line.
fn head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        assert_eq!(
            stream.read(&mut byte).unwrap(),
            1,
            "{}",
            head.escape_ascii()
        );
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

#[test]
fn who_expects_100_is_told_before_the_body_section_10_1_1() {
    let (_node, asked) = start();
    for expectation in ["100-continue", "100-Continue"] {
        let mut stream = rig::dial(asked.addr);
        let request = format!("PUT /put HTTP/1.1\r\nhost: localhost\r\nexpect: {expectation}\r\ncontent-length: 3\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        assert!(
            head(&mut stream).starts_with("HTTP/1.1 100 "),
            "{expectation}"
        );
        stream.write_all(b"abc").unwrap();
        let answer = Answer::read(&mut stream, false).unwrap();
        assert_eq!(answer.status, 201);
        let mut chunked = rig::dial(asked.addr);
        let request = format!("PUT /put HTTP/1.1\r\nhost: localhost\r\nexpect: {expectation}\r\ntransfer-encoding: chunked\r\n\r\n");
        chunked.write_all(request.as_bytes()).unwrap();
        assert!(head(&mut chunked).starts_with("HTTP/1.1 100 "));
        chunked.write_all(b"3\r\nabc\r\n0\r\n\r\n").unwrap();
        assert_eq!(Answer::read(&mut chunked, false).unwrap().status, 201);
    }
}

#[test]
fn who_expects_100_and_is_refused_gets_the_refusal_alone_section_10_1_1() {
    let (_node, asked) = start();
    let cases = [
        ("PUT", "/put", "content-length: 2000000\r\n", 413),
        (
            "PUT",
            "/put",
            "content-encoding: br\r\ncontent-length: 3\r\n",
            415,
        ),
        ("PUT", "/nothing", "content-length: 3\r\n", 404),
        ("PUT", &asked.path, "content-length: 3\r\n", 405),
        ("POST", "/healthz", "content-length: 3\r\n", 405),
        (
            "PUT",
            "/put",
            "origin: https://attacker.example\r\ncontent-length: 3\r\n",
            403,
        ),
    ];
    for (method, path, headers, status) in cases {
        let mut stream = rig::dial(asked.addr);
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\n{headers}\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        let all = String::from_utf8_lossy(&all);
        assert!(
            all.starts_with(&format!("HTTP/1.1 {status} ")),
            "{path} {headers}: {all}"
        );
        assert_eq!(all.matches("HTTP/1.1 ").count(), 1, "{path}: {all}");
    }
}

#[test]
fn a_connection_is_closed_when_asked_and_said_so_section_7_6_1() {
    let (_node, asked) = start();
    for path in [&*asked.path, "/healthz", "/nothing", "/o/x"] {
        let mut stream = rig::dial(asked.addr);
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.repeat(2).as_bytes()).unwrap();
        let answer = Answer::read(&mut stream, false).unwrap();
        assert_eq!(answer.header("connection"), Some("close"), "{path}");
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{path}: {}", rest.escape_ascii());
    }
}

/// The seconds since 1970 of an IMF-fixdate.
fn seconds(date: &str) -> u64 {
    let parts: Vec<&str> = date.split([' ', ':']).collect();
    let [weekday, day, month, year, hour, minute, second, "GMT"] = parts[..] else {
        panic!("{date:?} is no IMF-fixdate");
    };
    assert_eq!(
        (date.len(), weekday.len(), day.len()),
        (29, 4, 2),
        "{date:?}"
    );
    let months = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let month = 1 + months
        .iter()
        .position(|name| *name == month)
        .expect("a month") as u64;
    let (year, day): (u64, u64) = (year.parse().unwrap(), day.parse().unwrap());
    // Days from civil, years beginning in March.
    let (year, from_march) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (153 * from_march + 2) / 5 + day
        - 1
        - 719_468;
    let weekdays = ["Thu,", "Fri,", "Sat,", "Sun,", "Mon,", "Tue,", "Wed,"];
    assert_eq!(weekdays[(days % 7) as usize], weekday, "{date:?}");
    let clock = |text: &str| text.parse::<u64>().unwrap();
    days * 86_400 + clock(hour) * 3_600 + clock(minute) * 60 + clock(second)
}

#[test]
fn every_answer_has_the_date_of_now_section_6_6_1() {
    let (_node, asked) = start();
    let tag = &asked.tag;
    let not_modified = format!("if-none-match: {tag}\r\n");
    for (path, headers) in [
        (&*asked.path, ""),
        (&asked.path, &*not_modified),
        (&asked.path, "range: bytes=5000-\r\n"),
        ("/nothing", ""),
        ("/healthz", ""),
    ] {
        let answer = asked.send("GET", path, headers);
        let date = seconds(answer.header("date").expect("Date"));
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        let now = now.as_secs();
        assert!(
            (now - 60..=now + 1).contains(&date),
            "{path}: {date}, now {now}"
        );
    }
}

#[test]
fn a_401_has_a_challenge_section_15_5_2_and_a_body_is_not_awaited() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keyring.toml");
    let now = std::time::SystemTime::now();
    let random = &mut ron_host::capability::system_random;
    ron_host::capability::Keyring::generate(random, now)
        .unwrap()
        .create(&path)
        .unwrap();
    let node = Node::start_with(&["--auth.keyring", path.to_str().unwrap()]);
    let refused = node.send(
        "PUT /put HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n",
    );
    assert_eq!(refused.status, 401);
    assert!(refused
        .header("www-authenticate")
        .is_some_and(|c| c.starts_with("Bearer ")));
}

#[test]
fn preconditions_of_a_put_are_not_passed_over_section_13_1_1() {
    let (_node, asked) = start();
    // `/put` itself has no representation, so that no tag can match.
    for condition in ["if-match: \"x\"\r\n", "if-match: *\r\n"] {
        let answer = asked.send("PUT", "/put", &format!("{condition}content-length: 0\r\n"));
        assert!(
            [412, 400].contains(&answer.status),
            "{condition}: {}",
            answer.status
        );
    }
    let answer = asked.send("PUT", "/put", "if-none-match: *\r\ncontent-length: 0\r\n");
    assert_eq!(answer.status, 201);
}
