//! Inputs by their address and policies by their id, from directories.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use hyper::StatusCode;
use ron_host::http::Refusal;

use super::config::RewarderSettings;
use crate::{Address, Name, Policy, SignedPolicy, TrustedKeys, BYTES_MAX, POLICY_BYTES_MAX};

/// Where they are, and who may sign.
#[derive(Debug)]
pub(super) struct Library {
    inputs: PathBuf,
    policies: PathBuf,
    trusted: TrustedKeys,
}

impl Library {
    pub(super) fn new(settings: &RewarderSettings) -> Self {
        // The schema has refused those that are none.
        let keys = settings.trusted.iter().filter_map(|key| key.parse().ok());
        Library {
            inputs: settings.inputs.clone(),
            policies: settings.policies.clone(),
            trusted: keys.collect(),
        }
    }

    /// The bytes that are kept under an address. Whether they are those is for whoever opens them.
    pub(super) fn inputs(&self, cid: &Address) -> Result<Vec<u8>, Refusal> {
        let message = "there are no inputs under inputs_cid; expected a file of inputs.dir";
        let path = self.inputs.join(format!("{cid:x}"));
        let bytes = read(&path, BYTES_MAX)?;
        bytes.ok_or_else(|| Refusal::bad_request("inputs_unknown", message))
    }

    /// A policy that somebody has signed who may, and its text, if there is one of this id.
    pub(super) fn policy(&self, id: &Name) -> Result<Option<(Policy, Vec<u8>)>, Refusal> {
        // No name has a `%`, so that each has a file of its own, and none is in another directory.
        let file = format!("{}.json", id.as_str().replace('/', "%2F"));
        let Some(bytes) = read(&self.policies.join(file), POLICY_BYTES_MAX)? else {
            return Ok(None);
        };
        let damaged = |what: String| {
            tracing::error!(event = "policy_damaged", policy = %id, "a policy cannot be used: {what}");
            Refusal::internal("policy_damaged")
        };
        let signed = SignedPolicy::read(&bytes).map_err(|error| damaged(error.to_string()))?;
        let policy = signed.verify(&self.trusted).map_err(|error| {
            tracing::warn!(event = "policy_signature", policy = %id, "a policy is not believed: {error}");
            let message = "the signature of this policy does not count; expected one by a key of policies.trusted";
            Refusal::new(StatusCode::FORBIDDEN, "Untrusted", "policy_signature", message)
        })?;
        if policy.id() != id {
            return Err(damaged("it has the file of another".to_owned()));
        }
        Ok(Some((policy, bytes)))
    }
}

fn read(path: &Path, max: usize) -> Result<Option<Vec<u8>>, Refusal> {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = File::open(path)?;
        file.take(max as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > max {
            return Err(io::Error::new(ErrorKind::InvalidData, "it is too long"));
        }
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => {
            let path = path.display().to_string();
            tracing::error!(
                event = "file_failed",
                path,
                "a file cannot be read: {error}"
            );
            Err(Refusal::internal("file"))
        }
    }
}
