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
pub(crate) struct Socket<'a> {
    pub(crate) service: &'a str,
    pub(crate) instance: &'a str,
    pub(crate) pid: Option<u64>,
    pub(crate) path: &'a Path,
    pub(crate) here: Here,
}

/// A line a socket.
pub(crate) fn ps(rows: &[Socket<'_>], look: Look) -> String {
    let mut table = Table::with_head(&[
        "SERVICE", "INSTANCE", "PID", "STATE", "UP", "VERSION", "CHILDREN",
    ])
    .lines(2);
    for row in rows {
        let mut cells = vec![
            Cell::new(row.service),
            Cell::new(row.instance),
            Cell::new(row.pid.map(|pid| pid.to_string()).unwrap_or_default()).right(),
        ];
        let (state, style, problem) = match &row.here {
            Here::Live(about) => {
                let up = about.uptime_ms.map(|up| short(Duration::from_millis(up)));
                cells.push(Cell::new(&*about.state).style(Style::of_state(&about.state)));
                cells.push(Cell::new(up.unwrap_or_default()).right());
                cells.push(Cell::new(&*about.version));
                cells.push(Cell::new(children(about)));
                table.row(cells);
                continue;
            }
            Here::Dead => (
                "dead",
                Style::Dim,
                format!("{}: nobody listens", shown(row.path)),
            ),
            Here::Silent(problem) => ("silent", Style::Bad, problem.clone()),
            Here::Refused(problem) => ("refused", Style::Bad, problem.clone()),
        };
        cells.push(Cell::new(state).style(style));
        table.row(cells);
        table.across(Cell::new(format!("  {problem}")));
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
