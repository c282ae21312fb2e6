//! One topic's shared state behind one lock, and the only code that takes it.
//!
//! Nothing of the user's runs under the lock: events are moved in and out as values or shared pointers, displaced ones
//! and wakers are dropped or woken after unlocking, and readers clone, filter and encode on their own time.

use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::account::{Account, TopicState, TopicStats};
use crate::config::{Identity, CONTROL_SLOTS};
use crate::readers::{Extents, ReaderSpec, Readers, Tally};
use crate::ring::{Node, Parcel, Ring};
use crate::subscriber::{Lane, Overflow, RecvError, Start, SubscribeError};
use crate::topic::{Published, Refusal};

/// Events a reader takes out per locking; bounds what a batch holds on to.
const CLAIM_MAX: usize = 256;
/// Events a filter may refuse per poll before the task lets others run.
const FILTERED_PER_POLL: usize = 128;

/// Renders an event as JSON.
pub(crate) type Encode<E> = fn(&E, &mut Vec<u8>) -> serde_json::Result<()>;

/// The parts of a channel that never change.
pub(crate) struct Fixed<E> {
    pub(crate) name: Arc<str>,
    pub(crate) identity: Arc<Identity>,
    pub(crate) capacity: usize,
    pub(crate) max_readers: usize,
    pub(crate) encode: Option<Encode<E>>,
    pub(crate) wall_clock: fn() -> SystemTime,
}

pub(crate) struct Channel<E> {
    pub(crate) fixed: Fixed<E>,
    state: Mutex<State<E>>,
}

struct State<E> {
    /// Open -> Sealed -> Closed, or Open -> Closed.
    phase: TopicState,
    data: Ring<E>,
    control: Ring<E>,
    /// The event that sealed the topic: outside the ring, so that nothing displaces it.
    last: Option<Arc<Node<E>>>,
    readers: Readers,
}

/// Where a claimed event comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Data,
    Control,
    Last,
}

type Claimed<E> = (Source, Arc<Node<E>>);

enum Claim {
    Ready,
    Empty,
}

impl<E> State<E> {
    fn extents(&self) -> Extents {
        Extents {
            data: self.data.extent(),
            control: self.control.extent(),
            last: self.last.is_some(),
        }
    }

    fn ring(&mut self, lane: Lane) -> &mut Ring<E> {
        match lane {
            Lane::Data => &mut self.data,
            Lane::Control => &mut self.control,
        }
    }

    fn push(&mut self, lane: Lane, parcel: &mut Parcel<E>, stamp_ms: i64) -> u64 {
        let ring = self.ring(lane);
        ring.push(parcel, stamp_ms);
        let overrun = ring.extent().tail > ring.guarded;
        let seq = ring.extent().head - 1;
        if overrun {
            let extents = self.extents();
            self.ring(lane).guarded = self.readers.cut_overrun(lane, extents);
        }
        seq
    }

    /// Hands up to `max` events to the reader: control lane, then the last event, then data up to a gap.
    fn claim(
        &mut self,
        key: usize,
        max: usize,
        into: &mut Vec<Claimed<E>>,
    ) -> Result<Claim, RecvError> {
        let extents = self.extents();
        let Some(reader) = self.readers.reader(key) else {
            return Err(RecvError::Closed);
        };
        if let Some(gap) = reader.cut {
            return Err(RecvError::Disconnected(gap));
        }
        if let Some(gap) = reader.observe_gap(Lane::Control, extents) {
            return Err(RecvError::Lagged(gap));
        }
        let max = max.min(CLAIM_MAX);
        while into.len() < max && reader.control.floor() < extents.control.head {
            into.push((
                Source::Control,
                Arc::clone(self.control.at(reader.control.floor())),
            ));
            reader.control.claimed += 1;
        }
        if let (Some(last), false) = (&self.last, reader.last_settled) {
            if into.len() < max {
                into.push((Source::Last, Arc::clone(last)));
            }
        }
        let behind = extents.data.tail > reader.data.floor();
        if behind && into.is_empty() {
            if let Some(gap) = reader.observe_gap(Lane::Data, extents) {
                if reader.cut.is_some() {
                    self.readers.connected -= 1;
                    return Err(RecvError::Disconnected(gap));
                }
                return Err(RecvError::Lagged(gap));
            }
        }
        while !behind && into.len() < max && reader.data.floor() < extents.data.head {
            into.push((Source::Data, Arc::clone(self.data.at(reader.data.floor()))));
            reader.data.claimed += 1;
        }
        match (into.is_empty(), self.phase) {
            (false, _) => Ok(Claim::Ready),
            (true, TopicState::Open) => Ok(Claim::Empty),
            (true, TopicState::Sealed | TopicState::Closed) => Err(RecvError::Closed),
        }
    }
}

