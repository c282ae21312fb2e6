//! Building a kernel, starting it, and driving it to its end.

use crate::config::Config;
use crate::handle::KernelHandle;
use crate::reload::{Reloadable, Reloader};
use crate::report::ShutdownReport;
use crate::supervisor::engine::{Engine, Parts};
use crate::supervisor::machine::{Input, Machine, HORIZON};
use crate::supervisor::stall::Watchdog;
use crate::supervisor::{Child, Group, PolicyError, Spec, TreeError};
use crate::telemetry::{shielded, Telemetry, TokioClock};
use ron_bus::{Bus, BusConfig};
use ron_config::{Loaded, Settings};
use ron_metrics::{HealthState, Identity, Metrics};
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;

/// A supervision tree that is ready to start.
///
/// ```
/// use ron_kernel::supervisor::Child;
/// use ron_kernel::Kernel;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let kernel = Kernel::builder()
///     .child(Child::task("clock", |cx| async move { cx.stopping().await }))
///     .build()?;
/// let running = kernel.start().await?;
/// running.handle().ready().await;
/// let report = running.shutdown().await;
/// assert_eq!((report.started, report.stopped), (1, 1));
/// # Ok(())
/// # }
/// ```
pub struct Kernel {
    machine: Machine,
    parts: Parts,
    pub(crate) config: Arc<Config>,
    telemetry: Telemetry,
    reloader: Option<Arc<dyn Reloadable>>,
    rejected_reload_unready: bool,
    #[cfg(feature = "control")]
    control: Option<crate::control::Control>,
    /// Limits of open files for processes, where this one has raised its own.
    #[cfg(feature = "process")]
    pub(crate) nofile: Option<(u64, u64)>,
}

/// What goes into a [`Kernel`]; see [`Kernel::builder`].
pub struct KernelBuilder {
    service: String,
    identity: Option<Identity>,
    specs: Vec<Spec>,
    config: Config,
    reloader: Option<Arc<dyn Reloadable>>,
    rejected_reload_unready: bool,
    #[cfg(feature = "control")]
    control: Option<crate::control::Control>,
    bus: Option<Bus>,
    metrics: Option<Metrics>,
    seed: Option<u64>,
}

