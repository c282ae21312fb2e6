//! How an actor ends: stopped, let go by everybody, with its executor, or by itself.

use std::sync::Arc;
use std::time::Duration;

use ryker::{
    Actor, ActorExit, ActorRef, AskError, BuildError, Context, ErrorKind, Runtime, RykerConfig,
    SendError,
};
use tokio::time::sleep;

use crate::rig::{balanced, job, ms, poll, runtime, settle, timed, worker, Log, Msg, Told, Worker};

#[tokio::test(start_paused = true)]
async fn a_stopped_actor_works_off_its_mailbox_and_ends_in_peace() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    actor.try_send(Msg::Note(1)).unwrap();
    actor.try_send(Msg::Sleep(ms(100))).unwrap();
    actor.try_send(Msg::Note(2)).unwrap();
    actor.stop();
    actor.stop();
    assert!(actor.is_closed());
    assert!(matches!(
        actor.try_send(Msg::Note(3)),
        Err(SendError::Closed(_) | SendError::Draining(_))
    ));
    assert!(actor.exit().is_none());
    let exit = actor.stopped().await;
    assert!(matches!(exit, ActorExit::Normal), "{exit:?}");
    assert!(!exit.is_failure());
    assert_eq!(log.lines(), ["start 1", "note 1", "note 2", "stop", "drop"]);
    let accounts = balanced(actor.accounts());
    assert_eq!((accounts.ok, accounts.dropped), (3, 0));
    // After the end as well.
    actor.stop();
    assert!(matches!(actor.stopped().await, ActorExit::Normal));
}

/// What a stopping actor says, and what one that has stopped says.
#[tokio::test(start_paused = true)]
async fn a_stopping_actor_is_draining_and_a_stopped_one_is_closed() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    actor.try_send(Msg::Sleep(ms(100))).unwrap();
    actor.stop();
    let kind = |refused: Result<(), SendError<Msg>>| refused.unwrap_err().kind();
    assert_eq!(kind(actor.try_send(Msg::Note(1))), ErrorKind::Draining);
    assert_eq!(kind(actor.send(Msg::Note(1)).await), ErrorKind::Draining);
    let asked = actor.ask(Msg::Notes).await.unwrap_err();
    assert_eq!(asked.kind(), ErrorKind::Draining);
    actor.stopped().await;
    assert_eq!(kind(actor.try_send(Msg::Note(1))), ErrorKind::Closed);
    assert_eq!(kind(actor.send(Msg::Note(1)).await), ErrorKind::Closed);
    balanced(actor.accounts());
}

/// A stop of one actor is no drain: who asked it before, from a handler that waits for nobody else, is served.
#[tokio::test(start_paused = true)]
async fn a_question_of_another_actor_that_was_queued_before_a_stop_is_served() {
    let (rt, log) = (runtime(), Log::default());
    let (front, back) = (worker(&rt, &log), worker(&rt, &log));
    back.try_send(Msg::Sleep(ms(50))).unwrap();
    settle().await;
    let asked = back.clone();
    let forward = job(move |worker, _| {
        Box::pin(async move {
            let kind = asked.ask(Msg::Notes).await.map(drop).map_err(|e| e.kind());
            worker.log.add(format!("{kind:?}"));
            Ok(())
        })
    });
    front.try_send(forward).unwrap();
    settle().await;
    assert_eq!(back.depth(), 1);
    back.stop();
    back.stopped().await;
    settle().await;
    assert!(log.has("Ok(())"), "{:?}", log.lines());
    assert_eq!(balanced(back.accounts()).dropped, 0);
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_nobody_can_send_to_any_more_works_off_and_ends() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    let other = actor.clone();
    actor.try_send(Msg::Sleep(ms(100))).unwrap();
    actor.try_send(Msg::Note(1)).unwrap();
    drop(actor);
    sleep(ms(200)).await;
    assert!(!log.has("stop"));
    other.try_send(Msg::Note(2)).unwrap();
    drop(other);
    sleep(ms(10)).await;
    assert_eq!(log.lines(), ["start 1", "note 1", "note 2", "stop", "drop"]);
    assert_eq!(balanced(rt.accounts()).ok, 3);
}

