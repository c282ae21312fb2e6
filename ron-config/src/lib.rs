//! Layered, validated, explainable configuration with hot reload.
//!
//! Flags over environment over file over defaults become one immutable snapshot of a plain struct. Every value knows the
//! file line, variable or flag it came from; every defect is reported at once, with its place and a suggestion; a reload
//! is a transaction that takes effect whole or not at all.
//!
//! - [`Settings`] names the keys of a struct, [`Loader`] gathers the layers, [`Loaded`] is the configuration in force.
//! - [`Watch`] reads the snapshot for about a nanosecond; [`FileWatcher`] says when the file changed.
//! - [`Source`] is a [`Loaded`] without its type, for a kernel and a control socket.
//! - [`Secret`] is a value no output shows.
//!
//! ```
//! use std::time::Duration;
//! use ron_config::{Loader, Reload, Schema, Settings};
//!
//! #[derive(Clone)]
//! struct Config { deadline: Duration, workers: usize }
//!
//! impl Default for Config {
//!     fn default() -> Self { Self { deadline: Duration::from_secs(5), workers: 4 } }
//! }
//!
//! impl Settings for Config {
//!     fn schema(schema: &mut Schema<Self>) {
//!         schema.key("drain.deadline", |c| &mut c.deadline)
//!             .doc("how long a drain may take")
//!             .range(Duration::from_millis(100)..=Duration::from_secs(60))
//!             .reload(Reload::Live);
//!         schema.key("workers", |c| &mut c.workers).doc("worker threads").range(1..=64);
//!     }
//! }
//!
//! let dir = tempfile::tempdir()?;
//! let path = dir.path().join("svc.toml");
//! std::fs::write(&path, "workers = 2\n[drain]\ndeadline = \"3s\"\n")?;
//! let config = Loader::<Config>::new("svc").file(&path).load()?;
//! assert_eq!(config.snapshot().workers, 2);
//!
//! std::fs::write(&path, "workers = 3\n[drain]\ndeadline = \"4s\"\n")?;
//! let report = config.reload()?;
//! assert_eq!(report.applied(), ["drain.deadline"]);
//! assert_eq!(report.needs_restart(), ["workers"]);
//! assert_eq!((config.snapshot().workers, config.snapshot().deadline), (2, Duration::from_secs(4)));
//!
//! std::fs::write(&path, "[drain]\ndeadline = 4\n")?;
//! let errors = config.reload().unwrap_err();
//! assert!(errors.to_string().contains("svc.toml:2:12: drain.deadline: 4 is a bare number and needs a unit"));
//! assert_eq!(config.snapshot().deadline, Duration::from_secs(4));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

// The README is compiled and run with the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod diagnostic;
mod document;
mod env;
mod loaded;
mod loader;
mod origin;
mod reload;
mod resolve;
mod schema;
mod secret;
mod spelling;
mod units;
mod value;
mod watch;
mod watcher;

pub use diagnostic::{ConfigErrors, Diagnostic, MAX_DIAGNOSTICS};
pub use document::MAX_FILE_BYTES;
pub use loaded::{Loaded, Source};
pub use loader::Loader;
pub use origin::{Explanation, Layer, Origin, Printed, Sourced, UnknownKey};
pub use reload::{Change, ReloadReport, ReloadStats};
pub use schema::{KeyBuilder, Reload, Schema, SchemaError, SchemaErrors, Settings};
pub use secret::Secret;
pub use spelling::nearest;
pub use units::{format_duration, parse_duration, ByteSize, Unit, UnitError};
pub use value::{Input, Mismatch, Ranged, Value};
pub use watch::{Closed, Watch};
pub use watcher::{FileWatcher, Timing};
