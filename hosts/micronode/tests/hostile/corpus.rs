//! Requests that two parsers could read differently: `tests/corpus/*.txt`.
//!
//! Behind each one `GET /healthz` follows on the same connection. It is answered as itself or not at all, and no bytes of
//! a body are ever taken for a request: the corpus hides `GET /version` in bodies.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;

use crate::rig::Node;
use crate::wire::{exchange, replies, Delivery, Reply};

const FILES: [(&str, &str); 5] = [
    ("framing", include_str!("../corpus/framing.txt")),
    ("chunked", include_str!("../corpus/chunked.txt")),
    ("fields", include_str!("../corpus/fields.txt")),
    ("request-line", include_str!("../corpus/request-line.txt")),
    ("connection", include_str!("../corpus/connection.txt")),
];

const SMUGGLED: &str = "GET /version HTTP/1.1\\r\\nhost: localhost\\r\\n\\r\\n";

const FOLLOW_UP: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

/// How a request that is refused before it is understood may be answered, if at all.
const REFUSED: [u16; 9] = [400, 408, 411, 413, 414, 417, 431, 501, 505];

#[derive(Debug)]
struct Case {
    name: String,
    rfc: String,
    expected: Vec<Outcome>,
    stored: Option<Vec<u8>>,
    is_fault: bool,
    bytes: Vec<u8>,
}

#[derive(Debug)]
enum Outcome {
    /// At most one answer, of a refusal, and the connection ends.
    Refuse,
    /// These answers, and then the follow-up's.
    Answers(Vec<u16>, Then),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Next,
    Close,
    Either,
}

impl Outcome {
    fn parse(text: &str) -> Self {
        if text == "refuse" {
            return Self::Refuse;
        }
        let (statuses, then) = text.split_once(' ').expect("`STATUS[+STATUS..] THEN`");
        let statuses = statuses.split('+').map(|status| status.parse().unwrap());
        let then = match then {
            "next" => Then::Next,
            "close" => Then::Close,
            "either" => Then::Either,
            other => panic!("`{other}` is none of next, close, either"),
        };
        Self::Answers(statuses.collect(), then)
    }

    fn fits(&self, seen: &[Reply]) -> bool {
        match self {
            Self::Refuse => match seen {
                [] => true,
                [one] => REFUSED.contains(&one.status),
                _ => false,
            },
            Self::Answers(statuses, then) => {
                let went_on = seen.len() == statuses.len() + 1 && is_healthz(&seen[statuses.len()]);
                let ended = seen.len() == statuses.len();
                let fits = match then {
                    Then::Next => went_on,
                    Then::Close => ended,
                    Then::Either => went_on || ended,
                };
                fits && statuses
                    .iter()
                    .zip(seen)
                    .all(|(s, reply)| *s == reply.status)
            }
        }
    }
}

fn is_healthz(reply: &Reply) -> bool {
    reply.status == 200 && reply.body == br#"{"status":"ok"}"#
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (file, text) in FILES {
        for block in text.split("\n== ").skip(1) {
            let mut lines = block.lines();
            let mut case = Case {
                name: format!("{file}: {}", lines.next().unwrap()),
                rfc: String::new(),
                expected: Vec::new(),
                stored: None,
                is_fault: false,
                bytes: Vec::new(),
            };
            for line in lines.filter(|line| !line.is_empty()) {
                if let Some(data) = line.strip_prefix("| ") {
                    case.bytes.extend(unescape(data));
                } else if let Some((key, value)) = line.split_once(": ") {
                    match key {
                        "rfc" => case.rfc = value.to_owned(),
                        "expect" => case.expected.extend(value.split(", ").map(Outcome::parse)),
                        "stored" => case.stored = Some(unescape(value)),
                        "fault" => case.is_fault = true,
                        _ => panic!("{}: `{key}`", case.name),
                    }
                } else {
                    panic!("{}: {line:?}", case.name);
                }
            }
            assert!(
                !case.expected.is_empty() && !case.rfc.is_empty(),
                "{case:?}"
            );
            cases.push(case);
        }
    }
    cases
}

/// `\r \n \t \0 \xHH \\`, `{smuggled}`, `{smuggled-length}` and `{64*text}` for repetition.
fn unescape(text: &str) -> Vec<u8> {
    let text = text.replace("{smuggled}", SMUGGLED).replace(
        "{smuggled-length}",
        &unescape_only(SMUGGLED).len().to_string(),
    );
    let mut bytes = Vec::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once('{') {
        bytes.extend(unescape_only(before));
        let (repeat, after) = after.split_once('}').expect("a closing brace");
        let (times, what) = repeat.split_once('*').expect("a number and what to repeat");
        bytes.extend(unescape_only(what).repeat(times.parse().unwrap()));
        rest = after;
    }
    bytes.extend(unescape_only(rest));
    bytes
}

fn unescape_only(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'\\' => match rest.next().unwrap() {
                b'r' => b'\r',
                b'n' => b'\n',
                b't' => b'\t',
                b'0' => 0,
                b'\\' => b'\\',
                b'x' => {
                    let digits = [rest.next().unwrap(), rest.next().unwrap()];
                    u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
                }
                other => panic!("no escape: {}", char::from(other)),
            },
            byte => byte,
        };
        bytes.push(byte);
    }
    bytes
}