#[tokio::test(start_paused = true)]
async fn a_reference_that_its_context_hands_out_keeps_it_alive() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    let (tx, rx) = tokio::sync::oneshot::channel();
    let lend = job(|_, cx| {
        let _ = tx.send(cx.actor_ref());
        Box::pin(async { Ok(()) })
    });
    actor.try_send(lend).unwrap();
    settle().await;
    drop(actor);
    let lent: ActorRef<Msg> = rx.await.unwrap().unwrap();
    sleep(ms(100)).await;
    assert_eq!(lent.ask(Msg::Notes).await.unwrap().len(), 0);
    let late = job(|worker, cx| {
        let found = cx.actor_ref().is_some();
        worker.log.add(format!("found {found}"));
        Box::pin(async { Ok(()) })
    });
    lent.try_send(Msg::Sleep(ms(5))).unwrap();
    lent.try_send(late).unwrap();
    drop(lent);
    sleep(ms(100)).await;
    assert_eq!(log.lines()[1..], ["found false", "stop", "drop"]);
    assert!(rt.accounts().balances());
}

#[tokio::test(start_paused = true)]
async fn an_actor_may_drop_its_own_last_reference() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    let own = actor.clone();
    let let_go = job(move |worker, cx| {
        Box::pin(async move {
            sleep(ms(50)).await;
            drop(own);
            worker.log.add(format!("{}", cx.actor_ref().is_none()));
            Ok(())
        })
    });
    actor.try_send(let_go).unwrap();
    actor.try_send(Msg::Note(1)).unwrap();
    drop(actor);
    sleep(ms(100)).await;
    assert_eq!(log.lines(), ["start 1", "true", "note 1", "stop", "drop"]);
    assert_eq!(balanced(rt.accounts()).ok, 2);
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_sends_to_itself_goes_on_until_it_stops_itself() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    fn again(left: u32) -> Msg {
        job(move |worker, cx| {
            worker.notes.push(left);
            if left == 0 {
                cx.stop();
                assert!(cx.is_stopping());
                let refused = cx.actor_ref().map(|itself| itself.try_send(Msg::Note(1)));
                assert!(matches!(refused, None | Some(Err(SendError::Draining(_)))));
                worker.log.add(format!("{} notes", worker.notes.len()));
            } else {
                assert!(!cx.is_stopping());
                cx.actor_ref().unwrap().try_send(again(left - 1)).unwrap();
                assert_eq!(cx.depth(), 1);
            }
            Box::pin(async { Ok(()) })
        })
    }
    actor.try_send(again(10_000)).unwrap();
    let exit = actor.stopped().await;
    assert!(matches!(exit, ActorExit::Normal), "{exit:?}");
    assert!(log.has("10001 notes"), "{:?}", log.lines());
    assert_eq!(balanced(actor.accounts()).ok, 10_001);
}

#[tokio::test(start_paused = true)]
async fn many_may_wait_for_the_end_and_some_give_up() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    let waits: Vec<_> = (0..10)
        .map(|_| {
            let actor = actor.clone();
            tokio::spawn(async move { matches!(actor.stopped().await, ActorExit::Normal) })
        })
        .collect();
    {
        let mut given_up = std::pin::pin!(actor.stopped());
        assert!(poll(given_up.as_mut()).is_pending());
    }
    settle().await;
    waits[3].abort();
    actor.stop();
    for (n, wait) in waits.into_iter().enumerate() {
        assert_eq!(wait.await.ok(), (n != 3).then_some(true));
    }
    balanced(actor.accounts());
}

/// They hold references while they wait, and would wait for each other.
#[tokio::test(start_paused = true)]
async fn an_actor_is_told_apart_from_its_namesakes() {
    let (rt, log) = (runtime(), Log::default());
    let (one, two) = (worker(&rt, &log), worker(&rt, &log));
    assert_eq!((one.name(), two.name()), ("worker", "worker"));
    one.stop();
    one.stopped().await;
    assert!(two.exit().is_none());
    assert!(two.ask(Msg::Notes).await.is_ok());
    assert!(rt.accounts().balances());
}

#[test]
fn an_actor_needs_an_executor_and_says_so() {
    let (rt, log) = (runtime(), Log::default());
    let spawned = rt.spawn("w", move || Worker::new(&log));
    match spawned {
        Err(BuildError::NoExecutor { name }) => assert_eq!(name, "w"),
        other => panic!("{other:?}"),
    }
    assert_eq!(rt.accounts().accepted, 0);
}

