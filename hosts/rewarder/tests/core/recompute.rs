//! The same payouts by a program in another language.

use std::fs;
use std::path::Path;
use std::process::Command;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use svc_rewarder::generate::{inputs, Size};
use svc_rewarder::golden::VECTORS;
use svc_rewarder::{compute, RunError, Sealed, Unwatched};

use crate::support::*;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/recompute.py");

/// What the script says of the cases in `dir`, or that there is nothing to run it with.
fn recompute(dir: &Path) -> Option<Result<String, String>> {
    let output = match Command::new("python3").arg(SCRIPT).arg(dir).output() {
        Ok(output) => output,
        Err(error) => {
            eprintln!("python3 cannot be run ({error}): nothing was computed again");
            return None;
        }
    };
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Some(match output.status.success() {
        true => Ok(text(output.stdout)),
        false => Err(text(output.stderr)),
    })
}

fn put(dir: &Path, case: &str, sort: &str, bytes: &[u8]) {
    fs::write(dir.join(format!("{case}.{sort}.json")), bytes).unwrap();
}

#[test]
fn another_language_agrees_on_every_payout_of_every_size() {
    let dir = tempfile::tempdir().unwrap();
    let mut payouts = 0;
    for vector in &VECTORS {
        let case = format!("{}-{}", vector.size.name(), vector.policy);
        let (tenant, epoch_id) = vector.run_of().unwrap();
        let (inputs, policy) = (vector.inputs().unwrap(), vector.policy().unwrap());
        let sealed = Sealed::of(&inputs).unwrap();
        let run = compute(&tenant, &epoch_id, &sealed, &policy, &mut Unwatched).unwrap();
        payouts += run.manifest.payouts.len();
        put(dir.path(), &case, "inputs", &inputs);
        let text: &[u8] = match vector.policy {
            "tariff" => include_bytes!("../../samples/tariff.policy.json"),
            _ => include_bytes!("../../samples/pro-rata.policy.json"),
        };
        put(dir.path(), &case, "policy", text);
        put(dir.path(), &case, "manifest", &run.bytes);
    }
    if let Some(said) = recompute(dir.path()) {
        assert_eq!(
            said.unwrap(),
            format!("6 cases, {payouts} payouts, 0 conflicts\n")
        );
    }
}

#[test]
fn another_language_agrees_on_small_cases_of_every_kind() {
    let dir = tempfile::tempdir().unwrap();
    let mut runner = TestRunner::deterministic();
    let (mut payouts, mut conflicts) = (0, 0);
    for case in 0..1000 {
        let tree = (work(), terms()).new_tree(&mut runner).unwrap();
        let (work, terms) = tree.current();
        let case = format!("{case:04}");
        put(dir.path(), &case, "inputs", &work.sealed());
        put(dir.path(), &case, "policy", terms.text().as_bytes());
        match run(&work, &terms) {
            Ok(run) => {
                payouts += run.manifest.payouts.len();
                put(dir.path(), &case, "manifest", &run.bytes);
            }
            Err(RunError::Overspend { .. }) => conflicts += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(payouts > 500 && conflicts > 100, "{payouts} {conflicts}");
    if let Some(said) = recompute(dir.path()) {
        let expected = format!("1000 cases, {payouts} payouts, {conflicts} conflicts\n");
        assert_eq!(said.unwrap(), expected);
    }
}

#[test]
fn the_other_program_finds_a_payout_that_is_one_unit_off() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = inputs(Size::S, 5, &name("acme"), &epoch("2026-11-21"));
    let run = run_of(&bytes, &VECTORS[0].policy().unwrap()).unwrap();
    let mut manifest = run.manifest;
    manifest.payouts[500].1 -= 1;
    put(dir.path(), "s", "inputs", &bytes);
    put(
        dir.path(),
        "s",
        "policy",
        include_bytes!("../../samples/pro-rata.policy.json"),
    );
    put(dir.path(), "s", "manifest", &manifest.to_bytes());
    if let Some(said) = recompute(dir.path()) {
        assert!(said.unwrap_err().starts_with("s: payouts is "));
    }
}
