//! Rings that ron-bus could have, each as small as it can be while it still is one: many publishers, exact capacity,
//! readers that learn how many events they missed and whose positions others can see, and a look at who is parked at
//! every publish. No accounts, lanes or closing, which cost each of them the same. The number of slots is a power of
//! two; a capacity that is not takes the next one and the same arithmetic.

use super::{Event, Payload};
use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::mem::{replace, take};
use std::sync::atomic::{fence, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::task::Waker;

/// Events that pass through the stack per locking of a batch.
const CHUNK: usize = 16;

/// A ring for `E` under trial. Numbers begin at 0.
pub trait Design<E>: Send + Sync + 'static {
    type Reader: Send;
    fn new(capacity: usize) -> Self;
    fn publish(&self, event: E);
    fn publish_many(&self, events: impl Iterator<Item = E>);
    /// A reader from the next event on, and where it can be seen how many events it is done with.
    fn reader(&self) -> (Self::Reader, Arc<AtomicU64>);
    /// The next event, if any, or how many were missed.
    fn try_recv(&self, reader: &mut Self::Reader) -> Option<Result<E, u64>>;
    /// Appends up to `max` events, at least one if any waits; or how many were missed.
    fn recv_many(
        &self,
        reader: &mut Self::Reader,
        out: &mut Vec<E>,
        max: usize,
    ) -> Result<usize, u64>;
}

/// Where a reader is.
pub struct Cursor {
    next: u64,
    seen: Arc<AtomicU64>,
}

impl Cursor {
    fn at(next: u64) -> (Cursor, Arc<AtomicU64>) {
        let seen = Arc::new(AtomicU64::new(next));
        let others = Arc::clone(&seen);
        (Cursor { next, seen }, others)
    }

    fn advance(&mut self, events: u64) {
        self.next += events;
        self.seen.store(self.next, Ordering::Release);
    }

    /// Moves to `tail` if it is beyond; returns how many were missed.
    fn skip_to(&mut self, tail: u64) -> Option<u64> {
        let missed = tail.checked_sub(self.next).filter(|missed| *missed > 0)?;
        self.advance(missed);
        Some(missed)
    }
}

/// What is behind the publishers' lock in each design that has one.
#[derive(Default)]
struct Head {
    next: u64,
    parked: Vec<Waker>,
}

impl Head {
    fn unpark(&mut self) -> Vec<Waker> {
        if self.parked.is_empty() {
            return Vec::new();
        }
        take(&mut self.parked)
    }
}

fn wake(wakers: Vec<Waker>) {
    for waker in wakers {
        waker.wake();
    }
}

/// Takes up to a chunk out of `events`.
fn chunk<E>(events: &mut impl Iterator<Item = E>) -> ([Option<E>; CHUNK], usize) {
    let mut chunk = [const { None }; CHUNK];
    let mut filled = 0;
    for (place, event) in chunk.iter_mut().zip(events) {
        *place = Some(event);
        filled += 1;
    }
    (chunk, filled)
}

fn power_of_two(capacity: usize) -> u64 {
    assert!(capacity.is_power_of_two());
    capacity as u64
}

/// One mutex around everything; a slot is an `Arc`, cloned under the lock and read outside it.
pub struct OneMutex<E> {
    state: Mutex<(Head, Vec<Arc<E>>)>,
    capacity: u64,
}

impl<E> OneMutex<E> {
    fn index(&self, number: u64) -> usize {
        (number & (self.capacity - 1)) as usize
    }

    /// Leaves in `event` what must be dropped outside the lock; a slot that is being read is replaced.
    fn push(
        &self,
        (head, slots): &mut (Head, Vec<Arc<E>>),
        event: &mut Option<E>,
    ) -> Option<Arc<E>> {
        let index = self.index(head.next);
        head.next += 1;
        let new = event.take()?;
        let Some(slot) = slots.get_mut(index) else {
            slots.push(Arc::new(new));
            return None;
        };
        match Arc::get_mut(slot) {
            Some(old) => {
                *event = Some(replace(old, new));
                None
            }
            None => Some(replace(slot, Arc::new(new))),
        }
    }
}

impl<E: Payload> Design<E> for OneMutex<E> {
    type Reader = (Cursor, Vec<Arc<E>>);

    fn new(capacity: usize) -> Self {
        OneMutex {
            state: Mutex::new((Head::default(), Vec::with_capacity(capacity))),
            capacity: power_of_two(capacity),
        }
    }

