//! When a process is ready, and what it says of itself.

use crate::rig::{
    alive, alone, fragile, log, node, open_descriptors, program, quarantined, sh, signal, start,
    tireless, until, until_node, until_state, Desk,
};
use ron_kernel::bus::{Start, Subscriber};
use ron_kernel::process::{Probe, Ready};
use ron_kernel::supervisor::{Child, Exit, Timeout};
use ron_kernel::{Change, ChildEvent, KernelHandle, LIFECYCLE_TOPIC};
use rustix::process::Signal;
use std::net::TcpListener;
use std::time::{Duration, Instant};

fn notified(name: &str, steps: &[&str]) -> Child {
    Child::process(name, program(steps).ready(Ready::Notified))
}

fn step(verb: &str, file: &std::path::Path) -> String {
    format!("{verb} {}", file.display())
}

fn lifecycle(handle: &KernelHandle) -> Subscriber<ChildEvent> {
    let topic = handle.bus().topic::<ChildEvent>(LIFECYCLE_TOPIC).unwrap();
    let subscriber = topic.subscriber().start(Start::Retained(4096));
    subscriber.build().unwrap()
}

fn changes(events: &mut Subscriber<ChildEvent>, of: &str) -> Vec<Change> {
    let mut found = Vec::new();
    while let Ok(Some(delivery)) = events.try_recv() {
        if &*delivery.event.child == of {
            found.push(delivery.event.change.clone());
        }
    }
    found
}

#[tokio::test]
async fn the_service_is_ready_when_all_its_processes_have_said_so() {
    let desk = Desk::new();
    let go = step("until", &desk.file("go"));
    let slow = notified("slow", &["say STATUS=warming up", &go, "say READY=1"]);
    let next = Child::process("next", sh("exec sleep 1000")).after("slow");
    let running = start([slow, next]).await;
    let handle = running.handle().clone();
    let warming = |node: &ron_kernel::TreeNode| node.status.as_deref() == Some("warming up");
    until_node(&handle, "slow", "its status", warming).await;
    // The kernel has nothing to say that is better.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let seen = node(&handle, "slow").unwrap();
    assert!(warming(&seen) && seen.state == "starting", "{seen:?}");
    let waiting = node(&handle, "next").unwrap();
    assert_eq!((waiting.state, waiting.pid), ("waiting", None));
    assert!(!handle.health().ready());
    let missing: Vec<String> = handle
        .health()
        .snapshot()
        .missing()
        .map(str::to_owned)
        .collect();
    assert!(
        missing.iter().any(|key| key.contains("slow")),
        "{missing:?}"
    );
    std::fs::write(desk.file("go"), "").unwrap();
    until_state(&handle, "next", "ready").await;
    handle.ready().await;
    until("readiness", || handle.health().ready().then_some(())).await;
    assert_eq!(node(&handle, "slow").unwrap().state, "ready");
    running.shutdown().await;
}

#[tokio::test]
async fn ready_is_heard_once_and_from_any_process_of_the_childs() {
    let table: [(&str, &[&str]); 6] = [
        ("itself", &["say READY=1"]),
        ("often", &["say READY=1", "say READY=1", "say READY=1"]),
        ("among-others", &["say STATUS=x\\nREADY=1\\nX_Y=1"]),
        ("its-child", &["child say READY=1"]),
        ("its-grandchild", &["child child say READY=1"]),
        (
            "after-noise",
            &[
                "bytes READY=1",
                "huge 60000",
                "huge 100000",
                "huge 0",
                "say \\n\\n=\\n==",
                "say READY=1",
            ],
        ),
    ];
    let running = start(table.map(|(name, steps)| notified(name, steps))).await;
    let mut events = lifecycle(running.handle());
    running.handle().ready().await;
    for (name, _) in table {
        let node = until_state(running.handle(), name, "ready").await;
        assert_eq!(node.generation, 1, "{node:?}");
    }
    // Whatever was said once more has been heard by then.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut all = Vec::new();
    while let Ok(Some(delivery)) = events.try_recv() {
        all.push(delivery.event.clone());
    }
    for (name, _) in table {
        let ready = all
            .iter()
            .filter(|event| &*event.child == name && event.change == Change::Ready);
        assert_eq!(ready.count(), 1, "{name}");
    }
    running.shutdown().await;
}