/// Why a kernel cannot be built or started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The children do not form a tree.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The restart policy contradicts itself.
    #[error("configuration: {0}")]
    Policy(#[from] PolicyError),
    /// A number of threads that a runtime cannot have.
    #[error("configuration: {key} is {value}; expected {least} to {most}")]
    Threads {
        /// The configuration key.
        key: &'static str,
        /// What it is.
        value: usize,
        /// The least it can be.
        least: usize,
        /// The most.
        most: usize,
    },
    /// The program is built with `panic = "abort"`: one panicking child would end all of them.
    #[error("built with panic = \"abort\", so a panicking child would end the process; build with panic = \"unwind\"")]
    PanicAbort,
    /// The control socket cannot be opened where the configuration or the program says.
    #[cfg(feature = "control")]
    #[error(transparent)]
    Control(#[from] crate::control::SocketError),
    /// The configuration asks for something this build leaves out.
    #[error(
        "`{key}` is set, but this build has no feature `{feature}`; build with it or unset the key"
    )]
    NeedsFeature {
        /// The configuration key.
        key: &'static str,
        /// The cargo feature of ron-kernel.
        feature: &'static str,
    },
    /// The bus does not accept its settings.
    #[error("bus: {0}")]
    Bus(#[from] ron_bus::BusError),
    /// The bus that was passed in has a topic of the kernel's with other settings.
    #[error("bus: {0}")]
    Topic(#[from] ron_bus::TopicError),
    /// The service name is no metric label value, or a golden metric exists already.
    #[error("metrics: {0}")]
    Metrics(#[from] ron_metrics::MetricsError),
    /// The admin listener cannot have its address.
    #[cfg(feature = "serve")]
    #[error(transparent)]
    Bind(#[from] ron_metrics::BindError),
    /// A configured service cannot have an address of its own.
    #[cfg(feature = "process")]
    #[error(transparent)]
    Listen(#[from] crate::config::ListenError),
    /// Certificate or key of the admin listener cannot be used.
    #[cfg(feature = "tls")]
    #[error(transparent)]
    Tls(#[from] ron_metrics::TlsError),
    /// Called outside a tokio runtime.
    #[error("no tokio runtime here; call it inside one, or use KernelBuilder::run")]
    NoRuntime,
    /// `run` was called inside a tokio runtime, whose thread it would block.
    #[error(
        "run() blocks its thread and cannot be called inside a tokio runtime; use start() there"
    )]
    InsideRuntime,
    /// A thread or runtime could not be started.
    #[error("starting {what}: {source}")]
    Start {
        /// What could not be started.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

impl KernelError {
    /// The exit code hosts end with: 2 for configuration and usage, 98 for an address in use, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            KernelError::Tree(_)
            | KernelError::Policy(_)
            | KernelError::Threads { .. }
            | KernelError::PanicAbort
            | KernelError::NeedsFeature { .. }
            | KernelError::Bus(_)
            | KernelError::Topic(_)
            | KernelError::Metrics(_) => 2,
            #[cfg(feature = "serve")]
            KernelError::Bind(error) if error.is_addr_in_use() => 98,
            #[cfg(feature = "serve")]
            KernelError::Bind(_) => 1,
            #[cfg(feature = "process")]
            KernelError::Listen(error) if error.is_addr_in_use() => 98,
            #[cfg(feature = "process")]
            KernelError::Listen(_) => 1,
            #[cfg(feature = "tls")]
            KernelError::Tls(_) => 2,
            #[cfg(feature = "control")]
            KernelError::Control(_) => 2,
            KernelError::NoRuntime | KernelError::InsideRuntime | KernelError::Start { .. } => 1,
        }
    }
}

impl Kernel {
    /// An empty kernel named `ron-kernel` with the default configuration.
    pub fn builder() -> KernelBuilder {
        KernelBuilder {
            service: "ron-kernel".to_owned(),
            identity: None,
            specs: Vec::new(),
            config: Config::default(),
            reloader: None,
            rejected_reload_unready: false,
            #[cfg(feature = "control")]
            control: None,
            bus: None,
            metrics: None,
            seed: None,
        }
    }

    /// Starts the tree on the current runtime and returns once every child that may start has been
    /// started; [`KernelHandle::ready`] waits for readiness. Installs no signal handler and no hook.
    ///
    /// # Errors
    ///
    /// [`KernelError::NoRuntime`], a taken admin address, or no thread for the watchdog.
    pub async fn start(self) -> Result<Running, KernelError> {
        let runtime = Handle::try_current().map_err(|_| KernelError::NoRuntime)?;
        let driver = self.launch(&runtime)?;
        let handle = KernelHandle::new(driver.engine.clone());
        let driver = runtime.spawn(driver.run());
        Ok(Running {
            handle,
            driver: Some(driver),
        })
    }

    /// Starts the tree, waits for `future` or for the kernel to end by itself, and shuts down in order.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    ///
    /// # Cancel safety
    ///
    /// Dropping the returned future begins the shutdown without waiting for it.
    pub async fn run_until<F: Future>(self, future: F) -> Result<ShutdownReport, KernelError> {
        let running = self.start().await?;
        {
            let mut future = pin!(future);
            let handle = running.handle().clone();
            let mut ended = pin!(handle.ended());
            std::future::poll_fn(|cx| {
                let done =
                    future.as_mut().poll(cx).is_ready() || ended.as_mut().poll(cx).is_ready();
                if done {
                    std::task::Poll::Ready(())
                } else {
                    std::task::Poll::Pending
                }
            })
            .await;
        }
        Ok(running.shutdown().await)
    }

    #[cfg(feature = "process")]
    pub(crate) fn has_processes(&self) -> bool {
        let kind = |key: &u32| self.machine.node(*key).kind;
        self.parts
            .keys
            .iter()
            .any(|key| kind(key) == crate::supervisor::Kind::Process)
    }

    /// Everything up to and including the start of the children.
    pub(crate) fn launch(self, runtime: &Handle) -> Result<Driver, KernelError> {
        let start = |what| move |source| KernelError::Start { what, source };
        #[cfg(feature = "serve")]
        let admin = crate::admin::serve(&self.config, &self.telemetry.metrics)?;
        let parts = self.parts;
        #[cfg(feature = "process")]
        let parts = with_sockets(parts, &self.config)?;
        let engine = Engine::new(
            self.machine,
            parts,
            self.config,
            runtime.clone(),
            self.telemetry,
        );
        // What may fail comes before what has to be taken back.
        #[cfg(feature = "control")]
        let control = match self.control {
            Some(control) => control.serve(&engine)?,
            None => None,
        };
        let watchdog = Watchdog::start(Arc::downgrade(&engine), engine.id())
            .map_err(start("the watchdog thread"))?;
        let weak = Arc::downgrade(&engine);
        engine.telemetry.feed_children(move || {
            weak.upgrade()
                .map(|engine| engine.read(|machine| *machine.counts()))
        });
        #[cfg(feature = "process")]
        {
            if let Some(limits) = self.nofile {
                engine.spawner().set_nofile(limits);
            }
            let weak = Arc::downgrade(&engine);
            engine.telemetry.feed_processes(move || {
                let engine = weak.upgrade();
                engine.map_or_else(Vec::new, |engine| engine.spawner().processes())
            });
        }
        // From the workers, so that /livez knows whether they still poll.
        let weak = Arc::downgrade(&engine);
        let beat = runtime.spawn(async move {
            while let Some(engine) = weak.upgrade() {
                engine.telemetry.health.beat();
                shielded(|| engine.telemetry.watch_lag());
                shielded(|| engine.telemetry.remind_unready(engine.now()));
                #[cfg(feature = "process")]
                shielded(|| engine.tell_containment());
                drop(engine);
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let reloader = self.reloader.map(|source| {
            Reloader::start(
                &engine,
                source,
                self.rejected_reload_unready,
                runtime,
                #[cfg(feature = "serve")]
                admin.as_ref().and_then(crate::admin::Admin::tls),
            )
        });
        #[cfg(feature = "control")]
        engine.telemetry.remember_start();
        engine.launch();
        engine.telemetry.started();
        let guard = Abandoned {
            engine: Some(engine.clone()),
            beat: beat.abort_handle(),
        };
        Ok(Driver {
            guard,
            engine,
            watchdog,
            beat,
            reloader,
            #[cfg(feature = "serve")]
            admin,
            #[cfg(feature = "control")]
            control,
        })
    }
}

impl KernelBuilder {
    /// The name of the service in metrics, events and the control plane; default `ron-kernel`.
    pub fn name(mut self, service: impl Into<String>) -> Self {
        self.service = service.into();
        self
    }

    /// What `/version` and `ron_kernel_info` say beside the service's name. Instance, amnesia and pq are
    /// filled in from the bus and the configuration, and features from those of this crate, where it names none of
    /// their name.
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// A fixed configuration. [`loaded`](Self::loaded) gives one that can be reloaded.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self.reloader = None;
        self
    }

    /// A loaded configuration: its reloads are carried out, reported and announced by the kernel.
    pub fn loaded(self, loaded: &Loaded<Config>) -> Self {
        self.loaded_with(loaded, Clone::clone)
    }

    /// As [`loaded`](Self::loaded) for a host's own configuration that contains the kernel's.
    pub fn loaded_with<T: Settings>(mut self, loaded: &Loaded<T>, part: fn(&T) -> Config) -> Self {
        let reloader = crate::reload::Part::new(loaded.clone(), part);
        self.config = reloader.config();
        self.reloader = Some(Arc::new(reloader));
        self
    }

    /// Whether a rejected reload makes the service not ready (503) instead of degraded (200); default no.
    pub fn rejected_reload_unready(mut self, unready: bool) -> Self {
        self.rejected_reload_unready = unready;
        self
    }

    /// Opens the control plane when the kernel starts and closes it last of all.
    #[cfg(feature = "control")]
    pub fn control(mut self, control: crate::control::Control) -> Self {
        self.control = Some(control);
        self
    }

    /// Adds a child of the root.
    pub fn child(mut self, child: Child) -> Self {
        self.specs.push(Spec::Child(child));
        self
    }

    /// Adds a group of children.
    pub fn group(mut self, group: Group) -> Self {
        self.specs.push(Spec::Group(group));
        self
    }

    /// A bus to share with the rest of the program; default one of the kernel's own with `bus.capacity`.
    /// The kernel closes it at the end of the shutdown.
    pub fn bus(mut self, bus: Bus) -> Self {
        self.bus = Some(bus);
        self
    }

    /// Metrics to share with the rest of the program; default new ones. Their service name wins over
    /// [`name`](Self::name).
    pub fn metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// Fixes the jitter of restarts, for tests; default drawn at each start.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Checks everything that can be checked before anything runs.
    ///
    /// # Errors
    ///
    /// A duplicate or illegal name, an unknown `after`, a cycle; a configuration that contradicts itself
    /// or needs a feature this build leaves out; or `panic = "abort"`.
    pub fn build(self) -> Result<Kernel, KernelError> {
        if cfg!(panic = "abort") {
            return Err(KernelError::PanicAbort);
        }
        needed_features(&self.config)?;
        if let Some((key, value, range)) = self.config.runtime.defect() {
            let (least, most) = range.into_inner();
            return Err(KernelError::Threads {
                key,
                value,
                least,
                most,
            });
        }
        let seed = self.seed.unwrap_or_else(random_seed);
        let mut machine = Machine::new(self.config.defaults()?, seed);
        let mut bodies = Vec::new();
        let configured = self.config.children().map(Spec::Child);
        let blueprints = self
            .specs
            .into_iter()
            .chain(configured)
            .map(|spec| spec.split(&mut bodies))
            .collect();
        let keys = machine.insert(blueprints, true)?;
        let bus = match self.bus {
            Some(bus) => bus,
            None => {
                let settings = BusConfig::default()
                    .capacity(self.config.bus.capacity)
                    .instance(instance());
                Bus::new(settings)?
            }
        };
        let metrics = match self.metrics {
            Some(metrics) => metrics,
            None => Metrics::with_health(
                &self.service,
                HealthState::with_clock(TokioClock(Instant::now())),
            )?,
        };
        let mut identity = self
            .identity
            .unwrap_or_else(|| Identity::new("", env!("CARGO_PKG_VERSION")));
        identity.instance = bus.instance().to_owned();
        identity.amnesia = self.config.amnesia.enabled;
        identity.pq = self.config.pq.mode;
        identity.config_sha = self.reloader.as_ref().map(|reloader| reloader.sha256());
        for (feature, on) in [
            ("serve", cfg!(feature = "serve")),
            ("tls", cfg!(feature = "tls")),
            ("control", cfg!(feature = "control")),
            ("process", cfg!(feature = "process")),
        ] {
            identity.features.entry(feature.to_owned()).or_insert(on);
        }
        metrics.set_identity(identity);
        let telemetry = Telemetry::new(bus, metrics, &self.config)?;
        Ok(Kernel {
            machine,
            parts: Parts { keys, bodies },
            config: Arc::new(self.config),
            telemetry,
            reloader: self.reloader,
            rejected_reload_unready: self.rejected_reload_unready,
            #[cfg(feature = "control")]
            control: self.control,
            #[cfg(feature = "process")]
            nofile: None,
        })
    }
}

/// Opens the sockets of configured services. Their children are the last of the tree, with one body each.
#[cfg(feature = "process")]
fn with_sockets(mut parts: Parts, config: &Config) -> Result<Parts, KernelError> {
    let first = parts.bodies.len() - config.children().count();
    for (at, child) in config.listening()? {
        let mut body = Vec::new();
        Spec::Child(child).split(&mut body);
        parts.bodies.splice(first + at..=first + at, body);
    }
    Ok(parts)
}

fn needed_features(config: &Config) -> Result<(), KernelError> {
    if config.observability.expose_http && !cfg!(feature = "serve") {
        return Err(KernelError::NeedsFeature {
            key: "observability.expose_http",
            feature: "serve",
        });
    }
    if config.observability.tls_cert.is_some() && !cfg!(feature = "tls") {
        return Err(KernelError::NeedsFeature {
            key: "observability.tls_cert",
            feature: "tls",
        });
    }
    if let (Some(key), false) = (config.process_key(), cfg!(feature = "process")) {
        return Err(KernelError::NeedsFeature {
            key,
            feature: "process",
        });
    }
    if config.pq.mode != ron_metrics::Pq::Off && !cfg!(feature = "pq") {
        return Err(KernelError::NeedsFeature {
            key: "pq.mode",
            feature: "pq",
        });
    }
    Ok(())
}

/// A name for this run of this process that tells replicas and restarts apart: process id and time. What a
/// kernel without a [`bus`](KernelBuilder::bus) of the caller's gives its own; give it to yours.
///
/// No two calls in one process give the same.
pub fn instance() -> String {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0));
    // Relaxed: only that it moves matters.
    let last = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
        Some(now.max(last + 1))
    });
    let millis = last.map_or(now, |last| now.max(last + 1));
    format!("{:x}-{millis:x}", std::process::id())
}

/// Jitter needs to differ between processes, no more; the hasher's keys do.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
}

