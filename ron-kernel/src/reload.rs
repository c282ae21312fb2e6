//! Carrying out configuration reloads: the transaction is ron-config's, its consequences are ours.

use crate::config::Config;
use crate::event::KernelEvent;
use crate::supervisor::engine::Engine;
use crate::supervisor::machine::Refused;
use ron_config::{ConfigErrors, Loaded, ReloadReport, Settings};
use ron_metrics::Condition;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// Readiness key of a rejected reload.
const RELOAD_KEY: &str = "config_reload";

/// Why nothing was reloaded; the last good configuration stays in force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// The kernel was built with a fixed [`Config`].
    #[error("the configuration is fixed; build the kernel with `loaded` to reload it")]
    Fixed,
    /// The new configuration was rejected.
    #[error(transparent)]
    Rejected(ConfigErrors),
    /// The kernel is gone.
    #[error("the kernel has ended")]
    Ended,
}

/// A loaded configuration of any type that contains the kernel's.
pub(crate) trait Reloadable: Send + Sync {
    fn reload(&self) -> Result<ReloadReport, ConfigErrors>;
    fn config(&self) -> Config;
    fn sha256(&self) -> String;
    fn watcher(&self) -> std::io::Result<Option<ron_config::FileWatcher>>;
    #[cfg(feature = "control")]
    fn version(&self) -> u64;
    #[cfg(feature = "control")]
    fn print(&self) -> ron_config::Printed;
    #[cfg(feature = "control")]
    fn explain(&self, key: &str) -> Result<ron_config::Explanation, ron_config::UnknownKey>;
    /// What a reload would do; of another file, if one is named.
    #[cfg(feature = "control")]
    fn plan(&self, file: Option<&std::path::Path>) -> Result<ReloadReport, ConfigErrors>;
}

pub(crate) struct Part<T: Settings> {
    loaded: Loaded<T>,
    part: fn(&T) -> Config,
}

impl<T: Settings> Part<T> {
    pub(crate) fn new(loaded: Loaded<T>, part: fn(&T) -> Config) -> Self {
        Part { loaded, part }
    }
}

impl<T: Settings> Reloadable for Part<T> {
    fn reload(&self) -> Result<ReloadReport, ConfigErrors> {
        self.loaded.reload()
    }

    fn config(&self) -> Config {
        (self.part)(&self.loaded.snapshot())
    }

    fn sha256(&self) -> String {
        self.loaded.sha256()
    }

    fn watcher(&self) -> std::io::Result<Option<ron_config::FileWatcher>> {
        self.loaded.file_watcher()
    }

    #[cfg(feature = "control")]
    fn version(&self) -> u64 {
        self.loaded.version()
    }

    #[cfg(feature = "control")]
    fn print(&self) -> ron_config::Printed {
        self.loaded.print()
    }

    #[cfg(feature = "control")]
    fn explain(&self, key: &str) -> Result<ron_config::Explanation, ron_config::UnknownKey> {
        self.loaded.explain(key)
    }

    #[cfg(feature = "control")]
    fn plan(&self, file: Option<&std::path::Path>) -> Result<ReloadReport, ConfigErrors> {
        match file {
            Some(file) => self.loaded.plan_file(file),
            None => self.loaded.plan(),
        }
    }
}

/// Why the configuration on disk is not in force.
#[cfg_attr(not(feature = "control"), allow(dead_code))]
#[derive(Clone, Debug)]
struct Rejection {
    at: SystemTime,
    why: String,
    /// Pretended, by fault injection.
    drill: bool,
}

/// Reloads on request and when the file changes.
pub(crate) struct Reloader {
    engine: Weak<Engine>,
    source: Arc<dyn Reloadable>,
    rejected_unready: bool,
    /// That the last reload was rejected; a drill's pretence stands in the same place. Readiness changes under this
    /// lock, so that a drill and a reload that meet leave no half of either.
    rejection: Mutex<Option<Rejection>>,
    watching: Mutex<Option<JoinHandle<()>>>,
    #[cfg(feature = "serve")]
    tls: Option<crate::admin::TlsRotation>,
}

