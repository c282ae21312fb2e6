//! How long to wait before a restart: exponential envelope, uniform jitter.

use std::time::Duration;

/// The delay before restart `n` (counted from 0) is uniform in
/// `[min, min(max, min × 2^(n+1))]`.
///
/// Full jitter above a floor: children that crash together do not come back together, and none comes
/// back sooner than `min`. `Backoff::NONE` restarts at once.
///
/// ```
/// use ron_kernel::supervisor::Backoff;
/// use std::time::Duration;
///
/// let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30))?;
/// assert_eq!(backoff.ceiling(0), Duration::from_millis(200));
/// assert_eq!(backoff.ceiling(20), Duration::from_secs(30));
/// # Ok::<(), ron_kernel::supervisor::PolicyError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    min: Duration,
    max: Duration,
}

/// A restart policy whose numbers contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// `min` is above `max`.
    #[error("backoff min {min:?} is above max {max:?}; min must be at most max")]
    BackoffReversed {
        /// The floor that was asked for.
        min: Duration,
        /// The ceiling that was asked for.
        max: Duration,
    },
    /// A window of zero length holds no restart, so it limits nothing.
    #[error("intensity window is zero; it must be longer than zero")]
    EmptyWindow,
}

impl Backoff {
    /// Restarts without any delay.
    pub const NONE: Backoff = Backoff {
        min: Duration::ZERO,
        max: Duration::ZERO,
    };

    /// A backoff between `min` and `max`.
    ///
    /// # Errors
    ///
    /// [`PolicyError::BackoffReversed`] when `min > max`.
    pub fn new(min: Duration, max: Duration) -> Result<Self, PolicyError> {
        if min > max {
            return Err(PolicyError::BackoffReversed { min, max });
        }
        Ok(Backoff { min, max })
    }

    /// The shortest delay.
    pub fn min(&self) -> Duration {
        self.min
    }

    /// The longest delay.
    pub fn max(&self) -> Duration {
        self.max
    }

    /// The upper end of the delay before restart `attempt`, counted from 0.
    pub fn ceiling(&self, attempt: u32) -> Duration {
        let factor = 1u32
            .checked_shl(attempt.saturating_add(1))
            .unwrap_or(u32::MAX);
        self.min.saturating_mul(factor).min(self.max)
    }

    pub(crate) fn delay(&self, attempt: u32, rng: &mut Rng) -> Duration {
        let spread = self.ceiling(attempt).saturating_sub(self.min);
        self.min + rng.up_to(spread)
    }
}

/// SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
/// Jitter needs no more, and a seed makes every simulated run repeatable.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Rng(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in `[0, limit]` by multiplication; the bias is below 2^-64 of the range.
    fn up_to(&mut self, limit: Duration) -> Duration {
        let nanos = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        let drawn = (u128::from(self.next()) * (u128::from(nanos) + 1)) >> 64;
        Duration::from_nanos(drawn as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{prop_assert, proptest};

    proptest! {
        #[test]
        fn every_delay_lies_inside_its_envelope_and_the_envelope_never_shrinks(
            min in 0u64..10_000, extra in 0u64..100_000, attempt in 0u32..80, seed: u64,
        ) {
            let (min, max) = (Duration::from_millis(min), Duration::from_millis(min + extra));
            let backoff = Backoff::new(min, max).unwrap();
            let delay = backoff.delay(attempt, &mut Rng::new(seed));
            prop_assert!(delay >= min && delay <= backoff.ceiling(attempt) && delay <= max);
            prop_assert!(backoff.ceiling(attempt) <= backoff.ceiling(attempt + 1));
        }
    }

    #[test]
    fn delays_reach_both_ends_of_the_envelope() {
        let backoff = Backoff::new(Duration::from_nanos(1), Duration::from_nanos(4)).unwrap();
        let mut rng = Rng::new(7);
        let mut seen = [false; 5];
        for _ in 0..200 {
            seen[backoff.delay(3, &mut rng).as_nanos() as usize] = true;
        }
        assert_eq!(seen, [false, true, true, true, true]);
    }

    #[test]
    fn a_floor_above_the_ceiling_is_refused() {
        let reversed = Backoff::new(Duration::from_secs(2), Duration::from_secs(1));
        assert!(reversed
            .unwrap_err()
            .to_string()
            .contains("min must be at most max"));
    }
}
