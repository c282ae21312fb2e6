//! The socket and its directory: who may use them, and what is refused before anything is served.

use crate::bed::{idle, until, workers, Bed, SERVICE};
use crate::client::Client;
use crate::golden::own_uid;
use crate::processes::{again, again_from, passed, role};
use ron_kernel::control::Control;
use ron_kernel::{Config, Kernel, KernelError, Running};
use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{chown, symlink, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tracing::field::Field;
use tracing::span::{Attributes, Id, Record};

const NOBODY: u32 = 65534;

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn try_start(control: Control) -> Result<(), KernelError> {
    let runtime = workers(1);
    let kernel = Kernel::builder()
        .name(SERVICE)
        .control(control)
        .child(idle("web"));
    runtime.block_on(async {
        let running = kernel.build().unwrap().start().await?;
        running.shutdown().await;
        Ok(())
    })
}

#[test]
fn the_directory_is_0700_the_socket_0600_and_the_socket_goes_with_the_kernel() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let runtime = workers(1);
    let (running, client) = start_in(&run, SERVICE, &runtime);
    let socket = client.path();
    assert_eq!((mode(&run), mode(socket)), (0o700, 0o600));
    let kind = fs::symlink_metadata(socket).unwrap().file_type();
    assert!(kind.is_socket(), "{kind:?}");
    assert_eq!(fs::metadata(&run).unwrap().uid(), own_uid());
    // Another name of the same socket tells whether somebody still listens.
    let link = dir.path().join("link");
    fs::hard_link(socket, &link).unwrap();
    let linked = Client::new(&link);
    assert_eq!(linked.get("/v1/about").status, 200);
    runtime.block_on(running.shutdown());
    assert!(!socket.exists());
    assert!(linked.connect().is_err(), "nobody listens any more");
}

#[test]
fn a_dropped_kernel_leaves_no_socket_either() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let runtime = workers(1);
    let running = runtime.block_on(async {
        let kernel = Kernel::builder().name(SERVICE).child(idle("web"));
        let kernel = kernel.control(Control::new().dir(&run));
        kernel.build().unwrap().start().await.unwrap()
    });
    assert_eq!(fs::read_dir(&run).unwrap().count(), 1);
    drop(running);
    until("removed", || fs::read_dir(&run).unwrap().count() == 0);
}

#[test]
fn a_runtime_that_ends_under_the_kernel_leaves_no_socket_that_answers() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let runtime = workers(1);
    let running = runtime.block_on(async {
        let kernel = Kernel::builder().name(SERVICE).child(idle("web"));
        let kernel = kernel.control(Control::new().dir(&run));
        kernel.build().unwrap().start().await.unwrap()
    });
    let instance = running.handle().bus().instance().to_owned();
    drop(runtime);
    until("gone", || {
        let client = Client::new(run.join(format!("{SERVICE}.{instance}.sock")));
        client.connect().is_err()
    });
    drop(running);
}

type Spoil = fn(&Path);

#[test]
fn a_directory_that_others_might_use_is_refused_with_its_path_and_what_would_be_right() {
    let table: &[(&str, Spoil, &[&str])] = &[
        ("mode 0755", |run| make(run, 0o755), &["0755", "0700"]),
        ("mode 0711", |run| make(run, 0o711), &["0711", "0700"]),
        (
            "sticky and open",
            |run| make(run, 0o1777),
            &["1777", "0700"],
        ),
        (
            "a symlink to a good one",
            |run| {
                make(&run.with_extension("real"), 0o700);
                symlink(run.with_extension("real"), run).unwrap();
            },
            &["symbolic link|symlink"],
        ),
        (
            "a symlink to nothing",
            |run| symlink(run.with_extension("none"), run).unwrap(),
            &["symbolic link|symlink"],
        ),
        ("a file", |run| fs::write(run, "").unwrap(), &["directory"]),
    ];
    for (what, spoil, wanted) in table {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        spoil(&run);
        let before = fs::symlink_metadata(&run).unwrap();
        refused(what, &run, wanted);
        let after = fs::symlink_metadata(&run).unwrap();
        assert_eq!(
            (before.mode(), before.uid(), before.ino()),
            (after.mode(), after.uid(), after.ino()),
            "{what}: nothing is repaired"
        );
    }
    let dir = tempfile::tempdir().unwrap();
    refused(
        "no parent",
        &dir.path().join("a/b"),
        &["no such|not exist|parent"],
    );
    let long = dir.path().join("x".repeat(120));
    refused("too long for a socket", &long, &["long|bytes"]);
}

fn make(run: &Path, mode: u32) {
    fs::create_dir(run).unwrap();
    set_mode(run, mode);
}

fn refused(what: &str, run: &Path, wanted: &[&str]) {
    let error = try_start(Control::new().dir(run)).expect_err(what);
    assert!(
        matches!(error, KernelError::Control(_)),
        "{what}: {error:?}"
    );
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    assert!(text.contains(&*run.to_string_lossy()), "{what}: {text}");
    for wanted in wanted {
        let lower = text.to_lowercase();
        assert!(
            wanted.split('|').any(|word| lower.contains(word)),
            "{what} lacks {wanted}: {text}"
        );
    }
}

