//! Files: everything wrong in one text, places, names, limits, and what is no file.

use std::fs;
use std::path::Path;

use ryker::config::{ConfigError, ErrorKind, RykerConfig, Source};
use tempfile::TempDir;

use crate::sources::only;

fn text(error: &ConfigError, dir: &Path) -> String {
    error.to_string().replace(&dir.display().to_string(), "DIR")
}

#[test]
fn everything_wrong_is_in_one_text() {
    let dir = TempDir::new().unwrap();
    for (name, content, golden) in [
        (
            "bad.toml",
            include_str!("bad.toml"),
            include_str!("bad_toml.txt"),
        ),
        (
            "bad.json",
            include_str!("bad.json"),
            include_str!("bad_json.txt"),
        ),
        (
            "syntax.toml",
            include_str!("syntax.toml"),
            include_str!("syntax_toml.txt"),
        ),
    ] {
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        let env = [
            ("RYKER_ZEROIZE", "no"),
            ("RYKER_DEFAULT_DEDLINE", "2s"),
            ("RYKER_DEFAULT_DEADLINE", "2"),
            ("RYKER_BATCH_MESSAGES", "100"),
            ("RYKER_ALLOW_CONFIG_PATH", "1"),
        ]
        .map(|(name, value)| (name.into(), value.into()));
        let named = ("RYKER_CONFIG_PATH".into(), path.clone().into());
        let (result, _) =
            RykerConfig::from_env(env.into_iter().chain([named]), |path| fs::read(path));
        assert_eq!(text(&result.unwrap_err(), dir.path()) + "\n", golden);
    }
}

#[test]
fn columns_count_characters() {
    let error = RykerConfig::from_toml("# \u{e9}\n\"\u{e9}\u{1f980}\" = 1").unwrap_err();
    assert_eq!(error.problems()[0].place(), "line 2, column 1");
    let error = RykerConfig::from_json("{\"\u{e9}\": {}, \"defaults\": 1}").unwrap_err();
    let places: Vec<&str> = error
        .problems()
        .iter()
        .map(|problem| problem.place())
        .collect();
    assert_eq!(places, ["line 1, column 2", "line 1, column 23"]);
}

#[test]
fn what_was_meant_is_suggested() {
    for (file, suggestion) in [
        ("[defaults]\ndedline = 1", "defaults.deadline"),
        ("mailbox_capacity = 1", "defaults.mailbox_capacity"),
        ("[fairness]\ndeadline = 1", "defaults.deadline"),
        (
            "[fairness]\nyield_every_n = 1",
            "fairness.yield_every_n_msgs",
        ),
        ("[supervisor]\nbackoff_cap = 1", "supervisor.backoff_cap_ms"),
        ("[defaults]\ndeadline_ms = 1", "defaults.deadline"),
        ("\"defaults.deadline\" = 1", "defaults.deadline"),
        ("[default]\n", "defaults"),
        ("[supervisors]\n", "supervisor"),
    ] {
        let error = RykerConfig::from_toml(file).unwrap_err();
        let problem = &error.problems()[0];
        assert_eq!(problem.kind(), ErrorKind::Parse);
        assert_eq!(problem.suggestion(), Some(suggestion), "{file}");
    }
    let error = RykerConfig::from_toml("[bus]\n[defaults]\nfoo = 1").unwrap_err();
    assert_eq!(
        error.to_string(),
        "2 problems in the configuration of ryker\n\
         line 1, column 2: bus: unknown key; expected one of defaults, supervisor, fairness, observability, amnesia\n\
         line 3, column 1: defaults.foo: unknown key"
    );
}

