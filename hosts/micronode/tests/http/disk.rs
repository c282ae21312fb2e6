//! Objects on disk.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::rig::{bytes, put_to, Node};

/// What a node on disk needs.
pub(crate) fn on_disk(dir: &Path) -> Vec<&str> {
    let dir = dir.to_str().unwrap();
    [
        "--store.kind",
        "disk",
        "--store.dir",
        dir,
        "--amnesia",
        "off",
    ]
    .to_vec()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn what_was_stored_is_there_after_a_restart_and_is_nobody_elses() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("a/b");
    let objects: Vec<Vec<u8>> = [0, 1, 65_536, 65_537, 300_000, 1 << 20]
        .map(|length| bytes(1, length))
        .to_vec();
    let large = bytes(2, 5_000_000);
    let mut node = Node::start(&on_disk(&dir));
    for object in &objects {
        assert_eq!(node.put(object).json()["existed"], false);
        assert_eq!(node.put(object).json()["existed"], true);
    }
    assert_eq!(node.send(put_to("/put?mode=stream", &large)).status, 201);
    assert_eq!(node.get("/version").json()["features"]["amnesia"], false);
    node.terminate();
    assert_eq!(node.wait(), 0);
    for path in ["", "objects", "tmp"] {
        assert_eq!(mode(&dir.join(path)), 0o700, "{path}");
    }
    let mut used = 0;
    for file in fs::read_dir(dir.join("objects")).unwrap() {
        let file = file.unwrap().path();
        assert_eq!(mode(&file), 0o600);
        used += fs::metadata(&file).unwrap().len();
    }
    fs::write(dir.join("tmp/17"), "half").unwrap();
    let node = Node::start(&on_disk(&dir));
    assert_eq!(fs::read_dir(dir.join("tmp")).unwrap().count(), 0);
    assert_eq!(node.metric("store_objects"), objects.len() as u64 + 1);
    assert_eq!(node.metric("store_used_bytes"), used);
    for object in objects.iter().chain([&large]) {
        let path = format!("/o/b3:{}", blake3::hash(object).to_hex());
        let got = node.get(&path);
        assert_eq!((got.status, got.is_whole), (200, true));
        assert!(got.body == *object, "{}", object.len());
        assert!(object.len() > 1 << 20 || node.put(object).json()["existed"] == true);
    }
    let got = node.get_with(
        &format!("/o/b3:{}", blake3::hash(&large).to_hex()),
        "range: bytes=65530-900000\r\n",
    );
    assert!(got.status == 206 && got.body == large[65_530..900_001]);
}

fn refused(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_micronode"));
    command.args(["--http-addr", "127.0.0.1:0", "--auth.dev_allow", "true"]);
    command.args(args).env_clear().output().unwrap()
}

#[test]
fn settings_that_contradict_each_other_are_refused_at_the_start() {
    let cases: [(&[&str], &str); 4] = [
        (
            &["--store.kind", "disk", "--store.dir", "/nowhere"],
            "amnesia is on, and objects would outlive the process",
        ),
        (
            &["--store.kind", "disk", "--amnesia", "off"],
            "the store on disk has no store.dir",
        ),
        (
            &["--store.dir", "/nowhere"],
            "store.dir is set, and store.kind is no disk",
        ),
        (
            &["--store.kind", "tape"],
            "expected one of \"memory\", \"disk\"",
        ),
    ];
    for (args, told) in cases {
        let output = refused(args);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(told), "{stderr}");
    }
    assert!(!Path::new("/nowhere").exists());
}

/// Why the store is not ready, for everybody: without a word of where it is.
fn store_cause(node: &Node, dir: &Path) -> String {
    node.until_ready_is(503);
    let cause = node.cause("store")["reason"].as_str().unwrap().to_owned();
    assert!(!cause.contains(dir.to_str().unwrap()), "{cause}");
    cause
}

