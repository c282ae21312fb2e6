//! The readers of one topic: positions, accounts, parked wakers. Plain arithmetic under the topic's lock; runs no
//! code of the user.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use crate::account::{Account, Lost, NameStats, ReaderStats};
use crate::ring::Extent;
use crate::subscriber::{Gap, Lane, Overflow, Start};

/// Names with an account of their own per topic: more than a screen of readers, and a bound on metric series.
const NAMES_MAX: usize = 64;
const NAME_OF_THE_REST: &str = "other";
/// Wakers taken out per locking, so that the list fits on the stack.
const WAKE_BATCH: usize = 32;

/// What both lanes hold at this instant.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extents {
    pub(crate) data: Extent,
    pub(crate) control: Extent,
    /// Whether the topic is sealed by a last event.
    pub(crate) last: bool,
}

/// A reader's place in one lane. `next` is the first event whose fate is open, `next..next + claimed` are in the
/// reader's hands.
#[derive(Debug)]
pub(crate) struct Cursor {
    start: u64,
    pub(crate) next: u64,
    pub(crate) claimed: u64,
    /// Set when the reader was cut off: events from here on are not offered.
    end: Option<u64>,
}

impl Cursor {
    fn new(start: u64) -> Self {
        Self {
            start,
            next: start,
            claimed: 0,
            end: None,
        }
    }

    /// The first event that is neither settled nor in the reader's hands.
    pub(crate) fn floor(&self) -> u64 {
        self.next + self.claimed
    }

    fn offered(&self, extent: Extent) -> u64 {
        self.end.unwrap_or(extent.head) - self.start
    }

    /// Overwritten, and the reader does not know yet.
    fn missed(&self, extent: Extent) -> u64 {
        match self.end {
            Some(_) => 0,
            None => extent.tail.saturating_sub(self.floor()),
        }
    }

    fn pending(&self, extent: Extent) -> u64 {
        match self.end {
            Some(_) => self.claimed,
            None => self.claimed + (extent.head - self.floor().max(extent.tail)),
        }
    }

    /// Ends the lane for this reader; returns how many unread events that costs it.
    fn cut(&mut self, extent: Extent) -> u64 {
        self.end = Some(extent.head);
        extent.head - self.floor()
    }
}

/// What a reader did with the events it had claimed.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) data: u64,
    pub(crate) control: u64,
    pub(crate) last: bool,
    pub(crate) delivered: u64,
    pub(crate) filtered: u64,
    pub(crate) panicked: u64,
}

/// Who a reader is and where it begins.
pub(crate) struct ReaderSpec {
    pub(crate) name: Arc<str>,
    pub(crate) overflow: Overflow,
    pub(crate) start: Start,
    /// A tail: not counted against the limit on readers.
    pub(crate) unlimited: bool,
}

#[derive(Debug)]
pub(crate) struct Reader {
    name: Arc<str>,
    unlimited: bool,
    group: usize,
    overflow: Overflow,
    pub(crate) data: Cursor,
    pub(crate) control: Cursor,
    /// Whether the event that sealed the topic is settled.
    pub(crate) last_settled: bool,
    delivered: u64,
    filtered: u64,
    lagged: u64,
    disconnected: u64,
    panicked: u64,
    /// Connected -> cut off, for good; the gap is what the reader is told.
    pub(crate) cut: Option<Gap>,
    /// Present while the reader is parked.
    waker: Option<Waker>,
}

impl Reader {
    /// Moves past events of `lane` that were overwritten unread, if there are any.
    ///
    /// Only the data lane of a `Disconnect` reader ends here: its control lane goes on so that the last event of a
    /// sealed topic still arrives.
    pub(crate) fn observe_gap(&mut self, lane: Lane, extents: Extents) -> Option<Gap> {
        let (cursor, extent) = match lane {
            Lane::Data => (&mut self.data, extents.data),
            Lane::Control => (&mut self.control, extents.control),
        };
        let missed = cursor.missed(extent);
        if missed == 0 {
            return None;
        }
        if lane == Lane::Data && self.overflow == Overflow::Disconnect {
            self.cut_off(lane, extents);
            return self.cut;
        }
        let gap = Gap {
            lane,
            first_missed: cursor.next,
            last_missed: extent.tail - 1,
        };
        cursor.next = extent.tail;
        self.lagged += missed;
        Some(gap)
    }

