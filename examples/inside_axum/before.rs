//! An axum service as many are: a server, and a background task that nobody watches.
#![allow(clippy::print_stdout, reason = "an example is there to be read")]

mod visitor;

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
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

async fn pack(shop: Shop, mut orders: mpsc::Receiver<String>) {
    sleep(Duration::from_millis(300)).await; // loads the stock list
    while let Some(item) = orders.recv().await {
        assert!(item != "anvil", "{item} does not fit into a box");
        shop.packed.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (orders, queue) = mpsc::channel(16);
    let shop = Shop {
        orders,
        packed: Arc::default(),
    };
    let app = Router::new()
        .route("/order/{item}", post(order))
        .route("/packed", get(packed))
        .with_state(shop.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (stop, visitor) = visitor::visit(listener.local_addr()?);

    tokio::spawn(pack(shop, queue));
    axum::serve(listener, app)
        .with_graceful_shutdown(stop)
        .await?;
    visitor.await??;
    Ok(())
}
