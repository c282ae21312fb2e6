//! From a request to its answer.

use super::answers::{
    self, About, Accepted, Cause, Changes, Chaos, Cleared, Diagnosed, Draining, Failure, Fault,
    Head, Plan, Problem, Stage, Staged, Stake, State, Time, Top, Topic, Topics, Tree,
};
use super::drills::{self, Refusal, Wanted};
use super::fields::{self, Fields};
use super::record::{EntryKind, News};
use super::server::LASTING_MAX;
use super::tail::Lines;
use super::{diagnose, situation, Refused, Request, Route};
use crate::event::{millis, KERNEL_TOPIC};
use crate::handle::{ControlError, KernelHandle};
use crate::reload::ReloadError;
use crate::snapshot::{Explanation, Reason, TreeNode};
use crate::supervisor::engine::Engine;
use crate::supervisor::faults::Campaign;
use crate::supervisor::machine::{Machine, State as Phase};
use crate::usage::Usage;
use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use ron_bus::{Start, TailError};
use ron_config::{ConfigErrors, ReloadReport};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How far back `changes` goes when nobody says.
const SINCE_DEFAULT: Duration = Duration::from_secs(3600);

/// Bytes of an id that may be a slip of a known one: three levels of names.
const ID_MAX: usize = 400;

/// One request, whole.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) body: Bytes,
    pub(crate) peer: Peer,
    /// Its connection's, kept by what it asked for when the client goes away.
    pub(crate) _place: Arc<OwnedSemaphorePermit>,
}

/// Who asks, by the system's word.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) uid: u32,
    pub(crate) pid: Option<i32>,
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "uid {}", self.uid)?;
        match self.pid {
            Some(pid) => write!(f, " pid {pid}"),
            None => Ok(()),
        }
    }
}

pub(crate) enum Answer {
    Json {
        status: StatusCode,
        body: Vec<u8>,
        /// The methods that would have been right.
        allow: Option<String>,
    },
    Lines(Lines),
}

/// What the routes work on.
pub(crate) struct Service {
    engine: Arc<Engine>,
    handle: KernelHandle,
    routes: Vec<Route>,
    /// Places for tails.
    lasting: Arc<Semaphore>,
}

impl Service {
    pub(crate) fn new(engine: &Arc<Engine>, routes: Vec<Route>) -> Service {
        Service {
            engine: engine.clone(),
            handle: KernelHandle::new(engine.clone()),
            routes,
            lasting: Arc::new(Semaphore::new(LASTING_MAX)),
        }
    }

    /// Nobody else may begin a tail.
    pub(crate) fn close(&self) {
        self.lasting.close();
    }
}

type Query = BTreeMap<String, String>;
type Answered = Result<Answer, Failed>;

/// An answer that says no.
struct Failed {
    status: StatusCode,
    code: String,
    message: String,
    suggestion: Option<Option<String>>,
    allow: Option<String>,
}

impl Failed {
    fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Failed {
        Failed {
            status,
            code: code.to_owned(),
            message: message.into(),
            suggestion: None,
            allow: None,
        }
    }

