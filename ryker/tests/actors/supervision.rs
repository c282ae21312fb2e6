//! What fails is made anew over the same mailbox, after a delay, and not too often.

use std::panic::panic_any;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;
use std::time::Duration;

use ryker::{
    Actor, ActorExit, ActorRef, AskError, Context, ErrorKind, Runtime, RykerConfig, SendError,
};
use tokio::time::{sleep, Instant};

use crate::rig::{
    about, balanced, job, ms, quietly_panic, runtime, settle, timed, worker, Log, Msg, Told,
    Witness, Worker,
};

fn witnessed(rt: &Runtime, name: &str) -> (ActorRef<Msg>, Arc<Witness>) {
    let witness = Arc::new(Witness::default());
    let log = witness.log.clone();
    let builder = rt.actor(name, move || Worker::new(&log));
    let actor = builder.observer(witness.clone()).spawn().unwrap();
    (actor, witness)
}

/// A runtime whose actors may fail as often as they like.
fn patient() -> Runtime {
    let config = RykerConfig::builder().rapid_fail_threshold(1_000);
    Runtime::new(config.build().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_panic_costs_the_message_in_hand_and_the_state_but_not_the_mailbox() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    actor.try_send(Msg::Note(1)).unwrap();
    actor.try_send(Msg::Panic).unwrap();
    actor.try_send(Msg::Note(2)).unwrap();
    actor.try_send(Msg::Note(3)).unwrap();
    assert_eq!(actor.ask(Msg::Notes).await.unwrap(), [2, 3]);
    assert_eq!(
        log.lines(),
        ["start 1", "note 1", "drop", "start 2", "note 2", "note 3"]
    );
    let accounts = balanced(actor.accounts());
    assert_eq!(
        (accounts.accepted, accounts.ok, accounts.panicked),
        (5, 4, 1)
    );
    assert!(actor.exit().is_none() && !actor.is_closed());
}

#[tokio::test(start_paused = true)]
async fn an_error_is_a_failure_as_well() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    for message in [Msg::Note(1), Msg::Fail, Msg::Note(2)] {
        actor.try_send(message).unwrap();
    }
    assert_eq!(actor.ask(Msg::Notes).await.unwrap(), [2]);
    let accounts = balanced(actor.accounts());
    assert_eq!((accounts.ok, accounts.error, accounts.panicked), (3, 1, 0));
}

/// Starts with a fuse: fails in the way of `fuse[generation - 1]`.
struct Fused {
    how: Option<&'static str>,
    log: Log,
}

impl Fused {
    fn spawn(rt: &Runtime, fuses: &'static [&'static str], log: &Log) -> ActorRef<u32> {
        let (log, made) = (log.clone(), AtomicU32::new(0));
        let make = move || {
            let fuse = fuses.get(made.fetch_add(1, Ordering::SeqCst) as usize);
            if fuse == Some(&"factory") {
                quietly_panic("factory");
            }
            Fused {
                how: fuse.copied(),
                log: log.clone(),
            }
        };
        rt.spawn("fused", make).unwrap()
    }
}

impl Actor for Fused {
    type Msg = u32;
    type Error = Told;

    async fn on_start(&mut self, _: &mut Context<Self>) -> Result<(), Told> {
        match self.how {
            Some("start error") => Err(Told),
            Some("start panic") => quietly_panic("start"),
            Some("late start error") => {
                sleep(ms(50)).await;
                Err(Told)
            }
            _ => Ok(()),
        }
    }

    async fn handle(&mut self, n: u32, cx: &mut Context<Self>) -> Result<(), Told> {
        self.log.add(format!("{n} by {}", cx.generation()));
        match self.how.take() {
            Some("handle") => quietly_panic("handle"),
            Some("drop") => {
                self.how = Some("drop");
                Err(Told)
            }
            _ => Ok(()),
        }
    }

    async fn on_stop(&mut self, _: &mut Context<Self>) {
        if self.how == Some("stop") {
            quietly_panic("stop");
        }
    }
}

