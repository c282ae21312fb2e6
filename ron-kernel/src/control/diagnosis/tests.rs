use super::*;
use crate::supervisor::Timeout;
use proptest::prelude::*;
use proptest::sample::select;
use std::collections::BTreeMap;

const NOW: f64 = 1000.0;
const FULL: &str = "No space left on device (os error 28)";

/// Seconds after the kernel's start; it is [`NOW`].
fn at(seconds: f64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000) + Duration::from_secs_f64(seconds)
}

fn child(id: &str, state: &'static str, since: f64) -> Subject {
    Subject {
        id: id.into(),
        kind: Kind::Task,
        state,
        generation: 1,
        since: at(since),
        restarts: 0,
        restarts_in_window: 0,
        budget: Some((5, Duration::from_secs(60))),
        retry_at: None,
        attempts_left: None,
        start_timeout: None,
        stop_timeout: Duration::from_secs(2),
        optional: false,
        group: id.rsplit_once('/').map(|(group, _)| group.into()),
        after: Vec::new(),
        waits_for: None,
        stalled: None,
        unhealthy: None,
        status: None,
        cause: None,
        last_exit: None,
        next: format!("next of {id}"),
    }
}

fn group(id: &str, state: &'static str, since: f64) -> Subject {
    Subject {
        kind: Kind::Group,
        ..child(id, state, since)
    }
}

impl Subject {
    fn failed(mut self, text: &str) -> Subject {
        self.cause = Some(text.into());
        self.last_exit = Some(Exit::Failed(text.to_owned()));
        self
    }

    fn timed_out(mut self) -> Subject {
        let exit = Exit::TimedOut(Timeout::Start(Duration::from_secs(5)));
        self.cause = Some(exit.to_string().into());
        self.last_exit = Some(exit);
        self
    }

    fn after(mut self, ids: &[&str]) -> Subject {
        self.after = ids.iter().map(|id| Arc::from(*id)).collect();
        self
    }

    fn waits(mut self, id: &str) -> Subject {
        self.waits_for = Some(id.into());
        self.after(&[id])
    }

    fn held(mut self) -> Subject {
        self.waits_for = self.group.clone();
        self
    }

    fn with(mut self, change: impl FnOnce(&mut Subject)) -> Subject {
        change(&mut self);
        self
    }
}

fn ready() -> Situation {
    Situation {
        now: at(NOW),
        service: "svc".to_owned(),
        started: at(0.0),
        draining: None,
        readiness: Readiness {
            state: "ready".to_owned(),
            ready: true,
            degraded: false,
            since: at(1.0),
            missing: Vec::new(),
            causes: Vec::new(),
        },
        children: Vec::new(),
        children_omitted: 0,
        readers: Vec::new(),
        faults: Vec::new(),
        rejected: None,
        pending_keys: Vec::new(),
        record: Vec::new(),
    }
}

fn unready(since: f64) -> Situation {
    let mut situation = ready();
    situation.readiness.state = "not_ready".to_owned();
    situation.readiness.ready = false;
    situation.readiness.since = at(since);
    situation
}

fn degraded() -> Situation {
    let mut situation = ready();
    situation.readiness.state = "degraded".to_owned();
    situation.readiness.degraded = true;
    situation
}

fn draining(who: &str) -> Situation {
    let mut situation = unready(996.0);
    situation.readiness.state = "draining".to_owned();
    situation.draining = Some(who.to_owned());
    situation.service_entry(EntryKind::Shutdown, 996.0, "the shutdown began")
}

impl Situation {
    fn child(mut self, subject: Subject) -> Situation {
        self.children.push(subject);
        self
    }

    fn missing(mut self, keys: &[&str]) -> Situation {
        let keys = keys.iter().map(|key| (*key).to_owned());
        self.readiness.missing.extend(keys);
        self
    }

    fn cause(mut self, key: &str, status: &'static str, reason: &str, since: f64) -> Situation {
        self.readiness.causes.push(Cause {
            key: key.to_owned(),
            status,
            reason: reason.to_owned(),
            since: at(since),
        });
        self
    }

    fn fault(mut self, fault: &'static str, child: Option<&str>, since: f64) -> Situation {
        self.faults.push(Injected {
            id: self.faults.len() as u64 + 1,
            fault,
            child: child.map(Arc::from),
            since: at(since),
            until: at(NOW + 25.0),
            by: "uid 0 pid 7".into(),
        });
        self
    }

    fn reader(mut self, name: &str, policy: &'static str, numbers: [u64; 3]) -> Situation {
        let [pending, lost, lost_lately] = numbers;
        self.readers.push(Reading {
            topic: "kernel".into(),
            name: name.into(),
            policy: Some(policy),
            capacity: 100,
            pending,
            lost,
            lost_lately,
        });
        self
    }

    fn entry(mut self, kind: EntryKind, subject: &str, when: f64, text: &str) -> Situation {
        self = self.service_entry(kind, when, text);
        if let Some(entry) = self.record.last_mut() {
            entry.subject = Some(subject.into());
        }
        self
    }

    fn service_entry(mut self, kind: EntryKind, when: f64, text: &str) -> Situation {
        self.record.push(Entry {
            seq: self.record.len() as u64 + 1,
            at: at(when),
            kind,
            subject: None,
            generation: None,
            by: None,
            text: text.into(),
        });
        self
    }

    /// Who caused the last entry.
    fn by(mut self, who: &str) -> Situation {
        if let Some(entry) = self.record.last_mut() {
            entry.by = Some(who.into());
        }
        self
    }

    /// Crashes, each followed by a restart but the last.
    fn crashes(mut self, subject: &str, times: &[f64], text: &str) -> Situation {
        for (place, time) in times.iter().enumerate() {
            self = self.entry(EntryKind::Crash, subject, *time, text);
            if place + 1 < times.len() {
                self = self.entry(EntryKind::Restart, subject, *time + 0.2, "restarted");
            }
        }
        self
    }
}

/// Each finding as `critical child:store: child:cache child:web`.
fn roots(situation: &Situation) -> Vec<String> {
    let short = |finding: &Finding| {
        let mut text = format!("{} {}", finding.gravity.name(), finding.subject);
        for (place, subject) in finding.affects.iter().enumerate() {
            text.push_str(if place == 0 { ": " } else { " " });
            text.push_str(subject);
        }
        text
    };
    diagnose(situation).findings.iter().map(short).collect()
}

fn first(situation: &Situation) -> Finding {
    diagnose(situation).findings.swap_remove(0)
}

fn chain(finding: &Finding) -> Vec<(&str, &str)> {
    let links = finding.because.iter();
    links.map(|link| (&*link.what, &*link.evidence)).collect()
}

/// store fails, index waits for it, cache for index, web for cache.
fn four_links() -> Situation {
    unready(870.0)
        .missing(&["child:web", "child:cache", "child:index"])
        .cause("child:store", "not_ready", "restart_storm: disk", 870.0)
        .child(child("cache", "waiting", 870.2).waits("index"))
        .child(child("index", "waiting", 870.1).waits("store"))
        .child(
            child("store", "backoff", 999.0)
                .failed(FULL)
                .with(|store| store.generation = 7)
                .with(|store| store.retry_at = Some(at(1002.0))),
        )
        .child(child("web", "waiting", 870.3).waits("cache"))
        .crashes("store", &[995.9, 997.0, 998.0, 999.0], FULL)
}

#[test]
fn a_chain_of_waiting_children_is_one_finding_about_its_end() {
    let situation = four_links();
    assert_eq!(
        roots(&situation),
        ["critical child:store: child:cache child:index child:web"]
    );
    let store = first(&situation);
    assert_eq!(store.what, format!("store failed 4 times in 3.1s: {FULL}"));
    assert_eq!(store.next, "next of store");
    assert_eq!(store.retry_at, Some(at(1002.0)));
    assert_eq!(
        store.advice,
        [
            "ronctl explain store",
            "ronctl restart store",
            "ronctl tail --topic kernel --since 10m"
        ]
    );
}

