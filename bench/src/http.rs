//! micronode beside nginx, and beside hyper with nothing around it; wrk loads them.

mod bare;
mod client;
mod load;
mod server;

use crate::harness::{median, percentile, Goal, Group};
use load::{load, Ask};
use rustix::time::{clock_gettime, ClockId};
use server::{Auth, Kind, Server};
use std::hint::black_box;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::Duration;

pub const NAMES: &[&str] = &[
    "http-get-1k-1",
    "http-get-1k-64",
    "http-get-1k-256",
    "http-get-64k-1",
    "http-get-64k-64",
    "http-get-64k-256",
    "http-get-1m-1",
    "http-get-1m-64",
    "http-get-1m-256",
    "http-put-64k-1",
    "http-put-64k-64",
    "http-put-64k-256",
    "http-hash",
    "http-start",
    "http-memory",
];

/// The argument that makes this program the bare server.
pub const ALONE: &str = "http-bare";

const CONNECTIONS: [usize; 3] = [1, 64, 256];
/// Path and length of what is there to get.
const SIZES: [(&str, usize); 3] = [("1k", 1 << 10), ("64k", 64 << 10), ("1m", 1 << 20)];
/// Bodies that are put in turn.
const BODIES: usize = 512;
/// One load, unless `CASE_MS` says otherwise.
const CASE: Duration = Duration::from_secs(2);
/// Starts in a round.
const STARTS: usize = 31;
/// Stored for the memory that it takes, 1 MiB at a time.
const STORED: u64 = 1 << 30;

const NGINX: &str = "nginx";
const BARE: &str = "bare hyper";
const OPEN: &str = "micronode, dev_allow";
const CAP: &str = "micronode, capability";
const NEW: &str = "micronode, every body new";
const BLAKE3: &str = "BLAKE3 alone";

const SMALL: &str = "256MiB";
/// What 2 s of new bodies need, and more.
const LARGE: &str = "12GiB";

/// The bare server, at the address in `argument`.
pub fn alone(argument: &str) {
    bare::serve(argument.parse().expect("an address"));
}

/// What nginx and wrk say they are; `None` if one is missing.
pub fn peers() -> Option<String> {
    let nginx = Command::new("nginx").arg("-v").output().ok()?;
    let wrk = Command::new("wrk").arg("-v").output().ok()?;
    let nginx = String::from_utf8_lossy(&nginx.stderr).into_owned();
    let wrk = String::from_utf8_lossy(&wrk.stdout).into_owned();
    let nginx = nginx.trim().rsplit(' ').next()?.to_owned();
    let wrk = wrk.split(' ').take(2).collect::<Vec<_>>().join(" ");
    Some(format!("{nginx}; {wrk}"))
}

pub fn groups() -> Vec<Group> {
    if peers().is_none() {
        return Vec::new();
    }
    let site = Rc::new(Site::start());
    let mut names = NAMES.iter().copied();
    let mut groups = Vec::new();
    for (work, title) in [
        (Work::Get(0), "GET of 1 KiB"),
        (Work::Get(1), "GET of 64 KiB"),
        (Work::Get(2), "GET of 1 MiB"),
        (Work::Put, "PUT of 64 KiB, 512 bodies in turn"),
    ] {
        for connections in CONNECTIONS {
            let name = names.next().expect("a name for each");
            groups.push(loaded(name, title, work, connections, &site));
        }
    }
    groups.extend([hashing(&site), starting(), memory()]);
    groups
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    /// Which of [`SIZES`].
    Get(usize),
    Put,
}

/// The servers that run all the time.
struct Site {
    servers: [Server; 4],
    /// Where micronode has each of [`SIZES`].
    objects: [String; 3],
}

