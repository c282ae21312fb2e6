//! The node's settings: the kernel's, `http.*` and its own.

use ron_config::{Schema, Settings};
use ron_host::http::HttpSettings;
use ron_host::{HostSettings, PoolSettings};

use crate::mailbox::MailboxSettings;
use crate::store::{StoreKind, StoreSettings};

/// Everything that can be set.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The kernel's part.
    pub kernel: ron_kernel::Config,
    /// Where to listen and how much to take.
    pub http: HttpSettings,
    /// Where objects are kept.
    pub store: StoreSettings,
    /// What the mailbox keeps.
    pub mailbox: MailboxSettings,
    /// Threads that wait for a disk.
    pub pool: PoolSettings,
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
            store: StoreSettings::default(),
            mailbox: MailboxSettings::default(),
            pool: PoolSettings::default(),
        }
    }
}

impl Settings for Config {
    fn schema(schema: &mut Schema<Self>) {
        ron_host::kernel_keys(schema);
        schema.include(|config: &mut Self| &mut config.http);
        schema.section("store", |config: &mut Self| &mut config.store);
        schema.check(&["store.kind", "amnesia.enabled"], |config: &Self| {
            if config.kernel.amnesia.enabled && config.store.kind != StoreKind::Memory {
                let problem =
                    "amnesia is on, and objects would outlive the process; expected store.kind \
                     = \"memory\", or amnesia.enabled = false";
                return Err(problem.to_owned());
            }
            Ok(())
        });
        schema.include(|config: &mut Self| &mut config.mailbox);
        schema.section("pool", |config: &mut Self| &mut config.pool);
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
