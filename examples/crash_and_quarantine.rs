//! A child that panics each time: restarted with growing delays, quarantined when its budget is spent, explained, and
//! released when the cause is mended. Its sibling notices nothing.
#![allow(clippy::print_stdout, reason = "an example is there to be read")]

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use ron_bus::{Start, Subscriber};
use ron_kernel::supervisor::{Backoff, Child, ChildContext};
use ron_kernel::{Change, ChildEvent, Config, Kernel, LIFECYCLE_TOPIC};

async fn thumbs(cx: ChildContext, codec_broken: Arc<AtomicBool>) {
    if codec_broken.load(Ordering::Relaxed) {
        panic!("no codec for image/avif");
    }
    cx.stopping().await;
}

/// Prints what the supervisor sees and decides, up to the first event that `until` names.
async fn follow(
    events: &mut Subscriber<ChildEvent>,
    backoff: Backoff,
    until: fn(&Change) -> bool,
) -> Result<(), Box<dyn Error>> {
    loop {
        let event = events.recv().await?.event;
        if &*event.child != "thumbs" {
            continue;
        }
        let generation = event.generation;
        match &event.change {
            Change::Started { restart: false } => println!("  #{generation} started"),
            Change::Started { restart: true } => println!("  #{generation} restarted"),
            Change::Failed { reason } => println!("  #{generation} failed: {reason}"),
            Change::Backoff { attempt, delay, .. } => {
                let (min, max) = (backoff.min(), backoff.ceiling(*attempt));
                println!("     restart in {delay:.0?}, drawn from {min:?}..={max:?}");
            }
            Change::Quarantined { .. } => println!("     quarantined"),
            change => println!("     {}", change.name().to_lowercase()),
        }
        if until(&event.change) {
            return Ok(());
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // The kernel reports each panic with its text; the default hook would print it a second time.
    std::panic::set_hook(Box::new(|_| {}));

    // The defaults, 100 ms to 30 s and 5 restarts in 60 s, would take longer than a reader wants to wait.
    let mut config = Config::default();
    config.supervisor.min_backoff = Duration::from_millis(50);
    config.supervisor.max_backoff = Duration::from_millis(300);
    config.supervisor.restart_cap = 3;
    let backoff = Backoff::new(config.supervisor.min_backoff, config.supervisor.max_backoff)?;

    let codec_broken = Arc::new(AtomicBool::new(true));
    let running = Kernel::builder()
        .config(config)
        .child(Child::task_with("thumbs", codec_broken.clone(), thumbs))
        .child(Child::task("api", |cx| async move { cx.stopping().await }))
        .build()?
        .start()
        .await?;
    let handle = running.handle().clone();
    let lifecycle = handle.bus().topic::<ChildEvent>(LIFECYCLE_TOPIC)?;
    // The children have been started already: read what the ring has kept of that.
    let reader = lifecycle
        .subscriber()
        .name("example")
        .start(Start::Retained(64));
    let mut events = reader.build()?;

    println!("thumbs may be restarted 3 times in 60 s:");
    let quarantined = |change: &Change| matches!(change, Change::Quarantined { .. });
    follow(&mut events, backoff, quarantined).await?;

    let explanation = handle.explain("thumbs").ok_or("no child named thumbs")?;
    println!("why is thumbs {}?", explanation.state);
    for reason in &explanation.because {
        println!("  because {}", reason.what);
    }
    println!("  next: {}", explanation.next);
    println!("/readyz answers {}", handle.health().response().status);
    for cause in handle.health().snapshot().causes() {
        println!("  because {}: {}", cause.key, cause.reason);
    }

    println!("the codec is mended; release thumbs");
    codec_broken.store(false, Ordering::Relaxed);
    handle.release("thumbs")?;
    follow(&mut events, backoff, |change| {
        matches!(change, Change::Ready)
    })
    .await?;

    for child in handle.tree() {
        let (id, state, restarts) = (&child.id, child.state, child.restarts);
        println!(
            "{id}: {state}, generation {}, {restarts} restarts",
            child.generation
        );
    }
    let report = running.shutdown().await;
    println!(
        "report: {} started, {} stopped",
        report.started, report.stopped
    );
    Ok(())
}
