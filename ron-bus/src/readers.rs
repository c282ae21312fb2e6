//! The readers of one topic: positions, buffers, accounts, and the lists they wait in. Plain bookkeeping under the
//! topic's lock; runs no code of the user.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use crate::account::{Account, Lost, NameStats, ReaderStats};
use crate::interest::{Class, Interest};
use crate::queue::{Buffer, Control, ControlEntry, Missed, Node, Pressed};
use crate::subscriber::{Gap, Lane, Policy};
use crate::sync::{self, fence, AtomicU64, Ordering, Padded};

/// Names with an account of their own per topic: more than a screen of readers, and a bound on metric series.
const NAMES_MAX: usize = 64;
const NAME_OF_THE_REST: &str = "other";
/// Classes looked at per locking.
pub(crate) const CLASSES_PER_LOCK: u64 = 512;
/// Wakers taken out per locking, so that the list fits on the stack.
const WAKE_BATCH: usize = 32;

/// How far a cursor reader is in the data lane. Written by the reader alone, and read under the topic's lock.
///
/// `position` is the first event whose fate is open; `position..claim` are in the reader's hands and will be delivered
/// even if the ring has passed them. A reader claims without the lock: it raises `claim`, issues a `SeqCst` fence, and
/// then looks whether the ring has passed the claim. Who judges a reader under the lock, after the head was raised,
/// issues a `SeqCst` fence and then looks at `claim`. So either the judge sees the claim, or the reader sees the head
/// and gives the claim back; a judge that saw none says so in `Reader::judge`. `claim` is lowered under the lock only.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) position: AtomicU64,
    pub(crate) claim: AtomicU64,
}

/// What a topic has published, for accounts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extents<'a> {
    pub(crate) tail: u64,
    pub(crate) next: u64,
    pub(crate) classes: Option<&'a ClassCounts>,
    /// Whether the topic is sealed by a last event.
    pub(crate) last: bool,
}

/// Data events by class, on a topic that has had a reader with an interest.
#[derive(Debug)]
pub(crate) struct ClassCounts {
    /// Classes of the events in the ring, by sequence number modulo its capacity.
    recent: Vec<Option<Class>>,
    published: [u64; Class::COUNT],
    /// Of these, older than the tail.
    expired: [u64; Class::COUNT],
    /// Events in the ring before this one have no class yet; 0 once they have.
    unknown_before: u64,
}

impl ClassCounts {
    pub(crate) fn new(next: u64, capacity: usize) -> Self {
        Self {
            recent: vec![None; capacity],
            published: [0; Class::COUNT],
            expired: [0; Class::COUNT],
            unknown_before: next,
        }
    }

    /// The newest event has this class, and the oldest retained one may be overwritten.
    pub(crate) fn publish(&mut self, seq: u64, class: Option<Class>) {
        let expired = std::mem::replace(self.place(seq), class);
        if let Some(class) = expired {
            self.expired[usize::from(class.index())] += 1;
        }
        if let Some(class) = class {
            self.published[usize::from(class.index())] += 1;
        }
    }

    /// Where the events in the ring begin and end that were published before anyone asked for classes.
    pub(crate) fn unknown(&self, tail: u64) -> Option<(u64, u64)> {
        (tail < self.unknown_before).then_some((tail, self.unknown_before))
    }

    /// Fills in the classes of the events from `first` on, as far as they are unknown. Those that left the ring
    /// meanwhile are of no interest to anybody who could ask.
    pub(crate) fn resolve(&mut self, first: u64, classes: &[Class], tail: u64) {
        if self.unknown_before == 0 {
            return;
        }
        for (seq, class) in (first..).zip(classes) {
            if seq >= tail {
                *self.place(seq) = Some(*class);
                self.published[usize::from(class.index())] += 1;
            }
        }
        self.unknown_before = 0;
    }

    pub(crate) fn class_of(&self, seq: u64) -> Option<Class> {
        self.recent[(seq % self.recent.len() as u64) as usize]
    }

    /// Whether the event `seq`, which must be in the ring, is of interest.
    pub(crate) fn wants(&self, seq: u64, interest: Interest) -> bool {
        self.class_of(seq)
            .is_some_and(|class| interest.contains(class))
    }