    fn publish(&self, event: E) {
        let mut event = Some(event);
        let mut state = self.state.lock().expect("not poisoned");
        let replaced = self.push(&mut state, &mut event);
        let parked = state.0.unpark();
        drop(state);
        drop((replaced, event));
        wake(parked);
    }

    fn publish_many(&self, mut events: impl Iterator<Item = E>) {
        loop {
            let (mut chunk, filled) = chunk(&mut events);
            if filled == 0 {
                return;
            }
            let mut replaced = [const { None }; CHUNK];
            let mut state = self.state.lock().expect("not poisoned");
            for (event, replaced) in chunk[..filled].iter_mut().zip(&mut replaced) {
                *replaced = self.push(&mut state, event);
            }
            let parked = state.0.unpark();
            drop(state);
            wake(parked);
        }
    }

    fn reader(&self) -> (Self::Reader, Arc<AtomicU64>) {
        let (cursor, seen) = Cursor::at(self.state.lock().expect("not poisoned").0.next);
        ((cursor, Vec::new()), seen)
    }

    fn try_recv(&self, (cursor, _): &mut Self::Reader) -> Option<Result<E, u64>> {
        let state = self.state.lock().expect("not poisoned");
        let (head, slots) = &*state;
        if let Some(missed) = cursor.skip_to(head.next.saturating_sub(self.capacity)) {
            return Some(Err(missed));
        }
        if cursor.next == head.next {
            return None;
        }
        let event = Arc::clone(&slots[self.index(cursor.next)]);
        drop(state);
        let cloned = E::clone(&event);
        cursor.advance(1);
        Some(Ok(cloned))
    }

    fn recv_many(
        &self,
        (cursor, claimed): &mut Self::Reader,
        out: &mut Vec<E>,
        max: usize,
    ) -> Result<usize, u64> {
        let state = self.state.lock().expect("not poisoned");
        let (head, slots) = &*state;
        if let Some(missed) = cursor.skip_to(head.next.saturating_sub(self.capacity)) {
            return Err(missed);
        }
        let numbers = cursor.next..head.next.min(cursor.next + max as u64);
        claimed.extend(numbers.map(|n| Arc::clone(&slots[self.index(n)])));
        drop(state);
        let count = claimed.len();
        out.extend(claimed.drain(..).map(|event| E::clone(&event)));
        cursor.advance(count as u64);
        Ok(count)
    }
}

/// A mutex among publishers and a read-write lock per block of `B` slots, under which readers clone. With `B` = 1, one
/// lock per slot.
pub struct BlockLocks<E, const B: usize> {
    head: Mutex<Head>,
    blocks: Box<[LockedBlock<E, B>]>,
    capacity: u64,
}

/// Each event with its number.
type LockedBlock<E, const B: usize> = RwLock<[(u64, Option<E>); B]>;

impl<E: Payload, const B: usize> BlockLocks<E, B> {
    fn block(&self, number: u64) -> (&LockedBlock<E, B>, usize) {
        let slot = (number & (self.capacity - 1)) as usize;
        (&self.blocks[slot / B], slot % B)
    }

    /// Why there is no event at the cursor in a block whose lock is not held.
    fn absent(&self, cursor: &mut Cursor) -> Option<u64> {
        let head = self.head.lock().expect("not poisoned").next;
        cursor.skip_to(head.saturating_sub(self.capacity))
    }
}

impl<E: Payload, const B: usize> Design<E> for BlockLocks<E, B> {
    type Reader = Cursor;

    fn new(capacity: usize) -> Self {
        let empty = || RwLock::new([const { (u64::MAX, None) }; B]);
        BlockLocks {
            head: Mutex::default(),
            blocks: (0..capacity / B).map(|_| empty()).collect(),
            capacity: power_of_two(capacity),
        }
    }

    fn publish(&self, event: E) {
        let mut head = self.head.lock().expect("not poisoned");
        let (block, slot) = self.block(head.next);
        let new = (head.next, Some(event));
        let replaced = replace(&mut block.write().expect("not poisoned")[slot], new);
        head.next += 1;
        let parked = head.unpark();
        drop(head);
        drop(replaced);
        wake(parked);
    }

