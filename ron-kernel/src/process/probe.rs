//! Asking a process from outside how it is.

mod health;
mod http;
mod msgpack;

use health::Refusal;
use http::{Head, HeadError};
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

/// A question to a process whose answer says whether it is well.
///
/// As text: `tcp:HOST:PORT`, `http:HOST:PORT/PATH` or `v1.health:/SOCKET`, which
/// [`service`](Self::service) makes `v1.health:/SOCKET?service=NAME`. A host is a name, an IPv4 address or an IPv6
/// address in brackets.
///
/// ```
/// use ron_kernel::process::Probe;
///
/// let probe: Probe = "http://[::1]:7001/healthz".parse()?;
/// assert_eq!(probe, Probe::http("[::1]:7001", "/healthz"));
/// assert_eq!(probe.to_string(), "http:[::1]:7001/healthz");
///
/// let slip = "http:127.0.0.1/healthz".parse::<Probe>().unwrap_err();
/// assert_eq!(
///     slip.to_string(),
///     "`http:127.0.0.1/healthz` is no probe: no port behind `127.0.0.1`; expected http:HOST:PORT/PATH"
/// );
/// # Ok::<(), ron_kernel::process::ProbeParseError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Tcp {
        addr: String,
    },
    Http {
        addr: String,
        path: String,
    },
    V1Health {
        socket: PathBuf,
        service: Option<String>,
    },
}

/// Why a probe did not find a process well. Each begins with the probe as text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The probe itself is at fault: nothing was asked. The mistake of who made it.
    #[error("{probe}: {problem}")]
    Unusable {
        /// The probe.
        probe: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No connection.
    #[error("{probe}: cannot connect")]
    Connect {
        /// The probe.
        probe: String,
        /// What the system says.
        source: io::Error,
    },
    /// The connection broke while the question was sent or the answer was read.
    #[error("{probe}: connection lost")]
    Lost {
        /// The probe.
        probe: String,
        /// What the system says.
        source: io::Error,
    },
    /// The process closed the connection before its answer was complete.
    #[error("{probe}: closed the connection after {received} bytes of an answer")]
    Closed {
        /// The probe.
        probe: String,
        /// Bytes of the answer that came.
        received: usize,
    },
    /// The answer is longer than any good one.
    #[error("{probe}: answered with {bytes} bytes or more, at most {max} are read")]
    TooLarge {
        /// The probe.
        probe: String,
        /// How long the answer is at least.
        bytes: u64,
        /// How long it may be.
        max: u64,
    },
    /// HTTP: a status that is not from 200 to 399.
    #[error("{probe}: answered {status}")]
    Status {
        /// The probe.
        probe: String,
        /// The status.
        status: u16,
    },
    /// `v1.health`: the service says that it is not well.
    #[error("{probe}: not well: {reason}")]
    NotWell {
        /// The probe.
        probe: String,
        /// The reason the service gives.
        reason: String,
    },
    /// `v1.health`: the answer is to another call.
    #[error("{probe}: answered another call, {answered}")]
    OtherCall {
        /// The probe.
        probe: String,
        /// Which call this was.
        asked: u64,
        /// Which call the answer names.
        answered: String,
    },
    /// The answer cannot be read, or says nothing of health.
    #[error("{probe}: not understood: {problem}")]
    NotUnderstood {
        /// The probe.
        probe: String,
        /// What is wrong with the answer.
        problem: String,
    },
}

/// Text that is no probe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no probe: {problem}; expected {expected}")]
pub struct ProbeParseError {
    text: String,
    problem: String,
    expected: &'static str,
}

impl ProbeParseError {
    /// What is wrong, and with which part of the text.
    pub fn problem(&self) -> &str {
        &self.problem
    }

    /// What would be right.
    pub fn expected(&self) -> &str {
        self.expected
    }
}

impl Probe {
    /// Well if a connection to `addr` (`host:port`) is accepted.
    pub fn tcp(addr: impl Into<String>) -> Probe {
        Probe {
            kind: Kind::Tcp { addr: addr.into() },
        }
    }

    /// Well if `GET path` at `addr` (`host:port`) answers with a status from 200 to 399.
    ///
    /// HTTP/1.1 without TLS, straight to `addr`: no redirect is followed, no proxy asked. Of the answer the head is read,
    /// at most 16 KiB of it.
    pub fn http(addr: impl Into<String>, path: impl Into<String>) -> Probe {
        Probe {
            kind: Kind::Http {
                addr: addr.into(),
                path: path.into(),
            },
        }
    }

