//! Drain: nothing more comes in, what is in is worked off or counted as lost, and nobody waits for anybody for ever.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::time::Duration;

use ryker::{
    Actor, ActorExit, ActorRef, AskError, BuildError, Context, DrainReport, ErrorKind, Reply,
    Runtime, RykerConfig, SendError,
};
use tokio::time::{sleep, Instant};

use crate::rig::{
    about, balanced, job, ms, poll, quietly_panic, runtime, settle, timed, worker, Log, Msg, Told,
    Worker,
};

#[track_caller]
fn balanced_report(report: DrainReport) -> DrainReport {
    assert!(report.balances(), "{report:?}");
    report
}

#[tokio::test(start_paused = true)]
async fn what_is_queued_is_handled_and_nothing_more_comes_in() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    actor.try_send(Msg::Sleep(ms(50))).unwrap();
    for n in 0..10 {
        actor.try_send(Msg::Note(n)).unwrap();
    }
    let mut asking = pin!(actor.ask(Msg::Notes));
    assert!(poll(asking.as_mut()).is_pending());
    let mut drain = pin!(rt.drain(Duration::from_secs(10)));
    assert!(poll(drain.as_mut()).is_pending());
    assert!(actor.is_closed());
    assert_eq!(
        actor.try_send(Msg::Fail).unwrap_err().kind(),
        ErrorKind::Draining
    );
    assert_eq!(
        actor.send(Msg::Fail).await.unwrap_err().kind(),
        ErrorKind::Draining
    );
    let log_ = log.clone();
    let late = rt.spawn("late", move || Worker::new(&log_));
    assert!(matches!(late, Err(BuildError::Draining { .. })));
    let ((report, notes), took) = timed(async { tokio::join!(drain, asking) }).await;
    assert_eq!(notes.unwrap(), (0..10).collect::<Vec<_>>());
    about(took, ms(50));
    let report = balanced_report(report);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.pending_before, report.handled), (12, 12));
    assert!(matches!(actor.exit(), Some(ActorExit::Normal)));
    assert!(log.has("stop") && log.has("drop"));
    let accounts = balanced(actor.accounts());
    assert_eq!((accounts.refused.draining, accounts.ok), (2, 12));
}

#[tokio::test(start_paused = true)]
async fn after_a_drain_every_send_and_ask_says_draining() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    assert!(balanced_report(rt.drain(ms(100)).await).is_clean());
    let refused = [
        actor.try_send(Msg::Note(1)).unwrap_err().kind(),
        actor.send(Msg::Note(1)).await.unwrap_err().kind(),
        actor.ask(Msg::Notes).await.unwrap_err().kind(),
    ];
    assert_eq!(refused, [ErrorKind::Draining; 3]);
    balanced(actor.accounts());
}

#[tokio::test(start_paused = true)]
async fn nothing_to_drain_takes_no_time_and_may_be_done_again() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    let (report, took) = timed(rt.drain(Duration::ZERO)).await;
    // An idle actor ends at once, but it has to be given its turn.
    assert!(took <= ms(100), "{took:?}");
    assert!(balanced_report(report).is_clean());
    actor.stopped().await;
    for deadline in [Duration::ZERO, Duration::from_secs(60)] {
        let (report, took) = timed(rt.drain(deadline)).await;
        assert_eq!((report, took), (DrainReport::default(), Duration::ZERO));
    }
    let (report, _) = timed(Runtime::new(RykerConfig::default()).drain(ms(10))).await;
    assert_eq!(report, DrainReport::default());
}

#[tokio::test(start_paused = true)]
async fn what_there_is_no_time_for_is_dropped_and_what_is_in_hand_aborted() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    actor.try_send(Msg::Note(0)).unwrap();
    actor.try_send(Msg::Sleep(ms(5_000))).unwrap();
    for n in 1..4 {
        actor.try_send(Msg::Note(n)).unwrap();
    }
    let (report, took) = timed(rt.drain(ms(200))).await;
    about(took, ms(200));
    let report = balanced_report(report);
    assert!(!report.is_clean());
    assert_eq!((report.handled, report.aborted, report.dropped), (1, 1, 3));
    assert_eq!((report.pending, report.stuck.len()), (0, 0));
    let exit = actor.exit().unwrap();
    assert!(matches!(exit, ActorExit::Cancelled), "{exit:?}");
    assert_eq!(
        log.lines(),
        ["start 1", "note 0", "drop"],
        "no stop in peace"
    );
    let accounts = balanced(actor.accounts());
    assert_eq!((accounts.aborted, accounts.dropped), (1, 3));
}

