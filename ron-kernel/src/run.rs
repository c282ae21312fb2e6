//! Running a kernel as a whole program: runtime, signals, panic hook, exit code.

use crate::kernel::{Driver, KernelBuilder, KernelError};
use crate::report::ShutdownReport;
use crate::supervisor::engine::Engine;
use crate::supervisor::{error_chain, panic_text, stall};
use std::future::Future;
use std::io;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, Once, PoisonError};
use std::task::Poll;
use std::time::Duration;
use tokio::signal::unix::{signal, Signal, SignalKind};
use tokio::time::Instant;

/// A second SIGINT this long after the first aborts; sooner it is the same key press.
const SECOND_SIGINT_AFTER: Duration = Duration::from_millis(500);
/// What the end of the process may take beyond the drain before the exit guard ends it by force.
const EXIT_SLACK: Duration = Duration::from_secs(1);
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
    /// Children run on a multi-threaded runtime of their own; supervision, signals and reloads run on the
    /// calling thread, so a blocked worker cannot hold up a restart or the shutdown.
    ///
    /// * SIGINT and SIGTERM shut down in order; a second SIGINT at least 500 ms later aborts with 130.
    /// * SIGHUP reloads a [`loaded`](Self::loaded) configuration.
    /// * A panic hook, chained before the one that was installed, gives panics of children their place.
    /// * The process ends within `drain.linger + drain.deadline` and one second, even if a child, a log
    ///   writer or a destructor hangs.
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
    let kernel = builder.build()?;
    install_panic_hook();
    if std::process::id() == 1 {
        tracing::warn!(
            event = "pid_1",
            "running as process 1: orphans are not reaped; start it under tini or with --init"
        );
    }
    let workers = tokio::runtime::Builder::new_multi_thread()
        .thread_name("ron-worker")
        .enable_all()
        .build()
        .map_err(start("the worker runtime"))?;
    let control = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(start("the control runtime"))?;
    let report = control.block_on(async {
        let signals = Signals::install().map_err(start("the signal handlers"))?;
        let driver = kernel.launch(workers.handle())?;
        Ok::<_, KernelError>(supervise(driver, signals).await)
    });
    // What leaked is still running and is left to the end of the process.
    workers.shutdown_background();
    report
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn install() -> io::Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

/// Drives the kernel and answers signals until the kernel has ended.
async fn supervise(driver: Driver, mut signals: Signals) -> ShutdownReport {
    let engine = driver.engine.clone();
    let reloader = driver.reloader.clone();
    let mut guard: Option<ExitGuard> = None;
    let mut interrupted: Option<Instant> = None;
    let mut driving = pin!(driver.run());
    let mut reloading: Option<tokio::task::JoinHandle<()>> = None;
    let report = std::future::poll_fn(|cx| {
        while signals.interrupt.poll_recv(cx).is_ready() {
            let now = Instant::now();
            match interrupted {
                Some(first) if now.duration_since(first) >= SECOND_SIGINT_AFTER => {
                    tracing::error!(
                        event = "aborted",
                        "second SIGINT: aborted without waiting for children"
                    );
                    std::process::exit(ABORTED);
                }
                Some(_) => {}
                None => {
                    interrupted = Some(now);
                    engine.request_shutdown("SIGINT");
                }
            }
        }
        while signals.terminate.poll_recv(cx).is_ready() {
            engine.request_shutdown("SIGTERM");
        }
        while signals.hangup.poll_recv(cx).is_ready() {
            match &reloader {
                Some(reloader) => {
                    let reloader = reloader.clone();
                    // ron-config runs reloads one after the other; only the last is worth joining.
                    reloading = Some(tokio::spawn(async move {
                        drop(reloader.reload("SIGHUP").await)
                    }));
                }
                None => tracing::warn!(
                    event = "reload",
                    "SIGHUP ignored: the configuration is fixed"
                ),
            }
        }
        if guard.is_none() && engine.shutdown_requested() {
            guard = Some(ExitGuard::start(&engine));
        }
        driving.as_mut().poll(cx)
    })
    .await;
    if let Some(reloading) = reloading {
        let _ = reloading.await;
    }
    if let Some(guard) = guard {
        guard.disarm();
    }
    report
}

/// Ends the process when the shutdown does not: a thread that nothing in the program can block.
struct ExitGuard {
    done: Arc<(Mutex<bool>, Condvar)>,
}

impl ExitGuard {
    fn start(engine: &Arc<Engine>) -> ExitGuard {
        let config = engine.config();
        let limit = config.drain.linger + config.drain.deadline + EXIT_SLACK;
        let done = Arc::new((Mutex::new(false), Condvar::new()));
        let seen = done.clone();
        let spawned = std::thread::Builder::new()
            .name("ron-exit-guard".to_owned())
            .spawn(move || {
                let guard = seen.0.lock().unwrap_or_else(PoisonError::into_inner);
                let (done, _) = seen
                    .1
                    .wait_timeout_while(guard, limit, |done| !*done)
                    .unwrap_or_else(PoisonError::into_inner);
                if !*done {
                    // Not through the log: its writer may be what hangs.
                    eprintln!("error: shutdown did not end within {limit:?}; exiting by force");
                    std::process::exit(1);
                }
            });
        if let Err(error) = spawned {
            tracing::warn!(event = "exit_guard", error = %error, "no exit guard: the exit deadline is not enforced");
        }
        ExitGuard { done }
    }

    fn disarm(self) {
        *self.done.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.done.1.notify_all();
    }
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
