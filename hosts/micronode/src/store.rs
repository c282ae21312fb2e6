//! Objects in memory, under a budget of bytes.

use std::collections::hash_map::{Entry, HashMap};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use crate::object::{Address, Tree};

/// An object and the tree that its bytes are verified by.
#[derive(Debug, PartialEq, Eq)]
pub struct Object {
    /// All of it.
    pub bytes: Bytes,
    /// What it must hash to.
    pub tree: Tree,
}

/// Keeps objects until the process ends.
pub struct Store {
    state: RwLock<State>,
    budget: u64,
}

#[derive(Default)]
struct State {
    objects: HashMap<Address, Arc<Object>>,
    used: u64,
}

/// There is no room for an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{size} bytes do not fit: {used} of {budget} are in use")]
pub struct Full {
    /// Bytes of the object.
    pub size: u64,
    /// Bytes in use.
    pub used: u64,
    /// Bytes there may be.
    pub budget: u64,
}

/// What is counted for an object beside its bytes: its place in the table, and its tree.
fn cost(object: &Object) -> u64 {
    256 + object.bytes.len() as u64 + 32 * object.tree.groups().count()
}

impl Store {
    /// Takes `budget` bytes of objects, and what it costs to keep them.
    pub fn new(budget: u64) -> Self {
        Self {
            state: RwLock::default(),
            budget,
        }
    }

    /// Keeps an object; whether it was there already. One that is damaged is replaced.
    ///
    /// # Errors
    /// The budget does not allow it.
    pub fn put(&self, object: Object) -> Result<bool, Full> {
        let (address, cost) = (object.tree.address(), cost(&object));
        // Not under the lock: that is a look at every byte.
        let known = self.get(&address);
        if known.is_some_and(|known| *known == object) {
            return Ok(true);
        }
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let State { objects, used } = &mut *state;
        match objects.entry(address) {
            Entry::Occupied(mut known) => {
                known.insert(Arc::new(object));
                Ok(true)
            }
            Entry::Vacant(_) if cost > self.budget.saturating_sub(*used) => Err(Full {
                size: cost,
                used: *used,
                budget: self.budget,
            }),
            Entry::Vacant(vacant) => {
                *used += cost;
                vacant.insert(Arc::new(object));
                Ok(false)
            }
        }
    }

    /// The object at `address`, not verified.
    pub fn get(&self, address: &Address) -> Option<Arc<Object>> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.objects.get(address).cloned()
    }

    /// Bytes in use, and how many there may be.
    pub fn usage(&self) -> (u64, u64) {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        (state.used, self.budget)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (used, budget) = self.usage();
        f.debug_struct("Store")
            .field("used", &used)
            .field("budget", &budget)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(bytes: &'static [u8]) -> Object {
        Object {
            bytes: Bytes::from_static(bytes),
            tree: Tree::of(bytes),
        }
    }

    #[test]
    fn an_object_is_kept_once() {
        let store = Store::new(10_000);
        assert_eq!(store.put(object(b"abc")), Ok(false));
        let used = store.usage();
        assert_eq!(store.put(object(b"abc")), Ok(true));
        assert_eq!(store.usage(), used);
        let kept = store.get(&Address::of(b"abc")).unwrap();
        assert_eq!(&kept.bytes[..], b"abc");
        assert!(store.get(&Address::of(b"abd")).is_none());
    }

    #[test]
    fn what_exceeds_the_budget_is_refused_and_changes_nothing() {
        let store = Store::new(cost(&object(b"abc")));
        assert_eq!(store.put(object(b"abc")), Ok(false));
        let full = store.put(object(b"d")).unwrap_err();
        assert_eq!((full.used, full.budget), store.usage());
        assert!(store.get(&Address::of(b"d")).is_none());
        assert_eq!(store.put(object(b"abc")), Ok(true));
    }

    #[test]
    fn a_damaged_object_is_healed_by_another_put() {
        let store = Store::new(10_000);
        let damaged = Object {
            bytes: Bytes::from_static(b"abX"),
            tree: Tree::of(b"abc"),
        };
        store.put(damaged).unwrap();
        assert_eq!(store.put(object(b"abc")), Ok(true));
        let kept = store.get(&Address::of(b"abc")).unwrap();
        assert_eq!(&kept.bytes[..], b"abc");
    }
}
