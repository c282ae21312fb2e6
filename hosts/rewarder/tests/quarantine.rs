//! When intents are sent, and when they are kept.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use svc_rewarder::quarantine::{
    Admission, Answered, Change, Moment, Next, NotCleared, Quarantine, Rules, RulesError, State,
    Why,
};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A machine, its time, and how far apart its answers are.
struct Drill {
    machine: Quarantine<u32>,
    now: Moment,
}

impl Drill {
    fn new() -> Drill {
        let machine = Quarantine::new(Rules::default(), Duration::ZERO).unwrap();
        let now = Duration::ZERO;
        Drill { machine, now }
    }

    /// So many answers, a second apart; the change that the last of them brings, and none may come before.
    fn answers(&mut self, count: u32, answered: Answered) -> Option<Change> {
        let mut change = None;
        for _ in 0..count {
            assert_eq!(change, None);
            self.now += ms(1000);
            change = self.machine.observe(self.now, answered);
        }
        change
    }

    fn passes(&mut self, time: Duration, queue_is_low: bool) -> Option<Change> {
        self.now += time;
        self.machine.tick(self.now, queue_is_low)
    }

    fn brown_out(&mut self) {
        assert_eq!(to(self.answers(5, Answered::Not)), Some(State::Brownout));
    }

    fn recover(&mut self) -> Option<Change> {
        assert_eq!(self.answers(600, FAST), None);
        self.passes(Duration::ZERO, true)
    }
}

const FAST: Answered = Answered::After(ms(99));
const SLOW: Answered = Answered::After(ms(251));

fn to(change: Option<Change>) -> Option<State> {
    change.map(|change| change.to)
}

fn why(change: Option<Change>) -> Option<Why> {
    change.map(|change| change.why)
}

#[test]
fn a_brownout_begins_by_each_of_its_rules_and_not_before() {
    // Failures in a row.
    let mut drill = Drill::new();
    for _ in 0..9 {
        assert_eq!(drill.answers(4, Answered::Not), None);
        assert_eq!(drill.answers(8, FAST), None);
    }
    assert_eq!(why(drill.answers(5, Answered::Not)), Some(Why::Failures));

    // More than half of 20 in 30 s.
    let mut drill = Drill::new();
    let mut change = None;
    for at in 1..=20 {
        assert_eq!(change, None, "{at}");
        drill.now += ms(500);
        // Of each four one is answered; of each two would not be more than half.
        let answered = if at % 4 == 0 { FAST } else { Answered::Not };
        change = drill.machine.observe(drill.now, answered);
    }
    assert_eq!(why(change), Some(Why::FailureRate));
    let mut drill = Drill::new();
    for at in 0..2000 {
        drill.now = ms(500) * at;
        let answered = if at % 2 == 0 { FAST } else { Answered::Not };
        let change = drill.machine.observe(drill.now, answered);
        // Half of them, until the p99 of a window is what it is.
        assert_eq!(change.is_some(), drill.now >= ms(600_000), "{at}");
        if let Some(change) = change {
            assert_eq!(change.why, Why::Slow);
            break;
        }
    }

    // The p99 of a window.
    let mut drill = Drill::new();
    assert_eq!(drill.answers(599, SLOW), None);
    assert_eq!(why(drill.answers(1, SLOW)), Some(Why::Slow));
}

#[test]
fn a_p99_is_that_of_the_window_and_of_enough_answers() {
    // One in 150 may be slow, two may not.
    for (slow, expected) in [(1, None), (2, Some(State::Brownout))] {
        let mut drill = Drill::new();
        let mut last = None;
        for at in 0..700 {
            let answered = if at % 150 < slow { SLOW } else { FAST };
            last = last.or(drill.answers(1, answered));
        }
        assert_eq!(to(last), expected, "{slow}");
    }
    // What is exactly the bound is not above it.
    let mut drill = Drill::new();
    assert_eq!(drill.answers(700, Answered::After(ms(250))), None);
    // 19 answers of a window say nothing, 20 do.
    for (count, expected) in [(19, None), (20, Some(State::Brownout))] {
        let mut drill = Drill::new();
        drill.now = ms(600_000);
        assert_eq!(to(drill.answers(count, SLOW)), expected, "{count}");
    }
    // What was slow more than a window ago is forgotten.
    let mut drill = Drill::new();
    assert_eq!(drill.answers(500, SLOW), None);
    drill.now += ms(600_000);
    assert_eq!(drill.answers(30, FAST), None);
}

