//! What is wrong with a configuration: every problem of it, in one error.

use std::fmt;

use super::Source;

/// What sort of problem it is: label `error` of `ryker_config_reload_errors_total`. Ordered, the most telling first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The file could not be read.
    Io,
    /// It is no configuration: a syntax error, an unknown key, a value that is not of the key's form.
    Parse,
    /// It is one, but refused: a value outside its range, two keys that contradict each other, a file in production.
    Invalid,
}

impl ErrorKind {
    #[cfg(any(test, feature = "metrics"))]
    pub(super) const ALL: [Self; 3] = [Self::Io, Self::Parse, Self::Invalid];

    /// The label's value: `io`, `parse` or `invalid`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Io => "io",
            Self::Parse => "parse",
            Self::Invalid => "invalid",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One thing that is wrong.
///
/// `Display` is one line, `where: key: value problem; expected ..; did you mean ..?`, of which a part that does not
/// apply is absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    kind: ErrorKind,
    place: String,
    key: Option<String>,
    value: Option<String>,
    what: String,
    expected: Option<String>,
    suggestion: Option<String>,
}

impl Problem {
    pub(super) fn new(kind: ErrorKind, place: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            kind,
            place: place.into(),
            key: None,
            value: None,
            what: what.into(),
            expected: None,
            suggestion: None,
        }
    }

    pub(super) fn of_key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    pub(super) fn of_value(mut self, value: impl Into<String>) -> Self {
        self.value = Some(value.into());
        self
    }

    pub(super) fn expecting(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self
    }

    pub(super) fn suggesting(mut self, suggestion: Option<&str>) -> Self {
        self.suggestion = suggestion.map(str::to_owned);
        self
    }

    /// What sort of problem it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Where it stands: an environment variable, `path:line:column` (`line L, column C` in a text that has no path; both
    /// count from 1, columns in characters), `builder`, or the path alone.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The key as files have it, `defaults.deadline`; `None` where no key is concerned, as in a syntax error.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// The value, texts in quotes, cut after 60 characters.
    pub fn value(&self) -> Option<&str> {
        self.value.as_deref()
    }

    /// Why it is refused.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// What would be right.
    pub fn expected(&self) -> Option<&str> {
        self.expected.as_deref()
    }

    /// The name that was probably meant.
    pub fn suggestion(&self) -> Option<&str> {
        self.suggestion.as_deref()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        if let Some(value) = &self.value {
            write!(f, "{value} ")?;
        }
        f.write_str(&self.what)?;
        if let Some(expected) = &self.expected {
            write!(f, "; expected {expected}")?;
        }
        if let Some(suggestion) = &self.suggestion {
            write!(f, "; did you mean `{suggestion}`?")?;
        }
        Ok(())
    }
}

/// Everything that is wrong with a configuration, never empty.
///
/// The order is stable: the file's problems in the order of the file, then those of variables or of the builder in the
/// order of [`RykerConfig`](super::RykerConfig)'s table, then keys that contradict each other. `Display` is a first line
/// that counts them and a line for each.
///
/// Beside a syntax error, unknown keys of that file and contradictions are not reported: it is not certain which table a
/// key belongs to. Syntax errors and unknown keys beyond the first 20 of a file are reported as a number.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigError {
    origin: Source,
    problems: Vec<Problem>,
}

impl ConfigError {
    /// `Err` if there is any problem.
    pub(super) fn check(origin: Source, problems: Vec<Problem>) -> Result<(), Self> {
        if problems.is_empty() {
            Ok(())
        } else {
            Err(Self { origin, problems })
        }
    }

    pub(super) fn with_origin(mut self, origin: Source) -> Self {
        self.origin = origin;
        self
    }

    /// Every problem.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The most telling kind among the problems: `Io` before `Parse` before `Invalid`.
    pub fn kind(&self) -> ErrorKind {
        self.problems
            .iter()
            .map(Problem::kind)
            .min()
            .unwrap_or(ErrorKind::Invalid)
    }

    /// Where the refused configuration came from: label `source` of `ryker_config_reload_errors_total`.
    pub fn origin(&self) -> Source {
        self.origin
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        let plural = if count == 1 { "" } else { "s" };
        write!(f, "{count} problem{plural} in the configuration of ryker")?;
        for problem in &self.problems {
            write!(f, "\n{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
