//! References that keep an actor alive, those that do not, and the one call that ends it at once.

use std::pin::pin;
use std::time::Duration;

use ryker::{ActorExit, ActorRef, ErrorKind, Runtime, RykerConfig, SendError, WeakActorRef};
use tokio::time::sleep;

use crate::rig::{balanced, job, ms, poll, runtime, settle, timed, worker, Log, Msg, Worker};

#[tokio::test(start_paused = true)]
async fn a_weak_reference_does_not_keep_its_actor_alive() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    let weak = actor.downgrade();
    let strong = weak.upgrade().unwrap();
    assert!(strong.same_actor(&actor));
    assert_eq!(strong.ask(Msg::Notes).await.unwrap().len(), 0);
    drop(actor);
    sleep(ms(100)).await;
    assert!(weak.clone().upgrade().is_some(), "one is left");
    strong.try_send(Msg::Sleep(ms(50))).unwrap();
    drop(strong);
    assert!(weak.upgrade().is_none(), "though it is still at work");
    sleep(ms(100)).await;
    assert!(weak.upgrade().is_none());
    assert_eq!(log.lines(), ["start 1", "stop", "drop"]);
    assert!(rt.accounts().balances());
}

/// What was let go of by everybody is not brought back to life, whoever tries and whenever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_beside_the_last_drop_is_all_or_nothing() {
    for _ in 0..500 {
        let (rt, log) = (runtime(), Log::default());
        let actor = worker(&rt, &log);
        let weak: WeakActorRef<Msg> = actor.downgrade();
        let upgraded = tokio::spawn(async move {
            let strong = weak.upgrade();
            let sent = strong
                .as_ref()
                .map(|strong| strong.try_send(Msg::Note(1)).is_ok());
            drop(strong);
            (sent, weak)
        });
        drop(actor);
        let (sent, weak) = upgraded.await.unwrap();
        assert_ne!(sent, Some(false), "alive, and closed");
        assert!(weak.upgrade().is_none());
        assert!(rt.drain(Duration::from_secs(20)).await.is_clean());
        let accounts = balanced(rt.accounts());
        assert_eq!(accounts.ok, u64::from(sent == Some(true)));
        assert!(log.has("stop"), "{:?}", log.lines());
    }
}

#[tokio::test(start_paused = true)]
async fn an_actor_may_keep_a_weak_reference_to_itself() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    let (tx, rx) = tokio::sync::oneshot::channel();
    let lend = job(move |_, cx| {
        let _ = tx.send(cx.actor_ref().map(|itself| itself.downgrade()));
        Box::pin(async { Ok(()) })
    });
    actor.try_send(lend).unwrap();
    let weak = rx.await.unwrap().unwrap();
    assert!(weak.upgrade().unwrap().same_actor(&actor));
    drop(actor);
    sleep(ms(10)).await;
    assert!(log.has("stop"));
    assert!(weak.upgrade().is_none());
}

#[tokio::test(start_paused = true)]
async fn references_to_namesakes_are_told_apart() {
    let (rt, log) = (runtime(), Log::default());
    let (one, two) = (worker(&rt, &log), worker(&rt, &log));
    assert!(one.same_actor(&one.clone()) && !one.same_actor(&two));
    one.try_send(Msg::Panic).unwrap();
    let before = one.clone();
    one.ask(Msg::Notes).await.unwrap();
    assert!(one.same_actor(&before), "a restart does not change it");
}

