//! The same setting, said in each of the four ways.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::time::Duration;

use ryker::config::{ConfigError, RykerConfig, RykerConfigBuilder, Warning};

/// A key that holds a number of something.
pub(crate) struct Number {
    pub(crate) key: &'static str,
    pub(crate) variable: &'static str,
    /// `B`, `ms` or nothing: what a variable and a file write behind the number.
    pub(crate) unit: &'static str,
    pub(crate) default: u64,
    /// The bounds, and how they are shown.
    pub(crate) low: (u64, &'static str),
    pub(crate) high: (u64, &'static str),
    /// What else must be set so that the bounds do not contradict another key.
    pub(crate) beside: Option<(&'static str, u64)>,
    pub(crate) set: fn(RykerConfigBuilder, u64) -> RykerConfigBuilder,
    pub(crate) get: fn(&RykerConfig) -> u64,
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

pub(crate) const NUMBERS: [Number; 9] = [
    Number {
        key: "defaults.mailbox_capacity",
        variable: "RYKER_DEFAULT_MAILBOX_CAPACITY",
        unit: "",
        default: 256,
        low: (1, "1"),
        high: (1_048_576, "1048576"),
        beside: None,
        set: |b, n| b.mailbox_capacity(n as usize),
        get: |c| c.mailbox_capacity() as u64,
    },
    Number {
        key: "defaults.max_msg_bytes",
        variable: "RYKER_DEFAULT_MAX_MSG_BYTES",
        unit: "B",
        default: 65_536,
        low: (1_024, "1KiB"),
        high: (1_048_576, "1MiB"),
        beside: None,
        set: |b, n| b.max_msg_bytes(n as usize),
        get: |c| c.max_msg_bytes() as u64,
    },
    Number {
        key: "defaults.deadline",
        variable: "RYKER_DEFAULT_DEADLINE",
        unit: "ms",
        default: 1_000,
        low: (10, "10ms"),
        high: (60_000, "1m"),
        beside: None,
        set: |b, n| b.deadline(Duration::from_millis(n)),
        get: |c| millis(c.deadline()),
    },
    Number {
        key: "supervisor.backoff_base_ms",
        variable: "RYKER_BACKOFF_BASE_MS",
        unit: "",
        default: 100,
        low: (1, "1"),
        high: (3_600_000, "3600000"),
        beside: Some(("supervisor.backoff_cap_ms", 3_600_000)),
        set: |b, n| b.backoff_base(Duration::from_millis(n)),
        get: |c| millis(c.backoff_base()),
    },
    Number {
        key: "supervisor.backoff_cap_ms",
        variable: "RYKER_BACKOFF_CAP_MS",
        unit: "",
        default: 5_000,
        low: (1, "1"),
        high: (3_600_000, "3600000"),
        beside: Some(("supervisor.backoff_base_ms", 1)),
        set: |b, n| b.backoff_cap(Duration::from_millis(n)),
        get: |c| millis(c.backoff_cap()),
    },
    Number {
        key: "supervisor.rapid_fail_threshold",
        variable: "RYKER_RAPID_FAIL_THRESHOLD",
        unit: "",
        default: 5,
        low: (1, "1"),
        high: (1_000, "1000"),
        beside: None,
        set: |b, n| b.rapid_fail_threshold(n as u32),
        get: |c| c.rapid_fail_threshold().into(),
    },
    Number {
        key: "supervisor.rapid_fail_window",
        variable: "RYKER_RAPID_FAIL_WINDOW",
        unit: "ms",
        default: 10_000,
        low: (1_000, "1s"),
        high: (86_400_000, "24h"),
        beside: None,
        set: |b, n| b.rapid_fail_window(Duration::from_millis(n)),
        get: |c| millis(c.rapid_fail_window()),
    },
    Number {
        key: "fairness.batch_messages",
        variable: "RYKER_BATCH_MESSAGES",
        unit: "",
        default: 32,
        low: (1, "1"),
        high: (1_048_576, "1048576"),
        beside: Some(("fairness.yield_every_n_msgs", 1_048_576)),
        set: |b, n| b.batch_messages(n as u32),
        get: |c| c.batch_messages().into(),
    },
    Number {
        key: "fairness.yield_every_n_msgs",
        variable: "RYKER_YIELD_EVERY_N",
        unit: "",
        default: 64,
        low: (1, "1"),
        high: (1_048_576, "1048576"),
        beside: Some(("fairness.batch_messages", 1)),
        set: |b, n| b.yield_every_n_msgs(n as u32),
        get: |c| c.yield_every_n_msgs().into(),
    },
];

/// A key that holds true or false.
pub(crate) struct Flag {
    pub(crate) key: &'static str,
    pub(crate) variable: &'static str,
    pub(crate) default: bool,
    pub(crate) set: fn(RykerConfigBuilder, bool) -> RykerConfigBuilder,
    pub(crate) get: fn(&RykerConfig) -> bool,
}

pub(crate) const FLAGS: [Flag; 5] = [
    Flag {
        key: "supervisor.decorrelated_jitter",
        variable: "RYKER_DECORRELATED_JITTER",
        default: true,
        set: RykerConfigBuilder::decorrelated_jitter,
        get: RykerConfig::decorrelated_jitter,
    },
    Flag {
        key: "observability.enable_metrics",
        variable: "RYKER_ENABLE_METRICS",
        default: true,
        set: RykerConfigBuilder::enable_metrics,
        get: RykerConfig::enable_metrics,
    },
    Flag {
        key: "observability.queue_depth_sampling",
        variable: "RYKER_QUEUE_DEPTH_SAMPLING",
        default: true,
        set: RykerConfigBuilder::queue_depth_sampling,
        get: RykerConfig::queue_depth_sampling,
    },
    Flag {
        key: "amnesia.enabled",
        variable: "RYKER_AMNESIA",
        default: false,
        set: RykerConfigBuilder::amnesia,
        get: RykerConfig::amnesia,
    },
    Flag {
        key: "amnesia.zeroize_on_drop",
        variable: "RYKER_ZEROIZE",
        default: true,
        set: RykerConfigBuilder::zeroize_on_drop,
        get: RykerConfig::zeroize_on_drop,
    },
];

pub(crate) const LEVEL: (&str, &str) = ("observability.span_level", "RYKER_SPAN_LEVEL");

impl Number {
    pub(crate) fn of(key: &str) -> &'static Self {
        NUMBERS.iter().find(|number| number.key == key).unwrap()
    }

    /// As a variable has it.
    pub(crate) fn text(&self, n: u64) -> String {
        format!("{n}{}", self.unit)
    }

    /// As a file has it.
    pub(crate) fn literal(&self, n: u64) -> String {
        if self.unit.is_empty() {
            n.to_string()
        } else {
            format!("\"{n}{}\"", self.unit)
        }
    }
}

pub(crate) fn no_file(path: &Path) -> io::Result<Vec<u8>> {
    panic!("{} is read", path.display())
}

pub(crate) fn with_warnings(
    pairs: &[(&str, &str)],
) -> (Result<RykerConfig, ConfigError>, Vec<Warning>) {
    let pairs = pairs
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)));
    RykerConfig::from_env(pairs, no_file)
}

