//! One topic's shared state, the publishing side of it, and the only code that takes its lock.
//!
//! Nothing of the user's runs under the lock: events are moved in and out as values or shared pointers, displaced ones
//! and wakers are dropped or woken after unlocking, readers clone, filter and encode on their own time, and publishers
//! make the copies for queued readers before they lock.

use std::collections::VecDeque;
use std::mem::needs_drop;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::{Arc, OnceLock, PoisonError};
use std::task::Waker;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::account::{TopicState, TopicStats};
use crate::config::{Identity, CONTROL_SLOTS};
use crate::interest::{Class, Interest};
use crate::offering::{Copied, Offering};
use crate::queue::Node;
use crate::readers::{ClassCounts, Extents, Readers, Wakeup};
use crate::ring::Ring;
use crate::sync::{self, AtomicU64, Mutex, MutexGuard, Ordering, Padded};
use crate::topic::{Published, Refusal};
use crate::waiters::Waiters;

/// Events published per locking by a batch; they pass through the stack.
pub(crate) const BATCH: usize = 16;

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
    /// Raised under the lock whenever a reader has to look at more than the data lane.
    pub(crate) urgent: Padded<AtomicU64>,
    /// Set by the first reader with an interest.
    pub(crate) classify: OnceLock<fn(&E) -> Class>,
    state: Mutex<State<E>>,
    /// Room for the copies a publisher makes for queued readers; kept for its allocation.
    pub(crate) staging: std::sync::Mutex<Vec<Copied<E>>>,
}

pub(crate) struct State<E> {
    /// Open -> Sealed -> Closed, or Open -> Closed.
    pub(crate) phase: TopicState,
    pub(crate) ring: Ring<E>,
    /// No `Disconnect` reader has lost an event before this one; `u64::MAX` if there is no such reader.
    pub(crate) guarded: u64,
    /// Present once a reader is interested in classes.
    pub(crate) counts: Option<Box<ClassCounts>>,
    /// Number of the next control event.
    pub(crate) control_next: u64,
    /// The newest control events' allocations, oldest first.
    control_nodes: VecDeque<sync::Arc<Node<E>>>,
    /// The event that sealed the topic: outside the lanes, so that nothing displaces it.
    pub(crate) last: Option<sync::Arc<Node<E>>>,
    pub(crate) readers: Readers<E>,
    pub(crate) waiters: Waiters,
    /// Empty; kept for its allocation.
    pub(crate) trash: Vec<sync::Arc<Node<E>>>,
}

impl<E> State<E> {
    /// The readers, and what has been published to them.
    pub(crate) fn split(&mut self) -> (&mut Readers<E>, Extents<'_>) {
        let extents = Extents {
            tail: self.ring.tail(),
            next: self.ring.next(),
            classes: self.counts.as_deref(),
            last: self.last.is_some(),
        };
        (&mut self.readers, extents)
    }

    /// Publishes a data event to all cursor readers; returns the one it displaced, if that needs dropping.
    #[inline(always)]
    pub(crate) fn push(&mut self, event: E, stamp_ms: i64, class: Option<Class>) -> Option<E> {
        self.count(class);
        let displaced = self.ring.push(stamp_ms, |slot| match needs_drop::<E>() {
            true => slot.replace(event),
            false => {
                *slot = Some(event);
                None
            }
        });
        self.reveal();
        displaced
    }

    #[inline(always)]
    fn count(&mut self, class: Option<Class>) {
        if let Some(counts) = &mut self.counts {
            counts.publish(self.ring.next(), class);
        }
    }

    #[inline(always)]
    fn reveal(&mut self) {
        self.ring.reveal();
        if self.ring.tail() > self.guarded {
            self.cut_overrun();
        }
    }

    #[cold]
    fn cut_overrun(&mut self) {
        let (readers, extents) = self.split();
        self.guarded = readers.cut_overrun(extents);
    }

    /// Tells the ring how many cursor readers there are. Follow with [`leftovers`](Self::leftovers).
    pub(crate) fn count_cursors(&mut self) {
        let cursors = self.readers.len() - self.readers.queued.len();
        self.ring.keep(cursors);
    }

    #[inline]
    pub(crate) fn has_leftovers(&self) -> bool {
        !self.readers.remains.is_empty() || self.ring.has_surplus()
    }

