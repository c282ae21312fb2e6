//! Senders that wait for room, in the order in which they came.

use std::task::Waker;

use crate::clock::Tick;

/// No place.
const NONE: u32 = u32::MAX;
/// Places that are kept when nobody is left.
const KEPT: usize = 32;

/// What a waiting sender wants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    pub(crate) bytes: u32,
    pub(crate) deadline: Tick,
    /// When it began to wait.
    pub(crate) since: Tick,
}

/// How it stands with a waiting sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// There is room for it now.
    Granted,
    Waits,
    /// It came too late for what was reserved, or the intake has ended.
    Lost,
}

/// A sender's place, which is its own until it gives it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u32);

/// Places are linked, so that anybody can leave at any time. For up to [`KEPT`] of them nothing is allocated once they are
/// there; more are given back when the last one has left.
pub(crate) struct Line {
    places: Vec<Place>,
    /// The first of the unused places, which are linked by `next`.
    free: u32,
    /// Those who wait.
    first: u32,
    last: u32,
    used: usize,
    granted: u64,
    /// Bytes of the granted ones.
    bytes: u64,
    /// No reservation ends before this.
    next_end: Tick,
}

struct Place {
    claim: Claim,
    standing: Standing,
    /// While it waits.
    waker: Option<Waker>,
    prev: u32,
    next: u32,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            free: NONE,
            first: NONE,
            last: NONE,
            used: 0,
            granted: 0,
            bytes: 0,
            next_end: Tick::MAX,
        }
    }
}

impl Line {
    /// Whether nobody waits.
    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.first == NONE
    }

    /// Whether it takes more memory than it is worth.
    pub(crate) fn is_spare(&self) -> bool {
        self.used == 0 && self.places.len() > KEPT
    }

    pub(crate) fn join(&mut self, claim: Claim, waker: Waker) -> Ticket {
        let place = Place {
            claim,
            standing: Standing::Waits,
            waker: Some(waker),
            prev: self.last,
            next: NONE,
        };
        let at = if self.free == NONE {
            self.places.push(place);
            (self.places.len() - 1) as u32
        } else {
            let at = self.free;
            self.free = self.at(at).next;
            *self.at(at) = place;
            at
        };
        match std::mem::replace(&mut self.last, at) {
            NONE => self.first = at,
            before => self.at(before).next = at,
        }
        self.used += 1;
        Ticket(at)
    }

    /// Who waits longest.
    pub(crate) fn first(&self) -> Option<&Claim> {
        self.places
            .get(self.first as usize)
            .map(|place| &place.claim)
    }

    /// Whoever waits longest waits no more; returns its waker.
    pub(crate) fn advance(&mut self, granted: bool) -> Option<Waker> {
        let at = self.first;
        let claim = *self.first()?;
        self.unlink(at);
        let place = self.at(at);
        place.standing = Standing::Lost;
        let waker = place.waker.take();
        if granted {
            place.standing = Standing::Granted;
            self.granted += 1;
            self.bytes += u64::from(claim.bytes);
            self.next_end = self.next_end.min(claim.deadline);
        }
        waker
    }

    /// Messages and bytes that room is reserved for, which ends with their deadlines.
    pub(crate) fn reserved(&mut self, now: Tick) -> (u64, u64) {
        if self.next_end <= now {
            self.next_end = Tick::MAX;
            let granted = |place: &&mut Place| place.standing == Standing::Granted;
            for place in self.places.iter_mut().filter(granted) {
                if place.claim.deadline <= now {
                    place.standing = Standing::Lost;
                    self.granted -= 1;
                    self.bytes -= u64::from(place.claim.bytes);
                } else {
                    self.next_end = self.next_end.min(place.claim.deadline);
                }
            }
        }
        (self.granted, self.bytes)
    }

    pub(crate) fn standing(&self, ticket: Ticket) -> Standing {
        self.places[ticket.0 as usize].standing
    }

    /// Another waker for one who waits; returns the one before.
    pub(crate) fn replace(&mut self, ticket: Ticket, waker: Waker) -> Option<Waker> {
        self.at(ticket.0).waker.replace(waker)
    }

    /// Gives a place back; tells how it stood, its bytes, and its waker.
    pub(crate) fn leave(&mut self, ticket: Ticket) -> (Standing, u32, Option<Waker>) {
        let at = ticket.0;
        let (standing, bytes) = {
            let place = self.at(at);
            (place.standing, place.claim.bytes)
        };
        match standing {
            Standing::Waits => self.unlink(at),
            Standing::Granted => {
                self.granted -= 1;
                self.bytes -= u64::from(bytes);
            }
            Standing::Lost => {}
        }
        let free = std::mem::replace(&mut self.free, at);
        let place = self.at(at);
        place.standing = Standing::Lost;
        place.next = free;
        let waker = place.waker.take();
        self.used -= 1;
        (standing, bytes, waker)
    }

    fn unlink(&mut self, at: u32) {
        let (prev, next) = {
            let place = self.at(at);
            (place.prev, place.next)
        };
        match prev {
            NONE => self.first = next,
            prev => self.at(prev).next = next,
        }
        match next {
            NONE => self.last = prev,
            next => self.at(next).prev = prev,
        }
    }

    fn at(&mut self, at: u32) -> &mut Place {
        &mut self.places[at as usize]
    }
}

/// Whom to wake once the lock is free; for one nothing is allocated.
#[derive(Default)]
pub(crate) struct Wakers {
    first: Option<Waker>,
    more: Vec<Waker>,
}

impl Wakers {
    pub(crate) fn extend(&mut self, wakers: impl IntoIterator<Item = Waker>) {
        for waker in wakers {
            match &self.first {
                None => self.first = Some(waker),
                Some(_) => self.more.push(waker),
            }
        }
    }
}

impl IntoIterator for Wakers {
    type Item = Waker;
    type IntoIter = std::iter::Chain<std::option::IntoIter<Waker>, std::vec::IntoIter<Waker>>;

    fn into_iter(self) -> Self::IntoIter {
        self.first.into_iter().chain(self.more)
    }
}
