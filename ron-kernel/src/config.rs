//! The kernel's configuration: names, units, ranges, defaults and reload classes of its keys.

mod listen;
mod preset;
mod service;

pub use listen::ListenAddr;
#[cfg(feature = "process")]
pub use listen::{ListenError, UnixSocket};
pub use preset::{PresetConfig, PresetService};
pub use service::ServiceConfig;

use crate::supervisor::machine::Defaults;
use crate::supervisor::{Backoff, Child, Intensity};
use ron_config::{Reload, Schema, Settings};
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// Everything the kernel can be told. Keys, environment names (`RON_` + the key) and classes are in the
/// schema; `print` of a host shows them all with their origins.
///
/// Hosts embed it at the top level of their own configuration with `schema.include`.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// Restart policy where a child sets nothing of its own.
    pub supervisor: SupervisorConfig,
    /// The orderly shutdown.
    pub drain: DrainConfig,
    /// Stall detection.
    pub stall: StallConfig,
    /// The threads of [`run`](crate::KernelBuilder::run).
    pub runtime: RuntimeConfig,
    /// The kernel's bus.
    pub bus: BusSettings,
    /// RAM-only operation.
    pub amnesia: AmnesiaConfig,
    /// Post-quantum key exchange posture.
    pub pq: PqConfig,
    /// The admin listener.
    pub observability: ObservabilityConfig,
    /// Logging; applied by the host, which owns the subscriber.
    pub log: LogConfig,
    /// Fault injection.
    pub chaos: ChaosConfig,
    /// The control plane.
    #[cfg(feature = "control")]
    pub control: ControlConfig,
    /// Processes to run as children; needs the feature `process`.
    pub services: Vec<ServiceConfig>,
    /// Services known by name; needs the feature `process`.
    pub preset: PresetConfig,
}

/// `supervisor.*`: live, applies to later restarts.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SupervisorConfig {
    /// Shortest delay before a restart. 100 ms: long enough that a crash loop costs no core.
    pub min_backoff: Duration,
    /// Longest delay before a restart. 30 s: an operator who has mended the cause does not wait longer.
    pub max_backoff: Duration,
    /// Restarts allowed in one window; the next failure quarantines.
    pub restart_cap: u32,
    /// Length of the sliding window.
    pub restart_window: Duration,
    /// Time ready after which the backoff starts over. The window is never reset.
    pub healthy_after: Duration,
    /// A required child quarantined for this long ends the process non-zero; unset: never.
    pub give_up_after: Option<Duration>,
}

impl Default for SupervisorConfig {
    fn default() -> Self {
        SupervisorConfig {
            min_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(30),
            restart_cap: 5,
            restart_window: Duration::from_secs(60),
            healthy_after: Duration::from_secs(30),
            give_up_after: None,
        }
    }
}

/// `drain.*`: live, applies to the next shutdown.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DrainConfig {
    /// From the first stop token to the end of the last child. Kubernetes grants 30 s by default.
    pub deadline: Duration,
    /// Between announcing the shutdown and stopping the first child, for load balancers to notice.
    pub linger: Duration,
}

impl Default for DrainConfig {
    fn default() -> Self {
        DrainConfig {
            deadline: Duration::from_secs(5),
            linger: Duration::ZERO,
        }
    }
}

/// `stall.*`: live.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct StallConfig {
    /// A poll that holds its worker longer is reported with the child's name.
    pub threshold: Duration,
}

impl Default for StallConfig {
    fn default() -> Self {
        StallConfig {
            threshold: Duration::from_millis(250),
        }
    }
}

/// `runtime.*`: the threads that [`run`](crate::KernelBuilder::run) makes for children. An embedded kernel has those of the
/// runtime that it is started on.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RuntimeConfig {
    /// Threads that poll tasks, 1 to 1,024; unset: as many as the machine has processors, or as `TOKIO_WORKER_THREADS`
    /// says.
    pub workers: Option<usize>,
    /// Threads at most for what blocks, 1 to 4,096. 512, as tokio's own: they are made when they are needed and end after
    /// 10 s without work, so the limit costs nothing until it is the only thing that keeps a slow disk from taking all
    /// memory for stacks.
    pub blocking: usize,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        RuntimeConfig {
            workers: None,
            blocking: 512,
        }
    }
}

