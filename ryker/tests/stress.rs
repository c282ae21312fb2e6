//! Threads against each other: after it every message has ended once, the accounts are exact, order held per sender, and
//! nobody slept through anything.
//!
//! `RON_TEST_FULL=1 cargo test -p ryker --release --test stress` sends ten million messages instead of one.
#![cfg(not(loom))]

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context as Task, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use ryker::{
    Accounts, Actor, ActorExit, Context, MessageSize, Receiver, Reply, Runtime, RykerConfig,
    SendError, Sender, TryRecvError,
};

const SENDERS: usize = 4;

fn full() -> bool {
    std::env::var("RON_TEST_FULL").is_ok_and(|value| value == "1")
}

fn messages() -> u64 {
    if cfg!(miri) {
        400
    } else if full() {
        10_000_000
    } else {
        1_000_000
    }
}

/// xorshift64*, good enough to choose what a thread does next.
struct Dice(u64);

impl Dice {
    fn new(stream: usize) -> Self {
        Self(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(stream as u64 + 1) | 1)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % n
    }
}

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// An executor of its own: parks the thread, so that a lost wake-up hangs the test.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Task::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// What became of the tokens, as those who had them last tell it.
#[derive(Debug, Default)]
struct Ends {
    made: AtomicU64,
    handed_back: AtomicU64,
    received: AtomicU64,
    /// Dropped by whoever had them, who told nothing.
    dropped: AtomicU64,
}

#[derive(Debug)]
struct Token {
    sender: usize,
    number: u64,
    check: u64,
    claimed: bool,
    ends: Arc<Ends>,
}

impl Token {
    fn new(sender: usize, number: u64, ends: &Arc<Ends>) -> Self {
        ends.made.fetch_add(1, Ordering::Relaxed);
        Self {
            sender,
            number,
            check: !number.rotate_left(sender as u32 + 7),
            claimed: false,
            ends: Arc::clone(ends),
        }
    }

    fn receive(&mut self) {
        assert_eq!(self.check, !self.number.rotate_left(self.sender as u32 + 7));
        self.claimed = true;
        self.ends.received.fetch_add(1, Ordering::Relaxed);
    }

