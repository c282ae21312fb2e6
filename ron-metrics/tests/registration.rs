//! A name is registered once, and only if both exposition formats can carry it.

use ron_metrics::{labels, Metrics, MetricsError, Rejected};

labels! {
    struct Good { zone }
    struct Twice { zone, zone_ }
    struct Le { le }
    struct Dunder { __zone }
}

struct Repeated;
impl ron_metrics::Labels for Repeated {
    fn names() -> &'static [&'static str] {
        &["zone", "zone"]
    }
    fn write(&self, _: &mut ron_metrics::LabelSink<'_>) {}
}

struct None_;
impl ron_metrics::Labels for None_ {
    fn names() -> &'static [&'static str] {
        &[]
    }
    fn write(&self, _: &mut ron_metrics::LabelSink<'_>) {}
}

fn metrics() -> Metrics {
    Metrics::new("test").unwrap()
}

fn problem<T: std::fmt::Debug>(result: Result<T, MetricsError>) -> Rejected {
    match result {
        Err(MetricsError::Invalid { problem, .. }) => problem,
        other => panic!("expected a rejection, got {other:?}"),
    }
}

#[test]
fn the_same_name_twice_is_an_error_and_never_a_second_series() {
    let metrics = metrics();
    let first = metrics.counter("jobs_total", "Jobs.").unwrap();
    first.add(3);
    let error = metrics.counter("jobs_total", "Jobs.").unwrap_err();
    assert_eq!(
        error.to_string(),
        "metric `jobs_total` is already registered as counter `jobs_total`; resolve a handle once and clone it"
    );
    assert!(metrics
        .counter_family::<Good>("jobs_total", "Jobs.")
        .is_err());
    assert!(metrics
        .counter_collector("jobs_total", "Jobs.", [])
        .is_err());
    let text = metrics.render(Default::default());
    assert_eq!(text.matches("\njobs_total ").count(), 1, "{text}");
}

#[test]
fn golden_names_are_taken() {
    let metrics = metrics();
    for line in metrics.contract().lines() {
        let name = line.split('\t').next().unwrap();
        let taken = if name.ends_with("_total") {
            metrics.counter(name, "Mine.").is_err()
        } else {
            metrics.gauge(name, "Mine.").is_err()
        };
        assert!(taken, "{name}");
    }
}

#[test]
fn names_that_would_produce_the_same_samples_collide() {
    let metrics = metrics();
    metrics.histogram("wait_seconds", "Wait.", &[1.0]).unwrap();
    metrics.counter("sent_total", "Sent.").unwrap();
    metrics.gauge("depth", "Depth.").unwrap();
    assert!(metrics
        .gauge("sent", "The family of sent_total in OpenMetrics.")
        .is_err());
    assert!(metrics
        .counter("depth_total", "Family depth is a gauge.")
        .is_err());
    assert!(metrics
        .counter("wait_seconds_total", "Family wait_seconds is a histogram.")
        .is_err());
}

#[test]
fn malformed_and_reserved_names_are_refused_with_the_rule() {
    let metrics = metrics();
    for name in [
        "",
        "9lives",
        "with-dash",
        "with:colon",
        "sp ace",
        "ümlaut",
        &"x".repeat(201),
    ] {
        assert_eq!(
            problem(metrics.gauge(name, "Help.")),
            Rejected::Name,
            "{name}"
        );
    }
    for name in ["up", "scrape_duration_seconds", "ALERTS", "__name"] {
        assert_eq!(
            problem(metrics.gauge(name, "Help.")),
            Rejected::ReservedName,
            "{name}"
        );
    }
    for name in [
        "a_total",
        "a_bucket",
        "a_sum",
        "a_count",
        "a_created",
        "a_info",
    ] {
        let rejected = problem(metrics.gauge(name, "Help."));
        assert!(
            matches!(rejected, Rejected::ReservedSuffix { .. }),
            "{name}: {rejected}"
        );
    }
    assert_eq!(
        problem(metrics.counter("jobs", "Help.")),
        Rejected::CounterSuffix
    );
    assert!(matches!(
        problem(metrics.counter("jobs_total_total", "Help.")),
        Rejected::ReservedSuffix {
            suffix: "_total",
            ..
        }
    ));
    for help in ["", "  ", "two\nlines"] {
        assert_eq!(
            problem(metrics.gauge("depth", help)),
            Rejected::Help,
            "{help:?}"
        );
    }
    assert!(metrics
        .gauge("depth", "The name is still free after refusals.")
        .is_ok());
}

#[test]
fn bad_label_names_are_refused() {
    let metrics = metrics();
    assert!(metrics.counter_family::<Twice>("a_total", "Help.").is_ok());
    for result in [
        metrics.counter_family::<Le>("b_total", "Help.").map(drop),
        metrics
            .counter_family::<Dunder>("b_total", "Help.")
            .map(drop),
        metrics
            .counter_family::<Repeated>("b_total", "Help.")
            .map(drop),
        metrics
            .counter_collector("b_total", "Help.", ["a-b"])
            .map(drop),
    ] {
        assert!(matches!(problem(result), Rejected::Label { .. }));
    }
    assert_eq!(
        problem(metrics.counter_family::<None_>("b_total", "Help.")),
        Rejected::NoLabels
    );
}

#[test]
fn bad_buckets_are_refused() {
    let metrics = metrics();
    let many: Vec<f64> = (0..65).map(f64::from).collect();
    let cases: [(&[f64], Rejected); 6] = [
        (&[], Rejected::BucketCount { count: 0 }),
        (&many, Rejected::BucketCount { count: 65 }),
        (&[1.0, 1.0], Rejected::BucketOrder),
        (&[2.0, 1.0], Rejected::BucketOrder),
        (&[1.0, f64::INFINITY], Rejected::BucketOrder),
        (&[f64::NAN], Rejected::BucketOrder),
    ];
    for (bounds, expected) in cases {
        assert_eq!(
            problem(metrics.histogram("wait_seconds", "Wait.", bounds)),
            expected
        );
    }
    assert!(metrics
        .histogram("wait_seconds", "Wait.", &many[..64])
        .is_ok());
}

#[test]
fn a_service_needs_a_name() {
    for name in ["", "two\nlines", &"x".repeat(201)] {
        assert_eq!(problem(Metrics::new(name)), Rejected::Service);
    }
}

#[test]
fn two_metrics_share_nothing() {
    let (a, b) = (metrics(), metrics());
    a.counter("jobs_total", "Jobs.").unwrap().inc();
    b.counter("jobs_total", "Jobs.").unwrap();
    assert!(b.render(Default::default()).contains("\njobs_total 0\n"));
}
