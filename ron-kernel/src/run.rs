//! Running a kernel as a whole program: runtime, signals, panic hook, exit code.

use crate::config::{DrainConfig, RuntimeConfig};
use crate::kernel::{KernelBuilder, KernelError};
use crate::notify::Manager;
use crate::reload::Reloader;
use crate::report::ShutdownReport;
use crate::supervisor::engine::Engine;
use crate::supervisor::machine::HORIZON;
use crate::supervisor::{error_chain, panic_text, stall};
use std::future::Future;
use std::io;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once, OnceLock, Weak};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::{Handle, Runtime};
use tokio::signal::unix::{signal, Signal, SignalKind};
use tokio::sync::Notify;
use tokio::time::Instant;

/// A second SIGINT this long after the first aborts; sooner it is the same key press.
const SECOND_SIGINT_AFTER: Duration = Duration::from_millis(500);
/// What the end of the process may take beyond the drain before the exit guard ends it by force.
const EXIT_SLACK: Duration = Duration::from_secs(1);
/// How often the signal thread looks whether a shutdown that nobody signalled has begun.
const SIGNAL_TICK: Duration = Duration::from_millis(200);
/// What the last line may take.
const PRINT_FOR: Duration = Duration::from_millis(100);
/// Exit code after a second SIGINT, as shells give it to an interrupted process.
const ABORTED: i32 = 130;

