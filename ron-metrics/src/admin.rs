//! The admin routes as a pure function from request to response, and the JSON they answer.

use std::fmt::Write;
use std::time::SystemTime;

use crate::exposition::Format;
use crate::health::{Cause, HealthState, Liveness, Snapshot};
use crate::identity::Identity;
use crate::metrics::Metrics;

/// What [`Metrics::admin`] has to know of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AdminRequest<'a> {
    /// The method, in capitals.
    pub method: &'a str,
    /// The path; a query is ignored.
    pub path: &'a str,
    /// The `Accept` header, several joined by commas.
    pub accept: Option<&'a str>,
}

impl<'a> AdminRequest<'a> {
    /// A request without an `Accept` header.
    pub fn new(method: &'a str, path: &'a str) -> AdminRequest<'a> {
        AdminRequest {
            method,
            path,
            accept: None,
        }
    }

    /// Adds the `Accept` header.
    #[must_use]
    pub fn accept(mut self, accept: &'a str) -> AdminRequest<'a> {
        self.accept = Some(accept);
        self
    }
}

/// A complete answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AdminResponse {
    /// HTTP status: 200, 404, 405 or 503.
    pub status: u16,
    /// Headers, with lower-case names, `content-length` among them.
    pub headers: Vec<(&'static str, String)>,
    /// The body; empty for HEAD.
    pub body: String,
}

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

impl AdminResponse {
    pub(crate) fn new(status: u16, content_type: &str, body: String) -> AdminResponse {
        let headers = vec![
            ("content-type", content_type.to_string()),
            ("content-length", body.len().to_string()),
            ("cache-control", "no-store".to_string()),
            ("x-content-type-options", "nosniff".to_string()),
        ];
        AdminResponse {
            status,
            headers,
            body,
        }
    }

    pub(crate) fn plain(status: u16, text: &str) -> AdminResponse {
        AdminResponse::new(status, TEXT, text.to_string())
    }

    /// The value of a header, by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| value.as_str())
    }
}

pub(crate) const ROUTES: [&str; 5] = ["/metrics", "/healthz", "/livez", "/readyz", "/version"];

