//! Tables and properties of the transition function, in a world where time is a number.

use super::super::spec::Strategy;
use super::*;
use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};
use proptest::strategy::Strategy as Generator;
use std::collections::BTreeMap;

const SECOND: Duration = Duration::from_secs(1);

fn defaults() -> Defaults {
    Defaults {
        backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(30)).unwrap(),
        intensity: Intensity::new(5, Duration::from_secs(60)).unwrap(),
        healthy_after: Duration::from_secs(30),
        give_up_after: None,
    }
}

fn leaf(name: &str) -> Blueprint {
    Blueprint {
        name: name.to_owned(),
        kind: Kind::Task,
        policy: Policy::default(),
        after: Vec::new(),
        members: Vec::new(),
    }
}

fn group(name: &str, strategy: Strategy, members: Vec<Blueprint>) -> Blueprint {
    let policy = Policy {
        strategy,
        backoff: Some(Backoff::NONE),
        ..Policy::default()
    };
    Blueprint {
        name: name.to_owned(),
        kind: Kind::Group,
        policy,
        after: Vec::new(),
        members,
    }
}

impl Blueprint {
    fn policy(mut self, change: impl FnOnce(&mut Policy)) -> Self {
        change(&mut self.policy);
        self
    }

    fn after(mut self, names: &[&str]) -> Self {
        self.after = names.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    fn at_once(self) -> Self {
        self.policy(|p| p.backoff = Some(Backoff::NONE))
    }
}

fn failed() -> Exit {
    Exit::Failed("boom".to_owned())
}

#[derive(Debug)]
struct Live {
    run: u64,
    stopping: bool,
    aborted: bool,
}

/// Performs effects the way the engine does and checks the laws at each of them.
struct World {
    machine: Machine,
    now: Time,
    live: BTreeMap<Key, Live>,
    notes: Vec<(String, Note)>,
    spawned: Vec<String>,
    stopped: Vec<String>,
    /// Restarts by budget: the child of the root, or the group, that pays.
    charged: BTreeMap<String, Vec<Time>>,
    released: BTreeMap<String, bool>,
    wants_shutdown: bool,
    ended: bool,
}

impl World {
    fn new(blueprints: Vec<Blueprint>) -> World {
        World::with(defaults(), blueprints)
    }

    fn with(defaults: Defaults, blueprints: Vec<Blueprint>) -> World {
        let mut machine = Machine::new(defaults, 42);
        machine.insert(blueprints, true).unwrap();
        let mut world = World {
            machine,
            now: Time::ZERO,
            live: BTreeMap::new(),
            notes: Vec::new(),
            spawned: Vec::new(),
            stopped: Vec::new(),
            charged: BTreeMap::new(),
            released: BTreeMap::new(),
            wants_shutdown: false,
            ended: false,
        };
        world.machine.launch(Time::ZERO);
        world.perform();
        world
    }

    fn key(&self, id: &str) -> Key {
        self.machine.find(id).unwrap_or_else(|| panic!("no {id}"))
    }

    fn state(&self, id: &str) -> &'static str {
        self.machine.node(self.key(id)).state.name()
    }

    fn generation(&self, id: &str) -> u64 {
        self.machine.node(self.key(id)).generation
    }

    fn input(&mut self, input: Input) {
        self.machine.step(self.now, input);
        self.perform();
    }

    fn ready(&mut self, id: &str) {
        let key = self.key(id);
        let run = self.live[&key].run;
        self.input(Input::Ready { key, run });
    }

