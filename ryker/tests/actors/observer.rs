//! Who is told of what, in the order in which it happens.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ryker::{
    Actor, ActorExit, ActorRef, Context, DropReason, Observer, Outcome, Runtime, RykerConfig,
};
use tokio::time::{sleep, Instant};

use crate::rig::{balanced, ms, poll, quietly_panic, runtime, settle, Log, Msg, Witness, Worker};

fn observed(rt: &Runtime, capacity: usize) -> (ActorRef<Msg>, Arc<Witness>) {
    let witness = Arc::new(Witness::default());
    let builder = rt.actor("w", || Worker::new(&Log::default()));
    let builder = builder.capacity(capacity).observer(witness.clone());
    (builder.spawn().unwrap(), witness)
}

#[tokio::test(start_paused = true)]
async fn every_message_is_told_of_with_its_times_and_outcome() {
    let rt = runtime();
    let (actor, witness) = observed(&rt, 10);
    actor.try_send(Msg::Sleep(ms(100))).unwrap();
    actor.try_send(Msg::Sleep(ms(40))).unwrap();
    actor.try_send(Msg::Sleep(ms(900))).unwrap();
    sleep(ms(2_000)).await;
    actor.try_send(Msg::Fail).unwrap();
    sleep(ms(6_000)).await;
    actor.try_send(Msg::Panic).unwrap();
    sleep(ms(6_000)).await;
    let lines = witness.log.lines();
    let handled: Vec<(&str, Vec<u64>)> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("w handled "))
        .map(|line| {
            let mut words = line.split(' ');
            let outcome = words.next().unwrap();
            (outcome, words.map(|w| w.parse().unwrap()).collect())
        })
        .collect();
    let expected = [
        ("ok", [0, 100]),
        ("ok", [100, 40]),
        ("timeout", [140, 900]),
        ("error", [0, 0]),
        ("error", [0, 0]),
    ];
    assert_eq!(handled.len(), expected.len(), "{lines:?}");
    for ((outcome, times), (expected, wanted)) in handled.into_iter().zip(expected) {
        assert_eq!(outcome, expected);
        assert!(
            times.iter().zip(wanted).all(|(a, b)| a.abs_diff(b) <= 2),
            "{times:?} {wanted:?}"
        );
    }
    balanced(actor.accounts());
}

#[tokio::test(start_paused = true)]
async fn every_refusal_is_told_of_with_its_reason() {
    let rt = runtime();
    let (actor, witness) = observed(&rt, 1);
    actor.try_send(Msg::Sleep(ms(100))).unwrap();
    settle().await;
    actor.try_send(Msg::Note(1)).unwrap();
    actor.try_send(Msg::Note(2)).unwrap_err();
    actor.ask(Msg::Notes).await.unwrap_err();
    let soon = (Instant::now() + ms(20)).into_std();
    actor
        .send_with_deadline(Msg::Note(3), soon)
        .await
        .unwrap_err();
    actor.stop();
    actor.try_send(Msg::Note(4)).unwrap_err();
    actor.stopped().await;
    actor.try_send(Msg::Note(5)).unwrap_err();
    rt.drain(ms(10)).await;
    actor.try_send(Msg::Note(6)).unwrap_err();
    let refused: Vec<String> = witness
        .log
        .lines()
        .into_iter()
        .filter(|line| line.starts_with("w refused"))
        .collect();
    assert_eq!(
        refused,
        [
            "w refused capacity",
            "w refused capacity",
            "w refused deadline",
            "w refused closed",
            "w refused closed",
            "w refused closed"
        ]
    );
    let accounts = balanced(actor.accounts());
    let all = accounts.refused;
    assert_eq!(
        (all.busy, all.deadline, all.draining, all.closed),
        (2, 1, 2, 1)
    );
}

/// What a drain refuses is no loss: `shutdown` is for what it had accepted.
#[tokio::test(start_paused = true)]
async fn what_a_drain_refuses_is_closed() {
    let rt = runtime();
    let (actor, witness) = observed(&rt, 4);
    actor.try_send(Msg::Sleep(ms(50))).unwrap();
    let mut drain = pin!(rt.drain(ms(1_000)));
    assert!(poll(drain.as_mut()).is_pending());
    actor.try_send(Msg::Note(1)).unwrap_err();
    drain.await;
    actor.try_send(Msg::Note(2)).unwrap_err();
    let lines = witness.log.lines();
    let refused: Vec<&String> = lines.iter().filter(|l| l.contains("refused")).collect();
    assert_eq!(refused, ["w refused closed"; 2]);
    assert_eq!(balanced(actor.accounts()).refused.draining, 2);
}

