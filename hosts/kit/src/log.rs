//! The log: one line an event on stdout, filtered by directives that can change while the program runs.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::panic::PanicHookInfo;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use ron_kernel::bus::rfc3339;
use ron_kernel::{LogConfig, LogFormat};
use serde_json::Value as Json;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry, Scope};
use tracing_subscriber::reload;

use crate::filter::{is_for_console, parse, Gate, CHILD};

/// The installed log.
#[derive(Clone, Debug)]
pub struct Log {
    gate: reload::Handle<Gate, Registry>,
    levels: Arc<Mutex<Levels>>,
    /// Wakes whoever waits for the end of a temporary filter.
    changed: Arc<Notify>,
}

/// The filter of the configuration, and one that is in force in its stead for a while.
#[derive(Debug)]
struct Levels {
    standing: String,
    temporary: Option<Temporary>,
}

#[derive(Clone, Debug)]
struct Temporary {
    filter: String,
    ends: Instant,
    until: SystemTime,
}

/// Which filter directives are in force; see [`Log::filter`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Filter {
    /// Those in force.
    pub filter: String,
    /// When the standing ones come back; `None` while they are in force.
    pub until: Option<SystemTime>,
    /// Those of the configuration.
    pub standing: String,
}

/// Why the log was not installed.
#[derive(Debug)]
#[non_exhaustive]
pub enum InstallError {
    /// The filter directives cannot be used.
    Directives(String),
    /// The process has a subscriber already.
    Installed,
    /// The console cannot be asked where it should.
    #[cfg(all(feature = "console", tokio_unstable))]
    Console {
        /// Why.
        problem: String,
        /// What a host ends with.
        exit_code: u8,
    },
}

impl InstallError {
    /// 98 for an address in use, 2 otherwise.
    pub fn exit_code(&self) -> u8 {
        match self {
            #[cfg(all(feature = "console", tokio_unstable))]
            InstallError::Console { exit_code, .. } => *exit_code,
            _ => 2,
        }
    }
}

impl Log {
    /// Installs the log for the whole process, and a panic hook that writes panics as log lines.
    ///
    /// A line is `{"ts","level","service","event","message",..fields}`, `ts` in RFC 3339 UTC with
    /// milliseconds. Events inside a child's span carry `child` and `generation`. An event that names no
    /// `event` field comes from a foreign library: it gets `"event":"log"` and its `target`.
    ///
    /// Panics of children are told by the kernel's `ServiceCrashed` line; the hook adds a line for them only
    /// when `RUST_BACKTRACE` asks for the backtrace. Elsewhere it writes one line, the backtrace in a field.
    ///
    /// Lines are written to stdout by whoever logs, in one write each: a full pipe holds the writer up, and
    /// the kernel's exit guard still ends the process in time. A closed pipe loses lines and nothing else.
    ///
    /// # Errors
    ///
    /// See [`InstallError`].
    pub fn install(service: &str, settings: &LogConfig) -> Result<Log, InstallError> {
        let filter = parse(&settings.level).map_err(InstallError::Directives)?;
        let lines = Arc::new(Lines::new(service, settings.format, to_stdout));
        let (gate, handle) = reload::Layer::new(Gate(filter));
        let subscriber = Registry::default()
            .with(gate)
            .with(LineLayer(lines.clone()));
        #[cfg(all(feature = "console", tokio_unstable))]
        let (subscriber, console) = {
            let addr = crate::console::address().map_err(|error| InstallError::Console {
                problem: error.to_string(),
                exit_code: error.exit_code(),
            })?;
            (subscriber.with(crate::console::layer(addr)), addr)
        };
        tracing::subscriber::set_global_default(subscriber).map_err(|_| InstallError::Installed)?;
        std::panic::set_hook(Box::new(move |info| lines.panicked(info)));
        #[cfg(all(feature = "console", tokio_unstable))]
        tracing::info!(event = "console_listening", addr = %console, "tokio-console http://{console}");
        Ok(Log {
            gate: handle,
            levels: Arc::new(Mutex::new(Levels {
                standing: settings.level.clone(),
                temporary: None,
            })),
            changed: Arc::new(Notify::new()),
        })
    }

