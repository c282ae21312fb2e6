//! Which source wins, what keys say against each other, and what a change of configuration is.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use ryker::config::{Change, ConfigError, ReloadClass, RykerConfig, Source};

use crate::sources::{json, no_file, only, toml, variables, FLAGS, LEVEL, NUMBERS};

fn env_over_file(pairs: &[(&str, &str)], file: &str) -> Result<RykerConfig, ConfigError> {
    let named = [
        ("RYKER_CONFIG_PATH", "ryker.toml"),
        ("RYKER_ALLOW_CONFIG_PATH", "1"),
    ];
    let pairs = pairs
        .iter()
        .chain(&named)
        .map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let read = |path: &Path| {
        assert_eq!(path, Path::new("ryker.toml"));
        Ok(file.as_bytes().to_vec())
    };
    let (result, warnings) = RykerConfig::from_env(pairs, read);
    assert_eq!(warnings, []);
    result
}

#[test]
fn code_wins_over_variables_over_the_file_over_the_defaults() {
    let file =
        "[fairness]\nbatch_messages = 2\nyield_every_n_msgs = 3\n[defaults]\nmailbox_capacity = 4";
    let cfg = env_over_file(
        &[
            ("RYKER_YIELD_EVERY_N", "30"),
            ("RYKER_DEFAULT_MAILBOX_CAPACITY", "40"),
        ],
        file,
    )
    .unwrap()
    .with_overrides(|builder| builder.mailbox_capacity(400))
    .unwrap();
    assert_eq!(cfg.max_msg_bytes(), 65_536);
    assert_eq!(cfg.batch_messages(), 2);
    assert_eq!(cfg.yield_every_n_msgs(), 30);
    assert_eq!(cfg.mailbox_capacity(), 400);
}

#[test]
fn a_bad_value_of_the_file_is_an_error_though_a_variable_overrides_it() {
    let file = "[fairness]\nbatch_messages = 0";
    let (key, what) = only(env_over_file(&[("RYKER_BATCH_MESSAGES", "1")], file));
    assert_eq!((&*key, &*what), ("fairness.batch_messages", "is below 1"));
}

#[test]
fn the_source_is_the_highest_layer_that_had_a_say() {
    let file = || env_over_file(&[], "").unwrap();
    let both = || env_over_file(&[("RYKER_AMNESIA", "0")], "").unwrap();
    let set = |cfg: RykerConfig| cfg.with_overrides(|b| b.amnesia(false)).unwrap();
    let kept = |cfg: RykerConfig| cfg.with_overrides(|b| b).unwrap();
    for (cfg, source) in [
        (RykerConfig::default(), Source::Api),
        (RykerConfig::builder().build().unwrap(), Source::Api),
        (toml(&[]).unwrap(), Source::File),
        (json(&[]).unwrap(), Source::File),
        (variables(&[]).unwrap(), Source::Env),
        (file(), Source::File),
        (both(), Source::Env),
        (kept(file()), Source::File),
        (kept(both()), Source::Env),
        (set(file()), Source::Api),
        (set(both()), Source::Api),
    ] {
        assert_eq!(cfg.source(), source);
        assert_eq!(cfg, RykerConfig::default(), "equal, wherever it came from");
    }
}

#[test]
fn an_error_says_which_source_was_refused() {
    let over_file = |pairs: &[(&str, &str)]| env_over_file(pairs, "x = 1");
    for (result, origin) in [
        (toml(&[("defaults.deadline", "1")]), Source::File),
        (variables(&[("RYKER_AMNESIA", "?")]), Source::Env),
        (over_file(&[]), Source::File),
        (over_file(&[("RYKER_AMNESIA", "1")]), Source::Env),
        (
            RykerConfig::builder().mailbox_capacity(0).build(),
            Source::Api,
        ),
    ] {
        assert_eq!(result.unwrap_err().origin(), origin);
    }
}

#[test]
fn keys_that_contradict_each_other_are_refused_and_both_are_named() {
    let line = |result: Result<RykerConfig, ConfigError>| {
        let error = result.unwrap_err();
        assert_eq!(error.problems().len(), 1, "{error}");
        error.problems()[0].to_string()
    };
    for (result, expected) in [
        (
            variables(&[("RYKER_BACKOFF_BASE_MS", "5001")]),
            "RYKER_BACKOFF_BASE_MS: supervisor.backoff_base_ms: 5001 is above supervisor.backoff_cap_ms, which is 5000 \
             (default)",
        ),
        (
            toml(&[("supervisor.backoff_cap_ms", "99")]),
            "line 1, column 29: supervisor.backoff_cap_ms: 99 is below supervisor.backoff_base_ms, which is 100 (default)",
        ),
        (
            env_over_file(&[("RYKER_YIELD_EVERY_N", "7")], "fairness.batch_messages = 8"),
            "ryker.toml:1:27: fairness.batch_messages: 8 is above fairness.yield_every_n_msgs, which is 7 \
             (RYKER_YIELD_EVERY_N)",
        ),
        (
            variables(&[("RYKER_AMNESIA", "true"), ("RYKER_ZEROIZE", "false")]),
            "RYKER_AMNESIA: amnesia.enabled: true needs amnesia.zeroize_on_drop, which is false (RYKER_ZEROIZE)",
        ),
        (
            variables(&[("RYKER_AMNESIA", "true")])
                .unwrap()
                .with_overrides(|builder| builder.zeroize_on_drop(false)),
            "builder: amnesia.zeroize_on_drop: false contradicts amnesia.enabled, which is true (unchanged)",
        ),
    ] {
        assert_eq!(line(result), expected);
    }
    let equal = RykerConfig::builder()
        .backoff_base(Duration::from_millis(7))
        .backoff_cap(Duration::from_millis(7))
        .batch_messages(9)
        .yield_every_n_msgs(9)
        .amnesia(true)
        .zeroize_on_drop(true);
    equal.validate().unwrap();
}

