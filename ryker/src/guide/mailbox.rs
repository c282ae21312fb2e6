//! What bounds a mailbox, and what happens at its ends.
//!
//! A mailbox holds at most [`capacity`](crate::MailboxBuilder::capacity) messages. Where messages tell their
//! [size](crate::MessageSize) it also holds at most [`max_bytes`](crate::MailboxBuilder::max_bytes) of them, and none
//! above [`max_msg_bytes`](crate::MailboxBuilder::max_msg_bytes). Both bounds are hard: there is no way in that ignores
//! them, and nothing is displaced to make room. A message is charged when it is accepted and released when it is taken
//! out; the one in a handler's hand is not charged, nor is one that waits in [`send`](crate::Sender::send), which is
//! its sender's until there is room.
//!
//! An actor has one, with the same options on [`ActorBuilder`](crate::ActorBuilder). Without an actor it is a queue for
//! a loop of one's own:
//!
//! ```
//! use ryker::{MessageSize, Runtime, RykerConfig, SendError};
//!
//! struct Upload {
//!     name: String,
//!     body: Vec<u8>,
//! }
//!
//! impl MessageSize for Upload {
//!     fn message_size(&self) -> usize {
//!         self.name.len() + self.body.len()
//!     }
//! }
//!
//! fn upload(bytes: usize) -> Upload {
//!     Upload { name: String::new(), body: vec![0; bytes] }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let rt = Runtime::new(RykerConfig::default());
//! let mailbox = rt
//!     .mailbox("uploads")
//!     .capacity(100)
//!     .max_msg_bytes(1024)
//!     .max_bytes(2048)
//!     .build()?;
//! let (uploads, mut queue) = mailbox.split();
//!
//! uploads.try_send(upload(1024))?;
//! uploads.try_send(upload(1000))?;
//! // 2 of 100 places are taken, but only 24 bytes are left.
//! assert!(matches!(uploads.try_send(upload(25)), Err(SendError::Busy(_))));
//! uploads.try_send(upload(24))?;
//! // This one never fits.
//! assert!(matches!(uploads.try_send(upload(1025)), Err(SendError::TooLarge(_))));
//!
//! let first = queue.recv().await.map(|upload| upload.body.len());
//! assert_eq!(first, Some(1024));
//! uploads.try_send(upload(1024))?; // its bytes are free again
//!
//! drop(uploads);
//! let mut left = 0;
//! while queue.recv().await.is_some() {
//!     left += 1;
//! }
//! assert_eq!(left, 3); // then `None`: the last sender is gone
//! assert!(queue.accounts().balances());
//! # Ok(())
//! # }
//! ```
//!
//! | what ends it | what becomes of queued messages | sends fail with |
//! |---|---|---|
//! | the last sender is dropped | they are received, then `None` | |
//! | [`Receiver::close`](crate::Receiver::close) | they are received, then `None` | `Closed` |
//! | the receiver is dropped | dropped, counted, asks told `Closed` | `Closed` |
//! | [`ActorRef::stop`](crate::ActorRef::stop) or a [drain](super::drain) | handled, as long as there is time | `Draining` |
