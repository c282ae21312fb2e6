//! `Receiver`: one reader's end of a channel.
//!
//! A receive claims events, hands them out, and settles what became of them. A cursor reader without interest claims
//! data events without the topic's lock as long as they lie in the block it holds; everything else is claimed under
//! the lock. See `readers::Progress` for why both kinds leave exact accounts.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::account::{Account, TopicState};
use crate::channel::{Channel, State};
use crate::interest::{Class, Interest, Selection};
use crate::queue::{Buffer, ControlEntry, Entry, Fifo, Keyed, Node};
use crate::readers::{
    ClassCounts, Progress, Queued, Reader, ReaderSpec, Source, Tally, CLASSES_PER_LOCK,
};
use crate::ring::{Held, View};
use crate::subscriber::{Lane, Overflow, Policy, RecvError, Start, SubscribeError};
use crate::sync::{self, fence, AtomicU64, MutexGuard, Ordering, Padded};

/// Events a filter may refuse per poll before the task lets others run.
const FILTERED_PER_POLL: usize = 128;
/// Claims of which a filter may refuse everything before a batch lets other tasks run.
const CLAIMS_PER_POLL: usize = 64;
/// Events claimed at a time by a reader with a filter, which may refuse many.
const CLAIMED_FOR_FILTER: usize = 32;

/// An event as it is handed out.
pub(crate) struct Item<'a, E> {
    pub(crate) lane: Lane,
    pub(crate) seq: u64,
    pub(crate) conflated: u64,
    /// The last event of a topic, which no filter sees.
    pub(crate) is_last: bool,
    pub(crate) stamp_ms: i64,
    pub(crate) event: Event<'a, E>,
}

/// Shared with other readers, or this reader's own copy.
pub(crate) enum Event<'a, E> {
    Shared(&'a E),
    Own(E),
}

impl<E> Event<'_, E> {
    pub(crate) fn get(&self) -> &E {
        match self {
            Self::Shared(event) => event,
            Self::Own(event) => event,
        }
    }
}

impl<E: Clone> Event<'_, E> {
    #[inline]
    pub(crate) fn into_owned(self) -> E {
        match self {
            Self::Shared(event) => event.clone(),
            Self::Own(event) => event,
        }
    }
}

/// How a reader gets its data events.
enum Feed<E> {
    Cursor {
        view: View<E>,
        progress: Arc<Padded<Progress>>,
        capacity: u64,
    },
    /// Retained events `next..end` first, by blocks; then the reader's own buffer.
    Queued {
        history: VecDeque<View<E>>,
        next: u64,
        end: u64,
    },
}

/// A claimed event that does not lie in a block.
enum Taken<E> {
    Control(ControlEntry<E>),
    Last(u64, sync::Arc<Node<E>>),
    Queued(Entry<E>),
}

/// What a claim came to.
enum Claim {
    /// These events of the view.
    Ring(u64, u64),
    /// These events of the history.
    History(u64, u64),
    /// What lies in `taken`.
    Taken,
    /// The same, and it is settled already: nobody can refuse it.
    Settled,
    /// Nothing so far: the lock has been held long enough.
    Again,
    /// Nothing; the reader is not parked.
    Empty,
    /// Nothing; it is.
    Parked,
}

pub(crate) struct Receiver<E> {
    pub(crate) channel: Arc<Channel<E>>,
    key: usize,
    feed: Feed<E>,
    interest: Option<Interest>,
    /// Whether `take` may refuse events.
    filters: bool,
    /// Value of `urgent` up to which everything but data has been read.
    urgent_seen: u64,
    /// Whether the topic took no more events when it was last locked.
    ended: bool,
    /// Empty between calls; kept for its allocation.
    taken: VecDeque<Taken<E>>,
    /// Publishers to be woken once what is taken is handed out.
    waiters: Vec<Waker>,
    /// A block it no longer reads, to be dropped outside the lock.
    released: Option<Held<E>>,
}

