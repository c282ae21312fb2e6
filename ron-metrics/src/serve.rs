//! Serving the admin routes: on a thread of their own, as a future to supervise, or on a Unix socket.

mod connection;
mod listener;
#[cfg(feature = "tls")]
mod tls;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
#[cfg(unix)]
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;

use crate::metrics::Metrics;
use listener::Listener;

#[cfg(feature = "tls")]
pub use tls::{Tls, TlsError, TlsFiles};

/// Limits of the admin server.
///
/// ```
/// use std::time::Duration;
/// use ron_metrics::ServeOptions;
///
/// let metrics = ron_metrics::Metrics::new("thumbs")?;
/// let options = ServeOptions::default().max_conns(8).idle_timeout(Duration::from_secs(60));
/// let server = metrics.serve_with("127.0.0.1:0", options)?;
/// assert!(server.addr().ip().is_loopback());
/// server.join();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServeOptions {
    max_conns: usize,
    read_timeout: Duration,
    write_timeout: Duration,
    idle_timeout: Duration,
    max_header_bytes: usize,
    max_headers: usize,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
}

impl Default for ServeOptions {
    /// 64 connections: a pair of Prometheus servers, probes and people need a handful. 2 s for a request head, which
    /// fits one packet; 10 s for a response, after which Prometheus has given up by default; 15 s idle. 16 KiB and 64
    /// headers, twice what any scraper sends.
    fn default() -> Self {
        ServeOptions {
            max_conns: 64,
            read_timeout: Duration::from_secs(2),
            write_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(15),
            max_header_bytes: 16 * 1024,
            max_headers: 64,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

impl ServeOptions {
    /// Connections at once, at least 1. At the limit a new connection takes the place of the one that has been idle
    /// longest, else of the one that has been at the same request or response longest; that one is closed and counted
    /// in `rejected_total{reason="admin_evicted"}`.
    #[must_use]
    pub fn max_conns(mut self, max_conns: usize) -> Self {
        self.max_conns = max_conns;
        self
    }

    /// Time for a whole request head, TLS handshake included, from the first byte or from the connection.
    #[must_use]
    pub fn read_timeout(mut self, timeout: Duration) -> Self {
        self.read_timeout = timeout;
        self
    }

    /// Time for a whole response.
    #[must_use]
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.write_timeout = timeout;
        self
    }

    /// Time between two requests on a connection.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// Bytes of a request head, at least 8,192. A longer one gets 431.
    #[must_use]
    pub fn max_header_bytes(mut self, bytes: usize) -> Self {
        self.max_header_bytes = bytes;
        self
    }

    /// Headers of a request, at least 1. More get 431.
    #[must_use]
    pub fn max_headers(mut self, headers: usize) -> Self {
        self.max_headers = headers;
        self
    }

    /// Serves TLS only.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    fn check(&self) -> Result<(), (&'static str, &'static str)> {
        let timeouts = [
            ("read_timeout", self.read_timeout),
            ("write_timeout", self.write_timeout),
            ("idle_timeout", self.idle_timeout),
        ];
        if self.max_conns == 0 {
            return Err(("max_conns", "must be at least 1"));
        }
        if self.max_header_bytes < 8 * 1024 {
            return Err(("max_header_bytes", "must be at least 8192"));
        }
        if self.max_headers == 0 {
            return Err(("max_headers", "must be at least 1"));
        }
        match timeouts.iter().find(|(_, timeout)| timeout.is_zero()) {
            Some((name, _)) => Err((name, "must be longer than 0")),
            None => Ok(()),
        }
    }
}

/// The admin server could not start. Displays as `bind error: ADDRESS: ...`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The address could not be listened on.
    #[error("bind error: {addr}: {}", why(.source))]
    Listen {
        /// The address or path asked for.
        addr: String,
        /// What the system said.
        source: io::Error,
    },
    /// An option is out of range.
    #[error("bind error: {addr}: option {option} {expected}")]
    Option {
        /// The address or path asked for.
        addr: String,
        /// The option.
        option: &'static str,
        /// What would be right.
        expected: &'static str,
    },
}

