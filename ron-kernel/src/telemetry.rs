//! Where the kernel's news goes: topics, metrics, readiness, log.

use crate::config::Config;
use crate::event::{Change, ChildEvent, KernelEvent, KERNEL_TOPIC, LIFECYCLE_TOPIC};
use crate::supervisor::machine::State;
use crate::supervisor::{Exit, Kind};
use ron_bus::{Bus, Topic};
use ron_metrics::{Condition, Counter, Feed, HealthState, KindLabel, Metrics, ServiceLabel, Watch};
use std::collections::HashMap;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Readiness key of the kernel itself: bus active, configuration loaded, supervision running.
const KERNEL_KEY: &str = "kernel";
/// Readiness key of readers that lose events: degraded, never unready.
const LAG_KEY: &str = "bus_lag";

/// Whoever is not ready by then is worth a line; the runbook has people look at 10 s.
const REMIND_AFTER: Duration = Duration::from_secs(10);
/// For so long a look at the processes of children serves a scrape.
#[cfg(feature = "process")]
const USAGE_FRESH: Duration = Duration::from_millis(100);
/// Causes in one log line; `/readyz` has them all.
const CAUSES_LOGGED: usize = 8;

/// Health on tokio's clock, so that it stands still where tests pause it.
pub(crate) struct TokioClock(pub(crate) Instant);

impl ron_metrics::Clock for TokioClock {
    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}

pub(crate) struct Telemetry {
    pub(crate) bus: Bus,
    pub(crate) kernel: Topic<KernelEvent>,
    lifecycle: Topic<ChildEvent>,
    pub(crate) metrics: Metrics,
    pub(crate) health: HealthState,
    service: String,
    watch: Watch,
    /// Wakes the driver; also when the readiness state or its next deadline may have changed.
    pub(crate) alarm: Arc<Notify>,
    tasks: Counter,
    threads: Counter,
    processes: Counter,
    owned: Counter,
    aborted_tasks: Counter,
    aborted_threads: Counter,
    aborted_processes: Counter,
    lagging: AtomicBool,
    /// Has been ready, or has been reminded that it is not.
    was_ready: AtomicBool,
    /// What feeds the collectors; ends with the kernel.
    feeds: Mutex<Vec<Feed>>,
    naming: Mutex<()>,
    /// What readers lost, as of the last look of `watch_lag`.
    losses: Mutex<Losses>,
    #[cfg(feature = "control")]
    pub(crate) record: crate::control::Record,
}

/// Losses by topic and reader.
#[derive(Debug, Default)]
struct Losses {
    ever: HashMap<(Arc<str>, Arc<str>), u64>,
    /// Between the last two looks; readers that lost nothing are absent.
    #[cfg(feature = "control")]
    lately: HashMap<(Arc<str>, Arc<str>), u64>,
}

impl Telemetry {
    pub(crate) fn new(
        bus: Bus,
        metrics: Metrics,
        config: &Config,
    ) -> Result<Telemetry, ron_bus::TopicError> {
        let kernel = bus
            .topic_spec(KERNEL_TOPIC)
            .capacity(config.bus.capacity)
            .json()
            .open()?;
        let lifecycle = bus
            .topic_spec(LIFECYCLE_TOPIC)
            .capacity(config.bus.capacity)
            .json()
            .open()?;
        let health = metrics.health().clone();
        health.require(KERNEL_KEY);
        let alarm = Arc::new(Notify::new());
        let wake = alarm.clone();
        let watch = health.watch(move || wake.notify_one());
        let golden = metrics.golden();
        let spawned = |kind: &str| {
            golden
                .tasks_spawned_total
                .get(&KindLabel::new(kind.to_owned()))
        };
        let aborted = |kind: &str| {
            golden
                .tasks_aborted_total
                .get(&KindLabel::new(kind.to_owned()))
        };
        let telemetry = Telemetry {
            tasks: spawned("task"),
            threads: spawned("thread"),
            processes: spawned("process"),
            owned: spawned("owned"),
            aborted_tasks: aborted("task"),
            aborted_threads: aborted("thread"),
            aborted_processes: aborted("process"),
            service: metrics.service().to_owned(),
            lagging: AtomicBool::new(false),
            was_ready: AtomicBool::new(false),
            feeds: Mutex::new(feed_bus(&bus, &metrics)),
            naming: Mutex::new(()),
            losses: Mutex::new(Losses::default()),
            #[cfg(feature = "control")]
            record: crate::control::Record::default(),
            bus,
            kernel,
            lifecycle,
            health,
            metrics,
            watch,
            alarm,
        };
        Ok(telemetry)
    }

