//! Variables: guards of the file, former names, strange names, and the environment of a real process.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

use ryker::config::{ErrorKind, RykerConfig, Warning};
use tempfile::TempDir;

use crate::sources::{only, variables, with_warnings};

const ALLOWED: (&str, &str) = ("RYKER_ALLOW_CONFIG_PATH", "1");
const NAMED: (&str, &str) = ("RYKER_CONFIG_PATH", "ryker.toml");

#[test]
fn a_file_is_read_only_where_it_is_allowed() {
    let production = |stage| format!("is refused in production, which {stage} says this is");
    let unallowed = "is refused without RYKER_ALLOW_CONFIG_PATH=1";
    for (pairs, what) in [
        (vec![NAMED], unallowed.to_owned()),
        (vec![NAMED, (ALLOWED.0, "0")], unallowed.to_owned()),
        (
            vec![NAMED, (ALLOWED.0, "yes")],
            "is neither 0 nor 1".to_owned(),
        ),
        (vec![(ALLOWED.0, "")], "is neither 0 nor 1".to_owned()),
        (vec![ALLOWED, (NAMED.0, "")], "is empty".to_owned()),
        (
            vec![NAMED, ALLOWED, ("APP_ENV", "production")],
            production("APP_ENV"),
        ),
        (
            vec![NAMED, ALLOWED, ("RUST_ENV", "production")],
            production("RUST_ENV"),
        ),
        (
            vec![NAMED, ALLOWED, ("APP_ENV", "Production ")],
            production("APP_ENV"),
        ),
        (
            vec![
                NAMED,
                ALLOWED,
                ("APP_ENV", "dev"),
                ("RUST_ENV", "production"),
            ],
            production("RUST_ENV"),
        ),
    ] {
        let result = variables(&pairs);
        assert_eq!(result.as_ref().unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(only(result).1, what, "{pairs:?}");
    }
    for pairs in [
        vec![ALLOWED],
        vec![ALLOWED, ("APP_ENV", "production")],
        vec![("APP_ENV", "production"), ("RUST_ENV", "production")],
    ] {
        assert_eq!(variables(&pairs), Ok(RykerConfig::default()), "{pairs:?}");
    }
    for stage in ["dev", "staging", "non-production", ""] {
        let pairs =
            [NAMED, ALLOWED, ("APP_ENV", stage)].map(|(name, value)| (name.into(), value.into()));
        let read = |path: &Path| {
            assert_eq!(path, Path::new("ryker.toml"));
            Ok(b"[defaults]\nmailbox_capacity = 7".to_vec())
        };
        let (cfg, _) = RykerConfig::from_env(pairs, read);
        assert_eq!(cfg.unwrap().mailbox_capacity(), 7, "{stage}");
    }
}

#[test]
fn the_former_name_of_the_jitter_works_with_a_warning_and_the_new_one_wins() {
    let (new, old) = ("RYKER_DECORRELATED_JITTER", "RYKER_JITTER");
    let warning = |overridden| Warning::Deprecated {
        old,
        new,
        overridden,
    };
    for (pairs, jitter, warnings) in [
        (vec![(old, "false")], false, vec![warning(false)]),
        (
            vec![(old, "false"), (new, "true")],
            true,
            vec![warning(true)],
        ),
        (
            vec![(new, "false"), (old, "true")],
            false,
            vec![warning(true)],
        ),
        (vec![(new, "false")], false, vec![]),
    ] {
        let (cfg, warned) = with_warnings(&pairs);
        assert_eq!(cfg.unwrap().decorrelated_jitter(), jitter, "{pairs:?}");
        assert_eq!(warned, warnings, "{pairs:?}");
    }
    let texts = [warning(false), warning(true)].map(|warning| warning.to_string());
    assert_eq!(
        texts,
        [
            "RYKER_JITTER is deprecated; set RYKER_DECORRELATED_JITTER instead",
            "RYKER_JITTER is deprecated and has no effect beside RYKER_DECORRELATED_JITTER",
        ]
    );
}

#[test]
fn a_name_that_looks_like_ours_is_an_error_and_a_stranger_a_warning() {
    for (name, suggestion) in [
        ("RYKER_AMNESA", "RYKER_AMNESIA"),
        ("RYKER_AMNESIA_ENABLED", "RYKER_AMNESIA"),
        ("RYKER_ZEROIZE_ON_DROP", "RYKER_ZEROIZE"),
        ("RYKER_MAILBOX_CAPACITY", "RYKER_DEFAULT_MAILBOX_CAPACITY"),
        ("RYKER_DEADLINE", "RYKER_DEFAULT_DEADLINE"),
        ("RYKER_DEFAULT_DEADLINE_MS", "RYKER_DEFAULT_DEADLINE"),
        ("RYKER_SUPERVISOR_BACKOFF_BASE_MS", "RYKER_BACKOFF_BASE_MS"),
        ("RYKER_BACKOFF_BASE", "RYKER_BACKOFF_BASE_MS"),
        ("RYKER_YIELD_EVERY_N_MSGS", "RYKER_YIELD_EVERY_N"),
        ("RYKER_CONFIG_PAHT", "RYKER_CONFIG_PATH"),
    ] {
        let error = variables(&[(name, "1")]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Parse);
        assert_eq!(
            error.problems()[0].to_string(),
            format!("{name}: unknown variable; did you mean `{suggestion}`?")
        );
    }
    let strangers = ["RYKER_", "RYKER_ENABLED", "RYKER_HOST_PORT"];
    let (cfg, warnings) = with_warnings(&strangers.map(|name| (name, "x")));
    assert_eq!(cfg, Ok(RykerConfig::default()));
    let warned: Vec<&str> = warnings.iter().map(Warning::variable).collect();
    assert_eq!(warned, strangers);
    assert_eq!(
        warnings[2].to_string(),
        "RYKER_HOST_PORT is no variable of ryker and has no effect"
    );
    let others = [("RYKERS", "x"), ("ryker_amnesia", "x"), ("PATH", "x")];
    assert_eq!(variables(&others), Ok(RykerConfig::default()));
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_not_text_is_an_error_that_names_it() {
    use std::os::unix::ffi::OsStringExt;
    let broken = || OsString::from_vec(vec![b'1', 0xff]);
    let pairs = [
        ("RYKER_AMNESIA".into(), broken()),
        ("PATH".into(), broken()),
    ];
    let (result, _) = RykerConfig::from_env(pairs, |path| fs::read(path));
    assert_eq!(
        result.unwrap_err().to_string(),
        "1 problem in the configuration of ryker\n\
         RYKER_AMNESIA: amnesia.enabled: \"1\u{fffd}\" is not UTF-8 text; expected true or false"
    );
    let mut name = OsString::from("RYKER_");
    name.push(broken());
    let (result, warnings) = RykerConfig::from_env([(name, "1".into())], |path| fs::read(path));
    assert_eq!(result, Ok(RykerConfig::default()));
    assert_eq!(warnings[0].variable(), "RYKER_1\u{fffd}");
    // A path need not be text.
    let pairs = [
        (
            "RYKER_CONFIG_PATH".into(),
            OsString::from_vec(b"/\xff.toml".to_vec()),
        ),
        (ALLOWED.0.into(), ALLOWED.1.into()),
    ];
    let (result, _) = RykerConfig::from_env(pairs, |_| Ok(b"amnesia.enabled = true".to_vec()));
    assert!(result.unwrap().amnesia());
}

/// Set in the child, which is this test binary again: tests do not race on the environment.
const CHILD: &str = "CONFIG_TEST_CHILD";

/// What `from_env_validated` logs and returns in a process with these variables alone.
fn in_a_process(test: &str, pairs: &[(&str, &str)]) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env_clear()
        .envs(pairs.iter().copied())
        .env(CHILD, "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn child() {
    let subscriber = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .without_time()
        .finish();
    let result = tracing::subscriber::with_default(subscriber, RykerConfig::from_env_validated);
    match result {
        Ok(cfg) => eprintln!("ok {} {}", cfg.source(), cfg.mailbox_capacity()),
        Err(error) => eprintln!("err {} {error}", error.origin()),
    }
}

#[test]
fn the_environment_of_a_process_is_read_and_warnings_are_logged() {
    if std::env::var_os(CHILD).is_some() {
        return child();
    }
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("ryker.toml");
    fs::write(&path, "[defaults]\nmailbox_capacity = 9").unwrap();
    let said = in_a_process(
        "environment::the_environment_of_a_process_is_read_and_warnings_are_logged",
        &[
            ("RYKER_JITTER", "false"),
            ("RYKER_COLOUR", "red"),
            ("RYKER_CONFIG_PATH", path.to_str().unwrap()),
            ALLOWED,
        ],
    );
    assert_eq!(
        said,
        " WARN ryker::config: RYKER_JITTER is deprecated; set RYKER_DECORRELATED_JITTER instead \
         crate=\"ryker\" event=\"config_warning\" variable=\"RYKER_JITTER\"\n \
         WARN ryker::config: RYKER_COLOUR is no variable of ryker and has no effect crate=\"ryker\" \
         event=\"config_warning\" variable=\"RYKER_COLOUR\"\n\
         ok env 9\n"
    );
}

#[test]
fn a_refused_environment_of_a_process_is_logged_and_blamed_on_its_start() {
    if std::env::var_os(CHILD).is_some() {
        return child();
    }
    let said = in_a_process(
        "environment::a_refused_environment_of_a_process_is_logged_and_blamed_on_its_start",
        &[
            ("RYKER_DEFAULT_MAILBOX_CAPACITY", "0"),
            ("RYKER_AMNESIA", "maybe"),
        ],
    );
    let problems = "2 problems in the configuration of ryker\n\
        RYKER_DEFAULT_MAILBOX_CAPACITY: defaults.mailbox_capacity: \"0\" is below 1; expected a whole number from 1 to \
        1048576\n\
        RYKER_AMNESIA: amnesia.enabled: \"maybe\" is neither true nor false; expected true or false";
    assert_eq!(
        said,
        format!(
            "ERROR ryker::config: {problems} crate=\"ryker\" event=\"config_rejected\" source=\"startup\" \
             error=\"parse\"\nerr startup {problems}\n"
        )
    );
}
