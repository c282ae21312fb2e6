//! The producers.

use std::fmt;
use std::future::{poll_fn, Future};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use super::intake::{Envelope, PATIENCE};
use super::line::Ticket;
use super::shared::Shared;
use crate::account::Accounts;
use crate::clock::{tick_from, Tick};
use crate::error::{ErrorKind, SendError};
use crate::scope::inherit;
use crate::timer::Timer;

/// Ticks between two looks of one who waits for long: a fault of the announcements costs no more.
const LOOKS_APART: Tick = 64;

/// Puts messages into a [`Mailbox`](crate::Mailbox); cheap to clone, and may be shared.
///
/// When the last sender is dropped the mailbox closes: its receiver gets what is queued and then `None`.
///
/// # Ordering
/// Messages of one sender whose sends follow each other are received in that order.
pub struct Sender<T> {
    pub(crate) shared: Arc<Shared<T>>,
}

impl<T> Sender<T> {
    /// For a `shared` that already counts this sender.
    pub(crate) fn new(shared: Arc<Shared<T>>) -> Self {
        Self { shared }
    }

    /// Puts `message` into the mailbox if there is room now. Never waits and, but for the growth of the queue up to
    /// its capacity, never allocates.
    ///
    /// The message's deadline is the mailbox's, from now on.
    ///
    /// # Errors
    /// Every error hands the message back: [`Busy`](SendError::Busy) when the mailbox is full by count or by bytes or
    /// when others wait for room, [`TooLarge`](SendError::TooLarge), [`Draining`](SendError::Draining),
    /// [`Closed`](SendError::Closed).
    #[inline]
    pub fn try_send(&self, message: T) -> Result<(), SendError<T>> {
        self.try_send_until(message, None).map(drop)
    }

    /// Returns the message's deadline.
    #[inline(always)]
    pub(crate) fn try_send_until(
        &self,
        message: T,
        own: Option<Tick>,
    ) -> Result<Tick, SendError<T>> {
        let stamp = match self.shared.stamp(&message, own) {
            Ok(stamp) => stamp,
            Err(kind) => return Err(self.refuse(kind, message)),
        };
        match self.shared.offer(message, stamp) {
            Ok(()) => Ok(stamp.deadline),
            Err((kind, message)) => Err(self.refuse(kind, message)),
        }
    }

    /// Puts `message` into the mailbox, waiting for room if there is none, until the mailbox's deadline. The deadline
    /// counts from this call on: time spent waiting is not available to the handler.
    ///
    /// Those who wait get room in the order in which they came. Waiting senders and their messages are outside of the
    /// mailbox's bounds: their number is the caller's to limit.
    ///
    /// # Errors
    /// As [`try_send`](Self::try_send), but [`Deadline`](SendError::Deadline) instead of `Busy`.
    ///
    /// # Cancel safety
    /// A send that is dropped before it returned has sent nothing; the message is dropped with it.
    pub async fn send(&self, message: T) -> Result<(), SendError<T>> {
        match self.begin(message, None) {
            Ok(()) => Ok(()),
            Err(Unsent::Refused(error)) => Err(error),
            Err(Unsent::Full(envelope)) => Box::pin(self.wait(envelope)).await,
        }
    }

    /// [`send`](Self::send) with a deadline of the caller's, which wins if it is earlier than the mailbox's.
    ///
    /// # Errors
    /// As [`send`](Self::send); a deadline that has passed is [`Deadline`](SendError::Deadline) at once.
    ///
    /// # Cancel safety
    /// As [`send`](Self::send).
    pub async fn send_with_deadline(
        &self,
        message: T,
        deadline: Instant,
    ) -> Result<(), SendError<T>> {
        match self.begin(message, Some(tick_from(deadline))) {
            Ok(()) => Ok(()),
            Err(Unsent::Refused(error)) => Err(error),
            Err(Unsent::Full(envelope)) => Box::pin(self.wait(envelope)).await,
        }
    }

