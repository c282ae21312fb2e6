//! The orderly shutdown: what is told first, who stops when, who is named, and that it always ends.

use ron_kernel::bus::{RecvError, Start, Subscriber};
use ron_kernel::metrics::State;
use ron_kernel::supervisor::{Backoff, Child, Exhausted, Group, Intensity, Restart};
use ron_kernel::{
    Change, ChildEvent, Config, Kernel, KernelEvent, Running, KERNEL_TOPIC, LIFECYCLE_TOPIC,
};
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::time::Instant;

/// Runs a test on one thread with paused time, and on two workers with real time.
fn on_both_flavours<F: Future>(test: impl Fn() -> F) {
    Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(test());
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(test());
}

fn idle(name: &str) -> Child {
    Child::task(name, |cx| async move { cx.stopping().await })
}

/// Ignores its stop token.
fn stubborn(name: &str) -> Child {
    Child::task(name, |_| std::future::pending::<()>()).stop_timeout(Duration::from_secs(60))
}

async fn start(config: Config, children: impl IntoIterator<Item = Child>) -> Running {
    let kernel = Kernel::builder().seed(1).config(config);
    let kernel = children
        .into_iter()
        .fold(kernel, |kernel, child| kernel.child(child));
    let running = kernel.build().unwrap().start().await.unwrap();
    running.handle().ready().await;
    running
}

fn draining(deadline: Duration, linger: Duration) -> Config {
    let mut config = Config::default();
    config.drain.deadline = deadline;
    config.drain.linger = linger;
    config
}

fn events(running: &Running) -> Subscriber<KernelEvent> {
    running
        .handle()
        .bus()
        .topic::<KernelEvent>(KERNEL_TOPIC)
        .unwrap()
        .subscribe()
        .unwrap()
}

fn changes(running: &Running) -> Subscriber<ChildEvent> {
    running
        .handle()
        .bus()
        .topic::<ChildEvent>(LIFECYCLE_TOPIC)
        .unwrap()
        .subscribe()
        .unwrap()
}

