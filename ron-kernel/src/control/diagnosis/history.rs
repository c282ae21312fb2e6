//! What the record says of each child: when its present trouble began, how often it failed, who asked for it.

use super::{Entry, EntryKind, Subject};
use std::collections::HashMap;
use std::time::{Duration, SystemTime};

/// An incarnation that ran for longer was well; the next failure is a trouble of its own. The default window of
/// restart budgets.
const WELL_AFTER: Duration = Duration::from_secs(60);
/// Who changed something this long before a trouble began is named with it.
pub(super) const SUSPECT: Duration = Duration::from_secs(120);
/// Times of one event differ by this much between the tree, readiness and the record, or between two children
/// that fail of one cause.
pub(super) const SLACK: Duration = Duration::from_secs(1);

/// How the supervisor words what an operator stopped.
pub(super) const BY_OPERATOR: &str = "stopped by an operator";

/// What follows an abort until a child counts as leaked, with room to spare.
const END_OF_STOP: Duration = Duration::from_secs(6);

/// The record by subject, in order of time.
pub(super) struct History<'a> {
    subjects: HashMap<&'a str, Vec<&'a Entry>>,
    configs: Vec<&'a Entry>,
    rejected: Option<&'a Entry>,
    shutdown: Option<&'a Entry>,
}

/// The failures of one trouble.
#[derive(Clone, Copy)]
pub(super) struct Failures<'a> {
    pub(super) count: usize,
    pub(super) first: &'a Entry,
    pub(super) last: &'a Entry,
}

impl<'a> History<'a> {
    pub(super) fn new(record: &'a [Entry]) -> History<'a> {
        let mut entries: Vec<&Entry> = record.iter().collect();
        entries.sort_by_key(|entry| (entry.at, entry.seq));
        let mut history = History {
            subjects: HashMap::new(),
            configs: Vec::new(),
            rejected: None,
            shutdown: None,
        };
        for entry in entries {
            match entry.kind {
                EntryKind::Config => history.configs.push(entry),
                EntryKind::Rejected => history.rejected = Some(entry),
                EntryKind::Shutdown => history.shutdown = Some(entry),
                _ => {}
            }
            if let Some(subject) = &entry.subject {
                history.subjects.entry(subject).or_default().push(entry);
            }
        }
        history
    }

    pub(super) fn rejected(&self) -> Option<&'a Entry> {
        self.rejected
    }

    pub(super) fn shutdown(&self) -> Option<&'a Entry> {
        self.shutdown
    }

    fn of(&self, id: &str) -> &[&'a Entry] {
        self.subjects.get(id).map_or(&[], Vec::as_slice)
    }

    /// The failures of the present trouble; `None` where the record knows of none, or the child is not failing.
    pub(super) fn failures(&self, subject: &Subject) -> Option<Failures<'a>> {
        subject.failure()?;
        let well_after = WELL_AFTER + subject.start_timeout.unwrap_or_default();
        let mut found: Option<Failures<'a>> = None;
        // The start of the incarnation that fails next, or the failure before it.
        let mut ran_from: Option<SystemTime> = None;
        for entry in self.of(&subject.id) {
            match entry.kind {
                EntryKind::Restart => ran_from = Some(entry.at),
                EntryKind::Crash => {
                    let was_well = ran_from.is_some_and(|from| past(entry.at, from) > well_after);
                    ran_from = Some(entry.at);
                    found = Some(match found.filter(|_| !was_well) {
                        Some(failures) => Failures {
                            count: failures.count + 1,
                            last: entry,
                            ..failures
                        },
                        None => Failures {
                            count: 1,
                            first: entry,
                            last: entry,
                        },
                    });
                }
                _ => {}
            }
        }
        found
    }

    /// When an aborted child that still runs was first seen to.
    pub(super) fn stuck(&self, id: &str) -> Option<&'a Entry> {
        let of_stop = |entry: &&&Entry| matches!(entry.kind, EntryKind::Stuck | EntryKind::Leak);
        let before = |entry: &&&Entry| entry.kind != EntryKind::Recover;
        self.of(id)
            .iter()
            .rev()
            .take_while(before)
            .filter(of_stop)
            .last()
            .copied()
    }

    /// When it last ended because it was told to.
    pub(super) fn stopped(&self, id: &str) -> Option<SystemTime> {
        let stop = |entry: &&&Entry| entry.kind == EntryKind::Stop;
        self.of(id).iter().rev().find(stop).map(|entry| entry.at)
    }

    /// The operator's command that led to the state of a stopped or stopping child: the last one before it, if that
    /// was a command to stop.
    pub(super) fn command(&self, subject: &Subject) -> Option<&'a Entry> {
        let asked = |entry: &&&Entry| {
            matches!(entry.kind, EntryKind::Command | EntryKind::Stop)
                && entry.by.is_some()
                && past(entry.at, subject.since) <= SLACK
        };
        let command = self.of(&subject.id).iter().rev().find(asked).copied()?;
        let says = |verb: &str| command.text.starts_with(verb);
        let within = |limit: Duration| past(subject.since, command.at) <= limit;
        let led_here = match subject.state {
            "stopping" => (says("stop") || says("restart")) && within(SLACK),
            "stopped" if subject.cause.as_deref() == Some(BY_OPERATOR) => says("stop"),
            "stopped" if subject.cause.is_none() => {
                says("stop") && within(subject.stop_timeout + END_OF_STOP)
            }
            _ => false,
        };
        led_here.then_some(command)
    }

    /// Why a group that is stopping gave up.
    pub(super) fn escalation(&self, subject: &Subject) -> Option<&'a Entry> {
        let escalated = |entry: &&&Entry| entry.kind == EntryKind::Escalate;
        let found = self.of(&subject.id).iter().rev().find(escalated)?;
        (past(subject.since, found.at) <= SLACK).then_some(found)
    }

    /// The last fault that struck a child, or was asked for, or the last command about it, shortly before.
    pub(super) fn touched_before(&self, id: &str, onset: SystemTime) -> Option<&'a Entry> {
        let touched = |entry: &&&Entry| {
            // That a fault ended has neither.
            let began = entry.by.is_some() || entry.generation.is_some();
            let kind = matches!(entry.kind, EntryKind::Fault | EntryKind::Command);
            kind && began && past(entry.at, onset) <= SLACK
        };
        let found = self.of(id).iter().rev().find(touched).copied()?;
        (past(onset, found.at) <= SUSPECT).then_some(found)
    }

    pub(super) fn last_config(&self) -> Option<&'a Entry> {
        self.configs.last().copied()
    }

    /// The last configuration that was put in force shortly before.
    pub(super) fn config_before(&self, onset: SystemTime) -> Option<&'a Entry> {
        let before = self.configs.partition_point(|entry| entry.at <= onset);
        let found = *self.configs.get(before.checked_sub(1)?)?;
        (past(onset, found.at) <= SUSPECT).then_some(found)
    }
}

/// The time from `from` to `to`; none if the clock went back between them.
pub(super) fn past(to: SystemTime, from: SystemTime) -> Duration {
    to.duration_since(from).unwrap_or_default()
}