    fn bad_request(message: impl Into<String>) -> Failed {
        Failed::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    fn conflict(message: impl Into<String>) -> Failed {
        Failed::new(StatusCode::CONFLICT, "conflict", message)
    }

    fn unknown_child(engine: &Engine, id: &str) -> Failed {
        let suggestion = suggestion(engine, id);
        let hint = suggestion
            .as_ref()
            .map(|id| format!("; did you mean `{id}`?"))
            .unwrap_or_default();
        let message = format!("no child is named `{id}`{hint}");
        Failed {
            suggestion: Some(suggestion),
            ..Failed::new(StatusCode::NOT_FOUND, "unknown_child", message)
        }
    }

    fn of_host(refused: Refused) -> Failed {
        let status = StatusCode::from_u16(refused.status)
            .ok()
            .filter(|status| status.is_client_error() || status.is_server_error());
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Failed::new(status, refused.code, refused.message)
    }

    fn control(engine: &Engine, error: &ControlError) -> Failed {
        match error {
            ControlError::Unknown { id } => Failed::unknown_child(engine, id),
            ControlError::NotArmed => {
                Failed::new(StatusCode::FORBIDDEN, "not_armed", error.to_string())
            }
            _ => Failed::conflict(error.to_string()),
        }
    }

    fn drill(engine: &Engine, refusal: &Refusal) -> Failed {
        match refusal {
            Refusal::NotArmed => {
                Failed::new(StatusCode::FORBIDDEN, "not_armed", refusal.to_string())
            }
            Refusal::UnknownChild(id) => Failed::unknown_child(engine, id),
            Refusal::Invalid(text) => {
                Failed::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", text)
            }
            Refusal::Conflict(text) => Failed::conflict(text),
        }
    }

    fn answer(&self) -> Answer {
        let mut details = BTreeMap::from([("reason", Some(self.code.as_str()))]);
        if let Some(suggestion) = &self.suggestion {
            details.insert("suggestion", suggestion.as_deref());
        }
        let failure = Failure {
            error: Problem {
                code: &self.code,
                message: &self.message,
                retryable: self.status == StatusCode::SERVICE_UNAVAILABLE,
                details,
            },
        };
        let mut answer = json(self.status, &failure);
        if let Answer::Json { allow, .. } = &mut answer {
            allow.clone_from(&self.allow);
        }
        answer
    }
}

/// The id nearest to `id`. Looked for outside the engine's lock.
fn suggestion(engine: &Engine, id: &str) -> Option<String> {
    if id.len() > ID_MAX {
        return None;
    }
    let known = engine.read(Machine::ids);
    ron_config::nearest(id, known.iter().map(|known| &**known)).map(str::to_owned)
}

pub(crate) fn refused(status: StatusCode, code: &str, message: &str) -> Answer {
    Failed::new(status, code, message).answer()
}

pub(crate) fn bad_request(message: &str) -> Answer {
    Failed::bad_request(message).answer()
}

pub(crate) fn busy(message: &str) -> Answer {
    refused(StatusCode::SERVICE_UNAVAILABLE, "busy", message)
}

pub(crate) fn foreign(uid: u32) -> Answer {
    let text = format!("uid {uid} is neither the user of this service nor root");
    refused(StatusCode::FORBIDDEN, "foreign_uid", &text)
}

fn json<T: Serialize>(status: StatusCode, value: &T) -> Answer {
    match serde_json::to_vec(value) {
        Ok(mut body) => {
            body.push(b'\n');
            Answer::Json {
                status,
                body,
                allow: None,
            }
        }
        Err(error) => {
            let text = format!("the answer cannot be written: {error}");
            refused(StatusCode::INTERNAL_SERVER_ERROR, "internal", &text)
        }
    }
}

fn ok<T: Serialize>(value: &T) -> Answered {
    Ok(json(StatusCode::OK, value))
}

fn accepted<T: Serialize>(value: &T) -> Answered {
    Ok(json(StatusCode::ACCEPTED, value))
}

pub(crate) async fn answer(call: Call, service: &Arc<Service>) -> Answer {
    match route(&call, service).await {
        Ok(answer) => answer,
        Err(failed) => failed.answer(),
    }
}

/// The kernel's routes: path, methods.
const PATHS: [(&str, &[&str]); 17] = [
    ("/v1/about", &["GET"]),
    ("/v1/tree", &["GET"]),
    ("/v1/ready", &["GET"]),
    ("/v1/explain", &["GET"]),
    ("/v1/tail", &["GET"]),
    ("/v1/changes", &["GET"]),
    ("/v1/bus", &["GET"]),
    ("/v1/top", &["GET"]),
    ("/v1/config", &["GET"]),
    ("/v1/config/check", &["POST"]),
    ("/v1/config/reload", &["POST"]),
    ("/v1/drain", &["POST"]),
    ("/v1/children/restart", &["POST"]),
    ("/v1/children/stop", &["POST"]),
    ("/v1/children/start", &["POST"]),
    ("/v1/children/release", &["POST"]),
    ("/v1/chaos", &["GET", "POST", "DELETE"]),
];

async fn route(call: &Call, service: &Arc<Service>) -> Answered {
    let (path, method) = (call.path.as_str(), call.method.as_str());
    let engine = &service.engine;
    match (method, path) {
        ("GET", "/v1/about") => about(call, engine),
        ("GET", "/v1/tree") => tree(call, service),
        ("GET", "/v1/ready") => {
            query(call, &[])?;
            let body = engine.telemetry.health.response().body;
            ok(&answers::raw(body))
        }
        ("GET", "/v1/explain") => explain(call, service),
        ("GET", "/v1/tail") => tail(call, service),
        ("GET", "/v1/changes") => changes(call, engine),
        ("GET", "/v1/bus") => {
            query(call, &[])?;
            ok(&Topics {
                head: head(engine),
                topics: topics(engine),
            })
        }
        ("GET", "/v1/top") => top(call, service),
        ("GET", "/v1/config") => config(call, engine),
        ("POST", "/v1/config/check") => check(call, engine).await,
        ("POST", "/v1/config/reload") => reload(call, engine).await,
        ("POST", "/v1/drain") => drain(call, service).await,
        ("POST", "/v1/children/restart") => {
            act(call, service, "restart", KernelHandle::restart).await
        }
        ("POST", "/v1/children/stop") => act(call, service, "stop", KernelHandle::begin_stop).await,
        ("POST", "/v1/children/start") => act(call, service, "start", start).await,
        ("POST", "/v1/children/release") => {
            act(call, service, "release", KernelHandle::release).await
        }
        ("GET", "/v1/chaos") => {
            query(call, &[])?;
            let config = engine.config();
            ok(&Chaos {
                armed: config.chaos.armed,
                default_child: config.chaos.default_child.clone(),
                faults: engine
                    .faults()
                    .all()
                    .iter()
                    .map(|one| fault(engine, one))
                    .collect(),
            })
        }
        ("POST", "/v1/chaos") => {
            let wanted = body(call, Wanted::of)?;
            blocking(call, service, move |call, service| {
                let (engine, by) = (&service.engine, call.peer.to_string());
                let child = wanted.child.as_deref();
                let what = format!("chaos inject {}", wanted.fault);
                let injected = commanded(engine, &call.peer, child, &what, || {
                    let injected = drills::inject(engine, &wanted, &by);
                    injected.map_err(|refusal| Failed::drill(engine, &refusal))
                })?;
                accepted(&fault(engine, &injected))
            })
            .await
        }
        ("DELETE", "/v1/chaos") => {
            let query = query(call, &["id"])?;
            let id = query.get("id").map(|id| id.parse::<u64>()).transpose();
            let id = id.map_err(|_| Failed::bad_request("id: expected the number of a fault"))?;
            blocking(call, service, move |call, service| {
                let (engine, by) = (&service.engine, call.peer.to_string());
                let what = match id {
                    Some(id) => format!("chaos clear {id}"),
                    None => "chaos clear".to_owned(),
                };
                let cleared = commanded(engine, &call.peer, None, &what, || {
                    let cleared = drills::clear(engine, id, &by);
                    cleared.map_err(|refusal| Failed::drill(engine, &refusal))
                })?;
                ok(&Cleared { cleared })
            })
            .await
        }
        _ => foreign_route(call, service).await,
    }
}

/// Runs what may wait for a log writer on a thread for such work, so that questions are answered meanwhile. It is
/// carried out even if the client does not wait for it.
async fn blocking(
    call: &Call,
    service: &Arc<Service>,
    run: impl FnOnce(&Call, &Service) -> Answered + Send + 'static,
) -> Answered {
    let (call, service) = (call.clone(), service.clone());
    let ran = tokio::task::spawn_blocking(move || run(&call, &service)).await;
    ran.unwrap_or_else(|_| {
        Err(Failed::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the command panicked",
        ))
    })
}

