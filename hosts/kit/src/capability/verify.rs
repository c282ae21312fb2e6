//! The service's side: whether a token allows a request.

use std::num::NonZeroU32;
use std::sync::LazyLock;
use std::time::SystemTime;

use libmacaroon::{Caveat as Link, Verifier};

use super::caveat::{covers, Caveat, CaveatError};
use super::keyring::Keyring;
use super::token::{parse, read, CapId, Kid, TokenError, CAVEATS_MAX, TOKEN_MAX};

/// What is known of a request before its body is read.
///
/// Every field is there to be filled in: a new one is a new question that every host has to answer.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The method.
    pub method: &'a str,
    /// The path as it is routed, without the query.
    pub path: &'a str,
    /// How long the body says that it is. What says nothing is counted against [`Grant::max_bytes`] as it comes.
    pub length: Option<u64>,
    /// The tenant whose things it is about, if it names one.
    pub tenant: Option<&'a str>,
    /// The scope that is needed, if any.
    pub scope: Option<&'a str>,
    /// The name of this service.
    pub audience: &'a str,
    /// Wall time.
    pub now: SystemTime,
}

/// What a token allows beyond this request's being made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Grant {
    /// The capability, for accounts and logs.
    pub cap_id: CapId,
    /// The key that verified it.
    pub kid: Kid,
    /// The tenant that it is restricted to; any if `None`.
    pub tenant: Option<String>,
    /// The largest body that it allows.
    pub max_bytes: Option<u64>,
    /// How many requests per second it allows: the smallest of `rates`.
    pub rps: Option<NonZeroU32>,
    /// Every `rps` in the order of the chain. To be charged one by one: whoever restricts a token further shares what came
    /// before, and does not get a rate of his own.
    pub rates: Vec<NonZeroU32>,
    /// The scopes that it is restricted to; any if `None`.
    pub scopes: Option<Vec<String>>,
    /// When it ends.
    pub expires: Option<SystemTime>,
}

/// Why a request is refused. Nothing of the token is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Denied {
    /// There is no `Authorization` header.
    #[error("no capability was presented")]
    Missing,
    /// There are several `Authorization` headers, or one that is not `Bearer`, `Macaroon` or `Macro` and a token.
    #[error("expected one Authorization header: Bearer, Macaroon or Macro, and a token")]
    Header,
    /// The token is longer than [`TOKEN_MAX`].
    #[error("the token is longer than {TOKEN_MAX} bytes")]
    TooLong,
    /// The token is none.
    #[error("the token is not a macaroon in V2 binary and base64url")]
    Unreadable,
    /// The token has more than [`CAVEATS_MAX`] caveats.
    #[error("the token has more than {CAVEATS_MAX} caveats")]
    TooManyCaveats,
    /// The token is a macaroon for something else.
    #[error("the token is not one for this service")]
    Foreign,
    /// The keyring has no key of that name.
    #[error("the token's key is not known")]
    UnknownKey,
    /// The key is past its `not_after`.
    #[error("the token's key has been rotated out")]
    KeyExpired,
    /// The token was not made with the key, or was changed.
    #[error("the token's signature does not hold")]
    Signature,
    /// The capability was revoked.
    #[error("the capability has been revoked")]
    Revoked,
    /// A caveat needs somebody else's discharge.
    #[error("the token has a third-party caveat")]
    ThirdParty,
    /// A caveat has a key that is not known here.
    #[error("the token has a caveat that is not known here")]
    UnknownCaveat,
    /// A caveat has a value that cannot be read.
    #[error("the token has a caveat that cannot be read")]
    MalformedCaveat,
    /// `exp` has come.
    #[error("the token has expired")]
    Expired,
    /// `nbf` has not come.
    #[error("the token is not valid yet")]
    NotYet,
    /// `aud` is another service.
    #[error("the token is for another service")]
    Audience,
    /// `method` does not list it.
    #[error("the token does not allow this method")]
    Method,
    /// `path` does not cover it.
    #[error("the token does not allow this path")]
    Path,
    /// `max-bytes` is less than what is announced.
    #[error("the token does not allow a body of this size")]
    MaxBytes,
    /// `tenant` is another one.
    #[error("the token is for another tenant")]
    Tenant,
    /// `scope` does not list it.
    #[error("the token does not have the scope that this needs")]
    Scope,
    /// The keyring cannot be read: nothing is allowed until it can. Our fault, not the bearer's.
    #[error("the keyring cannot be read, so nothing is allowed")]
    KeysUnavailable,
}

impl Denied {
    /// 401 where there is no token that could be read, 503 where there are no keys to verify it with, else 403.
    pub fn status(self) -> u16 {
        match self {
            Denied::Missing | Denied::Header | Denied::TooLong | Denied::Unreadable => 401,
            Denied::KeysUnavailable => 503,
            _ => 403,
        }
    }

