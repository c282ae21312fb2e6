//! The service over a real socket: who may ask, what is answered, and what becomes of a journal that is lost or damaged.

#[path = "../../micronode/tests/fixture/spawned.rs"]
mod spawned;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::mpsc::Receiver;
use std::time::Instant;

use rustix::process::{kill_process, Pid, Signal};
use serde_json::{json, Value};

use spawned::{ended, next, spawn, PATIENCE};

const BINARY: &str = env!("CARGO_BIN_EXE_svc-ledger");

struct Ledger {
    process: Child,
    log: Receiver<Value>,
    addr: SocketAddr,
    admin: SocketAddr,
}

/// A place of its own for everything that a service keeps.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Home {
        let home = tempfile::tempdir().unwrap();
        let private = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(home.path(), private).unwrap();
        std::fs::create_dir(home.path().join("run")).unwrap();
        let run = home.path().join("run");
        std::fs::set_permissions(run, std::fs::Permissions::from_mode(0o700)).unwrap();
        Home(home)
    }

    fn journal(&self) -> PathBuf {
        self.0.path().join("journal")
    }

    fn keyring(&self) -> PathBuf {
        self.0.path().join("keyring")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.args(args);
        command
            .env_clear()
            .env("RON_RUN_DIR", self.0.path().join("run"));
        command
    }

    /// A token that is restricted so.
    fn mint(&self, caveats: &[&str]) -> String {
        let keyring = self.keyring();
        let keyring = keyring.to_str().unwrap();
        let cap = |args: &[&str]| {
            let out = self
                .command(&[&["ctl", "cap"], args].concat())
                .output()
                .unwrap();
            assert!(out.status.success(), "{out:?}");
            String::from_utf8(out.stdout).unwrap().trim().to_owned()
        };
        if !Path::new(keyring).exists() {
            cap(&["rotate", "--create", "--keyring", keyring]);
        }
        cap(&[
            &["mint", "--keyring", keyring, "--aud", "svc-ledger"],
            caveats,
        ]
        .concat())
    }

    /// A service with a journal in a file, open to everybody.
    fn open(&self) -> Ledger {
        let dir = self.journal();
        Ledger::start(
            self,
            &[
                "--auth.dev_allow",
                "true",
                "--ledger.dir",
                dir.to_str().unwrap(),
            ],
        )
    }
}

impl Ledger {
    fn start(home: &Home, args: &[&str]) -> Ledger {
        let ports = [
            "--http-addr",
            "127.0.0.1:0",
            "--metrics-addr",
            "127.0.0.1:0",
        ];
        let (process, log) = spawn(&mut home.command(&[&ports, args].concat()));
        let addr = |event| next(&log, event)["addr"].as_str().unwrap().parse().unwrap();
        let (admin, addr) = (addr("admin_listening"), addr("listening"));
        let ledger = Ledger {
            process,
            log,
            addr,
            admin,
        };
        ledger.until_ready_is(true);
        ledger
    }

