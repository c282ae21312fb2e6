//! `/rewarder/...`: who may ask for what, and what is refused before any work is done.

use std::str::FromStr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crossbeam_channel::TrySendError;
use hyper::header::{HeaderName, HeaderValue, CONTENT_TYPE, ETAG};
use hyper::StatusCode;
use percent_encoding::percent_decode_str;
use ron_host::http::{Access, Answer, Call, Refusal, Routes};
use ron_metrics::{Metrics, MetricsError};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::metrics::Instruments;
use super::registry::{Begun, Reply};
use super::worker::{announce, frozen, Job};
use super::Service;
use crate::quarantine::State;
use crate::{Address, EpochId, Name, RunKey};

const CORR_ID: HeaderName = HeaderName::from_static("x-corr-id");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// What is said beside a run, at most.
const NOTES_MAX: usize = 1024;
/// For a run: its place in the queue, its computation, and all attempts at the ledger.
const PATIENCE: Duration = Duration::from_secs(10);
/// Until another try can help.
const MOMENT: Duration = Duration::from_secs(1);

/// The routes of the service.
///
/// # Errors
/// The page of metrics has a family of ours already.
pub fn routes(service: &Arc<Service>, metrics: &Metrics) -> Result<Routes, MetricsError> {
    let [computing, runs, policies, quarantine, clearing] = [(); 5].map(|()| Arc::clone(service));
    let instruments = service.instruments(metrics)?;
    let of_clearing = Arc::clone(&instruments);
    Ok(Routes::new()
        .counted_as(word)
        .scope("rewarder.run")
        .route(
            "POST",
            "/rewarder/epochs/{id}/compute",
            Access::Write,
            move |call| compute(Arc::clone(&computing), Arc::clone(&instruments), call),
        )
        .scope("rewarder.inspect")
        .route("GET", "/rewarder/epochs/{id}", Access::Read, move |call| {
            manifest(Arc::clone(&runs), call)
        })
        .route("GET", "/rewarder/policy/{id}", Access::Read, move |call| {
            policy(Arc::clone(&policies), call)
        })
        .scope("rewarder.quarantine")
        .route("GET", "/rewarder/quarantine", Access::Read, move |call| {
            status(Arc::clone(&quarantine), call)
        })
        .route(
            "POST",
            "/rewarder/quarantine/clear",
            Access::Write,
            move |call| clear(Arc::clone(&clearing), Arc::clone(&of_clearing), call),
        ))
}