/// A route of the host's, or none.
async fn foreign_route(call: &Call, service: &Arc<Service>) -> Answered {
    let (path, method) = (call.path.as_str(), call.method.as_str());
    let here = || service.routes.iter().filter(|route| route.path == path);
    if let Some(route) = here().find(|route| route.method.name() == method) {
        let request = Request {
            query: pairs(call)?,
            body: body_value(call)?,
            by: call.peer.to_string(),
        };
        let handler = route.handler.clone();
        return blocking(call, service, move |call, service| {
            let run = || handler(request).map_err(Failed::of_host);
            let value = match call.method {
                Method::GET => run()?,
                _ => {
                    let what = call.path.trim_start_matches("/v1/").replace('/', " ");
                    commanded(&service.engine, &call.peer, None, &what, run)?
                }
            };
            ok(&value)
        })
        .await;
    }
    let mut allowed: Vec<&str> = here().map(|route| route.method.name()).collect();
    let own = PATHS.iter().find(|(known, _)| *known == path);
    allowed.extend(own.map_or(&[][..], |(_, methods)| methods));
    if allowed.is_empty() {
        return Err(Failed::new(
            StatusCode::NOT_FOUND,
            "unknown_path",
            format!("{path} is no path of this control plane"),
        ));
    }
    let allowed = allowed.join(", ");
    let message = format!("{path} takes {allowed}, not {method}");
    Err(Failed {
        allow: Some(allowed),
        ..Failed::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            message,
        )
    })
}