    fn publish_many(&self, mut events: impl Iterator<Item = E>) {
        loop {
            let (mut chunk, filled) = chunk(&mut events);
            if filled == 0 {
                return;
            }
            let mut head = self.head.lock().expect("not poisoned");
            let mut left = &mut chunk[..filled];
            while !left.is_empty() {
                let (block, first) = self.block(head.next);
                let mut block = block.write().expect("not poisoned");
                let (here, rest) = left.split_at_mut(left.len().min(B - first));
                for (slot, event) in block[first..].iter_mut().zip(here) {
                    slot.0 = head.next;
                    std::mem::swap(&mut slot.1, event);
                    head.next += 1;
                }
                left = rest;
            }
            let parked = head.unpark();
            drop(head);
            wake(parked);
        }
    }

    fn reader(&self) -> (Cursor, Arc<AtomicU64>) {
        Cursor::at(self.head.lock().expect("not poisoned").next)
    }

    fn try_recv(&self, cursor: &mut Cursor) -> Option<Result<E, u64>> {
        let (block, slot) = self.block(cursor.next);
        let block = block.read().expect("not poisoned");
        if let (number, Some(event)) = &block[slot] {
            if *number == cursor.next {
                let event = event.clone();
                drop(block);
                cursor.advance(1);
                return Some(Ok(event));
            }
        }
        drop(block);
        self.absent(cursor).map(Err)
    }

    fn recv_many(&self, cursor: &mut Cursor, out: &mut Vec<E>, max: usize) -> Result<usize, u64> {
        let before = out.len();
        loop {
            let (block, first) = self.block(cursor.next);
            let block = block.read().expect("not poisoned");
            let mut next = cursor.next;
            for (number, event) in &block[first..] {
                let Some(event) = event.as_ref().filter(|_| *number == next) else {
                    break;
                };
                if out.len() - before == max {
                    break;
                }
                out.push(event.clone());
                next += 1;
            }
            drop(block);
            let taken = next - cursor.next;
            let ended = (first as u64 + taken) < B as u64 || out.len() - before == max;
            cursor.advance(taken);
            if out.len() == before {
                return self.absent(cursor).map_or(Ok(0), Err);
            }
            if ended {
                return Ok(out.len() - before);
            }
        }
    }
}

/// Slots per block of [`Pinned`].
const BLOCK: usize = 64;

/// A place that is written once between two clearings.
pub trait Place<E>: Default + Send + Sync + 'static {
    /// # Safety
    ///
    /// Nobody else puts or reads at the same time.
    unsafe fn put(&self, event: E);
    /// # Safety
    ///
    /// The put, if any, happened before.
    unsafe fn read(&self) -> Option<&E>;
    fn clear(&mut self);
}

/// Without unsafe code underneath ours.
impl<E: Payload> Place<E> for OnceLock<E> {
    unsafe fn put(&self, event: E) {
        let _ = self.set(event);
    }

    unsafe fn read(&self) -> Option<&E> {
        self.get()
    }

    fn clear(&mut self) {
        self.take();
    }
}

/// Plain memory.
pub struct Raw<E>(UnsafeCell<Option<E>>);

// SAFETY: shared access is by `put` and `read`, whose callers keep them apart.
unsafe impl<E: Send + Sync> Sync for Raw<E> {}

impl<E> Default for Raw<E> {
    fn default() -> Self {
        Raw(UnsafeCell::new(None))
    }
}

impl<E: Payload> Place<E> for Raw<E> {
    unsafe fn put(&self, event: E) {
        // SAFETY: the caller's promise.
        unsafe { *self.0.get() = Some(event) };
    }

    unsafe fn read(&self) -> Option<&E> {
        // SAFETY: the caller's promise; `clear` takes `&mut`.
        unsafe { (*self.0.get()).as_ref() }
    }

    fn clear(&mut self) {
        self.0.get_mut().take();
    }
}

/// A mutex among publishers and blocks of slots that are never written again while a reader holds them, so that
/// readers of a block need no lock. Readers take the mutex once per block.
pub struct Pinned<P> {
    state: Mutex<Blocks<P>>,
    published: AtomicU64,
    capacity: u64,
}

type Block<P> = [P; BLOCK];

/// The number of the block that a reader holds, and the block.
type Pin<P> = Option<(u64, Arc<Block<P>>)>;

struct Blocks<P> {
    head: Head,
    live: VecDeque<Arc<Block<P>>>,
    /// The number of the oldest of them.
    first: u64,
    spare: Option<Arc<Block<P>>>,
}

