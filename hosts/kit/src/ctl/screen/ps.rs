//! Which services are here.

use std::path::Path;

use super::{Cell, Look, Style, Table};
use crate::ctl::failure::shown;
use crate::ctl::moment::short;
use crate::ctl::wire::About;
use std::time::Duration;

/// How a socket answered.
#[derive(Debug)]
pub(crate) enum Here {
    Live(Box<About>),
    /// Nobody listens: left behind by a process that is gone.
    Dead,
    /// Listens, and what came was no answer.
    Silent(String),
    /// Not to be trusted.
    Refused(String),
}

/// One socket.
#[derive(Debug)]
pub(crate) struct Row<'a> {
    pub(crate) service: &'a str,
    pub(crate) instance: &'a str,
    pub(crate) pid: Option<u64>,
    pub(crate) path: &'a Path,
    pub(crate) here: Here,
}

/// A line a socket.
pub(crate) fn ps(rows: &[Row<'_>], look: Look) -> String {
    let mut table = Table::with_head(&[
        "SERVICE", "INSTANCE", "PID", "STATE", "UP", "VERSION", "CHILDREN",
    ]);
    for row in rows {
        let pid = row.pid.map(|pid| pid.to_string()).unwrap_or_default();
        let (state, style, up, version, note) = match &row.here {
            Here::Live(about) => (
                about.state.to_string(),
                Style::of_state(&about.state),
                about.uptime_ms.map(|up| short(Duration::from_millis(up))),
                about.version.to_string(),
                children(about),
            ),
            Here::Dead => (
                "dead".to_owned(),
                Style::Dim,
                None,
                String::new(),
                format!("nobody listens on {}", shown(row.path)),
            ),
            Here::Silent(problem) => (
                "silent".to_owned(),
                Style::Bad,
                None,
                String::new(),
                problem.clone(),
            ),
            Here::Refused(problem) => (
                "refused".to_owned(),
                Style::Bad,
                None,
                String::new(),
                problem.clone(),
            ),
        };
        table.row([
            Cell::new(row.service),
            Cell::new(row.instance),
            Cell::new(pid).right(),
            Cell::new(state).style(style),
            Cell::new(up.unwrap_or_default()).right(),
            Cell::new(version),
            Cell::new(note),
        ]);
    }
    table.render(look)
}

fn children(about: &About) -> String {
    let mut counts: Vec<String> = about
        .children
        .iter()
        .map(|(state, count)| format!("{count} {state}"))
        .collect();
    if about.chaos_armed {
        counts.push("chaos is armed".to_owned());
    }
    counts.join(", ")
}
