//! Children that are processes: how they start, what they get, how they end, what is left of them.

#[path = "processes/rig.rs"]
mod rig;

#[path = "processes/descendants.rs"]
mod descendants;
#[path = "processes/embedding.rs"]
mod embedding;
#[path = "processes/ends.rs"]
mod ends;

#[path = "processes/floods.rs"]
mod floods;
#[path = "processes/guardian.rs"]
mod guardian;
#[path = "processes/health.rs"]
mod health;
#[path = "processes/incarnations.rs"]
mod incarnations;
#[path = "processes/inherits.rs"]
mod inherits;
#[path = "processes/listeners.rs"]
mod listeners;
#[path = "processes/order.rs"]
mod order;
#[path = "processes/output.rs"]
mod output;
#[path = "processes/ready.rs"]
mod ready;
#[path = "processes/used.rs"]
mod used;
