//! Drills: each fault does what it says where it is armed, within its bounds, in the open, and ends.

use crate::bed::{idle, until, Bed, File, HOUR};
use ron_kernel::bus::{Bus, BusConfig, Start, Subscriber};
use ron_kernel::control::Control;
use ron_kernel::metrics::Format;
use ron_kernel::supervisor::{Backoff, Child};
use ron_kernel::{Change, ChildEvent, Config, LIFECYCLE_TOPIC};
use serde_json::{json, Value};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn inject(bed: &Bed, body: Value) -> Value {
    bed.client.post("/v1/chaos", &body.to_string()).expect(202)
}

fn faults(bed: &Bed) -> Vec<Value> {
    let chaos = bed.client.get("/v1/chaos").expect(200);
    chaos["faults"].as_array().unwrap().clone()
}

fn causes(bed: &Bed) -> Vec<String> {
    let ready = bed.client.get("/v1/ready").expect(200);
    let causes = ready["causes"].as_array().unwrap().iter();
    causes
        .map(|cause| cause["key"].as_str().unwrap().to_owned())
        .collect()
}

/// The faults that the metrics have counted, over all series.
fn counted(bed: &Bed) -> u64 {
    let text = bed.handle().metrics().render(Format::Prometheus);
    let lines = text
        .lines()
        .filter(|line| line.starts_with("ron_kernel_faults_total"));
    let counts: Vec<u64> = lines
        .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
        .collect();
    assert!(!counts.is_empty(), "no ron_kernel_faults_total");
    counts.iter().sum()
}

fn lifecycle(bed: &Bed) -> Subscriber<ChildEvent> {
    let topic = bed
        .handle()
        .bus()
        .topic::<ChildEvent>(LIFECYCLE_TOPIC)
        .unwrap();
    let reader = topic.subscriber().start(Start::Retained(4096));
    reader.build().unwrap()
}

fn told(changes: &mut Subscriber<ChildEvent>, id: &str) -> Vec<Change> {
    let mut found = Vec::new();
    while let Ok(Some(delivery)) = changes.try_recv() {
        if &*delivery.event.child == id {
            found.push(delivery.event.change);
        }
    }
    found
}

