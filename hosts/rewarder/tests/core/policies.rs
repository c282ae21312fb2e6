//! What a policy says, and whose word it is.

use proptest::prelude::*;
use svc_rewarder::{
    tidy, Address, Mode, Policy, PublicKey, PublicKeyError, SignatureError, SignedPolicy,
    SigningKey, TidyError, TrustedKeys, KINDS_MAX, POLICY_BYTES_MAX,
};

use crate::support::*;

fn key(number: u8) -> SigningKey {
    SigningKey::from_seed(&[number; 32])
}

fn trusted(keys: &[&SigningKey]) -> TrustedKeys {
    keys.iter().map(|key| key.public()).collect()
}

fn signed(key: &SigningKey) -> String {
    let signed = key.sign(PRO_RATA.text().as_bytes()).unwrap();
    String::from_utf8(signed).unwrap()
}

fn verify(text: &str, keys: &TrustedKeys) -> Result<Policy, SignatureError> {
    SignedPolicy::read(text.as_bytes()).unwrap().verify(keys)
}

#[test]
fn a_policy_counts_when_a_trusted_key_signed_exactly_it() {
    let (ours, old, stranger) = (key(1), key(2), key(3));
    let keys = trusted(&[&old, &ours]);
    let text = signed(&ours);
    let policy = verify(&text, &keys).unwrap();
    assert_eq!(policy, PRO_RATA.policy());
    assert_eq!(policy.mode(), Mode::ProRata);

    let unknown = SignatureError::UnknownKey {
        key: stranger.public(),
    };
    assert_eq!(verify(&signed(&stranger), &keys), Err(unknown));
    let nobody = SignatureError::UnknownKey { key: ours.public() };
    assert_eq!(verify(&text, &TrustedKeys::default()), Err(nobody));

    // Other words under the same signature, and another's signature under our name.
    let forged = SignatureError::Forged { key: ours.public() };
    let raised = text.replacen("\"relay\":1000000", "\"relay\":2000000", 1);
    assert_eq!(verify(&raised, &keys), Err(forged.clone()));
    let hex = |key: &SigningKey| key.public().to_string().split_off("ed25519:".len());
    let borrowed = signed(&stranger).replacen(&hex(&stranger), &hex(&ours), 1);
    assert_eq!(verify(&borrowed, &keys), Err(forged.clone()));
    let sig = text.find("\"sig\":\"").unwrap() + 7;
    let mut flipped = text.clone().into_bytes();
    flipped[sig] ^= 1;
    assert_eq!(
        verify(std::str::from_utf8(&flipped).unwrap(), &keys),
        Err(forged)
    );
}

#[test]
fn a_key_of_small_order_or_none_at_all_is_refused() {
    let ours = key(1);
    let hex = ours.public().to_string().split_off("ed25519:".len());
    // The neutral element: it verifies one signature for every text under lax rules.
    let small = format!("01{}", "0".repeat(62));
    // There is no point of this height on the curve.
    let none = format!("02{}", "0".repeat(62));
    for digits in [&small, &none] {
        let text = signed(&ours).replacen(&hex, digits, 1);
        let refusal = verify(&text, &trusted(&[&ours])).unwrap_err();
        assert_eq!(refusal, SignatureError::Key(PublicKeyError::Weak));
        let parsed: Result<PublicKey, _> = format!("ed25519:{digits}").parse();
        assert_eq!(parsed, Err(PublicKeyError::Weak));
    }
    for text in [
        "",
        &hex,
        "ed25519:",
        &format!("ed25519:{hex}0"),
        &format!("ED25519:{hex}"),
        &format!("ed25519:{}", hex.to_uppercase()),
    ] {
        assert_eq!(
            text.parse::<PublicKey>(),
            Err(PublicKeyError::Form),
            "{text}"
        );
    }
    let again: PublicKey = ours.public().to_string().parse().unwrap();
    assert_eq!(again, ours.public());
    assert!(!format!("{ours:?}").contains(&"01".repeat(32)));
}

#[test]
fn another_policy_than_the_caller_counts_on_is_stale() {
    let policy = PRO_RATA.policy();
    assert_eq!(policy.is(&Address::of(PRO_RATA.text().as_bytes())), Ok(()));
    let old = Address::of(b"");
    let stale = policy.is(&old).unwrap_err();
    assert_eq!((stale.expected, stale.found), (old, *policy.hash()));
    let expected = format!("policy relays is {} now, not {old}", policy.hash());
    assert_eq!(stale.to_string(), expected);
}

