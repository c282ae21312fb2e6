//! Sixty-second diagnosis: services with one seeded fault each, and whether the first screen of `ronctl explain` names
//! the root cause. `RON_BLESS=1 cargo test -p ronctl --test diagnosis` writes the table in docs/diagnosis.md.
#![cfg(unix)]

mod faults;

use faults::{Bed, Fault, FAULTS};
use ron_kernel::KernelHandle;
use serde_json::Value as Json;
use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const DOC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/diagnosis.md");
/// Far above what any fault takes to show.
const PATIENCE: Duration = Duration::from_secs(60);
/// What an operator sees without scrolling.
const ROWS: usize = 24;
const COLUMNS: usize = 80;
/// How many of the faults the first screen must name.
const NAMED_MIN: usize = FAULTS.len() - 1;

/// What `ronctl explain` said of one fault.
struct Seen {
    /// The first screen.
    screen: String,
    /// The subject and headline of the first finding.
    subject: String,
    headline: String,
    named: bool,
}

fn ronctl(dir: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ronctl"))
        .args(words)
        .env_clear()
        .env("RON_RUN_DIR", dir)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The first rows of a terminal that wraps long lines.
fn first_screen(text: &str) -> String {
    let rows = text.lines().flat_map(|line| {
        let line: Vec<char> = line.chars().collect();
        let rows: Vec<String> = match line.len() {
            0 => vec![String::new()],
            _ => line
                .chunks(COLUMNS)
                .map(|row| row.iter().collect())
                .collect(),
        };
        rows
    });
    let rows: Vec<String> = rows.take(ROWS).collect();
    rows.join("\n")
}

fn look(fault: &Fault) -> Seen {
    let dir = tempfile::tempdir().unwrap();
    let bed = Bed {
        dir: dir.path().to_path_buf(),
    };
    let run_dir = bed.dir.join("run");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let handle: KernelHandle = {
        let kernel = faults::kernel(fault, &bed);
        let running = runtime.block_on(kernel.start()).unwrap();
        let handle = running.handle().clone();
        // Ends with the runtime; some of these services do not end by themselves.
        std::mem::forget(running);
        handle
    };
    let ask = |words: &[&str]| {
        let output = ronctl(&run_dir, words);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        // A rejected reload is what one of them is about.
        let done = output.status.success() || words.contains(&"reload");
        assert!(done, "{words:?}: {stderr}");
    };
    // What is done to the service is done to one that runs.
    std::thread::sleep(Duration::from_millis(100));
    (fault.then)(&bed, &handle, &ask);
    let until = Instant::now() + PATIENCE;
    while !(fault.settled)(&handle) {
        assert!(
            Instant::now() < until,
            "{}: never happened: {:#?}",
            fault.what,
            handle.tree()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    let screen = first_screen(&text(&ronctl(&run_dir, &["explain"])));
    let json: Json =
        serde_json::from_str(&text(&ronctl(&run_dir, &["explain", "--json"]))).unwrap();
    let first = &json["findings"][0];
    let subject = first["subject"].as_str().unwrap_or_default().to_owned();
    let unwrapped = screen.replace('\n', "");
    let said = fault.says.iter().all(|word| unwrapped.contains(word));
    runtime.shutdown_background();
    Seen {
        named: said && subject == fault.subject,
        headline: first["what"]
            .as_str()
            .unwrap_or_default()
            .replace(bed.dir.to_str().unwrap(), "/etc/ron"),
        screen,
        subject,
    }
}

/// Numbers that differ from run to run: times, process ids, counts of more than two digits.
fn steady(headline: &str) -> String {
    let mut after_pid = false;
    let words = headline.split(' ').map(|word| {
        let digits = word.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let number = &word[..word.len() - digits.len()];
        let unit = digits.trim_end_matches(|c: char| !c.is_ascii_alphabetic());
        let is_time = matches!(unit, "ms" | "s" | "m" | "h");
        let is_count = unit.is_empty() && number.len() > 2 && !number.contains('.');
        let varies = !number.is_empty() && (is_time || is_count || after_pid);
        after_pid = word == "pid";
        if is_time && varies {
            // 900ms on one machine is 1.1s on another.
            format!("N{}", &digits[unit.len()..])
        } else if varies {
            format!("N{digits}")
        } else {
            word.to_owned()
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

fn page(seen: &[Seen]) -> String {
    let named = seen.iter().filter(|one| one.named).count();
    let mut page = format!(
        "# What `ronctl explain` says\n\n\
         {} services with one seeded fault each (`hosts/ronctl/tests/diagnosis/faults.rs`). The root cause counts as named \
         when the first finding is about it and the first screen of 80 x 24 gives the text that leads to the remedy. \
         Named: {named} of {}. [CONTRIBUTING](../CONTRIBUTING.md) has the command that writes this page; N stands for \
         what differs from run to run.\n\n\
         | seeded fault | first finding | named |\n|---|---|---|\n",
        seen.len(),
        seen.len(),
    );
    for (fault, seen) in FAULTS.iter().zip(seen) {
        let headline = steady(&seen.headline).replace('|', "\\|");
        let named = if seen.named { "yes" } else { "no" };
        let _ = writeln!(
            page,
            "| {} | `{}`: {headline} | {named} |",
            fault.what, seen.subject
        );
    }
    page
}

#[test]
fn the_first_screen_of_explain_names_the_root_cause_of_seeded_faults() {
    let seen: Vec<Seen> = std::thread::scope(|scope| {
        let looks: Vec<_> = FAULTS
            .iter()
            .map(|fault| scope.spawn(move || look(fault)))
            .collect();
        looks.into_iter().map(|look| look.join().unwrap()).collect()
    });
    for (fault, seen) in FAULTS.iter().zip(&seen).filter(|(_, seen)| !seen.named) {
        println!(
            "not named: {}\nexpected {} {:?}, got {}\n{}\n",
            fault.what, fault.subject, fault.says, seen.subject, seen.screen
        );
    }
    let named = seen.iter().filter(|one| one.named).count();
    assert!(named >= NAMED_MIN, "{named} of {} named", FAULTS.len());
    let page = page(&seen);
    if std::env::var_os("RON_BLESS").is_some() {
        std::fs::write(DOC, &page).unwrap();
    }
    let doc = std::fs::read_to_string(DOC).unwrap_or_default();
    assert_eq!(doc, page, "RON_BLESS=1 writes docs/diagnosis.md anew");
}
