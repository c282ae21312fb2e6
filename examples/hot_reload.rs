//! A configuration file edited while the program runs: a live key takes effect, a broken file is refused with all its
//! defects, and a key that needs a restart is said to need one.
#![allow(clippy::print_stdout, reason = "an example is there to be read")]

use std::error::Error;
use std::fs;
use std::sync::Arc;

use ron_config::{Loader, Reload, Schema, Settings, Watch};
use ron_kernel::supervisor::{Child, ChildContext};
use ron_kernel::{Kernel, KernelEvent, ReloadError, KERNEL_TOPIC};
use tokio::sync::Notify;

/// The program's own keys beside the kernel's.
#[derive(Clone)]
struct Config {
    kernel: ron_kernel::Config,
    greeting: String,
    workers: u32,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            kernel: ron_kernel::Config::default(),
            greeting: "hello".to_owned(),
            workers: 2,
        }
    }
}

impl Settings for Config {
    fn schema(schema: &mut Schema<Self>) {
        schema.include(|c: &mut Config| &mut c.kernel);
        schema
            .key("greeter.greeting", |c: &mut Config| &mut c.greeting)
            .doc("what to say")
            .reload(Reload::Live);
        // Of class `process` unless told otherwise.
        schema
            .key("greeter.workers", |c: &mut Config| &mut c.workers)
            .doc("threads of the pool, which is built once")
            .range(1..=64);
    }
}

/// Reads the configuration in force; a change restarts nobody.
async fn greeter(cx: ChildContext, (mut config, said): (Watch<Config>, Arc<Notify>)) {
    loop {
        let greeting = &config.get().greeting;
        println!("  greeter (generation {}): {greeting}", cx.generation());
        said.notify_one();
        tokio::select! {
            _ = cx.stopping() => return,
            changed = config.changed() => if changed.is_err() { return },
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("greeter.toml");
    fs::write(&path, "[greeter]\ngreeting = \"good morning\"\n")?;
    let config = Loader::<Config>::new("greeter").file(&path).load()?;

    let said = Arc::new(Notify::new());
    let running = Kernel::builder()
        .loaded_with(&config, |config| config.kernel.clone())
        .child(Child::task_with(
            "greeter",
            (config.watch(), said.clone()),
            greeter,
        ))
        .build()?
        .start()
        .await?;
    let handle = running.handle().clone();
    let mut events = handle
        .bus()
        .topic::<KernelEvent>(KERNEL_TOPIC)?
        .subscribe()?;
    said.notified().await;

    println!("save the file with another greeting; the kernel watches it");
    fs::write(&path, "[greeter]\ngreeting = \"good evening\"\n")?;
    loop {
        if let KernelEvent::ConfigUpdated { version } = events.recv().await?.event {
            println!("  event ConfigUpdated: version {version} is in force");
            break;
        }
    }
    said.notified().await;
    println!("{}", config.explain("greeter.greeting")?);

    println!("save a broken file; SIGHUP does under `run` what `reload` does here");
    fs::write(
        &path,
        "[greeter]\ngreting = \"good night\"\nworkers = 0\n[drain]\ndeadline = 5\n",
    )?;
    if let Err(ReloadError::Rejected(errors)) = handle.reload().await {
        println!("{errors}");
    }
    println!("  version {} stays in force", config.version());
    for cause in handle.health().snapshot().causes() {
        println!("  /readyz names {}: {}", cause.key, cause.reason);
    }

    println!("mend it, and change a key that only a restart can change");
    fs::write(&path, "[greeter]\ngreeting = \"good night\"\nworkers = 8\n")?;
    let report = handle.reload().await?;
    println!("  needs a restart: {}", report.needs_restart().join(", "));
    println!("{}", config.explain("greeter.workers")?);

    running.shutdown().await;
    Ok(())
}
