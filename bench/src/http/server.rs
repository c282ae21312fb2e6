//! The servers, each a process of its own, its files on tmpfs.

use super::client::{Answer, Client};
use rustix::process::{kill_process, Pid, Signal};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Longer than any of them takes to start.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks whether it answers.
const PAUSE: Duration = Duration::from_micros(100);

/// A server; it ends when this is dropped.
pub struct Server {
    pub name: &'static str,
    pub addr: SocketAddr,
    /// Its own; removed when dropped.
    pub dir: PathBuf,
    /// What each request has to bring.
    pub token: Option<String>,
    process: Child,
    /// From the start until the first 200.
    pub started_in: Duration,
}

/// What to start.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Nginx,
    Bare,
    Node { store: &'static str, auth: Auth },
}

/// Who is let in to micronode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    DevAllow,
    Capability,
}

impl Server {
    /// Starts one on a port that is free, and waits until it answers.
    pub fn start(name: &'static str, kind: Kind) -> Server {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let dir = format!("/dev/shm/ron-bench-{}-{number}", std::process::id());
        let dir = PathBuf::from(dir);
        let made = fs::DirBuilder::new().mode(0o700).create(&dir);
        made.expect("a directory on tmpfs");
        fs::write(dir.join("body"), super::body(64 << 10)).expect("a file");
        let port =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr());
        let addr = port.expect("a free port");
        let (mut command, token) = match kind {
            Kind::Nginx => (nginx(&dir, addr), None),
            Kind::Bare => {
                let mut bare = Command::new(std::env::current_exe().expect("this program"));
                bare.args([super::ALONE, &addr.to_string()]);
                (bare, None)
            }
            Kind::Node { store, auth } => node(&dir, addr, store, auth),
        };
        let probe = match kind {
            Kind::Node { .. } => "/readyz",
            Kind::Nginx | Kind::Bare => "/1k",
        };
        let began = Instant::now();
        let process = command.stdout(Stdio::null()).spawn();
        let mut server = Server {
            name,
            addr,
            dir,
            token,
            process: process.unwrap_or_else(|error| panic!("{name}: {error}")),
            started_in: Duration::ZERO,
        };
        while !server.answers(probe) {
            if let Ok(Some(status)) = server.process.try_wait() {
                panic!("{name} ended: {status}");
            }
            assert!(began.elapsed() < PATIENCE, "{name} does not answer");
            std::thread::sleep(PAUSE);
        }
        server.started_in = began.elapsed();
        server
    }

    fn answers(&self, path: &str) -> bool {
        let answer = Client::connect(self.addr)
            .and_then(|mut client| client.send(&format!("GET {path} HTTP/1.1\r\n"), b""));
        answer.is_ok_and(|answer| answer.status == 200)
    }

    /// One request; its answer must be a success.
    pub fn ask(&self, client: &mut Client, method: &str, path: &str, body: &[u8]) -> Answer {
        let token = match &self.token {
            Some(token) => format!("Authorization: Bearer {token}\r\n"),
            None => String::new(),
        };
        let answer = client.send(&format!("{method} {path} HTTP/1.1\r\n{token}"), body);
        let answer =
            answer.unwrap_or_else(|error| panic!("{}: {method} {path}: {error}", self.name));
        let good = (200..300).contains(&answer.status);
        assert!(good, "{}: {method} {path}: {answer:?}", self.name);
        answer
    }

    pub fn client(&self) -> Client {
        Client::connect(self.addr).expect("a connection")
    }

    /// It and its children.
    fn pids(&self) -> Vec<u32> {
        let own = self.process.id();
        let is_child = |pid: &u32| fields(*pid).is_some_and(|fields| fields[1] == own.to_string());
        let all = fs::read_dir("/proc").expect("/proc").flatten();
        let all = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        std::iter::once(own).chain(all.filter(is_child)).collect()
    }

    /// Processor time it has used so far, with its children.
    pub fn cpu(&self) -> Duration {
        // utime and stime, behind pid, command and state; in USER_HZ, which is 100.
        let ticks = |pid: u32| -> u64 {
            let fields = fields(pid).unwrap_or_else(|| panic!("{} is gone", self.name));
            let tick = |at: usize| fields[at].parse::<u64>().expect("a number");
            tick(11) + tick(12)
        };
        Duration::from_millis(10 * self.pids().into_iter().map(ticks).sum::<u64>())
    }

    /// Bytes it has resident, with its children; those that two of them share count twice.
    pub fn resident(&self) -> u64 {
        let of = |pid: u32| -> u64 {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let kib = line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok());
            kib.expect("VmRSS") << 10
        };
        self.pids().into_iter().map(of).sum()
    }

    /// Bytes that its files take.
    pub fn filed(&self) -> u64 {
        fn of(dir: &Path) -> u64 {
            let entries = fs::read_dir(dir).expect("a directory").flatten();
            let size = |entry: fs::DirEntry| match entry.metadata() {
                Ok(data) if data.is_dir() => of(&entry.path()),
                Ok(data) => data.blocks() * 512,
                Err(_) => 0,
            };
            entries.map(size).sum()
        }
        of(&self.dir)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // nginx takes its workers with it; SIGKILL would leave them.
        let signal = match self.name {
            super::NGINX => Signal::TERM,
            _ => Signal::KILL,
        };
        if let Some(pid) = Pid::from_raw(self.process.id() as i32) {
            let _ = kill_process(pid, signal);
        }
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Of /proc/PID/stat, those behind the command, which may have blanks in it.
fn fields(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, behind) = stat.rsplit_once(") ")?;
    Some(behind.split(' ').map(str::to_owned).collect())
}

