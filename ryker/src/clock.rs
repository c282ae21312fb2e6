//! Milliseconds that cost one load to read.
//!
//! `Instant::now` takes longer than a whole `try_send`. So a thread writes the time into a cell every millisecond, as
//! long as somebody reads it: after [`IDLE_TICKS`] in which nobody did it stops the cell and sleeps until the next
//! deadline, and the next reader wakes it. What a reader sees is never ahead, and behind by at most one tick and what the
//! thread is late, which is nothing to speak of unless the machine is overcommitted. When tokio's clock is paused at the
//! moment the cell would be started, it stays stopped and tokio's clock is read.
//!
//! Nobody joins the thread: it ends by itself when the last clock is dropped.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crate::deadlines::{Deadlines, Key, Waits};

/// What the cell holds while nobody writes it. No time is 0, as ticks begin at 1.
const STOPPED: u64 = 0;
const TICK: Duration = Duration::from_millis(1);
/// Ticks without a reader before the thread parks: long enough that a service under load never starts it anew, short
/// enough that an idle one wakes nobody.
const IDLE_TICKS: u32 = 64;

/// Milliseconds since an instant that all clocks of this process share; 1 at least.
pub(crate) type Tick = u64;

#[derive(Debug, Clone)]
pub(crate) struct Clock(Arc<Cell>);

#[derive(Debug)]
struct Cell {
    now: AtomicU64,
    /// Whether somebody read `now` since the thread last looked.
    read: AtomicBool,
    ticker: Mutex<Option<Thread>>,
    deadlines: Deadlines,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Cell {
            now: AtomicU64::new(STOPPED),
            read: AtomicBool::new(false),
            ticker: Mutex::new(None),
            deadlines: Deadlines::new(),
        }))
    }

    /// The tick that has begun last.
    #[inline(always)]
    pub(crate) fn now(&self) -> Tick {
        let cell = &*self.0;
        let now = cell.now.load(Ordering::Relaxed);
        if now == STOPPED {
            return self.start();
        }
        if !cell.read.load(Ordering::Relaxed) {
            cell.read.store(true, Ordering::Relaxed);
        }
        now
    }

    /// Whether nobody writes the time at the moment, as where tokio's clock is paused.
    pub(crate) fn is_stopped(&self) -> bool {
        self.0.now.load(Ordering::Relaxed) == STOPPED
    }

    /// Has `who` told at `deadline`, unless tokio's clock is paused, or there is no thread.
    #[inline]
    pub(crate) fn call_at(&self, deadline: Tick, who: Arc<dyn Waits>) -> Option<Key> {
        if self.0.now.load(Ordering::Relaxed) == STOPPED {
            self.start();
            if self.0.now.load(Ordering::Relaxed) == STOPPED {
                return None;
            }
        }
        let (key, is_parked) = self.0.deadlines.enter(deadline, who);
        if is_parked {
            self.start();
        }
        Some(key)
    }

    /// Takes a call back, if it was not made yet.
    #[inline]
    pub(crate) fn cancel(&self, key: Key) {
        self.0.deadlines.leave(key);
    }

    #[cold]
    fn start(&self) -> Tick {
        if cfg!(loom) {
            return 1;
        }
        if is_paused() {
            return tick_of(tokio::time::Instant::now().into_std());
        }
        let mut ticker = self.0.ticker.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.read.store(true, Ordering::Relaxed);
        let running = self.0.now.load(Ordering::Relaxed);
        if running != STOPPED {
            return running;
        }
        // Under the lock, so that no later time is overwritten.
        let now = tick_of(Instant::now());
        match &*ticker {
            Some(thread) => {
                self.0.deadlines.unpark();
                self.0.now.store(now, Ordering::Relaxed);
                thread.unpark();
            }
            None => {
                let cell = Arc::downgrade(&self.0);
                let started = thread::Builder::new()
                    .name("ryker-clock".to_owned())
                    .spawn(move || tick(&cell));
                // Without a thread every reader comes here, and gets the right time later than it could.
                if let Ok(handle) = started {
                    *ticker = Some(handle.thread().clone());
                    self.0.deadlines.unpark();
                    self.0.now.store(now, Ordering::Relaxed);
                }
            }
        }
        now
    }
}

