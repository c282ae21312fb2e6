//! The layers merged into one value: every defect collected, every origin remembered.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{catch_unwind, AssertUnwindSafe};

use zeroize::Zeroizing;

use crate::diagnostic::{Diagnostic, MAX_DIAGNOSTICS};
use crate::document::{Document, Entry, Kind, Node, Span};
use crate::env::Assignment;
use crate::origin::{Layer, Origin, Sourced};
use crate::schema::{Built, Index, Meta, Rank, Settings};
use crate::value::{Input, Mismatch};

/// What one merge produced.
pub(crate) struct Resolved<T> {
    pub(crate) value: T,
    /// The defaults and the file alone, to see what the file wants where a variable or flag has the say.
    pub(crate) file_value: T,
    /// One record per key of the schema, in its order.
    pub(crate) records: Vec<Record>,
    /// Origins of the keys of list items.
    pub(crate) places: BTreeMap<String, Origin>,
    pub(crate) warnings: Vec<Diagnostic>,
    pub(crate) secrets: Secrets,
}

/// The origin of one key's value in force.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) current: Sourced,
    /// Strongest first.
    pub(crate) shadowed: Vec<Sourced>,
    pub(crate) pending: Option<Sourced>,
}

/// The secret texts that were read, to keep them out of messages the user's code writes.
#[derive(Clone, Default)]
pub(crate) struct Secrets(Vec<Zeroizing<String>>);

impl Secrets {
    fn learn(&mut self, input: Input<'_>) {
        match input.as_node() {
            Some(node) => self.learn_node(node),
            None => self.push(input.text().unwrap_or("")),
        }
    }

    fn learn_node(&mut self, node: &Node) {
        match &node.kind {
            Kind::Text(text) => self.push(text),
            Kind::Integer(number) => self.push(&number.to_string()),
            Kind::Float(number) => self.push(&number.to_string()),
            Kind::List(items) => items.iter().for_each(|item| self.learn_node(item)),
            Kind::Table(entries) => entries.iter().for_each(|e| self.learn_node(&e.value)),
            Kind::Null | Kind::Bool(_) | Kind::Date | Kind::Huge => {}
        }
    }

    fn push(&mut self, text: &str) {
        if !text.is_empty() {
            self.0.push(Zeroizing::new(text.to_owned()));
        }
    }

    /// The message, unless it repeats a secret.
    pub(crate) fn scrub(&self, message: String) -> String {
        if self
            .0
            .iter()
            .any(|secret| message.contains(secret.as_str()))
        {
            "message withheld: it repeats a secret".to_owned()
        } else {
            message
        }
    }
}

/// Where a defect stands, to sort the report: layer, then offset.
type Order = (u8, usize);

const FILE: u8 = 0;
const ENV: u8 = 1;
const FLAG: u8 = 2;
const REST: u8 = 3;

/// The state of one merge.
pub(crate) struct Filling<'d> {
    document: Option<&'d Document>,
    errors: Vec<(Order, Diagnostic)>,
    warnings: Vec<Diagnostic>,
    places: BTreeMap<String, Origin>,
    secrets: Secrets,
    /// Lines with a syntax fault: what was recovered from them is not judged again.
    fault_lines: BTreeSet<usize>,
    /// The syntax was broken, so that a missing key may only be unseen.
    broken: bool,
}

/// One layer's wish for one key.
struct Candidate<'a> {
    key: usize,
    layer: Layer,
    rank: Rank,
    via: String,
    place: String,
    order: Order,
    input: Input<'a>,
    entry: Option<&'a Entry>,
}

/// What became of one key.
struct Outcome {
    origin: Origin,
    shadowed: Vec<Sourced>,
    named: bool,
    bad: bool,
}