#[tokio::test(start_paused = true)]
async fn an_actor_is_refused_for_the_same_reasons_as_a_mailbox() {
    let rt = runtime();
    let log = Log::default();
    let spawn = |name: &str| {
        let log = log.clone();
        rt.actor(name, move || Worker::new(&log))
    };
    assert!(matches!(
        spawn("no name").spawn(),
        Err(BuildError::Name { .. })
    ));
    assert!(matches!(
        spawn("w").capacity(0).spawn(),
        Err(BuildError::Invalid {
            option: "capacity",
            ..
        })
    ));
    assert!(matches!(
        spawn("w").deadline(Duration::from_secs(61)).spawn(),
        Err(BuildError::Invalid {
            option: "deadline",
            ..
        })
    ));
    assert!(spawn("w").capacity(1).runner().is_ok());
    rt.drain(Duration::ZERO).await;
    assert!(matches!(
        spawn("w").spawn(),
        Err(BuildError::Draining { .. })
    ));
    assert!(log.lines().is_empty(), "nothing was made");
}

fn executor() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().unwrap()
}

#[test]
fn an_executor_that_ends_takes_its_actors_along_and_says_so() {
    let log = Log::default();
    let rt = runtime();
    let executor = executor();
    let (actor, asking) = executor.block_on(async {
        let actor = worker(&rt, &log);
        actor.ask(Msg::Notes).await.unwrap();
        let asker = actor.clone();
        actor.try_send(Msg::Sleep(Duration::from_secs(60))).unwrap();
        while actor.depth() > 0 {
            tokio::task::yield_now().await;
        }
        actor.try_send(Msg::Note(1)).unwrap();
        actor.try_send(Msg::Note(2)).unwrap();
        (actor, asker)
    });
    let waits = std::thread::spawn(move || {
        let other = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        other.block_on(async move { (asking.ask(Msg::Notes).await, asking.stopped().await) })
    });
    while actor.depth() < 3 {
        std::thread::yield_now();
    }
    drop(executor);
    let (answer, exit) = waits.join().unwrap();
    assert!(matches!(answer, Err(AskError::Closed)), "{answer:?}");
    assert!(matches!(exit, ActorExit::Cancelled), "{exit:?}");
    assert!(!exit.is_failure());
    assert!(matches!(
        actor.try_send(Msg::Note(3)),
        Err(SendError::Closed(_))
    ));
    let accounts = balanced(actor.accounts());
    assert_eq!((accounts.ok, accounts.aborted), (1, 1));
    assert_eq!((accounts.dropped, accounts.pending), (3, 0));
    assert!(log.has("drop") && !log.has("stop"));
    // A drain has nothing to wait for.
    let (report, took) = self::executor().block_on(async {
        let began = std::time::Instant::now();
        (rt.drain(Duration::from_secs(60)).await, began.elapsed())
    });
    assert!(
        report.is_clean() && took < Duration::from_secs(10),
        "{report:?}"
    );
}

/// During the delay before a restart nothing runs that could be dropped, but the actor ends all the same.
#[test]
fn an_executor_that_ends_during_a_delay_ends_the_actor() {
    let config = RykerConfig::builder().backoff_base(Duration::from_secs(60));
    let config = config.backoff_cap(Duration::from_secs(60)).build().unwrap();
    let (rt, log) = (Runtime::new(config), Log::default());
    let executor = executor();
    let actor = executor.block_on(async {
        let actor = worker(&rt, &log);
        actor.try_send(Msg::Panic).unwrap();
        while actor.accounts().panicked == 0 {
            tokio::task::yield_now().await;
        }
        actor.try_send(Msg::Note(1)).unwrap();
        actor
    });
    drop(executor);
    assert!(
        matches!(actor.exit(), Some(ActorExit::Cancelled)),
        "{:?}",
        actor.exit()
    );
    assert!(matches!(
        actor.try_send(Msg::Note(2)),
        Err(SendError::Closed(_))
    ));
    let accounts = balanced(actor.accounts());
    assert_eq!((accounts.dropped, accounts.pending), (1, 0));
}

/// An executor that has ended already: the actor is spawned into nothing.
#[test]
fn an_actor_spawned_on_an_executor_that_has_ended_has_ended() {
    let executor = executor();
    let handle = executor.handle().clone();
    drop(executor);
    let (rt, log) = (runtime(), Log::default());
    let _inside = handle.enter();
    let log_ = log.clone();
    if let Ok(actor) = rt.spawn("w", move || Worker::new(&log_)) {
        assert!(
            matches!(actor.exit(), Some(ActorExit::Cancelled)),
            "{:?}",
            actor.exit()
        );
        assert!(matches!(
            actor.try_send(Msg::Note(1)),
            Err(SendError::Closed(_))
        ));
        balanced(actor.accounts());
    }
    assert!(log.lines().is_empty());
}

