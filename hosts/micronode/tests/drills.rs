//! What operators rehearse, over real sockets: `cargo test -p micronode --test drills`, with names to do only some.
//!
//! `RON_TEST_FULL=1 cargo test --release -p micronode --test drills` does the long ones in full: a minute of overload.

#[path = "http/rig.rs"]
#[allow(dead_code)]
mod rig;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rig::{dial, put, Answer, Node, PATIENCE};
use ron_host::capability::{system_random, Keyring};

/// Name, what must be seen, and the drill: what was seen, or `Err` with what was seen instead.
type Drill = (&'static str, &'static str, fn() -> Seen);
type Seen = Result<String, String>;

const DRILLS: &[Drill] = &[
    ("oversize", "1 MiB: 201; 2 MiB: 413", oversize),
    ("bomb", "413 decompress, memory flat", bomb),
    (
        "quota",
        "429 with Retry-After; degraded, still ready",
        quota,
    ),
    (
        "overload",
        "goodput >= 90 %, refused in 50 ms, memory flat",
        overload,
    ),
    (
        "places",
        "goodput >= 90 % beyond the places under way",
        places,
    ),
    (
        "killed",
        "listener killed under load: <= 0.1 % fail",
        killed,
    ),
    ("slow", "slow clients are cut off, others served", slow),
    (
        "keyring",
        "keyring lost: 503 fail_secure, not ready, heals",
        keyring,
    ),
    (
        "stop",
        "SIGTERM under load: every answer whole, exit 0",
        stop,
    ),
    (
        "corrupt",
        "a byte flipped on disk: 502, healed by a put",
        corrupt,
    ),
    ("kept", "SIGTERM under puts: no acknowledged one lost", kept),
    (
        "amnesia",
        "no file is left; the system refuses writing",
        amnesia,
    ),
    ("start", "first 200 in well under 2 s", start),
];

fn main() -> ExitCode {
    let names: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .collect();
    if std::env::args().any(|arg| arg == "--list") {
        return ExitCode::SUCCESS;
    }
    let mut failed = 0;
    say(&format!("{:9} {:48} seen", "drill", "expected"));
    for (name, expected, drill) in DRILLS {
        if !names.is_empty() && !names.iter().any(|wanted| wanted == name) {
            continue;
        }
        let seen = catch_unwind(AssertUnwindSafe(drill));
        let seen = seen.unwrap_or_else(|_| Err("it did not get to its end".to_owned()));
        let (verdict, seen) = match seen {
            Ok(seen) => ("ok", seen),
            Err(seen) => ("FAILED", seen),
        };
        failed += usize::from(verdict == "FAILED");
        say(&format!("{name:9} {expected:48} {verdict}: {seen}"));
    }
    ExitCode::from(u8::from(failed > 0))
}

fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn full() -> bool {
    std::env::var_os("RON_TEST_FULL").is_some()
}

fn judge(is_right: bool, seen: String) -> Seen {
    if is_right {
        Ok(seen)
    } else {
        Err(seen)
    }
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").into_bytes()
}

fn stored(node: &Node, body: &[u8]) -> String {
    let answer = node.put(body);
    format!("/o/{}", answer.json()["addr"].as_str().unwrap())
}

/// What clients saw.
#[derive(Default)]
struct Tally {
    good: usize,
    refused: usize,
    broken: usize,
    /// Of the refusals.
    waits: Vec<Duration>,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.good += other.good;
        self.refused += other.refused;
        self.broken += other.broken;
        self.waits.extend(other.waits);
    }

    fn p99(&mut self) -> Duration {
        self.waits.sort();
        let last = self.waits.len().saturating_sub(1);
        self.waits.get(last * 99 / 100).copied().unwrap_or_default()
    }
}

/// `clients` that ask again and again until they are told to end, each at `pace` at most.
struct Load {
    clients: Vec<std::thread::JoinHandle<Tally>>,
    over: Arc<AtomicBool>,
}

impl Load {
    fn start(addr: SocketAddr, request: &[u8], clients: usize, pace: Option<Duration>) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let client = |_| {
            let (request, over) = (request.to_vec(), Arc::clone(&over));
            std::thread::spawn(move || {
                let mut tally = Tally::default();
                let mut connection = None;
                let mut next = Instant::now();
                while !over.load(Ordering::Relaxed) {
                    if let Some(pace) = pace {
                        next += pace;
                        std::thread::sleep(next.saturating_duration_since(Instant::now()));
                    }
                    let began = Instant::now();
                    let stream = connection.get_or_insert_with(|| dial(addr));
                    let sent = stream.write_all(&request);
                    let answer = sent.ok().and_then(|()| Answer::read(stream, false));
                    let closes = answer
                        .as_ref()
                        .is_none_or(|answer| answer.header("connection") == Some("close"));
                    match answer {
                        Some(answer) if answer.status < 300 && answer.is_whole => tally.good += 1,
                        Some(answer) if [429, 503].contains(&answer.status) => {
                            tally.refused += 1;
                            tally.waits.push(began.elapsed());
                        }
                        _ => tally.broken += 1,
                    }
                    if closes {
                        connection = None;
                    }
                }
                tally
            })
        };
        let clients = (0..clients).map(client).collect();
        Self { clients, over }
    }

    fn end(self) -> Tally {
        self.over.store(true, Ordering::Relaxed);
        let mut all = Tally::default();
        for client in self.clients {
            all.add(client.join().unwrap());
        }
        all
    }
}

