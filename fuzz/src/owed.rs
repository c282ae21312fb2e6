//! The model: what one reader is owed, kept in queues of its own and in the plainest way.

use std::collections::VecDeque;

use ron_bus::{Account, Gap, Interest, Lane};

use crate::event::Traits;

/// Unread control events a reader keeps.
const CONTROL_SLOTS: usize = 16;

/// The options a reader was built with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) policy: Keeps,
    pub(crate) interest: Option<Interest>,
    /// Whether a closure refuses odd events.
    pub(crate) even_only: bool,
}

/// What becomes of data events that the reader is too slow for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keeps {
    Newest,
    AllOrNothing,
    Oldest { deadline_ms: u64 },
    NewestPerKey { max_keys: usize },
}

/// An event as it was published.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record {
    pub(crate) seq: u64,
    pub(crate) number: u64,
    pub(crate) traits: Traits,
}

/// How a data event was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    AtOnce,
    /// By `publish_wait`.
    Waited,
}

#[derive(Debug, Clone, Copy)]
struct Unread {
    record: Record,
    conflated: u64,
    /// Key of a control event.
    key: Option<u64>,
    /// The clone exists already.
    cloned: bool,
    is_last: bool,
}

impl Unread {
    fn new(record: Record) -> Self {
        Self {
            record,
            conflated: 0,
            key: None,
            cloned: false,
            is_last: false,
        }
    }
}

/// A run of events that the reader has to be told it missed.
#[derive(Debug, Clone, Copy)]
struct Missed {
    first: u64,
    last: u64,
    count: u64,
}

fn miss(run: &mut Option<Missed>, seq: u64) {
    let run = run.get_or_insert(Missed {
        first: seq,
        last: seq,
        count: 0,
    });
    run.last = seq;
    run.count += 1;
}

/// An entry of a buffer of which gaps are part.
#[derive(Debug)]
enum Place {
    Event(Unread),
    Gap(Missed),
}

#[derive(Debug)]
enum Data {
    /// The reader's share of the ring.
    Ring {
        unread: VecDeque<Unread>,
        missed: Option<Missed>,
    },
    Buffer {
        history: VecDeque<Unread>,
        places: VecDeque<Place>,
    },
    Sweep {
        history: VecDeque<Unread>,
        intake: VecDeque<Unread>,
        sweep: VecDeque<Unread>,
        missed: Option<Missed>,
    },
}

/// The numbers of [`Account`], which cannot be built outside its crate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    offered: u64,
    delivered: u64,
    filtered: u64,
    conflated: u64,
    lagged: u64,
    disconnected: u64,
    block_full: u64,
    block_deadline: u64,
    conflate_full: u64,
    panicked: u64,
    abandoned: u64,
    pending: u64,
}

impl From<Account> for Sums {
    fn from(account: Account) -> Self {
        let lost = account.lost;
        Self {
            offered: account.offered,
            delivered: account.delivered,
            filtered: account.filtered,
            conflated: account.conflated,
            lagged: lost.lagged,
            disconnected: lost.disconnected,
            block_full: lost.block_full,
            block_deadline: lost.block_deadline,
            conflate_full: lost.conflate_full,
            panicked: lost.panicked,
            abandoned: lost.abandoned,
            pending: account.pending,
        }
    }
}

impl Sums {
    pub(crate) fn add(&mut self, other: Self) {
        self.offered += other.offered;
        self.delivered += other.delivered;
        self.filtered += other.filtered;
        self.conflated += other.conflated;
        self.lagged += other.lagged;
        self.disconnected += other.disconnected;
        self.block_full += other.block_full;
        self.block_deadline += other.block_deadline;
        self.conflate_full += other.conflate_full;
        self.panicked += other.panicked;
        self.abandoned += other.abandoned;
        self.pending += other.pending;
    }

    pub(crate) fn pending(&self) -> u64 {
        self.pending
    }
}

/// What the next receive has to say.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Next {
    Event {
        lane: Lane,
        record: Record,
        conflated: u64,
    },
    /// The closure refuses it; the receive goes on behind it.
    Refused,
    Panics,
    Lagged(Lane),
    Disconnected,
    Nothing,
}