impl BindError {
    /// Whether another process listens there: exit code 98 by convention.
    pub fn is_addr_in_use(&self) -> bool {
        matches!(self, BindError::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse)
    }
}

fn why(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            "already in use; stop the other process or choose another address"
        }
        io::ErrorKind::AddrNotAvailable => "not an address of this machine",
        io::ErrorKind::PermissionDenied => "not permitted to listen there",
        io::ErrorKind::InvalidInput => "not an address: expected IP:PORT",
        io::ErrorKind::NotFound => "the directory does not exist",
        io::ErrorKind::AlreadyExists => {
            "exists and is not a socket; remove it or choose another path"
        }
        _ => "cannot listen there",
    }
}

/// A running admin server on TCP. Dropping it stops the server without waiting.
#[derive(Debug)]
pub struct ServerHandle {
    addr: SocketAddr,
    running: Running,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
}

impl ServerHandle {
    /// The address it listens on, with the port that the system chose if 0 was asked for.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Stops: no new connections from now on, requests being answered are finished within the write timeout. Returns
    /// at once.
    pub fn shutdown(&self) {
        self.running.shutdown();
    }

    /// Stops, and blocks until the last connection is closed. Not for use on a runtime's worker.
    pub fn join(self) {
        self.running.join();
    }

    /// Reads certificate and key again. New connections get the new certificate; established ones stay as they are.
    ///
    /// # Errors
    ///
    /// As [`Tls::load`]; the old certificate then stays in use. [`TlsError::Off`] if the server has no TLS.
    #[cfg(feature = "tls")]
    pub fn reload_tls(&self) -> Result<(), TlsError> {
        self.tls.as_ref().map_or(Err(TlsError::Off), Tls::reload)
    }
}

/// A running admin server on a Unix socket. Dropping it stops the server without waiting; the socket file goes with it.
#[cfg(unix)]
#[derive(Debug)]
pub struct UnixServerHandle {
    path: PathBuf,
    running: Running,
}

#[cfg(unix)]
impl UnixServerHandle {
    /// The socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// As [`ServerHandle::shutdown`].
    pub fn shutdown(&self) {
        self.running.shutdown();
    }

    /// As [`ServerHandle::join`]. The socket file is gone afterwards.
    pub fn join(self) {
        self.running.join();
    }
}

/// The server's thread, which owns its runtime, and the way to stop it.
struct Running {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl Running {
    /// A thread of its own, so that `/livez` answers while the runtime it reports on does not.
    fn start(metrics: &Metrics, listener: Listener, options: ServeOptions) -> io::Result<Running> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let listener = {
            let _inside = runtime.enter();
            listener.register()?
        };
        let (stop, mut stopped) = watch::channel(false);
        let metrics = metrics.clone();
        let thread = std::thread::Builder::new()
            .name("ron-metrics-admin".to_string())
            .spawn(move || {
                let stop = async move {
                    // An error says that the handle is gone, which stops the server too.
                    let _ = stopped.wait_for(|stop| *stop).await;
                };
                runtime.block_on(connection::accept_loop(metrics, listener, options, stop));
            })?;
        Ok(Running { stop, thread })
    }

    fn shutdown(&self) {
        self.stop.send_replace(true);
    }

    fn join(self) {
        self.shutdown();
        // A panic of the server was reported by the panic hook.
        let _ = self.thread.join();
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running")
            .field("finished", &self.thread.is_finished())
            .finish_non_exhaustive()
    }
}

impl Metrics {
    /// Serves the admin routes on `addr`, from a thread with a runtime of its own. Listening when it returns.
    ///
    /// `addr` is the caller's choice; loopback is the safe one, as there is no authentication.
    ///
    /// # Errors
    ///
    /// [`BindError`], which names the address.
    pub fn serve(&self, addr: impl ToSocketAddrs + fmt::Debug) -> Result<ServerHandle, BindError> {
        self.serve_with(addr, ServeOptions::default())
    }

