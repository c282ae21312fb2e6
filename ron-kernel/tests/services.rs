//! Processes that the configuration asks for: `[[service]]` tables, the preset of RustyOnions, and the children that
//! they become.

use ron_kernel::configuration::{ConfigErrors, Loaded, Loader, Schema, Settings};
use ron_kernel::supervisor::Child;
use ron_kernel::{Config, Kernel, KernelError};

/// A program that supervises services for others, as the binaries here do.
#[derive(Clone, Default)]
struct Supervisor {
    kernel: Config,
}

impl Settings for Supervisor {
    fn schema(schema: &mut Schema<Self>) {
        schema.include(|s: &mut Supervisor| &mut s.kernel);
        Config::preset_keys(schema, |s| &mut s.kernel);
    }
}

/// A configuration file of its own directory, named `service.toml` in messages.
struct Bed {
    dir: tempfile::TempDir,
}

impl Bed {
    fn new(text: &str) -> Bed {
        let bed = Bed {
            dir: tempfile::tempdir().unwrap(),
        };
        bed.write(text);
        bed
    }

    /// Writes a file that looks as if written long ago, so that it is read at once.
    fn write(&self, text: &str) {
        let path = self.dir.path().join("service.toml");
        std::fs::write(&path, text).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
        file.set_modified(long_ago).unwrap();
    }

    fn load(&self) -> Result<Loaded<Supervisor>, ConfigErrors> {
        let path = self.dir.path().join("service.toml");
        Loader::new("ron-kernel").file(path).load()
    }
}

fn from_env(env: &[(&str, &str)]) -> Result<Loaded<Supervisor>, ConfigErrors> {
    let pairs = env.iter().map(|(name, value)| (*name, *value));
    Loader::new("ron-kernel").env(pairs).load()
}

fn idle(name: &str) -> Child {
    Child::task(name, |cx| async move { cx.stopping().await })
}

fn kernel(loaded: &Loaded<Supervisor>) -> Result<Kernel, KernelError> {
    Kernel::builder()
        .loaded_with(loaded, |s| s.kernel.clone())
        .child(idle("heartbeat"))
        .build()
}

fn refusal(loaded: &Loaded<Supervisor>) -> KernelError {
    kernel(loaded).map(drop).unwrap_err()
}

/// Each defect as `LINE:COLUMN KEY: PROBLEM[; did you mean ..]`.
fn defects(errors: &ConfigErrors) -> Vec<String> {
    let one = |diagnostic: &ron_kernel::configuration::Diagnostic| {
        let place = diagnostic.place().rsplit_once(".toml:").unwrap().1;
        let mut line = format!("{place} {}: {}", diagnostic.key(), diagnostic.what());
        if let Some(meant) = diagnostic.did_you_mean() {
            line.push_str(&format!("; did you mean `{meant}`?"));
        }
        line
    };
    errors.iter().map(one).collect()
}

/// The shipped configuration with its examples in force.
fn uncommented() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/ron-kernel.toml");
    let shipped = std::fs::read_to_string(path).unwrap();
    let live = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.is_empty() && !rest.starts_with(' ') => format!("{rest}\n"),
        _ => format!("{line}\n"),
    };
    shipped.lines().map(live).collect()
}

