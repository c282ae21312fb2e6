//! Child processes in the same tree as tasks and threads (feature `process`, Linux).
//!
//! ```
//! use ron_kernel::process::{Command, Probe, Ready};
//! use ron_kernel::supervisor::{Child, Restart};
//! use std::time::Duration;
//!
//! let thumbs = Command::new("./thumbs")
//!     .arg("--listen=127.0.0.1:7001")
//!     .env("THUMBS_CACHE", "64MiB")
//!     .ready(Ready::Probed(Probe::tcp("127.0.0.1:7001")))
//!     .health(Probe::http("127.0.0.1:7001", "/healthz"));
//! let child = Child::process("thumbs", thumbs)
//!     .restart(Restart::Permanent)
//!     .gated(Duration::from_secs(20));
//! assert_eq!(child.name(), "thumbs");
//! ```
//!
//! # How a process runs
//!
//! It leads a process group of its own, with `/dev/null` as input. Lines of its output become log lines with
//! the fields `child`, `generation` and `stream`, of target `ron_kernel::output`: up to 16 KiB each, longer ones in
//! pieces, and 10,000 of each stream in 30 s; what is more is dropped, said, and counted in
//! `ron_kernel_process_output_dropped_total`. It gets this process's environment less what is the kernel's
//! own business (`RON_*`, `NOTIFY_SOCKET`, `WATCHDOG_*`, `LISTEN_*`), and no descriptor but the three standard
//! ones and the [listeners](Command::listener) it is given. Signals have their default action and none is blocked.
//!
//! It is ready by what [`Ready`] says, within [`Child::gated`](crate::supervisor::Child::gated) (10 s unless
//! set). To stop it, its group gets the [stop signal](Command::stop_signal) and, at the end of the stop timeout,
//! SIGKILL. What of its group is alive when it has ended gets SIGKILL before a replacement starts.
//!
//! The runtime needs tokio's I/O driver (`enable_io`). SIGCHLD must not be ignored: where it is, the first start
//! gives it its default back and says so. A program that reaps children it did not start (`waitpid(-1)`) loses
//! how they ended.
//!
//! With [`Child::watchdog`](crate::supervisor::Child::watchdog) it must say `WATCHDOG=1` on the socket of sd_notify(3) within
//! that time (`WATCHDOG_USEC` tells it), or answer its health probe; `WATCHDOG=trigger` is a failure at once.
//!
//! # Survivors
//!
//! See [`Containment`]: what becomes of processes when this one is killed, and of descendants that left their
//! process group when their child stops.

mod cgroup;
mod child;
mod exec;
mod guardian;
mod image;
mod notified;
mod output;
mod probe;
pub(crate) mod spawner;

pub(crate) use child::run;
pub use probe::{Probe, ProbeError, ProbeParseError};

use crate::run_dir::SocketFile;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// When a process child is ready.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ready {
    /// As soon as the program has been executed.
    #[default]
    Started,
    /// When it says `READY=1` to the socket that `NOTIFY_SOCKET` names, as sd_notify(3) does. Any process of
    /// the child's may say it, as long as it runs as this user or root. `STATUS=` becomes the child's status, `WATCHDOG=1` its
    /// heartbeat.
    Notified,
    /// When the probe succeeds; tried every 100 ms at first, every second later.
    Probed(Probe),
    /// This long after the program has been executed, if it still runs.
    After(Duration),
}

/// What asks a process to end. Complete: signals that programs use for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StopSignal {
    /// SIGTERM.
    #[default]
    Term,
    /// SIGINT.
    Int,
    /// SIGQUIT.
    Quit,
    /// SIGHUP.
    Hup,
    /// SIGUSR1.
    Usr1,
    /// SIGUSR2.
    Usr2,
}

/// A program to run as a child: what to execute, how it becomes ready, how its health is asked for.
#[derive(Clone)]
pub struct Command {
    pub(crate) program: OsString,
    pub(crate) args: Vec<OsString>,
    /// In order: a value sets, `None` removes.
    pub(crate) env: Vec<(OsString, Option<OsString>)>,
    pub(crate) env_clear: bool,
    pub(crate) dir: Option<PathBuf>,
    pub(crate) ready: Ready,
    pub(crate) health: Option<Probe>,
    pub(crate) health_every: Duration,
    pub(crate) health_misses: u32,
    pub(crate) stop_signal: StopSignal,
    pub(crate) listeners: Vec<(String, Arc<OwnedFd>)>,
    /// Those of the listeners; they go with the last command that has them.
    pub(crate) files: Vec<Arc<SocketFile>>,
}

/// What the runbook expects of a service.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(10);

