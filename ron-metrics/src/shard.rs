//! Cells that many threads add to and one scrape reads: who owns which cell, and why an add needs no lock.
//!
//! A thread that touches a hot instrument takes one of the process-wide *slots*, exclusively, until it ends. In its
//! own slot it is the only writer, so an add is a load and a store, with no read-modify-write and no line that another
//! core writes. Threads beyond the number of slots share a few cells by `fetch_add`: slower, just as exact.
//!
//! A slot passes from an ended thread to a new one through [`SLOTS_TAKEN`]: the release in [`SlotGuard::drop`] pairs
//! with the acquire in [`take_slot`], so the new owner reads the last value the old one stored.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::OnceLock;

/// Adds to one cell after which an instrument gets its per-thread cells even if no two threads ever met on it. Cold
/// series, which are most of them, stay at a cell of 8 bytes; the per-thread cells take 128 bytes per lane, which a
/// series that is counted 65,536 times is worth and one that is merely old is mostly not.
pub(crate) const HOT_AFTER: u64 = 1 << 16;

/// Lanes for the threads that found no free slot. Four, because threads beyond the cores cannot all run at once.
const SHARED: usize = 4;

/// Slots in use, one bit each.
static SLOTS_TAKEN: AtomicU64 = AtomicU64::new(0);

/// Exclusive lanes that were ever handed out: those below this. A scrape reads no others. It is raised before the lane
/// is first written, so whoever sees an add sees its lane.
static SLOTS_USED: AtomicUsize = AtomicUsize::new(0);

/// Threads that found no slot, for spreading them over the shared cells.
static SLOTLESS: AtomicU64 = AtomicU64::new(0);

const UNASSIGNED: usize = usize::MAX;

thread_local! {
    /// Index of this thread's lane. It has no destructor, so instruments work in the destructors of other thread
    /// locals too.
    static LANE: Cell<usize> = const { Cell::new(UNASSIGNED) };
    static GUARD: Cell<Option<SlotGuard>> = const { Cell::new(None) };
}

/// Exclusive lanes: one for each worker of a runtime with a worker per core, and four for helper threads; at least 8,
/// at most 64, the bits of [`SLOTS_TAKEN`].
pub(crate) fn slots() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    *COUNT.get_or_init(|| {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        (cores + 4).clamp(8, 64)
    })
}

/// All lanes of one instrument: the exclusive ones first, then the shared ones.
pub(crate) fn lanes() -> usize {
    slots() + SHARED
}

/// The calling thread's lane.
#[inline]
pub(crate) fn lane() -> usize {
    let lane = LANE.get();
    if lane == UNASSIGNED {
        assign()
    } else {
        lane
    }
}

#[cold]
fn assign() -> usize {
    let lane = match take_slot() {
        Some(slot) => {
            // Fails only while this thread is ending; its slot must then go back at once.
            let guard = SlotGuard { slot };
            match GUARD.try_with(|cell| cell.set(Some(guard))) {
                Ok(()) => slot,
                Err(_) => shared_lane(),
            }
        }
        None => shared_lane(),
    };
    LANE.set(lane);
    lane
}

fn shared_lane() -> usize {
    slots() + (SLOTLESS.fetch_add(1, Ordering::Relaxed) as usize) % SHARED
}

fn take_slot() -> Option<usize> {
    let mut taken = SLOTS_TAKEN.load(Ordering::Relaxed);
    loop {
        let free = (!taken).trailing_zeros() as usize;
        if free >= slots() {
            return None;
        }
        match SLOTS_TAKEN.compare_exchange_weak(
            taken,
            taken | (1 << free),
            Ordering::Acquire,
            Ordering::Relaxed,
        ) {
            Ok(_) => {
                SLOTS_USED.fetch_max(free + 1, Ordering::Relaxed);
                return Some(free);
            }
            Err(now) => taken = now,
        }
    }
}

/// Gives the slot back when its thread ends.
struct SlotGuard {
    slot: usize,
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        // Destructors that run after this one use a shared lane.
        LANE.set(shared_lane());
        SLOTS_TAKEN.fetch_and(!(1 << self.slot), Ordering::Release);
    }
}

/// Two cache lines: the pair that x86 prefetches together, and one line of the 128-byte-line machines.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Line([AtomicU64; CELLS_PER_LINE]);

const CELLS_PER_LINE: usize = 16;

/// A row of `width` counters per lane, each lane on lines of its own.
#[derive(Debug)]
pub(crate) struct Lanes {
    lines: Box<[Line]>,
    /// Lines of one lane.
    stride: usize,
    slots: usize,
}

/// The calling thread's row.
pub(crate) struct Row<'a> {
    lines: &'a [Line],
    /// This thread is the only writer of the row.
    exclusive: bool,
}

