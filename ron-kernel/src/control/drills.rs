//! Faults on purpose: asked for by an operator, only where armed, bounded, ended by themselves, and told wherever
//! people look: `/readyz`, metrics, events, the record.

use super::fields::Fields;
use super::record::{EntryKind, News};
use crate::event::millis;
use crate::supervisor::context::{FAULT_BLOCK, FAULT_EXIT, FAULT_HANG, FAULT_LATENCY, FAULT_PANIC};
use crate::supervisor::engine::Engine;
use crate::supervisor::faults::{Campaign, STANDING};
use crate::supervisor::Kind;
use ron_bus::{Bus, Subscriber, Topic};
use ron_metrics::{Condition, KindLabel};
use std::sync::Arc;
use std::time::Duration;

/// How long a fault lasts when nobody says.
const FOR_DEFAULT: Duration = Duration::from_secs(30);
const FOR_MAX: Duration = Duration::from_secs(3600);
const COUNT_MAX: u32 = 1000;
const DELAY_DEFAULT: Duration = Duration::from_millis(200);
const DELAY_MAX: Duration = Duration::from_secs(60);
/// The topic that `bus_lag` floods, so that no reader of another loses anything by it.
const CHAOS_TOPIC: &str = "chaos";
const CHAOS_CAPACITY: usize = 64;
/// Events a second beyond what the topic holds.
const FLOOD: u64 = 2 * CHAOS_CAPACITY as u64;

const STANDS: &str = "this one is set by chaos.fault in the configuration; set it to none there";

/// The faults that can be asked for.
const FAULTS: [(&str, DrillKind); 7] = [
    ("panic", DrillKind::Child(FAULT_PANIC)),
    ("exit", DrillKind::Child(FAULT_EXIT)),
    ("hang", DrillKind::Child(FAULT_HANG)),
    ("block", DrillKind::Child(FAULT_BLOCK)),
    ("latency", DrillKind::Child(FAULT_LATENCY)),
    ("bus_lag", DrillKind::BusLag),
    ("config", DrillKind::Config),
];

/// The body of `POST /v1/chaos`.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) fault: String,
    pub(crate) child: Option<String>,
    count: Option<u64>,
    for_ms: Option<u64>,
    delay_ms: Option<u64>,
}

impl Wanted {
    pub(crate) fn of(fields: &mut Fields) -> Result<Wanted, String> {
        Ok(Wanted {
            fault: fields.required_text("fault")?,
            child: fields.text("child")?,
            count: fields.number("count")?,
            for_ms: fields.number("for_ms")?,
            delay_ms: fields.number("delay_ms")?,
        })
    }
}

/// Why a fault was not injected. Each text says what would be right.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("chaos is not armed; set chaos.armed = true in the configuration")]
    NotArmed,
    #[error("no child is named `{0}`")]
    UnknownChild(String),
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    Conflict(String),
}

fn invalid(text: String) -> Refusal {
    Refusal::Invalid(text)
}

