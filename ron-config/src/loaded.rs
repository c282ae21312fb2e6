//! The configuration in force: read it, ask where it came from, reload it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use serde_json::Value as Json;

use crate::diagnostic::{ConfigErrors, Diagnostic};
use crate::loader::{Layers, Presence, Reading, Source as File};
use crate::origin::{Explanation, Layer, Origin, Printed, Sourced, UnknownKey};
use crate::reload::{Change, ReloadReport, ReloadStats};
use crate::resolve::{calmly, failed_checks, Record, Resolved, Secrets};
use crate::schema::{Index, Meta, Reload, Settings};
use crate::watch::{Publisher, Watch};
use crate::watcher::{FileWatcher, Timing};

/// A loaded configuration, shared: clones are handles on the same one.
///
/// # Ordering
/// A snapshot holds all of one version or nothing of it. A reload publishes the snapshot before it returns, so whoever
/// learns of its report reads the new values; [`explain`](Self::explain) and [`print`](Self::print) follow the snapshot
/// within the same reload.
pub struct Loaded<T> {
    inner: Arc<Inner<T>>,
}

struct Inner<T> {
    layers: Layers<T>,
    publisher: Publisher<T>,
    /// What `explain` and `print` answer from. Replaced whole; the lock is held for a pointer copy.
    state: Mutex<Arc<State<T>>>,
    /// Held through a reload or a plan, so that they run one after the other.
    turn: Mutex<()>,
    /// Who holds `turn`, to refuse a guard that reloads instead of letting it wait for itself.
    holder: Mutex<Option<ThreadId>>,
    guards: Mutex<Vec<Guard<T>>>,
    stats: Mutex<ReloadStats>,
}

/// What is in force, with its accounts.
struct State<T> {
    version: u64,
    value: Arc<T>,
    file_value: T,
    records: Vec<Record>,
    items: Vec<(Meta, Record)>,
    warnings: Vec<Diagnostic>,
    secrets: Secrets,
    sha256: String,
    presence: Presence,
}

struct Guard<T> {
    name: String,
    test: Arc<Test<T>>,
}

type Test<T> = dyn Fn(&T, &T) -> Result<(), String> + Send + Sync;

/// A reload that went through every test and awaits its commit.
struct Prepared<T> {
    report: ReloadReport,
    next: State<T>,
}

impl<T: Settings> Loaded<T> {
    pub(crate) fn new(layers: Layers<T>, reading: Reading<T>) -> Self {
        let Reading {
            resolved,
            sha256,
            presence,
        } = reading;
        let Resolved {
            mut value,
            file_value,
            records,
            places,
            warnings,
            secrets,
        } = resolved;
        let mut items = Vec::new();
        for (key, record) in layers.built.keys.iter().zip(&records) {
            for leaf in key.field.leaves(&mut value, &key.meta.path) {
                let origin = places.get(&leaf.path).cloned();
                let origin = origin.unwrap_or_else(Origin::default_value);
                items.push(item(
                    leaf.path, leaf.value, leaf.meta, origin, &key.meta, record,
                ));
            }
        }
        log_warnings(&warnings);
        let value = Arc::new(value);
        let state = State {
            version: 1,
            value: Arc::clone(&value),
            file_value,
            records,
            items,
            warnings,
            secrets,
            sha256,
            presence,
        };
        Self {
            inner: Arc::new(Inner {
                layers,
                publisher: Publisher::new(1, value),
                state: Mutex::new(Arc::new(state)),
                turn: Mutex::new(()),
                holder: Mutex::new(None),
                guards: Mutex::new(Vec::new()),
                stats: Mutex::new(ReloadStats::default()),
            }),
        }
    }

    /// The name of the service.
    pub fn service(&self) -> &str {
        &self.inner.layers.service
    }

    /// The values in force. To follow changes cheaply, keep a [`watch`](Self::watch).
    pub fn snapshot(&self) -> Arc<T> {
        self.inner.publisher.snapshot().1
    }

    /// The version in force, 1 after loading; each reload that changes what is in force adds 1.
    pub fn version(&self) -> u64 {
        self.inner.publisher.snapshot().0
    }

    /// A reader's handle on the values in force.
    pub fn watch(&self) -> Watch<T> {
        Watch::of(&self.inner.publisher)
    }