fn measure(addr: SocketAddr, request: &[u8], clients: usize, time: Duration) -> Tally {
    let load = Load::start(addr, request, clients, None);
    std::thread::sleep(time);
    load.end()
}

fn oversize() -> Seen {
    let node = Node::start(&[]);
    let exact = node.put(&vec![1; 1 << 20]).status;
    let double = node.put(&vec![1; 2 << 20]);
    let seen = format!("{exact}; {} {}", double.status, double.reason());
    judge((exact, double.status) == (201, 413), seen)
}

fn bomb() -> Seen {
    let node = Node::start(&["--http.rps", "1000000"]);
    // Run-length blocks of 128 KiB in zstd, 64 MiB of zeros.
    let mut body = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 0x58];
    for block in 0..512 {
        let head: u32 = u32::from(block == 511) | 1 << 1 | (128 << 10) << 3;
        body.extend_from_slice(&head.to_le_bytes()[..3]);
        body.push(0);
    }
    let length = body.len();
    let head = format!("PUT /put HTTP/1.1\r\nhost: localhost\r\ncontent-encoding: zstd\r\ncontent-length: {length}\r\n\r\n");
    let request = [head.as_bytes(), &body].concat();
    let before = node.resident_kib();
    let all = (0..100).all(|_| {
        let answer = node.send(&request);
        (answer.status, &*answer.reason()) == (413, "decompress")
    });
    let grown = node.resident_kib().saturating_sub(before);
    let seen = format!("100 of 67,108,864 bytes in {length}, memory + {grown} KiB");
    judge(all && grown < 16 << 10, seen)
}

