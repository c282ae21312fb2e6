//! The kernel with an admin listener on 127.0.0.1:9909, a heartbeat child to break, and a status line for
//! every service.

use std::process::ExitCode;
use std::time::Duration;

use ron_config::{Reload, Schema, Settings, Watch};
use ron_host::{HostSettings, Program};
use ron_kernel::supervisor::{Child, ChildContext};
use ron_kernel::TreeNode;
use tokio::time::Instant;

/// The heartbeat may miss this long before it counts as hung: three beats at the slowest setting.
const MISSED: Duration = Duration::from_secs(15);

#[derive(Clone, Debug, Default)]
struct Config {
    kernel: ron_kernel::Config,
    demo: Demo,
}

/// `demo.*`.
#[derive(Clone, Debug)]
struct Demo {
    heartbeat_interval: Duration,
    status_interval: Duration,
}

impl Default for Demo {
    fn default() -> Self {
        Demo {
            heartbeat_interval: Duration::from_secs(1),
            status_interval: Duration::from_secs(30),
        }
    }
}

impl Settings for Config {
    fn schema(schema: &mut Schema<Self>) {
        ron_host::kernel_keys(schema);
        ron_kernel::Config::preset_keys(schema, |c| &mut c.kernel);
        schema
            .key("demo.heartbeat_interval", |c: &mut Config| {
                &mut c.demo.heartbeat_interval
            })
            .doc("between two beats of the heartbeat child")
            .range(Duration::from_millis(10)..=MISSED / 3)
            .reload(Reload::Live);
        schema
            .key("demo.status_interval", |c: &mut Config| {
                &mut c.demo.status_interval
            })
            .doc("between two status lines of every service")
            .range(Duration::from_millis(100)..=Duration::from_secs(3600))
            .reload(Reload::Live);
    }
}

impl HostSettings for Config {
    fn kernel(&self) -> &ron_kernel::Config {
        &self.kernel
    }

    fn kernel_mut(&mut self) -> &mut ron_kernel::Config {
        &mut self.kernel
    }
}

fn main() -> ExitCode {
    let mut defaults = Config::default();
    defaults.kernel.observability.expose_http = true;
    Program::new("ron-kernel-demo", env!("CARGO_PKG_VERSION"))
        .service("ron-kernel")
        .about("the kernel with an admin listener and a child to break")
        .defaults(defaults)
        .run(|kernel, config| {
            kernel
                .rejected_reload_unready(true)
                .child(Child::task_with("heartbeat", config.watch(), heartbeat).watchdog(MISSED))
                .child(Child::task_with("status", config.watch(), status))
        })
}

/// Beats until it is stopped, or broken by `chaos.fault`.
async fn heartbeat(cx: ChildContext, mut config: Watch<Config>) {
    let mut beat = 0u64;
    loop {
        beat += 1;
        cx.heartbeat();
        cx.status(format!("beat {beat}"));
        tracing::debug!(event = "heartbeat", beat, "beat {beat}");
        let pause = config.get().demo.heartbeat_interval;
        tokio::select! {
            () = cx.stopping() => return,
            () = tokio::time::sleep(pause) => {}
            // A shorter interval counts from now.
            Ok(_) = config.changed() => {}
        }
    }
}

/// Logs the state of every service, itself included.
async fn status(cx: ChildContext, mut config: Watch<Config>) {
    let mut last = Instant::now();
    loop {
        let next = last + config.get().demo.status_interval;
        tokio::select! {
            () = cx.stopping() => return,
            () = tokio::time::sleep_until(next) => {
                last = Instant::now();
                let Some(kernel) = cx.kernel() else { return };
                kernel.tree().iter().for_each(log_status);
            }
            Ok(_) = config.changed() => {}
        }
    }
}

fn log_status(node: &TreeNode) {
    let (child, kind, state, generation) =
        (&*node.id, node.kind.name(), node.state, node.generation);
    let (status, cause) = (node.status.as_deref(), node.cause.as_deref());
    let (restarts, restarts_in_window) = (node.restarts, node.restarts_in_window);
    let retry_at = node.retry_at.map(ron_kernel::bus::rfc3339);
    tracing::info!(
        event = "service_status",
        child,
        generation,
        kind,
        state,
        restarts,
        restarts_in_window,
        retry_at,
        status,
        cause,
        "{child} is {state}"
    );
    node.children.iter().for_each(log_status);
}
