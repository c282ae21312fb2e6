//! What is wrong, root causes first. The worst finding is whole on the first 24 lines of a terminal.

use super::{cut, wide, wrap, Look, Style};
use crate::ctl::moment::Time;
use crate::ctl::wire::{Diagnosis, Explanation, Finding, Reason, Text};

/// Lines of the smallest terminal, without the one for the prompt.
const FIRST_SCREEN: usize = 23;
/// In front of everything that belongs to a finding.
const LABEL: usize = 12;

/// The verdict, then every finding.
pub(crate) fn diagnosis(diagnosis: &Diagnosis, now: Time, look: Look) -> String {
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
            &format!("instance {instance}, {}", now.stamp(now)),
            look.width,
        ),
    ));
    for (at, finding) in findings.iter().enumerate() {
        lines.push(String::new());
        let room = FIRST_SCREEN.saturating_sub(if at == 0 { lines.len() } else { 2 });
        lines.extend(self::finding(at + 1, finding, now, room, look));
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
    let mut lines = vec![format!(
        "{} is {}",
        look.paint(Style::Strong, &cut(id, look.width.saturating_sub(16))),
        look.paint(Style::of_state(state), state)
    )];
    lines.extend(chain(because, now, 2 * because.len(), look));
    if let Some(exit) = &explanation.last_exit {
        let place = exit.location.as_deref().filter(|at| !at.is_empty());
        let place = place.map(|at| format!(" at {at}")).unwrap_or_default();
        lines.extend(field(
            "last exit",
            &format!("{}: {}{place}", exit.kind, exit.text),
            4,
            look,
        ));
    }
    let mut next = upcoming(&explanation.next, explanation.retry_at, now);
    if let Some(left) = explanation.attempts_left {
        next.push_str(&format!("; {left} restarts left before quarantine"));
    }
    lines.extend(field("next", &next, 3, look));
    joined(lines)
}

fn finding(number: usize, finding: &Finding, now: Time, room: usize, look: Look) -> Vec<String> {
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
    tail.extend(tried(advice, look));
    let room = room.saturating_sub(lines.len() + tail.len());
    lines.extend(chain(because, now, room, look));
    lines.extend(tail);
    lines
}

/// From what is seen to what caused it, each link under the one it explains, in `room` lines.
fn chain(because: &[Reason], now: Time, room: usize, look: Look) -> Vec<String> {
    let room = room.max(2);
    let shown: Vec<Option<&Reason>> = if because.len() <= room {
        because.iter().map(Some).collect()
    } else {
        // What is seen and the root matter most.
        let (first, last) = (room / 2, room - room / 2 - 1);
        let front = because[..first].iter().map(Some);
        let back = because[because.len() - last..].iter().map(Some);
        front.chain([None]).chain(back).collect()
    };
    let each = (room / shown.len().max(1)).clamp(1, 2);
    let mut lines = Vec::new();
    for (at, reason) in shown.iter().enumerate() {
        let label = if at == 0 { "because" } else { "" };
        let deep = at.min(6) * 2;
        let hook = if at == 0 { "" } else { "└ " };
        let inset = " ".repeat(deep.saturating_sub(2));
        let start = format!("   {label:9}{inset}{hook}");
        let Some(reason) = reason else {
            let left = because.len() + 1 - shown.len();
            lines.push(format!("{start}.. {left} more links"));
            continue;
        };
        let mut aside = Vec::new();
        if let Some(since) = reason.since {
            aside.push(since.ago(now));
        }
        if !reason.evidence.is_empty() {
            aside.push(cut(&reason.evidence, look.width / 2));
        }
        let aside = match aside.is_empty() {
            true => String::new(),
            false => format!("  [{}]", aside.join("; ")),
        };
        let width = look.width.saturating_sub(wide(&start));
        let whole = wide(&reason.what) + wide(&aside) <= width;
        // The evidence stays whole: it is what one looks up.
        let text = match (whole, each) {
            (false, 1) => vec![cut(&reason.what, width.saturating_sub(wide(&aside)))],
            _ => wrap(&reason.what, width.saturating_sub(wide(&aside)), each),
        };
        let end = text.len() - 1;
        for (line, what) in text.iter().enumerate() {
            let start = match line {
                0 => start.clone(),
                _ => " ".repeat(wide(&start)),
            };
            let aside = if line == end { aside.as_str() } else { "" };
            lines.push(format!("{start}{what}{}", look.paint(Style::Dim, aside)));
        }
    }
    lines
}

/// Commands stand alone on their lines, whole, to be copied.
fn tried(advice: &[Text], look: Look) -> Vec<String> {
    let mut lines = Vec::new();
    for (at, command) in advice.iter().take(5).enumerate() {
        let label = if at == 0 { "try" } else { "" };
        lines.push(format!(
            "   {label:9}{}",
            look.paint(Style::Strong, command)
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
