//! Tokens of another implementation.
//!
//! Made with pymacaroons 0.13.0 (Python 3, `pip install pymacaroons`):
//!
//! ```python
//! from pymacaroons import Macaroon, MACAROON_V2
//! identifier = 'v1.2026-11.00112233445566778899aabbccddeeff'
//! m = Macaroon(location='ron', identifier=identifier, key=bytes(range(32)), version=MACAROON_V2)
//! m.add_first_party_caveat('exp = 2026-12-01T00:00:00Z')
//! m.add_first_party_caveat('method = GET,PUT')
//! m.add_first_party_caveat('path = /o')
//! print(m.serialize())                                            # MINTED
//! a = Macaroon.deserialize(m.serialize())
//! a.add_first_party_caveat('method = GET')
//! a.add_first_party_caveat('max-bytes = 0')
//! print(a.serialize())                                            # ATTENUATED
//! # UNKNOWN: MINTED and add_first_party_caveat('account = 3735928559')
//! # THIRD_PARTY: MINTED and add_third_party_caveat('elsewhere', b'k' * 32, 'who')
//! # BARE: without caveats; ELSEWHERE: location='http://example.org/'; OTHER_KEY: key=bytes(32)
//! # V1: without version=
//! ```
//!
//! OURS is by `ronctl cap mint --keyring keys.toml --exp 2026-12-01T00:00:00Z --path /o` with the keyring below, which
//! pymacaroons verified (`Verifier.verify(Macaroon.deserialize(OURS), bytes(range(32)))` is true with both caveats
//! satisfied) and restricted further by `add_first_party_caveat('method = GET')`: OURS_ATTENUATED.

use std::time::SystemTime;

use ron_host::capability::{
    attenuate, inspect, parse_utc, verify, Denied, Inspected, Keyring, Request,
};

const KEYRING: &str = r#"
[[key]]
kid = "2026-11"
secret = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
"#;

const BARE: &str = "AgEDcm9uAit2MS4yMDI2LTExLjAwMTEyMjMzNDQ1NTY2Nzc4ODk5YWFiYmNjZGRlZWZmAAAGICIXpPUoHodnZnp5uwMKPtyN4WTFwb5242JO2m0RLOOu";
const MINTED: &str = "AgEDcm9uAit2MS4yMDI2LTExLjAwMTEyMjMzNDQ1NTY2Nzc4ODk5YWFiYmNjZGRlZWZmAAIaZXhwID0gMjAyNi0xMi0wMVQwMDowMDowMFoAAhBtZXRob2QgPSBHRVQsUFVUAAIJcGF0aCA9IC9vAAAGIBSLp3IsUtHxHLbISbrbdC_exw2sRaI8JYYRcTDwaH8F";
const ATTENUATED: &str = "AgEDcm9uAit2MS4yMDI2LTExLjAwMTEyMjMzNDQ1NTY2Nzc4ODk5YWFiYmNjZGRlZWZmAAIaZXhwID0gMjAyNi0xMi0wMVQwMDowMDowMFoAAhBtZXRob2QgPSBHRVQsUFVUAAIJcGF0aCA9IC9vAAIMbWV0aG9kID0gR0VUAAINbWF4LWJ5dGVzID0gMAAABiDkb_bnYs2oPE0a3TKl_UC9t2_Y8no4Gk8Vami2vF6-RA";
const UNKNOWN: &str = "AgEDcm9uAit2MS4yMDI2LTExLjAwMTEyMjMzNDQ1NTY2Nzc4ODk5YWFiYmNjZGRlZWZmAAIaZXhwID0gMjAyNi0xMi0wMVQwMDowMDowMFoAAhBtZXRob2QgPSBHRVQsUFVUAAIJcGF0aCA9IC9vAAIUYWNjb3VudCA9IDM3MzU5Mjg1NTkAAAYgowyRWawtporQIs4wcyQlkCqC5wRVsOAyJjCn9o0lzew";
const THIRD_PARTY: &str = "AgEDcm9uAit2MS4yMDI2LTExLjAwMTEyMjMzNDQ1NTY2Nzc4ODk5YWFiYmNjZGRlZWZmAAIaZXhwID0gMjAyNi0xMi0wMVQwMDowMDowMFoAAhBtZXRob2QgPSBHRVQsUFVUAAIJcGF0aCA9IC9vAAEJZWxzZXdoZXJlAgN3aG8ESG1hlWOLSV8sK-CqS5QYs_O_RoLORiTbgi-tKyHsHoVgrLGK2uq3ydbD4lqX8DHpei3TNkk9hR4RMhDBFLyWpVJP2y-fMTLWoAAABiBnJkS8qcnIqjgc4bK75Ujvxac0PD6EHyHpHuJNWxUTiA";
const ELSEWHERE: &str = "AgETaHR0cDovL2V4YW1wbGUub3JnLwIrdjEuMjAyNi0xMS4wMDExMjIzMzQ0NTU2Njc3ODg5OWFhYmJjY2RkZWVmZgAABiAiF6T1KB6HZ2Z6ebsDCj7cjeFkxcG-duNiTtptESzjrg";
const OTHER_KEY: &str = "AgEDcm9uAit2MS4yMDI2LTExLjAwMTEyMjMzNDQ1NTY2Nzc4ODk5YWFiYmNjZGRlZWZmAAAGIK6WrFDjnKe3OzCsNpjZAvwhuCv5v5rtRD6MY86JGtxg";
const V1: &str = "MDAxMWxvY2F0aW9uIHJvbgowMDNiaWRlbnRpZmllciB2MS4yMDI2LTExLjAwMTEyMjMzNDQ1NTY2Nzc4ODk5YWFiYmNjZGRlZWZmCjAwMmZzaWduYXR1cmUgIhek9Sgeh2dmenm7Awo-3I3hZMXBvnbjYk7abREs464K";
const OURS: &str = "AgEDcm9uAit2MS4yMDI2LTExLjkwZmU1YWZmZDY1MTMyZWNkNTQ0MDkyMDU2MzBhYzM2AAIeZXhwID0gMjAyNi0xMi0wMVQwMDowMDowMC4wMDBaAAIJcGF0aCA9IC9vAAAGIHk5OmpslGLrEYkzJFJcEdZr0QgN9T7VbO0h7HrYH376";
const OURS_ATTENUATED: &str = "AgEDcm9uAit2MS4yMDI2LTExLjkwZmU1YWZmZDY1MTMyZWNkNTQ0MDkyMDU2MzBhYzM2AAIeZXhwID0gMjAyNi0xMi0wMVQwMDowMDowMC4wMDBaAAIJcGF0aCA9IC9vAAIMbWV0aG9kID0gR0VUAAAGINzA3pIkTe9E1JRUl6V8Zne7eK7H0opnl2svQ1gki2H7";