// ----- what requests say ---------------------------------------------------------------------------

fn pairs(call: &Call) -> Result<Query, Failed> {
    fields::query(&call.query).map_err(Failed::bad_request)
}

/// The query, which may have these members and no others.
fn query(call: &Call, known: &[&str]) -> Result<Query, Failed> {
    let found = pairs(call)?;
    match found.keys().find(|name| !known.contains(&name.as_str())) {
        None => Ok(found),
        Some(name) if known.is_empty() => Err(Failed::bad_request(format!(
            "unknown query member `{name}`; {} takes none",
            call.path
        ))),
        Some(name) => Err(Failed::bad_request(format!(
            "unknown query member `{name}`; {} takes {}",
            call.path,
            known.join(", ")
        ))),
    }
}

fn body_value(call: &Call) -> Result<serde_json::Value, Failed> {
    if call.body.is_empty() {
        return Ok(serde_json::Value::Null);
    }
    serde_json::from_slice(&call.body)
        .map_err(|error| Failed::bad_request(format!("the body is no JSON: {error}")))
}

/// What `read` takes from the body, which may hold nothing else.
fn body<T>(call: &Call, read: impl FnOnce(&mut Fields) -> Result<T, String>) -> Result<T, Failed> {
    let taken = Fields::of(&call.body).and_then(|mut fields| {
        let taken = read(&mut fields)?;
        fields.end()?;
        Ok(taken)
    });
    taken.map_err(Failed::bad_request)
}

fn since(query: &Query, default: Option<Duration>) -> Result<Option<SystemTime>, Failed> {
    let span = match query.get("since") {
        None => default,
        Some(text) => Some(
            ron_config::parse_duration(text)
                .map_err(|error| Failed::bad_request(format!("since={text}: {error}")))?,
        ),
    };
    Ok(span.map(|span| {
        let now = SystemTime::now();
        now.checked_sub(span).unwrap_or(SystemTime::UNIX_EPOCH)
    }))
}

// ----- questions -------------------------------------------------------------------------------------

fn head(engine: &Engine) -> Head {
    Head {
        service: engine.telemetry.metrics.service().to_owned(),
        instance: engine.telemetry.bus.instance().to_owned(),
        now: Time(SystemTime::now()),
    }
}

