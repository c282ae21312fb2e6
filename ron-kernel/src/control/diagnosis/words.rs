//! Findings in words: headlines, chains of reasons, what comes next, and what to type.

use super::blame::{Blame, Link, Seen, Trouble};
use super::history::past;
use super::{Entry, Finding, Gravity, Injected, Reading, Root, Situation, Subject};
use crate::snapshot::Reason;
use crate::supervisor::Kind;
use std::cmp::Reverse;
use std::time::{Duration, SystemTime};

/// Characters of an error shown in a headline: two lines of a terminal.
const TEXT_MAX: usize = 160;
/// Links of a chain; of a longer one the beginning and the end matter.
const BECAUSE_MAX: usize = 16;
/// Subjects listed as affected.
const AFFECTS_MAX: usize = 32;
/// Children named where a headline lists some.
const NAMES_MAX: usize = 4;
const ADVICE_MAX: usize = 3;
/// What has no end within this has none.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

const TAIL: &str = "ronctl tail --topic kernel --since 10m";

/// The whole in one line.
pub(super) fn verdict(situation: &Situation, findings: &[Finding], found: usize) -> String {
    let readiness = &situation.readiness;
    let first = match &situation.draining {
        Some(_) => findings.iter().find(|finding| finding.subject == "kernel"),
        None => None,
    };
    let first = first.or(findings.first());
    let state = if situation.draining.is_some() {
        "draining".to_owned()
    } else if !readiness.ready {
        let lasts = past(situation.now, readiness.since);
        format!("not ready for {}", span(lasts))
    } else if readiness.degraded {
        "ready, degraded".to_owned()
    } else {
        "ready".to_owned()
    };
    let mut verdict = match first {
        None if readiness.ready => format!("{state}, nothing is wrong"),
        None => format!("{state}: no cause is known"),
        Some(first) if readiness.ready && !readiness.degraded => match first.gravity {
            Gravity::Notice => format!("{state}, nothing is wrong; notice: {}", first.what),
            _ => format!("{state}, but {}", first.what),
        },
        Some(first) => format!("{state}: {}", first.what),
    };
    if found > 1 {
        let more = found - 1;
        verdict.push_str(&format!(" ({more} more {})", plural(more, "finding")));
    }
    if situation.children_omitted > 0 {
        let more = situation.children_omitted;
        verdict.push_str(&format!(
            " ({more} more unwell {} not looked at)",
            if more == 1 {
                "child was"
            } else {
                "children were"
            }
        ));
    }
    verdict
}

