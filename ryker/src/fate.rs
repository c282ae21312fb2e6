//! How an actor ended, for whoever waits for that.

use std::task::{Context, Poll, Waker};

use crate::actor::ActorExit;
use crate::sync::Lock;

/// Open until the actor has ended for good.
#[derive(Debug)]
pub(crate) struct Fate(Lock<State>);

#[derive(Debug, Default)]
struct State {
    exit: Option<Box<ActorExit>>,
    /// Boxed, as most have none.
    waiting: Option<Box<Vec<Waker>>>,
}

impl Default for Fate {
    fn default() -> Self {
        Self(Lock::new(State::default()))
    }
}

impl Fate {
    /// The first exit stands.
    pub(crate) fn seal(&self, exit: ActorExit) {
        let exit = Box::new(exit);
        let mut surplus = None;
        let waiting = {
            let mut state = self.0.lock();
            if state.exit.is_none() {
                state.exit = Some(exit);
            } else {
                surplus = Some(exit);
            }
            std::mem::take(&mut state.waiting)
        };
        drop(surplus);
        for waker in waiting.into_iter().flat_map(|waiting| *waiting) {
            waker.wake();
        }
    }

    pub(crate) fn is_sealed(&self) -> bool {
        self.0.lock().exit.is_some()
    }

    pub(crate) fn exit(&self) -> Option<ActorExit> {
        // The clone allocates nothing: causes are shared.
        self.0.lock().exit.as_deref().cloned()
    }

    pub(crate) fn poll_exit(&self, cx: &mut Context<'_>) -> Poll<ActorExit> {
        let waker = cx.waker().clone();
        let mut state = self.0.lock();
        if let Some(exit) = state.exit.as_deref() {
            let exit = exit.clone();
            drop(state);
            drop(waker);
            return Poll::Ready(exit);
        }
        // One entry per task that waits: a task that is polled again replaces its own.
        let waiting = state.waiting.get_or_insert_with(Box::default);
        let own = waiting.iter_mut().find(|w| w.will_wake(&waker));
        let old = match own {
            Some(own) => Some(std::mem::replace(own, waker)),
            None => {
                waiting.push(waker);
                None
            }
        };
        drop(state);
        drop(old);
        Poll::Pending
    }
}
