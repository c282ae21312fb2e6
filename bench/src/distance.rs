//! How far apart two cores are: the round trip of a cache line between two threads.
//!
//! Virtual machines of this kind move their cores between near (about 50 ns) and far (about 400 ns) for
//! seconds at a time, which `top` does not show. What is measured in a far phase is not comparable.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Round trips of one block; the fastest block of a probe counts, so that losing the core once does not.
const TRIPS: u64 = 500;
const BLOCKS: u64 = 6;
/// Rounds beyond this multiple of the nearest probe are far.
const FAR: f64 = 2.5;

/// Probes, and remembers the nearest.
pub struct Gauge {
    nearest: f64,
    cores: usize,
}

impl Gauge {
    /// Finds out what near means on this machine.
    pub fn calibrate() -> Gauge {
        let mut gauge = Gauge::with_nearest(f64::INFINITY);
        for _ in 0..20 {
            gauge.probe();
        }
        gauge
    }

    /// A gauge that takes `nearest` ns for the nearest the cores can be.
    pub fn with_nearest(nearest: f64) -> Gauge {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Gauge { nearest, cores }
    }

    /// ns of a round trip now; 0 on a machine with one core.
    pub fn probe(&mut self) -> f64 {
        if self.cores < 2 {
            return 0.0;
        }
        let trip = ping_pong();
        self.nearest = self.nearest.min(trip);
        trip
    }

    /// Whether a probe was taken in a near phase.
    pub fn is_near(&self, probe: f64) -> bool {
        self.cores < 2 || probe <= FAR * self.nearest
    }

    /// ns of the nearest round trip so far.
    pub fn nearest(&self) -> f64 {
        self.nearest
    }
}

/// A line of its own for each direction.
#[repr(align(128))]
struct Line(AtomicU64);

fn ping_pong() -> f64 {
    let (there, back) = (Line(AtomicU64::new(0)), Line(AtomicU64::new(0)));
    let last = TRIPS * BLOCKS;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for trip in 1..=last {
                wait_for(&there.0, trip);
                back.0.store(trip, Ordering::Release);
            }
        });
        let mut best = f64::INFINITY;
        for block in 0..BLOCKS {
            let began = Instant::now();
            for trip in block * TRIPS + 1..=(block + 1) * TRIPS {
                there.0.store(trip, Ordering::Release);
                wait_for(&back.0, trip);
            }
            let trip = began.elapsed().as_nanos() as f64 / TRIPS as f64;
            best = best.min(trip);
        }
        best
    })
}

fn wait_for(line: &AtomicU64, value: u64) {
    let mut looks = 0_u32;
    while line.load(Ordering::Acquire) < value {
        std::hint::spin_loop();
        looks += 1;
        // The other thread has no core: give it this one.
        if looks.is_multiple_of(100_000) {
            std::thread::yield_now();
        }
    }
}
