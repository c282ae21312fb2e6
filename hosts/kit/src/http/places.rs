//! Places among the requests under way. Where all are taken a request waits for a moment, in fair order.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot::{channel, Receiver, Sender};
use tokio::time::timeout;

use super::fair::{Entry, Fair};
use crate::capability::CapId;

/// Longest wait: whoever is refused is told soon.
const WAIT: Duration = Duration::from_millis(40);
/// Who may wait at a time.
const WAITERS: usize = 256;

/// Whose request it is; `None` where everybody is let in.
pub(crate) type Flow = Option<CapId>;

#[derive(Debug)]
pub(crate) struct Places(Mutex<State>);

#[derive(Debug)]
struct State {
    taken: usize,
    limit: usize,
    fair: Fair<Flow, Sender<()>>,
}

impl State {
    /// One place is free, or to be given up: to the next, or to nobody.
    fn hand_on(&mut self) {
        while self.taken <= self.limit {
            let Some(next) = self.fair.pop() else { break };
            if next.send(()).is_ok() {
                return;
            }
        }
        self.taken -= 1;
    }
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    flow: Flow,
    /// Bytes moved beyond those that were known when it was asked for.
    pub(crate) beyond: u64,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// None was free in time.
    Late,
    /// Its flow had more waiting than others.
    PushedOut,
    /// As many wait as may.
    Full,
}

impl Places {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            taken: 0,
            limit,
            fair: Fair::new(WAITERS),
        })))
    }

    /// Another number of places. Those taken beyond it are not given to others.
    pub(crate) fn set_limit(&self, limit: usize) {
        let mut state = self.state();
        state.limit = limit;
        while state.fair.waiting() > 0 && state.taken < state.limit {
            state.taken += 1;
            state.hand_on();
        }
    }

    /// How many are taken, how many there are, and how many wait.
    pub(crate) fn load(&self) -> (usize, usize, usize) {
        let state = self.state();
        (state.taken, state.limit, state.fair.waiting())
    }

    /// A place for a request of `flow` that will move about `cost` bytes, and whether it had to wait. Cancel-safe.
    pub(crate) async fn take(
        self: &Arc<Self>,
        flow: Flow,
        cost: u64,
    ) -> Result<(Place, bool), NoPlace> {
        let place = |places: &Arc<Self>| Place {
            places: Arc::clone(places),
            flow,
            beyond: 0,
        };
        let mut waiting = {
            let mut state = self.state();
            // Nobody waits while one is free.
            if state.taken < state.limit {
                state.taken += 1;
                return Ok((place(self), false));
            }
            let (sender, turn) = channel();
            let (ticket, pushed_out) = match state.fair.push(flow, cost, sender) {
                Entry::Waits(ticket) => (ticket, None),
                Entry::Instead(ticket, gone) => (ticket, Some(gone)),
                Entry::Full => return Err(NoPlace::Full),
            };
            drop(state);
            drop(pushed_out);
            Waiting {
                places: self,
                flow,
                ticket,
                turn,
                is_over: false,
            }
        };
        let outcome = timeout(WAIT, &mut waiting.turn).await;
        match outcome {
            Ok(Ok(())) => {
                waiting.is_over = true;
                Ok((place(self), true))
            }
            Ok(Err(_)) => {
                waiting.is_over = true;
                Err(NoPlace::PushedOut)
            }
            Err(_) => Err(NoPlace::Late),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.places.state();
        if self.beyond > 0 {
            state.fair.charge(&self.flow, self.beyond);
        }
        state.hand_on();
    }
}

