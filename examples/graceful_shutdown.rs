//! An orderly shutdown: announced first, then work in flight finishes, a child that ignores its stop is aborted and named,
//! and the report accounts for everybody.
#![allow(clippy::print_stdout, reason = "an example is there to be read")]

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use ron_kernel::supervisor::{Child, ChildContext};
use ron_kernel::{Config, Kernel, KernelEvent, KERNEL_TOPIC};
use tokio::sync::Notify;
use tokio::time::{sleep, Instant};

/// Looks at its stop only between two uploads, so the upload in hand always finishes.
async fn uploads(cx: ChildContext, busy: Arc<Notify>) {
    for upload in 1.. {
        sleep(Duration::from_millis(400)).await;
        println!("  uploads: upload {upload} half done");
        busy.notify_one();
        sleep(Duration::from_millis(600)).await;
        println!("  uploads: upload {upload} complete");
        if cx.is_stopping() {
            println!("  uploads: told to stop; nothing is left half done");
            return;
        }
    }
}

/// Notices its stop, sees how long it has, and does not hurry.
async fn stubborn(cx: ChildContext) {
    cx.stopping().await;
    let left = cx
        .deadline()
        .map(|at| at - Instant::now())
        .unwrap_or_default();
    println!(
        "  stubborn: told to stop, aborted in {:.1} s; not impressed",
        left.as_secs_f64()
    );
    sleep(Duration::from_secs(3600)).await;
    println!("  stubborn: never printed");
}

/// What the others use; it stops when both are gone.
async fn database(cx: ChildContext) {
    cx.stopping().await;
    println!("  database: last one out");
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut config = Config::default();
    // /readyz says 503 for this long before the first child is stopped, so that load balancers look elsewhere.
    config.drain.linger = Duration::from_millis(300);
    // From then on all children together have this long.
    config.drain.deadline = Duration::from_secs(3);

    let busy = Arc::new(Notify::new());
    let stubborn = Child::task("stubborn", stubborn).stop_timeout(Duration::from_secs(1));
    let running = Kernel::builder()
        .config(config)
        .child(Child::task("database", database))
        .child(Child::task_with("uploads", busy.clone(), uploads).after("database"))
        .child(stubborn.after("database"))
        .build()?
        .start()
        .await?;
    let handle = running.handle().clone();
    let mut events = handle
        .bus()
        .topic::<KernelEvent>(KERNEL_TOPIC)?
        .subscribe()?;
    handle.ready().await;
    busy.notified().await;
    println!("/readyz answers {}", handle.health().response().status);

    println!("shutdown begins");
    handle.shutdown();
    // The announcement, for those who want to know; nobody is stopped by it.
    while events.recv().await?.event != KernelEvent::Shutdown {}
    println!(
        "/readyz answers {}, and for 300 ms nobody is stopped yet",
        handle.health().response().status
    );
    let report = running.ended().await;

    println!("report after {:.1} s:", report.took.as_secs_f64());
    println!(
        "  {} started = {} stopped + {} aborted + {} leaked + {} quarantined",
        report.started, report.stopped, report.aborted, report.leaked, report.quarantined
    );
    println!("  aborted: {}", report.stragglers.join(", "));
    println!("  balanced: {}", report.is_balanced());
    Ok(())
}
