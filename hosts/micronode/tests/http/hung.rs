//! A disk that hangs: a pipe in the place of a file, which does not open before somebody writes to it.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{mknodat, FileType, Mode, CWD};

use crate::disk::on_disk;
use crate::rig::{bytes, put_to, Answer, Node, PATIENCE};

/// A pipe where an object would be, and what asks for it.
struct Pipe {
    file: PathBuf,
    path: String,
}

impl Pipe {
    fn make(dir: &Path, name: char) -> Self {
        let name = name.to_string().repeat(64);
        let file = dir.join("objects").join(&name);
        mknodat(CWD, &file, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let path = format!("/o/b3:{name}");
        Self { file, path }
    }

    /// Whoever hangs at it goes on.
    fn release(self) {
        let mut options = File::options();
        let nonblocking = rustix::fs::OFlags::NONBLOCK.bits() as i32;
        let pipe = options
            .write(true)
            .custom_flags(nonblocking)
            .open(&self.file);
        drop(pipe.unwrap());
        fs::remove_file(&self.file).unwrap();
    }
}

fn refused(answer: &Answer) -> (u16, String) {
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    (answer.status, answer.reason())
}

const FAILS: (u16, &str) = (503, "store");

fn until(node: &Node, series: &str, expected: u64) {
    let began = Instant::now();
    while node.metric(series) != expected {
        assert!(began.elapsed() < PATIENCE, "{series} is not {expected}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn whoever_asks_a_disk_that_hangs_is_told_so_and_all_is_well_when_it_answers() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("store");
    let limits = [
        "--pool.threads",
        "2",
        "--pool.timeout",
        "200ms",
        "--pool.queue",
        "20",
    ];
    let node = Node::start(&[&on_disk(&dir)[..], &limits].concat());
    let kept = bytes(1, 400_000);
    let kept_at = format!("/o/{}", node.put(&kept).json()["addr"].as_str().unwrap());

    // One thread is lost: the others do its work, and the node is degraded.
    let first = Pipe::make(&dir, '1');
    let (status, reason) = refused(&node.get(&first.path));
    assert_eq!((status, &*reason), FAILS);
    assert_eq!(node.metric("pool_refused_total{reason=\"late\"}"), 1);
    until(&node, "pool_overdue", 1);
    let cause = node.cause("store");
    let told = "1 of 2 threads wait for the disk in vain";
    assert_eq!(
        (&cause["status"], &cause["reason"]),
        (&"degraded".into(), &told.into())
    );
    assert!(node.get(&kept_at).body == kept);
    assert_eq!(node.put(b"content").status, 201);

    // Both are: all are refused in time, and nothing piles up.
    let second = Pipe::make(&dir, '2');
    assert_eq!(refused(&node.get(&second.path)).0, 503);
    until(&node, "pool_overdue", 2);
    node.until_ready_is(503);
    let answers: Vec<Answer> = thread::scope(|scope| {
        let ask = |n: u64| {
            let (node, kept_at) = (&node, &kept_at);
            scope.spawn(move || match n % 2 {
                0 => node.get(kept_at),
                _ => node.send(put_to("/put", &bytes(n, 100))),
            })
        };
        let asked: Vec<_> = (0..40).map(ask).collect();
        asked
            .into_iter()
            .map(|asked| asked.join().unwrap())
            .collect()
    });
    for answer in &answers {
        let (status, reason) = refused(answer);
        assert_eq!(status, 503);
        assert!(
            ["store", "work", "not_ready"].contains(&&*reason),
            "{reason}"
        );
    }
    let reason = node.cause("store")["reason"].as_str().unwrap().to_owned();
    assert!(reason.starts_with("the disk hangs"), "{reason}");
    assert_eq!(node.get("/healthz").status, 200);
    until(&node, "pool_waiting", 0);
    assert_eq!(node.metric("pool_running"), 2);
    let threads = fs::read_dir(format!("/proc/{}/task", node.pid())).unwrap();
    let names = threads.map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap());
    assert_eq!(names.filter(|name| name == "pool\n").count(), 2);

    first.release();
    second.release();
    node.until_ready_is(200);
    until(&node, "pool_overdue", 0);
    assert!(node.get(&kept_at).body == kept);
    assert_eq!(node.put(b"more").status, 201);
    let began = Instant::now();
    while node.get("/readyz").json()["degraded"] != false {
        assert!(began.elapsed() < PATIENCE, "{:?}", node.get("/readyz"));
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_disk_that_hangs_at_the_start_holds_up_nobody() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("store");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let lock = dir.join("lock");
    // A pipe is opened for writing when somebody reads it.
    mknodat(CWD, &lock, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let args = ["--auth.dev_allow", "true", "--pool.timeout", "200ms"];
    let node = Node::listening(&[&on_disk(&dir)[..], &args].concat());
    node.until_ready_is(503);
    let began = Instant::now();
    while !node.cause("store")["reason"]
        .as_str()
        .unwrap()
        .starts_with("the disk hangs")
    {
        assert!(began.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(refused(&node.put(b"content")).0, 503);
    until(&node, "pool_running", 1);
    let reader = File::open(&lock).unwrap();
    node.until_ready_is(200);
    drop(reader);
    assert_eq!(node.put(b"content").status, 201);
}

#[test]
fn a_put_whose_client_goes_away_is_counted_as_that() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("store");
    let limits = ["--pool.threads", "1", "--pool.timeout", "60s"];
    let node = Node::start(&[&on_disk(&dir)[..], &limits].concat());
    let pipe = Pipe::make(&dir, '1');
    let mut reader = node.connect();
    let request = format!("GET {} HTTP/1.1\r\nhost: localhost\r\n\r\n", pipe.path);
    reader.write_all(request.as_bytes()).unwrap();
    until(&node, "pool_running", 1);
    let mut client = node.connect();
    client.write_all(&put_to("/put", b"content")).unwrap();
    until(&node, "pool_waiting", 1);
    drop(client);
    until(&node, "store_puts_total{outcome=\"gone\"}", 1);
    // Nobody waits for it any more.
    until(&node, "pool_waiting", 0);
    pipe.release();
    assert_eq!(node.put(b"content").json()["existed"], false);
}