#[tokio::test]
async fn a_speaker_that_ends_at_once_is_heard_all_the_same() {
    let many: Vec<Child> = (0..30)
        .map(|n| notified(&format!("short-{n}"), &["child say READY=1"]))
        .collect();
    let running = start(many).await;
    tokio::time::timeout(crate::rig::PATIENCE, running.handle().ready())
        .await
        .expect("all are heard");
    running.shutdown().await;
}

#[tokio::test]
async fn what_is_almost_ready_is_not() {
    let steps = [
        "say READY=0",
        "say READY=10",
        "say READY=",
        "say READY",
        "say xREADY=1",
        "say ready=1",
        "say STATUS=READY=1",
        "say STATUS=said all",
    ];
    let running = start([notified("almost", &steps)]).await;
    let seen = until_node(running.handle(), "almost", "its last word", |node| {
        node.status.as_deref() == Some("said all")
    })
    .await;
    assert_eq!(seen.state, "starting");
    running.shutdown().await;
}

/// The socket that an incarnation was told of.
async fn socket_of(pid: u32) -> String {
    until("its environment", || {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
        let mut pairs = environ.split(|byte| *byte == 0);
        let name = pairs.find_map(|pair| pair.strip_prefix(b"NOTIFY_SOCKET="))?;
        Some(String::from_utf8(name.to_vec()).unwrap())
    })
    .await
}

#[tokio::test]
async fn each_incarnation_has_a_socket_of_its_own_that_no_other_user_reaches() {
    use std::os::unix::fs::PermissionsExt;
    let running = start([
        tireless(notified("first", &[])),
        tireless(notified("second", &[])),
    ])
    .await;
    let handle = running.handle().clone();
    let pid = |id: &'static str, generation: u64| {
        let handle = handle.clone();
        async move {
            let is =
                |node: &ron_kernel::TreeNode| node.generation == generation && node.pid.is_some();
            until_node(&handle, id, "its pid", is).await.pid.unwrap()
        }
    };
    let old = pid("first", 1).await;
    let socket = socket_of(old).await;
    let other = socket_of(pid("second", 1).await).await;
    assert_ne!(socket, other);
    let dir = std::path::Path::new(&socket).parent().unwrap();
    assert_eq!(
        std::fs::metadata(dir).unwrap().permissions().mode() & 0o077,
        0
    );
    signal(old, Signal::KILL);
    let new = socket_of(pid("first", 2).await).await;
    assert!(std::path::Path::new(&new).exists());
    // What is said to the socket of the one before does not count.
    if new != socket {
        assert!(!std::path::Path::new(&socket).exists());
    }
    running.shutdown().await;
    assert!(!std::path::Path::new(&new).exists());
}

#[test]
fn descriptors_sent_along_are_closed_and_a_barrier_lets_its_sender_go() {
    alone(
        "ready::descriptors_sent_along_are_closed_and_a_barrier_lets_its_sender_go",
        || async {
            let desk = Desk::new();
            let go = step("until", &desk.file("go"));
            let mut steps = vec!["say READY=1", go.as_str()];
            steps.extend(["descriptors 50"; 20]);
            steps.extend(["barrier", "say STATUS=let go"]);
            let running = start([notified("sender", &steps)]).await;
            until_state(running.handle(), "sender", "ready").await;
            let before = open_descriptors();
            std::fs::write(desk.file("go"), "").unwrap();
            until_node(
                running.handle(),
                "sender",
                "let go by the barrier",
                |node| node.status.as_deref() == Some("let go"),
            )
            .await;
            let after = open_descriptors();
            assert!(after <= before + 2, "{before} descriptors became {after}");
            running.shutdown().await;
        },
    );
}

