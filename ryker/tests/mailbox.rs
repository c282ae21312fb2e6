//! Mailboxes through the eyes of one who writes loops by hand: bounds, deadlines, waiting, closing, foreign code.
#![cfg(not(loom))]

#[path = "mailbox/bounds.rs"]
mod bounds;
#[path = "mailbox/building.rs"]
mod building;
#[path = "mailbox/bytes.rs"]
mod bytes;
#[path = "mailbox/closing.rs"]
mod closing;
#[path = "mailbox/deadlines.rs"]
mod deadlines;
#[path = "mailbox/giving_way.rs"]
mod giving_way;
#[path = "mailbox/rig.rs"]
mod rig;
#[path = "mailbox/unruly.rs"]
mod unruly;
#[path = "mailbox/waiting.rs"]
mod waiting;
