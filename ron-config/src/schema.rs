//! The typed description of a configuration: which keys there are, where each is stored, and what it may be.

use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use serde_json::{json, Value as Json};

use crate::units::Unit;
use crate::value::{Mismatch, Ranged, Value};

mod field;
mod index;

pub(crate) use field::Field;
use field::{Choice, Items, Lens, Typed};
pub(crate) use index::{flag_name, is_inside, Index, Rank};
pub use index::{SchemaError, SchemaErrors};

/// A struct whose fields are set by a configuration.
///
/// `Default` gives the default of every key. `schema` names the keys and points each at its field; there is no derive
/// macro, so what a file may say is exactly what is written here.
///
/// ```
/// use std::time::Duration;
/// use ron_config::{Reload, Schema, Settings};
///
/// #[derive(Clone)]
/// struct Config { capacity: usize, backoff: Duration }
///
/// impl Default for Config {
///     fn default() -> Self {
///         Self { capacity: 4096, backoff: Duration::from_millis(100) }
///     }
/// }
///
/// impl Settings for Config {
///     fn schema(schema: &mut Schema<Self>) {
///         schema.key("bus.capacity", |c| &mut c.capacity)
///             .doc("events kept for slow readers")
///             .range(1..=1 << 20);
///         schema.key("supervisor.min_backoff", |c| &mut c.backoff)
///             .doc("delay before the first restart")
///             .reload(Reload::Live);
///     }
/// }
///
/// let schema = Schema::<Config>::of()?;
/// assert_eq!(schema.env_names(), ["RON_BUS_CAPACITY", "RON_SUPERVISOR_MIN_BACKOFF"]);
/// # Ok::<(), ron_config::SchemaErrors>(())
/// ```
pub trait Settings: Default + Clone + Send + Sync + 'static {
    /// Declares the keys. Called when a loader loads; it must declare the same keys every time.
    fn schema(schema: &mut Schema<Self>);
}

/// What a change of a key needs before it is in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reload {
    /// Nothing: whoever reads the snapshot reads the new value.
    Live,
    /// A restart of the named child, which the owner of the children carries out; the snapshot holds the new value at
    /// once, and [`ReloadReport::restarts`](crate::ReloadReport::restarts) names the child.
    Restart(&'static str),
    /// A restart of the process; until then the snapshot keeps the old value. The default, because it is the class that
    /// promises nothing.
    #[default]
    Process,
}

impl Reload {
    /// The word used in output: `live`, `restart`, `process`.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Restart(_) => "restart",
            Self::Process => "process",
        }
    }
}

impl fmt::Display for Reload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Restart(child) => write!(f, "restart({child})"),
            Self::Live | Self::Process => f.write_str(self.class()),
        }
    }
}

/// The keys of one [`Settings`] type.
pub struct Schema<T> {
    pub(crate) keys: Vec<Key<T>>,
    pub(crate) checks: Vec<Check<T>>,
    errors: Vec<SchemaError>,
}

pub(crate) struct Key<T> {
    pub(crate) meta: Meta,
    pub(crate) field: Arc<dyn Field<T>>,
    pub(crate) rules: Vec<Rule<T>>,
}

/// What is known of a key apart from where its value is stored.
#[derive(Clone, Debug)]
pub(crate) struct Meta {
    pub(crate) path: String,
    pub(crate) doc: String,
    pub(crate) expected: String,
    pub(crate) json: Json,
    pub(crate) reload: Reload,
    pub(crate) env: Vec<EnvName>,
    pub(crate) flags: Vec<String>,
    pub(crate) deprecated: Vec<String>,
    pub(crate) required: bool,
    pub(crate) secret: bool,
    /// A list of tables, which only a file can hold.
    pub(crate) list: bool,
}

/// A declared environment name, beside the one that follows from the path.
#[derive(Clone, Debug)]
pub(crate) struct EnvName {
    pub(crate) name: String,
    pub(crate) unit: Option<Unit>,
    pub(crate) first: bool,
    pub(crate) implies: Vec<(String, String)>,
}

impl Meta {
    /// The value as output may show it.
    pub(crate) fn shown(&self, value: Json) -> Json {
        if self.secret && !value.is_null() {
            crate::secret::REDACTED.into()
        } else {
            value
        }
    }

    /// `RON_` and the path in capitals, or none for a list of tables.
    pub(crate) fn derived_env(&self) -> Option<String> {
        (!self.list).then(|| env_name(&self.path))
    }

