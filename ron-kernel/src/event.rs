//! The events of topics `kernel` and `kernel.lifecycle`.

use serde::ser::{Serialize, SerializeMap, Serializer};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Name of the topic that carries [`KernelEvent`].
pub const KERNEL_TOPIC: &str = "kernel";
/// Name of the topic that carries [`ChildEvent`].
pub const LIFECYCLE_TOPIC: &str = "kernel.lifecycle";

/// What every subscriber of a service must be able to rely on. Exactly these four variants, for good, so
/// that a `match` needs no fallback; finer events are [`ChildEvent`]s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelEvent {
    /// The health of a service changed.
    Health {
        /// Id of the child, or the name of the kernel's service for the whole.
        service: String,
        /// Whether it is healthy now.
        ok: bool,
    },
    /// A new configuration is in force.
    ConfigUpdated {
        /// Its version; strictly increasing.
        version: u64,
    },
    /// An incarnation of a child failed.
    ServiceCrashed {
        /// Id of the child.
        service: String,
        /// Why; never empty.
        reason: String,
    },
    /// The kernel shuts down. Nothing is published on this topic afterwards; a reader that is behind gets this
    /// first and then the rest.
    Shutdown,
}

impl Serialize for KernelEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            KernelEvent::Health { service, ok } => {
                map.serialize_entry("type", "Health")?;
                map.serialize_entry("service", service)?;
                map.serialize_entry("ok", ok)?;
            }
            KernelEvent::ConfigUpdated { version } => {
                map.serialize_entry("type", "ConfigUpdated")?;
                map.serialize_entry("version", version)?;
            }
            KernelEvent::ServiceCrashed { service, reason } => {
                map.serialize_entry("type", "ServiceCrashed")?;
                map.serialize_entry("service", service)?;
                map.serialize_entry("reason", reason)?;
            }
            KernelEvent::Shutdown => map.serialize_entry("type", "Shutdown")?,
        }
        map.end()
    }
}

/// One step in the life of a child, on topic `kernel.lifecycle`, until the last child has stopped.
///
/// Complete: who, which incarnation, what. Details go into [`Change`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildEvent {
    /// Id of the child or group.
    pub child: Arc<str>,
    /// The incarnation it concerns, counted from 1; 0 before the first.
    pub generation: u64,
    /// What happened.
    pub change: Change,
}

/// What happened to a child.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// An incarnation started.
    Started {
        /// Whether it replaces one that failed.
        restart: bool,
    },
    /// It is ready; what comes after it may start.
    Ready,
    /// It failed; on topic `kernel` this is `ServiceCrashed`.
    Failed {
        /// Why.
        reason: String,
    },
    /// The next incarnation starts after a delay.
    Backoff {
        /// Restarts since it was last healthy, counted from 0.
        attempt: u32,
        /// Length of the delay.
        delay: Duration,
        /// Wall time of its end.
        until: SystemTime,
    },
    /// Its restart budget is spent.
    Quarantined {
        /// Why the last incarnation failed.
        reason: String,
        /// Wall time of the next trial; `None` until a human releases it.
        until: Option<SystemTime>,
    },
    /// A quarantine ended; the next incarnation is a trial.
    Released {
        /// By the timer, not by a human.
        by_timer: bool,
    },
    /// It was told to stop.
    Stopping,
    /// It did not stop in time and is dropped at its next await.
    Aborted,
    /// It was aborted and still runs.
    Stuck,
    /// It is given up: its thread or poll never returned.
    Leaked,
    /// A stuck or leaked incarnation ended after all.
    Recovered,
    /// It ended because it was told to, or is not to be restarted.
    Stopped {
        /// How it ended.
        exit: String,
    },
    /// It returned `Ok` and is not started again.
    Done,
    /// Its poll has held a worker thread for longer than `stall.threshold`.
    Stalled {
        /// For how long so far.
        held: Duration,
    },
    /// The poll that held the worker returned.
    Unstalled {
        /// For how long it had held it.
        held: Duration,
    },
    /// A group or the kernel gave up because of this child.
    Escalated {
        /// Why.
        reason: String,
    },
    /// A fault was injected into it.
    Fault {
        /// Which.
        fault: String,
    },
}

