//! Where a value came from, and how an operator reads it.

use std::fmt;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value as Json;
use thiserror::Error;

use crate::diagnostic::json;
use crate::schema::Reload;

/// The four layers, weakest first. Complete: precedence is part of the contract, so a fifth would be another crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layer {
    /// The program's own default.
    Default,
    /// The configuration file.
    File,
    /// An environment variable.
    Env,
    /// A command-line flag.
    Flag,
}

impl Layer {
    /// The word used in output: `default`, `file`, `env`, `flag`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File => "file",
            Self::Env => "env",
            Self::Flag => "flag",
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The layer of a value and its place in that layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    layer: Layer,
    place: String,
}

impl Origin {
    pub(crate) fn new(layer: Layer, place: impl Into<String>) -> Self {
        Self {
            layer,
            place: place.into(),
        }
    }

    pub(crate) fn default_value() -> Self {
        Self::new(Layer::Default, "default")
    }

    /// The layer.
    pub fn layer(&self) -> Layer {
        self.layer
    }

    /// `file:line:column`, the variable, the flag as `--name`, or `default`.
    pub fn place(&self) -> &str {
        &self.place
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("layer", self.layer.as_str())?;
        map.serialize_entry("where", &self.place)?;
        map.end()
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.layer {
            Layer::Env => write!(f, "env {}", self.place),
            Layer::Flag => write!(f, "flag {}", self.place),
            Layer::Default | Layer::File => f.write_str(&self.place),
        }
    }
}

/// A value (redacted if secret) and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sourced {
    pub(crate) value: Json,
    pub(crate) origin: Origin,
}

impl Sourced {
    /// The value as the file would spell it: durations and sizes as text with a unit, `null` for unset, `***` for a
    /// secret.
    pub fn value(&self) -> &Json {
        &self.value
    }

    /// Where it came from.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }
}

impl Serialize for Sourced {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("value", &self.value)?;
        map.serialize_entry("origin", &self.origin)?;
        map.end()
    }
}

/// Everything known about one key: its value in force, where that came from, what it shadows, how it reloads.
///
/// Serializes to `{"key","value","origin":{"layer","where"},"shadowed":[{"value","origin"}],"reload"}`, and `"pending"`
/// (shaped like an item of `shadowed`) when the file holds a value that waits for a restart. `Display` is for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    pub(crate) key: String,
    pub(crate) current: Sourced,
    pub(crate) shadowed: Vec<Sourced>,
    pub(crate) pending: Option<Sourced>,
    pub(crate) reload: Reload,
    pub(crate) doc: String,
    pub(crate) expected: String,
    pub(crate) env: Vec<String>,
}

impl Explanation {
    /// The key path.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The value in force, redacted if secret.
    pub fn value(&self) -> &Json {
        &self.current.value
    }

    /// Where the value in force came from.
    pub fn origin(&self) -> &Origin {
        &self.current.origin
    }

    /// What the value in force overrides, strongest first; the last is the default.
    pub fn shadowed(&self) -> &[Sourced] {
        &self.shadowed
    }

    /// The value that takes effect when the process restarts, if a reload brought one.
    pub fn pending(&self) -> Option<&Sourced> {
        self.pending.as_ref()
    }

    /// What a change of this key needs.
    pub fn reload(&self) -> &Reload {
        &self.reload
    }

    /// The key's documentation.
    pub fn doc(&self) -> &str {
        &self.doc
    }

    /// What values are allowed.
    pub fn expected(&self) -> &str {
        &self.expected
    }

    /// The environment variables that set this key.
    pub fn env(&self) -> &[String] {
        &self.env
    }

    /// The JSON form, see the type.
    pub fn to_json(&self) -> Json {
        json(self)
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} = {}", self.key, toml_value(&self.current.value))?;
        if !self.doc.is_empty() {
            writeln!(f, "  what      {}", self.doc)?;
        }
        writeln!(f, "  from      {}", self.current.origin)?;
        for shadowed in &self.shadowed {
            let value = toml_value(&shadowed.value);
            writeln!(f, "  shadows   {value} from {}", shadowed.origin)?;
        }
        if let Some(pending) = &self.pending {
            let value = toml_value(&pending.value);
            writeln!(
                f,
                "  pending   {value} from {}, at the next restart",
                pending.origin
            )?;
        }
        writeln!(f, "  expected  {}", self.expected)?;
        if !self.env.is_empty() {
            writeln!(f, "  env       {}", self.env.join(", "))?;
        }
        write!(f, "  reload    {}", self.reload)
    }
}

impl Serialize for Explanation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("key", &self.key)?;
        map.serialize_entry("value", &self.current.value)?;
        map.serialize_entry("origin", &self.current.origin)?;
        map.serialize_entry("shadowed", &self.shadowed)?;
        map.serialize_entry("reload", self.reload.class())?;
        if let Some(pending) = &self.pending {
            map.serialize_entry("pending", pending)?;
        }
        map.end()
    }
}

