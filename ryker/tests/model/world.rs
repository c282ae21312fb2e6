//! Operations on a real mailbox and on the model, compared after each.

use std::future::Future;
use std::pin::{pin, Pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use ryker::{
    Accounts, DropReason, ErrorKind, MessageSize, Observer, Receiver, Runtime, RykerConfig,
    SendError, Sender, TryRecvError,
};
use tokio::time::Instant;

use super::naive::{End, Got, Model, Phase, Shape, Sums, LARGEST};

/// The clock moves in steps of this many milliseconds. Deadlines are never multiples of it: none falls on a step.
pub(crate) const STEP_MS: u64 = 10;

/// What a test or a fuzzer does; numbers choose among what there is.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    TrySend {
        sender: usize,
        size: usize,
    },
    /// So many [`TrySend`](Self::TrySend)s, or fewer, as long as they succeed.
    Fill {
        sender: usize,
        messages: usize,
    },
    /// Begins a send, which may wait; with a deadline of its own from now on.
    Send {
        sender: usize,
        size: usize,
        own: Option<u64>,
    },
    /// Looks again at a send that waits, whether it was woken or not.
    Look(usize),
    /// Looks at those that were woken, in the order of their wake-ups.
    LookAtWoken,
    Cancel(usize),
    Clone(usize),
    DropSender(usize),
    TryRecv,
    /// So many of them.
    Take(usize),
    Recv,
    RecvMany(usize),
    CloseReceiver,
    DropReceiver,
    /// A drain begins and is given up; what is queued stays readable.
    Drain,
    /// A drain without any time.
    Cut,
    /// So many steps of the clock.
    Advance(u64),
}

/// What became of every message, as the messages tell it.
#[derive(Debug, Default)]
struct Ledger {
    ends: Mutex<Vec<End>>,
}

#[derive(Debug)]
struct Token {
    id: usize,
    size: usize,
    ledger: Arc<Ledger>,
    asked: AtomicUsize,
}

impl Token {
    fn claim(self, end: End) -> usize {
        self.ledger.ends.lock().unwrap()[self.id] = end;
        self.id
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        let mut ends = self.ledger.ends.lock().unwrap();
        if ends[self.id] == End::Alive {
            ends[self.id] = End::Dropped;
        }
    }
}

impl MessageSize for Token {
    /// Another answer each time: only the first may count.
    fn message_size(&self) -> usize {
        match self.asked.fetch_add(1, Ordering::Relaxed) {
            0 => self.size,
            more => self.size + 100 * more,
        }
    }
}

/// What an observer was told, by reason.
#[derive(Debug, Default)]
struct Told {
    refused: Mutex<Vec<DropReason>>,
    dropped: Mutex<Vec<(DropReason, u64)>>,
}

impl Told {
    fn refused(&self, reason: DropReason) -> u64 {
        let refused = self.refused.lock().unwrap();
        refused.iter().filter(|r| **r == reason).count() as u64
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        let dropped = self.dropped.lock().unwrap();
        let of = dropped.iter().filter(|(r, _)| *r == reason);
        of.map(|(_, count)| count).sum()
    }
}

impl Observer for Told {
    fn on_refused(&self, _: &str, reason: DropReason) {
        self.refused.lock().unwrap().push(reason);
    }

