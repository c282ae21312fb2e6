//! The screens of `ronctl` in docs/ronctl.md and README.md, captured from the demo while the runbook's drill runs.
//!
//! Each block stands between `<!-- screen: NAME -->` and the end of its fence. Without `--bless` the drill is done and
//! each screen must still say what it is there to show; the documents are compared for the set of screens only, since
//! times differ from run to run.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};

use crate::workspace::{output, Workspace};
use crate::Report;

/// The documents, with the screens they show.
const DOCUMENTS: [(&str, &[&str]); 2] = [
    (
        "docs/ronctl.md",
        &[
            "ps",
            "inject",
            "tree",
            "explain",
            "explain-child",
            "top",
            "changes",
            "tail",
        ],
    ),
    ("README.md", &["tree", "explain"]),
];

/// A screen: its name, the words behind `ronctl`, and what it must say.
const SCREENS: [(&str, &str, &[&str]); 7] = [
    ("ps", "ps", &["ron-kernel"]),
    ("tree", "tree", &["heartbeat", "quarantined"]),
    (
        "explain",
        "explain",
        &[
            "heartbeat is quarantined",
            "injected fault: panic",
            "ronctl release heartbeat",
        ],
    ),
    (
        "explain-child",
        "explain heartbeat",
        &["quarantined", "5 are allowed"],
    ),
    ("top", "top --once", &["NOT READY", "quarantined"]),
    (
        "changes",
        "changes --since 1m",
        &["chaos inject", "restart", "quarantine"],
    ),
    (
        "tail",
        "tail --topic kernel --since 1m --count 22",
        &["ServiceCrashed", "Backoff"],
    ),
];

const INJECT: &str = "chaos inject --target ron-kernel --fault=panic";
const PATIENCE: Duration = Duration::from_secs(30);
const MARK: &str = "<!-- screen: ";

/// The demo, killed when dropped.
struct Demo {
    child: Child,
    ronctl: PathBuf,
    run_dir: PathBuf,
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Demo {
    fn start(root: &Path, binaries: &Path, dir: &Path) -> Result<Self> {
        let run_dir = dir.join("run");
        let child = Command::new(binaries.join("ron-kernel-demo"))
            .args(["--config", "./configs/ron-kernel.toml"])
            .args(["--observability.addr", "127.0.0.1:0"])
            .current_dir(root)
            .env("RON_RUN_DIR", &run_dir)
            .env_remove("RUST_BACKTRACE")
            .stdin(Stdio::null())
            .stdout(File::create(dir.join("demo.log"))?)
            .spawn()
            .context("the demo does not start")?;
        Ok(Demo {
            child,
            ronctl: binaries.join("ronctl"),
            run_dir,
        })
    }

    fn ask(&self, words: &str) -> Result<String> {
        output(
            Command::new(&self.ronctl)
                .args(words.split(' '))
                .env("RON_RUN_DIR", &self.run_dir),
        )
    }

    fn until(&self, words: &str, wanted: &str) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let said = self.ask(words);
            if said.as_ref().is_ok_and(|said| said.contains(wanted)) {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("`ronctl {words}` never said `{wanted}`: {said:?}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// As a person sees it: on a terminal of 100 columns, which `script` gives.
    fn screen(&self, words: &str) -> Result<String> {
        let command = format!(
            "stty cols 100 rows 40; exec {} --color never {words}",
            self.ronctl.display()
        );
        let shown = output(
            Command::new("script")
                .args([
                    "--quiet",
                    "--return",
                    "--echo",
                    "never",
                    "--command",
                    &command,
                    "/dev/null",
                ])
                .env("RON_RUN_DIR", &self.run_dir)
                .env("TERM", "xterm")
                .stdin(Stdio::null()),
        )?;
        Ok(plain(&shown))
    }
}

/// Text without carriage returns, escape sequences and blanks at line ends.
fn plain(shown: &str) -> String {
    let mut text = String::new();
    let mut rest = shown.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\r' => {}
            '\u{1b}' => {
                if rest.next() == Some('[') {
                    while rest.next().is_some_and(|c| !c.is_ascii_alphabetic()) {}
                }
            }
            c => text.push(c),
        }
    }
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n").trim_matches('\n').to_string()
}

/// The document with the fence behind each mark filled anew, and the names of its marks.
fn filled(document: &str, screens: &BTreeMap<&str, String>) -> Result<(String, Vec<String>)> {
    let (mut text, mut names) = (String::new(), Vec::new());
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        text.push_str(line);
        text.push('\n');
        let Some(name) = line.strip_prefix(MARK) else {
            continue;
        };
        let name = name.trim_end_matches("-->").trim();
        let screen = screens
            .get(name)
            .with_context(|| format!("there is no screen `{name}`"))?;
        let fence = lines.next().context("a mark stands at the end")?;
        if !fence.starts_with("```") {
            bail!("behind the mark `{name}` stands no fence");
        }
        if !lines.by_ref().any(|line| line == "```") {
            bail!("the fence of `{name}` has no end");
        }
        text.push_str(&format!("```console\n{screen}\n```\n"));
        names.push(name.to_string());
    }
    Ok((text, names))
}

