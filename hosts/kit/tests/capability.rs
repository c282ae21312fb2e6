//! What tokens allow, what they refuse, and that nobody can change one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine as _;
use proptest::prelude::*;
use ron_host::capability::{
    attenuate, inspect, mint, parse_utc, verify, CapId, Caveat, CaveatError, Denied, Grant,
    Inspected, KeyProvider, Keyring, MintError, Request, Token, TokenError, CAVEATS_MAX, TOKEN_MAX,
};

const NOW: Duration = Duration::from_secs(1_795_000_000);

fn now() -> SystemTime {
    UNIX_EPOCH + NOW
}

/// Bytes that differ from call to call.
fn counting() -> impl FnMut(&mut [u8]) -> std::io::Result<()> {
    let mut next = 0_u8;
    move |bytes| {
        for byte in bytes {
            *byte = next;
            next = next.wrapping_add(1);
        }
        Ok(())
    }
}

fn keyring() -> Keyring {
    Keyring::generate(&mut counting(), now()).unwrap()
}

fn caveats(texts: &[&str]) -> Vec<Caveat> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn minted(keyring: &Keyring, texts: &[&str]) -> Token {
    mint(keyring, &caveats(texts), &mut counting(), now()).unwrap()
}

const GET: Request<'static> = Request {
    method: "GET",
    path: "/o/b3:00",
    length: None,
    tenant: None,
    scope: None,
    audience: "micronode",
    now: UNIX_EPOCH,
};

fn get() -> Request<'static> {
    Request { now: now(), ..GET }
}

#[test]
fn every_caveat_allows_what_it_says_up_to_its_edge_and_refuses_what_is_beyond() {
    let at = |text| parse_utc(text).unwrap();
    let sent = |method, path, length| Request {
        method,
        path,
        length,
        ..get()
    };
    let when = |text| Request {
        now: at(text),
        ..get()
    };
    let tenant = |tenant| Request { tenant, ..get() };
    let scope = |scope| Request { scope, ..get() };
    let audience = |audience| Request { audience, ..get() };
    let exp = "exp = 2026-12-01T00:00:00Z";
    let nbf = "nbf = 2026-12-01T00:00:00.500Z";
    for (caveats, request, refused) in [
        (&[][..], get(), None),
        (&[exp], when("2026-11-30T23:59:59.999Z"), None),
        (&[exp], when("2026-12-01T00:00:00Z"), Some(Denied::Expired)),
        (&[exp], when("2026-12-01T00:00:01Z"), Some(Denied::Expired)),
        (&[nbf], when("2026-12-01T00:00:00.500Z"), None),
        (
            &[nbf],
            when("2026-12-01T00:00:00.499Z"),
            Some(Denied::NotYet),
        ),
        (&["aud = micronode"], get(), None),
        (
            &["aud = micronode"],
            audience("micronode2"),
            Some(Denied::Audience),
        ),
        (&["aud = micronode"], audience(""), Some(Denied::Audience)),
        (
            &["aud = micronode", "aud = ledger"],
            get(),
            Some(Denied::Audience),
        ),
        (
            &["aud = micronode", "aud = ledger"],
            audience("ledger"),
            Some(Denied::Audience),
        ),
        (&["method = PUT,GET"], get(), None),
        (
            &["method = GET"],
            sent("HEAD", "/o", None),
            Some(Denied::Method),
        ),
        (
            &["method = GET"],
            sent("get", "/o", None),
            Some(Denied::Method),
        ),
        (
            &["method = GET,PUT", "method = PUT"],
            get(),
            Some(Denied::Method),
        ),
        (
            &["method = GET,PUT", "method = PUT"],
            sent("PUT", "/o", None),
            None,
        ),
        (&["path = /o"], sent("GET", "/o", None), None),
        (
            &["path = /o"],
            sent("GET", "/other", None),
            Some(Denied::Path),
        ),
        (
            &["path = /o"],
            sent("GET", "/o/../put", None),
            Some(Denied::Path),
        ),
        (
            &["path = /a", "path = /a/b"],
            sent("GET", "/a/c", None),
            Some(Denied::Path),
        ),
        (
            &["path = /a/b", "path = /a"],
            sent("GET", "/a/b/c", None),
            None,
        ),
        (
            &["path = /a", "path = /b"],
            sent("GET", "/a", None),
            Some(Denied::Path),
        ),
        (&["max-bytes = 10"], sent("PUT", "/put", Some(10)), None),
        (
            &["max-bytes = 10"],
            sent("PUT", "/put", Some(11)),
            Some(Denied::MaxBytes),
        ),
        (&["max-bytes = 10"], sent("PUT", "/put", None), None),
        (&["max-bytes = 0"], sent("PUT", "/put", Some(0)), None),
        (
            &["max-bytes = 10", "max-bytes = 20"],
            sent("PUT", "/put", Some(11)),
            Some(Denied::MaxBytes),
        ),
        (
            &["max-bytes = 20", "max-bytes = 10"],
            sent("PUT", "/put", Some(11)),
            Some(Denied::MaxBytes),
        ),
        (&["tenant = acme"], tenant(Some("acme")), None),
        (&["tenant = acme"], tenant(None), None),
        (
            &["tenant = acme"],
            tenant(Some("Acme")),
            Some(Denied::Tenant),
        ),
        (&["tenant = acme"], tenant(Some("")), Some(Denied::Tenant)),
        (
            &["tenant = a", "tenant = b"],
            tenant(Some("a")),
            Some(Denied::Tenant),
        ),
        (
            &["tenant = a", "tenant = b"],
            tenant(None),
            Some(Denied::Tenant),
        ),
        (&["scope = read,write"], scope(Some("write")), None),
        (&["scope = read,write"], scope(None), None),
        (&["scope = read"], scope(Some("write")), Some(Denied::Scope)),
        (
            &["scope = read,write", "scope = write,admin"],
            scope(Some("write")),
            None,
        ),
        (
            &["scope = read,write", "scope = write,admin"],
            scope(Some("admin")),
            Some(Denied::Scope),
        ),
        (
            &["scope = read", "scope = write"],
            scope(None),
            Some(Denied::Scope),
        ),
        (&["rps = 1"], get(), None),
    ] {
        let keyring = keyring();
        let token = minted(&keyring, caveats);
        let found = verify(token.as_str(), &keyring, &request).err();
        assert_eq!(found, refused, "{caveats:?} {request:?}");
    }
}

