//! Every interleaving, within loom's bounds, of the production code: bounds, waiting, closing, cutting, accounts, replies.
//!
//! Ignored, so that `RUSTFLAGS="--cfg loom" cargo test -p ryker -- --ignored` runs these and nothing else; that build is
//! slow, and preempts a thread once. `.ci/check-ryker-loom.sh` preempts twice. Time stands still at tick 1.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::{poll_fn, Future};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize as Count, Ordering::Relaxed};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use crate::account::Accounts;
use crate::actor::{self, Actor, ActorExit, ActorRef, Letter};
use crate::config::RykerConfig;
use crate::core::{Core, Resident};
use crate::error::{AskError, ErrorKind, SendError, TryRecvError};
use crate::mailbox::{open, Inbox, Options, Receiver, Sender, Shared};
use crate::reply::Reply;
use crate::runner::Runner;

fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(1));
    builder.check(model);
}

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// A wake-up that is missed leaves the thread parked, which loom reports.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    future.poll(&mut Context::from_waker(&waker))
}

/// A message: the `number`th of its sender. Dropped while nobody had it, it was the mailbox that dropped it.
struct Token {
    sender: usize,
    number: usize,
    bytes: usize,
    inside: Option<Arc<Count>>,
}

impl Token {
    fn out(mut self) -> (usize, usize) {
        self.inside = None;
        (self.sender, self.number)
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        if let Some(inside) = &self.inside {
            inside.fetch_add(1, Relaxed);
        }
    }
}

/// A mailbox, and what became of its tokens.
struct World {
    shared: Arc<Shared<Token>>,
    dropped_inside: Arc<Count>,
}

impl World {
    fn new(capacity: usize) -> (Self, Sender<Token>, Receiver<Token>) {
        Self::with(capacity, |_| {})
    }

    /// Messages have up to 1024 bytes, and all together `bytes`.
    fn measured(capacity: usize, bytes: u64) -> (Self, Sender<Token>, Receiver<Token>) {
        Self::with(capacity, |options| {
            options.measure = Some(|token| token.bytes);
            options.max_msg_bytes = Some(1024);
            options.max_bytes = Some(bytes);
        })
    }

    fn with(
        capacity: usize,
        set: impl Fn(&mut Options<Token>),
    ) -> (Self, Sender<Token>, Receiver<Token>) {
        let core = Arc::new(Core::new(RykerConfig::default()));
        let mut options = Options::new("tokens".into());
        options.capacity = Some(capacity);
        set(&mut options);
        let spec = options.spec(&core).expect("the options are valid");
        let shared = open(spec, &core).expect("nothing drains");
        let world = Self {
            shared: Arc::clone(&shared),
            dropped_inside: Arc::default(),
        };
        let sender = Sender::new(Arc::clone(&shared));
        (world, sender, Receiver::new(shared))
    }

    fn token(&self, sender: usize, number: usize) -> Token {
        self.sized(sender, number, 0)
    }

    fn sized(&self, sender: usize, number: usize, bytes: usize) -> Token {
        Token {
            sender,
            number,
            bytes,
            inside: Some(Arc::clone(&self.dropped_inside)),
        }
    }

    /// Sends `count` tokens, waiting for room; returns how many were taken, those before the first that was not.
    fn sending(&self, sender: Sender<Token>, id: usize, count: usize) -> thread::JoinHandle<usize> {
        let tokens: Vec<Token> = (0..count).map(|number| self.token(id, number)).collect();
        thread::spawn(move || {
            let mut tokens = tokens.into_iter().enumerate();
            while let Some((number, token)) = tokens.next() {
                if let Err(error) = block_on(sender.send(token)) {
                    let is_end = matches!(error, SendError::Closed(_) | SendError::Draining(_));
                    assert!(is_end, "{error:?}");
                    assert_eq!(error.into_inner().out(), (id, number), "it comes back");
                    tokens.for_each(|(_, unsent)| {
                        unsent.out();
                    });
                    return number;
                }
            }
            count
        })
    }

    /// What was sent was received or dropped inside, and is in the accounts as that.
    fn settle(&self, sent: usize, received: usize) -> Accounts {
        let accounts = self.shared.accounts();
        assert!(accounts.balances(), "{accounts:?}");
        assert_eq!(accounts.pending, 0, "{accounts:?}");
        assert_eq!(accounts.accepted, sent as u64, "{accounts:?}");
        assert_eq!(accounts.ok, received as u64, "{accounts:?}");
        let inside = self.dropped_inside.load(Relaxed) as u64;
        assert_eq!(accounts.dropped, inside, "{accounts:?}");
        accounts
    }

