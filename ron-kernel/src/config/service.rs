//! `[[service]]`: a process to run as a child, as the configuration describes it.

use super::listen::ListenAddr;
#[cfg(feature = "process")]
use super::listen::{bind, ListenError};
#[cfg(feature = "process")]
use ron_config::nearest;
use ron_config::{parse_duration, Input, Mismatch, Schema, Settings, Value};
use serde_json::{json, Value as Json};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
#[cfg(feature = "process")]
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "process")]
use crate::process::{Command, Probe, Ready, StopSignal};
#[cfg(feature = "process")]
use crate::supervisor::Child;
use crate::supervisor::Restart;

/// One `[[service]]` table. Only a configuration makes one; what it says has been checked.
///
/// The kernel adds each as a child of the root, beside those of the program: `after` may name either. Tables are
/// read at start; a reload that finds others lists `service` as needing a restart.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceConfig {
    name: String,
    command: String,
    args: Vec<String>,
    env: Environment,
    dir: Option<PathBuf>,
    ready: ReadyText,
    health: Option<ProbeText>,
    health_interval: Duration,
    health_misses: u32,
    after: Vec<String>,
    restart: Restart,
    start_timeout: Duration,
    stop_timeout: Duration,
    stop_signal: StopSignal,
    watchdog: Option<Duration>,
    optional: bool,
    listen: Vec<ListenAddr>,
}

impl Default for ServiceConfig {
    fn default() -> Self {
        ServiceConfig {
            name: String::new(),
            command: String::new(),
            args: Vec::new(),
            env: Environment::default(),
            dir: None,
            ready: ReadyText::default(),
            health: None,
            health_interval: HEALTH_INTERVAL,
            health_misses: HEALTH_MISSES,
            after: Vec::new(),
            // Who lists a service means it to run: an exit that nobody asked for is a failure, with status 0 too.
            restart: Restart::Permanent,
            start_timeout: Duration::from_secs(10),
            stop_timeout: Duration::from_secs(2),
            stop_signal: StopSignal::default(),
            watchdog: None,
            optional: false,
            listen: Vec::new(),
        }
    }
}

/// As of a `Command`.
const HEALTH_INTERVAL: Duration = Duration::from_secs(5);
const HEALTH_MISSES: u32 = 3;

impl ServiceConfig {
    /// The name of the child.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The child it describes, without the sockets of `listen`: the kernel binds those when it starts.
    #[cfg(feature = "process")]
    pub fn child(&self) -> Child {
        self.child_of(self.command())
    }

    /// The child with its sockets; none where it has none.
    #[cfg(feature = "process")]
    pub(super) fn listening(&self) -> Result<Option<Child>, ListenError> {
        if self.listen.is_empty() {
            return Ok(None);
        }
        let mut command = self.command();
        for addr in &self.listen {
            let (socket, file, bound) =
                bind(addr).map_err(|source| ListenError::new(&self.name, addr, source))?;
            tracing::info!(
                event = "service_listening",
                child = self.name,
                addr = %bound,
                "{bound} is kept open for {}",
                self.name
            );
            command = command.listener(&self.name, socket);
            command.files.extend(file.map(Arc::new));
        }
        Ok(Some(self.child_of(command)))
    }

    /// A connection to a socket that stays open says nothing of the child.
    fn asks_itself(&self, probe: Option<&String>) -> Result<(), String> {
        let open = self
            .listen
            .iter()
            .any(|addr| Some(&addr.to_string()) == probe);
        (!open).then_some(()).ok_or_else(|| {
            "would always succeed, since listen keeps that address open; ask by http".to_owned()
        })
    }

    #[cfg(feature = "process")]
    fn child_of(&self, command: Command) -> Child {
        let mut child = Child::process(&self.name, command)
            .restart(self.restart)
            .gated(self.start_timeout)
            .stop_timeout(self.stop_timeout);
        for after in &self.after {
            child = child.after(after);
        }
        if let Some(interval) = self.watchdog {
            child = child.watchdog(interval);
        }
        if self.optional {
            child = child.optional();
        }
        child
    }

