//! The systemd unit.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::{demand, span, Kernel, Settings, DIR, PROGRAM, UNIT};
use crate::workspace::output;

/// A systemd unit: the assignments of each section in order.
pub(super) struct Unit(Vec<(String, String, String)>);

impl Unit {
    pub(super) fn parse(text: &str) -> Unit {
        let mut section = String::new();
        let mut assignments = Vec::new();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            match (line.strip_prefix('['), line.split_once('=')) {
                (Some(name), _) => section = name.trim_end_matches(']').to_string(),
                (None, Some((key, value))) => {
                    let (key, value) = (key.trim().to_string(), value.trim().to_string());
                    assignments.push((section.clone(), key, value));
                }
                // systemd-analyze says it better.
                (None, None) => {}
            }
        }
        Unit(assignments)
    }

    /// What is in force: of several assignments the last.
    pub(super) fn get(&self, section: &str, key: &str) -> Option<&str> {
        let found = self.0.iter().rev();
        let mut found = found.filter(|(of, name, _)| of == section && name == key);
        found.next().map(|(_, _, value)| value.as_str())
    }

    pub(super) fn span(&self, key: &str) -> Duration {
        let value = self.get("Service", key);
        value.and_then(span).unwrap_or_default()
    }
}

/// What the unit must say. Everything that has a number is judged apart.
const UNIT_SAYS: [(&str, &str, &str); 16] = [
    ("Service", "Type", "notify-reload"),
    ("Service", "NotifyAccess", "main"),
    ("Service", "Restart", "on-failure"),
    ("Service", "RestartPreventExitStatus", "2"),
    ("Service", "KillMode", "mixed"),
    ("Service", "Delegate", "yes"),
    ("Service", "OOMPolicy", "continue"),
    ("Service", "RuntimeDirectory", "ron"),
    ("Service", "RuntimeDirectoryMode", "0700"),
    ("Service", "NoNewPrivileges", "yes"),
    ("Service", "ProtectSystem", "strict"),
    ("Service", "PrivateTmp", "yes"),
    // Read-only cgroups would weaken the containment of process children.
    ("Service", "ProtectControlGroups", "no"),
    (
        "Service",
        "Environment",
        "RON_CONFIG=/etc/ron/ron-kernel.toml",
    ),
    ("Install", "WantedBy", "multi-user.target"),
    // The runbook stops it by both names.
    ("Install", "Alias", "ron-kernel-demo.service"),
];

pub(super) fn judge(text: &str, settings: &Settings, kernel: &Kernel) -> Vec<String> {
    let unit = Unit::parse(text);
    let mut faults = Vec::new();
    for (section, key, expected) in UNIT_SAYS {
        let found = unit.get(section, key).unwrap_or_default();
        demand(&mut faults, found == expected, || {
            format!("[{section}] {key}=`{found}`, expected `{expected}`")
        });
    }
    let start = unit.get("Service", "ExecStart").unwrap_or_default();
    let program = Path::new(start).file_name().unwrap_or_default();
    demand(&mut faults, program == PROGRAM, || {
        format!("ExecStart=`{start}` is not {PROGRAM} without arguments")
    });
    let user = unit.get("Service", "User").unwrap_or_default();
    demand(&mut faults, !["", "root", "0"].contains(&user), || {
        "User= is missing or root".to_string()
    });
    demand(
        &mut faults,
        unit.get("Service", "ExecReload").is_none(),
        || "ExecReload= would signal a second time: Type=notify-reload has done it".to_string(),
    );
    let (stop, ends) = (unit.span("TimeoutStopSec"), settings.ends(kernel));
    demand(&mut faults, stop > ends, || {
        format!("TimeoutStopSec {stop:?} is not above the {ends:?} that a stop takes")
    });
    // The manager's patience with the thread that reports must not be less than the kernel's with its workers.
    let (watchdog, least) = (unit.span("WatchdogSec"), 2 * kernel.stalled_after);
    demand(&mut faults, watchdog >= least, || {
        format!("WatchdogSec {watchdog:?} is below {least:?}, twice what /livez waits")
    });
    for key in ["TimeoutStartSec", "RestartSec"] {
        demand(&mut faults, !unit.span(key).is_zero(), || {
            format!("{key}= is missing or no time")
        });
    }
    faults
}

