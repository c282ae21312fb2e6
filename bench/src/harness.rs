//! Runs the cases of a group in rotated rounds and prints them as one table.

use crate::distance::Gauge;
use std::fmt::Write;

/// Work that can be compared, measured in the same rounds.
pub struct Group {
    /// What the filter argument is matched against.
    pub name: &'static str,
    title: String,
    measures: Vec<Measure>,
    cases: Vec<Case>,
    /// The cases all others are divided by; the first is meant where a goal names none.
    baselines: Vec<&'static str>,
    differences: Vec<Difference>,
    goals: Vec<(&'static str, &'static str, Goal)>,
    notes: Vec<String>,
    /// Whether the medians are also told as millions per second.
    rates: bool,
}

struct Measure {
    name: &'static str,
    unit: &'static str,
}

struct Case {
    name: &'static str,
    /// One value per measure; NaN where the case has none.
    run: Box<dyn FnMut() -> Vec<f64>>,
}

/// A row made of two others, round by round.
struct Difference {
    name: &'static str,
    minuend: &'static str,
    subtrahend: &'static str,
}

/// What ANCHORS asks of a row.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// The median, in the unit of the row.
    AtMost(f64),
    /// The median ratio to the baseline.
    Ratio(f64),
    /// The median ratio to one of the baselines, where more is better.
    AtLeast(&'static str, f64),
}

/// How one round of one case went.
struct Sample {
    values: Vec<f64>,
    /// The slower of the two probes around it, ns per cache-line round trip.
    probe: f64,
}

impl Group {
    /// An empty group whose ratios are to the case `baseline`.
    pub fn new(name: &'static str, title: impl Into<String>, baseline: &'static str) -> Group {
        Group {
            name,
            title: title.into(),
            measures: Vec::new(),
            cases: Vec::new(),
            baselines: vec![baseline],
            differences: Vec::new(),
            goals: Vec::new(),
            notes: Vec::new(),
            rates: false,
        }
    }

    /// Adds a column of ratios, to the case `baseline`.
    pub fn beside(mut self, baseline: &'static str) -> Group {
        self.baselines.push(baseline);
        self
    }

    /// Adds a value that every case reports; lower is better, unless its unit is of a rate.
    pub fn measure(mut self, name: &'static str, unit: &'static str) -> Group {
        self.measures.push(Measure { name, unit });
        self
    }

    /// Adds a case; `run` returns one value per measure, in their order.
    pub fn case(mut self, name: &'static str, run: impl FnMut() -> Vec<f64> + 'static) -> Group {
        self.cases.push(Case {
            name,
            run: Box::new(run),
        });
        self
    }

    /// Adds a row that is `minuend` less `subtrahend`, in each measure and each round.
    pub fn difference(
        mut self,
        name: &'static str,
        minuend: &'static str,
        subtrahend: &'static str,
    ) -> Group {
        self.differences.push(Difference {
            name,
            minuend,
            subtrahend,
        });
        self
    }

    /// States a goal of one row; it may have several.
    pub fn goal(mut self, measure: &'static str, case: &'static str, goal: Goal) -> Group {
        self.goals.push((measure, case, goal));
        self
    }

    /// Adds a line under the table.
    pub fn note(mut self, note: impl Into<String>) -> Group {
        self.notes.push(note.into());
        self
    }

    /// Adds a line per measure, which must be in ns, that says the medians as millions per second.
    pub fn rates(mut self) -> Group {
        self.rates = true;
        self
    }

    /// Runs `rounds` rounds after one that is thrown away, and returns the table.
    pub fn run(mut self, rounds: usize, gauge: &mut Gauge) -> String {
        self.check();
        let mut samples: Vec<Vec<Sample>> = Vec::new();
        for round in 0..=rounds {
            let mut row: Vec<Option<Sample>> = self.cases.iter().map(|_| None).collect();
            for index in rotation(self.cases.len(), round) {
                let case = &mut self.cases[index];
                let before = gauge.probe();
                let values = (case.run)();
                let probe = before.max(gauge.probe());
                assert_eq!(values.len(), self.measures.len(), "{}", case.name);
                row[index] = Some(Sample { values, probe });
            }
            if round > 0 {
                samples.push(row.into_iter().flatten().collect());
            }
        }
        self.table(&samples, gauge)
    }