impl Drop for Fused {
    fn drop(&mut self) {
        if self.how == Some("drop") && !std::thread::panicking() {
            self.how = None;
            quietly_panic("drop");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_before_start_up_finished_survives_its_failure() {
    let cases: [&'static [&'static str]; 4] = [
        &["factory", "factory"],
        &["start error", "start panic"],
        &["late start error", "factory", "start panic"],
        &["start panic", "late start error", "start error", "factory"],
    ];
    for fuses in cases {
        // At least 100 ms between two, and messages that live for a minute.
        let config = RykerConfig::builder().deadline(Duration::from_secs(60));
        let (rt, log) = (Runtime::new(config.build().unwrap()), Log::default());
        let actor = Fused::spawn(&rt, fuses, &log);
        for n in 0..3 {
            actor.try_send(n).unwrap();
        }
        sleep(Duration::from_secs(20)).await;
        let by = fuses.len() + 1;
        assert_eq!(
            log.lines(),
            (0..3).map(|n| format!("{n} by {by}")).collect::<Vec<_>>()
        );
        let accounts = balanced(actor.accounts());
        assert_eq!((accounts.ok, accounts.accepted), (3, 3), "{fuses:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_destructor_of_the_state_that_panics_is_one_failure_not_two() {
    let (rt, log) = (runtime(), Log::default());
    let actor = Fused::spawn(&rt, &["drop"], &log);
    for n in 0..3 {
        actor.try_send(n).unwrap();
    }
    sleep(ms(6_000)).await;
    assert_eq!(log.lines()[0], "0 by 1");
    let accounts = balanced(actor.accounts());
    assert_eq!(accounts.accepted, 3);
    // The error was returned before the destructor ran.
    assert_eq!((accounts.error, accounts.panicked), (1, 0), "{accounts:?}");
    actor.try_send(3).unwrap();
    settle().await;
    assert!(log.has("3 by 2"), "{:?}", log.lines());
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_it_stops_is_not_worth_a_restart() {
    let (rt, log) = (runtime(), Log::default());
    let actor = Fused::spawn(&rt, &["stop"], &log);
    settle().await;
    actor.stop();
    let (exit, took) = timed(actor.stopped()).await;
    assert_eq!(took, Duration::ZERO, "{exit:?}");
    // The exit tells of it.
    assert!(exit.is_failure(), "{exit:?}");
    assert!(
        matches!(&exit, ActorExit::Panicked { text, .. } if text == "stop"),
        "{exit:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_text_of_a_panic_is_kept_whatever_it_was() {
    struct Payload;
    let throws: [(fn(), &str); 4] = [
        (|| quietly_panic("static"), "static"),
        (
            || std::panic::resume_unwind(Box::new(String::from("owned"))),
            "owned",
        ),
        (|| std::panic::resume_unwind(Box::new(7)), ""),
        (|| panic_any(Payload), ""),
    ];
    for (throw, text) in throws {
        let config = RykerConfig::builder().rapid_fail_threshold(1);
        let (rt, log) = (Runtime::new(config.build().unwrap()), Log::default());
        let actor = worker(&rt, &log);
        let throw = job(move |_, _| {
            Box::pin(async move {
                throw();
                Ok(())
            })
        });
        actor.try_send(throw).unwrap();
        let ActorExit::RapidFail { last, .. } = actor.stopped().await else {
            panic!("{:?}", actor.exit());
        };
        let ActorExit::Panicked { text: said, .. } = &*last else {
            panic!("{last:?}");
        };
        assert!(
            if text.is_empty() {
                !said.is_empty()
            } else {
                said == text
            },
            "{said:?}"
        );
        assert_eq!(balanced(actor.accounts()).panicked, 1);
    }
}

/// A payload whose destructor panics again.
#[tokio::test(start_paused = true)]
async fn what_was_thrown_may_throw_again_when_it_is_dropped() {
    struct Nested;
    impl Drop for Nested {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                quietly_panic("nested");
            }
        }
    }
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    let throw = job(|_, _| Box::pin(async { std::panic::resume_unwind(Box::new(Nested)) }));
    actor.try_send(throw).unwrap();
    actor.try_send(Msg::Note(1)).unwrap();
    assert_eq!(actor.ask(Msg::Notes).await.unwrap(), [1]);
    assert_eq!(balanced(actor.accounts()).panicked, 1);
}

/// What an error says is foreign code too.
#[tokio::test(start_paused = true)]
async fn an_error_that_cannot_be_printed_is_a_failure_like_any_other() {
    #[derive(Debug)]
    struct Mute;
    impl std::fmt::Display for Mute {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            quietly_panic("mute")
        }
    }
    impl std::error::Error for Mute {}
    struct Failing(u32);
    impl Actor for Failing {
        type Msg = Option<ryker::Reply<u32>>;
        type Error = Mute;
        async fn handle(&mut self, m: Self::Msg, _: &mut Context<Self>) -> Result<(), Mute> {
            let Some(reply) = m else { return Err(Mute) };
            let _ = reply.send(self.0);
            Ok(())
        }
    }
    let rt = runtime();
    let actor = rt.spawn("failing", || Failing(5)).unwrap();
    actor.try_send(None).unwrap();
    assert_eq!(actor.ask(Some).await.unwrap(), 5);
    assert_eq!(balanced(actor.accounts()).error, 1);
}

#[tokio::test(start_paused = true)]
async fn each_delay_lies_between_the_base_and_three_times_the_one_before() {
    for (base, cap) in [(100, 5_000), (1, 50), (10, 10), (50, 120)] {
        let config = RykerConfig::builder().rapid_fail_threshold(1_000);
        let config = config.backoff_base(ms(base)).backoff_cap(ms(cap));
        let rt = Runtime::new(config.build().unwrap());
        let (actor, witness) = witnessed(&rt, "w");
        let mut seen = Vec::new();
        for n in 0..60 {
            actor.try_send(Msg::Panic).unwrap();
            let began = Instant::now();
            while witness.delays.lock().unwrap().len() == n {
                tokio::task::yield_now().await;
            }
            let (_, delay) = witness.delays.lock().unwrap()[n];
            let previous = seen.last().copied().unwrap_or(ms(base));
            assert!(delay >= ms(base), "{delay:?} {base}");
            assert!(
                delay <= ms(cap).min(previous * 3),
                "{delay:?} after {previous:?}"
            );
            seen.push(delay);
            // It is the delay that is kept, too.
            let generation = format!("start {}", n + 2);
            while !witness.log.has(&generation) {
                sleep(Duration::from_micros(100)).await;
            }
            let took = began.elapsed();
            assert!(
                took + ms(2) >= delay && took <= delay + ms(4),
                "{took:?} {delay:?}"
            );
        }
        if cap > base * 3 {
            let distinct: std::collections::BTreeSet<_> = seen.iter().collect();
            assert!(distinct.len() > 15, "{seen:?}");
            assert!(*seen.iter().max().unwrap() > ms(cap / 2), "{seen:?}");
        }
        balanced(actor.accounts());
    }
}

#[tokio::test(start_paused = true)]
async fn actors_that_fail_together_do_not_come_back_together() {
    let rt = patient();
    let actors: Vec<_> = (0..10).map(|n| witnessed(&rt, &format!("w{n}"))).collect();
    for _ in 0..8 {
        for (actor, _) in &actors {
            actor.try_send(Msg::Panic).unwrap();
        }
        sleep(Duration::from_secs(6)).await;
    }
    let all: Vec<Vec<Duration>> = actors
        .iter()
        .map(|(_, witness)| witness.delays.lock().unwrap().iter().map(|d| d.1).collect())
        .collect();
    for (n, a) in all.iter().enumerate() {
        assert_eq!(a.len(), 8);
        for b in &all[..n] {
            let together = a.iter().zip(b).filter(|(a, b)| a == b).count();
            assert!(together <= 4, "{a:?} {b:?}");
        }
    }
    assert!(rt.accounts().balances());
}

/// Two programs that start at the same time, with actors of the same names, are independent of each other as well.
#[tokio::test(start_paused = true)]
async fn the_delays_of_another_runtime_are_others() {
    let mut all = Vec::new();
    for _ in 0..2 {
        let rt = patient();
        let (actor, witness) = witnessed(&rt, "w");
        for _ in 0..10 {
            actor.try_send(Msg::Panic).unwrap();
            sleep(Duration::from_secs(6)).await;
        }
        let delays: Vec<_> = witness.delays.lock().unwrap().iter().map(|d| d.1).collect();
        all.push(delays);
    }
    assert_ne!(all[0], all[1]);
}

#[tokio::test(start_paused = true)]
async fn without_jitter_the_delays_are_the_same_every_time_and_grow_to_the_cap() {
    let mut all = Vec::new();
    for _ in 0..2 {
        let config = RykerConfig::builder().rapid_fail_threshold(1_000);
        let config = config.decorrelated_jitter(false).backoff_cap(ms(2_000));
        let rt = Runtime::new(config.build().unwrap());
        let (actor, witness) = witnessed(&rt, "w");
        for _ in 0..10 {
            actor.try_send(Msg::Panic).unwrap();
            sleep(ms(2_100)).await;
        }
        let delays: Vec<_> = witness.delays.lock().unwrap().iter().map(|d| d.1).collect();
        assert_eq!(delays[0], ms(100));
        assert!(delays.windows(2).all(|two| two[0] <= two[1]), "{delays:?}");
        all.push(delays);
    }
    assert_eq!(all[0], all[1]);
    assert_eq!(*all[0].last().unwrap(), ms(2_000));
}

#[tokio::test(start_paused = true)]
async fn delays_begin_anew_after_a_long_healthy_time() {
    let config = RykerConfig::builder().decorrelated_jitter(false);
    let rt = Runtime::new(config.build().unwrap());
    let (actor, witness) = witnessed(&rt, "w");
    for _ in 0..2 {
        for _ in 0..3 {
            actor.try_send(Msg::Panic).unwrap();
            sleep(ms(1_000)).await;
        }
        sleep(Duration::from_secs(3_600)).await;
    }
    let delays: Vec<_> = witness.delays.lock().unwrap().clone();
    assert_eq!(delays[..3], delays[3..]);
    assert_eq!((delays[0], delays[2].0), ((1, ms(100)), 3));
    assert!(delays[2].1 > delays[0].1);
}

#[tokio::test(start_paused = true)]
async fn the_nth_failure_inside_the_window_ends_it() {
    for threshold in [1, 2, 5] {
        let config = RykerConfig::builder().rapid_fail_threshold(threshold);
        let config = config.backoff_base(ms(1)).backoff_cap(ms(1));
        let rt = Runtime::new(config.rapid_fail_window(ms(7_000)).build().unwrap());
        let (actor, witness) = witnessed(&rt, "w");
        for n in 0..threshold {
            assert!(actor.exit().is_none(), "after {n}");
            assert_eq!(actor.accounts().pending, 0);
            actor
                .try_send(if n % 2 == 0 { Msg::Panic } else { Msg::Fail })
                .unwrap();
            sleep(ms(500)).await;
        }
        let exit = actor.exit().unwrap();
        assert!(exit.is_failure());
        let ActorExit::RapidFail {
            failures,
            window,
            last,
            ..
        } = &exit
        else {
            panic!("{exit:?}");
        };
        assert_eq!((*failures, *window), (threshold, ms(7_000)));
        if threshold % 2 == 1 {
            assert!(matches!(**last, ActorExit::Panicked { .. }), "{last:?}");
        } else {
            let ActorExit::Failed { cause, .. } = &**last else {
                panic!("{last:?}");
            };
            assert_eq!(cause.downcast_ref(), Some(&Told));
        }
        let told = witness.delays.lock().unwrap().clone();
        let failures: Vec<u32> = told.iter().map(|d| d.0).collect();
        assert_eq!(failures, (1..threshold).collect::<Vec<_>>());
        balanced(actor.accounts());
    }
}

#[tokio::test(start_paused = true)]
async fn failures_that_are_far_apart_never_end_it() {
    let config = RykerConfig::builder().rapid_fail_threshold(3);
    // Less than what the first of the last three has left of the window when the third is sent.
    let config = config.backoff_cap(ms(4_800));
    let config = config.rapid_fail_window(ms(10_000)).deadline(ms(60_000));
    let rt = Runtime::new(config.build().unwrap());
    let (actor, _) = witnessed(&rt, "w");
    for _ in 0..50 {
        actor.try_send(Msg::Panic).unwrap();
        sleep(ms(5_100)).await;
        assert!(actor.exit().is_none());
    }
    // Two are in the window; one more at once, and a third before they have left it.
    for _ in 0..2 {
        actor.try_send(Msg::Panic).unwrap();
        sleep(ms(5_100)).await;
    }
    assert!(actor.exit().is_none());
    actor.try_send(Msg::Panic).unwrap();
    settle().await;
    actor.try_send(Msg::Panic).unwrap();
    sleep(ms(5_100)).await;
    assert!(actor.exit().is_some());
    assert_eq!(balanced(actor.accounts()).panicked, 54);
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_has_ended_hands_everything_back() {
    let config = RykerConfig::builder().rapid_fail_threshold(1);
    let (rt, log) = (Runtime::new(config.build().unwrap()), Log::default());
    let log_ = log.clone();
    let spawned = rt
        .actor("w", move || Worker::new(&log_))
        .capacity(4)
        .spawn();
    let actor = spawned.unwrap();
    actor.try_send(Msg::Sleep(ms(10))).unwrap();
    settle().await;
    actor.try_send(Msg::Panic).unwrap();
    for n in 0..3 {
        actor.try_send(Msg::Note(n)).unwrap();
    }
    // One that waits for room, and one that waits for an answer.
    let waiting = actor.send(Msg::Note(3));
    let (sent, exit) = tokio::join!(waiting, actor.stopped());
    assert!(
        matches!(sent, Err(SendError::Closed(Msg::Note(3)))),
        "{sent:?}"
    );
    assert!(matches!(exit, ActorExit::RapidFail { .. }));
    assert!(actor.is_closed());
    assert!(matches!(
        actor.try_send(Msg::Fail),
        Err(SendError::Closed(Msg::Fail))
    ));
    assert_eq!(actor.depth(), 0);
    let accounts = balanced(actor.accounts());
    assert_eq!(
        (accounts.dropped, accounts.panicked, accounts.ok),
        (3, 1, 1)
    );
    // `stopped` again, and from a clone.
    assert!(actor.clone().stopped().await.is_failure());
    assert!(!log.has("stop"), "it did not end in peace");
}

#[tokio::test(start_paused = true)]
async fn messages_wait_for_the_next_incarnation_and_expire_meanwhile() {
    let config = RykerConfig::builder()
        .backoff_base(ms(500))
        .backoff_cap(ms(500));
    let (rt, log) = (Runtime::new(config.build().unwrap()), Log::default());
    let actor = worker(&rt, &log);
    actor.try_send(Msg::Panic).unwrap();
    settle().await;
    let soon = (Instant::now() + ms(300)).into_std();
    actor.send_with_deadline(Msg::Note(1), soon).await.unwrap();
    actor.try_send(Msg::Note(2)).unwrap();
    let (notes, took) = timed(actor.ask(Msg::Notes)).await;
    assert_eq!(notes.unwrap(), [2]);
    about(took, ms(500));
    let accounts = balanced(actor.accounts());
    assert_eq!((accounts.expired, accounts.panicked), (1, 1));
}

/// The ask does not wait for the restart longer than for anything else.
#[tokio::test(start_paused = true)]
async fn an_ask_in_the_queue_of_a_failed_actor_times_out_in_its_own_time() {
    let config = RykerConfig::builder()
        .backoff_base(ms(5_000))
        .backoff_cap(ms(5_000));
    let (rt, log) = (Runtime::new(config.build().unwrap()), Log::default());
    let actor = worker(&rt, &log);
    actor.try_send(Msg::Panic).unwrap();
    settle().await;
    let (answer, took) = timed(actor.ask(Msg::Notes)).await;
    assert!(matches!(answer, Err(AskError::Timeout)));
    about(took, ms(1_000));
    sleep(ms(5_000)).await;
    let accounts = balanced(actor.accounts());
    assert_eq!(accounts.expired + accounts.abandoned, 1);
    assert_eq!(accounts.pending, 0);
}

#[tokio::test(start_paused = true)]
async fn the_error_of_an_ask_that_made_its_actor_fail_is_the_callers_alone() {
    let rt = patient();
    let (actor, _) = witnessed(&rt, "w");
    for _ in 0..20 {
        let (failed, noted) = tokio::join!(actor.ask(Msg::PanicOn), actor.ask(Msg::Notes));
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::NoReply);
        assert!(matches!(noted, Ok(_) | Err(AskError::Timeout)), "{noted:?}");
        sleep(ms(6_000)).await;
    }
    assert_eq!(balanced(actor.accounts()).panicked, 20);
}

/// Both flavours, real time: thousands of panics while others send.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_actor_that_panics_on_every_other_message_loses_no_other_one() {
    let config = RykerConfig::builder().rapid_fail_threshold(1_000);
    let config = config.backoff_base(ms(1)).backoff_cap(ms(1));
    let config = config.deadline(Duration::from_secs(60)).build().unwrap();
    let (rt, log) = (Runtime::new(config), Log::default());
    let actor = worker(&rt, &log);
    let senders: Vec<_> = (0..4)
        .map(|by| {
            let actor = actor.clone();
            tokio::spawn(async move {
                for n in 0..100 {
                    actor.send(Msg::Note(by * 1_000 + n)).await.unwrap();
                    actor.send(Msg::Panic).await.unwrap();
                }
            })
        })
        .collect();
    for sender in senders {
        sender.await.unwrap();
    }
    actor.stop();
    assert!(matches!(actor.stopped().await, ActorExit::Normal));
    let accounts = balanced(actor.accounts());
    assert_eq!((accounts.ok, accounts.panicked), (400, 400));
    let notes: Vec<u32> = log
        .lines()
        .iter()
        .filter_map(|line| line.strip_prefix("note ")?.parse().ok())
        .collect();
    for by in 0..4 {
        let of_one: Vec<u32> = notes.iter().copied().filter(|n| n / 1_000 == by).collect();
        assert_eq!(of_one, (by * 1_000..by * 1_000 + 100).collect::<Vec<_>>());
    }
}

/// Foreign code of every kind holds references to its own actor and uses them where nobody would.
#[tokio::test(start_paused = true)]
async fn factories_and_destructors_may_use_the_actor_they_belong_to() {
    type Own = Arc<std::sync::Mutex<Option<ryker::WeakActorRef<u32>>>>;
    struct Meddler(Own, Log);
    fn meddle(own: &Own, log: &Log, what: &str) {
        let weak = own.lock().unwrap().clone();
        if let Some(itself) = weak.and_then(|weak| weak.upgrade()) {
            let sent = itself.try_send(0).is_ok();
            assert!(itself.accounts().balances());
            log.add(format!("{what} {sent} {}", itself.exit().is_some()));
        }
    }
    impl Actor for Meddler {
        type Msg = u32;
        type Error = Told;
        async fn handle(&mut self, n: u32, _: &mut Context<Self>) -> Result<(), Told> {
            self.1.add(format!("got {n}"));
            if n == 1 {
                return Err(Told);
            }
            Ok(())
        }
    }
    impl Drop for Meddler {
        fn drop(&mut self) {
            meddle(&self.0, &self.1, "drop");
        }
    }
    let (rt, log, own) = (runtime(), Log::default(), Own::default());
    let (own_, log_) = (own.clone(), log.clone());
    let make = move || {
        meddle(&own_, &log_, "make");
        Meddler(own_.clone(), log_.clone())
    };
    let actor = rt.spawn("meddler", make).unwrap();
    *own.lock().unwrap() = Some(actor.downgrade());
    actor.try_send(1).unwrap();
    sleep(ms(500)).await;
    actor.stop();
    actor.stopped().await;
    assert_eq!(
        log.lines(),
        [
            "make true false",
            "got 1",
            "drop true false",
            "make true false",
            "got 0",
            "got 0",
            "got 0",
            "drop false false"
        ]
    );
    assert_eq!(balanced(actor.accounts()).ok, 3);
}
