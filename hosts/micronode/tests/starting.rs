//! What a node is told by flags, variables and a file, and what keeps it from starting.

#[path = "fixture/process.rs"]
mod process;

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::channel;

use process::{get, private_dir, send, Node, BINARY, PATIENCE};
use serde_json::Value;

fn command(args: &[&str], env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(args).env_clear().envs(env.iter().copied());
    command
}

/// What a node prints that ends by itself.
fn run(args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = command(args, env);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let process = command.spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&process);
    let (sender, ended) = channel();
    std::thread::spawn(move || sender.send(process.wait_with_output()));
    match ended.recv_timeout(PATIENCE) {
        Ok(output) => output.unwrap(),
        Err(_) => {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            panic!("{args:?} {env:?}: it runs instead of ending");
        }
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The value of a key and the layer it comes from, for a start with these.
fn printed(key: &str, args: &[&str], env: &[(&str, &str)]) -> (Value, Value) {
    let output = run(&[&["config", "print", "--json"], args].concat(), env);
    let text = stderr(&output);
    assert!(output.status.success(), "{args:?} {env:?}: {text}");
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let values = printed["values"].as_array().unwrap();
    let found = values.iter().find(|value| value["key"] == key).unwrap();
    (found["value"].clone(), found["origin"]["layer"].clone())
}

#[test]
fn each_short_flag_and_each_variable_sets_its_key() {
    let addr = "127.0.0.1:1234";
    for (flag, variable, key, text, value) in [
        (
            "--http-addr",
            "RON_HTTP_ADDR",
            "http.addr",
            addr,
            addr.into(),
        ),
        (
            "--metrics-addr",
            "RON_METRICS_ADDR",
            "observability.addr",
            addr,
            addr.into(),
        ),
        (
            "--amnesia",
            "RON_AMNESIA",
            "amnesia.enabled",
            "off",
            false.into(),
        ),
        (
            "--pq-mode",
            "RON_PQ_MODE",
            "pq.mode",
            "hybrid",
            Value::from("hybrid"),
        ),
    ] {
        assert_eq!(
            printed(key, &[flag, text], &[]),
            (value.clone(), "flag".into())
        );
        let joined = format!("{flag}={text}");
        assert_eq!(
            printed(key, &[&joined], &[]),
            (value.clone(), "flag".into())
        );
        let env = [(variable, text)];
        assert_eq!(printed(key, &[], &env), (value, "env".into()), "{variable}");
    }
    let env = [("RON_LOG", "warn")];
    assert_eq!(
        printed("log.level", &[], &env),
        ("warn".into(), "env".into())
    );
}

#[test]
fn a_switch_takes_six_words_or_none_and_is_on_by_default() {
    let amnesia = |args: &[&str], env: &[(&str, &str)]| printed("amnesia.enabled", args, env).0;
    assert_eq!(amnesia(&[], &[]), true);
    assert_eq!(amnesia(&["--amnesia"], &[("RON_AMNESIA", "off")]), true);
    for (word, value) in [
        ("true", true),
        ("on", true),
        ("1", true),
        ("false", false),
        ("off", false),
        ("0", false),
    ] {
        assert_eq!(amnesia(&["--amnesia", word], &[]), value, "{word}");
        assert_eq!(amnesia(&[], &[("RON_AMNESIA", word)]), value, "{word}");
    }
    let output = run(&["--amnesia", "perhaps"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("amnesia.enabled"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn flags_win_over_variables_and_those_over_the_file_that_config_names() {
    let dir = private_dir();
    let path = dir.path().join("node.toml");
    fs::write(
        &path,
        "[http]\naddr = \"127.0.0.1:1\"\n[amnesia]\nenabled = false\n",
    )
    .unwrap();
    let path = path.to_str().unwrap();
    let file = [("RON_CONFIG", path)];
    let both = [("RON_CONFIG", path), ("RON_HTTP_ADDR", "127.0.0.1:2")];
    for (args, env, expected) in [
        (&["--config", path][..], &[][..], ("127.0.0.1:1", "file")),
        (&[], &file, ("127.0.0.1:1", "file")),
        (&[], &both, ("127.0.0.1:2", "env")),
        (
            &["--http-addr", "127.0.0.1:3"],
            &both,
            ("127.0.0.1:3", "flag"),
        ),
    ] {
        let (addr, layer) = expected;
        assert_eq!(printed("http.addr", args, env), (addr.into(), layer.into()));
        assert_eq!(
            printed("amnesia.enabled", args, env),
            (false.into(), "file".into())
        );
    }
}

#[test]
fn help_and_version_need_no_keyring_and_name_what_there_is() {
    let help = String::from_utf8(run(&["--help"], &[]).stdout).unwrap();
    for word in [
        "--config PATH",
        "config validate PATH",
        "--http-addr",
        "--metrics-addr",
        "--amnesia",
        "--pq-mode",
        "RON_HTTP_ADDR",
        "RON_METRICS_ADDR",
        "RON_LOG",
        "RON_AMNESIA",
        "RON_PQ_MODE",
        "98",
    ] {
        assert!(help.contains(word), "no {word} in {help}");
    }
    let version = String::from_utf8(run(&["--version"], &[]).stdout).unwrap();
    assert!(
        version.starts_with("micronode 0.") && version.lines().count() == 1,
        "{version}"
    );
}

/// What a start refuses, `config validate` refuses.
#[test]
fn who_may_call_is_said_in_the_configuration_and_not_everybody_on_a_public_address() {
    let dir = private_dir();
    let path = dir.path().join("node.toml");
    for (text, words) in [
        ("", ["auth.keyring", "unset"]),
        (
            "[auth]\ndev_allow = true\n[http]\naddr = \"0.0.0.0:0\"\n",
            ["auth.dev_allow", "0.0.0.0:0"],
        ),
        (
            "[auth]\ndev_allow = true\nkeyring = \"/nonexistent\"\n",
            ["auth.dev_allow", "auth.keyring"],
        ),
        (
            "[auth]\ndev_allow = true\n[pq]\nmode = \"required\"\n",
            ["pq.mode", "tls.cert"],
        ),
    ] {
        fs::write(&path, text).unwrap();
        let path = path.to_str().unwrap();
        for args in [&["config", "validate", path], &["--config", path][..]] {
            let output = run(args, &[]);
            let told = stderr(&output);
            assert_eq!(output.status.code(), Some(2), "{args:?} {text}: {told}");
            assert!(output.stdout.is_empty(), "{args:?} {text}");
            assert_eq!(told.lines().count(), 1, "{told}");
            assert!(words.iter().all(|word| told.contains(word)), "{told}");
        }
    }
    fs::write(&path, "[auth]\nkeyring = \"/nonexistent\"\n").unwrap();
    let validated = run(&["config", "validate", path.to_str().unwrap()], &[]);
    assert!(
        validated.status.success(),
        "a file that is elsewhere: {}",
        stderr(&validated)
    );
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/micronode.toml");
    let validated = run(&["config", "validate", shipped], &[]);
    assert!(validated.status.success(), "{}", stderr(&validated));
}

#[test]
fn metrics_have_an_address_of_their_own_if_they_are_given_one() {
    let told = |node: &Node| {
        node.told("admin_listening")["addr"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let free = ["--http-addr", "127.0.0.1:0", "--auth.dev_allow"];
    let flag = [&free[..], &["--metrics-addr", "127.0.0.1:0"]].concat();
    let variable = [("RON_METRICS_ADDR", "127.0.0.1:0")];
    for (args, env) in [(&flag[..], &[][..]), (&free, &variable)] {
        let dir = private_dir();
        let node = Node::of(command(args, env).env("RON_RUN_DIR", dir.path()));
        let admin: SocketAddr = told(&node).parse().unwrap();
        for path in ["/metrics", "/healthz", "/livez", "/readyz", "/version"] {
            assert_eq!(get(admin, path).0, 200, "{path}");
            // What a balancer asks is answered at both; what a node is made of at one.
            let expected = if path == "/metrics" { 404 } else { 200 };
            assert_eq!(get(node.addr, path).0, expected, "{path}");
        }
        let put = "PUT /put HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n";
        assert_eq!(send(node.addr, put, b"x").0, 201);
        assert_eq!(get(admin, "/o/x").0, 404, "no objects there");
        let metrics = get(admin, "/metrics").1;
        assert!(
            metrics.contains(r#"http_requests_total{route="/put",method="PUT",status="201"} 1"#),
            "{metrics}"
        );
        assert_eq!(node.version()["features"]["serve"], true);
        assert_eq!(node.end(), 0);
        assert!(TcpStream::connect(admin).is_err());
    }
}

#[test]
fn without_an_address_of_their_own_metrics_are_on_that_of_the_service() {
    let dir = private_dir();
    let args = ["--http-addr", "127.0.0.1:0", "--auth.dev_allow"];
    let node = Node::of(command(&args, &[]).env("RON_RUN_DIR", dir.path()));
    assert!(!node
        .began
        .iter()
        .any(|line| line["event"] == "admin_listening"));
    assert_eq!(get(node.addr, "/metrics").0, 200);
    assert_eq!(listening(node.pid), [node.addr.port()]);
    assert_eq!(node.end(), 0);
}

/// Ports of IPv4 that a process listens on.
fn listening(pid: i32) -> Vec<u16> {
    let inodes: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| {
            Some(
                fs::read_link(entry.unwrap().path())
                    .ok()?
                    .display()
                    .to_string(),
            )
        })
        .collect();
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap();
    let ports = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (fields[1], fields[3], fields[9]);
        let is_own = state == "0A" && inodes.contains(&format!("socket:[{inode}]"));
        is_own.then(|| u16::from_str_radix(local.split_once(':').unwrap().1, 16).unwrap())
    });
    ports.collect()
}

#[cfg(not(feature = "otel"))]
#[test]
fn a_collector_is_refused_by_a_build_that_cannot_tell_it() {
    let dir = private_dir();
    let path = dir.path().join("node.toml");
    fs::write(&path, "[otel]\nendpoint = \"http://collector:4318\"\n").unwrap();
    let path = path.to_str().unwrap();
    let variable = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")];
    for (args, env) in [
        (&["config", "validate", path][..], &[][..]),
        (&["--auth.dev_allow", "--config", path], &[]),
        (&["--auth.dev_allow"], &variable),
    ] {
        let output = run(args, env);
        let told = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(
            told.contains("otel.endpoint") && told.contains("feature `otel`"),
            "{told}"
        );
    }
    // OpenTelemetry says that this is none.
    let unset = [("OTEL_EXPORTER_OTLP_ENDPOINT", "")];
    assert!(run(&["config", "print"], &unset).status.success());
}

#[test]
fn a_start_tells_how_many_threads_it_has() {
    let dir = private_dir();
    let args = ["--http-addr", "127.0.0.1:0", "--auth.dev_allow"];
    let threads = ["--runtime.workers", "3", "--runtime.blocking", "9"];
    let mut command = command(&[&args[..], &threads].concat(), &[]);
    let node = Node::of(command.env("RON_RUN_DIR", dir.path()));
    let line = node.told("runtime");
    assert_eq!(
        (&line["workers"], &line["blocking"]),
        (&3.into(), &9.into())
    );
    assert_eq!(node.end(), 0);
}

#[test]
fn a_taken_address_is_one_error_and_exit_98() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let dir = private_dir();
    let env = [("RON_RUN_DIR", dir.path().to_str().unwrap())];
    for (http, metrics) in [(&*taken, "127.0.0.1:0"), ("127.0.0.1:0", &*taken)] {
        let args = [
            "--auth.dev_allow",
            "--http-addr",
            http,
            "--metrics-addr",
            metrics,
        ];
        let output = run(&args, &env);
        assert_eq!(output.status.code(), Some(98), "{args:?}: {output:?}");
        let told = [output.stderr, output.stdout].concat();
        let told = String::from_utf8(told).unwrap();
        let errors = told.lines().filter(|line| line.contains(" in use"));
        let errors: Vec<_> = errors.collect();
        assert!(errors.len() == 1 && errors[0].contains(&taken), "{told}");
    }
}
