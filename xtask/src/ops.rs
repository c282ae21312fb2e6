//! docs/ops: the systemd unit, the image and the Kubernetes manifest against each other, the configurations they come
//! with, and the program: it is run once with what they rely on.

mod image;
mod manifest;
mod rehearsal;
mod unit;
mod yaml;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::workspace::{output, Workspace};
use crate::Report;
use image::Image;
use manifest::{seconds, Manifest, PROBES};
use unit::Unit;

const DIR: &str = "docs/ops";
const UNIT: &str = "ron-kernel.service";
/// What the unit's configuration is called, here and where it is installed.
const FILE: &str = "ron-kernel.toml";
const INSTALLED: &str = "/etc/ron/ron-kernel.toml";
const PROGRAM: &str = "ron-kernel-demo";

/// What the pages rely on in the kernel.
#[derive(Debug, Clone)]
struct Kernel {
    /// Silence of the workers after which `/livez` is 503.
    stalled_after: Duration,
    /// What an exit may take beyond the drain.
    exit_slack: Duration,
    /// Of the admin listener unless configured.
    port: u16,
    version: String,
}

/// A configuration as the program reads it.
#[derive(Debug, Clone)]
struct Settings {
    linger: Duration,
    deadline: Duration,
    addr: SocketAddr,
    chaos: bool,
}

impl Settings {
    /// From `config print --json`.
    fn of(printed: &str) -> Result<Settings> {
        let printed: Value = serde_json::from_str(printed)?;
        let values: BTreeMap<&str, &Value> = printed["values"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|value| Some((value["key"].as_str()?, &value["value"])))
            .collect();
        let value = |key: &str| {
            let value = values.get(key).copied();
            value.with_context(|| format!("the program prints no `{key}`"))
        };
        let length = |key: &str| {
            let text = value(key)?.as_str().and_then(span);
            text.with_context(|| format!("`{key}` is no duration"))
        };
        Ok(Settings {
            linger: length("drain.linger")?,
            deadline: length("drain.deadline")?,
            addr: value("observability.addr")?
                .as_str()
                .unwrap_or_default()
                .parse()?,
            chaos: value("chaos.armed")?.as_bool().unwrap_or(true),
        })
    }

    /// When the process has ended, from SIGTERM on.
    fn ends(&self, kernel: &Kernel) -> Duration {
        self.linger + self.deadline + kernel.exit_slack
    }
}

/// A length of time as systemd, the kernel and Docker write it.
fn span(text: &str) -> Option<Duration> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let number: u64 = text[..digits].parse().ok()?;
    let millis = match &text[digits..] {
        "ms" => 1,
        "" | "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    Some(Duration::from_millis(number * millis))
}

/// `const NAME: Duration = Duration::from_secs(N);` in a source.
fn seconds_of(source: &str, name: &str) -> Option<Duration> {
    let head = format!("const {name}: Duration = Duration::from_secs(");
    let number = source.split_once(&head)?.1.split_once(')')?.0;
    Some(Duration::from_secs(number.parse().ok()?))
}

/// Adds a fault unless `holds`.
fn demand(faults: &mut Vec<String>, holds: bool, fault: impl FnOnce() -> String) {
    if !holds {
        faults.push(fault());
    }
}

/// What the operator's page says in numbers.
fn judge_page(page: &str, unit: &Unit, manifest: &Manifest, kernel: &Kernel) -> Vec<String> {
    let mut faults = Vec::new();
    let (stop, grace) = (
        unit.span("TimeoutStopSec"),
        seconds(&manifest.pod()["terminationGracePeriodSeconds"]),
    );
    let watchdog = unit.span("WatchdogSec");
    let (first, last) = (
        kernel.stalled_after + watchdog / 2,
        kernel.stalled_after + watchdog,
    );
    for said in [
        format!("\n| {} s | | SIGKILL", stop.as_secs()),
        format!("\n| {} s | | SIGKILL", grace.as_secs()),
        format!("SIGABRT {} to {} s after", first.as_secs(), last.as_secs()),
        format!(
            "no worker has polled for {} s",
            kernel.stalled_after.as_secs()
        ),
        format!(
            "`TimeoutStartSec` ({} min)",
            unit.span("TimeoutStartSec").as_secs() / 60
        ),
    ] {
        demand(&mut faults, page.contains(&said), || {
            format!("README.md does not say `{}`", said.trim())
        });
    }
    faults
}

