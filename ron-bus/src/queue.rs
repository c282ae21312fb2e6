//! Buffers of events that belong to one reader: of `Block` and `Conflate` readers, and of everyone's control lane.
//! Plain bookkeeping under the topic's lock; runs no code of the user, and hands back every event that has to be
//! dropped.

use std::collections::hash_map::Entry as Place;
use std::collections::{HashMap, VecDeque};

use crate::config::CONTROL_SLOTS;
use crate::sync::Arc;

/// How much larger than its use the map of keys may stay, in entries; small maps stay.
const PLACES_SPARE: usize = 256;

/// An event outside the ring.
pub(crate) struct Node<E> {
    /// Milliseconds since 1970 at publish; 0 on topics without encoder.
    pub(crate) stamp_ms: i64,
    pub(crate) event: E,
}

/// Events of one lane that a reader was not given and has not been told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Missed {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) count: u64,
}

impl Missed {
    /// Adds a later event to a run of them.
    fn note(missed: &mut Option<Self>, seq: u64) {
        let run = missed.get_or_insert(Self {
            first: seq,
            last: seq,
            count: 0,
        });
        run.last = seq;
        run.count += 1;
    }
}

/// An event in a reader's own buffer.
pub(crate) struct Entry<E> {
    pub(crate) seq: u64,
    /// Earlier events this one stands for.
    pub(crate) conflated: u64,
    /// What was lost right before it.
    missed: Option<Missed>,
    pub(crate) node: Node<E>,
}

/// What became of an offered event; an event that has to be dropped is in it.
pub(crate) enum Offer<E> {
    Stored,
    Conflated(Node<E>),
    Full(Node<E>),
}

/// The buffer of a `Block` reader.
pub(crate) struct Fifo<E> {
    entries: VecDeque<Entry<E>>,
    /// Lost behind the last entry.
    missed: Option<Missed>,
    capacity: usize,
    /// Taken out and not settled; they hold their places.
    pub(crate) claimed: usize,
}

impl<E> Fifo<E> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            missed: None,
            capacity,
            claimed: 0,
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len() >= self.capacity
    }

    fn len(&self) -> usize {
        self.entries.len() + self.claimed
    }
}

/// The buffer of a `Conflate` reader: new events replace those of their key in the intake; the reader takes the intake
/// as a whole and reads it in order, so that numbers never go back and no key waits for ever behind busier ones.
pub(crate) struct Keyed<E> {
    intake: Chain<E>,
    places: HashMap<u64, usize>,
    sweep: Chain<E>,
    missed: Option<Missed>,
    max_keys: usize,
    pub(crate) claimed: usize,
}

impl<E> Keyed<E> {
    pub(crate) fn new(max_keys: usize) -> Self {
        Self {
            intake: Chain::new(),
            places: HashMap::new(),
            sweep: Chain::new(),
            missed: None,
            max_keys,
            claimed: 0,
        }
    }

    fn offer(&mut self, key: u64, mut entry: Entry<E>) -> Offer<E> {
        match self.places.entry(key) {
            Place::Occupied(mut place) => {
                let Some(old) = self.intake.remove(*place.get()) else {
                    return Offer::Stored;
                };
                entry.conflated = old.conflated + 1;
                place.insert(self.intake.push_back(entry));
                Offer::Conflated(old.node)
            }
            Place::Vacant(place) if self.intake.len < self.max_keys => {
                place.insert(self.intake.push_back(entry));
                Offer::Stored
            }
            Place::Vacant(_) => {
                Missed::note(&mut self.missed, entry.seq);
                Offer::Full(entry.node)
            }
        }
    }

    /// Begins the next sweep only if it `may`.
    fn pop(&mut self, may: bool) -> Option<Entry<E>> {
        if self.sweep.len == 0 && may {
            std::mem::swap(&mut self.sweep, &mut self.intake);
            if self.places.capacity() > PLACES_SPARE * (1 + self.sweep.len) {
                // Clearing costs what the map once held.
                self.places = HashMap::new();
            }
            self.places.clear();
        }
        let head = self.sweep.head?;
        self.sweep.remove(head)
    }
}

