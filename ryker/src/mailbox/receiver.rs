//! The single consumer.

use std::collections::VecDeque;
use std::fmt;
use std::future::{poll_fn, Future};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::intake::{Envelope, Phase};
use super::shared::Shared;
use super::turn::{Nanos, Turn};
use crate::account::{Accounts, End};
use crate::clock::{instant_of, nanos};
use crate::error::{ErrorKind, TryRecvError};
use crate::stats::BOUNDS_MS;

/// Takes the messages of a [`Mailbox`](crate::Mailbox), in the order in which they were accepted.
///
/// There is one per mailbox. Messages whose deadline has passed are dropped and counted, never handed out. Dropping the
/// receiver closes the mailbox and drops what is queued, which is counted as well.
///
/// # Cancel safety
/// [`recv`](Self::recv), [`recv_many`](Self::recv_many) and [`recv_delivery`](Self::recv_delivery) may be dropped at any
/// await: a message is taken in the very poll that returns it.
///
/// # Fairness
/// A receiver that always finds a message gives way to other tasks after `fairness.yield_every_n_msgs` messages that
/// [took some time](crate::guide::fairness), and that is counted. They need no particular executor.
pub struct Receiver<T> {
    inner: Inbox<T>,
}

/// A message with what the mailbox knows of it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Delivery<T> {
    /// The message.
    pub message: T,
    /// When whoever sent it stops waiting.
    pub deadline: Instant,
    /// How long it was queued, in coarse milliseconds.
    pub waited: Duration,
}

impl<T> Receiver<T> {
    pub(crate) fn new(shared: Arc<Shared<T>>) -> Self {
        Self {
            inner: Inbox::new(shared),
        }
    }

    /// The next message; `None` when the mailbox is closed and empty.
    pub async fn recv(&mut self) -> Option<T> {
        let envelope = poll_fn(|cx| self.inner.poll_take(cx)).await?;
        self.inner.hand_out();
        Some(envelope.message)
    }

    /// The next message with its deadline; `None` when the mailbox is closed and empty.
    pub async fn recv_delivery(&mut self) -> Option<Delivery<T>> {
        let envelope = poll_fn(|cx| self.inner.poll_take(cx)).await?;
        self.inner.hand_out();
        Some(Delivery {
            deadline: instant_of(envelope.known.deadline),
            waited: Duration::from_millis(self.inner.now.saturating_sub(envelope.known.enqueued())),
            message: envelope.message,
        })
    }

    /// Adds up to `limit` messages to `messages` and returns how many; waits for the first one. No more than
    /// `fairness.batch_messages` are taken at a time. 0 means that the mailbox is closed and empty, or that `limit` is
    /// 0.
    pub async fn recv_many(&mut self, messages: &mut Vec<T>, limit: usize) -> usize {
        if limit == 0 {
            return 0;
        }
        poll_fn(|cx| self.inner.poll_take_many(cx, messages, limit)).await
    }

    /// The next message, if one is queued now.
    ///
    /// # Errors
    /// [`TryRecvError::Empty`], or [`TryRecvError::Closed`] when nothing will come.
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        let envelope = self.inner.try_take()?;
        self.inner.hand_out();
        Ok(envelope.message)
    }

    /// Takes nothing more in; what is queued can still be received.
    pub fn close(&mut self) {
        self.inner.shared.close(Phase::Closed);
    }

    /// Messages in the mailbox.
    pub fn depth(&self) -> usize {
        self.inner.shared.depth() as usize
    }

    /// The most messages that it holds.
    pub fn capacity(&self) -> usize {
        self.inner.shared.spec.capacity as usize
    }

    /// What became of every message.
    pub fn accounts(&self) -> Accounts {
        self.inner.shared.accounts()
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Receiver").field(&self.inner.shared).finish()
    }
}

/// The receiving side, for receivers and for actors, which book the end of a message themselves.
pub(crate) struct Inbox<T> {
    pub(crate) shared: Arc<Shared<T>>,
    batch: VecDeque<Envelope<T>>,
    /// When the last message was taken.
    pub(crate) now: u64,
    /// Whether the last message has been taken.
    pub(crate) is_done: bool,
    turn: Turn,
    /// A waker of the receiving task's, to be parked with.
    waker: Option<Waker>,
}

// Nothing in it is ever pinned.
impl<T> Unpin for Inbox<T> {}

impl<T> Inbox<T> {
    pub(crate) fn new(shared: Arc<Shared<T>>) -> Self {
        Self {
            shared,
            batch: VecDeque::new(),
            now: 0,
            is_done: false,
            turn: Turn::default(),
            waker: None,
        }
    }

    /// [`poll_ready`](Self::poll_ready), then [`take`](Self::take).
    pub(crate) fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<Option<Envelope<T>>> {
        self.poll_ready(cx).map(|_| self.take())
    }