    /// Every environment name that sets the key.
    pub(crate) fn env_names(&self) -> Vec<String> {
        let declared = self.env.iter().map(|env| env.name.clone());
        self.derived_env().into_iter().chain(declared).collect()
    }
}

pub(crate) fn env_name(path: &str) -> String {
    format!("RON_{}", path.replace('.', "_").to_uppercase())
}

/// A test of a settings struct; `&mut` because the accessors of fields are.
type Test<T, E> = dyn Fn(&mut T) -> Result<(), E> + Send + Sync;

/// A test of one key's value.
pub(crate) struct Rule<T> {
    pub(crate) test: Arc<Test<T, Mismatch>>,
    /// Written by the user, so that its message may be shown for a secret once it is clear that it repeats none.
    pub(crate) custom: bool,
}

impl<T> Clone for Rule<T> {
    fn clone(&self) -> Self {
        Self {
            test: Arc::clone(&self.test),
            custom: self.custom,
        }
    }
}

/// A test across keys.
pub(crate) struct Check<T> {
    pub(crate) keys: Vec<String>,
    pub(crate) test: Arc<Test<T, String>>,
}

pub(crate) type Get<T, V> = Arc<dyn for<'a> Fn(&'a mut T) -> &'a mut V + Send + Sync>;

impl<T: 'static> Schema<T> {
    fn new() -> Self {
        Self {
            keys: Vec::new(),
            checks: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// Declares a key, `bus.capacity`, stored where `field` points.
    ///
    /// Path segments are lower-case letters, digits and `_`, beginning with a letter. The default is what
    /// `T::default()` holds there. A key that is also the prefix of another, or declared twice, is a [`SchemaError`].
    pub fn key<V, F>(&mut self, path: &str, field: F) -> KeyBuilder<'_, T, V>
    where
        V: Value,
        F: for<'a> Fn(&'a mut T) -> &'a mut V + Send + Sync + 'static,
    {
        let get: Get<T, V> = Arc::new(field);
        let typed = Typed {
            get: Arc::clone(&get),
        };
        self.push(path, V::expected(), V::schema(), V::SECRET, false, typed);
        self.builder(get)
    }

    /// Declares a key that holds one of a fixed set of words.
    ///
    /// `T::default()` must hold one of them.
    pub fn choice<V, F>(
        &mut self,
        path: &str,
        field: F,
        choices: &[(&'static str, V)],
    ) -> KeyBuilder<'_, T, V>
    where
        V: Clone + PartialEq + Send + Sync + 'static,
        F: for<'a> Fn(&'a mut T) -> &'a mut V + Send + Sync + 'static,
    {
        let words: Vec<&'static str> = choices.iter().map(|(word, _)| *word).collect();
        if words.is_empty() {
            self.errors
                .push(SchemaError::NoChoices { key: path.into() });
        }
        let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
        let get: Get<T, V> = Arc::new(field);
        let field = Choice {
            get: Arc::clone(&get),
            choices: choices.to_vec(),
        };
        let expected = format!("one of {}", quoted.join(", "));
        let values: Vec<V> = choices.iter().map(|(_, value)| value.clone()).collect();
        self.push(
            path,
            expected,
            json!({ "enum": words }),
            false,
            false,
            field,
        );
        self.builder(get).rule(false, move |value| {
            if values.contains(value) {
                Ok(())
            } else {
                Err(Mismatch::new("is none of the choices"))
            }
        })
    }

    /// Declares a list of tables, `[[service]]`, each item with the keys of `I`.
    ///
    /// Items are set in the file only, as a whole: a file that has any replaces the default list. Within an item
    /// required keys, ranges and checks are located at that item, and origins are known for each of its keys, as
    /// `service[0].name`. The reload class is the list's; those of the item's keys, and environment names and flags
    /// declared there, have no meaning.
    pub fn list<I, F>(&mut self, path: &str, field: F) -> KeyBuilder<'_, T, Vec<I>>
    where
        I: Settings,
        F: for<'a> Fn(&'a mut T) -> &'a mut Vec<I> + Send + Sync + 'static,
    {
        let get: Get<T, Vec<I>> = Arc::new(field);
        let mut item = Schema::new();
        I::schema(&mut item);
        let item = item.finish();
        for error in &item.errors {
            self.errors.push(error.clone());
        }
        let json = json!({"type": "array", "items": Index::json(&item.metas(), true)});
        let field = Items {
            get: Arc::clone(&get),
            item,
        };
        self.push(path, "a list of tables".into(), json, false, true, field);
        self.builder(get)
    }

    /// Embeds the keys of another [`Settings`] at the top level, names unchanged: how a host carries the kernel's.
    pub fn include<U, F>(&mut self, field: F)
    where
        U: Settings,
        F: for<'a> Fn(&'a mut T) -> &'a mut U + Send + Sync + 'static,
    {
        self.embed("", Arc::new(field));
    }

    /// Embeds the keys of another [`Settings`] below `prefix`.
    ///
    /// Deprecated names move below the prefix too; declared environment names and flags stay as they are, so one type
    /// that declares any cannot be embedded twice.
    pub fn section<U, F>(&mut self, prefix: &str, field: F)
    where
        U: Settings,
        F: for<'a> Fn(&'a mut T) -> &'a mut U + Send + Sync + 'static,
    {
        self.embed(&format!("{prefix}."), Arc::new(field));
    }

    /// Declares a test across keys, which runs when every layer is merged and each of `keys` is valid by itself.
    ///
    /// A failure is located at the origin of the key from the strongest layer, the first listed among equals. The
    /// message is shown to the operator: it must not repeat a secret (one that does is withheld). A reload runs the
    /// test on what would be in force, old `process` values included. A panic counts as a failure.
    pub fn check<F>(&mut self, keys: &[&str], test: F)
    where
        F: Fn(&T) -> Result<(), String> + Send + Sync + 'static,
    {
        self.checks.push(Check {
            keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            test: Arc::new(move |value| test(value)),
        });
    }

    fn push(
        &mut self,
        path: &str,
        expected: String,
        json: Json,
        secret: bool,
        list: bool,
        field: impl Field<T> + 'static,
    ) {
        self.keys.push(Key {
            meta: Meta {
                path: path.to_owned(),
                doc: String::new(),
                expected,
                json,
                reload: Reload::default(),
                env: Vec::new(),
                flags: Vec::new(),
                deprecated: Vec::new(),
                required: false,
                secret,
                list,
            },
            field: Arc::new(field),
            rules: Vec::new(),
        });
    }

    fn builder<V>(&mut self, get: Get<T, V>) -> KeyBuilder<'_, T, V> {
        let key = self.keys.len() - 1;
        KeyBuilder {
            schema: self,
            key,
            get,
            value: PhantomData,
        }
    }

    fn embed<U: Settings>(&mut self, prefix: &str, outer: Get<T, U>) {
        let mut inner = Schema::<U>::new();
        U::schema(&mut inner);
        self.errors.append(&mut inner.errors);
        let below = |name: &str| format!("{prefix}{name}");
        for key in inner.keys {
            let mut meta = key.meta;
            meta.path = below(&meta.path);
            for name in &mut meta.deprecated {
                *name = below(name);
            }
            for (implied, _) in meta.env.iter_mut().flat_map(|env| &mut env.implies) {
                *implied = below(implied);
            }
            let rules = key.rules.into_iter().map(|rule| {
                let outer = Arc::clone(&outer);
                Rule {
                    test: Arc::new(move |t: &mut T| (rule.test)(outer(t))),
                    custom: rule.custom,
                }
            });
            self.keys.push(Key {
                meta,
                rules: rules.collect(),
                field: Arc::new(Lens {
                    outer: Arc::clone(&outer),
                    inner: key.field,
                }),
            });
        }
        for check in inner.checks {
            let outer = Arc::clone(&outer);
            self.checks.push(Check {
                keys: check.keys.iter().map(|key| below(key)).collect(),
                test: Arc::new(move |t: &mut T| (check.test)(outer(t))),
            });
        }
    }

    fn finish(self) -> Built<T> {
        let metas: Vec<&Meta> = self.keys.iter().map(|key| &key.meta).collect();
        let mut errors = self.errors;
        let index = Index::build(&metas, &mut errors);
        for check in &self.checks {
            for key in &check.keys {
                if index.key(key).is_none() {
                    errors.push(SchemaError::UnknownKey {
                        key: key.clone(),
                        named_by: "a check".to_owned(),
                    });
                }
            }
        }
        Built {
            keys: self.keys,
            checks: self.checks,
            index,
            errors,
        }
    }
}