    /// What whoever has the lock must drop once it has released it.
    pub(crate) fn leftovers(&mut self) -> impl Sized {
        let remains = std::mem::take(&mut self.readers.remains);
        (remains, self.ring.take_surplus())
    }

    /// Whether a data event of `class` takes more than a push: a copy for queued readers, or its class.
    #[inline]
    fn needs_care(&self, class: Option<Class>) -> bool {
        !self.readers.queued.is_empty() || (class.is_none() && self.counts.is_some())
    }

    /// An allocation for a control event, and what was in it.
    fn control_node(&mut self, node: Node<E>) -> (sync::Arc<Node<E>>, Option<Displaced<E>>) {
        let reused = match self.control_nodes.len() > CONTROL_SLOTS {
            true => self.control_nodes.pop_front(),
            false => None,
        };
        match reused {
            None => (sync::Arc::new(node), None),
            Some(mut reused) => match sync::Arc::get_mut(&mut reused) {
                Some(place) => {
                    let old = std::mem::replace(place, node);
                    (reused, Some(Displaced::Node(old)))
                }
                None => (sync::Arc::new(node), Some(Displaced::Shared(reused))),
            },
        }
    }
}

/// What a publisher has to drop once it has released the lock.
#[allow(dead_code)] // held only to be dropped
enum Displaced<E> {
    Node(Node<E>),
    Shared(sync::Arc<Node<E>>),
}

pub(crate) type PublishResult<E> = Result<Published, (E, Refusal)>;

impl<E> Channel<E> {
    pub(crate) fn new(fixed: Fixed<E>) -> Self {
        let state = State {
            phase: TopicState::Open,
            ring: Ring::new(fixed.capacity),
            guarded: u64::MAX,
            counts: None,
            control_next: 1,
            control_nodes: VecDeque::new(),
            last: None,
            readers: Readers::default(),
            waiters: Waiters::default(),
            trash: Vec::new(),
        };
        Self {
            fixed,
            urgent: Padded(AtomicU64::new(0)),
            classify: OnceLock::new(),
            state: Mutex::new(state),
            staging: std::sync::Mutex::default(),
        }
    }

    /// A panic under the lock is a defect of this crate alone; the state is kept whole between any two statements
    /// that could fail, so a poisoned lock is taken over.
    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, State<E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn stamp_ms(&self) -> i64 {
        if self.fixed.encode.is_none() {
            return 0;
        }
        let millis = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
        match (self.fixed.wall_clock)().duration_since(UNIX_EPOCH) {
            Ok(after) => millis(after),
            Err(before) => -millis(before.duration()),
        }
    }

    #[inline]
    pub(crate) fn class_of(&self, event: &E) -> Option<Class> {
        self.classify.get().map(|classify| classify(event))
    }

    /// Makes the slow path read what it has not seen.
    fn raise_urgent(&self) {
        // Pairs with the load in `Receiver::claim_readable`; the lock orders the stores among themselves.
        let raised = self.urgent.0.load(Ordering::Relaxed) + 1;
        self.urgent.0.store(raised, Ordering::Release);
    }