impl Reloader {
    pub(crate) fn start(
        engine: &Arc<Engine>,
        source: Arc<dyn Reloadable>,
        rejected_unready: bool,
        runtime: &Handle,
        #[cfg(feature = "serve")] tls: Option<crate::admin::TlsRotation>,
    ) -> Arc<Reloader> {
        let watcher = source.watcher().unwrap_or_else(|error| {
            tracing::error!(event = "config_watch", error = %error, "configuration file is not watched; SIGHUP still reloads it");
            None
        });
        let reloader = Arc::new(Reloader {
            engine: Arc::downgrade(engine),
            source,
            rejected_unready,
            rejection: Mutex::new(None),
            watching: Mutex::new(None),
            #[cfg(feature = "serve")]
            tls,
        });
        engine
            .telemetry
            .metrics
            .golden()
            .config_last_reload_successful
            .set(1);
        if let Some(mut watcher) = watcher {
            let watched = Arc::downgrade(&reloader);
            let task = runtime.spawn(async move {
                loop {
                    watcher.changed().await;
                    let Some(reloader) = watched.upgrade() else {
                        return;
                    };
                    // The outcome is told by `reload` itself.
                    let _ = reloader.reload("file change").await;
                }
            });
            *reloader
                .watching
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = Some(task);
        }
        engine.set_reloader(Arc::downgrade(&reloader));
        reloader
    }

    /// Runs one reload off the async threads and carries out its consequences, whether or not anybody waits for them.
    pub(crate) async fn reload(
        self: &Arc<Self>,
        trigger: &str,
    ) -> Result<ReloadReport, ReloadError> {
        let engine = self.engine.upgrade().ok_or(ReloadError::Ended)?;
        let (reloader, trigger) = (self.clone(), trigger.to_owned());
        let runtime = engine.runtime().clone();
        let done = runtime.spawn_blocking(move || {
            let result = reloader.source.reload();
            engine.telemetry.metrics.golden().config_reload_total.inc();
            // That of the configuration in force, whether or not it is what the file says.
            #[cfg(feature = "serve")]
            if let Some(tls) = &reloader.tls {
                tls.rotate();
            }
            match result {
                Ok(report) => {
                    reloader.accepted(&engine, &report, &trigger);
                    Ok(report)
                }
                Err(errors) => {
                    reloader.rejected(&engine, &errors, &trigger);
                    Err(ReloadError::Rejected(errors))
                }
            }
        });
        done.await.map_err(|_| ReloadError::Ended)?
    }

    fn accepted(&self, engine: &Arc<Engine>, report: &ReloadReport, trigger: &str) {
        let telemetry = &engine.telemetry;
        telemetry
            .metrics
            .golden()
            .config_last_reload_successful
            .set(1);
        let recovered = {
            let mut rejection = self.rejection();
            telemetry.health.clear(RELOAD_KEY);
            rejection.take().is_some_and(|one| !one.drill)
        };
        let applied = report.applied().join(", ");
        let needs_restart = report.needs_restart().join(", ");
        let pinned = report.pinned().join(", ");
        let version = report.version();
        let diff = report
            .diff()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; ");
        if !report.applied().is_empty() {
            // The schema has checked what `apply_config` can refuse.
            if let Err(error) = engine.apply_config(Arc::new(self.source.config())) {
                tracing::error!(event = "config_updated", error = %error, "ConfigUpdated{{error}}");
            }
            tracing::info!(
                event = "config_updated",
                version,
                trigger,
                applied,
                needs_restart,
                pinned,
                diff,
                "ConfigUpdated"
            );
            #[cfg(feature = "control")]
            telemetry.remember(
                crate::control::News::of_service(
                    crate::control::EntryKind::Config,
                    format!("configuration version {version}: {diff}"),
                )
                .by(trigger),
            );
            telemetry.kernel_event(KernelEvent::ConfigUpdated { version });
        } else {
            tracing::info!(
                event = "config_unchanged",
                version,
                trigger,
                recovered,
                needs_restart,
                pinned,
                "configuration unchanged"
            );
        }
        telemetry.set_config_sha(self.source.sha256());
        for child in report.restarts() {
            let restarted = engine.control(|machine, now| {
                let key = machine.find(child).ok_or(Refused::Unknown)?;
                machine.restart(now, key)
            });
            if restarted.is_err() {
                tracing::error!(
                    event = "config_updated",
                    child,
                    "a changed key needs this child restarted, which failed"
                );
            }
        }
    }