    fn until_ready_is(&self, ready: bool) -> Value {
        let began = Instant::now();
        loop {
            let (_, told) = exchange(self.admin, "GET", "/readyz", &[], b"");
            if told["ready"] == ready {
                return told;
            }
            assert!(began.elapsed() < PATIENCE, "{told}");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    fn get(&self, path: &str) -> (u16, Value) {
        exchange(self.addr, "GET", path, &[], b"")
    }

    fn settle(&self, intent: &Value) -> (u16, Value) {
        let key = intent["run_key"].as_str().unwrap_or_default();
        let body = intent.to_string();
        let headers = [("Idempotency-Key", key)];
        exchange(self.addr, "POST", "/v1/intents", &headers, body.as_bytes())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    fn stop(mut self) {
        self.signal(Signal::TERM);
        assert_eq!(ended(&mut self.process), 0);
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn exchange(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> (u16, Value) {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let headers: String = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    // One that is refused at its head may not be read.
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("{answer:?}"));
    let status = head[9..12].parse().unwrap();
    (
        status,
        serde_json::from_str(body).unwrap_or(Value::String(body.to_owned())),
    )
}

fn key(digit: char) -> String {
    digit.to_string().repeat(64)
}

fn intent(digit: char, epoch: &str, amounts: [u64; 2]) -> Value {
    json!({
        "v": 1,
        "run_key": key(digit),
        "tenant": "acme/eu",
        "epoch_id": epoch,
        "commitment": format!("b3:{}", key('c')),
        "funding_account": "pool",
        "total": (amounts[0] + amounts[1]).to_string(),
        "postings": [["alice", amounts[0].to_string()], ["bob", amounts[1].to_string()]],
    })
}

#[test]
fn an_intent_is_settled_once_and_told_so_before_and_after_a_kill() {
    let home = Home::new();
    let mut ledger = home.open();
    let (status, first) = ledger.settle(&intent('1', "e1", [356, 643]));
    assert_eq!(
        (status, &first["result"]),
        (200, &json!("accepted")),
        "{first}"
    );
    assert_eq!(first["receipt"]["seq"], 1);
    for _ in 0..2 {
        let answers = [
            (intent('1', "e1", [356, 643]), 200, "dup"),
            (intent('2', "e1", [356, 643]), 200, "dup"),
            (intent('1', "e1", [356, 644]), 409, "key_reused"),
            (intent('2', "e1", [356, 644]), 409, "epoch_settled"),
        ];
        for (intent, expected, word) in answers {
            let (status, told) = ledger.settle(&intent);
            assert_eq!(status, expected, "{told}");
            if expected == 200 {
                assert_eq!(
                    (&told["result"], &told["receipt"]),
                    (&json!(word), &first["receipt"])
                );
            } else {
                assert_eq!(told["error"]["details"]["reason"], word);
            }
            if word == "epoch_settled" {
                assert_eq!(told["error"]["details"]["run_key"], key('1'));
            }
        }
        let by_key = ledger.get(&format!("/v1/intents/{}", key('1')));
        let by_epoch = ledger.get("/v1/epochs/acme%2Feu/e1");
        assert_eq!(by_key, by_epoch);
        assert_eq!(by_key.1["intent"], intent('1', "e1", [356, 643]));
        assert_eq!(by_key.1["receipt"], first["receipt"]);
        let bob = json!({"account": "bob", "credits": "643", "debits": "0"});
        assert_eq!(ledger.get("/v1/accounts/bob"), (200, bob));
        let pool = json!({"account": "pool", "credits": "0", "debits": "999"});
        assert_eq!(ledger.get("/v1/accounts/pool"), (200, pool));
        let head = json!({"seq": 1, "root": first["receipt"]["root"], "paid": "999"});
        assert_eq!(ledger.get("/v1/head"), (200, head));
        ledger.signal(Signal::KILL);
        drop(ledger);
        ledger = home.open();
    }
    ledger.stop();
}

#[test]
fn what_is_no_intent_is_told_what_would_be_right() {
    let home = Home::new();
    let ledger = home.open();
    let refused = |intent: &Value, status: u16, reason: &str, word: &str| {
        let (found, told) = ledger.settle(intent);
        let error = &told["error"];
        assert_eq!(
            (found, &error["details"]["reason"]),
            (status, &json!(reason)),
            "{told}"
        );
        assert!(error["message"].as_str().unwrap().contains(word), "{told}");
        assert_eq!(error["retryable"], false);
    };
    let with = |name: &str, value: Value| {
        let mut intent = intent('1', "e1", [1, 2]);
        intent[name] = value;
        intent
    };
    refused(&json!("x"), 400, "schema", "line 1 column");
    refused(
        &with("colour", json!("red")),
        400,
        "schema",
        "expected one of `v`",
    );
    refused(&with("v", json!(2)), 400, "version", "expected 1");
    refused(&with("total", json!(3)), 400, "schema", "expected a string");
    refused(
        &with("total", json!("4")),
        422,
        "intent",
        "the sum of all postings",
    );
    refused(
        &with("funding_account", json!("bob")),
        422,
        "intent",
        "cannot be credited",
    );
    refused(
        &with("tenant", json!("a b")),
        400,
        "schema",
        "a name of 1 to",
    );
    let body = intent('1', "e1", [1, 2]).to_string();
    for headers in [&[][..], &[("Idempotency-Key", &*key('2'))]] {
        let (status, told) = exchange(ledger.addr, "POST", "/v1/intents", headers, body.as_bytes());
        assert_eq!(
            (status, &told["error"]["details"]["reason"]),
            (400, &json!("idempotency_key"))
        );
    }
    let unknown = [
        format!("/v1/intents/{}", key('9')),
        "/v1/intents/9".to_owned(),
        "/v1/epochs/acme/none".to_owned(),
        "/v1/epochs/a%ff/none".to_owned(),
        "/v1/nothing".to_owned(),
    ];
    for path in unknown {
        assert_eq!(ledger.get(&path).0, 404, "{path}");
    }
    assert_eq!(ledger.get("/v1/accounts/a%20b").0, 400);
    assert_eq!(ledger.get("/v1/head").1["seq"], 0);
    // As many postings as there may be, and one more.
    let many = |count: usize| {
        let postings: Vec<_> = (0..count)
            .map(|at| json!([format!("actor-{at:06}"), "1"]))
            .collect();
        let mut intent = with("postings", json!(postings));
        intent["total"] = json!(count.to_string());
        intent
    };
    refused(&many(65_537), 400, "schema", "at most 65536");
    assert_eq!(ledger.settle(&many(65_536)).1["result"], "accepted");
    ledger.stop();
}

#[test]
fn a_capability_is_for_its_scope_and_its_tenant() {
    let home = Home::new();
    let token = |caveats: &[&str]| format!("Bearer {}", home.mint(caveats));
    let all = token(&[]);
    let write = token(&["--scope", "ledger.intent.write"]);
    let read = token(&["--scope", "ledger.read"]);
    let own = token(&["--tenant", "acme/eu"]);
    let other = token(&["--tenant", "acme"]);
    let (keyring, dir) = (home.keyring(), home.journal());
    let args = [
        "--auth.keyring",
        keyring.to_str().unwrap(),
        "--ledger.dir",
        dir.to_str().unwrap(),
    ];
    let ledger = Ledger::start(&home, &args);
    let body = intent('1', "e1", [1, 2]).to_string();
    let key = key('1');
    let by_key = format!("/v1/intents/{key}");
    let asked = |method: &str, path: &str, token: &str| {
        let headers = [("Idempotency-Key", &*key), ("Authorization", token)];
        let headers = &headers[..if token.is_empty() { 1 } else { 2 }];
        let body = if method == "POST" {
            body.as_bytes()
        } else {
            b""
        };
        let (status, told) = exchange(ledger.addr, method, path, headers, body);
        let reason = told["error"]["details"]["reason"]
            .as_str()
            .unwrap_or_default();
        (status, reason.to_owned())
    };
    let refused = [
        ("POST", "/v1/intents", "", 401, "token_missing"),
        ("POST", "/v1/intents", &*read, 403, "scope"),
        ("POST", "/v1/intents", &*other, 403, "tenant"),
        ("GET", "/v1/head", &*write, 403, "scope"),
        ("GET", "/v1/head", &*own, 403, "tenant"),
        ("GET", "/v1/accounts/bob", &*own, 403, "tenant"),
    ];
    for (method, path, token, status, reason) in refused {
        assert_eq!(
            asked(method, path, token),
            (status, reason.to_owned()),
            "{method} {path}"
        );
    }
    let ok = (200, String::new());
    assert_eq!(asked("GET", "/v1/head", &all), ok);
    for token in [&write, &own, &all] {
        assert_eq!(asked("POST", "/v1/intents", token), ok);
    }
    for token in [&read, &own, &all] {
        assert_eq!(asked("GET", &by_key, token), ok);
        assert_eq!(asked("GET", "/v1/epochs/acme%2Feu/e1", token), ok);
    }
    assert_eq!(asked("GET", &by_key, &other), (403, "tenant".to_owned()));
    ledger.stop();
}

#[test]
fn nothing_is_answered_from_a_damaged_journal() {
    let home = Home::new();
    let ledger = home.open();
    for (digit, epoch) in [('1', "e1"), ('2', "e2"), ('3', "e3")] {
        assert_eq!(ledger.settle(&intent(digit, epoch, [1, 2])).0, 200);
    }
    ledger.stop();
    let file = home.journal().join("journal.db");
    let mut bytes = std::fs::read(&file).unwrap();
    let amount = bytes
        .windows(13)
        .position(|part| part == br#"["alice","1"]"#)
        .unwrap();
    bytes[amount + 10] = b'7';
    std::fs::write(&file, bytes).unwrap();
    let dir = home.journal();
    let dir = dir.to_str().unwrap();
    let ports = [
        "--http-addr",
        "127.0.0.1:0",
        "--metrics-addr",
        "127.0.0.1:0",
    ];
    let args = [
        &ports[..],
        &["--auth.dev_allow", "true", "--ledger.dir", dir],
    ]
    .concat();
    let (process, log) = spawn(&mut home.command(&args));
    let addr = next(&log, "admin_listening")["addr"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let failed = next(&log, "ledger_failed");
    assert!(
        failed["error"].as_str().unwrap().contains("damaged: entry"),
        "{failed}"
    );
    let ledger = Ledger {
        process,
        log,
        addr,
        admin: addr,
    };
    let told = ledger.until_ready_is(false);
    let cause = told["causes"]
        .as_array()
        .unwrap()
        .iter()
        .find(|cause| cause["key"] == "ledger");
    let reason = cause.unwrap()["reason"].as_str().unwrap();
    assert!(
        reason.contains("damaged: entry") && !reason.contains(dir),
        "{told}"
    );
}

#[test]
fn a_journal_that_ends_with_the_process_has_to_be_wanted_and_is_shown() {
    let home = Home::new();
    let refused = [
        (&["--ledger.store", "memory"][..], "ledger.ephemeral"),
        (&["--ledger-ephemeral", "true"], "outlives the process"),
        (&["--amnesia.enabled", "true"], "amnesia is on"),
        (&["--ledger.store", "postgres"], "ledger.postgres_file"),
    ];
    for (args, word) in refused {
        let args = [&["--auth.dev_allow", "true"], args].concat();
        let out = home.command(&args).output().unwrap();
        let told = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(2), "{told}");
        assert!(told.contains(word), "{told}");
    }
    let ephemeral = [
        "--auth.dev_allow",
        "true",
        "--ledger.store",
        "memory",
        "--ledger-ephemeral",
        "true",
    ];
    let ledger = Ledger::start(&home, &ephemeral);
    let told = ledger.until_ready_is(true);
    assert_eq!(told["degraded"], true, "{told}");
    assert_eq!(
        ledger.settle(&intent('1', "e1", [1, 2])).1["result"],
        "accepted"
    );
    let (_, page) = exchange(ledger.admin, "GET", "/metrics", &[], b"");
    let page = page.as_str().unwrap().to_owned();
    for line in [
        r#"ledger_settled_total{result="accepted"} 1"#,
        "ledger_entries 1",
    ] {
        assert!(page.contains(line), "{page}");
    }
    let _ = &ledger.log;
    ledger.stop();
}
