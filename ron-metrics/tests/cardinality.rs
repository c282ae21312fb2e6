//! A family is bounded, and its totals stay exact whatever leaves it.

use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use ron_metrics::{labels, Counter, Format, Metrics};

labels! {
    struct Id { id }
}

fn id(n: usize) -> Id {
    Id::new(format!("{n:05}"))
}

/// Samples of a family: label value and sample value.
fn series(metrics: &Metrics, sample: &str) -> Vec<(String, f64)> {
    let text = metrics.render(Format::Prometheus);
    text.lines()
        .filter_map(|line| {
            line.strip_prefix(sample)?
                .strip_prefix("{id=\"")?
                .split_once("\"} ")
        })
        .map(|(id, value)| (id.to_string(), value.parse().unwrap()))
        .collect()
}

fn total(metrics: &Metrics, sample: &str) -> f64 {
    series(metrics, sample).iter().map(|(_, value)| value).sum()
}

fn refused(metrics: &Metrics, family: &str) -> Option<u64> {
    let text = metrics.render(Format::Prometheus);
    let prefix = format!("metrics_overflow_total{{family=\"{family}\"}} ");
    text.lines()
        .find_map(|line| line.strip_prefix(&prefix)?.parse().ok())
}

#[test]
fn beyond_the_cap_everything_counts_in_one_overflow_series() {
    let metrics = Metrics::new("test").unwrap();
    let family = metrics.counter_family::<Id>("hits_total", "Hits.").unwrap();
    for n in 0..10_000 {
        family.get(&id(n)).inc();
    }
    assert_eq!(family.len(), 1_000);
    let series = series(&metrics, "hits_total");
    assert_eq!(series.len(), 1_001);
    assert!(series.contains(&("__overflow__".to_string(), 9_000.0)));
    assert_eq!(refused(&metrics, "hits_total"), Some(9_000));

    family.get(&id(0)).inc();
    assert_eq!(
        refused(&metrics, "hits_total"),
        Some(9_000),
        "a series that exists is not refused"
    );
}

#[test]
fn a_cap_of_ones_own_holds_for_every_handle() {
    let metrics = Metrics::new("test").unwrap();
    let family = metrics
        .gauge_family::<Id>("depth", "Depth.")
        .unwrap()
        .with_cap(2);
    for n in 0..5 {
        family.clone().get(&id(n)).set(1);
    }
    assert_eq!(family.len(), 2);
    let none = metrics
        .counter_family::<Id>("none_total", "None.")
        .unwrap()
        .with_cap(0);
    none.get(&id(1)).add(5);
    assert_eq!(
        series(&metrics, "none_total"),
        [("__overflow__".to_string(), 5.0)]
    );
}

#[test]
fn the_reserved_label_values_cannot_forge_a_second_series() {
    let metrics = Metrics::new("test").unwrap();
    let family = metrics
        .counter_family::<Id>("hits_total", "Hits.")
        .unwrap()
        .with_cap(1);
    family.get(&Id::new("__overflow__")).inc();
    family.get(&Id::new("__retired__")).inc();
    family.get(&id(1)).inc();
    family.get(&id(2)).inc();
    family.remove(&id(1));
    let mut found = series(&metrics, "hits_total");
    found.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(
        found,
        [
            ("__overflow__".to_string(), 3.0),
            ("__retired__".to_string(), 1.0)
        ]
    );
}

#[test]
fn what_a_removed_counter_counted_stays_in_the_total() {
    let metrics = Metrics::new("test").unwrap();
    let family = metrics.counter_family::<Id>("hits_total", "Hits.").unwrap();
    let handle = family.get(&id(1));
    handle.add(5);
    assert!(family.remove(&id(1)));
    assert!(!family.remove(&id(1)));
    assert_eq!(
        series(&metrics, "hits_total"),
        [("__retired__".to_string(), 5.0)]
    );

    handle.add(2);
    assert_eq!(
        total(&metrics, "hits_total"),
        7.0,
        "a handle that outlives its series still counts"
    );
    family.get(&id(1)).inc();
    drop(handle);
    let expected = [("00001".to_string(), 1.0), ("__retired__".to_string(), 7.0)];
    assert_eq!(series(&metrics, "hits_total"), expected);
}

#[test]
fn a_removed_gauge_is_gone_with_its_value() {
    let metrics = Metrics::new("test").unwrap();
    let family = metrics.gauge_family::<Id>("depth", "Depth.").unwrap();
    let owned = family.owned(&id(1));
    owned.set(7);
    assert_eq!(series(&metrics, "depth"), [("00001".to_string(), 7.0)]);
    drop(owned);
    assert_eq!(series(&metrics, "depth"), []);
}

