//! The clock as it is outside of tests, however late a busy machine makes it: instants of a caller are never early, times
//! that ryker's own coarse clock measures by 2 ms at most.

use std::time::{Duration, Instant};

use ryker::{ErrorKind, Runtime, RykerConfig, SendError};

use crate::rig::{balanced, block_on, ms, runtime, worker, Log, Msg};

/// Late by seconds would be a timer that was lost.
const SLACK: Duration = Duration::from_secs(5);

#[track_caller]
fn in_time(began: Instant, deadline: Duration) {
    let took = began.elapsed();
    assert!(
        took >= deadline && took < deadline + SLACK,
        "{took:?} of {deadline:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asks_end_at_their_deadline_also_after_a_long_silence() {
    let config = RykerConfig::builder().deadline(ms(30)).build().unwrap();
    let (rt, log) = (Runtime::new(config), Log::default());
    let actor = worker(&rt, &log);
    for silence in [0, 50, 700] {
        tokio::time::sleep(ms(silence)).await;
        let began = Instant::now();
        let answer = actor.ask(Msg::Keep).await;
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::Timeout);
        in_time(began, ms(28));
        let began = Instant::now();
        let answer = actor.ask_with_deadline(Msg::Keep, began + ms(11)).await;
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::Timeout);
        in_time(began, ms(11));
    }
    balanced(actor.accounts());
}

/// Many deadlines at once, in no order, on one thread.
#[tokio::test]
async fn a_thousand_asks_end_each_at_its_own_deadline() {
    let config = RykerConfig::builder()
        .mailbox_capacity(2_000)
        .build()
        .unwrap();
    let (rt, log) = (Runtime::new(config), Log::default());
    let actor = worker(&rt, &log);
    let asks: Vec<_> = (0..1_000_u64)
        .map(|n| {
            let actor = actor.clone();
            tokio::spawn(async move {
                let (began, deadline) = (Instant::now(), ms(10 + n * 7 % 300));
                let asking = actor.ask_with_deadline(Msg::Keep, began + deadline);
                assert_eq!(asking.await.unwrap_err().kind(), ErrorKind::Timeout);
                in_time(began, deadline);
            })
        })
        .collect();
    for ask in asks {
        ask.await.unwrap();
    }
    let accounts = balanced(actor.accounts());
    assert_eq!(accounts.accepted, 1_000);
}

#[test]
fn a_send_waits_until_its_deadline_on_a_thread_without_tokio() {
    let rt = runtime();
    let (sender, mut receiver) = rt.mailbox("m").capacity(1).build().unwrap().split();
    sender.try_send(1).unwrap();
    let began = Instant::now();
    let sent = block_on(sender.send_with_deadline(2, began + ms(40)));
    assert_eq!(sent, Err(SendError::Deadline(2)));
    in_time(began, ms(40));
    let reader = std::thread::spawn(move || {
        std::thread::sleep(ms(20));
        block_on(receiver.recv()).map(|first| (first, receiver))
    });
    assert_eq!(block_on(sender.send(3)), Ok(()));
    let (first, mut receiver) = reader.join().unwrap().unwrap();
    assert_eq!((first, block_on(receiver.recv())), (1, Some(3)));
    balanced(sender.accounts());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_waits_for_its_delay() {
    let config = RykerConfig::builder()
        .backoff_base(ms(60))
        .backoff_cap(ms(60));
    let (rt, log) = (Runtime::new(config.build().unwrap()), Log::default());
    let actor = worker(&rt, &log);
    actor.ask(Msg::Notes).await.unwrap();
    let began = Instant::now();
    actor.try_send(Msg::Panic).unwrap();
    actor.ask(Msg::Notes).await.unwrap();
    in_time(began, ms(58));
    balanced(actor.accounts());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_keeps_to_its_deadline() {
    let (rt, log) = (runtime(), Log::default());
    let actor = worker(&rt, &log);
    actor.try_send(Msg::Sleep(Duration::from_secs(60))).unwrap();
    actor.try_send(Msg::Note(1)).unwrap();
    let began = Instant::now();
    let report = rt.drain(ms(80)).await;
    in_time(began, ms(80));
    assert!(report.balances(), "{report:?}");
    assert_eq!((report.aborted, report.dropped, report.pending), (1, 1, 0));
    balanced(actor.accounts());
}
