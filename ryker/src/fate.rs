//! How an actor ended, for whoever waits for that.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::actor::ActorExit;
use crate::contain::wake;
use crate::sync::Lock;

/// Open until the actor has ended for good.
#[derive(Debug)]
pub(crate) struct Fate(Lock<State>);

#[derive(Debug, Default)]
struct State {
    exit: Option<Arc<ActorExit>>,
    /// Most have none.
    waiting: Option<Box<Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    wakers: BTreeMap<u64, Waker>,
}

impl Default for Fate {
    fn default() -> Self {
        Self(Lock::new(State::default()))
    }
}

impl Fate {
    /// Whether this was the exit: the first one stands.
    pub(crate) fn seal(&self, exit: ActorExit) -> bool {
        let exit = Arc::new(exit);
        let waiting = {
            let mut state = self.0.lock();
            if state.exit.is_some() {
                return false;
            }
            state.exit = Some(exit);
            state.waiting.take()
        };
        let wakers = waiting.map(|waiting| waiting.wakers).unwrap_or_default();
        wakers.into_values().for_each(wake);
        true
    }

    pub(crate) fn is_sealed(&self) -> bool {
        self.0.lock().exit.is_some()
    }

    pub(crate) fn exit(&self) -> Option<ActorExit> {
        let exit = self.0.lock().exit.clone();
        exit.map(|exit| (*exit).clone())
    }

    pub(crate) fn wait(&self) -> Wait<'_> {
        Wait {
            fate: self,
            place: None,
        }
    }
}

/// Ends when the fate is sealed.
pub(crate) struct Wait<'a> {
    fate: &'a Fate,
    place: Option<u64>,
}

impl Future for Wait<'_> {
    type Output = ActorExit;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<ActorExit> {
        if let Some(exit) = self.fate.exit() {
            return Poll::Ready(exit);
        }
        let waker = cx.waker().clone();
        let mut state = self.fate.0.lock();
        if state.exit.is_some() {
            drop(state);
            return self.poll(cx);
        }
        let waiting = state.waiting.get_or_insert_with(Box::default);
        let place = self.place.unwrap_or(waiting.next);
        waiting.next = waiting.next.max(place + 1);
        let old = waiting.wakers.insert(place, waker);
        drop(state);
        drop(old);
        self.place = Some(place);
        Poll::Pending
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            let mut state = self.fate.0.lock();
            let waker = state
                .waiting
                .as_mut()
                .and_then(|waiting| waiting.wakers.remove(&place));
            drop(state);
            drop(waker);
        }
    }
}
