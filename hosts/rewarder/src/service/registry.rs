//! The runs that are under way, kept or done, by tenant and epoch. What is done is a cache: the ledger has the truth.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use hyper::StatusCode;
use ron_host::http::Refusal;
use serde::Serialize;
use svc_ledger::journal::Receipt;
use tokio::sync::oneshot;

use crate::{Address, EpochId, Manifest, Name, Run, RunKey};

/// Whose epoch.
pub(super) type Key = (Name, EpochId);
pub(super) type Outcome = Result<Reply, Refusal>;
/// Who asked. It may have gone.
pub(super) type Waiter = oneshot::Sender<Outcome>;

/// What a request is answered with.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
    /// It was decided before.
    pub(super) is_replay: bool,
}

/// A run that has its manifest.
#[derive(Debug)]
pub(super) struct Computed {
    pub(super) run_key: RunKey,
    pub(super) commitment: Address,
    /// The manifest's canonical text, of which the commitment is the address.
    pub(super) bytes: Bytes,
    compute_ms: u64,
    epoch_id: EpochId,
    totals: Totals,
    policy: PolicyRef,
}

#[derive(Debug)]
pub(super) struct Registry {
    runs: HashMap<Key, Entry>,
    /// Those that are done, the oldest first.
    done: VecDeque<Key>,
    /// Of all manifests.
    bytes: u64,
    runs_max: usize,
    bytes_max: u64,
}

#[derive(Debug)]
struct Entry {
    run_key: RunKey,
    run: Option<Arc<Computed>>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    UnderWay(Vec<Waiter>),
    /// For when the ledger is well.
    Kept,
    Done(Bytes),
}

/// What becomes of a request.
#[derive(Debug)]
pub(super) enum Begun {
    /// It is the first: the run is to be computed.
    First,
    /// The waiter will be told.
    Waits,
    Replayed(Reply),
    /// The epoch is that of another run.
    Bound {
        by: RunKey,
    },
    Full,
}

impl Registry {
    pub(super) fn new(runs_max: usize, bytes_max: u64) -> Self {
        Registry {
            runs: HashMap::new(),
            done: VecDeque::new(),
            bytes: 0,
            runs_max,
            bytes_max,
        }
    }

    pub(super) fn begin(&mut self, key: &Key, run_key: RunKey, waiter: Waiter) -> Begun {
        if let Some(entry) = self.runs.get_mut(key) {
            if entry.run_key != run_key {
                return Begun::Bound { by: entry.run_key };
            }
            return match (&mut entry.stage, &entry.run) {
                (Stage::UnderWay(waiters), _) => {
                    waiters.retain(|waiter| !waiter.is_closed());
                    waiters.push(waiter);
                    Begun::Waits
                }
                (Stage::Done(body), _) => Begun::Replayed(Reply {
                    status: StatusCode::OK,
                    body: body.clone(),
                    is_replay: true,
                }),
                (Stage::Kept, Some(run)) => Begun::Replayed(Reply {
                    is_replay: true,
                    ..run.kept()
                }),
                // Nothing is kept without its run.
                (Stage::Kept, None) => Begun::Full,
            };
        }
        self.evict(1, 0);
        if self.runs.len() >= self.runs_max || self.bytes >= self.bytes_max {
            return Begun::Full;
        }
        let entry = Entry {
            run_key,
            run: None,
            stage: Stage::UnderWay(vec![waiter]),
        };
        self.runs.insert(key.clone(), entry);
        Begun::First
    }

    /// It has its manifest. `false`: there is no room for it.
    pub(super) fn computed(&mut self, key: &Key, run: Arc<Computed>) -> bool {
        let bytes = run.bytes.len() as u64;
        self.evict(0, bytes);
        if self.bytes + bytes > self.bytes_max {
            return false;
        }
        if let Some(entry) = self.runs.get_mut(key) {
            self.bytes += bytes;
            entry.run = Some(run);
        }
        true
    }

    /// Its manifest, if it has one.
    pub(super) fn run(&self, key: &Key) -> Option<Arc<Computed>> {
        self.runs.get(key)?.run.clone()
    }

    /// It is for later.
    #[must_use]
    pub(super) fn keep(&mut self, key: &Key) -> Vec<Waiter> {
        self.stage(key, Stage::Kept)
    }

    /// The ledger has settled it.
    #[must_use]
    pub(super) fn done(&mut self, key: &Key, body: Bytes) -> Vec<Waiter> {
        if self.runs.contains_key(key) {
            self.done.push_back(key.clone());
        }
        self.stage(key, Stage::Done(body))
    }