/// Waits for SIGINT or SIGTERM, whichever comes first.
///
/// For programs that embed a kernel: `kernel.run_until(wait_for_ctrl_c())`.
///
/// # Errors
///
/// When the operating system refuses the signal handler.
///
/// # Cancel safety
///
/// Cancel safe, but the handlers stay installed: from the first call on, the default action of both
/// signals is gone.
pub async fn wait_for_ctrl_c() -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    std::future::poll_fn(|cx| {
        let came = interrupt.poll_recv(cx).is_ready() || terminate.poll_recv(cx).is_ready();
        if came {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    Ok(())
}

impl KernelBuilder {
    /// Builds the kernel and runs it as the whole program until it ends.
    ///
    /// Children run on a multi-threaded runtime of their own, with as many threads as `runtime.*` says; supervision,
    /// signals and reloads run on the calling thread, so a blocked worker cannot hold up a restart or the shutdown.
    ///
    /// * SIGINT and SIGTERM shut down in order; a second SIGINT at least 500 ms later aborts with 130.
    /// * SIGHUP reloads a [`loaded`](Self::loaded) configuration.
    /// * With feature `process`, the service manager that `NOTIFY_SOCKET` names is told of readiness, of reloads by
    ///   SIGHUP, of the drain, and, twice in `WATCHDOG_USEC`, that supervision and workers live.
    /// * A panic hook, chained before the one that was installed, gives panics of children their place.
    /// * The process ends within `drain.linger + drain.deadline` and about one second, even if a child, a
    ///   log writer or a destructor hangs: a thread that does nothing else sees to that.
    ///
    /// Inside a tokio runtime this is an error: the calling thread is needed.
    ///
    /// Exit codes: 0 after an orderly shutdown, stragglers included; 2 for configuration; 98 for an
    /// address in use; 1 when a child's policy ended the kernel, and for everything else.
    pub fn run(self) -> ExitCode {
        match run(self) {
            Ok(report) if report.failure.is_some() => ExitCode::FAILURE,
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => {
                report_error(&error);
                ExitCode::from(error.exit_code())
            }
        }
    }
}

/// One clear line: to the log where there is one, else to stderr.
fn report_error(error: &KernelError) {
    let text = error_chain(error);
    if tracing::dispatcher::has_been_set() {
        tracing::error!(
            event = "start_failed",
            exit_code = error.exit_code(),
            "{text}"
        );
    } else {
        eprintln!("error: {text}");
    }
}

fn run(builder: KernelBuilder) -> Result<ShutdownReport, KernelError> {
    let start = |what| move |source| KernelError::Start { what, source };
    if Handle::try_current().is_ok() {
        return Err(KernelError::InsideRuntime);
    }
    #[cfg_attr(not(feature = "process"), allow(unused_mut))] // Only processes need the limits.
    let mut kernel = builder.build()?;
    #[cfg(feature = "process")]
    {
        if kernel.has_processes() {
            kernel.nofile = raise_open_files();
        }
    }
    install_panic_hook();
    if std::process::id() == 1 {
        tracing::warn!(
            event = "pid_1",
            "running as process 1: orphans are not reaped; start it under tini or with --init"
        );
    }
    let workers = workers(&kernel.config.runtime).map_err(start("the worker runtime"))?;
    let control = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(start("the control runtime"))?;
    let signals = Signals::start().map_err(start("the signal thread"))?;
    let report = control.block_on(async {
        let driver = kernel.launch(workers.handle())?;
        let _ = signals.desk.engine.set(Arc::downgrade(&driver.engine));
        let health = driver.engine.telemetry.health.clone();
        let manager = manager();
        let informing = manager
            .clone()
            .map(|manager| tokio::spawn(manager.inform(health)));
        let reloads = tokio::spawn(reload_on_hangup(
            signals.desk.clone(),
            driver.reloader.clone(),
            manager,
        ));
        let report = driver.run().await;
        for task in [Some(reloads), informing].into_iter().flatten() {
            task.abort();
            let _ = task.await;
        }
        Ok::<_, KernelError>(report)
    });
    // What leaked is still running and is left to the end of the process.
    workers.shutdown_background();
    control.shutdown_background();
    signals.finish();
    report
}

/// The runtime of the children; the log says how many threads it has.
fn workers(config: &RuntimeConfig) -> io::Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.thread_name("ron-worker").enable_all();
    builder.max_blocking_threads(config.blocking);
    if let Some(workers) = config.workers {
        builder.worker_threads(workers);
    }
    let runtime = builder.build()?;
    let (workers, blocking) = (runtime.metrics().num_workers(), config.blocking);
    tracing::info!(
        event = "runtime",
        workers,
        blocking,
        "{workers} worker threads, at most {blocking} for what blocks"
    );
    Ok(runtime)
}

/// Lets this process open as many files as it may: a process child needs four here. Gives back the limits as they
/// were, which children get: programs that use select(2) break above 1024.
#[cfg(feature = "process")]
fn raise_open_files() -> Option<(u64, u64)> {
    use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
    let before = getrlimit(Resource::Nofile);
    let (soft, hard) = (before.current?, before.maximum?);
    let raised = Rlimit {
        current: Some(hard),
        maximum: Some(hard),
    };
    (soft < hard && setrlimit(Resource::Nofile, raised).is_ok()).then_some((soft, hard))
}

/// The service manager, if one wants to hear.
fn manager() -> Option<Arc<Manager>> {
    match Manager::from_environment() {
        Ok(manager) => manager.map(Arc::new),
        Err(reason) => {
            tracing::warn!(
                event = "notify_unavailable",
                reason,
                "the service manager is not told of readiness"
            );
            None
        }
    }
}

async fn reload_on_hangup(
    desk: Arc<Desk>,
    reloader: Option<Arc<Reloader>>,
    manager: Option<Arc<Manager>>,
) {
    loop {
        desk.hangup.notified().await;
        if let Some(manager) = &manager {
            manager.reloading();
        }
        match &reloader {
            Some(reloader) => drop(reloader.reload("SIGHUP").await),
            None => tracing::warn!(
                event = "reload",
                "SIGHUP ignored: the configuration is fixed"
            ),
        }
        if let Some(manager) = &manager {
            manager.reloaded();
        }
    }
}

/// What the signal thread and the control thread tell each other.
#[derive(Default)]
struct Desk {
    /// Set once the kernel has started.
    engine: OnceLock<Weak<Engine>>,
    hangup: Notify,
    done: AtomicBool,
    wake: Notify,
}

/// A thread that answers signals and ends the process when the shutdown does not. It waits for no log
/// writer: one that hangs must not keep it from that.
struct Signals {
    desk: Arc<Desk>,
    thread: JoinHandle<()>,
}

impl Signals {
    fn start() -> io::Result<Signals> {
        let desk = Arc::new(Desk::default());
        let (installed, when_installed) = std::sync::mpsc::sync_channel(1);
        let answering = desk.clone();
        let thread = std::thread::Builder::new()
            .name("ron-signals".to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                let runtime = match runtime {
                    Ok(runtime) => runtime,
                    Err(error) => return drop(installed.send(Err(error))),
                };
                runtime.block_on(async {
                    match Handlers::install() {
                        Ok(handlers) => {
                            let _ = installed.send(Ok(()));
                            handlers.answer(&answering).await;
                        }
                        Err(error) => drop(installed.send(Err(error))),
                    }
                });
            })?;
        let gone = |_| io::Error::other("the signal thread ended");
        when_installed.recv().map_err(gone)??;
        Ok(Signals { desk, thread })
    }

    fn finish(self) {
        self.desk.done.store(true, Ordering::Release);
        self.desk.wake.notify_one();
        let _ = self.thread.join();
    }
}

