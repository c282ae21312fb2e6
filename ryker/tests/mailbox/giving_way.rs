//! A receiver that always finds a message lets others have their turn. Time stands still, so that messages are counted,
//! not timed; `fairness.rs` has the clock.

use std::pin::pin;
use std::task::Poll;

use ryker::{Runtime, RykerConfig};

use crate::rig::{balanced, poll_with, runtime, Bell};

fn config(batch: u32, every: u32) -> RykerConfig {
    let builder = RykerConfig::builder().batch_messages(batch);
    builder.yield_every_n_msgs(every).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn it_gives_way_after_the_configured_number_and_says_so() {
    for (batch, every) in [(32, 64), (1, 1), (1, 10), (7, 10)] {
        let rt = Runtime::new(config(batch, every));
        let (sender, mut receiver) = rt.mailbox("m").capacity(1_000).build().unwrap().split();
        for n in 0..1_000 {
            sender.try_send(n).unwrap();
        }
        let (bell, waker) = Bell::pair();
        let (mut run, mut runs) = (0, Vec::new());
        while runs.len() < 5 {
            match poll_with(pin!(receiver.recv()), &waker) {
                Poll::Ready(Some(_)) => run += 1,
                Poll::Ready(None) => panic!("it is open"),
                Poll::Pending => {
                    tokio::task::yield_now().await;
                    assert!(bell.rings() > 0, "it wants another turn");
                    runs.push(run);
                    run = 0;
                }
            }
        }
        assert_eq!(runs, [every; 5], "{batch}");
        assert_eq!(balanced(receiver.accounts()).yields, 5);
    }
}

#[tokio::test(start_paused = true)]
async fn it_gives_way_in_batches_too() {
    let rt = Runtime::new(config(32, 64));
    let (sender, mut receiver) = rt.mailbox("m").capacity(1_000).build().unwrap().split();
    for n in 0..1_000 {
        sender.try_send(n).unwrap();
    }
    let (mut taken, mut turns) = (Vec::new(), 0);
    let (bell, waker) = Bell::pair();
    while taken.len() < 1_000 {
        let before = taken.len();
        let turn = poll_with(pin!(receiver.recv_many(&mut taken, 1_000)), &waker);
        match turn {
            Poll::Ready(count) => assert!(count <= 32 && taken.len() == before + count),
            Poll::Pending => {
                tokio::task::yield_now().await;
                assert!(bell.rings() > 0);
                turns += 1;
            }
        }
    }
    assert!(taken.iter().copied().eq(0..1_000));
    // 1,000 / 64, give or take a batch per turn.
    assert!((10..=16).contains(&turns), "{turns}");
    assert_eq!(balanced(receiver.accounts()).yields, turns);
}

#[test]
fn a_receiver_with_nothing_to_read_has_not_given_way() {
    let rt = runtime();
    let (sender, mut receiver) = rt.mailbox("m").build().unwrap().split();
    let (bell, waker) = Bell::pair();
    for n in 0..1_000 {
        assert!(poll_with(pin!(receiver.recv()), &waker).is_pending());
        bell.rings();
        sender.try_send(n).unwrap();
        assert_eq!(
            poll_with(pin!(receiver.recv()), &waker),
            Poll::Ready(Some(n))
        );
    }
    assert_eq!(balanced(receiver.accounts()).yields, 0);
}

#[tokio::test(start_paused = true)]
async fn a_reload_changes_it_for_a_mailbox_that_is_there() {
    let rt = Runtime::new(config(32, 100_000));
    let (sender, mut receiver) = rt.mailbox("m").capacity(1_000).build().unwrap().split();
    for n in 0..1_000 {
        sender.try_send(n).unwrap();
    }
    let (_, waker) = Bell::pair();
    for _ in 0..2 {
        assert!(poll_with(pin!(receiver.recv()), &waker).is_ready());
    }
    rt.reload(config(2, 5));
    let mut run = 2;
    while poll_with(pin!(receiver.recv()), &waker).is_ready() {
        run += 1;
    }
    // It is the turn under way that is shorter, or else it would be the whole of 1,000.
    assert!((5..=70).contains(&run), "{run}");
    assert!(rt.accounts().balances());
}

/// On one thread, a neighbour is reached in the middle of a flood.
#[tokio::test(start_paused = true)]
async fn a_neighbour_on_the_same_thread_has_its_turn() {
    let rt = runtime();
    let (sender, mut receiver) = rt.mailbox("m").capacity(1_000).build().unwrap().split();
    for n in 0..1_000 {
        sender.try_send(n).unwrap();
    }
    let left = tokio::spawn(async move { sender.depth() });
    for _ in 0..1_000 {
        receiver.recv().await.unwrap();
    }
    let left = left.await.unwrap();
    assert!((1_000 - 64..1_000).contains(&left), "{left}");
}
