//! What has to be there before a host starts to serve: its socket, its certificate, and who may call.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use hyper::header::{HeaderValue, AUTHORIZATION, HOST, ORIGIN, WWW_AUTHENTICATE};
use hyper::http::request::Parts;
use hyper::{StatusCode, Uri};
use ron_kernel::metrics::Pq;

use super::addr::HttpAddr;
use super::listener::{ListenError, Listener};
use super::otel::Otel;
use super::refusal::Refusal;
use super::settings::{HttpSettings, TlsSettings};
use super::tls::{Tls, TlsError, TlsFiles};
use crate::capability::{bearer, CapId, Denied, Grant, KeyProvider, KeyringError, Request};

/// Rates that are counted at a time; beyond that all counts begin anew.
const RATES_MAX: usize = 4096;

/// The socket and the door. The default has neither and is for a configuration that is only checked.
#[derive(Clone, Default)]
pub struct Front {
    pub(crate) listener: Listener,
    pub(crate) door: Door,
    /// /metrics has an address of its own and is not for the clients of this one.
    pub(crate) metrics_apart: bool,
    pub(crate) tls: Option<Tls>,
    pub(crate) otel: Otel,
    reloads: Option<Arc<dyn Fn() -> u64 + Send + Sync>>,
}

/// What is new about the files that a front depends on.
pub(crate) struct News {
    pub(crate) keys: Keys,
    pub(crate) tls: Option<Result<(), TlsError>>,
}

/// Why a host does not start to serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrontError {
    /// The socket.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Nobody could be let in, and everybody must not be.
    #[error(
        "auth.keyring: unset; expected the file of a keyring (`ronctl cap rotate --create` makes one), or auth.dev_allow = true on a \
         loopback address or a Unix socket"
    )]
    NoKeyring,
    /// One of them would be ignored.
    #[error("auth.dev_allow: true, and auth.keyring is set; expected one of them")]
    Both,
    /// Whoever reaches the address would be let in.
    #[error("auth.dev_allow: true, and http.addr {addr} is no loopback address and no Unix socket; expected a keyring instead")]
    OpenToAll {
        /// Where it would listen.
        addr: HttpAddr,
    },
    /// Certificate or key.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A key exchange is demanded where there is none.
    #[error("pq.mode: required, and connections are not encrypted; expected tls.cert and tls.key, or another mode")]
    PqWithoutTls,
    /// The keyring is unusable.
    #[error("auth.keyring: {0}")]
    Keyring(#[from] KeyringError),
}

impl FrontError {
    /// 98 for an address in use, 2 for what the configuration says, 1 otherwise.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Listen(error) if error.is_addr_in_use() => 98,
            Self::Listen(error) if !error.is_configuration() => 1,
            _ => 2,
        }
    }
}

impl Front {
    /// Whether the settings say who may call, and not everybody who reaches a public address, and can be met. Opens nothing.
    ///
    /// # Errors
    /// [`FrontError::Both`], [`FrontError::OpenToAll`], [`FrontError::NoKeyring`] and [`FrontError::PqWithoutTls`].
    pub fn check(http: &HttpSettings, pq: Pq) -> Result<(), FrontError> {
        let is_encrypted = http.tls.cert.is_some() && http.tls.key.is_some();
        match &http.auth.keyring {
            Some(_) if http.auth.dev_allow => Err(FrontError::Both),
            None if !http.auth.dev_allow => Err(FrontError::NoKeyring),
            None if !http.addr.is_local() => Err(FrontError::OpenToAll {
                addr: http.addr.clone(),
            }),
            _ if pq == Pq::Required && !is_encrypted => Err(FrontError::PqWithoutTls),
            _ => Ok(()),
        }
    }

    /// Reads keyring, certificate and key, and binds the address.
    ///
    /// # Errors
    /// See [`FrontError`].
    pub fn open(http: &HttpSettings, pq: Pq) -> Result<Self, FrontError> {
        Self::check(http, pq)?;
        let door = match &http.auth.keyring {
            Some(path) => Door::new(KeyProvider::open(path)?, http.auth.audience.clone()),
            None => Door::open_to_all(http.addr.is_unix()),
        };
        let tls = match &http.tls {
            TlsSettings {
                cert: Some(cert),
                key: Some(key),
                ..
            } => {
                let (cert, key) = (cert.clone(), key.clone());
                Some(Tls::load(TlsFiles { cert, key }, pq)?)
            }
            _ => None,
        };
        let listener = Listener::bind(&http.addr, &http.unix_uids)?;
        Ok(Self {
            listener,
            door,
            metrics_apart: false,
            tls,
            otel: Otel::new(&http.otel),
            reloads: None,
        })
    }

