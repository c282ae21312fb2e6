//! The service over a real socket: what is computed and settled, once, and what is refused.

#[path = "../../micronode/tests/fixture/spawned.rs"]
mod spawned;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use rustix::process::{kill_process, Pid, Signal};
use serde_json::{json, Value};
use svc_rewarder::{Address, Draft, Header, SigningKey};

use spawned::{ended, next, spawn, PATIENCE};

const BINARY: &str = env!("CARGO_BIN_EXE_svc-rewarder");
const ALL: [&str; 4] = [
    "--tenant",
    "acme",
    "--scope",
    "rewarder.run,rewarder.inspect",
];

/// A place of its own for everything that a service keeps, with a key that may sign and a policy.
struct Home {
    dir: tempfile::TempDir,
    key: SigningKey,
}

/// What a request names.
#[derive(Clone)]
struct Asked {
    inputs_cid: String,
    policy_id: String,
    policy_hash: String,
}

impl Asked {
    fn json(&self) -> Value {
        json!({"inputs_cid": self.inputs_cid, "policy_id": self.policy_id, "policy_hash": self.policy_hash})
    }
}

impl Home {
    fn new() -> Home {
        let dir = tempfile::tempdir().unwrap();
        let private = |path: PathBuf| {
            fs::create_dir_all(&path).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
        };
        for name in ["", "run", "inputs", "policies"] {
            private(dir.path().join(name));
        }
        let key = SigningKey::from_seed(&[7; 32]);
        Home { dir, key }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.args(args).env_clear();
        command.env("RON_RUN_DIR", self.dir.path().join("run"));
        command
    }

    /// A token that is restricted so.
    fn mint(&self, caveats: &[&str]) -> String {
        let keyring = self.path("keyring");
        let cap = |args: &[&str]| {
            let all = [&["ctl", "cap"], args].concat();
            let out = self.command(&all).output().unwrap();
            assert!(out.status.success(), "{out:?}");
            String::from_utf8(out.stdout).unwrap().trim().to_owned()
        };
        if !PathBuf::from(&keyring).exists() {
            cap(&["rotate", "--create", "--keyring", &keyring]);
        }
        let of = ["mint", "--keyring", &keyring, "--aud", "svc-rewarder"];
        cap(&[&of, caveats].concat())
    }

    /// Inputs of two actors that share `pool`, and their address.
    fn inputs(&self, tenant: &str, epoch: &str, pool: u128) -> String {
        let (tenant, epoch) = (tenant.parse().unwrap(), epoch.parse().unwrap());
        let mut draft = Draft::new(Header::new(tenant, epoch, pool));
        for (actor, qty) in [("alice", 122), ("bob", 220)] {
            let kind = "relay".parse().unwrap();
            draft
                .add(actor.parse().unwrap(), "e".parse().unwrap(), kind, qty)
                .unwrap();
        }
        let bytes = draft.seal();
        let cid = Address::of(&bytes);
        fs::write(self.path(&format!("inputs/{cid:x}")), bytes).unwrap();
        cid.to_string()
    }

