//! Configuration files: read with a limit, taken apart by syntax, held against the keys.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use toml::de::{DeTable, DeValue};

use super::builder::{problem, quoted, RykerConfigBuilder};
use super::error::{ErrorKind, Problem};
use super::key::{sections, split, Key, Scalar, KEYS};
use super::spelling::nearest;

/// The largest file that is read, 1 MiB. A real one is a kilobyte, so a larger one is a mistaken path.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// How many unknown keys, and how many syntax errors, are reported one by one.
const MAX_LISTED: usize = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Syntax {
    Toml,
    Json,
}

impl Syntax {
    /// By the extension, whatever its case.
    pub(super) fn of_path(path: &Path) -> Option<Self> {
        let extension = path.extension()?;
        if extension.eq_ignore_ascii_case("toml") {
            Some(Self::Toml)
        } else if extension.eq_ignore_ascii_case("json") {
            Some(Self::Json)
        } else {
            None
        }
    }
}

/// Reads a regular file of at most [`MAX_FILE_BYTES`].
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let refused = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    // Before it is opened: a pipe would make us wait for its writer.
    let kind = std::fs::metadata(path)?.file_type();
    if kind.is_dir() {
        return refused("it is a directory");
    }
    if !kind.is_file() {
        return refused("it is not a regular file");
    }
    let mut bytes = Vec::new();
    File::open(path)?
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return refused("it is larger than 1 MiB");
    }
    Ok(bytes)
}

/// Puts what the file at `path` says into `builder`; the keys it says something wrong of are returned as bad.
pub(super) fn apply_file(
    builder: &mut RykerConfigBuilder,
    path: &Path,
    read: impl FnOnce(&Path) -> io::Result<Vec<u8>>,
) -> Findings {
    let shown = path.display().to_string();
    let Some(syntax) = Syntax::of_path(path) else {
        let what = "is neither .toml nor .json";
        return Findings::fatal(vec![Problem::new(ErrorKind::Invalid, shown, what)]);
    };
    let bytes = match read(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            let what = format!("cannot be read: {error}");
            return Findings::fatal(vec![Problem::new(ErrorKind::Io, shown, what)]);
        }
    };
    match std::str::from_utf8(&bytes) {
        Ok(text) => apply_text(builder, syntax, text, Some(&shown)),
        Err(error) => {
            let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let valid = String::from_utf8_lossy(valid);
            let place = Places::new(Some(&shown), &valid).at(valid.len());
            Findings::fatal(vec![Problem::new(
                ErrorKind::Parse,
                place,
                "is not UTF-8 text",
            )])
        }
    }
}

/// What is wrong with a file.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) problems: Vec<Problem>,
    /// The keys whose value is not known.
    pub(super) bad: Vec<Key>,
}

impl Findings {
    /// Nothing of the file is known.
    pub(super) fn fatal(problems: Vec<Problem>) -> Self {
        Self {
            problems,
            bad: KEYS.to_vec(),
        }
    }
}

/// Puts what `text` says into `builder`.
pub(super) fn apply_text(
    builder: &mut RykerConfigBuilder,
    syntax: Syntax,
    text: &str,
    path: Option<&str>,
) -> Findings {
    let places = Places::new(path, text);
    let (members, faults) = match syntax {
        Syntax::Toml => parse_toml(text),
        Syntax::Json => parse_json(text),
    };
    let mut filling = Filling {
        builder,
        found: Vec::new(),
        bad: Vec::new(),
        strangers: 0,
        broken_lines: faults.iter().map(|fault| places.line(fault.at)).collect(),
        places,
    };
    for member in members {
        filling.root(member);
    }
    filling.finish(faults)
}

/// A file in the course of being held against the keys.
struct Filling<'a> {
    builder: &'a mut RykerConfigBuilder,
    places: Places<'a>,
    /// With their byte offsets.
    found: Vec<(usize, Problem)>,
    bad: Vec<Key>,
    strangers: usize,
    /// The lines with syntax errors: what was made of their values is not what stands there.
    broken_lines: HashSet<usize>,
}