#[test]
fn the_chain_of_reasons_goes_from_what_is_seen_to_the_root_cause() {
    assert_eq!(
        chain(&first(&four_links())),
        [
            (
                "readiness 503: child:web has never been ready",
                "readyz: child:web"
            ),
            (
                "web waits for cache, which is waiting",
                "tree: web generation 1"
            ),
            (
                "cache waits for index, which is waiting",
                "tree: cache generation 1"
            ),
            (
                "index waits for store, which is backoff",
                "tree: index generation 1"
            ),
            ("store failed 4 times in 3.1s", "record #1"),
            (&*format!("store: {FULL}"), "tree: store generation 7"),
        ]
    );
}

#[test]
fn the_verdict_names_the_root_cause_and_counts_the_rest() {
    let table: [(Situation, &str); 10] = [
        (ready(), "ready, nothing is wrong"),
        (
            four_links(),
            "not ready for 2m 10s: store failed 4 times in 3.1s: No space left on device (os error 28)",
        ),
        (unready(999.5), "not ready for 500ms: no cause is known"),
        (
            ready().child(
                child("extra", "backoff", 999.0)
                    .failed("boom")
                    .with(|extra| extra.optional = true),
            ),
            "ready, but extra failed: boom",
        ),
        (
            degraded()
                .cause("child:extra", "degraded", "restarting: boom", 999.0)
                .child(child("extra", "backoff", 999.0).failed("boom"))
                .child(child("other", "stuck", 990.0)),
            "ready, degraded: other is stuck: it was aborted and still runs (1 more finding)",
        ),
        (
            ready().reader("audit", "drop_oldest", [0, 5, 0]),
            "ready, nothing is wrong; notice: reader audit of topic kernel lost 5 events earlier, none lately (drop_oldest)",
        ),
        (draining("SIGTERM"), "draining: svc has been shutting down for 4s: SIGTERM"),
        (
            draining("SIGTERM")
                .child(child("a", "stuck", 900.0))
                .child(child("b", "leaked", 901.0)),
            "draining: svc has been shutting down for 4s: SIGTERM; waits for a (stuck for 1m 40s) (2 more findings)",
        ),
        (
            draining("SIGTERM").cause("keyring", "fail_secure", "unreadable", 900.0),
            "draining: svc has been shutting down for 4s: SIGTERM (1 more finding)",
        ),
        (
            Situation {
                children_omitted: 2,
                ..ready()
            },
            "ready, nothing is wrong (2 more unwell children were not looked at)",
        ),
    ];
    for (situation, expected) in table {
        assert_eq!(diagnose(&situation).verdict, expected);
    }
}

// ----- crash loops and what they start after -------------------------------------------------

/// Two crash loops, api after store; api began failing at `api`, store at 900.
fn two_loops(api: f64) -> Situation {
    let mut times: Vec<f64> = (0..20).map(|n| api + 40.0 * f64::from(n)).collect();
    times.retain(|time| *time < 999.0);
    times.push(999.0);
    degraded()
        .child(
            child("api", "backoff", 999.0)
                .failed("refused")
                .after(&["store"]),
        )
        .child(child("store", "backoff", 998.0).failed("disk"))
        .crashes("api", &times, "refused")
        .crashes("store", &[900.0, 950.0, 998.0], "disk")
}

#[test]
fn a_crash_loop_is_a_symptom_of_what_it_starts_after_if_that_began_earlier() {
    let table: [(f64, &[&str]); 4] = [
        (950.0, &["warning child:store: child:api"]),
        (900.0, &["warning child:store: child:api"]),
        // Within the slack of a second.
        (899.2, &["warning child:store: child:api"]),
        (890.0, &["warning child:api", "warning child:store"]),
    ];
    for (api, expected) in table {
        // The state of store changed last either way: the record decides, not the tree.
        assert_eq!(
            roots(&two_loops(api)),
            expected,
            "api failed first at {api}"
        );
    }
}

#[test]
fn an_incarnation_that_was_well_for_a_minute_ends_the_trouble_before_it() {
    let situation = degraded()
        .child(
            child("api", "backoff", 999.0)
                .failed("refused")
                .after(&["store"]),
        )
        .child(child("store", "backoff", 998.0).failed("disk"))
        .crashes("api", &[100.0, 999.0], "refused")
        .crashes("store", &[990.0, 998.0], "disk");
    assert_eq!(roots(&situation), ["warning child:store: child:api"]);
    let alone = ready()
        .child(child("api", "backoff", 999.0).failed("refused"))
        .crashes("api", &[100.0, 950.0, 999.0], "refused");
    assert_eq!(first(&alone).what, "api failed 2 times in 49s: refused");
    assert_eq!(first(&alone).since, at(950.0));
}

#[test]
fn a_slow_starter_is_not_well_for_as_long_as_it_may_start() {
    let mut situation = ready()
        .child(child("api", "backoff", 999.0).failed("late"))
        .crashes("api", &[800.0, 900.0, 999.0], "late");
    assert_eq!(first(&situation).since, at(999.0));
    situation.children[0].start_timeout = Some(Duration::from_secs(100));
    assert_eq!(first(&situation).since, at(800.0));
}

#[test]
fn crash_loops_are_blamed_along_any_number_of_links_through_those_that_are_well() {
    let situation = degraded()
        .child(child("a", "backoff", 999.0).failed("x").after(&["b"]))
        .child(child("b", "ready", 10.0).after(&["c"]))
        .child(child("c", "backoff", 995.0).failed("y").after(&["d", "e"]))
        .child(child("d", "backoff", 990.0).failed("z"))
        .child(child("e", "backoff", 980.0).failed("w"));
    assert_eq!(
        roots(&situation),
        ["warning child:e: child:a child:c", "warning child:d"]
    );
}

#[test]
fn members_start_after_what_their_group_starts_after() {
    let situation = degraded()
        .child(group("g", "starting", 999.0).after(&["store"]))
        .child(child("g/a", "backoff", 999.0).failed("refused"))
        .child(child("store", "backoff", 990.0).failed("disk"));
    assert_eq!(
        roots(&situation),
        ["warning child:store: child:g child:g/a"]
    );
}

#[test]
fn two_crash_loops_without_a_tie_are_two_findings() {
    let situation = degraded()
        .child(child("a", "backoff", 999.0).failed("x"))
        .child(child("b", "backoff", 990.0).failed("y"));
    assert_eq!(roots(&situation), ["warning child:b", "warning child:a"]);
}

#[test]
fn who_says_it_is_unhealthy_may_blame_what_was_unwell_first() {
    let web = |since| {
        degraded()
            .cause("child:web", "degraded", "db gone", since)
            .child(
                child("web", "ready", 5.0)
                    .after(&["db"])
                    .with(|web| web.unhealthy = Some("db gone".into())),
            )
            .child(child("db", "backoff", 990.0).failed("disk"))
    };
    assert_eq!(roots(&web(995.0)), ["warning child:db: child:web"]);
    assert_eq!(
        roots(&web(900.0)),
        ["warning child:web", "warning child:db"]
    );
    assert_eq!(
        first(&web(900.0)).what,
        "web reports itself unhealthy: db gone"
    );
    assert_eq!(first(&web(900.0)).since, at(900.0));
}

// ----- groups --------------------------------------------------------------------------------

