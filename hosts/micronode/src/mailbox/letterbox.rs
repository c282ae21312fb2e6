//! Messages, leases, keys and dead letters: arithmetic, without a clock, randomness or I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::time::Duration;

use super::id::{LeaseId, MessageId};
use super::payload::Payload;
use super::settings::MailboxSettings;

/// What is counted for a message beside its body, and for a key: places in tables that may be half empty.
const MESSAGE_COST: u64 = 256;
const KEY_COST: u64 = 256;

type Hash = [u8; 32];

/// Where messages wait.
///
/// A message is in one of these states, and `letters` has it until it leaves the last of them:
///
/// | state | in | left by |
/// |---|---|---|
/// | waiting | `waiting` | receive: leased; or dead, if it was delivered often enough under a limit of today |
/// | leased | `leases` | ack: gone; expiry: waiting, or dead after the last attempt |
/// | dead | `dead`, `dead_waiting` | receive: dead and leased; more dead letters, or a send without room: dropped |
/// | dead and leased | `dead`, `leases` | ack: gone; expiry: dead; as dead: dropped, and its lease with it |
///
/// Times count from any moment, the same in all calls, and do not fall from one call to the next. What is due by then
/// happens first in each of them.
pub struct Letterbox {
    /// Tells its ids from those of others.
    epoch: u64,
    next: u64,
    letters: BTreeMap<u64, Letter>,
    /// By number: the order in which they were sent.
    waiting: BTreeSet<u64>,
    /// Who is at which place among the dead: the order in which they died.
    dead: BTreeMap<u64, u64>,
    /// The places of those that are not leased.
    dead_waiting: BTreeSet<u64>,
    next_death: u64,
    /// By their end.
    leases: BTreeSet<(Duration, u64)>,
    keys: HashMap<Hash, Known>,
    /// When each key that is in its window was taken, in that order.
    windows: VecDeque<(Duration, Hash)>,
    bytes: u64,
    dead_bytes: u64,
    totals: Totals,
}

struct Letter {
    payload: Payload,
    key: Hash,
    sent: Duration,
    attempts: u32,
    lease: Option<Lease>,
    /// Its place among the dead.
    death: Option<u64>,
}

struct Lease {
    id: LeaseId,
    until: Duration,
}

struct Known {
    number: u64,
    body: Hash,
    held: Held,
}

/// Why a key is still known. `Both` is left when the window ends or the message does, the others when what is left ends.
enum Held {
    Both,
    ByWindow,
    ByMessage,
}

/// A message that is about to be sent.
#[derive(Debug)]
pub struct Draft {
    payload: Payload,
    key: Hash,
    body: Hash,
}

impl Draft {
    /// `payload` under `key`, which is the sender's name for it.
    pub fn new(key: &str, payload: Payload) -> Self {
        Self {
            key: *blake3::hash(key.as_bytes()).as_bytes(),
            body: *blake3::hash(payload.as_bytes()).as_bytes(),
            payload,
        }
    }

    fn cost(&self) -> u64 {
        cost(&self.payload) + KEY_COST
    }
}

fn cost(payload: &Payload) -> u64 {
    MESSAGE_COST + payload.len() as u64
}

/// Why a message was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsent {
    /// It was accepted before.
    #[error("the same was sent under this key before")]
    Duplicate(MessageId),
    /// Another one has its key.
    #[error("something else was sent under this key before")]
    KeyReused,
    /// There is no room for it.
    #[error("the mailbox is full: {0}")]
    Full(#[from] Full),
}

/// What there is too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// Messages that wait or are leased.
    #[error("{used} of {limit} messages")]
    Messages {
        /// Now.
        used: usize,
        /// `mailbox.max_messages`.
        limit: usize,
    },
    /// Bytes that cannot be had by dropping dead letters.
    #[error("{used} of {limit} bytes")]
    Bytes {
        /// Now, without dead letters.
        used: u64,
        /// `mailbox.max_bytes`.
        limit: u64,
    },
}

/// What is received from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shelf {
    /// Messages that wait.
    Queue,
    /// Dead letters.
    Dead,
}

/// A message in the hand of whoever received it.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Which.
    pub id: MessageId,
    /// What ends it.
    pub lease: LeaseId,
    /// What was sent.
    pub payload: Payload,
    /// How often it was delivered, this time included. A dead letter keeps the number it died with.
    pub attempt: u32,
    /// How long the lease lasts.
    pub lasts: Duration,
}

/// There is no such lease, or it has expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no such lease, or it has expired")]
pub struct NoLease;

