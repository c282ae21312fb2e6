//! `http.*`: where to listen and how much to take.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;
use ron_config::{ByteSize, Input, Mismatch, Reload, Schema, Settings, Unit, Value};
use serde_json::{json, Value as Json};

use super::addr::HttpAddr;

/// Where a host listens and what it takes. Limits and times follow a reload; the address is the next start's.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct HttpSettings {
    /// Default 127.0.0.1:8080.
    pub addr: HttpAddr,
    /// Users whose processes may connect to a Unix socket, beside this process's own and root.
    pub unix_uids: Vec<u32>,
    /// Open connections, 1,024: what beyond that waits in the system's queue of connections.
    pub max_conns: usize,
    /// From the first byte of a head to its last, and between two bytes of a body that is read. 5 s.
    pub read_timeout: Duration,
    /// Between two pieces of an answer that the peer takes. 5 s.
    pub write_timeout: Duration,
    /// Between two requests of one connection. 60 s.
    pub idle_timeout: Duration,
    /// From the head to the last byte of a body. 5 s.
    pub body_timeout: Duration,
    /// What a peer has to take of an answer, by the second, where it keeps the node waiting. 16 KiB.
    pub min_rate: ByteSize,
    /// Bytes of a body. 1 MiB.
    pub max_body_bytes: ByteSize,
    /// Requests under way, 512: what beyond that waits only makes all of them late.
    pub inflight: usize,
    /// Requests per second of all clients. 500.
    pub rps: u32,
    /// Who may call.
    pub auth: AuthSettings,
    /// What connections are encrypted with.
    pub tls: TlsSettings,
    /// Who is told of requests.
    pub otel: OtelSettings,
}

/// `auth.*`: who may call. The keyring's content follows its file; the rest is the next start's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuthSettings {
    /// The file of the keyring.
    pub keyring: Option<PathBuf>,
    /// The `aud` that capabilities are for, and the realm of a 401.
    pub audience: String,
    /// Lets everybody in; on a loopback address or a Unix socket only.
    pub dev_allow: bool,
}

/// `tls.*`: TLS 1.3 if both files are named. They are read again with every reload, one that is refused included; which they are is the next start's.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsSettings {
    /// PEM: the certificate first, then its chain.
    pub cert: Option<PathBuf>,
    /// PEM: the private key, which only its owner may read.
    pub key: Option<PathBuf>,
    /// From the first byte to the last of a handshake. 2 s.
    pub handshake_timeout: Duration,
}

/// `otel.*`: spans of requests for a collector. Needs the feature `otel`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct OtelSettings {
    /// The collector.
    pub endpoint: Option<OtelEndpoint>,
    /// How many of the traces that begin here are recorded, of one: a tenth, as that shows what is slow and costs a tenth.
    /// Of others the caller has decided.
    pub ratio: f64,
}

impl Default for OtelSettings {
    fn default() -> Self {
        Self {
            endpoint: None,
            ratio: 0.1,
        }
    }
}

/// `http://HOST:PORT`, or with a path before `/v1/traces`: where a collector takes OTLP over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtelEndpoint(Uri);

#[cfg(feature = "otel")]
impl OtelEndpoint {
    pub(crate) fn authority(&self) -> &str {
        self.0
            .authority()
            .map_or("", |authority| authority.as_str())
    }

    pub(crate) fn host_and_port(&self) -> (&str, u16) {
        let host = self.0.host().unwrap_or("");
        let host = host.trim_start_matches('[').trim_end_matches(']');
        (host, self.0.port_u16().unwrap_or(80))
    }

    pub(crate) fn path(&self) -> String {
        format!("{}/v1/traces", self.0.path().trim_end_matches('/'))
    }
}

impl fmt::Display for OtelEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Value for OtelEndpoint {
    fn read(input: Input<'_>) -> Result<Self, Mismatch> {
        let uri = input.text()?.parse::<Uri>();
        let uri = uri.ok().filter(|uri| {
            // What stands before an `@` would be shown to whoever asks for the configuration.
            let host = uri.authority().filter(|at| !at.as_str().contains('@'));
            uri.scheme_str() == Some("http") && host.is_some() && uri.query().is_none()
        });
        uri.map(Self).ok_or_else(|| input.mismatch())
    }

    fn show(&self) -> Json {
        self.to_string().into()
    }

    fn expected() -> String {
        "http://HOST:PORT of a collector".to_owned()
    }

    fn schema() -> Json {
        json!({"type": "string", "pattern": "^http://[^@?]+$"})
    }
}

impl Default for TlsSettings {
    fn default() -> Self {
        Self {
            cert: None,
            key: None,
            handshake_timeout: Duration::from_secs(2),
        }
    }
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            addr: HttpAddr::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))),
            unix_uids: Vec::new(),
            max_conns: 1024,
            read_timeout: Duration::from_secs(5),
            write_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(5),
            min_rate: ByteSize::new(16 << 10),
            max_body_bytes: ByteSize::new(1 << 20),
            inflight: 512,
            rps: 500,
            auth: AuthSettings::default(),
            tls: TlsSettings::default(),
            otel: OtelSettings::default(),
        }
    }
}

