//! A single-tenant node for content-addressed objects and mailboxes: `micronode --help`.

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use micronode::mailbox::Mailbox;
use micronode::{mailbox, objects, Config, Store};
use ron_host::{http, Program};
use ron_kernel::supervisor::{Child, ChildContext};
use ryker::BuildError;

/// What the runbook calls keys by.
const SHORT: &[(&str, &str, &str)] = &[
    ("--http-addr", "", "http.addr"),
    ("--metrics-addr", "RON_METRICS_ADDR", "observability.addr"),
    ("--amnesia", "", "amnesia.enabled"),
    ("--pq-mode", "", "pq.mode"),
    ("--tls-cert", "", "tls.cert"),
    ("--tls-key", "", "tls.key"),
];

fn main() -> ExitCode {
    Program::<Config>::new("micronode", env!("CARGO_PKG_VERSION"))
        .about("content-addressed objects and a mailbox over HTTP")
        .short(SHORT)
        .sealed()
        .run_http(
            |config| &config.http,
            |kernel, loaded, front| {
                let (settings, config) = (loaded.snapshot(), loaded.watch());
                let store = Store::new(&settings.store, &settings.pool);
                let post = Mailbox::new(config.map(|config| config.mailbox.clone()));
                let mail = Child::task_with("mailbox", post.clone(), mail);
                let http = config.map(|config| config.http.clone());
                let (kept, of_store) = (Arc::clone(&store), settings.store.clone());
                let http = http::child(front, http, move |metrics| {
                    let routes = objects(Arc::clone(&kept), &of_store, metrics)?;
                    let post = post.as_ref().map_err(|error| error.to_string())?;
                    Ok(mailbox(routes, post, metrics)?)
                });
                // Stops before the others do: what it has under way is still answered, as long as the drain lasts.
                let http = http.stop_timeout(settings.kernel.drain.deadline);
                let http = http.after("store").after("mailbox");
                let store = Child::task_with("store", store, |cx, store| store.look_after(cx));
                kernel
                    .child(store.gated(Duration::from_secs(30)))
                    .child(mail)
                    .child(http.gated(Duration::from_secs(10)))
            },
        )
}

async fn mail(cx: ChildContext, mailbox: Result<Mailbox, BuildError>) -> io::Result<()> {
    let mailbox = mailbox.map_err(io::Error::other)?;
    mailbox.run(cx).await.map_err(io::Error::other)
}
