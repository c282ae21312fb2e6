//! What a mailbox's lock guards: the queue, its bounds, and who waits for room.

use std::collections::{BTreeMap, VecDeque};
use std::task::Waker;

use crate::account::Refusals;
use crate::clock::Tick;

/// A message with what the mailbox knows of it.
pub(crate) struct Envelope<T> {
    pub(crate) deadline: Tick,
    /// Milliseconds from its enqueueing to the deadline.
    pub(crate) budget: u32,
    /// What it was charged with.
    pub(crate) bytes: u32,
    pub(crate) message: T,
}

/// What is known of a message before it is taken in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    pub(crate) deadline: Tick,
    pub(crate) budget: u32,
    pub(crate) bytes: u32,
}

impl Stamp {
    #[inline(always)]
    pub(crate) fn on<T>(self, message: T) -> Envelope<T> {
        Envelope {
            deadline: self.deadline,
            budget: self.budget,
            bytes: self.bytes,
            message,
        }
    }
}

impl<T> Envelope<T> {
    pub(crate) fn enqueued(&self) -> Tick {
        self.deadline.saturating_sub(u64::from(self.budget))
    }
}

/// `Open` is left once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    /// Takes nothing more as it is shutting down.
    Draining,
    /// Takes nothing more: closed, or nobody is left to send or to receive.
    Closed,
}

/// The two bounds of a mailbox.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) messages: u64,
    /// `None` where messages are not measured.
    pub(crate) bytes: Option<u64>,
}

/// Bytes accepted so far, and how many may have been before the mailbox is full.
#[derive(Debug)]
struct Bytes {
    accepted: u64,
    limit: u64,
    /// Kept for waiting senders who have not come back yet.
    reserved: u64,
}

/// Senders that wait for room, in the order in which they came.
#[derive(Default)]
struct Waiting {
    next: u64,
    queue: BTreeMap<u64, Waiter>,
    /// Those for whom room is reserved until their deadline.
    granted: BTreeMap<u64, Claim>,
}

struct Waiter {
    claim: Claim,
    waker: Waker,
}

/// What a waiting sender wants.
#[derive(Clone, Copy)]
pub(crate) struct Claim {
    pub(crate) bytes: u32,
    pub(crate) deadline: Tick,
}

/// How it stands with a waiting sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// There is room for it now.
    Granted,
    Waits,
    /// It came too late for what was reserved, or the intake has ended.
    Lost,
}

/// A sender's place among those who wait.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

pub(crate) struct Intake<T> {
    pub(crate) queue: VecDeque<Envelope<T>>,
    accepted: u64,
    /// How many may have been before the mailbox is full: as many as were taken when somebody last looked, and the
    /// capacity, less what is reserved for waiting senders.
    limit: u64,
    /// The same of bytes, where they are bounded.
    bytes: Option<Box<Bytes>>,
    waiting: Option<Box<Waiting>>,
    pub(crate) phase: Phase,
    refused: Option<Box<Refusals>>,
    /// Whoever is to be woken: the parked receiver, or one whose handler is under way.
    reader: Option<Waker>,
    /// Whether a message is what the reader waits for.
    reader_is_idle: bool,
}

