//! What is damaged on disk is never served, and a put heals it.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use crate::disk::on_disk;
use crate::rig::{bytes, Answer, Node};

/// Bytes of a tree before its chaining values: seven of magic, one of version, eight of length.
const HEADER: usize = 16;

/// What is done to a stored file, and what it is called.
#[allow(clippy::type_complexity, reason = "a name and what it does")]
pub(crate) fn damages(object: usize, stored: usize) -> Vec<(String, Box<dyn Fn(&mut Vec<u8>)>)> {
    let mut places = if stored < 100 {
        (0..stored).collect()
    } else {
        let group = object.min(65_536);
        let mut places = vec![0, 1, group - 1, object / 2, object - 1];
        places.extend(object..object + HEADER);
        places.extend([object + HEADER, stored - 1]);
        places.extend((object % 7..stored).step_by(9_973));
        places
    };
    places.retain(|place| *place < stored);
    let mut damages: Vec<(String, Box<dyn Fn(&mut Vec<u8>)>)> = Vec::new();
    for place in places {
        let flip = move |bytes: &mut Vec<u8>| bytes[place] ^= 1 << (place % 8);
        damages.push((format!("byte {place} flipped"), Box::new(flip)));
    }
    damages.push(("emptied".to_owned(), Box::new(Vec::clear)));
    damages.push(("a byte more".to_owned(), Box::new(|bytes| bytes.push(0))));
    damages.push((
        "a byte less".to_owned(),
        Box::new(|bytes| bytes.truncate(bytes.len().saturating_sub(1))),
    ));
    let front = |bytes: &mut Vec<u8>| bytes.rotate_left(1);
    damages.push(("turned by a byte".to_owned(), Box::new(front)));
    let half = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() / 2);
    damages.push(("half".to_owned(), Box::new(half)));
    let zeros = |bytes: &mut Vec<u8>| bytes.fill(0);
    damages.push(("zeros".to_owned(), Box::new(zeros)));
    damages
}

/// The answer to a GET. What is found behind the head may end the connection before that went out.
fn got(node: &Node, path: &str) -> Option<Answer> {
    let mut stream = node.connect();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    Answer::read(&mut stream, false)
}

/// What is damaged is refused, or breaks off before it; whichever, it is counted.
pub(crate) fn is_not_served(node: &Node, path: &str, object: &[u8], what: &str) {
    let found = node.metric("integrity_fail_total");
    let got = got(node, path);
    match got.as_ref().map_or(0, |got| got.status) {
        0 => {}
        502 => assert_eq!(got.unwrap().reason(), "integrity", "{what}"),
        200 => {
            let got = got.unwrap();
            assert!(!got.is_whole, "{what}");
            assert!(object.starts_with(&got.body), "{what}");
        }
        other => panic!("{what}: {other}: {got:?}"),
    }
    assert_eq!(node.metric("integrity_fail_total"), found + 1, "{what}");
}

#[test]
fn damage_anywhere_is_never_served_and_is_healed_by_a_put() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("store");
    let node = Node::start(&[&on_disk(&dir)[..], &["--http.rps", "1000000"]].concat());
    let mut healed = 0;
    for length in [0, 10, 65_536, 65_537, 400_000] {
        let object = bytes(4, length);
        let digest = blake3::hash(&object).to_hex();
        assert_eq!(node.put(&object).status, 201);
        let file: PathBuf = dir.join("objects").join(&*digest);
        let path = format!("/o/b3:{digest}");
        let intact = fs::read(&file).unwrap();
        let used = node.metric("store_used_bytes");
        for (damage, apply) in damages(length, intact.len()) {
            let what = format!("{length} bytes, {damage}");
            let mut stored = intact.clone();
            apply(&mut stored);
            fs::write(&file, &stored).unwrap();
            is_not_served(&node, &path, &object, &what);
            // Whether it is damaged was not asked.
            let last = format!("range: bytes={}-\r\n", length.saturating_sub(1));
            let part = node.get_with(&path, &last);
            if part.status == 206 {
                assert!(part.body == object[length - 1..], "{what}");
            }
            let again = node.put(&object);
            assert_eq!(
                (again.status, &again.json()["existed"]),
                (201, &true.into())
            );
            healed += 1;
            assert_eq!(
                node.metric("store_puts_total{outcome=\"healed\"}"),
                healed,
                "{what}"
            );
            let got = node.get(&path);
            assert!(
                got.status == 200 && got.is_whole && got.body == object,
                "{what}"
            );
            assert!(fs::read(&file).unwrap() == intact, "{what}");
            assert_eq!(node.metric("store_used_bytes"), used, "{what}");
        }
    }
}
