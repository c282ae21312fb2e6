//! What went wrong last, until a look finds that it is over. No clock, no I/O.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::StoreError;
use crate::object::Address;

/// What failed, as far as a look has to try it again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Trouble {
    /// A text of its own for each kind of failure, for everybody.
    pub(super) what: String,
    /// Bytes of the largest object that found no room on the disk.
    pub(super) size: u64,
    /// The last object that could not be read, and from where on.
    pub(super) unread: Option<(Address, u64)>,
}

/// Failures of the store, in the order in which they are told.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    state: Mutex<State>,
    told: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// How many failures there were.
    failures: u64,
    known: Option<Trouble>,
}

impl Troubles {
    /// Remembers what is the store's own failure, and says whether it is another than the last. Room that was missing and an
    /// object that could not be read stay known beside it.
    pub(super) fn tell(
        &self,
        error: &StoreError,
        size: u64,
        unread: Option<(Address, u64)>,
    ) -> bool {
        let is_room = matches!(error, StoreError::NoSpace(_));
        if !is_room && !matches!(error, StoreError::Unavailable { .. }) {
            return false;
        }
        let what = error.to_string();
        let mut state = self.state();
        state.failures += 1;
        let before = state.known.take().unwrap_or_default();
        let is_new = before.what != what;
        state.known = Some(Trouble {
            what,
            size: before.size.max(if is_room { size } else { 0 }),
            // What hangs is not tried again: that would hang too.
            unread: unread.filter(|_| !error.is_hang()).or(before.unread),
        });
        drop(state);
        if is_new {
            self.told.notify_one();
        }
        is_new
    }

    /// What is known, and how many failures that was made of.
    pub(super) fn known(&self) -> (u64, Option<Trouble>) {
        let state = self.state();
        (state.failures, state.known.clone())
    }

    /// A look that began when there had been so many `failures` has found nothing wrong. What failed since stays, and is
    /// what this gives back.
    pub(super) fn over(&self, failures: u64) -> Result<Option<Trouble>, Trouble> {
        let mut state = self.state();
        match state.known.take() {
            Some(newer) if state.failures > failures => {
                state.known = Some(newer.clone());
                Err(newer)
            }
            known => Ok(known),
        }
    }

    /// Until another failure is told.
    pub(super) async fn told(&self) {
        self.told.notified().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(what: &str) -> StoreError {
        StoreError::unavailable(what, "for a test")
    }

    #[test]
    fn a_look_ends_no_failure_that_is_newer() {
        let troubles = Troubles::default();
        assert!(troubles.tell(&fails("a"), 0, None));
        let (seen, known) = troubles.known();
        assert_eq!(known.unwrap().what, "a");
        // Of the same kind too.
        assert!(!troubles.tell(&fails("a"), 0, None));
        assert_eq!(troubles.over(seen).unwrap_err().what, "a");
        let (seen, _) = troubles.known();
        assert_eq!(troubles.over(seen).unwrap().unwrap().what, "a");
        assert_eq!(troubles.known().1, None);
        assert_eq!(troubles.over(seen), Ok(None));
    }

    #[test]
    fn room_that_is_missing_and_what_cannot_be_read_stay_known_beside_what_follows() {
        let troubles = Troubles::default();
        let unread = Some((Address::of(b"unread"), 9));
        let full = || StoreError::NoSpace(std::io::ErrorKind::StorageFull.into());
        troubles.tell(&full(), 700, None);
        troubles.tell(&full(), 500, None);
        troubles.tell(&fails("reading"), 900, unread);
        assert!(!troubles.tell(&StoreError::Damaged, 0, None));
        let known = troubles.known().1.unwrap();
        let expected = Trouble {
            what: "reading".to_owned(),
            size: 700,
            unread,
        };
        assert_eq!(known, expected);
    }
}
