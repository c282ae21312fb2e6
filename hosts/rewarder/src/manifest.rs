//! What a run came to, as a document: who is paid how much out of what, and everything needed to compute it again. It
//! has no times, no signature and nothing of the ledger's, so that one run has one manifest, and one commitment, which is
//! the address of its text.
//!
//! ```json
//! {"counts":{"actors":2,"below_min":0,"capped":0,"events":2,"paid":2},"epoch_id":"demo",
//!  "format":"rewarder-manifest/1","funding_account":"treasury","inputs_cid":"b3:..",
//!  "payouts":[["a","356"],["b","643"]],"policy":{"hash":"b3:..","id":"relays","version":3},"run_key":"..",
//!  "tenant":"acme","totals":{"offered":"1000","payout":"999","pool":"1000","residual":"1"}}
//! ```
//!
//! but without the line breaks. An [`Intent`] is what of it concerns the ledger:
//!
//! ```json
//! {"commitment":"b3:..","epoch_id":"demo","funding_account":"treasury","postings":[["a","356"],["b","643"]],
//!  "run_key":"..","tenant":"acme","total":"999","v":1}
//! ```

use std::fmt::{self, Write as _};

use super::address::Address;
use super::inputs::{ACTORS_MAX, EVENTS_MAX};
use super::json::{Cursor, Defect, Problem, Slip};
use super::name::{EpochId, Name};
use super::run::RunKey;

const FORMAT: &str = "\"rewarder-manifest/1\"";
const DOCUMENT: &str = "manifest";

/// Largest manifest: [`ACTORS_MAX`] payouts with the longest names and amounts take 7 MiB.
pub const MANIFEST_BYTES_MAX: usize = 8 << 20;

/// Which policy made the payouts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRef {
    /// Its name.
    pub id: Name,
    /// Which of that name.
    pub version: u32,
    /// Its content.
    pub hash: Address,
}

/// Amounts in minor units. Always `payout + residual = pool <= offered`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// The pool of the inputs.
    pub offered: u128,
    /// What of it the policy allows for one epoch.
    pub pool: u128,
    /// What is paid.
    pub payout: u128,
    /// What is left.
    pub residual: u128,
}

/// How many there were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Actors in the inputs.
    pub actors: usize,
    /// Events in the inputs.
    pub events: usize,
    /// Actors that are paid.
    pub paid: usize,
    /// Actors whose payout was cut to the cap.
    pub capped: usize,
    /// Actors whose work is worth something, but less than the minimum.
    pub below_min: usize,
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The customer.
    pub tenant: Name,
    /// The epoch.
    pub epoch_id: EpochId,
    /// What the run is called.
    pub run_key: RunKey,
    /// The inputs.
    pub inputs_cid: Address,
    /// The policy.
    pub policy: PolicyRef,
    /// What the payouts are debited to.
    pub funding_account: Name,
    /// Amounts.
    pub totals: Totals,
    /// Numbers.
    pub counts: Counts,
    /// Who is paid how much: ascending, each once, nobody nothing.
    pub payouts: Vec<(Name, u128)>,
}

/// Where two manifests differ first.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference {
    /// The element, as in `payouts.alice` or `totals.residual`.
    pub path: String,
    /// What the one says.
    pub left: String,
    /// What the other says.
    pub right: String,
}

impl Manifest {
    /// Its canonical text, from which [`Manifest::read`] makes it again.
    pub fn to_bytes(&self) -> Vec<u8> {
        let Manifest {
            tenant,
            epoch_id,
            run_key,
            inputs_cid,
            policy,
            funding_account,
            totals,
            counts,
            payouts,
        } = self;
        let PolicyRef { id, version, hash } = policy;
        let Counts {
            actors,
            events,
            paid,
            capped,
            below_min,
        } = counts;
        let Totals {
            offered,
            pool,
            payout,
            residual,
        } = totals;
        let payouts = Pairs(payouts);
        let text = format!(
            concat!(
                r#"{{"counts":{{"actors":{actors},"below_min":{below_min},"capped":{capped},"events":{events},"#,
                r#""paid":{paid}}},"epoch_id":"{epoch_id}","format":"rewarder-manifest/1","#,
                r#""funding_account":"{funding_account}","inputs_cid":"{inputs_cid}","payouts":{payouts},"#,
                r#""policy":{{"hash":"{hash}","id":"{id}","version":{version}}},"run_key":"{run_key}","#,
                r#""tenant":"{tenant}","totals":{{"offered":"{offered}","payout":"{payout}","pool":"{pool}","#,
                r#""residual":"{residual}"}}}}"#,
            ),
            actors = actors,
            below_min = below_min,
            capped = capped,
            events = events,
            paid = paid,
            epoch_id = epoch_id,
            funding_account = funding_account,
            inputs_cid = inputs_cid,
            payouts = payouts,
            hash = hash,
            id = id,
            version = version,
            run_key = run_key,
            tenant = tenant,
            offered = offered,
            payout = payout,
            pool = pool,
            residual = residual,
        );
        text.into_bytes()
    }

