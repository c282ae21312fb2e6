//! How many bytes there may be, and who has taken them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

/// There is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{size} bytes do not fit: {used} of {budget} are in use")]
#[non_exhaustive]
pub struct Full {
    /// Bytes that were asked for.
    pub size: u64,
    /// Bytes that all of it takes, with those that it has already.
    pub whole: u64,
    /// Bytes in use.
    pub used: u64,
    /// Bytes there may be.
    pub budget: u64,
}

impl Full {
    /// Whether it would not fit if nothing else were there.
    pub fn is_for_ever(&self) -> bool {
        self.whole > self.budget
    }
}

/// Bytes in use, of so many; clones are the same budget.
#[derive(Clone, Debug)]
pub(crate) struct Budget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Alone in what it says: nothing else is read by it, so that every ordering may be relaxed.
    used: AtomicU64,
    limit: u64,
}

/// Bytes taken, until it is dropped or kept.
#[derive(Debug)]
pub(crate) struct Reservation {
    budget: Budget,
    bytes: u64,
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Self {
        Self(Arc::new(Inner {
            used: AtomicU64::new(0),
            limit,
        }))
    }

    /// Bytes in use, and how many there may be.
    pub(crate) fn usage(&self) -> (u64, u64) {
        (self.0.used.load(Ordering::Relaxed), self.0.limit)
    }

    /// Nothing yet.
    pub(crate) fn reservation(&self) -> Reservation {
        Reservation {
            budget: self.clone(),
            bytes: 0,
        }
    }

    /// Without a limit.
    pub(crate) fn unlimited() -> Self {
        Self::new(u64::MAX)
    }

    /// Takes bytes that are there already, within the limit or not.
    pub(crate) fn charge(&self, bytes: u64) {
        self.0.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Gives bytes back.
    pub(crate) fn release(&self, bytes: u64) {
        let less = |used: u64| Some(used.saturating_sub(bytes));
        let _ = self
            .0
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

impl Reservation {
    /// Takes more, until `bytes` are taken in all.
    ///
    /// # Errors
    /// The budget does not allow it; what was taken stays.
    pub(crate) fn grow_to(&mut self, bytes: u64) -> Result<(), Full> {
        let size = bytes.saturating_sub(self.bytes);
        let Inner { used, limit } = &*self.budget.0;
        let more = |used: u64| used.checked_add(size).filter(|used| used <= limit);
        let taken = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.map_err(|used| Full {
            size,
            whole: bytes,
            used,
            budget: *limit,
        })?;
        self.bytes += size;
        Ok(())
    }

    /// Takes more or gives some back, until `bytes` are taken in all.
    ///
    /// # Errors
    /// The budget does not allow it; what was taken stays.
    pub(crate) fn set_to(&mut self, bytes: u64) -> Result<(), Full> {
        if let Some(beyond) = self.bytes.checked_sub(bytes) {
            self.budget.release(beyond);
            self.bytes = bytes;
        }
        self.grow_to(bytes)
    }

    /// Of what was taken so much stays taken, or as much more, until somebody releases it.
    pub(crate) fn keep_as(mut self, bytes: u64) {
        match self.bytes.checked_sub(bytes) {
            Some(beyond) => self.bytes = beyond,
            None => {
                self.budget.charge(bytes - self.bytes);
                self.bytes = 0;
            }
        }
    }

    /// What was taken stays taken until somebody releases it.
    pub(crate) fn keep(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.release(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_comes_back_unless_it_is_kept() {
        let budget = Budget::new(100);
        let mut kept = budget.reservation();
        let mut dropped = budget.reservation();
        assert_eq!(kept.grow_to(40), Ok(()));
        assert_eq!(dropped.grow_to(60), Ok(()));
        assert_eq!(dropped.grow_to(50), Ok(()), "it has more than that");
        let full = kept.grow_to(41).unwrap_err();
        assert_eq!((full.size, full.used, full.budget), (1, 100, 100));
        assert!(!full.is_for_ever());
        drop(dropped);
        assert_eq!(budget.usage(), (40, 100));
        let full = kept.grow_to(u64::MAX).unwrap_err();
        assert!(full.used == 40 && full.is_for_ever());
        let mut resized = budget.reservation();
        for bytes in [60, 10, 50] {
            assert_eq!(resized.set_to(bytes), Ok(()));
            assert_eq!(budget.usage(), (40 + bytes, 100));
        }
        assert_eq!(resized.set_to(61).unwrap_err().size, 11);
        drop(resized);
        kept.keep();
        assert_eq!(budget.usage(), (40, 100));
        budget.release(40);
        assert_eq!(budget.usage(), (0, 100));
    }
}