/// Everything a reader is built from.
pub(crate) struct Connect<E> {
    pub(crate) name: Arc<str>,
    pub(crate) overflow: Overflow<E>,
    pub(crate) start: Start,
    pub(crate) interest: Option<Selection<E>>,
    pub(crate) filters: bool,
    pub(crate) unlimited: bool,
}

impl<E> Receiver<E> {
    pub(crate) fn connect(
        channel: &Arc<Channel<E>>,
        spec: Connect<E>,
    ) -> Result<Self, SubscribeError> {
        let topic = || Arc::clone(&channel.fixed.name);
        let capacity = channel.fixed.capacity;
        let policy = spec.overflow.policy();
        let queued = match spec.overflow {
            Overflow::DropOldest | Overflow::Disconnect => None,
            Overflow::Block { deadline } => {
                Some((Buffer::Fifo(Fifo::new(capacity)), deadline, None))
            }
            Overflow::Conflate { key, max_keys } => Some((
                Buffer::Keyed(Keyed::new(max_keys)),
                Duration::ZERO,
                Some(key),
            )),
        };
        let mut guard = match spec.interest {
            Some((_, classify)) => Self::lock_classified(channel, classify),
            None => channel.lock(),
        };
        let state = &mut *guard;
        if state.phase == TopicState::Closed {
            return Err(SubscribeError::Closed { topic: topic() });
        }
        let limit = channel.fixed.max_readers;
        if !spec.unlimited && state.readers.limited >= limit {
            return Err(SubscribeError::TooMany {
                topic: topic(),
                limit,
            });
        }
        let (tail, next) = (state.ring.tail(), state.ring.next());
        let start = match spec.start {
            Start::Live => next,
            Start::Retained(n) => tail.max(next.saturating_sub(n as u64)),
        };
        let interest = spec.interest.map(|(interest, _)| interest);
        let (start_matching, retained) = match (interest, &state.counts) {
            (Some(interest), Some(counts)) => {
                let retained = counts.matching(start, next, interest);
                (counts.matching_ever(interest) - retained, retained)
            }
            _ => (0, next - start),
        };
        if policy == Policy::Disconnect {
            state.guarded = state.guarded.min(start);
        }
        let (feed, source) = match queued {
            None => {
                let progress = Arc::new(Padded(Progress {
                    position: AtomicU64::new(start),
                    claim: AtomicU64::new(start),
                }));
                let feed = Feed::Cursor {
                    view: state.ring.view(),
                    progress: Arc::clone(&progress),
                    capacity: capacity as u64,
                };
                (feed, Source::Cursor(progress))
            }
            Some((buffer, deadline, key)) => {
                let feed = Feed::Queued {
                    history: state.ring.views(start),
                    next: start,
                    end: next,
                };
                let queued = Queued {
                    buffer,
                    history: retained,
                    deadline,
                    key_of: key,
                };
                (feed, Source::Queued(Box::new(queued)))
            }
        };
        let unwanted_history = match &source {
            Source::Queued(queued) => next - start - queued.history,
            Source::Cursor(_) => 0,
        };
        let reader = ReaderSpec {
            name: spec.name,
            policy,
            interest,
            unlimited: spec.unlimited,
        };
        let key = state.readers.insert(reader, source, start, start_matching);
        if let Some(reader) = state.readers.reader(key) {
            reader.settle_otherwise(0, unwanted_history, 0);
        }
        let readers = state.readers.connected;
        state.trash.reserve(readers);
        state.count_cursors();
        drop(guard);
        Ok(Self {
            channel: Arc::clone(channel),
            key,
            feed,
            interest: interest.filter(|interest| *interest != Interest::ALL),
            filters: spec.filters,
            // A sealed topic has its last event for the reader.
            urgent_seen: u64::MAX,
            ended: false,
            taken: VecDeque::new(),
            waiters: Vec::new(),
            released: None,
        })
    }

