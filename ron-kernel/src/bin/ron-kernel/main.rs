//! Runs a kernel from a configuration file, opens no port, and writes everything that happens as JSON lines
//! on stdout: bus events of topics `kernel` and `kernel.lifecycle` (`{"topic",...}`) between log lines
//! (`{"ts","level",...}`).
#![forbid(unsafe_code)]

mod arguments;
mod lines;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;

use ron_kernel::bus::{BusConfig, Tail};
use ron_kernel::configuration::{ConfigErrors, Loaded, Loader, Schema, Settings};
use ron_kernel::metrics::Identity;
use ron_kernel::{Bus, Config, Kernel, KernelBuilder, LogFormat};

use arguments::{Arguments, Command};
use lines::{Filter, Lines};

const SERVICE: &str = "ron-kernel";
const VERSION: &str = env!("CARGO_PKG_VERSION");
const DEFAULT_FILE: &str = "/etc/ron/ron-kernel.toml";
/// Exit code for configuration and usage.
const USAGE: u8 = 2;

/// Variables of programs that may share this one's environment: names, or prefixes ending in `_`.
const SIBLINGS: [&str; 5] = [
    "RON_DEMO_",
    "RON_HTTP_ADDR",
    "RON_METRICS_ADDR",
    "RON_RUN_DIR",
    "RON_OTEL_ENDPOINT",
];

const HELP: &str = "
Usage:
  ron-kernel [--config PATH] [--KEY VALUE]..   run until SIGTERM or SIGINT, events and log as JSON lines on stdout
  ron-kernel config validate PATH              check a file, all defects at once, without the environment
  ron-kernel config print                      the configuration a start would use, each value with its origin

Options:
  -c, --config PATH   the file; otherwise $RON_CONFIG, otherwise /etc/ron/ron-kernel.toml if it exists
      --KEY VALUE     sets a key of the configuration, over environment and file, as in --bus.capacity 1024
  -V, --version
  -h, --help

Processes: a build with the feature `process` runs the [[service]] tables of the file as children, and svc-index,
svc-overlay and svc-storage if preset = \"rustyonions\" or any RON_SVC_{INDEX,OVERLAY,STORAGE}_BIN or
RON_{INDEX,OVERLAY,STORAGE}_SOCK is set.

Signals: SIGTERM and SIGINT stop in order, a second SIGINT after 0.5 s aborts, SIGHUP reloads the file.
Exit codes: 0 stopped in order, 2 configuration or usage, 130 aborted by a second SIGINT, 1 anything else.
`ron-kernel config print` lists the keys; this program opens no port, ron-kernel-demo does.
";

/// The kernel's configuration, less what this program cannot do.
#[derive(Clone, Default)]
struct Runner {
    kernel: Config,
}

impl Settings for Runner {
    fn schema(schema: &mut Schema<Self>) {
        schema.include(|runner: &mut Runner| &mut runner.kernel);
        Config::preset_keys(schema, |runner| &mut runner.kernel);
        schema.check(&["log.level"], |runner: &Runner| {
            Filter::parse(&runner.kernel.log.level).map(drop)
        });
        schema.check(&["log.format"], |runner: &Runner| {
            match runner.kernel.log.format {
                LogFormat::Json => Ok(()),
                _ => Err(
                    "every line of ron-kernel's output is JSON; set json, or use ron-kernel-demo"
                        .to_owned(),
                ),
            }
        });
    }
}

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args_os().skip(1)) {
        Ok(arguments) => arguments,
        Err(problem) => return refuse(&problem, USAGE),
    };
    let loader = Loader::<Runner>::new(SERVICE)
        .alias("RON_AMNESIA", "amnesia.enabled")
        .flags(arguments.flags);
    match arguments.command {
        Command::Help => print(&format!(
            "ron-kernel {VERSION}: runs a kernel from a configuration file, without a port\n{HELP}"
        )),
        Command::Version => print(&format!("ron-kernel {VERSION}\n")),
        Command::Validate(path) => match loader.file(&path).load() {
            Ok(loaded) => validated(&path, &loaded),
            Err(errors) => refuse(&errors.to_string(), USAGE),
        },
        Command::Print => match with_environment(loader, arguments.config.as_deref()).load() {
            Ok(loaded) => print(&loaded.print().to_string()),
            Err(errors) => refuse_config(&errors),
        },
        Command::Run => match with_environment(loader, arguments.config.as_deref()).load() {
            Ok(loaded) => run(&loaded),
            Err(errors) => refuse_config(&errors),
        },
    }
}

fn with_environment(loader: Loader<Runner>, config: Option<&Path>) -> Loader<Runner> {
    // A variable set to nothing is how a unit file or a shell unsets a filter.
    let unset = |(name, value): &(OsString, OsString)| {
        value.is_empty() && (name == "RUST_LOG" || name == "RON_LOG")
    };
    let loader = loader
        .file_env("RON_CONFIG")
        .default_file(DEFAULT_FILE)
        .siblings(SIBLINGS)
        .env(std::env::vars_os().filter(|pair| !unset(pair)));
    match config {
        Some(path) => loader.file(path),
        None => loader,
    }
}

