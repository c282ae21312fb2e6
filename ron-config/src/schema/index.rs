//! Names to keys: paths, former paths, sections, environment names and flags, with every collision found.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{json, Value as Json};
use thiserror::Error;

use super::{env_name, Meta};
use crate::spelling::nearest;
use crate::units::Unit;

/// A contradiction in the declarations of a schema. The program's fault, found whenever the schema is built.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// A path that is not `segment.segment`, each of lower-case letters, digits and `_`, beginning with a letter.
    #[error("`{key}` is no key path; segments are lower-case letters, digits and `_`")]
    BadPath {
        /// The path.
        key: String,
    },
    /// A path declared twice, or also a former path of another key.
    #[error("key `{key}` is declared twice")]
    DuplicateKey {
        /// The path.
        key: String,
    },
    /// A path that is also a prefix of other paths.
    #[error("key `{key}` is also a section")]
    KeyIsSection {
        /// The path.
        key: String,
    },
    /// One environment name for two keys, as `a_b.c` and `a.b_c` would have.
    #[error("environment name {env} would set both `{first}` and `{second}`")]
    EnvCollision {
        /// The name.
        env: String,
        /// The key that has it.
        first: String,
        /// The key that wants it.
        second: String,
    },
    /// One flag for two keys.
    #[error("flag --{flag} would set both `{first}` and `{second}`")]
    FlagCollision {
        /// The flag, without dashes in front.
        flag: String,
        /// The key that has it.
        first: String,
        /// The key that wants it.
        second: String,
    },
    /// A check, an implication or an alias names a key that does not exist.
    #[error("{named_by} names the unknown key `{key}`")]
    UnknownKey {
        /// The key that does not exist.
        key: String,
        /// Who names it.
        named_by: String,
    },
    /// A choice without words.
    #[error("key `{key}` has no choices")]
    NoChoices {
        /// The key.
        key: String,
    },
    /// `implies` before any environment name.
    #[error("key `{key}` declares an implication before an environment name")]
    ImpliesWithoutEnv {
        /// The key.
        key: String,
    },
    /// A list of tables with an environment name, a flag or a former path, which cannot set it.
    #[error("list `{key}` is set by the file under one name only")]
    ListWithNames {
        /// The list.
        key: String,
    },
}

/// Every contradiction of one schema.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct SchemaErrors(Vec<SchemaError>);

impl SchemaErrors {
    pub(super) fn none_of(errors: &[SchemaError]) -> Result<(), Self> {
        if errors.is_empty() {
            Ok(())
        } else {
            Err(Self(errors.to_vec()))
        }
    }

    /// The contradictions; never empty.
    pub fn iter(&self) -> std::slice::Iter<'_, SchemaError> {
        self.0.iter()
    }
}

/// How strongly one of several names of a key, in one layer, sets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    /// Set on behalf of another key; gives way without a word.
    Implied,
    /// A former name.
    Deprecated,
    /// A name.
    Name,
    /// A name declared to win over the others.
    First,
}

/// What an environment variable sets.
#[derive(Clone, Debug)]
pub(crate) struct EnvTarget {
    pub(crate) key: usize,
    pub(crate) unit: Option<Unit>,
    pub(crate) rank: Rank,
    pub(crate) implies: Vec<(usize, String)>,
}

/// What a path in a file or a flag names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) key: usize,
    pub(crate) rank: Rank,
}

/// The names of one schema.
#[derive(Debug, Default)]
pub(crate) struct Index {
    paths: BTreeMap<String, Named>,
    sections: BTreeSet<String>,
    pub(crate) env: BTreeMap<String, EnvTarget>,
    pub(crate) flags: BTreeMap<String, Named>,
    /// `RON_BUS`: names below these belong to this service.
    env_sections: BTreeSet<String>,
    lists: BTreeSet<String>,
}

