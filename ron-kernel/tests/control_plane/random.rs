//! Whatever is asked in whatever order: no hang, no failure of the server's own, no hole in the record.

use crate::bed::{idle, quarantined, sick, thread, until, workers, SERVICE};
use crate::client::Client;
use proptest::prelude::*;
use proptest::test_runner::{Config as Runs, TestRunner};
use ron_kernel::control::Control;
use ron_kernel::supervisor::{Backoff, Child, Group, Restart, Strategy as Shares};
use ron_kernel::{Config, Kernel, KernelBuilder};
use std::time::{Duration, Instant};

/// What a random tree is made of.
#[derive(Clone, Copy, Debug)]
enum Seed {
    Idle,
    Sick,
    Quarantined,
    Thread,
    Gated,
    Slow,
    Once,
    Pool(bool),
}

fn plant(kernel: KernelBuilder, index: usize, seed: Seed, after: Option<usize>) -> KernelBuilder {
    let name = format!("c{index}");
    let ordered = |child: Child| match after {
        Some(other) if other < index => child.after(format!("c{other}")),
        _ => child,
    };
    let child = match seed {
        Seed::Idle => idle(&name).restart(Restart::Permanent),
        Seed::Sick => sick(&name)
            .backoff(Backoff::new(Duration::from_millis(1), Duration::from_millis(5)).unwrap()),
        Seed::Quarantined => quarantined(&name).optional(),
        Seed::Thread => thread(&name),
        Seed::Gated => idle(&name).gated(Duration::from_millis(20)),
        Seed::Slow => Child::task(&name, |cx| async move {
            cx.stopping().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }),
        Seed::Once => Child::task(&name, |_| async {}).restart(Restart::Temporary),
        Seed::Pool(all) => {
            let shares = if all {
                Shares::OneForAll
            } else {
                Shares::RestForOne
            };
            let member = sick("b").backoff(Backoff::NONE);
            let group = Group::new(&name)
                .strategy(shares)
                .child(idle("a"))
                .child(member);
            return kernel.group(group.optional());
        }
    };
    kernel.child(ordered(child).stop_timeout(Duration::from_millis(100)))
}

fn seeds() -> impl Strategy<Value = Vec<(Seed, Option<usize>)>> {
    let seed = prop_oneof![
        Just(Seed::Idle),
        Just(Seed::Sick),
        Just(Seed::Quarantined),
        Just(Seed::Thread),
        Just(Seed::Gated),
        Just(Seed::Slow),
        Just(Seed::Once),
        any::<bool>().prop_map(Seed::Pool),
    ];
    prop::collection::vec((seed, prop::option::of(0..5usize)), 1..6)
}

