//! At most one live incarnation of a child, restarts within the intensity, and contexts that outlive
//! their incarnation: random exits and random requests against guards inside the bodies.

use proptest::prelude::*;
use ron_kernel::supervisor::{
    Backoff, Child, ChildContext, Exhausted, Group, Intensity, Restart, Strategy as Fate,
};
use ron_kernel::{Change, ChildEvent, Kernel, KernelHandle, Running, LIFECYCLE_TOPIC};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::time::Instant;

/// How one incarnation ends.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Panic,
    Error,
    /// Returns Ok.
    Done,
    /// Waits for its stop and obeys.
    Obey,
    /// Waits for its stop and goes on for ever.
    Ignore,
}

/// What each incarnation of one child does, in turn: lives for so many milliseconds, then ends.
type Script = Vec<(u64, Ending)>;

fn scripts() -> impl Strategy<Value = Script> {
    let ending = prop_oneof![
        4 => Just(Ending::Panic),
        4 => Just(Ending::Error),
        2 => Just(Ending::Done),
        1 => Just(Ending::Obey),
        1 => Just(Ending::Ignore),
    ];
    let life = prop_oneof![Just(0_u64), 0..50_u64, 0..30_000_u64];
    prop::collection::vec((life, ending), 1..8)
}

/// Counts the live incarnations of one child and remembers whether there ever were two.
#[derive(Debug, Default)]
struct Census {
    live: AtomicU32,
    most: AtomicU32,
    ever: AtomicU64,
}

/// Held by a body while it lives.
struct Alive(Arc<Census>);

impl Alive {
    fn new(census: &Arc<Census>) -> Alive {
        let live = census.live.fetch_add(1, Ordering::SeqCst) + 1;
        census.most.fetch_max(live, Ordering::SeqCst);
        census.ever.fetch_add(1, Ordering::SeqCst);
        Alive(census.clone())
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Ordering::SeqCst);
    }
}

fn scripted(name: &str, script: &Script, census: &Arc<Census>) -> Child {
    let (script, census) = (script.clone(), census.clone());
    Child::task(name, move |cx| {
        let (life, ending) = script[(cx.generation() as usize - 1) % script.len()];
        let census = census.clone();
        async move {
            let _alive = Alive::new(&census);
            tokio::time::sleep(Duration::from_millis(life)).await;
            match ending {
                Ending::Panic => panic!("scripted"),
                Ending::Error => return Err("scripted"),
                Ending::Done => {}
                Ending::Obey => cx.stopping().await,
                Ending::Ignore => std::future::pending().await,
            }
            Ok(())
        }
    })
    .stop_timeout(Duration::from_millis(300))
}

/// Most of `times` inside any half-open window of this length.
fn densest(times: &[Instant], window: Duration) -> usize {
    (0..times.len())
        .map(|first| {
            times[first..]
                .iter()
                .take_while(|at| **at - times[first] < window)
                .count()
        })
        .max()
        .unwrap_or(0)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn restarts_stay_within_the_intensity_in_every_window(
        script in scripts(),
        cap in 0..6_u32,
        window_ms in 500..60_000_u64,
        seed in any::<u64>(),
        no_delay in any::<bool>(),
        permanent in any::<bool>(),
    ) {
        let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let window = Duration::from_millis(window_ms);
            let census = Arc::new(Census::default());
            let mut child = scripted("c", &script, &census)
                .intensity(Intensity::new(cap, window).unwrap())
                .on_exhausted(Exhausted::Hold);
            if no_delay {
                child = child.backoff(Backoff::NONE);
            }
            if permanent {
                child = child.restart(Restart::Permanent);
            }
            let running = Kernel::builder().seed(seed).child(child).build().unwrap().start().await.unwrap();
            let topic = running.handle().bus().topic::<ChildEvent>(LIFECYCLE_TOPIC).unwrap();
            let mut changes = topic.subscribe().unwrap();
            let mut restarts = Vec::new();
            let until = Instant::now() + Duration::from_secs(300);
            while let Ok(Ok(delivery)) = tokio::time::timeout_at(until, changes.recv()).await {
                match delivery.event.change {
                    Change::Started { restart: true } => restarts.push(Instant::now()),
                    Change::Quarantined { until, .. } => {
                        assert_eq!(until, None);
                        // Budget used to the last restart, not given up early.
                        let recent = restarts.iter().filter(|at| at.elapsed() <= window).count();
                        prop_assert_eq!(recent, cap as usize);
                    }
                    _ => {}
                }
            }
            prop_assert!(densest(&restarts, window) <= cap as usize, "{:?}", restarts);
            prop_assert_eq!(census.most.load(Ordering::SeqCst), 1);
            let report = running.shutdown().await;
            prop_assert!(report.is_balanced(), "{:?}", report);
            prop_assert_eq!(census.live.load(Ordering::SeqCst), 0);
            Ok(())
        })?;
    }
}

