//! What each answer looks like, word for word.

use crate::bed::{idle, in_backoff, quarantined, thread, Bed, File, HOUR, SERVICE};
use crate::client::Answer;
use crate::golden::{self, Json};
use ron_kernel::bus::{Bus, BusConfig, Overflow};
use ron_kernel::control::{Control, Method, Refused};
use ron_kernel::supervisor::{Backoff, Child, Group, Intensity};
use ron_kernel::KernelBuilder;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

#[track_caller]
fn golden(bed: &Bed, name: &str, status: u16, answer: &Answer) {
    assert_eq!(answer.status, status, "{}", answer.body);
    assert_eq!(
        answer.header("content-type"),
        Some("application/json"),
        "{}",
        answer.head
    );
    golden::check(name, Json::parse(&answer.body), bed.dir());
}

/// One child in every state that lasts.
fn zoo(kernel: KernelBuilder) -> KernelBuilder {
    let busy = Child::task("replay", |cx| async move {
        cx.status("replay 30 %");
        cx.stopping().await;
    });
    kernel
        .child(idle("web"))
        .child(thread("disk"))
        .group(
            Group::new("pool")
                .child(busy)
                .child(idle("index").gated(HOUR)),
        )
        .child(in_backoff("db"))
        .child(quarantined("cache"))
        .child(idle("gate").gated(HOUR))
        .child(idle("late").after("gate"))
        .child(Child::task("once", |_| async {}))
        .child(idle("extra").optional())
}

fn zoo_bed() -> Bed {
    let bed = Bed::new(zoo);
    for (id, state) in [
        ("disk", "ready"),
        ("db", "backoff"),
        ("cache", "quarantined"),
        ("gate", "starting"),
        ("late", "waiting"),
        ("once", "done"),
        ("pool/index", "starting"),
    ] {
        bed.until_state(id, state);
    }
    bed
}

#[test]
fn about() {
    let bed = zoo_bed();
    golden(&bed, "about", 200, &bed.client.get("/v1/about"));
}

#[test]
fn the_tree_and_one_node_of_it() {
    let bed = zoo_bed();
    golden(&bed, "tree", 200, &bed.client.get("/v1/tree"));
    golden(&bed, "tree_one", 200, &bed.client.get("/v1/tree?id=pool"));
    let member = bed.client.get("/v1/tree?id=pool%2Findex");
    golden(&bed, "tree_member", 200, &member);
}

#[test]
fn readiness_is_told_with_200_whatever_it_is() {
    let bed = zoo_bed();
    golden(&bed, "ready_not", 200, &bed.client.get("/v1/ready"));
    let bed = Bed::new(|kernel| kernel.child(idle("web")));
    bed.until_ready();
    golden(&bed, "ready", 200, &bed.client.get("/v1/ready"));
}

#[test]
fn what_is_wrong() {
    let bed = Bed::new(|kernel| kernel.child(idle("web")));
    bed.until_ready();
    golden(&bed, "explain_well", 200, &bed.client.get("/v1/explain"));
    let bed = Bed::new(|kernel| {
        kernel
            .child(in_backoff("db"))
            .child(idle("web").after("db"))
    });
    bed.until_state("db", "backoff");
    golden(&bed, "explain_crash", 200, &bed.client.get("/v1/explain"));
}

#[test]
fn why_a_child_or_the_service_is_as_it_is() {
    let panics = Child::task("db", |cx| async move {
        if !cx.is_stopping() {
            panic!("no disk");
        }
    });
    let bed = Bed::new(|kernel| {
        kernel
            .child(panics.backoff(Backoff::new(HOUR, HOUR).unwrap()))
            .child(idle("web").after("db"))
    });
    bed.until_state("db", "backoff");
    let child = bed.client.get("/v1/explain?id=web");
    golden(&bed, "explain_child", 200, &child);
    let child = bed.client.get("/v1/explain?id=db");
    golden(&bed, "explain_root", 200, &child);
    let ready = bed.client.get("/v1/explain?of=ready");
    golden(&bed, "explain_ready", 200, &ready);
    let bed = Bed::new(|kernel| kernel.child(idle("web")));
    bed.until_ready();
    let ready = bed.client.get("/v1/explain?of=ready");
    golden(&bed, "explain_ready_well", 200, &ready);
}

