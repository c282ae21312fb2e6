//! The test kit, used as its users would: paused time, probes, actors run step by step.

use std::error::Error;
use std::future::Future;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;
use std::time::Duration;

use ryker::test_kit::{paused, settle, Probe, Step, Stepper};
use ryker::{
    Accounts, Actor, ActorExit, ActorRef, AskError, Context, DeadlineExceeded, OnDeadline, Reply,
    Runtime, RykerConfig, SendError,
};
use tokio::time::{sleep, Instant};

fn on_paused_time<F: Future>(test: impl FnOnce(Runtime) -> F) -> F::Output {
    paused(RykerConfig::default(), test)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What a panic of `run` says.
fn complaint(run: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(run)).unwrap_err();
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic.downcast::<&str>().unwrap().to_string(),
    }
}

enum Msg {
    Add(u64),
    Sleep(u64),
    Total(Reply<u64>),
    Fail,
    Panic,
}

/// `CANCEL` is whether handlers are cancelled at the deadline, `RESTART` what comes then.
struct Sum<const CANCEL: bool, const RESTART: bool> {
    sum: u64,
    generation: u64,
    stopped: Arc<AtomicU32>,
}

type Plain = Sum<false, false>;

impl<const CANCEL: bool, const RESTART: bool> Sum<CANCEL, RESTART> {
    fn new() -> Self {
        Self::telling(&Arc::default())
    }

    fn telling(stopped: &Arc<AtomicU32>) -> Self {
        Self {
            sum: 0,
            generation: 0,
            stopped: Arc::clone(stopped),
        }
    }
}

impl<const CANCEL: bool, const RESTART: bool> Actor for Sum<CANCEL, RESTART> {
    type Msg = Msg;
    type Error = std::io::Error;
    const CANCEL_SAFE: bool = CANCEL;

    async fn on_start(&mut self, cx: &mut Context<Self>) -> std::io::Result<()> {
        self.generation = cx.generation();
        Ok(())
    }

    async fn handle(&mut self, msg: Msg, _: &mut Context<Self>) -> std::io::Result<()> {
        match msg {
            Msg::Add(n) => self.sum += n,
            Msg::Sleep(n) => sleep(ms(n)).await,
            Msg::Total(reply) => drop(reply.send(self.sum)),
            Msg::Fail => return Err(std::io::Error::other("as asked")),
            Msg::Panic => panic!("as asked"),
        }
        Ok(())
    }

    fn on_deadline(&mut self, _: &mut Context<Self>) -> OnDeadline {
        match RESTART {
            true => OnDeadline::Restart,
            false => OnDeadline::Keep,
        }
    }

    async fn on_stop(&mut self, _: &mut Context<Self>) {
        self.stopped.fetch_add(1, Ordering::Relaxed);
    }
}

mod time {
    use super::*;