fn nginx(dir: &Path, addr: SocketAddr) -> Command {
    for sub in ["files", "files/put", "body.tmp"] {
        fs::create_dir(dir.join(sub)).expect("a directory");
    }
    for (name, size) in super::SIZES {
        fs::write(dir.join("files").join(name), super::body(size)).expect("a file");
    }
    let user = match rustix::process::getuid().is_root() {
        true => "user root;",
        false => "",
    };
    let at = dir.display();
    let text = format!(
        "{user}
worker_processes 2;
daemon off;
pid {at}/nginx.pid;
error_log {at}/error.log error;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush off;
    keepalive_requests 1000000000;
    default_type application/octet-stream;
    client_max_body_size 2m;
    client_body_temp_path {at}/body.tmp;
    server {{
        listen {addr};
        root {at}/files;
        location /put/ {{ dav_methods PUT; }}
    }}
}}
"
    );
    let conf = dir.join("nginx.conf");
    fs::write(&conf, text).expect("a file");
    let mut nginx = Command::new("nginx");
    nginx
        .arg("-p")
        .arg(dir)
        .arg("-e")
        .arg(dir.join("error.log"));
    nginx.arg("-c").arg(conf);
    nginx
}

/// All that micronode does, with its limits out of the way.
fn node(dir: &Path, addr: SocketAddr, store: &str, auth: Auth) -> (Command, Option<String>) {
    let micronode = super::micronode();
    let mut node = Command::new(&micronode);
    node.env_clear().env("RON_RUN_DIR", dir);
    node.args(["--http-addr", &addr.to_string()]);
    node.args(["--http.rps", "1000000", "--http.inflight", "65536"]);
    node.args(["--store.max_bytes", store]);
    if auth == Auth::DevAllow {
        node.args(["--auth.dev_allow", "true"]);
        return (node, None);
    }
    let keyring = dir.join("keyring.toml");
    let cap = |args: &[&str]| {
        let mut cap = Command::new(&micronode);
        cap.args(["ctl", "cap"]).args(args);
        let output = cap
            .arg("--keyring")
            .arg(&keyring)
            .output()
            .expect("ctl cap");
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    cap(&["rotate", "--create"]);
    let five = ["mint", "--ttl", "24h", "--aud", "micronode", "--method"];
    let token = cap(&[
        &five[..],
        &["GET,PUT", "--path", "/", "--max-bytes", "1MiB"],
    ]
    .concat());
    node.arg("--auth.keyring").arg(keyring);
    (node, Some(token))
}
