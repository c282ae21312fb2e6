//! Prints an exposition with every kind of series in it: `cargo run -p ron-metrics --example exposition [openmetrics]`.

use ron_metrics::{Format, Identity, KindLabel, Metrics, MetricsError, RequestLabels, RouteLabels};

fn main() -> Result<(), MetricsError> {
    let metrics = Metrics::new("example")?;
    metrics.set_identity(Identity::new("i-1", "1.0.0"));
    let golden = metrics.golden();
    golden
        .request_latency_seconds
        .get(&RouteLabels::new("/o/{addr}", "GET"))
        .observe(0.2);
    golden
        .http_requests_total
        .get(&RequestLabels::new("/o/{addr}", "GET", "200"))
        .inc();
    golden
        .bus_lagged_total
        .feed(|samples| samples.push(["quote\" back\\slash", "new\nline"], 7))
        .keep();
    drop(golden.tasks_spawned_total.owned(&KindLabel::new("gone")));
    let odd = metrics.float_gauge("room_celsius", "A unit, a back\\slash and no value.")?;
    odd.set(f64::NAN);
    metrics
        .float_gauge("far", "Without end.")?
        .set(f64::NEG_INFINITY);
    metrics
        .counter("sent_bytes_total", "A counter with a unit.")?
        .add(1 << 40);

    let openmetrics = std::env::args()
        .nth(1)
        .is_some_and(|format| format == "openmetrics");
    let format = if openmetrics {
        Format::OpenMetrics
    } else {
        Format::Prometheus
    };
    let text = metrics.render(format);
    std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes()).unwrap_or_default();
    Ok(())
}