    /// Locks the topic once the class of every event in its ring is known. That takes the user's code, and so a look
    /// without the lock at the events from before the first interest.
    fn lock_classified(
        channel: &Arc<Channel<E>>,
        classify: fn(&E) -> Class,
    ) -> MutexGuard<'_, State<E>> {
        // From here on publishers look up classes.
        channel.classify.get_or_init(|| classify);
        let capacity = channel.fixed.capacity;
        let mut guard = channel.lock();
        let state = &mut *guard;
        let (tail, next) = (state.ring.tail(), state.ring.next());
        let counts = state
            .counts
            .get_or_insert_with(|| Box::new(ClassCounts::new(next, capacity)));
        let Some((first, end)) = counts.unknown(tail) else {
            return guard;
        };
        let views = state.ring.views(first);
        drop(guard);
        let mut classes = Vec::new();
        for view in &views {
            let from = first + classes.len() as u64;
            view.for_each(from, end, |_, _, event| {
                classes.push(classify(event));
                true
            });
        }
        let mut guard = channel.lock();
        let state = &mut *guard;
        let tail = state.ring.tail();
        if let Some(counts) = &mut state.counts {
            counts.resolve(first, &classes, tail);
        }
        guard
    }

    pub(crate) fn account(&self) -> Account {
        let mut state = self.channel.lock();
        let (readers, extents) = state.split();
        readers.account(self.key, extents)
    }

    /// Claims data events without the lock: `None` if that cannot be done, `Empty` if there is nothing at all.
    #[inline(always)]
    fn claim_readable(&mut self, max: u64) -> Option<Claim> {
        let Feed::Cursor {
            view,
            progress,
            capacity,
        } = &mut self.feed
        else {
            return None;
        };
        // Pairs with the store in `Channel::raise_urgent`.
        let urgent = self.channel.urgent.0.load(Ordering::Acquire);
        if self.interest.is_some() || urgent != self.urgent_seen {
            return None;
        }
        let position = progress.0.position.load(Ordering::Relaxed);
        let next = view.refresh();
        if next == position {
            return if self.ended { None } else { Some(Claim::Empty) };
        }
        if next - position > *capacity {
            return None;
        }
        let to = view
            .readable_from(position)?
            .min(position.saturating_add(max));
        progress.0.claim.store(to, Ordering::Release);
        // Either the ring sees the claim, or this sees that the ring has passed it.
        fence(Ordering::SeqCst);
        if view.refresh() - position > *capacity {
            return None;
        }
        // The same for a reader that is cut off by the control lane.
        if self.channel.urgent.0.load(Ordering::Relaxed) != urgent {
            return None;
        }
        Some(Claim::Ring(position, to))
    }

    /// Claims up to `max` events; parks if there are none and a waker is given. With `may_fail` unset, an error is
    /// left for the next call and shows as `Empty`.
    fn claim(
        &mut self,
        max: usize,
        waker: Option<&Waker>,
        may_fail: bool,
    ) -> Result<Claim, RecvError> {
        match self.claim_readable(max as u64) {
            Some(Claim::Empty) if waker.is_some() => {}
            Some(claim) => return Ok(claim),
            None => {}
        }
        let mut own_waker = None;
        // Dropped behind the lock, with the block that was exchanged for another.
        let mut leftovers = Vec::new();
        let mut released = None;
        let channel = Arc::clone(&self.channel);
        loop {
            let mut guard = channel.lock();
            let state = &mut *guard;
            let claim = self.claim_locked(state, max, may_fail);
            if state.has_leftovers() {
                leftovers.push(state.leftovers());
            }
            released = self.released.take().or(released);
            match claim {
                Ok(Claim::Again) => continue,
                Ok(Claim::Empty) => {}
                claim => return claim,
            }
            let Some(waker) = waker else {
                return Ok(Claim::Empty);
            };
            if state.readers.repark(self.key, waker) {
                return Ok(Claim::Parked);
            }
            // Cloning a waker is the executor's code: outside the lock, and then everything again.
            if let Some(waker) = own_waker.take() {
                let replaced = state.readers.park(self.key, waker);
                drop(guard);
                drop(replaced);
                return Ok(Claim::Parked);
            }
            drop(guard);
            own_waker = Some(waker.clone());
        }
    }

    /// Control lane, then the last event, then data up to a gap.
    fn claim_locked(
        &mut self,
        state: &mut State<E>,
        max: usize,
        may_fail: bool,
    ) -> Result<Claim, RecvError> {
        let urgent = self.channel.urgent.0.load(Ordering::Relaxed);
        let (phase, last_seq) = (state.phase, state.control_next);
        let last = state.last.clone();
        let (readers, extents) = state.split();
        let Some(reader) = readers.reader(self.key) else {
            return Err(RecvError::Closed);
        };
        // If there is one, it came too late.
        reader.give_back();
        let fail = |error| match may_fail {
            true => Err(error),
            false => Ok(Claim::Empty),
        };
        if let Some(gap) = reader.cut {
            return fail(RecvError::Disconnected(gap));
        }
        if reader.control.missed.is_some() && !may_fail {
            return Ok(Claim::Empty);
        }
        if let Some(gap) = Reader::<E>::gap(Lane::Control, &mut reader.control.missed) {
            return Err(RecvError::Lagged(gap));
        }
        // One at a time: nothing has to be put back behind newer ones.
        if let Some(entry) = reader.control.claim() {
            self.taken.push_back(Taken::Control(entry));
            return Ok(Claim::Taken);
        }
        if let (Some(last), false) = (last, reader.last_settled) {
            self.taken.push_back(Taken::Last(last_seq, last));
            return Ok(Claim::Taken);
        }
        self.urgent_seen = urgent;
        self.ended = phase != TopicState::Open;
        match &mut self.feed {
            Feed::Cursor {
                view,
                progress,
                capacity: _,
            } => {
                let mut position = progress.0.position.load(Ordering::Relaxed);
                if position < extents.tail {
                    if !may_fail && reader.has_missed(extents) {
                        return Ok(Claim::Empty);
                    }
                    match reader.observe_gap(extents) {
                        Ok(None) => position = extents.tail,
                        Ok(Some(gap)) => return Err(RecvError::Lagged(gap)),
                        Err(remains) => {
                            let gap = reader.cut;
                            readers.connected -= 1;
                            readers.remains.push(remains);
                            return Err(gap.map_or(RecvError::Closed, RecvError::Disconnected));
                        }
                    }
                }
                let next = extents.next;
                let (ring, counts) = (&state.ring, &state.counts);
                let wanted = |seq: u64| match (self.interest, counts) {
                    (Some(interest), Some(counts)) => counts
                        .class_of(seq)
                        .is_some_and(|class| interest.contains(class)),
                    _ => true,
                };
                let Some(reader) = state.readers.reader(self.key) else {
                    return Err(RecvError::Closed);
                };
                if self.interest.is_some() {
                    let unwanted = (position..next.min(position + CLASSES_PER_LOCK))
                        .take_while(|seq| !wanted(*seq))
                        .count() as u64;
                    reader.skip(unwanted);
                    position += unwanted;
                    if unwanted == CLASSES_PER_LOCK {
                        return Ok(Claim::Again);
                    }
                }
                if position < next {
                    view.refresh();
                    if view.readable_from(position).is_none() {
                        self.released = ring.pin(view, position);
                    }
                    let mut to = view.readable_from(position).unwrap_or(position);
                    to = to.min(position.saturating_add(max as u64));
                    if self.interest.is_some() {
                        to =
                            position + (position..to).take_while(|seq| wanted(*seq)).count() as u64;
                    }
                    progress.0.claim.store(to, Ordering::Release);
                    return Ok(Claim::Ring(position, to));
                }
            }
            Feed::Queued { history, next, end } => {
                let Source::Queued(queued) = &mut reader.source else {
                    return Err(RecvError::Closed);
                };
                let buffer = &mut queued.buffer;
                if next < end {
                    let front = history.front().and_then(|v| v.readable_from(*next));
                    let to = front.unwrap_or(*end).min(next.saturating_add(max as u64));
                    return Ok(Claim::History(*next, to));
                }
                if buffer.missed().is_some() && !may_fail {
                    return Ok(Claim::Empty);
                }
                if let Some(gap) = Reader::<E>::gap(Lane::Data, buffer.missed()) {
                    return Err(RecvError::Lagged(gap));
                }
                while self.taken.len() < max {
                    let is_first = self.taken.is_empty();
                    let Some(entry) = buffer.claim(is_first) else {
                        break;
                    };
                    self.taken.push_back(Taken::Queued(entry));
                }
                if !self.taken.is_empty() && self.filters {
                    return Ok(Claim::Taken);
                }
                if !self.taken.is_empty() {
                    let events = self.taken.len();
                    let was_full = queued.is_full();
                    queued.buffer.settle(events);
                    reader.settle_otherwise(events as u64, 0, 0);
                    if was_full {
                        self.waiters = state.waiters.notify_many(events);
                    }
                    return Ok(Claim::Settled);
                }
            }
        }
        match phase {
            TopicState::Open => Ok(Claim::Empty),
            TopicState::Sealed | TopicState::Closed => fail(RecvError::Closed),
        }
    }

    /// Shows `take` what was claimed until it has accepted `limit` of it; returns how many it accepted.
    fn hand_out(
        &mut self,
        claim: &Claim,
        limit: usize,
        take: &mut impl FnMut(Item<'_, E>) -> bool,
    ) -> usize {
        let channel = &*self.channel;
        let mut accepted = 0;
        match (&mut self.feed, claim) {
            (Feed::Cursor { view, progress, .. }, Claim::Ring(from, to)) => {
                let mut settling = RingSettling::new(channel, self.key, progress, *from, *to);
                view.for_each(*from, *to, |seq, stamp_ms, event| {
                    settling.begin();
                    let taken = take(Item::shared(Lane::Data, seq, stamp_ms, event));
                    settling.end(taken);
                    accepted += usize::from(taken);
                    accepted < limit
                });
            }
            (Feed::Queued { history, next, .. }, Claim::History(from, to)) => {
                let unwanted = |event: &E| match (self.interest, channel.classify.get()) {
                    (Some(interest), Some(classify)) => !interest.contains(classify(event)),
                    _ => false,
                };
                let mut settling = HistorySettling {
                    channel,
                    key: self.key,
                    next,
                    settled: 0,
                    accepted: 0,
                    panicked: 0,
                };
                let Some(view) = history.front() else {
                    return 0;
                };
                view.for_each(*from, *to, |seq, stamp_ms, event| {
                    *settling.next = seq + 1;
                    settling.settled += 1;
                    settling.panicked = 1;
                    if unwanted(event) {
                        // Booked when it subscribed.
                        settling.settled -= 1;
                        settling.panicked = 0;
                        return true;
                    }
                    let taken = take(Item::shared(Lane::Data, seq, stamp_ms, event));
                    settling.panicked = 0;
                    settling.accepted += u64::from(taken);
                    accepted += usize::from(taken);
                    accepted < limit
                });
                drop(settling);
                if view.readable_from(*next).is_none() {
                    history.pop_front();
                }
            }
            (_, Claim::Taken | Claim::Settled) => {
                let mut settling = TakenSettling {
                    channel,
                    key: self.key,
                    taken: &mut self.taken,
                    for_good: matches!(claim, Claim::Settled),
                    settled: Settled::default(),
                };
                accepted = settling.hand_out(limit, take);
                drop(settling);
                let waiters = self.waiters.drain(..);
                waiters.for_each(|waiter| channel.wake_waiter(Some(waiter)));
            }
            _ => {}
        }
        accepted
    }

    /// Hands out the event claimed from the ring.
    #[inline(always)]
    fn hand_out_readable<R>(
        &mut self,
        from: u64,
        take: impl FnOnce(Item<'_, E>) -> Option<R>,
    ) -> Option<R> {
        let Feed::Cursor { view, progress, .. } = &self.feed else {
            return None;
        };
        let mut settling = RingSettling::new(&self.channel, self.key, progress, from, from + 1);
        settling.begin();
        let taken = view.with(from, |stamp_ms, event| {
            take(Item::shared(Lane::Data, from, stamp_ms, event))
        });
        settling.end(taken.is_some());
        taken
    }

    /// The next event that `take` turns into something, or `None` when nothing waits.
    #[inline]
    pub(crate) fn try_next<R>(
        &mut self,
        mut take: impl FnMut(Item<'_, E>) -> Option<R>,
    ) -> Result<Option<R>, RecvError> {
        match self.claim_readable(1) {
            Some(Claim::Ring(from, _)) => {
                let taken = self.hand_out_readable(from, &mut take);
                if taken.is_some() {
                    return Ok(taken);
                }
            }
            Some(_) => return Ok(None),
            None => {}
        }
        self.try_next_slowly(take)
    }

    #[cold]
    fn try_next_slowly<R>(
        &mut self,
        mut take: impl FnMut(Item<'_, E>) -> Option<R>,
    ) -> Result<Option<R>, RecvError> {
        loop {
            let claim = self.claim(self.claim_size(1), None, true)?;
            if let Claim::Empty = claim {
                return Ok(None);
            }
            if let Some(item) = self.hand_out_one(&claim, &mut take) {
                return Ok(Some(item));
            }
        }
    }

    /// The next event that `take` turns into something.
    #[inline]
    pub(crate) fn poll_next<R>(
        &mut self,
        cx: &mut Context<'_>,
        mut take: impl FnMut(Item<'_, E>) -> Option<R>,
    ) -> Poll<Result<R, RecvError>> {
        if let Some(Claim::Ring(from, _)) = self.claim_readable(1) {
            if let Some(item) = self.hand_out_readable(from, &mut take) {
                return Poll::Ready(Ok(item));
            }
        }
        self.poll_next_slowly(cx, take)
    }

    #[cold]
    fn poll_next_slowly<R>(
        &mut self,
        cx: &mut Context<'_>,
        mut take: impl FnMut(Item<'_, E>) -> Option<R>,
    ) -> Poll<Result<R, RecvError>> {
        for _ in 0..FILTERED_PER_POLL / CLAIMED_FOR_FILTER {
            let claim = match self.claim(self.claim_size(1), Some(cx.waker()), true) {
                Ok(Claim::Parked) => return Poll::Pending,
                Ok(claim) => claim,
                Err(error) => return Poll::Ready(Err(error)),
            };
            if let Some(item) = self.hand_out_one(&claim, &mut take) {
                return Poll::Ready(Ok(item));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn hand_out_one<R>(
        &mut self,
        claim: &Claim,
        take: &mut impl FnMut(Item<'_, E>) -> Option<R>,
    ) -> Option<R> {
        let mut taken = None;
        self.hand_out(claim, 1, &mut |item| {
            taken = take(item);
            taken.is_some()
        });
        taken
    }

    /// How many events to claim for one that wants `max`: a filter may refuse some, and those left over are given
    /// back.
    fn claim_size(&self, max: usize) -> usize {
        match self.filters {
            true => max.max(CLAIMED_FOR_FILTER),
            false => max,
        }
    }

    /// Shows `take` up to `max` events; ready once it accepted at least one.
    pub(crate) fn poll_many(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
        mut take: impl FnMut(Item<'_, E>) -> bool,
    ) -> Poll<Result<usize, RecvError>> {
        let (mut accepted, mut refused) = (0, 0);
        while accepted < max && refused < CLAIMS_PER_POLL {
            let waker = (accepted == 0).then(|| cx.waker());
            let size = self.claim_size(max - accepted);
            let claim = match self.claim(size, waker, accepted == 0) {
                Ok(Claim::Parked) => return Poll::Pending,
                Ok(Claim::Empty) => break,
                Ok(claim) => claim,
                Err(error) => return Poll::Ready(Err(error)),
            };
            let more = self.hand_out(&claim, max - accepted, &mut take);
            accepted += more;
            refused += usize::from(more == 0);
        }
        if accepted > 0 || max == 0 {
            return Poll::Ready(Ok(accepted));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<E> Drop for Receiver<E> {
    fn drop(&mut self) {
        match &mut self.feed {
            Feed::Cursor { view, .. } => view.release(),
            Feed::Queued { history, .. } => history.clear(),
        }
        let mut guard = self.channel.lock();
        let (readers, extents) = guard.split();
        let reader = readers.remove(self.key, extents);
        // Room for those who waited for this reader.
        let waiters = match reader.as_ref().map(|reader| &reader.source) {
            Some(Source::Queued(queued)) if queued.is_full() => {
                guard.waiters.notify_many(usize::MAX)
            }
            _ => Vec::new(),
        };
        guard.count_cursors();
        let leftovers = guard.leftovers();
        drop(guard);
        for waiter in waiters {
            self.channel.wake_waiter(Some(waiter));
        }
        drop((reader, leftovers));
    }
}

impl<'a, E> Item<'a, E> {
    #[inline]
    fn shared(lane: Lane, seq: u64, stamp_ms: i64, event: &'a E) -> Self {
        Self {
            lane,
            seq,
            conflated: 0,
            is_last: false,
            stamp_ms,
            event: Event::Shared(event),
        }
    }
}

/// Books a claim on the ring when it goes out of scope, by return or by panic.
struct RingSettling<'a, E> {
    channel: &'a Channel<E>,
    key: usize,
    progress: &'a Progress,
    from: u64,
    claimed: u64,
    tally: Tally,
}

impl<'a, E> RingSettling<'a, E> {
    #[inline(always)]
    fn new(
        channel: &'a Channel<E>,
        key: usize,
        progress: &'a Padded<Progress>,
        from: u64,
        to: u64,
    ) -> Self {
        Self {
            channel,
            key,
            progress: &progress.0,
            from,
            claimed: to - from,
            tally: Tally::default(),
        }
    }

    /// The user's code may panic from here on, which costs the reader this event.
    #[inline(always)]
    fn begin(&mut self) {
        self.tally.settled += 1;
        self.tally.panicked = 1;
    }

    #[inline(always)]
    fn end(&mut self, accepted: bool) {
        self.tally.panicked = 0;
        self.tally.filtered += u64::from(!accepted);
    }
}

impl<E> Drop for RingSettling<'_, E> {
    #[inline]
    fn drop(&mut self) {
        let Tally {
            settled,
            filtered,
            panicked,
        } = self.tally;
        if settled == self.claimed && filtered == 0 && panicked == 0 {
            // All were delivered, which is what the account takes a higher position for.
            self.progress
                .position
                .store(self.from + settled, Ordering::Release);
        } else {
            self.settle_locked();
        }
    }
}

impl<E> RingSettling<'_, E> {
    #[cold]
    fn settle_locked(&self) {
        let mut state = self.channel.lock();
        if let Some(floor) = state.readers.settle(self.key, &self.tally) {
            state.guarded = state.guarded.min(floor);
        }
    }
}

/// The same for retained events of a queued reader.
struct HistorySettling<'a, E> {
    channel: &'a Channel<E>,
    key: usize,
    next: &'a mut u64,
    settled: u64,
    accepted: u64,
    panicked: u64,
}

impl<E> Drop for HistorySettling<'_, E> {
    fn drop(&mut self) {
        let mut state = self.channel.lock();
        let Some(reader) = state.readers.reader(self.key) else {
            return;
        };
        if let Source::Queued(queued) = &mut reader.source {
            queued.history -= self.settled;
        }
        let filtered = self.settled - self.accepted - self.panicked;
        reader.settle_otherwise(self.accepted, filtered, self.panicked);
    }
}

/// The same for events that were taken out of a buffer; those not handed out go back.
struct TakenSettling<'a, E> {
    channel: &'a Channel<E>,
    key: usize,
    taken: &'a mut VecDeque<Taken<E>>,
    for_good: bool,
    settled: Settled,
}

#[derive(Default)]
struct Settled {
    control: usize,
    queued: usize,
    last: bool,
    accepted: u64,
    filtered: u64,
    panicked: u64,
}

impl<E> TakenSettling<'_, E> {
    fn hand_out(&mut self, limit: usize, take: &mut impl FnMut(Item<'_, E>) -> bool) -> usize {
        while let Some(taken) = self.taken.pop_front() {
            self.settled.panicked += 1;
            let accepted = match taken {
                Taken::Control(entry) => {
                    self.settled.control += 1;
                    let mut item = Item::shared(
                        Lane::Control,
                        entry.seq,
                        entry.node.stamp_ms,
                        &entry.node.event,
                    );
                    item.conflated = entry.conflated;
                    take(item)
                }
                Taken::Last(seq, node) => {
                    self.settled.last = true;
                    let mut item = Item::shared(Lane::Control, seq, node.stamp_ms, &node.event);
                    item.is_last = true;
                    take(item)
                }
                Taken::Queued(entry) => {
                    self.settled.queued += 1;
                    take(Item {
                        lane: Lane::Data,
                        seq: entry.seq,
                        conflated: entry.conflated,
                        is_last: false,
                        stamp_ms: entry.node.stamp_ms,
                        event: Event::Own(entry.node.event),
                    })
                }
            };
            self.settled.panicked -= 1;
            self.settled.accepted += u64::from(accepted);
            self.settled.filtered += u64::from(!accepted);
            if self.settled.accepted >= limit as u64 {
                break;
            }
        }
        self.settled.accepted as usize
    }
}

impl<E> Drop for TakenSettling<'_, E> {
    fn drop(&mut self) {
        if self.for_good {
            return;
        }
        let settled = &self.settled;
        let mut trash = Vec::new();
        let mut state = self.channel.lock();
        let Some(reader) = state.readers.reader(self.key) else {
            return;
        };
        while let Some(taken) = self.taken.pop_back() {
            match taken {
                Taken::Control(entry) => trash.extend(reader.put_back(entry)),
                Taken::Queued(entry) => {
                    if let Source::Queued(queued) = &mut reader.source {
                        queued.buffer.put_back(entry);
                    }
                }
                // It stays where it is until it is settled.
                Taken::Last(..) => {}
            }
        }
        reader.control.settle(settled.control);
        let mut places = 0;
        if let Source::Queued(queued) = &mut reader.source {
            places = if queued.is_full() { settled.queued } else { 0 };
            queued.buffer.settle(settled.queued);
        }
        reader.last_settled |= settled.last;
        reader.settle_otherwise(settled.accepted, settled.filtered, settled.panicked);
        let waiters = match places {
            0 => Vec::new(),
            _ => state.waiters.notify_many(places),
        };
        drop(state);
        for waiter in waiters {
            self.channel.wake_waiter(Some(waiter));
        }
    }
}

/// Events in hand are moved, never pinned.
impl<E> Unpin for Receiver<E> {}
