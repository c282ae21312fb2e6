//! The data lane's storage, and the only unsafe code of this crate.
//!
//! Slots lie in blocks. A publisher writes the next slot under the topic's lock and then raises the head; a reader
//! holds the block it reads from and reads slots below the head without a lock. Three rules make that sound:
//!
//! 1. *One writer.* Slots are written through `&mut Ring`, which only the holder of the topic's lock has.
//! 2. *Written once while shared.* A block is written front to back, each slot once, between two openings, and it is
//!    opened only when [`Arc::get_mut`] proves that no reader holds it. So a slot is written at most once in the time a
//!    reader holds its block, and that write is the one that makes the reader's sequence number appear.
//! 3. *Read below the head.* A reader reads a slot only after an `Acquire` load of the head that is beyond it, which
//!    pairs with the `Release` store behind the write.
//!
//! A block that a stalled reader holds is set aside (`held`) when its turn comes and another takes its place; it is
//! reused once the reader has let go. Of more such blocks than there are cursor readers the ring lets go, and then
//! whoever holds one last drops its events: so nobody lets go of a block under the topic's lock.

use std::collections::VecDeque;

use crate::sync::{Arc, AtomicU64, Ordering, Padded, UnsafeCell};

/// Slots of a block in a long ring: enough to make a batch cheap, and what a stalled reader keeps alive at most.
const BLOCK_MAX: u64 = 64;
/// Slots of a block in a short ring. Under loom two, so that rings of two events are read without a lock as well.
const BLOCK_MIN: u64 = if cfg!(loom) { 2 } else { 1 };
/// Blocks looked at for one that is free again, per opening.
const HELD_LOOKS: usize = 8;
/// Blocks to a capacity: the ring has room for one block more than it holds events.
const BLOCKS: u64 = 8;

/// The first sequence number that is not published yet. Written under the topic's lock.
pub(crate) type Head = std::sync::Arc<Padded<AtomicU64>>;

struct Block<E> {
    /// Sequence number of the first slot; changes only while nobody else holds the block.
    first: u64,
    slots: Box<[UnsafeCell<Slot<E>>]>,
}

struct Slot<E> {
    stamp_ms: i64,
    event: Option<E>,
}

// SAFETY: shared blocks are read by several threads at once (hence `E: Sync`) and their events are dropped by
// whichever thread writes the slot next (hence `E: Send`); the three rules above order writes before reads.
#[allow(unsafe_code)]
unsafe impl<E: Send + Sync> Sync for Block<E> {}

impl<E> Block<E> {
    fn new(first: u64, slots: u64) -> Self {
        Self {
            first,
            slots: (0..slots).map(|_| UnsafeCell::new(Slot::empty())).collect(),
        }
    }
}

impl<E> Slot<E> {
    fn empty() -> Self {
        Self {
            stamp_ms: 0,
            event: None,
        }
    }
}

/// The events `tail..next`, and older ones whose slots have not been needed yet: less than two blocks of them, and a
/// block more per reader that was too slow.
pub(crate) struct Ring<E> {
    head: Head,
    next: u64,
    capacity: u64,
    block_len: u64,
    blocks_max: usize,
    blocks: Vec<Arc<Block<E>>>,
    /// Where in `blocks` the next slot is.
    open: usize,
    /// Blocks that readers still held when their turn came, kept to be used again.
    held: VecDeque<Arc<Block<E>>>,
    /// How many of them are kept: as many as there are cursor readers, each of which holds one at a time.
    kept: usize,
    /// Blocks that are not kept, to be dropped outside the lock.
    surplus: Vec<Arc<Block<E>>>,
}