    #[test]
    fn an_hour_passes_in_no_time() {
        let began = std::time::Instant::now();
        let passed = on_paused_time(|_| async {
            let began = Instant::now();
            sleep(ms(3_600_000)).await;
            began.elapsed()
        });
        assert_eq!(passed, ms(3_600_000));
        assert!(began.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn the_runtime_has_the_configuration_that_was_given() {
        let config = RykerConfig::builder().mailbox_capacity(3).build().unwrap();
        let seen = paused(config.clone(), |rt| async move { (*rt.config()).clone() });
        assert_eq!(seen, config);
    }

    #[test]
    fn a_test_fails_as_its_body_does() {
        let text = complaint(|| on_paused_time(|_| async { panic!("as asked") }));
        assert_eq!(text, "as asked");
    }

    #[test]
    fn settling_lets_everything_under_way_come_to_its_end() {
        struct Relay(Option<ActorRef<u32>>);
        impl Actor for Relay {
            type Msg = u32;
            type Error = std::convert::Infallible;
            async fn handle(&mut self, n: u32, _: &mut Context<Self>) -> Result<(), Self::Error> {
                if let Some(next) = &self.0 {
                    let _ = next.send(n).await;
                }
                Ok(())
            }
        }
        on_paused_time(|rt| async move {
            let mut last = rt.spawn("end", || Relay(None)).unwrap();
            let end = last.clone();
            for n in 0..20 {
                let next = last.clone();
                let relay = move || Relay(Some(next.clone()));
                last = rt.spawn(format!("relay-{n}"), relay).unwrap();
            }
            for n in 0..100 {
                last.try_send(n).unwrap();
            }
            let began = Instant::now();
            settle().await;
            assert_eq!(end.accounts().ok, 100);
            assert_eq!(began.elapsed(), ms(1));
        });
    }
}

mod probe {
    use super::*;

    #[test]
    fn messages_come_in_order_and_count_as_handled_when_they_are_taken() {
        on_paused_time(|rt| async move {
            let (actor, mut probe) = Probe::open(&rt, "p");
            for n in 0..3 {
                actor.try_send(n).unwrap();
            }
            assert_eq!((probe.depth(), probe.accounts().ok), (3, 0));
            assert_eq!(probe.next().await, 0);
            assert_eq!(probe.try_next(), Some(1));
            assert_eq!((probe.depth(), probe.accounts().ok), (1, 2));
            assert_eq!(probe.next().await, 2);
            assert_eq!(probe.try_next(), None);
            assert!(probe.accounts().balances());
        });
    }

    #[test]
    fn next_waits_for_a_message_that_is_sent_later() {
        on_paused_time(|rt| async move {
            let (actor, mut probe) = Probe::open(&rt, "p");
            let began = Instant::now();
            tokio::spawn(async move {
                sleep(ms(59_000)).await;
                actor.send("late").await.unwrap();
            });
            assert_eq!(probe.next().await, "late");
            assert_eq!(began.elapsed(), ms(59_000));
        });
    }

    #[test]
    fn next_fails_where_it_was_called_when_nothing_comes() {
        let line = line!() + 4;
        let text = complaint(|| {
            on_paused_time(|rt| async move {
                let (_actor, mut probe) = Probe::<u32>::open(&rt, "quiet");
                probe.next().await;
            });
        });
        let end = ": no message came to probe `quiet` in 60 s";
        assert!(text.ends_with(end), "{text}");
        assert!(text.contains(&format!("test_kit.rs:{line}:")), "{text}");
    }

    #[test]
    fn next_fails_at_once_when_nobody_is_left_to_send() {
        let began = std::time::Instant::now();
        let text = complaint(|| {
            on_paused_time(|rt| async move {
                let (actor, mut probe) = Probe::<u32>::open(&rt, "left");
                drop(actor);
                assert!(probe.is_closed());
                probe.next().await;
            });
        });
        assert!(
            text.contains("no message will come to probe `left`"),
            "{text}"
        );
        assert!(began.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn silence_is_waited_for_to_its_end() {
        on_paused_time(|rt| async move {
            let (actor, mut probe) = Probe::<u32>::open(&rt, "p");
            let began = Instant::now();
            probe.expect_none_for(ms(250)).await;
            assert_eq!(began.elapsed(), ms(250));
            drop(actor);
            probe.expect_none_for(ms(250)).await;
            assert_eq!(began.elapsed(), ms(500));
        });
    }

    #[test]
    fn silence_that_is_broken_fails_where_it_was_expected() {
        let line = line!() + 8;
        let text = complaint(|| {
            on_paused_time(|rt| async move {
                let (actor, mut probe) = Probe::open(&rt, "p");
                tokio::spawn(async move {
                    sleep(ms(100)).await;
                    actor.send(1).await
                });
                probe.expect_none_for(ms(101)).await;
            });
        });
        assert!(
            text.ends_with(": a message came to probe `p` after 100ms"),
            "{text}"
        );
        assert!(text.contains(&format!("test_kit.rs:{line}:")), "{text}");
    }

    #[test]
    fn expired_messages_and_abandoned_asks_are_passed_over() {
        on_paused_time(|rt| async move {
            let (actor, mut probe) = Probe::open(&rt, "p");
            actor.try_send(Msg::Fail).unwrap();
            sleep(ms(1_500)).await;
            let given_up = tokio::time::timeout(ms(1), actor.ask(Msg::Total)).await;
            assert!(given_up.is_err());
            actor.try_send(Msg::Add(3)).unwrap();
            assert!(matches!(probe.next().await, Msg::Add(3)));
            actor.try_send(Msg::Add(4)).unwrap();
            let given_up = tokio::time::timeout(ms(1), actor.ask(Msg::Total)).await;
            assert!(given_up.is_err());
            assert!(matches!(probe.try_next(), Some(Msg::Add(4))));
            assert!(probe.try_next().is_none());
            let Accounts {
                ok,
                expired,
                abandoned,
                ..
            } = probe.accounts();
            assert_eq!((ok, expired, abandoned), (2, 1, 2));
        });
    }

    #[test]
    fn asks_are_answered_or_not_as_the_test_pleases() {
        on_paused_time(|rt| async move {
            let (actor, mut probe) = Probe::open(&rt, "p");
            let (answer, ()) = tokio::join!(actor.ask(Msg::Total), async {
                let Msg::Total(reply) = probe.next().await else {
                    panic!("an ask")
                };
                reply.send(12).unwrap();
            });
            assert_eq!(answer.ok(), Some(12));
            let (answer, asked) = tokio::join!(actor.ask(Msg::Total), probe.next());
            // Held until now.
            assert!(matches!(answer, Err(AskError::Timeout)));
            drop(asked);
            let (answer, ()) = tokio::join!(actor.ask(Msg::Total), async {
                drop(probe.next().await);
            });
            assert!(matches!(answer, Err(AskError::NoReply)));
        });
    }

    #[test]
    fn a_full_probe_is_busy_until_a_message_is_taken() {
        on_paused_time(|rt| async move {
            let (actor, mut probe) = Probe::with_capacity(&rt, "p", 1);
            actor.try_send(1).unwrap();
            assert!(matches!(actor.try_send(2), Err(SendError::Busy(2))));
            let waiting = actor.clone();
            let sent = tokio::spawn(async move { waiting.send(3).await });
            settle().await;
            assert_eq!(probe.next().await, 1);
            assert!(sent.await.unwrap().is_ok());
            assert_eq!(probe.next().await, 3);
        });
    }

    #[test]
    fn a_probe_that_is_dropped_has_ended() {
        on_paused_time(|rt| async move {
            let (actor, probe) = Probe::open(&rt, "p");
            let (asked, ()) = tokio::join!(actor.ask(Msg::Total), async {
                settle().await;
                drop(probe);
            });
            assert!(matches!(asked, Err(AskError::Closed)));
            assert!(matches!(actor.stopped().await, ActorExit::Normal));
            assert!(matches!(
                actor.try_send(Msg::Fail),
                Err(SendError::Closed(_))
            ));
            assert_eq!((actor.accounts().dropped, actor.accounts().pending), (1, 0));
            assert!(rt.drain(ms(100)).await.is_clean());
        });
    }

    #[test]
    fn a_drain_waits_for_a_probe_and_then_takes_its_messages() {
        on_paused_time(|rt| async move {
            let (actor, mut probe) = Probe::open(&rt, "p");
            let drain = rt.drain(ms(100));
            let (asked, report) = tokio::join!(actor.ask(Msg::Total), drain);
            assert!(matches!(asked, Err(AskError::Timeout)));
            assert_eq!(report.stuck, ["p"]);
            assert!(probe.is_closed());
            assert!(probe.try_next().is_none());
            assert_eq!(probe.accounts().dropped, 1);
        });
    }

    #[test]
    fn what_cannot_be_built_is_said() {
        for (name, capacity, said) in [("two words", 1, "two words"), ("p", 0, "capacity")] {
            let text = complaint(|| {
                on_paused_time(|rt| async move {
                    drop(Probe::<u32>::with_capacity(&rt, name, capacity));
                });
            });
            assert!(text.contains(said), "{text}");
        }
    }
}

mod stepper {
    use super::*;

    fn plain(rt: &Runtime) -> (ActorRef<Msg>, Stepper<Plain>) {
        Stepper::of(rt.actor("sum", Plain::new))
    }

    #[test]
    fn nothing_happens_but_by_a_step() {
        on_paused_time(|rt| async move {
            let (sum, mut steps) = plain(&rt);
            assert!(!steps.is_running());
            for n in 1..=3 {
                sum.try_send(Msg::Add(n)).unwrap();
            }
            steps.start().await.unwrap();
            settle().await;
            assert_eq!((steps.depth(), steps.state().sum), (3, 0));
            for (depth, expected) in [(2, 1), (1, 3), (0, 6)] {
                assert!(matches!(steps.step().await, Step::Handled));
                assert_eq!((steps.depth(), steps.state().sum), (depth, expected));
            }
            assert!(matches!(steps.step().await, Step::Idle));
            sum.try_send(Msg::Add(1)).unwrap();
            assert!(matches!(steps.step().await, Step::Handled));
            assert_eq!(steps.accounts().ok, 4);
        });
    }

    #[test]
    fn an_ask_is_answered_by_the_step_that_handles_it() {
        on_paused_time(|rt| async move {
            let (sum, mut steps) = plain(&rt);
            steps.start().await.unwrap();
            sum.try_send(Msg::Add(5)).unwrap();
            let (answer, ()) = tokio::join!(sum.ask(Msg::Total), async {
                steps.step().await;
                steps.step().await;
            });
            assert_eq!(answer.ok(), Some(5));
        });
    }

    #[test]
    fn failures_end_the_incarnation_and_keep_the_queue() {
        on_paused_time(|rt| async move {
            let (sum, mut steps) = plain(&rt);
            for msg in [Msg::Add(1), Msg::Fail, Msg::Panic, Msg::Add(2)] {
                sum.try_send(msg).unwrap();
            }
            steps.start().await.unwrap();
            assert!(matches!(steps.step().await, Step::Handled));
            let Step::Exited(ActorExit::Failed { cause }) = steps.step().await else {
                panic!("it fails")
            };
            assert_eq!(cause.to_string(), "as asked");
            assert!(!steps.is_running());
            steps.start().await.unwrap();
            let Step::Exited(ActorExit::Panicked { text }) = steps.step().await else {
                panic!("it panics")
            };
            assert_eq!(text, "as asked");
            assert!(sum.exit().is_none());
            steps.start().await.unwrap();
            assert!(matches!(steps.step().await, Step::Handled));
            assert_eq!((steps.state().sum, steps.state().generation), (2, 3));
            let Accounts {
                ok,
                error,
                panicked,
                ..
            } = steps.accounts();
            assert_eq!((ok, error, panicked), (2, 1, 1));
        });
    }

    #[test]
    fn a_restart_makes_new_state_and_keeps_the_queue() {
        on_paused_time(|rt| async move {
            let (sum, mut steps) = plain(&rt);
            sum.try_send(Msg::Add(1)).unwrap();
            sum.try_send(Msg::Add(2)).unwrap();
            steps.start().await.unwrap();
            steps.step().await;
            steps.restart().await.unwrap();
            assert_eq!((steps.state().sum, steps.state().generation), (0, 2));
            steps.step().await;
            assert_eq!(steps.state().sum, 2);
        });
    }

    #[test]
    fn lateness_shows_as_in_an_actor_that_runs() {
        on_paused_time(|rt| async move {
            let (sum, mut steps) = plain(&rt);
            sum.try_send(Msg::Sleep(1_500)).unwrap();
            sum.try_send(Msg::Add(1)).unwrap();
            sum.try_send(Msg::Add(1)).unwrap();
            steps.start().await.unwrap();
            let began = Instant::now();
            assert!(matches!(steps.step().await, Step::TimedOut));
            assert_eq!(began.elapsed(), ms(1_500));
            assert!(matches!(steps.step().await, Step::Expired));
            assert_eq!(steps.depth(), 1);
            assert!(matches!(steps.step().await, Step::Expired));
            assert!(matches!(steps.step().await, Step::Idle));
            assert_eq!(
                (steps.accounts().timed_out, steps.accounts().expired),
                (1, 2)
            );
        });
    }

    #[test]
    fn a_handler_that_may_be_cancelled_is() {
        on_paused_time(|rt| async move {
            let (keeps, mut steps) = Stepper::of(rt.actor("keeps", Sum::<true, false>::new));
            keeps.try_send(Msg::Sleep(5_000)).unwrap();
            steps.start().await.unwrap();
            let began = Instant::now();
            assert!(matches!(steps.step().await, Step::TimedOut));
            assert!(began.elapsed() <= ms(1_002));
            assert!(steps.is_running());

            let (ends, mut steps) = Stepper::of(rt.actor("ends", Sum::<true, true>::new));
            ends.try_send(Msg::Sleep(5_000)).unwrap();
            steps.start().await.unwrap();
            let Step::Exited(ActorExit::Failed { cause }) = steps.step().await else {
                panic!("it asks for a restart")
            };
            assert!(cause.is::<DeadlineExceeded>());
            assert_eq!(steps.accounts().timed_out, 1);
        });
    }

    #[test]
    fn an_ask_that_was_given_up_is_dropped_by_its_step() {
        on_paused_time(|rt| async move {
            let (sum, mut steps) = plain(&rt);
            let given_up = tokio::time::timeout(ms(1), sum.ask(Msg::Total)).await;
            assert!(given_up.is_err());
            steps.start().await.unwrap();
            assert!(matches!(steps.step().await, Step::Abandoned));
            assert!(steps.is_running());
            assert_eq!(steps.accounts().abandoned, 1);
        });
    }

    #[test]
    fn an_actor_that_is_stopped_works_off_its_mailbox_and_ends() {
        on_paused_time(|rt| async move {
            let stopped = Arc::<AtomicU32>::default();
            let told = Arc::clone(&stopped);
            let (sum, mut steps) = Stepper::of(rt.actor("sum", move || Plain::telling(&told)));
            sum.try_send(Msg::Add(1)).unwrap();
            sum.stop();
            steps.start().await.unwrap();
            assert!(matches!(steps.step().await, Step::Handled));
            assert_eq!(stopped.load(Ordering::Relaxed), 0);
            assert!(matches!(
                steps.step().await,
                Step::Exited(ActorExit::Normal)
            ));
            assert_eq!(stopped.load(Ordering::Relaxed), 1);
            assert!(matches!(sum.exit(), Some(ActorExit::Normal)));
        });
    }

    #[test]
    fn the_last_reference_that_goes_ends_it_too() {
        on_paused_time(|rt| async move {
            let (sum, mut steps) = plain(&rt);
            drop(sum);
            steps.start().await.unwrap();
            assert!(matches!(
                steps.step().await,
                Step::Exited(ActorExit::Normal)
            ));
        });
    }

    #[test]
    fn a_drain_without_steps_drops_what_is_queued() {
        on_paused_time(|rt| async move {
            let (sum, mut steps) = plain(&rt);
            sum.try_send(Msg::Add(1)).unwrap();
            steps.start().await.unwrap();
            let report = rt.drain(ms(50)).await;
            assert_eq!(report.stuck, ["sum"]);
            assert!(matches!(
                steps.step().await,
                Step::Exited(ActorExit::Cancelled)
            ));
            assert!(matches!(sum.exit(), Some(ActorExit::Cancelled)));
            assert_eq!((steps.accounts().dropped, steps.accounts().pending), (1, 0));
        });
    }

    #[test]
    fn a_drain_cuts_the_handler_of_a_step_short() {
        on_paused_time(|rt| async move {
            let (sum, mut steps) = plain(&rt);
            sum.try_send(Msg::Sleep(900)).unwrap();
            sum.try_send(Msg::Add(1)).unwrap();
            steps.start().await.unwrap();
            let (step, report) = tokio::join!(steps.step(), rt.drain(ms(50)));
            assert!(matches!(step, Step::Exited(ActorExit::Cancelled)));
            assert_eq!((report.aborted, report.dropped), (1, 1));
            assert!(report.stuck.is_empty(), "{report:?}");
        });
    }

    #[test]
    fn a_step_that_is_dropped_aborts_its_message_and_ends_the_incarnation() {
        on_paused_time(|rt| async move {
            let (sum, mut steps) = plain(&rt);
            sum.try_send(Msg::Sleep(500)).unwrap();
            sum.try_send(Msg::Add(1)).unwrap();
            steps.start().await.unwrap();
            let dropped = tokio::time::timeout(ms(10), steps.step()).await;
            assert!(dropped.is_err());
            assert!(!steps.is_running());
            assert_eq!((steps.accounts().aborted, steps.depth()), (1, 1));
            steps.start().await.unwrap();
            assert!(matches!(steps.step().await, Step::Handled));
        });
    }

    #[test]
    fn a_stepper_that_is_dropped_has_ended() {
        on_paused_time(|rt| async move {
            let (sum, steps) = plain(&rt);
            let (asked, ()) = tokio::join!(sum.ask(Msg::Total), async {
                settle().await;
                drop(steps);
            });
            assert!(matches!(asked, Err(AskError::Closed)));
            assert!(matches!(sum.stopped().await, ActorExit::Cancelled));
            assert!(rt.drain(ms(100)).await.is_clean());
        });
    }

    #[test]
    fn a_start_may_fail_and_be_tried_again() {
        struct Moody(u32);
        impl Actor for Moody {
            type Msg = ();
            type Error = Box<dyn Error + Send + Sync>;
            async fn on_start(&mut self, _: &mut Context<Self>) -> Result<(), Self::Error> {
                match self.0 {
                    1 => Err("not yet".into()),
                    2 => panic!("nor now"),
                    _ => Ok(()),
                }
            }
            async fn handle(&mut self, (): (), _: &mut Context<Self>) -> Result<(), Self::Error> {
                Ok(())
            }
        }
        on_paused_time(|rt| async move {
            let mut n = 0;
            let (_moody, mut steps) = Stepper::of(rt.actor("moody", move || {
                n += 1;
                assert!(n != 3, "no state");
                Moody(n)
            }));
            for said in ["failed: not yet", "panicked: nor now", "panicked: no state"] {
                assert_eq!(steps.start().await.unwrap_err().to_string(), said);
                assert!(!steps.is_running());
            }
            steps.start().await.unwrap();
            assert_eq!(steps.state().0, 4);
        });
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        async fn ended(rt: &Runtime) -> (ActorRef<Msg>, Stepper<Plain>) {
            let (sum, mut steps) = plain(rt);
            sum.stop();
            steps.start().await.unwrap();
            steps.step().await;
            (sum, steps)
        }
        let step = || {
            on_paused_time(|rt| async move {
                let (_sum, mut steps) = plain(&rt);
                steps.step().await;
            })
        };
        let state = || {
            on_paused_time(|rt| async move {
                let (_sum, steps) = plain(&rt);
                steps.state();
            })
        };
        let twice = || {
            on_paused_time(|rt| async move {
                let (_sum, mut steps) = plain(&rt);
                steps.start().await.unwrap();
                let _ = steps.start().await;
            })
        };
        let after = || {
            on_paused_time(|rt| async move {
                let (_sum, mut steps) = ended(&rt).await;
                let _ = steps.restart().await;
            })
        };
        let capacity = || {
            on_paused_time(|rt| async move {
                drop(Stepper::of(rt.actor("sum", Plain::new).capacity(0)));
            })
        };
        assert_eq!(complaint(step), "`sum` is not running: start it first");
        assert_eq!(complaint(state), "`sum` is not running");
        assert_eq!(complaint(twice), "`sum` is running");
        assert_eq!(complaint(after), "`sum` has ended for good: ended normally");
        assert!(complaint(capacity).contains("capacity"));
    }

    #[test]
    fn options_of_the_builder_hold() {
        on_paused_time(|rt| async move {
            let builder = rt.actor("sum", Plain::new).capacity(1).deadline(ms(10));
            let (sum, mut steps) = Stepper::of(builder);
            steps.start().await.unwrap();
            sum.try_send(Msg::Add(1)).unwrap();
            assert!(matches!(sum.try_send(Msg::Add(2)), Err(SendError::Busy(_))));
            sleep(ms(11)).await;
            assert!(matches!(steps.step().await, Step::Expired));
            sum.try_send(Msg::Add(3)).unwrap();
        });
    }

    /// A script, handled once by an actor that runs and once by steps.
    #[test]
    fn steps_and_running_come_to_the_same_accounts() {
        fn script() -> impl Iterator<Item = Msg> {
            let one = |n: u64| match n % 7 {
                0 => Msg::Fail,
                1 => Msg::Panic,
                2 | 3 => Msg::Sleep(40 * n),
                _ => Msg::Add(n),
            };
            (0..60).map(one)
        }
        let config = RykerConfig::builder()
            .rapid_fail_threshold(1_000)
            .backoff_base(ms(1))
            .backoff_cap(ms(1))
            .build()
            .unwrap();
        let ran = paused(config.clone(), |rt| async move {
            let sum = rt.spawn("sum", Plain::new).unwrap();
            for msg in script() {
                sum.try_send(msg).unwrap();
            }
            sum.stop();
            sum.stopped().await;
            sum.accounts()
        });
        let stepped = paused(config, |rt| async move {
            let (sum, mut steps) = plain(&rt);
            for msg in script() {
                sum.try_send(msg).unwrap();
            }
            sum.stop();
            loop {
                if !steps.is_running() {
                    // As long as the delay of the one that runs.
                    sleep(ms(u64::from(steps.accounts().handled() > 0))).await;
                    steps.start().await.unwrap();
                }
                if let Step::Exited(ActorExit::Normal) = steps.step().await {
                    return steps.accounts();
                }
            }
        });
        assert!(
            ran.balances() && ran.expired > 0 && ran.timed_out > 0,
            "{ran:?}"
        );
        assert_eq!(stepped, ran);
    }

    #[test]
    fn a_probe_and_a_stepper_show_both_ends_of_a_conversation() {
        struct Front(ActorRef<Msg>);
        impl Actor for Front {
            type Msg = Reply<u64>;
            type Error = std::convert::Infallible;
            async fn handle(
                &mut self,
                reply: Reply<u64>,
                _: &mut Context<Self>,
            ) -> Result<(), Self::Error> {
                if let Ok(total) = self.0.ask(Msg::Total).await {
                    let _ = reply.send(total + 1);
                }
                Ok(())
            }
        }
        on_paused_time(|rt| async move {
            let (back, mut probe) = Probe::open(&rt, "back");
            let builder = rt.actor("front", move || Front(back.clone()));
            let (front, mut steps) = Stepper::of(builder);
            steps.start().await.unwrap();
            let (answer, step, ()) = tokio::join!(front.ask(|reply| reply), steps.step(), async {
                let Msg::Total(reply) = probe.next().await else {
                    panic!("an ask")
                };
                reply.send(41).unwrap();
            });
            assert_eq!(answer.ok(), Some(42));
            assert!(matches!(step, Step::Handled));
        });
    }

    #[test]
    fn its_futures_may_be_sent() {
        fn check<T: Send>(_: &T) {}
        on_paused_time(|rt| async move {
            let (_sum, mut steps) = plain(&rt);
            check(&steps);
            check(&steps.start());
            check(&steps.restart());
            check(&steps.step());
            let (_actor, mut probe) = Probe::<u32>::open(&rt, "p");
            check(&probe);
            check(&probe.next());
            check(&probe.expect_none_for(ms(1)));
        });
    }
}
