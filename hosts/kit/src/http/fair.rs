//! Who is next when requests wait: deficit round robin (M. Shreedhar and G. Varghese, "Efficient Fair Queuing Using Deficit
//! Round-Robin", IEEE/ACM ToN 4(3), 1996), by bytes, among the capabilities that ask.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// What a flow may move in a turn.
const QUANTUM: i64 = 64 << 10;
/// What a request counts at least and at most: nobody waits for more than 16 rounds.
const COST: std::ops::RangeInclusive<u64> = 1 << 10..=1 << 20;

/// Waiters of flows. `K` tells flows apart.
#[derive(Debug)]
pub(crate) struct Fair<K, W> {
    flows: HashMap<K, Flow<W>>,
    /// Whose turn it is, and who comes then.
    turns: VecDeque<K>,
    waiting: usize,
    most: usize,
    tickets: u64,
}

#[derive(Debug)]
struct Flow<W> {
    waiters: VecDeque<Waiter<W>>,
    /// Bytes that it may still move in its turn, or has moved beyond it.
    deficit: i64,
}

#[derive(Debug)]
struct Waiter<W> {
    ticket: u64,
    cost: i64,
    waiter: W,
}

/// How a waiter came in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entry<W> {
    /// It waits under this ticket.
    Waits(u64),
    /// So does it, and the last of the longest flow had to go.
    Instead(u64, W),
    /// Nobody waits for more than its own flow does.
    Full,
}

