//! What is asked of the ledger.

use std::fmt;

use blake3::Hasher;
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::amount::Amount;
use crate::digest::{Address, Digest};
use crate::name::Name;

/// The most credits of an intent.
pub const POSTINGS_MAX: usize = 65_536;
/// The version of the format.
pub const VERSION: u32 = 1;

const CONTEXT: &str = "svc-ledger 2026-11-22 intent v1";

/// One atomic payment: what it takes from `funding` is what it credits to the others. One of nothing to nobody settles its
/// epoch too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Intent {
    v: u32,
    run_key: Digest,
    tenant: Name,
    epoch_id: Name,
    commitment: Address,
    funding_account: Name,
    total: Amount,
    postings: Vec<Posting>,
}

/// A credit: `["account","amount"]` on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Posting(pub Name, pub Amount);

/// Which run an intent is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Names the run; the idempotency key.
    pub run_key: Digest,
    /// Whose run it is.
    pub tenant: Name,
    /// Which of its epochs it settles.
    pub epoch_id: Name,
    /// The hash of the run's manifest.
    pub commitment: Address,
}

/// Why something is no intent: told to whoever sent it, which is why it repeats nothing but names that are valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoIntent {
    /// Not JSON of that shape.
    #[error("{0}")]
    Shape(String),
    /// Another version.
    #[error("v: expected {VERSION}, found {0}")]
    Version(u32),
    /// More than [`POSTINGS_MAX`].
    #[error("postings: expected at most {POSTINGS_MAX}")]
    TooMany,
    /// Not in ascending order of the accounts' bytes, or an account twice.
    #[error("postings[{0}]: expected accounts in ascending order of their bytes, each once")]
    Order(usize),
    /// A credit of nothing.
    #[error("postings[{0}]: expected an amount above 0")]
    Nothing(usize),
    /// The funding account would credit itself.
    #[error("postings[{0}]: the funding account cannot be credited")]
    Itself(usize),
    /// The credits do not add up to `total`.
    #[error("total: expected the sum of all postings")]
    Total,
}

impl Intent {
    /// Checks the laws that one intent can break alone.
    ///
    /// # Errors
    /// Names the first that it breaks.
    pub fn new(
        run: Run,
        funding_account: Name,
        total: Amount,
        postings: Vec<Posting>,
    ) -> Result<Intent, NoIntent> {
        if postings.len() > POSTINGS_MAX {
            return Err(NoIntent::TooMany);
        }
        let mut sum = Some(Amount::ZERO);
        let mut before: Option<&Name> = None;
        for (at, Posting(account, amount)) in postings.iter().enumerate() {
            if before.is_some_and(|before| before >= account) {
                return Err(NoIntent::Order(at));
            }
            if *amount == Amount::ZERO {
                return Err(NoIntent::Nothing(at));
            }
            if *account == funding_account {
                return Err(NoIntent::Itself(at));
            }
            before = Some(account);
            sum = sum.and_then(|sum| sum.checked_add(*amount));
        }
        if sum != Some(total) {
            return Err(NoIntent::Total);
        }
        Ok(Intent {
            v: VERSION,
            run_key: run.run_key,
            tenant: run.tenant,
            epoch_id: run.epoch_id,
            commitment: run.commitment,
            funding_account,
            total,
            postings,
        })
    }

    /// From JSON.
    ///
    /// # Errors
    /// It is not of that shape, has members that are unknown or there twice, or breaks a law.
    pub fn from_json(json: &[u8]) -> Result<Intent, NoIntent> {
        let read: Read = serde_json::from_slice(json).map_err(|error| shape(&error))?;
        if read.v != VERSION {
            return Err(NoIntent::Version(read.v));
        }
        let run = Run {
            run_key: read.run_key,
            tenant: read.tenant,
            epoch_id: read.epoch_id,
            commitment: read.commitment,
        };
        Intent::new(run, read.funding_account, read.total, read.postings.0)
    }

    /// Its idempotency key.
    pub fn run_key(&self) -> &Digest {
        &self.run_key
    }

    /// Whose it is.
    pub fn tenant(&self) -> &Name {
        &self.tenant
    }

    /// Which epoch it settles.
    pub fn epoch_id(&self) -> &Name {
        &self.epoch_id
    }

    /// The hash of the run's manifest.
    pub fn commitment(&self) -> &Address {
        &self.commitment
    }

