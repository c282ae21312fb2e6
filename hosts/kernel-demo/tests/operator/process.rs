//! A running demo, its log, and everything a test waits for.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value as Json;

/// Far above what anything here takes on a loaded machine; a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_ron-kernel-demo");

/// A free port, and restarts that do not keep a test waiting.
pub(crate) const FAST: &str = r#"
[observability]
addr = "127.0.0.1:0"
[supervisor]
min_backoff = "1ms"
max_backoff = "20ms"
[demo]
heartbeat_interval = "20ms"
"#;

pub(crate) struct Demo {
    child: Child,
    log: Arc<Log>,
    reader: Option<JoinHandle<()>>,
    dir: tempfile::TempDir,
    /// Of the control socket.
    run_dir: tempfile::TempDir,
    addr: SocketAddr,
}

#[derive(Default)]
struct Log {
    lines: Mutex<Vec<Json>>,
    grown: Condvar,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Json {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// Runs the binary to its end, without the environment of the test.
pub(crate) fn run(args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(BINARY);
    command
        .args(args)
        .env_clear()
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

impl Demo {
    /// Starts the demo with this configuration and waits until it listens.
    pub(crate) fn start(config: &str) -> Demo {
        Demo::start_with(config, &[])
    }

    pub(crate) fn start_with(config: &str, args: &[&str]) -> Demo {
        Demo::start_in(config, args, &[])
    }

    pub(crate) fn start_in(config: &str, args: &[&str], env: &[(&str, &str)]) -> Demo {
        let dir = tempfile::tempdir().unwrap();
        let run_dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ron-kernel.toml");
        std::fs::write(&path, config).unwrap();
        let mut child = Command::new(BINARY)
            .arg("--config")
            .arg(&path)
            .args(args)
            .current_dir(dir.path())
            .env_clear()
            .envs(env.iter().copied())
            .env("HOME", dir.path())
            .env("TMPDIR", dir.path())
            .env("RON_RUN_DIR", run_dir.path().join("run"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let log = Arc::new(Log::default());
        let written = log.clone();
        let reader = std::thread::spawn(move || {
            for line in stdout.lines() {
                let line = line.unwrap();
                // What does not parse stays visible as a text, and `end` fails on it.
                let json = serde_json::from_str(&line).unwrap_or(Json::String(line));
                written.lines.lock().unwrap().push(json);
                written.grown.notify_all();
            }
        });
        let mut demo = Demo {
            child,
            log,
            reader: Some(reader),
            dir,
            run_dir,
            addr: SocketAddr::from(([0, 0, 0, 0], 0)),
        };
        demo.addr = demo.line("admin_listening")["addr"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        demo
    }

    pub(crate) fn config_path(&self) -> PathBuf {
        self.dir.path().join("ron-kernel.toml")
    }

    /// Names in the directory that is its working, home and temporary directory.
    pub(crate) fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path()).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    /// Replaces the configuration as editors and deployers do, by a rename.
    pub(crate) fn configure(&self, config: &str) {
        let beside = self.dir.path().join("next");
        std::fs::write(&beside, config).unwrap();
        std::fs::rename(&beside, self.config_path()).unwrap();
    }

    /// What `HOST ctl` with these words prints and ends with.
    pub(crate) fn ctl(&self, words: &str) -> Output {
        let mut command = Command::new(BINARY);
        command.arg("ctl").args(words.split(' ')).env_clear();
        command.env("RON_RUN_DIR", self.run_dir.path().join("run"));
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// The same, which must succeed.
    pub(crate) fn asked(&self, words: &str) -> String {
        let output = self.ctl(words);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Its answer as JSON.
    pub(crate) fn asked_json(&self, words: &str) -> Json {
        serde_json::from_str(&self.asked(&format!("{words} --json"))).unwrap()
    }

    /// Names of the sockets in its run directory.
    pub(crate) fn sockets(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.run_dir.path().join("run")).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    pub(crate) fn signal(&self, name: &str) {
        // The shell has `kill` built in.
        let kill = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh")
            .args(["-c", &kill])
            .status()
            .unwrap()
            .success());
    }

    /// The first log line of this event, waited for.
    pub(crate) fn line(&self, event: &str) -> Json {
        self.line_where(event, |line| line["event"] == event)
    }

    /// The first log line that `wanted` accepts, waited for; `what` names it in the failure.
    pub(crate) fn line_where(&self, what: &str, wanted: impl Fn(&Json) -> bool) -> Json {
        let until = Instant::now() + PATIENCE;
        let mut lines = self.log.lines.lock().unwrap();
        loop {
            if let Some(line) = lines.iter().find(|line| wanted(line)) {
                return line.clone();
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "no log line of {what} within {PATIENCE:?} in {lines:#?}"
            );
            lines = self.log.grown.wait_timeout(lines, left).unwrap().0;
        }
    }

    /// The log so far.
    pub(crate) fn lines(&self) -> Vec<Json> {
        self.log.lines.lock().unwrap().clone()
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        get(self.addr, path).unwrap()
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Asks until the answer is `wanted`.
    pub(crate) fn get_until(&self, path: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
        let until = Instant::now() + PATIENCE;
        loop {
            let answer = self.get(path);
            if wanted(&answer) {
                return answer;
            }
            assert!(
                Instant::now() < until,
                "{path} answers {} {}",
                answer.status,
                answer.body
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The value of a sample of /metrics.
    pub(crate) fn sample(&self, name: &str) -> f64 {
        let metrics = self.get("/metrics").body;
        let value = metrics
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value
            .unwrap_or_else(|| panic!("no sample {name} in {metrics}"))
            .parse()
            .unwrap()
    }

    /// Waits for the end; the exit code and the whole log, every line of it an object of the promised form.
    pub(crate) fn end(mut self) -> (Option<i32>, Vec<Json>) {
        let until = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < until, "still running: {:#?}", self.lines());
            std::thread::sleep(Duration::from_millis(5));
        };
        self.reader.take().unwrap().join().unwrap();
        let lines = self.lines();
        for line in &lines {
            for key in ["ts", "level", "service", "event", "message"] {
                assert!(line[key].is_string(), "no `{key}` in the line {line}");
            }
        }
        (status.code(), lines)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn get(addr: SocketAddr, path: &str) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text
        .split_once("\r\n\r\n")
        .ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    Ok(Answer {
        status: status.ok_or(std::io::ErrorKind::InvalidData)?,
        head: head.to_ascii_lowercase(),
        body: body.to_owned(),
    })
}
