//! Computes payouts over HTTP, and offline: `svc-rewarder --help`.

mod commands;
mod files;

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{CommandFactory as _, Parser as _};
use ron_host::{http, Program};
use ron_kernel::supervisor::{Child, ChildContext};
use ron_kernel::KernelBuilder;
use rustix::process::{getpid, kill_process, Signal};
use svc_ledger::service::Keeper;
use svc_ledger::writer::ledger;
use svc_rewarder::service::{routes, Config, Service};
use tokio::signal::unix::{signal, SignalKind};

use commands::Invocation;

/// What the runbook calls keys by, and what an operator types.
const SHORT: &[(&str, &str, &str)] = &[
    ("--http-addr", "HTTP_ADDR", "http.addr"),
    ("--metrics-addr", "METRICS_ADDR", "observability.addr"),
    ("--max-inflight", "MAX_INFLIGHT", "http.inflight"),
    ("--amnesia", "AMNESIA_MODE", "amnesia.enabled"),
    ("--ledger-ephemeral", "", "ledger.ephemeral"),
    ("--tls-cert", "", "tls.cert"),
    ("--tls-key", "", "tls.key"),
];

/// A long journal is read from its first entry to its last.
const OPENING: Duration = Duration::from_secs(600);
/// For what a run takes beyond the drain: a worker looks every few thousand events whether it should stop.
const WORKER_STOP: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let first = std::env::args().nth(1);
    let is_offline = first
        .as_deref()
        .is_some_and(|first| !first.starts_with('-') && !["config", "ctl"].contains(&first));
    if is_offline {
        return offline();
    }
    let ended = serve();
    if first
        .as_deref()
        .is_some_and(|first| ["--help", "-h"].contains(&first))
    {
        let offline = Invocation::command().render_help();
        let _ = write!(
            std::io::stdout(),
            "\nOffline, without a configuration:\n\n{offline}"
        );
    }
    ended
}

fn offline() -> ExitCode {
    // Wrong usage ends here, with exit code 2.
    let invocation = Invocation::parse();
    match commands::run(invocation.command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "svc-rewarder: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> ExitCode {
    Program::<Config>::new("svc-rewarder", env!("CARGO_PKG_VERSION"))
        .about("computes payouts from sealed inputs, and has a ledger settle each epoch once")
        .short(SHORT)
        .run_http(
            |config| &config.http,
            |kernel, loaded, front| {
                let (settings, config) = (loaded.snapshot(), loaded.watch());
                let (ledger, writer) = ledger(settings.ledger.queue);
                let keeper = Keeper::new(settings.ledger.clone(), ledger.clone(), writer);
                let runs = config.map(|config| config.rewarder.clone());
                // The schema has refused what cannot be followed.
                let Ok(service) = Service::new(runs, ledger) else {
                    return kernel;
                };
                let journal = Child::thread("journal", move |cx| keeper.run(&cx));
                let emitter = Child::task_with("emitter", Arc::clone(&service), |cx, service| {
                    service.emit(cx)
                });
                let emitter = emitter.after("journal").gated(OPENING);
                let emitter = emitter.stop_timeout(settings.kernel.drain.deadline);
                let kernel = kernel.child(journal.gated(OPENING)).child(emitter);
                let kernel = workers(kernel, &service, settings.rewarder.workers);
                let http = config.map(|config| config.http.clone());
                let http = http::child(front, http, move |metrics| Ok(routes(&service, metrics)?));
                // Stops before the others do: what it has under way is still answered, as long as the drain lasts.
                let http = http.stop_timeout(settings.kernel.drain.deadline);
                let http =
                    (1..=settings.rewarder.workers).fold(http, |http, at| http.after(worker(at)));
                let clamps = Child::task("clamps", follow_signal).optional();
                kernel
                    .child(clamps)
                    .child(http.gated(Duration::from_secs(10)))
            },
        )
}

/// SIGUSR1 is what the runbook reloads limits by: as SIGHUP, which the kernel answers.
async fn follow_signal(cx: ChildContext) -> io::Result<()> {
    let mut signals = signal(SignalKind::user_defined1())?;
    loop {
        tokio::select! {
            () = cx.stopping() => return Ok(()),
            _ = signals.recv() => kill_process(getpid(), Signal::HUP)?,
        }
    }
}

fn worker(at: usize) -> String {
    format!("compute-{at}")
}

fn workers(kernel: KernelBuilder, service: &Arc<Service>, count: usize) -> KernelBuilder {
    (1..=count).fold(kernel, |kernel, at| {
        let service = Arc::clone(service);
        let child = Child::thread(worker(at), move |cx| service.work(&cx));
        kernel.child(child.after("emitter").stop_timeout(WORKER_STOP))
    })
}
