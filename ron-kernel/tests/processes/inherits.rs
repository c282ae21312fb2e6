//! What a process is given and what it is not: environment, directory, descriptors, signals, arguments.

use crate::rig::{
    alone, alone_under, fragile, parent, process_group, quarantined, start, until, until_state,
    Desk, PATIENCE,
};
use ron_kernel::process::Command;
use ron_kernel::supervisor::Child;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::{Duration, Instant};

/// The environment of a child with this command.
async fn environment(command: Command) -> BTreeMap<OsString, OsString> {
    let running = start([Child::process("env", command)]).await;
    let node = until_state(running.handle(), "env", "ready").await;
    let path = format!("/proc/{}/environ", node.pid.unwrap());
    // The system shows nothing while the program is being loaded.
    let bytes = until("its environment is shown", || {
        Some(std::fs::read(&path).unwrap()).filter(|bytes| !bytes.is_empty())
    })
    .await;
    running.shutdown().await;
    let pairs = bytes
        .split(|byte| *byte == 0)
        .filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let at = pair.iter().position(|byte| *byte == b'=').unwrap();
            let part = |part: &[u8]| OsString::from_vec(part.to_vec());
            (part(&pair[..at]), part(&pair[at + 1..]))
        })
        .collect()
}

fn sleep() -> Command {
    Command::new("/bin/sleep").arg("1000")
}

/// What is the kernel's own business.
const OWN: [&str; 9] = [
    "RON_",
    "RON_LOG_LEVEL",
    "RON_X",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
];

/// What is not, for all its name.
const FOREIGN: [&str; 6] = [
    "RONALD", "NOTIFY", "WATCHDOG", "LISTENER", "MY_RON_X", "PLAIN",
];

#[test]
fn it_inherits_the_environment_less_what_is_the_kernels_own_business() {
    let pairs = OWN.iter().chain(&FOREIGN);
    let pairs: Vec<String> = pairs.map(|name| format!("{name}=inherited")).collect();
    let bytes = "BYTES=\"$(printf 'a\\377b\\nc=d')\" exec env \"$@\"";
    let mut wrapper = vec!["sh", "-c", bytes, "sh"];
    wrapper.extend(pairs.iter().map(String::as_str));
    alone_under(
        &wrapper,
        "inherits::it_inherits_the_environment_less_what_is_the_kernels_own_business",
        || async {
            let seen = environment(sleep()).await;
            for name in OWN {
                assert_eq!(seen.get(OsStr::new(name)), None, "{name}");
            }
            for name in FOREIGN {
                assert_eq!(seen[OsStr::new(name)], "inherited", "{name}");
            }
            assert_eq!(seen[OsStr::new("BYTES")], OsStr::from_bytes(b"a\xffb\nc=d"));
            assert_eq!(seen[OsStr::new("PATH")], std::env::var_os("PATH").unwrap());

            let command = sleep()
                .env("RON_X", "set")
                .env("NOTIFY_SOCKET", "/set")
                .env("PLAIN", "first")
                .env("PLAIN", "set")
                .env_remove("RONALD")
                .env("LISTENER", "x")
                .env_remove("LISTENER")
                .env_remove("MY_RON_X")
                .env("MY_RON_X", OsStr::from_bytes(b"\xfe"));
            let seen = environment(command).await;
            assert_eq!(seen[OsStr::new("RON_X")], "set");
            assert_eq!(seen[OsStr::new("NOTIFY_SOCKET")], "/set");
            assert_eq!(seen[OsStr::new("PLAIN")], "set");
            assert_eq!(seen.get(OsStr::new("RONALD")), None);
            assert_eq!(seen.get(OsStr::new("LISTENER")), None);
            assert_eq!(seen[OsStr::new("MY_RON_X")], OsStr::from_bytes(b"\xfe"));
            assert_eq!(seen.get(OsStr::new("RON_LOG_LEVEL")), None);

            let command = sleep().env("ONE", "1").env_clear().env("TWO", "2");
            let seen = environment(command).await;
            let names: Vec<&OsString> = seen.keys().collect();
            assert_eq!(names, ["ONE", "TWO"], "{seen:?}");
        },
    );
}

#[tokio::test]
async fn it_gets_its_arguments_byte_by_byte() {
    let desk = Desk::new();
    let args: [&[u8]; 6] = [
        b"a b",
        b"two\nlines",
        b"",
        b"\xff\xfe",
        b"$HOME `x` \"'",
        b"--",
    ];
    let command = desk
        .sh("printf '%s\\0' \"$@\" > \"$DESK/args\"; touch \"$DESK/done\"; exec sleep 1000")
        .arg("zero")
        .args(args.map(OsStr::from_bytes));
    let running = start([Child::process("args", command)]).await;
    until("arguments are written", || {
        desk.exists("done").then_some(())
    })
    .await;
    let mut wanted = args.join(&0);
    wanted.push(0);
    assert_eq!(std::fs::read(desk.file("args")).unwrap(), wanted);
    running.shutdown().await;
}

#[tokio::test]
async fn a_program_may_be_named_in_any_bytes() {
    let desk = Desk::new();
    let path = desk.path().join(OsStr::from_bytes(b"a \xff\nprogram"));
    std::os::unix::fs::symlink("/bin/sleep", &path).unwrap();
    let running = start([Child::process("odd", Command::new(&path).arg("1000"))]).await;
    let pid = until_state(running.handle(), "odd", "ready").await.pid;
    let command = std::fs::read(format!("/proc/{}/cmdline", pid.unwrap())).unwrap();
    assert!(
        command.starts_with(path.as_os_str().as_bytes()),
        "{command:?}"
    );
    running.shutdown().await;
}

