//! What is wrong, root causes first. The worst finding is whole on the first 24 lines of a terminal.

use super::{cut, shouted, wide, wrap, Look, Style};
use crate::ctl::moment::Time;
use crate::ctl::wire::{Diagnosis, Explanation, Finding, Reason, Text};

/// Lines of the smallest terminal, without the one for the prompt.
const FIRST_SCREEN: usize = 23;
/// In front of everything that belongs to a finding.
const LABEL: usize = 12;

/// The verdict, then every finding. Commands that help begin with `called` instead of `ronctl`.
pub(crate) fn diagnosis(diagnosis: &Diagnosis, called: &str, now: Time, look: Look) -> String {
    let Diagnosis {
        service,
        instance,
        state,
        findings,
        ..
    } = diagnosis;
    let style = match (diagnosis.ready, diagnosis.degraded || !findings.is_empty()) {
        (Some(true), false) => Style::Good,
        (Some(true), true) => Style::Warn,
        _ => Style::of_state(state),
    };
    let said = match (diagnosis.verdict.is_empty(), state.is_empty()) {
        (false, _) => &*diagnosis.verdict,
        (true, false) => state,
        (true, true) => "the service gave no verdict",
    };
    let mut lines: Vec<String> = wrap(&format!("{service}: {said}"), look.width, 3)
        .iter()
        .map(|line| look.paint(style, line))
        .collect();
    lines.push(look.paint(
        Style::Dim,
        &cut(
            &format!("instance {instance}, {} UTC", now.stamp(now)),
            look.width,
        ),
    ));
    for (at, finding) in findings.iter().enumerate() {
        lines.push(String::new());
        let room = FIRST_SCREEN.saturating_sub(if at == 0 { lines.len() } else { 2 });
        lines.extend(self::finding(at + 1, finding, called, now, room, look));
    }
    if diagnosis.omitted > 0 {
        lines.push(String::new());
        lines.push(format!("and {} more, less urgent", diagnosis.omitted));
    }
    joined(lines)
}

/// Why one child, or readiness, is as it is.
pub(crate) fn explanation(explanation: &Explanation, now: Time, look: Look) -> String {
    let Explanation {
        id, state, because, ..
    } = explanation;
    // Of the service as a whole; a child says `is ready` in small letters.
    let whole = matches!(
        (&**id, &**state),
        ("ready", "not_ready" | "ready" | "degraded" | "draining")
    );
    let (id, state) = match whole {
        true => ("the service", shouted(state)),
        false => (&**id, state.to_string()),
    };
    let mut lines = vec![format!(
        "{} is {}",
        look.paint(Style::Strong, &cut(id, look.width.saturating_sub(16))),
        look.paint(Style::of_state(&explanation.state), &state)
    )];
    lines.extend(chain(because, None, now, usize::MAX, look));
    if let Some(exit) = &explanation.last_exit {
        let place = exit.location.as_deref().filter(|at| !at.is_empty());
        let place = place.map(|at| format!(" at {at}")).unwrap_or_default();
        lines.extend(field(
            "exited",
            &format!("{}: {}{place}", exit.kind, exit.text),
            4,
            look,
        ));
    }
    let mut next = upcoming(&explanation.next, explanation.retry_at, now);
    if let Some(left) = explanation.attempts_left {
        let restarts = if left == 1 { "restart" } else { "restarts" };
        next.push_str(&format!("; {left} {restarts} left before quarantine"));
    }
    lines.extend(field("next", &next, 3, look));
    joined(lines)
}

fn finding(
    number: usize,
    finding: &Finding,
    called: &str,
    now: Time,
    room: usize,
    look: Look,
) -> Vec<String> {
    let Finding {
        severity,
        subject,
        because,
        affects,
        advice,
        ..
    } = finding;
    let style = match &**severity {
        "critical" => Style::Bad,
        "warning" => Style::Warn,
        _ => Style::Strong,
    };
    let since = finding
        .since
        .map(|since| since.ago(now))
        .unwrap_or_default();
    let title = format!("{number}. {} {subject}", severity.to_uppercase());
    let title = cut(&title, look.width.saturating_sub(wide(&since) + 2));
    let mut lines = vec![format!(
        "{}  {}",
        look.paint(style, &title),
        look.paint(Style::Dim, &since)
    )];
    lines.extend(
        wrap(&finding.what, look.width.saturating_sub(3), 3)
            .into_iter()
            .map(|line| format!("   {line}")),
    );
    let mut tail = Vec::new();
    if !affects.is_empty() {
        let affects: Vec<&str> = affects.iter().map(|id| &**id).collect();
        tail.extend(field("affects", &affects.join(", "), 2, look));
    }
    let next = upcoming(&finding.next, finding.retry_at, now);
    if !next.is_empty() {
        tail.extend(field("next", &next, 2, look));
    }
    tail.extend(tried(advice, called, look));
    let room = room.saturating_sub(lines.len() + tail.len());
    lines.extend(chain(because, finding.since, now, room, look));
    lines.extend(tail);
    lines
}

