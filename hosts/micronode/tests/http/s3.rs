//! Objects in a bucket: failures against a service made up here, the rest against the one that `.ci/check-micronode-s3.sh` starts.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crate::integrity::{damages, got};
use crate::rig::{bytes, put_to, Answer, Node, PATIENCE};

struct Secret {
    _dir: tempfile::TempDir,
    file: PathBuf,
}

impl Secret {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        fs::write(&file, "hunter2-hunter2\n").unwrap();
        let secret = Self { _dir: dir, file };
        secret.mode(0o600);
        secret
    }

    fn mode(&self, mode: u32) {
        fs::set_permissions(&self.file, fs::Permissions::from_mode(mode)).unwrap();
    }
}

fn in_bucket(service: SocketAddr, bucket: &str, secret: &Secret) -> Vec<String> {
    let endpoint = format!("http://{service}");
    let file = secret.file.to_str().unwrap();
    [
        ("--auth.dev_allow", "true"),
        ("--store.kind", "s3"),
        ("--amnesia", "off"),
        ("--store.s3.endpoint", &endpoint),
        ("--store.s3.allow_http", "true"),
        ("--store.s3.bucket", bucket),
        ("--store.s3.access_key_id", "someone"),
        ("--store.s3.secret_key_file", file),
        ("--http.rps", "1000000"),
    ]
    .iter()
    .flat_map(|(key, value)| [(*key).to_owned(), (*value).to_owned()])
    .collect()
}

fn launch(args: &[String], more: &[&str]) -> Node {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    Node::listening(&[&args[..], more].concat())
}

/// A service that has nothing, takes everything, and answers as it is told.
struct MadeUp {
    addr: SocketAddr,
    /// For whoever writes: a status, or 0 for no answer at all.
    status: Arc<AtomicU16>,
}

impl MadeUp {
    fn start(status: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let status = Arc::new(AtomicU16::new(status));
        let shared = Arc::clone(&status);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let status = Arc::clone(&shared);
                thread::spawn(move || while Self::answer(&stream, &status).is_some() {});
            }
        });
        Self { addr, status }
    }

    fn answer(mut stream: &TcpStream, status: &AtomicU16) -> Option<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).ok()?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.map_or(0, |length| length.parse().unwrap());
        stream.read_exact(&mut vec![0; length]).ok()?;
        let status = match (head.starts_with("put "), status.load(Ordering::SeqCst)) {
            (true, 0) => {
                thread::sleep(PATIENCE);
                return None;
            }
            (false, 200) => 404,
            (_, status) => status,
        };
        let answer = format!("HTTP/1.1 {status} x\r\netag: \"x\"\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).ok()
    }
}

fn store_cause(node: &Node) -> String {
    let ready = node.until_ready_is(503).json();
    let causes = ready["causes"].as_array().unwrap();
    let cause = causes.iter().find(|cause| cause["key"] == "store");
    cause.unwrap()["reason"].as_str().unwrap().to_owned()
}

#[test]
fn failures_of_the_service_are_told_and_are_over_when_it_works_again() {
    let cases = [
        (503, "cannot be used"),
        (403, "refuses the credentials"),
        (404, "no such bucket"),
        (0, "cannot be used"),
    ];
    thread::scope(|scope| {
        for (status, told) in cases {
            scope.spawn(move || fails_with(status, told));
        }
    });
}

fn fails_with(status: u16, told: &str) {
    let (service, secret) = (MadeUp::start(200), Secret::new());
    let args = in_bucket(service.addr, "things", &secret);
    let node = launch(&args, &["--store.s3.timeout", "1s"]);
    node.until_ready_is(200);
    assert_eq!(node.put(b"content").status, 201);
    service.status.store(status, Ordering::SeqCst);
    let began = Instant::now();
    let failed = node.put(b"content");
    assert_eq!(
        (failed.status, &*failed.reason()),
        (503, "store"),
        "{status}"
    );
    assert!(failed.header("retry-after").is_some());
    assert!(
        began.elapsed() < PATIENCE,
        "{status}: {:?}",
        began.elapsed()
    );
    let cause = store_cause(&node);
    assert!(cause.contains(told), "{status}: {cause}");
    assert!(!cause.contains("hunter2"));
    service.status.store(200, Ordering::SeqCst);
    node.until_ready_is(200);
    assert_eq!(node.put(b"content").status, 201);
    assert_eq!(node.metric("store_used_bytes"), 0);
}

#[test]
fn a_service_that_never_answers_does_not_hold_up_the_start() {
    let (service, secret) = (MadeUp::start(0), Secret::new());
    let node = launch(&in_bucket(service.addr, "things", &secret), &[]);
    let cause = store_cause(&node);
    assert_eq!(cause, "it takes its time to answer");
    let absent = node.get(&format!("/o/b3:{}", "0".repeat(64)));
    assert_eq!((absent.status, &*absent.reason()), (503, "store"));
    service.status.store(200, Ordering::SeqCst);
    node.until_ready_is(200);
}