/// What has happened since the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// Messages sent and accepted.
    pub sent: u64,
    /// Deliveries, of dead letters too.
    pub received: u64,
    /// Messages that were acked, dead letters too.
    pub acked: u64,
    /// Leases that expired.
    pub expired: u64,
    /// Sends that were accepted before.
    pub deduplicated: u64,
    /// Messages that became dead letters.
    pub dead: u64,
    /// Dead letters that were dropped.
    pub dropped: u64,
}

/// What there is now. At any time `sent = waiting + leased + dead + acked + dropped`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Messages to be received.
    pub waiting: usize,
    /// Messages in somebody's hand, without dead letters.
    pub leased: usize,
    /// Dead letters, leased or not.
    pub dead: usize,
    /// Keys that are known.
    pub keys: usize,
    /// What all of it takes.
    pub bytes: u64,
    /// What dead letters take of it.
    pub dead_bytes: u64,
    /// How long the first of those that wait has been there.
    pub oldest: Option<Duration>,
    /// What has happened.
    pub totals: Totals,
}

impl Letterbox {
    /// An empty one. `epoch` is random, so that no id of it is one of another process.
    pub fn new(epoch: u64) -> Self {
        Self {
            epoch,
            next: 0,
            letters: BTreeMap::new(),
            waiting: BTreeSet::new(),
            dead: BTreeMap::new(),
            dead_waiting: BTreeSet::new(),
            next_death: 0,
            leases: BTreeSet::new(),
            keys: HashMap::new(),
            windows: VecDeque::new(),
            bytes: 0,
            dead_bytes: 0,
            totals: Totals::default(),
        }
    }

    /// Accepts a message. A key is looked at first: what was accepted before is told so although there is no more room.
    ///
    /// # Errors
    /// It, or something else, was sent under its key; or there is no room.
    pub fn send(
        &mut self,
        now: Duration,
        limits: &MailboxSettings,
        draft: Draft,
    ) -> Result<MessageId, Unsent> {
        self.advance(now, limits);
        if let Some(known) = self.keys.get(&draft.key) {
            if known.body != draft.body {
                return Err(Unsent::KeyReused);
            }
            self.totals.deduplicated += 1;
            return Err(Unsent::Duplicate(MessageId::new(self.epoch, known.number)));
        }
        self.make_room(draft.cost(), limits)?;
        let number = self.next;
        self.next += 1;
        self.bytes += draft.cost();
        let known = Known {
            number,
            body: draft.body,
            held: Held::Both,
        };
        self.keys.insert(draft.key, known);
        self.windows.push_back((now, draft.key));
        let letter = Letter {
            payload: draft.payload,
            key: draft.key,
            sent: now,
            attempts: 0,
            lease: None,
            death: None,
        };
        self.letters.insert(number, letter);
        self.waiting.insert(number);
        self.totals.sent += 1;
        Ok(MessageId::new(self.epoch, number))
    }

    /// Leases the first message of `shelf`, if there is one. `lease` must be unknown to everybody.
    pub fn receive(
        &mut self,
        now: Duration,
        limits: &MailboxSettings,
        shelf: Shelf,
        lease: LeaseId,
    ) -> Option<Delivery> {
        self.advance(now, limits);
        let number = match shelf {
            Shelf::Queue => self.first_waiting(limits)?,
            Shelf::Dead => {
                let place = self.dead_waiting.pop_first()?;
                *self.dead.get(&place)?
            }
        };
        let letter = self.letters.get_mut(&number)?;
        if shelf == Shelf::Queue {
            letter.attempts += 1;
        }
        let until = now + limits.visibility;
        letter.lease = Some(Lease { id: lease, until });
        self.leases.insert((until, number));
        self.totals.received += 1;
        Some(Delivery {
            id: MessageId::new(self.epoch, number),
            lease,
            payload: letter.payload.clone(),
            attempt: letter.attempts,
            lasts: limits.visibility,
        })
    }

    /// Ends a message for good.
    ///
    /// # Errors
    /// `lease` is not that under which it was last delivered, or has expired.
    pub fn ack(
        &mut self,
        now: Duration,
        limits: &MailboxSettings,
        id: MessageId,
        lease: LeaseId,
    ) -> Result<(), NoLease> {
        self.advance(now, limits);
        let number = id.number(self.epoch).ok_or(NoLease)?;
        let letter = self.letters.get(&number).ok_or(NoLease)?;
        if letter.lease.as_ref().map(|held| held.id) != Some(lease) {
            return Err(NoLease);
        }
        self.remove(number);
        self.totals.acked += 1;
        Ok(())
    }

