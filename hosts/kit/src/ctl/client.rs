//! One request over a socket, and its answer within its time and size.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout_at, Instant};

use super::discovery::{gone, Found, Probe};
use super::failure::{shown, Failure, Fault};
use super::wire::Refused;

/// For a question, from the first look at the directory to the last byte of the answer.
pub(crate) const PATIENCE: Duration = Duration::from_millis(1500);
/// Where the service reads files and asks validators.
pub(crate) const LONG_PATIENCE: Duration = Duration::from_secs(15);
/// The largest answer, and the longest line of a stream.
const LARGEST: usize = 64 << 20;
/// Between two attempts to connect to somebody who does not accept.
const RETRY: Duration = Duration::from_millis(20);

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    method: &'static str,
    uri: String,
    body: Option<Value>,
    /// `None`: as long as it takes, once the service has accepted it.
    pub(crate) patience: Option<Duration>,
    /// An answer of 422 in the shape of a good one is one.
    judged: bool,
}

impl Request {
    /// `GET /v1/..` with the members of `query` that are there.
    pub(crate) fn get(path: &str, query: &[(&str, Option<&str>)]) -> Request {
        Request {
            method: "GET",
            uri: uri(path, query),
            body: None,
            patience: Some(PATIENCE),
            judged: false,
        }
    }

    pub(crate) fn post(path: &str, body: Value) -> Request {
        Request {
            method: "POST",
            body: Some(body),
            ..Request::get(path, &[])
        }
    }

    pub(crate) fn delete(path: &str, query: &[(&str, Option<&str>)]) -> Request {
        Request {
            method: "DELETE",
            ..Request::get(path, query)
        }
    }

    pub(crate) fn patience(mut self, patience: Option<Duration>) -> Request {
        self.patience = patience;
        self
    }

    pub(crate) fn judged(mut self) -> Request {
        self.judged = true;
        self
    }
}

fn uri(path: &str, query: &[(&str, Option<&str>)]) -> String {
    let mut uri = path.to_owned();
    let mut separator = '?';
    for (name, value) in query {
        if let Some(value) = value {
            uri.push(separator);
            uri.push_str(name);
            uri.push('=');
            for byte in value.bytes() {
                match byte {
                    b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                        uri.push(char::from(byte))
                    }
                    _ => uri.push_str(&format!("%{byte:02X}")),
                }
            }
            separator = '&';
        }
    }
    uri
}

/// A connection to a service that can be trusted.
#[derive(Debug)]
pub(crate) struct Link {
    path: PathBuf,
    stream: UnixStream,
}

impl Link {
    /// Over `stream` if the search has connected already; waits for somebody who is too busy to accept.
    pub(crate) async fn open(
        found: &Found,
        stream: Option<UnixStream>,
        uid: u32,
        until: Instant,
    ) -> Result<Link, Failure> {
        let path = found.path.clone();
        if let Some(stream) = stream {
            return Ok(Link { path, stream });
        }
        loop {
            match found.probe(uid).await? {
                Probe::Live(stream) => return Ok(Link { path, stream }),
                Probe::Dead => return Err(gone(&path)),
                Probe::Busy if Instant::now() + RETRY >= until => {
                    return Err(silent(&path, PATIENCE))
                }
                Probe::Busy => sleep(RETRY).await,
            }
        }
    }

    /// Asks and reads the whole answer, which is JSON.
    pub(crate) async fn ask(self, request: &Request, until: Instant) -> Result<Answer, Failure> {
        let path = self.path.clone();
        let limit = request.patience;
        let exchange = async {
            let (mut wire, response) = self.send(request).await?;
            let status = response.status().as_u16();
            let body = wire.whole(response.into_body()).await?;
            Answer::read(&wire.path, status, body, request.judged)
        };
        match limit {
            None => exchange.await,
            Some(limit) => match timeout_at(until, exchange).await {
                Ok(answer) => answer,
                Err(_) => Err(silent(&path, limit)),
            },
        }
    }

    /// Asks and reads the answer line by line, for as long as it comes.
    pub(crate) async fn follow(self, request: &Request, until: Instant) -> Result<Lines, Failure> {
        let path = self.path.clone();
        let (mut wire, response) = timeout_at(until, self.send(request))
            .await
            .map_err(|_| silent(&path, PATIENCE))??;
        let status = response.status().as_u16();
        let body = response.into_body();
        if status != 200 {
            let whole = timeout_at(until, wire.whole(body)).await;
            let text = whole.map_err(|_| silent(&path, PATIENCE))??;
            // No error here means no envelope: anything but 200 is one.
            Answer::read(&path, status, text, false)?;
            return Err(foreign(
                &path,
                &format!("answers a stream with status {status}"),
            ));
        }
        Ok(Lines {
            wire,
            body,
            buffer: Vec::new(),
            searched: 0,
        })
    }

    async fn send(self, request: &Request) -> Result<(Wire, hyper::Response<Incoming>), Failure> {
        let Link { path, stream } = self;
        let body = request
            .body
            .as_ref()
            .map(Value::to_string)
            .unwrap_or_default();
        let http = hyper::Request::builder()
            .method(request.method)
            .uri(&request.uri)
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| Failure::new(Fault::Usage, error.to_string()))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(&path, &error))?;
        let mut wire = Wire {
            connection: Some(Box::pin(connection)),
            path,
        };
        let answered = wire.drive(sender.send_request(http)).await;
        let response = answered.map_err(|error| broken(&wire.path, &error))?;
        Ok((wire, response))
    }
}

type Connection = http1::Connection<TokioIo<UnixStream>, Full<Bytes>>;

/// The two ends of an exchange, moved by whoever waits for something from it.
struct Wire {
    connection: Option<Pin<Box<Connection>>>,
    path: PathBuf,
}

