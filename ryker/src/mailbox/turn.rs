//! When a receiver that always finds a message gives way to others.

use std::num::NonZeroU64;

/// Nanoseconds since some instant.
pub(crate) type Nanos = NonZeroU64;

/// A turn whose second half took less than this goes on. Giving way costs microseconds, as an idle worker is woken and
/// takes tasks away. The first half is not timed, so that a message that comes alone costs
/// no look at the clock, and a turn of slow messages is no longer than they are. Where messages are taken so many at a time
/// that there is no look between, they are counted only.
pub(crate) const SLICE: u64 = 50_000;

/// Messages between two looks at most, so that a reload is followed in the turn under way.
const LOOKS_APART: u32 = 64;

/// The messages that were taken without a wait, and the time that took.
#[derive(Debug)]
pub(crate) struct Turn {
    messages: u32,
    /// Messages until the next look at the time.
    look: u32,
    timed: Option<Nanos>,
}

impl Default for Turn {
    fn default() -> Self {
        Self {
            messages: 0,
            look: 1,
            timed: None,
        }
    }
}

impl Turn {
    /// Others had theirs.
    #[inline]
    pub(crate) fn begin(&mut self) {
        *self = Self::default();
    }

    #[inline(always)]
    pub(crate) fn take(&mut self, messages: u32) {
        self.messages = self.messages.saturating_add(messages);
    }

    /// Whether there is to be a look at whether it [is over](Self::is_over).
    #[inline(always)]
    pub(crate) fn is_due(&self) -> bool {
        self.messages >= self.look
    }

    /// Whether `every` messages were taken and, where there is a clock, the slice has passed.
    pub(crate) fn is_over(&mut self, every: u32, clock: Option<fn() -> Nanos>) -> bool {
        let half = every / 2;
        if self.messages < half {
            self.look_at(half);
            return false;
        }
        let (Some(clock), Some(since)) = (clock, self.timed) else {
            self.timed = clock.map(|now| now());
            self.look_at(every);
            return self.messages >= every;
        };
        if self.messages < every {
            self.look_at(every);
            return false;
        }
        self.look_at(self.messages.saturating_add(every - half));
        clock().get().saturating_sub(since.get()) >= SLICE
    }

    /// When it is due again: no later than another number of `every` may be in force.
    fn look_at(&mut self, messages: u32) {
        self.look = messages.min(self.messages.saturating_add(LOOKS_APART));
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::cell::Cell;

    thread_local! {
        static NOW: Cell<u64> = const { Cell::new(1) };
    }

    fn now() -> Nanos {
        Nanos::new(NOW.get()).expect("time has begun")
    }

    /// Messages of a turn when each takes `micros`; at most a million.
    fn length(every: u32, batch: u32, micros: u64, clock: Option<fn() -> Nanos>) -> u32 {
        let mut turn = Turn::default();
        for messages in (0..1_000_000).step_by(batch as usize) {
            if turn.is_due() && turn.is_over(every, clock) {
                return messages;
            }
            turn.take(batch);
            NOW.set(NOW.get() + micros * 1_000 * u64::from(batch));
        }
        1_000_000
    }

    #[test]
    fn slow_messages_are_counted() {
        for every in [1, 2, 3, 63, 64, 1_000] {
            assert_eq!(length(every, 1, 100, Some(now)), every);
        }
        assert_eq!(length(64, 32, 2, Some(now)), 64);
        assert_eq!(length(64, 64, 2, Some(now)), 64);
    }

    #[test]
    fn fast_messages_go_on_for_a_slice() {
        assert_eq!(length(64, 1, 0, Some(now)), 1_000_000);
        // Timed from the 32nd on, and looked at after every 32.
        assert_eq!(length(64, 1, 1, Some(now)), 96);
        assert_eq!(length(64, 32, 1, Some(now)), 96);
    }

    #[test]
    fn without_a_clock_all_are_counted() {
        for every in [1, 2, 64, 1_000] {
            assert_eq!(length(every, 1, 0, None), every);
        }
        assert_eq!(length(64, 32, 0, None), 64);
        assert_eq!(length(33, 32, 0, None), 64);
    }

    #[test]
    fn a_turn_that_begins_is_counted_anew() {
        let mut turn = Turn::default();
        turn.take(64);
        assert!(turn.is_due() && turn.is_over(64, None));
        turn.begin();
        assert!(!turn.is_over(64, None));
        turn.take(63);
        assert!(!turn.is_due() || !turn.is_over(64, None));
        turn.take(1);
        assert!(turn.is_due() && turn.is_over(64, None));
    }
}