    /// Sends `message` if there is room now; if there is none, it is to [wait](Self::wait).
    #[inline(always)]
    pub(crate) fn begin(&self, message: T, own: Option<Tick>) -> Result<(), Unsent<T>> {
        let known = match self.shared.stamp(&message, own) {
            Ok(known) => known,
            Err(kind) => return Err(Unsent::Refused(self.refuse(kind, message))),
        };
        match self.shared.offer(message, known) {
            Ok(()) => Ok(()),
            Err((ErrorKind::Busy, message)) => Err(Unsent::Full(Envelope { known, message })),
            Err((kind, message)) => Err(Unsent::Refused(self.refuse(kind, message))),
        }
    }

    /// Waits for room. It takes much more memory than a send that finds some, so it has a box of its own.
    pub(crate) async fn wait(&self, envelope: Envelope<T>) -> Result<(), SendError<T>> {
        let shared = &*self.shared;
        // A handler that waits here has no longer than its own message.
        let (limit, _) = inherit(Some(envelope.known.deadline));
        let limit = limit.unwrap_or(envelope.known.deadline);
        let clock = &shared.core.clock;
        let began = clock.now();
        // Room may be announced late, and who waits may be overlooked, so one looks now and then.
        let mut wait = PATIENCE;
        let mut look = limit.min(began + wait);
        // Who has no time for that is told at once.
        let since = if look < limit { began } else { 0 };
        let mut timer = pin!(Timer::on(clock, look));
        let mut place = Place {
            shared,
            envelope: Some(envelope),
            ticket: None,
        };
        let sent = poll_fn(|cx| loop {
            let Place {
                envelope, ticket, ..
            } = &mut place;
            let offered = shared.poll_offer(envelope, ticket, since, cx);
            if offered.is_ready() || timer.as_mut().poll(cx).is_pending() {
                return offered;
            }
            if look >= limit {
                return Poll::Ready(Err(ErrorKind::Timeout));
            }
            wait = LOOKS_APART.min(2 * wait);
            look = limit.min(look + wait);
            timer.set(Timer::on(clock, look));
        })
        .await;
        match (sent, place.envelope.take()) {
            (Err(kind), Some(envelope)) => Err(self.refuse(kind, envelope.message)),
            _ => Ok(()),
        }
    }

    #[cold]
    fn refuse(&self, kind: ErrorKind, message: T) -> SendError<T> {
        self.shared.refuse(match kind {
            ErrorKind::Busy => SendError::Busy(message),
            ErrorKind::Timeout => SendError::Deadline(message),
            ErrorKind::Draining => SendError::Draining(message),
            ErrorKind::TooLarge => SendError::TooLarge(message),
            ErrorKind::Closed | ErrorKind::NoReply => SendError::Closed(message),
        })
    }

    /// Messages in the mailbox now.
    pub fn depth(&self) -> usize {
        self.shared.depth() as usize
    }

    /// The most messages that it holds, not how many more fit now.
    pub fn capacity(&self) -> usize {
        self.shared.spec.capacity as usize
    }

    /// Whether nothing more is taken in: the receiver is gone, or the mailbox is closed or draining.
    pub fn is_closed(&self) -> bool {
        self.shared.is_closed()
    }

    /// What became of every message.
    pub fn accounts(&self) -> Accounts {
        self.shared.accounts()
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.shared.add_sender();
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.shared.drop_sender();
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sender").field(&self.shared).finish()
    }
}

/// Why a message was not sent at once.
pub(crate) enum Unsent<T> {
    Full(Envelope<T>),
    Refused(SendError<T>),
}

/// A message on its way in, and its place among those who wait for room. Dropped, both are given up.
struct Place<'a, T> {
    shared: &'a Shared<T>,
    envelope: Option<Envelope<T>>,
    ticket: Option<Ticket>,
}

impl<T> Drop for Place<'_, T> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.shared.leave(ticket);
        }
        if let Some(envelope) = self.envelope.take() {
            self.shared.discard(envelope.message, ErrorKind::Closed);
        }
    }
}
