//! TOML into located nodes, through the recovering parser so that every fault is seen.

use ::toml::de::{DeTable, DeValue};
use ::toml::Spanned;
use zeroize::Zeroizing;

use super::{Entry, Fault, Kind, Node, Span, MAX_DEPTH};

pub(super) fn parse(text: &str) -> (Vec<Entry>, Vec<Fault>) {
    let (root, errors) = DeTable::parse_recoverable(text);
    let mut faults: Vec<Fault> = errors
        .iter()
        .map(|error| Fault {
            span: error.span().unwrap_or(text.len()..text.len()).into(),
            problem: error.message().to_owned(),
            repeated: error.message() == "duplicate key",
        })
        .collect();
    let root = table(root.get_ref(), 0, &mut faults);
    (root, faults)
}

fn table(table: &DeTable<'_>, depth: usize, faults: &mut Vec<Fault>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = table
        .iter()
        .map(|(key, value)| Entry {
            key: key.get_ref().to_string(),
            span: key.span().into(),
            value: node(value, depth + 1, faults),
        })
        .collect();
    entries.sort_by_key(|entry| entry.span.start);
    entries
}

fn node(value: &Spanned<DeValue<'_>>, depth: usize, faults: &mut Vec<Fault>) -> Node {
    let span: Span = value.span().into();
    let kind = match value.get_ref() {
        _ if depth > MAX_DEPTH => {
            faults.push(too_deep(span));
            Kind::Null
        }
        DeValue::String(text) => Kind::Text(Zeroizing::new(text.to_string())),
        DeValue::Integer(number) => {
            i128::from_str_radix(number.as_str(), number.radix()).map_or(Kind::Huge, Kind::Integer)
        }
        DeValue::Float(number) => number.as_str().parse().map_or(Kind::Huge, Kind::Float),
        DeValue::Boolean(value) => Kind::Bool(*value),
        DeValue::Datetime(_) => Kind::Date,
        DeValue::Array(items) => {
            Kind::List(items.iter().map(|i| node(i, depth + 1, faults)).collect())
        }
        DeValue::Table(entries) => Kind::Table(table(entries, depth, faults)),
    };
    Node { span, kind }
}

pub(super) fn too_deep(span: Span) -> Fault {
    Fault {
        span,
        problem: format!("nests deeper than {MAX_DEPTH} levels"),
        repeated: false,
    }
}
