//! What each command asks, and what its answer means for the exit code.

use std::path::Path;
use std::time::Duration;

use serde_json::value::RawValue;
use serde_json::{json, Map, Value};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::args::{Chaos, Command, Config};
use super::client::{Answer, Link, Request, LONG_PATIENCE, PATIENCE};
use super::discovery::{self, Found, Probe, Wish};
use super::failure::{Failure, Fault};
use super::screen::{self, Asked, Here, Socket};
use super::session::{print, Session, Stopped};
use super::wire::{self, About, Draining, Plan, Report};
use super::{cap, live, manual, offline};

pub(crate) async fn run(mut session: Session, command: Command) -> Result<u8, Stopped> {
    match command {
        Command::Ps => ps(&session).await,
        Command::Tree { id } => {
            let request = Request::get("/v1/tree", &[("id", id.as_deref())]);
            let render =
                |tree: &wire::Tree, now, look| screen::tree(tree, tree.now.unwrap_or(now), look);
            session.show(&request, render).await
        }
        Command::Explain { id } => explain(&session, id.as_deref()).await,
        Command::Top { interval, once } => live::top(session, interval, once).await,
        Command::Tail {
            topic,
            since,
            count,
        } => {
            if session.wish == Wish::Any {
                session.wish = Wish::Topic(topic.clone());
            }
            live::tail(&session, &topic, since.as_deref(), count).await
        }
        Command::Changes { since } => {
            let request = Request::get("/v1/changes", &[("since", Some(&since))]);
            let render = |changes: &wire::Changes, now, look| {
                screen::changes(changes, changes.now.unwrap_or(now), look)
            };
            session.show(&request, render).await
        }
        Command::Bus => {
            let render = |bus: &wire::Bus, _, look| screen::bus(bus, look);
            session.show(&Request::get("/v1/bus", &[]), render).await
        }
        Command::Config(command) => config(session, command).await,
        Command::Drain { dry_run, wait } => drain(&session, dry_run, wait).await,
        Command::Restart(child) => child_command(&session, "restart", child.id).await,
        Command::Stop(child) => child_command(&session, "stop", child.id).await,
        Command::Start(child) => child_command(&session, "start", child.id).await,
        Command::Release(child) => child_command(&session, "release", child.id).await,
        Command::Log { filter, span } => {
            let request = match filter {
                None => Request::get("/v1/log", &[]),
                Some(filter) => {
                    let members = [("filter", Some(json!(filter))), ("for_ms", millis(span))];
                    Request::post("/v1/log", object(members))
                }
            };
            session
                .show(&request, |filter: &wire::Filter, now, _| {
                    screen::filter(filter, now)
                })
                .await
        }
        Command::Chaos(command) => chaos(&session, command).await,
        Command::Cap(command) => cap::run(&session, command).await,
        Command::Completions { shell } => manual::completions(&session, shell),
        Command::Man => manual::page(&session),
    }
}

async fn explain(session: &Session, id: Option<&str>) -> Result<u8, Stopped> {
    let (of, id) = match id {
        None => {
            let called = session.called();
            let render = |diagnosis: &wire::Diagnosis, now, look| {
                screen::diagnosis(diagnosis, &called, diagnosis.now.unwrap_or(now), look)
            };
            let request = Request::get("/v1/explain", &[]);
            return session.show(&request, render).await;
        }
        Some("ready") => (Some("ready"), None),
        Some(id) => (None, Some(id.strip_prefix("child:").unwrap_or(id))),
    };
    let request = Request::get("/v1/explain", &[("id", id), ("of", of)]);
    session
        .show(&request, |explanation: &wire::Explanation, now, look| {
            screen::explanation(explanation, now, look)
        })
        .await
}

async fn child_command(session: &Session, word: &str, id: String) -> Result<u8, Stopped> {
    let request = Request::post(&format!("/v1/children/{word}"), json!({ "id": id }));
    session
        .show(&request, |accepted: &wire::Accepted, _, look| {
            screen::accepted(accepted, look)
        })
        .await
}

