//! A Unix socket instead of a port: whose it is, who may connect, and that all else is as on a port.

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{geteuid, Uid};

use crate::rig::{bytes, outcome, put, Answer, Node, PATIENCE};

const NOBODY: u32 = 65_534;

/// A directory that only its owner may enter, and the address of a socket in it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
        Self(dir)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("http.sock")
    }

    fn addr(&self) -> String {
        format!("unix:{}", self.path().display())
    }

    fn start(&self, args: &[&str]) -> Node {
        let addr = self.addr();
        let own = ["--http-addr", &addr, "--auth.dev_allow", "true"];
        let node = Node::listening(&[&own, args].concat());
        let began = Instant::now();
        while self.get("/readyz").status != 200 {
            assert!(began.elapsed() < PATIENCE, "it is not ready");
            std::thread::sleep(Duration::from_millis(10));
        }
        node
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.path()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn send(&self, request: &[u8]) -> Answer {
        let mut stream = self.connect();
        let _ = stream.write_all(request);
        Answer::read(&mut stream, false).expect("an answer")
    }

    fn get(&self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes())
    }

    fn metric(&self, series: &str) -> u64 {
        let text = String::from_utf8(self.get("/metrics").body).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(series));
        line.map_or(0, |value| value.trim().parse().unwrap())
    }
}

/// What a process of this user sees; root can become anybody, one thread at a time.
fn as_user<T: Send>(uid: u32, see: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            rustix::thread::set_thread_uid(Uid::from_raw(uid)).unwrap();
            see()
        });
        thread.join().unwrap()
    })
}

fn is_root(test: &str) -> bool {
    let is_root = geteuid().is_root();
    if !is_root {
        eprintln!("NOT TESTED: {test}: only root can become another user");
    }
    is_root
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn objects_and_messages_pass_and_the_socket_alone_goes_with_the_node() {
    let place = Place::new();
    let beside = place.0.path().join("beside");
    fs::write(&beside, "mine").unwrap();
    let mut node = place.start(&[]);
    assert_eq!(mode(&place.path()), 0o600);
    let body = bytes(1, 300_000);
    let stored = place.send(&put(&body));
    assert_eq!(stored.status, 201);
    let path = format!("/o/{}", stored.json()["addr"].as_str().unwrap());
    // No browser gets here, so any name will do.
    for host in ["localhost", "micronode", "attacker.example", ""] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n");
        let got = place.send(request.as_bytes());
        assert!(
            got.status == 200 && got.body == body,
            "{host}: {}",
            got.status
        );
    }
    let range = format!("GET {path} HTTP/1.1\r\nhost: l\r\nrange: bytes=65530-65545\r\n\r\n");
    let got = place.send(range.as_bytes());
    assert_eq!((got.status, &*got.body), (206, &body[65_530..=65_545]));
    let version = place.get("/version").json();
    assert_eq!(version["features"]["tls"], false);
    assert_eq!(version["features"]["dev_allow"], true);
    assert_eq!(version["features"]["amnesia"], true);
    // There is a file that it could remove.
    assert_eq!(version["features"]["landlock"], false);
    node.terminate();
    assert_eq!(node.wait(), 0);
    assert!(!place.path().exists(), "amnesia leaves nothing");
    assert_eq!(fs::read_to_string(beside).unwrap(), "mine");
}

/// The line of docs/micronode.md.
#[test]
fn curl_asks_it() {
    let place = Place::new();
    let _node = place.start(&[]);
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--unix-socket"]).arg(place.path());
    let Ok(asked) = curl.arg("http://localhost/readyz").output() else {
        return eprintln!("NOT TESTED: there is no curl here");
    };
    let told = String::from_utf8(asked.stdout).unwrap();
    assert!(told.contains("\"ready\":true"), "{told}");
}