#[test]
fn what_is_wrong_with_a_policy_is_told_with_its_place() {
    let integer =
        "expected an integer in decimal digits, without sign, leading zeros, fraction or exponent";
    let cases = [
        (&PRO_RATA, "\"actor_cap\":null", "\"actor_cap\":\"0\"", "actor_cap", "expected an integer from 1 to 340282366920938463463374607431768211455"),
        (&PRO_RATA, "\"actor_cap\":null", "\"actor_cap\":7", "actor_cap", "expected null or a string of decimal digits"),
        (&PRO_RATA, "policy/1", "policy/0", "format", "expected \"rewarder-policy/1\""),
        (&PRO_RATA, "\"mode\":\"pro_rata\"", "\"mode\":\"bankers\"", "mode", "expected \"pro_rata\" or \"tariff\""),
        (&PRO_RATA, "\"rounding\":\"floor\"", "\"rounding\":\"half_even\"", "rounding", "expected \"floor\""),
        (&PRO_RATA, "\"version\":3", "\"version\":0", "version", "expected an integer from 1 to 4294967295"),
        (&PRO_RATA, "\"relay\":1000000", "\"relay\":0.3", "weights_ppm.relay", integer),
        (&PRO_RATA, "\"relay\":1000000", "\"relay\":4294967296", "weights_ppm.relay", "expected an integer from 0 to 4294967295"),
        (&PRO_RATA, "\"relay\":1000000", "\"relay\":\"1\"", "weights_ppm.relay", integer),
        (&PRO_RATA, "\"seed\":", "\"relay\":", "weights_ppm", "`relay` after `relay`; kinds of work ascend by their bytes, each stands once"),
        (&PRO_RATA, "\"min_payout\":\"0\"", "\"min_payout\":\"0\",\"minimum\":\"0\"", "mode", "field `minimum` where `mode` is expected; fields are sorted, each stands once, none is unknown"),
        (&PRO_RATA, "\"mode\":\"pro_rata\"", "\"mode\":\"tariff\"", "rates", "field `rounding` where `rates` is expected; fields are sorted, each stands once, none is unknown"),
        (&TARIFF, "\"seed\":\"5\"", "\"seed\":\"18446744073709551616\"", "rates.seed", "expected an integer from 0 to 18446744073709551615"),
        (&TARIFF, "\"seed\":\"5\"", "\"seed\":5", "rates.seed", "expected a string of decimal digits"),
        (&TARIFF, "\"mode\":\"tariff\"", "\"mode\":\"pro_rata\"", "rounding", "field `rates` where `rounding` is expected; fields are sorted, each stands once, none is unknown"),
        (&TARIFF, "\"version\":3}", "\"version\":3} ", "", "whitespace where the end of the text is expected; canonical JSON has none"),
    ];
    for (terms, old, new, path, problem) in cases {
        let text = terms.text().replacen(old, new, 1);
        assert_ne!(text, terms.text(), "{old}");
        let defect = Policy::read(text.as_bytes()).unwrap_err();
        assert_eq!(
            (defect.path(), defect.problem().to_string().as_str()),
            (path, problem),
            "{new}"
        );
    }
    let terms = Terms {
        min_payout: 8,
        actor_cap: Some(7),
        ..PRO_RATA
    };
    let refusal = Policy::read(terms.text().as_bytes())
        .unwrap_err()
        .to_string();
    assert!(
        refusal.ends_with("min_payout is at most actor_cap, or nobody is ever paid"),
        "{refusal}"
    );
    let kinds = |count: usize| {
        let kinds: Vec<String> = (0..count).map(|at| format!("\"k{at:02}\":1")).collect();
        let all = "\"relay\":1000000,\"seed\":250000,\"store\":0";
        PRO_RATA.text().replacen(all, &kinds.join(","), 1)
    };
    assert!(Policy::read(kinds(KINDS_MAX).as_bytes()).is_ok());
    let refusal = Policy::read(kinds(KINDS_MAX + 1).as_bytes()).unwrap_err();
    assert_eq!(refusal.problem().to_string(), "more than 64 kinds of work");
    assert!(Policy::read(kinds(0).as_bytes()).is_err());
    let long = vec![b' '; POLICY_BYTES_MAX + 1];
    for refusal in [
        Policy::read(&long).unwrap_err(),
        SignedPolicy::read(&long).unwrap_err(),
    ] {
        assert_eq!(refusal.problem().to_string(), "more than 16384 bytes");
    }
}