fn quota() -> Seen {
    let node = Node::start(&["--http.rps", "100"]);
    let path = stored(&node, b"content");
    let load = Load::start(node.addr, &get(&path), 2, Some(Duration::from_millis(5)));
    let began = Instant::now();
    let readyz = loop {
        let answer = node.get("/readyz");
        if answer.json()["state"] == "degraded" || began.elapsed() > PATIENCE {
            break answer;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let refused = (0..200)
        .map(|_| node.get(&path))
        .find(|answer| answer.status == 429);
    load.end();
    let wait = refused
        .as_ref()
        .and_then(|answer| answer.header("retry-after"))
        .unwrap_or("none");
    let state = readyz.json()["state"].to_string();
    let seen = format!("429, Retry-After {wait}; /readyz {} {state}", readyz.status);
    judge(
        (readyz.status, &*state, wait) == (200, "\"degraded\"", "1"),
        seen,
    )
}

fn overload() -> Seen {
    let (rate, time) = if full() { (4_000, 60) } else { (400, 4) };
    let node = Node::start(&["--http.rps", &rate.to_string()]);
    let path = stored(&node, &[7; 1024]);
    let clients = 16;
    let pace = Duration::from_secs(clients) / (2 * rate);
    let load = Load::start(node.addr, &get(&path), clients as usize, Some(pace));
    // What the bucket held at first is no capacity.
    std::thread::sleep(Duration::from_secs(2));
    let before = node.resident_kib();
    let mut tally = {
        load.end();
        let load = Load::start(node.addr, &get(&path), clients as usize, Some(pace));
        std::thread::sleep(Duration::from_secs(time));
        load.end()
    };
    let grown = node.resident_kib().saturating_sub(before);
    let offered = (tally.good + tally.refused + tally.broken) as u64 / time;
    let goodput = 100 * tally.good as u64 / (u64::from(rate) * time);
    let p99 = tally.p99();
    let seen = format!(
        "{offered}/s of {rate}/s for {time} s: goodput {goodput} %, refused p99 {} ms, {} broken, memory + {grown} KiB",
        p99.as_millis(),
        tally.broken
    );
    let is_flat = grown < 8 << 10;
    let is_right = goodput >= 90 && p99 <= Duration::from_millis(50) && tally.broken == 0;
    judge(
        is_right && is_flat && offered > 3 * u64::from(rate) / 2,
        seen,
    )
}

fn places() -> Seen {
    let time = Duration::from_secs(if full() { 60 } else { 2 });
    let node = Node::start(&["--http.rps", "1000000", "--http.inflight", "4"]);
    let path = stored(&node, &vec![7; 256 << 10]);
    let request = get(&path);
    let capacity = measure(node.addr, &request, 4, time.min(Duration::from_secs(10)));
    let before = node.resident_kib();
    let mut tally = measure(node.addr, &request, 32, time);
    let grown = node.resident_kib().saturating_sub(before);
    let seconds = |time: Duration| time.as_secs_f64();
    let most = capacity.good as f64 / seconds(time.min(Duration::from_secs(10)));
    let goodput = 100.0 * tally.good as f64 / seconds(time) / most;
    let p99 = tally.p99();
    let seen = format!(
        "8 times the clients for {} s: goodput {goodput:.0} % of {most:.0}/s, {} refused, p99 {} ms, {} broken, memory + {grown} KiB",
        time.as_secs(),
        tally.refused,
        p99.as_millis(),
        tally.broken
    );
    // Two seconds beside other tests are no measurement.
    let least = if full() { 90.0 } else { 50.0 };
    judge(
        goodput >= least && tally.broken == 0 && grown < 32 << 10,
        seen,
    )
}

fn killed() -> Seen {
    let node = Node::start(&["--http.rps", "1000000", "--chaos.armed", "true"]);
    let path = stored(&node, &[7; 1024]);
    let load = Load::start(node.addr, &get(&path), 4, None);
    std::thread::sleep(Duration::from_secs(2));
    let fault = ["--child", "http", "--fault", "panic", "--count", "1"];
    node.ctl(&[&["chaos", "inject"], &fault[..]].concat());
    std::thread::sleep(Duration::from_secs(3));
    let tally = load.end();
    let all = tally.good + tally.refused + tally.broken;
    let bad = tally.refused + tally.broken;
    let restarts = metric(&node, "service_restarts_total");
    let seen = format!("{bad} of {all} failed, {restarts} restarts");
    judge(bad * 1_000 <= all && restarts > 0, seen)
}

fn metric(node: &Node, family: &str) -> u64 {
    let text = String::from_utf8(node.get("/metrics").body).unwrap();
    let lines = text.lines().filter(|line| line.starts_with(family));
    lines
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

fn slow() -> Seen {
    let times = ["--http.read_timeout", "500ms", "--http.body_timeout", "1s"];
    let node = Node::start(
        &[
            &times[..],
            &["--http.write_timeout", "500ms", "--http.rps", "1000000"],
        ]
        .concat(),
    );
    let path = stored(&node, &vec![7; 1 << 20]);
    let began = Instant::now();
    let mut drips: Vec<_> = (0..300)
        .map(|i| {
            let mut stream = node.connect();
            match i % 3 {
                0 => stream.write_all(b"GET /o/x HTTP/1.1\r\nx: ").unwrap(),
                1 => stream.write_all(&put(b"abc")[..60]).unwrap(),
                _ => (0..8).for_each(|_| stream.write_all(&get(&path)).unwrap()),
            }
            stream
        })
        .collect();
    let mut served = 0;
    let mut open = 300;
    let mut slowest = Duration::ZERO;
    while open > 0 && began.elapsed() < PATIENCE {
        for stream in drips.iter_mut().step_by(3) {
            let _ = stream.write_all(b"x");
        }
        let asked = Instant::now();
        served += usize::from(node.get("/o/x").status == 400);
        slowest = slowest.max(asked.elapsed());
        open = metric(&node, "inflight_requests");
        std::thread::sleep(Duration::from_millis(50));
    }
    let seen = format!(
        "300 gone in {} ms; {served} others answered, the slowest in {} ms",
        began.elapsed().as_millis(),
        slowest.as_millis()
    );
    judge(
        open == 0 && served > 5 && slowest < Duration::from_secs(1),
        seen,
    )
}

fn keyring() -> Seen {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keyring.toml");
    let new = Keyring::generate(&mut system_random, SystemTime::now()).unwrap();
    new.create(&path).unwrap();
    let node = Node::start_with(&["--auth.keyring", path.to_str().unwrap()]);
    let hidden = dir.path().join("hidden");
    std::fs::rename(&path, &hidden).unwrap();
    let lost = Instant::now();
    let until = |status: u16| {
        while node.get("/readyz").status != status && lost.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(10));
        }
        lost.elapsed()
    };
    let closed_in = until(503);
    let refused = node.get("/o/x");
    std::fs::rename(&hidden, &path).unwrap();
    until(200);
    let healed = node.get("/o/x").status;
    let seen = format!(
        "{} {} after {} ms; healed: {healed}",
        refused.status,
        refused.reason(),
        closed_in.as_millis()
    );
    let is_closed = (refused.status, &*refused.reason()) == (503, "fail_secure");
    judge(
        is_closed && healed == 401 && closed_in < Duration::from_secs(1),
        seen,
    )
}

fn stop() -> Seen {
    let mut node = Node::start(&["--http.rps", "1000000", "--drain.linger", "200ms"]);
    let path = stored(&node, &vec![7; 256 << 10]);
    // Each has begun when the node is stopped, and reads on after it.
    let mut open: Vec<_> = (0..16)
        .map(|_| {
            let mut stream = node.connect();
            stream.write_all(&get(&path)).unwrap();
            stream.peek(&mut [0]).unwrap();
            stream
        })
        .collect();
    let began = Instant::now();
    node.terminate();
    let whole = open
        .iter_mut()
        .filter_map(|stream| Answer::read(stream, false))
        .filter(|answer| answer.is_whole)
        .count();
    let code = node.wait();
    let seen = format!(
        "{whole} of 16 whole, exit {code} after {} ms",
        began.elapsed().as_millis()
    );
    judge(whole == 16 && code == 0, seen)
}

fn start() -> Seen {
    let mut times: Vec<Duration> = (0..5)
        .map(|_| {
            let began = Instant::now();
            let _node = Node::start(&[]);
            began.elapsed()
        })
        .collect();
    times.sort();
    let seen = format!("median of 5: {} ms", times[2].as_millis());
    judge(times[2] < Duration::from_secs(2), seen)
}

fn on_disk(dir: &Path) -> Vec<&str> {
    let dir = dir.to_str().unwrap();
    let store = ["--store.kind", "disk", "--store.dir", dir];
    [&store[..], &["--amnesia", "off", "--http.rps", "1000000"]].concat()
}

fn corrupt() -> Seen {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("store");
    let node = Node::start(&on_disk(&dir));
    let path = stored(&node, b"content");
    let mut files = std::fs::read_dir(dir.join("objects")).unwrap();
    let file = files.next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[3] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let damaged = node.get(&path);
    let failed = node.metric("integrity_fail_total");
    node.put(b"content");
    let healed = node.get(&path);
    let reason = damaged.reason();
    let seen = format!(
        "{} {reason}, integrity_fail_total {failed}; then {}",
        damaged.status, healed.status
    );
    let is_right = (damaged.status, &*reason, failed) == (502, "integrity", 1);
    judge(is_right && healed.body == b"content", seen)
}

fn kept() -> Seen {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("store");
    let mut node = Node::start(&on_disk(&dir));
    let addr = node.addr;
    let writer = |seed: u64| {
        std::thread::spawn(move || {
            let mut acknowledged = Vec::new();
            for turn in 0.. {
                let Ok(mut stream) = TcpStream::connect(addr) else {
                    break;
                };
                let body = rig::bytes(seed << 32 | turn, 20_000);
                let answer = stream.write_all(&put(&body)).ok();
                let answer = answer.and_then(|()| Answer::read(&mut stream, false));
                match answer.filter(|answer| answer.status == 201) {
                    Some(answer) => acknowledged.push(answer.json()["addr"].to_string()),
                    None => break,
                }
            }
            acknowledged
        })
    };
    let writers: Vec<_> = (1..=4).map(writer).collect();
    std::thread::sleep(Duration::from_millis(700));
    node.terminate();
    let code = node.wait();
    let acknowledged: Vec<String> = writers
        .into_iter()
        .flat_map(|writer| writer.join().unwrap())
        .collect();
    let node = Node::start(&on_disk(&dir));
    let lost = acknowledged
        .iter()
        .filter(|addr| node.get(&format!("/o/{}", addr.trim_matches('"'))).status != 200)
        .count();
    let seen = format!("exit {code}, {lost} of {} lost", acknowledged.len());
    judge(lost == 0 && code == 0 && acknowledged.len() > 4, seen)
}

fn amnesia() -> Seen {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().to_str().unwrap();
    let env = [("HOME", dir), ("TMPDIR", dir), ("XDG_RUNTIME_DIR", dir)];
    let mut node = Node::listening_in(&env, &["--auth.dev_allow", "true"]);
    node.until_ready_is(200);
    let path = stored(&node, &vec![7; 300_000]);
    let answers = [
        node.get(&path),
        node.get("/o/x"),
        node.put(&vec![1; 2 << 20]),
    ];
    let features = node.get("/version").json()["features"].clone();
    node.terminate();
    let code = node.wait();
    let left = std::fs::read_dir(home.path()).unwrap().count();
    let seen = format!(
        "{left} files, exit {code}; amnesia {}, Landlock in full: {}",
        features["amnesia"], features["landlock"]
    );
    let statuses = answers.map(|answer| answer.status);
    let is_right = statuses == [200, 400, 413] && features["amnesia"] == true;
    judge(is_right && left == 0 && code == 0, seen)
}