/// A reader's own buffer of data events.
pub(crate) enum Buffer<E> {
    Fifo(Fifo<E>),
    Keyed(Keyed<E>),
}

impl<E> Buffer<E> {
    /// Takes the event or says why not; `key` is what the reader's key function made of it.
    pub(crate) fn offer(&mut self, seq: u64, key: u64, node: Node<E>) -> Offer<E> {
        let entry = |node, missed| Entry {
            seq,
            conflated: 0,
            missed,
            node,
        };
        match self {
            Self::Fifo(fifo) if fifo.is_full() => {
                Missed::note(&mut fifo.missed, seq);
                Offer::Full(node)
            }
            Self::Fifo(fifo) => {
                let missed = fifo.missed.take();
                fifo.entries.push_back(entry(node, missed));
                Offer::Stored
            }
            Self::Keyed(keyed) => keyed.offer(key, entry(node, None)),
        }
    }

    /// Whether it would take an event, as far as that can be told without its key.
    pub(crate) fn has_room(&self, key: Option<u64>) -> bool {
        match self {
            Self::Fifo(fifo) => !fifo.is_full(),
            Self::Keyed(keyed) => {
                let known = key.map_or(true, |key| keyed.places.contains_key(&key));
                known || keyed.intake.len < keyed.max_keys
            }
        }
    }

    /// Notes an event that could not even be offered.
    pub(crate) fn miss(&mut self, seq: u64) {
        match self {
            Self::Fifo(fifo) => Missed::note(&mut fifo.missed, seq),
            Self::Keyed(keyed) => Missed::note(&mut keyed.missed, seq),
        }
    }

    /// What the reader has to be told before it is given the next event.
    pub(crate) fn missed(&mut self) -> &mut Option<Missed> {
        match self {
            Self::Fifo(fifo) => match fifo.entries.front_mut() {
                Some(front) => &mut front.missed,
                None => &mut fifo.missed,
            },
            Self::Keyed(keyed) => &mut keyed.missed,
        }
    }

    /// Hands out the next event, which stays pending until it is [settled](Self::settle). Stops at a gap, and before
    /// the next sweep unless this is the first event of a claim.
    pub(crate) fn claim(&mut self, is_first: bool) -> Option<Entry<E>> {
        if self.missed().is_some() {
            return None;
        }
        let entry = match self {
            Self::Fifo(fifo) => fifo.entries.pop_front(),
            Self::Keyed(keyed) => keyed.pop(is_first),
        }?;
        *self.claimed() += 1;
        Some(entry)
    }

    /// Takes back the event claimed last among those that were not settled.
    pub(crate) fn put_back(&mut self, entry: Entry<E>) {
        *self.claimed() -= 1;
        match self {
            Self::Fifo(fifo) => fifo.entries.push_front(entry),
            Self::Keyed(keyed) => keyed.sweep.push_front(entry),
        }
    }

    pub(crate) fn settle(&mut self, events: usize) {
        *self.claimed() -= events;
    }

    fn claimed(&mut self) -> &mut usize {
        match self {
            Self::Fifo(fifo) => &mut fifo.claimed,
            Self::Keyed(keyed) => &mut keyed.claimed,
        }
    }

    pub(crate) fn pending(&self) -> u64 {
        let events = match self {
            Self::Fifo(fifo) => fifo.len(),
            Self::Keyed(keyed) => keyed.intake.len + keyed.sweep.len + keyed.claimed,
        };
        events as u64
    }
}

/// A list whose middle can be taken out, in slots that are reused.
struct Chain<E> {
    links: Vec<Link<E>>,
    free: Option<usize>,
    head: Option<usize>,
    tail: Option<usize>,
    len: usize,
}

struct Link<E> {
    entry: Option<Entry<E>>,
    before: Option<usize>,
    /// The next entry, or the next free link.
    after: Option<usize>,
}

impl<E> Chain<E> {
    fn new() -> Self {
        Self {
            links: Vec::new(),
            free: None,
            head: None,
            tail: None,
            len: 0,
        }
    }