    fn exit(&mut self, id: &str, exit: Exit) {
        let key = self.key(id);
        let run = self
            .live
            .remove(&key)
            .unwrap_or_else(|| panic!("{id} is not running"))
            .run;
        self.input(Input::Exited { key, run, exit });
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(at) = self.machine.next_deadline().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.input(Input::Tick);
        }
        self.now = until;
        self.input(Input::Tick);
    }

    /// Everything that runs and is not being stopped becomes ready.
    fn all_ready(&mut self) {
        for _ in 0..64 {
            let starting: Vec<(Key, u64)> = self
                .live
                .iter()
                .filter(|(key, _)| self.machine.node(**key).state == State::Starting)
                .map(|(key, live)| (*key, live.run))
                .collect();
            if starting.is_empty() {
                return;
            }
            for (key, run) in starting {
                self.input(Input::Ready { key, run });
            }
        }
    }

    /// Everything that was told to stop does.
    fn obey(&mut self) {
        while let Some((key, run)) = self
            .live
            .iter()
            .find(|(_, l)| l.stopping)
            .map(|(k, l)| (*k, l.run))
        {
            self.live.remove(&key);
            self.input(Input::Exited {
                key,
                run,
                exit: Exit::Done,
            });
        }
    }

    fn perform(&mut self) {
        let mut effects = Vec::new();
        self.machine.take_effects(&mut effects);
        for effect in effects {
            match effect {
                Effect::Spawn { key, run, .. } => {
                    let node = self.machine.node(key);
                    let id = node.id.to_string();
                    assert!(!self.live.contains_key(&key), "{id} runs twice");
                    self.live.insert(
                        key,
                        Live {
                            run,
                            stopping: false,
                            aborted: false,
                        },
                    );
                    self.spawned.push(id);
                }
                Effect::Stop { key, run, abort_at } => {
                    assert!(abort_at >= self.now);
                    let id = self.machine.node(key).id.to_string();
                    let live = self
                        .live
                        .get_mut(&key)
                        .unwrap_or_else(|| panic!("{id} stopped while not running"));
                    assert_eq!(live.run, run);
                    assert!(!live.stopping, "{id} told twice");
                    live.stopping = true;
                    self.stopped.push(id);
                }
                Effect::Abort { key, run } => {
                    let live = self.live.get_mut(&key).expect("aborted while not running");
                    assert_eq!(live.run, run);
                    live.aborted = true;
                }
                Effect::Note { id, what, .. } => {
                    let id = id.to_string();
                    match &what {
                        Note::Released { .. } => {
                            self.released.insert(id.clone(), true);
                        }
                        Note::Started { restart: true }
                            if !self.released.remove(&id).unwrap_or(false) =>
                        {
                            // A restarted group has a fresh budget.
                            let payer = id.rsplit_once('/').map_or(id.clone(), |(group, _)| {
                                format!("{group} #{}", self.generation(group))
                            });
                            self.charged.entry(payer).or_default().push(self.now);
                        }
                        _ => {}
                    }
                    self.notes.push((id, what));
                }
                Effect::WantsShutdown => self.wants_shutdown = true,
                Effect::Ended => self.ended = true,
                Effect::AskBeat { .. }
                | Effect::Condition { .. }
                | Effect::Removed { .. }
                | Effect::Satisfied { .. } => {}
            }
        }
        self.check();
    }

    /// What must hold after every step.
    fn check(&self) {
        let mut counts = [0; State::COUNT];
        for (index, node) in self.machine.nodes.iter().enumerate() {
            let key = index as Key;
            if node.kind == Kind::Group {
                let members = || node.members.iter().map(|m| self.machine.node(*m));
                assert_eq!(
                    node.unsatisfied as usize,
                    members().filter(|m| !m.satisfied).count(),
                    "{}",
                    node.id
                );
                assert_eq!(
                    node.done as usize,
                    members().filter(|m| m.state == State::Done).count(),
                    "{}",
                    node.id
                );
                if node.op.is_none() && node.state != State::Gone {
                    let owed = members().filter(|m| m.owed == Owed::Restart).count();
                    assert_eq!(node.pending as usize, owed, "pending of {}", node.id);
                }
                continue;
            }
            if node.state != State::Gone {
                counts[node.state.index()] += 1;
            }
            let runs = node.state.is_live() || matches!(node.state, State::Leaked { .. });
            assert_eq!(
                runs,
                self.live.contains_key(&key),
                "{} is {:?}",
                node.id,
                node.state
            );
        }
        assert_eq!(&counts, self.machine.counts());
        for (payer, starts) in &self.charged {
            for (index, start) in starts.iter().enumerate() {
                let inside = starts[..=index]
                    .iter()
                    .filter(|s| *start - **s < 60 * SECOND)
                    .count();
                assert!(
                    inside <= 5,
                    "{payer} restarted {inside} times in one window: {starts:?}"
                );
            }
        }
    }

    fn drain(&mut self, within: Duration) {
        self.input(Input::Drain { within });
    }
}

// ----- restart type x exit ---------------------------------------------------------------------

#[test]
fn restart_type_and_exit_decide_as_in_otp() {
    let panic = || Exit::Panicked {
        text: "p".into(),
        location: None,
    };
    let timeout = || Exit::TimedOut(Timeout::Start(SECOND));
    // restart type, exit, restarted?, state otherwise
    let table: &[(Restart, Exit, Option<&str>)] = &[
        (Restart::Permanent, Exit::Done, None),
        (Restart::Permanent, failed(), None),
        (Restart::Permanent, panic(), None),
        (Restart::Permanent, timeout(), None),
        (Restart::Permanent, Exit::Exited(0), None),
        (Restart::Transient, Exit::Done, Some("done")),
        (Restart::Transient, Exit::Exited(0), Some("done")),
        (Restart::Transient, failed(), None),
        (Restart::Transient, panic(), None),
        (Restart::Transient, timeout(), None),
        (Restart::Transient, Exit::Killed(9), None),
        (Restart::Transient, Exit::Exited(3), None),
        (Restart::Transient, Exit::Cancelled, Some("stopped")),
        (Restart::Temporary, Exit::Done, Some("done")),
        (Restart::Temporary, failed(), Some("stopped")),
        (Restart::Temporary, panic(), Some("stopped")),
        (Restart::Temporary, Exit::Killed(9), Some("stopped")),
    ];
    for (restart, exit, rests) in table {
        let mut world = World::new(vec![leaf("a").at_once().policy(|p| p.restart = *restart)]);
        world.ready("a");
        world.exit("a", exit.clone());
        match rests {
            None => assert_eq!(
                (world.state("a"), world.generation("a")),
                ("starting", 2),
                "{restart:?} {exit:?}"
            ),
            Some(state) => {
                assert_eq!(
                    (world.state("a"), world.generation("a")),
                    (*state, 1),
                    "{restart:?} {exit:?}"
                );
            }
        }
        let crashed = world
            .notes
            .iter()
            .any(|(_, note)| matches!(note, Note::Crashed { .. }));
        let failure = exit.is_failure() || (*restart == Restart::Permanent);
        assert_eq!(crashed, failure, "{restart:?} {exit:?}");
    }
}

#[test]
fn a_cancelled_child_means_its_runtime_is_gone_and_is_not_restarted() {
    let mut world = World::new(vec![leaf("a").at_once()]);
    world.exit("a", Exit::Cancelled);
    assert_eq!(world.state("a"), "stopped");
}

// ----- strategy --------------------------------------------------------------------------------

