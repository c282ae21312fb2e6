//! What commands do, what remains of them in the record, and that they work while nothing else does.

use crate::bed::{idle, quarantined, thread, until, Bed, File, HOUR};
use crate::golden::own_uid;
use ron_kernel::control::Control;
use ron_kernel::supervisor::{Child, Intensity};
use serde_json::{json, Value};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn order(bed: &Bed, command: &str, id: &str) -> Value {
    let body = json!({ "id": id }).to_string();
    bed.client
        .post(&format!("/v1/children/{command}"), &body)
        .expect(202)
}

fn changes(bed: &Bed, query: &str) -> Vec<Value> {
    let changes = bed.client.get(&format!("/v1/changes{query}")).expect(200);
    changes["changes"].as_array().unwrap().clone()
}

#[test]
fn restart_stop_start_and_release_do_as_they_say_and_are_recorded_with_who_asked() {
    let trial = Child::task("cache", |cx| async move {
        if cx.generation() == 1 {
            return Err("no disk");
        }
        cx.stopping().await;
        Ok(())
    });
    let trial = trial.intensity(Intensity::new(0, HOUR).unwrap());
    let bed = Bed::new(|kernel| kernel.child(idle("web")).child(trial).child(thread("disk")));
    bed.until_state("cache", "quarantined");
    let node = |id: &str, state: &str, generation: u64| {
        until(&format!("{id} is {state} {generation}"), || {
            let node = bed.node(id);
            node["state"] == state && node["generation"] == generation
        });
        assert_eq!(bed.node(id)["restarts_in_window"], 0, "outside the budget");
    };
    order(&bed, "restart", "web");
    node("web", "ready", 2);
    order(&bed, "stop", "web");
    node("web", "stopped", 2);
    std::thread::sleep(Duration::from_millis(50));
    node("web", "stopped", 2);
    order(&bed, "stop", "web");
    node("web", "stopped", 2);
    order(&bed, "start", "web");
    node("web", "ready", 3);
    let again = order(&bed, "start", "web");
    assert_eq!(
        (&again["state"], &again["generation"]),
        (&json!("ready"), &json!(3))
    );
    order(&bed, "restart", "disk");
    node("disk", "ready", 2);
    order(&bed, "release", "cache");
    until("a trial", || bed.node("cache")["generation"] == 2);
    node("cache", "ready", 2);

    let by = format!("uid {} pid {}", own_uid(), std::process::id());
    let commands: Vec<_> = changes(&bed, "")
        .into_iter()
        .filter(|change| change["kind"] == "command")
        .map(|change| {
            assert_eq!(change["by"], by);
            let text = |key: &str| change[key].as_str().unwrap().to_owned();
            (text("subject"), text("text"))
        })
        .collect();
    let wanted = [
        ("web", "restart"),
        ("web", "stop"),
        ("web", "stop"),
        ("web", "start"),
        ("web", "start"),
        ("disk", "restart"),
        ("cache", "release"),
    ];
    assert_eq!(
        commands,
        wanted.map(|(id, text)| (id.to_owned(), text.to_owned()))
    );
    let kinds: Vec<_> = changes(&bed, "")
        .iter()
        .map(|c| c["kind"].to_string())
        .collect();
    for kind in ["start", "crash", "quarantine", "stop", "release", "command"] {
        assert!(
            kinds.contains(&format!("\"{kind}\"")),
            "no {kind}: {kinds:?}"
        );
    }
}
#[test]
fn what_is_refused_is_not_recorded_as_if_it_were_done() {
    let bed = Bed::new(|kernel| kernel.child(idle("web")));
    bed.until_ready();
    let before = changes(&bed, "").len();
    for (path, body) in [
        ("/v1/children/restart", r#"{"id":"nothing"}"#),
        ("/v1/children/release", r#"{"id":"web"}"#),
        ("/v1/children/stop", r#"{"id":7}"#),
        ("/v1/chaos", r#"{"fault":"panic","child":"web"}"#),
        ("/v1/config/reload", "{}"),
    ] {
        let answer = bed.client.post(path, body);
        assert!(answer.status >= 400, "{path}: {}", answer.body);
    }
    bed.client
        .post("/v1/drain", r#"{"dry_run":true}"#)
        .expect(200);
    let new = &changes(&bed, "")[before..];
    let told = |change: &Value| change["text"].as_str().unwrap().contains("refused");
    assert!(new.iter().all(told), "{new:#?}");
}
#[test]
fn a_start_while_the_child_still_stops_is_carried_out_or_refused() {
    let slow = Child::task("slow", |cx| async move {
        cx.stopping().await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    });
    let bed = Bed::new(|kernel| kernel.child(slow));
    bed.until_ready();
    order(&bed, "stop", "slow");
    assert_eq!(bed.state("slow"), "stopping");
    let answer = bed.client.post("/v1/children/start", r#"{"id":"slow"}"#);
    if answer.status == 202 {
        until("started again", || bed.node("slow")["generation"] == 2);
    } else {
        assert_eq!(answer.refusal(), (409, "conflict".to_owned()));
    }
}

#[test]
fn a_second_drain_joins_the_first() {
    let slow = Child::task("slow", |cx| async move {
        cx.stopping().await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    });
    let bed = Bed::new(|kernel| kernel.child(slow));
    bed.until_ready();
    let first = bed.client.post("/v1/drain", "{}").expect(202);
    let second = bed.client.post("/v1/drain", "{}").expect(202);
    assert_eq!(first, second);
    let report = bed.client.post("/v1/drain", r#"{"wait":true}"#);
    assert_eq!(report.expect(200)["stopped"], 1);
}

#[test]
fn a_reload_is_recorded_with_who_asked_and_what_became_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = File::new(dir.path(), "[drain]\ndeadline = \"3s\"\n");
    let loaded = file.load();
    let bed = Bed::within(dir, Control::new(), |kernel| {
        kernel.loaded(&loaded).child(idle("web"))
    });
    bed.until_ready();
    file.write("[drain]\ndeadline = \"2s\"\n");
    bed.client.post("/v1/config/reload", "{}").expect(200);
    file.write("[drain]\ndeadline = 2\n");
    bed.client.post("/v1/config/reload", "{}").expect(422);
    let by = format!("uid {} pid {}", own_uid(), std::process::id());
    for (kind, word) in [("config", "drain.deadline"), ("rejected", "drain.deadline")] {
        let changes = changes(&bed, "");
        let change = changes.iter().find(|change| change["kind"] == kind);
        let change = change.unwrap_or_else(|| panic!("no {kind}: {changes:#?}"));
        assert!(
            change["text"].as_str().unwrap().contains(word),
            "{change:#}"
        );
        assert_eq!(change["by"], by, "{change:#}");
    }
}

/// What an operator names is read with the same care as what was named at the start.
#[test]
fn a_check_of_what_is_no_file_is_rejected_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = File::new(dir.path(), "[drain]\ndeadline = \"3s\"\n");
    let loaded = file.load();
    let bed = Bed::within(dir, Control::new(), |kernel| kernel.loaded(&loaded));
    let named = [
        bed.dir().to_str().unwrap(),
        "/dev/zero",
        "/proc/self/mem",
        "no/such/file",
        "",
    ];
    for name in named {
        let begun = Instant::now();
        let body = json!({ "file": name }).to_string();
        let answer = bed.client.post("/v1/config/check", &body);
        let refused = matches!(answer.status, 400 | 422);
        assert!(refused, "{name}: {answer:?}");
        assert!(begun.elapsed() < Duration::from_secs(2), "{name}");
    }
    assert_eq!(bed.client.get("/v1/about").status, 200);
}
#[test]
fn a_check_of_a_pipe_is_rejected_and_holds_up_no_reload() {
    let dir = tempfile::tempdir().unwrap();
    let file = File::new(dir.path(), "[drain]\ndeadline = \"3s\"\n");
    let loaded = file.load();
    let fifo = dir.path().join("fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(made.unwrap().success());
    let bed = Bed::within(dir, Control::new(), |kernel| kernel.loaded(&loaded));
    let (check, reload) = std::thread::scope(|scope| {
        let body = json!({ "file": &fifo }).to_string();
        let client = &bed.client;
        let check = scope.spawn(move || client.post("/v1/config/check", &body));
        std::thread::sleep(Duration::from_millis(200));
        let reload = scope.spawn(|| client.post("/v1/config/reload", "{}"));
        assert_eq!(client.get("/v1/about").status, 200);
        std::thread::sleep(Duration::from_millis(1_000));
        let answered = (check.is_finished(), reload.is_finished());
        // Lets go of whoever waits for a writer.
        let open = std::fs::File::options().read(true).write(true).open(&fifo);
        drop(open.unwrap());
        let (check, reload) = (check.join().unwrap(), reload.join().unwrap());
        assert_eq!(reload.status, 200, "{reload:?}");
        assert!(matches!(check.status, 400 | 422), "{check:?}");
        answered
    });
    assert!(reload, "the reload was held up");
    assert!(check, "the check waited for a writer");
}

#[test]
fn the_record_goes_back_as_far_as_it_is_asked_to() {
    let bed = Bed::new(|kernel| kernel.child(idle("web")));
    bed.until_ready();
    order(&bed, "restart", "web");
    std::thread::sleep(Duration::from_millis(1_100));
    order(&bed, "stop", "web");
    bed.until_state("web", "stopped");
    let all = changes(&bed, "?since=1h");
    let span = changes(&bed, "?since=1s");
    let commands = |changes: &[Value]| -> Vec<Value> {
        let commands = changes.iter().filter(|change| change["kind"] == "command");
        commands.map(|change| change["text"].clone()).collect()
    };
    assert_eq!(commands(&all), ["restart", "stop"]);
    assert_eq!(commands(&span), ["stop"]);
    let seqs: Vec<_> = all
        .iter()
        .map(|change| change["seq"].as_u64().unwrap())
        .collect();
    let gapless: Vec<_> = (seqs[0]..seqs[0] + seqs.len() as u64).collect();
    assert_eq!(seqs, gapless, "oldest first");
    let answer = bed.client.get("/v1/changes?since=1h").json();
    assert_eq!(
        (&answer["complete"], &answer["dropped"]),
        (&json!(true), &json!(0))
    );
}

#[test]
fn a_record_that_is_full_says_what_it_no_longer_holds() {
    let bed = Bed::new(|kernel| kernel.child(idle("web")));
    bed.until_ready();
    let mut sent = 0;
    let dropped = loop {
        for _ in 0..200 {
            bed.client
                .post("/v1/children/stop", r#"{"id":"web"}"#)
                .expect(202);
        }
        sent += 200;
        let answer = bed.client.get("/v1/changes?since=1h").expect(200);
        if answer["dropped"] != 0 {
            assert_eq!(answer["complete"], false);
            let changes = answer["changes"].as_array().unwrap();
            let last = changes[changes.len() - 1]["seq"].as_u64().unwrap();
            assert_eq!(
                last,
                answer["dropped"].as_u64().unwrap() + changes.len() as u64
            );
            assert_eq!(answer["record_from"], changes[0]["ts"]);
            break answer["dropped"].as_u64().unwrap();
        }
        assert!(sent < 20_000, "the record is bounded");
    };
    assert!(dropped < sent);
    let recent = bed.client.get("/v1/changes?since=1ms").expect(200);
    assert_eq!(recent["complete"], true, "it does reach back that far");
}

#[test]
fn a_drain_that_is_waited_for_gives_the_balanced_report_to_everyone_who_waits() {
    let slow = Child::task("slow", |cx| async move {
        cx.stopping().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    });
    let bed = Bed::new(|kernel| {
        kernel
            .child(slow)
            .child(idle("web"))
            .child(quarantined("cache"))
    });
    bed.until_state("cache", "quarantined");
    let reports: Vec<Value> = std::thread::scope(|scope| {
        let wait = || bed.client.post("/v1/drain", r#"{"wait":true}"#).expect(200);
        let waiting: Vec<_> = (0..3).map(|_| scope.spawn(wait)).collect();
        waiting
            .into_iter()
            .map(|wait| wait.join().unwrap())
            .collect()
    });
    for report in &reports {
        let count = |key: &str| report[key].as_u64().unwrap();
        let ended = count("stopped") + count("aborted") + count("leaked") + count("quarantined");
        assert_eq!(count("started"), ended, "{report}");
        assert_eq!((count("started"), count("quarantined")), (3, 1), "{report}");
        assert_eq!(report, &reports[0]);
    }
    until("the socket is gone", || !bed.client.path().exists());
    let report = bed.end();
    assert_eq!(serde_json::to_value(&report).unwrap(), reports[0]);
}

#[test]
fn a_dropped_wait_does_not_call_the_drain_off() {
    use std::io::Write;
    let slow = Child::task("slow", |cx| async move {
        cx.stopping().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    });
    let bed = Bed::new(|kernel| kernel.child(slow));
    bed.until_ready();
    let body = r#"{"wait":true}"#;
    let mut stream = bed.client.connect().unwrap();
    let head = format!(
        "POST /v1/drain HTTP/1.1\r\nHost: s\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream
        .write_all(format!("{head}{body}").as_bytes())
        .unwrap();
    bed.until_state("slow", "stopping");
    drop(stream);
    until("the socket is gone", || !bed.client.path().exists());
}

/// Asks everything there is to ask, and for something to be done; each within half a second.
fn everything_is_answered(bed: &Bed) {
    for path in [
        "/v1/about",
        "/v1/tree",
        "/v1/ready",
        "/v1/explain",
        "/v1/explain?id=web",
        "/v1/explain?of=ready",
        "/v1/changes",
        "/v1/bus",
        "/v1/top",
        "/v1/chaos",
    ] {
        let begun = Instant::now();
        bed.client.get(path).expect(200);
        assert!(begun.elapsed() < Duration::from_millis(500), "{path}");
    }
    let begun = Instant::now();
    bed.client
        .tail("topic=kernel")
        .map_err(|answer| answer.body)
        .unwrap();
    order(bed, "restart", "web");
    bed.client
        .post("/v1/drain", r#"{"dry_run":true}"#)
        .expect(200);
    assert!(begun.elapsed() < Duration::from_millis(500));
}

fn blocking(name: &str, trigger: &Arc<AtomicBool>, held: &Arc<AtomicBool>) -> Child {
    let (trigger, held) = (trigger.clone(), held.clone());
    Child::task(name, move |cx| {
        let (trigger, held) = (trigger.clone(), held.clone());
        async move {
            while !cx.is_stopping() {
                if trigger.load(Ordering::SeqCst) {
                    while held.load(Ordering::SeqCst) {
                        std::thread::sleep(Duration::from_millis(10));
                    }
                    break;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            cx.stopping().await;
        }
    })
}

#[test]
fn it_answers_while_every_worker_is_blocked_and_names_who_holds_them() {
    let (trigger, held) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(true)),
    );
    let bed = Bed::new(|kernel| {
        kernel
            .child(blocking("left", &trigger, &held))
            .child(blocking("right", &trigger, &held))
            .child(idle("web"))
    });
    bed.until_ready();
    trigger.store(true, Ordering::SeqCst);
    let stalled = |id: &str| {
        let cause = bed.node(id)["cause"].to_string();
        cause.contains("holds its worker thread")
    };
    until("both hold their workers", || {
        stalled("left") && stalled("right")
    });
    everything_is_answered(&bed);
    let diagnosis = bed.client.get("/v1/explain").expect(200);
    let findings = diagnosis["findings"].to_string();
    for id in ["child:left", "child:right"] {
        assert!(findings.contains(id), "{findings}");
    }
    let generation = bed.node("web")["generation"].clone();
    held.store(false, Ordering::SeqCst);
    until("the restart is carried out", || {
        bed.node("web")["generation"] == 2
    });
    assert_eq!(generation, 1, "not before a worker was free");
    until("the stall is over", || {
        !stalled("left") && !stalled("right")
    });
}

#[test]
fn a_drain_is_accepted_while_every_worker_is_blocked() {
    let (trigger, held) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(true)),
    );
    let bed = Bed::new(|kernel| {
        kernel
            .child(blocking("left", &trigger, &held))
            .child(blocking("right", &trigger, &held))
    });
    bed.until_ready();
    trigger.store(true, Ordering::SeqCst);
    let stalled = |id: &str| !bed.node(id)["cause"].is_null();
    until("both hold their workers", || {
        stalled("left") && stalled("right")
    });
    let begun = Instant::now();
    bed.client.post("/v1/drain", "{}").expect(202);
    assert!(begun.elapsed() < Duration::from_millis(500));
    held.store(false, Ordering::SeqCst);
    until("the socket is gone", || !bed.client.path().exists());
}

#[test]
fn a_child_that_was_stopped_is_named_with_who_stopped_it() {
    let bed = Bed::new(|kernel| kernel.child(idle("db")).child(idle("web").after("db")));
    bed.until_ready();
    order(&bed, "stop", "db");
    bed.until_state("db", "stopped");
    let diagnosis = bed.client.get("/v1/explain").expect(200);
    let finding = &diagnosis["findings"][0];
    assert_eq!(finding["subject"], "child:db", "{diagnosis:#}");
    let by = format!("uid {} pid {}", own_uid(), std::process::id());
    assert!(finding.to_string().contains(&by), "{finding:#}");
    assert!(
        finding["try"].to_string().contains("ronctl start db"),
        "{finding:#}"
    );
}

#[test]
fn a_tree_of_two_thousand_is_told_whole() {
    let bed = Bed::new(|kernel| {
        (0..2_000).fold(kernel, |kernel, index| {
            kernel.child(idle(&format!("child-{index}")))
        })
    });
    bed.until_ready();
    let begun = Instant::now();
    let tree = bed.client.get("/v1/tree").expect(200);
    assert_eq!(tree["children"].as_array().unwrap().len(), 2_000);
    bed.client.get("/v1/explain").expect(200);
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn a_reload_is_carried_out_whole_for_a_client_that_does_not_wait_for_it() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let file = File::new(dir.path(), "[chaos]\narmed = false\n");
    let loaded = file.load();
    let bed = Bed::within(dir, Control::new(), |kernel| kernel.loaded(&loaded));
    bed.until_ready();
    // A file just written is watched for a moment before it is read: time enough to go away.
    std::fs::write(loaded.files()[0].clone(), "[chaos]\narmed = true\n").unwrap();
    let mut stream = bed.client.connect().unwrap();
    let head = "POST /v1/config/reload HTTP/1.1\r\nHost: svc\r\nContent-Length: 2\r\n\r\n{}";
    stream.write_all(head.as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(10));
    drop(stream);
    until("armed", || {
        bed.client.get("/v1/chaos").json()["armed"] == true
    });
    until("recorded", || {
        changes(&bed, "")
            .iter()
            .any(|change| change["kind"] == "config")
    });
}

#[test]
fn an_unknown_id_of_any_length_is_answered_at_once() {
    let bed = Bed::new(|kernel| {
        (0..2_000).fold(kernel, |kernel, n| {
            kernel.child(idle(&format!("child-{n}")))
        })
    });
    bed.until_ready();
    let began = std::time::Instant::now();
    let long = "x".repeat(60_000);
    let answer = bed
        .client
        .post("/v1/children/stop", &format!(r#"{{"id":"{long}"}}"#));
    assert_eq!(answer.refusal(), (404, "unknown_child".to_owned()));
    let near = bed.client.post("/v1/children/stop", r#"{"id":"chidl-7"}"#);
    assert_eq!(near.json()["error"]["details"]["suggestion"], "child-7");
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
}

/// Hangs on the line that tells of an operator's command.
struct HangingLog;

impl tracing::Subscriber for HangingLog {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target().starts_with("ron_kernel::control")
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        if event.metadata().fields().field("by").is_some() {
            loop {
                std::thread::park();
            }
        }
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn questions_are_answered_and_the_program_ends_while_the_log_hangs() {
    const TEST: &str = "commands::questions_are_answered_and_the_program_ends_while_the_log_hangs";
    if crate::processes::role().is_none() {
        crate::processes::passed(&crate::processes::again(TEST, "hangs", |_| ()));
        return;
    }
    tracing::subscriber::set_global_default(HangingLog).unwrap();
    let runtime = crate::bed::workers(2);
    let dir = tempfile::tempdir().unwrap();
    let kernel = ron_kernel::Kernel::builder()
        .control(Control::new().dir(dir.path().join("run")))
        .child(idle("web"));
    let running = runtime.block_on(async { kernel.build().unwrap().start().await.unwrap() });
    let instance = running.handle().bus().instance().to_owned();
    let socket = dir.path().join(format!("run/ron-kernel.{instance}.sock"));
    let client = crate::client::Client::new(socket);
    for _ in 0..3 {
        let mut stream = client.connect().unwrap();
        let head = "POST /v1/children/restart HTTP/1.1\r\nHost: svc\r\nContent-Length: 12\r\n\r\n{\"id\":\"web\"}";
        std::io::Write::write_all(&mut stream, head.as_bytes()).unwrap();
        std::mem::forget(stream);
    }
    std::thread::sleep(Duration::from_millis(200));
    let began = std::time::Instant::now();
    assert_eq!(client.get("/v1/about").status, 200);
    assert_eq!(client.get("/v1/explain").status, 200);
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    runtime.block_on(running.shutdown());
    drop(runtime);
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
}
