//! What changed: the kernel's memory of restarts, failures, reloads and operators' commands.

use crate::event::{Change, ChildEvent};
use crate::telemetry::one_line;
use serde::ser::{Serialize, SerializeMap, Serializer};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// One thing that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Counted from 1, without gaps.
    pub(crate) seq: u64,
    /// When it was recorded.
    pub(crate) at: SystemTime,
    /// What it was.
    pub(crate) kind: EntryKind,
    /// Id of the child it concerns; `None` when it concerns the service.
    pub(crate) subject: Option<Arc<str>>,
    /// The incarnation it concerns.
    pub(crate) generation: Option<u64>,
    /// Who caused it, where somebody did: an operator (`uid 0 pid 123`), a signal, a file.
    pub(crate) by: Option<Arc<str>>,
    /// One line for people.
    pub(crate) text: Arc<str>,
}

/// What kind of change an [`Entry`] tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum EntryKind {
    /// The kernel started.
    Start,
    /// A configuration was put in force.
    Config,
    /// A reload was rejected.
    Rejected,
    /// An incarnation failed.
    Crash,
    /// An incarnation replaced one that had failed.
    Restart,
    /// A restart budget was spent.
    Quarantine,
    /// A quarantine ended.
    Release,
    /// A child ended because it was told to, or is done.
    Stop,
    /// An aborted child still ran.
    Stuck,
    /// A child was given up.
    Leak,
    /// A stuck or leaked child ended after all.
    Recover,
    /// A child held its worker thread.
    Stall,
    /// A group or the kernel gave up because of a child.
    Escalate,
    /// A fault was injected or cleared.
    Fault,
    /// An operator asked for something.
    Command,
    /// The service became ready or ceased to be.
    Ready,
    /// The shutdown began.
    Shutdown,
}

impl EntryKind {
    /// The word for it in JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            EntryKind::Start => "start",
            EntryKind::Config => "config",
            EntryKind::Rejected => "rejected",
            EntryKind::Crash => "crash",
            EntryKind::Restart => "restart",
            EntryKind::Quarantine => "quarantine",
            EntryKind::Release => "release",
            EntryKind::Stop => "stop",
            EntryKind::Stuck => "stuck",
            EntryKind::Leak => "leak",
            EntryKind::Recover => "recover",
            EntryKind::Stall => "stall",
            EntryKind::Escalate => "escalate",
            EntryKind::Fault => "fault",
            EntryKind::Command => "command",
            EntryKind::Ready => "ready",
            EntryKind::Shutdown => "shutdown",
        }
    }
}

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("seq", &self.seq)?;
        map.serialize_entry("ts", &ron_bus::rfc3339(self.at))?;
        map.serialize_entry("kind", self.kind.name())?;
        map.serialize_entry("subject", &self.subject.as_deref())?;
        map.serialize_entry("generation", &self.generation)?;
        map.serialize_entry("by", &self.by.as_deref())?;
        map.serialize_entry("text", &*self.text)?;
        map.end()
    }
}

/// What comes with every crash: an hour of a dozen children that fail at the slowest backoff. It has a ring of its own,
/// so that a crash loop cannot wash out what an operator looks for.
const LOOPS_KEPT: usize = 3072;
/// What else becomes of children; a shutdown tells of each.
const LIVES_KEPT: usize = 1024;
/// What people and files did to the service.
const DEEDS_KEPT: usize = 1024;
/// Bytes of an entry's text.
const TEXT_MAX: usize = 512;

/// The entries, newest overwrite oldest.
#[derive(Debug, Default)]
pub(crate) struct Record {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    last_seq: u64,
    loops: VecDeque<Entry>,
    lives: VecDeque<Entry>,
    deeds: VecDeque<Entry>,
    dropped: u64,
    /// Time of the newest entry that was overwritten.
    dropped_until: Option<SystemTime>,
}

/// What [`Record::since`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Oldest first.
    pub(crate) entries: Vec<Entry>,
    /// Whether nothing of the span was overwritten.
    pub(crate) complete: bool,
    /// Overwritten entries, ever.
    pub(crate) dropped: u64,
}

