//! What may cross threads and be held across awaits. It compiles or it does not.

use ron_metrics::*;

fn send_sync_unpin<T: Send + Sync + Unpin + 'static>() {}

#[test]
fn handles_cross_threads() {
    send_sync_unpin::<Metrics>();
    send_sync_unpin::<Golden>();
    send_sync_unpin::<Counter>();
    send_sync_unpin::<Gauge>();
    send_sync_unpin::<FloatGauge>();
    send_sync_unpin::<Histogram>();
    send_sync_unpin::<CounterFamily<RouteLabels>>();
    send_sync_unpin::<HistogramFamily<RouteLabels>>();
    send_sync_unpin::<Owned<Counter>>();
    send_sync_unpin::<CounterCollector<2>>();
    send_sync_unpin::<Feed>();
    send_sync_unpin::<HealthState>();
    send_sync_unpin::<Latch>();
    send_sync_unpin::<Watch>();
    send_sync_unpin::<Snapshot>();
    send_sync_unpin::<Identity>();
    send_sync_unpin::<AdminResponse>();
    send_sync_unpin::<MetricsError>();
}

#[cfg(feature = "serve")]
#[test]
fn servers_cross_threads() {
    fn send<T: Send>(value: T) -> T {
        value
    }
    send_sync_unpin::<ServerHandle>();
    send_sync_unpin::<ServeOptions>();
    send_sync_unpin::<BindError>();
    let metrics = Metrics::new("test").unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    drop(send(metrics.server(listener, std::future::pending())));
}

#[cfg(feature = "tls")]
#[test]
fn tls_crosses_threads() {
    send_sync_unpin::<Tls>();
    send_sync_unpin::<TlsError>();
}
