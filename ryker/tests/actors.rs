//! Actors through the public API: asks, deadlines, supervision, drain, reload, and who hears of what.
#![cfg(not(loom))]

#[path = "actors/asks.rs"]
mod asks;
#[path = "actors/deadlines.rs"]
mod deadlines;
#[path = "actors/drain.rs"]
mod drain;
#[path = "actors/ends.rs"]
mod ends;
#[path = "actors/observer.rs"]
mod observer;
#[path = "actors/real_time.rs"]
mod real_time;
#[path = "actors/references.rs"]
mod references;
#[path = "actors/reload.rs"]
mod reload;
#[path = "actors/rig.rs"]
mod rig;
#[path = "actors/runner.rs"]
mod runner;
#[path = "actors/supervision.rs"]
mod supervision;