#[test]
fn a_joint_restart_is_about_the_member_that_failed() {
    let situation = unready(990.0)
        .missing(&["child:web"])
        .child(group("g", "starting", 998.0))
        .child(child("g/a", "waiting", 998.5).held())
        .child(child("g/b", "backoff", 998.0).failed("boom"))
        .child(child("g/c", "stopping", 998.1))
        .child(child("g/d", "starting", 998.9))
        .child(child("web", "waiting", 990.0).waits("g"))
        .crashes("g/b", &[998.0], "boom")
        .entry(EntryKind::Stop, "g/d", 998.6, "stopped: cancelled");
    assert_eq!(
        roots(&situation),
        ["critical child:g/b: child:g child:g/a child:g/c child:g/d child:web"]
    );
    assert_eq!(
        chain(&first(&situation)),
        [
            (
                "readiness 503: child:web has never been ready",
                "readyz: child:web"
            ),
            (
                "web waits for g, which is starting",
                "tree: web generation 1"
            ),
            (
                "g is starting: its member g/b is backoff",
                "tree: g generation 1"
            ),
            ("g/b failed", "record #1"),
            ("g/b: boom", "tree: g/b generation 1"),
        ]
    );
}

#[test]
fn a_member_that_merely_starts_slowly_is_not_blamed_on_a_sibling() {
    let situation = degraded()
        .child(group("g", "starting", 998.0))
        .child(child("g/b", "backoff", 998.0).failed("boom"))
        .child(child("g/d", "starting", 998.9));
    assert_eq!(
        roots(&situation),
        ["warning child:g/b: child:g", "notice child:g/d"]
    );
}

#[test]
fn a_member_that_stopped_before_the_failure_is_not_blamed_on_it() {
    let situation = degraded()
        .child(child("g/b", "backoff", 998.0).failed("boom"))
        .child(child("g/c", "stopping", 990.0));
    assert_eq!(roots(&situation), ["warning child:g/b", "notice child:g/c"]);
}

/// The budget of g is spent by g/a; g waits in `state` for another try.
fn escalated(state: &'static str) -> Situation {
    unready(990.0)
        .cause("child:g", "not_ready", "restart_storm", 995.0)
        .child(
            group("g", state, 995.0)
                .failed("restart budget spent by g/a: boom")
                .with(|g| g.retry_at = Some(at(1010.0))),
        )
        .child(child("g/a", "waiting", 995.0).failed("boom").held())
        .child(child("g/b", "waiting", 995.0).held())
        .crashes("g/a", &[991.0, 992.0, 994.9], "boom")
}

#[test]
fn an_escalation_is_about_the_member_that_spent_the_budget_and_advises_for_the_group() {
    let situation = escalated("quarantined");
    assert_eq!(roots(&situation), ["critical child:g/a: child:g child:g/b"]);
    let finding = first(&situation);
    assert_eq!(
        finding.what,
        "g/a failed 3 times in 3.9s and brought down g: boom"
    );
    assert_eq!(finding.next, "g: next of g");
    assert_eq!(finding.retry_at, Some(at(1010.0)));
    assert_eq!(
        finding.advice[..2],
        ["ronctl release g", "ronctl explain g/a"]
    );
    assert_eq!(first(&escalated("backoff")).advice[1], "ronctl restart g");
}

#[test]
fn an_escalation_through_nested_groups_ends_at_the_innermost_member() {
    let situation = degraded()
        .child(
            group("g", "backoff", 995.0)
                .failed("restart budget spent by g/h: restart budget spent by g/h/a: boom"),
        )
        .child(
            group("g/h", "waiting", 995.0)
                .failed("restart budget spent by g/h/a: boom")
                .held(),
        )
        .child(child("g/h/a", "waiting", 994.0).failed("boom").held())
        .child(child("g/h/b", "waiting", 994.0).held());
    assert_eq!(
        roots(&situation),
        ["warning child:g/h/a: child:g child:g/h child:g/h/b"]
    );
    assert!(first(&situation).what.contains("brought down g:"));
}

#[test]
fn a_group_that_is_stopping_after_an_escalation_is_explained_by_the_record() {
    let stopping = |escalated: f64| {
        degraded()
            .child(group("g", "stopping", 995.0))
            .child(child("g/a", "waiting", 995.0).failed("boom").held())
            .child(child("g/b", "stopping", 995.0))
            .child(child("g/c", "waiting", 980.0).failed("bang").held())
            .entry(
                EntryKind::Escalate,
                "g",
                escalated,
                "restart budget spent by g/a: boom",
            )
    };
    assert_eq!(
        roots(&stopping(995.0)),
        ["notice child:g/a: child:g child:g/b child:g/c"]
    );
    // An escalation of long ago says nothing of this stop; the member that failed first does.
    assert_eq!(
        roots(&stopping(900.0)),
        ["notice child:g/c: child:g child:g/a child:g/b"]
    );
}

#[test]
fn a_member_that_failed_because_of_a_dependency_hands_the_blame_on() {
    let situation = escalated("backoff").child(child("store", "backoff", 980.0).failed("disk"));
    let mut situation = situation;
    situation.children[1].after = vec!["store".into()];
    assert_eq!(
        roots(&situation),
        ["critical child:store: child:g child:g/a child:g/b"]
    );
}

#[test]
fn a_group_without_a_culprit_of_its_own_is_a_root() {
    for named in ["nobody", "x", "g"] {
        let cause = format!("restart budget spent by {named}: boom");
        let situation = degraded()
            .child(group("g", "backoff", 995.0).failed(&cause))
            .child(child("g/a", "waiting", 995.0).held())
            .child(child("x", "backoff", 996.0).failed("boom"));
        assert_eq!(
            roots(&situation),
            ["warning child:g: child:g/a", "warning child:x"],
            "{named}"
        );
    }
}

#[test]
fn members_in_trouble_of_their_own_come_before_those_that_wait() {
    let situation = degraded()
        .child(group("g", "starting", 900.0))
        .child(child("g/a", "waiting", 900.0).waits("gone"))
        .child(child("g/b", "stuck", 950.0));
    assert_eq!(
        roots(&situation),
        ["warning child:g/b: child:g", "notice child:g/a"]
    );
    let optional = degraded()
        .child(group("g", "starting", 900.0))
        .child(child("g/a", "starting", 940.0))
        .child(
            child("g/b", "quarantined", 930.0)
                .failed("x")
                .with(|b| b.optional = true),
        );
    assert_eq!(
        roots(&optional),
        ["warning child:g/b", "notice child:g/a: child:g"]
    );
}

// ----- operators -----------------------------------------------------------------------------

#[test]
fn who_stopped_a_child_is_the_root_cause() {
    let situation = unready(760.0)
        .missing(&["child:web"])
        .cause(
            "child:store",
            "degraded",
            "stopped: stopped by an operator",
            758.0,
        )
        .child(
            child("store", "stopped", 758.0)
                .with(|store| store.cause = Some(history::BY_OPERATOR.into())),
        )
        .child(child("web", "waiting", 760.0).waits("store"))
        .crashes("store", &[500.0], "old")
        .entry(EntryKind::Command, "store", 757.5, "stop")
        .by("uid 0 pid 123")
        .entry(EntryKind::Stop, "store", 758.0, "stopped: returned Ok");
    assert_eq!(roots(&situation), ["critical child:store: child:web"]);
    let finding = first(&situation);
    assert_eq!(finding.what, "store was stopped by uid 0 pid 123 4m 2s ago");
    assert_eq!(
        finding.advice,
        ["ronctl start store", "ronctl explain store"]
    );
    assert_eq!(
        chain(&finding)[2..],
        [
            ("store is stopped", "tree: store generation 1"),
            ("uid 0 pid 123: stop", "record #2")
        ]
    );
}

#[test]
fn an_operators_stop_is_a_root_even_after_something_unwell() {
    let situation = degraded()
        .child(
            child("api", "stopped", 990.0)
                .after(&["store"])
                .with(|api| api.cause = Some(history::BY_OPERATOR.into())),
        )
        .child(child("store", "backoff", 900.0).failed("disk"));
    assert_eq!(roots(&situation).len(), 2);
    assert!(diagnose(&situation)
        .findings
        .iter()
        .any(|finding| finding.what == "api was stopped by an operator 10s ago"));
}

