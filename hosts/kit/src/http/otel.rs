//! Spans of requests, told to a collector by OTLP over HTTP. Requests hand theirs over and wait for nothing; one child sends
//! them, in batches.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{
    any_value::Value, AnyValue, InstrumentationScope, KeyValue,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{
    span::SpanKind, status::StatusCode as SpanStatus, ResourceSpans, ScopeSpans, Span as Told,
    Status,
};
use prost::Message;
use ron_kernel::metrics::CounterFamily;
use ron_kernel::supervisor::{Child, ChildContext};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{channel, Receiver, Sender};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout, timeout_at, Instant};

use super::instruments::{METHODS, UNMATCHED};
use super::node::OutcomeLabel;
use super::settings::{OtelEndpoint, OtelSettings};
use super::trace_context::TraceContext;

/// Spans that wait to be sent, as the specification's batch processor has it: 4 s of the highest default rate.
const QUEUE: usize = 2_048;
/// Spans in one request, as there.
const BATCH: usize = 512;
/// How long a batch that is not full waits for more.
const LINGER: Duration = Duration::from_secs(1);
/// For one request, as the specification's exporter has it.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Before a second and a third try. Meanwhile the queue takes what there is room for.
const PAUSES: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];
/// Of an answer, which has a few words at most.
const ANSWER_MAX: usize = 64 << 10;
/// What is left of the deadline of a stop to end in.
const LAST_MOMENT: Duration = Duration::from_millis(250);

/// Where spans go; clones are the same, and the default is nowhere.
#[derive(Clone, Default)]
pub(crate) struct Otel(Option<Arc<Inner>>);

struct Inner {
    endpoint: OtelEndpoint,
    queue: Sender<Ended>,
    /// For the child, one incarnation after the other.
    waiting: Mutex<Receiver<Ended>>,
    /// From when there is a node, which is before there are spans.
    spans_total: OnceLock<CounterFamily<OutcomeLabel>>,
}

/// A request that is under way, as its trace has it.
#[derive(Debug)]
pub(crate) struct Span {
    trace: TraceContext,
    /// `None` for one that clients have made up.
    method: Option<&'static str>,
    route: &'static str,
    corr_id: String,
}

/// One that is over.
struct Ended {
    span: Span,
    status: u16,
    at: SystemTime,
    took: Duration,
}

impl Otel {
    /// Collects what `settings` say, if they do.
    pub(crate) fn new(settings: &OtelSettings) -> Self {
        let inner = settings.endpoint.as_ref().map(|endpoint| {
            let (queue, waiting) = channel(QUEUE);
            Arc::new(Inner {
                endpoint: endpoint.clone(),
                queue,
                waiting: Mutex::new(waiting),
                spans_total: OnceLock::new(),
            })
        });
        Self(inner)
    }

    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Spans are counted there, by what became of them.
    pub(crate) fn count_in(&self, spans_total: CounterFamily<OutcomeLabel>) {
        if let Some(inner) = &self.0 {
            let _ = inner.spans_total.set(spans_total);
        }
    }

    /// The span of a request, if it is recorded: the caller's decision where it belongs to a trace, otherwise that of chance,
    /// of `ratio` in one; then it begins a trace.
    pub(crate) fn begin(
        &self,
        trace: &mut Option<TraceContext>,
        ratio: f64,
        random: fn() -> u128,
        (method, route, corr_id): (&str, &'static str, &str),
    ) -> Option<Span> {
        self.0.as_ref()?;
        let trace = match trace {
            Some(theirs) if theirs.is_sampled() => *theirs,
            Some(_) => return None,
            None => *trace.insert(TraceContext::sampled(ratio, random)?),
        };
        Some(Span {
            trace,
            method: METHODS.into_iter().find(|known| *known == method),
            route,
            corr_id: corr_id.to_owned(),
        })
    }

    /// Hands a span over, or drops it where too many wait.
    pub(crate) fn end(&self, span: Span, status: u16, took: Duration) {
        let Some(inner) = &self.0 else { return };
        let ended = Ended {
            span,
            status,
            at: SystemTime::now(),
            took,
        };
        if inner.queue.try_send(ended).is_err() {
            inner.count("dropped", 1);
        }
    }

    /// The child that sends them. It stops after those that nothing comes after, so that it has the spans of their last
    /// requests. Whatever happens to it, nobody is less ready for that.
    pub(crate) fn child(&self, service: &'static str, version: &'static str) -> Option<Child> {
        let inner = self.0.clone()?;
        let child = Child::task("otel", move |cx| {
            let inner = Arc::clone(&inner);
            async move {
                let instance = cx.kernel().map(|kernel| kernel.bus().instance().to_owned());
                let resource = Resource {
                    attributes: vec![
                        text("service.name", service),
                        text("service.version", version),
                        text("service.instance.id", instance.unwrap_or_default()),
                    ],
                    ..Resource::default()
                };
                inner.send_all(cx, resource).await;
            }
        });
        Some(child.optional())
    }
}

impl fmt::Debug for Otel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoint = self.0.as_ref().map(|inner| &inner.endpoint);
        f.debug_tuple("Otel").field(&endpoint).finish()
    }
}

