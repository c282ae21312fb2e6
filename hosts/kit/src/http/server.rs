//! The child that accepts connections.

use std::future::Future;
use std::pin::{pin, Pin};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ron_kernel::metrics::{Condition, QueueLabel, State};
use ron_kernel::supervisor::ChildContext;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{interval, timeout, MissedTickBehavior};

use super::front::{Front, Keys, News};
use super::node::{Node, Openness};
use super::settings::HttpSettings;
use super::timed::{Phase, Timed};
use super::tls::{HandshakeFailure, Tls};

/// Between two looks at how loaded the node is.
const LOOK: Duration = Duration::from_millis(100);
/// How long and how much of a refused request is read, so that the answer is not lost with the connection.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 4 << 20;
/// Of a head, and of what is read at a time: a head and 64 KiB of a body.
const BUFFER: usize = 80 << 10;
/// After an accept that failed: descriptors may be free again by then.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// What is left of the deadline of a stop for connections that did not end in time.
const LAST_MOMENT: Duration = Duration::from_millis(50);

/// Accepts connections at `front` and answers their requests, until the child is stopped: then it stops listening,
/// lets answers under way finish, and ends by the deadline. `settings` tells the limits in force, which are looked at anew
/// with every turn of its clock.
///
/// # Errors
/// The listener was not bound, or cannot be used.
pub async fn serve(
    cx: ChildContext,
    front: Front,
    node: Node,
    settings: impl Fn() -> HttpSettings + Send,
) -> std::io::Result<()> {
    let accepting = front.listener.accepting();
    let bound = accepting.unwrap_or_else(|| Err(std::io::ErrorKind::NotConnected.into()))?;
    let socket = TcpListener::from_std(bound)?;
    let places = Arc::new(Semaphore::new(settings().max_conns));
    let health = node.metrics().health().clone();
    let changed = Arc::new(Notify::new());
    let told = Arc::clone(&changed);
    let _watch = health.watch(move || told.notify_one());
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connections = JoinSet::new();
    node.configure(&settings());
    let mut news = follow(&front);
    let mut refused = node.refused_by_rate();
    cx.ready();
    loop {
        tokio::select! {
            biased;
            () = cx.stopping() => break,
            () = changed.notified() => look(&node),
            _ = looks.tick() => {
                node.configure(&settings());
                watch_load(&node, &mut refused);
                if news.is_finished() {
                    if let Ok(news) = (&mut news).await {
                        watch_keys(&front, &node, news.keys);
                        watch_tls(&node, news.tls);
                    }
                    news = follow(&front);
                }
                look(&node);
            }
            Some(_) = connections.join_next() => {}
            accepted = accept(&socket, &places) => match accepted {
                Ok((stream, place)) => {
                    let (node, stopping) = (node.clone(), cx.stopping_owned());
                    let tls = front.tls.clone();
                    connections.spawn(async move {
                        match tls {
                            None => connection(stream, node, stopping).await,
                            Some(tls) => encrypted(&tls, stream, node, stopping).await,
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    let error = error.to_string();
                    tracing::warn!(event = "accept_failed", error, "cannot accept: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    drop(socket);
    front.listener.close();
    node.open(Openness::Draining, Duration::from_secs(1));
    let all_ended = async { while connections.join_next().await.is_some() {} };
    match cx.deadline() {
        Some(deadline) => drop(tokio::time::timeout_at(deadline - LAST_MOMENT, all_ended).await),
        None => all_ended.await,
    }
    let stragglers = connections.len();
    if stragglers > 0 {
        tracing::warn!(
            event = "connections_aborted",
            stragglers,
            "{stragglers} connections did not end in time"
        );
        connections.shutdown().await;
    }
    Ok(())
}

/// A place first: at the cap connections wait in the system's queue.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await;
    let place = place.map_err(std::io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, place))
}

fn look(node: &Node) {
    let snapshot = node.metrics().health().snapshot();
    let openness = match snapshot.state() {
        _ if snapshot.fail_secure() => Openness::Closed,
        // It has told so, and serves whoever has not heard it yet until it is stopped.
        State::Draining => Openness::Leaving,
        State::NotReady => Openness::ReadOnly,
        _ => Openness::Open,
    };
    node.open(openness, snapshot.retry_after());
}

/// How close the node is to its limits; `refused` is what was refused by the last look for its rate. It is degraded before
/// it is not ready.
fn watch_load(node: &Node, refused: &mut u64) {
    let health = node.metrics().health();
    let now = node.refused_by_rate();
    let refusals = now - std::mem::replace(refused, now);
    if refusals > 0 {
        let reason = format!("{refusals} requests in {LOOK:?} exceeded http.rps");
        health.set("quota", Condition::degraded(reason));
    } else {
        health.clear("quota");
    }
    let (inflight, limit, waiting) = node.load();
    let depth = &node.metrics().golden().queue_depth;
    depth.get(&QueueLabel::new("inflight")).set(waiting as i64);
    let reason = || format!("{inflight} of {limit} requests under way");
    if inflight * 5 > limit * 4 {
        health.set("saturation", Condition::not_ready(reason()));
    } else if inflight * 5 > limit * 3 {
        health.set("saturation", Condition::degraded(reason()));
    } else {
        health.clear("saturation");
    }
}

/// Looks at files where a slow disk holds up nothing else.
fn follow(front: &Front) -> JoinHandle<News> {
    let front = front.clone();
    tokio::task::spawn_blocking(move || front.follow())
}

/// Certificate and key, which are read again with every reload.
fn watch_tls(node: &Node, news: Option<Result<(), super::tls::TlsError>>) {
    let health = node.metrics().health();
    match news {
        None => {}
        Some(Ok(())) => {
            health.clear("tls");
            tracing::info!(event = "tls_rotated", "certificate and key read again");
        }
        Some(Err(error)) => {
            let error = error.to_string();
            tracing::error!(
                event = "tls_rotation_failed",
                error,
                "the old certificate stays in use: {error}"
            );
            health.set("tls", Condition::degraded(error));
        }
    }
}

/// The keyring's file, whose changes are in force within two looks. Without keys nothing is allowed, and the node says so.
fn watch_keys(front: &Front, node: &Node, news: Keys) {
    let health = node.metrics().health();
    match news {
        Keys::AsBefore => {}
        Keys::Changed => tracing::info!(event = "keyring_changed", "the keyring was read again"),
        Keys::Lost(error) => {
            let error = error.to_string();
            tracing::error!(
                event = "keyring_lost",
                error,
                "the keyring is lost: {error}"
            );
        }
    }
    if front.door.has_keys() {
        health.clear("caps_loaded");
    } else {
        health.set(
            "caps_loaded",
            Condition::fail_secure("the keyring cannot be read"),
        );
    }
}

/// [`connection`] after a handshake.
async fn encrypted(tls: &Tls, stream: TcpStream, node: Node, stopping: impl Future<Output = ()>) {
    let handshake = timeout(node.handshake_timeout(), tls.accept(stream)).await;
    match handshake.unwrap_or(Err(HandshakeFailure("timeout"))) {
        Ok(None) => {}
        Ok(Some((stream, exchanged))) => {
            node.tls().exchanged(exchanged);
            connection(stream, node, stopping).await;
        }
        Err(failure) => {
            node.tls().failed(failure);
            let reason = failure.0;
            tracing::debug!(event = "tls_handshake_failed", reason, "no TLS: {reason}");
        }
    }
}

async fn connection<S>(stream: S, node: Node, stopping: impl Future<Output = ()>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let phase = Phase::default();
    let times = node.clone();
    let io = TokioIo::new(Timed::new(stream, phase.clone(), move || times.times()));
    let counted = node.clone();
    let service = service_fn(move |request| {
        // Before the answer is polled: the connection may be read in between.
        phase.busy();
        Box::pin(node.clone().serve(request, phase.clone()))
    });
    let mut connection = http1::Builder::new()
        .half_close(false)
        .header_read_timeout(None)
        .max_buf_size(BUFFER)
        .serve_connection(io, service);
    let mut stopping = pin!(stopping);
    let mut asked_to_end = false;
    let ended = std::future::poll_fn(|cx| {
        if !asked_to_end && stopping.as_mut().poll(cx).is_ready() {
            asked_to_end = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        // All the way: what is in its buffer goes out before it is taken apart.
        Pin::new(&mut connection).poll(cx)
    });
    match ended.await {
        Ok(()) => {}
        Err(error) if error.is_parse_too_large() => counted.malformed(431),
        Err(error) if error.is_parse() => counted.malformed(400),
        Err(_) => return,
    }
    let mut stream = connection.into_parts().io.into_inner();
    linger(&mut stream).await;
}

/// Closes our side, and reads for a moment what the peer still sends: a close with unread bytes would reset the connection,
/// and the answer with it.
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut rest = stream.take(LINGER_BYTES);
    let mut buffer = vec![0; 16 << 10];
    let reading = async { while matches!(rest.read(&mut buffer).await, Ok(1..)) {} };
    let _ = timeout(LINGER, reading).await;
}