async fn read_to_the_end(events: &mut Subscriber<KernelEvent>) -> Vec<KernelEvent> {
    let mut read = Vec::new();
    loop {
        match events.recv().await {
            Ok(delivery) => read.push(delivery.event),
            Err(RecvError::Closed) => return read,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn every_subscriber_is_told_of_the_shutdown_once_and_nothing_is_published_after_it() {
    on_both_flavours(|| async {
        // Fails while it stops, which must not be told after Shutdown.
        let sore = Child::task("sore", |cx| async move {
            cx.stopping().await;
            Err::<(), _>("on the way out")
        });
        let running = start(Config::default(), [sore, idle("well")]).await;
        let topic = running
            .handle()
            .bus()
            .topic::<KernelEvent>(KERNEL_TOPIC)
            .unwrap();
        let mut early = events(&running);
        let mut filtered = topic.subscriber().filter(|_| false).build().unwrap();
        let mut retained = topic
            .subscriber()
            .start(Start::Retained(4096))
            .build()
            .unwrap();
        let mut watching = events(&running);
        running.handle().shutdown();
        while watching.recv().await.unwrap().event != KernelEvent::Shutdown {}
        let published = topic.stats().published();
        let report = running.shutdown().await;
        assert!(report.is_balanced());
        assert_eq!(
            topic.stats().published(),
            published,
            "published after Shutdown"
        );
        for subscriber in [&mut early, &mut retained] {
            let read = read_to_the_end(subscriber).await;
            assert_eq!(
                read.iter()
                    .filter(|event| **event == KernelEvent::Shutdown)
                    .count(),
                1,
                "{read:?}"
            );
            let crash = |event: &KernelEvent| matches!(event, KernelEvent::ServiceCrashed { .. });
            assert!(!read.iter().any(crash), "{read:?}");
        }
        assert_eq!(
            read_to_the_end(&mut filtered).await,
            [KernelEvent::Shutdown],
            "cannot be filtered out"
        );
        assert!(
            topic.publish(KernelEvent::Shutdown).is_err(),
            "nor can anybody publish after it"
        );
    });
}

#[test]
fn readiness_has_flipped_when_the_event_arrives_and_no_child_has_been_told_yet() {
    on_both_flavours(|| async {
        let told = Arc::new(AtomicBool::new(false));
        let set = told.clone();
        let child = Child::task("c", move |cx| {
            let told = set.clone();
            async move {
                cx.stopping().await;
                told.store(true, Ordering::SeqCst);
            }
        });
        let linger = Duration::from_millis(300);
        let running = start(draining(Duration::from_secs(5), linger), [child]).await;
        while !running.handle().health().ready() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut events = events(&running);
        running.handle().shutdown();
        let begun = Instant::now();
        while events.recv().await.unwrap().event != KernelEvent::Shutdown {}
        assert_eq!(
            running.handle().health().snapshot().state(),
            State::Draining
        );
        assert_eq!(running.handle().health().response().status, 503);
        assert!(!told.load(Ordering::SeqCst), "it lingers first");
        while !told.load(Ordering::SeqCst) {
            assert!(begun.elapsed() < Duration::from_secs(3));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(begun.elapsed() >= linger, "{:?}", begun.elapsed());
        let report = running.shutdown().await;
        assert!(report.took >= linger, "{report:?}");
        assert_eq!(report.stopped, 1);
    });
}

#[tokio::test(start_paused = true)]
async fn a_crash_while_it_lingers_is_not_told_after_shutdown() {
    let child = Child::task("c", |_| async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        Err::<(), _>("while lingering")
    });
    let running = start(
        draining(Duration::from_secs(5), Duration::from_secs(10)),
        [child],
    )
    .await;
    let mut events = events(&running);
    let report = running.shutdown().await;
    assert!(report.is_balanced() && report.started == 1, "{report:?}");
    let read = read_to_the_end(&mut events).await;
    assert!(read.contains(&KernelEvent::Shutdown));
    assert!(
        !read
            .iter()
            .any(|event| matches!(event, KernelEvent::ServiceCrashed { .. })),
        "{read:?}"
    );
}

#[test]
fn lifecycle_events_go_on_until_the_last_child_has_stopped() {
    on_both_flavours(|| async {
        let slow = Child::task("slow", |cx| async move {
            cx.stopping().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        });
        let running = start(Config::default(), [slow, idle("web").after("slow")]).await;
        let mut changes = changes(&running);
        running.shutdown().await;
        let mut read = Vec::new();
        loop {
            match changes.recv().await {
                Ok(delivery) => read.push((
                    delivery.event.child.to_string(),
                    delivery.event.change.name(),
                )),
                Err(error) => break assert_eq!(error, RecvError::Closed),
            }
        }
        read.retain(|(_, change)| matches!(*change, "Stopping" | "Stopped"));
        let wanted = [
            ("web", "Stopping"),
            ("web", "Stopped"),
            ("slow", "Stopping"),
            ("slow", "Stopped"),
        ];
        let wanted = wanted.map(|(child, change)| (child.to_owned(), change));
        assert_eq!(read, wanted);
    });
}

#[tokio::test(start_paused = true)]
async fn children_of_one_rank_stop_in_parallel() {
    let slow = |name: &str| {
        Child::task(name, |cx| async move {
            cx.stopping().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        })
    };
    let running = start(Config::default(), (0..20).map(|n| slow(&format!("c{n}")))).await;
    let report = running.shutdown().await;
    assert_eq!(report.stopped, 20, "{report:?}");
    assert!(report.took < Duration::from_millis(1_200), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn the_drain_ends_at_its_deadline_and_names_who_was_aborted() {
    let children = [stubborn("db"), stubborn("web").after("db"), idle("well")];
    let running = start(Config::default(), children).await;
    let mut changes = changes(&running);
    let report = running.shutdown().await;
    let took = report.took.as_millis();
    assert!(
        (4_500..=5_000).contains(&took),
        "the whole drain is 5 s, not {took} ms"
    );
    assert_eq!(
        (
            report.started,
            report.stopped,
            report.aborted,
            report.leaked
        ),
        (3, 1, 2, 0),
        "{report:?}"
    );
    let mut stragglers = report.stragglers.clone();
    stragglers.sort();
    assert_eq!(stragglers, ["db", "web"]);
    assert!(report.is_balanced() && report.failure.is_none());
    let mut aborted = std::collections::BTreeSet::new();
    while let Ok(delivery) = changes.recv().await {
        if delivery.event.change == Change::Aborted {
            aborted.insert(delivery.event.child.to_string());
        }
    }
    assert_eq!(aborted.into_iter().collect::<Vec<_>>(), ["db", "web"]);
}

#[tokio::test(start_paused = true)]
async fn a_child_waits_its_own_stop_timeout_when_that_is_shorter_than_the_drain() {
    let child = stubborn("c").stop_timeout(Duration::from_millis(700));
    let report = start(Config::default(), [child]).await.shutdown().await;
    assert!((690..900).contains(&report.took.as_millis()), "{report:?}");
    assert_eq!(
        (report.aborted, report.stragglers),
        (1, vec!["c".to_owned()])
    );
}

#[tokio::test(start_paused = true)]
async fn the_accounts_balance_over_all_there_is() {
    let never = Intensity::new(0, Duration::from_secs(1)).unwrap();
    let sick =
        |name: &str| Child::task(name, |_| async { Err::<(), _>("no disk") }).intensity(never);
    let done = Child::task("done", |_| async {});
    let temporary = Child::task("temporary", |_| async {}).restart(Restart::Temporary);
    let hour = Duration::from_secs(3600);
    let pending = sick("pending")
        .intensity(Intensity::DEFAULT)
        .backoff(Backoff::new(hour, hour).unwrap());
    let unready = Child::task("unready", |cx| async move { cx.stopping().await }).gated(hour);
    let kernel = Kernel::builder()
        .child(idle("well"))
        .child(stubborn("stubborn"))
        .child(sick("quarantined").on_exhausted(Exhausted::Hold))
        .child(done)
        .child(temporary)
        .child(pending)
        .child(unready)
        .child(idle("waiting").after("unready"))
        .child(idle("stopped"))
        .child(idle("removed"))
        .group(Group::new("g").child(idle("a")).child(idle("b")));
    let running = kernel.build().unwrap().start().await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    running.handle().stop("stopped").await.unwrap();
    running.handle().remove("removed").unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let report = running.shutdown().await;
    // All but `waiting`, which never started; the group is no child.
    assert_eq!(report.started, 11, "{report:?}");
    assert_eq!(
        (report.aborted, report.leaked, report.quarantined),
        (1, 0, 1),
        "{report:?}"
    );
    assert_eq!(report.stopped, 9, "{report:?}");
    assert!(report.is_balanced());
    assert_eq!(report.stragglers, ["stubborn"]);
}

#[tokio::test(start_paused = true)]
async fn an_empty_kernel_shuts_down_at_once() {
    let report = start(Config::default(), []).await.shutdown().await;
    assert_eq!((report.started, report.stopped), (0, 0));
    assert!(report.is_balanced() && report.took < Duration::from_millis(10));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_overtakes_a_pending_restart_and_a_start_in_progress() {
    let hour = Duration::from_secs(3600);
    let starts = Arc::new(AtomicU32::new(0));
    let count = starts.clone();
    let crashed = Child::task("crashed", move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        async { Err::<(), _>("no disk") }
    })
    .backoff(Backoff::new(hour, hour).unwrap());
    let starting = Child::task("starting", |cx| async move { cx.stopping().await }).gated(hour);
    let kernel = Kernel::builder()
        .child(crashed)
        .child(starting)
        .child(idle("waiting").after("starting"));
    let running = kernel.build().unwrap().start().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let report = running.shutdown().await;
    assert!(report.took < Duration::from_millis(50), "{report:?}");
    assert_eq!((report.started, report.stopped), (2, 2), "{report:?}");
    assert_eq!(starts.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_in_the_middle_of_a_joint_restart_ends() {
    let slow = Child::task("slow", |cx| async move {
        cx.stopping().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    });
    let crash = Child::task("crash", |_| async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Err::<(), _>("now")
    });
    let group = Group::new("g")
        .strategy(ron_kernel::supervisor::Strategy::OneForAll)
        .child(slow)
        .child(crash);
    let running = Kernel::builder()
        .group(group)
        .build()
        .unwrap()
        .start()
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let report = running.shutdown().await;
    assert_eq!(
        (report.started, report.stopped, report.aborted),
        (2, 2, 0),
        "{report:?}"
    );
}

#[test]
fn dropping_the_running_kernel_begins_the_shutdown_and_does_not_wait() {
    on_both_flavours(|| async {
        let child = stubborn("c").stop_timeout(Duration::from_millis(300));
        let running = start(Config::default(), [child]).await;
        let handle = running.handle().clone();
        let begun = std::time::Instant::now();
        drop(running);
        assert!(begun.elapsed() < Duration::from_millis(100));
        let report = handle.ended().await;
        assert_eq!((report.started, report.aborted), (1, 1), "{report:?}");
    });
}

#[test]
fn the_end_is_told_to_all_who_wait_and_to_those_who_come_later() {
    on_both_flavours(|| async {
        let running = start(Config::default(), [idle("a"), idle("b")]).await;
        let handle = running.handle().clone();
        let waiting: Vec<_> = (0..10)
            .map(|_| {
                let handle = handle.clone();
                tokio::spawn(async move { handle.ended().await })
            })
            .collect();
        tokio::task::yield_now().await;
        let report = running.shutdown().await;
        for waiter in waiting {
            assert_eq!(waiter.await.unwrap(), report);
        }
        assert_eq!(handle.ended().await, report);
        assert_eq!((report.started, report.stopped), (2, 2));
    });
}

#[test]
fn run_until_ends_with_the_future_or_with_the_kernel() {
    on_both_flavours(|| async {
        let kernel = Kernel::builder().child(idle("a")).build().unwrap();
        let begun = Instant::now();
        let report = kernel
            .run_until(tokio::time::sleep(Duration::from_millis(50)))
            .await
            .unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(50));
        assert_eq!((report.started, report.stopped), (1, 1));

        let suicidal = Child::task("a", |cx| async move {
            cx.kernel().unwrap().shutdown();
            cx.stopping().await;
        });
        let kernel = Kernel::builder().child(suicidal).build().unwrap();
        let report = kernel
            .run_until(std::future::pending::<()>())
            .await
            .unwrap();
        assert_eq!((report.started, report.stopped), (1, 1));
        assert!(report.failure.is_none(), "asked for, no failure");
    });
}

#[test]
fn dropping_run_until_begins_the_shutdown() {
    on_both_flavours(|| async {
        let gone: Arc<Mutex<Option<Instant>>> = Arc::default();
        let set = gone.clone();
        let child = Child::task("c", move |cx| {
            let gone = set.clone();
            async move {
                cx.stopping().await;
                *gone.lock().unwrap() = Some(Instant::now());
            }
        });
        let kernel = Kernel::builder().child(child).build().unwrap();
        let run = kernel.run_until(std::future::pending::<()>());
        assert!(tokio::time::timeout(Duration::from_millis(50), run)
            .await
            .is_err());
        for _ in 0..1_000 {
            if gone.lock().unwrap().is_some() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("the child was never told to stop");
    });
}

#[test]
fn two_kernels_in_one_process_do_not_disturb_each_other() {
    on_both_flavours(|| async {
        let fragile = |crashes: u64| {
            Child::task("c", move |cx| async move {
                if cx.generation() <= crashes {
                    panic!("generation {}", cx.generation());
                }
                cx.stopping().await;
            })
            .backoff(Backoff::NONE)
        };
        let left = start(Config::default(), [fragile(3)]).await;
        let right = start(Config::default(), [fragile(0)]).await;
        let mut right_events = events(&right);
        assert_eq!(left.handle().tree()[0].generation, 4);
        left.handle().restart("c").unwrap();
        let report = left.shutdown().await;
        assert_eq!((report.started, report.stopped), (1, 1));
        while let Ok(Some(delivery)) = right_events.try_recv() {
            let own = matches!(delivery.event, KernelEvent::Health { ok: true, .. });
            assert!(own, "of the other kernel: {delivery:?}");
        }
        let node = right.handle().tree()[0].clone();
        assert_eq!(
            (node.state, node.generation, node.restarts),
            ("ready", 1, 0)
        );
        right.shutdown().await;
    });
}

#[tokio::test(start_paused = true)]
async fn a_kernel_inside_a_child_of_another_kernel_is_just_a_kernel() {
    let inner = Child::task("host", |cx| async move {
        let kernel = Kernel::builder().child(idle("c")).build().unwrap();
        let report = kernel.run_until(cx.stopping()).await.unwrap();
        assert_eq!((report.started, report.stopped), (1, 1));
        cx.status("inner kernel ended");
    });
    let running = start(Config::default(), [inner]).await;
    let handle = running.handle().clone();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let report = running.shutdown().await;
    assert_eq!((report.started, report.stopped), (1, 1), "{report:?}");
    assert_eq!(
        handle.tree()[0].status.as_deref(),
        Some("inner kernel ended")
    );
}
