//! The requirement table: each row names a test, a page or a check that exists, or the open issue it waits for.
//!
//! `covered by` holds one or more items, separated by `;`:
//! `path/to/file.rs::test_name`, `path/to/page.md#heading`, `ci:NAME` (a check of this program, a step of `.ci/run` or
//! `.ci/check-NAME.sh`) or `issue N`. Anything else is a fault, `pending` included.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use crate::markdown::{anchors, rows};
use crate::rust_source::{test, tokens, Test};
use crate::workspace::Workspace;
use crate::{check_names, Report};

const TABLE: &str = "docs/traceability.md";
const HEAD: [&str; 4] = ["id", "seed", "requirement", "covered by"];

/// What the table may refer to.
struct Known<'a> {
    /// Text of a file in the repository.
    read: &'a dyn Fn(&str) -> Option<String>,
    ci: BTreeSet<String>,
}

impl Known<'_> {
    /// The issue that `item` waits for, nothing when it is covered, or what is wrong with it.
    fn judge(&self, item: &str) -> Result<Option<u32>, String> {
        let item = item.trim_matches('`');
        if let Some(number) = item.strip_prefix("issue ") {
            return number
                .parse()
                .map(Some)
                .map_err(|_| format!("`{item}`: write `issue N`"));
        }
        if let Some(name) = item.strip_prefix("ci:") {
            return if self.ci.contains(name) {
                Ok(None)
            } else {
                Err(format!("`{item}`: no such check or step in .ci/run"))
            };
        }
        let read = |file: &str| {
            (self.read)(file).ok_or_else(|| format!("`{item}`: there is no file `{file}`"))
        };
        if let Some((file, name)) = item.split_once("::") {
            let name = name.rsplit("::").next().unwrap_or(name);
            return match test(&tokens(&read(file)?), name) {
                Test::Runs => Ok(None),
                Test::Ignored => Err(format!("`{item}`: the test is #[ignore]d")),
                Test::Missing => Err(format!("`{item}`: no test of that name in the file")),
            };
        }
        if let Some((file, anchor)) = item.split_once('#') {
            return if anchors(&read(file)?).iter().any(|found| found == anchor) {
                Ok(None)
            } else {
                Err(format!("`{item}`: no such heading in the page"))
            };
        }
        Err(format!(
            "`{item}`: not a test, page heading, `ci:NAME` or `issue N`"
        ))
    }
}

/// Judges the whole table.
fn judge(table: &str, known: &Known<'_>) -> Report {
    let mut report = Report::default();
    let mut ids = BTreeSet::new();
    let mut open: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    let mut covered = 0;
    for (line, cells) in rows(table) {
        if cells == HEAD {
            continue;
        }
        let place = format!("{TABLE}:{line}");
        let [id, seed, requirement, cover] = cells.as_slice() else {
            report.faults.push(format!(
                "{place}: {} cells, not the {} of `{}`",
                cells.len(),
                HEAD.len(),
                HEAD.join(" | ")
            ));
            continue;
        };
        if !well_formed(id) {
            report
                .faults
                .push(format!("{place}: id `{id}` is not like K-01"));
        }
        if !ids.insert(id.clone()) {
            report.faults.push(format!("{place}: {id} stands twice"));
        }
        if seed.is_empty() || requirement.is_empty() {
            report
                .faults
                .push(format!("{place}: {id} lacks its seed or its requirement"));
        }
        let items: Vec<&str> = cover
            .split(';')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .collect();
        if items.is_empty() {
            report
                .faults
                .push(format!("{place}: {id} is covered by nothing"));
        }
        let mut waits = false;
        for item in &items {
            match known.judge(item) {
                Ok(None) => {}
                Ok(Some(issue)) => {
                    waits = true;
                    open.entry(issue).or_default().push(id.clone());
                }
                Err(fault) => report.faults.push(format!("{place}: {id}: {fault}")),
            }
        }
        covered += usize::from(!waits && !items.is_empty());
    }
    if ids.is_empty() {
        report
            .faults
            .push(format!("{TABLE}: no table `{}`", HEAD.join(" | ")));
    }
    let waiting: BTreeSet<&String> = open.values().flatten().collect();
    report.facts.push(format!(
        "{} requirements, {covered} without an open issue, {} open",
        ids.len(),
        waiting.len()
    ));
    for (issue, ids) in &open {
        report
            .facts
            .push(format!("open: issue {issue}: {}", ids.join(" ")));
    }
    report
}

/// Letters, a dash, digits.
fn well_formed(id: &str) -> bool {
    id.split_once('-').is_some_and(|(letters, digits)| {
        !letters.is_empty()
            && letters.chars().all(|c| c.is_ascii_uppercase())
            && digits.len() >= 2
            && digits.chars().all(|c| c.is_ascii_digit())
    })
}