    /// A policy that `key` has signed, and its hash.
    fn policy(&self, id: &str, prices: &str, key: &SigningKey) -> String {
        let text = match prices.starts_with("weights") {
            true => format!(r#""mode":"pro_rata","rounding":"floor","version":1,"{prices}"#),
            false => format!(r#""mode":"tariff","{prices},"rounding":"floor","version":1"#),
        };
        let content = format!(
            r#"{{"actor_cap":null,"epoch_cap":null,"format":"rewarder-policy/1","funding_account":"treasury","id":"{id}","min_payout":"0",{text}}}"#
        );
        let signed = key.sign(content.as_bytes()).unwrap();
        let file = id.replace('/', "%2F");
        fs::write(self.path(&format!("policies/{file}.json")), signed).unwrap();
        Address::of(content.as_bytes()).to_string()
    }

    fn pro_rata(&self, tenant: &str, epoch: &str, pool: u128) -> Asked {
        Asked {
            inputs_cid: self.inputs(tenant, epoch, pool),
            policy_id: "relays".to_owned(),
            policy_hash: self.policy("relays", r#"weights_ppm":{"relay":1000000}"#, &self.key),
        }
    }

    fn start(&self, args: &[&str]) -> Rewarder {
        let trusted = self.key.public().to_string();
        let (keyring, journal) = (self.path("keyring"), self.path("journal"));
        let (inputs, policies) = (self.path("inputs"), self.path("policies"));
        let all = [
            "--http-addr",
            "127.0.0.1:0",
            "--metrics-addr",
            "127.0.0.1:0",
            "--auth.keyring",
            &keyring,
            "--ledger.dir",
            &journal,
            "--inputs.dir",
            &inputs,
            "--policies.dir",
            &policies,
            "--policies.trusted",
            &trusted,
        ];
        let (process, log) = spawn(&mut self.command(&[&all, args].concat()));
        let addr = |event| next(&log, event)["addr"].as_str().unwrap().parse().unwrap();
        let (admin, addr) = (addr("admin_listening"), addr("listening"));
        let rewarder = Rewarder {
            process,
            log,
            addr,
            admin,
        };
        rewarder.until(|told| told["ready"] == true);
        rewarder
    }
}

struct Rewarder {
    process: Child,
    log: Receiver<Value>,
    addr: SocketAddr,
    admin: SocketAddr,
}

impl Rewarder {
    fn until(&self, is_so: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let told = exchange(self.admin, "GET", "/readyz", "", b"").json();
            if is_so(&told) {
                return told;
            }
            assert!(began.elapsed() < PATIENCE, "{told}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn ask(&self, token: &str, method: &str, path: &str, body: &Value) -> Told {
        ask(self.addr, token, method, path, body)
    }

    fn compute(&self, token: &str, epoch: &str, body: &Value) -> Told {
        let path = format!("/rewarder/epochs/{epoch}/compute");
        self.ask(token, "POST", &path, body)
    }

    fn metric(&self, line: &str) -> Option<u64> {
        let page = exchange(self.admin, "GET", "/metrics", "", b"").body;
        let mut lines = page.lines();
        let value = lines.find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
        value.map(|value| value.parse().unwrap())
    }

    fn stop(mut self) {
        kill_process(Pid::from_child(&self.process), Signal::TERM).unwrap();
        assert_eq!(ended(&mut self.process), 0);
    }
}

impl Drop for Rewarder {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn ask(addr: SocketAddr, token: &str, method: &str, path: &str, body: &Value) -> Told {
    let body = match body {
        Value::Null => String::new(),
        body => body.to_string(),
    };
    let bearer = format!("Authorization: Bearer {token}\r\nX-Corr-ID: told-by-us\r\n");
    let headers = if token.is_empty() { "" } else { &bearer };
    exchange(addr, method, path, headers, body.as_bytes())
}

#[derive(Debug)]
struct Told {
    status: u16,
    head: String,
    body: String,
}

impl Told {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or(Value::String(self.body.clone()))
    }

    fn is(&self, status: u16, reason: &str) -> &Told {
        let found = self.json()["error"]["details"]["reason"].clone();
        assert_eq!((self.status, found), (status, json!(reason)), "{self:?}");
        self
    }
}

fn exchange(addr: SocketAddr, method: &str, path: &str, headers: &str, body: &[u8]) -> Told {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
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
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    Told {
        status: head[9..12].parse().unwrap(),
        head: head.to_ascii_lowercase(),
        body: body.to_owned(),
    }
}

#[test]
fn an_epoch_is_settled_once_and_the_same_is_told_again_and_after_a_kill() {
    let home = Home::new();
    let asked = home.pro_rata("acme", "e1", 1000);
    let other = home.pro_rata("acme", "e1", 1001);
    let token = home.mint(&ALL);
    let rewarder = home.start(&[]);
    assert_eq!(
        next(&rewarder.log, "readiness")["message"]
            .as_str()
            .unwrap()[..7],
        *"ready=1"
    );
    let first = rewarder.compute(&token, "e1", &asked.json());
    assert_eq!(first.status, 200, "{first:?}");
    let told = first.json();
    assert_eq!(told["ledger"]["result"], "accepted");
    assert_eq!(
        told["totals"],
        json!({"pool": "1000", "payout": "999", "residual": "1"})
    );
    assert_eq!(
        told["policy"],
        json!({"id": "relays", "hash": asked.policy_hash, "signed": true})
    );
    assert_eq!(told["status"], "ok");
    let line = next(&rewarder.log, "run_computed");
    assert_eq!(line["message"], "computed corr_id=told-by-us");

    let again = rewarder.compute(&token, "e1", &asked.json());
    assert_eq!((again.status, &again.body), (200, &first.body));
    assert!(
        again.head.contains("idempotency-replayed: true"),
        "{again:?}"
    );
    assert!(!first.head.contains("idempotency-replayed"), "{first:?}");
    let conflict = rewarder.compute(&token, "e1", &other.json());
    conflict.is(409, "epoch_bound");
    assert_eq!(
        conflict.json()["error"]["details"]["run_key"],
        told["run_key"]
    );

    let manifest = rewarder.ask(&token, "GET", "/rewarder/epochs/e1", &Value::Null);
    assert_eq!(manifest.status, 200);
    assert_eq!(
        Address::of(manifest.body.as_bytes()).to_string(),
        told["commitment"]
    );
    assert_eq!(
        manifest.json()["payouts"],
        json!([["alice", "356"], ["bob", "643"]])
    );
    for (line, value) in [
        (r#"ledger_intents_total{result="accepted"}"#, 1),
        (r#"ledger_intents_total{result="dup"}"#, 0),
        ("reward_runs_idempotent_total", 1),
        ("reward_runs_conflict_total", 1),
        ("reward_compute_latency_seconds_count", 1),
        (r#"queue_depth{queue="work"}"#, 0),
        (r#"quarantine_state{state="emitting"}"#, 1),
        (r#"readyz_degraded{cause="ledger_degraded"}"#, 0),
        ("ledger_entries", 1),
    ] {
        assert_eq!(rewarder.metric(line), Some(value), "{line}");
    }
    drop(rewarder);

    // What this process knew is gone, and the ledger still knows it.
    let rewarder = home.start(&[]);
    let unknown = rewarder.ask(&token, "GET", "/rewarder/epochs/e1", &Value::Null);
    unknown.is(404, "epoch");
    let conflict = rewarder.compute(&token, "e1", &other.json());
    conflict.is(409, "epoch_settled");
    assert_eq!(
        conflict.json()["error"]["details"]["run_key"],
        told["run_key"]
    );
    let dup = rewarder.compute(&token, "e1", &asked.json()).json();
    assert_eq!(dup["ledger"]["result"], "dup", "{dup}");
    for member in ["run_key", "commitment", "totals", "policy"] {
        assert_eq!(dup[member], told[member]);
    }
    assert_eq!(dup["ledger"]["receipt"], told["ledger"]["receipt"]);
    assert_eq!(rewarder.metric("ledger_entries"), Some(1));
    rewarder.stop();
}

#[test]
fn a_run_is_its_tokens_tenants_and_needs_its_scope() {
    let home = Home::new();
    let asked = home.pro_rata("acme", "e1", 1000);
    let all = home.mint(&ALL);
    let other = home.mint(&["--tenant", "other"]);
    let nobody = home.mint(&["--scope", "rewarder.run"]);
    let inspect = home.mint(&["--tenant", "acme", "--scope", "rewarder.inspect"]);
    let run = home.mint(&["--tenant", "acme", "--scope", "rewarder.run"]);
    let operator = home.mint(&["--scope", "rewarder.quarantine"]);
    let rewarder = home.start(&[]);
    let body = asked.json();
    rewarder.compute("", "e1", &body).is(401, "token_missing");
    rewarder.compute(&inspect, "e1", &body).is(403, "scope");
    rewarder.compute(&other, "e1", &body).is(403, "tenant");
    let told = rewarder.compute(&nobody, "e1", &body);
    told.is(403, "tenant");
    assert!(told.body.contains("expected one with a tenant"), "{told:?}");
    assert_eq!(rewarder.compute(&run, "e1", &body).status, 200);
    for path in ["/rewarder/epochs/e1", "/rewarder/policy/relays"] {
        rewarder
            .ask(&run, "GET", path, &Value::Null)
            .is(403, "scope");
        assert_eq!(
            rewarder.ask(&inspect, "GET", path, &Value::Null).status,
            200,
            "{path}"
        );
    }
    // Another tenant's epoch of the same name is another one.
    rewarder
        .ask(&other, "GET", "/rewarder/epochs/e1", &Value::Null)
        .is(404, "epoch");
    rewarder
        .ask(&all, "GET", "/rewarder/quarantine", &Value::Null)
        .is(403, "scope");
    let status = rewarder.ask(&operator, "GET", "/rewarder/quarantine", &Value::Null);
    assert_eq!(
        status.json(),
        json!({"state": "emitting", "pending": 0, "runs": []})
    );
    let clear = json!({"reason": "looked"});
    let told = rewarder.ask(&operator, "POST", "/rewarder/quarantine/clear", &clear);
    told.is(409, "quarantine");
    let bound = rewarder.ask(&other, "POST", "/rewarder/quarantine/clear", &clear);
    bound.is(403, "tenant");
    rewarder.stop();
}

#[test]
fn what_cannot_be_computed_is_told_what_would_be_right_and_binds_nothing() {
    let home = Home::new();
    let asked = home.pro_rata("acme", "e1", 1000);
    let forger = SigningKey::from_seed(&[8; 32]);
    let forged = home.policy("forged", r#"weights_ppm":{"relay":1}"#, &forger);
    let tariff = home.policy("rates/1", r#"rates":{"relay":"3"}"#, &home.key);
    let unpriced = home.policy("unpriced", r#"rates":{"store":"3"}"#, &home.key);
    let misdirected = home.inputs("acme", "e2", 1000);
    let damaged = home.inputs("acme", "e3", 1000);
    fs::write(home.path(&format!("inputs/{}", &damaged[3..])), "x").unwrap();
    let token = home.mint(&ALL);
    let rewarder = home.start(&[]);
    let with = |changes: &[(&str, Value)]| {
        let mut body = asked.json();
        for (name, value) in changes {
            body[*name] = value.clone();
        }
        rewarder.compute(&token, "e1", &body)
    };
    let hash = |hash: &str| ("policy_hash", json!(hash));
    let id = |id: &str| ("policy_id", json!(id));
    let none = format!("b3:{}", "0".repeat(64));
    let cases = [
        (with(&[("tenant", json!("acme"))]), 400, "schema"),
        (with(&[("evil", json!(1))]), 400, "schema"),
        (with(&[("inputs_cid", json!("evil"))]), 400, "schema"),
        (with(&[("dry_run", json!("evil"))]), 400, "schema"),
        (with(&[("notes", json!("evil".repeat(257)))]), 400, "schema"),
        (with(&[("inputs_cid", json!(none))]), 400, "inputs_unknown"),
        (with(&[id("none")]), 400, "policy_unknown"),
        (with(&[id("../relays")]), 400, "policy_unknown"),
        (with(&[hash(&none)]), 400, "stale"),
        (
            with(&[id("forged"), hash(&forged)]),
            403,
            "policy_signature",
        ),
        (with(&[id("unpriced"), hash(&unpriced)]), 400, "inputs"),
        (with(&[("inputs_cid", json!(misdirected))]), 400, "inputs"),
        (
            with(&[("inputs_cid", json!(damaged))]),
            500,
            "inputs_damaged",
        ),
        (with(&[id("rates/1"), hash(&tariff)]), 409, "conservation"),
        (
            rewarder.compute(&token, "a%20b", &asked.json()),
            400,
            "schema",
        ),
        (rewarder.compute(&token, "e1", &json!([])), 400, "schema"),
    ];
    for (told, status, reason) in &cases {
        told.is(*status, reason);
        assert!(!told.body.contains("evil"), "{told:?}");
    }
    let large = json!({"notes": "x".repeat(2 << 20)});
    rewarder.compute(&token, "e1", &large).is(413, "body_cap");
    for (reason, count) in [
        ("body_too_big", 1),
        ("schema", 7),
        ("stale", 1),
        ("policy_signature", 1),
    ] {
        let line = format!("rejected_total{{reason=\"{reason}\"}}");
        assert_eq!(rewarder.metric(&line), Some(count), "{reason}");
    }
    assert_eq!(rewarder.metric("ledger_entries"), Some(0));
    // It is still free.
    assert_eq!(with(&[]).json()["ledger"]["result"], "accepted");
    let policy = rewarder.ask(&token, "GET", "/rewarder/policy/rates%2F1", &Value::Null);
    assert_eq!(policy.json()["policy"]["id"], "rates/1");
    let told = rewarder.ask(&token, "GET", "/rewarder/policy/none", &Value::Null);
    told.is(404, "policy_unknown");
    rewarder.stop();
}

#[test]
fn a_dry_run_computes_and_settles_nothing() {
    let home = Home::new();
    let (asked, other) = (
        home.pro_rata("acme", "e1", 1000),
        home.pro_rata("acme", "e1", 500),
    );
    let token = home.mint(&ALL);
    let rewarder = home.start(&[]);
    let mut dry = other.json();
    dry["dry_run"] = json!(true);
    let told = rewarder.compute(&token, "e1", &dry).json();
    assert_eq!(told["ledger"], json!({"emitted": false, "result": "none"}));
    assert_eq!(
        (&told["dry_run"], &told["totals"]["pool"]),
        (&json!(true), &json!("500"))
    );
    assert_eq!(rewarder.metric("ledger_entries"), Some(0));
    // It has not bound the epoch, and can be had of one that is.
    assert_eq!(rewarder.compute(&token, "e1", &asked.json()).status, 200);
    assert_eq!(rewarder.compute(&token, "e1", &dry).status, 200);
    assert_eq!(rewarder.metric("ledger_entries"), Some(1));
    rewarder.stop();
}

#[test]
fn more_than_may_wait_or_ask_is_refused_with_the_time_to_come_back() {
    let home = Home::new();
    let (hogs, count) = (home.path("inputs/hog"), 24);
    let generate = |epoch: &str| {
        let all = [
            "generate", "--size", "m", "--tenant", "acme", "--epoch", epoch, "--out", &hogs,
        ];
        let out = home.command(&all).output().unwrap();
        let told = String::from_utf8(out.stdout).unwrap();
        let cid = told.trim().strip_prefix("inputs_cid ").unwrap().to_owned();
        fs::rename(&hogs, home.path(&format!("inputs/{}", &cid[3..]))).unwrap();
        cid
    };
    let kinds = r#"weights_ppm":{"deliver":1,"index":1,"relay":1,"seed":1,"store":1}"#;
    let hash = home.policy("kinds", kinds, &home.key);
    let body = json!({"inputs_cid": generate("e"), "policy_id": "kinds", "policy_hash": hash, "dry_run": true});
    let token = home.mint(&ALL);
    let args = ["--rewarder.queue", "1", "--rewarder.workers", "1"];
    let rewarder = home.start(&args);
    // A hundred thousand events each, in a debug build: far longer than it takes to ask for all of them.
    let (addr, path) = (rewarder.addr, "/rewarder/epochs/e/compute");
    let told: Vec<Told> = std::thread::scope(|scope| {
        let ask = || ask(addr, &token, "POST", path, &body);
        let asked: Vec<_> = (0..count).map(|_| scope.spawn(ask)).collect();
        asked
            .into_iter()
            .map(|asked| asked.join().unwrap())
            .collect()
    });
    let full: Vec<&Told> = told.iter().filter(|told| told.status != 200).collect();
    assert!(!full.is_empty() && full.len() < count, "{}", full.len());
    let refused = full.len() as u64;
    for told in full {
        told.is(503, "queue_full");
        assert!(told.head.contains("retry-after: 1"), "{told:?}");
    }
    assert_eq!(
        rewarder.metric(r#"rejected_total{reason="queue_full"}"#),
        Some(refused)
    );
    assert_eq!(rewarder.metric(r#"rejected_total{reason="503"}"#), None);
    rewarder.stop();

    let asked = home.pro_rata("acme", "e1", 1000).json();
    let rewarder = home.start(&["--rewarder.tenant_rps", "1"]);
    let other = home.mint(&["--tenant", "other"]);
    assert_eq!(rewarder.compute(&token, "e1", &asked).status, 200);
    let told = rewarder.compute(&token, "e1", &asked);
    told.is(429, "tenant_rps");
    assert_eq!(
        rewarder.metric(r#"rejected_total{reason="tenant_rps"}"#),
        Some(1)
    );
    assert!(told.head.contains("retry-after: 1"), "{told:?}");
    rewarder.compute(&other, "e1", &asked).is(403, "tenant");
    rewarder.stop();
}

#[test]
fn a_ledger_that_does_not_answer_is_left_alone_and_then_told_all_once() {
    let home = Home::new();
    let [e1, e2, e3] = ["e1", "e2", "e3"].map(|epoch| home.pro_rata("acme", epoch, 1000).json());
    let (token, operator) = (
        home.mint(&ALL),
        home.mint(&["--scope", "rewarder.quarantine"]),
    );
    let rewarder = home.start(&[
        "--emit.deadline",
        "100ms",
        "--quarantine.slice",
        "50ms",
        "--quarantine.slices",
        "40",
        "--quarantine.probe",
        "50ms",
        "--quarantine.samples",
        "5",
        "--quarantine.failures",
        "3",
        "--quarantine.fast",
        "100ms",
        "--quarantine.slow",
        "100ms",
    ]);
    assert_eq!(rewarder.compute(&token, "e1", &e1).status, 200);
    // Whoever writes to the journal waits for this.
    let mut journal = rusqlite::Connection::open(home.path("journal/journal.db")).unwrap();
    let immediate = rusqlite::TransactionBehavior::Immediate;
    let held = journal.transaction_with_behavior(immediate).unwrap();
    let kept = |epoch, asked| {
        let told = rewarder.compute(&token, epoch, asked);
        assert_eq!(told.status, 202, "{told:?}");
        let told = told.json();
        assert_eq!(told["ledger"], json!({"emitted": false, "result": "none"}));
        let words = (&told["quarantine"], &told["status"]);
        assert_eq!(words, (&json!(true), &json!("quarantined")));
    };
    kept("e2", &e2);
    let change = next(&rewarder.log, "quarantine");
    assert_eq!(
        (&change["to"], &change["reason"]),
        (&json!("brownout"), &json!("failures"))
    );
    let attempts = rewarder.metric(r#"ledger_intents_total{result="error"}"#);
    // In a brownout nothing is sent, and what was answered is answered again.
    kept("e3", &e3);
    kept("e2", &e2);
    assert_eq!(
        rewarder.metric(r#"ledger_intents_total{result="error"}"#),
        attempts
    );
    let told = rewarder.until(|told| told["degraded"] == true);
    assert_eq!(told["ready"], true);
    let causes = told["causes"].as_array().unwrap();
    assert!(
        causes.iter().any(|cause| cause["key"] == "ledger_degraded"),
        "{told}"
    );
    let status = rewarder
        .ask(&operator, "GET", "/rewarder/quarantine", &Value::Null)
        .json();
    assert_eq!(
        (&status["state"], &status["pending"]),
        (&json!("brownout"), &json!(2))
    );
    for (line, value) in [
        (r#"quarantine_state{state="brownout"}"#, 1),
        (r#"readyz_degraded{cause="ledger_degraded"}"#, 1),
        ("quarantine_pending", 2),
    ] {
        assert_eq!(rewarder.metric(line), Some(value), "{line}");
    }
    drop(held);
    for (to, reason) in [("draining", "recovered"), ("emitting", "drained")] {
        let change = next(&rewarder.log, "quarantine");
        assert_eq!(
            (&change["to"], &change["reason"]),
            (&json!(to), &json!(reason))
        );
    }
    rewarder.until(|told| told["degraded"] == false);
    for (epoch, asked) in [("e1", &e1), ("e2", &e2), ("e3", &e3)] {
        let told = rewarder.compute(&token, epoch, asked);
        assert_eq!(
            (told.status, &told.json()["ledger"]["emitted"]),
            (200, &json!(true))
        );
    }
    assert_eq!(rewarder.metric("ledger_entries"), Some(3));
    assert_eq!(rewarder.metric("quarantine_pending"), Some(0));
    rewarder.stop();
    // Each was paid once.
    let count = |sql: &str| -> i64 { journal.query_row(sql, [], |row| row.get(0)).unwrap() };
    assert_eq!(count("select count(*) from intents"), 3);
    assert_eq!(
        count("select count(*) from postings where account = 'alice'"),
        3
    );
}

#[test]
fn both_signals_put_other_limits_in_force_and_a_bad_file_leaves_the_old_ones() {
    let home = Home::new();
    let asked = home.pro_rata("acme", "e1", 1000).json();
    let token = home.mint(&ALL);
    let file = home.path("config.toml");
    let write = |rps: &str| fs::write(&file, format!("[rewarder]\ntenant_rps = {rps}\n")).unwrap();
    write("1");
    let rewarder = home.start(&["--config", &file]);
    let signal = |signal| kill_process(Pid::from_child(&rewarder.process), signal).unwrap();
    let reloads = |count: u64| {
        let began = Instant::now();
        while rewarder.metric("config_reload_total") < Some(count) {
            assert!(began.elapsed() < PATIENCE);
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    let refused = || (0..3).any(|_| rewarder.compute(&token, "e1", &asked).status == 429);
    assert!(refused());
    // Nobody has touched the file: it is the signals that have it read.
    for (count, by) in [(1, Signal::USR1), (2, Signal::HUP), (3, Signal::USR1)] {
        signal(by);
        reloads(count);
    }
    write("100");
    signal(Signal::USR1);
    reloads(4);
    let began = Instant::now();
    while refused() {
        assert!(began.elapsed() < PATIENCE);
    }
    write("0");
    signal(Signal::USR1);
    let began = Instant::now();
    while rewarder.metric("config_reload_errors_total") < Some(1) {
        assert!(began.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(!refused());
    rewarder.stop();
}

#[test]
fn what_would_let_everybody_move_money_is_no_configuration() {
    let home = Home::new();
    let cases: [(&[&str], &str); 4] = [
        (&["--auth.dev_allow", "true"], "runs move money"),
        (&["--rewarder.require_pq", "true"], "pq.mode = \"required\""),
        (&["--policies.trusted", "x"], "key 0: a key is `ed25519:`"),
        (&["--quarantine.slices", "10"], "probes"),
    ];
    for (args, word) in cases {
        let out = home.command(args).output().unwrap();
        let told = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(2), "{told}");
        assert!(told.contains(word), "{told}");
    }
}

#[test]
fn the_variables_of_the_runbook_are_those_of_keys() {
    let home = Home::new();
    let cases = [
        ("HTTP_ADDR", "127.0.0.1:81", "http.addr"),
        ("METRICS_ADDR", "127.0.0.1:82", "observability.addr"),
        ("MAX_INFLIGHT", "11", "http.inflight"),
        ("WORK_QUEUE_MAX", "12", "rewarder.queue"),
        ("TENANT_RPS_MAX", "13", "rewarder.tenant_rps"),
        ("CONCURRENCY_COMPUTE_WORKERS", "14", "rewarder.workers"),
        ("LEDGER_DEADLINE_MS", "150", "emit.deadline"),
        ("LEDGER_MAX_RETRIES", "5", "emit.retries"),
        ("REQ_BODY_MAX_BYTES", "16384", "http.max_body_bytes"),
        ("REQUIRE_PQ_ON", "false", "rewarder.require_pq"),
        ("AMNESIA_MODE", "true", "amnesia.enabled"),
    ];
    let mut command = home.command(&["config", "print", "--json"]);
    for (name, value, _) in cases {
        command.env(name, value);
    }
    let out = command.output().unwrap();
    assert!(out.status.success(), "{out:?}");
    let told: Value = serde_json::from_slice(&out.stdout).unwrap();
    let text = told.to_string();
    for (name, _, key) in cases {
        assert!(
            text.contains(key) && text.contains(name),
            "{name} {key}: {text}"
        );
    }
}