impl RuntimeConfig {
    const WORKERS: RangeInclusive<usize> = 1..=1024;
    const BLOCKING: RangeInclusive<usize> = 1..=4096;

    /// The first of the numbers that cannot be: the schema has checked what was loaded, not what was made by hand.
    pub(crate) fn defect(&self) -> Option<(&'static str, usize, RangeInclusive<usize>)> {
        let workers = self.workers.filter(|count| !Self::WORKERS.contains(count));
        let blocking = Some(self.blocking).filter(|count| !Self::BLOCKING.contains(count));
        let workers = workers.map(|count| ("runtime.workers", count, Self::WORKERS));
        workers.or(blocking.map(|count| ("runtime.blocking", count, Self::BLOCKING)))
    }
}

/// `bus.*`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct BusSettings {
    /// Events kept per kernel topic. 4096: a reader may be away for 4 s at 1,000 events a second.
    pub capacity: usize,
}

impl Default for BusSettings {
    fn default() -> Self {
        BusSettings { capacity: 4096 }
    }
}

/// `amnesia.*`: cold, one flag for the whole process.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct AmnesiaConfig {
    /// RAM only: hosts write no file after start.
    pub enabled: bool,
}

/// `pq.*`. A mode other than off needs the feature `pq`; hosts enforce it, the kernel shows it.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct PqConfig {
    /// Posture of the X25519MLKEM768 key exchange.
    pub mode: ron_metrics::Pq,
}

/// `observability.*` and `max_conns`. Serving needs the feature `serve`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ObservabilityConfig {
    /// Serve /metrics, /healthz, /livez, /readyz and /version.
    pub expose_http: bool,
    /// Where; loopback unless told otherwise.
    pub addr: SocketAddr,
    /// Connections of the admin listener at a time.
    pub max_conns: usize,
    /// PEM certificate chain; with `tls_key` the listener speaks TLS (feature `tls`).
    pub tls_cert: Option<PathBuf>,
    /// PEM private key, not readable by group or others.
    pub tls_key: Option<PathBuf>,
}

impl Default for ObservabilityConfig {
    fn default() -> Self {
        ObservabilityConfig {
            expose_http: false,
            addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 9909)),
            max_conns: 1024,
            tls_cert: None,
            tls_key: None,
        }
    }
}

/// `log.*`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LogConfig {
    /// JSON lines for machines, text for a terminal.
    pub format: LogFormat,
    /// Filter directives, as in `info,ron_kernel=debug`.
    pub level: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig {
            format: LogFormat::Json,
            level: "info".to_owned(),
        }
    }
}

/// Shape of the log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// For people.
    Text,
}

/// `control.*`.
#[cfg(feature = "control")]
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ControlConfig {
    /// Directory of the control socket, mode 0700; unset: [`run_dir`](crate::control::run_dir).
    pub dir: Option<PathBuf>,
}

/// `chaos.*`: live. Nothing is injected unless `armed`.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ChaosConfig {
    /// Whether faults may be injected at all.
    pub armed: bool,
    /// The child that gets them.
    pub default_child: Option<String>,
    /// The fault it suffers in every incarnation until this is `none` again.
    pub fault: Fault,
}

/// What an injected fault does to a task child. Complete: what a poll can do wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Panics.
    Panic,
    /// Returns an error.
    Exit,
    /// Never makes progress again and ignores its stop token.
    Hang,
    /// Holds its worker thread for 2 s.
    Block,
}

impl Fault {
    /// The word for it in configuration and events.
    pub fn name(self) -> &'static str {
        match self {
            Fault::None => "none",
            Fault::Panic => "panic",
            Fault::Exit => "exit",
            Fault::Hang => "hang",
            Fault::Block => "block",
        }
    }
}

