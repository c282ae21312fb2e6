//! Polling by hand, and mailboxes to poll.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use ryker::{Accounts, Receiver, Runtime, RykerConfig, Sender};

pub(crate) fn runtime() -> Runtime {
    Runtime::new(RykerConfig::default())
}

pub(crate) fn mailbox<T: Send + 'static>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let built = runtime().mailbox("m").capacity(capacity).build();
    built.unwrap().split()
}

/// A waker that counts.
#[derive(Default)]
pub(crate) struct Bell(AtomicUsize);

impl Bell {
    pub(crate) fn pair() -> (Arc<Self>, Waker) {
        let bell = Arc::new(Self::default());
        let waker = Waker::from(Arc::clone(&bell));
        (bell, waker)
    }

    /// How often it rang since it was last asked.
    pub(crate) fn rings(&self) -> usize {
        self.0.swap(0, Ordering::SeqCst)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// One poll with a waker that nobody hears.
pub(crate) fn poll<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    poll_with(future, &Bell::pair().1)
}

pub(crate) fn poll_with<F: Future + ?Sized>(future: Pin<&mut F>, waker: &Waker) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(waker))
}

/// The law; returns the accounts for a closer look.
#[track_caller]
pub(crate) fn balanced(accounts: Accounts) -> Accounts {
    assert!(accounts.balances(), "{accounts:?}");
    accounts
}