impl Blame<'_> {
    pub(super) fn finding(&self, root: &Root) -> Finding {
        let trouble = root.trouble;
        let (next, retry_at) = self.prospects(trouble);
        Finding {
            gravity: root.gravity,
            subject: self.subject(trouble),
            what: self.headline(trouble),
            since: self.onset[trouble],
            because: self.because(root),
            affects: self.affects(&root.affected),
            next,
            retry_at,
            advice: self.advice(trouble),
        }
    }

    fn affects(&self, affected: &[usize]) -> Vec<String> {
        let shown = affected.iter().take(AFFECTS_MAX);
        let mut names: Vec<String> = shown.map(|trouble| self.subject(*trouble)).collect();
        if affected.len() > AFFECTS_MAX {
            names.push(format!("and {} more", affected.len() - AFFECTS_MAX));
        }
        names
    }

    fn subject(&self, trouble: usize) -> String {
        let situation = self.situation;
        match self.troubles[trouble] {
            Trouble::Child(place) => format!("child:{}", situation.children[place].id),
            Trouble::Fault(place) => situation.faults[place].key(),
            Trouble::Draining => "kernel".to_owned(),
            Trouble::Rejected | Trouble::Pending => "config".to_owned(),
            Trouble::Reader(place) => {
                let reader = &situation.readers[place];
                format!("bus:{}/{}", reader.topic, reader.name)
            }
            Trouble::Key(seen) => match self.key(seen) {
                "kernel" => "kernel".to_owned(),
                "config_reload" => "config".to_owned(),
                key if key.starts_with("child:") || key.starts_with("chaos:") => key.to_owned(),
                key => format!("health:{key}"),
            },
        }
    }

    // ----- headlines ---------------------------------------------------------------------------

    fn headline(&self, trouble: usize) -> String {
        let situation = self.situation;
        match self.troubles[trouble] {
            Trouble::Child(place) => self.child_headline(trouble, &situation.children[place]),
            Trouble::Fault(place) => {
                let fault = &situation.faults[place];
                match ends_in(fault, situation.now) {
                    Some(left) => format!("{}; ends in {}", injected(fault), span(left)),
                    None => injected(fault),
                }
            }
            Trouble::Draining => self.draining_headline(trouble),
            Trouble::Rejected => match &situation.rejected {
                Some((_, reason)) => format!("reload rejected: {}", brief(reason)),
                None => "reload rejected".to_owned(),
            },
            Trouble::Pending => {
                let keys = &situation.pending_keys;
                let verb = if keys.len() == 1 { "waits" } else { "wait" };
                let count = keys.len();
                format!(
                    "{count} changed {} {verb} for a restart of the process: {}",
                    plural(count, "key"),
                    listed(keys.iter().map(String::as_str), count)
                )
            }
            Trouble::Reader(place) => reader_headline(&situation.readers[place]),
            Trouble::Key(Seen::Missing(place)) => match &*situation.readiness.missing[place] {
                "kernel" => format!("{} has not finished starting", situation.service),
                key => format!("{} has never been ready", name(key)),
            },
            Trouble::Key(Seen::Cause(place)) => {
                let cause = &situation.readiness.causes[place];
                let closed = match cause.status {
                    "fail_secure" => " (fail-secure: nothing is served)",
                    _ => "",
                };
                format!("{}: {}{closed}", name(&cause.key), brief(&cause.reason))
            }
        }
    }

    fn child_headline(&self, trouble: usize, subject: &Subject) -> String {
        let id = &subject.id;
        let now = self.situation.now;
        let lasts = span(past(now, subject.since));
        if self.stopped_by_operator(subject) {
            let command = self.history.command(subject);
            let by = command.and_then(|command| command.by.as_deref());
            let by = by.unwrap_or("an operator");
            let at = command.map_or(subject.since, |command| command.at);
            let ago = span(past(now, at));
            return match subject.state {
                "stopping" => {
                    let verb = command.map_or("stop", |command| &*command.text);
                    format!("{id} is stopping: {verb} asked by {by} {ago} ago")
                }
                _ => format!("{id} was stopped by {by} {ago} ago"),
            };
        }
        if let ("starting" | "ready", Some(since)) = (subject.state, subject.stalled) {
            let held = span(past(now, since));
            let status = status(subject);
            return format!(
                "{id} has held its worker thread for {held}: its poll does not return{status}"
            );
        }
        if let Some(failure) = subject.failure() {
            let failure = brief(&failure);
            let failed = self.failed(subject);
            return match subject.state {
                "quarantined" => format!("{id} is quarantined: it {failed}: {failure}"),
                "starting" => format!("{id} {failed} and is starting again: {failure}"),
                "waiting" => match (&subject.waits_for, self.brought_down(trouble)) {
                    (_, Some(group)) => {
                        format!("{id} {failed} and brought down {}: {failure}", group.id)
                    }
                    (Some(on), None) => format!("{id} {failed} and waits for {on}: {failure}"),
                    (None, None) => format!("{id} {failed}: {failure}"),
                },
                "stopping" => format!("{id} {failed} and is stopping: {failure}"),
                "stopped" => format!("{id} {failed} and is not restarted: {failure}"),
                _ => format!("{id} {failed}: {failure}"),
            };
        }
        match subject.state {
            "stuck" => format!("{id} is stuck: it was aborted and still runs"),
            "leaked" => format!(
                "{id} is leaked: it never ended after its abort; only a restart of the process helps"
            ),
            "starting" => self.starting(subject, &lasts),
            "stopping" if subject.kind == Kind::Group => {
                format!("{id} has been stopping for {lasts}")
            }
            "stopping" => format!(
                "{id} has been stopping for {lasts}; it is aborted after {}",
                span(subject.stop_timeout)
            ),
            "waiting" => self.waiting(subject),
            "stopped" => match &subject.cause {
                Some(cause) => format!("{id} is stopped: {}", brief(cause)),
                None => format!("{id} is stopped"),
            },
            _ => match &subject.unhealthy {
                Some(unhealthy) => {
                    format!("{id} reports itself unhealthy: {}", brief(unhealthy))
                }
                None => format!("{id} is {}", subject.state),
            },
        }
    }

    fn starting(&self, subject: &Subject, lasts: &str) -> String {
        let id = &subject.id;
        let status = status(subject);
        match subject.start_timeout {
            Some(limit) => {
                let limit = span(limit);
                format!(
                    "{id} has been starting for {lasts} and has not called ready() yet; it must within {limit}{status}"
                )
            }
            None => format!("{id} has been starting for {lasts}{status}"),
        }
    }

    fn waiting(&self, subject: &Subject) -> String {
        let id = &subject.id;
        let Some(on) = &subject.waits_for else {
            return format!("{id} waits to be started");
        };
        match self.place(on).map(|place| &self.situation.children[place]) {
            Some(listed) => format!("{id} waits for {on}, which is {}", listed.state),
            None => format!("{id} waits for {on}"),
        }
    }

    /// `failed 4 times in 3.1s`, as far as the record reaches.
    fn failed(&self, subject: &Subject) -> String {
        match (self.history.failures(subject), subject.budget) {
            (Some(failures), _) if failures.count > 1 => format!(
                "failed {} times in {}",
                failures.count,
                span(past(failures.last.at, failures.first.at))
            ),
            (None, Some((_, window))) if subject.restarts_in_window > 0 => {
                let restarts = subject.restarts_in_window;
                format!(
                    "failed after {restarts} {} in {}",
                    plural(restarts as usize, "restart"),
                    span(window)
                )
            }
            _ => "failed".to_owned(),
        }
    }

    /// The outermost group that this member's failure brought down, if it is held in it.
    fn brought_down(&self, trouble: usize) -> Option<&Subject> {
        let mut place = match self.troubles[trouble] {
            Trouble::Child(place) => place,
            _ => return None,
        };
        let mut down = None;
        while let Some(group) = self.held_as_culprit(place) {
            // Groups nest, so ids shorten on the way up.
            down = Some(&self.situation.children[group]);
            place = group;
        }
        down
    }

    fn draining_headline(&self, trouble: usize) -> String {
        let situation = self.situation;
        let lasts = span(past(situation.now, self.onset[trouble]));
        let who = situation.draining.as_deref().unwrap_or_default();
        let stopping = self.stopping();
        let count = stopping.len();
        let names = stopping.iter().map(|subject| {
            let lasts = span(past(situation.now, subject.since));
            format!("{} ({} for {lasts})", subject.id, subject.state)
        });
        let waits = match count {
            0 => String::new(),
            _ => format!("; waits for {}", listed(names, count)),
        };
        format!(
            "{} has been shutting down for {lasts}: {}{waits}",
            situation.service,
            brief(who)
        )
    }

    /// What a shutdown waits for, longest first.
    fn stopping(&self) -> Vec<&Subject> {
        let children = self.of_child.iter().flatten();
        let mut stopping: Vec<&Subject> = children
            .filter_map(|trouble| self.child(*trouble))
            .filter(|subject| subject.kind != Kind::Group)
            .filter(|subject| matches!(subject.state, "stopping" | "stuck"))
            .collect();
        stopping.sort_by_key(|subject| subject.since);
        stopping
    }

    // ----- reasons -----------------------------------------------------------------------------

    /// From what readiness shows along the chain to the root.
    fn because(&self, root: &Root) -> Vec<Reason> {
        let mut because = Vec::new();
        let tree = || {
            std::iter::once(&root.trouble)
                .chain(&root.affected)
                .copied()
        };
        let shown = tree()
            .filter_map(|trouble| self.seen[trouble].map(|seen| (trouble, seen)))
            .max_by_key(|(trouble, seen)| {
                (
                    self.gravity_shown(*seen),
                    self.depth[*trouble],
                    Reverse(*trouble),
                )
            });
        let deepest = tree().max_by_key(|trouble| (self.depth[*trouble], Reverse(*trouble)));
        if let Some((_, seen)) = shown {
            because.push(self.shown(seen));
        } else if self.troubles[root.trouble] == Trouble::Draining {
            because.push(Reason {
                what: format!("readiness {}draining", self.prefix()),
                since: self.situation.readiness.since,
                evidence: "readyz: state".to_owned(),
            });
        }
        let shown = shown.map(|(trouble, _)| trouble);
        let mut at = shown.or(deepest).unwrap_or(root.trouble);
        while let Some((by, link)) = self.parent[at] {
            because.push(self.link(at, by, link));
            at = by;
        }
        self.root_reasons(root.trouble, &mut because);
        if because.len() > BECAUSE_MAX {
            let more = because.len() - BECAUSE_MAX + 1;
            let head = BECAUSE_MAX / 2;
            let cut = Reason {
                what: format!("and {more} more links"),
                since: because[head].since,
                evidence: because[head].evidence.clone(),
            };
            because.splice(head..head + more, [cut]);
        }
        because
    }

    fn prefix(&self) -> &'static str {
        let readiness = &self.situation.readiness;
        match (readiness.ready, readiness.degraded) {
            (false, _) => "503: ",
            (true, true) => "200, degraded: ",
            (true, false) => "200: ",
        }
    }

    fn shown(&self, seen: Seen) -> Reason {
        let readiness = &self.situation.readiness;
        let key = self.key(seen);
        let (text, since) = match seen {
            Seen::Missing(_) => ("has never been ready".to_owned(), readiness.since),
            Seen::Cause(place) => {
                let cause = &readiness.causes[place];
                (brief(&cause.reason), cause.since)
            }
        };
        let colon = if matches!(seen, Seen::Cause(_)) {
            ":"
        } else {
            ""
        };
        Reason {
            what: format!("readiness {}{key}{colon} {text}", self.prefix()),
            since,
            evidence: format!("readyz: {key}"),
        }
    }

    fn link(&self, at: usize, by: usize, link: Link) -> Reason {
        let (Some(subject), other) = (self.child(at), self.child(by)) else {
            return self.plain(at);
        };
        let (id, state) = (&subject.id, subject.state);
        let (on, on_state) = other.map_or(("", ""), |other| (&*other.id, other.state));
        let what = match link {
            Link::Waits => format!("{id} waits for {on}, which is {on_state}"),
            Link::Held => format!("{id} is held by its group {on}, which is {on_state}"),
            Link::Member => format!("{id} is {state}: its member {on} is {on_state}"),
            Link::Spent => format!("{id} is {state}: its restart budget was spent by {on}"),
            Link::Joint => format!("{id} is {state}: it was stopped because {on} failed"),
            Link::With => format!("{id} is {state} with its group {on}"),
            Link::After => {
                let headline = self.headline(at);
                format!("{headline}; it starts after {on}, which was unwell first")
            }
            Link::Stall => format!("{}; {on} held a worker thread then", self.headline(at)),
            Link::Drain => format!("{id} is {state}: the kernel shuts down"),
            Link::Fault => self.headline(at),
        };
        Reason {
            what,
            since: match link {
                Link::After | Link::Stall | Link::Fault => self.onset[at],
                _ => subject.since,
            },
            evidence: in_tree(subject),
        }
    }

    /// A trouble that is no child, as one reason.
    fn plain(&self, trouble: usize) -> Reason {
        Reason {
            what: self.headline(trouble),
            since: self.onset[trouble],
            evidence: match self.troubles[trouble] {
                Trouble::Child(place) => in_tree(&self.situation.children[place]),
                Trouble::Fault(place) => format!("chaos: #{}", self.situation.faults[place].id),
                Trouble::Reader(place) => {
                    let reader = &self.situation.readers[place];
                    format!("bus: {}/{}", reader.topic, reader.name)
                }
                Trouble::Rejected => match self.history.rejected() {
                    Some(entry) => format!("record #{}", entry.seq),
                    None => "readyz: config_reload".to_owned(),
                },
                Trouble::Draining => match self.history.shutdown() {
                    Some(entry) => format!("record #{}", entry.seq),
                    None => "readyz: state".to_owned(),
                },
                Trouble::Pending => {
                    let first = self.situation.pending_keys.first();
                    format!("config: {}", first.map_or("", String::as_str))
                }
                Trouble::Key(seen) => format!("readyz: {}", self.key(seen)),
            },
        }
    }

    fn root_reasons(&self, trouble: usize, because: &mut Vec<Reason>) {
        let now = self.situation.now;
        match self.troubles[trouble] {
            Trouble::Child(place) => {
                let subject = &self.situation.children[place];
                match self.history.command(subject) {
                    Some(command) if self.stopped_by_operator(subject) => {
                        because.push(Reason {
                            what: format!("{} is {}", subject.id, subject.state),
                            since: subject.since,
                            evidence: in_tree(subject),
                        });
                        because.push(recorded(command));
                    }
                    _ => {
                        self.suspects(trouble, because);
                        self.child_reasons(trouble, subject, because);
                    }
                }
            }
            Trouble::Reader(_) => {
                self.suspects(trouble, because);
                because.push(self.plain(trouble));
            }
            Trouble::Draining => {
                for subject in self.stopping().into_iter().take(NAMES_MAX) {
                    because.push(Reason {
                        what: format!(
                            "{} has been {} for {}",
                            subject.id,
                            subject.state,
                            span(past(now, subject.since))
                        ),
                        since: subject.since,
                        evidence: in_tree(subject),
                    });
                }
                self.suspects(trouble, because);
                let who = self.situation.draining.as_deref().unwrap_or_default();
                because.push(Reason {
                    what: format!("the shutdown began: {}", brief(who)),
                    ..self.plain(trouble)
                });
            }
            // What readiness says stands there already.
            Trouble::Key(_) => self.suspects_before_last(trouble, because),
            Trouble::Fault(_) | Trouble::Rejected | Trouble::Pending => {
                because.push(self.plain(trouble));
            }
        }
    }

    fn suspects_before_last(&self, trouble: usize, because: &mut Vec<Reason>) {
        let last = because.pop();
        self.suspects(trouble, because);
        because.extend(last);
    }

    /// What changed shortly before a trouble began.
    fn suspects(&self, trouble: usize, because: &mut Vec<Reason>) {
        let onset = self.onset[trouble];
        if let Some(config) = self.history.config_before(onset) {
            let before = span(past(onset, config.at));
            let what = match version(&config.text) {
                Some(version) => {
                    format!("configuration version {version} was put in force {before} before")
                }
                None => format!("{} was put in force {before} before", brief(&config.text)),
            };
            because.push(Reason {
                what,
                since: config.at,
                evidence: format!("record #{}", config.seq),
            });
        }
        let child = self.child(trouble);
        let touched = child.and_then(|child| self.history.touched_before(&child.id, onset));
        if let Some(entry) = touched {
            because.push(recorded(entry));
        }
    }

    fn child_reasons(&self, trouble: usize, subject: &Subject, because: &mut Vec<Reason>) {
        let id = &subject.id;
        let Some(failure) = subject.failure().filter(|_| subject.stalled.is_none()) else {
            let mut reason = self.plain(trouble);
            if let "stuck" | "leaked" = subject.state {
                if let Some(entry) = self.history.stuck(id) {
                    reason.evidence = format!("record #{}", entry.seq);
                }
            }
            because.push(reason);
            return;
        };
        if let Some(failures) = self.history.failures(subject) {
            because.push(Reason {
                what: match subject.restarts {
                    // Of earlier troubles, too.
                    all if all > failures.count as u64 => {
                        format!("{id} {}; {all} restarts in all", self.failed(subject))
                    }
                    _ => format!("{id} {}", self.failed(subject)),
                },
                since: failures.first.at,
                evidence: format!("record #{}", failures.first.seq),
            });
        }
        if let Some((allowed, window)) = subject.budget {
            let (used, window) = (subject.restarts_in_window, span(window));
            let budget = match (subject.state, subject.attempts_left) {
                ("quarantined", _) => Some(format!(
                    "{id} failed after {used} {} in {window}; {allowed} are allowed",
                    plural(used as usize, "restart")
                )),
                ("backoff", Some(left)) => Some(format!(
                    "{id} has {left} of {allowed} restarts in {window} left"
                )),
                _ => None,
            };
            because.extend(budget.map(|what| Reason {
                what,
                since: subject.since,
                evidence: in_tree(subject),
            }));
        }
        because.push(Reason {
            what: format!("{id}: {}", brief(&failure)),
            since: subject.since,
            evidence: in_tree(subject),
        });
    }

    // ----- what comes next ---------------------------------------------------------------------

    fn prospects(&self, trouble: usize) -> (String, Option<SystemTime>) {
        let situation = self.situation;
        match self.troubles[trouble] {
            Trouble::Child(place) => match self.brought_down(trouble) {
                Some(group) => (format!("{}: {}", group.id, group.next), group.retry_at),
                None => {
                    let subject = &situation.children[place];
                    (subject.next.clone(), subject.retry_at)
                }
            },
            Trouble::Fault(place) => {
                let fault = &situation.faults[place];
                match ends_in(fault, situation.now) {
                    Some(_) => ("is cleared by itself".to_owned(), Some(fault.until)),
                    None => (
                        "stays until the configuration takes it back".to_owned(),
                        None,
                    ),
                }
            }
            Trouble::Draining => (
                "exits when all have ended, or at the drain's deadline".to_owned(),
                None,
            ),
            Trouble::Rejected => (
                "the last good configuration stays in force".to_owned(),
                None,
            ),
            Trouble::Pending => (
                "they take effect when the process starts again".to_owned(),
                None,
            ),
            Trouble::Reader(place) => (reader_next(&situation.readers[place]).to_owned(), None),
            Trouble::Key(_) => ("clears when it is reported well".to_owned(), None),
        }
    }

    // ----- what to type ------------------------------------------------------------------------

    fn advice(&self, trouble: usize) -> Vec<String> {
        let mut advice: Vec<String> = match self.troubles[trouble] {
            Trouble::Child(_) => self.child_advice(trouble),
            Trouble::Fault(place) if self.situation.faults[place].id == 0 => {
                vec!["ronctl config explain chaos.fault".to_owned()]
            }
            Trouble::Fault(_) => vec![
                "ronctl chaos clear".to_owned(),
                "ronctl chaos list".to_owned(),
            ],
            Trouble::Draining => {
                let slowest = self.stopping();
                let slowest = slowest.first();
                let mut advice: Vec<String> = slowest
                    .map(|child| format!("ronctl explain {}", child.id))
                    .into_iter()
                    .collect();
                advice.push("ronctl tail --topic kernel.lifecycle".to_owned());
                advice
            }
            Trouble::Rejected => vec![
                "ronctl config check".to_owned(),
                "ronctl config reload".to_owned(),
            ],
            Trouble::Pending => {
                let keys = self.situation.pending_keys.iter();
                keys.map(|key| format!("ronctl config explain {key}"))
                    .collect()
            }
            Trouble::Reader(_) => vec!["ronctl bus".to_owned()],
            Trouble::Key(seen) => match self.key(seen).strip_prefix("child:") {
                Some(id) => vec![format!("ronctl explain {id}"), TAIL.to_owned()],
                None => vec!["ronctl explain ready".to_owned(), TAIL.to_owned()],
            },
        };
        // Of a kernel that shuts down one can only ask.
        if self.situation.draining.is_some() {
            const ASKS: [&str; 3] = ["ronctl explain ", "ronctl tail ", "ronctl bus"];
            advice.retain(|command| ASKS.iter().any(|ask| command.starts_with(ask)));
        }
        if advice.is_empty() {
            advice.push(TAIL.to_owned());
        }
        advice.truncate(ADVICE_MAX);
        advice
    }

    fn child_advice(&self, trouble: usize) -> Vec<String> {
        let Some(subject) = self.child(trouble) else {
            return Vec::new();
        };
        let id = &subject.id;
        let explain = format!("ronctl explain {id}");
        let tail = TAIL.to_owned();
        // A member of a group that is down cannot be started; its group can.
        let acts_on = self.brought_down(trouble).unwrap_or(subject);
        let restart = format!("ronctl restart {}", acts_on.id);
        let after_config = self.history.config_before(self.onset[trouble]).is_some();
        let look = if after_config {
            "ronctl changes --since 1h".to_owned()
        } else {
            tail.clone()
        };
        if self.stopped_by_operator(subject) {
            return match subject.state {
                "stopping" => vec![explain, tail],
                _ => vec![format!("ronctl start {id}"), explain],
            };
        }
        match acts_on.state {
            "quarantined" => vec![format!("ronctl release {}", acts_on.id), explain, look],
            "backoff" => vec![explain, restart, look],
            "stopped" => vec![format!("ronctl start {}", acts_on.id), explain, look],
            "ready" if subject.stalled.is_none() => vec![explain, restart, look],
            "leaked" => vec![
                "ronctl drain --dry-run".to_owned(),
                "ronctl drain --wait".to_owned(),
                explain,
            ],
            _ => vec![explain, look],
        }
    }
}

