//! A deadline to wait for.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::clock::Tick;

pin_project_lite::pin_project! {
    /// Ends when its tick begins; registered with tokio's timer when it is first polled, as most deadlines are met.
    pub(crate) struct Timer {
        tick: Tick,
        #[pin]
        sleep: Option<tokio::time::Sleep>,
    }
}

impl Timer {
    pub(crate) fn at(tick: Tick) -> Self {
        Self { tick, sleep: None }
    }
}

impl Future for Timer {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if cfg!(loom) {
            return Poll::Pending;
        }
        let mut this = self.project();
        if this.sleep.is_none() {
            let when = crate::clock::instant_of(*this.tick);
            this.sleep.set(Some(tokio::time::sleep_until(when.into())));
        }
        match this.sleep.as_pin_mut() {
            Some(sleep) => sleep.poll(cx),
            None => Poll::Pending,
        }
    }
}
