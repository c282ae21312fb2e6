//! [`Latch`]: something that has to happen before the process is ready.

use super::{Condition, HealthState};

/// One thing that has to happen once. The process is ready when every latch is open.
///
/// [`open`](Latch::open) is the only way to satisfy the key. A latch that is dropped unopened can never open: readiness
/// stays closed, and a condition under the same key says why.
///
/// ```
/// use ron_metrics::HealthState;
///
/// let health = HealthState::new();
/// let (config, bus) = (health.latch("config_loaded"), health.latch("bus_attached"));
/// config.open();
/// assert!(!health.ready());
/// bus.open();
/// assert!(health.ready());
/// ```
#[derive(Debug)]
#[must_use = "a latch that is dropped unopened keeps the process from ever being ready"]
pub struct Latch {
    health: HealthState,
    key: String,
    opened: bool,
}

impl Latch {
    pub(super) fn new(health: HealthState, key: &str) -> Latch {
        Latch {
            health,
            key: key.to_string(),
            opened: false,
        }
    }

    /// The key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// It happened.
    pub fn open(mut self) {
        self.opened = true;
        self.health.satisfy(&self.key);
    }
}

impl Drop for Latch {
    fn drop(&mut self) {
        if !self.opened && self.health.machine().is_missing(&self.key) {
            let reason = "dropped before it happened";
            self.health.set(&self.key, Condition::not_ready(reason));
        }
    }
}