    /// Nothing is charged or reserved any more: the bounds are as wide as at the beginning.
    fn is_empty_again(&self, sender: &Sender<Token>) {
        for number in 0..sender.capacity() {
            sender
                .try_send(self.token(9, number))
                .expect("there is room");
        }
        let Err(SendError::Busy(one_more)) = sender.try_send(self.token(9, 99)) else {
            panic!("it is full");
        };
        one_more.out();
    }

    /// Reads the accounts twice: they balance, nothing but `pending` falls, and the depth is within the bounds.
    fn judge(&self) -> thread::JoinHandle<()> {
        let shared = Arc::clone(&self.shared);
        thread::spawn(move || {
            let mut before = Accounts::default();
            for _ in 0..2 {
                let now = shared.accounts();
                assert!(now.balances(), "{now:?}");
                let rising = |a: Accounts| [a.accepted, a.ok, a.dropped, a.refused.closed];
                let rises = rising(before).iter().zip(rising(now)).all(|(b, n)| *b <= n);
                assert!(rises, "{before:?} {now:?}");
                assert!(shared.depth() <= u64::from(shared.spec.capacity));
                before = now;
            }
        })
    }
}

/// Checks that each sender's tokens come in order and without a hole.
#[derive(Default)]
struct Seen {
    next: HashMap<usize, usize>,
    count: usize,
}

impl Seen {
    fn token(&mut self, token: Token) {
        let (sender, number) = token.out();
        let next = self.next.entry(sender).or_default();
        assert_eq!(number, *next, "first in, first out per sender");
        *next += 1;
        self.count += 1;
    }

    fn to_the_end(&mut self, receiver: &mut Receiver<Token>) {
        while let Some(token) = block_on(receiver.recv()) {
            self.token(token);
        }
    }
}

fn joined<T>(handle: thread::JoinHandle<T>) -> T {
    handle.join().expect("no thread panics")
}

fn senders_that_wait(capacity: usize, counts: &'static [usize]) {
    explore(move || {
        let (world, sender, mut receiver) = World::new(capacity);
        let sending: Vec<_> = counts
            .iter()
            .enumerate()
            .map(|(id, count)| world.sending(sender.clone(), id, *count))
            .collect();
        // The last of them ends the receiving.
        drop(sender);
        let mut seen = Seen::default();
        seen.to_the_end(&mut receiver);
        let sent: usize = sending.into_iter().map(joined).sum();
        assert_eq!(sent, counts.iter().sum::<usize>());
        world.settle(sent, seen.count);
    });
}

#[test]
#[ignore = "run by .ci/check-ryker-loom.sh"]
fn two_senders_share_one_slot_in_order_and_the_last_one_closes() {
    senders_that_wait(1, &[2, 1]);
}

#[test]
#[ignore = "run by .ci/check-ryker-loom.sh"]
fn a_sender_goes_three_times_around_one_slot() {
    senders_that_wait(1, &[3]);
}

#[test]
#[ignore = "run by .ci/check-ryker-loom.sh"]
fn two_senders_wrap_around_two_slots() {
    senders_that_wait(2, &[2, 2]);
}

#[test]
#[ignore = "run by .ci/check-ryker-loom.sh"]
fn room_announced_in_steps_reaches_whoever_waits() {
    senders_that_wait(4, &[7]);
    senders_that_wait(4, &[5, 2]);
}

#[test]
#[ignore = "run by .ci/check-ryker-loom.sh"]
fn three_senders_share_one_slot() {
    senders_that_wait(1, &[1, 1, 1]);
}

#[test]
#[ignore = "run by .ci/check-ryker-loom.sh"]
fn batches_leave_the_bounds_as_single_messages_do() {
    explore(|| {
        let (world, sender, mut receiver) = World::new(2);
        let sending = world.sending(sender.clone(), 0, 3);
        let (mut seen, mut batch) = (Seen::default(), Vec::new());
        while seen.count < 3 {
            let received = block_on(receiver.recv_many(&mut batch, 2));
            assert_eq!(received, batch.len());
            batch.drain(..).for_each(|token| seen.token(token));
        }
        let sent = joined(sending);
        world.settle(sent, seen.count);
        world.is_empty_again(&sender);
    });
}