#[test]
fn a_directory_that_others_may_read_is_not_used_until_it_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let mode = |mode| fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
    mode(0o750);
    let node = Node::listening(&[&on_disk(dir.path())[..], &["--auth.dev_allow", "true"]].concat());
    assert!(store_cause(&node, dir.path()).contains("mode is 750, expected 700"));
    let absent = format!("/o/b3:{}", "0".repeat(64));
    let refused = node.get(&absent);
    assert_eq!((refused.status, &*refused.reason()), (503, "store"));
    assert!(refused.header("retry-after").is_some());
    mode(0o700);
    node.until_ready_is(200);
    assert_eq!(node.get(&absent).status, 404);
    assert_eq!(node.put(b"content").status, 201);
}

#[test]
fn a_directory_has_one_node() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("objects of one");
    let first = Node::start(&on_disk(&path));
    let args = [&on_disk(&path)[..], &["--auth.dev_allow", "true"]].concat();
    let second = Node::listening(&args);
    assert!(store_cause(&second, &path).contains("is in use"));
    first.kill();
    second.until_ready_is(200);
}

#[test]
fn a_disk_that_fails_is_told_and_recovers_by_itself() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("store");
    let node = Node::start(&on_disk(&dir));
    let kept = bytes(3, 400_000);
    let path = format!("/o/{}", node.put(&kept).json()["addr"].as_str().unwrap());
    for round in 1..=2 {
        fs::remove_dir(dir.join("tmp")).unwrap();
        let failed = node.put(b"content");
        assert_eq!((failed.status, &*failed.reason()), (503, "store"));
        assert!(failed.header("retry-after").is_some());
        node.logged("store_failed");
        assert!(store_cause(&node, &dir).contains("the disk cannot be written: No such file"));
        // Reads stay open.
        assert!(node.get(&path).body == kept);
        assert_eq!(node.metric("store_puts_total{outcome=\"failed\"}"), round);
        fs::create_dir(dir.join("tmp")).unwrap();
        node.until_ready_is(200);
        node.logged("store_recovered");
    }
    assert_eq!(node.put(b"content").status, 201);
    // What cannot be read is no damage.
    let other = dir.join("objects").join("0".repeat(64));
    fs::create_dir(other).unwrap();
    let failed = node.get(&format!("/o/b3:{}", "0".repeat(64)));
    assert!([502, 503].contains(&failed.status), "{failed:?}");
    assert_eq!(node.metric("store_puts_total{outcome=\"stored\"}"), 2);
}

/// Where in a trace of the system's calls the first one after `from` is that contains all of `parts`.
fn call(trace: &[&str], from: usize, parts: &[&str]) -> usize {
    let mut calls = trace.iter().enumerate().skip(from);
    let found = calls.find(|(_, line)| parts.iter().all(|part| line.contains(part)));
    found
        .unwrap_or_else(|| panic!("no {parts:?} after line {from} of\n{}", trace.join("\n")))
        .0
}

/// The system's calls of a running node, which strace writes to `file` until the node ends; `None` where that cannot be.
fn traced(node: &Node, args: &[&str], file: &Path) -> Option<std::process::Child> {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y"]).args(args).arg("-o").arg(file);
    strace.args(["-p", &node.pid().to_string()]);
    let Ok(mut strace) = strace.stderr(Stdio::piped()).spawn() else {
        eprintln!("skipped: there is no strace here");
        return None;
    };
    let mut told = String::new();
    let mut stderr = BufReader::new(strace.stderr.take().unwrap());
    stderr.read_line(&mut told).unwrap();
    if !told.contains("attached") {
        eprintln!("skipped: strace may not trace here: {told}");
        return None;
    }
    // It is not to wait for somebody to read.
    std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
    Some(strace)
}

