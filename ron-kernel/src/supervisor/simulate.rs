//! What a restart policy would do with a given history, answered by the transition function itself.

use super::backoff::Backoff;
use super::intensity::Intensity;
use super::machine::{Blueprint, Defaults, Effect, Input, Machine, Note};
use super::spec::{Exhausted, Kind, Policy, Restart};
use super::Exit;
use std::time::Duration;

/// The numbers that decide over one child of the root.
///
/// ```
/// use ron_kernel::supervisor::{RestartPolicy, Verdict};
/// use std::time::Duration;
///
/// // A child that dies as soon as it starts: how long until the supervisor gives up?
/// let steps = RestartPolicy::default().simulate(7, std::iter::repeat(Duration::ZERO).take(6));
/// assert!(steps[..5].iter().all(|step| matches!(step.verdict, Verdict::Restart { .. })));
/// assert!(matches!(steps[5].verdict, Verdict::Quarantine { .. }));
/// assert!(steps[5].at <= Duration::from_millis(200 + 400 + 800 + 1600 + 3200));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestartPolicy {
    /// Delay before restarts.
    pub backoff: Backoff,
    /// Restarts allowed.
    pub intensity: Intensity,
    /// Time ready after which the backoff starts over.
    pub healthy_after: Duration,
    /// What follows when the budget is spent.
    pub on_exhausted: Exhausted,
}

/// One failure of a simulated child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Step {
    /// When it failed, counted from its first start.
    pub at: Duration,
    /// What the supervisor decided.
    pub verdict: Verdict,
}

/// The supervisor's answer to a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Restart after `delay`.
    Restart {
        /// Drawn from the backoff's envelope.
        delay: Duration,
    },
    /// Quarantine; the next trial comes after `delay`, or never by itself.
    Quarantine {
        /// Until the trial.
        delay: Option<Duration>,
    },
    /// The kernel shuts down.
    Shutdown,
}

impl Default for RestartPolicy {
    /// The defaults of [`Config`](crate::Config).
    fn default() -> Self {
        let config = crate::config::SupervisorConfig::default();
        RestartPolicy {
            backoff: Backoff::new(config.min_backoff, config.max_backoff).unwrap_or(Backoff::NONE),
            intensity: Intensity::new(config.restart_cap, config.restart_window)
                .unwrap_or(Intensity::DEFAULT),
            healthy_after: config.healthy_after,
            on_exhausted: Exhausted::HalfOpen,
        }
    }
}

impl RestartPolicy {
    /// Plays a child that runs for each of `uptimes` in turn, ready from its start, and then fails.
    /// The same `seed` gives the same delays. Ends early when the child would not be started again.
    pub fn simulate(&self, seed: u64, uptimes: impl IntoIterator<Item = Duration>) -> Vec<Step> {
        let defaults = Defaults {
            backoff: self.backoff,
            intensity: self.intensity,
            healthy_after: self.healthy_after,
            give_up_after: None,
        };
        let policy = Policy {
            restart: Restart::Permanent,
            exhausted: Some(self.on_exhausted),
            ..Policy::default()
        };
        let child = Blueprint {
            name: "child".to_owned(),
            kind: Kind::Task,
            policy,
            after: Vec::new(),
            members: Vec::new(),
        };
        let mut machine = Machine::new(defaults, seed);
        let mut steps = Vec::new();
        let mut effects = Vec::new();
        let mut now = Duration::ZERO;
        let Ok(keys) = machine.add(now, vec![child]) else {
            return steps;
        };
        let Some(&key) = keys.first() else {
            return steps;
        };
        for uptime in uptimes {
            // Wait for the incarnation that this uptime belongs to.
            while machine.node(key).state.name() != "starting" {
                let Some(at) = machine.next_deadline() else {
                    return steps;
                };
                now = now.max(at);
                machine.step(now, Input::Tick);
            }
            let run = machine.node(key).run;
            machine.step(now, Input::Ready { key, run });
            now += uptime;
            effects.clear();
            machine.take_effects(&mut effects);
            effects.clear();
            machine.step(
                now,
                Input::Exited {
                    key,
                    run,
                    exit: Exit::Done,
                },
            );
            machine.take_effects(&mut effects);
            let verdict = effects.iter().find_map(|effect| match effect {
                Effect::Note {
                    what: Note::Backoff { delay, .. },
                    ..
                } => Some(Verdict::Restart { delay: *delay }),
                Effect::Note {
                    what: Note::Quarantined { delay, .. },
                    ..
                } => Some(Verdict::Quarantine { delay: *delay }),
                Effect::WantsShutdown => Some(Verdict::Shutdown),
                Effect::Spawn { .. } => Some(Verdict::Restart {
                    delay: Duration::ZERO,
                }),
                _ => None,
            });
            let Some(verdict) = verdict else { return steps };
            steps.push(Step { at: now, verdict });
            if verdict == Verdict::Shutdown {
                return steps;
            }
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_history() {
        let policy = RestartPolicy::default();
        let uptimes = || (0..50).map(|n| Duration::from_secs(n * 7 % 45));
        assert_eq!(policy.simulate(3, uptimes()), policy.simulate(3, uptimes()));
        assert_ne!(policy.simulate(3, uptimes()), policy.simulate(4, uptimes()));
    }

    #[test]
    fn a_month_of_crash_loop_is_simulated_and_trials_never_come_faster_than_five_minutes() {
        let steps =
            RestartPolicy::default().simulate(1, std::iter::repeat(Duration::ZERO).take(8_000));
        assert_eq!(steps.len(), 8_000);
        let last = steps[steps.len() - 1].at;
        assert!(last > Duration::from_secs(26 * 24 * 3600), "{last:?}");
        let late = Verdict::Quarantine {
            delay: Some(Duration::from_secs(300)),
        };
        assert!(steps[10..].iter().all(|step| step.verdict == late));
    }

    #[test]
    fn hold_and_shutdown_end_the_simulation() {
        let crash = || std::iter::repeat(Duration::ZERO).take(100);
        let hold = RestartPolicy {
            on_exhausted: Exhausted::Hold,
            ..RestartPolicy::default()
        }
        .simulate(1, crash());
        assert_eq!(
            hold.last().unwrap().verdict,
            Verdict::Quarantine { delay: None }
        );
        let end = RestartPolicy {
            on_exhausted: Exhausted::Shutdown,
            ..RestartPolicy::default()
        }
        .simulate(1, crash());
        assert_eq!(
            (end.len(), end.last().unwrap().verdict),
            (6, Verdict::Shutdown)
        );
    }
}
