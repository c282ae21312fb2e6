//! The books of one mailbox: what became of every message that was accepted.

use crate::sync::{fence, AtomicU64, Ordering};

/// What became of the messages of one mailbox, and of those it refused.
///
/// At any instant, and not only when nothing moves,
///
/// ```text
/// accepted = ok + error + panicked + timed_out + expired + abandoned + dropped + aborted + pending
/// ```
///
/// where `pending` is counted from the queue and from what is in hand, not computed from the others:
/// [`balances`](Self::balances) compares them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Accounts {
    /// Messages that were taken in: `try_send` or `send` returned `Ok`, or an ask is or was under way.
    pub accepted: u64,
    /// Handled, and in time. What a [`Receiver`](crate::Receiver) hands out counts here.
    pub ok: u64,
    /// The handler returned an error.
    pub error: u64,
    /// The handler panicked. The message is not delivered again.
    pub panicked: u64,
    /// The handler was cancelled at the deadline, or succeeded after it.
    pub timed_out: u64,
    /// Dropped unhandled, as the deadline had passed in the queue.
    pub expired: u64,
    /// Asks dropped unhandled, as nobody waited for the answer any more.
    pub abandoned: u64,
    /// Dropped unhandled at the end of the mailbox or of a drain.
    pub dropped: u64,
    /// In hand when its handler was dropped: by an abort, or by the end of a drain.
    pub aborted: u64,
    /// In the queue or in hand now.
    pub pending: u64,
    /// What was refused, and is no part of `accepted`.
    pub refused: Refusals,
    /// Times the reader gave way to others although there was more to read.
    pub yields: u64,
}

/// How many messages were refused and handed back, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusals {
    /// The mailbox was full, by count or by bytes.
    pub busy: u64,
    /// The message was larger than one may be.
    pub too_large: u64,
    /// The mailbox was closed, or its receiver gone.
    pub closed: u64,
    /// The deadline passed before there was room.
    pub deadline: u64,
    /// The runtime or the actor was draining.
    pub draining: u64,
}

impl Accounts {
    /// Messages whose handler ended by itself: `ok`, `error`, `panicked`.
    pub fn handled(&self) -> u64 {
        self.ok + self.error + self.panicked
    }

    /// Whether every accepted message is accounted for, once.
    pub fn balances(&self) -> bool {
        let gone = self.handled() + self.timed_out + self.expired + self.abandoned;
        self.accepted == gone + self.dropped + self.aborted + self.pending
    }
}

impl Accounts {
    /// Adds the accounts of another mailbox.
    pub(crate) fn add(&mut self, other: &Self) {
        let Self {
            accepted,
            ok,
            error,
            panicked,
            timed_out,
            expired,
            abandoned,
            dropped,
            aborted,
            pending,
            refused,
            yields,
        } = other;
        self.accepted += accepted;
        self.ok += ok;
        self.error += error;
        self.panicked += panicked;
        self.timed_out += timed_out;
        self.expired += expired;
        self.abandoned += abandoned;
        self.dropped += dropped;
        self.aborted += aborted;
        self.pending += pending;
        self.refused.busy += refused.busy;
        self.refused.too_large += refused.too_large;
        self.refused.closed += refused.closed;
        self.refused.deadline += refused.deadline;
        self.refused.draining += refused.draining;
        self.yields += yields;
    }
}

/// How a message that was taken from the queue ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Ok,
    Error,
    Panicked,
    TimedOut,
    Expired,
    Abandoned,
    Dropped,
    Aborted,
}

const ENDS: usize = 8;

/// Written by the receiver alone, so that no counter needs a read-modify-write; read by whoever wants to know.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Odd while the receiver books.
    version: AtomicU64,
    /// Messages that no longer count against the capacity.
    taken: AtomicU64,
    bytes_taken: AtomicU64,
    /// Messages that left the queue and have not ended.
    held: AtomicU64,
    ends: [AtomicU64; ENDS],
    yields: AtomicU64,
}

/// What the receiver has booked, at one instant.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Booked {
    pub(crate) held: u64,
    pub(crate) ends: [u64; ENDS],
    pub(crate) yields: u64,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self {
            version: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            bytes_taken: AtomicU64::new(0),
            held: AtomicU64::new(0),
            ends: std::array::from_fn(|_| AtomicU64::new(0)),
            yields: AtomicU64::new(0),
        }
    }

    /// Messages and bytes that have left the mailbox's bounds. Pairs with the stores in [`take`](Self::take).
    pub(crate) fn taken(&self) -> (u64, u64) {
        (
            self.taken.load(Ordering::Acquire),
            self.bytes_taken.load(Ordering::Acquire),
        )
    }

    /// As its only writer sees it.
    #[inline(always)]
    pub(crate) fn taken_by_receiver(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    #[inline(always)]
    fn book(&self, change: impl FnOnce(&Self)) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version + 1, Ordering::Relaxed);
        // Pairs with the fence in `read`: who sees a change sees the odd version.
        fence(Ordering::Release);
        change(self);
        self.version.store(version + 2, Ordering::Release);
    }

    /// `count` messages moved from the queue to the receiver.
    #[inline]
    pub(crate) fn hold(&self, count: u64) {
        self.book(|p| add(&p.held, count));
    }

    /// Messages of the receiver leave the bounds of the mailbox and stay in hand.
    #[inline(always)]
    pub(crate) fn take(&self, count: u64, bytes: u64) {
        if bytes > 0 {
            let sum = self.bytes_taken.load(Ordering::Relaxed) + bytes;
            self.bytes_taken.store(sum, Ordering::Release);
        }
        let sum = self.taken.load(Ordering::Relaxed) + count;
        self.taken.store(sum, Ordering::Release);
    }

    /// `count` messages in hand have ended.
    #[inline(always)]
    pub(crate) fn end(&self, count: u64, end: End) {
        self.book(|p| {
            p.held
                .store(p.held.load(Ordering::Relaxed) - count, Ordering::Relaxed);
            add(&p.ends[end as usize], count);
        });
    }

    pub(crate) fn yielded(&self) {
        self.book(|p| add(&p.yields, 1));
    }

    /// Everything at one instant, or `None` if the receiver was booking.
    pub(crate) fn read(&self) -> Option<Booked> {
        let before = self.version.load(Ordering::Acquire);
        let booked = Booked {
            held: self.held.load(Ordering::Relaxed),
            ends: std::array::from_fn(|end| self.ends[end].load(Ordering::Relaxed)),
            yields: self.yields.load(Ordering::Relaxed),
        };
        // Pairs with the fence in `book`.
        fence(Ordering::Acquire);
        let after = self.version.load(Ordering::Relaxed);
        (before == after && before % 2 == 0).then_some(booked)
    }
}

impl Booked {
    pub(crate) fn fill(&self, accounts: &mut Accounts) {
        let of = |end: End| self.ends[end as usize];
        accounts.ok = of(End::Ok);
        accounts.error = of(End::Error);
        accounts.panicked = of(End::Panicked);
        accounts.timed_out = of(End::TimedOut);
        accounts.expired = of(End::Expired);
        accounts.abandoned = of(End::Abandoned);
        accounts.dropped = of(End::Dropped);
        accounts.aborted = of(End::Aborted);
        accounts.yields = self.yields;
    }
}

/// Adds to a counter that only the calling thread writes.
#[inline(always)]
fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Ordering::Relaxed) + count, Ordering::Relaxed);
}
