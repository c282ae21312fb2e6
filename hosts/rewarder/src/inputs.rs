//! Sealed inputs: what the actors of one tenant did in one epoch, and what there is to share among them.
//!
//! ```json
//! {"epoch_id":"2026-11-21","format":"rewarder-inputs/1","pool":"1000","tenant":"acme","work":[
//!  {"actor":"a","events":[{"id":"e1","kind":"relay","qty":"122"}]},
//!  {"actor":"b","events":[{"id":"e2","kind":"relay","qty":"220"}]}]}
//! ```
//!
//! but without the line breaks: canonical JSON, actors ascending, the events of each ascending by their ids, everything
//! once. So equal inputs are equal bytes and have one address; and because tenant and epoch are part of them, they
//! cannot be paid a second time as another epoch's.
//!
//! [`Sealed`] is bytes whose address was checked, [`Reader`] reads them event by event without keeping any,
//! [`Draft`](super::draft::Draft) collects events in any order and writes the sealed form.

use super::address::Address;
use super::json::{Cursor, Defect, Problem, Slip};
use super::name::{EpochId, Name, NAME};

/// The first form of inputs.
const FORMAT: &str = "\"rewarder-inputs/1\"";
const DOCUMENT: &str = "inputs";

/// Largest inputs: three times what the 500 000 events of vector L take.
pub const BYTES_MAX: usize = 64 << 20;
/// Most actors: as many postings of full length and width still fit into an intent of 8 MiB.
pub const ACTORS_MAX: usize = 65_536;
/// Most events: with quantities below 2^64 and weights below 2^32 no score reaches 2^116.
pub const EVENTS_MAX: usize = 1 << 20;

/// Whose inputs they are, and what there is to share.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Header {
    /// The customer.
    pub tenant: Name,
    /// The epoch in which the work was done.
    pub epoch_id: EpochId,
    /// What may be paid for it at most, in minor units.
    pub pool: u128,
}

impl Header {
    /// Of inputs for `epoch_id` of `tenant`.
    pub fn new(tenant: Name, epoch_id: EpochId, pool: u128) -> Self {
        Header {
            tenant,
            epoch_id,
            pool,
        }
    }
}

/// Why bytes are not the inputs that were asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The bytes have another address.
    #[error("the bytes are {found}, not {expected}")]
    Address {
        /// Of what was asked for.
        expected: Address,
        /// Of the bytes.
        found: Address,
    },
    /// There are too many.
    #[error("inputs have at most {BYTES_MAX} bytes, these have {found}")]
    Length {
        /// How many there are.
        found: usize,
    },
}

/// Bytes whose address is known to be theirs. Whether they are inputs is for [`Reader`] to say.
#[derive(Clone, Copy, Debug)]
pub struct Sealed<'a> {
    cid: Address,
    bytes: &'a [u8],
}

impl<'a> Sealed<'a> {
    /// Takes any bytes and computes their address.
    ///
    /// # Errors
    ///
    /// There are more than [`BYTES_MAX`].
    pub fn of(bytes: &'a [u8]) -> Result<Self, SealError> {
        if bytes.len() > BYTES_MAX {
            return Err(SealError::Length { found: bytes.len() });
        }
        let cid = Address::of(bytes);
        Ok(Sealed { cid, bytes })
    }

    /// Takes the bytes that were got for `cid`.
    ///
    /// # Errors
    ///
    /// They are not those, or there are more than [`BYTES_MAX`].
    pub fn open(bytes: &'a [u8], cid: &Address) -> Result<Self, SealError> {
        let sealed = Self::of(bytes)?;
        if sealed.cid != *cid {
            return Err(SealError::Address {
                expected: *cid,
                found: sealed.cid,
            });
        }
        Ok(sealed)
    }

    /// The address of the bytes.
    pub fn cid(&self) -> &Address {
        &self.cid
    }

    /// The bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// What [`Reader`] comes upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// An actor; its events follow.
    Actor(&'a str),
    /// An event of the actor before.
    Event {
        /// Unlike those of the actor's other events.
        id: &'a str,
        /// What was done; the policy has its price.
        kind: &'a str,
        /// How much of it.
        qty: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// An actor or the end: nothing was read yet, or an actor has just ended.
    FirstActor,
    Actor,
    FirstEvent,
    Event,
    Nothing,
}

/// Reads inputs from their first byte to their last, in constant memory.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    cursor: Cursor<'a>,
    header: Header,
    next: Next,
    actors: usize,
    events: usize,
    /// Of the current actor.
    own: usize,
    actor: &'a str,
    event: &'a str,
    /// For the path of a defect.
    field: &'static str,
}

impl<'a> Reader<'a> {
    /// Reads what stands before the work.
    ///
    /// # Errors
    ///
    /// The text does not begin as canonical inputs do.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Defect> {
        let mut cursor = Cursor::new(bytes);
        let mut field = "epoch_id";
        let header = header(&mut cursor, &mut field).map_err(|slip| slip.at(DOCUMENT, field))?;
        Ok(Reader {
            cursor,
            header,
            next: Next::FirstActor,
            actors: 0,
            events: 0,
            own: 0,
            actor: "",
            event: "",
            field: "",
        })
    }