    /// Where the value of a key came from: `bus.capacity`, or `service[0].name` of an item of a list.
    ///
    /// # Errors
    /// [`UnknownKey`], with the nearest known key; former names are answered under the new one.
    pub fn explain(&self, key: &str) -> Result<Explanation, UnknownKey> {
        let state = self.state();
        let built = &self.inner.layers.built;
        if let Some(named) = built.index.key(key) {
            let meta = &built.keys[named.key].meta;
            return Ok(explanation(meta, &state.records[named.key]));
        }
        if let Some((meta, record)) = state.items.iter().find(|(meta, _)| meta.path == key) {
            return Ok(explanation(meta, record));
        }
        let items = state.items.iter().map(|(meta, _)| meta.path.as_str());
        let near_item = crate::spelling::nearest(key, items).map(str::to_owned);
        Err(UnknownKey {
            service: self.service().to_owned(),
            key: key.to_owned(),
            suggestion: near_item.or_else(|| built.index.suggest(key)),
        })
    }

    /// Every value in force with its origin, secrets redacted.
    pub fn print(&self) -> Printed {
        let state = self.state();
        let mut values = Vec::new();
        for (key, record) in self.inner.layers.built.keys.iter().zip(&state.records) {
            values.push(explanation(&key.meta, record));
            if key.meta.list {
                let prefix = format!("{}[", key.meta.path);
                let items = state.items.iter();
                let items = items.filter(|(meta, _)| meta.path.starts_with(&prefix));
                values.extend(items.map(|(meta, record)| explanation(meta, record)));
            }
        }
        Printed {
            service: self.service().to_owned(),
            version: state.version,
            sha256: state.sha256.clone(),
            values,
        }
    }

