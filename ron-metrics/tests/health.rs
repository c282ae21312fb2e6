//! Readiness says what is, with the hysteresis that was promised, and the exceptions to it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use ron_metrics::{Clock, Condition, HealthState, Liveness, Metrics, State, Status};

/// A clock that moves when told to.
#[derive(Clone, Default)]
struct Hand(Arc<Mutex<Duration>>);

impl Hand {
    fn pass(&self, milliseconds: u64) {
        *self.0.lock().unwrap() += Duration::from_millis(milliseconds);
    }
}

impl Clock for Hand {
    fn monotonic(&self) -> Duration {
        *self.0.lock().unwrap()
    }
    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.monotonic()
    }
}

fn started() -> (HealthState, Hand) {
    let hand = Hand::default();
    let health = HealthState::with_clock(hand.clone());
    health.require("boot");
    health.satisfy("boot");
    assert_eq!(health.snapshot().state(), State::Ready);
    (health, hand)
}

fn at(milliseconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds)
}

#[test]
fn nothing_registered_is_not_ready_however_long_it_lasts() {
    let hand = Hand::default();
    let health = HealthState::with_clock(hand.clone());
    hand.pass(1_000_000);
    assert_eq!(health.snapshot().state(), State::NotReady);
    health.forget("what was never there");
    health.require("boot");
    health.forget("boot");
    hand.pass(1_000_000);
    assert!(!health.ready());
}

#[test]
fn start_up_ends_the_moment_nothing_is_missing() {
    let hand = Hand::default();
    let health = HealthState::with_clock(hand.clone());
    health.require("bus");
    health.require("config");
    health.set("store", Condition::not_ready("replaying"));
    hand.pass(10);
    health.satisfy("config");
    assert_eq!(health.snapshot().missing().collect::<Vec<_>>(), ["bus"]);
    health.satisfy("bus");
    assert!(!health.ready(), "the store is not there yet");
    health.clear("store");
    assert_eq!(health.snapshot().state(), State::Ready);
    assert_eq!(health.snapshot().since(), at(10));
}

#[test]
fn start_up_may_end_degraded() {
    let (health, _) = (HealthState::with_clock(Hand::default()), ());
    health.set("ledger", Condition::degraded("brownout"));
    assert_eq!(health.snapshot().state(), State::Degraded);
    assert!(health.ready());
}

#[test]
fn trouble_shows_after_one_second_and_health_after_five() {
    for (condition, state) in [
        (Condition::degraded("lag"), State::Degraded),
        (Condition::not_ready("queue 81 %"), State::NotReady),
    ] {
        let (health, hand) = started();
        hand.pass(10_000);
        health.set("key", condition);
        hand.pass(999);
        assert_eq!(health.snapshot().state(), State::Ready);
        hand.pass(1);
        assert_eq!(health.snapshot().state(), state);
        assert_eq!(health.snapshot().since(), at(11_000));

        health.clear("key");
        hand.pass(4_999);
        assert_eq!(health.snapshot().state(), state);
        hand.pass(1);
        assert_eq!(health.snapshot().state(), State::Ready);
        assert_eq!(health.snapshot().since(), at(16_000));
    }
}

#[test]
fn a_blip_in_either_direction_stays_invisible() {
    let (health, hand) = started();
    for _ in 0..20 {
        health.set("key", Condition::not_ready("blip"));
        hand.pass(900);
        health.clear("key");
        hand.pass(900);
        assert_eq!(health.snapshot().state(), State::Ready);
    }
    health.set("key", Condition::not_ready("for good"));
    hand.pass(1_000);
    for _ in 0..20 {
        assert_eq!(health.snapshot().state(), State::NotReady);
        health.clear("key");
        hand.pass(4_900);
        assert_eq!(health.snapshot().state(), State::NotReady);
        health.set("key", Condition::not_ready("again"));
        hand.pass(100);
    }
}

#[test]
fn two_troubles_that_relieve_each_other_are_one_trouble() {
    let (health, hand) = started();
    health.set("a", Condition::not_ready("a"));
    hand.pass(600);
    health.set("b", Condition::not_ready("b"));
    health.clear("a");
    hand.pass(600);
    assert_eq!(health.snapshot().state(), State::NotReady);
}

