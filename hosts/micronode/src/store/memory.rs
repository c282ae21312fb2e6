//! Objects in memory, under a budget of bytes, until the process ends.

use std::collections::hash_map::{Entry, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use super::budget::{Budget, Full, Reservation};
use super::Before;
use crate::object::{Address, Tree};

/// An object and the tree that its bytes are verified by.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Object {
    /// All of it, by groups: memory that is wiped with its last owner.
    pub(super) groups: Box<[Bytes]>,
    /// What they must hash to.
    pub(super) tree: Tree,
}

/// Clones are the same objects.
#[derive(Clone)]
pub(super) struct Memory {
    objects: Arc<RwLock<HashMap<Address, Arc<Object>>>>,
    budget: Budget,
}

/// What is counted for an object of `len` bytes: them, its place in the table, and for each group its chaining value, its
/// handles and what the allocator adds.
pub(super) fn cost(len: u64) -> u64 {
    256 + len + 136 * crate::object::Groups::of(len).count()
}

impl Memory {
    pub(super) fn new(budget: u64) -> Self {
        Self {
            objects: Arc::default(),
            budget: Budget::new(budget),
        }
    }

    /// Keeps an object; what was there before. One that is damaged is replaced.
    ///
    /// # Errors
    /// The budget does not allow it.
    pub(super) fn put(&self, object: Object, mut reserved: Reservation) -> Result<Before, Full> {
        let address = object.tree.address();
        // Not under the lock: that is a look at every byte.
        let known = self.get(&address);
        if known.is_some_and(|known| *known == object) {
            return Ok(Before::Intact);
        }
        let cost = cost(object.tree.object_len());
        let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
        let damaged = match objects.entry(address) {
            // Of the same address, and so of the same length.
            Entry::Occupied(mut known) => known.insert(Arc::new(object)),
            Entry::Vacant(vacant) => {
                reserved.grow_to(cost)?;
                reserved.keep();
                vacant.insert(Arc::new(object));
                return Ok(Before::Absent);
            }
        };
        drop(objects);
        // Its bytes are wiped now, which others need not wait for.
        drop(damaged);
        Ok(Before::Damaged)
    }

    /// The object at `address`, not verified.
    pub(super) fn get(&self, address: &Address) -> Option<Arc<Object>> {
        let objects = self.objects.read().unwrap_or_else(PoisonError::into_inner);
        objects.get(address).cloned()
    }

    pub(super) fn count(&self) -> u64 {
        let objects = self.objects.read().unwrap_or_else(PoisonError::into_inner);
        objects.len() as u64
    }

    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(bytes: &'static [u8]) -> Object {
        Object {
            groups: Box::new([Bytes::from_static(bytes)]),
            tree: Tree::of(bytes),
        }
    }

    fn put(memory: &Memory, object: Object) -> Result<Before, Full> {
        memory.put(object, memory.budget().reservation())
    }

    #[test]
    fn an_object_is_kept_once() {
        let memory = Memory::new(10_000);
        assert_eq!(put(&memory, object(b"abc")), Ok(Before::Absent));
        let used = memory.budget().usage();
        assert_eq!(used, (cost(3), 10_000));
        assert_eq!(put(&memory, object(b"abc")), Ok(Before::Intact));
        assert_eq!((memory.budget().usage(), memory.count()), (used, 1));
        let kept = memory.get(&Address::of(b"abc")).unwrap();
        assert_eq!(&kept.groups[0][..], b"abc");
        assert!(memory.get(&Address::of(b"abd")).is_none());
    }

    #[test]
    fn what_exceeds_the_budget_is_refused_and_changes_nothing() {
        let memory = Memory::new(cost(3));
        assert_eq!(put(&memory, object(b"abc")), Ok(Before::Absent));
        let full = put(&memory, object(b"d")).unwrap_err();
        assert_eq!((full.used, full.budget), memory.budget().usage());
        assert!(memory.get(&Address::of(b"d")).is_none());
        assert_eq!(put(&memory, object(b"abc")), Ok(Before::Intact));
    }

    #[test]
    fn a_damaged_object_is_healed_by_another_put_even_when_nothing_is_free() {
        let memory = Memory::new(cost(3));
        let damaged = Object {
            groups: Box::new([Bytes::from_static(b"abX")]),
            tree: Tree::of(b"abc"),
        };
        put(&memory, damaged).unwrap();
        assert_eq!(put(&memory, object(b"abc")), Ok(Before::Damaged));
        let kept = memory.get(&Address::of(b"abc")).unwrap();
        assert_eq!(&kept.groups[0][..], b"abc");
        assert_eq!(memory.budget().usage(), (cost(3), cost(3)));
    }
}
