//! What every request passes before and after its handler.

use std::any::Any;
use std::convert::Infallible;
use std::fmt;
use std::future::{poll_fn, Future};
use std::num::NonZeroU32;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::pin::{pin, Pin};
use std::sync::atomic::{AtomicU64, AtomicU8, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{
    HeaderName, HeaderValue, ACCEPT, ACCEPT_ENCODING, ALLOW, CONNECTION, CONTENT_ENCODING, HOST,
    TRANSFER_ENCODING,
};
use hyper::http::request::Parts;
use hyper::http::uri::Authority;
use hyper::{Request, Response, StatusCode, Version};
use ron_kernel::metrics::{
    labels, AdminRequest, CounterFamily, Golden, Metrics, MetricsError, ReasonLabel,
};

use super::answer::{Answer, AnswerBody};
use super::call::{too_large, BodyLimits, Call, Source, Whole};
use super::correlation::{self, CorrelationId};
use super::front::{Door, Front};
use super::inflate::{Coding, Inflate, ACCEPTED};
use super::instruments::{Instruments, Of, UNMATCHED};
use super::otel::{Otel, Span};
use super::places::{NoPlace, Place, Places};
use super::refusal::Refusal;
use super::routes::{Access, BodyAllowance, Endpoint, Found, Routes};
use super::settings::HttpSettings;
use super::timed::{Phase, Times};
use super::tls::TlsMetrics;
use super::trace_context::TraceContext;
use crate::capability::CapId;

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
    }

    fn limits(&self) -> Arc<Limits> {
        let limits = self.0.limits.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&limits)
    }

    pub(crate) fn times(&self) -> Times {
        let limits = self.limits();
        Times {
            read: limits.settings.read_timeout,
            write: limits.settings.write_timeout,
            idle: limits.settings.idle_timeout,
            rate: limits.settings.min_rate.bytes(),
        }
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
        instruments.count(instruments.of(UNMATCHED, "other"), status);
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

    /// Answers one request.
    pub(crate) async fn serve(
        self,
        request: Request<Incoming>,
        phase: Phase,
    ) -> Result<Response<Tracked>, Infallible> {
        let began = Instant::now();
        let (head, body) = request.into_parts();
        let theirs = head.headers.get(correlation::HEADER);
        let corr_id = CorrelationId::of(theirs, SystemTime::now(), random);
        if let Err(refusal) = is_plain(&head) {
            let of = self.0.instruments.of(UNMATCHED, head.method.as_str());
            let exchange = Exchange::begin(&self, of, began, phase);
            self.count(&refusal, UNMATCHED, &corr_id, None);
            return Ok(exchange.end(refusal.answer(&corr_id), &corr_id));
        }
        let is_let_in = self.0.door.is_local(&head);
        if let Err(refusal) = is_let_in {
            let of = self.0.instruments.of(UNMATCHED, head.method.as_str());
            let exchange = Exchange::begin(&self, of, began, phase);
            self.count(&refusal, UNMATCHED, &corr_id, None);
            return Ok(exchange.end(refusal.answer(&corr_id), &corr_id));
        }
        if let Some((route, answer)) = self.admin(&head, &corr_id) {
            let of = self.0.instruments.of(route, head.method.as_str());
            let exchange = Exchange::begin(&self, of, began, phase);
            return Ok(exchange.end(answer, &corr_id));
        }
        let found = self.0.routes.find(&head.method, head.uri.path());
        let (template, allowed) = match found {
            Found::Nothing => {
                let refusal = Refusal::not_found("route", "there is nothing at this path");
                (UNMATCHED, Err(refusal))
            }
            Found::OtherMethod { template, allow } => (template, Err(other_method(&allow))),
            Found::Endpoint {
                template,
                endpoint,
                params,
            } => (template, Ok((endpoint, params))),
        };
        let of = self.0.instruments.of(template, head.method.as_str());
        let mut exchange = Exchange::begin(&self, of, began, phase);
        exchange.trace = trace(&head);
        exchange.record(&head, template, &corr_id);
        let is_read = body.is_end_stream();
        // The rest of the body is in the way of another request.
        let unread = |refusal: Refusal| match is_read {
            true => refusal,
            false => refusal.closing(),
        };
        let answer = match allowed {
            Err(refusal) => Err(unread(self.pace(&self.limits()).err().unwrap_or(refusal))),
            Ok((endpoint, params)) => match self.admit(&head, &body, endpoint, &mut exchange).await
            {
                Err(refusal) => Err(unread(refusal)),
                Ok((limits, coding)) => {
                    let body = Whole(body);
                    let body = match coding {
                        None => Source::Plain(body),
                        Some(coding) => Source::Coded(Inflate::new(body, coding, limits.bytes)),
                    };
                    let call = Call {
                        head,
                        params,
                        body,
                        limits,
                    };
                    match contained((endpoint.handler)(call)).await {
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
            },
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(refusal) => {
                self.count(&refusal, template, &corr_id, exchange.trace.as_ref());
                refusal.answer(&corr_id)
            }
        };
        Ok(exchange.end(answer, &corr_id))
    }

    fn admin(&self, head: &Parts, corr_id: &CorrelationId) -> Option<(&'static str, Answer)> {
        let path = head.uri.path();
        let route = ADMIN.into_iter().find(|route| *route == path)?;
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
            return Some((route, other_method("GET, HEAD").answer(corr_id)));
        }
        let mut answer = Answer::full(status, admin.body);
        for (name, value) in admin.headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                answer
                    .headers_mut()
                    .insert(HeaderName::from_static(name), value);
            }
        }
        Some((route, answer))
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

    /// Everything that can refuse a request before its handler sees it.
    async fn admit(
        &self,
        head: &Parts,
        body: &Incoming,
        endpoint: &Endpoint,
        exchange: &mut Exchange,
    ) -> Result<(BodyLimits, Option<Coding>), Refusal> {
        let limits = self.limits();
        self.pace(&limits)?;
        let retry = Duration::from_millis(self.0.retry_ms.load(Ordering::Relaxed));
        match (self.openness(), endpoint.access) {
            (Openness::Open | Openness::Leaving, _) | (Openness::ReadOnly, Access::Read) => {}
            (Openness::Draining, _) => {
                let message = "this node is shutting down";
                return Err(Refusal::unavailable("draining", message, retry).closing());
            }
            // What was seen last may be a moment old: nobody is refused whom /readyz has told to come.
            (Openness::ReadOnly, Access::Write) if self.0.metrics.health().ready() => {}
            (Openness::ReadOnly, Access::Write) => {
                let message = "this node is not ready to write; /readyz tells why";
                return Err(Refusal::unavailable("not_ready", message, retry));
            }
            (Openness::Closed, _) => {
                let message = "this node is closed until it is safe; /readyz tells why";
                return Err(Refusal::unavailable("fail_secure", message, retry));
            }
        }
        let declared = body.size_hint().exact();
        let grant = self.0.door.admit(head, declared, SystemTime::now())?;
        let coding = Coding::of(head.headers.get_all(CONTENT_ENCODING)).map_err(|()| {
            let message = "this node takes bodies as they are, or with one of gzip and zstd";
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            let refusal = Refusal::new(status, "UnsupportedEncoding", "coding", message);
            refusal.header(ACCEPT_ENCODING, ACCEPTED).closing()
        })?;
        let body_allowed = (endpoint.allowing)(head)?.unwrap_or(BodyAllowance {
            bytes: limits.settings.max_body_bytes.bytes(),
            timeout: limits.settings.body_timeout,
        });
        let most = body_allowed.bytes;
        let allowed = grant.as_ref().and_then(|grant| grant.max_bytes);
        let most = allowed.map_or(most, |allowed| allowed.min(most));
        if body.size_hint().lower() > most {
            return Err(too_large());
        }
        let flow = grant.as_ref().map(|grant| grant.cap_id);
        exchange.place = Some(self.place(flow, declared.unwrap_or(most)).await?);
        let limits = BodyLimits {
            bytes: most,
            piece: limits.settings.read_timeout,
            until: tokio::time::Instant::now() + body_allowed.timeout,
        };
        Ok((limits, coding))
    }

    /// A place among the requests under way, after a moment's wait if need be.
    async fn place(&self, flow: Option<CapId>, cost: u64) -> Result<Place, Refusal> {
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
        let place = outcome.map_err(|_| {
            let message = "as many requests are under way as this node takes";
            Refusal::unavailable("inflight", message, Duration::from_secs(1))
        });
        place.map(|(place, _)| place)
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
        if [408, 413, 415, 429, 503, 507].contains(&status.as_u16()) {
            let label = match reason {
                "decompress" => ReasonLabel::new(reason),
                _ => ReasonLabel::new(status.as_str().to_owned()),
            };
            self.0.golden.rejected_total.get(&label).inc();
        }
        let (status, corr_id) = (status.as_u16(), corr_id.as_str());
        let trace_id = trace.map(TraceContext::trace_id);
        if status >= 500 && status != 503 {
            tracing::warn!(
                event = "refused",
                corr_id,
                trace_id,
                route,
                status,
                reason,
                "refused"
            );
        } else {
            tracing::debug!(
                event = "refused",
                corr_id,
                trace_id,
                route,
                status,
                reason,
                "refused"
            );
        }
    }
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
    let hosts = head.headers.get_all(HOST).iter().count();
    if hosts != 1 && !(hosts == 0 && head.version < Version::HTTP_11) {
        let message = "a request of HTTP/1.1 names its host, once";
        return Err(Refusal::bad_request("host", message).closing());
    }
    // hyper overlooks a `close` beside what is no text.
    let mut options = head.headers.get_all(CONNECTION).iter();
    if options.any(|value| value.to_str().is_err()) {
        let message = "an option of the connection is no token";
        return Err(Refusal::bad_request("connection", message).closing());
    }
    if !head.headers.get_all(HOST).iter().all(is_authority) {
        let message = "what the request names is no host";
        return Err(Refusal::bad_request("host", message).closing());
    }
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
    let chunked = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"chunked");
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(only), None) if chunked(only) => Ok(()),
        _ => {
            let message = "the only transfer coding is chunked";
            Err(Refusal::bad_request("transfer_coding", message).closing())
        }
    }
}

