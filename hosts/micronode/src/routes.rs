//! `/put` and `/o/{addr}`.

use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{ready, Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{
    HeaderValue, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    IF_MATCH, IF_NONE_MATCH, LOCATION, RANGE,
};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use ron_host::http::{
    Access, Answer, BodyAllowance, Call, EntityTag, Precondition, RangeRequest, Refusal, Routes,
};
use ron_host::Pace;
use ron_metrics::{labels, Counter, Histogram, Metrics, MetricsError};
use serde::Serialize;
use tokio::sync::Semaphore;

use crate::object::{Address, Cover, Part};
use crate::store::{Before, Busy, Finished, Opened, Store, StoreError, StoreSettings};

/// After a put that found no room: as often as the store is looked at, an operator makes room.
const ROOM_RETRY: Duration = Duration::from_secs(5);
/// After a failure of the store, which is looked at every second.
const STORE_RETRY: Duration = Duration::from_secs(2);
/// After all places of a kind were taken: one of them may be given back any moment.
const BUSY_RETRY: Duration = Duration::from_secs(1);

/// The answer to a put.
#[derive(Serialize)]
struct Stored<'a> {
    addr: &'a str,
    size: u64,
    existed: bool,
}

/// What the handlers share.
#[derive(Debug)]
struct Objects {
    store: Arc<Store>,
    streams: Semaphore,
    integrity_fail_total: Counter,
    puts: [Puts; OUTCOMES.len()],
    latency: Latency,
}

/// How a put may end.
const OUTCOMES: [&str; 10] = [
    "stored",
    "existed",
    "healed",
    "full",
    "busy",
    "failed",
    "too_large",
    "broken_off",
    "refused",
    "gone",
];

/// Those that ended in one way.
#[derive(Debug)]
struct Puts {
    outcome: &'static str,
    count: Counter,
    seconds: Histogram,
}

/// A put, which is counted once however it ends.
struct Putting<'a> {
    objects: &'a Objects,
    /// When the first byte of its body came, or else its head.
    began: Instant,
    outcome: &'static str,
}

impl<'a> Putting<'a> {
    fn begin(objects: &'a Objects) -> Self {
        Self {
            objects,
            began: Instant::now(),
            // Unless it gets an answer.
            outcome: "gone",
        }
    }

    fn ended(mut self, stored: &Result<Finished, Refusal>) {
        self.outcome = match stored {
            Ok(finished) => match finished.before {
                Before::Absent => "stored",
                Before::Intact => "existed",
                Before::Damaged => "healed",
            },
            Err(refusal) => match (refusal.status(), refusal.reason()) {
                (StatusCode::INSUFFICIENT_STORAGE, _) => "full",
                (StatusCode::SERVICE_UNAVAILABLE, "store") => "failed",
                (StatusCode::SERVICE_UNAVAILABLE, _) => "busy",
                (StatusCode::PAYLOAD_TOO_LARGE, _) => "too_large",
                (_, "body_timeout" | "body_broken") => "broken_off",
                _ => "refused",
            },
        };
    }
}

impl Drop for Putting<'_> {
    fn drop(&mut self) {
        let mut puts = self.objects.puts.iter();
        if let Some(puts) = puts.find(|puts| puts.outcome == self.outcome) {
            puts.count.inc();
            puts.seconds.observe_duration(self.began.elapsed());
        }
    }
}

labels! {
    /// How a put ended.
    struct Outcome { outcome }
}

labels! {
    /// What was asked of the store.
    struct Operation { op }
}

#[derive(Debug)]
struct Latency {
    finish: Histogram,
    open: Histogram,
    read: Histogram,
}

/// How an object is put.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// As any body.
    Plain,
    /// Beyond what any body may be.
    Stream,
}