/// A reader of the model.
#[derive(Debug)]
pub(crate) struct Owed {
    options: Options,
    capacity: usize,
    data: Data,
    control: VecDeque<Unread>,
    control_missed: Option<Missed>,
    last: Option<Unread>,
    cut: bool,
    sums: Sums,
    /// Newest event delivered, per lane.
    newest: [u64; 2],
}

impl Owed {
    /// `retained` are the events that the reader starts with, `last` the one of a sealed topic.
    pub(crate) fn new(
        options: Options,
        capacity: usize,
        retained: &[Record],
        last: Option<Record>,
    ) -> Self {
        let wanted = |record: &&Record| match options.interest {
            Some(interest) => interest.contains(record.traits.class()),
            None => true,
        };
        let history: VecDeque<_> = retained
            .iter()
            .filter(wanted)
            .copied()
            .map(Unread::new)
            .collect();
        let offered = retained.len() as u64;
        let filtered = offered - history.len() as u64;
        let data = match options.policy {
            Keeps::Newest | Keeps::AllOrNothing => Data::Ring {
                unread: history,
                missed: None,
            },
            Keeps::Oldest { .. } => Data::Buffer {
                history,
                places: VecDeque::new(),
            },
            Keeps::NewestPerKey { .. } => Data::Sweep {
                history,
                intake: VecDeque::new(),
                sweep: VecDeque::new(),
                missed: None,
            },
        };
        let mut owed = Self {
            options,
            capacity,
            data,
            control: VecDeque::new(),
            control_missed: None,
            last: None,
            cut: false,
            sums: Sums {
                offered,
                filtered,
                ..Sums::default()
            },
            newest: [0; 2],
        };
        if let Some(last) = last {
            owed.offer_last(last);
        }
        owed
    }

    pub(crate) fn is_connected(&self) -> bool {
        !self.cut
    }

    /// Offers a data event; returns whether a parked reader has to be woken.
    pub(crate) fn offer_data(&mut self, record: Record, manner: Manner) -> bool {
        if self.cut {
            return false;
        }
        self.sums.offered += 1;
        let wanted = self.wants(record.traits);
        self.sums.filtered += u64::from(!wanted);
        let (capacity, policy) = (self.capacity, self.options.policy);
        let is_full = self.is_full();
        let sums = &mut self.sums;
        match &mut self.data {
            Data::Ring { unread, missed } => {
                if wanted {
                    unread.push_back(Unread::new(record));
                }
                let tail = (record.seq + 1).saturating_sub(capacity as u64);
                let overrun = unread.front().is_some_and(|u| u.record.seq < tail);
                if overrun && policy == Keeps::AllOrNothing {
                    self.cut_off();
                    return true;
                }
                while unread.front().is_some_and(|u| u.record.seq < tail) {
                    let lost = unread.pop_front().expect("there is a front");
                    miss(missed, lost.record.seq);
                    sums.lagged += 1;
                }
            }
            Data::Buffer { .. } | Data::Sweep { .. } if !wanted => {}
            Data::Buffer { places, .. } => {
                let lost = if is_full {
                    match manner {
                        Manner::AtOnce => sums.block_full += 1,
                        Manner::Waited => sums.block_deadline += 1,
                    }
                    true
                } else if record.traits.clone_panics() {
                    sums.panicked += 1;
                    true
                } else {
                    false
                };
                match (lost, places.back_mut()) {
                    (false, _) => places.push_back(Place::Event(Unread {
                        cloned: true,
                        ..Unread::new(record)
                    })),
                    (true, Some(Place::Gap(run))) => {
                        run.last = record.seq;
                        run.count += 1;
                    }
                    (true, _) => {
                        let mut run = None;
                        miss(&mut run, record.seq);
                        places.extend(run.map(Place::Gap));
                    }
                }
            }
            Data::Sweep { intake, missed, .. } => {
                let Keeps::NewestPerKey { max_keys } = policy else {
                    unreachable!("only it sweeps")
                };
                let traits = record.traits;
                let twin = intake
                    .iter()
                    .position(|u| u.record.traits.key() == traits.key());
                let is_full = twin.is_none() && intake.len() == max_keys;
                if is_full && !traits.key_panics() {
                    sums.conflate_full += 1;
                    miss(missed, record.seq);
                } else if traits.key_panics() || traits.clone_panics() {
                    sums.panicked += 1;
                    miss(missed, record.seq);
                } else {
                    let old = twin.and_then(|at| intake.remove(at));
                    sums.conflated += u64::from(old.is_some());
                    intake.push_back(Unread {
                        cloned: true,
                        conflated: old.map_or(0, |old| old.conflated + 1),
                        ..Unread::new(record)
                    });
                }
            }
        }
        wanted
    }

