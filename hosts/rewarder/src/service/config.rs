//! The service's settings: the kernel's, `http.*`, the embedded ledger's and its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ron_config::{ByteSize, Reload, Schema, Settings, Unit};
use ron_host::http::{HttpAddr, HttpSettings};
use ron_host::HostSettings;
use ron_metrics::Pq;
use svc_ledger::service::LedgerSettings;

use crate::quarantine::Rules;
use crate::PublicKey;

/// Everything that can be set.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The kernel's part.
    pub kernel: ron_kernel::Config,
    /// Where to listen and how much to take.
    pub http: HttpSettings,
    /// Where the embedded ledger keeps its journal.
    pub ledger: LedgerSettings,
    /// Runs.
    pub rewarder: RewarderSettings,
}

impl Default for Config {
    fn default() -> Self {
        let mut kernel = ron_kernel::Config::default();
        kernel.observability.addr = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 9909));
        kernel.observability.expose_http = true;
        let mut http = HttpSettings::default();
        http.addr = HttpAddr::Tcp(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080)));
        http.auth.audience = "svc-rewarder".to_owned();
        let mut ledger = LedgerSettings::default();
        ledger.dir = PathBuf::from("/var/lib/svc-rewarder/journal");
        Self {
            kernel,
            http,
            ledger,
            rewarder: RewarderSettings::default(),
        }
    }
}

/// What runs take and need.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RewarderSettings {
    /// Threads that compute. One less than there are processors, so that one is left for requests.
    pub workers: usize,
    /// Runs that wait for one of them. 4,096.
    pub queue: usize,
    /// Requests of one tenant per second. 100.
    pub tenant_rps: u32,
    /// For an answer of the ledger. 1 s.
    pub deadline: Duration,
    /// Further attempts where it does not answer. 2.
    pub retries: u32,
    /// Whether a key exchange without X25519MLKEM768 is out of the question.
    pub require_pq: bool,
    /// Inputs, by the digits of their address.
    pub inputs: PathBuf,
    /// Signed policies, by their id.
    pub policies: PathBuf,
    /// Keys that may sign policies.
    pub trusted: Vec<String>,
    /// Runs whose manifest is kept at hand. 4,096.
    pub runs: usize,
    /// Bytes of these manifests. 256 MiB: 100 of vector L.
    pub runs_bytes: ByteSize,
    /// When intents are kept instead of sent.
    pub rules: Rules,
}

impl Default for RewarderSettings {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            workers: processors.saturating_sub(1).max(1),
            queue: 4096,
            tenant_rps: 100,
            deadline: Duration::from_secs(1),
            retries: 2,
            require_pq: false,
            inputs: PathBuf::from("/var/lib/svc-rewarder/inputs"),
            policies: PathBuf::from("/etc/ron/svc-rewarder/policies"),
            trusted: Vec::new(),
            runs: 4096,
            runs_bytes: ByteSize::new(256 << 20),
            rules: Rules::default(),
        }
    }
}

