//! The program as people call it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

const SAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/samples");

/// Standard output, or exit code and standard error.
fn call(line: &str) -> Result<String, (i32, String)> {
    let words = line.split_whitespace();
    let program = env!("CARGO_BIN_EXE_svc-rewarder");
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(program).args(words).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    match status.code().unwrap() {
        0 => Ok(text(stdout)),
        code => Err((code, text(stdout) + &text(stderr))),
    }
}

fn refused(line: &str) -> String {
    let (code, text) = call(line).unwrap_err();
    assert_eq!(code, 1, "{text}");
    text
}

fn key() -> String {
    let key = fs::read_to_string(format!("{SAMPLES}/policy.pub")).unwrap();
    key.trim_end().to_owned()
}

/// The arguments that name the sample's inputs and policy.
fn known() -> String {
    let key = key();
    format!("--inputs {SAMPLES}/known.inputs.json --policy {SAMPLES}/known.policy.json --trusted-key {key}")
}

#[test]
fn help_names_what_there_is_and_wrong_usage_is_exit_2() {
    let help = call("--help").unwrap();
    for word in [
        "vectors",
        "compute",
        "verify",
        "generate",
        "policy",
        "Exit codes: 0 done",
        "CONCURRENCY_COMPUTE_WORKERS",
    ] {
        assert!(help.contains(word), "{help}");
    }
    for word in ["--profile", "--brownout-allow", "--trace-burst"] {
        assert!(!help.contains(word), "{help}");
    }
    for line in [
        "serve",
        "verify",
        "vectors --size xl",
        "generate --size s",
        "verify m --inputs i --policy p --trusted-key x",
    ] {
        let (code, text) = call(line).unwrap_err();
        assert_eq!(code, 2, "{line}: {text}");
    }
    let (_, text) = call("verfy").unwrap_err();
    assert!(text.contains("'verify'"), "{text}");
}

#[test]
fn the_smallest_vectors_are_checked_and_timed() {
    let table = call("vectors --size s").unwrap();
    let lines: Vec<&str> = table.lines().collect();
    assert!(
        lines[0].split_whitespace().eq([
            "vector", "events", "hash", "parse", "score", "pay", "check", "manifest", "all", "(ms)"
        ]),
        "{table}"
    );
    assert!(
        lines[1].starts_with("s pro-rata") && lines[2].starts_with("s tariff"),
        "{table}"
    );
    assert_eq!(
        &lines[3..],
        ["2 vectors, all digests as committed"],
        "{table}"
    );
    assert!(
        lines[1]
            .split_whitespace()
            .skip(2)
            .all(|ms| ms.parse::<f64>().is_ok()),
        "{table}"
    );
}

#[test]
fn a_manifest_is_verified_against_its_inputs_and_policy() {
    let known = known();
    let said = call(&format!("verify {SAMPLES}/known.manifest.json {known}")).unwrap();
    assert!(
        said.starts_with("verified: 2 payouts from 3 events, commitment b3:"),
        "{said}"
    );

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("manifest.json");
    let at = path.display();
    let manifest = fs::read_to_string(format!("{SAMPLES}/known.manifest.json")).unwrap();
    let altered = |old: &str, new: &str| {
        let text = manifest.replacen(old, new, 1);
        assert_ne!(text, manifest, "{old}");
        fs::write(&path, text).unwrap();
        refused(&format!("verify {at} {known}"))
    };
    assert_eq!(
        altered("\"356\"", "\"357\""),
        "different: payouts.alice is 357 in the manifest, and 356 when computed again\n"
    );
    assert_eq!(
        altered("[\"alice\",\"356\"],", ""),
        "different: payouts.alice is nothing in the manifest, and 356 when computed again\n"
    );
    assert_eq!(
        altered("\"residual\":\"1\"", "\"residual\":\"0\""),
        "different: totals.residual is 0 in the manifest, and 1 when computed again\n"
    );
    assert!(altered("\"356\"", "356").contains("manifest.json: manifest, payouts, byte "));
    let other = altered("inputs_cid\":\"b3:f", "inputs_cid\":\"b3:0");
    assert!(
        other.contains("known.inputs.json: the bytes are b3:f3c3"),
        "{other}"
    );
    let stale = altered("hash\":\"b3:1", "hash\":\"b3:0");
    assert!(
        stale.contains("known.policy.json: policy known-answer is b3:1466"),
        "{stale}"
    );
    let epoch = altered("\"epoch_id\":\"demo\"", "\"epoch_id\":\"demo2\"");
    assert!(
        epoch.contains("the inputs are for epoch_id demo, not demo2"),
        "{epoch}"
    );
    let absent = refused(&format!("verify {at}x {known}"));
    assert!(
        absent.starts_with(&format!("svc-rewarder: {at}x: No such file")),
        "{absent}"
    );
}

