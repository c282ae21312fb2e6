//! Faults that are in force.

use super::{Cell, Look, Style, Table};
use crate::ctl::moment::Time;
use crate::ctl::wire::{Chaos, Fault};

/// Whether faults may be injected, and which are.
pub(crate) fn chaos(chaos: &Chaos, now: Time, look: Look) -> String {
    let mut text = match (chaos.armed, chaos.default_child.as_deref()) {
        (true, Some(child)) => format!(
            "{}; the default child is {child}\n",
            look.paint(Style::Warn, "armed")
        ),
        (true, None) => format!("{}\n", look.paint(Style::Warn, "armed")),
        (false, _) => "not armed: chaos.armed is false, faults are refused\n".to_owned(),
    };
    if chaos.faults.is_empty() {
        text.push_str("no faults\n");
        return text;
    }
    let mut table =
        Table::with_head(&["ID", "FAULT", "CHILD", "SINCE", "ENDS", "INJECTED", "LEFT"]);
    for fault in &*chaos.faults {
        table.row([
            Cell::number(fault.id),
            Cell::new(&*fault.fault).style(Style::Warn),
            Cell::new(fault.child.as_deref().unwrap_or("-")),
            Cell::new(fault.since.map(|since| since.ago(now)).unwrap_or_default()),
            Cell::new(
                fault
                    .until
                    .map(|until| until.ahead(now))
                    .unwrap_or_default(),
            ),
            Cell::number(fault.injected),
            Cell::new(
                fault
                    .left
                    .map_or_else(|| "-".to_owned(), |left| left.to_string()),
            )
            .right(),
        ]);
    }
    text.push_str(&table.render(look));
    text
}

/// A fault that was just accepted.
pub(crate) fn injected(fault: &Fault, now: Time) -> String {
    let child = fault
        .child
        .as_deref()
        .map(|child| format!(" into {child}"))
        .unwrap_or_default();
    let ends = fault
        .until
        .map(|until| format!(", ends by itself {}", until.ahead(now)))
        .unwrap_or_default();
    let count = fault
        .count
        .map(|count| format!(", at most {count} times"))
        .unwrap_or_default();
    format!("fault {}: {}{child}{count}{ends}\n", fault.id, fault.fault)
}