#[cfg(feature = "process")]
#[test]
fn all_defects_of_all_tables_are_told_at_once_with_their_places() {
    let bed = Bed::new(
        r#"
[[service]]
name = "a b"
comand = "a"
[[service]]
name = "c"
command = ""
args = "one"
env = { A = 1 }
ready = "notfy"
health = "http:127.0.0.1/healthz"
health_interval = 5
after = ["d"]
restart = "always"
start_timeout = "0s"
stop_signal = "SIGTREM"
watchdog = "1ms"
optional = "no"
[[service]]
name = "e"
command = "e"
ready = "10s"
watchdog = "1s"
health_interval = "1s"
health_misses = 2
after = ["e"]
env = { "A=B" = "c" }
listen = ["tcp:localhost:80", "unix:run/e.sock", "udp:127.0.0.1:1"]
[[service]]
name = "f"
command = "f"
ready = "tcp:127.0.0.1:80"
health = "tcp:127.0.0.1:80"
listen = ["unix:/run/f.sock", "tcp:127.0.0.1:80"]
"#,
    );
    let told = defects(&bed.load().unwrap_err());
    let expected = [
        "2:1 service[0].command: missing",
        "3:8 service[0].name: \"a b\" is no child name; use 1 to 128 of A-Z a-z 0-9 . _ -",
        "4:1 service[0].comand: unknown key; did you mean `service[0].command`?",
        "7:11 service[1].command: is empty; name a program",
        "8:8 service[1].args: found the text \"one\"",
        "9:7 service[1].env: A is no text; write it in quotes",
        "10:9 service[1].ready: found the text \"notfy\"; did you mean `notify`?",
        "11:10 service[1].health: is no probe: no port behind `127.0.0.1`",
        "12:19 service[1].health_interval: 5 is a bare number and needs a unit",
        "14:11 service[1].restart: found the text \"always\"",
        "15:17 service[1].start_timeout: 0ms is out of range",
        "16:15 service[1].stop_signal: found the text \"SIGTREM\"",
        "17:12 service[1].watchdog: 1ms is out of range",
        "18:12 service[1].optional: found the text \"no\"",
        "22:9 service[2].ready: is 10s after the start, but start_timeout is 10s",
        "23:12 service[2].watchdog: is set, but ready is not \"notify\"",
        "24:19 service[2].health_interval: is set without health",
        "25:17 service[2].health_misses: is set without health",
        "26:9 service[2].after: `e` cannot start after itself",
        "27:7 service[2].env: \"A=B\" cannot be a variable",
        "28:11 service[2].listen: found the text \"tcp:localhost:80\"",
        "28:31 service[2].listen: found the text \"unix:run/e.sock\"",
        "28:50 service[2].listen: found the text \"udp:127.0.0.1:1\"",
        "32:9 service[3].ready: would always succeed, since listen keeps that address open; ask by http",
        "33:10 service[3].health: would always succeed, since listen keeps that address open; ask by http",
    ];
    assert_eq!(told, expected);
}

#[cfg(feature = "process")]
#[test]
fn what_only_the_whole_tree_can_tell_is_told_when_the_kernel_is_built() {
    let table = |name: &str, rest: &str| {
        format!("[[service]]\nname = \"{name}\"\ncommand = \"true\"\n{rest}\n")
    };
    let twice = Bed::new(&(table("a", "") + &table("b", "") + &table("a", "")));
    let told = defects(&twice.load().map(drop).unwrap_err());
    assert_eq!(
        told,
        ["1:1 service: service[0] and service[2] are both named `a`"]
    );
    for (text, words) in [
        (table("heartbeat", ""), "two children are named `heartbeat`"),
        (
            table("a", "after = [\"hartbeat\"]"),
            "`a` starts after `hartbeat`, which does not exist",
        ),
        (
            table("a", "after = [\"b\"]") + &table("b", "after = [\"a\"]"),
            "start order is a cycle",
        ),
        (
            format!("preset = \"rustyonions\"\n{}", table("svc-index", "")),
            "two children are named `svc-index`",
        ),
    ] {
        let loaded = Bed::new(&text).load().unwrap();
        let error = refusal(&loaded);
        assert!(error.to_string().contains(words), "{text}: {error}");
        assert_eq!(error.exit_code(), 2, "{text}");
    }
}

#[test]
fn the_shipped_examples_are_valid_and_show_every_key() {
    let text = uncommented();
    let bed = Bed::new(&text);
    let loaded = bed.load().unwrap();
    if cfg!(feature = "process") {
        kernel(&loaded).unwrap();
    }
    let printed = loaded.print();
    let of_tables = |key: &str| Some(key.split_once("].")?.1.to_owned());
    let keys = printed.values().iter();
    let keys: Vec<String> = keys.filter_map(|value| of_tables(value.key())).collect();
    assert!(keys.len() > 20, "{keys:?}");
    for key in keys {
        assert!(text.contains(&format!("\n{key} = ")), "no {key}");
    }
}

