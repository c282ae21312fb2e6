//! `Offering`: a data event on its way to a topic with queued readers, each of which gets a copy of its own.

use std::convert::Infallible;
use std::future::{poll_fn, Future};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::pin::pin;
use std::sync::PoisonError;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{sleep_until, Instant};

use crate::account::Lost;
use crate::channel::{drop_each, refuse_unless_open, wanted_by, Channel, PublishResult, State};
use crate::interest::Class;
use crate::queue::{Buffer, Node, Offer};
use crate::readers::{Reader, Readers, Source};
use crate::sync::MutexGuard;
use crate::topic::Published;

/// How often an event on its way looks for readers that have come meanwhile.
const LOOKS_MAX: usize = 8;
/// What a deadline beyond the clock's range is cut to.
const FOR_EVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// A copy of the event for one queued reader.
pub(crate) struct Copied<E> {
    /// Its reader's serial number.
    reader: u64,
    made: bool,
    key_of: Option<fn(&E) -> u64>,
    /// What the reader's key function made of it; 0 without one, `None` if it panicked.
    key: Option<u64>,
    /// `None` if making it panicked; afterwards, what the reader's buffer gave back.
    copy: Option<E>,
}

/// Copies are made outside the lock for the readers that were there at the last look. If others are there when the lock
/// is taken, they get theirs, but only so often: then those that are new lose the event as if they had no room.
pub(crate) struct Offering<'a, E> {
    channel: &'a Channel<E>,
    /// Gone once it is published or given back.
    event: Option<E>,
    class: Option<Class>,
    copies: Vec<Copied<E>>,
    /// The version of the set of queued readers that `copies` are for; 0 before the first look.
    version: u64,
    looks: usize,
    ticket: Option<u64>,
}

impl<'a, E: Clone> Offering<'a, E> {
    pub(crate) fn new(channel: &'a Channel<E>, event: E, class: Option<Class>) -> Self {
        Self {
            channel,
            event: Some(event),
            class,
            copies: Vec::new(),
            version: 0,
            looks: 0,
            ticket: None,
        }
    }

    /// Publishes at once. `Block` readers without room lose the event.
    pub(crate) fn publish(mut self) -> PublishResult<E> {
        match self.attempt(None, |_, _| None::<Infallible>) {
            Ok(result) => result,
            Err((_, never)) => match never {},
        }
    }

    /// Publishes once no `Block` reader is left to wait for after `waited`. `Err` is when that may next change by
    /// itself; the waker is left for the case that it changes earlier.
    pub(crate) fn poll_publish(
        &mut self,
        cx: &Context<'_>,
        waited: Duration,
    ) -> Result<PublishResult<E>, Duration> {
        let mut waker = None;
        loop {
            let blocked = |readers: &Readers<E>, class| readers.blocked(class, waited);
            match (self.attempt(Some(waited), blocked), waker.take()) {
                (Ok(result), _) => return Ok(result),
                (Err((state, _)), None) => {
                    drop(state);
                    waker = Some(cx.waker().clone());
                }
                (Err((mut state, until)), Some(waker)) => {
                    let (replaced, next) = state.waiters.wait(&mut self.ticket, waker);
                    drop(state);
                    drop(replaced);
                    self.channel.wake_waiter(next);
                    return Err(until);
                }
            }
        }
    }

    /// Publishes as [`poll_publish`](Self::poll_publish) allows, on tokio's clock.
    pub(crate) async fn publish_when_allowed(mut self) -> PublishResult<E> {
        let first = poll_fn(|cx| Poll::Ready(self.poll_publish(cx, Duration::ZERO)));
        let mut until = match first.await {
            Ok(result) => return result,
            Err(until) => until,
        };
        let began = Instant::now();
        let at = |until| began.checked_add(until).unwrap_or(began + FOR_EVER);
        let mut alarm = pin!(sleep_until(at(until)));
        poll_fn(|cx| loop {
            match self.poll_publish(cx, began.elapsed()) {
                Ok(result) => return Poll::Ready(result),
                Err(next) if next != until => {
                    until = next;
                    alarm.as_mut().reset(at(until));
                }
                Err(_) => {}
            }
            if alarm.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        })
        .await
    }

    fn attempt<B>(
        &mut self,
        waited: Option<Duration>,
        blocked: impl Fn(&Readers<E>, Option<Class>) -> Option<B>,
    ) -> Result<PublishResult<E>, (MutexGuard<'a, State<E>>, B)> {
        let channel = self.channel;
        loop {
            let stamp_ms = channel.stamp_ms();
            let mut state = channel.lock();
            let Some(event) = self.event.take() else {
                // Polled again after it was done.
                return Ok(Ok(Published { seq: 0, readers: 0 }));
            };
            if let Err(refusal) = refuse_unless_open(state.phase) {
                drop(state);
                return Ok(Err((event, refusal)));
            }
            if self.class.is_none() && state.counts.is_some() {
                drop(state);
                self.class = channel.class_of(self.event.insert(event));
                continue;
            }
            if let Some(until) = blocked(&state.readers, self.class) {
                self.event = Some(event);
                return Err((state, until));
            }
            if self.version != state.readers.queued_version
                && !state.readers.queued.is_empty()
                && self.looks < LOOKS_MAX
            {
                self.looks += 1;
                let outdated = self.plan(&mut state.readers);
                drop(state);
                drop(outdated);
                self.copy(&event);
                self.event = Some(event);
                continue;
            }
            let seq = state.ring.next();
            self.distribute(&mut state.readers, seq, stamp_ms, waited.is_some());
            let displaced = state.push(event, stamp_ms, self.class);
            let published = Published {
                seq,
                readers: state.readers.connected,
            };
            channel.finish(state, wanted_by(self.class));
            drop(displaced);
            return Ok(Ok(published));
        }
    }