    /// Well if the service behind the Unix socket answers a `v1.health` call with `HealthOk`. The path is absolute: a
    /// child may have another working directory.
    ///
    /// A message is its length, 4 bytes, the highest first, and that many bytes of MessagePack, at most 64 KiB. One
    /// call is made on a connection.
    ///
    /// | field | request | answer |
    /// |---|---|---|
    /// | `service` | [`service`](Self::service) | anything |
    /// | `method` | `v1.health` | anything |
    /// | `corr_id` | a number below 2^53 | the same |
    /// | `token` | empty | anything |
    /// | `payload` | `Health` | `HealthOk`, or `{Err: {err: REASON}}` |
    ///
    /// The request is a map; its token and payload are arrays of numbers below 256, those of the payload being
    /// MessagePack again. An answer may be an array of the five as well, its payload a binary, and what is behind `Err`
    /// an array of the reason: rmp-serde writes structs in either way.
    ///
    /// Other services are understood too: the payload, bare or as bytes, or the answer itself, may be a map with
    /// `ok`, true or false with the reason as `status`, `reason`, `message` or `cause`; `HealthOk` may be the whole
    /// answer or its method; a field `error` or `err` of either is a reason not to be well. What says it is not well
    /// outweighs what says it is, and `corr_id` may be missing.
    pub fn v1_health(socket: impl Into<PathBuf>) -> Probe {
        Probe {
            kind: Kind::V1Health {
                socket: socket.into(),
                service: None,
            },
        }
    }

    /// The service a `v1.health` call names; default the child's name. Other probes name none.
    pub fn service(mut self, name: impl Into<String>) -> Probe {
        if let Kind::V1Health { service, .. } = &mut self.kind {
            *service = Some(name.into());
        }
        self
    }

    /// Asks once, on a connection of its own. `child` names the service where none is set.
    ///
    /// Takes as long as the process does: bound it by [`tokio::time::timeout`].
    ///
    /// # Errors
    ///
    /// The process is not well, or it could not be asked.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection. A host name that is being looked up is looked up to the end, in a
    /// thread for blocking calls.
    pub async fn check(&self, child: &str) -> Result<(), ProbeError> {
        if let Err(problem) = self.problem() {
            let probe = self.to_string();
            return Err(ProbeError::Unusable { probe, problem });
        }
        match &self.kind {
            Kind::Tcp { addr } => self.connect(connect_to_another(addr)).await.map(drop),
            Kind::Http { addr, path } => self.ask_http(addr, path).await,
            Kind::V1Health { socket, service } => {
                let stream = self.connect(UnixStream::connect(socket)).await?;
                let service = service.as_deref().unwrap_or(child);
                self.ask_health(stream, service).await
            }
        }
    }

    async fn connect<S>(
        &self,
        connecting: impl std::future::Future<Output = io::Result<S>>,
    ) -> Result<S, ProbeError> {
        connecting.await.map_err(|source| ProbeError::Connect {
            probe: self.to_string(),
            source,
        })
    }

    async fn ask_http(&self, addr: &str, path: &str) -> Result<(), ProbeError> {
        let mut stream = self.connect(TcpStream::connect(addr)).await?;
        let sent = stream.write_all(&http::request(addr, path)).await;
        sent.map_err(|source| self.lost(source))?;

        let mut head = Head::default();
        let mut buffer = [0; 1024];
        let mut received = 0;
        let status = loop {
            let read = self.read(&mut stream, &mut buffer, &mut received).await?;
            match head.feed(&buffer[..read]) {
                Ok(Some(status)) => break status,
                Ok(None) => {}
                Err(HeadError::TooLarge) => {
                    return Err(self.too_large(received as u64, http::HEAD_MAX))
                }
                Err(HeadError::NotHttp { found }) => {
                    return Err(self.not_understood(format!("`{found}` is not HTTP/1")))
                }
            }
        };
        match status {
            200..=399 => Ok(()),
            _ => Err(ProbeError::Status {
                probe: self.to_string(),
                status,
            }),
        }
    }