    /// Does what is due: leases expire, keys are forgotten. Calls of anything else do so first.
    pub fn advance(&mut self, now: Duration, limits: &MailboxSettings) {
        while let Some(&(until, number)) = self.leases.first() {
            if until > now {
                break;
            }
            self.leases.pop_first();
            self.expire(number, limits);
        }
        while let Some(&(taken, key)) = self.windows.front() {
            if taken + limits.dedupe_window > now {
                break;
            }
            self.windows.pop_front();
            self.let_go(key, Held::ByMessage);
        }
        self.drop_dead_beyond(limits.dead_letters);
    }

    /// What there is at `now`.
    pub fn counts(&self, now: Duration) -> Counts {
        let oldest = self.waiting.first().and_then(|n| self.letters.get(n));
        Counts {
            waiting: self.waiting.len(),
            leased: (self.leases.len() + self.dead_waiting.len()).saturating_sub(self.dead.len()),
            dead: self.dead.len(),
            keys: self.keys.len(),
            bytes: self.bytes,
            dead_bytes: self.dead_bytes,
            oldest: oldest.map(|letter| now.saturating_sub(letter.sent)),
            totals: self.totals,
        }
    }

    /// Messages that wait or are leased.
    fn alive(&self) -> usize {
        self.letters.len() - self.dead.len()
    }

    fn make_room(&mut self, cost: u64, limits: &MailboxSettings) -> Result<(), Full> {
        let (used, limit) = (self.alive(), limits.max_messages);
        if used >= limit {
            return Err(Full::Messages { used, limit });
        }
        let (used, limit) = (self.bytes - self.dead_bytes, limits.max_bytes.bytes());
        if cost > limit.saturating_sub(used) {
            return Err(Full::Bytes { used, limit });
        }
        while cost > limit.saturating_sub(self.bytes) && !self.dead.is_empty() {
            self.drop_dead_beyond(self.dead.len() - 1);
        }
        Ok(())
    }

    /// The first that may be delivered once more.
    fn first_waiting(&mut self, limits: &MailboxSettings) -> Option<u64> {
        loop {
            let number = self.waiting.pop_first()?;
            if self.letters.get(&number)?.attempts < limits.max_attempts {
                return Some(number);
            }
            self.bury(number, limits);
        }
    }

    fn expire(&mut self, number: u64, limits: &MailboxSettings) {
        let Some(letter) = self.letters.get_mut(&number) else {
            return;
        };
        letter.lease = None;
        self.totals.expired += 1;
        match letter.death {
            Some(place) => {
                self.dead_waiting.insert(place);
            }
            None if letter.attempts >= limits.max_attempts => self.bury(number, limits),
            None => {
                self.waiting.insert(number);
            }
        }
    }

    /// Makes a dead letter of a message that neither waits nor is leased.
    fn bury(&mut self, number: u64, limits: &MailboxSettings) {
        let Some(letter) = self.letters.get_mut(&number) else {
            return;
        };
        let place = self.next_death;
        self.next_death += 1;
        letter.death = Some(place);
        self.dead_bytes += cost(&letter.payload);
        let key = letter.key;
        self.dead.insert(place, number);
        self.dead_waiting.insert(place);
        self.totals.dead += 1;
        self.let_go(key, Held::ByWindow);
        self.drop_dead_beyond(limits.dead_letters);
    }

    fn drop_dead_beyond(&mut self, most: usize) {
        while self.dead.len() > most {
            let Some((_, &number)) = self.dead.first_key_value() else {
                return;
            };
            self.remove(number);
            self.totals.dropped += 1;
        }
    }

    fn remove(&mut self, number: u64) {
        let Some(letter) = self.letters.remove(&number) else {
            return;
        };
        let cost = cost(&letter.payload);
        self.bytes -= cost;
        if let Some(lease) = letter.lease {
            self.leases.remove(&(lease.until, number));
        }
        match letter.death {
            Some(place) => {
                self.dead.remove(&place);
                self.dead_waiting.remove(&place);
                self.dead_bytes -= cost;
            }
            None => self.let_go(letter.key, Held::ByWindow),
        }
    }

    /// The window of a key, or its message, has ended; `left` holds it from now on, if it has not ended before.
    fn let_go(&mut self, key: Hash, left: Held) {
        let Some(known) = self.keys.get_mut(&key) else {
            return;
        };
        match known.held {
            Held::Both => known.held = left,
            Held::ByWindow | Held::ByMessage => {
                self.keys.remove(&key);
                self.bytes -= KEY_COST;
            }
        }
    }
}

impl fmt::Debug for Letterbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Letterbox")
            .field("alive", &self.alive())
            .field("dead", &self.dead.len())
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}
