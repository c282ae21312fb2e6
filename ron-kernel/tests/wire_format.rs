//! The JSON that tools depend on, field by field and in order: tree nodes, explanations, lifecycle events,
//! the report of a shutdown. A change here is a breaking change.

use ron_kernel::supervisor::{Backoff, Child, Exhausted, Group, Intensity};
use ron_kernel::{Change, ChildEvent, Explanation, Kernel, Running, ShutdownReport};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Replaces wall times by `TIME`, having checked that they are RFC 3339 in UTC with milliseconds.
fn masked(json: &str) -> String {
    let mut out = String::new();
    for (index, piece) in json.split('"').enumerate() {
        if index > 0 {
            out.push('"');
        }
        let is_time = piece.len() == 24
            && piece
                .bytes()
                .zip(*b"0000-00-00T00:00:00.000Z")
                .all(|(got, shape)| match shape {
                    b'0' => got.is_ascii_digit(),
                    _ => got == shape,
                });
        out.push_str(if is_time { "TIME" } else { piece });
    }
    out
}

async fn start(kernel: ron_kernel::KernelBuilder) -> Running {
    let running = kernel.seed(1).build().unwrap().start().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    running
}

fn idle(name: &str) -> Child {
    Child::task(name, |cx| async move { cx.stopping().await })
}

fn sick(name: &str) -> Child {
    Child::task(name, |_| async { Err::<(), _>("no disk") })
}

fn tree(running: &Running) -> Vec<String> {
    let tree = running.handle().tree();
    tree.iter()
        .map(|node| masked(&serde_json::to_string(node).unwrap()))
        .collect()
}

fn explained(running: &Running, id: &str) -> String {
    let explanation: Explanation = running.handle().explain(id).unwrap();
    masked(&serde_json::to_string(&explanation).unwrap())
}