    #[cfg(feature = "process")]
    fn command(&self) -> Command {
        let mut command = Command::new(&self.command)
            .args(&self.args)
            .ready(self.ready.ready.clone())
            .health_every(self.health_interval, self.health_misses)
            .stop_signal(self.stop_signal);
        for (name, value) in &self.env.0 {
            command = command.env(name, value);
        }
        if let Some(dir) = &self.dir {
            command = command.current_dir(dir);
        }
        if let Some(health) = &self.health {
            command = command.health(health.probe.clone());
        }
        command
    }
}

impl Settings for ServiceConfig {
    fn schema(schema: &mut Schema<Self>) {
        let ms = Duration::from_millis;
        let hour = Duration::from_secs(3600);
        schema
            .key("name", |s: &mut ServiceConfig| &mut s.name)
            .doc("name of the child, unique among all children")
            .required()
            .check(|name| {
                let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
                let fits = (1..=128).contains(&name.len()) && name.chars().all(legal);
                fits.then_some(()).ok_or_else(|| {
                    format!("{name:?} is no child name; use 1 to 128 of A-Z a-z 0-9 . _ -")
                })
            });
        schema
            .key("command", |s: &mut ServiceConfig| &mut s.command)
            .doc("the program: a path, or a name that is looked for in PATH at each start")
            .required()
            .check(|command| match command.as_str() {
                "" => Err("is empty; name a program".to_owned()),
                command => without_nul([command]),
            });
        schema
            .key("args", |s: &mut ServiceConfig| &mut s.args)
            .doc("its arguments; no shell reads them")
            .check(|args| without_nul(args.iter().map(String::as_str)));
        schema
            .key("env", |s: &mut ServiceConfig| &mut s.env)
            .doc("variables set for it beside those it inherits; values are never shown");
        schema
            .key("dir", |s: &mut ServiceConfig| &mut s.dir)
            .doc("its working directory; unset: that of this process")
            .check(|dir| {
                let dir = dir.as_ref().map(|dir| dir.to_string_lossy());
                without_nul(dir.as_deref())
            });
        schema
            .key("ready", |s: &mut ServiceConfig| &mut s.ready)
            .doc("when it is ready: as soon as it runs, when it says so, this long after, or when the probe succeeds");
        schema
            .key("health", |s: &mut ServiceConfig| &mut s.health)
            .doc("asks for its health once it is ready; unset: not asked");
        schema
            .key("health_interval", |s: &mut ServiceConfig| {
                &mut s.health_interval
            })
            .doc("between two questions, and how long an answer may take")
            .range(ms(10)..=hour);
        schema
            .key("health_misses", |s: &mut ServiceConfig| {
                &mut s.health_misses
            })
            .doc("misses in a row that are a failure")
            .range(1..=1000);
        schema
            .key("after", |s: &mut ServiceConfig| &mut s.after)
            .doc("children it starts after, once they are ready, and stops before");
        schema
            .choice(
                "restart",
                |s: &mut ServiceConfig| &mut s.restart,
                &[
                    ("permanent", Restart::Permanent),
                    ("transient", Restart::Transient),
                    ("temporary", Restart::Temporary),
                ],
            )
            .doc("started again always, after a failure, or never");
        schema
            .key("start_timeout", |s: &mut ServiceConfig| {
                &mut s.start_timeout
            })
            .doc("not ready in this time is a failure")
            .range(ms(10)..=hour);
        schema
            .key("stop_timeout", |s: &mut ServiceConfig| &mut s.stop_timeout)
            .doc("from the stop signal to SIGKILL")
            .range(Duration::ZERO..=hour);
        schema
            .choice(
                "stop_signal",
                |s: &mut ServiceConfig| &mut s.stop_signal,
                &[
                    ("SIGTERM", StopSignal::Term),
                    ("SIGINT", StopSignal::Int),
                    ("SIGQUIT", StopSignal::Quit),
                    ("SIGHUP", StopSignal::Hup),
                    ("SIGUSR1", StopSignal::Usr1),
                    ("SIGUSR2", StopSignal::Usr2),
                ],
            )
            .doc("what asks it to end");
        schema
            .key("watchdog", |s: &mut ServiceConfig| &mut s.watchdog)
            .doc("with ready = \"notify\": longest time between two WATCHDOG=1")
            .range(ms(10)..=hour);
        schema
            .key("optional", |s: &mut ServiceConfig| &mut s.optional)
            .doc("may stay down without making the whole not ready");
        schema
            .key("listen", |s: &mut ServiceConfig| &mut s.listen)
            .doc(
                "sockets that stay open while it restarts: descriptor 3, 4, .. as LISTEN_FDS says",
            );
        schema.check(&["ready", "start_timeout"], |s| match s.ready.delay() {
            Some(delay) if delay >= s.start_timeout => Err(format!(
                "is {} after the start, but start_timeout is {:?}",
                s.ready.text, s.start_timeout
            )),
            _ => Ok(()),
        });
        schema.check(&["watchdog", "ready"], |s| {
            let heard = s.watchdog.is_none() || s.ready.text == NOTIFY;
            heard
                .then_some(())
                .ok_or_else(|| "is set, but ready is not \"notify\"".to_owned())
        });
        schema.check(&["health_interval", "health"], |s| {
            let used = s.health.is_some() || s.health_interval == HEALTH_INTERVAL;
            used.then_some(()).ok_or_else(|| UNASKED.to_owned())
        });
        schema.check(&["health_misses", "health"], |s| {
            let used = s.health.is_some() || s.health_misses == HEALTH_MISSES;
            used.then_some(()).ok_or_else(|| UNASKED.to_owned())
        });
        schema.check(&["ready", "listen"], |s| s.asks_itself(Some(&s.ready.text)));
        schema.check(&["health", "listen"], |s| {
            s.asks_itself(s.health.as_ref().map(|health| &health.text))
        });
        schema.check(&["after", "name"], |s| {
            let itself = s.after.contains(&s.name);
            (!itself)
                .then_some(())
                .ok_or_else(|| format!("`{}` cannot start after itself", s.name))
        });
    }
}

