//! Threads for work that waits for a disk: so many, before them a line of so many, and a time after which nobody waits any
//! longer. Work that hangs keeps its thread until it ends; who asked for it does not hang with it.
//!
//! They are not tokio's threads for blocking work, of which there are hundreds, with a line without an end, and which others
//! need too.
//!
//! Hashing and inflating stay on the workers, in pieces: a hop to a thread and back takes as long as hashing 64 KiB, 5 to 13
//! us and 7 us (docs/micronode.md). What hashes or compares much gives way by a [`Pace`].

use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ron_config::{Schema, Settings};
use ron_kernel::metrics::{Metrics, MetricsError};
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::timeout;

/// A thread without work ends after so long.
const IDLE: Duration = Duration::from_secs(10);

/// `pool.*`: threads for work that waits for a disk. All of it is the next start's.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolSettings {
    /// At a time, 16: what a disk of today is kept busy by; each takes a stack while there is work.
    pub threads: usize,
    /// In line, 512: one for each of `http.inflight`, none of which asks for two things at a time.
    pub queue: usize,
    /// From asking to the answer. 10 s: a disk that takes longer is of no use to clients either.
    pub timeout: Duration,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            threads: 16,
            queue: 512,
            timeout: Duration::from_secs(10),
        }
    }
}

impl Settings for PoolSettings {
    fn schema(schema: &mut Schema<Self>) {
        schema
            .key("threads", |pool: &mut Self| &mut pool.threads)
            .doc("threads for work that waits for a disk, made as there is work")
            .range(1..=512);
        schema
            .key("queue", |pool: &mut Self| &mut pool.queue)
            .doc("pieces of such work in line")
            .range(1..=1 << 16);
        schema
            .key("timeout", |pool: &mut Self| &mut pool.timeout)
            .doc("for a piece of such work, its time in line included")
            .range(Duration::from_millis(10)..=Duration::from_secs(300));
    }
}

/// Why there is no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// It was not taken: as much is in line as may be.
    #[error("{queue} pieces of work are in line already")]
    Full {
        /// How many may be.
        queue: usize,
    },
    /// It was not begun in time, and will not be.
    #[error("no thread of {threads} was free within {within:?}")]
    Waited {
        /// How many there are.
        threads: usize,
        /// The time it had.
        within: Duration,
    },
    /// It was begun and has not ended; it goes on, and what comes of it is dropped.
    #[error("no answer within {within:?}")]
    Late {
        /// The time it had.
        within: Duration,
    },
    /// It panicked.
    #[error("it panicked")]
    Panicked,
}

/// Clones are the same pool. Its threads are begun as they are needed.
#[derive(Clone, Debug)]
pub struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: PoolSettings,
    state: Mutex<State>,
    more: Condvar,
    full: AtomicU64,
    waited: AtomicU64,
    late: AtomicU64,
}

#[derive(Default)]
struct State {
    /// In the order of their numbers.
    line: BTreeMap<u64, Job>,
    next: u64,
    threads: usize,
    idle: usize,
    /// When what is under way was begun.
    running: BTreeMap<u64, Instant>,
}

type Job = Box<dyn FnOnce() + Send>;

/// What a pool has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Load {
    /// Pieces of work under way.
    pub running: usize,
    /// Of those, the ones that have been for longer than anybody waits.
    pub overdue: usize,
    /// Threads there may be.
    pub threads: usize,
    /// Pieces of work in line.
    pub waiting: usize,
}

thread_local! {
    static IS_OF_A_POOL: Cell<bool> = const { Cell::new(false) };
}

impl Pool {
    /// Without a thread yet.
    pub fn new(settings: &PoolSettings) -> Self {
        Self(Arc::new(Inner {
            settings: settings.clone(),
            state: Mutex::default(),
            more: Condvar::new(),
            full: AtomicU64::new(0),
            waited: AtomicU64::new(0),
            late: AtomicU64::new(0),
        }))
    }