/// Why a batch was not taken.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Connect(io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("it does not answer within {TIMEOUT:?}")]
    Timeout,
    #[error("it answers {0}")]
    Refused(StatusCode),
    #[error("its answer cannot be read")]
    Answer,
}

impl Failure {
    /// Whether another try may help: the statuses are OTLP's.
    fn is_passing(&self) -> bool {
        match self {
            Self::Refused(status) => [429, 502, 503, 504].contains(&status.as_u16()),
            Self::Connect(_) | Self::Http(_) | Self::Timeout => true,
            Self::Answer => false,
        }
    }
}

impl Inner {
    fn count(&self, outcome: &'static str, spans: u64) {
        if let Some(total) = self.spans_total.get() {
            total.get(&OutcomeLabel::new(outcome)).add(spans);
        }
    }

    async fn send_all(&self, cx: ChildContext, resource: Resource) {
        let mut waiting = self.waiting.lock().await;
        let mut news = News::default();
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = cx.stopping() => break,
                _ = waiting.recv_many(&mut batch, BATCH) => {}
            }
            let filled = async {
                while batch.len() < BATCH {
                    let room = BATCH - batch.len();
                    waiting.recv_many(&mut batch, room).await;
                }
            };
            tokio::select! {
                biased;
                () = cx.stopping() => break,
                _ = timeout(LINGER, filled) => {}
            }
            let body = self.encode(&resource, &mut batch);
            let mut pauses: VecDeque<_> = PAUSES.into();
            let tries = async {
                loop {
                    let tried = self.post(&body.bytes).await;
                    let again = tried.as_ref().is_err_and(Failure::is_passing);
                    match pauses.pop_front().filter(|_| again) {
                        Some(pause) => sleep(pause).await,
                        None => break tried,
                    }
                }
            };
            tokio::select! {
                biased;
                tried = tries => self.tell(&mut news, tried, body.spans),
                () = cx.stopping() => {
                    self.last(&cx, &mut news, body).await;
                    break;
                }
            }
        }
        // What is left goes at once, for as long as there is time.
        while !is_late(&cx) {
            while batch.len() < BATCH {
                match waiting.try_recv() {
                    Ok(ended) => batch.push(ended),
                    Err(_) => break,
                }
            }
            if batch.is_empty() {
                return;
            }
            let body = self.encode(&resource, &mut batch);
            self.last(&cx, &mut news, body).await;
        }
        let left = (batch.len() + waiting.len()) as u64;
        if left > 0 {
            self.tell(&mut news, Err(Failure::Timeout), left);
        }
    }

    /// One try within what is left of the stop.
    async fn last(&self, cx: &ChildContext, news: &mut News, body: Encoded) {
        let tried = match until(cx) {
            Some(until) => timeout_at(until, self.post(&body.bytes)).await,
            None => Ok(self.post(&body.bytes).await),
        };
        self.tell(news, tried.unwrap_or(Err(Failure::Timeout)), body.spans);
    }

    fn encode(&self, resource: &Resource, batch: &mut Vec<Ended>) -> Encoded {
        let spans = batch.len() as u64;
        let scope = InstrumentationScope {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let request = ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(resource.clone()),
                scope_spans: vec![ScopeSpans {
                    scope: Some(scope),
                    spans: batch.drain(..).map(Told::from).collect(),
                    ..ScopeSpans::default()
                }],
                ..ResourceSpans::default()
            }],
        };
        Encoded {
            bytes: request.encode_to_vec().into(),
            spans,
        }
    }

    /// Sends a batch on a connection of its own; how many spans of it were rejected.
    async fn post(&self, body: &Bytes) -> Result<u64, Failure> {
        let posted = timeout(TIMEOUT, self.try_post(body)).await;
        posted.unwrap_or(Err(Failure::Timeout))
    }

    async fn try_post(&self, body: &Bytes) -> Result<u64, Failure> {
        let stream = TcpStream::connect(self.endpoint.host_and_port()).await;
        let stream = stream.map_err(Failure::Connect)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::post(self.endpoint.path())
            .header(HOST, self.endpoint.authority())
            .header(CONTENT_TYPE, "application/x-protobuf")
            .header(
                USER_AGENT,
                concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")),
            )
            .body(Full::new(body.clone()));
        let request = request.map_err(|_| Failure::Answer)?;
        let exchange = async {
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            if !status.is_success() {
                return Err(Failure::Refused(status));
            }
            let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await;
            let body = body.map_err(|_| Failure::Answer)?.to_bytes();
            let answer = ExportTraceServiceResponse::decode(body).map_err(|_| Failure::Answer)?;
            let rejected = answer.partial_success.map_or(0, |some| some.rejected_spans);
            Ok(u64::try_from(rejected).unwrap_or(0))
        };
        tokio::pin!(exchange, connection);
        tokio::select! {
            answer = &mut exchange => answer,
            // The answer may have come with the end.
            ended = &mut connection => match ended {
                Ok(()) => exchange.await,
                Err(error) => Err(error.into()),
            },
        }
    }

    /// One line when it begins to fail, and one when it does no more.
    fn tell(&self, news: &mut News, tried: Result<u64, Failure>, spans: u64) {
        match tried {
            Ok(rejected) => {
                let rejected = rejected.min(spans);
                self.count("exported", spans - rejected);
                if rejected > 0 {
                    self.count("rejected", rejected);
                }
                if std::mem::take(&mut news.fails) {
                    let lost = std::mem::take(&mut news.lost);
                    tracing::info!(
                        event = "otel_recovered",
                        lost,
                        "the collector takes spans again"
                    );
                }
            }
            Err(failure) => {
                self.count("failed", spans);
                news.lost += spans;
                if !std::mem::replace(&mut news.fails, true) {
                    let (endpoint, error) = (self.endpoint.to_string(), failure.to_string());
                    tracing::warn!(
                        event = "otel_failed",
                        endpoint,
                        error,
                        "spans are lost, as the collector cannot be told: {error}"
                    );
                }
            }
        }
    }
}

