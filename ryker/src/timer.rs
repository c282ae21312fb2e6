//! A deadline to wait for.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use pin_project_lite::pin_project;
use tokio::time::Sleep;

use crate::clock::{instant_of, Clock, Tick};
use crate::contain::wake;
use crate::deadlines::{Key, Waits};
use crate::sync::Lock;

pin_project! {
    /// Ends when its tick begins; registered when it is first polled, as most deadlines are met.
    #[project = Parts]
    pub(crate) enum Timer {
        // Not polled yet; with the clock that is to call.
        New { tick: Tick, clock: Option<Clock> },
        // Called by the clock.
        Called { call: Call },
        // By tokio's timer: the clock is paused, or was not asked.
        Slept { #[pin] sleep: Sleep },
    }
}

impl Timer {
    /// By `clock`, which needs no executor.
    pub(crate) fn on(clock: &Clock, tick: Tick) -> Self {
        let clock = Some(clock.clone());
        Self::New { tick, clock }
    }

    /// By tokio's timer, which lets the clock rest.
    pub(crate) fn at(tick: Tick) -> Self {
        Self::New { tick, clock: None }
    }
}

impl Future for Timer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if cfg!(loom) {
            return Poll::Pending;
        }
        if let Parts::New { tick, clock } = self.as_mut().project() {
            let tick = *tick;
            let call = clock.take().and_then(|clock| Call::make(clock, tick, cx));
            self.set(match call {
                Some(call) => Self::Called { call },
                None => Self::Slept {
                    sleep: tokio::time::sleep_until(instant_of(tick).into()),
                },
            });
        }
        match self.project() {
            Parts::Slept { sleep } => sleep.poll(cx),
            Parts::Called { call } => call.bell.poll(cx),
            Parts::New { .. } => Poll::Pending,
        }
    }
}

/// A call at a tick, taken back when dropped.
pub(crate) struct Call {
    clock: Clock,
    key: Key,
    bell: Arc<Bell>,
}

/// `None` when it has rung.
struct Bell(Lock<Option<Waker>>);

impl Call {
    fn make(clock: Clock, tick: Tick, cx: &Context<'_>) -> Option<Self> {
        let bell = Arc::new(Bell(Lock::new(Some(cx.waker().clone()))));
        let key = clock.call_at(tick, Arc::clone(&bell) as Arc<dyn Waits>)?;
        Some(Self { clock, key, bell })
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.clock.cancel(self.key);
    }
}

impl Bell {
    fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        match &*self.0.lock() {
            None => return Poll::Ready(()),
            Some(waker) if waker.will_wake(cx.waker()) => return Poll::Pending,
            Some(_) => {}
        }
        let mut waker = cx.waker().clone();
        let mut own = self.0.lock();
        let polled = match &mut *own {
            None => Poll::Ready(()),
            Some(own) => {
                std::mem::swap(own, &mut waker);
                Poll::Pending
            }
        };
        drop(own);
        drop(waker);
        polled
    }
}

impl Waits for Bell {
    fn expire(&self) {
        let waker = self.0.lock().take();
        if let Some(waker) = waker {
            wake(waker);
        }
    }
}
