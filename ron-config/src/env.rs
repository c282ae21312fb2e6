//! Variables and flags to keys: names resolved by the schema, and the strange ones refused or let through.

use std::ffi::OsString;

use zeroize::Zeroizing;

use crate::diagnostic::Diagnostic;
use crate::schema::{flag_name, is_inside, Index, Meta, Rank};
use crate::spelling::nearest;
use crate::units::Unit;

/// One variable or flag that sets one key.
#[derive(Clone, Debug)]
pub(crate) struct Assignment {
    pub(crate) key: usize,
    pub(crate) rank: Rank,
    /// The variable, or the flag with its dashes.
    pub(crate) name: String,
    pub(crate) text: Zeroizing<String>,
    pub(crate) unit: Option<Unit>,
}

/// The names that are known but set no key of this service.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bystanders {
    /// Names this service knows outside the schema, such as `RON_CONFIG`.
    pub(crate) known: Vec<String>,
    /// Names, or prefixes ending in `_`, of other services.
    pub(crate) siblings: Vec<String>,
}

impl Bystanders {
    fn include(&self, name: &str) -> bool {
        self.known.iter().any(|known| known == name)
            || self.siblings.iter().any(|sibling| {
                sibling == name || (sibling.ends_with('_') && name.starts_with(sibling.as_str()))
            })
    }
}

/// Resolves environment pairs. Pairs that are nobody's business are dropped here, so they are never held.
pub(crate) fn from_env(
    index: &Index,
    metas: &[&Meta],
    bystanders: &Bystanders,
    pairs: Vec<(OsString, OsString)>,
    errors: &mut Vec<Diagnostic>,
) -> Vec<Assignment> {
    let mut assignments = Vec::new();
    for (name, value) in pairs {
        let Some(name) = name.to_str() else { continue };
        let Some(target) = index.env.get(name) else {
            if !bystanders.include(name) {
                errors.extend(stranger(index, metas, bystanders, name));
            }
            continue;
        };
        let text = match value.into_string() {
            Ok(text) => Zeroizing::new(text),
            Err(_) => {
                let key = metas[target.key].path.clone();
                errors.push(Diagnostic::new(key, name).problem("is not UTF-8 text"));
                continue;
            }
        };
        let implied = target.implies.iter().map(|(key, text)| Assignment {
            key: *key,
            rank: Rank::Implied,
            name: name.to_owned(),
            text: Zeroizing::new(text.clone()),
            unit: None,
        });
        assignments.extend(implied);
        assignments.push(Assignment {
            key: target.key,
            rank: target.rank,
            name: name.to_owned(),
            text,
            unit: target.unit,
        });
    }
    assignments
}

/// What is wrong with a variable that sets no key, if it was meant for this service.
fn stranger(
    index: &Index,
    metas: &[&Meta],
    bystanders: &Bystanders,
    name: &str,
) -> Option<Diagnostic> {
    if !name.starts_with("RON_") {
        return None;
    }
    let unknown = Diagnostic::new("", name);
    if index.env_list(name) {
        return Some(
            unknown
                .problem("names a list of tables, which only the file can set")
                .expected("the list in the configuration file"),
        );
    }
    let known = index
        .env
        .iter()
        .filter_map(|(name, target)| (target.rank != Rank::Deprecated).then_some(name.as_str()));
    let others = bystanders.known.iter().map(String::as_str);
    let near = nearest(name, known.chain(others)).map(str::to_owned);
    let section = index.env_section(name);
    if near.is_none() && section.is_none() {
        tracing::debug!(
            variable = name,
            "environment variable of no known service ignored"
        );
        return None;
    }
    let expected = section.map(|section| {
        let inside = |name: &&String| is_inside(name, section);
        let names: Vec<String> = metas.iter().filter_map(|meta| meta.derived_env()).collect();
        let names: Vec<&str> = names.iter().filter(inside).map(String::as_str).collect();
        format!("one of {}", names.join(", "))
    });
    Some(
        unknown
            .problem("unknown variable")
            .expected(if near.is_none() {
                expected.unwrap_or_default()
            } else {
                String::new()
            })
            .suggestion(near),
    )
}

/// Resolves flags. Every flag must be known.
pub(crate) fn from_flags(
    index: &Index,
    metas: &[&Meta],
    pairs: Vec<(String, Zeroizing<String>)>,
    errors: &mut Vec<Diagnostic>,
) -> Vec<Assignment> {
    let mut assignments = Vec::new();
    for (flag, text) in pairs {
        let shown = format!("--{}", flag.trim_start_matches('-'));
        let wanted = flag_name(&flag);
        match index.flags.get(&wanted) {
            Some(named) if metas[named.key].list => errors.push(
                Diagnostic::new(&metas[named.key].path, shown)
                    .problem("names a list of tables, which only the file can set")
                    .expected("the list in the configuration file"),
            ),
            Some(named) => assignments.push(Assignment {
                key: named.key,
                rank: named.rank,
                name: shown,
                text,
                unit: None,
            }),
            None => errors.push(
                Diagnostic::new("", shown)
                    .problem("unknown flag")
                    .suggestion(index.suggest_flag(&wanted)),
            ),
        }
    }
    assignments
}
