//! What every host binary shares: one command line, one way to load the configuration, one log, one set of
//! exit codes. `publish = false`: the libraries are the product, hosts are proof.
//!
//! A host is a settings type that contains the kernel's and a closure that adds children:
//!
//! ```no_run
//! use ron_config::{Schema, Settings};
//! use ron_host::{HostSettings, Program};
//! use ron_kernel::supervisor::Child;
//!
//! #[derive(Clone, Default)]
//! struct Config {
//!     kernel: ron_kernel::Config,
//! }
//!
//! impl Settings for Config {
//!     fn schema(schema: &mut Schema<Self>) {
//!         ron_host::kernel_keys(schema);
//!     }
//! }
//!
//! impl HostSettings for Config {
//!     fn kernel(&self) -> &ron_kernel::Config {
//!         &self.kernel
//!     }
//!     fn kernel_mut(&mut self) -> &mut ron_kernel::Config {
//!         &mut self.kernel
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     Program::<Config>::new("svc-thumbs", env!("CARGO_PKG_VERSION"))
//!         .about("makes thumbnails")
//!         .run(|kernel, _config| kernel.child(Child::task("feed", |cx| async move { cx.stopping().await })))
//! }
//! ```
//!
//! # Output
//!
//! Stdout carries log lines only (JSON unless `log.format` is text), so that `| jq .` never breaks. What
//! keeps a program from starting goes to stderr as plain text, all defects at once, with exit code 2.
//!
//! # Exit codes
//!
//! 0 stopped in order, 2 configuration or usage, 98 address in use, 130 aborted by a second SIGINT, 1 for
//! everything else.
#![forbid(unsafe_code)]

mod amnesia;
pub mod capability;
mod cli;
#[cfg(all(feature = "console", tokio_unstable))]
mod console;
pub mod ctl;
mod filter;
pub mod http;
mod log;
mod pool;
mod program;

pub use filter::check_directives;
pub use log::{Filter, InstallError, Log};
pub use pool::{Load, Pace, Pool, PoolError, PoolSettings};
pub use program::{kernel_keys, HostSettings, Program};