impl Filling<'_> {
    fn root(&mut self, member: Member) {
        let is_section = sections().any(|section| section == member.name);
        match member.value {
            Value::Table(members) if is_section => {
                for inner in members {
                    let name = format!("{}.{}", member.name, inner.name);
                    self.key(name, inner);
                }
            }
            Value::Scalar(scalar) if is_section => {
                let inside = |key: &Key| split(key.spec().name).0 == member.name;
                self.bad.extend(KEYS.into_iter().filter(inside));
                let place = self.places.at(member.value_at);
                let wrong = Problem::new(ErrorKind::Parse, place, "is not a table")
                    .of_key(member.name)
                    .of_value(show(&scalar));
                self.wrong(member.value_at, wrong);
            }
            Value::Table(_) => {
                let near = nearest(&member.name, sections());
                let all: Vec<&str> = sections().collect();
                let expected = format!("one of {}", all.join(", "));
                self.stranger(member.name, member.name_at, near, Some(expected));
            }
            Value::Scalar(_) => {
                // Perhaps the section was forgotten.
                let near = key_like(&member.name);
                self.stranger(member.name, member.name_at, near, None);
            }
        }
    }

    fn key(&mut self, name: String, member: Member) {
        let Some(key) = Key::of_name(&name) else {
            let near = key_like(&name);
            self.stranger(name, member.name_at, near, None);
            return;
        };
        let scalar = match member.value {
            Value::Scalar(scalar) => scalar,
            Value::Table(_) => Scalar::Other("a table"),
        };
        let place = self.places.at(member.value_at);
        match key.spec().form.of_scalar(&scalar) {
            Ok(value) => self.builder.put(key, value, Cow::Owned(place)),
            Err(misfit) => {
                self.bad.push(key);
                let wrong = problem(key, misfit, place, show(&scalar));
                self.wrong(member.value_at, wrong);
            }
        }
    }

    fn wrong(&mut self, at: usize, problem: Problem) {
        if !self.broken_lines.contains(&self.places.line(at)) {
            self.found.push((at, problem));
        }
    }

    fn stranger(
        &mut self,
        name: String,
        at: usize,
        near: Option<&'static str>,
        expected: Option<String>,
    ) {
        self.bad.extend(near.and_then(Key::of_name));
        // A broken header puts its keys elsewhere.
        if !self.broken_lines.is_empty() {
            return;
        }
        self.strangers += 1;
        if self.strangers > MAX_LISTED {
            return;
        }
        let mut unknown = Problem::new(ErrorKind::Parse, self.places.at(at), "unknown key")
            .of_key(quoted_unless_plain(&name))
            .suggesting(near);
        if let Some(expected) = expected.filter(|_| near.is_none()) {
            unknown = unknown.expecting(expected);
        }
        self.found.push((at, unknown));
    }

    fn finish(mut self, mut faults: Vec<Fault>) -> Findings {
        if !faults.is_empty() {
            self.bad = KEYS.to_vec();
        }
        faults.sort_by_key(|fault| fault.at);
        let counts = [
            (faults.len(), "syntax errors"),
            (self.strangers, "unknown keys"),
        ];
        for fault in faults.into_iter().take(MAX_LISTED) {
            let place = self.places.at(fault.at);
            let wrong = Problem::new(ErrorKind::Parse, place, fault.what);
            self.found.push((fault.at, wrong));
        }
        self.found.sort_by_key(|(at, _)| *at);
        let mut problems: Vec<Problem> = self.found.into_iter().map(|(_, found)| found).collect();
        for (count, what) in counts {
            if count > MAX_LISTED {
                let what = format!("{} more {what}", count - MAX_LISTED);
                problems.push(Problem::new(ErrorKind::Parse, self.places.name(), what));
            }
        }
        Findings {
            problems,
            bad: self.bad,
        }
    }
}

