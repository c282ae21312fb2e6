//! What a mailbox's lock guards: the queue, its bounds, and who waits for room.

use std::collections::VecDeque;
use std::task::Waker;

use super::line::{Claim, Line, Standing, Ticket, Wakers};
use crate::account::Refusals;
use crate::clock::Tick;

/// A message with what the mailbox knows of it.
pub(crate) struct Envelope<T> {
    pub(crate) known: Stamp,
    pub(crate) message: T,
}

/// What is known of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    pub(crate) deadline: Tick,
    /// Milliseconds from its enqueueing to the deadline.
    pub(crate) budget: u32,
    /// What it was charged with.
    pub(crate) bytes: u32,
}

impl Stamp {
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

impl Bounds {
    /// Whether room may be announced later than it is there.
    fn steps(self) -> bool {
        self.messages >= STEPS_FROM && self.bytes.is_none()
    }
}

/// Bytes accepted so far, and how many may have been before the mailbox is full.
#[derive(Debug)]
struct Bytes {
    accepted: u64,
    limit: u64,
}

/// From this capacity on, room is announced in steps of half of it.
const STEPS_FROM: u64 = if cfg!(loom) { 4 } else { 64 };
/// Ticks after which the sender that waits longest is told of any room: at least one millisecond, at most two.
pub(crate) const PATIENCE: Tick = 2;

pub(crate) struct Intake<T> {
    pub(crate) queue: VecDeque<Envelope<T>>,
    accepted: u64,
    /// How many may have been before the mailbox is full: as many as were taken when somebody last looked, and the
    /// capacity, less what is reserved for waiting senders.
    limit: u64,
    /// The same of bytes, where they are bounded.
    bytes: Option<Box<Bytes>>,
    waiting: Option<Box<Line>>,
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
            bytes: bounds
                .bytes
                .map(|limit| Box::new(Bytes { accepted: 0, limit })),
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
        self.waiting.as_ref().is_some_and(|line| !line.is_empty())
    }

    #[inline(always)]
    pub(crate) fn push(&mut self, known: Stamp, message: T) {
        self.accepted += 1;
        if let Some(bytes) = &mut self.bytes {
            bytes.accepted += u64::from(known.bytes);
        }
        if self.queue.len() == self.queue.capacity() {
            self.grow();
        }
        self.queue.push_back(Envelope { known, message });
    }

    #[cold]
    fn grow(&mut self) {
        if self.queue.capacity() == 0 {
            // Many actors never have two messages at a time.
            self.queue.reserve_exact(1);
        } else {
            self.queue.reserve(1);
        }
    }

    /// Reserves room for those who wait, in order, and returns whom to wake. Takes back what was reserved for somebody
    /// who did not come before his deadline.
    pub(crate) fn grant(
        &mut self,
        bounds: Bounds,
        (taken, bytes_taken): (u64, u64),
        now: Tick,
    ) -> Wakers {
        let mut wakers = Wakers::default();
        let mut line = self.waiting.take();
        let reserved = line.as_mut().map_or((0, 0), |line| line.reserved(now));
        self.limit = taken + bounds.messages - reserved.0;
        if let (Some(bytes), Some(limit)) = (&mut self.bytes, bounds.bytes) {
            bytes.limit = bytes_taken + limit - reserved.1;
        }
        if let Some(line) = &mut line {
            while let Some(first) = line.first() {
                let in_time = first.deadline > now;
                if in_time && !self.fits(first.bytes) {
                    break;
                }
                if in_time {
                    self.reserve(first.bytes);
                }
                wakers.extend(line.advance(in_time));
            }
        }
        self.waiting = line;
        wakers
    }

    /// When the receiver is to look at those who wait: once it has taken so many, or never.
    ///
    /// A wake-up for every message taken would cost more than the message. So room is announced when half of the mailbox
    /// is free; but to somebody who has waited for [`PATIENCE`], in a small mailbox and in one whose messages are measured
    /// at once.
    pub(crate) fn wanted(&self, bounds: Bounds, taken: u64, now: Tick) -> u64 {
        match self.waiting.as_ref().and_then(|line| line.first()) {
            None => u64::MAX,
            Some(first) if bounds.steps() && now < first.since + PATIENCE => {
                taken + bounds.messages / 2
            }
            Some(_) => 0,
        }
    }

    fn reserve(&mut self, bytes: u32) {
        self.limit -= 1;
        if let Some(known) = &mut self.bytes {
            known.limit -= u64::from(bytes);
        }
    }

    fn release(&mut self, bytes: u32) {
        self.limit += 1;
        if let Some(known) = &mut self.bytes {
            known.limit += u64::from(bytes);
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
        self.waiting
            .get_or_insert_with(Box::default)
            .join(claim, waker)
    }

    /// How it stands with a place, which is given back unless that waits on, with another waker; a waker is returned, to
    /// be dropped outside the lock.
    pub(crate) fn claim(&mut self, ticket: Ticket, waker: Waker) -> (Standing, Option<Waker>) {
        let Some(line) = &mut self.waiting else {
            return (Standing::Lost, Some(waker));
        };
        if line.standing(ticket) == Standing::Waits {
            return (Standing::Waits, line.replace(ticket, waker));
        }
        (self.leave(ticket).0, Some(waker))
    }

    /// Gives a place back, which stood as is told; its waker is to be dropped outside the lock.
    pub(crate) fn leave(&mut self, ticket: Ticket) -> (Standing, Option<Waker>) {
        let Some(line) = &mut self.waiting else {
            return (Standing::Lost, None);
        };
        let (standing, bytes, waker) = line.leave(ticket);
        if line.is_spare() {
            self.waiting = None;
        }
        if standing == Standing::Granted {
            self.release(bytes);
        }
        (standing, waker)
    }

    /// Ends the intake; returns whom to wake.
    pub(crate) fn end(&mut self, phase: Phase) -> Wakers {
        if self.phase == Phase::Open {
            self.phase = phase;
        }
        let mut wakers = Wakers::default();
        if let Some(line) = &mut self.waiting {
            while line.first().is_some() {
                wakers.extend(line.advance(false));
            }
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