#[test]
fn members_of_a_group_that_an_operator_stopped_belong_to_it() {
    let situation = degraded()
        .child(group("g", "stopped", 990.0).with(|g| g.cause = Some(history::BY_OPERATOR.into())))
        .child(child("g/a", "stopped", 989.5))
        .child(child("g/b", "stopped", 989.0))
        .entry(EntryKind::Command, "g", 988.0, "stop")
        .by("uid 0 pid 9");
    assert_eq!(roots(&situation), ["notice child:g: child:g/a child:g/b"]);
    assert_eq!(first(&situation).advice[0], "ronctl start g");
}

#[test]
fn only_the_last_command_and_only_a_stop_is_blamed_for_a_stop() {
    let stopped = |cause: Option<&str>, stop: f64, later: &str| {
        let mut situation = degraded()
            .child(child("a", "stopped", 990.0).with(|a| a.cause = cause.map(Arc::from)))
            .entry(EntryKind::Command, "a", stop, "stop")
            .by("uid 0 pid 1");
        if !later.is_empty() {
            situation = situation.entry(EntryKind::Command, "a", 989.0, later);
            situation = situation.by("uid 0 pid 2");
        }
        first(&situation).what
    };
    let by_operator = Some(history::BY_OPERATOR);
    let table = [
        (
            by_operator,
            100.0,
            "",
            "a was stopped by uid 0 pid 1 15m ago",
        ),
        // Started since: whoever stopped it then left no word.
        (
            by_operator,
            100.0,
            "start",
            "a was stopped by an operator 10s ago",
        ),
        (
            by_operator,
            985.0,
            "release",
            "a was stopped by an operator 10s ago",
        ),
        (None, 985.0, "", "a was stopped by uid 0 pid 1 15s ago"),
        (None, 900.0, "", "a is stopped"),
    ];
    for (cause, stop, later, what) in table {
        assert_eq!(stopped(cause, stop, later), what, "{stop} {later}");
    }
}

#[test]
fn a_child_on_its_way_down_by_command_says_who_asked() {
    let situation = ready()
        .child(child("a", "stopping", 999.0))
        .entry(EntryKind::Command, "a", 998.9, "stop")
        .by("uid 0 pid 9");
    assert_eq!(
        first(&situation).what,
        "a is stopping: stop asked by uid 0 pid 9 1.1s ago"
    );
    let long_ago = ready()
        .child(child("a", "stopping", 999.0))
        .entry(EntryKind::Command, "a", 900.0, "restart")
        .by("uid 0 pid 9");
    assert_eq!(
        first(&long_ago).what,
        "a has been stopping for 1s; it is aborted after 2s"
    );
}

#[test]
fn a_member_that_an_operator_stops_is_not_blamed_on_its_sibling() {
    let situation = degraded()
        .child(child("g/b", "backoff", 990.0).failed("boom"))
        .child(child("g/c", "stopping", 999.0))
        .entry(EntryKind::Command, "g/c", 998.9, "stop")
        .by("uid 0 pid 9");
    assert_eq!(roots(&situation), ["warning child:g/b", "notice child:g/c"]);
}

#[test]
fn a_circle_is_cut_at_what_failed_not_at_what_waits() {
    let situation = degraded()
        .child(child("a", "waiting", 900.0).waits("b"))
        .child(child("b", "backoff", 950.0).failed("boom").after(&["a"]));
    assert_eq!(roots(&situation), ["warning child:b: child:a"]);
    let idle = degraded()
        .child(child("a", "waiting", 900.0).waits("b"))
        .child(child("b", "waiting", 800.0).waits("a"));
    assert_eq!(roots(&idle), ["notice child:b: child:a"]);
}

// ----- injected faults -----------------------------------------------------------------------

#[test]
fn a_fault_in_force_explains_its_child_and_all_that_child_explains() {
    let situation = unready(990.0)
        .cause("chaos:panic/db", "degraded", "fault panic", 990.0)
        .cause("child:db", "not_ready", "restart_storm", 993.0)
        .child(
            child("api", "backoff", 998.0)
                .failed("refused")
                .after(&["db"]),
        )
        .child(child("db", "backoff", 999.0).failed("injected"))
        .child(child("web", "waiting", 995.0).waits("db"))
        .fault("panic", Some("db"), 990.0)
        .crashes("db", &[990.1, 995.0, 999.0], "injected");
    assert_eq!(
        roots(&situation),
        ["critical chaos:panic/db: child:api child:db child:web"]
    );
    let finding = first(&situation);
    assert_eq!(
        finding.what,
        "fault panic is injected into db by uid 0 pid 7; ends in 25s"
    );
    assert_eq!(finding.advice, ["ronctl chaos clear", "ronctl chaos list"]);
    assert_eq!(finding.retry_at, Some(at(1025.0)));
    assert_eq!(
        finding.because.last().map(|last| &*last.evidence),
        Some("chaos: #1")
    );
}

#[test]
fn a_fault_explains_what_hangs_and_what_holds_a_worker() {
    let situation = degraded()
        .child(child("a", "stuck", 999.0))
        .child(child("b", "ready", 5.0).with(|b| b.stalled = Some(at(999.0))))
        .fault("hang", Some("a"), 990.0)
        .fault("block", Some("b"), 990.0);
    assert_eq!(
        roots(&situation),
        [
            "warning chaos:hang/a: child:a",
            "warning chaos:block/b: child:b"
        ]
    );
}

#[test]
fn of_two_faults_in_one_child_the_first_explains_it() {
    let situation = degraded()
        .child(child("a", "backoff", 999.0).failed("boom"))
        .fault("latency", Some("a"), 995.0)
        .fault("panic", Some("a"), 990.0);
    assert_eq!(
        roots(&situation),
        ["warning chaos:panic/a: child:a", "warning chaos:latency/a"]
    );
}

#[test]
fn a_fault_does_not_explain_what_was_wrong_before_it() {
    let situation = degraded()
        .child(child("db", "backoff", 999.0).failed("disk"))
        .fault("panic", Some("db"), 995.0)
        .crashes("db", &[980.0, 985.0, 999.0], "disk");
    assert_eq!(
        roots(&situation),
        ["warning child:db", "warning chaos:panic/db"]
    );
}

#[test]
fn a_faulty_child_that_waits_is_explained_by_what_it_waits_for() {
    let situation = degraded()
        .child(child("db", "waiting", 996.0).waits("disk"))
        .child(child("disk", "backoff", 996.0).failed("full"))
        .fault("panic", Some("db"), 990.0);
    assert_eq!(
        roots(&situation),
        ["warning child:disk: child:db", "warning chaos:panic/db"]
    );
}

#[test]
fn faults_of_the_service_explain_the_bus_and_the_configuration() {
    let mut situation = degraded()
        .cause("bus_lag", "degraded", "9 events lost", 995.0)
        .cause("config_reload", "degraded", "x at y: z", 996.0)
        .reader("audit", "drop_oldest", [10, 9, 9])
        .fault("bus_lag", None, 990.0)
        .fault("config", None, 990.0);
    situation.rejected = Some((at(996.0), "x at y: z".to_owned()));
    assert_eq!(
        roots(&situation),
        [
            "warning chaos:bus_lag: bus:kernel/audit",
            "warning chaos:config: config"
        ]
    );
}

#[test]
fn the_fault_of_the_configuration_is_not_cleared_by_a_command() {
    let mut situation = ready().fault("panic", Some("db"), 10.0);
    situation.faults[0].id = 0;
    let finding = first(&situation);
    assert_eq!(finding.advice, ["ronctl config explain chaos.fault"]);
    assert_eq!(finding.retry_at, None);
    assert!(!finding.what.contains("ends in"));
}