    /// Lets nothing more be published, and tells everyone who waits.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.phase = TopicState::Closed;
        self.raise_urgent();
        self.wake_everyone(state);
    }

    /// Wakes every reader and every publisher that waits: nothing can be published any more.
    fn wake_everyone<'a>(&'a self, mut state: MutexGuard<'a, State<E>>) {
        let waiters = state.waiters.notify_many(usize::MAX);
        let everyone = state.readers.wakeup_all();
        let wake_readers = AssertUnwindSafe(|| self.wake(state, everyone));
        let mut panic = catch_unwind(wake_readers).err();
        for waiter in waiters {
            panic = wake_or_panic(waiter).err().or(panic);
        }
        resume_unless_panicking(panic);
    }

    /// Wakes a publisher that waits, and if its waker panics the next one, so that room somewhere wakes somebody. The
    /// panic is none of the caller's business, who may be a reader in the middle of a receive.
    pub(crate) fn wake_waiter(&self, mut waiter: Option<Waker>) {
        while let Some(waker) = waiter.take() {
            if wake_or_panic(waker).is_err() {
                waiter = self.lock().waiters.notify();
            }
        }
    }

    /// Wakes whom `wakeup` names, in batches outside the lock. A waker that panics keeps nobody from being woken.
    #[inline]
    pub(crate) fn wake<'a>(&'a self, state: MutexGuard<'a, State<E>>, wakeup: Wakeup) {
        if wakeup.is_nobody() {
            return;
        }
        self.wake_parked(state, wakeup);
    }

    fn wake_parked<'a>(&'a self, mut state: MutexGuard<'a, State<E>>, mut left: Wakeup) {
        let mut panic = None;
        while let Some(batch) = state.readers.unpark(&mut left) {
            drop(state);
            for waker in batch.into_iter().flatten() {
                if let Err(payload) = wake_or_panic(waker) {
                    panic = Some(payload);
                }
            }
            if left.is_nobody() {
                break;
            }
            state = self.lock();
        }
        resume_unless_panicking(panic);
    }

    pub(crate) fn queue_depth(&self) -> u64 {
        let mut state = self.lock();
        let (readers, extents) = state.split();
        readers.queue_depth(extents)
    }

    pub(crate) fn stats(&self) -> TopicStats {
        let mut state = self.lock();
        let (phase, control_next) = (state.phase, state.control_next);
        let (readers, extents) = state.split();
        let subscribers = readers.connected;
        let (readers, by_name, total) = readers.stats(extents);
        TopicStats {
            name: Arc::clone(&self.fixed.name),
            state: phase,
            capacity: self.fixed.capacity,
            json: self.fixed.encode.is_some(),
            seq: extents.next - 1,
            control_seq: control_next - 1 + u64::from(extents.last),
            subscribers,
            readers,
            by_name,
            total,
        }
    }
}

impl<E: Clone> Channel<E> {
    /// Publishes one data event and drops the one it displaces, after everyone was woken.
    #[inline]
    pub(crate) fn publish(&self, event: E) -> PublishResult<E> {
        let stamp_ms = self.stamp_ms();
        let class = self.class_of(&event);
        let mut state = self.lock();
        if state.phase != TopicState::Open || state.needs_care(class) {
            drop(state);
            return Offering::new(self, event, class).publish();
        }
        let displaced = state.push(event, stamp_ms, class);
        let published = Published {
            seq: state.ring.next() - 1,
            readers: state.readers.connected,
        };
        self.finish(state, wanted_by(class));
        drop(displaced);
        Ok(published)
    }

    /// Publishes all data events of `parcels`, of which none is empty, or none; displaced ones stay in `parcels` for
    /// the caller to drop. Queued readers are served event by event: a refusal then leaves the rest in `parcels`.
    pub(crate) fn publish_all(&self, parcels: &mut [Option<E>], stamp_ms: i64) -> Batch {
        let mut classes = [None; BATCH];
        if let Some(classify) = self.classify.get() {
            for (class, event) in classes.iter_mut().zip(&*parcels) {
                *class = event.as_ref().map(classify);
            }
        }
        let mut state = self.lock();
        if let Err(refusal) = refuse_unless_open(state.phase) {
            return Batch::refused(refusal);
        }
        if state.needs_care(classes[0]) {
            drop(state);
            return self.publish_each(parcels);
        }
        let mut wanted = Interest::NONE;
        let mut count = 0;
        let one_by_one = state.guarded != u64::MAX;
        for (parcel, class) in parcels.iter_mut().zip(classes) {
            state.count(class);
            state
                .ring
                .push(stamp_ms, |slot| std::mem::swap(slot, parcel));
            wanted = wanted | wanted_by(class);
            count += 1;
            if one_by_one {
                state.reveal();
            }
        }
        state.reveal();
        let published = Published {
            seq: state.ring.next() - 1,
            readers: state.readers.connected,
        };
        self.finish(state, wanted);
        Batch {
            count,
            last: Some(published),
            refusal: None,
        }
    }