    /// Feeds `ron_kernel_children{state}`.
    pub(crate) fn feed_children(
        &self,
        read: impl Fn() -> Option<[usize; State::COUNT]> + Send + 'static,
    ) {
        const STATES: [State; 10] = [
            State::Waiting,
            State::Starting,
            State::Ready,
            State::Backoff {
                until: Duration::ZERO,
            },
            State::Quarantined { until: None },
            State::Stopping {
                why: crate::supervisor::machine::Why::Joint,
            },
            State::Stuck {
                why: crate::supervisor::machine::Why::Joint,
            },
            State::Leaked {
                why: crate::supervisor::machine::Why::Joint,
            },
            State::Stopped,
            State::Done,
        ];
        let feed = self
            .metrics
            .golden()
            .ron_kernel_children
            .feed(move |samples| {
                let Some(counts) = read() else { return };
                for state in STATES {
                    let held = if state == State::Waiting {
                        counts[State::Held.index()]
                    } else {
                        0
                    };
                    samples.push([state.name()], (counts[state.index()] + held) as f64);
                }
            });
        self.feeds
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(feed);
    }

    /// Feeds what the processes of children use.
    #[cfg(feature = "process")]
    pub(crate) fn feed_processes(
        &self,
        read: impl Fn() -> Vec<(Arc<str>, rustix::process::Pid)> + Clone + Send + 'static,
    ) {
        // One look serves the three families of a scrape.
        type Seen = Arc<Vec<(Arc<str>, crate::usage::Usage)>>;
        let last = Arc::new(Mutex::new(None::<(Instant, Seen)>));
        let usage = move || {
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            match &*last {
                Some((at, seen)) if at.elapsed() < USAGE_FRESH => seen.clone(),
                _ => {
                    let seen = read().into_iter().map(|(id, pid)| {
                        let usage = crate::usage::Usage::of(&pid.as_raw_nonzero().to_string());
                        (id, usage)
                    });
                    let seen = Seen::new(seen.collect());
                    *last = Some((Instant::now(), seen.clone()));
                    seen
                }
            }
        };
        let golden = self.metrics.golden();
        let (cpu, memory, fds) = (usage.clone(), usage.clone(), usage);
        let feeds = [
            golden
                .ron_kernel_process_cpu_seconds_total
                .feed(move |samples| {
                    for (id, usage) in cpu().iter() {
                        if let Some(ms) = usage.cpu_ms {
                            samples.push([&**id], Duration::from_millis(ms));
                        }
                    }
                }),
            golden
                .ron_kernel_process_resident_memory_bytes
                .feed(move |samples| {
                    for (id, usage) in memory().iter() {
                        if let Some(bytes) = usage.rss_bytes {
                            samples.push([&**id], bytes as f64);
                        }
                    }
                }),
            golden.ron_kernel_process_open_fds.feed(move |samples| {
                for (id, usage) in fds().iter() {
                    if let Some(fds) = usage.fds {
                        samples.push([&**id], fds as f64);
                    }
                }
            }),
        ];
        self.feeds
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(feeds);
    }

    /// Lines of a child's output were dropped.
    #[cfg(feature = "process")]
    pub(crate) fn output_dropped(&self, id: &str, lines: u64) {
        self.metrics
            .golden()
            .ron_kernel_process_output_dropped_total
            .get(&ServiceLabel::new(id.to_owned()))
            .add(lines);
    }

    /// The level of containment in force.
    #[cfg(feature = "process")]
    pub(crate) fn contained(&self, level: Option<crate::process::Containment>) {
        let level = level.map(|level| level.name().to_owned());
        let _alone = self.naming();
        let mut identity = self.metrics.identity();
        if identity.containment != level {
            identity.containment = level;
            self.metrics.set_identity(identity);
        }
    }

