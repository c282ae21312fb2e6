//! `/v1/intents`, `/v1/epochs`, `/v1/accounts` and `/v1/head`.

use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{HeaderName, HeaderValue, CONTENT_TYPE};
use hyper::http::request::Parts;
use hyper::StatusCode;
use percent_encoding::percent_decode_str;
use ron_host::http::{Access, Answer, BodyAllowance, Call, Refusal, Routes};
use serde::Serialize;

use crate::amount::Amount;
use crate::intent::{Intent, NoIntent};
use crate::journal::{Entry, Receipt, Verdict};
use crate::name::{Name, NoName};
use crate::writer::{Ledger, Unanswered};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Of an intent: room for all the postings that it may have.
const INTENT: BodyAllowance = BodyAllowance {
    bytes: 8 << 20,
    timeout: Duration::from_secs(10),
};
/// What is read where it arrives: beyond that, reading it takes longer than others should wait for this worker.
const SMALL: usize = 64 << 10;
/// Until another try can help.
const MOMENT: Duration = Duration::from_secs(1);

/// The routes of a ledger.
pub fn routes(ledger: &Ledger) -> Routes {
    let [settling, runs, epochs, accounts, head] = [(); 5].map(|()| ledger.clone());
    let intent = |_: &Parts| Ok(Some(INTENT));
    Routes::new()
        .scope("ledger.intent.write")
        .route_allowing("POST", "/v1/intents", Access::Write, intent, move |call| {
            settle(settling.clone(), call)
        })
        .scope("ledger.read")
        .route("GET", "/v1/intents/{run_key}", Access::Read, move |call| {
            run(runs.clone(), call)
        })
        .route(
            "GET",
            "/v1/epochs/{tenant}/{epoch_id}",
            Access::Read,
            move |call| epoch(epochs.clone(), call),
        )
        .route("GET", "/v1/accounts/{account}", Access::Read, move |call| {
            account(accounts.clone(), call)
        })
        .route("GET", "/v1/head", Access::Read, move |call| {
            ends(head.clone(), call)
        })
}

#[derive(Serialize)]
struct Outcome {
    result: &'static str,
    receipt: Receipt,
}

#[derive(Serialize)]
struct Found<'a> {
    intent: &'a Intent,
    receipt: Receipt,
}

#[derive(Serialize)]
struct Account {
    account: Name,
    credits: Amount,
    debits: Amount,
}

async fn settle(ledger: Ledger, mut call: Call) -> Result<Answer, Refusal> {
    let key = call.header(IDEMPOTENCY_KEY).map(str::to_owned);
    let mut body = Vec::new();
    while let Some(piece) = call.piece().await? {
        body.extend_from_slice(&piece);
    }
    let intent = if body.len() > SMALL {
        let read = tokio::task::spawn_blocking(move || Intent::from_json(&body));
        read.await.map_err(|_| Refusal::internal("intent"))?
    } else {
        Intent::from_json(&body)
    };
    let intent = intent.map_err(|error| no_intent(&error))?;
    if key != Some(intent.run_key().to_string()) {
        let message = "expected one Idempotency-Key, with the intent's run_key";
        return Err(Refusal::bad_request("idempotency_key", message));
    }
    is_for(&call, intent.tenant())?;
    let verdict = ledger.settle(intent).await.map_err(unanswered)?;
    let conflict =
        |reason, message: &str| Refusal::new(StatusCode::CONFLICT, "Conflict", reason, message);
    let (result, receipt) = match verdict {
        Verdict::Accepted(receipt) => ("accepted", receipt),
        Verdict::Dup(receipt) => ("dup", receipt),
        Verdict::KeyReused => {
            return Err(conflict(
                "key_reused",
                "another intent was accepted under this run_key",
            ));
        }
        Verdict::EpochSettled { by } => {
            let refusal = conflict("epoch_settled", "another run settled this epoch");
            return Err(refusal.detail("run_key", by.to_string()));
        }
        Verdict::Exhausted => {
            let message = "all amounts of the journal together would be beyond 2^128 - 1";
            return Err(broken_law("exhausted", message.to_owned()));
        }
    };
    json(&Outcome { result, receipt })
}

