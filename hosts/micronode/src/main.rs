//! A single-tenant node for content-addressed objects and mailboxes: `micronode --help`.

use std::io;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use micronode::mailbox::Mailbox;
use micronode::{mailbox, objects, Config, Store};
use ron_config::Watch;
use ron_host::http::{serve, Front, Node};
use ron_host::Program;
use ron_kernel::supervisor::{Child, ChildContext};
use ron_metrics::Condition;
use ryker::BuildError;
use tokio::time::{sleep, timeout};

/// What the runbook calls keys by.
const SHORT: &[(&str, &str, &str)] = &[
    ("--http-addr", "", "http.addr"),
    ("--metrics-addr", "RON_METRICS_ADDR", "observability.addr"),
    ("--amnesia", "", "amnesia.enabled"),
    ("--pq-mode", "", "pq.mode"),
    ("--tls-cert", "", "tls.cert"),
    ("--tls-key", "", "tls.key"),
];

/// Between two looks at the store.
const LOOK: Duration = Duration::from_secs(1);
/// At least, however often it fails.
const PAUSE: Duration = Duration::from_millis(100);

/// What the listener's child needs whenever it starts.
#[derive(Clone)]
struct Parts {
    front: Front,
    store: Arc<Store>,
    mailbox: Result<Mailbox, BuildError>,
    config: Watch<Config>,
    /// Made by the first of them, as its metrics can be registered once.
    node: Arc<OnceLock<Node>>,
}

fn main() -> ExitCode {
    Program::<Config>::new("micronode", env!("CARGO_PKG_VERSION"))
        .about("content-addressed objects and a mailbox over HTTP")
        .short(SHORT)
        .sealed()
        .run_http(
            |config| &config.http,
            |kernel, loaded, front| {
                let store = Store::new(&loaded.snapshot().store);
                let config = loaded.watch();
                let mailbox = Mailbox::new(config.map(|config| config.mailbox.clone()));
                let parts = Parts {
                    front,
                    store: Arc::clone(&store),
                    mailbox: mailbox.clone(),
                    config,
                    node: Arc::default(),
                };
                let store = Child::task_with("store", store, look_after);
                // Stops before the others do: what it has under way is still answered, as long as the drain lasts.
                let drain = loaded.snapshot().kernel.drain.deadline;
                let http = Child::task_with("http", parts, http).stop_timeout(drain);
                let http = http.after("store").after("mailbox");
                kernel
                    .child(store.gated(Duration::from_secs(30)))
                    .child(Child::task_with("mailbox", mailbox, mail))
                    .child(http.gated(Duration::from_secs(10)))
            },
        )
}

/// Opens the store, and keeps readiness in step with it. Whatever the first look finds, and however long it takes, the listener
/// is not kept waiting: it tells what is wrong.
async fn look_after(cx: ChildContext, store: Arc<Store>) -> io::Result<()> {
    let Some(kernel) = cx.kernel() else {
        return Ok(());
    };
    let health = kernel.metrics().health().clone();
    let looking = async {
        loop {
            let mut check = pin!(store.check());
            let found = match timeout(LOOK, &mut check).await {
                Ok(found) => found,
                Err(_) => {
                    health.set("store", Condition::not_ready("it takes its time to answer"));
                    cx.ready();
                    check.await
                }
            };
            match found {
                Some(condition) => health.set("store", condition),
                None => health.clear("store"),
            }
            cx.ready();
            sleep(PAUSE).await;
            let _ = timeout(LOOK, store.troubled()).await;
        }
    };
    tokio::select! {
        () = cx.stopping() => Ok(()),
        () = looking => Ok(()),
    }
}

async fn mail(cx: ChildContext, mailbox: Result<Mailbox, BuildError>) -> io::Result<()> {
    let mailbox = mailbox.map_err(io::Error::other)?;
    mailbox.run(cx).await.map_err(io::Error::other)
}

async fn http(cx: ChildContext, mut parts: Parts) -> io::Result<()> {
    let Some(kernel) = cx.kernel() else {
        return Ok(());
    };
    if let (Some(addr), Some(url)) = (parts.front.addr(), parts.front.url()) {
        tracing::info!(event = "listening", %addr, url, "objects on {url}");
    }
    if parts.front.is_open_to_all() {
        tracing::warn!(
            event = "dev_allow",
            "auth.dev_allow: everybody who reaches this address may do everything"
        );
    }
    let node = match parts.node.get() {
        Some(node) => node.clone(),
        None => {
            let metrics = kernel.metrics();
            let config = parts.config.get();
            let post = parts.mailbox.map_err(io::Error::other)?;
            let routes = objects(parts.store, &config.store, metrics)
                .and_then(|routes| mailbox(routes, &post, metrics))
                .map_err(io::Error::other)?;
            let settings = config.http.clone();
            let node = Node::new(routes, &parts.front, metrics.clone(), settings);
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