    /// Reads a manifest. Whether it is right is for a recomputation to say.
    ///
    /// # Errors
    ///
    /// The text is not a canonical manifest.
    pub fn read(bytes: &[u8]) -> Result<Self, Defect> {
        let mut cursor = Cursor::new(bytes);
        let mut field = "";
        let manifest = read(&mut cursor, &mut field, bytes.len());
        manifest.map_err(|slip| slip.at(DOCUMENT, field))
    }

    /// Where this one and `other` differ first, if they do.
    pub fn difference(&self, other: &Manifest) -> Option<Difference> {
        let found = |path: &str, left: String, right: String| {
            let path = path.to_owned();
            (left != right).then_some(Difference { path, left, right })
        };
        let fields = self.fields().into_iter().zip(other.fields());
        for ((path, left), (_, right)) in fields {
            if let Some(difference) = found(path, left, right) {
                return Some(difference);
            }
        }
        let (mut left, mut right) = (
            self.payouts.iter().peekable(),
            other.payouts.iter().peekable(),
        );
        loop {
            let least = match (left.peek(), right.peek()) {
                (None, None) => return None,
                (Some((one, _)), Some((other, _))) => one.min(other),
                (Some((one, _)), None) | (None, Some((one, _))) => one,
            };
            let amount = |next: Option<&(Name, u128)>| {
                next.map_or_else(|| "nothing".to_owned(), |(_, amount)| amount.to_string())
            };
            let one = amount(left.next_if(|(actor, _)| actor == least));
            let two = amount(right.next_if(|(actor, _)| actor == least));
            if let Some(difference) = found(&format!("payouts.{least}"), one, two) {
                return Some(difference);
            }
        }
    }

    fn fields(&self) -> [(&'static str, String); 17] {
        let Manifest {
            totals,
            counts,
            policy,
            ..
        } = self;
        [
            ("tenant", self.tenant.to_string()),
            ("epoch_id", self.epoch_id.to_string()),
            ("inputs_cid", self.inputs_cid.to_string()),
            ("policy.id", policy.id.to_string()),
            ("policy.version", policy.version.to_string()),
            ("policy.hash", policy.hash.to_string()),
            ("run_key", self.run_key.to_string()),
            ("funding_account", self.funding_account.to_string()),
            ("totals.offered", totals.offered.to_string()),
            ("totals.pool", totals.pool.to_string()),
            ("totals.payout", totals.payout.to_string()),
            ("totals.residual", totals.residual.to_string()),
            ("counts.actors", counts.actors.to_string()),
            ("counts.events", counts.events.to_string()),
            ("counts.paid", counts.paid.to_string()),
            ("counts.capped", counts.capped.to_string()),
            ("counts.below_min", counts.below_min.to_string()),
        ]
    }
}

fn read(cursor: &mut Cursor<'_>, field: &mut &'static str, len: usize) -> Result<Manifest, Slip> {
    if len > MANIFEST_BYTES_MAX {
        return Err(cursor.slip(Problem::Many {
            what: "bytes",
            max: MANIFEST_BYTES_MAX,
        }));
    }
    let number = |cursor: &mut Cursor<'_>, lead, name, max: usize| {
        cursor.field(lead, name)?;
        let max = u32::try_from(max).unwrap_or(u32::MAX);
        // At most 32 bits.
        cursor.number(0, max).map(|number| number as usize)
    };
    *field = "counts";
    cursor.field("{", "counts")?;
    let actors = number(cursor, "{", "actors", ACTORS_MAX)?;
    let below_min = number(cursor, ",", "below_min", ACTORS_MAX)?;
    let capped = number(cursor, ",", "capped", ACTORS_MAX)?;
    let events = number(cursor, ",", "events", EVENTS_MAX)?;
    let paid = number(cursor, ",", "paid", ACTORS_MAX)?;
    cursor.token("}")?;
    *field = "epoch_id";
    cursor.field(",", "epoch_id")?;
    let epoch_id = cursor.epoch()?;
    *field = "format";
    cursor.field(",", "format")?;
    cursor.token(FORMAT)?;
    *field = "funding_account";
    cursor.field(",", "funding_account")?;
    let funding_account = cursor.owned()?;
    *field = "inputs_cid";
    cursor.field(",", "inputs_cid")?;
    let inputs_cid = cursor.address()?;
    *field = "payouts";
    cursor.field(",", "payouts")?;
    let payouts = payouts(cursor)?;
    *field = "policy";
    cursor.field(",", "policy")?;
    cursor.field("{", "hash")?;
    let hash = cursor.address()?;
    cursor.field(",", "id")?;
    let id = cursor.owned()?;
    cursor.field(",", "version")?;
    let version = cursor.number(1, u32::MAX)?;
    cursor.token("}")?;
    *field = "run_key";
    cursor.field(",", "run_key")?;
    let run_key = cursor.hex().map(RunKey::from)?;
    *field = "tenant";
    cursor.field(",", "tenant")?;
    let tenant = cursor.owned()?;
    *field = "totals";
    cursor.field(",", "totals")?;
    let amount = |cursor: &mut Cursor<'_>, lead, name| {
        cursor.field(lead, name)?;
        cursor.amount(0, u128::MAX)
    };
    let offered = amount(cursor, "{", "offered")?;
    let payout = amount(cursor, ",", "payout")?;
    let pool = amount(cursor, ",", "pool")?;
    let residual = amount(cursor, ",", "residual")?;
    cursor.token("}")?;
    *field = "";
    cursor.token("}")?;
    cursor.end()?;
    Ok(Manifest {
        tenant,
        epoch_id,
        run_key,
        inputs_cid,
        policy: PolicyRef { id, version, hash },
        funding_account,
        totals: Totals {
            offered,
            pool,
            payout,
            residual,
        },
        counts: Counts {
            actors,
            events,
            paid,
            capped,
            below_min,
        },
        payouts,
    })
}