impl<E> Channel<E> {
    pub(crate) fn new(fixed: Fixed<E>) -> Self {
        let state = State {
            phase: TopicState::Open,
            data: Ring::new(fixed.capacity),
            control: Ring::new(CONTROL_SLOTS),
            last: None,
            readers: Readers::default(),
        };
        Self {
            fixed,
            state: Mutex::new(state),
        }
    }

    /// A panic under the lock is a defect of this crate alone; the state is kept whole between any two statements
    /// that could fail, so a poisoned lock is taken over.
    fn lock(&self) -> MutexGuard<'_, State<E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stamp_ms(&self) -> i64 {
        if self.fixed.encode.is_none() {
            return 0;
        }
        let millis = |d: std::time::Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
        match (self.fixed.wall_clock)().duration_since(UNIX_EPOCH) {
            Ok(after) => millis(after),
            Err(before) => -millis(before.duration()),
        }
    }

    /// Publishes one event and drops the one it displaces, after everyone was woken.
    pub(crate) fn publish_one(&self, lane: Lane, event: E) -> Result<Published, (E, Refusal)> {
        let stamp_ms = self.stamp_ms();
        let mut state = self.lock();
        if let Err(refusal) = refuse_unless_open(state.phase) {
            drop(state);
            return Err((event, refusal));
        }
        let mut parcel = Parcel::Event(event);
        let seq = state.push(lane, &mut parcel, stamp_ms);
        let readers = state.readers.connected;
        self.wake_parked(state);
        drop(parcel);
        Ok(Published { seq, readers })
    }

    /// Publishes all events of `parcels` or none; displaced events stay in `parcels` for the caller to drop.
    pub(crate) fn publish_all(
        &self,
        lane: Lane,
        parcels: &mut [Parcel<E>],
    ) -> Result<Published, Refusal> {
        let stamp_ms = self.stamp_ms();
        let mut state = self.lock();
        refuse_unless_open(state.phase)?;
        let mut seq = 0;
        for parcel in parcels {
            seq = state.push(lane, parcel, stamp_ms);
        }
        let readers = state.readers.connected;
        self.wake_parked(state);
        Ok(Published { seq, readers })
    }

    /// Publishes the event past the rings and lets nothing follow it.
    pub(crate) fn publish_last(&self, event: E) -> Result<Published, (E, Refusal)> {
        let stamp_ms = self.stamp_ms();
        let mut state = self.lock();
        if let Err(refusal) = refuse_unless_open(state.phase) {
            drop(state);
            return Err((event, refusal));
        }
        let seq = state.control.extent().head;
        state.last = Some(Arc::new(Node {
            seq,
            stamp_ms,
            event,
        }));
        state.phase = TopicState::Sealed;
        let readers = state.readers.connected;
        self.wake_parked(state);
        Ok(Published { seq, readers })
    }

    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.phase = TopicState::Closed;
        self.wake_parked(state);
    }

    /// Wakes who is parked now, in batches outside the lock. A waker that panics keeps nobody from being woken.
    fn wake_parked<'a>(&'a self, state: MutexGuard<'a, State<E>>) {
        let mut left = state.readers.parked();
        let mut held = Some(state);
        let mut panic = None;
        while left > 0 {
            let mut state = held.take().unwrap_or_else(|| self.lock());
            let batch = state.readers.unpark(&mut left);
            drop(state);
            for waker in batch.into_iter().flatten() {
                if let Err(payload) = catch_unwind(AssertUnwindSafe(|| waker.wake())) {
                    panic = Some(payload);
                }
            }
        }
        drop(held);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    pub(crate) fn stats(&self) -> TopicStats {
        let state = self.lock();
        let extents = state.extents();
        let (readers, by_name, total) = state.readers.stats(extents);
        TopicStats {
            name: Arc::clone(&self.fixed.name),
            state: state.phase,
            capacity: self.fixed.capacity,
            json: self.fixed.encode.is_some(),
            seq: extents.data.head - 1,
            control_seq: extents.control.head - 1 + u64::from(extents.last),
            subscribers: state.readers.connected,
            readers,
            by_name,
            total,
        }
    }
}

