//! Peers that take their time, hundreds at once, while others are served.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::rig::{dial, put, Answer, Node, PATIENCE};

const CONNECTIONS: usize = 300;

/// Longer than this nobody waits, whose request is whole, on a machine that does other things too.
const SERVED_WITHIN: Duration = Duration::from_secs(15);

/// How a slow peer spends its connection after its first bytes.
enum Habit {
    /// A byte of these at a time.
    Drips(&'static [u8]),
    /// Reads a byte at a time.
    Sips,
    /// Neither reads nor writes.
    Sleeps,
}

/// Opens all connections, each of which begins with `first`, and keeps them slow until the node has ended all of them.
/// Meanwhile somebody else puts and gets. What each connection was told is returned.
fn besiege(node: &Node, first: &[u8], habit: &Habit) -> Vec<Vec<u8>> {
    let addr = node.addr;
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Also when this fails, so that nobody waits for the other thread.
        let over = Raised(&is_over);
        let normal = scope.spawn(|| serve_somebody(addr, &is_over));
        let mut open: Vec<Option<TcpStream>> = (0..CONNECTIONS)
            .map(|_| {
                let mut stream = dial(addr);
                let _ = stream.set_nonblocking(true);
                let _ = stream.write(first);
                Some(stream)
            })
            .collect();
        let mut told = vec![Vec::new(); CONNECTIONS];
        let began = Instant::now();
        for step in 0.. {
            for (slot, told) in open.iter_mut().zip(&mut told) {
                if slot.as_mut().is_some_and(|s| !stays(s, habit, step, told)) {
                    *slot = None;
                }
            }
            let left = open.iter().flatten().count();
            if left == 0 {
                break;
            }
            assert!(began.elapsed() < PATIENCE * 2, "{left} hold on");
            std::thread::sleep(Duration::from_millis(50));
        }
        drop(over);
        let served = normal.join().expect("somebody was not served");
        assert!(served > 0);
        told
    })
}

/// Raises the flag when it goes.
struct Raised<'a>(&'a AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One step of a slow peer; `false` when the node has ended its connection.
fn stays(stream: &mut TcpStream, habit: &Habit, step: usize, told: &mut Vec<u8>) -> bool {
    let mut some = [0; 512];
    match habit {
        Habit::Drips(bytes) => {
            let written = stream.write(&[bytes[step % bytes.len()]]);
            match stream.read(&mut some) {
                Ok(0) => false,
                Ok(read) => {
                    told.extend_from_slice(&some[..read]);
                    true
                }
                Err(error) => error.kind() == ErrorKind::WouldBlock && written.is_ok(),
            }
        }
        Habit::Sips => match stream.read(&mut some[..1]) {
            Ok(read) => {
                told.extend_from_slice(&some[..read]);
                // What was on the way at the end is many steps away: whether it ended shows in writing.
                read > 0 && stream.write(b" ").is_ok_or_full()
            }
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        },
        Habit::Sleeps => stream.write(b" ").is_ok_or_full(),
    }
}

trait IsOkOrFull {
    fn is_ok_or_full(&self) -> bool;
}

