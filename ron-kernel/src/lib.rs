//! One supervision tree for everything a service is made of: async tasks, threads and child processes, started in
//! order, watched, restarted with backoff, quarantined when hopeless, and stopped in reverse order with accounts
//! that balance.
//!
//! Five words teach it: **Kernel**, **Child**, **Group**, **ready**, **stopping**.
//!
//! ```no_run
//! use ron_kernel::supervisor::{Child, ChildContext};
//! use ron_kernel::Kernel;
//! use std::process::ExitCode;
//! use std::time::Duration;
//! use tokio::net::TcpStream;
//! # async fn pump(_: &mut TcpStream) -> std::io::Result<()> { Ok(()) }
//!
//! async fn feed(cx: ChildContext, addr: String) -> std::io::Result<()> {
//!     let mut conn = TcpStream::connect(addr).await?;   // Err: restarted with backoff
//!     cx.ready();                                       // only now does "thumbs" start
//!     tokio::select! {
//!         _ = cx.stopping() => Ok(()),                  // Ok: done, not restarted
//!         r = pump(&mut conn) => r,
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     Kernel::builder()
//!         .child(Child::task_with("feed", "127.0.0.1:7000".to_string(), feed).gated(Duration::from_secs(10)))
//!         .child(Child::thread("thumbs", |cx| while !cx.wait_stopping(Duration::from_secs(1)) {}).after("feed"))
//!         .run()                                        // owns the runtime, signals, exit code
//! }
//! ```
//!
//! # Which form
//!
//! * [`KernelBuilder::run`] owns the runtime, the signals, the panic hook and the exit code. Supervision
//!   runs on the main thread, apart from the workers, so it decides and stops even while every worker is
//!   blocked. The only form that promises an exit deadline.
//! * [`Kernel::run_until`] and [`Kernel::start`] embed a tree in any tokio program and install nothing.
//!
//! # Ready
//!
//! A child is ready when its first poll has returned; a [gated](supervisor::Child::gated) one when it
//! calls [`ready`](supervisor::ChildContext::ready). What comes [`after`](supervisor::Child::after) it
//! starts then and stops before it. `after` is order only: shared fate is a [`Group`](supervisor::Group).
//!
//! # Failure
//!
//! `Err`, a panic, a missed heartbeat or a missed start deadline are failures. The delay before restart
//! `n` is uniform in `[min, min(max, min * 2^(n+1))]`, 100 ms to 30 s. After 5 restarts inside 60 s the
//! next failure quarantines the child; a trial follows after 30 s, doubling to 5 min, or at once by
//! [`release`](KernelHandle::release). There is never more than one incarnation: a task is aborted at its
//! next await, and what does not end is reported stuck, then leaked, never replaced.
//!
//! # Events
//!
//! Topic `kernel` carries [`KernelEvent`], topic `kernel.lifecycle` carries [`ChildEvent`]; both can be
//! tailed as JSON. Nothing is published on topic `kernel` after `Shutdown`, which goes by the control lane:
//! a reader that is behind gets it first and then what was published before. The event informs; only a
//! child's own stop token is a command.
//!
//! # Accounts
//!
//! `ron_kernel_crashes_total{service}` equals the number of `ServiceCrashed` events of that service.
//! `service_restarts_total{service}` counts the restarts that followed, trials included: it equals the
//! crashes, less the one whose restart is pending while the child is in backoff, in quarantine or not to
//! be restarted. A member that comes back with its restarted group is counted at the group. What fails during
//! the shutdown is neither told on topic `kernel` nor counted. [`ShutdownReport`]: `started = stopped + aborted + leaked + quarantined`.
//!
//! # Features
//!
//! | feature | adds |
//! |---|---|
//! | `serve` | the admin listener: /metrics, /healthz, /livez, /readyz, /version |
//! | `tls` | TLS on it, rotated on reload (implies `serve`) |
//! | `control` | the control plane: a Unix socket that `ronctl` asks, see [`control`] |
//! | `process` | child processes, see [`process`]; under [`run`](KernelBuilder::run) also tells the service manager that `NOTIFY_SOCKET` names of readiness, reloads, the drain, and life |
//! | `kameo` | a kameo actor as a child; outside the semver and Rust 1.80 promises |
//! | `pq` | accepts `pq.mode` other than off and shows it; enforcement is the host's |
// The one exception is `process::exec`.
#![cfg_attr(not(feature = "process"), forbid(unsafe_code))]
#![deny(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

// The README is compiled and run with the documentation tests.
#[cfg(all(doctest, feature = "process"))]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(feature = "serve")]
mod admin;
mod config;
#[cfg(feature = "control")]
pub mod control;
mod event;
mod handle;
#[cfg(feature = "kameo")]
pub mod kameo;
mod kernel;
#[cfg(feature = "process")]
mod notify;
#[cfg(not(feature = "process"))]
mod notify_absent;
#[cfg(all(feature = "process", not(target_os = "linux")))]
compile_error!("feature `process` needs Linux: pidfds, parent-death signals, cgroups");
#[cfg(feature = "process")]
pub mod process;
mod reload;
mod report;
mod run;
#[cfg(any(feature = "control", feature = "process"))]
mod run_dir;
mod snapshot;
pub mod supervisor;
mod telemetry;
#[cfg(any(feature = "control", feature = "process"))]
mod usage;

#[cfg(not(feature = "process"))]
use notify_absent as notify;

// The frozen root.
pub use config::Config;
pub use event::KernelEvent;
pub use ron_bus::Bus;
pub use ron_metrics::{HealthState, Metrics};
pub use run::wait_for_ctrl_c;

#[cfg(feature = "control")]
pub use config::ControlConfig;
pub use config::{
    AmnesiaConfig, BusSettings, ChaosConfig, DrainConfig, Fault, ListenAddr, LogConfig, LogFormat,
    ObservabilityConfig, PqConfig, PresetConfig, PresetService, RuntimeConfig, ServiceConfig,
    StallConfig, SupervisorConfig,
};
#[cfg(feature = "process")]
pub use config::{ListenError, UnixSocket};
pub use event::{Change, ChildEvent, KERNEL_TOPIC, LIFECYCLE_TOPIC};
pub use handle::{ControlError, KernelHandle};
pub use kernel::{instance, Kernel, KernelBuilder, KernelError, Running};
pub use reload::ReloadError;
pub use report::ShutdownReport;
pub use snapshot::{Explanation, Reason, TreeNode};

pub use ron_bus as bus;
pub use ron_config as configuration;
pub use ron_metrics as metrics;
