//! The Rust version the libraries promise, against what their dependencies declare.
//!
//! A copy of the libraries alone, without dev-dependencies and without the features outside the promise, gets a lock
//! of its own; no dependency in it may declare a newer Rust. Where that toolchain is installed, the lock is built too.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use toml::{Table, Value};

use crate::workspace::{declared_rust_versions, output, toolchains, Workspace};
use crate::Report;

/// What every library declares.
const RUST_VERSION: &str = "1.80";
const EDITION: &str = "2021";
/// Library and feature that may need a newer Rust.
const OUTSIDE: [(&str, &str); 1] = [("ron-kernel", "kameo")];
/// Dependencies that declare no Rust version, one `name reason` a line.
const UNPROVEN: &str = "xtask/msrv-unproven.txt";

/// The root manifest with the libraries as its only members.
fn reduced_root(mut root: Table, members: &[&str]) -> Table {
    if let Some(Value::Table(workspace)) = root.get_mut("workspace") {
        let members = members.iter().map(|dir| Value::from(*dir)).collect();
        workspace.insert("members".into(), Value::Array(members));
        workspace.remove("exclude");
    }
    root
}

/// A library's manifest as its users see it: no dev-dependencies, no targets but its own code, none of `outside`.
fn reduced_member(mut manifest: Table, outside: &[&str]) -> Table {
    for key in ["dev-dependencies", "bench", "test", "example"] {
        manifest.remove(key);
    }
    if let Some(Value::Table(targets)) = manifest.get_mut("target") {
        for (_, target) in targets.iter_mut() {
            if let Value::Table(target) = target {
                target.remove("dev-dependencies");
            }
        }
    }
    let mut dropped = Vec::new();
    if let Some(Value::Table(features)) = manifest.get_mut("features") {
        for feature in outside {
            if let Some(Value::Array(enables)) = features.remove(*feature) {
                dropped.extend(enables.iter().filter_map(Value::as_str).map(dependency_of));
            }
        }
        let kept: Vec<String> = features
            .values()
            .filter_map(Value::as_array)
            .flatten()
            .filter_map(Value::as_str)
            .map(dependency_of)
            .collect();
        dropped.retain(|name| !kept.contains(name));
    }
    if let Some(Value::Table(dependencies)) = manifest.get_mut("dependencies") {
        dependencies.retain(|name, dependency| {
            let optional = dependency.get("optional").and_then(Value::as_bool) == Some(true);
            !(optional && dropped.iter().any(|gone| gone == name))
        });
    }
    manifest
}

/// The dependency that an entry of a feature names: `dep:x`, `x/feature`, `x?/feature` or `x`.
fn dependency_of(entry: &str) -> String {
    let entry = entry.strip_prefix("dep:").unwrap_or(entry);
    entry.split(['/', '?']).next().unwrap_or(entry).to_string()
}

/// `1.80` and `1.80.0` as numbers that compare.
fn version(text: &str) -> Option<(u32, u32, u32)> {
    let mut parts = text.split('.').map(|part| part.parse().ok());
    let major = parts.next()??;
    let minor = parts.next().unwrap_or(Some(0))?;
    let patch = parts.next().unwrap_or(Some(0))?;
    Some((major, minor, patch))
}

/// Names and reasons of the list of unproven dependencies.
fn unproven(list: &str) -> BTreeMap<&str, &str> {
    list.lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        .map(|line| {
            let (name, reason) = line.split_once(' ').unwrap_or((line, ""));
            (name, reason.trim())
        })
        .collect()
}

/// Judges what the lock's packages declare against what is promised and what is excused.
fn judge(declared: &BTreeMap<String, Option<String>>, list: &str) -> Report {
    let mut report = Report::default();
    let excused = unproven(list);
    let mut seen = Vec::new();
    let mut proven = 0;
    for (package, rust) in declared {
        let name = package.split(' ').next().unwrap_or(package);
        match rust {
            Some(rust) if version(rust) > version(RUST_VERSION) => {
                report.faults.push(format!(
                    "{package} needs Rust {rust}, the libraries promise {RUST_VERSION}"
                ));
            }
            Some(_) => proven += 1,
            None => {
                seen.push(name);
                if !excused.contains_key(name) {
                    report.faults.push(format!(
                        "{package} declares no Rust version: prove it and add `{name} REASON` to {UNPROVEN}"
                    ));
                }
            }
        }
    }
    for (name, reason) in &excused {
        if reason.is_empty() {
            report
                .faults
                .push(format!("{UNPROVEN}: {name} has no reason"));
        }
        if !seen.contains(name) {
            report.faults.push(format!(
                "{UNPROVEN}: {name} is not an undeclared dependency any more"
            ));
        }
    }
    report.facts.push(format!(
        "{proven} dependencies declare Rust {RUST_VERSION} or older, unproven: {}",
        if seen.is_empty() {
            "none".to_string()
        } else {
            seen.join(" ")
        }
    ));
    report
}