#[test]
#[ignore = "run by .ci/check-ryker-loom.sh"]
fn accounts_balance_while_batches_are_taken() {
    explore(|| {
        let (world, sender, mut receiver) = World::new(2);
        let sending = world.sending(sender, 0, 2);
        let judge = world.judge();
        let (mut seen, mut batch) = (Seen::default(), Vec::new());
        while block_on(receiver.recv_many(&mut batch, 2)) > 0 {
            batch.drain(..).for_each(|token| seen.token(token));
        }
        let sent = joined(sending);
        joined(judge);
        world.settle(sent, seen.count);
    });
}

#[test]
#[ignore = "run by .ci/check-ryker-loom.sh"]
fn busy_means_full_and_a_message_taken_means_room() {
    for capacity in [1, 2] {
        explore(move || {
            let (world, sender, mut receiver) = World::new(capacity);
            let received = Arc::new(AtomicUsize::new(0));
            let tokens: Vec<_> = (0..capacity + 2).map(|n| world.token(0, n)).collect();
            let sending = thread::spawn({
                let received = Arc::clone(&received);
                move || {
                    let mut accepted = 0;
                    for mut token in tokens {
                        token.number = accepted;
                        let before = received.load(Ordering::Acquire);
                        match sender.try_send(token) {
                            Ok(()) => {
                                accepted += 1;
                                // One may have been taken that is not counted yet.
                                let after = received.load(Ordering::Acquire) + 1;
                                assert!(accepted <= after + capacity, "the bound holds");
                            }
                            Err(SendError::Busy(token)) => {
                                token.out();
                                assert!(accepted - before >= capacity, "there was room");
                            }
                            Err(error) => panic!("{error}"),
                        }
                    }
                    accepted
                }
            });
            let mut seen = Seen::default();
            for _ in 0..capacity {
                match receiver.try_recv() {
                    Ok(token) => seen.token(token),
                    Err(error) => {
                        assert!(matches!(error, TryRecvError::Empty | TryRecvError::Closed))
                    }
                }
                received.store(seen.count, Ordering::Release);
            }
            let accepted = joined(sending);
            seen.to_the_end(&mut receiver);
            world.settle(accepted, seen.count);
        });
    }
}

#[test]
#[ignore = "run by .ci/check-ryker-loom.sh"]
fn whoever_waits_is_told_of_room_by_the_take_or_finds_it() {
    let ways: [fn(&mut Receiver<Token>) -> Option<Token>; 3] = [
        |receiver| receiver.try_recv().ok(),
        |receiver| block_on(receiver.recv()),
        |receiver| {
            let mut batch = Vec::new();
            block_on(receiver.recv_many(&mut batch, 1));
            batch.pop()
        },
    ];
    for (capacity, take) in [1, 2].iter().flat_map(|c| ways.map(|way| (*c, way))) {
        explore(move || {
            let (world, sender, mut receiver) = World::new(capacity);
            for number in 0..capacity {
                sender
                    .try_send(world.token(0, number))
                    .expect("there is room");
            }
            let sending = world.sending(sender, 1, 1);
            let mut seen = Seen::default();
            seen.token(take(&mut receiver).expect("it is full"));
            // The receiver does not look again before the sender is done, which may have been overlooked: time passes.
            while receiver.accounts().accepted == capacity as u64 {
                thread::yield_now();
                sending.thread().unpark();
            }
            assert_eq!(joined(sending), 1);
            seen.to_the_end(&mut receiver);
            world.settle(capacity + 1, seen.count);
        });
    }
}

#[test]
#[ignore = "run by .ci/check-ryker-loom.sh"]
fn one_of_two_who_race_for_the_last_slot_is_busy() {
    explore(|| {
        let (world, sender, mut receiver) = World::new(1);
        let race = |id| {
            let (sender, token) = (sender.clone(), world.token(id, 0));
            thread::spawn(move || match sender.try_send(token) {
                Ok(()) => 1,
                Err(SendError::Busy(token)) => {
                    assert_eq!(token.out(), (id, 0));
                    0
                }
                Err(error) => panic!("{error}"),
            })
        };
        let racers = [race(0), race(1)];
        assert_eq!(racers.map(joined).iter().sum::<usize>(), 1);
        receiver.try_recv().expect("one is in").out();
        assert_eq!(world.settle(1, 1).refused.busy, 1);
        world.is_empty_again(&sender);
        receiver.close();
    });
}

