//! What the actor that is being polled on this thread has left of its deadline.

use std::cell::Cell;

use crate::clock::Tick;

thread_local! {
    static DEADLINE: Cell<Option<Tick>> = const { Cell::new(None) };
}

/// While it lives, asks and waits for room on this thread belong to an actor that has until this deadline.
pub(crate) struct Scope(Option<Tick>);

impl Scope {
    #[inline(always)]
    pub(crate) fn enter(deadline: Tick) -> Self {
        Self(DEADLINE.replace(Some(deadline)))
    }
}

impl Drop for Scope {
    #[inline(always)]
    fn drop(&mut self) {
        DEADLINE.set(self.0);
    }
}

/// The earlier of `own` and the deadline of the actor under way, and whether there is one under way.
#[inline(always)]
pub(crate) fn inherit(own: Option<Tick>) -> (Option<Tick>, bool) {
    match (own, DEADLINE.get()) {
        (own, None) => (own, false),
        (None, outer) => (outer, true),
        (Some(own), Some(outer)) => (Some(own.min(outer)), true),
    }
}