    /// Does `work` on one of its threads, within `pool.timeout`.
    ///
    /// # Errors
    /// [`PoolError`]: after [`Late`](PoolError::Late) it may be done or not.
    ///
    /// # Cancel safety
    /// Dropped, work that was not begun is dropped too; other work is done, and what comes of it is dropped.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        let within = self.0.settings.timeout;
        let (sender, result) = oneshot::channel();
        let job = Box::new(move || drop(sender.send(work())));
        let asked = Asked {
            pool: &self.0,
            number: self.0.push(job, false)?,
        };
        match timeout(within, result).await {
            Ok(result) => result.map_err(|_| PoolError::Panicked),
            Err(_) if asked.take_back() => {
                self.0.waited.fetch_add(1, Ordering::Relaxed);
                let threads = self.0.settings.threads;
                Err(PoolError::Waited { threads, within })
            }
            Err(_) => {
                self.0.late.fetch_add(1, Ordering::Relaxed);
                Err(PoolError::Late { within })
            }
        }
    }

    /// Has `work` done that nobody waits for and that must not be lost, as giving back what other work has left: in turn, and
    /// beyond the limit of the line. What it gives back was made by work that has passed the line, and more of that comes
    /// behind it: so the line never has more of it than there are requests under way. On a thread of a pool it is done at once.
    pub fn tidy(&self, work: impl FnOnce() + Send + 'static) {
        if IS_OF_A_POOL.get() {
            work();
        } else {
            // It is refused only with its limit.
            let _ = self.0.push(Box::new(work), true);
        }
    }

    /// What it has to do now.
    pub fn load(&self) -> Load {
        let Inner { settings, .. } = &*self.0;
        let state = self.0.state();
        let late = |began: &&Instant| began.elapsed() > settings.timeout;
        Load {
            running: state.running.len(),
            overdue: state.running.values().filter(late).count(),
            threads: settings.threads,
            waiting: state.line.len(),
        }
    }

    /// Has `metrics` tell what it has to do and what was refused, as long as there is one.
    ///
    /// # Errors
    /// They have a family of one of the names already.
    pub fn expose(&self, metrics: &Metrics) -> Result<(), MetricsError> {
        let gauge = |name: &str, help: &str, value: fn(Load) -> usize| {
            let pool = Arc::downgrade(&self.0);
            let feed = metrics
                .gauge_collector(name, help, [])?
                .feed(move |samples| {
                    if let Some(pool) = pool.upgrade() {
                        samples.push([], value(Pool(pool).load()) as f64);
                    }
                });
            feed.keep();
            Ok::<(), MetricsError>(())
        };
        let help = "Pieces of work on the threads that wait for a disk.";
        gauge("pool_running", help, |load| load.running)?;
        let help = "Pieces of work on these threads that take longer than anybody waits.";
        gauge("pool_overdue", help, |load| load.overdue)?;
        let help = "Pieces of work in line for the threads that wait for a disk.";
        gauge("pool_waiting", help, |load| load.waiting)?;
        let help =
            "Work for these threads that has no result: not taken, not begun or not ended in time.";
        let refused = metrics.counter_collector("pool_refused_total", help, ["reason"])?;
        let pool = Arc::downgrade(&self.0);
        let feed = refused.feed(move |samples| {
            let Some(pool) = pool.upgrade() else { return };
            for (reason, count) in [
                ("full", &pool.full),
                ("waited", &pool.waited),
                ("late", &pool.late),
            ] {
                samples.push([reason], count.load(Ordering::Relaxed));
            }
        });
        feed.keep();
        Ok(())
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts `job` in line; its number there.
    fn push(self: &Arc<Self>, job: Job, is_owed: bool) -> Result<u64, PoolError> {
        let Self { settings, .. } = &**self;
        let mut state = self.state();
        if state.line.len() >= settings.queue && !is_owed {
            drop(state);
            self.full.fetch_add(1, Ordering::Relaxed);
            let queue = settings.queue;
            return Err(PoolError::Full { queue });
        }
        let number = state.next;
        state.next += 1;
        state.line.insert(number, job);
        if state.line.len() > state.idle && state.threads < settings.threads {
            let inner = Arc::clone(self);
            let thread = thread::Builder::new().name("pool".to_owned());
            // Without one more thread it waits for those that there are, or for the next that asks.
            if thread.spawn(move || inner.work()).is_ok() {
                state.threads += 1;
            }
        }
        drop(state);
        self.more.notify_one();
        Ok(number)
    }

    /// What a thread does.
    fn work(&self) {
        IS_OF_A_POOL.set(true);
        let mut state = self.state();
        loop {
            if let Some((number, job)) = state.line.pop_first() {
                state.running.insert(number, Instant::now());
                drop(state);
                // Whoever asked is told.
                let _ = catch_unwind(AssertUnwindSafe(job));
                state = self.state();
                state.running.remove(&number);
                continue;
            }
            state.idle += 1;
            let waited = self.more.wait_timeout(state, IDLE);
            let (now, ended) = waited.unwrap_or_else(PoisonError::into_inner);
            state = now;
            state.idle -= 1;
            if ended.timed_out() && state.line.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}

/// Work that somebody waits for.
struct Asked<'a> {
    pool: &'a Inner,
    number: u64,
}

impl Asked<'_> {
    /// Whether it was still in line.
    fn take_back(&self) -> bool {
        let job = self.pool.state().line.remove(&self.number);
        job.is_some()
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.take_back();
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("waiting", &self.line.len())
            .field("running", &self.running)
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

/// Counts what a task has hashed or compared, and has it give way to others before that takes long.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace(usize);

impl Pace {
    /// Between two times that it gives way: 0.03 ms of hashing where there is AVX-512, 0.3 ms without SIMD.
    pub const BYTES: usize = 256 << 10;

    /// So many bytes more: whether it is time to give way.
    pub fn is_due(&mut self, bytes: usize) -> bool {
        self.0 += bytes;
        let is_due = self.0 >= Self::BYTES;
        if is_due {
            self.0 = 0;
        }
        is_due
    }

    /// So many bytes more; gives way if it is time to.
    pub async fn spend(&mut self, bytes: usize) {
        if self.is_due(bytes) {
            yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn pool(threads: usize, queue: usize, timeout: Duration) -> Pool {
        Pool::new(&PoolSettings {
            threads,
            queue,
            timeout,
        })
    }

    const SOON: Duration = Duration::from_millis(50);
    const PATIENCE: Duration = Duration::from_secs(30);

    /// Work that does not end before this is dropped, once it was begun.
    async fn hang(pool: &Pool) -> mpsc::Sender<()> {
        let (release, held) = mpsc::channel::<()>();
        let (begun, has_begun) = oneshot::channel();
        let held = move || {
            let _ = begun.send(());
            let _ = held.recv();
        };
        let asked = pool.run(held);
        let error = tokio::join!(asked, has_begun).0.unwrap_err();
        assert!(matches!(error, PoolError::Late { .. }), "{error}");
        release
    }

    async fn until(pool: &Pool, is: impl Fn(Load) -> bool) {
        let began = Instant::now();
        while !is(pool.load()) {
            assert!(began.elapsed() < PATIENCE, "{pool:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn work_is_done_by_so_many_at_a_time_and_its_result_comes_back() {
        let pool = pool(2, 100, PATIENCE);
        let (running, most) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let work = |n: u64| {
            let (running, most) = (Arc::clone(&running), Arc::clone(&most));
            pool.run(move || {
                let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(now, Ordering::SeqCst);
                thread::sleep(Duration::from_millis(5));
                running.fetch_sub(1, Ordering::SeqCst);
                n
            })
        };
        let (a, b, c, d) = tokio::join!(work(1), work(2), work(3), work(4));
        assert_eq!([a, b, c, d], [Ok(1), Ok(2), Ok(3), Ok(4)]);
        assert_eq!(most.load(Ordering::SeqCst), 2);
        let panicked = pool.run(|| panic!("thrown")).await;
        assert_eq!(panicked, Err::<(), _>(PoolError::Panicked));
        assert_eq!(pool.run(|| 5).await, Ok(5));
    }

    #[tokio::test]
    async fn what_hangs_keeps_its_thread_and_nobody_waits_for_longer_than_the_deadline() {
        let pool = pool(2, 2, SOON);
        let first = hang(&pool).await;
        assert_eq!(pool.run(|| 1).await, Ok(1), "the other thread is free");
        let second = hang(&pool).await;
        until(&pool, |load| load.overdue == 2).await;
        let waited = PoolError::Waited {
            threads: 2,
            within: SOON,
        };
        let (a, b, c) = tokio::join!(pool.run(|| 1), pool.run(|| 2), pool.run(|| 3));
        assert_eq!((a, b), (Err(waited), Err(waited)));
        assert_eq!(c, Err(PoolError::Full { queue: 2 }));
        assert_eq!(pool.load().waiting, 0, "what nobody waits for is not kept");
        let counted = [&pool.0.full, &pool.0.waited, &pool.0.late];
        assert_eq!(
            counted.map(|count| count.load(Ordering::Relaxed)),
            [1, 2, 2]
        );
        drop(first);
        until(&pool, |load| (load.running, load.overdue) == (1, 1)).await;
        assert_eq!(pool.run(|| 4).await, Ok(4));
        drop(second);
        until(&pool, |load| load.running == 0).await;
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_any_more_is_not_begun_and_what_is_owed_is_done() {
        let pool = pool(1, 1, SOON);
        let held = hang(&pool).await;
        let begun = Arc::new(AtomicU64::new(0));
        let more = |by| {
            let begun = Arc::clone(&begun);
            move || {
                begun.fetch_add(by, Ordering::SeqCst);
            }
        };
        let given_up = timeout(Duration::from_millis(5), pool.run(more(1))).await;
        assert!(given_up.is_err());
        assert_eq!(pool.load().waiting, 0);
        for _ in 0..3 {
            pool.tidy(more(10));
        }
        assert_eq!(pool.load().waiting, 3);
        drop(held);
        until(&pool, |load| load.running + load.waiting == 0).await;
        assert_eq!(begun.load(Ordering::SeqCst), 30);
        let (inner, nested) = (pool.clone(), more(100));
        pool.run(move || inner.tidy(nested)).await.unwrap();
        assert_eq!(begun.load(Ordering::SeqCst), 130, "at once");
    }

    #[tokio::test]
    async fn a_task_gives_way_after_so_many_bytes() {
        let mut pace = Pace::default();
        assert!(!pace.is_due(Pace::BYTES - 1));
        assert!(pace.is_due(1));
        assert!(!pace.is_due(1));
    }
}