    /// One word for machines: metrics, logs, `details.reason`.
    pub fn reason(self) -> &'static str {
        match self {
            Denied::Missing => "token_missing",
            Denied::Header => "authorization_header",
            Denied::TooLong => "token_too_long",
            Denied::Unreadable => "token_unreadable",
            Denied::TooManyCaveats => "too_many_caveats",
            Denied::Foreign => "token_foreign",
            Denied::UnknownKey => "key_unknown",
            Denied::KeyExpired => "key_expired",
            Denied::Signature => "signature",
            Denied::Revoked => "revoked",
            Denied::ThirdParty => "caveat_third_party",
            Denied::UnknownCaveat => "caveat_unknown",
            Denied::MalformedCaveat => "caveat_malformed",
            Denied::Expired => "expired",
            Denied::NotYet => "not_yet_valid",
            Denied::Audience => "audience",
            Denied::Method => "method",
            Denied::Path => "path",
            Denied::MaxBytes => "max_bytes",
            Denied::Tenant => "tenant",
            Denied::Scope => "scope",
            Denied::KeysUnavailable => "keys_unavailable",
        }
    }
}

impl From<TokenError> for Denied {
    fn from(error: TokenError) -> Denied {
        match error {
            TokenError::TooLong => Denied::TooLong,
            TokenError::Unreadable => Denied::Unreadable,
            TokenError::TooManyCaveats => Denied::TooManyCaveats,
            TokenError::Foreign => Denied::Foreign,
        }
    }
}

impl From<CaveatError> for Denied {
    fn from(error: CaveatError) -> Denied {
        match error {
            CaveatError::Unknown => Denied::UnknownCaveat,
            CaveatError::Malformed { .. } => Denied::MalformedCaveat,
        }
    }
}

/// Whether `token` allows `request`. Does no I/O, and reads the caveats only once the signature holds.
///
/// # Errors
///
/// [`Denied`], with the first rule that refused.
pub fn verify(token: &str, keyring: &Keyring, request: &Request<'_>) -> Result<Grant, Denied> {
    let read = read(token)?;
    let key = keyring.find(&read.kid).ok_or(Denied::UnknownKey)?;
    let mut predicates = Vec::with_capacity(read.macaroon.caveats().len());
    for link in read.macaroon.caveats() {
        match link {
            Link::FirstParty(link) => predicates.push(link.predicate()),
            Link::ThirdParty(_) => return Err(Denied::ThirdParty),
        }
    }
    CHAIN
        .verify(&read.macaroon, key.root(), &[])
        .map_err(|_| Denied::Signature)?;
    if key.is_expired(request.now) {
        return Err(Denied::KeyExpired);
    }
    if keyring.is_revoked(read.cap_id, request.now) {
        return Err(Denied::Revoked);
    }
    let mut grant = Grant {
        cap_id: read.cap_id,
        kid: read.kid,
        tenant: None,
        max_bytes: None,
        rps: None,
        rates: Vec::new(),
        scopes: None,
        expires: None,
    };
    for predicate in predicates {
        grant.narrow(parse(predicate)?, request)?;
    }
    Ok(grant)
}

/// The signature alone: the caveats are read once it holds.
static CHAIN: LazyLock<Verifier> = LazyLock::new(|| {
    let mut verifier = Verifier::default();
    verifier.satisfy_general(|_| true);
    verifier
});

impl Grant {
    fn narrow(&mut self, caveat: Caveat, request: &Request<'_>) -> Result<(), Denied> {
        let holds = |holds: bool, denied: Denied| holds.then_some(()).ok_or(denied);
        match caveat {
            Caveat::Expires(at) => {
                holds(request.now < at, Denied::Expired)?;
                self.expires = Some(self.expires.map_or(at, |before| before.min(at)));
            }
            Caveat::NotBefore(at) => holds(request.now >= at, Denied::NotYet)?,
            Caveat::Audience(name) => holds(name == request.audience, Denied::Audience)?,
            Caveat::Methods(list) => {
                holds(
                    list.iter().any(|name| name == request.method),
                    Denied::Method,
                )?;
            }
            Caveat::Path(prefix) => holds(covers(&prefix, request.path), Denied::Path)?,
            Caveat::MaxBytes(most) => {
                holds(
                    request.length.is_none_or(|length| length <= most),
                    Denied::MaxBytes,
                )?;
                self.max_bytes = Some(self.max_bytes.map_or(most, |before| before.min(most)));
            }
            Caveat::Tenant(name) => {
                let same = |other: &str| other == name;
                holds(request.tenant.is_none_or(same), Denied::Tenant)?;
                holds(self.tenant.as_deref().is_none_or(same), Denied::Tenant)?;
                self.tenant = Some(name);
            }
            Caveat::Scopes(mut list) => {
                if let Some(before) = &self.scopes {
                    list.retain(|name| before.contains(name));
                }
                let wanted = |scope: &str| list.iter().any(|name| name == scope);
                holds(!list.is_empty(), Denied::Scope)?;
                holds(request.scope.is_none_or(wanted), Denied::Scope)?;
                self.scopes = Some(list);
            }
            Caveat::Rps(rate) => {
                self.rps = Some(self.rps.map_or(rate, |before| before.min(rate)));
                self.rates.push(rate);
            }
        }
        Ok(())
    }
}
