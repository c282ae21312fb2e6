//! JSON into located nodes: the raw slice of each value gives its place, and repeated keys are seen.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::toml::too_deep;
use super::{Entry, Fault, Kind, Node, Span, MAX_DEPTH};

pub(super) fn parse(text: &str) -> (Vec<Entry>, Vec<Fault>) {
    let mut faults = Vec::new();
    let whole: &RawValue = match serde_json::from_str(text) {
        Ok(raw) => raw,
        Err(error) => {
            faults.push(fault(&error, text, Span::default()));
            return (Vec::new(), faults);
        }
    };
    let mut reader = Reader {
        text,
        faults: &mut faults,
    };
    let root = reader.node(whole, 0);
    match root.kind {
        Kind::Table(entries) => (entries, faults),
        _ => {
            faults.push(Fault {
                span: root.span,
                problem: "is not an object; a configuration is a JSON object".to_owned(),
                repeated: false,
            });
            (Vec::new(), faults)
        }
    }
}

struct Reader<'a, 'f> {
    text: &'a str,
    faults: &'f mut Vec<Fault>,
}

impl<'a> Reader<'a, '_> {
    fn node(&mut self, raw: &'a RawValue, depth: usize) -> Node {
        let span = self.span(raw);
        let source = raw.get();
        let kind = match source.as_bytes().first() {
            _ if depth > MAX_DEPTH => {
                self.faults.push(too_deep(span));
                Kind::Null
            }
            Some(b'{') => match serde_json::from_str::<Members<'_>>(source) {
                Ok(members) => Kind::Table(self.members(members, depth)),
                Err(error) => self.broken(&error, span),
            },
            Some(b'[') => match serde_json::from_str::<Items<'_>>(source) {
                Ok(items) => Kind::List(
                    items
                        .0
                        .into_iter()
                        .map(|item| self.node(item, depth + 1))
                        .collect(),
                ),
                Err(error) => self.broken(&error, span),
            },
            Some(b'"') => match serde_json::from_str(source) {
                Ok(text) => Kind::Text(Zeroizing::new(text)),
                Err(error) => self.broken(&error, span),
            },
            Some(b't') => Kind::Bool(true),
            Some(b'f') => Kind::Bool(false),
            Some(b'n') => Kind::Null,
            _ if source.contains(['.', 'e', 'E']) => match source.parse::<f64>() {
                Ok(number) if number.is_finite() => Kind::Float(number),
                _ => Kind::Huge,
            },
            _ => source.parse().map_or(Kind::Huge, Kind::Integer),
        };
        Node { span, kind }
    }

    fn members(&mut self, members: Members<'a>, depth: usize) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::with_capacity(members.0.len());
        let mut seen = HashSet::new();
        for (raw_key, raw_value) in members.0 {
            let span = self.span(raw_key);
            let key: String = match serde_json::from_str(raw_key.get()) {
                Ok(key) => key,
                Err(error) => {
                    self.broken(&error, span);
                    continue;
                }
            };
            if !seen.insert(key.clone()) {
                self.faults.push(Fault {
                    span,
                    problem: "duplicate key".to_owned(),
                    repeated: true,
                });
                continue;
            }
            let value = self.node(raw_value, depth + 1);
            entries.push(Entry { key, span, value });
        }
        entries
    }

    /// A raw value borrows from the text, so the distance between the two is its offset.
    fn span(&self, raw: &RawValue) -> Span {
        let start = (raw.get().as_ptr() as usize).wrapping_sub(self.text.as_ptr() as usize);
        Span {
            start,
            end: start + raw.get().len(),
        }
    }

    fn broken(&mut self, error: &serde_json::Error, span: Span) -> Kind {
        self.faults.push(fault(error, self.text, span));
        Kind::Null
    }
}

/// Turns a serde_json error, whose line and column count from the start of the parsed slice, into a located fault.
fn fault(error: &serde_json::Error, text: &str, within: Span) -> Fault {
    let slice = text.get(within.start..).unwrap_or("");
    let line_start: usize = slice
        .split_inclusive('\n')
        .take(error.line().saturating_sub(1))
        .map(str::len)
        .sum();
    let start = (within.start + line_start + error.column().saturating_sub(1)).min(text.len());
    let full = error.to_string();
    // The message ends in " at line L column C", relative to the slice; the span says it better.
    let problem = full
        .rfind(" at line ")
        .map_or(full.as_str(), |at| &full[..at])
        .to_owned();
    Fault {
        span: Span { start, end: start },
        problem,
        repeated: false,
    }
}

struct Items<'a>(Vec<&'a RawValue>);

impl<'de> Deserialize<'de> for Items<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Items<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Items(items))
            }
        }
        deserializer.deserialize_seq(Collect)
    }
}

/// The members of an object in order, repeated keys included.
struct Members<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}
