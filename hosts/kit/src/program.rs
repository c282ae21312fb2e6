//! A host from its command line to its exit code.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use ron_config::{ConfigErrors, Diagnostic, Loaded, Loader, Schema, Settings, Watch};
use ron_kernel::control::{run_dir, Control, Method, Refused};
use ron_kernel::metrics::{Identity, Pq};
use ron_kernel::supervisor::{Child, ChildContext};
use ron_kernel::{Kernel, KernelBuilder};
use serde_json::Value as Json;

use crate::amnesia::{seal, seal_memory, Landlock, Seal};
use crate::cli::{self, Command, Invocation};
use crate::filter::check_directives;
use crate::http::{Front, FrontError, HttpSettings};
use crate::log::{Filter, Log};

/// Exit code for configuration and usage.
const USAGE: u8 = 2;

/// `RON_` names of programs that may share a machine's environment with this one. A host that has a key for one of
/// them follows it all the same.
const SIBLINGS: [&str; 10] = [
    "RON_SVC_INDEX_BIN",
    "RON_SVC_OVERLAY_BIN",
    "RON_SVC_STORAGE_BIN",
    "RON_INDEX_SOCK",
    "RON_OVERLAY_SOCK",
    "RON_STORAGE_SOCK",
    "RON_HTTP_ADDR",
    "RON_METRICS_ADDR",
    "RON_RUN_DIR",
    "RON_OTEL_ENDPOINT",
];

const UNSET_BY_NOTHING: [&str; 3] = ["RUST_LOG", "RON_LOG", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// A host's configuration: its own keys and the kernel's.
pub trait HostSettings: Settings {
    /// The kernel's part.
    fn kernel(&self) -> &ron_kernel::Config;
    /// The kernel's part, to be set.
    fn kernel_mut(&mut self) -> &mut ron_kernel::Config;
}

/// Declares the kernel's keys in a host's schema, `log.level` with its check.
pub fn kernel_keys<T: HostSettings>(schema: &mut Schema<T>) {
    schema.include(T::kernel_mut);
    schema.check(&["log.level"], |settings: &T| {
        check_directives(&settings.kernel().log.level)
    });
}

/// A host program.
#[derive(Debug)]
pub struct Program<T> {
    name: &'static str,
    version: &'static str,
    service: &'static str,
    about: &'static str,
    short: &'static [(&'static str, &'static str, &'static str)],
    defaults: T,
    sealed: bool,
}

impl<T: HostSettings> Program<T> {
    /// A program of this name and version, with the defaults of `T`. Its service has the same name.
    pub fn new(name: &'static str, version: &'static str) -> Program<T> {
        Program {
            name,
            version,
            service: name,
            about: "",
            short: &[],
            defaults: T::default(),
            sealed: false,
        }
    }

    /// The name in logs, metrics and events, and of the default file `/etc/ron/SERVICE.toml`.
    pub fn service(mut self, service: &'static str) -> Program<T> {
        self.service = service;
        self
    }

    /// One line for `--help`.
    pub fn about(mut self, about: &'static str) -> Program<T> {
        self.about = about;
        self
    }