    /// Puts other filter directives in force; while a temporary filter is, after it.
    ///
    /// # Errors
    ///
    /// As [`check_directives`](crate::check_directives); the old ones stay.
    pub fn set_level(&self, directives: &str) -> Result<(), String> {
        let mut levels = self.levels();
        if levels.standing == directives {
            return Ok(());
        }
        let filter = parse(directives)?;
        if levels.temporary.is_none() {
            self.apply(filter)?;
        }
        directives.clone_into(&mut levels.standing);
        Ok(())
    }

    /// Puts filter directives in force for a while; what the configuration says comes back by itself, as long as
    /// [`watch`](Self::watch) is polled.
    ///
    /// # Errors
    ///
    /// As [`check_directives`](crate::check_directives); nothing changes.
    pub fn set_level_for(&self, directives: &str, lasts: Duration) -> Result<Filter, String> {
        let filter = parse(directives)?;
        let mut levels = self.levels();
        self.apply(filter)?;
        levels.temporary = Some(Temporary {
            filter: directives.to_owned(),
            ends: Instant::now() + lasts,
            until: SystemTime::now() + lasts,
        });
        drop(levels);
        self.changed.notify_one();
        Ok(self.filter())
    }

    /// The filter directives in force.
    pub fn filter(&self) -> Filter {
        let levels = self.levels();
        let temporary = levels.temporary.as_ref();
        Filter {
            filter: temporary
                .map_or(&levels.standing, |one| &one.filter)
                .clone(),
            until: temporary.map(|one| one.until),
            standing: levels.standing.clone(),
        }
    }

    /// Ends temporary filters when their time is over. Never returns.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe; a filter whose time has passed ends with the next call.
    pub async fn watch(&self) {
        loop {
            let ends = self.levels().temporary.as_ref().map(|one| one.ends);
            match ends {
                None => self.changed.notified().await,
                Some(ends) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(ends) => self.restore(),
                        () = self.changed.notified() => {}
                    }
                }
            }
        }
    }

    fn restore(&self) {
        let mut levels = self.levels();
        let now = Instant::now();
        if levels.temporary.take_if(|one| one.ends <= now).is_none() {
            return;
        }
        // The standing filter was in force before.
        let restored = parse(&levels.standing).and_then(|filter| self.apply(filter));
        let filter = levels.standing.clone();
        drop(levels);
        match restored {
            Ok(()) => tracing::info!(
                event = "log_filter",
                filter,
                "the temporary log filter ended"
            ),
            Err(error) => tracing::error!(event = "log_filter", error, "log filter not restored"),
        }
    }

    fn apply(&self, filter: EnvFilter) -> Result<(), String> {
        self.gate
            .reload(Gate(filter))
            .map_err(|error| error.to_string())
    }

    fn levels(&self) -> MutexGuard<'_, Levels> {
        self.levels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for InstallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InstallError::Directives(problem) => write!(f, "log.level: {problem}"),
            InstallError::Installed => f.write_str("the process has a log already"),
            #[cfg(all(feature = "console", tokio_unstable))]
            InstallError::Console { problem, .. } => f.write_str(problem),
        }
    }
}

impl std::error::Error for InstallError {}

fn to_stdout(line: &[u8]) {
    // A reader that went away is no reason to fail.
    let _ = std::io::stdout().lock().write_all(line);
}

/// Makes lines of events.
struct Lines {
    service: Box<str>,
    format: LogFormat,
    out: fn(&[u8]),
}

/// What the kernel's span around an incarnation says.
#[derive(Clone, Default)]
struct ChildSpan {
    id: String,
    generation: u64,
}

/// The fields of one event.
#[derive(Default)]
struct Fields {
    event: Option<String>,
    message: String,
    rest: Vec<(&'static str, Json)>,
}

impl Lines {
    fn new(service: &str, format: LogFormat, out: fn(&[u8])) -> Lines {
        Lines {
            service: service.into(),
            format,
            out,
        }
    }

    fn write(&self, level: Level, target: &str, mut fields: Fields, child: Option<&ChildSpan>) {
        let named = |name: &str| fields.rest.iter().any(|(field, _)| *field == name);
        if let Some(child) = child {
            // An event that names another child means that one.
            if !named("child") {
                fields.rest.insert(0, ("child", child.id.as_str().into()));
                fields
                    .rest
                    .insert(1, ("generation", child.generation.into()));
            }
        }
        if fields.event.is_none() {
            fields.rest.push(("target", target.into()));
        }
        let event = fields.event.as_deref().unwrap_or("log");
        let ts = rfc3339(SystemTime::now());
        let line = match self.format {
            LogFormat::Text => text_line(&ts, level, &self.service, event, &fields),
            _ => json_line(&ts, level, &self.service, event, &fields),
        };
        (self.out)(line.as_bytes());
    }