const FULL: &str = r#"
[[service]]
name = "thumbs"
command = "./thumbs"
args = ["-v", "--level=2"]
env = { TOKEN = "hunter2", CACHE = "64MiB" }
ready = "v1.health:/run/thumbs.sock"
health = "tcp:127.0.0.1:7001"
health_interval = "2s"
listen = ["tcp:127.0.0.1:7002", "unix:/run/t.sock"]
[[service]]
name = "feed"
command = "feed"
after = ["thumbs"]
ready = "5s"
restart = "transient"
optional = true
"#;

#[test]
fn config_print_shows_tables_with_their_origins_and_no_value_of_a_variable() {
    let bed = Bed::new(FULL);
    let loaded = bed.load().unwrap();
    let printed = loaded.print().to_string();
    let dir = format!("{}/", bed.dir.path().display());
    let tables = printed
        .split_once("[[service]]")
        .unwrap()
        .1
        .replace(&dir, "");
    let golden = r#"
name = "thumbs"  # service.toml:3:8
command = "./thumbs"  # service.toml:4:11
args = ["-v", "--level=2"]  # service.toml:5:8
env = { "CACHE" = "***", "TOKEN" = "***" }  # service.toml:6:7
dir = "unset"  # default
ready = "v1.health:/run/thumbs.sock"  # service.toml:7:9
health = "tcp:127.0.0.1:7001"  # service.toml:8:10
health_interval = "2s"  # service.toml:9:19
health_misses = 3  # default
after = []  # default
restart = "permanent"  # default
start_timeout = "10s"  # default
stop_timeout = "2s"  # default
stop_signal = "SIGTERM"  # default
watchdog = "unset"  # default
optional = false  # default
listen = ["tcp:127.0.0.1:7002", "unix:/run/t.sock"]  # service.toml:10:10

[[service]]
name = "feed"  # service.toml:12:8
command = "feed"  # service.toml:13:11
args = []  # default
env = {}  # default
dir = "unset"  # default
ready = "5s"  # service.toml:15:9
health = "unset"  # default
health_interval = "5s"  # default
health_misses = 3  # default
after = ["thumbs"]  # service.toml:14:9
restart = "transient"  # service.toml:16:11
start_timeout = "10s"  # default
stop_timeout = "2s"  # default
stop_signal = "SIGTERM"  # default
watchdog = "unset"  # default
optional = true  # service.toml:17:12
listen = []  # default

[rustyonions]
index.bin = "svc-index"  # default
index.sock = "/tmp/ron/svc-index.sock"  # default
overlay.bin = "svc-overlay"  # default
overlay.sock = "/tmp/ron/svc-overlay.sock"  # default
storage.bin = "svc-storage"  # default
storage.sock = "/tmp/ron/svc-storage.sock"  # default
"#;
    assert_eq!(tables, golden);
    let everything = format!(
        "{:?} {:#} {:?}",
        loaded.snapshot().kernel,
        loaded.print().to_json(),
        printed
    );
    assert!(everything.contains("CACHE") && !everything.contains("hunter2"));
}

#[test]
fn a_reload_lists_changed_tables_and_presets_as_needing_a_restart() {
    let bed = Bed::new(FULL);
    let loaded = bed.load().unwrap();
    assert!(loaded.reload().unwrap().is_unchanged());
    // One value of a variable is a change too, though nobody is shown which.
    for (text, key) in [
        (FULL.replace("hunter2", "hunter3"), "service"),
        (FULL.replace("5s", "6s"), "service"),
        (
            format!("{FULL}[[service]]\nname = \"z\"\ncommand = \"z\"\n"),
            "service",
        ),
        (format!("preset = \"rustyonions\"\n{FULL}"), "preset"),
    ] {
        bed.write(&text);
        let report = loaded.reload().unwrap();
        assert_eq!(report.needs_restart(), [key], "{text}");
        assert!(report.applied().is_empty());
        assert!(!report.to_json().to_string().contains("hunter"));
        let kernel = &loaded.snapshot().kernel;
        let names: Vec<&str> = kernel.services.iter().map(|one| one.name()).collect();
        assert_eq!(names, ["thumbs", "feed"]);
        assert!(kernel.preset_services(&loaded).is_empty());
    }
    bed.write("[[service]]\nname = \"a\"\ncommand = \"\"\n");
    let refused = loaded.reload().unwrap_err();
    assert_eq!(
        defects(&refused),
        ["3:11 service[0].command: is empty; name a program"]
    );
}

