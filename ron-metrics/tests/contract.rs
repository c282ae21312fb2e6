//! The metric contract and the reference page say what the code registers. `RON_BLESS=1` rewrites both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ron_metrics::{Format, Metrics};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn compare(path: &Path, text: &str) {
    if std::env::var_os("RON_BLESS").is_some() {
        std::fs::write(path, text).unwrap();
    }
    let expected = std::fs::read_to_string(path).unwrap();
    assert_eq!(
        text,
        expected,
        "{} differs; RON_BLESS=1 rewrites it",
        path.display()
    );
}

/// Rows of the contract: name, kind, unit, labels, buckets.
fn rows(metrics: &Metrics) -> Vec<[String; 5]> {
    let contract = metrics.contract();
    let cells = |line: &str| {
        let cells: Vec<String> = line
            .split('\t')
            .map(|cell| {
                cell.split_once('=')
                    .map_or(cell, |(_, value)| value)
                    .to_string()
            })
            .collect();
        cells.try_into().unwrap()
    };
    contract.lines().map(cells).collect()
}

fn help(metrics: &Metrics) -> BTreeMap<String, String> {
    let text = metrics.render(Format::Prometheus);
    text.lines()
        .filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' '))
        .map(|(name, help)| (name.to_string(), help.to_string()))
        .collect()
}

#[test]
fn the_contract_file_is_what_the_code_registers() {
    let metrics = Metrics::new("contract").unwrap();
    compare(&root().join("metrics.contract"), &metrics.contract());
}

#[test]
fn the_reference_table_is_what_the_code_registers() {
    let metrics = Metrics::new("contract").unwrap();
    let help = help(&metrics);
    let mut table =
        String::from("| name | type | unit | labels | meaning |\n|---|---|---|---|---|\n");
    for [name, kind, unit, labels, _] in rows(&metrics) {
        let labels = if labels == "-" {
            labels
        } else {
            format!("`{}`", labels.replace(',', "`, `"))
        };
        table += &format!(
            "| `{name}` | {kind} | {unit} | {labels} | {} |\n",
            help[&name]
        );
    }
    table += "\nBuckets:\n\n";
    for [name, _, unit, _, buckets] in rows(&metrics) {
        if buckets != "-" {
            table += &format!(
                "- `{name}` ({unit}): {}, +Inf\n",
                buckets.replace(',', ", ")
            );
        }
    }

    let path = root().join("../docs/metrics.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once("<!-- golden set: begin -->\n").unwrap();
    let (_, after) = rest.split_once("<!-- golden set: end -->\n").unwrap();
    let marked =
        format!("{before}<!-- golden set: begin -->\n{table}<!-- golden set: end -->\n{after}");
    compare(&path, &marked);
}

#[test]
fn the_page_names_only_metrics_that_exist() {
    let metrics = Metrics::new("contract").unwrap();
    let mut names: Vec<String> = rows(&metrics).into_iter().map(|[name, ..]| name).collect();
    // Those that have a contract of their own.
    let hosts = std::fs::read_dir(root().join("../hosts")).unwrap();
    let hosts = hosts.map(|host| host.unwrap().path());
    for other in hosts.chain([root().join("../ryker")]) {
        let contract = std::fs::read_to_string(other.join("metrics.contract"));
        let contract = contract.unwrap_or_default();
        let name = |line: &str| line.split('\t').next().unwrap_or_default().to_owned();
        names.extend(contract.lines().map(name));
    }
    let page = std::fs::read_to_string(root().join("../docs/metrics.md")).unwrap();
    let endings = [
        "_total",
        "_seconds",
        "_bytes",
        "_ready",
        "_info",
        "_depth",
        "_successful",
    ];
    for word in page.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
        let looks_like_a_metric =
            word.contains('_') && endings.iter().any(|ending| word.ends_with(ending));
        let is_an_example = word.starts_with("thumbs_") || endings.contains(&word);
        if looks_like_a_metric && !is_an_example && word != "not_ready" {
            assert!(
                names.iter().any(|name| name == word),
                "docs/metrics.md names `{word}`"
            );
        }
    }
}

#[test]
fn every_change_of_the_contract_shows_in_its_text() {
    let base = Metrics::new("contract").unwrap().contract();
    let variants: Vec<String> = [
        Metrics::new("contract").map(|m| m.counter("x_total", "X.").map(|_| m)),
        Metrics::new("contract").map(|m| m.gauge("x", "X.").map(|_| m)),
        Metrics::new("contract").map(|m| m.gauge_collector("x", "X.", ["a"]).map(|_| m)),
        Metrics::new("contract").map(|m| m.histogram("x", "X.", &[1.0]).map(|_| m)),
        Metrics::new("contract").map(|m| m.histogram("x", "X.", &[2.0]).map(|_| m)),
        Metrics::new("contract").map(|m| m.histogram("x_seconds", "X.", &[2.0]).map(|_| m)),
    ]
    .into_iter()
    .map(|m| m.unwrap().unwrap().contract())
    .chain([base])
    .collect();
    for (n, one) in variants.iter().enumerate() {
        assert!(variants.iter().skip(n + 1).all(|other| other != one));
    }
}