fn refuse_unless_open(phase: TopicState) -> Result<(), Refusal> {
    match phase {
        TopicState::Open => Ok(()),
        TopicState::Sealed => Err(Refusal::Sealed),
        TopicState::Closed => Err(Refusal::Closed),
    }
}

/// One reader's end of a channel.
pub(crate) struct Receiver<E> {
    pub(crate) channel: Arc<Channel<E>>,
    key: usize,
    /// Empty between calls; kept for its allocation.
    claimed: Vec<Claimed<E>>,
}

/// What became of one claimed event.
pub(crate) enum Verdict {
    Delivered,
    Filtered,
}

impl<E> Receiver<E> {
    pub(crate) fn connect(
        channel: &Arc<Channel<E>>,
        spec: ReaderSpec,
    ) -> Result<Self, SubscribeError> {
        let mut state = channel.lock();
        let topic = || Arc::clone(&channel.fixed.name);
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
        let extents = state.extents();
        let data = match spec.start {
            Start::Live => extents.data.head,
            Start::Retained(n) => extents.data.tail.max(
                extents
                    .data
                    .head
                    .saturating_sub(u64::try_from(n).unwrap_or(u64::MAX)),
            ),
        };
        let control = extents.control.head;
        if spec.overflow == Overflow::Disconnect {
            state.data.guarded = state.data.guarded.min(data);
            state.control.guarded = state.control.guarded.min(control);
        }
        let key = state.readers.insert(spec, data, control);
        drop(state);
        Ok(Self {
            channel: Arc::clone(channel),
            key,
            claimed: Vec::new(),
        })
    }

    pub(crate) fn account(&self) -> Account {
        let state = self.channel.lock();
        state.readers.account(self.key, state.extents())
    }

    /// Claims without waiting; `false` when there is nothing.
    fn try_claim(&mut self, max: usize) -> Result<bool, RecvError> {
        let claim = self
            .channel
            .lock()
            .claim(self.key, max, &mut self.claimed)?;
        Ok(matches!(claim, Claim::Ready))
    }