/// A child that counts its own steps, one a millisecond.
fn stepping(name: &str, steps: &Arc<AtomicU64>) -> Child {
    let steps = steps.clone();
    Child::task(name, move |cx| {
        let steps = steps.clone();
        async move {
            while !cx.is_stopping() {
                cx.heartbeat();
                steps.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    })
    .backoff(Backoff::NONE)
}

fn steps_in(steps: &AtomicU64, span: Duration) -> u64 {
    let before = steps.load(Ordering::SeqCst);
    std::thread::sleep(span);
    steps.load(Ordering::SeqCst) - before
}

#[test]
fn six_panics_take_a_child_through_its_backoff_into_quarantine_and_a_release_brings_it_back() {
    let (min, max) = (Duration::from_millis(20), Duration::from_millis(100));
    let mut config = Config::default();
    config.chaos.armed = true;
    config.supervisor.min_backoff = min;
    config.supervisor.max_backoff = max;
    let bed = Bed::new(|kernel| {
        kernel
            .config(config)
            .child(idle("web"))
            .child(idle("other"))
    });
    bed.until_ready();
    let mut changes = lifecycle(&bed);
    inject(
        &bed,
        json!({"fault": "panic", "child": "web", "count": 6, "for_ms": 60_000}),
    );
    bed.until_state("web", "quarantined");
    assert_eq!(counted(&bed), 6);
    until("spent", || faults(&bed).is_empty());
    let told = told(&mut changes, "web");
    let mut delays = Vec::new();
    for change in &told {
        if let Change::Backoff { attempt, delay, .. } = change {
            assert_eq!(*attempt as usize, delays.len());
            let ceiling = max.min(min * 2u32.pow(attempt + 1));
            assert!(
                (min..=ceiling).contains(delay),
                "attempt {attempt}: {delay:?}"
            );
            delays.push(*delay);
        }
    }
    assert_eq!(delays.len(), 5, "{told:?}");
    let count = |name: &str| told.iter().filter(|change| change.name() == name).count();
    assert_eq!(
        (count("Failed"), count("Fault"), count("Quarantined")),
        (6, 6, 1),
        "{told:?}"
    );
    assert_eq!(bed.node("web")["restarts_in_window"], 5);
    until("not ready", || {
        bed.client.get("/v1/ready").json()["ready"] == false
    });
    let diagnosis = bed.client.get("/v1/explain").expect(200);
    assert!(diagnosis["findings"][0]["try"]
        .to_string()
        .contains("ronctl release web"));
    bed.client
        .post("/v1/children/release", r#"{"id":"web"}"#)
        .expect(202);
    bed.until_state("web", "ready");
    bed.until_ready();
    assert_eq!(bed.node("other")["generation"], 1);
    assert_eq!(
        counted(&bed),
        6,
        "no fault follows it out of the quarantine"
    );
}

#[test]
fn a_count_is_kept_to() {
    for fault in ["panic", "exit"] {
        let bed = Bed::armed(|kernel| kernel.child(idle("web").backoff(Backoff::NONE)));
        bed.until_ready();
        let fault_told = inject(&bed, json!({"fault": fault, "child": "web", "count": 3}));
        assert_eq!(fault_told["count"], 3);
        until("three", || bed.node("web")["generation"] == 4);
        until("spent", || faults(&bed).is_empty());
        std::thread::sleep(Duration::from_millis(50));
        let node = bed.node("web");
        assert_eq!(
            (&node["generation"], &node["state"]),
            (&json!(4), &json!("ready"))
        );
        assert_eq!(counted(&bed), 3);
        let explained = bed.client.get("/v1/explain?id=web").json();
        let kind = if fault == "panic" {
            "panicked"
        } else {
            "failed"
        };
        assert_eq!(explained["last_exit"]["kind"], kind);
    }
}

#[test]
fn without_a_count_a_crash_is_one_and_no_more() {
    let bed = Bed::armed(|kernel| kernel.child(idle("web").backoff(Backoff::NONE)));
    bed.until_ready();
    let told = inject(&bed, json!({"fault": "panic", "child": "web"}));
    until("a crash", || {
        bed.node("web")["generation"].as_u64() > Some(1)
    });
    std::thread::sleep(Duration::from_millis(100));
    // With `count` absent the answer says what holds: so many, or until a time.
    match told["count"].as_u64() {
        Some(count) => assert_eq!(counted(&bed), count),
        None => assert!(told["until"].is_string(), "bounded: {told}"),
    }
}

#[test]
fn a_fault_ends_by_itself_when_its_time_is_over() {
    let steps = Arc::new(AtomicU64::new(0));
    let bed = Bed::armed(|kernel| kernel.child(stepping("web", &steps)));
    bed.until_ready();
    let begun = Instant::now();
    let body = json!({"fault": "latency", "child": "web", "for_ms": 600, "delay_ms": 100});
    let fault = inject(&bed, body);
    let time = |key: &str| {
        let text = fault[key].as_str().unwrap()[17..23].to_owned();
        (text.parse::<f64>().unwrap() * 1000.0) as i64
    };
    let span = (time("until") - time("since")).rem_euclid(60_000);
    assert!((599..=601).contains(&span), "{fault}");
    let slow = steps_in(&steps, Duration::from_millis(400));
    assert!((1..=8).contains(&slow), "{slow} steps, each 100 ms late");
    assert_eq!(faults(&bed).len(), 1);
    assert!(
        causes(&bed).contains(&"chaos:latency/web".to_owned()),
        "{:?}",
        causes(&bed)
    );
    until("ended", || faults(&bed).is_empty());
    assert!(
        begun.elapsed() > Duration::from_millis(590),
        "{:?}",
        begun.elapsed()
    );
    assert!(
        begun.elapsed() < Duration::from_millis(1_000),
        "{:?}",
        begun.elapsed()
    );
    let quick = steps_in(&steps, Duration::from_millis(300));
    assert!(quick > 40, "{quick} steps");
    until("out of readyz", || causes(&bed).is_empty());
}

#[test]
fn a_hung_child_with_a_watchdog_ends_as_timed_out_and_comes_back() {
    let steps = Arc::new(AtomicU64::new(0));
    let watched = stepping("web", &steps).watchdog(Duration::from_millis(200));
    let bed = Bed::armed(|kernel| kernel.child(watched));
    bed.until_ready();
    inject(
        &bed,
        json!({"fault": "hang", "child": "web", "for_ms": 350}),
    );
    until("restarted", || bed.node("web")["generation"] == 2);
    let explained = bed.client.get("/v1/explain?id=web").json();
    assert_eq!(explained["last_exit"]["kind"], "timed_out");
    until("ended", || faults(&bed).is_empty());
    until("it works again", || {
        steps_in(&steps, Duration::from_millis(50)) > 10
    });
    assert_eq!(counted(&bed), 2, "each incarnation");
}

#[test]
fn clear_ends_every_fault_at_once() {
    let (hung, late) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let bed = Bed::armed(|kernel| {
        kernel
            .child(stepping("hung", &hung))
            .child(stepping("late", &late))
    });
    bed.until_ready();
    inject(
        &bed,
        json!({"fault": "hang", "child": "hung", "for_ms": 60_000}),
    );
    inject(
        &bed,
        json!({"fault": "latency", "child": "late", "for_ms": 60_000, "delay_ms": 30_000}),
    );
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(steps_in(&hung, Duration::from_millis(100)), 0, "hangs");
    assert_eq!(
        steps_in(&late, Duration::from_millis(100)),
        0,
        "is 30 s late"
    );
    let both = faults(&bed);
    assert_eq!(both.len(), 2, "two at a time: {both:?}");
    let sum: u64 = both
        .iter()
        .map(|fault| fault["injected"].as_u64().unwrap())
        .sum();
    assert_eq!(counted(&bed), sum);
    assert_eq!(
        bed.client.delete("/v1/chaos").expect(200),
        json!({"cleared": 2})
    );
    assert_eq!(faults(&bed), [] as [Value; 0]);
    until("both step", || {
        let spans = [&hung, &late].map(|steps| steps_in(steps, Duration::from_millis(20)));
        spans.iter().all(|steps| *steps > 3)
    });
    assert_eq!(causes(&bed), [] as [&str; 0]);
    assert_eq!(
        bed.client.delete("/v1/chaos").expect(200),
        json!({"cleared": 0})
    );
    for id in ["hung", "late"] {
        assert_eq!(bed.node(id)["generation"], 1, "{id} only waited");
    }
}

#[test]
fn one_of_two_faults_is_cleared_by_its_number() {
    let bed = Bed::armed(|kernel| kernel.child(idle("web")).child(idle("db")));
    bed.until_ready();
    let body = |id: &str| json!({"fault": "latency", "child": id, "for_ms": 60_000, "delay_ms": 1});
    let first = inject(&bed, body("web"))["id"].as_u64().unwrap();
    let second = inject(&bed, body("db"))["id"].as_u64().unwrap();
    assert!(second > first);
    let cleared = bed.client.delete(&format!("/v1/chaos?id={first}"));
    assert_eq!(cleared.expect(200), json!({"cleared": 1}));
    let left: Vec<_> = faults(&bed)
        .iter()
        .map(|fault| fault["id"].clone())
        .collect();
    assert_eq!(left, [second]);
    let third = inject(&bed, body("web"))["id"].as_u64().unwrap();
    assert!(third > second, "no number is used twice");
}

#[test]
fn the_same_fault_twice_is_a_conflict() {
    let bed = Bed::armed(|kernel| kernel.child(idle("web")).child(idle("db")));
    bed.until_ready();
    for body in [
        json!({"fault": "latency", "child": "web", "for_ms": 60_000, "delay_ms": 1}),
        json!({"fault": "hang", "child": "db", "for_ms": 60_000}),
        json!({"fault": "bus_lag", "for_ms": 60_000}),
    ] {
        inject(&bed, body.clone());
        let again = bed.client.post("/v1/chaos", &body.to_string());
        assert_eq!(
            again.refusal(),
            (409, "conflict".to_owned()),
            "{body}: {}",
            again.body
        );
    }
    assert_eq!(faults(&bed).len(), 3);
}

#[test]
fn a_fault_is_seen_in_readiness_diagnosis_events_and_record() {
    let bed = Bed::armed(|kernel| kernel.child(idle("web")));
    bed.until_ready();
    let mut events = lifecycle(&bed);
    inject(
        &bed,
        json!({"fault": "hang", "child": "web", "for_ms": 60_000}),
    );
    assert!(
        causes(&bed).contains(&"chaos:hang/web".to_owned()),
        "{:?}",
        causes(&bed)
    );
    let diagnosis = bed.client.get("/v1/explain").expect(200);
    let finding = &diagnosis["findings"][0];
    assert_eq!(finding["subject"], "chaos:hang/web", "{diagnosis:#}");
    assert!(
        finding["try"].to_string().contains("ronctl chaos clear"),
        "{finding:#}"
    );
    let faults = told(&mut events, "web")
        .into_iter()
        .filter(|change| matches!(change, Change::Fault { fault } if fault == "hang"));
    assert_eq!(faults.count(), 1);
    bed.client.delete("/v1/chaos").expect(200);
    let changes = bed.client.get("/v1/changes").expect(200);
    let recorded: Vec<_> = changes["changes"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|change| change["kind"] == "fault")
        .collect();
    let texts: Vec<_> = recorded
        .iter()
        .map(|change| change["text"].as_str().unwrap())
        .collect();
    assert!(texts[0].contains("at most 60s"), "{texts:?}");
    assert!(
        texts[texts.len() - 1].contains("cleared by uid"),
        "{texts:?}"
    );
    assert!(
        recorded[0]["by"].as_str().unwrap().starts_with("uid "),
        "{recorded:#?}"
    );
}

#[test]
fn a_blocking_child_holds_its_worker_and_is_named() {
    let bed = Bed::armed(|kernel| kernel.child(idle("web")));
    bed.until_ready();
    let begun = Instant::now();
    inject(
        &bed,
        json!({"fault": "block", "child": "web", "for_ms": 500}),
    );
    assert!(
        begun.elapsed() < Duration::from_millis(500),
        "accepted at once"
    );
    until("named", || {
        let cause = bed.node("web")["cause"].to_string();
        cause.contains("holds its worker")
    });
    until("over", || bed.node("web")["cause"].is_null());
    assert!(
        begun.elapsed() > Duration::from_millis(1_800),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(counted(&bed), 1);
}

#[test]
fn the_default_child_gets_what_names_none() {
    let mut config = Config::default();
    config.chaos.armed = true;
    config.chaos.default_child = Some("db".to_owned());
    let bed = Bed::new(|kernel| kernel.config(config).child(idle("web")).child(idle("db")));
    bed.until_ready();
    assert_eq!(bed.client.get("/v1/chaos").json()["default_child"], "db");
    let fault = inject(
        &bed,
        json!({"fault": "latency", "delay_ms": 1, "for_ms": 60_000}),
    );
    assert_eq!(fault["child"], "db");
}

/// Readers other than the drill's own lose nothing.
#[test]
fn bus_lag_degrades_readiness_by_its_cause_and_loses_nothing_of_anybody_else() {
    let bus = Bus::new(BusConfig::default().instance(ron_kernel::instance())).unwrap();
    let spec = bus.topic_spec("orders").capacity(256).json();
    let orders = spec.open::<u64>().unwrap();
    let mut reader = orders.subscriber().name("billing").build().unwrap();
    let mut config = Config::default();
    config.chaos.armed = true;
    let bed = Bed::new(|kernel| kernel.bus(bus.clone()).config(config).child(idle("web")));
    bed.until_ready();
    let mut changes = lifecycle(&bed);
    let mut tail = bed
        .client
        .tail("topic=orders")
        .map_err(|answer| answer.body)
        .unwrap();
    inject(&bed, json!({"fault": "bus_lag", "for_ms": 2_500}));
    until("the cause", || causes(&bed).contains(&"bus_lag".to_owned()));
    let mut sent = 0;
    until("degraded", || {
        orders.publish(sent).unwrap();
        sent += 1;
        bed.client.get("/v1/about").json()["state"] == "degraded"
    });
    assert_eq!(
        bed.client.get("/v1/ready").json()["ready"],
        true,
        "degraded, not down"
    );
    for event in 0..sent {
        assert_eq!(reader.try_recv().unwrap().unwrap().event, event);
        assert_eq!(tail.next()["event"], event);
    }
    assert_eq!(reader.account().lost.total(), 0);
    while changes.try_recv().unwrap().is_some() {}
    assert_eq!(changes.account().lost.total(), 0);
    let topics = bed.client.get("/v1/bus").expect(200);
    let mut losers = Vec::new();
    for topic in topics["topics"].as_array().unwrap() {
        for reader in topic["readers"].as_array().unwrap() {
            if reader["lost"]["total"] != 0 {
                losers.push(topic["name"].as_str().unwrap().to_owned());
            }
        }
    }
    assert!(
        losers.iter().all(|topic| topic.contains("chaos")),
        "{losers:?}"
    );
    until("over", || faults(&bed).is_empty());
    let counted_at_end = counted(&bed);
    assert!(counted_at_end >= 1);
    until("well", || {
        !causes(&bed).iter().any(|key| key.starts_with("chaos"))
    });
}

#[test]
fn a_config_fault_sets_the_cause_of_a_rejected_reload_and_takes_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let file = File::new(dir.path(), "[chaos]\narmed = true\n");
    let loaded = file.load();
    let bed = Bed::within(dir, Control::new(), |kernel| {
        kernel.loaded(&loaded).child(idle("web"))
    });
    bed.until_ready();
    let version = bed.client.get("/v1/config").expect(200)["version"].clone();
    inject(&bed, json!({"fault": "config", "for_ms": 800}));
    until("the cause", || {
        causes(&bed).contains(&"config_reload".to_owned())
    });
    assert!(
        bed.handle().config().chaos.armed,
        "the last good one is in force"
    );
    assert_eq!(bed.client.get("/v1/config").expect(200)["version"], version);
    until("reverted", || {
        !causes(&bed).contains(&"config_reload".to_owned())
    });
    assert_eq!(faults(&bed), [] as [Value; 0]);
    assert_eq!(
        std::fs::read_to_string(&file.0).unwrap(),
        "[chaos]\narmed = true\n"
    );
    bed.client.post("/v1/config/reload", "{}").expect(200);
}

#[test]
fn a_true_rejection_outlives_the_drill_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let file = File::new(dir.path(), "[chaos]\narmed = true\n");
    let loaded = file.load();
    let bed = Bed::within(dir, Control::new(), |kernel| {
        kernel.loaded(&loaded).child(idle("web"))
    });
    bed.until_ready();
    file.write("[chaos]\narmed = 7\n");
    bed.client.post("/v1/config/reload", "{}").expect(422);
    until("the cause", || {
        causes(&bed).contains(&"config_reload".to_owned())
    });
    let fault = bed
        .client
        .post("/v1/chaos", r#"{"fault":"config","for_ms":300}"#);
    if fault.status == 202 {
        until("over", || faults(&bed).is_empty());
    }
    assert!(
        causes(&bed).contains(&"config_reload".to_owned()),
        "still rejected"
    );
}
#[test]
fn a_drill_beside_a_true_rejection_is_refused_for_that_reason() {
    let dir = tempfile::tempdir().unwrap();
    let file = File::new(dir.path(), "[chaos]\narmed = true\n");
    let loaded = file.load();
    let bed = Bed::within(dir, Control::new(), |kernel| {
        kernel.loaded(&loaded).child(idle("web"))
    });
    bed.until_ready();
    file.write("[chaos]\narmed = 7\n");
    bed.client.post("/v1/config/reload", "{}").expect(422);
    let fault = bed.client.post("/v1/chaos", r#"{"fault":"config"}"#);
    assert_eq!(fault.refusal(), (409, "conflict".to_owned()));
    assert!(fault.message().contains("reject"), "{}", fault.body);
    assert!(!fault.message().contains("fixed"), "{}", fault.body);
}
#[test]
fn who_disarms_ends_what_is_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let file = File::new(dir.path(), "[chaos]\narmed = true\n");
    let loaded = file.load();
    let steps = Arc::new(AtomicU64::new(0));
    let bed = Bed::within(dir, Control::new(), |kernel| {
        kernel.loaded(&loaded).child(stepping("web", &steps))
    });
    bed.until_ready();
    inject(
        &bed,
        json!({"fault": "hang", "child": "web", "for_ms": 60_000}),
    );
    file.write("[chaos]\narmed = false\n");
    bed.client.post("/v1/config/reload", "{}").expect(200);
    until("ended", || faults(&bed).is_empty());
    assert!(steps_in(&steps, Duration::from_millis(100)) > 10);
}

#[test]
fn a_fault_waits_for_the_next_incarnation_and_counts_what_it_hits() {
    let bed =
        Bed::armed(|kernel| kernel.child(idle("web").backoff(Backoff::new(HOUR, HOUR).unwrap())));
    bed.until_ready();
    inject(
        &bed,
        json!({"fault": "exit", "child": "web", "count": 2, "for_ms": 60_000}),
    );
    bed.until_state("web", "backoff");
    let left = faults(&bed);
    assert_eq!(
        (&left[0]["left"], &left[0]["injected"]),
        (&json!(1), &json!(1)),
        "{left:?}"
    );
    bed.client
        .post("/v1/children/restart", r#"{"id":"web"}"#)
        .expect(202);
    until("spent", || faults(&bed).is_empty());
    assert_eq!(counted(&bed), 2);
    bed.client
        .post("/v1/children/restart", r#"{"id":"web"}"#)
        .expect(202);
    bed.until_state("web", "ready");
}
#[test]
fn a_second_fault_on_a_child_strikes_or_is_refused() {
    let steps = Arc::new(AtomicU64::new(0));
    let bed = Bed::armed(|kernel| kernel.child(stepping("web", &steps)));
    bed.until_ready();
    inject(
        &bed,
        json!({"fault": "latency", "child": "web", "delay_ms": 5, "for_ms": 60_000}),
    );
    let hang = r#"{"fault":"hang","child":"web","for_ms":60000}"#;
    let answer = bed.client.post("/v1/chaos", hang);
    let injected = faults(&bed)[0]["injected"].clone();
    assert_eq!(injected, 1, "the first struck once: {:?}", faults(&bed));
    if answer.status == 202 {
        until("it hangs", || {
            steps_in(&steps, Duration::from_millis(100)) == 0
        });
        let id = answer.json()["id"].clone();
        bed.client.delete(&format!("/v1/chaos?id={id}")).expect(200);
        until("it steps again", || {
            steps_in(&steps, Duration::from_millis(100)) > 0
        });
        let late = steps_in(&steps, Duration::from_millis(200));
        assert!(late <= 45, "and late as before: {late}");
    } else {
        assert_eq!(answer.refusal(), (409, "conflict".to_owned()));
    }
}

#[test]
fn what_the_configuration_injects_is_listed_and_not_cleared() {
    let mut config = Config::default();
    config.chaos.armed = true;
    config.chaos.default_child = Some("web".to_owned());
    config.chaos.fault = ron_kernel::Fault::Hang;
    let bed = Bed::new(|kernel| kernel.config(config).child(idle("web")));
    bed.until_state("web", "ready");
    let listed = faults(&bed);
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(
        (
            &listed[0]["fault"],
            &listed[0]["child"],
            &listed[0]["until"]
        ),
        (&json!("hang"), &json!("web"), &Value::Null)
    );
    let id = listed[0]["id"].clone();
    let refused = bed.client.delete(&format!("/v1/chaos?id={id}"));
    assert_eq!(refused.refusal(), (409, "conflict".to_owned()));
    let cleared = bed.client.delete("/v1/chaos").expect(200);
    assert_eq!(cleared, json!({"cleared": 0}));
    assert_eq!(faults(&bed).len(), 1);
}

/// Beats every 5 ms and takes its time to stop.
fn orderly(name: &str, steps: &Arc<AtomicU64>) -> Child {
    let steps = steps.clone();
    Child::task(name, move |cx: ron_kernel::supervisor::ChildContext| {
        let steps = steps.clone();
        async move {
            while !cx.is_stopping() {
                steps.fetch_add(1, Ordering::Relaxed);
                tokio::select! {
                    () = cx.stopping() => {}
                    () = tokio::time::sleep(Duration::from_millis(5)) => {}
                }
            }
            steps.store(u64::MAX, Ordering::Relaxed);
        }
    })
    .stop_timeout(Duration::from_secs(20))
}

#[test]
fn a_child_that_is_stopping_is_relieved_too() {
    for fault in [
        json!({"fault": "hang", "child": "web"}),
        json!({"fault": "latency", "child": "web", "delay_ms": 60_000}),
    ] {
        let steps = Arc::new(AtomicU64::new(0));
        let bed = Bed::armed(|kernel| kernel.child(orderly("web", &steps)));
        bed.until_ready();
        inject(&bed, fault);
        bed.client
            .post("/v1/children/stop", r#"{"id":"web"}"#)
            .expect(202);
        assert_eq!(bed.state("web"), "stopping");
        bed.client.delete("/v1/chaos").expect(200);
        bed.until_state("web", "stopped");
        assert_eq!(steps.load(Ordering::Relaxed), u64::MAX, "its cleanup ran");
    }
}

#[test]
fn a_hang_of_the_configuration_ends_with_it() {
    let steps = Arc::new(AtomicU64::new(0));
    let dir = tempfile::tempdir().unwrap();
    let armed = "[chaos]\narmed = true\ndefault_child = \"web\"\n";
    let file = File::new(dir.path(), &format!("{armed}fault = \"hang\"\n"));
    let loaded = file.load();
    let bed = Bed::within(dir, Control::new(), |kernel| {
        kernel.loaded(&loaded).child(orderly("web", &steps))
    });
    bed.until_state("web", "ready");
    assert_eq!(steps_in(&steps, Duration::from_millis(100)), 0);
    let refused = bed
        .client
        .post("/v1/chaos", r#"{"fault":"latency","child":"web"}"#);
    assert!(refused.message().contains("chaos.fault"), "{refused:?}");
    file.write(armed);
    bed.client.post("/v1/config/reload", "{}").expect(200);
    until("it steps", || {
        steps_in(&steps, Duration::from_millis(50)) > 0
    });
}

#[test]
fn a_drill_that_is_one_too_many_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let file = File::new(dir.path(), "[chaos]\narmed = true\n");
    let loaded = file.load();
    let bed = Bed::within(dir, Control::new(), |kernel| {
        let children = (0..64).map(|n| idle(&format!("c{n}")));
        children.fold(kernel.loaded(&loaded), |kernel, child| kernel.child(child))
    });
    bed.until_ready();
    for n in 0..64 {
        inject(&bed, json!({"fault": "hang", "child": format!("c{n}")}));
    }
    let refused = bed.client.post("/v1/chaos", r#"{"fault":"config"}"#);
    assert_eq!(refused.refusal(), (409, "conflict".to_owned()));
    bed.client.delete("/v1/chaos").expect(200);
    assert!(
        !causes(&bed).contains(&"config_reload".to_owned()),
        "{:?}",
        causes(&bed)
    );
}

#[test]
fn losses_that_are_over_are_told_from_those_that_go_on() {
    let bed = Bed::armed(|kernel| kernel.child(idle("web")));
    bed.until_ready();
    let gravity = || {
        let explained = bed.client.get("/v1/explain").json();
        let findings = explained["findings"].as_array().unwrap();
        let of_reader = findings
            .iter()
            .find(|one| one["subject"] == "bus:chaos/chaos");
        of_reader.map(|one| one["severity"].as_str().unwrap().to_owned())
    };
    inject(&bed, json!({"fault": "bus_lag", "for_ms": 2_500}));
    until("told of", || {
        let explained = bed.client.get("/v1/explain").json().to_string();
        explained.contains("events in the last second") || explained.contains("in the last second")
    });
    until("over", || faults(&bed).is_empty());
    until("a notice", || gravity().as_deref() == Some("notice"));
}