impl Wire {
    async fn drive<T>(&mut self, wanted: impl Future<Output = T>) -> T {
        tokio::pin!(wanted);
        if let Some(connection) = &mut self.connection {
            tokio::select! {
                biased;
                got = &mut wanted => return got,
                // How it ended is told by what was waited for.
                _ = connection.as_mut() => {}
            }
            self.connection = None;
        }
        wanted.await
    }

    async fn whole(&mut self, mut body: Incoming) -> Result<Vec<u8>, Failure> {
        let mut whole = Vec::new();
        while let Some(part) = self.part(&mut body).await? {
            if whole.len() + part.len() > LARGEST {
                return Err(foreign(&self.path, "answers with more than 64 MiB"));
            }
            whole.extend_from_slice(&part);
        }
        Ok(whole)
    }

    async fn part(&mut self, body: &mut Incoming) -> Result<Option<Bytes>, Failure> {
        loop {
            match self.drive(body.frame()).await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(part) = frame.into_data() {
                        return Ok(Some(part));
                    }
                }
                Some(Err(error)) => return Err(broken(&self.path, &error)),
            }
        }
    }
}

/// A stream of lines.
pub(crate) struct Lines {
    wire: Wire,
    body: Incoming,
    buffer: Vec<u8>,
    /// Of the buffer, how much is known to hold no end of a line.
    searched: usize,
}

impl Lines {
    /// The next line that is not empty; `None` once the service has ended the stream.
    pub(crate) async fn next(&mut self) -> Result<Option<String>, Failure> {
        loop {
            let end = self.buffer[self.searched..]
                .iter()
                .position(|byte| *byte == b'\n');
            if let Some(end) = end.map(|end| self.searched + end) {
                let rest = self.buffer.split_off(end + 1);
                let line = std::mem::replace(&mut self.buffer, rest);
                self.searched = 0;
                let line = String::from_utf8_lossy(&line).trim().to_owned();
                if !line.is_empty() {
                    return Ok(Some(line));
                }
                continue;
            }
            self.searched = self.buffer.len();
            match self.wire.part(&mut self.body).await? {
                Some(part) => self.buffer.extend_from_slice(&part),
                None => return Ok(None),
            }
            if self.buffer.len() > LARGEST {
                return Err(foreign(&self.wire.path, "sends a line of more than 64 MiB"));
            }
        }
    }
}

/// A good answer, or a bad one that was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    path: PathBuf,
    pub(crate) status: u16,
    text: String,
}

impl Answer {
    fn read(path: &Path, status: u16, body: Vec<u8>, judged: bool) -> Result<Answer, Failure> {
        let path = path.to_owned();
        let text = String::from_utf8(body).ok();
        let Some(text) = text.filter(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
        else {
            return Err(foreign(&path, &format!("answers {status} without JSON")));
        };
        let answer = Answer { path, status, text };
        if (200..300).contains(&status) {
            return Ok(answer);
        }
        let refused: Refused = answer.parse()?;
        let told = !refused.error.code.is_empty() || !refused.error.message.is_empty();
        if judged && status == 422 && !told {
            return Ok(answer);
        }
        Err(Failure::answered(status, &refused.error, answer.line()))
    }

    /// Every answer is an object; serde would also fill a struct from an array.
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        let object = self.text.trim_start().starts_with('{');
        let parsed = object
            .then(|| serde_json::from_str(&self.text).ok())
            .flatten();
        parsed.ok_or_else(|| foreign(&self.path, "answers with another shape of JSON"))
    }

    /// The answer as it came, on one line: a line end in JSON is always between two words.
    pub(crate) fn line(&self) -> String {
        harmless(&self.text.trim().replace(['\n', '\r'], " "))
    }
}

/// JSON without the control characters that it may hold as they are and a terminal would obey: they stand in texts, where
/// an escape means the same.
pub(crate) fn harmless(json: &str) -> String {
    let control = |c: char| matches!(c, '\u{7f}'..='\u{9f}');
    if !json.contains(control) {
        return json.to_owned();
    }
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            c if control(c) => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => text.push(c),
        }
    }
    text
}

/// Nothing came in time.
fn silent(path: &Path, limit: Duration) -> Failure {
    let text = format!(
        "{}: no answer within {} s; the process hangs or is stopped",
        shown(path),
        limit.as_secs_f64()
    );
    Failure::new(Fault::Unreachable, text)
}

/// Something came that no control plane says.
fn foreign(path: &Path, what: &str) -> Failure {
    let text = format!("{}: {what}; this is no control plane", shown(path));
    Failure::new(Fault::Unreachable, text)
}

fn broken(path: &Path, error: &hyper::Error) -> Failure {
    if error.is_parse() {
        return foreign(path, "does not speak HTTP");
    }
    let text = format!(
        "{}: the connection ended before the answer did",
        shown(path)
    );
    Failure::new(Fault::Unreachable, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_a_query_are_percent_encoded() {
        assert_eq!(uri("/v1/tree", &[("id", None)]), "/v1/tree");
        assert_eq!(
            uri(
                "/v1/tail",
                &[
                    ("topic", Some("a b/é&=")),
                    ("since", None),
                    ("x", Some("10m"))
                ]
            ),
            "/v1/tail?topic=a%20b%2F%C3%A9%26%3D&x=10m"
        );
    }

    #[test]
    fn an_answer_is_one_line_whatever_its_layout() {
        let body = b"{\n  \"a\": \"x\\ny\"\r\n}\n".to_vec();
        let answer = Answer::read(Path::new("/s"), 200, body, false).unwrap();
        assert_eq!(answer.line(), "{   \"a\": \"x\\ny\"  }");
    }
}
