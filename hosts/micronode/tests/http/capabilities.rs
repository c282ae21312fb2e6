//! Who may do what.

use std::num::NonZeroU32;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use ron_host::capability::{
    attenuate, inspect, mint, system_random, Caveat, Keyring, KeyringError,
};

use crate::rig::{Answer, Node, PATIENCE};

struct Guarded {
    node: Node,
    keyring: PathBuf,
    _dir: tempfile::TempDir,
}

impl Guarded {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let keyring = dir.path().join("keyring.toml");
        let new = Keyring::generate(&mut system_random, SystemTime::now()).unwrap();
        new.create(&keyring).unwrap();
        let path = keyring.to_str().unwrap().to_owned();
        let all = [&["--auth.keyring", &path, "--http.rps", "1000000"], args].concat();
        let node = Node::start_with(&all);
        Self {
            node,
            keyring,
            _dir: dir,
        }
    }

    fn revoke(&self, token: &str) {
        let cap_id = inspect(token).unwrap().cap_id;
        let now = SystemTime::now();
        Keyring::update(&self.keyring, |keyring| {
            let revoked = keyring.revoke(cap_id, now + Duration::from_secs(60), now);
            revoked
                .map_err(|error| panic!("{error}"))
                .or(Err::<(), KeyringError>(gone()))
        })
        .unwrap();
    }

    fn mint(&self, caveats: &[Caveat]) -> String {
        let keyring = Keyring::load(&self.keyring).unwrap();
        let token = mint(&keyring, caveats, &mut system_random, SystemTime::now());
        token.unwrap().as_str().to_owned()
    }

    fn put(&self, scheme_and_token: &str, body: &[u8]) -> Answer {
        let length = body.len();
        let head = format!(
            "PUT /put HTTP/1.1\r\nhost: localhost\r\nauthorization: {scheme_and_token}\r\ncontent-length: {length}\r\n\r\n"
        );
        self.node.send([head.as_bytes(), body].concat())
    }

    fn get(&self, token: &str, path: &str) -> Answer {
        let header = format!("authorization: Bearer {token}\r\n");
        self.node.get_with(path, &header)
    }
}

fn after(seconds: u64) -> Caveat {
    Caveat::Expires(SystemTime::now() + Duration::from_secs(seconds))
}

#[test]
fn without_a_capability_nothing_is_read_or_written() {
    let guarded = Guarded::start();
    let missing = guarded.node.put(b"content");
    assert_eq!((missing.status, &*missing.reason()), (401, "token_missing"));
    assert_eq!(
        missing.header("www-authenticate"),
        Some("Bearer realm=\"micronode\"")
    );
    assert_eq!(guarded.node.get("/o/x").status, 401);
    for (authorization, reason) in [
        ("Bearer not-a-token", "token_unreadable"),
        ("Basic eDp5", "authorization_header"),
    ] {
        let answer = guarded.put(authorization, b"content");
        assert_eq!((answer.status, &*answer.reason()), (401, reason));
    }
    // Whoever looks after the node needs none.
    for path in ["/healthz", "/readyz", "/metrics", "/version"] {
        assert_eq!(guarded.node.get(path).status, 200, "{path}");
    }
    let metrics = String::from_utf8(guarded.node.get("/metrics").body).unwrap();
    assert!(
        metrics.contains("auth_failures_total{reason=\"token_missing\"} 2"),
        "{metrics}"
    );
}

#[test]
fn a_capability_allows_what_its_caveats_leave() {
    let guarded = Guarded::start();
    let all = guarded.mint(&[after(60)]);
    for scheme in ["Bearer", "Macaroon", "Macro"] {
        let answer = guarded.put(&format!("{scheme} {all}"), b"content");
        assert_eq!(answer.status, 201, "{answer:?}");
    }
    let addr = guarded.put(&format!("Bearer {all}"), b"content").json()["addr"].clone();
    let path = format!("/o/{}", addr.as_str().unwrap());
    let reading = attenuate(&all, &[Caveat::Methods(vec!["GET".into()])]).unwrap();
    let reading = reading.as_str();
    assert_eq!(guarded.get(reading, &path).status, 200);
    let small = guarded.mint(&[after(60), Caveat::MaxBytes(3)]);
    let elsewhere = guarded.mint(&[after(60), Caveat::Path("/elsewhere".into())]);
    let other = guarded.mint(&[after(60), Caveat::Audience("svc-ledger".into())]);
    let expired = guarded.mint(&[Caveat::Expires(SystemTime::now() - Duration::from_secs(1))]);
    let mut tampered = all.clone();
    let last = if tampered.ends_with('A') { "E" } else { "A" };
    tampered.replace_range(tampered.len() - 2..tampered.len() - 1, last);
    let cases = [
        (reading, "method"),
        (&*small, "max_bytes"),
        (&*elsewhere, "path"),
        (&*other, "audience"),
        (&*expired, "expired"),
        (&*tampered, "signature"),
    ];
    for (token, reason) in cases {
        let answer = guarded.put(&format!("Bearer {token}"), b"content");
        assert_eq!((answer.status, &*answer.reason()), (403, reason));
    }
    // What is not announced is counted.
    let chunked = format!(
        "PUT /put HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {small}\r\ntransfer-encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n"
    );
    let answer = guarded.node.send(chunked);
    assert_eq!((answer.status, &*answer.reason()), (413, "body_cap"));
}

