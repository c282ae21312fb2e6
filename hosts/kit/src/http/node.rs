//! What every request passes before and after its handler.

use std::any::Any;
use std::convert::Infallible;
use std::fmt;
use std::future::{pending, poll_fn};
use std::num::NonZeroU32;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::{Buf, Bytes};
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{
    HeaderName, HeaderValue, ACCEPT, ACCEPT_ENCODING, ALLOW, CONNECTION, CONTENT_ENCODING, HOST,
    TRANSFER_ENCODING,
};
use hyper::http::request::Parts;
use hyper::http::uri::Authority;
use hyper::{Method, Request, Response, StatusCode, Version};
use ron_kernel::metrics::{
    labels, AdminRequest, CounterFamily, Golden, Metrics, MetricsError, ReasonLabel,
};
use tokio::time::Instant;

use super::answer::{Answer, AnswerBody};
use super::call::{too_large, BodyLimits, Call, Source, Whole};
use super::correlation::{self, random, CorrelationId};
use super::front::{plain_host, Door, Front};
use super::inflate::{Coding, Inflate, ACCEPTED};
use super::instruments::{Instruments, Of, UNMATCHED};
use super::otel::{Otel, Span};
use super::places::{NoPlace, Place, Places};
use super::refusal::Refusal;
use super::routes::{Access, Answering, BodyAllowance, Endpoint, Found, Routes};
use super::settings::HttpSettings;
use super::timed::{Phase, Times};
use super::tls::TlsMetrics;
use super::trace_context::TraceContext;
use crate::capability::CapId;

const TRACEPARENT: HeaderName = HeaderName::from_static(TraceContext::HEADER);
const METRICS: &str = "/metrics";
/// What every host answers, before its limits.
const ADMIN: [&str; 5] = [METRICS, "/healthz", "/livez", "/readyz", "/version"];

/// What the node takes at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Openness {
    Open,
    /// Not ready: writes are refused, reads are not.
    ReadOnly,
    /// Fail-secure.
    Closed,
    /// About to be stopped: open, but connections end with their answers.
    Leaving,
    /// On its way out.
    Draining,
}

/// Routes behind their limits; clones are the same node.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    routes: Routes,
    /// How often the limits have changed.
    changes: AtomicU64,
    metrics: Metrics,
    golden: Golden,
    instruments: Instruments,
    limits: RwLock<Arc<Limits>>,
    places: Arc<Places>,
    openness: AtomicU8,
    /// What `Retry-After` tells while the node is not open, in milliseconds.
    retry_ms: AtomicU64,
    clock: DefaultClock,
    /// Requests beyond the node's own rate.
    refused_by_rate: AtomicU64,
    door: Door,
    metrics_apart: bool,
    auth_failures_total: CounterFamily<ReasonLabel>,
    tls: TlsMetrics,
    waits_total: CounterFamily<OutcomeLabel>,
    otel: Otel,
}

labels! {
    /// What came of something.
    pub(crate) struct OutcomeLabel { outcome }
}

/// The settings in force, and the rate that is counted against them.
struct Limits {
    settings: HttpSettings,
    rate: Arc<DefaultDirectRateLimiter>,
}

impl Limits {
    fn new(settings: HttpSettings) -> Self {
        let rps = NonZeroU32::new(settings.rps).unwrap_or(NonZeroU32::MIN);
        Self {
            settings,
            rate: Arc::new(RateLimiter::direct(Quota::per_second(rps))),
        }
    }
}

