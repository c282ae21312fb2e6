//! TLS: who gets which key exchange, rotation, and what is refused. The certificates are those of ron-metrics' tests.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{chown, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    version, ClientConfig, ClientConnection, NamedGroup, RootCertStore, StreamOwned,
    SupportedProtocolVersion,
};

use crate::rig::{dial, outcome, put, Answer, Node, PATIENCE};

type Groups = &'static [&'static dyn SupportedKxGroup];
type Stream = StreamOwned<ClientConnection, TcpStream>;

const X25519: &dyn SupportedKxGroup = kx_group::X25519;
const HYBRID: &dyn SupportedKxGroup = kx_group::X25519MLKEM768;
const EVERY: Groups = &[HYBRID, X25519];

fn fixture(name: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ron-metrics/tests/tls");
    tests.join(name)
}

fn certificate(name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(fixture(&format!("{name}.cert.pem"))).unwrap()
}

/// Certificate and key as a node reads them.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.install("one", "one");
        files
    }

    fn install(&self, cert: &str, key: &str) {
        // In one step each, as somebody who rotates them does.
        let copy = |from: String, to: PathBuf| {
            let new = self.0.path().join("new");
            fs::copy(fixture(&from), &new).unwrap();
            fs::set_permissions(&new, Permissions::from_mode(0o600)).unwrap();
            fs::rename(new, to).unwrap();
        };
        copy(format!("{cert}.cert.pem"), self.cert());
        copy(format!("{key}.key.pem"), self.key());
    }

    fn cert(&self) -> PathBuf {
        self.0.path().join("cert.pem")
    }

    fn key(&self) -> PathBuf {
        self.0.path().join("key.pem")
    }

    fn args(&self) -> [String; 4] {
        let path = |path: PathBuf| path.to_str().unwrap().to_owned();
        let (cert, key) = (path(self.cert()), path(self.key()));
        ["--tls-cert".to_owned(), cert, "--tls-key".to_owned(), key]
    }
}

fn start(files: &Files, args: &[&str]) -> Node {
    let tls = files.args();
    let mut all: Vec<&str> = tls.iter().map(String::as_str).collect();
    all.extend(["--auth.dev_allow", "true", "--http.rps", "1000000"]);
    all.extend(args);
    let node = Node::listening(&all);
    // A client that every mode takes.
    let began = Instant::now();
    while get(&mut connect(node.addr, EVERY).unwrap(), "/readyz").status != 200 {
        assert!(began.elapsed() < PATIENCE, "it is not ready");
        std::thread::sleep(Duration::from_millis(10));
    }
    node
}

fn connect(addr: SocketAddr, groups: Groups) -> Result<Stream, std::io::Error> {
    connect_as(addr, groups, &version::TLS13)
}

fn connect_as(
    addr: SocketAddr,
    groups: Groups,
    version: &'static SupportedProtocolVersion,
) -> Result<Stream, std::io::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate("one")).unwrap();
    roots.add(certificate("two")).unwrap();
    let provider = CryptoProvider {
        kx_groups: groups.to_vec(),
        ..default_provider()
    };
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = dial(addr);
    while client.is_handshaking() {
        client.complete_io(&mut stream)?;
    }
    Ok(StreamOwned::new(client, stream))
}

fn ask(stream: &mut Stream, request: &[u8]) -> Answer {
    stream.write_all(request).unwrap();
    Answer::read(stream, false).expect("an answer")
}

fn get(stream: &mut Stream, path: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    ask(stream, request.as_bytes())
}

fn presented(stream: &Stream) -> CertificateDer<'static> {
    stream.conn.peer_certificates().unwrap()[0]
        .clone()
        .into_owned()
}

fn count(node: &Node, series: &str) -> u64 {
    let metrics = get(&mut connect(node.addr, EVERY).unwrap(), "/metrics");
    let text = String::from_utf8(metrics.body).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    line.map_or(0, |value| value.trim().parse().unwrap())
}

