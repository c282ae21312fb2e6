//! An answer that says no.

use std::collections::BTreeMap;
use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use hyper::StatusCode;
use serde::Serialize;

use super::answer::Answer;
use super::correlation::CorrelationId;

/// Why a request got nothing, as a status and as the envelope
/// `{"error":{"code","message","corr_id","retryable","details":{"reason"}}}`. Nothing of the request is in it; what else
/// there is to know of a refusal can be in its details.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(Box<Parts>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Parts {
    status: StatusCode,
    code: &'static str,
    reason: &'static str,
    message: String,
    details: Vec<(&'static str, String)>,
    retry_after: Option<Duration>,
    headers: Vec<(HeaderName, String)>,
    closes: bool,
}

#[derive(Serialize)]
struct Envelope<'a> {
    error: Error<'a>,
}

#[derive(Serialize)]
struct Error<'a> {
    code: &'a str,
    message: &'a str,
    corr_id: &'a str,
    retryable: bool,
    details: Details<'a>,
}

#[derive(Serialize)]
struct Details<'a> {
    reason: &'a str,
    #[serde(flatten)]
    more: BTreeMap<&'a str, &'a str>,
}

impl Refusal {
    /// With a `code` for programs, a `reason` that says which rule it was, and a `message` for people.
    pub fn new(
        status: StatusCode,
        code: &'static str,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self(Box::new(Parts {
            status,
            code,
            reason,
            message: message.into(),
            details: Vec::new(),
            retry_after: None,
            headers: Vec::new(),
            closes: false,
        }))
    }

    /// 400.
    pub fn bad_request(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", reason, message)
    }

    /// 404.
    pub fn not_found(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", reason, message)
    }

    /// 503, for the state of the node.
    pub fn unavailable(reason: &'static str, message: impl Into<String>, retry: Duration) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "NotReady", reason, message).retry_after(retry)
    }

    /// 500: it is our fault, and the details are in the log.
    pub fn internal(reason: &'static str) -> Self {
        let message = "something failed here; the log has it under corr_id";
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "Internal",
            reason,
            message,
        )
    }

    /// Worth another try, after so long; told in whole seconds, rounded up, at least one.
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.0.retry_after = Some(after);
        self
    }

    /// With another header, such as `Allow` of a 405 or `Content-Range` of a 416.
    pub fn header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.0.headers.push((name, value.into()));
        self
    }

    /// With another member of `details`, beside `reason`.
    pub fn detail(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.0.details.push((name, value.into()));
        self
    }

    /// The connection ends with it, as what is left of the request is not read.
    pub fn closing(mut self) -> Self {
        self.0.closes = true;
        self
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// Which rule it was.
    pub fn reason(&self) -> &'static str {
        self.0.reason
    }

    /// The body of the answer.
    pub(crate) fn envelope(&self, corr_id: &CorrelationId) -> String {
        let more = self.0.details.iter().map(|(name, value)| (*name, &**value));
        let envelope = Envelope {
            error: Error {
                code: self.0.code,
                message: &self.0.message,
                corr_id: corr_id.as_str(),
                retryable: self.0.retry_after.is_some(),
                details: Details {
                    reason: self.0.reason,
                    more: more.collect(),
                },
            },
        };
        serde_json::to_string(&envelope).unwrap_or_default()
    }

    /// As the answer to a request.
    pub fn answer(&self, corr_id: &CorrelationId) -> Answer {
        let mut answer = Answer::full(self.0.status, self.envelope(corr_id));
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(after) = self.0.retry_after {
            let seconds = after.as_millis().div_ceil(1000).max(1);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds as u64));
        }
        for (name, value) in &self.0.headers {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        }
        if self.0.closes {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use hyper::body::Body;
    use std::time::SystemTime;

    fn corr_id() -> CorrelationId {
        CorrelationId::of(
            Some(&HeaderValue::from_static("abc")),
            SystemTime::UNIX_EPOCH,
            || 0,
        )
    }

    #[tokio::test]
    async fn the_envelope_is_the_one_that_clients_know() {
        let refusal = Refusal::unavailable(
            "draining",
            "shutting \"down\"",
            Duration::from_millis(1_001),
        );
        let answer = refusal.answer(&corr_id());
        let (head, body) = answer.response.into_parts();
        assert_eq!(head.status, 503);
        assert_eq!(head.headers[RETRY_AFTER], "2");
        assert!(!head.headers.contains_key(CONNECTION));
        assert!(body.size_hint().exact().is_some());
        let body = body.collect().await.unwrap().to_bytes();
        let expected = r#"{"error":{"code":"NotReady","message":"shutting \"down\"","corr_id":"abc","retryable":true,"details":{"reason":"draining"}}}"#;
        assert_eq!(std::str::from_utf8(&body).unwrap(), expected);
    }

    #[tokio::test]
    async fn more_details_stand_beside_the_reason() {
        let refusal = Refusal::bad_request("x", "y").detail("id", "a\"b");
        let body = refusal.answer(&corr_id()).response.into_body();
        let body = body.collect().await.unwrap().to_bytes();
        let expected = r#"{"error":{"code":"BadRequest","message":"y","corr_id":"abc","retryable":false,"details":{"reason":"x","id":"a\"b"}}}"#;
        assert_eq!(std::str::from_utf8(&body).unwrap(), expected);
    }

    #[test]
    fn retry_after_is_never_less_than_a_second() {
        for (millis, seconds) in [
            (0, "1"),
            (1, "1"),
            (1_000, "1"),
            (1_001, "2"),
            (61_000, "61"),
        ] {
            let refusal = Refusal::internal("x").retry_after(Duration::from_millis(millis));
            let answer = refusal.answer(&corr_id());
            assert_eq!(answer.response.headers()[RETRY_AFTER], seconds, "{millis}");
        }
        let answer = Refusal::internal("x").closing().answer(&corr_id());
        assert!(!answer.response.headers().contains_key(RETRY_AFTER));
        assert_eq!(answer.response.headers()[CONNECTION], "close");
    }
}