    /// Offers a control event; returns whether a parked reader has to be woken.
    pub(crate) fn offer_control(&mut self, record: Record, key: Option<u64>) -> bool {
        if self.cut {
            return false;
        }
        self.sums.offered += 1;
        if !self.wants(record.traits) {
            self.sums.filtered += 1;
            return false;
        }
        let mut new = Unread {
            key,
            ..Unread::new(record)
        };
        if self.control.len() == CONTROL_SLOTS {
            let twin = self
                .control
                .iter()
                .position(|unread| key.is_some() && unread.key == key);
            if let Some(old) = twin.and_then(|at| self.control.remove(at)) {
                new.conflated = old.conflated + 1;
                self.sums.conflated += 1;
            } else if self.options.policy == Keeps::AllOrNothing {
                self.control.push_back(new);
                self.cut_off();
                return true;
            } else {
                let oldest = self.control.pop_front().expect("it is full");
                miss(&mut self.control_missed, oldest.record.seq);
                self.sums.lagged += 1;
            }
        }
        self.control.push_back(new);
        true
    }

    /// Offers the last event; returns whether a parked reader has to be woken.
    pub(crate) fn offer_last(&mut self, record: Record) -> bool {
        if self.cut {
            return false;
        }
        self.sums.offered += 1;
        self.last = Some(Unread {
            is_last: true,
            ..Unread::new(record)
        });
        true
    }

    /// Milliseconds for which a waiting publisher of such an event has to wait for this reader.
    pub(crate) fn blocks(&self, traits: Traits) -> Option<u64> {
        match self.options.policy {
            Keeps::Oldest { deadline_ms } if self.is_full() && self.wants(traits) => {
                Some(deadline_ms)
            }
            _ => None,
        }
    }

    fn is_full(&self) -> bool {
        match &self.data {
            Data::Buffer { places, .. } => {
                let events = places.iter().filter(|p| matches!(p, Place::Event(_)));
                events.count() >= self.capacity
            }
            _ => false,
        }
    }

    fn wants(&self, traits: Traits) -> bool {
        self.options
            .interest
            .is_none_or(|interest| interest.contains(traits.class()))
    }

    fn cut_off(&mut self) {
        self.cut = true;
        self.sums.disconnected += self.pending();
        self.control.clear();
        self.control_missed = None;
        if let Data::Ring { unread, missed } = &mut self.data {
            unread.clear();
            *missed = None;
        }
    }

    fn pending(&self) -> u64 {
        let data = match &self.data {
            Data::Ring { unread, .. } => unread.len(),
            Data::Buffer { history, places } => {
                let events = places.iter().filter(|p| matches!(p, Place::Event(_)));
                history.len() + events.count()
            }
            Data::Sweep {
                history,
                intake,
                sweep,
                ..
            } => history.len() + intake.len() + sweep.len(),
        };
        (data + self.control.len()) as u64 + u64::from(self.last.is_some())
    }

    /// What its account must be now.
    pub(crate) fn sums(&self) -> Sums {
        Sums {
            pending: self.pending(),
            ..self.sums
        }
    }

    /// What its account is once it has left.
    pub(crate) fn farewell(&self) -> Sums {
        Sums {
            abandoned: self.pending(),
            ..self.sums
        }
    }

