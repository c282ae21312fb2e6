//! Documents against code: what README.md and docs/ name must exist.
//!
//! Metrics are compared with the `metrics.contract` files, `RON_*` names and flags with the string literals of the
//! sources, binaries with cargo's targets. Links are followed in every document of the repository.

use std::collections::BTreeSet;

use anyhow::Result;

use crate::markdown::{anchors, code, links, rows, Code};
use crate::rust_source::{literals, tokens, Token};
use crate::workspace::Workspace;
use crate::Report;

/// The page that must list every metric.
const METRICS_PAGE: &str = "docs/metrics.md";
/// Quotes requirements that may lie ahead of the code; its own check reads it.
const TRACEABILITY: &str = "docs/traceability.md";

/// What exists.
#[derive(Debug, Default)]
struct Known {
    metrics: BTreeSet<String>,
    /// `RON_*` names, written out or made from a key.
    environment: BTreeSet<String>,
    /// Keys and sections that schemas declare.
    keys: BTreeSet<String>,
    sections: BTreeSet<String>,
    /// Words of the string literals in the sources, and field names where the command line is derived from fields.
    words: BTreeSet<String>,
    binaries: BTreeSet<String>,
    /// Names that `cargo run` takes after `-p`, `--bin` and `--example`.
    runnable: BTreeSet<String>,
}

impl Known {
    fn learn(&mut self, source: &str) {
        // Tests may spell names wrong on purpose.
        let source = source
            .split("#[cfg(test)]\nmod ")
            .next()
            .unwrap_or_default();
        let tokens = tokens(source);
        for literal in literals(&tokens) {
            self.environment.extend(
                words(literal)
                    .filter(|word| word.starts_with("RON_"))
                    .map(str::to_string),
            );
            self.words.extend(
                literal
                    .split(|c: char| !(is_word(c) || matches!(c, '-' | '.')))
                    .map(|word| word.trim_matches(['-', '.']).to_string()),
            );
        }
        for window in tokens.windows(4) {
            let [Token::Mark('.'), Token::Word(method), Token::Mark('('), Token::Literal(path)] =
                window
            else {
                continue;
            };
            match method.as_str() {
                "key" | "choice" | "list" => self.keys.insert(path.clone()),
                "section" => self.sections.insert(path.clone()),
                _ => false,
            };
        }
        if source.contains("#[arg(") {
            self.words
                .extend(words(source).map(|word| word.replace('_', "-")));
        }
    }

    /// Makes the names that follow from the keys, alone and in every section. Call it when all is learnt.
    fn derive(&mut self) {
        let heads = self.sections.iter().map(|section| format!("{section}."));
        for head in heads.chain([String::new()]) {
            for key in &self.keys {
                let name = format!("{head}{key}");
                self.environment
                    .insert(format!("RON_{}", name.replace('.', "_").to_uppercase()));
                self.words.insert(name);
            }
        }
    }

    /// Whether code reads the variable, or a variable that begins so where the document writes `RON_SVC_{A,B}`.
    fn reads(&self, variable: &str) -> bool {
        self.environment.contains(variable)
            || variable.ends_with('_')
                && self
                    .environment
                    .iter()
                    .any(|known| known.starts_with(variable))
    }

    /// The faults of one document.
    fn judge(&self, page: &str, text: &str) -> Vec<String> {
        let mut faults = Vec::new();
        for (at, line) in text.lines().enumerate() {
            for word in words(line).filter(|word| word.starts_with("RON_") && word.len() > 4) {
                if !self.reads(word) {
                    faults.push(format!("{page}:{}: no code reads `{word}`", at + 1));
                }
            }
        }
        let mut metrics: BTreeSet<(usize, String)> = BTreeSet::new();
        for piece in code(text) {
            let found = metrics_in(&piece);
            metrics.extend(found.into_iter().map(|name| (piece.line, name.to_string())));
            faults.extend(
                self.commands(&piece)
                    .into_iter()
                    .map(|fault| format!("{page}:{}: {fault}", piece.line)),
            );
        }
        if page == METRICS_PAGE {
            // The table of metrics is the one with a column `type`; others list routes and states.
            let mut listed = false;
            let mut last = 0;
            for (line, cells) in rows(text) {
                // The ruler below a head is no row, so a gap of two is still the same table.
                listed &= line <= last + 2;
                listed |= cells.get(1).is_some_and(|cell| cell == "type");
                last = line;
                let first = cells.first().map(String::as_str).unwrap_or_default();
                if let Some(name) = first.strip_prefix('`').filter(|_| listed) {
                    let name = name.split(|c: char| !is_word(c)).next();
                    metrics.insert((line, name.unwrap_or_default().to_string()));
                }
            }
            for metric in &self.metrics {
                if !words(text).any(|word| word == metric) {
                    faults.push(format!("{page}: `{metric}` of the contract is missing"));
                }
            }
        }
        for (line, name) in metrics {
            let series = ["", "_bucket", "_sum", "_count", "_created"];
            let exists = series
                .iter()
                .filter_map(|suffix| name.strip_suffix(suffix))
                .any(|family| self.metrics.contains(family));
            if !exists {
                faults.push(format!("{page}:{line}: no metric `{name}` in the contract"));
            }
        }
        faults
    }