#[tokio::test(start_paused = true)]
async fn every_message_that_is_dropped_unhandled_is_told_of_with_its_reason() {
    let rt = runtime();
    let (actor, witness) = observed(&rt, 20);
    let count = |reason: &str| -> u64 {
        let suffix = format!(" {reason}");
        let lines = witness.log.lines();
        let counts = lines
            .iter()
            .filter_map(|l| l.strip_prefix("w dropped ")?.strip_suffix(&suffix));
        counts.map(|n| n.parse::<u64>().unwrap()).sum()
    };
    actor.try_send(Msg::Sleep(ms(900))).unwrap();
    settle().await;
    let soon = (Instant::now() + ms(20)).into_std();
    for _ in 0..3 {
        actor.send_with_deadline(Msg::Note(1), soon).await.unwrap();
    }
    {
        let mut asking = pin!(actor.ask(Msg::Notes));
        assert!(poll(asking.as_mut()).is_pending());
    }
    sleep(ms(950)).await;
    assert_eq!(count("deadline"), 4, "{:?}", witness.log.lines());
    actor.try_send(Msg::Sleep(ms(5_000))).unwrap();
    settle().await;
    for n in 0..5 {
        actor.try_send(Msg::Note(n)).unwrap();
    }
    rt.drain(ms(100)).await;
    let accounts = balanced(actor.accounts());
    assert_eq!((accounts.dropped, accounts.aborted), (5, 1));
    let shutdown = count("shutdown");
    assert!((5..=6).contains(&shutdown), "{:?}", witness.log.lines());
    assert_eq!(count("closed"), 0);

    let config = RykerConfig::builder().rapid_fail_threshold(1);
    let rt = Runtime::new(config.build().unwrap());
    let (actor, witness) = observed(&rt, 20);
    actor.try_send(Msg::Panic).unwrap();
    for n in 0..5 {
        actor.try_send(Msg::Note(n)).unwrap();
    }
    actor.stopped().await;
    settle().await;
    let lines = witness.log.lines();
    assert!(lines.iter().any(|l| l == "w dropped 5 closed"), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn restarts_and_the_end_are_told_of_with_their_cause() {
    let config = RykerConfig::builder()
        .rapid_fail_threshold(3)
        .deadline(ms(60_000));
    let rt = Runtime::new(config.rapid_fail_window(ms(60_000)).build().unwrap());
    let (actor, witness) = observed(&rt, 20);
    for message in [Msg::Panic, Msg::Fail, Msg::Panic] {
        actor.try_send(message).unwrap();
    }
    let exit = actor.stopped().await;
    assert!(matches!(exit, ActorExit::RapidFail { failures: 3, .. }));
    let lines: Vec<String> = witness
        .log
        .lines()
        .into_iter()
        .filter(|l| l.contains("restarts") || l.contains("exits"))
        .collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[0].contains("told to panic"), "{lines:?}");
    assert!(lines[1].contains("as told"), "{lines:?}");
    assert!(lines[2].starts_with("w exits:"), "{lines:?}");
    let failures: Vec<u32> = witness.delays.lock().unwrap().iter().map(|d| d.0).collect();
    assert_eq!(failures, [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn every_end_is_told_of_once() {
    let rt = runtime();
    let mut witnesses = Vec::new();
    for way in 0..4 {
        let (actor, witness) = observed(&rt, 4);
        settle().await;
        match way {
            0 => actor.stop(),
            1 => drop(actor),
            2 => actor.try_send(Msg::Sleep(ms(60_000))).unwrap(),
            _ => {}
        }
        witnesses.push(witness);
    }
    rt.drain(ms(100)).await;
    settle().await;
    for (way, witness) in witnesses.iter().enumerate() {
        let lines = witness.log.lines();
        let ends = lines.iter().filter(|l| l.contains("exits")).count();
        assert_eq!(ends, 1, "{way}: {lines:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_supervised_actor_tells_of_its_end_and_leaves_restarts_to_its_supervisor() {
    let rt = runtime();
    let witness = Arc::new(Witness::default());
    let builder = rt.actor("w", || Worker::new(&Log::default()));
    let built = builder.observer(witness.clone()).runner();
    let (actor, runner) = built.unwrap();
    actor.try_send(Msg::Fail).unwrap();
    runner.run(std::future::pending::<()>()).await.unwrap_err();
    actor.stop();
    runner.run(std::future::pending::<()>()).await.unwrap();
    drop(runner);
    let lines = witness.log.lines();
    assert!(!lines.iter().any(|l| l.contains("restarts")), "{lines:?}");
    let ends = lines.iter().filter(|l| l.contains("exits")).count();
    assert_eq!(ends, 1, "{lines:?}");
    balanced(actor.accounts());
}

#[derive(Debug)]
struct Panicking(&'static str);

impl Panicking {
    fn at(&self, point: &str) {
        if self.0 == point {
            quietly_panic("observer");
        }
    }
}

impl Observer for Panicking {
    fn on_dropped(&self, _: &str, _: DropReason, _: u64) {
        self.at("dropped");
    }
    fn on_handled(&self, _: &str, _: Outcome, _: Duration, _: Duration) {
        self.at("handled");
    }
    fn on_restart(&self, _: &str, _: &ActorExit, _: u32, _: Duration) {
        self.at("restart");
    }
    fn on_exit(&self, _: &str, _: &ActorExit) {
        self.at("exit");
    }
}

async fn panics_at(point: &'static str) {
    let config = RykerConfig::builder().rapid_fail_threshold(1_000);
    let config = config.backoff_base(ms(1)).backoff_cap(ms(1));
    let (rt, log) = (Runtime::new(config.build().unwrap()), Log::default());
    let log_ = log.clone();
    let builder = rt.actor("w", move || Worker::new(&log_));
    let builder = builder.observer(Arc::new(Panicking(point)));
    let actor = builder.spawn().unwrap();
    actor.try_send(Msg::Note(1)).unwrap();
    sleep(ms(10)).await;
    let soon = (Instant::now() + ms(10)).into_std();
    actor.try_send(Msg::Sleep(ms(30))).unwrap();
    actor.send_with_deadline(Msg::Note(9), soon).await.unwrap();
    actor.try_send(Msg::Panic).unwrap();
    sleep(ms(100)).await;
    actor.try_send(Msg::Note(2)).unwrap();
    sleep(ms(10)).await;
    assert!(log.has("note 1") && log.has("note 2") && !log.has("note 9"));
    actor.stop();
    let exit = tokio::time::timeout(ms(5_000), actor.stopped()).await;
    assert!(exit.is_ok(), "its end is not told");
    let accounts = balanced(actor.accounts());
    assert_eq!((accounts.ok, accounts.panicked), (3, 1), "{accounts:?}");
    assert_eq!((accounts.accepted, accounts.expired), (5, 1));
}

#[tokio::test(start_paused = true)]
async fn an_observer_that_panics_when_a_message_was_handled_loses_nothing_else() {
    panics_at("handled").await;
}

#[tokio::test(start_paused = true)]
async fn an_observer_that_panics_when_messages_were_dropped_loses_nothing_else() {
    panics_at("dropped").await;
}

#[tokio::test(start_paused = true)]
async fn an_observer_that_panics_at_a_restart_does_not_prevent_it() {
    panics_at("restart").await;
}

#[tokio::test(start_paused = true)]
async fn an_observer_that_panics_at_the_end_does_not_hide_it() {
    panics_at("exit").await;
}

/// A subscriber that panics at the span of a message.
struct Faulty;

impl tracing::Subscriber for Faulty {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.is_span()
    }
    fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        assert!(
            span.metadata().name() != "ryker.actor.handle",
            "a faulty subscriber"
        );
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_span_cannot_be_made_has_an_end() {
    struct Deaf;
    impl Actor for Deaf {
        type Msg = ();
        type Error = Infallible;
        async fn handle(&mut self, (): (), _: &mut Context<Self>) -> Result<(), Infallible> {
            Ok(())
        }
    }
    let _subscriber = tracing::subscriber::set_default(Faulty);
    let config = RykerConfig::builder().span_level(ryker::config::SpanLevel::Debug);
    let rt = Runtime::new(config.build().unwrap());
    let deaf = rt.spawn("deaf", || Deaf).unwrap();
    deaf.try_send(()).unwrap();
    deaf.stop();
    deaf.stopped().await;
    let accounts = deaf.accounts();
    assert_eq!(
        (accounts.accepted, accounts.panicked, accounts.pending),
        (1, 1, 0)
    );
}
