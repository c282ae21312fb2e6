//! What a scrape shows after scripted events, under the paused clock, and while mailboxes come and go.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use ryker::config::Source;
use ryker::metrics::{Collector, Histogram, Snapshot};
use ryker::{
    Actor, ActorRef, Context, DropReason, MessageSize, Outcome, Reply, Runtime, RykerConfig,
};
use tokio::time::{sleep, Instant};

const REASONS: [DropReason; 5] = [
    DropReason::Capacity,
    DropReason::TooLarge,
    DropReason::Closed,
    DropReason::Deadline,
    DropReason::Shutdown,
];

struct Worker;

enum Work {
    For(u64),
    Fail,
    Panic,
    Blob(usize),
    Done(Reply<()>),
}

impl MessageSize for Work {
    fn message_size(&self) -> usize {
        match self {
            Self::Blob(bytes) => *bytes,
            _ => 1,
        }
    }
}

impl Actor for Worker {
    type Msg = Work;
    type Error = std::io::Error;

    async fn handle(&mut self, work: Work, _: &mut Context<Self>) -> std::io::Result<()> {
        match work {
            Work::For(ms) => sleep(Duration::from_millis(ms)).await,
            Work::Fail => return Err(std::io::Error::other("as asked")),
            Work::Panic => panic!("as asked"),
            Work::Blob(_) => {}
            Work::Done(reply) => drop(reply.send(())),
        }
        Ok(())
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn runtime() -> Runtime {
    let config = RykerConfig::builder().decorrelated_jitter(false).build();
    Runtime::new(config.unwrap())
}

fn worker(rt: &Runtime, name: &str) -> ActorRef<Work> {
    let actor = rt.actor(name, || Worker).capacity(4).max_msg_bytes(1_024);
    actor.spawn().unwrap()
}

fn page(rt: &Runtime) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Collector::new(rt)));
    let mut page = String::new();
    encode(&mut page, &registry).unwrap();
    page
}

/// Value of the series, which is there.
fn value(page: &str, series: &str) -> f64 {
    let value = |line: &str| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok();
    let found = page.lines().find_map(value);
    found.unwrap_or_else(|| panic!("no `{series}` in\n{page}"))
}

/// What was dropped of `name`, by reason.
fn dropped(rt: &Runtime, name: &str) -> [u64; 5] {
    let snapshot = Snapshot::of(rt);
    let actor = snapshot.actors().iter().find(|actor| actor.name() == name);
    let actor = actor.unwrap_or_else(|| panic!("no `{name}` in {snapshot:?}"));
    REASONS.map(|reason| actor.dropped(reason))
}

/// Count, sum in milliseconds, and the buckets that hold something, by their bound.
fn told(histogram: &Histogram) -> (u64, u64, Vec<(Option<u64>, u64)>) {
    let bound = |bound: Option<Duration>| bound.map(|bound| bound.as_millis() as u64);
    let buckets = histogram.buckets().map(|(at, count)| (bound(at), count));
    (
        histogram.count(),
        histogram.sum().as_millis() as u64,
        buckets.filter(|(_, count)| *count > 0).collect(),
    )
}