/// A started kernel on the caller's runtime. Dropping it begins the orderly shutdown without waiting.
#[derive(Debug)]
pub struct Running {
    handle: KernelHandle,
    driver: Option<JoinHandle<ShutdownReport>>,
}

impl Running {
    /// A handle that can be cloned and passed around.
    pub fn handle(&self) -> &KernelHandle {
        &self.handle
    }

    /// Shuts down in order and waits for the end.
    pub async fn shutdown(mut self) -> ShutdownReport {
        self.handle.shutdown();
        let report = self.handle.ended().await;
        if let Some(driver) = self.driver.take() {
            let _ = driver.await;
        }
        report
    }

    /// Waits until the kernel has ended by itself: a child's policy or [`KernelHandle::shutdown`].
    pub async fn ended(mut self) -> ShutdownReport {
        let report = self.handle.ended().await;
        if let Some(driver) = self.driver.take() {
            let _ = driver.await;
        }
        report
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.driver.is_some() {
            self.handle.shutdown();
        }
    }
}

/// How long the end waits for the last news to be told.
const TELL_TIMEOUT: Duration = Duration::from_secs(1);

/// Fires the timers of a started kernel and takes it through its shutdown.
pub(crate) struct Driver {
    pub(crate) engine: Arc<Engine>,
    watchdog: Watchdog,
    beat: JoinHandle<()>,
    guard: Abandoned,
    pub(crate) reloader: Option<Arc<Reloader>>,
    #[cfg(feature = "serve")]
    admin: Option<crate::admin::Admin>,
    #[cfg(feature = "control")]
    control: Option<crate::control::Server>,
}