/// Ends in peace only after a last look into the mailbox: what was accepted is handled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_accepted_before_a_stop_is_lost() {
    for _ in 0..300 {
        let (rt, log) = (runtime(), Log::default());
        let actor = worker(&rt, &log);
        let sender = actor.clone();
        let sent = tokio::spawn(async move {
            let mut sent = 0;
            while sender.try_send(Msg::Note(sent)).is_ok() || !sender.is_closed() {
                sent += 1;
                if sent % 16 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        });
        tokio::task::yield_now().await;
        actor.stop();
        assert!(matches!(actor.stopped().await, ActorExit::Normal));
        sent.await.unwrap();
        let accounts = balanced(actor.accounts());
        assert_eq!((accounts.ok, accounts.dropped), (accounts.accepted, 0));
        let notes = log.lines().iter().filter(|l| l.starts_with("note")).count();
        assert_eq!(notes as u64, accounts.ok);
    }
}

/// The state is gone when the end is told.
#[tokio::test(start_paused = true)]
async fn whoever_is_told_of_the_end_finds_the_state_gone() {
    struct Holder(#[allow(dead_code)] Arc<()>); // there to be dropped
    impl Actor for Holder {
        type Msg = ();
        type Error = Told;
        async fn handle(&mut self, (): (), _: &mut Context<Self>) -> Result<(), Told> {
            Ok(())
        }
    }
    let rt = runtime();
    let token = Arc::new(());
    let mine = token.clone();
    let actor = rt.spawn("holder", move || Holder(mine.clone())).unwrap();
    actor.try_send(()).unwrap();
    settle().await;
    assert_eq!(Arc::strong_count(&token), 3);
    actor.stop();
    let (_, took) = timed(actor.stopped()).await;
    assert_eq!(took, Duration::ZERO);
    assert!(Arc::strong_count(&token) <= 2, "the state is gone");
    settle().await;
    assert_eq!(Arc::strong_count(&token), 1, "the factory as well");
    balanced(actor.accounts());
}

/// Questions at the edges of a life, where no message is in hand.
struct Curious {
    at: &'static str,
    log: Log,
}

impl Curious {
    async fn ask_itself(&self, cx: &Context<Self>) {
        let itself = cx.actor_ref().unwrap();
        let (answer, took) = timed(itself.ask(|reply| reply)).await;
        let kind = answer.unwrap_err().kind();
        self.log
            .add(format!("{kind} {}", took.as_millis() / 10 * 10));
    }
}

impl Actor for Curious {
    type Msg = ryker::Reply<()>;
    type Error = Told;

    async fn on_start(&mut self, cx: &mut Context<Self>) -> Result<(), Told> {
        if self.at == "start" {
            self.ask_itself(cx).await;
        }
        Ok(())
    }

    async fn handle(&mut self, _: Self::Msg, _: &mut Context<Self>) -> Result<(), Told> {
        Ok(())
    }

    async fn on_stop(&mut self, cx: &mut Context<Self>) {
        if self.at == "stop" {
            self.ask_itself(cx).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_asks_itself_when_it_starts_or_stops_lives_and_ends() {
    for (at, end, expected) in [
        ("start", "stop", "timeout 1000"),
        ("start", "drain", "draining 0"),
        ("stop", "stop", "draining 0"),
        ("stop", "drain", "draining 0"),
    ] {
        let (rt, log) = (runtime(), Log::default());
        let log_ = log.clone();
        let make = move || Curious {
            at,
            log: log_.clone(),
        };
        let actor = rt.spawn("curious", make).unwrap();
        settle().await;
        if end == "drain" {
            let (report, took) = timed(rt.drain(ms(5_000))).await;
            assert!(report.balances() && took <= ms(10), "{at}: {report:?}");
        } else {
            sleep(ms(2_000)).await;
            actor.stop();
        }
        let exit = actor.stopped().await;
        assert!(matches!(exit, ActorExit::Normal), "{at} {end}: {exit:?}");
        assert_eq!(log.lines(), [expected], "{at} {end}");
        balanced(actor.accounts());
    }
}
