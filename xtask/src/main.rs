//! Repository checks that no off-the-shelf tool does: `cargo xtask CHECK`, or `cargo xtask all`.
//!
//! Every check is a pure function over text or metadata with its table of cases beside it, and a thin shell that
//! gathers the input and runs cargo. A check states facts, then faults; one fault fails the run.
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    reason = "a command line tool reports on standard output"
)]

mod api;
mod arrows;
mod crates;
mod docs;
mod features;
mod markdown;
mod msrv;
mod ops;
mod package;
mod rust_source;
mod screens;
mod sources;
mod traceability;
mod workspace;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;

use crate::workspace::Workspace;

/// What a check found.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Lines worth reading when all is well.
    pub(crate) facts: Vec<String>,
    /// Lines that fail the run; each names the place and what would be right.
    pub(crate) faults: Vec<String>,
}

type Run = fn(&Workspace, bool) -> Result<Report>;

struct Check {
    name: &'static str,
    /// The one option the check takes, handed to it as a bool.
    option: Option<&'static str>,
    what: &'static str,
    run: Run,
}

/// Cheapest first, the order of `all`.
const CHECKS: [Check; 11] = [
    Check {
        name: "arrows",
        option: None,
        what: "dependencies between our packages go only where the layout allows",
        run: arrows::run,
    },
    Check {
        name: "sources",
        option: None,
        what: "every .rs file is compiled by some target",
        run: sources::run,
    },
    Check {
        name: "docs",
        option: None,
        what: "metrics, RON_* names, flags, binaries and links in the documents exist",
        run: docs::run,
    },
    Check {
        name: "traceability",
        option: None,
        what: "every requirement names a test, a page or a check that exists",
        run: traceability::run,
    },
    Check {
        name: "crates",
        option: None,
        what: "a plain dependency on ron-kernel or ryker stays small",
        run: crates::run,
    },
    Check {
        name: "features",
        option: None,
        what: "each library compiles alone, bare, with every feature by itself and with all",
        run: features::run,
    },
    Check {
        name: "msrv",
        option: None,
        what: "a lock of the libraries alone holds nothing newer than their Rust version",
        run: msrv::run,
    },
    Check {
        name: "screens",
        option: Some("--bless"),
        what: "ronctl shows in the demo's drill what the documents show (--bless: capture anew)",
        run: screens::run,
    },
    Check {
        name: "ops",
        option: None,
        what: "unit, image and manifest in docs/ops agree with each other and with the program",
        run: ops::run,
    },
    Check {
        name: "package",
        option: Some("--quick"),
        what: "the libraries build from their archives (--quick: look at the archives only)",
        run: package::run,
    },
    Check {
        name: "api",
        option: Some("--bless"),
        what: "public-api.txt is the public API (--bless: write it)",
        run: api::run,
    },
];

/// The checks by name, for documents that cite them.
pub(crate) fn check_names() -> impl Iterator<Item = &'static str> {
    CHECKS.iter().map(|check| check.name)
}

/// The checks to run and whether their option was given; a message when the words make no sense.
fn select(words: &[String]) -> Result<Vec<(&'static Check, bool)>, String> {
    let usage = || {
        let mut text = String::from("usage: cargo xtask CHECK [OPTION]\n");
        for check in &CHECKS {
            text.push_str(&format!("  {:<13} {}\n", check.name, check.what));
        }
        text + "  all           every check above, in this order"
    };
    let (name, options) = words.split_first().ok_or_else(usage)?;
    if name == "all" && options.is_empty() {
        return Ok(CHECKS.iter().map(|check| (check, false)).collect());
    }
    let check = CHECKS
        .iter()
        .find(|check| check.name == name)
        .ok_or_else(usage)?;
    match options {
        [] => Ok(vec![(check, false)]),
        [option] if Some(option.as_str()) == check.option => Ok(vec![(check, true)]),
        _ => Err(format!(
            "`{name}` takes {}, not `{}`",
            check.option.unwrap_or("no option"),
            options.join(" ")
        )),
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let selected = match select(&words) {
        Ok(selected) => selected,
        Err(message) => {
            println!("{message}");
            return ExitCode::from(2);
        }
    };
    let workspace = match Workspace::load() {
        Ok(workspace) => workspace,
        Err(error) => {
            println!("cannot read the workspace: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let mut failed = Vec::new();
    for (check, option) in selected {
        let begun = Instant::now();
        let report = (check.run)(&workspace, option).unwrap_or_else(|error| Report {
            facts: Vec::new(),
            faults: vec![format!("{error:#}")],
        });
        for fact in &report.facts {
            println!("{}: {fact}", check.name);
        }
        for fault in &report.faults {
            println!("{}: FAULT: {fault}", check.name);
        }
        let verdict = if report.faults.is_empty() {
            "ok"
        } else {
            failed.push(check.name);
            "FAILED"
        };
        println!(
            "{}: {verdict} ({:.1} s)",
            check.name,
            begun.elapsed().as_secs_f64()
        );
    }
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("failed checks: {}", failed.join(" "));
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(words: &[&str]) -> Result<Vec<(&'static str, bool)>, String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_string()).collect();
        select(&words).map(|all| {
            all.into_iter()
                .map(|(check, option)| (check.name, option))
                .collect()
        })
    }

    #[test]
    fn a_check_takes_its_own_option_and_no_other() {
        assert_eq!(selected(&["api", "--bless"]), Ok(vec![("api", true)]));
        assert_eq!(selected(&["api"]), Ok(vec![("api", false)]));
        assert!(selected(&["arrows", "--bless"])
            .unwrap_err()
            .contains("no option"));
        assert!(selected(&["api", "--bless", "--bless"]).is_err());
        assert!(selected(&["all", "--bless"]).is_err());
    }

    #[test]
    fn nonsense_and_nothing_show_the_usage() {
        for words in [&[][..], &["nonsense"][..]] {
            assert!(selected(words).unwrap_err().starts_with("usage:"));
        }
    }

    #[test]
    fn all_runs_every_check_once() {
        let names: Vec<_> = selected(&["all"])
            .unwrap()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, check_names().collect::<Vec<_>>());
    }
}