    fn hand_back(mut self) {
        self.claimed = true;
        self.ends.handed_back.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        if !self.claimed {
            self.ends.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl MessageSize for Token {
    fn message_size(&self) -> usize {
        (self.number % 1_000) as usize
    }
}

/// The highest number seen of each sender.
#[derive(Debug, Default)]
struct Order([Option<u64>; SENDERS]);

impl Order {
    fn see(&mut self, token: &Token) {
        let newest = &mut self.0[token.sender];
        assert!(
            newest.map_or(true, |newest| token.number > newest),
            "first in, first out per sender: {} after {newest:?}",
            token.number
        );
        *newest = Some(token.number);
    }
}

/// Sends tokens in every way there is until `count` were tried; the sends of one thread follow each other.
fn send(sender: &Sender<Token>, id: usize, count: u64, ends: &Arc<Ends>) {
    let mut dice = Dice::new(id);
    for number in 0..count {
        let token = Token::new(id, number, ends);
        let sent = match dice.below(8) {
            0..=3 => sender.try_send(token),
            4..=6 => block_on(sender.send(token)),
            _ => {
                // Polled once and dropped: it is in, or it never will be.
                let waker = Waker::from(Arc::new(Unpark(thread::current())));
                let mut send = Box::pin(sender.send(token));
                match send.as_mut().poll(&mut Task::from_waker(&waker)) {
                    Poll::Ready(sent) => sent,
                    Poll::Pending => Ok(()),
                }
            }
        };
        if let Err(error) = sent {
            let is_end = matches!(error, SendError::Closed(_));
            error.into_inner().hand_back();
            if is_end {
                return;
            }
            thread::yield_now();
        }
    }
}

/// Receives in every way there is until the end, or until it has had `patience`; checks the order.
fn receive(receiver: &mut Receiver<Token>, order: &mut Order, patience: u64, dice: &mut Dice) {
    let mut batch = Vec::new();
    let mut seen = 0;
    while seen < patience {
        match dice.below(3) {
            0 => match receiver.try_recv() {
                Ok(token) => batch.push(token),
                Err(TryRecvError::Empty) => thread::yield_now(),
                Err(_) => return,
            },
            1 => match block_on(receiver.recv()) {
                Some(token) => batch.push(token),
                None => return,
            },
            _ => {
                let limit = 1 + dice.below(40) as usize;
                if block_on(receiver.recv_many(&mut batch, limit)) == 0 {
                    return;
                }
            }
        }
        seen += batch.len() as u64;
        for mut token in batch.drain(..) {
            order.see(&token);
            token.receive();
        }
    }
}

/// Looks at the accounts as often as it can; returns how often.
fn judge(runtime: &Runtime, stop: &AtomicBool) -> u64 {
    let rising = |a: &Accounts| {
        [
            a.accepted,
            a.handled(),
            a.expired,
            a.dropped,
            a.refused.busy,
        ]
    };
    let mut looks = 0;
    let mut before = runtime.accounts();
    while !stop.load(Ordering::Relaxed) {
        let now = runtime.accounts();
        assert!(now.balances(), "{now:?}");
        let falls = rising(&before)
            .iter()
            .zip(rising(&now))
            .any(|(b, n)| *b > n);
        assert!(!falls, "{before:?} became {now:?}");
        before = now;
        looks += 1;
        thread::yield_now();
    }
    looks
}

fn judging(runtime: &Runtime) -> (Arc<AtomicBool>, thread::JoinHandle<u64>) {
    let stop = Arc::new(AtomicBool::new(false));
    let handle = thread::spawn({
        let (runtime, stop) = (runtime.clone(), Arc::clone(&stop));
        move || judge(&runtime, &stop)
    });
    (stop, handle)
}

#[test]
fn every_message_ends_once_while_receivers_come_and_go() {
    let runtime = Runtime::new(RykerConfig::default());
    let ends = Arc::new(Ends::default());
    let (stop, judging) = judging(&runtime);
    let mut left = messages();
    let mut round = 0;
    while left > 0 {
        // Each round has a mailbox of its own, whose receiver goes at some point or stays to the end.
        round += 1;
        let share = left.min(messages() / 20);
        left -= share;
        let builder = runtime.mailbox::<Token>("stress");
        let builder = builder.capacity([1, 2, 7, 64, 256][round % 5]);
        let builder = match round % 3 {
            0 => builder.max_msg_bytes(1_024).max_bytes(1_024),
            1 => builder.measured(),
            _ => builder,
        };
        let built = builder.deadline(Duration::from_secs(60)).build().unwrap();
        let (sender, mut receiver) = built.split();
        thread::scope(|scope| {
            for id in 0..SENDERS {
                let (sender, ends) = (sender.clone(), &ends);
                scope.spawn(move || send(&sender, id, share / SENDERS as u64, ends));
            }
            drop(sender);
            let patience = match round % 4 {
                0 => share / 8,
                _ => u64::MAX,
            };
            let mut dice = Dice::new(round);
            receive(&mut receiver, &mut Order::default(), patience, &mut dice);
            if round % 8 == 0 {
                receiver.close();
                receive(&mut receiver, &mut Order::default(), u64::MAX, &mut dice);
            }
            drop(receiver);
        });
    }
    stop.store(true, Ordering::Relaxed);
    assert!(judging.join().unwrap() > 0);
    let accounts = runtime.accounts();
    assert!(accounts.balances(), "{accounts:?}");
    assert_eq!(accounts.pending, 0);
    let [made, handed_back, received, dropped] =
        [&ends.made, &ends.handed_back, &ends.received, &ends.dropped]
            .map(|count| count.load(Ordering::Relaxed));
    assert_eq!(made, handed_back + received + dropped);
    assert_eq!(accounts.ok, received);
    let refused = accounts.refused;
    let refusals = refused.busy + refused.closed + refused.deadline + refused.too_large;
    assert_eq!(handed_back, refusals, "{accounts:?}");
    // Those that were dropped inside, and those whose send was given up.
    assert!(
        accounts.dropped + accounts.expired <= dropped,
        "{accounts:?}"
    );
    assert_eq!(
        accounts.accepted + refusals,
        made - (dropped - accounts.dropped - accounts.expired)
    );
}

/// Checks the order across its incarnations, and panics now and then.
struct Moody {
    order: Arc<Mutex<Order>>,
    panics: Arc<AtomicU64>,
}

enum Msg {
    Tell(Token),
    Count(Reply<u64>),
}

impl Actor for Moody {
    type Msg = Msg;
    type Error = String;

    async fn handle(&mut self, message: Msg, _: &mut Context<Self>) -> Result<(), String> {
        match message {
            Msg::Count(reply) => drop(reply.send(1)),
            Msg::Tell(mut token) => {
                self.order.lock().unwrap().see(&token);
                token.receive();
                if token.number % 997 == 0 {
                    tokio::task::yield_now().await;
                }
                if token.number % 50_021 == 50_020 {
                    self.panics.fetch_add(1, Ordering::Relaxed);
                    // No panic hook runs, so that hundreds of panics are quiet.
                    std::panic::resume_unwind(Box::new("as planned"));
                }
                if token.number % 50_021 == 25_000 {
                    return Err("as planned".to_owned());
                }
            }
        }
        Ok(())
    }
}

#[test]
#[cfg_attr(miri, ignore = "too few messages for a panic")]
fn actors_that_panic_and_restart_lose_the_message_in_hand_and_no_other() {
    let executor = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .unwrap();
    // Failures follow each other as fast as messages come: only a thousand within a second would be too many.
    let config = RykerConfig::builder()
        .backoff_base(Duration::from_millis(1))
        .backoff_cap(Duration::from_millis(2))
        .rapid_fail_threshold(1_000)
        .rapid_fail_window(Duration::from_secs(1))
        .build()
        .unwrap();
    let runtime = Runtime::new(config);
    let ends = Arc::new(Ends::default());
    let panics = Arc::new(AtomicU64::new(0));
    let count = messages();
    let (stop, judging) = judging(&runtime);
    let actors: Vec<_> = [64, 256]
        .into_iter()
        .map(|capacity| {
            let (order, panics) = (Arc::new(Mutex::new(Order::default())), Arc::clone(&panics));
            let actor = runtime.actor("moody", move || Moody {
                order: Arc::clone(&order),
                panics: Arc::clone(&panics),
            });
            let actor = actor.capacity(capacity).deadline(Duration::from_secs(60));
            let _inside = executor.enter();
            actor.spawn().unwrap()
        })
        .collect();
    thread::scope(|scope| {
        for id in 0..SENDERS {
            let (actors, ends) = (actors.clone(), &ends);
            scope.spawn(move || {
                let mut dice = Dice::new(id);
                for number in 0..count / SENDERS as u64 {
                    let actor = &actors[(number % 2) as usize];
                    let message = Msg::Tell(Token::new(id, number, ends));
                    let sent = match dice.below(3) {
                        0 => actor.try_send(message),
                        _ => block_on(actor.send(message)),
                    };
                    match sent.map_err(SendError::into_inner) {
                        Ok(()) => {}
                        Err(Msg::Tell(token)) => token.hand_back(),
                        Err(Msg::Count(_)) => unreachable!("nobody sent it"),
                    }
                    if number % 1_000 == 0 {
                        // In time, refused, or failed with the incarnation that had it in hand.
                        let _ = block_on(actor.ask(Msg::Count));
                    }
                }
            });
        }
    });
    let report = executor.block_on(runtime.drain(Duration::from_secs(60)));
    stop.store(true, Ordering::Relaxed);
    assert!(judging.join().unwrap() > 0);
    assert!(report.balances() && report.is_clean(), "{report:?}");
    for actor in &actors {
        let exit = executor.block_on(actor.stopped());
        assert!(matches!(exit, ActorExit::Normal), "{exit}");
    }
    let accounts = runtime.accounts();
    assert!(accounts.balances(), "{accounts:?}");
    let lost = accounts.pending + accounts.dropped + accounts.aborted + accounts.expired;
    assert_eq!(lost, 0, "{accounts:?}");
    assert_eq!(accounts.panicked, panics.load(Ordering::Relaxed));
    assert!(accounts.panicked > 0 && accounts.error > 0, "{accounts:?}");
    let [made, handed_back, received, dropped] =
        [&ends.made, &ends.handed_back, &ends.received, &ends.dropped]
            .map(|count| count.load(Ordering::Relaxed));
    assert_eq!((made, dropped), (handed_back + received, 0));
    assert!(made >= count / SENDERS as u64 * SENDERS as u64);
}

#[test]
fn two_threads_that_answer_each_other_through_one_slot_never_sleep_through_a_message() {
    let rounds = match (cfg!(miri), full()) {
        (true, _) => 50,
        (_, true) => 1_000_000,
        _ => 20_000,
    };
    let runtime = Runtime::new(RykerConfig::default());
    let open = |name: &str| {
        let builder = runtime.mailbox::<u64>(name.to_owned()).capacity(1);
        let builder = builder.deadline(Duration::from_secs(60));
        builder.build().unwrap().split()
    };
    let (ping, mut pings) = open("ping");
    let (pong, mut pongs) = open("pong");
    let began = Instant::now();
    let answering = thread::spawn(move || {
        while let Some(number) = block_on(pings.recv()) {
            block_on(pong.send(number)).unwrap();
        }
    });
    for round in 0..rounds {
        block_on(ping.send(round)).unwrap();
        assert_eq!(block_on(pongs.recv()), Some(round));
    }
    drop(ping);
    answering.join().unwrap();
    eprintln!("{rounds} rounds in {:?}", began.elapsed());
}
