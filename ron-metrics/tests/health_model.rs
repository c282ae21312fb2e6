//! The health state machine against a model that ticks through time and counts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use ron_metrics::{Clock, Condition, HealthState, State, Status};

const TICK_MS: u64 = 100;
const TICKS_IN: u32 = 10;
const TICKS_OUT: u32 = 50;
const KEYS: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Default)]
struct Hand(Arc<Mutex<Duration>>);

impl Clock for Hand {
    fn monotonic(&self) -> Duration {
        *self.0.lock().unwrap()
    }
    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.monotonic()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Set(usize, Status),
    Clear(usize),
    Require(usize),
    Satisfy(usize),
    Forget(usize),
    Wait(u32),
    Look,
    Drain,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let status = prop_oneof![
        3 => Just(Status::Degraded),
        3 => Just(Status::NotReady),
        1 => Just(Status::FailSecure),
    ];
    let step = prop_oneof![
        6 => (0..KEYS.len(), status).prop_map(|(key, status)| Step::Set(key, status)),
        8 => (0..KEYS.len()).prop_map(Step::Clear),
        1 => (0..KEYS.len()).prop_map(Step::Require),
        2 => (0..KEYS.len()).prop_map(Step::Satisfy),
        1 => (0..KEYS.len()).prop_map(Step::Forget),
        12 => prop_oneof![1..15u32, 45..60u32].prop_map(Step::Wait),
        4 => Just(Step::Look),
    ];
    (proptest::collection::vec(step, 0..60), 0..100usize).prop_map(|(mut steps, drain_at)| {
        if drain_at < steps.len() {
            steps.insert(drain_at, Step::Drain);
        }
        steps
    })
}

/// Counts ticks, one level at a time.
#[derive(Default)]
struct Level {
    on: bool,
    /// Ticks for which the input has contradicted `on`.
    against: u32,
}

impl Level {
    fn tick(&mut self, input: bool) {
        self.against = if input == self.on {
            0
        } else {
            self.against + 1
        };
        if self.against >= if self.on { TICKS_OUT } else { TICKS_IN } {
            self.on = input;
            self.against = 0;
        }
    }
}

#[derive(Default)]
struct Model {
    registered: bool,
    started: bool,
    draining: bool,
    missing: BTreeMap<usize, ()>,
    conditions: BTreeMap<usize, Status>,
    degraded: Level,
    not_ready: Level,
    fail_secure: Level,
}

impl Model {
    fn inputs(&self) -> (bool, bool, bool) {
        let worst = self.conditions.values().max();
        let not_ready = worst >= Some(&Status::NotReady) || !self.missing.is_empty();
        (
            not_ready || worst.is_some(),
            not_ready,
            worst == Some(&Status::FailSecure),
        )
    }

    /// One tick goes by with the inputs as they are.
    fn tick(&mut self) {
        let (degraded, not_ready, fail_secure) = self.inputs();
        if self.started {
            self.degraded.tick(degraded);
            self.not_ready.tick(not_ready);
            self.fail_secure.tick(fail_secure);
        }
    }

    /// After an input: what takes effect at once, and counters that start over.
    fn changed(&mut self) {
        let (degraded, not_ready, fail_secure) = self.inputs();
        if !self.started {
            self.started = self.registered && !not_ready;
            self.degraded.on = degraded;
            return;
        }
        if fail_secure {
            self.fail_secure = Level {
                on: true,
                against: 0,
            };
        }
        let levels = [
            (&mut self.degraded, degraded),
            (&mut self.not_ready, not_ready),
            (&mut self.fail_secure, fail_secure),
        ];
        for (level, input) in levels {
            if level.on == input {
                level.against = 0;
            }
        }
    }

    fn state(&self) -> State {
        if self.draining {
            State::Draining
        } else if !self.started || self.not_ready.on || self.fail_secure.on {
            State::NotReady
        } else if self.degraded.on {
            State::Degraded
        } else {
            State::Ready
        }
    }
}

