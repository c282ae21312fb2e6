//! One deadline from enqueueing to the answer, for actors that may be cancelled and for those that may not.

use std::convert::Infallible;
use std::sync::Arc;

use ryker::{
    Actor, ActorExit, ActorRef, Context, DeadlineExceeded, ErrorKind, OnDeadline, Reply, Runtime,
};
use tokio::time::{advance, sleep, Instant};

use crate::rig::{
    about, balanced, job, ms, runtime, settle, timed, worker, Log, Msg, Witness, Worker,
};

/// Cancel-safe: sleeps for what it is sent, then answers what it has begun and finished.
struct Sleeper {
    then: OnDeadline,
    begun: u32,
    finished: u32,
    log: Log,
}

type Nap = (u64, Option<Reply<(u32, u32)>>);

fn nap(millis: u64) -> Nap {
    (millis, None)
}

impl Actor for Sleeper {
    type Msg = Nap;
    type Error = Infallible;
    const CANCEL_SAFE: bool = true;

    async fn on_start(&mut self, cx: &mut Context<Self>) -> Result<(), Infallible> {
        assert_eq!(cx.deadline(), None);
        self.log.add(format!("start {}", cx.generation()));
        Ok(())
    }

    async fn handle(
        &mut self,
        (millis, reply): Nap,
        _: &mut Context<Self>,
    ) -> Result<(), Infallible> {
        self.begun += 1;
        sleep(ms(millis)).await;
        self.finished += 1;
        if let Some(reply) = reply {
            let _ = reply.send((self.begun, self.finished));
        }
        Ok(())
    }

    fn on_deadline(&mut self, _: &mut Context<Self>) -> OnDeadline {
        self.log.add("late");
        self.then
    }

    async fn on_stop(&mut self, cx: &mut Context<Self>) {
        assert_eq!(cx.deadline(), None);
        self.log.add("stop");
    }
}