    /// The JSON Schema (draft 2020-12) of the configuration file, with defaults, documentation, reload classes
    /// (`x-reload`) and environment names (`x-env`). Bounds of durations and sizes stand in the description only.
    pub fn schema(&self) -> Json {
        let layers = &self.inner.layers;
        let mut json = Index::json(&layers.built.metas(), false);
        json["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
        json["title"] = self.service().into();
        let mut defaults = layers.defaults.clone();
        for key in &layers.built.keys {
            let value = key.field.show(&mut defaults);
            if key.meta.secret || key.meta.required || value.is_null() {
                continue;
            }
            let pointer = key.meta.path.replace('.', "/properties/");
            if let Some(schema) = json.pointer_mut(&format!("/properties/{pointer}")) {
                schema["default"] = value;
            }
        }
        json
    }

    /// Remarks on the configuration in force: former names in use.
    pub fn warnings(&self) -> Vec<Diagnostic> {
        self.state().warnings.clone()
    }

    /// SHA-256 of the file in force in hexadecimal, as `sha256sum` prints it; of no bytes without a file.
    pub fn sha256(&self) -> String {
        self.state().sha256.clone()
    }

    /// The files to watch: none or one.
    pub fn files(&self) -> Vec<PathBuf> {
        let file = self.inner.layers.file.iter();
        file.map(|source| source.absolute.clone()).collect()
    }

    /// A watcher on the file, which reports any content other than the one in force, also one written between loading
    /// and this call; `None` without a file.
    ///
    /// # Errors
    /// The operating system's, when it gives no thread.
    pub fn file_watcher(&self) -> std::io::Result<Option<FileWatcher>> {
        self.file_watcher_with(Timing::default())
    }

    /// As [`file_watcher`](Self::file_watcher), with timing of the caller's.
    ///
    /// # Errors
    /// As there.
    pub fn file_watcher_with(&self, timing: Timing) -> std::io::Result<Option<FileWatcher>> {
        let file = self.inner.layers.file.as_ref();
        file.map(|source| FileWatcher::since(&source.absolute, Some(self.sha256()), timing))
            .transpose()
    }

    /// Adds a test that every reload must pass before it takes effect: `test(in_force, proposed)`.
    ///
    /// Guards run in the order added, on the thread of the reload (and of [`plan`](Self::plan), so they must have no
    /// effect), and only when something would change. An error or a panic is a veto. The message is shown to the
    /// operator; one that repeats a secret is withheld.
    pub fn guard<F>(&self, name: &str, test: F)
    where
        F: Fn(&T, &T) -> Result<(), String> + Send + Sync + 'static,
    {
        lock(&self.inner.guards).push(Guard {
            name: name.to_owned(),
            test: Arc::new(test),
        });
    }

    /// How reloads went so far.
    pub fn reload_stats(&self) -> ReloadStats {
        *lock(&self.inner.stats)
    }

    /// Reads the file again and puts it in force, or leaves everything as it is.
    ///
    /// The transaction: parse, validate, compare, ask the guards, swap. Keys of class `process` keep their value and are
    /// reported; the checks across keys are run again on that mixture. Concurrent reloads run one after the other.
    /// Blocking, as [`Loader::load`](crate::Loader::load) is: in async code call it on a thread that may block. The
    /// outcome is returned and not logged: whoever carries it out tells of it (ron-kernel does).
    ///
    /// # Errors
    /// Everything `load` may say; a veto; a file that was there and is gone; a file that had content and is empty (what
    /// one sees of a file that is just being rewritten: to run on defaults, leave a comment in it); a guard that calls
    /// this. The configuration in force stays.
    pub fn reload(&self) -> Result<ReloadReport, ConfigErrors> {
        let result = self.in_turn(|| {
            let prepared = self.prepare(self.inner.layers.file.as_ref())?;
            Ok(self.commit(prepared))
        });
        let mut stats = lock(&self.inner.stats);
        stats.last_successful = result.is_ok();
        match &result {
            Ok(_) => stats.reloads += 1,
            Err(_) => stats.errors += 1,
        }
        drop(stats);
        result
    }

    /// What [`reload`](Self::reload) would do now, guards asked, without doing it.
    ///
    /// # Errors
    /// What `reload` would say.
    pub fn plan(&self) -> Result<ReloadReport, ConfigErrors> {
        let file = self.inner.layers.file.as_ref();
        self.in_turn(|| self.prepare(file).map(|prepared| prepared.report))
    }

    /// What [`reload`](Self::reload) would do now if `path` stood in place of the file. A relative path is meant from
    /// the working directory of this process.
    ///
    /// # Errors
    /// What `reload` would say; the file cannot be read.
    pub fn plan_file(&self, path: impl AsRef<Path>) -> Result<ReloadReport, ConfigErrors> {
        let file = File::named(path.as_ref());
        self.in_turn(|| self.prepare(Some(&file)).map(|prepared| prepared.report))
    }

    fn state(&self) -> Arc<State<T>> {
        Arc::clone(&lock(&self.inner.state))
    }

    fn in_turn(
        &self,
        run: impl FnOnce() -> Result<ReloadReport, ConfigErrors>,
    ) -> Result<ReloadReport, ConfigErrors> {
        let me = thread::current().id();
        if *lock(&self.inner.holder) == Some(me) {
            let error = Diagnostic::new("", "guard").problem("a guard may not reload");
            return Err(self.errors(vec![error]));
        }
        let turn = lock(&self.inner.turn);
        *lock(&self.inner.holder) = Some(me);
        let _turn = Turn {
            holder: &self.inner.holder,
            _turn: turn,
        };
        run()
    }

    fn errors(&self, diagnostics: Vec<Diagnostic>) -> ConfigErrors {
        ConfigErrors::new(self.service(), diagnostics)
    }

    /// Everything of a reload but its effect.
    fn prepare(&self, file: Option<&File>) -> Result<Prepared<T>, ConfigErrors> {
        let layers = &self.inner.layers;
        let reading = layers
            .read_with(file, &[])
            .map_err(|errors| self.errors(errors))?;
        let current = self.state();
        let shown = file.map_or("", |source| source.shown.as_str());
        if reading.presence < current.presence {
            let problem = match reading.presence {
                Presence::Absent => "the file is gone",
                _ => "the file is empty, as one that is being rewritten is for a moment",
            };
            let error = Diagnostic::new("", shown)
                .problem(problem)
                .expected("a file with content, if only a comment");
            return Err(self.errors(vec![error]));
        }
        let Reading {
            resolved,
            sha256,
            presence,
        } = reading;
        let Resolved {
            mut value,
            mut file_value,
            mut records,
            places,
            warnings,
            secrets,
        } = resolved;
        let mut old = T::clone(&current.value);
        let mut old_file = current.file_value.clone();
        let mut report = ReloadReport::default();
        let mut items = Vec::new();
        for (i, key) in layers.built.keys.iter().enumerate() {
            let path = &key.meta.path;
            let mut origins_of_old = false;
            if !key.field.same(&mut old, &mut value) {
                report.diff.push(Change {
                    key: path.clone(),
                    old: key.meta.shown(key.field.show(&mut old)),
                    new: key.meta.shown(key.field.show(&mut value)),
                });
                match key.meta.reload {
                    Reload::Process => {
                        report.needs_restart.push(path.clone());
                        key.field.copy(&mut old, &mut value);
                        let pending = records[i].current.clone();
                        records[i] = Record {
                            pending: Some(pending),
                            ..current.records[i].clone()
                        };
                        origins_of_old = true;
                    }
                    Reload::Restart(child) => {
                        report.applied.push(path.clone());
                        report.restarts.push(child);
                    }
                    Reload::Live => report.applied.push(path.clone()),
                }
            } else if records[i].current.origin.layer() > Layer::File
                && !key.field.same(&mut old_file, &mut file_value)
            {
                report.pinned.push(path.clone());
            }
            for leaf in key.field.leaves(&mut value, path) {
                let origin = if origins_of_old {
                    let mut before = current.items.iter();
                    let before = before.find(|(meta, _)| meta.path == leaf.path);
                    before.map(|(_, record)| record.current.origin.clone())
                } else {
                    places.get(&leaf.path).cloned()
                };
                let origin = origin.unwrap_or_else(Origin::default_value);
                items.push(item(
                    leaf.path,
                    leaf.value,
                    leaf.meta,
                    origin,
                    &key.meta,
                    &records[i],
                ));
            }
        }
        report.restarts.sort_unstable();
        report.restarts.dedup();

        let mut errors = Vec::new();
        if !report.needs_restart.is_empty() {
            for (keys, message) in failed_checks(&layers.built, &mut value, &secrets) {
                let waiting = report.needs_restart.iter().find(|key| keys.contains(key));
                let problem = match waiting {
                    Some(key) => {
                        format!("{message} (while `{key}` keeps its old value until a restart)")
                    }
                    None => message,
                };
                let key = keys.into_iter().next().unwrap_or_default();
                errors.push(Diagnostic::new(key, shown).problem(problem));
            }
        }
        if errors.is_empty() && !report.applied.is_empty() {
            errors = self.ask_guards(&current, &value, &secrets, shown);
        }
        if !errors.is_empty() {
            return Err(self.errors(errors));
        }
        report.version = current.version + u64::from(!report.applied.is_empty());
        let value = if report.applied.is_empty() {
            Arc::clone(&current.value)
        } else {
            Arc::new(value)
        };
        let next = State {
            version: report.version,
            value,
            file_value,
            records,
            items,
            warnings,
            secrets,
            sha256,
            presence,
        };
        Ok(Prepared { report, next })
    }

    fn ask_guards(
        &self,
        current: &State<T>,
        proposed: &T,
        secrets: &Secrets,
        shown: &str,
    ) -> Vec<Diagnostic> {
        let guards: Vec<(String, Arc<Test<T>>)> = lock(&self.inner.guards)
            .iter()
            .map(|guard| (guard.name.clone(), Arc::clone(&guard.test)))
            .collect();
        let mut vetoes = Vec::new();
        for (name, test) in guards {
            if let Err(reason) = calmly(|| test(&current.value, proposed)) {
                let reason = current.secrets.scrub(secrets.scrub(reason));
                let problem = format!("refused by guard `{name}`: {reason}");
                vetoes.push(Diagnostic::new("", shown).problem(problem));
            }
        }
        vetoes
    }

    /// Puts a prepared reload in force. The one place where the snapshot changes: whoever watches over a new
    /// configuration for a while and goes back to `before` does it from here.
    fn commit(&self, prepared: Prepared<T>) -> ReloadReport {
        let Prepared { report, next } = prepared;
        let (version, value) = (next.version, Arc::clone(&next.value));
        log_warnings(&next.warnings);
        let before = std::mem::replace(&mut *lock(&self.inner.state), Arc::new(next));
        if before.version != version {
            self.inner.publisher.publish(version, value);
        }
        report
    }
}

/// The right to reload. `drop` runs before the fields are dropped, so the holder is cleared while the turn is held.
struct Turn<'a> {
    holder: &'a Mutex<Option<ThreadId>>,
    _turn: MutexGuard<'a, ()>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *lock(self.holder) = None;
    }
}

