//! What each actor did, added up by kind of work: all of the inputs that payouts depend on. It takes memory for actors,
//! not for events.

use std::ops::Range;

use super::inputs::{Header, Piece, Reader, Sealed};
use super::policy::KINDS_MAX;
use super::progress::{tick, Phase, Progress};
use super::run::RunError;

/// The sums of one epoch. Names are borrowed from the inputs.
#[derive(Debug)]
pub struct Book<'a> {
    header: Header,
    kinds: Vec<&'a str>,
    actors: Vec<(&'a str, Range<usize>)>,
    /// By actor and kind. At most 2^20 quantities below 2^64 each.
    sums: Vec<(usize, u128)>,
    events: usize,
}

impl<'a> Book<'a> {
    /// Adds up.
    ///
    /// # Errors
    ///
    /// The bytes are not canonical inputs, they have more kinds of work than any policy, or the run is cancelled.
    pub fn read(sealed: &Sealed<'a>, progress: &mut dyn Progress) -> Result<Self, RunError> {
        tick(progress, Phase::Parse, 0)?;
        let mut reader = Reader::new(sealed.bytes())?;
        let mut book = Book {
            header: reader.header().clone(),
            kinds: Vec::new(),
            actors: Vec::new(),
            sums: Vec::new(),
            events: 0,
        };
        while let Some(piece) = reader.piece()? {
            match piece {
                Piece::Actor(actor) => {
                    let start = book.sums.len();
                    book.actors.push((actor, start..start));
                }
                Piece::Event { kind, qty, .. } => {
                    book.add(kind, qty)?;
                    tick(progress, Phase::Parse, reader.events())?;
                }
            }
        }
        book.events = reader.events();
        Ok(book)
    }

    fn add(&mut self, kind: &'a str, qty: u64) -> Result<(), RunError> {
        let known = self.kinds.iter().position(|known| *known == kind);
        let at = match known {
            Some(at) => at,
            None if self.kinds.len() == KINDS_MAX => return Err(RunError::Kinds),
            None => {
                self.kinds.push(kind);
                self.kinds.len() - 1
            }
        };
        let Some((_, own)) = self.actors.last_mut() else {
            return Ok(());
        };
        let sums = self.sums.get_mut(own.start..).unwrap_or_default();
        match sums.iter_mut().find(|(kind, _)| *kind == at) {
            Some((_, sum)) => *sum = sum.checked_add(qty.into()).ok_or(RunError::Overflow)?,
            None => {
                self.sums.push((at, qty.into()));
                own.end = self.sums.len();
            }
        }
        Ok(())
    }

    /// Whose work it is.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How many events were added up.
    pub fn events(&self) -> usize {
        self.events
    }

    /// The kinds of work there are, in no particular order.
    pub fn kinds(&self) -> &[&'a str] {
        &self.kinds
    }

    /// The actors, ascending.
    pub fn actors(&self) -> impl ExactSizeIterator<Item = &'a str> + '_ {
        self.actors.iter().map(|(actor, _)| *actor)
    }

    /// For each actor, in their order, which of [`Book::kinds`] it did, and how much.
    pub(crate) fn work(&self) -> impl ExactSizeIterator<Item = (&'a str, &[(usize, u128)])> {
        self.actors.iter().map(|(actor, own)| {
            let sums = self.sums.get(own.clone()).unwrap_or_default();
            (*actor, sums)
        })
    }
}