/// The steps that `.ci/run` declares with `step NAME COMMAND`.
fn steps(script: &str) -> impl Iterator<Item = &str> {
    script.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("step"))
            .then(|| words.next())
            .flatten()
    })
}

pub(crate) fn run(workspace: &Workspace, _: bool) -> Result<Report> {
    let table = workspace.read(TABLE)?;
    let files = workspace.files()?;
    let mut ci: BTreeSet<String> = check_names().map(str::to_string).collect();
    ci.extend(steps(&workspace.read(".ci/run")?).map(str::to_string));
    ci.extend(files.iter().filter_map(|file| {
        let name = file.strip_prefix(".ci/check-")?.strip_suffix(".sh")?;
        Some(name.to_string())
    }));
    let read = |file: &str| {
        files
            .binary_search_by(|known| known.as_str().cmp(file))
            .ok()
            .and_then(|_| workspace.read(file).ok())
    };
    Ok(judge(&table, &Known { read: &read, ci }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(cover: &str) -> Report {
        let read = |file: &str| match file {
            "a/tests/x.rs" => Some("#[test] fn holds() {} #[test] #[ignore] fn slow() {}".into()),
            "docs/guide.md" => Some("# Guide\n## Exit codes\n".into()),
            _ => None,
        };
        let known = Known {
            read: &read,
            ci: BTreeSet::from(["arrows".to_string()]),
        };
        let head = "| id | seed | requirement | covered by |\n|--|--|--|--|\n";
        judge(
            &format!("{head}| K-01 | \"quote\" | what | {cover} |\n"),
            &known,
        )
    }

    #[test]
    fn what_exists_covers() {
        for cover in [
            "`a/tests/x.rs::holds`",
            "a/tests/x.rs::module::holds",
            "`docs/guide.md#exit-codes`",
            "ci:arrows",
            "`a/tests/x.rs::holds`; `ci:arrows`",
        ] {
            let report = judged(cover);
            assert_eq!(report.faults, [""; 0], "{cover}");
            assert_eq!(
                report.facts,
                ["1 requirements, 1 without an open issue, 0 open"]
            );
        }
    }

    #[test]
    fn what_does_not_exist_is_a_fault() {
        for (cover, fault) in [
            ("", "covered by nothing"),
            ("pending", "not a test"),
            ("`a/tests/x.rs::absent`", "no test of that name"),
            ("`a/tests/x.rs::slow`", "#[ignore]d"),
            ("`a/tests/absent.rs::holds`", "no file"),
            ("`docs/guide.md#absent`", "no such heading"),
            ("`docs/guide.md`", "not a test"),
            ("ci:absent", "no such check"),
            ("issue soon", "issue N"),
            ("`a/tests/x.rs::holds`; pending", "not a test"),
        ] {
            let faults = judged(cover).faults;
            assert_eq!(faults.len(), 1, "{cover}: {faults:?}");
            assert!(faults[0].contains(fault), "{cover}: {faults:?}");
            assert!(
                faults[0].starts_with("docs/traceability.md:3: K-01"),
                "{faults:?}"
            );
        }
    }

    #[test]
    fn open_issues_are_listed_and_counted() {
        let report = judged("`a/tests/x.rs::holds`; issue 4");
        assert_eq!(report.faults, [""; 0]);
        assert_eq!(
            report.facts,
            [
                "1 requirements, 0 without an open issue, 1 open",
                "open: issue 4: K-01"
            ]
        );
    }

    #[test]
    fn rows_are_whole_and_ids_are_unique() {
        let known = Known {
            read: &|_| None,
            ci: BTreeSet::from(["arrows".to_string()]),
        };
        let table = "| id | seed | requirement | covered by |\n|--|--|--|--|\n\
                     | K-01 | q | r | ci:arrows |\n| K-01 | q | r | ci:arrows |\n\
                     | k1 | q | r | ci:arrows |\n| K-03 | | r | ci:arrows |\n| K-04 | q | r |\n";
        let faults = judge(table, &known).faults;
        for (fault, text) in faults
            .iter()
            .zip(["twice", "not like K-01", "lacks", "3 cells"])
        {
            assert!(fault.contains(text), "{fault}");
        }
        assert_eq!(faults.len(), 4, "{faults:?}");
        assert!(judge("nothing", &known).faults[0].contains("no table"));
    }

    #[test]
    fn steps_are_read_from_the_script() {
        let script = "step fmt cargo fmt --check\n  step clippy \\\n# step no\nstepping out\n";
        assert_eq!(steps(script).collect::<Vec<_>>(), ["fmt", "clippy"]);
    }
}