#[test]
fn strategy_decides_who_shares_the_fate_of_a_failed_member() {
    // strategy, members that get a new incarnation, in stop order
    let table: &[(Strategy, &[&str], &[&str])] = &[
        (Strategy::OneForOne, &["b"], &[]),
        (Strategy::OneForAll, &["a", "b", "c"], &["g/a", "g/c"]),
        (Strategy::RestForOne, &["b", "c"], &["g/c"]),
    ];
    for (strategy, restarted, stopped) in table {
        let members = vec![
            leaf("a").at_once(),
            leaf("b").at_once(),
            leaf("c").at_once(),
        ];
        let mut world = World::new(vec![group("g", *strategy, members), leaf("outside")]);
        world.all_ready();
        assert_eq!(world.state("g"), "ready");
        world.exit("g/b", failed());
        world.obey();
        world.all_ready();
        let mut told = world.stopped.clone();
        told.sort();
        assert_eq!(told, *stopped, "{strategy:?}");
        for name in ["a", "b", "c"] {
            let expected = if restarted.contains(&name) { 2 } else { 1 };
            assert_eq!(
                world.generation(&format!("g/{name}")),
                expected,
                "{strategy:?} {name}"
            );
        }
        assert_eq!(
            (world.generation("outside"), world.state("g")),
            (1, "ready")
        );
    }
}

#[test]
fn a_joint_restart_stops_in_reverse_and_starts_in_order() {
    let members = vec![
        leaf("a"),
        leaf("b").after(&["a"]),
        leaf("c").after(&["b"]),
        leaf("d").after(&["b"]).at_once(),
    ];
    let mut world = World::new(vec![group("g", Strategy::OneForAll, members)]);
    world.all_ready();
    world.spawned.clear();
    world.exit("g/d", failed());
    assert_eq!(world.stopped, ["g/c"]);
    world.obey();
    assert_eq!(world.stopped, ["g/c", "g/b", "g/a"]);
    world.all_ready();
    assert_eq!(world.spawned[..2], ["g/a", "g/b"]);
    assert_eq!(world.state("g"), "ready");
}

#[test]
fn a_joint_restart_waits_for_its_backoff_and_for_the_slowest_sibling() {
    let slow = leaf("slow").policy(|p| p.stop_timeout = 10 * SECOND);
    let mut world = World::new(vec![group("g", Strategy::OneForAll, vec![slow, leaf("a")])]);
    world.all_ready();
    world.exit("g/a", failed());
    assert_eq!(
        (world.state("g/a"), world.state("g/slow")),
        ("backoff", "stopping")
    );
    world.pass(SECOND);
    assert_eq!(world.state("g/a"), "backoff", "the sibling still runs");
    world.obey();
    assert_eq!(
        (world.state("g/a"), world.state("g/slow")),
        ("starting", "starting")
    );
}

#[test]
fn a_done_member_starts_again_in_a_joint_restart_and_a_stopped_one_does_not() {
    let members = vec![leaf("migrate"), leaf("held"), leaf("work").at_once()];
    let mut world = World::new(vec![group("g", Strategy::OneForAll, members)]);
    world.all_ready();
    world.exit("g/migrate", Exit::Done);
    let held = world.key("g/held");
    world.machine.stop(world.now, held).unwrap();
    world.perform();
    world.obey();
    world.exit("g/work", failed());
    world.obey();
    assert_eq!(
        (world.generation("g/migrate"), world.generation("g/held")),
        (2, 1)
    );
    assert_eq!(world.state("g/held"), "stopped");
}

#[test]
fn in_a_rest_for_one_group_each_member_starts_after_the_one_before() {
    let mut world = World::new(vec![group(
        "g",
        Strategy::RestForOne,
        vec![leaf("a"), leaf("b"), leaf("c")],
    )]);
    assert_eq!(world.spawned, ["g/a"]);
    world.ready("g/a");
    assert_eq!(world.spawned, ["g/a", "g/b"]);
}

// ----- budgets and escalation --------------------------------------------------------------------

#[test]
fn five_restarts_are_allowed_and_the_next_failure_quarantines() {
    let mut world = World::new(vec![leaf("a"), leaf("sibling")]);
    world.all_ready();
    for n in 0..5 {
        world.exit("a", failed());
        assert_eq!(world.state("a"), "backoff", "failure {n}");
        world.pass(4 * SECOND);
        assert_eq!(world.state("a"), "starting");
    }
    world.exit("a", failed());
    assert_eq!(world.state("a"), "quarantined");
    assert_eq!(
        (world.state("sibling"), world.generation("sibling")),
        ("ready", 1)
    );
    let delays: Vec<Duration> = world
        .notes
        .iter()
        .filter_map(|(_, note)| match note {
            Note::Backoff { delay, .. } => Some(*delay),
            _ => None,
        })
        .collect();
    let backoff = defaults().backoff;
    assert_eq!(delays.len(), 5);
    for (n, delay) in delays.iter().enumerate() {
        assert!(
            *delay >= backoff.min() && *delay <= backoff.ceiling(n as u32),
            "{n}: {delay:?}"
        );
    }
}

#[test]
fn quarantine_is_half_open_and_trials_double_to_five_minutes() {
    let mut world = World::with(
        Defaults {
            intensity: Intensity::new(0, SECOND).unwrap(),
            ..defaults()
        },
        vec![leaf("a")],
    );
    world.exit("a", failed());
    for expected in [30, 60, 120, 240, 300, 300] {
        assert_eq!(world.state("a"), "quarantined");
        world.pass(Duration::from_secs(expected) - Duration::from_millis(1));
        assert_eq!(
            world.state("a"),
            "quarantined",
            "no trial before {expected} s"
        );
        world.pass(Duration::from_millis(1));
        assert_eq!(world.state("a"), "starting", "trial at {expected} s");
        world.ready("a");
        world.exit("a", failed());
    }
}

#[test]
fn a_trial_that_stays_healthy_closes_the_quarantine() {
    let mut world = World::with(
        Defaults {
            intensity: Intensity::new(1, SECOND).unwrap(),
            ..defaults()
        },
        vec![leaf("a").at_once()],
    );
    world.exit("a", failed());
    world.exit("a", failed());
    assert_eq!(world.state("a"), "quarantined");
    world.pass(30 * SECOND);
    world.ready("a");
    world.pass(30 * SECOND);
    world.exit("a", failed());
    assert_eq!(world.state("a"), "starting", "an ordinary failure again");
}

