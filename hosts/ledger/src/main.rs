//! A double-entry ledger over HTTP: `svc-ledger --help`.

use std::io;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ron_config::Watch;
use ron_host::http::{serve, Front, Node};
use ron_host::Program;
use ron_kernel::supervisor::{Child, ChildContext};
use svc_ledger::service::{routes, Config, Keeper};
use svc_ledger::writer::{ledger, Ledger};

/// What the runbooks call keys by, and what an operator types.
const SHORT: &[(&str, &str, &str)] = &[
    ("--http-addr", "", "http.addr"),
    ("--metrics-addr", "", "observability.addr"),
    ("--ledger-ephemeral", "", "ledger.ephemeral"),
    ("--tls-cert", "", "tls.cert"),
    ("--tls-key", "", "tls.key"),
];

/// What the listener's child needs whenever it starts.
#[derive(Clone)]
struct Parts {
    front: Front,
    ledger: Ledger,
    config: Watch<Config>,
    /// Made by the first of them, as its metrics can be registered once.
    node: Arc<OnceLock<Node>>,
}

/// A long journal is read from its first entry to its last.
const OPENING: Duration = Duration::from_secs(600);

fn main() -> ExitCode {
    Program::<Config>::new("svc-ledger", env!("CARGO_PKG_VERSION"))
        .about("a double-entry ledger that settles each epoch of a tenant once")
        .short(SHORT)
        .run_http(
            |config| &config.http,
            |kernel, loaded, front| {
                let settings = loaded.snapshot().ledger.clone();
                let (ledger, writer) = ledger(settings.queue);
                let keeper = Keeper::new(settings, ledger.clone(), writer);
                let parts = Parts {
                    front,
                    ledger,
                    config: loaded.watch(),
                    node: Arc::default(),
                };
                let drain = loaded.snapshot().kernel.drain.deadline;
                let journal = Child::thread("journal", move |cx| keeper.run(&cx));
                let http = Child::task_with("http", parts, http).stop_timeout(drain);
                kernel
                    .child(journal.gated(OPENING))
                    .child(http.after("journal").gated(Duration::from_secs(10)))
            },
        )
}

async fn http(cx: ChildContext, parts: Parts) -> io::Result<()> {
    let Some(kernel) = cx.kernel() else {
        return Ok(());
    };
    let node = match parts.node.get() {
        Some(node) => node.clone(),
        None => {
            let settings = parts.config.clone().get().http.clone();
            let metrics = kernel.metrics().clone();
            let node = Node::new(routes(&parts.ledger), &parts.front, metrics, settings);
            let node = node.map_err(io::Error::other)?;
            parts.node.get_or_init(|| node).clone()
        }
    };
    let config = parts.config;
    serve(cx, parts.front, node, move || {
        config.clone().get().http.clone()
    })
    .await
}