/// Everything that can be counted of an actor, a closed and an open mailbox, up to the end of a drain.
async fn eventful() -> (Runtime, impl Sized) {
    let rt = runtime();
    let resize = worker(&rt, "resize");
    resize.try_send(Work::For(7)).unwrap();
    resize.ask(Work::Done).await.unwrap();
    resize.try_send(Work::For(1_500)).unwrap();
    sleep(ms(1)).await;
    resize.try_send(Work::For(1)).unwrap();
    resize.try_send(Work::For(1)).unwrap();
    let mut unwanted = Box::pin(resize.ask(Work::Done));
    tokio::select! { biased; _ = &mut unwanted => {}, () = sleep(ms(1)) => {} }
    resize.try_send(Work::For(1)).unwrap();
    for _ in 0..3 {
        resize.try_send(Work::For(1)).unwrap_err();
    }
    drop(unwanted);
    sleep(ms(3_000)).await;
    resize.try_send(Work::Fail).unwrap();
    sleep(ms(3_000)).await;
    resize.try_send(Work::Panic).unwrap();
    sleep(ms(3_000)).await;
    resize.try_send(Work::Blob(1_025)).unwrap_err();
    let past = Instant::now().into_std();
    resize
        .send_with_deadline(Work::Fail, past)
        .await
        .unwrap_err();

    let (audit, mut reader) = rt.mailbox("audit").build().unwrap().split();
    for n in 0..3 {
        audit.try_send(n).unwrap();
    }
    reader.recv().await.unwrap();
    drop(reader);
    audit.try_send(3).unwrap_err();
    drop(audit);

    let (spool, mut reader) = rt.mailbox("spool").build().unwrap().split();
    for n in 0..200 {
        spool.try_send(n).unwrap();
    }
    sleep(ms(20)).await;
    for _ in 0..150 {
        reader.recv().await.unwrap();
    }

    for _ in 0..3 {
        resize.try_send(Work::For(60_000)).unwrap();
        sleep(ms(1)).await;
    }
    assert!(!rt.drain(ms(50)).await.is_clean());
    resize.try_send(Work::Fail).unwrap_err();
    (rt, (resize, spool, reader))
}

