//! Asks: answered once, or failed in the way that says why, and at once where waiting is of no use.

use std::future::Future;
use std::pin::{pin, Pin};
use std::time::Duration;

use ryker::{
    Actor, ActorRef, AskError, Context, ErrorKind, Reply, Runtime, RykerConfig, SendError,
};
use tokio::time::{advance, sleep, Instant};

use crate::rig::{
    about, balanced, block_on, job, ms, poll, runtime, settle, timed, worker, Log, Msg, Told,
    Worker,
};

/// An actor of capacity 1 that is busy for `time`.
async fn busy(rt: &Runtime, log: &Log, time: Duration) -> ActorRef<Msg> {
    let log = log.clone();
    let spawned = rt
        .actor("busy", move || Worker::new(&log))
        .capacity(1)
        .spawn();
    let actor = spawned.unwrap();
    actor.try_send(Msg::Sleep(time)).unwrap();
    settle().await;
    assert_eq!(actor.depth(), 0);
    actor
}

#[tokio::test(start_paused = true)]
async fn an_ask_is_answered_after_what_was_sent_before_it() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    for n in 0..100 {
        actor.try_send(Msg::Note(n)).unwrap();
    }
    let (notes, took) = timed(actor.ask(Msg::Notes)).await;
    assert_eq!(notes.unwrap(), (0..100).collect::<Vec<_>>());
    assert_eq!(took, Duration::ZERO);
    let accounts = balanced(actor.accounts());
    assert_eq!((accounts.accepted, accounts.ok), (101, 101));
}

#[tokio::test(start_paused = true)]
async fn an_ask_that_is_not_polled_sends_nothing() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    let mut made = false;
    drop(actor.ask(|reply| {
        made = true;
        Msg::Notes(reply)
    }));
    settle().await;
    assert!(!made);
    assert_eq!(balanced(actor.accounts()).accepted, 0);
}

#[tokio::test(start_paused = true)]
async fn an_ask_of_a_full_actor_fails_at_once_with_the_message() {
    let (rt, log) = (runtime(), Log::default());
    let actor = busy(&rt, &log, ms(500)).await;
    actor.try_send(Msg::Note(1)).unwrap();
    let (answer, took) = timed(actor.ask(Msg::Notes)).await;
    let Err(error @ AskError::NotSent(SendError::Busy(_))) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!((error.kind(), took), (ErrorKind::Busy, Duration::ZERO));
    assert!(matches!(error.into_inner(), Some(Msg::Notes(_))));
    let accounts = balanced(actor.accounts());
    assert_eq!((accounts.accepted, accounts.refused.busy), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn the_reply_in_a_message_that_comes_back_leads_nowhere_and_says_so() {
    let (rt, log) = (runtime(), Log::default());
    let actor = busy(&rt, &log, ms(500)).await;
    actor.try_send(Msg::Note(1)).unwrap();
    let Err(AskError::NotSent(refused)) = actor.ask(Msg::Notes).await else {
        panic!("it is full");
    };
    let Msg::Notes(mut reply) = refused.into_inner() else {
        panic!("another message");
    };
    assert!(reply.is_gone());
    assert!(poll(pin!(reply.gone())).is_ready());
    assert_eq!(reply.send(vec![7]), Err(vec![7]));
}

#[tokio::test(start_paused = true)]
async fn an_ask_of_an_actor_that_has_ended_fails_at_once_as_closed() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    actor.stop();
    actor.stopped().await;
    let (answer, took) = timed(actor.ask(Msg::Notes)).await;
    assert_eq!(took, Duration::ZERO);
    assert!(
        matches!(answer, Err(AskError::NotSent(SendError::Closed(_)))),
        "{answer:?}"
    );
    balanced(actor.accounts());
}

#[tokio::test(start_paused = true)]
async fn an_ask_of_a_draining_actor_fails_at_once_as_draining() {
    let (rt, log) = (runtime(), Log::default());
    let actor = busy(&rt, &log, ms(100)).await;
    let drain = rt.drain(ms(1_000));
    let mut drain = pin!(drain);
    assert!(poll(drain.as_mut()).is_pending());
    let (answer, took) = timed(actor.ask(Msg::Notes)).await;
    assert_eq!(took, Duration::ZERO);
    assert!(
        matches!(answer, Err(AskError::NotSent(SendError::Draining(_)))),
        "{answer:?}"
    );
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::Draining);
    assert!(drain.await.is_clean());
    balanced(actor.accounts());
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_does_not_answer_fails_the_ask_at_once() {
    let asks: [fn(Reply<()>) -> Msg; 4] = [Msg::Ignore, Msg::PanicOn, Msg::FailOn, |reply| {
        job(|_, _| {
            Box::pin(async {
                let _reply = reply;
                sleep(ms(50)).await;
                Err(Told)
            })
        })
    }];
    for (n, make) in asks.into_iter().enumerate() {
        let (rt, log) = (runtime(), Log::default());
        let actor = worker(&rt, &log);
        let (answer, took) = timed(actor.ask(make)).await;
        assert_eq!(answer.err().unwrap().kind(), ErrorKind::NoReply, "{n}");
        assert_eq!(took, if n == 3 { ms(50) } else { Duration::ZERO });
        balanced(actor.accounts());
    }
}

/// Not by the deadline: the reply dies with the state that kept it.
#[tokio::test(start_paused = true)]
async fn a_kept_reply_fails_when_the_incarnation_that_kept_it_does() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    let mut asking = pin!(actor.ask(Msg::Keep));
    assert!(poll(asking.as_mut()).is_pending());
    settle().await;
    let accounts = balanced(actor.accounts());
    assert_eq!((accounts.ok, accounts.pending), (1, 0), "it was handled");
    actor.try_send(Msg::Panic).unwrap();
    let (answer, took) = timed(asking).await;
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::NoReply);
    assert_eq!(took, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_kept_reply_may_be_answered_by_another_message_or_task() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    let mut asking = pin!(actor.ask(Msg::Keep));
    assert!(poll(asking.as_mut()).is_pending());
    let answer = job(|worker, _| {
        let kept = worker.kept.pop().unwrap();
        Box::pin(async move {
            drop(tokio::spawn(async move {
                sleep(ms(300)).await;
                assert!(kept.send(()).is_ok());
            }));
            Ok(())
        })
    });
    actor.try_send(answer).unwrap();
    let (answer, took) = timed(asking).await;
    assert_eq!(answer.unwrap(), ());
    about(took, ms(300));
    balanced(actor.accounts());
}