#[test]
fn a_key_whose_value_is_not_known_contradicts_none() {
    let result = variables(&[("RYKER_BATCH_MESSAGES", "90"), ("RYKER_YIELD_EVERY", "180")]);
    assert_eq!(only(result).1, "unknown variable");
    let result = variables(&[
        ("RYKER_BACKOFF_BASE_MS", "9000"),
        ("RYKER_BACKOFF_CAP_MS", "10s"),
    ]);
    assert_eq!(only(result).0, "supervisor.backoff_cap_ms");
    let result = env_over_file(&[("RYKER_BACKOFF_BASE_MS", "9000")], "backoff_cap_ms 10000");
    assert_eq!(result.unwrap_err().problems()[0].key(), None);
    let guarded = [
        ("RYKER_CONFIG_PATH", "x.toml"),
        ("RYKER_BACKOFF_BASE_MS", "9000"),
    ]
    .map(|(name, value)| (name.into(), value.into()));
    let (result, _) = RykerConfig::from_env(guarded, no_file);
    assert_eq!(
        only(result).1,
        "is refused without RYKER_ALLOW_CONFIG_PATH=1"
    );
}

#[test]
fn a_setter_that_is_called_again_replaces_a_bad_value_and_a_good_one() {
    let builder = RykerConfig::builder();
    let cfg = builder
        .clone()
        .mailbox_capacity(0)
        .mailbox_capacity(5)
        .build()
        .unwrap();
    assert_eq!(cfg.mailbox_capacity(), 5);
    let error = builder
        .mailbox_capacity(5)
        .mailbox_capacity(0)
        .validate()
        .unwrap_err();
    assert_eq!(error.problems()[0].value(), Some("0"));
}

#[test]
fn problems_of_a_builder_are_in_the_order_of_the_keys() {
    let error = RykerConfig::builder()
        .backoff_base(Duration::from_secs(9))
        .rapid_fail_threshold(0)
        .deadline(Duration::ZERO)
        .mailbox_capacity(0)
        .build()
        .unwrap_err();
    let keys: Vec<Option<&str>> = error.problems().iter().map(|p| p.key()).collect();
    let expected = [
        "defaults.mailbox_capacity",
        "defaults.deadline",
        "supervisor.rapid_fail_threshold",
        "supervisor.backoff_base_ms",
    ];
    assert_eq!(keys, expected.map(Some), "a contradiction comes last");
}

#[test]
fn a_difference_lists_every_changed_key_with_its_values_and_when_it_takes_effect() {
    let old = RykerConfig::default();
    assert_eq!(old.diff(&old.clone()), []);
    let new = toml(&[
        ("amnesia.enabled", "true"),
        ("observability.span_level", "\"off\""),
        ("supervisor.backoff_cap_ms", "6000"),
        ("supervisor.rapid_fail_window", "\"90m\""),
        ("defaults.max_msg_bytes", "\"128KiB\""),
        ("defaults.deadline", "\"1500ms\""),
    ])
    .unwrap();
    let lines: Vec<String> = old.diff(&new).iter().map(Change::to_string).collect();
    assert_eq!(
        lines,
        [
            "defaults.max_msg_bytes: 64KiB -> 128KiB (cold)",
            "defaults.deadline: 1s -> 1500ms (hot)",
            "supervisor.backoff_cap_ms: 5000 -> 6000 (next restart)",
            "supervisor.rapid_fail_window: 10s -> 90m (next restart)",
            "observability.span_level: info -> off (hot)",
            "amnesia.enabled: false -> true (cold)",
        ]
    );
}

#[test]
fn every_key_has_its_reload_class() {
    let default = RykerConfig::default();
    let mut classes: Vec<(&str, ReloadClass)> = Vec::new();
    let mut changed = |cfg: RykerConfig, key: &'static str| {
        let changes = default.diff(&cfg);
        let change = changes.iter().find(|change| change.key == key).unwrap();
        classes.push((key, change.reload));
    };
    for number in &NUMBERS {
        // Halving what must not be below another key would contradict it, and doubling the other the other way round.
        let is_upper =
            ["supervisor.backoff_cap_ms", "fairness.yield_every_n_msgs"].contains(&number.key);
        let n = if is_upper {
            number.default * 2
        } else {
            number.default / 2
        };
        changed(
            (number.set)(RykerConfig::builder(), n).build().unwrap(),
            number.key,
        );
    }
    for flag in &FLAGS {
        changed(
            (flag.set)(RykerConfig::builder(), !flag.default)
                .build()
                .unwrap(),
            flag.key,
        );
    }
    changed(variables(&[(LEVEL.1, "trace")]).unwrap(), LEVEL.0);
    classes.sort_by_key(|(key, _)| *key);
    use ReloadClass::{Cold, Hot, NextRestart};
    assert_eq!(
        classes,
        [
            ("amnesia.enabled", Cold),
            ("amnesia.zeroize_on_drop", Cold),
            ("defaults.deadline", Hot),
            ("defaults.mailbox_capacity", Cold),
            ("defaults.max_msg_bytes", Cold),
            ("fairness.batch_messages", Hot),
            ("fairness.yield_every_n_msgs", Hot),
            ("observability.enable_metrics", Hot),
            ("observability.queue_depth_sampling", Hot),
            ("observability.span_level", Hot),
            ("supervisor.backoff_base_ms", NextRestart),
            ("supervisor.backoff_cap_ms", NextRestart),
            ("supervisor.decorrelated_jitter", NextRestart),
            ("supervisor.rapid_fail_threshold", NextRestart),
            ("supervisor.rapid_fail_window", NextRestart),
        ]
    );
}