    /// Certificate and key are read again whenever `reloads`, how many were tried, tells another number.
    pub(crate) fn reloading(mut self, reloads: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        self.reloads = Some(Arc::new(reloads));
        self
    }

    /// Looks for what is new. Reads files.
    pub(crate) fn follow(&self) -> News {
        let reload = self.reloads.as_ref().map_or(0, |reloads| reloads());
        News {
            keys: self.door.follow(),
            tls: self.tls.as_ref().and_then(|tls| tls.follow(reload)),
        }
    }

    /// Whether connections are encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// Where it listens, the port included that the system has chosen for 0.
    pub fn addr(&self) -> Option<&HttpAddr> {
        self.listener.addr()
    }

    /// The same as a client would write it.
    pub fn url(&self) -> Option<String> {
        let scheme = if self.is_encrypted() { "https" } else { "http" };
        Some(match self.addr()? {
            HttpAddr::Tcp(addr) => format!("{scheme}://{addr}"),
            unix => unix.to_string(),
        })
    }

    /// Whether everybody is let in.
    pub fn is_open_to_all(&self) -> bool {
        self.door.0.keys.is_none()
    }
}

impl fmt::Debug for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Front")
            .field("listener", &self.listener)
            .field("door", &self.door)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

/// Lets in who has a capability; clones are the same door.
#[derive(Clone, Debug, Default)]
pub(crate) struct Door(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// `None` lets everybody in.
    keys: Option<KeyProvider>,
    /// Whether no browser reaches it, whatever page it shows.
    is_unix: bool,
    audience: String,
    rates: Mutex<HashMap<RateOf, Arc<DefaultDirectRateLimiter>>>,
    clock: DefaultClock,
}

/// The rate of one caveat: the capability, which of its rates it is, and how much.
type RateOf = (CapId, usize, NonZeroU32);

/// What is wrong with the keyring, if anything is new about that.
pub(crate) enum Keys {
    AsBefore,
    Changed,
    Lost(KeyringError),
}

impl Door {
    fn new(keys: KeyProvider, audience: String) -> Self {
        Self(Arc::new(Inner {
            keys: Some(keys),
            audience,
            ..Inner::default()
        }))
    }

    fn open_to_all(is_unix: bool) -> Self {
        Self(Arc::new(Inner {
            is_unix,
            ..Inner::default()
        }))
    }

    /// Looks whether the file of the keyring has changed. Reads files.
    pub(crate) fn follow(&self) -> Keys {
        let Some(keys) = self.0.keys.as_ref().filter(|keys| keys.changed()) else {
            return Keys::AsBefore;
        };
        let had_keys = self.has_keys();
        match keys.reload() {
            Ok(true) => Keys::Changed,
            Err(error) if had_keys => Keys::Lost(error),
            // What was lost is told once, though it is looked at again and again.
            Ok(false) | Err(_) => Keys::AsBefore,
        }
    }

    /// Whether there are keys, where there have to be.
    pub(crate) fn has_keys(&self) -> bool {
        let keys = self.0.keys.as_ref();
        keys.is_none_or(|keys| keys.keyring().is_ok())
    }

    /// Where everybody is let in, who is of this machine is.
    pub(crate) fn is_local(&self, head: &Parts) -> Result<(), Refusal> {
        match self.0.keys {
            Some(_) => Ok(()),
            None if self.0.is_unix => Ok(()),
            None => is_local(head),
        }
    }

    /// The grant of whoever calls; `None` if everybody may.
    pub(crate) fn admit(
        &self,
        head: &Parts,
        length: Option<u64>,
        now: SystemTime,
    ) -> Result<Option<Grant>, Refusal> {
        let Some(keys) = &self.0.keys else {
            return Ok(None);
        };
        let headers = head.headers.get_all(AUTHORIZATION).iter();
        let request = Request {
            method: head.method.as_str(),
            path: head.uri.path(),
            length,
            tenant: None,
            scope: None,
            audience: &self.0.audience,
            now,
        };
        let token = bearer(headers.map(|value| value.as_bytes()));
        let grant = token.and_then(|token| keys.verify(token, &request));
        let grant = grant.map_err(|denied| self.refusal(denied))?;
        for (place, rps) in grant.rates.iter().enumerate() {
            self.charge((grant.cap_id, place, *rps))?;
        }
        Ok(Some(grant))
    }

    fn charge(&self, of: RateOf) -> Result<(), Refusal> {
        let limiter = {
            let mut rates = self.0.rates.lock().unwrap_or_else(PoisonError::into_inner);
            if rates.len() >= RATES_MAX && !rates.contains_key(&of) {
                rates.clear();
            }
            let fresh = || Arc::new(RateLimiter::direct(Quota::per_second(of.2)));
            Arc::clone(rates.entry(of).or_insert_with(fresh))
        };
        limiter.check().map_err(|early| {
            let wait = early.wait_time_from(self.0.clock.now());
            let message = "this capability allows no more requests per second";
            let status = StatusCode::TOO_MANY_REQUESTS;
            Refusal::new(status, "QuotaExceeded", "capability_rate", message).retry_after(wait)
        })
    }