fn state(engine: &Engine) -> State {
    let health = engine.telemetry.health.snapshot();
    State {
        state: health.state().to_string(),
        ready: health.ready(),
        degraded: health.degraded(),
    }
}

fn about(call: &Call, engine: &Arc<Engine>) -> Answered {
    query(call, &[])?;
    let identity = engine.telemetry.metrics.identity();
    let config = engine.config();
    let counts = engine.read(|machine| *machine.counts());
    let mut children = BTreeMap::new();
    for phase in Phase::ALL {
        let count = counts[phase.index()];
        if count > 0 {
            *children.entry(phase.name()).or_insert(0) += count;
        }
    }
    let reloader = engine.reloader();
    ok(&About {
        head: head(engine),
        pid: std::process::id(),
        version: identity.version,
        build: identity.build,
        rustc: identity.rustc,
        since: Time(engine.wall(Duration::ZERO)),
        uptime_ms: millis(engine.now()),
        state: state(engine),
        chaos_armed: config.chaos.armed,
        amnesia: config.amnesia.enabled,
        config_version: reloader.map(|reloader| reloader.source().version()),
        config_sha: identity.config_sha,
        children,
    })
}

fn tree(call: &Call, service: &Service) -> Answered {
    let query = query(call, &["id"])?;
    let engine = &service.engine;
    let mut children = service.handle.tree();
    if let Some(id) = query.get("id") {
        let found = take(children, id).ok_or_else(|| Failed::unknown_child(engine, id))?;
        children = vec![found];
    }
    let state = state(engine);
    ok(&Tree {
        head: head(engine),
        state: state.state,
        ready: state.ready,
        children,
    })
}

fn take(nodes: Vec<TreeNode>, id: &str) -> Option<TreeNode> {
    for node in nodes {
        if node.id == id {
            return Some(node);
        }
        // Ids of members begin with those of their groups.
        let is_below = id
            .strip_prefix(&node.id)
            .is_some_and(|rest| rest.starts_with('/'));
        if is_below {
            return take(node.children, id);
        }
    }
    None
}

fn explain(call: &Call, service: &Service) -> Answered {
    let query = query(call, &["id", "of"])?;
    let engine = &service.engine;
    match (query.get("id"), query.get("of").map(String::as_str)) {
        (Some(_), Some(_)) => Err(Failed::bad_request("either id or of, not both")),
        (Some(id), None) => match service.handle.explain(id) {
            Some(explanation) => ok(&explanation),
            None => Err(Failed::unknown_child(engine, id)),
        },
        (None, Some("ready")) => ok(&explain_ready(engine)),
        (None, Some(other)) => Err(Failed::bad_request(format!("of={other}: expected `ready`"))),
        (None, None) => {
            let diagnosis = diagnose(&situation(engine));
            ok(&Diagnosed::new(head(engine), state(engine), diagnosis))
        }
    }
}

/// Readiness in the shape of a child's explanation: every finding's reasons, one after the other.
fn explain_ready(engine: &Engine) -> Explanation {
    let situation = situation(engine);
    let ready = situation.readiness.ready;
    let diagnosis = diagnose(&situation);
    let mut because: Vec<Reason> = Vec::new();
    let hurting = diagnosis
        .findings
        .iter()
        .filter(|finding| ready || finding.gravity == super::Gravity::Critical);
    for reason in hurting.flat_map(|finding| &finding.because) {
        if !because.contains(reason) {
            because.push(reason.clone());
        }
    }
    let first = diagnosis.findings.first();
    Explanation {
        id: "ready".to_owned(),
        state: match situation.readiness.state.as_str() {
            "ready" => "ready",
            "degraded" => "degraded",
            "draining" => "draining",
            _ => "not_ready",
        },
        because,
        next: first.map_or_else(|| "nothing".to_owned(), |finding| finding.next.clone()),
        retry_at: first.and_then(|finding| finding.retry_at),
        attempts_left: None,
        last_exit: None,
    }
}