struct Handlers {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Handlers {
    fn install() -> io::Result<Handlers> {
        Ok(Handlers {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn answer(mut self, desk: &Desk) {
        let mut interrupted: Option<Instant> = None;
        // What was asked before there was a kernel to ask.
        let mut reason: Option<&'static str> = None;
        let mut limit: Option<Instant> = None;
        while !desk.done.load(Ordering::Acquire) {
            let woken = desk.wake.notified();
            let mut woken = pin!(woken);
            let came = std::future::poll_fn(|cx| {
                let interrupt = self.interrupt.poll_recv(cx).is_ready();
                let terminate = self.terminate.poll_recv(cx).is_ready();
                let hangup = self.hangup.poll_recv(cx).is_ready();
                let woken = woken.as_mut().poll(cx).is_ready();
                if interrupt || terminate || hangup || woken {
                    Poll::Ready((interrupt, terminate, hangup))
                } else {
                    Poll::Pending
                }
            });
            let came = tokio::time::timeout(SIGNAL_TICK, came).await;
            let (interrupt, terminate, hangup) = came.unwrap_or_default();
            let now = Instant::now();
            if interrupt {
                match interrupted {
                    Some(first) if now.duration_since(first) >= SECOND_SIGINT_AFTER => {
                        let text = "second SIGINT: aborted without waiting for children";
                        exit_now(ABORTED, "aborted", text);
                    }
                    Some(_) => {}
                    None => {
                        interrupted = Some(now);
                        reason = reason.or(Some("SIGINT"));
                    }
                }
            }
            if terminate {
                reason = reason.or(Some("SIGTERM"));
            }
            if hangup {
                desk.hangup.notify_one();
            }
            let engine = desk.engine.get().and_then(Weak::upgrade);
            let mut stopping = reason.is_some();
            let mut drain = DrainConfig::default();
            // Without an engine the start itself hangs, and the defaults have to do.
            if let Some(engine) = engine {
                if let Some(reason) = reason {
                    engine.request_shutdown(reason);
                }
                stopping = engine.shutdown_requested();
                drain = engine.config().drain.clone();
            }
            if limit.is_none() && stopping {
                let allowed = drain.linger.saturating_add(drain.deadline).min(HORIZON);
                limit = Some(now + allowed + EXIT_SLACK);
            }
            if limit.is_some_and(|limit| now >= limit) {
                let text =
                    "shutdown did not end within drain.linger and drain.deadline; exiting by force";
                exit_now(1, "exit_by_force", text);
            }
        }
    }
}

/// Ends the process with a last line, even if nobody takes that line.
fn exit_now(code: i32, event: &'static str, text: &'static str) -> ! {
    let printer = std::thread::Builder::new().spawn(move || {
        if tracing::dispatcher::has_been_set() {
            tracing::error!(event, exit_code = code, "{text}");
        } else {
            eprintln!("error: {text}");
        }
    });
    if let Ok(printer) = printer {
        let begun = std::time::Instant::now();
        while !printer.is_finished() && begun.elapsed() < PRINT_FOR {
            std::thread::yield_now();
        }
    }
    std::process::exit(code);
}

/// Keeps text and place of a child's panic for its report, then calls the hook that was there before.
fn install_panic_hook() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let text = info
                .payload()
                .downcast_ref::<&'static str>()
                .map(|text| (*text).to_owned());
            let text = text.or_else(|| info.payload().downcast_ref::<String>().cloned());
            let location = info.location().map(ToString::to_string);
            if let Some(location) = location {
                stall::record_panic(text.unwrap_or_else(|| panic_text(&())), location);
            }
            previous(info);
        }));
    });
}