    fn place(&mut self, seq: u64) -> &mut Option<Class> {
        let place = (seq % self.recent.len() as u64) as usize;
        &mut self.recent[place]
    }

    fn sum(counts: &[u64; Class::COUNT], interest: Interest) -> u64 {
        let mut left = interest.0;
        let mut sum = 0;
        while left != 0 {
            sum += counts[left.trailing_zeros() as usize];
            left &= left - 1;
        }
        sum
    }

    /// How many of `from..to` are of interest; all of them must be in the ring.
    pub(crate) fn matching(&self, from: u64, to: u64, interest: Interest) -> u64 {
        (from..to).filter(|seq| self.wants(*seq, interest)).count() as u64
    }

    /// Events of interest published so far.
    pub(crate) fn matching_ever(&self, interest: Interest) -> u64 {
        Self::sum(&self.published, interest)
    }
}

/// Who a reader is.
pub(crate) struct ReaderSpec {
    pub(crate) name: Arc<str>,
    pub(crate) policy: Policy,
    pub(crate) interest: Option<Interest>,
    /// A tail: not counted against the limit on readers.
    pub(crate) unlimited: bool,
}

/// How a reader gets its data events.
pub(crate) enum Source<E> {
    /// From the ring.
    Cursor(Arc<Padded<Progress>>),
    /// From its own buffer.
    Queued(Box<Queued<E>>),
}

/// What a reader with a buffer of its own has.
pub(crate) struct Queued<E> {
    pub(crate) buffer: Buffer<E>,
    /// Retained events that come before those in the buffer.
    pub(crate) history: u64,
    /// How long `publish_wait` waits for a full `Block` reader.
    pub(crate) deadline: Duration,
    /// The key function of a `Conflate` reader.
    pub(crate) key_of: Option<fn(&E) -> u64>,
}

pub(crate) struct Reader<E> {
    name: Arc<str>,
    /// Where in `live` its slot stands.
    place: usize,
    /// Tells it from every other reader of the topic, and older from newer.
    pub(crate) serial: u64,
    unlimited: bool,
    group: usize,
    pub(crate) policy: Policy,
    pub(crate) interest: Option<Interest>,
    pub(crate) source: Source<E>,
    pub(crate) control: Control<E>,
    /// Whether the event that sealed the topic is settled.
    pub(crate) last_settled: bool,
    /// Data events before this one are not offered.
    start: u64,
    /// Set when the reader was cut off: data events from here on are not offered.
    end: Option<u64>,
    /// Events from `judged_floor` to before `judged_tail` are lost, whatever the reader claims.
    judged_tail: u64,
    judged_floor: u64,
    /// Events of interest before `start`, by the topic's counts.
    start_matching: u64,
    /// Events behind `start` and before `position` that are not of interest.
    skipped: u64,
    control_offered: u64,
    /// What was not taken from the ring and delivered.
    delivered_otherwise: u64,
    /// What was settled in the ring and not delivered.
    undelivered: u64,
    filtered: u64,
    conflated: u64,
    lost: Lost,
    /// Connected -> cut off, for good; the gap is what the reader is told.
    pub(crate) cut: Option<Gap>,
    /// Present while the reader is parked.
    waker: Option<Waker>,
}

impl<E> Queued<E> {
    /// Whether it is one that publishers may wait for, and has no room.
    pub(crate) fn is_full(&self) -> bool {
        matches!(&self.buffer, Buffer::Fifo(fifo) if fifo.is_full())
    }
}

/// Unread control events of a reader that was cut off.
pub(crate) type Remains<E> = VecDeque<ControlEntry<E>>;

/// What a reader did with data events it had claimed from the ring.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) settled: u64,
    pub(crate) filtered: u64,
    pub(crate) panicked: u64,
}

impl<E> Reader<E> {
    pub(crate) fn wants(&self, class: Option<Class>) -> bool {
        match (self.interest, class) {
            (Some(interest), Some(class)) => interest.contains(class),
            _ => true,
        }
    }

