//! A disk without room, which is a file system of a few mebibytes.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::disk::on_disk;
use crate::rig::{bytes, put_to, Node};

/// A file system in memory, until it is dropped.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    fn mount(at: &'a Path, size: &str) -> Option<Self> {
        let mut mount = Command::new("mount");
        mount.args([
            "-t",
            "tmpfs",
            "-o",
            &format!("size={size},mode=700"),
            "none",
        ]);
        let mounted = mount.arg(at).output().ok()?;
        mounted.status.success().then_some(Self(at))
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_is_told_and_recovers_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let Some(_small) = Small::mount(dir.path(), "4m") else {
        eprintln!("skipped: nothing can be mounted here, which takes root");
        return;
    };
    let node = Node::start(&on_disk(dir.path()));
    let kept = bytes(1, 300_000);
    let kept_at = format!("/o/{}", node.put(&kept).json()["addr"].as_str().unwrap());
    let other = dir.path().join("of another program");
    fs::write(&other, vec![1; 3_400_000]).unwrap();
    for path in ["/put", "/put?mode=stream"] {
        let full = node.send(put_to(path, &bytes(2, 1 << 20)));
        assert_eq!(
            (full.status, &*full.reason()),
            (507, "store_full"),
            "{path}"
        );
        assert!(full.header("retry-after").is_some());
    }
    let ready = node.until_ready_is(503).json();
    assert_eq!(ready["causes"][0]["key"], "store");
    assert!(
        ready["causes"][0]["reason"]
            .as_str()
            .unwrap()
            .contains("no room"),
        "{ready}"
    );
    // Reads stay open, and nothing of what did not fit stays.
    assert!(node.get(&kept_at).body == kept);
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    assert_eq!(node.metric("store_objects"), 1);
    fs::remove_file(&other).unwrap();
    node.until_ready_is(200);
    assert_eq!(node.put(&bytes(2, 1 << 20)).status, 201);
    assert_eq!(node.metric("store_puts_total{outcome=\"full\"}"), 2);
}

#[test]
fn a_disk_that_has_no_room_for_a_large_object_is_degraded_and_takes_smaller_ones() {
    let dir = tempfile::tempdir().unwrap();
    let Some(_small) = Small::mount(dir.path(), "12m") else {
        eprintln!("skipped: nothing can be mounted here, which takes root");
        return;
    };
    let node = Node::start(&on_disk(dir.path()));
    let other = dir.path().join("of another program");
    fs::write(&other, vec![1; 6 << 20]).unwrap();
    let large = bytes(1, 8 << 20);
    let full = node.send(put_to("/put?mode=stream", &large));
    assert_eq!((full.status, &*full.reason()), (507, "store_full"));
    let told = "the disk has no room for the 8388608 bytes of an object";
    // For as long as that is so, though all else works.
    for size in [100, 1 << 20] {
        let cause = node.cause("store");
        assert_eq!(
            (&cause["status"], &cause["reason"]),
            (&"degraded".into(), &told.into())
        );
        assert_eq!(node.put(&bytes(2, size)).status, 201);
        assert_eq!(node.get("/readyz").status, 200);
    }
    fs::remove_file(&other).unwrap();
    let began = std::time::Instant::now();
    while node.get("/readyz").json()["degraded"] != false {
        assert!(
            began.elapsed() < crate::rig::PATIENCE,
            "{:?}",
            node.get("/readyz")
        );
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(node.send(put_to("/put?mode=stream", &large)).status, 201);
}
