//! Inputs and policies of the rewarder: any bytes. The modules are the host's own, taken by path: hosts are nobody's
//! dependency, and these are pure.

#[allow(dead_code)] // Nothing is computed here, only read and written; this holds for each of them.
#[path = "../../hosts/rewarder/src/address.rs"]
mod address;
#[allow(dead_code)]
#[path = "../../hosts/rewarder/src/draft.rs"]
mod draft;
#[allow(dead_code)]
#[path = "../../hosts/rewarder/src/inputs.rs"]
mod inputs;
#[allow(dead_code)]
#[path = "../../hosts/rewarder/src/json.rs"]
mod json;
#[allow(dead_code)]
#[path = "../../hosts/rewarder/src/name.rs"]
mod name;
#[allow(dead_code)]
#[path = "../../hosts/rewarder/src/policy.rs"]
mod policy;
#[allow(dead_code)]
#[path = "../../hosts/rewarder/src/signature.rs"]
mod signature;
#[allow(dead_code)]
#[path = "../../hosts/rewarder/src/tidy.rs"]
mod tidy;

use address::Address;
use draft::Draft;
use inputs::{Piece, Reader};
use json::Defect;
use policy::Policy;
use signature::{SignedPolicy, SigningKey, TrustedKeys};

/// Takes a document: inputs, a policy, a signed policy, or none of these.
pub fn rewarder_documents(bytes: &[u8]) {
    inputs(bytes);
    policy(bytes);
    signed(bytes);
    if let Ok(tidy) = tidy::tidy(bytes) {
        assert!(Policy::read(&tidy).is_ok());
        assert_eq!(tidy::tidy(&tidy).ok(), Some(tidy));
    }
}

/// A refusal is one line about a place in the text.
fn judge(defect: &Defect, bytes: &[u8]) {
    assert!(defect.byte() <= bytes.len(), "{defect}");
    assert!(!defect.to_string().contains('\n'), "{defect:?}");
    assert!(defect.to_string().is_ascii(), "{defect:?}");
}

/// What is read is the only text of what it says, sorted and each once.
fn inputs(bytes: &[u8]) {
    let draft = match Draft::read(bytes) {
        Ok(draft) => draft,
        Err(defect) => return judge(&defect, bytes),
    };
    assert_eq!(draft.seal(), bytes);
    let mut reader = Reader::new(bytes).expect("it was read before");
    let (mut actor, mut event) = ("", "");
    while let Some(piece) = reader.piece().expect("it was read before") {
        match piece {
            Piece::Actor(next) => {
                assert!(next > actor);
                (actor, event) = (next, "");
            }
            Piece::Event { id, .. } => {
                assert!(id > event && !actor.is_empty());
                event = id;
            }
        }
    }
}

fn policy(bytes: &[u8]) {
    match Policy::read(bytes) {
        Ok(policy) => {
            assert_eq!(*policy.hash(), Address::of(bytes));
            assert!(policy.actor_cap().is_none_or(|cap| cap >= policy.min_payout().max(1)));
            for (kind, price) in policy.prices() {
                assert_eq!(policy.price(kind.as_str()), Some(price));
            }
            assert_eq!(tidy::tidy(bytes).expect("it is tidy"), bytes);
            let key = SigningKey::from_seed(&[7; 32]);
            let signed = key.sign(bytes).expect("it is a policy");
            let signed = SignedPolicy::read(&signed).expect("it is a signed policy");
            let trusted: TrustedKeys = [key.public()].into_iter().collect();
            assert_eq!(signed.verify(&trusted), Ok(policy));
        }
        Err(defect) => judge(&defect, bytes),
    }
}

/// Nobody can sign without the key, which the fuzzer has not.
fn signed(bytes: &[u8]) {
    let trusted: TrustedKeys = [SigningKey::from_seed(&[8; 32]).public()].into_iter().collect();
    match SignedPolicy::read(bytes) {
        Ok(signed) => assert!(signed.verify(&trusted).is_err()),
        Err(defect) => judge(&defect, bytes),
    }
}
