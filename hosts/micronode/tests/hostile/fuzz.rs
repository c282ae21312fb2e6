//! Fuzzed requests, judged by a parser of their own.

use std::collections::BTreeMap;
use std::io::Write;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::Mutex;
use std::time::Instant;

use crate::grammar::{connection, Draw, Known};
use crate::model::expected;
use crate::rig::{dial, Node, PATIENCE};
use crate::strict::{requests, Request, Verdict};
use crate::wire::{drain, replies, Reply};

/// Of any request, whatever it asks for: what is no HTTP, too large a head, a host that is not this machine's.
const ANY: [u16; 4] = [400, 403, 405, 431];
const PUT: [u16; 8] = [201, 401, 408, 412, 413, 415, 503, 507];
const OBJECT: [u16; 10] = [200, 206, 304, 404, 412, 413, 415, 416, 429, 503];
const ADMIN: [u16; 2] = [200, 503];
const UNMATCHED: [u16; 1] = [404];

fn documented(target: &str) -> &'static [u16] {
    let path = target.split(['?', '#']).next().unwrap_or_default();
    // Of the absolute form, the path.
    let path = match path.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |start| &rest[start..]),
        None => path,
    };
    match path {
        "/put" => &PUT,
        "/healthz" | "/livez" | "/readyz" | "/metrics" | "/version" => &ADMIN,
        path if path.starts_with("/o/") => &OBJECT,
        _ => &UNMATCHED,
    }
}

/// What is wrong with these answers to these bytes, if anything is.
fn defect(known: &Known, sent: &[u8], all: &[u8]) -> Result<Vec<Reply>, String> {
    let asked = requests(sent);
    let is_head = |n: usize| asked.get(n).is_some_and(|r: &Request| r.method == b"HEAD");
    let replies = replies(all, is_head)?;
    let is_open = asked.last().is_some_and(|request| request.is_last_judged);
    if replies.len() > asked.len() && !is_open {
        return Err(format!(
            "{} answers to {} requests",
            replies.len(),
            asked.len()
        ));
    }
    for (n, (request, reply)) in asked.iter().zip(&replies).enumerate() {
        let told = |what: &str| Err(format!("answer {n}, {}: {what}", reply.status));
        let is_last = n + 1 == replies.len();
        let may_be_cut = is_last && request.head > Verdict::Tolerable;
        if !(reply.is_whole || may_be_cut) {
            return told("cut short");
        }
        let target = String::from_utf8_lossy(&request.target);
        let listed = [&ANY[..], documented(&target)].concat();
        if !listed.contains(&reply.status) {
            return told("undocumented");
        }
        let right = expected(request, &known.objects);
        if right
            .as_ref()
            .is_some_and(|right| !right.contains(&reply.status))
        {
            return told(&format!("not of {right:?}"));
        }
        if reply.status >= 300 {
            continue;
        }
        if request.head > Verdict::Tolerable {
            return told(&format!("to a head that is {:?}", request.head));
        }
        let stores = reply.status == 201;
        if stores && request.body > Verdict::Tolerable {
            return told(&format!("to a body that is {:?}", request.body));
        }
        let is_coded = request.values("content-encoding").next().is_some();
        let addr = format!("/o/b3:{}", blake3::hash(&request.content).to_hex());
        if stores && !is_coded && reply.header("location") != Some(&*addr) {
            return told("other content was stored");
        }
        let whole = reply.status == 200 && request.method == b"GET" && target.contains("/o/b3:");
        let hash = blake3::hash(&reply.body).to_hex();
        if whole && !target.contains(hash.as_str()) {
            return told("other content was served");
        }
    }
    Ok(replies)
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut coded = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1];
    let length = u16::try_from(content.len()).unwrap();
    coded.extend_from_slice(&length.to_le_bytes());
    coded.extend_from_slice(&(!length).to_le_bytes());
    coded.extend_from_slice(content);
    let mut crc = u32::MAX;
    for byte in content {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    coded.extend_from_slice(&(!crc).to_le_bytes());
    coded.extend_from_slice(&u32::from(length).to_le_bytes());
    coded
}