type Ask = (&'static str, String, String);

fn asks() -> impl Strategy<Value = Vec<Ask>> {
    let id = prop_oneof![
        (0..7usize).prop_map(|index| format!("c{index}")),
        (0..7usize).prop_map(|index| format!("c{index}/a")),
        Just(String::new()),
    ];
    let command = prop_oneof![
        Just("restart"),
        Just("stop"),
        Just("start"),
        Just("release")
    ];
    let fault = prop_oneof![
        Just("panic"),
        Just("exit"),
        Just("hang"),
        Just("latency"),
        Just("bus_lag"),
        Just("config"),
    ];
    let question = prop_oneof![
        Just("/v1/about"),
        Just("/v1/tree"),
        Just("/v1/explain"),
        Just("/v1/explain?of=ready"),
        Just("/v1/changes?since=1m"),
        Just("/v1/bus"),
        Just("/v1/top"),
        Just("/v1/chaos"),
        Just("/v1/config"),
        Just("/v1/nothing"),
    ];
    let ask = prop_oneof![
        5 => (command, id.clone()).prop_map(|(command, id)| {
            let body = serde_json::json!({ "id": id }).to_string();
            ("POST", format!("/v1/children/{command}"), body)
        }),
        3 => (fault, prop::option::of(id.clone()), prop::option::of(0..4u32), prop::option::of(0..60u32))
            .prop_map(|(fault, child, count, for_ms)| {
                let mut body = serde_json::json!({ "fault": fault });
                let mut set = |key: &str, value: Option<serde_json::Value>| {
                    if let Some(value) = value {
                        body[key] = value;
                    }
                };
                set("child", child.map(Into::into));
                set("count", count.map(Into::into));
                set("for_ms", for_ms.map(Into::into));
                ("POST", "/v1/chaos".to_owned(), body.to_string())
            }),
        1 => Just(("DELETE", "/v1/chaos".to_owned(), String::new())),
        1 => Just(("POST", "/v1/drain".to_owned(), r#"{"dry_run":true}"#.to_owned())),
        1 => Just(("POST", "/v1/config/reload".to_owned(), "{}".to_owned())),
        4 => question.prop_map(|path| ("GET", path.to_owned(), String::new())),
        2 => id.prop_map(|id| ("GET", format!("/v1/explain?id={}", id.replace('/', "%2F")), String::new())),
    ];
    prop::collection::vec(ask, 1..40)
}

/// The record's numbers follow one another from the first that is kept.
fn record_is_whole(client: &Client) {
    let answer = client.get("/v1/changes?since=1h").expect(200);
    let dropped = answer["dropped"].as_u64().unwrap();
    for (index, change) in answer["changes"].as_array().unwrap().iter().enumerate() {
        assert_eq!(change["seq"], dropped + index as u64 + 1, "{change}");
    }
}

fn ask(client: &Client, asks: &[Ask]) {
    for (method, target, body) in asks {
        let begun = Instant::now();
        let answer = client.ask(method, target, body);
        let of_its_own = answer.status >= 500 && answer.status != 503;
        assert!(!of_its_own, "{method} {target} {body}: {answer:?}");
        assert!(
            begun.elapsed() < Duration::from_secs(2),
            "{method} {target} {body}"
        );
        answer.json();
    }
}

/// Several operators at a time, who know nothing of each other.
fn run(seeds: Vec<(Seed, Option<usize>)>, asks: Vec<Ask>, operators: usize, drain: bool) {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let runtime = workers(2);
    let mut config = Config::default();
    config.chaos.armed = true;
    config.drain.deadline = Duration::from_secs(1);
    let kernel = Kernel::builder().name(SERVICE).seed(1).config(config);
    let kernel = kernel.control(Control::new().dir(&run));
    let kernel = seeds
        .iter()
        .enumerate()
        .fold(kernel, |kernel, (index, (seed, after))| {
            plant(kernel, index, *seed, *after)
        });
    let running = runtime.block_on(async { kernel.build().unwrap().start().await.unwrap() });
    let instance = running.handle().bus().instance();
    let client = Client::new(run.join(format!("{SERVICE}.{instance}.sock")));
    let mut tail = client
        .tail("topic=kernel&since=1h")
        .map_err(|answer| answer.body)
        .unwrap();
    std::thread::scope(|scope| {
        for asks in asks.chunks(asks.len().div_ceil(operators)) {
            scope.spawn(|| ask(&client, asks));
        }
    });
    record_is_whole(&client);
    let reading = std::thread::spawn(move || while tail.next_line().unwrap().is_some() {});
    let report = if drain {
        let report = client.post("/v1/drain", r#"{"wait":true}"#).expect(200);
        let ended = runtime.block_on(running.ended());
        assert_eq!(report, serde_json::to_value(&ended).unwrap());
        ended
    } else {
        runtime.block_on(running.shutdown())
    };
    assert!(report.is_balanced(), "{report:?}");
    until("the tail ends", || reading.is_finished());
    reading.join().unwrap();
    assert!(!client.path().exists());
    runtime.shutdown_background();
}

#[test]
fn random_commands_to_random_trees_never_hang_fail_or_leave_a_hole() {
    let cases = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok());
    let runs = Runs {
        cases: cases.unwrap_or(64),
        failure_persistence: None,
        max_shrink_iters: 60,
        ..Runs::default()
    };
    TestRunner::new(runs)
        .run(
            &(seeds(), asks(), 1..4usize, any::<bool>()),
            |(seeds, asks, operators, drain)| {
                run(seeds, asks, operators, drain);
                Ok(())
            },
        )
        .unwrap();
}