#[tokio::test]
async fn a_program_without_a_slash_is_looked_for_at_each_start() {
    let desk = Desk::new();
    let path = format!("/no/such:{}", desk.path().display());
    let command = Command::new("program-to-find").arg("1000");
    let running = start([fragile(Child::process("found", command.env("PATH", &path)))]).await;
    let words = quarantined(running.handle(), "found").await;
    assert!(
        words.contains("program-to-find") && words.contains(&path),
        "{words}"
    );
    std::os::unix::fs::symlink("/bin/sleep", desk.file("program-to-find")).unwrap();
    running.handle().release("found").unwrap();
    until_state(running.handle(), "found", "ready").await;
    running.shutdown().await;
}

#[tokio::test]
async fn it_runs_in_its_directory_or_this_process_s() {
    let desk = Desk::new();
    let there = Child::process("there", sleep().current_dir(desk.path()));
    let here = Child::process("here", sleep());
    let running = start([there, here]).await;
    let cwd = |pid: Option<u32>| std::fs::read_link(format!("/proc/{}/cwd", pid.unwrap())).unwrap();
    let there = cwd(until_state(running.handle(), "there", "ready").await.pid);
    let here = cwd(until_state(running.handle(), "here", "ready").await.pid);
    assert_eq!(there, std::fs::canonicalize(desk.path()).unwrap());
    assert_eq!(here, std::env::current_dir().unwrap());
    running.shutdown().await;
}

#[tokio::test]
async fn it_leads_a_group_of_its_own_and_its_input_is_empty() {
    let desk = Desk::new();
    let script = "cat > \"$DESK/input\"; touch \"$DESK/read\"; exec sleep 1000";
    let running = start([Child::process("leader", desk.sh(script))]).await;
    let pid = until_state(running.handle(), "leader", "ready")
        .await
        .pid
        .unwrap();
    assert_eq!(process_group(pid), Some(pid));
    assert_eq!(parent(pid), Some(std::process::id()));
    let input = std::fs::read_link(format!("/proc/{pid}/fd/0")).unwrap();
    assert_eq!(input.to_str(), Some("/dev/null"));
    until("its input ends", || desk.exists("read").then_some(())).await;
    assert_eq!(desk.read("input"), "");
    running.shutdown().await;
}

#[test]
fn its_signals_have_their_default_action_and_none_is_blocked() {
    alone_under(
        &["env", "--ignore-signal", "--block-signal"],
        "inherits::its_signals_have_their_default_action_and_none_is_blocked",
        || async {
            let masks = |pid: &str| {
                let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
                let mask = |name: &str| {
                    let line = status.lines().find_map(|line| line.strip_prefix(name));
                    let mask = u64::from_str_radix(line.unwrap().trim(), 16).unwrap();
                    // 32 and 33 are glibc's own: its posix_spawn has every child ignore them for good.
                    mask & !(0b11 << 31)
                };
                (mask("SigBlk:"), mask("SigIgn:"), mask("SigCgt:"))
            };
            let (blocked, ignored, _) = masks("self");
            assert!(
                blocked != 0 && ignored != 0,
                "the test is to begin with both"
            );
            let running = start([Child::process("signals", sleep())]).await;
            let pid = until_state(running.handle(), "signals", "ready").await.pid;
            assert_eq!(masks(&pid.unwrap().to_string()), (0, 0, 0));
            running.shutdown().await;
        },
    );
}

/// The descriptors that a process has open, with what they are, once there are no others than expected: its loader and its
/// locale have files open for a moment. What was inherited stays.
async fn descriptors(pid: u32, expected: &[u32]) -> BTreeMap<u32, String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = open_now(pid);
        let is_expected = seen.keys().eq(expected);
        if is_expected || Instant::now() >= deadline {
            assert!(is_expected, "{seen:?}");
            return seen;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn open_now(pid: u32) -> BTreeMap<u32, String> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    entries
        .filter_map(|entry| {
            let entry = entry.unwrap();
            let what = std::fs::read_link(entry.path()).ok()?;
            let number = entry.file_name().to_str().unwrap().parse().unwrap();
            Some((number, what.display().to_string()))
        })
        .collect()
}

/// Takes its close-on-exec flag from a descriptor.
fn leaky(fd: impl Into<OwnedFd>) -> OwnedFd {
    let fd = fd.into();
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::empty()).unwrap();
    fd
}

#[test]
fn it_has_no_descriptor_but_the_standard_ones_and_its_listeners() {
    alone(
        "inherits::it_has_no_descriptor_but_the_standard_ones_and_its_listeners",
        || async {
            let open = || leaky(std::fs::File::open("/dev/zero").unwrap());
            let mut leaks: Vec<OwnedFd> = (0..50).map(|_| open()).collect();
            leaks.drain(10..20);
            leaks.push(leaky(
                rustix::io::fcntl_dupfd_cloexec(leaks[0].as_fd(), 900).unwrap(),
            ));
            let listener = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let (one, two) = (leaky(listener()), listener());
            let served = sleep().listener("one", one).listener("two", two);
            let plain = Child::process("plain", sleep());
            let running = start([plain, Child::process("served", served)]).await;
            let pid = until_state(running.handle(), "plain", "ready").await.pid;
            let seen = descriptors(pid.unwrap(), &[0, 1, 2]).await;
            assert!(seen[&1].starts_with("pipe:"), "{seen:?}");
            assert!(
                seen[&2].starts_with("pipe:") && seen[&1] != seen[&2],
                "{seen:?}"
            );
            let pid = until_state(running.handle(), "served", "ready").await.pid;
            descriptors(pid.unwrap(), &[0, 1, 2, 3, 4]).await;
            running.shutdown().await;
            drop(leaks);
        },
    );
}