    fn on_dropped(&self, _: &str, reason: DropReason, count: u64) {
        self.dropped.lock().unwrap().push((reason, count));
    }
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Puts the number of a send into the queue when it is woken.
struct Ticket {
    number: usize,
    woken: Arc<Mutex<Vec<usize>>>,
}

impl Wake for Ticket {
    fn wake(self: Arc<Self>) {
        self.woken.lock().unwrap().push(self.number);
    }
}

type Sent = Result<(), SendError<Token>>;

struct Send {
    number: usize,
    future: Pin<Box<dyn Future<Output = Sent>>>,
}

pub(crate) struct World {
    model: Model,
    rt: Runtime,
    senders: Vec<Sender<Token>>,
    /// Outlives all senders, for a look at the accounts; does not count as one.
    receiver: Option<Receiver<Token>>,
    waiting: Vec<Send>,
    sends: usize,
    woken: Arc<Mutex<Vec<usize>>>,
    receiver_woken: Arc<Flag>,
    ledger: Arc<Ledger>,
    told: Arc<Told>,
    began: Instant,
}

impl World {
    /// In a tokio runtime whose clock is paused.
    pub(crate) fn new(shape: Shape) -> Self {
        let config = RykerConfig::builder()
            .batch_messages(shape.batch)
            .yield_every_n_msgs(shape.yield_every);
        let rt = Runtime::new(config.build().unwrap());
        let told = Arc::new(Told::default());
        let mut builder = rt
            .mailbox::<Token>("model")
            .capacity(shape.capacity)
            .deadline(Duration::from_millis(shape.deadline_ms))
            .observer(Arc::clone(&told) as Arc<dyn Observer>);
        if let Some(bytes) = shape.bytes {
            builder = builder.max_msg_bytes(LARGEST).max_bytes(bytes);
        }
        let (sender, receiver) = builder.build().unwrap().split();
        Self {
            model: Model::new(shape),
            rt,
            senders: vec![sender],
            receiver: Some(receiver),
            waiting: Vec::new(),
            sends: 0,
            woken: Arc::default(),
            receiver_woken: Arc::default(),
            ledger: Arc::default(),
            told,
            began: Instant::now(),
        }
    }

    pub(crate) async fn apply(&mut self, op: &Op) {
        match *op {
            Op::TrySend { sender, size } => drop(self.try_send(sender, size)),
            Op::Fill { sender, messages } => {
                let mut left = 0..messages;
                while left.next().is_some() && self.try_send(sender, 1) == Some(Ok(())) {}
            }
            Op::Send { sender, size, own } => self.send(sender, size, own),
            Op::Look(which) => {
                let number = chosen(&self.waiting, which).map(|send| send.number);
                number.into_iter().for_each(|number| self.look(number));
            }
            Op::LookAtWoken => {
                let woken = std::mem::take(&mut *self.woken.lock().unwrap());
                woken.into_iter().for_each(|number| self.look(number));
            }
            Op::Cancel(which) => self.cancel(which),
            Op::Clone(which) => {
                if let Some(sender) = chosen(&self.senders, which).cloned() {
                    self.senders.push(sender);
                    self.model.senders += 1;
                }
            }
            Op::DropSender(which) => {
                if !self.senders.is_empty() {
                    drop(self.senders.swap_remove(which % self.senders.len()));
                    self.model.sender_gone();
                }
            }
            Op::TryRecv => self.try_recv(),
            Op::Take(messages) => (0..messages).for_each(|_| self.try_recv()),
            Op::Recv => self.recv().await,
            Op::RecvMany(limit) => self.recv_many(limit).await,
            Op::CloseReceiver => {
                if let Some(receiver) = &mut self.receiver {
                    receiver.close();
                    self.model.end(Phase::Closed);
                }
            }
            Op::DropReceiver => {
                if self.receiver.take().is_some() {
                    self.model.receiver_gone();
                }
            }
            Op::Drain => self.drain(Duration::from_secs(60)),
            Op::Cut => self.drain(Duration::ZERO),
            Op::Advance(steps) => {
                tokio::time::advance(Duration::from_millis(steps * STEP_MS)).await;
                self.model.now = self.began.elapsed().as_millis() as u64;
            }
        }
        self.check();
    }

    /// Lets everything go and compares once more.
    pub(crate) async fn finish(mut self) {
        self.apply(&Op::LookAtWoken).await;
        while !self.waiting.is_empty() {
            self.apply(&Op::Cancel(0)).await;
        }
        self.apply(&Op::DropReceiver).await;
        while !self.senders.is_empty() {
            self.apply(&Op::DropSender(0)).await;
        }
        let total = sums(&self.rt.accounts());
        assert_eq!(total, self.model.sums(), "the sums outlive the mailbox");
        let ends = self.ledger.ends.lock().unwrap();
        assert!(ends.iter().all(|end| *end != End::Alive), "{ends:?}");
    }

    fn token(&self, size: usize) -> Token {
        let mut ends = self.ledger.ends.lock().unwrap();
        ends.push(End::Alive);
        Token {
            id: ends.len() - 1,
            size,
            ledger: Arc::clone(&self.ledger),
            asked: AtomicUsize::new(0),
        }
    }

    fn try_send(&mut self, which: usize, size: usize) -> Option<Result<(), ErrorKind>> {
        let sender = chosen(&self.senders, which)?;
        let sent = sender.try_send(self.token(size)).map_err(handed_back);
        assert_eq!(sent, self.model.try_send(size), "try_send");
        Some(sent)
    }

