//! Accepts connections on the socket, one request each, from a thread of its own: it answers while every worker of
//! the service is blocked.

use super::routes::{self, Answer, Call, Peer, Service};
use super::socket::Socket;
use super::tail::Lines;
use http_body_util::{BodyExt, Either, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{HeaderValue, ALLOW, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{oneshot, watch, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Connections at a time: a handful of people, each with a tail and a command.
const CONNECTIONS_MAX: usize = 32;
/// Of these, tails, so that there is room for commands.
pub(crate) const LASTING_MAX: usize = 16;
/// Bytes of a request's head and body.
const HEAD_MAX: usize = 16 * 1024;
const BODY_MAX: usize = 64 * 1024;
/// A client on the same machine sends its request in one write.
const HEAD_TIMEOUT: Duration = Duration::from_secs(2);
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client may take to read an answer that has an end, whatever its length: it is on the same machine.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections above the limit that are told so; those above these are closed.
const REFUSALS_MAX: usize = 16;
/// How long the exit waits for answers under way.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);
/// Commands and handlers at a time; each may wait for a log writer, and others wait behind these.
const BLOCKING_MAX: usize = 2 * CONNECTIONS_MAX;
/// After an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

type Body = Either<Full<Bytes>, Lines>;

/// A serving control plane. Dropping it stops it without waiting.
#[derive(Debug)]
pub(crate) struct Server {
    path: PathBuf,
    stop: watch::Sender<bool>,
    ended: Option<oneshot::Receiver<()>>,
}

impl Server {
    pub(crate) fn start(socket: Socket, service: Service) -> io::Result<Server> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(BLOCKING_MAX)
            .build()?;
        let Socket { listener, file } = socket;
        let path = file.path.clone();
        let listener = {
            let _inside = runtime.enter();
            UnixListener::from_std(listener)?
        };
        let (stop, stopped) = watch::channel(false);
        let (ending, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name("ron-control".to_owned())
            .spawn(move || {
                runtime.block_on(serve(listener, Arc::new(service), stopped));
                drop(file);
                // A handler that blocks does not hold up the exit.
                runtime.shutdown_background();
                let _ = ending.send(());
            })?;
        Ok(Server {
            path,
            stop,
            ended: Some(ended),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Stops accepting, gives answers under way a moment, and removes the socket.
    pub(crate) async fn close(mut self) {
        self.stop.send_replace(true);
        // Not joined: a runtime that is dropped would wait for whoever joins.
        if let Some(ended) = self.ended.take() {
            let _ = timeout(2 * CLOSE_TIMEOUT, ended).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

async fn serve(listener: UnixListener, service: Arc<Service>, mut stopped: watch::Receiver<bool>) {
    let own = rustix::process::geteuid().as_raw();
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
    let mut connections = JoinSet::new();
    let mut stop = pin!(async move {
        let _ = stopped.wait_for(|stop| *stop).await;
    });
    loop {
        tokio::select! {
            biased;
            () = &mut stop => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let admitted = admit(&stream, own);
                    let place = match &admitted {
                        Ok(_) => room.clone().try_acquire_owned().ok(),
                        Err(_) => None,
                    };
                    let reception = match (admitted, &place) {
                        (Err(uid), _) => Reception::Foreign(uid),
                        (Ok(_), None) => Reception::Busy,
                        (Ok(peer), Some(_)) => Reception::Welcome(peer),
                    };
                    let Some(place) = place.or_else(|| refusals.clone().try_acquire_owned().ok())
                    else {
                        continue;
                    };
                    let service = service.clone();
                    connections.spawn(async move {
                        converse(stream, service, reception, place).await;
                    });
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }
    drop(listener);
    service.close();
    let ended = async { while connections.join_next().await.is_some() {} };
    let _ = timeout(CLOSE_TIMEOUT, ended).await;
}

#[derive(Clone, Debug)]
enum Reception {
    Welcome(Peer),
    Busy,
    /// Not the user of this process, nor root.
    Foreign(u32),
}

/// By the system's word, not the client's.
fn admit(stream: &UnixStream, own: u32) -> Result<Peer, u32> {
    let Ok(peer) = stream.peer_cred() else {
        return Err(u32::MAX);
    };
    if peer.uid() == own || peer.uid() == 0 {
        Ok(Peer {
            uid: peer.uid(),
            pid: peer.pid(),
        })
    } else {
        Err(peer.uid())
    }
}

/// One request and its answer; whoever wants more connects again.
async fn converse(
    stream: UnixStream,
    service: Arc<Service>,
    reception: Reception,
    place: OwnedSemaphorePermit,
) {
    let place = Arc::new(place);
    // The moment an answer with an end was made.
    let (made, mut when_made) = watch::channel(false);
    let handle = service_fn(move |request: Request<Incoming>| {
        let (service, reception, made) = (service.clone(), reception.clone(), made.clone());
        let place = place.clone();
        async move {
            let answer = match reception {
                Reception::Welcome(peer) => receive(request, peer, place, &service).await,
                Reception::Busy => routes::busy("too many connections to the control socket"),
                Reception::Foreign(uid) => {
                    // Whoever writes the log may make one wait.
                    let told = tokio::task::spawn_blocking(move || {
                        let _place = place;
                        tracing::warn!(event = "control_refused", uid, "control request refused");
                    });
                    drop(told);
                    routes::foreign(uid)
                }
            };
            if matches!(answer, Answer::Json { .. }) {
                made.send_replace(true);
            }
            Ok::<_, Infallible>(respond(answer))
        }
    });
    let conversation = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), handle);
    let unread = async move {
        if when_made.wait_for(|made| *made).await.is_err() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(WRITE_TIMEOUT).await;
    };
    // What goes wrong here is the client's: it hears of it, or is gone.
    tokio::select! {
        _ = conversation => {}
        () = unread => {}
    }
}

async fn receive(
    request: Request<Incoming>,
    peer: Peer,
    place: Arc<OwnedSemaphorePermit>,
    service: &Arc<Service>,
) -> Answer {
    let (head, body) = request.into_parts();
    if body.size_hint().lower() > BODY_MAX as u64 {
        return too_large();
    }
    let body = match timeout(BODY_TIMEOUT, Limited::new(body, BODY_MAX).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return too_large(),
        Ok(Err(error)) => {
            let text = format!("the body cannot be read: {error}");
            return routes::bad_request(&text);
        }
        Err(_) => {
            let text = format!("the body took longer than {BODY_TIMEOUT:?}");
            return routes::refused(StatusCode::REQUEST_TIMEOUT, "too_slow", &text);
        }
    };
    let call = Call {
        method: head.method,
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        body,
        peer,
        _place: place,
    };
    routes::answer(call, service).await
}

fn too_large() -> Answer {
    let text = format!("the body is longer than {BODY_MAX} bytes");
    routes::refused(StatusCode::PAYLOAD_TOO_LARGE, "too_large", &text)
}

fn respond(answer: Answer) -> Response<Body> {
    let (status, kind, body, allow) = match answer {
        Answer::Json {
            status,
            body,
            allow,
        } => {
            let body = Either::Left(Full::new(Bytes::from(body)));
            (status, "application/json", body, allow)
        }
        Answer::Lines(lines) => {
            let body = Either::Right(lines);
            (StatusCode::OK, "application/x-ndjson", body, None)
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Some(allow) = allow.and_then(|allow| HeaderValue::try_from(allow).ok()) {
        response.headers_mut().insert(ALLOW, allow);
    }
    response
}
