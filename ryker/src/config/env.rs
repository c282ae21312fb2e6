//! Environment variables, and the file that one of them may name.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::path::Path;

use super::builder::{problem, quoted, RykerConfigBuilder};
use super::document::{apply_file, Findings};
use super::error::{ConfigError, ErrorKind, Problem};
use super::key::{split, Key, Misfit, KEYS};
use super::spelling::nearest;
use super::{RykerConfig, Source};

const PREFIX: &str = "RYKER_";
const PATH: &str = "RYKER_CONFIG_PATH";
const ALLOW_PATH: &str = "RYKER_ALLOW_CONFIG_PATH";
const OLD_JITTER: &str = "RYKER_JITTER";
/// Either says that this is production if its value is `production`.
const STAGES: [&str; 2] = ["APP_ENV", "RUST_ENV"];

/// Something about the environment that an operator should know though it is no error.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// A variable has a new name. The old one still works, unless the new one is set too.
    Deprecated {
        /// The variable that is set.
        old: &'static str,
        /// The one to set instead.
        new: &'static str,
        /// Whether the new one is set too, so that the old one has no effect.
        overridden: bool,
    },
    /// A variable begins with `RYKER_` but is none of ours, nor like one of ours.
    Unknown {
        /// The variable.
        name: String,
    },
}

impl Warning {
    /// The variable that is warned of.
    pub fn variable(&self) -> &str {
        match self {
            Self::Deprecated { old, .. } => old,
            Self::Unknown { name } => name,
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deprecated {
                old,
                new,
                overridden: false,
            } => write!(f, "{old} is deprecated; set {new} instead"),
            Self::Deprecated { old, new, .. } => {
                write!(f, "{old} is deprecated and has no effect beside {new}")
            }
            Self::Unknown { name } => write!(f, "{name} is no variable of ryker and has no effect"),
        }
    }
}

pub(super) fn load(
    pairs: impl IntoIterator<Item = (OsString, OsString)>,
    read: impl FnOnce(&Path) -> io::Result<Vec<u8>>,
) -> (Result<RykerConfig, ConfigError>, Vec<Warning>) {
    // Sorted, so that what is said does not depend on the order of the environment.
    let variables: BTreeMap<OsString, OsString> = pairs
        .into_iter()
        .filter(|(name, _)| is_relevant(name))
        .collect();
    let mut builder = RykerConfigBuilder::from_defaults(Source::Env);
    let mut found = Findings::default();
    let mut warnings = Vec::new();

    match file_path(&variables) {
        Ok(None) => {}
        Ok(Some(path)) => {
            builder.come_from(Source::File);
            found = apply_file(&mut builder, Path::new(path), read);
        }
        Err(refusal) => found = Findings::fatal(vec![*refusal]),
    }
    for key in KEYS {
        let Some((name, value)) = variable(key, &variables, &mut warnings) else {
            continue;
        };
        builder.come_from(Source::Env);
        match checked(key, value) {
            Ok(value) => builder.put(key, value, Cow::Borrowed(name)),
            Err(misfit) => {
                let shown = quoted(&value.to_string_lossy());
                found.problems.push(problem(key, misfit, name, shown));
                found.bad.push(key);
            }
        }
    }
    for name in variables.keys() {
        strange(name, &mut found, &mut warnings);
    }
    found.problems.extend(builder.contradictions(&found.bad));
    let source = builder.source();
    let result = ConfigError::check(source, found.problems).and_then(|()| builder.build());
    (result, warnings)
}

fn is_relevant(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with(PREFIX) || STAGES.contains(&&*name)
}

/// The variable that sets `key`, under its name or its former one.
fn variable<'a>(
    key: Key,
    variables: &'a BTreeMap<OsString, OsString>,
    warnings: &mut Vec<Warning>,
) -> Option<(&'static str, &'a OsStr)> {
    let get = |name: &'static str| Some((name, variables.get(OsStr::new(name))?.as_os_str()));
    let new = key.spec().env;
    let current = get(new);
    if key != Key::DecorrelatedJitter {
        return current;
    }
    let former = get(OLD_JITTER);
    if former.is_some() {
        warnings.push(Warning::Deprecated {
            old: OLD_JITTER,
            new,
            overridden: current.is_some(),
        });
    }
    current.or(former)
}

