//! A kernel with process children, the programs they run, and what tests wait for.

use ron_kernel::process::Command;
use ron_kernel::supervisor::{Backoff, Child, Intensity};
use ron_kernel::{Explanation, Kernel, KernelHandle, Running, TreeNode};
use rustix::process::{Pid, Signal};
use std::ffi::OsStr;
use std::fmt::Debug;
use std::future::Future;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Longer than anything takes that goes well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn sh(script: &str) -> Command {
    Command::new("/bin/sh").arg("-c").arg(script)
}

/// Restarts at once, as often as it likes.
pub(crate) fn tireless(child: Child) -> Child {
    let intensity = Intensity::new(1_000_000, Duration::from_secs(60)).unwrap();
    child.backoff(Backoff::NONE).intensity(intensity)
}

/// Restarts never because of the budget: the first failure quarantines.
pub(crate) fn fragile(child: Child) -> Child {
    child.intensity(Intensity::new(0, Duration::from_secs(60)).unwrap())
}

pub(crate) async fn start(children: impl IntoIterator<Item = Child>) -> Running {
    log();
    let builder = Kernel::builder();
    let builder = children
        .into_iter()
        .fold(builder, |builder, child| builder.child(child));
    builder.build().unwrap().start().await.unwrap()
}

pub(crate) fn node(handle: &KernelHandle, id: &str) -> Option<TreeNode> {
    fn find(nodes: Vec<TreeNode>, id: &str) -> Option<TreeNode> {
        nodes.into_iter().find_map(|node| {
            if node.id == id {
                return Some(node);
            }
            find(node.children, id)
        })
    }
    find(handle.tree(), id)
}

pub(crate) async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(crate) async fn until_state(handle: &KernelHandle, id: &str, state: &str) -> TreeNode {
    until_node(handle, id, &format!("{id} is {state}"), |node| {
        node.state == state
    })
    .await
}

pub(crate) async fn until_node(
    handle: &KernelHandle,
    id: &str,
    what: &str,
    is: impl Fn(&TreeNode) -> bool,
) -> TreeNode {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = node(handle, id);
        match seen {
            Some(seen) if is(&seen) => return seen,
            seen => assert!(Instant::now() < deadline, "never: {what}: {seen:?}"),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// All that explains a child, as an operator reads it.
pub(crate) fn words(explanation: &Explanation) -> String {
    let because: Vec<&str> = explanation
        .because
        .iter()
        .map(|r| r.what.as_str())
        .collect();
    because.join("; ")
}

/// Waits for the quarantine and gives the words that explain it.
pub(crate) async fn quarantined(handle: &KernelHandle, id: &str) -> String {
    let node = until_state(handle, id, "quarantined").await;
    assert_eq!(node.pid, None, "{node:?}");
    let words = words(&handle.explain(id).unwrap());
    let cause = node.cause.unwrap_or_default();
    assert!(
        words.contains(&cause) && !cause.is_empty(),
        "{cause:?} in {words:?}"
    );
    words
}

fn stat(pid: u32) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    Some(rest.split(' ').map(str::to_owned).collect())
}

/// Runs; a zombie has ended.
pub(crate) fn alive(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| stat[0] != "Z" && stat[0] != "X")
}

pub(crate) fn parent(pid: u32) -> Option<u32> {
    stat(pid)?[1].parse().ok()
}

pub(crate) fn process_group(pid: u32) -> Option<u32> {
    stat(pid)?[2].parse().ok()
}

pub(crate) fn pids() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap();
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

/// Children of this process that ended and were not waited for.
pub(crate) fn zombies() -> Vec<u32> {
    let me = std::process::id();
    let zombie =
        |pid: &u32| stat(*pid).is_some_and(|stat| stat[0] == "Z" && stat[1] == me.to_string());
    pids().into_iter().filter(zombie).collect()
}

pub(crate) fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// A variable that all descendants of a child inherit, whatever they do to their group and session.
#[derive(Clone)]
pub(crate) struct Mark(String);

impl Mark {
    pub(crate) fn new() -> Mark {
        static LAST: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let next = LAST.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Mark(format!("{}-{next}-mark", std::process::id()))
    }

    /// One that two processes know.
    pub(crate) fn named(name: &str) -> Mark {
        // The process in between has this one as its parent.
        let outer = std::env::var("TEST_OUTER").unwrap_or_else(|_| std::process::id().to_string());
        Mark(format!("{outer}-{name}"))
    }

    pub(crate) fn on(&self, command: Command) -> Command {
        command.env("TEST_MARK", &self.0)
    }

    /// Who of them is alive.
    pub(crate) fn alive(&self) -> Vec<u32> {
        let needle = format!("TEST_MARK={}\0", self.0).into_bytes();
        let marked = |pid: &u32| {
            let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.windows(needle.len()).any(|part| part == needle) && alive(*pid)
        };
        pids().into_iter().filter(marked).collect()
    }

