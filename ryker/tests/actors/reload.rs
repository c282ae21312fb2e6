//! A reload changes what runs, says what it could not change, and never what a builder was told.

use std::sync::Arc;
use std::time::Duration;

use ryker::config::{ReloadClass, Source};
use ryker::{ActorExit, ErrorKind, Runtime, RykerConfig, SendError};
use tokio::time::{advance, sleep};

use crate::rig::{about, balanced, ms, runtime, settle, timed, worker, Log, Msg, Witness, Worker};

#[tokio::test(start_paused = true)]
async fn a_reload_tells_what_is_in_force_and_what_is_not() {
    let rt = runtime();
    let new = RykerConfig::builder()
        .mailbox_capacity(9)
        .max_msg_bytes(2_048)
        .amnesia(true)
        .deadline(ms(50))
        .batch_messages(3)
        .rapid_fail_threshold(7);
    let reloaded = rt.reload(new.build().unwrap());
    let keys = |changes: &[ryker::config::Change]| -> Vec<String> {
        let mut keys: Vec<_> = changes.iter().map(|c| c.key.to_string()).collect();
        keys.sort();
        keys
    };
    assert_eq!(
        keys(&reloaded.applied),
        [
            "defaults.deadline",
            "fairness.batch_messages",
            "supervisor.rapid_fail_threshold"
        ]
    );
    assert_eq!(
        keys(&reloaded.cold),
        [
            "amnesia.enabled",
            "defaults.mailbox_capacity",
            "defaults.max_msg_bytes"
        ]
    );
    assert!(reloaded.cold.iter().all(|c| c.reload == ReloadClass::Cold));
    let now = rt.config();
    assert_eq!((now.deadline(), now.batch_messages()), (ms(50), 3));
    assert_eq!((now.mailbox_capacity(), now.amnesia()), (256, false));
    assert_eq!(rt.mailbox::<u8>("m").build().unwrap().capacity(), 256);

    // Once more: what is cold is still not applied, and told again; the rest is not new.
    let again = rt.reload(RykerConfig::builder().deadline(ms(50)).build().unwrap());
    assert!(again.cold.is_empty());
    assert_eq!(
        keys(&again.applied),
        ["fairness.batch_messages", "supervisor.rapid_fail_threshold"]
    );
    let nothing = rt.reload(RykerConfig::builder().deadline(ms(50)).build().unwrap());
    assert!(nothing.applied.is_empty() && nothing.cold.is_empty());
    assert_eq!(rt.config().source(), Source::Api);
}

#[tokio::test(start_paused = true)]
async fn a_new_deadline_holds_for_an_actor_that_is_running() {
    let (rt, log) = (runtime(), Log::default());
    let follows = worker(&rt, &log);
    let log_ = log.clone();
    let own = rt
        .actor("own", move || Worker::new(&log_))
        .deadline(ms(2_000));
    let own = own.spawn().unwrap();
    let (_, took) = timed(follows.ask(Msg::Keep)).await;
    about(took, ms(1_000));
    rt.reload(RykerConfig::builder().deadline(ms(70)).build().unwrap());
    let (answer, took) = timed(follows.ask(Msg::Keep)).await;
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::Timeout);
    about(took, ms(70));
    let (_, took) = timed(own.ask(Msg::Keep)).await;
    about(took, ms(2_000));
    assert!(rt.accounts().balances());
}

#[tokio::test(start_paused = true)]
async fn new_delays_hold_from_the_next_failure_and_leave_a_delay_that_has_begun() {
    let fixed = |millis| {
        let config = RykerConfig::builder().rapid_fail_threshold(1_000);
        let config = config.backoff_base(ms(millis)).backoff_cap(ms(millis));
        config.build().unwrap()
    };
    let rt = Runtime::new(fixed(300));
    let witness = Arc::new(Witness::default());
    let log = witness.log.clone();
    let builder = rt.actor("w", move || Worker::new(&log));
    let actor = builder.observer(witness.clone()).spawn().unwrap();
    actor.try_send(Msg::Panic).unwrap();
    settle().await;
    advance(ms(100)).await;
    rt.reload(fixed(40));
    let (notes, took) = timed(actor.ask(Msg::Notes)).await;
    notes.unwrap();
    about(took, ms(200));
    actor.try_send(Msg::Panic).unwrap();
    settle().await;
    let (notes, took) = timed(actor.ask(Msg::Notes)).await;
    notes.unwrap();
    about(took, ms(40));
    let delays: Vec<Duration> = witness.delays.lock().unwrap().iter().map(|d| d.1).collect();
    assert_eq!(delays, [ms(300), ms(40)]);
    balanced(actor.accounts());
}

#[tokio::test(start_paused = true)]
async fn a_new_threshold_holds_from_the_next_failure() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    for _ in 0..2 {
        actor.try_send(Msg::Panic).unwrap();
        sleep(ms(1_000)).await;
    }
    rt.reload(
        RykerConfig::builder()
            .rapid_fail_threshold(3)
            .build()
            .unwrap(),
    );
    actor.try_send(Msg::Panic).unwrap();
    let exit = actor.stopped().await;
    assert!(
        matches!(exit, ActorExit::RapidFail { failures: 3, .. }),
        "{exit:?}"
    );
    balanced(actor.accounts());
}

/// A wider window ends a failing actor sooner: the direction the configuration documents.
#[tokio::test(start_paused = true)]
async fn a_wider_window_ends_an_actor_that_a_narrower_one_tolerates() {
    for (window, ends) in [(2_000, false), (60_000, true)] {
        let config = RykerConfig::builder().rapid_fail_threshold(3);
        let config = config.rapid_fail_window(ms(window)).deadline(ms(60_000));
        let (rt, log) = (Runtime::new(config.build().unwrap()), Log::default());
        let actor = worker(&rt, &log);
        for _ in 0..10 {
            let _ = actor.try_send(Msg::Panic);
            sleep(ms(5_500)).await;
        }
        assert_eq!(actor.exit().is_some(), ends, "{window}");
        balanced(actor.accounts());
    }
}

#[tokio::test(start_paused = true)]
async fn a_clone_of_the_runtime_is_the_same_runtime() {
    let (rt, log) = (runtime(), Log::default());
    let other = rt.clone();
    other.reload(RykerConfig::builder().deadline(ms(70)).build().unwrap());
    assert_eq!(rt.config().deadline(), ms(70));
    let actor = worker(&other, &log);
    rt.drain(ms(100)).await;
    assert!(matches!(
        actor.try_send(Msg::Fail),
        Err(SendError::Draining(_))
    ));
    assert_eq!(rt.accounts(), other.accounts());
}

/// A reload of a runtime that has drained changes the configuration and brings nothing back.
#[tokio::test(start_paused = true)]
async fn a_reload_does_not_undo_a_drain() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    rt.drain(ms(100)).await;
    rt.reload(RykerConfig::builder().deadline(ms(70)).build().unwrap());
    assert_eq!(
        actor.try_send(Msg::Fail).unwrap_err().kind(),
        ErrorKind::Draining
    );
    let log_ = log.clone();
    assert!(rt.spawn("late", move || Worker::new(&log_)).is_err());
}
