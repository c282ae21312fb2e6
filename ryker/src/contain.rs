//! Calls of foreign code whose panics must go no further.

use std::any::Any;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::task::Waker;

/// What `f` returns, or `None` if it panicked. What was thrown is forgotten: its destructor may throw again.
pub(crate) fn contain<R>(f: impl FnOnce() -> R) -> Option<R> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => Some(result),
        Err(thrown) => {
            std::mem::forget(thrown);
            None
        }
    }
}

/// Wakes, whatever the waker does.
pub(crate) fn wake(waker: Waker) {
    let _ = contain(|| waker.wake());
}

/// What a panic said.
pub(crate) fn text_of(thrown: Box<dyn Any + Send>) -> String {
    let text = if let Some(text) = thrown.downcast_ref::<&'static str>() {
        (*text).to_owned()
    } else if let Some(text) = thrown.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a text".to_owned()
    };
    let _ = contain(|| drop(thrown));
    text
}