    #[cfg(feature = "process")]
    pub(crate) fn tell_containment(&self, news: crate::process::spawner::News) {
        use crate::process::Containment;
        if news.sigchld {
            tracing::warn!(
                event = "sigchld_ignored",
                "SIGCHLD was ignored, which loses how children end; it has its default again"
            );
        }
        let lost = news.lost;
        if lost > 0 {
            tracing::warn!(
                event = "guardian_lost",
                lost,
                "the guardian of child processes was lost; another was started"
            );
        }
        for (level, reason) in news.levels {
            let containment = level.name();
            if level == Containment::Cgroup {
                tracing::info!(
                    event = "containment",
                    containment,
                    "child processes are contained by {containment}"
                );
            } else {
                tracing::warn!(
                    event = "containment",
                    containment,
                    reason,
                    "child processes are contained by {containment} only"
                );
            }
        }
    }

    pub(crate) fn set_config_sha(&self, sha256: String) {
        let _alone = self.naming();
        let mut identity = self.metrics.identity();
        identity.config_sha = Some(sha256);
        self.metrics.set_identity(identity);
    }

    /// Held while the identity is read and changed.
    fn naming(&self) -> std::sync::MutexGuard<'_, ()> {
        self.naming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn started(&self) {
        self.metrics.golden().ron_kernel_ready.set(1);
        self.health.satisfy(KERNEL_KEY);
    }

    pub(crate) fn require(&self, id: &str) {
        self.health.require(&child_key(id));
    }

    /// A child left the tree: its readiness and its series go with it.
    pub(crate) fn forget(&self, id: &str) {
        self.health.forget(&child_key(id));
        let labels = ServiceLabel::new(id.to_owned());
        let golden = self.metrics.golden();
        golden.service_restarts_total.remove(&labels);
        golden.ron_kernel_crashes_total.remove(&labels);
        golden
            .ron_kernel_process_output_dropped_total
            .remove(&labels);
    }

    pub(crate) fn satisfy(&self, id: &str) {
        self.health.satisfy(&child_key(id));
    }

    pub(crate) fn condition(&self, id: &str, condition: Option<(bool, Arc<str>)>) {
        let key = child_key(id);
        match condition {
            Some((true, reason)) => self.health.set(&key, Condition::not_ready(&*reason)),
            Some((false, reason)) => self.health.set(&key, Condition::degraded(&*reason)),
            None => self.health.clear(&key),
        }
    }

    pub(crate) fn spawned(&self, kind: Kind) {
        match kind {
            Kind::Thread => self.threads.inc(),
            Kind::Process => self.processes.inc(),
            _ => self.tasks.inc(),
        }
    }

    pub(crate) fn spawned_owned(&self) {
        self.owned.inc();
    }

    pub(crate) fn aborted(&self, kind: Kind) {
        match kind {
            Kind::Thread => self.aborted_threads.inc(),
            Kind::Process => self.aborted_processes.inc(),
            _ => self.aborted_tasks.inc(),
        }
    }

    pub(crate) fn restarted(&self, id: &str) {
        self.metrics
            .golden()
            .service_restarts_total
            .get(&ServiceLabel::new(id.to_owned()))
            .inc();
    }

    pub(crate) fn crashed(&self, id: &str, generation: u64, exit: &Exit) {
        let reason = exit.to_string();
        tracing::warn!(
            event = "service_crashed",
            child = id,
            generation,
            reason,
            kind = exit.kind(),
            "ServiceCrashed"
        );
        let event = KernelEvent::ServiceCrashed {
            service: id.to_owned(),
            reason,
        };
        // Counted where it is published, so that the two agree exactly; during the drain neither happens.
        if self.kernel.publish(event).is_ok() {
            let labels = ServiceLabel::new(id.to_owned());
            self.metrics
                .golden()
                .ron_kernel_crashes_total
                .get(&labels)
                .inc();
        }
    }

