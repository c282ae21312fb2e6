//! How to send, and what to do when there is no room.
//!
//! | | waits for room | waits for the handler | when full |
//! |---|---|---|---|
//! | [`try_send`](crate::ActorRef::try_send) | no | no | `Busy` |
//! | [`send`](crate::ActorRef::send) | until the message's deadline | no | `Deadline`, when it has passed |
//! | [`ask`](crate::ActorRef::ask) | no | until the deadline | `NotSent(Busy)` |
//!
//! Every refused message comes back in its error, so it can be tried elsewhere, kept or answered. `send` is for senders
//! that may be slowed down: a reader of a file, a consumer of a queue that waits. `try_send` and `ask` are for those
//! that must not be: handlers of requests, which pass the refusal on to whoever sent too much
//! ([`ErrorKind::http_status`](crate::ErrorKind::http_status) is 429). A `try_send` in a loop is neither: it burns a
//! processor, and whoever waits in `send` is served before it.
//!
//! Those who wait get room in the order in which they came. In a mailbox of 64 messages or more whose messages are not
//! measured they are told of it when half of it is free, or after two milliseconds of waiting, so that a busy receiver is
//! not held up by waking them one by one.
//!
//! ```
//! use ryker::{ErrorKind, Runtime, RykerConfig};
//! use std::time::Duration;
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let rt = Runtime::new(RykerConfig::default());
//! let (fast, mut fast_queue) = rt.mailbox("fast").capacity(1).build()?.split();
//! let (slow, _slow_queue) = rt.mailbox("slow").capacity(1).build()?.split();
//!
//! // What the one refuses goes to the other.
//! for job in ["a", "b"] {
//!     if let Err(refused) = fast.try_send(job) {
//!         assert_eq!(refused.kind(), ErrorKind::Busy);
//!         slow.try_send(refused.into_inner())?;
//!     }
//! }
//! assert_eq!((fast.depth(), slow.depth()), (1, 1));
//!
//! // A sender that waits has its place, and gets it as soon as there is room.
//! let waiting = tokio::spawn({
//!     let fast = fast.clone();
//!     async move { fast.send("c").await }
//! });
//! tokio::time::sleep(Duration::from_millis(10)).await;
//! assert_eq!(fast_queue.recv().await, Some("a"));
//! assert_eq!(fast.try_send("d").map_err(|e| e.kind()), Err(ErrorKind::Busy));
//! waiting.await??;
//! assert_eq!(fast_queue.recv().await, Some("c"));
//!
//! // Nobody reads the other one: its sender waits for the deadline, and has its message back.
//! let refused = slow.send("e").await.unwrap_err();
//! assert_eq!(refused.kind(), ErrorKind::Timeout);
//! assert_eq!(refused.into_inner(), "e");
//! # Ok(())
//! # }
//! ```
//!
//! A `send` that is dropped before it returned has sent nothing, so it may stand in a `select!`. The order of one
//! sender is kept when its sends follow each other; two sends that are polled at the same time have none.
