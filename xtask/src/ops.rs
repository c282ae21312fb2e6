//! docs/ops: the systemd unit, the image and the Kubernetes manifest against each other, the configurations they come
//! with, and the program: it is run once with what they rely on.

mod rehearsal;
mod yaml;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::workspace::{output, Workspace};
use crate::Report;

const DIR: &str = "docs/ops";
const UNIT: &str = "ron-kernel.service";
/// What the unit's configuration is called, here and where it is installed.
const FILE: &str = "ron-kernel.toml";
const INSTALLED: &str = "/etc/ron/ron-kernel.toml";
const PROGRAM: &str = "ron-kernel-demo";
/// What `docker stop` grants unless told otherwise.
const DOCKER_STOP: Duration = Duration::from_secs(10);

/// What the pages rely on in the kernel.
#[derive(Debug, Clone)]
struct Kernel {
    /// Silence of the workers after which `/livez` is 503.
    stalled_after: Duration,
    /// What an exit may take beyond the drain.
    exit_slack: Duration,
    /// Of the admin listener unless configured.
    port: u16,
    version: String,
}

/// A configuration as the program reads it.
#[derive(Debug, Clone)]
struct Settings {
    linger: Duration,
    deadline: Duration,
    addr: SocketAddr,
    chaos: bool,
}

impl Settings {
    /// From `config print --json`.
    fn of(printed: &str) -> Result<Settings> {
        let printed: Value = serde_json::from_str(printed)?;
        let values: BTreeMap<&str, &Value> = printed["values"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|value| Some((value["key"].as_str()?, &value["value"])))
            .collect();
        let value = |key: &str| {
            let value = values.get(key).copied();
            value.with_context(|| format!("the program prints no `{key}`"))
        };
        let length = |key: &str| {
            let text = value(key)?.as_str().and_then(span);
            text.with_context(|| format!("`{key}` is no duration"))
        };
        Ok(Settings {
            linger: length("drain.linger")?,
            deadline: length("drain.deadline")?,
            addr: value("observability.addr")?
                .as_str()
                .unwrap_or_default()
                .parse()?,
            chaos: value("chaos.armed")?.as_bool().unwrap_or(true),
        })
    }

    /// When the process has ended, from SIGTERM on.
    fn ends(&self, kernel: &Kernel) -> Duration {
        self.linger + self.deadline + kernel.exit_slack
    }
}

/// A length of time as systemd, the kernel and Docker write it.
fn span(text: &str) -> Option<Duration> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let number: u64 = text[..digits].parse().ok()?;
    let millis = match &text[digits..] {
        "ms" => 1,
        "" | "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    Some(Duration::from_millis(number * millis))
}

/// `const NAME: Duration = Duration::from_secs(N);` in a source.
fn seconds_of(source: &str, name: &str) -> Option<Duration> {
    let head = format!("const {name}: Duration = Duration::from_secs(");
    let number = source.split_once(&head)?.1.split_once(')')?.0;
    Some(Duration::from_secs(number.parse().ok()?))
}

/// Adds a fault unless `holds`.
fn demand(faults: &mut Vec<String>, holds: bool, fault: impl FnOnce() -> String) {
    if !holds {
        faults.push(fault());
    }
}

/// A systemd unit: the assignments of each section in order.
struct Unit(Vec<(String, String, String)>);

impl Unit {
    fn parse(text: &str) -> Unit {
        let mut section = String::new();
        let mut assignments = Vec::new();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            match (line.strip_prefix('['), line.split_once('=')) {
                (Some(name), _) => section = name.trim_end_matches(']').to_string(),
                (None, Some((key, value))) => {
                    let (key, value) = (key.trim().to_string(), value.trim().to_string());
                    assignments.push((section.clone(), key, value));
                }
                // systemd-analyze says it better.
                (None, None) => {}
            }
        }
        Unit(assignments)
    }

    /// What is in force: of several assignments the last.
    fn get(&self, section: &str, key: &str) -> Option<&str> {
        let found = self.0.iter().rev();
        let mut found = found.filter(|(of, name, _)| of == section && name == key);
        found.next().map(|(_, _, value)| value.as_str())
    }

    fn span(&self, key: &str) -> Duration {
        let value = self.get("Service", key);
        value.and_then(span).unwrap_or_default()
    }
}

/// What the unit must say. Everything that has a number is judged apart.
const UNIT_SAYS: [(&str, &str, &str); 16] = [
    ("Service", "Type", "notify-reload"),
    ("Service", "NotifyAccess", "main"),
    ("Service", "Restart", "on-failure"),
    ("Service", "RestartPreventExitStatus", "2"),
    ("Service", "KillMode", "mixed"),
    ("Service", "Delegate", "yes"),
    ("Service", "OOMPolicy", "continue"),
    ("Service", "RuntimeDirectory", "ron"),
    ("Service", "RuntimeDirectoryMode", "0700"),
    ("Service", "NoNewPrivileges", "yes"),
    ("Service", "ProtectSystem", "strict"),
    ("Service", "PrivateTmp", "yes"),
    // Read-only cgroups would weaken the containment of process children.
    ("Service", "ProtectControlGroups", "no"),
    (
        "Service",
        "Environment",
        "RON_CONFIG=/etc/ron/ron-kernel.toml",
    ),
    ("Install", "WantedBy", "multi-user.target"),
    // The runbook stops it by both names.
    ("Install", "Alias", "ron-kernel-demo.service"),
];