    async fn ask_health(&self, mut stream: UnixStream, service: &str) -> Result<(), ProbeError> {
        let asked = call_id();
        let sent = stream.write_all(&health::request(service, asked)).await;
        sent.map_err(|source| self.lost(source))?;

        let mut received = 0;
        let mut len = [0; 4];
        self.read_exact(&mut stream, &mut len, &mut received)
            .await?;
        let len = u32::from_be_bytes(len);
        let mut body = match usize::try_from(len) {
            Ok(bytes) if bytes <= health::ANSWER_MAX => vec![0; bytes],
            _ => return Err(self.too_large(len.into(), health::ANSWER_MAX)),
        };
        self.read_exact(&mut stream, &mut body, &mut received)
            .await?;

        health::verdict(&body, asked).map_err(|refusal| match refusal {
            Refusal::NotWell { reason } => ProbeError::NotWell {
                probe: self.to_string(),
                reason,
            },
            Refusal::OtherCall { answered } => ProbeError::OtherCall {
                probe: self.to_string(),
                asked,
                answered,
            },
            Refusal::Malformed(malformed) => {
                self.not_understood(format!("answer is not MessagePack: {malformed}"))
            }
            Refusal::Unclear { found } => {
                self.not_understood(format!("{found} is no answer about health"))
            }
        })
    }

    /// Some bytes, at least one.
    async fn read(
        &self,
        stream: &mut (impl AsyncRead + Unpin),
        buffer: &mut [u8],
        received: &mut usize,
    ) -> Result<usize, ProbeError> {
        match stream.read(buffer).await {
            Ok(0) => Err(ProbeError::Closed {
                probe: self.to_string(),
                received: *received,
            }),
            Ok(read) => {
                *received += read;
                Ok(read)
            }
            Err(source) => Err(self.lost(source)),
        }
    }

    async fn read_exact(
        &self,
        stream: &mut (impl AsyncRead + Unpin),
        mut buffer: &mut [u8],
        received: &mut usize,
    ) -> Result<(), ProbeError> {
        while !buffer.is_empty() {
            let read = self.read(stream, buffer, received).await?;
            buffer = &mut buffer[read..];
        }
        Ok(())
    }

    fn lost(&self, source: io::Error) -> ProbeError {
        let probe = self.to_string();
        ProbeError::Lost { probe, source }
    }

    fn too_large(&self, bytes: u64, max: usize) -> ProbeError {
        ProbeError::TooLarge {
            probe: self.to_string(),
            bytes,
            max: max as u64,
        }
    }

    fn not_understood(&self, problem: String) -> ProbeError {
        let probe = self.to_string();
        ProbeError::NotUnderstood { probe, problem }
    }

    /// What keeps it from being asked.
    fn problem(&self) -> Result<(), String> {
        match &self.kind {
            Kind::Tcp { addr } => check_addr(addr),
            Kind::Http { addr, path } => check_addr(addr).and_then(|()| check_path(path)),
            Kind::V1Health { socket, .. } if !socket.is_absolute() => {
                Err(format!("`{}` is no absolute path", socket.display()))
            }
            Kind::V1Health { service, .. } => match service {
                Some(name) if name.is_empty() => Err("the service has no name".to_owned()),
                _ => Ok(()),
            },
        }
    }
}

/// Where nobody listens, the system may choose the port that is asked for as the port to ask from, and the connection
/// is accepted by itself.
async fn connect_to_another(addr: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(addr).await?;
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(stream)
}

/// A number that no other call has, for all anybody can tell. JSON's numbers have as many bits.
fn call_id() -> u64 {
    RandomState::new().build_hasher().finish() >> 11
}

fn check_addr(addr: &str) -> Result<(), String> {
    let no_port = || format!("no port behind `{addr}`");
    let port = if let Some(rest) = addr.strip_prefix('[') {
        let (host, rest) = rest
            .split_once(']')
            .ok_or(format!("`{addr}` lacks a `]`"))?;
        if host.parse::<Ipv6Addr>().is_err() {
            return Err(format!("`{host}` is no IPv6 address"));
        }
        rest.strip_prefix(':').ok_or_else(no_port)?
    } else {
        let (host, port) = addr.rsplit_once(':').ok_or_else(no_port)?;
        if host.contains(':') {
            return Err(format!("the IPv6 address in `{addr}` is not in brackets"));
        }
        let in_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if host.is_empty() || !host.chars().all(in_name) {
            return Err(format!("`{host}` is no host"));
        }
        port
    };
    // `u16` alone would take a sign.
    let digits = port.bytes().all(|b| b.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(1..) if digits => Ok(()),
        _ => Err(format!("`{port}` is no port from 1 to 65535")),
    }
}

