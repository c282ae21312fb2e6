//! Did-you-mean, measured: every single edit of every name.

#[path = "fixture/service.rs"]
mod service;

use ron_config::{Loader, Schema};
use service::Service;
use tempfile::TempDir;

/// Every word at edit distance 1: deletions, neighbours swapped, and substitutions and insertions from `letters`.
fn typos(word: &str, letters: &str) -> Vec<String> {
    let chars: Vec<char> = word.chars().collect();
    let mut typos = Vec::new();
    for i in 0..=chars.len() {
        let (head, tail) = chars.split_at(i);
        let mut push = |middle: &[char], skip: usize| {
            let tail = tail.iter().skip(skip);
            let typo: String = head.iter().chain(middle).chain(tail).collect();
            if typo != word && !typo.is_empty() {
                typos.push(typo);
            }
        };
        for letter in letters.chars() {
            push(&[letter], 0);
            if i < chars.len() {
                push(&[letter], 1);
            }
        }
        if i < chars.len() {
            push(&[], 1);
        }
        if i + 1 < chars.len() {
            push(&[chars[i + 1], chars[i]], 2);
        }
    }
    typos.sort();
    typos.dedup();
    typos
}

fn assert_nearly_all(right: usize, total: usize) {
    let rate = right as f64 / total as f64;
    assert!(
        total > 1_000 && rate >= 0.95,
        "{right} of {total} suggestions right"
    );
}

#[test]
fn at_least_95_percent_of_single_typos_in_variables_get_the_right_suggestion() {
    let names = Schema::<Service>::of().unwrap().env_names();
    let (mut right, mut total) = (0, 0);
    for name in names.iter().filter(|name| name.starts_with("RON_")) {
        for typo in typos(&name["RON_".len()..], "AEMX_") {
            let typo = format!("RON_{typo}");
            if names.contains(&typo) {
                continue;
            }
            let errors = Loader::<Service>::new("svc")
                .env([(typo.as_str(), "1")])
                .load()
                .unwrap_err();
            total += 1;
            let error = errors.iter().next().unwrap();
            right += usize::from(error.did_you_mean() == Some(name));
        }
    }
    assert_nearly_all(right, total);
}

#[test]
fn at_least_95_percent_of_single_typos_in_files_get_the_right_suggestion() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("svc.toml");
    let schema = Schema::<Service>::of().unwrap();
    let paths = schema.paths();
    let (mut right, mut total) = (0, 0);
    for path in &paths {
        let (section, key) = path.rsplit_once('.').unwrap_or(("", path));
        // All typos of one key in one file: one report tells of them all, within its limit.
        for typos in typos(key, "aemx_").chunks(90) {
            let typos: Vec<String> = typos
                .iter()
                .map(|typo| {
                    if section.is_empty() {
                        typo.clone()
                    } else {
                        format!("{section}.{typo}")
                    }
                })
                .filter(|typo| !paths.contains(&typo.as_str()))
                .filter(|typo| typo.bytes().next().is_some_and(|b| b.is_ascii_alphabetic()))
                .collect();
            let lines: Vec<String> = typos.iter().map(|typo| format!("{typo} = 1\n")).collect();
            std::fs::write(&file, lines.concat()).unwrap();
            let errors = Loader::<Service>::new("svc")
                .file(&file)
                .load()
                .unwrap_err();
            for typo in typos {
                let error = errors.iter().find(|error| error.key() == typo);
                let error = error.unwrap_or_else(|| panic!("{typo} not in {errors}"));
                total += 1;
                right += usize::from(error.did_you_mean() == Some(path));
            }
        }
    }
    assert_nearly_all(right, total);
}

#[test]
fn a_key_in_the_wrong_section_is_suggested_where_it_belongs() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("svc.toml");
    std::fs::write(&file, "[observability]\ncapacity = 8\n").unwrap();
    let errors = Loader::<Service>::new("svc")
        .file(&file)
        .load()
        .unwrap_err();
    let error = errors.iter().next().unwrap();
    assert_eq!(error.did_you_mean(), Some("bus.capacity"));
}

#[test]
fn unknown_flags_and_unknown_keys_to_explain_are_suggested_too() {
    let errors = Loader::<Service>::new("svc")
        .flags([("--metrics-adr", "127.0.0.1:1")])
        .load()
        .unwrap_err();
    let error = errors.iter().next().unwrap();
    assert_eq!(error.did_you_mean(), Some("--metrics-addr"));

    let loaded = Loader::<Service>::new("svc").load().unwrap();
    let unknown = loaded.explain("bus.capacty").unwrap_err();
    assert_eq!(unknown.did_you_mean(), Some("bus.capacity"));
    assert_eq!(
        unknown.to_string(),
        "no key `bus.capacty` in the configuration of svc; did you mean `bus.capacity`?"
    );
}
