//! Order, the bound by count, and what batches take.

use std::cell::Cell;
use std::pin::pin;
use std::task::Poll;

use ryker::{Runtime, RykerConfig, SendError, TryRecvError};

use crate::rig::{balanced, mailbox, poll, poll_with, runtime, Bell};

#[test]
fn a_full_mailbox_hands_the_message_back_and_says_busy_until_one_is_taken() {
    for capacity in [1, 2, 3, 64, 255] {
        let (sender, mut receiver) = mailbox(capacity);
        for round in 0..3 {
            while sender.depth() < capacity {
                sender.try_send(Box::new(round)).unwrap();
            }
            for _ in 0..2 {
                match sender.try_send(Box::new(77)) {
                    Err(SendError::Busy(message)) => assert_eq!(*message, 77),
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!((sender.depth(), receiver.depth()), (capacity, capacity));
            receiver.try_recv().unwrap();
            assert_eq!(sender.depth(), capacity - 1);
        }
        let accounts = balanced(sender.accounts());
        assert_eq!(accounts.refused.busy, 6);
        assert_eq!(accounts.accepted, capacity as u64 + 2);
        assert_eq!(accounts.pending, capacity as u64 - 1);
    }
}

#[test]
fn messages_come_out_in_the_order_in_which_they_were_accepted() {
    let (sender, mut receiver) = mailbox(5);
    let other = sender.clone();
    let (mut next, mut expected) = (0_u32, 0);
    // Fills and takes in steps that are no divisors of the capacity, so that the queue wraps at every place.
    for step in [5, 1, 3, 2, 4].into_iter().cycle().take(200) {
        while (next - expected) < step {
            let by = if next % 3 == 0 { &other } else { &sender };
            by.try_send(next).unwrap();
            next += 1;
        }
        for _ in 0..step - step / 2 {
            assert_eq!(receiver.try_recv(), Ok(expected));
            expected += 1;
        }
    }
    while let Ok(message) = receiver.try_recv() {
        assert_eq!(message, expected);
        expected += 1;
    }
    assert_eq!(expected, next);
    balanced(receiver.accounts());
}

#[test]
fn nothing_to_receive_is_empty_while_somebody_may_send_and_closed_after() {
    let (sender, mut receiver) = mailbox(4);
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    sender.try_send(1).unwrap();
    drop(sender);
    assert_eq!(receiver.try_recv(), Ok(1));
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Closed));
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Closed));
    balanced(receiver.accounts());
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_added_to_what_is_there_and_no_larger_than_asked_or_configured() {
    let config = RykerConfig::builder().batch_messages(10);
    let rt = Runtime::new(config.build().unwrap());
    let (sender, mut receiver) = rt.mailbox("m").capacity(100).build().unwrap().split();
    for n in 0..36 {
        sender.try_send(n).unwrap();
    }
    let mut taken = vec![-1];
    assert_eq!(receiver.recv_many(&mut taken, 3).await, 3);
    assert_eq!(taken, [-1, 0, 1, 2]);
    assert_eq!((sender.depth(), receiver.accounts().ok), (33, 3));
    assert_eq!(receiver.recv().await, Some(3));
    let mut seen = 4;
    while receiver.depth() > 0 {
        taken.clear();
        let count = receiver.recv_many(&mut taken, usize::MAX).await;
        assert!((1..=10).contains(&count) && count == taken.len());
        for message in &taken {
            assert_eq!(*message, seen);
            seen += 1;
        }
        assert_eq!(receiver.depth(), 36 - seen as usize);
        balanced(sender.accounts());
    }
    assert_eq!(seen, 36);
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_at_most_nothing_takes_nothing_and_does_not_wait() {
    let (sender, mut receiver) = mailbox(4);
    let mut taken = vec![9];
    assert_eq!(receiver.recv_many(&mut taken, 0).await, 0);
    sender.try_send(1).unwrap();
    assert_eq!(receiver.recv_many(&mut taken, 0).await, 0);
    assert_eq!((receiver.depth(), taken.len()), (1, 1));
    assert_eq!(receiver.recv_many(&mut taken, 1).await, 1);
    drop(sender);
    assert_eq!(receiver.recv_many(&mut taken, 0).await, 0);
    assert_eq!(receiver.recv_many(&mut taken, 5).await, 0);
    assert_eq!(taken, [9, 1]);
    balanced(receiver.accounts());
}

#[test]
fn a_batch_frees_room_for_all_of_it() {
    let (sender, mut receiver) = mailbox(8);
    for n in 0..8 {
        sender.try_send(n).unwrap();
    }
    let mut taken = Vec::new();
    assert!(poll(pin!(receiver.recv_many(&mut taken, 5))).is_ready());
    for n in 8..13 {
        sender.try_send(n).unwrap();
    }
    assert!(matches!(sender.try_send(13), Err(SendError::Busy(13))));
    let rest: Vec<i32> = std::iter::from_fn(|| receiver.try_recv().ok()).collect();
    assert_eq!(rest, (5..13).collect::<Vec<_>>());
    balanced(receiver.accounts());
}

#[test]
fn a_waiting_receiver_is_woken_by_the_next_message_and_needs_no_executor() {
    let (sender, mut receiver) = mailbox(4);
    let (first, second) = (Bell::pair(), Bell::pair());
    let mut waiting = Box::pin(receiver.recv());
    assert!(poll_with(waiting.as_mut(), &first.1).is_pending());
    assert!(poll_with(waiting.as_mut(), &second.1).is_pending());
    sender.try_send(1).unwrap();
    assert!(
        second.0.rings() > 0,
        "the last waker is the one that counts"
    );
    assert_eq!(poll(waiting.as_mut()), Poll::Ready(Some(1)));
    drop(waiting);
    balanced(sender.accounts());
}

#[test]
fn a_receive_that_is_dropped_has_taken_nothing() {
    let (sender, mut receiver) = mailbox(4);
    let (bell, waker) = Bell::pair();
    {
        let mut waiting = pin!(receiver.recv());
        assert!(poll_with(waiting.as_mut(), &waker).is_pending());
        sender.try_send(1).unwrap();
        assert!(bell.rings() > 0);
    }
    {
        let mut batch = Vec::new();
        drop(receiver.recv_many(&mut batch, 4));
        drop(receiver.recv_delivery());
        assert!(batch.is_empty());
    }
    assert_eq!((receiver.depth(), receiver.accounts().pending), (1, 1));
    assert_eq!(receiver.try_recv(), Ok(1));
    balanced(receiver.accounts());
}

#[test]
fn a_handful_of_odd_message_types_fit() {
    let (units, mut receiver) = mailbox(1_000);
    for _ in 0..1_000 {
        units.try_send(()).unwrap();
    }
    assert!(units.try_send(()).is_err());
    assert_eq!(
        std::iter::from_fn(|| receiver.try_recv().ok()).count(),
        1_000
    );

    let (cells, mut receiver) = mailbox(1);
    cells.try_send(Cell::new(3)).unwrap();
    assert_eq!(receiver.try_recv().unwrap().get(), 3);

    let (large, mut receiver) = mailbox(2);
    large.try_send([7_u8; 8_192]).unwrap();
    assert_eq!(receiver.try_recv().unwrap()[8_191], 7);
}

#[test]
fn nothing_that_is_printed_shows_a_message() {
    let (sender, mut receiver) = mailbox(1);
    sender.try_send("hunter2").unwrap();
    let refused = sender.try_send("hunter2").unwrap_err();
    let printed = format!("{sender:?} {receiver:?} {refused:?} {refused}");
    assert!(!printed.contains("hunter2"), "{printed}");
    assert!(printed.contains('m'), "{printed}");
    receiver.try_recv().unwrap();
    let unsplit = runtime().mailbox::<&str>("m").build().unwrap();
    assert!(format!("{unsplit:?}").contains("Mailbox"));
}

/// Without the words, `SendError<T>` must still be an error for a `T` that is nothing but `Send`.
#[test]
fn an_error_about_a_message_needs_nothing_of_the_message() {
    struct Opaque;
    let (sender, receiver) = mailbox(1);
    drop(receiver);
    let error: Box<dyn std::error::Error + Send + Sync> =
        Box::new(sender.try_send(Opaque).unwrap_err());
    assert!(!error.to_string().is_empty());
    assert!(!error.to_string().ends_with('.'));
}