#[tokio::test(start_paused = true)]
async fn an_abort_ends_it_at_once_and_tells_whoever_waits() {
    let (rt, log) = (runtime(), Log::default());
    let log_ = log.clone();
    let spawned = rt
        .actor("w", move || Worker::new(&log_))
        .capacity(3)
        .spawn();
    let actor = spawned.unwrap();
    let mut in_hand = Box::pin(actor.ask(|reply| Msg::SleepThenAnswer(ms(500), reply)));
    assert!(poll(in_hand.as_mut()).is_pending());
    settle().await;
    let mut queued = Box::pin(actor.ask(Msg::Notes));
    assert!(poll(queued.as_mut()).is_pending());
    actor.try_send(Msg::Note(1)).unwrap();
    actor.try_send(Msg::Note(2)).unwrap();
    let mut waits = Box::pin(actor.send(Msg::Note(3)));
    assert!(poll(waits.as_mut()).is_pending());
    actor.abort();
    assert!(actor.is_closed());
    let (exit, took) = timed(actor.stopped()).await;
    assert_eq!(took, Duration::ZERO);
    assert!(matches!(exit, ActorExit::Cancelled), "{exit:?}");
    let (ends, took) = timed(async { tokio::join!(in_hand, queued, waits) }).await;
    assert_eq!(took, Duration::ZERO);
    let told = ends.0.map_err(|error| error.kind());
    assert_eq!(told, Err(ErrorKind::NoReply));
    let told = ends.1.map_err(|error| error.kind());
    assert_eq!(told, Err(ErrorKind::Closed));
    assert!(
        matches!(ends.2, Err(SendError::Closed(Msg::Note(3)))),
        "{:?}",
        ends.2
    );
    assert_eq!(log.lines(), ["start 1", "sleeps", "drop"]);
    let accounts = balanced(actor.accounts());
    assert_eq!((accounts.aborted, accounts.dropped, accounts.ok), (1, 3, 0));
    actor.abort();
    actor.stop();
    assert!(matches!(actor.exit(), Some(ActorExit::Cancelled)));
    assert!(matches!(
        actor.try_send(Msg::Fail),
        Err(SendError::Closed(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn an_abort_ends_it_wherever_it_is() {
    let config = || {
        RykerConfig::builder()
            .backoff_base(ms(60_000))
            .backoff_cap(ms(60_000))
    };
    let aborted = |way: &'static str| async move {
        let (rt, log) = (Runtime::new(config().build().unwrap()), Log::default());
        let actor = worker(&rt, &log);
        match way {
            "before it began" => {}
            "idle" => settle().await,
            "during a delay" => {
                actor.try_send(Msg::Panic).unwrap();
                settle().await;
            }
            "while it stops" => {
                actor.try_send(Msg::Sleep(ms(500))).unwrap();
                actor.stop();
                settle().await;
            }
            "during a drain" => {
                actor.try_send(Msg::Sleep(ms(500))).unwrap();
                let mut drain = pin!(rt.drain(ms(60_000)));
                assert!(poll(drain.as_mut()).is_pending());
            }
            _ => {
                // By itself.
                let end = job(|_, cx| {
                    cx.actor_ref().unwrap().abort();
                    Box::pin(async {
                        sleep(ms(500)).await;
                        Ok(())
                    })
                });
                actor.try_send(end).unwrap();
            }
        }
        if way != "by itself" {
            actor.abort();
        }
        let (exit, took) = timed(actor.stopped()).await;
        assert_eq!(took, Duration::ZERO, "{way}");
        assert!(matches!(exit, ActorExit::Cancelled), "{way}: {exit:?}");
        assert!(!log.has("stop"), "{way}");
        let accounts = balanced(actor.accounts());
        assert_eq!(accounts.pending, 0, "{way}");
        // A drain finds nothing left to wait for.
        let (report, took) = timed(rt.drain(ms(60_000))).await;
        assert!(report.balances() && took <= ms(5), "{way}: {report:?}");
    };
    for way in [
        "before it began",
        "idle",
        "during a delay",
        "while it stops",
        "during a drain",
        "by itself",
    ] {
        aborted(way).await;
    }
}

/// The state and what it holds are gone when the end is told.
#[tokio::test(start_paused = true)]
async fn a_supervised_actor_can_be_aborted_as_well() {
    let (rt, log) = (runtime(), Log::default());
    let log_ = log.clone();
    let built = rt.actor("w", move || Worker::new(&log_)).runner();
    let (actor, runner) = built.unwrap();
    actor.try_send(Msg::Sleep(ms(500))).unwrap();
    actor.try_send(Msg::Note(1)).unwrap();
    let other: ActorRef<Msg> = actor.clone();
    let (end, ()) = tokio::join!(runner.run(std::future::pending::<()>()), async {
        sleep(ms(10)).await;
        other.abort();
    });
    assert!(matches!(end, Err(ActorExit::Cancelled)), "{end:?}");
    // It has ended for good: another run says how, and starts nothing.
    let (again, took) = timed(runner.run(std::future::pending::<()>())).await;
    assert!(matches!(again, Err(ActorExit::Cancelled)), "{again:?}");
    assert_eq!(took, Duration::ZERO);
    assert_eq!(log.lines(), ["start 1", "drop"]);
    assert!(matches!(actor.stopped().await, ActorExit::Cancelled));
    let accounts = balanced(actor.accounts());
    assert_eq!((accounts.aborted, accounts.dropped), (1, 1));

    // Between two runs.
    let log_ = log.clone();
    let built = rt.actor("v", move || Worker::new(&log_)).runner();
    let (actor, runner) = built.unwrap();
    actor.try_send(Msg::Note(1)).unwrap();
    actor.abort();
    let (exit, took) = timed(actor.stopped()).await;
    assert!(matches!(exit, ActorExit::Cancelled));
    assert_eq!(took, Duration::ZERO);
    assert_eq!(balanced(actor.accounts()).dropped, 1);
    drop(runner);
}
