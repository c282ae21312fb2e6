//! The bound by bytes: charged when a message is accepted, released when it leaves, by the same number.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

use ryker::{MessageSize, Receiver, SendError, Sender};
use tokio::time::{advance, Instant};

use crate::rig::{balanced, poll, runtime};

#[derive(Debug, PartialEq)]
struct Sized(usize);

impl MessageSize for Sized {
    fn message_size(&self) -> usize {
        self.0
    }
}

/// Ten messages, 4,000 bytes, at most 2,000 in one.
fn small<T: MessageSize + Send + 'static>() -> (Sender<T>, Receiver<T>) {
    let builder = runtime().mailbox("m").capacity(10).max_msg_bytes(2_000);
    builder.max_bytes(4_000).build().unwrap().split()
}

/// Whether there is room for exactly `bytes`: not one byte more, and no less. Leaves the mailbox as it was.
#[track_caller]
fn has_room_for(sender: &Sender<Sized>, receiver: &mut Receiver<Sized>, bytes: usize) {
    let before = receiver.depth();
    let mut left = bytes;
    while left > 0 {
        let next = left.min(2_000);
        sender.try_send(Sized(next)).unwrap();
        left -= next;
    }
    assert_eq!(
        sender.try_send(Sized(1)),
        Err(SendError::Busy(Sized(1))),
        "more than {bytes} bytes fit"
    );
    sender.try_send(Sized(0)).unwrap();
    assert_eq!(before, 0, "use it on an empty mailbox");
    while receiver.try_recv().is_ok() {}
}

#[test]
fn a_message_fits_up_to_the_last_byte_and_too_large_is_handed_back() {
    let (sender, mut receiver) = small();
    for bytes in [2_001, 4_000, usize::MAX, usize::MAX - 1, u32::MAX as usize] {
        assert_eq!(
            sender.try_send(Sized(bytes)),
            Err(SendError::TooLarge(Sized(bytes)))
        );
    }
    has_room_for(&sender, &mut receiver, 4_000);
    has_room_for(&sender, &mut receiver, 4_000);
    let accounts = balanced(sender.accounts());
    assert_eq!((accounts.refused.too_large, accounts.refused.busy), (5, 2));
}

#[test]
fn too_large_is_too_large_even_when_full() {
    let (sender, _receiver) = small();
    sender.try_send(Sized(2_000)).unwrap();
    sender.try_send(Sized(2_000)).unwrap();
    assert!(matches!(
        sender.try_send(Sized(2_001)),
        Err(SendError::TooLarge(_))
    ));
    assert!(matches!(sender.try_send(Sized(1)), Err(SendError::Busy(_))));
    balanced(sender.accounts());
}