#[tokio::test(start_paused = true)]
async fn an_ask_waits_for_its_answer_until_the_deadline_and_no_longer() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    let (answer, took) = timed(actor.ask(Msg::Keep)).await;
    assert!(matches!(answer, Err(AskError::Timeout)), "{answer:?}");
    about(took, ms(1_000));

    let until = |millis| (Instant::now() + ms(millis)).into_std();
    for (callers, lasts) in [(30, 30), (5_000, 1_000)] {
        let asking = actor.ask_with_deadline(Msg::Keep, until(callers));
        let (answer, took) = timed(asking).await;
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::Timeout);
        about(took, ms(lasts));
    }
    let late = job(|worker, _| {
        Box::pin(async move {
            assert_eq!(worker.kept.len(), 3);
            for reply in worker.kept.drain(..) {
                assert!(reply.is_gone());
                assert_eq!(reply.send(()), Err(()));
            }
            Ok(())
        })
    });
    actor.send(late).await.unwrap();
    actor.ask(Msg::Notes).await.unwrap();
    let accounts = balanced(actor.accounts());
    assert_eq!((accounts.ok, accounts.panicked), (5, 0));
}

#[tokio::test(start_paused = true)]
async fn an_ask_whose_deadline_has_passed_is_not_sent() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    advance(ms(100)).await;
    for ago in [0, 50] {
        let past = Instant::now() - ms(ago);
        let asking = actor.ask_with_deadline(Msg::Notes, past.into_std());
        let (answer, took) = timed(asking).await;
        let error = answer.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(
            matches!(error, AskError::NotSent(SendError::Deadline(Msg::Notes(_)))),
            "{error:?}"
        );
        assert_eq!(took, Duration::ZERO);
    }
    let accounts = balanced(actor.accounts());
    assert_eq!((accounts.accepted, accounts.refused.deadline), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn an_ask_that_was_given_up_in_the_queue_is_never_handled() {
    let (rt, log) = (runtime(), Log::default());
    let log_ = log.clone();
    let spawned = rt
        .actor("w", move || Worker::new(&log_))
        .capacity(8)
        .spawn();
    let actor = spawned.unwrap();
    actor.try_send(Msg::Sleep(ms(100))).unwrap();
    settle().await;
    let mut given_up: Vec<Pin<Box<dyn Future<Output = _>>>> = Vec::new();
    for _ in 0..3 {
        let asking = actor.ask(|reply| Msg::SleepThenAnswer(ms(1), reply));
        given_up.push(Box::pin(asking));
        assert!(poll(given_up.last_mut().unwrap().as_mut()).is_pending());
    }
    actor.try_send(Msg::Note(1)).unwrap();
    assert_eq!(actor.depth(), 4);
    drop(given_up);
    assert_eq!(actor.ask(Msg::Notes).await.unwrap(), [1]);
    assert!(!log.has("sleeps"));
    let accounts = balanced(actor.accounts());
    assert_eq!((accounts.abandoned, accounts.ok), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn a_handler_learns_that_its_caller_has_gone() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    let wait_for_its_end = |reply: Reply<()>| {
        job(move |worker, _| {
            Box::pin(async move {
                let mut reply = reply;
                assert!(!reply.is_gone());
                {
                    // Dropped and called again.
                    let mut gone = pin!(reply.gone());
                    assert!(poll(gone.as_mut()).is_pending());
                }
                let ((), took) = timed(reply.gone()).await;
                assert!(reply.is_gone());
                reply.gone().await;
                worker
                    .log
                    .add(format!("gone after {}", took.as_millis() / 10 * 10));
                Ok(())
            })
        })
    };
    {
        let mut asking = pin!(actor.ask(wait_for_its_end));
        assert!(poll(asking.as_mut()).is_pending());
        sleep(ms(105)).await;
    }
    settle().await;
    let asking = actor.ask_with_deadline(wait_for_its_end, (Instant::now() + ms(205)).into_std());
    assert_eq!(asking.await.unwrap_err().kind(), ErrorKind::Timeout);
    settle().await;
    let lines = log.lines();
    assert_eq!(lines[1..], ["gone after 100", "gone after 200"]);
    balanced(actor.accounts());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_nobody_waits_for_comes_back() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    {
        let mut asking = pin!(actor.ask(|reply| Msg::SleepThenAnswer(ms(100), reply)));
        assert!(poll(asking.as_mut()).is_pending());
        settle().await;
    }
    actor.ask(Msg::Notes).await.unwrap();
    assert_eq!(log.lines(), ["start 1", "sleeps", "heard false"]);
    let accounts = balanced(actor.accounts());
    assert_eq!((accounts.ok, accounts.abandoned), (2, 0), "it was in hand");
}

#[tokio::test(start_paused = true)]
async fn queued_asks_of_an_actor_that_ends_for_good_fail_as_closed() {
    let config = RykerConfig::builder().rapid_fail_threshold(1);
    let (rt, log) = (Runtime::new(config.build().unwrap()), Log::default());
    let actor = worker(&rt, &log);
    actor.try_send(Msg::Sleep(ms(10))).unwrap();
    actor.try_send(Msg::Panic).unwrap();
    let mut asking = pin!(actor.ask(Msg::Notes));
    assert!(poll(asking.as_mut()).is_pending());
    let (answer, took) = timed(asking).await;
    assert!(matches!(answer, Err(AskError::Closed)), "{answer:?}");
    about(took, ms(10));
    let accounts = balanced(actor.accounts());
    assert_eq!(
        (accounts.dropped, accounts.panicked, accounts.ok),
        (1, 1, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn queued_asks_that_a_drain_has_no_time_for_fail_as_draining() {
    let (rt, log) = (runtime(), Log::default());
    let actor = busy(&rt, &log, ms(500)).await;
    let mut asking = pin!(actor.ask(Msg::Notes));
    assert!(poll(asking.as_mut()).is_pending());
    let drained = rt.drain(ms(100));
    let ((report, answer), took) = timed(async { tokio::join!(drained, asking) }).await;
    assert!(matches!(answer, Err(AskError::Draining)), "{answer:?}");
    about(took, ms(100));
    assert_eq!((report.dropped, report.aborted, report.pending), (1, 1, 0));
    balanced(actor.accounts());
}

/// Begun, it may have had an effect: it is not for the caller to send it elsewhere as if nothing had happened.
#[tokio::test(start_paused = true)]
async fn an_ask_that_is_cut_short_in_hand_has_no_reply() {
    for way in ["drain", "abort"] {
        let (rt, log) = (runtime(), Log::default());
        let actor = worker(&rt, &log);
        let mut asking = pin!(actor.ask(|reply| Msg::SleepThenAnswer(ms(500), reply)));
        assert!(poll(asking.as_mut()).is_pending());
        settle().await;
        assert!(log.has("sleeps"));
        let end = async {
            match way {
                "drain" => drop(rt.drain(ms(100)).await),
                _ => actor.abort(),
            }
        };
        let (answer, ()) = tokio::join!(asking, end);
        assert!(
            matches!(answer, Err(AskError::NoReply)),
            "{way}: {answer:?}"
        );
        actor.stopped().await;
        assert_eq!(balanced(actor.accounts()).aborted, 1);
    }
}

/// A handler's ask does not outlive the patience of whoever asked the handler.
#[tokio::test(start_paused = true)]
async fn asks_of_a_handler_inherit_the_deadline_of_the_message_in_hand() {
    let (rt, log) = (runtime(), Log::default());
    let slow = busy(&rt, &log, ms(900)).await;
    let front = worker(&rt, &log);
    let forward = |reply: Reply<()>| {
        job(move |worker, cx| {
            let until = cx.deadline().unwrap();
            Box::pin(async move {
                about(until - Instant::now().into_std(), ms(200));
                let (answer, took) = timed(slow.ask(Msg::Notes)).await;
                about(took, ms(200));
                worker.log.add(format!("{:?}", answer.unwrap_err()));
                drop(reply);
                Ok(())
            })
        })
    };
    let until = (Instant::now() + ms(200)).into_std();
    let (answer, took) = timed(front.ask_with_deadline(forward, until)).await;
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::Timeout);
    about(took, ms(200));
    settle().await;
    assert!(log.has("Timeout"), "{:?}", log.lines());
    assert!(rt.accounts().balances());
}

#[tokio::test(start_paused = true)]
async fn an_inherited_deadline_does_not_leak_out_of_its_handler() {
    let (rt, log) = (runtime(), Log::default());
    let keeper = worker(&rt, &log);
    let front = worker(&rt, &log);
    // The handler starts a task of its own: what it asks is nobody's but its own.
    let escape = |reply: Reply<Duration>| {
        job(move |_, _| {
            Box::pin(async move {
                drop(tokio::spawn(async move {
                    sleep(ms(150)).await;
                    let (_, took) = timed(keeper.ask(Msg::Keep)).await;
                    panic_if_short(took);
                }));
                let _ = reply.send(ms(1));
                Ok(())
            })
        })
    };
    fn panic_if_short(took: Duration) {
        about(took, ms(1_000));
    }
    let until = (Instant::now() + ms(100)).into_std();
    front.ask_with_deadline(escape, until).await.unwrap();
    sleep(ms(2_000)).await;
    // Nor into the next message of the same actor.
    let next = |reply: Reply<Duration>| {
        job(move |_, cx| {
            let left = cx.deadline().unwrap() - Instant::now().into_std();
            Box::pin(async move {
                let _ = reply.send(left);
                Ok(())
            })
        })
    };
    about(front.ask(next).await.unwrap(), ms(1_000));
    assert!(rt.accounts().balances());
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_asks_itself_waits_until_its_deadline_and_lives_on() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    let ask_itself = job(|worker, cx| {
        let itself = cx.actor_ref().unwrap();
        Box::pin(async move {
            let (answer, took) = timed(itself.ask(Msg::Notes)).await;
            about(took, ms(1_000));
            worker.log.add(format!("{:?}", answer.unwrap_err()));
            Ok(())
        })
    });
    actor.try_send(ask_itself).unwrap();
    sleep(ms(1_100)).await;
    assert!(log.has("Timeout"), "{:?}", log.lines());
    assert!(actor.ask(Msg::Notes).await.unwrap().is_empty());
    let accounts = balanced(actor.accounts());
    assert_eq!((accounts.accepted, accounts.panicked), (3, 0));
    // The ask had expired, or nobody waited for it any more, when its turn came.
    assert_eq!(accounts.expired + accounts.abandoned, 1);
}

#[tokio::test(start_paused = true)]
async fn the_loser_of_a_race_between_asks_is_given_up() {
    let (rt, log) = (runtime(), Log::default());
    let (slow, quick) = (worker(&rt, &log), worker(&rt, &log));
    let front = worker(&rt, &log);
    let (s, q) = (slow.clone(), quick.clone());
    let race = |reply: Reply<&'static str>| {
        job(move |_, _| {
            Box::pin(async move {
                let winner = tokio::select! {
                    answer = s.ask(Msg::Keep) => answer.map(|()| "slow").unwrap_or("failed"),
                    answer = q.ask(|r| Msg::SleepThenAnswer(ms(20), r)) => answer.map(|()| "quick").unwrap_or("failed"),
                };
                let _ = reply.send(winner);
                Ok(())
            })
        })
    };
    assert_eq!(front.ask(race).await.unwrap(), "quick");
    let look = |reply: Reply<bool>| {
        job(move |worker, _| {
            let gone = worker.kept.iter().all(Reply::is_gone);
            Box::pin(async move {
                let _ = reply.send(gone);
                Ok(())
            })
        })
    };
    assert!(slow.ask(look).await.unwrap());
    assert!(rt.accounts().balances());
}

/// `make` is foreign code as well.
#[tokio::test(start_paused = true)]
async fn an_ask_whose_message_cannot_be_made_leaves_nothing_behind() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    let asker = actor.clone();
    let made = tokio::spawn(async move {
        let _ = asker
            .ask(|_: Reply<()>| -> Msg { crate::rig::quietly_panic("cannot") })
            .await;
    });
    assert!(made.await.unwrap_err().is_panic());
    // A reply that is not put into the message: the ask fails at once, and nobody waits any more.
    let answer = actor.ask(|reply: Reply<()>| {
        drop(reply);
        Msg::Note(1)
    });
    assert_eq!(answer.await.unwrap_err().kind(), ErrorKind::NoReply);
    actor.ask(Msg::Notes).await.unwrap();
    let accounts = balanced(actor.accounts());
    assert_eq!((accounts.ok, accounts.abandoned), (1, 1));
}

/// A reply answered before it was sent.
#[tokio::test(start_paused = true)]
async fn a_reply_may_be_answered_while_the_message_is_made() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    let answer = actor.ask(|reply: Reply<u32>| {
        assert!(reply.send(5).is_ok());
        Msg::Note(1)
    });
    assert_eq!(answer.await.unwrap(), 5);
    balanced(actor.accounts());
}

/// The answer itself may be foreign: its destructor runs somewhere, and once.
#[tokio::test(start_paused = true)]
async fn an_answer_nobody_fetched_is_dropped_once() {
    struct Asked;
    impl Actor for Asked {
        type Msg = (Reply<std::sync::Arc<()>>, std::sync::Arc<()>);
        type Error = Told;
        async fn handle(&mut self, m: Self::Msg, _: &mut Context<Self>) -> Result<(), Told> {
            drop(m.0.send(m.1));
            Ok(())
        }
    }
    let rt = runtime();
    let token = std::sync::Arc::new(());
    let actor = rt.spawn("asked", || Asked).unwrap();
    {
        let mine = token.clone();
        let mut asking = pin!(actor.ask(move |reply| (reply, mine)));
        assert!(poll(asking.as_mut()).is_pending());
        settle().await;
        assert_eq!(std::sync::Arc::strong_count(&token), 2, "answered");
    }
    assert_eq!(std::sync::Arc::strong_count(&token), 1);
    let mine = token.clone();
    let answer = actor.ask(move |reply| (reply, mine)).await.unwrap();
    assert_eq!(std::sync::Arc::strong_count(&token), 2);
    drop(answer);
    assert_eq!(balanced(actor.accounts()).ok, 2);
}

/// A thread without tokio; the actor runs elsewhere.
#[test]
fn asks_need_no_executor_but_the_actors() {
    let executor = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (rt, log) = (runtime(), Log::default());
    let actor = {
        let _inside = executor.enter();
        worker(&rt, &log)
    };
    assert!(block_on(actor.ask(Msg::Notes)).unwrap().is_empty());
    let until = std::time::Instant::now() + ms(30);
    let answer = block_on(actor.ask_with_deadline(Msg::Keep, until));
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::Timeout);
    let off = until.elapsed();
    assert!(off < ms(500), "{off:?} late");
    balanced(actor.accounts());
}
