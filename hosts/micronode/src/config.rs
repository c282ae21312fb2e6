//! The node's settings: the kernel's, `http.*` and its own.

use ron_config::{ByteSize, Schema, Settings};
use ron_host::http::HttpSettings;
use ron_host::HostSettings;

use crate::mailbox::MailboxSettings;

/// Everything that can be set.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The kernel's part.
    pub kernel: ron_kernel::Config,
    /// Where to listen and how much to take.
    pub http: HttpSettings,
    /// `store.max_bytes`: what objects may take in memory. 256 MiB.
    pub store_max_bytes: ByteSize,
    /// What the mailbox keeps.
    pub mailbox: MailboxSettings,
}

impl Default for Config {
    fn default() -> Self {
        let mut kernel = ron_kernel::Config::default();
        kernel.amnesia.enabled = true;
        let mut http = HttpSettings::default();
        http.auth.audience = "micronode".to_owned();
        Self {
            kernel,
            http,
            store_max_bytes: ByteSize::new(256 << 20),
            mailbox: MailboxSettings::default(),
        }
    }
}

impl Settings for Config {
    fn schema(schema: &mut Schema<Self>) {
        ron_host::kernel_keys(schema);
        schema.include(|config: &mut Self| &mut config.http);
        schema
            .key("store.max_bytes", |config: &mut Self| {
                &mut config.store_max_bytes
            })
            .doc("what objects may take in memory, with what it costs to keep them")
            .range(ByteSize::new(1 << 20)..=ByteSize::new(1 << 40));
        schema.include(|config: &mut Self| &mut config.mailbox);
    }
}

impl HostSettings for Config {
    fn kernel(&self) -> &ron_kernel::Config {
        &self.kernel
    }

    fn kernel_mut(&mut self) -> &mut ron_kernel::Config {
        &mut self.kernel
    }
}