/// What can stand in a request line as it is.
fn check_path(path: &str) -> Result<(), String> {
    if !path.starts_with('/') {
        return Err(format!("`{path}` does not begin with `/`"));
    }
    match path.chars().find(|c| !c.is_ascii_graphic() || *c == '#') {
        Some(c) => Err(format!("{c:?} cannot be sent in a path")),
        None => Ok(()),
    }
}

const TCP: &str = "tcp:HOST:PORT";
const HTTP: &str = "http:HOST:PORT/PATH";
const V1_HEALTH: &str = "v1.health:/SOCKET or v1.health:/SOCKET?service=NAME";
const ANY: &str = "tcp:HOST:PORT, http:HOST:PORT/PATH or v1.health:/SOCKET";

impl FromStr for Probe {
    type Err = ProbeParseError;

    /// Takes what [`Display`](fmt::Display) writes, and `//` behind `tcp:` and `http:`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fault = |problem: String, expected| ProbeParseError {
            text: text.to_owned(),
            problem,
            expected,
        };
        let Some((scheme, rest)) = text.split_once(':') else {
            return Err(fault("it names no kind of probe".to_owned(), ANY));
        };
        let address = rest.strip_prefix("//").unwrap_or(rest);
        let (probe, expected) = match scheme {
            "tcp" => (Probe::tcp(address), TCP),
            "http" => {
                let path = address.find(['/', '?', '#']).unwrap_or(address.len());
                let (addr, path) = address.split_at(path);
                let path = if path.is_empty() { "/" } else { path };
                (Probe::http(addr, path), HTTP)
            }
            "v1.health" => match rest.split_once('?') {
                None => (Probe::v1_health(rest), V1_HEALTH),
                Some((socket, option)) => match option.strip_prefix("service=") {
                    Some(name) => (Probe::v1_health(socket).service(name), V1_HEALTH),
                    None => return Err(fault(format!("`{option}` is no option"), V1_HEALTH)),
                },
            },
            _ => return Err(fault(format!("`{scheme}` is no kind of probe"), ANY)),
        };
        match probe.problem() {
            Ok(()) => Ok(probe),
            Err(problem) => Err(fault(problem, expected)),
        }
    }
}