#[test]
fn a_secret_that_others_may_read_is_not_used() {
    let secret = Secret::new();
    secret.mode(0o640);
    let service = MadeUp::start(200);
    let node = launch(&in_bucket(service.addr, "things", &secret), &[]);
    let cause = store_cause(&node);
    assert!(cause.contains("mode is 640, expected 600"), "{cause}");
    secret.mode(0o600);
    node.until_ready_is(200);
}

/// The service that the script has started; it wants a signature, and does not look at it.
struct Service(SocketAddr);

impl Service {
    fn of_the_script() -> Self {
        let addr = std::env::var("RON_TEST_S3")
            .expect("RON_TEST_S3=HOST:PORT, which .ci/check-micronode-s3.sh sets");
        Self(addr.parse().unwrap())
    }

    fn send(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(self.0).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let length = body.len();
        let signed = "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request, \
                      SignedHeaders=host, Signature=0";
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nauthorization: {signed}\r\n\
             content-length: {length}\r\nconnection: close\r\n\r\n",
            self.0
        );
        stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
        let answer = Answer::read(&mut stream, false).unwrap();
        assert!(
            [200, 204].contains(&answer.status),
            "{method} {path}: {answer:?}"
        );
        answer
    }
}

#[test]
#[ignore = "by .ci/check-micronode-s3.sh, which starts the service"]
fn what_was_put_into_a_bucket_is_there_for_another_node() {
    let (service, secret) = (Service::of_the_script(), Secret::new());
    service.send("PUT", "/kept", b"");
    let args = in_bucket(service.0, "kept", &secret);
    let objects: Vec<Vec<u8>> = [0, 1, 65_536, 65_537, 300_000, 1 << 20, 5_000_000]
        .map(|length| bytes(9, length))
        .to_vec();
    let node = launch(&args, &[]);
    node.until_ready_is(200);
    for object in &objects {
        for existed in [false, true] {
            let stored = node.send(put_to("/put?mode=stream", object));
            assert_eq!(
                (stored.status, &stored.json()["existed"]),
                (201, &existed.into())
            );
        }
    }
    node.kill();
    let node = launch(&args, &[]);
    node.until_ready_is(200);
    for object in &objects {
        let path = format!("/o/b3:{}", blake3::hash(object).to_hex());
        let got = node.get(&path);
        assert!(
            got.status == 200 && got.is_whole && got.body == *object,
            "{}",
            object.len()
        );
        let half = object.len() / 2;
        if half > 0 {
            let got = node.get_with(&path, &format!("range: bytes={half}-\r\n"));
            assert!(
                got.status == 206 && got.body == object[half..],
                "{}",
                object.len()
            );
        }
    }
    let absent = format!("/o/b3:{}", "0".repeat(64));
    assert_eq!(node.get(&absent).status, 404);
    assert_eq!(node.metric("store_used_bytes"), 0);
}

#[test]
#[ignore = "by .ci/check-micronode-s3.sh, which starts the service"]
fn damage_in_a_bucket_is_never_served_and_is_healed_by_a_put() {
    let (service, secret) = (Service::of_the_script(), Secret::new());
    service.send("PUT", "/damaged", b"");
    let node = launch(&in_bucket(service.0, "damaged", &secret), &[]);
    node.until_ready_is(200);
    for length in [0, 10, 200_000, 1 << 20] {
        let object = bytes(8, length);
        assert_eq!(node.put(&object).status, 201);
        let digest = blake3::hash(&object).to_hex();
        let (key, path) = (
            format!("/damaged/objects/{digest}"),
            format!("/o/b3:{digest}"),
        );
        let intact = service.send("GET", &key, b"").body;
        for (damage, apply) in damages(length, intact.len()) {
            let what = format!("{length} bytes, {damage}");
            let mut stored = intact.clone();
            apply(&mut stored);
            service.send("PUT", &key, &stored);
            let found = node.metric("integrity_fail_total");
            let got = got(&node, &path);
            match got.as_ref().map_or(0, |got| got.status) {
                0 => {}
                502 => assert_eq!(got.unwrap().reason(), "integrity", "{what}"),
                200 => {
                    let got = got.unwrap();
                    assert!(!got.is_whole, "{what}");
                    assert!(object.starts_with(&got.body), "{what}");
                }
                other => panic!("{what}: {other}: {got:?}"),
            }
            assert_eq!(node.metric("integrity_fail_total"), found + 1, "{what}");
            assert_eq!(node.put(&object).status, 201);
            assert!(node.get(&path).body == object, "{what}");
        }
    }
}

#[test]
#[ignore = "by .ci/check-micronode-s3.sh, which starts the service"]
fn a_bucket_that_is_not_there_is_told() {
    let (service, secret) = (Service::of_the_script(), Secret::new());
    let node = launch(&in_bucket(service.0, "absent", &secret), &[]);
    let cause = store_cause(&node);
    assert!(cause.contains("no such bucket"), "{cause}");
    service.send("PUT", "/absent", b"");
    node.until_ready_is(200);
    let path = format!("/o/b3:{}", "0".repeat(64));
    assert_eq!(node.get(&path).status, 404);
    // Gone again: what was in it is not said to be absent.
    service.send("DELETE", "/absent/probe", b"");
    service.send("DELETE", "/absent", b"");
    let failed = node.get(&path);
    assert_eq!((failed.status, &*failed.reason()), (503, "store"));
}
