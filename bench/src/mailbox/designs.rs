//! Queues that a mailbox could be made of, bare: no deadlines, accounts, closing or waiting senders.
//!
//! All are queues of 96-byte envelopes with a capacity, whose receiver parks with a waker.

use super::peers::{AsyncMailbox, Mailbox};
use super::Message;
use crossbeam_queue::ArrayQueue;
use spin::mutex::SpinMutex;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

/// What the queue is guarded by.
pub trait Guard: Send + Sync + 'static {
    fn new(state: State) -> Self;
    fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R;
}

pub struct State {
    queue: VecDeque<Envelope>,
    accepted: u64,
    taken: u64,
    reader: Option<Waker>,
}

/// A message with a deadline, its time and its size.
struct Envelope {
    _known: [u64; 4],
    message: Message,
}

/// `std::sync::Mutex`, as it comes.
pub struct Parks(Mutex<State>);
/// The same, tried and tried again before it parks.
pub struct SpinsThenParks(Mutex<State>);
/// A spin lock, whose holder lets go with a plain store.
pub struct Spins(SpinMutex<State>);

const PAUSES: u32 = 16;
const LOOKS: u32 = 64;

impl Guard for Parks {
    fn new(state: State) -> Self {
        Self(Mutex::new(state))
    }

    fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.0.lock().expect("no panic under it"))
    }
}

impl Guard for SpinsThenParks {
    fn new(state: State) -> Self {
        Self(Mutex::new(state))
    }

    fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        for _ in 0..LOOKS {
            if let Ok(mut state) = self.0.try_lock() {
                return f(&mut state);
            }
            (0..PAUSES).for_each(|_| std::hint::spin_loop());
        }
        f(&mut self.0.lock().expect("no panic under it"))
    }
}

impl Guard for Spins {
    fn new(state: State) -> Self {
        Self(SpinMutex::new(state))
    }

    fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        loop {
            for _ in 0..LOOKS {
                if let Some(mut state) = self.0.try_lock() {
                    return f(&mut state);
                }
                (0..PAUSES).for_each(|_| std::hint::spin_loop());
            }
            std::thread::yield_now();
        }
    }
}

/// A queue under a lock, which the receiver swaps out whole.
pub struct Swapped<G>(PhantomData<G>);

#[repr(align(128))]
struct Padded<T>(T);

pub struct Shared<G> {
    state: Padded<G>,
    taken: Padded<AtomicU64>,
    capacity: u64,
}

pub struct Reader<G> {
    shared: Arc<Shared<G>>,
    batch: VecDeque<Envelope>,
    taken: u64,
}

impl<G: Guard> Reader<G> {
    fn swap(&mut self) -> bool {
        let batch = &mut self.batch;
        self.shared
            .state
            .0
            .with(|state| std::mem::swap(&mut state.queue, batch));
        !self.batch.is_empty()
    }

    fn take<R>(&mut self, look: impl FnOnce(&Message) -> R) -> Option<R> {
        let envelope = self.batch.pop_front()?;
        self.taken += 1;
        self.shared.taken.0.store(self.taken, Ordering::Release);
        Some(look(&envelope.message))
    }
}

impl<G: Guard> Mailbox for Swapped<G> {
    type Sender = Arc<Shared<G>>;
    type Receiver = Reader<G>;

    fn open(capacity: usize) -> (Self::Sender, Self::Receiver) {
        let shared = Arc::new(Shared {
            state: Padded(G::new(State {
                queue: VecDeque::new(),
                accepted: 0,
                taken: 0,
                reader: None,
            })),
            taken: Padded(AtomicU64::new(0)),
            capacity: capacity as u64,
        });
        let reader = Reader {
            shared: Arc::clone(&shared),
            batch: VecDeque::new(),
            taken: 0,
        };
        (shared, reader)
    }

    fn try_send(sender: &Self::Sender, message: Message) -> bool {
        let (sent, reader) = sender.state.0.with(|state| {
            if state.accepted - state.taken >= sender.capacity {
                state.taken = sender.taken.0.load(Ordering::Acquire);
                if state.accepted - state.taken >= sender.capacity {
                    return (false, None);
                }
            }
            state.accepted += 1;
            state.queue.push_back(Envelope {
                _known: [0; 4],
                message,
            });
            (true, state.reader.take())
        });
        if let Some(reader) = reader {
            reader.wake();
        }
        sent
    }

    fn try_recv<R>(receiver: &mut Self::Receiver, look: impl FnOnce(&Message) -> R) -> Option<R> {
        if receiver.batch.is_empty() && !receiver.swap() {
            return None;
        }
        receiver.take(look)
    }
}

impl<G: Guard> AsyncMailbox for Swapped<G> {
    async fn send(sender: &Self::Sender, message: Message) {
        while !Self::try_send(sender, message) {
            tokio::task::yield_now().await;
        }
    }

    async fn recv<R: Send>(
        receiver: &mut Self::Receiver,
        look: impl FnOnce(&Message) -> R + Send,
    ) -> R {
        poll_fn(|cx| {
            if !receiver.batch.is_empty() {
                return Poll::Ready(());
            }
            let batch = &mut receiver.batch;
            receiver.shared.state.0.with(|state| {
                std::mem::swap(&mut state.queue, batch);
                if batch.is_empty() {
                    state.reader = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                Poll::Ready(())
            })
        })
        .await;
        receiver.take(look).expect("a message")
    }
}

/// crossbeam's bounded queue without locks, beside tokio's `Notify`.
pub struct Ring;

pub struct RingShared {
    queue: ArrayQueue<Envelope>,
    notify: tokio::sync::Notify,
}

impl Mailbox for Ring {
    type Sender = Arc<RingShared>;
    type Receiver = Arc<RingShared>;

    fn open(capacity: usize) -> (Self::Sender, Self::Receiver) {
        let shared = Arc::new(RingShared {
            queue: ArrayQueue::new(capacity),
            notify: tokio::sync::Notify::new(),
        });
        (Arc::clone(&shared), shared)
    }

    fn try_send(sender: &Self::Sender, message: Message) -> bool {
        let envelope = Envelope {
            _known: [0; 4],
            message,
        };
        let sent = sender.queue.push(envelope).is_ok();
        sender.notify.notify_one();
        sent
    }

    fn try_recv<R>(receiver: &mut Self::Receiver, look: impl FnOnce(&Message) -> R) -> Option<R> {
        let envelope = receiver.queue.pop()?;
        Some(look(&envelope.message))
    }
}

impl AsyncMailbox for Ring {
    async fn send(sender: &Self::Sender, message: Message) {
        while !Self::try_send(sender, message) {
            tokio::task::yield_now().await;
        }
    }

    async fn recv<R: Send>(
        receiver: &mut Self::Receiver,
        look: impl FnOnce(&Message) -> R + Send,
    ) -> R {
        loop {
            if let Some(envelope) = receiver.queue.pop() {
                return look(&envelope.message);
            }
            receiver.notify.notified().await;
        }
    }
}
