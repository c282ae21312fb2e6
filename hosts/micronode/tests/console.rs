//! What tokio-console is told. `RUSTFLAGS="--cfg tokio_unstable" cargo test -p micronode --features console --test console`
#![cfg(all(feature = "console", tokio_unstable))]

#[path = "fixture/process.rs"]
mod process;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use process::{get, private_dir, send, Node, BINARY, PATIENCE};

fn command(console: &str) -> Command {
    let mut command = Command::new(BINARY);
    command.env_clear().env("RON_CONSOLE_ADDR", console);
    command.args(["--http-addr", "127.0.0.1:0", "--auth.dev_allow"]);
    command
}

/// A frame of HTTP/2 on stream 1.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

/// What the console sends first: everything, please.
fn watch_updates() -> Vec<u8> {
    let mut headers = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (
            ":path",
            "/rs.tokio.console.instrument.Instrument/WatchUpdates",
        ),
        (":authority", "console"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        // RFC 7541: a literal that is not indexed, neither name nor value compressed.
        headers.push(0);
        for text in [name, value] {
            headers.push(text.len() as u8);
            headers.extend_from_slice(text.as_bytes());
        }
    }
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let empty_message = [0; 5];
    let frames = [
        frame(4, 0, 0, b""),
        frame(1, 4, 1, &headers),
        frame(0, 1, 1, &empty_message),
    ];
    [preface, frames.concat()].concat()
}

#[test]
fn a_console_is_told_of_children_by_their_names_and_the_log_is_as_ever() {
    let dir = private_dir();
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let node = Node::of(command(&free.to_string()).env("RON_RUN_DIR", dir.path()));
    assert_eq!(node.told("console_listening")["addr"], free.to_string());
    let mut console = TcpStream::connect(free).unwrap();
    console.set_read_timeout(Some(PATIENCE)).unwrap();
    console.write_all(&watch_updates()).unwrap();
    let mut told = Vec::new();
    let (name, mut piece) = (b"log-level", [0; 4096]);
    while !told.windows(name.len()).any(|window| window == name) {
        let read = console.read(&mut piece).expect("more");
        assert!(read > 0, "{}", String::from_utf8_lossy(&told));
        told.extend_from_slice(&piece[..read]);
    }
    let put = "PUT /put HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n";
    assert_eq!(send(node.addr, put, b"x").0, 201);
    assert_eq!(get(node.addr, "/healthz").0, 200);
    assert_eq!(node.version()["features"]["amnesia"], true);
    assert!(
        node.began.iter().all(|line| line["target"].is_null()),
        "{:#?}",
        node.began
    );
    drop(console);
    assert_eq!(node.end(), 0);
}

#[test]
fn only_a_free_loopback_address_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (addr, code) in [("0.0.0.0:0", 2), ("localhost:6669", 2), (&*taken, 98)] {
        let output = command(addr).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(
            told.contains("RON_CONSOLE_ADDR") && told.contains(addr),
            "{told}"
        );
    }
}