    /// Whose inputs they are.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How many actors were read.
    pub fn actors(&self) -> usize {
        self.actors
    }

    /// How many events were read.
    pub fn events(&self) -> usize {
        self.events
    }

    /// The next piece, or nothing when all was read and nothing follows.
    ///
    /// # Errors
    ///
    /// What follows is not canonical, or beyond a limit. Nothing more is read then.
    pub fn piece(&mut self) -> Result<Option<Piece<'a>>, Defect> {
        self.field = "";
        let piece = self.read();
        piece.map_err(|slip| {
            let path = self.path();
            self.next = Next::Nothing;
            slip.at(DOCUMENT, path)
        })
    }

    fn read(&mut self) -> Result<Option<Piece<'a>>, Slip> {
        loop {
            match self.next {
                Next::FirstActor | Next::Actor if self.cursor.peek() == Some(b']') => {
                    self.cursor.token("]}")?;
                    self.next = Next::Nothing;
                    self.cursor.end()?;
                }
                Next::FirstActor => return self.actor("{").map(Some),
                Next::Actor => return self.actor(",{").map(Some),
                Next::Event if self.cursor.peek() == Some(b']') => {
                    self.cursor.token("]}")?;
                    self.next = Next::Actor;
                }
                Next::FirstEvent => return self.event("{").map(Some),
                Next::Event => return self.event(",{").map(Some),
                Next::Nothing => return Ok(None),
            }
        }
    }

    fn actor(&mut self, lead: &'static str) -> Result<Piece<'a>, Slip> {
        let cursor = &mut self.cursor;
        if self.actors == ACTORS_MAX {
            return Err(cursor.slip(Problem::Many {
                what: "actors",
                max: ACTORS_MAX,
            }));
        }
        cursor.field(lead, "actor")?;
        self.field = "actor";
        let before = cursor.clone();
        let actor = cursor.name(&NAME)?;
        if self.actors > 0 && actor <= self.actor {
            return Err(before.slip(order("actors", actor, self.actor)));
        }
        self.field = "events";
        cursor.field(",", "events")?;
        cursor.token("[")?;
        self.actor = actor;
        self.actors += 1;
        self.own = 0;
        self.next = Next::FirstEvent;
        Ok(Piece::Actor(actor))
    }

    fn event(&mut self, lead: &'static str) -> Result<Piece<'a>, Slip> {
        let cursor = &mut self.cursor;
        if self.events == EVENTS_MAX {
            return Err(cursor.slip(Problem::Many {
                what: "events",
                max: EVENTS_MAX,
            }));
        }
        self.field = "id";
        cursor.field(lead, "id")?;
        let before = cursor.clone();
        let id = cursor.name(&NAME)?;
        if self.own > 0 && id <= self.event {
            return Err(before.slip(order("events of an actor", id, self.event)));
        }
        self.field = "kind";
        cursor.field(",", "kind")?;
        let kind = cursor.name(&NAME)?;
        self.field = "qty";
        cursor.field(",", "qty")?;
        // In range, so the conversion loses nothing.
        let qty = cursor.amount(0, u64::MAX.into())? as u64;
        cursor.token("}")?;
        self.event = id;
        self.own += 1;
        self.events += 1;
        self.next = Next::Event;
        Ok(Piece::Event { id, kind, qty })
    }

    /// What a slip is about.
    #[cold]
    fn path(&self) -> String {
        let field = match self.field {
            "" => String::new(),
            field => format!(".{field}"),
        };
        match self.next {
            Next::FirstActor | Next::Actor => format!("work[{}]{field}", self.actors),
            Next::FirstEvent | Next::Event => {
                let actor = self.actors.saturating_sub(1);
                format!("work[{actor}].events[{}]{field}", self.own)
            }
            Next::Nothing => String::new(),
        }
    }
}

#[cold]
fn order(what: &'static str, found: &str, before: &str) -> Problem {
    Problem::Order {
        what,
        found: Name::checked(found),
        before: Name::checked(before),
    }
}

fn header(cursor: &mut Cursor<'_>, field: &mut &'static str) -> Result<Header, Slip> {
    cursor.field("{", "epoch_id")?;
    let epoch_id = cursor.epoch()?;
    *field = "format";
    cursor.field(",", "format")?;
    cursor.token(FORMAT)?;
    *field = "pool";
    cursor.field(",", "pool")?;
    let pool = cursor.amount(0, u128::MAX)?;
    *field = "tenant";
    cursor.field(",", "tenant")?;
    let tenant = cursor.owned()?;
    *field = "work";
    cursor.field(",", "work")?;
    cursor.token("[")?;
    Ok(Header::new(tenant, epoch_id, pool))
}
