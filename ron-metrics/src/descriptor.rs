//! What a family is called, what kind it is, and which names are refused.

use std::collections::HashSet;
use std::fmt;

use crate::histogram::Bounds;

/// Kind of a metric family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// Only grows; its name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Observations counted by bucket.
    Histogram,
    /// Always 1; the labels are the message. Its name ends in `_info`.
    Info,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Info => "info",
        })
    }
}

/// Why a metric was not registered. The caller's mistake each time, and nothing was registered.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MetricsError {
    /// The name, or one of the sample names it produces, is taken.
    #[error(
        "metric `{name}` is already registered as {existing}; resolve a handle once and clone it"
    )]
    Duplicate {
        /// The name asked for.
        name: String,
        /// The family that holds it.
        existing: String,
    },
    /// The name, help, labels or buckets break a rule of the exposition formats.
    #[error("metric `{name}`: {problem}")]
    Invalid {
        /// The name asked for.
        name: String,
        /// The rule.
        problem: Rejected,
    },
}

impl MetricsError {
    pub(crate) fn invalid(name: &str, problem: Rejected) -> MetricsError {
        MetricsError::Invalid {
            name: name.to_string(),
            problem,
        }
    }
}

/// The rule that a registration broke.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejected {
    /// Not a metric name.
    #[error("a name is [a-zA-Z_][a-zA-Z0-9_]*, at most 200 bytes")]
    Name,
    /// A counter without `_total`.
    #[error("a counter's name ends in `_total`")]
    CounterSuffix,
    /// A suffix that the formats give a meaning.
    #[error("the suffix `{suffix}` is reserved for {owner}")]
    ReservedSuffix {
        /// The suffix.
        suffix: &'static str,
        /// What it belongs to.
        owner: &'static str,
    },
    /// A name that Prometheus itself writes.
    #[error(
        "the name is reserved: Prometheus writes `up`, `ALERTS*`, `scrape_*` and `__*` itself"
    )]
    ReservedName,
    /// A bad or repeated label name.
    #[error("label `{label}`: label names are [a-zA-Z_][a-zA-Z0-9_]*, distinct, not `le`, `quantile` or `__*`")]
    Label {
        /// The label.
        label: String,
    },
    /// A family without labels.
    #[error("a family needs at least one label; without labels it is a single instrument")]
    NoLabels,
    /// Help that nobody can read.
    #[error("help must be one non-empty line without control characters")]
    Help,
    /// No buckets, or too many.
    #[error("{count} buckets; 1 to 64 finite bounds are allowed, `+Inf` is added")]
    BucketCount {
        /// How many were given.
        count: usize,
    },
    /// Buckets out of order.
    #[error("buckets must be finite and strictly increasing")]
    BucketOrder,
    /// A service name that cannot name anything.
    #[error("a service name is 1 to 200 bytes without control characters")]
    Service,
}

/// A registered family, as scrapes and the contract file see it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Descriptor {
    pub(crate) name: String,
    pub(crate) help: String,
    pub(crate) kind: Kind,
    pub(crate) labels: Vec<String>,
    /// Empty except for histograms.
    pub(crate) bounds: Bounds,
}

/// Suffixes that are units. OpenMetrics states the unit in a line of its own.
const UNITS: &[&str] = &[
    "seconds", "bytes", "ratio", "celsius", "meters", "volts", "amperes", "joules", "grams",
];

impl Descriptor {
    pub(crate) fn new(
        kind: Kind,
        name: &str,
        help: &str,
        labels: &[&str],
        bounds: Bounds,
    ) -> Result<Descriptor, MetricsError> {
        let checked = check_name(kind, name)
            .and_then(|()| check_labels(labels))
            .and_then(|()| check_help(help));
        checked.map_err(|problem| MetricsError::invalid(name, problem))?;
        Ok(Descriptor {
            name: name.to_string(),
            help: help.to_string(),
            kind,
            labels: labels.iter().map(|label| (*label).to_string()).collect(),
            bounds,
        })
    }

    /// The name of the OpenMetrics family: without `_total` and `_info`.
    pub(crate) fn family(&self) -> &str {
        let suffix = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        self.name.strip_suffix(suffix).unwrap_or(&self.name)
    }

    /// The unit that the name ends in, if any.
    pub(crate) fn unit(&self) -> Option<&'static str> {
        let (_, last) = self.family().rsplit_once('_')?;
        UNITS.iter().find(|unit| **unit == last).copied()
    }

    /// One line of the metric contract.
    pub(crate) fn contract(&self) -> String {
        let labels = self.labels.join(",");
        let bounds: Vec<String> = self.bounds.iter().map(f64::to_string).collect();
        let bounds = bounds.join(",");
        let or_none = |text: &str| {
            if text.is_empty() {
                "-".to_string()
            } else {
                text.to_string()
            }
        };
        format!(
            "{}\t{}\tunit={}\tlabels={}\tbuckets={}\n",
            self.name,
            self.kind,
            self.unit().unwrap_or("-"),
            or_none(&labels),
            or_none(&bounds),
        )
    }

    /// Every name that may stand in front of a sample or a `# TYPE` of this family, in either format.
    pub(crate) fn sample_names(&self) -> Vec<String> {
        let family = self.family();
        let suffixes: &[&str] = match self.kind {
            Kind::Counter => &["", "_total", "_created"],
            Kind::Gauge => &[""],
            Kind::Histogram => &["", "_bucket", "_sum", "_count", "_created"],
            Kind::Info => &["", "_info"],
        };
        suffixes
            .iter()
            .map(|suffix| format!("{family}{suffix}"))
            .collect()
    }
}

fn check_name(kind: Kind, name: &str) -> Result<(), Rejected> {
    if !is_identifier(name) {
        return Err(Rejected::Name);
    }
    let reserved = name == "up"
        || ["__", "ALERTS", "scrape_"]
            .iter()
            .any(|p| name.starts_with(p));
    if reserved {
        return Err(Rejected::ReservedName);
    }
    if kind == Kind::Counter && !name.ends_with("_total") {
        return Err(Rejected::CounterSuffix);
    }
    let own = match kind {
        Kind::Counter => "_total",
        Kind::Info => "_info",
        Kind::Gauge | Kind::Histogram => "",
    };
    let base = name.strip_suffix(own).unwrap_or(name);
    let taken = [
        ("_total", "counters"),
        ("_bucket", "histograms"),
        ("_sum", "histograms"),
        ("_count", "histograms"),
        ("_created", "creation times"),
        ("_info", "info metrics"),
    ];
    for (suffix, owner) in taken {
        if base.ends_with(suffix) || base.is_empty() {
            return Err(Rejected::ReservedSuffix { suffix, owner });
        }
    }
    Ok(())
}

fn check_labels(labels: &[&str]) -> Result<(), Rejected> {
    let mut seen = HashSet::new();
    for label in labels {
        let reserved = label.starts_with("__") || ["le", "quantile"].contains(label);
        if !is_identifier(label) || reserved || !seen.insert(label) {
            return Err(Rejected::Label {
                label: (*label).to_string(),
            });
        }
    }
    Ok(())
}

fn check_help(help: &str) -> Result<(), Rejected> {
    if help.trim().is_empty() || help.chars().any(char::is_control) {
        return Err(Rejected::Help);
    }
    Ok(())
}

fn is_identifier(name: &str) -> bool {
    let mut bytes = name.bytes();
    let first = bytes.next();
    first.is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && name.len() <= 200
}
