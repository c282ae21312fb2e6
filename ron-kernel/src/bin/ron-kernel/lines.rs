//! Stdout: every line one JSON object. The log is a `tracing` subscriber of our own, so that the package needs no
//! formatter; spans carry nothing here, because the kernel's own lines name their child.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::io::Write;
use std::panic::Location;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use serde_json::{Map, Value as Json};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};

/// Writes one line. A reader that went away is no reason to fail.
pub(crate) fn write(line: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(format!("{line}\n").as_bytes());
}

/// Which log lines are written: a level, and levels of targets by prefix, as in `info,ron_kernel=debug`.
#[derive(Debug)]
pub(crate) struct Filter {
    rules: Mutex<Rules>,
}

#[derive(Debug, Default, PartialEq)]
struct Rules {
    text: String,
    /// Prefix and level, longest prefix first; the empty prefix is the level of everything else.
    targets: Vec<(String, LevelFilter)>,
}

const LEVELS: [(&str, LevelFilter); 6] = [
    ("off", LevelFilter::OFF),
    ("error", LevelFilter::ERROR),
    ("warn", LevelFilter::WARN),
    ("info", LevelFilter::INFO),
    ("debug", LevelFilter::DEBUG),
    ("trace", LevelFilter::TRACE),
];

impl Rules {
    fn parse(text: &str) -> Result<Rules, String> {
        const EXPECTED: &str =
            "expected off, error, warn, info, debug or trace, or such as info,ron_kernel=debug";
        let mut targets = Vec::new();
        for directive in text.split(',').map(str::trim) {
            let (target, level) = directive.split_once('=').unwrap_or(("", directive));
            let known = LEVELS
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(level));
            let Some((_, level)) = known else {
                return Err(format!(
                    "`{directive}` is no directive of ron-kernel; {EXPECTED}"
                ));
            };
            if !target
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':' || c == '-')
            {
                return Err(format!(
                    "`{target}` is no target; spans and fields cannot be filtered here; {EXPECTED}"
                ));
            }
            targets.push((target.to_owned(), *level));
        }
        // Stable: among equal prefixes the last directive wins, as in tracing's own filters.
        targets.reverse();
        targets.sort_by_key(|(target, _)| std::cmp::Reverse(target.len()));
        Ok(Rules {
            text: text.to_owned(),
            targets,
        })
    }

    fn level_of(&self, target: &str) -> LevelFilter {
        let rule = self
            .targets
            .iter()
            .find(|(prefix, _)| target.starts_with(prefix.as_str()));
        rule.map_or(LevelFilter::OFF, |(_, level)| *level)
    }
}

impl Filter {
    pub(crate) fn parse(text: &str) -> Result<Filter, String> {
        Ok(Filter {
            rules: Mutex::new(Rules::parse(text)?),
        })
    }

    /// Puts other directives in force; after an error the old ones stay.
    pub(crate) fn set(&self, text: &str) -> Result<(), String> {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        if rules.text != text {
            *rules = Rules::parse(text)?;
        }
        Ok(())
    }

    fn lets(&self, level: Level, target: &str) -> bool {
        level
            <= self
                .rules
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .level_of(target)
    }
}

/// The log: `{"ts","level","service","event","message",..fields}`.
pub(crate) struct Lines {
    service: &'static str,
    filter: Arc<Filter>,
}

impl Lines {
    /// Makes this the log of the process and panics lines of it.
    pub(crate) fn install(service: &'static str, filter: Arc<Filter>) {
        std::panic::set_hook(Box::new(move |info| {
            panicked(service, info.payload(), info.location())
        }));
        // Fails only if there is a log already, and `main` calls this first of all.
        let _ = tracing::subscriber::set_global_default(Lines { service, filter });
    }
}

