//! One frame of the live picture.

use std::time::Duration;

use super::bus::{self, lost};
use super::tree::{self, twigs, unwell};
use super::{cut, shouted, wide, Cell, Look, Style, Table};
use crate::ctl::moment::{short, Time};
use crate::ctl::wire::Top;

/// What the frame before this one said of the processor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Before {
    pub(crate) at: Time,
    pub(crate) cpu_ms: u64,
}

/// Readiness and why, the tree, readers that are behind or have lost; in `height` lines if there are so many.
pub(crate) fn top(
    top: &Top,
    now: Time,
    before: Option<Before>,
    look: Look,
    height: usize,
) -> String {
    let mut lines = vec![title(top, now, before, look)];
    lines.extend(readiness(top, now, look));
    let readers = readers(top, look);
    let room = height.saturating_sub(lines.len() + readers.len() + 2);
    lines.push(String::new());
    lines.extend(children(top, now, look, room));
    if !readers.is_empty() {
        lines.push(String::new());
        lines.extend(readers);
    }
    lines.truncate(height.max(1));
    lines.join("\n") + "\n"
}

fn title(top: &Top, now: Time, before: Option<Before>, look: Look) -> String {
    let mut facts = vec![format!("{} UTC", now.stamp(now))];
    if let Some(up) = top.uptime_ms {
        facts.push(format!("up {}", short(Duration::from_millis(up))));
    }
    if let Some(pid) = top.pid {
        facts.push(format!("pid {pid}"));
    }
    if let Some(cpu) = top.process.cpu_ms {
        let share = before.and_then(|before| {
            let span = u64::try_from(before.at.before(now).as_millis()).ok()?;
            (cpu.saturating_sub(before.cpu_ms) * 100).checked_div(span)
        });
        facts.push(match share {
            Some(share) => format!("cpu {share}%"),
            None => format!("cpu {} so far", short(Duration::from_millis(cpu))),
        });
    }
    if let Some(bytes) = top.process.rss_bytes {
        facts.push(format!("rss {} MiB", bytes >> 20));
    }
    if let Some(threads) = top.process.threads {
        facts.push(format!("{threads} threads"));
    }
    if let Some(fds) = top.process.fds {
        facts.push(format!("{fds} fds"));
    }
    let state = shouted(&top.state);
    let name = cut(&top.service, 30);
    let left = look.width.saturating_sub(wide(&name) + wide(&state) + 4);
    let facts = cut(&facts.join("  "), left);
    format!(
        "{}  {}  {facts}",
        look.paint(Style::Strong, &name),
        look.paint(Style::of_state(&top.state), &state)
    )
}

fn readiness(top: &Top, now: Time, look: Look) -> Vec<String> {
    const MOST: usize = 4;
    let mut lines = Vec::new();
    for cause in top.causes.iter().take(MOST) {
        let since = cause
            .since
            .map(|since| format!(" ({})", since.ago(now)))
            .unwrap_or_default();
        let text = format!("  {} {}: {}", cause.status, cause.key, cause.reason);
        let text = cut(&text, look.width.saturating_sub(wide(&since)));
        lines.push(look.paint(Style::of_state(&cause.status), &text) + &since);
    }
    if top.causes.len() > MOST {
        lines.push(format!("  and {} more causes", top.causes.len() - MOST));
    }
    if !top.missing.is_empty() {
        let missing: Vec<&str> = top.missing.iter().map(|key| &**key).collect();
        lines.push(cut(
            &format!("  not ready yet: {}", missing.join(", ")),
            look.width,
        ));
    }
    lines
}

/// The tree, or in less room the unwell of it with their whole ids.
fn children(top: &Top, now: Time, look: Look, room: usize) -> Vec<String> {
    let twigs = twigs(&top.children);
    let mut table = Table::with_head(&tree::HEAD);
    if twigs.len() < room {
        for twig in &twigs {
            table.row(tree::cells(&twig.label, twig.node, now));
        }
        return split(table.render(look));
    }
    // Less the head and the line that counts the rest.
    let room = room.saturating_sub(2).max(1);
    let sick = twigs.iter().filter(|twig| unwell(twig.node));
    let well = twigs.iter().filter(|twig| !unwell(twig.node));
    for twig in sick.chain(well).take(room) {
        table.row(tree::cells(&twig.node.id, twig.node, now));
    }
    let hidden = twigs.len().saturating_sub(room);
    let hidden_sick = twigs
        .iter()
        .filter(|twig| unwell(twig.node))
        .count()
        .saturating_sub(room);
    let mut lines = split(table.render(look));
    lines.push(format!("and {hidden} more, {hidden_sick} of them unwell"));
    lines
}

fn readers(top: &Top, look: Look) -> Vec<String> {
    const MOST: usize = 5;
    let readers = top
        .topics
        .iter()
        .flat_map(|topic| topic.readers.iter().map(move |reader| (topic, reader)));
    let mut readers: Vec<_> = readers
        .filter(|(_, reader)| reader.pending > 0 || lost(reader) > 0)
        .collect();
    if readers.is_empty() {
        return Vec::new();
    }
    readers.sort_by_key(|(_, reader)| std::cmp::Reverse((lost(reader), reader.pending)));
    let mut table = Table::with_head(&bus::HEAD);
    for (topic, reader) in readers.iter().take(MOST) {
        table.row(bus::cells(
            &format!("{}/{}", topic.name, reader.name),
            reader,
            topic,
            false,
        ));
    }
    if readers.len() > MOST {
        table.across(Cell::new(format!("and {} more", readers.len() - MOST)));
    }
    split(table.render(look))
}

fn split(text: String) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}
