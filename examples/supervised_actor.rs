//! A ryker actor as a child of the kernel: one tree, and one layer that restarts. The actor panics at an image, the
//! kernel starts it again, and what was queued behind the image is made by the new incarnation.
#![allow(clippy::print_stdout, reason = "an example is there to be read")]

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use ron_kernel::supervisor::{Child, ChildContext};
use ron_kernel::{Kernel, KernelEvent, KernelHandle, KERNEL_TOPIC};
use ryker::{Actor, ActorExit, ActorRef, AskError, Context, Reply, Runner, Runtime, RykerConfig};
use tokio::sync::Notify;
use tokio::time::sleep;

struct Thumbs {
    made: u32,
    started: Arc<Notify>,
}

struct Make {
    image: &'static str,
    reply: Reply<String>,
}

impl Actor for Thumbs {
    type Msg = Make;
    type Error = Infallible;

    async fn on_start(&mut self, cx: &mut Context<Self>) -> Result<(), Infallible> {
        sleep(Duration::from_millis(200)).await;
        println!("  thumbs: incarnation {} has its codecs", cx.generation());
        self.started.notify_one();
        Ok(())
    }

    async fn handle(&mut self, make: Make, cx: &mut Context<Self>) -> Result<(), Infallible> {
        sleep(Duration::from_millis(20)).await;
        assert!(
            !make.image.ends_with(".avif"),
            "no codec for {}",
            make.image
        );
        self.made += 1;
        let answer = format!("{} by incarnation {}", make.image, cx.generation());
        // An error says that nobody waits for it any more.
        drop(make.reply.send(answer));
        Ok(())
    }

    async fn on_stop(&mut self, _: &mut Context<Self>) {
        println!(
            "  thumbs: {} made since the start; nothing is left",
            self.made
        );
    }
}

/// The body of the child: called once per incarnation, by the kernel. A panic passes through to it, an error is a
/// failure like any other, and `Ok` says that the actor is done.
async fn thumbs(
    cx: ChildContext,
    (runner, started): (Runner<Thumbs>, Arc<Notify>),
) -> Result<(), ActorExit> {
    let kernel = cx.clone();
    cx.spawn(async move {
        started.notified().await;
        kernel.ready();
    });
    // When the kernel says stop, the actor takes nothing more in and works off its mailbox.
    runner.run(cx.stopping_owned()).await
}

async fn make(thumbs: &ActorRef<Make>, image: &'static str) -> Result<String, AskError<Make>> {
    thumbs.ask(|reply| Make { image, reply }).await
}

fn show(image: &str, answer: Result<String, AskError<Make>>) {
    match answer {
        Ok(made) => println!("  {made}"),
        Err(error) => println!("  {image}: {error}"),
    }
}

fn restarts(kernel: &KernelHandle) -> u64 {
    let tree = kernel.tree();
    tree.iter().map(|child| child.restarts).sum()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let cfg = RykerConfig::from_env_validated()?;
    let rt = Runtime::new(cfg);
    let started = Arc::new(Notify::new());
    let told = Arc::clone(&started);
    let (actor, runner) = rt
        .actor("thumbs", move || Thumbs {
            made: 0,
            started: Arc::clone(&told),
        })
        .runner()?;

    println!("one image is asked for before anything runs; it waits in the mailbox");
    let early = tokio::spawn({
        let actor = actor.clone();
        async move { make(&actor, "first.png").await }
    });
    let child = Child::task_with("thumbs", (runner, started), thumbs);
    let running = Kernel::builder()
        .child(child.gated(Duration::from_secs(10)))
        .build()?
        .start()
        .await?;
    let kernel = running.handle().clone();
    let topic = kernel.bus().topic::<KernelEvent>(KERNEL_TOPIC)?;
    let mut events = topic.subscribe()?;
    println!("/readyz answers {}", kernel.health().response().status);
    kernel.ready().await;
    println!("/readyz answers {}", kernel.health().response().status);
    show("first.png", early.await?);

    println!("three more, and the second one is its end");
    let (cat, avif, dog) = tokio::join!(
        make(&actor, "cat.png"),
        make(&actor, "cat.avif"),
        make(&actor, "dog.png"),
    );
    for (image, answer) in [("cat.png", cat), ("cat.avif", avif), ("dog.png", dog)] {
        show(image, answer);
    }
    let reason = loop {
        if let KernelEvent::ServiceCrashed { reason, .. } = &events.recv().await?.event {
            break reason.clone();
        }
    };
    println!("  ServiceCrashed: {reason}");
    println!("  the kernel restarted it {} time", restarts(&kernel));

    println!("five more, and the end of everything");
    let last = ["a.png", "b.png", "c.png", "d.png", "e.png"].map(|image| {
        let actor = actor.clone();
        tokio::spawn(async move { (image, make(&actor, image).await) })
    });
    while actor.accounts().pending < 5 {
        tokio::task::yield_now().await;
    }
    let report = running.shutdown().await;
    for asked in last {
        let (image, answer) = asked.await?;
        show(image, answer);
    }
    show("late.png", make(&actor, "late.png").await);

    let accounts = rt.accounts();
    println!(
        "kernel: {} started, {} stopped",
        report.started, report.stopped
    );
    println!(
        "mailbox: {} accepted = {} ok + {} panicked, {} refused after the end, balanced: {}",
        accounts.accepted,
        accounts.ok,
        accounts.panicked,
        accounts.refused.closed,
        accounts.balances()
    );
    Ok(())
}
