//! What a drain would do, and what it did.

use std::time::Duration;

use ron_config::format_duration;

use super::{Look, Style};
use crate::ctl::moment::short;
use crate::ctl::wire::{Drain, Report};

/// The stages in which children would stop, and what would be lost.
pub(crate) fn plan(plan: &Drain, look: Look) -> String {
    let span = |ms| format_duration(Duration::from_millis(ms));
    let linger = match plan.linger_ms {
        0 => String::new(),
        linger => format!("announce itself for {}, then ", span(linger)),
    };
    let mut text = format!(
        "a drain would {linger}stop these within {}:\n",
        span(plan.deadline_ms)
    );
    if plan.stages.is_empty() {
        text.push_str("  no children\n");
    }
    for (at, stage) in plan.stages.iter().enumerate() {
        for (of_stage, child) in stage.children.iter().enumerate() {
            let number = if of_stage == 0 {
                format!("{}.", at + 1)
            } else {
                String::new()
            };
            let limit = child
                .stop_timeout_ms
                .map(|ms| format!(" within {}", span(ms)))
                .unwrap_or_default();
            text.push_str(&format!(
                "  {number:4}{} ({}, {}){limit}\n",
                child.id, child.kind, child.state
            ));
        }
    }
    if plan.at_stake.is_empty() {
        text.push_str("nothing is at stake\n");
        return text;
    }
    text.push_str(&look.paint(Style::Warn, "at stake:"));
    text.push('\n');
    for stake in &*plan.at_stake {
        let place = if stake.r#where.is_empty() {
            String::new()
        } else {
            format!(" in {}", stake.r#where)
        };
        text.push_str(&format!("  {} {}{place}\n", stake.count, stake.what));
    }
    text
}

/// How a drain ended.
pub(crate) fn report(report: &Report, look: Look) -> String {
    let took = short(Duration::from_millis(report.took_ms));
    let (style, verdict) = match report.aborted.saturating_add(report.leaked) {
        0 => (Style::Good, format!("drained in {took}")),
        1 => (
            Style::Bad,
            format!("drained in {took}; 1 child did not stop by itself"),
        ),
        left => (
            Style::Bad,
            format!("drained in {took}; {left} children did not stop by themselves"),
        ),
    };
    let mut text = format!(
        "{}\n{} started = {} stopped + {} aborted + {} leaked + {} quarantined\n",
        look.paint(style, &verdict),
        report.started.unwrap_or_default(),
        report.stopped,
        report.aborted,
        report.leaked,
        report.quarantined,
    );
    for straggler in &*report.stragglers {
        text.push_str(&format!("  straggler: {straggler}\n"));
    }
    text
}