impl Settings for HttpSettings {
    fn schema(schema: &mut Schema<Self>) {
        let timeouts = || Duration::from_millis(10)..=Duration::from_secs(3600);
        schema
            .key("http.addr", |http: &mut Self| &mut http.addr)
            .doc("address of the service, or its Unix socket");
        schema
            .key("http.unix_uids", |http: &mut Self| &mut http.unix_uids)
            .doc("users that may connect to the Unix socket, beside the service's own and root");
        schema
            .key("http.max_conns", |http: &mut Self| &mut http.max_conns)
            .doc("open connections")
            .range(1..=1 << 20);
        schema
            .key("http.read_timeout", |http: &mut Self| {
                &mut http.read_timeout
            })
            .doc("for the head of a request, and between two pieces of a body")
            .range(timeouts())
            .reload(Reload::Live);
        schema
            .key("http.write_timeout", |http: &mut Self| {
                &mut http.write_timeout
            })
            .doc("between two pieces of an answer that the peer takes")
            .range(timeouts())
            .reload(Reload::Live);
        schema
            .key("http.idle_timeout", |http: &mut Self| {
                &mut http.idle_timeout
            })
            .doc("between two requests of a connection")
            .range(timeouts())
            .reload(Reload::Live);
        schema
            .key("http.body_timeout", |http: &mut Self| {
                &mut http.body_timeout
            })
            .doc("for a whole body, from the head on")
            .range(timeouts())
            .reload(Reload::Live);
        schema
            .key("http.min_rate", |http: &mut Self| &mut http.min_rate)
            .doc("bytes per second of an answer that a peer takes at least, beyond http.write_timeout")
            .range(ByteSize::new(1)..=ByteSize::new(1 << 30))
            .reload(Reload::Live);
        schema
            .key("http.max_body_bytes", |http: &mut Self| {
                &mut http.max_body_bytes
            })
            .doc("bytes of a body")
            .env_with_unit("REQ_BODY_MAX_BYTES", Unit::Bytes)
            .range(ByteSize::new(1 << 10)..=ByteSize::new(1 << 20))
            .reload(Reload::Live);
        schema
            .key("http.inflight", |http: &mut Self| &mut http.inflight)
            .doc("requests under way")
            .range(1..=1 << 16)
            .reload(Reload::Live);
        schema
            .key("http.rps", |http: &mut Self| &mut http.rps)
            .doc("requests per second, of all clients")
            .range(1..=1_000_000)
            .reload(Reload::Live);
        schema
            .key("auth.keyring", |http: &mut Self| &mut http.auth.keyring)
            .doc("file of the keyring that capabilities are verified with");
        schema
            .key("auth.audience", |http: &mut Self| &mut http.auth.audience)
            .doc("the `aud` that capabilities are for");
        schema
            .key("auth.dev_allow", |http: &mut Self| &mut http.auth.dev_allow)
            .doc("lets everybody in, on a loopback address or a Unix socket only");
        schema
            .key("tls.cert", |http: &mut Self| &mut http.tls.cert)
            .doc("PEM file of the certificate and its chain; read again on reload");
        schema
            .key("tls.key", |http: &mut Self| &mut http.tls.key)
            .doc("PEM file of the private key, mode 0600; read again on reload");
        schema
            .key("tls.handshake_timeout", |http: &mut Self| {
                &mut http.tls.handshake_timeout
            })
            .doc("for a TLS handshake")
            .range(timeouts())
            .reload(Reload::Live);
        schema
            .key("otel.endpoint", |http: &mut Self| &mut http.otel.endpoint)
            .doc("collector that is told spans of requests by OTLP over HTTP; /v1/traces is added")
            .env("OTEL_EXPORTER_OTLP_ENDPOINT");
        schema
            .key("otel.ratio", |http: &mut Self| &mut http.otel.ratio)
            .doc("how many of the traces that begin here are recorded, of 1")
            .range(0.0..=1.0)
            .reload(Reload::Live);
        schema.check(&["otel.endpoint"], |http: &Self| {
            let problem = "is set, and this build has no feature `otel`; expected a build that has it, or no collector";
            match cfg!(feature = "otel") || http.otel.endpoint.is_none() {
                true => Ok(()),
                false => Err(problem.to_owned()),
            }
        });
        schema.check(&["tls.cert", "tls.key"], |http: &Self| {
            match (&http.tls.cert, &http.tls.key) {
                (Some(_), None) => Err("is set without tls.key".to_owned()),
                (None, Some(_)) => Err("is set without tls.cert".to_owned()),
                _ => Ok(()),
            }
        });
        schema.check(&["tls.cert", "http.addr"], |http: &Self| {
            let problem = "names a certificate, and http.addr a Unix socket, which is not encrypted; expected one of them";
            match http.tls.cert.is_some() && http.addr.is_unix() {
                true => Err(problem.to_owned()),
                false => Ok(()),
            }
        });
        schema.check(&["http.unix_uids", "http.addr"], |http: &Self| {
            match http.unix_uids.is_empty() || http.addr.is_unix() {
                true => Ok(()),
                false => Err("http.unix_uids needs a Unix socket as http.addr".to_owned()),
            }
        });
    }
}