fn lock<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    // Nothing is left half-done by a panic under these locks: each guards one assignment or a push.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A key of an item of a list, with the list's reload class and state.
fn item(
    path: String,
    value: Json,
    meta: Meta,
    origin: Origin,
    list: &Meta,
    record: &Record,
) -> (Meta, Record) {
    let meta = Meta {
        path,
        reload: list.reload,
        // Items are set in the file only.
        list: true,
        env: Vec::new(),
        ..meta
    };
    let origin = match (origin.layer(), record.current.origin.layer()) {
        (Layer::Default, Layer::Default) => record.current.origin.clone(),
        _ => origin,
    };
    let record = Record {
        current: Sourced { value, origin },
        shadowed: Vec::new(),
        pending: None,
    };
    (meta, record)
}

fn explanation(meta: &Meta, record: &Record) -> Explanation {
    Explanation {
        key: meta.path.clone(),
        current: record.current.clone(),
        shadowed: record.shadowed.clone(),
        pending: record.pending.clone(),
        reload: meta.reload,
        doc: meta.doc.clone(),
        expected: meta.expected.clone(),
        env: meta.env_names(),
    }
}

fn log_warnings(warnings: &[Diagnostic]) {
    for warning in warnings {
        tracing::warn!(key = warning.key(), place = warning.place(), "{warning}");
    }
}