pub(crate) fn run(workspace: &Workspace, bless: bool) -> Result<Report> {
    let mut report = Report::default();
    let root = &workspace.root;
    output(Command::new("cargo").current_dir(root).args([
        "build",
        "--quiet",
        "-p",
        "ron-kernel-demo",
        "-p",
        "ronctl",
    ]))?;
    let binaries = workspace.binaries();
    let dir = workspace.scratch("screens");
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir)?;
    let demo = Demo::start(root, &binaries, &dir)?;
    demo.until("explain", "ready, nothing is wrong")?;
    let mut screens = BTreeMap::new();
    let injected = demo.screen(INJECT)?;
    screens.insert("inject", format!("$ ronctl {INJECT}\n{injected}"));
    demo.until("tree", "quarantined")?;
    demo.until("explain", "not ready")?;
    demo.until("chaos list --json", "\"faults\":[]")?;
    for (name, words, says) in SCREENS {
        let screen = demo.screen(words)?;
        for said in says.iter().filter(|said| !screen.contains(**said)) {
            report
                .faults
                .push(format!("`ronctl {words}` does not say `{said}`:\n{screen}"));
        }
        screens.insert(name, format!("$ ronctl {words}\n{screen}"));
    }
    demo.ask("drain --wait")?;
    for (file, names) in DOCUMENTS {
        let path = root.join(file);
        let document = std::fs::read_to_string(&path).with_context(|| file.to_string())?;
        let (text, found) = filled(&document, &screens).with_context(|| file.to_string())?;
        if found != names {
            report
                .faults
                .push(format!("{file} shows {found:?}, expected {names:?}"));
        }
        if bless {
            std::fs::write(&path, text)?;
        }
    }
    report.facts.push(format!("{} screens", screens.len()));
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminals_text_becomes_plain() {
        assert_eq!(
            plain("\u{1b}[?25lab \u{1b}[1;31mc\u{1b}[0m  \r\nd\r\n\r\n"),
            "ab c\nd"
        );
    }

    #[test]
    fn the_fence_behind_a_mark_is_filled_and_nothing_else() {
        let screens = BTreeMap::from([("tree", "$ ronctl tree\nx".to_string())]);
        let document = "a\n<!-- screen: tree -->\n```console\nold\n```\n```\nkept\n```\n";
        let (text, names) = filled(document, &screens).unwrap();
        assert_eq!(
            text,
            "a\n<!-- screen: tree -->\n```console\n$ ronctl tree\nx\n```\n```\nkept\n```\n"
        );
        assert_eq!(names, ["tree"]);
        for broken in [
            "<!-- screen: other -->\n```\n```\n",
            "<!-- screen: tree -->\ntext\n",
            "<!-- screen: tree -->\n```\nopen\n",
            "<!-- screen: tree -->",
        ] {
            assert!(filled(broken, &screens).is_err(), "{broken}");
        }
    }
}
