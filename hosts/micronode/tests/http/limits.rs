//! What the node refuses, and that it lives on.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use crate::rig::{put, Answer, Node, PATIENCE};

#[test]
fn a_body_of_one_mebibyte_passes_and_a_byte_more_does_not() {
    let node = Node::start(&[]);
    assert_eq!(node.put(&vec![1; 1 << 20]).status, 201);
    for size in [(1 << 20) + 1, 2 << 20] {
        let declared = node.put(&vec![1; size]);
        assert_eq!((declared.status, &*declared.reason()), (413, "body_cap"));
        assert_eq!(declared.header("connection"), Some("close"));
        let mut chunked =
            b"PUT /put HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        chunked.extend_from_slice(format!("{size:x}\r\n").as_bytes());
        chunked.resize(chunked.len() + size, 1);
        chunked.extend_from_slice(b"\r\n0\r\n\r\n");
        let counted = node.send(chunked);
        assert_eq!((counted.status, &*counted.reason()), (413, "body_cap"));
    }
    assert_eq!(node.metric("rejected_total{reason=\"413\"}"), 4);
    assert_eq!(node.metric("inflight_requests{route=\"/put\"}"), 0);
}

#[test]
fn more_requests_per_second_than_allowed_are_told_when_to_come_back() {
    let node = Node::start(&["--http.rps", "20"]);
    let answers: Vec<Answer> = (0..60).map(|_| node.get("/o/x")).collect();
    let refused: Vec<&Answer> = answers.iter().filter(|a| a.status == 429).collect();
    assert!((20..=40).contains(&refused.len()), "{}", refused.len());
    for answer in &refused {
        assert_eq!(answer.reason(), "rate");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    // Whoever looks after the node is not refused.
    assert_eq!(node.get("/healthz").status, 200);
    assert_eq!(
        node.metric("rejected_total{reason=\"429\"}"),
        refused.len() as u64
    );
    // What is not there is a request too.
    assert!((0..60).any(|_| node.get("/nothing").status == 429));
}

#[test]
fn what_waits_for_its_bodies_takes_the_places_under_way() {
    let limits = [
        "--http.inflight",
        "4",
        "--http.body_timeout",
        "6s",
        "--http.read_timeout",
        "6s",
        "--http.rps",
        "1000000",
    ];
    let node = Node::start(&limits);
    let mut waiting: Vec<_> = (0..4)
        .map(|_| {
            let mut stream = node.connect();
            let request = put(b"abc");
            stream.write_all(&request[..request.len() - 1]).unwrap();
            stream
        })
        .collect();
    let began = Instant::now();
    while node.metric("inflight_requests{route=\"/put\"}") < 4 {
        assert!(began.elapsed() < PATIENCE);
    }
    let refused = node.put(b"x");
    assert_eq!(refused.status, 503);
    assert!(["inflight", "not_ready"].contains(&&*refused.reason()));
    assert!(refused.header("retry-after").is_some());
    for stream in &mut waiting {
        let late = Answer::read(stream, false).unwrap();
        assert_eq!((late.status, &*late.reason()), (408, "body_timeout"));
    }
    assert!(began.elapsed() < Duration::from_secs(15));
}

#[test]
fn a_head_that_drips_is_cut_off() {
    let node = Node::start(&["--http.read_timeout", "500ms"]);
    let mut stream = node.connect();
    let began = Instant::now();
    let mut drip = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: "
        .iter()
        .chain(std::iter::repeat(&b'y'));
    while began.elapsed() < PATIENCE && stream.write_all(&[*drip.next().unwrap()]).is_ok() {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(node.get("/healthz").status, 200);
}

#[test]
fn a_connection_between_two_requests_may_idle() {
    let node = Node::start(&["--http.read_timeout", "200ms", "--http.idle_timeout", "2s"]);
    let mut stream = node.connect();
    let request = b"PUT /put HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n\r\nx";
    for _ in 0..3 {
        stream.write_all(request).unwrap();
        assert_eq!(Answer::read(&mut stream, false).unwrap().status, 201);
        std::thread::sleep(Duration::from_millis(700));
    }
    let began = Instant::now();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(rest.is_empty());
    let idle = began.elapsed() + Duration::from_millis(700);
    assert!(
        (Duration::from_millis(1_900)..Duration::from_secs(4)).contains(&idle),
        "{idle:?}"
    );
}

#[test]
fn a_refusal_before_the_body_was_read_ends_the_connection() {
    let node = Node::start(&[]);
    for (path, status) in [("/nothing", 404), ("/o/x", 405)] {
        let head = format!("PUT {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n");
        let answer = node.send(head);
        assert_eq!(
            (answer.status, answer.header("connection")),
            (status, Some("close")),
            "{path}"
        );
    }
    assert_eq!(node.get("/nothing").header("connection"), None);
}

#[test]
fn a_peer_that_does_not_read_is_cut_off() {
    let node = Node::start(&["--http.write_timeout", "300ms"]);
    let body = vec![7; 1 << 20];
    let addr = node.put(&body).json()["addr"].as_str().unwrap().to_owned();
    let mut stream = node.connect();
    let request = format!("GET /o/{addr} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    // More than all buffers on the way hold.
    for _ in 0..32 {
        stream.write_all(request.as_bytes()).unwrap();
    }
    std::thread::sleep(Duration::from_secs(2));
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all);
    assert!(all.len() < 32 << 20, "{} bytes came", all.len());
    assert_eq!(node.metric("inflight_requests{route=\"/o/{addr}\"}"), 0);
}

fn coded(coding: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "PUT /put HTTP/1.1\r\nhost: localhost\r\ncontent-encoding: {coding}\r\ncontent-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

#[test]
fn a_compressed_body_is_stored_as_what_it_stands_for() {
    // `gzip -n` of "content".
    let body = [
        0x1f, 0x8b, 0x08, 0, 0, 0, 0, 0, 0, 3, 0x4b, 0xce, 0xcf, 0x2b, 0x49, 0xcd, 0x2b, 0x01, 0,
        0xa9, 0x30, 0xc5, 0xfe, 7, 0, 0, 0,
    ];
    let node = Node::start(&[]);
    let stored = node.send(coded("gzip", &body));
    assert_eq!(stored.status, 201, "{stored:?}");
    assert_eq!(stored.json()["addr"], node.put(b"content").json()["addr"]);
    let broken = node.send(coded("gzip", &body[..20]));
    assert_eq!((broken.status, &*broken.reason()), (400, "body_broken"));
}

#[test]
fn a_bomb_is_refused_and_costs_no_memory() {
    let node = Node::start(&["--http.rps", "1000000"]);
    // 64 MiB of zeros in one zstd frame of run-length blocks of 128 KiB, 3 bytes and a byte of zero each.
    let mut bomb = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 0x58];
    for block in 0..512 {
        let head: u32 = u32::from(block == 511) | 1 << 1 | (128 << 10) << 3;
        bomb.extend_from_slice(&head.to_le_bytes()[..3]);
        bomb.push(0);
    }
    let before = node.resident_kib();
    for _ in 0..50 {
        let refused = node.send(coded("zstd", &bomb));
        assert_eq!((refused.status, &*refused.reason()), (413, "decompress"));
    }
    let grown = node.resident_kib().saturating_sub(before);
    assert!(grown < 16 << 10, "{grown} KiB");
    assert_eq!(node.metric("rejected_total{reason=\"decompress\"}"), 50);
}

#[test]
fn codings_that_are_unknown_or_stacked_are_refused() {
    let node = Node::start(&[]);
    for coding in [
        "br",
        "deflate",
        "gzip, gzip",
        "identity\r\ncontent-encoding: gzip",
    ] {
        let answer = node.send(coded(coding, b"x"));
        assert_eq!(
            (answer.status, &*answer.reason()),
            (415, "coding"),
            "{coding}"
        );
        assert_eq!(answer.header("accept-encoding"), Some("gzip, zstd"));
    }
    assert_eq!(node.send(coded("identity", b"x")).status, 201);
}

#[test]
fn objects_beyond_the_budget_are_refused_and_the_rest_stays() {
    let node = Node::start(&["--store.max_bytes", "1MiB"]);
    let first = node.put(&vec![1; 600_000]);
    assert_eq!(first.status, 201);
    let full = node.put(&vec![2; 600_000]);
    assert_eq!((full.status, &*full.reason()), (507, "store_full"));
    let path = format!("/o/{}", first.json()["addr"].as_str().unwrap());
    assert_eq!(node.get(&path).status, 200);
    assert_eq!(node.metric("rejected_total{reason=\"507\"}"), 1);
}

#[test]
fn requests_that_could_be_read_in_two_ways_are_refused() {
    let node = Node::start(&[]);
    let cases = [
        "PUT /put HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "PUT /put HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1, 2\r\n\r\nab",
        "PUT /put HTTP/1.1\r\nhost: localhost\r\ncontent-length: +1\r\n\r\na",
        "PUT /put HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0x1\r\n\r\na",
        "PUT /put HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "PUT /put HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n",
        "GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: a\r\n b\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nhost : n\r\n\r\n",
        "GET /healthz HTTP/9.9\r\nhost: localhost\r\n\r\n",
        "GET /o/x HTTP/1.1\r\n\r\n",
        "GET /healthz HTTP/1.1\r\n\r\n",
        "PUT /put HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "PUT /put HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET /o/x HTTP/1.1\r\nhost: localhost\r\nhost: b\r\n\r\n",
        "GET\t/healthz HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ];
    for case in cases {
        let mut stream = node.connect();
        stream.write_all(case.as_bytes()).unwrap();
        let answer = Answer::read(&mut stream, false);
        let status = answer.map_or(400, |answer| answer.status);
        assert_eq!(status, 400, "{case:?}");
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{case:?}: the connection goes on");
    }
    assert_eq!(node.get("/healthz").status, 200);
}

#[test]
fn what_is_no_http_is_counted() {
    let node = Node::start(&[]);
    let huge = format!(
        "GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n",
        "a".repeat(300 << 10)
    );
    for (request, status) in [("NONSENSE\r\n\r\n", 400), (&*huge, 431)] {
        let answer = node.send(request);
        assert_eq!(answer.status, status);
        let series = format!(
            "http_requests_total{{route=\"unmatched\",method=\"other\",status=\"{status}\"}}"
        );
        let began = Instant::now();
        while node.metric(&series) != 1 {
            assert!(began.elapsed() < PATIENCE, "{series}");
        }
    }
}

#[test]
fn a_page_of_the_web_cannot_use_a_browser_of_this_machine() {
    let node = Node::start(&[]);
    let ask = |host: &str, origin: &str| {
        node.send(format!("GET /o/x HTTP/1.1\r\nhost: {host}\r\n{origin}\r\n"))
    };
    for (host, origin, reason) in [
        ("attacker.example", "", "host"),
        (
            "localhost",
            "origin: https://attacker.example\r\n",
            "origin",
        ),
        ("localhost", "origin: null\r\n", "origin"),
    ] {
        let answer = ask(host, origin);
        assert_eq!(
            (answer.status, &*answer.reason()),
            (403, reason),
            "{host} {origin}"
        );
    }
    let local = ask("127.0.0.1:8080", "origin: http://localhost:3000\r\n");
    assert_eq!((local.status, &*local.reason()), (400, "address"));
    let version = node.get("/version").json();
    assert_eq!(version["features"]["dev_allow"], true);
    assert_eq!(version["features"]["tls"], false);
}

#[test]
fn who_reads_a_byte_at_a_time_gives_its_place_up() {
    let node = Node::start(&["--http.write_timeout", "300ms", "--http.min_rate", "64MiB"]);
    let stored = node.put(&vec![7; 1 << 20]);
    let path = format!("/o/{}", stored.json()["addr"].as_str().unwrap());
    let mut slow = node.connect();
    // More than the buffers of both sides take in.
    for _ in 0..40 {
        write!(slow, "GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    }
    let began = Instant::now();
    let is_over = || node.metric("inflight_requests{route=\"/o/{addr}\"}") == 0;
    let mut read = 0;
    while !(is_over() && read > 0) {
        read += slow.read(&mut [0; 1000]).unwrap_or(0);
        assert!(began.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(read < 40 << 20);
}
