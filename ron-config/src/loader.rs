//! Where the layers come from: the builder every program starts with.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::diagnostic::{ConfigErrors, Diagnostic};
use crate::document::{self, Document};
use crate::env::{from_env, from_flags, Assignment, Bystanders};
use crate::loaded::Loaded;
use crate::resolve::{resolve, Resolved};
use crate::schema::{Built, Settings};

/// Gathers the layers of a configuration: flags over environment over file over defaults.
///
/// Nothing is read from the process by itself: a binary passes `std::env::vars_os()`, a test passes pairs.
///
/// ```
/// use ron_config::{Layer, Loader, Schema, Settings};
///
/// #[derive(Clone)]
/// struct Config { capacity: usize }
/// impl Default for Config {
///     fn default() -> Self { Self { capacity: 4096 } }
/// }
/// impl Settings for Config {
///     fn schema(schema: &mut Schema<Self>) {
///         schema.key("bus.capacity", |c| &mut c.capacity).range(1..=1 << 20);
///     }
/// }
///
/// let loaded = Loader::<Config>::new("ron-kernel")
///     .env([("RON_BUS_CAPACITY", "64")])
///     .load()?;
/// assert_eq!(loaded.snapshot().capacity, 64);
/// assert_eq!(loaded.explain("bus.capacity")?.origin().layer(), Layer::Env);
///
/// let errors = Loader::<Config>::new("ron-kernel")
///     .env([("RON_BUS_CAPACTY", "64")])
///     .load()
///     .unwrap_err();
/// assert_eq!(errors.iter().next().unwrap().did_you_mean(), Some("RON_BUS_CAPACITY"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Loader<T> {
    service: String,
    defaults: Option<T>,
    named: Option<PathBuf>,
    fallback: Option<PathBuf>,
    file_env: Option<String>,
    env: Vec<(OsString, OsString)>,
    flags: Vec<(String, Zeroizing<String>)>,
    aliases: Vec<(String, String)>,
    bystanders: Bystanders,
    settings: PhantomData<T>,
}

impl<T: Settings> Loader<T> {
    /// A loader for the service of this name, with every default and no other layer.
    pub fn new(service: impl Into<String>) -> Self {
        Self {
            service: service.into(),
            defaults: None,
            named: None,
            fallback: None,
            file_env: None,
            env: Vec::new(),
            flags: Vec::new(),
            aliases: Vec::new(),
            bystanders: Bystanders::default(),
            settings: PhantomData,
        }
    }

    /// Replaces the defaults of `T::default()`.
    pub fn defaults(mut self, defaults: T) -> Self {
        self.defaults = Some(defaults);
        self
    }

    /// The file to read, which must exist; relative to the working directory. `.json` is JSON, anything else TOML.
    pub fn file(mut self, path: impl AsRef<Path>) -> Self {
        self.named = Some(path.as_ref().to_owned());
        self
    }

    /// The file to read when none is named; it may be missing, which is logged. Should it appear later, a reload reads
    /// it; should it be there and vanish later, a reload is refused.
    pub fn default_file(mut self, path: impl AsRef<Path>) -> Self {
        self.fallback = Some(path.as_ref().to_owned());
        self
    }

    /// The variable that names the file (`RON_CONFIG`), unless [`file`](Self::file) does.
    pub fn file_env(mut self, name: &str) -> Self {
        self.file_env = Some(name.to_owned());
        self.known_env(name)
    }