#[test]
fn what_an_earlier_try_has_made_is_synced_with_all_above_it_before_anything_is_stored() {
    let parent = tempfile::tempdir().unwrap();
    let (above, file) = (parent.path().join("a"), parent.path().join("trace"));
    let dir = above.join("b");
    // Made by a try that ended before it synced anything, and not yet fit to be used.
    fs::create_dir_all(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o750)).unwrap();
    let node = Node::listening(&[&on_disk(&dir)[..], &["--auth.dev_allow", "true"]].concat());
    node.until_ready_is(503);
    let Some(mut strace) = traced(&node, &["-e", "trace=fsync"], &file) else {
        return;
    };
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    node.until_ready_is(200);
    node.kill();
    strace.wait().unwrap();
    let trace = fs::read_to_string(&file).unwrap();
    for synced in [&dir.join("objects"), &dir, &above, parent.path()] {
        let call = format!("<{}>", synced.display());
        let is_synced = |line: &str| line.contains("fsync(") && line.contains(&call);
        assert!(trace.lines().any(is_synced), "{call}: {trace}");
    }
}

/// What a failed sync leaves in memory the system takes for written: another sync says nothing of it.
#[test]
fn an_object_whose_directory_could_not_be_synced_is_written_anew() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, file) = (parent.path().join("store"), parent.path().join("trace"));
    let args = ["--pool.threads", "1"];
    let node = Node::start(&[&on_disk(&dir)[..], &args].concat());
    // That of the object itself is the first.
    let inject = "inject=fsync:error=EIO:when=2";
    let Some(mut strace) = traced(&node, &["-e", "trace=fsync", "-e", inject], &file) else {
        return;
    };
    let failed = node.put(b"content");
    assert_eq!((failed.status, &*failed.reason()), (503, "store"));
    let placed = dir
        .join("objects")
        .join(&*blake3::hash(b"content").to_hex());
    let first = fs::metadata(&placed).unwrap().ino();
    node.logged("store_recovered");
    node.until_ready_is(200);
    let again = || {
        assert_eq!(node.put(b"content").json()["existed"], true);
        fs::metadata(&placed).unwrap().ino()
    };
    let second = again();
    assert_ne!(second, first);
    assert_eq!(again(), second, "once");
    assert_eq!(node.metric("store_objects"), 1);
    node.kill();
    strace.wait().unwrap();
    assert!(fs::read_to_string(&file).unwrap().contains("EIO"));
}

#[test]
fn a_put_is_answered_when_its_file_and_the_directory_were_synced() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, file) = (parent.path().join("store"), parent.path().join("trace"));
    let node = Node::start(&on_disk(&dir));
    let calls = "trace=fsync,rename,renameat,renameat2,write,writev,sendto,sendmsg";
    let Some(mut strace) = traced(&node, &["-e", calls], &file) else {
        return;
    };
    // One that is written at once, one in pieces, and one that is there.
    let puts = [
        put_to("/put", &bytes(1, 1000)),
        put_to("/put?mode=stream", &bytes(2, 2_000_000)),
        put_to("/put", &bytes(1, 1000)),
    ];
    for put in puts {
        assert_eq!(node.send(put).status, 201);
    }
    node.kill();
    strace.wait().unwrap();
    let trace = fs::read_to_string(&file).unwrap();
    let trace: Vec<&str> = trace.lines().collect();
    let (tmp, objects) = ("/store/tmp/", "/store/objects");
    let mut at = 0;
    for _ in 0..2 {
        let synced = call(&trace, at, &["fsync(", tmp]);
        let placed = call(&trace, at, &["rename", tmp, objects]);
        let listed = call(&trace, at, &["fsync(", "/store/objects>"]);
        let answered = call(&trace, at, &["HTTP/1.1 201"]);
        assert!(
            synced < placed && placed < listed && listed < answered,
            "{trace:#?}"
        );
        assert!(!trace[placed..answered]
            .iter()
            .any(|line| line.contains("write(") && line.contains(tmp)));
        at = answered + 1;
    }
    let synced = call(&trace, at, &["fsync(", "/store/objects/"]);
    let listed = call(&trace, at, &["fsync(", "/store/objects>"]);
    let answered = call(&trace, at, &["HTTP/1.1 201"]);
    assert!(synced < listed && listed < answered, "{trace:#?}");
}
