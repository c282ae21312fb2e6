//! `mailbox.*`: how much the mailbox keeps, and for how long.

use std::time::Duration;

use ron_config::{ByteSize, Reload, Schema, Settings};

/// How much the mailbox keeps, and for how long. A reload is in force from the next request on; what was accepted under
/// wider limits stays, but for dead letters, which are dropped down to their number.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MailboxSettings {
    /// Messages that wait or are leased. 10,000: what the node takes at its default rate in 20 s, a little less than
    /// consumers that have gone away need to come back.
    pub max_messages: usize,
    /// What messages, dead letters and keys may take in memory, with what it costs to keep them. 64 MiB, of which the keys
    /// of a window at the default rate take 37.
    pub max_bytes: ByteSize,
    /// How long a received message is hidden. 30 s.
    pub visibility: Duration,
    /// How often a message is delivered. 5.
    pub max_attempts: u32,
    /// How long a key is known after its message was sent. 5 min: clients that retry have given up by then.
    pub dedupe_window: Duration,
    /// Dead letters. 1,000, more than anybody looks through.
    pub dead_letters: usize,
}

impl Default for MailboxSettings {
    fn default() -> Self {
        Self {
            max_messages: 10_000,
            max_bytes: ByteSize::new(64 << 20),
            visibility: Duration::from_secs(30),
            max_attempts: 5,
            dedupe_window: Duration::from_secs(300),
            dead_letters: 1_000,
        }
    }
}

impl Settings for MailboxSettings {
    fn schema(schema: &mut Schema<Self>) {
        schema
            .key("mailbox.max_messages", |mailbox: &mut Self| {
                &mut mailbox.max_messages
            })
            .doc("messages that wait or are leased")
            .range(1..=1_000_000)
            .reload(Reload::Live);
        // One message of the largest body fits at least.
        schema
            .key("mailbox.max_bytes", |mailbox: &mut Self| {
                &mut mailbox.max_bytes
            })
            .doc("what messages, dead letters and keys may take in memory, with what it costs to keep them")
            .range(ByteSize::new(2 << 20)..=ByteSize::new(1 << 40))
            .reload(Reload::Live);
        schema
            .key("mailbox.visibility", |mailbox: &mut Self| {
                &mut mailbox.visibility
            })
            .doc("how long a received message is hidden, and can be acked")
            .range(Duration::from_millis(100)..=Duration::from_secs(12 * 3600))
            .reload(Reload::Live);
        schema
            .key("mailbox.max_attempts", |mailbox: &mut Self| {
                &mut mailbox.max_attempts
            })
            .doc("how often a message is delivered before it is a dead letter")
            .range(1..=100)
            .reload(Reload::Live);
        schema
            .key("mailbox.dedupe_window", |mailbox: &mut Self| {
                &mut mailbox.dedupe_window
            })
            .doc("how long an Idempotency-Key is known, at least")
            .range(Duration::from_secs(1)..=Duration::from_secs(24 * 3600))
            .reload(Reload::Live);
        schema
            .key("mailbox.dead_letters", |mailbox: &mut Self| {
                &mut mailbox.dead_letters
            })
            .doc("dead letters that are kept; the oldest is dropped for the next one")
            .range(0..=100_000)
            .reload(Reload::Live);
    }
}