const UNASKED: &str = "is set without health";

/// What no program can be given.
fn without_nul<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<(), String> {
    let clean = texts.into_iter().all(|text| !text.contains('\0'));
    clean
        .then_some(())
        .ok_or_else(|| "contains a NUL character".to_owned())
}

/// Two tables of one name, told by their places.
pub(super) fn names_are_unique(services: &[ServiceConfig]) -> Result<(), String> {
    for (at, service) in services.iter().enumerate() {
        let before = services[..at]
            .iter()
            .position(|other| other.name == service.name);
        if let Some(before) = before {
            return Err(format!(
                "service[{before}] and service[{at}] are both named `{}`",
                service.name
            ));
        }
    }
    Ok(())
}

/// Variables; no output shows their values, which may be secrets.
#[derive(Clone, Default, PartialEq)]
struct Environment(BTreeMap<String, String>);

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Value for Environment {
    fn read(input: Input<'_>) -> Result<Self, Mismatch> {
        let mut variables = BTreeMap::new();
        for (name, value) in input.members()? {
            let value = value
                .text()
                .map_err(|_| Mismatch::new(format!("{name} is no text; write it in quotes")))?;
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                return Err(Mismatch::new(format!("{name:?} cannot be a variable")));
            }
            variables.insert(name.to_owned(), value.to_owned());
        }
        Ok(Environment(variables))
    }

    fn show(&self) -> Json {
        let hidden = self.0.keys().map(|name| (name.clone(), "***".into()));
        Json::Object(hidden.collect())
    }

    fn expected() -> String {
        "a table of names and texts such as { RUST_LOG = \"info\" }".to_owned()
    }

    fn schema() -> Json {
        json!({"type": "object", "additionalProperties": {"type": "string"}})
    }
}

