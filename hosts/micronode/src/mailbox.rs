//! Messages between programs, in memory: at least once, in the order in which they were sent as far as they are received
//! once.
//!
//! [`Letterbox`] is the whole of it as a state machine, without a clock. [`Mailbox`] is the actor that owns one, as a child
//! of the kernel, and [`mailbox()`] the routes that ask it.
//!
//! - **Order.** The oldest message that waits is received first. One whose lease has expired goes back to its place, before
//!   everything that was sent after it: it is hidden while it is leased, so that it holds nobody up.
//! - **Leases.** A received message is hidden for `mailbox.visibility`. Whoever has its lease can end it by an ack until
//!   then. After that it waits again, and the lease is worth nothing.
//! - **Dead letters.** A message whose lease expires for the `mailbox.max_attempts`th time goes to the dead letters, where
//!   it can be received and acked like others, but is not delivered by itself. Of these there are `mailbox.dead_letters`;
//!   the oldest is dropped for the next one, and counted. A dead letter yields to a new message where bytes are short.
//! - **Keys.** A key stands for one message for `mailbox.dedupe_window` after it was sent, and for as long as that message is
//!   neither acked nor dead. What is kept of it is its hash, that of the body, and the id: the body is gone with the ack.
//! - **Bounds.** `mailbox.max_messages` that wait or are leased; `mailbox.max_bytes` for these, dead letters and keys,
//!   with what it costs to keep them. Beyond that a send is refused: nothing that was accepted is dropped for it, nor is a
//!   key forgotten before its time.
//! - **Memory only.** All of it ends with the process. Bodies are overwritten when they are let go of.

mod actor;
mod id;
mod letterbox;
mod metrics;
mod payload;
mod routes;
mod settings;

pub use actor::Mailbox;
pub use id::{LeaseId, MessageId, ParseIdError};
pub use letterbox::{Counts, Delivery, Draft, Full, Letterbox, NoLease, Shelf, Totals, Unsent};
pub use payload::{Collector, Payload};
pub use routes::mailbox;
pub use settings::MailboxSettings;