#[test]
fn the_grant_holds_the_narrowest_of_what_is_repeated() {
    let keyring = keyring();
    let texts = [
        "exp = 2027-01-02T00:00:00Z",
        "exp = 2027-01-01T00:00:00Z",
        "exp = 2027-01-03T00:00:00Z",
        "max-bytes = 20",
        "max-bytes = 10",
        "max-bytes = 30",
        "rps = 7",
        "rps = 5",
        "rps = 6",
        "tenant = acme",
        "tenant = acme",
        "scope = a,b,c",
        "scope = c,b",
    ];
    let token = minted(&keyring, &texts);
    let grant = verify(token.as_str(), &keyring, &get()).unwrap();
    assert_eq!(grant.expires, parse_utc("2027-01-01T00:00:00Z"));
    assert_eq!(grant.max_bytes, Some(10));
    assert_eq!(grant.rps.map(|rate| rate.get()), Some(5));
    assert_eq!(grant.tenant.as_deref(), Some("acme"));
    assert_eq!(grant.scopes.unwrap(), ["c", "b"]);
    assert_eq!(grant.kid, *keyring.newest().kid());
    assert_eq!(grant.cap_id, inspect(token.as_str()).unwrap().cap_id);
    let free = minted(&keyring, &[]);
    let grant = verify(free.as_str(), &keyring, &get()).unwrap();
    let unbounded = (
        grant.tenant,
        grant.max_bytes,
        grant.rps,
        grant.scopes,
        grant.expires,
    );
    assert_eq!(unbounded, (None, None, None, None, None));
}

const TEXTS: [&str; 4] = [
    "exp = 2027-01-02T00:00:00Z",
    "method = GET",
    "path = /o",
    "max-bytes = 10",
];