#[test]
fn a_brownout_ends_after_a_fast_window_with_a_low_queue_and_not_before() {
    let mut drill = Drill::new();
    drill.brown_out();
    assert_eq!(drill.answers(599, FAST), None);
    assert_eq!(drill.passes(ms(999), true), None);
    assert_eq!(drill.passes(ms(1), false), None);
    assert_eq!(why(drill.passes(ms(0), true)), Some(Why::Recovered));
    assert_eq!(drill.machine.state(), State::Draining);

    // One in twenty may be slow, two may not.
    for (slow, expected) in [(1, Some(State::Draining)), (2, None)] {
        let mut drill = Drill::new();
        drill.brown_out();
        for at in 0..600 {
            let answered = if at % 20 < slow {
                Answered::After(ms(100))
            } else {
                FAST
            };
            assert_eq!(drill.answers(1, answered), None);
        }
        assert_eq!(to(drill.passes(Duration::ZERO, true)), expected, "{slow}");
    }
    // Without answers there is no end, and failures do not lead out either.
    let mut drill = Drill::new();
    drill.brown_out();
    assert_eq!(drill.passes(ms(6_000_000), true), None);
    assert_eq!(drill.answers(700, Answered::Not), None);
    assert_eq!(drill.passes(Duration::ZERO, true), None);
}

#[test]
fn in_a_brownout_it_is_probed_and_nothing_is_emitted() {
    let mut drill = Drill::new();
    assert_eq!(drill.machine.admit(1), Admission::Emit);
    assert!(drill.machine.may_emit(&1));
    drill.brown_out();
    // Not even what was under way.
    assert!(!drill.machine.may_emit(&1));
    drill.machine.unsettled(drill.now, &1);
    assert_eq!(drill.machine.admit(2), Admission::Kept);
    drill.now += ms(5000);
    for _ in 0..10 {
        assert_eq!(drill.machine.next(drill.now), Some(Next::Probe));
        assert_eq!(drill.machine.next(drill.now + ms(4999)), None);
        drill.now += ms(5000);
    }
    assert_eq!(drill.machine.pending().collect::<Vec<_>>(), [&1, &2]);
}

#[test]
fn what_was_kept_is_sent_the_oldest_first_and_then_it_emits_again() {
    let mut drill = Drill::new();
    drill.brown_out();
    for run in [3, 1, 2] {
        assert_eq!(drill.machine.admit(run), Admission::Kept);
    }
    assert_eq!(to(drill.recover()), Some(State::Draining));
    // What is new stands behind what is old.
    assert_eq!(drill.machine.admit(4), Admission::Kept);
    for run in [3, 1, 2, 4] {
        assert_eq!(drill.passes(ms(1), true), None);
        assert_eq!(drill.machine.next(drill.now), Some(Next::Emit(run)));
        // One after the other, and again if it is not known what became of it.
        assert_eq!(drill.machine.next(drill.now), None);
        assert!(drill.machine.may_emit(&run));
        drill.machine.unsettled(drill.now, &run);
        assert!(!drill.machine.may_emit(&run));
        assert_eq!(drill.machine.next(drill.now), None);
        drill.now += ms(5000);
        assert_eq!(drill.machine.next(drill.now), Some(Next::Emit(run)));
        drill.machine.settled(&run);
    }
    assert_eq!(why(drill.passes(ms(0), true)), Some(Why::Drained));
    assert_eq!(drill.machine.admit(5), Admission::Emit);
}

#[test]
fn a_ledger_that_fails_while_it_drains_is_left_alone_again() {
    let mut drill = Drill::new();
    drill.brown_out();
    assert_eq!(drill.machine.admit(1), Admission::Kept);
    assert_eq!(to(drill.recover()), Some(State::Draining));
    assert_eq!(drill.machine.next(drill.now), Some(Next::Emit(1)));
    drill.brown_out();
    assert!(!drill.machine.may_emit(&1));
    drill.machine.unsettled(drill.now, &1);
    assert_eq!(drill.machine.pending().len(), 1);
}

