//! One incarnation at a time, for a supervisor of one's own.

use std::future::{pending, ready, Future};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use ryker::{ActorExit, ActorRef, Runner, Runtime, RykerConfig, SendError};
use tokio::time::sleep;

use crate::rig::{
    about, balanced, job, ms, poll, quietly_panic, runtime, settle, timed, Log, Msg, Told, Worker,
};

fn supervised(rt: &Runtime, log: &Log) -> (ActorRef<Msg>, Runner<Worker>) {
    let log = log.clone();
    let built = rt
        .actor("w", move || Worker::new(&log))
        .capacity(16)
        .runner();
    built.unwrap()
}

/// Runs an incarnation to its end: `None` if it panicked.
async fn incarnation<S: Future + Send>(
    runner: &Runner<Worker>,
    stopping: S,
) -> Option<Result<(), ActorExit>> {
    let mut run = pin!(runner.run(stopping));
    std::future::poll_fn(
        |cx| match catch_unwind(AssertUnwindSafe(|| run.as_mut().poll(cx))) {
            Ok(poll) => poll.map(Some),
            Err(_) => Poll::Ready(None),
        },
    )
    .await
}

#[tokio::test(start_paused = true)]
async fn a_panic_passes_through_and_the_next_run_goes_on_with_the_mailbox() {
    let (rt, log) = (runtime(), Log::default());
    let (actor, runner) = supervised(&rt, &log);
    for message in [
        Msg::Note(1),
        Msg::Panic,
        Msg::Note(2),
        Msg::Fail,
        Msg::Note(3),
    ] {
        actor.try_send(message).unwrap();
    }
    assert!(log.lines().is_empty(), "nothing runs before it is run");
    let (end, took) = timed(incarnation(&runner, pending::<()>())).await;
    assert!(end.is_none(), "{end:?}");
    assert_eq!(took, Duration::ZERO);
    assert_eq!(actor.accounts().panicked, 1);
    let Some(Err(ActorExit::Failed { cause, .. })) = incarnation(&runner, pending::<()>()).await
    else {
        panic!("it failed");
    };
    assert_eq!(cause.downcast_ref(), Some(&Told));
    assert!(actor.exit().is_none(), "its supervisor decides");
    actor.stop();
    incarnation(&runner, pending::<()>())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        log.lines(),
        [
            "start 1", "note 1", "drop", "start 2", "note 2", "drop", "start 3", "note 3", "stop",
            "drop"
        ]
    );
    let accounts = balanced(actor.accounts());
    assert_eq!((accounts.ok, accounts.panicked, accounts.error), (3, 1, 1));
}

/// Far more than any threshold, without any delay: that is the supervisor's business.
#[tokio::test(start_paused = true)]
async fn neither_delays_nor_the_rapid_fail_window_are_in_play() {
    let config = RykerConfig::builder()
        .rapid_fail_threshold(1)
        .build()
        .unwrap();
    let (rt, log) = (Runtime::new(config), Log::default());
    let (actor, runner) = supervised(&rt, &log);
    let (_, took) = timed(async {
        for _ in 0..50 {
            actor.try_send(Msg::Fail).unwrap();
            incarnation(&runner, pending::<()>())
                .await
                .unwrap()
                .unwrap_err();
        }
    })
    .await;
    assert_eq!(took, Duration::ZERO);
    assert!(actor.exit().is_none() && !actor.is_closed());
    assert!(log.has("start 50"));
    assert_eq!(balanced(actor.accounts()).error, 50);
}

