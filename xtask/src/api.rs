//! Public API snapshots: `public-api.txt` of each library is what cargo-public-api lists with all features.
//!
//! Blanket and auto trait implementations are left out, because a compiler may change them. Derived ones stay: a lost
//! `Clone` breaks a user.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result};

use crate::workspace::{nightly, output, Workspace};
use crate::Report;

const VERSION: &str = "0.52.0";

/// Installs the tool with its own lock, unless it is there.
fn install() -> Result<()> {
    let installed = Command::new("cargo-public-api").arg("--version").output();
    let wanted = format!("cargo-public-api {VERSION}");
    if installed.is_ok_and(|out| String::from_utf8_lossy(&out.stdout).trim() == wanted) {
        return Ok(());
    }
    let package = format!("cargo-public-api@{VERSION}");
    output(Command::new("cargo").args(["install", "--locked", "--force", &package]))
        .context("cargo-public-api is missing and cannot be installed")?;
    Ok(())
}

/// Lines that only one side has, as `-` and `+`.
fn difference(snapshot: &str, now: &str) -> Vec<String> {
    let lines = |text: &'static str, of: &str, other: &str| -> Vec<String> {
        let other: BTreeSet<&str> = other.lines().collect();
        of.lines()
            .filter(|line| !other.contains(line))
            .map(|line| format!("{text} {line}"))
            .collect()
    };
    let mut changed = lines("-", snapshot, now);
    changed.extend(lines("+", now, snapshot));
    changed
}

pub(crate) fn run(workspace: &Workspace, bless: bool) -> Result<Report> {
    let nightly = nightly()?;
    install()?;
    let mut report = Report::default();
    for package in workspace.libraries() {
        let now = output(
            Command::new("cargo")
                .current_dir(&workspace.root)
                .env("CARGO_TARGET_DIR", workspace.scratch("nightly"))
                .arg(format!("+{nightly}"))
                .args(["public-api", "--package", &package.name])
                .args(["--all-features", "--color=never"])
                .arg("--omit=blanket-impls,auto-trait-impls"),
        )?;
        let file = format!("{}/public-api.txt", package.dir);
        let path = workspace.root.join(&file);
        if bless {
            std::fs::write(&path, &now).with_context(|| format!("cannot write {file}"))?;
        }
        match std::fs::read_to_string(&path) {
            Err(_) => report
                .faults
                .push(format!("{file} is missing: cargo xtask api --bless")),
            Ok(snapshot) if snapshot != now => {
                let changed = difference(&snapshot, &now);
                report.faults.push(format!(
                    "{file} is not the public API ({} lines differ); if that is meant, explain it in CHANGELOG.md and \
                     run cargo xtask api --bless\n{}",
                    changed.len(),
                    changed.join("\n")
                ));
            }
            Ok(_) => report
                .facts
                .push(format!("{}: {} items", package.name, now.lines().count())),
        }
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_shows_what_went_and_what_came() {
        let changed = difference(
            "pub fn a::f()\npub fn a::g()\n",
            "pub fn a::g()\npub fn a::g(u8)\n",
        );
        assert_eq!(changed, ["- pub fn a::f()", "+ pub fn a::g(u8)"]);
        assert!(difference("same\n", "same\n").is_empty());
    }
}
