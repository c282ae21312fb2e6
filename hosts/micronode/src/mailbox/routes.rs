//! `/mbox/send`, `/mbox/recv`, `/mbox/ack` and `/mbox/dead`.

use std::time::{Duration, SystemTime};

use base64::engine::general_purpose::STANDARD;
use base64::Engine as _;
use bytes::Bytes;
use hyper::header::{HeaderName, HeaderValue, CONTENT_TYPE};
use hyper::StatusCode;
use ron_host::capability::system_random;
use ron_host::http::{Access, Answer, Call, Refusal, Routes};
use ron_kernel::bus::rfc3339;
use ron_metrics::{Metrics, MetricsError};
use ryker::ErrorKind;
use serde::de::DeserializeOwned;
use serde::Deserialize;

use super::actor::Mailbox;
use super::id::{LeaseId, MessageId};
use super::letterbox::{Delivery, Draft, Shelf, Unsent};
use super::payload::{Collector, Payload};
use crate::wiped::Wiped;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const KEY_MAX: usize = 128;
/// Of a request that has an id and a lease, or nothing.
const SMALL: usize = 1 << 10;
/// What is taken for a message before any of it is there.
const DECLARED_MAX: u64 = 1 << 20;
/// Until another try can help, when the mailbox is busy or starts again, and when somebody has to receive first.
const MOMENT: Duration = Duration::from_secs(1);
const FULL: Duration = Duration::from_secs(5);

/// The routes of `mailbox`, beside `routes`.
///
/// Receiving and acking are open while the node is not ready to be written to: they make room. Dead letters have a path of
/// their own, as a capability can tell paths apart: who may receive need not be allowed to take what others failed at.
///
/// # Errors
/// The metrics have a family of one of their names already.
pub fn mailbox(
    routes: Routes,
    mailbox: &Mailbox,
    metrics: &Metrics,
) -> Result<Routes, MetricsError> {
    mailbox.register(metrics)?;
    let [sending, queue, dead, acking] = [(); 4].map(|()| mailbox.clone());
    Ok(routes
        .route("POST", "/mbox/send", Access::Write, move |call| {
            send(sending.clone(), call)
        })
        .route("POST", "/mbox/recv", Access::Read, move |call| {
            receive(queue.clone(), Shelf::Queue, call)
        })
        .route("POST", "/mbox/dead", Access::Read, move |call| {
            receive(dead.clone(), Shelf::Dead, call)
        })
        .route("POST", "/mbox/ack", Access::Read, move |call| {
            ack(acking.clone(), call)
        }))
}

async fn send(mailbox: Mailbox, mut call: Call) -> Result<Answer, Refusal> {
    let key = key(&call)?;
    let payload = body(&mut call).await?;
    let draft = Draft::new(&key, payload);
    let deadline = call.deadline().into_std();
    let sent = mailbox.send(draft, deadline).await.map_err(unanswered)?;
    let id = sent.map_err(unsent)?;
    let body = Bytes::from(format!(r#"{{"id":"{id}"}}"#));
    Ok(json(StatusCode::CREATED, body))
}

async fn receive(mailbox: Mailbox, shelf: Shelf, mut call: Call) -> Result<Answer, Refusal> {
    let body = small_body(&mut call).await?;
    if !body.is_empty() && object::<Nothing>(&body).is_none() {
        let message = "the body: expected none, or {}";
        return Err(Refusal::bad_request("body", message));
    }
    let mut random = [0; 16];
    system_random(&mut random).map_err(|error| {
        let error = error.to_string();
        tracing::error!(event = "no_random", error, "no lease can be drawn: {error}");
        Refusal::internal("random")
    })?;
    let lease = LeaseId::new(u128::from_ne_bytes(random));
    // Before it is leased, so that nobody is told a later end than there is.
    let asked = SystemTime::now();
    let deadline = call.deadline().into_std();
    let received = mailbox.receive(shelf, lease, deadline).await;
    match received.map_err(unanswered)? {
        Some(delivery) => Ok(json(StatusCode::OK, delivered(&delivery, asked))),
        None => Ok(Answer::empty(StatusCode::NO_CONTENT)),
    }
}

async fn ack(mailbox: Mailbox, mut call: Call) -> Result<Answer, Refusal> {
    let body = small_body(&mut call).await?;
    let Some(asked) = object::<Acked>(&body) else {
        let message = r#"the body: expected {"id","lease"}, both as they were received"#;
        return Err(Refusal::bad_request("body", message));
    };
    let unknown = || Refusal::not_found("lease", "there is no such lease, or it has expired");
    let id: MessageId = asked.id.parse().map_err(|_| unknown())?;
    let lease: LeaseId = asked.lease.parse().map_err(|_| unknown())?;
    let deadline = call.deadline().into_std();
    let ended = mailbox.ack(id, lease, deadline).await.map_err(unanswered)?;
    ended.map_err(|_| unknown())?;
    Ok(Answer::empty(StatusCode::NO_CONTENT))
}

/// The body of an ack.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Acked {
    id: String,
    lease: String,
}

/// The body of a receive, which has no options.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// A JSON object; other JSON can be read as a struct too.
fn object<T: DeserializeOwned>(text: &[u8]) -> Option<T> {
    let is_object = text.trim_ascii_start().starts_with(b"{");
    is_object.then(|| serde_json::from_slice(text).ok())?
}

/// The key of a send. Without one a client that got no answer could neither send again nor not.
fn key(call: &Call) -> Result<String, Refusal> {
    without_query(call)?;
    let key = call.header(IDEMPOTENCY_KEY).filter(|key| {
        (1..=KEY_MAX).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic())
    });
    key.map(str::to_owned).ok_or_else(|| {
        let message = format!("expected one Idempotency-Key of 1 to {KEY_MAX} visible characters of ASCII, other for each message");
        unread(call, Refusal::bad_request("idempotency_key", message))
    })
}