/// Merges defaults, file, environment and flags. `unread` says that there is a file which could not be read, so that
/// what it may hold is not reported missing.
pub(crate) fn resolve<T: Settings>(
    built: &Built<T>,
    defaults: &T,
    document: Option<&Document>,
    env: &[Assignment],
    flags: &[Assignment],
    strangers: &[Diagnostic],
    unread: bool,
) -> Result<Resolved<T>, Vec<Diagnostic>> {
    let mut filling = Filling {
        document,
        errors: Vec::new(),
        warnings: Vec::new(),
        places: BTreeMap::new(),
        secrets: Secrets::default(),
        fault_lines: BTreeSet::new(),
        broken: unread,
    };
    for (i, stranger) in strangers.iter().enumerate() {
        filling.errors.push(((ENV, i), stranger.clone()));
    }
    let mut candidates = Vec::new();
    if let Some(document) = document {
        filling.note_faults(document, &built.index);
        walk(
            &built.index,
            &document.root,
            "",
            "",
            &mut filling,
            &mut candidates,
        );
    }
    candidates.extend(assigned(env, Layer::Env, ENV));
    candidates.extend(assigned(flags, Layer::Flag, FLAG));

    let mut value = defaults.clone();
    let mut outcomes = fresh(built);
    apply(
        built,
        &mut value,
        &mut outcomes,
        &candidates,
        Layer::File,
        "",
        &mut filling,
    );
    let file_value = value.clone();
    apply(
        built,
        &mut value,
        &mut outcomes,
        &candidates,
        Layer::Env,
        "",
        &mut filling,
    );
    apply(
        built,
        &mut value,
        &mut outcomes,
        &candidates,
        Layer::Flag,
        "",
        &mut filling,
    );

    let missing = |meta: &Meta| match document {
        Some(document) => document.shown().to_owned(),
        None => meta.env_names().into_iter().next().unwrap_or_default(),
    };
    conclude(
        built,
        &mut value,
        &mut outcomes,
        "",
        missing,
        (REST, 0),
        &mut filling,
    );

    if !filling.errors.is_empty() {
        filling.errors.sort_by_key(|(order, _)| *order);
        return Err(filling.errors.into_iter().map(|(_, error)| error).collect());
    }
    let records = built
        .keys
        .iter()
        .zip(outcomes)
        .map(|(key, outcome)| Record {
            current: Sourced {
                value: key.meta.shown(key.field.show(&mut value)),
                origin: outcome.origin,
            },
            shadowed: outcome.shadowed.into_iter().rev().collect(),
            pending: None,
        });
    let records = records.collect();
    Ok(Resolved {
        value,
        file_value,
        records,
        places: filling.places,
        warnings: filling.warnings,
        secrets: filling.secrets,
    })
}

/// Reads one item of a list of tables. Defects go to `filling`; the item is then of no use, and is not used.
pub(crate) fn fill_item<I: Settings>(
    built: &Built<I>,
    entries: &[Entry],
    span: Span,
    path: &str,
    filling: &mut Filling<'_>,
) -> I {
    let base = format!("{path}.");
    let mut candidates = Vec::new();
    walk(&built.index, entries, "", &base, filling, &mut candidates);
    let mut item = I::default();
    let mut outcomes = fresh(built);
    apply(
        built,
        &mut item,
        &mut outcomes,
        &candidates,
        Layer::File,
        &base,
        filling,
    );
    let place = filling.document.map(|document| document.place(span.start));
    let place = place.unwrap_or_default();
    conclude(
        built,
        &mut item,
        &mut outcomes,
        &base,
        |_| place.clone(),
        (FILE, span.start),
        filling,
    );
    for (key, outcome) in built.keys.iter().zip(outcomes) {
        let path = format!("{base}{}", key.meta.path);
        filling.places.insert(path, outcome.origin);
    }
    item
}

/// Runs the checks across keys on a value that is about to be in force; each failure with the keys it concerns.
pub(crate) fn failed_checks<T>(
    built: &Built<T>,
    value: &mut T,
    secrets: &Secrets,
) -> Vec<(Vec<String>, String)> {
    let mut failed = Vec::new();
    for check in &built.checks {
        if let Err(message) = calmly(|| (check.test)(value)) {
            failed.push((check.keys.clone(), secrets.scrub(message)));
        }
    }
    failed
}

/// Calls code of the user's; a panic is a failure like any other.
pub(crate) fn calmly(run: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err("it panicked".to_owned()))
}