#[test]
fn a_fault_that_is_over_and_a_command_are_named_as_suspects() {
    let situation = ready()
        .entry(EntryKind::Fault, "db", 989.8, "fault panic for at most 30s")
        .by("uid 0 pid 7")
        .entry(
            EntryKind::Fault,
            "db",
            989.9,
            "fault panic ended after 1 injections: count",
        )
        .child(child("db", "backoff", 990.0).failed("injected"))
        .crashes("db", &[990.0], "injected");
    assert_eq!(
        chain(&first(&situation))[0],
        ("uid 0 pid 7: fault panic for at most 30s", "record #1")
    );
    let restarted = ready()
        .entry(EntryKind::Command, "db", 985.0, "restart")
        .by("uid 0 pid 9")
        .child(child("db", "backoff", 990.0).failed("boom"))
        .crashes("db", &[990.0], "boom");
    let finding = first(&restarted);
    assert_eq!(chain(&finding)[0], ("uid 0 pid 9: restart", "record #1"));
}

// ----- stalls --------------------------------------------------------------------------------

#[test]
fn a_stall_explains_what_timed_out_after_it_began_and_nothing_else() {
    let situation = degraded()
        .child(child("hog", "ready", 5.0).with(|hog| hog.stalled = Some(at(980.0))))
        .child(child("late", "ready", 5.0).with(|late| late.stalled = Some(at(985.0))))
        .child(child("early", "backoff", 970.0).timed_out())
        .child(child("other", "backoff", 990.0).failed("disk"))
        .child(child("slow", "backoff", 990.0).timed_out());
    assert_eq!(
        roots(&situation),
        [
            "warning child:hog: child:slow",
            "warning child:early",
            "warning child:late",
            "warning child:other"
        ]
    );
    assert_eq!(
        first(&situation).what,
        "hog has held its worker thread for 20s: its poll does not return"
    );
}

#[test]
fn a_stall_does_not_take_what_a_dependency_explains() {
    let situation = degraded()
        .child(child("hog", "ready", 5.0).with(|hog| hog.stalled = Some(at(980.0))))
        .child(
            child("slow", "backoff", 990.0)
                .timed_out()
                .after(&["store"]),
        )
        .child(child("store", "backoff", 985.0).failed("disk"));
    assert_eq!(
        roots(&situation),
        ["warning child:store: child:slow", "warning child:hog"]
    );
}

// ----- states and texts ----------------------------------------------------------------------

#[test]
fn every_state_has_its_headline_and_its_advice() {
    let tail = "ronctl tail --topic kernel --since 10m";
    let table: [(Subject, &str, [&str; 2]); 17] = [
        (
            child("a", "stuck", 990.0),
            "a is stuck: it was aborted and still runs",
            ["ronctl explain a", tail],
        ),
        (
            child("a", "leaked", 990.0),
            "a is leaked: it never ended after its abort; only a restart of the process helps",
            ["ronctl drain --dry-run", "ronctl drain --wait"],
        ),
        (
            child("a", "quarantined", 990.0).failed("boom"),
            "a is quarantined: it failed: boom",
            ["ronctl release a", "ronctl explain a"],
        ),
        (
            child("a", "backoff", 990.0)
                .failed("boom")
                .with(|a| a.restarts_in_window = 2),
            "a failed after 2 restarts in 1m: boom",
            ["ronctl explain a", "ronctl restart a"],
        ),
        (
            child("a", "backoff", 990.0).with(|a| a.last_exit = Some(Exit::Killed(9))),
            "a failed: killed by signal 9 (SIGKILL)",
            ["ronctl explain a", "ronctl restart a"],
        ),
        (
            child("a", "starting", 990.0).failed("boom"),
            "a failed and is starting again: boom",
            ["ronctl explain a", tail],
        ),
        (
            child("a", "starting", 990.0),
            "a has been starting for 10s",
            ["ronctl explain a", tail],
        ),
        (
            child("a", "starting", 960.0)
                .with(|a| a.start_timeout = Some(Duration::from_secs(60)))
                .with(|a| a.status = Some("replaying segment 7 of 90".into())),
            "a has been starting for 40s and has not called ready() yet; it must within 1m: replaying segment 7 of 90",
            ["ronctl explain a", tail],
        ),
        (
            child("a", "starting", 960.0).with(|a| a.cause = Some(history::BY_OPERATOR.into())),
            "a has been starting for 40s",
            ["ronctl explain a", tail],
        ),
        (
            child("a", "stopping", 999.0),
            "a has been stopping for 1s; it is aborted after 2s",
            ["ronctl explain a", tail],
        ),
        (
            group("a", "stopping", 999.0),
            "a has been stopping for 1s",
            ["ronctl explain a", tail],
        ),
        (
            child("a", "waiting", 999.0),
            "a waits to be started",
            ["ronctl explain a", tail],
        ),
        (
            child("a", "waiting", 999.0).waits("b"),
            "a waits for b",
            ["ronctl explain a", tail],
        ),
        (
            child("a", "waiting", 999.0).failed("boom").waits("b"),
            "a failed and waits for b: boom",
            ["ronctl explain a", tail],
        ),
        (
            child("a", "stopped", 999.0).with(|a| a.cause = Some("its runtime shut down".into())),
            "a is stopped: its runtime shut down",
            ["ronctl start a", "ronctl explain a"],
        ),
        (
            child("a", "stopped", 999.0).failed("boom"),
            "a failed and is not restarted: boom",
            ["ronctl start a", "ronctl explain a"],
        ),
        (
            child("a", "ready", 5.0).with(|a| a.unhealthy = Some("queue full".into())),
            "a reports itself unhealthy: queue full",
            ["ronctl explain a", "ronctl restart a"],
        ),
    ];
    for (subject, what, advice) in table {
        let finding = first(&ready().child(subject));
        assert_eq!(finding.what, what);
        assert_eq!(finding.advice[..2], advice, "{what}");
    }
}

#[test]
fn the_text_of_an_error_is_kept_as_it_is_and_cut_with_an_ellipsis() {
    let kept = [
        FULL,
        "connect 127.0.0.1:7000: Connection refused (os error 111)",
        "open /var/lib/x: Permission denied (os error 13)",
        "bind 0.0.0.0:80: Address already in use (os error 98)",
        "accept: Too many open files (os error 24)",
        "not ready within 5s",
    ];
    for text in kept {
        let finding = first(&ready().child(child("a", "backoff", 990.0).failed(text)));
        assert_eq!(finding.what, format!("a failed: {text}"));
        assert_eq!(
            finding.because.last().map(|last| last.what.clone()),
            Some(format!("a: {text}"))
        );
    }
    let long = "ä\n".repeat(200);
    let finding = first(&ready().child(child("a", "backoff", 990.0).failed(&long)));
    assert_eq!(finding.what.chars().count(), "a failed: ".len() + 160);
    assert!(
        finding.what.ends_with("ä…") && !finding.what.contains('\n'),
        "{}",
        finding.what
    );
}

#[test]
fn the_budget_of_restarts_is_told_with_its_use() {
    let backoff = ready()
        .child(
            child("a", "backoff", 999.0)
                .failed("boom")
                .with(|a| a.attempts_left = Some(3))
                .with(|a| a.restarts = 7),
        )
        .crashes("a", &[990.0, 995.0, 999.0], "boom");
    let finding = first(&backoff);
    assert_eq!(
        chain(&finding)[0].0,
        "a failed 3 times in 9s; 7 restarts in all"
    );
    assert_eq!(chain(&finding)[1].0, "a has 3 of 5 restarts in 1m left");
    let situation = ready().child(
        child("a", "quarantined", 990.0)
            .failed("boom")
            .with(|a| a.restarts_in_window = 5),
    );
    assert_eq!(
        chain(&first(&situation))[0].0,
        "a failed after 5 restarts in 1m; 5 are allowed"
    );
}

