//! What a reader should see and how its account should stand: plain queues, moved event by event.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use ron_bus::{Account, Lane};

use crate::{class, key, Event, World, BOMB, CONTROL_SLOTS};

#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    DropOldest,
    Disconnect,
    Block { deadline: u64 },
    Conflate { max_keys: usize },
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) kind: Kind,
    /// One bit per class; none asks for no mask at all.
    pub(crate) mask: Option<u8>,
    pub(crate) retained: Option<usize>,
    pub(crate) even: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiting {
    pub(crate) seq: u64,
    pub(crate) value: u8,
    pub(crate) conflated: u64,
    pub(crate) key: Option<u64>,
}

impl Waiting {
    pub(crate) fn new(seq: u64, value: u8) -> Self {
        Self {
            seq,
            value,
            conflated: 0,
            key: None,
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Missed {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) count: u64,
}

/// One more event lost, after those lost before.
pub(crate) fn miss(missed: Option<Missed>, seq: u64) -> Missed {
    Missed {
        first: missed.map_or(seq, |m| m.first),
        last: seq,
        count: missed.map_or(1, |m| m.count + 1),
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Item {
    Event(Waiting),
    Gap(Missed),
}

/// What a gap may say: exact for a reader of everything, within bounds for one with a mask.
#[derive(Debug)]
pub(crate) struct Span {
    pub(crate) lane: Lane,
    pub(crate) first: RangeInclusive<u64>,
    pub(crate) last: RangeInclusive<u64>,
    pub(crate) count: u64,
}

#[derive(Debug)]
pub(crate) enum Outcome<G> {
    Events(Vec<(Lane, u64, u64, u8)>),
    Lagged(G),
    Disconnected(G),
    Closed,
    Empty,
    Panicked,
}

/// The newest numbers of both lanes.
pub(crate) type Seqs = [u64; 2];

pub(crate) struct Model {
    pub(crate) options: Options,
    pub(crate) account: Account,
    pub(crate) control: VecDeque<Waiting>,
    pub(crate) control_missed: Option<Missed>,
    pub(crate) last: Option<Waiting>,
    /// What a queued reader found when it began.
    pub(crate) retained: VecDeque<Waiting>,
    /// What the data lane holds: the ring of a cursor reader, the buffer of one that blocks, the sweep of one that
    /// conflates.
    pub(crate) data: VecDeque<Item>,
    pub(crate) intake: VecDeque<Waiting>,
    /// Cut off: what the gap says, and the highest number it may name.
    pub(crate) cut: Option<(Lane, Missed, u64)>,
    /// The highest numbers of both lanes that were taken or told.
    pub(crate) place: Seqs,
}

impl Model {
    pub(crate) fn new(options: Options, world: &World) -> Self {
        let kept = options.retained.unwrap_or(0);
        let kept = kept.min(world.capacity).min(world.data.len());
        let begin = world.data.len() - kept;
        let mut model = Self {
            options,
            account: Account::default(),
            control: VecDeque::new(),
            control_missed: None,
            last: world.last,
            retained: VecDeque::new(),
            data: VecDeque::new(),
            intake: VecDeque::new(),
            cut: None,
            place: [begin as u64, world.control_seq],
        };
        model.account.offered = kept as u64 + u64::from(world.last.is_some());
        for (index, value) in world.data.iter().enumerate().skip(begin) {
            let waiting = Waiting::new(index as u64 + 1, *value);
            if !model.wants(*value) {
                model.account.filtered += 1;
            } else if model.is_cursor() {
                model.data.push_back(Item::Event(waiting));
            } else {
                model.retained.push_back(waiting);
            }
        }
        model
    }

    pub(crate) fn is_cursor(&self) -> bool {
        matches!(self.options.kind, Kind::DropOldest | Kind::Disconnect)
    }

    pub(crate) fn wants(&self, value: u8) -> bool {
        self.options
            .mask
            .map_or(true, |mask| mask >> class(value) & 1 == 1)
    }

    pub(crate) fn stored(&self) -> usize {
        let events = self.data.iter().filter(|i| matches!(i, Item::Event(_)));
        events.count()
    }

    /// Whether a `publish_wait` called at `since` waits for this reader at `now`.
    pub(crate) fn holds_up(&self, value: u8, since: u64, now: u64, capacity: usize) -> bool {
        let Kind::Block { deadline } = self.options.kind else {
            return false;
        };
        self.wants(value) && self.stored() >= capacity && now < since + deadline
    }

    pub(crate) fn offer_data(&mut self, seq: u64, value: u8, capacity: usize, waited: bool) {
        if self.cut.is_some() {
            return;
        }
        self.account.offered += 1;
        let wanted = self.wants(value);
        self.account.filtered += u64::from(!wanted);
        match self.options.kind {
            Kind::DropOldest | Kind::Disconnect => {
                if wanted {
                    self.data.push_back(Item::Event(Waiting::new(seq, value)));
                }
                self.overwrite(seq, capacity);
            }
            _ if !wanted => {}
            // Where there is no room, no copy is made that could panic.
            Kind::Block { .. } => {
                let reason = if self.stored() < capacity {
                    if value < BOMB {
                        self.data.push_back(Item::Event(Waiting::new(seq, value)));
                        return;
                    }
                    &mut self.account.lost.panicked
                } else if waited {
                    &mut self.account.lost.block_deadline
                } else {
                    &mut self.account.lost.block_full
                };
                *reason += 1;
                let before = match self.data.back() {
                    Some(Item::Gap(missed)) => Some(*missed),
                    _ => None,
                };
                if before.is_some() {
                    self.data.pop_back();
                }
                self.data.push_back(Item::Gap(miss(before, seq)));
            }
            Kind::Conflate { max_keys } => {
                let key = Some(key(&Event(value)));
                let same = self.intake.iter().position(|w| w.key == key);
                let reason = if same.is_none() && self.intake.len() >= max_keys {
                    &mut self.account.lost.conflate_full
                } else if value >= BOMB {
                    &mut self.account.lost.panicked
                } else {
                    let old = same.and_then(|index| self.intake.remove(index));
                    self.account.conflated += u64::from(old.is_some());
                    self.intake.push_back(Waiting {
                        conflated: old.map_or(0, |old| old.conflated + 1),
                        key,
                        ..Waiting::new(seq, value)
                    });
                    return;
                };
                *reason += 1;
                self.miss_in_front(seq);
            }
        }
    }

    pub(crate) fn miss_in_front(&mut self, seq: u64) {
        let before = match self.data.front() {
            Some(Item::Gap(missed)) => Some(*missed),
            _ => None,
        };
        if before.is_some() {
            self.data.pop_front();
        }
        self.data.push_front(Item::Gap(miss(before, seq)));
    }

    /// Event `seq` took the slot of the one `capacity` before it.
    pub(crate) fn overwrite(&mut self, seq: u64, capacity: usize) {
        loop {
            let Some(index) = self.data.iter().position(|i| matches!(i, Item::Event(_))) else {
                return;
            };
            let Item::Event(oldest) = self.data[index] else {
                return;
            };
            if oldest.seq + capacity as u64 > seq {
                return;
            }
            if matches!(self.options.kind, Kind::Disconnect) {
                let newest = self.data.back().map_or(seq, |item| match item {
                    Item::Event(waiting) => waiting.seq,
                    Item::Gap(missed) => missed.last,
                });
                let missed = Missed {
                    first: oldest.seq,
                    last: newest,
                    count: self.stored() as u64,
                };
                return self.cut(Lane::Data, missed, seq);
            }
            self.data.remove(index);
            self.account.lost.lagged += 1;
            self.miss_in_front(oldest.seq);
        }
    }

    pub(crate) fn cut(&mut self, lane: Lane, missed: Missed, high: u64) {
        self.cut = Some((lane, missed, high));
        self.account.lost.disconnected += (self.stored() + self.control.len()) as u64;
        self.data.clear();
        self.control.clear();
    }

    pub(crate) fn offer_control(&mut self, seq: u64, value: u8, key: Option<u64>) {
        if self.cut.is_some() {
            return;
        }
        self.account.offered += 1;
        if !self.wants(value) {
            self.account.filtered += 1;
            return;
        }
        let mut new = Waiting {
            key,
            ..Waiting::new(seq, value)
        };
        if self.control.len() == CONTROL_SLOTS {
            let same = self
                .control
                .iter()
                .position(|w| key.is_some() && w.key == key);
            if let Some(old) = same.and_then(|index| self.control.remove(index)) {
                new.conflated = old.conflated + 1;
                self.account.conflated += 1;
            } else if matches!(self.options.kind, Kind::Disconnect) {
                let missed = Missed {
                    first: self.control[0].seq,
                    last: seq,
                    count: CONTROL_SLOTS as u64 + 1,
                };
                self.control.push_back(new);
                return self.cut(Lane::Control, missed, seq);
            } else if let Some(oldest) = self.control.pop_front() {
                self.account.lost.lagged += 1;
                self.control_missed = Some(miss(self.control_missed, oldest.seq));
            }
        }
        self.control.push_back(new);
    }

    pub(crate) fn offer_last(&mut self, last: Waiting) {
        if self.cut.is_none() {
            self.account.offered += 1;
            self.last = Some(last);
        }
    }

    pub(crate) fn account(&self) -> Account {
        let waiting = self.control.len() + self.retained.len() + self.stored() + self.intake.len();
        let mut account = self.account;
        account.pending = waiting as u64 + u64::from(self.last.is_some());
        account
    }

    /// Whether a receive returns at once, if no filter refuses it all.
    pub(crate) fn is_ready(&self, ended: bool) -> bool {
        ended
            || self.cut.is_some()
            || self.control_missed.is_some()
            || !self.data.is_empty()
            || self.account().pending > 0
    }

    pub(crate) fn span(&self, lane: Lane, missed: Missed, high: u64) -> Span {
        let low = self.place[lane as usize] + 1;
        let (first, last) = match self.options.mask {
            None => (missed.first..=missed.first, missed.last..=missed.last),
            Some(_) => (low..=missed.first, missed.last..=high),
        };
        Span {
            lane,
            first,
            last,
            count: missed.count,
        }
    }

    /// The gap that comes before the next data event, with the highest number it may name.
    pub(crate) fn data_missed(&mut self, newest: u64) -> Option<(Missed, u64)> {
        if !self.retained.is_empty() {
            return None;
        }
        let Some(Item::Gap(missed)) = self.data.front() else {
            return None;
        };
        let next = match self.data.get(1) {
            Some(Item::Event(next)) if !matches!(self.options.kind, Kind::Conflate { .. }) => {
                next.seq - 1
            }
            _ => newest,
        };
        Some((*missed, next))
    }

    pub(crate) fn next_data(&mut self) -> Option<(Waiting, bool)> {
        if let Some(waiting) = self.retained.pop_front() {
            return Some((waiting, true));
        }
        if self.data.is_empty() {
            self.data.extend(self.intake.drain(..).map(Item::Event));
        }
        match self.data.pop_front() {
            Some(Item::Event(waiting)) => Some((waiting, self.is_cursor())),
            Some(Item::Gap(_)) => panic!("gaps are told first"),
            None => None,
        }
    }

    /// Receives up to `max` events; those before a panic go to `out` all the same.
    pub(crate) fn receive(
        &mut self,
        max: usize,
        ended: bool,
        seqs: Seqs,
        out: &mut Vec<(Lane, u64, u64, u8)>,
    ) -> Outcome<Span> {
        if let Some((lane, missed, high)) = self.cut {
            return Outcome::Disconnected(self.span(lane, missed, high));
        }
        while out.len() < max {
            if let Some(missed) = self.control_missed {
                if !out.is_empty() {
                    break;
                }
                self.control_missed = None;
                let next = self.control.front().map_or(seqs[1], |w| w.seq - 1);
                let span = self.span(Lane::Control, missed, next);
                self.place[1] = missed.last;
                return Outcome::Lagged(span);
            }
            // The event, whether the filter sees it, and whether it is cloned now.
            let (lane, waiting, filtered, cloned) = if let Some(waiting) = self.control.pop_front()
            {
                (Lane::Control, waiting, true, true)
            } else if let Some(waiting) = self.last.take() {
                (Lane::Control, waiting, false, true)
            } else if let Some((missed, high)) = self.data_missed(seqs[0]) {
                if !out.is_empty() {
                    break;
                }
                self.data.pop_front();
                let span = self.span(Lane::Data, missed, high);
                self.place[0] = self.place[0].max(missed.last);
                return Outcome::Lagged(span);
            } else if let Some((waiting, cloned)) = self.next_data() {
                (Lane::Data, waiting, true, cloned)
            } else {
                break;
            };
            let place = &mut self.place[lane as usize];
            *place = waiting.seq.max(*place);
            if filtered && self.options.even && waiting.value % 2 == 1 {
                self.account.filtered += 1;
            } else if cloned && waiting.value >= BOMB {
                self.account.lost.panicked += 1;
                return Outcome::Panicked;
            } else {
                self.account.delivered += 1;
                out.push((lane, waiting.seq, waiting.conflated, waiting.value));
            }
        }
        match (out.is_empty(), ended) {
            (false, _) => Outcome::Events(out.clone()),
            (true, true) => Outcome::Closed,
            (true, false) => Outcome::Empty,
        }
    }
}
