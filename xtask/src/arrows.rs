//! Dependency arrows: which of our packages may depend on which.
//!
//! The same arrows hold for normal, build and dev dependencies. A dev-dependency against the arrows would make a
//! package untestable from its own archive, and a test that needs a higher layer belongs to that layer.

use std::path::Path;

use anyhow::Result;

use crate::workspace::{Workspace, LIBRARIES};
use crate::Report;

/// Crates a library must not impose on its users: the subscriber, the command line and error boxing are the host's.
const HOST_ONLY: [&str; 5] = ["tracing-subscriber", "clap", "anyhow", "eyre", "axum"];

/// The one host that uses another: it runs the ledger in its own process, and there must not be two.
const EMBEDS_LEDGER: &str = "hosts/rewarder";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place<'a> {
    Library(&'a str),
    Kit,
    Host,
    /// examples, fuzz, bench, xtask
    Tool,
}

/// Where the directory `dir` belongs in the layout.
fn place(dir: &str) -> Option<Place<'_>> {
    let first = dir.split('/').next().unwrap_or_default();
    if dir == "hosts/kit" {
        Some(Place::Kit)
    } else if first == "hosts" {
        Some(Place::Host)
    } else if ["examples", "fuzz", "bench", "xtask"].contains(&first) {
        Some(Place::Tool)
    } else if LIBRARIES.contains(&dir) {
        Some(Place::Library(dir))
    } else {
        None
    }
}

/// `Err` with the rule that the arrow breaks.
fn verdict(from: Place<'_>, to: Place<'_>) -> Result<(), &'static str> {
    use Place::{Host, Kit, Library, Tool};
    match (from, to) {
        (_, Tool) => Err("nothing depends on examples, fuzz, bench or xtask"),
        (Host, Kit) => Ok(()),
        (_, Host | Kit) => Err(
            "nothing depends on hosts, except hosts on hosts/kit and the rewarder on the ledger",
        ),
        (Host | Tool, Library(_)) => Ok(()),
        (Kit, Library("ryker")) => {
            Err("hosts/kit uses ron-kernel, ron-metrics, ron-config and ron-bus only")
        }
        (Kit, Library(_)) => Ok(()),
        (Library("ron-kernel"), Library("ron-bus" | "ron-config" | "ron-metrics")) => Ok(()),
        (Library("ron-kernel"), Library(_)) => {
            Err("ron-kernel uses ron-bus, ron-config and ron-metrics only")
        }
        (Library("ryker"), Library(_)) => Err("ryker uses none of ours"),
        (Library(_), Library(_)) => {
            Err("ron-bus, ron-config and ron-metrics use none of ours, nor each other")
        }
    }
}

/// One arrow of the metadata.
struct Arrow<'a> {
    from: &'a str,
    from_dir: &'a str,
    to: &'a str,
    /// Directory of one of our packages; `None` for a registry crate.
    to_dir: Option<&'a str>,
    kind: &'a str,
}

fn fault(arrow: &Arrow<'_>) -> Option<String> {
    let Arrow { from, to, kind, .. } = arrow;
    let refused = |rule: &str| Some(format!("{from} -> {to} ({kind}): {rule}"));
    let Some(here) = place(arrow.from_dir) else {
        return refused(&format!(
            "`{}` is not a place in the layout",
            arrow.from_dir
        ));
    };
    match arrow.to_dir {
        Some(dir) if dir == arrow.from_dir => None,
        Some("hosts/ledger") if arrow.from_dir == EMBEDS_LEDGER => None,
        Some(dir) => match place(dir) {
            None => refused(&format!("`{dir}` is not a place in the layout")),
            Some(there) => verdict(here, there).err().and_then(refused),
        },
        None if matches!(here, Place::Library(_)) && *kind != "dev" && HOST_ONLY.contains(to) => {
            refused("a library leaves logging set-up, command line and web framework to the host")
        }
        None => None,
    }
}

