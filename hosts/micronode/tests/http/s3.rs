//! Objects in a bucket: failures against a service made up here, the rest against the one that `.ci/check-micronode-s3.sh` starts.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;

use crate::integrity::{damages, is_not_served};
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

/// How requests of these methods are answered: with a status, or not at all.
#[derive(Clone, Copy)]
struct Fault(&'static [&'static str], Option<u16>);

const WELL: Fault = Fault(&[], None);

/// A service that keeps what it is sent, and fails as it is told.
struct MadeUp {
    addr: SocketAddr,
    kept: Arc<Kept>,
}

struct Kept {
    fault: Mutex<Fault>,
    objects: Mutex<HashMap<String, Vec<u8>>>,
    /// Methods and paths, in the order in which they came.
    asked: Mutex<Vec<String>>,
}

impl MadeUp {
    fn start(fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let kept = Arc::new(Kept {
            fault: Mutex::new(fault),
            objects: Mutex::default(),
            asked: Mutex::default(),
        });
        let shared = Arc::clone(&kept);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let kept = Arc::clone(&shared);
                thread::spawn(move || while kept.answer(&stream).is_some() {});
            }
        });
        Self { addr, kept }
    }

    fn fail(&self, fault: Fault) {
        *self.kept.fault.lock().unwrap() = fault;
    }

    /// What was asked since this was asked last.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.kept.asked.lock().unwrap())
    }
}

impl Kept {
    fn answer(&self, mut stream: &TcpStream) -> Option<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).ok()?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let field = |name: &str| {
            let fields = head.lines().filter_map(|line| line.split_once(": "));
            let mut values = fields.filter(|(known, _)| known.eq_ignore_ascii_case(name));
            values.next().map(|(_, value)| value.to_owned())
        };
        let length = field("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        stream.read_exact(&mut body).ok()?;
        let mut words = head.split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        self.asked.lock().unwrap().push(format!("{method} {path}"));
        let Fault(methods, fault) = *self.fault.lock().unwrap();
        let known = self.objects.lock().unwrap().get(path).cloned();
        let (status, more, body) = match (method, fault, known) {
            (_, Some(status), _) if methods.contains(&method) => (status, None, Vec::new()),
            _ if methods.contains(&method) => {
                thread::sleep(PATIENCE);
                return None;
            }
            ("PUT", ..) => {
                self.objects.lock().unwrap().insert(path.to_owned(), body);
                (200, None, Vec::new())
            }
            (_, _, None) => (404, None, Vec::new()),
            (_, _, Some(object)) => match field("range") {
                None => (200, None, object),
                Some(range) => {
                    let length = object.len();
                    let (first, last) = range["bytes=".len()..].split_once('-').unwrap();
                    let start = match first {
                        "" => length.saturating_sub(last.parse().unwrap()),
                        first => first.parse().unwrap(),
                    };
                    let last: usize = match first {
                        "" => length - 1,
                        _ => last.parse::<usize>().unwrap().min(length - 1),
                    };
                    let more = format!("content-range: bytes {start}-{last}/{length}\r\n");
                    (206, Some(more), object[start..=last].to_vec())
                }
            },
        };
        let (length, more) = (body.len(), more.unwrap_or_default());
        let answer =
            format!("HTTP/1.1 {status} x\r\netag: \"x\"\r\n{more}content-length: {length}\r\n\r\n");
        let body = if method == "HEAD" { &[][..] } else { &body };
        stream.write_all(&[answer.as_bytes(), body].concat()).ok()
    }
}

fn store_cause(node: &Node) -> String {
    node.until_ready_is(503);
    node.cause("store")["reason"].as_str().unwrap().to_owned()
}

#[test]
fn failures_of_the_service_are_told_and_are_over_when_it_works_again() {
    const PUT: &[&str] = &["PUT"];
    const GET: &[&str] = &["GET"];
    let cases = [
        (PUT, Some(503), "written: the service answers 503"),
        (
            PUT,
            Some(403),
            "written: the service refuses the credentials",
        ),
        (PUT, Some(404), "no such bucket"),
        (PUT, None, "does not answer in time"),
        (GET, Some(503), "read: the service answers 503"),
        (GET, Some(403), "read: the service refuses the credentials"),
        (GET, None, "does not answer in time"),
        (&["HEAD"], Some(403), "which takes ListBucket"),
        (&["HEAD"], Some(500), "used: the service answers 500"),
    ];
    thread::scope(|scope| {
        for (methods, status, told) in cases {
            scope.spawn(move || fails_with(methods, status, told));
        }
    });
}