    fn cut_off(&mut self, lane: Lane, extents: Extents) {
        let (cursor, extent) = match lane {
            Lane::Data => (&self.data, extents.data),
            Lane::Control => (&self.control, extents.control),
        };
        self.cut = Some(Gap {
            lane,
            first_missed: cursor.floor(),
            last_missed: extent.head - 1,
        });
        self.disconnected += self.data.cut(extents.data) + self.control.cut(extents.control);
    }

    fn settle(&mut self, tally: &Tally) {
        let returned = (self.data.claimed - tally.data) + (self.control.claimed - tally.control);
        if self.cut.is_some() {
            self.disconnected += returned;
        }
        self.data.next += tally.data;
        self.data.claimed = 0;
        self.control.next += tally.control;
        self.control.claimed = 0;
        self.last_settled |= tally.last;
        self.delivered += tally.delivered;
        self.filtered += tally.filtered;
        self.panicked += tally.panicked;
    }

    fn account(&self, extents: Extents) -> Account {
        let last_offered = extents.last && (self.last_settled || self.cut.is_none());
        let missed_data = self.data.missed(extents.data);
        let (lagging, dying) = match self.overflow {
            Overflow::DropOldest => (missed_data, 0),
            Overflow::Disconnect => (0, missed_data),
        };
        Account {
            offered: self.data.offered(extents.data)
                + self.control.offered(extents.control)
                + u64::from(last_offered),
            delivered: self.delivered,
            filtered: self.filtered,
            lost: Lost {
                lagged: self.lagged + lagging + self.control.missed(extents.control),
                disconnected: self.disconnected + dying,
                panicked: self.panicked,
                abandoned: 0,
            },
            pending: self.data.pending(extents.data)
                + self.control.pending(extents.control)
                + u64::from(last_offered && !self.last_settled),
        }
    }
}

#[derive(Debug)]
struct Group {
    name: Arc<str>,
    readers: usize,
    departed: Account,
}

/// The slab of readers, the queue of parked ones and the accounts by name.
#[derive(Debug, Default)]
pub(crate) struct Readers {
    slots: Vec<Option<Reader>>,
    free: Vec<usize>,
    parked: VecDeque<usize>,
    groups: Vec<Group>,
    /// Readers that are not cut off.
    pub(crate) connected: usize,
    /// Readers that count against the limit.
    pub(crate) limited: usize,
}