/// What is asked for, checked against nothing but itself and the configuration.
#[derive(Debug, PartialEq, Eq)]
struct Drill {
    name: &'static str,
    kind: DrillKind,
    child: Option<String>,
    count: Option<u32>,
    lasts: Duration,
    delay: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DrillKind {
    /// Raises a flag on incarnations of a child.
    Child(u8),
    BusLag,
    Config,
}

impl Wanted {
    fn checked(&self, default_child: Option<&str>, restart_cap: u32) -> Result<Drill, Refusal> {
        let Some((name, kind)) = FAULTS.into_iter().find(|(name, _)| *name == self.fault) else {
            let known = FAULTS.map(|(name, _)| name).join(", ");
            return Err(invalid(format!(
                "`{}` is no fault; expected one of {known}",
                self.fault
            )));
        };
        let lasts = self.for_ms.map_or(FOR_DEFAULT, Duration::from_millis);
        if lasts.is_zero() || lasts > FOR_MAX {
            return Err(invalid(format!(
                "for_ms {}: expected 1 to {}",
                millis(lasts),
                millis(FOR_MAX)
            )));
        }
        let of_child = matches!(kind, DrillKind::Child(_));
        if !of_child && self.child.is_some() {
            return Err(invalid(format!(
                "`{name}` is no fault of a child; leave child out"
            )));
        }
        let crashes = matches!(name, "panic" | "exit");
        if !crashes && self.count.is_some() {
            return Err(invalid(format!(
                "count belongs to `panic` and `exit`, not to `{name}`"
            )));
        }
        let asked = match self.count {
            None => None,
            Some(count) => match u32::try_from(count) {
                Ok(count @ 1..=COUNT_MAX) => Some(count),
                _ => return Err(invalid(format!("count {count}: expected 1 to {COUNT_MAX}"))),
            },
        };
        if name != "latency" && self.delay_ms.is_some() {
            return Err(invalid("delay_ms belongs to `latency`".to_owned()));
        }
        let delay = match self.delay_ms {
            Some(delay) => Duration::from_millis(delay),
            None if name == "latency" => DELAY_DEFAULT,
            None => Duration::ZERO,
        };
        if name == "latency" && (delay.is_zero() || delay > DELAY_MAX) {
            return Err(invalid(format!(
                "delay_ms {}: expected 1 to {}",
                millis(delay),
                millis(DELAY_MAX)
            )));
        }
        let child = self.child.clone().or(default_child.map(str::to_owned));
        if of_child && child.is_none() {
            return Err(invalid(
                "no child named; say which, or set chaos.default_child".to_owned(),
            ));
        }
        let count = match name {
            // One more than the budget allows, so that the drill shows the whole of it: backoff, cap, quarantine.
            "panic" | "exit" => Some(asked.unwrap_or(restart_cap.saturating_add(1))),
            "block" => Some(1),
            _ => None,
        };
        Ok(Drill {
            name,
            kind,
            child: child.filter(|_| of_child),
            count,
            lasts,
            delay,
        })
    }
}

/// Injects what is wanted and leaves a task that ends it. Called on the control plane's runtime.
pub(crate) fn inject(engine: &Arc<Engine>, wanted: &Wanted, by: &str) -> Result<Campaign, Refusal> {
    let config = engine.config();
    if !config.chaos.armed {
        return Err(Refusal::NotArmed);
    }
    let drill = wanted.checked(
        config.chaos.default_child.as_deref(),
        config.supervisor.restart_cap,
    )?;
    if engine.shutdown_requested() {
        return Err(Refusal::Conflict("the kernel is shutting down".to_owned()));
    }
    let child: Option<Arc<str>> = drill.child.as_deref().map(Arc::from);
    let flag = match drill.kind {
        DrillKind::Child(flag) => flag,
        DrillKind::BusLag | DrillKind::Config => 0,
    };
    if let Some(child) = &child {
        match engine.read(|machine| machine.find(child).map(|key| machine.node(key).kind)) {
            None => return Err(Refusal::UnknownChild(child.to_string())),
            Some(kind) if kind.suffers(flag) => {}
            Some(kind) => {
                let kind = kind.name();
                return Err(Refusal::Conflict(format!(
                    "`{child}` is a {kind}; {}",
                    Kind::SUFFERERS
                )));
            }
        }
    }
    let now = engine.now();
    let mut campaign = Campaign {
        id: STANDING,
        name: drill.name,
        child: child.clone(),
        flag,
        delay: drill.delay,
        since: now,
        until: Some(now + drill.lasts),
        left: drill.count,
        count: drill.count,
        injected: 0,
        by: Arc::from(by),
    };
    // What has to be opened is opened before anybody is told.
    let flood = match drill.kind {
        DrillKind::BusLag => Some(Flood::open(&engine.telemetry.bus)?),
        _ => None,
    };
    campaign.id = add(engine, &campaign)?;
    let id = campaign.id;
    if drill.kind == DrillKind::Config {
        let refused = match engine.reloader() {
            None => Some("the configuration is fixed; there is no reload to reject"),
            Some(reloader) if reloader.reject_drill() => None,
            Some(_) => Some("a reload was rejected already; mend the configuration first"),
        };
        if let Some(why) = refused {
            engine.faults().remove(id);
            return Err(Refusal::Conflict(why.to_owned()));
        }
    }
    announce(engine, &campaign, drill.lasts);
    match &child {
        Some(child) => engine.strike(child),
        None => count(engine, drill.name),
    }
    let ending = engine.clone();
    tokio::spawn(async move {
        let why = run(&ending, id, flood).await;
        // Telling of it may wait for a log writer.
        let ended = tokio::task::spawn_blocking(move || end(&ending, id, why));
        let _ = ended.await;
    });
    let faults = engine.faults();
    Ok(faults
        .all()
        .iter()
        .find(|one| one.id == id)
        .cloned()
        .unwrap_or(campaign))
}

/// Puts a fault in force unless one is in its place. Two on one child would be told apart by nobody, least of all when
/// the first ends.
fn add(engine: &Engine, campaign: &Campaign) -> Result<u64, Refusal> {
    let mut faults = engine.faults();
    let same = |one: &&Campaign| match &campaign.child {
        Some(_) => one.child == campaign.child,
        None => one.name == campaign.name,
    };
    if let Some(other) = faults.all().iter().find(same) {
        let (name, id) = (other.name, other.id);
        return Err(Refusal::Conflict(match id {
            STANDING => format!("{STANDS}; fault {name} is in force there"),
            id => format!("fault {name}, number {id}, is in force there already; clear it first"),
        }));
    }
    let full = || Refusal::Conflict("too many faults in force; clear some".to_owned());
    faults.add(campaign.clone()).ok_or_else(full)
}

/// Lasts until the time is over, it has struck often enough, or somebody cleared or disarmed it; says which. It goes on
/// during a drain: a service is to stop with a child that hangs, too.
async fn run(engine: &Engine, id: u64, mut flood: Option<Flood>) -> &'static str {
    let mut tick = tokio::time::interval(Duration::from_millis(250));
    loop {
        tick.tick().await;
        let now = engine.now();
        match engine.faults().get(id) {
            None => return "cleared",
            Some(one) if one.left == Some(0) => return "that was all of them",
            Some(one) if one.until <= Some(now) => {
                return match engine.config().chaos.armed {
                    true => "its time is over",
                    false => "chaos was disarmed",
                };
            }
            Some(_) => {}
        }
        if let Some(flood) = &mut flood {
            flood.pour();
            if let Some(one) = engine.faults().get(id) {
                one.injected = flood.published;
            }
        }
    }
}

