//! Tokens that are meant to cost the node more than they cost who sends them.

use std::io::Write;
use std::time::SystemTime;

use ron_host::capability::{mint, system_random, Caveat, Keyring};

use crate::rig::{Answer, Node};
use crate::wire::{exchange, replies, Delivery};

struct Guarded {
    node: Node,
    token: String,
    _dir: tempfile::TempDir,
}

fn guarded() -> Guarded {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keyring.toml");
    let now = SystemTime::now();
    let keyring = Keyring::generate(&mut system_random, now).unwrap();
    keyring.create(&path).unwrap();
    let hour = Caveat::Expires(now + std::time::Duration::from_secs(3_600));
    let token = mint(&keyring, &[hour], &mut system_random, now).unwrap();
    Guarded {
        node: Node::start_with(&[
            "--auth.keyring",
            path.to_str().unwrap(),
            "--http.rps",
            "1000000",
        ]),
        token: token.as_str().to_owned(),
        _dir: dir,
    }
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn encode(bytes: &[u8]) -> String {
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let padded = [three, &[0, 0]].concat();
        let bits = u32::from_be_bytes([0, padded[0], padded[1], padded[2]]);
        for digit in 0..=three.len() {
            let value = bits >> (18 - 6 * digit) & 63;
            text.push(char::from(DIGITS[value as usize]));
        }
    }
    text
}

fn decode(text: &str) -> Vec<u8> {
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0_u32, 0);
    for digit in text.bytes().filter(|byte| *byte != b'=') {
        let value = DIGITS.iter().position(|known| *known == digit).unwrap();
        bits = bits << 6 | value as u32;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    bytes
}

/// The token with `count` more caveats before its signature, which does not sign them.
fn with_caveats(token: &str, count: usize, caveat: &str) -> String {
    let bytes = decode(token);
    // An end of section, the field of the signature, its length, 32 bytes.
    let (before, end) = bytes.split_at(bytes.len() - 35);
    let length = u8::try_from(caveat.len()).unwrap();
    let one = [&[2, length], caveat.as_bytes(), &[0]].concat();
    encode(&[before, &one.repeat(count), end].concat())
}

/// Sends a head that announces a body, and nothing of the body.
fn refused_by_head(node: &Node, authorization: &str) -> Answer {
    let mut stream = node.connect();
    let head = format!(
        "PUT /put HTTP/1.1\r\nhost: localhost\r\n{authorization}expect: 100-continue\r\ncontent-length: 1000\r\n\r\n"
    );
    // What is larger than a head may be is refused before it was sent.
    let _ = stream.write_all(head.as_bytes());
    let mut all = Vec::new();
    crate::wire::drain(&mut stream, &mut all).unwrap();
    assert!(!all.starts_with(b"HTTP/1.1 100"), "{}", all.escape_ascii());
    Answer::read(&mut all.as_slice(), false).expect("an answer")
}