#[test]
fn frozen_is_left_by_a_reason_only() {
    for state in State::ALL {
        let mut drill = Drill::new();
        if state != State::Emitting {
            drill.brown_out();
            assert_eq!(drill.machine.admit(1), Admission::Kept);
        }
        if state == State::Draining {
            drill.recover();
        }
        let was_frozen = state == State::Frozen;
        if was_frozen {
            drill.machine.freeze(drill.now, "before");
        }
        assert_eq!(drill.machine.state(), state);
        let change = drill.machine.freeze(drill.now, "conservation");
        assert_eq!(change.is_none(), was_frozen);
        assert_eq!(drill.machine.admit(9), Admission::Frozen);
        assert_eq!(drill.machine.next(drill.now), None);
        assert_eq!(drill.recover(), None);
        assert_eq!(drill.answers(50, Answered::Not), None);
        assert_eq!(
            drill.machine.clear(drill.now, " "),
            Err(NotCleared::NoReason)
        );
        let change = drill.machine.clear(drill.now, "rolled back").unwrap();
        assert_eq!((change.from, change.to), (State::Frozen, State::Draining));
        assert_eq!(change.why, Why::Cleared("rolled back".to_owned()));
        // What was kept is still there, and failures before it was cleared do not count.
        let kept = usize::from(state != State::Emitting);
        assert_eq!(drill.machine.pending().len(), kept);
        assert_eq!(drill.answers(4, Answered::Not), None);
        let again = drill.machine.clear(drill.now, "x");
        assert_eq!(again, Err(NotCleared::NotFrozen));
    }
}

#[test]
fn there_is_room_for_all_that_may_have_to_be_kept() {
    let mut rules = Rules::default();
    rules.pending = 3;
    let mut machine = Quarantine::new(rules, Duration::ZERO).unwrap();
    for run in 1..=3 {
        assert_eq!(machine.admit(run), Admission::Emit);
    }
    assert_eq!(machine.admit(4), Admission::Full);
    machine.settled(&2);
    for run in [1, 3] {
        machine.unsettled(Duration::ZERO, &run);
    }
    assert_eq!(machine.admit(4), Admission::Emit);
    assert_eq!(machine.admit(5), Admission::Full);
}

#[test]
fn rules_that_cannot_be_followed_are_refused() {
    type Change = fn(&mut Rules);
    let cases: [(Change, RulesError); 7] = [
        (|rules| rules.slice = Duration::ZERO, RulesError::Zero),
        (|rules| rules.samples = 0, RulesError::Zero),
        (|rules| rules.pending = 0, RulesError::Zero),
        (|rules| rules.recent = 61, RulesError::Recent),
        (|rules| rules.fast = ms(251), RulesError::Times),
        (|rules| rules.probe = ms(30_000), RulesError::Probes),
        (|rules| rules.slices = 10, RulesError::Probes),
    ];
    for (change, error) in cases {
        let mut rules = Rules::default();
        change(&mut rules);
        assert_eq!(rules.check(), Err(error), "{rules:?}");
    }
    assert_eq!(Rules::default().check(), Ok(()));
}

/// What happens to a machine.
#[derive(Clone, Debug)]
enum Event {
    Pass(u16),
    Answer(Answered),
    /// An answer to each probe that is asked for, for as long as a window.
    Probes(Answered),
    Run,
    Tick(bool),
    Next,
    /// What of those that are out is decided, and whether it is known how.
    Back(u8, bool),
    Interrupt,
    Freeze,
    Clear,
}

