//! What an operator reads of actors in the log, and the spans around them.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ryker::{Actor, Context, Runtime, RykerConfig};
use tokio::time::sleep;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// One event, or one span as it was opened.
#[derive(Clone, Debug)]
struct Line {
    name: String,
    level: Level,
    target: String,
    fields: BTreeMap<String, String>,
}

impl Line {
    fn of(metadata: &Metadata<'_>) -> Self {
        Self {
            name: metadata.name().to_owned(),
            level: *metadata.level(),
            target: metadata.target().to_owned(),
            fields: BTreeMap::new(),
        }
    }

    fn get(&self, field: &str) -> &str {
        self.fields.get(field).map_or("", String::as_str)
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = format!("{value:?}");
        self.fields.insert(field.name().to_owned(), text);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields
            .insert(field.name().to_owned(), value.to_owned());
    }
}

/// Keeps everything that ryker says on its thread.
#[derive(Clone, Default)]
struct Log {
    events: Arc<Mutex<Vec<Line>>>,
    spans: Arc<Mutex<Vec<Line>>>,
    ids: Arc<AtomicU64>,
}

impl Log {
    fn events(&self) -> Vec<Line> {
        self.events.lock().unwrap().clone()
    }

    fn spans(&self) -> Vec<Line> {
        self.spans.lock().unwrap().clone()
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("ryker")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut line = Line::of(span.metadata());
        span.record(&mut line);
        self.spans.lock().unwrap().push(line);
        Id::from_u64(self.ids.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::of(event.metadata());
        event.record(&mut line);
        self.events.lock().unwrap().push(line);
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

const BODY: &str = "4929-1374-0000-0000";

/// Fails at every message but an empty one.
struct Cards;

impl Actor for Cards {
    type Msg = String;
    type Error = &'static str;

    async fn handle(&mut self, card: String, _: &mut Context<Self>) -> Result<(), &'static str> {
        match card.is_empty() {
            true => Ok(()),
            false => Err("no such bank"),
        }
    }
}

/// Runs `life` under a clock that is paused, and returns what was said.
fn said<F: std::future::Future<Output = ()>>(life: impl FnOnce() -> F) -> Log {
    let log = Log::default();
    let executor = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    tracing::subscriber::with_default(log.clone(), || executor.block_on(life()));
    log
}

#[test]
fn every_line_names_its_event_and_the_facts_and_none_shows_a_message() {
    let log = said(|| async {
        let started = RykerConfig::builder().rapid_fail_threshold(2);
        let rt = Runtime::new(started.build().unwrap());
        let edited = "[defaults]\ndeadline = \"2s\"\nmailbox_capacity = 512";
        rt.reload(RykerConfig::from_toml(edited).unwrap());
        let missing = std::path::Path::new("there/is/no/such.toml");
        RykerConfig::from_file(missing).unwrap_err();
        rt.reload(
            rt.config()
                .to_builder()
                .rapid_fail_threshold(2)
                .build()
                .unwrap(),
        );

        let cards = rt.spawn("cards", || Cards).unwrap();
        for _ in 0..2 {
            cards.try_send(BODY.to_owned()).unwrap();
        }
        assert!(cards.stopped().await.is_failure());
        let spool = rt.spawn("spool", || Cards).unwrap();
        spool.try_send(String::new()).unwrap();
        assert!(rt.drain(Duration::from_secs(1)).await.is_clean());
    });
    let events = log.events();
    let told: Vec<(Level, &str)> = events
        .iter()
        .map(|line| (line.level, line.get("event")))
        .collect();
    let expected = [
        (Level::INFO, "config_applied"),
        (Level::INFO, "config_applied"),
        (Level::ERROR, "config_rejected"),
        (Level::INFO, "config_applied"),
        (Level::WARN, "actor_restart"),
        (Level::ERROR, "actor_gave_up"),
        (Level::INFO, "drained"),
    ];
    assert_eq!(told, expected, "{events:#?}");
    for line in &events {
        assert_eq!(line.get("crate"), "ryker", "{line:?}");
        assert!(
            line.fields.values().all(|text| !text.contains(BODY)),
            "{line:?}"
        );
    }

    let [start, reload, rejected, _, restart, end, drained] = &events[..] else {
        panic!("counted above");
    };
    assert_eq!(start.get("source"), "startup");
    assert_eq!(
        start.get("diff"),
        "supervisor.rapid_fail_threshold: 5 -> 2 (next restart)"
    );
    assert_eq!(reload.get("source"), "file");
    assert!(reload
        .get("diff")
        .starts_with("defaults.deadline: 1s -> 2s (hot)"));
    assert_eq!(
        reload.get("needs_restart"),
        "defaults.mailbox_capacity: 256 -> 512 (cold)"
    );
    assert_eq!(
        (rejected.get("source"), rejected.get("error")),
        ("file", "io")
    );
    assert_eq!(
        (restart.get("actor"), restart.get("failures")),
        ("cards", "1")
    );
    assert_eq!(restart.get("reason"), "failed: no such bank");
    let delay: u64 = restart.get("delay_ms").parse().unwrap();
    assert!((100..=300).contains(&delay), "{delay}");
    assert_eq!(end.get("actor"), "cards");
    assert!(
        end.get("reason").contains("failed 2 times within 10s"),
        "{end:?}"
    );
    assert_eq!((drained.get("handled"), drained.get("dropped")), ("1", "0"));
}

#[test]
fn spans_are_as_the_level_in_force_says() {
    for (level, spans) in [
        ("warn", &[][..]),
        ("info", &["ryker.actor"]),
        ("debug", &["ryker.actor", "ryker.actor.handle"]),
    ] {
        let log = said(|| async {
            let text = format!("[observability]\nspan_level = \"{level}\"");
            let rt = Runtime::new(RykerConfig::from_toml(&text).unwrap());
            let cards = rt.spawn("cards", || Cards).unwrap();
            cards.try_send(String::new()).unwrap();
            sleep(Duration::from_millis(10)).await;
            assert_eq!(cards.accounts().ok, 1);
        });
        let opened = log.spans();
        let names: Vec<&str> = opened.iter().map(|span| span.name.as_str()).collect();
        assert_eq!(names, spans, "{level}");
        for span in &opened {
            assert!(span.target.starts_with("ryker"), "{span:?}");
            assert_eq!(span.get("actor"), "cards", "{span:?}");
        }
        if let Some(handle) = opened.get(1) {
            let left: u64 = handle.get("deadline_ms").parse().unwrap();
            assert!((999..=1_001).contains(&left), "{left}: coarse milliseconds");
            assert_eq!(handle.get("queue_depth"), "0");
        }
    }
}