    pub(crate) async fn until_gone(&self) {
        until("no descendant is left", || {
            self.alive().is_empty().then_some(())
        })
        .await;
    }
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    // It may have ended meanwhile.
    let _ = rustix::process::kill_process(pid, signal);
}

/// A directory to which children write what they see.
pub(crate) struct Desk(tempfile::TempDir);

impl Desk {
    pub(crate) fn new() -> Desk {
        Desk(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// In the script, `$DESK` is the directory, and `say TEXT` tells the service manager.
    pub(crate) fn sh(&self, script: &str) -> Command {
        let say = "say() { TEST_STEPS=\"say $1\nexit 0\" \"$TEST_PROGRAM\" --exact rig::steps --nocapture; }";
        sh(&format!("{say}\n{script}"))
            .env("DESK", self.path())
            .env("TEST_PROGRAM", std::env::current_exe().unwrap())
    }

    pub(crate) fn exists(&self, name: &str) -> bool {
        self.file(name).exists()
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.file(name)).unwrap_or_default()
    }

    pub(crate) fn lines(&self, name: &str) -> Vec<String> {
        self.read(name).lines().map(str::to_owned).collect()
    }

    /// A whole line, once it is written.
    pub(crate) async fn line(&self, name: &str) -> String {
        until(&format!("{name} is written"), || {
            let text = self.read(name);
            text.ends_with('\n')
                .then(|| text.lines().next_back().unwrap().to_owned())
        })
        .await
    }

    pub(crate) async fn pid(&self, name: &str) -> u32 {
        self.line(name).await.parse().unwrap()
    }

    pub(crate) fn write(&self, name: &str, text: &[u8], mode: u32) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.file(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }
}

/// One line of the log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Line {
    pub(crate) message: String,
    pub(crate) event: String,
    pub(crate) child: String,
    pub(crate) generation: String,
    pub(crate) stream: String,
    pub(crate) all: String,
}

/// What this process logs, for all tests in it.
pub(crate) struct Log(Mutex<Vec<Line>>);

pub(crate) fn log() -> &'static Log {
    static LOG: OnceLock<Log> = OnceLock::new();
    LOG.get_or_init(|| {
        tracing::subscriber::set_global_default(Collector).unwrap();
        Log(Mutex::new(Vec::new()))
    })
}

impl Log {
    pub(crate) fn lines(&self, is: impl Fn(&Line) -> bool) -> Vec<Line> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().filter(|line| is(line)).cloned().collect()
    }

    /// What a child wrote.
    pub(crate) fn of(&self, child: &str) -> Vec<Line> {
        self.lines(|line| line.child == child && !line.stream.is_empty())
    }

    pub(crate) fn texts(&self, child: &str, stream: &str) -> Vec<String> {
        let lines = self.lines(|line| line.child == child && line.stream == stream);
        lines.into_iter().map(|line| line.message).collect()
    }
}

struct Collector;

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = format!("{value:?}");
        self.record(field.name(), text);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record(field.name(), value.to_owned());
    }
}

impl Line {
    fn record(&mut self, name: &str, text: String) {
        use std::fmt::Write;
        let _ = write!(self.all, "{name}={text} ");
        match name {
            "message" => self.message = text,
            "event" => self.event = text,
            "child" => self.child = text,
            "generation" => self.generation = text,
            "stream" => self.stream = text,
            _ => {}
        }
    }
}

impl Subscriber for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event()
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        if std::env::var_os("TEST_LOG").is_some() {
            eprintln!("{}", line.all);
        }
        if line.child == "slow-log" {
            std::thread::sleep(Duration::from_millis(1));
        }
        // Nobody reads what a flood says.
        if !line.child.starts_with("floods") || line.stream.is_empty() {
            let mut lines = log().0.lock().unwrap_or_else(PoisonError::into_inner);
            lines.push(line);
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Runs the body in a process of its own, because it looks at what belongs to a whole process: its
/// descriptors, its children, its zombies. `test` is the full name of the test that calls it.
pub(crate) fn alone<F: Future<Output = ()>>(test: &str, body: impl FnOnce() -> F) {
    alone_under(&[], test, body);
}

/// As [`alone`], in a process that `wrapper` executes.
pub(crate) fn alone_under<F: Future<Output = ()>>(
    wrapper: &[&str],
    test: &str,
    body: impl FnOnce() -> F,
) {
    passes(test, run_alone(wrapper, test, || block_on(body())));
}

/// As [`alone`], without a runtime.
pub(crate) fn alone_blocking(test: &str, body: impl FnOnce()) {
    passes(test, run_alone(&[], test, body));
}

fn block_on(body: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(body);
}

fn passes(test: &str, run: Option<Output>) {
    let Some(run) = run else {
        return;
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&run.stdout), text(&run.stderr));
    assert!(run.status.success(), "{test}: {}\n{out}\n{err}", run.status);
    assert!(out.contains("1 passed"), "no test is named {test}");
}