#[tokio::test(start_paused = true)]
async fn tree_nodes() {
    let hour = Duration::from_secs(3600);
    let busy = Child::task("replay", |cx| async move {
        cx.status("replay 30 %");
        cx.stopping().await;
    });
    let thread = Child::thread(
        "disk",
        |cx| while !cx.wait_stopping(Duration::from_secs(60)) {},
    );
    let running = start(
        Kernel::builder()
            .group(Group::new("g").child(busy).group(Group::new("empty")))
            .child(thread)
            .child(sick("feed").backoff(Backoff::new(hour, hour).unwrap()))
            .child(idle("starting").gated(hour))
            .child(idle("waiting").after("starting")),
    )
    .await;
    // The thread starts in real time.
    while running.handle().tree()[1].state != "ready" {
        tokio::time::sleep(Duration::from_millis(1)).await;
        std::thread::yield_now();
    }
    let json = tree(&running);
    assert_eq!(
        json,
        [
            concat!(
                r#"{"id":"g","kind":"group","state":"ready","generation":1,"since":"TIME","restarts":0,"#,
                r#""restarts_in_window":0,"retry_at":null,"status":null,"cause":null,"pid":null,"children":["#,
                r#"{"id":"g/replay","kind":"task","state":"ready","generation":1,"since":"TIME","restarts":0,"#,
                r#""restarts_in_window":0,"retry_at":null,"status":"replay 30 %","cause":null,"pid":null,"children":[]},"#,
                r#"{"id":"g/empty","kind":"group","state":"ready","generation":1,"since":"TIME","restarts":0,"#,
                r#""restarts_in_window":0,"retry_at":null,"status":null,"cause":null,"pid":null,"children":[]}]}"#,
            ),
            concat!(
                r#"{"id":"disk","kind":"thread","state":"ready","generation":1,"since":"TIME","restarts":0,"#,
                r#""restarts_in_window":0,"retry_at":null,"status":null,"cause":null,"pid":null,"children":[]}"#,
            ),
            concat!(
                r#"{"id":"feed","kind":"task","state":"backoff","generation":1,"since":"TIME","restarts":0,"#,
                r#""restarts_in_window":0,"retry_at":"TIME","status":null,"cause":"no disk","pid":null,"children":[]}"#,
            ),
            concat!(
                r#"{"id":"starting","kind":"task","state":"starting","generation":1,"since":"TIME","restarts":0,"#,
                r#""restarts_in_window":0,"retry_at":null,"status":null,"cause":null,"pid":null,"children":[]}"#,
            ),
            concat!(
                r#"{"id":"waiting","kind":"task","state":"waiting","generation":0,"since":"TIME","restarts":0,"#,
                r#""restarts_in_window":0,"retry_at":null,"status":null,"cause":null,"pid":null,"children":[]}"#,
            ),
        ]
    );
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn explanations() {
    let hour = Duration::from_secs(3600);
    let panics = Child::task("feed", |cx| async move {
        if !cx.is_stopping() {
            panic!("no disk");
        }
    });
    let running = start(
        Kernel::builder()
            .child(panics.backoff(Backoff::new(hour, hour).unwrap()))
            .child(idle("web").after("feed"))
            .child(idle("well")),
    )
    .await;
    assert_eq!(
        explained(&running, "well"),
        concat!(
            r#"{"id":"well","state":"ready","because":[],"next":"nothing","retry_at":null,"#,
            r#""attempts_left":5,"last_exit":null}"#,
        )
    );
    assert_eq!(
        explained(&running, "feed"),
        concat!(
            r#"{"id":"feed","state":"backoff","because":[{"what":"feed: panicked: no disk","since":"TIME","#,
            r#""evidence":"tree: feed generation 1"}],"next":"restarts after its backoff","retry_at":"TIME","#,
            r#""attempts_left":5,"last_exit":{"kind":"panicked","text":"no disk","location":null}}"#,
        )
    );
    assert_eq!(
        explained(&running, "web"),
        concat!(
            r#"{"id":"web","state":"waiting","because":["#,
            r#"{"what":"web waits for feed, which is backoff","since":"TIME","evidence":"tree: web generation 0"},"#,
            r#"{"what":"feed: panicked: no disk","since":"TIME","evidence":"tree: feed generation 1"}],"#,
            r#""next":"starts when feed is ready","retry_at":null,"attempts_left":5,"last_exit":null}"#,
        )
    );
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn the_words_for_every_state_a_task_can_be_seen_in() {
    let never = Intensity::new(0, Duration::from_secs(1)).unwrap();
    let slow = Child::task("stopping", |cx| async move {
        cx.stopping().await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    });
    let running = start(
        Kernel::builder()
            .child(
                sick("quarantined")
                    .intensity(never)
                    .on_exhausted(Exhausted::Hold),
            )
            .child(slow)
            .child(idle("stopped"))
            .child(Child::task("done", |_| async {})),
    )
    .await;
    let handle = running.handle().clone();
    handle.stop("stopped").await.unwrap();
    let stop = tokio::spawn(async move { handle.stop("stopping").await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    for node in running.handle().tree() {
        assert_eq!(node.id, node.state);
    }
    stop.await.unwrap().unwrap();
    running.shutdown().await;
}

#[test]
fn lifecycle_events() {
    let second = Duration::from_secs(1);
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_500);
    let text = || "no disk".to_owned();
    let table = [
        (
            Change::Started { restart: true },
            r#""Started",*,"restart":true"#,
        ),
        (Change::Ready, r#""Ready",*"#),
        (
            Change::Failed { reason: text() },
            r#""Failed",*,"reason":"no disk""#,
        ),
        (
            Change::Backoff {
                attempt: 2,
                delay: second,
                until: at,
            },
            r#""Backoff",*,"attempt":2,"delay_ms":1000,"until":"1970-01-01T00:00:01.500Z""#,
        ),
        (
            Change::Quarantined {
                reason: text(),
                until: Some(at),
            },
            r#""Quarantined",*,"reason":"no disk","until":"1970-01-01T00:00:01.500Z""#,
        ),
        (
            Change::Quarantined {
                reason: text(),
                until: None,
            },
            r#""Quarantined",*,"reason":"no disk","until":null"#,
        ),
        (
            Change::Released { by_timer: true },
            r#""Released",*,"by_timer":true"#,
        ),
        (Change::Stopping, r#""Stopping",*"#),
        (Change::Aborted, r#""Aborted",*"#),
        (Change::Stuck, r#""Stuck",*"#),
        (Change::Leaked, r#""Leaked",*"#),
        (Change::Recovered, r#""Recovered",*"#),
        (
            Change::Stopped {
                exit: "returned Ok".to_owned(),
            },
            r#""Stopped",*,"exit":"returned Ok""#,
        ),
        (Change::Done, r#""Done",*"#),
        (
            Change::Stalled { held: second },
            r#""Stalled",*,"held_ms":1000"#,
        ),
        (
            Change::Unstalled { held: 2 * second },
            r#""Unstalled",*,"held_ms":2000"#,
        ),
        (
            Change::Escalated { reason: text() },
            r#""Escalated",*,"reason":"no disk""#,
        ),
        (
            Change::Fault {
                fault: "panic".to_owned(),
            },
            r#""Fault",*,"fault":"panic""#,
        ),
    ];
    for (change, wanted) in table {
        let name = change.name();
        let event = ChildEvent {
            child: Arc::from("g/feed"),
            generation: 3,
            change,
        };
        let wanted = wanted.replacen('*', r#""child":"g/feed","generation":3"#, 1);
        let json = serde_json::to_string(&event).unwrap();
        assert_eq!(json, format!(r#"{{"type":{wanted}}}"#));
        assert!(json.starts_with(&format!(r#"{{"type":"{name}""#)));
    }
}

#[tokio::test(start_paused = true)]
async fn the_report_of_a_shutdown() {
    let stubborn = Child::task("slow", |_| std::future::pending::<()>());
    let running = start(Kernel::builder().child(idle("well")).child(stubborn)).await;
    let report: ShutdownReport = running.shutdown().await;
    assert_eq!(
        serde_json::to_string(&report).unwrap(),
        concat!(
            r#"{"started":2,"stopped":1,"aborted":1,"leaked":0,"quarantined":0,"took_ms":2000,"#,
            r#""stragglers":["slow"]}"#,
        )
    );
}

#[tokio::test(start_paused = true)]
async fn tailed_lines_carry_topic_sequence_instance_time_and_the_event() {
    let kernel = Kernel::builder().child(sick("feed"));
    let running = kernel.seed(1).build().unwrap().start().await.unwrap();
    let mut tail = running.handle().bus().tail("kernel").unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    let crash = loop {
        let line = tail.try_next().expect("a crash is told").into_string();
        if line.contains("ServiceCrashed") {
            break masked(&line);
        }
    };
    let instance = running.handle().bus().instance().to_owned();
    let value: serde_json::Value = serde_json::from_str(&crash).unwrap();
    let wanted =
        serde_json::json!({"type": "ServiceCrashed", "service": "feed", "reason": "no disk"});
    assert_eq!(value["event"], wanted);
    assert_eq!(value["topic"], "kernel");
    assert_eq!(value["instance"], instance);
    assert_eq!(value["ts"], "TIME");
    assert!(value["seq"].as_u64().unwrap() >= 1 && value["epoch"].is_u64());
    running.shutdown().await;
}