#[tokio::test(start_paused = true)]
async fn what_expires_or_is_abandoned_meanwhile_is_reported_as_such() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    actor.try_send(Msg::Sleep(ms(500))).unwrap();
    settle().await;
    let soon = (Instant::now() + ms(100)).into_std();
    actor.send_with_deadline(Msg::Note(1), soon).await.unwrap();
    actor.try_send(Msg::Fail).unwrap();
    {
        let mut asking = pin!(actor.ask(Msg::Notes));
        assert!(poll(asking.as_mut()).is_pending());
    }
    actor.try_send(Msg::Sleep(ms(700))).unwrap();
    let report = balanced_report(rt.drain(Duration::from_secs(10)).await);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.pending_before, 5);
    assert_eq!((report.expired, report.abandoned), (1, 1), "{report:?}");
    assert_eq!((report.handled, report.timed_out), (2, 1), "{report:?}");
    balanced(actor.accounts());
}

/// Two actors, each in a handler that waits for the other's answer.
#[tokio::test(start_paused = true)]
async fn parent_and_child_that_wait_for_each_other_do_not_hold_up_a_drain() {
    let config = RykerConfig::builder().deadline(Duration::from_secs(60));
    let (rt, log) = (Runtime::new(config.build().unwrap()), Log::default());
    let (parent, child) = (worker(&rt, &log), worker(&rt, &log));
    let ask_other = |other: &ActorRef<Msg>, name: &'static str| {
        let other = other.clone();
        job(move |worker, _| {
            Box::pin(async move {
                let answer = other.ask(Msg::Notes).await;
                worker
                    .log
                    .add(format!("{name} {:?}", answer.map_err(|e| e.kind())));
                Ok(())
            })
        })
    };
    parent.try_send(ask_other(&child, "parent")).unwrap();
    child.try_send(ask_other(&parent, "child")).unwrap();
    settle().await;
    assert_eq!((parent.depth(), child.depth()), (1, 1), "both wait");
    sleep(ms(1_000)).await;
    let (report, took) = timed(rt.drain(Duration::from_secs(30))).await;
    assert!(took <= ms(10), "{took:?}");
    let report = balanced_report(report);
    let lines = log.lines();
    assert!(
        lines.iter().any(|l| l.ends_with("Err(Draining)")),
        "{lines:?}"
    );
    assert_eq!(report.handled + report.dropped, 4, "{report:?}");
    assert!(report.stuck.is_empty() && report.aborted == 0, "{report:?}");
    for actor in [parent, child] {
        assert!(matches!(actor.exit(), Some(ActorExit::Normal)));
        balanced(actor.accounts());
    }
}

/// A ring of three, and one that asks when the drain has begun.
#[tokio::test(start_paused = true)]
async fn a_ring_of_handlers_and_a_late_question_do_not_hold_up_a_drain() {
    let config = RykerConfig::builder().deadline(Duration::from_secs(60));
    let (rt, log) = (Runtime::new(config.build().unwrap()), Log::default());
    let ring: Vec<_> = (0..3).map(|_| worker(&rt, &log)).collect();
    for n in 0..3 {
        let next = ring[(n + 1) % 3].clone();
        let ask = job(move |worker, _| {
            Box::pin(async move {
                if n == 0 {
                    sleep(ms(100)).await;
                }
                let kind = next.ask(Msg::Notes).await.map_err(|e| e.kind());
                worker.log.add(format!("{n} {kind:?}"));
                Ok(())
            })
        });
        ring[n].try_send(ask).unwrap();
    }
    settle().await;
    let (report, took) = timed(rt.drain(Duration::from_secs(30))).await;
    about(took, ms(100));
    balanced_report(report);
    assert!(log.has("0 Err(Draining)"), "{:?}", log.lines());
    assert!(rt.accounts().balances());
}