/// The program with nothing of this environment that would configure it.
fn program(binary: &Path) -> Command {
    let mut command = Command::new(binary);
    command.stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        let own = ["RON_", "NOTIFY_", "WATCHDOG_", "LISTEN_", "RUST_LOG"];
        if own
            .iter()
            .any(|head| name.to_string_lossy().starts_with(head))
        {
            command.env_remove(name);
        }
    }
    command
}

pub(crate) fn run(workspace: &Workspace, _: bool) -> Result<Report> {
    let mut report = Report::default();
    let root = &workspace.root;
    output(
        Command::new("cargo")
            .current_dir(root)
            .args(["build", "--quiet", "-p", PROGRAM]),
    )?;
    let binary = workspace.binaries().join(PROGRAM);
    let dir = workspace.scratch("ops");
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir)?;

    let page = |name: &str| workspace.read(&format!("{DIR}/{name}"));
    let (unit_text, image_text) = (page(UNIT)?, page("Dockerfile")?);
    let (unit, image) = (Unit::parse(&unit_text), Image::parse(&image_text));
    let manifest = match Manifest::parse(&page("kubernetes.yaml")?) {
        Ok(manifest) => manifest,
        Err(fault) => {
            report.faults.push(format!("kubernetes.yaml: {fault}"));
            return Ok(report);
        }
    };
    let config = dir.join("configmap.toml");
    std::fs::write(&config, manifest.config())?;

    let settings = |file: &Path| -> Result<Settings> {
        output(program(&binary).args(["config", "validate"]).arg(file))?;
        let printed = output(
            program(&binary)
                .arg("--config")
                .arg(file)
                .args(["config", "print", "--json"]),
        )?;
        Settings::of(&printed).with_context(|| file.display().to_string())
    };
    let empty = dir.join("empty.toml");
    std::fs::write(&empty, "")?;
    let const_of = |file: &str, name: &str| {
        let found = seconds_of(&workspace.read(file)?, name);
        found.with_context(|| format!("{file}: no `const {name}` in seconds"))
    };
    let kernel = Kernel {
        stalled_after: const_of("ron-metrics/src/health.rs", "STALLED_AFTER")?,
        exit_slack: const_of("ron-kernel/src/run.rs", "EXIT_SLACK")?,
        port: settings(&empty)?.addr.port(),
        version: workspace
            .package(PROGRAM)
            .context("no such package")?
            .version
            .clone(),
    };
    let of_unit = settings(&root.join(DIR).join(FILE))?;
    let of_image = settings(&root.join(DIR).join("container.toml"))?;
    let of_manifest = settings(&config)?;
    let armed = [&of_unit, &of_image, &of_manifest];
    demand(
        &mut report.faults,
        armed.iter().all(|settings| !settings.chaos),
        || "a configuration for production arms chaos".to_string(),
    );

    let in_tree = |source: &str| root.join(source).exists();
    let judged = [
        (UNIT, unit::judge(&unit_text, &of_unit, &kernel)),
        (
            "Dockerfile",
            image::judge(&image_text, &of_image, &kernel, in_tree),
        ),
        (
            "kubernetes.yaml",
            manifest::judge(&manifest, &of_manifest, &kernel, &image, &unit),
        ),
        (
            "README.md",
            judge_page(&page("README.md")?, &unit, &manifest, &kernel),
        ),
    ];
    for (name, faults) in judged {
        let faults = faults.into_iter();
        report
            .faults
            .extend(faults.map(|fault| format!("{DIR}/{name}: {fault}")));
    }
    match unit::verify(&unit_text, &binary, &dir)? {
        None => report
            .facts
            .push("no systemd-analyze here: the unit is not verified".to_string()),
        Some((systemd, faults)) => {
            report.facts.push(format!("verified by systemd {systemd}"));
            report.faults.extend(faults);
        }
    }
    if !report.faults.is_empty() {
        return Ok(report);
    }
    let play = rehearsal::Play {
        dir: &dir,
        binary: &binary,
        config: &config,
        watchdog: unit.span("WatchdogSec"),
        probes: PROBES.map(|(probe, _)| manifest.probe(probe).0),
        health_check: image.exec("HEALTHCHECK"),
        pre_stop: manifest.pre_stop(),
        patience: of_manifest.ends(&kernel),
    };
    report.faults = play.perform()?;
    if report.faults.is_empty() {
        report
            .facts
            .push("the program does what unit, image and manifest rely on".to_string());
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const SHIPPED_UNIT: &str = include_str!("../../docs/ops/ron-kernel.service");
    pub(super) const SHIPPED_IMAGE: &str = include_str!("../../docs/ops/Dockerfile");
    pub(super) const SHIPPED_MANIFEST: &str = include_str!("../../docs/ops/kubernetes.yaml");
    pub(super) const SHIPPED_PAGE: &str = include_str!("../../docs/ops/README.md");

    pub(super) fn kernel() -> Kernel {
        Kernel {
            stalled_after: Duration::from_secs(10),
            exit_slack: Duration::from_secs(1),
            port: 9909,
            version: "0.1.0".to_string(),
        }
    }

    pub(super) fn settings(linger: u64, deadline: u64, addr: &str) -> Settings {
        Settings {
            linger: Duration::from_secs(linger),
            deadline: Duration::from_secs(deadline),
            addr: addr.parse().unwrap(),
            chaos: false,
        }
    }

    /// What is shipped has no fault, and each of the changes has the one that is expected of it.
    pub(super) fn each_change_is_a_fault(
        shipped: &str,
        judge: impl Fn(&str) -> Vec<String>,
        changes: &[(&str, &str, &str)],
    ) {
        assert_eq!(judge(shipped), Vec::<String>::new());
        for (from, to, expected) in changes {
            assert!(shipped.contains(from), "`{from}` is not shipped");
            let faults = judge(&shipped.replace(from, to));
            assert!(
                faults.iter().any(|fault| fault.contains(expected)),
                "`{from}` -> `{to}`: {faults:?}"
            );
        }
    }

    #[test]
    fn the_page_has_the_numbers_of_the_files() {
        let manifest = Manifest::parse(SHIPPED_MANIFEST).unwrap();
        let of = |unit: &str| judge_page(SHIPPED_PAGE, &Unit::parse(unit), &manifest, &kernel());
        assert_eq!(of(SHIPPED_UNIT), Vec::<String>::new());
        for (from, to, expected) in [
            (
                "TimeoutStopSec=20s",
                "TimeoutStopSec=25s",
                "| 25 s | | SIGKILL",
            ),
            (
                "WatchdogSec=30s",
                "WatchdogSec=1min",
                "SIGABRT 40 to 70 s after",
            ),
            ("TimeoutStartSec=5min", "TimeoutStartSec=10min", "(10 min)"),
        ] {
            let faults = of(&SHIPPED_UNIT.replace(from, to));
            assert!(faults[0].contains(expected), "{faults:?}");
        }
    }

    #[test]
    fn lengths_of_time_are_read_in_every_spelling() {
        for (text, expected) in [
            ("250ms", Some(250)),
            ("20", Some(20_000)),
            ("20s", Some(20_000)),
            ("5min", Some(300_000)),
            ("1m", Some(60_000)),
            ("1h", Some(3_600_000)),
            ("s", None),
            ("1 s", None),
            ("infinity", None),
        ] {
            assert_eq!(span(text), expected.map(Duration::from_millis), "{text}");
        }
        let source = "pub const A: Duration = Duration::from_secs(10);";
        assert_eq!(seconds_of(source, "A"), Some(Duration::from_secs(10)));
        assert_eq!(seconds_of(source, "B"), None);
    }

    #[test]
    fn settings_are_read_as_the_program_prints_them() {
        let printed = |value: &str| {
            format!(
                r#"{{"values":[{{"key":"drain.linger","value":"{value}"}},
                {{"key":"drain.deadline","value":"1m"}},{{"key":"chaos.armed","value":false}},
                {{"key":"observability.addr","value":"[::]:1"}}]}}"#
            )
        };
        let settings = Settings::of(&printed("5s")).unwrap();
        assert_eq!(settings.ends(&kernel()), Duration::from_secs(66));
        assert!(settings.addr.ip().is_unspecified() && !settings.chaos);
        assert!(Settings::of(&printed("5")).is_ok());
        assert!(Settings::of(&printed("")).is_err());
        assert!(Settings::of("{}").is_err());
    }
}
