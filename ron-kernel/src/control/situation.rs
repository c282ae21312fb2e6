//! What a diagnosis is made from, taken from a running kernel.

use super::answers::policy_name;
use super::diagnosis::{Cause, Injected, Readiness, Reading, Situation, Subject};
use crate::snapshot;
use crate::supervisor::engine::Engine;
use crate::supervisor::machine::{Key, Machine, State, ROOT};
use crate::supervisor::Kind;
use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

/// Unwell nodes looked at; of a larger calamity the first tell enough.
const UNWELL_MAX: usize = 1_000;
/// A reader that has this part of its ring before it is about to lose events.
const BEHIND: f64 = 0.8;
/// How far back the record is asked for reasons.
const LOOK_BACK: Duration = Duration::from_secs(24 * 3600);

pub(crate) fn situation(engine: &Engine) -> Situation {
    let now = SystemTime::now();
    let telemetry = &engine.telemetry;
    let health = telemetry.health.snapshot();
    let (children, children_omitted) = engine.read(|machine| unwell(engine, machine));
    let draining = engine
        .shutdown_requested()
        .then(|| engine.shutdown_reason());
    let reloader = engine.reloader();
    Situation {
        now,
        service: telemetry.metrics.service().to_owned(),
        started: engine.wall(Duration::ZERO),
        draining,
        readiness: Readiness {
            state: health.state().to_string(),
            ready: health.ready(),
            degraded: health.degraded(),
            since: health.since(),
            missing: health.missing().map(str::to_owned).collect(),
            causes: health
                .causes()
                .map(|cause| Cause {
                    key: cause.key.clone(),
                    status: status_name(cause.status),
                    reason: cause.reason.clone(),
                    since: cause.since,
                })
                .collect(),
        },
        children,
        children_omitted,
        readers: readers(engine),
        faults: faults(engine),
        rejected: reloader
            .as_ref()
            .and_then(|reloader| reloader.rejected_since()),
        pending_keys: reloader.map_or_else(Vec::new, |reloader| reloader.pending_keys()),
        record: telemetry.record.since(now - LOOK_BACK).entries,
    }
}

pub(crate) fn status_name(status: ron_metrics::Status) -> &'static str {
    match status {
        ron_metrics::Status::Degraded => "degraded",
        ron_metrics::Status::FailSecure => "fail_secure",
        _ => "not_ready",
    }
}

/// The unwell nodes with what they wait for and belong to, in the order of the tree.
fn unwell(engine: &Engine, machine: &Machine) -> (Vec<Subject>, usize) {
    let mut order = Vec::new();
    let mut todo: Vec<Key> = machine.node(ROOT).members.iter().rev().copied().collect();
    let mut wanted = BTreeSet::new();
    let mut omitted = 0;
    while let Some(key) = todo.pop() {
        order.push(key);
        let node = machine.node(key);
        todo.extend(node.members.iter().rev());
        if is_well(machine, key) {
            continue;
        }
        if wanted.len() < UNWELL_MAX {
            wanted.insert(key);
        } else {
            omitted += 1;
        }
    }
    let mut open: Vec<Key> = wanted.iter().copied().collect();
    while let Some(key) = open.pop() {
        let beside = machine
            .comes_after(key)
            .iter()
            .copied()
            .chain(machine.waits_for(key))
            .chain(machine.node(key).parent)
            .filter(|key| *key != ROOT);
        for key in beside {
            if wanted.insert(key) {
                open.push(key);
            }
        }
    }
    let subjects = order
        .into_iter()
        .filter(|key| wanted.contains(key))
        .map(|key| subject(engine, machine, key))
        .collect();
    (subjects, omitted)
}

fn is_well(machine: &Machine, key: Key) -> bool {
    let node = machine.node(key);
    let settled = matches!(node.state, State::Ready | State::Done);
    settled && !node.stalled && node.unhealthy.is_none()
}

fn subject(engine: &Engine, machine: &Machine, key: Key) -> Subject {
    let node = machine.node(key);
    let id = |key: Key| machine.node(key).id.clone();
    let wall = |at| engine.wall(at);
    Subject {
        id: node.id.clone(),
        kind: node.kind,
        state: node.state.name(),
        generation: node.generation,
        since: wall(node.since),
        restarts: node.restarts,
        restarts_in_window: machine.restarts_in_window(key),
        budget: machine
            .budget(key)
            .map(|(_, intensity)| (intensity.restarts(), intensity.window())),
        retry_at: machine.retry_at(key).map(wall),
        attempts_left: machine.attempts_left(key),
        start_timeout: node.policy.start_timeout,
        stop_timeout: node.policy.stop_timeout,
        optional: node.policy.optional,
        group: node.parent.filter(|parent| *parent != ROOT).map(id),
        after: machine.comes_after(key).iter().copied().map(id).collect(),
        waits_for: machine.waits_for(key).filter(|key| *key != ROOT).map(id),
        stalled: machine.stalled_since(key).map(wall),
        unhealthy: node.unhealthy.clone(),
        status: node.status.clone(),
        cause: node.cause.clone(),
        last_exit: node.last_exit.clone().filter(|_| node.kind != Kind::Group),
        next: snapshot::next(machine, key),
    }
}

/// Readers that lose events or are about to.
fn readers(engine: &Engine) -> Vec<Reading> {
    let mut found = Vec::new();
    for topic in engine.telemetry.bus.topics() {
        for name in &topic.by_name {
            let live = topic
                .readers
                .iter()
                .filter(|reader| reader.name == name.name);
            let slowest = live.max_by_key(|reader| reader.account.pending);
            let pending = slowest.map_or(0, |reader| reader.account.pending);
            let lost = name.account.lost.overflowed();
            if lost == 0 && (pending as f64) <= topic.capacity as f64 * BEHIND {
                continue;
            }
            found.push(Reading {
                topic: topic.name.clone(),
                name: name.name.clone(),
                policy: slowest.map(|reader| policy_name(reader.overflow)),
                capacity: topic.capacity,
                pending,
                lost,
                lost_lately: engine.telemetry.lost_lately(&topic.name, &name.name),
            });
        }
    }
    found
}

fn faults(engine: &Engine) -> Vec<Injected> {
    let faults = engine.faults();
    let in_force = faults.all().iter().map(|one| Injected {
        id: one.id,
        fault: one.name,
        child: one.child.clone(),
        since: engine.wall(one.since),
        until: engine.wall(one.until.unwrap_or(crate::supervisor::machine::HORIZON)),
        by: one.by.clone(),
    });
    in_force.collect()
}