fn tail(call: &Call, service: &Service) -> Answered {
    let query = query(call, &["topic", "since"])?;
    let Some(topic) = query.get("topic") else {
        return Err(Failed::bad_request("topic=NAME is missing"));
    };
    let since = since(&query, None)?;
    let place = service.lasting.clone().try_acquire_owned().map_err(|_| {
        let text = format!("{LASTING_MAX} tails are open already; end one");
        Failed::new(StatusCode::SERVICE_UNAVAILABLE, "busy", text)
    })?;
    let start = match since {
        Some(_) => Start::Retained(usize::MAX),
        None => Start::Live,
    };
    let telemetry = &service.engine.telemetry;
    let bus = &telemetry.bus;
    let is_there = |topic: &str| {
        let below = |name: &str| {
            let rest = name.strip_prefix(topic);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        bus.topics().iter().any(|one| below(&one.name))
    };
    // Whoever follows a service by its name follows what the kernel tells of it.
    let topic = match topic.as_str() {
        own if own == telemetry.metrics.service() && !is_there(own) => KERNEL_TOPIC,
        topic => topic,
    };
    let tail = bus.tail_from(topic, start).map_err(|error| match error {
        TailError::Pattern(_) => Failed::bad_request(error.to_string()),
        TailError::NoEncoder { .. } => {
            Failed::new(StatusCode::NOT_FOUND, "unknown_topic", error.to_string())
        }
        TailError::TooMany { .. } => {
            Failed::new(StatusCode::SERVICE_UNAVAILABLE, "busy", error.to_string())
        }
        _ => Failed::conflict(error.to_string()),
    })?;
    if !is_there(topic) {
        let known = bus.topics();
        let names: Vec<&str> = known
            .iter()
            .filter(|one| one.json)
            .map(|one| &*one.name)
            .collect();
        let names = names.join(", ");
        return Err(Failed::new(
            StatusCode::NOT_FOUND,
            "unknown_topic",
            format!("no topic is named {topic} or {topic}.*; there are {names}"),
        ));
    }
    Ok(Answer::Lines(Lines::new(tail, since, place)))
}

fn changes(call: &Call, engine: &Arc<Engine>) -> Answered {
    let query = query(call, &["since"])?;
    let from = since(&query, Some(SINCE_DEFAULT))?.unwrap_or(SystemTime::UNIX_EPOCH);
    let record = &engine.telemetry.record;
    let found = record.since(from);
    ok(&Changes {
        head: head(engine),
        since: Time(from),
        complete: found.complete,
        record_from: record.oldest().map(Time),
        dropped: found.dropped,
        changes: found.entries,
    })
}

fn topics(engine: &Engine) -> Vec<Topic> {
    let mut topics: Vec<Topic> = engine
        .telemetry
        .bus
        .topics()
        .iter()
        .map(Topic::new)
        .collect();
    topics.sort_by(|a, b| a.name().cmp(b.name()));
    topics
}

fn top(call: &Call, service: &Service) -> Answered {
    query(call, &[])?;
    let engine = &service.engine;
    let health = engine.telemetry.health.snapshot();
    ok(&Top {
        head: head(engine),
        pid: std::process::id(),
        version: engine.telemetry.metrics.identity().version,
        uptime_ms: millis(engine.now()),
        state: state(engine),
        missing: health.missing().map(str::to_owned).collect(),
        causes: health
            .causes()
            .map(|cause| Cause {
                key: cause.key.clone(),
                status: super::situation::status_name(cause.status),
                reason: cause.reason.clone(),
                since: Time(cause.since),
            })
            .collect(),
        children: service.handle.tree(),
        topics: topics(engine),
        process: Usage::own(),
    })
}

// ----- configuration ---------------------------------------------------------------------------------

fn fixed() -> Failed {
    Failed::conflict("the configuration is fixed: this kernel was not built with `loaded`")
}

fn config(call: &Call, engine: &Arc<Engine>) -> Answered {
    let query = query(call, &["key"])?;
    let reloader = engine.reloader().ok_or_else(fixed)?;
    let Some(key) = query.get("key") else {
        return ok(&reloader.source().print());
    };
    match reloader.source().explain(key) {
        Ok(explanation) => ok(&explanation),
        Err(unknown) => Err(Failed {
            suggestion: Some(unknown.did_you_mean().map(str::to_owned)),
            ..Failed::new(StatusCode::NOT_FOUND, "unknown_key", unknown.to_string())
        }),
    }
}

async fn check(call: &Call, engine: &Arc<Engine>) -> Answered {
    let file = body(call, |fields| fields.path("file"))?;
    let reloader = engine.reloader().ok_or_else(fixed)?;
    let source = reloader.source().clone();
    let version = source.version();
    let plan = tokio::task::spawn_blocking(move || source.plan(file.as_deref())).await;
    match plan {
        Ok(plan) => report(version, plan),
        Err(_) => Err(Failed::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the check panicked",
        )),
    }
}