impl Settings for Config {
    fn schema(schema: &mut Schema<Self>) {
        let ms = Duration::from_millis;
        let hour = Duration::from_secs(3600);
        schema
            .key("supervisor.min_backoff", |c: &mut Config| {
                &mut c.supervisor.min_backoff
            })
            .doc("shortest delay before a restart")
            .range(Duration::ZERO..=hour)
            .reload(Reload::Live);
        schema
            .key("supervisor.max_backoff", |c: &mut Config| {
                &mut c.supervisor.max_backoff
            })
            .doc("longest delay before a restart")
            .range(Duration::ZERO..=hour)
            .reload(Reload::Live);
        schema
            .key("supervisor.restart_cap", |c: &mut Config| {
                &mut c.supervisor.restart_cap
            })
            .doc("restarts allowed in one window; the next failure quarantines")
            .range(1..=1000)
            .reload(Reload::Live);
        schema
            .key("supervisor.restart_window", |c: &mut Config| {
                &mut c.supervisor.restart_window
            })
            .doc("length of the sliding restart window")
            .range(ms(100)..=24 * hour)
            .reload(Reload::Live);
        schema
            .key("supervisor.healthy_after", |c: &mut Config| {
                &mut c.supervisor.healthy_after
            })
            .doc("time ready after which the backoff starts over")
            .range(ms(10)..=24 * hour)
            .reload(Reload::Live);
        schema
            .key("supervisor.give_up_after", |c: &mut Config| {
                &mut c.supervisor.give_up_after
            })
            .doc("a required child quarantined this long ends the process non-zero")
            .range(ms(100)..=24 * 7 * hour)
            .reload(Reload::Live);
        schema
            .key("drain.deadline", |c: &mut Config| &mut c.drain.deadline)
            .doc("from the first stop token to the end of the last child")
            .range(ms(100)..=hour)
            .reload(Reload::Live);
        schema
            .key("drain.linger", |c: &mut Config| &mut c.drain.linger)
            .doc("between announcing the shutdown and stopping the first child")
            .range(Duration::ZERO..=hour)
            .reload(Reload::Live);
        schema
            .key("stall.threshold", |c: &mut Config| &mut c.stall.threshold)
            .doc("a poll that holds its worker longer is reported")
            .range(ms(10)..=Duration::from_secs(60))
            .reload(Reload::Live);
        schema
            .key("runtime.workers", |c: &mut Config| &mut c.runtime.workers)
            .doc("threads that poll tasks; unset: one per processor")
            .range(RuntimeConfig::WORKERS)
            .env("TOKIO_WORKER_THREADS");
        schema
            .key("runtime.blocking", |c: &mut Config| &mut c.runtime.blocking)
            .doc("threads at most for what blocks, such as files")
            .range(RuntimeConfig::BLOCKING);
        schema
            .key("bus.capacity", |c: &mut Config| &mut c.bus.capacity)
            .doc("events kept per kernel topic for slow readers")
            .range(2..=1 << 20);
        schema
            .key("amnesia.enabled", |c: &mut Config| &mut c.amnesia.enabled)
            .doc("RAM only: no file is written after start");
        schema
            .choice(
                "pq.mode",
                |c: &mut Config| &mut c.pq.mode,
                &[
                    ("off", ron_metrics::Pq::Off),
                    ("hybrid", ron_metrics::Pq::Hybrid),
                    ("required", ron_metrics::Pq::Required),
                ],
            )
            .doc("posture of the X25519MLKEM768 key exchange");
        schema
            .key("observability.expose_http", |c: &mut Config| {
                &mut c.observability.expose_http
            })
            .doc("serve /metrics, /healthz, /livez, /readyz and /version");
        schema
            .key("observability.addr", |c: &mut Config| {
                &mut c.observability.addr
            })
            .doc("address of the admin listener")
            .env("RON_KERNEL_METRICS_ADDR")
            .implies("observability.expose_http", "true");
        schema
            .key("max_conns", |c: &mut Config| &mut c.observability.max_conns)
            .doc("connections of the admin listener at a time")
            .range(1..=65_536);
        schema
            .key("observability.tls_cert", |c: &mut Config| {
                &mut c.observability.tls_cert
            })
            .doc(
                "PEM certificate chain of the admin listener; its content is read again on reload",
            );
        schema
            .key("observability.tls_key", |c: &mut Config| {
                &mut c.observability.tls_key
            })
            .doc("PEM private key, mode 0600; its content is read again on reload");
        schema
            .choice(
                "log.format",
                |c: &mut Config| &mut c.log.format,
                &[("json", LogFormat::Json), ("text", LogFormat::Text)],
            )
            .doc("shape of the log lines");
        schema
            .key("log.level", |c: &mut Config| &mut c.log.level)
            .doc("log filter, as in info,ron_kernel=debug")
            .env("RON_LOG")
            .env_first("RUST_LOG")
            .reload(Reload::Live);
        schema
            .key("chaos.armed", |c: &mut Config| &mut c.chaos.armed)
            .doc("whether faults may be injected")
            .reload(Reload::Live);
        schema
            .key("chaos.default_child", |c: &mut Config| {
                &mut c.chaos.default_child
            })
            .doc("the child that gets injected faults")
            .reload(Reload::Live);
        schema
            .choice(
                "chaos.fault",
                |c: &mut Config| &mut c.chaos.fault,
                &[
                    ("none", Fault::None),
                    ("panic", Fault::Panic),
                    ("exit", Fault::Exit),
                    ("hang", Fault::Hang),
                    ("block", Fault::Block),
                ],
            )
            .doc("the fault it suffers in every incarnation")
            .reload(Reload::Live);
        #[cfg(feature = "control")]
        schema
            .key("control.dir", |c: &mut Config| &mut c.control.dir)
            .doc("directory of the control socket, mode 0700; $RON_RUN_DIR where this is unset");
        schema
            .list("service", |c: &mut Config| &mut c.services)
            .doc("processes to run as children; configs/ron-kernel.toml shows every key of a table")
            .check(|services| service::names_are_unique(services));
        schema.check(&["supervisor.min_backoff", "supervisor.max_backoff"], |c| {
            let (min, max) = (c.supervisor.min_backoff, c.supervisor.max_backoff);
            (min <= max).then_some(()).ok_or_else(|| {
                format!("supervisor.min_backoff {min:?} is above supervisor.max_backoff {max:?}")
            })
        });
        schema.check(&["observability.tls_cert", "observability.tls_key"], |c| {
            let pair = (&c.observability.tls_cert, &c.observability.tls_key);
            match pair {
                (Some(_), None) => Err("is set without observability.tls_key".to_owned()),
                (None, Some(_)) => Err("is set without observability.tls_cert".to_owned()),
                _ => Ok(()),
            }
        });
        schema.check(
            &["chaos.armed", "chaos.fault", "chaos.default_child"],
            |c| {
                if c.chaos.fault == Fault::None {
                    return Ok(());
                }
                if !c.chaos.armed {
                    return Err("chaos.fault is set while chaos.armed is false".to_owned());
                }
                if c.chaos.default_child.is_none() {
                    return Err("chaos.fault is set without chaos.default_child".to_owned());
                }
                Ok(())
            },
        );
    }
}

