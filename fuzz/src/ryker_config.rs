//! Configurations of ryker: any text as TOML, as JSON and as variables.

use std::ffi::OsString;
use std::path::Path;

use ryker::config::{ConfigError, Source};
use ryker::RykerConfig;

/// Takes a text; its lines are variables, `NAME=VALUE`, and the whole is the file that a variable may name.
pub fn ryker_config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    judge_text(&text, RykerConfig::from_toml(&text));
    judge_text(&text, RykerConfig::from_json(&text));
    variables(bytes, &text);
}

/// What is read can be written and read again; what is refused has a place in the text.
fn judge_text(text: &str, result: Result<RykerConfig, ConfigError>) {
    judge(&result);
    let Err(error) = result else { return };
    assert_eq!(error.origin(), Source::File);
    let lines = 1 + text.matches('\n').count();
    for problem in error.problems() {
        let place = problem.place();
        if place == "text" {
            // The number of those beyond the first 20.
            assert!(problem.what().contains(" more "), "{problem}");
            continue;
        }
        let numbers = place.strip_prefix("line ");
        let numbers = numbers.and_then(|rest| rest.split_once(", column "));
        let (line, column) = numbers.unwrap_or_else(|| panic!("no place: {problem}"));
        let line: usize = line.parse().expect("a number");
        let column: usize = column.parse().expect("a number");
        assert!((1..=lines).contains(&line), "{problem}");
        let width = text.split('\n').nth(line - 1).unwrap_or_default();
        assert!(
            (1..=width.chars().count() + 1).contains(&column),
            "{problem}"
        );
    }
}

fn judge(result: &Result<RykerConfig, ConfigError>) {
    match result {
        Ok(config) => {
            let again = RykerConfig::from_toml(&config.to_toml());
            assert_eq!(again.as_ref(), Ok(config));
            assert_eq!(config.to_builder().build().as_ref(), Ok(config));
            assert!(config.batch_messages() <= config.yield_every_n_msgs());
            assert!(config.backoff_base() <= config.backoff_cap());
            assert!(!config.amnesia() || config.zeroize_on_drop());
        }
        Err(error) => {
            assert!(!error.problems().is_empty());
            for problem in error.problems() {
                assert!(!problem.place().is_empty() && !problem.what().is_empty());
                assert!(!problem.to_string().contains('\n'), "{problem:?}");
                assert!(problem.kind() >= error.kind());
            }
            let lines = error.to_string().lines().count();
            assert_eq!(lines, 1 + error.problems().len(), "{error}");
        }
    }
}

/// The variables decide, and not their order or what else there is.
fn variables(bytes: &[u8], text: &str) {
    let mut pairs: Vec<(OsString, OsString)> = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.trim_end().into(), value.into()))
        .collect();
    pairs.sort();
    pairs.dedup_by(|a, b| a.0 == b.0);
    let read = |_: &Path| Ok(bytes.to_vec());
    let (result, warnings) = RykerConfig::from_env(pairs.clone(), read);
    judge(&result);
    if let Err(error) = &result {
        for problem in error.problems() {
            let place = problem.place();
            let is_variable = pairs.iter().any(|(name, _)| *place == **name);
            let path = pairs.iter().find(|(name, _)| name == "RYKER_CONFIG_PATH");
            let is_file = path.is_some_and(|(_, path)| place.starts_with(&*path.to_string_lossy()));
            assert!(is_variable || is_file, "no place: {problem}");
        }
    }
    for warning in &warnings {
        assert!(pairs.iter().any(|(name, _)| *warning.variable() == **name));
    }
    pairs.reverse();
    pairs.push(("PATH".into(), text.into()));
    let again = RykerConfig::from_env(pairs, read);
    assert_eq!(again, (result, warnings));
}