#[test]
fn release_is_a_trial_at_once_and_refused_where_there_is_no_quarantine() {
    let mut world = World::with(
        Defaults {
            intensity: Intensity::new(0, SECOND).unwrap(),
            ..defaults()
        },
        vec![leaf("a")],
    );
    let key = world.key("a");
    assert_eq!(
        world.machine.release(world.now, key),
        Err(Refused::NotQuarantined("starting"))
    );
    world.exit("a", failed());
    world.machine.release(world.now, key).unwrap();
    world.perform();
    assert_eq!(world.state("a"), "starting");
    world.exit("a", failed());
    assert_eq!(world.state("a"), "quarantined");
}

#[test]
fn hold_waits_for_a_human() {
    let mut world = World::with(
        Defaults {
            intensity: Intensity::new(0, SECOND).unwrap(),
            ..defaults()
        },
        vec![leaf("a").policy(|p| p.exhausted = Some(Exhausted::Hold))],
    );
    world.exit("a", failed());
    world.pass(Duration::from_secs(100_000));
    assert_eq!(world.state("a"), "quarantined");
}

#[test]
fn a_healthy_period_resets_the_backoff_and_not_the_window() {
    let mut world = World::with(
        Defaults {
            healthy_after: SECOND,
            ..defaults()
        },
        vec![leaf("a")],
    );
    for _ in 0..5 {
        world.all_ready();
        world.pass(2 * SECOND);
        world.exit("a", failed());
        let attempt = world.notes.iter().rev().find_map(|(_, note)| match note {
            Note::Backoff { attempt, .. } => Some(*attempt),
            _ => None,
        });
        assert_eq!(attempt, Some(0));
        world.pass(SECOND);
    }
    world.all_ready();
    world.pass(2 * SECOND);
    world.exit("a", failed());
    assert_eq!(world.state("a"), "quarantined");
}

#[test]
fn a_spent_group_budget_stops_the_group_and_restarts_it_as_a_whole() {
    let members = vec![leaf("a").at_once(), leaf("b")];
    let mut world = World::new(vec![group("g", Strategy::OneForOne, members)]);
    world.all_ready();
    for _ in 0..5 {
        world.exit("g/a", failed());
        world.all_ready();
    }
    world.exit("g/a", failed());
    assert_eq!(
        (world.state("g"), world.state("g/b")),
        ("stopping", "stopping")
    );
    world.obey();
    assert_eq!((world.state("g"), world.generation("g")), ("starting", 2));
    assert_eq!((world.generation("g/a"), world.generation("g/b")), (7, 2));
    assert!(world
        .notes
        .iter()
        .any(|(id, note)| id == "g" && matches!(note, Note::Crashed { .. })));
}

#[test]
fn nested_groups_escalate_level_by_level_until_the_outermost_is_quarantined() {
    let one = |p: &mut Policy| p.intensity = Some(Intensity::new(1, 60 * SECOND).unwrap());
    let inner = group("inner", Strategy::OneForOne, vec![leaf("a").at_once()]).policy(one);
    let outer = group("outer", Strategy::OneForOne, vec![inner, leaf("b")]).policy(one);
    let defaults = Defaults {
        intensity: Intensity::new(1, 60 * SECOND).unwrap(),
        ..defaults()
    };
    let mut world = World::with(defaults, vec![outer, leaf("outside")]);
    world.all_ready();
    let mut crashes = 0;
    while world.state("outer") != "quarantined" {
        world.exit("outer/inner/a", failed());
        world.obey();
        world.all_ready();
        crashes += 1;
        assert!(crashes < 20);
    }
    // inner allows 1, outer allows 1 restart of inner, the root 1 restart of outer: (1+1)^3.
    assert_eq!(crashes, 8);
    assert_eq!(
        (world.state("outer/b"), world.state("outside")),
        ("waiting", "ready")
    );
    world.pass(30 * SECOND);
    assert_eq!(
        world.state("outer/b"),
        "starting",
        "the trial of the group starts its members"
    );
}

#[test]
fn escalate_at_the_root_and_shutdown_anywhere_end_the_kernel() {
    for exhausted in [Exhausted::Escalate, Exhausted::Shutdown] {
        let mut world = World::with(
            Defaults {
                intensity: Intensity::new(0, SECOND).unwrap(),
                ..defaults()
            },
            vec![
                leaf("a").policy(|p| p.exhausted = Some(exhausted)),
                leaf("b"),
            ],
        );
        world.all_ready();
        world.exit("a", failed());
        assert!(world.wants_shutdown);
        assert_eq!(world.machine.failure().map(|f| &**f), Some("a: boom"));
        world.drain(5 * SECOND);
        world.obey();
        assert!(world.ended);
    }
}

#[test]
fn give_up_after_ends_the_kernel_for_required_children_only() {
    for (optional, gives_up) in [(false, true), (true, false)] {
        let defaults = Defaults {
            intensity: Intensity::new(0, SECOND).unwrap(),
            give_up_after: Some(100 * SECOND),
            ..defaults()
        };
        let mut world = World::with(defaults, vec![leaf("a").policy(|p| p.optional = optional)]);
        world.exit("a", failed());
        // Trials come and fail; the clock runs from the first quarantine.
        for _ in 0..110 {
            world.pass(SECOND);
            if world.state("a") == "starting" {
                world.exit("a", failed());
            }
        }
        assert_eq!(world.wants_shutdown, gives_up);
    }
}

// ----- order -------------------------------------------------------------------------------------