/// The key that was meant by a name: misspelt, in another section, or too short or too long.
fn key_like(name: &str) -> Option<&'static str> {
    let names = || KEYS.into_iter().map(|key| key.spec().name);
    let leaf_of = |name: &'static str| split(name).1;
    let (_, leaf) = split(name);
    nearest(name, names())
        .or_else(|| {
            let near = nearest(leaf, names().map(leaf_of))?;
            names().find(|name| leaf_of(name) == near)
        })
        .or_else(|| {
            const TELLING: usize = 5;
            let begins = |a: &str, b: &str| b.len() >= TELLING && a.starts_with(b);
            names().find(|name| begins(leaf_of(name), leaf) || begins(leaf, leaf_of(name)))
        })
}

fn show(scalar: &Scalar) -> String {
    match scalar {
        Scalar::Text(text) => quoted(text),
        Scalar::Integer(number) => number.to_string(),
        Scalar::Flag(flag) => flag.to_string(),
        Scalar::Other(_) => "the value".to_owned(),
    }
}

fn quoted_unless_plain(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.len() <= 60 && name.chars().all(is_plain) {
        name.to_owned()
    } else {
        quoted(name)
    }
}

/// One `name = value`, with the byte offsets of both.
#[derive(Debug)]
struct Member {
    name: String,
    name_at: usize,
    value_at: usize,
    value: Value,
}

/// Tables below the second level are scalars: no key holds one.
#[derive(Debug)]
enum Value {
    Table(Vec<Member>),
    Scalar(Scalar),
}

/// What is wrong with the syntax, and the byte offset where.
#[derive(Debug)]
struct Fault {
    at: usize,
    what: String,
}

/// Turns byte offsets into places.
struct Places<'a> {
    path: Option<&'a str>,
    text: &'a str,
    /// Offset of the first byte of each line.
    lines: Vec<usize>,
}

impl<'a> Places<'a> {
    fn new(path: Option<&'a str>, text: &'a str) -> Self {
        let ends = text.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            path,
            text,
            lines: std::iter::once(0).chain(ends).collect(),
        }
    }

    fn name(&self) -> String {
        self.path.unwrap_or("text").to_owned()
    }

    /// From 1.
    fn line(&self, offset: usize) -> usize {
        self.lines.partition_point(|start| *start <= offset)
    }

    fn at(&self, offset: usize) -> String {
        let line = self.line(offset);
        let start = self.lines.get(line - 1).copied().unwrap_or_default();
        let end = offset.min(self.text.len());
        let column = self
            .text
            .get(start..end)
            .unwrap_or_default()
            .chars()
            .count()
            + 1;
        match self.path {
            Some(path) => format!("{path}:{line}:{column}"),
            None => format!("line {line}, column {column}"),
        }
    }
}

/// What could be understood, and what could not.
type Parsed = (Vec<Member>, Vec<Fault>);

fn parse_toml(text: &str) -> Parsed {
    let (root, errors) = DeTable::parse_recoverable(text);
    let faults = errors.iter().map(|error| Fault {
        at: error.span().map_or(text.len(), |span| span.start),
        what: error.message().to_owned(),
    });
    (toml_members(root.get_ref(), true), faults.collect())
}

fn toml_members(table: &DeTable<'_>, is_root: bool) -> Vec<Member> {
    let mut members: Vec<Member> = table
        .iter()
        .map(|(name, value)| Member {
            name: name.get_ref().to_string(),
            name_at: name.span().start,
            value_at: value.span().start,
            value: match value.get_ref() {
                DeValue::Table(inner) if is_root => Value::Table(toml_members(inner, false)),
                other => Value::Scalar(toml_scalar(other)),
            },
        })
        .collect();
    members.sort_by_key(|member| member.name_at);
    members
}