/// When there must be nothing more to do.
fn until(cx: &ChildContext) -> Option<Instant> {
    cx.deadline()?.checked_sub(LAST_MOMENT)
}

fn is_late(cx: &ChildContext) -> bool {
    until(cx).is_some_and(|until| Instant::now() >= until)
}

/// A batch as it is sent.
struct Encoded {
    bytes: Bytes,
    spans: u64,
}

/// What the log has said.
#[derive(Default)]
struct News {
    fails: bool,
    lost: u64,
}

impl From<Ended> for Told {
    fn from(ended: Ended) -> Self {
        let Ended { span, status, .. } = ended;
        let (trace_id, span_id, parent_id) = span.trace.ids();
        let until = nanoseconds(ended.at);
        let took = u64::try_from(ended.took.as_nanos()).unwrap_or(u64::MAX);
        let mut attributes = vec![
            text("http.request.method", span.method.unwrap_or("_OTHER")),
            text("corr_id", span.corr_id),
            KeyValue {
                key: "http.response.status_code".to_owned(),
                value: Some(AnyValue {
                    value: Some(Value::IntValue(i64::from(status))),
                }),
                ..KeyValue::default()
            },
        ];
        let mut name = span.method.unwrap_or("HTTP").to_owned();
        if span.route != UNMATCHED {
            attributes.push(text("http.route", span.route));
            name = format!("{name} {}", span.route);
        }
        // The conventions: what went wrong, where something of ours did.
        let failed = status >= 500 || status == GONE;
        if failed {
            attributes.push(text("error.type", status.to_string()));
        }
        Told {
            trace_id: trace_id.to_be_bytes().to_vec(),
            span_id: span_id.to_be_bytes().to_vec(),
            parent_span_id: parent_id.map_or_else(Vec::new, |id| id.to_be_bytes().to_vec()),
            flags: span.trace.flags(),
            name,
            kind: SpanKind::Server.into(),
            start_time_unix_nano: until.saturating_sub(took),
            end_time_unix_nano: until,
            attributes,
            status: failed.then(|| Status {
                code: SpanStatus::Error.into(),
                ..Status::default()
            }),
            ..Told::default()
        }
    }
}

/// The client went before there was an answer.
const GONE: u16 = 499;

fn nanoseconds(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(0))
}

fn text(key: &str, value: impl Into<String>) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue {
            value: Some(Value::StringValue(value.into())),
        }),
        ..KeyValue::default()
    }
}