pub(crate) fn answer(metrics: &Metrics, request: &AdminRequest<'_>) -> AdminResponse {
    let path = request.path.split(['?', '#']).next().unwrap_or_default();
    if !ROUTES.contains(&path) {
        let text = "not found: /metrics, /healthz, /livez, /readyz and /version are served here\n";
        return headless(AdminResponse::plain(404, text), request);
    }
    if !["GET", "HEAD"].contains(&request.method) {
        let mut response = AdminResponse::plain(405, "method not allowed: use GET or HEAD\n");
        response.headers.push(("allow", "GET, HEAD".to_string()));
        return response;
    }
    let response = match path {
        "/metrics" => {
            let format = request.accept.map_or(Format::default(), Format::negotiate);
            let mut response =
                AdminResponse::new(200, format.content_type(), metrics.render(format));
            response.headers.push(("vary", "accept".to_string()));
            response
        }
        "/healthz" => AdminResponse::new(200, JSON, r#"{"status":"ok"}"#.to_string()),
        "/livez" => livez(metrics.health()),
        "/readyz" => metrics.health().response(),
        _ => AdminResponse::new(200, JSON, version(metrics.service(), &metrics.identity())),
    };
    headless(response, request)
}

/// HEAD gets the headers of the GET, `content-length` included, and no body.
fn headless(mut response: AdminResponse, request: &AdminRequest<'_>) -> AdminResponse {
    if request.method == "HEAD" {
        response.body.clear();
    }
    response
}

fn livez(health: &HealthState) -> AdminResponse {
    match health.liveness() {
        Liveness::Ok => AdminResponse::new(200, JSON, r#"{"status":"ok"}"#.to_string()),
        Liveness::Stalled { since } => {
            let body = format!(r#"{{"status":"stalled","since":{}}}"#, time(since));
            AdminResponse::new(503, JSON, body)
        }
    }
}

/// Missing keys and causes listed in `/readyz`; of more, only the number is. A hundred fill a few screens, and a
/// hundred thousand quarantined children must not turn every probe into megabytes.
const LISTED_MAX: usize = 100;

pub(crate) fn readyz(snapshot: &Snapshot) -> AdminResponse {
    let retry_after = snapshot.retry_after().as_secs();
    let mut missing: Vec<String> = snapshot.missing().take(LISTED_MAX).map(string).collect();
    let unlisted = snapshot.missing().count() - missing.len();
    if unlisted > 0 {
        missing.push(string(&format!("{unlisted} more")));
    }
    let mut causes: Vec<String> = snapshot.causes().take(LISTED_MAX).map(cause).collect();
    let unlisted = snapshot.causes().count() - causes.len();
    if let Some(worst) = snapshot.causes().nth(LISTED_MAX) {
        causes.push(cause(&Cause {
            key: "more".to_string(),
            reason: format!("{unlisted} more causes"),
            ..worst.clone()
        }));
    }
    let body = format!(
        r#"{{"ready":{},"state":"{}","degraded":{},"missing":[{}],"causes":[{}],"retry_after":{},"since":{}}}"#,
        snapshot.ready(),
        snapshot.state(),
        snapshot.degraded(),
        missing.join(","),
        causes.join(","),
        retry_after,
        time(snapshot.since()),
    );
    let status = if snapshot.ready() { 200 } else { 503 };
    let mut response = AdminResponse::new(status, JSON, body);
    if !snapshot.ready() {
        let value = retry_after.to_string();
        response.headers.push(("retry-after", value));
    }
    response
}

fn cause(cause: &Cause) -> String {
    format!(
        r#"{{"key":{},"status":"{}","reason":{},"since":{}}}"#,
        string(&cause.key),
        cause.status,
        string(&cause.reason),
        time(cause.since),
    )
}

fn version(service: &str, identity: &Identity) -> String {
    let mut features = format!(r#""amnesia":{},"pq":"{}""#, identity.amnesia, identity.pq);
    for (name, on) in &identity.features {
        if !["amnesia", "pq"].contains(&name.as_str()) {
            // Writing to a String cannot fail.
            let _ = write!(features, ",{}:{on}", string(name));
        }
    }
    format!(
        r#"{{"name":{},"version":{},"build":{},"rustc":{},"features":{{{features}}},"config_sha":{},"instance":{},"containment":{}}}"#,
        string(service),
        string(&identity.version),
        string(&identity.build),
        string(&identity.rustc),
        optional(identity.config_sha.as_deref()),
        string(&identity.instance),
        optional(identity.containment.as_deref()),
    )
}

fn string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn optional(text: Option<&str>) -> String {
    text.map_or_else(|| "null".to_string(), string)
}

/// RFC 3339, UTC, milliseconds, quoted. Times before 1970 are shown as 1970.
fn time(at: SystemTime) -> String {
    let since_epoch = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let (days, seconds) = (
        since_epoch.as_secs() / 86_400,
        since_epoch.as_secs() % 86_400,
    );
    let (year, month, day) = civil(days);
    format!(
        "\"{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z\"",
        seconds / 3_600,
        seconds / 60 % 60,
        seconds % 60,
        since_epoch.subsec_millis(),
    )
}

/// Proleptic Gregorian date of a day counted from 1970-01-01. Years are taken to begin in March, so that the leap day
/// is the last day of one and month lengths follow one linear formula.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468; // days from 0000-03-01 to 1970-01-01
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_rfc_3339_with_milliseconds() {
        let cases = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (1_795_241_295_042, "2026-11-21T06:08:15.042Z"),
        ];
        for (milliseconds, text) in cases {
            let at = SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds);
            assert_eq!(time(at), format!("{text:?}"));
        }
    }
}