    /// What is debited.
    pub fn funding_account(&self) -> &Name {
        &self.funding_account
    }

    /// By how much.
    pub fn total(&self) -> Amount {
        self.total
    }

    /// What is credited, by account.
    pub fn postings(&self) -> &[Posting] {
        &self.postings
    }

    /// Of all of it: equal intents only have equal ones. BLAKE3 in its mode for derived keys, over the members in their
    /// order, names with their length before them, numbers with their lowest byte first.
    pub fn digest(&self) -> Digest {
        let mut hasher = Hasher::new_derive_key(CONTEXT);
        hasher.update(self.run_key.as_bytes());
        name(&mut hasher, &self.tenant);
        name(&mut hasher, &self.epoch_id);
        hasher.update(self.commitment.digest().as_bytes());
        name(&mut hasher, &self.funding_account);
        hasher.update(&self.total.units().to_le_bytes());
        hasher.update(&(self.postings.len() as u64).to_le_bytes());
        for Posting(account, amount) in &self.postings {
            name(&mut hasher, account);
            hasher.update(&amount.units().to_le_bytes());
        }
        hasher.finalize().into()
    }

    /// It pays the same for the same epoch: everything but the key is equal.
    pub fn is_same_payment(&self, other: &Intent) -> bool {
        let Intent {
            v,
            run_key: _,
            tenant,
            epoch_id,
            commitment,
            funding_account,
            total,
            postings,
        } = self;
        (*v, tenant, epoch_id, commitment)
            == (other.v, &other.tenant, &other.epoch_id, &other.commitment)
            && (funding_account, total, postings)
                == (&other.funding_account, &other.total, &other.postings)
    }
}

/// What serde says, without what it found: that would be the sender's words.
fn shape(error: &serde_json::Error) -> NoIntent {
    let said = error.to_string();
    let expected = said.rfind(", expected ").map(|at| &said[at + 2..]);
    let (line, column) = (error.line(), error.column());
    let place = format!(" at line {line} column {column}");
    let said = expected.unwrap_or(&said).trim_end_matches(&place);
    NoIntent::Shape(format!("line {line} column {column}: {said}"))
}

/// As a store keeps them: `[["account","amount"],...]`.
pub(crate) fn postings_json(postings: &[Posting]) -> String {
    serde_json::to_string(postings).unwrap_or_default()
}

/// What [`postings_json`] wrote.
pub(crate) fn postings_from_json(json: &str) -> Option<Vec<Posting>> {
    let read: Postings = serde_json::from_str(json).ok()?;
    Some(read.0)
}

fn name(hasher: &mut Hasher, name: &Name) {
    hasher.update(&(name.as_str().len() as u64).to_le_bytes());
    hasher.update(name.as_str().as_bytes());
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    v: u32,
    run_key: Digest,
    tenant: Name,
    epoch_id: Name,
    commitment: Address,
    funding_account: Name,
    total: Amount,
    postings: Postings,
}

/// Read only as far as there may be some.
struct Postings(Vec<Posting>);

impl<'de> Deserialize<'de> for Postings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Postings, D::Error> {
        struct List;

        impl<'de> Visitor<'de> for List {
            type Value = Postings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(r#"[["account","amount"],...]"#)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Postings, A::Error> {
                let mut postings = Vec::new();
                while let Some(posting) = all.next_element()? {
                    if postings.len() == POSTINGS_MAX {
                        return Err(A::Error::custom(NoIntent::TooMany));
                    }
                    postings.push(posting);
                }
                Ok(Postings(postings))
            }
        }

        deserializer.deserialize_seq(List)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "1111111111111111111111111111111111111111111111111111111111111111";

    fn json(members: &str) -> String {
        format!(
            r#"{{"v":1,"run_key":"{KEY}","tenant":"t","epoch_id":"e","commitment":"b3:{KEY}",{members}}}"#
        )
    }