fn in_tree(subject: &Subject) -> String {
    format!("tree: {} generation {}", subject.id, subject.generation)
}

/// An entry of the record, with who caused it.
fn recorded(entry: &Entry) -> Reason {
    Reason {
        what: match &entry.by {
            Some(by) => format!("{by}: {}", brief(&entry.text)),
            None => brief(&entry.text),
        },
        since: entry.at,
        evidence: format!("record #{}", entry.seq),
    }
}

fn injected(fault: &Injected) -> String {
    let by = brief(&fault.by);
    match &fault.child {
        Some(child) => format!("fault {} is injected into {child} by {by}", fault.fault),
        None => format!("fault {} is injected by {by}", fault.fault),
    }
}

/// How long a fault still lasts; the configuration's has no end.
fn ends_in(fault: &Injected, now: SystemTime) -> Option<Duration> {
    let left = past(fault.until, now);
    (fault.id != 0 && left < FOREVER).then_some(left)
}

fn reader_headline(reader: &Reading) -> String {
    let who = format!("reader {} of topic {}", reader.name, reader.topic);
    let (pending, capacity) = (reader.pending, reader.capacity);
    let policy = reader.policy.unwrap_or("has left");
    let (lost, lately) = (reader.lost, reader.lost_lately);
    if lately > 0 {
        format!(
            "{who} loses events: {lately} in the last second, {lost} ever ({policy}, {pending} of {capacity} pending)"
        )
    } else if reader.is_behind() {
        format!("{who} is far behind: {pending} of {capacity} pending ({policy})")
    } else {
        let events = if lost == 1 { "event" } else { "events" };
        format!("{who} lost {lost} {events} earlier, none lately ({policy})")
    }
}