    /// Nothing comes of it: its epoch is free again, as far as this process knows.
    #[must_use]
    pub(super) fn forget(&mut self, key: &Key) -> Vec<Waiter> {
        let Some(entry) = self.runs.remove(key) else {
            return Vec::new();
        };
        self.bytes -= entry.run.map_or(0, |run| run.bytes.len() as u64);
        match entry.stage {
            Stage::UnderWay(waiters) => waiters,
            Stage::Kept | Stage::Done(_) => Vec::new(),
        }
    }

    fn stage(&mut self, key: &Key, stage: Stage) -> Vec<Waiter> {
        let entry = self.runs.get_mut(key);
        match entry.map(|entry| std::mem::replace(&mut entry.stage, stage)) {
            Some(Stage::UnderWay(waiters)) => waiters,
            _ => Vec::new(),
        }
    }

    /// Makes room for so many runs and bytes, as far as what is done takes it.
    fn evict(&mut self, runs: usize, bytes: u64) {
        while self.runs.len() + runs > self.runs_max || self.bytes + bytes > self.bytes_max {
            let Some(oldest) = self.done.pop_front() else {
                return;
            };
            let _ = self.forget(&oldest);
        }
    }
}

#[derive(Debug, Serialize)]
struct Totals {
    pool: String,
    payout: String,
    residual: String,
}

#[derive(Debug, Serialize)]
struct PolicyRef {
    id: String,
    hash: String,
    signed: bool,
}

#[derive(Serialize)]
struct Body<'a> {
    epoch_id: &'a str,
    run_key: String,
    commitment: String,
    status: &'static str,
    #[serde(skip_serializing_if = "is_false")]
    quarantine: bool,
    #[serde(skip_serializing_if = "is_false")]
    dry_run: bool,
    totals: &'a Totals,
    policy: &'a PolicyRef,
    ledger: LedgerPart,
    metrics: Times,
}

#[derive(Serialize)]
struct LedgerPart {
    emitted: bool,
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<Receipt>,
}

#[derive(Serialize)]
struct Times {
    compute_ms: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_false(value: &bool) -> bool {
    !value
}

impl Computed {
    pub(super) fn new(run: Run, compute_ms: u64) -> Self {
        let Manifest {
            run_key,
            epoch_id,
            totals,
            policy,
            ..
        } = run.manifest;
        Computed {
            run_key,
            commitment: run.commitment,
            bytes: run.bytes.into(),
            compute_ms,
            epoch_id,
            totals: Totals {
                pool: totals.pool.to_string(),
                payout: totals.payout.to_string(),
                residual: totals.residual.to_string(),
            },
            policy: PolicyRef {
                id: policy.id.to_string(),
                hash: policy.hash.to_string(),
                signed: true,
            },
        }
    }

    /// The answer to a request whose intent the ledger has settled.
    pub(super) fn settled(&self, result: &'static str, receipt: Receipt) -> Reply {
        let ledger = LedgerPart {
            emitted: true,
            result,
            receipt: Some(receipt),
        };
        self.reply(StatusCode::OK, "ok", false, ledger)
    }

    /// To one whose intent is kept.
    pub(super) fn kept(&self) -> Reply {
        self.reply(StatusCode::ACCEPTED, "quarantined", false, NOTHING)
    }

    /// To one that asked what would come of it.
    pub(super) fn dry(&self) -> Reply {
        self.reply(StatusCode::OK, "ok", true, NOTHING)
    }

    fn reply(
        &self,
        status: StatusCode,
        word: &'static str,
        dry_run: bool,
        ledger: LedgerPart,
    ) -> Reply {
        let body = Body {
            epoch_id: self.epoch_id.as_str(),
            run_key: self.run_key.to_string(),
            commitment: self.commitment.to_string(),
            status: word,
            quarantine: status == StatusCode::ACCEPTED,
            dry_run,
            totals: &self.totals,
            policy: &self.policy,
            ledger,
            metrics: Times {
                compute_ms: self.compute_ms,
            },
        };
        // Nothing in it can fail to be JSON.
        let body = serde_json::to_vec(&body).unwrap_or_default().into();
        Reply {
            status,
            body,
            is_replay: false,
        }
    }
}

const NOTHING: LedgerPart = LedgerPart {
    emitted: false,
    result: "none",
    receipt: None,
};