#[test]
fn a_directory_of_somebody_else_is_refused() {
    if own_uid() != 0 {
        println!("skipped: giving a directory away takes root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    make(&run, 0o700);
    chown(&run, Some(NOBODY), Some(NOBODY)).unwrap();
    refused("foreign", &run, &["65534"]);
}

#[test]
fn a_directory_from_the_configuration_is_held_to_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    make(&run, 0o755);
    let mut config = Config::default();
    config.control.dir = Some(run.clone());
    let runtime = workers(1);
    let kernel = || Kernel::builder().name(SERVICE).config(config.clone());
    let start = |control| {
        let kernel = kernel().control(control).build().unwrap();
        runtime.block_on(async { kernel.start().await })
    };
    let error = start(Control::new()).expect_err("0755");
    assert!(matches!(error, KernelError::Control(_)), "{error:?}");
    let other = dir.path().join("other");
    let running = start(Control::new().dir(&other)).expect("the program's word wins");
    assert_eq!(fs::read_dir(&other).unwrap().count(), 1);
    runtime.block_on(running.shutdown());
    set_mode(&run, 0o700);
    let running = start(Control::new()).unwrap();
    assert_eq!(fs::read_dir(&run).unwrap().count(), 1);
    runtime.block_on(running.shutdown());
}

/// Prints each line of the kernel's log.
struct Log;

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target().starts_with("ron_kernel")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Fields(String);
        impl tracing::field::Visit for Fields {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                self.0 += &format!(" {}={value:?}", field.name());
            }
        }
        let mut fields = Fields(format!("LOG {}", event.metadata().level()));
        event.record(&mut fields);
        let _ = writeln!(std::io::stdout(), "{}", fields.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[test]
fn without_a_usable_default_directory_the_service_starts_and_its_log_says_why() {
    const TEST: &str =
        "socket::without_a_usable_default_directory_the_service_starts_and_its_log_says_why";
    if role().is_some() {
        tracing::subscriber::set_global_default(Log).unwrap();
        assert!(try_start(Control::new()).is_ok());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (spoil, wanted) in [
        ((|run| make(run, 0o755)) as Spoil, "control_unavailable"),
        (|run| fs::write(run, "").unwrap(), "control_unavailable"),
        (|run| make(run, 0o700), "control_listening"),
    ] {
        let run = dir.path().join("run");
        spoil(&run);
        let output = again(TEST, "start", |command| {
            command
                .env("RUNTIME_DIRECTORY", &run)
                .env_remove("RON_RUN_DIR");
        });
        let told = passed(&output);
        let line = told.lines().find(|line| line.contains(wanted));
        let line = line.unwrap_or_else(|| panic!("no {wanted}: {told}"));
        assert!(line.contains(&*run.to_string_lossy()), "{line}");
        let wanted_level = if wanted.ends_with("listening") {
            "INFO"
        } else {
            "WARN"
        };
        assert!(line.contains(wanted_level), "{line}");
        let _ = fs::remove_dir_all(&run).or_else(|_| fs::remove_file(&run));
    }
}

#[test]
fn a_foreign_user_is_refused_even_where_the_modes_let_it_in() {
    const TEST: &str = "socket::a_foreign_user_is_refused_even_where_the_modes_let_it_in";
    if let Some(socket) = role() {
        let client = Client::new(socket);
        for (method, path, body) in [
            ("POST", "/v1/children/stop", r#"{"id":"web"}"#),
            ("POST", "/v1/drain", "{}"),
            ("GET", "/v1/about", ""),
            ("GET", "/v1/nothing", ""),
            ("GET", "/v1/tail?topic=kernel", ""),
        ] {
            let answer = client.ask(method, path, body);
            assert_eq!(answer.refusal(), (403, "foreign_uid".to_owned()), "{path}");
            assert!(answer.message().contains("65534"), "{}", answer.body);
        }
        // Nor is it let in behind its first request.
        let two = "GET /v1/about HTTP/1.1\r\nHost: svc\r\n\r\n".repeat(2);
        let answer = client.send(two.as_bytes()).unwrap();
        assert_eq!(answer.status, 403, "{}", answer.body);
        return;
    }
    if own_uid() != 0 {
        println!("skipped: becoming another user takes root");
        return;
    }
    let bed = Bed::new(|kernel| kernel.child(idle("web")));
    bed.until_ready();
    let socket = bed.client.path().to_owned();
    set_mode(bed.dir(), 0o755);
    set_mode(socket.parent().unwrap(), 0o777);
    set_mode(&socket, 0o666);
    let copy = bed.dir().join("test");
    fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    set_mode(&copy, 0o755);
    let output = again_from(&copy, TEST, socket.to_str().unwrap(), |command| {
        command.uid(NOBODY).gid(NOBODY);
    });
    passed(&output);
    assert_eq!(bed.state("web"), "ready");
    let about = bed.client.get("/v1/about").json();
    assert_eq!(about["state"], "ready");
    let changes = bed.client.get("/v1/changes").json()["changes"].to_string();
    assert!(!changes.contains("command"), "{changes}");
    assert!(!changes.contains("65534"), "nothing was done: {changes}");
}

fn start_in(run: &Path, service: &str, runtime: &tokio::runtime::Runtime) -> (Running, Client) {
    let kernel = Kernel::builder().name(service).child(idle("web"));
    let kernel = kernel.control(Control::new().dir(run)).build().unwrap();
    let running = runtime.block_on(async { kernel.start().await.unwrap() });
    let instance = running.handle().bus().instance();
    let client = Client::new(run.join(format!("{service}.{instance}.sock")));
    (running, client)
}

#[test]
fn many_kernels_of_one_process_share_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let runtime = workers(2);
    // As fast as they can be started: several in one millisecond.
    let kernels: Vec<_> = (0..6)
        .map(|index| start_in(&run, ["svc", "other", "svc-b"][index % 3], &runtime))
        .collect();
    for (running, client) in &kernels {
        let about = client.get("/v1/about").expect(200);
        assert_eq!(about["instance"], running.handle().bus().instance());
    }
    let mut kernels = kernels.into_iter();
    let (first, client) = kernels.next().unwrap();
    runtime.block_on(first.shutdown());
    assert!(!client.path().exists());
    for (running, client) in kernels {
        assert_eq!(client.get("/v1/about").status, 200);
        runtime.block_on(running.shutdown());
    }
    assert_eq!(fs::read_dir(&run).unwrap().count(), 0);
}

#[test]
fn a_dead_socket_of_the_same_service_is_removed_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    make(&run, 0o700);
    let dead = |name: &str| {
        drop(UnixListener::bind(run.join(name)).unwrap());
        run.join(name)
    };
    let own = dead("svc.1a2b-19aabbccdde.sock");
    let left: Vec<PathBuf> = vec![
        dead("other.1a2b-19aabbccdde.sock"),
        dead("svc-b.1a2b-19aabbccdde.sock"),
        dead("svc2.1a2b-19aabbccdde.sock"),
        dead("svc.sock"),
        dead("svc.1a2b-19aabbccdde.socket"),
        run.join("svc.1a2b-19aabbccddf.sock"),
        run.join("svc.1a2b-19aabbccde0.sock"),
        run.join("svc.1a2b-19aabbccde1.sock"),
    ];
    fs::write(&left[5], "no socket").unwrap();
    let _live = UnixListener::bind(&left[6]).unwrap();
    symlink(&left[5], &left[7]).unwrap();
    let runtime = workers(1);
    let (running, client) = start_in(&run, SERVICE, &runtime);
    assert_eq!(client.get("/v1/about").status, 200);
    assert!(!own.exists(), "dead and ours");
    for path in &left {
        assert!(fs::symlink_metadata(path).is_ok(), "{}", path.display());
    }
    runtime.block_on(running.shutdown());
    assert_eq!(fs::read_dir(&run).unwrap().count(), left.len());
}

/// Inodes of the sockets that this process holds open.
fn own_sockets() -> BTreeSet<String> {
    let entries = fs::read_dir("/proc/self/fd").unwrap();
    entries
        .filter_map(|entry| {
            let target = fs::read_link(entry.ok()?.path()).ok()?;
            let target = target.to_str()?.strip_prefix("socket:[")?;
            Some(target.trim_end_matches(']').to_owned())
        })
        .collect()
}

/// Inodes of this process's listening sockets over TCP, and of its unbound or bound sockets over UDP.
fn listening() -> BTreeSet<String> {
    let own = own_sockets();
    let mut found = BTreeSet::new();
    for (table, listen_only) in [
        ("tcp", true),
        ("tcp6", true),
        ("udp", false),
        ("udp6", false),
    ] {
        let Ok(text) = fs::read_to_string(format!("/proc/self/net/{table}")) else {
            continue;
        };
        for line in text.lines().skip(1) {
            let fields: Vec<_> = line.split_whitespace().collect();
            if (!listen_only || fields[3] == "0A") && own.contains(fields[9]) {
                found.insert(fields[9].to_owned());
            }
        }
    }
    found
}

#[test]
fn nothing_of_it_listens_on_tcp() {
    const TEST: &str = "socket::nothing_of_it_listens_on_tcp";
    if role().is_none() {
        passed(&again(TEST, "alone", |_| ()));
        return;
    }
    let bed = Bed::new(|kernel| kernel.child(idle("web")));
    bed.until_ready();
    let _tail = bed.client.tail("topic=kernel").unwrap();
    assert_eq!(listening(), BTreeSet::new());
    let abstract_names = fs::read_to_string("/proc/self/net/unix").unwrap();
    let own = own_sockets();
    let hidden = abstract_names.lines().skip(1).filter(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        own.contains(fields[6]) && fields.get(7).is_some_and(|path| path.starts_with('@'))
    });
    assert_eq!(hidden.count(), 0, "no name without a file and its mode");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    assert_eq!(listening().len(), 1, "this would be seen");
    drop(listener);
    std::thread::sleep(Duration::from_millis(1));
}