#[test]
fn the_worst_condition_decides_and_recovery_goes_level_by_level() {
    let (health, hand) = started();
    health.set("lag", Condition::degraded("lag"));
    health.set("store", Condition::not_ready("store"));
    hand.pass(1_000);
    assert_eq!(health.snapshot().state(), State::NotReady);
    health.clear("store");
    hand.pass(5_000);
    assert_eq!(health.snapshot().state(), State::Degraded);
    health.clear("lag");
    hand.pass(5_000);
    assert_eq!(health.snapshot().state(), State::Ready);
}

#[test]
fn fail_secure_is_immediate_and_closes_reads() {
    let (health, hand) = started();
    health.set("keyring", Condition::fail_secure("unreadable"));
    let snapshot = health.snapshot();
    assert_eq!(
        (snapshot.state(), snapshot.fail_secure()),
        (State::NotReady, true)
    );
    health.clear("keyring");
    hand.pass(4_999);
    assert!(
        health.snapshot().fail_secure(),
        "it does not reopen on a flicker"
    );
    hand.pass(1);
    let snapshot = health.snapshot();
    assert_eq!(
        (snapshot.state(), snapshot.fail_secure()),
        (State::Ready, false)
    );
}

#[test]
fn draining_is_immediate_and_final() {
    let (health, hand) = started();
    health.draining();
    assert_eq!(health.snapshot().state(), State::Draining);
    assert_eq!(health.next_deadline(), None);
    health.satisfy("boot");
    health.clear("boot");
    hand.pass(100_000);
    assert_eq!(health.snapshot().state(), State::Draining);
    assert!(!health.ready());
}

#[test]
fn what_is_required_later_counts_after_a_second() {
    let (health, hand) = started();
    health.require("late");
    assert!(health.ready());
    assert_eq!(health.snapshot().missing().collect::<Vec<_>>(), ["late"]);
    hand.pass(1_000);
    assert!(!health.ready());
    health.forget("late");
    hand.pass(5_000);
    assert!(health.ready());
}

#[test]
fn a_latch_dropped_unopened_keeps_the_door_shut_and_says_so() {
    let health = HealthState::with_clock(Hand::default());
    let (config, bus) = (health.latch("config"), health.latch("bus"));
    config.open();
    drop(bus);
    let snapshot = health.snapshot();
    assert_eq!(snapshot.state(), State::NotReady);
    assert_eq!(snapshot.missing().collect::<Vec<_>>(), ["bus"]);
    let cause = snapshot.causes().next().unwrap();
    assert_eq!(
        (cause.key.as_str(), cause.reason.as_str()),
        ("bus", "dropped before it happened")
    );
}

#[test]
fn a_latch_can_be_dropped_late_without_harm_once_its_key_is_forgotten() {
    let health = HealthState::with_clock(Hand::default());
    health.require("boot");
    let latch = health.latch("cancelled");
    health.forget("cancelled");
    drop(latch);
    health.satisfy("boot");
    assert!(health.ready());
    assert_eq!(health.snapshot().causes().count(), 0);
}

#[test]
fn causes_keep_their_since_while_the_status_stays() {
    let (health, hand) = started();
    health.set("lag", Condition::degraded("10 behind"));
    hand.pass(500);
    health.set("lag", Condition::degraded("20 behind"));
    let snapshot = health.snapshot();
    let cause = snapshot.causes().next().unwrap();
    assert_eq!((cause.reason.as_str(), cause.since), ("20 behind", at(0)));
    health.set("lag", Condition::not_ready("gave up"));
    let snapshot = health.snapshot();
    let cause = snapshot.causes().next().unwrap();
    assert_eq!((cause.status, cause.since), (Status::NotReady, at(500)));
}

#[test]
fn while_recovery_is_held_the_cleared_cause_still_stands() {
    let (health, hand) = started();
    health.set("blip", Condition::degraded("never showed"));
    health.clear("blip");
    assert_eq!(health.snapshot().causes().count(), 0);

    health.set("store", Condition::not_ready("disk full"));
    hand.pass(1_000);
    health.clear("store");
    let snapshot = health.snapshot();
    let reasons: Vec<&str> = snapshot
        .causes()
        .map(|cause| cause.reason.as_str())
        .collect();
    assert_eq!(reasons, ["disk full (cleared; held for 5 s)"]);
    hand.pass(5_000);
    assert_eq!(health.snapshot().causes().count(), 0);
}

