//! Files that never compile: every `.rs` file must be reached from some target by `mod` or `include!`.

use std::collections::{BTreeSet, VecDeque};
use std::path::{Component, Path, PathBuf};

use anyhow::Result;

use crate::rust_source::{includes, modules, tokens};
use crate::workspace::Workspace;
use crate::Report;

/// `path` with `.` and `..` resolved by text.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                normal.pop();
            }
            part => normal.push(part),
        }
    }
    normal
}

/// Where the modules of `file` may lie. `root` is true for the root file of a target.
fn reached_from(file: &Path, root: bool, source: &str) -> Vec<PathBuf> {
    let dir = file.parent().unwrap_or(Path::new(""));
    let stem = file.file_stem().unwrap_or_default();
    let children = if root || stem == "mod" {
        dir.to_path_buf()
    } else {
        dir.join(stem)
    };
    let tokens = tokens(source);
    let mut reached: Vec<PathBuf> = Vec::new();
    for module in modules(&tokens) {
        let inside: PathBuf = module.inside.iter().collect();
        match module.path {
            // The language resolves a path attribute against the file's own directory, unless inline modules are around.
            Some(path) if module.inside.is_empty() => reached.push(normal(&dir.join(path))),
            Some(path) => reached.push(normal(&children.join(inside).join(path))),
            None => {
                let base = children.join(inside);
                reached.push(base.join(format!("{}.rs", module.name)));
                reached.push(base.join(&module.name).join("mod.rs"));
            }
        }
    }
    reached.extend(
        includes(&tokens)
            .into_iter()
            .map(|path| normal(&dir.join(path))),
    );
    reached
}

/// The files of `files` that nothing reaches from `roots`.
fn unreached(
    files: &BTreeSet<PathBuf>,
    roots: Vec<PathBuf>,
    read: impl Fn(&Path) -> String,
) -> Vec<PathBuf> {
    let mut seen: BTreeSet<PathBuf> = roots.iter().cloned().collect();
    let mut queue: VecDeque<(PathBuf, bool)> = roots.into_iter().map(|root| (root, true)).collect();
    while let Some((file, root)) = queue.pop_front() {
        for next in reached_from(&file, root, &read(&file)) {
            if files.contains(&next) && seen.insert(next.clone()) {
                queue.push_back((next, false));
            }
        }
    }
    files.difference(&seen).cloned().collect()
}

pub(crate) fn run(workspace: &Workspace, _: bool) -> Result<Report> {
    let files: BTreeSet<PathBuf> = workspace
        .files()?
        .into_iter()
        .filter(|file| file.ends_with(".rs"))
        .map(PathBuf::from)
        .collect();
    let roots = workspace
        .packages
        .iter()
        .flat_map(|package| &package.targets)
        .filter_map(|target| target.source.strip_prefix(&workspace.root).ok())
        .map(Path::to_path_buf)
        .collect();
    let read = |file: &Path| std::fs::read_to_string(workspace.root.join(file)).unwrap_or_default();
    let faults: Vec<String> = unreached(&files, roots, read)
        .iter()
        .map(|file| {
            format!(
                "{}: no target reaches it by `mod`; declare it or delete it",
                file.display()
            )
        })
        .collect();
    Ok(Report {
        facts: vec![format!("{} files", files.len())],
        faults,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn only_files_without_a_declaration_are_left_over() {
        let tree: BTreeMap<&str, &str> = BTreeMap::from([
            (
                "a/src/lib.rs",
                "mod mailbox; mod old; #[path = \"odd name.rs\"] mod odd;",
            ),
            ("a/src/mailbox.rs", "mod slot; mod tests { mod deep; }"),
            ("a/src/mailbox/slot.rs", "include!(\"../table.rs\");"),
            ("a/src/mailbox/tests/deep.rs", ""),
            ("a/src/old/mod.rs", "mod child;"),
            ("a/src/old/child.rs", ""),
            ("a/src/odd name.rs", ""),
            ("a/src/table.rs", ""),
            ("a/src/forgotten.rs", "mod also_forgotten;"),
            ("a/src/also_forgotten.rs", ""),
            ("a/src/slot.rs", ""),
            ("a/tests/case.rs", "mod support;"),
            ("a/tests/support/mod.rs", ""),
        ]);
        let files = tree.keys().map(PathBuf::from).collect();
        let roots = vec!["a/src/lib.rs".into(), "a/tests/case.rs".into()];
        let read = |file: &Path| tree[file.to_str().unwrap()].to_string();
        let left: Vec<PathBuf> = unreached(&files, roots, read);
        let expected: Vec<PathBuf> = [
            "a/src/also_forgotten.rs",
            "a/src/forgotten.rs",
            "a/src/slot.rs",
        ]
        .iter()
        .map(PathBuf::from)
        .collect();
        assert_eq!(left, expected);
    }
}