fn judge_unit(text: &str, settings: &Settings, kernel: &Kernel) -> Vec<String> {
    let unit = Unit::parse(text);
    let mut faults = Vec::new();
    for (section, key, expected) in UNIT_SAYS {
        let found = unit.get(section, key).unwrap_or_default();
        demand(&mut faults, found == expected, || {
            format!("[{section}] {key}=`{found}`, expected `{expected}`")
        });
    }
    let start = unit.get("Service", "ExecStart").unwrap_or_default();
    let program = Path::new(start).file_name().unwrap_or_default();
    demand(&mut faults, program == PROGRAM, || {
        format!("ExecStart=`{start}` is not {PROGRAM} without arguments")
    });
    let user = unit.get("Service", "User").unwrap_or_default();
    demand(&mut faults, !["", "root", "0"].contains(&user), || {
        "User= is missing or root".to_string()
    });
    demand(
        &mut faults,
        unit.get("Service", "ExecReload").is_none(),
        || "ExecReload= would signal a second time: Type=notify-reload has done it".to_string(),
    );
    let (stop, ends) = (unit.span("TimeoutStopSec"), settings.ends(kernel));
    demand(&mut faults, stop > ends, || {
        format!("TimeoutStopSec {stop:?} is not above the {ends:?} that a stop takes")
    });
    // The manager's patience with the thread that reports must not be less than the kernel's with its workers.
    let (watchdog, least) = (unit.span("WatchdogSec"), 2 * kernel.stalled_after);
    demand(&mut faults, watchdog >= least, || {
        format!("WatchdogSec {watchdog:?} is below {least:?}, twice what /livez waits")
    });
    for key in ["TimeoutStartSec", "RestartSec"] {
        demand(&mut faults, !unit.span(key).is_zero(), || {
            format!("{key}= is missing or no time")
        });
    }
    faults
}

/// What systemd-analyze says of the unit beyond what an old one cannot know.
fn judge_verify(said: &str, systemd: u32) -> Vec<String> {
    let unknown_type = "Failed to parse service type, ignoring: notify-reload";
    let mut faults: Vec<String> = said
        .lines()
        .filter(|line| !(systemd < 253 && line.ends_with(unknown_type)))
        .filter_map(|line| line.split_once(UNIT))
        .map(|(_, what)| format!("systemd-analyze: {DIR}/{UNIT}{what}"))
        .collect();
    // It reads the file more than once.
    faults.sort();
    faults.dedup();
    faults
}

/// A Dockerfile: the words of each instruction, and the stage it is in.
struct Image(Vec<(usize, String, String)>);

impl Image {
    fn parse(text: &str) -> Image {
        let mut instructions = Vec::new();
        let mut stage = 0;
        let mut whole = String::new();
        for line in text.lines() {
            if line.trim_start().starts_with('#') || whole.is_empty() && line.trim().is_empty() {
                continue;
            }
            if let Some(begun) = line.trim().strip_suffix('\\') {
                whole.push_str(begun.trim());
                whole.push(' ');
                continue;
            }
            whole.push_str(line.trim());
            let (name, rest) = whole.split_once(' ').unwrap_or((&whole, ""));
            if name == "FROM" {
                stage += 1;
            }
            instructions.push((stage, name.to_string(), rest.trim().to_string()));
            whole.clear();
        }
        Image(instructions)
    }

    fn all(&self, name: &'static str) -> impl Iterator<Item = (usize, &str)> {
        let found = self.0.iter().filter(move |(_, found, _)| found == name);
        found.map(|(stage, _, rest)| (*stage, rest.as_str()))
    }

    /// The last instruction of that name in the last stage.
    fn last(&self, name: &'static str) -> &str {
        let last = self.all("FROM").count();
        let found = self.all(name).filter(|(stage, _)| *stage == last);
        found.last().map_or("", |(_, rest)| rest)
    }

    /// The words of an instruction in exec form; none in shell form.
    fn exec(&self, name: &'static str) -> Vec<String> {
        let words = self.last(name);
        let list = words.find('[').map_or("", |at| &words[at..]);
        serde_json::from_str(list).unwrap_or_default()
    }

    fn env(&self) -> BTreeMap<&str, &str> {
        let words = self
            .all("ENV")
            .flat_map(|(_, words)| words.split_whitespace());
        words.filter_map(|word| word.split_once('=')).collect()
    }
}

/// Whether an image's name says on which host it lies.
fn names_host(image: &str) -> bool {
    let host = image.split_once('/').map_or("", |(host, _)| host);
    host.contains(['.', ':']) || host == "localhost"
}