    /// What is wrong with our commands in a piece of code.
    fn commands(&self, piece: &Code<'_>) -> Vec<String> {
        let mut faults = Vec::new();
        let flag = |word: &str| {
            let name = word.trim_start_matches('-').split('=').next();
            name.filter(|name| name.starts_with(|c: char| c.is_ascii_lowercase()))
                .filter(|name| !self.words.contains(*name))
                .map(|name| format!("no program of ours has `--{name}`"))
        };
        if piece.language.is_none() && piece.text.starts_with("--") {
            faults.extend(piece.text.split_whitespace().next().and_then(flag));
        }
        let shell = matches!(
            piece.language,
            None | Some("" | "sh" | "bash" | "console" | "shell" | "text")
        );
        // A console shows what was typed and what was answered.
        let answered = piece.language == Some("console") && !piece.text.starts_with("$ ");
        if !shell || answered {
            return faults;
        }
        for command in piece
            .text
            .split(['|', ';', '#'])
            .flat_map(|part| part.split("&&"))
        {
            let mut words = command
                .trim()
                .trim_start_matches("$ ")
                .split_whitespace()
                .skip_while(|word| word.contains('=') || *word == "sudo")
                .peekable();
            let program = words.next().unwrap_or_default();
            let program = program.rsplit('/').next().unwrap_or(program);
            // One of our names alone in running text is as likely a crate or a file.
            let mentioned = piece.language.is_none() && words.peek().is_none();
            if self.ours(program) {
                if !mentioned && !self.binaries.contains(program) {
                    faults.push(format!("there is no program `{program}`"));
                }
            } else if program == "cargo" && words.peek() == Some(&"xtask") {
            } else if program == "cargo" && words.peek() == Some(&"run") {
                let mut previous = "";
                for word in words.by_ref().take_while(|word| *word != "--") {
                    if ["-p", "--package", "--bin", "--example"].contains(&previous)
                        && !self.runnable.contains(word)
                    {
                        faults.push(format!("`cargo run {previous} {word}`: no such target"));
                    }
                    previous = word;
                }
            } else {
                continue;
            }
            faults.extend(words.filter(|word| word.starts_with("--")).filter_map(flag));
        }
        faults
    }

    /// Whether a command's name claims to be one of our programs.
    fn ours(&self, program: &str) -> bool {
        self.binaries.contains(program)
            || ["ronctl", "micronode"].contains(&program)
            || ["ron-", "svc-"]
                .iter()
                .any(|head| program.starts_with(head))
    }
}

/// Words that can only be metrics: by their suffix, by the kernel's prefix, or by labels in braces behind them.
fn metrics_in<'a>(piece: &Code<'a>) -> Vec<&'a str> {
    if matches!(piece.language, Some("toml" | "rust" | "json")) {
        return Vec::new();
    }
    let text = piece.text;
    words(text)
        .filter(|word| {
            let begin = word.as_ptr() as usize - text.as_ptr() as usize;
            let before = text[..begin].chars().next_back().unwrap_or(' ');
            let behind = &text[begin + word.len()..];
            // `_total` alone is talk of a suffix.
            let name = word.contains('_') && !word.starts_with('_') && word.chars().all(is_key);
            let metric = ["_total", "_seconds", "_seconds_bucket"]
                .iter()
                .any(|tail| word.ends_with(tail))
                || word
                    .strip_prefix("ron_kernel_")
                    .is_some_and(|rest| !rest.is_empty())
                || behind.starts_with('{') && !behind.starts_with("{}");
            name && metric
                && !matches!(before, '.' | ':' | '/' | '-')
                && !behind.starts_with("::")
                && !behind.starts_with('(')
                && !behind.starts_with(".rs")
        })
        .collect()
}