#[test]
fn what_changed() {
    let full = Arc::new(Notify::new());
    let fills = full.clone();
    let disk = Child::task("db", move |_| {
        let full = fills.clone();
        async move {
            full.notified().await;
            Err::<(), _>("no disk")
        }
    });
    let disk = disk.backoff(Backoff::new(HOUR, HOUR).unwrap()).optional();
    let bed = Bed::armed(|kernel| kernel.child(idle("web")).child(disk));
    bed.until_ready();
    full.notify_one();
    bed.until_state("db", "backoff");
    bed.client
        .post("/v1/children/stop", r#"{"id":"web"}"#)
        .expect(202);
    bed.until_state("web", "stopped");
    bed.client
        .post("/v1/children/start", r#"{"id":"web"}"#)
        .expect(202);
    bed.until_state("web", "ready");
    golden(
        &bed,
        "changes",
        200,
        &bed.client.get("/v1/changes?since=1h"),
    );
    golden(&bed, "changes_all", 200, &bed.client.get("/v1/changes"));
}

/// A topic with two readers that lose, each by its policy, and one that has left.
#[test]
fn who_loses_messages() {
    let bus = BusConfig::default().instance(ron_kernel::instance());
    let bus = Bus::new(bus).unwrap();
    let topic = bus.topic_spec("orders").capacity(4).json();
    let topic = topic.open::<u64>().unwrap();
    let reader = |name: &str, overflow| {
        let reader = topic.subscriber().name(name).overflow(overflow);
        reader.build().unwrap()
    };
    let mut slow = reader("audit", Overflow::DropOldest);
    let cut = reader("billing", Overflow::Disconnect);
    let deadline = Duration::from_millis(1);
    let held = reader("ledger", Overflow::Block { deadline });
    let newest = reader(
        "screen",
        Overflow::Conflate {
            key: |event| event % 3,
            max_keys: 2,
        },
    );
    let picky = topic
        .subscriber()
        .name("odd")
        .filter(|event| event % 2 == 1);
    let mut picky = picky.build().unwrap();
    let left = reader("gone", Overflow::DropOldest);
    for event in 0..7 {
        topic.publish(event).unwrap();
    }
    drop(left);
    assert!(slow.try_recv().is_err());
    slow.try_recv().unwrap().unwrap();
    while picky.try_recv().is_err() {}
    let bed = Bed::new(|kernel| kernel.bus(bus.clone()).child(idle("web")));
    bed.until_ready();
    bed.until_told(2, 2);
    let answer = bed.client.get("/v1/bus");
    golden(&bed, "bus", 200, &answer);
    // The promise of every account holds in JSON as well.
    for topic in answer.json()["topics"].as_array().unwrap() {
        let readers = topic["readers"].as_array().unwrap().iter();
        for reader in readers.chain(topic["gone"].as_array().unwrap()) {
            let count = |key: &str| reader[key].as_u64().unwrap();
            let lost = reader["lost"].as_object().unwrap();
            let total = lost["total"].as_u64().unwrap();
            let sum: u64 = lost.values().map(|lost| lost.as_u64().unwrap()).sum();
            assert_eq!(sum, 2 * total, "{reader}");
            let spent = count("delivered") + count("filtered") + count("conflated");
            assert_eq!(
                count("offered"),
                spent + total + count("pending"),
                "{reader}"
            );
        }
    }
    drop((cut, held, newest));
}

#[test]
fn the_live_picture() {
    let bed = zoo_bed();
    bed.until_told(6, 19);
    golden(&bed, "top", 200, &bed.client.get("/v1/top"));
}

const GOOD: &str = "bus.capacity = 64\n\n[drain]\ndeadline = \"3s\"\n";

#[test]
fn which_value_is_in_force_and_from_where() {
    let dir = tempfile::tempdir().unwrap();
    let file = File::new(dir.path(), GOOD);
    let loaded = ron_kernel::configuration::Loader::new(SERVICE)
        .file(&file.0)
        .env([("RON_DRAIN_DEADLINE", "4s")])
        .load()
        .unwrap();
    let bed = Bed::within(dir, Control::new(), |kernel| kernel.loaded(&loaded));
    golden(&bed, "config", 200, &bed.client.get("/v1/config"));
    let key = bed.client.get("/v1/config?key=drain.deadline");
    golden(&bed, "config_key", 200, &key);
    file.write(&GOOD.replace("64", "128"));
    bed.client.post("/v1/config/reload", "{}").expect(200);
    let key = bed.client.get("/v1/config?key=bus.capacity");
    golden(&bed, "config_pending", 200, &key);
    let unknown = bed.client.get("/v1/config?key=drain.deadlin");
    golden(&bed, "config_unknown_key", 404, &unknown);
}

#[test]
fn plans_and_reloads_of_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let file = File::new(dir.path(), GOOD);
    let loaded = ron_kernel::configuration::Loader::new(SERVICE)
        .file(&file.0)
        .env([("RON_STALL_THRESHOLD", "300ms")])
        .load()
        .unwrap();
    let bed = Bed::within(dir, Control::new(), |kernel| kernel.loaded(&loaded));
    let post = |path: &str, body: &str| bed.client.post(path, body);
    let nothing = post("/v1/config/check", "{}");
    golden(&bed, "check_nothing", 200, &nothing);

    file.write("bus.capacity = 128\n[drain]\ndeadline = \"2s\"\n[stall]\nthreshold = \"1s\"\n");
    golden(&bed, "check", 200, &post("/v1/config/check", "{}"));
    assert_eq!(bed.handle().config().drain.deadline.as_secs(), 3, "a plan");
    golden(&bed, "reload", 200, &post("/v1/config/reload", "{}"));
    assert_eq!(bed.handle().config().drain.deadline.as_secs(), 2);

    file.write("[drain]\ndeadline = 4\nligner = \"1s\"\n");
    let rejected = post("/v1/config/check", "{}");
    golden(&bed, "check_rejected", 422, &rejected);
    let rejected = post("/v1/config/reload", "{}");
    golden(&bed, "reload_rejected", 422, &rejected);
    assert_eq!(bed.handle().config().drain.deadline.as_secs(), 2);

    let other = bed.dir().join("other.toml");
    std::fs::write(&other, "[drain]\nlinger = \"1s\"\n").unwrap();
    let body = serde_json::json!({ "file": other }).to_string();
    let plan = post("/v1/config/check", &body);
    golden(&bed, "check_other_file", 200, &plan);
    let body = serde_json::json!({ "file": bed.dir().join("none.toml") }).to_string();
    let plan = post("/v1/config/check", &body);
    golden(&bed, "check_no_file", 422, &plan);
}

#[test]
fn what_a_drain_would_do() {
    let bed = zoo_bed();
    let plan = bed.client.post("/v1/drain", r#"{"dry_run":true}"#);
    golden(&bed, "drain_dry_run", 200, &plan);
    assert_eq!(bed.state("web"), "ready", "nothing was stopped");
}

#[test]
fn a_drain_goes_in_stages_and_names_what_it_would_lose() {
    let bus = Bus::new(BusConfig::default().instance(ron_kernel::instance())).unwrap();
    let topic = bus.topic_spec("orders").capacity(64).json();
    let topic = topic.open::<u64>().unwrap();
    let reader = topic.subscriber().name("billing").build().unwrap();
    for order in 0..3 {
        topic.publish(order).unwrap();
    }
    let bed = Bed::new(|kernel| {
        let group = Group::new("pool")
            .child(idle("a"))
            .child(idle("b").after("a"));
        kernel
            .bus(bus.clone())
            .child(idle("db").stop_timeout(Duration::from_millis(700)))
            .child(idle("web").after("db"))
            .group(group.after("db"))
            .child(idle("edge").after("web").after("pool"))
    });
    bed.until_ready();
    let plan = bed.client.post("/v1/drain", r#"{"dry_run":true}"#);
    golden(&bed, "drain_stages", 200, &plan);
    assert_eq!(bed.client.get("/v1/about").json()["state"], "ready");
    drop(reader);
}

#[test]
fn drains() {
    let slow = || {
        Child::task("slow", |cx| async move {
            cx.stopping().await;
            tokio::time::sleep(Duration::from_millis(300)).await;
        })
    };
    let bed = Bed::new(|kernel| kernel.child(slow()));
    bed.until_ready();
    golden(&bed, "drain", 202, &bed.client.post("/v1/drain", "{}"));
    bed.until_state("slow", "stopping");
    let about = bed.client.get("/v1/about");
    golden(&bed, "about_draining", 200, &about);
    let stubborn = Child::task("stubborn", |_| std::future::pending::<()>());
    let bed = Bed::new(|kernel| {
        kernel
            .child(slow())
            .child(quarantined("cache"))
            .child(stubborn.stop_timeout(Duration::from_millis(100)))
    });
    bed.until_state("cache", "quarantined");
    let report = bed.client.post("/v1/drain", r#"{"wait":true}"#);
    golden(&bed, "drain_wait", 200, &report);
}

/// Children that take their time, so that each answer shows the state after acceptance and no later one.
#[test]
fn commands_to_children() {
    let slow = Child::task("web", |cx| async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        cx.ready();
        cx.stopping().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    });
    let trial = Child::task("cache", |cx| async move {
        if cx.generation() == 1 {
            return Err("no disk");
        }
        cx.stopping().await;
        Ok(())
    });
    let bed = Bed::new(|kernel| {
        kernel.child(slow.gated(HOUR)).child(
            trial
                .gated(HOUR)
                .intensity(Intensity::new(0, HOUR).unwrap()),
        )
    });
    bed.until_state("cache", "quarantined");
    bed.until_state("web", "ready");
    for (command, id, golden_file) in [
        ("restart", "web", "children_restart"),
        ("stop", "web", "children_stop"),
        ("start", "web", "children_start"),
        ("release", "cache", "children_release"),
    ] {
        let body = serde_json::json!({ "id": id }).to_string();
        let answer = bed.client.post(&format!("/v1/children/{command}"), &body);
        golden(&bed, golden_file, 202, &answer);
        let settled = match command {
            "restart" => "ready",
            "stop" => "stopped",
            _ => "starting",
        };
        bed.until_state(id, settled);
    }
}

#[test]
fn drills() {
    let bed = Bed::armed(|kernel| kernel.child(idle("web")).child(idle("db")));
    bed.until_ready();
    golden(&bed, "chaos_none", 200, &bed.client.get("/v1/chaos"));
    let body = r#"{"fault":"latency","child":"web","for_ms":60000,"delay_ms":1}"#;
    let fault = bed.client.post("/v1/chaos", body);
    golden(&bed, "chaos_inject", 202, &fault);
    let body = r#"{"fault":"panic","child":"db","count":1000}"#;
    let fault = bed.client.post("/v1/chaos", body);
    assert_eq!(fault.status, 202, "{}", fault.body);
    let faults = bed.client.get("/v1/chaos").json();
    let faults = faults["faults"].as_array().unwrap();
    assert_eq!(faults.len(), 2, "{faults:?}");
    bed.client.delete("/v1/chaos?id=2").expect(200);
    golden(&bed, "chaos", 200, &bed.client.get("/v1/chaos"));
    golden(&bed, "chaos_clear", 200, &bed.client.delete("/v1/chaos"));
}

#[test]
fn a_host_adds_routes() {
    let control = Control::new()
        .route(Method::Post, "/v1/echo", |request| {
            Ok(serde_json::json!({
                "query": request.query,
                "body": request.body,
                "by": request.by,
            }))
        })
        .route(Method::Get, "/v1/teapot", |_| {
            Err(Refused::new(418, "teapot", "this is a teapot"))
        })
        .route(Method::Get, "/v1/broken", |_| panic!("a host's mistake"))
        .route(Method::Get, "/v1/about", |_| {
            panic!("the kernel's own wins")
        });
    let bed = Bed::with(control, |kernel| kernel.child(idle("web")));
    bed.until_ready();
    let echo = bed.client.post("/v1/echo?a=1%202&b=", r#"{"x":[1,null]}"#);
    golden(&bed, "route", 200, &echo);
    let refused = bed.client.get("/v1/teapot");
    golden(&bed, "route_refused", 418, &refused);
    let broken = bed.client.get("/v1/broken");
    assert_eq!(broken.status, 500, "{}", broken.body);
    assert_eq!(bed.client.get("/v1/about").status, 200);
    assert_eq!(bed.client.get("/v1/echo").status, 405);
    let changes = bed.client.get("/v1/changes").json();
    let changes = changes["changes"].as_array().unwrap();
    let commands: Vec<_> = changes
        .iter()
        .filter(|change| change["kind"] == "command")
        .collect();
    assert_eq!(commands.len(), 1, "asking is not recorded: {changes:?}");
    assert!(
        commands[0]["text"].as_str().unwrap().contains("echo"),
        "{commands:?}"
    );
}

/// Each refusal: request, status and envelope.
#[test]
fn refusals() {
    let bed = Bed::new(|kernel| {
        kernel
            .child(idle("web"))
            .child(quarantined("cache"))
            .group(Group::new("pool").child(idle("a")))
    });
    bed.until_state("cache", "quarantined");
    bed.until_state("pool", "ready");
    bed.client
        .post("/v1/children/stop", r#"{"id":"pool"}"#)
        .expect(202);
    bed.until_state("pool", "stopped");
    let table = [
        ("GET", "/v1/tree?id=wbe", ""),
        ("GET", "/v1/tree?id=nothing-like-it", ""),
        ("GET", "/v1/explain?id=wbe", ""),
        ("GET", "/v1/explain?of=wbe", ""),
        ("GET", "/v1/explain?id=web&of=ready", ""),
        ("GET", "/v1/tail?topic=orders", ""),
        ("GET", "/v1/tail", ""),
        ("GET", "/v1/tail?topic=kernel&since=10", ""),
        ("GET", "/v1/changes?since=tomorrow", ""),
        ("GET", "/v1/changes?since=1h&since=2h", ""),
        ("GET", "/v1/changes?sinse=1h", ""),
        ("GET", "/v1/config", ""),
        ("GET", "/v1/config?key=drain.deadlin", ""),
        ("POST", "/v1/config/check", "{}"),
        ("POST", "/v1/config/reload", "{}"),
        ("GET", "/v1/nothing", ""),
        ("GET", "/", ""),
        ("GET", "/v1/about/", ""),
        ("PUT", "/v1/about", ""),
        ("POST", "/v1/tree", "{}"),
        ("GET", "/v1/drain", ""),
        ("PATCH", "/v1/chaos", "{}"),
        ("POST", "/v1/children/restart", r#"{"id":"wbe"}"#),
        ("POST", "/v1/children/stop", r#"{"id":"wbe"}"#),
        ("POST", "/v1/children/start", r#"{"id":"pool/a"}"#),
        ("POST", "/v1/children/release", r#"{"id":"web"}"#),
        ("POST", "/v1/children/restart", "{}"),
        ("POST", "/v1/children/restart", ""),
        ("POST", "/v1/children/restart", "{"),
        (
            "POST",
            "/v1/children/restart",
            r#"{"id":"web","force":true}"#,
        ),
        ("POST", "/v1/children/restart", r#"{"id":"web","id":"web"}"#),
        ("POST", "/v1/drain", r#"{"dry_run":true,"wait":true}"#),
        ("POST", "/v1/chaos", r#"{"fault":"panic","child":"web"}"#),
    ];
    let mut seen = Vec::new();
    for (method, target, body) in table {
        let answer = bed.client.ask(method, target, body);
        assert!(answer.status >= 400, "{method} {target}: {}", answer.body);
        let text = |text: &str| Json::Text(text.to_owned());
        seen.push(Json::Object(vec![
            ("request".into(), text(&format!("{method} {target} {body}"))),
            ("status".into(), Json::Number(answer.status.to_string())),
            (
                "allow".into(),
                answer.header("allow").map_or(Json::Null, text),
            ),
            ("body".into(), Json::parse(&answer.body)),
        ]));
    }
    golden::check("refusals", Json::List(seen), bed.dir());
}

#[test]
fn refusals_of_drills() {
    let bed = Bed::armed(|kernel| {
        kernel
            .child(idle("web"))
            .child(thread("disk"))
            .child(quarantined("cache"))
            .group(Group::new("pool").child(idle("a")))
    });
    bed.until_state("cache", "quarantined");
    bed.until_state("disk", "ready");
    let table = [
        r#"{"fault":"panik","child":"web"}"#,
        r#"{"fault":"panic"}"#,
        r#"{"child":"web"}"#,
        r#"{"fault":"panic","child":"wbe"}"#,
        r#"{"fault":"panic","child":"disk"}"#,
        r#"{"fault":"panic","child":"pool"}"#,
        r#"{"fault":"panic","child":"web","count":0}"#,
        r#"{"fault":"panic","child":"web","count":-1}"#,
        r#"{"fault":"panic","child":"web","for_ms":0}"#,
        r#"{"fault":"panic","child":"web","for_ms":864000000000}"#,
        r#"{"fault":"panic","child":"web","delay_ms":5}"#,
        r#"{"fault":"latency","child":"web","delay_ms":0}"#,
        r#"{"fault":"latency","child":"web","delay_ms":86400000}"#,
        r#"{"fault":"latency","child":"web","count":18446744073709551615}"#,
        r#"{"fault":"bus_lag","child":"web"}"#,
        r#"{"fault":"config","child":"web"}"#,
        r#"{"fault":"panic","child":"web","loud":true}"#,
    ];
    let mut seen = Vec::new();
    for body in table {
        let answer = bed.client.post("/v1/chaos", body);
        let number = Json::Number(answer.status.to_string());
        seen.push(Json::Object(vec![
            ("request".into(), Json::Text(body.to_owned())),
            ("status".into(), number),
            ("body".into(), Json::parse(&answer.body)),
        ]));
    }
    let unknown = bed.client.delete("/v1/chaos?id=99");
    seen.push(Json::Object(vec![
        (
            "request".into(),
            Json::Text("DELETE /v1/chaos?id=99".into()),
        ),
        ("status".into(), Json::Number(unknown.status.to_string())),
        ("body".into(), Json::parse(&unknown.body)),
    ]));
    golden::check("refusals_chaos", Json::List(seen), bed.dir());
}
#[test]
fn while_it_drains_commands_are_conflicts_and_questions_are_answered() {
    let slow = Child::task("slow", |cx| async move {
        cx.stopping().await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    });
    let bed = Bed::armed(|kernel| kernel.child(slow));
    bed.until_ready();
    bed.client.post("/v1/drain", "{}").expect(202);
    for (path, body) in [
        ("/v1/children/restart", r#"{"id":"slow"}"#),
        ("/v1/children/start", r#"{"id":"slow"}"#),
        ("/v1/children/release", r#"{"id":"slow"}"#),
        ("/v1/chaos", r#"{"fault":"panic","child":"slow"}"#),
    ] {
        let answer = bed.client.post(path, body);
        assert_eq!(
            answer.refusal(),
            (409, "conflict".to_owned()),
            "{path}: {}",
            answer.body
        );
    }
    for path in ["/v1/about", "/v1/tree", "/v1/top", "/v1/explain", "/v1/bus"] {
        let answer = bed.client.get(path).expect(200);
        if path != "/v1/bus" {
            assert_eq!(answer["state"], "draining", "{path}");
        }
    }
}
