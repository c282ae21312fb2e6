//! Answers as text for people: pure functions of the answer, the time, and how wide and colourful the place is.

mod bus;
mod changes;
mod chaos;
mod config;
mod drain;
mod explain;
mod ps;
mod tail;
mod top;
mod tree;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

pub(crate) use bus::bus;
pub(crate) use changes::changes;
pub(crate) use chaos::{chaos, injected};
pub(crate) use config::{config, origin, plan, Asked};
pub(crate) use drain::{plan as drain_plan, report as drain_report};
pub(crate) use explain::{diagnosis, explanation};
pub(crate) use ps::{ps, Here, Socket};
pub(crate) use tail::line;
pub(crate) use top::{top, Before};
pub(crate) use tree::tree;

use super::moment::Time;
use super::wire::{Accepted, Filter};

/// Where a text is shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    pub(crate) colour: bool,
    /// Columns; lines are cut there. `usize::MAX` for a pipe or a file.
    pub(crate) width: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Style {
    #[default]
    Plain,
    Dim,
    Strong,
    Good,
    Warn,
    Bad,
}

impl Style {
    /// How a state of a child or a service is shown.
    fn of_state(state: &str) -> Style {
        match state {
            "ready" => Style::Good,
            "done" | "stopped" => Style::Dim,
            "quarantined" | "stuck" | "leaked" | "not_ready" => Style::Bad,
            _ => Style::Warn,
        }
    }
}

impl Look {
    pub(crate) fn paint(self, style: Style, text: &str) -> String {
        let code = match style {
            Style::Plain => None,
            Style::Dim => Some("2"),
            Style::Strong => Some("1"),
            Style::Good => Some("32"),
            Style::Warn => Some("33"),
            Style::Bad => Some("1;31"),
        };
        match code {
            Some(code) if self.colour && !text.is_empty() => format!("\x1b[{code}m{text}\x1b[0m"),
            _ => text.to_owned(),
        }
    }
}

/// One field of a [`Table`].
#[derive(Clone, Debug, Default)]
struct Cell {
    text: String,
    style: Style,
    right: bool,
}

impl Cell {
    fn new(text: impl Into<String>) -> Cell {
        Cell {
            text: text.into(),
            ..Cell::default()
        }
    }

    fn number(number: u64) -> Cell {
        Cell {
            text: number.to_string(),
            right: true,
            ..Cell::default()
        }
    }

    fn style(mut self, style: Style) -> Cell {
        self.style = style;
        self
    }

    fn right(mut self) -> Cell {
        self.right = true;
        self
    }
}

#[derive(Debug)]
enum Row {
    Fields(Vec<Cell>),
    /// A line across all columns.
    Across(Cell),
}

/// Columns as wide as their widest field, as long as the line holds them.
#[derive(Debug)]
struct Table {
    rows: Vec<Row>,
    /// Lines that a field of the last column may take.
    lines: usize,
}

impl Table {
    fn new() -> Table {
        Table {
            rows: Vec::new(),
            lines: 1,
        }
    }

    fn with_head(head: &[&str]) -> Table {
        let mut table = Table::new();
        table.row(head.iter().map(|text| Cell::new(*text).style(Style::Dim)));
        table
    }

    fn lines(mut self, lines: usize) -> Table {
        self.lines = lines;
        self
    }

    fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(Row::Fields(cells.into_iter().collect()));
    }

    fn across(&mut self, cell: Cell) {
        self.rows.push(Row::Across(cell));
    }

    fn fields(&self) -> impl Iterator<Item = &Vec<Cell>> {
        self.rows.iter().filter_map(|row| match row {
            Row::Fields(cells) => Some(cells),
            Row::Across(_) => None,
        })
    }

    /// Two blanks between columns; a column with a number in it stands right, its head too.
    fn render(self, look: Look) -> String {
        let columns = self.fields().map(Vec::len).max().unwrap_or(0);
        let column = |at: usize| self.fields().filter_map(move |row| row.get(at));
        let right: Vec<bool> = (0..columns)
            .map(|at| column(at).any(|cell| cell.right))
            .collect();
        let widest = |at| column(at).map(|cell| wide(&cell.text)).max().unwrap_or(0);
        let widths = fit((0..columns).map(widest).collect(), look.width);
        let mut text = String::new();
        for row in &self.rows {
            match row {
                Row::Across(cell) => {
                    text.push_str(&look.paint(cell.style, &cut(&cell.text, look.width)));
                    text.push('\n');
                }
                Row::Fields(cells) => self.fields_of(cells, &widths, &right, look, &mut text),
            }
        }
        text
    }

    fn fields_of(
        &self,
        cells: &[Cell],
        widths: &[usize],
        right: &[bool],
        look: Look,
        text: &mut String,
    ) {
        let (mut at, mut owed) = (0, 0);
        for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
            let lines = if column + 1 == widths.len() {
                self.lines
            } else {
                1
            };
            for (line, shown) in wrap(&cell.text, *width, lines).iter().enumerate() {
                if line > 0 {
                    text.push('\n');
                    owed = at;
                }
                let rest = width.saturating_sub(wide(shown));
                let before = if right[column] { rest } else { 0 };
                // Blanks are owed until something stands behind them.
                if !shown.is_empty() {
                    text.extend(std::iter::repeat_n(' ', owed + before));
                    text.push_str(&look.paint(cell.style, shown));
                    owed = rest - before;
                } else {
                    owed += rest;
                }
            }
            at += width + 2;
            owed += 2;
        }
        text.push('\n');
    }
}