    /// Notes for whom copies are needed and keeps those made already; returns those of readers that have left.
    fn plan(&mut self, readers: &mut Readers<E>) -> Vec<Copied<E>> {
        if self.copies.capacity() == 0 {
            let staging = self.channel.staging.lock();
            self.copies = std::mem::take(&mut *staging.unwrap_or_else(PoisonError::into_inner));
        }
        self.version = readers.queued_version;
        let mut outdated = Vec::new();
        let mut at = 0;
        for index in 0..readers.queued.len() {
            let key = readers.queued[index];
            let Some(reader) = readers.reader(key) else {
                continue;
            };
            if !reader.wants(self.class) {
                continue;
            }
            // Both are in the order in which the readers came.
            while self
                .copies
                .get(at)
                .is_some_and(|copied| copied.reader < reader.serial)
            {
                outdated.push(self.copies.remove(at));
            }
            if self
                .copies
                .get(at)
                .map_or(true, |copied| copied.reader > reader.serial)
            {
                let key_of = match &reader.source {
                    Source::Queued(queued) => queued.key_of,
                    Source::Cursor(_) => None,
                };
                let copied = Copied {
                    reader: reader.serial,
                    made: false,
                    key_of,
                    key: None,
                    copy: None,
                };
                self.copies.insert(at, copied);
            }
            at += 1;
        }
        outdated.extend(self.copies.drain(at..));
        outdated
    }

    /// Makes the copies. A panic costs the reader the event, and nobody else anything.
    fn copy(&mut self, event: &E) {
        for copied in self.copies.iter_mut().filter(|copied| !copied.made) {
            copied.made = true;
            let key = || copied.key_of.map_or(0, |key_of| key_of(event));
            copied.key = catch_unwind(AssertUnwindSafe(key)).ok();
            copied.copy = catch_unwind(AssertUnwindSafe(|| event.clone())).ok();
        }
    }

    /// Gives every queued reader its copy and books what became of it.
    fn distribute(&mut self, readers: &mut Readers<E>, seq: u64, stamp_ms: i64, waited: bool) {
        let mut copies = self.copies.iter_mut().peekable();
        for at in 0..readers.queued.len() {
            let Some(reader) = readers.reader(readers.queued[at]) else {
                continue;
            };
            if !reader.wants(self.class) {
                reader.settle_otherwise(0, 1, 0);
                continue;
            }
            while copies
                .peek()
                .is_some_and(|copied| copied.reader < reader.serial)
            {
                copies.next();
            }
            let copied = copies.next_if(|copied| copied.reader == reader.serial);
            give(reader, copied, seq, stamp_ms, waited);
        }
    }
}

fn give<E>(
    reader: &mut Reader<E>,
    copied: Option<&mut Copied<E>>,
    seq: u64,
    stamp_ms: i64,
    waited: bool,
) {
    let Source::Queued(queued) = &mut reader.source else {
        return;
    };
    let buffer = &mut queued.buffer;
    let is_fifo = matches!(buffer, Buffer::Fifo(_));
    let no_room = |lost: &mut Lost| {
        *match (is_fifo, waited) {
            (true, true) => &mut lost.block_deadline,
            (true, false) => &mut lost.block_full,
            (false, _) => &mut lost.conflate_full,
        } += 1;
    };
    let Some(copied) = copied else {
        buffer.miss(seq);
        return reader.note(|_, lost| no_room(lost));
    };
    let (Some(key), Some(event)) = (copied.key, copied.copy.take()) else {
        let has_room = buffer.has_room(copied.key);
        buffer.miss(seq);
        return reader.note(|_, lost| match has_room {
            true => lost.panicked += 1,
            false => no_room(lost),
        });
    };
    match buffer.offer(seq, key, Node { stamp_ms, event }) {
        Offer::Stored => {}
        Offer::Conflated(old) => {
            copied.copy = Some(old.event);
            reader.note(|conflated, _| *conflated += 1);
        }
        Offer::Full(node) => {
            copied.copy = Some(node.event);
            reader.note(|_, lost| no_room(lost));
        }
    }
}

impl<E> Drop for Offering<'_, E> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            let (left, next) = self.channel.lock().waiters.leave(ticket);
            drop(left);
            self.channel.wake_waiter(next);
        }
        let mut room = std::mem::take(&mut self.copies);
        if room.capacity() > 0 {
            drop_each(room.drain(..));
            let staging = self.channel.staging.lock();
            *staging.unwrap_or_else(PoisonError::into_inner) = room;
        }
    }
}