/// Clears one fault, or all but the configuration's; returns how many there were.
pub(crate) fn clear(engine: &Arc<Engine>, id: Option<u64>, by: &str) -> Result<usize, Refusal> {
    if id == Some(STANDING) {
        return Err(Refusal::Conflict(STANDS.to_owned()));
    }
    let ids: Vec<u64> = {
        let faults = engine.faults();
        let known = faults.all().iter().map(|one| one.id);
        known
            .filter(|known| *known != STANDING && id.map_or(true, |id| id == *known))
            .collect()
    };
    if let (Some(id), true) = (id, ids.is_empty()) {
        return Err(Refusal::Conflict(format!(
            "no fault has number {id}; it may have ended"
        )));
    }
    Ok(ids
        .into_iter()
        .filter(|id| end(engine, *id, &format!("cleared by {by}")))
        .count())
}

fn key_of(name: &str, child: Option<&str>) -> String {
    match child {
        Some(child) => format!("chaos:{name}/{child}"),
        None => format!("chaos:{name}"),
    }
}

fn announce(engine: &Engine, campaign: &Campaign, lasts: Duration) {
    let (fault, child, by) = (campaign.name, campaign.child.as_deref(), &*campaign.by);
    let lasts_ms = millis(lasts);
    tracing::warn!(
        event = "chaos_began",
        fault,
        child,
        by,
        lasts_ms,
        "fault injection began"
    );
    let text = format!("fault {fault} for at most {lasts:?}");
    engine.telemetry.remember(News {
        kind: EntryKind::Fault,
        subject: campaign.child.as_ref(),
        generation: None,
        by: Some(by),
        text,
    });
    let reason = format!("fault {fault} injected by {by}");
    engine
        .telemetry
        .health
        .set(&key_of(fault, child), Condition::degraded(reason));
}

/// Faults of children count where they strike.
fn count(engine: &Engine, name: &str) {
    let golden = engine.telemetry.metrics.golden();
    let kind = KindLabel::new(name.to_owned());
    golden.ron_kernel_faults_total.get(&kind).inc();
}

/// Ends a fault once; `false` if it had ended.
fn end(engine: &Arc<Engine>, id: u64, why: &str) -> bool {
    let Some(one) = engine.faults().remove(id) else {
        return false;
    };
    let (fault, child) = (one.name, one.child.as_deref());
    engine.relieve(&one);
    if fault == "config" {
        if let Some(reloader) = engine.reloader() {
            reloader.end_drill();
        }
    }
    let injected = one.injected;
    tracing::warn!(
        event = "chaos_ended",
        fault,
        child,
        injected,
        why,
        "fault injection ended"
    );
    engine.telemetry.remember(News {
        kind: EntryKind::Fault,
        subject: one.child.as_ref(),
        generation: None,
        by: None,
        text: format!("fault {fault} ended after {injected} injections: {why}"),
    });
    engine.telemetry.health.clear(&key_of(fault, child));
    true
}