impl Cell {
    /// Stops the cell, unless somebody has just read it.
    fn stop(&self) -> bool {
        let _starting = self.ticker.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = !self.read.load(Ordering::Relaxed);
        if idle {
            self.deadlines.park();
            self.now.store(STOPPED, Ordering::Relaxed);
        }
        idle
    }

    /// Tells whose deadline has come. That may take long, and time goes on.
    fn turn(&self) {
        let stopped = self.is_stopped();
        self.deadlines.turn(tick_of(Instant::now()), || {
            if !stopped {
                self.now.store(tick_of(Instant::now()), Ordering::Relaxed);
            }
        });
    }

    fn is_stopped(&self) -> bool {
        self.now.load(Ordering::Relaxed) == STOPPED
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        let ticker = self.ticker.get_mut();
        if let Some(thread) = ticker.unwrap_or_else(PoisonError::into_inner) {
            thread.unpark();
        }
    }
}

/// Writes the time until the cell is gone.
fn tick(weak: &Weak<Cell>) {
    let mut idle = 0;
    while let Some(mut cell) = weak.upgrade() {
        if cell.read.swap(false, Ordering::Relaxed) {
            idle = 0;
        } else {
            idle += 1;
        }
        if idle < IDLE_TICKS || !cell.stop() {
            cell.now.store(tick_of(Instant::now()), Ordering::Relaxed);
            cell.turn();
            drop(cell);
            thread::sleep(TICK);
            continue;
        }
        idle = 0;
        while cell.is_stopped() {
            let next = cell.deadlines.next();
            drop(cell);
            match next {
                Some(tick) => {
                    let wait = instant_of(tick).saturating_duration_since(Instant::now());
                    thread::park_timeout(wait);
                }
                None => thread::park(),
            }
            let Some(woken) = weak.upgrade() else {
                return;
            };
            cell = woken;
            cell.turn();
        }
    }
}

/// Whether tokio's clock stands still while the machine's goes on; only its test utilities can do that.
fn is_paused() -> bool {
    let (seen, began) = (tokio::time::Instant::now(), Instant::now());
    while began.elapsed() < Duration::from_micros(1) {}
    tokio::time::Instant::now() == seen
}

fn origin() -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(|| {
        let now = Instant::now();
        // Tokio's paused clocks may have begun before the first look at this one.
        let back = [3_600_000, 60_000, 1].map(Duration::from_millis);
        let earlier = back.iter().find_map(|back| now.checked_sub(*back));
        earlier.unwrap_or(now)
    })
}

/// Now, in nanoseconds since before the first look at any clock.
pub(crate) fn nanos() -> NonZeroU64 {
    let since = Instant::now().saturating_duration_since(origin());
    NonZeroU64::MIN.saturating_add(since.as_nanos() as u64)
}

/// The tick in which `instant` lies.
pub(crate) fn tick_of(instant: Instant) -> Tick {
    let since = instant.saturating_duration_since(origin());
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// The first tick that begins at `instant` or after it, as a deadline is not to be early; no tick, if it has passed.
pub(crate) fn tick_from(instant: Instant) -> Tick {
    if instant <= tokio::time::Instant::now().into_std() {
        return STOPPED;
    }
    let tick = tick_of(instant);
    tick + u64::from(instant_of(tick) < instant)
}

/// When `tick` begins.
pub(crate) fn instant_of(tick: Tick) -> Instant {
    let origin = origin();
    // A tick too far away to be represented is as good as one in 30 years.
    origin
        .checked_add(Duration::from_millis(tick))
        .unwrap_or_else(|| origin + Duration::from_secs(30 * 365 * 86_400))
}
