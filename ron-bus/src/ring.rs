//! One lane's storage: the newest events by sequence number, in slots that are reused.

use std::sync::Arc;

/// An event with what the bus knows about it.
pub(crate) struct Node<E> {
    pub(crate) seq: u64,
    /// Milliseconds since 1970 at publish; 0 on topics without encoder.
    pub(crate) stamp_ms: i64,
    pub(crate) event: E,
}

/// What a publish puts in, and after the push what it has to drop once the lock is released.
pub(crate) enum Parcel<E> {
    Empty,
    Event(E),
    /// A slot whose event some reader was cloning when it was overwritten.
    #[allow(dead_code)] // held only to be dropped outside the lock
    Node(Arc<Node<E>>),
}

/// The events `tail..head` of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) tail: u64,
    pub(crate) head: u64,
}

/// The first event has sequence number 1 and lives in slot 0.
///
/// A slot is a shared pointer so that a reader clones its event after releasing the lock. The publisher that comes
/// round to a slot nobody reads replaces the event in place; only if a reader is at it that very moment does the slot
/// get a new allocation, and the old one goes with the reader.
pub(crate) struct Ring<E> {
    slots: Vec<Arc<Node<E>>>,
    capacity: usize,
    head: u64,
    /// No `Disconnect` reader's position is below this; `u64::MAX` if there is none.
    pub(crate) guarded: u64,
}

impl<E> Ring<E> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            slots: Vec::with_capacity(capacity),
            capacity,
            head: 1,
            guarded: u64::MAX,
        }
    }

    pub(crate) fn extent(&self) -> Extent {
        Extent {
            tail: self.head - self.slots.len() as u64,
            head: self.head,
        }
    }

    /// Stores the parcel's event as the newest and leaves in the parcel what it displaced.
    pub(crate) fn push(&mut self, parcel: &mut Parcel<E>, stamp_ms: i64) {
        let Parcel::Event(event) = std::mem::replace(parcel, Parcel::Empty) else {
            return;
        };
        let seq = self.head;
        self.head += 1;
        if self.slots.len() < self.capacity {
            self.slots.push(Arc::new(Node {
                seq,
                stamp_ms,
                event,
            }));
            return;
        }
        let index = self.index(seq);
        let slot = &mut self.slots[index];
        *parcel = match Arc::get_mut(slot) {
            Some(node) => {
                (node.seq, node.stamp_ms) = (seq, stamp_ms);
                Parcel::Event(std::mem::replace(&mut node.event, event))
            }
            None => Parcel::Node(std::mem::replace(
                slot,
                Arc::new(Node {
                    seq,
                    stamp_ms,
                    event,
                }),
            )),
        };
    }

    /// The event `seq`, which must lie within [`extent`](Self::extent).
    pub(crate) fn at(&self, seq: u64) -> &Arc<Node<E>> {
        &self.slots[self.index(seq)]
    }

    fn index(&self, seq: u64) -> usize {
        ((seq - 1) % self.capacity as u64) as usize
    }
}