impl<T> Clone for Loaded<T> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<T> fmt::Debug for Loaded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded")
            .field("service", &self.inner.layers.service)
            .field("version", &self.inner.publisher.snapshot().0)
            .finish_non_exhaustive()
    }
}

mod sealed {
    pub trait Sealed {}
    impl<T: crate::Settings> Sealed for super::Loaded<T> {}
}

/// A [`Loaded`] whatever its settings: what a kernel reloads and a control socket answers from.
///
/// Each method is the one of the same name on [`Loaded`]. Sealed, so that methods can be added.
pub trait Source: sealed::Sealed + fmt::Debug + Send + Sync {
    /// See [`Loaded::service`].
    fn service(&self) -> &str;
    /// See [`Loaded::version`].
    fn version(&self) -> u64;
    /// See [`Loaded::sha256`].
    fn sha256(&self) -> String;
    /// See [`Loaded::reload_stats`].
    fn reload_stats(&self) -> ReloadStats;
    /// See [`Loaded::warnings`].
    fn warnings(&self) -> Vec<Diagnostic>;
    /// See [`Loaded::explain`].
    ///
    /// # Errors
    /// As there.
    fn explain(&self, key: &str) -> Result<Explanation, UnknownKey>;
    /// See [`Loaded::print`].
    fn print(&self) -> Printed;
    /// See [`Loaded::schema`].
    fn schema(&self) -> Json;
    /// See [`Loaded::reload`].
    ///
    /// # Errors
    /// As there.
    fn reload(&self) -> Result<ReloadReport, ConfigErrors>;
    /// See [`Loaded::plan`].
    ///
    /// # Errors
    /// As there.
    fn plan(&self) -> Result<ReloadReport, ConfigErrors>;
    /// See [`Loaded::files`].
    fn files(&self) -> Vec<PathBuf>;
    /// See [`Loaded::file_watcher`].
    ///
    /// # Errors
    /// As there.
    fn file_watcher(&self) -> std::io::Result<Option<FileWatcher>>;
    /// A watch on the version alone, to wait for the next one.
    fn versions(&self) -> Watch<()>;
}

impl<T: Settings> Source for Loaded<T> {
    fn service(&self) -> &str {
        self.service()
    }
    fn version(&self) -> u64 {
        self.version()
    }
    fn sha256(&self) -> String {
        self.sha256()
    }
    fn reload_stats(&self) -> ReloadStats {
        self.reload_stats()
    }
    fn warnings(&self) -> Vec<Diagnostic> {
        self.warnings()
    }
    fn explain(&self, key: &str) -> Result<Explanation, UnknownKey> {
        self.explain(key)
    }
    fn print(&self) -> Printed {
        self.print()
    }
    fn schema(&self) -> Json {
        self.schema()
    }
    fn reload(&self) -> Result<ReloadReport, ConfigErrors> {
        self.reload()
    }
    fn plan(&self) -> Result<ReloadReport, ConfigErrors> {
        self.plan()
    }
    fn files(&self) -> Vec<PathBuf> {
        self.files()
    }
    fn file_watcher(&self) -> std::io::Result<Option<FileWatcher>> {
        self.file_watcher()
    }
    fn versions(&self) -> Watch<()> {
        self.watch().map(|_| ())
    }
}