impl Node {
    /// `routes` behind `front` and under `settings`, counted in `metrics`, whose health decides what is open.
    ///
    /// # Errors
    /// `metrics` has other families of the names that are registered here.
    pub fn new(
        routes: Routes,
        front: &Front,
        metrics: Metrics,
        settings: HttpSettings,
    ) -> Result<Self, MetricsError> {
        let failures =
            "Requests whose capability, and connections whose user (`peer`) was refused, by rule.";
        let waits = "Requests that found all places under way taken, by what came of that.";
        let spans = "Spans of requests, by what became of them. None without a collector.";
        let spans_total = metrics.counter_family("otel_spans_total", spans)?;
        front.otel.count_in(spans_total);
        Ok(Self(Arc::new(Inner {
            otel: front.otel.clone(),
            instruments: Instruments::new(
                metrics.golden().clone(),
                routes.templates().chain(ADMIN),
            ),
            routes,
            changes: AtomicU64::new(0),
            golden: metrics.golden().clone(),
            places: Places::new(settings.inflight),
            openness: AtomicU8::new(Openness::ReadOnly as u8),
            retry_ms: AtomicU64::new(1_000),
            clock: DefaultClock::default(),
            refused_by_rate: AtomicU64::new(0),
            door: front.door.clone(),
            metrics_apart: front.metrics_apart,
            auth_failures_total: metrics.counter_family("auth_failures_total", failures)?,
            tls: TlsMetrics::new(&metrics)?,
            waits_total: metrics.counter_family("inflight_waits_total", waits)?,
            limits: RwLock::new(Arc::new(Limits::new(settings))),
            metrics,
        })))
    }

    /// Other limits from the next request on. Another rate starts with a full bucket.
    pub(crate) fn configure(&self, settings: &HttpSettings) {
        let mut limits = self
            .0
            .limits
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if limits.settings == *settings {
            return;
        }
        let mut next = Limits::new(settings.clone());
        if next.settings.rps == limits.settings.rps {
            next.rate = Arc::clone(&limits.rate);
        }
        self.0.places.set_limit(settings.inflight);
        *limits = Arc::new(next);
        // Who reads this finds the new ones.
        self.0.changes.fetch_add(1, Ordering::Release);
    }