impl Index {
    pub(super) fn build(metas: &[&Meta], errors: &mut Vec<SchemaError>) -> Self {
        let mut index = Self::default();
        for (key, meta) in metas.iter().enumerate() {
            index.add_path(&meta.path, key, Rank::Name, errors);
            for former in &meta.deprecated {
                index.add_path(former, key, Rank::Deprecated, errors);
            }
            if meta.list {
                index.lists.insert(env_name(&meta.path));
                let named = !meta.env.is_empty() || !meta.flags.is_empty();
                if named || !meta.deprecated.is_empty() {
                    let key = meta.path.clone();
                    errors.push(SchemaError::ListWithNames { key });
                }
            }
        }
        for path in index.paths.keys() {
            if index.sections.contains(path) {
                errors.push(SchemaError::KeyIsSection { key: path.clone() });
            }
        }
        for (key, meta) in metas.iter().enumerate() {
            index.add_env(key, meta, metas, errors);
            index.add_flags(key, meta, metas, errors);
        }
        index
    }

    fn add_path(&mut self, path: &str, key: usize, rank: Rank, errors: &mut Vec<SchemaError>) {
        if !path.split('.').all(is_segment) {
            errors.push(SchemaError::BadPath { key: path.into() });
        }
        let named = Named { key, rank };
        if self.paths.insert(path.to_owned(), named).is_some() {
            errors.push(SchemaError::DuplicateKey { key: path.into() });
        }
        for (dot, _) in path.match_indices('.') {
            self.sections.insert(path[..dot].to_owned());
        }
        if let Some((section, _)) = path.split_once('.') {
            self.env_sections.insert(env_name(section));
        }
    }

    fn add_env(&mut self, key: usize, meta: &Meta, metas: &[&Meta], errors: &mut Vec<SchemaError>) {
        let mut add = |name: &str, target: EnvTarget| {
            let taken = self.env.get(name).map(|other| other.key);
            match taken {
                Some(first) => errors.push(SchemaError::EnvCollision {
                    env: name.to_owned(),
                    first: metas[first].path.clone(),
                    second: meta.path.clone(),
                }),
                None => {
                    self.env.insert(name.to_owned(), target);
                }
            }
        };
        let target = |rank| EnvTarget {
            key,
            unit: None,
            rank,
            implies: Vec::new(),
        };
        if let Some(name) = meta.derived_env() {
            add(&name, target(Rank::Name));
        }
        for former in &meta.deprecated {
            add(&env_name(former), target(Rank::Deprecated));
        }
        let mut unknown = Vec::new();
        for env in &meta.env {
            let mut implies = Vec::new();
            for (path, text) in &env.implies {
                match metas.iter().position(|other| other.path == *path) {
                    Some(other) => implies.push((other, text.clone())),
                    None => unknown.push(SchemaError::UnknownKey {
                        key: path.clone(),
                        named_by: format!("environment name {}", env.name),
                    }),
                }
            }
            let rank = if env.first { Rank::First } else { Rank::Name };
            let target = EnvTarget {
                unit: env.unit,
                implies,
                ..target(rank)
            };
            add(&env.name, target);
        }
        errors.append(&mut unknown);
    }

    fn add_flags(
        &mut self,
        key: usize,
        meta: &Meta,
        metas: &[&Meta],
        errors: &mut Vec<SchemaError>,
    ) {
        let own = std::iter::once((&meta.path, Rank::Name));
        let extra = meta.flags.iter().map(|flag| (flag, Rank::Name));
        let former = meta.deprecated.iter().map(|path| (path, Rank::Deprecated));
        for (flag, rank) in own.chain(extra).chain(former) {
            let flag = flag_name(flag);
            match self.flags.get(&flag).map(|other| other.key) {
                Some(first) if first != key => errors.push(SchemaError::FlagCollision {
                    flag,
                    first: metas[first].path.clone(),
                    second: meta.path.clone(),
                }),
                _ => {
                    self.flags.insert(flag, Named { key, rank });
                }
            }
        }
    }

