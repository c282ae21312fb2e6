//! How far a run is, and whether it goes on. The core has no clock: whoever watches may have one.

use std::ops::ControlFlow;

use super::run::RunError;

/// The parts of a run, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Reading the inputs.
    Parse,
    /// Weighing what each actor did.
    Score,
    /// Making payouts of it.
    Pay,
    /// Reading the inputs again, and proving every payout.
    Check,
    /// Writing the manifest.
    Manifest,
}

impl Phase {
    /// All of them.
    pub const ALL: [Phase; 5] = [
        Phase::Parse,
        Phase::Score,
        Phase::Pay,
        Phase::Check,
        Phase::Manifest,
    ];

    /// Its name in one lower-case word.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Parse => "parse",
            Phase::Score => "score",
            Phase::Pay => "pay",
            Phase::Check => "check",
            Phase::Manifest => "manifest",
        }
    }
}

/// Told of each phase when it begins and after every few thousand actors or events, fractions of a millisecond apart.
/// A run whose watcher breaks ends there with [`RunError::Cancelled`] and has no effect.
pub trait Progress {
    /// `done` actors or events of this phase are done, 0 when it begins.
    fn at(&mut self, phase: Phase, done: usize) -> ControlFlow<()>;
}

impl<F: FnMut(Phase, usize) -> ControlFlow<()>> Progress for F {
    fn at(&mut self, phase: Phase, done: usize) -> ControlFlow<()> {
        self(phase, done)
    }
}

/// Nobody watches.
#[derive(Clone, Copy, Debug)]
pub struct Unwatched;

impl Progress for Unwatched {
    fn at(&mut self, _: Phase, _: usize) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// Often enough to be cancelled within a millisecond, seldom enough to cost nothing.
const STRIDE: usize = 4096;

/// Asks now and then.
pub(crate) fn tick(progress: &mut dyn Progress, phase: Phase, done: usize) -> Result<(), RunError> {
    if done.is_multiple_of(STRIDE) && progress.at(phase, done).is_break() {
        return Err(RunError::Cancelled);
    }
    Ok(())
}
