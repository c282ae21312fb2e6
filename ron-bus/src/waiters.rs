//! Publishers that wait for room in the buffers of `Block` readers.

use std::collections::VecDeque;
use std::task::Waker;

/// In the order in which they began to wait. One is notified at a time; whoever is and has no use for it, or is done,
/// notifies the next, so that room anywhere reaches the first one that can use it.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    queue: VecDeque<Waiter>,
    next_ticket: u64,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    /// Gone while it is notified.
    waker: Option<Waker>,
}

impl Waiters {
    /// Waits, or waits on, in its old place. Returns a waker to drop and one to wake, both outside the lock.
    pub(crate) fn wait(
        &mut self,
        ticket: &mut Option<u64>,
        waker: Waker,
    ) -> (Option<Waker>, Option<Waker>) {
        let waiting = ticket.and_then(|ticket| self.place(ticket));
        let Some(place) = waiting else {
            self.next_ticket += 1;
            *ticket = Some(self.next_ticket);
            self.queue.push_back(Waiter {
                ticket: self.next_ticket,
                waker: Some(waker),
            });
            return (None, None);
        };
        let replaced = self.queue[place].waker.replace(waker);
        let next = match replaced {
            Some(_) => None,
            None => self.notify_from(place + 1),
        };
        (replaced, next)
    }

    /// Stops waiting; whoever was notified notifies the next. Returns its own waker to drop outside the lock, and
    /// another to wake there.
    pub(crate) fn leave(&mut self, ticket: u64) -> (Option<Waker>, Option<Waker>) {
        let Some(left) = self
            .place(ticket)
            .and_then(|place| self.queue.remove(place))
        else {
            return (None, None);
        };
        match left.waker {
            Some(waker) => (Some(waker), None),
            None => (None, self.notify()),
        }
    }

    /// There may be room: the first who has not been told is to be woken outside the lock.
    pub(crate) fn notify(&mut self) -> Option<Waker> {
        self.notify_from(0)
    }

    /// There is room for `places` events, or nothing to wait for any more: as many are to be woken outside the lock.
    pub(crate) fn notify_many(&mut self, places: usize) -> Vec<Waker> {
        let waiting = self.queue.iter_mut();
        let wakers = waiting.filter_map(|waiter| waiter.waker.take());
        wakers.take(places).collect()
    }

    fn notify_from(&mut self, place: usize) -> Option<Waker> {
        self.queue
            .iter_mut()
            .skip(place)
            .find_map(|waiter| waiter.waker.take())
    }

    /// Tickets rise along the queue.
    fn place(&self, ticket: u64) -> Option<usize> {
        self.queue
            .binary_search_by_key(&ticket, |waiter| waiter.ticket)
            .ok()
    }
}