/// Text that says when a process is ready. A build without processes keeps it unread.
#[derive(Clone, PartialEq)]
struct ReadyText {
    text: String,
    #[cfg(feature = "process")]
    ready: Ready,
}

const STARTED: &str = "started";
const NOTIFY: &str = "notify";

impl ReadyText {
    /// The delay, if it is one.
    fn delay(&self) -> Option<Duration> {
        parse_duration(&self.text).ok()
    }
}

impl Default for ReadyText {
    fn default() -> Self {
        ReadyText {
            text: STARTED.to_owned(),
            #[cfg(feature = "process")]
            ready: Ready::Started,
        }
    }
}

impl fmt::Debug for ReadyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl Value for ReadyText {
    fn read(input: Input<'_>) -> Result<Self, Mismatch> {
        let text = input.text()?;
        #[cfg(feature = "process")]
        let ready = match text {
            STARTED => Ready::Started,
            NOTIFY => Ready::Notified,
            _ if text.starts_with(|c: char| c.is_ascii_digit()) => {
                Ready::After(Duration::read(input)?)
            }
            _ if !text.contains(':') => {
                let near = nearest(text, [STARTED, NOTIFY]);
                return Err(input.mismatch().suggest(near));
            }
            _ => Ready::Probed(probe(input)?),
        };
        Ok(ReadyText {
            text: text.to_owned(),
            #[cfg(feature = "process")]
            ready,
        })
    }

    fn show(&self) -> Json {
        self.text.as_str().into()
    }

    fn expected() -> String {
        format!(
            "\"{STARTED}\", \"{NOTIFY}\", a delay such as \"5s\", or {}",
            ProbeText::expected()
        )
    }

    fn schema() -> Json {
        json!({"type": "string"})
    }
}

/// Text of a probe. A build without processes keeps it unread.
#[derive(Clone, PartialEq)]
struct ProbeText {
    text: String,
    #[cfg(feature = "process")]
    probe: Probe,
}

#[cfg(feature = "process")]
fn probe(input: Input<'_>) -> Result<Probe, Mismatch> {
    let parsed = input.text()?.parse::<Probe>();
    parsed.map_err(|error| Mismatch::new(format!("is no probe: {}", error.problem())).at(input))
}

impl fmt::Debug for ProbeText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl Value for ProbeText {
    fn read(input: Input<'_>) -> Result<Self, Mismatch> {
        let text = input.text()?;
        Ok(ProbeText {
            text: text.to_owned(),
            #[cfg(feature = "process")]
            probe: probe(input)?,
        })
    }

    fn show(&self) -> Json {
        self.text.as_str().into()
    }

    fn expected() -> String {
        "a probe: tcp:HOST:PORT, http:HOST:PORT/PATH or v1.health:/SOCKET".to_owned()
    }

    fn schema() -> Json {
        json!({"type": "string"})
    }
}

/// A build without processes keeps the word.
#[cfg(not(feature = "process"))]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum StopSignal {
    #[default]
    Term,
    Int,
    Quit,
    Hup,
    Usr1,
    Usr2,
}

#[cfg(all(test, feature = "process"))]
mod tests {
    use super::*;
    use crate::supervisor::{Kind, Spec};
    use crate::Config;
    use ron_config::Loader;