impl<T: Settings> Schema<T> {
    /// The schema of `T`, as a test of the program's would want it.
    ///
    /// # Errors
    /// Every contradiction in the declarations: a collision of environment names, a key declared twice, and the like.
    pub fn of() -> Result<Self, SchemaErrors> {
        let built = Built::of()?;
        Ok(Self {
            keys: built.keys,
            checks: built.checks,
            errors: Vec::new(),
        })
    }

    /// The key paths, in the order declared.
    pub fn paths(&self) -> Vec<&str> {
        self.keys.iter().map(|key| key.meta.path.as_str()).collect()
    }

    /// The environment names, sorted; those of deprecated keys not included.
    pub fn env_names(&self) -> Vec<String> {
        let names = self.keys.iter().flat_map(|key| key.meta.env_names());
        let mut names: Vec<String> = names.collect();
        names.sort_unstable();
        names
    }
}

impl<T> fmt::Debug for Schema<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths: Vec<&str> = self.keys.iter().map(|key| key.meta.path.as_str()).collect();
        f.debug_struct(type_name::<Self>())
            .field("keys", &paths)
            .finish_non_exhaustive()
    }
}

/// A schema with its names resolved.
pub(crate) struct Built<T> {
    pub(crate) keys: Vec<Key<T>>,
    pub(crate) checks: Vec<Check<T>>,
    pub(crate) index: Index,
    errors: Vec<SchemaError>,
}