    fn link(&mut self, before: Option<usize>, after: Option<usize>, entry: Entry<E>) -> usize {
        let link = Link {
            entry: Some(entry),
            before,
            after,
        };
        let at = match self.free {
            Some(at) => {
                self.free = self.links[at].after;
                self.links[at] = link;
                at
            }
            None => {
                self.links.push(link);
                self.links.len() - 1
            }
        };
        self.join(before, Some(at));
        self.join(Some(at), after);
        self.len += 1;
        at
    }

    fn push_back(&mut self, entry: Entry<E>) -> usize {
        self.link(self.tail, None, entry)
    }

    fn push_front(&mut self, entry: Entry<E>) {
        self.link(None, self.head, entry);
    }

    fn remove(&mut self, at: usize) -> Option<Entry<E>> {
        let entry = self.links[at].entry.take()?;
        let (before, after) = (self.links[at].before, self.links[at].after);
        self.join(before, after);
        self.links[at].after = self.free;
        self.free = Some(at);
        self.len -= 1;
        Some(entry)
    }

    fn join(&mut self, before: Option<usize>, after: Option<usize>) {
        match before {
            Some(at) => self.links[at].after = after,
            None => self.head = after,
        }
        match after {
            Some(at) => self.links[at].before = before,
            None => self.tail = before,
        }
    }
}

/// A control event, shared by the readers that have not received it.
pub(crate) struct ControlEntry<E> {
    pub(crate) seq: u64,
    pub(crate) conflated: u64,
    key: Option<u64>,
    pub(crate) node: Arc<Node<E>>,
}

/// One reader's unread control events, at most [`CONTROL_SLOTS`].
pub(crate) struct Control<E> {
    entries: VecDeque<ControlEntry<E>>,
    pub(crate) missed: Option<Missed>,
    pub(crate) claimed: usize,
}

/// What a control event cost the reader.
pub(crate) enum Pressed<E> {
    Nothing,
    Conflated(Arc<Node<E>>),
    Lost(Arc<Node<E>>),
}

impl<E> Control<E> {
    pub(crate) fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            missed: None,
            claimed: 0,
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.entries.len() + self.claimed >= CONTROL_SLOTS
    }

    /// Adds the newest event. A full lane gives up an unread event: one of the same key for which the new one then
    /// stands, or else the oldest.
    pub(crate) fn push(&mut self, seq: u64, key: Option<u64>, node: Arc<Node<E>>) -> Pressed<E> {
        let mut entry = ControlEntry {
            seq,
            conflated: 0,
            key,
            node,
        };
        let mut pressed = Pressed::Nothing;
        if self.is_full() {
            let twin = self.twin(key);
            if let Some(old) = twin.and_then(|at| self.entries.remove(at)) {
                entry.conflated = old.conflated + 1;
                pressed = Pressed::Conflated(old.node);
            } else if let Some(old) = self.entries.pop_front() {
                Missed::note(&mut self.missed, old.seq);
                pressed = Pressed::Lost(old.node);
            }
        }
        self.entries.push_back(entry);
        pressed
    }

    /// Whether an event of this key would find one to replace.
    pub(crate) fn has_twin(&self, key: Option<u64>) -> bool {
        self.twin(key).is_some()
    }

    fn twin(&self, key: Option<u64>) -> Option<usize> {
        key?;
        self.entries.iter().position(|entry| entry.key == key)
    }

    pub(crate) fn claim(&mut self) -> Option<ControlEntry<E>> {
        if self.missed.is_some() {
            return None;
        }
        let entry = self.entries.pop_front()?;
        self.claimed += 1;
        Some(entry)
    }

    pub(crate) fn put_back(&mut self, entry: ControlEntry<E>) {
        self.claimed -= 1;
        self.entries.push_front(entry);
    }

    pub(crate) fn settle(&mut self, events: usize) {
        self.claimed -= events;
    }

    pub(crate) fn pending(&self) -> u64 {
        (self.entries.len() + self.claimed) as u64
    }

    /// Events that nobody has in hand.
    pub(crate) fn unread(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Number of the oldest unread event.
    pub(crate) fn front(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.seq)
    }

    /// Gives up what nobody has in hand, for a reader that is cut off.
    pub(crate) fn cut(&mut self) -> VecDeque<ControlEntry<E>> {
        std::mem::take(&mut self.entries)
    }
}