pub(crate) fn run(workspace: &Workspace, _: bool) -> Result<Report> {
    let mut report = Report::default();
    let mut ours = 0;
    for package in &workspace.packages {
        if place(&package.dir).is_none() {
            report.faults.push(format!(
                "package {} in `{}`: not a place in the layout",
                package.name, package.dir
            ));
        }
        for dependency in &package.dependencies {
            let by_path = dependency
                .path
                .as_deref()
                .map(|path| relative(path, &workspace.root));
            // A registry dependency with the name of one of our packages is an arrow too.
            let by_name = workspace
                .package(&dependency.name)
                .map(|found| found.dir.clone());
            let to_dir = by_path.or(by_name);
            ours += usize::from(to_dir.is_some());
            report.faults.extend(fault(&Arrow {
                from: &package.name,
                from_dir: &package.dir,
                to: &dependency.name,
                to_dir: to_dir.as_deref(),
                kind: &dependency.kind,
            }));
        }
    }
    report.facts.push(format!(
        "{} packages, {ours} arrows between them",
        workspace.packages.len()
    ));
    Ok(report)
}

/// `path` under `root` with forward slashes, or as it is when it lies elsewhere.
fn relative(path: &Path, root: &Path) -> String {
    path.strip_prefix(root)
        .unwrap_or(path)
        .to_string_lossy()
        .replace('\\', "/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_allowed_arrows_and_no_others() {
        let places = [
            ("hosts/kernel-demo", "host"),
            ("hosts/kit", "kit"),
            ("ron-kernel", "kernel"),
            ("ron-bus", "leaf"),
            ("ron-config", "leaf"),
            ("ryker", "ryker"),
            ("examples", "tool"),
            ("bench/peers", "tool"),
        ];
        let allowed = [
            ("host", "kit"),
            ("host", "kernel"),
            ("host", "leaf"),
            ("host", "ryker"),
            ("kit", "kernel"),
            ("kit", "leaf"),
            ("kernel", "leaf"),
            ("tool", "kernel"),
            ("tool", "leaf"),
            ("tool", "ryker"),
        ];
        for (from, from_group) in places {
            for (to, to_group) in places {
                for kind in ["normal", "dev", "build"] {
                    let arrow = Arrow {
                        from,
                        from_dir: from,
                        to,
                        to_dir: Some(to),
                        kind,
                    };
                    let expected = from == to || allowed.contains(&(from_group, to_group));
                    assert_eq!(fault(&arrow).is_none(), expected, "{from} -> {to} ({kind})");
                }
            }
        }
    }

    #[test]
    fn of_the_hosts_only_the_rewarder_uses_another_and_only_the_ledger() {
        let hosts = [
            "hosts/kernel-demo",
            "hosts/ledger",
            "hosts/micronode",
            "hosts/rewarder",
            "hosts/ronctl",
        ];
        for from in hosts {
            for to in hosts {
                let arrow = Arrow {
                    from,
                    from_dir: from,
                    to,
                    to_dir: Some(to),
                    kind: "normal",
                };
                let expected = from == to || (from, to) == ("hosts/rewarder", "hosts/ledger");
                assert_eq!(fault(&arrow).is_none(), expected, "{from} -> {to}");
            }
        }
    }

    #[test]
    fn a_refusal_names_the_edge_and_the_rule() {
        let arrow = Arrow {
            from: "ron-bus",
            from_dir: "ron-bus",
            to: "ron-metrics",
            to_dir: Some("ron-metrics"),
            kind: "dev",
        };
        assert_eq!(
            fault(&arrow).unwrap(),
            "ron-bus -> ron-metrics (dev): ron-bus, ron-config and ron-metrics use none of ours, nor each other"
        );
    }

    #[test]
    fn a_path_outside_the_layout_is_refused() {
        let arrow = Arrow {
            from: "ron-bus",
            from_dir: "ron-bus",
            to: "stray",
            to_dir: Some("vendor/stray"),
            kind: "normal",
        };
        assert!(fault(&arrow).unwrap().contains("vendor/stray"));
    }

    #[test]
    fn a_library_takes_no_host_crate_but_may_test_with_one() {
        let arrow = |from, kind| Arrow {
            from,
            from_dir: from,
            to: "tracing-subscriber",
            to_dir: None,
            kind,
        };
        assert!(fault(&arrow("ron-kernel", "normal")).is_some());
        assert!(fault(&arrow("ron-kernel", "dev")).is_none());
        assert!(fault(&arrow("hosts/kit", "normal")).is_none());
    }
}
