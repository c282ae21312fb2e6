//! Inputs, policies and manifests: one text for each, and a place for whatever is wrong.

use proptest::prelude::*;
use svc_rewarder::{
    Address, Draft, DraftError, Header, Manifest, Policy, Problem, Reader, SealError, Sealed,
    ACTORS_MAX, BYTES_MAX, MANIFEST_BYTES_MAX,
};

use crate::support::*;

const INPUTS: &str = r#"{"epoch_id":"e","format":"rewarder-inputs/1","pool":"9","tenant":"t","work":[{"actor":"a","events":[{"id":"1","kind":"relay","qty":"5"},{"id":"2","kind":"relay","qty":"0"}]},{"actor":"b","events":[{"id":"1","kind":"seed","qty":"18446744073709551615"}]}]}"#;

fn refusal(text: &str) -> String {
    Draft::read(text.as_bytes()).unwrap_err().to_string()
}

#[test]
fn what_is_wrong_with_inputs_is_told_with_its_place() {
    assert_eq!(
        Draft::read(INPUTS.as_bytes()).unwrap().seal(),
        INPUTS.as_bytes()
    );
    let byte = |needle: &str| INPUTS.find(needle).unwrap();
    let fields = "fields are sorted, each stands once, none is unknown";
    // What is replaced by what, and the refusal.
    let cases = [
        ("{\"epoch_id", "{ \"epoch_id", "epoch_id, byte 1: whitespace where epoch_id is expected; canonical JSON has none".to_owned()),
        ("{\"epoch_id", "[\"epoch_id", "epoch_id, byte 0: expected {".into()),
        ("\"epoch_id\"", "\"epoch\"", format!("epoch_id, byte 1: field `epoch` where `epoch_id` is expected; {fields}")),
        ("\"e\"", "\"e/f\"", "epoch_id, byte 12: character 2 of an epoch is not one of A-Z a-z 0-9 . _ : -".into()),
        ("inputs/1", "inputs/2", format!("format, byte {}: expected \"rewarder-inputs/1\"", byte("\"rewarder"))),
        (",\"pool\":\"9\"", "", format!("pool, byte {}: field `tenant` where `pool` is expected; {fields}", byte("\"pool"))),
        ("\"9\"", "9", format!("pool, byte {}: expected a string of decimal digits", byte("\"9\""))),
        ("\"9\"", "\"-9\"", format!("pool, byte {}: expected an integer in decimal digits, without sign, leading zeros, fraction or exponent", byte("9\","))),
        ("\"9\"", "\"09\"", format!("pool, byte {}: expected an integer in decimal digits, without sign, leading zeros, fraction or exponent", byte("9\","))),
        ("\"9\"", "\"9.0\"", format!("pool, byte {}: expected an integer in decimal digits, without sign, leading zeros, fraction or exponent", byte("9\",") + 1)),
        ("\"9\"", "\"340282366920938463463374607431768211456\"", format!("pool, byte {}: expected an integer from 0 to {}", byte("9\","), u128::MAX)),
        ("\"t\"", "\"\"", format!("tenant, byte {}: a name has 1 to 64 characters", byte("\"t\""))),
        ("\"t\",", "\"t\",\"vip\":1,", format!("work, byte {}: field `vip` where `work` is expected; {fields}", byte("\"work"))),
        ("\"actor\":\"a\"", "\"actor\":\"a\\u0041\"", format!("work[0].actor, byte {}: character 2 of a name is not one of A-Z a-z 0-9 . _ : / @ -", byte("\"a\""))),
        ("\"actor\":\"b\"", "\"actor\":\"a\"", format!("work[1].actor, byte {}: `a` after `a`; actors ascend by their bytes, each stands once", byte("\"b\""))),
        ("\"actor\":\"b\"", "\"actor\":\"B\"", format!("work[1].actor, byte {}: `B` after `a`; actors ascend by their bytes, each stands once", byte("\"b\""))),
        ("\"id\":\"2\"", "\"id\":\"1\"", format!("work[0].events[1].id, byte {}: `1` after `1`; events of an actor ascend by their bytes, each stands once", byte("\"2\""))),
        ("\"id\":\"2\"", "\"id\":\"10\"", String::new()),
        ("\"qty\":\"5\"", "\"qty\":\"18446744073709551616\"", format!("work[0].events[0].qty, byte {}: expected an integer from 0 to {}", byte("5\"}"), u64::MAX)),
        ("\"qty\":\"5\"", "\"qty\":\"5e1\"", format!("work[0].events[0].qty, byte {}: expected an integer in decimal digits, without sign, leading zeros, fraction or exponent", byte("5\"}") + 1)),
        ("\"qty\":\"5\"", "\"qty\":5", format!("work[0].events[0].qty, byte {}: expected a string of decimal digits", byte("\"5\""))),
        ("\"qty\":\"5\"", "\"qty\":\"5\",\"x\":\"secret\"", format!("work[0].events[0].qty, byte {}: expected }}", byte("},{\"id"))),
        ("\"kind\":\"seed\"", "\"kind\":\"se ed\"", format!("work[1].events[0].kind, byte {}: character 3 of a name is not one of A-Z a-z 0-9 . _ : / @ -", byte("\"seed"))),
        ("},{\"id", "}, {\"id", format!("work[0].events[1].id, byte {}: expected ,{{", byte("},{\"id") + 1)),
        ("\"}]}]}", "\"}]}]", format!("work[2], byte {}: expected ]}}", INPUTS.len() - 2)),
        ("\"}]}]}", "\"}]}]}\n", format!("inputs, byte {}: whitespace where the end of the text is expected; canonical JSON has none", INPUTS.len())),
        ("[{\"id\":\"1\",\"kind\":\"seed\",\"qty\":\"18446744073709551615\"}]", "[]", format!("work[1].events[0].id, byte {}: expected {{", byte("{\"id\":\"1\",\"kind\":\"seed"))),
    ];
    for (old, new, expected) in cases {
        let text = INPUTS.replacen(old, new, 1);
        assert_ne!(text, INPUTS, "{old}");
        if expected.is_empty() {
            // `10` comes after `1`: the order is that of bytes, not of numbers.
            assert!(Draft::read(text.as_bytes()).is_ok());
            continue;
        }
        let expected = match expected.strip_prefix("inputs, ") {
            Some(_) => expected,
            None => format!("inputs, {expected}"),
        };
        assert_eq!(refusal(&text), expected, "{old} -> {new}");
    }
}