/// What systemd-analyze says of the unit beyond what an old one cannot know.
fn judge_verify(said: &str, systemd: u32) -> Vec<String> {
    let unknown_type = "Failed to parse service type, ignoring: notify-reload";
    let mut faults: Vec<String> = said
        .lines()
        .filter(|line| !(systemd < 253 && line.ends_with(unknown_type)))
        .filter_map(|line| line.split_once(UNIT))
        .map(|(_, what)| format!("systemd-analyze: {DIR}/{UNIT}{what}"))
        .collect();
    // It reads the file more than once.
    faults.sort();
    faults.dedup();
    faults
}

/// What systemd says of the unit with a program that exists; nothing where there is no systemd-analyze.
pub(super) fn verify(unit: &str, binary: &Path, dir: &Path) -> Result<Option<(u32, Vec<String>)>> {
    let Ok(version) = output(Command::new("systemd-analyze").arg("--version")) else {
        return Ok(None);
    };
    let systemd = version
        .split_whitespace()
        .nth(1)
        .and_then(|text| {
            text.split(|c: char| !c.is_ascii_digit())
                .next()?
                .parse()
                .ok()
        })
        .context("systemd-analyze --version says no number")?;
    let installed = format!("ExecStart=/usr/local/bin/{PROGRAM}");
    let present = format!("ExecStart={}", binary.display());
    let file = dir.join(UNIT);
    std::fs::write(&file, unit.replace(&installed, &present))?;
    let done = Command::new("systemd-analyze")
        .args(["--man=no", "verify"])
        .arg(&file)
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&done.stderr);
    Ok(Some((systemd, judge_verify(&said, systemd))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::tests::{each_change_is_a_fault, kernel, settings, SHIPPED_UNIT};

    fn of_unit(text: &str) -> Vec<String> {
        judge(text, &settings(0, 5, "127.0.0.1:9909"), &kernel())
    }

    #[test]
    fn a_unit_that_was_changed_for_the_worse_is_reported() {
        each_change_is_a_fault(
            SHIPPED_UNIT,
            of_unit,
            &[
                ("Type=notify-reload\n", "", "Type=`notify`"),
                ("\nDelegate=yes", "\n#Delegate=yes", "Delegate=``"),
                (
                    "ProtectControlGroups=no",
                    "ProtectControlGroups=yes",
                    "ProtectControlGroups=`yes`",
                ),
                ("=0700", "=0755", "RuntimeDirectoryMode=`0755`"),
                ("KillMode=mixed", "KillMode=control-group", "KillMode"),
                ("PreventExitStatus=2", "PreventExitStatus=1", "Prevent"),
                ("TimeoutStopSec=20s", "TimeoutStopSec=6s", "above the 6s"),
                ("TimeoutStopSec=20s\n", "", "TimeoutStopSec 0ns"),
                ("WatchdogSec=30s", "WatchdogSec=19s", "below 20s"),
                ("WatchdogSec=30s", "WatchdogSec=soon", "below 20s"),
                ("TimeoutStartSec=5min\n", "", "TimeoutStartSec="),
                ("User=ron", "User=root", "User="),
                ("/ron-kernel-demo\n", "/ron-kernel-demo -c x\n", "ExecStart"),
                ("RestartSec=2s\n", "RestartSec=2s\nExecReload=x\n", "Reload"),
                ("Alias=ron-kernel-demo.service", "", "[Install] Alias"),
            ],
        );
    }

    #[test]
    fn an_old_systemd_may_not_know_the_reloading_type_and_nothing_else() {
        let old =
            "/x/ron-kernel.service:21: Failed to parse service type, ignoring: notify-reload\n\
                   other.service:3: Unknown key 'X' in section [Service], ignoring.\n";
        assert_eq!(judge_verify(old, 252), Vec::<String>::new());
        assert_eq!(judge_verify(old, 253).len(), 1);
        let broken =
            "/x/ron-kernel.service:9: Unknown key 'Delegat' in section [Service], ignoring.\n";
        assert!(judge_verify(broken, 252)[0].contains("Delegat"));
    }
}
