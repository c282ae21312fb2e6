//! The accounts of a shutdown.

use crate::supervisor::machine::Accounts;
use serde::ser::{Serialize, SerializeMap, Serializer};
use std::time::Duration;

/// What became of every child that had been started.
///
/// `started = stopped + aborted + leaked + quarantined`, always.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Children that ever ran, including those removed since.
    pub started: u64,
    /// Ended by themselves or within their stop timeout.
    pub stopped: u64,
    /// Dropped at an await after their stop timeout.
    pub aborted: u64,
    /// Still running: a thread or poll that never returned.
    pub leaked: u64,
    /// Down in quarantine when the shutdown came.
    pub quarantined: u64,
    /// From the announcement to the end of the last child.
    pub took: Duration,
    /// Ids of the aborted and leaked.
    pub stragglers: Vec<String>,
    /// Set when a child's policy ended the kernel: which child and why. Exit code 1.
    pub failure: Option<String>,
}

impl ShutdownReport {
    pub(crate) fn new(
        accounts: Accounts,
        took: Duration,
        failure: Option<String>,
    ) -> ShutdownReport {
        ShutdownReport {
            started: accounts.started,
            stopped: accounts.stopped,
            aborted: accounts.aborted,
            leaked: accounts.leaked,
            quarantined: accounts.quarantined,
            took,
            stragglers: accounts
                .stragglers
                .iter()
                .map(|id| id.to_string())
                .collect(),
            failure,
        }
    }

    /// Whether the accounts add up; they do, and tests and hosts check it.
    pub fn is_balanced(&self) -> bool {
        self.started == self.stopped + self.aborted + self.leaked + self.quarantined
    }
}

impl Serialize for ShutdownReport {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("started", &self.started)?;
        map.serialize_entry("stopped", &self.stopped)?;
        map.serialize_entry("aborted", &self.aborted)?;
        map.serialize_entry("leaked", &self.leaked)?;
        map.serialize_entry("quarantined", &self.quarantined)?;
        map.serialize_entry("took_ms", &crate::event::millis(self.took))?;
        map.serialize_entry("stragglers", &self.stragglers)?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_serialises_as_promised() {
        let report = ShutdownReport {
            started: 3,
            stopped: 1,
            aborted: 1,
            leaked: 1,
            took: Duration::from_millis(1234),
            stragglers: vec!["slow".into(), "stuck".into()],
            ..ShutdownReport::default()
        };
        assert!(report.is_balanced());
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            r#"{"started":3,"stopped":1,"aborted":1,"leaked":1,"quarantined":0,"took_ms":1234,"stragglers":["slow","stuck"]}"#
        );
    }
}