impl<T: Settings> Built<T> {
    pub(crate) fn of() -> Result<Self, SchemaErrors> {
        let mut schema = Schema::new();
        T::schema(&mut schema);
        let built = schema.finish();
        SchemaErrors::none_of(&built.errors)?;
        Ok(built)
    }
}

impl<T> Built<T> {
    /// Adds an environment name from outside the schema. It implies what the key's other names do.
    pub(crate) fn alias(&mut self, path: &str, alias: &str) -> Result<(), SchemaError> {
        match self.keys.iter_mut().find(|key| key.meta.path == path) {
            Some(key) => {
                let names = &mut key.meta.env;
                let mut implies: Vec<_> = names.iter().flat_map(|it| it.implies.clone()).collect();
                implies.sort();
                implies.dedup();
                names.push(EnvName {
                    name: alias.to_owned(),
                    unit: None,
                    first: false,
                    implies,
                });
            }
            None => {
                return Err(SchemaError::UnknownKey {
                    key: path.to_owned(),
                    named_by: format!("alias {alias}"),
                })
            }
        }
        let mut errors = Vec::new();
        self.index = Index::build(&self.metas(), &mut errors);
        errors.into_iter().next().map_or(Ok(()), Err)
    }

    pub(crate) fn metas(&self) -> Vec<&Meta> {
        self.keys.iter().map(|key| &key.meta).collect()
    }
}

/// Refines the key just declared. Every method is optional.
pub struct KeyBuilder<'s, T, V> {
    schema: &'s mut Schema<T>,
    key: usize,
    get: Get<T, V>,
    value: PhantomData<V>,
}

impl<T: 'static, V: Send + Sync + 'static> KeyBuilder<'_, T, V> {
    fn meta(&mut self) -> &mut Meta {
        &mut self.schema.keys[self.key].meta
    }

    /// One line on what the key does, with its unit if it is a plain number.
    pub fn doc(mut self, doc: &str) -> Self {
        doc.clone_into(&mut self.meta().doc);
        self
    }

    /// What a change needs. Default [`Reload::Process`].
    pub fn reload(mut self, reload: Reload) -> Self {
        self.meta().reload = reload;
        self
    }

    /// A further environment name, such as one a runbook fixes.
    ///
    /// Set together with the derived name or another one, to a different value, it is an error.
    pub fn env(self, name: &str) -> Self {
        self.env_name(name, None, false)
    }

    /// A further environment name that carries its unit, so that its value may be a bare number
    /// (`LEDGER_DEADLINE_MS=250`).
    pub fn env_with_unit(self, name: &str, unit: Unit) -> Self {
        self.env_name(name, Some(unit), false)
    }

    /// A further environment name that wins over the key's other names instead of conflicting with them
    /// (`RUST_LOG` over `RON_LOG`).
    pub fn env_first(self, name: &str) -> Self {
        self.env_name(name, None, true)
    }

    fn env_name(mut self, name: &str, unit: Option<Unit>, first: bool) -> Self {
        self.meta().env.push(EnvName {
            name: name.to_owned(),
            unit,
            first,
            implies: Vec::new(),
        });
        self
    }

    /// The environment name declared last also sets another key of this schema, unless a variable sets that one
    /// itself; the origin of the implied value is this variable.
    pub fn implies(mut self, key: &str, text: &str) -> Self {
        match self.meta().env.last_mut() {
            Some(env) => env.implies.push((key.to_owned(), text.to_owned())),
            None => {
                let path = self.meta().path.clone();
                let error = SchemaError::ImpliesWithoutEnv { key: path };
                self.schema.errors.push(error);
            }
        }
        self
    }

    /// A further flag, `--metrics-addr`, beside the path itself (`--observability.addr`).
    pub fn flag(mut self, name: &str) -> Self {
        self.meta().flags.push(name.to_owned());
        self
    }

    /// A former path. It still works, in files, variables and flags, and is warned about; together with the new name
    /// and a different value it is an error.
    pub fn deprecated(mut self, path: &str) -> Self {
        self.meta().deprecated.push(path.to_owned());
        self
    }

    /// Some layer must set the key; its default stands for nothing.
    pub fn required(mut self) -> Self {
        self.meta().required = true;
        self
    }

    /// Redacts the value in every output, as [`Secret`](crate::Secret) does; only `Secret` also zeroizes it.
    pub fn secret(mut self) -> Self {
        self.meta().secret = true;
        self
    }

    /// A test of the value, whichever layer it is from.
    ///
    /// The message is shown to the operator: it must not repeat a secret (one that does is withheld). A panic counts as
    /// a failure.
    pub fn check<F>(self, test: F) -> Self
    where
        F: Fn(&V) -> Result<(), String> + Send + Sync + 'static,
    {
        self.rule(true, move |value| test(value).map_err(Mismatch::new))
    }

    fn rule<F>(self, custom: bool, test: F) -> Self
    where
        F: Fn(&V) -> Result<(), Mismatch> + Send + Sync + 'static,
    {
        let get = Arc::clone(&self.get);
        self.schema.keys[self.key].rules.push(Rule {
            test: Arc::new(move |t: &mut T| test(get(t))),
            custom,
        });
        self
    }
}