impl<T> Intake<T> {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            queue: VecDeque::new(),
            accepted: 0,
            limit: bounds.messages,
            bytes: bounds.bytes.map(|limit| {
                Box::new(Bytes {
                    accepted: 0,
                    limit,
                    reserved: 0,
                })
            }),
            waiting: None,
            phase: Phase::Open,
            refused: None,
            reader: None,
            reader_is_idle: false,
        }
    }

    pub(crate) fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Whether a message of `bytes` can be pushed now, as far as is known without a look at the receiver.
    #[inline(always)]
    pub(crate) fn admits(&self, bytes: u32) -> bool {
        self.phase == Phase::Open && self.fits(bytes) && !self.has_waiting()
    }

    #[inline(always)]
    fn fits(&self, bytes: u32) -> bool {
        let has_room = |b: &Bytes| b.accepted + u64::from(bytes) <= b.limit;
        self.accepted < self.limit && self.bytes.as_deref().map_or(true, has_room)
    }

    /// Whether somebody waits for room that is not reserved yet.
    #[inline(always)]
    pub(crate) fn has_waiting(&self) -> bool {
        self.waiting
            .as_ref()
            .is_some_and(|waiting| !waiting.queue.is_empty())
    }

    #[inline(always)]
    pub(crate) fn push(&mut self, envelope: Envelope<T>) {
        self.accepted += 1;
        if let Some(bytes) = &mut self.bytes {
            bytes.accepted += u64::from(envelope.bytes);
        }
        if self.queue.capacity() == 0 {
            // Many actors never have two messages at a time.
            self.queue.reserve_exact(1);
        }
        self.queue.push_back(envelope);
    }

    /// Reserves room for those who wait, in order, and returns whom to wake. Takes back what was reserved for somebody
    /// who did not come before his deadline.
    pub(crate) fn grant(
        &mut self,
        bounds: Bounds,
        (taken, bytes_taken): (u64, u64),
        now: Tick,
    ) -> Vec<Waker> {
        let mut granted = 0;
        if let Some(waiting) = &mut self.waiting {
            let bytes = &mut self.bytes;
            waiting.granted.retain(|_, claim| {
                let keep = claim.deadline > now;
                if let (false, Some(known)) = (keep, bytes.as_mut()) {
                    known.reserved -= u64::from(claim.bytes);
                }
                keep
            });
            granted = waiting.granted.len();
        }
        self.limit = taken + bounds.messages - granted as u64;
        if let (Some(bytes), Some(limit)) = (&mut self.bytes, bounds.bytes) {
            bytes.limit = bytes_taken + limit - bytes.reserved;
        }
        let mut wakers = Vec::new();
        let Some(mut waiting) = self.waiting.take() else {
            return wakers;
        };
        while let Some(first) = waiting.queue.first_entry() {
            let claim = first.get().claim;
            let in_time = claim.deadline > now;
            if in_time && !self.fits(claim.bytes) {
                break;
            }
            let (ticket, waiter) = first.remove_entry();
            if in_time {
                self.reserve(claim.bytes);
                waiting.granted.insert(ticket, claim);
            }
            wakers.push(waiter.waker);
        }
        self.waiting = Some(waiting);
        wakers
    }

    fn reserve(&mut self, bytes: u32) {
        self.limit -= 1;
        if let Some(known) = &mut self.bytes {
            known.reserved += u64::from(bytes);
            known.limit -= u64::from(bytes);
        }
    }

    pub(crate) fn refused(&mut self) -> &mut Refusals {
        self.refused.get_or_insert_with(Box::default)
    }

    pub(crate) fn refusals(&self) -> Refusals {
        self.refused.as_deref().copied().unwrap_or_default()
    }

    /// Takes a place at the end of those who wait.
    pub(crate) fn wait(&mut self, claim: Claim, waker: Waker) -> Ticket {
        let waiting = self.waiting.get_or_insert_with(Box::default);
        let ticket = waiting.next;
        waiting.next += 1;
        waiting.queue.insert(ticket, Waiter { claim, waker });
        Ticket(ticket)
    }

    /// How it stands with a place. Kept while nothing is granted, with another waker; the old one is returned, to be
    /// dropped outside the lock.
    pub(crate) fn claim(&mut self, ticket: &Ticket, waker: Waker) -> (Standing, Option<Waker>) {
        let Some(waiting) = self.waiting.as_mut() else {
            return (Standing::Lost, Some(waker));
        };
        if let Some(claim) = waiting.granted.remove(&ticket.0) {
            self.release(claim.bytes);
            return (Standing::Granted, Some(waker));
        }
        match waiting.queue.get_mut(&ticket.0) {
            Some(waiter) => {
                let old = std::mem::replace(&mut waiter.waker, waker);
                (Standing::Waits, Some(old))
            }
            None => (Standing::Lost, Some(waker)),
        }
    }

    /// Gives up a place; returns its waker, to be dropped outside the lock.
    pub(crate) fn leave(&mut self, ticket: &Ticket) -> Option<Waker> {
        let waiting = self.waiting.as_mut()?;
        if let Some(claim) = waiting.granted.remove(&ticket.0) {
            self.release(claim.bytes);
            return None;
        }
        let waiter = waiting.queue.remove(&ticket.0);
        waiter.map(|waiter| waiter.waker)
    }

    fn release(&mut self, bytes: u32) {
        self.limit += 1;
        if let Some(known) = &mut self.bytes {
            known.reserved -= u64::from(bytes);
            known.limit += u64::from(bytes);
        }
    }

    /// Ends the intake; returns whom to wake.
    pub(crate) fn end(&mut self, phase: Phase) -> Vec<Waker> {
        if self.phase == Phase::Open {
            self.phase = phase;
        }
        let mut wakers = Vec::new();
        if let Some(waiting) = &mut self.waiting {
            let queue = std::mem::take(&mut waiting.queue);
            wakers.extend(queue.into_values().map(|waiter| waiter.waker));
        }
        wakers.extend(self.rouse());
        wakers
    }

    /// The reader, if a message is what it waits for.
    #[inline(always)]
    pub(crate) fn reader_for_message(&mut self) -> Option<Waker> {
        if !self.reader_is_idle {
            return None;
        }
        self.reader_is_idle = false;
        self.reader.take()
    }

    /// The reader, whatever it waits for.
    pub(crate) fn rouse(&mut self) -> Option<Waker> {
        self.reader_is_idle = false;
        self.reader.take()
    }

    /// Who is to be woken from now on; returns who was, to be dropped outside the lock.
    pub(crate) fn park(&mut self, reader: Waker, idle: bool) -> Option<Waker> {
        self.reader_is_idle = idle;
        self.reader.replace(reader)
    }

    /// Whether `waker` would be woken for anything but messages.
    pub(crate) fn is_attended(&self, waker: &Waker) -> bool {
        !self.reader_is_idle && self.reader.as_ref().is_some_and(|w| w.will_wake(waker))
    }
}
