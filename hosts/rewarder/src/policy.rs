//! Policies: what work is worth, and who says so.
//!
//! ```json
//! {"actor_cap":null,"epoch_cap":"5000000","format":"rewarder-policy/1","funding_account":"treasury","id":"relays",
//!  "min_payout":"1","mode":"pro_rata","rounding":"floor","version":3,"weights_ppm":{"relay":1000000,"store":250000}}
//! ```
//!
//! but without the line break. A tariff has `"mode":"tariff"`, and between mode and rounding its rates, minor units for
//! one unit of work: `"rates":{"relay":"12"}`. [`Policy::hash`] is the BLAKE3 of this text. What is stored is the
//! policy with an Ed25519 signature of it: `{"policy":{..},"signature":{"key":"..","sig":".."}}`, see [`SignedPolicy`](super::signature::SignedPolicy).
//!
//! Rounding is down and nothing else: half-even can pay more than there is (a pool of 5 for three equal actors would
//! be 2 + 2 + 2). What is not paid stays where it is.

use super::address::Address;
use super::json::{Cursor, Defect, Problem, Slip};
use super::name::{Name, NAME};

const FORMAT: &str = "\"rewarder-policy/1\"";
pub(crate) const DOCUMENT: &str = "policy";

/// Most kinds of work that a policy prices.
pub const KINDS_MAX: usize = 64;
/// Largest policy with its signature: prices of [`KINDS_MAX`] kinds of the longest name take 6 KiB.
pub const POLICY_BYTES_MAX: usize = 16 << 10;

/// How work becomes money.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The pool is shared in proportion to work times weight.
    ProRata,
    /// Work times rate, whatever that makes, as long as the pool has it.
    Tariff,
}

/// What a policy says. It is as it was read: nothing of it can be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    id: Name,
    version: u32,
    mode: Mode,
    /// Ascending.
    prices: Vec<(Name, u64)>,
    min_payout: u128,
    actor_cap: Option<u128>,
    epoch_cap: Option<u128>,
    funding_account: Name,
    hash: Address,
}

/// The caller counts on another policy than there is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("policy {id} is {found} now, not {expected}")]
pub struct StaleHash {
    /// The policy.
    pub id: Name,
    /// What the caller has.
    pub expected: Address,
    /// What there is.
    pub found: Address,
}

impl Policy {
    /// Reads a policy without a signature. What it says must not move money before
    /// [somebody who may has signed it](super::signature::SignedPolicy::verify).
    ///
    /// # Errors
    ///
    /// The text is not a canonical policy, or contradicts itself.
    pub fn read(bytes: &[u8]) -> Result<Self, Defect> {
        let mut place = Place::new("");
        let mut cursor = Cursor::new(bytes);
        let policy = length(&cursor, bytes)
            .and_then(|()| policy(&mut cursor, &mut place))
            .and_then(|policy| cursor.end().map(|()| policy));
        policy.map_err(|slip| slip.at(DOCUMENT, place.path()))
    }

    /// What it is called.
    pub fn id(&self) -> &Name {
        &self.id
    }

    /// Which of those of this name, from 1.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// How work becomes money.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// What a unit of this kind of work is worth: millionths of a share in [`Mode::ProRata`], below 2^32; minor units in
    /// [`Mode::Tariff`]. `None` if the policy does not know the kind.
    pub fn price(&self, kind: &str) -> Option<u64> {
        let found = self
            .prices
            .binary_search_by(|(name, _)| name.as_str().cmp(kind));
        let (_, price) = self.prices.get(found.ok()?)?;
        Some(*price)
    }

    /// The kinds of work that it prices, ascending.
    pub fn prices(&self) -> impl Iterator<Item = (&Name, u64)> {
        self.prices.iter().map(|(kind, price)| (kind, *price))
    }

    /// Who would get less gets nothing.
    pub fn min_payout(&self) -> u128 {
        self.min_payout
    }

    /// The most that one actor gets.
    pub fn actor_cap(&self) -> Option<u128> {
        self.actor_cap
    }

    /// The most that is taken from the pool of an epoch.
    pub fn epoch_cap(&self) -> Option<u128> {
        self.epoch_cap
    }

    /// What the payouts are debited to.
    pub fn funding_account(&self) -> &Name {
        &self.funding_account
    }

    /// The BLAKE3 of its canonical text, computed when it was read.
    pub fn hash(&self) -> &Address {
        &self.hash
    }

    /// Whether it is the one that a caller counts on.
    ///
    /// # Errors
    ///
    /// It is another one.
    pub fn is(&self, hash: &Address) -> Result<(), StaleHash> {
        if self.hash == *hash {
            return Ok(());
        }
        Err(StaleHash {
            id: self.id.clone(),
            expected: *hash,
            found: self.hash,
        })
    }
}

