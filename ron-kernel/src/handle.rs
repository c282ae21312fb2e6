//! Talking to a running kernel.

use crate::config::{Config, Fault};
use crate::reload::ReloadError;
use crate::report::ShutdownReport;
use crate::snapshot::{self, Explanation, TreeNode};
use crate::supervisor::context::{FAULT_BLOCK, FAULT_EXIT, FAULT_HANG, FAULT_PANIC};
use crate::supervisor::engine::Engine;
use crate::supervisor::machine::{Key, Machine, Refused};
use crate::supervisor::{stall, Kind, Spec, TreeError};
use ron_bus::Bus;
use ron_config::ReloadReport;
use ron_metrics::{HealthState, Metrics};
use std::fmt;
use std::sync::Arc;

/// A handle to a running kernel: look, start, stop, restart, release. Cheap to clone; keeps nothing
/// running by itself.
#[derive(Clone)]
pub struct KernelHandle {
    engine: Arc<Engine>,
}

/// A request that the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// No child has this id.
    #[error("no child is named `{id}`")]
    Unknown {
        /// The id that was asked for.
        id: String,
    },
    /// A child awaited its own stop, which can only come after it stopped waiting.
    #[error("`{id}` awaits its own stop; it would wait for ever. Return from the child instead")]
    WouldDeadlock {
        /// The child.
        id: String,
    },
    /// Only a quarantined child can be released.
    #[error("`{id}` is {state}, not quarantined; there is nothing to release")]
    NotQuarantined {
        /// The child.
        id: String,
        /// Its state.
        state: &'static str,
    },
    /// The group around the child is down and decides for it.
    #[error("`{id}` belongs to group `{group}`, which is {state}; act on the group")]
    GroupDown {
        /// The child.
        id: String,
        /// The group.
        group: String,
        /// The state of the group.
        state: &'static str,
    },
    /// Something starts after it.
    #[error("`{id}` cannot be removed: `{dependant}` starts after it")]
    HasDependants {
        /// The child.
        id: String,
        /// The first that depends on it.
        dependant: String,
    },
    /// Its last incarnation never ended; a second beside it is not started.
    #[error("`{id}` is leaked: its last incarnation still runs and it is never duplicated; restart the process")]
    Leaked {
        /// The child.
        id: String,
    },
    /// It is on its way out of the tree.
    #[error("`{id}` is being removed")]
    Removing {
        /// The child.
        id: String,
    },
    /// The kernel is on its way out.
    #[error("the kernel is shutting down")]
    ShuttingDown,
    /// Fault injection is not armed.
    #[error("chaos is not armed; set chaos.armed = true in the configuration")]
    NotArmed,
    /// The fault needs a running task child.
    #[error("`{id}` cannot get a fault injected: {why}")]
    NoTarget {
        /// The child.
        id: String,
        /// Why not.
        why: &'static str,
    },
}

impl KernelHandle {
    pub(crate) fn new(engine: Arc<Engine>) -> KernelHandle {
        KernelHandle { engine }
    }

    /// The tree at this instant: the children of the root with all below them.
    pub fn tree(&self) -> Vec<TreeNode> {
        snapshot::tree(&self.engine)
    }

    /// Why a child is in the state it is in; `None` when no child has this id.
    pub fn explain(&self, id: &str) -> Option<Explanation> {
        snapshot::explain(&self.engine, id)
    }

    /// Adds a child or group below the root and starts it. Returns on acceptance; watch `tree` or topic
    /// `kernel.lifecycle` for what becomes of it. A Temporary child is forgotten when it has ended.
    ///
    /// # Errors
    ///
    /// [`TreeError`]: a name in use, an unknown `after`, a cycle, a full tree, a kernel that shuts down.
    pub fn start(&self, spec: impl Into<Spec>) -> Result<(), TreeError> {
        self.engine.add(vec![spec.into()])
    }

    /// Stops a child or group and waits until it has ended; it stays in the tree, `stopped`.
    ///
    /// # Errors
    ///
    /// [`ControlError::WouldDeadlock`] when the caller is, or runs inside, what is to be stopped.
    ///
    /// # Cancel safety
    ///
    /// The stop goes on when the future is dropped; only the waiting ends.
    pub async fn stop(&self, id: &str) -> Result<(), ControlError> {
        if let Some(current) = stall::current().filter(|c| c.engine == self.engine.id()) {
            let inside = self.engine.read(|machine| {
                machine
                    .find(id)
                    .is_some_and(|key| machine.is_within(current.key, key))
            });
            if inside {
                return Err(ControlError::WouldDeadlock { id: id.to_owned() });
            }
        }
        // What runs now, and has to end, whoever starts it again later.
        let runs = self.control(id, |machine, now, key| {
            machine.stop(now, key)?;
            Ok(machine.running_below(key))
        })?;
        let mut leaked = false;
        self.engine
            .until(|machine| {
                leaked = runs.iter().any(|(key, run)| machine.is_leaked(*key, *run));
                let running = |(key, run): &(Key, u64)| {
                    machine.is_current(*key, *run) && !machine.is_leaked(*key, *run)
                };
                machine.ended() || !runs.iter().any(running)
            })
            .await;
        if leaked {
            return Err(ControlError::Leaked { id: id.to_owned() });
        }
        Ok(())
    }

    /// Restarts a child or group outside its budget, with a fresh backoff; starts one that is down.
    /// Returns on acceptance.
    ///
    /// # Errors
    ///
    /// As documented at [`ControlError`].
    pub fn restart(&self, id: &str) -> Result<(), ControlError> {
        self.control(id, |machine, now, key| machine.restart(now, key))
    }

