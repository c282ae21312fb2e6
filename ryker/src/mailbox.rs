//! A queue with two hard bounds between any number of senders and one receiver.

mod intake;
mod line;
mod receiver;
mod sender;
mod shared;
mod turn;

use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use zeroize::Zeroize;

pub use receiver::{Delivery, Receiver};
pub use sender::Sender;

pub(crate) use intake::{Envelope, Phase, Stamp};
pub(crate) use receiver::Inbox;
pub(crate) use sender::Unsent;
use shared::Measured;
pub(crate) use shared::{Extras, Vacant};
pub(crate) use shared::{Shared, Spec};

use crate::account::Accounts;
use crate::core::{Core, Resident};
use crate::error::BuildError;
use crate::observer::Observer;

/// How many bytes a message counts as, for mailboxes with a [byte budget](MailboxBuilder::max_msg_bytes).
///
/// It is asked once, when the message is sent, on the sender's thread and outside all locks. What it answers is
/// charged while the message is in the mailbox and released when it leaves, even if it would answer otherwise by then.
pub trait MessageSize {
    /// Bytes, those that the message owns on the heap included: what the sender is to be charged with.
    fn message_size(&self) -> usize;
}

/// Its capacity, as that is what it takes.
impl MessageSize for Vec<u8> {
    fn message_size(&self) -> usize {
        self.capacity()
    }
}

impl MessageSize for [u8] {
    fn message_size(&self) -> usize {
        self.len()
    }
}

impl<T: MessageSize + ?Sized> MessageSize for Box<T> {
    fn message_size(&self) -> usize {
        (**self).message_size()
    }
}

/// Each reference counts in full, as any of them may be the one that keeps the value.
impl<T: MessageSize + ?Sized> MessageSize for Arc<T> {
    fn message_size(&self) -> usize {
        (**self).message_size()
    }
}

impl<T: MessageSize> MessageSize for Option<T> {
    fn message_size(&self) -> usize {
        self.as_ref().map_or(0, T::message_size)
    }
}

/// Its capacity, as that is what it takes.
impl MessageSize for String {
    fn message_size(&self) -> usize {
        self.capacity()
    }
}

/// The most messages a mailbox can be made for: each is a real slot, and at this many the queue of 64-byte messages
/// takes 80 MiB.
pub(crate) const CAPACITY_MAX: usize = 1 << 20;
const MSG_BYTES: std::ops::RangeInclusive<usize> = 1_024..=1 << 20;
const DEADLINE: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(60);

/// A mailbox of `T` before its two ends part; see [`Runtime::mailbox`](crate::Runtime::mailbox).
pub struct Mailbox<T> {
    sender: Sender<T>,
    receiver: Receiver<T>,
}

impl<T> Mailbox<T> {
    /// The end that many may hold, and the end that one does.
    pub fn split(self) -> (Sender<T>, Receiver<T>) {
        (self.sender, self.receiver)
    }

    /// The most messages that it holds.
    pub fn capacity(&self) -> usize {
        self.sender.capacity()
    }

    /// How long a message may take, from enqueueing on, unless its sender allows less.
    pub fn deadline(&self) -> Duration {
        Duration::from_millis(self.sender.shared.deadline_ms())
    }

    /// What became of every message.
    pub fn accounts(&self) -> Accounts {
        self.sender.accounts()
    }
}

impl<T> fmt::Debug for Mailbox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.sender.shared.fmt(f)
    }
}

/// Options of a mailbox; what is not set comes from the runtime's configuration.
#[must_use = "a builder does nothing until it is built"]
pub struct MailboxBuilder<T> {
    core: Arc<Core>,
    pub(crate) options: Options<T>,
}

/// What can be set of a mailbox, as it was set.
pub(crate) struct Options<T> {
    pub(crate) name: Arc<str>,
    pub(crate) capacity: Option<usize>,
    pub(crate) max_msg_bytes: Option<usize>,
    pub(crate) max_bytes: Option<u64>,
    pub(crate) deadline: Option<Duration>,
    pub(crate) measure: Option<fn(&T) -> usize>,
    pub(crate) scrub: Option<fn(&mut T)>,
    pub(crate) observer: Option<Arc<dyn Observer>>,
}