/// From what is seen to what caused it, each link under the one it explains, in `room` lines. Ages that the reader has
/// just read, `known` first, are not said again.
fn chain(
    because: &[Reason],
    known: Option<Time>,
    now: Time,
    room: usize,
    look: Look,
) -> Vec<String> {
    let room = room.max(2);
    let mut shown: Vec<Option<&Reason>> = because.iter().map(Some).collect();
    if because.len() > room {
        // What is seen and the root matter most.
        shown.splice(room / 2..because.len() + room / 2 + 1 - room, [None]);
    }
    let mut known = known;
    let mut links = Vec::new();
    for (at, reason) in shown.iter().enumerate() {
        let label = if at == 0 { "because" } else { "" };
        let inset = " ".repeat((at.min(5) * 2).saturating_sub(2));
        let hook = if at == 0 { "" } else { "└ " };
        let start = format!("   {label:9}{inset}{hook}");
        let width = look.width.saturating_sub(wide(&start));
        links.push(match reason {
            Some(reason) => {
                let fresh = reason.since.filter(|since| Some(*since) != known);
                known = reason.since.or(known);
                Link::new(start, &reason.what, aside(reason, fresh, now), width)
            }
            None => {
                let more = because.len() + 1 - shown.len();
                Link::new(start, "..", format!("{more} more"), width)
            }
        });
    }
    let root = links.len().saturating_sub(1);
    while links.iter().map(|link| link.lines.len()).sum::<usize>() > room {
        // The root cause keeps its lines for the longest.
        let long = links
            .iter_mut()
            .enumerate()
            .filter(|(_, link)| link.lines.len() > 1);
        match long.max_by_key(|(at, link)| (*at != root, link.lines.len())) {
            Some((_, link)) => link.shorten(),
            None => break,
        }
    }
    let mut lines = Vec::new();
    for Link {
        start, lines: text, ..
    } in links
    {
        let below = " ".repeat(wide(&start));
        for (at, line) in text.iter().enumerate() {
            let start = if at == 0 { &start } else { &below };
            lines.push(format!("{start}{line}"));
        }
    }
    lines
}

/// One link of a chain, with where to look it up at its end.
#[derive(Debug)]
struct Link<'a> {
    start: String,
    what: &'a str,
    aside: String,
    width: usize,
    lines: Vec<String>,
}

impl<'a> Link<'a> {
    fn new(start: String, what: &'a str, aside: String, width: usize) -> Link<'a> {
        const MOST: usize = 6;
        let mut link = Link {
            start,
            what,
            aside: cut(&aside, width / 2),
            width,
            lines: Vec::new(),
        };
        link.lay(MOST);
        link
    }

    fn shorten(&mut self) {
        self.lay(self.lines.len().saturating_sub(1).max(1));
    }

    /// The text is cut where it must be; the evidence is not.
    fn lay(&mut self, most: usize) {
        let Link {
            what, aside, width, ..
        } = self;
        let mut lines = wrap(what, *width, most);
        let (count, beside) = (lines.len(), width.saturating_sub(wide(aside) + 2));
        match lines.last_mut() {
            Some(_) if aside.is_empty() => {}
            Some(last) if count == most || wide(last) <= beside => {
                *last = format!("{}  {aside}", cut(last, beside));
            }
            _ => lines.push(aside.clone()),
        }
        self.lines = lines;
    }
}

fn aside(reason: &Reason, since: Option<Time>, now: Time) -> String {
    let since = since.map(|since| since.ago(now)).unwrap_or_default();
    let parts = [&*since, &*reason.evidence];
    let parts: Vec<&str> = parts.into_iter().filter(|text| !text.is_empty()).collect();
    match parts.is_empty() {
        true => String::new(),
        false => format!("[{}]", parts.join("; ")),
    }
}

/// Commands stand alone on their lines, whole, to be copied.
fn tried(advice: &[Text], called: &str, look: Look) -> Vec<String> {
    let mut lines = Vec::new();
    for (at, command) in advice.iter().take(5).enumerate() {
        let label = if at == 0 { "try" } else { "" };
        let command = match command.strip_prefix("ronctl ") {
            Some(rest) => format!("{called} {rest}"),
            None => command.to_string(),
        };
        lines.push(format!(
            "   {label:9}{}",
            look.paint(Style::Strong, &command)
        ));
    }
    lines
}

fn field(label: &str, text: &str, most: usize, look: Look) -> Vec<String> {
    let text = wrap(text, look.width.saturating_sub(LABEL), most);
    let label = |at| if at == 0 { label } else { "" };
    text.iter()
        .enumerate()
        .map(|(at, line)| format!("   {:9}{line}", label(at)))
        .collect()
}

fn upcoming(next: &str, retry_at: Option<Time>, now: Time) -> String {
    match retry_at {
        Some(at) => format!("{next}, {}", at.ahead(now))
            .trim_start_matches(", ")
            .to_owned(),
        None => next.to_owned(),
    }
}

fn joined(lines: Vec<String>) -> String {
    let mut text = String::new();
    for line in lines {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