/// The routes of objects in `store`, which has these settings.
///
/// # Errors
/// The metrics have a family of one of their names already.
pub fn objects(
    store: Arc<Store>,
    settings: &StoreSettings,
    metrics: &Metrics,
) -> Result<Routes, MetricsError> {
    let objects = Arc::new(Objects::new(store, settings, metrics)?);
    let (put, post, get) = (Arc::clone(&objects), Arc::clone(&objects), objects);
    let stream = BodyAllowance {
        bytes: settings.stream_max_bytes.bytes(),
        timeout: settings.stream_timeout,
    };
    let allowing = move |head: &Parts| Ok((Mode::of(head)? == Mode::Stream).then_some(stream));
    Ok(Routes::new()
        .route_allowing("PUT", "/put", Access::Write, allowing, move |call| {
            Arc::clone(&put).put(call)
        })
        .route_allowing("POST", "/put", Access::Write, allowing, move |call| {
            Arc::clone(&post).put(call)
        })
        .route("GET", "/o/{addr}", Access::Read, move |call| {
            Arc::clone(&get).get(call)
        }))
}

impl Mode {
    fn of(head: &Parts) -> Result<Self, Refusal> {
        match head.uri.query() {
            None | Some("") => Ok(Self::Plain),
            Some("mode=stream") => Ok(Self::Stream),
            Some(_) => {
                let message = "a put takes no other query than mode=stream";
                Err(Refusal::bad_request("query", message))
            }
        }
    }
}

impl Latency {
    /// From a memory's microsecond to a disk or a bucket that hardly answers.
    const BOUNDS: [f64; 12] = [
        0.000_01, 0.000_1, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0,
    ];

    /// Of puts, whose bodies take their time to come.
    const PUT_BOUNDS: [f64; 12] = [
        0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0, 20.0, 60.0,
    ];

    fn new(metrics: &Metrics) -> Result<Self, MetricsError> {
        let help =
            "What the store takes to finish a put, to open an object and to read a piece of it.";
        let family = metrics.histogram_family("store_latency_seconds", help, &Self::BOUNDS)?;
        let of = |op| family.get(&Operation::new(op));
        Ok(Self {
            finish: of("finish"),
            open: of("open"),
            read: of("read"),
        })
    }
}

impl Objects {
    fn new(
        store: Arc<Store>,
        settings: &StoreSettings,
        metrics: &Metrics,
    ) -> Result<Self, MetricsError> {
        store.expose(metrics)?;
        let counts = metrics.counter_family("store_puts_total", "Puts by how they ended.")?;
        let help = "Time from the first byte of a put's body to its answer.";
        let seconds = &Latency::PUT_BOUNDS;
        let seconds = metrics.histogram_family("store_put_seconds", help, seconds)?;
        Ok(Self {
            store,
            streams: Semaphore::new(settings.streams),
            integrity_fail_total: metrics.counter(
                "integrity_fail_total",
                "Reads that found bytes which are not those of their address.",
            )?,
            puts: OUTCOMES.map(|outcome| {
                let labels = Outcome::new(outcome);
                Puts {
                    outcome,
                    count: counts.get(&labels),
                    seconds: seconds.get(&labels),
                }
            }),
            latency: Latency::new(metrics)?,
        })
    }