/// What became of that process; `None` in it.
pub(crate) fn run_alone(wrapper: &[&str], test: &str, body: impl FnOnce()) -> Option<Output> {
    if std::env::var("TEST_ALONE").is_ok_and(|alone| alone == test) {
        body();
        return None;
    }
    let own = std::env::current_exe().unwrap();
    let words = wrapper.iter().map(OsStr::new).chain([own.as_os_str()]);
    let words: Vec<&OsStr> = words.collect();
    let run = std::process::Command::new(words[0])
        .args(&words[1..])
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env("TEST_ALONE", test)
        .env("TEST_OUTER", std::process::id().to_string())
        .output();
    Some(run.unwrap())
}

/// A program that takes these steps, one a line, and then sleeps:
/// `say TEXT` to the service manager, with `\n` for a new line; `huge BYTES` to it; `child STEP`: in a
/// process of its own; `ms N`: waits; `every N TEXT`: says it for ever; `exit CODE`; `answer TEXT`: serves the
/// listening socket that is its standard input.
pub(crate) fn program(steps: &[&str]) -> Command {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "rig::steps", "--nocapture", "--test-threads=1"])
        .env("TEST_STEPS", steps.join("\n"))
}

#[test]
fn steps() {
    let Ok(steps) = std::env::var("TEST_STEPS") else {
        return;
    };
    for step in steps.lines() {
        take(step);
    }
    loop {
        std::thread::sleep(Duration::from_secs(1000));
    }
}

fn take(step: &str) {
    let (verb, rest) = step.split_once(' ').unwrap_or((step, ""));
    match verb {
        "say" => say(rest.replace("\\n", "\n").as_bytes()),
        "bytes" => say(&rest.bytes().map(|byte| byte ^ 0x80).collect::<Vec<_>>()),
        "huge" => say(&vec![b'x'; rest.parse().unwrap()]),
        "child" => {
            let status = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "rig::steps", "--nocapture", "--test-threads=1"])
                .env("TEST_STEPS", format!("{rest}\nexit 0"))
                .status();
            assert!(status.unwrap().success());
        }
        "ms" => std::thread::sleep(Duration::from_millis(rest.parse().unwrap())),
        "every" => {
            let (pause, text) = rest.split_once(' ').unwrap();
            loop {
                say(text.as_bytes());
                std::thread::sleep(Duration::from_millis(pause.parse().unwrap()));
            }
        }
        "flood" => loop {
            say(rest.as_bytes());
        },
        "print" => std::io::stdout()
            .write_all(format!("{rest}\n").as_bytes())
            .unwrap(),
        "until" => {
            while !Path::new(rest).exists() {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        "descriptors" => {
            let file = std::fs::File::open("/dev/null").unwrap();
            let files = vec![file.as_fd(); rest.parse().unwrap()];
            say_with(b"X_FILES=1", &files);
        }
        "barrier" => {
            let (end, other) = rustix::pipe::pipe().unwrap();
            say_with(b"BARRIER=1", &[other.as_fd()]);
            drop(other);
            // Ends when the other side has closed it.
            assert_eq!(std::fs::File::from(end).read(&mut [0]).unwrap(), 0);
        }
        "exit" => std::process::exit(rest.parse().unwrap()),
        "answer" => answer(rest),
        other => panic!("no step {other}"),
    }
}

/// As sd_notify(3) does.
fn say(bytes: &[u8]) {
    let name = std::env::var_os("NOTIFY_SOCKET").expect("a socket to notify");
    let address = match name.as_bytes() {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest).unwrap(),
        path => SocketAddr::from_pathname(OsStr::from_bytes(path)).unwrap(),
    };
    let socket = UnixDatagram::unbound().unwrap();
    if let Err(error) = socket.send_to_addr(bytes, &address) {
        eprintln!("{} bytes: {error}", bytes.len());
    }
}

fn say_with(bytes: &[u8], files: &[BorrowedFd<'_>]) {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix};
    let name = std::env::var_os("NOTIFY_SOCKET").expect("a socket to notify");
    let address = match name.as_bytes() {
        [b'@', rest @ ..] => SocketAddrUnix::new_abstract_name(rest).unwrap(),
        path => SocketAddrUnix::new(OsStr::from_bytes(path)).unwrap(),
    };
    let mut space = vec![std::mem::MaybeUninit::uninit(); 4096];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(files)));
    let socket = UnixDatagram::unbound().unwrap();
    let bytes = [std::io::IoSlice::new(bytes)];
    rustix::net::sendmsg_addr(&socket, &address, &bytes, &mut control, SendFlags::empty()).unwrap();
}

/// Answers each connection with the text, this process's id and the end.
fn answer(text: &str) {
    let socket = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let listener = std::net::TcpListener::from(socket);
    for connection in listener.incoming() {
        let _ = write!(connection.unwrap(), "{text} {}", std::process::id());
    }
}
