//! Fault injection: only while armed, by request or by configuration, and each fault does what it says.

use ron_kernel::bus::{Start, Subscriber};
use ron_kernel::configuration::Loader;
use ron_kernel::supervisor::{Backoff, Child};
use ron_kernel::{
    Change, ChildEvent, Config, ControlError, Fault, Kernel, Running, LIFECYCLE_TOPIC,
};
use std::time::{Duration, SystemTime};

fn idle(name: &str) -> Child {
    Child::task(name, |cx| async move { cx.stopping().await }).backoff(Backoff::NONE)
}

fn armed() -> Config {
    let mut config = Config::default();
    config.chaos.armed = true;
    config
}

async fn start(config: Config, children: impl IntoIterator<Item = Child>) -> Running {
    let kernel = Kernel::builder().seed(1).config(config);
    let kernel = children
        .into_iter()
        .fold(kernel, |kernel, child| kernel.child(child));
    let running = kernel.build().unwrap().start().await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    running
}

fn changes(running: &Running) -> Subscriber<ChildEvent> {
    let topic = running
        .handle()
        .bus()
        .topic::<ChildEvent>(LIFECYCLE_TOPIC)
        .unwrap();
    topic
        .subscriber()
        .start(Start::Retained(4096))
        .build()
        .unwrap()
}

fn faults(changes: &mut Subscriber<ChildEvent>) -> Vec<(String, String)> {
    let mut found = Vec::new();
    while let Ok(Some(delivery)) = changes.try_recv() {
        if let Change::Fault { fault } = delivery.event.change {
            found.push((delivery.event.child.to_string(), fault));
        }
    }
    found
}

#[tokio::test(start_paused = true)]
async fn nothing_is_injected_unless_armed() {
    let running = start(Config::default(), [idle("c")]).await;
    for fault in [Fault::Panic, Fault::Exit, Fault::Hang, Fault::Block] {
        assert_eq!(
            running.handle().inject("c", fault),
            Err(ControlError::NotArmed)
        );
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(running.handle().tree()[0].generation, 1);
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn panic_and_exit_crash_one_incarnation_and_the_fault_is_told() {
    let running = start(armed(), [idle("c"), idle("other")]).await;
    let mut changes = changes(&running);
    for (generation, fault, kind) in [(2, Fault::Panic, "panicked"), (3, Fault::Exit, "failed")] {
        running.handle().inject("c", fault).unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let node = running.handle().tree()[0].clone();
        assert_eq!((node.generation, node.state), (generation, "ready"));
        assert_eq!(
            running
                .handle()
                .explain("c")
                .unwrap()
                .last_exit
                .unwrap()
                .kind(),
            kind
        );
        assert_eq!(
            faults(&mut changes),
            [("c".to_owned(), fault.name().to_owned())]
        );
    }
    assert_eq!(running.handle().tree()[1].generation, 1);
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_hanging_child_ignores_its_stop_and_is_aborted() {
    let running = start(armed(), [idle("c")]).await;
    running.handle().inject("c", Fault::Hang).unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(
        running.handle().tree()[0].generation,
        1,
        "it hangs; nothing notices by itself"
    );
    let report = running.shutdown().await;
    assert_eq!((report.stopped, report.aborted), (0, 1), "{report:?}");
    assert_eq!(report.stragglers, ["c"]);
}

#[tokio::test(start_paused = true)]
async fn a_hanging_child_that_promised_heartbeats_is_restarted() {
    let child = Child::task("c", |cx| async move {
        while !cx.is_stopping() {
            cx.heartbeat();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let running = start(armed(), [child.watchdog(Duration::from_secs(1))]).await;
    running.handle().inject("c", Fault::Hang).unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let node = running.handle().tree()[0].clone();
    assert_eq!(
        (node.generation, node.restarts, node.state),
        (2, 1, "ready")
    );
    assert_eq!(
        running
            .handle()
            .explain("c")
            .unwrap()
            .last_exit
            .unwrap()
            .kind(),
        "timed_out"
    );
    running.shutdown().await;
}

#[test]
fn a_blocking_child_holds_its_worker_for_two_seconds_and_is_named() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let running = start(armed(), [idle("c")]).await;
        let mut changes = changes(&running);
        running.handle().inject("c", Fault::Block).unwrap();
        let told = tokio::time::timeout(Duration::from_secs(5), async {
            loop {
                if let Change::Unstalled { held } = changes.recv().await.unwrap().event.change {
                    return held;
                }
            }
        });
        let held = told.await.expect("Unstalled is told").as_millis();
        assert!((1_800..3_000).contains(&held), "{held} ms");
        let report = running.shutdown().await;
        assert_eq!(report.stopped, 1, "{report:?}");
    });
}

#[tokio::test(start_paused = true)]
async fn only_running_tasks_can_be_made_to_misbehave() {
    let hour = Duration::from_secs(3600);
    let thread = Child::thread(
        "t",
        |cx| while !cx.wait_stopping(Duration::from_secs(60)) {},
    );
    let running = start(
        armed(),
        [
            idle("gate").gated(hour),
            idle("later").after("gate"),
            thread,
        ],
    )
    .await;
    let handle = running.handle();
    assert!(matches!(
        handle.inject("t", Fault::Panic),
        Err(ControlError::NoTarget { .. })
    ));
    assert!(matches!(
        handle.inject("x", Fault::Panic),
        Err(ControlError::Unknown { .. })
    ));
    assert!(matches!(
        handle.inject("later", Fault::Panic),
        Err(ControlError::NoTarget { .. })
    ));
    assert_eq!(handle.inject("t", Fault::None), Ok(()));
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_fault_in_the_configuration_hits_every_incarnation_until_it_is_taken_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("service.toml");
    // Looks as if written long ago, so that it is read at once.
    let write = |fault: &str| {
        let text = format!("[chaos]\narmed = true\ndefault_child = \"c\"\nfault = \"{fault}\"\n");
        std::fs::write(&path, text).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(60))
            .unwrap();
    };
    for (fault, kind) in [("panic", "panicked"), ("exit", "failed")] {
        write("none");
        let loaded = Loader::<Config>::new("service").file(&path).load().unwrap();
        let second = Duration::from_secs(1);
        let child = idle("c").backoff(Backoff::new(second, second).unwrap());
        let kernel = Kernel::builder()
            .loaded(&loaded)
            .seed(1)
            .child(child)
            .child(idle("other"));
        let running = kernel.build().unwrap().start().await.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(running.handle().tree()[0].generation, 1);
        let mut changes = changes(&running);

        write(fault);
        running.handle().reload().await.unwrap();
        tokio::time::sleep(Duration::from_millis(3_500)).await;
        let tree = running.handle().tree();
        assert!((4..=5).contains(&tree[0].generation), "{tree:?}");
        assert_eq!(
            running
                .handle()
                .explain("c")
                .unwrap()
                .last_exit
                .unwrap()
                .kind(),
            kind
        );
        assert!(faults(&mut changes).len() >= 4, "each incarnation");
        assert_eq!(tree[1].generation, 1);

        write("none");
        running.handle().reload().await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        let node = running.handle().tree()[0].clone();
        assert!(
            (4..=5).contains(&node.generation) && node.state == "ready",
            "{node:?}"
        );
        running.shutdown().await;
    }
}
