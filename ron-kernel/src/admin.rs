//! The admin listener: opened before the first child starts, closed after the last has ended.

use crate::config::Config;
use crate::kernel::KernelError;
use ron_metrics::{Metrics, ServeOptions, ServerHandle};
use std::time::Duration;

/// How long the exit waits for answers under way.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

pub(crate) struct Admin {
    server: ServerHandle,
    tls: Option<TlsRotation>,
}

/// Reads certificate and key again.
#[derive(Clone)]
pub(crate) struct TlsRotation {
    #[cfg(feature = "tls")]
    tls: ron_metrics::Tls,
    #[cfg(not(feature = "tls"))]
    never: std::convert::Infallible,
}

/// Listens where the configuration says, if it says so.
pub(crate) fn serve(config: &Config, metrics: &Metrics) -> Result<Option<Admin>, KernelError> {
    let settings = &config.observability;
    if !settings.expose_http {
        return Ok(None);
    }
    let options = ServeOptions::default().max_conns(settings.max_conns);
    let (options, tls) = with_tls(config, options)?;
    let server = metrics.serve_with(settings.addr, options)?;
    let addr = server.addr().to_string();
    let scheme = if tls.is_some() { "https" } else { "http" };
    tracing::info!(
        event = "admin_listening",
        addr,
        scheme,
        "admin listener on {scheme}://{addr}"
    );
    Ok(Some(Admin { server, tls }))
}

#[cfg(feature = "tls")]
fn with_tls(
    config: &Config,
    options: ServeOptions,
) -> Result<(ServeOptions, Option<TlsRotation>), KernelError> {
    let settings = &config.observability;
    let (Some(cert), Some(key)) = (&settings.tls_cert, &settings.tls_key) else {
        return Ok((options, None));
    };
    let files = ron_metrics::TlsFiles {
        cert: cert.clone(),
        key: key.clone(),
    };
    let tls = ron_metrics::Tls::load(files)?;
    Ok((options.tls(tls.clone()), Some(TlsRotation { tls })))
}

#[cfg(not(feature = "tls"))]
fn with_tls(
    _: &Config,
    options: ServeOptions,
) -> Result<(ServeOptions, Option<TlsRotation>), KernelError> {
    Ok((options, None))
}

impl Admin {
    pub(crate) fn tls(&self) -> Option<TlsRotation> {
        self.tls.clone()
    }

    /// Stops listening and gives answers under way a moment.
    pub(crate) async fn close(self) {
        self.server.shutdown();
        let (ending, ended) = tokio::sync::oneshot::channel();
        // Not on the runtime's threads: a runtime that is dropped would wait for the one that joins.
        let joining = std::thread::Builder::new().spawn(move || {
            self.server.join();
            let _ = ending.send(());
        });
        if joining.is_ok() {
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, ended).await;
        }
    }
}

impl TlsRotation {
    /// After a failure the old certificate stays in use; the log says so.
    #[cfg(feature = "tls")]
    pub(crate) fn rotate(&self) {
        match self.tls.reload() {
            Ok(()) => tracing::info!(event = "tls_rotated", "certificate and key read again"),
            Err(error) => {
                tracing::error!(event = "tls_rotation_failed", error = %error, "the old certificate stays in use");
            }
        }
    }

    #[cfg(not(feature = "tls"))]
    pub(crate) fn rotate(&self) {
        match self.never {}
    }
}