#[test]
fn a_text_that_ends_early_is_refused_at_its_end() {
    for end in 0..INPUTS.len() {
        let defect = Draft::read(&INPUTS.as_bytes()[..end]).unwrap_err();
        assert!(defect.byte() <= end, "{defect}");
    }
    assert_eq!(
        refusal(""),
        "inputs, epoch_id, byte 0: the text ends where { is expected"
    );
}

#[test]
fn a_refusal_shows_nothing_of_the_text_but_names() {
    let secret = "hunter2 hunter2";
    for place in [
        "\"e\"",
        "\"rewarder-inputs/1\"",
        "\"9\"",
        "\"t\"",
        "\"a\"",
        "\"1\"",
        "\"relay\"",
        "\"5\"",
        "\"pool\"",
        "\"qty\"",
    ] {
        let refusal = refusal(&INPUTS.replacen(place, &format!("\"{secret}\""), 1));
        assert!(!refusal.contains("hunter2"), "{place}: {refusal}");
    }
}

#[test]
fn an_empty_epoch_is_one() {
    let draft = Draft::new(Header::new(name("t"), epoch("e"), 5));
    let sealed = draft.seal();
    assert_eq!(
        std::str::from_utf8(&sealed).unwrap(),
        r#"{"epoch_id":"e","format":"rewarder-inputs/1","pool":"5","tenant":"t","work":[]}"#
    );
    assert_eq!(Draft::read(&sealed).unwrap(), draft);
}