    fn rejected(&self, engine: &Engine, errors: &ConfigErrors, trigger: &str) {
        let telemetry = &engine.telemetry;
        let golden = telemetry.metrics.golden();
        golden.config_reload_errors_total.inc();
        golden.config_last_reload_successful.set(0);
        let mut first = String::new();
        for diagnostic in errors.iter() {
            let (key, place, problem) = (diagnostic.key(), diagnostic.place(), diagnostic.what());
            let expected = diagnostic.what_is_expected().unwrap_or_default();
            let suggestion = diagnostic.did_you_mean().unwrap_or_default();
            tracing::error!(
                event = "config_rejected",
                trigger,
                key,
                r#where = place,
                problem,
                expected,
                suggestion,
                "ConfigUpdated{{error}}"
            );
            if first.is_empty() {
                first = format!("{key} at {place}: {problem}");
            }
        }
        let more = match errors.len() {
            0 | 1 => String::new(),
            n => format!(" (and {} more)", n - 1),
        };
        let reason = format!("{first}{more}; the last good configuration stays in force");
        #[cfg(feature = "control")]
        {
            let news = crate::control::News::of_service(
                crate::control::EntryKind::Rejected,
                format!("configuration rejected: {first}{more}"),
            );
            telemetry.remember(news.by(trigger));
        }
        let mut rejection = self.rejection();
        *rejection = Some(Rejection {
            at: SystemTime::now(),
            why: format!("{first}{more}"),
            drill: false,
        });
        telemetry.health.set(RELOAD_KEY, self.condition(reason));
    }

    fn rejection(&self) -> MutexGuard<'_, Option<Rejection>> {
        self.rejection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn condition(&self, reason: String) -> Condition {
        if self.rejected_unready {
            Condition::not_ready(reason)
        } else {
            Condition::degraded(reason)
        }
    }

    pub(crate) async fn close(&self) {
        let watching = self
            .watching
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(watching) = watching {
            watching.abort();
            let _ = watching.await;
        }
    }
}

#[cfg(feature = "control")]
impl Reloader {
    pub(crate) fn source(&self) -> &Arc<dyn Reloadable> {
        &self.source
    }

    /// When and why the configuration on disk was rejected, while it is.
    pub(crate) fn rejected_since(&self) -> Option<(SystemTime, String)> {
        let rejection = self.rejection();
        rejection.as_ref().map(|one| (one.at, one.why.clone()))
    }

    /// Keys whose new value needs a restart of the process.
    pub(crate) fn pending_keys(&self) -> Vec<String> {
        let printed = self.source.print();
        let pending = printed
            .values()
            .iter()
            .filter(|one| one.pending().is_some());
        pending.map(|one| one.key().to_owned()).collect()
    }

    /// Pretends that a reload was rejected, with all that people would see of it; `false` where one really was.
    pub(crate) fn reject_drill(&self) -> bool {
        let Some(engine) = self.engine.upgrade() else {
            return false;
        };
        let why = "injected fault: config".to_owned();
        {
            let mut rejection = self.rejection();
            if rejection.is_some() {
                return false;
            }
            *rejection = Some(Rejection {
                at: SystemTime::now(),
                why: why.clone(),
                drill: true,
            });
            let condition = self.condition(why.clone());
            engine.telemetry.health.set(RELOAD_KEY, condition);
        }
        let golden = engine.telemetry.metrics.golden();
        golden.config_reload_total.inc();
        golden.config_reload_errors_total.inc();
        golden.config_last_reload_successful.set(0);
        tracing::error!(
            event = "config_rejected",
            trigger = "chaos",
            problem = why,
            "ConfigUpdated{{error}}"
        );
        true
    }

    /// Takes the pretence back, unless a real reload has done so or was rejected since.
    pub(crate) fn end_drill(&self) {
        let Some(engine) = self.engine.upgrade() else {
            return;
        };
        let mut rejection = self.rejection();
        if rejection.as_ref().is_some_and(|one| one.drill) {
            *rejection = None;
            engine.telemetry.health.clear(RELOAD_KEY);
            let golden = engine.telemetry.metrics.golden();
            golden.config_last_reload_successful.set(1);
        }
    }
}