    /// What the next receive comes to. Changes nothing.
    pub(crate) fn peek(&self) -> Next {
        if self.cut {
            return Next::Disconnected;
        }
        if self.control_missed.is_some() {
            return Next::Lagged(Lane::Control);
        }
        if let Some(unread) = self.control.front().or(self.last.as_ref()) {
            return self.fate(Lane::Control, unread);
        }
        let unread = match &self.data {
            Data::Ring {
                missed: Some(_), ..
            } => return Next::Lagged(Lane::Data),
            Data::Ring { unread, .. } => unread.front(),
            Data::Buffer { history, places } => match (history.front(), places.front()) {
                (Some(unread), _) | (None, Some(Place::Event(unread))) => Some(unread),
                (None, Some(Place::Gap(_))) => return Next::Lagged(Lane::Data),
                (None, None) => None,
            },
            Data::Sweep {
                history,
                intake,
                sweep,
                missed,
            } => match (history.front(), missed) {
                (Some(unread), _) => Some(unread),
                (None, Some(_)) => return Next::Lagged(Lane::Data),
                (None, None) => sweep.front().or(intake.front()),
            },
        };
        unread.map_or(Next::Nothing, |unread| self.fate(Lane::Data, unread))
    }

    fn fate(&self, lane: Lane, unread: &Unread) -> Next {
        let record = unread.record;
        if self.options.even_only && !unread.is_last && !record.traits.is_even() {
            Next::Refused
        } else if record.traits.clone_panics() && !unread.cloned {
            Next::Panics
        } else {
            Next::Event {
                lane,
                record,
                conflated: unread.conflated,
            }
        }
    }

    /// Takes the next event as `fate` says, which is what [`peek`](Self::peek) returned.
    pub(crate) fn take(&mut self, fate: Next) {
        if self.control.pop_front().is_none() && self.last.take().is_none() {
            self.take_data();
        }
        match fate {
            Next::Event { lane, record, .. } => {
                let newest = &mut self.newest[lane as usize];
                assert!(record.seq > *newest, "the model itself goes back");
                *newest = record.seq;
                self.sums.delivered += 1;
            }
            Next::Refused => self.sums.filtered += 1,
            Next::Panics => self.sums.panicked += 1,
            Next::Lagged(_) | Next::Disconnected | Next::Nothing => {
                unreachable!("that is no event")
            }
        }
    }

    fn take_data(&mut self) {
        match &mut self.data {
            Data::Ring { unread, .. } => drop(unread.pop_front()),
            Data::Buffer { history, places } => {
                if history.pop_front().is_none() {
                    places.pop_front();
                }
            }
            Data::Sweep {
                history,
                intake,
                sweep,
                ..
            } => {
                if history.pop_front().is_some() {
                    return;
                }
                if sweep.is_empty() {
                    std::mem::swap(sweep, intake);
                }
                sweep.pop_front();
            }
        }
    }

    /// Whether a closure refuses events.
    pub(crate) fn filters(&self) -> bool {
        self.options.even_only
    }

    /// Whether the events of a batch may go on behind the one that would be next.
    pub(crate) fn continues(&self) -> bool {
        matches!(
            self.peek(),
            Next::Event { .. } | Next::Refused | Next::Panics
        )
    }

    /// Takes the gap that was told, which must be the one that is due.
    pub(crate) fn tell(&mut self, gap: Gap) {
        let due = match gap.lane {
            Lane::Control => self.control_missed.take(),
            Lane::Data => match &mut self.data {
                Data::Ring { missed, .. } | Data::Sweep { missed, .. } => missed.take(),
                Data::Buffer { places, .. } => match places.pop_front() {
                    Some(Place::Gap(run)) => Some(run),
                    _ => None,
                },
            },
        };
        let due = due.expect("no gap was due");
        assert_eq!(gap.missed(), due.count, "{gap:?} for {due:?}");
        // A reader with an interest may be told of its neighbours too.
        assert!(gap.first_missed <= due.first && due.last <= gap.last_missed);
        assert!(gap.missed() <= gap.last_missed - gap.first_missed + 1);
        if self.options.interest.is_none() {
            assert_eq!((gap.first_missed, gap.last_missed), (due.first, due.last));
        }
    }
}
