//! A mailbox as its documentation describes it: plain queues, sums counted anew at every look.

use std::collections::VecDeque;

use ryker::ErrorKind;

/// How a mailbox is made.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) capacity: usize,
    /// The budget of bytes, if there is one; a message may have [`LARGEST`].
    pub(crate) bytes: Option<u64>,
    pub(crate) deadline_ms: u64,
    pub(crate) batch: u32,
    pub(crate) yield_every: u32,
}

/// The largest message that a measured mailbox takes.
pub(crate) const LARGEST: usize = 1_024;

/// How a message ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Alive,
    HandedBack,
    Received,
    /// Dropped inside the mailbox, or with the send that was cancelled.
    Dropped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    Draining,
    Closed,
}

#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) id: usize,
    pub(crate) bytes: u64,
    pub(crate) deadline: u64,
    pub(crate) enqueued: u64,
}

/// How it stands with a send that waits for room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Waits,
    Granted,
    Lost,
}

#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    pub(crate) item: Item,
    pub(crate) standing: Standing,
    began: u64,
    /// When it looks for room by itself.
    look: u64,
    wait: u64,
}

/// The sums of [`ryker::Accounts`] that a plain mailbox can have, in its order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) accepted: u64,
    pub(crate) ok: u64,
    pub(crate) expired: u64,
    pub(crate) dropped: u64,
    pub(crate) pending: u64,
    pub(crate) busy: u64,
    pub(crate) too_large: u64,
    pub(crate) closed: u64,
    pub(crate) deadline: u64,
    pub(crate) draining: u64,
    pub(crate) yields: u64,
}

/// What a receive comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Got {
    Messages(Vec<usize>),
    Nothing,
    /// Others have their turn first.
    Yielded,
    End,
}

pub(crate) struct Model {
    pub(crate) shape: Shape,
    pub(crate) now: u64,
    pub(crate) phase: Phase,
    pub(crate) cut: bool,
    pub(crate) runtime_drains: bool,
    /// What the receiver has fetched, and what it has not.
    batch: VecDeque<Item>,
    queue: VecDeque<Item>,
    /// In the order in which they came, by their number.
    pub(crate) waiting: Vec<(usize, Waiting)>,
    /// Handles, and sends under way.
    pub(crate) senders: usize,
    run: u32,
    /// Messages that have left the bounds, and how many are to have when the receiver looks at those who wait.
    taken: usize,
    wanted: usize,
    /// Whether the receiver waits for a message.
    pub(crate) parked: bool,
    /// Whether it must have been woken since it last looked.
    pub(crate) receiver_woken: bool,
    /// Dropped or refused at the end of the mailbox, by a drain: as an observer is told.
    pub(crate) shutdown: u64,
    pub(crate) sums: Sums,
    /// By message.
    pub(crate) ends: Vec<End>,
}

impl Model {
    pub(crate) fn new(shape: Shape) -> Self {
        Self {
            shape,
            now: 0,
            phase: Phase::Open,
            cut: false,
            runtime_drains: false,
            batch: VecDeque::new(),
            queue: VecDeque::new(),
            waiting: Vec::new(),
            senders: 1,
            run: 0,
            taken: 0,
            wanted: usize::MAX,
            parked: false,
            receiver_woken: false,
            shutdown: 0,
            sums: Sums::default(),
            ends: Vec::new(),
        }
    }

    fn inside(&self) -> impl Iterator<Item = &Item> {
        self.batch.iter().chain(&self.queue)
    }

    pub(crate) fn depth(&self) -> usize {
        self.inside().count()
    }

    pub(crate) fn sums(&self) -> Sums {
        Sums {
            pending: self.depth() as u64,
            ..self.sums
        }
    }

    fn fits(&self, bytes: u64) -> bool {
        let granted = || {
            let all = self.waiting.iter();
            all.filter(|(_, w)| w.standing == Standing::Granted && w.item.deadline > self.now)
        };
        let messages = self.depth() + granted().count();
        let held: u64 = self.inside().map(|item| item.bytes).sum();
        let reserved: u64 = granted().map(|(_, w)| w.item.bytes).sum();
        let budget = self.shape.bytes.unwrap_or(u64::MAX);
        messages < self.shape.capacity && held + reserved + bytes <= budget
    }

    fn someone_waits(&self) -> bool {
        self.waiting
            .iter()
            .any(|(_, w)| w.standing == Standing::Waits)
    }

    /// Whether room is announced in steps of half the capacity, to who has not waited for two milliseconds.
    fn steps(&self) -> bool {
        self.shape.capacity >= 64 && self.shape.bytes.is_none()
    }

    fn grant(&mut self) {
        if self.phase == Phase::Open {
            self.grant_all();
        }
        let mut waits = self.waiting.iter().map(|(_, waiting)| waiting);
        self.wanted = match waits.find(|w| w.standing == Standing::Waits) {
            None => usize::MAX,
            Some(first) if self.steps() && self.now < first.began + 2 => {
                self.taken + self.shape.capacity / 2
            }
            Some(_) => 0,
        };
    }