#[test]
fn a_token_changed_at_any_byte_never_verifies() {
    let keyring = keyring();
    let token = minted(&keyring, &TEXTS);
    let text = token.as_str();
    assert!(verify(text, &keyring, &get()).is_ok());
    let refused = |text: &str, how: &str| {
        let found = verify(text, &keyring, &get());
        assert!(found.is_err(), "{how}: {found:?}");
    };
    let letters: Vec<char> = ('a'..='z')
        .chain('A'..='Z')
        .chain('0'..='9')
        .chain("-_+/= \0{é".chars())
        .collect();
    for at in 0..text.len() {
        let (before, here) = (&text[..at], &text[at + 1..]);
        for letter in &letters {
            if !text[at..].starts_with(*letter) {
                refused(&format!("{before}{letter}{here}"), "another letter");
            }
        }
        refused(before, "cut off");
        refused(&format!("{before}{here}"), "a letter left out");
        refused(&format!("{before}A{}", &text[at..]), "a letter put in");
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).unwrap();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << bit;
            refused(&URL_SAFE_NO_PAD.encode(changed), "a bit");
        }
    }
    // Behind the signature, where some readers do not look.
    let longer = URL_SAFE_NO_PAD.encode([&bytes[..], &[0]].concat());
    assert_eq!(verify(&longer, &keyring, &get()), Err(Denied::Unreadable));
}

#[test]
fn caveats_can_neither_be_taken_away_nor_moved() {
    let keyring = keyring();
    let wide = minted(&keyring, &["path = /o"]);
    let narrow = attenuate(wide.as_str(), &caveats(&["method = PUT"])).unwrap();
    assert_eq!(
        verify(narrow.as_str(), &keyring, &get()),
        Err(Denied::Method)
    );
    let binary = |token: &Token| URL_SAFE_NO_PAD.decode(token.as_str()).unwrap();
    let (wide, narrow) = (binary(&wide), binary(&narrow));
    // The wide token with the signature of the narrow one is all that its bearer can make.
    let stripped = [&wide[..wide.len() - 32], &narrow[narrow.len() - 32..]].concat();
    let stripped = URL_SAFE_NO_PAD.encode(stripped);
    assert_eq!(verify(&stripped, &keyring, &get()), Err(Denied::Signature));
    let (one, two) = (
        minted(&keyring, &["path = /o", "rps = 1"]),
        minted(&keyring, &["rps = 1", "path = /o"]),
    );
    let (one, two) = (binary(&one), binary(&two));
    let swapped = [&one[..one.len() - 32], &two[two.len() - 32..]].concat();
    let swapped = URL_SAFE_NO_PAD.encode(swapped);
    assert_eq!(verify(&swapped, &keyring, &get()), Err(Denied::Signature));
}

#[test]
fn a_key_of_another_name_or_secret_verifies_nothing() {
    let ours = keyring();
    let token = minted(&ours, &[]);
    let mut random = counting();
    random(&mut [0; 100]).unwrap();
    let other = Keyring::generate(&mut random, now()).unwrap();
    assert_eq!(
        verify(token.as_str(), &other, &get()),
        Err(Denied::UnknownKey)
    );
    let text = ours.render().replace("secret = \"AA", "secret = \"AB");
    let same_name = Keyring::parse(&text).unwrap();
    assert_ne!(same_name, ours);
    assert_eq!(
        verify(token.as_str(), &same_name, &get()),
        Err(Denied::Signature)
    );
}

#[test]
fn size_and_number_of_caveats_are_limited_where_tokens_are_made_and_where_they_are_read() {
    let keyring = keyring();
    let most = vec!["rps = 1"; CAVEATS_MAX];
    let token = minted(&keyring, &most);
    assert!(verify(token.as_str(), &keyring, &get()).is_ok());
    let more = attenuate(token.as_str(), &caveats(&["rps = 1"]));
    assert!(matches!(
        more,
        Err(MintError::Token(TokenError::TooManyCaveats))
    ));
    // Another library puts in one more.
    let mut bytes = URL_SAFE_NO_PAD.decode(token.as_str()).unwrap();
    let end = bytes.len() - 35;
    bytes.splice(end..end, *b"\x02\x07rps = 1\0");
    let more = URL_SAFE_NO_PAD.encode(bytes);
    assert_eq!(verify(&more, &keyring, &get()), Err(Denied::TooManyCaveats));
    assert_eq!(inspect(&more), Err(TokenError::TooManyCaveats));

    let path = format!("path = /{}", "x".repeat(255));
    let long = mint(&keyring, &caveats(&[&*path; 12]), &mut counting(), now());
    assert!(matches!(long, Err(MintError::Token(TokenError::TooLong))));
    let long = format!("Ag{}", "A".repeat(TOKEN_MAX - 1));
    assert_eq!(verify(&long, &keyring, &get()), Err(Denied::TooLong));
    assert_eq!(
        verify(&long[..TOKEN_MAX], &keyring, &get()),
        Err(Denied::Unreadable)
    );
}

