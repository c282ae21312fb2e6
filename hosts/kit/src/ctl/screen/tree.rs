//! The supervision tree, and the rows that `top` shares with it.

use super::{header, Cell, Look, Style, Table};
use crate::ctl::moment::{short, Time};
use crate::ctl::wire::{Node, Tree};

pub(super) const HEAD: [&str; 6] = ["CHILD", "STATE", "FOR", "GEN", "RESTARTS", "WHY OR STATUS"];

/// The tree, a line a child.
pub(crate) fn tree(tree: &Tree, now: Time, look: Look) -> String {
    let mut text = header(&tree.service, &tree.instance, &tree.state, look);
    if tree.children.is_empty() {
        text.push_str("no children\n");
        return text;
    }
    let mut table = Table::with_head(&HEAD);
    for twig in twigs(&tree.children) {
        table.row(cells(&twig.label, twig.node, now));
    }
    text.push_str(&table.render(look));
    text
}

/// One child with the branches that lead to it.
#[derive(Debug)]
pub(super) struct Twig<'a> {
    pub(super) label: String,
    pub(super) node: &'a Node,
}

/// Every node below `children`, in the order of the tree.
pub(super) fn twigs(children: &[Node]) -> Vec<Twig<'_>> {
    let mut twigs = Vec::new();
    grow(children, "", "", &mut twigs);
    twigs
}

fn grow<'a>(children: &'a [Node], trunk: &str, group: &str, twigs: &mut Vec<Twig<'a>>) {
    for (at, node) in children.iter().enumerate() {
        let last = at + 1 == children.len();
        let (fork, below) = if last {
            ("└─ ", "   ")
        } else {
            ("├─ ", "│  ")
        };
        let name = node.id.strip_prefix(group).unwrap_or(&node.id);
        let slash = if &*node.kind == "group" { "/" } else { "" };
        twigs.push(Twig {
            label: format!("{trunk}{fork}{name}{slash}"),
            node,
        });
        grow(
            &node.children,
            &format!("{trunk}{below}"),
            &format!("{}/", node.id),
            twigs,
        );
    }
}

/// Whether an operator should look at it.
pub(super) fn unwell(node: &Node) -> bool {
    node.cause.is_some() || !matches!(&*node.state, "ready" | "done" | "stopped")
}

pub(super) fn cells(label: &str, node: &Node, now: Time) -> [Cell; 6] {
    let unwell = unwell(node);
    let style = match Style::of_state(&node.state) {
        Style::Good | Style::Dim if unwell => Style::Warn,
        style => style,
    };
    let mark = if unwell { "!" } else { " " };
    let span = node.since.map(|since| short(since.before(now)));
    let restarts = match (node.restarts, node.restarts_in_window) {
        (0, 0) => "-".to_owned(),
        (all, 0) => all.to_string(),
        (all, recent) => format!("{all} ({recent} now)"),
    };
    [
        Cell::new(label),
        Cell::new(format!("{mark}{}", node.state)).style(style),
        Cell::new(span.unwrap_or_default()).right(),
        Cell::number(node.generation),
        Cell::new(restarts).right(),
        Cell::new(why(node, now)),
    ]
}

/// What is to be known first: when it is tried again, why it is unwell, what it says of itself.
fn why(node: &Node, now: Time) -> String {
    let retry = node.retry_at.map(|at| format!("retry {}", at.ahead(now)));
    let pid = node.pid.map(|pid| format!("pid {pid}"));
    let said = [
        retry.as_deref(),
        node.cause.as_deref(),
        node.status.as_deref(),
        pid.as_deref(),
    ];
    let said: Vec<&str> = said
        .into_iter()
        .flatten()
        .filter(|text| !text.is_empty())
        .collect();
    said.join("; ")
}
