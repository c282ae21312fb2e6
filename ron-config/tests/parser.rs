//! Whatever stands in a file, loading it ends in a configuration or in a report.

#[path = "fixture/service.rs"]
mod service;

use std::path::Path;

use proptest::prelude::*;
use ron_config::{ConfigErrors, Loaded, Loader};
use service::Service;
use tempfile::TempDir;

const TOML: &str = r#"max_conns = 5
tags = ["a", "b"]
labels = { "x y" = "1", z = """two
lines""" }
[bus]
capacity = 0x80
[limits]
ratio = 1e1
body = '4KiB'
[auth]
token = "canary-token"
keys = ["canary-one", "canary-two"]
[[child]]
name = "one"
command = "run"
password = "canary-word"
env = { A = "b" }
stop.grace = "1s"
"#;

const JSON: &str = r#"{"max_conns": 5, "tags": ["a", "b"], "labels": {"x y": "1"},
 "bus": {"capacity": 128}, "limits": {"ratio": 10.0, "body": "4KiB"},
 "auth": {"token": "canary-token", "keys": ["canary-one"]},
 "child": [{"name": "one", "command": "run", "password": "canary-word",
  "env": {"A": "b"}, "stop": {"grace": "1s"}}]}"#;

fn load(path: &Path, text: &[u8]) -> Result<Loaded<Service>, ConfigErrors> {
    std::fs::write(path, text).unwrap();
    // A file just written is waited for; an old one is read at once.
    let past = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(past).unwrap();
    Loader::<Service>::new("svc").file(path).load()
}

/// Loads, and shows everything there is to show: none of it may panic or hold a secret.
fn survive(dir: &TempDir, name: &str, text: &[u8]) {
    let mut keys = Vec::new();
    let shown = match load(&dir.path().join(name), text) {
        Ok(loaded) => {
            let printed = loaded.print();
            format!("{printed}{}{:?}", printed.to_json(), loaded.snapshot())
        }
        Err(errors) => {
            let unknown = errors.iter().filter(|error| error.what() == "unknown key");
            keys.extend(unknown.map(|error| error.key().to_owned()));
            format!("{errors}{}{errors:?}", errors.to_json())
        }
    };
    for fragment in ["canary-token", "canary-one", "canary-two", "canary-word"] {
        // A mutation may make a key of a secret in a file whose syntax is whole; such keys are shown.
        let is_key = keys.iter().any(|key| key.contains(fragment));
        assert!(is_key || !shown.contains(fragment), "{shown}");
    }
}

#[test]
fn both_syntaxes_give_the_same_configuration_and_places() {
    let dir = TempDir::new().unwrap();
    let toml = load(&dir.path().join("a.toml"), TOML.as_bytes()).unwrap();
    let json = load(&dir.path().join("a.json"), JSON.as_bytes()).unwrap();
    assert_eq!(toml.snapshot().children, json.snapshot().children);
    assert_eq!(toml.snapshot().token, json.snapshot().token);
    let place = |loaded: &Loaded<Service>, key| {
        let told = loaded.explain(key).unwrap();
        told.origin()
            .place()
            .rsplit_once("/a.")
            .unwrap()
            .1
            .to_string()
    };
    assert_eq!(place(&toml, "bus.capacity"), "toml:6:12");
    assert_eq!(place(&json, "bus.capacity"), "json:2:22");
    assert_eq!(place(&toml, "child[0].stop.grace"), "toml:18:14");
    assert_eq!(place(&json, "child[0].stop.grace"), "json:5:40");
}

#[test]
fn json_faults_are_located() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.json");
    for (text, place, problem) in [
        ("{\n \"max_conns\": 5,\n}", "3:1", "key must be a string"),
        ("{\n \"max_conns\": ", "2:14", "EOF"),
        ("[1]", "1:1", "is not an object"),
        ("", "1:1", "EOF"),
        (
            "{\"tags\": [\"a\"],\n  \"max_conns\": 1, \"max_conns\": 2}",
            "2:19",
            "twice",
        ),
        (
            "{\"bus\": {\"max_lag\": 1,\n\"max_lag\": 2}}",
            "2:1",
            "twice",
        ),
        ("{\"max_conns\": null}", "1:15", "found null"),
        (
            "{\"max_conns\": 99999999999999999999999999999999999999999}",
            "1:15",
            "beyond 128 bits",
        ),
        (
            "{\"\u{e9}\u{e9}\": \"\u{e9}\", \"x\": 1}",
            "1:13",
            "unknown key",
        ),
        (
            "{\"tags\": [\"\\ud800\"]}",
            "1:18",
            "unexpected end of hex escape",
        ),
    ] {
        let errors = load(&path, text.as_bytes()).unwrap_err();
        let found = errors.iter().any(|error| {
            error.place().contains(&format!("a.json:{place}")) && error.what().contains(problem)
        });
        assert!(found, "{text}: {errors}");
    }
}