    async fn put(self: Arc<Self>, mut call: Call) -> Result<Answer, Refusal> {
        let mut putting = Putting::begin(&self);
        let stored = self.store(&mut call, &mut putting.began).await;
        putting.ended(&stored);
        let Finished {
            address,
            size,
            before,
            ..
        } = stored?;
        let addr = address.text();
        let body = Stored {
            addr: std::str::from_utf8(&addr).unwrap_or_default(),
            size,
            existed: before != Before::Absent,
        };
        let body = serde_json::to_string(&body).unwrap_or_default();
        let mut answer = Answer::full(StatusCode::CREATED, body);
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ETAG, between(b"\"", &address, b"\""));
        headers.insert(LOCATION, between(b"/o/", &address, b""));
        Ok(answer)
    }

    /// Sets `began` when the body begins.
    async fn store(&self, call: &mut Call, began: &mut Instant) -> Result<Finished, Refusal> {
        is_whole(call)?;
        let is_stream = Mode::of(call.head())? == Mode::Stream;
        let _place = match is_stream {
            true => Some(self.streams.try_acquire().map_err(|_| {
                let message = "as many streams are under way as this node takes";
                Refusal::unavailable("streams", message, BUSY_RETRY).closing()
            })?),
            false => None,
        };
        let put = self.store.put(call.length(), is_stream);
        let mut put = put.map_err(|error| refusal(&error).closing())?;
        let mut is_first = true;
        while let Some(piece) = call.piece().await? {
            if std::mem::take(&mut is_first) {
                *began = Instant::now();
            }
            let written = put.write(&piece).await;
            written.map_err(|error| refusal(&error).closing())?;
        }
        let all_there = Instant::now();
        let finished = put.finish().await.map_err(|error| refusal(&error))?;
        self.latency.finish.observe_duration(all_there.elapsed());
        Ok(finished)
    }

    /// Counts and tells that what is stored at `address` is damaged.
    fn damaged(&self, address: &Address, what: &str) {
        self.integrity_fail_total.inc();
        let addr = address.to_string();
        tracing::error!(
            event = "integrity_fail",
            addr,
            what,
            "{what} of {addr} is damaged"
        );
    }

    async fn get(self: Arc<Self>, call: Call) -> Result<Answer, Refusal> {
        let address: Address = call
            .param("addr")
            .parse()
            .map_err(|error| Refusal::bad_request("address", format!("the address: {error}")))?;
        let object = self.open(&address).await?;
        let object =
            object.ok_or_else(|| Refusal::not_found("object", "there is no such object"))?;
        let head = call.head();
        let conditions = [IF_MATCH, IF_NONE_MATCH, RANGE];
        let is_plain = !head.headers.keys().any(|name| conditions.contains(name));
        let mut answer = if is_plain {
            self.send(head, None, object).await?
        } else {
            let tag = EntityTag::new(&address.to_string());
            match tag.precondition(&head.headers) {
                Precondition::Failed => {
                    let message = "the object is not the one that If-Match names";
                    let status = StatusCode::PRECONDITION_FAILED;
                    return Err(Refusal::new(status, "Conflict", "if_match", message));
                }
                Precondition::NotModified => Answer::empty(StatusCode::NOT_MODIFIED),
                Precondition::Send => {
                    // RFC 9110, section 14.2: of a GET only.
                    let is_get = head.method == Method::GET;
                    let range = call.header(RANGE);
                    let range = range.filter(|_| is_get && tag.allows_range(&head.headers));
                    self.send(head, range, object).await?
                }
            }
        };
        let headers = answer.headers_mut();
        headers.insert(ETAG, between(b"\"", &address, b"\""));
        // What an address stands for never changes; who may read it does.
        headers.insert(
            CACHE_CONTROL,
            HeaderValue::from_static("private, max-age=31536000, immutable"),
        );
        Ok(answer)
    }

    async fn open(&self, address: &Address) -> Result<Option<Opened>, Refusal> {
        let began = (!self.store.is_memory()).then(Instant::now);
        let opened = self.store.open(address).await;
        if let Some(began) = began {
            self.latency.open.observe_duration(began.elapsed());
        }
        if let Err(StoreError::Damaged) = opened {
            self.damaged(address, "the tree");
        }
        opened.map_err(|error| refusal(&error))
    }

    async fn send(
        self: Arc<Self>,
        head: &Parts,
        range: Option<&str>,
        object: Opened,
    ) -> Result<Answer, Refusal> {
        let length = object.tree().object_len();
        let (status, span, content_range) = match RangeRequest::of(range, length) {
            RangeRequest::Whole => (StatusCode::OK, 0..length, None),
            RangeRequest::Part(part) => {
                let content_range = part.content_range(length);
                let span = part.first..part.last + 1;
                (StatusCode::PARTIAL_CONTENT, span, Some(content_range))
            }
            RangeRequest::Unsatisfiable => {
                let message = format!("the object has {length} bytes, none of them in the range");
                let status = StatusCode::RANGE_NOT_SATISFIABLE;
                let refusal = Refusal::new(status, "BadRequest", "range", message);
                return Err(refusal.header(CONTENT_RANGE, format!("bytes */{length}")));
            }
        };
        let size = span.end - span.start;
        let mut answer = if head.method == Method::HEAD {
            let mut answer = Answer::empty(status);
            let length = HeaderValue::from(size);
            answer.headers_mut().insert(CONTENT_LENGTH, length);
            answer
        } else {
            let mut body = Verified::start(self, object, span).await?;
            match body.first.take() {
                Some(whole) if whole.len() as u64 == size => Answer::full(status, whole),
                first => Answer::stream(status, Verified { first, ..body }),
            }
        };
        let headers = answer.headers_mut();
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        let octets = HeaderValue::from_static("application/octet-stream");
        headers.insert(CONTENT_TYPE, octets);
        if let Some(content_range) = content_range {
            headers.insert(CONTENT_RANGE, text(content_range));
        }
        Ok(answer)
    }
}

