//! Routes, methods, headers and the exact JSON of the admin answers. `RON_BLESS=1` rewrites the golden files.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use ron_metrics::{
    AdminRequest, AdminResponse, Clock, Condition, HealthState, Identity, Metrics, Pq,
};

#[derive(Clone, Default)]
struct Hand(Arc<Mutex<Duration>>);

impl Hand {
    fn pass(&self, milliseconds: u64) {
        *self.0.lock().unwrap() += Duration::from_millis(milliseconds);
    }
}

impl Clock for Hand {
    fn monotonic(&self) -> Duration {
        *self.0.lock().unwrap()
    }
    fn wall(&self) -> SystemTime {
        // 2026-11-21T06:00:00Z
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_240_800) + self.monotonic()
    }
}

fn metrics() -> (Metrics, Hand) {
    let hand = Hand::default();
    let metrics = Metrics::with_health("demo", HealthState::with_clock(hand.clone())).unwrap();
    (metrics, hand)
}

fn get(metrics: &Metrics, path: &str) -> AdminResponse {
    metrics.admin(&AdminRequest::new("GET", path))
}

/// Status line, headers but for the length, body.
fn golden(name: &str, answer: &AdminResponse) {
    let mut text = format!("{}\n", answer.status);
    for (name, value) in &answer.headers {
        text += &format!("{name}: {value}\n");
    }
    text += &format!("\n{}\n", answer.body);
    let path = format!("{}/tests/golden/{name}.http", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("RON_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, expected, "{path} differs; RON_BLESS=1 rewrites it");
    if answer.header("content-type") == Some("application/json") {
        serde_json::from_str::<serde_json::Value>(&answer.body).unwrap();
    }
}

#[test]
fn readyz_says_what_is_missing_and_why() {
    let (metrics, hand) = metrics();
    let health = metrics.health();
    golden("readyz_empty", &get(&metrics, "/readyz"));

    health.require("config_loaded");
    health.require("bus_attached");
    health.set(
        "svc-\"index\"",
        Condition::not_ready("quarantined\nafter 5 crashes"),
    );
    hand.pass(1_234);
    health.set("ledger", Condition::degraded("brownout"));
    golden("readyz_starting", &get(&metrics, "/readyz"));

    health.satisfy("config_loaded");
    health.satisfy("bus_attached");
    health.clear("svc-\"index\"");
    golden("readyz_degraded", &get(&metrics, "/readyz"));

    health.clear("ledger");
    hand.pass(5_000);
    golden("readyz_ready", &get(&metrics, "/readyz"));

    health.set("keyring", Condition::fail_secure("unreadable"));
    golden("readyz_fail_secure", &get(&metrics, "/readyz"));
    health.draining();
    golden("readyz_draining", &get(&metrics, "/readyz"));
}

#[test]
fn a_readyz_with_thousands_of_causes_stays_short_and_says_how_many_there_are() {
    let (metrics, _) = metrics();
    for n in 0..2_000 {
        metrics
            .health()
            .set(&format!("child-{n:04}"), Condition::degraded("quarantined"));
        metrics.health().require(&format!("key-{n:04}"));
    }
    let body = get(&metrics, "/readyz").body;
    let json: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(json["causes"].as_array().unwrap().len(), 101);
    assert_eq!(json["causes"][100]["reason"], "1900 more causes");
    assert_eq!(json["missing"].as_array().unwrap().len(), 101);
    assert_eq!(json["missing"][100], "1900 more");
}

#[test]
fn livez_fails_on_a_stalled_runtime_and_healthz_never() {
    let (metrics, hand) = metrics();
    golden("livez_ok", &get(&metrics, "/livez"));
    metrics.health().beat();
    hand.pass(10_001);
    golden("livez_stalled", &get(&metrics, "/livez"));
    metrics.health().draining();
    golden("healthz", &get(&metrics, "/healthz"));
}

#[test]
fn version_states_identity_and_posture() {
    let (metrics, _) = metrics();
    golden("version_unknown", &get(&metrics, "/version"));
    let mut identity = Identity::new("i-1", "1.2.3");
    identity.build = "4458d22".to_string();
    identity.rustc = "1.80.1".to_string();
    identity.amnesia = true;
    identity.pq = Pq::Required;
    identity.features.insert("chaos".to_string(), false);
    identity.features.insert("pq".to_string(), true);
    identity.config_sha = Some("b3:00".to_string());
    identity.containment = Some("cgroup".to_string());
    metrics.set_identity(identity);
    golden("version", &get(&metrics, "/version"));
}

#[test]
fn other_methods_and_paths_are_refused() {
    let (metrics, _) = metrics();
    golden("not_found", &get(&metrics, "/nowhere"));
    for path in ["/metrics", "/healthz", "/livez", "/readyz", "/version"] {
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get", ""] {
            let answer = metrics.admin(&AdminRequest::new(method, path));
            assert_eq!(
                (answer.status, answer.header("allow")),
                (405, Some("GET, HEAD")),
                "{method} {path}"
            );
        }
    }
    golden(
        "method_not_allowed",
        &metrics.admin(&AdminRequest::new("POST", "/readyz")),
    );
    for path in ["", "/", "/metrics/", "/METRICS", "//metrics", "/healthz/x"] {
        assert_eq!(get(&metrics, path).status, 404, "{path}");
    }
}

#[test]
fn a_query_is_ignored() {
    let (metrics, _) = metrics();
    assert_eq!(get(&metrics, "/healthz?verbose=1").status, 200);
    assert_eq!(get(&metrics, "/metrics?name[]=up").status, 200);
}

#[test]
fn head_gets_the_headers_of_get_and_no_body() {
    let (metrics, _) = metrics();
    for path in [
        "/healthz", "/livez", "/readyz", "/version", "/metrics", "/nowhere",
    ] {
        let get = get(&metrics, path);
        let head = metrics.admin(&AdminRequest::new("HEAD", path));
        assert_eq!(
            (head.status, &head.headers, head.body.as_str()),
            (get.status, &get.headers, ""),
            "{path}"
        );
        assert_eq!(
            get.header("content-length"),
            Some(get.body.len().to_string().as_str())
        );
        assert_eq!(get.header("cache-control"), Some("no-store"));
        assert_eq!(get.header("x-content-type-options"), Some("nosniff"));
    }
}

#[test]
fn health_answers_readyz_on_a_route_of_the_callers() {
    let (metrics, _) = metrics();
    assert_eq!(metrics.health().response(), get(&metrics, "/readyz"));
}
