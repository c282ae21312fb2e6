//! Objects in memory, under a budget of bytes, until the process ends.

use std::collections::hash_map::{Entry, HashMap};
use std::ops::Deref;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use ron_host::{Pace, Pool};

use super::budget::{Budget, Full, Reservation};
use super::Before;
use crate::object::{Address, Tree, GROUP_LEN};

/// Groups of an object: memory that is wiped with its last owner, where that is much on a thread of the pool.
#[derive(Debug)]
pub(super) struct Held {
    groups: Vec<Bytes>,
    pool: Pool,
}

impl Held {
    pub(super) fn new(pool: &Pool) -> Self {
        Self {
            groups: Vec::new(),
            pool: pool.clone(),
        }
    }

    pub(super) fn push(&mut self, group: Bytes) {
        self.groups.push(group);
    }
}

impl Deref for Held {
    type Target = [Bytes];

    fn deref(&self) -> &[Bytes] {
        &self.groups
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.groups.len() * GROUP_LEN > Pace::BYTES {
            let groups = std::mem::take(&mut self.groups);
            self.pool.tidy(move || drop(groups));
        }
    }
}

/// An object and the tree that its bytes are verified by.
#[derive(Debug)]
pub(super) struct Object {
    /// All of it.
    pub(super) groups: Held,
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

impl Object {
    /// Whether it is the same, byte by byte. Gives way while it looks.
    async fn is(&self, other: &Self) -> bool {
        let mut pace = Pace::default();
        for (own, others) in self.groups.iter().zip(other.groups.iter()) {
            if own != others {
                return false;
            }
            pace.spend(own.len()).await;
        }
        self.groups.len() == other.groups.len() && self.tree == other.tree
    }
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
    pub(super) async fn put(
        &self,
        object: Object,
        mut reserved: Reservation,
    ) -> Result<Before, Full> {
        let address = object.tree.address();
        // Not under the lock: that is a look at every byte.
        if let Some(known) = self.get(&address) {
            if known.is(&object).await {
                return Ok(Before::Intact);
            }
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

    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    fn object(bytes: &'static [u8]) -> Object {
        let mut groups = Held::new(&Pool::new(&Default::default()));
        groups.push(Bytes::from_static(bytes));
        let tree = Tree::of(bytes);
        Object { groups, tree }
    }

    /// How often the put has given way, and what came of it.
    fn paced(memory: &Memory, object: Object) -> (usize, Result<Before, Full>) {
        let mut put = pin!(memory.put(object, memory.budget().reservation()));
        let mut cx = Context::from_waker(Waker::noop());
        let mut polls = (0..).map(|_| put.as_mut().poll(&mut cx)).enumerate();
        polls
            .find_map(|(waits, polled)| match polled {
                std::task::Poll::Ready(put) => Some((waits, put)),
                std::task::Poll::Pending => None,
            })
            .unwrap()
    }

    fn put(memory: &Memory, object: Object) -> Result<Before, Full> {
        paced(memory, object).1
    }

    #[test]
    fn a_large_object_is_compared_in_pieces_and_wiped_elsewhere() {
        let memory = Memory::new(1 << 30);
        let bytes = vec![7; 20 * GROUP_LEN];
        let pool = Pool::new(&Default::default());
        let large = || {
            let mut groups = Held::new(&pool);
            let pieces = bytes.chunks(GROUP_LEN);
            pieces.for_each(|piece| groups.push(Bytes::copy_from_slice(piece)));
            let tree = Tree::of(&bytes);
            Object { groups, tree }
        };
        assert_eq!(paced(&memory, large()), (0, Ok(Before::Absent)));
        let (waits, put) = paced(&memory, large());
        assert_eq!((waits, put), (5, Ok(Before::Intact)));
        // Whoever lets go of it does not wait.
        struct Told(std::sync::mpsc::Sender<Option<String>>);
        impl AsRef<[u8]> for Told {
            fn as_ref(&self) -> &[u8] {
                &[]
            }
        }
        impl Drop for Told {
            fn drop(&mut self) {
                let thread = std::thread::current();
                let _ = self.0.send(thread.name().map(str::to_owned));
            }
        }
        let (told, by) = std::sync::mpsc::channel();
        let mut groups = large().groups;
        groups.push(Bytes::from_owner(Told(told)));
        drop(groups);
        assert_eq!(by.recv().unwrap().as_deref(), Some("pool"));
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
            groups: object(b"abX").groups,
            tree: Tree::of(b"abc"),
        };
        put(&memory, damaged).unwrap();
        assert_eq!(put(&memory, object(b"abc")), Ok(Before::Damaged));
        let kept = memory.get(&Address::of(b"abc")).unwrap();
        assert_eq!(&kept.groups[0][..], b"abc");
        assert_eq!(memory.budget().usage(), (cost(3), cost(3)));
    }
}