/// RFC 9110, sections 14.5 and 13.1.1: a part is no object, and `/put` has no representation that a tag could match.
fn is_whole(call: &Call) -> Result<(), Refusal> {
    let headers = &call.head().headers;
    if headers.contains_key(CONTENT_RANGE) {
        let message = "an object is put as a whole, without Content-Range";
        return Err(Refusal::bad_request("content_range", message).closing());
    }
    if headers.contains_key(IF_MATCH) {
        let message = "nothing at this path has a tag that If-Match could name";
        let status = StatusCode::PRECONDITION_FAILED;
        return Err(Refusal::new(status, "Conflict", "if_match", message).closing());
    }
    Ok(())
}

/// A value that has an address in it.
fn between(before: &[u8], address: &Address, after: &[u8]) -> HeaderValue {
    let value = Bytes::from([before, &address.text(), after].concat());
    HeaderValue::from_maybe_shared(value).unwrap_or(HeaderValue::from_static(""))
}

/// A value of characters that a header may have.
fn text(value: String) -> HeaderValue {
    HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static(""))
}

fn refusal(error: &StoreError) -> Refusal {
    match error {
        StoreError::Full(full) if full.is_for_ever() => {
            let message = format!("the store as a whole has room for {} bytes", full.budget);
            let status = StatusCode::PAYLOAD_TOO_LARGE;
            Refusal::new(status, "FrameTooLarge", "store_cap", message)
        }
        StoreError::Busy(busy) => {
            let message = match busy {
                Busy::Reads => "as much is read at the moment as this node has memory for",
                Busy::Work => "as much waits for the disk as this node lets wait",
            };
            Refusal::unavailable(busy.reason(), message, BUSY_RETRY)
        }
        StoreError::Full(_) | StoreError::NoSpace(_) => {
            let message = format!("no room for it: {error}");
            let status = StatusCode::INSUFFICIENT_STORAGE;
            Refusal::new(status, "Busy", "store_full", message).retry_after(ROOM_RETRY)
        }
        StoreError::Damaged => {
            let message =
                "the stored bytes are not those of this address; putting them again heals it";
            let status = StatusCode::BAD_GATEWAY;
            Refusal::new(status, "IntegrityFail", "integrity", message)
        }
        StoreError::Unavailable { .. } => {
            let message = "the store does not work at the moment; /readyz tells why";
            Refusal::unavailable("store", message, STORE_RETRY)
        }
    }
}