#[tokio::test(start_paused = true)]
async fn too_large_does_not_wait() {
    let (sender, _receiver) = small();
    let began = Instant::now();
    assert_eq!(
        sender.send(Sized(9_999)).await,
        Err(SendError::TooLarge(Sized(9_999)))
    );
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[test]
fn messages_without_weight_are_bound_by_count_alone() {
    let (sender, mut receiver) = small();
    for _ in 0..10 {
        sender.try_send(Sized(0)).unwrap();
    }
    assert!(matches!(sender.try_send(Sized(0)), Err(SendError::Busy(_))));
    while receiver.try_recv().is_ok() {}
    has_room_for(&sender, &mut receiver, 4_000);
    balanced(sender.accounts());
}

/// Every way in which a message leaves gives back what it was charged.
#[tokio::test(start_paused = true)]
async fn whatever_way_a_message_leaves_its_bytes_come_back() {
    let (sender, mut receiver) = small();
    let fill = || {
        for bytes in [1_999, 1, 1_000, 1_000] {
            sender.try_send(Sized(bytes)).unwrap();
        }
        assert!(sender.try_send(Sized(1)).is_err());
    };

    fill();
    while receiver.try_recv().is_ok() {}
    has_room_for(&sender, &mut receiver, 4_000);

    fill();
    for _ in 0..4 {
        receiver.recv().await.unwrap();
    }
    has_room_for(&sender, &mut receiver, 4_000);

    fill();
    let mut taken = Vec::new();
    while receiver.depth() > 0 {
        receiver.recv_many(&mut taken, 3).await;
    }
    has_room_for(&sender, &mut receiver, 4_000);

    fill();
    advance(Duration::from_secs(2)).await;
    assert!(receiver.try_recv().is_err(), "all expired");
    has_room_for(&sender, &mut receiver, 4_000);

    fill();
    let mut waiting = Box::pin(sender.send(Sized(500)));
    assert!(poll(waiting.as_mut()).is_pending());
    while receiver.try_recv().is_ok() {}
    drop(waiting);
    while receiver.try_recv().is_ok() {}
    has_room_for(&sender, &mut receiver, 4_000);

    fill();
    let late = sender.send_with_deadline(Sized(500), Instant::now().into_std());
    late.await.unwrap_err();
    while receiver.try_recv().is_ok() {}
    has_room_for(&sender, &mut receiver, 4_000);
    balanced(sender.accounts());
}

#[test]
fn what_was_charged_is_released_even_if_the_message_thinks_otherwise_by_then() {
    struct Moody(Arc<AtomicUsize>);
    impl MessageSize for Moody {
        fn message_size(&self) -> usize {
            self.0.load(Ordering::SeqCst)
        }
    }
    let (sender, mut receiver) = small();
    let size = Arc::new(AtomicUsize::new(1_000));
    for _ in 0..4 {
        sender.try_send(Moody(Arc::clone(&size))).unwrap();
    }
    size.store(1, Ordering::SeqCst);
    assert!(sender.try_send(Moody(Arc::clone(&size))).is_err());
    receiver
        .try_recv()
        .unwrap_or_else(|_| panic!("there are four"));
    size.store(1_000, Ordering::SeqCst);
    assert!(sender.try_send(Moody(Arc::clone(&size))).is_ok());
    size.store(1, Ordering::SeqCst);
    assert!(sender.try_send(Moody(Arc::clone(&size))).is_err());
    balanced(sender.accounts());
}

#[tokio::test(start_paused = true)]
async fn the_size_is_asked_once_per_send() {
    struct Counted(Arc<AtomicUsize>);
    impl MessageSize for Counted {
        fn message_size(&self) -> usize {
            self.0.fetch_add(1, Ordering::SeqCst);
            2_000
        }
    }
    let (sender, mut receiver) = small();
    let asked = Arc::new(AtomicUsize::new(0));
    sender.try_send(Counted(Arc::clone(&asked))).unwrap();
    sender.try_send(Counted(Arc::clone(&asked))).unwrap();
    assert_eq!(asked.swap(0, Ordering::SeqCst), 2);
    {
        let mut waiting = pin!(sender.send(Counted(Arc::clone(&asked))));
        assert!(poll(waiting.as_mut()).is_pending());
        assert!(receiver.try_recv().is_ok());
        assert!(poll(waiting.as_mut()).is_ready());
    }
    while receiver.try_recv().is_ok() {}
    assert_eq!(asked.load(Ordering::SeqCst), 1, "not again when it waits");
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_for_bytes_are_not_overtaken_by_what_would_fit() {
    let (sender, mut receiver) = small();
    sender.try_send(Sized(1_500)).unwrap();
    sender.try_send(Sized(1_500)).unwrap();
    let mut large = Box::pin(sender.send(Sized(1_800)));
    assert!(poll(large.as_mut()).is_pending());
    let mut tiny = Box::pin(sender.send(Sized(1)));
    assert!(poll(tiny.as_mut()).is_pending(), "others wait");
    assert!(matches!(sender.try_send(Sized(1)), Err(SendError::Busy(_))));
    assert_eq!(receiver.try_recv(), Ok(Sized(1_500)));
    assert!(poll(large.as_mut()).is_ready());
    assert!(poll(tiny.as_mut()).is_ready());
    let order: Vec<usize> = std::iter::from_fn(|| receiver.try_recv().ok())
        .map(|m| m.0)
        .collect();
    assert_eq!(order, [1_500, 1_800, 1]);
    drop((large, tiny));
    balanced(sender.accounts());
}

#[tokio::test(start_paused = true)]
async fn one_large_message_may_need_several_to_leave() {
    let (sender, mut receiver) = small();
    for _ in 0..8 {
        sender.try_send(Sized(500)).unwrap();
    }
    let mut large = Box::pin(sender.send(Sized(2_000)));
    for _ in 0..3 {
        assert!(poll(large.as_mut()).is_pending());
        assert_eq!(receiver.try_recv(), Ok(Sized(500)));
    }
    assert!(poll(large.as_mut()).is_pending());
    assert_eq!(receiver.try_recv(), Ok(Sized(500)));
    assert!(poll(large.as_mut()).is_ready());
    drop(large);
    while receiver.try_recv().is_ok() {}
    has_room_for(&sender, &mut receiver, 4_000);
    balanced(sender.accounts());
}

#[test]
fn the_budget_is_by_default_what_the_capacity_holds_of_the_largest() {
    let builder = runtime().mailbox("m").capacity(3).max_msg_bytes(1_024);
    let (sender, _receiver) = builder.build().unwrap().split();
    for _ in 0..3 {
        sender.try_send(vec![0_u8; 1_024]).unwrap();
    }
    assert!(matches!(
        sender.try_send(Vec::new()),
        Err(SendError::Busy(_))
    ));
}

#[test]
fn a_mailbox_that_is_not_measured_never_asks() {
    struct Never;
    impl MessageSize for Never {
        fn message_size(&self) -> usize {
            panic!("asked")
        }
    }
    let (sender, _receiver) = runtime().mailbox("m").build().unwrap().split();
    assert!(sender.try_send(Never).is_ok());
}

#[test]
fn what_owns_memory_is_charged_with_all_of_it() {
    let mut roomy = Vec::with_capacity(100);
    roomy.push(1_u8);
    assert_eq!(roomy.message_size(), roomy.capacity());
    let text = String::with_capacity(50);
    assert_eq!(text.message_size(), text.capacity());
    assert_eq!([1_u8, 2, 3][..].message_size(), 3);
    let boxed: Box<[u8]> = vec![0; 7].into();
    assert_eq!(boxed.message_size(), 7);
    assert_eq!(Box::new(Sized(5)).message_size(), 5);
    assert_eq!(Arc::new(Sized(6)).message_size(), 6);
    assert_eq!(Some(Sized(8)).message_size(), 8);
    assert_eq!(None::<Sized>.message_size(), 0);
}
