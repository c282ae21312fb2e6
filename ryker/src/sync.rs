//! The primitives whose interleavings matter: those of production, or loom's under `--cfg loom`.

#[cfg(loom)]
pub(crate) use loom::sync::{
    atomic::{fence, AtomicBool, AtomicU64, AtomicUsize, Ordering},
    MutexGuard as Guard,
};
#[cfg(not(loom))]
pub(crate) use {
    spin::mutex::SpinMutexGuard as Guard,
    std::sync::atomic::{fence, AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

/// A lock that is held for a few instructions, in which nothing of a user's runs: no clone, drop or wake.
///
/// It costs one atomic read-modify-write where a mutex that can park costs two; `docs/decisions/mailbox.md` has the
/// figures. Whoever finds it held looks again after a pause, so that the holder's line stays with the holder, and after
/// some looks lets another thread have the processor, which may be the holder's.
#[derive(Debug, Default)]
pub(crate) struct Lock<T>(Inner<T>);

#[cfg(not(loom))]
type Inner<T> = spin::mutex::SpinMutex<T>;
#[cfg(loom)]
type Inner<T> = loom::sync::Mutex<T>;

#[cfg(not(loom))]
impl<T> Lock<T> {
    /// Spins between two looks at the lock, so that its line stays with the holder. With 16 the throughput of several
    /// senders is the same and the p99 of a contended send half as much again (bench `mailbox-contention`).
    const PAUSES: u32 = 4;
    /// Looks before the thread yields.
    const LOOKS: u32 = 64;

    pub(crate) fn new(value: T) -> Self {
        Self(Inner::new(value))
    }

    #[inline(always)]
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        match self.0.try_lock() {
            Some(guard) => guard,
            None => self.contended(),
        }
    }

    #[cold]
    fn contended(&self) -> Guard<'_, T> {
        loop {
            for _ in 0..Self::LOOKS {
                for _ in 0..Self::PAUSES {
                    std::hint::spin_loop();
                }
                if let Some(guard) = self.0.try_lock() {
                    return guard;
                }
            }
            std::thread::yield_now();
        }
    }
}

#[cfg(loom)]
impl<T> Lock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Inner::new(value))
    }

    pub(crate) fn lock(&self) -> Guard<'_, T> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Keeps what one side writes often off the cache lines of the other.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Padded<T>(pub(crate) T);

impl<T> std::ops::Deref for Padded<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.0
    }
}
