//! The drill `amnesia`: under traffic no file is written, and none is left. `cargo test -p micronode --test amnesia`

#[path = "fixture/process.rs"]
mod process;

use std::fs;
use std::os::unix::fs::{chown, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use process::{get, private_dir, send, Node, BINARY, PATIENCE};
use rustix::process::Signal;

/// Whatever the system tells of that can change a file, and what the order of a start is known by.
const TRACED: &str = "trace=open,openat,openat2,creat,mkdir,mkdirat,rmdir,rename,renameat,renameat2,link,linkat,\
    symlink,symlinkat,unlink,unlinkat,truncate,ftruncate,mknod,mknodat,chmod,fchmod,fchmodat,chown,fchown,lchown,fchownat,\
    utimensat,setxattr,fsetxattr,lsetxattr,bind,clone,clone3,fork,vfork,landlock_restrict_self";

/// `program` with home, working, temporary and run directory in `dir`, and nothing else of this environment.
fn in_dir(program: &str, dir: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(dir).env_clear();
    command.env("HOME", dir).env("TMPDIR", dir);
    command.env("RON_RUN_DIR", dir.join("run"));
    command
}

fn node(command: &mut Command) -> &mut Command {
    command.args(["--http-addr", "127.0.0.1:0", "--auth.dev_allow"])
}

/// Whether processes can be traced here.
fn can_trace(test: &str) -> bool {
    let mut tried = Command::new("strace");
    tried
        .args(["-o", "/dev/null", "true"])
        .stderr(Stdio::null());
    let can = tried.status().is_ok_and(|status| status.success());
    if !can {
        eprintln!("NOT TESTED: {test} needs strace (Debian: apt-get install strace), and to be allowed to trace");
    }
    can
}

/// Puts, gets, errors, what operators ask.
fn traffic(node: &Node, dir: &Path) {
    for size in [0, 1, 70_000, 1 << 20] {
        let body = vec![b'x'; size];
        let head = format!("PUT /put HTTP/1.1\r\nhost: localhost\r\ncontent-length: {size}\r\n");
        let (status, stored) = send(node.addr, &head, &body);
        assert_eq!(status, 201, "{stored}");
        let stored: serde_json::Value = serde_json::from_str(&stored).unwrap();
        let addr = stored["addr"].as_str().unwrap();
        assert_eq!(get(node.addr, &format!("/o/{addr}")).1.len(), size);
    }
    let large = "PUT /put HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2097152\r\n";
    assert_eq!(send(node.addr, large, b"").0, 413);
    assert_eq!(get(node.addr, "/o/b3:nonsense").0, 400);
    assert_eq!(get(node.addr, "/nothing").0, 404);
    assert_eq!(get(node.addr, "/metrics").0, 200);
    for words in [["ctl", "top"], ["ctl", "explain"], ["ctl", "tree"]] {
        let asked = in_dir(BINARY, dir).args(words).output().unwrap();
        assert!(asked.status.success(), "{asked:?}");
    }
}

/// All below a directory.
fn below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(below(&path));
        }
        found.push(path);
    }
    found
}

/// What a line of a trace tells of a change to files outside of the run directory, if it does.
fn change<'a>(line: &'a str, run_dir: &str) -> Option<&'a str> {
    let call = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
    let (name, arguments) = call.split_once('(')?;
    let changes = match name {
        "open" | "openat" | "openat2" => ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_TMPFILE"]
            .iter()
            .any(|flag| arguments.contains(flag)),
        "bind" => arguments.contains("AF_UNIX") && !arguments.contains(run_dir),
        "clone" | "clone3" | "fork" | "vfork" | "landlock_restrict_self" => false,
        _ if name.contains(|c: char| !c.is_ascii_alphanumeric() && c != '_') => false,
        _ => !arguments.contains(run_dir),
    };
    changes.then_some(line)
}