/// The schema has no such key. The caller's fault.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("no key `{key}` in the configuration of {service}{}", did_you_mean(.suggestion))]
pub struct UnknownKey {
    pub(crate) service: String,
    pub(crate) key: String,
    pub(crate) suggestion: Option<String>,
}

impl UnknownKey {
    /// The key that was asked for.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The known key nearest to it.
    pub fn did_you_mean(&self) -> Option<&str> {
        self.suggestion.as_deref()
    }
}

fn did_you_mean(suggestion: &Option<String>) -> String {
    suggestion
        .as_ref()
        .map(|name| format!("; did you mean `{name}`?"))
        .unwrap_or_default()
}

/// The configuration in force: every value with its origin, secrets redacted.
///
/// `Display` writes TOML with the origin in a comment behind each value; but for secrets it reads
/// back as the same configuration. [`to_json`](Self::to_json) gives the values as a list of [`Explanation`]s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Printed {
    pub(crate) service: String,
    pub(crate) version: u64,
    pub(crate) sha256: String,
    pub(crate) values: Vec<Explanation>,
}

impl Printed {
    /// Every key in force, in the order of the schema; items of lists as `service[0].name`.
    pub fn values(&self) -> &[Explanation] {
        &self.values
    }

    /// `{"service","version","sha256","values":[explanation]}`.
    pub fn to_json(&self) -> Json {
        json(self)
    }
}

impl Serialize for Printed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(4))?;
        map.serialize_entry("service", &self.service)?;
        map.serialize_entry("version", &self.version)?;
        map.serialize_entry("sha256", &self.sha256)?;
        map.serialize_entry("values", &self.values)?;
        map.end()
    }
}

impl fmt::Display for Printed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            service,
            version,
            sha256,
            values,
        } = self;
        writeln!(f, "# {service}, config version {version}, sha256 {sha256}")?;
        // TOML wants the keys of the root before any table, and tables of a list together.
        let mut root = Vec::new();
        let mut sections: Vec<(String, Vec<(&str, &Explanation)>)> = Vec::new();
        for value in values {
            let (section, key) = match value.key.rfind("].") {
                Some(end) => (&value.key[..=end], &value.key[end + 2..]),
                None => value.key.split_once('.').unwrap_or(("", &value.key)),
            };
            if section.is_empty() {
                if !value.current.value.is_array() || !has_items(values, &value.key) {
                    root.push((key, value));
                }
                continue;
            }
            match sections.iter_mut().find(|(name, _)| name == section) {
                Some((_, keys)) => keys.push((key, value)),
                None => sections.push((section.to_owned(), vec![(key, value)])),
            }
        }
        for (key, value) in root {
            line(f, key, value)?;
        }
        for (section, keys) in sections {
            if section.contains('[') {
                // `a[0].b[1]` is an item of `[[a.b]]`, of the `[[a]]` printed last.
                let parts = section
                    .split('.')
                    .map(|part| part.split('[').next().unwrap_or(part));
                writeln!(f, "\n[[{}]]", parts.collect::<Vec<_>>().join("."))?;
            } else {
                writeln!(f, "\n[{section}]")?;
            }
            for (key, value) in keys {
                if !has_items(values, &value.key) {
                    line(f, key, value)?;
                }
            }
        }
        Ok(())
    }
}

fn has_items(values: &[Explanation], key: &str) -> bool {
    values.iter().any(|other| {
        other
            .key
            .strip_prefix(key)
            .is_some_and(|rest| rest.starts_with('['))
    })
}

fn line(f: &mut fmt::Formatter<'_>, key: &str, value: &Explanation) -> fmt::Result {
    let text = toml_value(&value.current.value);
    write!(f, "{key} = {text}  # {}", value.current.origin)?;
    if let Some(pending) = &value.pending {
        write!(
            f,
            "; {} from {} at the next restart",
            toml_value(&pending.value),
            pending.origin
        )?;
    }
    writeln!(f)
}

/// A shown value as TOML; unset is the text `"unset"`, which optional keys read back.
pub(crate) fn toml_value(value: &Json) -> String {
    match value {
        Json::Null => "\"unset\"".to_owned(),
        Json::String(text) => toml_text(text),
        Json::Array(items) => {
            let items: Vec<String> = items.iter().map(toml_value).collect();
            format!("[{}]", items.join(", "))
        }
        Json::Object(members) if members.is_empty() => "{}".to_owned(),
        Json::Object(members) => {
            let members: Vec<String> = members
                .iter()
                .map(|(key, value)| format!("{} = {}", toml_text(key), toml_value(value)))
                .collect();
            format!("{{ {} }}", members.join(", "))
        }
        Json::Bool(_) | Json::Number(_) => value.to_string(),
    }
}

/// JSON's string escapes are TOML's, but for DEL, which TOML wants escaped too.
fn toml_text(text: &str) -> String {
    Json::from(text).to_string().replace('\u{7f}', "\\u007f")
}
