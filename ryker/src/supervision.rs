//! When a failed actor is started again, and when no more: arithmetic, with the clock and the dice as arguments.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Tick;
use crate::config::RykerConfig;

/// What the configuration says, as of the failure at hand: a reload is in force at the next one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    pub(crate) base: Duration,
    pub(crate) cap: Duration,
    pub(crate) jitter: bool,
    pub(crate) threshold: u32,
    pub(crate) window: Duration,
}

impl Policy {
    pub(crate) fn of(config: &RykerConfig) -> Self {
        Self {
            base: config.backoff_base(),
            cap: config.backoff_cap(),
            jitter: config.decorrelated_jitter(),
            threshold: config.rapid_fail_threshold(),
            window: config.rapid_fail_window(),
        }
    }
}

/// The failures of one actor.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    /// Those inside the window, oldest first; never more than the threshold.
    recent: VecDeque<Tick>,
    /// The last delay, unless a healthy period has passed since.
    previous: Option<Duration>,
    /// Made at the first failure.
    dice: Option<Dice>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Start again after this long. So many failures are inside the window.
    Restart(Duration, u32),
    /// So many failures were too many.
    GiveUp(u32),
}

impl Failures {
    /// Judges a failure at `now` of an incarnation that ran for `ran`.
    pub(crate) fn judge(&mut self, policy: Policy, now: Tick, ran: Duration) -> Verdict {
        let dice = self.dice.get_or_insert_with(Dice::new).throw();
        self.decide(policy, now, ran, dice)
    }

    /// [`judge`](Self::judge) with 64 random bits.
    ///
    /// A failure is the threshold's when that many, itself included, lie no further back than the window. An
    /// incarnation that ran for the length of the window was healthy, and the delays begin anew.
    ///
    /// The delay is decorrelated jitter ("Exponential Backoff And Jitter", AWS Architecture Blog, 2015): uniform in
    /// `[base, min(cap, 3 * previous)]`. Without jitter it doubles.
    fn decide(&mut self, policy: Policy, now: Tick, ran: Duration, dice: u64) -> Verdict {
        let window = policy.window.as_millis() as u64;
        while self
            .recent
            .front()
            .is_some_and(|then| now.saturating_sub(*then) > window)
        {
            self.recent.pop_front();
        }
        self.recent.push_back(now);
        let failures = self.recent.len() as u32;
        if failures >= policy.threshold {
            return Verdict::GiveUp(failures);
        }
        if ran >= policy.window {
            self.previous = None;
        }
        let delay = match (self.previous, policy.jitter) {
            (None, false) => policy.base,
            (Some(previous), false) => previous.saturating_mul(2),
            (previous, true) => {
                let high = previous.unwrap_or(policy.base).saturating_mul(3);
                uniform(policy.base, high.min(policy.cap), dice)
            }
        };
        let delay = delay.clamp(policy.base, policy.cap.max(policy.base));
        self.previous = Some(delay);
        Verdict::Restart(delay, failures)
    }
}

/// A duration of `low..=high`, in nanoseconds, by `dice`.
fn uniform(low: Duration, high: Duration, dice: u64) -> Duration {
    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let span = nanos(high.saturating_sub(low));
    let share = ((u128::from(span) + 1) * u128::from(dice)) >> 64;
    low + Duration::from_nanos(share as u64)
}

/// Random bits that no other actor has: SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) over a seed from the process's
/// hash keys, which the operating system gave.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        use std::hash::{BuildHasher, Hasher, RandomState};
        // Every `RandomState` has keys of its own.
        Self(RandomState::new().build_hasher().finish())
    }

    fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy {
        base: Duration::from_millis(100),
        cap: Duration::from_secs(5),
        jitter: true,
        threshold: u32::MAX,
        window: Duration::from_secs(10),
    };

    fn delays(policy: Policy, dice: &mut Dice, ran: Duration) -> Vec<Duration> {
        let mut failures = Failures::default();
        let judge = |n: u64| match failures.decide(policy, n * 100_000, ran, dice.throw()) {
            Verdict::Restart(delay, _) => delay,
            Verdict::GiveUp(n) => panic!("gave up after {n}"),
        };
        (1..=60).map(judge).collect()
    }

    #[test]
    fn each_delay_lies_between_the_base_and_three_times_the_one_before() {
        for _ in 0..200 {
            let mut previous = POLICY.base;
            for delay in delays(POLICY, &mut Dice::new(), Duration::ZERO) {
                let high = POLICY.cap.min(3 * previous);
                assert!(
                    POLICY.base <= delay && delay <= high,
                    "{delay:?} after {previous:?}"
                );
                previous = delay;
            }
        }
    }

    #[test]
    fn both_ends_of_the_range_are_reached() {
        let judge = |dice| Failures::default().decide(POLICY, 1, Duration::ZERO, dice);
        assert_eq!(judge(0), Verdict::Restart(POLICY.base, 1));
        assert_eq!(judge(u64::MAX), Verdict::Restart(3 * POLICY.base, 1));
    }

    #[test]
    fn two_actors_that_fail_together_do_not_come_back_together() {
        let first = delays(POLICY, &mut Dice::new(), Duration::ZERO);
        let second = delays(POLICY, &mut Dice::new(), Duration::ZERO);
        let together = first.iter().zip(&second).filter(|(a, b)| a == b).count();
        assert!(
            together < 3,
            "{together} of {} delays are equal",
            first.len()
        );
    }

    #[test]
    fn without_jitter_delays_double_up_to_the_cap() {
        let policy = Policy {
            jitter: false,
            ..POLICY
        };
        let delays = delays(policy, &mut Dice::new(), Duration::ZERO);
        let ms: Vec<u128> = delays.iter().take(8).map(Duration::as_millis).collect();
        assert_eq!(ms, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    }

    #[test]
    fn delays_begin_anew_after_a_healthy_period() {
        let policy = Policy {
            jitter: false,
            ..POLICY
        };
        let healthy = delays(policy, &mut Dice::new(), POLICY.window);
        assert!(healthy.iter().all(|delay| *delay == POLICY.base));
        let nearly = delays(
            policy,
            &mut Dice::new(),
            POLICY.window - Duration::from_millis(1),
        );
        assert!(nearly[1] > POLICY.base);
    }

    #[test]
    fn the_nth_failure_inside_the_window_is_the_last() {
        let policy = Policy {
            threshold: 5,
            ..POLICY
        };
        let run = |gap: u64| {
            let mut failures = Failures::default();
            (1..=100).find(|n| {
                let verdict = failures.decide(policy, n * gap, Duration::ZERO, 0);
                matches!(verdict, Verdict::GiveUp(5))
            })
        };
        assert_eq!(run(1), Some(5));
        // The fifth failure is 4 gaps after the first.
        assert_eq!(run(2_500), Some(5));
        assert_eq!(run(2_501), None);
        let once = Policy {
            threshold: 1,
            ..POLICY
        };
        let verdict = Failures::default().decide(once, 1, Duration::ZERO, 0);
        assert_eq!(verdict, Verdict::GiveUp(1));
    }

    #[test]
    fn a_wider_window_gives_up_sooner() {
        let failures_until_the_end = |window| {
            let policy = Policy {
                threshold: 5,
                window: Duration::from_secs(window),
                ..POLICY
            };
            let mut failures = Failures::default();
            (1..=100).find(|n| {
                let verdict = failures.decide(policy, n * 4_000, Duration::ZERO, 0);
                matches!(verdict, Verdict::GiveUp(_))
            })
        };
        assert_eq!(failures_until_the_end(10), None);
        assert_eq!(failures_until_the_end(16), Some(5));
    }
}
