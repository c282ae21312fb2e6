//! The event that is published: it knows what it must still be when it arrives.

use std::cell::Cell;
use std::panic::resume_unwind;

use ron_bus::{Class, Classify};

thread_local! {
    static ALIVE: Cell<i64> = const { Cell::new(0) };
}

/// What an event is, in one byte of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Traits(pub(crate) u8);

impl Traits {
    /// Bits 0 to 2.
    pub(crate) fn key(self) -> u64 {
        u64::from(self.0 & 7)
    }

    /// Bits 3 and 4.
    pub(crate) fn class(self) -> Class {
        Class::new(self.0 >> 3 & 3).expect("less than 64")
    }

    /// Whether the filter that readers use lets it pass.
    pub(crate) fn is_even(self) -> bool {
        self.0 & 1 == 0
    }

    /// Bits 5 to 7 all set: cloning it panics.
    pub(crate) fn clone_panics(self) -> bool {
        self.0 >> 5 == 7
    }

    /// Bits 5 to 7 are six: its key panics.
    pub(crate) fn key_panics(self) -> bool {
        self.0 >> 5 == 6
    }
}

/// What the panics of events carry. They run no panic hook, since the fuzzer's ends the process.
pub(crate) struct Planned;

fn panic_as_planned() -> ! {
    resume_unwind(Box::new(Planned))
}

/// Lives on the heap, so that a sanitizer sees every misuse of its memory.
#[derive(Debug)]
pub(crate) struct Event {
    number: Box<u64>,
    traits: Traits,
}

impl Event {
    pub(crate) fn new(number: u64, traits: Traits) -> Self {
        ALIVE.with(|alive| alive.set(alive.get() + 1));
        Self {
            number: Box::new(number),
            traits,
        }
    }

    /// Which event of the run it is.
    pub(crate) fn number(&self) -> u64 {
        *self.number
    }

    pub(crate) fn is_even(&self) -> bool {
        self.traits.is_even()
    }

    pub(crate) fn key(&self) -> u64 {
        if self.traits.key_panics() {
            panic_as_planned();
        }
        self.traits.key()
    }

    /// How many have not been dropped, clones included.
    pub(crate) fn alive() -> i64 {
        ALIVE.with(Cell::get)
    }
}

impl Clone for Event {
    fn clone(&self) -> Self {
        if self.traits.clone_panics() {
            panic_as_planned();
        }
        Self::new(*self.number, self.traits)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        ALIVE.with(|alive| alive.set(alive.get() - 1));
    }
}

impl Classify for Event {
    fn class(&self) -> Class {
        self.traits.class()
    }
}
