//! A single-tenant node for content-addressed objects and mailboxes.
#![forbid(unsafe_code)]

mod actors;
mod config;
pub mod mailbox;
pub mod object;
mod routes;
mod store;
mod wiped;

pub use config::Config;
pub use mailbox::mailbox;
pub use routes::objects;
pub use store::{
    Before, Busy, Finished, Full, Opened, Put, S3Settings, Store, StoreError, StoreKind,
    StoreSettings,
};