impl Lanes {
    pub(crate) fn new(width: usize) -> Lanes {
        let stride = width.div_ceil(CELLS_PER_LINE).max(1);
        Lanes {
            lines: (0..lanes() * stride).map(|_| Line::default()).collect(),
            stride,
            slots: slots(),
        }
    }

    #[inline]
    pub(crate) fn row(&self) -> Row<'_> {
        let lane = lane();
        let from = lane * self.stride;
        Row {
            lines: self.lines.get(from..from + self.stride).unwrap_or(&[]),
            exclusive: lane < self.slots,
        }
    }

    /// Sum of one column over all lanes. Every add that happened before this call is in it; concurrent ones may be.
    pub(crate) fn sum(&self, column: usize) -> u64 {
        self.column(column).fold(0, |sum, cell| {
            sum.wrapping_add(cell.load(Ordering::Relaxed))
        })
    }

    /// Sum of a column that holds `f64` bits.
    pub(crate) fn sum_f64(&self, column: usize) -> f64 {
        self.column(column)
            .map(|cell| f64::from_bits(cell.load(Ordering::Relaxed)))
            .sum()
    }

    fn column(&self, column: usize) -> impl Iterator<Item = &AtomicU64> {
        let (line, cell) = (column / CELLS_PER_LINE, column % CELLS_PER_LINE);
        let exclusive = SLOTS_USED.load(Ordering::Relaxed) * self.stride;
        let shared = self.slots * self.stride;
        let exclusive = self.lines.get(..exclusive).unwrap_or(&self.lines);
        let shared = match SLOTLESS.load(Ordering::Relaxed) {
            0 => &[],
            _ => self.lines.get(shared..).unwrap_or(&[]),
        };
        exclusive
            .chunks_exact(self.stride)
            .chain(shared.chunks_exact(self.stride))
            .filter_map(move |row| row.get(line)?.0.get(cell))
    }
}

impl Row<'_> {
    #[inline]
    pub(crate) fn add(&self, column: usize, n: u64) {
        if let Some(cell) = self.cell(column) {
            if self.exclusive {
                let old = cell.load(Ordering::Relaxed);
                cell.store(old.wrapping_add(n), Ordering::Relaxed);
            } else {
                cell.fetch_add(n, Ordering::Relaxed);
            }
        }
    }

    #[inline]
    pub(crate) fn add_f64(&self, column: usize, value: f64) {
        if let Some(cell) = self.cell(column) {
            if self.exclusive {
                let old = f64::from_bits(cell.load(Ordering::Relaxed));
                cell.store((old + value).to_bits(), Ordering::Relaxed);
            } else {
                add_f64(cell, value);
            }
        }
    }

    #[inline]
    fn cell(&self, column: usize) -> Option<&AtomicU64> {
        self.lines
            .get(column / CELLS_PER_LINE)?
            .0
            .get(column % CELLS_PER_LINE)
    }
}

/// Adds to a cell that holds `f64` bits and has several writers. False if it met another one.
pub(crate) fn add_f64(cell: &AtomicU64, value: f64) -> bool {
    let mut old = cell.load(Ordering::Relaxed);
    let mut alone = true;
    loop {
        let new = (f64::from_bits(old) + value).to_bits();
        match cell.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return alone,
            Err(now) => {
                old = now;
                alone = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_threads_never_share_an_exclusive_lane() {
        let barrier = std::sync::Barrier::new(100);
        let mut lanes: Vec<usize> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..100)
                .map(|_| {
                    scope.spawn(|| {
                        let lane = lane();
                        barrier.wait();
                        lane
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        lanes.retain(|lane| *lane < slots());
        let all = lanes.len();
        lanes.sort_unstable();
        lanes.dedup();
        assert_eq!(lanes.len(), all);
    }

    #[test]
    fn threads_beyond_the_slots_lose_nothing_on_their_shared_lanes() {
        let cells = Lanes::new(2);
        let threads = slots() + 4 * SHARED;
        let barrier = std::sync::Barrier::new(threads);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    lane();
                    // Nobody ends, and so gives a slot back, before all have a lane.
                    barrier.wait();
                    for _ in 0..100_000 {
                        cells.row().add(0, 1);
                        cells.row().add_f64(1, 1.0);
                    }
                    barrier.wait();
                });
            }
        });
        assert_eq!(cells.sum(0), threads as u64 * 100_000);
        assert_eq!(cells.sum_f64(1), threads as f64 * 100_000.0);
    }

    #[test]
    fn adds_of_many_short_threads_are_all_counted() {
        let cells = Lanes::new(3);
        for _ in 0..50 {
            std::thread::scope(|scope| {
                for _ in 0..20 {
                    scope.spawn(|| {
                        for _ in 0..100 {
                            cells.row().add(2, 1);
                            cells.row().add_f64(1, 0.5);
                        }
                    });
                }
            });
        }
        assert_eq!(cells.sum(2), 100_000);
        assert_eq!(cells.sum_f64(1), 50_000.0);
        assert_eq!(cells.sum(0), 0);
    }
}
