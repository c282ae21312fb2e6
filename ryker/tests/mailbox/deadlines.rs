//! One deadline per message, from the call that sends it to the one that takes it. Clocks may be 2 ms off.

use std::pin::pin;
use std::time::Duration;

use ryker::{Receiver, RykerConfig, SendError, Sender, TryRecvError};
use tokio::time::{advance, Instant};

use crate::rig::{balanced, mailbox, poll, runtime};

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn limited<T: Send + 'static>(deadline: Duration) -> (Sender<T>, Receiver<T>) {
    let builder = runtime().mailbox("m").capacity(4).deadline(deadline);
    builder.build().unwrap().split()
}

#[tokio::test(start_paused = true)]
async fn a_message_is_handed_out_before_its_deadline_and_never_after() {
    for (deadline, waits, is_there) in [
        (10, 7, true),
        (10, 13, false),
        (100, 0, true),
        (100, 97, true),
        (100, 103, false),
        (60_000, 59_997, true),
        (60_000, 60_003, false),
        (60_000, 100_000_000, false),
    ] {
        let (sender, mut receiver) = limited(ms(deadline));
        sender.try_send(deadline).unwrap();
        advance(ms(waits)).await;
        let taken = receiver.try_recv();
        assert_eq!(taken.is_ok(), is_there, "{deadline} after {waits}");
        let accounts = balanced(receiver.accounts());
        assert_eq!(
            (accounts.ok, accounts.expired),
            (is_there as u64, !is_there as u64)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_earlier_of_two_deadlines_wins() {
    for (mailboxs, callers, lives) in [(100, 50, 50), (100, 1_000, 100), (100, 100, 100)] {
        let (sender, mut receiver) = limited(ms(mailboxs));
        let until = Instant::now() + ms(callers);
        let send = || sender.send_with_deadline('x', until.into_std());
        send().await.unwrap();
        advance(ms(lives - 3)).await;
        assert_eq!(receiver.try_recv(), Ok('x'), "{mailboxs} {callers}");
        advance(ms(1_000)).await;

        let until = Instant::now() + ms(callers);
        let sent = sender.send_with_deadline('y', until.into_std());
        sent.await.unwrap();
        advance(ms(lives + 3)).await;
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        assert_eq!(balanced(sender.accounts()).expired, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_has_passed_is_refused_at_once_even_where_there_is_room() {
    let (sender, receiver) = limited(ms(100));
    advance(ms(10_000)).await;
    let now = Instant::now();
    for ago in [0, 1, 1_000, 9_999] {
        let past = now.checked_sub(ms(ago)).unwrap().into_std();
        let refused = sender.send_with_deadline(ago, past).await;
        assert_eq!(refused, Err(SendError::Deadline(ago)));
    }
    assert_eq!(now.elapsed(), Duration::ZERO);
    assert_eq!(receiver.depth(), 0);
    let accounts = balanced(sender.accounts());
    assert_eq!((accounts.accepted, accounts.refused.deadline), (0, 4));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_in_a_distant_future_is_the_mailboxs() {
    let (sender, mut receiver) = limited(ms(100));
    let far = std::time::Instant::now() + Duration::from_secs(60 * 60 * 24 * 365 * 100);
    sender.send_with_deadline(1, far).await.unwrap();
    let delivery = receiver.recv_delivery().await.unwrap();
    let left = delivery.deadline - Instant::now().into_std();
    assert!(ms(98) <= left && left <= ms(102), "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn a_delivery_tells_when_its_sender_stops_waiting_and_how_long_it_was_queued() {
    let (sender, mut receiver) = limited(ms(500));
    let until = Instant::now() + ms(300);
    sender
        .send_with_deadline('a', until.into_std())
        .await
        .unwrap();
    sender.try_send('b').unwrap();
    let enqueued = Instant::now();
    advance(ms(120)).await;
    for (message, until) in [('a', until), ('b', enqueued + ms(500))] {
        let delivery = receiver.recv_delivery().await.unwrap();
        assert_eq!(delivery.message, message);
        let off = (delivery.deadline - until.into_std()).max(until.into_std() - delivery.deadline);
        assert!(off <= ms(2), "{message}: {off:?}");
        let off = delivery.waited.max(ms(120)) - delivery.waited.min(ms(120));
        assert!(off <= ms(2), "{message}: {off:?}");
    }
    balanced(sender.accounts());
}

#[tokio::test(start_paused = true)]
async fn expired_messages_are_skipped_for_those_behind_them() {
    let (sender, mut receiver) = limited::<i32>(ms(1_000));
    let soon = || (Instant::now() + ms(50)).into_std();
    sender.send_with_deadline(1, soon()).await.unwrap();
    sender.try_send(2).unwrap();
    sender.send_with_deadline(3, soon()).await.unwrap();
    sender.try_send(4).unwrap();
    advance(ms(60)).await;
    assert_eq!(receiver.recv().await, Some(2));
    assert_eq!(receiver.recv().await, Some(4));

    sender.send_with_deadline(5, soon()).await.unwrap();
    sender.try_send(6).unwrap();
    sender.send_with_deadline(7, soon()).await.unwrap();
    sender.try_send(8).unwrap();
    advance(ms(60)).await;
    let mut taken = Vec::new();
    while taken.len() < 2 {
        assert_ne!(receiver.recv_many(&mut taken, 2).await, 0);
    }
    assert_eq!(taken, [6, 8]);
    let accounts = balanced(sender.accounts());
    assert_eq!((accounts.ok, accounts.expired), (4, 4));
}

/// 0 would say that the mailbox is closed, and `None` as well.
#[tokio::test(start_paused = true)]
async fn a_receive_that_finds_only_expired_messages_goes_on_waiting() {
    let (sender, mut receiver) = limited::<i32>(ms(20));
    let fill = || {
        for n in 0..4 {
            sender.try_send(n).unwrap();
        }
    };
    fill();
    advance(ms(30)).await;
    let mut taken = Vec::new();
    {
        let mut waiting = pin!(receiver.recv_many(&mut taken, 10));
        assert!(poll(waiting.as_mut()).is_pending());
        fill();
        advance(ms(30)).await;
        assert!(poll(waiting.as_mut()).is_pending());
        sender.try_send(7).unwrap();
        assert!(poll(waiting.as_mut()).is_ready());
    }
    assert_eq!(taken, [7]);
    fill();
    advance(ms(30)).await;
    {
        let mut waiting = pin!(receiver.recv());
        assert!(poll(waiting.as_mut()).is_pending());
    }
    fill();
    advance(ms(30)).await;
    drop(sender);
    assert_eq!(receiver.recv().await, None);
    assert_eq!(receiver.recv_many(&mut taken, 3).await, 0);
    let accounts = balanced(receiver.accounts());
    assert_eq!((accounts.ok, accounts.expired), (1, 16));
}

#[tokio::test(start_paused = true)]
async fn time_that_a_send_waited_is_not_available_to_the_handler() {
    let (sender, mut receiver) = limited(ms(100));
    for n in 0..4 {
        sender.try_send(n).unwrap();
    }
    let mut waiting = pin!(sender.send(9));
    assert!(poll(waiting.as_mut()).is_pending());
    advance(ms(80)).await;
    assert_eq!(receiver.try_recv(), Ok(0));
    assert!(poll(waiting.as_mut()).is_ready());
    advance(ms(17)).await;
    for expected in [1, 2, 3] {
        assert_eq!(receiver.try_recv(), Ok(expected));
    }
    advance(ms(6)).await;
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty), "103 ms");
    assert_eq!(balanced(receiver.accounts()).expired, 1);
}

#[tokio::test(start_paused = true)]
async fn a_reload_of_the_default_holds_for_the_next_message_but_not_for_options() {
    let rt = runtime();
    let (follows, mut follower) = rt.mailbox("follows").build().unwrap().split();
    let own = rt.mailbox("own").deadline(ms(5_000)).build().unwrap();
    let (own, mut owner) = own.split();
    follows.try_send("before").unwrap();
    own.try_send("before").unwrap();
    rt.reload(RykerConfig::builder().deadline(ms(50)).build().unwrap());
    follows.try_send("after").unwrap();
    own.try_send("after").unwrap();
    advance(ms(60)).await;
    assert_eq!(follower.try_recv(), Ok("before"), "it had a second");
    assert_eq!(follower.try_recv(), Err(TryRecvError::Empty));
    assert_eq!(owner.try_recv(), Ok("before"));
    assert_eq!(owner.try_recv(), Ok("after"));
    assert!(rt.accounts().balances());
}

/// The clock of a thread without any executor.
#[test]
fn deadlines_hold_outside_of_any_executor() {
    let (sender, mut receiver) = limited(ms(10));
    sender.try_send(1).unwrap();
    assert_eq!(receiver.try_recv(), Ok(1));
    sender.try_send(2).unwrap();
    std::thread::sleep(ms(20));
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    assert_eq!(balanced(receiver.accounts()).expired, 1);
}

#[tokio::test(start_paused = true)]
async fn a_full_mailbox_of_expired_messages_is_full_until_somebody_reads() {
    let (sender, mut receiver) = mailbox(2);
    sender.try_send(1).unwrap();
    sender.try_send(2).unwrap();
    advance(ms(2_000)).await;
    assert_eq!(sender.try_send(3), Err(SendError::Busy(3)));
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    sender.try_send(3).unwrap();
    assert_eq!(receiver.try_recv(), Ok(3));
    balanced(sender.accounts());
}
