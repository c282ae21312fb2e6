//! What a reload did, or would do.

use std::fmt;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value as Json;

use crate::diagnostic::{json, ConfigErrors, Diagnostic};
use crate::origin::toml_value;

/// One key that differs between what was in force and what the file now says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub(crate) key: String,
    pub(crate) old: Json,
    pub(crate) new: Json,
}

impl Change {
    /// The key path; of a list of tables, the list's (its items are compared as a whole).
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The value in force before, redacted if secret.
    pub fn old(&self) -> &Json {
        &self.old
    }

    /// The value of the file, redacted if secret.
    pub fn new_value(&self) -> &Json {
        &self.new
    }
}

impl Serialize for Change {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("key", &self.key)?;
        map.serialize_entry("old", &self.old)?;
        map.serialize_entry("new", &self.new)?;
        map.end()
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (old, new) = (toml_value(&self.old), toml_value(&self.new));
        write!(f, "{}: {old} -> {new}", self.key)
    }
}

/// The account of a reload, or of what one would do.
///
/// Serializes to `{"version","applied","needs_restart","pinned","rejected","restarts","diff"}`. Nothing is listed as
/// applied that the snapshot of `version` does not hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReloadReport {
    pub(crate) version: u64,
    pub(crate) applied: Vec<String>,
    pub(crate) needs_restart: Vec<String>,
    pub(crate) pinned: Vec<String>,
    pub(crate) rejected: Vec<Diagnostic>,
    pub(crate) restarts: Vec<&'static str>,
    pub(crate) diff: Vec<Change>,
}

impl ReloadReport {
    /// The account of a reload that was refused: `version` stays in force, and every defect is listed as rejected.
    pub fn refused(version: u64, errors: &ConfigErrors) -> Self {
        Self {
            version,
            rejected: errors.iter().cloned().collect(),
            ..Self::default()
        }
    }

    /// The version in force afterwards; of a plan, the version it would be.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Keys whose new value is in force.
    pub fn applied(&self) -> &[String] {
        &self.applied
    }

    /// Keys of class `process` whose value in the file is not the one in force. Listed by every reload until the process
    /// restarts or the file is set back.
    pub fn needs_restart(&self) -> &[String] {
        &self.needs_restart
    }

    /// Keys that the file changed since the last good reload, while a variable or flag has the say.
    pub fn pinned(&self) -> &[String] {
        &self.pinned
    }

    /// The defects of a refused reload; empty in the answer of a reload that went through.
    pub fn rejected(&self) -> &[Diagnostic] {
        &self.rejected
    }

    /// The children that applied keys of class `restart` name, sorted, each once. The caller restarts them.
    pub fn restarts(&self) -> &[&'static str] {
        &self.restarts
    }

    /// Old and new value of every key in `applied` and `needs_restart`, secrets redacted.
    pub fn diff(&self) -> &[Change] {
        &self.diff
    }

    /// Whether the configuration in force and the file agree.
    pub fn is_unchanged(&self) -> bool {
        let lists = [&self.applied, &self.needs_restart, &self.pinned];
        lists.iter().all(|list| list.is_empty()) && self.rejected.is_empty()
    }

    /// The JSON form, see the type.
    pub fn to_json(&self) -> Json {
        json(self)
    }
}

impl Serialize for ReloadReport {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(7))?;
        map.serialize_entry("version", &self.version)?;
        map.serialize_entry("applied", &self.applied)?;
        map.serialize_entry("needs_restart", &self.needs_restart)?;
        map.serialize_entry("pinned", &self.pinned)?;
        map.serialize_entry("rejected", &self.rejected)?;
        map.serialize_entry("restarts", &self.restarts)?;
        map.serialize_entry("diff", &self.diff)?;
        map.end()
    }
}

/// How reloads went since the configuration was loaded.
///
/// Feeds `config_reload_total`, `config_reload_errors_total` and `config_last_reload_successful`. Plans do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReloadStats {
    /// Reloads that went through, those that changed nothing included.
    pub reloads: u64,
    /// Reloads that were refused.
    pub errors: u64,
    /// Whether the last attempt went through; true before the first.
    pub last_successful: bool,
}

impl Default for ReloadStats {
    fn default() -> Self {
        Self {
            reloads: 0,
            errors: 0,
            last_successful: true,
        }
    }
}
