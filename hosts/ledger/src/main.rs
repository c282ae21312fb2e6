//! A double-entry ledger over HTTP: `svc-ledger --help`.

use std::process::ExitCode;
use std::time::Duration;

use ron_host::{http, Program};
use ron_kernel::supervisor::Child;
use svc_ledger::service::{routes, Config, Keeper};
use svc_ledger::writer::ledger;

/// What the runbooks call keys by, and what an operator types.
const SHORT: &[(&str, &str, &str)] = &[
    ("--http-addr", "", "http.addr"),
    ("--metrics-addr", "", "observability.addr"),
    ("--ledger-ephemeral", "", "ledger.ephemeral"),
    ("--tls-cert", "", "tls.cert"),
    ("--tls-key", "", "tls.key"),
];

/// A long journal is read from its first entry to its last.
const OPENING: Duration = Duration::from_secs(600);

fn main() -> ExitCode {
    Program::<Config>::new("svc-ledger", env!("CARGO_PKG_VERSION"))
        .about("a double-entry ledger that settles each epoch of a tenant once")
        .short(SHORT)
        .run_http(
            |config| &config.http,
            |kernel, loaded, front| {
                let (settings, config) = (loaded.snapshot(), loaded.watch());
                let (ledger, writer) = ledger(settings.ledger.queue);
                let keeper = Keeper::new(settings.ledger.clone(), ledger.clone(), writer);
                let journal = Child::thread("journal", move |cx| keeper.run(&cx));
                let http = config.map(|config| config.http.clone());
                let http = http::child(front, http, move |_| Ok(routes(&ledger)));
                // Stops before the journal does: what it has under way is still answered, as long as the drain lasts.
                let http = http.stop_timeout(settings.kernel.drain.deadline);
                let http = http.after("journal");
                kernel
                    .child(journal.gated(OPENING))
                    .child(http.gated(Duration::from_secs(10)))
            },
        )
}
