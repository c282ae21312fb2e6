//! What an operator sees of actors in a kernel: their metrics on one page with the kernel's, and each reload of their
//! configuration on the bus, where `ronctl tail --topic ryker.config.applied` reads it.
#![allow(clippy::print_stdout, reason = "an example is there to be read")]

use std::convert::Infallible;
use std::error::Error;
use std::fmt;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use ron_kernel::metrics::Format;
use ron_kernel::supervisor::Child;
use ron_kernel::{Kernel, Metrics};
use ryker::config::Change;
use ryker::metrics::Collector;
use ryker::{Actor, Context, Runner, Runtime, RykerConfig};
use serde::Serialize;
use tokio::task::yield_now;

struct Jobs;

impl Actor for Jobs {
    type Msg = u32;
    type Error = Infallible;

    async fn handle(&mut self, _: u32, _: &mut Context<Self>) -> Result<(), Infallible> {
        Ok(())
    }
}

const TOPIC: &str = "ryker.config.applied";

/// What is published there.
#[derive(Clone, Serialize)]
struct Applied {
    source: &'static str,
    diff: Vec<String>,
    needs_restart: Vec<String>,
}

fn listed(changes: &[Change]) -> Vec<String> {
    changes.iter().map(Change::to_string).collect()
}

/// The body of `/metrics`: both write OpenMetrics, and their names differ, so one page can follow the other.
fn page(kernel: &Metrics, actors: &Registry) -> Result<String, fmt::Error> {
    let mut page = kernel.render(Format::OpenMetrics);
    page.truncate(page.trim_end_matches("# EOF\n").len());
    encode(&mut page, actors)?;
    Ok(page)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let rt = Runtime::new(RykerConfig::default());
    let (jobs, runner) = rt.actor("jobs", || Jobs).capacity(2).runner()?;
    for job in 0..5 {
        if let Err(error) = jobs.try_send(job) {
            println!("job {job}: {error}");
        }
    }
    let child = Child::task_with("jobs", runner, |cx, runner: Runner<Jobs>| async move {
        runner.run(cx.stopping_owned()).await
    });
    let running = Kernel::builder().child(child).build()?.start().await?;
    let kernel = running.handle().clone();
    kernel.ready().await;
    while jobs.accounts().pending > 0 {
        yield_now().await;
    }

    println!("an edit of the configuration: one key takes effect, the other needs a new runtime");
    let applied = kernel.bus().topic_spec(TOPIC).json().open::<Applied>()?;
    let mut tail = kernel.bus().tail(TOPIC)?;
    let text = "[defaults]\ndeadline = \"2s\"\nmailbox_capacity = 512";
    let edited = RykerConfig::from_toml(text)?;
    let source = edited.source().as_str();
    let reloaded = rt.reload(edited);
    applied.publish(Applied {
        source,
        diff: listed(&reloaded.applied),
        needs_restart: listed(&reloaded.cold),
    })?;
    while let Some(line) = tail.try_next() {
        println!("  {line}");
    }

    println!("what /metrics says of both");
    let mut actors = Registry::default();
    actors.register_collector(Box::new(Collector::new(&rt)));
    let wanted = [
        "ron_kernel_ready ",
        "ryker_mailbox_depth{",
        "ryker_mailbox_dropped_total{actor=\"jobs\",reason=\"capacity\"}",
        "ryker_busy_rejections_total{",
        "ryker_handler_latency_seconds_count{",
        "ryker_config_reload_total{source=\"file\"}",
        "# EOF",
    ];
    for line in page(kernel.metrics(), &actors)?.lines() {
        if wanted.iter().any(|head| line.starts_with(head)) {
            println!("  {line}");
        }
    }
    running.shutdown().await;
    Ok(())
}