impl Change {
    /// The name of the variant, as it stands in `type` of the JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Change::Started { .. } => "Started",
            Change::Ready => "Ready",
            Change::Failed { .. } => "Failed",
            Change::Backoff { .. } => "Backoff",
            Change::Quarantined { .. } => "Quarantined",
            Change::Released { .. } => "Released",
            Change::Stopping => "Stopping",
            Change::Aborted => "Aborted",
            Change::Stuck => "Stuck",
            Change::Leaked => "Leaked",
            Change::Recovered => "Recovered",
            Change::Stopped { .. } => "Stopped",
            Change::Done => "Done",
            Change::Stalled { .. } => "Stalled",
            Change::Unstalled { .. } => "Unstalled",
            Change::Escalated { .. } => "Escalated",
            Change::Fault { .. } => "Fault",
        }
    }
}

impl Serialize for ChildEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", self.change.name())?;
        map.serialize_entry("child", &*self.child)?;
        map.serialize_entry("generation", &self.generation)?;
        match &self.change {
            Change::Started { restart } => map.serialize_entry("restart", restart)?,
            Change::Failed { reason } | Change::Escalated { reason } => {
                map.serialize_entry("reason", reason)?
            }
            Change::Backoff {
                attempt,
                delay,
                until,
            } => {
                map.serialize_entry("attempt", attempt)?;
                map.serialize_entry("delay_ms", &millis(*delay))?;
                map.serialize_entry("until", &ron_bus::rfc3339(*until))?;
            }
            Change::Quarantined { reason, until } => {
                map.serialize_entry("reason", reason)?;
                map.serialize_entry("until", &until.map(ron_bus::rfc3339))?;
            }
            Change::Released { by_timer } => map.serialize_entry("by_timer", by_timer)?,
            Change::Stopped { exit } => map.serialize_entry("exit", exit)?,
            Change::Stalled { held } | Change::Unstalled { held } => {
                map.serialize_entry("held_ms", &millis(*held))?
            }
            Change::Fault { fault } => map.serialize_entry("fault", fault)?,
            Change::Ready
            | Change::Stopping
            | Change::Aborted
            | Change::Stuck
            | Change::Leaked
            | Change::Recovered
            | Change::Done => {}
        }
        map.end()
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_events_serialise_flat_with_their_type() {
        let json = |event: &KernelEvent| serde_json::to_string(event).unwrap();
        let health = KernelEvent::Health {
            service: "feed".into(),
            ok: true,
        };
        assert_eq!(
            json(&health),
            r#"{"type":"Health","service":"feed","ok":true}"#
        );
        assert_eq!(
            json(&KernelEvent::ConfigUpdated { version: 7 }),
            r#"{"type":"ConfigUpdated","version":7}"#
        );
        let crash = KernelEvent::ServiceCrashed {
            service: "feed".into(),
            reason: "boom".into(),
        };
        assert_eq!(
            json(&crash),
            r#"{"type":"ServiceCrashed","service":"feed","reason":"boom"}"#
        );
        assert_eq!(json(&KernelEvent::Shutdown), r#"{"type":"Shutdown"}"#);
    }

    #[test]
    fn child_events_carry_child_generation_and_details() {
        let event = ChildEvent {
            child: Arc::from("feed"),
            generation: 3,
            change: Change::Backoff {
                attempt: 1,
                delay: Duration::from_millis(250),
                until: SystemTime::UNIX_EPOCH + Duration::from_millis(1_500),
            },
        };
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            r#"{"type":"Backoff","child":"feed","generation":3,"attempt":1,"delay_ms":250,"until":"1970-01-01T00:00:01.500Z"}"#
        );
    }
}
