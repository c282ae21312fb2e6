//! What is counted of requests: each instrument is looked up by its labels once.

use std::sync::OnceLock;
use std::time::Duration;

use hyper::Method;
use ron_kernel::metrics::{
    Counter, Gauge, Golden, Histogram, RequestLabels, RouteLabel, RouteLabels,
};

/// Of no route.
pub(crate) const UNMATCHED: &str = "unmatched";
/// Methods that are told apart: what clients make up must not make series.
pub(crate) const METHODS: [&str; 8] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "other",
];
/// Statuses that the kit and its hosts answer with, in order.
const STATUSES: [u16; 23] = [
    200, 201, 202, 204, 206, 304, 400, 401, 403, 404, 405, 408, 409, 412, 413, 415, 416, 429, 499,
    500, 502, 503, 507,
];

/// Those of all routes.
pub(crate) struct Instruments {
    golden: Golden,
    /// By route, and then by method.
    all: Vec<Line>,
}

/// Those of one route and method.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Of(usize);

struct Line {
    route: &'static str,
    method: &'static str,
    /// Series appear with their first request.
    resolved: OnceLock<(Gauge, Histogram)>,
    by_status: [OnceLock<Counter>; STATUSES.len()],
}

impl Instruments {
    /// Those of these routes, and behind them of no route.
    pub(crate) fn new(golden: Golden, routes: impl Iterator<Item = &'static str>) -> Self {
        let lines = routes.chain([UNMATCHED]).flat_map(|route| {
            METHODS.map(|method| Line {
                route,
                method,
                resolved: OnceLock::new(),
                by_status: [const { OnceLock::new() }; STATUSES.len()],
            })
        });
        Self {
            golden,
            all: lines.collect(),
        }
    }

    /// Those of requests with this method of the route that came in this place.
    pub(crate) fn of(&self, route: usize, method: &Method) -> Of {
        let known = METHODS.iter().position(|known| *known == method.as_str());
        Of(route * METHODS.len() + known.unwrap_or(METHODS.len() - 1))
    }

    /// Those of no route.
    pub(crate) fn unmatched(&self, method: &Method) -> Of {
        self.of(self.all.len() / METHODS.len() - 1, method)
    }

    pub(crate) fn began(&self, of: Of) {
        if let Some((inflight, _)) = self.resolved(of) {
            inflight.inc();
        }
    }

    pub(crate) fn ended(&self, of: Of, status: u16, took: Duration) {
        if let Some((inflight, latency)) = self.resolved(of) {
            inflight.dec();
            latency.observe_duration(took);
        }
        self.count(of, status);
    }

    /// One request that was answered with `status`.
    pub(crate) fn count(&self, of: Of, status: u16) {
        let Some(line) = self.all.get(of.0) else {
            return;
        };
        let counter = || {
            let labels = RequestLabels::new(line.route, line.method, status.to_string());
            self.golden.http_requests_total.get(&labels)
        };
        match STATUSES.binary_search(&status) {
            Ok(place) => line.by_status[place].get_or_init(counter).inc(),
            Err(_) => counter().inc(),
        }
    }

    fn resolved(&self, of: Of) -> Option<&(Gauge, Histogram)> {
        let line = self.all.get(of.0)?;
        Some(line.resolved.get_or_init(|| {
            let inflight = RouteLabel::new(line.route);
            let latency = RouteLabels::new(line.route, line.method);
            (
                self.golden.inflight_requests.get(&inflight),
                self.golden.request_latency_seconds.get(&latency),
            )
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ron_kernel::metrics::Metrics;

    #[test]
    fn every_request_is_counted_under_its_route_method_and_status() {
        let metrics = Metrics::new("node").unwrap();
        let instruments = Instruments::new(metrics.golden().clone(), ["/put", "/o"].into_iter());
        let text = || metrics.render(Default::default());
        assert!(!text().contains("route=\"/put\""), "before any request");
        let brew = Method::from_bytes(b"BREW").unwrap();
        for (of, status) in [
            (instruments.of(0, &Method::PUT), 201),
            (instruments.of(0, &Method::PUT), 507),
            (instruments.of(1, &brew), 405),
            (instruments.unmatched(&Method::GET), 404),
        ] {
            instruments.began(of);
            instruments.ended(of, status, Duration::from_millis(1));
        }
        for line in [
            "http_requests_total{route=\"/put\",method=\"PUT\",status=\"201\"} 1",
            "http_requests_total{route=\"/put\",method=\"PUT\",status=\"507\"} 1",
            "http_requests_total{route=\"/o\",method=\"other\",status=\"405\"} 1",
            "http_requests_total{route=\"unmatched\",method=\"GET\",status=\"404\"} 1",
            "inflight_requests{route=\"/put\"} 0",
            "request_latency_seconds_count{route=\"/put\",method=\"PUT\"} 2",
        ] {
            assert!(text().contains(line), "{line}\n{}", text());
        }
    }

    #[test]
    fn statuses_are_in_order() {
        assert!(STATUSES.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
