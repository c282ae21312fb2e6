//! Accounts: what every reader was offered and what became of it.

use std::ops::AddAssign;
use std::sync::Arc;

#[cfg(doc)]
use crate::subscriber::Overflow;
use crate::subscriber::Policy;

/// What a reader was offered and what became of it, both lanes together.
///
/// At any instant `offered = delivered + filtered + conflated + lost.total() + pending`. All but `pending` only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Account {
    /// Events published while the reader was connected, plus the retained ones it started with.
    pub offered: u64,
    /// Events handed to the reader.
    pub delivered: u64,
    /// Events that are not in its interest, or that its filter refused.
    pub filtered: u64,
    /// Events replaced, unread, by a newer one of the same key.
    pub conflated: u64,
    /// Events it will never see.
    pub lost: Lost,
    /// Events that wait for it, including those it is cloning right now.
    pub pending: u64,
}

impl Account {
    /// Whether the law of this account holds; `false` is a defect of this crate.
    #[must_use]
    pub fn is_balanced(&self) -> bool {
        let settled = self.delivered + self.filtered + self.conflated + self.lost.total();
        self.offered == settled + self.pending
    }
}

impl AddAssign for Account {
    fn add_assign(&mut self, other: Self) {
        self.offered += other.offered;
        self.delivered += other.delivered;
        self.filtered += other.filtered;
        self.conflated += other.conflated;
        self.lost += other.lost;
        self.pending += other.pending;
    }
}

/// Events a reader will never see, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lost {
    /// Overwritten before the reader came to them: in the ring of a [`DropOldest`](Overflow::DropOldest) reader, or in
    /// the control lane.
    pub lagged: u64,
    /// Unread when a [`Disconnect`](Overflow::Disconnect) reader was cut off.
    pub disconnected: u64,
    /// Published at once while the buffer of a [`Block`](Overflow::Block) reader was full.
    pub block_full: u64,
    /// Published by [`publish_wait`](crate::Topic::publish_wait) when the buffer of a [`Block`](Overflow::Block) reader
    /// was still full at its deadline.
    pub block_deadline: u64,
    /// Of a new key while a [`Conflate`](Overflow::Conflate) reader held its maximum of keys.
    pub conflate_full: u64,
    /// Their `Clone`, `Drop`, `Serialize`, the filter or the key function panicked.
    pub panicked: u64,
    /// Unread when the reader was dropped. Its own choice, so no sign of overload.
    pub abandoned: u64,
}

impl Lost {
    /// All reasons together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.overflowed() + self.panicked + self.abandoned
    }

    /// Lost because the reader was too slow: all but `panicked` and `abandoned`. This is what `bus_lagged_total` counts.
    #[must_use]
    pub fn overflowed(&self) -> u64 {
        self.lagged + self.disconnected + self.block_full + self.block_deadline + self.conflate_full
    }
}

impl AddAssign for Lost {
    fn add_assign(&mut self, other: Self) {
        self.lagged += other.lagged;
        self.disconnected += other.disconnected;
        self.block_full += other.block_full;
        self.block_deadline += other.block_deadline;
        self.conflate_full += other.conflate_full;
        self.panicked += other.panicked;
        self.abandoned += other.abandoned;
    }
}

/// One topic at one instant: all numbers of a value were read under the same lock.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicStats {
    /// The topic's name.
    pub name: Arc<str>,
    /// Whether it takes events.
    pub state: TopicState,
    /// Slots of the data ring, exactly as asked for.
    pub capacity: usize,
    /// Whether [`Bus::tail`](crate::Bus::tail) can show it.
    pub json: bool,
    /// Sequence number of the newest event of the data lane; 0 before the first. Also the number published.
    pub seq: u64,
    /// The same for the control lane, the last event included.
    pub control_seq: u64,
    /// Readers that are connected now, tails included.
    pub subscribers: usize,
    /// Every reader that has not been dropped, in no particular order.
    pub readers: Vec<ReaderStats>,
    /// Accounts by reader name, readers that left included, so that its counters never fall.
    ///
    /// The first 64 names of a topic have entries of their own; later ones share the entry `other`.
    pub by_name: Vec<NameStats>,
    /// The sum of `by_name`.
    pub total: Account,
}

impl TopicStats {
    /// Events published in the life of the topic, both lanes.
    #[must_use]
    pub fn published(&self) -> u64 {
        self.seq + self.control_seq
    }

    /// How far the slowest reader is behind, in events of both lanes; 0 without readers.
    #[must_use]
    pub fn queue_depth(&self) -> u64 {
        self.readers
            .iter()
            .map(|r| r.account.pending)
            .max()
            .unwrap_or(0)
    }
}

/// Whether a topic takes events. Moves only downwards in this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TopicState {
    /// It does.
    Open,
    /// [`publish_last`](crate::Topic::publish_last) was called.
    Sealed,
    /// It was closed, or its bus was, or all handles that could publish are gone.
    Closed,
}

/// One reader at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReaderStats {
    /// The name it was built with; names need not be unique.
    pub name: Arc<str>,
    /// Its policy.
    pub overflow: Policy,
    /// `false` once a [`Disconnect`](Overflow::Disconnect) reader was cut off.
    pub connected: bool,
    /// Its account.
    pub account: Account,
}

/// All readers of one name, present and past.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NameStats {
    /// The name.
    pub name: Arc<str>,
    /// How many readers of this name have not been dropped.
    pub readers: usize,
    /// The sum of their accounts and of those that left.
    pub account: Account,
}