#[tokio::test]
async fn a_status_is_shown_and_goes_with_its_incarnation() {
    let steps = [
        "say READY=1\\nSTATUS=one",
        "ms 50",
        "say STATUS=two \u{fc}\u{1f980}",
    ];
    let child = notified("teller", &steps);
    let running = start([child]).await;
    until_node(running.handle(), "teller", "its second status", |node| {
        node.status.as_deref() == Some("two \u{fc}\u{1f980}")
    })
    .await;
    running.shutdown().await;
}

#[tokio::test]
async fn what_is_not_ready_in_time_is_stopped_and_says_so() {
    let limit = Duration::from_millis(700);
    // A port that refuses, and one that accepts and says nothing.
    let refusing = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_addr = silent.local_addr().unwrap();
    let table = [
        ("notified", Ready::Notified),
        ("refused", Ready::Probed(Probe::tcp(refusing.to_string()))),
        (
            "silent",
            Ready::Probed(Probe::http(silent_addr.to_string(), "/")),
        ),
        ("later", Ready::After(Duration::from_secs(600))),
    ];
    let children = table.clone().map(|(name, ready)| {
        let command = sh("exec sleep 1000").ready(ready);
        fragile(Child::process(name, command).gated(limit)).optional()
    });
    let running = start(children).await;
    let handle = running.handle().clone();
    let mut pids = Vec::new();
    for (name, _) in &table {
        pids.push(until("a pid", || node(&handle, name).and_then(|node| node.pid)).await);
    }
    for ((name, _), pid) in table.into_iter().zip(pids) {
        let words = quarantined(&handle, name).await;
        assert!(words.contains("not ready within 700ms"), "{words}");
        assert_eq!(
            handle.explain(name).unwrap().last_exit,
            Some(Exit::TimedOut(Timeout::Start(limit)))
        );
        assert!(!alive(pid), "{name}");
    }
    let status = node(&handle, "refused").unwrap().status.unwrap();
    assert!(status.contains(&refusing.to_string()), "{status}");
    running.shutdown().await;
}

#[tokio::test]
async fn a_probe_makes_ready_as_soon_as_it_succeeds() {
    // Nobody else gets this port meanwhile: it stays bound until the server listens.
    let held = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        None,
    )
    .unwrap();
    rustix::net::bind(&held, &std::net::SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let addr = rustix::net::getsockname(&held).unwrap();
    let addr = std::net::SocketAddrV4::try_from(addr).unwrap().to_string();
    let command = sh("exec sleep 1000").ready(Ready::Probed(Probe::tcp(&addr)));
    let running = start([Child::process("late", command)]).await;
    let handle = running.handle().clone();
    let seen = until_node(&handle, "late", "a missed probe", |node| {
        node.status.is_some()
    })
    .await;
    assert_eq!(seen.state, "starting");
    rustix::net::listen(&held, 16).unwrap();
    let seen = until_state(&handle, "late", "ready").await;
    assert_eq!((seen.generation, seen.cause), (1, None));
    assert!(seen.status.is_none(), "{:?}", seen.status);
    running.shutdown().await;
}

#[tokio::test]
async fn ready_after_a_delay_needs_it_to_live_as_long() {
    let delay = Duration::from_millis(400);
    let lives = Child::process("lives", sh("exec sleep 1000").ready(Ready::After(delay)));
    let dies = Child::process(
        "dies",
        sh("sleep 0.05; exit 4").ready(Ready::After(Duration::from_secs(5))),
    );
    let leaves = Child::process(
        "leaves",
        sh("exit 0").ready(Ready::After(Duration::from_secs(5))),
    );
    let begun = Instant::now();
    let running = start([lives, fragile(dies).optional(), leaves]).await;
    let handle = running.handle().clone();
    let mut events = lifecycle(&handle);
    until_state(&handle, "lives", "ready").await;
    assert!(begun.elapsed() >= delay);
    let words = quarantined(&handle, "dies").await;
    assert!(words.contains("exited with code 4"), "{words}");
    until_state(&handle, "leaves", "done").await;
    let ready =
        |events: &mut Subscriber<ChildEvent>, of| changes(events, of).contains(&Change::Ready);
    assert!(!ready(&mut events, "dies"));
    running.shutdown().await;
}