/// What the runbook calls a refusal, and of others what it is called in its answer.
fn word(refusal: &Refusal) -> Option<&'static str> {
    let status = refusal.status();
    Some(match (status.as_u16(), refusal.reason()) {
        (401, _) => "unauth",
        (404 | 405, _) => return None,
        (413, _) => "body_too_big",
        (429, "rate") | (503, "inflight") => "over_capacity",
        (_, reason) => reason,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    inputs_cid: String,
    policy_id: String,
    policy_hash: String,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    notes: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Clearing {
    reason: String,
}

#[derive(Serialize)]
struct Status {
    state: &'static str,
    pending: usize,
    /// Of the oldest, that are sent first.
    runs: Vec<Pending>,
}

#[derive(Serialize)]
struct Pending {
    tenant: String,
    epoch_id: String,
    run_key: Option<String>,
}

/// Runs that a status lists.
const LISTED: usize = 100;

async fn compute(
    service: Arc<Service>,
    instruments: Arc<Instruments>,
    mut call: Call,
) -> Result<Answer, Refusal> {
    let tenant = tenant(&call)?;
    let settings = service.settings();
    {
        let mut tenants = service
            .tenants
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let taken = tenants.take(&tenant, settings.tenant_rps, service.now());
        taken.map_err(|wait| {
            let message = "this tenant asks more often than it may: rewarder.tenant_rps";
            let status = StatusCode::TOO_MANY_REQUESTS;
            Refusal::new(status, "RateLimited", "tenant_rps", message).retry_after(wait)
        })?;
    }
    let epoch_id: EpochId = param(&call, "id")?;
    let body = body(&mut call).await?;
    let asked: Asked = serde_json::from_slice(&body).map_err(|error| schema(&error))?;
    if asked.notes.len() > NOTES_MAX {
        return Err(field(
            "notes",
            &format!("expected at most {NOTES_MAX} bytes"),
        ));
    }
    let inputs_cid: Address = parsed("inputs_cid", &asked.inputs_cid)?;
    let policy_hash: Address = parsed("policy_hash", &asked.policy_hash)?;
    let policy_id: Name = parsed("policy_id", &asked.policy_id)?;
    let run_key = RunKey::of(&tenant, &epoch_id, &policy_hash, &inputs_cid);
    let corr_id = corr_id(&call);
    let key = (tenant, epoch_id);
    let (waiter, told) = oneshot::channel();
    let mut job = Job {
        key: key.clone(),
        inputs_cid,
        policy_id,
        policy_hash,
        dry: None,
        corr_id,
    };
    if asked.dry_run {
        job.dry = Some(waiter);
        queue(&service, settings.queue, job)?;
        return answer(told).await;
    }
    // Decided in one piece, so that of two requests for one epoch one is the first.
    let begun = {
        let mut state = service.state();
        let is_frozen = state.machine.state() == State::Frozen;
        let begun = state.runs.begin(&key, run_key, waiter);
        if is_frozen && matches!(begun, Begun::First) {
            drop(state.runs.forget(&key));
            return Err(frozen());
        }
        begun
    };
    match begun {
        Begun::First => {
            if let Err(refusal) = queue(&service, settings.queue, job) {
                let waiters = service.state().runs.forget(&key);
                super::worker::tell(waiters, &Err(refusal.clone()));
                return Err(refusal);
            }
        }
        Begun::Waits => instruments.idempotent.inc(),
        Begun::Replayed(reply) => {
            instruments.idempotent.inc();
            return Ok(json(reply));
        }
        Begun::Bound { by } => {
            instruments.conflicts.inc();
            let message = "this epoch is that of a run with other inputs or another policy";
            let refusal = Refusal::new(StatusCode::CONFLICT, "Conflict", "epoch_bound", message);
            return Err(refusal.detail("run_key", by.to_string()));
        }
        Begun::Full => {
            let message = "more runs are under way or kept than this node takes";
            return Err(Refusal::unavailable("queue_full", message, MOMENT));
        }
    }
    answer(told).await
}

/// Puts a job into the queue, if it has a place.
fn queue(service: &Service, places: usize, job: Job) -> Result<(), Refusal> {
    let full = || {
        let message = "more runs wait for a thread than may: rewarder.queue";
        Refusal::unavailable("queue_full", message, MOMENT)
    };
    if service.jobs.0.len() >= places {
        return Err(full());
    }
    service.jobs.0.try_send(job).map_err(|error| match error {
        TrySendError::Full(_) => full(),
        TrySendError::Disconnected(_) => Refusal::internal("queue"),
    })
}

async fn answer(told: oneshot::Receiver<super::registry::Outcome>) -> Result<Answer, Refusal> {
    match timeout(PATIENCE, told).await {
        Ok(Ok(outcome)) => outcome.map(json),
        Ok(Err(_)) => Err(Refusal::internal("run")),
        Err(_) => {
            let message = "the run is still under way; the same request again will tell";
            Err(Refusal::unavailable("run_timeout", message, MOMENT))
        }
    }
}

async fn manifest(service: Arc<Service>, call: Call) -> Result<Answer, Refusal> {
    let tenant = tenant(&call)?;
    let unknown = || {
        let message = "no run of this epoch is at hand; compute it again to have it";
        Refusal::not_found("epoch", message)
    };
    let epoch_id: EpochId = param(&call, "id")?;
    let run = service.state().runs.run(&(tenant, epoch_id));
    let run = run.ok_or_else(unknown)?;
    let mut answer = Answer::full(StatusCode::OK, run.bytes.clone());
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", run.commitment)) {
        headers.insert(ETAG, tag);
    }
    Ok(answer)
}

async fn policy(service: Arc<Service>, call: Call) -> Result<Answer, Refusal> {
    let id: Name = param(&call, "id")?;
    let read = tokio::task::spawn_blocking(move || service.library.policy(&id));
    let read = read.await.map_err(|_| Refusal::internal("policy"))??;
    let unknown = || Refusal::not_found("policy_unknown", "there is no policy of this id");
    let (_, bytes) = read.ok_or_else(unknown)?;
    Ok(json(Reply {
        status: StatusCode::OK,
        body: bytes.into(),
        is_replay: false,
    }))
}

async fn status(service: Arc<Service>, call: Call) -> Result<Answer, Refusal> {
    is_for_all(&call)?;
    Ok(shown(&service))
}

async fn clear(
    service: Arc<Service>,
    instruments: Arc<Instruments>,
    mut call: Call,
) -> Result<Answer, Refusal> {
    is_for_all(&call)?;
    let body = body(&mut call).await?;
    let asked: Clearing = serde_json::from_slice(&body).map_err(|error| schema(&error))?;
    if asked.reason.len() > NOTES_MAX {
        return Err(field(
            "reason",
            &format!("expected at most {NOTES_MAX} bytes"),
        ));
    }
    let now = service.now();
    let cleared = service.state().machine.clear(now, &asked.reason);
    let change = cleared.map_err(|error| {
        let conflict = StatusCode::CONFLICT;
        Refusal::new(conflict, "Conflict", "quarantine", error.to_string())
    })?;
    announce(Some(&change), &instruments);
    Ok(shown(&service))
}

fn shown(service: &Service) -> Answer {
    let state = service.state();
    let pending = state.machine.pending();
    let listed = pending.take(LISTED).map(|key| Pending {
        tenant: key.0.to_string(),
        epoch_id: key.1.to_string(),
        run_key: state.runs.run(key).map(|run| run.run_key.to_string()),
    });
    let status = Status {
        state: state.machine.state().name(),
        pending: state.machine.pending().len(),
        runs: listed.collect(),
    };
    drop(state);
    json(Reply {
        status: StatusCode::OK,
        body: serde_json::to_vec(&status).unwrap_or_default().into(),
        is_replay: false,
    })
}

/// Whose runs: the token says, and nothing else.
fn tenant(call: &Call) -> Result<Name, Refusal> {
    let refused = |message| {
        Refusal::new(
            StatusCode::FORBIDDEN,
            "InvalidCapability",
            "tenant",
            message,
        )
    };
    let message =
        "a run is the token's tenant's, and this token has none; expected one with a tenant caveat";
    let tenant = call.tenant().ok_or_else(|| refused(message))?;
    let message =
        "the token's tenant cannot have runs; expected 1 to 64 of A-Z a-z 0-9 . _ : / @ -";
    tenant.parse().map_err(|_| refused(message))
}

/// The ledger and what is kept for it are not of one tenant.
fn is_for_all(call: &Call) -> Result<(), Refusal> {
    let message = "the token is for one tenant, and this is of all";
    call.tenant().map_or(Ok(()), |_| {
        let status = StatusCode::FORBIDDEN;
        Err(Refusal::new(status, "InvalidCapability", "tenant", message))
    })
}

/// What its sender calls a request, if that may stand in a log.
fn corr_id(call: &Call) -> String {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    let theirs = call
        .header(CORR_ID)
        .filter(|id| (1..=64).contains(&id.len()) && id.bytes().all(is_allowed));
    theirs.unwrap_or("-").to_owned()
}

async fn body(call: &mut Call) -> Result<Vec<u8>, Refusal> {
    let mut body = Vec::new();
    while let Some(piece) = call.piece().await.map_err(bomb)? {
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

/// The runbook answers a bomb with 400.
fn bomb(refusal: Refusal) -> Refusal {
    match refusal.reason() {
        "decompress" => {
            let message = "the body grows too much when it is decompressed";
            Refusal::bad_request("decompress_ratio", message).closing()
        }
        _ => refusal,
    }
}

fn param<T: FromStr<Err: std::fmt::Display>>(call: &Call, name: &str) -> Result<T, Refusal> {
    let text = percent_decode_str(call.param(name)).decode_utf8();
    let text = text.map_err(|_| field(name, "expected UTF-8"))?;
    parsed(name, &text)
}

fn parsed<T: FromStr<Err: std::fmt::Display>>(name: &str, text: &str) -> Result<T, Refusal> {
    text.parse()
        .map_err(|error: T::Err| field(name, &error.to_string()))
}

fn field(name: &str, problem: &str) -> Refusal {
    Refusal::bad_request("schema", format!("{name}: {problem}"))
}

/// What serde says, without what it found: that would be the sender's words.
fn schema(error: &serde_json::Error) -> Refusal {
    let said = error.to_string();
    let expected = said.rfind(", expected ").map(|at| &said[at + 2..]);
    let (line, column) = (error.line(), error.column());
    let place = format!(" at line {line} column {column}");
    let said = expected.unwrap_or(&said).trim_end_matches(&place);
    Refusal::bad_request("schema", format!("line {line} column {column}: {said}"))
}

fn json(reply: Reply) -> Answer {
    let Reply {
        status,
        body,
        is_replay,
    } = reply;
    let mut answer = Answer::full(status, body);
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if is_replay {
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    answer
}