/// A driver that is dropped before its end leaves nobody waiting and no thread unstopped.
struct Abandoned {
    engine: Option<Arc<Engine>>,
    beat: AbortHandle,
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        if let Some(engine) = self.engine.take() {
            self.beat.abort();
            engine.abandon("the runtime that drove the kernel was shut down");
        }
    }
}

impl Driver {
    pub(crate) async fn run(self) -> ShutdownReport {
        let mut guard = self.guard;
        let engine = self.engine;
        engine.drive_until(None, Engine::shutdown_requested).await;
        let begun = Instant::now();
        let config = engine.config();
        shielded(|| {
            engine
                .telemetry
                .announce_shutdown(&engine.shutdown_reason())
        });
        if !config.drain.linger.is_zero() {
            engine
                .drive_until(Some(begun + config.drain.linger.min(HORIZON)), |_| false)
                .await;
        }
        engine.step(Input::Drain {
            within: config.drain.deadline,
        });
        engine
            .drive_until(None, |engine| engine.read(Machine::ended))
            .await;
        // A teller that is slow gets a moment; one that hangs does not keep the rest from ending.
        engine
            .drive_until(Some(Instant::now() + TELL_TIMEOUT), Engine::told_end)
            .await;
        let (accounts, failure) = engine.read(|machine| {
            (
                machine.accounts(),
                machine.failure().map(|failure| failure.to_string()),
            )
        });
        let report = ShutdownReport::new(accounts, begun.elapsed(), failure);
        shielded(|| log_report(&report));
        engine.drained(report.clone());
        engine.join_ended_threads();
        #[cfg(feature = "process")]
        close_spawner(&engine).await;
        #[cfg(feature = "process")]
        shielded(|| engine.tell_containment());
        engine.telemetry.close();
        self.beat.abort();
        let _ = self.beat.await;
        if let Some(reloader) = self.reloader {
            reloader.close().await;
        }
        self.watchdog.join();
        #[cfg(feature = "serve")]
        if let Some(admin) = self.admin {
            admin.close().await;
        }
        #[cfg(feature = "control")]
        if let Some(server) = self.control {
            server.close().await;
        }
        guard.engine = None;
        engine.finish(report.clone());
        report
    }
}