#[tokio::test(start_paused = true)]
async fn an_incarnation_dropped_in_mid_handle_aborts_that_message_alone() {
    let (rt, log) = (runtime(), Log::default());
    let (actor, runner) = supervised(&rt, &log);
    actor.try_send(Msg::Note(1)).unwrap();
    let mut asking = Box::pin(actor.ask(|reply| Msg::SleepThenAnswer(ms(100), reply)));
    assert!(poll(asking.as_mut()).is_pending());
    actor.try_send(Msg::Note(2)).unwrap();
    {
        let mut run = pin!(runner.run(pending::<()>()));
        assert!(poll(run.as_mut()).is_pending());
        assert!(log.has("sleeps"));
        assert_eq!((actor.accounts().pending, actor.depth()), (2, 1));
    }
    assert_eq!(log.lines(), ["start 1", "note 1", "sleeps", "drop"]);
    let (answer, took) = timed(asking).await;
    assert_eq!(answer.unwrap_err().kind(), ryker::ErrorKind::NoReply);
    assert_eq!(took, Duration::ZERO);
    let accounts = balanced(actor.accounts());
    assert_eq!((accounts.ok, accounts.aborted, accounts.pending), (1, 1, 1));

    assert!(actor.try_send(Msg::Note(3)).is_ok(), "the mailbox stays");
    actor.stop();
    runner.run(pending::<()>()).await.unwrap();
    assert_eq!(
        log.lines()[4..],
        ["start 2", "note 2", "note 3", "stop", "drop"]
    );
    let accounts = balanced(actor.accounts());
    assert_eq!((accounts.ok, accounts.aborted), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn an_incarnation_may_be_dropped_at_any_poll() {
    let (rt, log) = (runtime(), Log::default());
    let (actor, runner) = supervised(&rt, &log);
    drop(runner.run(pending::<()>()));
    for polls in 0..6 {
        actor.try_send(Msg::Sleep(ms(1))).unwrap();
        actor.try_send(Msg::Note(polls)).unwrap();
        let mut run = Box::pin(runner.run(pending::<()>()));
        for _ in 0..polls {
            let _ = poll(run.as_mut());
            sleep(ms(1)).await;
        }
        drop(run);
        balanced(actor.accounts());
        assert_eq!(actor.accounts().pending, actor.depth() as u64);
    }
    actor.stop();
    runner.run(pending::<()>()).await.unwrap();
    let accounts = balanced(actor.accounts());
    assert_eq!(accounts.pending, 0);
    assert_eq!(
        accounts.accepted,
        accounts.ok + accounts.aborted + accounts.expired
    );
}

#[tokio::test(start_paused = true)]
async fn two_runs_at_once_are_one_run_and_one_refusal() {
    let (rt, log) = (runtime(), Log::default());
    let (actor, runner) = supervised(&rt, &log);
    let other = runner.clone();
    assert_eq!((runner.name(), other.name()), ("w", "w"));
    let mut first = pin!(runner.run(pending::<()>()));
    assert!(poll(first.as_mut()).is_pending());
    let (second, took) = timed(other.run(pending::<()>())).await;
    assert!(matches!(second, Err(ActorExit::Cancelled)), "{second:?}");
    assert_eq!(took, Duration::ZERO);
    actor.try_send(Msg::Note(1)).unwrap();
    assert!(poll(first.as_mut()).is_pending());
    assert_eq!(log.lines(), ["start 1", "note 1"]);
    actor.stop();
    first.await.unwrap();
    assert_eq!(balanced(actor.accounts()).ok, 1);
}

#[tokio::test(start_paused = true)]
async fn when_its_supervisor_says_so_it_works_off_and_ends() {
    let (rt, log) = (runtime(), Log::default());
    let (actor, runner) = supervised(&rt, &log);
    actor.try_send(Msg::Sleep(ms(200))).unwrap();
    actor.try_send(Msg::Note(1)).unwrap();
    let (end, took) = timed(runner.run(sleep(ms(100)))).await;
    end.unwrap();
    about(took, ms(200));
    assert!(matches!(
        actor.try_send(Msg::Fail),
        Err(SendError::Draining(_) | SendError::Closed(_))
    ));
    assert_eq!(log.lines(), ["start 1", "note 1", "stop", "drop"]);
    balanced(actor.accounts());

    // Said before it began, with something in the mailbox.
    let (actor, runner) = supervised(&rt, &log);
    actor.try_send(Msg::Note(2)).unwrap();
    runner.run(ready(())).await.unwrap();
    assert!(log.has("note 2"));
    assert_eq!(balanced(actor.accounts()).ok, 1);
}

/// While a handler waits, the end of the intake is noticed at once.
#[tokio::test(start_paused = true)]
async fn the_intake_ends_even_while_a_handler_waits() {
    let (rt, log) = (runtime(), Log::default());
    let (actor, runner) = supervised(&rt, &log);
    actor.try_send(Msg::Sleep(ms(500))).unwrap();
    let run = tokio::spawn(async move { runner.run(sleep(ms(100))).await });
    sleep(ms(110)).await;
    assert!(actor.is_closed());
    assert!(actor.try_send(Msg::Fail).is_err());
    run.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_runner_that_goes_closes_the_mailbox_and_counts_what_is_left() {
    let (rt, log) = (runtime(), Log::default());
    let (actor, runner) = supervised(&rt, &log);
    let other = runner.clone();
    for n in 0..3 {
        actor.try_send(Msg::Note(n)).unwrap();
    }
    let mut asking = Box::pin(actor.ask(Msg::Notes));
    assert!(poll(asking.as_mut()).is_pending());
    drop(runner);
    assert!(!actor.is_closed(), "there is another");
    drop(other);
    let (answer, took) = timed(asking).await;
    assert_eq!(answer.unwrap_err().kind(), ryker::ErrorKind::Closed);
    assert_eq!(took, Duration::ZERO);
    assert!(matches!(
        actor.try_send(Msg::Fail),
        Err(SendError::Closed(_))
    ));
    let accounts = balanced(actor.accounts());
    assert_eq!((accounts.dropped, accounts.pending), (4, 0));
    let (exit, took) = timed(tokio::time::timeout(ms(5_000), actor.stopped())).await;
    assert!(exit.is_ok(), "nobody can run it any more");
    assert_eq!(took, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_supervised_actor_is_told_when_it_ended_in_peace() {
    let (rt, log) = (runtime(), Log::default());
    let (actor, runner) = supervised(&rt, &log);
    actor.stop();
    runner.run(pending::<()>()).await.unwrap();
    drop(runner);
    let exit = tokio::time::timeout(ms(5_000), actor.stopped()).await;
    assert!(matches!(exit, Ok(ActorExit::Normal)), "{exit:?}");
}

#[tokio::test(start_paused = true)]
async fn a_run_after_the_end_ends_at_once_and_starts_nothing_twice() {
    let (rt, log) = (runtime(), Log::default());
    let (actor, runner) = supervised(&rt, &log);
    actor.stop();
    runner.run(pending::<()>()).await.unwrap();
    let (end, took) = timed(runner.run(pending::<()>())).await;
    assert!(end.is_ok(), "{end:?}");
    assert_eq!(took, Duration::ZERO);
    assert_eq!(log.lines(), ["start 1", "stop", "drop"]);
    balanced(actor.accounts());
}

#[tokio::test(start_paused = true)]
async fn a_supervised_actor_ends_when_nobody_can_send_to_it() {
    let (rt, log) = (runtime(), Log::default());
    let (actor, runner) = supervised(&rt, &log);
    actor.try_send(Msg::Note(1)).unwrap();
    drop(actor);
    runner.run(pending::<()>()).await.unwrap();
    assert_eq!(log.lines(), ["start 1", "note 1", "stop", "drop"]);
    assert!(rt.accounts().balances());
}

#[tokio::test(start_paused = true)]
async fn a_drain_whose_time_is_up_cancels_the_incarnation() {
    let (rt, log) = (runtime(), Log::default());
    let (actor, runner) = supervised(&rt, &log);
    actor.try_send(Msg::Sleep(ms(5_000))).unwrap();
    actor.try_send(Msg::Note(1)).unwrap();
    let (end, report) = tokio::join!(runner.run(pending::<()>()), rt.drain(ms(100)));
    assert!(matches!(end, Err(ActorExit::Cancelled)), "{end:?}");
    assert!(report.balances());
    assert_eq!((report.aborted, report.dropped), (1, 1), "{report:?}");
    balanced(actor.accounts());
}

#[tokio::test(start_paused = true)]
async fn a_signal_that_panics_passes_through_and_loses_no_message() {
    let (rt, log) = (runtime(), Log::default());
    let (actor, runner) = supervised(&rt, &log);
    let signal = async {
        sleep(ms(10)).await;
        quietly_panic("signal");
    };
    actor.try_send(Msg::Note(1)).unwrap();
    assert!(incarnation(&runner, signal).await.is_none());
    actor.try_send(Msg::Note(2)).unwrap();
    actor.stop();
    runner.run(pending::<()>()).await.unwrap();
    assert!(log.has("note 1") && log.has("note 2"));
    let accounts = balanced(actor.accounts());
    assert_eq!((accounts.ok, accounts.panicked), (2, 0));
}

/// A supervisor that uses tasks and aborts them, on another thread.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incarnations_aborted_from_another_thread_lose_one_message_each_at_most() {
    let (rt, log) = (runtime(), Log::default());
    let (actor, runner) = supervised(&rt, &log);
    let sender = actor.clone();
    let sent = tokio::spawn(async move {
        for n in 0..2_000 {
            let nap = job(move |worker, _| {
                worker.notes.push(n);
                Box::pin(async {
                    tokio::task::yield_now().await;
                    Ok(())
                })
            });
            sender.send(nap).await.unwrap();
        }
    });
    let mut aborted = 0;
    while !sent.is_finished() {
        let runner = runner.clone();
        let run = tokio::spawn(async move { runner.run(pending::<()>()).await });
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        run.abort();
        aborted += 1;
        assert!(run.await.unwrap_err().is_cancelled());
        balanced(actor.accounts());
    }
    sent.await.unwrap();
    actor.stop();
    runner.run(pending::<()>()).await.unwrap();
    let accounts = balanced(actor.accounts());
    assert!(accounts.aborted <= aborted);
    assert_eq!(accounts.accepted, 2_000);
    assert_eq!(accounts.ok + accounts.aborted, 2_000, "{accounts:?}");
    settle().await;
}
