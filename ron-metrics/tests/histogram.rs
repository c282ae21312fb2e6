//! Histograms put observations where the bounds say, and every scrape adds up.

use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use ron_metrics::{Format, Histogram, Metrics, LATENCY_BUCKETS};

fn buckets(text: &str, name: &str) -> Vec<u64> {
    let prefix = format!("{name}_bucket{{le=");
    text.lines()
        .filter(|line| line.starts_with(&prefix))
        .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
        .collect()
}

fn count(text: &str, name: &str) -> u64 {
    let prefix = format!("{name}_count ");
    let line = text.lines().find_map(|line| line.strip_prefix(&prefix));
    line.unwrap().parse().unwrap()
}

#[test]
fn bounds_are_inclusive_and_buckets_cumulative() {
    let metrics = Metrics::new("test").unwrap();
    let histogram = metrics
        .histogram("size_bytes", "Size.", &[-1.0, 0.0, 10.0])
        .unwrap();
    for value in [-5.0, -1.0, 0.0, 1.0, 10.0, 10.1, f64::INFINITY] {
        histogram.observe(value);
    }
    let text = metrics.render(Format::Prometheus);
    assert_eq!(buckets(&text, "size_bytes"), [2, 3, 5, 7]);
    assert_eq!(count(&text, "size_bytes"), 7);
}

#[test]
fn nan_is_counted_and_does_not_poison_the_sum() {
    let histogram = Histogram::detached(&[1.0]).unwrap();
    histogram.observe(f64::NAN);
    histogram.observe(0.5);
    assert_eq!((histogram.count(), histogram.sum()), (2, 0.5));
}

#[test]
fn every_threshold_of_the_runbooks_is_a_latency_bucket() {
    for threshold in [0.1, 0.25, 0.5, 1.0] {
        assert!(LATENCY_BUCKETS.contains(&threshold), "{threshold}");
    }
}

#[test]
fn every_scrape_is_consistent_while_threads_observe() {
    const THREADS: u64 = 6;
    const OBSERVATIONS: u64 = 200_000;
    let metrics = Metrics::new("test").unwrap();
    let histogram = metrics
        .histogram("wait_seconds", "Wait.", LATENCY_BUCKETS)
        .unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let histogram = histogram.clone();
                scope.spawn(move || {
                    for n in 0..OBSERVATIONS {
                        histogram.observe(0.25 * ((n + thread) % 5) as f64);
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            let mut last = 0;
            while !done.load(Ordering::Relaxed) {
                let text = metrics.render(Format::Prometheus);
                let buckets = buckets(&text, "wait_seconds");
                assert!(
                    buckets.windows(2).all(|pair| pair[0] <= pair[1]),
                    "{buckets:?}"
                );
                assert_eq!(buckets.last(), Some(&count(&text, "wait_seconds")));
                assert!(*buckets.last().unwrap() >= last);
                last = *buckets.last().unwrap();
            }
        });
        let results: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        done.store(true, Ordering::Relaxed);
        results.into_iter().for_each(|result| result.unwrap());
    });
    let all = THREADS * OBSERVATIONS;
    assert_eq!(histogram.count(), all);
    // Quarters add without rounding.
    assert_eq!(histogram.sum(), all as f64 / 5.0 * 2.5);
    assert_eq!(
        count(&metrics.render(Format::Prometheus), "wait_seconds"),
        all
    );
}

#[test]
fn a_hot_counter_loses_nothing_between_threads_that_come_and_go() {
    let metrics = Metrics::new("test").unwrap();
    let counter = metrics.counter("jobs_total", "Jobs.").unwrap();
    for _ in 0..20 {
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| (0..10_000).for_each(|_| counter.inc()));
            }
        });
    }
    assert_eq!(counter.value(), 20 * 16 * 10_000);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn buckets_match_a_naive_count(
        mut bounds in proptest::collection::vec(-100.0..100.0f64, 1..20),
        values in proptest::collection::vec(-120.0..120.0f64, 0..200),
    ) {
        bounds.sort_by(f64::total_cmp);
        bounds.dedup();
        let metrics = Metrics::new("test").unwrap();
        let histogram = metrics.histogram("x_seconds", "X.", &bounds).unwrap();
        values.iter().for_each(|value| histogram.observe(*value));
        let mut expected: Vec<u64> = bounds
            .iter()
            .map(|bound| values.iter().filter(|value| *value <= bound).count() as u64)
            .collect();
        expected.push(values.len() as u64);
        prop_assert_eq!(buckets(&metrics.render(Format::OpenMetrics), "x_seconds"), expected);
    }
}
