//! Deadlines of those who wait for an answer.
//!
//! Nearly every one is met, so entering and leaving must cost next to nothing: a hashed timing wheel (Varghese and
//! Lauck, SOSP 1987, scheme 6) with one slot per millisecond, a few nanoseconds for either under a lock that threads
//! hardly share. The clock's thread turns it. A wait beyond one turn is passed over once per turn.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use crate::clock::Tick;
use crate::contain::contain;
use crate::sync::{Lock, Padded};

/// Slots of a wheel; the default deadline, 1 s, is met within one turn.
const SLOTS: u64 = 1_024;
/// Wheels, so that threads which wait at the same time rarely meet at one.
const WHEELS: usize = 8;
/// How many are told between two pauses.
const PAUSE: usize = 64;
/// No entry.
const NONE: u32 = u32::MAX;

/// Is told that its time has come.
pub(crate) trait Waits: Send + Sync {
    fn expire(&self);
}

/// An entry, to be cancelled by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    wheel: u32,
    entry: u32,
    serial: u64,
}

#[derive(Debug)]
pub(crate) struct Deadlines([Padded<Lock<Wheel>>; WHEELS]);

impl Deadlines {
    pub(crate) fn new() -> Self {
        Self(std::array::from_fn(|_| Padded(Lock::new(Wheel::default()))))
    }

    /// Enters `who`, to be told at `deadline` or within a millisecond. Also tells whether the wheel is parked.
    pub(crate) fn enter(&self, deadline: Tick, who: Arc<dyn Waits>) -> (Key, bool) {
        let wheel = home();
        let mut locked = self.0[wheel].0.lock();
        let (entry, serial) = locked.enter(deadline, who);
        let key = Key {
            wheel: wheel as u32,
            entry,
            serial,
        };
        (key, locked.is_parked)
    }

    /// Removes an entry, unless it has been told.
    pub(crate) fn leave(&self, key: Key) {
        let who = self.0[key.wheel as usize]
            .0
            .lock()
            .leave(key.entry, key.serial);
        drop(who);
    }

    /// Tells everybody whose deadline is not after `now`, and calls `pause` now and then.
    pub(crate) fn turn(&self, now: Tick, pause: impl Fn()) {
        for wheel in &self.0 {
            let due = wheel.0.lock().turn(now);
            for (told, who) in due.into_iter().enumerate() {
                if told % PAUSE == PAUSE - 1 {
                    pause();
                }
                // A destructor must not stop the clock either.
                let _ = contain(move || who.expire());
            }
        }
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Tick> {
        let earliest = |wheel: &Padded<Lock<Wheel>>| wheel.0.lock().earliest();
        self.0.iter().filter_map(earliest).min()
    }

    /// From now on whoever enters is told that nobody turns the wheels every tick.
    pub(crate) fn park(&self) {
        for wheel in &self.0 {
            wheel.0.lock().is_parked = true;
        }
    }

    pub(crate) fn unpark(&self) {
        for wheel in &self.0 {
            wheel.0.lock().is_parked = false;
        }
    }
}

/// The wheel of the calling thread.
fn home() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static HOME: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    let home = HOME.get();
    if home < WHEELS {
        return home;
    }
    let next = NEXT.fetch_add(1, Ordering::Relaxed) % WHEELS;
    HOME.set(next);
    next
}

struct Wheel {
    /// The first entry of each slot; made with the first entry.
    slots: Vec<u32>,
    entries: Vec<Entry>,
    /// The first of the unused entries, which are linked by `next`.
    free: u32,
    len: usize,
    serial: u64,
    /// The last tick that was told.
    turned: Tick,
    is_parked: bool,
}

struct Entry {
    deadline: Tick,
    serial: u64,
    prev: u32,
    next: u32,
    who: Option<Arc<dyn Waits>>,
}

impl Default for Wheel {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            entries: Vec::new(),
            free: NONE,
            len: 0,
            serial: 0,
            turned: 0,
            is_parked: true,
        }
    }
}

impl Wheel {
    #[inline]
    fn enter(&mut self, deadline: Tick, who: Arc<dyn Waits>) -> (u32, u64) {
        if self.slots.is_empty() {
            self.slots = vec![NONE; SLOTS as usize];
        }
        // What is late already is told at the next tick.
        let deadline = deadline.max(self.turned + 1);
        let slot = (deadline % SLOTS) as usize;
        self.serial += 1;
        let entry = Entry {
            deadline,
            serial: self.serial,
            prev: NONE,
            next: self.slots[slot],
            who: Some(who),
        };
        let place = if self.free == NONE {
            self.entries.push(entry);
            (self.entries.len() - 1) as u32
        } else {
            let place = self.free;
            self.free = self.entries[place as usize].next;
            self.entries[place as usize] = entry;
            place
        };
        let second = std::mem::replace(&mut self.slots[slot], place);
        if let Some(second) = self.entries.get_mut(second as usize) {
            second.prev = place;
        }
        self.len += 1;
        (place, self.serial)
    }

