//! Who holds a worker thread: a mark per thread, set around each poll, sampled from outside the runtime.
//!
//! Setting the mark costs a thread-local access and four plain stores, no clock. The watchdog thread
//! reads one mark per worker, not one per child, so its cost does not grow with the tree.

use super::engine::Engine;
use super::machine::Key;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// The incarnation a thread is polling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Current {
    pub(crate) engine: u64,
    pub(crate) key: Key,
    pub(crate) run: u64,
}

/// One thread's mark. Written by that thread only; the watchdog reads `seq` before and after the rest
/// and drops the sample when it changed.
#[derive(Debug, Default)]
struct Mark {
    /// Grows with every change. Release on write, Acquire on read.
    seq: AtomicU64,
    engine: AtomicU64,
    run: AtomicU64,
    key: AtomicU32,
}

struct Local {
    mark: Arc<Mark>,
    current: Cell<Option<Current>>,
    /// The engines whose watchdog knows this thread.
    known_to: RefCell<Vec<u64>>,
    /// What the panic hook saw during the poll under way.
    panicked: RefCell<Option<(String, String)>>,
}

thread_local! {
    static LOCAL: Local = Local {
        mark: Arc::new(Mark::default()),
        current: const { Cell::new(None) },
        known_to: const { RefCell::new(Vec::new()) },
        panicked: const { RefCell::new(None) },
    };
}

/// The threads that have polled children of one engine.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    threads: Mutex<Vec<Arc<Mark>>>,
}

/// Restores what the thread was doing before.
pub(crate) struct Entered {
    before: Option<Current>,
}

/// Marks this thread as polling `current` until the guard is dropped; nests.
pub(crate) fn enter(marks: &Marks, current: Current) -> Entered {
    LOCAL.with(|local| {
        let mut known = local.known_to.borrow_mut();
        if !known.contains(&current.engine) {
            known.push(current.engine);
            let mut threads = marks.threads.lock().unwrap_or_else(PoisonError::into_inner);
            // A mark that only this list holds belonged to a thread that has ended.
            threads.retain(|mark| Arc::strong_count(mark) > 1);
            threads.push(local.mark.clone());
        }
        drop(known);
        let before = local.current.replace(Some(current));
        local.mark.set(Some(current));
        Entered { before }
    })
}

/// As [`enter`] for a thread child, which may block as long as it likes: no watchdog sees it.
pub(crate) fn enter_unwatched(current: Current) -> Entered {
    LOCAL.with(|local| Entered {
        before: local.current.replace(Some(current)),
    })
}

impl Drop for Entered {
    fn drop(&mut self) {
        let _ = LOCAL.try_with(|local| {
            local.current.set(self.before);
            local.mark.set(self.before);
        });
    }
}

impl Mark {
    fn set(&self, current: Option<Current>) {
        let (engine, key, run) = current.map_or((0, 0, 0), |c| (c.engine, c.key, c.run));
        let seq = self.seq.load(Ordering::Relaxed);
        self.engine.store(engine, Ordering::Relaxed);
        self.key.store(key, Ordering::Relaxed);
        self.run.store(run, Ordering::Relaxed);
        self.seq.store(seq.wrapping_add(1), Ordering::Release);
    }

    fn sample(&self) -> (u64, Option<Current>) {
        let seq = self.seq.load(Ordering::Acquire);
        let current = Current {
            engine: self.engine.load(Ordering::Relaxed),
            key: self.key.load(Ordering::Relaxed),
            run: self.run.load(Ordering::Relaxed),
        };
        (seq, (current.engine != 0).then_some(current))
    }
}

/// The child whose poll or thread body is running on this thread.
pub(crate) fn current() -> Option<Current> {
    LOCAL.try_with(|local| local.current.get()).ok().flatten()
}

/// Called by the panic hook: keeps text and place for the runner that catches the unwind.
pub(crate) fn record_panic(text: String, location: String) {
    let _ = LOCAL.try_with(|local| {
        if local.current.get().is_some() {
            *local.panicked.borrow_mut() = Some((text, location));
        }
    });
}

pub(crate) fn take_panic() -> Option<(String, String)> {
    LOCAL.with(|local| local.panicked.borrow_mut().take())
}

/// The sampling thread of one engine; ends when the engine does.
#[derive(Debug)]
pub(crate) struct Watchdog {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watchdog {
    pub(crate) fn start(engine: Weak<Engine>, id: u64) -> std::io::Result<Watchdog> {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let seen = stop.clone();
        let thread = std::thread::Builder::new()
            .name("ron-watchdog".to_owned())
            .spawn(move || watch(&engine, id, &seen))?;
        Ok(Watchdog {
            stop,
            thread: Some(thread),
        })
    }

    /// Ends the thread and waits for it; it never sleeps uninterruptibly.
    pub(crate) fn join(mut self) {
        self.signal();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    fn signal(&self) {
        *self.stop.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.1.notify_all();
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.signal();
    }
}

/// A poll seen under way.
struct Held {
    seq: u64,
    current: Current,
    since: Instant,
    reported: bool,
}

fn watch(engine: &Weak<Engine>, id: u64, stop: &(Mutex<bool>, Condvar)) {
    let mut held: HashMap<usize, Held> = HashMap::new();
    let mut last = Instant::now();
    loop {
        let Some(threshold) = engine.upgrade().map(|engine| engine.stall_threshold()) else {
            return;
        };
        // Five samples per threshold: a stall is named at most a fifth late.
        let interval = (threshold / 5).clamp(Duration::from_millis(1), Duration::from_secs(1));
        let guard = stop.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (guard, _) = stop
            .1
            .wait_timeout_while(guard, interval, |stop| !*stop)
            .unwrap_or_else(PoisonError::into_inner);
        if *guard {
            return;
        }
        drop(guard);
        let Some(engine) = engine.upgrade() else {
            return;
        };
        let _entered = engine.runtime().enter();
        let now = Instant::now();
        // When this thread was late the whole machine may have been; such a sample proves nothing.
        let late = now.duration_since(last) > interval + threshold / 2;
        last = now;
        let marks: Vec<Arc<Mark>> = engine
            .marks()
            .threads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for mark in &marks {
            let index = Arc::as_ptr(mark) as usize;
            let (seq, current) = mark.sample();
            let current = current.filter(|current| current.engine == id);
            let same = held
                .get(&index)
                .is_some_and(|h| h.seq == seq && Some(h.current) == current);
            if !same {
                if let Some(before) = held.remove(&index).filter(|h| h.reported) {
                    engine.stall_ended(before.current, now.duration_since(before.since));
                }
                if let Some(current) = current {
                    held.insert(
                        index,
                        Held {
                            seq,
                            current,
                            since: now,
                            reported: false,
                        },
                    );
                }
            } else if let Some(held) = held.get_mut(&index) {
                if late {
                    held.since = held
                        .since
                        .max(now - threshold.min(now.duration_since(held.since)) / 2);
                } else if !held.reported && now.duration_since(held.since) >= threshold {
                    held.reported = true;
                    engine.stall_began(held.current, now.duration_since(held.since));
                }
            }
        }
    }
}