    /// After `Shutdown` the topic refuses: nothing follows it there, nor as a line in the log.
    pub(crate) fn kernel_event(&self, event: KernelEvent) {
        let health = match &event {
            KernelEvent::Health { service, ok } => Some((service.clone(), *ok)),
            _ => None,
        };
        if self.kernel.publish(event).is_err() {
            return;
        }
        let Some((service, ok)) = health else { return };
        // The service itself is no child of its tree.
        let child = Some(&service).filter(|service| **service != self.service);
        if ok {
            tracing::info!(
                event = "health",
                child,
                ok,
                "KernelEvent::Health{{ok=true}}"
            );
        } else {
            tracing::warn!(
                event = "health",
                child,
                ok,
                "KernelEvent::Health{{ok=false}}"
            );
        }
    }

    pub(crate) fn tell_change(&self, event: &ChildEvent) {
        #[cfg(feature = "control")]
        if let Some(news) = crate::control::News::of_child(event) {
            self.remember(news);
        }
        let (child, generation) = (&*event.child, event.generation);
        match &event.change {
            Change::Started { restart } => {
                tracing::debug!(
                    event = "child_started",
                    child,
                    generation,
                    restart,
                    "child started"
                );
            }
            Change::Ready => {
                tracing::debug!(event = "child_ready", child, generation, "child ready");
            }
            Change::Backoff { attempt, delay, .. } => {
                let delay_ms = delay.as_millis() as u64;
                tracing::warn!(
                    event = "child_backoff",
                    child,
                    generation,
                    attempt,
                    delay_ms,
                    "child restarts after a delay"
                );
            }
            Change::Quarantined { reason, until } => {
                let next = match until {
                    Some(until) => format!("one trial at {}", ron_bus::rfc3339(*until)),
                    None => "stays down until released".to_owned(),
                };
                tracing::error!(
                    event = "child_quarantined",
                    child,
                    generation,
                    reason,
                    next,
                    "child quarantined"
                );
            }
            Change::Released { by_timer } => {
                tracing::warn!(
                    event = "child_released",
                    child,
                    generation,
                    by_timer,
                    "child released from quarantine"
                );
            }
            Change::Stopping => tracing::debug!(
                event = "child_stopping",
                child,
                generation,
                "child told to stop"
            ),
            Change::Aborted => {
                tracing::warn!(
                    event = "child_aborted",
                    child,
                    generation,
                    "child aborted: dropped at its next await"
                );
            }
            Change::Stuck => tracing::error!(
                event = "child_stuck",
                child,
                generation,
                "aborted child still runs"
            ),
            Change::Leaked => tracing::error!(
                event = "child_leaked",
                child,
                generation,
                "child given up as leaked"
            ),
            Change::Recovered => {
                tracing::warn!(
                    event = "child_recovered",
                    child,
                    generation,
                    "stuck or leaked child ended after all"
                );
            }
            Change::Stopped { exit } => tracing::info!(
                event = "child_stopped",
                child,
                generation,
                exit,
                "child stopped"
            ),
            Change::Done => tracing::info!(event = "child_done", child, generation, "child done"),
            Change::Stalled { held } => {
                let held_ms = held.as_millis() as u64;
                tracing::error!(
                    event = "child_stalled",
                    child,
                    generation,
                    held_ms,
                    "child holds its worker thread"
                );
            }
            Change::Unstalled { held } => {
                let held_ms = held.as_millis() as u64;
                tracing::warn!(
                    event = "child_unstalled",
                    child,
                    generation,
                    held_ms,
                    "child let go of its worker thread"
                );
            }
            Change::Escalated { reason } => {
                tracing::error!(
                    event = "child_escalated",
                    child,
                    generation,
                    reason,
                    "restart budget spent, escalated"
                );
            }
            Change::Fault { fault } => {
                self.metrics
                    .golden()
                    .ron_kernel_faults_total
                    .get(&KindLabel::new(fault.clone()))
                    .inc();
                tracing::warn!(event = "fault", child, generation, fault, "fault injected")
            }
            // Logged with the crash.
            Change::Failed { .. } => {}
        }
        let _ = self.lifecycle.publish(event.clone());
    }