    /// The position, and the first event that is neither settled nor in the reader's hands. Behind a fence.
    fn position_and_floor(&self) -> (u64, u64) {
        let Source::Cursor(progress) = &self.source else {
            return (self.start, self.start);
        };
        // In this order: a claim seen is then never older than the position.
        let position = progress.0.position.load(Ordering::Acquire);
        let mut floor = progress.0.claim.load(Ordering::Acquire);
        if position < self.judged_tail {
            floor = floor.min(self.judged_floor);
        }
        (position, floor.max(position))
    }

    /// Makes what the ring has passed a loss for good: a claim that is not seen by now will be given back, and must
    /// not be taken for one until then.
    fn judge(&mut self, extents: Extents<'_>) {
        let (_, floor) = self.position_and_floor();
        if floor < extents.tail && self.end.is_none() {
            self.judged_tail = extents.tail;
            self.judged_floor = floor;
        }
    }

    /// Events of interest before `seq`, by the topic's counts; `seq` is at or behind the reader's position.
    fn matching_before(&self, seq: u64) -> u64 {
        self.start_matching + (seq - self.start) - self.skipped
    }

    /// Events in `floor..tail`, all of them and those of interest.
    fn missed(&self, floor: u64, extents: Extents<'_>) -> u64 {
        if self.end.is_some() || floor >= extents.tail {
            return 0;
        }
        match (self.interest, extents.classes) {
            (Some(interest), Some(classes)) => {
                ClassCounts::sum(&classes.expired, interest) - self.matching_before(floor)
            }
            _ => extents.tail - floor,
        }
    }

    /// Events of interest at `floor` or behind it that are still in the ring.
    fn waiting(&self, floor: u64, extents: Extents<'_>) -> u64 {
        if self.end.is_some() {
            return 0;
        }
        match (self.interest, extents.classes) {
            (Some(interest), Some(classes)) => {
                let expired = ClassCounts::sum(&classes.expired, interest);
                let seen = match floor >= extents.tail {
                    true => self.matching_before(floor),
                    false => expired,
                };
                ClassCounts::sum(&classes.published, interest) - seen
            }
            _ => extents.next - floor.max(extents.tail),
        }
    }

    /// Up to which tail a reader that has missed nothing is sure to miss nothing. One with an interest is looked at
    /// again when the next event it wants is about to go, or some hundred events later.
    fn safe_until(&self, floor: u64, extents: Extents<'_>) -> u64 {
        let from = floor.max(extents.tail);
        match (self.interest, extents.classes) {
            (Some(interest), Some(classes)) => {
                let to = extents.next.min(from + CLASSES_PER_LOCK);
                from + (from..to)
                    .take_while(|seq| !classes.wants(*seq, interest))
                    .count() as u64
            }
            _ => from,
        }
    }

    /// Whether [`observe_gap`](Self::observe_gap) would find a loss.
    pub(crate) fn has_missed(&self, extents: Extents<'_>) -> bool {
        let (_, floor) = self.position_and_floor();
        self.missed(floor, extents) > 0
    }

    /// Moves a cursor past events that were overwritten unread, if there are any, and says which of interest.
    ///
    /// `Err` holds what a `Disconnect` reader, now cut off, leaves behind.
    pub(crate) fn observe_gap(&mut self, extents: Extents<'_>) -> Result<Option<Gap>, Remains<E>> {
        let (position, floor) = self.position_and_floor();
        let missed = self.missed(floor, extents);
        let Source::Cursor(progress) = &self.source else {
            return Ok(None);
        };
        if floor >= extents.tail {
            return Ok(None);
        }
        if missed > 0 && self.policy == Policy::Disconnect {
            return Err(self.cut_off_from_data(extents));
        }
        let progress = Arc::clone(progress);
        let passed = extents.tail - position;
        self.skipped += passed - missed;
        self.undelivered += passed;
        self.filtered += passed - missed;
        self.lost.lagged += missed;
        progress.0.claim.store(extents.tail, Ordering::Release);
        progress.0.position.store(extents.tail, Ordering::Release);
        Ok((missed > 0).then_some(Gap {
            lane: Lane::Data,
            first_missed: position,
            last_missed: extents.tail - 1,
            missed,
        }))
    }

