//! `send` waits for room: in order, until its deadline, and leaves no trace when it is dropped.

use std::future::Future;
use std::pin::{pin, Pin};
use std::task::Poll;
use std::time::Duration;

use ryker::{Receiver, SendError, Sender, TryRecvError};
use tokio::time::{advance, Instant};

use crate::rig::{balanced, mailbox, poll, poll_with, runtime, Bell};

type Sending<'a> = Pin<Box<dyn Future<Output = Result<(), SendError<u32>>> + Send + 'a>>;

fn full(capacity: u32) -> (Sender<u32>, Receiver<u32>) {
    let (sender, receiver) = mailbox(capacity as usize);
    for n in 0..capacity {
        sender.try_send(n).unwrap();
    }
    (sender, receiver)
}

fn waiting(sender: &Sender<u32>, messages: impl IntoIterator<Item = u32>) -> Vec<Sending<'_>> {
    let start = |message| {
        let mut sending: Sending<'_> = Box::pin(sender.send(message));
        assert!(poll(sending.as_mut()).is_pending());
        sending
    };
    messages.into_iter().map(start).collect()
}

fn rest(receiver: &mut Receiver<u32>) -> Vec<u32> {
    std::iter::from_fn(|| receiver.try_recv().ok()).collect()
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_get_room_in_the_order_in_which_they_came() {
    let (sender, mut receiver) = full(3);
    let mut sends = waiting(&sender, 100..110);
    for n in 0..3 {
        assert_eq!(receiver.try_recv(), Ok(n));
    }
    // Room is theirs in that order, whoever is polled first.
    for sending in sends.iter_mut().rev() {
        let _ = poll(sending.as_mut());
    }
    let mut seen = rest(&mut receiver);
    seen.sort_unstable();
    assert_eq!(seen, [100, 101, 102]);
    sends.drain(..3);
    let mut seen = Vec::new();
    for _ in 0..10 {
        sends.retain_mut(|sending| poll(sending.as_mut()).is_pending());
        seen.extend(rest(&mut receiver));
    }
    assert_eq!(seen, (103..110).collect::<Vec<_>>());
    assert!(sends.is_empty());
    balanced(receiver.accounts());
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_does_not_wait_does_not_overtake_those_who_do() {
    let (sender, mut receiver) = full(1);
    let mut sends = waiting(&sender, [7]);
    assert_eq!(receiver.try_recv(), Ok(0));
    assert_eq!(sender.try_send(8), Err(SendError::Busy(8)));
    assert!(poll(sends[0].as_mut()).is_ready());
    assert_eq!(rest(&mut receiver), [7]);
    drop(sends);
    sender.try_send(8).unwrap();
    balanced(sender.accounts());
}

#[tokio::test(start_paused = true)]
async fn taking_one_message_wakes_one_who_waits_by_its_last_waker() {
    let (sender, mut receiver) = full(1);
    let bells: Vec<_> = (0..3).map(|_| Bell::pair()).collect();
    let stale = Bell::pair();
    let mut sends: Vec<Sending<'_>> = Vec::new();
    for (n, (_, waker)) in bells.iter().enumerate() {
        let mut sending: Sending<'_> = Box::pin(sender.send(n as u32));
        assert!(poll_with(sending.as_mut(), &stale.1).is_pending());
        assert!(poll_with(sending.as_mut(), waker).is_pending());
        sends.push(sending);
    }
    receiver.try_recv().unwrap();
    let rings: Vec<usize> = bells.iter().map(|(bell, _)| bell.rings()).collect();
    assert!(rings[0] > 0 && rings[1] == 0 && rings[2] == 0, "{rings:?}");
    assert_eq!(stale.0.rings(), 0);
    assert!(poll(sends.remove(0).as_mut()).is_ready());
    balanced(sender.accounts());
}

#[tokio::test(start_paused = true)]
async fn a_send_that_is_dropped_at_any_stage_has_sent_nothing_and_holds_nobody_up() {
    // Before its first poll.
    let (sender, mut receiver) = full(1);
    drop(sender.send(50));
    assert_eq!(rest(&mut receiver), [0]);
    sender.try_send(0).unwrap();

    // While it waits: first, in the middle, last.
    for gone in 0..3 {
        let mut sends = waiting(&sender, [10, 11, 12]);
        drop(sends.remove(gone));
        let mut seen = Vec::new();
        while !sends.is_empty() {
            seen.extend(rest(&mut receiver));
            let before = sends.len();
            sends.retain_mut(|sending| poll(sending.as_mut()).is_pending());
            assert!(sends.len() < before, "held up by the dropped one");
        }
        seen.extend(rest(&mut receiver));
        let mut expected = vec![0, 10, 11, 12];
        expected.remove(gone + 1);
        assert_eq!(seen, expected);
        sender.try_send(0).unwrap();
    }

    // Once room was granted, and before it knew.
    let (next, waker) = Bell::pair();
    let mut first = waiting(&sender, [20]).remove(0);
    let mut second: Sending<'_> = Box::pin(sender.send(21));
    assert!(poll_with(second.as_mut(), &waker).is_pending());
    receiver.try_recv().unwrap();
    assert_eq!(next.rings(), 0);
    drop(std::mem::replace(
        &mut first,
        Box::pin(std::future::pending()),
    ));
    assert!(next.rings() > 0, "room of a dropped send is the next one's");
    assert!(poll(second.as_mut()).is_ready());
    assert_eq!(rest(&mut receiver), [21]);

    // The same with nobody behind: the room is there for whoever comes.
    sender.try_send(0).unwrap();
    let only = waiting(&sender, [30]);
    receiver.try_recv().unwrap();
    drop(only);
    sender.try_send(31).unwrap();
    assert_eq!(rest(&mut receiver), [31]);

    drop((first, second));
    let accounts = balanced(sender.accounts());
    assert_eq!(accounts.pending, 0);
    assert_eq!(accounts.accepted, accounts.ok);
}

#[tokio::test(start_paused = true)]
async fn a_send_waits_until_its_deadline_and_hands_the_message_back() {
    for (mailboxs, callers, waits) in [(100, None, 100), (100, Some(30), 30), (100, Some(500), 100)]
    {
        let deadline = Duration::from_millis(mailboxs);
        let builder = runtime().mailbox("m").capacity(1).deadline(deadline);
        let (sender, _receiver) = builder.build().unwrap().split();
        sender.try_send(1).unwrap();
        let began = Instant::now();
        let sent = match callers {
            None => sender.send(2).await,
            Some(callers) => {
                let until = began + Duration::from_millis(callers);
                sender.send_with_deadline(2, until.into_std()).await
            }
        };
        assert_eq!(sent, Err(SendError::Deadline(2)));
        let waited = began.elapsed().as_millis() as u64;
        assert!(waited.abs_diff(waits) <= 2, "{waited} ms");
        let accounts = balanced(sender.accounts());
        assert_eq!((accounts.refused.deadline, accounts.refused.busy), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn one_whose_time_is_up_makes_way_for_the_next() {
    let (sender, mut receiver) = full(1);
    let soon = (Instant::now() + Duration::from_millis(20)).into_std();
    let mut hasty = pin!(sender.send_with_deadline(1, soon));
    assert!(poll(hasty.as_mut()).is_pending());
    let mut patient = pin!(sender.send(2));
    assert!(poll(patient.as_mut()).is_pending());
    advance(Duration::from_millis(25)).await;
    assert_eq!(
        poll(hasty.as_mut()),
        Poll::Ready(Err(SendError::Deadline(1)))
    );
    assert_eq!(receiver.try_recv(), Ok(0));
    assert!(poll(patient.as_mut()).is_ready());
    assert_eq!(receiver.try_recv(), Ok(2));
    balanced(sender.accounts());
}

/// Room that came in time, and a task that was polled too late: the message comes back, and the room goes on.
#[tokio::test(start_paused = true)]
async fn room_that_is_not_used_before_the_deadline_is_the_next_ones() {
    let (sender, mut receiver) = full(2);
    let mut late = pin!(sender.send(10));
    assert!(poll(late.as_mut()).is_pending());
    assert_eq!(receiver.try_recv(), Ok(0));
    assert_eq!(sender.try_send(11), Err(SendError::Busy(11)), "reserved");
    advance(Duration::from_millis(1_010)).await;
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty), "expired");
    for n in [12, 13] {
        assert_eq!(sender.try_send(n), Ok(()), "both are free");
    }
    assert_eq!(
        poll(late.as_mut()),
        Poll::Ready(Err(SendError::Deadline(10)))
    );
    assert_eq!(rest(&mut receiver), [12, 13]);
    let accounts = balanced(sender.accounts());
    assert_eq!((accounts.accepted, accounts.expired), (4, 1));
}

/// The same with somebody behind who has more time: woken without another message being taken.
#[tokio::test(start_paused = true)]
async fn room_that_is_not_used_is_found_by_those_who_wait_behind() {
    let (sender, mut receiver) = full(1);
    let soon = (Instant::now() + Duration::from_millis(50)).into_std();
    let mut late = pin!(sender.send_with_deadline(10, soon));
    assert!(poll(late.as_mut()).is_pending());
    let patient = tokio::spawn({
        let sender = sender.clone();
        async move { sender.send(11).await }
    });
    tokio::task::yield_now().await;
    assert_eq!(receiver.try_recv(), Ok(0));
    // The one that was granted room is not polled again, but its time is up.
    let received = tokio::time::timeout(Duration::from_millis(900), receiver.recv()).await;
    let held = poll(late.as_mut());
    assert_eq!(held, Poll::Ready(Err(SendError::Deadline(10))));
    if received.is_err() {
        // Nobody moved in between: then giving up is what passes it on.
        assert_eq!(receiver.recv().await, Some(11));
    } else {
        assert_eq!(received, Ok(Some(11)));
    }
    assert_eq!(patient.await.unwrap(), Ok(()));
    balanced(sender.accounts());
}

#[tokio::test(start_paused = true)]
async fn closing_tells_all_who_wait_and_each_gets_its_message_back() {
    for how in ["close", "drop"] {
        let (sender, mut receiver) = full(2);
        let (bell, waker) = Bell::pair();
        let mut sends = waiting(&sender, 10..20);
        for sending in &mut sends {
            assert!(poll_with(sending.as_mut(), &waker).is_pending());
        }
        // One of them has got room by then: it keeps it, or is told that it has none; either way it is one of both.
        assert_eq!(receiver.try_recv(), Ok(0));
        bell.rings();
        let mut kept = None;
        if how == "close" {
            receiver.close();
            kept = Some(receiver);
        } else {
            drop(receiver);
        }
        assert!(bell.rings() >= 9);
        let mut accepted = Vec::new();
        for (n, sending) in sends.iter_mut().enumerate() {
            let message = 10 + n as u32;
            match poll(sending.as_mut()) {
                Poll::Ready(Ok(())) => accepted.push(message),
                Poll::Ready(Err(error)) => assert_eq!(error, SendError::Closed(message)),
                Poll::Pending => panic!("{message} waits for nothing"),
            }
        }
        assert!(accepted.len() <= 1, "{accepted:?}");
        let received = kept.as_mut().map(rest);
        if let Some(received) = received {
            assert_eq!(received, [vec![1], accepted].concat());
        }
        drop(sends);
        balanced(sender.accounts());
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_tells_all_who_wait() {
    let rt = runtime();
    let (sender, mut receiver) = rt.mailbox("m").capacity(1).build().unwrap().split();
    sender.try_send(0).unwrap();
    let mut sends = waiting(&sender, 10..13);
    let mut drain = pin!(rt.drain(Duration::from_secs(1)));
    assert!(poll(drain.as_mut()).is_pending());
    for (n, sending) in sends.iter_mut().enumerate() {
        let message = 10 + n as u32;
        assert_eq!(
            poll(sending.as_mut()),
            Poll::Ready(Err(SendError::Draining(message)))
        );
    }
    assert_eq!(receiver.recv().await, Some(0));
    assert_eq!(receiver.recv().await, None);
    let report = drain.await;
    assert!(report.balances() && report.is_clean(), "{report:?}");
    drop(sends);
    assert_eq!(balanced(sender.accounts()).refused.draining, 3);
}

#[test]
fn a_send_may_wait_outside_of_any_executor() {
    let (sender, mut receiver) = full(1);
    let (bell, waker) = Bell::pair();
    let mut sending = pin!(sender.send(1));
    assert!(poll_with(sending.as_mut(), &waker).is_pending());
    assert_eq!(receiver.try_recv(), Ok(0));
    assert!(bell.rings() > 0);
    assert_eq!(poll(sending), Poll::Ready(Ok(())));
    balanced(sender.accounts());
}

/// Threads, not tasks: who waits is parked and must be woken by the thread that reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_forgotten_when_many_wait_for_one_slot() {
    let (sender, mut receiver) = mailbox::<(u32, u32)>(1);
    let producers: Vec<_> = (0..8)
        .map(|by| {
            let sender = sender.clone();
            tokio::spawn(async move {
                for n in 0..500 {
                    sender.send((by, n)).await.unwrap();
                }
            })
        })
        .collect();
    let mut next = [0; 8];
    for _ in 0..4_000 {
        let (by, n) = receiver.recv().await.unwrap();
        assert_eq!(next[by as usize], n);
        next[by as usize] += 1;
    }
    for producer in producers {
        producer.await.unwrap();
    }
    assert_eq!(balanced(sender.accounts()).ok, 4_000);
}

/// Waits in a task of its own, which is polled when it is woken and at no other time.
async fn waits(
    sender: &Sender<u32>,
    deadline: Option<Duration>,
) -> tokio::task::JoinHandle<(bool, Instant)> {
    let sender = sender.clone();
    let waiting = tokio::spawn(async move {
        let sent = match deadline {
            Some(left) => {
                sender
                    .send_with_deadline(7, (Instant::now() + left).into_std())
                    .await
            }
            None => sender.send(7).await,
        };
        (sent.is_ok(), Instant::now())
    });
    tokio::task::yield_now().await;
    waiting
}

/// Of large mailboxes, where room is announced in steps, too.
#[tokio::test(start_paused = true)]
async fn who_has_little_time_left_is_told_of_any_room() {
    for (capacity, millis) in [(63, 1), (64, 1), (64, 2), (1_024, 1), (1_024, 2)] {
        let (sender, mut receiver) = full(capacity);
        let waiting = waits(&sender, Some(Duration::from_millis(millis))).await;
        receiver.try_recv().unwrap();
        assert!(waiting.await.unwrap().0, "{capacity} {millis}");
    }
}

/// And others within a moment, though the receiver takes nothing more.
#[tokio::test(start_paused = true)]
async fn who_waits_in_a_large_mailbox_finds_a_single_place_in_two_milliseconds() {
    let (sender, mut receiver) = full(1_024);
    let waiting = waits(&sender, None).await;
    let began = Instant::now();
    receiver.try_recv().unwrap();
    let (sent, at) = waiting.await.unwrap();
    assert!(
        sent && at - began <= Duration::from_millis(3),
        "{:?}",
        at - began
    );
    assert!(at > began, "room is announced in steps");
    // Whoever has waited as long is told of each message taken.
    let waiting = waits(&sender, None).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    receiver.try_recv().unwrap();
    let began = Instant::now();
    let (sent, at) = waiting.await.unwrap();
    assert!(sent && at == began, "{:?}", at - began);
}