#[test]
fn a_removed_histogram_keeps_its_observations() {
    let metrics = Metrics::new("test").unwrap();
    let family = metrics
        .histogram_family::<Id>("wait_seconds", "Wait.", &[1.0])
        .unwrap();
    let owned = family.owned(&id(1));
    owned.observe(0.5);
    owned.observe(2.0);
    drop(owned);
    let text = metrics.render(Format::Prometheus);
    for line in [
        "wait_seconds_sum{id=\"__retired__\"} 2.5\n",
        "wait_seconds_count{id=\"__retired__\"} 2\n",
        "wait_seconds_bucket{le=\"1.0\",id=\"__retired__\"} 1\n",
        "wait_seconds_bucket{le=\"+Inf\",id=\"__retired__\"} 2\n",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    assert!(!text.contains("00001"));
}

#[test]
fn a_series_leaves_with_its_last_owner() {
    let metrics = Metrics::new("test").unwrap();
    let family = metrics.counter_family::<Id>("hits_total", "Hits.").unwrap();
    let old = family.owned(&id(1));
    let new = family.owned(&id(1));
    old.inc();
    drop(old);
    new.inc();
    assert_eq!(series(&metrics, "hits_total"), [("00001".to_string(), 2.0)]);
    drop(new);
    assert!(family.is_empty());

    // An owner whose series was removed and made anew does not take the new one with it.
    let owner = family.owned(&id(2));
    family.remove(&id(2));
    let successor = family.get(&id(2));
    drop(owner);
    successor.inc();
    assert!(series(&metrics, "hits_total").contains(&("00002".to_string(), 1.0)));
}

#[test]
fn a_hundred_thousand_restarts_leak_nothing() {
    let metrics = Metrics::new("test").unwrap();
    let family = metrics.counter_family::<Id>("hits_total", "Hits.").unwrap();
    let before = metrics.render(Format::Prometheus).len();
    for n in 0..100_000 {
        let owned = family.owned(&id(n));
        owned.inc();
        assert!(family.len() <= 1);
    }
    assert!(family.is_empty());
    assert_eq!(
        series(&metrics, "hits_total"),
        [("__retired__".to_string(), 100_000.0)]
    );
    assert!(metrics.render(Format::Prometheus).len() < before + 64);
    assert_eq!(refused(&metrics, "hits_total"), None);
}

#[test]
fn totals_are_exact_while_threads_count_remove_and_scrape() {
    const THREADS: usize = 8;
    const ADDS: usize = 20_000;
    let metrics = Metrics::new("test").unwrap();
    let counters = metrics
        .counter_family::<Id>("hits_total", "Hits.")
        .unwrap()
        .with_cap(16);
    let waits = metrics
        .histogram_family::<Id>("wait_seconds", "Wait.", &[1.0])
        .unwrap()
        .with_cap(16);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (counters, waits) = (counters.clone(), waits.clone());
                scope.spawn(move || {
                    let mut held: Vec<Counter> = Vec::new();
                    for n in 0..ADDS {
                        let labels = id((n * 7 + thread) % 64);
                        match n % 5 {
                            0 => counters.owned(&labels).inc(),
                            1 => held.push(counters.get(&labels)),
                            _ => counters.get(&labels).inc(),
                        }
                        if n % 5 == 1 {
                            held[n % held.len()].inc();
                        }
                        if n % 3 == 0 {
                            counters.remove(&labels);
                        }
                        if n % 101 == 0 {
                            held.clear();
                        }
                        waits.owned(&labels).observe(0.5);
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            let mut last = 0.0;
            while !done.load(Ordering::Relaxed) {
                let now = total(&metrics, "hits_total");
                assert!(now >= last, "the total fell from {last} to {now}");
                last = now;
            }
        });
        let results: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        done.store(true, Ordering::Relaxed);
        results.into_iter().for_each(|result| result.unwrap());
    });
    let expected = (THREADS * ADDS) as f64;
    assert_eq!(total(&metrics, "hits_total"), expected);
    assert_eq!(total(&metrics, "wait_seconds_count"), expected);
    assert_eq!(total(&metrics, "wait_seconds_sum"), expected / 2.0);
    assert!(counters.len() <= 16);
}

#[derive(Clone, Debug)]
enum Step {
    Inc(usize),
    Own(usize),
    Disown(usize),
    Remove(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..8usize).prop_map(Step::Inc),
        (0..8usize).prop_map(Step::Own),
        (0..8usize).prop_map(Step::Disown),
        (0..8usize).prop_map(Step::Remove),
    ];
    proptest::collection::vec(step, 0..200)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens in whatever order: the sum is the number of increments, and the series are those that were
    /// made and not removed.
    #[test]
    fn the_sum_is_always_the_number_of_increments(steps in steps(), cap in 0usize..6) {
        let metrics = Metrics::new("test").unwrap();
        let family = metrics.counter_family::<Id>("hits_total", "Hits.").unwrap().with_cap(cap);
        let mut owners = Vec::new();
        let mut increments = 0.0;
        for step in steps {
            match step {
                Step::Inc(n) => {
                    family.get(&id(n)).inc();
                    increments += 1.0;
                }
                Step::Own(n) => owners.push(family.owned(&id(n))),
                Step::Disown(n) if !owners.is_empty() => {
                    let owner = owners.swap_remove(n % owners.len());
                    owner.inc();
                    increments += 1.0;
                }
                Step::Disown(_) => {}
                Step::Remove(n) => {
                    family.remove(&id(n));
                }
            }
            prop_assert!(family.len() <= cap);
            prop_assert_eq!(total(&metrics, "hits_total"), increments);
        }
    }
}