impl Site {
    fn start() -> Site {
        // While nothing runs yet that would be left behind.
        micronode();
        let node = |name, auth| Server::start(name, Kind::Node { store: SMALL, auth });
        let servers = [
            Server::start(NGINX, Kind::Nginx),
            Server::start(BARE, Kind::Bare),
            node(OPEN, Auth::DevAllow),
            node(CAP, Auth::Capability),
        ];
        let mut site = Site {
            servers,
            objects: Default::default(),
        };
        for (at, (_, size)) in SIZES.into_iter().enumerate() {
            for name in [OPEN, CAP] {
                let node = site.server(name);
                let answer = node.ask(&mut node.client(), "PUT", "/put", &body(size));
                let addr = answer.quoted("\"addr\":\"").expect("an address");
                site.objects[at] = format!("/o/{addr}");
            }
            for server in &site.servers {
                let path = site.path(server.name, at);
                let answer = server.ask(&mut server.client(), "GET", &path, b"");
                assert_eq!(answer.length, size, "{}: {path}", server.name);
            }
        }
        for server in &site.servers {
            let path = match server.name {
                NGINX => "/put/x",
                _ => "/put",
            };
            server.ask(&mut server.client(), "PUT", path, &body(64 << 10));
        }
        site
    }

    fn server(&self, name: &str) -> &Server {
        let known = self.servers.iter().find(|server| server.name == name);
        known.expect("a server")
    }

    fn path(&self, name: &str, size: usize) -> String {
        match name {
            NGINX | BARE => format!("/{}", SIZES[size].0),
            _ => self.objects[size].clone(),
        }
    }

    fn load(&self, name: &str, work: Work, connections: usize) -> Vec<f64> {
        let ask = match work {
            Work::Get(at) => Ask::Get {
                path: self.path(name, at),
                size: SIZES[at].1,
            },
            Work::Put => Ask::Put {
                path: match name {
                    NGINX => "/put/x%d",
                    _ => "/put",
                }
                .to_owned(),
                bodies: BODIES,
            },
        };
        load(self.server(name), &ask, connections, time())
    }
}

fn loaded(
    name: &'static str,
    title: &str,
    work: Work,
    connections: usize,
    site: &Rc<Site>,
) -> Group {
    let plural = if connections == 1 { "" } else { "s" };
    let title = format!("{title}, {connections} connection{plural}");
    let mut group = Group::new(name, title, NGINX)
        .beside(BARE)
        .measure("requests", "/s")
        .measure("p50", "us")
        .measure("p99", "us")
        .measure("server CPU of one", "us");
    for case in [NGINX, BARE, OPEN, CAP] {
        let site = Rc::clone(site);
        group = group.case(case, move || site.load(case, work, connections));
    }
    if work == Work::Put {
        group = group.case(NEW, move || {
            let auth = Auth::DevAllow;
            let node = Server::start(NEW, Kind::Node { store: LARGE, auth });
            let path = "/put".to_owned();
            load(&node, &Ask::PutNew { path }, connections, time())
        });
    }
    if connections == 64 {
        for case in [OPEN, CAP] {
            group = match work {
                Work::Get(_) => group
                    .goal("requests", case, Goal::AtLeast(NGINX, 1.0))
                    .goal("requests", case, Goal::AtLeast(BARE, 0.85))
                    .goal("p99", case, Goal::Ratio(1.0)),
                Work::Put => group.goal("requests", case, Goal::AtLeast(BARE, 0.8)),
            };
        }
    }
    group
}

fn hashing(site: &Rc<Site>) -> Group {
    let mut group = Group::new(
        "http-hash",
        "server CPU of a GET on 64 connections, and the hashing in it",
        BARE,
    )
    .measure("64 KiB", "us")
    .measure("1 MiB", "us");
    for case in [OPEN, BARE] {
        let site = Rc::clone(site);
        let cpu = move |size| site.load(case, Work::Get(size), 64)[3];
        group = group.case(case, move || vec![cpu(1), cpu(2)]);
    }
    group
        .case(BLAKE3, || vec![hash(64 << 10), hash(1 << 20)])
        .difference("micronode less bare hyper", OPEN, BARE)
        .note("micronode verifies every group of 64 KiB before it sends it. BLAKE3 alone hashes the same bytes again and again.")
}