fn line(service: &str, level: Level, fields: Fields) -> String {
    let Fields {
        event,
        message,
        rest,
    } = fields;
    let ts = ron_kernel::bus::rfc3339(SystemTime::now());
    let level = level.as_str().to_ascii_lowercase();
    let (service, event, message) = (Json::from(service), Json::from(event), Json::from(message));
    let mut line = format!(
        r#"{{"ts":"{ts}","level":"{level}","service":{service},"event":{event},"message":{message}"#
    );
    for (name, value) in rest {
        line.push_str(&format!(",{}:{value}", Json::from(name)));
    }
    line.push('}');
    line
}

/// Every panic but that of a child is a line here; of a child, the kernel tells it as `ServiceCrashed`, and
/// this program has no children of its own.
fn panicked(service: &str, payload: &(dyn Any + Send), location: Option<&Location<'_>>) {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let mut fields = Fields {
        event: "panic".to_owned(),
        message: "panic".to_owned(),
        rest: Map::new(),
    };
    fields.rest.insert(
        "reason".to_owned(),
        text.unwrap_or("panic without text").into(),
    );
    if let Some(location) = location {
        fields
            .rest
            .insert("location".to_owned(), location.to_string().into());
    }
    fields.rest.insert(
        "thread".to_owned(),
        std::thread::current().name().unwrap_or("unnamed").into(),
    );
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        fields
            .rest
            .insert("backtrace".to_owned(), backtrace.to_string().into());
    }
    write(&line(service, Level::ERROR, fields));
}

impl Subscriber for Lines {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        // The filter changes at run time.
        if metadata.is_event() {
            Interest::sometimes()
        } else {
            Interest::never()
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && self.filter.lets(*metadata.level(), metadata.target())
    }

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        if fields.event.is_empty() {
            // Of a library that is not ours.
            fields.event = "log".to_owned();
            fields
                .rest
                .insert("target".to_owned(), event.metadata().target().into());
        }
        write(&line(self.service, *event.metadata().level(), fields));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Fields {
    event: String,
    message: String,
    rest: Map<String, Json>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: Json) {
        match (field.name(), value) {
            ("event", Json::String(event)) => self.event = event,
            ("message", Json::String(message)) => self.message = message,
            // A name that stands in every line already would make the line ambiguous.
            (name @ ("ts" | "level" | "service" | "event" | "message"), value) => {
                self.rest.insert(format!("field.{name}"), value);
            }
            (name, value) => {
                self.rest.insert(name.to_owned(), value);
            }
        }
    }
}

impl Visit for Fields {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        let number = serde_json::Number::from_f64(value);
        self.add(
            field,
            number.map_or_else(|| value.to_string().into(), Json::Number),
        );
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}").into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_matching_target_decides_and_the_last_of_equals() {
        let rules = Rules::parse("info,ron_kernel=debug,ron_kernel::reload=off,warn").unwrap();
        for (target, level) in [
            ("ron_kernel::telemetry", LevelFilter::DEBUG),
            ("ron_kernel::reload", LevelFilter::OFF),
            ("ron_config", LevelFilter::WARN),
        ] {
            assert_eq!(rules.level_of(target), level, "{target}");
        }
        assert_eq!(
            Rules::parse("ron_kernel=TRACE").unwrap().level_of("other"),
            LevelFilter::OFF
        );
    }

    #[test]
    fn what_the_filter_cannot_do_is_refused_in_one_line() {
        for text in [
            "",
            "inof",
            "ron_kernel",
            "info,[child]=debug",
            "info,,warn",
            "a{b}=info",
        ] {
            let problem = Rules::parse(text).unwrap_err();
            assert!(
                problem.contains("expected off, error") && !problem.contains('\n'),
                "{text}: {problem}"
            );
        }
    }

    #[test]
    fn after_a_refused_change_the_old_filter_stays() {
        let filter = Filter::parse("warn").unwrap();
        assert!(filter.set("loud").is_err());
        assert!(filter.lets(Level::WARN, "x") && !filter.lets(Level::INFO, "x"));
        filter.set("debug").unwrap();
        assert!(filter.lets(Level::DEBUG, "x"));
    }
}