#[test]
fn children_start_after_what_they_come_after_is_ready_and_stop_before_it() {
    let blueprints = vec![
        leaf("web").after(&["cache", "db"]),
        leaf("cache").after(&["db"]),
        leaf("db"),
    ];
    let mut world = World::new(blueprints);
    assert_eq!(world.spawned, ["db"]);
    world.ready("db");
    assert_eq!(world.spawned, ["db", "cache"]);
    world.ready("cache");
    assert_eq!(world.spawned, ["db", "cache", "web"]);
    world.ready("web");
    world.drain(5 * SECOND);
    world.obey();
    assert_eq!(world.stopped, ["web", "cache", "db"]);
    assert!(world.ended);
}

#[test]
fn dependants_keep_running_when_a_dependency_crashes_later() {
    let mut world = World::new(vec![leaf("db"), leaf("web").after(&["db"])]);
    world.all_ready();
    world.exit("db", failed());
    assert_eq!(world.state("web"), "ready");
    let web = world.key("web");
    world.machine.restart(world.now, web).unwrap();
    world.perform();
    world.obey();
    assert_eq!(world.state("web"), "waiting", "a new start waits again");
}

#[test]
fn an_optional_dependency_that_is_down_holds_nobody_back() {
    let defaults = Defaults {
        intensity: Intensity::new(0, SECOND).unwrap(),
        ..defaults()
    };
    let mut world = World::with(
        defaults,
        vec![
            leaf("cache").policy(|p| p.optional = true),
            leaf("web").after(&["cache"]),
        ],
    );
    assert_eq!(world.state("web"), "waiting");
    world.exit("cache", failed());
    assert_eq!(world.state("web"), "starting");
}

#[test]
fn names_resolve_from_the_inside_out_and_cycles_are_named() {
    let inner = group(
        "g",
        Strategy::OneForOne,
        vec![leaf("x").after(&["db"]), leaf("db")],
    );
    let world = World::new(vec![inner, leaf("db"), leaf("y").after(&["g/x"])]);
    let dep = world.machine.node(world.key("g/x")).after[0];
    assert_eq!(&*world.machine.node(dep).id, "g/db");

    let refuse = |blueprints| {
        Machine::new(defaults(), 1)
            .insert(blueprints, true)
            .unwrap_err()
    };
    let cycle = refuse(vec![
        leaf("a").after(&["b"]),
        leaf("b").after(&["c"]),
        leaf("c").after(&["a"]),
    ]);
    let GraphError::Cycle { path } = &cycle else {
        panic!("{cycle}")
    };
    assert_eq!(path.first(), path.last());
    assert_eq!(path.len(), 4, "{cycle}");

    // Through a group: a member waits for what waits for its group.
    let through = refuse(vec![
        group("g", Strategy::OneForOne, vec![leaf("x").after(&["y"])]),
        leaf("y").after(&["g"]),
    ]);
    assert!(
        through.to_string().contains("g") && through.to_string().contains("y"),
        "{through}"
    );
    // A member after its own group.
    assert!(matches!(
        refuse(vec![group(
            "g",
            Strategy::OneForOne,
            vec![leaf("x").after(&["g"])]
        )]),
        GraphError::Cycle { .. }
    ));
    assert!(matches!(
        refuse(vec![leaf("a").after(&["a"])]),
        GraphError::Cycle { .. }
    ));
    // The implicit order of a RestForOne group counts.
    let rest = group(
        "r",
        Strategy::RestForOne,
        vec![leaf("a").after(&["b"]), leaf("b")],
    );
    assert!(matches!(refuse(vec![rest]), GraphError::Cycle { .. }));

    let unknown = refuse(vec![leaf("a").after(&["dbb"]), leaf("db")]);
    assert_eq!(
        unknown.to_string(),
        "`a` starts after `dbb`, which does not exist; known here: db"
    );
    assert!(matches!(
        refuse(vec![leaf("a"), leaf("a")]),
        GraphError::Duplicate { .. }
    ));
    assert!(matches!(
        refuse(vec![leaf("a/b")]),
        GraphError::BadName { .. }
    ));
    assert!(matches!(refuse(vec![leaf("")]), GraphError::BadName { .. }));
}

#[test]
fn a_leaked_staller_does_not_keep_the_heartbeats_of_others_frozen() {
    let beat = leaf("beat").policy(|p| p.heartbeat = Some(SECOND));
    let mut world = World::new(vec![leaf("wedged"), beat]);
    world.all_ready();
    let (wedged, beat) = (world.key("wedged"), world.key("beat"));
    let (w, b) = (world.live[&wedged].run, world.live[&beat].run);
    world.input(Input::Stalled {
        key: wedged,
        run: w,
        held: SECOND,
    });
    world.machine.stop(world.now, wedged).unwrap();
    world.perform();
    world.pass(2 * SECOND + ABORT_GRACE + LEAK_AFTER);
    assert_eq!(
        (world.state("wedged"), world.state("beat")),
        ("leaked", "ready")
    );
    world.pass(SECOND);
    world.input(Input::Beat {
        key: beat,
        run: b,
        last: Time::ZERO,
    });
    assert_eq!(
        world.state("beat"),
        "stopping",
        "late, and nobody to blame but itself"
    );
}

#[test]
fn an_empty_group_has_its_place_in_the_order_too() {
    let gate = group("gate", Strategy::OneForOne, vec![]).after(&["db"]);
    let mut world = World::new(vec![leaf("db"), gate, leaf("web").after(&["gate"])]);
    assert_eq!(
        (world.state("gate"), world.state("web")),
        ("waiting", "waiting")
    );
    world.ready("db");
    assert_eq!(
        (world.state("gate"), world.state("web")),
        ("ready", "starting")
    );
}

// ----- stop, leak, drain -------------------------------------------------------------------------