#[test]
fn a_restarted_listener_has_a_socket_again_though_nothing_can_be_written() {
    let place = Place::new();
    let node = place.start(&[]);
    for generation in 2..4 {
        node.ctl(&["restart", "http"]);
        let line = node.logged("listening");
        assert_eq!(line["generation"], generation);
        let began = Instant::now();
        while UnixStream::connect(place.path()).is_err() {
            assert!(began.elapsed() < PATIENCE, "it does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(place.get("/readyz").status, 200);
        assert_eq!(mode(&place.path()), 0o600);
    }
}

#[test]
fn what_a_killed_node_left_is_taken_over_and_a_living_ones_is_not() {
    let place = Place::new();
    place.start(&[]).kill();
    assert!(place.path().exists());
    let _node = place.start(&[]);
    let mut second = Command::new(env!("CARGO_BIN_EXE_micronode"));
    second.env_clear().args(["--http-addr", &place.addr()]);
    let (code, told) = outcome(second.arg("--auth.dev_allow"));
    assert_eq!(code, Some(98), "{told}");
    let expected = format!("cannot listen on {}: address in use", place.addr());
    assert!(told.contains(&expected), "{told}");
    assert_eq!(place.get("/readyz").status, 200);
}

#[test]
fn limits_are_those_of_a_port() {
    let place = Place::new();
    let _node = place.start(&["--http.read_timeout", "300ms", "--http.max_conns", "3"]);
    // A head that does not end.
    let mut slow = place.connect();
    slow.write_all(b"GET /readyz HTTP/1.1\r\nhost: l\r\n")
        .unwrap();
    assert_eq!(slow.read(&mut [0; 64]).unwrap_or(0), 0);
    let large = "PUT /put HTTP/1.1\r\nhost: l\r\ncontent-length: 2097152\r\n\r\n";
    let refused = place.send(large.as_bytes());
    assert_eq!((refused.status, &*refused.reason()), (413, "body_cap"));
    // What is beyond the connections there may be waits for one of them.
    let mut kept: Vec<UnixStream> = (0..3).map(|_| place.connect()).collect();
    for stream in &mut kept {
        stream
            .write_all(b"GET /livez HTTP/1.1\r\nhost: l\r\n\r\n")
            .unwrap();
        assert_eq!(Answer::read(stream, false).unwrap().status, 200);
    }
    let mut next = place.connect();
    next.write_all(b"GET /livez HTTP/1.1\r\nhost: l\r\n\r\n")
        .unwrap();
    next.set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let waits = next.read(&mut [0; 1]).unwrap_err().kind();
    assert!([ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&waits));
    drop(kept);
    next.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(Answer::read(&mut next, false).unwrap().status, 200);
}

#[test]
fn a_put_under_way_is_answered_by_a_node_that_is_stopped() {
    let place = Place::new();
    let mut node = place.start(&[]);
    let request = put(&[9; 1000]);
    let mut under_way = place.connect();
    under_way.write_all(&request[..500]).unwrap();
    let began = Instant::now();
    while place.metric("inflight_requests{route=\"/put\"}") == 0 {
        assert!(began.elapsed() < PATIENCE, "it is not under way");
    }
    node.terminate();
    while UnixStream::connect(place.path()).is_ok() {
        assert!(began.elapsed() < PATIENCE, "it still listens");
    }
    under_way.write_all(&request[500..]).unwrap();
    let answer = Answer::read(&mut under_way, false).unwrap();
    assert_eq!(
        (answer.status, answer.header("connection")),
        (201, Some("close"))
    );
    assert_eq!(node.wait(), 0);
}

/// Neither bytes nor a hint for whoever is somebody else.
#[test]
fn a_foreign_user_is_refused_before_a_byte_is_read_even_where_the_modes_let_it_in() {
    if !is_root("that a foreign user is refused") {
        return;
    }
    let place = Place::new();
    let node = place.start(&[]);
    let path = place.path();
    fs::set_permissions(place.0.path(), Permissions::from_mode(0o755)).unwrap();
    let denied = as_user(NOBODY, || UnixStream::connect(&path).unwrap_err().kind());
    assert_eq!(denied, ErrorKind::PermissionDenied);
    fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    for _ in 0..3 {
        let told = as_user(NOBODY, || {
            let mut stream = UnixStream::connect(&path).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let _ = stream.write_all(&put(b"content"));
            let mut told = Vec::new();
            let _ = stream.read_to_end(&mut told);
            told
        });
        assert!(told.is_empty(), "{told:?}");
    }
    let line = node.logged("peer_refused");
    assert_eq!(
        (&line["uid"], &line["level"]),
        (&NOBODY.into(), &"warn".into())
    );
    assert_eq!(line["pid"], std::process::id(), "{line}");
    assert_eq!(place.metric("auth_failures_total{reason=\"peer\"}"), 3);
    assert_eq!(
        place.metric("http_requests_total{route=\"/put\",method=\"PUT\",status=\"201\"}"),
        0
    );
}

#[test]
fn a_user_that_is_named_may_connect_and_no_other() {
    if !is_root("that a user can be let in") {
        return;
    }
    let place = Place::new();
    let _node = place.start(&["--http.unix_uids", "65534, 1234"]);
    let path = place.path();
    assert_eq!(mode(&path), 0o666);
    fs::set_permissions(place.0.path(), Permissions::from_mode(0o711)).unwrap();
    let ask = || {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.write_all(b"GET /livez HTTP/1.1\r\nhost: l\r\n\r\n");
        Answer::read(&mut stream, false).map(|answer| answer.status)
    };
    for (uid, status) in [
        (0, Some(200)),
        (NOBODY, Some(200)),
        (1234, Some(200)),
        (1235, None),
    ] {
        assert_eq!(as_user(uid, ask), status, "{uid}");
    }
}

#[test]
fn places_that_others_may_write_to_and_contradictions_keep_it_from_starting() {
    let place = Place::new();
    let addr = place.addr();
    let open = tempfile::tempdir().unwrap();
    fs::set_permissions(open.path(), Permissions::from_mode(0o1777)).unwrap();
    let open = format!("unix:{}/http.sock", open.path().display());
    let long = format!("unix:/{}", "x".repeat(200));
    let tls = ["--tls-cert", "/a", "--tls-key", "/b"];
    let cases: &[(&[&str], i32, &str)] = &[
        (
            &["--http-addr", &open],
            2,
            "has mode 1777, so others may replace",
        ),
        (&["--http-addr", "unix:relative"], 2, "http.addr"),
        (&["--http-addr", &long], 2, "at most 107"),
        (&["--http-addr", "unix:/no/such/dir/s"], 1, "No such file"),
        (&["--http-addr", "localhost"], 2, "unix:/PATH"),
        (
            &[&["--http-addr", &addr], &tls[..]].concat(),
            2,
            "not encrypted",
        ),
        (
            &["--http-addr", &addr, "--pq-mode", "required"],
            2,
            "pq.mode",
        ),
        (
            &["--http-addr", "127.0.0.1:0", "--http.unix_uids", "7"],
            2,
            "needs a Unix socket",
        ),
        (
            &["--http-addr", &addr, "--http.unix_uids", "root"],
            2,
            "http.unix_uids",
        ),
    ];
    for (args, expected, words) in cases {
        let mut command = Command::new(env!("CARGO_BIN_EXE_micronode"));
        command.env_clear().arg("--auth.dev_allow");
        let (code, text) = outcome(command.args(*args));
        assert_eq!(code, Some(*expected), "{args:?}: {text}");
        assert!(text.contains(words), "{args:?}: {text}");
        assert!(!place.path().exists(), "{args:?}");
    }
    fs::write(
        place.0.path().join("node.toml"),
        format!("[auth]\ndev_allow = true\n[http]\naddr = \"{addr}\"\n[tls]\ncert = \"/a\"\nkey = \"/b\"\n"),
    )
    .unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_micronode"));
    command.args(["config", "validate"]);
    let (code, text) = outcome(command.arg(place.0.path().join("node.toml")));
    assert_eq!(code, Some(2), "{text}");
    assert!(
        text.contains("node.toml:6:8") && text.contains("tls.cert"),
        "{text}"
    );
}
