//! How a mailbox ends: what is queued comes out, or is counted as dropped, and both sides learn of it.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use ryker::{SendError, TryRecvError};

use crate::rig::{balanced, mailbox, poll, poll_with, runtime, Bell};

#[tokio::test(start_paused = true)]
async fn the_last_sender_to_go_closes_and_what_is_queued_comes_out_first() {
    let (sender, mut receiver) = mailbox(4);
    let other = sender.clone();
    sender.try_send(1).unwrap();
    drop(sender);
    other.try_send(2).unwrap();
    drop(other);
    assert_eq!(receiver.recv().await, Some(1));
    assert_eq!(receiver.recv().await, Some(2));
    for _ in 0..3 {
        assert_eq!(receiver.recv().await, None);
        assert!(receiver.recv_delivery().await.is_none());
        assert_eq!(receiver.recv_many(&mut Vec::new(), 9).await, 0);
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Closed));
    }
    balanced(receiver.accounts());
}

#[test]
fn the_last_sender_to_go_wakes_a_receiver_that_waits() {
    let (sender, mut receiver) = mailbox::<u8>(4);
    let other = sender.clone();
    let (bell, waker) = Bell::pair();
    let mut waiting = pin!(receiver.recv());
    assert!(poll_with(waiting.as_mut(), &waker).is_pending());
    drop(sender);
    assert!(poll_with(waiting.as_mut(), &waker).is_pending());
    bell.rings();
    drop(other);
    assert!(bell.rings() > 0);
    assert_eq!(poll(waiting), Poll::Ready(None));
}

#[test]
fn a_closed_mailbox_takes_nothing_more_and_still_gives() {
    let (sender, mut receiver) = mailbox(4);
    sender.try_send(1).unwrap();
    sender.try_send(2).unwrap();
    assert!(!sender.is_closed());
    receiver.close();
    receiver.close();
    assert!(sender.is_closed());
    assert_eq!(sender.try_send(3), Err(SendError::Closed(3)));
    assert_eq!(sender.clone().try_send(3), Err(SendError::Closed(3)));
    assert_eq!(
        poll(pin!(sender.send(3))),
        Poll::Ready(Err(SendError::Closed(3)))
    );
    assert_eq!(receiver.try_recv(), Ok(1));
    assert_eq!(receiver.try_recv(), Ok(2));
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Closed));
    let accounts = balanced(sender.accounts());
    assert_eq!((accounts.refused.closed, accounts.ok), (3, 2));
}

/// `Closed` beats `Busy`: there is nothing to try again for.
#[test]
fn a_full_mailbox_that_is_closed_says_closed() {
    let (sender, mut receiver) = mailbox(1);
    sender.try_send(1).unwrap();
    receiver.close();
    assert_eq!(sender.try_send(2), Err(SendError::Closed(2)));
    drop(receiver);
    assert_eq!(sender.try_send(3), Err(SendError::Closed(3)));
    balanced(sender.accounts());
}

#[test]
fn a_receiver_that_goes_drops_and_counts_what_is_queued() {
    let (sender, mut receiver) = mailbox(10);
    let token = std::sync::Arc::new(());
    for _ in 0..7 {
        sender.try_send(std::sync::Arc::clone(&token)).unwrap();
    }
    receiver.try_recv().unwrap();
    drop(receiver);
    assert_eq!(std::sync::Arc::strong_count(&token), 1, "none is kept");
    assert!(sender.is_closed());
    assert_eq!(sender.depth(), 0);
    let accounts = balanced(sender.accounts());
    assert_eq!((accounts.ok, accounts.dropped, accounts.pending), (1, 6, 0));
    assert!(matches!(sender.try_send(token), Err(SendError::Closed(_))));
}