/// The metric names of a contract file: the first word of each line that is not a comment.
fn contract(text: &str) -> impl Iterator<Item = String> + '_ {
    text.lines()
        .filter(|line| !line.starts_with(['#', ' ', '\t']))
        .filter_map(|line| line.split(|c: char| !is_word(c)).next())
        .filter(|name| !name.is_empty())
        .map(str::to_string)
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn is_key(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !is_word(c))
        .filter(|word| !word.is_empty())
}

/// The links of `page` that lead nowhere. `read` gives the text of a file, or nothing where there is only a directory.
fn broken_links(
    page: &str,
    text: &str,
    read: impl Fn(&str) -> Option<Option<String>>,
) -> Vec<String> {
    let mut faults = Vec::new();
    for link in links(text) {
        if ["http://", "https://", "mailto:"]
            .iter()
            .any(|head| link.target.starts_with(head))
        {
            continue;
        }
        let (file, anchor) = link.target.split_once('#').unwrap_or((link.target, ""));
        let place = if file.is_empty() {
            page.to_string()
        } else {
            beside(page, file)
        };
        match read(&place) {
            None => faults.push(format!(
                "{page}:{}: `{}` does not exist",
                link.line, link.target
            )),
            Some(Some(text)) if !anchor.is_empty() && place.ends_with(".md") => {
                if !anchors(&text).iter().any(|found| found == anchor) {
                    faults.push(format!(
                        "{page}:{}: `{}`: no such heading",
                        link.line, link.target
                    ));
                }
            }
            Some(_) => {}
        }
    }
    faults
}

