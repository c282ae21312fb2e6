//! The service's settings: the kernel's, `http.*` and its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ron_config::{Schema, Settings};
use ron_host::http::{HttpAddr, HttpSettings};
use ron_host::HostSettings;

/// Everything that can be set.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The kernel's part.
    pub kernel: ron_kernel::Config,
    /// Where to listen and how much to take.
    pub http: HttpSettings,
    /// Where the journal is kept.
    pub ledger: LedgerSettings,
}

impl Default for Config {
    fn default() -> Self {
        let mut kernel = ron_kernel::Config::default();
        kernel.observability.addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 9911));
        kernel.observability.expose_http = true;
        let mut http = HttpSettings::default();
        http.addr = HttpAddr::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 8091)));
        http.auth.audience = "svc-ledger".to_owned();
        Self {
            kernel,
            http,
            ledger: LedgerSettings::default(),
        }
    }
}

/// `ledger.*`: where the journal is kept. All of it is the next start's.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LedgerSettings {
    /// Where it is kept. In a file of SQLite.
    pub store: StoreKind,
    /// The directory of that file.
    pub dir: PathBuf,
    /// The file that says where PostgreSQL is, as there may be a password in it.
    pub postgres_file: Option<PathBuf>,
    /// What PostgreSQL may take for an answer, and for a lock. 5 s.
    pub patience: Duration,
    /// Whether a journal may end with the process.
    pub ephemeral: bool,
    /// Requests that wait for the thread that writes. 4,096: what it commits in a fifth of a second.
    pub queue: usize,
}

/// Where a journal is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreKind {
    /// In memory, until the process ends.
    Memory,
    /// In a file of SQLite.
    Sqlite,
    /// In a database of PostgreSQL.
    Postgres,
}

impl Default for LedgerSettings {
    fn default() -> Self {
        Self {
            store: StoreKind::Sqlite,
            dir: PathBuf::from("/var/lib/svc-ledger"),
            postgres_file: None,
            patience: Duration::from_secs(5),
            ephemeral: false,
            queue: 4096,
        }
    }
}

impl Settings for LedgerSettings {
    fn schema(schema: &mut Schema<Self>) {
        let kinds = [
            ("memory", StoreKind::Memory),
            ("sqlite", StoreKind::Sqlite),
            ("postgres", StoreKind::Postgres),
        ];
        schema
            .choice("store", |ledger: &mut Self| &mut ledger.store, &kinds)
            .doc("where the journal is kept; memory needs ledger.ephemeral");
        schema
            .key("dir", |ledger: &mut Self| &mut ledger.dir)
            .doc("directory of the journal in a file, of mode 700; made if it is not there");
        schema
            .key("postgres_file", |ledger: &mut Self| {
                &mut ledger.postgres_file
            })
            .doc(
                "file of mode 600 that says where PostgreSQL is, as `host=... user=... dbname=...`",
            );
        schema
            .key("patience", |ledger: &mut Self| &mut ledger.patience)
            .doc("for an answer of PostgreSQL")
            .range(Duration::from_millis(10)..=Duration::from_secs(60));
        schema
            .key("ephemeral", |ledger: &mut Self| &mut ledger.ephemeral)
            .doc("the journal may end with the process: for trying things out");
        schema
            .key("queue", |ledger: &mut Self| &mut ledger.queue)
            .doc("requests that wait for the journal")
            .range(1..=1 << 20);
        schema.check(&["store", "ephemeral", "postgres_file"], |ledger: &Self| {
            match (ledger.store, ledger.ephemeral, &ledger.postgres_file) {
                (StoreKind::Memory, false, _) => Err(
                    "the journal would end with the process; expected another store, or ledger.ephemeral = true"
                        .to_owned(),
                ),
                (StoreKind::Sqlite | StoreKind::Postgres, true, _) => {
                    Err("ledger.ephemeral is set, and the store outlives the process".to_owned())
                }
                (StoreKind::Postgres, _, None) => {
                    Err("the store in PostgreSQL has no ledger.postgres_file".to_owned())
                }
                (StoreKind::Memory | StoreKind::Sqlite, _, Some(_)) => {
                    Err("ledger.postgres_file is set, and ledger.store is not postgres".to_owned())
                }
                _ => Ok(()),
            }
        });
    }
}

impl Settings for Config {
    fn schema(schema: &mut Schema<Self>) {
        ron_host::kernel_keys(schema);
        schema.include(|config: &mut Self| &mut config.http);
        schema.section("ledger", |config: &mut Self| &mut config.ledger);
        schema.check(&["amnesia.enabled", "ledger.store"], |config: &Self| {
            if config.kernel.amnesia.enabled && config.ledger.store == StoreKind::Sqlite {
                let problem =
                    "amnesia is on, and the journal is a file; expected amnesia.enabled = false";
                return Err(problem.to_owned());
            }
            Ok(())
        });
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