#[test]
fn a_stuck_child_is_dated_by_the_record() {
    let situation = ready()
        .child(child("a", "leaked", 990.0))
        .entry(EntryKind::Stuck, "a", 500.0, "old")
        .entry(EntryKind::Recover, "a", 501.0, "ended after all")
        .entry(EntryKind::Stuck, "a", 985.0, "aborted and still running")
        .entry(EntryKind::Leak, "a", 990.0, "given up");
    assert_eq!(first(&situation).since, at(985.0));
    assert_eq!(chain(&first(&situation))[0].1, "record #3");
}

#[test]
fn durations_are_said_as_people_say_them() {
    let table = [
        (850, "850ms"),
        (3_000, "3s"),
        (3_149, "3.1s"),
        (120_000, "2m"),
        (130_900, "2m 10s"),
        (11_520_000, "3h 12m"),
        (187_200_000, "2d 4h"),
    ];
    for (millis, text) in table {
        assert_eq!(words::span(Duration::from_millis(millis)), text);
    }
}

// ----- configuration -------------------------------------------------------------------------

#[test]
fn a_configuration_put_in_force_shortly_before_is_named() {
    let table = [
        (978.0, Some("12s")),
        (880.0, Some("1m 50s")),
        (800.0, None),
        (991.0, None),
    ];
    for (when, before) in table {
        let situation = ready()
            .child(child("a", "backoff", 999.0).failed("boom"))
            .service_entry(
                EntryKind::Config,
                when,
                "configuration version 8: bus.capacity: 1 -> 2",
            )
            .crashes("a", &[990.0, 999.0], "boom");
        let finding = first(&situation);
        let said = chain(&finding)
            .iter()
            .any(|(what, _)| what.contains("version 8"));
        assert_eq!(said, before.is_some(), "put in force at {when}");
        if let Some(before) = before {
            let what = format!("configuration version 8 was put in force {before} before");
            assert_eq!(chain(&finding)[0], (&*what, "record #1"));
            assert_eq!(finding.advice[2], "ronctl changes --since 1h");
        }
        assert_eq!(
            finding.because.last().map(|last| &*last.what),
            Some("a: boom")
        );
    }
}

#[test]
fn a_rejected_reload_is_critical_where_it_makes_the_service_unready() {
    let rejected = |mut situation: Situation, status| {
        situation.rejected = Some((
            at(990.0),
            "bus.capacity at ron.toml:3: not a number".to_owned(),
        ));
        situation
            .cause(
                "config_reload",
                status,
                "bus.capacity at ron.toml:3: not a number",
                990.0,
            )
            .service_entry(EntryKind::Rejected, 990.0, "configuration rejected")
    };
    let situation = rejected(unready(990.0), "not_ready");
    assert_eq!(roots(&situation), ["critical config"]);
    let finding = first(&situation);
    assert_eq!(
        finding.what,
        "reload rejected: bus.capacity at ron.toml:3: not a number"
    );
    assert_eq!(
        finding.advice,
        ["ronctl config check", "ronctl config reload"]
    );
    assert_eq!(finding.next, "the last good configuration stays in force");
    assert_eq!(
        finding.because.last().map(|last| &*last.evidence),
        Some("record #1")
    );
    assert_eq!(roots(&rejected(degraded(), "degraded")), ["warning config"]);
}

#[test]
fn keys_that_wait_for_a_restart_are_a_notice() {
    let mut situation = ready().service_entry(EntryKind::Config, 500.0, "configuration version 2");
    situation.pending_keys = vec!["bus.capacity".to_owned(), "log.format".to_owned()];
    assert_eq!(roots(&situation), ["notice config"]);
    let finding = first(&situation);
    assert_eq!(
        finding.what,
        "2 changed keys wait for a restart of the process: bus.capacity, log.format"
    );
    assert_eq!(finding.advice[0], "ronctl config explain bus.capacity");
    assert_eq!(finding.since, at(500.0));
    situation.pending_keys = (0..6).map(|n| format!("k{n}")).collect();
    let finding = first(&situation);
    assert!(
        finding.what.ends_with("k0, k1, k2, k3 and 2 more"),
        "{}",
        finding.what
    );
    assert_eq!(finding.advice.len(), 3);
}

// ----- bus, host, readiness ------------------------------------------------------------------

#[test]
fn readers_that_lose_events_now_are_warnings_and_others_notices() {
    let situation = degraded()
        .cause(
            "bus_lag",
            "degraded",
            "9 events lost in the last second",
            995.0,
        )
        .reader("audit", "drop_oldest", [100, 4000, 9])
        .reader("past", "drop_oldest", [0, 1, 0])
        .reader("slow", "drop_oldest", [81, 0, 0])
        .reader("full", "block", [81, 0, 0])
        .reader("well", "drop_oldest", [80, 0, 0]);
    assert_eq!(
        roots(&situation),
        [
            "warning bus:kernel/audit",
            "warning bus:kernel/full",
            "notice bus:kernel/past",
            "notice bus:kernel/slow",
        ]
    );
    let finding = first(&situation);
    assert_eq!(
        finding.what,
        "reader audit of topic kernel loses events: 9 in the last second, 4000 ever (drop_oldest, 100 of 100 pending)"
    );
    assert_eq!(finding.since, at(995.0));
    assert_eq!(finding.advice, ["ronctl bus"]);
    assert_eq!(
        finding.because.last().map(|last| &*last.evidence),
        Some("bus: kernel/audit")
    );
}

#[test]
fn causes_of_the_host_are_findings_of_their_own_and_the_kernels_are_not_repeated() {
    let situation = unready(990.0)
        .cause("keyring", "fail_secure", "keyring unreadable", 990.0)
        .cause("egress", "degraded", "ledger slow", 991.0)
        .cause("child:a", "degraded", "restarting: boom", 992.0)
        .cause("chaos:panic/a", "degraded", "fault panic", 980.0)
        .child(child("a", "backoff", 992.0).failed("boom"))
        .fault("panic", Some("a"), 980.0);
    assert_eq!(
        roots(&situation),
        [
            "critical health:keyring",
            "warning chaos:panic/a: child:a",
            "warning health:egress"
        ]
    );
    let finding = first(&situation);
    assert_eq!(
        finding.what,
        "keyring: keyring unreadable (fail-secure: nothing is served)"
    );
    assert_eq!(
        chain(&finding),
        [(
            "readiness 503: keyring: keyring unreadable",
            "readyz: keyring"
        )]
    );
}

#[test]
fn causes_that_nothing_else_tells_of_stay_visible() {
    let situation = unready(990.0)
        .missing(&["kernel", "schema", "child:gone"])
        .cause(
            "child:a",
            "not_ready",
            "quarantined (cleared; held for 5 s)",
            990.0,
        )
        .cause("bus_lag", "degraded", "9 events lost", 991.0)
        .cause("config_reload", "degraded", "x", 992.0)
        .child(child("a", "ready", 999.0));
    assert_eq!(
        roots(&situation),
        [
            "critical kernel",
            "critical health:schema",
            "critical child:gone",
            "critical child:a",
            "warning health:bus_lag",
            "warning config",
        ]
    );
    let unlisted = Situation {
        children_omitted: 7,
        ..unready(990.0).missing(&["child:gone"])
    };
    assert_eq!(roots(&unlisted), [""; 0]);
}

#[test]
fn missing_keys_are_explained_by_their_children() {
    let situation = unready(0.0)
        .missing(&["child:a", "child:b"])
        .child(child("a", "starting", 960.0))
        .child(child("b", "waiting", 0.0).waits("a"));
    assert_eq!(roots(&situation), ["critical child:a: child:b"]);
}

#[test]
fn a_key_that_is_missing_and_degraded_counts_as_missing() {
    let situation = unready(0.0)
        .missing(&["child:a"])
        .cause("child:a", "degraded", "restarting: boom", 990.0)
        .child(child("a", "backoff", 990.0).failed("boom"));
    assert_eq!(roots(&situation), ["critical child:a"]);
}