/// What is being read, for the path of a defect.
pub(crate) struct Place {
    inside: &'static str,
    pub(crate) field: &'static str,
    key: Option<Name>,
}

impl Place {
    pub(crate) fn new(inside: &'static str) -> Self {
        Place {
            inside,
            field: "",
            key: None,
        }
    }

    pub(crate) fn path(&self) -> String {
        let key = self.key.as_ref().map(Name::as_str).unwrap_or_default();
        let parts = [self.inside, self.field, key];
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        parts.join(".")
    }
}

pub(crate) fn length(cursor: &Cursor<'_>, bytes: &[u8]) -> Result<(), Slip> {
    if bytes.len() > POLICY_BYTES_MAX {
        return Err(cursor.slip(Problem::Many {
            what: "bytes",
            max: POLICY_BYTES_MAX,
        }));
    }
    Ok(())
}

pub(crate) fn policy(cursor: &mut Cursor<'_>, place: &mut Place) -> Result<Policy, Slip> {
    let start = cursor.at();
    let mut field = |cursor: &mut Cursor<'_>, lead, name| {
        place.field = name;
        cursor.field(lead, name)
    };
    field(cursor, "{", "actor_cap")?;
    let actor_cap = cursor.limit()?;
    field(cursor, ",", "epoch_cap")?;
    let epoch_cap = cursor.limit()?;
    field(cursor, ",", "format")?;
    cursor.token(FORMAT)?;
    field(cursor, ",", "funding_account")?;
    let funding_account = cursor.owned()?;
    field(cursor, ",", "id")?;
    let id = cursor.owned()?;
    field(cursor, ",", "min_payout")?;
    let min_payout = cursor.amount(0, u128::MAX)?;
    if actor_cap.is_some_and(|cap| cap < min_payout) {
        return Err(cursor.slip(Problem::Contradiction {
            rule: "min_payout is at most actor_cap, or nobody is ever paid",
        }));
    }
    field(cursor, ",", "mode")?;
    let known = "\"pro_rata\" or \"tariff\"";
    let mode = match (cursor.token("\"pro_rata\""), cursor.peek()) {
        (Ok(()), _) => Mode::ProRata,
        (Err(_), None) => return Err(cursor.slip(Problem::Ends { expected: known })),
        (Err(_), _) => {
            let expected = Problem::Expected { expected: known };
            let wrong = cursor.slip(expected);
            cursor.token("\"tariff\"").map_err(|_| wrong)?;
            Mode::Tariff
        }
    };
    let mut prices = Vec::new();
    if mode == Mode::Tariff {
        field(cursor, ",", "rates")?;
        prices = self::prices(cursor, &mut place.key, |cursor| {
            // In range, so the conversion loses nothing.
            cursor.amount(0, u64::MAX.into()).map(|rate| rate as u64)
        })?;
    }
    field(cursor, ",", "rounding")?;
    cursor.token("\"floor\"")?;
    field(cursor, ",", "version")?;
    let version = cursor.number(1, u32::MAX)?;
    if mode == Mode::ProRata {
        field(cursor, ",", "weights_ppm")?;
        prices = self::prices(cursor, &mut place.key, |cursor| {
            cursor.number(0, u32::MAX).map(u64::from)
        })?;
    }
    place.field = "";
    cursor.token("}")?;
    let hash = Address::of(cursor.since(start));
    Ok(Policy {
        id,
        version,
        mode,
        prices,
        min_payout,
        actor_cap,
        epoch_cap,
        funding_account,
        hash,
    })
}

/// An object of kinds, ascending, and their prices.
fn prices<'a>(
    cursor: &mut Cursor<'a>,
    key: &mut Option<Name>,
    mut price: impl FnMut(&mut Cursor<'a>) -> Result<u64, Slip>,
) -> Result<Vec<(Name, u64)>, Slip> {
    let mut prices: Vec<(Name, u64)> = Vec::new();
    cursor.token("{")?;
    loop {
        if prices.len() == KINDS_MAX {
            return Err(cursor.slip(Problem::Many {
                what: "kinds of work",
                max: KINDS_MAX,
            }));
        }
        let before = cursor.clone();
        let kind = Name::checked(cursor.name(&NAME)?);
        if let Some((last, _)) = prices.last().filter(|(last, _)| kind <= *last) {
            return Err(before.slip(Problem::Order {
                what: "kinds of work",
                found: kind,
                before: last.clone(),
            }));
        }
        *key = Some(kind.clone());
        cursor.token(":")?;
        let price = price(cursor)?;
        prices.push((kind, price));
        *key = None;
        if cursor.peek() != Some(b',') {
            break;
        }
        cursor.token(",")?;
    }
    cursor.token("}")?;
    Ok(prices)
}