impl Readers {
    pub(crate) fn insert(&mut self, spec: ReaderSpec, data: u64, control: u64) -> usize {
        let ReaderSpec {
            name,
            overflow,
            unlimited,
            start: _,
        } = spec;
        let group = self.group_of(&name);
        self.limited += usize::from(!unlimited);
        self.groups[group].readers += 1;
        self.connected += 1;
        let reader = Reader {
            name,
            unlimited,
            group,
            overflow,
            data: Cursor::new(data),
            control: Cursor::new(control),
            last_settled: false,
            delivered: 0,
            filtered: 0,
            lagged: 0,
            disconnected: 0,
            panicked: 0,
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
                self.slots.len() - 1
            }
        };
        // Parking and leaving allocate nothing.
        self.parked.reserve(self.slots.len() - self.parked.len());
        self.free.reserve(self.slots.len() - self.free.len());
        key
    }

    /// Forgets the reader and returns its waker, which must be dropped outside the lock.
    pub(crate) fn remove(&mut self, key: usize, extents: Extents) -> Option<Waker> {
        let reader = self.slots.get_mut(key)?.take()?;
        self.free.push(key);
        self.connected -= usize::from(reader.cut.is_none());
        self.limited -= usize::from(!reader.unlimited);
        if reader.waker.is_some() {
            self.parked.retain(|parked| *parked != key);
        }
        let mut account = reader.account(extents);
        account.lost.abandoned += std::mem::take(&mut account.pending);
        let group = &mut self.groups[reader.group];
        group.readers -= 1;
        group.departed += account;
        reader.waker
    }

    pub(crate) fn reader(&mut self, key: usize) -> Option<&mut Reader> {
        self.slots.get_mut(key)?.as_mut()
    }

    /// Books what the reader did with its claim. Returns the floors of a `Disconnect` reader, which may have fallen.
    pub(crate) fn settle(&mut self, key: usize, tally: &Tally) -> Option<(u64, u64)> {
        let reader = self.slots.get_mut(key)?.as_mut()?;
        reader.settle(tally);
        let guards = reader.overflow == Overflow::Disconnect && reader.cut.is_none();
        guards.then(|| (reader.data.floor(), reader.control.floor()))
    }

    /// Cuts off every `Disconnect` reader that just lost an event of `lane`; returns the lowest floor of the others.
    pub(crate) fn cut_overrun(&mut self, lane: Lane, extents: Extents) -> u64 {
        let mut lowest = u64::MAX;
        for reader in self.slots.iter_mut().flatten() {
            if reader.overflow != Overflow::Disconnect || reader.cut.is_some() {
                continue;
            }
            let (cursor, extent) = match lane {
                Lane::Data => (&reader.data, extents.data),
                Lane::Control => (&reader.control, extents.control),
            };
            if cursor.missed(extent) > 0 {
                reader.cut_off(lane, extents);
                self.connected -= 1;
            } else {
                lowest = lowest.min(cursor.floor());
            }
        }
        lowest
    }

    /// Parks the reader with the waker it left last time, if that wakes the same task.
    pub(crate) fn repark(&mut self, key: usize, waker: &Waker) -> bool {
        let parked = self.reader(key).and_then(|r| r.waker.as_ref());
        parked.is_some_and(|parked| parked.will_wake(waker))
    }

    /// Parks the reader; returns the waker it replaces, which must be dropped outside the lock.
    pub(crate) fn park(&mut self, key: usize, waker: Waker) -> Option<Waker> {
        let replaced = self.reader(key)?.waker.replace(waker);
        if replaced.is_none() {
            self.parked.push_back(key);
        }
        replaced
    }

    pub(crate) fn parked(&self) -> usize {
        self.parked.len()
    }

    /// Takes out the wakers of up to `left` readers that parked first, at most one batch of them.
    pub(crate) fn unpark(&mut self, left: &mut usize) -> [Option<Waker>; WAKE_BATCH] {
        let mut batch = [const { None }; WAKE_BATCH];
        *left = (*left).min(self.parked.len());
        for place in batch.iter_mut().take(*left) {
            *left -= 1;
            if let Some(key) = self.parked.pop_front() {
                *place = self.reader(key).and_then(|r| r.waker.take());
            }
        }
        batch
    }

    pub(crate) fn account(&self, key: usize, extents: Extents) -> Account {
        let reader = self.slots.get(key).and_then(Option::as_ref);
        reader.map(|r| r.account(extents)).unwrap_or_default()
    }

    pub(crate) fn stats(&self, extents: Extents) -> (Vec<ReaderStats>, Vec<NameStats>, Account) {
        let mut by_name: Vec<NameStats> = self
            .groups
            .iter()
            .map(|g| NameStats {
                name: Arc::clone(&g.name),
                readers: g.readers,
                account: g.departed,
            })
            .collect();
        let mut readers = Vec::with_capacity(self.slots.len());
        for reader in self.slots.iter().flatten() {
            let account = reader.account(extents);
            by_name[reader.group].account += account;
            readers.push(ReaderStats {
                name: Arc::clone(&reader.name),
                overflow: reader.overflow,
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