#[test]
fn whoever_may_sign_decides_and_without_a_name_it_is_said_who_did() {
    let (key, policy) = (key(), format!("{SAMPLES}/known.policy.json"));
    let checked = call(&format!("policy check {policy} --trusted-key {key}")).unwrap();
    assert!(
        checked
            .starts_with("known-answer version 1, pro_rata, paid by treasury\npolicy_hash b3:1466"),
        "{checked}"
    );
    let shown = call(&format!("policy check {policy}")).unwrap();
    assert!(
        shown.starts_with(&format!(
            "policy signed with {key}; nobody was named who may\n"
        )),
        "{shown}"
    );

    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let other = call(&format!("policy key --out {}", at("key"))).unwrap();
    let stranger = refused(&format!("policy check {policy} --trusted-key {other}"));
    assert!(
        stranger.contains("which is not a trusted key"),
        "{stranger}"
    );
    let mode = fs::metadata(at("key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let again = refused(&format!("policy key --out {}", at("key")));
    assert!(again.contains("exists"), "{again}");

    let forged = fs::read_to_string(&policy)
        .unwrap()
        .replacen("1000000", "9000000", 1);
    fs::write(at("forged"), forged).unwrap();
    let forged = refused(&format!(
        "policy check {} --trusted-key {key}",
        at("forged")
    ));
    assert!(
        forged.contains("forged or the policy was changed"),
        "{forged}"
    );
}

#[test]
fn a_policy_is_signed_as_people_write_it_and_pays() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let public = call(&format!("policy key --out {}", at("key"))).unwrap();
    let written = r#"{
        "format": "rewarder-policy/1", "id": "flat", "version": 1, "mode": "tariff",
        "rates": {"store": "1", "seed": "1", "relay": "1", "index": "1", "deliver": "1"},
        "rounding": "floor", "min_payout": "0", "actor_cap": null, "epoch_cap": null,
        "funding_account": "treasury"
    }"#;
    fs::write(at("written"), written).unwrap();
    let sign = format!(
        "policy sign {} --key {} --out {}",
        at("written"),
        at("key"),
        at("policy")
    );
    let signed = call(&sign).unwrap();
    assert!(signed.starts_with("policy_hash b3:"), "{signed}");

    let generate = |seed: u64, out: &str| {
        call(&format!(
            "generate --size s --seed {seed} --tenant acme --epoch e1 --out {}",
            at(out)
        ))
        .unwrap()
    };
    let cid = generate(1, "inputs");
    assert_eq!(cid, generate(1, "again"));
    assert_ne!(cid, generate(2, "other"));
    let from = format!(
        "--inputs {} --policy {} --trusted-key {public}",
        at("inputs"),
        at("policy")
    );
    let said = call(&format!("compute {from} --out {}", at("manifest"))).unwrap();
    let manifest = call(&format!("compute {from}")).unwrap();
    assert_eq!(manifest, fs::read_to_string(at("manifest")).unwrap());
    assert!(manifest.contains(cid.trim_end().strip_prefix("inputs_cid ").unwrap()));
    let verified = call(&format!("verify {} {from}", at("manifest"))).unwrap();
    assert!(
        verified.trim_end().ends_with(said.trim_end()),
        "{verified} {said}"
    );

    let spoilt = written.replacen("\"floor\"", "\"up\"", 1);
    fs::write(at("written"), spoilt).unwrap();
    let refusal = refused(&sign);
    assert!(
        refusal.contains("written: policy, rounding, byte"),
        "{refusal}"
    );
    fs::set_permissions(Path::new(&at("key")), fs::Permissions::from_mode(0o640)).unwrap();
    let refusal = refused(&sign);
    assert!(
        refusal.contains("key: others may read this key"),
        "{refusal}"
    );
}

#[test]
fn inputs_that_do_not_fit_the_policy_are_refused_with_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let key = key();
    let inputs = fs::read_to_string(format!("{SAMPLES}/known.inputs.json")).unwrap();
    fs::write(at("inputs"), inputs.replacen("\"relay\"", "\"mining\"", 1)).unwrap();
    let compute = format!(
        "compute --inputs {} --policy {SAMPLES}/known.policy.json --trusted-key {key}",
        at("inputs")
    );
    let refusal = refused(&compute);
    assert_eq!(
        refusal,
        format!("svc-rewarder: {}: actor alice did work of kind mining, for which the policy has no price\n", at("inputs"))
    );
    let tariff = compute.replacen("known.policy", "tariff.policy", 1);
    fs::write(at("inputs"), &inputs).unwrap();
    let conflict = refused(&tariff);
    assert!(
        conflict.contains("conservation: the tariff owes "),
        "{conflict}"
    );
}
