//! The exposition format follows the `Accept` header.

use ron_metrics::{AdminRequest, Format, Metrics};

#[test]
fn quality_then_the_clients_own_words_decide() {
    use Format::{OpenMetrics, Prometheus};
    let cases = [
        // What Prometheus 2 and 3 send.
        ("application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", OpenMetrics),
        ("application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1", OpenMetrics),
        ("text/plain;version=0.0.4;q=0.9,application/openmetrics-text;version=1.0.0;q=0.3", Prometheus),
        // curl, browsers.
        ("*/*", Prometheus),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Prometheus),
        ("", Prometheus),
        // One type only, any case, odd spacing, quotes.
        ("application/openmetrics-text", OpenMetrics),
        ("Application/OpenMetrics-Text ; Version=\"1.0.0\" ; Q=0.001", OpenMetrics),
        ("text/plain", Prometheus),
        ("application/*", OpenMetrics),
        ("application/*;q=0.5, text/*;q=0.6", Prometheus),
        ("application/*;q=0.7, text/*;q=0.6", OpenMetrics),
        // Equal: named beats wildcard, else Prometheus.
        ("text/plain, application/openmetrics-text", OpenMetrics),
        ("text/plain, application/*", Prometheus),
        // The most specific range counts, not the best one.
        ("application/openmetrics-text;q=0.1, */*;q=0.9", Prometheus),
        ("text/plain;q=0.1, */*;q=0.5", OpenMetrics),
        ("application/openmetrics-text;q=0, */*", Prometheus),
        ("application/openmetrics-text;version=1.0.0;q=0, application/openmetrics-text;version=0.0.1", OpenMetrics),
        // Versions nobody has yet.
        ("application/openmetrics-text;version=2.0.0", Prometheus),
        // Refused or broken: text, not an error.
        ("text/plain;q=0", Prometheus),
        ("image/png", Prometheus),
        ("application/openmetrics-text;q=x, text/plain;q=0.1", Prometheus),
        ("application/openmetrics-text;q=1.001, text/plain;q=0.1", Prometheus),
        (";;,,=", Prometheus),
    ];
    for (accept, expected) in cases {
        assert_eq!(Format::negotiate(accept), expected, "{accept}");
    }
}

#[test]
fn metrics_states_the_type_it_chose() {
    let metrics = Metrics::new("test").unwrap();
    let answer =
        metrics.admin(&AdminRequest::new("GET", "/metrics").accept("application/openmetrics-text"));
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(answer.header("content-type"), Some(kind));
    assert!(answer.body.ends_with("# EOF\n"));

    let answer = metrics.admin(&AdminRequest::new("GET", "/metrics"));
    assert_eq!(
        answer.header("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    assert_eq!(answer.header("vary"), Some("accept"));
    assert!(!answer.body.contains("# EOF") && !answer.body.contains("# UNIT"));
}