/// `HOST[:PORT]`, or nothing where the target has no authority: RFC 9112, section 3.2.
fn is_authority(value: &HeaderValue) -> bool {
    let Ok(authority) = Authority::try_from(value.as_bytes()) else {
        return value.is_empty();
    };
    let after = authority.as_str().strip_prefix(authority.host());
    let port = after.and_then(|after| after.strip_prefix(':').or(after.is_empty().then_some("")));
    port.is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// For ids, which need to differ, not to be secret.
fn random() -> u128 {
    let mut bytes = [0; 16];
    let _ = getrandom::fill(&mut bytes);
    u128::from_le_bytes(bytes)
}

/// The trace that a request belongs to. Of two nobody knows which.
fn trace(head: &Parts) -> Option<TraceContext> {
    let mut values = head.headers.get_all(TraceContext::HEADER).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    Some(TraceContext::of(Some(value), random))
}

/// One request under way, until the last byte of its answer was taken or the connection is gone.
struct Exchange {
    node: Node,
    of: Of,
    began: Instant,
    phase: Phase,
    /// Whoever looks after the node takes none.
    place: Option<Place>,
    /// Bytes of the answer that went out.
    sent: u64,
    /// The trace that the client has said it belongs to.
    trace: Option<TraceContext>,
    /// That trace's account of it, if it is recorded.
    span: Option<Span>,
    status: Option<StatusCode>,
}

impl Exchange {
    fn begin(node: &Node, of: Of, began: Instant, phase: Phase) -> Self {
        node.0.instruments.began(of);
        Self {
            node: node.clone(),
            of,
            began,
            phase,
            place: None,
            sent: 0,
            trace: None,
            span: None,
            status: None,
        }
    }

    /// Records it, where there is a collector and this one is sampled.
    fn record(&mut self, head: &Parts, route: &'static str, corr_id: &CorrelationId) {
        let otel = &self.node.0.otel;
        if otel.is_on() {
            let ratio = self.node.limits().settings.otel.ratio;
            let of = (head.method.as_str(), route, corr_id.as_str());
            self.span = otel.begin(&mut self.trace, ratio, random, of);
        }
    }

    fn end(mut self, answer: Answer, corr_id: &CorrelationId) -> Response<Tracked> {
        self.status = Some(answer.status());
        let (mut head, body) = answer.response.into_parts();
        let name = HeaderName::from_static(correlation::HEADER);
        head.headers.insert(name, corr_id.header());
        if let Some(trace) = &self.trace {
            let name = HeaderName::from_static(TraceContext::HEADER);
            head.headers.insert(name, trace.header());
        }
        if matches!(self.node.openness(), Openness::Leaving | Openness::Draining) {
            head.headers
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let body = Tracked {
            body,
            exchange: self,
        };
        Response::from_parts(head, body)
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.phase.idle();
        if let Some(place) = &mut self.place {
            place.beyond = self.sent;
        }
        // The client went before there was an answer: nginx's status for that.
        let status = self.status.map_or(499, |status| status.as_u16());
        let instruments = &self.node.0.instruments;
        let took = self.began.elapsed();
        instruments.ended(self.of, status, took);
        if let Some(span) = self.span.take() {
            self.node.0.otel.end(span, status, took);
        }
    }
}

/// The body of an answer, and the exchange that ends with it.
pub(crate) struct Tracked {
    body: AnswerBody,
    exchange: Exchange,
}

impl Body for Tracked {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.exchange.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A handler whose panic is its own request's trouble alone.
async fn contained<F: Future>(handler: F) -> Result<F::Output, Box<dyn Any + Send>> {
    let mut handler = pin!(handler);
    poll_fn(
        |cx| match catch_unwind(AssertUnwindSafe(|| handler.as_mut().poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Err(thrown) => Poll::Ready(Err(thrown)),
        },
    )
    .await
}

fn text_of(thrown: &(dyn Any + Send)) -> &str {
    let text = thrown.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| thrown.downcast_ref::<&str>().copied())
        .unwrap_or("without a text")
}