/// The caller is no handler, so nobody waits in a circle: it is served.
#[tokio::test(start_paused = true)]
async fn asks_from_outside_are_served_during_a_drain() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    actor.try_send(Msg::Sleep(ms(100))).unwrap();
    settle().await;
    let mut asks: Vec<_> = (0..5).map(|_| Box::pin(actor.ask(Msg::Notes))).collect();
    for asking in &mut asks {
        assert!(poll(asking.as_mut()).is_pending());
    }
    let drain = tokio::spawn({
        let rt = rt.clone();
        async move { rt.drain(Duration::from_secs(5)).await }
    });
    for asking in asks {
        asking.await.unwrap();
    }
    assert!(balanced_report(drain.await.unwrap()).is_clean());
    balanced(actor.accounts());
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_waits_for_its_restart_is_started_at_once() {
    let config = RykerConfig::builder()
        .backoff_base(ms(60_000))
        .backoff_cap(ms(60_000));
    let config = config.deadline(ms(60_000)).build().unwrap();
    let (rt, log) = (Runtime::new(config), Log::default());
    let actor = worker(&rt, &log);
    actor.try_send(Msg::Panic).unwrap();
    settle().await;
    actor.try_send(Msg::Note(1)).unwrap();
    let (report, took) = timed(rt.drain(Duration::from_secs(10))).await;
    assert_eq!(took, Duration::ZERO);
    assert!(balanced_report(report).is_clean());
    assert_eq!(
        log.lines(),
        ["start 1", "drop", "start 2", "note 1", "stop", "drop"]
    );
    balanced(actor.accounts());
}

