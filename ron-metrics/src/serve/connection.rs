//! The accept loop with its cap, and one connection with its deadlines.
//!
//! # Who makes room
//!
//! A connection is *reading* from its accept, or from the first byte of a request, until the head is complete; then
//! *writing* until the response has left; then *idle*. Each phase has a deadline for the whole of it, so a peer that
//! trickles bytes is no better off than a silent one. When all places are taken, a new connection evicts the longest
//! idle one, else the one that has been in its phase longest. The newest is never the victim, and a request that is
//! there is answered the first time its connection runs, before the next one is accepted. So a probe gets through
//! while any number of scrapers hang.

use std::convert::Infallible;
use std::future::{poll_fn, Future};
use std::io;
use std::pin::{pin, Pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{HeaderValue, ACCEPT, CONNECTION};
use hyper::rt::ReadBufCursor;
use hyper::service::service_fn;
use hyper::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep_until, Instant, Sleep};

use super::listener::{Registered, Stream};
use super::ServeOptions;
use crate::admin::{AdminRequest, AdminResponse, ROUTES};
use crate::counter::Counter;
use crate::golden::{ReasonLabel, RequestLabels, RouteLabels};
use crate::metrics::Metrics;

/// Pause after a failed accept. The usual cause, no file descriptors left, is not helped by trying faster.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until `stop`, then finishes what is being answered.
pub(super) async fn accept_loop(
    metrics: Metrics,
    listener: Registered,
    options: ServeOptions,
    stop: impl Future<Output = ()>,
) {
    let mut places = Places::new(&metrics, options);
    let mut stop = pin!(stop);
    loop {
        let accepted = poll_fn(|cx| {
            if stop.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            places.reap(cx);
            listener.poll_accept(cx).map(Some)
        });
        match accepted.await {
            None => break,
            Some(Ok(stream)) => {
                places.admit(stream);
                tokio::task::yield_now().await;
            }
            Some(Err(_)) => {
                let pause = pin!(tokio::time::sleep(ACCEPT_PAUSE));
                wait_either(pause, stop.as_mut()).await;
            }
        }
    }
    // Closed before the drain: who connects now is refused by the system, not left to hang.
    drop(listener);
    places.drain().await;
}

/// The connections there are.
struct Places {
    metrics: Metrics,
    options: Arc<ServeOptions>,
    tasks: JoinSet<()>,
    taken: Vec<(AbortHandle, Arc<Progress>)>,
    evicted: Counter,
}

impl Places {
    fn new(metrics: &Metrics, options: ServeOptions) -> Places {
        let rejected = &metrics.golden().rejected_total;
        Places {
            metrics: metrics.clone(),
            evicted: rejected.get(&ReasonLabel::new("admin_evicted")),
            options: Arc::new(options),
            tasks: JoinSet::new(),
            taken: Vec::new(),
        }
    }

    /// Forgets connections that have ended.
    fn reap(&mut self, cx: &mut Context<'_>) {
        let mut ended = false;
        while let Poll::Ready(Some(_)) = self.tasks.poll_join_next(cx) {
            ended = true;
        }
        if ended {
            self.taken.retain(|(task, _)| !task.is_finished());
        }
    }

    fn admit(&mut self, stream: Stream) {
        if self.taken.len() >= self.options.max_conns {
            self.evict();
        }
        let progress = Arc::new(Progress::new());
        let connection = serve(
            self.metrics.clone(),
            stream,
            self.options.clone(),
            progress.clone(),
        );
        let task = self.tasks.spawn(connection);
        self.taken.push((task, progress));
    }

    fn evict(&mut self) {
        let phases = self.taken.iter().map(|(_, progress)| progress.get());
        let victim = phases
            .enumerate()
            .min_by_key(|(_, (phase, since))| (*phase != Phase::Idle, *since));
        if let Some((victim, _)) = victim {
            self.taken.swap_remove(victim).0.abort();
            self.evicted.inc();
        }
    }

    /// Lets responses finish within the write timeout; everything else is closed at once.
    async fn drain(mut self) {
        for (task, progress) in &self.taken {
            progress.stop();
            if progress.get().0 != Phase::Writing {
                task.abort();
            }
        }
        let deadline = pin!(tokio::time::sleep(self.options.write_timeout));
        let all = async { while self.tasks.join_next().await.is_some() {} };
        wait_either(deadline, pin!(all)).await;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Reading,
    Writing,
    Idle,
}

/// Where a connection is, seen by the connection itself and by the accept loop.
#[derive(Debug)]
struct Progress {
    state: Mutex<(Phase, Instant)>,
    stopping: AtomicBool,
}

impl Progress {
    fn new() -> Progress {
        Progress {
            state: Mutex::new((Phase::Reading, Instant::now())),
            stopping: AtomicBool::new(false),
        }
    }

    fn get(&self) -> (Phase, Instant) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, phase: Phase) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = (phase, Instant::now());
    }

    fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    fn deadline(&self, options: &ServeOptions) -> Instant {
        let (phase, since) = self.get();
        since
            + match phase {
                Phase::Reading => options.read_timeout,
                Phase::Writing => options.write_timeout,
                Phase::Idle => options.idle_timeout,
            }
    }
}

async fn serve(
    metrics: Metrics,
    stream: Stream,
    options: Arc<ServeOptions>,
    progress: Arc<Progress>,
) {
    let sleep = pin!(sleep_until(progress.deadline(&options)));
    let connection = pin!(converse(metrics, stream, &options, &progress));
    within_deadlines(connection, sleep, &options, &progress).await;
}