    fn limits(&self) -> Arc<Limits> {
        let limits = self.0.limits.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&limits)
    }

    pub(crate) fn handshake_timeout(&self) -> Duration {
        self.limits().settings.tls.handshake_timeout
    }

    pub(crate) fn tls(&self) -> &TlsMetrics {
        &self.0.tls
    }

    /// Counts a head that hyper has refused.
    pub(crate) fn malformed(&self, status: u16) {
        let instruments = &self.0.instruments;
        // Told as one of the others: which method it is nobody knows.
        instruments.count(instruments.unmatched(&Method::CONNECT), status);
    }

    /// What is told in the place of the bare head that hyper refuses with.
    pub(crate) fn refusal_of(&self, head: &[u8], has_body: bool) -> Vec<u8> {
        let head = String::from_utf8_lossy(head);
        let status = head.get(9..12).and_then(|status| status.parse().ok());
        let status = status.unwrap_or(StatusCode::BAD_REQUEST);
        let (reason, message) = match status {
            StatusCode::URI_TOO_LONG => ("target_too_long", "the target is longer than any here"),
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
                ("head_too_large", "the head is larger than this node reads")
            }
            _ => ("head", "this is no head of an HTTP request"),
        };
        let refusal = Refusal::new(status, "BadRequest", reason, message);
        let corr_id = CorrelationId::of(None, SystemTime::now(), random);
        self.count(&refusal, UNMATCHED, &corr_id, None);
        let body = match has_body {
            true => refusal.envelope(&corr_id),
            false => String::new(),
        };
        let is_kept = |line: &&str| !line.is_empty() && !line.starts_with("content-length");
        let mut answer: Vec<String> = head.lines().filter(is_kept).map(str::to_owned).collect();
        if has_body {
            answer.push("content-type: application/json".to_owned());
        }
        answer.push(format!("content-length: {}", body.len()));
        answer.push(format!("{}: {corr_id}", correlation::HEADER));
        answer.push(String::new());
        answer.push(body);
        answer.join("\r\n").into_bytes()
    }

    /// Counts a connection of somebody who may not connect.
    pub(crate) fn foreign(&self) {
        let failures = &self.0.auth_failures_total;
        failures.get(&ReasonLabel::new("peer")).inc();
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Requests under way, how many may be, and how many wait for that.
    pub(crate) fn load(&self) -> (usize, usize, usize) {
        self.0.places.load()
    }

    pub(crate) fn refused_by_rate(&self) -> u64 {
        self.0.refused_by_rate.load(Ordering::Relaxed)
    }

    pub(crate) fn open(&self, openness: Openness, retry: Duration) {
        let retry_ms = u64::try_from(retry.as_millis()).unwrap_or(u64::MAX);
        self.0.retry_ms.store(retry_ms, Ordering::Relaxed);
        self.0.openness.store(openness as u8, Ordering::Relaxed);
    }

    fn openness(&self) -> Openness {
        match self.0.openness.load(Ordering::Relaxed) {
            0 => Openness::Open,
            1 => Openness::ReadOnly,
            2 => Openness::Closed,
            3 => Openness::Leaving,
            _ => Openness::Draining,
        }
    }

    /// An admin route's place among the instruments, and its answer.
    fn admin(&self, head: &Parts, corr_id: &CorrelationId) -> Option<(usize, Answer)> {
        let path = head.uri.path();
        let place = ADMIN.iter().position(|route| *route == path)?;
        let (route, place) = (ADMIN[place], self.0.routes.templates().count() + place);
        if route == METRICS && self.0.metrics_apart {
            return None;
        }
        let accept = head
            .headers
            .get(ACCEPT)
            .and_then(|value| value.to_str().ok());
        let mut request = AdminRequest::new(head.method.as_str(), route);
        request.accept = accept;
        let admin = self.0.metrics.admin(&request);
        let status = StatusCode::from_u16(admin.status).ok()?;
        if status == StatusCode::METHOD_NOT_ALLOWED {
            return Some((place, other_method("GET, HEAD").answer(corr_id)));
        }
        let mut answer = Answer::full(status, admin.body);
        for (name, value) in admin.headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                answer
                    .headers_mut()
                    .insert(HeaderName::from_static(name), value);
            }
        }
        Some((place, answer))
    }

    /// One request more.
    fn pace(&self, limits: &Limits) -> Result<(), Refusal> {
        limits.rate.check().map_err(|early| {
            self.0.refused_by_rate.fetch_add(1, Ordering::Relaxed);
            let wait = early.wait_time_from(self.0.clock.now());
            let message = "this node takes no more requests per second";
            let status = StatusCode::TOO_MANY_REQUESTS;
            Refusal::new(status, "QuotaExceeded", "rate", message).retry_after(wait)
        })
    }

    /// Whether the node's state allows a request of this kind.
    fn is_open_to(&self, access: Access) -> Result<(), Refusal> {
        let retry = || Duration::from_millis(self.0.retry_ms.load(Ordering::Relaxed));
        match (self.openness(), access) {
            (Openness::Open | Openness::Leaving, _) | (Openness::ReadOnly, Access::Read) => Ok(()),
            (Openness::Draining, _) => {
                let message = "this node is shutting down";
                Err(Refusal::unavailable("draining", message, retry()).closing())
            }
            // What was seen last may be a moment old: nobody is refused whom /readyz has told to come.
            (Openness::ReadOnly, Access::Write) if self.0.metrics.health().ready() => Ok(()),
            (Openness::ReadOnly, Access::Write) => {
                let message = "this node is not ready to write; /readyz tells why";
                Err(Refusal::unavailable("not_ready", message, retry()))
            }
            (Openness::Closed, _) => {
                let message = "this node is closed until it is safe; /readyz tells why";
                Err(Refusal::unavailable("fail_secure", message, retry()))
            }
        }
    }

    /// A place among the requests under way, after a moment's wait if need be, and whether there was one.
    async fn place(&self, flow: Option<CapId>, cost: u64) -> Result<(Place, bool), Refusal> {
        let outcome = self.0.places.take(flow, cost).await;
        let waited = match &outcome {
            Ok((_, false)) => None,
            Ok((_, true)) => Some("served"),
            Err(NoPlace::Late) => Some("late"),
            Err(NoPlace::PushedOut) => Some("pushed_out"),
            Err(NoPlace::Full) => Some("full"),
        };
        if let Some(outcome) = waited {
            self.0.waits_total.get(&OutcomeLabel::new(outcome)).inc();
        }
        outcome.map_err(|_| {
            let message = "as many requests are under way as this node takes";
            Refusal::unavailable("inflight", message, Duration::from_secs(1))
        })
    }

    fn count(
        &self,
        refusal: &Refusal,
        route: &'static str,
        corr_id: &CorrelationId,
        trace: Option<&TraceContext>,
    ) {
        let (status, reason) = (refusal.status(), refusal.reason());
        if [401, 403].contains(&status.as_u16()) {
            let failures = &self.0.auth_failures_total;
            failures.get(&ReasonLabel::new(reason)).inc();
        }
        if let Some(word) = self.0.routes.word(refusal) {
            let label = ReasonLabel::new(word);
            self.0.golden.rejected_total.get(&label).inc();
        }
        let (status, corr_id) = (status.as_u16(), corr_id.as_str());
        macro_rules! tell {
            ($level:ident) => {
                tracing::$level!(
                    event = "refused",
                    corr_id,
                    trace_id = trace.map(TraceContext::trace_id),
                    route,
                    status,
                    reason,
                    "refused"
                )
            };
        }
        if status >= 500 && status != 503 {
            tell!(warn);
        } else {
            tell!(debug);
        }
    }
}