    fn services(text: &str) -> Vec<ServiceConfig> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("service.toml");
        std::fs::write(&path, text).unwrap();
        let loaded = Loader::<Config>::new("ron-kernel").file(&path).load();
        loaded.unwrap().snapshot().services.clone()
    }

    #[test]
    fn a_table_becomes_the_child_it_describes() {
        let tables = services(
            r#"
[[service]]
name = "feed"
command = "feed"
args = ["-v", "a b"]
env = { B = "2", A = "1" }
dir = "/var/lib/feed"
ready = "notify"
health = "tcp:127.0.0.1:7001"
health_interval = "1s"
health_misses = 2
after = ["db", "cache"]
restart = "temporary"
start_timeout = "20s"
stop_timeout = "3s"
stop_signal = "SIGINT"
watchdog = "30s"
optional = true
"#,
        );
        let made = Spec::Child(tables[0].child()).split(&mut Vec::new());
        let after = ["db", "cache"].map(str::to_owned);
        assert_eq!(
            (&*made.name, made.kind, &*made.after),
            ("feed", Kind::Process, &after[..])
        );
        let secs = Duration::from_secs;
        let by_hand = Child::process("feed", Command::new("feed"))
            .restart(Restart::Temporary)
            .gated(secs(20))
            .stop_timeout(secs(3))
            .watchdog(secs(30))
            .optional();
        let by_hand = Spec::Child(by_hand).split(&mut Vec::new());
        assert_eq!(made.policy, by_hand.policy);
        let command = tables[0].command();
        let set = |name: &str, value: &str| (name.into(), Some(value.into()));
        assert_eq!(command.program, "feed");
        assert_eq!(command.args, ["-v", "a b"]);
        assert_eq!(command.env, [set("A", "1"), set("B", "2")]);
        assert_eq!(command.dir, Some("/var/lib/feed".into()));
        assert_eq!(command.ready, Ready::Notified);
        assert_eq!(command.health, Some(Probe::tcp("127.0.0.1:7001")));
        assert_eq!((command.health_every, command.health_misses), (secs(1), 2));
        assert_eq!(command.stop_signal, StopSignal::Int);
    }

    #[test]
    fn a_table_that_names_only_a_program_is_what_a_command_is_but_permanent() {
        let tables = services("[[service]]\nname = \"a\"\ncommand = \"./a\"\n");
        let made = Spec::Child(tables[0].child()).split(&mut Vec::new());
        let plain = Child::process("a", Command::new("./a")).restart(Restart::Permanent);
        let plain = Spec::Child(plain).split(&mut Vec::new());
        assert_eq!((made.policy, made.after), (plain.policy, plain.after));
        let (made, plain) = (tables[0].command(), Command::new("./a"));
        assert_eq!(
            (&made.args, &made.env, &made.dir),
            (&plain.args, &plain.env, &plain.dir)
        );
        assert_eq!((&made.ready, &made.health), (&plain.ready, &plain.health));
        assert_eq!(
            (made.health_every, made.health_misses, made.stop_signal),
            (plain.health_every, plain.health_misses, plain.stop_signal)
        );
    }

    #[test]
    fn each_way_of_becoming_ready_is_read() {
        for (text, ready) in [
            ("started", Ready::Started),
            ("notify", Ready::Notified),
            ("250ms", Ready::After(Duration::from_millis(250))),
            ("tcp:127.0.0.1:1", Ready::Probed(Probe::tcp("127.0.0.1:1"))),
            (
                "http:[::1]:1/a",
                Ready::Probed(Probe::http("[::1]:1", "/a")),
            ),
            ("v1.health:/a", Ready::Probed(Probe::v1_health("/a"))),
        ] {
            let table = format!("[[service]]\nname = \"a\"\ncommand = \"a\"\nready = \"{text}\"\n");
            assert_eq!(services(&table)[0].command().ready, ready, "{text}");
        }
    }

    #[test]
    fn names_are_refused_as_the_tree_refuses_them() {
        let long = "a".repeat(129);
        for (name, legal) in [
            ("a.B_9-", true),
            (&long[1..], true),
            (&long, false),
            ("", false),
            ("a/b", false),
            ("\u{e9}", false),
        ] {
            let table = format!("[[service]]\nname = {name:?}\ncommand = \"a\"\n");
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("service.toml");
            std::fs::write(&path, table).unwrap();
            let loaded = Loader::<Config>::new("ron-kernel").file(&path).load();
            let built = crate::Kernel::builder()
                .child(Child::task(name, |_| async {}))
                .build();
            assert_eq!((loaded.is_ok(), built.is_ok()), (legal, legal), "{name}");
        }
    }
}