    /// As [`serve`](Metrics::serve), with other limits or TLS.
    ///
    /// # Errors
    ///
    /// As [`serve`](Metrics::serve); or an option is out of range.
    pub fn serve_with(
        &self,
        addr: impl ToSocketAddrs + fmt::Debug,
        options: ServeOptions,
    ) -> Result<ServerHandle, BindError> {
        let asked = format!("{addr:?}").trim_matches('"').to_string();
        check(&options, &asked)?;
        #[cfg(feature = "tls")]
        let tls = options.tls.clone();
        let start = || {
            let listener = TcpListener::bind(addr)?;
            let bound = listener.local_addr()?;
            Ok((
                bound,
                Running::start(self, Listener::tcp(listener)?, options)?,
            ))
        };
        let (addr, running) = start().map_err(|source| BindError::Listen {
            addr: asked,
            source,
        })?;
        Ok(ServerHandle {
            addr,
            running,
            #[cfg(feature = "tls")]
            tls,
        })
    }

    /// Serves the admin routes on a Unix socket with mode 0600, from a thread with a runtime of its own.
    ///
    /// A socket left behind by a dead process is replaced; one that answers, and a file that is no socket, are not.
    /// The socket is removed when the server ends.
    ///
    /// # Errors
    ///
    /// [`BindError`], which names the path.
    #[cfg(unix)]
    pub fn serve_unix(&self, path: impl AsRef<Path>) -> Result<UnixServerHandle, BindError> {
        self.serve_unix_with(path, ServeOptions::default())
    }

    /// As [`serve_unix`](Metrics::serve_unix), with other limits.
    ///
    /// # Errors
    ///
    /// As [`serve_unix`](Metrics::serve_unix); or an option is out of range, TLS among them, which a socket of mode
    /// 0600 does not need.
    #[cfg(unix)]
    pub fn serve_unix_with(
        &self,
        path: impl AsRef<Path>,
        options: ServeOptions,
    ) -> Result<UnixServerHandle, BindError> {
        let path = path.as_ref().to_path_buf();
        let asked = path.display().to_string();
        check(&options, &asked)?;
        #[cfg(feature = "tls")]
        if options.tls.is_some() {
            return Err(BindError::Option {
                addr: asked,
                option: "tls",
                expected: "must be unset on a Unix socket",
            });
        }
        let running = Listener::unix(&path)
            .and_then(|listener| Running::start(self, listener, options))
            .map_err(|source| BindError::Listen {
                addr: asked,
                source,
            })?;
        Ok(UnixServerHandle { path, running })
    }

    /// The same server as a future for the caller's runtime: to supervise, or to serve on an inherited socket. Ends
    /// when `stop` does, after the requests being answered, within the write timeout.
    ///
    /// On a runtime that is stalled nothing is answered, `/livez` included; use [`serve`](Metrics::serve) for that.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the listener and every connection.
    ///
    /// # Errors
    ///
    /// The listener cannot be registered with the runtime, or an option is out of range (`InvalidInput`).
    pub async fn server(
        &self,
        listener: TcpListener,
        stop: impl Future<Output = ()> + Send,
    ) -> io::Result<()> {
        self.server_with(listener, ServeOptions::default(), stop)
            .await
    }

    /// As [`server`](Metrics::server), with other limits or TLS.
    ///
    /// # Errors
    ///
    /// As [`server`](Metrics::server).
    pub async fn server_with(
        &self,
        listener: TcpListener,
        options: ServeOptions,
        stop: impl Future<Output = ()> + Send,
    ) -> io::Result<()> {
        let listener = Listener::tcp(listener)?;
        let addr = listener.to_string();
        check(&options, &addr)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        connection::accept_loop(self.clone(), listener.register()?, options, stop).await;
        Ok(())
    }
}

fn check(options: &ServeOptions, addr: &str) -> Result<(), BindError> {
    options
        .check()
        .map_err(|(option, expected)| BindError::Option {
            addr: addr.to_string(),
            option,
            expected,
        })
}
