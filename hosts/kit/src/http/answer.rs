//! An answer and its body.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::HeaderMap;
use hyper::{Response, StatusCode};

/// An answer, in one piece or as a stream. An error of a stream ends the connection, as its status has gone out.
#[derive(Debug)]
pub struct Answer {
    pub(crate) response: Response<AnswerBody>,
}

impl Answer {
    /// Without a body.
    pub fn empty(status: StatusCode) -> Self {
        Self::new(status, Inner::Whole(Bytes::new()))
    }

    /// With a body that is there.
    pub fn full(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self::new(status, Inner::Whole(body.into()))
    }

    /// With a body that comes as it is read.
    pub fn stream<B>(status: StatusCode, body: B) -> Self
    where
        B: Body<Data = Bytes, Error = io::Error> + Send + 'static,
    {
        Self::new(status, Inner::Stream(body.boxed_unsync()))
    }

    fn new(status: StatusCode, body: Inner) -> Self {
        let mut response = Response::new(AnswerBody(body));
        *response.status_mut() = status;
        Self { response }
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// The headers. `Content-Length` is set from the body unless it is here, as for the answer to a HEAD.
    pub fn headers_mut(&mut self) -> &mut HeaderMap {
        self.response.headers_mut()
    }
}

/// The body of an [`Answer`].
pub struct AnswerBody(Inner);

enum Inner {
    /// What is left of it: all, or nothing.
    Whole(Bytes),
    Stream(UnsyncBoxBody<Bytes, io::Error>),
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut self.0 {
            Inner::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Inner::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Inner::Stream(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Whole(bytes) => bytes.is_empty(),
            Inner::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Inner::Stream(body) => body.size_hint(),
        }
    }
}

impl fmt::Debug for AnswerBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerBody").finish_non_exhaustive()
    }
}