impl Config {
    /// The children that it asks for.
    #[cfg(feature = "process")]
    pub(crate) fn children(&self) -> impl Iterator<Item = Child> + '_ {
        let services = self.services.iter().map(ServiceConfig::child);
        services.chain(self.preset.children())
    }

    /// Those of [`children`](Self::children), by their position there, that get sockets: bound now.
    #[cfg(feature = "process")]
    pub(crate) fn listening(&self) -> Result<Vec<(usize, Child)>, ListenError> {
        let services = self.services.iter().enumerate();
        let bound = services.filter_map(|(at, service)| {
            let child = service.listening().transpose()?;
            Some(child.map(|child| (at, child)))
        });
        bound.collect()
    }

    /// None: what asks for children needs the feature.
    #[cfg(not(feature = "process"))]
    pub(crate) fn children(&self) -> impl Iterator<Item = Child> {
        std::iter::empty()
    }

    /// The first key that asks for processes.
    pub(crate) fn process_key(&self) -> Option<&'static str> {
        match (self.services.is_empty(), self.preset.is_on()) {
            (false, _) => Some("service"),
            (true, true) => Some("preset"),
            (true, false) => None,
        }
    }

    /// The part the supervisor works with. The schema has checked the numbers; a hand-made `Config` is
    /// checked here.
    pub(crate) fn defaults(&self) -> Result<Defaults, crate::supervisor::PolicyError> {
        let s = &self.supervisor;
        Ok(Defaults {
            backoff: Backoff::new(s.min_backoff, s.max_backoff)?,
            intensity: Intensity::new(s.restart_cap, s.restart_window)?,
            healthy_after: s.healthy_after,
            give_up_after: s.give_up_after,
        })
    }
}
