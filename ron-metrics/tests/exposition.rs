//! The exact text of an exposition, in both formats. `RON_BLESS=1` rewrites the golden files.

use ron_metrics::{
    labels, Format, Histogram, Identity, KindLabel, Metrics, Pq, RequestLabels, RouteLabels,
    ServiceLabel,
};

labels! {
    struct Odd { a, b }
}

fn golden(name: &str, text: &str) {
    let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("RON_BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, expected, "{path} differs; RON_BLESS=1 rewrites it");
}

fn busy() -> Metrics {
    let metrics = Metrics::new("demo").unwrap();
    let mut identity = Identity::new("i-1", "1.2.3");
    identity.amnesia = true;
    identity.pq = Pq::Hybrid;
    metrics.set_identity(identity);

    let golden = metrics.golden();
    golden
        .service_restarts_total
        .get(&ServiceLabel::new("thumbs"))
        .add(3);
    let latency = golden
        .request_latency_seconds
        .get(&RouteLabels::new("/o/{addr}", "GET"));
    for seconds in [0.0004, 0.0005, 0.2, 60.0] {
        latency.observe(seconds);
    }
    golden
        .http_requests_total
        .get(&RequestLabels::new("/o/{addr}", "GET", "200"))
        .add(4);
    golden
        .bus_lagged_total
        .feed(|samples| samples.push(["kernel", "audit"], 7))
        .keep();
    golden
        .bus_queue_depth
        .feed(|samples| samples.push(["kernel"], 2.0))
        .keep();
    drop({
        let spawned = golden.tasks_spawned_total.owned(&KindLabel::new("feed"));
        spawned.add(9);
        spawned
    });

    let odd = metrics
        .counter_family::<Odd>("odd_total", "Back\\slash and \"quotes\".")
        .unwrap();
    odd.get(&Odd::new("new\nline", "quote\" back\\slash")).inc();
    odd.get(&Odd::new("plain", "ünïcode")).inc();
    odd.get(&Odd::new("last", "new\nline \\n")).inc();
    for (name, value) in [
        ("whole_celsius", 21.0),
        ("part_celsius", -0.25),
        ("huge_bytes", 1e300),
        ("infinite", f64::INFINITY),
        ("lost", f64::NAN),
    ] {
        metrics.float_gauge(name, "A value.").unwrap().set(value);
    }
    metrics
}

#[test]
fn prometheus_text_is_as_in_the_golden_file() {
    golden("busy.prom", &busy().render(Format::Prometheus));
}

#[test]
fn openmetrics_is_as_in_the_golden_file() {
    golden("busy.om", &busy().render(Format::OpenMetrics));
}

#[test]
fn every_family_exists_from_the_first_scrape() {
    let metrics = Metrics::new("demo").unwrap();
    let text = metrics.render(Format::Prometheus);
    for line in metrics.contract().lines() {
        let name = line.split('\t').next().unwrap();
        assert!(text.contains(&format!("# HELP {name} ")), "{name}");
        assert!(text.contains(&format!("# TYPE {name} ")), "{name}");
    }
    golden("fresh.prom", &text);
}

#[test]
fn no_family_but_the_identity_carries_it() {
    let text = busy().render(Format::Prometheus);
    let with_instance: Vec<&str> = text.lines().filter(|line| line.contains("i-1")).collect();
    let expected = r#"ron_kernel_info{service="demo",instance="i-1",version="1.2.3",amnesia="on",pq="hybrid"} 1"#;
    assert_eq!(with_instance, [expected]);
}

#[test]
fn the_identity_can_change_between_scrapes() {
    let metrics = busy();
    metrics.set_identity(Identity::new("i-2", "1.2.4"));
    let text = metrics.render(Format::OpenMetrics);
    assert!(text.contains(
        r#"ron_kernel_info{service="demo",instance="i-2",version="1.2.4",amnesia="off",pq="off"} 1"#
    ));
    assert!(!text.contains("i-1"));
}

#[test]
fn detached_instruments_count_and_are_not_exposed() {
    let histogram = Histogram::detached(&[1.0, 2.0]).unwrap();
    histogram.observe(1.5);
    assert_eq!((histogram.count(), histogram.sum()), (1, 1.5));
    assert!(Histogram::detached(&[]).is_err());
}