async fn reload(call: &Call, engine: &Arc<Engine>) -> Answered {
    body(call, |_| Ok(()))?;
    let reloader = engine.reloader().ok_or_else(fixed)?;
    // Its outcome has an entry of its own.
    let told = (engine.clone(), call.clone());
    let told = tokio::task::spawn_blocking(move || {
        let (engine, call) = told;
        command(&engine, &call.peer, None, "config reload");
    });
    let _ = told.await;
    let version = reloader.source().version();
    match reloader.reload(&call.peer.to_string()).await {
        Ok(done) => report(version, Ok(done)),
        Err(ReloadError::Rejected(errors)) => report(version, Err(errors)),
        Err(error) => Err(Failed::conflict(error.to_string())),
    }
}

fn report(version: u64, outcome: Result<ReloadReport, ConfigErrors>) -> Answered {
    Ok(match outcome {
        Ok(report) => json(StatusCode::OK, &report),
        Err(errors) => json(
            StatusCode::UNPROCESSABLE_ENTITY,
            &ReloadReport::refused(version, &errors),
        ),
    })
}

// ----- commands ----------------------------------------------------------------------------------------

/// An operator's command is told before it is carried out: it may be the last thing this process does. Returns its
/// place in the record.
fn command(engine: &Engine, peer: &Peer, child: Option<&str>, what: &str) -> u64 {
    let by = peer.to_string();
    tracing::info!(event = "operator_command", child, by, "{what}");
    let subject = child.map(Arc::from);
    engine.telemetry.remember(News {
        kind: EntryKind::Command,
        subject: subject.as_ref(),
        generation: None,
        by: Some(&by),
        text: what.to_owned(),
    })
}

/// Notes that a command was not carried out.
fn refused_command(engine: &Engine, seq: u64, what: &str, why: &Failed) {
    let text = format!("refused: {what}: {}", why.message);
    engine.telemetry.record.amend(seq, text);
}

/// Runs a command between its record and its outcome.
fn commanded<T>(
    engine: &Engine,
    peer: &Peer,
    child: Option<&str>,
    what: &str,
    run: impl FnOnce() -> Result<T, Failed>,
) -> Result<T, Failed> {
    let seq = command(engine, peer, child, what);
    let outcome = run();
    if let Err(failed) = &outcome {
        refused_command(engine, seq, what, failed);
    }
    outcome
}

/// Starts what is down or on its way there; what runs or is about to is left alone.
fn start(handle: &KernelHandle, id: &str) -> Result<(), ControlError> {
    match handle.phase(id) {
        None => Err(ControlError::Unknown { id: id.to_owned() }),
        Some(("starting" | "ready" | "waiting" | "backoff", _)) => Ok(()),
        Some(_) => handle.restart(id),
    }
}

