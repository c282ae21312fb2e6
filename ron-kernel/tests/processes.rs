//! Children that are processes: how they start, what they get, how they end, what is left of them.

#[path = "processes/rig.rs"]
mod rig;

#[path = "processes/ends.rs"]
mod ends;