#[test]
fn a_capability_has_a_rate_of_its_own() {
    let guarded = Guarded::start();
    let rps = Caveat::Rps(NonZeroU32::new(5).unwrap());
    let slow = guarded.mint(&[after(60), rps]);
    let other = guarded.mint(&[after(60)]);
    let answers: Vec<Answer> = (0..20).map(|_| guarded.get(&slow, "/o/x")).collect();
    let refused: Vec<&Answer> = answers.iter().filter(|a| a.status == 429).collect();
    assert!(refused.len() >= 5, "{}", refused.len());
    assert_eq!(refused[0].reason(), "capability_rate");
    assert_eq!(refused[0].header("retry-after"), Some("1"));
    assert_eq!(guarded.get(&other, "/o/x").status, 400);
    // Restricting it further gives nobody more.
    let derived: Vec<String> = (1..5)
        .map(|rps| {
            let rps = Caveat::Rps(NonZeroU32::new(rps).unwrap());
            attenuate(&slow, &[rps]).unwrap().as_str().to_owned()
        })
        .collect();
    let served = (0..20)
        .filter(|n| guarded.get(&derived[n % 4], "/o/x").status == 400)
        .count();
    assert!(served <= 3, "{served}");
}

#[test]
fn a_revocation_is_in_force_within_a_second() {
    let guarded = Guarded::start();
    let token = guarded.mint(&[after(60)]);
    assert_eq!(guarded.get(&token, "/o/x").status, 400);
    guarded.revoke(&token);
    let began = Instant::now();
    while guarded.get(&token, "/o/x").status != 403 {
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "{:?}",
            began.elapsed()
        );
    }
    assert_eq!(guarded.get(&token, "/o/x").reason(), "revoked");
}

#[test]
fn a_revocation_is_in_force_whatever_is_wrong_with_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("node.toml");
    std::fs::write(&config, "[http]\nread_timeout = \"4s\"\n").unwrap();
    let guarded = Guarded::start_with(&["--config", config.to_str().unwrap()]);
    let token = guarded.mint(&[after(60)]);
    assert_eq!(guarded.get(&token, "/o/x").status, 400);
    std::fs::write(&config, "no TOML").unwrap();
    guarded.node.hang_up();
    guarded.node.logged("config_rejected");
    guarded.revoke(&token);
    let began = Instant::now();
    while guarded.get(&token, "/o/x").status != 403 {
        assert!(began.elapsed() < PATIENCE, "it is still valid");
    }
}

fn gone() -> KeyringError {
    Keyring::load(Path::new("/nothing/here")).unwrap_err()
}

#[test]
fn a_lost_keyring_closes_the_node_until_it_is_back() {
    let guarded = Guarded::start();
    let token = guarded.mint(&[after(60)]);
    let aside = guarded.keyring.with_extension("aside");
    std::fs::rename(&guarded.keyring, &aside).unwrap();
    let began = Instant::now();
    let refused = loop {
        let answer = guarded.get(&token, "/o/x");
        if answer.status == 503 {
            break answer;
        }
        assert!(began.elapsed() < PATIENCE);
    };
    assert!(["keys_unavailable", "fail_secure"].contains(&&*refused.reason()));
    assert!(refused.header("retry-after").is_some());
    let ready = loop {
        let ready = guarded.node.get("/readyz");
        if ready.status == 503 {
            break ready;
        }
        assert!(began.elapsed() < PATIENCE);
    };
    assert!(
        ready.json()["causes"].to_string().contains("caps_loaded"),
        "{}",
        ready.json()
    );
    std::fs::rename(&aside, &guarded.keyring).unwrap();
    let began = Instant::now();
    while guarded.get(&token, "/o/x").status != 400 {
        assert!(began.elapsed() < PATIENCE, "it stays closed");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn it_does_not_start_with_a_door_that_cannot_be_guarded() {
    let dir = tempfile::tempdir().unwrap();
    let open = dir.path().join("open.toml");
    let keyring = Keyring::generate(&mut system_random, SystemTime::now()).unwrap();
    keyring.create(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).unwrap();
    let open = open.to_str().unwrap();
    let cases: [(&[&str], &str); 5] = [
        (&[], "auth.keyring: unset; expected the file of a keyring"),
        (&["--auth.keyring", "/nothing/here"], "/nothing/here"),
        (&["--auth.keyring", open], "0600"),
        (
            &["--auth.dev_allow", "true", "--auth.keyring", open],
            "expected one of them",
        ),
        (
            &["--auth.dev_allow", "true", "--http.addr", "0.0.0.0:0"],
            "auth.dev_allow: true, and http.addr 0.0.0.0:0 is no loopback address",
        ),
    ];
    for (args, expected) in cases {
        let mut command = Command::new(env!("CARGO_BIN_EXE_micronode"));
        let output = command.args(args).env_clear().output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?} {told}");
        assert!(told.contains(expected), "{args:?}: {told}");
        assert_eq!(told.lines().count(), 1, "{told}");
    }
}