fn sleeper(rt: &Runtime, then: OnDeadline, witness: &Arc<Witness>) -> ActorRef<Nap> {
    let log = witness.log.clone();
    let make = move || Sleeper {
        then,
        begun: 0,
        finished: 0,
        log: log.clone(),
    };
    let builder = rt.actor("sleeper", make).deadline(ms(100));
    builder.observer(witness.clone()).spawn().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_cancel_safe_handler_is_dropped_at_its_deadline_and_the_state_kept() {
    let (rt, witness) = (runtime(), Arc::new(Witness::default()));
    let actor = sleeper(&rt, OnDeadline::Keep, &witness);
    let (answer, took) = timed(actor.ask(|reply| (5_000, Some(reply)))).await;
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::Timeout);
    about(took, ms(100));
    let (answer, took) = timed(actor.ask(|reply| (10, Some(reply)))).await;
    assert_eq!(answer.unwrap(), (2, 1), "the same state, free at once");
    assert!(took <= ms(14), "{took:?}");
    let accounts = balanced(actor.accounts());
    assert_eq!((accounts.timed_out, accounts.ok), (1, 1));
    assert_eq!((accounts.error, accounts.panicked), (0, 0));
    assert!(actor.exit().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_tell_has_a_deadline_as_well() {
    let (rt, witness) = (runtime(), Arc::new(Witness::default()));
    let actor = sleeper(&rt, OnDeadline::Keep, &witness);
    actor.try_send(nap(5_000)).unwrap();
    let (answer, took) = timed(actor.ask(|reply| (0, Some(reply)))).await;
    // Both were sent at once: the second is late as well, if by a hair.
    assert!(took <= ms(103), "{took:?}");
    drop(answer);
    settle().await;
    let accounts = balanced(actor.accounts());
    assert_eq!(accounts.timed_out, 1);
    assert!(witness.log.has("late"));
}

#[tokio::test(start_paused = true)]
async fn an_actor_may_ask_to_be_restarted_after_its_handler_was_cancelled() {
    let (rt, witness) = (runtime(), Arc::new(Witness::default()));
    let actor = sleeper(&rt, OnDeadline::Restart, &witness);
    actor.try_send(nap(5_000)).unwrap();
    sleep(ms(90)).await;
    actor.try_send(nap(1)).unwrap();
    // The backoff takes longer than the deadline of what is queued, at least 100 ms.
    sleep(ms(5_500)).await;
    let answer = actor.ask(|reply| (10, Some(reply))).await;
    assert_eq!(answer.unwrap(), (1, 1), "fresh state");
    let accounts = balanced(actor.accounts());
    assert_eq!((accounts.timed_out, accounts.ok), (1, 1));
    assert_eq!(accounts.expired, 1);
    assert_eq!(accounts.error, 0);
    let lines = witness.log.lines();
    assert!(lines.iter().any(|l| l == "start 2"), "{lines:?}");
    assert!(lines.iter().any(|l| l.contains("deadline")), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn too_many_restarts_for_lateness_end_the_actor_with_that_cause() {
    let config = ryker::RykerConfig::builder().rapid_fail_threshold(1);
    let rt = Runtime::new(config.build().unwrap());
    let witness = Arc::new(Witness::default());
    let actor = sleeper(&rt, OnDeadline::Restart, &witness);
    actor.try_send(nap(5_000)).unwrap();
    let ActorExit::RapidFail { failures, last, .. } = actor.stopped().await else {
        panic!("{:?}", actor.exit());
    };
    assert_eq!(failures, 1);
    let ActorExit::Failed { cause, .. } = &*last else {
        panic!("{last:?}");
    };
    assert!(cause.downcast_ref::<DeadlineExceeded>().is_some());
    balanced(actor.accounts());
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_may_not_be_cancelled_finishes_and_its_lateness_is_counted() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    let (answer, took) = timed(actor.ask(|reply| Msg::SleepThenAnswer(ms(3_000), reply))).await;
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::Timeout);
    about(took, ms(1_000));
    sleep(ms(1_990)).await;
    assert_eq!(balanced(actor.accounts()).pending, 1);
    sleep(ms(20)).await;
    assert_eq!(log.lines(), ["start 1", "sleeps", "heard false"]);
    let accounts = balanced(actor.accounts());
    assert_eq!(
        (accounts.timed_out, accounts.ok, accounts.pending),
        (1, 0, 0)
    );
    // A tell that overran likewise; an error or a panic after the deadline is what it is.
    actor.try_send(Msg::Sleep(ms(1_500))).unwrap();
    sleep(ms(1_600)).await;
    assert_eq!(actor.accounts().timed_out, 2);
    let late = |panics| {
        job(move |_, _| {
            Box::pin(async move {
                sleep(ms(1_500)).await;
                if panics {
                    crate::rig::quietly_panic("late");
                }
                Err(crate::rig::Told)
            })
        })
    };
    actor.try_send(late(false)).unwrap();
    sleep(ms(8_000)).await;
    actor.try_send(late(true)).unwrap();
    sleep(ms(8_000)).await;
    let accounts = balanced(actor.accounts());
    assert_eq!(
        (accounts.timed_out, accounts.error, accounts.panicked),
        (2, 1, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn what_expired_in_the_queue_is_never_handled() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    actor.try_send(Msg::Sleep(ms(900))).unwrap();
    settle().await;
    let soon = |millis| (Instant::now() + ms(millis)).into_std();
    for n in 0..5 {
        actor
            .send_with_deadline(Msg::Note(n), soon(500))
            .await
            .unwrap();
        actor
            .send_with_deadline(Msg::Note(100 + n), soon(950))
            .await
            .unwrap();
    }
    sleep(ms(910)).await;
    assert_eq!(
        actor.ask(Msg::Notes).await.unwrap(),
        [100, 101, 102, 103, 104]
    );
    let accounts = balanced(actor.accounts());
    assert_eq!((accounts.expired, accounts.ok), (5, 7));
}

#[tokio::test(start_paused = true)]
async fn a_handler_knows_how_long_its_message_has() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    let tell = || {
        job(|worker, cx| {
            let left = cx.deadline().unwrap() - Instant::now().into_std();
            Box::pin(async move {
                worker
                    .log
                    .add(format!("{}", (left.as_millis() + 5) / 10 * 10));
                Ok(())
            })
        })
    };
    actor.try_send(tell()).unwrap();
    actor.try_send(Msg::Sleep(ms(300))).unwrap();
    actor.try_send(tell()).unwrap();
    let soon = (Instant::now() + ms(400)).into_std();
    actor.send_with_deadline(tell(), soon).await.unwrap();
    sleep(ms(500)).await;
    assert_eq!(log.lines()[1..], ["1000", "700", "100"]);
    balanced(actor.accounts());
}

/// The timer of the handler is not the timer of the next one.
#[tokio::test(start_paused = true)]
async fn a_handler_that_was_in_time_does_not_cut_the_next_one_short() {
    let (rt, witness) = (runtime(), Arc::new(Witness::default()));
    let actor = sleeper(&rt, OnDeadline::Keep, &witness);
    for _ in 0..20 {
        let (answer, took) = timed(actor.ask(|reply| (90, Some(reply)))).await;
        answer.unwrap();
        about(took, ms(90));
    }
    assert_eq!(balanced(actor.accounts()).ok, 20);
    assert!(!witness.log.has("late"));
}

/// One that never awaits cannot be cancelled; what it overran is counted all the same.
#[tokio::test(start_paused = true)]
async fn a_cancel_safe_handler_that_finishes_in_the_poll_that_is_late_has_timed_out() {
    struct Blocker;
    impl Actor for Blocker {
        type Msg = Reply<()>;
        type Error = Infallible;
        const CANCEL_SAFE: bool = true;
        async fn handle(
            &mut self,
            reply: Reply<()>,
            _: &mut Context<Self>,
        ) -> Result<(), Infallible> {
            // Time passes while this thread is held.
            advance(ms(2_000)).await;
            let _ = reply.send(());
            Ok(())
        }
    }
    let rt = runtime();
    let actor = rt.spawn("blocker", || Blocker).unwrap();
    let answer = actor.ask(|reply| reply).await;
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::Timeout);
    settle().await;
    let accounts = balanced(actor.accounts());
    assert_eq!((accounts.timed_out, accounts.ok), (1, 0));
}

/// Nor does a handler wait for room longer than whoever waits for the handler.
#[tokio::test(start_paused = true)]
async fn a_send_of_a_handler_waits_no_longer_than_its_own_message_may_take() {
    let (rt, log) = (runtime(), Log::default());
    let log_ = log.clone();
    let full = rt.actor("full", move || Worker::new(&log_)).capacity(1);
    let full = full.spawn().unwrap();
    full.try_send(Msg::Sleep(ms(900))).unwrap();
    settle().await;
    full.try_send(Msg::Note(1)).unwrap();
    let front = worker(&rt, &log);
    let forward = |reply: Reply<()>| {
        let full = full.clone();
        job(move |worker, _| {
            Box::pin(async move {
                let (sent, took) = timed(full.send(Msg::Note(2))).await;
                about(took, ms(300));
                worker.log.add(format!("{:?}", sent.unwrap_err().kind()));
                drop(reply);
                Ok(())
            })
        })
    };
    let until = (Instant::now() + ms(300)).into_std();
    let (answer, took) = timed(front.ask_with_deadline(forward, until)).await;
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::Timeout);
    about(took, ms(300));
    settle().await;
    sleep(ms(5)).await;
    assert!(log.has("Timeout"), "{:?}", log.lines());
    assert!(rt.accounts().balances());
}

/// To the tick: not early; tokio, whose timer it is while paused, rounds up once more.
#[tokio::test(start_paused = true)]
async fn no_deadline_is_early() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    for micros in [0, 1, 499, 500, 999] {
        advance(std::time::Duration::from_micros(micros)).await;
        for wanted in [
            ms(10),
            ms(11) + std::time::Duration::from_micros(700),
            ms(100),
        ] {
            let until = (Instant::now() + wanted).into_std();
            let (_, took) = timed(actor.ask_with_deadline(Msg::Keep, until)).await;
            assert!(
                took >= wanted && took <= wanted + ms(3),
                "{took:?} of {wanted:?}"
            );
        }
        let (_, took) = timed(actor.ask(Msg::Keep)).await;
        assert!(took >= ms(1_000) && took <= ms(1_002), "{took:?}");
    }
    assert!(rt.accounts().balances());
}