/// What an operator asks of which child, after how many milliseconds.
#[derive(Clone, Copy, Debug)]
enum Request {
    Restart,
    Stop,
    Release,
    Remove,
}

fn ask(handle: &KernelHandle, request: Request, id: &str) {
    // Refusals are fine; the promise is about what runs.
    match request {
        Request::Restart => drop(handle.restart(id)),
        Request::Release => drop(handle.release(id)),
        Request::Remove => drop(handle.remove(id)),
        Request::Stop => {
            let (handle, id) = (handle.clone(), id.to_owned());
            drop(tokio::spawn(async move { handle.stop(&id).await }));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_ends_and_whatever_is_asked_there_is_one_incarnation_and_the_accounts_balance(
        scripts in prop::collection::vec(scripts(), 1..6),
        grouped in 0..6_usize,
        fate in prop_oneof![Just(Fate::OneForOne), Just(Fate::OneForAll), Just(Fate::RestForOne)],
        requests in prop::collection::vec(
            (
                prop_oneof![0..20_u64, 0..3_000_u64],
                prop_oneof![
                    4 => Just(Request::Restart),
                    3 => Just(Request::Stop),
                    2 => Just(Request::Release),
                    1 => Just(Request::Remove),
                ],
                0..8_usize,
            ),
            0..30,
        ),
        seed in any::<u64>(),
    ) {
        let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let censuses: Vec<_> = scripts.iter().map(|_| Arc::new(Census::default())).collect();
            let (mut kernel, mut group) = (Kernel::builder().seed(seed), Group::new("g").strategy(fate));
            let mut ids = vec!["g".to_owned()];
            for (index, (script, census)) in scripts.iter().zip(&censuses).enumerate() {
                let child = scripted(&format!("c{index}"), script, census);
                if index < grouped {
                    ids.push(format!("g/c{index}"));
                    group = group.child(child);
                } else {
                    ids.push(format!("c{index}"));
                    kernel = kernel.child(child);
                }
            }
            let running = kernel.group(group).build().unwrap().start().await.unwrap();
            for (wait, request, target) in requests {
                tokio::time::sleep(Duration::from_millis(wait)).await;
                ask(running.handle(), request, &ids[target % ids.len()]);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            let report = tokio::time::timeout(Duration::from_secs(60), running.shutdown()).await;
            let report = report.expect("the shutdown ends");
            let ever = censuses.iter().filter(|census| census.ever.load(Ordering::SeqCst) > 0).count();
            prop_assert!(report.is_balanced(), "{:?}", report);
            prop_assert_eq!(report.started, ever as u64, "{:?}", report);
            prop_assert_eq!(report.leaked, 0);
            for census in censuses {
                prop_assert_eq!(census.live.load(Ordering::SeqCst), 0);
                prop_assert!(census.most.load(Ordering::SeqCst) <= 1);
            }
            Ok(())
        })?;
    }
}

/// Children that crash as fast as they can while two threads ask for restarts, on real workers.
#[test]
fn one_incarnation_on_several_workers_under_a_storm_of_requests() {
    let runtime = Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .unwrap();
    let censuses: Vec<_> = (0..6).map(|_| Arc::new(Census::default())).collect();
    let script =
        [Ending::Panic, Ending::Error, Ending::Obey, Ending::Done].map(|ending| (1, ending));
    let often = Intensity::new(u32::MAX, Duration::from_secs(1)).unwrap();
    let mut kernel = Kernel::builder();
    for (index, census) in censuses.iter().enumerate() {
        let child = scripted(&format!("c{index}"), &script.to_vec(), census);
        kernel = kernel.child(
            child
                .restart(Restart::Permanent)
                .backoff(Backoff::NONE)
                .intensity(often),
        );
    }
    let running = runtime.block_on(async { kernel.build().unwrap().start().await.unwrap() });
    let asking: Vec<_> = (0..2)
        .map(|_| {
            let handle = running.handle().clone();
            std::thread::spawn(move || {
                for round in 0..3_000_u32 {
                    handle.restart(&format!("c{}", round % 6)).unwrap();
                    std::thread::sleep(Duration::from_micros(100));
                }
            })
        })
        .collect();
    asking.into_iter().for_each(|thread| thread.join().unwrap());
    let report = runtime.block_on(running.shutdown());
    assert!(report.is_balanced(), "{report:?}");
    assert_eq!((report.started, report.stopped), (6, 6), "{report:?}");
    for census in censuses {
        assert_eq!(census.most.load(Ordering::SeqCst), 1);
        assert_eq!(census.live.load(Ordering::SeqCst), 0);
        assert!(census.ever.load(Ordering::SeqCst) > 20, "it did restart");
    }
}

async fn start(child: Child) -> Running {
    Kernel::builder()
        .seed(1)
        .child(child)
        .build()
        .unwrap()
        .start()
        .await
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_context_that_outlived_its_incarnation_can_set_nothing() {
    let contexts: Arc<Mutex<Vec<ChildContext>>> = Arc::default();
    let kept = contexts.clone();
    let child = Child::task("c", move |cx| {
        kept.lock().unwrap().push(cx.clone());
        async move {
            if cx.generation() == 1 {
                return Err("first");
            }
            cx.stopping().await;
            Ok(())
        }
    })
    .gated(Duration::from_secs(20))
    .watchdog(Duration::from_secs(10));
    let running = start(child).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (old, new) = {
        let contexts = contexts.lock().unwrap();
        (contexts[0].clone(), contexts[1].clone())
    };
    assert_eq!((old.generation(), new.generation()), (1, 2));
    let ran = Arc::new(AtomicU32::new(0));
    let marked = ran.clone();
    old.ready();
    old.status("from the grave");
    old.health(false, "from the grave");
    old.spawn(async move {
        marked.store(1, Ordering::SeqCst);
    });
    tokio::time::sleep(Duration::from_secs(3)).await;
    let node = running.handle().tree()[0].clone();
    assert_eq!(node.state, "starting");
    assert_eq!(node.status, None);
    assert!(!node.cause.unwrap_or_default().contains("grave"));
    let health = running.handle().health().snapshot();
    assert!(
        health.causes().all(|cause| !cause.reason.contains("grave")),
        "{health:?}"
    );
    assert_eq!(
        ran.load(Ordering::SeqCst),
        0,
        "nothing is spawned for a dead incarnation"
    );
    assert!(!new.is_stopping(), "the old token is not the new one");

    // The real one can.
    new.ready();
    new.status("from the living");
    let node = running.handle().tree()[0].clone();
    assert_eq!(
        (node.state, node.status.as_deref()),
        ("ready", Some("from the living"))
    );

    // Beats of the old one do not keep the new one alive.
    for _ in 0..15 {
        old.heartbeat();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(
        new.is_stopping() || running.handle().tree()[0].generation > 2,
        "timed out"
    );
    running.shutdown().await;
    // After the end of the kernel it is inert too.
    new.ready();
    new.status("x");
    new.health(false, "x");
    new.heartbeat();
    new.spawn(async {});
}

#[tokio::test(start_paused = true)]
async fn the_status_of_an_incarnation_ends_with_it() {
    let child = Child::task("c", |cx| async move {
        if cx.generation() == 1 {
            cx.status("replay 30 %");
            cx.health(false, "replaying");
            tokio::time::sleep(Duration::from_secs(1)).await;
            return Err("lost");
        }
        cx.stopping().await;
        Ok(())
    });
    let running = start(child).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(
        running.handle().tree()[0].status.as_deref(),
        Some("replay 30 %")
    );
    tokio::time::sleep(Duration::from_secs(2)).await;
    let node = running.handle().tree()[0].clone();
    assert_eq!(
        (node.generation, node.state, node.status),
        (2, "ready", None)
    );
    assert!(!node.cause.unwrap_or_default().contains("replaying"));
    running.shutdown().await;
}