fn condition(status: Status) -> Condition {
    Condition {
        status,
        reason: "test".to_string(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1_000) })]

    #[test]
    fn the_machine_agrees_with_a_model_that_counts_ticks(steps in steps()) {
        let hand = Hand::default();
        let health = HealthState::with_clock(hand.clone());
        let watch = health.watch(|| {});
        let mut model = Model::default();
        let mut changes = Vec::new();
        let mut note = |model: &Model, at: Duration, seen: &mut State| {
            if model.state() != *seen {
                changes.push((*seen, model.state(), at));
                *seen = model.state();
            }
        };
        let mut seen = State::NotReady;
        let mut transitions = Vec::new();
        for step in steps {
            match step {
                Step::Set(key, status) => {
                    health.set(KEYS[key], condition(status));
                    model.registered = true;
                    model.conditions.insert(key, status);
                    model.changed();
                }
                Step::Clear(key) => {
                    health.clear(KEYS[key]);
                    model.registered = true;
                    model.conditions.remove(&key);
                    model.changed();
                }
                Step::Require(key) => {
                    health.require(KEYS[key]);
                    model.missing.insert(key, ());
                    model.changed();
                }
                Step::Satisfy(key) => {
                    health.satisfy(KEYS[key]);
                    model.registered = true;
                    model.missing.remove(&key);
                    model.changed();
                }
                Step::Forget(key) => {
                    health.forget(KEYS[key]);
                    model.missing.remove(&key);
                    model.conditions.remove(&key);
                    model.changed();
                }
                Step::Wait(ticks) => {
                    for _ in 0..ticks {
                        *hand.0.lock().unwrap() += Duration::from_millis(TICK_MS);
                        model.tick();
                        note(&model, hand.monotonic(), &mut seen);
                    }
                }
                Step::Look => {
                    prop_assert_eq!(health.snapshot().state(), model.state());
                    transitions.extend(watch.transitions());
                }
                Step::Drain => {
                    health.draining();
                    model.draining = true;
                }
            }
            note(&model, hand.monotonic(), &mut seen);
        }
        prop_assert_eq!(health.snapshot().state(), model.state());
        transitions.extend(watch.transitions());

        // The same changes at the same times, although nobody looked when they happened.
        let reported: Vec<_> = transitions.iter().map(|t| (t.from, t.to, t.elapsed)).collect();
        prop_assert_eq!(&reported, &changes);

        // It never flaps: after a change for the worse it is at least five seconds to one for the better.
        let rank = |state| match state {
            State::Ready => 0,
            State::Degraded => 1,
            State::NotReady => 2,
            _ => 3,
        };
        for pair in transitions.windows(2) {
            if rank(pair[0].to) > rank(pair[0].from) && rank(pair[1].to) < rank(pair[1].from) {
                prop_assert!(pair[1].elapsed - pair[0].elapsed >= Duration::from_secs(5));
            }
        }
    }

    #[test]
    fn fail_secure_shows_at_once_from_any_history(steps in steps()) {
        let hand = Hand::default();
        let health = HealthState::with_clock(hand.clone());
        for step in steps {
            match step {
                Step::Set(key, status) => health.set(KEYS[key], condition(status)),
                Step::Clear(key) => health.clear(KEYS[key]),
                Step::Require(key) => health.require(KEYS[key]),
                Step::Satisfy(key) => health.satisfy(KEYS[key]),
                Step::Forget(key) => health.forget(KEYS[key]),
                Step::Wait(ticks) => *hand.0.lock().unwrap() += Duration::from_millis(TICK_MS) * ticks,
                Step::Look | Step::Drain => {}
            }
        }
        health.set("keyring", Condition::fail_secure("gone"));
        let snapshot = health.snapshot();
        prop_assert_eq!(snapshot.state(), State::NotReady);
        prop_assert!(snapshot.fail_secure());
    }
}