    /// Whoever waits longest gets room first, and nobody before him. Whoever is too late has lost his place.
    fn grant_all(&mut self) {
        for (_, waiting) in &mut self.waiting {
            if waiting.item.deadline <= self.now {
                waiting.standing = Standing::Lost;
            }
        }
        while let Some(first) = self
            .waiting
            .iter()
            .position(|(_, w)| w.standing == Standing::Waits)
        {
            if !self.fits(self.waiting[first].1.item.bytes) {
                return;
            }
            self.waiting[first].1.standing = Standing::Granted;
        }
    }

    fn push(&mut self, mut item: Item) {
        item.enqueued = self.now;
        self.sums.accepted += 1;
        self.queue.push_back(item);
        self.wake();
    }

    fn wake(&mut self) {
        self.receiver_woken |= std::mem::take(&mut self.parked);
    }

    fn refused(&mut self, id: usize, kind: ErrorKind) -> ErrorKind {
        self.ends[id] = End::HandedBack;
        let counter = match kind {
            ErrorKind::Busy => &mut self.sums.busy,
            ErrorKind::TooLarge => &mut self.sums.too_large,
            ErrorKind::Timeout => &mut self.sums.deadline,
            ErrorKind::Draining => &mut self.sums.draining,
            _ => &mut self.sums.closed,
        };
        *counter += 1;
        kind
    }

    /// Why nothing is taken in.
    fn end_kind(&self) -> Option<ErrorKind> {
        match self.phase {
            Phase::Open => None,
            _ if self.runtime_drains => Some(ErrorKind::Draining),
            _ => Some(ErrorKind::Closed),
        }
    }

    /// A new message as it is charged, unless it can never be sent.
    fn seal(&mut self, size: usize, own: Option<u64>) -> Result<Item, ErrorKind> {
        let id = self.ends.len();
        self.ends.push(End::Alive);
        let bytes = match self.shape.bytes {
            None => 0,
            Some(budget) if size <= LARGEST && size as u64 <= budget => size as u64,
            Some(_) => return Err(self.refused(id, ErrorKind::TooLarge)),
        };
        // The millisecond that runs has begun already, and no deadline is to be early.
        let ms = own.map_or(self.shape.deadline_ms, |own| {
            own.min(self.shape.deadline_ms)
        });
        let deadline = self.now + ms + 1;
        if ms == 0 {
            return Err(self.refused(id, ErrorKind::Timeout));
        }
        Ok(Item {
            id,
            bytes,
            deadline,
            enqueued: self.now,
        })
    }

    /// Whether there is room, behind those who waited before.
    fn admits(&mut self, bytes: u64) -> bool {
        self.grant();
        !self.someone_waits() && self.fits(bytes)
    }

    pub(crate) fn try_send(&mut self, size: usize) -> Result<(), ErrorKind> {
        let item = self.seal(size, None)?;
        if let Some(kind) = self.end_kind() {
            return Err(self.refused(item.id, kind));
        }
        if !self.admits(item.bytes) {
            return Err(self.refused(item.id, ErrorKind::Busy));
        }
        self.push(item);
        Ok(())
    }

    /// The first look of a send; `None` while it waits, as number `number`.
    pub(crate) fn send(
        &mut self,
        number: usize,
        size: usize,
        own: Option<u64>,
    ) -> Option<Result<(), ErrorKind>> {
        let item = match self.seal(size, own) {
            Ok(item) => item,
            Err(kind) => return Some(Err(kind)),
        };
        if let Some(kind) = self.end_kind() {
            return Some(Err(self.refused(item.id, kind)));
        }
        if !self.admits(item.bytes) {
            let waiting = Waiting {
                item,
                standing: Standing::Waits,
                began: self.now,
                look: self.now + 2,
                wait: 2,
            };
            self.waiting.push((number, waiting));
            self.grant();
            return None;
        }
        self.push(item);
        Some(Ok(()))
    }

    /// Another look of a send that waits.
    pub(crate) fn look(&mut self, number: usize) -> Option<Result<(), ErrorKind>> {
        let place = self.waiting.iter().position(|(n, _)| *n == number)?;
        let item = self.waiting[place].1.item.clone();
        let in_time = item.deadline > self.now;
        if in_time {
            self.grant();
        }
        let kind = match self.end_kind() {
            _ if !in_time => ErrorKind::Timeout,
            Some(kind) => kind,
            None if self.waiting[place].1.standing == Standing::Granted => {
                self.waiting.remove(place);
                self.push(item);
                return Some(Ok(()));
            }
            None => {
                let waiting = &mut self.waiting[place].1;
                while waiting.look <= self.now {
                    waiting.wait = 64.min(2 * waiting.wait);
                    waiting.look += waiting.wait;
                }
                return None;
            }
        };
        self.waiting.remove(place);
        self.grant();
        Some(Err(self.refused(item.id, kind)))
    }

