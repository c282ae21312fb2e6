//! The ledger over HTTP: settings, routes, metrics, and the thread that keeps the journal.

mod config;
mod keeper;
mod metrics;
mod routes;

pub use config::{Config, LedgerSettings, StoreKind};
pub use keeper::{Keeper, KeeperError};
pub use metrics::Instruments;
pub use routes::routes;