#[test]
fn repeated_keys_are_refused_in_both_syntaxes() {
    for result in [
        RykerConfig::from_toml("[amnesia]\nenabled = true\nenabled = true"),
        RykerConfig::from_json(r#"{"amnesia": {"enabled": true, "enabled": true}}"#),
        RykerConfig::from_json(r#"{"amnesia": {}, "amn\u0065sia": {}}"#),
    ] {
        assert_eq!(only(result).1, "duplicate key");
    }
}

#[test]
fn what_is_no_object_of_json_is_refused() {
    for (file, what) in [
        ("", "EOF while parsing a value"),
        ("[]", "is not an object"),
        ("7", "is not an object"),
        ("null", "is not an object"),
        ("{} {}", "trailing characters"),
        ("{\"defaults\": {},}", "key must be a string"),
        ("\u{feff}{}", "expected value"),
        (
            r#"{"amnesia": {"enabled": "\ud800"}}"#,
            "is not Unicode text",
        ),
        (r#"{"\ud800": {}}"#, "is not Unicode text"),
    ] {
        let error = RykerConfig::from_json(file).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Parse);
        assert_eq!(error.problems()[0].what(), what, "{file}");
    }
    let deep = "[".repeat(100_000);
    assert!(RykerConfig::from_json(&deep).is_err());
    assert!(RykerConfig::from_toml(&format!("x = {deep}")).is_err());
}

#[test]
fn a_file_of_nothing_but_mistakes_is_a_short_error() {
    let many: String = (0..100_000).map(|n| format!("key{n} = {n}\n")).collect();
    let error = RykerConfig::from_toml(&many).unwrap_err();
    assert_eq!(error.problems().len(), 21);
    assert_eq!(
        error.problems()[20].to_string(),
        "text: 99980 more unknown keys"
    );
    let error = RykerConfig::from_toml(&"!\n".repeat(1 << 18)).unwrap_err();
    assert_eq!(error.problems().len(), 21);
    let error = RykerConfig::from_json(&format!("{{{}\"a\":1}}", "\"amnesia\":1,".repeat(100_000)))
        .unwrap_err();
    assert_eq!(error.problems().len(), 21);
}

#[test]
fn a_long_value_is_cut() {
    let long = format!("[defaults]\ndeadline = \"{}\"", "\u{e9}".repeat(61));
    let error = RykerConfig::from_toml(&long).unwrap_err();
    let shown = format!("\"{}\"...", "\u{e9}".repeat(60));
    assert_eq!(error.problems()[0].value(), Some(&*shown));
}

#[test]
fn a_file_is_read_by_its_extension() {
    let dir = TempDir::new().unwrap();
    let file = |name: &str, content: &str| {
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        RykerConfig::from_file(&path)
    };
    let toml = "[defaults]\nmailbox_capacity = 9";
    let json = r#"{"defaults": {"mailbox_capacity": 9}}"#;
    for (name, content) in [("a.toml", toml), ("a.TOML", toml), ("a.json", json)] {
        let cfg = file(name, content).unwrap();
        assert_eq!((cfg.mailbox_capacity(), cfg.source()), (9, Source::File));
    }
    for name in ["a.yaml", "toml", "a.toml.bak"] {
        let error = file(name, toml).unwrap_err();
        assert_eq!(
            text(&error, dir.path()).lines().nth(1).unwrap(),
            format!("DIR/{name}: is neither .toml nor .json")
        );
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}

#[test]
fn what_cannot_be_read_says_why() {
    let dir = TempDir::new().unwrap();
    let refused = |name: &str| {
        let error = RykerConfig::from_file(dir.path().join(name)).unwrap_err();
        assert_eq!(
            (error.kind(), error.origin()),
            (ErrorKind::Io, Source::File)
        );
        error.problems()[0].what().to_owned()
    };
    fs::create_dir(dir.path().join("dir.toml")).unwrap();
    assert_eq!(refused("dir.toml"), "cannot be read: it is a directory");
    let missing = refused("none.toml");
    assert!(
        missing.starts_with("cannot be read: No such file"),
        "{missing}"
    );
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("/dev/zero", dir.path().join("zero.toml")).unwrap();
        assert_eq!(
            refused("zero.toml"),
            "cannot be read: it is not a regular file"
        );
    }
}

#[test]
fn a_file_at_the_limit_is_read_and_one_above_it_is_not() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("big.toml");
    let mut content = format!("[amnesia]\nenabled = true\n#{}", "x".repeat(1 << 20));
    content.truncate(1 << 20);
    fs::write(&path, &content).unwrap();
    assert!(RykerConfig::from_file(&path).unwrap().amnesia());
    content.push('x');
    fs::write(&path, &content).unwrap();
    let error = RykerConfig::from_file(&path).unwrap_err();
    assert_eq!(
        error.problems()[0].what(),
        "cannot be read: it is larger than 1 MiB"
    );
}

#[test]
fn a_byte_that_is_not_utf_8_is_located() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("latin.toml");
    fs::write(&path, b"[defaults]\n# \xc3\xa9 \xe9\n").unwrap();
    let error = RykerConfig::from_file(&path).unwrap_err();
    assert_eq!(
        text(&error, dir.path()),
        "1 problem in the configuration of ryker\nDIR/latin.toml:2:5: is not UTF-8 text"
    );
}