    fn send(&mut self, which: usize, size: usize, own: Option<u64>) {
        let Some(sender) = chosen(&self.senders, which).cloned() else {
            return;
        };
        self.model.senders += 1;
        let deadline = own.map(|ms| (Instant::now() + Duration::from_millis(ms)).into_std());
        let token = self.token(size);
        let mut send = Send {
            number: self.sends,
            future: Box::pin(async move {
                match deadline {
                    Some(deadline) => sender.send_with_deadline(token, deadline).await,
                    None => sender.send(token).await,
                }
            }),
        };
        self.sends += 1;
        let expected = self.model.send(send.number, size, own);
        if self.compare(&mut send, expected) {
            self.waiting.push(send);
        }
    }

    /// Polls a send; whether it still waits.
    fn compare(&mut self, send: &mut Send, expected: Option<Result<(), ErrorKind>>) -> bool {
        let waker = Waker::from(Arc::new(Ticket {
            number: send.number,
            woken: Arc::clone(&self.woken),
        }));
        let polled = send.future.as_mut().poll(&mut Context::from_waker(&waker));
        let outcome = match polled {
            Poll::Pending => None,
            Poll::Ready(sent) => Some(sent.map_err(handed_back)),
        };
        assert_eq!(outcome, expected, "send");
        if outcome.is_some() {
            // Its sender goes with it.
            send.future = Box::pin(std::future::pending());
            self.model.sender_gone();
        }
        outcome.is_none()
    }

    fn look(&mut self, number: usize) {
        let Some(place) = self.waiting.iter().position(|send| send.number == number) else {
            return;
        };
        let mut send = self.waiting.remove(place);
        self.woken.lock().unwrap().retain(|woken| *woken != number);
        let expected = self.model.look(number);
        if self.compare(&mut send, expected) {
            self.waiting.insert(place, send);
        }
    }

    fn cancel(&mut self, which: usize) {
        if self.waiting.is_empty() {
            return;
        }
        let send = self.waiting.remove(which % self.waiting.len());
        self.model.cancel(send.number);
        drop(send);
        self.model.sender_gone();
    }

    fn try_recv(&mut self) {
        let Some(receiver) = &mut self.receiver else {
            return;
        };
        let got = match receiver.try_recv() {
            Ok(token) => Got::Messages(vec![token.claim(End::Received)]),
            Err(TryRecvError::Empty) => Got::Nothing,
            Err(_) => Got::End,
        };
        assert_eq!(got, self.model.try_recv(), "try_recv");
    }

    async fn recv(&mut self) {
        let Some(receiver) = &mut self.receiver else {
            return;
        };
        self.receiver_woken.0.store(false, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(&self.receiver_woken));
        let polled = pin!(receiver.recv_delivery()).poll(&mut Context::from_waker(&waker));
        let (expected, item) = self.model.recv();
        let got = match polled {
            Poll::Pending if expected == Got::Yielded => Got::Yielded,
            Poll::Pending => Got::Nothing,
            Poll::Ready(None) => Got::End,
            Poll::Ready(Some(delivery)) => {
                let item = item.expect("the model has a message too");
                let waited = Duration::from_millis(self.model.now - item.enqueued);
                assert_eq!(delivery.waited, waited);
                let deadline = self.began + Duration::from_millis(item.deadline);
                let early = deadline.into_std().duration_since(delivery.deadline);
                assert!(early <= Duration::from_millis(1), "{early:?}");
                Got::Messages(vec![delivery.message.claim(End::Received)])
            }
        };
        assert_eq!(got, expected, "recv");
        self.give_way(&got).await;
    }

    async fn recv_many(&mut self, limit: usize) {
        let Some(receiver) = &mut self.receiver else {
            return;
        };
        self.receiver_woken.0.store(false, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(&self.receiver_woken));
        let mut batch = Vec::new();
        let limit = limit.max(1);
        let polled =
            pin!(receiver.recv_many(&mut batch, limit)).poll(&mut Context::from_waker(&waker));
        let count = batch.len();
        let ids: Vec<usize> = batch.into_iter().map(|t| t.claim(End::Received)).collect();
        let expected = self.model.recv_many(limit);
        let got = match polled {
            Poll::Pending if expected == Got::Yielded => Got::Yielded,
            Poll::Pending => Got::Nothing,
            Poll::Ready(0) => Got::End,
            Poll::Ready(told) => {
                assert_eq!(told, count);
                Got::Messages(ids)
            }
        };
        assert_eq!(got, expected, "recv_many");
        self.give_way(&got).await;
    }