/// Groups of an object, each verified before any byte of it is sent.
struct Verified {
    objects: Arc<Objects>,
    object: Opened,
    cover: Cover,
    /// Where the last group ends.
    end: u64,
    /// Taken from the cover, and not there yet.
    part: Option<Part>,
    /// Bytes of the object, and where they begin in it.
    window: (u64, Bytes),
    fetching: Option<Fetching>,
    /// Verified before the head went out.
    first: Option<Bytes>,
    left: u64,
    pace: Pace,
    /// It is to give way before it goes on.
    is_due: bool,
}

struct Fetching {
    bytes: Pin<Box<dyn Future<Output = Result<Bytes, StoreError>> + Send>>,
    start: u64,
    began: Instant,
}

impl Verified {
    /// Verifies the first group: until then the status can say that it is damaged.
    async fn start(
        objects: Arc<Objects>,
        object: Opened,
        span: Range<u64>,
    ) -> Result<Self, Refusal> {
        let left = span.end - span.start;
        let cover = object.tree().groups().cover(span);
        let cover = cover.map_err(|_| Refusal::internal("range"))?;
        let mut body = Self {
            objects,
            object,
            end: cover.span().end,
            cover,
            part: None,
            window: (0, Bytes::new()),
            fetching: None,
            first: None,
            left,
            pace: Pace::default(),
            is_due: false,
        };
        let first = std::future::poll_fn(|cx| body.poll_part(cx)).await;
        body.first = first.map_err(|error| refusal(&error))?;
        Ok(body)
    }

    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StoreError>> {
        let Some(part) = self.part.take().or_else(|| self.cover.next()) else {
            return Poll::Ready(Ok(None));
        };
        let mut group = self
            .object
            .group(part.index, &part.span)
            .or_else(|| self.windowed(&part));
        if group.is_none() {
            let start = part.span.start;
            let fetching = self.fetching.get_or_insert_with(|| Fetching {
                bytes: Box::pin(self.object.clone().fetch(
                    Arc::clone(&self.objects.store),
                    start,
                    self.end,
                )),
                start,
                began: Instant::now(),
            });
            let Poll::Ready(fetched) = fetching.bytes.as_mut().poll(cx) else {
                self.part = Some(part);
                return Poll::Pending;
            };
            self.objects
                .latency
                .read
                .observe_duration(fetching.began.elapsed());
            self.window = (fetching.start, Bytes::new());
            self.fetching = None;
            match fetched {
                Ok(bytes) => self.window.1 = bytes,
                // As if there were nothing.
                Err(StoreError::Damaged) => {}
                Err(error) => {
                    let address = self.object.tree().address();
                    self.objects.store.unread(&error, &address, part.span.start);
                    return Poll::Ready(Err(error));
                }
            }
            group = self.windowed(&part);
        }
        let verified = group.and_then(|group| {
            self.object.tree().verify_group(part.index, &group).ok()?;
            Some(group.slice_ref(group.get(part.wanted.clone())?))
        });
        if verified.is_none() {
            let address = self.object.tree().address();
            self.objects
                .damaged(&address, &format!("group {}", part.index));
        }
        Poll::Ready(verified.map(Some).ok_or(StoreError::Damaged))
    }

    /// The group of `part` from the window.
    fn windowed(&self, part: &Part) -> Option<Bytes> {
        let (start, bytes) = &self.window;
        let from = usize::try_from(part.span.start.checked_sub(*start)?).ok()?;
        let to = usize::try_from(part.span.end.checked_sub(*start)?).ok()?;
        Some(bytes.slice_ref(bytes.get(from..to)?))
    }
}

