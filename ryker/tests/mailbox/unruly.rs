//! Messages, sizes, wakers and observers of others that panic or call back at the worst moment.

use std::future::Future;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::pin::{pin, Pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};
use std::time::Duration;

use ryker::{DropReason, MessageSize, Observer, Receiver, SendError, Sender, TryRecvError};
use tokio::time::{advance, Instant};
use zeroize::Zeroize;

use crate::rig::{balanced, mailbox, poll, poll_with, runtime};

fn panics<R>(f: impl FnOnce() -> R) -> bool {
    catch_unwind(AssertUnwindSafe(f)).is_err()
}

fn quietly_panic() -> ! {
    resume_unwind(Box::new("unruly"))
}

/// Panics when it is dropped, while it is armed.
#[derive(Debug)]
struct Bomb(bool);

impl Drop for Bomb {
    fn drop(&mut self) {
        if self.0 && !std::thread::panicking() {
            quietly_panic();
        }
    }
}

/// Sends and takes one harmless message, whatever happened before.
#[track_caller]
fn works(sender: &Sender<Bomb>, receiver: &mut Receiver<Bomb>) {
    sender.try_send(Bomb(false)).unwrap();
    let mut taken = receiver.try_recv();
    while taken.as_ref().is_ok_and(|bomb| bomb.0) {
        taken.as_mut().unwrap().0 = false;
        taken = receiver.try_recv();
    }
    assert!(taken.is_ok());
    balanced(sender.accounts());
}

#[tokio::test(start_paused = true)]
async fn an_expired_message_whose_destructor_panics_is_counted_once() {
    let (sender, mut receiver) = mailbox(4);
    for way in 0..4 {
        sender.try_send(Bomb(false)).unwrap();
        sender.try_send(Bomb(true)).unwrap();
        sender.try_send(Bomb(false)).unwrap();
        advance(Duration::from_secs(2)).await;
        sender.try_send(Bomb(false)).unwrap();
        let before = receiver.accounts();
        let mut taken = 0;
        // The panic is the reader's, or nobody's; the messages behind it are there.
        for _ in 0..3 {
            let _ = panics(|| match way {
                0 => taken += usize::from(receiver.try_recv().is_ok()),
                1 => taken += usize::from(poll(pin!(receiver.recv())).is_ready()),
                2 => {
                    let mut batch = Vec::new();
                    let _ = poll(pin!(receiver.recv_many(&mut batch, 8)));
                    taken += batch.len();
                }
                _ => taken += usize::from(poll(pin!(receiver.recv_delivery())).is_ready()),
            });
        }
        assert_eq!(taken, 1, "{way}");
        let after = balanced(receiver.accounts());
        assert_eq!(after.expired - before.expired, 3, "{way}");
        assert_eq!((after.pending, receiver.depth()), (0, 0), "{way}");
        works(&sender, &mut receiver);
    }
}