fn judge_image(
    text: &str,
    settings: &Settings,
    kernel: &Kernel,
    exists: impl Fn(&str) -> bool,
) -> Vec<String> {
    let image = Image::parse(text);
    let mut faults = Vec::new();
    let mut stages = Vec::new();
    let mut systems: Vec<&str> = Vec::new();
    for (_, from) in image.all("FROM") {
        let mut words = from.split_whitespace();
        let base = words.next().unwrap_or_default();
        demand(&mut faults, !names_host(base), || {
            format!("FROM {base} names a host")
        });
        let tag = base.split_once(':').map_or("", |(_, tag)| tag);
        demand(&mut faults, !["", "latest"].contains(&tag), || {
            format!("FROM {base} has no tag that stays")
        });
        systems.extend(
            ["bookworm", "trixie"]
                .iter()
                .filter(|is| tag.contains(**is)),
        );
        stages.push(words.last().unwrap_or_default());
    }
    demand(&mut faults, stages.len() == 2, || {
        format!("{} stages instead of two", stages.len())
    });
    demand(
        &mut faults,
        systems.len() == stages.len() && systems.windows(2).all(|pair| pair[0] == pair[1]),
        || format!("the stages are of different Debians: {systems:?}"),
    );
    for (stage, words) in image.all("COPY") {
        let (options, paths): (Vec<&str>, Vec<&str>) = words
            .split_whitespace()
            .partition(|word| word.starts_with("--"));
        let from = options
            .iter()
            .find_map(|option| option.strip_prefix("--from="));
        let sources = &paths[..paths.len().saturating_sub(1)];
        demand(&mut faults, !sources.is_empty(), || {
            format!("COPY {words}: nowhere to")
        });
        match from {
            Some(from) => demand(
                &mut faults,
                stages[..stage - 1].contains(&from) && !from.is_empty(),
                || format!("COPY {words}: no stage `{from}` before"),
            ),
            None => faults.extend(
                sources
                    .iter()
                    .filter(|source| !exists(source))
                    .map(|source| format!("COPY {words}: there is no `{source}`")),
            ),
        }
    }
    let builds = image.all("RUN").any(|(_, words)| {
        let build = format!("cargo build --locked --release --package {PROGRAM}");
        words.contains(&build)
    });
    demand(&mut faults, builds, || {
        "no RUN builds the program with --locked --release".to_string()
    });
    let runs = image.last("RUN");
    demand(&mut faults, runs.contains(" tini "), || {
        "the last stage does not install tini".to_string()
    });
    let path = format!("/usr/local/bin/{PROGRAM}");
    let entry = image.exec("ENTRYPOINT");
    demand(
        &mut faults,
        entry == ["/usr/bin/tini", "--", path.as_str()],
        || format!("ENTRYPOINT is not tini before {path} in exec form: {entry:?}"),
    );
    let probe = image.exec("HEALTHCHECK");
    demand(&mut faults, probe.first() == Some(&path), || {
        format!("HEALTHCHECK is not {path} in exec form: {probe:?}")
    });
    let user = image.last("USER").split(':').next().unwrap_or_default();
    demand(
        &mut faults,
        user.parse::<u32>().is_ok_and(|user| user != 0),
        || format!("USER `{user}` is root or no number"),
    );
    demand(&mut faults, image.last("STOPSIGNAL") == "SIGTERM", || {
        "STOPSIGNAL is not SIGTERM".to_string()
    });
    let port = settings.addr.port();
    demand(
        &mut faults,
        image.last("EXPOSE") == port.to_string() && port == kernel.port,
        || format!("EXPOSE is not the port {port} of container.toml and the program"),
    );
    demand(&mut faults, settings.addr.ip().is_unspecified(), || {
        format!("container.toml listens on {}", settings.addr)
    });
    let ends = settings.ends(kernel);
    demand(&mut faults, DOCKER_STOP > ends, || {
        format!("container.toml: a stop takes {ends:?}, `docker stop` kills after {DOCKER_STOP:?}")
    });
    let installs = format!("docs/ops/container.toml {INSTALLED}");
    demand(&mut faults, image.last("COPY") == installs, || {
        format!("the last COPY is not `{installs}`")
    });
    for name in image
        .env()
        .into_keys()
        .filter(|name| *name != "RON_RUN_DIR")
    {
        faults.push(format!("ENV {name} would win over a mounted configuration"));
    }
    faults
}

/// A Kubernetes manifest, its objects by kind.
struct Manifest(BTreeMap<String, Value>);

impl Manifest {
    fn parse(text: &str) -> Result<Manifest, String> {
        let objects = yaml::documents(text)?.into_iter();
        let objects = objects.map(|object| (word(&object["kind"]).to_string(), object));
        Ok(Manifest(objects.collect()))
    }

    fn kind(&self, kind: &str) -> &Value {
        self.0.get(kind).unwrap_or(&Value::Null)
    }

    fn pod(&self) -> &Value {
        &self.kind("Deployment")["spec"]["template"]["spec"]
    }

    fn container(&self) -> &Value {
        &self.pod()["containers"][0]
    }

    fn config(&self) -> &str {
        word(&self.kind("ConfigMap")["data"][FILE])
    }

    /// Path and port of a probe.
    fn probe(&self, name: &str) -> (&str, &str) {
        let get = &self.container()[name]["httpGet"];
        (word(&get["path"]), word(&get["port"]))
    }