    /// Gives back a claim of which nothing was handed out. What a reader that was cut off gives back is lost with the
    /// rest.
    pub(crate) fn give_back(&mut self) {
        let (position, floor) = self.position_and_floor();
        let Source::Cursor(progress) = &self.source else {
            return;
        };
        let Some(gap) = &mut self.cut else {
            return progress.0.claim.store(position, Ordering::Release);
        };
        let returned = floor - position;
        self.lost.disconnected += returned;
        self.undelivered += returned;
        if gap.lane == Lane::Data && returned > 0 {
            gap.first_missed = position;
            gap.missed += returned;
        }
        progress.0.position.store(floor, Ordering::Release);
        progress.0.claim.store(floor, Ordering::Release);
    }

    /// Cuts the reader off because it lost a data event; returns its unread control events, which must be dropped
    /// outside the lock.
    fn cut_off_from_data(&mut self, extents: Extents<'_>) -> Remains<E> {
        let (_, floor) = self.position_and_floor();
        let missed = self.missed(floor, extents) + self.waiting(floor, extents);
        let gap = Gap {
            lane: Lane::Data,
            first_missed: floor,
            last_missed: extents.next - 1,
            missed,
        };
        self.cut_off(gap, extents)
    }

    /// Cuts the reader off because the control event `seq` found no room; returns the same.
    fn cut_off_from_control(&mut self, seq: u64, extents: Extents<'_>) -> Remains<E> {
        let unread = self.control.unread() + 1;
        let gap = Gap {
            lane: Lane::Control,
            first_missed: self.control.front().unwrap_or(seq),
            last_missed: seq,
            missed: unread,
        };
        self.lost.disconnected += 1;
        self.cut_off(gap, extents)
    }

    fn cut_off(&mut self, gap: Gap, extents: Extents<'_>) -> Remains<E> {
        let (_, floor) = self.position_and_floor();
        let missed = self.missed(floor, extents) + self.waiting(floor, extents);
        self.cut = Some(gap);
        (self.judged_tail, self.judged_floor) = (u64::MAX, floor);
        self.end = Some(extents.next);
        self.filtered += extents.next - floor - missed;
        self.lost.disconnected += missed + self.control.unread();
        self.control.cut()
    }

    /// Skips events in the ring that are not of interest.
    pub(crate) fn skip(&mut self, events: u64) {
        if let Source::Cursor(progress) = &self.source {
            let position = progress.0.position.load(Ordering::Relaxed) + events;
            progress.0.claim.store(position, Ordering::Release);
            progress.0.position.store(position, Ordering::Release);
            self.skipped += events;
            self.undelivered += events;
            self.filtered += events;
        }
    }

    /// Books what the reader did with its claim and gives back the rest of it.
    fn settle(&mut self, tally: &Tally) {
        let Source::Cursor(progress) = &self.source else {
            return;
        };
        let position = progress.0.position.load(Ordering::Relaxed) + tally.settled;
        let returned = progress.0.claim.load(Ordering::Relaxed) - position;
        if self.cut.is_some() {
            self.lost.disconnected += returned;
            self.undelivered += returned;
        }
        let position = position + if self.cut.is_some() { returned } else { 0 };
        progress.0.position.store(position, Ordering::Release);
        progress.0.claim.store(position, Ordering::Release);
        self.undelivered += tally.filtered + tally.panicked;
        self.filtered += tally.filtered;
        self.lost.panicked += tally.panicked;
    }

    /// Takes back a control event that was claimed and not settled. A reader that was cut off meanwhile has lost it; it
    /// must be dropped outside the lock.
    pub(crate) fn put_back(&mut self, entry: ControlEntry<E>) -> Option<ControlEntry<E>> {
        if self.cut.is_none() {
            self.control.put_back(entry);
            return None;
        }
        self.control.settle(1);
        self.lost.disconnected += 1;
        Some(entry)
    }

    /// Books events that did not come from the ring: of the control lane, of its own buffer, and the last one.
    pub(crate) fn settle_otherwise(&mut self, delivered: u64, filtered: u64, panicked: u64) {
        self.delivered_otherwise += delivered;
        self.filtered += filtered;
        self.lost.panicked += panicked;
    }

