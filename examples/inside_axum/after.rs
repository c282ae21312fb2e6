//! The axum service of before.rs moved into a kernel: server and packer are children, /readyz and /metrics are its own
//! routes.
#![allow(clippy::print_stdout, reason = "an example is there to be read")]

mod visitor;

use std::error::Error;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{AppendHeaders, IntoResponse};
use axum::routing::{get, post};
use axum::Router;
use ron_kernel::metrics::Format;
use ron_kernel::supervisor::{Child, ChildContext};
use ron_kernel::{HealthState, Kernel, Metrics};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, Mutex};
use tokio::time::sleep;

#[derive(Clone)]
struct Shop {
    orders: mpsc::Sender<String>,
    packed: Arc<AtomicU64>,
}

async fn order(State(shop): State<Shop>, Path(item): Path<String>) -> StatusCode {
    match shop.orders.try_send(item) {
        Ok(()) => StatusCode::ACCEPTED,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

async fn packed(State(shop): State<Shop>) -> String {
    shop.packed.load(Ordering::Relaxed).to_string()
}

async fn pack(cx: ChildContext, (shop, orders): (Shop, Arc<Mutex<mpsc::Receiver<String>>>)) {
    let mut orders = orders.lock().await;
    sleep(Duration::from_millis(300)).await; // loads the stock list
    cx.ready();
    while let Some(item) =
        tokio::select! { item = orders.recv() => item, _ = cx.stopping() => None }
    {
        assert!(item != "anvil", "{item} does not fit into a box");
        shop.packed.fetch_add(1, Ordering::Relaxed);
    }
}

async fn serve(
    cx: ChildContext,
    (listener, app): (Arc<std::net::TcpListener>, Router),
) -> io::Result<()> {
    axum::serve(TcpListener::from_std(listener.try_clone()?)?, app)
        .with_graceful_shutdown(cx.stopping_owned())
        .await
}

async fn readyz(health: HealthState) -> impl IntoResponse {
    let answer = health.response();
    let status = StatusCode::from_u16(answer.status).expect("200 or 503");
    let headers = AppendHeaders(answer.headers);
    (status, headers, Body::from(answer.body))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let metrics = Metrics::new("shop")?;
    let (health, scraped) = (metrics.health().clone(), metrics.clone());
    let scrape = || async move { scraped.render(Format::default()) };
    let (orders, queue) = mpsc::channel(16);
    let shop = Shop {
        orders,
        packed: Arc::default(),
    };
    let app = Router::new()
        .route("/order/{item}", post(order))
        .route("/packed", get(packed))
        .route("/readyz", get(|| readyz(health)))
        .route("/metrics", get(scrape))
        .with_state(shop.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (stop, visitor) = visitor::visit(listener.local_addr()?);

    let listener = Arc::new(listener.into_std()?);
    let queue = Arc::new(Mutex::new(queue));
    Kernel::builder()
        .metrics(metrics)
        .child(Child::task_with("packer", (shop, queue), pack).gated(Duration::from_secs(10)))
        .child(Child::task_with("http", (listener, app), serve))
        .build()?
        .run_until(stop)
        .await?;
    visitor.await??;
    Ok(())
}