#[test]
#[ignore = "run by .ci/check-ryker-loom.sh"]
fn accounts_balance_at_any_moment() {
    explore(|| {
        let (world, sender, mut receiver) = World::new(1);
        let sending = world.sending(sender, 0, 2);
        let judge = world.judge();
        let mut seen = Seen::default();
        seen.to_the_end(&mut receiver);
        let sent = joined(sending);
        joined(judge);
        world.settle(sent, seen.count);
    });
}

#[test]
#[ignore = "run by .ci/check-ryker-loom.sh"]
fn a_receiver_that_closes_gets_what_was_taken_and_senders_get_back_the_rest() {
    explore(|| {
        let (world, sender, mut receiver) = World::new(1);
        let sending = [0, 1].map(|id| world.sending(sender.clone(), id, 1));
        let mut seen = Seen::default();
        if let Ok(token) = receiver.try_recv() {
            seen.token(token);
        }
        receiver.close();
        seen.to_the_end(&mut receiver);
        let sent = sending.map(joined).iter().sum();
        let accounts = world.settle(sent, seen.count);
        assert_eq!(accounts.refused.closed, 2 - sent as u64);
        assert!(sender.is_closed());
    });
}

#[test]
#[ignore = "run by .ci/check-ryker-loom.sh"]
fn a_receiver_that_goes_leaves_nobody_waiting() {
    explore(|| {
        let (world, sender, mut receiver) = World::new(1);
        let sending = [0, 1].map(|id| world.sending(sender.clone(), id, 2));
        let mut seen = Seen::default();
        if let Ok(token) = receiver.try_recv() {
            seen.token(token);
        }
        drop(receiver);
        let sent = sending.map(joined).iter().sum();
        world.settle(sent, seen.count);
    });
}

#[test]
#[ignore = "run by .ci/check-ryker-loom.sh"]
fn a_drain_wakes_both_sides_and_what_was_taken_is_received() {
    explore(|| {
        let (world, sender, mut receiver) = World::new(1);
        let sending = [0, 1].map(|id| world.sending(sender.clone(), id, 1));
        let draining = thread::spawn({
            let shared = Arc::clone(&world.shared);
            move || Resident::drain(&*shared)
        });
        let mut seen = Seen::default();
        seen.to_the_end(&mut receiver);
        joined(draining);
        let sent = sending.map(joined).iter().sum();
        let accounts = world.settle(sent, seen.count);
        assert_eq!(accounts.refused.closed, 0, "{accounts:?}");
        assert!(world.shared.is_over());
    });
}

#[test]
#[ignore = "run by .ci/check-ryker-loom.sh"]
fn a_cut_at_any_moment_ends_both_sides_and_loses_count_of_nothing() {
    for many in [false, true] {
        explore(move || {
            let (world, sender, mut receiver) = World::new(2);
            sender.try_send(world.token(0, 0)).expect("there is room");
            sender.try_send(world.token(0, 1)).expect("there is room");
            let sending = world.sending(sender, 1, 1);
            let cutting = thread::spawn({
                let shared = Arc::clone(&world.shared);
                move || Resident::cut(&*shared)
            });
            let (mut seen, mut batch) = (Seen::default(), Vec::new());
            if many {
                while block_on(receiver.recv_many(&mut batch, 1)) > 0 {
                    batch.drain(..).for_each(|token| seen.token(token));
                }
            } else {
                seen.to_the_end(&mut receiver);
            }
            joined(cutting);
            let sent = 2 + joined(sending);
            world.settle(sent, seen.count);
        });
    }
}

#[test]
#[ignore = "run by .ci/check-ryker-loom.sh"]
fn a_receiver_told_of_the_end_finds_the_accounts_closed() {
    explore(|| {
        let (world, sender, mut receiver) = World::new(1);
        let sending = world.sending(sender, 0, 1);
        let mut seen = Seen::default();
        seen.to_the_end(&mut receiver);
        world.settle(1, seen.count);
        joined(sending);
    });
}