    /// Other names of keys, as `(flag, variable, key)`: flags as `--http-addr`, and a variable or nothing.
    pub fn short(
        mut self,
        names: &'static [(&'static str, &'static str, &'static str)],
    ) -> Program<T> {
        self.short = names;
        self
    }

    /// Replaces the defaults of `T`.
    pub fn defaults(mut self, defaults: T) -> Program<T> {
        self.defaults = defaults;
        self
    }

    /// Lets the system enforce `amnesia.enabled`: with it, neither this process nor one that it starts can write, make or
    /// remove files, but for the control plane's socket and one of [`Front`]'s, and no core of it is dumped. The log's line `amnesia` and
    /// `features.landlock` in `/version` say what was reached.
    ///
    /// For hosts whose children are tasks and threads. Where the configuration asks for processes, which may have to
    /// write, only core dumps of this process are off, and the line says why.
    pub fn sealed(mut self) -> Program<T> {
        self.sealed = true;
        self
    }

    /// Does what the command line says; without a command, runs the kernel that `children` completes.
    ///
    /// The builder comes with name, identity and configuration set. `children` is also called for `config
    /// validate`, which builds the kernel and starts nothing; it must have no effect but the builder.
    pub fn run(
        self,
        children: impl FnOnce(KernelBuilder, &Loaded<T>) -> KernelBuilder,
    ) -> ExitCode {
        self.run_on(None, |kernel, loaded, _| children(kernel, loaded))
    }

    /// [`run`](Self::run) with the [`Front`] of the settings that `http` finds, opened before anything starts: an address in
    /// use ends the program with 98. For `config validate` it is [checked](Front::check) and not opened.
    ///
    /// With `observability.addr` or `observability.expose_http` the kernel serves the admin routes at that address, and
    /// `/metrics` there only: it tells more of a node than its clients have to know.
    pub fn run_http(
        self,
        http: fn(&T) -> &HttpSettings,
        children: impl FnOnce(KernelBuilder, &Loaded<T>, Front) -> KernelBuilder,
    ) -> ExitCode {
        self.run_on(Some(http), children)
    }

    fn run_on(
        self,
        http: Option<fn(&T) -> &HttpSettings>,
        children: impl FnOnce(KernelBuilder, &Loaded<T>, Front) -> KernelBuilder,
    ) -> ExitCode {
        let schema = match Schema::<T>::of() {
            Ok(schema) => schema,
            Err(errors) => return self.refuse(&errors.to_string(), 1),
        };
        let mut args = std::env::args_os().skip(1).peekable();
        if args.next_if(|first| first == "ctl").is_some() {
            return crate::ctl::main(args, Some(self.service));
        }
        let invocation = match cli::parse(args, &schema.paths()) {
            Ok(invocation) => invocation,
            Err(error) => return self.refuse(&error.to_string(), USAGE),
        };
        let Invocation {
            command,
            config,
            flags,
        } = invocation;
        let flags = self.spelled_out(flags);
        let loader = self.loader();
        match command {
            Command::Help => self.help(),
            Command::Version => {
                let (build, rustc) = (env!("HOST_BUILD"), env!("HOST_RUSTC"));
                print(&format!(
                    "{} {} (build {build}, {rustc})\n",
                    self.name, self.version
                ))
            }
            Command::Schema => match loader.load() {
                Ok(loaded) => print(&format!("{:#}\n", loaded.schema())),
                Err(errors) => self.refuse_config(&errors),
            },
            Command::Validate { path } => match loader.file(&path).flags(flags).load() {
                Ok(loaded) => {
                    let checked = http.map_or(Ok(()), |http| {
                        let settings = loaded.snapshot();
                        Front::check(http(&settings), settings.kernel().pq.mode)
                    });
                    self.validated(&path, &loaded, checked, |kernel, loaded| {
                        children(kernel, loaded, Front::default())
                    })
                }
                Err(errors) => self.refuse(&errors.to_string(), USAGE),
            },
            Command::Print { json } => match self.with_environment(loader, config, flags).load() {
                Ok(loaded) if json => print(&format!("{:#}\n", loaded.print().to_json())),
                Ok(loaded) => print(&loaded.print().to_string()),
                Err(errors) => self.refuse_config(&errors),
            },
            Command::Run => match self.with_environment(loader, config, flags).load() {
                Ok(loaded) => self.start(loaded, http, children),
                Err(errors) => self.refuse_config(&errors),
            },
        }
    }

    fn spelled_out(&self, flags: Vec<(String, String)>) -> Vec<(String, String)> {
        let spell = |(flag, value): (String, String)| {
            let known = self.short.iter().find(|(short, ..)| *short == flag);
            (known.map_or(flag, |(.., key)| format!("--{key}")), value)
        };
        let mut flags: Vec<_> = flags.into_iter().map(spell).collect();
        let sets = |key: &str| {
            let mut names = flags.iter().map(|(flag, _)| flag.replace('-', "_"));
            names.any(|flag| flag.trim_start_matches('_') == key)
        };
        // As the variable does: who names the address wants to be answered there.
        if sets("observability.addr") && !sets("observability.expose_http") {
            flags.push(("--observability.expose_http".to_owned(), "true".to_owned()));
        }
        flags
    }

    fn default_file(&self) -> PathBuf {
        PathBuf::from(format!("/etc/ron/{}.toml", self.service))
    }

    fn loader(&self) -> Loader<T> {
        let loader = Loader::new(self.service)
            .defaults(self.defaults.clone())
            .alias("RON_AMNESIA", "amnesia.enabled");
        let variables = self
            .short
            .iter()
            .filter(|(_, variable, _)| !variable.is_empty());
        variables.fold(loader, |loader, (_, variable, key)| {
            loader.alias(variable, key)
        })
    }

    fn with_environment(
        &self,
        loader: Loader<T>,
        config: Option<PathBuf>,
        flags: Vec<(String, String)>,
    ) -> Loader<T> {
        // A variable set to nothing is how a unit file or a shell unsets a filter, and the same says OpenTelemetry of its own.
        let unset = |(name, value): &(OsString, OsString)| {
            value.is_empty() && UNSET_BY_NOTHING.iter().any(|known| name == known)
        };
        let loader = loader
            .file_env("RON_CONFIG")
            .default_file(self.default_file())
            .siblings(SIBLINGS)
            .env(std::env::vars_os().filter(|pair| !unset(pair)))
            .flags(flags);
        match config {
            Some(path) => loader.file(path),
            None => loader,
        }
    }

    fn kernel(&self, loaded: &Loaded<T>, front: &Front, sealed: Option<&Seal>) -> KernelBuilder {
        let mut identity = Identity::new("", self.version);
        identity.build = env!("HOST_BUILD").to_owned();
        identity.rustc = env!("HOST_RUSTC").to_owned();
        if self.sealed {
            let full = sealed.is_some_and(|sealed| sealed.landlock == Landlock::Full);
            identity.features.insert("landlock".to_owned(), full);
        }
        if front.addr().is_some() {
            let features = [
                ("dev_allow", front.is_open_to_all()),
                ("otel", front.otel.is_on()),
                ("tls", front.is_encrypted()),
            ];
            let features = features.map(|(name, on)| (name.to_owned(), on));
            identity.features.extend(features);
        }
        Kernel::builder()
            .name(self.service)
            .identity(identity)
            .loaded_with(loaded, |settings: &T| settings.kernel().clone())
    }

    fn start(
        self,
        loaded: Loaded<T>,
        http: Option<fn(&T) -> &HttpSettings>,
        children: impl FnOnce(KernelBuilder, &Loaded<T>, Front) -> KernelBuilder,
    ) -> ExitCode {
        let snapshot = loaded.snapshot();
        let pq = snapshot.kernel().pq.mode;
        let front = match http.map_or(Ok(Front::default()), |http| {
            Front::open(http(&snapshot), pq)
        }) {
            Ok(front) => front,
            Err(error) => return self.refuse(&error.to_string(), error.exit_code()),
        };
        let reloads = loaded.clone();
        // The files of the configuration in force are looked at, whatever came of the one that is on disk.
        let mut front = front.reloading(move || {
            let stats = reloads.reload_stats();
            stats.reloads + stats.errors
        });
        front.metrics_apart = snapshot.kernel().observability.expose_http;
        // Threads that are older would be free of it.
        let sealed = self.seal(&loaded, &front);
        let log = match Log::install(self.service, &snapshot.kernel().log) {
            Ok(log) => log,
            Err(error) => return self.refuse(&error.to_string(), error.exit_code()),
        };
        self.announce(&loaded);
        if let Some(sealed) = &sealed {
            tell_seal(sealed);
        }
        if pq == Pq::Hybrid && front.addr().is_some() && !front.is_encrypted() {
            tracing::warn!(
                event = "pq_without_tls",
                "pq.mode: hybrid has no effect, as connections are not encrypted (tls.cert and tls.key)"
            );
        }
        let watch = loaded.watch();
        let control = log_routes(Control::new(), &log);
        let level = Child::task("log-level", move |cx| {
            follow_level(cx, watch.clone(), log.clone())
        })
        .optional();
        let kernel = self.kernel(&loaded, &front, sealed.as_ref());
        let kernel = kernel.control(control).child(level);
        let kernel = match front.otel.child(self.service, self.version) {
            Some(otel) => kernel.child(otel),
            None => kernel,
        };
        children(kernel, &loaded, front).run()
    }

    fn seal(&self, loaded: &Loaded<T>, front: &Front) -> Option<Seal> {
        let settings = loaded.snapshot();
        let kernel = settings.kernel();
        if !self.sealed || !kernel.amnesia.enabled {
            return None;
        }
        if !kernel.services.is_empty() || !kernel.preset_services(loaded).is_empty() {
            let why = "the configuration has services, which would inherit it";
            return Some(seal_memory(why));
        }
        let sockets = kernel.control.dir.clone().unwrap_or_else(run_dir);
        Some(seal(&sockets, front.listener.dir().as_deref()))
    }

    /// What the log of a start must say before anything happens.
    fn announce(&self, loaded: &Loaded<T>) {
        let (program, version, build, rustc) = (
            self.name,
            self.version,
            env!("HOST_BUILD"),
            env!("HOST_RUSTC"),
        );
        let file = loaded.files().into_iter().next();
        let found = file.as_deref().is_some_and(Path::exists);
        let config = file
            .filter(|_| found)
            .map(|path| path.display().to_string());
        let (config_sha, pid) = (loaded.sha256(), std::process::id());
        let settings = loaded.snapshot();
        let amnesia = settings.kernel().amnesia.enabled;
        tracing::info!(
            event = "starting",
            version,
            build,
            rustc,
            pid,
            config,
            config_sha,
            amnesia,
            "{program} {version} starting"
        );
        if !found {
            let path = self.default_file().display().to_string();
            tracing::info!(
                event = "config_default",
                path,
                "no configuration file; defaults in force"
            );
        }
        for warning in loaded.warnings() {
            let (key, r#where) = (warning.key(), warning.place());
            tracing::warn!(
                event = "config_warning",
                key,
                r#where,
                "{}",
                one_line(&warning)
            );
        }
        for service in settings.kernel().preset_services(loaded) {
            let (child, program, socket) = (service.child, &*service.program, &*service.socket);
            tracing::info!(
                event = "preset_service",
                child,
                program,
                socket,
                "{service}"
            );
        }
        let chaos = &settings.kernel().chaos;
        if chaos.armed {
            let (target, fault) = (chaos.default_child.as_deref(), chaos.fault.name());
            tracing::warn!(
                event = "chaos_armed",
                default_child = target,
                fault,
                "chaos is armed: whoever may change the configuration can break children; never in production"
            );
        }
    }

    fn validated(
        &self,
        path: &Path,
        loaded: &Loaded<T>,
        checked: Result<(), FrontError>,
        children: impl FnOnce(KernelBuilder, &Loaded<T>) -> KernelBuilder,
    ) -> ExitCode {
        for warning in loaded.warnings() {
            to_stderr(&format!("warning: {}\n", one_line(&warning)));
        }
        if let Err(error) = checked {
            return self.refuse(&format!("{}: {error}", path.display()), error.exit_code());
        }
        // What only the kernel can say: a feature this build leaves out, a policy that contradicts itself.
        let kernel = self.kernel(loaded, &Front::default(), None);
        match children(kernel, loaded).build() {
            Ok(_) => print(&format!(
                "{}: valid, sha256 {}\n",
                path.display(),
                loaded.sha256()
            )),
            Err(error) => self.refuse(&format!("{}: {error}", path.display()), error.exit_code()),
        }
    }

    fn refuse(&self, problem: &str, code: u8) -> ExitCode {
        to_stderr(&format!("{}: {problem}\n", self.name));
        ExitCode::from(code)
    }

    /// One line a defect: a start is read in a journal, where lines stand alone.
    fn refuse_config(&self, errors: &ConfigErrors) -> ExitCode {
        let mut text = String::new();
        for diagnostic in errors {
            let _ = writeln!(text, "{}: {}", self.name, one_line(diagnostic));
        }
        if errors.omitted() > 0 {
            let _ = writeln!(
                text,
                "{}: {} more defects not shown",
                self.name,
                errors.omitted()
            );
        }
        to_stderr(&text);
        ExitCode::from(USAGE)
    }

    fn short_help(&self, loaded: &Loaded<T>) -> String {
        let printed = loaded.print();
        let line = |(flag, _, key): &(&str, &str, &str)| {
            let value = printed.values().iter().find(|value| value.key() == *key);
            let doc = value.map_or("", |value| value.doc());
            let flag = format!("{flag} VALUE");
            format!("      {flag:20} {key}: {doc}\n")
        };
        self.short.iter().map(line).collect()
    }

    fn help(&self) -> ExitCode {
        let Program {
            name,
            version,
            about,
            ..
        } = self;
        let loaded = match self.loader().load() {
            Ok(loaded) => loaded,
            Err(errors) => return self.refuse_config(&errors),
        };
        let mut text = format!(
            "\
{name} {version}: {about}

Usage:
  {name} [--config PATH] [--KEY VALUE]..   run until SIGTERM or SIGINT
  {name} config validate PATH              check a file, all defects at once, without the environment
  {name} config print [--json]             the configuration a start would use, each value with its origin
  {name} config schema                     the JSON Schema of the file
  {name} ctl COMMAND                       ask a running {name}: ps, tree, explain, top, tail, .. (see ctl --help)

Options:
  -c, --config PATH    the file; otherwise $RON_CONFIG, otherwise {default} if it exists
      --KEY VALUE      sets a key below, over environment and file, as in --bus.capacity 1024
      --set KEY=VALUE  the same
{short}  -V, --version
  -h, --help

Signals: SIGTERM and SIGINT stop in order, a second SIGINT after 0.5 s aborts, SIGHUP reloads the file.
Exit codes: 0 stopped in order, 2 configuration or usage, 98 address in use, 130 aborted by a second
SIGINT, 1 anything else.

Keys with their defaults and variables (* takes effect on reload, others at the next start):
",
            default = self.default_file().display(),
            short = self.short_help(&loaded),
        );
        for value in loaded.print().values() {
            let live = if value.reload().class() == "process" {
                ' '
            } else {
                '*'
            };
            let default = match value.value() {
                serde_json::Value::Null => "unset".to_owned(),
                value => value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned),
            };
            let assigned = format!("{} = {default}", value.key());
            let _ = writeln!(
                text,
                "{live} {assigned:44} {}\n      {}; {}",
                value.env().join(", "),
                value.doc(),
                value.expected()
            );
        }
        print(&text)
    }
}

