//! Reloads through a running kernel: what takes effect, what is only listed, what is refused and how that
//! shows, and which child is restarted.

use ron_kernel::bus::{Start, Subscriber};
use ron_kernel::configuration::{Loaded, Loader, Reload, Schema, Settings};
use ron_kernel::metrics::Format;
use ron_kernel::supervisor::Child;
use ron_kernel::{Config, Kernel, KernelEvent, ReloadError, Running, KERNEL_TOPIC};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// A configuration file in a directory of its own.
struct Bed {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl Bed {
    fn new(text: &str) -> Bed {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("service.toml");
        let bed = Bed { _dir: dir, path };
        bed.write(text);
        bed
    }

    /// Writes a file that looks as if written long ago, so that it is read at once.
    fn write(&self, text: &str) {
        std::fs::write(&self.path, text).unwrap();
        let file = std::fs::File::options()
            .write(true)
            .open(&self.path)
            .unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(60))
            .unwrap();
    }

    fn load<T: Settings>(&self) -> Loaded<T> {
        Loader::new("service").file(&self.path).load().unwrap()
    }
}

fn idle(name: &str) -> Child {
    Child::task(name, |cx| async move { cx.stopping().await })
}

async fn start(bed: &Bed, children: impl IntoIterator<Item = Child>) -> Running {
    let kernel = Kernel::builder().seed(1).loaded(&bed.load());
    let kernel = children
        .into_iter()
        .fold(kernel, |kernel, child| kernel.child(child));
    kernel.build().unwrap().start().await.unwrap()
}

fn events(running: &Running) -> Subscriber<KernelEvent> {
    let topic = running
        .handle()
        .bus()
        .topic::<KernelEvent>(KERNEL_TOPIC)
        .unwrap();
    topic
        .subscriber()
        .start(Start::Retained(4096))
        .build()
        .unwrap()
}

fn versions(events: &mut Subscriber<KernelEvent>) -> Vec<u64> {
    let mut found = Vec::new();
    while let Ok(Some(delivery)) = events.try_recv() {
        if let KernelEvent::ConfigUpdated { version } = delivery.event {
            found.push(version);
        }
    }
    found
}