    fn pre_stop(&self) -> Vec<&str> {
        let command = &self.container()["lifecycle"]["preStop"]["exec"]["command"];
        command.as_array().into_iter().flatten().map(word).collect()
    }
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn seconds(value: &Value) -> Duration {
    Duration::from_secs(value.as_u64().unwrap_or_default())
}

/// The probes with the route each has to ask.
const PROBES: [(&str, &str); 3] = [
    ("startupProbe", "/livez"),
    // Not /healthz, which is 200 while there is a process; not /readyz, which a restart does not mend.
    ("livenessProbe", "/livez"),
    ("readinessProbe", "/readyz"),
];

fn judge_manifest(
    manifest: &Manifest,
    settings: &Settings,
    kernel: &Kernel,
    image: &Image,
    unit: &Unit,
) -> Vec<String> {
    let mut faults = Vec::new();
    let deployment = manifest.kind("Deployment");
    let (pod, container) = (manifest.pod(), manifest.container());

    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    let selectors = [
        ("Deployment", "/spec/selector/matchLabels"),
        ("Service", "/spec/selector"),
        ("PodDisruptionBudget", "/spec/selector/matchLabels"),
    ];
    for (kind, path) in selectors {
        let selector = manifest.kind(kind).pointer(path);
        demand(
            &mut faults,
            labels.is_object() && selector == Some(labels),
            || format!("{kind} does not select the pods' labels"),
        );
    }

    let ports = container["ports"].as_array().cloned().unwrap_or_default();
    let port = ports.iter().find(|port| port["name"] == "admin");
    demand(
        &mut faults,
        port.is_some_and(|port| port["containerPort"] == settings.addr.port())
            && settings.addr.port() == kernel.port,
        || "port `admin` is not that of the ConfigMap and the program".to_string(),
    );
    demand(&mut faults, settings.addr.ip().is_unspecified(), || {
        format!("the ConfigMap listens on {}", settings.addr)
    });
    let service = &manifest.kind("Service")["spec"]["ports"][0];
    demand(
        &mut faults,
        service["targetPort"] == "admin" && service["port"] == kernel.port,
        || "the Service does not lead to port `admin`".to_string(),
    );
    for (name, path) in PROBES {
        let found = manifest.probe(name);
        demand(&mut faults, found == (path, "admin"), || {
            format!("{name} asks {found:?}, expected {path} of port `admin`")
        });
    }

    let probe = &container["readinessProbe"];
    let misses = probe["failureThreshold"].as_u64().unwrap_or(3) as u32;
    let seen = seconds(&probe["periodSeconds"]) * misses + seconds(&probe["timeoutSeconds"]);
    let linger = settings.linger;
    demand(&mut faults, !seen.is_zero() && linger > seen, || {
        format!("drain.linger {linger:?} ends before the readiness probe has seen it ({seen:?})")
    });
    let hook = manifest.pre_stop();
    let script = hook.last().copied().unwrap_or_default();
    let bound = script.strip_prefix("timeout ");
    let bound = bound.and_then(|rest| span(rest.split(' ').next()?));
    demand(&mut faults, !script.contains("sleep"), || {
        "preStop sleeps; drain.linger does that".to_string()
    });
    match bound {
        None => faults.push("preStop has no `timeout` of its own".to_string()),
        Some(bound) => {
            let grace = seconds(&pod["terminationGracePeriodSeconds"]);
            let ends = bound + settings.ends(kernel);
            demand(&mut faults, grace > ends, || {
                format!(
                    "terminationGracePeriodSeconds {grace:?} is not above the {ends:?} of a stop"
                )
            });
        }
    }
    let (start, progress) = (
        unit.span("TimeoutStartSec"),
        seconds(&deployment["spec"]["progressDeadlineSeconds"]),
    );
    demand(&mut faults, start == progress, || {
        format!("progressDeadlineSeconds {progress:?} is not the unit's TimeoutStartSec {start:?}")
    });

    let user = image.last("USER").split(':').next().unwrap_or_default();
    let says = [
        (pod, "/securityContext/runAsNonRoot", Value::Bool(true)),
        (
            pod,
            "/securityContext/runAsUser",
            Value::from(user.parse::<u32>().unwrap_or_default()),
        ),
        (
            pod,
            "/securityContext/seccompProfile/type",
            Value::from("RuntimeDefault"),
        ),
        (pod, "/automountServiceAccountToken", Value::Bool(false)),
        (pod, "/enableServiceLinks", Value::Bool(false)),
        (
            container,
            "/securityContext/readOnlyRootFilesystem",
            Value::Bool(true),
        ),
        (
            container,
            "/securityContext/allowPrivilegeEscalation",
            Value::Bool(false),
        ),
        (
            container,
            "/securityContext/capabilities/drop/0",
            Value::from("ALL"),
        ),
        (
            container,
            "/image",
            Value::from(format!("{PROGRAM}:{}", kernel.version)),
        ),
    ];
    for (object, path, expected) in says {
        let found = object.pointer(path).unwrap_or(&Value::Null);
        demand(&mut faults, *found == expected, || {
            format!("{path} is {found}, expected {expected}")
        });
    }
    for path in [
        "/resources/requests/cpu",
        "/resources/requests/memory",
        "/resources/limits/memory",
    ] {
        demand(&mut faults, container.pointer(path).is_some(), || {
            format!("{path} is missing")
        });
    }
    faults.extend(judge_volumes(manifest, image));
    faults
}

/// Where the ConfigMap and the control socket come to lie.
fn judge_volumes(manifest: &Manifest, image: &Image) -> Vec<String> {
    let mut faults = Vec::new();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let volumes = list(&manifest.pod()["volumes"]);
    let mounts = list(&manifest.container()["volumeMounts"]);
    for mount in &mounts {
        let known = volumes.iter().any(|volume| volume["name"] == mount["name"]);
        demand(&mut faults, known, || {
            format!("{} is mounted and no volume", mount["name"])
        });
        demand(&mut faults, mount["subPath"].is_null(), || {
            format!("{} is mounted by subPath and never renewed", mount["name"])
        });
    }
    let mounted = |is: &dyn Fn(&Value) -> bool| {
        let volume = volumes.iter().find(|volume| is(volume))?;
        let mount = mounts
            .iter()
            .find(|mount| mount["name"] == volume["name"])?;
        Some(PathBuf::from(word(&mount["mountPath"])))
    };
    let name = &manifest.kind("ConfigMap")["metadata"]["name"];
    let config = mounted(&|volume| volume["configMap"]["name"] == *name);
    demand(
        &mut faults,
        config.is_some_and(|dir| dir.join(FILE) == Path::new(INSTALLED)),
        || format!("the ConfigMap is not mounted as {INSTALLED}"),
    );
    let sockets = Path::new(image.env().get("RON_RUN_DIR").copied().unwrap_or_default());
    let run = mounted(&|volume| {
        let is_empty = volume["emptyDir"].is_object();
        is_empty
            && mounts.iter().any(|mount| {
                let at = Path::new(word(&mount["mountPath"]));
                mount["name"] == volume["name"] && sockets.parent() == Some(at)
            })
    });
    demand(&mut faults, run.is_some(), || {
        let sockets = sockets.display();
        format!("RON_RUN_DIR `{sockets}` of the image is not directly below an emptyDir")
    });
    faults
}

/// What the operator's page says in numbers.
fn judge_page(page: &str, unit: &Unit, manifest: &Manifest, kernel: &Kernel) -> Vec<String> {
    let mut faults = Vec::new();
    let (stop, grace) = (
        unit.span("TimeoutStopSec"),
        seconds(&manifest.pod()["terminationGracePeriodSeconds"]),
    );
    let watchdog = unit.span("WatchdogSec");
    let (first, last) = (
        kernel.stalled_after + watchdog / 2,
        kernel.stalled_after + watchdog,
    );
    for said in [
        format!("\n| {} s | | SIGKILL", stop.as_secs()),
        format!("\n| {} s | | SIGKILL", grace.as_secs()),
        format!("SIGABRT {} to {} s after", first.as_secs(), last.as_secs()),
        format!(
            "no worker has polled for {} s",
            kernel.stalled_after.as_secs()
        ),
        format!(
            "`TimeoutStartSec` ({} min)",
            unit.span("TimeoutStartSec").as_secs() / 60
        ),
    ] {
        demand(&mut faults, page.contains(&said), || {
            format!("README.md does not say `{}`", said.trim())
        });
    }
    faults
}

/// The program with nothing of this environment that would configure it.
fn program(binary: &Path) -> Command {
    let mut command = Command::new(binary);
    command.stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        let own = ["RON_", "NOTIFY_", "WATCHDOG_", "LISTEN_", "RUST_LOG"];
        if own
            .iter()
            .any(|head| name.to_string_lossy().starts_with(head))
        {
            command.env_remove(name);
        }
    }
    command
}