/// A node as one connection sees it.
pub(crate) struct Link {
    node: Node,
    phase: Phase,
    /// What the last request has found.
    seen: Mutex<Seen>,
    /// What the last answer was made in.
    answering: Mutex<Option<Answering>>,
}

/// The limits in force, after so many changes.
struct Seen {
    changes: u64,
    limits: Arc<Limits>,
}

impl Link {
    pub(crate) fn new(node: Node, phase: Phase) -> Arc<Self> {
        // Read first: what changes meanwhile is looked at once more.
        let changes = node.0.changes.load(Ordering::Acquire);
        let limits = node.limits();
        Arc::new(Self {
            node,
            phase,
            seen: Mutex::new(Seen { changes, limits }),
            answering: Mutex::new(None),
        })
    }

    /// The limits in force. Nobody else waits for the lock: it is the connection's own.
    fn seen(&self) -> MutexGuard<'_, Seen> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let changes = self.node.0.changes.load(Ordering::Acquire);
        if seen.changes != changes {
            let limits = self.node.limits();
            *seen = Seen { changes, limits };
        }
        seen
    }

    fn answering(&self) -> MutexGuard<'_, Option<Answering>> {
        self.answering
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn times(&self) -> Times {
        let settings = &self.seen().limits.settings;
        Times {
            read: settings.read_timeout,
            write: settings.write_timeout,
            idle: settings.idle_timeout,
            rate: settings.min_rate.bytes(),
        }
    }

    /// Answers one request.
    pub(crate) async fn serve(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Tracked>, Infallible> {
        let (began, now) = (Instant::now(), SystemTime::now());
        let (head, body) = request.into_parts();
        let node = &self.node;
        let inner = &*node.0;
        let corr_id = CorrelationId::of(head.headers.get(correlation::HEADER), now, random);
        let begin = |of| Exchange::begin(Arc::clone(&self), of, began);
        let is_let_in = is_plain(&head).and_then(|()| inner.door.is_local(&head));
        if let Err(refusal) = is_let_in {
            let exchange = begin(inner.instruments.unmatched(&head.method));
            node.count(&refusal, UNMATCHED, &corr_id, None);
            return Ok(exchange.end(refusal.answer(&corr_id), corr_id, None));
        }
        if let Some((place, answer)) = node.admin(&head, &corr_id) {
            let exchange = begin(inner.instruments.of(place, &head.method));
            return Ok(exchange.end(answer, corr_id, None));
        }
        let found = inner.routes.find(&head.method, head.uri.path());
        let (template, of, allowed) = match found {
            Found::Nothing => {
                let of = inner.instruments.unmatched(&head.method);
                let refusal = Refusal::not_found("route", "there is nothing at this path");
                (UNMATCHED, of, Err(refusal))
            }
            Found::OtherMethod { place, allow } => {
                let of = inner.instruments.of(place, &head.method);
                (inner.routes.template(place), of, Err(other_method(&allow)))
            }
            Found::Endpoint { place, endpoint } => {
                let of = inner.instruments.of(place, &head.method);
                (inner.routes.template(place), of, Ok(endpoint))
            }
        };
        let mut exchange = begin(of);
        let mut trace = trace(&head);
        exchange.span = self.record(&mut trace, &head, template, &corr_id);
        let is_read = body.is_end_stream();
        // The rest of the body is in the way of another request.
        let unread = |refusal: Refusal| match is_read {
            true => refusal,
            false => refusal.closing(),
        };
        let admitted = match allowed {
            Err(refusal) => Err(node.pace(&self.seen().limits).err().unwrap_or(refusal)),
            Ok(endpoint) => self.admit(&head, &body, endpoint, began, now).await,
        };
        let answer = match admitted {
            Err(refusal) => Err(unread(refusal)),
            Ok(admitted) => {
                exchange.place = Some(admitted.place);
                let (body, limits) = (Whole(body), admitted.limits);
                let body = match admitted.coding {
                    None => Source::Plain(body),
                    Some(coding) => Source::Coded(Inflate::new(body, coding, limits.bytes)),
                };
                let call = Call {
                    head,
                    template,
                    tenant: admitted.tenant,
                    body,
                    limits,
                };
                match self.handle(admitted.endpoint, call).await {
                    Ok(answer) => answer,
                    Err(thrown) => {
                        let (corr_id, text) = (corr_id.as_str(), text_of(&*thrown));
                        tracing::error!(
                            event = "handler_panicked",
                            corr_id,
                            route = template,
                            "a handler panicked: {text}"
                        );
                        Err(Refusal::internal("panic").closing())
                    }
                }
            }
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(refusal) => {
                node.count(&refusal, template, &corr_id, trace.as_ref());
                refusal.answer(&corr_id)
            }
        };
        Ok(exchange.end(answer, corr_id, trace))
    }

    /// The request's span, where there is a collector and it is sampled.
    fn record(
        &self,
        trace: &mut Option<TraceContext>,
        head: &Parts,
        route: &'static str,
        corr_id: &CorrelationId,
    ) -> Option<Span> {
        let otel = &self.node.0.otel;
        if !otel.is_on() {
            return None;
        }
        let ratio = self.seen().limits.settings.otel.ratio;
        let of = (head.method.as_str(), route, corr_id.as_str());
        otel.begin(trace, ratio, random, of)
    }

    /// What the handler makes of a request, or what it has thrown: its panic is its own request's trouble alone.
    async fn handle(
        &self,
        endpoint: &Endpoint,
        call: Call,
    ) -> Result<Result<Answer, Refusal>, Box<dyn Any + Send>> {
        let kept = self.answering().take();
        let mut answering = kept.unwrap_or_else(|| Answering::new(pending()));
        (endpoint.handler)(call, &mut answering);
        let answer = poll_fn(
            |cx| match catch_unwind(AssertUnwindSafe(|| answering.poll(cx))) {
                Ok(Poll::Pending) => Poll::Pending,
                Ok(Poll::Ready(answer)) => Poll::Ready(Ok(answer)),
                Err(thrown) => Poll::Ready(Err(thrown)),
            },
        )
        .await;
        if answer.is_ok() {
            *self.answering() = Some(answering);
        }
        answer
    }

    /// Everything that can refuse a request before its handler sees it.
    async fn admit<'a>(
        &self,
        head: &Parts,
        body: &Incoming,
        endpoint: &'a Endpoint,
        began: Instant,
        now: SystemTime,
    ) -> Result<Admitted<'a>, Refusal> {
        let node = &self.node;
        let (allowed, piece) = {
            let limits = &self.seen().limits;
            node.pace(limits)?;
            let settings = &limits.settings;
            let allowed = BodyAllowance {
                bytes: settings.max_body_bytes.bytes(),
                timeout: settings.body_timeout,
            };
            (allowed, settings.read_timeout)
        };
        node.is_open_to(endpoint.access)?;
        let declared = body.size_hint().exact();
        let grant = node.0.door.admit(head, declared, endpoint.scope, now)?;
        let coding = Coding::of(head.headers.get_all(CONTENT_ENCODING)).map_err(|()| {
            let message = "this node takes bodies as they are, or with one of gzip and zstd";
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            let refusal = Refusal::new(status, "UnsupportedEncoding", "coding", message);
            refusal.header(ACCEPT_ENCODING, ACCEPTED).closing()
        })?;
        let allowed = (endpoint.allowing)(head)?.unwrap_or(allowed);
        let most = grant.as_ref().and_then(|grant| grant.max_bytes);
        let most = most.map_or(allowed.bytes, |most| most.min(allowed.bytes));
        if body.size_hint().lower() > most {
            return Err(too_large());
        }
        let flow = grant.as_ref().map(|grant| grant.cap_id);
        let (place, waited) = node.place(flow, declared.unwrap_or(most)).await?;
        // A wait for a place is none for the body.
        let from = if waited { Instant::now() } else { began };
        Ok(Admitted {
            endpoint,
            tenant: grant.and_then(|grant| grant.tenant),
            coding,
            limits: BodyLimits {
                bytes: most,
                piece,
                until: from + allowed.timeout,
            },
            place,
        })
    }
}