#[test]
fn a_child_that_ignores_its_stop_is_aborted_then_stuck_then_leaked_and_never_duplicated() {
    let mut world = World::new(vec![leaf("a")]);
    world.ready("a");
    let key = world.key("a");
    world.machine.restart(world.now, key).unwrap();
    world.perform();
    world.pass(2 * SECOND);
    assert!(world.live[&key].aborted);
    world.pass(ABORT_GRACE);
    assert_eq!(world.state("a"), "stuck");
    world.pass(LEAK_AFTER);
    assert_eq!(world.state("a"), "leaked");
    assert_eq!(world.machine.restart(world.now, key), Err(Refused::Leaked));
    world.pass(Duration::from_secs(10_000));
    assert_eq!(world.generation("a"), 1);
    world.exit("a", Exit::Done);
    assert_eq!(
        world.state("a"),
        "quarantined",
        "it ended after all: half-open, not at once"
    );
    world.pass(30 * SECOND);
    assert_eq!((world.state("a"), world.generation("a")), ("starting", 2));
}

#[test]
fn a_start_timeout_is_a_failure_and_a_late_ready_changes_nothing() {
    let mut world = World::new(vec![leaf("a")
        .policy(|p| p.start_timeout = Some(10 * SECOND))
        .at_once()]);
    let key = world.key("a");
    let run = world.live[&key].run;
    world.pass(10 * SECOND);
    assert_eq!(world.state("a"), "stopping");
    world.input(Input::Ready { key, run });
    assert_eq!(world.state("a"), "stopping");
    world.exit("a", Exit::Done);
    assert_eq!(world.generation("a"), 2);
    assert_eq!(
        world.machine.node(key).last_exit,
        Some(Exit::TimedOut(Timeout::Start(10 * SECOND))),
        "the reason is the timeout, however it ended"
    );
    world.input(Input::Ready { key, run });
    assert_eq!(
        world.state("a"),
        "starting",
        "a stale incarnation sets nothing"
    );
}

#[test]
fn heartbeats_are_charged_to_the_staller_only() {
    let beat = |name: &str| leaf(name).policy(|p| p.heartbeat = Some(SECOND));
    let mut world = World::new(vec![beat("staller"), beat("victim")]);
    world.all_ready();
    let (staller, victim) = (world.key("staller"), world.key("victim"));
    let (s, v) = (world.live[&staller].run, world.live[&victim].run);
    world.input(Input::Stalled {
        key: staller,
        run: s,
        held: Duration::from_millis(300),
    });
    world.now = 2 * SECOND;
    world.input(Input::Beat {
        key: victim,
        run: v,
        last: Time::ZERO,
    });
    assert_eq!(
        world.state("victim"),
        "ready",
        "frozen while the stall is open"
    );
    world.input(Input::Beat {
        key: staller,
        run: s,
        last: Time::ZERO,
    });
    assert_eq!(world.state("staller"), "stopping");
    world.exit("staller", Exit::Cancelled);
    let last_exit = &world.machine.node(staller).last_exit;
    assert_eq!(*last_exit, Some(Exit::TimedOut(Timeout::Heartbeat(SECOND))));
    // The stall is over: the victim has a full interval from its end.
    world.now += Duration::from_millis(900);
    world.input(Input::Beat {
        key: victim,
        run: v,
        last: Time::ZERO,
    });
    assert_eq!(world.state("victim"), "ready");
    world.now += Duration::from_millis(100);
    world.input(Input::Beat {
        key: victim,
        run: v,
        last: Time::ZERO,
    });
    assert_eq!(world.state("victim"), "stopping");
}

#[test]
fn shutdown_overtakes_a_pending_restart() {
    let mut world = World::new(vec![leaf("a"), leaf("b").after(&["a"])]);
    world.exit("a", failed());
    assert_eq!((world.state("a"), world.state("b")), ("backoff", "waiting"));
    world.drain(5 * SECOND);
    assert!(world.ended);
    assert_eq!((world.state("a"), world.state("b")), ("stopped", "stopped"));
    world.pass(Duration::from_secs(100));
    assert!(world.live.is_empty());
}

#[test]
fn a_drain_never_outlasts_its_deadline_and_its_accounts_balance() {
    let stubborn = |name: &str| leaf(name).policy(|p| p.stop_timeout = 60 * SECOND);
    let mut world = World::new(vec![
        leaf("polite"),
        stubborn("deaf").after(&["polite"]),
        leaf("sick").policy(|p| p.intensity = Some(Intensity::new(0, SECOND).unwrap())),
        leaf("never").after(&["sick"]),
    ]);
    world.all_ready();
    world.exit("sick", failed());
    world.drain(5 * SECOND);
    assert_eq!(world.stopped, ["deaf", "never"]);
    let polite = world.key("polite");
    for _ in 0..500 {
        world.pass(Duration::from_millis(10));
        if world.live.get(&polite).is_some_and(|live| live.stopping) {
            world.exit("polite", Exit::Done);
        }
    }
    assert!(world.ended, "by the deadline");
    let accounts = world.machine.accounts();
    assert_eq!(
        accounts.started,
        accounts.stopped + accounts.aborted + accounts.leaked + accounts.quarantined
    );
    assert_eq!((accounts.quarantined, accounts.leaked), (1, 2));
    let stragglers: Vec<&str> = accounts.stragglers.iter().map(|id| &**id).collect();
    assert_eq!(stragglers, ["deaf", "never"]);
}

#[test]
fn an_aborted_child_that_ends_counts_as_aborted() {
    let mut world = World::new(vec![leaf("deaf")]);
    world.ready("deaf");
    world.drain(5 * SECOND);
    world.pass(2 * SECOND);
    world.exit("deaf", Exit::Cancelled);
    assert!(world.ended);
    let accounts = world.machine.accounts();
    assert_eq!((accounts.aborted, accounts.started), (1, 1));
    assert_eq!(&*accounts.stragglers[0], "deaf");
}