/// `file` as seen from `page`, relative to the root.
fn beside(page: &str, file: &str) -> String {
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in file.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

pub(crate) fn run(workspace: &Workspace, _: bool) -> Result<Report> {
    let files = workspace.files()?;
    let mut known = Known::default();
    let mut contracts = 0;
    for file in &files {
        if file.ends_with("/metrics.contract") {
            known.metrics.extend(contract(&workspace.read(file)?));
            contracts += 1;
        } else if file.ends_with(".rs") && file.contains("/src/") && !file.ends_with("tests.rs") {
            known.learn(&workspace.read(file)?);
        }
    }
    known.derive();
    for package in &workspace.packages {
        for target in &package.targets {
            if target.kind == "bin" {
                known.binaries.insert(target.name.clone());
            }
            if ["bin", "example"].contains(&target.kind.as_str()) {
                known.runnable.insert(target.name.clone());
                known.runnable.insert(package.name.clone());
            }
        }
    }
    let mut report = Report::default();
    if contracts == 0 {
        report
            .faults
            .push("there is no metrics.contract to compare the documents with".to_string());
    }
    let mut pages = 0;
    for page in files.iter().filter(|file| file.ends_with(".md")) {
        let text = workspace.read(page)?;
        let read = |file: &str| {
            let there = workspace.root.join(file);
            there.exists().then(|| std::fs::read_to_string(&there).ok())
        };
        report.faults.extend(broken_links(page, &text, read));
        if page == "README.md" || page.starts_with("docs/") && page != TRACEABILITY {
            report.faults.extend(known.judge(page, &text));
            pages += 1;
        }
    }
    if files.iter().any(|file| file == "README.md")
        && !files.iter().any(|file| file == METRICS_PAGE)
    {
        report.faults.push(format!("{METRICS_PAGE} is missing"));
    }
    report.facts.push(format!(
        "{pages} pages against {} metrics, {} programs",
        known.metrics.len(),
        known.binaries.len()
    ));
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        let mut known = Known::default();
        known.learn(
            r#"const A: [&str; 4] = ["RON_KERNEL_METRICS_ADDR", "--config", "quick", "version"];
            fn schema() { s.key("bus.max_lag", f).choice("format", f); s.section("log", f); }
            #[cfg(test)]
mod tests { const B: &str = "RON_MISSPELT"; }"#,
        );
        known.derive();
        known.metrics = [
            "service_restarts_total",
            "ron_kernel_ready",
            "request_latency_seconds",
            "queue_depth",
        ]
        .map(str::to_string)
        .into();
        known.binaries = ["ron-kernel".to_string()].into();
        known.runnable = ["ron-kernel".to_string(), "hello".to_string()].into();
        known
    }

    #[test]
    fn names_that_exist_pass() {
        for text in [
            "`RON_BUS_MAX_LAG` and RON_KERNEL_METRICS_ADDR, all RON_* names",
            "RON_LOG_FORMAT, RON_KERNEL_{METRICS_ADDR}",
            "`--bus.max_lag 3`",
            "`service_restarts_total{service=\"x\"}` `rate(request_latency_seconds_bucket[5m])`",
            "`ron_kernel::supervisor`, `ron_kernel_ready`, `queue_depth`",
            "```toml\nidle_seconds = 3\n```",
            "`--config`",
            "```sh\nRUST_LOG=debug cargo run -p ron-kernel -- --config x.toml\n```",
            "```sh\n./target/release/ron-kernel --config=x | grep --colour y\n```",
            "`cargo xtask package --quick`",
            "`cargo test --workspace`",
        ] {
            assert_eq!(known().judge("docs/guide.md", text), [""; 0], "{text}");
        }
    }

    #[test]
    fn names_that_do_not_exist_are_faults() {
        for (text, fault) in [
            ("RON_BUS_MAX_LAGG", "`RON_BUS_MAX_LAGG`"),
            ("RON_MISSPELT", "`RON_MISSPELT`"),
            ("RON_CONFIG", "`RON_CONFIG`"),
            ("RON_SVC_{A,B}", "`RON_SVC_`"),
            ("`restarts_total`", "`restarts_total`"),
            ("`ron_kernel_readyness`", "`ron_kernel_readyness`"),
            ("`queue_size{topic}`", "`queue_size`"),
            ("```\nwait_seconds 3\n```", "`wait_seconds`"),
            ("`--absent`", "`--absent`"),
            ("```sh\nron-kernel --absent\n```", "`--absent`"),
            (
                "```sh\n$ cargo run -p ron-kernel -- --absent\n```",
                "`--absent`",
            ),
            ("```sh\ncargo run -p absent\n```", "`cargo run -p absent`"),
            ("`ronctl tree`", "no program `ronctl`"),
            ("`cargo xtask package --slow`", "`--slow`"),
        ] {
            let faults = known().judge("docs/guide.md", text);
            assert_eq!(faults.len(), 1, "{text}: {faults:?}");
            assert!(faults[0].contains(fault), "{text}: {faults:?}");
        }
    }

    #[test]
    fn the_metrics_page_lists_the_contract_and_nothing_else() {
        let page = "| route |\n|--|\n| `not_a_metric` |\n\n\n| metric | type |\n|--|--|\n\
                    | `service_restarts_total` | x |\n| `ron_kernel_ready` | x |\n\
                    | `request_latency_seconds` | x |\n| `made_up` | x |\n";
        let faults = known().judge(METRICS_PAGE, page);
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].contains("`queue_depth` of the contract is missing"));
        assert!(faults[1].contains("no metric `made_up`"));
    }

    #[test]
    fn links_resolve_against_their_page() {
        let read = |file: &str| match file {
            "docs/a.md" => Some(Some("# One\n".to_string())),
            "docs" => Some(None),
            _ => None,
        };
        let page = "docs/a.md";
        assert_eq!(
            broken_links(
                page,
                "[a](a.md#one) [b](../docs/a.md) [c](#one) [d](../docs/) [e](https://x.y)",
                read
            ),
            [""; 0]
        );
        let faults = broken_links(page, "[a](b.md)\n[b](#two)\n[c](docs/a.md)", read);
        assert_eq!(faults.len(), 3, "{faults:?}");
        assert!(faults[1].starts_with("docs/a.md:2:"), "{faults:?}");
    }

    #[test]
    fn a_contract_line_begins_with_the_name() {
        let text = "# comment\nbus_queue_depth gauge {topic}\n  indented\n\nqueue_depth|gauge\n";
        assert_eq!(
            contract(text).collect::<Vec<_>>(),
            ["bus_queue_depth", "queue_depth"]
        );
    }
}