/// A topic that is flooded beside a reader that does not read.
struct Flood {
    topic: Topic<String>,
    _stalled: Subscriber<String>,
    published: u64,
}

impl Flood {
    fn open(bus: &Bus) -> Result<Flood, Refusal> {
        let refused = |error: &dyn std::error::Error| {
            Refusal::Conflict(format!("topic {CHAOS_TOPIC} cannot be used: {error}"))
        };
        let topic = bus
            .topic_spec(CHAOS_TOPIC)
            .capacity(CHAOS_CAPACITY)
            .json()
            .open::<String>()
            .map_err(|error| refused(&error))?;
        let stalled = topic
            .subscriber()
            .name("chaos")
            .build()
            .map_err(|error| refused(&error))?;
        Ok(Flood {
            topic,
            _stalled: stalled,
            published: 0,
        })
    }

    fn pour(&mut self) {
        for _ in 0..FLOOD / 4 {
            if self.topic.publish("injected".to_owned()).is_ok() {
                self.published += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(body: &str) -> Result<Drill, String> {
        let mut fields = Fields::of(body.as_bytes())?;
        let wanted = Wanted::of(&mut fields)?;
        fields.end()?;
        wanted
            .checked(Some("heartbeat"), 5)
            .map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn a_crash_drill_outlasts_the_restart_budget_by_one() {
        for fault in ["panic", "exit"] {
            let drill = checked(&format!(r#"{{"fault":"{fault}"}}"#)).unwrap();
            assert_eq!((drill.count, drill.lasts), (Some(6), FOR_DEFAULT));
            assert_eq!(drill.child.as_deref(), Some("heartbeat"));
        }
        let drill = checked(r#"{"fault":"panic","child":"feed","count":2,"for_ms":500}"#).unwrap();
        assert_eq!(
            (drill.count, drill.lasts),
            (Some(2), Duration::from_millis(500))
        );
        assert_eq!(drill.child.as_deref(), Some("feed"));
    }

    #[test]
    fn faults_that_last_have_a_time_and_no_count() {
        let drill = checked(r#"{"fault":"latency"}"#).unwrap();
        assert_eq!((drill.count, drill.delay), (None, DELAY_DEFAULT));
        let drill = checked(r#"{"fault":"bus_lag"}"#).unwrap();
        assert_eq!((drill.kind, drill.child), (DrillKind::BusLag, None));
        let drill = checked(r#"{"fault":"config","for_ms":1000}"#).unwrap();
        assert_eq!(
            (drill.kind, drill.lasts),
            (DrillKind::Config, Duration::from_secs(1))
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_would() {
        for (body, expected) in [
            (r#"{"fault":"painc"}"#, "`painc` is no fault; expected one of panic, exit, hang, block, latency, bus_lag, config"),
            (r#"{"fault":"panic","for_ms":0}"#, "for_ms 0: expected 1 to 3600000"),
            (r#"{"fault":"panic","for_ms":3600001}"#, "for_ms 3600001: expected 1 to 3600000"),
            (r#"{"fault":"panic","count":0}"#, "count 0: expected 1 to 1000"),
            (r#"{"fault":"latency","count":1}"#, "count belongs to `panic` and `exit`, not to `latency`"),
            (r#"{"fault":"latency","delay_ms":0}"#, "delay_ms 0: expected 1 to 60000"),
            (r#"{"fault":"panic","delay_ms":5}"#, "delay_ms belongs to `latency`"),
            (r#"{"fault":"config","child":"x"}"#, "`config` is no fault of a child; leave child out"),
        ] {
            assert_eq!(checked(body).unwrap_err(), expected);
        }
        assert!(checked(r#"{"fault":"panic","often":3}"#)
            .unwrap_err()
            .contains("unknown field `often`"));
        let mut fields = Fields::of(br#"{"fault":"panic"}"#).unwrap();
        let wanted = Wanted::of(&mut fields).unwrap();
        let nobody = wanted.checked(None, 5).unwrap_err().to_string();
        assert_eq!(
            nobody,
            "no child named; say which, or set chaos.default_child"
        );
    }
}
