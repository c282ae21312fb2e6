//! The control plane: every question of an operator, answered over a Unix socket.
//!
//! HTTP/1.1 with JSON on `<service>.<instance>.sock` in [`run_dir`]: a directory of mode 0700, a socket of mode 0600,
//! and a look at who connects by the system's word (this process's user or root, nobody else). Nothing of it is
//! reachable over TCP. It is served by a thread of its own, so it answers while every worker is blocked. `ronctl` is its
//! client; any HTTP client that speaks to Unix sockets will do, if it leaves its side open until it has the answer:
//!
//! ```text
//! curl --unix-socket /run/ron/thumbs.1f3-19a.sock http://thumbs/v1/explain
//! ```
//!
//! ```
//! use ron_kernel::control::Control;
//! use ron_kernel::Kernel;
//! # let dir = tempfile::tempdir()?;
//! # let dir = dir.path().join("run");
//! let kernel = Kernel::builder().name("thumbs").control(Control::new().dir(dir)).build()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | path | question |
//! |---|---|
//! | `GET /v1/about`, `/v1/ready`, `/v1/tree`, `/v1/top` | what runs here, and how is it? |
//! | `GET /v1/explain` | what is wrong, root cause first? `?id=` why is this child so, `?of=ready` why is it not ready |
//! | `GET /v1/tail?topic=&since=` | what happens now? one JSON line an event, gaps included; the service's name is `kernel`, unless it is a topic |
//! | `GET /v1/changes?since=` | what changed? |
//! | `GET /v1/bus` | who loses messages? |
//! | `GET /v1/config`, `?key=`, `POST /v1/config/check`, `/v1/config/reload` | which value is in force, from where? |
//! | `POST /v1/drain` | what is lost if I drain? `dry_run`, `wait` |
//! | `POST /v1/children/restart`, `stop`, `start`, `release` | stop the bleeding |
//! | `GET`, `POST`, `DELETE /v1/chaos` | drills |
//!
//! What operators ask for is logged (`operator_command`) and kept in the record of changes with their user and process.

mod answers;
mod diagnosis;
mod drills;
mod fields;
mod record;
mod routes;
mod server;
mod situation;
mod socket;
mod tail;

use crate::supervisor::engine::Engine;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

pub use diagnosis::{Diagnosis, Finding, Gravity};
pub use socket::SocketError;

pub(crate) use diagnosis::diagnose;
pub(crate) use record::{EntryKind, News, Record};
pub(crate) use server::Server;
pub(crate) use situation::situation;

/// The control plane of a kernel; see [`KernelBuilder::control`](crate::KernelBuilder::control).
#[derive(Clone, Default)]
pub struct Control {
    dir: Option<PathBuf>,
    routes: Vec<Route>,
}

/// A route of the host's.
#[derive(Clone)]
pub(crate) struct Route {
    method: Method,
    path: String,
    handler: Arc<dyn Fn(Request) -> Result<Value, Refused> + Send + Sync>,
}

/// What a [`Control::route`] answers to. Complete: what the control plane speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Asks.
    Get,
    /// Acts.
    Post,
    /// Takes back.
    Delete,
}

impl Method {
    fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Delete => "DELETE",
        }
    }
}

/// A request to a [`Control::route`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Request {
    /// The members of the query, decoded.
    pub query: BTreeMap<String, String>,
    /// The body; null without one.
    pub body: Value,
    /// The user and process that asks, as in `uid 0 pid 7`.
    pub by: String,
}

/// A request that a [`Control::route`] does not carry out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refused {
    /// HTTP status, 400 to 599.
    pub status: u16,
    /// A word for programs.
    pub code: &'static str,
    /// A line for people: what, where, and what would be right.
    pub message: String,
}

impl Refused {
    /// A refusal; a status outside of 400 to 599 becomes 500.
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> Refused {
        Refused {
            status,
            code,
            message: message.into(),
        }
    }
}

/// Where sockets lie unless the program says otherwise: `$RON_RUN_DIR`, `$RUNTIME_DIRECTORY` (the first of
/// several), `/run/ron` for root, `$XDG_RUNTIME_DIR/ron`, else `ron-UID` in the directory for temporary files.
pub fn run_dir() -> PathBuf {
    crate::run_dir::run_dir()
}

impl Control {
    /// The control plane in the directory that `control.dir` names, else in [`run_dir`].
    ///
    /// Where the configuration names none and the default cannot be used, the service starts without a control plane
    /// and its log says why: a socket for operators is not worth an outage.
    pub fn new() -> Control {
        Control::default()
    }

    /// Another directory; it is made with mode 0700 if its parent exists. Not usable: the kernel does not start.
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Control {
        self.dir = Some(dir.into());
        self
    }

    /// Adds a route of the host's; by custom below `/v1/`. One of the kernel's own with the same method and path wins.
    ///
    /// The handler may block: it runs on a thread for such work. What it asks for with [`Method::Post`] and
    /// [`Method::Delete`] is recorded as an operator's command.
    pub fn route(
        mut self,
        method: Method,
        path: impl Into<String>,
        handler: impl Fn(Request) -> Result<Value, Refused> + Send + Sync + 'static,
    ) -> Control {
        self.routes.push(Route {
            method,
            path: path.into(),
            handler: Arc::new(handler),
        });
        self
    }

    /// Opens the socket and serves it.
    pub(crate) fn serve(self, engine: &Arc<Engine>) -> Result<Option<Server>, crate::KernelError> {
        let chosen = self.dir.or_else(|| engine.config().control.dir.clone());
        let is_default = chosen.is_none();
        let dir = chosen.unwrap_or_else(run_dir);
        let (service, instance) = {
            let telemetry = &engine.telemetry;
            (
                telemetry.metrics.service().to_owned(),
                telemetry.bus.instance().to_owned(),
            )
        };
        let socket = match socket::open(&dir, &service, &instance) {
            Ok(socket) => socket,
            Err(error) if is_default => {
                let reason = error.to_string();
                tracing::warn!(
                    event = "control_unavailable",
                    reason,
                    "no control plane; ronctl cannot reach this process"
                );
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let server = Server::start(socket, routes::Service::new(engine, self.routes));
        let server = server.map_err(|source| crate::KernelError::Start {
            what: "the control thread",
            source,
        })?;
        let path = server.path().display().to_string();
        tracing::info!(
            event = "control_listening",
            path,
            "control socket at {path}"
        );
        Ok(Some(server))
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let routes: Vec<String> = self
            .routes
            .iter()
            .map(|route| format!("{} {}", route.method.name(), route.path))
            .collect();
        f.debug_struct("Control")
            .field("dir", &self.dir)
            .field("routes", &routes)
            .finish()
    }
}
