//! Tree size: how many crates a plain `cargo add` compiles.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::Result;

use crate::workspace::{output, Workspace};
use crate::Report;

/// Library and the most crates its default features may bring, itself included.
const BUDGETS: [(&str, usize); 2] = [("ron-kernel", 50), ("ryker", 26)];

/// `name version` of each crate in the output of `cargo tree --prefix none`.
fn unique(tree: &str) -> BTreeSet<String> {
    tree.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some(format!("{} {}", words.next()?, words.next()?))
        })
        .collect()
}

pub(crate) fn run(workspace: &Workspace, _: bool) -> Result<Report> {
    let mut report = Report::default();
    for (library, budget) in BUDGETS {
        if workspace.package(library).is_none() {
            continue;
        }
        let tree = output(Command::new("cargo").current_dir(&workspace.root).args([
            "tree",
            "--package",
            library,
            "--edges=normal,build",
            "--prefix=none",
            "--no-dedupe",
        ]))?;
        let crates = unique(&tree);
        report.facts.push(format!(
            "{library}: {} crates of at most {budget}",
            crates.len()
        ));
        if crates.len() > budget {
            let names: Vec<&str> = crates.iter().map(String::as_str).collect();
            report.faults.push(format!(
                "{library} compiles {} crates, at most {budget} are promised: {}",
                crates.len(),
                names.join(", ")
            ));
        }
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_and_annotated_lines_count_once_and_versions_apart() {
        let tree = "ron-kernel v0.1.0 (/r/ron-kernel)\nserde v1.0.1\nserde v1.0.1 (*)\n\
                    syn v2.0.0 (proc-macro)\nsyn v3.0.0 (proc-macro)\n\n";
        let expected: BTreeSet<String> = [
            "ron-kernel v0.1.0",
            "serde v1.0.1",
            "syn v2.0.0",
            "syn v3.0.0",
        ]
        .map(str::to_string)
        .into();
        assert_eq!(unique(tree), expected);
    }
}
