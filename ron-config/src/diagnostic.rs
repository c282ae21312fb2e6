//! What is wrong with a configuration: every defect located, all of them in one report.

use std::fmt;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value as Json;
use thiserror::Error;

/// The most defects one report lists; what lies beyond is counted. A person mends far fewer at a time, and a file that
/// is no configuration at all must not fill the log.
pub const MAX_DIAGNOSTICS: usize = 100;

/// One defect (or, in [`Loaded::warnings`](crate::Loaded::warnings), one remark).
///
/// `Display` is one line, `where: key: problem; expected ..; did you mean ..?`, and then, where the value is not a
/// secret, the offending piece of source. It serializes to `{"key","where","problem","expected","suggestion"}`, the last
/// two `null` where there is nothing to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    key: String,
    place: String,
    problem: String,
    expected: Option<String>,
    suggestion: Option<String>,
    snippet: Option<Snippet>,
}

/// A piece of source: the key and the offending value, never the rest of the line.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Snippet {
    line: usize,
    before: String,
    value: String,
}

impl Diagnostic {
    pub(crate) fn new(key: impl Into<String>, place: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            place: place.into(),
            problem: String::new(),
            expected: None,
            suggestion: None,
            snippet: None,
        }
    }

    pub(crate) fn problem(mut self, problem: impl Into<String>) -> Self {
        self.problem = problem.into();
        self
    }

    pub(crate) fn expected(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into()).filter(|text: &String| !text.is_empty());
        self
    }

    pub(crate) fn suggestion(mut self, suggestion: Option<impl Into<String>>) -> Self {
        self.suggestion = suggestion.map(Into::into);
        self
    }

    pub(crate) fn snippet(mut self, line: usize, before: String, source: &str) -> Self {
        const WIDTH: usize = 60;
        let first = source.lines().next().unwrap_or("");
        let mut value: String = first.chars().take(WIDTH).collect();
        if value.len() < source.len() {
            value.push_str("...");
        }
        self.snippet = Some(Snippet {
            line,
            before,
            value,
        });
        self
    }

    /// The key path, `bus.capacity` or `service[1].name`; empty when the defect belongs to no key (a syntax error, an
    /// unreadable file).
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Where it stands: `configs/ron-kernel.toml:12:5`, an environment variable, a flag, or `default`.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// What is wrong.
    pub fn what(&self) -> &str {
        &self.problem
    }

    /// What would be right.
    pub fn what_is_expected(&self) -> Option<&str> {
        self.expected.as_deref()
    }

    /// The name or value that was probably meant.
    pub fn did_you_mean(&self) -> Option<&str> {
        self.suggestion.as_deref()
    }

    /// The JSON form, see the type.
    pub fn to_json(&self) -> Json {
        json(self)
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.key.is_empty() && self.key != self.place {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.problem)?;
        if let Some(expected) = &self.expected {
            write!(f, "; expected {expected}")?;
        }
        if let Some(suggestion) = &self.suggestion {
            write!(f, "; did you mean `{suggestion}`?")?;
        }
        if let Some(Snippet {
            line,
            before,
            value,
        }) = &self.snippet
        {
            let gutter = line.to_string().len();
            let indent = before.chars().count();
            let marks = "^".repeat(value.chars().count().max(1));
            write!(f, "\n  {line} | {before}{value}")?;
            write!(f, "\n  {:gutter$} | {:indent$}{marks}", "", "")?;
        }
        Ok(())
    }
}

impl Serialize for Diagnostic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(5))?;
        map.serialize_entry("key", &self.key)?;
        map.serialize_entry("where", &self.place)?;
        map.serialize_entry("problem", &self.problem)?;
        map.serialize_entry("expected", &self.expected)?;
        map.serialize_entry("suggestion", &self.suggestion)?;
        map.end()
    }
}

/// The JSON of a type whose serialization is maps of text, numbers and the like, and so cannot fail.
pub(crate) fn json(value: &impl Serialize) -> Json {
    serde_json::to_value(value).unwrap_or_default()
}

/// Every defect of a configuration, in the order file by line, environment, flags, then what concerns
/// more than one value.
///
/// The operator's to mend, except the diagnostics at place `schema`, which are the program's. Lists at most
/// [`MAX_DIAGNOSTICS`]; [`omitted`](Self::omitted) counts the rest.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}", self.render())]
pub struct ConfigErrors {
    service: String,
    diagnostics: Vec<Diagnostic>,
    omitted: usize,
}

impl ConfigErrors {
    pub(crate) fn new(service: &str, mut diagnostics: Vec<Diagnostic>) -> Self {
        let omitted = diagnostics.len().saturating_sub(MAX_DIAGNOSTICS);
        diagnostics.truncate(MAX_DIAGNOSTICS);
        Self {
            service: service.to_owned(),
            diagnostics,
            omitted,
        }
    }

    /// The defects; never empty.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.diagnostics.iter()
    }

    /// How many defects are listed.
    pub fn len(&self) -> usize {
        self.diagnostics.len()
    }

    /// Always false: an empty report is no error. Here because `len` is.
    pub fn is_empty(&self) -> bool {
        self.diagnostics.is_empty()
    }

    /// How many defects were found beyond those listed.
    pub fn omitted(&self) -> usize {
        self.omitted
    }

    /// The defects as a JSON array.
    pub fn to_json(&self) -> Json {
        json(self)
    }

    fn render(&self) -> String {
        let total = self.diagnostics.len() + self.omitted;
        let noun = if total == 1 { "defect" } else { "defects" };
        let mut text = format!("{total} {noun} in the configuration of {}", self.service);
        for diagnostic in &self.diagnostics {
            text.push('\n');
            text.push_str(&diagnostic.to_string());
        }
        if self.omitted > 0 {
            text.push_str(&format!("\n{} more not shown", self.omitted));
        }
        text
    }
}

impl<'a> IntoIterator for &'a ConfigErrors {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Serialize for ConfigErrors {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}