impl<K: Clone + Eq + Hash, W> Fair<K, W> {
    /// For `most` waiters at a time.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            flows: HashMap::new(),
            turns: VecDeque::new(),
            waiting: 0,
            most,
            tickets: 0,
        }
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Lets one wait who will move about `cost` bytes. Where there are too many, the longest flow gives way to a shorter one.
    pub(crate) fn push(&mut self, key: K, cost: u64, waiter: W) -> Entry<W> {
        let gone = if self.waiting < self.most {
            None
        } else {
            let own = self.flows.get(&key).map_or(0, |flow| flow.waiters.len());
            let longest = self.flows.iter().max_by_key(|(_, flow)| flow.waiters.len());
            match longest {
                Some((longest, flow)) if flow.waiters.len() > own + 1 => {
                    let longest = longest.clone();
                    let ticket = flow.waiters.back().map_or(0, |last| last.ticket);
                    self.remove(&longest, ticket)
                }
                _ => return Entry::Full,
            }
        };
        self.tickets += 1;
        let ticket = self.tickets;
        let flow = self.flows.entry(key).or_insert_with_key(|key| {
            self.turns.push_back(key.clone());
            Flow {
                waiters: VecDeque::new(),
                deficit: QUANTUM,
            }
        });
        let cost = cost.clamp(*COST.start(), *COST.end()) as i64;
        flow.waiters.push_back(Waiter {
            ticket,
            cost,
            waiter,
        });
        self.waiting += 1;
        match gone {
            Some(gone) => Entry::Instead(ticket, gone),
            None => Entry::Waits(ticket),
        }
    }

    /// The next one.
    pub(crate) fn pop(&mut self) -> Option<W> {
        loop {
            let flow = self.flows.get_mut(self.turns.front()?)?;
            let cost = flow.waiters.front()?.cost;
            if flow.deficit < cost {
                flow.deficit += QUANTUM;
                self.turns.rotate_left(1);
                continue;
            }
            flow.deficit -= cost;
            let waiter = flow.waiters.pop_front()?;
            self.waiting -= 1;
            if flow.waiters.is_empty() {
                // Who has nothing to send saves nothing up.
                if let Some(key) = self.turns.pop_front() {
                    self.flows.remove(&key);
                }
            }
            return Some(waiter.waiter);
        }
    }

    /// One that waits no longer; `None` if it does not wait.
    pub(crate) fn remove(&mut self, key: &K, ticket: u64) -> Option<W> {
        let flow = self.flows.get_mut(key)?;
        let place = flow.waiters.iter().position(|one| one.ticket == ticket)?;
        let waiter = flow.waiters.remove(place)?;
        self.waiting -= 1;
        if flow.waiters.is_empty() {
            self.flows.remove(key);
            self.turns.retain(|other| other != key);
        }
        Some(waiter.waiter)
    }

    /// Counts what one of a flow has moved beyond what was known of it.
    pub(crate) fn charge(&mut self, key: &K, bytes: u64) {
        if let Some(flow) = self.flows.get_mut(key) {
            let bytes = bytes.min(*COST.end()) as i64;
            flow.deficit = (flow.deficit - bytes).max(-(*COST.end() as i64));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const KIB: u64 = 1 << 10;

    fn drain(fair: &mut Fair<u8, (u8, u64)>, turns: usize) -> BTreeMap<u8, u64> {
        let mut moved = BTreeMap::new();
        for _ in 0..turns {
            let (key, cost) = fair.pop().unwrap();
            *moved.entry(key).or_default() += cost;
        }
        moved
    }

    #[test]
    fn one_flow_is_first_in_first_out() {
        let mut fair = Fair::new(10);
        for i in 0..5 {
            assert_eq!(fair.push('a', 300 * KIB, i), Entry::Waits(i + 1));
        }
        let order: Vec<u64> = std::iter::from_fn(|| fair.pop()).collect();
        assert_eq!(order, [0, 1, 2, 3, 4]);
        assert_eq!(
            (fair.waiting(), fair.flows.len(), fair.turns.len()),
            (0, 0, 0)
        );
    }

    #[test]
    fn flows_move_as_many_bytes_however_large_their_requests_are() {
        let mut fair = Fair::new(1_000);
        for _ in 0..20 {
            fair.push(0, 512 * KIB, (0, 512 * KIB));
        }
        for _ in 0..500 {
            fair.push(1, 16 * KIB, (1, 16 * KIB));
        }
        let moved = drain(&mut fair, 330);
        let apart = moved[&0].abs_diff(moved[&1]);
        assert!(apart <= 512 * KIB + QUANTUM as u64, "{moved:?}");
    }

    #[test]
    fn one_who_comes_late_is_served_in_the_next_round() {
        let mut fair = Fair::new(1_000);
        for _ in 0..100 {
            fair.push(0, 64 * KIB, (0, 64 * KIB));
        }
        drain(&mut fair, 10);
        fair.push(1, KIB, (1, KIB));
        let moved = drain(&mut fair, 3);
        assert!(moved.contains_key(&1), "{moved:?}");
    }

    #[test]
    fn what_turns_out_to_be_more_is_paid_back() {
        let mut fair = Fair::new(1_000);
        for key in [0, 1] {
            for _ in 0..200 {
                fair.push(key, KIB, (key, KIB));
            }
        }
        // Each answer of flow 0 has 63 KiB more than was known.
        let mut served = BTreeMap::<u8, u64>::new();
        for _ in 0..130 {
            let (key, _) = fair.pop().unwrap();
            *served.entry(key).or_default() += 1;
            if key == 0 {
                fair.charge(&0, 63 * KIB);
            }
        }
        assert!(served[&1] > 20 * served[&0], "{served:?}");
        fair.charge(&9, KIB);
    }

    #[test]
    fn no_debt_is_paid_for_more_than_sixteen_rounds() {
        let mut fair = Fair::new(4_000);
        fair.push(0, KIB, 0);
        for _ in 0..3_000 {
            fair.push(1, KIB, 1);
        }
        for _ in 0..100 {
            fair.charge(&0, 1 << 20);
        }
        let others = std::iter::from_fn(|| fair.pop()).take_while(|key| *key == 1);
        assert!((16 * 64..=18 * 64).contains(&others.count()));
    }

    #[test]
    fn requests_of_nothing_use_their_turn_up_too() {
        let mut fair = Fair::new(1_000);
        for key in [0, 1] {
            for _ in 0..200 {
                fair.push(key, 0, (key, 1));
            }
        }
        let moved = drain(&mut fair, 128);
        assert_eq!((moved[&0], moved[&1]), (64, 64));
    }

    #[test]
    fn a_flow_gives_way_to_none_that_would_be_as_long() {
        let mut fair = Fair::new(3);
        for i in 0..3 {
            fair.push('a', KIB, i);
        }
        assert_eq!(fair.push('b', KIB, 3), Entry::Instead(4, 2));
        assert_eq!(fair.push('b', KIB, 4), Entry::Full);
    }

    #[test]
    fn the_longest_flow_gives_way_to_a_shorter_one() {
        let mut fair = Fair::new(4);
        for i in 0..4 {
            fair.push('a', KIB, i);
        }
        assert_eq!(fair.push('a', KIB, 9), Entry::Full);
        assert_eq!(fair.push('b', KIB, 10), Entry::Instead(5, 3));
        assert_eq!(fair.push('b', KIB, 11), Entry::Instead(6, 2));
        assert_eq!(fair.push('b', KIB, 12), Entry::Full);
        // Both are as long: one of them.
        let third = fair.push('c', KIB, 13);
        assert!(matches!(third, Entry::Instead(7, 1 | 11)), "{third:?}");
        assert_eq!(fair.waiting(), 4);
    }

    #[test]
    fn one_that_gives_up_is_passed_over() {
        let mut fair = Fair::new(4);
        fair.push('a', KIB, 0);
        fair.push('a', KIB, 1);
        assert_eq!(fair.remove(&'a', 1), Some(0));
        assert_eq!(fair.remove(&'a', 1), None);
        assert_eq!(fair.remove(&'b', 2), None);
        assert_eq!(fair.pop(), Some(1));
        assert_eq!(fair.pop(), None);
        fair.push('a', KIB, 2);
        assert_eq!(fair.remove(&'a', 3), Some(2));
        assert_eq!((fair.flows.len(), fair.turns.len()), (0, 0));
    }

    proptest! {
        /// Whoever came in leaves once: next, removed or pushed out; and there are never more than there may be.
        #[test]
        fn nobody_is_lost(ops in prop::collection::vec((0..4u8, 0..4u8, 0..2_000u64), 1..200)) {
            let mut fair = Fair::new(8);
            let mut inside = BTreeMap::new();
            for (id, (op, key, kib)) in ops.into_iter().enumerate() {
                match op {
                    0 | 1 => match fair.push(key, kib * KIB, id) {
                        Entry::Waits(ticket) => drop(inside.insert(id, (key, ticket))),
                        Entry::Instead(ticket, gone) => {
                            prop_assert!(inside.remove(&gone).is_some());
                            inside.insert(id, (key, ticket));
                        }
                        Entry::Full => prop_assert_eq!(inside.len(), 8),
                    },
                    2 => match fair.pop() {
                        Some(id) => prop_assert!(inside.remove(&id).is_some()),
                        None => prop_assert!(inside.is_empty()),
                    },
                    _ => {
                        fair.charge(&key, kib * KIB);
                        if let Some((&id, &(key, ticket))) = inside.iter().next() {
                            prop_assert_eq!(fair.remove(&key, ticket), Some(id));
                            inside.remove(&id);
                        }
                    }
                }
                prop_assert_eq!(fair.waiting(), inside.len());
                prop_assert!(fair.waiting() <= 8);
            }
            while let Some(id) = fair.pop() {
                prop_assert!(inside.remove(&id).is_some());
            }
            prop_assert!(inside.is_empty());
        }
    }
}