impl fmt::Display for Probe {
    /// What [`FromStr`] reads, unless the path of a socket is not UTF-8 or contains a `?`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Tcp { addr } => write!(f, "tcp:{addr}"),
            Kind::Http { addr, path } => write!(f, "http:{addr}{path}"),
            Kind::V1Health { socket, service } => {
                write!(f, "v1.health:{}", socket.display())?;
                match service {
                    Some(service) => write!(f, "?service={service}"),
                    None => Ok(()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_probe_is_read_from_text_and_written_back() {
        let cases = [
            ("tcp:127.0.0.1:7000", Probe::tcp("127.0.0.1:7000")),
            ("tcp:[::1]:80", Probe::tcp("[::1]:80")),
            ("tcp:db_1.internal:5432", Probe::tcp("db_1.internal:5432")),
            (
                "http:127.0.0.1:7000/healthz",
                Probe::http("127.0.0.1:7000", "/healthz"),
            ),
            (
                "http:[2001:db8::1]:65535/a%20b?deep=1&x=[y]",
                Probe::http("[2001:db8::1]:65535", "/a%20b?deep=1&x=[y]"),
            ),
            ("http:localhost:1/", Probe::http("localhost:1", "/")),
            (
                "v1.health:/tmp/ron/svc-index.sock",
                Probe::v1_health("/tmp/ron/svc-index.sock"),
            ),
            (
                "v1.health:/run/a b:c.sock?service=svc.index",
                Probe::v1_health("/run/a b:c.sock").service("svc.index"),
            ),
        ];
        for (text, probe) in cases {
            assert_eq!(text.parse(), Ok(probe.clone()), "{text}");
            assert_eq!(probe.to_string(), text);
        }
    }

    #[test]
    fn other_spellings_are_the_same_probe() {
        let cases = [
            ("tcp://127.0.0.1:7000", "tcp:127.0.0.1:7000"),
            ("http://[::1]:80/healthz", "http:[::1]:80/healthz"),
            ("http://localhost:80", "http:localhost:80/"),
            ("http:localhost:80", "http:localhost:80/"),
            ("v1.health:///run/x.sock", "v1.health:///run/x.sock"),
        ];
        for (text, expected) in cases {
            let probe: Probe = text.parse().unwrap();
            assert_eq!(probe.to_string(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_probe_is_refused_with_what_is_wrong_and_what_would_be_right() {
        let cases = [
            ("", "it names no kind of probe", ANY),
            ("/tmp/x.sock", "it names no kind of probe", ANY),
            ("127.0.0.1:80", "`127.0.0.1` is no kind of probe", ANY),
            ("https://a:443/", "`https` is no kind of probe", ANY),
            ("TCP:a:1", "`TCP` is no kind of probe", ANY),
            ("tcp:", "no port behind ``", TCP),
            ("tcp:localhost", "no port behind `localhost`", TCP),
            ("tcp:[::1]", "no port behind `[::1]`", TCP),
            ("tcp:[::1]80", "no port behind `[::1]80`", TCP),
            ("tcp:[::1:80", "`[::1:80` lacks a `]`", TCP),
            ("tcp:[::x]:80", "`::x` is no IPv6 address", TCP),
            (
                "tcp:::1:80",
                "the IPv6 address in `::1:80` is not in brackets",
                TCP,
            ),
            ("tcp::80", "`` is no host", TCP),
            ("tcp:a b:80", "`a b` is no host", TCP),
            ("tcp:a@b:80", "`a@b` is no host", TCP),
            ("tcp:a:0", "`0` is no port from 1 to 65535", TCP),
            ("tcp:a:", "`` is no port from 1 to 65535", TCP),
            ("tcp:a:+80", "`+80` is no port from 1 to 65535", TCP),
            ("tcp:a:65536", "`65536` is no port from 1 to 65535", TCP),
            ("tcp:a:80/x", "`80/x` is no port from 1 to 65535", TCP),
            ("http:127.0.0.1/healthz", "no port behind `127.0.0.1`", HTTP),
            ("http:a:80?x", "`?x` does not begin with `/`", HTTP),
            ("http:a:80/x#top", "'#' cannot be sent in a path", HTTP),
            ("http:a:80/x y", "' ' cannot be sent in a path", HTTP),
            (
                "http:a:80/\r\nHost: b",
                "'\\r' cannot be sent in a path",
                HTTP,
            ),
            ("http:a:80/ö", "'ö' cannot be sent in a path", HTTP),
            ("v1.health:", "`` is no absolute path", V1_HEALTH),
            (
                "v1.health:run/x.sock",
                "`run/x.sock` is no absolute path",
                V1_HEALTH,
            ),
            ("v1.health:/x?svc=a", "`svc=a` is no option", V1_HEALTH),
            (
                "v1.health:/x?service=",
                "the service has no name",
                V1_HEALTH,
            ),
        ];
        for (text, problem, expected) in cases {
            let error = text.parse::<Probe>().unwrap_err();
            assert_eq!(
                (error.problem(), error.expected()),
                (problem, expected),
                "{text}"
            );
            let line = format!("`{text}` is no probe: {problem}; expected {expected}");
            assert_eq!(error.to_string(), line);
        }
    }

    #[test]
    fn calls_have_numbers_of_their_own_below_2_to_the_53() {
        let ids: std::collections::BTreeSet<u64> = (0..1000).map(|_| call_id()).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| *id < 1 << 53));
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_survives_being_written(
            text in prop_oneof![
                ".{0,40}",
                "(tcp|http)(://|:)(\\[[0-9a-f:]{0,8}\\]|[a-z0-9.@ -]{0,12}):[0-9+]{0,5}[/?#a-z ]{0,6}",
                "v1\\.health:/?[a-z?=./ ]{0,12}(\\?service=[a-z?.]{0,5})?",
            ],
        ) {
            if let Ok(probe) = text.parse::<Probe>() {
                prop_assert_eq!(probe.to_string().parse(), Ok(probe));
            }
        }
    }
}