impl<P: Default> Blocks<P> {
    /// Writes the next event; returns a block that is no longer needed.
    fn push<E>(&mut self, event: E, capacity: u64) -> Option<Arc<Block<P>>>
    where
        P: Place<E>,
    {
        let (slot, mut retired) = (self.head.next as usize % BLOCK, None);
        if slot == 0 {
            let empty = || Arc::new(std::array::from_fn(|_| P::default()));
            let block = self.spare.take().unwrap_or_else(empty);
            self.live.push_back(block);
            if self.live.len() > capacity as usize / BLOCK + 1 {
                retired = self.live.pop_front();
                self.first += 1;
            }
        }
        // SAFETY: only here, under the mutex; readers stay below `published`, which is raised afterwards.
        unsafe { self.live[self.live.len() - 1][slot].put(event) };
        self.head.next += 1;
        retired
    }
}

impl<P> Pinned<P> {
    /// Empties the block and keeps it, unless a reader still holds it.
    fn recycle<E>(&self, retired: Option<Arc<Block<P>>>)
    where
        P: Place<E>,
    {
        let Some(mut block) = retired else { return };
        if let Some(places) = Arc::get_mut(&mut block) {
            places.iter_mut().for_each(P::clear);
            self.state.lock().expect("not poisoned").spare = Some(block);
        }
    }

    /// Pins the block of the next event, if it is still there.
    fn pin(&self, (cursor, pinned): &mut (Cursor, Pin<P>)) -> bool {
        let number = cursor.next / BLOCK as u64;
        if pinned.as_ref().is_some_and(|(pinned, _)| *pinned == number) {
            return true;
        }
        let state = self.state.lock().expect("not poisoned");
        let index = number.checked_sub(state.first);
        let block = index.and_then(|index| state.live.get(index as usize));
        let block = block.map(|block| (number, Arc::clone(block)));
        drop(state);
        *pinned = block;
        pinned.is_some()
    }
}

impl<E: Payload, P: Place<E>> Design<E> for Pinned<P> {
    type Reader = (Cursor, Pin<P>);

    fn new(capacity: usize) -> Self {
        let state = Mutex::new(Blocks {
            head: Head::default(),
            live: VecDeque::with_capacity(capacity / BLOCK + 2),
            first: 0,
            spare: None,
        });
        Pinned {
            state,
            published: AtomicU64::new(0),
            capacity: power_of_two(capacity),
        }
    }

    fn publish(&self, event: E) {
        let mut state = self.state.lock().expect("not poisoned");
        let retired = state.push(event, self.capacity);
        self.published.store(state.head.next, Ordering::Release);
        let parked = state.head.unpark();
        drop(state);
        wake(parked);
        self.recycle(retired);
    }

    fn publish_many(&self, mut events: impl Iterator<Item = E>) {
        loop {
            let (chunk, filled) = chunk(&mut events);
            if filled == 0 {
                return;
            }
            let mut retired = None;
            let mut state = self.state.lock().expect("not poisoned");
            for event in chunk.into_iter().flatten() {
                retired = state.push(event, self.capacity).or(retired);
            }
            self.published.store(state.head.next, Ordering::Release);
            let parked = state.head.unpark();
            drop(state);
            wake(parked);
            self.recycle(retired);
        }
    }

    fn reader(&self) -> (Self::Reader, Arc<AtomicU64>) {
        let (cursor, seen) = Cursor::at(self.state.lock().expect("not poisoned").head.next);
        ((cursor, None), seen)
    }

    fn try_recv(&self, reader: &mut Self::Reader) -> Option<Result<E, u64>> {
        loop {
            let published = self.published.load(Ordering::Acquire);
            let tail = published.saturating_sub(self.capacity);
            if let Some(missed) = reader.0.skip_to(tail) {
                return Some(Err(missed));
            }
            if reader.0.next == published {
                return None;
            }
            if self.pin(reader) {
                let (cursor, Some((_, block))) = reader else {
                    return None;
                };
                // SAFETY: below `published`, and not cleared while we hold the block.
                let event = unsafe { block[cursor.next as usize % BLOCK].read() }?.clone();
                cursor.advance(1);
                return Some(Ok(event));
            }
        }
    }