impl Settings for RewarderSettings {
    fn schema(schema: &mut Schema<Self>) {
        schema
            .key("rewarder.workers", |all: &mut Self| &mut all.workers)
            .doc("threads that compute; by default one less than there are processors")
            .range(1..=256)
            .env("CONCURRENCY_COMPUTE_WORKERS");
        schema
            .key("rewarder.queue", |all: &mut Self| &mut all.queue)
            .doc("runs that wait for a thread")
            .range(1..=super::QUEUE_MAX)
            .env("WORK_QUEUE_MAX")
            .reload(Reload::Live);
        schema
            .key("rewarder.tenant_rps", |all: &mut Self| &mut all.tenant_rps)
            .doc("requests of one tenant per second")
            .range(1..=100_000)
            .env("TENANT_RPS_MAX")
            .reload(Reload::Live);
        schema
            .key("rewarder.require_pq", |all: &mut Self| &mut all.require_pq)
            .doc("refuses to start unless pq.mode is required")
            .env("REQUIRE_PQ_ON");
        schema
            .key("rewarder.runs", |all: &mut Self| &mut all.runs)
            .doc("runs whose manifest is kept at hand")
            .range(1..=1 << 20);
        schema
            .key("rewarder.runs_bytes", |all: &mut Self| &mut all.runs_bytes)
            .doc("bytes of these manifests")
            .range(ByteSize::new(16 << 20)..=ByteSize::new(1 << 40));
        schema
            .key("emit.deadline", |all: &mut Self| &mut all.deadline)
            .doc("for an answer of the ledger")
            .range(Duration::from_millis(10)..=Duration::from_secs(10))
            .env_with_unit("LEDGER_DEADLINE_MS", Unit::Millis)
            .reload(Reload::Live);
        schema
            .key("emit.retries", |all: &mut Self| &mut all.retries)
            .doc("further attempts where the ledger does not answer")
            .range(0..=5)
            .env("LEDGER_MAX_RETRIES")
            .reload(Reload::Live);
        schema
            .key("inputs.dir", |all: &mut Self| &mut all.inputs)
            .doc("directory of sealed inputs, each in a file of the 64 digits of its address");
        schema
            .key("policies.dir", |all: &mut Self| &mut all.policies)
            .doc("directory of signed policies, each in ID.json, where / of the id is written %2F");
        schema
            .key("policies.trusted", |all: &mut Self| &mut all.trusted)
            .doc("keys that may sign policies, as ed25519:HEX");
        schema.check(&["policies.trusted"], |all: &Self| {
            let mut keys = all.trusted.iter().enumerate();
            let wrong = keys.find_map(|(at, key)| Some((at, key.parse::<PublicKey>().err()?)));
            wrong.map_or(Ok(()), |(at, error)| Err(format!("key {at}: {error}")))
        });
        let times = || Duration::from_millis(1)..=Duration::from_secs(3600);
        schema
            .key("quarantine.slice", |all: &mut Self| &mut all.rules.slice)
            .doc("what the window of the ledger's answers is counted in")
            .range(times());
        schema
            .key("quarantine.slices", |all: &mut Self| &mut all.rules.slices)
            .doc("slices of the window")
            .range(2..=3600);
        schema
            .key("quarantine.recent", |all: &mut Self| &mut all.rules.recent)
            .doc("slices in which most answers may not be failures")
            .range(1..=3600);
        schema
            .key("quarantine.slow", |all: &mut Self| &mut all.rules.slow)
            .doc("a p99 of a window above it is a brownout")
            .range(times());
        schema
            .key("quarantine.fast", |all: &mut Self| &mut all.rules.fast)
            .doc("a p95 of a window below it ends one")
            .range(times());
        schema
            .key("quarantine.samples", |all: &mut Self| {
                &mut all.rules.samples
            })
            .doc("answers without which a window says nothing")
            .range(1..=1_000_000);
        schema
            .key("quarantine.failures", |all: &mut Self| {
                &mut all.rules.failures
            })
            .doc("failures in a row that are a brownout")
            .range(1..=1_000_000);
        schema
            .key("quarantine.probe", |all: &mut Self| &mut all.rules.probe)
            .doc(
                "between two probes of a ledger in a brownout, and until what failed is sent again",
            )
            .range(times());
        schema
            .key("quarantine.pending", |all: &mut Self| {
                &mut all.rules.pending
            })
            .doc("runs that may be under way to the ledger or kept")
            .range(1..=1 << 20);
        schema.check(&["quarantine.slice", "quarantine.probe"], |all: &Self| {
            all.rules.check().map_err(|error| error.to_string())
        });
    }
}

impl Settings for Config {
    fn schema(schema: &mut Schema<Self>) {
        ron_host::kernel_keys(schema);
        schema.include(|config: &mut Self| &mut config.http);
        schema.section("ledger", |config: &mut Self| &mut config.ledger);
        schema.include(|config: &mut Self| &mut config.rewarder);
        schema.check(&["auth.dev_allow"], |config: &Self| {
            let problem = "is on, and runs move money; expected capabilities: auth.keyring";
            match config.http.auth.dev_allow {
                true => Err(problem.to_owned()),
                false => Ok(()),
            }
        });
        schema.check(&["rewarder.require_pq", "pq.mode"], |config: &Self| {
            let problem = "is on, and pq.mode allows a key exchange without it; expected pq.mode = \"required\"";
            match config.rewarder.require_pq && config.kernel.pq.mode != Pq::Required {
                true => Err(problem.to_owned()),
                false => Ok(()),
            }
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