/// What is wrong with the answers to this case, if anything is.
fn defect(addr: SocketAddr, case: &Case, delivery: Delivery) -> Option<String> {
    let told = |what: String| {
        let (name, rfc) = (&case.name, &case.rfc);
        let start = &case.bytes[..case.bytes.len().min(300)];
        let expected = &case.expected;
        Some(format!(
            "{name} (RFC {rfc}), {delivery:?}\n  sent {}\n  expected {expected:?}\n  seen {what}",
            start.escape_ascii()
        ))
    };
    let all = match exchange(addr, &case.bytes, FOLLOW_UP, delivery) {
        Ok(all) => all,
        Err(problem) => return told(problem),
    };
    let seen = match replies(&all, |_| false) {
        Ok(seen) => seen,
        Err(problem) => return told(problem),
    };
    let shown = || {
        let each = seen.iter().map(|reply| {
            let body = &reply.body[..reply.body.len().min(100)];
            format!("{} {}", reply.status, body.escape_ascii())
        });
        each.collect::<Vec<_>>().join(" | ")
    };
    if seen
        .iter()
        .any(|reply| reply.header("x-corr-id").is_some() && is_version(reply))
    {
        return told(format!("a request of a body was answered: {}", shown()));
    }
    if !case.expected.iter().any(|outcome| outcome.fits(&seen)) {
        return told(shown());
    }
    let stored = seen.first().filter(|reply| reply.status == 201);
    if let (Some(stored), Some(content)) = (stored, &case.stored) {
        let addr = format!("/o/b3:{}", blake3::hash(content).to_hex());
        if stored.header("location") != Some(&*addr) {
            return told(format!("other content was stored: {}", shown()));
        }
    }
    None
}

fn is_version(reply: &Reply) -> bool {
    reply
        .body
        .windows(18)
        .any(|window| window == b"\"name\":\"micronode\"")
}

fn node() -> Node {
    let times = ["--http.read_timeout", "1s", "--http.body_timeout", "1s"];
    let idle = ["--http.idle_timeout", "1s", "--http.rps", "1000000"];
    Node::start(&[times, idle].concat())
}

#[test]
fn nothing_of_the_corpus_is_read_in_two_ways() {
    let cases: Vec<Case> = cases().into_iter().filter(|case| !case.is_fault).collect();
    let node = node();
    let addr = node.addr;
    let next = AtomicUsize::new(0);
    let defects = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    for delivery in [Delivery::Whole, Delivery::Pieces, Delivery::Apart] {
                        // A byte at a time takes longer than the node has patience with.
                        if delivery == Delivery::Pieces && case.bytes.len() > 4096 {
                            continue;
                        }
                        defects.lock().unwrap().extend(defect(addr, case, delivery));
                    }
                }
            });
        }
    });
    let defects = defects.into_inner().unwrap();
    assert!(
        defects.is_empty(),
        "{} of them\n{}",
        defects.len(),
        defects.join("\n")
    );
    assert_eq!(node.get("/healthz").status, 200);
}

#[test]
fn long_chunk_extensions_cost_no_memory() {
    let node = node();
    let before = node.resident_kib();
    let head = b"PUT /put HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n";
    let extension = "x".repeat(1 << 20);
    for _ in 0..20 {
        let endless = format!("1;{extension}\r\na\r\n0\r\n\r\n");
        let all = exchange(
            node.addr,
            &[head, endless.as_bytes()].concat(),
            FOLLOW_UP,
            Delivery::Whole,
        );
        let seen = replies(&all.unwrap(), |_| false).unwrap();
        assert!(Outcome::Refuse.fits(&seen), "{seen:?}");
        // As much in as many small ones, one for each byte.
        let many = format!("1;{}\r\na\r\n", "y".repeat(64)).repeat(16_000);
        let many = [head, many.as_bytes(), b"0\r\n\r\n"].concat();
        let all = exchange(node.addr, &many, FOLLOW_UP, Delivery::Whole);
        let seen = replies(&all.unwrap(), |_| false).unwrap();
        assert!(Outcome::Refuse.fits(&seen), "{seen:?}");
    }
    let grown = node.resident_kib().saturating_sub(before);
    assert!(grown < 16 << 10, "{grown} KiB");
}

/// Those that hyper lets pass, marked `fault`: control bytes in a chunk extension (1.12). Once it refuses one, its
/// mark goes.
#[test]
fn what_is_marked_as_a_fault_is_one() {
    let node = node();
    let faults: Vec<Case> = cases().into_iter().filter(|case| case.is_fault).collect();
    for case in &faults {
        let about = case.name.strip_prefix("chunked: ").unwrap_or_default();
        assert!(
            about.ends_with(" in an extension"),
            "a new fault: {}",
            case.name
        );
        let seen = defect(node.addr, case, Delivery::Whole);
        assert!(seen.is_some(), "{} is refused by now", case.name);
    }
    assert!(!faults.is_empty());
}