    fn recv_many(
        &self,
        reader: &mut Self::Reader,
        out: &mut Vec<E>,
        max: usize,
    ) -> Result<usize, u64> {
        let before = out.len();
        loop {
            let published = self.published.load(Ordering::Acquire);
            let tail = published.saturating_sub(self.capacity);
            if out.len() == before {
                reader.0.skip_to(tail).map_or(Ok(()), Err)?;
            }
            let left = max - (out.len() - before);
            let until = published.min(reader.0.next + left as u64);
            if reader.0.next >= until || tail > reader.0.next {
                return Ok(out.len() - before);
            }
            if !self.pin(reader) {
                continue;
            }
            let (cursor, Some((_, block))) = &mut *reader else {
                continue;
            };
            let first = cursor.next as usize % BLOCK;
            let count = (BLOCK - first).min((until - cursor.next) as usize);
            // SAFETY: as above, for each of them.
            let read = |place: &P| unsafe { place.read() }.cloned();
            out.extend(block[first..first + count].iter().filter_map(read));
            cursor.advance(count as u64);
        }
    }
}

/// No lock: a publisher claims a number and then owns its slot until it stamps it. Readers copy and look whether the
/// stamp has stayed, which only plain data allows; here as words, so that even the race is defined.
pub struct Stamped {
    claimed: AtomicU64,
    slots: Box<[Slot]>,
    /// How many `wakers`.
    parked: AtomicUsize,
    wakers: Mutex<Vec<Waker>>,
}

struct Slot {
    /// 0, or one more than the number of the event; while it is written, `BUSY`.
    stamp: AtomicU64,
    words: [AtomicU64; 8],
}

const BUSY: u64 = u64::MAX;

impl Stamped {
    /// Writes all but the stamp, after the one a lap before.
    fn write(&self, number: u64, event: Event) -> &AtomicU64 {
        let slots = self.slots.len() as u64;
        let slot = &self.slots[(number & (slots - 1)) as usize];
        let before = (number + 1).saturating_sub(slots);
        while slot.stamp.load(Ordering::Acquire) != before {
            std::hint::spin_loop();
        }
        slot.stamp.store(BUSY, Ordering::Relaxed);
        fence(Ordering::Release);
        for (word, value) in slot.words.iter().zip(event.0) {
            word.store(value, Ordering::Relaxed);
        }
        &slot.stamp
    }

    fn copy(&self, cursor: &mut Cursor) -> Option<Event> {
        let slot = &self.slots[cursor.next as usize & (self.slots.len() - 1)];
        let stamp = cursor.next + 1;
        if slot.stamp.load(Ordering::Acquire) != stamp {
            return None;
        }
        let words = std::array::from_fn(|i| slot.words[i].load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        if slot.stamp.load(Ordering::Relaxed) != stamp {
            return None;
        }
        cursor.advance(1);
        Some(Event(words))
    }

    /// What is claimed displaces, written or not.
    fn missed(&self, cursor: &mut Cursor) -> Option<u64> {
        let claimed = self.claimed.load(Ordering::Relaxed);
        cursor.skip_to(claimed.saturating_sub(self.slots.len() as u64))
    }

    fn unpark(&self) {
        if self.parked.load(Ordering::SeqCst) > 0 {
            let wakers = take(&mut *self.wakers.lock().expect("not poisoned"));
            self.parked.fetch_sub(wakers.len(), Ordering::SeqCst);
            wake(wakers);
        }
    }
}

impl Design<Event> for Stamped {
    type Reader = Cursor;

    fn new(capacity: usize) -> Self {
        let empty = |_| Slot {
            stamp: AtomicU64::new(0),
            words: Default::default(),
        };
        Stamped {
            claimed: AtomicU64::new(0),
            slots: (0..power_of_two(capacity)).map(empty).collect(),
            parked: AtomicUsize::new(0),
            wakers: Mutex::default(),
        }
    }

    fn publish(&self, event: Event) {
        let number = self.claimed.fetch_add(1, Ordering::Relaxed);
        // Publishes, and orders that against a reader that parks.
        self.write(number, event).swap(number + 1, Ordering::SeqCst);
        self.unpark();
    }

    fn publish_many(&self, mut events: impl Iterator<Item = Event>) {
        loop {
            let (chunk, filled) = chunk(&mut events);
            if filled == 0 {
                return;
            }
            let first = self.claimed.fetch_add(filled as u64, Ordering::Relaxed);
            for (number, event) in (first..).zip(chunk.into_iter().flatten()) {
                self.write(number, event)
                    .store(number + 1, Ordering::Release);
            }
            fence(Ordering::SeqCst);
            self.unpark();
        }
    }