#[test]
fn an_event_is_added_once() {
    let mut draft = Draft::new(Header::new(name("t"), epoch("e"), 5));
    let add = |draft: &mut Draft, actor, id| draft.add(name(actor), name(id), name("relay"), 1);
    add(&mut draft, "a", "1").unwrap();
    add(&mut draft, "b", "1").unwrap();
    let before = draft.clone();
    let (actor, id) = (name("a"), name("1"));
    assert_eq!(
        add(&mut draft, "a", "1"),
        Err(DraftError::Repeated { actor, id })
    );
    assert_eq!(draft, before);
}

#[test]
fn there_may_be_so_many_actors_and_no_more() {
    let mut draft = Draft::new(Header::new(name("t"), epoch("e"), 5));
    for at in 0..ACTORS_MAX {
        let actor = name(&format!("a{at:05}"));
        draft.add(actor, name("1"), name("relay"), 1).unwrap();
    }
    let more = |draft: &mut Draft, actor: &str| draft.add(name(actor), name("2"), name("relay"), 1);
    let (what, max) = ("actors", ACTORS_MAX);
    assert_eq!(more(&mut draft, "b"), Err(DraftError::Many { what, max }));
    more(&mut draft, "a00000").unwrap();
    let mut sealed = draft.seal();
    assert_eq!(Draft::read(&sealed).unwrap(), draft);
    sealed.truncate(sealed.len() - 2);
    sealed.extend_from_slice(br#",{"actor":"b","events":[{"id":"1","kind":"relay","qty":"1"}]}]}"#);
    let defect = Draft::read(&sealed).unwrap_err();
    assert_eq!(*defect.problem(), Problem::Many { what, max });
    assert_eq!(defect.path(), format!("work[{ACTORS_MAX}]"));
}

#[test]
fn bytes_are_sealed_under_their_own_address_only() {
    let (right, other) = (Address::of(INPUTS.as_bytes()), Address::of(b""));
    let open = |cid| Sealed::open(INPUTS.as_bytes(), cid).map(|sealed| *sealed.cid());
    assert_eq!(open(&right), Ok(right));
    let (expected, found) = (other, right);
    assert_eq!(open(&other), Err(SealError::Address { expected, found }));
    let large = vec![b' '; BYTES_MAX + 1];
    let found = large.len();
    assert_eq!(Sealed::of(&large).unwrap_err(), SealError::Length { found });
    assert!(Sealed::of(&large[1..]).is_ok());
}

#[test]
fn a_reader_stops_for_good_where_it_refuses() {
    let text = INPUTS.replacen("\"qty\":\"5\"", "\"qty\":5", 1);
    let mut reader = Reader::new(text.as_bytes()).unwrap();
    reader.piece().unwrap().unwrap();
    reader.piece().unwrap_err();
    assert_eq!(reader.piece().unwrap(), None);
}

#[test]
fn what_is_wrong_with_a_manifest_is_told_with_its_place() {
    let run = run(&Work::relays(1000, &[("a", 122), ("b", 220)]), &PRO_RATA).unwrap();
    let text = String::from_utf8(run.bytes).unwrap();
    let cases = [
        ("\"paid\":2", "\"paid\":65537", "counts", "expected an integer from 0 to 65536"),
        ("\"paid\":2", "\"paid\":2.0", "counts", "expected an integer in decimal digits, without sign, leading zeros, fraction or exponent"),
        ("\"paid\":2", "\"paid\":-2", "counts", "expected an integer in decimal digits, without sign, leading zeros, fraction or exponent"),
        ("[\"b\",", "[\"a\",", "payouts", "`a` after `a`; actors ascend by their bytes, each stands once"),
        ("\"356\"", "\"0\"", "payouts", "expected an integer from 1 to 340282366920938463463374607431768211455"),
        ("\"run_key\":\"", "\"run_key\":\"A", "run_key", "expected 64 of 0-9 and a-f"),
        ("\"inputs_cid\":\"b3:", "\"inputs_cid\":\"b2:", "inputs_cid", "an address begins with \"b3:\""),
        ("\"inputs_cid\":\"b3:", "\"inputs_cid\":\"b3:00", "inputs_cid", "an address has 64 digits after \"b3:\", this one has 66"),
        ("\"residual\":\"1\"", "\"residual\":\"1\",\"x\":\"\"", "totals", "expected }"),
    ];
    for (old, new, path, problem) in cases {
        let broken = text.replacen(old, new, 1);
        assert_ne!(broken, text, "{old}");
        let defect = Manifest::read(broken.as_bytes()).unwrap_err();
        assert_eq!(
            (defect.path(), defect.problem().to_string().as_str()),
            (path, problem)
        );
    }
    let long = vec![b' '; MANIFEST_BYTES_MAX + 1];
    let refusal = Manifest::read(&long).unwrap_err().to_string();
    assert_eq!(refusal, "manifest, byte 0: more than 8388608 bytes");
}

#[test]
fn two_manifests_are_compared_down_to_the_payout() {
    let one = run(&Work::relays(1000, &[("a", 122), ("b", 220)]), &PRO_RATA)
        .unwrap()
        .manifest;
    assert_eq!(one.difference(&one), None);
    let other = |change: fn(&mut Manifest)| {
        let mut other = one.clone();
        change(&mut other);
        let found = one.difference(&other).unwrap();
        (found.path, found.left, found.right)
    };
    let found = |path: &str, left: &str, right: &str| (path.into(), left.into(), right.into());
    assert_eq!(
        other(|m| m.payouts[1].1 = 644),
        found("payouts.b", "643", "644")
    );
    assert_eq!(
        other(|m| m.payouts.truncate(1)),
        found("payouts.b", "643", "nothing")
    );
    assert_eq!(
        other(|m| m.payouts.push((name("c"), 1))),
        found("payouts.c", "nothing", "1")
    );
    assert_eq!(
        other(|m| m.totals.residual = 2),
        found("totals.residual", "1", "2")
    );
    assert_eq!(
        other(|m| m.policy.version = 4),
        found("policy.version", "3", "4")
    );
    assert_eq!(
        other(|m| m.counts.capped = 1),
        found("counts.capped", "0", "1")
    );
}

/// A text with a byte changed, added or taken away.
fn damage(text: &[u8], at: usize, byte: u8, how: u8) -> Vec<u8> {
    let mut text = text.to_vec();
    match how {
        0 => text[at] = byte,
        1 => text.insert(at, byte),
        _ => drop(text.remove(at)),
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_is_sealed_is_read_again(work in work(), terms in terms()) {
        let draft = work.draft();
        prop_assert_eq!(Draft::read(&draft.seal()), Ok(draft));
        let text = terms.text();
        let policy = Policy::read(text.as_bytes()).unwrap();
        prop_assert_eq!(policy.hash(), &Address::of(text.as_bytes()));
        prop_assert_eq!((policy.min_payout(), policy.actor_cap(), policy.epoch_cap()), (terms.min_payout, terms.actor_cap, terms.epoch_cap));
        for (kind, price) in KINDS.iter().zip(terms.prices) {
            prop_assert_eq!(policy.price(kind), Some(price));
        }
        prop_assert_eq!(policy.prices().count(), 3);
        prop_assert_eq!(policy.price("mining"), None);
        if let Ok(run) = run(&work, &terms) {
            prop_assert_eq!(Manifest::read(&run.bytes), Ok(run.manifest));
        }
    }

    /// Whatever is read is the only text of what it says.
    #[test]
    fn another_text_is_refused_or_says_something_else(
        work in work(),
        at in any::<prop::sample::Index>(),
        byte in prop_oneof![any::<u8>(), prop::sample::select(b" \n\"0123456789,:{}[]ab-".to_vec())],
        how in 0_u8..3,
    ) {
        let draft = work.draft();
        let sealed = draft.seal();
        let other = damage(&sealed, at.index(sealed.len()), byte, how);
        if let Ok(read) = Draft::read(&other) {
            prop_assert_eq!(read == draft, other == sealed);
            prop_assert_eq!(read.seal(), other);
        }
        if let Ok(run) = run(&work, &PRO_RATA) {
            let other = damage(&run.bytes, at.index(run.bytes.len()), byte, how);
            if let Ok(read) = Manifest::read(&other) {
                prop_assert_eq!(read.to_bytes(), other);
            }
        }
    }
}