    pub(crate) fn note(&mut self, what: impl FnOnce(&mut u64, &mut Lost)) {
        what(&mut self.conflated, &mut self.lost);
    }

    /// Takes what the reader has to be told of its control lane or of its own buffer.
    pub(crate) fn gap(lane: Lane, missed: &mut Option<Missed>) -> Option<Gap> {
        missed.take().map(|missed| Gap {
            lane,
            first_missed: missed.first,
            last_missed: missed.last,
            missed: missed.count,
        })
    }

    fn account(&self, extents: Extents<'_>) -> Account {
        let last_offered = extents.last && (self.last_settled || self.cut.is_none());
        let mut account = Account {
            offered: self.end.unwrap_or(extents.next) - self.start
                + self.control_offered
                + u64::from(last_offered),
            delivered: self.delivered_otherwise,
            filtered: self.filtered,
            conflated: self.conflated,
            lost: self.lost,
            pending: self.control.pending() + u64::from(last_offered && !self.last_settled),
        };
        match &self.source {
            Source::Cursor(_) => {
                let (position, floor) = self.position_and_floor();
                let (missed, waiting) = (self.missed(floor, extents), self.waiting(floor, extents));
                account.delivered += position - self.start - self.undelivered;
                account.pending += floor - position + waiting;
                if self.end.is_none() {
                    account.filtered += extents.next - floor - missed - waiting;
                }
                match self.policy {
                    Policy::Disconnect => account.lost.disconnected += missed,
                    _ => account.lost.lagged += missed,
                }
            }
            Source::Queued(queued) => account.pending += queued.history + queued.buffer.pending(),
        }
        account
    }
}

#[derive(Debug)]
struct Group {
    name: Arc<str>,
    readers: usize,
    departed: Account,
}

/// The slab of readers, the lists of parked ones and the accounts by name.
pub(crate) struct Readers<E> {
    slots: Vec<Option<Reader<E>>>,
    free: Vec<usize>,
    /// The slots in use, in no order.
    live: Vec<usize>,
    waits: Waits,
    groups: Vec<Group>,
    /// Readers with a buffer of their own.
    pub(crate) queued: Vec<usize>,
    /// Changes with `queued`.
    pub(crate) queued_version: u64,
    serial: u64,
    /// Of readers that were cut off since a publisher last had the lock; it drops them once it has released it.
    pub(crate) remains: Vec<Remains<E>>,
    /// Readers that are not cut off.
    pub(crate) connected: usize,
    /// Readers that count against the limit.
    pub(crate) limited: usize,
}

/// Who is parked. A parking reader is entered in the list of each class it wants, or in `any`, and its slot stays there
/// until that list is used, parked or not; `entered` says where each slot is.
#[derive(Debug, Default)]
struct Waits {
    any: VecDeque<usize>,
    /// Empty, or one list per class and one for readers that want no class.
    classes: Vec<VecDeque<usize>>,
    entered: Vec<u128>,
    parked: usize,
}

/// Whom to wake: where in the lists a wake-up has come to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wakeup {
    any: usize,
    classes: u128,
    of_class: usize,
}

/// The bit of list `any`.
const ANY: u128 = 1 << (Class::COUNT + 1);

/// The lists that a reader of this interest waits in.
fn lists(interest: Option<Interest>) -> u128 {
    match interest {
        None => ANY,
        Some(Interest::NONE) => 1 << Class::COUNT,
        Some(Interest(classes)) => u128::from(classes),
    }
}

impl Wakeup {
    pub(crate) fn is_nobody(&self) -> bool {
        self.any == 0 && self.classes == 0
    }
}

impl<E> Default for Readers<E> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            live: Vec::new(),
            waits: Waits::default(),
            groups: Vec::new(),
            queued: Vec::new(),
            queued_version: 1,
            serial: 0,
            remains: Vec::new(),
            connected: 0,
            limited: 0,
        }
    }
}

