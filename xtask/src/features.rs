//! Features only add: each library compiles by itself without features, with each one alone, and with all.
//!
//! `cargo test --workspace` cannot show this, because there every library gets the features that some host asks for.

use std::process::Command;

use anyhow::Result;

use crate::workspace::{output, Package, Workspace};
use crate::Report;

/// The sets to try, as arguments of cargo.
fn sets(package: &Package) -> Vec<Vec<String>> {
    let mut sets = vec![vec!["--no-default-features".to_string()]];
    for feature in &package.features {
        sets.push(vec![
            "--no-default-features".to_string(),
            format!("--features={feature}"),
        ]);
    }
    if package.features.len() > 1 {
        sets.push(vec!["--all-features".to_string()]);
    }
    sets
}

pub(crate) fn run(workspace: &Workspace, _: bool) -> Result<Report> {
    let mut report = Report::default();
    for package in workspace.libraries() {
        let sets = sets(package);
        for set in &sets {
            let checked = output(
                Command::new("cargo")
                    .current_dir(&workspace.root)
                    .args(["check", "--quiet", "--package", &package.name])
                    .args(set),
            );
            if let Err(error) = checked {
                report.faults.push(format!("{error:#}"));
            }
        }
        report
            .facts
            .push(format!("{}: {} feature sets", package.name, sets.len()));
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_each_and_all() {
        let package = |features: &[&str]| Package {
            name: "x".into(),
            version: String::new(),
            dir: "x".into(),
            edition: String::new(),
            rust_version: None,
            features: features.iter().map(|name| (*name).to_string()).collect(),
            dependencies: Vec::new(),
            targets: Vec::new(),
        };
        assert_eq!(sets(&package(&[])), [["--no-default-features"]]);
        let sets = sets(&package(&["process", "serve"]));
        let joined: Vec<String> = sets.iter().map(|set| set.join(" ")).collect();
        assert_eq!(
            joined,
            [
                "--no-default-features",
                "--no-default-features --features=process",
                "--no-default-features --features=serve",
                "--all-features",
            ]
        );
    }
}
