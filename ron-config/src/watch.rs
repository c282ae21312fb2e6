//! Reading the snapshot in force: one atomic load while nothing changed.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use thiserror::Error;
use tokio::sync::watch;

/// Where snapshots are published. One owner; when it goes, waiting watches learn that nothing will come.
pub(crate) struct Publisher<T> {
    cell: Arc<Cell<T>>,
    changed: watch::Sender<u64>,
}

/// What publisher and watches share.
struct Cell<T> {
    /// The version of what `current` holds. Stored with `Release` after `current` is set, by the one publisher; pairs
    /// with the `Acquire` load in [`Watch::get`].
    version: Arc<AtomicU64>,
    current: Mutex<(u64, Arc<T>)>,
}

impl<T> Publisher<T> {
    pub(crate) fn new(version: u64, value: Arc<T>) -> Self {
        Self {
            cell: Arc::new(Cell {
                version: Arc::new(AtomicU64::new(version)),
                current: Mutex::new((version, value)),
            }),
            changed: watch::Sender::new(version),
        }
    }

    /// Makes `value` the snapshot in force. Versions must increase; the owner serialises.
    pub(crate) fn publish(&self, version: u64, value: Arc<T>) {
        let before = {
            let current = self.cell.current.lock();
            let mut current = current.unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, (version, value))
        };
        self.cell.version.store(version, Ordering::Release);
        self.changed.send_replace(version);
        // The last handle on the old snapshot may be this one; it is dropped outside the lock.
        drop(before);
    }

    pub(crate) fn snapshot(&self) -> (u64, Arc<T>) {
        let current = self.cell.current.lock();
        let current = current.unwrap_or_else(PoisonError::into_inner);
        (current.0, Arc::clone(&current.1))
    }
}

/// Where a watch gets a newer snapshot from; `None` when the publisher holds the lock at this very moment.
trait Supply<T>: Send + Sync {
    fn try_take(&self) -> Option<(u64, Arc<T>)>;
}