#[test]
fn nothing_is_critical_while_the_service_is_ready() {
    let situation = ready()
        .cause("child:a", "not_ready", "quarantined: boom", 999.9)
        .child(child("a", "quarantined", 999.9).failed("boom"));
    assert_eq!(roots(&situation), ["warning child:a"]);
}

#[test]
fn a_start_past_half_of_its_time_is_a_warning() {
    let starting = |since| {
        let limit = Some(Duration::from_secs(60));
        ready().child(child("a", "starting", since).with(|a| a.start_timeout = limit))
    };
    assert_eq!(roots(&starting(975.0)), ["notice child:a"]);
    assert_eq!(roots(&starting(965.0)), ["warning child:a"]);
}

// ----- shutdown ------------------------------------------------------------------------------

#[test]
fn a_shutdown_is_one_finding_that_names_what_it_waits_for_longest_first() {
    let situation = draining("SIGTERM")
        .missing(&["child:c", "child:unlisted"])
        .child(child("a", "stopping", 998.0))
        .child(child("b", "stopping", 996.5))
        .child(child("c", "stopped", 997.0))
        .child(child("d", "stuck", 999.0))
        .child(child("e", "quarantined", 900.0).failed("boom"))
        .child(group("g", "stopping", 996.0));
    assert_eq!(
        roots(&situation),
        [
            "critical kernel: child:a child:b child:c child:g child:unlisted",
            "warning child:e",
            "warning child:d"
        ]
    );
    let finding = first(&situation);
    assert_eq!(
        finding.what,
        "svc has been shutting down for 4s: SIGTERM; waits for b (stopping for 3.5s), a (stopping for 2s), d (stuck for 1s)"
    );
    assert_eq!(
        finding.advice,
        ["ronctl explain b", "ronctl tail --topic kernel.lifecycle"]
    );
    assert_eq!(
        finding
            .because
            .last()
            .map(|last| (&*last.what, &*last.evidence)),
        Some(("the shutdown began: SIGTERM", "record #1"))
    );
    // Nothing can be released any more.
    assert_eq!(
        diagnose(&situation).findings[1].advice,
        ["ronctl explain e", "ronctl tail --topic kernel --since 10m"]
    );
}

#[test]
fn a_shutdown_names_the_configuration_put_in_force_before_it() {
    let situation = draining("journal: full").service_entry(
        EntryKind::Config,
        990.0,
        "configuration version 9: journal.dir: a -> b",
    );
    let finding = first(&situation);
    assert_eq!(
        chain(&finding)[1..],
        [
            (
                "configuration version 9 was put in force 6s before",
                "record #2"
            ),
            ("the shutdown began: journal: full", "record #1"),
        ]
    );
}

// ----- order and limits ----------------------------------------------------------------------

#[test]
fn findings_are_ordered_by_gravity_then_reach_then_age_then_place() {
    let situation = unready(990.0)
        .cause("child:crit", "not_ready", "quarantined", 999.0)
        .child(child("late", "backoff", 995.0).failed("x"))
        .child(child("twin", "backoff", 990.0).failed("x"))
        .child(child("also", "backoff", 990.0).failed("x"))
        .child(child("crit", "quarantined", 999.0).failed("x"))
        .child(child("wide", "backoff", 999.0).failed("x"))
        .child(child("w1", "waiting", 999.0).waits("wide"))
        .child(child("soft", "starting", 5.0));
    assert_eq!(
        roots(&situation),
        [
            "critical child:crit",
            "warning child:wide: child:w1",
            "warning child:twin",
            "warning child:also",
            "warning child:late",
            "notice child:soft",
        ]
    );
}

#[test]
fn long_lists_are_cut_and_counted() {
    let mut situation = ready();
    for n in 0..25 {
        situation = situation.child(child(&format!("root{n}"), "backoff", 990.0).failed("x"));
    }
    for n in 0..40 {
        situation = situation.child(child(&format!("leaf{n}"), "waiting", 999.0).waits("root3"));
    }
    let diagnosis = diagnose(&situation);
    assert_eq!((diagnosis.findings.len(), diagnosis.omitted), (20, 5));
    assert!(
        diagnosis.verdict.ends_with("(24 more findings)"),
        "{}",
        diagnosis.verdict
    );
    let affects = &diagnosis.findings[0].affects;
    assert_eq!((affects.len(), affects[32].as_str()), (33, "and 8 more"));

    let mut long = ready().child(child("c0", "backoff", 990.0).failed("x"));
    for n in 1..100 {
        long = long.child(child(&format!("c{n}"), "waiting", 999.0).waits(&format!("c{}", n - 1)));
    }
    let because = first(&long).because;
    assert_eq!(because.len(), 16);
    assert_eq!(because[0].what, "c99 waits for c98, which is waiting");
    assert_eq!(because[8].what, "and 85 more links");
    assert_eq!(because[15].what, "c0: x");
}

#[test]
fn what_it_takes_grows_with_children_and_record_not_with_their_product() {
    const CHILDREN: u32 = 10_000;
    let mut situation = unready(0.0);
    for n in 0..CHILDREN {
        let id = format!("c{n}");
        let upstream = format!("c{}", n / 2);
        situation = situation
            .cause(&format!("child:{id}"), "not_ready", "boom", 900.0)
            .child(
                child(&id, "backoff", 999.0)
                    .failed("boom")
                    .after(&[&*upstream]),
            );
    }
    for n in 0..4 * CHILDREN {
        let when = 900.0 + f64::from(n) / 1000.0;
        let id = format!("c{}", n % CHILDREN);
        situation = situation.entry(EntryKind::Crash, &id, when, "boom");
    }
    let begun = std::time::Instant::now();
    let diagnosis = diagnose(&situation);
    let took = begun.elapsed();
    assert_eq!(diagnosis.findings.len(), 1);
    // 100 ms unoptimised; one scan of the record for each child takes seconds.
    assert!(took < Duration::from_secs(1), "{took:?}");
}

// ----- any situation -------------------------------------------------------------------------

const STATES: [&str; 10] = [
    "waiting",
    "starting",
    "ready",
    "backoff",
    "quarantined",
    "stopping",
    "stuck",
    "leaked",
    "stopped",
    "done",
];
/// Names that refer to each other at will, in circles and to what is not there.
const IDS: [&str; 12] = [
    "a", "b", "c", "d", "g", "g/a", "g/b", "g/h", "g/h/a", "h", "h/a", "nowhere",
];
const TEXTS: [&str; 6] = [
    "boom",
    "restart budget spent by g/a: boom",
    "restart budget spent by g/h: restart budget spent by g/h/a: boom",
    "stopped by an operator",
    "configuration version 3: x",
    "two\nlines",
];

fn any_time() -> impl Strategy<Value = f64> {
    (0u32..1100).prop_map(f64::from)
}

fn any_child(id: &'static str) -> impl Strategy<Value = Subject> {
    let ids = || select(&IDS[..]);
    let relations = (
        proptest::option::of(ids()),
        proptest::option::of(ids()),
        proptest::collection::vec(ids(), 0..3),
        any::<bool>(),
        any::<bool>(),
    );
    let troubles = (
        proptest::option::of(any_time()),
        proptest::option::of(select(&TEXTS[..])),
        proptest::option::of(select(&TEXTS[..])),
        any::<bool>(),
        0u32..4,
    );
    (select(&STATES[..]), any_time(), relations, troubles).prop_map(
        move |(state, since, (group, waits_for, after, is_group, optional), troubles)| {
            let (stalled, unhealthy, cause, timed_out, used) = troubles;
            let timeout = Exit::TimedOut(Timeout::Heartbeat(Duration::from_secs(1)));
            Subject {
                kind: if is_group { Kind::Group } else { Kind::Task },
                group: group.map(Arc::from),
                waits_for: waits_for.map(Arc::from),
                after: after.into_iter().map(Arc::from).collect(),
                optional,
                stalled: stalled.filter(|_| used == 0).map(at),
                unhealthy: unhealthy.filter(|_| used == 1).map(Arc::from),
                cause: cause.map(Arc::from),
                last_exit: timed_out.then_some(timeout),
                restarts_in_window: used,
                ..child(id, state, since)
            }
        },
    )
}