fn kernel(loaded: &Loaded<Runner>) -> KernelBuilder {
    Kernel::builder()
        .name(SERVICE)
        .identity(Identity::new("", VERSION))
        .loaded_with(loaded, |runner: &Runner| runner.kernel.clone())
}

fn run(loaded: &Loaded<Runner>) -> ExitCode {
    let config = loaded.snapshot();
    let filter = match Filter::parse(&config.kernel.log.level) {
        Ok(filter) => Arc::new(filter),
        Err(problem) => return refuse(&format!("log.level: {problem}"), USAGE),
    };
    Lines::install(SERVICE, filter.clone());
    announce(loaded);
    let settings = BusConfig::default()
        .capacity(config.kernel.bus.capacity)
        .instance(ron_kernel::instance());
    let bus = match Bus::new(settings) {
        Ok(bus) => bus,
        Err(error) => return refuse(&error.to_string(), USAGE),
    };
    // Opened before anything is published, so that it shows everything.
    let tail = match bus.tail("kernel") {
        Ok(tail) => tail,
        Err(error) => return refuse(&error.to_string(), 1),
    };
    let follower = match follow(tail, filter, loaded.clone()) {
        Ok(follower) => follower,
        Err(error) => {
            return refuse(
                &format!("starting the thread that prints events: {error}"),
                1,
            )
        }
    };
    let code = kernel(loaded).bus(bus.clone()).run();
    // Closed already unless the kernel could not start; the tail ends once it has read everything.
    bus.close();
    let _ = follower.join();
    code
}

/// Prints events until the bus is closed and read. Runs apart from the kernel, so that the last events get
/// out after the last child has stopped; a full pipe makes it lag, which shows as lag lines.
fn follow(
    mut tail: Tail,
    filter: Arc<Filter>,
    loaded: Loaded<Runner>,
) -> std::io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    std::thread::Builder::new()
        .name("ron-events".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                while let Some(line) = tail.next().await {
                    lines::write(line.as_str());
                    // A new level comes with a `ConfigUpdated`.
                    if let Err(problem) = filter.set(&loaded.snapshot().kernel.log.level) {
                        tracing::error!(event = "log_level", problem, "log.level stays as it was");
                    }
                }
            });
        })
}

fn announce(loaded: &Loaded<Runner>) {
    let file = loaded
        .files()
        .into_iter()
        .next()
        .filter(|path| path.exists());
    let config = file.as_ref().map(|path| path.display().to_string());
    let (config_sha, pid, version) = (loaded.sha256(), std::process::id(), VERSION);
    tracing::info!(
        event = "starting",
        version,
        pid,
        config,
        config_sha,
        "ron-kernel {version} starting"
    );
    if config.is_none() {
        tracing::info!(
            event = "config_default",
            path = DEFAULT_FILE,
            "no configuration file; defaults in force"
        );
    }
    for warning in loaded.warnings() {
        tracing::warn!(
            event = "config_warning",
            key = warning.key(),
            r#where = warning.place(),
            "{}",
            warning.what()
        );
    }
    let snapshot = loaded.snapshot();
    for service in snapshot.kernel.preset_services(loaded) {
        let (child, program, socket) = (service.child, &*service.program, &*service.socket);
        tracing::info!(
            event = "preset_service",
            child,
            program,
            socket,
            "{service}"
        );
    }
    let chaos = &snapshot.kernel.chaos;
    if chaos.armed {
        let (default_child, fault) = (chaos.default_child.as_deref(), chaos.fault.name());
        tracing::warn!(
            event = "chaos_armed",
            default_child,
            fault,
            "chaos is armed: faults can be injected"
        );
    }
}

fn validated(path: &Path, loaded: &Loaded<Runner>) -> ExitCode {
    for warning in loaded.warnings() {
        to_stderr(&format!("ron-kernel: warning: {warning}\n"));
    }
    // What only the kernel can say: a feature this build leaves out, a policy that contradicts itself.
    match kernel(loaded).build() {
        Ok(_) => print(&format!(
            "{}: valid, sha256 {}\n",
            path.display(),
            loaded.sha256()
        )),
        Err(error) => refuse(&format!("{}: {error}", path.display()), error.exit_code()),
    }
}

/// One line a defect: a start is read in a journal, where lines stand alone.
fn refuse_config(errors: &ConfigErrors) -> ExitCode {
    let mut text = String::new();
    for diagnostic in errors {
        let shown = diagnostic.to_string();
        text.push_str(&format!(
            "ron-kernel: {}\n",
            shown.split("\n  ").next().unwrap_or(&shown)
        ));
    }
    to_stderr(&text);
    ExitCode::from(USAGE)
}

fn refuse(problem: &str, code: u8) -> ExitCode {
    to_stderr(&format!("ron-kernel: {problem}\n"));
    ExitCode::from(code)
}

fn to_stderr(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
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
