//! Golden metrics, honest health and readiness, Prometheus exposition.
#![forbid(unsafe_code)]