/// What keeps this process from writing files.
fn tell_seal(sealed: &Seal) {
    let (landlock, why) = (sealed.landlock.name(), sealed.why.as_deref());
    let core_dumps = match &sealed.core_dumps {
        Ok(()) => "off".to_owned(),
        Err(error) => format!("on: {error}"),
    };
    let swap = match sealed.has_swap {
        Some(true) => "on",
        Some(false) => "off",
        None => "unknown",
    };
    let message = match (sealed.landlock, &sealed.core_dumps, sealed.has_swap) {
        (Landlock::Full, Ok(()), Some(false)) => {
            let message = "amnesia: the system refuses this process all writing of files";
            tracing::info!(event = "amnesia", landlock, core_dumps, swap, "{message}");
            return;
        }
        (Landlock::Full, Ok(()), Some(true)) => "amnesia: the system may write memory to its swap",
        (Landlock::Full, Ok(()), None) => {
            "amnesia: the system does not say whether it writes memory to a swap"
        }
        (Landlock::Full, Err(_), _) => "amnesia: the system may dump this process's memory",
        _ => "amnesia: the system does not refuse this process all writing of files",
    };
    tracing::warn!(
        event = "amnesia",
        landlock,
        why,
        core_dumps,
        swap,
        "{message}"
    );
}