    /// Claims or parks.
    fn poll_claim(&mut self, cx: &mut Context<'_>, max: usize) -> Poll<Result<(), RecvError>> {
        let mut state = self.channel.lock();
        match state.claim(self.key, max, &mut self.claimed) {
            Ok(Claim::Ready) => return Poll::Ready(Ok(())),
            Err(error) => return Poll::Ready(Err(error)),
            Ok(Claim::Empty) if state.readers.repark(self.key, cx.waker()) => return Poll::Pending,
            Ok(Claim::Empty) => drop(state),
        }
        let waker = cx.waker().clone();
        let mut state = self.channel.lock();
        match state.claim(self.key, max, &mut self.claimed) {
            Ok(Claim::Ready) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(error)),
            Ok(Claim::Empty) => {
                let replaced = state.readers.park(self.key, waker);
                drop(state);
                drop(replaced);
                Poll::Pending
            }
        }
    }

    /// Runs `take` over the claimed events in order and books each verdict, also when `take` panics: then that event
    /// counts as lost to the panic and those behind it go back to pending.
    fn consume(&mut self, mut take: impl FnMut(Lane, Arc<Node<E>>, bool) -> Verdict) {
        let mut settlement = Settlement {
            channel: &self.channel,
            key: self.key,
            tally: Tally::default(),
        };
        let tally = &mut settlement.tally;
        for (source, node) in self.claimed.drain(..) {
            tally.panicked += 1;
            let (lane, is_last) = match source {
                Source::Data => (Lane::Data, false),
                Source::Control => (Lane::Control, false),
                Source::Last => (Lane::Control, true),
            };
            match source {
                Source::Data => tally.data += 1,
                Source::Control => tally.control += 1,
                Source::Last => tally.last = true,
            }
            let verdict = take(lane, node, is_last);
            tally.panicked -= 1;
            match verdict {
                Verdict::Delivered => tally.delivered += 1,
                Verdict::Filtered => tally.filtered += 1,
            }
        }
    }

    /// The next event that `take` turns into something, or `None` when nothing waits.
    pub(crate) fn try_next<R>(
        &mut self,
        mut take: impl FnMut(Lane, &Node<E>, bool) -> Option<R>,
    ) -> Result<Option<R>, RecvError> {
        while self.try_claim(1)? {
            if let Some(item) = self.consume_one(&mut take) {
                return Ok(Some(item));
            }
        }
        Ok(None)
    }

    /// The next event that `take` turns into something.
    pub(crate) fn poll_next<R>(
        &mut self,
        cx: &mut Context<'_>,
        mut take: impl FnMut(Lane, &Node<E>, bool) -> Option<R>,
    ) -> Poll<Result<R, RecvError>> {
        for _ in 0..FILTERED_PER_POLL {
            match self.poll_claim(cx, 1) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) => {}
            }
            if let Some(item) = self.consume_one(&mut take) {
                return Poll::Ready(Ok(item));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Feeds `take` a batch of up to `max` events; ready once it delivered at least one.
    pub(crate) fn poll_many(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
        mut take: impl FnMut(Lane, Arc<Node<E>>, bool) -> Verdict,
    ) -> Poll<Result<usize, RecvError>> {
        let mut examined = 0;
        while examined < FILTERED_PER_POLL {
            match self.poll_claim(cx, max) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) => {}
            }
            examined += self.claimed.len();
            let mut delivered = 0;
            self.consume(|lane, node, is_last| {
                let verdict = take(lane, node, is_last);
                delivered += usize::from(matches!(verdict, Verdict::Delivered));
                verdict
            });
            if delivered > 0 {
                return Poll::Ready(Ok(delivered));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn consume_one<R>(
        &mut self,
        take: &mut impl FnMut(Lane, &Node<E>, bool) -> Option<R>,
    ) -> Option<R> {
        let mut item = None;
        self.consume(|lane, node, is_last| {
            let taken = take(lane, &node, is_last);
            drop(node);
            match taken {
                Some(taken) => {
                    item = Some(taken);
                    Verdict::Delivered
                }
                None => Verdict::Filtered,
            }
        });
        item
    }
}

impl<E> Drop for Receiver<E> {
    fn drop(&mut self) {
        let mut state = self.channel.lock();
        let extents = state.extents();
        let waker = state.readers.remove(self.key, extents);
        drop(state);
        drop(waker);
    }
}

/// Books a tally when it goes out of scope, by return or by panic.
struct Settlement<'a, E> {
    channel: &'a Channel<E>,
    key: usize,
    tally: Tally,
}

impl<E> Drop for Settlement<'_, E> {
    fn drop(&mut self) {
        let mut state = self.channel.lock();
        if let Some((data, control)) = state.readers.settle(self.key, &self.tally) {
            state.data.guarded = state.data.guarded.min(data);
            state.control.guarded = state.control.guarded.min(control);
        }
    }
}

impl<E> std::fmt::Debug for Channel<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel")
            .field("topic", &self.fixed.name)
            .finish_non_exhaustive()
    }
}