#[test]
fn under_traffic_nothing_is_written_and_nothing_is_left() {
    let (dir, beside) = (private_dir(), private_dir());
    let (trace, config) = (beside.path().join("trace"), beside.path().join("node.toml"));
    fs::write(&config, "[http]\nrps = 1000\n").unwrap();
    let traced = can_trace("that no file is opened for writing");
    let running = if traced {
        let mut command = in_dir("strace", dir.path());
        command.args([
            "-f",
            "-qq",
            "-s",
            "200",
            "-e",
            TRACED,
            "-e",
            "signal=none",
            "-o",
        ]);
        Node::of(
            node(command.arg(&trace).arg(BINARY))
                .arg("--config")
                .arg(&config),
        )
    } else {
        Node::of(
            node(&mut in_dir(BINARY, dir.path()))
                .arg("--config")
                .arg(&config),
        )
    };
    traffic(&running, dir.path());
    fs::write(&config, "[http]\nrps = 1001\n").unwrap();
    running.signal(Signal::HUP);
    running.line("config_updated");
    let sockets = below(&dir.path().join("run"));
    assert_eq!(sockets.len(), 1, "{sockets:?}");
    assert_eq!(running.end(), 0);
    assert_eq!(below(dir.path()), [dir.path().join("run")]);
    if !traced {
        return;
    }
    let trace = fs::read_to_string(&trace).unwrap();
    let run_dir = dir.path().join("run");
    let changes: Vec<_> = trace
        .lines()
        .filter_map(|line| change(line, run_dir.to_str().unwrap()))
        .collect();
    assert!(changes.is_empty(), "{changes:#?}");
    // Not empty for want of a trace.
    assert!(
        trace.contains("O_RDONLY") && trace.contains("sun_path"),
        "{trace}"
    );
    let sealed = trace
        .lines()
        .position(|line| line.contains("landlock_restrict_self("));
    let cloned = trace.lines().position(|line| line.contains(" clone"));
    assert!(
        sealed.unwrap() < cloned.unwrap(),
        "a thread is older than the seal"
    );
}

#[test]
fn a_change_is_seen_in_a_trace() {
    for line in [
        r#"12 openat(AT_FDCWD, "/a", O_RDWR|O_CREAT|O_CLOEXEC, 0666) = -1 EACCES (Permission denied)"#,
        r#"openat(AT_FDCWD, "/a", O_WRONLY <unfinished ...>"#,
        r#"12 creat("/a", 0600) = 3"#,
        r#"12 mkdir("/a", 0777) = 0"#,
        r#"12 renameat2(AT_FDCWD, "/a", AT_FDCWD, "/b", RENAME_NOREPLACE) = 0"#,
        r#"12 unlink("/run/other/x") = 0"#,
        r#"12 ftruncate(5, 0) = 0"#,
        r#"12 bind(5, {sa_family=AF_UNIX, sun_path="/a"}, 10) = 0"#,
    ] {
        assert_eq!(change(line, "/run/ron"), Some(line));
    }
    for line in [
        r#"12 openat(AT_FDCWD, "/a", O_RDONLY|O_CLOEXEC) = 3"#,
        r#"12 <... openat resumed>) = 3"#,
        r#"12 unlink("/run/ron/x") = 0"#,
        r#"12 bind(5, {sa_family=AF_UNIX, sun_path="/run/ron/x"}, 10) = 0"#,
        r#"12 bind(5, {sa_family=AF_INET, sin_port=htons(0)}, 16) = 0"#,
        r#"12 clone3({flags=CLONE_VM}, 88) = 13"#,
        "12 +++ exited with 0 +++",
    ] {
        assert_eq!(change(line, "/run/ron"), None);
    }
}