    /// Unlocks, wakes who wants one of `classes`, and drops what readers that were cut off left behind.
    #[inline]
    pub(crate) fn finish<'a>(&'a self, mut state: MutexGuard<'a, State<E>>, classes: Interest) {
        if state.readers.nobody_parked() && !state.has_leftovers() {
            return;
        }
        let wakeup = state.readers.wakeup(classes);
        let leftovers = state.leftovers();
        self.wake(state, wakeup);
        drop(leftovers);
    }

    #[cold]
    fn publish_each(&self, parcels: &mut [Option<E>]) -> Batch {
        let mut batch = Batch::default();
        for parcel in parcels {
            let Some(event) = parcel.take() else { continue };
            let class = self.class_of(&event);
            match Offering::new(self, event, class).publish() {
                Ok(published) => {
                    batch.count += 1;
                    batch.last = Some(published);
                }
                Err((event, refusal)) => {
                    *parcel = Some(event);
                    batch.refusal = Some(refusal);
                    break;
                }
            }
        }
        batch
    }

    /// Publishes on the control lane.
    pub(crate) fn publish_control(&self, key: Option<u64>, event: E) -> PublishResult<E> {
        let stamp_ms = self.stamp_ms();
        let (mut state, class) = loop {
            let class = self.class_of(&event);
            let state = self.lock();
            if let Err(refusal) = refuse_unless_open(state.phase) {
                drop(state);
                return Err((event, refusal));
            }
            if class.is_some() || state.counts.is_none() {
                break (state, class);
            }
        };
        let node = Node { stamp_ms, event };
        let seq = state.control_next;
        state.control_next += 1;
        let mut trash = std::mem::take(&mut state.trash);
        let (node, displaced) = state.control_node(node);
        // Before anyone is cut off: a reader that claims meanwhile must see one or the other.
        self.raise_urgent();
        let (readers, extents) = state.split();
        readers.offer_control(seq, key, class, &node, extents, &mut trash);
        let published = Published {
            seq,
            readers: readers.connected,
        };
        state.control_nodes.push_back(node);
        self.finish(state, wanted_by(class));
        drop(displaced);
        if trash.capacity() > 0 {
            drop_each(trash.drain(..));
            self.lock().trash = trash;
        }
        Ok(published)
    }

    /// Publishes the event past the lanes and lets nothing follow it.
    pub(crate) fn publish_last(&self, event: E) -> PublishResult<E> {
        let stamp_ms = self.stamp_ms();
        let mut state = self.lock();
        if let Err(refusal) = refuse_unless_open(state.phase) {
            drop(state);
            return Err((event, refusal));
        }
        let seq = state.control_next;
        state.last = Some(sync::Arc::new(Node { stamp_ms, event }));
        state.phase = TopicState::Sealed;
        self.raise_urgent();
        let readers = state.readers.connected;
        self.wake_everyone(state);
        Ok(Published { seq, readers })
    }
}

/// Goes on with a panic that was held up; a second one would abort the process.
pub(crate) fn resume_unless_panicking(panic: Option<Box<dyn std::any::Any + Send>>) {
    if let Some(payload) = panic {
        if !std::thread::panicking() {
            resume_unwind(payload);
        }
    }
}

/// Drops each of them, also when some panic; that comes at the end.
pub(crate) fn drop_each<T>(things: impl Iterator<Item = T>) {
    let mut panic = None;
    for thing in things {
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(thing)));
        panic = dropped.err().or(panic);
    }
    resume_unless_panicking(panic);
}

fn wake_or_panic(waker: Waker) -> std::thread::Result<()> {
    catch_unwind(AssertUnwindSafe(|| waker.wake()))
}

/// What became of a batch.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) count: u64,
    /// Where the last of them went.
    pub(crate) last: Option<Published>,
    pub(crate) refusal: Option<Refusal>,
}

impl Batch {
    fn refused(refusal: Refusal) -> Self {
        Self {
            refusal: Some(refusal),
            ..Self::default()
        }
    }
}

/// Which readers a data or control event may wake.
#[inline]
pub(crate) fn wanted_by(class: Option<Class>) -> Interest {
    class.map_or(Interest::ALL, Interest::from)
}

pub(crate) fn refuse_unless_open(phase: TopicState) -> Result<(), Refusal> {
    match phase {
        TopicState::Open => Ok(()),
        TopicState::Sealed => Err(Refusal::Sealed),
        TopicState::Closed => Err(Refusal::Closed),
    }
}

impl<E> std::fmt::Debug for Channel<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel")
            .field("topic", &self.fixed.name)
            .finish_non_exhaustive()
    }
}