fn any_children() -> impl Strategy<Value = Vec<Subject>> {
    proptest::sample::subsequence(&IDS[..11], 0..=11).prop_flat_map(|ids| {
        let children: Vec<_> = ids.into_iter().map(any_child).collect();
        children
    })
}

fn any_entry() -> impl Strategy<Value = Entry> {
    const KINDS: [EntryKind; 12] = [
        EntryKind::Config,
        EntryKind::Rejected,
        EntryKind::Crash,
        EntryKind::Crash,
        EntryKind::Restart,
        EntryKind::Stop,
        EntryKind::Stuck,
        EntryKind::Recover,
        EntryKind::Escalate,
        EntryKind::Fault,
        EntryKind::Command,
        EntryKind::Shutdown,
    ];
    (
        any_time(),
        select(&KINDS[..]),
        proptest::option::of(select(&IDS[..])),
        any::<bool>(),
        select(&TEXTS[..]),
    )
        .prop_map(|(when, kind, subject, by, text)| Entry {
            seq: 0,
            at: at(when),
            kind,
            subject: subject.map(Arc::from),
            generation: None,
            by: by.then(|| Arc::from("uid 0")),
            text: text.into(),
        })
}

/// At most twenty things that are wrong, so that all are shown.
fn any_situation() -> impl Strategy<Value = Situation> {
    const KEYS: [&str; 6] = [
        "child:a",
        "child:nowhere",
        "kernel",
        "bus_lag",
        "config_reload",
        "egress",
    ];
    const STATUSES: [&str; 3] = ["degraded", "not_ready", "fail_secure"];
    let fault = (
        select(&["panic", "config", "bus_lag"][..]),
        proptest::option::of(select(&IDS[..])),
        any_time(),
    );
    let reader = (
        select(&["block", "drop_oldest"][..]),
        0u64..120,
        0u64..2,
        0u64..2,
    );
    let service = (
        proptest::collection::vec(fault, 0..2),
        proptest::collection::vec(reader, 0..2),
        proptest::option::of(any_time()),
        any::<bool>(),
        any::<bool>(),
    );
    (
        any_children(),
        proptest::collection::vec(any_entry(), 0..25),
        proptest::collection::vec(select(&KEYS[..]), 0..3),
        proptest::collection::vec((select(&KEYS[..]), select(&STATUSES[..]), any_time()), 0..3),
        service,
        any::<bool>(),
    )
        .prop_map(|(children, record, missing, causes, service, is_ready)| {
            let (faults, readers, rejected, pending, drains) = service;
            let mut situation = if is_ready { ready() } else { unready(900.0) };
            situation.children = children;
            situation.record = record;
            for (place, entry) in situation.record.iter_mut().enumerate() {
                entry.seq = place as u64 + 1;
            }
            situation = situation.missing(&missing);
            for (key, status, since) in causes {
                situation = situation.cause(key, status, "reason", since);
            }
            for (fault, child, since) in faults {
                situation = situation.fault(fault, child, since);
            }
            for (policy, pending, lost, lately) in readers {
                situation = situation.reader("audit", policy, [pending, lost, lately]);
            }
            situation.rejected = rejected.map(|when| (at(when), "x".to_owned()));
            situation
                .pending_keys
                .extend(pending.then(|| "k".to_owned()));
            situation.draining = drains.then(|| "SIGTERM".to_owned());
            situation
        })
}

proptest! {
    #[test]
    fn whatever_is_unwell_is_told_exactly_once(situation in any_situation()) {
        let diagnosis = diagnose(&situation);
        prop_assert_eq!(diagnosis.omitted, 0);
        let mut told: BTreeMap<&str, usize> = BTreeMap::new();
        for finding in &diagnosis.findings {
            for subject in std::iter::once(&finding.subject).chain(&finding.affects) {
                *told.entry(subject.as_str()).or_default() += 1;
            }
        }
        for child in situation.children.iter().filter(|child| child.is_unwell()) {
            let subject = format!("child:{}", child.id);
            prop_assert_eq!(told.get(&*subject), Some(&1), "{}", subject);
        }
        // No root cause stands below itself or another, nor does a well child without a cause stand anywhere.
        for (subject, times) in told.iter().filter(|(subject, _)| subject.starts_with("child:")) {
            prop_assert_eq!(*times, 1, "{}", subject);
            let id = subject.strip_prefix("child:").unwrap();
            let unwell = situation.children.iter().any(|child| &*child.id == id && child.is_unwell());
            let readiness = &situation.readiness;
            let shown = readiness.missing.iter().chain(readiness.causes.iter().map(|cause| &cause.key));
            prop_assert!(unwell || shown.into_iter().any(|key| key == subject), "{}", subject);
        }
    }

    #[test]
    fn the_same_situation_has_the_same_diagnosis(situation in any_situation()) {
        let diagnosis = diagnose(&situation);
        prop_assert_eq!(&diagnosis, &diagnose(&situation));
        let mut turned = situation;
        turned.record.reverse();
        prop_assert_eq!(&diagnosis, &diagnose(&turned));
    }

    #[test]
    fn the_worst_comes_first_and_every_list_has_an_end(situation in any_situation()) {
        let diagnosis = diagnose(&situation);
        let key = |finding: &Finding| (Reverse(finding.gravity), Reverse(finding.affects.len()), finding.since);
        prop_assert!(diagnosis.findings.windows(2).all(|pair| key(&pair[0]) <= key(&pair[1])));
        prop_assert!(!diagnosis.verdict.contains('\n'));
        for finding in &diagnosis.findings {
            prop_assert!(!finding.what.is_empty() && !finding.what.contains('\n'), "{}", finding.what);
            prop_assert!((1..=16).contains(&finding.because.len()));
            prop_assert!(finding.affects.len() <= 33);
            prop_assert!((1..=3).contains(&finding.advice.len()), "{:?}", finding);
            if situation.readiness.ready && situation.draining.is_none() {
                prop_assert!(finding.gravity < Gravity::Critical);
            }
        }
    }

    #[test]
    fn who_waits_stands_with_what_it_waits_for(mut situation in any_situation()) {
        // Both come before what is waited for.
        situation.draining = None;
        situation.faults.clear();
        let diagnosis = diagnose(&situation);
        let finding = |id: &str| {
            let subject = format!("child:{id}");
            diagnosis.findings.iter().position(|finding| {
                finding.subject == subject || finding.affects.contains(&subject)
            })
        };
        let rooted = |id: &str| {
            let subject = format!("child:{id}");
            diagnosis.findings.iter().any(|finding| finding.subject == subject)
        };
        for child in &situation.children {
            let own = child.state != "waiting" || child.stalled.is_some();
            let Some(on) = child.waits_for.as_deref().filter(|_| !own) else { continue };
            let unwell = situation.children.iter().any(|other| &*other.id == on && other.is_unwell());
            // Only the cut of a circle, or having brought its group down, makes a root of one that waits.
            if unwell && !rooted(&child.id) && !child.id.contains('/') {
                prop_assert_eq!(finding(&child.id), finding(on), "{} waits for {}", child.id, on);
            }
        }
    }
}

#[test]
fn a_fault_that_has_ended_and_is_still_held_in_readiness_is_no_finding() {
    let situation = degraded()
        .child(child("db", "backoff", 999.0).failed("injected fault: panic"))
        .cause(
            "chaos:panic/db",
            "degraded",
            "fault panic (cleared; held for 5 s)",
            990.0,
        );
    assert_eq!(roots(&situation), ["warning child:db"]);
}
