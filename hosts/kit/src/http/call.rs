//! A request on its way through a handler.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::HeaderName;
use hyper::http::request::Parts;
use hyper::StatusCode;
use tokio::time::{timeout_at, Instant};

use super::inflate::{Fault, Inflate};
use super::refusal::Refusal;
use super::routes::param;

/// A request whose head has passed the limits; its body is still to be read.
#[derive(Debug)]
pub struct Call {
    pub(crate) head: Parts,
    pub(crate) template: &'static str,
    pub(crate) tenant: Option<String>,
    pub(crate) body: Source,
    pub(crate) limits: BodyLimits,
}

/// A body without trailers. hyper takes a bare line feed for the end of a trailer section, and what follows for a part of
/// it: another request may be in there. Nobody needs them here.
#[derive(Debug)]
pub(crate) struct Whole(pub(crate) Incoming);

impl Body for Whole {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let polled = Pin::new(&mut self.0).poll_frame(cx);
        polled.map(|frame| match frame? {
            Ok(frame) if frame.is_trailers() => Some(Err(io::ErrorKind::InvalidData.into())),
            frame => Some(frame.map_err(io::Error::other)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// Where a body comes from.
#[derive(Debug)]
pub(crate) enum Source {
    Plain(Whole),
    Coded(Inflate),
}

impl Source {
    async fn piece(&mut self) -> Result<Option<Bytes>, Refusal> {
        match self {
            Self::Plain(body) => loop {
                let frame = match body.frame().await {
                    None => return Ok(None),
                    Some(Ok(frame)) => frame,
                    Some(Err(_)) => return Err(broken()),
                };
                // Pieces of nothing are passed over.
                match frame.into_data() {
                    Ok(data) if !data.is_empty() => return Ok(Some(data)),
                    _ => {}
                }
            },
            Self::Coded(body) => body.piece().await.map_err(|fault| match fault {
                Fault::Broken => broken(),
                Fault::TooLarge => too_large(),
                Fault::Bomb => {
                    let message = "the body grows too much when it is decompressed";
                    let status = StatusCode::PAYLOAD_TOO_LARGE;
                    Refusal::new(status, "FrameTooLarge", "decompress", message).closing()
                }
            }),
        }
    }

    /// Bytes of the body, if that is known.
    fn length(&self) -> Option<u64> {
        match self {
            Self::Plain(body) => body.size_hint().exact(),
            Self::Coded(_) => None,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyLimits {
    pub(crate) bytes: u64,
    /// Between two pieces.
    pub(crate) piece: Duration,
    /// For all of it.
    pub(crate) until: Instant,
}

impl Call {
    /// What is known of the request but its body.
    pub fn head(&self) -> &Parts {
        &self.head
    }

    /// A header, if it is there once and is text.
    pub fn header(&self, name: HeaderName) -> Option<&str> {
        let mut values = self.head.headers.get_all(name).iter();
        let value = values.next()?.to_str().ok()?;
        values.next().is_none().then_some(value)
    }

    /// What stands in the place of `{name}` in the route's template.
    pub fn param(&self, name: &str) -> &str {
        param(self.template, self.head.uri.path(), name).unwrap_or_default()
    }

    /// Whose things this may be about, if its capability says: it is for the handler to look.
    pub fn tenant(&self) -> Option<&str> {
        self.tenant.as_deref()
    }

    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// 413 beyond the cap, 408 when the body or its next piece is late, 400 when it breaks off. The connection ends.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, Refusal> {
        let until = self.limits.until.min(Instant::now() + self.limits.piece);
        let piece = match timeout_at(until, self.body.piece()).await {
            Err(_) => return Err(late()),
            Ok(piece) => piece?,
        };
        let length = piece.as_ref().map_or(0, |piece| piece.len() as u64);
        let left = self.limits.bytes.checked_sub(length);
        self.limits.bytes = left.ok_or_else(too_large)?;
        Ok(piece)
    }

    /// When all of its body must be there. What else it waits for it waits for no longer than that.
    pub fn deadline(&self) -> Instant {
        self.limits.until
    }

    /// How many bytes its body has, if that is known before it is read.
    pub fn length(&self) -> Option<u64> {
        self.body.length()
    }
}

pub(crate) fn too_large() -> Refusal {
    let message = "the body is larger than this node takes in one piece";
    Refusal::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "FrameTooLarge",
        "body_cap",
        message,
    )
    .closing()
}

fn late() -> Refusal {
    let message = "the body did not arrive in time";
    Refusal::new(
        StatusCode::REQUEST_TIMEOUT,
        "Timeout",
        "body_timeout",
        message,
    )
    .closing()
}

fn broken() -> Refusal {
    Refusal::bad_request("body_broken", "the body broke off or is not well-formed").closing()
}