    pub(crate) fn cancel(&mut self, number: usize) {
        if let Some(place) = self.waiting.iter().position(|(n, _)| *n == number) {
            let (_, waiting) = self.waiting.remove(place);
            self.ends[waiting.item.id] = End::Dropped;
            self.grant();
        }
    }

    /// Whether a send that waits has something to look at.
    pub(crate) fn is_due(&self, waiting: &Waiting) -> bool {
        waiting.standing == Standing::Granted
            || self.phase != Phase::Open
            || waiting.item.deadline <= self.now
            || waiting.look <= self.now
    }

    pub(crate) fn sender_gone(&mut self) {
        self.senders -= 1;
        if self.senders == 0 {
            self.end(Phase::Closed);
        }
    }

    pub(crate) fn end(&mut self, phase: Phase) {
        if self.phase == Phase::Open {
            self.phase = phase;
        }
        self.wake();
    }

    pub(crate) fn receiver_gone(&mut self) {
        self.end(Phase::Closed);
        self.drop_rest();
        self.parked = false;
    }

    fn drop_rest(&mut self) {
        let count = self.depth() as u64;
        self.sums.dropped += count;
        if self.runtime_drains {
            self.shutdown += count;
        }
        let rest: Vec<usize> = self.inside().map(|item| item.id).collect();
        for id in rest {
            self.ends[id] = End::Dropped;
        }
        self.batch.clear();
        self.queue.clear();
    }

    /// Fetches what is queued once the batch is empty.
    fn fetch(&mut self) -> bool {
        self.grant();
        self.batch.append(&mut self.queue);
        !self.batch.is_empty()
    }

    /// Takes one of the batch; `None` if it has expired.
    fn take(&mut self) -> Option<Item> {
        let item = self.take_quietly();
        self.make_room();
        item
    }

    fn make_room(&mut self) {
        if self.taken >= self.wanted {
            self.grant();
        }
    }

    fn take_quietly(&mut self) -> Option<Item> {
        let item = self.batch.pop_front()?;
        self.taken += 1;
        self.run += 1;
        if item.deadline <= self.now {
            self.sums.expired += 1;
            self.ends[item.id] = End::Dropped;
            return None;
        }
        self.sums.ok += 1;
        self.ends[item.id] = End::Received;
        Some(item)
    }

    /// Whether the batch begins with a message in time; drops those before it.
    fn is_ready(&mut self) -> bool {
        while let (Some(first), false) = (self.batch.front(), self.cut) {
            if first.deadline > self.now {
                return true;
            }
            self.take();
        }
        false
    }

    fn next(&mut self) -> Option<Item> {
        self.is_ready().then(|| self.take()).flatten()
    }

    fn over(&mut self) -> Got {
        if self.cut {
            self.drop_rest();
        }
        Got::End
    }

    pub(crate) fn try_recv(&mut self) -> Got {
        loop {
            if let Some(item) = self.next() {
                break Got::Messages(vec![item.id]);
            }
            if self.cut {
                break self.over();
            }
            if !self.fetch() {
                break match self.phase {
                    Phase::Open => Got::Nothing,
                    _ => Got::End,
                };
            }
        }
    }

    /// What a receive comes to if there is no message to be taken.
    fn poll_ready(&mut self) -> Result<(), Got> {
        self.receiver_woken = false;
        loop {
            if !self.batch.is_empty() {
                if self.run >= self.shape.yield_every {
                    self.run = 0;
                    self.sums.yields += 1;
                    self.receiver_woken = true;
                    return Err(Got::Yielded);
                }
                if self.is_ready() {
                    return Ok(());
                }
            }
            if self.cut {
                return Err(self.over());
            }
            if !self.fetch() {
                if self.phase == Phase::Open {
                    self.run = 0;
                    self.parked = true;
                    return Err(Got::Nothing);
                }
                return Err(Got::End);
            }
        }
    }

    /// One poll of a receive; also the message taken, if it is one.
    pub(crate) fn recv(&mut self) -> (Got, Option<Item>) {
        match self.poll_ready() {
            Ok(()) => match self.take() {
                Some(item) => (Got::Messages(vec![item.id]), Some(item)),
                None => (Got::Nothing, None),
            },
            Err(got) => (got, None),
        }
    }

    /// One poll of a receive of up to `limit`.
    pub(crate) fn recv_many(&mut self, limit: usize) -> Got {
        let limit = limit.min(self.shape.batch as usize);
        match self.poll_ready() {
            Ok(()) => Got::Messages(self.take_many(limit)),
            Err(got) => got,
        }
    }

    fn take_many(&mut self, limit: usize) -> Vec<usize> {
        let count = limit.min(self.batch.len());
        let taken = (0..count)
            .filter_map(|_| self.take_quietly())
            .collect::<Vec<_>>();
        self.make_room();
        taken.into_iter().map(|item| item.id).collect()
    }
}