#[test]
fn a_receiver_that_goes_drops_them_all_whatever_their_destructors_do() {
    struct Token(Arc<AtomicUsize>);
    impl Drop for Token {
        fn drop(&mut self) {
            if self.0.fetch_add(1, Ordering::SeqCst) == 1 && !std::thread::panicking() {
                quietly_panic();
            }
        }
    }
    let dropped = Arc::new(AtomicUsize::new(0));
    let (sender, receiver) = mailbox(8);
    for _ in 0..5 {
        assert!(sender.try_send(Token(Arc::clone(&dropped))).is_ok());
    }
    let _ = panics(|| drop(receiver));
    assert_eq!(dropped.load(Ordering::SeqCst), 5);
    let accounts = balanced(sender.accounts());
    assert_eq!(
        (accounts.dropped, accounts.pending, sender.depth()),
        (5, 0, 0)
    );
    assert!(sender.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_drain_whose_time_is_up_drops_them_all_whatever_their_destructors_do() {
    let rt = runtime();
    let (sender, receiver) = rt.mailbox("m").build().unwrap().split();
    for n in 0..5 {
        sender.try_send(Bomb(n == 1)).unwrap();
    }
    let mut drain = Box::pin(rt.drain(Duration::ZERO));
    let ended = std::future::poll_fn(|cx| {
        match catch_unwind(AssertUnwindSafe(|| drain.as_mut().poll(cx))) {
            Ok(poll) => poll.map(Some),
            Err(_) => std::task::Poll::Ready(None),
        }
    })
    .await;
    let report = ended.expect("the panic of a message is no business of who drains");
    assert!(report.balances(), "{report:?}");
    let _ = panics(|| drop(receiver));
    let accounts = balanced(sender.accounts());
    assert_eq!((accounts.dropped, accounts.pending), (5, 0));
}

struct Heavy;

impl MessageSize for Heavy {
    fn message_size(&self) -> usize {
        quietly_panic()
    }
}

#[test]
fn a_size_that_panics_costs_the_mailbox_nothing() {
    let (sender, mut receiver) = runtime()
        .mailbox::<Heavy>("m")
        .capacity(1)
        .measured()
        .build()
        .unwrap()
        .split();
    for _ in 0..3 {
        assert!(panics(|| sender.try_send(Heavy)));
        assert!(panics(|| poll(pin!(sender.send(Heavy)))));
    }
    assert_eq!(sender.depth(), 0);
    assert!(receiver.try_recv().is_err());
    assert_eq!(balanced(sender.accounts()).accepted, 0);
}

/// Its mailbox may be asked anything while it is told something: no lock is held.
struct Meddler {
    about: Mutex<Option<Sender<Box<Meddler>>>>,
    calls: Arc<AtomicUsize>,
}

impl Meddler {
    fn meddle(&self) {
        let sender = self.about.lock().unwrap().take();
        if let Some(sender) = sender {
            self.calls.fetch_add(1, Ordering::SeqCst);
            sender.depth();
            assert!(sender.accounts().balances());
            drop(sender.try_send(Box::new(Meddler {
                about: Mutex::new(None),
                calls: Arc::clone(&self.calls),
            })));
            drop(sender.clone());
        }
    }
}

impl Drop for Meddler {
    fn drop(&mut self) {
        self.meddle();
    }
}

impl MessageSize for Box<Meddler> {
    fn message_size(&self) -> usize {
        self.meddle();
        100
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_may_use_its_mailbox_while_it_is_measured_or_dropped() {
    let calls = Arc::new(AtomicUsize::new(0));
    let meddler = |sender: &Sender<Box<Meddler>>| {
        Box::new(Meddler {
            about: Mutex::new(Some(sender.clone())),
            calls: Arc::clone(&calls),
        })
    };
    // While it is measured.
    let builder = runtime().mailbox("m").capacity(8).measured();
    let (sender, mut receiver) = builder.build().unwrap().split();
    sender.try_send(meddler(&sender)).unwrap();
    assert_eq!((calls.load(Ordering::SeqCst), sender.depth()), (1, 2));
    while receiver.try_recv().is_ok() {}

    // While it is dropped as expired.
    let (sender, mut receiver) = mailbox(8);
    sender.try_send(meddler(&sender)).unwrap();
    advance(Duration::from_secs(2)).await;
    let _ = receiver.try_recv();
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    balanced(sender.accounts());

    // While it is dropped with the receiver: the last sender may be inside.
    for _ in 0..3 {
        sender.try_send(meddler(&sender)).unwrap();
    }
    drop(sender);
    drop(receiver);
    assert_eq!(calls.load(Ordering::SeqCst), 5);
}

/// A message that owns the last sender of the mailbox it lies in: the mailbox is closed as soon as it is read.
#[test]
fn a_message_may_own_the_last_sender() {
    struct Owner(#[allow(dead_code)] Option<Sender<Owner>>); // there to be dropped
    let rt = runtime();
    let (sender, mut receiver) = rt.mailbox("m").build().unwrap().split();
    let last = sender.clone();
    assert!(sender.try_send(Owner(Some(last))).is_ok());
    drop(sender);
    assert!(matches!(receiver.try_recv(), Ok(Owner(Some(_)))));
    assert!(matches!(
        receiver.try_recv(),
        Err(ryker::TryRecvError::Closed)
    ));
    assert!(rt.accounts().balances());
}

struct Caller {
    sender: Sender<u32>,
    rings: AtomicUsize,
    panics: bool,
}

impl Wake for Caller {
    fn wake(self: Arc<Self>) {
        self.rings.fetch_add(1, Ordering::SeqCst);
        self.sender.depth();
        assert!(self.sender.accounts().balances());
        let _ = self.sender.try_send(99);
        if self.panics {
            quietly_panic();
        }
    }
}

fn caller(sender: &Sender<u32>, panics: bool) -> (Arc<Caller>, Waker) {
    let caller = Arc::new(Caller {
        sender: sender.clone(),
        rings: AtomicUsize::new(0),
        panics,
    });
    (Arc::clone(&caller), Waker::from(caller))
}

#[tokio::test(start_paused = true)]
async fn a_waker_may_use_the_mailbox_that_wakes_it() {
    let (sender, mut receiver) = mailbox(2);
    let (bell, waker) = caller(&sender, false);
    {
        let mut reading = pin!(receiver.recv());
        assert!(poll_with(reading.as_mut(), &waker).is_pending());
        sender.try_send(1).unwrap();
        assert_eq!(bell.rings.load(Ordering::SeqCst), 1);
        assert!(poll(reading).is_ready());
    }
    assert_eq!(receiver.try_recv(), Ok(99));
    sender.try_send(2).unwrap();
    sender.try_send(3).unwrap();
    let mut sending: Pin<Box<dyn Future<Output = _>>> = Box::pin(sender.send(4));
    assert!(poll_with(sending.as_mut(), &waker).is_pending());
    receiver.try_recv().unwrap();
    assert_eq!(bell.rings.load(Ordering::SeqCst), 2);
    assert!(poll(sending.as_mut()).is_ready());
    drop(sending);
    balanced(sender.accounts());
}

#[tokio::test(start_paused = true)]
async fn a_waker_that_panics_leaves_a_mailbox_that_works_and_balances() {
    let (sender, mut receiver) = mailbox(1);
    let (_, waker) = caller(&sender, true);
    {
        let mut reading = pin!(receiver.recv());
        assert!(poll_with(reading.as_mut(), &waker).is_pending());
        let _ = panics(|| sender.try_send(1));
        assert!(poll(reading).is_ready(), "the message is in");
    }
    while receiver.try_recv().is_ok() {}
    balanced(sender.accounts());

    sender.try_send(2).unwrap();
    let mut sends: Vec<Pin<Box<dyn Future<Output = _>>>> = Vec::new();
    for n in 3..6 {
        let mut sending: Pin<Box<dyn Future<Output = _>>> = Box::pin(sender.send(n));
        assert!(poll_with(sending.as_mut(), &waker).is_pending());
        sends.push(sending);
    }
    let mut seen = Vec::new();
    for _ in 0..4 {
        let _ = panics(|| seen.extend(receiver.try_recv().ok()));
        sends.retain_mut(|sending| poll_with(sending.as_mut(), &waker).is_pending());
    }
    let _ = panics(|| seen.extend(receiver.try_recv().ok()));
    assert!(sends.is_empty(), "{} wait for ever", sends.len());
    drop(sends);
    let accounts = balanced(sender.accounts());
    assert_eq!(accounts.pending, receiver.depth() as u64);
    let _ = panics(|| drop(receiver));
    balanced(sender.accounts());
}

/// A waker whose clones panic when they are dropped, once: a waker of the standard library's cannot, as long as the
/// original lives.
#[allow(unsafe_code)] // a waker's destructor can be set in no other way
fn dropping_badly(armed: &'static AtomicBool) -> Waker {
    use std::task::{RawWaker, RawWakerVTable};
    fn clone(armed: *const ()) -> RawWaker {
        RawWaker::new(armed, &TABLE)
    }
    fn nothing(_: *const ()) {}
    fn drop(armed: *const ()) {
        // SAFETY: made from a reference that lives for ever.
        let armed = unsafe { &*armed.cast::<AtomicBool>() };
        if armed.swap(false, Ordering::SeqCst) {
            quietly_panic();
        }
    }
    static TABLE: RawWakerVTable = RawWakerVTable::new(clone, nothing, nothing, drop);
    let armed: *const AtomicBool = armed;
    // SAFETY: the functions of the table do with the pointer what it is good for, from any thread.
    unsafe { Waker::from_raw(RawWaker::new(armed.cast(), &TABLE)) }
}

#[tokio::test(start_paused = true)]
async fn a_place_is_given_back_once_whatever_the_waker_does() {
    static ARMED: AtomicBool = AtomicBool::new(false);
    let (sender, mut receiver) = mailbox(1);
    sender.try_send(0).unwrap();
    let mut first = Box::pin(sender.send(1));
    assert!(poll(first.as_mut()).is_pending());
    receiver.try_recv().unwrap();
    let waker = dropping_badly(&ARMED);
    ARMED.store(true, Ordering::SeqCst);
    assert!(panics(|| poll_with(first.as_mut(), &waker).is_ready()));
    drop(first);
    while receiver.try_recv().is_ok() {}
    // Two who wait have two places.
    sender.try_send(10).unwrap();
    let mut waiting = [Box::pin(sender.send(11)), Box::pin(sender.send(12))];
    for send in &mut waiting {
        assert!(poll(send.as_mut()).is_pending());
    }
    for n in 10..13 {
        assert_eq!(receiver.try_recv(), Ok(n));
        if let Some(send) = waiting.get_mut(n as usize - 10) {
            assert!(poll(send.as_mut()).is_ready(), "{n}");
        }
    }
    balanced(sender.accounts());
}

#[derive(Debug)]
struct Panicking;

impl Observer for Panicking {
    fn on_refused(&self, _: &str, _: DropReason) {
        quietly_panic()
    }

    fn on_dropped(&self, _: &str, _: DropReason, _: u64) {
        quietly_panic()
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_an_observer_is_contained_and_changes_nothing() {
    let builder = runtime().mailbox("m").capacity(1);
    let built = builder.observer(Arc::new(Panicking)).build().unwrap();
    let (sender, mut receiver) = built.split();
    sender.try_send(1).unwrap();
    assert_eq!(sender.try_send(2), Err(SendError::Busy(2)));
    let past = Instant::now().into_std();
    let late = sender.send_with_deadline(2, past).await;
    assert_eq!(late, Err(SendError::Deadline(2)));
    advance(Duration::from_secs(2)).await;
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    let accounts = balanced(sender.accounts());
    assert_eq!((accounts.refused.busy, accounts.refused.deadline), (1, 1));
    assert_eq!((accounts.expired, accounts.pending), (1, 0));
    sender.try_send(3).unwrap();
    assert_eq!(receiver.try_recv(), Ok(3));
    sender.try_send(4).unwrap();
    drop(receiver);
    assert_eq!(balanced(sender.accounts()).dropped, 1);
}

struct Secret;

impl Zeroize for Secret {
    fn zeroize(&mut self) {
        quietly_panic()
    }
}

#[tokio::test(start_paused = true)]
async fn an_overwriting_that_panics_is_counted_as_the_drop_it_was_to_be() {
    let config = ryker::RykerConfig::builder().amnesia(true).build().unwrap();
    let rt = ryker::Runtime::new(config);
    let builder = rt.mailbox("m").capacity(4).zeroize();
    let (sender, mut receiver) = builder.build().unwrap().split();
    for _ in 0..3 {
        assert!(sender.try_send(Secret).is_ok());
    }
    advance(Duration::from_secs(2)).await;
    for _ in 0..4 {
        let _ = panics(|| receiver.try_recv().is_ok());
    }
    let accounts = balanced(sender.accounts());
    assert_eq!((accounts.expired, accounts.pending), (3, 0));
    for _ in 0..3 {
        assert!(sender.try_send(Secret).is_ok());
    }
    let _ = panics(|| drop(receiver));
    let accounts = balanced(sender.accounts());
    assert_eq!((accounts.dropped, accounts.pending), (3, 0));
}