impl<E> Readers<E> {
    /// `start` is the first data event offered, and `retained` how many of those were published before.
    pub(crate) fn insert(
        &mut self,
        spec: ReaderSpec,
        source: Source<E>,
        start: u64,
        start_matching: u64,
    ) -> usize {
        let group = self.group_of(&spec.name);
        self.limited += usize::from(!spec.unlimited);
        self.groups[group].readers += 1;
        self.connected += 1;
        let is_queued = matches!(source, Source::Queued(_));
        let interest = spec.interest.filter(|i| *i != Interest::ALL);
        self.serial += 1;
        let reader = Reader {
            name: spec.name,
            place: self.live.len(),
            serial: self.serial,
            unlimited: spec.unlimited,
            group,
            policy: spec.policy,
            interest,
            source,
            control: Control::new(),
            last_settled: false,
            start,
            end: None,
            judged_tail: 0,
            judged_floor: 0,
            start_matching,
            skipped: 0,
            control_offered: 0,
            delivered_otherwise: 0,
            undelivered: 0,
            filtered: 0,
            conflated: 0,
            lost: Lost::default(),
            cut: None,
            waker: None,
        };
        let key = match self.free.pop() {
            Some(key) => {
                self.slots[key] = Some(reader);
                key
            }
            None => {
                self.slots.push(Some(reader));
                self.waits.entered.push(0);
                self.slots.len() - 1
            }
        };
        self.live.push(key);
        if is_queued {
            self.queued.push(key);
            self.queued_version += 1;
        }
        // Parking and leaving allocate nothing.
        self.waits.reserve(interest, self.slots.len());
        self.free.reserve(self.slots.len() - self.free.len());
        key
    }

    /// Takes the reader out; it must be dropped outside the lock.
    pub(crate) fn remove(&mut self, key: usize, extents: Extents<'_>) -> Option<Reader<E>> {
        let reader = self.slots.get_mut(key)?.take()?;
        self.free.push(key);
        self.connected -= usize::from(reader.cut.is_none());
        self.limited -= usize::from(!reader.unlimited);
        self.live.swap_remove(reader.place);
        if let Some(moved) = self.live.get(reader.place) {
            if let Some(moved) = &mut self.slots[*moved] {
                moved.place = reader.place;
            }
        }
        self.waits.parked -= usize::from(reader.waker.is_some());
        if matches!(reader.source, Source::Queued(_)) {
            self.queued.retain(|queued| *queued != key);
            self.queued_version += 1;
        }
        fence(Ordering::SeqCst);
        let mut account = reader.account(extents);
        account.lost.abandoned += std::mem::take(&mut account.pending);
        let group = &mut self.groups[reader.group];
        group.readers -= 1;
        group.departed += account;
        Some(reader)
    }

    pub(crate) fn len(&self) -> usize {
        self.live.len()
    }

    pub(crate) fn reader(&mut self, key: usize) -> Option<&mut Reader<E>> {
        self.slots.get_mut(key)?.as_mut()
    }

    /// Books what the reader did with its claim. Returns the position of a `Disconnect` reader, which may be lower
    /// than its claim was.
    pub(crate) fn settle(&mut self, key: usize, tally: &Tally) -> Option<u64> {
        let reader = self.reader(key)?;
        reader.settle(tally);
        let guards = reader.policy == Policy::Disconnect && reader.cut.is_none();
        guards.then(|| reader.position_and_floor().1)
    }

    /// Cuts off every `Disconnect` reader that just lost a data event; returns the lowest floor of the others.
    pub(crate) fn cut_overrun(&mut self, extents: Extents<'_>) -> u64 {
        let remains = &mut self.remains;
        let mut lowest = u64::MAX;
        fence(Ordering::SeqCst);
        for key in &self.live {
            let Some(reader) = &mut self.slots[*key] else {
                continue;
            };
            if reader.policy != Policy::Disconnect || reader.cut.is_some() {
                continue;
            }
            let (_, floor) = reader.position_and_floor();
            if reader.missed(floor, extents) > 0 {
                remains.push(reader.cut_off_from_data(extents));
                self.connected -= 1;
            } else {
                lowest = lowest.min(reader.safe_until(floor, extents));
            }
        }
        lowest
    }

