//! One topic's shared state, the publishing side of it, and the only code that takes its lock.
//!
//! Nothing of the user's runs under the lock: events are moved in and out as values or shared pointers, displaced ones
//! and wakers are dropped or woken after unlocking, readers clone, filter and encode on their own time, and publishers
//! make the copies for queued readers before they lock.

use std::collections::VecDeque;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::{Arc, OnceLock, PoisonError};
use std::task::Waker;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::account::{TopicState, TopicStats};
use crate::config::{Identity, CONTROL_SLOTS};
use crate::interest::{Class, Interest};
use crate::offering::{Copied, Offering};
use crate::readers::{ClassCounts, Extents, Readers, Remains, Wakeup};
use crate::ring::{Node, Ring};
use crate::sync::{self, AtomicU64, Mutex, MutexGuard, Ordering, Padded};
use crate::topic::{Published, Refusal};
use crate::waiters::Waiters;

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

    #[inline]
    pub(crate) fn push(&mut self, node: Node<E>) -> Option<Node<E>> {
        if let Some(counts) = &mut self.counts {
            counts.publish(self.ring.next(), node.class);
        }
        let displaced = self.ring.push(node);
        if self.ring.tail() > self.guarded {
            let (readers, extents) = self.split();
            self.guarded = readers.cut_overrun(extents);
        }
        displaced
    }

    /// What a publisher has to drop once it has released the lock, besides the event it displaced.
    #[inline]
    pub(crate) fn leftovers(&mut self) -> Vec<Remains<E>> {
        std::mem::take(&mut self.readers.remains)
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
    pub(crate) fn node(&self, event: E, stamp_ms: i64) -> Node<E> {
        let class = self.classify.get().map(|classify| classify(&event));
        Node {
            stamp_ms,
            class,
            event,
        }
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
        let waiters = state.waiters.notify_all();
        let everyone = state.readers.wakeup_all();
        let wake_readers = AssertUnwindSafe(|| self.wake(state, everyone));
        let mut panic = catch_unwind(wake_readers).err();
        for waiter in waiters {
            panic = wake_or_panic(waiter).err().or(panic);
        }
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    /// Wakes a publisher that waits, and if its waker panics the next one, so that room somewhere wakes somebody.
    pub(crate) fn wake_waiter(&self, mut waiter: Option<Waker>) {
        let mut panic = None;
        while let Some(waker) = waiter.take() {
            if let Err(payload) = wake_or_panic(waker) {
                panic = Some(payload);
                waiter = self.lock().waiters.notify();
            }
        }
        match panic {
            Some(payload) if !std::thread::panicking() => resume_unwind(payload),
            _ => {}
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
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
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
        let node = self.node(event, self.stamp_ms());
        let mut state = self.lock();
        if let Err(refusal) = refuse_unless_open(state.phase) {
            drop(state);
            return Err((node.event, refusal));
        }
        if self.needs_care(&state, node.class) {
            drop(state);
            return self.publish_with_care(node);
        }
        let wakeup = state.readers.wakeup(wanted_by(node.class));
        let displaced = state.push(node);
        let published = Published {
            seq: state.ring.next() - 1,
            readers: state.readers.connected,
        };
        let leftovers = state.leftovers();
        self.wake(state, wakeup);
        drop((displaced, leftovers));
        Ok(published)
    }

    /// Publishes all data events of `parcels` or none; displaced ones stay in `parcels` for the caller to drop.
    /// Queued readers are served event by event; then a refusal leaves the rest in `parcels`, and counts what went.
    pub(crate) fn publish_all(
        &self,
        parcels: &mut [Option<Node<E>>],
    ) -> (u64, Result<Published, Refusal>) {
        let mut state = self.lock();
        if let Err(refusal) = refuse_unless_open(state.phase) {
            return (0, Err(refusal));
        }
        let mut wanted = Interest::NONE;
        for node in parcels.iter().flatten() {
            if self.needs_care(&state, node.class) {
                drop(state);
                return self.publish_each_with_care(parcels);
            }
            wanted = wanted | wanted_by(node.class);
        }
        let wakeup = state.readers.wakeup(wanted);
        let mut count = 0;
        for parcel in parcels {
            if let Some(node) = parcel.take() {
                *parcel = state.push(node);
                count += 1;
            }
        }
        let published = Published {
            seq: state.ring.next() - 1,
            readers: state.readers.connected,
        };
        let leftovers = state.leftovers();
        self.wake(state, wakeup);
        drop(leftovers);
        (count, Ok(published))
    }

    /// Whether a data event of `class` takes more than a push: a copy for queued readers, or its class.
    #[inline]
    fn needs_care(&self, state: &State<E>, class: Option<Class>) -> bool {
        !state.readers.queued.is_empty() || (class.is_none() && state.counts.is_some())
    }

    #[cold]
    fn publish_with_care(&self, node: Node<E>) -> PublishResult<E> {
        Offering::new(self, node).publish()
    }

    #[cold]
    fn publish_each_with_care(
        &self,
        parcels: &mut [Option<Node<E>>],
    ) -> (u64, Result<Published, Refusal>) {
        let mut done = (0, Err(Refusal::Closed));
        for parcel in parcels {
            let Some(node) = parcel.take() else { continue };
            let stamp_ms = node.stamp_ms;
            match self.publish_with_care(node) {
                Ok(published) => done = (done.0 + 1, Ok(published)),
                Err((event, refusal)) => {
                    *parcel = Some(Node {
                        stamp_ms,
                        class: None,
                        event,
                    });
                    return (done.0, Err(refusal));
                }
            }
        }
        done
    }

    /// Publishes on the control lane.
    pub(crate) fn publish_control(&self, key: Option<u64>, event: E) -> PublishResult<E> {
        let mut node = self.node(event, self.stamp_ms());
        let mut state = self.lock();
        if let Err(refusal) = refuse_unless_open(state.phase) {
            drop(state);
            return Err((node.event, refusal));
        }
        if node.class.is_none() && state.counts.is_some() {
            drop(state);
            node = self.node(node.event, node.stamp_ms);
            state = self.lock();
            if let Err(refusal) = refuse_unless_open(state.phase) {
                drop(state);
                return Err((node.event, refusal));
            }
        }
        let wanted = wanted_by(node.class);
        let seq = state.control_next;
        state.control_next += 1;
        let mut trash = std::mem::take(&mut state.trash);
        let (node, displaced) = state.control_node(node);
        let (readers, extents) = state.split();
        readers.offer_control(seq, key, &node, extents, &mut trash);
        let published = Published {
            seq,
            readers: readers.connected,
        };
        state.control_nodes.push_back(node);
        self.raise_urgent();
        let wakeup = state.readers.wakeup(wanted);
        let leftovers = state.leftovers();
        self.wake(state, wakeup);
        drop((displaced, leftovers));
        if trash.capacity() > 0 {
            trash.clear();
            self.lock().trash = trash;
        }
        Ok(published)
    }

    /// Publishes the event past the lanes and lets nothing follow it.
    pub(crate) fn publish_last(&self, event: E) -> PublishResult<E> {
        let node = self.node(event, self.stamp_ms());
        let mut state = self.lock();
        if let Err(refusal) = refuse_unless_open(state.phase) {
            drop(state);
            return Err((node.event, refusal));
        }
        let seq = state.control_next;
        state.last = Some(sync::Arc::new(node));
        state.phase = TopicState::Sealed;
        self.raise_urgent();
        let readers = state.readers.connected;
        self.wake_everyone(state);
        Ok(Published { seq, readers })
    }
}

fn wake_or_panic(waker: Waker) -> std::thread::Result<()> {
    catch_unwind(AssertUnwindSafe(|| waker.wake()))
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