impl<T: 'static, V: Ranged> KeyBuilder<'_, T, V> {
    /// The allowed range, checked in every layer, the default included. Unset options are in any range.
    pub fn range(mut self, range: impl RangeBounds<V::Bound> + Send + Sync + 'static) -> Self {
        let text = range_text(&range);
        let meta = self.meta();
        // An option's base text ends in how to unset it; the range belongs before that.
        meta.expected = match meta.expected.split_once(", or ") {
            Some((base, unset)) => format!("{base} {text}, or {unset}"),
            None => format!("{} {text}", meta.expected),
        };
        bound_json(&mut meta.json, &range);
        self.rule(false, move |value| match value.bound() {
            Some(bound) if !range.contains(bound) => {
                let shown = bound.show();
                let shown = shown
                    .as_str()
                    .map_or_else(|| shown.to_string(), str::to_owned);
                Err(Mismatch::new(format!("{shown} is out of range")))
            }
            _ => Ok(()),
        })
    }
}

impl<T, V> fmt::Debug for KeyBuilder<'_, T, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyBuilder")
            .field("key", &self.schema.keys[self.key].meta.path)
            .finish_non_exhaustive()
    }
}

fn range_text<B: Value>(range: &impl RangeBounds<B>) -> String {
    let show = |bound: &B| {
        let shown = bound.show();
        shown
            .as_str()
            .map_or_else(|| shown.to_string(), str::to_owned)
    };
    let low = match range.start_bound() {
        Bound::Included(low) => format!("from {}", show(low)),
        Bound::Excluded(low) => format!("above {}", show(low)),
        Bound::Unbounded => String::new(),
    };
    let high = match range.end_bound() {
        Bound::Included(high) => format!("to {}", show(high)),
        Bound::Excluded(high) => format!("below {}", show(high)),
        Bound::Unbounded if low.is_empty() => String::new(),
        Bound::Unbounded => "up".to_owned(),
    };
    format!("{low} {high}").trim().to_owned()
}

/// Adds numeric bounds to a JSON Schema; those of durations and sizes are text and stand in the description only.
fn bound_json<B: Value>(schema: &mut Json, range: &impl RangeBounds<B>) {
    let schema = match schema.get_mut("anyOf") {
        Some(Json::Array(options)) if !options.is_empty() => &mut options[0],
        _ => schema,
    };
    let mut set = |name: &str, bound: &B| {
        let shown = bound.show();
        if shown.is_number() {
            schema[name] = shown;
        }
    };
    match range.start_bound() {
        Bound::Included(low) => set("minimum", low),
        Bound::Excluded(low) => set("exclusiveMinimum", low),
        Bound::Unbounded => {}
    }
    match range.end_bound() {
        Bound::Included(high) => set("maximum", high),
        Bound::Excluded(high) => set("exclusiveMaximum", high),
        Bound::Unbounded => {}
    }
}
