//! Who reads the bus, and who loses what.

use super::{Cell, Look, Style, Table};
use crate::ctl::wire::{Bus, Reader, Topic};

pub(super) const HEAD: [&str; 6] = ["READER", "POLICY", "PENDING", "DELIVERED", "LOST", "NOTES"];

/// A line a topic, its readers under it, those that have left at the end.
pub(crate) fn bus(bus: &Bus, look: Look) -> String {
    if bus.topics.is_empty() {
        return "no topics\n".to_owned();
    }
    let mut table = Table::with_head(&HEAD).lines(2);
    for topic in &*bus.topics {
        let Topic {
            name,
            state,
            published,
            queue_depth,
            capacity,
            ..
        } = topic;
        let subscribers = match topic.subscribers {
            1 => "1 subscriber".to_owned(),
            many => format!("{many} subscribers"),
        };
        table.across(
            Cell::new(format!(
                "{name}: {state}, {published} published, slowest {queue_depth} of {capacity} behind, {subscribers}"
            ))
            .style(Style::Strong),
        );
        for reader in &*topic.readers {
            table.row(cells(&format!("  {}", reader.name), reader, topic, false));
        }
        for reader in &*topic.gone {
            table.row(cells(&format!("  {}", reader.name), reader, topic, true));
        }
    }
    table.render(look)
}

/// Events that a reader did not get although it wanted them.
pub(super) fn lost(reader: &Reader) -> u64 {
    let sum = || {
        let each = reader.lost.iter().map(|(_, count)| *count);
        each.fold(0, u64::saturating_add)
    };
    reader.lost.count("total").unwrap_or_else(sum)
}

pub(super) fn cells(label: &str, reader: &Reader, topic: &Topic, gone: bool) -> [Cell; 6] {
    let lost = lost(reader);
    let behind =
        topic.capacity > 0 && reader.pending.saturating_mul(5) > topic.capacity.saturating_mul(4);
    let mut notes: Vec<String> = Vec::new();
    if gone {
        notes.push("left".to_owned());
    }
    let reasons = reader
        .lost
        .iter()
        .filter(|(name, count)| &**name != "total" && *count > 0);
    notes.extend(reasons.map(|(name, count)| format!("{name} {count}")));
    if behind {
        notes.push("nearly full".to_owned());
    }
    for (name, count) in [
        ("filtered", reader.filtered),
        ("conflated", reader.conflated),
    ] {
        if count > 0 {
            notes.push(format!("{name} {count}"));
        }
    }
    let style = |warned: bool, style: Style| if warned { style } else { Style::Plain };
    let reader_style = if gone { Style::Dim } else { Style::Plain };
    [
        Cell::new(label).style(reader_style),
        Cell::new(reader.policy.as_deref().unwrap_or("-")).style(reader_style),
        Cell::number(reader.pending).style(style(behind, Style::Warn)),
        Cell::number(reader.delivered),
        Cell::number(lost).style(style(lost > 0 && !gone, Style::Bad)),
        Cell::new(notes.join(", ")),
    ]
}
