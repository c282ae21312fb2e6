//! What changed.

use super::{Cell, Look, Style, Table};
use crate::ctl::moment::Time;
use crate::ctl::wire::{Change, Changes};

/// Oldest first, as it happened.
pub(crate) fn changes(changes: &Changes, now: Time, look: Look) -> String {
    let mut text = String::new();
    if changes.complete == Some(false) {
        let begins = changes
            .record_from
            .map(|from| format!("the record begins {}; ", from.stamp(now)));
        let gap = format!(
            "{}earlier changes are not shown",
            begins.unwrap_or_default()
        );
        text.push_str(&look.paint(Style::Warn, &gap));
        text.push('\n');
    }
    if changes.dropped > 0 {
        let lost = format!("{} changes are no longer recorded", changes.dropped);
        text.push_str(&look.paint(Style::Warn, &lost));
        text.push('\n');
    }
    if changes.changes.is_empty() {
        let since = changes
            .since
            .map(|since| format!(" since {}", since.stamp(now)));
        text.push_str(&format!("nothing changed{}\n", since.unwrap_or_default()));
        return text;
    }
    let mut table = Table::with_head(&["TIME (UTC)", "KIND", "SUBJECT", "WHAT"]).lines(3);
    for change in &*changes.changes {
        let Change { kind, .. } = change;
        let subject = match (change.subject.as_deref(), change.generation) {
            (Some(subject), Some(generation)) => format!("{subject} ({generation})"),
            (Some(subject), None) => subject.to_owned(),
            (None, _) => "-".to_owned(),
        };
        // Who it was stands first where somebody did it: a long text must not hide it.
        let what = match change.by.as_deref() {
            Some(by) if !by.is_empty() => format!("{by}: {}", change.text),
            _ => change.text.to_string(),
        };
        let number = change.seq.map(|seq| format!(" #{seq}")).unwrap_or_default();
        table.row([
            Cell::new(change.ts.map(|ts| ts.stamp(now)).unwrap_or_default()),
            Cell::new(format!("{kind}{number}")).style(style(kind)),
            Cell::new(subject),
            Cell::new(what),
        ]);
    }
    text.push_str(&table.render(look));
    text
}

fn style(kind: &str) -> Style {
    match kind {
        "crash" | "quarantine" | "stuck" | "leak" | "escalate" | "rejected" => Style::Bad,
        "backoff" | "stall" | "fault" | "shutdown" => Style::Warn,
        "command" | "config" | "release" => Style::Strong,
        _ => Style::Plain,
    }
}