/// What systemd says of the unit with a program that exists; nothing where there is no systemd-analyze.
fn verify(unit: &str, binary: &Path, dir: &Path) -> Result<Option<(u32, Vec<String>)>> {
    let Ok(version) = output(Command::new("systemd-analyze").arg("--version")) else {
        return Ok(None);
    };
    let systemd = version
        .split_whitespace()
        .nth(1)
        .and_then(|text| {
            text.split(|c: char| !c.is_ascii_digit())
                .next()?
                .parse()
                .ok()
        })
        .context("systemd-analyze --version says no number")?;
    let installed = format!("ExecStart=/usr/local/bin/{PROGRAM}");
    let present = format!("ExecStart={}", binary.display());
    let file = dir.join(UNIT);
    std::fs::write(&file, unit.replace(&installed, &present))?;
    let done = Command::new("systemd-analyze")
        .args(["--man=no", "verify"])
        .arg(&file)
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&done.stderr);
    Ok(Some((systemd, judge_verify(&said, systemd))))
}

pub(crate) fn run(workspace: &Workspace, _: bool) -> Result<Report> {
    let mut report = Report::default();
    let root = &workspace.root;
    output(
        Command::new("cargo")
            .current_dir(root)
            .args(["build", "--quiet", "-p", PROGRAM]),
    )?;
    let binary = workspace.binaries().join(PROGRAM);
    let dir = workspace.scratch("ops");
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir)?;

    let page = |name: &str| workspace.read(&format!("{DIR}/{name}"));
    let (unit_text, image_text) = (page(UNIT)?, page("Dockerfile")?);
    let (unit, image) = (Unit::parse(&unit_text), Image::parse(&image_text));
    let manifest = match Manifest::parse(&page("kubernetes.yaml")?) {
        Ok(manifest) => manifest,
        Err(fault) => {
            report.faults.push(format!("kubernetes.yaml: {fault}"));
            return Ok(report);
        }
    };
    let config = dir.join("configmap.toml");
    std::fs::write(&config, manifest.config())?;

    let settings = |file: &Path| -> Result<Settings> {
        output(program(&binary).args(["config", "validate"]).arg(file))?;
        let printed = output(
            program(&binary)
                .arg("--config")
                .arg(file)
                .args(["config", "print", "--json"]),
        )?;
        Settings::of(&printed).with_context(|| file.display().to_string())
    };
    let empty = dir.join("empty.toml");
    std::fs::write(&empty, "")?;
    let const_of = |file: &str, name: &str| {
        let found = seconds_of(&workspace.read(file)?, name);
        found.with_context(|| format!("{file}: no `const {name}` in seconds"))
    };
    let kernel = Kernel {
        stalled_after: const_of("ron-metrics/src/health.rs", "STALLED_AFTER")?,
        exit_slack: const_of("ron-kernel/src/run.rs", "EXIT_SLACK")?,
        port: settings(&empty)?.addr.port(),
        version: workspace
            .package(PROGRAM)
            .context("no such package")?
            .version
            .clone(),
    };
    let of_unit = settings(&root.join(DIR).join(FILE))?;
    let of_image = settings(&root.join(DIR).join("container.toml"))?;
    let of_manifest = settings(&config)?;
    let armed = [&of_unit, &of_image, &of_manifest];
    demand(
        &mut report.faults,
        armed.iter().all(|settings| !settings.chaos),
        || "a configuration for production arms chaos".to_string(),
    );

    let in_tree = |source: &str| root.join(source).exists();
    let judged = [
        (UNIT, judge_unit(&unit_text, &of_unit, &kernel)),
        (
            "Dockerfile",
            judge_image(&image_text, &of_image, &kernel, in_tree),
        ),
        (
            "kubernetes.yaml",
            judge_manifest(&manifest, &of_manifest, &kernel, &image, &unit),
        ),
        (
            "README.md",
            judge_page(&page("README.md")?, &unit, &manifest, &kernel),
        ),
    ];
    for (name, faults) in judged {
        let faults = faults.into_iter();
        report
            .faults
            .extend(faults.map(|fault| format!("{DIR}/{name}: {fault}")));
    }
    match verify(&unit_text, &binary, &dir)? {
        None => report
            .facts
            .push("no systemd-analyze here: the unit is not verified".to_string()),
        Some((systemd, faults)) => {
            report.facts.push(format!("verified by systemd {systemd}"));
            report.faults.extend(faults);
        }
    }
    if !report.faults.is_empty() {
        return Ok(report);
    }
    let play = rehearsal::Play {
        dir: &dir,
        binary: &binary,
        config: &config,
        watchdog: unit.span("WatchdogSec"),
        probes: PROBES.map(|(probe, _)| manifest.probe(probe).0),
        health_check: image.exec("HEALTHCHECK"),
        pre_stop: manifest.pre_stop(),
        patience: of_manifest.ends(&kernel),
    };
    report.faults = play.perform()?;
    if report.faults.is_empty() {
        report
            .facts
            .push("the program does what unit, image and manifest rely on".to_string());
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED_UNIT: &str = include_str!("../../docs/ops/ron-kernel.service");
    const SHIPPED_IMAGE: &str = include_str!("../../docs/ops/Dockerfile");
    const SHIPPED_MANIFEST: &str = include_str!("../../docs/ops/kubernetes.yaml");
    const SHIPPED_PAGE: &str = include_str!("../../docs/ops/README.md");

    fn kernel() -> Kernel {
        Kernel {
            stalled_after: Duration::from_secs(10),
            exit_slack: Duration::from_secs(1),
            port: 9909,
            version: "0.1.0".to_string(),
        }
    }

    fn settings(linger: u64, deadline: u64, addr: &str) -> Settings {
        Settings {
            linger: Duration::from_secs(linger),
            deadline: Duration::from_secs(deadline),
            addr: addr.parse().unwrap(),
            chaos: false,
        }
    }

    fn of_unit(text: &str) -> Vec<String> {
        judge_unit(text, &settings(0, 5, "127.0.0.1:9909"), &kernel())
    }

    fn of_image(text: &str) -> Vec<String> {
        let exists = |path: &str| [".", "docs/ops/container.toml"].contains(&path);
        judge_image(text, &settings(0, 5, "0.0.0.0:9909"), &kernel(), exists)
    }

    fn of_manifest(text: &str) -> Vec<String> {
        let (image, unit) = (Image::parse(SHIPPED_IMAGE), Unit::parse(SHIPPED_UNIT));
        match Manifest::parse(text) {
            Ok(manifest) => {
                let settings = settings(5, 5, "0.0.0.0:9909");
                judge_manifest(&manifest, &settings, &kernel(), &image, &unit)
            }
            Err(fault) => vec![fault],
        }
    }

    /// What is shipped has no fault, and each of the changes has the one that is expected of it.
    fn each_change_is_a_fault(
        shipped: &str,
        judge: impl Fn(&str) -> Vec<String>,
        changes: &[(&str, &str, &str)],
    ) {
        assert_eq!(judge(shipped), Vec::<String>::new());
        for (from, to, expected) in changes {
            assert!(shipped.contains(from), "`{from}` is not shipped");
            let faults = judge(&shipped.replace(from, to));
            assert!(
                faults.iter().any(|fault| fault.contains(expected)),
                "`{from}` -> `{to}`: {faults:?}"
            );
        }
    }

    #[test]
    fn a_unit_that_was_changed_for_the_worse_is_reported() {
        each_change_is_a_fault(
            SHIPPED_UNIT,
            of_unit,
            &[
                ("Type=notify-reload\n", "", "Type=`notify`"),
                ("\nDelegate=yes", "\n#Delegate=yes", "Delegate=``"),
                (
                    "ProtectControlGroups=no",
                    "ProtectControlGroups=yes",
                    "ProtectControlGroups=`yes`",
                ),
                ("=0700", "=0755", "RuntimeDirectoryMode=`0755`"),
                ("KillMode=mixed", "KillMode=control-group", "KillMode"),
                ("PreventExitStatus=2", "PreventExitStatus=1", "Prevent"),
                ("TimeoutStopSec=20s", "TimeoutStopSec=6s", "above the 6s"),
                ("TimeoutStopSec=20s\n", "", "TimeoutStopSec 0ns"),
                ("WatchdogSec=30s", "WatchdogSec=19s", "below 20s"),
                ("WatchdogSec=30s", "WatchdogSec=soon", "below 20s"),
                ("TimeoutStartSec=5min\n", "", "TimeoutStartSec="),
                ("User=ron", "User=root", "User="),
                ("/ron-kernel-demo\n", "/ron-kernel-demo -c x\n", "ExecStart"),
                ("RestartSec=2s\n", "RestartSec=2s\nExecReload=x\n", "Reload"),
                ("Alias=ron-kernel-demo.service", "", "[Install] Alias"),
            ],
        );
    }

    #[test]
    fn an_image_that_was_changed_for_the_worse_is_reported() {
        each_change_is_a_fault(
            SHIPPED_IMAGE,
            of_image,
            &[
                (
                    "debian:bookworm-slim",
                    "debian:trixie-slim",
                    "different Debians",
                ),
                ("rust:1-bookworm", "h.example/rust:1-bookworm", "a host"),
                ("debian:bookworm-slim", "debian", "no tag"),
                ("FROM rust:1-bookworm AS build\n", "", "1 stages"),
                ("--from=build", "--from=builder", "no stage `builder`"),
                ("COPY . .", "COPY src .", "there is no `src`"),
                ("ops/container.toml", "ops/other.toml", "no `docs/ops/other"),
                ("--locked --release", "--release", "--locked --release"),
                ("recommends tini", "recommends init", "install tini"),
                (
                    "[\"/usr/bin/tini\", \"--\", ",
                    "[",
                    "ENTRYPOINT is not tini",
                ),
                (
                    "ENTRYPOINT [\"/usr/bin/tini\",",
                    "ENTRYPOINT tini",
                    "exec form",
                ),
                (
                    "CMD [\"/usr/local/bin/ron-kernel-demo\",",
                    "CMD [\"curl\",",
                    "HEALTHCHECK",
                ),
                ("USER 10001:10001", "USER 0:0", "USER `0` is root"),
                ("USER 10001:10001", "USER ron", "USER `ron`"),
                ("STOPSIGNAL SIGTERM", "STOPSIGNAL SIGKILL", "STOPSIGNAL"),
                ("EXPOSE 9909", "EXPOSE 9990", "EXPOSE"),
                (
                    "ENV RON_RUN_DIR",
                    "ENV RON_DRAIN_LINGER=1s RON_RUN_DIR",
                    "would win",
                ),
            ],
        );
        let exists = |_: &str| true;
        let slow = settings(5, 5, "127.0.0.1:9909");
        let faults = judge_image(SHIPPED_IMAGE, &slow, &kernel(), exists);
        assert!(faults.iter().any(|fault| fault.contains("kills after 10s")));
        assert!(faults
            .iter()
            .any(|fault| fault.contains("listens on 127.0.0.1")));
    }

    #[test]
    fn a_manifest_that_was_changed_for_the_worse_is_reported() {
        each_change_is_a_fault(
            SHIPPED_MANIFEST,
            of_manifest,
            &[
                ("path: /readyz", "path: /healthz", "readinessProbe asks"),
                ("path: /livez", "path: /healthz", "livenessProbe asks"),
                (
                    "          startupProbe:",
                    "          startupProb:",
                    "startupProbe asks",
                ),
                ("containerPort: 9909", "containerPort: 9990", "port `admin`"),
                ("port: 9909", "port: 9990", "the Service does not lead"),
                ("PeriodSeconds: 20", "PeriodSeconds: 14", "above the 14s"),
                (
                    "periodSeconds: 2\n",
                    "periodSeconds: 5\n",
                    "before the readiness probe",
                ),
                ("timeout 3 ron", "timeout 12 ron", "above the 23s"),
                ("timeout 3 ron", "ron", "no `timeout`"),
                ("timeout 3 ron", "sleep 5; timeout 3 ron", "preStop sleeps"),
                ("Seconds: 300", "Seconds: 600", "TimeoutStartSec 300s"),
                (
                    "runAsNonRoot: true",
                    "runAsNonRoot: false",
                    "runAsNonRoot is false",
                ),
                ("runAsUser: 10001", "runAsUser: 1000", "runAsUser is 1000"),
                (
                    "readOnlyRootFilesystem: true",
                    "readOnly: true",
                    "readOnlyRoot",
                ),
                ("RuntimeDefault", "Unconfined", "seccompProfile"),
                (
                    "enableServiceLinks: false",
                    "enableServiceLinks: true",
                    "Links",
                ),
                ("drop: [\"ALL\"]", "drop: []", "capabilities"),
                ("demo:0.1.0", "demo:0.2.0", "/image is"),
                ("limits:", "limit:", "/resources/limits/memory"),
                ("mountPath: /run/ron", "mountPath: /run/x", "RON_RUN_DIR"),
                (
                    "mountPath: /etc/ron",
                    "mountPath: /etc/x",
                    "is not mounted as",
                ),
                (
                    "mountPath: /etc/ron",
                    "subPath: x\n              mountPath: /etc/ron",
                    "subPath",
                ),
                (
                    "- name: tmp\n              mount",
                    "- name: var\n              mount",
                    "no volume",
                ),
                (
                    "kind: PodDisruptionBudget",
                    "kind: PDB",
                    "PodDisruptionBudget does not",
                ),
                (
                    "        app.kubernetes.io/name: ron-kernel\n    spec",
                    "        a: b\n    spec",
                    "Deployment does not",
                ),
                (
                    "replicas: 2",
                    "replicas: 2\n  replicas: 3",
                    "is there twice",
                ),
            ],
        );
        let manifest = Manifest::parse(SHIPPED_MANIFEST).unwrap();
        let (image, unit) = (Image::parse(SHIPPED_IMAGE), Unit::parse(SHIPPED_UNIT));
        let closed = settings(3, 5, "127.0.0.1:9909");
        let faults = judge_manifest(&manifest, &closed, &kernel(), &image, &unit);
        assert!(faults.iter().any(|fault| fault.contains("ends before")));
        assert!(faults
            .iter()
            .any(|fault| fault.contains("listens on 127.0.0.1")));
    }

    #[test]
    fn the_page_has_the_numbers_of_the_files() {
        let manifest = Manifest::parse(SHIPPED_MANIFEST).unwrap();
        let of = |unit: &str| judge_page(SHIPPED_PAGE, &Unit::parse(unit), &manifest, &kernel());
        assert_eq!(of(SHIPPED_UNIT), Vec::<String>::new());
        for (from, to, expected) in [
            (
                "TimeoutStopSec=20s",
                "TimeoutStopSec=25s",
                "| 25 s | | SIGKILL",
            ),
            (
                "WatchdogSec=30s",
                "WatchdogSec=1min",
                "SIGABRT 40 to 70 s after",
            ),
            ("TimeoutStartSec=5min", "TimeoutStartSec=10min", "(10 min)"),
        ] {
            let faults = of(&SHIPPED_UNIT.replace(from, to));
            assert!(faults[0].contains(expected), "{faults:?}");
        }
    }

    #[test]
    fn an_old_systemd_may_not_know_the_reloading_type_and_nothing_else() {
        let old =
            "/x/ron-kernel.service:21: Failed to parse service type, ignoring: notify-reload\n\
                   other.service:3: Unknown key 'X' in section [Service], ignoring.\n";
        assert_eq!(judge_verify(old, 252), Vec::<String>::new());
        assert_eq!(judge_verify(old, 253).len(), 1);
        let broken =
            "/x/ron-kernel.service:9: Unknown key 'Delegat' in section [Service], ignoring.\n";
        assert!(judge_verify(broken, 252)[0].contains("Delegat"));
    }

    #[test]
    fn lengths_of_time_are_read_in_every_spelling() {
        for (text, expected) in [
            ("250ms", Some(250)),
            ("20", Some(20_000)),
            ("20s", Some(20_000)),
            ("5min", Some(300_000)),
            ("1m", Some(60_000)),
            ("1h", Some(3_600_000)),
            ("s", None),
            ("1 s", None),
            ("infinity", None),
        ] {
            assert_eq!(span(text), expected.map(Duration::from_millis), "{text}");
        }
        let source = "pub const A: Duration = Duration::from_secs(10);";
        assert_eq!(seconds_of(source, "A"), Some(Duration::from_secs(10)));
        assert_eq!(seconds_of(source, "B"), None);
    }

    #[test]
    fn settings_are_read_as_the_program_prints_them() {
        let printed = |value: &str| {
            format!(
                r#"{{"values":[{{"key":"drain.linger","value":"{value}"}},
                {{"key":"drain.deadline","value":"1m"}},{{"key":"chaos.armed","value":false}},
                {{"key":"observability.addr","value":"[::]:1"}}]}}"#
            )
        };
        let settings = Settings::of(&printed("5s")).unwrap();
        assert_eq!(settings.ends(&kernel()), Duration::from_secs(66));
        assert!(settings.addr.ip().is_unspecified() && !settings.chaos);
        assert!(Settings::of(&printed("5")).is_ok());
        assert!(Settings::of(&printed("")).is_err());
        assert!(Settings::of("{}").is_err());
    }
}