fn keyring() -> Keyring {
    Keyring::parse(KEYRING).unwrap()
}

fn at(text: &str) -> SystemTime {
    parse_utc(text).unwrap()
}

fn request<'a>(method: &'a str, path: &'a str) -> Request<'a> {
    Request {
        method,
        path,
        length: None,
        tenant: None,
        scope: None,
        audience: "micronode",
        now: at("2026-11-30T23:59:59Z"),
    }
}

#[test]
fn tokens_of_pymacaroons_verify_with_and_without_padding() {
    let keyring = keyring();
    for (token, method) in [(BARE, "PUT"), (MINTED, "PUT"), (ATTENUATED, "GET")] {
        let padded = format!("{token}{}", "=".repeat((4 - token.len() % 4) % 4));
        for token in [token, &padded] {
            let grant = verify(token, &keyring, &request(method, "/o/x")).unwrap();
            assert_eq!(grant.kid.as_str(), "2026-11");
            assert_eq!(grant.cap_id.to_string(), "00112233445566778899aabbccddeeff");
        }
    }
    let grant = verify(ATTENUATED, &keyring, &request("GET", "/o")).unwrap();
    assert_eq!(grant.max_bytes, Some(0));
    assert_eq!(grant.expires, Some(at("2026-12-01T00:00:00Z")));
}

#[test]
fn tokens_of_pymacaroons_are_refused_by_the_rule_that_they_break() {
    let put = || request("PUT", "/o");
    let late = Request {
        now: at("2026-12-01T00:00:00Z"),
        ..put()
    };
    for (token, request, denied) in [
        (MINTED, request("PUT", "/other"), Denied::Path),
        (MINTED, request("DELETE", "/o"), Denied::Method),
        (MINTED, late, Denied::Expired),
        (ATTENUATED, put(), Denied::Method),
        (UNKNOWN, put(), Denied::UnknownCaveat),
        (THIRD_PARTY, put(), Denied::ThirdParty),
        (ELSEWHERE, put(), Denied::Foreign),
        (OTHER_KEY, put(), Denied::Signature),
        (V1, put(), Denied::Unreadable),
    ] {
        assert_eq!(verify(token, &keyring(), &request), Err(denied), "{token}");
    }
}

#[test]
fn both_implementations_write_the_same_token() {
    let inspection = inspect(ATTENUATED).unwrap();
    let known = inspection.caveats.into_iter().map(|caveat| match caveat {
        Inspected::Known(caveat) => caveat,
        other => panic!("{other:?}"),
    });
    let mut caveats: Vec<_> = known.collect();
    let added = caveats.split_off(3);
    assert_eq!(attenuate(MINTED, &added).unwrap().as_str(), ATTENUATED);
}

#[test]
fn a_token_of_ours_that_pymacaroons_restricted_is_restricted_here() {
    let keyring = keyring();
    let verify = |token, method| verify(token, &keyring, &request(method, "/o"));
    let ours = verify(OURS, "PUT").unwrap();
    assert_eq!(verify(OURS_ATTENUATED, "PUT"), Err(Denied::Method));
    assert_eq!(verify(OURS_ATTENUATED, "GET"), Ok(ours));
}