    /// The environment, as pairs of name and value. Names are resolved by the schema: `RON_` and the path in capitals
    /// with `_` for the dots, and the names declared there or by [`alias`](Self::alias).
    pub fn env<N, V>(mut self, pairs: impl IntoIterator<Item = (N, V)>) -> Self
    where
        N: Into<OsString>,
        V: Into<OsString>,
    {
        let pairs = pairs
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()));
        self.env.extend(pairs);
        self
    }

    /// The command line, as pairs of flag and value: `("--bus.capacity", "64")`. The dashes in front may be left out, and
    /// `-` stands for `_` within (`--max-conns` sets `max_conns`). A flag without value is passed as `true`.
    pub fn flags<N, V>(mut self, pairs: impl IntoIterator<Item = (N, V)>) -> Self
    where
        N: Into<String>,
        V: Into<String>,
    {
        let pairs = pairs
            .into_iter()
            .map(|(name, value)| (name.into(), Zeroizing::new(value.into())));
        self.flags.extend(pairs);
        self
    }

    /// A further environment name for a key, of this program only: `("HTTP_ADDR", "http_addr")`. It implies what the
    /// key's names in the schema do.
    pub fn alias(mut self, env: &str, key: &str) -> Self {
        self.aliases.push((env.to_owned(), key.to_owned()));
        self
    }

    /// `RON_` names of other services, to be ignored: whole names, or prefixes ending in `_`.
    pub fn siblings<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        let names = names.into_iter().map(Into::into);
        self.bystanders.siblings.extend(names);
        self
    }

    /// A `RON_` name that this program reads itself, such as `RON_CONFIG`.
    pub fn known_env(mut self, name: &str) -> Self {
        self.bystanders.known.push(name.to_owned());
        self
    }

    /// Reads and merges the layers.
    ///
    /// Blocking: it reads one file, and waits up to half a second if that file is being written at this moment; should it
    /// never rest for 40 ms of these, that is an error.
    ///
    /// # Errors
    /// Every defect of every layer in one report: values that do not parse or are out of range (also where a stronger
    /// layer hides them), unknown keys in the file, missing keys, repeated keys, failed checks; and of the environment
    /// every `RON_` name that lies in a section of this schema or within two letters of a known name.
    pub fn load(self) -> Result<Loaded<T>, ConfigErrors> {
        let service = self.service.clone();
        let schema_error = |problem: String| vec![Diagnostic::new("", "schema").problem(problem)];
        let mut built = Built::<T>::of().map_err(|errors| {
            let each = errors
                .iter()
                .flat_map(|error| schema_error(error.to_string()));
            ConfigErrors::new(&service, each.collect())
        })?;
        for (env, key) in &self.aliases {
            built
                .alias(key, env)
                .map_err(|error| ConfigErrors::new(&service, schema_error(error.to_string())))?;
        }
        let mut strangers = Vec::new();
        let file = self.choose_file(&mut strangers);
        let metas = built.metas();
        let env = from_env(
            &built.index,
            &metas,
            &self.bystanders,
            self.env,
            &mut strangers,
        );
        let flags = from_flags(&built.index, &metas, self.flags, &mut strangers);
        let layers = Layers {
            service: self.service,
            built,
            defaults: self.defaults.unwrap_or_default(),
            file,
            env,
            flags,
        };
        let reading = layers
            .read(&strangers)
            .map_err(|errors| ConfigErrors::new(&layers.service, errors))?;
        Ok(Loaded::new(layers, reading))
    }

    fn choose_file(&self, errors: &mut Vec<Diagnostic>) -> Option<Source> {
        let from_env = self.file_env.as_ref().and_then(|wanted| {
            let named = |(name, value): &(OsString, OsString)| {
                (name.to_str() == Some(wanted)).then(|| PathBuf::from(value))
            };
            self.env.iter().find_map(named)
        });
        if self.named.is_none()
            && from_env
                .as_ref()
                .is_some_and(|path| path.as_os_str().is_empty())
        {
            let name = self.file_env.clone().unwrap_or_default();
            let empty = Diagnostic::new("", name).problem("is empty");
            errors.push(empty.expected("the path of the configuration file"));
            return None;
        }
        let named = self.named.clone().or(from_env);
        let must_exist = named.is_some();
        named.or_else(|| self.fallback.clone()).map(|path| Source {
            // The working directory may change while the service runs; what was named at the start is meant.
            absolute: std::path::absolute(&path).unwrap_or_else(|_| path.clone()),
            shown: path.display().to_string(),
            must_exist,
        })
    }
}