    /// Ends the quarantine of a child or group now: one trial; if that fails, quarantine again.
    ///
    /// # Errors
    ///
    /// [`ControlError::NotQuarantined`] and the general ones.
    pub fn release(&self, id: &str) -> Result<(), ControlError> {
        self.control(id, |machine, now, key| machine.release(now, key))
    }

    /// Stops a child or group and takes it out of the tree. Returns on acceptance.
    ///
    /// # Errors
    ///
    /// [`ControlError::HasDependants`] and the general ones.
    pub fn remove(&self, id: &str) -> Result<(), ControlError> {
        self.control(id, |machine, now, key| machine.remove(now, key))
    }

    /// What is wrong with the service, root causes first; see [`Diagnosis`](crate::control::Diagnosis).
    #[cfg(feature = "control")]
    pub fn diagnose(&self) -> crate::control::Diagnosis {
        crate::control::diagnose(&crate::control::situation(&self.engine))
    }

    /// As [`stop`](Self::stop), without waiting.
    #[cfg(feature = "control")]
    pub(crate) fn begin_stop(&self, id: &str) -> Result<(), ControlError> {
        self.control(id, |machine, now, key| machine.stop(now, key))
    }

    /// State and generation of a child.
    #[cfg(feature = "control")]
    pub(crate) fn phase(&self, id: &str) -> Option<(&'static str, u64)> {
        self.engine.read(|machine| {
            let node = machine.node(machine.find(id)?);
            Some((node.state.name(), node.generation))
        })
    }

    /// Begins the orderly shutdown and returns at once.
    pub fn shutdown(&self) {
        self.engine.request_shutdown("asked by the program");
    }

    /// Waits for the end of the shutdown, whoever began it.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn ended(&self) -> ShutdownReport {
        self.engine.ended().await
    }

    /// Waits until every required child of the initial tree has been ready once, as `/readyz` does at the
    /// start; also ends when the kernel does.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn ready(&self) {
        self.engine
            .until(|machine| self.engine.is_complete() || machine.ended())
            .await;
    }

    /// Makes the running incarnation of a task or process child misbehave; only while `chaos.armed` is set.
    ///
    /// # Errors
    ///
    /// [`ControlError::NotArmed`], [`ControlError::NoTarget`].
    pub fn inject(&self, id: &str, fault: Fault) -> Result<(), ControlError> {
        if !self.config().chaos.armed {
            return Err(ControlError::NotArmed);
        }
        let kind = self
            .engine
            .read(|machine| machine.find(id).map(|key| machine.node(key).kind));
        let no_target = |why| ControlError::NoTarget {
            id: id.to_owned(),
            why,
        };
        let Some(flag) = fault_flag(fault) else {
            return Ok(());
        };
        match kind {
            None => return Err(ControlError::Unknown { id: id.to_owned() }),
            Some(kind) if kind.suffers(flag) => {}
            Some(_) => return Err(no_target(Kind::SUFFERERS)),
        }
        if !self.engine.inject(id, flag, fault.name()) {
            return Err(no_target("it is not running"));
        }
        Ok(())
    }

    /// Reloads the configuration: as SIGHUP does under [`run`](crate::KernelBuilder::run).
    ///
    /// # Errors
    ///
    /// [`ReloadError`]: every defect of the new configuration, or a kernel with a fixed one. The last good
    /// configuration stays in force.
    ///
    /// # Cancel safety
    ///
    /// The reload goes on when the future is dropped; its outcome is still told.
    pub async fn reload(&self) -> Result<ReloadReport, ReloadError> {
        match self.engine.reloader() {
            Some(reloader) => reloader.reload("asked by the program").await,
            None => Err(ReloadError::Fixed),
        }
    }

    /// The kernel's bus, with topics `kernel` and `kernel.lifecycle`.
    pub fn bus(&self) -> &Bus {
        &self.engine.telemetry.bus
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        self.engine.config()
    }

    /// What becomes of child processes if this one is killed; `None` before the first was started.
    #[cfg(feature = "process")]
    pub fn containment(&self) -> Option<crate::process::Containment> {
        self.engine.spawner().level()
    }

    /// Health and readiness of the service.
    pub fn health(&self) -> &HealthState {
        &self.engine.telemetry.health
    }

    /// The metrics of the service.
    pub fn metrics(&self) -> &Metrics {
        &self.engine.telemetry.metrics
    }

    /// Finds the child and acts on it under one lock.
    fn control<R>(
        &self,
        id: &str,
        act: impl FnOnce(&mut Machine, std::time::Duration, Key) -> Result<R, Refused>,
    ) -> Result<R, ControlError> {
        let acted = self.engine.control(|machine, now| {
            let key = machine.find(id).ok_or(Refused::Unknown)?;
            act(machine, now, key)
        });
        let id = id.to_owned();
        acted.map_err(|refused| match refused {
            Refused::Unknown => ControlError::Unknown { id },
            Refused::NotQuarantined(state) => ControlError::NotQuarantined { id, state },
            Refused::GroupDown { group, state } => ControlError::GroupDown {
                id,
                group: group.to_string(),
                state,
            },
            Refused::HasDependants(dependant) => ControlError::HasDependants {
                id,
                dependant: dependant.to_string(),
            },
            Refused::ShuttingDown => ControlError::ShuttingDown,
            Refused::Leaked => ControlError::Leaked { id },
            Refused::Removing => ControlError::Removing { id },
        })
    }
}

pub(crate) fn fault_flag(fault: Fault) -> Option<u8> {
    match fault {
        Fault::None => None,
        Fault::Panic => Some(FAULT_PANIC),
        Fault::Exit => Some(FAULT_EXIT),
        Fault::Hang => Some(FAULT_HANG),
        Fault::Block => Some(FAULT_BLOCK),
    }
}

impl fmt::Debug for KernelHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelHandle")
            .field("engine", &self.engine)
            .finish()
    }
}
