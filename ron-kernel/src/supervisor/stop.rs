//! The token that tells an incarnation to stop, awaited by tasks and waited for by threads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Tells one incarnation of a child that it should end. Cheap to clone; set once and never unset.
#[derive(Clone, Debug, Default)]
pub struct StopToken {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// false -> true, once. Release in `set` pairs with Acquire in `is_stopping`.
    set: AtomicBool,
    deadline: OnceLock<Instant>,
    tasks: Notify,
    /// Taken between setting and waking, so that a thread between its check and its wait is not missed.
    threads: Mutex<()>,
    thread_wake: Condvar,
}

impl StopToken {
    /// Whether the stop has been requested.
    pub fn is_stopping(&self) -> bool {
        self.shared.set.load(Ordering::Acquire)
    }

    /// Completes once the stop is requested.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the token stays set.
    pub async fn stopping(&self) {
        loop {
            // Registered before the check, so a stop between the two is not lost.
            let notified = self.shared.tasks.notified();
            if self.is_stopping() {
                return;
            }
            notified.await;
        }
    }

    /// Blocks the calling thread until the stop is requested or `timeout` has passed; returns whether it
    /// was requested. For thread children; never call it in async code.
    pub fn wait_stopping(&self, timeout: Duration) -> bool {
        let guard = self
            .shared
            .threads
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .shared
            .thread_wake
            .wait_timeout_while(guard, timeout, |()| !self.is_stopping())
            .unwrap_or_else(PoisonError::into_inner);
        drop(waited);
        self.is_stopping()
    }

    /// When the child will be aborted; `None` until the stop is requested.
    pub fn deadline(&self) -> Option<Instant> {
        self.shared.deadline.get().copied()
    }

    /// Sets the token without waking anybody; [`wake`](Self::wake) must follow. Wakers are foreign code.
    pub(crate) fn set(&self, abort_at: Instant) {
        let _ = self.shared.deadline.set(abort_at);
        self.shared.set.store(true, Ordering::Release);
    }

    pub(crate) fn wake(&self) {
        // A thread between its check and its wait holds this lock; after it nobody can miss the wake.
        drop(
            self.shared
                .threads
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        self.shared.thread_wake.notify_all();
        self.shared.tasks.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stop_wakes_tasks_and_threads_and_carries_its_deadline() {
        let token = StopToken::default();
        assert!(!token.is_stopping() && token.deadline().is_none());
        let task = tokio::spawn({
            let token = token.clone();
            async move { token.stopping().await }
        });
        let thread = std::thread::spawn({
            let token = token.clone();
            move || token.wait_stopping(Duration::from_secs(3600))
        });
        tokio::task::yield_now().await;
        let at = Instant::now() + Duration::from_secs(2);
        token.set(at);
        token.wake();
        task.await.unwrap();
        assert!(thread.join().unwrap());
        assert_eq!(token.deadline(), Some(at));
        token.stopping().await;
    }

    #[test]
    fn waiting_ends_at_the_timeout_when_nobody_stops() {
        assert!(!StopToken::default().wait_stopping(Duration::from_millis(1)));
    }
}
