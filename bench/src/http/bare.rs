//! hyper with nothing around it: bodies from memory; what is put is hashed, and dropped.

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::net::SocketAddr;
use tokio::net::TcpListener;
use tokio::runtime::Builder;

/// Serves `addr` until it is killed.
pub fn serve(addr: SocketAddr) {
    let mut runtime = Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build();
    let bodies: [Bytes; 3] = super::SIZES.map(|(_, size)| super::body(size).into());
    runtime.expect("a runtime").block_on(async move {
        let listener = TcpListener::bind(addr).await.expect("a free address");
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            stream.set_nodelay(true).expect("a socket");
            let bodies = bodies.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| answer(request, bodies.clone()));
                // The client goes when it has enough.
                let _ = http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
}

async fn answer(
    request: Request<Incoming>,
    bodies: [Bytes; 3],
) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut status = StatusCode::OK;
    let body = if request.method() == Method::PUT {
        let mut hasher = blake3::Hasher::new();
        let mut body = request.into_body();
        while let Some(frame) = body.frame().await {
            match frame.map(|frame| frame.into_data()) {
                Ok(Ok(data)) => drop(hasher.update(&data)),
                Ok(Err(_)) => {}
                Err(_) => status = StatusCode::BAD_REQUEST,
            }
        }
        if status == StatusCode::OK {
            status = StatusCode::CREATED;
        }
        Bytes::from(hasher.finalize().to_hex().to_string())
    } else {
        let path = request.uri().path();
        let known = super::SIZES.iter().zip(bodies);
        let mut known = known.filter(|((name, _), _)| path.strip_prefix('/') == Some(name));
        match known.next() {
            Some((_, body)) => body,
            None => {
                status = StatusCode::NOT_FOUND;
                Bytes::new()
            }
        }
    };
    let response = Response::builder()
        .status(status)
        .header(CONTENT_TYPE, "application/octet-stream");
    Ok(response.body(Full::new(body)).expect("a response"))
}