    /// The key of this path, former paths included.
    pub(crate) fn key(&self, path: &str) -> Option<Named> {
        self.paths.get(path).copied()
    }

    pub(crate) fn is_section(&self, path: &str) -> bool {
        self.sections.contains(path)
    }

    /// The known path or section nearest to `path`; failing that, the one key whose last segment is near that
    /// of `path`, because it may stand in the wrong section.
    pub(crate) fn suggest(&self, path: &str) -> Option<String> {
        let current =
            |(path, named): (&String, &Named)| (named.rank == Rank::Name).then(|| path.to_owned());
        let known: Vec<String> = self.paths.iter().filter_map(current).collect();
        let names = known.iter().chain(&self.sections).map(String::as_str);
        if let Some(name) = nearest(path, names) {
            return Some(name.to_owned());
        }
        let wanted = last(path);
        let segments = known.iter().map(|known| last(known));
        let meant = nearest(wanted, segments)?;
        let mut same = known.iter().filter(|known| last(known) == meant);
        match (same.next(), same.next()) {
            (Some(only), None) => Some(only.clone()),
            _ => None,
        }
    }

    pub(crate) fn suggest_flag(&self, flag: &str) -> Option<String> {
        let known = self.flags.keys().map(String::as_str);
        nearest(flag, known).map(|name| format!("--{}", name.replace('_', "-")))
    }

    /// The section or list this `RON_` name lies in, if any.
    pub(crate) fn env_section(&self, name: &str) -> Option<&str> {
        let inside = |section: &&String| is_inside(name, section);
        let mut sections = self.env_sections.iter();
        sections.find(inside).map(String::as_str)
    }

    pub(crate) fn env_list(&self, name: &str) -> bool {
        self.lists.iter().any(|list| is_inside(name, list))
    }

    /// The JSON Schema of a table with these keys.
    ///
    /// `alone` tables have no source but the file, so what is required must stand in it: the items of a list.
    pub(crate) fn json(metas: &[&Meta], alone: bool) -> Json {
        let mut root = json!({"type": "object", "properties": {}, "additionalProperties": false});
        for meta in metas {
            let mut schema = meta.json.clone();
            let mut doc = meta.doc.clone();
            if !doc.is_empty() {
                doc.push_str("; ");
            }
            doc.push_str(&meta.expected);
            schema["description"] = doc.into();
            schema["x-reload"] = meta.reload.to_string().into();
            schema["x-env"] = meta.env_names().into();
            insert(
                &mut root,
                &meta.path,
                schema.clone(),
                alone && meta.required,
            );
            schema["deprecated"] = true.into();
            for former in &meta.deprecated {
                insert(&mut root, former, schema.clone(), false);
            }
        }
        root
    }
}

/// Whether `name` is `section` or begins with `section_`.
pub(crate) fn is_inside(name: &str, section: &str) -> bool {
    name.strip_prefix(section)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
}

fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// A flag as it is compared: no dashes in front, `_` within.
pub(crate) fn flag_name(flag: &str) -> String {
    flag.trim_start_matches('-').replace('-', "_")
}

fn is_segment(segment: &str) -> bool {
    let mut bytes = segment.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_lowercase())
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

fn insert(root: &mut Json, path: &str, schema: Json, required: bool) {
    let mut table = root;
    let mut segments = path.split('.').peekable();
    while let Some(segment) = segments.next() {
        if required {
            match table.get_mut("required") {
                Some(Json::Array(names)) if names.iter().any(|name| name == segment) => {}
                Some(Json::Array(names)) => names.push(segment.into()),
                _ => table["required"] = json!([segment]),
            }
        }
        let entry = &mut table["properties"][segment];
        if segments.peek().is_none() {
            *entry = schema;
            return;
        }
        if entry.is_null() {
            *entry = json!({"type": "object", "properties": {}, "additionalProperties": false});
        }
        table = entry;
    }
}