    /// Offers a control event to everyone; puts what must be dropped outside the lock into `trash`.
    pub(crate) fn offer_control(
        &mut self,
        seq: u64,
        key: Option<u64>,
        class: Option<Class>,
        node: &sync::Arc<Node<E>>,
        extents: Extents<'_>,
        trash: &mut Vec<sync::Arc<Node<E>>>,
    ) {
        fence(Ordering::SeqCst);
        for key_of_reader in &self.live {
            let Some(reader) = &mut self.slots[*key_of_reader] else {
                continue;
            };
            if reader.cut.is_some() {
                continue;
            }
            reader.control_offered += 1;
            if !reader.wants(class) {
                reader.filtered += 1;
                continue;
            }
            let control = &mut reader.control;
            let strict = reader.policy == Policy::Disconnect;
            if strict && control.is_full() && !control.has_twin(key) {
                self.remains.push(reader.cut_off_from_control(seq, extents));
                self.connected -= 1;
                continue;
            }
            match control.push(seq, key, sync::Arc::clone(node)) {
                Pressed::Nothing => {}
                Pressed::Conflated(old) => {
                    reader.conflated += 1;
                    trash.push(old);
                }
                Pressed::Lost(old) => {
                    reader.lost.lagged += 1;
                    trash.push(old);
                }
            }
        }
    }

    /// The shortest deadline beyond `waited` of those `Block` readers that have no room for an event of `class`.
    pub(crate) fn blocked(&self, class: Option<Class>, waited: Duration) -> Option<Duration> {
        let readers = self
            .queued
            .iter()
            .filter_map(|key| self.slots[*key].as_ref());
        readers
            .filter_map(|reader| match &reader.source {
                Source::Queued(queued)
                    if queued.is_full() && reader.wants(class) && queued.deadline > waited =>
                {
                    Some(queued.deadline)
                }
                _ => None,
            })
            .min()
    }

    /// Parks the reader with the waker it left last time, if that wakes the same task.
    pub(crate) fn repark(&mut self, key: usize, waker: &Waker) -> bool {
        let parked = self.reader(key).and_then(|r| r.waker.as_ref());
        parked.is_some_and(|parked| parked.will_wake(waker))
    }

    /// Parks the reader; returns the waker it replaces, which must be dropped outside the lock.
    pub(crate) fn park(&mut self, key: usize, waker: Waker) -> Option<Waker> {
        let reader = self.slots.get_mut(key)?.as_mut()?;
        let replaced = reader.waker.replace(waker);
        if replaced.is_none() {
            self.waits.enter(key, reader.interest);
        }
        replaced
    }

    #[inline]
    pub(crate) fn nobody_parked(&self) -> bool {
        self.waits.parked == 0
    }

    /// Everyone who is parked now and wants one of `classes`.
    pub(crate) fn wakeup(&self, classes: Interest) -> Wakeup {
        self.waits.wakeup(u128::from(classes.0))
    }

    /// Everyone who is parked now, whatever they want.
    pub(crate) fn wakeup_all(&self) -> Wakeup {
        self.waits
            .wakeup(u128::MAX >> (u128::BITS as usize - 1 - Class::COUNT))
    }

    /// Takes out the wakers of readers that parked first, at most one batch of them; `None` when none are left.
    pub(crate) fn unpark(&mut self, left: &mut Wakeup) -> Option<[Option<Waker>; WAKE_BATCH]> {
        if left.is_nobody() {
            return None;
        }
        let mut batch = [const { None }; WAKE_BATCH];
        let mut places = batch.iter_mut();
        while left.any > 0 && places.len() > 0 {
            left.any -= 1;
            let Some(key) = self.waits.any.pop_front() else {
                left.any = 0;
                break;
            };
            self.waits.entered[key] &= !ANY;
            let waker = self.take_waker(key, ANY);
            if let (Some(_), Some(place)) = (&waker, places.next()) {
                *place = waker;
            }
        }
        while left.any == 0 && left.classes != 0 && places.len() > 0 {
            let class = left.classes.trailing_zeros() as usize;
            if left.of_class == 0 {
                left.of_class = self.waits.classes[class].len();
            }
            while left.of_class > 0 && places.len() > 0 {
                left.of_class -= 1;
                let Some(key) = self.waits.classes[class].pop_front() else {
                    left.of_class = 0;
                    break;
                };
                self.waits.entered[key] &= !(1 << class);
                let waker = self.take_waker(key, 1 << class);
                if let (Some(_), Some(place)) = (&waker, places.next()) {
                    *place = waker;
                }
            }
            if left.of_class == 0 {
                left.classes &= left.classes - 1;
            }
        }
        Some(batch)
    }

