//! What reading costs, what cannot be read, and what is counted of puts.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::disk::on_disk;
use crate::rig::{bytes, dial, put_to, Answer, Node, PATIENCE};

#[test]
fn objects_that_are_read_take_no_more_memory_than_they_may() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let limits = ["--store.read_bytes", "8MiB", "--http.inflight", "1000"];
    let limits = [
        &limits[..],
        &["--http.write_timeout", "60s", "--http.rps", "100000"],
    ]
    .concat();
    let node = Node::start(&[&on_disk(&path)[..], &limits].concat());
    let large = bytes(1, 30_000_000);
    let stored = node.send(put_to("/put?mode=stream", &large));
    let large_at = format!("/o/{}", stored.json()["addr"].as_str().unwrap());
    let small_at = format!("/o/{}", node.put(b"small").json()["addr"].as_str().unwrap());
    // Readers that do not read, each with two windows.
    let request = format!("GET {large_at} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let mut readers: Vec<TcpStream> = Vec::new();
    let refused = loop {
        let mut reader = dial(node.addr);
        reader.write_all(request.as_bytes()).unwrap();
        let mut first = [0; 12];
        reader.read_exact(&mut first).unwrap();
        if &first == b"HTTP/1.1 503" {
            let rest = (&first[..]).chain(reader);
            break Answer::read(&mut { rest }, false).unwrap();
        }
        readers.push(reader);
        assert!(readers.len() < 100);
    };
    assert_eq!(refused.reason(), "reads");
    assert!(refused.header("retry-after").is_some());
    assert_eq!(readers.len(), 15, "of half a mebibyte and a tree");
    let used = node.metric("store_reading_bytes");
    assert!((15 << 19..8 << 20).contains(&used), "{used}");
    // What is small has room, and is no cause of anything.
    assert_eq!(node.get(&small_at).body, b"small");
    assert_eq!(node.get("/readyz").status, 200);
    // One that goes on gets all of it.
    let mut reader = readers.pop().unwrap();
    let mut rest = vec![0; large.len()];
    reader.read_exact(&mut rest).unwrap();
    drop((readers, reader));
    let began = Instant::now();
    while node.metric("store_reading_bytes") > 0 {
        assert!(began.elapsed() < PATIENCE);
    }
    assert!(node.get(&large_at).body == large);
}

#[test]
fn an_object_that_cannot_be_read_is_a_cause_until_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let node = Node::start(&on_disk(&path));
    let object = bytes(1, 300_000);
    let at = format!("/o/{}", node.put(&object).json()["addr"].as_str().unwrap());
    let file = path.join("objects").join(&at["/o/b3:".len()..]);
    // A directory that has the length of an object is one that cannot be read.
    let name = "7".repeat(64);
    let unread = path.join("objects").join(&name);
    fs::create_dir(&unread).unwrap();
    let length = fs::metadata(&unread).unwrap().len();
    if length <= 16 {
        eprintln!("skipped: a directory has {length} bytes here");
        return;
    }
    let failed = node.get(&format!("/o/b3:{name}"));
    assert_eq!((failed.status, &*failed.reason()), (503, "store"));
    let cause = node.cause("store");
    assert_eq!(cause["status"], "degraded");
    let reason = cause["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("an object cannot be read: the disk cannot be read"),
        "{reason}"
    );
    assert!(!reason.contains(&name));
    assert_eq!(node.get("/readyz").status, 200, "the rest works");
    assert_eq!(node.put(b"content").status, 201);
    fs::remove_dir(&unread).unwrap();
    let began = Instant::now();
    while node.get("/readyz").json()["degraded"] != false {
        assert!(began.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(node.get(&at).body == object && file.exists());
}

#[test]
fn a_directory_that_takes_no_object_is_told_though_files_can_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let node = Node::start(&on_disk(&path));
    fs::remove_dir(path.join("objects")).unwrap();
    let failed = node.put(b"content");
    assert_eq!((failed.status, &*failed.reason()), (503, "store"));
    let ready = node.until_ready_is(503);
    let cause = node.cause("store")["reason"].as_str().unwrap().to_owned();
    assert!(
        cause.starts_with("the disk cannot be written: No such file"),
        "{ready:?}"
    );
    let mut mode = fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(&mut mode, 0o700);
    mode.create(path.join("objects")).unwrap();
    node.until_ready_is(200);
    assert_eq!(node.put(b"content").status, 201);
}

fn puts(node: &Node) -> Vec<(String, u64, u64)> {
    let page = String::from_utf8(node.get("/metrics").body).unwrap();
    let value = |name: &str, outcome: &str| {
        let line = format!("{name}{{outcome=\"{outcome}\"}} ");
        let line = page.lines().find_map(|known| known.strip_prefix(&line));
        line.map_or(0, |value| value.parse().unwrap())
    };
    [
        "stored",
        "existed",
        "healed",
        "full",
        "busy",
        "failed",
        "too_large",
        "broken_off",
        "refused",
        "gone",
    ]
    .map(|outcome| {
        let (count, timed) = (
            value("store_puts_total", outcome),
            value("store_put_seconds_count", outcome),
        );
        (outcome.to_owned(), count, timed)
    })
    .into_iter()
    .filter(|(_, count, timed)| count + timed > 0)
    .collect()
}

#[test]
fn every_put_is_counted_once_by_how_it_ended() {
    let limits = ["--store.max_bytes", "1MiB", "--store.streams", "1"];
    let limits = [
        &limits[..],
        &[
            "--http.body_timeout",
            "300ms",
            "--http.read_timeout",
            "300ms",
        ],
    ];
    let node = Node::start(&limits.concat());
    assert_eq!(node.put(b"one").status, 201);
    assert_eq!(node.put(b"one").status, 201);
    assert_eq!(node.put(&bytes(1, 700_000)).status, 201);
    assert_eq!(node.put(&bytes(2, 700_000)).status, 507);
    // It would not fit into an empty store: declared, and found out.
    let declared = node.send(put_to("/put?mode=stream", &bytes(3, 1_100_000)));
    assert_eq!((declared.status, &*declared.reason()), (413, "store_cap"));
    assert!(declared.header("retry-after").is_none());
    assert_eq!(declared.json()["error"]["retryable"], false);
    let part = b"content-range: bytes 0-2/5\r\n";
    let head = "PUT /put HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\n";
    let part = node.send([head.as_bytes(), part, b"\r\nabc"].concat());
    assert_eq!(part.status, 400);
    // A body that stops coming, and a client that goes away.
    let stopped = node.send(format!("{head}\r\nab"));
    assert_eq!(stopped.status, 408);
    let stream = "PUT /put?mode=stream HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nabc";
    let mut slow = dial(node.addr);
    slow.write_all(stream.as_bytes()).unwrap();
    let began = Instant::now();
    while node.metric("store_used_bytes") < 700_000 + 256 + 3 + 3 {
        assert!(began.elapsed() < PATIENCE);
    }
    let busy = node.send(put_to("/put?mode=stream", b"abc"));
    assert_eq!((busy.status, &*busy.reason()), (503, "streams"));
    drop(slow);
    let expected = [
        ("stored", 2),
        ("existed", 1),
        ("full", 1),
        ("busy", 1),
        ("too_large", 1),
        ("broken_off", 2),
        ("refused", 1),
    ];
    let expected: Vec<_> = expected
        .iter()
        .map(|(outcome, count)| ((*outcome).to_owned(), *count, *count))
        .collect();
    let began = Instant::now();
    while puts(&node) != expected {
        assert!(began.elapsed() < PATIENCE, "{:?}", puts(&node));
        std::thread::sleep(Duration::from_millis(20));
    }
}