    fn refusal(&self, denied: Denied) -> Refusal {
        let status = StatusCode::from_u16(denied.status()).unwrap_or(StatusCode::FORBIDDEN);
        let code = match denied.status() {
            401 => "Unauthenticated",
            503 => "NotReady",
            _ => "InvalidCapability",
        };
        let refusal = Refusal::new(status, code, denied.reason(), denied.to_string());
        match denied.status() {
            401 => {
                let realm = format!("Bearer realm=\"{}\"", self.0.audience);
                refusal.header(WWW_AUTHENTICATE, realm).closing()
            }
            503 => refusal.retry_after(Duration::from_secs(1)).closing(),
            _ => refusal.closing(),
        }
    }
}

/// Whether a page of the web could not have made a browser of this machine send it: a name that resolves to a loopback
/// address is the page's own, and the origin is the page.
fn is_local(head: &Parts) -> Result<(), Refusal> {
    // RFC 9112, section 3.2.2: an absolute target is what counts.
    let mut is_target_local = head.uri.host().is_none_or(is_loopback);
    let mut is_origin_local = true;
    for (name, value) in &head.headers {
        if *name == HOST && head.uri.host().is_none() {
            is_target_local &= names_loopback(value);
        } else if *name == ORIGIN {
            is_origin_local &= names_loopback(value);
        }
    }
    for (is_local, reason) in [(is_target_local, "host"), (is_origin_local, "origin")] {
        if !is_local {
            let message = "auth.dev_allow lets in what is sent to a loopback address, from there";
            let status = StatusCode::FORBIDDEN;
            let refusal = Refusal::new(status, "InvalidCapability", reason, message);
            return Err(refusal.closing());
        }
    }
    Ok(())
}

/// Of an authority, and of a URI.
fn names_loopback(value: &HeaderValue) -> bool {
    if let Some(host) = plain_host(value) {
        return is_loopback(host);
    }
    let uri = value
        .to_str()
        .ok()
        .and_then(|text| text.parse::<Uri>().ok());
    uri.as_ref().and_then(Uri::host).is_some_and(is_loopback)
}

/// The host of `HOST` or `HOST:PORT` as most clients write it, where no parser is needed to tell.
pub(super) fn plain_host(value: &HeaderValue) -> Option<&str> {
    let text = std::str::from_utf8(value.as_bytes()).ok()?;
    let (host, port) = text.split_once(':').unwrap_or((text, "0"));
    let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'-';
    let is_plain = (1..=253).contains(&host.len()) && host.bytes().all(known);
    let is_port = (1..=4).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
    // Five digits may be more than a port can be.
    let is_port =
        is_port || port.len() == 5 && !port.starts_with('+') && port.parse::<u16>().is_ok();
    (is_plain && is_port).then_some(host)
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let address = address.parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::http::uri::Authority;
    use proptest::prelude::*;

    #[test]
    fn only_names_of_this_machine_are_local() {
        let cases = [
            ("localhost", true),
            ("LocalHost:8080", true),
            ("127.0.0.1", true),
            ("127.8.9.1:8080", true),
            ("[::1]:8080", true),
            ("http://localhost:3000", true),
            ("https://127.0.0.1", true),
            ("http://[::1]", true),
            ("attacker.example", false),
            ("localhost.attacker.example:8080", false),
            ("127.0.0.1.attacker.example", false),
            ("http://attacker.example", false),
            ("http://localhost@attacker.example", false),
            ("192.0.2.1:8080", false),
            ("0.0.0.0:8080", false),
            ("null", false),
            ("file://", false),
            ("", false),
        ];
        for (text, expected) in cases {
            let value = HeaderValue::from_str(text).unwrap();
            assert_eq!(names_loopback(&value), expected, "{text:?}");
        }
    }
    proptest! {
        /// What is taken for plain is what the parsers would have made of it.
        #[test]
        fn a_plain_host_is_the_one_that_a_parser_finds(text in "[a-z0-9.-]{0,6}(:[0-9+]{0,6})?") {
            let value = HeaderValue::from_str(&text).unwrap();
            if let Some(host) = plain_host(&value) {
                let authority = Authority::try_from(text.as_str()).unwrap();
                prop_assert_eq!(authority.host(), host);
                let port = authority.port_u16().map(|port| port.to_string());
                prop_assert_eq!(port.is_some(), text.contains(':'), "{}", text);
                let uri = text.parse::<Uri>().unwrap();
                prop_assert_eq!(uri.host(), Some(host));
            }
        }
    }
}
