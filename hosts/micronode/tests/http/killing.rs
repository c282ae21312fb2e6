//! A node that is killed while it stores.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::disk::on_disk;
use crate::rig::{bytes, put_to, Answer, Node, PATIENCE};

const CLIENTS: u64 = 4;

/// What was sent, and whether it was acknowledged.
type Sent = Arc<Mutex<BTreeMap<u64, bool>>>;

fn object(seed: u64) -> Vec<u8> {
    // From nothing to three mebibytes, most of them small.
    let length = [10, 3_000, 65_536, 200_000, 900_000, 3_000_000][seed as usize % 6];
    bytes(seed, length + seed as usize % 1_000)
}

fn put_until_it_dies(addr: SocketAddr, seeds: &AtomicU64, sent: &Sent) {
    loop {
        let seed = seeds.fetch_add(1, Ordering::Relaxed);
        let object = object(seed);
        sent.lock().unwrap().insert(seed, false);
        let path = if object.len() > 1 << 20 {
            "/put?mode=stream"
        } else {
            "/put"
        };
        let acknowledged = || {
            let mut stream = TcpStream::connect(addr).ok()?;
            stream.set_read_timeout(Some(PATIENCE)).ok()?;
            stream.write_all(&put_to(path, &object)).ok()?;
            Answer::read(&mut stream, false).filter(|answer| answer.is_whole)
        };
        match acknowledged() {
            Some(answer) if answer.status == 201 => {
                sent.lock().unwrap().insert(seed, true);
            }
            Some(answer) => panic!("{answer:?}"),
            None => return,
        }
    }
}

/// 200 kills with RON_TEST_FULL=1, 10 without.
#[test]
fn what_was_acknowledged_outlives_a_kill_and_nothing_is_served_in_part() {
    let is_full = std::env::var_os("RON_TEST_FULL").is_some();
    let rounds = if is_full { 200 } else { 10 };
    let seeds = AtomicU64::new(0);
    let parent = tempfile::tempdir().unwrap();
    let mut dir = parent.path().join("0");
    let (mut acknowledged, mut broken_off, mut left) = (0, 0, 0);
    let mut delay = 1;
    for round in 0..rounds {
        if round % 10 == 0 {
            let _ = fs::remove_dir_all(&dir);
            dir = parent.path().join(round.to_string());
        }
        let args = [&on_disk(&dir)[..], &["--store.max_bytes", "8GiB"]].concat();
        let args = [&args[..], &["--http.rps", "1000000"]].concat();
        let node = Node::start(&args);
        let sent = Sent::default();
        let (addr, seeds_of_all, sent_by_all) = (node.addr, &seeds, &sent);
        thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(move || put_until_it_dies(addr, seeds_of_all, sent_by_all));
            }
            // Some time after the first was stored.
            let began = Instant::now();
            while !sent.lock().unwrap().values().any(|stored| *stored) {
                assert!(began.elapsed() < PATIENCE, "nothing is stored");
                thread::yield_now();
            }
            delay = (delay * 75 + 74) % 65_537;
            thread::sleep(Duration::from_micros(delay));
            node.kill();
        });
        left += fs::read_dir(dir.join("tmp")).unwrap().count();
        let node = Node::start(&args);
        assert_eq!(fs::read_dir(dir.join("tmp")).unwrap().count(), 0);
        for (seed, stored) in &*sent.lock().unwrap() {
            let object = object(*seed);
            let path = format!("/o/b3:{}", blake3::hash(&object).to_hex());
            let got = node.get(&path);
            match (got.status, stored) {
                (200, _) => assert!(got.is_whole && got.body == object, "round {round}: {seed}"),
                (404, false) => broken_off += 1,
                other => panic!("round {round}: {seed}: {other:?}"),
            }
            acknowledged += u64::from(*stored);
        }
        assert_eq!(node.metric("integrity_fail_total"), 0);
        node.kill();
    }
    eprintln!(
        "{rounds} kills: {acknowledged} puts acknowledged, {broken_off} broken off, {left} files left and removed"
    );
    assert!(acknowledged >= rounds && broken_off > 0);
}