/// A batch that the receiver has read ahead is queued as far as anyone can tell.
#[test]
fn a_receiver_that_goes_after_its_first_message_accounts_for_the_rest() {
    for taken in 0..5_u64 {
        let (sender, mut receiver) = mailbox(10);
        for n in 0..5 {
            sender.try_send(n).unwrap();
        }
        for _ in 0..taken {
            assert!(poll(pin!(receiver.recv())).is_ready());
        }
        assert_eq!(sender.depth() as u64, 5 - taken);
        drop(receiver);
        let accounts = balanced(sender.accounts());
        assert_eq!((accounts.ok, accounts.dropped), (taken, 5 - taken));
    }
}

#[test]
fn both_ends_may_go_in_any_order() {
    let rt = runtime();
    for first in ["sender", "receiver", "mailbox"] {
        let mailbox = rt.mailbox("m").capacity(3).build().unwrap();
        if first == "mailbox" {
            drop(mailbox);
            continue;
        }
        let (sender, receiver) = mailbox.split();
        sender.try_send(String::from("x")).unwrap();
        if first == "sender" {
            drop(sender);
            drop(receiver);
        } else {
            drop(receiver);
            drop(sender);
        }
    }
    let sum = balanced(rt.accounts());
    assert_eq!((sum.accepted, sum.dropped), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn the_runtime_may_go_before_its_mailboxes() {
    let rt = runtime();
    let (sender, mut receiver) = rt.mailbox("m").build().unwrap().split();
    drop(rt);
    sender.try_send(1).unwrap();
    sender.send(2).await.unwrap();
    assert_eq!(receiver.recv().await, Some(1));
    assert_eq!(receiver.recv().await, Some(2));
    balanced(sender.accounts());
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_waits_learns_of_a_drain() {
    let rt = runtime();
    let (sender, mut receiver) = rt.mailbox::<u8>("m").build().unwrap().split();
    let reader = tokio::spawn(async move { (receiver.recv().await, receiver) });
    tokio::task::yield_now().await;
    let report = rt.drain(Duration::from_secs(1)).await;
    assert!(report.is_clean(), "{report:?}");
    let (end, _receiver) = reader.await.unwrap();
    assert_eq!(end, None);
    assert_eq!(sender.try_send(1), Err(SendError::Draining(1)));
}

#[tokio::test(start_paused = true)]
async fn what_was_draining_stays_draining_when_the_receiver_has_gone() {
    let rt = runtime();
    let (sender, receiver) = rt.mailbox::<u8>("m").build().unwrap().split();
    drop(rt.drain(Duration::ZERO).await);
    drop(receiver);
    assert_eq!(sender.try_send(1), Err(SendError::Draining(1)));
}

/// A closed and empty mailbox is ready, not busy: nobody is woken again for it.
#[test]
fn a_receiver_that_was_told_of_the_end_is_left_alone() {
    let (sender, mut receiver) = mailbox::<u8>(2);
    receiver.close();
    let (bell, waker) = Bell::pair();
    assert_eq!(poll_with(pin!(receiver.recv()), &waker), Poll::Ready(None));
    drop(sender);
    assert_eq!(bell.rings(), 0);
}

/// Closed with somebody who has not given up his place yet: the receiver is not told of an end that is none.
#[tokio::test(start_paused = true)]
async fn a_message_accepted_before_the_close_is_never_behind_the_end() {
    let (sender, mut receiver) = mailbox(1);
    sender.try_send(1).unwrap();
    let mut second = Box::pin(sender.send(2));
    assert!(poll(second.as_mut()).is_pending());
    assert_eq!(receiver.try_recv(), Ok(1));
    receiver.close();
    let first_look = receiver.try_recv();
    let sent = poll(second.as_mut());
    let second_look = receiver.try_recv();
    match sent {
        Poll::Ready(Ok(())) => assert_ne!(first_look, Err(TryRecvError::Closed)),
        Poll::Ready(Err(SendError::Closed(2))) => {
            assert_eq!(second_look, Err(TryRecvError::Closed));
        }
        other => panic!("{other:?}"),
    }
    drop(second);
    balanced(sender.accounts());
}