/// What to record; see [`Entry`].
#[derive(Clone, Debug)]
pub(crate) struct News<'a> {
    pub(crate) kind: EntryKind,
    pub(crate) subject: Option<&'a Arc<str>>,
    pub(crate) generation: Option<u64>,
    pub(crate) by: Option<&'a str>,
    pub(crate) text: String,
}

impl<'a> News<'a> {
    /// Of the service as a whole.
    pub(crate) fn of_service(kind: EntryKind, text: impl Into<String>) -> News<'a> {
        News {
            kind,
            subject: None,
            generation: None,
            by: None,
            text: text.into(),
        }
    }

    pub(crate) fn by(mut self, by: &'a str) -> News<'a> {
        self.by = Some(by);
        self
    }

    /// What of a child's life is worth remembering; a start that went well is not.
    pub(crate) fn of_child(event: &'a ChildEvent) -> Option<News<'a>> {
        let (kind, text) = match &event.change {
            Change::Started { restart: true } => (EntryKind::Restart, "restarted".to_owned()),
            Change::Failed { reason } => (EntryKind::Crash, reason.clone()),
            Change::Quarantined { reason, until } => {
                let next = match until {
                    Some(until) => format!("one trial at {}", ron_bus::rfc3339(*until)),
                    None => "until somebody releases it".to_owned(),
                };
                (
                    EntryKind::Quarantine,
                    format!("quarantined, {next}: {reason}"),
                )
            }
            Change::Released { by_timer: true } => {
                (EntryKind::Release, "trial after quarantine".to_owned())
            }
            Change::Released { by_timer: false } => {
                (EntryKind::Release, "released from quarantine".to_owned())
            }
            Change::Aborted => (
                EntryKind::Stop,
                "did not stop in time and was aborted".to_owned(),
            ),
            Change::Stuck => (EntryKind::Stuck, "aborted and still running".to_owned()),
            Change::Leaked => (EntryKind::Leak, "given up: it never ended".to_owned()),
            Change::Recovered => (EntryKind::Recover, "ended after all".to_owned()),
            Change::Stopped { exit } => (EntryKind::Stop, format!("stopped: {exit}")),
            Change::Done => (EntryKind::Stop, "done".to_owned()),
            Change::Stalled { held } => (
                EntryKind::Stall,
                format!("held its worker thread for {held:?} and still did"),
            ),
            Change::Unstalled { held } => (
                EntryKind::Stall,
                format!("let go of its worker thread after {held:?}"),
            ),
            Change::Escalated { reason } => (EntryKind::Escalate, reason.clone()),
            Change::Fault { fault } => (EntryKind::Fault, format!("fault injected: {fault}")),
            Change::Started { restart: false }
            | Change::Ready
            | Change::Stopping
            | Change::Backoff { .. } => return None,
        };
        Some(News {
            kind,
            subject: Some(&event.child),
            generation: Some(event.generation),
            by: None,
            text,
        })
    }
}

impl Record {
    /// Returns the entry's number.
    pub(crate) fn add(&self, now: SystemTime, news: News<'_>) -> u64 {
        let entry = Entry {
            seq: 0,
            at: now,
            kind: news.kind,
            subject: news.subject.cloned(),
            generation: news.generation,
            by: news.by.map(Arc::from),
            text: one_line(news.text, TEXT_MAX).into(),
        };
        self.lock().push(entry)
    }

    /// Says something else of an entry that is still there.
    pub(crate) fn amend(&self, seq: u64, text: String) {
        let mut inner = self.lock();
        let Inner { deeds, lives, .. } = &mut *inner;
        for ring in [deeds, lives] {
            if let Ok(at) = ring.binary_search_by_key(&seq, |entry| entry.seq) {
                ring[at].text = one_line(text, TEXT_MAX).into();
                return;
            }
        }
    }

    /// The entries from `from` on.
    pub(crate) fn since(&self, from: SystemTime) -> Found {
        let inner = self.lock();
        let late = |entry: &&Entry| entry.at >= from;
        let mut entries: Vec<Entry> = inner.loops.iter().filter(late).cloned().collect();
        entries.extend(inner.lives.iter().filter(late).cloned());
        entries.extend(inner.deeds.iter().filter(late).cloned());
        let (complete, dropped) = (
            inner.dropped_until.map_or(true, |until| until < from),
            inner.dropped,
        );
        drop(inner);
        entries.sort_by_key(|entry| entry.seq);
        Found {
            entries,
            complete,
            dropped,
        }
    }

    /// Time of the oldest entry there is.
    pub(crate) fn oldest(&self) -> Option<SystemTime> {
        let inner = self.lock();
        let firsts = [&inner.loops, &inner.lives, &inner.deeds].map(VecDeque::front);
        firsts.into_iter().flatten().map(|entry| entry.at).min()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn push(&mut self, mut entry: Entry) -> u64 {
        self.last_seq += 1;
        entry.seq = self.last_seq;
        let (ring, kept) = match entry.kind {
            EntryKind::Crash | EntryKind::Restart | EntryKind::Ready => {
                (&mut self.loops, LOOPS_KEPT)
            }
            // Of an incarnation; those that people asked for have none.
            EntryKind::Fault if entry.generation.is_some() => (&mut self.loops, LOOPS_KEPT),
            EntryKind::Start
            | EntryKind::Config
            | EntryKind::Rejected
            | EntryKind::Fault
            | EntryKind::Command
            | EntryKind::Shutdown => (&mut self.deeds, DEEDS_KEPT),
            _ => (&mut self.lives, LIVES_KEPT),
        };
        if ring.len() >= kept {
            let oldest = ring.pop_front();
            self.dropped += 1;
            self.dropped_until = self.dropped_until.max(oldest.map(|oldest| oldest.at));
        }
        ring.push_back(entry);
        self.last_seq
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    fn crash(record: &Record, second: u64) {
        let child = Arc::from("feed");
        let news = News {
            kind: EntryKind::Crash,
            subject: Some(&child),
            generation: Some(1),
            by: None,
            text: format!("crash {second}"),
        };
        record.add(at(second), news);
    }

    #[test]
    fn a_crash_loop_does_not_wash_out_what_operators_did() {
        let record = Record::default();
        let stop = News::of_service(EntryKind::Command, "stop db").by("uid 0 pid 7");
        record.add(at(0), stop);
        let child = Arc::from("feed");
        for second in 1..=2 * LOOPS_KEPT as u64 {
            crash(&record, second);
            for kind in [EntryKind::Fault, EntryKind::Ready, EntryKind::Stop] {
                let news = News {
                    kind,
                    subject: Some(&child),
                    generation: Some(second),
                    by: None,
                    text: String::new(),
                };
                record.add(at(second), news);
            }
        }
        let found = record.since(at(0));
        assert_eq!(found.entries.len(), LOOPS_KEPT + LIVES_KEPT + 1);
        assert_eq!(found.entries[0].by.as_deref(), Some("uid 0 pid 7"));
        assert_eq!(
            found.dropped as usize,
            8 * LOOPS_KEPT - LOOPS_KEPT - LIVES_KEPT
        );
        assert!(!found.complete);
        assert!(found
            .entries
            .windows(2)
            .all(|pair| pair[0].seq < pair[1].seq));
    }

    #[test]
    fn a_span_is_complete_when_nothing_in_it_was_overwritten() {
        let record = Record::default();
        for second in 1..=LOOPS_KEPT as u64 + 1 {
            crash(&record, second);
        }
        assert!(!record.since(at(1)).complete);
        assert!(record.since(at(2)).complete);
        assert_eq!(record.since(at(LOOPS_KEPT as u64)).entries.len(), 2);
    }

    #[test]
    fn texts_are_cut_between_characters_and_stay_on_one_line() {
        assert_eq!(one_line("a\nb".to_owned(), TEXT_MAX), "a b");
        let long = one_line("ä".repeat(TEXT_MAX), TEXT_MAX);
        assert!(
            long.len() <= TEXT_MAX && long.ends_with('…'),
            "{}",
            long.len()
        );
    }
}