/// A request that its handler may see.
struct Admitted<'a> {
    endpoint: &'a Endpoint,
    tenant: Option<String>,
    coding: Option<Coding>,
    limits: BodyLimits,
    place: Place,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("routes", &self.0.routes)
            .field("openness", &self.openness())
            .finish_non_exhaustive()
    }
}

fn other_method(allow: &str) -> Refusal {
    let message = format!("this path takes {allow}");
    let status = StatusCode::METHOD_NOT_ALLOWED;
    Refusal::new(status, "BadRequest", "method", message).header(ALLOW, allow)
}

/// Whether the head can be read in one way only: RFC 9112, sections 3.2 and 6.1.
fn is_plain(head: &Parts) -> Result<(), Refusal> {
    let (mut hosts, mut codings) = (0, 0);
    let (mut are_options, mut are_hosts, mut are_chunked) = (true, true, true);
    for (name, value) in &head.headers {
        if *name == HOST {
            hosts += 1;
            are_hosts &= is_authority(value);
        } else if *name == CONNECTION {
            // hyper overlooks a `close` beside what is no text.
            are_options &= value.to_str().is_ok();
        } else if *name == TRANSFER_ENCODING {
            codings += 1;
            are_chunked &= value.as_bytes().eq_ignore_ascii_case(b"chunked");
        }
    }
    let is_named = hosts == 1 || hosts == 0 && head.version < Version::HTTP_11;
    let rules = [
        (
            is_named,
            "host",
            "a request of HTTP/1.1 names its host, once",
        ),
        (
            are_options,
            "connection",
            "an option of the connection is no token",
        ),
        (are_hosts, "host", "what the request names is no host"),
        (
            codings <= 1 && are_chunked,
            "transfer_coding",
            "the only transfer coding is chunked",
        ),
    ];
    match rules.into_iter().find(|(holds, ..)| !holds) {
        None => Ok(()),
        Some((_, reason, message)) => Err(Refusal::bad_request(reason, message).closing()),
    }
}

