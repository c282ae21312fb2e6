//! The node over a real socket.

mod capabilities;
mod disk;
mod disk_full;
mod drain;
mod hung;
mod integrity;
mod killing;
mod limits;
mod mailbox;
mod objects;
#[cfg(feature = "otel")]
mod otel;
mod reading;
mod rig;
mod runbook;
mod s3;
mod streams;
mod tls;
mod unix;