    /// A receiver that gave way is woken in the executor's next turn.
    async fn give_way(&self, got: &Got) {
        if *got == Got::Yielded {
            tokio::task::yield_now().await;
        }
    }

    /// Polls a drain once and drops it.
    fn drain(&mut self, deadline: Duration) {
        let waker = Waker::from(Arc::new(Flag::default()));
        let depth = self.model.depth();
        let mut draining = Box::pin(self.rt.drain(deadline));
        let polled = draining.as_mut().poll(&mut Context::from_waker(&waker));
        self.model.runtime_drains = true;
        self.model.end(Phase::Draining);
        assert_eq!(
            polled.is_ready(),
            depth == 0,
            "a drain ends when all is done"
        );
        if depth > 0 && deadline.is_zero() {
            self.model.cut = true;
        }
    }

    fn check(&self) {
        let model = &self.model;
        let handle = self.senders.first();
        let accounts = match (handle, &self.receiver) {
            (Some(sender), _) => {
                assert_eq!(sender.depth(), model.depth());
                assert_eq!(sender.is_closed(), model.phase != Phase::Open);
                sender.accounts()
            }
            (None, Some(receiver)) => {
                assert_eq!(receiver.depth(), model.depth());
                receiver.accounts()
            }
            (None, None) => self.rt.accounts(),
        };
        assert!(accounts.balances(), "{accounts:?}");
        assert_eq!(sums(&accounts), model.sums());
        assert_eq!(*self.ledger.ends.lock().unwrap(), model.ends);
        self.check_wakes();
        self.check_observer();
    }

    /// Who has something to look at has been woken, and nobody else.
    fn check_wakes(&self) {
        let woken = self.woken.lock().unwrap();
        for (number, waiting) in &self.model.waiting {
            let due = self.model.is_due(waiting);
            assert_eq!(woken.contains(number), due, "wake-up of send {number}");
        }
        if self.receiver.is_some() {
            let is_woken = self.receiver_woken.0.load(Ordering::Relaxed);
            assert_eq!(
                is_woken, self.model.receiver_woken,
                "wake-up of the receiver"
            );
        }
    }

    fn check_observer(&self) {
        let (told, sums) = (&self.told, self.model.sums);
        let refused = [
            (DropReason::Capacity, sums.busy),
            (DropReason::TooLarge, sums.too_large),
            (DropReason::Closed, sums.closed + sums.draining),
            (DropReason::Deadline, sums.deadline),
            (DropReason::Shutdown, 0),
        ];
        for (reason, count) in refused {
            assert_eq!(told.refused(reason), count, "refused: {reason:?}");
        }
        let shutdown = self.model.shutdown;
        let dropped = [
            (DropReason::Deadline, sums.expired),
            (DropReason::Shutdown, shutdown),
            (DropReason::Closed, sums.dropped - shutdown),
        ];
        for (reason, count) in dropped {
            assert_eq!(told.dropped(reason), count, "dropped: {reason:?}");
        }
    }
}

/// The kind, after the message came back.
fn handed_back(error: SendError<Token>) -> ErrorKind {
    let kind = error.kind();
    error.into_inner().claim(End::HandedBack);
    kind
}

fn chosen<T>(all: &[T], which: usize) -> Option<&T> {
    all.get(which % all.len().max(1))
}

fn sums(accounts: &Accounts) -> Sums {
    let refused = accounts.refused;
    let elsewhere = [
        accounts.error,
        accounts.panicked,
        accounts.timed_out,
        accounts.abandoned,
        accounts.aborted,
    ];
    assert_eq!(elsewhere, [0; 5], "{accounts:?}");
    Sums {
        accepted: accounts.accepted,
        ok: accounts.ok,
        expired: accounts.expired,
        dropped: accounts.dropped,
        pending: accounts.pending,
        busy: refused.busy,
        too_large: refused.too_large,
        closed: refused.closed,
        deadline: refused.deadline,
        draining: refused.draining,
        yields: accounts.yields,
    }
}