/// How long the guardian and the thread that starts processes may take to clear up.
#[cfg(feature = "process")]
const CLEAR_TIMEOUT: Duration = Duration::from_millis(600);

#[cfg(feature = "process")]
async fn close_spawner(engine: &Engine) {
    if let Some(thread) = engine.spawner().close() {
        // A thread of its own, not the runtime's: that one would be waited for without limit.
        let (done, wait) = tokio::sync::oneshot::channel();
        let joiner = std::thread::Builder::new().spawn(move || {
            let _ = thread.join();
            let _ = done.send(());
        });
        if joiner.is_ok() {
            let _ = tokio::time::timeout(CLEAR_TIMEOUT, wait).await;
        }
    }
}

fn log_report(report: &ShutdownReport) {
    let ShutdownReport {
        started,
        stopped,
        aborted,
        leaked,
        quarantined,
        ..
    } = *report;
    let took_ms = crate::event::millis(report.took);
    let stragglers = report.stragglers.join(", ");
    if let Some(reason) = &report.failure {
        tracing::error!(
            event = "gave_up",
            reason,
            "the kernel ends because a child's policy says so"
        );
    }
    if report.stragglers.is_empty() {
        tracing::info!(
            event = "shutdown_report",
            started,
            stopped,
            aborted,
            leaked,
            quarantined,
            took_ms,
            "shutdown complete"
        );
    } else {
        tracing::warn!(
            event = "shutdown_report",
            started,
            stopped,
            aborted,
            leaked,
            quarantined,
            took_ms,
            stragglers,
            "shutdown complete with stragglers"
        );
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for KernelBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelBuilder")
            .field("service", &self.service)
            .field("children", &self.specs.len())
            .finish_non_exhaustive()
    }
}