async fn act(
    call: &Call,
    service: &Arc<Service>,
    verb: &'static str,
    run: fn(&KernelHandle, &str) -> Result<(), ControlError>,
) -> Answered {
    let id = body(call, |fields| fields.required_text("id"))?;
    if service.handle.phase(&id).is_none() {
        return Err(Failed::unknown_child(&service.engine, &id));
    }
    blocking(call, service, move |call, service| {
        let (engine, handle) = (&service.engine, &service.handle);
        commanded(engine, &call.peer, Some(&id), verb, || {
            if engine.shutdown_requested() {
                return Err(Failed::conflict(ControlError::ShuttingDown.to_string()));
            }
            run(handle, &id).map_err(|error| Failed::control(engine, &error))
        })?;
        let (state, generation) = handle.phase(&id).unwrap_or(("gone", 0));
        accepted(&Accepted {
            id,
            accepted: verb,
            state,
            generation,
        })
    })
    .await
}

async fn drain(call: &Call, service: &Arc<Service>) -> Answered {
    let (dry_run, wait) = body(call, |fields| {
        Ok((fields.flag("dry_run")?, fields.flag("wait")?))
    })?;
    let engine = &service.engine;
    if dry_run && wait {
        return Err(Failed::bad_request("either dry_run or wait, not both"));
    }
    if dry_run {
        return ok(&plan(engine));
    }
    // First of all: the log may be what makes the operator drain.
    engine.request_shutdown(&format!("drain asked by {}", call.peer));
    let told = (engine.clone(), call.clone());
    drop(tokio::task::spawn_blocking(move || {
        let (engine, call) = told;
        command(&engine, &call.peer, None, "drain");
    }));
    if wait {
        return ok(&engine.until_drained().await);
    }
    accepted(&Draining {
        draining: true,
        reason: engine.shutdown_reason(),
    })
}

fn plan(engine: &Engine) -> Plan {
    let config = engine.config();
    let deadline = config.drain.deadline;
    let mut at_stake = Vec::new();
    let stages = engine.read(|machine| {
        let mut stages = Vec::new();
        for stage in machine.stopping_order() {
            let mut children = Vec::new();
            for key in stage {
                let node = machine.node(key);
                let limit = node.policy.stop_timeout;
                children.push(Staged {
                    id: node.id.to_string(),
                    kind: node.kind.name(),
                    state: node.state.name(),
                    stop_timeout_ms: millis(limit),
                });
                let place = format!("child:{}", node.id);
                let stake = |what: String| Stake {
                    what,
                    count: 1,
                    r#where: place.clone(),
                };
                if matches!(node.state, Phase::Stuck { .. }) {
                    at_stake.push(stake(
                        "does not end; it will be left behind as leaked".to_owned(),
                    ));
                } else if node.stalled {
                    at_stake.push(stake(
                        "holds its worker; it stops only if its poll returns".to_owned(),
                    ));
                }
                if limit > deadline {
                    at_stake.push(stake(format!(
                        "may take {limit:?} to stop, drain.deadline is {deadline:?}: aborted then"
                    )));
                }
            }
            stages.push(Stage { children });
        }
        stages
    });
    for topic in engine.telemetry.bus.topics() {
        for reader in topic.readers.iter().filter(|one| one.account.pending > 0) {
            at_stake.push(Stake {
                what: "events not read yet".to_owned(),
                count: reader.account.pending,
                r#where: format!("bus:{}/{}", topic.name, reader.name),
            });
        }
    }
    Plan {
        linger_ms: millis(config.drain.linger),
        deadline_ms: millis(deadline),
        stages,
        at_stake,
    }
}

fn fault(engine: &Engine, one: &Campaign) -> Fault {
    Fault {
        id: one.id,
        fault: one.name,
        child: one.child.as_deref().map(str::to_owned),
        since: Time(engine.wall(one.since)),
        until: one.until.map(|until| Time(engine.wall(until))),
        count: one.count,
        left: one.left,
        injected: one.injected,
    }
}