#[cfg(not(feature = "process"))]
#[test]
fn a_build_without_processes_refuses_what_asks_for_them() {
    let table =
        Bed::new("[[service]]\nname = \"a\"\ncommand = \"a\"\nready = \"tcp:127.0.0.1:1\"\n");
    for (loaded, key) in [
        (table.load().unwrap(), "`service`"),
        (from_env(&[("RON_INDEX_SOCK", "/x")]).unwrap(), "`preset`"),
    ] {
        let error = refusal(&loaded);
        let text = error.to_string();
        assert!(
            text.starts_with(key) && text.contains("no feature `process`"),
            "{text}"
        );
        assert_eq!(error.exit_code(), 2);
    }
}

const VARIABLES: [&str; 6] = [
    "RON_SVC_INDEX_BIN",
    "RON_INDEX_SOCK",
    "RON_SVC_OVERLAY_BIN",
    "RON_OVERLAY_SOCK",
    "RON_SVC_STORAGE_BIN",
    "RON_STORAGE_SOCK",
];

fn preset_rows(loaded: &Loaded<Supervisor>) -> Vec<String> {
    let services = loaded.snapshot().kernel.preset_services(loaded);
    services.iter().map(ToString::to_string).collect()
}

#[test]
fn without_its_variables_there_is_no_preset() {
    let loaded = from_env(&[("PATH", "/bin"), ("RON_BUS_CAPACITY", "64")]).unwrap();
    assert!(preset_rows(&loaded).is_empty());
    assert!(loaded
        .print()
        .to_string()
        .contains("preset = \"none\"  # default\n"));
}

#[test]
fn each_variable_alone_brings_all_three_services() {
    for set in VARIABLES {
        let loaded = from_env(&[(set, "/x")]).unwrap();
        let preset = loaded.explain("preset").unwrap();
        assert_eq!(*preset.value(), "rustyonions", "{set}");
        assert_eq!(preset.origin().to_string(), format!("env {set}"));
        let row = |child: &str, bin: &str, sock: &str| {
            let of = |name: &str, default: String| {
                if name == set {
                    format!("\"/x\" (env {set}")
                } else {
                    format!("{default:?} (default")
                }
            };
            let program = of(bin, child.to_owned());
            let socket = of(sock, format!("/tmp/ron/{child}.sock"));
            format!("preset rustyonions: {child} is {program}), asked at {socket})")
        };
        let expected = [
            row("svc-index", VARIABLES[0], VARIABLES[1]),
            row("svc-overlay", VARIABLES[2], VARIABLES[3]),
            row("svc-storage", VARIABLES[4], VARIABLES[5]),
        ];
        assert_eq!(preset_rows(&loaded), expected);
    }
}

#[test]
fn all_variables_together_and_empty_ones_are_taken_as_they_are() {
    let all: Vec<(&str, &str)> = VARIABLES.iter().map(|name| (*name, *name)).collect();
    let loaded = from_env(&all).unwrap();
    let mut expected = String::from("[rustyonions]\n");
    for (key, name) in ["index", "overlay", "storage"]
        .iter()
        .zip(VARIABLES.chunks(2))
    {
        let (bin, sock) = (name[0], name[1]);
        expected +=
            &format!("{key}.bin = \"{bin}\"  # env {bin}\n{key}.sock = \"{sock}\"  # env {sock}\n");
    }
    let printed = loaded.print().to_string();
    assert!(printed.ends_with(&expected), "{printed}");
    let empty = from_env(&[("RON_SVC_INDEX_BIN", ""), ("RON_INDEX_SOCK", "")]).unwrap();
    assert_eq!(
        preset_rows(&empty)[0],
        "preset rustyonions: svc-index is \"\" (env RON_SVC_INDEX_BIN), asked at \"\" (env RON_INDEX_SOCK)"
    );
}