    /// The waker of the reader in this slot, if it is parked and waits in this list.
    fn take_waker(&mut self, key: usize, list: u128) -> Option<Waker> {
        let reader = self.slots[key].as_mut()?;
        if lists(reader.interest) & list == 0 {
            return None;
        }
        let waker = reader.waker.take();
        self.waits.parked -= usize::from(waker.is_some());
        waker
    }

    pub(crate) fn account(&mut self, key: usize, extents: Extents<'_>) -> Account {
        fence(Ordering::SeqCst);
        let Some(reader) = self.reader(key) else {
            return Account::default();
        };
        reader.judge(extents);
        reader.account(extents)
    }

    /// How far the slowest reader is behind.
    pub(crate) fn queue_depth(&self, extents: Extents<'_>) -> u64 {
        fence(Ordering::SeqCst);
        let readers = self.live.iter().flat_map(|key| &self.slots[*key]);
        let pending = readers.map(|reader| reader.account(extents).pending);
        pending.max().unwrap_or(0)
    }

    pub(crate) fn stats(
        &mut self,
        extents: Extents<'_>,
    ) -> (Vec<ReaderStats>, Vec<NameStats>, Account) {
        fence(Ordering::SeqCst);
        let mut by_name: Vec<NameStats> = self
            .groups
            .iter()
            .map(|g| NameStats {
                name: Arc::clone(&g.name),
                readers: g.readers,
                account: g.departed,
            })
            .collect();
        let mut readers = Vec::with_capacity(self.live.len());
        for key in &self.live {
            let Some(reader) = &mut self.slots[*key] else {
                continue;
            };
            reader.judge(extents);
            let account = reader.account(extents);
            by_name[reader.group].account += account;
            readers.push(ReaderStats {
                name: Arc::clone(&reader.name),
                overflow: reader.policy,
                connected: reader.cut.is_none(),
                account,
            });
        }
        let mut total = Account::default();
        by_name.iter().for_each(|n| total += n.account);
        (readers, by_name, total)
    }

    fn group_of(&mut self, name: &Arc<str>) -> usize {
        let known = |groups: &[Group], name: &str| groups.iter().position(|g| &*g.name == name);
        if let Some(group) = known(&self.groups, name) {
            return group;
        }
        let name = if self.groups.len() < NAMES_MAX {
            Arc::clone(name)
        } else {
            NAME_OF_THE_REST.into()
        };
        known(&self.groups, &name).unwrap_or_else(|| {
            self.groups.push(Group {
                name,
                readers: 0,
                departed: Account::default(),
            });
            self.groups.len() - 1
        })
    }
}

impl Waits {
    /// Makes room for `slots` of them in the lists that a reader of this interest waits in.
    fn reserve(&mut self, interest: Option<Interest>, slots: usize) {
        let lists = lists(interest);
        if lists == ANY {
            return self.any.reserve(slots - self.any.len());
        }
        if self.classes.is_empty() {
            self.classes.resize_with(Class::COUNT + 1, VecDeque::new);
        }
        for (class, list) in self.classes.iter_mut().enumerate() {
            if lists >> class & 1 == 1 {
                list.reserve(slots - list.len());
            }
        }
    }

    fn wakeup(&self, classes: u128) -> Wakeup {
        Wakeup {
            any: self.any.len(),
            classes: if self.classes.is_empty() { 0 } else { classes },
            of_class: 0,
        }
    }

    fn enter(&mut self, key: usize, interest: Option<Interest>) {
        self.parked += 1;
        let mut missing = lists(interest) & !self.entered[key];
        self.entered[key] |= missing;
        if missing == ANY {
            return self.any.push_back(key);
        }
        while missing != 0 {
            self.classes[missing.trailing_zeros() as usize].push_back(key);
            missing &= missing - 1;
        }
    }
}
