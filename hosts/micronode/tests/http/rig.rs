//! A running node, and a client that sends what it is told, byte for byte.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

#[path = "../fixture/spawned.rs"]
mod spawned;

pub(crate) use spawned::PATIENCE;

/// Bytes that differ with their place and with `seed`.
pub(crate) fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

pub(crate) struct Node {
    process: Child,
    pub(crate) addr: SocketAddr,
    log: Mutex<Receiver<Value>>,
    run_dir: tempfile::TempDir,
}

impl Node {
    /// On a port of the system's choice, open to everybody, with these arguments.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_with(&[&["--auth.dev_allow", "true"], args].concat())
    }

    /// On a port of the system's choice, with these arguments.
    pub(crate) fn start_with(args: &[&str]) -> Self {
        let node = Self::listening(args);
        node.until_ready_is(200);
        node
    }

    /// As soon as it listens: before it is ready, and maybe in TLS.
    pub(crate) fn listening(args: &[&str]) -> Self {
        Self::listening_in(&[], args)
    }

    /// [`listening`](Self::listening) with these variables, which a node of a test has none of otherwise.
    pub(crate) fn listening_in(env: &[(&str, &str)], args: &[&str]) -> Self {
        let run_dir = tempfile::tempdir().unwrap();
        let private = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(run_dir.path(), private).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_micronode"));
        if !args.contains(&"--http-addr") {
            command.args(["--http-addr", "127.0.0.1:0"]);
        }
        command.args(args);
        command.env_clear().env("RON_RUN_DIR", run_dir.path());
        command.envs(env.iter().copied());
        let (process, log) = spawned::spawn(&mut command);
        let mut node = Self {
            process,
            addr: SocketAddr::from(([127, 0, 0, 1], 0)),
            log: Mutex::new(log),
            run_dir,
        };
        let line = node.logged("listening");
        // Of a Unix socket there is none.
        node.addr = line["addr"].as_str().unwrap().parse().unwrap_or(node.addr);
        node
    }

    /// Until `/readyz` has this status; its answer.
    pub(crate) fn until_ready_is(&self, status: u16) -> Answer {
        let began = Instant::now();
        loop {
            let ready = self.get("/readyz");
            if ready.status == status {
                return ready;
            }
            assert!(began.elapsed() < PATIENCE, "it is {ready:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The cause of this key in `/readyz`, once there is one.
    pub(crate) fn cause(&self, key: &str) -> Value {
        let began = Instant::now();
        loop {
            let ready = self.get("/readyz").json();
            let causes = ready["causes"].as_array().unwrap();
            if let Some(cause) = causes.iter().find(|cause| cause["key"] == key) {
                return cause.clone();
            }
            assert!(began.elapsed() < PATIENCE, "no cause {key}: {ready}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The next log line of this event.
    pub(crate) fn logged(&self, event: &str) -> Value {
        spawned::next(&self.log.lock().unwrap(), event)
    }

    /// What is left of the log of a node that has ended.
    pub(crate) fn rest_of_log(&self) -> Vec<Value> {
        let log = self.log.lock().unwrap();
        std::iter::from_fn(|| log.recv_timeout(PATIENCE).ok()).collect()
    }

    pub(crate) fn connect(&self) -> TcpStream {
        dial(self.addr)
    }

    /// Sends `request` on a connection of its own and reads one answer.
    pub(crate) fn send(&self, request: impl AsRef<[u8]>) -> Answer {
        let mut stream = self.connect();
        // The node may refuse before it has read all.
        let _ = stream.write_all(request.as_ref());
        let is_head = request.as_ref().starts_with(b"HEAD ");
        Answer::read(&mut stream, is_head).expect("an answer")
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"))
    }

    pub(crate) fn get_with(&self, path: &str, headers: &str) -> Answer {
        self.send(format!(
            "GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n"
        ))
    }

    pub(crate) fn put(&self, body: &[u8]) -> Answer {
        self.send(put(body))
    }

    /// The value of a series, 0 if there is none.
    pub(crate) fn metric(&self, series: &str) -> u64 {
        let text = String::from_utf8(self.get("/metrics").body).unwrap();
        let line = text.lines().find(|line| line.starts_with(series));
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }

    /// Memory it has in use.
    pub(crate) fn resident_kib(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// What an operator's command prints.
    pub(crate) fn ctl(&self, args: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_micronode"));
        command.arg("ctl").args(args).env_clear();
        let output = command
            .env("RON_RUN_DIR", self.run_dir.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    pub(crate) fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// As Ctrl-C does.
    pub(crate) fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    fn signal(&self, signal: Signal) {
        let pid = rustix::process::Pid::from_raw(self.process.id() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// As a power cut would, but for what the system still holds.
    pub(crate) fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Its exit code.
    pub(crate) fn wait(&mut self) -> i32 {
        spawned::ended(&mut self.process)
    }
}

/// Exit code and standard error of a program that ends by itself.
pub(crate) fn outcome(command: &mut Command) -> (Option<i32>, String) {
    let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    let status = loop {
        if let Some(status) = process.try_wait().unwrap() {
            break status.code();
        }
        if began.elapsed() > PATIENCE {
            process.kill().unwrap();
            break process.wait().unwrap().code();
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let mut text = String::new();
    process.stderr.unwrap().read_to_string(&mut text).unwrap();
    (status, text)
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) fn dial(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

pub(crate) fn put(body: &[u8]) -> Vec<u8> {
    put_to("/put", body)
}

pub(crate) fn put_to(path: &str, body: &[u8]) -> Vec<u8> {
    let mut request = format!(
        "PUT {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Whether the body is as long as was announced.
    pub(crate) is_whole: bool,
}

impl Answer {
    /// `None` if the connection ends before a head is complete.
    pub(crate) fn read(stream: &mut impl Read, is_head: bool) -> Option<Self> {
        loop {
            let answer = Self::read_one(stream, is_head)?;
            if answer.status != 100 {
                return Some(answer);
            }
        }
    }

    fn read_one(stream: &mut impl Read, is_head: bool) -> Option<Self> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if stream.read(&mut byte).ok()? == 0 {
                return None;
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let length = headers.iter().find(|(name, _)| name == "content-length");
        let length: usize = length.map_or(0, |(_, value)| value.parse().unwrap());
        let length = if is_head || status == 304 { 0 } else { length };
        let mut body = Vec::new();
        let read = stream.by_ref().take(length as u64).read_to_end(&mut body);
        Some(Self {
            status,
            headers,
            is_whole: read.is_ok() && body.len() == length,
            body,
        })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// Which rule refused it.
    pub(crate) fn reason(&self) -> String {
        let json = self.json();
        let error = &json["error"];
        assert_eq!(error["corr_id"].as_str(), self.header("x-corr-id"));
        error["details"]["reason"].as_str().unwrap().to_owned()
    }
}