    /// A goal or difference that names no row would go unmeasured in silence.
    fn check(&self) {
        let case = |name| self.cases.iter().any(|case| case.name == name);
        let row = |name| case(name) || self.differences.iter().any(|row| row.name == name);
        for baseline in self.baselines.iter().copied() {
            assert!(case(baseline), "no baseline {baseline}");
        }
        for &(measure, name, goal) in &self.goals {
            let measured = self.measures.iter().any(|known| known.name == measure);
            assert!(measured && row(name), "no row {measure} of {name}");
            if let Goal::AtLeast(baseline, _) = goal {
                assert!(self.baselines.contains(&baseline), "no baseline {baseline}");
            }
        }
        for row in &self.differences {
            assert!(case(row.minuend) && case(row.subtrahend), "{}", row.name);
        }
    }

    fn table(&self, samples: &[Vec<Sample>], gauge: &Gauge) -> String {
        let is_near = |row: &&Vec<Sample>| row.iter().all(|sample| gauge.is_near(sample.probe));
        let near: Vec<&Vec<Sample>> = samples.iter().filter(is_near).collect();
        let far = samples.len() - near.len();
        let (kept, mut about) = if near.is_empty() {
            let all = samples.iter().collect();
            (all, format!("rounds: {far}, all far, kept all the same"))
        } else {
            let about = format!("near rounds: {}, far ones dropped: {far}", near.len());
            (near, about)
        };
        let _ = write!(about, "; ratio to {}", self.baselines.join(", and to "));

        let mut out = format!("### {}: {}\n\n{about}\n\n", self.name, self.title);
        let (names, rules) = match &self.baselines[..] {
            [_] => ("ratio".to_owned(), "---:".to_owned()),
            several => {
                let names: Vec<String> = several.iter().map(|name| format!("to {name}")).collect();
                (names.join(" | "), vec!["---:"; several.len()].join("|"))
            }
        };
        let _ = writeln!(
            out,
            "| measure | case | min | median | max | {names} | unit | goal | |"
        );
        let _ = writeln!(out, "|---|---|---:|---:|---:|{rules}|---|---|---|");
        let mut rates = String::new();
        for (column, measure) in self.measures.iter().enumerate() {
            let of = |name: &str| -> Option<Vec<f64>> {
                let index = self.cases.iter().position(|case| case.name == name)?;
                Some(kept.iter().map(|row| row[index].values[column]).collect())
            };
            for case in &self.cases {
                let values = of(case.name).unwrap_or_default();
                let ratio = |to: &&'static str| {
                    let baseline = of(to).unwrap_or_default();
                    (*to, median(&quotients(&values, &baseline)))
                };
                let ratios: Vec<_> = self.baselines.iter().map(ratio).collect();
                self.row(&mut out, measure, case.name, &values, &ratios);
            }
            if self.rates {
                let _ = write!(rates, "\n{} in M/s:", measure.name);
                for case in &self.cases {
                    let median = median(&of(case.name).unwrap_or_default());
                    if !median.is_nan() {
                        let _ = write!(rates, " {} {};", case.name, figure(1e3 / median));
                    }
                }
                rates.pop();
                rates.push_str(".\n");
            }
            for row in &self.differences {
                let (Some(left), Some(right)) = (of(row.minuend), of(row.subtrahend)) else {
                    continue;
                };
                let values: Vec<f64> = left.iter().zip(&right).map(|(l, r)| l - r).collect();
                let none: Vec<_> = self.baselines.iter().map(|to| (*to, f64::NAN)).collect();
                self.row(&mut out, measure, row.name, &values, &none);
            }
        }
        out.push_str(&rates);
        for note in &self.notes {
            let _ = write!(out, "\n{note}\n");
        }
        out
    }

    fn row(
        &self,
        out: &mut String,
        measure: &Measure,
        case: &str,
        values: &[f64],
        ratios: &[(&str, f64)],
    ) {
        if values.iter().all(|value| value.is_nan()) {
            return;
        }
        let of_row = |(m, c, _): &&(_, _, Goal)| *m == measure.name && *c == case;
        let judge = |(_, _, goal): &(_, _, Goal)| goal.judge(median(values), ratios);
        let judged: Vec<(String, bool)> = self.goals.iter().filter(of_row).map(judge).collect();
        let goals: Vec<&str> = judged.iter().map(|(goal, _)| goal.as_str()).collect();
        let verdict = match judged.iter().all(|(_, met)| *met) {
            _ if judged.is_empty() => "",
            true => "met",
            false => "MISSED",
        };
        let ratio = |(_, ratio): &(_, f64)| match ratio.is_nan() {
            true => "-".to_owned(),
            false => format!("{}x", quotient(*ratio)),
        };
        let ratios: Vec<String> = ratios.iter().map(ratio).collect();
        let min = values.iter().copied().fold(f64::INFINITY, f64::min);
        let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let _ = writeln!(
            out,
            "| {} | {case} | {} | {} | {} | {} | {} | {} | {verdict} |",
            measure.name,
            figure(min),
            figure(median(values)),
            figure(max),
            ratios.join(" | "),
            measure.unit,
            goals.join(", "),
        );
    }
}