    fn reader(&self) -> (Cursor, Arc<AtomicU64>) {
        Cursor::at(self.claimed.load(Ordering::Relaxed))
    }

    fn try_recv(&self, cursor: &mut Cursor) -> Option<Result<Event, u64>> {
        match self.copy(cursor) {
            Some(event) => Some(Ok(event)),
            None => self.missed(cursor).map(Err),
        }
    }

    fn recv_many(
        &self,
        cursor: &mut Cursor,
        out: &mut Vec<Event>,
        max: usize,
    ) -> Result<usize, u64> {
        let before = out.len();
        out.extend(std::iter::from_fn(|| self.copy(cursor)).take(max));
        match out.len() - before {
            0 => self.missed(cursor).map_or(Ok(0), Err),
            taken => Ok(taken),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a test for every design.
    macro_rules! every_design {
        ($test:ident) => {
            $test::<OneMutex<Event>>();
            $test::<BlockLocks<Event, 1>>();
            $test::<BlockLocks<Event, 32>>();
            $test::<Pinned<OnceLock<Event>>>();
            $test::<Pinned<Raw<Event>>>();
            $test::<Stamped>();
        };
    }

    #[test]
    fn a_reader_is_told_exactly_what_was_overwritten() {
        fn test<D: Design<Event>>() {
            let ring = D::new(128);
            let (mut one, _) = ring.reader();
            let (mut many, seen) = ring.reader();
            for number in 0..100 {
                ring.publish(Event::new(number));
            }
            ring.publish_many((100..1000).map(Event::new));
            assert!(matches!(ring.try_recv(&mut one), Some(Err(872))));
            let mut out = Vec::new();
            assert_eq!(ring.recv_many(&mut many, &mut out, 64), Err(872));
            for number in 872..1000 {
                let event = ring.try_recv(&mut one);
                assert!(matches!(event, Some(Ok(event)) if event.number() == number));
            }
            while ring.recv_many(&mut many, &mut out, 50) != Ok(0) {}
            let numbers: Vec<u64> = out.iter().map(Event::number).collect();
            assert_eq!(numbers, (872..1000).collect::<Vec<u64>>());
            assert_eq!(seen.load(Ordering::Relaxed), 1000);
            assert!(ring.try_recv(&mut one).is_none());
        }
        every_design!(test);
    }

    /// On two slots, so that the reader is overrun in the middle of a copy now and then.
    #[test]
    fn a_stamped_slot_is_never_read_torn() {
        let ring = Stamped::new(2);
        let (mut reader, _) = ring.reader();
        std::thread::scope(|scope| {
            let ring = &ring;
            scope.spawn(move || (0..2_000_000).for_each(|number| ring.publish(Event::new(number))));
            let (mut received, mut missed) = (0, 0);
            while received + missed < 2_000_000 {
                match ring.try_recv(&mut reader) {
                    Some(Ok(Event(words))) => {
                        assert_eq!(words, [received + missed; 8]);
                        received += 1;
                    }
                    Some(Err(gap)) => missed += gap,
                    None => std::hint::spin_loop(),
                }
            }
        });
    }

    #[test]
    fn two_publishers_lose_nothing_beyond_what_the_reader_is_told() {
        const EACH: u64 = 50_000;
        fn test<D: Design<Event>>() {
            let ring = D::new(128);
            let (mut reader, _) = ring.reader();
            std::thread::scope(|scope| {
                for publisher in 0..2 {
                    let ring = &ring;
                    scope.spawn(move || {
                        let event = |number| Event([publisher, number, 0, 0, 0, 0, 0, number]);
                        for number in 0..EACH / 2 {
                            ring.publish(event(number));
                        }
                        ring.publish_many((EACH / 2..EACH).map(event));
                    });
                }
                let (mut received, mut missed, mut next) = (0, 0, [0; 2]);
                let mut out = Vec::new();
                while received + missed < 2 * EACH {
                    match ring.recv_many(&mut reader, &mut out, 40) {
                        Ok(_) => {}
                        Err(gap) => missed += gap,
                    }
                    for Event([publisher, number, .., last]) in out.drain(..) {
                        assert_eq!(number, last, "torn");
                        assert!(number >= next[publisher as usize], "out of order");
                        next[publisher as usize] = number + 1;
                        received += 1;
                    }
                }
                assert_eq!(received + missed, 2 * EACH);
                assert!(received > 0);
            });
            assert!(ring.try_recv(&mut reader).is_none());
        }
        every_design!(test);
    }
}