async fn config(mut session: Session, command: Config) -> Result<u8, Stopped> {
    match command {
        Config::Explain { key } => {
            let request = Request::get("/v1/config", &[("key", Some(&key))]);
            session
                .show(&request, |origin: &wire::Origin, _, look| {
                    screen::origin(origin, look)
                })
                .await
        }
        Config::Print => {
            let request = Request::get("/v1/config", &[]);
            session
                .show(&request, |config: &wire::Config, _, look| {
                    screen::config(config, look)
                })
                .await
        }
        Config::Reload => {
            let request = Request::post("/v1/config/reload", json!({}));
            let request = request.patience(Some(LONG_PATIENCE)).judged();
            session.reach().await?;
            let answer = session.ask(&request).await?;
            planned(&session, &answer, Asked::Reload)
        }
        Config::Check { service, file } => {
            if let Some(service) = service {
                match &session.wish {
                    Wish::Service { service: other, .. }
                        if session.targeted && *other != service =>
                    {
                        let text = format!("check {service}, or --target {other}: not both");
                        return Err(Failure::new(Fault::Usage, text).into());
                    }
                    Wish::Service { service: other, .. } if *other == service => {}
                    _ => session.wish = Wish::target(&service),
                }
            }
            check(&session, file.as_deref()).await
        }
    }
}

/// By the running service, else by its program.
async fn check(session: &Session, file: Option<&Path>) -> Result<u8, Stopped> {
    if session.sock.is_none() {
        match discovery::choose(&session.dir, session.uid, &session.wish).await {
            Err(failure) if failure.fault() == Fault::Unreachable => {
                return offline::check(session, file, &failure);
            }
            Err(failure) => return Err(failure.into()),
            // Connected to again: the service does not mind, and one place decides how.
            Ok(_) => {}
        }
    }
    // The service has another working directory.
    let absolute = file.map(std::path::absolute).transpose();
    let absolute =
        absolute.map_err(|error| Failure::new(Fault::Usage, format!("--file: {error}")))?;
    let named = absolute.map(|path| json!(path.to_string_lossy()));
    let request = Request::post("/v1/config/check", object([("file", named)]));
    session.reach().await?;
    let answer = session
        .ask(&request.patience(Some(LONG_PATIENCE)).judged())
        .await?;
    planned(session, &answer, Asked::Check)
}

fn planned(session: &Session, answer: &Answer, asked: Asked) -> Result<u8, Stopped> {
    let plan: Plan = session.shown(answer, |plan: &Plan, _, look| {
        screen::plan(plan, asked, look)
    })?;
    Ok(u8::from(answer.status == 422 || !plan.rejected.is_empty()))
}

async fn drain(session: &Session, dry_run: bool, wait: bool) -> Result<u8, Stopped> {
    if dry_run {
        let request = Request::post("/v1/drain", json!({"dry_run": true}));
        return session
            .show(&request, |plan: &wire::Drain, _, look| {
                screen::drain_plan(plan, look)
            })
            .await;
    }
    let request = Request::post("/v1/drain", json!({ "wait": wait }));
    if !wait {
        let render = |draining: &Draining, _, _| match draining.reason.is_empty() {
            true => "draining\n".to_owned(),
            false => format!("draining: {}\n", draining.reason),
        };
        return session.show(&request, render).await;
    }
    session.reach().await?;
    let answer = match session.ask(&request.patience(None)).await {
        Ok(answer) => answer,
        Err(failure) if failure.fault() == Fault::Unreachable => {
            let text = format!("the process ended before its report came: {failure}");
            return Err(Failure::new(Fault::Failed, text).into());
        }
        Err(failure) => return Err(failure.into()),
    };
    let report: Report = session.shown(&answer, |report: &Report, _, look| {
        screen::drain_report(report, look)
    })?;
    Ok(u8::from(
        report.aborted > 0 || report.leaked > 0 || report.started.is_none(),
    ))
}

async fn chaos(session: &Session, command: Chaos) -> Result<u8, Stopped> {
    match command {
        Chaos::List => {
            let render = |chaos: &wire::Chaos, now, look| screen::chaos(chaos, now, look);
            session.show(&Request::get("/v1/chaos", &[]), render).await
        }
        Chaos::Clear { id } => {
            let id = id.map(|id| id.to_string());
            let request = Request::delete("/v1/chaos", &[("id", id.as_deref())]);
            let render = |cleared: &wire::Cleared, _, _| format!("{} cleared\n", cleared.cleared);
            session.show(&request, render).await
        }
        Chaos::Inject {
            fault,
            child,
            count,
            span,
            delay,
        } => {
            let body = object([
                ("fault", Some(json!(fault))),
                ("child", child.map(Value::from)),
                ("count", count.map(Value::from)),
                ("for_ms", millis(span)),
                ("delay_ms", millis(delay)),
            ]);
            let render = |fault: &wire::Fault, now, _| screen::injected(fault, now);
            session
                .show(&Request::post("/v1/chaos", body), render)
                .await
        }
    }
}