impl Goal {
    fn judge(self, median: f64, ratios: &[(&str, f64)]) -> (String, bool) {
        let first = ratios.first().map_or(f64::NAN, |(_, ratio)| *ratio);
        match self {
            Goal::AtMost(limit) => (format!("<= {}", figure(limit)), median <= limit),
            Goal::Ratio(limit) => (format!("<= {}x", quotient(limit)), first <= limit),
            Goal::AtLeast(to, limit) => {
                let ratio = ratios.iter().find(|(name, _)| *name == to);
                let met = ratio.is_some_and(|(_, ratio)| *ratio >= limit);
                (format!(">= {}x {to}", quotient(limit)), met)
            }
        }
    }
}

/// The order of the cases in one round: each starts as often as any other.
fn rotation(cases: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..cases).map(move |index| (index + round) % cases)
}

/// Round by round, not of the medians: what slows a round slows both.
fn quotients(values: &[f64], baseline: &[f64]) -> Vec<f64> {
    values.iter().zip(baseline).map(|(v, b)| v / b).collect()
}

/// The middle one, or the mean of the two in the middle; NaN when there is none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|v| !v.is_nan()).collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The smallest value that at least `percent` of all do not exceed.
pub fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or(f64::NAN)
}

/// Three significant digits.
fn figure(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Two decimals, three where two would say little.
fn quotient(ratio: f64) -> String {
    if ratio < 0.1 {
        format!("{ratio:.3}")
    } else {
        format!("{ratio:.2}")
    }
}

/// Mean ns per operation when `threads` threads each call `body(iterations)` at the same time.
pub fn ns_per_op(threads: usize, iterations: u64, body: impl Fn(u64) + Sync) -> f64 {
    let barrier = std::sync::Barrier::new(threads);
    let total: f64 = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    let began = std::time::Instant::now();
                    body(iterations);
                    began.elapsed().as_nanos() as f64
                })
            })
            .collect();
        let elapsed = |thread: std::thread::ScopedJoinHandle<'_, f64>| thread.join();
        running
            .into_iter()
            .map(|thread| elapsed(thread).expect("a measured thread panicked"))
            .sum()
    });
    total / (threads as f64 * iterations as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_or_the_mean_of_two() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[f64::NAN, 7.0]), 7.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn percentile_is_a_value_that_was_measured() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(percentile(&values, 50), 100.0);
        assert_eq!(percentile(&values, 99), 198.0);
        assert_eq!(percentile(&values, 100), 200.0);
        assert_eq!(percentile(&[5.0], 99), 5.0);
        assert!(percentile(&[], 50).is_nan());
    }

    #[test]
    fn every_case_starts_once_in_as_many_rounds_as_there_are_cases() {
        let firsts: Vec<usize> = (0..4).filter_map(|r| rotation(4, r).next()).collect();
        assert_eq!(firsts, [0, 1, 2, 3]);
        for round in 0..9 {
            let mut order: Vec<usize> = rotation(4, round).collect();
            order.sort_unstable();
            assert_eq!(order, [0, 1, 2, 3]);
        }
        assert_eq!(rotation(0, 3).count(), 0);
    }

    #[test]
    fn a_round_that_is_slow_for_all_does_not_move_the_ratio() {
        let slow_third = quotients(&[2.0, 2.0, 20.0], &[4.0, 4.0, 40.0]);
        assert_eq!(median(&slow_third), 0.5);
    }

    #[test]
    fn goals_are_judged_by_median_or_by_ratio() {
        let met = |goal: Goal, median, ratio| goal.judge(median, &[("a", ratio), ("b", 2.0)]).1;
        assert!(met(Goal::AtMost(3.5), 3.5, 9.0));
        assert!(!met(Goal::AtMost(3.5), 3.51, 0.1));
        assert!(met(Goal::Ratio(0.5), 100.0, 0.5));
        assert!(!met(Goal::Ratio(0.5), 0.1, 0.51));
        assert!(!met(Goal::Ratio(0.5), 0.1, f64::NAN));
        assert!(met(Goal::AtLeast("a", 0.5), 0.0, 0.5));
        assert!(!met(Goal::AtLeast("a", 0.5), 9.0, 0.49));
        assert!(!met(Goal::AtLeast("a", 0.5), 9.0, f64::NAN));
        assert!(met(Goal::AtLeast("b", 2.0), 0.0, 0.1));
        assert!(!met(Goal::AtLeast("c", 0.0), 9.0, 9.0));
    }

    #[test]
    fn a_table_drops_far_rounds_and_takes_differences_within_a_round() {
        let group = Group::new("g", "t", "b")
            .measure("time", "ns")
            .case("a", || vec![0.0])
            .case("b", || vec![0.0])
            .difference("a - b", "a", "b")
            .goal("time", "a", Goal::Ratio(2.0))
            .goal("time", "a - b", Goal::AtMost(5.0));
        let round = |a: f64, b: f64, probe: f64| {
            let sample = |value| Sample {
                values: vec![value],
                probe,
            };
            vec![sample(a), sample(b)]
        };
        let rounds = [
            round(20.0, 10.0, 50.0),
            round(22.0, 11.0, 50.0),
            round(900.0, 10.0, 400.0),
        ];
        let table = group.table(&rounds, &Gauge::with_nearest(50.0));
        assert!(
            table.contains("near rounds: 2, far ones dropped: 1"),
            "{table}"
        );
        assert!(
            table.contains("| time | a | 20.0 | 21.0 | 22.0 | 2.00x | ns | <= 2.00x | met |"),
            "{table}"
        );
        assert!(
            table.contains("| time | a - b | 10.0 | 10.5 | 11.0 | - | ns | <= 5.00 | MISSED |"),
            "{table}"
        );
    }

    #[test]
    fn a_row_has_a_ratio_to_each_baseline_and_must_meet_all_of_its_goals() {
        let group = Group::new("g", "t", "b")
            .beside("c")
            .measure("rate", "/s")
            .case("a", || vec![0.0])
            .case("b", || vec![0.0])
            .case("c", || vec![0.0])
            .goal("rate", "a", Goal::AtLeast("b", 1.0))
            .goal("rate", "a", Goal::AtLeast("c", 0.85));
        let sample = |value| Sample {
            values: vec![value],
            probe: 50.0,
        };
        let rounds = [[20.0, 10.0, 25.0].map(sample).into()];
        let table = group.table(&rounds, &Gauge::with_nearest(50.0));
        assert!(table.contains("| max | to b | to c | unit |"), "{table}");
        let row = "| 20.0 | 2.00x | 0.80x | /s | >= 1.00x b, >= 0.85x c | MISSED |";
        assert!(table.contains(row), "{table}");
    }
}