    /// States or clears `bus_lag`: a reader lost events since the last look. Called once a second.
    pub(crate) fn watch_lag(&self) {
        let mut ever = HashMap::new();
        for topic in self.bus.topics() {
            for reader in &topic.by_name {
                let lost = reader.account.lost.overflowed();
                if lost > 0 {
                    ever.insert((topic.name.clone(), reader.name.clone()), lost);
                }
            }
        }
        let mut losses = self.losses.lock().unwrap_or_else(PoisonError::into_inner);
        let lately: HashMap<_, u64> = ever
            .iter()
            .map(|(key, lost)| {
                (
                    key.clone(),
                    lost.saturating_sub(losses.ever.get(key).copied().unwrap_or(0)),
                )
            })
            .filter(|(_, lost)| *lost > 0)
            .collect();
        let sum: u64 = lately.values().sum();
        let worst = lately.iter().max_by(|a, b| (a.1, &b.0).cmp(&(b.1, &a.0)));
        let reason = worst.map(|((topic, reader), lost)| {
            let before = ever.get(&(topic.clone(), reader.clone())).copied().unwrap_or(0);
            format!("{sum} events lost in the last second; {lost} of them by {reader} on topic {topic} ({before} ever)")
        });
        *losses = Losses {
            ever,
            #[cfg(feature = "control")]
            lately,
        };
        drop(losses);
        match reason {
            Some(reason) => {
                self.lagging.store(true, Ordering::Relaxed);
                self.health.set(LAG_KEY, Condition::degraded(reason));
            }
            None => {
                if self.lagging.swap(false, Ordering::Relaxed) {
                    self.health.clear(LAG_KEY);
                }
            }
        }
    }

    /// What a reader lost in the last second or so.
    #[cfg(feature = "control")]
    pub(crate) fn lost_lately(&self, topic: &Arc<str>, reader: &Arc<str>) -> u64 {
        let losses = self.losses.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (topic.clone(), reader.clone());
        losses.lately.get(&key).copied().unwrap_or(0)
    }

    #[cfg(feature = "control")]
    pub(crate) fn remember_start(&self) {
        let identity = self.metrics.identity();
        let mut text = format!("{} {} started", self.service, identity.version);
        if let Some(sha) = identity.config_sha {
            // Enough to tell two files apart; `/version` has all of it.
            let start = sha.get(..12).unwrap_or(&sha);
            text.push_str(&format!(", configuration {start}"));
        }
        self.remember(crate::control::News::of_service(
            crate::control::EntryKind::Start,
            text,
        ));
    }

    #[cfg(feature = "control")]
    pub(crate) fn remember(&self, news: crate::control::News<'_>) -> u64 {
        self.record.add(SystemTime::now(), news)
    }

    /// Steps readiness and tells its changes; returns how long until it may change by itself.
    pub(crate) fn step_health(&self) -> Option<Duration> {
        for transition in self.watch.transitions() {
            // The shutdown tells of itself.
            if transition.to == ron_metrics::State::Draining {
                continue;
            }
            let (from, to) = (transition.from.to_string(), transition.to.to_string());
            let reason = self.causes();
            #[cfg(feature = "control")]
            {
                let text = match &*reason {
                    "" => format!("{from} -> {to}"),
                    reason => format!("{from} -> {to}: {reason}"),
                };
                self.remember(crate::control::News::of_service(
                    crate::control::EntryKind::Ready,
                    text,
                ));
            }
            if is_ready(transition.to) {
                self.was_ready.store(true, Ordering::Relaxed);
                tracing::info!(event = "readiness", from, to, reason, "ready=1");
            } else {
                tracing::warn!(event = "readiness", from, to, reason, "ready=0");
            }
            if is_ready(transition.from) != is_ready(transition.to) {
                self.kernel_event(KernelEvent::Health {
                    service: self.service.clone(),
                    ok: is_ready(transition.to),
                });
            }
        }
        let deadline = self.health.next_deadline()?;
        Some(deadline.saturating_sub(self.health.elapsed()))
    }

