//! A single-tenant node for content-addressed objects: `micronode --help`.

use std::process::ExitCode;
use std::sync::Arc;

use micronode::{objects, Config, Store};
use ron_host::http::{serve, HttpSettings, Node};
use ron_host::Program;
use ron_kernel::supervisor::{Child, ChildContext};

/// What the runbook calls keys by.
const SHORT: &[(&str, &str, &str)] = &[
    ("--http-addr", "", "http.addr"),
    ("--metrics-addr", "RON_METRICS_ADDR", "observability.addr"),
    ("--amnesia", "", "amnesia.enabled"),
    ("--pq-mode", "", "pq.mode"),
];

fn main() -> ExitCode {
    Program::<Config>::new("micronode", env!("CARGO_PKG_VERSION"))
        .about("content-addressed objects over HTTP, in memory")
        .short(SHORT)
        .run_on(
            |config| Some(config.http.addr),
            |kernel, loaded, listener| {
                let watch = loaded.watch();
                let store = Arc::new(Store::new(loaded.snapshot().store_max_bytes.bytes()));
                let http = Child::task("http", move |cx: ChildContext| {
                    let (listener, store, watch) =
                        (listener.clone(), Arc::clone(&store), watch.clone());
                    async move {
                        let Some(kernel) = cx.kernel() else {
                            return Ok(());
                        };
                        if let Some(addr) = listener.addr() {
                            tracing::info!(event = "listening", %addr, "objects on http://{addr}");
                        }
                        let settings = move || -> HttpSettings { watch.clone().get().http.clone() };
                        let routes =
                            objects(store, kernel.metrics()).map_err(std::io::Error::other)?;
                        let node = Node::new(routes, kernel.metrics().clone(), settings());
                        serve(cx, listener, node, settings).await
                    }
                });
                kernel.child(http.gated(std::time::Duration::from_secs(10)))
            },
        )
}