/// Keeps the log filter in step with `log.level`.
async fn follow_level<T: HostSettings>(
    cx: ChildContext,
    mut settings: Watch<T>,
    log: Log,
) -> Result<(), String> {
    loop {
        log.set_level(&settings.get().kernel().log.level)?;
        tokio::select! {
            () = cx.stopping() => return Ok(()),
            () = log.watch() => {}
            changed = settings.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

/// How long a filter of an operator's lasts unless it says, and at most.
const FILTER_FOR: Duration = Duration::from_secs(600);
const FILTER_FOR_MAX: Duration = Duration::from_secs(24 * 3600);

/// `GET /v1/log`: the filter in force. `POST /v1/log {"filter","for_ms"}`: another for a while.
fn log_routes(control: Control, log: &Log) -> Control {
    let (asked, set) = (log.clone(), log.clone());
    control
        .route(Method::Get, "/v1/log", move |_| {
            Ok(filter_json(&asked.filter()))
        })
        .route(Method::Post, "/v1/log", move |request| {
            let (filter, lasts) = wanted_filter(&request.body)?;
            let invalid = |error| Refused::new(422, "invalid", error);
            let filter = set.set_level_for(&filter, lasts).map_err(invalid)?;
            Ok(filter_json(&filter))
        })
}

fn filter_json(filter: &Filter) -> Json {
    let until = filter.until.map(ron_kernel::bus::rfc3339);
    serde_json::json!({"filter": filter.filter, "until": until, "standing": filter.standing})
}

fn wanted_filter(body: &Json) -> Result<(String, Duration), Refused> {
    let bad = |text: String| Refused::new(400, "bad_request", text);
    let members = body
        .as_object()
        .ok_or_else(|| bad("the body: expected {\"filter\",\"for_ms\"}".to_owned()))?;
    if let Some(unknown) = members
        .keys()
        .find(|key| !["filter", "for_ms"].contains(&key.as_str()))
    {
        return Err(bad(format!(
            "the body: unknown field `{unknown}`, expected filter or for_ms"
        )));
    }
    let filter = members
        .get("filter")
        .and_then(Json::as_str)
        .ok_or_else(|| bad("the body: `filter` is missing or no text".to_owned()))?;
    let lasts = match members.get("for_ms") {
        None | Some(Json::Null) => FILTER_FOR,
        Some(value) => {
            let lasts = value.as_u64().map(Duration::from_millis);
            let lasts = lasts.filter(|lasts| !lasts.is_zero() && *lasts <= FILTER_FOR_MAX);
            lasts.ok_or_else(|| {
                let max = FILTER_FOR_MAX.as_millis();
                Refused::new(
                    422,
                    "invalid",
                    format!("for_ms {value}: expected 1 to {max}"),
                )
            })?
        }
    };
    Ok((filter.to_owned(), lasts))
}

/// A diagnostic without its piece of source.
fn one_line(diagnostic: &Diagnostic) -> String {
    let mut line = format!("{}: ", diagnostic.place());
    // A flag or a defect of the whole file says it already.
    let key = diagnostic.key();
    if !key.is_empty() && key != diagnostic.place().trim_start_matches('-') {
        let _ = write!(line, "{}: ", diagnostic.key());
    }
    line.push_str(diagnostic.what());
    if let Some(expected) = diagnostic.what_is_expected() {
        let _ = write!(line, "; expected {expected}");
    }
    if let Some(meant) = diagnostic.did_you_mean() {
        let _ = write!(line, "; did you mean `{meant}`?");
    }
    line.replace('\n', " ")
}

fn print(text: &str) -> ExitCode {
    let mut stdout = std::io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Ok(()) => ExitCode::SUCCESS,
        // `| head` has read enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn to_stderr(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}