fn event() -> impl Strategy<Value = Event> {
    let answered = prop_oneof![
        Just(Answered::Not),
        (0..400_u64).prop_map(|time| Answered::After(ms(time)))
    ];
    prop_oneof![
        3 => (0..20_000_u16).prop_map(Event::Pass),
        6 => answered.clone().prop_map(Event::Answer),
        2 => prop_oneof![Just(FAST), answered].prop_map(Event::Probes),
        6 => Just(Event::Run),
        3 => any::<bool>().prop_map(Event::Tick),
        6 => Just(Event::Next),
        6 => (any::<u8>(), any::<bool>()).prop_map(|(which, known)| Event::Back(which, known)),
        1 => Just(Event::Interrupt),
        1 => Just(Event::Freeze),
        2 => Just(Event::Clear),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever happens: changes are those of the table, nothing is emitted but by these rules, every run that was admitted
    /// is emitted by somebody, kept, or decided, and the kept ones stay in their order.
    #[test]
    fn nothing_is_lost_and_nothing_is_sent_out_of_turn(events in prop::collection::vec(event(), 1..200)) {
        let mut rules = Rules::default();
        (rules.slices, rules.recent, rules.samples, rules.pending) = (12, 2, 5, 8);
        let mut machine = Quarantine::new(rules, Duration::ZERO).unwrap();
        let (mut now, mut run) = (Duration::ZERO, 0_u32);
        let (mut admitted, mut decided) = (BTreeSet::new(), BTreeSet::new());
        let mut out: Vec<u32> = Vec::new();
        let mut state = State::Emitting;
        let mut frozen_by = false;
        for event in events {
            let mut change = None;
            match &event {
                Event::Pass(time) => now += ms((*time).into()),
                Event::Answer(answered) => change = machine.observe(now, *answered),
                Event::Probes(answered) => {
                    for _ in 0..30 {
                        now += rules.probe;
                        if state == State::Brownout && machine.next(now) == Some(Next::Probe) {
                            let change = machine.observe(now, *answered);
                            prop_assert_eq!(change, None);
                        }
                    }
                }
                Event::Run => {
                    run += 1;
                    let before = admitted.len() - decided.len();
                    match machine.admit(run) {
                        Admission::Emit => {
                            prop_assert_eq!(state, State::Emitting);
                            admitted.insert(run);
                            out.push(run);
                        }
                        Admission::Kept => {
                            prop_assert!(matches!(state, State::Brownout | State::Draining));
                            admitted.insert(run);
                        }
                        Admission::Full => prop_assert_eq!(before, rules.pending),
                        Admission::Frozen => prop_assert_eq!(state, State::Frozen),
                    }
                }
                Event::Tick(is_low) => {
                    change = machine.tick(now, *is_low);
                    if let Some(change) = &change {
                        prop_assert!(change.to != State::Draining || *is_low);
                        prop_assert!(change.to != State::Emitting || machine.pending().len() == 0);
                    }
                }
                Event::Next => match machine.next(now) {
                    None => {}
                    Some(Next::Probe) => prop_assert_eq!(state, State::Brownout),
                    Some(Next::Emit(run)) => {
                        prop_assert!(matches!(state, State::Emitting | State::Draining));
                        prop_assert_eq!(machine.pending().next(), Some(&run));
                        prop_assert!(!out.contains(&run));
                        out.push(run);
                    }
                },
                Event::Back(which, known) if !out.is_empty() => {
                    let run = out.swap_remove(usize::from(*which) % out.len());
                    if *known {
                        machine.settled(&run);
                        decided.insert(run);
                    } else {
                        machine.unsettled(now, &run);
                    }
                }
                Event::Back(..) => {}
                Event::Interrupt => {
                    machine.interrupted(now);
                    out.clear();
                }
                Event::Freeze => {
                    change = machine.freeze(now, "x");
                    frozen_by = true;
                }
                Event::Clear => change = machine.clear(now, "y").ok(),
            }
            if let Some(change) = change {
                prop_assert_eq!(change.from, state);
                state = change.to;
                let allowed = match (change.from, state) {
                    (State::Emitting | State::Draining, State::Brownout) => matches!(
                        (change.why, &event),
                        (Why::Slow | Why::Failures | Why::FailureRate, Event::Answer(_))
                    ),
                    (State::Brownout, State::Draining) => change.why == Why::Recovered,
                    (State::Draining, State::Emitting) => change.why == Why::Drained,
                    (from, State::Frozen) => from != State::Frozen && matches!(event, Event::Freeze),
                    (State::Frozen, State::Draining) => matches!(event, Event::Clear),
                    _ => false,
                };
                prop_assert!(allowed, "{:?}", event);
            }
            prop_assert_eq!(machine.state(), state);
            prop_assert!(state != State::Frozen || frozen_by);
            // Kept, or given out, or decided.
            let kept: Vec<u32> = machine.pending().copied().collect();
            let somewhere: BTreeSet<u32> = kept.iter().chain(&out).chain(&decided).copied().collect();
            prop_assert_eq!(&somewhere, &admitted);
            prop_assert!(kept.iter().all(|run| !decided.contains(run)));
            for run in &admitted {
                let may = machine.may_emit(run);
                prop_assert!(!may || out.contains(run));
                prop_assert!(!may || matches!(state, State::Emitting | State::Draining));
            }
        }
    }
}