#[test]
fn what_is_no_token_is_unreadable() {
    let keyring = keyring();
    let token = minted(&keyring, &[]);
    let standard = token.as_str().replace('-', "+").replace('_', "/");
    assert_ne!(
        standard,
        token.as_str(),
        "has letters on which the alphabets differ"
    );
    for text in [
        "", "A", "Ag", "Ag==", "AgE", "{}", "MDAx", "é", "AAAA", &standard,
    ] {
        assert_eq!(
            verify(text, &keyring, &get()),
            Err(Denied::Unreadable),
            "{text}"
        );
    }
}

#[test]
fn padding_changes_nothing_and_too_much_of_it_is_unreadable() {
    let keyring = keyring();
    let mut lengths = [false; 3];
    for path in ["path = /o", "path = /o/", "path = /"] {
        let token = minted(&keyring, &[path]);
        let text = token.as_str();
        assert!(!text.ends_with('='));
        let missing = (4 - text.len() % 4) % 4;
        lengths[missing] = true;
        let padded = format!("{text}{}", "=".repeat(missing));
        assert_eq!(
            verify(&padded, &keyring, &get()),
            verify(text, &keyring, &get())
        );
        assert!(verify(&padded, &keyring, &get()).is_ok());
        assert_eq!(
            verify(&format!("{padded}="), &keyring, &get()),
            Err(Denied::Unreadable)
        );
    }
    assert_eq!(lengths, [true; 3]);
}

#[test]
fn status_and_reason_tell_every_refusal() {
    let all = [
        (Denied::Missing, 401, "token_missing"),
        (Denied::Header, 401, "authorization_header"),
        (Denied::TooLong, 401, "token_too_long"),
        (Denied::Unreadable, 401, "token_unreadable"),
        (Denied::TooManyCaveats, 403, "too_many_caveats"),
        (Denied::Foreign, 403, "token_foreign"),
        (Denied::UnknownKey, 403, "key_unknown"),
        (Denied::KeyExpired, 403, "key_expired"),
        (Denied::Signature, 403, "signature"),
        (Denied::Revoked, 403, "revoked"),
        (Denied::ThirdParty, 403, "caveat_third_party"),
        (Denied::UnknownCaveat, 403, "caveat_unknown"),
        (Denied::MalformedCaveat, 403, "caveat_malformed"),
        (Denied::Expired, 403, "expired"),
        (Denied::NotYet, 403, "not_yet_valid"),
        (Denied::Audience, 403, "audience"),
        (Denied::Method, 403, "method"),
        (Denied::Path, 403, "path"),
        (Denied::MaxBytes, 403, "max_bytes"),
        (Denied::Tenant, 403, "tenant"),
        (Denied::Scope, 403, "scope"),
        (Denied::KeysUnavailable, 503, "keys_unavailable"),
    ];
    for (denied, status, reason) in all {
        assert_eq!((denied.status(), denied.reason()), (status, reason));
    }
}