#[test]
fn causes_are_listed_worst_first() {
    let (health, _) = started();
    health.set("b", Condition::degraded("b"));
    health.set("z", Condition::fail_secure("z"));
    health.set("a", Condition::degraded("a"));
    health.set("m", Condition::not_ready("m"));
    let snapshot = health.snapshot();
    let keys: Vec<&str> = snapshot.causes().map(|cause| cause.key.as_str()).collect();
    assert_eq!(keys, ["z", "m", "a", "b"]);
}

#[test]
fn a_watcher_is_woken_and_sees_every_change_once_with_its_own_time() {
    let (health, hand) = started();
    let wakes = Arc::new(AtomicUsize::new(0));
    let counter = wakes.clone();
    let watch = health.watch(move || {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    health.set("key", Condition::not_ready("trouble"));
    assert_eq!(wakes.load(Ordering::Relaxed), 1, "there is a deadline now");
    assert_eq!(health.next_deadline(), Some(Duration::from_secs(1)));
    assert!(watch.transitions().is_empty());

    // Nobody looks until long after both changes are due.
    hand.pass(3_000);
    health.clear("key");
    hand.pass(60_000);
    let seen: Vec<_> = watch
        .transitions()
        .into_iter()
        .map(|change| (change.from, change.to, change.at, change.elapsed))
        .collect();
    let expected = [
        (
            State::Ready,
            State::NotReady,
            at(1_000),
            Duration::from_secs(1),
        ),
        (
            State::NotReady,
            State::Ready,
            at(8_000),
            Duration::from_secs(8),
        ),
    ];
    assert_eq!(seen, expected);
    assert!(watch.transitions().is_empty());

    let before = wakes.load(Ordering::Relaxed);
    drop(watch);
    health.draining();
    assert_eq!(wakes.load(Ordering::Relaxed), before);
}

#[test]
fn a_watcher_that_never_looks_keeps_the_last_64_changes() {
    let (health, hand) = started();
    let watch = health.watch(|| {});
    for _ in 0..50 {
        health.set("key", Condition::degraded("again"));
        hand.pass(1_000);
        health.clear("key");
        hand.pass(5_000);
    }
    let seen: Vec<u64> = watch
        .transitions()
        .iter()
        .map(|change| change.seq)
        .collect();
    // One for the start, a hundred for the fifty rounds.
    assert_eq!(seen, (38..=101).collect::<Vec<u64>>());
}

#[test]
fn step_takes_the_time_as_an_argument_and_never_goes_back() {
    let (health, _) = started();
    health.set("key", Condition::not_ready("trouble"));
    health.step(Duration::from_secs(1));
    assert!(!health.ready());
    health.clear("key");
    health.step(Duration::from_millis(5_999));
    assert!(!health.ready());
    health.step(Duration::from_secs(6));
    assert!(health.ready());
}

#[test]
fn liveness_fails_when_the_last_beat_is_older_than_ten_seconds() {
    let (health, hand) = started();
    hand.pass(60_000);
    assert_eq!(health.liveness(), Liveness::Ok, "nobody ever reported");
    health.beat();
    hand.pass(10_000);
    assert_eq!(health.liveness(), Liveness::Ok);
    hand.pass(1);
    assert_eq!(health.liveness(), Liveness::Stalled { since: at(60_000) });
    health.beat();
    assert_eq!(health.liveness(), Liveness::Ok);
}

#[test]
fn health_ready_is_what_readyz_answers() {
    let hand = Hand::default();
    let health = HealthState::with_clock(hand.clone());
    let metrics = Metrics::with_health("test", health.clone()).unwrap();
    let shown = |value: u8| {
        let text = metrics.render(Default::default());
        assert!(text.contains(&format!("\nhealth_ready {value}\n")));
    };
    shown(0);
    health.require("boot");
    health.satisfy("boot");
    shown(1);
    health.set("lag", Condition::degraded("lag"));
    hand.pass(1_000);
    shown(1);
    health.draining();
    shown(0);
}