/// Nothing here has parameters, and who adds some should not think that they did something.
fn without_query(call: &Call) -> Result<(), Refusal> {
    match call.head().uri.query() {
        None => Ok(()),
        Some(_) => {
            let refusal = Refusal::bad_request("query", "this path takes no parameters");
            Err(unread(call, refusal))
        }
    }
}

/// A refusal before the body was read.
fn unread(call: &Call, refusal: Refusal) -> Refusal {
    match call.length() {
        Some(0) => refusal,
        _ => refusal.closing(),
    }
}

async fn body(call: &mut Call) -> Result<Payload, Refusal> {
    let declared = call.length().unwrap_or(0).min(DECLARED_MAX);
    let mut body = Collector::with_capacity(declared as usize);
    while let Some(piece) = call.piece().await? {
        body.push(&piece);
    }
    Ok(body.finish())
}

async fn small_body(call: &mut Call) -> Result<Vec<u8>, Refusal> {
    without_query(call)?;
    let mut body = Vec::new();
    while let Some(piece) = call.piece().await? {
        if body.len() + piece.len() > SMALL {
            let status = StatusCode::PAYLOAD_TOO_LARGE;
            let message = format!("the body: expected at most {SMALL} bytes");
            let refusal = Refusal::new(status, "FrameTooLarge", "body_cap", message);
            return Err(refusal.closing());
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

fn unsent(why: Unsent) -> Refusal {
    let message = why.to_string();
    let conflict =
        |reason, message| Refusal::new(StatusCode::CONFLICT, "Conflict", reason, message);
    match why {
        Unsent::Duplicate(id) => conflict("duplicate", message).detail("id", id.to_string()),
        Unsent::KeyReused => conflict("key_reused", message),
        Unsent::Full(_) => busy("mailbox_full", message, FULL),
    }
}

fn unanswered(kind: ErrorKind) -> Refusal {
    match kind {
        ErrorKind::Busy => {
            let message = "more requests wait for the mailbox than it takes";
            busy("mailbox_busy", message.to_owned(), MOMENT)
        }
        ErrorKind::Timeout => {
            let message = "the mailbox did not answer in time; it may have done what was asked";
            Refusal::unavailable("mailbox_timeout", message, MOMENT)
        }
        _ => {
            let message = "the mailbox starts again; it may have done what was asked";
            Refusal::unavailable("mailbox_down", message, MOMENT)
        }
    }
}

fn busy(reason: &'static str, message: String, retry: Duration) -> Refusal {
    let status = StatusCode::SERVICE_UNAVAILABLE;
    Refusal::new(status, "Busy", reason, message).retry_after(retry)
}

/// `{"id","lease","body_b64","attempt","expires_at"}`, put together in memory that is overwritten when it has been sent. The
/// other members are digits, so that nothing in them needs an escape.
fn delivered(delivery: &Delivery, asked: SystemTime) -> Bytes {
    let Delivery { id, lease, .. } = delivery;
    let payload = delivery.payload.as_bytes();
    let head = format!(r#"{{"id":"{id}","lease":"{lease}","body_b64":""#);
    let (attempt, expires_at) = (delivery.attempt, rfc3339(asked + delivery.lasts));
    let tail = format!(r#"","attempt":{attempt},"expires_at":"{expires_at}"}}"#);
    let (begin, end) = (head.len(), head.len() + payload.len().div_ceil(3) * 4);
    let mut text = Wiped::zeroed(end + tail.len());
    let all = text.as_mut();
    all[..begin].copy_from_slice(head.as_bytes());
    // It has all the room that it needs.
    let _ = STANDARD.encode_slice(payload, &mut all[begin..end]);
    all[end..].copy_from_slice(tail.as_bytes());
    text.freeze()
}

fn json(status: StatusCode, body: Bytes) -> Answer {
    let mut answer = Answer::full(status, body);
    let json = HeaderValue::from_static("application/json");
    answer.headers_mut().insert(CONTENT_TYPE, json);
    answer
}