#[test]
fn what_is_shown_of_tokens_and_keys_is_no_secret() {
    let keyring = keyring();
    let token = minted(&keyring, &["tenant = acme"]);
    let rendered = keyring.render();
    let secret = rendered
        .split("secret = \"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    assert_eq!(secret.len(), 43);
    let shown = format!("{token:?} {keyring:?} {:?}", keyring.newest());
    assert!(shown.contains(keyring.newest().kid().as_str()));
    for part in [token.as_str(), secret, "acme", "[0, 1, 2"] {
        assert!(!shown.contains(part), "{shown}");
    }
}

#[test]
fn inspecting_shows_what_is_understood_and_what_is_not() {
    let keyring = keyring();
    let token = minted(&keyring, &["tenant = acme"]);
    let mut bytes = URL_SAFE_NO_PAD.decode(token.as_str()).unwrap();
    let end = bytes.len() - 35;
    bytes.splice(
        end..end,
        *b"\x02\x05a = b\0\x02\x07rps = 0\0\x01\x01x\x02\x01y\x04\x01z\0",
    );
    let inspection = inspect(&URL_SAFE_NO_PAD.encode(bytes)).unwrap();
    assert_eq!(inspection.kid, *keyring.newest().kid());
    let [known, unknown, malformed, third] = &inspection.caveats[..] else {
        panic!("{inspection:?}");
    };
    assert_eq!(*known, Inspected::Known(Caveat::Tenant("acme".to_owned())));
    assert_eq!(
        *unknown,
        Inspected::Refused("a = b".to_owned(), CaveatError::Unknown)
    );
    assert!(
        matches!(malformed, Inspected::Refused(text, CaveatError::Malformed { key: "rps", .. }) if text == "rps = 0")
    );
    assert_eq!(*third, Inspected::ThirdParty("x".to_owned()));
}

#[test]
fn what_services_share_can_be_shared_between_threads() {
    fn shared<T: Send + Sync + Unpin + 'static>() {}
    shared::<Keyring>();
    shared::<KeyProvider>();
    shared::<Token>();
    shared::<Grant>();
    shared::<Denied>();
}

#[test]
fn no_randomness_no_token() {
    let keyring = keyring();
    let broken = &mut |_: &mut [u8]| Err(std::io::Error::other("dry"));
    assert!(matches!(
        mint(&keyring, &[], broken, now()),
        Err(MintError::Random(_))
    ));
    assert!(Keyring::generate(broken, now()).is_err());
    assert!(CapId::random(broken).is_err());
}

fn any_caveat() -> impl Strategy<Value = Caveat> {
    let text = prop_oneof![
        (0_u64..4).prop_map(|s| format!("exp = 2026-11-18T11:06:4{s}Z")),
        (0_u64..4).prop_map(|s| format!("nbf = 2026-11-18T11:06:4{s}Z")),
        prop::sample::select(vec!["aud = a", "aud = b"]).prop_map(str::to_owned),
        prop::sample::select(vec!["method = GET", "method = PUT", "method = GET,PUT"])
            .prop_map(str::to_owned),
        prop::sample::select(vec![
            "path = /",
            "path = /a",
            "path = /a/",
            "path = /a/b",
            "path = /ab"
        ])
        .prop_map(str::to_owned),
        (0_u64..4).prop_map(|n| format!("max-bytes = {n}")),
        prop::sample::select(vec!["tenant = a", "tenant = b"]).prop_map(str::to_owned),
        prop::sample::select(vec!["scope = a", "scope = b", "scope = a,b", "scope = b,c"])
            .prop_map(str::to_owned),
        (1_u64..4).prop_map(|n| format!("rps = {n}")),
    ];
    text.prop_map(|text| text.parse().unwrap())
}

fn any_request() -> impl Strategy<Value = Request<'static>> {
    let name = || prop::sample::select(vec![None, Some("a"), Some("b"), Some("c")]);
    (
        prop::sample::select(vec!["GET", "PUT"]),
        prop::sample::select(vec!["/", "/a", "/a/b", "/a/b/c", "/ab", "/a/../ab"]),
        prop::option::of(0_u64..4),
        name(),
        name(),
        prop::sample::select(vec!["a", "b"]),
        0_u64..6,
    )
        .prop_map(
            |(method, path, length, tenant, scope, audience, second)| Request {
                method,
                path,
                length,
                tenant,
                scope,
                audience,
                now: parse_utc("2026-11-18T11:06:40Z").unwrap() + Duration::from_secs(second),
            },
        )
}

