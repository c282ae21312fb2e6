//! How messages with secrets are overwritten.
//!
//! Two switches, so that neither the operator nor the author decides alone: the configuration has `amnesia.enabled`
//! (which requires `zeroize_on_drop`), and the mailbox or actor is built with `zeroize()`, for which its messages
//! implement `zeroize::Zeroize`. Then every message that is dropped unhandled is overwritten first: expired, abandoned,
//! left behind by the end of its mailbox or by a drain.
//!
//! ```
//! use ryker::{Runtime, RykerConfig};
//! use std::sync::{Arc, Mutex};
//! use zeroize::Zeroize;
//!
//! /// Shows its bytes to the test when it is gone.
//! struct Secret {
//!     bytes: Vec<u8>,
//!     seen: Arc<Mutex<Vec<u8>>>,
//! }
//!
//! impl Zeroize for Secret {
//!     fn zeroize(&mut self) {
//!         self.bytes.as_mut_slice().zeroize();
//!     }
//! }
//!
//! impl Drop for Secret {
//!     fn drop(&mut self) {
//!         *self.seen.lock().unwrap() = self.bytes.clone();
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! for (amnesia, left) in [(true, [0, 0, 0]), (false, [7, 7, 7])] {
//!     let rt = Runtime::new(RykerConfig::builder().amnesia(amnesia).build()?);
//!     let (keys, queue) = rt.mailbox("keys").zeroize().build()?.split();
//!     let seen = Arc::default();
//!     keys.try_send(Secret { bytes: vec![7, 7, 7], seen: Arc::clone(&seen) })?;
//!     drop(queue);
//!     assert_eq!(*seen.lock().unwrap(), left);
//!     assert_eq!(keys.accounts().dropped, 1);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A message that is handed out belongs to its handler or receiver, who overwrites it (`Zeroizing` does); one that was
//! refused, or is dropped together with its `send`, belongs to its sender. Moving a value in Rust leaves its old bytes
//! where it was, and the queue moves: keep secrets behind a pointer, as `Vec`, `Box` and `String` do, so that there is
//! one copy to overwrite. Nothing of an actor crosses its restart but its mailbox; nothing is written to disk, and no
//! message is in a log line, label or error text.
