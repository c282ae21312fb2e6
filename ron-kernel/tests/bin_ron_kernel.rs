//! The binary `ron-kernel`: no port, every line of its output one JSON object, events up to Shutdown.
#![cfg(unix)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use serde_json::Value as Json;

const BINARY: &str = env!("CARGO_BIN_EXE_ron-kernel");
const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/ron-kernel.toml");
/// Far above what anything here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn run(args: &[&str], env: &[(&str, &str)]) -> Output {
    Command::new(BINARY)
        .args(args)
        .env_clear()
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

struct Running {
    child: Child,
    lines: Receiver<Json>,
}

impl Running {
    fn start(args: &[&str]) -> Running {
        let mut child = Command::new(BINARY)
            .args(args)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (written, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines() {
                let line = line.unwrap();
                // What does not parse fails the test that reads it.
                let json = serde_json::from_str(&line).unwrap_or(Json::String(line));
                if written.send(json).is_err() {
                    return;
                }
            }
        });
        Running { child, lines }
    }

    fn next(&self) -> Option<Json> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => {
                assert!(
                    line["topic"].is_string() || line["message"].is_string(),
                    "neither event nor log: {line}"
                );
                Some(line)
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("no line within {PATIENCE:?}"),
        }
    }

    /// Reads on to the first line that is `wanted`.
    fn line(&self, wanted: impl Fn(&Json) -> bool) -> Json {
        std::iter::from_fn(|| self.next())
            .find(wanted)
            .expect("the line comes before the end")
    }

    fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh")
            .args(["-c", &kill])
            .status()
            .unwrap()
            .success());
    }

    /// The rest of the output and the exit code.
    fn end(mut self) -> (Option<i32>, Vec<Json>) {
        let rest = std::iter::from_fn(|| self.next()).collect();
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status.code(), rest);
            }
            assert!(Instant::now() < until, "still running");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_event(line: &Json, kind: &str) -> bool {
    line["event"]["type"] == kind
}

#[test]
fn the_shipped_configuration_runs_and_the_events_go_on_to_shutdown() {
    let running = Running::start(&["--config", SHIPPED]);
    let health = running.line(|line| is_event(line, "Health"));
    assert_eq!(health["topic"], "kernel");
    assert_eq!(health["event"]["ok"], true);
    for key in ["seq", "epoch", "instance", "ts"] {
        assert!(!health[key].is_null(), "no {key} in {health}");
    }
    running.signal("INT");
    let (code, rest) = running.end();
    assert_eq!(code, Some(0));
    assert!(
        rest.iter().any(|line| is_event(line, "Shutdown")),
        "{rest:#?}"
    );
    assert!(
        rest.iter()
            .any(|line| line["message"] == "KernelEvent::Shutdown"),
        "{rest:#?}"
    );
    assert!(
        rest.iter().any(|line| line["event"] == "shutdown_report"),
        "{rest:#?}"
    );
}

#[test]
fn no_port_is_opened() {
    let running = Running::start(&["--config", SHIPPED]);
    running.line(|line| is_event(line, "Health"));
    if cfg!(target_os = "linux") {
        let sockets = std::fs::read_dir(format!("/proc/{}/fd", running.child.id())).unwrap();
        let inodes: Vec<String> = sockets
            .filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok())
            .filter_map(|link| {
                link.to_str()?
                    .strip_prefix("socket:[")?
                    .strip_suffix(']')
                    .map(str::to_owned)
            })
            .collect();
        for table in ["tcp", "tcp6", "udp", "udp6"] {
            let table =
                std::fs::read_to_string(format!("/proc/{}/net/{table}", running.child.id()))
                    .unwrap_or_default();
            for row in table.lines().skip(1) {
                let inode = row.split_whitespace().nth(9).unwrap_or_default();
                assert!(
                    !inodes.iter().any(|ours| ours == inode),
                    "an internet socket: {row}"
                );
            }
        }
    }
}

#[test]
fn a_reload_shows_as_event_and_changes_the_log_filter() {
    let dir = std::env::temp_dir().join(format!("bin-ron-kernel-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("ron-kernel.toml");
    let write = |text: &str| {
        std::fs::write(dir.join("next"), text).unwrap();
        std::fs::rename(dir.join("next"), &path).unwrap();
    };
    write("[log]\nlevel = \"info\"\n");
    let running = Running::start(&["--config", path.to_str().unwrap()]);
    running.line(|line| is_event(line, "Health"));
    write("[log]\nlevel = \"info,ron_kernel=off\"\n");
    running.signal("HUP");
    let updated = running.line(|line| is_event(line, "ConfigUpdated"));
    assert_eq!(updated["event"]["version"], 2);
    running.signal("TERM");
    let (code, rest) = running.end();
    std::fs::remove_dir_all(&dir).unwrap();
    assert_eq!(code, Some(0));
    assert!(rest.iter().any(|line| is_event(line, "Shutdown")));
    assert!(
        rest.iter().all(|line| line["event"] != "shutdown_report"),
        "the filter stayed: {rest:#?}"
    );
}

#[test]
fn what_this_build_cannot_do_is_refused_with_exit_2() {
    if !cfg!(feature = "serve") {
        let refused = run(&[], &[("RON_KERNEL_METRICS_ADDR", "127.0.0.1:9")]);
        assert_eq!(refused.status.code(), Some(2));
        let lines = text(&refused.stdout).lines();
        let lines: Vec<Json> = lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let error = lines.iter().find(|line| line["level"] == "error").unwrap();
        let message = error["message"].as_str().unwrap();
        assert!(
            message.contains("`observability.expose_http`") && message.contains("`serve`"),
            "{message}"
        );
    }
    for (args, word) in [
        (&["--log.format", "text"][..], "ron-kernel-demo"),
        (&["--log.level", "inof"], "expected off, error, warn"),
        (&["--bus.capcity", "9"], "did you mean `--bus.capacity`?"),
        (&["--confg", "x"], "did you mean `--config`?"),
        (&["-x"], "unknown flag -x"),
        (&["config"], "validate PATH"),
        (&["frobnicate"], "unknown command `frobnicate`"),
        (&["--config", "/nonexistent/a.toml"], "/nonexistent/a.toml"),
    ] {
        let output = run(args, &[]);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {told}");
        assert!(output.stdout.is_empty(), "{args:?}");
        assert!(
            told.contains(word) && told.lines().count() == 1,
            "{args:?}: {told}"
        );
    }
}

#[test]
fn the_commands_of_the_configuration_answer() {
    let valid = run(&["config", "validate", SHIPPED], &[]);
    assert_eq!((valid.status.code(), text(&valid.stderr)), (Some(0), ""));
    assert!(text(&valid.stdout).contains(": valid, sha256 "));
    let printed = run(
        &["config", "print", SHIPPED],
        &[("RON_BUS_CAPACITY", "64"), ("RUST_LOG", "")],
    );
    assert!(
        text(&printed.stdout).contains("capacity = 64  # env RON_BUS_CAPACITY"),
        "{}",
        text(&printed.stdout)
    );
    let help = run(&["--help"], &[]);
    assert!(text(&help.stdout).contains("config validate PATH"));
    let version = run(&["--version"], &[]);
    assert!(text(&version.stdout).starts_with("ron-kernel 0."));
}