    /// Whether there is a message to [`take`](Self::take), which has not expired, or there will be none.
    #[inline]
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        loop {
            if !self.batch.is_empty() {
                if self.turn.is_due() && self.is_tired() {
                    return self.give_way(cx);
                }
                if self.is_ready() {
                    return Poll::Ready(true);
                }
            }
            if self.shared.is_cut() {
                self.drop_rest();
                return Poll::Ready(false);
            }
            if !self.waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
                self.waker = Some(cx.waker().clone());
            }
            match self.shared.swap(&mut self.batch, &mut self.waker) {
                Ok(()) => {}
                Err(Phase::Open) => {
                    self.turn.begin();
                    return Poll::Pending;
                }
                Err(_) => {
                    self.shared.core.changed();
                    return Poll::Ready(false);
                }
            }
        }
    }

    /// Books that the message taken last is whoever received it's.
    #[inline(always)]
    fn hand_out(&self) {
        self.shared.progress().end(1, End::Ok);
        self.shared.make_room();
    }

    fn poll_take_many(
        &mut self,
        cx: &mut Context<'_>,
        messages: &mut Vec<T>,
        limit: usize,
    ) -> Poll<usize> {
        let limit = limit.min(self.shared.core.hot.batch() as usize);
        loop {
            match self.poll_ready(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(false) => return Poll::Ready(0),
                Poll::Ready(true) => {}
            }
            let taken = self.take_many(messages, limit);
            if taken > 0 {
                return Poll::Ready(taken);
            }
        }
    }

    /// Moves up to `limit` messages of the batch that have not expired to `messages`.
    fn take_many(&mut self, messages: &mut Vec<T>, limit: usize) -> usize {
        let shared = &*self.shared;
        let now = shared.core.clock.now();
        let count = limit.min(self.batch.len());
        let (mut bytes, mut expired) = (0, 0);
        let (front, back) = self.batch.as_slices();
        let metrics = shared.core.hot.metrics();
        let (mut brief, mut brief_ms) = (0, 0);
        for envelope in front.iter().chain(back).take(count) {
            bytes += u64::from(envelope.known.bytes);
            let waited = now.saturating_sub(envelope.known.enqueued());
            if envelope.known.deadline <= now {
                expired += 1;
            } else if waited <= BOUNDS_MS[0] {
                brief += 1;
                brief_ms += waited;
            } else if metrics {
                shared.stats.waited(waited);
            }
        }
        shared.progress().take(count as u64, bytes);
        shared.progress().end((count - expired) as u64, End::Ok);
        if metrics {
            shared.stats.waited_briefly(brief, brief_ms);
        }
        self.now = now;
        self.turn.take(count as u32);
        messages.reserve(count - expired);
        if expired == 0 {
            messages.extend(self.batch.drain(..count).map(|envelope| envelope.message));
            shared.make_room();
            return count;
        }
        let mut late = VecDeque::with_capacity(expired);
        for envelope in self.batch.drain(..count) {
            if envelope.known.deadline <= now {
                late.push_back(envelope);
            } else {
                messages.push(envelope.message);
            }
        }
        shared.book_unhandled(expired as u64, End::Expired);
        shared.make_room();
        for envelope in late {
            shared.discard(envelope.message, ErrorKind::Timeout);
        }
        count - expired
    }

    pub(crate) fn try_take(&mut self) -> Result<Envelope<T>, TryRecvError> {
        loop {
            if let Some(envelope) = self.next() {
                return Ok(envelope);
            }
            if self.shared.is_cut() {
                self.drop_rest();
                return Err(TryRecvError::Closed);
            }
            match self.shared.swap(&mut self.batch, &mut None) {
                Ok(()) => {}
                Err(Phase::Open) => return Err(TryRecvError::Empty),
                Err(_) => {
                    self.shared.core.changed();
                    return Err(TryRecvError::Closed);
                }
            }
        }
    }

    /// The first message queued, or `None` if it had expired and was dropped.
    #[cfg(feature = "test-kit")]
    pub(crate) fn try_take_one(&mut self) -> Result<Option<Envelope<T>>, TryRecvError> {
        if self.batch.is_empty() {
            if let Err(phase) = self.shared.swap(&mut self.batch, &mut None) {
                return Err(match phase {
                    Phase::Open => TryRecvError::Empty,
                    _ => TryRecvError::Closed,
                });
            }
        }
        if self.shared.is_cut() {
            return Err(TryRecvError::Closed);
        }
        match self.drop_expired() {
            true => Ok(None),
            false => self.take().map(Some).ok_or(TryRecvError::Closed),
        }
    }

    /// The next message of the batch that has not expired.
    #[inline(always)]
    fn next(&mut self) -> Option<Envelope<T>> {
        match self.is_ready() {
            true => self.take(),
            false => None,
        }
    }

    /// Whether the batch begins with a message that has not expired; what has is dropped.
    #[inline(always)]
    fn is_ready(&mut self) -> bool {
        while !self.shared.is_cut() {
            let Some(first) = self.batch.front() else {
                return false;
            };
            self.now = self.shared.core.clock.now();
            if first.known.deadline > self.now {
                return true;
            }
            self.drop_expired();
        }
        false
    }

    /// Drops the first message of the batch if it has expired.
    #[cold]
    fn drop_expired(&mut self) -> bool {
        self.now = self.shared.core.clock.now();
        match self.batch.front() {
            Some(first) if first.known.deadline <= self.now => {}
            _ => return false,
        }
        if let Some(envelope) = self.pop() {
            self.end_unhandled(envelope, End::Expired, ErrorKind::Timeout);
        }
        true
    }

    /// The first message of the batch.
    #[inline(always)]
    pub(crate) fn first(&self) -> Option<&T> {
        self.batch.front().map(|envelope| &envelope.message)
    }

    /// The first message of the batch, if that [is ready](Self::poll_ready). It is in hand until its end is booked, but has
    /// left the bounds: whoever waits for room is to be told.
    #[inline(always)]
    pub(crate) fn take(&mut self) -> Option<Envelope<T>> {
        if self.shared.core.hot.metrics() {
            let waited = self
                .now
                .saturating_sub(self.batch.front()?.known.enqueued());
            self.shared.stats.waited(waited);
        }
        self.pop()
    }

    /// Booked first, so that the message is moved once, to where it is used.
    #[inline(always)]
    fn pop(&mut self) -> Option<Envelope<T>> {
        let bytes = self.batch.front()?.known.bytes;
        self.shared.progress().take(1, u64::from(bytes));
        self.turn.take(1);
        self.batch.pop_front()
    }

    /// Books and drops a message that was taken and is not to be handled.
    #[cold]
    pub(crate) fn end_unhandled(&self, envelope: Envelope<T>, end: End, kind: ErrorKind) {
        self.shared.book_unhandled(1, end);
        self.shared.make_room();
        self.shared.discard(envelope.message, kind);
    }

    #[cold]
    fn is_tired(&mut self) -> bool {
        let core = &self.shared.core;
        let clock = (!core.clock.is_stopped()).then_some(nanos as fn() -> Nanos);
        self.turn.is_over(core.hot.yield_every(), clock)
    }

    /// Others have their turn.
    #[cold]
    fn give_way(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.turn.begin();
        self.shared.progress().yielded();
        // A task that wakes itself goes behind those of its own worker only, which looks at its timers, at the network and
        // at what other threads queued once in 61 polls; this waits for that look. On the first poll it is pending always.
        let _ = pin!(tokio::task::yield_now()).poll(cx);
        Poll::Pending
    }

    /// Another task had its turn.
    pub(crate) fn rested(&mut self) {
        self.turn.begin();
    }

    /// Takes out of everything queued what `pick` wants, and drops it as `end`.
    pub(crate) fn reject(&mut self, end: End, kind: ErrorKind, pick: impl Fn(&T) -> bool) {
        self.shared.gather(&mut self.batch);
        if !self.batch.iter().any(|envelope| pick(&envelope.message)) {
            return;
        }
        let (picked, kept) = std::mem::take(&mut self.batch)
            .into_iter()
            .partition::<VecDeque<_>, _>(|envelope| pick(&envelope.message));
        self.batch = kept;
        self.end_all(picked, end, kind);
    }

    /// Drops everything queued.
    pub(crate) fn drop_rest(&mut self) {
        self.shared.gather(&mut self.batch);
        let rest = std::mem::take(&mut self.batch);
        let kind = self.shared.why_ended();
        self.end_all(rest, End::Dropped, kind);
        self.shared.core.changed();
    }

    fn end_all(&self, envelopes: VecDeque<Envelope<T>>, end: End, kind: ErrorKind) {
        let bytes = envelopes.iter().map(|e| u64::from(e.known.bytes)).sum();
        let count = envelopes.len() as u64;
        if count == 0 {
            return;
        }
        self.shared.progress().take(count, bytes);
        self.shared.book_unhandled(count, end);
        self.shared.announce_room();
        for envelope in envelopes {
            self.shared.discard(envelope.message, kind);
        }
    }
}

impl<T> Inbox<T> {
    /// Takes nothing more in and drops everything queued.
    pub(crate) fn retire(&mut self) {
        self.shared.retire();
        self.drop_rest();
    }
}

impl<T> Drop for Inbox<T> {
    fn drop(&mut self) {
        self.retire();
    }
}