/// Drives the connection until it ends or overstays a phase.
async fn within_deadlines(
    mut connection: Pin<&mut impl Future<Output = ()>>,
    mut sleep: Pin<&mut Sleep>,
    options: &ServeOptions,
    progress: &Progress,
) {
    poll_fn(|cx| {
        if connection.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if progress.stopping() && progress.get().0 != Phase::Writing {
            return Poll::Ready(());
        }
        loop {
            let deadline = progress.deadline(options);
            if sleep.deadline() != deadline {
                sleep.as_mut().reset(deadline);
            }
            match sleep.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) if Instant::now() >= progress.deadline(options) => {
                    return Poll::Ready(())
                }
                Poll::Ready(()) => {}
            }
        }
    })
    .await;
}

async fn converse(
    metrics: Metrics,
    stream: Stream,
    options: &ServeOptions,
    progress: &Arc<Progress>,
) {
    match stream {
        Stream::Tcp(stream) => {
            // A response is written in one piece; a failure costs latency only.
            let _ = stream.set_nodelay(true);
            #[cfg(feature = "tls")]
            if let Some(tls) = &options.tls {
                // A failed handshake is the peer's affair.
                if let Ok(stream) = tls.acceptor().accept(stream).await {
                    speak_http(metrics, stream, options, progress).await;
                }
                return;
            }
            speak_http(metrics, stream, options, progress).await;
        }
        #[cfg(unix)]
        Stream::Unix(stream) => speak_http(metrics, stream, options, progress).await,
    }
}

async fn speak_http<S>(
    metrics: Metrics,
    stream: S,
    options: &ServeOptions,
    progress: &Arc<Progress>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(|request: Request<Incoming>| {
        let response = respond(&metrics, &request, progress.stopping());
        progress.enter(Phase::Writing);
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let io = Observed {
        stream,
        progress: progress.clone(),
    };
    // The phases time the head; hyper's own timer is off, as it would also cut idle connections.
    let connection = hyper::server::conn::http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(options.max_header_bytes)
        .max_headers(options.max_headers)
        .serve_connection(io, service);
    // Broken requests have been answered with 4xx; a broken connection has nobody to tell.
    let _ = connection.await;
}

fn respond(metrics: &Metrics, request: &Request<Incoming>, stopping: bool) -> Response<Once> {
    let begun = Instant::now();
    let has_body = !request.body().is_end_stream();
    let answer = if has_body {
        AdminResponse::plain(413, "request bodies are not accepted here\n")
    } else {
        let accept: Vec<&str> = request
            .headers()
            .get_all(ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .collect();
        let accept = accept.join(",");
        let asked = AdminRequest::new(request.method().as_str(), request.uri().path());
        let asked = if accept.is_empty() {
            asked
        } else {
            asked.accept(&accept)
        };
        metrics.admin(&asked)
    };
    count(metrics, request, answer.status, begun.elapsed());
    let mut response = Response::new(Once(Some(Bytes::from(answer.body))));
    if let Ok(status) = answer.status.try_into() {
        *response.status_mut() = status;
    }
    for (name, value) in answer.headers {
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(name, value);
        }
    }
    if has_body || stopping {
        // The unread body must not be taken for the next request.
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Requests of the listener itself, with the time it took to make the answer. What the peer invents is `other`.
fn count(metrics: &Metrics, request: &Request<Incoming>, status: u16, took: Duration) {
    let path = request.uri().path();
    let route = ROUTES.into_iter().find(|route| *route == path);
    let route = route.unwrap_or("other");
    let method = match request.method().as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        _ => "other",
    };
    let golden = metrics.golden();
    let labels = RequestLabels::new(route, method, status.to_string());
    golden.http_requests_total.get(&labels).inc();
    let labels = RouteLabels::new(route, method);
    golden
        .request_latency_seconds
        .get(&labels)
        .observe_duration(took);
}

/// A body in one piece.
struct Once(Option<Bytes>);

impl Body for Once {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(
            self.0
                .take()
                .filter(|bytes| !bytes.is_empty())
                .map(|bytes| Ok(Frame::data(bytes))),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().map_or(true, Bytes::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

/// A stream that notes the phases as bytes pass.
struct Observed<S> {
    stream: S,
    progress: Arc<Progress>,
}

impl<S: AsyncRead + Unpin> hyper::rt::Read for Observed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut to: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = [0; 4096];
        let room = to.remaining().min(bytes.len());
        let mut buffer = ReadBuf::new(bytes.get_mut(..room).unwrap_or_default());
        let read = Pin::new(&mut self.stream).poll_read(cx, &mut buffer);
        if let Poll::Ready(Ok(())) = read {
            if !buffer.filled().is_empty() && self.progress.get().0 == Phase::Idle {
                self.progress.enter(Phase::Reading);
            }
            to.put_slice(buffer.filled());
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> hyper::rt::Write for Observed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        // hyper flushes when it has nothing left to write.
        if flushed.is_ready() && self.progress.get().0 == Phase::Writing {
            self.progress.enter(Phase::Idle);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }
}

async fn wait_either(
    mut a: Pin<&mut impl Future<Output = ()>>,
    mut b: Pin<&mut impl Future<Output = ()>>,
) {
    poll_fn(|cx| {
        if a.as_mut().poll(cx).is_ready() || b.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        Poll::Pending
    })
    .await;
}