#[test]
fn every_mode_gives_every_client_the_key_exchange_it_stands_for() {
    let both: &[(&str, Groups)] = &[
        ("classical", &[X25519]),
        ("hybrid", &[HYBRID]),
        ("hybrid first", EVERY),
        ("classical first", &[X25519, HYBRID]),
    ];
    let pq = Some(NamedGroup::X25519MLKEM768);
    let classical = Some(NamedGroup::X25519);
    let matrix = [
        ("off", [classical, None, classical, classical], (0, 3, 2)),
        ("hybrid", [classical, pq, pq, pq], (3, 1, 0)),
        ("required", [None, pq, pq, pq], (3, 0, 0)),
    ];
    for (mode, expected, (hybrids, classicals, downgrades)) in matrix {
        let files = Files::new();
        let node = start(&files, &["--pq-mode", mode]);
        let version = get(&mut connect(node.addr, EVERY).unwrap(), "/version").json();
        assert_eq!(version["features"]["pq"], mode);
        assert_eq!(version["features"]["tls"], true);
        let groups = |group| count(&node, &format!("pq_handshake_total{{group=\"{group}\"}}"));
        let counts = || {
            (
                groups("X25519MLKEM768"),
                groups("x25519"),
                count(&node, "pq_downgrade_total"),
                count(
                    &node,
                    "tls_handshake_failures_total{reason=\"key_exchange\"}",
                ),
            )
        };
        // Looking is a handshake too: before each of the four that are compared there are as many others.
        let before = counts();
        let idle = counts();
        for ((client, offered), expected) in both.iter().zip(expected) {
            let stream = connect(node.addr, offered);
            let group = stream.ok().map(|stream| {
                let group = stream.conn.negotiated_key_exchange_group();
                group.unwrap().name()
            });
            assert_eq!(group, expected, "{mode}, {client}");
        }
        let after = counts();
        let delta = |now: u64, idle: u64, before: u64| (now - idle) - (idle - before);
        let seen = (
            delta(after.0, idle.0, before.0),
            delta(after.1, idle.1, before.1),
            delta(after.2, idle.2, before.2),
        );
        assert_eq!(seen, (hybrids, classicals, downgrades), "{mode}");
        let refused = expected.iter().filter(|group| group.is_none()).count() as u64;
        assert_eq!(after.3 - idle.3, refused, "{mode}");
    }
}

#[test]
fn a_rotation_drops_no_connection_and_no_request() {
    let files = Files::new();
    let node = start(&files, &[]);
    let mut before = connect(node.addr, EVERY).unwrap();
    assert_eq!(presented(&before), certificate("one"));
    let stored = ask(&mut before, &put(b"content"));
    let addr = stored.json()["addr"].as_str().unwrap().to_owned();
    let (node_addr, over) = (node.addr, Arc::new(AtomicBool::new(false)));
    let (path, stop) = (format!("/o/{addr}"), Arc::clone(&over));
    let load = std::thread::spawn(move || {
        let mut answered = 0;
        let mut kept = connect(node_addr, EVERY).unwrap();
        while !stop.load(Ordering::Relaxed) {
            let mut fresh = connect(node_addr, EVERY).unwrap();
            for stream in [&mut kept, &mut fresh] {
                assert_eq!(get(stream, &path).status, 200);
                answered += 1;
            }
        }
        answered
    });
    for name in ["two", "one", "two"] {
        files.install(name, name);
        node.hang_up();
        node.logged("tls_rotated");
        let after = connect(node.addr, EVERY).unwrap();
        assert_eq!(presented(&after), certificate(name));
    }
    over.store(true, Ordering::Relaxed);
    assert!(load.join().unwrap() > 3);
    assert_eq!(get(&mut before, &format!("/o/{addr}")).status, 200);
}