/// As a user who may not look at what belongs to root, which the memory of a process is that dumps no core.
#[test]
fn every_thread_of_an_ordinary_user_is_sealed_and_operators_are_served() {
    let dir = private_dir();
    let binary = dir.path().join("micronode");
    // By another process: one that is forked here meanwhile would hold it open for writing.
    let copied = Command::new("cp").arg(BINARY).arg(&binary).status();
    assert!(copied.unwrap().success());
    fs::set_permissions(&binary, PermissionsExt::from_mode(0o755)).unwrap();
    let home = dir.path().join("home");
    fs::create_dir(&home).unwrap();
    let mut command = in_dir(binary.to_str().unwrap(), &home);
    if fs::metadata(dir.path()).unwrap().uid() == 0 {
        fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        chown(&home, Some(65534), Some(65534)).unwrap();
        command.uid(65534).gid(65534);
    }
    let node = Node::of(node(&mut command));
    let line = node.told("amnesia");
    assert_eq!(line["core_dumps"], "off", "{line}");
    let proc = PathBuf::from(format!("/proc/{}", node.pid));
    let limits = fs::read_to_string(proc.join("limits")).unwrap();
    let cores = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    assert_eq!(
        cores.split_whitespace().filter(|word| *word == "0").count(),
        2,
        "{cores}"
    );
    // It belongs to root when there is nothing to dump.
    assert_eq!(fs::symlink_metadata(proc.join("mem")).unwrap().uid(), 0);
    let features = &node.version()["features"];
    assert_eq!(features["amnesia"], true);
    assert_eq!(features["landlock"], line["landlock"] == "full");
    if line["landlock"] == "full" {
        let level = if line["swap"] == "off" {
            "info"
        } else {
            "warn"
        };
        assert!(line["level"] == level && line["why"].is_null(), "{line}");
        for thread in fs::read_dir(proc.join("task")).unwrap() {
            let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
            assert!(status.contains("NoNewPrivs:\t1"), "{status}");
        }
    } else {
        let why = line["why"].as_str().unwrap();
        assert!(why.contains("this kernel"), "{line}");
        eprintln!("NOT TESTED in full: {line}");
    }
    // Asked by root, which may; what it knows of itself is there.
    let top = in_dir(BINARY, &home)
        .args(["ctl", "top", "--json"])
        .output()
        .unwrap();
    let top: serde_json::Value = serde_json::from_slice(&top.stdout).unwrap();
    for known in ["cpu_ms", "rss_bytes", "threads", "fds"] {
        assert!(top["process"][known].is_u64(), "{known} in {top}");
    }
    node.signal(Signal::HUP);
    node.line("config_unchanged");
    assert_eq!(node.end(), 0);
}

#[test]
fn a_system_without_landlock_is_named_and_the_node_runs() {
    if !can_trace("a system without Landlock") {
        return;
    }
    for (error, why) in [("ENOSYS", "has no Landlock"), ("EOPNOTSUPP", "`lsm=`")] {
        let dir = private_dir();
        let inject = format!("inject=landlock_create_ruleset:error={error}");
        let mut command = in_dir("strace", dir.path());
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", &inject, BINARY]);
        let node = Node::of(node(&mut command));
        let line = node.told("amnesia");
        assert_eq!(line["landlock"], "none", "{line}");
        assert_eq!(line["level"], "warn");
        assert!(line["why"].as_str().unwrap().contains(why), "{line}");
        assert_eq!(node.version()["features"]["landlock"], false);
        assert_eq!(node.version()["features"]["amnesia"], true);
        assert_eq!(node.end(), 0);
    }
}

#[test]
fn services_of_the_configuration_may_write_and_the_log_says_so() {
    let dir = private_dir();
    let config = dir.path().join("node.toml");
    let service = "[[service]]\nname = \"writer\"\ncommand = \"sh\"\nargs = [\"-c\", \"echo written > made; exec sleep 600\"]\n";
    fs::write(&config, service).unwrap();
    let mut command = in_dir(BINARY, dir.path());
    let path = std::env::var_os("PATH").unwrap();
    command.env("PATH", path).arg("--config").arg(&config);
    let node = Node::of(node(&mut command));
    let line = node.told("amnesia");
    assert_eq!(
        (&line["landlock"], &line["level"]),
        (&"none".into(), &"warn".into())
    );
    assert!(line["why"].as_str().unwrap().contains("services"), "{line}");
    assert_eq!(line["core_dumps"], "off");
    let until = Instant::now() + PATIENCE;
    while !dir.path().join("made").exists() {
        assert!(Instant::now() < until, "the service does not write");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(node.end(), 0);
}

#[test]
fn without_amnesia_nothing_is_sealed() {
    let dir = private_dir();
    let node = Node::of(node(in_dir(BINARY, dir.path()).args(["--amnesia", "off"])));
    assert!(!node.began.iter().any(|line| line["event"] == "amnesia"));
    let features = &node.version()["features"];
    assert_eq!(
        (&features["amnesia"], &features["landlock"]),
        (&false.into(), &false.into())
    );
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid)).unwrap();
    assert!(status.contains("NoNewPrivs:\t0"), "{status}");
    assert_eq!(node.end(), 0);
}
