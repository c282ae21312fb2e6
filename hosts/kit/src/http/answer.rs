//! An answer and its body.

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Body;
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
        Self::new(status, Empty::new().map_err(|e| match e {}).boxed_unsync())
    }

    /// With a body that is there.
    pub fn full(status: StatusCode, body: impl Into<Bytes>) -> Self {
        let body = Full::new(body.into()).map_err(|e| match e {});
        Self::new(status, body.boxed_unsync())
    }

    /// With a body that comes as it is read.
    pub fn stream<B>(status: StatusCode, body: B) -> Self
    where
        B: Body<Data = Bytes, Error = std::io::Error> + Send + 'static,
    {
        Self::new(status, body.boxed_unsync())
    }

    fn new(status: StatusCode, body: AnswerBody) -> Self {
        let mut response = Response::new(body);
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
pub type AnswerBody = UnsyncBoxBody<Bytes, std::io::Error>;