#[test]
#[ignore = "run by .ci/check-ryker-loom.sh"]
fn a_send_that_is_dropped_at_any_moment_passes_its_room_on() {
    explore(|| {
        let (world, sender, mut receiver) = World::new(1);
        sender.try_send(world.token(0, 0)).expect("there is room");
        let quitting = thread::spawn({
            let (sender, token) = (sender.clone(), world.token(1, 0));
            move || {
                let mut send = Box::pin(sender.send(token));
                poll_once(send.as_mut()).is_ready()
            }
        });
        let sending = world.sending(sender.clone(), 2, 1);
        let mut seen = Seen::default();
        seen.token(block_on(receiver.recv()).expect("one is in"));
        // Whoever of the two came first, the one that stays gets in.
        let got_in = usize::from(joined(quitting));
        for _ in 0..1 + got_in {
            seen.token(block_on(receiver.recv()).expect("the other one comes"));
        }
        assert_eq!(joined(sending), 1);
        let given_up = 1 - got_in;
        assert_eq!(world.dropped_inside.load(Relaxed), given_up);
        let accounts = world.shared.accounts();
        assert_eq!(
            (accounts.accepted, accounts.ok),
            (2 + got_in as u64, seen.count as u64)
        );
        assert!(accounts.balances());
        world.is_empty_again(&sender);
        receiver.close();
    });
}

#[test]
#[ignore = "run by .ci/check-ryker-loom.sh"]
fn a_large_message_that_gives_up_is_no_longer_in_the_way_of_a_small_one() {
    explore(|| {
        let (world, sender, mut receiver) = World::measured(4, 1024);
        let first = sender.try_send(world.sized(0, 0, 600));
        assert!(first.is_ok());
        let mut large = Box::pin(sender.send(world.sized(1, 0, 1000)));
        assert!(poll_once(large.as_mut()).is_pending());
        let small = thread::spawn({
            let (sender, token) = (sender.clone(), world.sized(2, 0, 400));
            move || block_on(sender.send(token)).is_ok()
        });
        drop(large);
        assert!(joined(small), "600 and 400 bytes fit");
        let mut seen = Seen::default();
        seen.token(receiver.try_recv().expect("the first"));
        seen.token(receiver.try_recv().expect("the small one"));
        assert_eq!(world.dropped_inside.load(Relaxed), 1);
    });
}

#[test]
#[ignore = "run by .ci/check-ryker-loom.sh"]
fn bytes_are_charged_and_released_exactly() {
    explore(|| {
        let (world, sender, mut receiver) = World::measured(4, 1024);
        let large = |id| {
            let (sender, token) = (sender.clone(), world.sized(id, 0, 700));
            thread::spawn(move || block_on(sender.send(token)).is_ok())
        };
        let sending = [large(0), large(1)];
        let mut seen = Seen::default();
        for _ in 0..2 {
            assert!(world.shared.depth() <= 1, "two do not fit at once");
            seen.token(block_on(receiver.recv()).expect("both come, one by one"));
        }
        assert!(sending.map(joined).iter().all(|sent| *sent));
        world.settle(2, seen.count);
        let whole = sender.try_send(world.sized(9, 0, 1024));
        assert!(whole.is_ok(), "nothing is left charged");
        let Err(SendError::Busy(one_byte)) = sender.try_send(world.sized(9, 1, 1)) else {
            panic!("all bytes are taken");
        };
        one_byte.out();
    });
}

/// What a [`desk`] is asked.
struct Question(u64, Reply<u64>);

/// The caller's thread: what it asked, and got.
fn asking(actor: ActorRef<Question>, n: u64) -> thread::JoinHandle<Result<u64, ErrorKind>> {
    thread::spawn(move || block_on(actor.ask(|reply| Question(n, reply))).map_err(|e| e.kind()))
}

/// An actor's two sides without the actor.
fn desk() -> (ActorRef<Question>, Inbox<Letter<Question>>) {
    let core = Arc::new(Core::new(RykerConfig::default()));
    let options = Options::new("desk".into());
    let mut spec = options.spec(&core).expect("the options are valid");
    spec.discard = Some(Letter::discard);
    let shared = open(spec, &core).expect("nothing drains");
    let inbox = Inbox::new(Arc::clone(&shared));
    (ActorRef::new(Sender::new(shared)), inbox)
}

