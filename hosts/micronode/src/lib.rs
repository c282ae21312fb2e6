//! A single-tenant node for content-addressed objects and mailboxes.
#![forbid(unsafe_code)]

mod config;
pub mod object;
mod routes;
mod store;

pub use config::Config;
pub use routes::objects;
pub use store::{Full, Object, Store};
