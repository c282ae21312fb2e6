//! The child that accepts connections.

use std::error::Error;
use std::future::Future;
use std::pin::{pin, Pin};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ron_config::Watch;
use ron_kernel::metrics::{Condition, Metrics, QueueLabel, Snapshot, State, Status};
use ron_kernel::supervisor::{Child, ChildContext};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{interval, timeout, Instant, MissedTickBehavior};

use super::front::{Front, Keys, News};
use super::listener::{Accepting, Caller};
use super::node::{Link, Node, Openness};
use super::routes::Routes;
use super::settings::HttpSettings;
use super::timed::{Eager, Phase, Timed};
use super::tls::{HandshakeFailure, Tls};

/// The readiness cause of places that are taken.
const SATURATION: &str = "saturation";
/// Between two looks at how loaded the node is.
const LOOK: Duration = Duration::from_millis(100);
/// How long and how much of a refused request is read, so that the answer is not lost with the connection.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 4 << 20;
/// Of a head, and of what is read at a time: a head and 64 KiB of a body.
const BUFFER: usize = 80 << 10;
/// Between two lines about those who may not connect.
const STRANGERS_EVERY: Duration = Duration::from_secs(1);
/// After an accept that failed: descriptors may be free again by then.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// What is left of the deadline of a stop for connections that did not end in time.
const LAST_MOMENT: Duration = Duration::from_millis(50);

/// What the child of [`child`] needs whenever it starts.
struct Parts<R> {
    front: Front,
    settings: Watch<HttpSettings>,
    routes: Arc<R>,
    /// Made by the first of them, as its metrics can be registered once.
    node: Arc<OnceLock<Node>>,
}

impl<R> Clone for Parts<R> {
    fn clone(&self) -> Self {
        Self {
            front: self.front.clone(),
            settings: self.settings.clone(),
            routes: Arc::clone(&self.routes),
            node: Arc::clone(&self.node),
        }
    }
}

/// The child `http`, which answers at `front` by what `routes` makes, under these settings and as they change. It tells
/// where it listens, and that everybody is let in if that is so. When it starts again its node is the same.
pub fn child<R>(front: Front, settings: Watch<HttpSettings>, routes: R) -> Child
where
    R: Fn(&Metrics) -> Result<Routes, Box<dyn Error + Send + Sync>> + Send + Sync + 'static,
{
    let parts = Parts {
        front,
        settings,
        routes: Arc::new(routes),
        node: Arc::default(),
    };
    Child::task_with("http", parts, answer)
}

async fn answer<R>(cx: ChildContext, parts: Parts<R>) -> std::io::Result<()>
where
    R: Fn(&Metrics) -> Result<Routes, Box<dyn Error + Send + Sync>> + Send + Sync + 'static,
{
    let Some(kernel) = cx.kernel() else {
        return Ok(());
    };
    let Parts {
        front,
        settings,
        routes,
        node,
    } = parts;
    if let (Some(addr), Some(url)) = (front.addr(), front.url()) {
        tracing::info!(event = "listening", %addr, url, "listening on {url}");
    }
    if front.is_open_to_all() {
        tracing::warn!(
            event = "dev_allow",
            "auth.dev_allow: everybody who reaches this address may do everything"
        );
    }
    let node = match node.get() {
        Some(node) => node.clone(),
        None => {
            let metrics = kernel.metrics();
            let routes = routes(metrics).map_err(std::io::Error::other)?;
            let made = Node::new(routes, &front, metrics.clone(), of(&settings));
            let made = made.map_err(std::io::Error::other)?;
            node.get_or_init(|| made).clone()
        }
    };
    serve(cx, front, node, move || of(&settings)).await
}

fn of(settings: &Watch<HttpSettings>) -> HttpSettings {
    HttpSettings::clone(settings.clone().get())
}

