//! Digests that are the same for ever, in every build and on every thread.

use std::thread;

use svc_rewarder::golden::VECTORS;
use svc_rewarder::{compute, Manifest, Run, Sealed, SignedPolicy, Unwatched};

fn run(vector: &svc_rewarder::golden::Vector) -> Run {
    let (tenant, epoch_id) = vector.run_of().unwrap();
    let (inputs, policy) = (vector.inputs().unwrap(), vector.policy().unwrap());
    let sealed = Sealed::of(&inputs).unwrap();
    compute(&tenant, &epoch_id, &sealed, &policy, &mut Unwatched).unwrap()
}

#[test]
fn every_vector_comes_to_its_committed_digests() {
    for vector in &VECTORS {
        let run = run(vector);
        assert_eq!(vector.differences(&run), [], "{vector:?}");
        let counts = run.manifest.counts;
        assert_eq!(
            (counts.actors, counts.events),
            (vector.size.actors(), vector.size.events())
        );
        assert_eq!(Manifest::read(&run.bytes).unwrap(), run.manifest);
    }
    // Cap and minimum are in play.
    let counts = run(&VECTORS[0]).manifest.counts;
    assert!(counts.capped > 0 && counts.below_min > 0);
}

#[test]
fn a_vector_tells_each_field_that_differs() {
    let mut other = run(&VECTORS[0]);
    other.manifest.totals.residual += 1;
    other.commitment = svc_rewarder::Address::of(b"");
    let differences = VECTORS[0].differences(&other);
    let paths: Vec<&str> = differences
        .iter()
        .map(|found| found.path.as_str())
        .collect();
    assert_eq!(paths, ["totals.residual", "commitment"]);
}

#[test]
fn runs_side_by_side_come_to_the_same_bytes() {
    let alone = [run(&VECTORS[0]), run(&VECTORS[1])];
    for workers in [2, 8] {
        let threads: Vec<_> = (0..workers)
            .map(|at| thread::spawn(move || (at % 2, run(&VECTORS[at % 2]))))
            .collect();
        for thread in threads {
            let (at, run) = thread.join().unwrap();
            assert_eq!(run, alone[at], "{workers} workers");
        }
    }
}

#[test]
fn the_samples_are_what_they_come_to() {
    let key = include_str!("../../samples/policy.pub").trim_end();
    let signed = SignedPolicy::read(include_bytes!("../../samples/known.policy.json")).unwrap();
    let trusted = [key.parse().unwrap()].into_iter().collect();
    let policy = signed.verify(&trusted).unwrap();
    let inputs = include_bytes!("../../samples/known.inputs.json");
    let sealed = Sealed::of(inputs).unwrap();
    let (tenant, epoch_id) = ("demo".parse().unwrap(), "demo".parse().unwrap());
    let run = compute(&tenant, &epoch_id, &sealed, &policy, &mut Unwatched).unwrap();
    assert_eq!(
        run.bytes,
        include_bytes!("../../samples/known.manifest.json")
    );
    let amounts: Vec<u128> = run
        .manifest
        .payouts
        .iter()
        .map(|(_, amount)| *amount)
        .collect();
    assert_eq!(
        (amounts.as_slice(), run.manifest.totals.residual),
        ([356, 643].as_slice(), 1)
    );
}