/// Three misses of 5 s each: a hung service is noticed within 15 s and one slow answer is no outage.
const HEALTH_EVERY: Duration = Duration::from_secs(5);
const HEALTH_MISSES: u32 = 3;

impl Command {
    /// A program: a path, if it contains a `/`, else a name that is looked for in `PATH` at each start.
    pub fn new(program: impl AsRef<OsStr>) -> Command {
        Command {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            env_clear: false,
            dir: None,
            ready: Ready::default(),
            health: None,
            health_every: HEALTH_EVERY,
            health_misses: HEALTH_MISSES,
            stop_signal: StopSignal::default(),
            listeners: Vec::new(),
            files: Vec::new(),
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Command {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Command {
        let args = args.into_iter().map(|arg| arg.as_ref().to_owned());
        self.args.extend(args);
        self
    }

    /// Sets a variable of its environment, one of the kernel's own included.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Command {
        let (name, value) = (name.as_ref().to_owned(), value.as_ref().to_owned());
        self.env.push((name, Some(value)));
        self
    }

    /// Removes a variable that it would inherit.
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Command {
        self.env.push((name.as_ref().to_owned(), None));
        self
    }

    /// Inherits nothing: its environment is what [`env`](Self::env) sets, also before this.
    pub fn env_clear(mut self) -> Command {
        self.env_clear = true;
        self
    }

    /// Its working directory; default this process's.
    pub fn current_dir(mut self, dir: impl Into<PathBuf>) -> Command {
        self.dir = Some(dir.into());
        self
    }

    /// When it is ready; default [`Ready::Started`].
    pub fn ready(mut self, ready: Ready) -> Command {
        self.ready = ready;
        self
    }

    /// Asks for its health once it is ready: every 5 s, each answer within that time too. Three misses in a row
    /// are a failure like any other: it is stopped and restarted by its policy.
    pub fn health(mut self, probe: Probe) -> Command {
        self.health = Some(probe);
        self
    }

    /// How often [`health`](Self::health) is asked for, at least every 10 ms, and how many misses in a row are a
    /// failure, at least one.
    pub fn health_every(mut self, interval: Duration, misses: u32) -> Command {
        self.health_every = interval.max(Duration::from_millis(10));
        self.health_misses = misses.max(1);
        self
    }

    /// What asks it to end; sent to its whole group, followed by SIGCONT. Default SIGTERM.
    pub fn stop_signal(mut self, signal: StopSignal) -> Command {
        self.stop_signal = signal;
        self
    }

    /// Hands it a listening socket, as systemd does (`LISTEN_FDS`, `LISTEN_FDNAMES`): descriptor 3 for the first,
    /// 4 for the second. The socket stays open here, so no connection is refused while the child restarts; those
    /// that come meanwhile wait in its backlog.
    ///
    /// A name that contains `:` is refused at the start. The socket is put into blocking mode at each start; a child that
    /// wants another sets it.
    pub fn listener(mut self, name: impl Into<String>, socket: impl Into<OwnedFd>) -> Command {
        self.listeners.push((name.into(), Arc::new(socket.into())));
        self
    }
}

impl fmt::Debug for Command {
    /// Without the values of variables, which may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Command")
            .field("program", &self.program)
            .field("args", &self.args)
            .field("dir", &self.dir)
            .field("ready", &self.ready)
            .field("health", &self.health)
            .finish_non_exhaustive()
    }
}

/// What becomes of the processes of a kernel that is killed, from the strongest to the weakest. The level in force is
/// in `/version`, in the log line `containment`, and from [`KernelHandle::containment`](crate::KernelHandle::containment).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Containment {
    /// All descendants die: they are in a cgroup of the kernel's, which its guardian kills. One leaf for each
    /// incarnation, so that a descendant that left its group ends with its child, too. Needs cgroup version 2,
    /// writable (`Delegate=yes` under systemd), and `/bin/sh`. A guardian that is stopped or killed is replaced within a
    /// second; only one that is stopped and whose kernel is killed in that second does nothing until it is continued.
    Cgroup,
    /// The process groups of all children die by the guardian, the children themselves also without it (parent-death
    /// signal). A descendant that left its group survives; it survives the stop of its child, too.
    GroupAndParentDeath,
    /// There is no guardian (no `/bin/sh`): only the children themselves die, their descendants survive. Nor does a child
    /// die that changed its user, or that is setuid or has file capabilities: the system then takes the signal back.
    ParentDeath,
}

impl Containment {
    /// The word for it in `/version` and the log.
    pub fn name(self) -> &'static str {
        match self {
            Containment::Cgroup => "cgroup",
            Containment::GroupAndParentDeath => "group+pdeathsig",
            Containment::ParentDeath => "pdeathsig",
        }
    }
}