fn starting() -> Group {
    let starts = |name, kind| {
        move || {
            let start = || Server::start(name, kind).started_in.as_secs_f64() * 1e3;
            let took: Vec<f64> = (0..STARTS).map(|_| start()).collect();
            vec![median(&took), percentile(&took, 100)]
        }
    };
    let (store, auth) = (SMALL, Auth::DevAllow);
    Group::new("http-start", "from the start to the first 200, warm", NGINX)
        .measure("median of 31", "ms")
        .measure("longest of 31", "ms")
        .case(NGINX, starts(NGINX, Kind::Nginx))
        .case(BARE, starts(BARE, Kind::Bare))
        .case(OPEN, starts(OPEN, Kind::Node { store, auth }))
        .goal("median of 31", OPEN, Goal::AtMost(10.0))
        .note("A 200 of /readyz for micronode, of 1 KiB for the others. 100 us between two tries.")
}

fn memory() -> Group {
    let stored = |name, kind| {
        move || {
            let server = Server::start(name, kind);
            let taken = || server.resident() + server.filed();
            let idle = taken();
            let (mut bytes, mut client) = (body(1 << 20), server.client());
            for number in 0..STORED >> 20 {
                bytes[..8].copy_from_slice(&number.to_le_bytes());
                let path = match name {
                    NGINX => format!("/put/x{number}"),
                    _ => "/put".to_owned(),
                };
                server.ask(&mut client, "PUT", &path, &bytes);
            }
            let full = taken();
            let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            // What a file costs beyond its pages is the kernel's.
            let beyond = match name {
                NGINX => f64::NAN,
                _ => (full - idle) as f64 / STORED as f64 - 1.0,
            };
            vec![mib(idle), mib(full), beyond * 100.0]
        }
    };
    let auth = Auth::DevAllow;
    let store = "2GiB";
    Group::new("http-memory", "resident, and files on tmpfs", NGINX)
        .measure("idle", "MiB")
        .measure("1 GiB stored", "MiB")
        .measure("beyond the bytes stored", "%")
        .case(NGINX, stored(NGINX, Kind::Nginx))
        .case(OPEN, stored(OPEN, Kind::Node { store, auth }))
        .note("1,024 objects of 1 MiB by PUT. nginx keeps them in files; pages its processes share count in each of them.")
}

/// us of processor time to hash `size` bytes.
fn hash(size: usize) -> f64 {
    let cpu = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).expect("a time");
    let (bytes, before) = (body(size), cpu());
    let count = (256 << 20) / size;
    for _ in 0..count {
        black_box(blake3::hash(black_box(&bytes)));
    }
    (cpu() - before).as_secs_f64() * 1e6 / count as f64
}

fn time() -> Duration {
    match std::env::var("CASE_MS").map(|text| text.parse()) {
        Ok(Ok(ms)) if ms >= 100 => Duration::from_millis(ms),
        Ok(_) => panic!("CASE_MS is a number of at least 100"),
        Err(_) => CASE,
    }
}

/// Bytes that nothing can be made shorter of, the same in every process.
fn body(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..size).map(|_| next()).collect()
}

/// The release build of micronode: `RON_BENCH_MICRONODE`, or built now.
fn micronode() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(build).clone()
}

fn build() -> PathBuf {
    if let Some(path) = std::env::var_os("RON_BENCH_MICRONODE") {
        return path.into();
    }
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--release", "--locked", "-p", "micronode"]);
    cargo.args(["--message-format", "json-render-diagnostics"]);
    cargo.args(["--manifest-path", manifest]);
    let output = cargo.stderr(Stdio::inherit()).output().expect("cargo");
    assert!(output.status.success(), "micronode does not build");
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    let executables = messages.split("\"executable\":\"").skip(1);
    let executables = executables.filter_map(|behind| behind.split('"').next());
    let built = executables.last().map(PathBuf::from);
    built.expect("where cargo has put it")
}