impl<T> fmt::Debug for Loader<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loader")
            .field("service", &self.service)
            .field("file", &self.named)
            .field("default_file", &self.fallback)
            .finish_non_exhaustive()
    }
}

/// The file of a configuration.
pub(crate) struct Source {
    pub(crate) absolute: PathBuf,
    pub(crate) shown: String,
    must_exist: bool,
}

impl Source {
    /// A file that must be there.
    pub(crate) fn named(path: &Path) -> Self {
        Source {
            absolute: std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf()),
            shown: path.display().to_string(),
            must_exist: true,
        }
    }
}

/// The layers, kept so that a reload can merge them again; only the file can change.
pub(crate) struct Layers<T> {
    pub(crate) service: String,
    pub(crate) built: Built<T>,
    pub(crate) defaults: T,
    pub(crate) file: Option<Source>,
    env: Vec<Assignment>,
    flags: Vec<Assignment>,
}

/// One merge and the file it saw.
pub(crate) struct Reading<T> {
    pub(crate) resolved: Resolved<T>,
    pub(crate) sha256: String,
    /// How the file was: absent, empty, or with content.
    pub(crate) presence: Presence,
}

/// Complete: a file is one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Presence {
    Absent,
    Empty,
    Content,
}

impl<T: Settings> Layers<T> {
    /// Reads the file and merges. `strangers` are defects of the environment and flags, which only the first merge sees:
    /// those layers do not change.
    pub(crate) fn read(&self, strangers: &[Diagnostic]) -> Result<Reading<T>, Vec<Diagnostic>> {
        self.read_with(self.file.as_ref(), strangers)
    }

    /// As [`read`](Self::read), with this file in place of ours.
    pub(crate) fn read_with(
        &self,
        file: Option<&Source>,
        strangers: &[Diagnostic],
    ) -> Result<Reading<T>, Vec<Diagnostic>> {
        let mut trouble = Vec::new();
        let mut bytes = Zeroizing::new(Vec::new());
        let mut presence = Presence::Absent;
        let mut document = None;
        if let Some(source) = file {
            match document::read_settled(&source.absolute) {
                Ok(read) => {
                    bytes = read;
                    presence = if bytes.is_empty() {
                        Presence::Empty
                    } else {
                        Presence::Content
                    };
                    match Document::parse(&source.shown, &bytes) {
                        Ok(parsed) => document = Some(parsed),
                        Err(diagnostic) => trouble.push(*diagnostic),
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound && !source.must_exist => {
                    tracing::info!(path = %source.shown, "no configuration file; defaults in force");
                }
                Err(error) => trouble.push(unreadable(&source.shown, &error)),
            }
        }
        let resolved = resolve(
            &self.built,
            &self.defaults,
            document.as_ref(),
            &self.env,
            &self.flags,
            strangers,
            !trouble.is_empty(),
        );
        match resolved {
            Ok(resolved) if trouble.is_empty() => Ok(Reading {
                resolved,
                sha256: hex(&hmac_sha256::Hash::hash(&bytes)),
                presence,
            }),
            Ok(_) => Err(trouble),
            Err(errors) => {
                trouble.extend(errors);
                Err(trouble)
            }
        }
    }
}

fn unreadable(shown: &str, error: &io::Error) -> Diagnostic {
    let (problem, expected) = match error.kind() {
        io::ErrorKind::NotFound => ("no such file".to_owned(), "an existing file"),
        io::ErrorKind::PermissionDenied => (
            "may not be read (permission denied)".to_owned(),
            "a file the service's user may read",
        ),
        _ => (
            format!("cannot be read: {error}"),
            "a readable configuration file",
        ),
    };
    Diagnostic::new("", shown)
        .problem(problem)
        .expected(expected)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