/// Whether `narrow` allows nothing that `wide` does not.
fn is_within(narrow: &Grant, wide: &Grant) -> bool {
    fn below<T: PartialOrd>(narrow: Option<T>, wide: Option<T>) -> bool {
        wide.is_none_or(|wide| narrow.is_some_and(|narrow| narrow <= wide))
    }
    below(narrow.max_bytes, wide.max_bytes)
        && below(narrow.rps, wide.rps)
        && below(narrow.expires, wide.expires)
        && (wide.tenant.is_none() || narrow.tenant == wide.tenant)
        && wide.scopes.as_ref().is_none_or(|wide| {
            let narrow = narrow.scopes.as_ref();
            narrow.is_some_and(|narrow| narrow.iter().all(|scope| wide.contains(scope)))
        })
}

/// What the caveats mean, one by one and without a token.
fn allows(caveats: &[Caveat], request: &Request<'_>) -> bool {
    let scopes = caveats.iter().filter_map(|caveat| match caveat {
        Caveat::Scopes(scopes) => Some(scopes),
        _ => None,
    });
    let scopes: Vec<&Vec<String>> = scopes.collect();
    let common = |scope: &&str| {
        scopes
            .iter()
            .all(|list| list.iter().any(|name| name == scope))
    };
    let tenants = caveats.iter().filter_map(|caveat| match caveat {
        Caveat::Tenant(tenant) => Some(tenant.as_str()),
        _ => None,
    });
    let mut tenants: Vec<&str> = tenants.chain(request.tenant).collect();
    tenants.dedup();
    let below = |prefix: &str| {
        let parts = |path: &str| path.split('/').map(str::to_owned).collect::<Vec<_>>();
        let (path, mut prefix) = (parts(request.path), parts(prefix));
        let open = prefix.last().is_some_and(String::is_empty);
        prefix.truncate(prefix.len() - usize::from(open));
        path.starts_with(&prefix)
            && path.len() >= prefix.len() + usize::from(open)
            && !path.contains(&"..".to_owned())
    };
    let each = caveats.iter().all(|caveat| match caveat {
        Caveat::Expires(at) => request.now < *at,
        Caveat::NotBefore(at) => request.now >= *at,
        Caveat::Audience(name) => name == request.audience,
        Caveat::Methods(list) => list.iter().any(|name| name == request.method),
        Caveat::Path(prefix) => below(prefix),
        Caveat::MaxBytes(most) => request.length.unwrap_or(0) <= *most,
        _ => true,
    });
    let scoped = scopes.is_empty()
        || match request.scope {
            Some(scope) => common(&scope),
            None => ["a", "b", "c"].iter().any(common),
        };
    each && scoped && tenants.len() <= 1
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn attenuation_never_widens(
        first in prop::collection::vec(any_caveat(), 0..4),
        more in prop::collection::vec(any_caveat(), 0..4),
        request in any_request(),
    ) {
        let keyring = keyring();
        let wide = mint(&keyring, &first, &mut counting(), now()).unwrap();
        let narrow = attenuate(wide.as_str(), &more).unwrap();
        let before = verify(wide.as_str(), &keyring, &request);
        let after = verify(narrow.as_str(), &keyring, &request);
        prop_assert_eq!(before.is_ok(), allows(&first, &request));
        let both: Vec<Caveat> = first.iter().chain(&more).cloned().collect();
        prop_assert_eq!(after.is_ok(), allows(&both, &request));
        if let Ok(after) = after {
            prop_assert!(is_within(&after, &before.unwrap()));
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in "(Ag[A-Za-z0-9_-]{0,200}={0,3})|\\PC{0,64}") {
        prop_assert!(verify(&text, &keyring(), &get()).is_err());
        prop_assert!(attenuate(&text, &[]).is_err() || inspect(&text).is_ok());
    }

    #[test]
    fn no_binary_makes_it_panic(
        bytes in prop::collection::vec(prop::sample::select(vec![0, 1, 2, 3, 4, 6, 32, 127, 128, 255]), 0..120),
    ) {
        let text = URL_SAFE_NO_PAD.encode([&[2][..], &bytes].concat());
        prop_assert!(verify(&text, &keyring(), &get()).is_err());
    }
}