/// Accepts connections at `front` and answers their requests, until the child is stopped: then it stops listening,
/// lets answers under way finish, and ends by the deadline. `settings` tells the limits in force, which are looked at anew
/// with every turn of its clock.
///
/// # Errors
/// The listener was not bound, or cannot be used.
async fn serve(
    cx: ChildContext,
    front: Front,
    node: Node,
    settings: impl Fn() -> HttpSettings + Send,
) -> std::io::Result<()> {
    let accepting = front.listener.accepting();
    let socket = accepting.unwrap_or_else(|| Err(std::io::ErrorKind::NotConnected.into()))?;
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
    let mut strangers = Strangers::default();
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
                Ok((Caller::Foreign { uid, pid }, _)) => {
                    node.foreign();
                    strangers.tell(uid, pid);
                }
                Ok((caller, place)) => {
                    let (node, stopping) = (node.clone(), cx.stopping_owned());
                    let tls = front.tls.clone();
                    connections.spawn(async move {
                        match (caller, tls) {
                            (Caller::Tcp(stream), None) => {
                                connection(Eager::new(stream), node, stopping).await;
                            }
                            (Caller::Tcp(stream), Some(tls)) => {
                                encrypted(&tls, stream, node, stopping).await;
                            }
                            (Caller::Unix(stream), _) => {
                                connection(Eager::new(stream), node, stopping).await;
                            }
                            (Caller::Foreign { .. }, _) => {}
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
    listener: &Accepting,
    places: &Arc<Semaphore>,
) -> std::io::Result<(Caller, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await;
    let place = place.map_err(std::io::Error::other)?;
    Ok((listener.accept().await?, place))
}

/// Who was sent away for being somebody else: one line a second at most, as each is a connection that costs them nothing.
#[derive(Default)]
struct Strangers {
    told: Option<Instant>,
    untold: u64,
}

impl Strangers {
    fn tell(&mut self, uid: u32, pid: Option<i32>) {
        if self
            .told
            .is_some_and(|told| told.elapsed() < STRANGERS_EVERY)
        {
            self.untold += 1;
            return;
        }
        self.told = Some(Instant::now());
        let before = std::mem::take(&mut self.untold);
        tracing::warn!(
            event = "peer_refused",
            uid,
            pid,
            before,
            "uid {uid} may not connect; http.unix_uids says who may"
        );
    }
}

fn look(node: &Node) {
    let snapshot = node.metrics().health().snapshot();
    let openness = match snapshot.state() {
        _ if snapshot.fail_secure() => Openness::Closed,
        // It has told so, and serves whoever has not heard it yet until it is stopped.
        State::Draining => Openness::Leaving,
        State::NotReady if !is_only_saturated(&snapshot) => Openness::ReadOnly,
        _ => Openness::Open,
    };
    node.open(openness, snapshot.retry_after());
}

/// Others are to take the requests, and what comes all the same is served in its turn: closed to writes it would be shut to
/// all by one who fills its places.
fn is_only_saturated(snapshot: &Snapshot) -> bool {
    let mut causes = snapshot.causes();
    causes.all(|cause| cause.key == SATURATION || cause.status == Status::Degraded)
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
        health.set(SATURATION, Condition::not_ready(reason()));
    } else if inflight * 5 > limit * 3 {
        health.set(SATURATION, Condition::degraded(reason()));
    } else {
        health.clear(SATURATION);
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
            let (told, error) = (error.told(), error.to_string());
            tracing::error!(
                event = "tls_rotation_failed",
                error,
                "the old certificate stays in use: {error}"
            );
            health.set("tls", Condition::degraded(told));
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
    let mut stopping = pin!(stopping);
    let handshake = tokio::select! {
        biased;
        // What comes now is not answered any more.
        () = &mut stopping => return,
        handshake = timeout(node.handshake_timeout(), tls.accept(stream)) => handshake,
    };
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
    let link = Link::new(node.clone(), phase.clone());
    let times = Arc::clone(&link);
    let io = TokioIo::new(Timed::new(stream, phase.clone(), move || times.times()));
    let service = service_fn(move |request| {
        // Before the answer is polled: the connection may be read in between.
        phase.busy();
        Arc::clone(&link).serve(request)
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
        Err(error) if error.is_parse_too_large() => node.malformed(431),
        Err(error) if error.is_parse() => node.malformed(400),
        Err(_) => return,
    }
    let mut stream = connection.into_parts().io.into_inner();
    if let Some(head) = stream.refused() {
        let answer = node.refusal_of(&head, stream.takes_body());
        if stream.write_all(&answer).await.is_err() {
            return;
        }
    }
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

#[cfg(test)]
mod tests {
    use super::super::addr::HttpAddr;
    use super::super::answer::Answer;
    use super::super::routes::Access;
    use super::super::tls::TlsFiles;
    use super::*;
    use crate::capability::{mint, system_random, Keyring};
    use hyper::StatusCode;
    use ron_kernel::metrics::Pq;
    use std::future::{pending, ready};
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::SystemTime;
    use tokio::io::{duplex, DuplexStream};
    use tokio::net::TcpListener;
    use tokio::time::sleep;

    const GET: &[u8] = b"GET /big HTTP/1.1\r\nhost: localhost\r\n\r\n";
    const BIG: usize = 2 << 20;

    /// A connection to a node that has one answer, which it gives in one piece.
    fn connect(settings: HttpSettings) -> (DuplexStream, JoinHandle<()>) {
        let routes = Routes::new().route("GET", "/big", Access::Read, |_| async {
            Ok(Answer::full(StatusCode::OK, vec![7; BIG]))
        });
        let metrics = Metrics::new("test").unwrap();
        let node = Node::new(routes, &Front::default(), metrics, settings).unwrap();
        let (theirs, ours) = duplex(4 << 10);
        (theirs, tokio::spawn(connection(ours, node, pending())))
    }

    /// Takes so many bytes per second, for as long as there are any, and tells how many there were.
    async fn take(stream: &mut DuplexStream, per_second: usize, most: usize) -> usize {
        let (mut piece, mut taken) = (vec![0; per_second / 10], 0);
        while taken < most {
            match timeout(Duration::from_secs(1), stream.read(&mut piece)).await {
                Ok(Ok(bytes @ 1..)) => taken += bytes,
                _ => break,
            }
            sleep(Duration::from_millis(100)).await;
        }
        taken
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_taken_fast_enough_is_not_cut_off_as_idle() {
        let (mut stream, connection) = connect(HttpSettings::default());
        for _ in 0..2 {
            stream.write_all(GET).await.unwrap();
        }
        let taken = take(&mut stream, 20 << 10, 2 * BIG).await;
        assert!(taken >= 2 * BIG, "{taken} of {}", 2 * BIG);
        // Heads are not counted.
        take(&mut stream, 20 << 10, usize::MAX).await;
        let began = Instant::now();
        connection.await.unwrap();
        let idle = began.elapsed().as_secs();
        assert!((58..=61).contains(&idle), "{idle} s");
    }

    fn tls() -> Tls {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ron-metrics/tests/tls");
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key.pem");
        std::fs::copy(fixtures.join("one.key.pem"), &key).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        let cert = fixtures.join("one.cert.pem");
        Tls::load(TlsFiles { cert, key }, Pq::Off).unwrap()
    }

    #[tokio::test]
    async fn a_handshake_ends_with_the_node() {
        let mut settings = HttpSettings::default();
        settings.tls.handshake_timeout = Duration::from_secs(3_600);
        let metrics = Metrics::new("test").unwrap();
        let node = Node::new(Routes::new(), &Front::default(), metrics, settings).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        for hello in [&b""[..], b"\x16\x03\x01"] {
            let mut theirs = TcpStream::connect(addr).await.unwrap();
            theirs.write_all(hello).await.unwrap();
            let (ours, _) = listener.accept().await.unwrap();
            let tls = tls();
            let ended = encrypted(&tls, ours, node.clone(), ready(()));
            let ended = timeout(Duration::from_secs(10), ended).await;
            assert!(ended.is_ok(), "{hello:?}");
        }
    }

    /// What is past shows for a while.
    fn later(node: &Node) {
        let health = node.metrics().health();
        health.step(health.elapsed() + Duration::from_secs(10));
    }

    fn status(node: &Node, key: &str) -> Option<Status> {
        let snapshot = node.metrics().health().snapshot();
        let cause = snapshot.causes().find(|cause| cause.key == key);
        cause.map(|cause| cause.status)
    }

    /// A request on a connection of its own, which is given up when this is dropped.
    async fn ask(node: &Node) -> DuplexStream {
        let (mut theirs, ours) = duplex(4 << 10);
        tokio::spawn(connection(ours, node.clone(), pending()));
        let request = b"GET /wait HTTP/1.1\r\nhost: localhost\r\n\r\n";
        theirs.write_all(request).await.unwrap();
        theirs
    }

    fn waiting(inflight: usize, rps: u32) -> Node {
        let routes = Routes::new().route("GET", "/wait", Access::Read, |_| pending());
        let mut settings = HttpSettings::default();
        (settings.inflight, settings.rps) = (inflight, rps);
        let metrics = Metrics::new("test").unwrap();
        Node::new(routes, &Front::default(), metrics, settings).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_under_load_is_degraded_before_it_is_not_ready() {
        let node = waiting(10, 1_000);
        let (mut held, mut refused) = (Vec::new(), 0);
        let depth = || {
            let depth = &node.metrics().golden().queue_depth;
            depth.get(&QueueLabel::new("inflight")).value()
        };
        for (under_way, waiting, expected) in [
            (6, 0, None),
            (7, 0, Some(Status::Degraded)),
            (8, 0, Some(Status::Degraded)),
            (9, 0, Some(Status::NotReady)),
            (10, 2, Some(Status::NotReady)),
            (0, 0, None),
        ] {
            held.truncate(under_way);
            while held.len() < under_way + waiting {
                held.push(ask(&node).await);
            }
            while node.load() != (under_way, 10, waiting) {
                tokio::task::yield_now().await;
            }
            watch_load(&node, &mut refused);
            assert_eq!(status(&node, "saturation"), expected, "{under_way}");
            assert_eq!(depth(), waiting as i64);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_refuses_for_its_rate_is_degraded_until_it_does_not() {
        let node = waiting(10, 1);
        let mut refused = 0;
        let _held = [ask(&node).await, ask(&node).await];
        while node.refused_by_rate() == 0 {
            tokio::task::yield_now().await;
        }
        watch_load(&node, &mut refused);
        assert_eq!(status(&node, "quota"), Some(Status::Degraded));
        watch_load(&node, &mut refused);
        later(&node);
        assert_eq!(status(&node, "quota"), None);
    }

    #[test]
    fn a_rotation_that_fails_shows_until_one_does_not() {
        let node = waiting(10, 1);
        let lost = super::super::tls::TlsError::Read {
            key: "tls.cert",
            path: "/no/such".into(),
            source: std::io::ErrorKind::NotFound.into(),
        };
        for news in [Some(Err(lost)), None] {
            watch_tls(&node, news);
            assert_eq!(status(&node, "tls"), Some(Status::Degraded));
            let snapshot = node.metrics().health().snapshot();
            let cause = snapshot.causes().find(|cause| cause.key == "tls");
            let reason = cause.unwrap().reason.to_string();
            assert_eq!(reason, "tls.cert cannot be read: entity not found");
        }
        watch_tls(&node, Some(Ok(())));
        later(&node);
        assert_eq!(status(&node, "tls"), None);
    }
    #[tokio::test(start_paused = true)]
    async fn an_answer_in_one_piece_has_its_place_until_the_peer_has_taken_it() {
        let routes = Routes::new().route("GET", "/big", Access::Read, |_| async {
            Ok(Answer::full(StatusCode::OK, vec![7; BIG]))
        });
        let metrics = Metrics::new("test").unwrap();
        let settings = HttpSettings::default();
        let node = Node::new(routes, &Front::default(), metrics, settings).unwrap();
        let (mut theirs, ours) = duplex(4 << 10);
        tokio::spawn(connection(ours, node.clone(), pending()));
        theirs.write_all(GET).await.unwrap();
        let mut room = vec![0; BIG];
        for taken in [BIG / 2, BIG / 2 - (8 << 10)] {
            theirs.read_exact(&mut room[..taken]).await.unwrap();
            assert_eq!(node.load().0, 1);
        }
        theirs.read_exact(&mut room[..8 << 10]).await.unwrap();
        while node.load().0 > 0 {
            tokio::task::yield_now().await;
        }
    }
    /// Asks for `path` and reads the answer, all of it.
    async fn get(stream: &mut DuplexStream, path: &str, token: &str, room: &mut [u8]) {
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut read = 0;
        let head = loop {
            read += stream.read(&mut room[read..]).await.unwrap();
            if let Some(end) = room[..read].windows(4).position(|four| four == b"\r\n\r\n") {
                break std::str::from_utf8(&room[..end]).unwrap();
            }
        };
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let whole = head.len() + 4 + length.unwrap().parse::<usize>().unwrap();
        stream.read_exact(&mut room[read..whole]).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn one_capability_that_floods_a_node_leaves_others_their_share() {
        const FLOOD: usize = 16;
        const QUIET: usize = 4;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keyring.toml");
        let now = SystemTime::now();
        let keyring = Keyring::generate(&mut system_random, now).unwrap();
        keyring.create(&path).unwrap();
        let token = || mint(&keyring, &[], &mut system_random, now).unwrap();
        let (greedy, modest) = (token(), token());
        let mut settings = HttpSettings {
            addr: HttpAddr::Tcp("127.0.0.1:0".parse().unwrap()),
            ..HttpSettings::default()
        };
        settings.auth.keyring = Some(path);
        (settings.inflight, settings.rps) = (1, 1_000_000);
        let front = Front::open(&settings, Pq::Off).unwrap();
        let answer =
            |size: usize| move |_| async move { Ok(Answer::full(StatusCode::OK, vec![7; size])) };
        let routes = Routes::new()
            .route("GET", "/big", Access::Read, answer(512 << 10))
            .route("GET", "/small", Access::Read, answer(1 << 10));
        let node = Node::new(routes, &front, Metrics::new("test").unwrap(), settings).unwrap();
        let connect = || {
            let (theirs, ours) = duplex(64 << 10);
            tokio::spawn(connection(ours, node.clone(), pending()));
            theirs
        };
        let served = Arc::new(AtomicUsize::new(0));
        for _ in 0..FLOOD {
            let (mut stream, token, served) =
                (connect(), greedy.as_str().to_owned(), Arc::clone(&served));
            tokio::spawn(async move {
                let mut room = vec![0; 600 << 10];
                loop {
                    get(&mut stream, "/big", &token, &mut room).await;
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        while node.load() != (1, 1, FLOOD - 1) {
            tokio::task::yield_now().await;
        }
        let before = served.load(Ordering::Relaxed);
        let mut quiet = JoinSet::new();
        for _ in 0..QUIET {
            let (mut stream, token) = (connect(), modest.as_str().to_owned());
            quiet.spawn(async move {
                let mut room = vec![0; 4 << 10];
                for _ in 0..50 {
                    get(&mut stream, "/small", &token, &mut room).await;
                }
            });
        }
        while !quiet.is_empty() {
            while let Some(ended) = quiet.try_join_next() {
                ended.unwrap();
            }
            // With each of them it moves five hundred times as many bytes.
            let others = served.load(Ordering::Relaxed) - before;
            assert!(others < 50 * QUIET, "{others} answers meanwhile");
            tokio::task::yield_now().await;
        }
    }
    #[tokio::test(start_paused = true)]
    async fn a_head_that_is_none_is_refused_as_all_else_is() {
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(70_000));
        let large = format!("GET / HTTP/1.1\r\nx: {}", "x".repeat(BUFFER));
        let fine = ["GET", "HEAD", "DELETE"]
            .map(|method| format!("{method} /big HTTP/1.1\r\nhost: localhost\r\n\r\n"));
        for (malformed, status, reason) in [
            ("x\r\n\r\n", "400 Bad Request", "head"),
            (
                "HEAD / HTTP/1.1\r\nno field\r\n\r\n",
                "400 Bad Request",
                "head",
            ),
            (
                "GET / HTTP/1.1\r\nno field\r\n\r\n",
                "400 Bad Request",
                "head",
            ),
            (&long, "414 URI Too Long", "target_too_long"),
            (
                &large,
                "431 Request Header Fields Too Large",
                "head_too_large",
            ),
        ] {
            for count in 0..=fine.len() {
                let (mut stream, connection) = connect(HttpSettings::default());
                // Answers with a body and without one, which are not taken for what hyper refuses.
                let requests = fine[..count].concat() + malformed;
                let (mut reader, mut writer) = tokio::io::split(&mut stream);
                let mut told = Vec::new();
                let writing = async { drop(writer.write_all(requests.as_bytes()).await) };
                let (_, read) = tokio::join!(writing, reader.read_to_end(&mut told));
                read.unwrap();
                connection.await.unwrap();
                let told = String::from_utf8(told).unwrap();
                let heads: Vec<_> = told.match_indices("HTTP/1.1 ").map(|(at, _)| at).collect();
                assert_eq!(heads.len(), count + 1, "{count} before {status}");
                let whole = |pair: &[usize]| told[pair[0]..pair[1]].contains("\r\n\r\n");
                assert!(heads.windows(2).all(whole), "{count} before {status}");
                let last = &told[heads[count]..];
                let (head, body) = last.split_once("\r\n\r\n").unwrap();
                let line = |name: &str| head.lines().find_map(|line| line.strip_prefix(name));
                assert_eq!(line("HTTP/1.1 "), Some(status));
                assert_eq!(line("connection: "), Some("close"));
                assert!(line("date: ").is_some());
                assert_eq!(line("content-length: "), Some(&*body.len().to_string()));
                let corr_id = line("x-corr-id: ").unwrap();
                // Of what came behind others nobody knows whether it was a HEAD.
                if count > 0 || malformed.starts_with("HEAD ") {
                    assert_eq!(body, "");
                    continue;
                }
                let body: serde_json::Value = serde_json::from_str(body).unwrap();
                assert_eq!(body["error"]["details"]["reason"], reason);
                assert_eq!(body["error"]["corr_id"], corr_id);
            }
        }
    }
}