/// Widths that fit into `width` with two blanks between them: the widest column gives way first, the last one not
/// below what a cause needs.
fn fit(mut widths: Vec<usize>, width: usize) -> Vec<usize> {
    const LAST: usize = 16;
    const LEAST: usize = 6;
    let gaps = 2 * widths.len().saturating_sub(1);
    loop {
        let total = widths.iter().sum::<usize>() + gaps;
        if total <= width {
            return widths;
        }
        let Some((last, front)) = widths.split_last_mut() else {
            return widths;
        };
        if *last > LAST {
            *last = last.saturating_sub(total - width).max(LAST);
            continue;
        }
        match front.iter_mut().max() {
            Some(widest) if *widest > LEAST => *widest -= 1,
            _ => return widths,
        }
    }
}

/// Columns that `text` takes.
fn wide(text: &str) -> usize {
    text.width()
}

/// `text` in at most `width` columns, with an ellipsis where something is missing.
fn cut(text: &str, width: usize) -> String {
    if wide(text) <= width {
        return text.to_owned();
    }
    let (mut shown, mut used) = (String::new(), 0);
    for c in text.chars() {
        let columns = c.width().unwrap_or(0);
        if used + columns + 1 > width {
            break;
        }
        used += columns;
        shown.push(c);
    }
    if width > 0 {
        shown.push('…');
    }
    shown
}

/// `text` in lines of at most `width` columns, broken between words where there are any; the last of `lines` is cut.
fn wrap(text: &str, width: usize, lines: usize) -> Vec<String> {
    let mut wrapped = Vec::new();
    let mut rest = text.trim_end();
    while wrapped.len() + 1 < lines && wide(rest) > width {
        let (mut used, mut end, mut blank) = (0, 0, None);
        for (at, c) in rest.char_indices() {
            if c == ' ' {
                blank = Some(at);
            }
            used += c.width().unwrap_or(0);
            if used > width {
                break;
            }
            end = at + c.len_utf8();
        }
        let at = blank.filter(|at| *at > 0).unwrap_or(end);
        if at == 0 {
            break;
        }
        wrapped.push(rest[..at].trim_end().to_owned());
        rest = rest[at..].trim_start();
    }
    wrapped.push(cut(rest, width));
    wrapped
}

/// `NOT READY`.
fn shouted(state: &str) -> String {
    match state {
        "" => "STATE UNKNOWN".to_owned(),
        state => state.replace('_', " ").to_uppercase(),
    }
}

/// The line that says of whom the rest tells.
fn header(service: &str, instance: &str, state: &str, look: Look) -> String {
    let name = cut(
        &format!("{service} {instance}"),
        look.width.saturating_sub(16),
    );
    format!(
        "{}  {}\n",
        look.paint(Style::Strong, name.trim()),
        look.paint(Style::of_state(state), &shouted(state))
    )
}

/// What became of a command for one child.
pub(crate) fn accepted(accepted: &Accepted, look: Look) -> String {
    let Accepted {
        id,
        accepted,
        state,
        generation,
    } = accepted;
    format!(
        "{id}: {accepted} accepted; now {}, generation {generation}\n",
        look.paint(Style::of_state(state), state)
    )
}

/// What stands above the last frame while its service does not answer.
pub(crate) fn lost(problem: &str, service: &str, look: Look) -> String {
    let line = cut(&format!("connection lost: {problem}"), look.width);
    let last = cut(
        &format!("waiting for {service}; what follows is the last that was known"),
        look.width,
    );
    format!("{}\n{last}\n", look.paint(Style::Bad, &line))
}

/// The log filter in force.
pub(crate) fn filter(filter: &Filter, now: Time) -> String {
    let Filter {
        filter,
        until,
        standing,
    } = filter;
    match until {
        Some(until) => format!(
            "{filter}\nreverts to {standing} {} ({} UTC)\n",
            until.ahead(now),
            until.stamp(now)
        ),
        None => format!("{filter}\n"),
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod columns {
    use super::*;

    #[test]
    fn a_text_is_cut_to_columns_not_bytes() {
        for (text, width, expected) in [
            ("short", 5, "short"),
            ("longer", 5, "long…"),
            ("日本語", 6, "日本語"),
            ("日本語", 5, "日本…"),
            ("日本語", 4, "日…"),
            ("abc", 1, "…"),
            ("abc", 0, ""),
        ] {
            assert_eq!(cut(text, width), expected);
            assert!(wide(&cut(text, width)) <= width);
        }
    }

    #[test]
    fn a_text_is_broken_between_words_or_where_it_must() {
        assert_eq!(wrap("one two three", 8, 3), ["one two", "three"]);
        assert_eq!(wrap("one two three", 7, 3), ["one two", "three"]);
        assert_eq!(wrap("abcdefghij", 4, 3), ["abcd", "efgh", "ij"]);
        assert_eq!(wrap("abcdefghijklmn", 4, 2), ["abcd", "efg…"]);
        assert_eq!(wrap("日本", 1, 3), ["…"]);
        assert_eq!(wrap("", 4, 3), [""]);
    }

    #[test]
    fn columns_give_way_until_the_line_fits() {
        assert_eq!(fit(vec![4, 10], usize::MAX), [4, 10]);
        assert_eq!(fit(vec![4, 100], 80), [4, 74]);
        assert_eq!(fit(vec![90, 5, 100], 80), [55, 5, 16]);
        assert_eq!(fit(vec![90, 90], 10), [6, 16]);
        assert!(fit(Vec::new(), 0).is_empty());
    }
}