fn fresh<T>(built: &Built<T>) -> Vec<Outcome> {
    let fresh = |_| Outcome {
        origin: Origin::default_value(),
        shadowed: Vec::new(),
        named: false,
        bad: false,
    };
    built.keys.iter().map(fresh).collect()
}

fn assigned(
    assignments: &[Assignment],
    layer: Layer,
    order: u8,
) -> impl Iterator<Item = Candidate<'_>> {
    assignments
        .iter()
        .enumerate()
        .map(move |(i, assignment)| Candidate {
            key: assignment.key,
            layer,
            rank: assignment.rank,
            via: assignment.name.clone(),
            place: assignment.name.clone(),
            order: (order, i),
            input: Input::plain(&assignment.text, assignment.unit),
            entry: None,
        })
}

/// Sorts the entries of a table into wishes for keys, descending into sections.
fn walk<'a>(
    index: &Index,
    entries: &'a [Entry],
    prefix: &str,
    base: &str,
    filling: &mut Filling<'_>,
    candidates: &mut Vec<Candidate<'a>>,
) {
    for entry in entries {
        let path = format!("{prefix}{}", entry.key);
        if let Some(named) = index.key(&path) {
            candidates.push(Candidate {
                key: named.key,
                layer: Layer::File,
                rank: named.rank,
                via: path,
                place: filling.place(entry.value.span),
                order: (FILE, entry.value.span.start),
                input: Input::node(&entry.value),
                entry: Some(entry),
            });
        } else if index.is_section(&path) {
            match &entry.value.kind {
                Kind::Table(inner) => {
                    let prefix = format!("{path}.");
                    walk(index, inner, &prefix, base, filling, candidates);
                }
                _ => {
                    let found = Input::node(&entry.value).mismatch().problem;
                    // What stands here may be a misplaced secret: only its kind is named.
                    let found = found.split(' ').take(3).collect::<Vec<_>>().join(" ");
                    let found = if found.starts_with("found the text") {
                        "found a text"
                    } else {
                        &found
                    };
                    let diagnostic =
                        Diagnostic::new(format!("{base}{path}"), filling.place(entry.value.span))
                            .problem(found)
                            .expected("a table");
                    filling.fail((FILE, entry.value.span.start), diagnostic);
                }
            }
        } else {
            // A file that is no configuration at all must not cost a search per line of it.
            let wanted = filling.errors.len() < MAX_DIAGNOSTICS;
            let suggestion = wanted.then(|| index.suggest(&path)).flatten();
            let suggestion = suggestion.map(|known| format!("{base}{known}"));
            // Where the syntax is broken, the value of a secret may have been read as a key.
            let (path, problem) = if filling.broken && suggestion.is_none() {
                (
                    prefix.to_owned() + "?",
                    "unknown key; not shown while the syntax is broken",
                )
            } else {
                (path, "unknown key")
            };
            let diagnostic = Diagnostic::new(format!("{base}{path}"), filling.place(entry.span))
                .problem(problem)
                .suggestion(suggestion);
            filling.fail((FILE, entry.span.start), diagnostic);
        }
    }
}