/// A stop is no drain, but it is the same for who waits for a restart.
#[tokio::test(start_paused = true)]
async fn failures_during_a_drain_cost_no_delay_and_no_message_but_their_own() {
    let config = RykerConfig::builder()
        .backoff_base(ms(60_000))
        .backoff_cap(ms(60_000));
    let config = config.rapid_fail_threshold(100).build().unwrap();
    let (rt, log) = (Runtime::new(config), Log::default());
    let actor = worker(&rt, &log);
    for n in 0..10 {
        actor.try_send(Msg::Note(n)).unwrap();
        actor
            .try_send(if n % 2 == 0 { Msg::Panic } else { Msg::Fail })
            .unwrap();
    }
    let (report, took) = timed(rt.drain(Duration::from_secs(10))).await;
    assert_eq!(took, Duration::ZERO);
    let report = balanced_report(report);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.handled, 20);
    let accounts = balanced(actor.accounts());
    assert_eq!((accounts.ok, accounts.panicked, accounts.error), (10, 5, 5));
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_cannot_start_does_not_outlive_the_drain() {
    struct Never;
    impl Actor for Never {
        type Msg = ();
        type Error = Told;
        async fn on_start(&mut self, _: &mut Context<Self>) -> Result<(), Told> {
            std::future::pending().await
        }
        async fn handle(&mut self, (): (), _: &mut Context<Self>) -> Result<(), Told> {
            Ok(())
        }
        async fn on_stop(&mut self, _: &mut Context<Self>) {
            std::future::pending().await
        }
    }
    let rt = runtime();
    let actor = rt.spawn("never", || Never).unwrap();
    actor.try_send(()).unwrap();
    let (report, took) = timed(rt.drain(ms(100))).await;
    about(took, ms(100));
    let report = balanced_report(report);
    assert_eq!((report.dropped, report.stuck.len()), (1, 0), "{report:?}");
    assert!(matches!(actor.exit(), Some(ActorExit::Cancelled)));
    balanced(actor.accounts());
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_cannot_stop_does_not_outlive_the_drain() {
    struct Forever;
    impl Actor for Forever {
        type Msg = ();
        type Error = Told;
        async fn handle(&mut self, (): (), _: &mut Context<Self>) -> Result<(), Told> {
            Ok(())
        }
        async fn on_stop(&mut self, _: &mut Context<Self>) {
            std::future::pending().await
        }
    }
    let rt = runtime();
    let actor = rt.spawn("forever", || Forever).unwrap();
    actor.try_send(()).unwrap();
    let (report, took) = timed(rt.drain(ms(100))).await;
    about(took, ms(100));
    let report = balanced_report(report);
    assert_eq!((report.handled, report.stuck.len()), (1, 0), "{report:?}");
    assert!(matches!(actor.exit(), Some(ActorExit::Cancelled)));
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_takes_nothing_is_reported_as_stuck() {
    let rt = runtime();
    let (sender, mut receiver) = rt.mailbox("deaf").build().unwrap().split();
    for n in 0..3 {
        sender.try_send(n).unwrap();
    }
    let (report, took) = timed(rt.drain(ms(100))).await;
    assert!(ms(98) <= took && took <= ms(210), "{took:?}");
    let report = balanced_report(report);
    assert_eq!((report.pending_before, report.handled), (3, 0));
    assert_eq!(report.pending + report.dropped, 3, "{report:?}");
    if report.pending > 0 {
        assert_eq!(report.stuck, ["deaf"]);
    }
    // It wakes up too late: what it finds is the end.
    assert_eq!(receiver.recv().await, None);
    let accounts = balanced(sender.accounts());
    assert_eq!((accounts.dropped, accounts.pending), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn a_receiver_gets_what_is_queued_and_then_the_end() {
    let rt = runtime();
    let (sender, mut receiver) = rt.mailbox("loop").build().unwrap().split();
    for n in 0..5 {
        sender.try_send(n).unwrap();
    }
    let reader = tokio::spawn(async move {
        let mut seen = Vec::new();
        while let Some(n) = receiver.recv().await {
            sleep(ms(10)).await;
            seen.push(n);
        }
        seen
    });
    let report = balanced_report(rt.drain(ms(1_000)).await);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(reader.await.unwrap(), [0, 1, 2, 3, 4]);
    balanced(sender.accounts());
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_was_dropped_goes_on_and_may_be_called_again() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    actor.try_send(Msg::Sleep(ms(500))).unwrap();
    actor.try_send(Msg::Note(1)).unwrap();
    settle().await;
    {
        let mut drain = pin!(rt.drain(ms(10)));
        assert!(poll(drain.as_mut()).is_pending());
    }
    assert_eq!(
        actor.try_send(Msg::Fail).unwrap_err().kind(),
        ErrorKind::Draining
    );
    sleep(ms(100)).await;
    assert!(actor.exit().is_none(), "its deadline went with it");
    let report = balanced_report(rt.drain(ms(1_000)).await);
    assert_eq!((report.handled, report.pending_before), (2, 2));
    assert!(report.is_clean());
    balanced(actor.accounts());
}

#[tokio::test(start_paused = true)]
async fn of_two_drains_at_once_the_shorter_one_decides() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    actor.try_send(Msg::Sleep(ms(5_000))).unwrap();
    actor.try_send(Msg::Note(1)).unwrap();
    settle().await;
    let (long, short) = (rt.drain(ms(60_000)), rt.drain(ms(100)));
    let ((long, short), took) = timed(async { tokio::join!(long, short) }).await;
    about(took, ms(100));
    for report in [long, short] {
        let report = balanced_report(report);
        assert_eq!((report.aborted, report.dropped), (1, 1), "{report:?}");
    }
    balanced(actor.accounts());
}

#[tokio::test(start_paused = true)]
async fn a_drain_may_have_all_the_time_in_the_world() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    actor.try_send(Msg::Sleep(ms(500))).unwrap();
    let (report, took) = timed(rt.drain(Duration::MAX)).await;
    about(took, ms(500));
    assert!(balanced_report(report).is_clean());
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_drains_its_own_runtime_is_cut_short_with_the_rest() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    let own = rt.clone();
    let end_it_all = job(move |worker, _| {
        Box::pin(async move {
            own.drain(ms(100)).await;
            worker.log.add("survived");
            Ok(())
        })
    });
    actor.try_send(end_it_all).unwrap();
    actor.try_send(Msg::Note(1)).unwrap();
    let (exit, took) = timed(actor.stopped()).await;
    assert!(took <= ms(210), "{took:?}");
    assert!(matches!(exit, ActorExit::Cancelled), "{exit:?}");
    assert!(!log.has("survived"));
    let accounts = balanced(actor.accounts());
    assert_eq!((accounts.aborted, accounts.dropped), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_asks_itself_does_not_hold_up_a_drain() {
    let config = RykerConfig::builder().deadline(Duration::from_secs(60));
    let (rt, log) = (Runtime::new(config.build().unwrap()), Log::default());
    let actor = worker(&rt, &log);
    let itself = actor.clone();
    let ask_itself = job(move |worker, _| {
        Box::pin(async move {
            let kind = itself.ask(Msg::Notes).await.unwrap_err().kind();
            worker.log.add(kind.as_str());
            Ok(())
        })
    });
    actor.try_send(ask_itself).unwrap();
    settle().await;
    let (report, took) = timed(rt.drain(Duration::from_secs(30))).await;
    assert!(took <= ms(10), "{took:?}");
    assert!(log.has("draining"), "{:?}", log.lines());
    balanced_report(report);
    balanced(actor.accounts());
}

/// The handler waits through a task of its own, or through a `select!`: it is its ask all the same.
#[tokio::test(start_paused = true)]
async fn asks_within_a_select_of_a_handler_do_not_hold_up_a_drain() {
    let config = RykerConfig::builder().deadline(Duration::from_secs(60));
    let (rt, log) = (Runtime::new(config.build().unwrap()), Log::default());
    let (parent, child) = (worker(&rt, &log), worker(&rt, &log));
    let ask_other = |other: &ActorRef<Msg>| {
        let (a, b) = (other.clone(), other.clone());
        job(move |worker, _| {
            Box::pin(async move {
                let first = tokio::select! {
                    one = a.ask(Msg::Notes) => one,
                    other = b.ask(Msg::Notes) => other,
                };
                worker.log.add(format!("{:?}", first.map_err(|e| e.kind())));
                Ok(())
            })
        })
    };
    parent.try_send(ask_other(&child)).unwrap();
    child.try_send(ask_other(&parent)).unwrap();
    settle().await;
    let (report, took) = timed(rt.drain(Duration::from_secs(30))).await;
    assert!(took <= ms(10), "{took:?}");
    balanced_report(report);
    assert!(rt.accounts().balances());
}

#[tokio::test(start_paused = true)]
async fn foreign_code_that_panics_during_a_drain_is_its_actors_business() {
    struct Bomb;
    impl Actor for Bomb {
        type Msg = Payload;
        type Error = Told;
        async fn handle(&mut self, _: Payload, _: &mut Context<Self>) -> Result<(), Told> {
            std::future::pending().await
        }
        async fn on_stop(&mut self, _: &mut Context<Self>) {
            quietly_panic("stop")
        }
    }
    struct Payload;
    impl Drop for Payload {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                quietly_panic("payload");
            }
        }
    }
    let (rt, log) = (runtime(), Log::default());
    let bomb = rt.spawn("bomb", || Bomb).unwrap();
    let idle_bomb = rt.spawn("idle", || Bomb).unwrap();
    let other = worker(&rt, &log);
    for _ in 0..3 {
        assert!(bomb.try_send(Payload).is_ok());
    }
    other.try_send(Msg::Sleep(ms(50))).unwrap();
    let mut drain = Box::pin(rt.drain(ms(100)));
    let report = std::future::poll_fn(|cx| {
        match std::panic::catch_unwind(AssertUnwindSafe(|| drain.as_mut().poll(cx))) {
            Ok(poll) => poll.map(Some),
            Err(_) => std::task::Poll::Ready(None),
        }
    })
    .await;
    let report = balanced_report(report.expect("the panic is not the drain's"));
    // The one in hand was aborted, and its destructor panicked: either will do.
    assert_eq!((report.dropped, report.pending), (2, 0), "{report:?}");
    assert_eq!(report.handled + report.aborted, 2, "{report:?}");
    assert!(report.stuck.is_empty());
    assert!(bomb.exit().is_some() && idle_bomb.exit().is_some());
    assert!(rt.accounts().balances());
}

/// Real threads: one handler holds its worker and cannot be interrupted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_blocks_is_reported_as_stuck_and_accounted_for_later() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    let (tx, rx) = std::sync::mpsc::channel::<()>();
    let begun = Log::default();
    let begun_ = begun.clone();
    let block = job(move |_, _| {
        begun_.add("begun");
        let _ = rx.recv_timeout(Duration::from_secs(20));
        Box::pin(async { Ok(()) })
    });
    actor.try_send(block).unwrap();
    while !begun.has("begun") {
        tokio::task::yield_now().await;
    }
    actor.try_send(Msg::Note(1)).unwrap();
    let began = std::time::Instant::now();
    let report = balanced_report(rt.drain(ms(50)).await);
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(report.stuck, ["worker"], "{report:?}");
    assert!(report.pending >= 1, "{report:?}");
    assert!(actor.exit().is_none());
    tx.send(()).unwrap();
    actor.stopped().await;
    let accounts = balanced(actor.accounts());
    assert_eq!((accounts.pending, accounts.accepted), (0, 2));
    assert!(!log.has("note 1"));
}

/// Senders, askers and panics on two threads while a drain begins at any moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_under_load_balances() {
    for round in 0..60_u64 {
        let config = RykerConfig::builder()
            .backoff_base(ms(1))
            .backoff_cap(ms(2));
        let config = config.rapid_fail_threshold(1_000).build().unwrap();
        let (rt, log) = (Runtime::new(config), Log::default());
        let actors: Vec<_> = (0..3).map(|_| worker(&rt, &log)).collect();
        let load: Vec<_> = (0..6)
            .map(|by| {
                let (actor, next) = (actors[by % 3].clone(), actors[(by + 1) % 3].clone());
                tokio::spawn(async move {
                    for n in 0_u32.. {
                        let sent = match n % 5 {
                            0 => actor.try_send(Msg::Panic).map_err(|e| e.kind()),
                            1 => actor.send(Msg::Note(n)).await.map_err(|e| e.kind()),
                            2 => actor.ask(Msg::Notes).await.map(drop).map_err(|e| e.kind()),
                            3 => {
                                let next = next.clone();
                                let forward = move |reply: Reply<()>| {
                                    job(move |_, _| {
                                        Box::pin(async move {
                                            if next.ask(Msg::Notes).await.is_ok() {
                                                let _ = reply.send(());
                                            }
                                            Ok(())
                                        })
                                    })
                                };
                                actor.ask(forward).await.map_err(|e| e.kind())
                            }
                            _ => actor.try_send(Msg::Fail).map_err(|e| e.kind()),
                        };
                        if matches!(sent, Err(ErrorKind::Draining | ErrorKind::Closed)) {
                            return;
                        }
                    }
                })
            })
            .collect();
        sleep(Duration::from_micros(round * 150)).await;
        let report = balanced_report(rt.drain(Duration::from_secs(20)).await);
        assert!(report.stuck.is_empty() && report.pending == 0, "{report:?}");
        for task in load {
            tokio::time::timeout(Duration::from_secs(20), task)
                .await
                .expect("an ask was forgotten")
                .unwrap();
        }
        let sum = balanced(rt.accounts());
        assert_eq!(sum.pending, 0, "{sum:?}");
        assert_eq!(sum.aborted, 0, "{sum:?}");
    }
}