fn fails_with(methods: &'static [&'static str], status: Option<u16>, told: &str) {
    let (service, secret) = (MadeUp::start(WELL), Secret::new());
    let args = in_bucket(service.addr, "things", &secret);
    let node = launch(&args, &["--store.s3.timeout", "1s"]);
    node.until_ready_is(200);
    assert_eq!(node.put(b"content").status, 201);
    let path = format!("/o/b3:{}", blake3::hash(b"content").to_hex());
    assert_eq!(node.get(&path).body, b"content");
    service.fail(Fault(methods, status));
    service.asked();
    let failed = match methods {
        ["GET"] => node.get(&path),
        _ => node.put(b"content"),
    };
    assert_eq!((failed.status, &*failed.reason()), (503, "store"), "{told}");
    assert!(failed.header("retry-after").is_some());
    let cause = store_cause(&node);
    assert!(cause.contains(told), "{told}: {cause}");
    // What others may know of it is not where it is.
    let place = service.addr.to_string();
    assert!(
        !cause.contains("things") && !cause.contains(&place),
        "{cause}"
    );
    assert!(!node.logged("store_failed").to_string().contains("hunter2"));
    service.fail(WELL);
    node.until_ready_is(200);
    assert_eq!(node.put(b"content").status, 201);
    assert_eq!(node.get(&path).body, b"content");
    assert_eq!(node.metric("store_used_bytes"), 0);
    assert_eq!(node.metric("store_reading_bytes"), 0);
}

#[test]
fn a_service_that_cannot_be_used_is_told_at_the_start() {
    for (methods, told) in [
        (&["GET"][..], "cannot be read"),
        (&["HEAD"], "which takes ListBucket"),
        (&["PUT"], "cannot be written"),
    ] {
        let (service, secret) = (MadeUp::start(Fault(methods, Some(403))), Secret::new());
        let node = launch(&in_bucket(service.addr, "things", &secret), &[]);
        let cause = store_cause(&node);
        assert!(cause.contains(told), "{cause}");
        service.fail(WELL);
        node.until_ready_is(200);
    }
}

/// One deadline is for all that a read takes, and nothing is asked of a service that does not answer.
#[test]
fn a_read_that_fails_asks_for_nothing_else() {
    for status in [None, Some(500), Some(403)] {
        let (service, secret) = (MadeUp::start(WELL), Secret::new());
        let args = in_bucket(service.addr, "things", &secret);
        let node = launch(&args, &["--store.s3.timeout", "1s"]);
        node.until_ready_is(200);
        service.fail(Fault(&["GET"], status));
        service.asked();
        let failed = node.get(&format!("/o/b3:{}", "0".repeat(64)));
        assert_eq!((failed.status, &*failed.reason()), (503, "store"));
        let asked = service.asked();
        let mut of_objects = asked.iter().filter(|asked| asked.contains("/objects/"));
        assert!(
            of_objects.all(|asked| asked.starts_with("GET ")),
            "{asked:?}"
        );
    }
}

#[test]
fn a_proxy_is_the_configurations_and_not_the_environments() {
    let (service, proxy, secret) = (MadeUp::start(WELL), MadeUp::start(WELL), Secret::new());
    let args = in_bucket(service.addr, "things", &secret);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let proxy_url = format!("http://{}", proxy.addr);
    let names = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"];
    let env = names.map(|name| (name, &*proxy_url));
    let node = Node::listening_in(&env, &args);
    node.until_ready_is(200);
    assert_eq!(node.put(b"content").status, 201);
    assert_eq!(proxy.asked(), Vec::<String>::new());
    assert!(!service.asked().is_empty());
    let node = Node::listening(&[&args[..], &["--store.s3.proxy", &proxy_url]].concat());
    node.until_ready_is(200);
    assert_eq!(service.asked(), Vec::<String>::new());
    let asked = proxy.asked();
    let there = format!("PUT http://{}/things/probe", service.addr);
    assert!(asked.contains(&there), "{asked:?}");
}

#[test]
fn a_service_that_never_answers_does_not_hold_up_the_start() {
    let (service, secret) = (MadeUp::start(Fault(&["PUT"], None)), Secret::new());
    let node = launch(&in_bucket(service.addr, "things", &secret), &[]);
    let cause = store_cause(&node);
    assert_eq!(cause, "it takes its time to answer");
    let absent = node.get(&format!("/o/b3:{}", "0".repeat(64)));
    assert_eq!((absent.status, &*absent.reason()), (503, "store"));
    service.fail(WELL);
    node.until_ready_is(200);
}

#[test]
fn a_secret_that_others_may_read_is_not_used() {
    let secret = Secret::new();
    secret.mode(0o640);
    let service = MadeUp::start(WELL);
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
            is_not_served(&node, &path, &object, &what);
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