#[test]
fn what_is_wrong_around_a_policy_is_told_with_its_place() {
    let text = signed(&key(1));
    let cases = [
        ("{\"policy\"", "{\"polity\"", "policy", "field `polity` where `policy` is expected; fields are sorted, each stands once, none is unknown"),
        ("\"version\":3", "\"version\":-3", "policy.version", "expected an integer in decimal digits, without sign, leading zeros, fraction or exponent"),
        ("\"key\":\"", "\"key\":\"0", "signature.key", "expected 64 of 0-9 and a-f"),
        ("\"sig\":\"", "\"sig\":\"G", "signature.sig", "expected 128 of 0-9 and a-f"),
        ("\"}}", "\"}}}", "", "expected the end of the text"),
    ];
    for (old, new, path, problem) in cases {
        let broken = text.replacen(old, new, 1);
        let defect = SignedPolicy::read(broken.as_bytes()).unwrap_err();
        assert_eq!(
            (defect.path(), defect.problem().to_string().as_str()),
            (path, problem),
            "{new}"
        );
    }
    for end in 0..text.len() {
        assert!(
            SignedPolicy::read(&text.as_bytes()[..end]).is_err(),
            "{end}"
        );
    }
}

#[test]
fn a_policy_as_people_write_it_has_one_tidy_form() {
    let written = r#"
        { "version": 3, "id": "relays", "format": "rewarder-policy/1", "mode": "pro_rata",
          "weights_ppm": { "store": 0, "relay": 1000000, "seed": 250000 },
          "rounding": "floor", "min_payout": "0", "actor_cap": null, "epoch_cap": null,
          "funding_account": "treasury" }
    "#;
    assert_eq!(
        tidy(written.as_bytes()).unwrap(),
        PRO_RATA.text().as_bytes()
    );
    let refusal = |old: &str, new: &str| {
        let text = written.replacen(old, new, 1);
        assert_ne!(text, written);
        tidy(text.as_bytes()).unwrap_err().to_string()
    };
    let other = "not JSON of objects, strings, integers and null";
    for (new, expected) in [
        ("0, \"relay\": 5", "a field stands twice"),
        ("0.25", "numbers are integers, from 0 on"),
        ("-1", "numbers are integers, from 0 on"),
        ("[\"hunter2\"]", other),
        ("true", other),
        ("18446744073709551616", "numbers are integers, from 0 on"),
    ] {
        let refusal = refusal("250000", new);
        let (place, what) = refusal.split_once(": ").unwrap();
        assert_eq!(what, expected, "{new}");
        let column = place.strip_prefix("line 3, column ").unwrap();
        // Where the value stands, or right behind it.
        assert!(
            (60..90).contains(&column.parse::<u32>().unwrap()),
            "{refusal}"
        );
    }
    assert!(refusal("\"floor\",", "\"floor\"").ends_with(other));
    assert!(refusal("\"treasury\" }", "\"treasury\"").ends_with("the text ends in the middle"));
    let refusal = tidy(written.replacen("\"floor\"", "\"up\"", 1).as_bytes()).unwrap_err();
    assert!(
        matches!(&refusal, TidyError::Policy(defect) if defect.path() == "rounding"),
        "{refusal}"
    );
    assert!(matches!(
        tidy(&vec![b' '; POLICY_BYTES_MAX + 1]),
        Err(TidyError::Length)
    ));
}

proptest! {
    #[test]
    fn a_damaged_policy_is_refused_or_not_what_was_signed(
        at in any::<prop::sample::Index>(),
        byte in prop_oneof![any::<u8>(), prop::sample::select(b"0123456789abcdef\"".to_vec())],
    ) {
        let ours = key(1);
        let text = signed(&ours);
        let mut other = text.clone().into_bytes();
        other[at.index(text.len())] = byte;
        if let Ok(policy) = SignedPolicy::read(&other) {
            prop_assert_eq!(policy.verify(&trusted(&[&ours])).is_ok(), other == text.as_bytes());
        }
    }

    #[test]
    fn nothing_that_is_tidied_up_panics_and_what_is_tidy_stays_so(terms in terms(), junk in any::<Vec<u8>>()) {
        prop_assert_eq!(tidy(terms.text().as_bytes()).unwrap(), terms.text().into_bytes());
        prop_assert!(tidy(&junk).is_err());
    }
}