fn next(inbox: &mut Inbox<Letter<Question>>) -> Letter<Question> {
    let envelope = block_on(poll_fn(|cx| inbox.poll_take(cx)));
    envelope.expect("a question comes").message
}

#[test]
#[ignore = "run by .ci/check-ryker-loom.sh"]
fn an_answer_or_the_deadline_ends_an_ask_and_never_both() {
    explore(|| {
        let (actor, mut inbox) = desk();
        let asking = asking(actor, 1);
        let Letter {
            message, caller, ..
        } = next(&mut inbox);
        let expiring = thread::spawn(move || {
            caller.expect("somebody asked").fail(ErrorKind::Timeout);
        });
        let Question(n, reply) = message;
        let answered = reply.send(n + 1);
        joined(expiring);
        match joined(asking) {
            Ok(answer) => assert_eq!((answer, answered), (2, Ok(()))),
            Err(kind) => assert_eq!((kind, answered), (ErrorKind::Timeout, Err(2))),
        }
    });
}

#[test]
#[ignore = "run by .ci/check-ryker-loom.sh"]
fn a_reply_that_is_dropped_ends_the_ask() {
    explore(|| {
        let (actor, mut inbox) = desk();
        let asking = asking(actor, 1);
        drop(next(&mut inbox));
        assert_eq!(joined(asking), Err(ErrorKind::NoReply));
    });
}

/// Polls an ask once and drops it.
fn glancing(actor: ActorRef<Question>) -> thread::JoinHandle<Option<u64>> {
    thread::spawn(move || {
        let mut ask = Box::pin(actor.ask(|reply| Question(1, reply)));
        if let Poll::Ready(answer) = poll_once(ask.as_mut()) {
            return answer.ok();
        }
        match poll_once(ask.as_mut()) {
            Poll::Ready(answer) => answer.ok(),
            Poll::Pending => None,
        }
    })
}

#[test]
#[ignore = "run by .ci/check-ryker-loom.sh"]
fn a_caller_that_goes_while_it_is_answered_has_the_answer_or_it_comes_back_or_goes_with_it() {
    explore(|| {
        let (actor, mut inbox) = desk();
        let glancing = glancing(actor);
        let Question(_, reply) = next(&mut inbox).message;
        let answered = reply.send(2);
        let got = joined(glancing);
        assert!(got.is_none() || answered.is_ok());
        if let Err(answer) = answered {
            assert_eq!(answer, 2);
        }
    });
}

#[test]
#[ignore = "run by .ci/check-ryker-loom.sh"]
fn a_handler_that_waits_for_its_caller_to_go_is_woken() {
    explore(|| {
        let (actor, mut inbox) = desk();
        let glancing = glancing(actor);
        let Question(_, mut reply) = next(&mut inbox).message;
        block_on(reply.gone());
        assert!(reply.is_gone());
        assert_eq!(reply.send(2), Err(2));
        assert_eq!(joined(glancing), None);
    });
}

#[test]
#[ignore = "run by .ci/check-ryker-loom.sh"]
fn asks_that_are_queued_when_the_actor_goes_fail_at_once() {
    for cut in [false, true] {
        explore(move || {
            let (actor, mut inbox) = desk();
            let shared = Arc::clone(&inbox.shared);
            let asking = [asking(actor.clone(), 1), asking(actor, 2)];
            if cut {
                Resident::cut(&*shared);
                let taken = inbox.try_take();
                assert!(taken.is_err_and(|error| error == TryRecvError::Closed));
            }
            drop(inbox);
            for answer in asking.map(joined) {
                let is_end = match answer {
                    Err(ErrorKind::Closed) => true,
                    Err(ErrorKind::Draining) => cut,
                    _ => false,
                };
                assert!(is_end, "{answer:?}");
            }
            let accounts = shared.accounts();
            assert!(accounts.balances() && accounts.pending == 0, "{accounts:?}");
            let refused = accounts.refused.draining + accounts.refused.closed;
            assert_eq!(accounts.dropped + refused, 2, "{accounts:?}");
        });
    }
}

/// Counts what it is told, answers what it is asked, and hangs when it should.
struct Echo {
    told: u64,
}

enum Msg {
    Tell,
    Ask(Reply<u64>),
    Hang,
}

impl Actor for Echo {
    type Msg = Msg;
    type Error = Infallible;