/// The sum over all routes but the one asked.
fn under_way(node: &Node) -> u64 {
    let text = String::from_utf8(node.get("/metrics").body).unwrap();
    let series = text
        .lines()
        .filter(|line| line.starts_with("inflight_requests{") && !line.contains("\"/metrics\""));
    series
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

#[test]
fn fuzzed_requests_are_answered_as_documented_or_not_at_all() {
    let full = std::env::var("RON_TEST_FULL").is_ok_and(|value| value == "1");
    let total = if full { 100_000 } else { 3_000 };
    let seed = std::env::var("RON_TEST_SEED").map_or(7, |seed| seed.parse().unwrap());
    let times = [
        "--http.read_timeout",
        "500ms",
        "--http.body_timeout",
        "500ms",
        "--http.idle_timeout",
        "500ms",
    ];
    let limits = ["--http.rps", "1000000", "--store.max_bytes", "32MiB"];
    let mut node = Node::start(&[&times[..], &limits].concat());
    let content: Vec<u8> = (0..70_000_u32).map(|n| (n % 251) as u8).collect();
    let known = Known {
        objects: [0, 1, 3, 70_000]
            .map(|length| {
                let stored = node.put(&content[..length]).json();
                (stored["addr"].as_str().unwrap().to_owned(), length)
            })
            .to_vec(),
        gzip: gzip(&content[..2_000]),
    };
    let coded = format!("PUT /put HTTP/1.1\r\nhost: localhost\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n", known.gzip.len());
    assert_eq!(
        node.send([coded.as_bytes(), &known.gzip].concat()).status,
        201
    );
    let (addr, before) = (node.addr, node.resident_kib());
    let (sent, next) = (AtomicUsize::new(0), AtomicU64::new(0));
    let defects = Mutex::new(Vec::new());
    let statuses = Mutex::new(BTreeMap::<u16, u64>::new());
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                while sent.load(Ordering::Relaxed) < total && defects.lock().unwrap().len() < 10 {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let mut draw = Draw::new(seed, number);
                    let count = 1 + draw.below(8);
                    sent.fetch_add(count, Ordering::Relaxed);
                    let pieces = connection(&mut draw, &known, count);
                    let mut stream = dial(addr);
                    let together = draw.one_in(2);
                    let bytes = pieces.concat();
                    if together {
                        let _ = stream.write_all(&bytes);
                    } else {
                        for piece in &pieces {
                            let _ = stream.write_all(piece);
                        }
                    }
                    let mut all = Vec::new();
                    let ended = drain(&mut stream, &mut all);
                    match ended.and_then(|()| defect(&known, &bytes, &all)) {
                        Ok(replies) => {
                            let mut statuses = statuses.lock().unwrap();
                            for reply in replies {
                                *statuses.entry(reply.status).or_default() += 1;
                            }
                        }
                        Err(problem) => {
                            let shown = &bytes[..bytes.len().min(40_000)];
                            let answered = &all[..all.len().min(100_000)];
                            defects.lock().unwrap().push(format!(
                                "RON_TEST_SEED={seed}, connection {number}: {problem}\n  sent {}\n  seen {}",
                                shown.escape_ascii(),
                                answered.escape_ascii()
                            ));
                        }
                    }
                }
            });
        }
    });
    let statuses = statuses.into_inner().unwrap();
    let connections = next.into_inner();
    println!(
        "{} requests on {connections} connections in {:?}: {statuses:?}",
        sent.into_inner(),
        began.elapsed()
    );
    let defects = defects.into_inner().unwrap();
    assert!(defects.is_empty(), "{}", defects.join("\n"));
    // Not everything is refused at the door.
    for status in [200, 201, 206, 304, 400, 404, 405, 416] {
        assert!(statuses.contains_key(&status), "{status}: {statuses:?}");
    }
    let asked = Instant::now();
    while under_way(&node) > 0 {
        assert!(
            asked.elapsed() < PATIENCE,
            "{} are under way",
            under_way(&node)
        );
    }
    let grown = node.resident_kib().saturating_sub(before);
    assert!(grown < 96 << 10, "{grown} KiB more are resident");
    node.terminate();
    assert_eq!(node.wait(), 0);
    // The log has ended, so that a line that is missing is told at once.
    let panicked = catch_unwind(AssertUnwindSafe(|| node.logged("panic")));
    assert!(panicked.is_err(), "{panicked:?}");
}

#[test]
fn a_read_that_announces_a_body_is_answered_as_documented() {
    let node = Node::start(&[]);
    let path = node.put(b"abc").header("location").unwrap().to_owned();
    for header in ["content-length: 4294967296\r\n", "content-encoding: br\r\n"] {
        let status = node.get_with(&path, header).status;
        assert!(
            ANY.contains(&status) || OBJECT.contains(&status),
            "{header}: {status}"
        );
    }
}