#[tokio::test(start_paused = true)]
async fn the_exposition_is_as_in_the_golden_file() {
    let (rt, _kept) = eventful().await;
    let counts_of_the_process = |line: &str| line.starts_with("ryker_config_");
    let text: String = page(&rt)
        .lines()
        .map(|line| match line.rsplit_once(' ') {
            // Other tests of this process make runtimes too.
            Some((series, _)) if counts_of_the_process(series) => {
                let starts = u32::from(series.contains("startup") && !series.contains("errors"));
                format!("{series} {starts}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/metrics.om");
    if std::env::var_os("RON_BLESS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let expected = std::fs::read_to_string(path).unwrap();
    assert_eq!(text, expected, "{path} differs; RON_BLESS=1 rewrites it");
}

#[tokio::test(start_paused = true)]
async fn every_sample_belongs_to_the_family_declared_above_it_and_none_is_there_twice() {
    let (rt, _kept) = eventful().await;
    let page = page(&rt);
    let (mut family, mut kind) = ("", "");
    let (mut families, mut series) = (BTreeSet::new(), BTreeSet::new());
    for line in page.lines().take_while(|line| *line != "# EOF") {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            (family, kind) = declared.split_once(' ').unwrap();
            assert!(families.insert(family), "{line}");
        } else if !line.starts_with('#') {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            let name = sample.split('{').next().unwrap();
            let ending = name
                .strip_prefix(family)
                .unwrap_or_else(|| panic!("{line}"));
            let endings: &[&str] = match kind {
                "gauge" => &[""],
                "counter" => &["_total"],
                "histogram" => &["_sum", "_count", "_bucket"],
                other => panic!("{other}"),
            };
            assert!(endings.contains(&ending), "{line}");
            assert!(value.parse::<f64>().unwrap() >= 0.0, "{line}");
            assert!(series.insert(sample), "{line}");
        }
    }
    let expected = [
        "ryker_actor_restarts",
        "ryker_busy_rejections",
        "ryker_config_reload",
        "ryker_config_reload_errors",
        "ryker_handler_latency_seconds",
        "ryker_mailbox_depth",
        "ryker_mailbox_dropped",
        "ryker_queue_wait_seconds",
        "ryker_yields",
    ];
    assert_eq!(families, BTreeSet::from(expected));
}

#[tokio::test(start_paused = true)]
async fn everything_refused_or_lost_has_one_reason() {
    let (rt, _kept) = eventful().await;
    let snapshot = Snapshot::of(&rt);
    let shown: u64 = snapshot
        .actors()
        .iter()
        .flat_map(|actor| REASONS.map(|reason| actor.dropped(reason)))
        .sum();
    let accounts = rt.accounts();
    let refused = &accounts.refused;
    let refused =
        refused.busy + refused.too_large + refused.closed + refused.deadline + refused.draining;
    let unserved = accounts.expired + accounts.abandoned + accounts.dropped + accounts.aborted;
    assert!(accounts.balances());
    assert_eq!(shown, refused + unserved);
}

#[tokio::test(start_paused = true)]
async fn a_full_mailbox_counts_as_busy_and_as_capacity() {
    let rt = runtime();
    let (jobs, _queue) = rt.mailbox("jobs").capacity(2).build().unwrap().split();
    for n in 0..5 {
        let _ = jobs.try_send(n);
    }
    let page = page(&rt);
    assert_eq!(
        value(&page, r#"ryker_busy_rejections_total{actor="jobs"}"#),
        3.0
    );
    let capacity = r#"ryker_mailbox_dropped_total{actor="jobs",reason="capacity"}"#;
    assert_eq!(value(&page, capacity), 3.0);
    assert_eq!(dropped(&rt, "jobs"), [3, 0, 0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_too_large_counts_as_too_large() {
    let rt = runtime();
    let worker = worker(&rt, "w");
    worker.try_send(Work::Blob(1_025)).unwrap_err();
    worker.try_send(Work::Blob(1_024)).unwrap();
    assert_eq!(dropped(&rt, "w"), [0, 1, 0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn closed_counts_what_is_refused_and_what_is_dropped_without_a_drain() {
    let rt = runtime();
    let (jobs, reader) = rt.mailbox("jobs").build().unwrap().split();
    jobs.try_send(1).unwrap();
    jobs.try_send(2).unwrap();
    drop(reader);
    jobs.try_send(3).unwrap_err();
    assert_eq!(dropped(&rt, "jobs"), [0, 0, 3, 0, 0]);

    // In hand when its handler is aborted.
    let (actor, runner) = rt.actor("aborted", || Worker).runner().unwrap();
    actor.try_send(Work::For(500)).unwrap();
    tokio::select! { _ = runner.run(pending::<()>()) => {}, () = sleep(ms(10)) => {} }
    assert_eq!(actor.accounts().aborted, 1);
    assert_eq!(dropped(&rt, "aborted"), [0, 0, 1, 0, 0]);

    // Stopped: what is queued is handled, what comes is refused.
    let stopped = worker(&rt, "stopped");
    stopped.try_send(Work::For(1)).unwrap();
    stopped.stop();
    stopped.try_send(Work::For(1)).unwrap_err();
    stopped.stopped().await;
    assert_eq!(dropped(&rt, "stopped"), [0, 0, 1, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn deadline_counts_refused_expired_and_abandoned_messages() {
    let rt = runtime();
    let worker = worker(&rt, "w");
    let past = Instant::now().into_std();
    worker
        .send_with_deadline(Work::Fail, past)
        .await
        .unwrap_err();
    assert_eq!(dropped(&rt, "w"), [0, 0, 0, 1, 0]);

    worker.try_send(Work::For(1_500)).unwrap();
    worker.try_send(Work::Fail).unwrap();
    sleep(ms(1_600)).await;
    assert_eq!(
        (worker.accounts().expired, dropped(&rt, "w")),
        (1, [0, 0, 0, 2, 0])
    );

    worker.try_send(Work::For(10)).unwrap();
    let given_up = tokio::time::timeout(ms(5), worker.ask(Work::Done)).await;
    assert!(given_up.is_err());
    sleep(ms(10)).await;
    assert_eq!(
        (worker.accounts().abandoned, dropped(&rt, "w")),
        (1, [0, 0, 0, 3, 0])
    );
}

#[tokio::test(start_paused = true)]
async fn shutdown_counts_what_a_longer_drain_would_have_saved() {
    let rt = runtime();
    let worker = worker(&rt, "w");
    for _ in 0..3 {
        worker.try_send(Work::For(900)).unwrap();
    }
    let report = rt.drain(ms(50)).await;
    assert_eq!((report.dropped, report.aborted), (2, 1));
    worker.try_send(Work::Fail).unwrap_err();
    assert_eq!(dropped(&rt, "w"), [0, 0, 1, 0, 3]);
}

#[tokio::test(start_paused = true)]
async fn times_fall_into_the_bucket_whose_bound_they_do_not_exceed() {
    let rt = runtime();
    let actor = rt.actor("w", || Worker).deadline(ms(60_000));
    let worker = actor.spawn().unwrap();
    let bounds = [5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000];
    for bound in bounds {
        worker.try_send(Work::For(bound)).unwrap();
        worker.ask(Work::Done).await.unwrap();
        worker.try_send(Work::For(bound + 1)).unwrap();
        worker.ask(Work::Done).await.unwrap();
    }
    let snapshot = Snapshot::of(&rt);
    let latency = snapshot.actors()[0].handler_latency(Outcome::Ok).unwrap();
    let sum = bounds.iter().map(|bound| 2 * bound + 1).sum();
    let above = bounds.map(Some).into_iter().skip(1).chain([None]);
    // The asks took no time.
    let mut expected = vec![(Some(5), 1 + 2 * bounds.len() as u64)];
    expected.extend(above.map(|bound| (bound, if bound.is_some() { 2 } else { 1 })));
    assert_eq!(told(&latency), (4 * bounds.len() as u64, sum, expected));
    // Each ask waited for the message before it.
    let waited = snapshot.actors()[0].queue_wait().unwrap();
    assert_eq!(told(&waited), told(&latency));
}

#[tokio::test(start_paused = true)]
async fn outcomes_are_kept_apart() {
    let rt = runtime();
    let worker = worker(&rt, "w");
    worker.try_send(Work::For(30)).unwrap();
    sleep(ms(50)).await;
    worker.try_send(Work::For(1_500)).unwrap();
    sleep(ms(2_000)).await;
    worker.try_send(Work::Fail).unwrap();
    sleep(ms(2_000)).await;
    worker.try_send(Work::Panic).unwrap();
    sleep(ms(2_000)).await;
    let page = page(&rt);
    for (outcome, count, sum) in [
        ("ok", 1.0, 0.03),
        ("timeout", 1.0, 1.5),
        ("error", 2.0, 0.0),
    ] {
        let series = |what: &str| {
            format!(r#"ryker_handler_latency_seconds_{what}{{actor="w",outcome="{outcome}"}}"#)
        };
        assert_eq!(value(&page, &series("count")), count, "{outcome}");
        assert_eq!(value(&page, &series("sum")), sum, "{outcome}");
    }
    assert_eq!(
        value(&page, r#"ryker_actor_restarts_total{actor="w"}"#),
        2.0
    );
}

#[tokio::test(start_paused = true)]
async fn yields_count_turns_given_to_others() {
    let rt = runtime();
    let (jobs, mut reader) = rt.mailbox("jobs").build().unwrap().split();
    for n in 0..200 {
        jobs.try_send(n).unwrap();
    }
    for _ in 0..200 {
        reader.recv().await.unwrap();
    }
    let yields = value(&page(&rt), r#"ryker_yields_total{actor="jobs"}"#);
    assert_eq!(yields, 3.0);
    assert_eq!(yields, jobs.accounts().yields as f64);
}

#[tokio::test(start_paused = true)]
async fn depths_of_one_name_add_up_and_end_with_their_mailboxes() {
    let rt = runtime();
    let (one, one_reader) = rt.mailbox("jobs").build().unwrap().split();
    let (two, two_reader) = rt.mailbox("jobs").build().unwrap().split();
    one.try_send(1).unwrap();
    two.try_send(1).unwrap();
    two.try_send(2).unwrap();
    let depth = r#"ryker_mailbox_depth{actor="jobs"}"#;
    assert_eq!(value(&page(&rt), depth), 3.0);
    drop((one, one_reader));
    assert_eq!(value(&page(&rt), depth), 2.0);
    drop((two, two_reader));
    let gone = page(&rt);
    assert!(!gone.contains("ryker_mailbox_depth"), "{gone}");
    let closed = r#"ryker_mailbox_dropped_total{actor="jobs",reason="closed"}"#;
    assert_eq!(value(&gone, closed), 3.0);
}

#[tokio::test(start_paused = true)]
async fn what_is_in_hand_is_no_part_of_the_depth() {
    let rt = runtime();
    let worker = worker(&rt, "w");
    worker.try_send(Work::For(100)).unwrap();
    worker.try_send(Work::For(100)).unwrap();
    sleep(ms(10)).await;
    assert_eq!(worker.accounts().pending, 2);
    assert_eq!(value(&page(&rt), r#"ryker_mailbox_depth{actor="w"}"#), 1.0);
}

#[tokio::test(start_paused = true)]
async fn without_sampling_there_are_no_depths_and_all_else() {
    let rt = runtime();
    let (jobs, _reader) = rt.mailbox("jobs").build().unwrap().split();
    jobs.try_send(1).unwrap();
    let config = RykerConfig::builder().queue_depth_sampling(false).build();
    rt.reload(config.unwrap());
    let page = page(&rt);
    assert!(!page.contains("ryker_mailbox_depth"), "{page}");
    assert_eq!(value(&page, r#"ryker_yields_total{actor="jobs"}"#), 0.0);
}

#[tokio::test(start_paused = true)]
async fn switched_off_there_is_nothing_of_actors_and_nothing_is_taken_in() {
    let rt = runtime();
    let worker = worker(&rt, "w");
    worker.try_send(Work::For(30)).unwrap();
    worker.ask(Work::Done).await.unwrap();
    let off = RykerConfig::builder().enable_metrics(false).build();
    rt.reload(off.unwrap());
    worker.try_send(Work::For(30)).unwrap();
    worker.ask(Work::Done).await.unwrap();
    let page = page(&rt);
    assert!(!page.contains("actor="), "{page}");
    assert!(value(&page, r#"ryker_config_reload_total{source="startup"}"#) >= 1.0);
    assert!(Snapshot::of(&rt).actors().is_empty());

    rt.reload(RykerConfig::default());
    let latency = Snapshot::of(&rt).actors()[0].handler_latency(Outcome::Ok);
    assert_eq!(latency.unwrap().count(), 2);
}

#[tokio::test(start_paused = true)]
async fn reloads_count_by_source_and_refusals_by_source_and_kind() {
    // No other test of this process reloads from a file, or is refused one.
    let rt = runtime();
    let read = |series: &str| value(&page(&rt), series);
    let taken = r#"ryker_config_reload_total{source="file"}"#;
    let before = read(taken);
    let config = RykerConfig::from_toml("[defaults]\ndeadline = \"2s\"").unwrap();
    assert_eq!(config.source(), Source::File);
    rt.reload(config);
    assert_eq!(read(taken), before + 1.0);

    let refused = r#"ryker_config_reload_errors_total{source="file",error="io"}"#;
    let before = read(refused);
    RykerConfig::from_file("/nowhere/ryker.toml").unwrap_err();
    assert_eq!(read(refused), before + 1.0);
}

/// Everything of a snapshot that must never fall.
fn counters(snapshot: &Snapshot) -> BTreeMap<(String, &'static str), u64> {
    let mut counters = BTreeMap::new();
    for actor in snapshot.actors() {
        let mut count = |what, value| counters.insert((actor.name().to_owned(), what), value);
        for reason in REASONS {
            count(reason.as_str(), actor.dropped(reason));
        }
        let waits = actor.queue_wait().map_or(0, |waits| waits.count());
        count("waits", waits);
        count("yields", actor.yields());
    }
    counters
}

#[test]
fn counters_never_fall_while_mailboxes_come_and_go() {
    let rt = Runtime::new(RykerConfig::default());
    // So many that a scrape takes a while, in which others wait to leave.
    let idle = (0..200).map(|_| rt.mailbox::<u32>("idle").build().unwrap());
    let _idle: Vec<_> = idle.collect();
    let ended = Arc::new(AtomicBool::new(false));
    let gone = Arc::new(AtomicU64::new(0));
    let churn = |thread: usize| {
        let (rt, ended, gone) = (rt.clone(), Arc::clone(&ended), Arc::clone(&gone));
        move || {
            let mut lost = 0;
            while !ended.load(Ordering::Relaxed) {
                let name = ["a", "b", "c"][thread % 3];
                if thread % 2 == 0 {
                    let mailbox = rt.mailbox(name).capacity(4).build().unwrap();
                    let (jobs, mut reader) = mailbox.split();
                    for n in 0..6 {
                        let _ = jobs.try_send(n);
                    }
                    reader.try_recv().unwrap();
                    drop(reader);
                    jobs.try_send(6).unwrap_err();
                } else {
                    let actor = rt.actor(name, || Worker).capacity(3);
                    let (worker, runner) = actor.runner().unwrap();
                    for _ in 0..5 {
                        let _ = worker.try_send(Work::Fail);
                    }
                    // What is queued is lost to the shutdown.
                    worker.stop();
                    drop(runner);
                    worker.try_send(Work::Fail).unwrap_err();
                }
                // Two found it full, three were queued, one came too late.
                lost += 6;
                gone.fetch_add(1, Ordering::Relaxed);
            }
            lost
        }
    };
    let threads: Vec<_> = (0..4).map(|n| std::thread::spawn(churn(n))).collect();

    let mut last = BTreeMap::new();
    while gone.load(Ordering::Relaxed) < 200_000 {
        let now = counters(&Snapshot::of(&rt));
        for (series, before) in &last {
            let value = now.get(series);
            assert!(
                value >= Some(before),
                "{series:?}: {before}, then {value:?}"
            );
        }
        last = now;
    }
    ended.store(true, Ordering::Relaxed);
    let lost: u64 = threads.into_iter().map(|t| t.join().unwrap()).sum();
    let shown = ["a", "b", "c"].map(|name| dropped(&rt, name).iter().sum::<u64>());
    assert_eq!(shown.iter().sum::<u64>(), lost);
}

#[test]
fn names_without_end_do_not_make_series_without_end() {
    let rt = Runtime::new(RykerConfig::default());
    let make = |name: String| {
        let (jobs, reader) = rt.mailbox(name).build().unwrap().split();
        jobs.try_send(1).unwrap();
        (jobs, reader)
    };
    let present = make("present".to_owned());
    for n in 0..3_000 {
        drop(make(format!("user-{n}")));
    }
    let snapshot = Snapshot::of(&rt);
    assert_eq!(snapshot.actors().len(), 1_024 + 2);
    let closed = |name: &str| {
        let actor = snapshot.actors().iter().find(|actor| actor.name() == name);
        actor.map(|actor| actor.dropped(DropReason::Closed))
    };
    assert_eq!(closed("user-1023"), Some(1));
    assert_eq!(closed("user-1024"), None);
    assert_eq!(closed("(others)"), Some(3_000 - 1_024));
    assert_eq!(closed("present"), Some(0));
    drop(present);
    let sum = |actors: &[ryker::metrics::ActorMetrics]| -> u64 {
        actors.iter().map(|a| a.dropped(DropReason::Closed)).sum()
    };
    assert_eq!(sum(Snapshot::of(&rt).actors()), 3_001);
}

#[test]
fn a_collector_keeps_no_mailbox_alive() {
    let rt = Runtime::new(RykerConfig::default());
    let collector = Collector::new(&rt);
    let message = Arc::new(());
    let held = Arc::downgrade(&message);
    let (jobs, reader) = rt.mailbox("jobs").build().unwrap().split();
    jobs.try_send(message).unwrap();
    drop((jobs, reader));
    assert!(held.upgrade().is_none());
    drop(collector);
}

#[test]
fn collectors_and_snapshots_may_be_sent_and_shared() {
    fn check<T: Send + Sync + 'static>() {}
    check::<Collector>();
    check::<Snapshot>();
}

#[test]
fn counting_allocates_nothing_per_message() {
    let executor = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    executor.block_on(async {
        let rt = runtime();
        assert!(rt.config().enable_metrics());
        let actor = rt.actor("w", || Worker).capacity(128);
        let worker = actor.spawn().unwrap();
        let mut before = 0;
        for round in 0..13 {
            // By then queues have grown and histograms are made.
            if round == 3 {
                before = ALLOCATIONS.with(Cell::get);
            }
            for _ in 0..100 {
                worker.try_send(Work::Blob(1)).unwrap();
            }
            while worker.accounts().pending > 0 {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(ALLOCATIONS.with(Cell::get) - before, 0);
        let latency = Snapshot::of(&rt).actors()[0].handler_latency(Outcome::Ok);
        assert_eq!(latency.unwrap().count(), 1_300);
    });
}

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

#[allow(unsafe_code)] // a counting allocator has no safe interface; every call is passed on unchanged
                      // SAFETY: `System` upholds the contract, and counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;