    async fn handle(&mut self, msg: Msg, _: &mut actor::Context<Self>) -> Result<(), Infallible> {
        match msg {
            Msg::Tell => self.told += 1,
            Msg::Ask(reply) => drop(reply.send(self.told)),
            Msg::Hang => std::future::pending().await,
        }
        Ok(())
    }
}

type Parts = (ActorRef<Msg>, Runner<Echo>, Arc<Shared<Letter<Msg>>>);

fn echo(capacity: usize) -> Parts {
    let core = Arc::new(Core::new(RykerConfig::default()));
    let mut options = Options::new("echo".into());
    options.capacity = Some(capacity);
    let mut spec = options.spec(&core).expect("the options are valid");
    spec.discard = Some(Letter::discard);
    let shared = open(spec, &core).expect("nothing drains");
    let actor = ActorRef::new(Sender::new(Arc::clone(&shared)));
    let runner = Runner::new(Arc::clone(&shared), || Echo { told: 0 });
    (actor, runner, shared)
}

fn running(runner: Runner<Echo>) -> thread::JoinHandle<Result<(), ActorExit>> {
    thread::spawn(move || block_on(runner.run(std::future::pending::<()>())))
}

#[test]
#[ignore = "run by .ci/check-ryker-loom.sh"]
fn an_actor_handles_what_waits_for_room_and_ends_with_its_last_reference() {
    explore(|| {
        let (actor, runner, _) = echo(1);
        let accounts = actor.clone();
        let running = running(runner);
        let telling = thread::spawn({
            let actor = actor.clone();
            move || block_on(actor.send(Msg::Tell)).is_ok()
        });
        assert!(block_on(actor.send(Msg::Tell)).is_ok());
        assert!(joined(telling));
        drop(actor);
        accounts.stop();
        assert!(joined(running).is_ok());
        assert!(matches!(block_on(accounts.stopped()), ActorExit::Normal));
        let accounts = accounts.accounts();
        assert_eq!((accounts.accepted, accounts.ok), (2, 2), "{accounts:?}");
        assert!(accounts.balances());
    });
}

#[test]
#[ignore = "run by .ci/check-ryker-loom.sh"]
fn the_last_reference_ends_an_actor() {
    explore(|| {
        let (actor, runner, _) = echo(1);
        let running = running(runner);
        assert!(actor.try_send(Msg::Tell).is_ok());
        drop(actor);
        assert!(joined(running).is_ok());
    });
}

#[test]
#[ignore = "run by .ci/check-ryker-loom.sh"]
fn an_ask_of_an_actor_that_is_stopped_is_answered_or_refused() {
    explore(|| {
        let (actor, runner, _) = echo(2);
        let running = running(runner);
        let stopping = thread::spawn({
            let actor = actor.clone();
            move || {
                actor.stop();
                block_on(actor.stopped())
            }
        });
        assert!(actor.depth() == 0);
        match block_on(actor.ask(Msg::Ask)) {
            Ok(told) => assert_eq!(told, 0),
            Err(AskError::NotSent(SendError::Draining(_) | SendError::Closed(_))) => {}
            Err(error) => panic!("{error}"),
        }
        assert!(matches!(joined(stopping), ActorExit::Normal));
        assert!(joined(running).is_ok());
        assert!(actor.accounts().balances());
    });
}

#[test]
#[ignore = "run by .ci/check-ryker-loom.sh"]
fn a_cut_wakes_a_handler_that_hangs_and_fails_the_asks_behind_it() {
    explore(|| {
        let (actor, runner, shared) = echo(2);
        assert!(actor.try_send(Msg::Hang).is_ok());
        let running = running(runner);
        let cutting = thread::spawn(move || {
            Resident::drain(&*shared);
            Resident::cut(&*shared);
        });
        match block_on(actor.ask(Msg::Ask)) {
            Err(AskError::Draining | AskError::NotSent(SendError::Draining(_))) => {}
            Err(AskError::Closed | AskError::NotSent(SendError::Closed(_))) => {}
            other => panic!("{other:?}"),
        }
        joined(cutting);
        assert!(matches!(joined(running), Err(ActorExit::Cancelled)));
        let accounts = actor.accounts();
        assert!(accounts.balances() && accounts.pending == 0, "{accounts:?}");
        assert_eq!(accounts.accepted, accounts.aborted + accounts.dropped);
    });
}