impl<T: Send + Sync> Supply<T> for Cell<T> {
    fn try_take(&self) -> Option<(u64, Arc<T>)> {
        match self.current.try_lock() {
            Ok(current) => Some((current.0, Arc::clone(&current.1))),
            Err(TryLockError::Poisoned(poisoned)) => {
                let current = poisoned.into_inner();
                Some((current.0, Arc::clone(&current.1)))
            }
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

/// A part of another supply's snapshots.
struct Mapped<T, F> {
    whole: Arc<dyn Supply<T>>,
    project: F,
}

impl<T, U, F> Supply<U> for Mapped<T, F>
where
    T: Send + Sync,
    F: Fn(&T) -> U + Send + Sync,
{
    fn try_take(&self) -> Option<(u64, Arc<U>)> {
        let (version, whole) = self.whole.try_take()?;
        Some((version, Arc::new((self.project)(&whole))))
    }
}

struct Never;

impl<T> Supply<T> for Never {
    fn try_take(&self) -> Option<(u64, Arc<T>)> {
        None
    }
}

/// A reader's handle on the snapshot in force.
///
/// [`get`](Self::get) compares one atomic with the version it has cached and hands out the cached `Arc`: about a
/// nanosecond while nothing changed, and never blocked by a writer. When a newer snapshot is there it is fetched; should
/// the writer be publishing at that very moment, `get` returns the previous one and fetches at the next call. All fields
/// of one snapshot are of one version; never mix two calls of `get` where fields must agree.
///
/// A watch keeps working when the [`Loaded`](crate::Loaded) it came from is dropped: it stays at the last snapshot.
/// Cloning is cheap; the clone starts at the same version.
pub struct Watch<T> {
    live: Arc<AtomicU64>,
    version: u64,
    value: Arc<T>,
    supply: Arc<dyn Supply<T>>,
    changed: watch::Receiver<u64>,
}

/// Nothing will change any more: the [`Loaded`](crate::Loaded) behind the watch is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the configuration is no longer reloaded")]
pub struct Closed(());

impl<T: Send + Sync + 'static> Watch<T> {
    pub(crate) fn of(publisher: &Publisher<T>) -> Self {
        let (version, value) = publisher.snapshot();
        Self {
            live: Arc::clone(&publisher.cell.version),
            version,
            value,
            supply: Arc::clone(&publisher.cell) as Arc<dyn Supply<T>>,
            changed: publisher.changed.subscribe(),
        }
    }

    /// A watch on a value that never changes, at version 1: for programs without a configuration file, and for tests.
    pub fn fixed(value: T) -> Self {
        Self {
            live: Arc::new(AtomicU64::new(1)),
            version: 1,
            value: Arc::new(value),
            supply: Arc::new(Never),
            changed: watch::Sender::new(1).subscribe(),
        }
    }

    /// The snapshot in force.
    #[inline]
    pub fn get(&mut self) -> &Arc<T> {
        // Acquire: pairs with the Release in `Publisher::publish`, so that the newer snapshot is there to be fetched.
        if self.live.load(Ordering::Acquire) != self.version {
            self.fetch();
        }
        &self.value
    }

    #[cold]
    fn fetch(&mut self) {
        if let Some((version, value)) = self.supply.try_take() {
            self.version = version;
            self.value = value;
        }
    }

    /// The version of the snapshot `get` returned last. Versions begin at 1 and strictly increase; a reload that changes
    /// nothing in force has none.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Waits until there is a version newer than [`version`](Self::version), fetches it and returns its number.
    ///
    /// Versions published in quick succession are seen as one, the newest. The snapshot is the whole configuration's:
    /// on a mapped watch this also returns when only other parts changed.
    ///
    /// # Errors
    /// [`Closed`] when no newer version can come.
    ///
    /// # Cancel safety
    /// Cancel safe: a version that arrives while nobody waits is returned by the next call.
    pub async fn changed(&mut self) -> Result<u64, Closed> {
        loop {
            let seen = self.version;
            self.get();
            if self.version != seen {
                return Ok(self.version);
            }
            if self.live.load(Ordering::Acquire) != self.version {
                // The publisher holds the lock for the length of a pointer swap; its notification follows, but may be
                // the one already consumed, so look again at once rather than wait for it.
                std::thread::yield_now();
                continue;
            }
            // `wait_for` looks at the present number first, so a version published since `get` is not missed.
            if self
                .changed
                .wait_for(|newest| *newest != seen)
                .await
                .is_err()
            {
                return Err(Closed(()));
            }
        }
    }

    /// A watch on a part: how a host hands the kernel its `Watch<Config>`.
    ///
    /// `project` runs once per version and watch, in the `get` that notices it; a `get` without change costs the same as
    /// on the whole. It must not panic: the panic would come out of `get`.
    ///
    /// ```
    /// use ron_config::Watch;
    /// struct Host { kernel: u32 }
    /// let host = Watch::fixed(Host { kernel: 7 });
    /// let mut kernel = host.map(|host| host.kernel);
    /// assert_eq!(**kernel.get(), 7);
    /// ```
    pub fn map<U, F>(&self, project: F) -> Watch<U>
    where
        U: Send + Sync + 'static,
        F: Fn(&T) -> U + Send + Sync + 'static,
    {
        Watch {
            live: Arc::clone(&self.live),
            version: self.version,
            value: Arc::new(project(&self.value)),
            supply: Arc::new(Mapped {
                whole: Arc::clone(&self.supply),
                project,
            }),
            changed: self.changed.clone(),
        }
    }
}

impl<T> Clone for Watch<T> {
    fn clone(&self) -> Self {
        Self {
            live: Arc::clone(&self.live),
            version: self.version,
            value: Arc::clone(&self.value),
            supply: Arc::clone(&self.supply),
            changed: self.changed.clone(),
        }
    }
}

impl<T> fmt::Debug for Watch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}