fn metric(running: &Running, name: &str) -> u64 {
    let text = running.handle().metrics().render(Format::Prometheus);
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_live_supervisor_key_applies_to_later_restarts() {
    let bed =
        Bed::new("[supervisor]\nmin_backoff = \"10s\"\nmax_backoff = \"10s\"\nrestart_cap = 100\n");
    let starts: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let noted = starts.clone();
    let sick = Child::task("sick", move |_| {
        noted.lock().unwrap().push(Instant::now());
        async { Err::<(), _>("no disk") }
    });
    let running = start(&bed, [sick]).await;
    tokio::time::sleep(Duration::from_secs(35)).await;
    bed.write("[supervisor]\nmin_backoff = \"1s\"\nmax_backoff = \"1s\"\nrestart_cap = 100\n");
    let report = running.handle().reload().await.unwrap();
    assert_eq!(
        report.applied(),
        ["supervisor.min_backoff", "supervisor.max_backoff"]
    );
    assert_eq!(
        running.handle().config().supervisor.max_backoff,
        Duration::from_secs(1)
    );
    tokio::time::sleep(Duration::from_secs(10)).await;
    let gaps: Vec<u64> = {
        let starts = starts.lock().unwrap();
        starts
            .windows(2)
            .map(|pair| (pair[1] - pair[0]).as_secs())
            .collect()
    };
    assert_eq!(
        gaps[..4],
        [10, 10, 10, 10],
        "a backoff under way is not shortened"
    );
    assert!(
        gaps.len() >= 8 && gaps[4..].iter().all(|gap| *gap == 1),
        "{gaps:?}"
    );

    // The budget too: far fewer restarts than there already were.
    bed.write("[supervisor]\nmin_backoff = \"1s\"\nmax_backoff = \"1s\"\nrestart_cap = 2\n");
    running.handle().reload().await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(running.handle().tree()[0].state, "quarantined");
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_process_key_is_listed_and_keeps_its_old_value() {
    let bed = Bed::new("[bus]\ncapacity = 64\n");
    let running = start(&bed, [idle("a")]).await;
    let mut events = events(&running);
    bed.write("[bus]\ncapacity = 128\n[drain]\nlinger = \"1s\"\n");
    let report = running.handle().reload().await.unwrap();
    assert_eq!(report.applied(), ["drain.linger"]);
    assert_eq!(report.needs_restart(), ["bus.capacity"]);
    assert_eq!(running.handle().config().bus.capacity, 64);
    assert_eq!(versions(&mut events), [report.version()]);
    // Told again as long as it differs.
    let report = running.handle().reload().await.unwrap();
    assert_eq!(report.needs_restart(), ["bus.capacity"]);
    assert_eq!(
        versions(&mut events),
        Vec::<u64>::new(),
        "nothing new is in force"
    );
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_rejected_reload_changes_nothing_and_shows_until_the_next_good_one() {
    for unready in [false, true] {
        let bed = Bed::new("[drain]\nlinger = \"1s\"\n");
        let kernel = Kernel::builder()
            .loaded(&bed.load::<Config>())
            .rejected_reload_unready(unready);
        let running = kernel
            .child(idle("a"))
            .build()
            .unwrap()
            .start()
            .await
            .unwrap();
        let handle = running.handle().clone();
        let mut events = events(&running);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(metric(&running, "config_last_reload_successful"), 1);

        bed.write("[drain]\nlinger = \"2s\"\ndeadline = \"1ms\"\nlingre = 3\n");
        let Err(ReloadError::Rejected(errors)) = handle.reload().await else {
            panic!("accepted")
        };
        assert_eq!(errors.len(), 2, "{errors}");
        assert_eq!(
            handle.config().drain.linger,
            Duration::from_secs(1),
            "whole or not at all"
        );
        assert_eq!(versions(&mut events), Vec::<u64>::new());
        assert_eq!(metric(&running, "config_last_reload_successful"), 0);
        assert_eq!(metric(&running, "config_reload_errors_total"), 1);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let snapshot = handle.health().snapshot();
        assert_eq!(snapshot.ready(), !unready, "{snapshot:?}");
        let cause = snapshot
            .causes()
            .find(|cause| cause.key == "config_reload")
            .unwrap();
        assert!(
            cause.reason.contains("drain.") && cause.reason.contains("service.toml"),
            "{cause:?}"
        );
        assert_eq!(handle.tree()[0].generation, 1);

        bed.write("[drain]\nlinger = \"3s\"\n");
        handle.reload().await.unwrap();
        assert_eq!(handle.config().drain.linger, Duration::from_secs(3));
        assert_eq!(versions(&mut events).len(), 1);
        assert_eq!(metric(&running, "config_last_reload_successful"), 1);
        assert_eq!(metric(&running, "config_reload_total"), 2);
        tokio::time::sleep(Duration::from_secs(6)).await;
        let snapshot = handle.health().snapshot();
        assert!(
            snapshot.ready() && snapshot.causes().count() == 0,
            "{snapshot:?}"
        );
        running.shutdown().await;
    }
}

#[tokio::test(start_paused = true)]
async fn config_updated_is_told_on_success_only_with_rising_versions() {
    let bed = Bed::new("");
    let running = start(&bed, [idle("a")]).await;
    let mut events = events(&running);
    let mut reported = Vec::new();
    for round in 1..=5 {
        bed.write(&format!("[drain]\nlinger = \"{round}ms\"\n"));
        reported.push(running.handle().reload().await.unwrap().version());
        bed.write("[drain]\nlinger = 7\n");
        running.handle().reload().await.unwrap_err();
    }
    let told = versions(&mut events);
    assert_eq!(told, reported);
    assert!(told.windows(2).all(|pair| pair[0] < pair[1]), "{told:?}");
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_reload_during_the_drain_or_after_the_end_does_not_hang() {
    let bed = Bed::new("");
    let stubborn = Child::task("c", |_| std::future::pending::<()>());
    let running = start(&bed, [stubborn]).await;
    let handle = running.handle().clone();
    handle.shutdown();
    tokio::time::sleep(Duration::from_millis(10)).await;
    let _ = tokio::time::timeout(Duration::from_secs(60), handle.reload())
        .await
        .expect("answers");
    handle.ended().await;
    let _ = tokio::time::timeout(Duration::from_secs(60), handle.reload())
        .await
        .expect("answers");
}

#[tokio::test(start_paused = true)]
async fn a_fixed_configuration_says_that_it_is_fixed() {
    let running = Kernel::builder()
        .child(idle("a"))
        .build()
        .unwrap()
        .start()
        .await
        .unwrap();
    assert!(matches!(
        running.handle().reload().await,
        Err(ReloadError::Fixed)
    ));
    running.shutdown().await;
}

/// A host's own settings with the kernel's inside.
#[derive(Clone, Debug, Default, PartialEq)]
struct Host {
    kernel: Config,
    feed_url: String,
    feed_rate: u64,
    greeting: String,
}

impl Settings for Host {
    fn schema(schema: &mut Schema<Self>) {
        schema.include(|host: &mut Host| &mut host.kernel);
        schema
            .key("feed.url", |host: &mut Host| &mut host.feed_url)
            .doc("where the feed is")
            .reload(Reload::Restart("feed"));
        schema
            .key("feed.rate", |host: &mut Host| &mut host.feed_rate)
            .doc("events a second")
            .reload(Reload::Restart("feed"));
        schema
            .key("greeting", |host: &mut Host| &mut host.greeting)
            .doc("what is said")
            .reload(Reload::Live);
    }
}

#[tokio::test(start_paused = true)]
async fn a_changed_restart_key_restarts_exactly_its_child_and_once() {
    let bed = Bed::new("greeting = \"hi\"\n[feed]\nurl = \"a\"\nrate = 1\n");
    let loaded = bed.load::<Host>();
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let (noted, settings) = (seen.clone(), loaded.clone());
    let feed = Child::task("feed", move |cx| {
        noted
            .lock()
            .unwrap()
            .push(settings.snapshot().feed_url.clone());
        async move { cx.stopping().await }
    });
    let kernel = Kernel::builder().loaded_with(&loaded, |host| host.kernel.clone());
    let kernel = kernel
        .child(feed)
        .child(idle("web").after("feed"))
        .child(idle("other"));
    let running = kernel.build().unwrap().start().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;

    bed.write("greeting = \"hi\"\n[feed]\nurl = \"b\"\nrate = 2\n");
    let report = running.handle().reload().await.unwrap();
    assert_eq!(report.restarts(), ["feed"]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let generations = |running: &Running| -> Vec<u64> {
        running
            .handle()
            .tree()
            .iter()
            .map(|node| node.generation)
            .collect()
    };
    assert_eq!(generations(&running), [2, 1, 1]);
    assert_eq!(
        *seen.lock().unwrap(),
        ["a", "b"],
        "the new incarnation sees the new value"
    );

    bed.write("greeting = \"hello\"\n[feed]\nurl = \"b\"\nrate = 2\n[drain]\nlinger = \"1s\"\n");
    running.handle().reload().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        generations(&running),
        [2, 1, 1],
        "a live key restarts nobody"
    );
    assert_eq!(
        running.handle().config().drain.linger,
        Duration::from_secs(1),
        "the kernel's part applies"
    );
    assert_eq!(
        running.handle().tree()[0].restarts,
        0,
        "asked for, no failure"
    );
    running.shutdown().await;
}
