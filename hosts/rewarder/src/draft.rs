//! Writing inputs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::inputs::{Header, Piece, Reader, ACTORS_MAX, EVENTS_MAX};
use super::json::Defect;
use super::name::Name;

/// Inputs that are being collected, in whatever order events come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    header: Header,
    /// By actor and id: kind and quantity.
    events: BTreeMap<(Name, Name), (Name, u64)>,
    actors: usize,
}

/// Why an event cannot be added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DraftError {
    /// The actor has an event of this id.
    #[error("actor {actor} has an event {id} already")]
    Repeated {
        /// Whose event it is.
        actor: Name,
        /// Its id.
        id: Name,
    },
    /// There are as many as there may be.
    #[error("more than {max} {what}")]
    Many {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        max: usize,
    },
}

impl Draft {
    /// Inputs without an event.
    pub fn new(header: Header) -> Self {
        Draft {
            header,
            events: BTreeMap::new(),
            actors: 0,
        }
    }

    /// Adds an event.
    ///
    /// # Errors
    ///
    /// The actor has one of this id, or a limit is reached. The draft is as it was.
    pub fn add(&mut self, actor: Name, id: Name, kind: Name, qty: u64) -> Result<(), DraftError> {
        let many = |what, max| Err(DraftError::Many { what, max });
        let from = (actor.clone(), Name::checked(""));
        let known = self.events.range(from..).next();
        let known = known.is_some_and(|((other, _), _)| *other == actor);
        let key = (actor, id);
        if self.events.contains_key(&key) {
            let (actor, id) = key;
            return Err(DraftError::Repeated { actor, id });
        }
        if self.events.len() == EVENTS_MAX {
            return many("events", EVENTS_MAX);
        }
        if !known && self.actors == ACTORS_MAX {
            return many("actors", ACTORS_MAX);
        }
        self.actors += usize::from(!known);
        self.events.insert(key, (kind, qty));
        Ok(())
    }

    /// The inputs in their only form.
    pub fn seal(&self) -> Vec<u8> {
        let mut writer = Writer::new(&self.header);
        let mut last = None;
        for ((actor, id), (kind, qty)) in &self.events {
            if last.replace(actor) != Some(actor) {
                writer.actor(actor.as_str());
            }
            writer.event(id.as_str(), kind.as_str(), *qty);
        }
        writer.finish()
    }

    /// What was sealed.
    ///
    /// # Errors
    ///
    /// The text is not canonical inputs.
    pub fn read(bytes: &[u8]) -> Result<Self, Defect> {
        let mut reader = Reader::new(bytes)?;
        let mut draft = Draft::new(reader.header().clone());
        let mut current = Name::checked("");
        while let Some(piece) = reader.piece()? {
            match piece {
                Piece::Actor(actor) => current = Name::checked(actor),
                Piece::Event { id, kind, qty } => {
                    let key = (current.clone(), Name::checked(id));
                    draft.events.insert(key, (Name::checked(kind), qty));
                }
            }
        }
        draft.actors = reader.actors();
        Ok(draft)
    }
}

/// Writes actors and events in the order in which they are given, which has to be the ascending one.
#[derive(Debug)]
pub(crate) struct Writer {
    text: String,
    /// What comes before the next actor, and before the next event.
    before: (&'static str, &'static str),
}

impl Writer {
    pub(crate) fn new(header: &Header) -> Self {
        let Header {
            tenant,
            epoch_id,
            pool,
        } = header;
        let text = format!(
            r#"{{"epoch_id":"{epoch_id}","format":"rewarder-inputs/1","pool":"{pool}","tenant":"{tenant}","work":["#
        );
        Writer {
            text,
            before: ("", ""),
        }
    }

    pub(crate) fn actor(&mut self, actor: &str) {
        let before = self.before.0;
        self.text.push_str(before);
        self.push(&["{\"actor\":\"", actor, "\",\"events\":["]);
        self.before = ("]},", "");
    }

    pub(crate) fn event(&mut self, id: &str, kind: &str, qty: u64) {
        let before = self.before.1;
        self.push(&[before, "{\"id\":\"", id, "\",\"kind\":\"", kind]);
        // Writing to a string does not fail.
        let _ = write!(self.text, "\",\"qty\":\"{qty}\"}}");
        self.before.1 = ",";
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        if !self.before.0.is_empty() {
            self.text.push_str("]}");
        }
        self.text.push_str("]}");
        self.text.into_bytes()
    }

    fn push(&mut self, parts: &[&str]) {
        for part in parts {
            self.text.push_str(part);
        }
    }
}