fn payouts(cursor: &mut Cursor<'_>) -> Result<Vec<(Name, u128)>, Slip> {
    let mut payouts: Vec<(Name, u128)> = Vec::new();
    cursor.token("[")?;
    while cursor.peek() != Some(b']') {
        if payouts.len() == ACTORS_MAX {
            return Err(cursor.slip(Problem::Many {
                what: "payouts",
                max: ACTORS_MAX,
            }));
        }
        cursor.token(if payouts.is_empty() { "[" } else { ",[" })?;
        let before = cursor.clone();
        let actor = cursor.owned()?;
        if let Some((last, _)) = payouts.last().filter(|(last, _)| actor <= *last) {
            return Err(before.slip(Problem::Order {
                what: "actors",
                found: actor,
                before: last.clone(),
            }));
        }
        cursor.token(",")?;
        payouts.push((actor, cursor.amount(1, u128::MAX)?));
        cursor.token("]")?;
    }
    cursor.token("]")?;
    Ok(payouts)
}

/// What the ledger is asked to do, once: debit `total` to the funding account and credit the postings, all or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// The key under which it has one effect at most.
    pub run_key: RunKey,
    /// With the epoch, another key under which it has one effect at most.
    pub tenant: Name,
    /// The epoch.
    pub epoch_id: EpochId,
    /// The manifest: whether two intents of one key are the same.
    pub commitment: Address,
    /// What is debited.
    pub funding_account: Name,
    /// The sum of the postings.
    pub total: u128,
    /// What is credited with how much: ascending, each once, nothing with nothing.
    pub postings: Vec<(Name, u128)>,
}

impl Intent {
    pub(crate) fn new(manifest: &Manifest, commitment: Address) -> Self {
        Intent {
            run_key: manifest.run_key,
            tenant: manifest.tenant.clone(),
            epoch_id: manifest.epoch_id.clone(),
            commitment,
            funding_account: manifest.funding_account.clone(),
            total: manifest.totals.payout,
            postings: manifest.payouts.clone(),
        }
    }

    /// Its canonical text.
    pub fn to_bytes(&self) -> Vec<u8> {
        let Intent {
            run_key,
            tenant,
            epoch_id,
            commitment,
            funding_account,
            total,
            postings,
        } = self;
        let postings = Pairs(postings);
        let text = format!(
            concat!(
                r#"{{"commitment":"{commitment}","epoch_id":"{epoch_id}","funding_account":"{funding_account}","#,
                r#""postings":{postings},"run_key":"{run_key}","tenant":"{tenant}","total":"{total}","v":1}}"#,
            ),
            commitment = commitment,
            epoch_id = epoch_id,
            funding_account = funding_account,
            postings = postings,
            run_key = run_key,
            tenant = tenant,
            total = total,
        );
        text.into_bytes()
    }
}

/// `[["name","amount"],..]`
struct Pairs<'a>(&'a [(Name, u128)]);

impl fmt::Display for Pairs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('[')?;
        for (at, (name, amount)) in self.0.iter().enumerate() {
            let before = if at == 0 { "" } else { "," };
            write!(f, "{before}[\"{name}\",\"{amount}\"]")?;
        }
        f.write_char(']')
    }
}