async fn run(ledger: Ledger, call: Call) -> Result<Answer, Refusal> {
    let unknown = || Refusal::not_found("run_key", "no intent was accepted under this run_key");
    let key = param(&call, "run_key").ok_or_else(unknown)?;
    let entry = ledger.run(key).await;
    found(&call, entry, unknown)
}

async fn epoch(ledger: Ledger, call: Call) -> Result<Answer, Refusal> {
    let unknown = || Refusal::not_found("epoch", "this epoch of this tenant is not settled");
    let tenant = param(&call, "tenant").ok_or_else(unknown)?;
    let epoch = param(&call, "epoch_id").ok_or_else(unknown)?;
    let entry = ledger.epoch(tenant, epoch).await;
    found(&call, entry, unknown)
}

async fn account(ledger: Ledger, call: Call) -> Result<Answer, Refusal> {
    is_for_all(&call)?;
    let none = || Refusal::bad_request("account", NoName.to_string());
    let account: Name = param(&call, "account").ok_or_else(none)?;
    let balance = ledger.balance(account.clone()).await.map_err(unanswered)?;
    let (credits, debits) = (balance.credits, balance.debits);
    json(&Account {
        account,
        credits,
        debits,
    })
}

async fn ends(ledger: Ledger, call: Call) -> Result<Answer, Refusal> {
    is_for_all(&call)?;
    json(&ledger.head().await.map_err(unanswered)?)
}

/// What stands in the path for `name`, in which `/` is written as `%2F`.
fn param<T: FromStr>(call: &Call, name: &str) -> Option<T> {
    let text = percent_decode_str(call.param(name)).decode_utf8().ok()?;
    text.parse().ok()
}

/// A capability of one tenant is for nothing of another's.
fn is_for(call: &Call, tenant: &Name) -> Result<(), Refusal> {
    let is_own = call.tenant().is_none_or(|own| own == tenant.as_str());
    is_own.then_some(()).ok_or_else(of_another)
}

/// Accounts and the journal are not of one tenant.
fn is_for_all(call: &Call) -> Result<(), Refusal> {
    call.tenant().map_or(Ok(()), |_| Err(of_another()))
}

fn of_another() -> Refusal {
    let message = "the token is for one tenant, and this is not of it alone";
    Refusal::new(
        StatusCode::FORBIDDEN,
        "InvalidCapability",
        "tenant",
        message,
    )
}

fn found(
    call: &Call,
    entry: Result<Option<Entry>, Unanswered>,
    unknown: impl FnOnce() -> Refusal,
) -> Result<Answer, Refusal> {
    let entry = entry.map_err(unanswered)?.ok_or_else(unknown)?;
    is_for(call, entry.intent.tenant())?;
    json(&Found {
        receipt: entry.receipt(),
        intent: &entry.intent,
    })
}

/// Something that can be read, and that no later try makes right.
fn broken_law(reason: &'static str, message: String) -> Refusal {
    Refusal::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "Unprocessable",
        reason,
        message,
    )
}

fn no_intent(error: &NoIntent) -> Refusal {
    let message = error.to_string();
    match error {
        NoIntent::Shape(_) => Refusal::bad_request("schema", message),
        NoIntent::Version(_) => Refusal::bad_request("version", message),
        _ => broken_law("intent", message),
    }
}

fn unanswered(error: Unanswered) -> Refusal {
    match error {
        Unanswered::Busy => Refusal::unavailable("queue_full", error.to_string(), MOMENT),
        // What the store said is for the log.
        Unanswered::Unknown(_) => {
            let message = "the ledger does not answer; what was sent may be accepted: the same again will tell";
            Refusal::unavailable("ledger_unknown", message, MOMENT)
        }
    }
}

fn json(body: &impl Serialize) -> Result<Answer, Refusal> {
    let body = serde_json::to_vec(body).map_err(|_| Refusal::internal("json"))?;
    let mut answer = Answer::full(StatusCode::OK, Bytes::from(body));
    let json = HeaderValue::from_static("application/json");
    answer.headers_mut().insert(CONTENT_TYPE, json);
    Ok(answer)
}