/// One that waits; what it was given after it gave up goes to the next.
struct Waiting<'a> {
    places: &'a Arc<Places>,
    flow: Flow,
    ticket: u64,
    turn: Receiver<()>,
    is_over: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let mut state = self.places.state();
        if state.fair.remove(&self.flow, self.ticket).is_none() && self.turn.try_recv().is_ok() {
            state.hand_on();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::pin::{pin, Pin};
    use std::task::Poll;
    use tokio::time::Instant;

    /// Polls once.
    async fn begin<F: std::future::Future>(future: Pin<&mut F>) -> Option<F::Output> {
        let mut future = Some(future);
        poll_fn(move |cx| match future.take().map(|one| one.poll(cx)) {
            Some(Poll::Ready(output)) => Poll::Ready(Some(output)),
            _ => Poll::Ready(None),
        })
        .await
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_place_waits_for_one_and_not_for_long() {
        let places = Places::new(1);
        let (first, waited) = places.take(None, 1).await.unwrap();
        assert!(!waited);
        let began = Instant::now();
        assert_eq!(places.take(None, 1).await.unwrap_err(), NoPlace::Late);
        assert_eq!(began.elapsed().as_millis(), 40);
        assert_eq!(places.load(), (1, 1, 0));
        let mut second = pin!(places.take(None, 1));
        assert!(begin(second.as_mut()).await.is_none());
        assert_eq!(places.load(), (1, 1, 1));
        drop(first);
        let (second, waited) = second.await.unwrap();
        assert!(waited);
        assert_eq!(places.load(), (1, 1, 0));
        drop(second);
        assert_eq!(places.load(), (0, 1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_given_to_one_who_has_gone_goes_to_the_next() {
        let places = Places::new(1);
        let (first, _) = places.take(None, 1).await.unwrap();
        let mut gone = Box::pin(places.take(None, 1));
        let mut next = Box::pin(places.take(None, 1));
        assert!(begin(gone.as_mut()).await.is_none());
        assert!(begin(next.as_mut()).await.is_none());
        // Given, and not yet taken.
        drop(first);
        drop(gone);
        let (place, _) = next.await.unwrap();
        assert_eq!(places.load(), (1, 1, 0));
        drop(place);
        assert_eq!(places.load(), (0, 1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn more_places_are_given_at_once_and_fewer_when_they_are_free() {
        let places = Places::new(1);
        let (first, _) = places.take(None, 1).await.unwrap();
        let mut second = Box::pin(places.take(None, 1));
        let mut third = Box::pin(places.take(None, 1));
        assert!(begin(second.as_mut()).await.is_none());
        assert!(begin(third.as_mut()).await.is_none());
        places.set_limit(3);
        let (second, third) = (second.await.unwrap(), third.await.unwrap());
        places.set_limit(1);
        let mut fourth = Box::pin(places.take(None, 1));
        assert!(begin(fourth.as_mut()).await.is_none());
        drop((first, second));
        assert_eq!(places.load(), (1, 1, 1));
        assert!(begin(fourth.as_mut()).await.is_none());
        drop(third);
        let fourth = fourth.await.unwrap();
        assert_eq!(places.load(), (1, 1, 0));
        drop(fourth);
        assert_eq!(places.load(), (0, 1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_moved_more_than_was_known_comes_later() {
        let other = CapId::random(&mut |bytes: &mut [u8]| {
            bytes.fill(7);
            Ok(())
        });
        let other = other.ok();
        for (beyond, first_is_next) in [(0, true), (1 << 20, false)] {
            let places = Places::new(1);
            let (mut place, _) = places.take(None, 1).await.unwrap();
            let mut same = Box::pin(places.take(None, 1));
            let mut quiet = Box::pin(places.take(other, 1));
            assert!(begin(same.as_mut()).await.is_none());
            assert!(begin(quiet.as_mut()).await.is_none());
            place.beyond = beyond;
            drop(place);
            let same = begin(same.as_mut()).await;
            let quiet = begin(quiet.as_mut()).await;
            let next = (same.is_some(), quiet.is_some());
            assert_eq!(next, (first_is_next, !first_is_next), "{beyond}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flow_that_fills_the_line_gives_way_to_another() {
        let places = Places::new(1);
        let (_first, _) = places.take(None, 1).await.unwrap();
        let mut flood = Vec::new();
        for _ in 0..WAITERS {
            let mut one = Box::pin(places.take(None, 1));
            assert!(begin(one.as_mut()).await.is_none());
            flood.push(one);
        }
        assert_eq!(places.take(None, 1).await.unwrap_err(), NoPlace::Full);
        let other = CapId::random(&mut |bytes: &mut [u8]| {
            bytes.fill(7);
            Ok(())
        });
        let mut quiet = Box::pin(places.take(other.ok(), 1));
        assert!(begin(quiet.as_mut()).await.is_none());
        let last = flood.pop().unwrap();
        assert_eq!(last.await.unwrap_err(), NoPlace::PushedOut);
        assert_eq!(places.load(), (1, 1, WAITERS));
    }
}