    /// What keeps the service from being ready or well, in one line.
    fn causes(&self) -> String {
        blame(&self.health.snapshot())
    }

    /// A service that has never been ready would never log a change; it says so once.
    pub(crate) fn remind_unready(&self, uptime: Duration) {
        if uptime >= REMIND_AFTER && !self.was_ready.swap(true, Ordering::Relaxed) {
            let reason = self.causes();
            tracing::warn!(
                event = "readiness",
                from = "not_ready",
                to = "not_ready",
                reason,
                "ready=0"
            );
        }
    }

    /// The shutdown's first two steps: not ready, then the last event on topic `kernel`.
    pub(crate) fn announce_shutdown(&self, reason: &str) {
        let from = self.health.snapshot().state().to_string();
        self.health.draining();
        self.step_health();
        self.metrics.golden().ron_kernel_ready.set(0);
        tracing::info!(
            event = "readiness",
            from,
            to = "draining",
            reason,
            "ready=0"
        );
        tracing::info!(event = "shutdown", reason, "KernelEvent::Shutdown");
        #[cfg(feature = "control")]
        self.remember(
            crate::control::News::of_service(
                crate::control::EntryKind::Shutdown,
                "the shutdown began",
            )
            .by(reason),
        );
        let _ = self.kernel.publish_last(KernelEvent::Shutdown);
    }

    pub(crate) fn close(&self) {
        self.lifecycle.close();
        self.bus.close();
        self.feeds
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

/// Log layers and health watchers are foreign code; their panic must end neither the driver nor the beat.
pub(crate) fn shielded<R: Default>(tell: impl FnOnce() -> R) -> R {
    catch_unwind(AssertUnwindSafe(tell)).unwrap_or_default()
}

fn is_ready(state: ron_metrics::State) -> bool {
    matches!(
        state,
        ron_metrics::State::Ready | ron_metrics::State::Degraded
    )
}

/// What keeps a service from being ready or well, in one line.
pub(crate) fn blame(snapshot: &ron_metrics::Snapshot) -> String {
    let missing = snapshot
        .missing()
        .map(|key| format!("{key}: not ready yet"));
    let causes = snapshot
        .causes()
        .map(|cause| format!("{}: {}", cause.key, cause.reason));
    missing
        .chain(causes)
        .take(CAUSES_LOGGED)
        .collect::<Vec<_>>()
        .join("; ")
}

/// `text` on one line, in at most `max` bytes.
#[cfg(any(feature = "control", feature = "process"))]
pub(crate) fn one_line(mut text: String, max: usize) -> String {
    if text.len() > max {
        let mut end = max - '…'.len_utf8();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    if text.contains(char::is_control) {
        text = text.replace(char::is_control, " ");
    }
    text
}

fn child_key(id: &str) -> String {
    format!("child:{id}")
}

/// The bus keeps its accounts; each scrape reads them.
fn feed_bus(bus: &Bus, metrics: &Metrics) -> Vec<Feed> {
    let golden = metrics.golden();
    let published = bus.clone();
    let lagged = bus.clone();
    let dropped = bus.clone();
    let depth = bus.clone();
    let subscribers = bus.clone();
    vec![
        golden.bus_published_total.feed(move |samples| {
            for topic in published.topics() {
                samples.push([&topic.name], topic.published());
            }
        }),
        golden.bus_lagged_total.feed(move |samples| {
            for topic in lagged.topics() {
                for reader in &topic.by_name {
                    samples.push(
                        [&topic.name, &reader.name],
                        reader.account.lost.overflowed(),
                    );
                }
            }
        }),
        golden.bus_overflow_dropped_total.feed(move |samples| {
            let lost = dropped
                .topics()
                .iter()
                .map(|topic| topic.total.lost.overflowed())
                .sum();
            samples.push([], lost);
        }),
        golden.bus_queue_depth.feed(move |samples| {
            for topic in depth.topics() {
                samples.push([&topic.name], topic.queue_depth() as f64);
            }
        }),
        golden.bus_subscribers.feed(move |samples| {
            for topic in subscribers.topics() {
                samples.push([&topic.name], topic.subscribers as f64);
            }
        }),
    ]
}