fn reader_next(reader: &Reading) -> &'static str {
    match reader.policy {
        Some("drop_oldest") => "loses the oldest events while it is behind",
        Some("disconnect") => "is disconnected when it falls behind",
        Some("block") => "publishers wait for it while it is behind",
        Some("conflate") => "gets the latest event per key while it is behind",
        _ => "nothing",
    }
}

/// What it says it is doing.
fn status(subject: &Subject) -> String {
    match &subject.status {
        Some(status) => format!(": {}", brief(status)),
        None => String::new(),
    }
}

/// A key of readiness as people call it.
fn name(key: &str) -> &str {
    key.strip_prefix("child:").unwrap_or(key)
}

/// The number in `.. version 7: ..`.
fn version(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("version ")?;
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    Some(&rest[..end]).filter(|digits| !digits.is_empty())
}

/// On one line, cut to a sane width.
fn brief(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let mut short: String = text.chars().take(TEXT_MAX).map(plain).collect();
    if text.chars().nth(TEXT_MAX).is_some() {
        short.pop();
        short.push('…');
    }
    short
}

fn listed<T: AsRef<str>>(names: impl Iterator<Item = T>, count: usize) -> String {
    let mut text = String::new();
    for (place, name) in names.take(NAMES_MAX).enumerate() {
        if place > 0 {
            text.push_str(", ");
        }
        text.push_str(name.as_ref());
    }
    if count > NAMES_MAX {
        text.push_str(&format!(" and {} more", count - NAMES_MAX));
    }
    text
}

fn plural(count: usize, word: &str) -> String {
    match count {
        1 => word.to_owned(),
        _ => format!("{word}s"),
    }
}

/// A duration as people say it: `850ms`, `3.1s`, `2m 10s`, `3h 12m`, `2d 4h`.
pub(super) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let two = |large: u64, unit: &str, small: u64, lesser: &str| match small {
        0 => format!("{large}{unit}"),
        _ => format!("{large}{unit} {small}{lesser}"),
    };
    match seconds {
        0 => format!("{}ms", duration.as_millis()),
        1..=59 => match duration.subsec_millis() / 100 {
            0 => format!("{seconds}s"),
            tenths => format!("{seconds}.{tenths}s"),
        },
        60..=3599 => two(seconds / 60, "m", seconds % 60, "s"),
        3600..=86_399 => two(seconds / 3600, "h", seconds / 60 % 60, "m"),
        _ => two(seconds / 86_400, "d", seconds / 3600 % 24, "h"),
    }
}