fn checked(key: Key, value: &OsStr) -> Result<u64, Misfit> {
    match value.to_str() {
        Some(text) => key.spec().form.of_variable(text),
        None => Err(Misfit {
            kind: ErrorKind::Parse,
            what: "is not UTF-8 text".to_owned(),
        }),
    }
}

/// The file to read, if one is named and may be.
fn file_path(variables: &BTreeMap<OsString, OsString>) -> Result<Option<&OsStr>, Box<Problem>> {
    let get = |name: &str| variables.get(OsStr::new(name)).map(OsString::as_os_str);
    let refusal = |name: &str, value: &OsStr, what: String| {
        let shown = quoted(&value.to_string_lossy());
        Box::new(Problem::new(ErrorKind::Invalid, name, what).of_value(shown))
    };
    let is_allowed = match get(ALLOW_PATH) {
        None => false,
        Some(value) if value == "1" => true,
        Some(value) if value == "0" => false,
        Some(value) => return Err(refusal(ALLOW_PATH, value, "is neither 0 nor 1".to_owned())),
    };
    let Some(path) = get(PATH) else {
        return Ok(None);
    };
    let stage = STAGES.iter().find(|stage| {
        let value = get(stage).map(|value| value.to_string_lossy());
        value.is_some_and(|value| value.trim().eq_ignore_ascii_case("production"))
    });
    if let Some(stage) = stage {
        let what = format!("is refused in production, which {stage} says this is");
        Err(refusal(PATH, path, what))
    } else if !is_allowed {
        let what = format!("is refused without {ALLOW_PATH}=1");
        Err(refusal(PATH, path, what))
    } else if path.is_empty() {
        Err(refusal(PATH, path, "is empty".to_owned()))
    } else {
        Ok(Some(path))
    }
}

/// A variable that begins like ours and is not: an error if it looks like one of ours, else a warning.
fn strange(name: &OsStr, found: &mut Findings, warnings: &mut Vec<Warning>) {
    let name = name.to_string_lossy();
    let is_known = [PATH, ALLOW_PATH, OLD_JITTER].contains(&&*name);
    if is_known || STAGES.contains(&&*name) || Key::of_env(&name).is_some() {
        return;
    }
    let known = KEYS.into_iter().map(|key| key.spec().env);
    let near = nearest(&name, known.chain([PATH, ALLOW_PATH])).or_else(|| named_after_key(&name));
    if near.is_some() {
        found.bad.extend(near.and_then(Key::of_env));
        let unknown = Problem::new(ErrorKind::Parse, name, "unknown variable");
        found.problems.push(unknown.suggesting(near));
    } else {
        warnings.push(Warning::Unknown {
            name: name.into_owned(),
        });
    }
}

/// The variable of the key that `name` spells out: `RYKER_MAILBOX_CAPACITY`, `RYKER_SUPERVISOR_BACKOFF_BASE_MS`,
/// `RYKER_DEFAULT_DEADLINE_MS`.
fn named_after_key(name: &str) -> Option<&'static str> {
    let bare = |name: &str| name.trim_end_matches("_ms").to_owned();
    let rest = bare(&name.strip_prefix(PREFIX)?.to_ascii_lowercase());
    let spells = |key: &Key| {
        let spec = key.spec();
        let (section, leaf) = split(spec.name);
        let own = spec.env.strip_prefix(PREFIX).unwrap_or(spec.env);
        // `RYKER_ENABLED` says nothing of what is enabled.
        rest == bare(&own.to_ascii_lowercase())
            || rest == bare(&format!("{section}_{leaf}"))
            || (rest == bare(leaf) && *key != Key::Amnesia)
    };
    KEYS.into_iter().find(spells).map(|key| key.spec().env)
}