/// Applies one layer, key by key, weaker names first.
fn apply<T: Clone>(
    built: &Built<T>,
    target: &mut T,
    outcomes: &mut [Outcome],
    candidates: &[Candidate<'_>],
    layer: Layer,
    base: &str,
    filling: &mut Filling<'_>,
) {
    for (i, key) in built.keys.iter().enumerate() {
        let mine = |c: &&Candidate<'_>| c.key == i && c.layer == layer;
        let mut wishes: Vec<&Candidate<'_>> = candidates.iter().filter(mine).collect();
        wishes.sort_by_key(|wish| wish.rank);
        let path = format!("{base}{}", key.meta.path);
        let mut before: Option<(&Candidate<'_>, T)> = None;
        for wish in wishes {
            outcomes[i].named = true;
            if key.meta.secret {
                filling.secrets.learn(wish.input);
            }
            if wish.rank == Rank::Deprecated {
                let warning = Diagnostic::new(&path, &wish.place)
                    .problem(format!("`{}` is a former name", wish.via))
                    .suggestion(Some(new_name(wish, &key.meta)));
                filling.warnings.push(warning);
            }
            let known = filling.errors.len();
            let mut scratch = target.clone();
            let mut result = key
                .field
                .set(&mut scratch, wish.input, &path, filling)
                .map_err(|mismatch| (mismatch, false));
            for rule in &key.rules {
                if result.is_ok() && filling.errors.len() == known {
                    result = test(|| (rule.test)(&mut scratch))
                        .map_err(|mismatch| (mismatch, rule.custom));
                }
            }
            if let Err((mismatch, custom)) = result {
                filling.refuse(&path, &key.meta, wish, mismatch, custom);
                outcomes[i].bad = true;
                continue;
            }
            if filling.errors.len() > known {
                outcomes[i].bad = true;
                continue;
            }
            if let Some((other, mut value)) = before.take() {
                let rivals = other.rank > Rank::Implied && wish.rank < Rank::First;
                if rivals && !key.field.same(&mut value, &mut scratch) {
                    let diagnostic = Diagnostic::new(&path, &wish.place)
                        .problem(format!(
                            "`{}` and `{}` set it to different values",
                            wish.via, other.via
                        ))
                        .expected(format!(
                            "one of the two; the other stands at {}",
                            other.place
                        ));
                    filling.fail(wish.order, diagnostic);
                    outcomes[i].bad = true;
                }
            }
            let outcome = &mut outcomes[i];
            outcome.shadowed.push(Sourced {
                value: key.meta.shown(key.field.show(target)),
                origin: outcome.origin.clone(),
            });
            outcome.origin = Origin::new(layer, &wish.place);
            *target = scratch.clone();
            before = Some((wish, scratch));
        }
    }
}

/// After the last layer: defaults judged, required keys missed, checks across keys run. `order` is where in the report
/// their defects go.
fn conclude<T>(
    built: &Built<T>,
    value: &mut T,
    outcomes: &mut [Outcome],
    base: &str,
    missing: impl Fn(&Meta) -> String,
    order: Order,
    filling: &mut Filling<'_>,
) {
    for (i, key) in built.keys.iter().enumerate() {
        if outcomes[i].named {
            continue;
        }
        let path = format!("{base}{}", key.meta.path);
        if key.meta.required {
            outcomes[i].bad = true;
            if !filling.broken {
                let diagnostic = Diagnostic::new(&path, missing(&key.meta))
                    .problem("missing")
                    .expected(&key.meta.expected);
                filling.errors.push((order, diagnostic));
            }
            continue;
        }
        for rule in &key.rules {
            if let Err(mismatch) = test(|| (rule.test)(value)) {
                let problem = if key.meta.secret {
                    "the program's own default is refused".to_owned()
                } else {
                    format!("the program's own default: {}", mismatch.problem)
                };
                let diagnostic = Diagnostic::new(&path, "default")
                    .problem(problem)
                    .expected(&key.meta.expected);
                filling.errors.push((order, diagnostic));
                outcomes[i].bad = true;
                break;
            }
        }
    }
    if filling.broken {
        return;
    }
    for check in &built.checks {
        let concerned: Vec<usize> = check
            .keys
            .iter()
            .filter_map(|key| built.index.key(key))
            .map(|named| named.key)
            .collect();
        if concerned.iter().any(|key| outcomes[*key].bad) {
            continue;
        }
        if let Err(message) = calmly(|| (check.test)(value)) {
            // The first listed of the strongest layer; `max_by_key` would take the last of equals.
            let layer = |key: &usize| outcomes[*key].origin.layer();
            let strongest = concerned.iter().map(layer).max();
            let culprit = concerned.iter().find(|key| Some(layer(key)) == strongest);
            let (path, place) = culprit.map_or((String::new(), "default".to_owned()), |key| {
                let path = format!("{base}{}", built.keys[*key].meta.path);
                (path, outcomes[*key].origin.place().to_owned())
            });
            let message = filling.secrets.scrub(message);
            let diagnostic = Diagnostic::new(path, place).problem(message);
            filling.errors.push((order, diagnostic));
        }
    }
}

/// A rule's verdict; a panic in it is a failure like any other.
fn test(run: impl FnOnce() -> Result<(), Mismatch>) -> Result<(), Mismatch> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err(Mismatch::new("its check panicked")))
}