/// An actor that nobody runs has a mailbox that nobody reads.
#[tokio::test(start_paused = true)]
async fn an_actor_that_its_supervisor_does_not_run_is_reported() {
    let (rt, log) = (runtime(), Log::default());
    let built = rt.actor("idle", move || Worker::new(&log)).runner();
    let (actor, runner) = built.unwrap();
    let mut asking = Box::pin(actor.ask(Msg::Notes));
    assert!(poll(asking.as_mut()).is_pending());
    actor.try_send(Msg::Note(1)).unwrap();
    let (report, answer) = tokio::join!(rt.drain(ms(100)), asking);
    let report = balanced_report(report);
    assert_eq!(report.pending_before, 2);
    assert_eq!(report.pending + report.dropped, 2);
    assert!(
        matches!(answer, Err(AskError::Draining | AskError::Timeout)),
        "{answer:?}"
    );
    drop(runner);
    let accounts = balanced(actor.accounts());
    assert_eq!((accounts.pending, accounts.ok), (0, 0));
    assert!(matches!(
        actor.try_send(Msg::Note(2)),
        Err(SendError::Draining(_) | SendError::Closed(_))
    ));
}

/// An executor that nobody drives: its actors are there, and neither work nor end.
#[test]
fn actors_of_an_executor_that_stands_still_are_reported_as_stuck() {
    let (rt, log) = (runtime(), Log::default());
    let current_thread = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    };
    let still = current_thread();
    let actor = {
        let _inside = still.enter();
        worker(&rt, &log)
    };
    actor.try_send(Msg::Note(1)).unwrap();
    let report = current_thread().block_on(rt.drain(ms(20)));
    let report = balanced_report(report);
    assert_eq!(
        (report.pending, report.stuck.as_slice()),
        (1, &["worker".to_string()][..])
    );
    assert!(actor.exit().is_none());
    drop(still);
    assert!(matches!(actor.exit(), Some(ActorExit::Cancelled)));
    let accounts = balanced(actor.accounts());
    assert_eq!((accounts.dropped, accounts.pending), (1, 0));
    assert!(log.lines().is_empty());
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_actors_drain_together() {
    let (rt, log) = (runtime(), Log::default());
    let actors: Vec<_> = (0..10_000).map(|_| worker(&rt, &log)).collect();
    for actor in &actors {
        actor.try_send(Msg::Note(1)).unwrap();
    }
    let (report, took) = timed(rt.drain(ms(1_000))).await;
    assert!(took <= ms(10), "{took:?}");
    let report = balanced_report(report);
    assert!(report.is_clean() && report.handled == 10_000, "{report:?}");
    drop(actors);
    assert_eq!(balanced(rt.accounts()).ok, 10_000);
}