    fn panicked(&self, info: &PanicHookInfo<'_>) {
        let backtrace = Backtrace::capture();
        let backtrace =
            (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
        let child = current_child();
        if child.is_some() && backtrace.is_none() {
            return;
        }
        let payload = info.payload();
        let reason = payload.downcast_ref::<&str>().copied();
        let reason = reason.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let thread = std::thread::current();
        let mut rest = vec![("reason", reason.unwrap_or("panic without text").into())];
        if let Some(location) = info.location() {
            rest.push(("location", location.to_string().into()));
        }
        rest.push(("thread", thread.name().unwrap_or("unnamed").into()));
        if let Some(backtrace) = backtrace {
            rest.push(("backtrace", backtrace.into()));
        }
        let fields = Fields {
            event: Some("panic".to_owned()),
            message: "panic".to_owned(),
            rest,
        };
        self.write(Level::ERROR, "panic", fields, child.as_ref());
    }
}

fn json_line(ts: &str, level: Level, service: &str, event: &str, fields: &Fields) -> String {
    let mut line = String::with_capacity(256);
    let _ = write!(
        line,
        r#"{{"ts":"{ts}","level":"{}","service":{},"event":{},"message":{}"#,
        level_name(level),
        Json::from(service),
        Json::from(event),
        Json::from(&*fields.message)
    );
    for (i, (name, value)) in fields.rest.iter().enumerate() {
        // A name that stands in the line already would make it ambiguous.
        let taken = ["ts", "level", "service", "event", "message"].contains(name)
            || fields.rest[..i].iter().any(|(before, _)| before == name);
        let prefix = if taken { "field." } else { "" };
        let _ = write!(line, ",{}:{value}", Json::from(format!("{prefix}{name}")));
    }
    line.push_str("}\n");
    line
}

fn text_line(ts: &str, level: Level, service: &str, event: &str, fields: &Fields) -> String {
    let level = level_name(level).to_uppercase();
    let mut line = format!(
        "{ts} {level:5} {service} {event}: {}",
        one_line(&fields.message)
    );
    for (name, value) in &fields.rest {
        let plain = value.as_str().filter(|text| {
            !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic() && c != '"')
        });
        let _ = match plain {
            Some(text) => write!(line, " {name}={text}"),
            None => write!(line, " {name}={value}"),
        };
    }
    line.push('\n');
    line
}

/// A text that cannot break out of its line or move the cursor.
fn one_line(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    safe
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

impl Fields {
    fn add(&mut self, field: &Field, value: Json) {
        match (field.name(), value) {
            ("event", Json::String(event)) => self.event = Some(event),
            ("message", Json::String(message)) => self.message = message,
            (name, value) => self.rest.push((name, value)),
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

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.add(field, value.to_string().into());
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.add(field, value.to_string().into());
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

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(error) = source {
            let _ = write!(text, ": {error}");
            source = error.source();
        }
        self.add(field, text.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}").into());
    }
}

impl Visit for ChildSpan {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "generation" {
            self.generation = value;
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "id" {
            value.clone_into(&mut self.id);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

struct LineLayer(Arc<Lines>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for LineLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, cx: Context<'_, S>) {
        if attributes.metadata().name() != CHILD {
            return;
        }
        let Some(span) = cx.span(id) else { return };
        let mut child = ChildSpan::default();
        attributes.record(&mut child);
        span.extensions_mut().insert(child);
    }

    fn on_event(&self, event: &Event<'_>, cx: Context<'_, S>) {
        if is_for_console(event.metadata()) {
            return;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        let child = cx.event_scope(event).and_then(innermost_child);
        self.0.write(
            *event.metadata().level(),
            event.metadata().target(),
            fields,
            child.as_ref(),
        );
    }
}

fn innermost_child<'a, R: LookupSpan<'a>>(mut scope: Scope<'a, R>) -> Option<ChildSpan> {
    scope.find_map(|span| span.extensions().get::<ChildSpan>().cloned())
}

/// The child whose code runs on this thread.
fn current_child() -> Option<ChildSpan> {
    tracing::dispatcher::get_default(|dispatch| {
        let registry = dispatch.downcast_ref::<Registry>()?;
        let current = registry.current_span();
        innermost_child(registry.span(current.id()?)?.scope())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    thread_local! {
        static WRITTEN: RefCell<String> = const { RefCell::new(String::new()) };
    }

    fn keep(line: &[u8]) {
        WRITTEN.with_borrow_mut(|written| written.push_str(std::str::from_utf8(line).unwrap()));
    }

    /// The lines `log` writes, without their time.
    fn lines(format: LogFormat, level: &str, log: impl FnOnce()) -> Vec<String> {
        let (gate, _handle) = reload::Layer::new(Gate(parse(level).unwrap()));
        let layer = LineLayer(Arc::new(Lines::new("thumbs", format, keep)));
        tracing::subscriber::with_default(Registry::default().with(gate).with(layer), log);
        let written = WRITTEN.take();
        let timeless = |line: &str| match line.strip_prefix(r#"{"ts":""#) {
            Some(rest) => rest[26..].to_owned(),
            None => line[25..].to_owned(),
        };
        written.lines().map(timeless).collect()
    }

    #[test]
    fn a_line_is_one_object_with_its_five_keys_first() {
        let written = lines(LogFormat::Json, "info", || {
            tracing::warn!(
                event = "lost",
                count = 3,
                ratio = 0.5,
                ok = false,
                id = u128::MAX,
                "lost \"{}\"\n",
                1
            );
        });
        let expected = r#""level":"warn","service":"thumbs","event":"lost","message":"lost \"1\"\n","count":3,"ratio":0.5,"ok":false,"id":"340282366920938463463374607431768211455"}"#;
        assert_eq!(written, [expected]);
    }

    #[test]
    fn an_event_of_a_foreign_library_names_its_target() {
        let written = lines(
            LogFormat::Json,
            "info",
            || tracing::info!(target: "hyper::server", "hello"),
        );
        assert_eq!(
            written,
            [
                r#""level":"info","service":"thumbs","event":"log","message":"hello","target":"hyper::server"}"#
            ]
        );
    }

    #[test]
    fn a_field_never_hides_a_key_of_the_line() {
        let written = lines(LogFormat::Json, "info", || {
            tracing::info!(event = "e", level = 9, service = "other", "m")
        });
        assert_eq!(
            written,
            [
                r#""level":"info","service":"thumbs","event":"e","message":"m","field.level":9,"field.service":"other"}"#
            ]
        );
    }

    #[test]
    fn lines_inside_a_child_carry_child_and_generation_at_every_filter_level() {
        for level in ["info", "warn", "error,thumbs=info", "off,ron_host=warn"] {
            let written = lines(LogFormat::Json, level, || {
                let child =
                    tracing::info_span!("child", id = "feed", generation = 3u64, kind = "task");
                let _child = child.enter();
                let inner = tracing::error_span!("request", id = "r1");
                let _inner = inner.enter();
                tracing::error!(target: "ron_host", event = "e", "own");
                tracing::error!(target: "ron_host", event = "e", child = "other", "named");
            });
            assert_eq!(
                written,
                [
                    r#""level":"error","service":"thumbs","event":"e","message":"own","child":"feed","generation":3}"#,
                    r#""level":"error","service":"thumbs","event":"e","message":"named","child":"other"}"#,
                ],
                "{level}"
            );
        }
    }

    #[test]
    fn text_lines_stay_lines() {
        let written = lines(LogFormat::Text, "info", || {
            tracing::info!(
                event = "e",
                path = "/a",
                odd = "two words\n",
                n = 1,
                "first\nsecond \u{1b}[31m"
            );
        });
        assert_eq!(
            written,
            [r#"INFO  thumbs e: first\nsecond \u{1b}[31m path=/a odd="two words\n" n=1"#]
        );
    }

    #[test]
    fn the_filter_keeps_lines_out() {
        let written = lines(LogFormat::Json, "warn,ron_kernel=debug", || {
            tracing::info!(target: "other", event = "no", "");
            tracing::debug!(target: "ron_kernel::x", event = "yes", "");
        });
        assert_eq!(written.len(), 1, "{written:?}");
        assert!(written[0].contains(r#""event":"yes""#));
    }
}
