//! How many restarts are too many: a sliding window, as OTP's `intensity` and `period`.

use super::backoff::PolicyError;
use std::collections::VecDeque;
use std::time::Duration;

/// At most `restarts` restarts in any window of this length; the next failure exhausts the budget.
///
/// The window slides with time and nothing else clears it: a child that runs well for a while and
/// then fails is judged by the restarts that are still inside the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intensity {
    restarts: u32,
    window: Duration,
}

impl Intensity {
    /// 5 restarts in 60 s: what [`Config`](crate::Config) says unless told otherwise.
    pub const DEFAULT: Intensity = Intensity {
        restarts: 5,
        window: Duration::from_secs(60),
    };

    /// Allows `restarts` (0 means the first failure exhausts the budget) in any `window`.
    ///
    /// # Errors
    ///
    /// [`PolicyError::EmptyWindow`] when `window` is zero.
    pub fn new(restarts: u32, window: Duration) -> Result<Self, PolicyError> {
        if window.is_zero() {
            return Err(PolicyError::EmptyWindow);
        }
        Ok(Intensity { restarts, window })
    }

    /// Restarts allowed inside one window.
    pub fn restarts(&self) -> u32 {
        self.restarts
    }

    /// The length of the window.
    pub fn window(&self) -> Duration {
        self.window
    }
}

/// The restarts that still count against an [`Intensity`].
///
/// Times are those at which the replacement started, not those at which it was decided: the promise is
/// about what runs. Holds at most as many entries as the largest intensity it was asked about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Window {
    starts: VecDeque<Duration>,
}

impl Window {
    pub(crate) fn record(&mut self, now: Duration) {
        self.starts.push_back(now);
    }

    /// Restarts in `(now - window, now]`; older ones are forgotten.
    pub(crate) fn count(&mut self, now: Duration, intensity: &Intensity) -> u32 {
        while let Some(first) = self.starts.front() {
            if now.saturating_sub(*first) < intensity.window {
                break;
            }
            self.starts.pop_front();
        }
        u32::try_from(self.starts.len()).unwrap_or(u32::MAX)
    }

    pub(crate) fn peek(&self, now: Duration, intensity: &Intensity) -> u32 {
        // Times only grow, so the old ones stand together at the front.
        let old = self
            .starts
            .partition_point(|start| now.saturating_sub(*start) >= intensity.window);
        u32::try_from(self.starts.len() - old).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_window_counts_what_a_plain_list_counts(
            gaps in prop::collection::vec(0u64..5_000, 1..200), window in 1u64..20_000,
        ) {
            let intensity = Intensity::new(5, Duration::from_millis(window)).unwrap();
            let mut sliding = Window::default();
            let mut all = Vec::new();
            let mut now = 0;
            for gap in gaps {
                now += gap;
                all.push(now);
                let at = Duration::from_millis(now);
                sliding.record(at);
                let naive = all.iter().filter(|t| now - **t < window).count() as u32;
                prop_assert_eq!(sliding.peek(at, &intensity), naive);
                prop_assert_eq!(sliding.count(at, &intensity), naive);
            }
        }
    }

    #[test]
    fn a_restart_leaves_the_window_exactly_when_it_is_one_window_old() {
        let intensity = Intensity::new(1, Duration::from_secs(60)).unwrap();
        let mut window = Window::default();
        window.record(Duration::ZERO);
        assert_eq!(window.count(Duration::from_millis(59_999), &intensity), 1);
        assert_eq!(window.count(Duration::from_secs(60), &intensity), 0);
    }
}
