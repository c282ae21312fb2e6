//! Clients that lie, stall, flood or speak something else: each is refused or cut off, and the next is answered.

use crate::bed::{idle, until, Bed};
use crate::client::{read_answer, Answer, Client};
use crate::processes::{again, passed, role};
use std::io::{BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// A head must arrive within 2 s, a body within 5 s; the rest is for a busy machine.
const SLACK: Duration = Duration::from_millis(900);
const HEAD: Duration = Duration::from_secs(2);
const BODY: Duration = Duration::from_secs(5);

fn bed() -> Bed {
    let bed = Bed::new(|kernel| kernel.child(idle("web")));
    bed.until_ready();
    bed
}

/// Answers in time. After a storm it may still hold places for those who have just gone, and refuse.
fn lives(client: &Client) {
    let begun = Instant::now();
    loop {
        match client.try_ask("GET", "/v1/about", "") {
            Ok(answer) if answer.status == 200 => break,
            other => assert!(begun.elapsed() < HEAD, "{other:?}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(begun.elapsed() < HEAD, "{:?}", begun.elapsed());
}

/// Whether it is as untouched as at the start.
fn untouched(bed: &Bed) {
    let node = bed.node("web");
    assert_eq!(
        (&node["state"], &node["generation"]),
        (&"ready".into(), &1.into())
    );
}

fn head(method: &str, path: &str, rest: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: svc\r\nConnection: close\r\n{rest}\r\n")
}

#[test]
fn a_head_above_the_limit_is_431_and_one_below_is_answered() {
    let bed = bed();
    let padded = |bytes: usize| {
        head(
            "GET",
            "/v1/about",
            &format!("X-Pad: {}\r\n", "x".repeat(bytes)),
        )
    };
    let answer = bed.client.send(padded(15_000).as_bytes()).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    for request in [
        padded(17_000),
        padded(1 << 20),
        head("GET", &format!("/v1/tree?id={}", "x".repeat(20_000)), ""),
        head("GET", "/v1/about", &"X-A: b\r\n".repeat(3_000)),
    ] {
        let answer = bed.client.send(request.as_bytes()).unwrap();
        assert_eq!(answer.status, 431, "{}", answer.body);
        lives(&bed.client);
    }
}

/// Before there is a request there is nobody to write an envelope: the status says it.
#[test]
fn a_refused_head_has_a_status_and_no_body() {
    let bed = bed();
    let large = head(
        "GET",
        "/v1/about",
        &format!("X-Pad: {}\r\n", "x".repeat(20_000)),
    );
    for (request, status) in [
        (large.as_str(), 431),
        ("GET /v1/ab out HTTP/1.1\r\n\r\n", 400),
    ] {
        let answer = bed.client.send(request.as_bytes()).unwrap();
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (status, ""),
            "{answer:?}"
        );
    }
}

#[test]
fn a_body_above_the_limit_is_413_however_it_is_framed() {
    let bed = bed();
    let name = |bytes: usize| format!(r#"{{"id":"{}"}}"#, "x".repeat(bytes));
    let fits = bed.client.post("/v1/children/stop", &name(65_536 - 9));
    assert_eq!(fits.refusal(), (404, "unknown_child".to_owned()));
    let stop = |rest: &str| head("POST", "/v1/children/stop", rest);
    let body = name(65_536 - 8);
    let chunk = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let requests = [
        stop(&format!("Content-Length: {}\r\n", body.len())) + &body,
        stop("Transfer-Encoding: chunked\r\n") + &chunk,
        stop("Transfer-Encoding: chunked\r\n")
            + "1000\r\n"
            + &"x".repeat(4096)
            + "\r\n"
            + &format!("10000\r\n{}\r\n0\r\n\r\n", "y".repeat(65_536)),
    ];
    for request in requests {
        let answer = bed.client.send(request.as_bytes()).unwrap();
        assert_eq!(answer.status, 413, "{answer:?}");
        assert!(answer.json()["error"]["code"].is_string());
    }
    lives(&bed.client);
}
#[test]
fn a_body_that_is_announced_too_large_is_not_waited_for() {
    let bed = bed();
    for length in ["65537", "9223372036854775807"] {
        let length = format!("Content-Length: {length}\r\n");
        let request = head("POST", "/v1/children/stop", &length);
        let begun = Instant::now();
        let answer = bed.client.send(request.as_bytes()).unwrap();
        assert_eq!(answer.status, 413, "{answer:?}");
        assert!(begun.elapsed() < HEAD, "{:?}", begun.elapsed());
    }
}

/// Sends a byte now and then until it is cut off or has its answer; how long that took.
fn drip(client: &Client, begin: &str) -> (Duration, Option<Answer>) {
    let stream = client.connect().unwrap();
    let mut writer = stream.try_clone().unwrap();
    let begun = Instant::now();
    writer.write_all(begin.as_bytes()).unwrap();
    let dripping = std::thread::spawn(move || {
        while begun.elapsed() < Duration::from_secs(12) && writer.write_all(b"a").is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let answer = read_answer(&mut BufReader::new(&stream)).ok();
    let took = begun.elapsed();
    let _ = stream.shutdown(Shutdown::Both);
    dripping.join().unwrap();
    (took, answer)
}

#[test]
fn who_drips_is_cut_off_in_time() {
    let bed = bed();
    let body = head("POST", "/v1/children/stop", "Content-Length: 500\r\n");
    let chunked = head(
        "POST",
        "/v1/children/stop",
        "Transfer-Encoding: chunked\r\n",
    );
    std::thread::scope(|scope| {
        let heads = ["GET /v1/about?", "GET /v1/about HTTP/1.1\r\nX: ", "POST "];
        let heads = heads.map(|begin| (scope.spawn(|| drip(&bed.client, begin)), begin));
        let bodies = [body.clone(), chunked + "ff\r\n"].map(|begin| {
            let client = &bed.client;
            scope.spawn(move || drip(client, &begin))
        });
        let silent = scope.spawn(|| {
            let begun = Instant::now();
            let mut stream = bed.client.connect().unwrap();
            let _ = stream.read(&mut [0; 64]);
            begun.elapsed()
        });
        lives(&bed.client);
        for (dripping, begin) in heads {
            let (took, answer) = dripping.join().unwrap();
            assert!(took < HEAD + SLACK, "{begin:?}: {took:?}");
            assert!(took > HEAD - SLACK, "{begin:?}: {took:?}");
            let status = answer.map_or(408, |answer| answer.status);
            assert_eq!(status, 408, "{begin:?}");
        }
        let took = silent.join().unwrap();
        assert!(took < HEAD + SLACK, "a silent one: {took:?}");
        for dripping in bodies {
            let (took, answer) = dripping.join().unwrap();
            assert!((BODY - SLACK..BODY + SLACK).contains(&took), "{took:?}");
            assert_eq!(answer.expect("an answer").status, 408);
        }
    });
    untouched(&bed);
}

/// Refused with this status, or with none: cut off.
#[test]
fn what_is_no_http_is_refused_and_nothing_is_done() {
    let bed = bed();
    let stop = |rest: &str| head("POST", "/v1/children/stop", rest);
    let body = r#"{"id":"web"}"#;
    let table: Vec<(&str, Vec<u8>, &[u16])> = vec![
        ("garbage", b"\x00\xff\x13\x37\r\n\r\n".to_vec(), &[400]),
        (
            "a TLS hello",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
            &[400],
        ),
        ("HTTP/0.9", b"GET /v1/about\r\n\r\n".to_vec(), &[400]),
        (
            "HTTP/2",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            &[400, 505],
        ),
        (
            "HTTP/3.7",
            b"GET /v1/about HTTP/3.7\r\n\r\n".to_vec(),
            &[400, 505],
        ),
        ("no path", b"GET  HTTP/1.1\r\n\r\n".to_vec(), &[400]),
        (
            "a path of another host",
            b"GET ../../etc/passwd HTTP/1.1\r\n\r\n".to_vec(),
            &[400, 404],
        ),
        (
            "CONNECT",
            b"CONNECT a:1 HTTP/1.1\r\n\r\n".to_vec(),
            &[400, 404, 405],
        ),
        (
            "OPTIONS *",
            b"OPTIONS * HTTP/1.1\r\nConnection: close\r\n\r\n".to_vec(),
            &[400, 404, 405],
        ),
        (
            "a method of 10,000 letters",
            [vec![b'A'; 10_000], b" / HTTP/1.1\r\n\r\n".to_vec()].concat(),
            &[400, 404, 405],
        ),
        (
            "two lengths",
            (stop("Content-Length: 12\r\nContent-Length: 13\r\n") + body).into_bytes(),
            &[400],
        ),
        (
            "a negative length",
            (stop("Content-Length: -1\r\n") + body).into_bytes(),
            &[400],
        ),
        (
            "a length of words",
            (stop("Content-Length: twelve\r\n") + body).into_bytes(),
            &[400],
        ),
        (
            "an unknown coding",
            (stop("Transfer-Encoding: gzip\r\n") + body).into_bytes(),
            &[400, 501],
        ),
        (
            "chunks that are none",
            (stop("Transfer-Encoding: chunked\r\n") + "zz\r\n" + body).into_bytes(),
            &[400],
        ),
        (
            "a chunk of 2^64",
            (stop("Transfer-Encoding: chunked\r\n") + "10000000000000000\r\n" + body).into_bytes(),
            &[400, 413],
        ),
        (
            "a header with a break",
            (stop("A\r\nB: c\r\n") + body).into_bytes(),
            &[400],
        ),
    ];
    for (what, bytes, statuses) in table {
        let begun = Instant::now();
        match bed.client.send(&bytes) {
            Ok(answer) => assert!(statuses.contains(&answer.status), "{what}: {answer:?}"),
            Err(error) => assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "{what}"),
        }
        assert!(
            begun.elapsed() < HEAD + SLACK,
            "{what}: {:?}",
            begun.elapsed()
        );
        lives(&bed.client);
    }
    untouched(&bed);
}

#[test]
fn a_body_cut_short_does_nothing() {
    let bed = bed();
    for bytes in [
        head("POST", "/v1/children/stop", "Content-Length: 13\r\n") + r#"{"id":"web"}"#,
        head(
            "POST",
            "/v1/children/stop",
            "Transfer-Encoding: chunked\r\n",
        ) + "c\r\n{\"id\":\"web\"}\r\n",
    ] {
        let mut stream = bed.client.connect().unwrap();
        stream.write_all(bytes.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(!answer.contains(" 202 "), "{answer}");
    }
    untouched(&bed);
}

#[test]
fn a_chunked_body_is_a_body() {
    let bed = bed();
    let request = head(
        "POST",
        "/v1/children/stop",
        "Transfer-Encoding: chunked\r\n",
    );
    let request = request + "5\r\n{\"id\"\r\n7;ext=1\r\n:\"web\"}\r\n0\r\nTrailer: x\r\n\r\n";
    let answer = bed.client.send(request.as_bytes()).unwrap();
    assert_eq!(answer.status, 202, "{answer:?}");
    bed.until_state("web", "stopped");
}

/// A command that came behind another request is not carried out unseen.
#[test]
fn a_connection_has_one_answer_says_so_and_ends() {
    let bed = bed();
    let stream = bed.client.connect().unwrap();
    let mut reader = BufReader::new(&stream);
    let first = "GET /v1/about HTTP/1.1\r\nHost: svc\r\n\r\n";
    let second = head("POST", "/v1/children/stop", "Content-Length: 12\r\n") + r#"{"id":"web"}"#;
    (&stream)
        .write_all(format!("{first}{second}").as_bytes())
        .unwrap();
    let answer = read_answer(&mut reader).unwrap();
    assert_eq!(
        (answer.status, answer.header("connection")),
        (200, Some("close"))
    );
    assert!(read_answer(&mut reader).is_err());
    untouched(&bed);
}

/// Bodies that are no object of the members a command takes: 400, naming what is wrong.
#[test]
fn bodies_that_say_something_else_are_refused_by_name() {
    let bed = bed();
    let deep = "[".repeat(30_000);
    let table = [
        ("no JSON", "id=web", ""),
        ("text behind it", r#"{"id":"web"} x"#, ""),
        ("two", r#"{"id":"web"}{"id":"web"}"#, ""),
        ("deep", deep.as_str(), ""),
        ("an array", r#"["web"]"#, "object"),
        ("a string", r#""web""#, ""),
        ("null", "null", ""),
        ("a number", "7", ""),
        ("a field too many", r#"{"id":"web","force":true}"#, "force"),
        ("another case", r#"{"ID":"web"}"#, "ID"),
        ("twice", r#"{"id":"web","id":"web"}"#, "id"),
        ("none", "{}", "id"),
        ("a wrong type", r#"{"id":7}"#, "id"),
        ("null within", r#"{"id":null}"#, "id"),
        ("an object within", r#"{"id":{"a":1}}"#, "id"),
    ];
    let mut wrong = Vec::new();
    for (what, body, named) in table {
        let answer = bed.client.post("/v1/children/stop", body);
        let code = (answer.status == 400).then(|| answer.refusal().1);
        let message = answer.json()["error"]["message"].to_string();
        let words: Vec<_> = message.split(|c: char| !c.is_alphanumeric()).collect();
        if code.as_deref() != Some("bad_request") || !(named.is_empty() || words.contains(&named)) {
            wrong.push(format!("{what}: {} {}", answer.status, answer.body));
        }
    }
    let bytes = [
        head("POST", "/v1/children/stop", "Content-Length: 12\r\n").as_bytes(),
        b"{\"id\":\"\xff\xfe\x80\"}",
    ]
    .concat();
    let answer = bed.client.send(&bytes).unwrap();
    if answer.status != 400 {
        wrong.push(format!("no UTF-8: {answer:?}"));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    untouched(&bed);
}
#[test]
fn a_query_that_cannot_be_decoded_is_a_bad_request() {
    let bed = bed();
    for query in [
        "id=%",
        "id=%4",
        "id=%zz",
        "id=%ff",
        "%69%zz=web",
        "id=web&%",
    ] {
        let answer = bed.client.get(&format!("/v1/tree?{query}"));
        assert_eq!(
            answer.refusal(),
            (400, "bad_request".to_owned()),
            "{query}: {}",
            answer.body
        );
    }
    bed.client.get("/v1/tree?id=w%65b").expect(200);
    bed.client.get("/v1/tree?%69d=web").expect(200);
}

#[test]
fn names_from_a_request_come_back_whole_and_harmless() {
    let bed = bed();
    let name = "a%22b%5cc%0d%0aSet-Cookie:%20x%1b%5b31m%00%e2%80%ae";
    let answer = bed.client.get(&format!("/v1/tree?id={name}"));
    assert_eq!(answer.refusal().1, "unknown_child");
    assert!(
        answer.message().contains("\r\nSet-Cookie"),
        "{}",
        answer.body
    );
    assert!(!answer.head.contains("Set-Cookie"), "{}", answer.head);
    assert_eq!(answer.body.trim_end().lines().count(), 1);
    let long = "x".repeat(12_000);
    let answer = bed.client.get(&format!("/v1/tree?id={long}"));
    assert_eq!(answer.refusal().1, "unknown_child");
}

#[test]
fn a_wrong_method_is_told_the_right_ones() {
    let bed = bed();
    for (method, path, right) in [
        ("PUT", "/v1/about", "GET"),
        ("POST", "/v1/tree", "GET"),
        ("DELETE", "/v1/tail", "GET"),
        ("GET", "/v1/drain", "POST"),
        ("GET", "/v1/children/stop", "POST"),
        ("PUT", "/v1/config/reload", "POST"),
        ("PATCH", "/v1/chaos", "GET, POST, DELETE"),
    ] {
        let answer = bed.client.ask(method, path, "");
        assert_eq!(answer.status, 405, "{method} {path}: {}", answer.body);
        assert!(answer.message().contains(right), "{}", answer.body);
    }
    untouched(&bed);
}

/// The answer of a client that comes again when it is told that the service is busy, and how long it took.
fn persistent(client: &Client) -> Duration {
    let begun = Instant::now();
    loop {
        let answer = client.get("/v1/about");
        if answer.status == 200 {
            return begun.elapsed();
        }
        assert_eq!(answer.refusal(), (503, "busy".to_owned()));
        assert_eq!(answer.json()["error"]["retryable"], true);
        assert!(begun.elapsed() < HEAD + BODY, "still busy");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn idle_connections_do_not_keep_the_next_from_its_answer() {
    let bed = bed();
    let silent: Vec<UnixStream> = (0..40).map(|_| bed.client.connect().unwrap()).collect();
    let took = persistent(&bed.client);
    assert!(took < HEAD + SLACK, "{took:?}");
    drop(silent);
}

/// Who asks and does not read, as a stopped terminal does.
#[test]
fn clients_that_do_not_read_do_not_keep_the_next_from_its_answer() {
    let bed = Bed::new(|kernel| {
        // Enough for an answer that no socket buffer holds.
        (0..2_000).fold(kernel, |kernel, index| {
            kernel.child(idle(&format!("child-{index}")))
        })
    });
    bed.until_ready();
    assert!(bed.client.get("/v1/tree").body.len() > 300_000);
    let stuck: Vec<UnixStream> = (0..40)
        .map(|_| {
            let stream = bed.client.connect().unwrap();
            let request = b"GET /v1/tree HTTP/1.1\r\nHost: svc\r\n\r\n";
            (&stream).write_all(request).unwrap();
            stream
        })
        .collect();
    persistent(&bed.client);
    drop(stuck);
}

#[test]
fn a_seventeenth_tail_is_busy_and_commands_still_work() {
    let bed = bed();
    let mut tails: Vec<_> = (0..16)
        .map(|_| {
            bed.client
                .tail("topic=kernel")
                .map_err(|answer| answer.body)
                .unwrap()
        })
        .collect();
    let answer = bed
        .client
        .tail("topic=kernel")
        .err()
        .expect("no seventeenth");
    assert_eq!(answer.refusal(), (503, "busy".to_owned()));
    assert_eq!(answer.json()["error"]["retryable"], true);
    bed.client
        .post("/v1/children/restart", r#"{"id":"web"}"#)
        .expect(202);
    until("restarted", || bed.node("web")["generation"] == 2);
    tails.pop();
    until("a place is free", || {
        bed.client.tail("topic=kernel").is_ok()
    });
}

/// xorshift: the same bytes in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

fn status_kib(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let words = line.unwrap().split_whitespace();
    words.filter_map(|word| word.parse().ok()).next().unwrap()
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn ten_thousand_random_strings_end_nothing_and_leave_nothing_behind() {
    const TEST: &str = "hostile::ten_thousand_random_strings_end_nothing_and_leave_nothing_behind";
    // Alone in its process, for the sake of the memory.
    if role().is_none() {
        passed(&again(TEST, "alone", |_| ()));
        return;
    }
    let bed = bed();
    let valid = [
        head("GET", "/v1/tree?id=web", ""),
        head("GET", "/v1/explain?of=ready", "Accept: */*\r\n"),
        head("POST", "/v1/children/release", "Content-Length: 12\r\n") + r#"{"id":"web"}"#,
        head("DELETE", "/v1/chaos", ""),
        head("POST", "/v1/config/check", "Transfer-Encoding: chunked\r\n") + "2\r\n{}\r\n0\r\n\r\n",
    ];
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut send = |count: usize| {
        for _ in 0..count {
            let mut bytes = if random.below(2) == 0 {
                let length = random.below(200);
                (0..length).map(|_| random.below(256) as u8).collect()
            } else {
                valid[random.below(valid.len())].clone().into_bytes()
            };
            for _ in 0..random.below(4) {
                let Some(last) = bytes.len().checked_sub(1) else {
                    break;
                };
                let at = random.below(last + 1);
                match random.below(3) {
                    0 => bytes[at] = random.below(256) as u8,
                    1 => bytes.truncate(at),
                    _ => bytes.insert(at, b"\r\n: /?%&"[random.below(8)]),
                }
            }
            let mut stream = bed.client.connect().unwrap();
            let _ = stream.write_all(&bytes);
            if random.below(8) == 0 {
                let _ = stream.shutdown(Shutdown::Write);
                let _ = stream.read(&mut [0; 4096]);
            }
        }
        lives(&bed.client);
    };
    send(2_000);
    let settled = || open_files() < 60;
    until("connections are closed", settled);
    let before = status_kib("VmRSS:");
    send(8_000);
    until("connections are closed", settled);
    let grown = status_kib("VmRSS:").saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB");
    untouched(&bed);
    assert_eq!(bed.client.get("/v1/about").expect(200)["state"], "ready");
}
#[test]
fn silent_connections_cost_a_bounded_number_of_descriptors() {
    const TEST: &str = "hostile::silent_connections_cost_a_bounded_number_of_descriptors";
    const CLIENTS: usize = 300;
    // Alone in its process, for the sake of the count.
    if role().is_none() {
        passed(&again(TEST, "alone", |_| ()));
        return;
    }
    let bed = bed();
    let before = open_files();
    // Those that are not accepted wait in the listener's queue, which has a limit of its own.
    let silent: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let client = bed.client.clone();
            std::thread::spawn(move || client.connect())
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    let held = open_files() - before;
    assert!(held < CLIENTS + 100, "{} by the service", held - CLIENTS);
    for connection in silent {
        let _ = connection.join().unwrap();
    }
    lives(&bed.client);
}