impl<T> Options<T> {
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            capacity: None,
            max_msg_bytes: None,
            max_bytes: None,
            deadline: None,
            measure: None,
            scrub: None,
            observer: None,
        }
    }

    fn check<V: PartialOrd + fmt::Debug>(
        &self,
        option: &'static str,
        value: Option<V>,
        range: &std::ops::RangeInclusive<V>,
        expected: &'static str,
    ) -> Result<(), BuildError> {
        match value {
            Some(value) if !range.contains(&value) => Err(BuildError::Invalid {
                name: self.name.to_string(),
                option,
                value: format!("{value:?}"),
                expected,
            }),
            _ => Ok(()),
        }
    }

    pub(crate) fn spec(self, core: &Core) -> Result<Spec<T>, BuildError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:/".contains(&byte);
        if !(1..=64).contains(&self.name.len()) || !self.name.bytes().all(allowed) {
            let name = self.name.to_string();
            return Err(BuildError::Name { name });
        }
        let config = core.config();
        self.check(
            "capacity",
            self.capacity,
            &(1..=CAPACITY_MAX),
            "1 to 1048576",
        )?;
        self.check(
            "max_msg_bytes",
            self.max_msg_bytes,
            &MSG_BYTES,
            "1024 (1KiB) to 1048576 (1MiB)",
        )?;
        self.check("deadline", self.deadline, &DEADLINE, "10ms to 60s")?;
        let capacity = self.capacity.unwrap_or_else(|| config.mailbox_capacity());
        let max_msg_bytes = self.max_msg_bytes.unwrap_or_else(|| config.max_msg_bytes());
        let largest = capacity as u64 * max_msg_bytes as u64;
        self.check(
            "max_bytes",
            self.max_bytes,
            &(max_msg_bytes as u64..=largest),
            "at least one message of max_msg_bytes, and at most capacity of them",
        )?;
        let scrubs = config.amnesia() && config.zeroize_on_drop();
        let extras = Extras {
            bytes: self.measure.map(|size| Measured {
                size,
                max_msg: max_msg_bytes as u32,
                max: self.max_bytes.unwrap_or(largest),
            }),
            scrub: self.scrub.filter(|_| scrubs),
            observer: self.observer,
            vacant: OnceLock::new(),
        };
        let ordinary =
            extras.bytes.is_none() && extras.scrub.is_none() && extras.observer.is_none();
        let millis = |deadline: Duration| NonZeroU32::new(deadline.as_millis() as u32);
        Ok(Spec {
            name: self.name,
            capacity: capacity as u32,
            deadline: self.deadline.and_then(millis),
            discard: None,
            extras: (!ordinary).then(|| Box::new(extras)),
        })
    }
}

impl<T: Send + 'static> MailboxBuilder<T> {
    pub(crate) fn new(core: Arc<Core>, name: Arc<str>) -> Self {
        Self {
            core,
            options: Options::new(name),
        }
    }

    /// The most messages it holds, 1 to 1,048,576; default: `defaults.mailbox_capacity`.
    pub fn capacity(mut self, messages: usize) -> Self {
        self.options.capacity = Some(messages);
        self
    }

    /// The deadline of every message, 10 ms to 60 s, from enqueueing on; default: `defaults.deadline`, whose reloads
    /// it then follows.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.options.deadline = Some(deadline);
        self
    }

    /// Tells `observer` what happens.
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.options.observer = Some(observer);
        self
    }

    /// Makes the mailbox.
    ///
    /// # Errors
    /// A bad name, an option out of its range, a runtime that drains.
    pub fn build(self) -> Result<Mailbox<T>, BuildError> {
        let spec = self.options.spec(&self.core)?;
        let shared = open(spec, &self.core)?;
        Ok(Mailbox {
            sender: Sender::new(Arc::clone(&shared)),
            receiver: Receiver::new(shared),
        })
    }
}

impl<T: MessageSize + Send + 'static> MailboxBuilder<T> {
    /// Bounds the mailbox by bytes too, as [`MessageSize`] tells them, with the limits of the configuration: a larger
    /// message than `defaults.max_msg_bytes` is refused as [`TooLarge`](crate::SendError::TooLarge).
    pub fn measured(mut self) -> Self {
        self.options.measure = Some(T::message_size);
        self
    }

    /// [`measured`](Self::measured), and a message may have `bytes`, 1 KiB to 1 MiB; default:
    /// `defaults.max_msg_bytes`.
    pub fn max_msg_bytes(mut self, bytes: usize) -> Self {
        self.options.max_msg_bytes = Some(bytes);
        self.measured()
    }

    /// [`measured`](Self::measured), and all messages together may have `bytes`: at least one of the largest, at most
    /// `capacity` of them, which is the default. When they have, the mailbox is full.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.options.max_bytes = Some(bytes);
        self.measured()
    }
}

impl<T: Zeroize + Send + 'static> MailboxBuilder<T> {
    /// With `amnesia.enabled`, overwrites messages that are dropped unhandled: expired, closed or drained away.
    ///
    /// A message that is handed out is its receiver's to overwrite. Moving a value leaves its old bytes where it was;
    /// keep secrets behind a pointer, as `Vec`, `Box` and `String` do, so that there is one copy to overwrite.
    pub fn zeroize(mut self) -> Self {
        self.options.scrub = Some(T::zeroize);
        self
    }
}

impl<T> fmt::Debug for MailboxBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MailboxBuilder")
            .field("name", &self.options.name)
            .finish_non_exhaustive()
    }
}

/// Makes what both ends share, and registers it with the runtime.
pub(crate) fn open<T: Send + 'static>(
    spec: Spec<T>,
    core: &Arc<Core>,
) -> Result<Arc<Shared<T>>, BuildError> {
    let shared = Arc::new(Shared::new(spec, Arc::clone(core)));
    let resident: Weak<Shared<T>> = Arc::downgrade(&shared);
    match core.register(resident as Weak<dyn Resident>) {
        Some(residence) => {
            shared.settle(residence);
            Ok(shared)
        }
        None => Err(BuildError::Draining {
            name: shared.spec.name.to_string(),
        }),
    }
}
