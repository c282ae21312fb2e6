//! The admin server on a Unix socket: who may connect, what is replaced, what is left behind.
#![cfg(all(feature = "serve", unix))]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use ron_metrics::Metrics;

fn metrics() -> Metrics {
    Metrics::new("test").unwrap()
}

fn healthz(path: &Path) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn entries(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

#[test]
fn the_socket_is_the_owners_only_and_goes_with_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let server = metrics().serve_unix(&path).unwrap();
    assert_eq!(server.path(), path);
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(
        entries(dir.path()),
        ["admin.sock"],
        "nothing else is left in the directory"
    );
    assert!(healthz(&path).starts_with("HTTP/1.1 200 OK"));
    server.join();
    assert!(entries(dir.path()).is_empty());
}

#[test]
fn a_dead_socket_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let server = metrics().serve_unix(&path).unwrap();
    assert!(healthz(&path).starts_with("HTTP/1.1 200 OK"));
    server.join();
}

#[test]
fn a_live_socket_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let first = metrics().serve_unix(&path).unwrap();
    let error = metrics().serve_unix(&path).unwrap_err();
    assert!(error.is_addr_in_use());
    assert!(error
        .to_string()
        .starts_with(&format!("bind error: {}: already in use", path.display())));
    assert!(healthz(&path).starts_with("HTTP/1.1 200 OK"));
    first.join();
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notes.txt");
    fs::write(&path, "mine").unwrap();
    let error = metrics().serve_unix(&path).unwrap_err();
    assert!(
        error.to_string().contains("exists and is not a socket"),
        "{error}"
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");

    let error = metrics()
        .serve_unix(dir.path().join("no/such/dir.sock"))
        .unwrap_err();
    assert!(
        error.to_string().ends_with("the directory does not exist"),
        "{error}"
    );
}

#[test]
fn a_successors_socket_survives_the_end_of_the_first_server() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let first = metrics().serve_unix(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let second = metrics().serve_unix(&path).unwrap();
    first.join();
    assert!(healthz(&path).starts_with("HTTP/1.1 200 OK"));
    second.join();
}