fn new_name(wish: &Candidate<'_>, meta: &Meta) -> String {
    match wish.layer {
        Layer::Env => meta.derived_env().unwrap_or_default(),
        Layer::Flag => format!("--{}", meta.path),
        Layer::File | Layer::Default => meta.path.clone(),
    }
}

impl Filling<'_> {
    fn place(&self, span: Span) -> String {
        let place = self.document.map(|document| document.place(span.start));
        place.unwrap_or_default()
    }

    /// Adds a defect of the file's content, unless its line is broken anyway.
    fn fail(&mut self, order: Order, diagnostic: Diagnostic) {
        if order.0 == FILE && self.on_fault_line(order.1) {
            return;
        }
        self.errors.push((order, diagnostic));
    }

    fn on_fault_line(&self, offset: usize) -> bool {
        let line = self.document.map(|document| document.line(offset));
        line.is_some_and(|line| self.fault_lines.contains(&line))
    }

    /// Reports the syntax: one fault per line, repeated keys by their path.
    fn note_faults(&mut self, document: &Document, index: &Index) {
        for fault in &document.faults {
            let line = document.line(fault.span.start);
            if !self.fault_lines.insert(line) {
                continue;
            }
            self.broken |= !fault.repeated;
            let place = document.place(fault.span.start);
            let diagnostic = if fault.repeated {
                let key = repeated_key(document, index, fault.span);
                Diagnostic::new(key, place)
                    .problem("stands in the file twice")
                    .expected("each key and table once")
            } else {
                Diagnostic::new("", place).problem(fault.problem.clone())
            };
            self.errors.push(((FILE, fault.span.start), diagnostic));
        }
    }

    /// Reports why a wish was refused, with its source unless that is a secret.
    fn refuse(
        &mut self,
        path: &str,
        meta: &Meta,
        wish: &Candidate<'_>,
        mismatch: Mismatch,
        custom: bool,
    ) {
        let Mismatch {
            problem,
            suggestion,
            span,
            more,
        } = mismatch;
        let inner = span.or(wish.entry.map(|entry| entry.value.span));
        let (place, order) = match inner {
            Some(span) => (self.place(span), (FILE, span.start)),
            None => (wish.place.clone(), wish.order),
        };
        let mut diagnostic = Diagnostic::new(path, place);
        diagnostic = match (meta.secret, custom) {
            (true, true) => diagnostic.problem(self.secrets.scrub(problem)),
            (true, false) => diagnostic.problem("the value, a secret, does not fit"),
            (false, true) => diagnostic.problem(self.secrets.scrub(problem)),
            (false, false) => diagnostic.problem(problem).suggestion(suggestion),
        };
        if !custom {
            diagnostic = diagnostic.expected(&meta.expected);
        }
        if let (false, Some(document), Some(entry), Some(span)) =
            (meta.secret, self.document, wish.entry, inner)
        {
            let source = document.slice(span);
            if !source.starts_with(['{', '[']) {
                let whole = span == entry.value.span;
                let dots = if whole { "" } else { ".. " };
                let before = format!("{} = {dots}", entry.key);
                diagnostic = diagnostic.snippet(document.line(span.start), before, source);
            }
        }
        self.fail(order, diagnostic);
        for mismatch in more {
            self.refuse(path, meta, wish, mismatch, custom);
        }
    }
}

/// The path of a repeated key, as far as the text around it names keys of the schema.
fn repeated_key(document: &Document, index: &Index, span: Span) -> String {
    let key = document.slice(span).trim_matches('"');
    let head = document.line_head(span.start).trim_start();
    let mut tried = vec![format!("{}{key}", head.trim_start_matches('['))];
    if let Some(header) = document.header_before(span.start) {
        tried.insert(0, format!("{header}.{}{key}", head));
    }
    let known = |path: &String| index.key(path).is_some() || index.is_section(path);
    tried
        .into_iter()
        .find(known)
        .unwrap_or_else(|| key.to_owned())
}