/// The members that are there.
fn object<const N: usize>(members: [(&str, Option<Value>); N]) -> Value {
    let members = members
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(members.collect::<Map<String, Value>>())
}

fn millis(span: Option<Duration>) -> Option<Value> {
    span.map(|span| json!(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
}

/// Asks every socket at once; those that do not answer are part of the list.
async fn ps(session: &Session) -> Result<u8, Stopped> {
    let all = match &session.sock {
        Some(path) => vec![discovery::named(path, session.uid)?],
        None => discovery::scan(&session.dir, session.uid)?,
    };
    let found: Vec<&Found> = match &session.wish {
        wish @ Wish::Service { .. } if session.targeted => {
            discovery::meant(&all.iter().collect::<Vec<_>>(), wish)
        }
        _ => all.iter().collect(),
    };
    let mut answers: Vec<Option<Result<Answer, Silence>>> = Vec::new();
    answers.resize_with(found.len(), || None);
    let mut asking = JoinSet::new();
    for (at, found) in found.iter().enumerate() {
        let (found, uid) = ((*found).clone(), session.uid);
        asking.spawn(async move { (at, about(&found, uid).await) });
    }
    while let Some(Ok((at, answer))) = asking.join_next().await {
        answers[at] = Some(answer);
    }
    let mut rows = Vec::new();
    let mut objects = Vec::new();
    for (found, answer) in found.iter().zip(answers) {
        let (here, raw) = here(answer);
        objects.push(entry(found, &here, raw));
        rows.push(Socket {
            service: &found.service,
            instance: &found.instance,
            pid: found.pid(),
            path: &found.path,
            here,
        });
    }
    let live = rows.iter().any(|row| matches!(row.here, Here::Live(_)));
    if session.json {
        let line = serde_json::to_string(&objects)
            .map_err(|error| Failure::new(Fault::Failed, error.to_string()))?;
        print(&(line + "\n"))?;
    } else if !rows.is_empty() {
        print(&screen::ps(&rows, session.look()))?;
    }
    if live {
        return Ok(0);
    }
    let dir = super::failure::shown(&session.neighbourhood());
    Err(Failure::new(
        Fault::Unreachable,
        format!("no service is running here (looked in {dir})"),
    )
    .into())
}

/// Why a socket has no answer.
enum Silence {
    Dead,
    Failed(Failure),
}

async fn about(found: &Found, uid: u32) -> Result<Answer, Silence> {
    let until = Instant::now() + PATIENCE;
    let stream = match found.probe(uid).await.map_err(Silence::Failed)? {
        Probe::Dead => return Err(Silence::Dead),
        Probe::Busy => None,
        Probe::Live(stream) => Some(stream),
    };
    let link = Link::open(found, stream, uid, until)
        .await
        .map_err(Silence::Failed)?;
    let request = Request::get("/v1/about", &[]);
    link.ask(&request, until).await.map_err(Silence::Failed)
}

fn here(answer: Option<Result<Answer, Silence>>) -> (Here, Option<String>) {
    match answer {
        Some(Ok(answer)) => match answer.parse::<About>() {
            Ok(about) => (Here::Live(Box::new(about)), Some(answer.line())),
            Err(failure) => (Here::Silent(failure.to_string()), None),
        },
        Some(Err(Silence::Dead)) => (Here::Dead, None),
        Some(Err(Silence::Failed(failure))) if failure.fault() == Fault::Refused => {
            (Here::Refused(failure.to_string()), None)
        }
        Some(Err(Silence::Failed(failure))) => (Here::Silent(failure.to_string()), None),
        None => (Here::Silent("was not asked".to_owned()), None),
    }
}

#[derive(serde::Serialize)]
struct Entry<'a> {
    service: &'a str,
    instance: &'a str,
    pid: Option<u64>,
    sock: String,
    here: &'static str,
    problem: Option<String>,
    about: Option<Box<RawValue>>,
}

fn entry<'a>(found: &'a Found, here: &Here, about: Option<String>) -> Entry<'a> {
    let (word, problem) = match here {
        Here::Live(_) => ("live", None),
        Here::Dead => ("dead", None),
        Here::Silent(problem) => ("silent", Some(problem.clone())),
        Here::Refused(problem) => ("refused", Some(problem.clone())),
    };
    Entry {
        service: &found.service,
        instance: &found.instance,
        pid: found.pid(),
        sock: found.path.to_string_lossy().into_owned(),
        here: word,
        problem,
        about: about.and_then(|about| RawValue::from_string(about).ok()),
    }
}