#[test]
fn temporary_children_added_at_run_time_are_forgotten_when_they_end() {
    let mut world = World::new(vec![leaf("a")]);
    world
        .machine
        .add(
            world.now,
            vec![leaf("job").policy(|p| p.restart = Restart::Temporary)],
        )
        .unwrap();
    world.perform();
    world.ready("job");
    world.exit("job", failed());
    assert_eq!(world.machine.find("job"), None);
    world.machine.add(world.now, vec![leaf("job")]).unwrap();
    world.perform();
    assert_eq!(world.generation("job"), 1);
    world.drain(SECOND);
    world.obey();
    assert_eq!(world.machine.accounts().started, 3);
}

#[test]
fn a_stopped_group_is_restarted_whole() {
    let inner = group("inner", Strategy::OneForOne, vec![leaf("a")]);
    let mut world = World::new(vec![group(
        "g",
        Strategy::OneForOne,
        vec![inner, leaf("b")],
    )]);
    world.all_ready();
    let key = world.key("g");
    world.machine.stop(world.now, key).unwrap();
    world.perform();
    world.obey();
    assert_eq!(
        (world.state("g"), world.state("g/inner/a")),
        ("stopped", "stopped")
    );
    world.machine.restart(world.now, key).unwrap();
    world.perform();
    world.all_ready();
    assert_eq!(
        (world.state("g"), world.generation("g/inner/a")),
        ("ready", 2)
    );
}

#[test]
fn what_others_start_after_cannot_be_removed() {
    let mut world = World::new(vec![
        group(
            "g",
            Strategy::OneForOne,
            vec![leaf("x"), leaf("y").after(&["x"])],
        ),
        leaf("z").after(&["g/x"]),
    ]);
    world.all_ready();
    let (g, z) = (world.key("g"), world.key("z"));
    assert_eq!(
        world.machine.remove(world.now, g),
        Err(Refused::HasDependants(Arc::from("z")))
    );
    world.machine.remove(world.now, z).unwrap();
    world.perform();
    world.obey();
    world.machine.remove(world.now, g).unwrap();
    world.perform();
    world.obey();
    assert_eq!(world.machine.find("g"), None);
    assert_eq!(world.machine.find("g/x"), None);
    world.drain(SECOND);
    assert!(world.ended);
    assert_eq!(world.machine.accounts().started, 3);
}

// ----- random trees, random lives ----------------------------------------------------------------

#[derive(Clone, Debug)]
struct RandomNode {
    restart: u8,
    strategy: u8,
    exhausted: u8,
    optional: bool,
    gated: bool,
    at_once: bool,
    after: Vec<u8>,
    members: Vec<RandomNode>,
}

fn random_node() -> impl Generator<Value = RandomNode> {
    let leaf = (
        0u8..3,
        0u8..5,
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        prop::collection::vec(0u8..8, 0..3),
    )
        .prop_map(
            |(restart, exhausted, optional, gated, at_once, after)| RandomNode {
                restart,
                strategy: 0,
                exhausted,
                optional,
                gated,
                at_once,
                after,
                members: Vec::new(),
            },
        );
    leaf.prop_recursive(3, 14, 4, |inner| {
        (
            prop::collection::vec(inner, 1..4),
            0u8..3,
            0u8..3,
            0u8..5,
            any::<bool>(),
            prop::collection::vec(0u8..8, 0..2),
        )
            .prop_map(|(members, strategy, restart, exhausted, optional, after)| {
                RandomNode {
                    restart,
                    strategy,
                    exhausted,
                    optional,
                    gated: false,
                    at_once: false,
                    after,
                    members,
                }
            })
    })
}

/// Only earlier siblings are named, so that most graphs are valid; cycles through groups are refused.
fn blueprint(node: &RandomNode, index: usize) -> Blueprint {
    let policy = Policy {
        restart: [Restart::Transient, Restart::Permanent, Restart::Temporary]
            [node.restart as usize],
        strategy: [
            Strategy::OneForOne,
            Strategy::OneForAll,
            Strategy::RestForOne,
        ][node.strategy as usize],
        exhausted: [
            None,
            Some(Exhausted::HalfOpen),
            Some(Exhausted::Hold),
            Some(Exhausted::Escalate),
            None,
        ][node.exhausted as usize],
        optional: node.optional,
        start_timeout: node.gated.then_some(3 * SECOND),
        backoff: node.at_once.then_some(Backoff::NONE),
        ..Policy::default()
    };
    Blueprint {
        name: format!("n{index}"),
        kind: if node.members.is_empty() {
            Kind::Task
        } else {
            Kind::Group
        },
        policy,
        after: node
            .after
            .iter()
            .filter(|_| index > 0)
            .map(|n| format!("n{}", *n as usize % index.max(1)))
            .collect(),
        members: node
            .members
            .iter()
            .enumerate()
            .map(|(i, member)| blueprint(member, i))
            .collect(),
    }
}

/// Every leaf that must be ready before `key` may start.
fn must_precede(machine: &Machine, key: Key) -> Vec<Key> {
    let mut found = Vec::new();
    let mut at = Some(key);
    while let Some(current) = at {
        found.extend(machine.leaves(&machine.node(current).after));
        at = machine.node(current).parent;
    }
    found
}