#[test]
fn the_preset_can_be_asked_for_by_name_and_its_keys_are_never_ignored() {
    let by_name = Bed::new("preset = \"rustyonions\"\n[rustyonions]\nindex.bin = \"./index\"\n");
    let loaded = by_name.load().unwrap();
    let rows = preset_rows(&loaded);
    assert!(
        rows[0].contains("svc-index is \"./index\" (") && rows[0].contains("service.toml:3:13"),
        "{rows:?}"
    );
    let alone = Bed::new("[rustyonions]\nindex.bin = \"./index\"\n");
    assert_eq!(
        defects(&alone.load().map(drop).unwrap_err()),
        ["2:13 rustyonions.index.bin: is set without preset = \"rustyonions\""]
    );
    let against = from_env(&[("RON_PRESET", "none"), ("RON_SVC_INDEX_BIN", "x")]);
    assert!(against
        .map(drop)
        .unwrap_err()
        .to_string()
        .contains("is set without preset"));
    let off = from_env(&[("RON_PRESET", "none")]).unwrap();
    assert!(preset_rows(&off).is_empty());
    let slip = from_env(&[("RON_SVC_INDX_BIN", "x")])
        .map(drop)
        .unwrap_err();
    assert_eq!(
        slip.iter().next().unwrap().did_you_mean(),
        Some("RON_SVC_INDEX_BIN")
    );
}

/// A host that contains a kernel and is no supervisor of other services.
#[test]
fn a_program_without_the_preset_keys_does_not_follow_the_variables() {
    let pairs = VARIABLES.map(|name| (name, "/x"));
    let loaded = Loader::<Config>::new("host").env(pairs).load().unwrap();
    assert!(loaded.snapshot().preset_services(&loaded).is_empty());
    assert!(loaded.explain("preset").is_err());
}

#[cfg(feature = "process")]
#[tokio::test]
async fn sockets_are_open_from_start_to_end_of_the_kernel_and_no_longer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("web.sock");
    let bed = Bed::new(&format!(
        "[[service]]\nname = \"web\"\ncommand = \"sleep\"\nargs = [\"1000\"]\nlisten = [\"unix:{}\"]\n",
        path.display()
    ));
    let loaded = bed.load().unwrap();
    let built = kernel(&loaded).unwrap();
    assert!(!path.exists(), "building takes nothing");
    let running = built.start().await.unwrap();
    let handle = running.handle().clone();
    handle.ready().await;
    std::os::unix::net::UnixStream::connect(&path).unwrap();
    let second = kernel(&loaded)
        .unwrap()
        .start()
        .await
        .map(drop)
        .unwrap_err();
    assert_eq!(second.exit_code(), 98, "{second}");
    running.shutdown().await;
    assert!(!path.exists(), "nothing is left");
    // Nor does what a killed one left keep the next from starting.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let next = kernel(&loaded).unwrap().start().await.unwrap();
    next.shutdown().await;
    drop(handle);
}

/// The binary in this build: with processes it runs the preset, else it says what it lacks before anything runs.
#[cfg(unix)]
#[test]
fn ron_kernel_follows_the_variables_or_says_that_it_cannot() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    let mut running = Command::new(env!("CARGO_BIN_EXE_ron-kernel"))
        .env_clear()
        .envs([
            ("PATH", "/bin:/usr/bin"),
            ("RON_SVC_INDEX_BIN", "/bin/false"),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = Vec::new();
    let output = BufReader::new(running.stdout.take().unwrap());
    for line in output.lines() {
        let line: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
        if line["event"] == "child_quarantined" && line["child"] == "svc-index" {
            let kill = format!("kill -TERM {}", running.id());
            assert!(Command::new("sh")
                .args(["-c", &kill])
                .status()
                .unwrap()
                .success());
        }
        lines.push(line);
    }
    let code = running.wait().unwrap().code();
    let told = |event: &str| lines.iter().filter(|line| line["event"] == event).count();
    assert_eq!(told("preset_service"), 3, "{lines:#?}");
    if cfg!(feature = "process") {
        assert_eq!(code, Some(0), "{lines:#?}");
        assert_eq!(told("shutdown_report"), 1);
    } else {
        assert_eq!(code, Some(2), "{lines:#?}");
        let error = lines.iter().find(|line| line["level"] == "error").unwrap();
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("`preset` is set, but this build has no feature `process`"));
    }
}