impl<E> Ring<E> {
    pub(crate) fn new(capacity: usize) -> Self {
        let capacity = capacity as u64;
        let block_len = match capacity / BLOCKS {
            0 => BLOCK_MIN,
            share => BLOCK_MAX.min(1 << share.ilog2()),
        };
        // The block that is opened for an event must hold none of the `capacity - 1` before it.
        let blocks_max = (capacity + block_len - 1).div_ceil(block_len) as usize;
        Self {
            head: Head::new(Padded(AtomicU64::new(1))),
            next: 1,
            capacity,
            block_len,
            blocks_max,
            blocks: Vec::new(),
            open: 0,
            held: VecDeque::new(),
            kept: 0,
            surplus: Vec::new(),
        }
    }

    /// The first sequence number that is not published yet.
    #[inline]
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// The oldest sequence number that is still readable.
    #[inline]
    pub(crate) fn tail(&self) -> u64 {
        self.next.saturating_sub(self.capacity).max(1)
    }

    /// Lets `put` store the newest event, which readers see once it is [revealed](Self::reveal), in its slot, where
    /// an older one may still be.
    #[inline(always)]
    pub(crate) fn push<R>(&mut self, stamp_ms: i64, put: impl FnOnce(&mut Option<E>) -> R) -> R {
        let offset = ((self.next - 1) & (self.block_len - 1)) as usize;
        if offset == 0 {
            self.open_block();
        }
        let block = &self.blocks[self.open];
        self.next += 1;
        block.slots[offset].with_mut(|slot| {
            // SAFETY: rule 1 excludes other writers. Readers read below the head, and this slot is not below it: the
            // block was opened for it (rule 2) and it is not revealed.
            #[allow(unsafe_code)]
            let slot = unsafe { &mut *slot };
            slot.stamp_ms = stamp_ms;
            put(&mut slot.event)
        })
    }

    /// Shows readers what was pushed.
    #[inline]
    pub(crate) fn reveal(&self) {
        // Pairs with the load in `View::refresh`.
        self.head.0.store(self.next, Ordering::Release);
    }

    /// Makes `blocks[open]` the block of `next`, whose events are all older than the tail, and nobody's.
    #[cold]
    fn open_block(&mut self) {
        let turn = ((self.next - 1) / self.block_len) as usize % self.blocks_max;
        self.open = turn;
        if turn == self.blocks.len() {
            let block = Block::new(self.next, self.block_len);
            self.blocks.push(Arc::new(block));
            return;
        }
        if let Some(block) = Arc::get_mut(&mut self.blocks[turn]) {
            block.first = self.next;
            return;
        }
        let spare = self.take_held().map(|mut block| {
            if let Some(block) = Arc::get_mut(&mut block) {
                block.first = self.next;
            }
            block
        });
        let fresh = spare.unwrap_or_else(|| Arc::new(Block::new(self.next, self.block_len)));
        let held = std::mem::replace(&mut self.blocks[turn], fresh);
        if self.held.len() < self.kept {
            self.held.push_back(held);
        } else {
            self.surplus.push(held);
        }
    }

    /// One of the blocks set aside that no reader holds any more; looks at some of them at a time.
    fn take_held(&mut self) -> Option<Arc<Block<E>>> {
        for _ in 0..HELD_LOOKS.min(self.held.len()) {
            let mut block = self.held.pop_front()?;
            if Arc::get_mut(&mut block).is_some() {
                return Some(block);
            }
            self.held.push_back(block);
        }
        None
    }

    /// Sets how many blocks are set aside at most.
    pub(crate) fn keep(&mut self, cursors: usize) {
        self.kept = cursors;
        while self.held.len() > cursors {
            self.surplus.extend(self.held.pop_front());
        }
    }

    #[inline]
    pub(crate) fn has_surplus(&self) -> bool {
        !self.surplus.is_empty()
    }

    /// Blocks to be dropped outside the lock.
    pub(crate) fn take_surplus(&mut self) -> Vec<impl Sized> {
        std::mem::take(&mut self.surplus)
    }

    fn place(&self, seq: u64) -> usize {
        ((seq - 1) / self.block_len) as usize % self.blocks_max
    }