fn toml_scalar(value: &DeValue<'_>) -> Scalar {
    match value {
        DeValue::String(text) => Scalar::Text(text.to_string()),
        DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix())
            .map_or(Scalar::Other("too large a number"), Scalar::Integer),
        DeValue::Float(_) => Scalar::Other("a number with a fraction"),
        DeValue::Boolean(flag) => Scalar::Flag(*flag),
        DeValue::Datetime(_) => Scalar::Other("a date or time"),
        DeValue::Array(_) => Scalar::Other("an array"),
        DeValue::Table(_) => Scalar::Other("a table"),
    }
}

fn parse_json(text: &str) -> Parsed {
    let whole: &RawValue = match serde_json::from_str(text) {
        Ok(whole) => whole,
        Err(error) => return (Vec::new(), vec![json_fault(text, &error)]),
    };
    let mut reader = JsonReader {
        text,
        faults: Vec::new(),
    };
    match reader.value(whole, 0) {
        Value::Table(members) => (members, reader.faults),
        Value::Scalar(_) => {
            reader.fault(whole, "is not an object");
            (Vec::new(), reader.faults)
        }
    }
}

fn json_fault(text: &str, error: &serde_json::Error) -> Fault {
    let line_start: usize = text
        .split_inclusive('\n')
        .take(error.line().saturating_sub(1))
        .map(str::len)
        .sum();
    let shown = error.to_string();
    // The place is said once, in our own words.
    let what = shown.split(" at line ").next().unwrap_or_default();
    Fault {
        at: line_start + error.column().saturating_sub(1),
        what: what.to_owned(),
    }
}

/// Goes through a text that is known to be JSON, one raw value at a time, because a raw value has a place.
struct JsonReader<'a> {
    text: &'a str,
    faults: Vec<Fault>,
}

impl<'a> JsonReader<'a> {
    fn value(&mut self, raw: &'a RawValue, depth: usize) -> Value {
        let source = raw.get();
        Value::Scalar(match source.bytes().next() {
            Some(b'{') if depth < 2 => return Value::Table(self.members(raw, depth)),
            Some(b'{') => Scalar::Other("a table"),
            Some(b'[') => Scalar::Other("an array"),
            Some(b'"') => Scalar::Text(self.string(raw).unwrap_or_default()),
            Some(b't') => Scalar::Flag(true),
            Some(b'f') => Scalar::Flag(false),
            Some(b'n') => Scalar::Other("null"),
            _ if source.contains(['.', 'e', 'E']) => Scalar::Other("a number with a fraction"),
            _ => source
                .parse()
                .map_or(Scalar::Other("too large a number"), Scalar::Integer),
        })
    }

    fn members(&mut self, raw: &'a RawValue, depth: usize) -> Vec<Member> {
        let pairs = match serde_json::from_str(raw.get()) {
            Ok(Pairs(pairs)) => pairs,
            Err(_) => return Vec::new(),
        };
        let mut seen = HashSet::new();
        let mut members = Vec::with_capacity(pairs.len());
        for (name, value) in pairs {
            let Some(unescaped) = self.string(name) else {
                continue;
            };
            if !seen.insert(unescaped.clone()) {
                self.fault(name, "duplicate key");
                continue;
            }
            members.push(Member {
                name: unescaped,
                name_at: self.offset(name),
                value_at: self.offset(value),
                value: self.value(value, depth + 1),
            });
        }
        members
    }

    /// Half a surrogate pair is JSON but not text.
    fn string(&mut self, raw: &RawValue) -> Option<String> {
        let unescaped = serde_json::from_str(raw.get()).ok();
        if unescaped.is_none() {
            self.fault(raw, "is not Unicode text");
        }
        unescaped
    }

    fn fault(&mut self, raw: &RawValue, what: &str) {
        self.faults.push(Fault {
            at: self.offset(raw),
            what: what.to_owned(),
        });
    }

    /// A raw value is a slice of the text.
    fn offset(&self, raw: &RawValue) -> usize {
        (raw.get().as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize)
    }
}

/// An object in order, repeated names included.
struct Pairs<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'de> Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}