#[test]
fn a_token_that_is_refused_is_refused_by_the_head_alone() {
    let Guarded { node, token, _dir } = guarded();
    let valid = format!("authorization: Bearer {token}\r\n");
    let stored = node.send(format!(
        "PUT /put HTTP/1.1\r\nhost: localhost\r\n{valid}content-length: 3\r\n\r\nabc"
    ));
    assert_eq!(stored.status, 201, "{stored:?}");
    let before = node.resident_kib();
    let bearer = |token: &str| format!("authorization: Bearer {token}\r\n");
    let cases: Vec<(&str, String, &[u16])> = vec![
        ("none", String::new(), &[401]),
        ("empty", bearer(""), &[400, 401]),
        (
            "scheme alone",
            "authorization: Bearer\r\n".into(),
            &[400, 401],
        ),
        ("garbage", bearer("!!!not base64!!!"), &[400, 401]),
        ("a letter", bearer("A"), &[400, 401]),
        ("padding alone", bearer("===="), &[400, 401]),
        ("zeros", bearer(&"A".repeat(4_000)), &[400, 401, 403]),
        (
            "two tokens",
            bearer(&format!("{token} {token}")),
            &[400, 401],
        ),
        (
            "a list of tokens",
            bearer(&format!("{token},{token}")),
            &[400, 401],
        ),
        ("a tail", bearer(&format!("{token}AAAA")), &[400, 401, 403]),
        (
            "cut short",
            bearer(&token[..token.len() - 4]),
            &[400, 401, 403],
        ),
        (
            "the signature cut off",
            bearer(&encode(&decode(&token)[..decode(&token).len() - 35])),
            &[400, 401, 403],
        ),
        ("4 KiB", bearer(&"x".repeat(4 << 10)), &[400, 401, 403, 431]),
        ("64 KiB", bearer(&"x".repeat(64 << 10)), &[400, 401, 431]),
        ("1 MiB", bearer(&"x".repeat(1 << 20)), &[400, 401, 431]),
        (
            "33 caveats",
            bearer(&with_caveats(&token, 33, "method = PUT")),
            &[400, 401, 403],
        ),
        (
            "200 caveats",
            bearer(&with_caveats(&token, 200, "scope = a")),
            &[400, 401, 403],
        ),
        (
            "thousands of caveats",
            bearer(&with_caveats(&token, 5_000, "a")),
            &[400, 401, 403, 431],
        ),
        (
            "a caveat that widens",
            bearer(&with_caveats(&token, 1, "max-bytes = 9999999")),
            &[403],
        ),
        (
            "an unknown caveat",
            bearer(&with_caveats(&token, 1, "colour = red")),
            &[401, 403],
        ),
        (
            "two headers, good and bad",
            format!("{valid}{}", bearer("x")),
            &[400, 401, 403],
        ),
        (
            "two headers, bad and good",
            format!("{}{valid}", bearer("x")),
            &[400, 401, 403],
        ),
        (
            "two equal headers",
            format!("{valid}{valid}"),
            &[400, 401, 403],
        ),
        ("basic", "authorization: Basic eDp5\r\n".into(), &[400, 401]),
        ("bytes beyond ASCII", bearer("é"), &[400, 401]),
        (
            "in another header",
            format!("x-authorization: Bearer {token}\r\n"),
            &[401],
        ),
        (
            "in a cookie",
            format!("cookie: authorization={token}\r\n"),
            &[401],
        ),
        (
            "in Proxy-Authorization",
            format!("proxy-authorization: Bearer {token}\r\n"),
            &[401],
        ),
    ];
    for (name, headers, statuses) in &cases {
        let answer = refused_by_head(&node, headers);
        assert!(statuses.contains(&answer.status), "{name}: {answer:?}");
        let challenge = answer.header("www-authenticate");
        assert_eq!(
            challenge.is_some(),
            answer.status == 401,
            "{name}: {answer:?}"
        );
        let shown = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(!shown.contains(&token[10..]), "{name}: {shown}");
    }
    let grown = node.resident_kib().saturating_sub(before);
    assert!(grown < 16 << 10, "{grown} KiB");
}

#[test]
fn a_token_in_the_query_lets_nobody_in() {
    let Guarded { node, token, _dir } = guarded();
    for name in ["access_token", "authorization", "token", "bearer"] {
        let head = format!(
            "PUT /put?{name}={token} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\n\r\nabc"
        );
        let answer = node.send(head);
        assert_eq!(
            (answer.status, &*answer.reason()),
            (401, "token_missing"),
            "{name}"
        );
    }
}

#[test]
fn the_body_behind_a_refused_token_is_never_a_request() {
    let Guarded { node, token, _dir } = guarded();
    let inner =
        format!("GET /o/x HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\r\n");
    let length = inner.len();
    let bodies = [
        format!("content-length: {length}\r\n\r\n{inner}"),
        format!("transfer-encoding: chunked\r\n\r\n{length:x}\r\n{inner}\r\n0\r\n\r\n"),
    ];
    for body in bodies {
        for authorization in ["", "authorization: Bearer x\r\n"] {
            let request = format!("PUT /put HTTP/1.1\r\nhost: localhost\r\n{authorization}{body}");
            for delivery in [Delivery::Whole, Delivery::Apart] {
                let all = exchange(node.addr, request.as_bytes(), b"", delivery).unwrap();
                let seen = replies(&all, |_| false).unwrap();
                assert_eq!(seen.len(), 1, "{seen:?}");
                assert_eq!(seen[0].status, 401);
            }
        }
    }
}

#[test]
fn thousands_of_refused_tokens_leave_the_node_as_it_was() {
    let Guarded { node, token, _dir } = guarded();
    let addr = node.addr;
    let before = node.resident_kib();
    let heavy = with_caveats(&token, 31, &"x".repeat(60));
    let request =
        format!("GET /o/x HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {heavy}\r\n\r\n");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..250 {
                    let all = exchange(
                        addr,
                        request.as_bytes(),
                        b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
                        Delivery::Whole,
                    )
                    .unwrap();
                    let seen = replies(&all, |_| false).unwrap();
                    assert!([401, 403].contains(&seen[0].status), "{seen:?}");
                }
            });
        }
    });
    let grown = node.resident_kib().saturating_sub(before);
    assert!(grown < 16 << 10, "{grown} KiB");
    let valid = node.get_with("/o/x", &format!("authorization: Bearer {token}\r\n"));
    assert_eq!((valid.status, &*valid.reason()), (400, "address"));
}