#[test]
fn a_rotation_that_fails_keeps_what_worked_and_says_so() {
    let files = Files::new();
    let node = start(&files, &[]);
    files.install("two", "one");
    node.hang_up();
    let line = node.logged("tls_rotation_failed");
    let error = line["error"].as_str().unwrap();
    assert!(error.contains("cannot be used together"), "{error}");
    let mut stream = connect(node.addr, EVERY).unwrap();
    assert_eq!(presented(&stream), certificate("one"));
    let began = Instant::now();
    let degraded = loop {
        let answer = get(&mut stream, "/readyz");
        let readyz = answer.json();
        if readyz["degraded"] == true {
            assert_eq!(answer.status, 200);
            break readyz;
        }
        assert!(began.elapsed() < PATIENCE, "{readyz}");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(degraded.to_string().contains("\"tls\""), "{degraded}");
    files.install("two", "two");
    node.hang_up();
    node.logged("tls_rotated");
    assert_eq!(
        presented(&connect(node.addr, EVERY).unwrap()),
        certificate("two")
    );
}

#[test]
fn a_reload_of_a_broken_file_still_rotates_what_the_configuration_in_force_names() {
    let files = Files::new();
    let config = files.0.path().join("node.toml");
    fs::write(&config, "[http]\nrps = 1000\n").unwrap();
    let node = start(&files, &["--config", config.to_str().unwrap()]);
    let keys = "[http]\nrps = \"many\"\n[tls]\ncert = \"/elsewhere\"\n";
    for (name, broken) in [("two", keys), ("one", "no TOML"), ("two", "")] {
        fs::write(&config, broken).unwrap();
        node.logged("config_rejected");
        files.install(name, name);
        node.hang_up();
        let began = Instant::now();
        while presented(&connect(node.addr, EVERY).unwrap()) != certificate(name) {
            assert!(
                began.elapsed() < PATIENCE,
                "{broken:?}: the old certificate stays"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        let readyz = get(&mut connect(node.addr, EVERY).unwrap(), "/readyz").json();
        let causes = readyz["causes"].to_string();
        assert!(causes.contains("config_reload"), "{readyz}");
    }
}

#[test]
fn what_is_no_handshake_is_counted_by_its_cause() {
    let files = Files::new();
    let node = start(&files, &["--tls.handshake_timeout", "1s"]);
    let failures = |reason: &str| {
        count(
            &node,
            &format!("tls_handshake_failures_total{{reason=\"{reason}\"}}"),
        )
    };
    // A probe: no failure.
    drop(node.connect());
    let mut plain = node.connect();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut rest = Vec::new();
    let _ = plain.read_to_end(&mut rest);
    assert!(!rest.starts_with(b"HTTP"), "{rest:?}");
    assert!(connect_as(node.addr, &[X25519], &version::TLS12).is_err());
    let mut silent = node.connect();
    silent.write_all(b"\x16\x03\x01").unwrap();
    assert_eq!(silent.read(&mut [0; 16]).unwrap_or(0), 0);
    let began = Instant::now();
    while (
        failures("protocol"),
        failures("version"),
        failures("timeout"),
    ) != (1, 1, 1)
    {
        assert!(began.elapsed() < PATIENCE);
    }
    assert_eq!(failures("connection"), 0);
}

#[test]
fn bodies_and_answers_pass_whole_and_a_drain_waits_for_them() {
    let files = Files::new();
    let mut node = start(&files, &[]);
    let body: Vec<u8> = (0..1 << 20).map(|i: u32| (i % 251) as u8).collect();
    let mut stream = connect(node.addr, EVERY).unwrap();
    let stored = ask(&mut stream, &put(&body));
    let addr = stored.json()["addr"].as_str().unwrap().to_owned();
    let request = format!("GET /o/{addr} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut first = [0];
    stream.read_exact(&mut first).unwrap();
    node.terminate();
    let answer = Answer::read(&mut first.chain(&mut stream), false).unwrap();
    assert!(answer.is_whole && answer.body == body);
    assert_eq!(node.wait(), 0);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("an orderly end");
    assert!(rest.is_empty());
}

#[test]
fn unusable_files_and_modes_keep_it_from_starting() {
    let files = Files::new();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let (cert, key) = (path(&files.cert()), path(&files.key()));
    let empty = path(&files.0.path().join("empty"));
    fs::write(&empty, "").unwrap();
    let other = path(&fixture("two.cert.pem"));
    let open = path(&files.0.path().join("open.pem"));
    fs::copy(&key, &open).unwrap();
    fs::set_permissions(&open, Permissions::from_mode(0o644)).unwrap();
    let cases: &[(&[&str], &str)] = &[
        (&["--tls-cert", &cert], "tls.cert"),
        (&["--tls-key", &key], "tls.key"),
        (
            &["--tls-cert", "/no/such", "--tls-key", &key],
            "tls.cert: cannot read /no/such",
        ),
        (
            &["--tls-cert", &cert, "--tls-key", "/dev/null"],
            "tls.key: cannot read /dev/null",
        ),
        (
            &["--tls-cert", &empty, "--tls-key", &key],
            "has no certificate in PEM",
        ),
        (
            &["--tls-cert", &cert, "--tls-key", &cert],
            "has no private key in PEM",
        ),
        (
            &["--tls-cert", &other, "--tls-key", &key],
            "cannot be used together",
        ),
        (
            &["--tls-cert", &cert, "--tls-key", &open],
            "mode 0644, which opens it to others",
        ),
        (&["--pq-mode", "required"], "expected tls.cert and tls.key"),
        (&["--pq-mode", "always"], "pq.mode"),
    ];
    for (args, expected) in cases {
        let mut command = Command::new(env!("CARGO_BIN_EXE_micronode"));
        command
            .env_clear()
            .args(["--http-addr", "127.0.0.1:0", "--auth.dev_allow", "true"]);
        let (code, text) = outcome(command.args(*args));
        assert_eq!(code, Some(2), "{args:?}: {text}");
        assert!(text.contains(expected), "{args:?}: {text}");
    }
}

#[test]
fn another_user_can_use_neither_a_key_open_to_all_nor_one_of_roots() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    const NOBODY: u32 = 65_534;
    let files = Files::new();
    let dir = files.0.path();
    fs::set_permissions(dir, Permissions::from_mode(0o755)).unwrap();
    let program = dir.join("micronode");
    fs::copy(env!("CARGO_BIN_EXE_micronode"), &program).unwrap();
    fs::set_permissions(files.cert(), Permissions::from_mode(0o644)).unwrap();
    let start = || {
        let mut command = Command::new(&program);
        command
            .env_clear()
            .uid(NOBODY)
            .gid(NOBODY)
            .args(files.args());
        command.args(["--http-addr", "127.0.0.1:0", "--auth.dev_allow", "true"]);
        let (code, text) = outcome(&mut command);
        assert_eq!(code, Some(2), "{text}");
        text
    };
    assert!(start().contains("tls.key: cannot read"));
    chown(files.key(), Some(NOBODY), Some(NOBODY)).unwrap();
    fs::set_permissions(files.key(), Permissions::from_mode(0o604)).unwrap();
    assert!(start().contains("mode 0604"));
}