impl IsOkOrFull for std::io::Result<usize> {
    fn is_ok_or_full(&self) -> bool {
        match self {
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }
}

/// Puts and gets on new connections until told to stop; how often.
fn serve_somebody(addr: SocketAddr, is_over: &AtomicBool) -> usize {
    let mut served = 0;
    while !is_over.load(Ordering::Relaxed) {
        for (request, status) in [
            (put(b"abc"), 201),
            (
                b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(),
                200,
            ),
        ] {
            let began = Instant::now();
            let mut stream = dial(addr);
            stream.write_all(&request).unwrap();
            let answer = Answer::read(&mut stream, false).expect("an answer");
            assert_eq!(answer.status, status, "{answer:?}");
            assert!(began.elapsed() < SERVED_WITHIN, "{:?}", began.elapsed());
            served += 1;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    served
}

fn assert_recovered(node: &Node) {
    let began = Instant::now();
    loop {
        let text = String::from_utf8(node.get("/metrics").body).unwrap();
        let busy: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("inflight_requests{"))
            .filter(|line| !line.contains("\"/metrics\"") && !line.ends_with(" 0"))
            .collect();
        if busy.is_empty() && node.get("/readyz").status == 200 {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{busy:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn start(more: &[&str]) -> Node {
    let times = [
        "--http.read_timeout",
        "1s",
        "--http.body_timeout",
        "2s",
        "--http.write_timeout",
        "1s",
    ];
    let rest = ["--http.idle_timeout", "1s", "--http.rps", "1000000"];
    Node::start(&[&times[..], &rest, more].concat())
}

#[test]
fn heads_that_drip_end_and_others_are_served() {
    let node = start(&[]);
    let drip = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: ";
    for told in besiege(&node, drip, &Habit::Drips(b"y")) {
        // A connection of half a head is closed, or told that it took too long.
        assert!(
            told.is_empty() || told.starts_with(b"HTTP/1.1 408"),
            "{}",
            told.escape_ascii()
        );
    }
    assert_recovered(&node);
}

#[test]
fn heads_of_many_fields_that_drip_end_and_others_are_served() {
    let node = start(&[]);
    besiege(
        &node,
        b"GET /healthz HTTP/1.1\r\n",
        &Habit::Drips(b"a: b\r\n"),
    );
    assert_recovered(&node);
}

#[test]
fn connections_that_say_nothing_end_and_others_are_served() {
    let node = start(&[]);
    besiege(&node, b"", &Habit::Drips(b"\r\n"));
    assert_recovered(&node);
}

#[test]
fn bodies_that_drip_are_told_so_and_others_are_served() {
    let node = start(&[]);
    let heads = [
        "content-length: 100000\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\nfffff\r\n",
    ];
    for head in heads {
        let head = format!("PUT /put HTTP/1.1\r\nhost: localhost\r\n{head}");
        let told = besiege(&node, head.as_bytes(), &Habit::Drips(b"z"));
        let refused = told
            .iter()
            .filter(|told| told.starts_with(b"HTTP/1.1 408"))
            .count();
        // A reset on the way may cost a few their answer.
        assert!(refused * 10 > told.len() * 9, "{refused} of {}", told.len());
        assert_recovered(&node);
    }
}

#[test]
fn chunk_sizes_and_trailers_that_drip_end_and_others_are_served() {
    let node = start(&[]);
    for (start, drip) in [("", &b"0"[..]), ("0\r\n", b"a: b\r\n"), ("1;", b"x")] {
        let head = format!(
            "PUT /put HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n{start}"
        );
        besiege(&node, head.as_bytes(), &Habit::Drips(drip));
        assert_recovered(&node);
    }
}

/// Sixteen times 1 MiB: more than the buffers of both sides hold.
fn asks_for_much(node: &Node) -> Vec<u8> {
    let stored = node.put(&vec![7; 1 << 20]);
    let path = format!("/o/{}", stored.json()["addr"].as_str().unwrap());
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .repeat(16)
        .into_bytes()
}

#[test]
fn peers_that_do_not_read_are_cut_off_and_others_are_served() {
    let node = start(&[]);
    let ask = asks_for_much(&node);
    let before = node.resident_kib();
    besiege(&node, &ask, &Habit::Sleeps);
    assert_recovered(&node);
    let grown = node.resident_kib().saturating_sub(before);
    assert!(grown < 128 << 10, "{grown} KiB");
}

#[test]
fn peers_that_read_a_byte_at_a_time_are_cut_off_and_others_are_served() {
    let node = start(&["--http.min_rate", "64MiB"]);
    let ask = asks_for_much(&node);
    besiege(&node, &ask, &Habit::Sips);
    assert_recovered(&node);
}
