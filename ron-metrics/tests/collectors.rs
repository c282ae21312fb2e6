//! Collectors show values that live elsewhere, at the moment of the scrape.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use ron_metrics::{Format, Metrics, Observations};

fn lines(metrics: &Metrics, name: &str) -> Vec<String> {
    let text = metrics.render(Format::Prometheus);
    let lines = text.lines().filter(|line| line.starts_with(name));
    lines.map(str::to_string).collect()
}

#[test]
fn values_are_read_at_each_scrape() {
    let metrics = Metrics::new("test").unwrap();
    let published = Arc::new(AtomicU64::new(1));
    let source = published.clone();
    let feed = metrics
        .golden()
        .bus_published_total
        .feed(move |samples| samples.push(["kernel"], source.load(Ordering::Relaxed)));
    assert_eq!(
        lines(&metrics, "bus_published_total"),
        ["bus_published_total{topic=\"kernel\"} 1"]
    );
    published.store(42, Ordering::Relaxed);
    assert_eq!(
        lines(&metrics, "bus_published_total"),
        ["bus_published_total{topic=\"kernel\"} 42"]
    );

    drop(feed);
    assert!(lines(&metrics, "bus_published_total").is_empty());
    assert_eq!(
        Arc::strong_count(&published),
        1,
        "the closure is gone with its feed"
    );
}

#[test]
fn equal_label_sets_are_added_up_and_never_stand_twice() {
    let metrics = Metrics::new("test").unwrap();
    let depth = &metrics.golden().bus_queue_depth;
    depth.feed(|samples| samples.push(["a"], 1.0)).keep();
    depth
        .feed(|samples| {
            samples.push(["a"], 2.0);
            samples.push(["b"], 0.5);
            samples.push(["a"], 4.0);
        })
        .keep();
    let expected = [
        "bus_queue_depth{topic=\"a\"} 7",
        "bus_queue_depth{topic=\"b\"} 0.5",
    ];
    assert_eq!(lines(&metrics, "bus_queue_depth"), expected);
}

#[test]
fn without_labels_and_without_feed_the_value_is_zero() {
    let metrics = Metrics::new("test").unwrap();
    assert_eq!(
        lines(&metrics, "bus_overflow_dropped_total"),
        ["bus_overflow_dropped_total 0"]
    );
    let total = &metrics.golden().bus_overflow_dropped_total;
    total.feed(|samples| samples.push([], 5)).keep();
    assert_eq!(
        lines(&metrics, "bus_overflow_dropped_total"),
        ["bus_overflow_dropped_total 5"]
    );
}

#[test]
fn a_collector_is_capped_like_a_family() {
    let metrics = Metrics::new("test").unwrap();
    let collector = metrics
        .counter_collector("disk_reads_total", "Reads.", ["disk"])
        .unwrap();
    for part in 0..2 {
        collector
            .feed(move |samples| {
                samples.push(["__overflow__"], 1);
                for n in 0..800 {
                    let disk = format!("{part}-{n}");
                    samples.push([disk.as_str()], 1);
                }
            })
            .keep();
    }
    let series = lines(&metrics, "disk_reads_total");
    assert_eq!(series.len(), 1_001);
    assert!(series.contains(&"disk_reads_total{disk=\"__overflow__\"} 602".to_string()));
    // `d` sorts before `m`: the refusals of a scrape are in that scrape.
    let refused = lines(
        &metrics,
        "metrics_overflow_total{family=\"disk_reads_total\"}",
    );
    assert_eq!(
        refused,
        ["metrics_overflow_total{family=\"disk_reads_total\"} 1200"]
    );
}

#[test]
fn a_panicking_closure_spoils_neither_the_scrape_nor_the_other_feeds() {
    let metrics = Metrics::new("test").unwrap();
    let depth = &metrics.golden().bus_queue_depth;
    depth
        .feed(|samples| {
            samples.push(["half"], 1.0);
            panic!("as the test wants");
        })
        .keep();
    depth.feed(|samples| samples.push(["whole"], 1.0)).keep();
    for _ in 0..2 {
        assert_eq!(
            lines(&metrics, "bus_queue_depth"),
            ["bus_queue_depth{topic=\"whole\"} 1"]
        );
    }
}

#[test]
fn a_closure_may_count_and_resolve_on_the_same_metrics() {
    let metrics = Metrics::new("test").unwrap();
    let scrapes = metrics.counter("scrapes_total", "Scrapes.").unwrap();
    let inner = metrics.clone();
    let collector = metrics.gauge_collector("level", "Level.", []).unwrap();
    collector
        .feed(move |samples| {
            scrapes.inc();
            let label = ron_metrics::QueueLabel::new("q");
            inner.golden().queue_depth.get(&label).inc();
            samples.push([], 1.5);
        })
        .keep();
    assert_eq!(lines(&metrics, "level"), ["level 1.5"]);
    assert_eq!(lines(&metrics, "scrapes_total"), ["scrapes_total 2"]);
}

#[test]
fn histograms_kept_elsewhere_are_read_at_each_scrape() {
    let metrics = Metrics::new("test").unwrap();
    let waits = metrics
        .histogram_collector("wait_seconds", "Waits.", ["queue"], &[0.5, 2.0])
        .unwrap();
    let seen = Arc::new(AtomicU64::new(1));
    let source = seen.clone();
    waits
        .feed(move |samples| {
            let count = source.load(Ordering::Relaxed);
            samples.push(["a"], Observations::new([count, 2, 3], 8.5));
        })
        .keep();
    // Feeds of the same labels add up; counts beyond the bounds are above them.
    waits
        .feed(|samples| samples.push(["a"], Observations::new([0, 1, 0, 1, 1], 1.0)))
        .keep();
    let expected = |first: u64| {
        [
            "wait_seconds_sum{queue=\"a\"} 9.5".to_string(),
            format!("wait_seconds_count{{queue=\"a\"}} {}", first + 8),
            format!("wait_seconds_bucket{{le=\"0.5\",queue=\"a\"}} {first}"),
            format!(
                "wait_seconds_bucket{{le=\"2.0\",queue=\"a\"}} {}",
                first + 3
            ),
            format!(
                "wait_seconds_bucket{{le=\"+Inf\",queue=\"a\"}} {}",
                first + 8
            ),
        ]
    };
    assert_eq!(lines(&metrics, "wait_seconds"), expected(1));
    seen.store(5, Ordering::Relaxed);
    assert_eq!(lines(&metrics, "wait_seconds"), expected(5));
    let contract = "wait_seconds\thistogram\tunit=seconds\tlabels=queue\tbuckets=0.5,2\n";
    assert!(
        metrics.contract().contains(contract),
        "{}",
        metrics.contract()
    );
}

#[test]
fn bounds_of_histograms_kept_elsewhere_are_checked() {
    let metrics = Metrics::new("test").unwrap();
    for bounds in [&[][..], &[1.0, 1.0], &[f64::INFINITY], &[0.0; 65]] {
        let refused = metrics.histogram_collector("wait_seconds", "Waits.", ["queue"], bounds);
        assert!(refused.is_err(), "{bounds:?}");
    }
}
