//! Counting, observing and encoding, at one and at two threads.

use crate::harness::{ns_per_op, Goal, Group};
use ::metrics::with_local_recorder;
use metrics_exporter_prometheus::PrometheusBuilder;
use prometheus::{Encoder, IntCounterVec, Opts, Registry as PrometheusRegistry, TextEncoder};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter as ClientCounter;
use prometheus_client::metrics::family::Family as ClientFamily;
use prometheus_client::metrics::histogram::Histogram as ClientHistogram;
use prometheus_client::registry::Registry as ClientRegistry;
use ron_metrics::{Counter, Format, Histogram, Metrics};
use std::hint::black_box;
use std::time::Instant;

pub const NAMES: &[&str] = &["counter", "histogram", "encode"];

const OPERATIONS: u64 = 1_000_000;
const ONE: &str = "1 thread";
const TWO: &str = "2 threads";

/// The Go client's default buckets, without `+Inf`.
const BOUNDS: [f64; 11] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

pub fn groups() -> Vec<Group> {
    vec![counter(), histogram(), encode()]
}

ron_metrics::labels! {
    struct Series { route, code }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClientSeries {
    route: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OwnedSeries {
    route: String,
    code: String,
}

fn both(body: impl Fn(u64) + Sync) -> Vec<f64> {
    [1, 2]
        .map(|threads| ns_per_op(threads, OPERATIONS, &body))
        .to_vec()
}

fn counter() -> Group {
    const PLAIN: &str = "ron-metrics Counter";
    const LABELLED: &str = "ron-metrics Family, resolved";
    let metrics = Metrics::new("bench").expect("a name");
    let plain = metrics.counter("plain_total", "Plain.").expect("a name");
    let family = metrics.counter_family::<Series>("labelled_total", "By label.");
    let family = family.expect("a name");
    let resolved = family.get(&Series::new("/o/{addr}", "200"));
    let client = ClientCounter::<u64>::default();
    let client_family = ClientFamily::<ClientSeries, ClientCounter>::default();
    let labels = ClientSeries {
        route: "/o/{addr}",
        code: "200",
    };
    let client_resolved = client_family.get_or_create_owned(&labels);
    let classic = prometheus::IntCounter::new("plain_total", "Plain.").expect("a name");
    let classic_vec =
        IntCounterVec::new(Opts::new("labelled_total", "By label."), &["route", "code"]);
    let classic_vec = classic_vec.expect("names");
    let recorder = PrometheusBuilder::new().build_recorder();
    ::metrics::set_global_recorder(recorder).expect("the only one");

    let inc = |counter: Counter| {
        move || {
            both(|n| {
                for _ in 0..n {
                    black_box(&counter).inc();
                }
            })
        }
    };
    Group::new("counter", "one increment", "prometheus-client Counter")
        .measure(ONE, "ns")
        .measure(TWO, "ns")
        .case(PLAIN, inc(plain))
        .case(LABELLED, inc(resolved))
        .case("ron-metrics Counter, first 60,000", || {
            // Below the count at which it gets a cell per thread. Two threads would meet on it and end that.
            let counter = Counter::detached();
            let body = |n| {
                for _ in 0..n {
                    black_box(&counter).inc();
                }
            };
            vec![ns_per_op(1, 60_000, body), f64::NAN]
        })
        .case("ron-metrics Family::get + inc", move || {
            both(|n| {
                for _ in 0..n {
                    black_box(&family)
                        .get(&Series::new("/o/{addr}", "200"))
                        .inc();
                }
            })
        })
        .case("prometheus-client Counter", move || {
            both(|n| {
                for _ in 0..n {
                    black_box(&client).inc();
                }
            })
        })
        .case("prometheus-client Family, resolved", move || {
            both(|n| {
                for _ in 0..n {
                    black_box(&client_resolved).inc();
                }
            })
        })
        .case("prometheus-client Family get_or_create + inc", move || {
            both(|n| {
                for _ in 0..n {
                    black_box(&client_family).get_or_create(&labels).inc();
                }
            })
        })
        .case("prometheus IntCounter", move || {
            both(|n| {
                for _ in 0..n {
                    black_box(&classic).inc();
                }
            })
        })
        .case(
            "prometheus IntCounterVec with_label_values + inc",
            move || {
                both(|n| {
                    for _ in 0..n {
                        let series =
                            black_box(&classic_vec).with_label_values(&["/o/{addr}", "200"]);
                        series.inc();
                    }
                })
            },
        )
        .case("metrics counter!", || {
            both(|n| {
                for _ in 0..n {
                    ::metrics::counter!("plain_total").increment(1);
                }
            })
        })
        .case("metrics counter!, 2 labels", || {
            both(|n| {
                for _ in 0..n {
                    ::metrics::counter!("labelled_total", "route" => "/o/{addr}", "code" => "200")
                        .increment(1);
                }
            })
        })
        .goal(ONE, PLAIN, Goal::Ratio(1.0))
        .goal(TWO, PLAIN, Goal::Ratio(0.5))
        .goal(ONE, LABELLED, Goal::Ratio(1.0))
        .goal(TWO, LABELLED, Goal::Ratio(0.5))
        .note("The metrics macros write to metrics-exporter-prometheus.")
}

fn histogram() -> Group {
    const RON: &str = "ron-metrics Histogram";
    let metrics = Metrics::new("bench").expect("a name");
    let ron = metrics.histogram("latency_seconds", "Latency.", &BOUNDS);
    let ron: Histogram = ron.expect("a name");
    let client = ClientHistogram::new(BOUNDS);
    let opts =
        prometheus::HistogramOpts::new("latency_seconds", "Latency.").buckets(BOUNDS.to_vec());
    let classic = prometheus::Histogram::with_opts(opts).expect("a name");
    let values = spread();
    let observe = move |observe: &(dyn Fn(f64) + Sync)| {
        let values = &values;
        both(|n| {
            for value in values.iter().cycle().take(n as usize) {
                observe(*value);
            }
        })
    };
    let (with_client, with_classic) = (observe.clone(), observe.clone());
    Group::new(
        "histogram",
        "one observation into 11 buckets",
        "prometheus-client Histogram",
    )
    .measure(ONE, "ns")
    .measure(TWO, "ns")
    .case(RON, move || observe(&|value| black_box(&ron).observe(value)))
    .case("prometheus-client Histogram", move || {
        with_client(&|value| black_box(&client).observe(value))
    })
    .case("prometheus Histogram", move || {
        with_classic(&|value| black_box(&classic).observe(value))
    })
    .goal(ONE, RON, Goal::Ratio(1.0))
    .goal(TWO, RON, Goal::Ratio(0.5))
    .note("1,024 values in turn, log-uniform from 1 ms to 20 s, so that no branch predictor knows the bucket.")
}

/// Log-uniform values in no order, the same in every run.
fn spread() -> Vec<f64> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    (0..1024).map(|_| 0.001 * 20_000_f64.powf(next())).collect()
}

fn encode() -> Group {
    const RON: &str = "ron-metrics render, text";
    let open = "ron-metrics render, OpenMetrics";
    let mut group = Group::new(
        "encode",
        "one scrape of counters with two labels",
        "prometheus-client, OpenMetrics",
    )
    .measure("1,000 series", "us")
    .measure("10,000 series", "us");
    let sizes = [1_000, 10_000];
    let registries = sizes.map(ron_registry);
    let open_registries = registries.clone();
    let clients = sizes.map(client_registry);
    let classics = sizes.map(classic_registry);
    let exporters = sizes.map(exporter);
    for (measure, case) in [
        ("1,000 series", RON),
        ("10,000 series", RON),
        ("1,000 series", open),
        ("10,000 series", open),
    ] {
        group = group.goal(measure, case, Goal::Ratio(1.0));
    }
    group
        .case(RON, move || {
            scrapes(&registries, |r| r.render(Format::Prometheus))
        })
        .case(open, move || {
            scrapes(&open_registries, |r| r.render(Format::OpenMetrics))
        })
        .case("prometheus-client, OpenMetrics", move || {
            scrapes(&clients, client_text)
        })
        .case("prometheus, text", move || scrapes(&classics, classic_text))
        .case("metrics-exporter-prometheus, text", move || {
            scrapes(&exporters, |recorder| recorder.handle().render())
        })
        .note("Each scrape makes a new String. ron's registry has its golden metrics in it too.")
}

/// us per scrape of each size, after checking that the series are in it.
fn scrapes<R>(registries: &[R; 2], scrape: impl Fn(&R) -> String) -> Vec<f64> {
    let of = |registry: &R, scrapes: u32| {
        let began = Instant::now();
        for _ in 0..scrapes {
            black_box(scrape(registry));
        }
        began.elapsed().as_nanos() as f64 / 1e3 / f64::from(scrapes)
    };
    for (registry, series) in registries.iter().zip([1_000, 10_000]) {
        let text = scrape(registry);
        let lines = text.lines().filter(|line| line.contains("code=\"200\""));
        assert_eq!(lines.count(), series);
    }
    vec![of(&registries[0], 200), of(&registries[1], 20)]
}

fn route(index: usize) -> String {
    format!("/objects/{index:05}")
}

fn ron_registry(series: usize) -> Metrics {
    let metrics = Metrics::new("bench").expect("a name");
    let family = metrics.counter_family::<Series>("requests_total", "Requests.");
    let family = family.expect("a name").with_cap(series);
    for index in 0..series {
        family
            .get(&Series::new(route(index), "200"))
            .add(1000 + index as u64);
    }
    metrics
}

fn client_registry(series: usize) -> ClientRegistry {
    let family = ClientFamily::<OwnedSeries, ClientCounter>::default();
    for index in 0..series {
        let labels = OwnedSeries {
            route: route(index),
            code: "200".to_owned(),
        };
        family.get_or_create(&labels).inc_by(1000 + index as u64);
    }
    let mut registry = ClientRegistry::default();
    registry.register("requests", "Requests", family);
    registry
}

fn client_text(registry: &ClientRegistry) -> String {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).expect("a String takes it");
    text
}

fn classic_registry(series: usize) -> PrometheusRegistry {
    let family = IntCounterVec::new(Opts::new("requests_total", "Requests."), &["route", "code"]);
    let family = family.expect("names");
    for index in 0..series {
        let counter = family.with_label_values(&[route(index).as_str(), "200"]);
        counter.inc_by(1000 + index as u64);
    }
    let registry = PrometheusRegistry::new();
    registry.register(Box::new(family)).expect("the only one");
    registry
}

fn classic_text(registry: &PrometheusRegistry) -> String {
    let mut text = Vec::new();
    let encoded = TextEncoder::new().encode(&registry.gather(), &mut text);
    encoded.expect("a Vec takes it");
    String::from_utf8(text).expect("text")
}

fn exporter(series: usize) -> metrics_exporter_prometheus::PrometheusRecorder {
    let recorder = PrometheusBuilder::new().build_recorder();
    with_local_recorder(&recorder, || {
        for index in 0..series {
            ::metrics::counter!("requests_total", "route" => route(index), "code" => "200")
                .increment(1000 + index as u64);
        }
    });
    recorder
}