#[test]
fn a_broken_line_of_toml_hides_no_other_defect() {
    let dir = TempDir::new().unwrap();
    let text = "max_conns = = 5\ntags = 3\n[bus\nmax_lag = \"x\"\n";
    let errors = load(&dir.path().join("a.toml"), text.as_bytes()).unwrap_err();
    let lines: Vec<String> = errors
        .iter()
        .map(|e| {
            e.place()
                .rsplit_once(".toml:")
                .unwrap()
                .1
                .split(':')
                .next()
                .unwrap()
                .to_string()
        })
        .collect();
    assert!(lines.contains(&"1".into()), "{errors}");
    assert!(lines.contains(&"2".into()), "{errors}");
    assert!(lines.contains(&"3".into()), "{errors}");
    let unique: std::collections::BTreeSet<_> = lines.iter().collect();
    assert_eq!(unique.len(), lines.len(), "one report per line: {errors}");
}

#[test]
fn nesting_without_end_is_a_defect_and_no_overflow() {
    let dir = TempDir::new().unwrap();
    for (name, open, close) in [("a.json", "[", "]"), ("b.json", "{\"a\":", "}")] {
        let text = format!(
            "{{\"tags\": {}1{}}}",
            open.repeat(5_000),
            close.repeat(5_000)
        );
        let errors = load(&dir.path().join(name), text.as_bytes()).unwrap_err();
        assert!(errors.to_string().contains("nests deeper"), "{errors}");
    }
    for (open, close) in [("[", "]"), ("{a=", "}")] {
        let text = format!("tags = {}1{}", open.repeat(5_000), close.repeat(5_000));
        assert!(load(&dir.path().join("c.toml"), text.as_bytes()).is_err());
    }
    let text = format!("{}x = 1", "a.".repeat(5_000));
    assert!(load(&dir.path().join("d.toml"), text.as_bytes()).is_err());
    let text = format!("[{}x]\ny = 1", "a.".repeat(5_000));
    assert!(load(&dir.path().join("e.toml"), text.as_bytes()).is_err());
}

/// A valid text with a few bytes deleted, doubled or replaced.
fn mutated(text: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let edit = (
        any::<prop::sample::Index>(),
        0..3u8,
        any::<u8>(),
        "[=\\[\\]{}\"'\n.,#a0 \\\\]",
    );
    prop::collection::vec(edit, 1..6).prop_map(move |edits| {
        let mut bytes = text.as_bytes().to_vec();
        for (at, what, raw, structural) in edits {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            let byte = if raw < 8 {
                raw
            } else {
                structural.as_bytes()[0]
            };
            match what {
                0 => {
                    bytes.remove(at);
                }
                1 => bytes.insert(at, byte),
                _ => bytes[at] = byte,
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200), json: bool) {
        let dir = TempDir::new().unwrap();
        survive(&dir, if json { "a.json" } else { "a.toml" }, &bytes);
    }

    #[test]
    fn any_text_of_toml_signs_is_survived(text in "[a-c\\[\\]{}=.,\"'#0-9 \n\t:\\\\_+-]{0,80}") {
        survive(&TempDir::new().unwrap(), "a.toml", text.as_bytes());
    }

    #[test]
    fn mutations_of_a_good_toml_file_are_survived_and_leak_nothing(bytes in mutated(TOML)) {
        survive(&TempDir::new().unwrap(), "a.toml", &bytes);
    }

    #[test]
    fn mutations_of_a_good_json_file_are_survived_and_leak_nothing(bytes in mutated(JSON)) {
        survive(&TempDir::new().unwrap(), "a.json", &bytes);
    }
}