/// From variables that are not to be warned of.
pub(crate) fn variables(pairs: &[(&str, &str)]) -> Result<RykerConfig, ConfigError> {
    let (result, warnings) = with_warnings(pairs);
    assert_eq!(warnings, []);
    result
}

/// From TOML, given keys with their section and literals.
pub(crate) fn toml(pairs: &[(&str, &str)]) -> Result<RykerConfig, ConfigError> {
    let lines: Vec<String> = pairs
        .iter()
        .map(|(key, literal)| format!("{key} = {literal}"))
        .collect();
    RykerConfig::from_toml(&lines.join("\n"))
}

/// From JSON, given keys with their section and literals.
pub(crate) fn json(pairs: &[(&str, &str)]) -> Result<RykerConfig, ConfigError> {
    let mut sections: Vec<(&str, Vec<String>)> = Vec::new();
    for (key, literal) in pairs {
        let (section, leaf) = key.split_once('.').unwrap();
        let member = format!("\"{leaf}\": {literal}");
        match sections.iter_mut().find(|(name, _)| *name == section) {
            Some((_, members)) => members.push(member),
            None => sections.push((section, vec![member])),
        }
    }
    let sections: Vec<String> = sections
        .iter()
        .map(|(name, members)| format!("\"{name}\": {{{}}}", members.join(", ")))
        .collect();
    RykerConfig::from_json(&format!("{{{}}}", sections.join(", ")))
}

/// The one problem: its key and why.
pub(crate) fn only(result: Result<RykerConfig, ConfigError>) -> (String, String) {
    let error = result.unwrap_err();
    assert_eq!(error.problems().len(), 1, "{error}");
    let problem = &error.problems()[0];
    (
        problem.key().unwrap_or_default().to_owned(),
        problem.what().to_owned(),
    )
}