impl Body for Verified {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        // What it hashes at a time is little.
        if this.is_due {
            this.is_due = false;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let part = match this.first.take() {
            Some(first) => Ok(Some(first)),
            None => ready!(this.poll_part(cx)),
        };
        Poll::Ready(match part {
            Ok(Some(bytes)) => {
                this.left -= bytes.len() as u64;
                this.is_due = this.pace.is_due(bytes.len());
                Some(Ok(Frame::data(bytes)))
            }
            Ok(None) => None,
            Err(error) => Some(Err(io::Error::other(error))),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::{Tree, GROUP_LEN};
    use std::future::poll_fn;

    /// What is sent of an object in memory of which a byte is flipped, and whether the head said so.
    async fn sent(object: &[u8], flipped: usize, span: Range<u64>) -> (Vec<u8>, Option<u16>, u64) {
        let tree = Tree::of(object);
        let mut damaged = object.to_vec();
        damaged[flipped] ^= 1;
        let groups = damaged.chunks(GROUP_LEN).map(Bytes::copy_from_slice);
        let store = Store::with_damaged(groups.collect(), tree.clone()).await;
        let opened = store.open(&tree.address()).await.unwrap().unwrap();
        let metrics = Metrics::new("test").unwrap();
        let objects = Objects::new(store, &StoreSettings::default(), &metrics).unwrap();
        let objects = Arc::new(objects);
        let mut sent = Vec::new();
        let status = match Verified::start(Arc::clone(&objects), opened, span).await {
            Err(refusal) => Some(refusal.status().as_u16()),
            Ok(mut body) => loop {
                match poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                    Some(Ok(frame)) => sent.extend_from_slice(&frame.into_data().unwrap()),
                    Some(Err(_)) => break None,
                    None => break Some(200),
                }
            },
        };
        (sent, status, objects.integrity_fail_total.value())
    }

    #[tokio::test]
    async fn a_flipped_byte_in_memory_is_never_sent() {
        let object: Vec<u8> = (0..200_000).map(|n| (n % 251) as u8).collect();
        let len = object.len() as u64;
        for flipped in [0, 1, 65_535, 65_536, 131_072, 199_999] {
            let group = flipped / GROUP_LEN * GROUP_LEN;
            let before = object[..group].to_vec();
            let status = (group == 0).then_some(502);
            let got = sent(&object, flipped, 0..len).await;
            assert_eq!(got, (before, status, 1), "{flipped}");
            // A range that touches the group is refused, though it may not touch the byte.
            let (start, end) = (group as u64 + 10, group as u64 + 20);
            let got = sent(&object, flipped, start..end).await;
            assert_eq!(got, (Vec::new(), Some(502), 1), "{flipped}");
        }
        let got = sent(&object, 199_999, 0..65_536).await;
        assert_eq!(got, (object[..65_536].to_vec(), Some(200), 0));
    }

    #[test]
    fn a_put_gives_way_after_256_kib() {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let object = vec![7; 1 << 20];
        let store = Store::new(&StoreSettings::default(), &Default::default());
        let mut put = store.put(None, false).unwrap();
        let mut waits = 0;
        {
            let mut writing = std::pin::pin!(put.write(&object));
            while writing.as_mut().poll(&mut cx).is_pending() {
                waits += 1;
            }
        }
        assert_eq!(waits, 4);
    }

    #[tokio::test]
    async fn a_body_gives_way_after_256_kib() {
        let object = vec![7; 1 << 20];
        let tree = Tree::of(&object);
        let groups = object.chunks(GROUP_LEN).map(Bytes::copy_from_slice);
        let store = Store::with_damaged(groups.collect(), tree.clone()).await;
        let opened = store.open(&tree.address()).await.unwrap().unwrap();
        let metrics = Metrics::new("test").unwrap();
        let objects = Objects::new(store, &StoreSettings::default(), &metrics).unwrap();
        let body = Verified::start(Arc::new(objects), opened, 0..1 << 20).await;
        let mut body = body.unwrap_or_else(|_| panic!("it is intact"));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let (mut sent, mut before) = (0, 0);
        while sent < object.len() {
            match Pin::new(&mut body).poll_frame(&mut cx) {
                Poll::Pending => {
                    assert_eq!(sent - before, Pace::BYTES);
                    before = sent;
                }
                Poll::Ready(frame) => sent += frame.unwrap().unwrap().into_data().unwrap().len(),
            }
        }
        assert_eq!(sent - before, Pace::BYTES);
    }
}