#[tokio::test]
async fn what_ends_before_it_was_ready_was_never_ready() {
    let table = [
        (
            "exits",
            sh("exit 3").ready(Ready::Notified),
            "exited with code 3",
        ),
        (
            "killed",
            sh("kill -KILL $$").ready(Ready::Notified),
            "killed by signal 9 (SIGKILL)",
        ),
        (
            "not-executed",
            ron_kernel::process::Command::new("/no/such/program"),
            "/no/such/program",
        ),
    ];
    let children = table
        .clone()
        .map(|(name, command, _)| fragile(Child::process(name, command)).optional());
    let running = start(children).await;
    let mut events = lifecycle(running.handle());
    for (name, _, _) in &table {
        quarantined(running.handle(), name).await;
    }
    let mut all = Vec::new();
    while let Ok(Some(delivery)) = events.try_recv() {
        all.push(delivery.event.clone());
    }
    for (name, _, _) in &table {
        let ready = all
            .iter()
            .any(|event| &*event.child == *name && event.change == Change::Ready);
        assert!(!ready, "{name}");
    }
    running.shutdown().await;
}

#[tokio::test]
async fn a_watchdog_is_told_and_kept() {
    let beats = notified("beats", &["say READY=1", "every 50 WATCHDOG=1"])
        .watchdog(Duration::from_millis(1500));
    let stops =
        notified("stops", &["say READY=1", "say WATCHDOG=1"]).watchdog(Duration::from_millis(400));
    let asks = notified("asks", &["say READY=1", "say WATCHDOG=trigger"])
        .watchdog(Duration::from_secs(500));
    let begun = Instant::now();
    let running = start([beats, fragile(stops).optional(), fragile(asks).optional()]).await;
    let handle = running.handle().clone();
    let pid = until_state(&handle, "beats", "ready").await.pid.unwrap();
    let environ = std::fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
    let told: Vec<&str> = environ
        .split('\0')
        .filter(|pair| pair.starts_with("WATCHDOG_"))
        .collect();
    assert!(told.contains(&"WATCHDOG_USEC=1500000"), "{told:?}");
    let words = quarantined(&handle, "stops").await;
    assert!(words.contains("no heartbeat for 400ms"), "{words}");
    assert_eq!(
        handle.explain("stops").unwrap().last_exit,
        Some(Exit::TimedOut(Timeout::Heartbeat(Duration::from_millis(
            400
        ))))
    );
    let words = quarantined(&handle, "asks").await;
    assert!(words.contains("WATCHDOG=trigger"), "{words}");
    // Longer than its interval.
    tokio::time::sleep(Duration::from_secs(2).saturating_sub(begun.elapsed())).await;
    assert_eq!(node(&handle, "beats").unwrap().generation, 1);
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_notifications_holds_up_nothing_else() {
    let refused = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let probe = Probe::tcp(refused.to_string());
    let flood = ["say READY=1", "flood STATUS=x"];
    let sick = program(&flood)
        .ready(Ready::Notified)
        .health(probe)
        .health_every(Duration::from_millis(50), 3);
    let mut quick = vec!["say READY=1"];
    quick.extend(["print line"; 20]);
    quick.push("flood WATCHDOG=1");
    let writes = program(&quick).ready(Ready::Notified);
    let running = start([
        fragile(Child::process("sick", sick)).optional(),
        Child::process("writes", writes),
    ])
    .await;
    let handle = running.handle().clone();
    let words = quarantined(&handle, "sick").await;
    assert!(words.contains("3 probes in a row failed"), "{words}");
    until("its lines", || {
        let lines = log().texts("writes", "stdout").into_iter();
        (lines.filter(|line| line.ends_with("line")).count() >= 20).then_some(())
    })
    .await;
    let report = running.shutdown().await;
    assert_eq!(report.aborted + report.leaked, 0, "{report:?}");
}
