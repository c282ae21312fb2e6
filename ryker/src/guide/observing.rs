//! What can be seen: accounts, metrics, observers, spans, log lines.
//!
//! | | for | cost |
//! |---|---|---|
//! | [`Accounts`](crate::Accounts) | what became of every message, of one mailbox or of [all](crate::Runtime::accounts) | none per message: they are kept anyway |
//! | metrics, feature `metrics` | dashboards and alerts: the same counts, and histograms of waiting and handling | some stores per message, by the receiver; off with `observability.enable_metrics` |
//! | [`Observer`](crate::Observer) | what a host wants to hear of at once | what it does |
//! | spans | following one request through actors | by `observability.span_level` |
//! | log lines | what an operator reads | none per message |
//!
//! ```
//! use ryker::{DropReason, Observer, Runtime, RykerConfig};
//! use std::sync::atomic::{AtomicU64, Ordering};
//! use std::sync::Arc;
//!
//! /// Counts what the host answered with 429.
//! #[derive(Debug, Default)]
//! struct Shed(AtomicU64);
//!
//! impl Observer for Shed {
//!     fn on_refused(&self, _actor: &str, reason: DropReason) {
//!         if reason == DropReason::Capacity {
//!             self.0.fetch_add(1, Ordering::Relaxed);
//!         }
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let rt = Runtime::new(RykerConfig::default());
//! let shed = Arc::new(Shed::default());
//! let (jobs, queue) = rt.mailbox("jobs").capacity(2).observer(shed.clone()).build()?.split();
//! for job in 0..5 {
//!     let _ = jobs.try_send(job);
//! }
//! assert_eq!(shed.0.load(Ordering::Relaxed), 3);
//!
//! let accounts = queue.accounts();
//! assert_eq!((accounts.accepted, accounts.pending), (2, 2));
//! assert_eq!(accounts.refused.busy, 3);
//! # Ok(())
//! # }
//! ```
//!
//! # Spans
//!
//! | `observability.span_level` | spans |
//! |---|---|
//! | `off`, `error`, `warn` | none |
//! | `info` | `ryker.actor`, one per incarnation, with `actor` and `generation` |
//! | `debug`, `trace` | also `ryker.actor.handle`, one per message, with `actor`, `deadline_ms` (what was left of it) and `queue_depth`; it follows from the span in which the message was sent |
//!
//! Events and spans of a handler lie inside of these.
//!
//! # Log lines
//!
//! All are `tracing` events with `crate="ryker"`. No message is ever in one.
//!
//! | `event` | level | fields |
//! |---|---|---|
//! | `config_applied` | INFO | `source`, `diff`; after a reload `needs_restart`, the cold keys that were not applied |
//! | `config_warning` | WARN | `variable`: deprecated, or unknown |
//! | `config_rejected` | ERROR | `source`, `error`, every problem |
//! | `actor_restart` | WARN | `actor`, `reason`, `failures` inside the window, `delay_ms` |
//! | `actor_gave_up` | ERROR | `actor`, `reason` |
//! | `drained` | INFO | `elapsed_ms` and the terms of the report |