proptest! {
    #[test]
    fn random_lives_keep_every_law(
        nodes in prop::collection::vec(random_node(), 1..7),
        actions in prop::collection::vec((0u8..13, any::<u16>()), 0..150),
        drain_ms in 200u64..8_000,
    ) {
        let blueprints: Vec<Blueprint> = nodes.iter().enumerate().map(|(i, n)| blueprint(n, i)).collect();
        let Ok(_) = Machine::new(defaults(), 1).insert(blueprints.clone(), true) else { return Ok(()) };
        let mut world = World::new(blueprints);
        for (action, pick) in actions {
            if world.wants_shutdown {
                break;
            }
            let live: Vec<(Key, u64)> = world.live.iter().map(|(key, live)| (*key, live.run)).collect();
            let chosen = (!live.is_empty()).then(|| live[pick as usize % live.len()]);
            let any_key = 1 + Key::from(pick) % (world.machine.nodes.len() as Key - 1).max(1);
            let exists = world.machine.node(any_key).state != State::Gone;
            match (action, chosen) {
                (0 | 1, Some((key, run))) => world.input(Input::Ready { key, run }),
                (2 | 3, Some((key, run))) => {
                    world.live.remove(&key);
                    world.input(Input::Exited { key, run, exit: failed() });
                }
                (4, Some((key, run))) => {
                    world.live.remove(&key);
                    world.input(Input::Exited { key, run, exit: Exit::Done });
                }
                (5, _) => world.pass(Duration::from_millis(u64::from(pick) % 2_000)),
                (6, _) => world.pass(Duration::from_secs(u64::from(pick) % 70)),
                (7, _) => world.all_ready(),
                (8, _) => world.obey(),
                (9, _) if exists => {
                    let _ = world.machine.stop(world.now, any_key);
                    world.perform();
                }
                (10, _) if exists => {
                    // Early and outside the budget, but a restart in the accounts.
                    let due = world.machine.node(any_key).owed != Owed::Nothing;
                    if world.machine.restart(world.now, any_key).is_ok() && due {
                        let id = world.machine.node(any_key).id.to_string();
                        world.released.insert(id, true);
                    }
                    world.perform();
                }
                (12, _) if exists => {
                    let _ = world.machine.remove(world.now, any_key);
                    world.perform();
                }
                (11, _) if exists => {
                    let _ = world.machine.release(world.now, any_key);
                    world.perform();
                }
                _ => {}
            }
        }
        world.stopped.clear();
        let stop_order_from = world.stopped.len();
        let already: Vec<Key> = world.live.iter().filter(|(_, l)| l.stopping).map(|(k, _)| *k).collect();
        let within = Duration::from_millis(drain_ms);
        let started = world.now;
        world.drain(within);
        // Most obey, a third does not.
        let mut order: Vec<Key> = Vec::new();
        let mut told_at: BTreeMap<Key, Time> = BTreeMap::new();
        while !world.ended {
            for id in world.stopped.drain(stop_order_from..) {
                let key = world.machine.find(&id).unwrap();
                told_at.insert(key, world.now);
                order.push(key);
            }
            let obeys = world.live.iter().find(|(key, l)| l.stopping && *key % 3 != 0).map(|(k, l)| (*k, l.run));
            if let Some((key, run)) = obeys {
                world.live.remove(&key);
                world.input(Input::Exited { key, run, exit: Exit::Done });
            } else {
                let at = world.machine.next_deadline();
                prop_assert!(at.is_some(), "nothing more will happen and the drain has not ended");
                world.now = world.now.max(at.unwrap());
                world.input(Input::Tick);
            }
            prop_assert!(world.now <= started + within, "the drain outlasted its deadline");
        }
        for id in world.stopped.drain(stop_order_from..) {
            let key = world.machine.find(&id).unwrap();
            told_at.insert(key, world.now);
            order.push(key);
        }
        // Reverse order: whatever comes after a child is told to stop before it, until the last call.
        let last_call = started + within - ABORT_GRACE.min(within / 5);
        order.retain(|key| told_at.get(key).is_none_or(|at| *at < last_call));
        for (position, key) in order.iter().enumerate() {
            for before in must_precede(&world.machine, *key) {
                let other = order.iter().position(|o| *o == before);
                prop_assert!(
                    already.contains(&before) || other.is_none_or(|other| other > position),
                    "{} stopped before {}", world.machine.node(before).id, world.machine.node(*key).id
                );
            }
        }
        let accounts = world.machine.accounts();
        prop_assert_eq!(
            accounts.started,
            accounts.stopped + accounts.aborted + accounts.leaked + accounts.quarantined
        );
        prop_assert_eq!(accounts.leaked as usize, world.live.len());
        // Nothing starts any more, whatever ends late.
        let spawned = world.spawned.len();
        for (key, run) in world.live.iter().map(|(k, l)| (*k, l.run)).collect::<Vec<_>>() {
            world.live.remove(&key);
            world.input(Input::Exited { key, run, exit: failed() });
        }
        world.pass(Duration::from_secs(1_000));
        prop_assert_eq!(world.spawned.len(), spawned);
    }

    #[test]
    fn children_only_start_when_everything_they_come_after_has_been_ready(
        nodes in prop::collection::vec(random_node(), 1..8), order in prop::collection::vec(any::<u16>(), 64),
    ) {
        let blueprints: Vec<Blueprint> = nodes.iter().enumerate().map(|(i, n)| blueprint(n, i)).collect();
        let Ok(_) = Machine::new(defaults(), 1).insert(blueprints.clone(), true) else { return Ok(()) };
        let mut world = World::new(blueprints);
        let mut was_ready: Vec<Key> = Vec::new();
        let mut seen = 0;
        for pick in order {
            for id in &world.spawned[seen..] {
                let key = world.machine.find(id).unwrap();
                for before in must_precede(&world.machine, key) {
                    prop_assert!(was_ready.contains(&before), "{id} started too early");
                }
            }
            seen = world.spawned.len();
            let starting: Vec<(Key, u64)> = world
                .live
                .iter()
                .filter(|(key, _)| world.machine.node(**key).state == State::Starting)
                .map(|(key, live)| (*key, live.run))
                .collect();
            if starting.is_empty() {
                break;
            }
            let (key, run) = starting[pick as usize % starting.len()];
            was_ready.push(key);
            world.input(Input::Ready { key, run });
        }
        let leaves = world.machine.leaves(&[ROOT]).len();
        if was_ready.len() < 64 {
            prop_assert_eq!(was_ready.len(), leaves, "everything became ready in the end");
        }
    }
}
