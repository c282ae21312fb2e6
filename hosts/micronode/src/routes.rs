//! `/put` and `/o/{addr}`.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{
    HeaderValue, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    LOCATION, RANGE,
};
use hyper::{Method, StatusCode};
use ron_host::http::{
    Access, Answer, Call, EntityTag, Precondition, RangeRequest, Refusal, Routes,
};
use ron_metrics::{Counter, Metrics, MetricsError};
use serde::Serialize;

use crate::object::{Address, Cover, Hasher};
use crate::store::{Object, Store};

/// The answer to a put.
#[derive(Serialize)]
struct Stored {
    addr: String,
    size: usize,
    existed: bool,
}

/// What is taken for an object before any of it is there.
const DECLARED_MAX: u64 = 1 << 20;

/// What the handlers share.
#[derive(Debug)]
struct Objects {
    store: Arc<Store>,
    integrity_fail_total: Counter,
}

/// The routes of objects in `store`.
///
/// # Errors
/// The metrics have a family of one of their names already.
pub fn objects(store: Arc<Store>, metrics: &Metrics) -> Result<Routes, MetricsError> {
    let objects = Arc::new(Objects {
        store,
        integrity_fail_total: metrics.counter(
            "integrity_fail_total",
            "Reads that found bytes which are not those of their address.",
        )?,
    });
    let (put, post, get) = (Arc::clone(&objects), Arc::clone(&objects), objects);
    Ok(Routes::new()
        .route("PUT", "/put", Access::Write, move |call| {
            Arc::clone(&put).put(call)
        })
        .route("POST", "/put", Access::Write, move |call| {
            Arc::clone(&post).put(call)
        })
        .route("GET", "/o/{addr}", Access::Read, move |call| {
            Arc::clone(&get).get(call)
        }))
}

impl Objects {
    async fn put(self: Arc<Self>, mut call: Call) -> Result<Answer, Refusal> {
        let mut hasher = Hasher::new();
        let declared = call.length().unwrap_or(0);
        let mut bytes = Vec::with_capacity(declared.min(DECLARED_MAX) as usize);
        while let Some(piece) = call.piece().await? {
            hasher.update(&piece);
            bytes.extend_from_slice(&piece);
        }
        // As much memory as is counted, and no more.
        let bytes = Bytes::from(bytes.into_boxed_slice());
        let (tree, size) = (hasher.finish(), bytes.len());
        let address = tree.address();
        let existed = self.store.put(Object { bytes, tree }).map_err(|full| {
            let message = format!("no room for it: {full}");
            let status = StatusCode::INSUFFICIENT_STORAGE;
            Refusal::new(status, "Busy", "store_full", message).retry_after(Duration::from_secs(5))
        })?;
        let body = Stored {
            addr: address.to_string(),
            size,
            existed,
        };
        let body = serde_json::to_string(&body).unwrap_or_default();
        let mut answer = Answer::full(StatusCode::CREATED, body);
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ETAG, text(tag(address).to_string()));
        headers.insert(LOCATION, text(format!("/o/{address}")));
        Ok(answer)
    }

    async fn get(self: Arc<Self>, call: Call) -> Result<Answer, Refusal> {
        let address: Address = call
            .param("addr")
            .parse()
            .map_err(|error| Refusal::bad_request("address", format!("the address: {error}")))?;
        let object = self.store.get(&address);
        let object =
            object.ok_or_else(|| Refusal::not_found("object", "there is no such object"))?;
        let headers = &call.head().headers;
        let tag = tag(address);
        let mut answer = match tag.precondition(headers) {
            Precondition::Failed => {
                let message = "the object is not the one that If-Match names";
                let status = StatusCode::PRECONDITION_FAILED;
                return Err(Refusal::new(status, "Conflict", "if_match", message));
            }
            Precondition::NotModified => Answer::empty(StatusCode::NOT_MODIFIED),
            Precondition::Send => self.send(&call, &tag, object)?,
        };
        let headers = answer.headers_mut();
        headers.insert(ETAG, text(tag.to_string()));
        // What an address stands for never changes; who may read it does.
        headers.insert(
            CACHE_CONTROL,
            HeaderValue::from_static("private, max-age=31536000, immutable"),
        );
        Ok(answer)
    }

    fn send(&self, call: &Call, tag: &EntityTag, object: Arc<Object>) -> Result<Answer, Refusal> {
        let length = object.tree.object_len();
        let range = match call.head().headers.contains_key(RANGE) {
            // RFC 9110, section 14.2: of a GET only.
            true if call.head().method == Method::GET && tag.allows_range(&call.head().headers) => {
                call.header(RANGE)
            }
            _ => None,
        };
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
        let mut answer = if call.head().method == Method::HEAD {
            Answer::empty(status)
        } else {
            let body = Verified::start(object, span, self.integrity_fail_total.clone())?;
            Answer::stream(status, body)
        };
        let headers = answer.headers_mut();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(size));
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        let octets = HeaderValue::from_static("application/octet-stream");
        headers.insert(CONTENT_TYPE, octets);
        if let Some(content_range) = content_range {
            headers.insert(CONTENT_RANGE, text(content_range));
        }
        Ok(answer)
    }
}

fn tag(address: Address) -> EntityTag {
    EntityTag::new(&address.to_string())
}

/// A value of characters that a header may have.
fn text(value: String) -> HeaderValue {
    HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static(""))
}

/// Groups of an object, each verified before any byte of it is sent.
struct Verified {
    object: Arc<Object>,
    cover: Cover,
    /// Verified before the head went out.
    first: Option<Bytes>,
    left: u64,
    integrity_fail_total: Counter,
}

impl Verified {
    /// Verifies the first group: until then the status can say that it is damaged.
    fn start(
        object: Arc<Object>,
        span: Range<u64>,
        integrity_fail_total: Counter,
    ) -> Result<Self, Refusal> {
        let left = span.end - span.start;
        let cover = object.tree.groups().cover(span);
        let mut body = Self {
            cover: cover.map_err(|_| Refusal::internal("range"))?,
            object,
            first: None,
            left,
            integrity_fail_total,
        };
        body.first = body.next_part().map_err(|_| {
            let message =
                "the stored bytes are not those of this address; putting them again heals it";
            Refusal::new(
                StatusCode::BAD_GATEWAY,
                "IntegrityFail",
                "integrity",
                message,
            )
        })?;
        Ok(body)
    }

    fn next_part(&mut self) -> io::Result<Option<Bytes>> {
        let Some(part) = self.cover.next() else {
            return Ok(None);
        };
        let Object { bytes, tree } = &*self.object;
        let span = part.span.start as usize..part.span.end as usize;
        let verified = bytes.get(span).and_then(|group| {
            tree.verify_group(part.index, group).ok()?;
            let within = part.wanted.clone();
            Some(bytes.slice_ref(group.get(within)?))
        });
        if verified.is_none() {
            self.integrity_fail_total.inc();
            let (addr, group) = (tree.address().to_string(), part.index);
            tracing::error!(
                event = "integrity_fail",
                addr,
                group,
                "group {group} of {addr} is damaged"
            );
        }
        match verified {
            Some(bytes) => Ok(Some(bytes)),
            None => Err(io::Error::new(io::ErrorKind::InvalidData, "damaged")),
        }
    }
}

impl Body for Verified {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        let part = match this.first.take() {
            Some(first) => Ok(Some(first)),
            None => this.next_part(),
        };
        Poll::Ready(match part {
            Ok(Some(bytes)) => {
                this.left -= bytes.len() as u64;
                Some(Ok(Frame::data(bytes)))
            }
            Ok(None) => None,
            Err(error) => Some(Err(error)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