/// `HOST[:PORT]`, or nothing where the target has no authority: RFC 9112, section 3.2.
fn is_authority(value: &HeaderValue) -> bool {
    if plain_host(value).is_some() {
        return true;
    }
    let Ok(authority) = Authority::try_from(value.as_bytes()) else {
        return value.is_empty();
    };
    let after = authority.as_str().strip_prefix(authority.host());
    let port = after.and_then(|after| after.strip_prefix(':').or(after.is_empty().then_some("")));
    port.is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The trace that a request belongs to. Of two nobody knows which.
fn trace(head: &Parts) -> Option<TraceContext> {
    let mut values = head.headers.get_all(TRACEPARENT).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    Some(TraceContext::of(Some(value), random))
}

/// One request under way, until the last byte of its answer's body was passed on to the connection or that is gone. Of an
/// answer without a body, until its head is about to be.
struct Exchange {
    link: Arc<Link>,
    of: Of,
    began: Instant,
    /// Whoever looks after the node takes none.
    place: Option<Place>,
    /// Bytes of the answer that went out.
    sent: u64,
    status: Option<StatusCode>,
    /// Its account for a collector, if it is recorded.
    span: Option<Span>,
}

impl Exchange {
    fn begin(link: Arc<Link>, of: Of, began: Instant) -> Self {
        link.node.0.instruments.began(of);
        Self {
            link,
            of,
            began,
            place: None,
            sent: 0,
            status: None,
            span: None,
        }
    }

    fn end(
        mut self,
        answer: Answer,
        corr_id: CorrelationId,
        trace: Option<TraceContext>,
    ) -> Response<Tracked> {
        self.status = Some(answer.status());
        let (mut head, body) = answer.response.into_parts();
        let headers = &mut head.headers;
        headers.insert(correlation::HEADER, corr_id.into_header());
        if let Some(trace) = trace {
            headers.insert(TRACEPARENT, trace.header());
        }
        let openness = self.link.node.openness();
        if matches!(openness, Openness::Leaving | Openness::Draining) {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let exchange = Some(self);
        Response::from_parts(head, Tracked { body, exchange })
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.link.phase.idle();
        if let Some(place) = &mut self.place {
            place.beyond = self.sent;
        }
        // The client went before there was an answer: nginx's status for that.
        let status = self.status.map_or(499, |status| status.as_u16());
        let (inner, took) = (&self.link.node.0, self.began.elapsed());
        inner.instruments.ended(self.of, status, took);
        if let Some(span) = self.span.take() {
            inner.otel.end(span, status, took);
        }
    }
}

/// The body of an answer, and the exchange that ends with it.
pub(crate) struct Tracked {
    body: AnswerBody,
    exchange: Option<Exchange>,
}

/// Some of the body of an answer; the last has the exchange, which ends when the connection has taken all of it.
pub(crate) struct Piece {
    bytes: Bytes,
    _exchange: Option<Exchange>,
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

impl Body for Tracked {
    type Data = Piece;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, std::io::Error>>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        polled.map_ok(|frame| {
            frame.map_data(|bytes| {
                if let Some(exchange) = &mut this.exchange {
                    exchange.sent += bytes.len() as u64;
                }
                let is_last = this.body.is_end_stream();
                let exchange = if is_last { this.exchange.take() } else { None };
                Piece {
                    bytes,
                    _exchange: exchange,
                }
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn text_of(thrown: &(dyn Any + Send)) -> &str {
    let text = thrown.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| thrown.downcast_ref::<&str>().copied())
        .unwrap_or("without a text")
}
