//! Who this process is: shown in `/version` and, once per scrape, in `ron_kernel_info`.

use std::collections::BTreeMap;
use std::fmt;

/// Identity and posture of the process. Make one with [`Identity::new`] and set the fields that are known.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Identity {
    /// This run of this process: unique among replicas and restarts.
    pub instance: String,
    /// Release of the program.
    pub version: String,
    /// Commit or build number.
    pub build: String,
    /// Compiler that built it.
    pub rustc: String,
    /// Whether the process keeps everything in RAM.
    pub amnesia: bool,
    /// Post-quantum posture.
    pub pq: Pq,
    /// Further features that are on or off, shown in `/version` only. The fields above stand in for keys `amnesia`
    /// and `pq`.
    pub features: BTreeMap<String, bool>,
    /// Hash of the configuration in force, so that an operator can tell which one is live.
    pub config_sha: Option<String>,
    /// How child processes are contained.
    pub containment: Option<String>,
}

impl Identity {
    /// Instance and version; the rest empty, off or unknown.
    pub fn new(instance: impl Into<String>, version: impl Into<String>) -> Identity {
        Identity {
            instance: instance.into(),
            version: version.into(),
            ..Identity::default()
        }
    }
}

/// Whether the X25519MLKEM768 key exchange is offered or demanded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Pq {
    /// Classical key exchange only.
    #[default]
    Off,
    /// Hybrid offered, classical accepted.
    Hybrid,
    /// Classical refused.
    Required,
}

impl fmt::Display for Pq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Pq::Off => "off",
            Pq::Hybrid => "hybrid",
            Pq::Required => "required",
        })
    }
}