    #[test]
    fn what_is_written_is_read() {
        let text = json(r#""funding_account":"pool","total":"6","postings":[["a","1"],["b","5"]]"#);
        let intent = Intent::from_json(text.as_bytes()).unwrap();
        assert_eq!(serde_json::to_string(&intent).unwrap(), text);
    }

    #[test]
    fn what_is_no_intent_is_told_without_the_senders_words() {
        let of = |total: &str, postings: &str| {
            json(&format!(
                r#""funding_account":"pool","total":"{total}","postings":[{postings}]"#
            ))
        };
        let max = u128::MAX;
        let cases = [
            (
                of("1", r#"["a","1"]"#).replace(":1,", ":2,"),
                "v: expected 1, found 2",
            ),
            (of("1", ""), "total: expected the sum"),
            (
                of("2", r#"["b","1"],["a","1"]"#),
                "postings[1]: expected accounts in",
            ),
            (
                of("2", r#"["a","1"],["a","1"]"#),
                "postings[1]: expected accounts in",
            ),
            (
                of("1", r#"["a","1"],["b","0"]"#),
                "postings[1]: expected an amount",
            ),
            (
                of("1", r#"["pool","1"]"#),
                "postings[0]: the funding account",
            ),
            (of("3", r#"["a","1"],["b","1"]"#), "total: expected the sum"),
            (
                of("0", &format!(r#"["a","{max}"],["b","1"]"#)),
                "total: expected the sum",
            ),
            (of("01", r#"["a","1"]"#), "expected a decimal number"),
            (of("1", r#"["a",1]"#), "expected a string"),
            (of("1", r#"["evil <b>","1"]"#), "expected a name"),
            (of("1", r#"["a","1","evil"]"#), "trailing characters"),
            (
                of("1", r#"["a","1"]"#).replace(KEY, "evil"),
                "expected 64 lower-case",
            ),
            (json(r#""evil":1"#), "expected one of `v`, `run_key`"),
            (
                json(r#""total":"1","total":"1""#),
                "duplicate field `total`",
            ),
            (json(r#""total":"1""#), "missing field `funding_account`"),
            ("evil".to_owned(), "line 1 column 1: expected value"),
        ];
        for (text, told) in cases {
            let error = Intent::from_json(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(told), "{text}\n{error}");
            assert!(!error.contains("evil"), "{error}");
        }
    }

    #[test]
    fn there_are_so_many_postings_and_no_more() {
        let postings =
            |n: usize| -> Vec<String> { (0..n).map(|at| format!(r#"["a{at:06}","1"]"#)).collect() };
        let of = |n: usize| {
            let postings = postings(n).join(",");
            json(&format!(
                r#""funding_account":"pool","total":"{n}","postings":[{postings}]"#
            ))
        };
        assert!(Intent::from_json(of(POSTINGS_MAX).as_bytes()).is_ok());
        let error = Intent::from_json(of(POSTINGS_MAX + 1).as_bytes()).unwrap_err();
        assert!(error.to_string().contains("at most 65536"), "{error}");
    }

    #[test]
    fn every_member_is_in_the_hash() {
        let text = json(r#""funding_account":"pool","total":"6","postings":[["a","1"],["b","5"]]"#);
        let digest = Intent::from_json(text.as_bytes()).unwrap().digest();
        let changes = [
            (
                format!(r#""run_key":"{KEY}"#),
                format!(r#""run_key":"{}"#, KEY.replace('1', "2")),
            ),
            (
                format!(r#""commitment":"b3:{KEY}"#),
                format!(r#""commitment":"b3:{}"#, KEY.replace('1', "2")),
            ),
            (
                r#""tenant":"t","epoch_id":"e""#.to_owned(),
                r#""tenant":"te","epoch_id":"e""#.to_owned(),
            ),
            (
                r#""tenant":"t","epoch_id":"e""#.to_owned(),
                r#""tenant":"t","epoch_id":"ee""#.to_owned(),
            ),
            (r#"pool"#.to_owned(), "pool2".to_owned()),
            (
                r#"["a","1"],["b","5"]"#.to_owned(),
                r#"["a","2"],["b","4"]"#.to_owned(),
            ),
            (
                r#"["a","1"],["b","5"]"#.to_owned(),
                r#"["a","1"],["c","5"]"#.to_owned(),
            ),
            (
                r#"["a","1"],["b","5"]"#.to_owned(),
                r#"["a","6"]"#.to_owned(),
            ),
        ];
        for (from, to) in changes {
            let changed = text.replace(&from, &to);
            assert_ne!(changed, text);
            let other = Intent::from_json(changed.as_bytes()).unwrap();
            assert_ne!(other.digest(), digest, "{to}");
        }
    }
}