    #[inline]
    fn leave(&mut self, place: u32, serial: u64) -> Option<Arc<dyn Waits>> {
        let entry = self.entries.get_mut(place as usize)?;
        if entry.serial != serial {
            return None;
        }
        let who = entry.who.take()?;
        let (prev, next, slot) = (entry.prev, entry.next, entry.deadline % SLOTS);
        entry.next = self.free;
        self.free = place;
        match self.entries.get_mut(prev as usize) {
            Some(prev) => prev.next = next,
            None => self.slots[slot as usize] = next,
        }
        if let Some(next) = self.entries.get_mut(next as usize) {
            next.prev = prev;
        }
        self.len -= 1;
        Some(who)
    }

    fn earliest(&self) -> Option<Tick> {
        let waiting = self.entries.iter().filter(|entry| entry.who.is_some());
        waiting.map(|entry| entry.deadline).min()
    }

    fn turn(&mut self, now: Tick) -> Vec<Arc<dyn Waits>> {
        let mut due = Vec::new();
        if now <= self.turned {
            return due;
        }
        if self.len > 0 {
            let first = (self.turned + 1).max(now.saturating_sub(SLOTS - 1));
            for tick in first..=now {
                let mut place = self.slots[(tick % SLOTS) as usize];
                while let Some(entry) = self.entries.get(place as usize) {
                    let (this, serial, deadline) = (place, entry.serial, entry.deadline);
                    place = entry.next;
                    if deadline <= now {
                        due.extend(self.leave(this, serial));
                    }
                }
            }
        }
        self.turned = now;
        due
    }
}

impl std::fmt::Debug for Wheel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wheel")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    struct Told(u64, Arc<Mutex<Vec<u64>>>);

    impl Waits for Told {
        fn expire(&self) {
            self.1.lock().unwrap().push(self.0);
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Enter(u64),
        Leave(usize),
        Turn(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => prop_oneof![0..20_u64, 900..1_200_u64, 0..70_000_u64].prop_map(Step::Enter),
            3 => any::<usize>().prop_map(Step::Leave),
            2 => prop_oneof![0..5_u64, 0..3_000_u64].prop_map(Step::Turn),
        ]
    }

    proptest! {
        #[test]
        fn everybody_is_told_once_at_the_first_turn_that_is_not_before_his_deadline(
            steps in proptest::collection::vec(step(), 1..200)
        ) {
            let told = Arc::new(Mutex::new(Vec::new()));
            let mut wheel = Wheel::default();
            let (mut now, mut number) = (1, 0);
            let mut keys: Vec<(u64, u32, u64)> = Vec::new();
            let mut model: BTreeMap<u64, u64> = BTreeMap::new();
            wheel.turn(now);
            for step in steps {
                match step {
                    Step::Enter(wait) => {
                        number += 1;
                        let who = Arc::new(Told(number, Arc::clone(&told)));
                        let (entry, serial) = wheel.enter(now + wait, who);
                        keys.push((number, entry, serial));
                        model.insert(number, (now + wait).max(now + 1));
                    }
                    Step::Leave(which) if !keys.is_empty() => {
                        let (number, entry, serial) = keys[which % keys.len()];
                        let left = wheel.leave(entry, serial).is_some();
                        prop_assert_eq!(left, model.remove(&number).is_some());
                    }
                    Step::Leave(_) => {}
                    Step::Turn(by) => {
                        now += by;
                        for who in wheel.turn(now) {
                            who.expire();
                        }
                        let mut due: Vec<u64> = model
                            .iter()
                            .filter(|(_, deadline)| **deadline <= now)
                            .map(|(number, _)| *number)
                            .collect();
                        model.retain(|_, deadline| *deadline > now);
                        let mut seen = std::mem::take(&mut *told.lock().unwrap());
                        seen.sort_unstable();
                        due.sort_unstable();
                        prop_assert_eq!(seen, due);
                    }
                }
                prop_assert_eq!(wheel.len, model.len());
            }
        }
    }
}