    /// A reader's side of this ring.
    pub(crate) fn view(&self) -> View<E> {
        View {
            head: Head::clone(&self.head),
            seen: self.next,
            block: None,
            range: (0, 0),
        }
    }

    /// Views of all blocks from that of `start` on, as they are now.
    pub(crate) fn views(&self, start: u64) -> VecDeque<View<E>> {
        let mut views = VecDeque::new();
        let mut seq = start;
        while seq < self.next {
            let mut view = self.view();
            let before = self.pin(&mut view, seq);
            debug_assert!(before.is_none());
            seq = view.range.1;
            views.push_back(view);
        }
        views
    }

    /// Lets `view` read the block of `seq`, which must lie within `tail..next`. Returns the block it held before, to
    /// be dropped outside the lock.
    pub(crate) fn pin(&self, view: &mut View<E>, seq: u64) -> Option<Held<E>> {
        let block = &self.blocks[self.place(seq)];
        debug_assert!(block.first <= seq && seq < self.next && seq >= self.tail());
        if !Head::ptr_eq(&self.head, &view.head) {
            return None;
        }
        view.seen = self.next;
        view.range = (block.first, block.first + self.block_len);
        view.block.replace(Arc::clone(block)).map(Held)
    }
}

/// A block that a reader let go of.
#[allow(dead_code)] // held only to be dropped
pub(crate) struct Held<E>(Arc<Block<E>>);

/// What one reader may read without a lock: the slots of one block that are below the head.
pub(crate) struct View<E> {
    head: Head,
    /// The head as last seen; slots below it are written.
    seen: u64,
    block: Option<Arc<Block<E>>>,
    /// First sequence number of the block, and the first beyond it.
    range: (u64, u64),
}

impl<E> View<E> {
    /// Loads the head.
    #[inline]
    pub(crate) fn refresh(&mut self) -> u64 {
        // Pairs with the store in `Ring::reveal`.
        self.seen = self.head.0.load(Ordering::Acquire);
        self.seen
    }

    /// Lets go of the block.
    pub(crate) fn release(&mut self) {
        self.range = (0, 0);
        self.block = None;
    }

    /// The first sequence number behind `seq` that this view cannot read, or `None` if it cannot read `seq`.
    #[inline]
    pub(crate) fn readable_from(&self, seq: u64) -> Option<u64> {
        let end = self.range.1.min(self.seen);
        (self.range.0 <= seq && seq < end).then_some(end)
    }

    /// Shows `f` the events `from..to`, as far as they are readable.
    #[inline]
    pub(crate) fn for_each(&self, from: u64, to: u64, mut f: impl FnMut(u64, i64, &E) -> bool) {
        let (Some(block), Some(end)) = (&self.block, self.readable_from(from)) else {
            return;
        };
        let first = self.range.0;
        let slots = &block.slots[(from - first) as usize..(to.min(end) - first) as usize];
        for (seq, slot) in (from..).zip(slots) {
            let go_on = slot.with(|slot| {
                // SAFETY: the slot is below a head loaded with `Acquire`, so its write happened before (rule 3), and
                // it is not written again while `self.block` is held (rule 2).
                #[allow(unsafe_code)]
                let slot = unsafe { &*slot };
                match &slot.event {
                    Some(event) => f(seq, slot.stamp_ms, event),
                    None => false,
                }
            });
            if !go_on {
                return;
            }
        }
    }

    /// Shows `f` the event `seq`, if it is readable.
    #[inline(always)]
    pub(crate) fn with<R>(&self, seq: u64, f: impl FnOnce(i64, &E) -> Option<R>) -> Option<R> {
        let (Some(block), Some(_)) = (&self.block, self.readable_from(seq)) else {
            return None;
        };
        block.slots[(seq - self.range.0) as usize].with(|slot| {
            // SAFETY: as in `for_each`.
            #[allow(unsafe_code)]
            let slot = unsafe { &*slot };
            slot.event
                .as_ref()
                .and_then(|event| f(slot.stamp_ms, event))
        })
    }
}