/// Copies the libraries to `copy`, reduced to what their users get.
fn write_copy(workspace: &Workspace, copy: &Path) -> Result<()> {
    if copy.exists() {
        std::fs::remove_dir_all(copy)?;
    }
    let dirs: Vec<&str> = workspace
        .libraries()
        .iter()
        .map(|package| package.dir.as_str())
        .collect();
    let put = |file: &str, text: &[u8]| -> Result<()> {
        let to = copy.join(file);
        std::fs::create_dir_all(to.parent().unwrap_or(copy))?;
        std::fs::write(&to, text).with_context(|| format!("cannot write {}", to.display()))
    };
    let root: Table = workspace.read("Cargo.toml")?.parse()?;
    put(
        "Cargo.toml",
        toml::to_string(&reduced_root(root, &dirs))?.as_bytes(),
    )?;
    put(
        ".cargo/config.toml",
        b"[resolver]\nincompatible-rust-versions = \"fallback\"\n",
    )?;
    for file in workspace.files()? {
        let Some((dir, inner)) = file.split_once('/') else {
            continue;
        };
        if !dirs.contains(&dir)
            || ["tests/", "benches/", "examples/"]
                .iter()
                .any(|d| inner.starts_with(d))
        {
            continue;
        }
        if inner == "Cargo.toml" {
            let outside: Vec<&str> = OUTSIDE
                .iter()
                .filter(|(library, _)| *library == dir)
                .map(|(_, feature)| *feature)
                .collect();
            let manifest = reduced_member(workspace.read(&file)?.parse()?, &outside);
            put(&file, toml::to_string(&manifest)?.as_bytes())?;
        } else {
            put(&file, &std::fs::read(workspace.root.join(&file))?)?;
        }
    }
    Ok(())
}

pub(crate) fn run(workspace: &Workspace, _: bool) -> Result<Report> {
    let copy = workspace.scratch("msrv");
    write_copy(workspace, &copy)?;
    output(
        Command::new("cargo")
            .current_dir(&copy)
            .args(["generate-lockfile", "--quiet"]),
    )?;
    let list = workspace.read(UNPROVEN).unwrap_or_default();
    let mut report = judge(&declared_rust_versions(&copy)?, &list);
    for package in workspace.libraries() {
        let declared = package.rust_version.as_deref().unwrap_or("none");
        if declared != RUST_VERSION || package.edition != EDITION {
            report.faults.push(format!(
                "{}: rust-version {declared} and edition {}, not {RUST_VERSION} and {EDITION}",
                package.name, package.edition
            ));
        }
    }
    let exact = format!("{RUST_VERSION}.");
    match toolchains().into_iter().find(|name| name.starts_with(&exact)) {
        Some(toolchain) => {
            let compiled = output(
                Command::new("cargo")
                    .current_dir(&copy)
                    .env("CARGO_TARGET_DIR", workspace.scratch("msrv-target"))
                    .arg(format!("+{toolchain}"))
                    .args(["check", "--quiet", "--locked", "--workspace", "--all-features"]),
            );
            match compiled {
                Ok(_) => report.facts.push(format!("compiled by {toolchain}")),
                Err(error) => report.faults.push(format!("{error:#}")),
            }
        }
        None => report.facts.push(format!(
            "declared only, not compiled: rustup toolchain install {RUST_VERSION}.0 --profile minimal"
        )),
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_lose_what_their_users_do_not_get() {
        let manifest: Table = r#"
            [package]
            name = "ron-kernel"
            [dependencies]
            tokio = "1"
            kameo = { version = "1", optional = true }
            hyper = { version = "1", optional = true }
            [dev-dependencies]
            proptest = "1"
            [target.'cfg(unix)'.dev-dependencies]
            nix = "1"
            [target.'cfg(unix)'.dependencies]
            libc = "1"
            [[bench]]
            name = "spawn"
            [features]
            kameo = ["dep:kameo", "hyper?/server", "serve"]
            serve = ["dep:hyper"]
        "#
        .parse()
        .unwrap();
        let reduced = reduced_member(manifest, &["kameo"]);
        let names =
            |table: &Value| -> Vec<String> { table.as_table().unwrap().keys().cloned().collect() };
        assert_eq!(names(&reduced["dependencies"]), ["hyper", "tokio"]);
        assert_eq!(names(&reduced["features"]), ["serve"]);
        assert_eq!(names(&reduced["target"]["cfg(unix)"]), ["dependencies"]);
        assert!(!reduced.contains_key("dev-dependencies") && !reduced.contains_key("bench"));
    }

    #[test]
    fn the_root_keeps_its_tables_and_only_the_libraries() {
        let root: Table = "[workspace]\nmembers = [\"a\", \"b\"]\nexclude = [\"c\"]\n[workspace.dependencies]\nx = \"1\"\n"
            .parse()
            .unwrap();
        let reduced = reduced_root(root, &["a"]);
        assert_eq!(
            toml::to_string(&reduced["workspace"]).unwrap(),
            "members = [\"a\"]\n\n[dependencies]\nx = \"1\"\n"
        );
    }

    #[test]
    fn newer_and_undeclared_dependencies_are_faults() {
        let declared = |package: &str, rust: Option<&str>| {
            BTreeMap::from([(package.to_string(), rust.map(str::to_string))])
        };
        let cases = [
            (Some("1.80"), "", ""),
            (Some("1.80.0"), "", ""),
            (Some("1.9"), "", ""),
            (Some("1.80.1"), "", "a 1.0.0 needs Rust 1.80.1"),
            (Some("1.85"), "", "a 1.0.0 needs Rust 1.85"),
            (None, "", "declares no Rust version"),
            (None, "# note\na compiled by 1.80 here\n", ""),
            (Some("1.70"), "a reason\n", "not an undeclared dependency"),
            (None, "a\n", "no reason"),
        ];
        for (rust, list, fault) in cases {
            let faults = judge(&declared("a 1.0.0", rust), list).faults;
            assert_eq!(faults.is_empty(), fault.is_empty(), "{rust:?}: {faults:?}");
            assert!(
                faults.iter().all(|found| found.contains(fault)),
                "{rust:?}: {faults:?}"
            );
        }
    }
}
